//! Five situations at once, as a person sees them in a terminal of 100 columns and 40 lines.

mod support;

use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::Path,
    process::{Command, Output},
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context, Result, ensure};
use scenes::{CloseWaitLeak, Namespace, PortRange, SelfConnection, TimeWaits};
use serde_json::Value;
use socket2::{Domain, Socket, Type};
use support::{Agent, Folder, poll, tcpwatch};

const QUICK: &str = "[inventory]\ninterval = \"1s\"\n[detect.close_wait_pileup]\nwarning = 10\n\
                     min_age = \"2s\"\n[detect.accept_queue_overflow]\nmin_age = \"1s\"\n";

/// Each kind in a namespace of its own, so that no finding leads another.
const KINDS: [&str; 5] = [
    "close-wait-pileup",
    "time-wait-exhaustion",
    "ephemeral-port-exhaustion",
    "self-connection",
    "accept-queue-overflow",
];

/// The situations; dropping them ends them.
struct Five {
    namespaces: [Namespace; 5],
    _held: Held,
}

type Held = (CloseWaitLeak, TimeWaits, PortRange, SelfConnection, (Socket, Vec<TcpStream>));

impl Five {
    fn make() -> Result<Self> {
        let namespaces: Vec<Namespace> = (1..=5)
            .map(|number| Namespace::new(&format!("five{number}")))
            .collect::<Result<_>>()?;
        let namespaces = <[Namespace; 5]>::try_from(namespaces).ok().context("five")?;
        let [leak, waits, ports, own, queue] = &namespaces;
        let leak = CloseWaitLeak::client(leak, 37, 7_400, false)?;
        waits.sysctl_set("net.ipv4.tcp_max_tw_buckets", "500")?;
        let waits = TimeWaits::make(waits, 490, 7_401)?;
        let mut range = PortRange::new(ports, 40_000..=40_059, 7_402)?;
        range.use_up(range.available(), 0)?;
        ensure!(range.connect_once().is_err(), "a port was left");
        let own = SelfConnection::make(own, Ipv4Addr::LOCALHOST.into())?;
        let full = queue.enter(|| -> io::Result<_> {
            let listener = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 7_403)).into())?;
            listener.listen(2)?;
            let connect = |_| TcpStream::connect((Ipv4Addr::LOCALHOST, 7_403));
            Ok((listener, (0..3).map(connect).collect::<io::Result<Vec<_>>>()?))
        })??;
        Ok(Self { namespaces, _held: (leak, waits, range, own, full) })
    }

    fn filters(&self) -> Vec<String> {
        self.namespaces.iter().flat_map(|it| ["--netns".to_owned(), it.name().to_owned()]).collect()
    }
}

fn check(configuration: &Path, more: &[String]) -> Result<Output> {
    Ok(tcpwatch().arg("check").arg("--config").arg(configuration).args(more).output()?)
}

/// Starts a command in a terminal of tmux, waits until it is `shown`, and returns the screen.
fn screen_of(folder: &Path, line: &str, shown: impl Fn(&str) -> bool) -> Result<String> {
    // A server of its own: the one before it may still be ending.
    static SERVERS: AtomicU32 = AtomicU32::new(0);
    let socket = folder.join(format!("tmux{}", SERVERS.fetch_add(1, Ordering::Relaxed)));
    let tmux = |arguments: &[&str]| -> Result<String> {
        let output = Command::new("tmux").arg("-S").arg(&socket).args(arguments).output()?;
        ensure!(output.status.success(), "{arguments:?}: {output:?}");
        Ok(String::from_utf8(output.stdout)?)
    };
    tmux(&["new-session", "-d", "-x", "100", "-y", "40", line])?;
    let screen = poll("the screen", || {
        Ok(Some(tmux(&["capture-pane", "-p"])?).filter(|screen| shown(screen)))
    });
    tmux(&["kill-server"])?;
    screen
}

#[test]
fn check_has_a_row_for_each_of_five_situations_on_its_first_screen() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let folder = Folder::new()?;
    let socket = folder.path.join("tcpwatch.sock");
    let web = format!("socket = \"{}\"\n", socket.display());
    let agent = Agent::start_with_web(QUICK, &web)?;
    let five = Five::make()?;
    let found = poll("the five findings", || {
        let mut found = BTreeMap::new();
        for (kind, ns) in KINDS.into_iter().zip(&five.namespaces) {
            found.extend(agent.findings(kind, ns.name())?.into_iter().next().map(|it| (kind, it)));
        }
        // The port finding comes by its connect at once, the leak with its age.
        Ok((found.len() == KINDS.len()).then_some(found))
    })?;

    let configuration = folder.write("check.toml", &format!("{QUICK}[web]\n{web}"))?;
    let program = tcpwatch().get_program().to_str().context("a path in UTF-8")?.to_owned();
    let filters = five.filters().join(" ");
    let config = configuration.display();
    let line = format!("exec {program} check --config {config} {filters}");
    let screen = screen_of(&folder.path, &line, |screen| {
        screen.lines().filter(|line| !line.trim().is_empty()).count() >= 38
    })?;
    let lines: Vec<&str> = screen.lines().collect();
    assert!(lines.iter().all(|line| line.chars().count() <= 100), "{screen}");
    assert!(screen.contains("as the running agent sees it"), "{screen}");
    let table = lines.iter().position(|line| line.starts_with("SEVERITY ")).context("no table")?;
    let rows: Vec<&str> =
        lines[table + 1..].iter().take_while(|line| !line.is_empty()).copied().collect();
    for (kind, finding) in &found {
        let row = rows.iter().find(|row| row.contains(kind));
        let row = row.with_context(|| format!("no row of {kind}: {screen}"))?;
        // TIME_WAIT has no process.
        let process = finding["subject"]["process"].as_str();
        assert!(*kind == "time-wait-exhaustion" || process.is_some(), "{finding:#}");
        if let Some(process) = process {
            assert!(row.contains(&process[..process.len().min(8)]), "{process} in {row:?}");
        }
        let severity = finding["severity"].as_str().context("severity")?.to_uppercase();
        assert!(row.starts_with(&severity), "{row:?}");
    }

    // A look of its own knows the width too, which a process that is confined cannot find out.
    let line = format!("exec {program} check --fresh --config {config} {filters}");
    let fresh = screen_of(&folder.path, &line, |screen| screen.contains("one look of its own"))?;
    assert!(fresh.lines().any(|line| line.chars().count() > 80), "{fresh}");

    // The same findings by `check --json` and by the API.
    let mut arguments = five.filters();
    arguments.push("--json".to_owned());
    let printed: Value = serde_json::from_slice(&check(&configuration, &arguments)?.stdout)?;
    let answer = support::http_get(agent.address, "/api/v1/findings")?;
    let api: Value = serde_json::from_str(&answer.body)?;
    let by_id = |document: &Value| -> Result<BTreeMap<String, [Value; 4]>> {
        let findings = document["findings"].as_array().context("findings")?;
        let in_five = |finding: &&Value| {
            five.namespaces.iter().any(|it| finding["subject"]["netns"] == it.name())
        };
        let keys = ["kind", "severity", "since", "remedies"];
        let text = |it: &Value| it["id"].as_str().unwrap_or_default().to_owned();
        let same = |it: &Value| (text(it), keys.map(|key| it[key].clone()));
        Ok(findings.iter().filter(in_five).map(same).collect())
    };
    let printed = by_id(&printed)?;
    assert!(printed.len() >= KINDS.len(), "{printed:#?}");
    assert_eq!(printed, by_id(&api)?);
    Ok(())
}
