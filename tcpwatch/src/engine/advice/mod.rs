//! Remedies, and the words that all kinds share: commands, names, numbers.

pub(crate) mod command;
pub(crate) mod giving_up;
pub(crate) mod half_open;
pub(crate) mod names;
pub(crate) mod reserved_ports;
pub(crate) mod text;
pub(crate) mod this_host;
pub(crate) mod tw_reuse;
