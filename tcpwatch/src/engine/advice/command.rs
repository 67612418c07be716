//! Commands for a person to paste, and the words where there is none.
//!
//! Everything in a command is a number, an address, a word of ours, or a name that passed here: of
//! the alphabet that its kind allows, without a glob, not to be taken for an option, and one word
//! to a shell. For any other name there are words. Any user who starts a process chooses names, and
//! the person who pastes is root.

use std::borrow::Cow;

use crate::{
    engine::{advice::names, finding::Subject},
    facts::{Process, is_short_id, is_unit},
};

/// The way into a subject's network namespace. A name leads there also when the process has ended.
pub(crate) struct Way {
    before: String,
    /// Words for a reader, at the end of the last command.
    note: String,
}

impl Way {
    pub(crate) fn into_namespace_of(subject: &Subject) -> Self {
        let name = &*subject.netns;
        // `ip netns` knows only bind mounts, and the runtimes make none under /run/netns. It takes no
        // `--`.
        let is_mounted = is_netns(name)
            && !is_short_id(name)
            && subject.container.as_deref().is_none_or(|container| container != name);
        let (before, note) = match subject.pid {
            _ if name == "host" => (String::new(), String::new()),
            _ if is_mounted => (format!("ip netns exec {name} "), String::new()),
            Some(pid) => (format!("nsenter -t {pid} -n "), String::new()),
            None if is_short_id(name) => (
                "nsenter -t PID -n ".to_owned(),
                format!(" (PID: any process of container or pod {name})"),
            ),
            None => (String::new(), " (in that network namespace)".to_owned()),
        };
        Self { before, note }
    }

    /// The command there.
    pub(crate) fn run(&self, command: &str) -> String {
        format!("{}{command}", self.before)
    }

    pub(crate) fn note(&self) -> &str {
        &self.note
    }
}

/// The command that runs in the subject's network namespace.
pub(crate) fn in_its_namespace(subject: &Subject, command: &str) -> String {
    let way = Way::into_namespace_of(subject);
    format!("{}{}", to_paste(&way.run(command)), way.note())
}

/// A command within a remedy stands between backticks, so that a terminal and a page show it on a
/// line of its own. No command has one within, and no name in a remedy has one (see [`names`]).
pub(crate) fn to_paste(command: &str) -> String {
    format!("`{command}`")
}

/// How to restart the subject's service: a command, or words that end in a full stop. A container's
/// own service manager and a user's have units too, whose names this host's manager takes for its
/// own.
pub(crate) fn restart(subject: &Subject) -> String {
    match subject.container.as_deref() {
        Some(id) if is_short_id(id) => {
            return format!("restart container {id} (on Kubernetes delete its pod).");
        }
        Some(name) => {
            return format!("restart its service inside container {}.", names::shown(name));
        }
        None => {}
    }
    match (subject.unit.as_deref(), subject.pid) {
        (_, Some(1)) => format!("{SOCKET_UNIT}."),
        (Some(unit), Some(pid)) if unit.starts_with("user@") => {
            format!(
                "restart its user unit: `systemctl --user status {pid}`, as that user, names it."
            )
        }
        (Some(unit), _) if is_unit(unit) && unit.ends_with(".service") => {
            to_paste(&format!("systemctl restart -- {}", quoted(unit)))
        }
        (_, Some(pid)) => match &subject.process {
            Some(name) => format!("restart {}.", names::named_as(name, pid)),
            None => "restart the process.".to_owned(),
        },
        (_, None) => {
            "restart the process that holds them. Where there is none, the kernel does: NFS, CIFS, \
             iSCSI and Ceph are unmounted or logged out."
                .to_owned()
        }
    }
}

/// Process 1 holds what a socket unit listens on until the service takes it.
pub(crate) const SOCKET_UNIT: &str = "systemd holds it for a socket unit, which `systemctl \
    list-sockets` names: see in `systemctl status` of its service why that does not take it";

/// How to restart another process than the subject's.
pub(crate) fn restart_of(process: &Process) -> String {
    let mut subject = Subject::default();
    subject.set_process(process);
    restart(&subject)
}

/// How to dump the threads of a process, to begin a remedy: one sentence or more.
pub(crate) fn dump_threads(subject: &Subject, name: &str, to_find: &str) -> String {
    match subject.pid {
        Some(1) => format!("{SOCKET_UNIT}."),
        pid => format!("Dump the threads of {name}: {}. Find {to_find}.", dump(pid)),
    }
}

/// Where the subject's service says why it ended, to follow "see": words without a full stop.
pub(crate) fn log(subject: &Subject) -> String {
    match (subject.container.as_deref(), subject.unit.as_deref()) {
        (Some(id), _) if is_short_id(id) => {
            format!("the log of container {id} (on Kubernetes `kubectl logs --previous POD`)")
        }
        (Some(name), _) => format!("the journal inside container {}", names::shown(name)),
        (None, Some(unit)) if is_unit(unit) && !unit.starts_with("user@") => {
            to_paste(&format!("journalctl -n 50 -u {}", quoted(unit)))
        }
        (None, _) => "its own log, and the log of what starts it".to_owned(),
    }
}

