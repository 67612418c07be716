//! Whether a stream is to be written to in colour: the one place that decides.

use std::{
    env,
    ffi::{OsStr, OsString},
    io::IsTerminal,
};

/// Colour goes to terminals only. `NO_COLOR` (<https://no-color.org>) and `TERM=dumb` switch it
/// off.
#[must_use]
pub(crate) fn coloured(stream: &impl IsTerminal) -> bool {
    decide(stream.is_terminal(), env::var_os("NO_COLOR"), env::var_os("TERM").as_deref())
}

fn decide(is_terminal: bool, no_colour: Option<OsString>, term: Option<&OsStr>) -> bool {
    let switched_off = no_colour.is_some_and(|value| !value.is_empty());
    is_terminal && !switched_off && term.is_none_or(|term| term != "dumb")
}

#[cfg(test)]
mod tests {
    use super::decide;

    #[test]
    fn colour_is_for_terminals_that_do_not_refuse_it() {
        let term = Some("xterm".as_ref());
        assert!(decide(true, None, term));
        assert!(decide(true, None, None));
        assert!(decide(true, Some("".into()), term));
        assert!(!decide(true, Some("1".into()), term));
        assert!(!decide(true, None, Some("dumb".as_ref())));
        assert!(!decide(false, None, term));
    }
}
