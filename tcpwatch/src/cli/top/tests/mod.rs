//! A session without a terminal: fixed snapshots, keys, and what is drawn.

mod keys;
mod views;

use std::time::Duration;

use ratatui::{
    Terminal,
    backend::TestBackend,
    buffer::Buffer,
    crossterm::event::{KeyCode, KeyEvent, KeyModifiers},
};
use serde_json::{Value, json};

use super::{
    snapshot::Snapshot,
    state::{Command, Origin, State},
    view,
};

const INTERVAL: Duration = Duration::from_secs(2);

/// The metrics of an agent after so many steps.
fn metrics(step: u32) -> String {
    let (connects, refused, linger) = (1_000 + 40 * step, 40 + step * step, 7 + step / 3);
    format!(
        r#"# HELP tcpwatch_sockets TCP sockets by state at the last inventory.
tcpwatch_sockets{{netns="host",state="established"}} 1204
tcpwatch_sockets{{netns="host",state="close_wait"}} 210
tcpwatch_sockets{{netns="host",state="time_wait"}} 8000
tcpwatch_sockets{{netns="host",state="listen"}} 12
tcpwatch_sockets{{netns="0a1b2c3d4e5f",state="established"}} 3
tcpwatch_sockets{{netns="0a1b2c3d4e5f",state="time_wait"}} 4100
tcpwatch_ephemeral_ports_used{{netns="host"}} 3100
tcpwatch_ephemeral_ports_available{{netns="host"}} 28232
tcpwatch_ephemeral_ports_used{{netns="0a1b2c3d4e5f"}} 27900
tcpwatch_ephemeral_ports_available{{netns="0a1b2c3d4e5f"}} 28232
tcpwatch_time_wait_limit{{netns="host"}} 262144
tcpwatch_time_wait_limit{{netns="0a1b2c3d4e5f"}} 4096
tcpwatch_time_wait_overflows_total{{netns="host"}} 0
tcpwatch_time_wait_overflows_total{{netns="0a1b2c3d4e5f"}} {overflows}
tcpwatch_self_connected_sockets{{netns="host"}} 1
tcpwatch_self_connected_sockets{{netns="0a1b2c3d4e5f"}} 0
tcpwatch_close_wait_sockets{{netns="host",process="backupd",unit="backup.service",role="client",port="443"}} 207
tcpwatch_close_wait_oldest_seconds{{netns="host",process="backupd",unit="backup.service",role="client",port="443"}} 86400.5
tcpwatch_close_wait_sockets{{netns="host",process="other",unit="",role="",port=""}} 3
tcpwatch_close_wait_oldest_seconds{{netns="host",process="other",unit="",role="",port=""}} 12
tcpwatch_connect_failures_total{{netns="host",process="backupd",unit="backup.service",reason="refused"}} {refused}
tcpwatch_connect_failures_total{{netns="host",process="backupd",unit="backup.service",reason="timed_out"}} 2
tcpwatch_connect_failures_total{{netns="0a1b2c3d4e5f",process="crawler",unit="0a1b2c3d4e5f",reason="no_local_port"}} 9
tcpwatch_accept_queue_sockets{{netns="host",process="nginx",unit="nginx.service",port="80"}} 129
tcpwatch_accept_queue_limit{{netns="host",process="nginx",unit="nginx.service",port="80"}} 128
tcpwatch_half_open_sockets{{netns="host",process="nginx",unit="nginx.service",port="80"}} 4
tcpwatch_accept_queue_sockets{{netns="host",process="sshd",unit="ssh.service",port="22"}} 0
tcpwatch_accept_queue_limit{{netns="host",process="sshd",unit="ssh.service",port="22"}} 4096
tcpwatch_half_open_sockets{{netns="host",process="sshd",unit="ssh.service",port="22"}} 0
tcpwatch_listen_drops_total{{netns="host"}} {drops}
tcpwatch_listen_overflows_total{{netns="host"}} {drops}
tcpwatch_syncookies_sent_total{{netns="host"}} 0
tcpwatch_state_transitions_total{{from="close",to="syn_sent"}} {connects}
tcpwatch_state_transitions_total{{from="established",to="close_wait"}} 900
tcpwatch_resets_sent_total{{cause="no_listener"}} 11
tcpwatch_resets_sent_total{{cause="linger_zero"}} {linger}
tcpwatch_resets_received_total{{state="syn_sent"}} {refused}
tcpwatch_events_lost_total{{stage="ring_buffer"}} 0
tcpwatch_inventory_timestamp_seconds 1795000000.5
"#,
        overflows = 17 * step,
        drops = 3 * step,
    )
}

