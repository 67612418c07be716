//! nginx under wrk with and without keep-alive, HAProxy in front of 60 servers that it checks, and
//! a server that closes some seconds after its clients.

use anyhow::Result;

use crate::stage::{Scene, Stage};

const PORT: u16 = 8_080;

pub(crate) const SCENES: &[Scene] = &[
    Scene {
        group: "web",
        name: "keep-alive",
        needs: &["nginx", "wrk"],
        play: |s| wrk(s, &[], 100),
    },
    Scene {
        group: "web",
        name: "no-keep-alive",
        needs: &["nginx", "wrk"],
        play: |s| wrk(s, &["--header", "Connection: close"], 2_000),
    },
    Scene { group: "web", name: "haproxy-checks", needs: &["nginx", "haproxy"], play: haproxy },
    Scene { group: "web", name: "late-closers", needs: &["python3"], play: late_closers },
];

/// nginx with two workers, under a load of 100 connections at a time.
fn wrk(stage: &Stage, header: &[&str], connections: u64) -> Result<()> {
    // Without keep-alive each of the client's 28,232 ports is in TIME_WAIT on the server's side in
    // the end. The limit is half the size of a hash table, so it depends on the host's memory: one
    // of 8 GB would be right to warn.
    stage.ns.sysctl_set("net.ipv4.tcp_max_tw_buckets", "131072")?;
    let mut server = stage.nginx(
        &format!("server {{ listen 127.0.0.1:{PORT}; location / {{ return 200 \"well\\n\"; }} }}"),
        PORT,
    )?;
    let url = format!("http://127.0.0.1:{PORT}/");
    let load = ["--threads", "2", "--connections", "100", "--duration", "6"];
    while stage.wait_until_warm() {
        stage.finish(stage.run("wrk", &[&load[..], header, &[url.as_str()]].concat())?)?;
    }
    stage.keep(&mut [&mut server])?;
    stage.must_have_accepted(connections)
}

/// Checks with the defaults, every 2 s for each server; each ends in a reset by SO_LINGER 0.
fn haproxy(stage: &Stage) -> Result<()> {
    let mut checked = stage.nginx(
        &format!("server {{ listen {PORT}; location / {{ return 200 \"well\\n\"; }} }}"),
        PORT,
    )?;
    if !stage.wait_until_warm() {
        return Ok(());
    }
    let servers: Vec<_> =
        (1..=60).map(|n| format!("  server s{n} 127.0.1.{n}:{PORT} check\n")).collect();
    let text = format!(
        "global\n  maxconn 500\ndefaults\n  mode tcp\n  timeout connect 2s\n  timeout client 5s\n  \
         timeout server 5s\nlisten web\n  bind 127.0.0.1:8090\n{}",
        servers.concat()
    );
    let file = stage.folder.write("haproxy.cfg", &text)?.display().to_string();
    let mut balancer = stage.run("haproxy", &["-db", "-f", &file])?;
    stage.keep(&mut [&mut checked, &mut balancer])?;
    stage.must_have_reset(1_000)
}

/// 50 connections a second whose server closes each 5 s after its client: at every moment some 250
/// in CLOSE_WAIT.
fn late_closers(stage: &Stage) -> Result<()> {
    let mut pair = stage.python("late_closers.py", &["7000"])?;
    stage.keep(&mut [&mut pair])?;
    stage.must_have_accepted(2_000)
}
