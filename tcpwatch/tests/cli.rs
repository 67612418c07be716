//! Bad input gets one line and the right exit code; nothing is left attached.

mod support;

use std::{
    fs,
    net::TcpListener,
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, Output},
};

use anyhow::{Context, Result};
use scenes::{CloseWaitLeak, Namespace};
use serde_json::Value;
use support::{Folder, poll, skip, tcpwatch};

/// Runs to its end; what it must not do is run for ever, so `run` is given something to refuse.
fn run(arguments: &[&str]) -> Result<Output> {
    Ok(tcpwatch().args(arguments).output()?)
}

/// One line on stderr, the exit code, and no panic.
#[track_caller]
fn assert_refused(output: &Output, code: i32, says: &[&str]) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert_eq!(stderr.trim_end().lines().count(), 1, "not one line: {stderr}");
    for part in says {
        assert!(stderr.contains(part), "{part:?} is missing in {stderr:?}");
    }
    assert!(!stderr.contains("panicked"), "{stderr}");
}

#[test]
fn bad_usage_is_64_and_for_check_3() -> Result<()> {
    assert_refused(&run(&["run", "--nonsense"])?, 64, &["--nonsense"]);
    assert_refused(&run(&["nonsense"])?, 64, &["nonsense"]);
    assert_refused(&run(&[])?, 64, &["--help"]);
    assert_refused(&run(&["run", "--web.listen-address", "here"])?, 64, &["here"]);
    assert_refused(&run(&["run", "--log.level", "loud"])?, 64, &["loud"]);
    assert_refused(&run(&["check", "--for", "5"])?, 3, &["5"]);
    assert_refused(&run(&["check", "--for", "2h"])?, 3, &["1h"]);
    assert_refused(&run(&["check", "--nonsense"])?, 3, &["--nonsense"]);
    for other in [["--for", "5s"], ["--record", "it.jsonl"]] {
        let conflict = [&["check", "--replay", "it.jsonl"][..], &other].concat();
        assert_refused(&run(&conflict)?, 3, &["--replay", other[0], "cannot be used with"]);
    }
    Ok(())
}

#[test]
fn help_and_version_go_to_stdout_and_are_0() -> Result<()> {
    for arguments in [&["--help"][..], &["--version"], &["check", "--help"]] {
        let output = run(arguments)?;
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert!(!output.stdout.is_empty() && output.stderr.is_empty(), "{arguments:?}");
    }
    Ok(())
}

#[test]
fn bad_configuration_is_78_and_for_check_3() -> Result<()> {
    let folder = Folder::new()?;
    let cases: [(&str, &[u8], &[&str]); 6] = [
        ("unknown", b"[inventory]\nintervall = \"1s\"\n", &[":2:1:", "intervall", "`interval`"]),
        ("type", b"[inventory]\ninterval = 5\n", &[":2:12:", "inventory.interval", "duration"]),
        ("negative", b"[inventory]\ninterval = \"-5s\"\n", &[":2:12:", "-5s"]),
        ("order", b"[detect.close_wait_pileup]\nwarning = 30000\n", &[":2:11:", "critical"]),
        ("syntax", b"[inventory\n", &[":1:"]),
        ("binary", b"\x7fELF\x02\x01\xff\xfe\0\0", &["UTF-8"]),
    ];
    for (name, text, says) in cases {
        let file = folder.path.join(format!("{name}.toml"));
        fs::write(&file, text)?;
        let file = file.to_str().context("a path in UTF-8")?;
        assert_refused(&run(&["config", "check", file])?, 78, says);
        assert_refused(&run(&["run", "--config", file])?, 78, says);
        assert_refused(&run(&["check", "--config", file])?, 3, says);
    }
    assert_refused(&run(&["run", "--config", "/nonexistent.toml"])?, 78, &["/nonexistent.toml"]);
    Ok(())
}

#[test]
fn default_configuration_is_accepted_as_printed() -> Result<()> {
    let folder = Folder::new()?;
    let printed = run(&["config", "default"])?;
    let file = folder.path.join("default.toml");
    fs::write(&file, printed.stdout)?;
    let checked = run(&["config", "check", file.to_str().context("a path in UTF-8")?])?;
    assert_eq!(checked.status.code(), Some(0));
    Ok(())
}

