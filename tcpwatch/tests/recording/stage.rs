//! Where a scene is played: looks at it, judges what it sees and records that.

use std::{
    any::Any,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use scenes::Namespace;
use serde_json::Value;
use tcpwatch::{
    config::Config,
    engine::{Engine, FindingKind},
    facts::{self, Event, Inventory, NetnsId},
    incident::{Fact, Header, Recorder},
    kernel::{self, EventRing, LoadOptions, OwnerPolicy, Programs, Scope, Walker},
    publish::WallClock,
};

use crate::support::DEADLINE;

/// From one inventory to the next.
const INTERVAL: Duration = Duration::from_secs(1);

/// A namespace that is watched.
pub(crate) struct Stage<'a> {
    kind: FindingKind,
    namespace: Namespace,
    id: NetnsId,
    /// Hooks that are not attached.
    absent: Vec<&'static str>,
    ring: EventRing,
    walker: Walker,
    /// Keeps the hooks attached.
    _links: Box<dyn Any>,
    engine: Engine,
    recorder: Recorder<&'a mut Vec<u8>>,
}

impl<'a> Stage<'a> {
    /// An empty namespace, looked at once.
    pub(super) fn set(kind: FindingKind, config: &Config, text: &'a mut Vec<u8>) -> Result<Self> {
        let programs = Programs::load(&LoadOptions {
            ring_buffer_bytes: config.limits.ring_buffer_bytes,
            symbols_by: Some(env!("CARGO_BIN_EXE_tcpwatch")),
            ..LoadOptions::default()
        })?;
        let absent = programs.statuses().iter().filter(|status| status.outcome.is_err());
        let absent = absent.map(|status| status.hook.name).collect();
        let (ring, _, walker, links) =
            programs.split(Scope::All, config.limits.close_wait_sockets)?;
        let wall = WallClock::at(tcpwatch::kernel::now());
        let header = Header {
            kernel: kernel_version()?,
            tcpwatch: env!("CARGO_PKG_VERSION").to_owned(),
            recorded_at: wall.rfc3339(wall.now()),
            monotonic_ns: wall.now(),
        };
        let mut stage = Self {
            kind,
            namespace: Namespace::new(kind.name())?,
            id: 0,
            absent,
            ring,
            walker,
            _links: Box::new(links),
            engine: Engine::new(&config.detect, &config.ignore, config.limits.owners),
            recorder: Recorder::begin(text, &header)?,
        };
        stage.look()?;
        Ok(stage)
    }

    /// Where the scene is played.
    pub(crate) fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// For a scene of which nothing is seen without this hook.
    pub(crate) fn require(&self, hook: &str) -> Result<()> {
        ensure!(
            !self.absent.contains(&hook),
            "this kernel does not let the hook `{hook}` attach; where one does, the scene can be \
             recorded: cargo xtask vm 6.12 --record NAME"
        );
        Ok(())
    }

    /// Looks once a second until the finding stands.
    pub(crate) fn watch_until_raised(&mut self) -> Result<()> {
        self.watch_until(true)
    }

    /// Looks once a second until the finding is gone.
    pub(crate) fn watch_until_cleared(&mut self) -> Result<()> {
        self.watch_until(false)
    }

    /// Looks that often, once a second.
    pub(crate) fn watch(&mut self, looks: u32) -> Result<()> {
        for _ in 0..looks {
            thread::sleep(INTERVAL);
            self.look()?;
        }
        Ok(())
    }

    fn watch_until(&mut self, stands: bool) -> Result<()> {
        let end = Instant::now() + DEADLINE;
        loop {
            self.watch(1)?;
            let found = self.engine.findings().iter().any(|finding| finding.kind == self.kind);
            if found == stands {
                return Ok(());
            }
            ensure!(
                Instant::now() < end,
                "after {DEADLINE:?} still: {:#?}",
                self.engine.findings()
            );
        }
    }

    /// Takes an inventory, as the agent does: what has happened says what it is to look at.
    fn look(&mut self) -> Result<()> {
        self.take_events()?;
        let focus = self.engine.focus();
        let found = self.walker.inventory(OwnerPolicy::OfThoseThatStay, &focus)?;
        let ours = found.namespaces.iter().find(|it| *it.name == *self.namespace.name());
        self.id = ours.context("the walk has left the stage out")?.id;
        self.take_events()?;
        let found = self.of_this_stage(found);
        self.take(Fact::Inventory { now: kernel::now(), found })
    }

    fn take_events(&mut self) -> Result<()> {
        let (events, _) = self.ring.drain(usize::MAX);
        for event in events {
            if netns_of(&event) == self.id {
                self.take(Fact::Event(event))?;
            }
        }
        Ok(())
    }

    fn take(&mut self, fact: Fact) -> Result<()> {
        let mut value = serde_json::to_value(&fact)?;
        forget_machine(&mut value);
        let mut fact: Fact = serde_json::from_value(value)?;
        self.recorder.record(&mut fact)?;
        fact.give_to(&mut self.engine);
        Ok(())
    }

    /// The host without its sockets, and the stage; what is not named here stays behind.
    fn of_this_stage(&self, all: Inventory) -> Inventory {
        let mut namespaces = all.namespaces;
        let host = namespaces.first().map(|host| facts::Namespace {
            id: host.id,
            name: host.name.clone(),
            ..facts::Namespace::default()
        });
        namespaces.retain(|namespace| namespace.id == self.id);
        namespaces.splice(..0, host);
        let mut descriptors = all.descriptors;
        descriptors.retain(|&pid, _| pid == std::process::id());
        let resets = all.resets.map(|mut counts| {
            counts.retain(|count| count.netns == self.id);
            counts
        });
        let services = all.services.map(|mut counts| {
            counts.retain(|count| count.netns == self.id);
            counts
        });
        let mut closers = all.closers;
        closers.retain(|count| count.netns == self.id);
        Inventory {
            started: all.started,
            finished: all.finished,
            walked: all.walked,
            namespaces,
            descriptors,
            resets,
            services,
            closers,
            ..Inventory::default()
        }
    }
}

fn netns_of(event: &Event) -> NetnsId {
    match event {
        Event::SelfConnection { netns, .. }
        | Event::ConnectFailed { netns, .. }
        | Event::BindFailed { netns, .. } => *netns,
    }
}

/// Where the test lies, and the unit or container it is run in.
fn forget_machine(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                if ["exe", "unit", "container"].contains(&name.as_str()) {
                    *value = Value::Null;
                } else {
                    forget_machine(value);
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(forget_machine),
        _ => {}
    }
}

/// Without what its builder has added.
fn kernel_version() -> Result<String> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let is_number = |c: char| c.is_ascii_digit() || c == '.';
    Ok(release.chars().take_while(|&c| is_number(c)).collect())
}
