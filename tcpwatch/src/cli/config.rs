//! `tcpwatch config check [FILE] [--web.config.file FILE]` and `tcpwatch config default`.

use std::{io::Write, path::Path};

use super::Exit;
use crate::{
    config::{Config, ConfigError},
    kernel, plain,
    publish::{Access, WallClock},
};

pub(super) fn check(file: Option<&Path>, web: Option<&Path>) -> Exit {
    let said = file.map_or(Ok(String::new()), check_file);
    let said = said.and_then(|said| match web {
        Some(web) => Access::load(web).map(|_| format!("{said}{}: OK\n", plain::path(web))),
        None => Ok(said),
    });
    match said {
        Ok(said) => print(&said),
        Err(error) => Exit::config(&error),
    }
}

/// The line for a good file, after one for each entry in it that has ended.
fn check_file(file: &Path) -> Result<String, ConfigError> {
    let mut config = Config::load(file)?;
    let path = plain::path(file);
    let today = WallClock::at(kernel::now()).today();
    let ended = config.end_entries(today).into_iter();
    let ended: String = ended.map(|it| format!("{path}: {it}\n")).collect();
    Ok(format!("{ended}{path}: OK\n"))
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
