//! Which sockets are judged together, and how a group is named.

pub(crate) mod destinations;
pub(crate) mod held;
pub(crate) mod owners;
pub(crate) mod peers;
pub(crate) mod port_users;
pub(crate) mod queued;
