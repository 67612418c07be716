//! tcpwatch watches TCP on a Linux host and says what is wrong with it, and whose fault it is.
//!
//! The way of the data is one direction, and so is this list of modules:
//! [`kernel`] makes [`facts`], the [`engine`] judges them, [`publish`] shows what it found, the
//! [`agent`] joins the three in one loop, and [`cli`] starts it. [`config`] holds all that can be
//! set. An [`incident`] is a stream of facts that was recorded, to be judged again. What strangers
//! have named goes through [`plain`] before a person reads it.

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
