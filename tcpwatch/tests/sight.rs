//! Limits of sight are reported: the binary in namespaces of its own, without a capability, with hooks
//! that this kernel refuses.

mod support;

use std::{
    fs,
    io::IoSlice,
    mem::MaybeUninit,
    os::fd::AsFd,
    os::unix::net::UnixStream,
    path::Path,
    process::{Command, Output, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use scenes::{CloseWaitLeak, Namespace};
use serde_json::Value;
use support::{Agent, Folder, poll, skip, tcpwatch};
use tcpwatch::{
    facts::{CloseWaitSocket, Focus, Inventory},
    kernel::{LoadOptions, OwnerPolicy, Programs, Scope, Walker},
};

/// Exit code of `check` for UNKNOWN.
const UNKNOWN: Option<i32> = Some(3);

/// Runs a script in new namespaces with the binary as `$TCPWATCH`; its children end with the pid
/// namespace where there is one.
fn in_namespaces(namespaces: &[&str], script: &str) -> Result<Output> {
    Ok(Command::new("unshare")
        .args(namespaces)
        .args(["sh", "-c", script])
        .env("TCPWATCH", support::binary())
        .stdin(Stdio::null())
        .output()?)
}

const PIDNS: [&str; 3] = ["--pid", "--fork", "--mount-proc"];
const NETNS: [&str; 1] = ["--net"];

/// Whether the tests can be run here. Where this process does not see the host either, nothing
/// differs in a namespace of its own.
fn ready() -> Result<bool> {
    if !scenes::root_or_skip() {
        return Ok(false);
    }
    for command in ["unshare", "setpriv"] {
        if !Path::new("/usr/bin").join(command).exists() {
            skip(&format!("needs the command {command}: apt-get install util-linux"))?;
            return Ok(false);
        }
    }
    let doctor = json(&tcpwatch().args(["doctor", "--json"]).output()?)?;
    let is_host = |row: &Value| row["of"] == "host";
    if !doctor["namespaces"].as_array().context("no namespaces")?.iter().all(is_host) {
        skip("needs the host's own pid and network namespace")?;
        return Ok(false);
    }
    Ok(true)
}

fn json(output: &Output) -> Result<Value> {
    let stderr = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).with_context(|| format!("{stderr} {output:?}"))
}

/// The limits of sight of one sort.
fn not_seen<'a>(report: &'a Value, what: &str) -> Result<Vec<&'a Value>> {
    let list = report["not_seen"].as_array().context("no not_seen")?;
    Ok(list.iter().filter(|it| it["what"] == what).collect())
}

fn first_line(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned()
}

#[test]
fn check_is_unknown_where_the_host_s_processes_are_not_seen() -> Result<()> {
    if !ready()? {
        return Ok(());
    }
    let text = in_namespaces(&PIDNS, "exec $TCPWATCH check")?;
    assert_eq!(text.status.code(), UNKNOWN, "{text:?}");
    let first = first_line(&text);
    assert!(first.starts_with("UNKNOWN: not seen: the host's processes; "), "{first}");
    let quiet = first_line(&in_namespaces(&PIDNS, "exec $TCPWATCH check -q")?);
    assert!(quiet.starts_with("UNKNOWN: ") && quiet.contains(" | critical="), "{quiet}");

    let output = in_namespaces(&PIDNS, "exec $TCPWATCH check --json")?;
    assert_eq!(output.status.code(), UNKNOWN, "{output:?}");
    let report = json(&output)?;
    assert_eq!(report["schema_version"], 1);
    let hidden = not_seen(&report, "pid_namespace")?;
    assert_eq!(hidden.len(), 1, "{report:#}");
    assert_eq!(hidden[0]["hides_host"], true);
    assert_eq!(not_seen(&report, "network_namespace")?, Vec::<&Value>::new());

    // A recording says it again.
    let folder = Folder::new()?;
    let file = folder.path.join("it.jsonl");
    let script = format!("exec $TCPWATCH check --record {}", file.display());
    in_namespaces(&PIDNS, &script)?;
    let replayed = tcpwatch().args(["check", "--replay"]).arg(&file).output()?;
    assert_eq!(replayed.status.code(), UNKNOWN, "{replayed:?}");
    Ok(())
}

