//! `tcpwatch config check FILE` and `tcpwatch config default`.

use std::{io::Write, path::Path};

use super::{Exit, exit::plain};
use crate::config::Config;

pub(super) fn check(file: &Path) -> Exit {
    match Config::load(file) {
        Ok(_) => print(&format!("{}: OK\n", plain(&file.display().to_string()))),
        Err(error) => Exit::config(&error),
    }
}

pub(super) fn print_default() -> Exit {
    print(&Config::default_toml())
}

fn print(text: &str) -> Exit {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => Exit::Ok,
        Err(error) => Exit::failed(&error),
    }
}
