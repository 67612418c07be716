//! Words that the kinds share.

use std::time::Duration;

use super::Subject;
use crate::facts::Process;

/// `nginx (pid 12)`, or "an unknown process".
pub(super) fn named(process: Option<&Process>) -> String {
    match process {
        Some(process) => format!("{} (pid {})", process.name, process.pid),
        None => "an unknown process".to_owned(),
    }
}

/// ` in namespace NAME`, nothing for the host's own.
pub(super) fn in_netns(netns: &str) -> String {
    match netns {
        "host" => String::new(),
        "" => " in an unnamed network namespace".to_owned(),
        name => format!(" in network namespace {name}"),
    }
}

/// `1 socket`, `2 sockets`.
pub(super) fn count(number: u64, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

/// A duration as a person says it: `45 s`, `12 min`, `3 h 20 min`, `2 d 4 h`.
pub(super) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h {} min", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

/// The command that runs in the subject's network namespace.
pub(super) fn in_its_namespace(subject: &Subject, command: &str) -> String {
    match (&*subject.netns, subject.pid) {
        ("host", _) => command.to_owned(),
        (_, Some(pid)) => format!("nsenter -t {pid} -n {command}"),
        ("", None) => command.to_owned(),
        (name, None) => format!("ip netns exec {name} {command}"),
    }
}

/// How to restart the subject's service, if that is known.
pub(super) fn restart(subject: &Subject) -> Option<String> {
    subject
        .unit
        .as_ref()
        .filter(|unit| unit.ends_with(".service"))
        .map(|unit| format!("systemctl restart {unit}"))
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
}
