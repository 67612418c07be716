//! `cargo xtask demo` makes a situation in a network namespace of its own,
//! with tcpwatch watching. It shows the finding as a user would see it, cures
//! it and shows that it clears.
//!
//! Everything it starts is a value whose drop ends it, the namespace last;
//! SIGINT and SIGTERM are a flag that every wait looks at.

mod cast;

use std::{
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use scenes::Namespace;
use serde_json::Value;

use self::cast::Cast;
use crate::{
    agent::Agent,
    command::as_root,
    interrupt::Interrupt,
    repository,
    scene::{Actor, TIME_WAIT_LIMIT, TRACKED},
};

/// Faster than the defaults, so that a demo takes seconds.
const CONFIG: &str = "[inventory]\ncpu_share = 0.1\ninterval = \"1s\"\n\n\
    [detect.close_wait_pileup]\nmin_age = \"2s\"\n\n\
    [detect.ephemeral_port_exhaustion]\nwindow = \"5s\"\n\n\
    [detect.keepalive_race]\nwindow = \"5s\"\n\n\
    [detect.stalled_send]\nmin_age = \"2s\"\n\n";

/// How long a finding may take: two intervals of 1 s and a busy machine.
const FINDING_DEADLINE: Duration = Duration::from_secs(30);

/// How long it may take to clear: the demo's `window` of 5 s, two intervals, and a busy machine.
/// Connection tracking counts an entry that has ended until a worker finds it, a minute later.
const CLEARED_DEADLINE: Duration = Duration::from_secs(150);

/// Which situation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Story {
    /// A client keeps the connections that its MySQL server closed
    CloseWait,
    /// A burst of short connections fills the TIME_WAIT table
    TimeWait,
    /// A service runs out of ephemeral ports
    Ports,
    /// A module connects to a port whose owner restarts, until it reaches itself
    SelfConnect,
    /// A server closes idle connections that its client still uses
    KeepaliveRace,
    /// A database host vanishes while its clients wait for answers
    StalledSend,
    /// A gateway fills its connection tracking
    KernelLimit,
}

pub(crate) fn demo(story: Story) -> Result<()> {
    ensure!(
        scenes::is_root(),
        "a demo makes a network namespace and attaches to the kernel, so it needs root: {}",
        as_root(&format!("demo {}", story.name()))
    );
    let binary = repository::build_tcpwatch()?;
    let interrupt = Interrupt::install().context("handling signals")?;
    let outcome = play(story, &binary, &interrupt);
    // An interrupted wait or a helper that died of the same Ctrl-C: one cause.
    interrupt.check()?;
    outcome
}

fn play(story: Story, binary: &std::path::Path, interrupt: &Interrupt) -> Result<()> {
    // Declared first, so dropped last.
    let ns = Namespace::new(story.tag())?;
    println!("\n{}\n", story.opening());
    let agent = Agent::start(binary, &format!("{CONFIG}{}", story.config(&ns)?), interrupt)?;
    println!("  tcpwatch watches; its findings: http://{}/api/v1/findings", agent.address());

    let mut cast = Cast::new(&ns, interrupt);
    story.act(&ns, &mut cast)?;

    let started = Instant::now();
    let found = interrupt.poll(FINDING_DEADLINE, || {
        agent.ensure_alive()?;
        Ok(stands(&agent.findings()?, story, ns.name()).then_some(()))
    })?;
    if found.is_none() {
        bail!(
            "no finding {} for namespace {} within {FINDING_DEADLINE:?}\n{}",
            story.kind(),
            ns.name(),
            agent.log()
        );
    }
    println!(
        "\nAfter {:.1} s the finding is raised. `tcpwatch check` shows it:\n",
        started.elapsed().as_secs_f64()
    );
    println!("$ tcpwatch check --for 2s --netns {}\n{}", ns.name(), agent.check(binary, &ns)?);

    println!("\nThe cure: {}", story.cure(&ns, &mut cast)?);
    let started = Instant::now();
    let cleared = interrupt.poll(CLEARED_DEADLINE, || {
        agent.ensure_alive()?;
        Ok((!stands(&agent.findings()?, story, ns.name())).then_some(()))
    })?;
    if cleared.is_none() {
        bail!("the finding still stands {CLEARED_DEADLINE:?} after the cure\n{}", agent.log());
    }
    println!("After {:.1} s the finding is cleared.", started.elapsed().as_secs_f64());
    agent.stop()
}

/// Whether the story's finding about the demo's namespace is there.
fn stands(findings: &Value, story: Story, netns: &str) -> bool {
    let findings = findings["findings"].as_array();
    findings.is_some_and(|findings| {
        findings
            .iter()
            .any(|finding| finding["kind"] == story.kind() && finding["subject"]["netns"] == netns)
    })
}

impl Story {
    fn name(self) -> String {
        self.to_possible_value().map(|v| v.get_name().to_owned()).unwrap_or_default()
    }

