//! `stalled-send`: sockets whose data, or FIN, is not acknowledged.
//!
//! Signal: sockets in ESTABLISHED, CLOSE_WAIT and FIN_WAIT1 with unacknowledged bytes, whose timer has
//! repeated at least twice (`StalledSocket`), by owner, role and port. A closed window of the peer is
//! apart from silence: there the peer's kernel answers, and its process does not read.
//! Trip: info at `warning` of a group that are older than `min_age`; of a server's connections only
//! where they are a hundredth of all, because each public server has clients that vanish. `warning`
//! or `critical` of them towards one host, silent for three times as long; of a server's connections
//! three times as many, and two fifths of all. A closed window is info, and
//! so is silence of many hosts: no single path or peer is gone.
//! Cold start: ages are of the last acknowledgement, so none; before 4.6 the kernel does not show it,
//! and the last segment is taken.
//! Recovery: below 0.9 of the threshold.
//! Misses: LAST_ACK and CLOSING, which are of `stuck-state`; data that is acknowledged now and then;
//! a peer behind a proxy that acknowledges for it.

mod words;

use std::collections::BTreeMap;

use self::words::{Group, by_host};
use crate::{
    config::{self, Overridable},
    engine::{
        detector::{Detector, Round, Verdicts},
        finding::{FindingKind, Severity, Verdict},
        groups::{
            held::{Held as _, holders},
            owners::OwnerKey,
        },
        over_time::level::Levels,
    },
    facts::{Namespace, Role, StalledSocket, TcpState},
};

/// A warning takes so many times `min_age`: a laptop that changes its network is silent for some
/// seconds, a router that fails over for up to half a minute.
const PATIENCE: u32 = 3;
/// The part of a server's open connections that must stall: the nearest healthy program is a web
/// server for phones, of whose clients some in a thousand are out of reach at any time.
const SHARE: f64 = 0.01;

/// The part of them that must be of one silent host for a warning. A proxy has a connection behind for
/// each in front, so a balancer that vanishes takes half of all. The nearest healthy program is a
/// server for a few people, of whom one goes to sleep.
const SHARE_OF_HOST: f64 = 0.4;
/// A server needs so many times as many silent connections of one host as a client does. A person's
/// laptop has ten to twenty to one server, a balancer hundreds.
const SERVERS_PATIENCE: f64 = 3.0;

#[derive(Debug, Default)]
pub(crate) struct StalledSend {
    levels: Levels,
}

/// Sockets that are judged together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct GroupKey<'a> {
    owner: OwnerKey<'a>,
    role: Role,
    port: u16,
    is_window_closed: bool,
    /// Its process has closed it.
    is_orphan: bool,
}

impl Detector for StalledSend {
    fn judge(&mut self, round: &Round<'_>, verdicts: &mut Verdicts<'_>) {
        self.levels.begin();
        for namespace in &round.inventory.namespaces {
            for (key, sockets) in groups(namespace, round) {
                let weight = sockets.len() as u64;
                if let Some(verdict) = self.judge_group(&key, &sockets, namespace, round) {
                    verdicts.push(verdict, weight);
                }
            }
        }
    }
}

impl StalledSend {
    fn judge_group(
        &mut self,
        key: &GroupKey<'_>,
        sockets: &[&StalledSocket],
        namespace: &Namespace,
        round: &Round<'_>,
    ) -> Option<Verdict> {
        let config = round.detect.stalled_send.at(key.owner.place);
        let cause = if key.is_window_closed { "window" } else { "silent" };
        let (role, port) = (key.role.label(), key.port);
        let kind = FindingKind::StalledSend.name();
        let orphans = if key.is_orphan { "/orphans" } else { "" };
        let id = format!("{kind}/{cause}/{}/{role}/{port}{orphans}", key.owner);
        let (warning, critical) = (config.warning as f64, config.critical as f64);
        let count = sockets.len() as f64;
        let by_count = self.levels.judge(&id, count, warning, f64::INFINITY);
        let is_client = key.role == Role::Client;
        let open = open_sockets(namespace);
        let is_part = is_client || self.reaches(&format!("{id}/part"), count / open, SHARE);
        by_count.filter(|_| is_part)?;
        let patience = config.min_age.saturating_mul(PATIENCE);
        let is_long = |it: &&&StalledSocket| round.now.since(it.quiet_since()) >= patience;
        let long: Vec<_> = sockets.iter().filter(is_long).copied().collect();
        let at_one_host = by_host(&long).first().map_or(0.0, |(_, sockets)| *sockets as f64);
        let host = format!("{id}/host");
        let of_client = if is_client { 1.0 } else { SERVERS_PATIENCE };
        let by_host = self.levels.judge(&host, at_one_host / of_client, warning, critical);
        let part_of_host = at_one_host / open;
        let is_peer =
            is_client || self.reaches(&format!("{host}/part"), part_of_host, SHARE_OF_HOST);
        let is_incident = is_peer && !key.is_window_closed;
        let severity = by_host.filter(|_| is_incident).unwrap_or(Severity::Info);
        let holders = holders(sockets);
        let limits = round.inventory.shared_limits.as_deref().copied();
        let group = Group {
            namespace,
            sockets,
            holders: &holders,
            role: key.role,
            port,
            is_window_closed: key.is_window_closed,
            limits,
            now: round.now,
        };
        Some(group.verdict(id, severity))
    }

    fn reaches(&mut self, id: &str, part: f64, threshold: f64) -> bool {
        self.levels.judge(id, part, threshold, f64::INFINITY).is_some()
    }
}

fn groups<'a>(
    namespace: &'a Namespace,
    round: &Round<'_>,
) -> BTreeMap<GroupKey<'a>, Vec<&'a StalledSocket>> {
    let config: &Overridable<config::StalledSend> = &round.detect.stalled_send;
    let mut groups: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for socket in &namespace.stalled {
        let place = config.place_of(socket.process(), socket.service_port());
        let config = config.at(place);
        let age = round.now.since(socket.quiet_since());
        let is_of_another_kind = socket.state == TcpState::LastAck;
        if !config.enabled || socket.owner_pending || is_of_another_kind || age < config.min_age {
            continue;
        }
        let key = GroupKey {
            owner: OwnerKey::of(namespace.id, socket, place),
            role: socket.role,
            port: socket.service_port(),
            is_window_closed: socket.is_window_closed(),
            is_orphan: socket.orphan,
        };
        groups.entry(key).or_default().push(socket);
    }
    groups
}

/// Open connections of a namespace, at least one.
fn open_sockets(namespace: &Namespace) -> f64 {
    let states = [TcpState::Established, TcpState::CloseWait, TcpState::FinWait1];
    let open: f64 = states.iter().map(|state| namespace.sockets.get(*state) as f64).sum();
    open.max(1.0)
}