/// How to stop a process for good: a command, or words that end in a full stop. systemd listens for
/// its socket units.
pub(crate) fn stop(process: &Process, subject: &Subject) -> String {
    match (&subject.container, &process.unit) {
        _ if process.pid == 1 => {
            "`systemctl list-sockets` names the socket unit; stop that one.".to_owned()
        }
        (Some(id), _) => format!("stop container or pod {}.", names::shown(id)),
        (None, Some(unit)) if unit.starts_with("user@") => {
            format!(
                "stop its user unit: `systemctl --user status {}`, as that user, names it.",
                process.pid
            )
        }
        (None, Some(unit))
            if is_unit(unit) && unit.ends_with(".service") && !unit.starts_with("user@") =>
        {
            to_paste(&format!("systemctl stop -- {}", quoted(unit)))
        }
        _ => to_paste(&format!("kill {}", process.pid)),
    }
}

/// How to make the threads of a process say where they are. SIGQUIT makes a Go program do so too, and
/// ends it.
pub(crate) fn dump(pid: Option<u32>) -> String {
    let pid = pid.map_or_else(|| "PID".to_owned(), |pid| pid.to_string());
    format!(
        "`jstack {pid}` (Java), `py-spy dump --pid {pid}` (Python), the goroutine page of \
         net/http/pprof (Go), else `gdb -p {pid} -batch -ex 'thread apply all bt'`"
    )
}

/// Whether a name under /run/netns is a word of a command.
fn is_netns(name: &str) -> bool {
    let is_of_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:@+".contains(&byte);
    name.starts_with(|first: char| first.is_ascii_alphanumeric()) && name.bytes().all(is_of_name)
}

/// A unit's name as one word of a shell: only its `\` needs quotes.
fn quoted(unit: &str) -> Cow<'_, str> {
    if unit.contains('\\') { format!("'{unit}'").into() } else { unit.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_unit(unit: &str) -> Subject {
        Subject { unit: Some(unit.to_owned()), pid: Some(7), ..Subject::default() }
    }

    #[test]
    fn a_unit_of_the_host_is_restarted_by_its_name() {
        assert_eq!(restart(&of_unit("a@1.service")), "`systemctl restart -- a@1.service`");
        assert_eq!(
            restart(&of_unit(r"a\x2d1.service")),
            r"`systemctl restart -- 'a\x2d1.service'`"
        );
    }

    #[test]
    fn a_name_that_is_no_unit_is_in_no_command() {
        for unit in [
            "-H.service",
            "*.service",
            "a?.service",
            "[a].service",
            "a b.service",
            "a;b.service",
            "$(a).service",
            "`a`.service",
            "a'.service",
            "a\n.service",
            "\u{1b}.service",
            "nginx",
            "session-1.scope",
            ".service",
            "é.service",
        ] {
            assert_eq!(restart(&of_unit(unit)), "restart the process.", "{unit}");
        }
    }

    #[test]
    fn a_unit_of_another_user_is_left_to_its_manager() {
        let words = restart(&of_unit("user@1000.service"));
        assert!(
            words.contains("systemctl --user status 7") && !words.contains("systemctl restart")
        );
        let within =
            |name: &str| restart(&Subject { container: Some(name.into()), ..of_unit("a.service") });
        assert!(within("0123456789ab").starts_with("restart container 0123456789ab"));
        assert!(within("web01").ends_with("inside container web01."));
        assert!(restart(&Subject::default()).contains("NFS"));
    }

    #[test]
    fn the_log_is_that_of_the_unit_where_it_is_one_of_the_host() {
        assert_eq!(log(&of_unit("a@1.service")), "`journalctl -n 50 -u a@1.service`");
        assert_eq!(log(&of_unit(r"a\x2d1.service")), r"`journalctl -n 50 -u 'a\x2d1.service'`");
        for unit in ["user@1000.service", "-H.service", "*.service", "a b.service", "$(a).service"]
        {
            assert!(log(&of_unit(unit)).starts_with("its own log"), "{unit}");
        }
        let within =
            |name: &str| log(&Subject { container: Some(name.into()), ..of_unit("a.service") });
        assert!(within("0123456789ab").starts_with("the log of container 0123456789ab"));
        assert_eq!(within("web01"), "the journal inside container web01");
    }

    #[test]
    fn a_command_is_run_in_the_namespace_by_a_way_that_leads_there() {
        let of = |netns: &str, pid| Subject { netns: netns.into(), pid, ..Subject::default() };
        let said = |netns, pid| in_its_namespace(&of(netns, pid), "ss -t");
        assert_eq!(said("host", None), "`ss -t`");
        assert_eq!(said("host", Some(7)), "`ss -t`");
        assert_eq!(said("blue", Some(7)), "`ip netns exec blue ss -t`");
        assert_eq!(said("blue", None), "`ip netns exec blue ss -t`");
        let web = Subject { container: Some("web01".into()), ..of("web01", Some(7)) };
        assert_eq!(in_its_namespace(&web, "ss -t"), "`nsenter -t 7 -n ss -t`");
        for id in ["0123456789ab", "1a2b3c4d_5e6"] {
            let whose = format!("(PID: any process of container or pod {id})");
            assert_eq!(said(id, None), format!("`nsenter -t PID -n ss -t` {whose}"));
            assert_eq!(said(id, Some(7)), "`nsenter -t 7 -n ss -t`");
        }
        assert_eq!(said("cafe-beef-01", None), "`ip netns exec cafe-beef-01 ss -t`");
        assert_eq!(said("0123456789abc", None), "`ip netns exec 0123456789abc ss -t`");
        assert_eq!(said("database-one", None), "`ip netns exec database-one ss -t`");
        for other in ["", "-h", "--help", "a b", "*", "a;b", "a/../b", "é", "a\u{202e}", "$x", "'"]
        {
            assert_eq!(said(other, None), "`ss -t` (in that network namespace)", "{other}");
            assert_eq!(said(other, Some(7)), "`nsenter -t 7 -n ss -t`");
        }
    }
}
