//! `[inventory] namespaces = "host"`: nothing that happens in another network namespace shows.
//!
//! The agent runs in a namespace of the test, which is its host then: on the real one other tests
//! make sockets too. Its own HTTP is the only TCP there, and resets nothing.

mod support;

use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, TcpListener, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use scenes::{CloseWaitLeak, Namespace, SelfConnection};
use socket2::SockRef;
use support::{Agent, poll};

/// Things of each kind that happen.
const MANY: u16 = 300;

/// Transitions of both sockets of one connection to the agent, which closes first, at most: five of
/// the client, six of the agent's.
const TRANSITIONS_OF_A_CONNECTION: u32 = 11;

/// Each detector that a single look can raise is as sensitive as it can be.
const CONFIG: &str = "\
    [inventory]\ninterval = \"1s\"\nnamespaces = \"host\"\n\
    [detect.close_wait_pileup]\nmin_age = \"0s\"\nwarning = 1\n\
    [detect.reset_storm]\nwindow = \"1s\"\nhistory = \"10s\"\nfactor = 2\nwarning = 50\n";

#[test]
fn another_namespace_shows_nowhere_with_namespaces_host() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let (home, other) = (Namespace::new("home")?, Namespace::new("other")?);
    home.enter(|| -> Result<()> {
        let agent = Agent::start(CONFIG)?;
        // Beyond the cold start of reset-storm.
        for _ in 0..4 {
            agent.wait_for_inventory()?;
        }
        let before = Seen::by(&agent)?;
        make_everything(&other)?;
        let leak = CloseWaitLeak::client(&other, 30, 0, false)?;
        agent.wait_for_inventory()?;
        agent.wait_for_inventory()?;
        let after = Seen::by(&agent)?;
        let (was, is) = (before.exact(), after.exact());
        ensure!(was == is, "counters moved: {was:#?} to {is:#?}");
        let moved = after.transitions - before.transitions;
        // The sockets of one connection may not be closed yet when the metrics answer.
        let own = (after.connections - before.connections + 1) * TRANSITIONS_OF_A_CONNECTION;
        ensure!(moved <= f64::from(own), "{moved} transitions, {own} of the agent's own HTTP");
        // A leak of one kind is more than the bound has to spare.
        ensure!(f64::from(own) - moved < f64::from(2 * MANY), "{moved} transitions, {own} allowed");
        let findings = agent.all_findings()?;
        ensure!(findings.is_empty(), "findings of another namespace: {findings:#?}");
        drop(leak);

        make_everything(&home)?;
        let many = f64::from(MANY);
        agent.wait_for_inventory()?;
        let now = Seen::by(&agent)?;
        let rose = |pick: fn(&Seen) -> f64| pick(&now) - pick(&after);
        let counted = [
            rose(|it| it.refused),
            rose(|it| it.no_listener),
            rose(|it| it.half_open),
            rose(|it| it.linger_zero),
            rose(|it| it.received_syn_sent),
            rose(|it| it.received_established),
        ];
        // A segment that overtakes another, where a process changes its CPU, is answered otherwise.
        let is_all = |count: &f64| (count - many).abs() <= many * 0.05;
        ensure!(counted.iter().all(is_all), "{counted:?} of {many} in the agent's own namespace");
        ensure!(rose(|it| it.self_connections) == 1.0, "the self-connection is not counted");
        ensure!(rose(|it| it.close_wait) >= many, "CLOSE_WAIT is not counted");
        // By the log: with a window of a second it clears within the next.
        poll("the storm of the agent's own namespace", || {
            let log = agent.log()?;
            let mut raised = log.lines().filter(|line| line.contains("raised: "));
            Ok(raised.any(|line| line.contains("finding=\"reset-storm\"")).then_some(()))
        })
    })?
}

