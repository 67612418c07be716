//! An agent with a web configuration, and the clients that read from it.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::SocketAddr,
    os::unix::net::UnixStream,
    path::PathBuf,
    process::{Command, Output},
    time::Duration,
};

use anyhow::{Context, Result};

use crate::support::{Daemon, Folder, free_address, poll, tcpwatch};

/// A running agent with a web configuration file.
pub(crate) struct Secured<'a> {
    pub(crate) address: SocketAddr,
    folder: &'a Folder,
    daemon: Daemon,
}

impl<'a> Secured<'a> {
    /// Starts it with this text as its web configuration, next to the certificates in `folder`.
    /// Waits on its UNIX socket, which takes neither TLS nor a password, until it is ready.
    pub(crate) fn start(folder: &'a Folder, web: &str) -> Result<Self> {
        let address = free_address()?;
        let socket = folder.path.join("tcpwatch.sock");
        let web = folder.write("web.yml", web)?;
        let config = folder.write(
            "tcpwatch.toml",
            &format!(
                "[inventory]\ninterval = \"1s\"\n[web]\nsocket = {socket:?}\n\
                 listen_addresses = [\"{address}\"]\n"
            ),
        )?;
        let mut command = tcpwatch();
        command.arg("run").arg("--config").arg(config).arg("--web.config.file").arg(web);
        let daemon = Daemon::start(&mut command, &folder.path.join("tcpwatch.log"))?;
        let mut agent = Self { address, folder, daemon };
        poll("the agent to be ready", || {
            agent.daemon.must_run()?;
            Ok(get_unix(&socket, "/-/ready").ok().filter(|answer| answer.contains(" 200 ")))
        })?;
        Ok(agent)
    }

    pub(crate) fn log(&self) -> Result<String> {
        Ok(fs::read_to_string(self.folder.path.join("tcpwatch.log"))?)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.daemon.pid()
    }

    pub(crate) fn must_run(&mut self) -> Result<()> {
        self.daemon.must_run()
    }

    /// curl with TLS and the authority `ca.pem`.
    pub(crate) fn curl(&self, path: &str, more: &[&str]) -> Result<Curled> {
        let authority = self.folder.path.join("ca.pem");
        let output = Command::new("curl")
            .args(["--silent", "--show-error", "--include", "--max-time", "20", "--cacert"])
            .arg(authority)
            .args(more)
            .arg(format!("https://{}{path}", self.address))
            .current_dir(&self.folder.path)
            .output()?;
        Curled::of(&output)
    }

    /// openssl s_client, which reports the connection that it gets.
    pub(crate) fn s_client(&self, more: &[&str]) -> Result<Output> {
        let output = Command::new("timeout")
            .args(["20", "openssl", "s_client", "-connect", &self.address.to_string()])
            .args(["-CAfile", "ca.pem", "-verify_return_error"])
            .args(more)
            .stdin(std::process::Stdio::null())
            .current_dir(&self.folder.path)
            .output()?;
        Ok(output)
    }
}

/// The outcome of curl.
#[derive(Debug)]
pub(crate) struct Curled {
    /// Its exit code: 0 if there was an answer.
    pub(crate) exit: Option<i32>,
    /// The status of the answer; 0 without one.
    pub(crate) status: u16,
    /// Header and body.
    pub(crate) answer: String,
}

impl Curled {
    pub(crate) fn of(output: &Output) -> Result<Self> {
        let answer = String::from_utf8(output.stdout.clone())?;
        let status = answer.split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap_or(0);
        Ok(Self { exit: output.status.code(), status, answer })
    }
}

pub(crate) fn get_unix(socket: &PathBuf, path: &str) -> Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    answer.starts_with("HTTP/").then_some(answer).context("no answer")
}