    /// In the namespace's name.
    const fn tag(self) -> &'static str {
        match self {
            Self::CloseWait => "shop",
            Self::TimeWait => "images",
            Self::Ports => "pay",
            Self::SelfConnect => "modules",
            Self::KeepaliveRace => "store",
            Self::StalledSend => "billing",
            Self::KernelLimit => "gateway",
        }
    }

    const fn kind(self) -> &'static str {
        match self {
            Self::CloseWait => "close-wait-pileup",
            Self::TimeWait => "time-wait-exhaustion",
            Self::Ports => "ephemeral-port-exhaustion",
            Self::SelfConnect => "self-connection",
            Self::KeepaliveRace => "keepalive-race",
            Self::StalledSend => "stalled-send",
            Self::KernelLimit => "kernel-limit",
        }
    }

    /// Additions to its agent's configuration.
    fn config(self, ns: &Namespace) -> Result<String> {
        if self != Self::KernelLimit {
            return Ok(String::new());
        }
        let limit = track_connections(ns)?;
        println!("  {limit} entries are the limit; this demo calls {TRACKED} of them many\n");
        let part = f64::from(TRACKED) / f64::from(limit);
        Ok(format!("[detect.kernel_limit]\nwarning = {part}\nwindow = \"5s\"\n"))
    }

    const fn opening(self) -> &'static str {
        match self {
            Self::CloseWait => {
                "orders-api keeps a pool of connections to its MySQL server. The server closes \
                 what\nis idle too long; the pool never looks, and never closes its own ends."
            }
            Self::TimeWait => {
                "thumbnailer opens a connection for each picture and closes it. Each leaves a\n\
                 TIME_WAIT for a minute, and this namespace keeps no more than 500 of them."
            }
            Self::Ports => {
                "checkout has 60 ephemeral ports to reach its payment service from. Half are \
                 open,\nhalf still in TIME_WAIT, and customers keep coming."
            }
            Self::SelfConnect => {
                "module-b listens on a port inside the ephemeral range. It restarts, and \
                 meanwhile\nmodule-a keeps connecting to that port."
            }
            Self::KeepaliveRace => {
                "storefront closes connections that have been idle for a second. balancer keeps \
                 them\nin its pool for longer, and sends its next request on them."
            }
            Self::StalledSend => {
                "ledger has sent a request on each of its 12 connections when the database host\n\
                 vanishes. Nothing answers, and nothing says so."
            }
            Self::KernelLimit => {
                "gateway tracks each connection that passes through, and more and more do. The \
                 limit\nis of the whole host, so the demo does not touch it and lowers its threshold."
            }
        }
    }

    fn act(self, ns: &Namespace, cast: &mut Cast<'_>) -> Result<()> {
        match self {
            Self::CloseWait => {
                cast.enter(Actor::Mysqld)?;
                cast.enter(Actor::OrdersApi)
            }
            Self::TimeWait => {
                let limit = TIME_WAIT_LIMIT.to_string();
                ns.sysctl_set("net.ipv4.tcp_max_tw_buckets", &limit)?;
                cast.enter(Actor::Thumbnailer)
            }
            Self::Ports => cast.enter(Actor::Checkout),
            Self::SelfConnect => {
                cast.enter(Actor::ModuleB)?;
                cast.leave(Actor::ModuleB)?;
                cast.enter(Actor::ModuleA)?;
                cast.enter(Actor::ModuleB)
            }
            Self::KeepaliveRace => {
                cast.enter(Actor::Storefront)?;
                cast.enter(Actor::Balancer)
            }
            Self::StalledSend => cast.enter(Actor::Ledger),
            Self::KernelLimit => cast.enter(Actor::Gateway),
        }
    }

    /// Ends the condition and says how.
    fn cure(self, ns: &Namespace, cast: &mut Cast<'_>) -> Result<&'static str> {
        match self {
            Self::CloseWait => {
                cast.leave(Actor::OrdersApi)?;
                Ok("orders-api closes its connections.")
            }
            Self::TimeWait => {
                // The kernel gives a namespace at least this by default.
                ns.sysctl_set("net.ipv4.tcp_max_tw_buckets", "65536")?;
                Ok("net.ipv4.tcp_max_tw_buckets goes up to 65536 (they last a minute).")
            }
            Self::Ports => {
                cast.leave(Actor::Checkout)?;
                ns.sysctl_set("net.ipv4.ip_local_port_range", "32768 60999")?;
                Ok("net.ipv4.ip_local_port_range goes back to 32768 60999.")
            }
            Self::SelfConnect => {
                cast.leave(Actor::ModuleA)?;
                Ok("module-a drops its connection (and compares both ends next time).")
            }
            Self::KeepaliveRace => {
                cast.leave(Actor::Balancer)?;
                Ok("balancer ends (its pool should drop connections within the second).")
            }
            Self::StalledSend => {
                cast.leave(Actor::Ledger)?;
                Ok("the host is back, and answers with resets.")
            }
            Self::KernelLimit => {
                cast.leave(Actor::Gateway)?;
                Ok("the connections end; the kernel removes their entries within two minutes.")
            }
        }
    }
}

/// Switches connection tracking on in a namespace, and returns the limit of its entries. A rule that
/// looks at the state of connections is what switches it on.
fn track_connections(ns: &Namespace) -> Result<u32> {
    const RULES: &str = "table ip demo { chain input { type filter hook input priority 0; \
                         ct state invalid drop; }; }";
    let rules = ns.spawn_in(Command::new("nft").arg(RULES)).context("nft (package nftables)")?;
    let output = rules.wait_with_output()?;
    ensure!(output.status.success(), "nft does not track connections here: {}", output.status);
    let limit = ns.sysctl("net.netfilter.nf_conntrack_max")?;
    Ok(limit.trim().parse()?)
}
