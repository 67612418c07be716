//! Connections that are half-closed on purpose, on real sockets: in use they are no leak, and when
//! the server has forgotten them they are one.

mod support;

use std::{
    io::Write,
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Result, ensure};
use scenes::{Namespace, State};
use support::{Agent, poll};

const KIND: &str = "close-wait-pileup";
/// More than `warning`.
const STREAMS: usize = 40;

#[test]
fn streams_to_clients_that_shut_down_their_side_are_a_leak_only_when_they_fall_silent() -> Result<()>
{
    if !scenes::root_or_skip() {
        return Ok(());
    }
    let agent = Agent::start_quick()?;
    let ns = Namespace::new("streams")?;
    let (clients, servers) = ns.enter(|| -> Result<_> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let (mut clients, mut servers) = (Vec::new(), Vec::new());
        for _ in 0..STREAMS {
            let client = TcpStream::connect(listener.local_addr()?)?;
            servers.push(listener.accept()?.0);
            client.shutdown(Shutdown::Write)?;
            clients.push(client);
        }
        Ok((clients, servers))
    })??;
    let is_over = Arc::new(AtomicBool::new(false));
    let streaming = thread::spawn({
        let is_over = Arc::clone(&is_over);
        move || -> Result<Vec<TcpStream>> {
            while !is_over.load(Ordering::Relaxed) {
                for mut server in &servers {
                    server.write_all(b"a line of a log\n")?;
                }
                thread::sleep(Duration::from_millis(200));
            }
            Ok(servers)
        }
    });
    ensure!(ns.ss_count(State::CloseWait)? == STREAMS, "not all are in CLOSE_WAIT");
    // Longer than twice min_age.
    for _ in 0..8 {
        agent.wait_for_inventory()?;
        let findings = agent.findings(KIND, ns.name())?;
        assert!(findings.is_empty(), "{findings:#?}");
    }
    is_over.store(true, Ordering::Relaxed);
    let servers = streaming.join().expect("the thread does not panic")?;
    let finding = poll("a leak of what is silent", || Ok(agent.findings(KIND, ns.name())?.pop()))?;
    assert_eq!(finding["evidence"]["sockets"], STREAMS, "{finding:#}");
    assert_eq!(finding["severity"], "warning", "{finding:#}");
    drop((clients, servers));
    Ok(())
}
