//! A host in trouble: the situations of four demos, played by the actors of `cargo xtask demo`, and
//! a server that does not accept.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use scenes::Namespace;
use socket2::Socket;

use crate::support::{begin_connects, listen, poll};

/// Kinds of findings that the situations raise.
pub(crate) const KINDS: [&str; 5] = [
    "accept-queue-overflow",
    "close-wait-pileup",
    "ephemeral-port-exhaustion",
    "self-connection",
    "time-wait-exhaustion",
];

/// All situations; dropping it ends them.
pub(crate) struct Stage {
    pub(crate) module_a: Option<Actor>,
    _actors: Vec<Actor>,
    _queue: (TcpListener, Vec<Socket>),
    /// Last, so that they go when nothing is in them.
    _namespaces: [Namespace; 5],
}

impl Stage {
    /// Makes all of them, each in its network namespace.
    pub(crate) fn make() -> Result<Self> {
        // The process of the listener, and of the connects that wait for it.
        fs::write("/proc/self/comm", "gateway").context("naming the process")?;
        let [shop, images, pay, modules, edge] =
            ["shop", "images", "pay", "modules", "edge"].map(Namespace::new);
        let (shop, images, pay, modules, edge) = (shop?, images?, pay?, modules?, edge?);
        images.sysctl_set("net.ipv4.tcp_max_tw_buckets", "500")?;
        let mut actors = Vec::new();
        for (actor, ns) in
            [("mysqld", &shop), ("orders-api", &shop), ("thumbnailer", &images), ("checkout", &pay)]
        {
            actors.push(Actor::enter(actor, ns)?);
        }
        // B leaves its port for a moment, and A connects to itself.
        let module_a = Actor::enter("module-a", &modules)?;
        actors.push(Actor::enter("module-b", &modules)?);
        let listener = listen(&edge, 8080, 4)?;
        let queue = (listener, begin_connects(&edge, 12, 8080)?);
        Ok(Self {
            module_a: Some(module_a),
            _actors: actors,
            _queue: queue,
            _namespaces: [shop, images, pay, modules, edge],
        })
    }
}

/// A process that plays its part until it is dropped.
pub(crate) struct Actor(Child);

impl Actor {
    fn enter(name: &str, ns: &Namespace) -> Result<Self> {
        let mut child = Command::new(env!("CARGO"))
            .args(["run", "--quiet", "--package", "xtask", "--", "scene", name, "--netns"])
            .arg(ns.name())
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {name}"))?;
        let stdout = child.stdout.take().context("an actor has an output")?;
        let actor = Self(child);
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        ensure!(!line.is_empty(), "{name} ended before it had done its part");
        Ok(actor)
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        if poll("an actor to end", || Ok(self.0.try_wait()?)).is_err() {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}

/// Connections that come and go, some of them with a reset, so that the plots have rates.
pub(crate) struct Traffic {
    /// Dropping it ends the thread.
    _stop: mpsc::Sender<()>,
}

impl Traffic {
    /// In a network namespace of its own.
    pub(crate) fn begin() -> Result<Self> {
        let ns = Namespace::new("web")?;
        let listener = listen(&ns, 9000, 64)?;
        let address = (Ipv4Addr::LOCALHOST, listener.local_addr()?.port());
        let (stop, stopped) = mpsc::channel();
        thread::spawn(move || {
            ns.enter(move || {
                for round in 0_u64.. {
                    // From 1 to 9 a second, up and down.
                    let pause = Duration::from_millis(110 + 40 * (round % 40).abs_diff(20));
                    if stopped.recv_timeout(pause) != Err(mpsc::RecvTimeoutError::Timeout) {
                        return;
                    }
                    let Ok(client) = TcpStream::connect(address) else { return };
                    let Ok((server, _)) = listener.accept() else { return };
                    if round % 9 == 0 {
                        let linger = Some(Duration::ZERO);
                        let _ = socket2::SockRef::from(&client).set_linger(linger);
                    }
                    drop((client, server));
                }
            })
        });
        Ok(Self { _stop: stop })
    }
}
