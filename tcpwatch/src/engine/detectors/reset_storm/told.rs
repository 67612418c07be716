//! One finding for one storm: of the groups that a storm shows in, the one that tells it.
//!
//! A host that has both ends of the connections sees each reset twice, sent and received, and a
//! service that is stopped and started sends several kinds under several names. All these are one
//! port. The side that sends tells it, because it knows the cause.

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
pub(super) struct Told {
    pub(super) key: GroupKey,
    pub(super) resets: u64,
    /// The group as another finding's evidence.
    pub(super) victim: EvidenceMap,
    pub(super) verdict: Verdict,
    /// The groups that it tells too.
    pub(super) others: Vec<GroupKey>,
}

/// Groups that are one storm.
struct Storm {
    leader: Told,
    others: Vec<Told>,
    /// Resets of those that send.
    sent: u64,
}

/// Leaves one of those that are the same storm. `before` has the ids of the last round: a storm keeps
/// its id when another of its groups comes to tell it.
pub(super) fn join(mut groups: Vec<Told>, before: &BTreeMap<GroupKey, String>) -> Vec<Told> {
    // Of equals the one whose process is known.
    groups.sort_by_key(|told| {
        let is_nameless = told.key.process.is_empty();
        let worst = (Reverse(told.verdict.severity), Reverse(told.resets));
        (!told.key.sent, worst, is_nameless)
    });
    let mut storms: Vec<Storm> = Vec::new();
    for told in groups {
        match storms.iter_mut().find(|storm| storm.has(&told)) {
            Some(storm) => {
                let sent = if told.key.sent { told.resets } else { 0 };
                storm.sent = storm.sent.saturating_add(sent);
                storm.others.push(told);
            }
            None => storms.push(Storm { sent: told.resets, leader: told, others: Vec::new() }),
        }
    }
    let mut taken = BTreeSet::new();
    let joined = storms.into_iter().map(|Storm { mut leader, others, .. }| {
        let severities = others.iter().map(|told| told.verdict.severity);
        let own = leader.verdict.severity;
        leader.verdict.severity = severities.fold(own, Ord::max);
        leader.others = others.iter().map(|told| told.key.clone()).collect();
        let listed = others.into_iter().take(LISTED).map(|told| told.victim);
        leader.verdict.evidence.list("also", listed);
        let keys = [&leader.key].into_iter().chain(&leader.others);
        let known = keys.filter_map(|key| before.get(key)).find(|id| !taken.contains(*id));
        if let Some(id) = known {
            leader.verdict.id.clone_from(id);
        } else if taken.contains(&leader.verdict.id) {
            // A group that told another's storm, and has one of its own now.
            leader.verdict.id.push_str("/again");
        }
        taken.insert(leader.verdict.id.clone());
        leader
    });
    joined.collect()
}

/// The id under which each group was told.
pub(super) fn ids(storms: &[Told]) -> BTreeMap<GroupKey, String> {
    let of_storm = |told: &Told| {
        let id = told.verdict.id.clone();
        let keys: Vec<_> = told.others.iter().chain([&told.key]).cloned().collect();
        keys.into_iter().map(move |key| (key, id.clone()))
    };
    storms.iter().flat_map(of_storm).collect()
}

impl Storm {
    /// Whether the group has resets of the same connections.
    fn has(&self, told: &Told) -> bool {
        let (a, b) = (&self.leader.key, &told.key);
        if a.scanner.is_some() || b.scanner.is_some() || a.port != b.port {
            return false;
        }
        let is_same_end = a.role == b.role;
        if a.sent == b.sent {
            return a.sent && is_same_end && a.role == Role::Server && a.netns == b.netns;
        }
        // The other end of them, with as many.
        !is_same_end && is_as_many(told.resets, self.sent)
    }
}

/// Whether so many received are those that were sent.
pub(super) fn is_as_many(received: u64, sent: u64) -> bool {
    received <= sent.saturating_mul(AS_MANY)
}
