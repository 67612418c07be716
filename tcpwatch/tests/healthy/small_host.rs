//! A virtual machine of 1 GiB, whose tcp_max_tw_buckets is 4096, at 81 closes a second: all day a
//! little more than fits into TIME_WAIT, and no connection fails because of it.

use anyhow::{Result, ensure};

use crate::stage::{Scene, Stage};

const PORT: u16 = 8_080;

pub(crate) const SCENES: &[Scene] =
    &[Scene { group: "small-host", name: "small-host", needs: &["nginx", "python3"], play }];

fn play(stage: &Stage) -> Result<()> {
    stage.ns.sysctl_set("net.ipv4.tcp_max_tw_buckets", "4096")?;
    let server = format!(
        "keepalive_timeout 0;\n\
         server {{ listen 127.0.0.1:{PORT}; location / {{ return 200 \"well\\n\"; }} }}"
    );
    let mut server = stage.nginx(&server, PORT)?;
    let mut client = stage.python("ask.py", &[&format!("http://127.0.0.1:{PORT}/"), "81"])?;
    stage.keep(&mut [&mut server, &mut client])?;
    let skipped = stage.ns.netstat_counter("TCPTimeWaitOverflow")?;
    ensure!(skipped > 500, "only {skipped} sockets were closed without TIME_WAIT");
    Ok(())
}
