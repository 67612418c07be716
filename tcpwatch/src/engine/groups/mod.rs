//! Which sockets are judged together, and how a group is named.

pub(crate) mod destinations;
pub(crate) mod held;
pub(crate) mod queued;