#[test]
fn check_is_unknown_where_the_host_s_network_namespace_is_not_seen() -> Result<()> {
    if !ready()? {
        return Ok(());
    }
    // With the host's processes its namespace is found, and walked.
    let report = json(&in_namespaces(&NETNS, "exec $TCPWATCH check --json")?)?;
    assert_eq!(not_seen(&report, "network_namespace")?, Vec::<&Value>::new(), "{report:#}");

    let folder = Folder::new()?;
    let config = folder.write("c.toml", "[inventory]\nnamespaces = \"host\"\n")?;
    let script = format!("exec $TCPWATCH check --json --config {}", config.display());
    let output = in_namespaces(&NETNS, &script)?;
    assert_eq!(output.status.code(), UNKNOWN, "{output:?}");
    let report = json(&output)?;
    assert_eq!(not_seen(&report, "network_namespace")?.len(), 1, "{report:#}");

    let both = [&NETNS[..], &PIDNS].concat();
    let config = folder.write("i.toml", "[inventory]\none_pass = false\n")?;
    let check = "mount -t tmpfs none /run/netns; exec $TCPWATCH check";
    let output = in_namespaces(&both, &format!("{check} --config {}", config.display()))?;
    assert_eq!(output.status.code(), UNKNOWN, "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout);
    for hidden in
        ["not seen  the host's processes: ", "not seen  the host's own network namespace: "]
    {
        assert!(text.contains(hidden), "{hidden:?} is missing: {text}");
    }
    // The one pass sees it from anywhere.
    let doctor = json(&tcpwatch().args(["doctor", "--json"]).output()?)?;
    let check = "mount -t tmpfs none /run/netns; exec $TCPWATCH check --json";
    let report = json(&in_namespaces(&both, check)?)?;
    let hidden = not_seen(&report, "network_namespace")?.len();
    assert_eq!(hidden, usize::from(doctor["walk"]["walk"] != "one_pass"), "{report:#}");
    assert_eq!(not_seen(&report, "pid_namespace")?.len(), 1, "{report:#}");
    Ok(())
}

#[test]
fn doctor_begins_with_a_verdict_and_knows_whose_the_namespaces_are() -> Result<()> {
    if !ready()? {
        return Ok(());
    }
    let of = |report: &Value, namespace: &str| -> Result<Value> {
        let rows = report["namespaces"].as_array().context("no namespaces")?;
        let row = rows.iter().find(|row| row["namespace"] == namespace);
        Ok(row.context("no such row")?["of"].clone())
    };
    let both = [&NETNS[..], &PIDNS].concat();
    let own = in_namespaces(&both, "exec $TCPWATCH doctor --json")?;
    assert_eq!(own.status.code(), Some(0), "{own:?}");
    let own = json(&own)?;
    assert_eq!((of(&own, "pid")?, of(&own, "network")?), ("own".into(), "own".into()));
    let verdict = own["verdict"].as_str().context("no verdict")?;
    assert!(verdict.contains("does not see the host's processes"), "{verdict}");

    let here = json(&tcpwatch().args(["doctor", "--json"]).output()?)?;
    assert_eq!((of(&here, "pid")?, of(&here, "network")?), ("host".into(), "host".into()));
    assert_eq!(here["configuration"]["valid"], true);
    let text = tcpwatch().arg("doctor").output()?;
    assert!(first_line(&text).starts_with("tcpwatch runs here"), "{text:?}");

    let folder = Folder::new()?;
    let bad = folder.write("bad.toml", "[inventory]\nintervall = \"1s\"\n")?;
    let output = tcpwatch().args(["doctor", "--json", "--config"]).arg(&bad).output()?;
    let configuration = &json(&output)?["configuration"];
    assert_eq!(configuration["valid"], false, "{configuration}");
    let error = configuration["error"].as_str().unwrap_or_default();
    assert!(error.contains("intervall"), "{configuration}");
    Ok(())
}

#[test]
fn doctor_finds_the_agent_that_runs_and_its_pid() -> Result<()> {
    if !ready()? {
        return Ok(());
    }
    let agent = Agent::start("")?;
    let config = agent.folder.path.join("tcpwatch.toml");
    let output = tcpwatch().args(["doctor", "--json", "--config"]).arg(&config).output()?;
    let report = json(&output)?;
    assert_eq!(report["agents"][0]["state"], "running", "{report:#}");
    assert_eq!(report["agents"][0]["pid"], agent.pid(), "{report:#}");
    // The agent says the same of itself.
    let walk = report["walk"]["walk"].as_str().context("no walk")?;
    let scope = format!("tcpwatch_scope_info{{pidns=\"host\",netns=\"host\",walk=\"{walk}\"}}");
    assert_eq!(agent.value(&scope)?, Some(1.0));
    let ready = agent.log()?;
    let ready = ready.lines().find(|line| line.contains("ready")).context("no line says ready")?;
    assert!(ready.contains("not_seen="), "{ready}");
    Ok(())
}

#[test]
fn a_hook_that_is_missing_is_said_and_leaves_the_exit_code() -> Result<()> {
    if !ready()? {
        return Ok(());
    }
    let doctor = json(&tcpwatch().args(["doctor", "--json"]).output()?)?;
    let hooks = doctor["hooks"].as_array().context("no hooks")?;
    let missing: Vec<&Value> = hooks.iter().filter(|hook| hook["attached"] == false).collect();
    let output = tcpwatch().args(["check", "--json"]).output()?;
    assert_ne!(output.status.code(), UNKNOWN, "{output:?}");
    let report = json(&output)?;
    let said = not_seen(&report, "hook")?;
    assert_eq!(said.len(), missing.len(), "{report:#}");
    let text = tcpwatch().arg("check").output()?;
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    for (said, missing) in said.iter().zip(missing) {
        assert_eq!(said["names"][0], missing["hook"]);
        assert_eq!(said["lost"], missing["lost_without"]);
        let lost = missing["lost_without"].as_str().context("no words")?;
        assert!(text.contains(&format!("not seen  {lost}: hook ")), "{text}");
        // A refusal by privilege is not one for want of a trampoline.
        if said["errno"] == "EPERM" {
            let remedy = missing["remedy"].as_str().context("no remedy")?;
            assert!(!remedy.contains("CONFIG_"), "{remedy}");
        }
    }
    Ok(())
}

/// Two namespaces by name and nothing else: a pid namespace shows no other processes.
const TWO_NAMESPACES: &str =
    "mount -t tmpfs none /run/netns && ip netns add one && ip netns add two && ";

#[test]
fn namespaces_that_cannot_be_entered_are_counted_by_name_and_error() -> Result<()> {
    if !ready()? {
        return Ok(());
    }
    fs::create_dir_all("/run/netns")?;
    let folder = Folder::new()?;
    // The one pass enters none.
    let config = folder.write("c.toml", "[inventory]\none_pass = false\n")?;
    let check = |drop: &str, command: &str| -> Result<Value> {
        let iterator = format!("--config {}", config.display());
        let script = format!("{TWO_NAMESPACES} exec setpriv {drop} $TCPWATCH {command} {iterator}");
        json(&in_namespaces(&PIDNS, &script)?)
    };
    let all = check("", "check --json")?;
    assert_eq!(not_seen(&all, "namespaces")?, Vec::<&Value>::new(), "{all:#}");

    let report = check("--bounding-set=-sys_admin", "check --json")?;
    let refused = not_seen(&report, "namespaces")?;
    assert_eq!(refused.len(), 1, "{report:#}");
    assert_eq!((&refused[0]["count"], &refused[0]["errno"]), (&2.into(), &"EPERM".into()));
    let mut names: Vec<&str> =
        refused[0]["names"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["one", "two"], "{report:#}");
    let why = refused[0]["why"].as_str().context("no words")?;
    assert!(why.contains("CAP_SYS_ADMIN"), "{why}");
    Ok(())
}

#[test]
fn counters_of_a_namespace_without_a_process_are_said_not_to_be_seen() -> Result<()> {
    if !ready()? {
        return Ok(());
    }
    fs::create_dir_all("/run/netns")?;
    let doctor = json(&tcpwatch().args(["doctor", "--json"]).output()?)?;
    if doctor["walk"]["walk"] != "one_pass" {
        scenes::note_skip("needs the one pass, which kernels before 6.1 do not have");
        return Ok(());
    }
    let check = |drop: &str| -> Result<Value> {
        json(&in_namespaces(
            &PIDNS,
            &format!("{TWO_NAMESPACES} exec setpriv {drop} $TCPWATCH check --json"),
        )?)
    };
    assert_eq!(not_seen(&check("")?, "namespaces")?, Vec::<&Value>::new());
    let report = check("--bounding-set=-sys_admin")?;
    let unread = not_seen(&report, "namespaces")?;
    assert_eq!(unread.len(), 1, "{report:#}");
    assert_eq!((&unread[0]["count"], &unread[0]["errno"]), (&2.into(), &"EPERM".into()));
    let text = unread[0].to_string();
    assert!(text.contains("counters of 2 network namespaces"), "{text}");
    assert!(text.contains("CAP_SYS_ADMIN"), "{text}");
    Ok(())
}

#[test]
fn namespaces_of_processes_that_may_not_be_read_are_counted_once_each() -> Result<()> {
    if !ready()? {
        return Ok(());
    }
    // Two processes of another user in one namespace, three in this one.
    let script = "
        other_user='setpriv --reuid=65534 --regid=65534 --clear-groups sleep 60'
        mount -t tmpfs none /run/netns
        unshare --net sh -c \"$other_user & exec $other_user\" &
        $other_user & $other_user & $other_user &
        while [ $(grep -l '^sleep$' /proc/[0-9]*/comm | wc -l) != 5 ]; do sleep 0.1; done
        exec setpriv --bounding-set=-sys_ptrace $TCPWATCH check --json";
    let folder = Folder::new()?;
    let iterator = folder.write("c.toml", "[inventory]\none_pass = false\n")?;
    for by in [String::new(), format!(" --config {}", iterator.display())] {
        let report = json(&in_namespaces(&PIDNS, &format!("{script}{by}"))?)?;
        let hidden = not_seen(&report, "namespaces")?;
        assert_eq!(hidden.len(), 1, "{report:#}");
        assert_eq!((&hidden[0]["count"], &hidden[0]["errno"]), (&1.into(), &"EACCES".into()));
        let why = hidden[0]["why"].as_str().context("no words")?;
        assert!(why.contains("CAP_SYS_PTRACE"), "{why}");
    }
    Ok(())
}

#[test]
fn a_check_that_watches_for_a_while_stays_at_home() -> Result<()> {
    if !ready()? {
        return Ok(());
    }
    let _elsewhere = Namespace::new("away")?;
    let folder = Folder::new()?;
    let file = folder.path.join("it.jsonl");
    tcpwatch().args(["check", "--for", "1s", "--record"]).arg(&file).output()?;
    let recording = fs::read_to_string(&file)?;
    let lines = recording.lines().filter(|line| line.starts_with("{\"inventory\""));
    let mut hosts = Vec::new();
    for line in lines {
        let line: Value = serde_json::from_str(line)?;
        let namespaces = line["inventory"]["found"]["namespaces"].as_array();
        let is_host = |namespace: &&Value| namespace["name"] == "host";
        let host = namespaces.context("no namespaces")?.iter().find(is_host);
        hosts.push(host.context("no host")?["id"].clone());
    }
    ensure!(hosts.len() > 2, "{} inventories", hosts.len());
    assert!(hosts.iter().all(|id| *id == hosts[0]), "{hosts:?}");
    Ok(())
}

fn walker(close_wait_limit: usize) -> Result<(Walker, Box<dyn std::any::Any>)> {
    let programs = Programs::load(&LoadOptions::default())?;
    programs.require_indispensable()?;
    let (ring, counters, walker, links) = programs.split(Scope::All, close_wait_limit)?;
    Ok((walker, Box::new((ring, counters, links))))
}

fn close_wait<'a>(inventory: &'a Inventory, ns: &Namespace) -> Result<&'a [CloseWaitSocket]> {
    let mut namespaces = inventory.namespaces.iter();
    let seen = namespaces.find(|seen| *seen.name == *ns.name());
    Ok(&seen.context("the namespace was not walked")?.close_wait)
}

