//! Connections that are kept: a server that ends idle ones before its clients' pool does, and clients
//! that lose their network or stop reading.

use anyhow::Result;

use crate::stage::{Scene, Stage};

const PORT: u16 = 8_080;

pub(crate) const SCENES: &[Scene] = &[
    Scene { group: "kept", name: "reopening-pool", needs: &["nginx", "node"], play: reopening },
    Scene { group: "kept", name: "phones-600", needs: &["python3"], play: phones },
];

/// nginx ends what is idle for 5 s; Node's pool notices, and opens a connection for the next request.
fn reopening(stage: &Stage) -> Result<()> {
    let mut server = stage.nginx(
        &format!(
            "keepalive_timeout 5s; server {{ listen 127.0.0.1:{PORT}; \
             location / {{ return 200 \"well\\n\"; }} }}"
        ),
        PORT,
    )?;
    let script = stage.program("reopening_pool.js").display().to_string();
    let mut client = stage.run("node", &[&script, &PORT.to_string()])?;
    stage.keep(&mut [&mut server, &mut client])?;
    stage.must_have_accepted(60)
}

fn phones(stage: &Stage) -> Result<()> {
    let mut program = stage.python("phones.py", &["7001"])?;
    stage.keep(&mut [&mut program])?;
    stage.must_have_accepted(600)
}
