//! Words that the kinds share.

use std::{borrow::Cow, time::Duration};

use crate::{
    engine::finding::{Finding, Subject},
    facts::Process,
};

/// How long the ids of containers and pods are that name a namespace.
const SHORT_ID_BYTES: usize = 12;

/// `nginx (pid 12)`, or "an unknown process".
pub(crate) fn named(process: Option<&Process>) -> String {
    match process {
        Some(process) => named_as(&process.name, process.pid),
        None => "an unknown process".to_owned(),
    }
}

/// `nginx (pid 12)`; a process may have taken its name off.
pub(crate) fn named_as(name: &str, pid: u32) -> String {
    let name = if name.is_empty() { "a process without a name" } else { name };
    format!("{name} (pid {pid})")
}

/// ` in network namespace NAME`, nothing for the host's own.
pub(crate) fn in_netns(netns: &str) -> String {
    match netns {
        "host" => String::new(),
        "" => " in an unnamed network namespace".to_owned(),
        name => format!(" in network namespace {name}"),
    }
}

/// `1 socket`, `2 sockets`, `2 processes`.
pub(crate) fn count(number: u64, noun: &str) -> String {
    match number {
        1 => format!("1 {noun}"),
        _ if noun.ends_with('s') => format!("{number} {noun}es"),
        _ => format!("{number} {noun}s"),
    }
}

/// `text` up to `most` characters, with an ellipsis where there were more.
pub(crate) fn shorten(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Replaces what would break a line or drive a terminal: a process may name itself as it likes
/// (`PR_SET_NAME` takes any byte), and so may who mounts a namespace.
pub(crate) fn keep_plain(finding: &mut Finding) {
    let make_plain = |text: &mut String| {
        if text.contains(is_unprintable) {
            *text = text.replace(is_unprintable, "?");
        }
    };
    let texts = [&mut finding.title, &mut finding.explanation];
    texts.into_iter().chain(&mut finding.remedies).for_each(make_plain);
    finding.evidence.change_texts(&make_plain);
}

/// Controls, line and paragraph separators, and those that turn the direction of text.
fn is_unprintable(character: char) -> bool {
    character.is_control() || matches!(character, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// `name` as one word of a shell's command line, in single quotes where it needs them.
fn shell_word(name: &str) -> Cow<'_, str> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:@+%/".contains(&byte);
    if name.bytes().all(is_plain) {
        return name.into();
    }
    format!("'{}'", name.replace('\'', r"'\''")).into()
}

/// A duration as a person says it: `45 s`, `12 min`, `3 h 20 min`, `2 d 4 h`.
pub(crate) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h {} min", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

/// The command that runs in the subject's network namespace.
pub(crate) fn in_its_namespace(subject: &Subject, command: &str) -> String {
    match (&*subject.netns, subject.pid) {
        ("host", _) => command.to_owned(),
        (_, Some(pid)) => format!("nsenter -t {pid} -n {command}"),
        ("", None) => format!("{command} (in that network namespace)"),
        // `ip netns` knows bind mounts alone, and the runtimes make none under /run/netns.
        (id, None) if is_short_id(id) => {
            format!("nsenter -t PID -n {command} (PID: any process of container or pod {id})")
        }
        (name, None) => format!("ip netns exec {} {command}", shell_word(name)),
    }
}

/// Whether it looks like a container's or pod's id, cut to 12 characters: `0123456789ab`,
/// `1a2b3c4d-5e6`, `1a2b3c4d_5e6`.
fn is_short_id(name: &str) -> bool {
    let is_of_id = |(at, byte): (usize, u8)| {
        byte.is_ascii_hexdigit() || at == 8 && matches!(byte, b'-' | b'_')
    };
    name.len() == SHORT_ID_BYTES && name.bytes().enumerate().all(is_of_id)
}

/// How to restart the subject's service, if that is known.
pub(crate) fn restart(subject: &Subject) -> Option<String> {
    subject
        .unit
        .as_ref()
        .filter(|unit| unit.ends_with(".service"))
        .map(|unit| format!("systemctl restart {}", shell_word(unit)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_a_person_says_them() {
        let said = |seconds| duration(Duration::from_secs(seconds));
        assert_eq!(said(0), "0 s");
        assert_eq!(said(119), "119 s");
        assert_eq!(said(120), "2 min");
        assert_eq!(said(7_199), "119 min");
        assert_eq!(said(7_200), "2 h 0 min");
        assert_eq!(said(172_800), "2 d 0 h");
    }

    #[test]
    fn a_name_is_one_word_of_a_command_whatever_it_contains() {
        assert_eq!(shell_word("nginx@1.service"), "nginx@1.service");
        assert_eq!(shell_word(r"dev-disk\x2d1.service"), r"'dev-disk\x2d1.service'");
        assert_eq!(shell_word("a b's"), r"'a b'\''s'");
    }

    #[test]
    fn a_command_is_run_in_the_namespace_by_a_way_that_leads_there() {
        let of = |netns: &str, pid| Subject { netns: netns.into(), pid, ..Subject::default() };
        let said = |netns, pid| in_its_namespace(&of(netns, pid), "ss -t");
        assert_eq!(said("host", None), "ss -t");
        assert_eq!(said("host", Some(7)), "ss -t");
        assert_eq!(said("blue", Some(7)), "nsenter -t 7 -n ss -t");
        assert_eq!(said("blue", None), "ip netns exec blue ss -t");
        assert_eq!(said("", None), "ss -t (in that network namespace)");
        for id in ["0123456789ab", "1a2b3c4d_5e6"] {
            let whose = format!("(PID: any process of container or pod {id})");
            assert_eq!(said(id, None), format!("nsenter -t PID -n ss -t {whose}"));
            assert_eq!(said(id, Some(7)), "nsenter -t 7 -n ss -t");
        }
        assert_eq!(said("cafe-beef-01", None), "ip netns exec cafe-beef-01 ss -t");
        assert_eq!(said("0123456789abc", None), "ip netns exec 0123456789abc ss -t");
        assert_eq!(said("database-one", None), "ip netns exec database-one ss -t");
    }

    #[test]
    fn what_is_too_long_ends_in_an_ellipsis() {
        assert_eq!(shorten("öäü", 3), "öäü");
        assert_eq!(shorten("öäüß", 3), "öäü…");
    }

    #[test]
    fn nouns_take_their_plural() {
        assert_eq!(count(0, "socket"), "0 sockets");
        assert_eq!(count(1, "process"), "1 process");
        assert_eq!(count(2, "process"), "2 processes");
    }
}
