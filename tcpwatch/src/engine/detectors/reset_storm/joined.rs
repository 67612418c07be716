//! One finding for one storm: the group that leads, of all groups in which the storm shows.
//!
//! A host that has both ends of the connections sees each reset twice, sent and received, and a
//! service that is stopped and started sends several kinds under several names. All these are one
//! port. The side that sends leads, because it knows the cause.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
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
        !is_same_end && is_as_many(group.resets, self.sent)
    }
}

/// Whether so many received are those that were sent.
pub(super) fn is_as_many(received: u64, sent: u64) -> bool {
    received <= sent.saturating_mul(AS_MANY)
}
