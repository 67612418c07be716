//! A host under a scan, by FIN and by ACK: it answers each segment with a reset, and that is
//! all there is to it.

use std::process::Command;

use anyhow::{Result, ensure};
use scenes::Namespace;

use crate::stage::{Scene, Stage, command_in, find};

pub(crate) const SCENES: &[Scene] = &[
    Scene { group: "scans", name: "fin-scan", needs: &["nmap", "nginx"], play: |s| scan(s, "-sF") },
    Scene { group: "scans", name: "ack-scan", needs: &["nmap", "nginx"], play: |s| scan(s, "-sA") },
];

const HOST: &str = "192.0.2.1";
const SCANNER: &str = "192.0.2.2";

/// All ports from a neighbour, twice.
fn scan(stage: &Stage, how: &str) -> Result<()> {
    let neighbour = Namespace::new("scanner")?;
    let ip = |ns: &Namespace, args: &[&str]| -> Result<()> {
        let status = Command::new("ip").args(["-n", ns.name()]).args(args).status()?;
        ensure!(status.success(), "ip {args:?}");
        Ok(())
    };
    let peer = ["peer", "name", "eth0", "netns", neighbour.name()];
    ip(&stage.ns, &[&["link", "add", "eth0", "type", "veth"][..], &peer].concat())?;
    for (ns, address) in [(&stage.ns, HOST), (&neighbour, SCANNER)] {
        ip(ns, &["address", "add", &format!("{address}/24"), "dev", "eth0"])?;
        ip(ns, &["link", "set", "eth0", "up"])?;
    }
    let mut server =
        stage.nginx("server { listen 80; location / { return 200 \"well\\n\"; } }", 80)?;
    let nmap = find("nmap").unwrap_or_default();
    let mut scans = 0;
    while scans < 2 && stage.wait_until_warm() {
        let mut command = command_in(&neighbour, &nmap);
        command.args([how, "-n", "-Pn", "-p-", "--max-retries", "1", "--min-rate", "3000", HOST]);
        if let Some(said) = stage.finish(stage.start("nmap.log", &mut command)?)? {
            ensure!(said.contains("Nmap done: 1 IP address"), "nmap did nothing: {said}");
            scans += 1;
        }
    }
    stage.keep(&mut [&mut server])?;
    // Each port but one answers.
    stage.must_have_reset(60_000)
}
