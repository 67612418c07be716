//! `tcpwatch explain KIND`: the runbook of a kind, in a pager on a terminal.

use std::io::{self, Write as _};

use super::{Exit, pager::Pager};
use crate::runbooks::runbook;

pub(super) fn explain(name: &str) -> Exit {
    let Some(text) = runbook(name) else {
        return Exit::usage(&format!("no runbook has the name `{name}`"));
    };
    if Pager::start().is_some_and(|pager| pager.show(text)) {
        return Exit::Ok;
    }
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => Exit::Ok,
        Err(error) => Exit::failed(&error),
    }
}
