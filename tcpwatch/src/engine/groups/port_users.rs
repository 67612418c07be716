//! Users of a destination's ports: the sockets by state, and the processes that hold them.
//!
//! The states are counted; the processes are those of a sample that the walk takes.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use crate::{
    engine::{advice::text, evidence::EvidenceMap, finding::Subject},
    facts::{Owner, PortUser, Process, StateCounts, TcpState},
};

/// A part of the ports that is worth a word, and a remedy of its own: without it a warning at 0.8
/// would stand all the same at 0.7.
pub(crate) const SHARE_LEAST: f64 = 0.1;
/// Part of a state's sockets that makes a process their holder.
const ALL_BUT_A_FEW: f64 = 0.9;
/// Part that makes it the one that holds most.
const MOST: f64 = 0.5;
/// Holders that the evidence lists.
const LISTED: usize = 5;

/// Sockets in one state, or with pinned ports.
#[derive(Clone, Debug)]
pub(crate) struct Users<'a> {
    /// Ports that they take.
    pub(crate) ports: u64,
    sample: Vec<&'a PortUser>,
}

/// The processes that hold them.
#[derive(Clone, Debug, PartialEq)]
enum Holder<'a> {
    /// This process, all but a few.
    One(&'a Process),
    /// This process more than half.
    Most(&'a Process),
    /// Processes of one name, this one first; all but a few, or more than half.
    Name(&'a Process, bool),
    /// No process is known, or there are many.
    Unknown,
}

impl<'a> Users<'a> {
    pub(crate) fn new(ports: u64, sample: impl Iterator<Item = &'a PortUser>) -> Self {
        Self { ports, sample: sample.collect() }
    }

    /// Whether they are enough of `used` ports to be worth a word.
    pub(crate) fn are_worth_a_word(&self, used: u64) -> bool {
        self.ports > 0 && self.ports as f64 >= used as f64 * SHARE_LEAST
    }

    fn by_pid(&self) -> Vec<(&'a Process, usize)> {
        let mut by_pid: BTreeMap<u32, (&Process, usize)> = BTreeMap::new();
        for owner in self.owners() {
            by_pid.entry(owner.process.pid).or_insert((&owner.process, 0)).1 += 1;
        }
        let mut by_pid: Vec<_> = by_pid.into_values().collect();
        by_pid.sort_by_key(|(_, sockets)| Reverse(*sockets));
        by_pid
    }

    fn owners(&self) -> impl Iterator<Item = &'a Owner> {
        self.sample.iter().filter_map(|user| user.owner.as_ref())
    }

    fn holder(&self) -> Holder<'a> {
        let by_pid = self.by_pid();
        let all = self.sample.len() as f64;
        let Some((first, sockets)) = by_pid.first().copied() else { return Holder::Unknown };
        if sockets as f64 >= all * ALL_BUT_A_FEW {
            return Holder::One(first);
        }
        if sockets as f64 >= all * MOST {
            return Holder::Most(first);
        }
        let of_name = by_pid.iter().filter(|(process, _)| process.name == first.name);
        let of_name = of_name.map(|(_, sockets)| *sockets).sum::<usize>() as f64;
        if of_name >= all * MOST {
            return Holder::Name(first, of_name >= all * ALL_BUT_A_FEW);
        }
        Holder::Unknown
    }

    /// ` by hitch (pid 7)`, nothing where it is not known.
    pub(crate) fn by_whom(&self) -> String {
        match self.holder() {
            Holder::One(process) => format!(" by {}", text::named(Some(process))),
            Holder::Most(process) => format!(", most by {}", text::named(Some(process))),
            Holder::Name(process, all) => {
                let most = if all { "" } else { ", most" };
                format!("{most} by {}", text::named_as_several(&process.name))
            }
            Holder::Unknown => String::new(),
        }
    }

    /// `hitch (pid 7)`, where it is known.
    pub(crate) fn who(&self) -> Option<String> {
        match self.holder() {
            Holder::One(process) | Holder::Most(process) => Some(text::named(Some(process))),
            Holder::Name(process, _) => Some(text::named_as_several(&process.name)),
            Holder::Unknown => None,
        }
    }

    /// Names their holder in the subject, and returns whether it is known.
    pub(crate) fn name_in(&self, subject: &mut Subject) -> bool {
        match self.holder() {
            Holder::One(process) | Holder::Most(process) => subject.set_process(process),
            Holder::Name(process, _) => {
                let units = self.owners().map(|owner| owner.process.unit_label());
                let units: BTreeSet<_> = units.collect();
                subject.set_process(process);
                // Only what they share.
                (subject.pid, subject.exe) = (None, None);
                if units.len() > 1 {
                    (subject.unit, subject.container) = (None, None);
                }
            }
            Holder::Unknown => return false,
        }
        true
    }
}

/// Sockets by state, most ports first.
pub(crate) fn by_state<'a>(
    states: &StateCounts,
    sample: &[&'a PortUser],
) -> Vec<(TcpState, Users<'a>)> {
    let mut users: Vec<_> = TcpState::ALL
        .into_iter()
        .map(|state| {
            let of_state = sample.iter().copied().filter(|user| user.state == state);
            (state, Users::new(states.get(state), of_state))
        })
        .filter(|(_, users)| users.ports > 0)
        .collect();
    users.sort_by_key(|(_, users)| Reverse(users.ports));
    users
}

/// `200 ESTABLISHED`, `12 in TIME_WAIT`.
pub(crate) fn in_state(ports: u64, state: TcpState) -> String {
    let (name, ports) = (state.label().to_uppercase(), text::number(ports));
    match state {
        TcpState::Established => format!("{ports} {name}"),
        _ => format!("{ports} in {name}"),
    }
}

/// The evidence `holders`: processes of the sample, the largest first.
pub(crate) fn evidence(sample: &[&PortUser]) -> Vec<EvidenceMap> {
    let users = Users { ports: 0, sample: sample.to_vec() };
    let object = |(process, sockets): (&Process, usize)| {
        let mut object = EvidenceMap::default();
        object.process(process);
        if let Some(unit) = &process.unit {
            object.text("unit", unit);
        }
        object
            .count("sampled_sockets", sockets as u64)
            .number("sample_ratio", sockets as f64 / sample.len().max(1) as f64);
        object
    };
    users.by_pid().into_iter().take(LISTED).map(object).collect()
}