#[test]
fn the_manual_has_a_page_for_each_command_that_help_shows() -> Result<()> {
    let folder = Folder::new()?;
    let path = folder.path.to_str().context("a path in UTF-8")?;
    assert_eq!(run(&["manual", path])?.status.code(), Some(0));
    let mut pages = Vec::new();
    for page in fs::read_dir(folder.path.join("man"))? {
        pages.push(page?.file_name().into_string().ok().context("a name in UTF-8")?);
    }
    let help = String::from_utf8(run(&["--help"])?.stdout)?;
    let commands = help.split_once("Commands:").context("no list of commands")?.1;
    // A line that begins deeper goes on with the one before.
    let shown = commands.lines().skip(1).take_while(|line| line.starts_with("  "));
    let named = shown.filter(|line| !line.starts_with("   "));
    for name in named.filter_map(|line| line.split_whitespace().next()) {
        let page = format!("tcpwatch-{name}.1");
        assert!(name == "help" || pages.contains(&page), "{page} is not in {pages:?}");
    }
    assert!(pages.len() > 5 && pages.contains(&"tcpwatch.1".to_owned()), "{pages:?}");
    assert!(!pages.iter().any(|page| page.contains("symbols")), "{pages:?}");
    let check = fs::read_to_string(folder.path.join("man/tcpwatch-check.1"))?;
    assert!(check.contains("EXIT STATUS") && check.contains("UNKNOWN"), "{check}");
    for file in ["tcpwatch.bash", "_tcpwatch", "tcpwatch.fish"] {
        let completions = fs::read_to_string(folder.path.join("completions").join(file))?;
        assert!(completions.contains("min-severity"), "{file}");
        assert!(!completions.contains("symbols"), "{file}");
    }
    assert_refused(&run(&["manual", "/proc/none"])?, 1, &["No such file"]);
    Ok(())
}

#[test]
fn port_in_use_is_1_and_says_which() -> Result<()> {
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let address = taken.local_addr()?.to_string();
    let output = run(&["run", "--web.listen-address", &address])?;
    assert_refused(&output, 1, &[&address, "--web.listen-address"]);
    Ok(())
}

/// A user without capabilities; the number is that of Debian's unprivileged user.
const UNPRIVILEGED: u32 = 65_534;

/// A copy that every user may execute: the build's folder need not be open to others.
fn copy_for_all(folder: &Folder) -> Result<std::path::PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let copy = folder.path.join("tcpwatch");
    fs::copy(support::binary(), &copy)?;
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755))?;
    fs::set_permissions(&folder.path, fs::Permissions::from_mode(0o755))?;
    Ok(copy)
}

#[test]
fn without_privileges_it_is_77_and_for_check_3() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let folder = Folder::new()?;
    let copy = copy_for_all(&folder)?;
    let unprivileged = |arguments: &[&str]| {
        Command::new(&copy).args(arguments).uid(UNPRIVILEGED).gid(UNPRIVILEGED).output()
    };
    let address = ["run", "--web.listen-address", "127.0.0.1:0"];
    assert_refused(&unprivileged(&address)?, 77, &["CAP_BPF", "run as root"]);
    assert_refused(&unprivileged(&["check"])?, 3, &["CAP_BPF", "run as root"]);
    let doctor = unprivileged(&["doctor", "--json"])?;
    assert_refused(&doctor, 77, &["CAP_BPF"]);
    let report: Value = serde_json::from_slice(&doctor.stdout)?;
    for hook in report["hooks"].as_array().context("no hooks")? {
        assert_eq!(hook["attached"], false, "{hook}");
        assert!(hook["why_not"].is_string() && hook["remedy"].is_string(), "{hook}");
    }
    Ok(())
}

