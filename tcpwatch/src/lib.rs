//! tcpwatch watches TCP on a Linux host and says what is wrong with it, and which process causes
//! it.
//!
//! Data flows in one direction, and so does this list of modules:
//! [`kernel`] makes [`facts`], the [`engine`] judges them, [`publish`] shows its findings. The
//! [`agent`] joins the three in one loop, and [`cli`] starts it. [`config`] holds all that can be
//! set. An [`incident`] is a stream of facts that was recorded, to be judged again. Names of
//! foreign origin go through [`plain`] before a person reads them.

pub mod agent;
pub mod cli;
pub mod config;
pub mod engine;
pub mod facts;
pub mod incident;
pub mod kernel;
pub mod plain;
pub mod publish;
mod regular_file;
pub mod runbooks;
