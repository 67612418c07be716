//! One finding for one storm: the group that leads, of all groups in which the storm shows.
//!
//! A host that has both ends of the connections sees each reset twice, sent and received, and a
//! service that is stopped and started sends several kinds under several names. All these are one
//! port. The side that sends leads, because it knows the cause.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::group::GroupKey;
use crate::{
    engine::{evidence::EvidenceMap, finding::Verdict},
    facts::Role,
};

/// Other groups that a finding lists.
const LISTED: usize = 5;
/// The receiving side may have that many times as many resets as were sent within the same
/// inventories: a burst seldom falls into the same windows on both sides.
const AS_MANY: u64 = 2;

/// A group in a storm.
#[derive(Debug)]
pub(super) struct InStorm {
    pub(super) key: GroupKey,
    pub(super) last_peer: Option<IpAddr>,
    pub(super) resets: u64,
    /// The group as another finding's evidence.
    pub(super) victim: EvidenceMap,
    pub(super) verdict: Verdict,
    /// The other groups of its storm.
    pub(super) others: Vec<GroupKey>,
}

/// Groups that are one storm.
struct Storm {
    leader: InStorm,
    others: Vec<InStorm>,
    /// Resets of the groups that send.
    sent: u64,
}

/// Leaves one group of each storm. `before` has the ids of the last round: a storm keeps its id
/// when another of its groups comes to lead it.
pub(super) fn join(mut groups: Vec<InStorm>, before: &BTreeMap<GroupKey, String>) -> Vec<InStorm> {
    // Of equals the one whose process is known.
    groups.sort_by_key(|group| {
        let is_nameless = group.key.process.is_empty();
        let worst = (Reverse(group.verdict.severity), Reverse(group.resets));
        (!group.key.sent, worst, is_nameless)
    });
    let mut storms: Vec<Storm> = Vec::new();
    for group in groups {
        match storms.iter_mut().find(|storm| storm.has(&group)) {
            Some(storm) => {
                let sent = if group.key.sent { group.resets } else { 0 };
                storm.sent = storm.sent.saturating_add(sent);
                storm.others.push(group);
            }
            None => storms.push(Storm { sent: group.resets, leader: group, others: Vec::new() }),
        }
    }
    let mut taken = BTreeSet::new();
    let joined = storms.into_iter().map(|Storm { mut leader, others, .. }| {
        let severities = others.iter().map(|group| group.verdict.severity);
        let own = leader.verdict.severity;
        leader.verdict.severity = severities.fold(own, Ord::max);
        leader.others = others.iter().map(|group| group.key.clone()).collect();
        let listed = others.into_iter().take(LISTED).map(|group| group.victim);
        leader.verdict.evidence.list("also", listed);
        let keys = [&leader.key].into_iter().chain(&leader.others);
        let known = keys.filter_map(|key| before.get(key)).find(|id| !taken.contains(*id));
        if let Some(id) = known {
            leader.verdict.id.clone_from(id);
        } else if taken.contains(&leader.verdict.id) {
            // A group that led another's storm, and has one of its own now.
            leader.verdict.id.push_str("/again");
        }
        taken.insert(leader.verdict.id.clone());
        leader
    });
    joined.collect()
}

/// The id of the finding of each group.
pub(super) fn ids(storms: &[InStorm]) -> BTreeMap<GroupKey, String> {
    let of_storm = |group: &InStorm| {
        let id = group.verdict.id.clone();
        let keys: Vec<_> = group.others.iter().chain([&group.key]).cloned().collect();
        keys.into_iter().map(move |key| (key, id.clone()))
    };
    storms.iter().flat_map(of_storm).collect()
}

impl Storm {
    /// Whether the group has resets of the same connections.
    fn has(&self, group: &InStorm) -> bool {
        let (a, b) = (&self.leader.key, &group.key);
        if a.scanner.is_some() || b.scanner.is_some() || a.port != b.port {
            return false;
        }
        let is_same_end = a.role == b.role;
        if a.sent == b.sent {
            return a.sent && is_same_end && a.role == Role::Server && a.netns == b.netns;
        }
        // The other end of them, with as many.
        let is_one_namespace = a.netns == b.netns;
        !is_same_end
            && is_as_many(group.resets, self.sent)
            && may_be_two_ends(self.leader.last_peer, group.last_peer, is_one_namespace)
    }
}

/// Whether the last peers of two groups allow that they are the two ends of the same connections.
/// Within a namespace both ends have the same address, or addresses of loopback. Across namespaces
/// each is the other's peer, at private addresses as containers have them.
pub(super) fn may_be_two_ends(
    one: Option<IpAddr>,
    other: Option<IpAddr>,
    is_one_namespace: bool,
) -> bool {
    let (Some(one), Some(other)) = (one, other) else { return true };
    let is_near = one == other || one.is_loopback() && other.is_loopback();
    is_near || !is_one_namespace && is_private(one) && is_private(other)
}

/// RFC 1918, RFC 3927, RFC 6598; RFC 4193, RFC 4291 section 2.4.
fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(it) => {
            let [first, second, ..] = it.octets();
            it.is_private() || it.is_link_local() || first == 100 && second & 0xc0 == 64
        }
        IpAddr::V6(it) => it.is_unique_local() || it.is_unicast_link_local(),
    }
}

/// Whether so many received are those that were sent.
pub(super) fn is_as_many(received: u64, sent: u64) -> bool {
    received <= sent.saturating_mul(AS_MANY)
}
