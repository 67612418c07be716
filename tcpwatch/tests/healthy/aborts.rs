//! Programs that abort connections by design: RabbitMQ's SO_LINGER 0, and viewers who leave in the
//! middle of a download.

use std::{fs::File, path::Path, process::Command};

use anyhow::Result;

use crate::stage::{Scene, Stage};

const AMQP: u16 = 5_672;
const MEDIA: u16 = 8_080;

/// Debian's own name for it is a shell script that changes to the user's home.
const RABBITMQ: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";

/// A film that no client takes to its end.
const FILM_BYTES: u64 = 256 << 20;

pub(crate) const SCENES: &[Scene] = &[
    Scene { group: "aborts", name: "rabbitmq", needs: &[RABBITMQ, "python3"], play: rabbitmq },
    Scene { group: "aborts", name: "downloads", needs: &["nginx", "python3"], play: downloads },
];

/// RabbitMQ as installed, with its files in the folder of the scene. Its clients connect for each
/// message.
fn rabbitmq(stage: &Stage) -> Result<()> {
    let folder = stage.folder.path.join("rabbitmq");
    let mut install = Command::new("install");
    install.args(["-d", "-o", "rabbitmq", "-g", "rabbitmq"]).arg(&folder);
    stage.start("install.log", &mut install)?.finish()?;
    let mut command = stage.command(Path::new("setpriv"));
    command.args(["--reuid=rabbitmq", "--regid=rabbitmq", "--clear-groups"]);
    // A change of user forgets whose death is to be one's own.
    command.args(["--pdeathsig=KILL", "--"]).arg(RABBITMQ);
    command.env("HOME", &folder).env("RABBITMQ_NODENAME", "rabbit@localhost");
    command.env("RABBITMQ_CONF_ENV_FILE", "/dev/null");
    for (variable, file) in [
        ("RABBITMQ_MNESIA_BASE", "mnesia"),
        ("RABBITMQ_LOG_BASE", "log"),
        ("RABBITMQ_ENABLED_PLUGINS_FILE", "plugins"),
    ] {
        command.env(variable, folder.join(file));
    }
    let mut server = stage.start("rabbitmq.log", command.current_dir(&folder))?;
    stage.wait_for_listener(&mut server, AMQP)?;
    if !stage.wait_until_warm() {
        return Ok(());
    }
    // RabbitMQ takes 100 ms to open a connection, and each of these has one at a time.
    let client = || stage.python("amqp.py", &[&AMQP.to_string(), "10"]);
    let (mut first, mut second, mut third) = (client()?, client()?, client()?);
    stage.keep(&mut [&mut server, &mut first, &mut second, &mut third])?;
    stage.must_have_reset(1_000)
}

/// 15 viewers a second who leave.
fn downloads(stage: &Stage) -> Result<()> {
    File::create(stage.folder.path.join("film"))?.set_len(FILM_BYTES)?;
    let root = stage.folder.path.display();
    let server = format!("sendfile on; server {{ listen 127.0.0.1:{MEDIA}; root {root}; }}");
    let mut server = stage.nginx(&server, MEDIA)?;
    if !stage.wait_until_warm() {
        return Ok(());
    }
    let mut viewers = stage.python("viewers.py", &[&MEDIA.to_string(), "15"])?;
    stage.keep(&mut [&mut server, &mut viewers])?;
    stage.must_have_reset(1_000)
}