#[test]
fn reload_changes_which_namespaces_are_counted() -> Result<()> {
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let (home, other) = (Namespace::new("home")?, Namespace::new("other")?);
    home.enter(|| -> Result<()> {
        // One that starts with "host" has given up what "all" takes.
        let agent = Agent::start(&CONFIG.replace("\"host\"", "\"all\""))?;
        let refused = |agent: &Agent| Ok::<_, anyhow::Error>(Seen::by(agent)?.no_listener);
        let reload = |namespaces: &str| -> Result<()> {
            let web = format!("[web]\nsocket = \"\"\nlisten_addresses = [\"{}\"]\n", agent.address);
            let text = format!("[inventory]\ninterval = \"1s\"\nnamespaces = \"{namespaces}\"\n");
            agent.folder.write("tcpwatch.toml", &format!("{text}{web}"))?;
            agent.signal(libc::SIGHUP)?;
            agent.wait_for_inventory()?;
            agent.wait_for_inventory()
        };
        // Connects of tests in other namespaces count with "all" as well.
        let added = |agent: &Agent| -> Result<f64> {
            let before = refused(agent)?;
            no_listener(&other)?;
            Ok(refused(agent)? - before)
        };
        let counted = added(&agent)?;
        ensure!(counted >= f64::from(MANY), "{counted} counted with \"all\"");
        reload("host")?;
        let counted = added(&agent)?;
        ensure!(counted == 0.0, "{counted} counted with \"host\"");
        reload("all")?;
        let counted = added(&agent)?;
        ensure!(counted >= f64::from(MANY), "{counted} counted with \"all\" again");
        Ok(())
    })?
}

/// Values of the metrics.
#[derive(Debug)]
struct Seen {
    refused: f64,
    no_listener: f64,
    half_open: f64,
    linger_zero: f64,
    received_syn_sent: f64,
    received_established: f64,
    self_connections: f64,
    close_wait: f64,
    transitions: f64,
    resets: f64,
    /// Of this test to the agent until then.
    connections: u32,
}

impl Seen {
    fn by(agent: &Agent) -> Result<Self> {
        let connections = support::http_connections();
        let metrics = agent.metrics_of_now()?;
        let sum = |name: &str, label: &str| support::sum_in(&metrics, name, &[label]);
        let sent = |cause: &str| sum("tcpwatch_resets_sent_total", &format!("cause=\"{cause}\""));
        let received =
            |state: &str| sum("tcpwatch_resets_received_total", &format!("state=\"{state}\""));
        Ok(Self {
            refused: sum("tcpwatch_connect_failures_total", "reason=\"refused\""),
            no_listener: sent("no_listener"),
            half_open: sent("half_open"),
            linger_zero: sent("linger_zero"),
            received_syn_sent: received("syn_sent"),
            received_established: received("established"),
            self_connections: sum("tcpwatch_self_connections_total", ""),
            close_wait: support::value_in(&metrics, "tcpwatch_close_wait_duration_seconds_count")
                .context("a histogram without count")?,
            transitions: sum("tcpwatch_state_transitions_total", ""),
            resets: sum("tcpwatch_resets_sent_total", "")
                + sum("tcpwatch_resets_received_total", ""),
            connections,
        })
    }

    /// Values that the HTTP of the agent does not change.
    fn exact(&self) -> [f64; 3] {
        [self.refused, self.self_connections, self.resets]
    }
}

fn make_everything(ns: &Namespace) -> Result<()> {
    no_listener(ns)?;
    scenes::stray_acks(ns, MANY, 9)?;
    ns.enter(|| -> Result<()> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        for _ in 0..MANY {
            let (client, _server) = pair(&listener)?;
            SockRef::from(&client).set_linger(Some(Duration::ZERO))?;
            drop(client);
        }
        for _ in 0..MANY {
            let (mut client, mut server) = pair(&listener)?;
            client.write_all(b"x")?;
            ensure!(server.read(&mut [0])? == 1, "a byte that is not there");
            drop(client);
            // In CLOSE_WAIT from the end of the stream to its own close.
            ensure!(server.read(&mut [0])? == 0, "a stream without end");
        }
        Ok(())
    })??;
    SelfConnection::make(ns, IpAddr::V4(Ipv4Addr::LOCALHOST))?.close();
    Ok(())
}

/// connect() to a port on which nothing listens.
fn no_listener(ns: &Namespace) -> Result<()> {
    ns.enter(|| -> Result<()> {
        for _ in 0..MANY {
            let refused = TcpStream::connect((Ipv4Addr::LOCALHOST, 9));
            ensure!(refused.is_err(), "port 9 has a listener");
        }
        Ok(())
    })?
}

fn pair(listener: &TcpListener) -> Result<(TcpStream, TcpStream)> {
    let client = TcpStream::connect(listener.local_addr()?)?;
    let (server, _) = listener.accept()?;
    Ok((client, server))
}
