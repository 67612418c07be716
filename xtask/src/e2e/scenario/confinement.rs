//! The unit's confinement, as the kernel has it in force: the process is read, and a program in the
//! same unit tries what it must not.

use anyhow::{Context, Result, ensure};

use super::super::step::{Output, Step};

/// CAP_BPF, CAP_PERFMON and CAP_SYS_PTRACE, as bits.
const THREE: &str = "000000c000080000";

/// The same and CAP_SYS_ADMIN.
const FOUR: &str = "000000c000280000";

/// CAP_BPF and CAP_PERFMON.
const TWO: &str = "000000c000000000";

pub(super) const STEPS: &[Step] = &[
    Step {
        name: "every thread has three capabilities, no new privileges, and both filters",
        script: "
            for thread in /proc/$(main_pid)/task/*; do
                echo \"thread=$thread\"
                grep -E '^(Uid|Cap|NoNewPrivs|Seccomp)' \"$thread/status\"
            done
        ",
        judge: |output| confined(output, THREE),
    },
    Step {
        name: "the process sees a root that it cannot write, and no homes",
        script: "
            pid=$(main_pid)
            echo \"root=$(awk '$5 == \"/\" {print $6}' /proc/$pid/mountinfo)\"
            nsenter --target \"$pid\" --mount ls -A /root /home || true
            nsenter --target \"$pid\" --mount ls /dev
        ",
        judge: |output| {
            ensure!(output.value("root")?.split(',').any(|it| it == "ro"), "root is writable");
            output.lacks("vda")?;
            output.lacks(".bashrc")
        },
    },
    Step {
        name: "another program in this unit cannot mount, load, write, or see another namespace",
        script: PROBE,
        judge: |output| {
            // Filtered calls fail as if the kernel had none; the others by their own rule.
            for call in ["mount", "init_module", "reboot", "unshare_mount"] {
                output.is(call, "ENOSYS").or_else(|_| output.is(call, "EPERM"))?;
            }
            output.is("write", "EROFS")?;
            output.is("packet_socket", "EAFNOSUPPORT")?;
            output.is("bpf", "EINVAL")
        },
    },
    Step {
        name: "systemd-analyze rates the exposure 1.9, as the unit's comment says",
        script: "systemd-analyze security --no-pager tcpwatch",
        judge: |output| exposure_is(output, 1.9),
    },
    Step {
        name: "the example before-6.1.conf lets tcpwatch enter namespaces",
        script: "
            folder=/etc/systemd/system/tcpwatch.service.d
            mkdir -p $folder
            ip netns add other
            ip netns exec other sleep 600 &
            inside=$!
            systemctl restart tcpwatch
            get /metrics | grep '^tcpwatch_scope_info'
            get /api/v1/findings | grep -oE '\"what\": ?\"namespaces\"' || true
            cp before-6.1.conf $folder/
            systemctl daemon-reload
            systemctl restart tcpwatch
            echo with the drop-in:
            for thread in /proc/$(main_pid)/task/*; do
                echo \"thread=$thread\"
                grep -E '^(Uid|Cap|NoNewPrivs|Seccomp)' \"$thread/status\"
            done
            get /api/v1/findings | grep -oE '\"what\": ?\"namespaces\"' || true
            systemd-analyze security --no-pager tcpwatch
            kill $inside
            ip netns delete other
            rm -r $folder
            systemctl daemon-reload
            systemctl restart tcpwatch
        ",
        judge: |output| {
            output.succeeds()?;
            let (without, with) = output.text.split_once("with the drop-in:").context("half")?;
            let iterates = without.contains("walk=\"iterator\"");
            ensure!(without.contains("\"what\"") == iterates, "the namespaces that are not seen");
            ensure!(!with.contains("\"what\""), "a namespace is not seen with the drop-in");
            confined(output, FOUR)?;
            exposure_is(output, 2.2)
        },
    },
    Step {
        name: "the example host-only.conf leaves two capabilities and an exposure of 1.6",
        script: "
            folder=/etc/systemd/system/tcpwatch.service.d
            mkdir -p $folder
            cp host-only.conf $folder/
            cp $config kept.toml
            printf '[inventory]\\nnamespaces = \"host\"\\n' >$config
            systemctl daemon-reload
            systemctl restart tcpwatch
            for thread in /proc/$(main_pid)/task/*; do
                echo \"thread=$thread\"
                grep -E '^(Uid|Cap|NoNewPrivs|Seccomp)' \"$thread/status\"
            done
            systemd-analyze security --no-pager tcpwatch
            cp kept.toml $config
            rm -r $folder
            systemctl daemon-reload
            systemctl restart tcpwatch
        ",
        judge: |output| {
            output.succeeds()?;
            confined(output, TWO)?;
            exposure_is(output, 1.6)
        },
    },
    Step {
        name: "the UNIX socket is open to root and a chosen group, and to no other user",
        script: "
            folder=/run/systemd/system/tcpwatch.service.d
            stat -c 'socket=%A' /run/tcpwatch/tcpwatch.sock
            mkdir -p $folder
            printf '[Service]\\nGroup=watchers\\n' >$folder/group.conf
            systemctl daemon-reload
            systemctl restart tcpwatch
            stat -c 'group=%G' /run/tcpwatch/tcpwatch.sock
            setpriv --reuid 65534 --regid watchers --clear-groups tcpwatch check --color never || true
            echo 'another user:'
            setpriv --reuid 65534 --regid 65534 --clear-groups tcpwatch check 2>&1 || true
            rm -r $folder
            systemctl daemon-reload
            systemctl restart tcpwatch
        ",
        judge: |output| {
            output.succeeds()?;
            output.is("socket", "srw-rw----")?;
            output.is("group", "watchers")?;
            let (member, other) = output.text.split_once("another user:").context("half of it")?;
            ensure!(member.contains("as the running agent sees it"), "a member sees no agent");
            ensure!(other.contains("is open to root and its group only"), "another user sees it");
            Ok(())
        },
    },
];

/// The unit with another program: its filter and its view of the disk hold for that too.
const PROBE: &str = r#"
cat >probe.pl <<'END'
use Errno;
use Socket;
sub outcome {
    my ($name, $worked) = @_;
    my ($error) = grep { $!{$_} } qw(ENOSYS EPERM EROFS EAFNOSUPPORT EINVAL EACCES ENOENT);
    print "$name=", ($worked ? "worked" : $error // $!), "\n";
}
outcome('mount', 0 == syscall(165, 0, 0, 0, 0, 0));
outcome('init_module', 0 == syscall(175, 0, 0, 0));
outcome('reboot', 0 == syscall(169, 0, 0, 0));
outcome('unshare_mount', 0 == syscall(272, 0x20000));
outcome('write', open(my $file, '>', '/etc/tcpwatch/probe'));
outcome('packet_socket', socket(my $socket, 17, SOCK_RAW, 0));
outcome('bpf', 0 <= syscall(321, 99, 0, 0));
END
chmod 755 . ; chmod 644 probe.pl
sed -e 's|^ExecStart=.*|ExecStart=/usr/bin/perl /run/e2e/probe.pl|' -e 's|^Type=.*|Type=oneshot|' \
    -e '/^Restart/d' -e '/^RuntimeDirectory/d' -e '/^WatchdogSec/d' \
    /usr/lib/systemd/system/tcpwatch.service >/run/systemd/system/probe.service
systemctl daemon-reload
systemctl start probe || true
until_true sh -c 'journalctl -o cat -u probe | grep -q ^bpf='
journalctl -o cat -u probe
rm /run/systemd/system/probe.service
systemctl daemon-reload
"#;

fn confined(output: &Output, capabilities: &str) -> Result<()> {
    let threads = output.values("thread").count();
    ensure!(threads > 1, "{threads} threads");
    for (key, expected) in [
        ("CapEff", capabilities),
        ("CapPrm", capabilities),
        ("CapBnd", capabilities),
        ("NoNewPrivs", "1"),
        ("Seccomp", "2"),
    ] {
        let values: Vec<&str> = output.values(key).collect();
        let equal = values.iter().all(|value| *value == expected);
        ensure!(values.len() == threads && equal, "{key}: {values:?}, not {expected}");
    }
    ensure!(output.values("Uid").all(|ids| !ids.starts_with("0\t")), "a thread is root's");
    // systemd makes several filters of one unit, tcpwatch adds one.
    let filters = output.values("Seccomp_filters").flat_map(str::parse).min().unwrap_or(0);
    ensure!(filters > 1, "{filters} filters, of which one is tcpwatch's own");
    Ok(())
}

/// The last line is `→ Overall exposure level for tcpwatch.service: 2.2 OK 🙂`.
fn exposure(output: &Output) -> Result<f64> {
    let (_, level) = output.text.rsplit_once("tcpwatch.service: ").context("no exposure level")?;
    let level = level.split_whitespace().next().context("no number")?;
    level.parse().with_context(|| format!("the exposure level is no number: {level}"))
}

fn exposure_is(output: &Output, expected: f64) -> Result<()> {
    let exposure = exposure(output)?;
    // It has one digit behind the point.
    ensure!((exposure - expected).abs() < 0.05, "the exposure level is {exposure}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{FOUR, Output, TWO, confined, exposure};

    fn thread(capabilities: &str, filters: u32) -> String {
        format!(
            "thread=/proc/1/task/1\nUid:\t61234\t61234\nCapPrm:\t{capabilities}\nCapEff:\t{FOUR}\n\
             CapBnd:\t{FOUR}\nNoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t{filters}\n"
        )
    }

    #[test]
    fn one_thread_with_more_or_without_a_filter_is_a_failure() {
        let judge = |threads: [String; 2]| {
            confined(&Output { text: threads.concat(), status: 0 }, FOUR).is_ok()
        };
        assert!(judge([thread(FOUR, 9), thread(FOUR, 9)]));
        assert!(!judge([thread(FOUR, 9), thread(TWO, 9)]));
        assert!(!judge([thread(FOUR, 9), thread(FOUR, 1)]));
        assert!(!judge([thread(FOUR, 9), String::new()]));
        let bits = |capabilities: &[u32]| capabilities.iter().map(|bit| 1_u64 << bit).sum::<u64>();
        assert_eq!(u64::from_str_radix(FOUR, 16), Ok(bits(&[39, 38, 21, 19])));
        assert_eq!(u64::from_str_radix(TWO, 16), Ok(bits(&[39, 38])));
    }

    #[test]
    fn the_exposure_is_the_number_behind_the_unit() {
        let text = "PrivateUsers= x 0.2\n→ Overall exposure level for tcpwatch.service: 2.2 OK\n";
        assert_eq!(exposure(&Output { text: text.to_owned(), status: 0 }).ok(), Some(2.2));
    }
}