#[test]
fn without_btf_it_is_1_and_says_what_to_boot() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    if !Path::new("/usr/bin/unshare").exists() {
        return skip("needs the command unshare: apt-get install util-linux");
    }
    // In a mount namespace of its own, with an empty folder over the kernel's BTF.
    let folder = Folder::new()?;
    let empty = folder.path.join("empty");
    fs::create_dir(&empty)?;
    let script = r#"mount --bind "$1" /sys/kernel/btf && shift && exec "$@""#;
    let without_btf = |arguments: &[&str]| {
        Command::new("unshare")
            .args(["--mount", "sh", "-c", script, "sh"])
            .arg(&empty)
            .arg(support::binary())
            .args(arguments)
            .output()
    };
    let says = ["/sys/kernel/btf/vmlinux", "CONFIG_DEBUG_INFO_BTF"];
    let address = ["run", "--web.listen-address", "127.0.0.1:0"];
    assert_refused(&without_btf(&address)?, 1, &says);
    assert_refused(&without_btf(&["check"])?, 3, &says);
    Ok(())
}

#[test]
fn check_of_a_leak_younger_than_min_age_is_info_and_0_and_of_an_older_one_1() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let folder = Folder::new()?;
    let ns = Namespace::new("check")?;
    let leak = CloseWaitLeak::client(&ns, 37, 0, false)?;
    let findings = |arguments: &[&str]| -> Result<(Option<i32>, Vec<Value>)> {
        let output = run(arguments)?;
        let report: Value = serde_json::from_slice(&output.stdout)?;
        let all = report["findings"].as_array().context("no findings")?;
        let ours = all.iter().filter(|finding| finding["subject"]["netns"] == ns.name());
        Ok((output.status.code(), ours.cloned().collect()))
    };
    let (_, young) = findings(&["check", "--json"])?;
    assert_eq!(young.len(), 1, "{young:#?}");
    assert_eq!(young[0]["severity"], "info", "{young:#?}");
    assert_eq!(young[0]["subject"]["pid"], std::process::id(), "{young:#?}");

    // An override has an age of its own, and disables its findings in silence.
    for (keys, count) in [("min_age = \"1h\"", 1), ("enabled = false", 0)] {
        let port = leak.server_address().port();
        let text = format!("[[detect.close_wait_pileup.override]]\nport = {port}\n{keys}\n");
        let config = folder.write("override.toml", &text)?;
        let config = config.to_str().context("a path in UTF-8")?;
        let (_, found) = findings(&["check", "--json", "--config", config])?;
        assert_eq!(found.len(), count, "{keys}: {found:#?}");
        assert!(found.iter().all(|finding| finding["severity"] == "info"), "{found:#?}");
    }

    let config = folder.write("c.toml", "[detect.close_wait_pileup]\nmin_age = \"1s\"\n")?;
    let config = config.to_str().context("a path in UTF-8")?;
    let (code, old) = poll("the age to be proven", || {
        let (code, old) = findings(&["check", "--json", "--config", config])?;
        Ok(old.iter().any(|finding| finding["severity"] == "warning").then_some((code, old)))
    })?;
    assert_eq!(old.len(), 1, "{old:#?}");
    // Another test may have made something worse at the same time.
    assert!(matches!(code, Some(1 | 2)), "{code:?}");
    let text = run(&["check", "--config", config])?;
    let text = String::from_utf8(text.stdout)?;
    let first = text.lines().next().unwrap_or_default();
    assert!(first.starts_with("WARNING:") || first.starts_with("CRITICAL:"), "{first}");
    assert!(text.contains("at least"), "{text}");

    let (_, watched) = findings(&["check", "--json", "--for", "2s", "--config", config])?;
    assert_eq!(watched.len(), 1, "{watched:#?}");
    drop(leak);
    Ok(())
}

/// The findings of a report, less the times of day: two readings of both clocks differ a little.
fn findings_of(output: &Output) -> Result<Vec<Value>> {
    let stderr = String::from_utf8_lossy(&output.stderr);
    let mut report: Value =
        serde_json::from_slice(&output.stdout).with_context(|| stderr.into_owned())?;
    let mut findings = report["findings"].take();
    for finding in findings.as_array_mut().context("no findings")? {
        let fields = finding.as_object_mut().context("a finding without fields")?;
        assert!(fields.remove("since").is_some() && fields.remove("last_seen").is_some());
    }
    Ok(serde_json::from_value(findings)?)
}

