//! The programs of xtask/bpf/bench.bpf.o: an empty one at the places of the hooks, and those that
//! take the time between; and the agent's programs at these places, without the agent.

use std::{borrow::Cow, iter::Sum};

use anyhow::{Context, Result, ensure};
use aya::{
    Btf, Ebpf,
    maps::PerCpuArray,
    programs::{
        BtfTracePoint, ProgramError, ProgramInfo, loaded_programs, tp_btf::BtfTracePointLink,
    },
};
use tcpwatch_common::bench::{Path, RESET_RECEIVED, RESET_SENT, Spent, transition};

use crate::repository;

/// A kind of program, at each of the three tracepoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    First,
    Second,
    Empty,
    Third,
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Second => "second",
            Self::Empty => "empty",
            Self::Third => "third",
        }
    }
}

/// The end of a program's name, and its tracepoint.
const TRACEPOINTS: [(&str, &str); 3] = [
    ("transition", "inet_sock_set_state"),
    ("reset_sent", "tcp_send_reset"),
    ("reset_received", "tcp_receive_reset"),
];

/// The programs; they stay attached until it is dropped.
pub(super) struct Gauge(Ebpf);

impl Gauge {
    pub(super) fn load() -> Result<Self> {
        let object = repository::root().join("xtask/bpf/bench.bpf.o");
        let ebpf = Ebpf::load_file(&object);
        Ok(Self(ebpf.with_context(|| format!("loading {}", object.display()))?))
    }

    /// Attaches a part at each tracepoint, behind what is attached there.
    pub(super) fn attach(&mut self, part: Part) -> Result<()> {
        self.load_part(part, |program| program.attach().map(drop).context("attaching"))
    }

    fn load_part(
        &mut self,
        part: Part,
        mut then: impl FnMut(&mut BtfTracePoint) -> Result<()>,
    ) -> Result<()> {
        let btf = Btf::from_sys_fs().context("the kernel's BTF")?;
        for (end, tracepoint) in TRACEPOINTS {
            let name = format!("{}_{end}", part.name());
            let program = self.0.program_mut(&name).with_context(|| format!("no {name}"))?;
            let program: &mut BtfTracePoint = program.try_into()?;
            program.load(tracepoint, &btf).with_context(|| format!("loading {name}"))?;
            then(program).with_context(|| name)?;
        }
        Ok(())
    }

    /// The sums of the path at this place, of all CPUs, since the load.
    pub(super) fn spent(&self, path: u32) -> Result<Cost> {
        let map = self.0.map("SPENT").context("no map SPENT")?;
        let map: PerCpuArray<_, Path> = map.try_into()?;
        let of_cpus = map.get(&path, 0).context("reading SPENT")?;
        Ok(of_cpus.iter().copied().map(Cost::from).sum())
    }
}

/// Programs of the three tracepoints, which are attached and detached within milliseconds.
pub(super) struct Programs(Vec<BtfTracePoint>);

impl Programs {
    /// The empty ones.
    pub(super) fn empty() -> Result<Self> {
        let mut programs = Vec::new();
        Gauge::load()?.load_part(Part::Empty, |program| {
            programs.push(handle_to(program.info()?)?);
            Ok(())
        })?;
        Ok(Self(programs))
    }

    /// Those of the agent that runs. They stay loaded when it ends.
    pub(super) fn of_agent() -> Result<Self> {
        const NAMES: [&str; 3] = ["set_state", "send_reset", "receive_reset"];
        let is_ours =
            |info: &ProgramInfo| info.name_as_str().is_some_and(|name| NAMES.contains(&name));
        // A program may end while they are listed.
        let ours = loaded_programs().filter_map(Result::ok).filter(is_ours);
        let programs = ours.map(handle_to).collect::<Result<Vec<_>, _>>()?;
        ensure!(
            programs.len() == NAMES.len(),
            "{} programs are called {NAMES:?}, not 3: does another tcpwatch run?",
            programs.len()
        );
        Ok(Self(programs))
    }

    /// Attaches all, as long as the links are held.
    pub(super) fn attach(&mut self) -> Result<Vec<BtfTracePointLink>> {
        let links = self.0.iter_mut().map(|program| {
            let link = program.attach()?;
            program.take_link(link)
        });
        links.collect::<Result<_, _>>().context("attaching again")
    }
}

/// Another handle to a program.
fn handle_to(info: ProgramInfo) -> Result<BtfTracePoint, ProgramError> {
    // SAFETY: the kernel itself checks where a program may be attached, and no memory here depends on it.
    unsafe { BtfTracePoint::from_program_info(info, Cow::Borrowed("of the benchmark")) }
}

/// Sums of a path.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Cost {
    hook: Spent,
    empty: Spent,
}

impl From<Path> for Cost {
    fn from(Path { hook, empty }: Path) -> Self {
        Self { hook, empty }
    }
}

impl Sum for Cost {
    fn sum<I: Iterator<Item = Self>>(costs: I) -> Self {
        let add = |a: Spent, b: Spent| Spent {
            runs: a.runs + b.runs,
            ns: a.ns + b.ns,
            interrupted: a.interrupted + b.interrupted,
        };
        costs.fold(Self::default(), |a, b| Self {
            hook: add(a.hook, b.hook),
            empty: add(a.empty, b.empty),
        })
    }
}

impl Cost {
    /// The sums of the time since.
    pub(super) fn since(self, before: Self) -> Self {
        let less = |a: Spent, b: Spent| Spent {
            runs: a.runs - b.runs,
            ns: a.ns - b.ns,
            interrupted: a.interrupted - b.interrupted,
        };
        Self { hook: less(self.hook, before.hook), empty: less(self.empty, before.empty) }
    }

    /// Runs of both that were left out.
    pub(super) fn interrupted(self) -> u64 {
        self.hook.interrupted + self.empty.interrupted
    }

    pub(super) fn runs(self) -> u64 {
        self.hook.runs
    }

    /// Nanoseconds of a run of the empty program, and of reading the clock once.
    pub(super) fn ns_of_empty(self) -> f64 {
        self.empty.ns as f64 / self.empty.runs as f64
    }

    /// Nanoseconds of a run of the hook, more than one of the empty program takes.
    pub(super) fn ns_over_empty(self) -> f64 {
        self.hook.ns as f64 / self.hook.runs as f64 - self.ns_of_empty()
    }
}

/// The states of TCP that a loop comes through, with their numbers.
const STATES: [(u32, &str); 10] = [
    (1, "ESTABLISHED"),
    (2, "SYN_SENT"),
    (3, "SYN_RECV"),
    (4, "FIN_WAIT1"),
    (5, "FIN_WAIT2"),
    (7, "CLOSE"),
    (8, "CLOSE_WAIT"),
    (9, "LAST_ACK"),
    (10, "LISTEN"),
    (11, "CLOSING"),
];

/// Every path, by its place and its name.
pub(super) fn paths() -> Vec<(u32, String)> {
    let resets = [(RESET_SENT, "reset sent"), (RESET_RECEIVED, "reset received")];
    let transitions = STATES.iter().flat_map(|(from, from_name)| {
        STATES
            .iter()
            .map(move |(to, to_name)| (transition(*from, *to), format!("{from_name} to {to_name}")))
    });
    transitions.chain(resets.map(|(place, name)| (place, name.to_owned()))).collect()
}
