//! The end of a part ends the agent, with the part's reason.

use std::{net::SocketAddr, sync::atomic::AtomicBool, time::Duration};

use tokio::time::timeout;

use super::*;
use crate::cli::Exit;

/// Runs a real agent of which `break_it` has taken a part; returns how it ended.
fn end_of(break_it: impl FnOnce(&mut Agent, &mut Server)) -> RunError {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let mut config = Config::default();
        config.web.listen_addresses = vec![SocketAddr::from(([127, 0, 0, 1], 0))];
        // Several run at once, and one agent serves a socket.
        config.web.socket = std::path::PathBuf::new();
        let source = ConfigSource { path: None, overrides: std::sync::Arc::new(|_| {}) };
        let (mut agent, mut server, signals, links) =
            start(source, config, Access::default()).await.expect("an agent that starts");
        break_it(&mut agent, &mut server);
        let ended = timeout(Duration::from_secs(60), agent.run(server, signals, links)).await;
        ended.expect("it ends").expect_err("it ends with a reason")
    })
}

#[test]
fn panic_of_the_inventory_thread_ends_the_agent_with_its_reason() {
    if !scenes::root_or_skip() {
        return;
    }
    let error = end_of(|agent, _| {
        let dies = WalkerThread::spawn_with(AtomicBool::new(false).into(), |_| {
            panic!("no such table: {}", 7)
        });
        agent.walker = dies.expect("a thread");
    });
    let reason = "the inventory thread has ended: panicked: no such table: 7";
    assert_eq!(error.to_string(), reason);
    assert_eq!(Exit::run(&error), Exit::Failed);
}

#[test]
fn end_of_the_http_server_ends_the_agent_with_its_reason() {
    if !scenes::root_or_skip() {
        return;
    }
    let error = end_of(|_, server| server.task = tokio::spawn(async { panic!("no such path") }));
    assert_eq!(error.to_string(), "the HTTP server has ended: panicked: no such path");
    assert_eq!(Exit::run(&error), Exit::Failed);

    let error = end_of(|_, server| server.task = tokio::spawn(async {}));
    assert_eq!(error.to_string(), "the HTTP server has ended: it has returned");
}