#[test]
fn check_is_recorded_and_every_user_may_replay_it_with_the_same_findings() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let folder = Folder::new()?;
    let copy = copy_for_all(&folder)?;
    let ns = Namespace::new("record")?;
    let leak = CloseWaitLeak::client(&ns, 37, 0, false)?;
    let quick = folder.write("quick.toml", "[detect.close_wait_pileup]\nmin_age = \"1s\"\n")?;
    let quick = quick.to_str().context("a path in UTF-8")?;
    let off = folder.write("off.toml", "[detect.close_wait_pileup]\nenabled = false\n")?;
    let off = off.to_str().context("a path in UTF-8")?;
    let file = folder.path.join("it.jsonl");
    let file = file.to_str().context("a path in UTF-8")?;
    let replay = |config: &str| {
        let arguments = ["check", "--json", "--replay", file, "--config", config];
        Command::new(&copy).args(arguments).uid(UNPRIVILEGED).gid(UNPRIVILEGED).output()
    };
    let pileup = |severity: &'static str| {
        move |finding: &Value| {
            finding["kind"] == "close-wait-pileup"
                && finding["subject"]["pid"] == std::process::id()
                && finding["severity"] == severity
        }
    };

    // Too young to be more than info: one look is replayed as one look.
    let young = run(&["check", "--json", "--record", file])?;
    let default = folder.write("default.toml", "")?;
    let again = replay(default.to_str().context("a path in UTF-8")?)?;
    assert!(findings_of(&young)?.iter().any(pileup("info")), "{young:?}");
    assert_eq!(findings_of(&again)?, findings_of(&young)?);
    assert_eq!(again.status, young.status);

    let recording = ["check", "--json", "--for", "2s", "--config", quick, "--record", file];
    let watched = run(&recording)?;
    let again = replay(quick)?;
    assert!(findings_of(&watched)?.iter().any(pileup("warning")), "{watched:?}");
    assert_eq!(findings_of(&again)?, findings_of(&watched)?);
    assert_eq!(again.status, watched.status);
    // The configuration of the replay decides.
    assert!(!findings_of(&replay(off)?)?.iter().any(pileup("warning")));
    drop(leak);
    Ok(())
}

#[test]
fn recording_that_cannot_be_written_or_read_is_3_and_says_where() -> Result<()> {
    let folder = Folder::new()?;
    let header = "{\"format\":\"tcpwatch-incident\",\"version\":1,\"kernel\":\"6.1\",\
                  \"tcpwatch\":\"0.1.0\",\"recorded_at\":\"WHEN\",\"monotonic_ns\":1}\n";
    let good = header.replace("WHEN", "2026-11-20T08:30:00.000Z");
    let look = "{\"inventory\":{\"now\":1,\"found\":{}}}\n";
    let cases = [
        ("text", "hello\n".to_owned(), ":1: not a recording"),
        ("later", good.replace("\"version\":1", "\"version\":9"), ":1: recorded in version 9"),
        ("empty", good.clone(), ": no inventory"),
        ("time", format!("{header}{look}"), ":1: `recorded_at`"),
        ("broken", format!("{good}{look}{}", &look[..9]), ":3: column"),
    ];
    for (name, text, says) in cases {
        let file = folder.write(name, &text)?;
        let file = file.to_str().context("a path in UTF-8")?;
        let says = format!("{file}{says}");
        assert_refused(&run(&["check", "--replay", file])?, 3, &[&says]);
    }
    assert_refused(&run(&["check", "--replay", "/nonexistent"])?, 3, &["/nonexistent"]);
    assert_refused(
        &run(&["check", "--replay", "/"])?,
        3,
        &["/: expected a regular file, found a directory"],
    );
    if scenes::root_or_skip() {
        assert_refused(&run(&["check", "--record", "/nonexistent/it"])?, 3, &["/nonexistent/it"]);
    }
    let file = folder.write("good", &format!("{good}{look}"))?;
    let output = run(&["check", "--replay", file.to_str().context("a path in UTF-8")?])?;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(output.stdout.starts_with(b"OK: "), "{output:?}");
    Ok(())
}
