//! `tcpwatch config check FILE` and `tcpwatch config default`.

use std::{io::Write, path::Path};

use super::Exit;
use crate::{config::Config, kernel, plain, publish::WallClock};

pub(super) fn check(file: &Path) -> Exit {
    match Config::load(file) {
        Ok(mut config) => {
            let path = plain::path(file);
            let today = WallClock::at(kernel::now()).today();
            let ended = config.end_entries(today).into_iter();
            let ended: String = ended.map(|it| format!("{path}: {it}\n")).collect();
            print(&format!("{ended}{path}: OK\n"))
        }
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