#[test]
fn every_owner_is_looked_up_before_anything_is_judged_at_once() -> Result<()> {
    /// More than one pass over the kernel's owners takes.
    const SOCKETS: usize = 9_000;
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let ns = Namespace::new("owners")?;
    // A service may be described by a quarter of the limit.
    let (mut walker, _others) = walker(SOCKETS * 4)?;
    let _leak = CloseWaitLeak::client(&ns, SOCKETS, 0, false)?;
    let inventory = walker.inventory(OwnerPolicy::AtOnce, &Focus::default())?;
    let sockets = close_wait(&inventory, &ns)?;
    assert_eq!(sockets.len(), SOCKETS);
    let nameless = sockets.iter().filter(|socket| socket.owner.is_none()).count();
    assert_eq!(nameless, 0);
    Ok(())
}

#[test]
fn the_sockets_of_a_process_that_has_ended_keep_its_name() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let ns = Namespace::new("ended")?;
    let (mut walker, _others) = walker(10_000)?;
    let leak = CloseWaitLeak::client(&ns, 3, 0, false)?;
    let sockets = leak.streams();
    // Each is on its way through a Unix socket for good, so that it outlives every process.
    let (sender, _receiver) = UnixStream::pair()?;
    for socket in sockets {
        let fds = [socket.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut message = SendAncillaryBuffer::new(&mut space);
        ensure!(message.push(SendAncillaryMessage::ScmRights(&fds)));
        sendmsg(&sender, &[IoSlice::new(b"x")], &mut message, SendFlags::empty())?;
    }
    // The command goes with its copy of the socket.
    let mut keeper = {
        let socket = std::os::fd::OwnedFd::from(sockets[0].try_clone()?);
        Command::new("sleep").arg("60").stdin(Stdio::from(socket)).spawn()?
    };
    drop(leak);
    let name_of_first = |inventory: &Inventory| -> Result<Vec<String>> {
        let owners = close_wait(inventory, &ns)?.iter().filter_map(|it| it.owner.as_ref());
        Ok(owners.map(|owner| owner.process.name.clone()).collect())
    };
    let named = poll("the keeper to be the owner", || {
        let inventory = walker.inventory(OwnerPolicy::AtOnce, &Focus::default())?;
        let names = name_of_first(&inventory)?;
        Ok((names == ["sleep"]).then_some(names))
    });
    keeper.kill()?;
    keeper.wait()?;
    named?;
    for policy in [OwnerPolicy::OfThoseThatStay, OwnerPolicy::AtOnce] {
        let inventory = walker.inventory(policy, &Focus::default())?;
        assert_eq!(close_wait(&inventory, &ns)?.len(), 3);
        assert_eq!(name_of_first(&inventory)?, ["sleep"], "{policy:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}