fn finding(id: &str, kind: &str, severity: &str, title: &str, subject: Value) -> Value {
    json!({
        "id": id,
        "kind": kind,
        "severity": severity,
        "title": title,
        "explanation": "The peers have closed; only close() by this process frees the sockets.",
        "evidence": { "limit_descriptors": 1024, "sockets": 207 },
        "subject": subject,
        "remedies": [
            "Look at them: `ss -tnpo state close-wait '( dport = :443 )'` (Recv-Q is unread data)",
            "Restart it when that hurts least: `systemctl restart backup.service`",
        ],
        "related": [],
        "runbook": format!("http://localhost:10743/runbooks/{kind}"),
        "since": "2026-11-18T11:00:00.000Z",
        "last_seen": "2026-11-18T11:06:40.000Z",
    })
}

/// The findings of an agent.
fn findings() -> Value {
    let backupd = json!({
        "netns": "host", "process": "backupd", "pid": 812, "exe": "/usr/sbin/backupd",
        "unit": "backup.service", "role": "client", "peer": "10.0.0.9:443", "port": 443,
    });
    let crawler = json!({
        "netns": "0a1b2c3d4e5f", "process": "crawler", "pid": 2210, "container": "0a1b2c3d4e5f",
        "role": "client", "peer": "192.0.2.80:8080", "port": 8080,
    });
    let host = json!({ "netns": "0a1b2c3d4e5f" });
    let title = "backupd (pid 812) keeps 207 connections to 10.0.0.9:443 in CLOSE_WAIT, the oldest \
                 for 24 h";
    let mut time_wait = finding(
        "time-wait-exhaustion/0a1b2c3d4e5f",
        "time-wait-exhaustion",
        "warning",
        "tcp_max_tw_buckets reached: sockets are destroyed without TIME_WAIT",
        host,
    );
    time_wait["led_by"] = json!("ephemeral-port-exhaustion/0a1b2c3d4e5f");
    json!({
        "schema_version": 1,
        "generated_at": "2026-11-18T11:06:43.500Z",
        "host": "web-1",
        "version": "0.1.0",
        "kernel": "6.18.0",
        "sockets": 13_529,
        "network_namespaces": 2,
        "url": "http://localhost:10743",
        "hooks": [],
        "not_seen": [{
            "what": "hook", "names": ["tcp_send_reset"], "lost": "the causes of resets",
            "why": "the hook tcp_send_reset is not attached", "hides_host": false,
        }],
        "findings": [
            finding("close-wait-pileup/host/812", "close-wait-pileup", "warning", title, backupd),
            finding(
                "ephemeral-port-exhaustion/0a1b2c3d4e5f",
                "ephemeral-port-exhaustion",
                "critical",
                "27,900 of 28,232 ports to 192.0.2.80:8080 are taken",
                crawler,
            ),
            time_wait,
        ],
    })
}

fn snapshot_of(metrics: &str, findings: &Value) -> Snapshot {
    Snapshot::read(metrics, findings.to_string().as_bytes()).expect("a snapshot")
}

fn snapshot(step: u32) -> Snapshot {
    snapshot_of(&metrics(step), &findings())
}

/// After a minute at an agent.
fn session() -> State {
    let mut state = State::new(Origin::Agent, INTERVAL);
    for step in 0..30 {
        state.handle_snapshot(INTERVAL * step, snapshot(step));
    }
    state
}

fn press(state: &mut State, keys: &[KeyCode]) -> Option<Command> {
    let pressed = keys.iter().map(|code| state.handle_key(KeyEvent::from(*code)));
    pressed.last().flatten()
}

fn type_in(state: &mut State, text: &str) {
    for character in text.chars() {
        state.handle_key(KeyEvent::from(KeyCode::Char(character)));
    }
}

fn control(character: char) -> KeyEvent {
    KeyEvent::new(KeyCode::Char(character), KeyModifiers::CONTROL)
}

fn drawn(state: &mut State, (columns, rows): (u16, u16), is_coloured: bool) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(columns, rows)).expect("a terminal");
    terminal.draw(|frame| view::draw(frame, state, is_coloured)).expect("a drawing");
    terminal.backend().buffer().clone()
}

/// The lines that are shown, without the blanks at their ends.
fn shown(state: &mut State, size: (u16, u16)) -> String {
    let buffer = drawn(state, size, true);
    let lines = buffer.content.chunks(size.0.into()).map(|line| {
        let line: String = line.iter().map(|cell| cell.symbol()).collect();
        line.trim_end().to_owned() + "\n"
    });
    lines.collect()
}
