//! Tests of the counters that name the largest owners.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const OTHER: u32 = u32::MAX;

fn series(totals: &NamedTotals<u32, ()>) -> BTreeMap<u32, u64> {
    totals.iter().map(|(owner, (), total)| (*owner, total)).collect()
}

fn there(_: &u32) -> bool {
    true
}

#[test]
fn an_owner_that_is_gone_adds_to_other_once_and_begins_at_0_again() {
    let mut totals = NamedTotals::new(2, OTHER);
    totals.add(&1, (), 5);
    totals.add(&2, (), 1);
    for _ in 0..GONE_AFTER - 1 {
        totals.end_round(|owner| *owner != 1);
    }
    assert_eq!(series(&totals), BTreeMap::from([(1, 5), (2, 1)]));
    for _ in 0..10 {
        totals.end_round(|owner| *owner != 1);
    }
    assert_eq!(series(&totals), BTreeMap::from([(2, 1), (OTHER, 5)]));
    totals.add(&1, (), 2);
    assert_eq!(series(&totals), BTreeMap::from([(1, 2), (2, 1), (OTHER, 5)]));
}

#[test]
fn thousands_of_names_that_live_for_a_round_do_not_displace_a_steady_one() {
    let mut totals = NamedTotals::new(50, OTHER);
    let mut next = 1_000;
    for _ in 0..200 {
        totals.add(&7, (), 1);
        for _ in 0..60 {
            totals.add(&next, (), 3);
            next += 1;
        }
        totals.end_round(there);
    }
    assert_eq!(series(&totals).get(&7), Some(&200));
}

#[test]
fn names_that_took_every_place_give_them_to_what_grows_now() {
    let mut totals = NamedTotals::new(50, OTHER);
    for throw_away in 100..160 {
        totals.add(&throw_away, (), 1);
    }
    totals.end_round(there);
    for _ in 0..10 {
        for pod in 0..50 {
            totals.add(&pod, (), 2);
        }
        totals.end_round(there);
    }
    let series = series(&totals);
    assert!((0..50).all(|pod| series.contains_key(&pod)), "{series:?}");
    assert_eq!(series.values().sum::<u64>(), 60 + 10 * 50 * 2);
}

#[test]
fn two_of_equal_size_do_not_alternate() {
    let mut totals = NamedTotals::new(1, OTHER);
    for round in 0..100 {
        totals.add(&1, (), 10 + round % 2 * 5);
        totals.add(&2, (), 15 - round % 2 * 5);
        totals.end_round(there);
        assert!(series(&totals).contains_key(&1), "round {round}");
    }
}

#[test]
fn a_pinned_owner_is_named_although_it_never_grows() {
    let mut totals = NamedTotals::new(1, OTHER).pin(1);
    totals.add(&1, (), 0);
    for _ in 0..50 {
        totals.add(&2, (), 100);
        totals.end_round(|owner| *owner != 1);
    }
    assert_eq!(series(&totals), BTreeMap::from([(1, 0), (OTHER, 5_000)]));
}

#[test]
fn an_owner_that_has_not_grown_for_long_ends_its_series() {
    let mut totals = NamedTotals::new(5, OTHER).idle_after(20);
    totals.add(&1, (), 4);
    for _ in 0..20 {
        totals.end_round(there);
    }
    assert_eq!(series(&totals), BTreeMap::from([(1, 4)]));
    totals.end_round(there);
    assert_eq!(series(&totals), BTreeMap::from([(OTHER, 4)]));
}

#[test]
fn an_owner_of_the_name_of_other_is_part_of_it() {
    let mut totals = NamedTotals::new(5, OTHER);
    totals.add(&OTHER, (), 4);
    totals.end_round(there);
    assert_eq!(series(&totals), BTreeMap::from([(OTHER, 4)]));
    assert!(totals.candidates.is_empty());
}

/// One change of the totals.
#[derive(Clone, Debug)]
enum Step {
    Add(u32, u64),
    EndRound { away: u32 },
    Limit(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0_u32..2_000, 0_u64..1_000).prop_map(|(owner, count)| Step::Add(owner, count)),
        2 => (0_u32..20).prop_map(|away| Step::EndRound { away }),
        1 => (0_usize..8).prop_map(Step::Limit),
    ]
}

proptest! {
    #[test]
    fn other_never_falls_and_nothing_that_was_added_is_lost(
        steps in proptest::collection::vec(step(), 0..400),
    ) {
        let mut totals = NamedTotals::new(4, OTHER).pin(3).idle_after(30);
        let (mut other, mut added) = (0, 0);
        for step in steps {
            match step {
                Step::Add(owner, count) => {
                    totals.add(&owner, (), count);
                    added += count;
                }
                Step::EndRound { away } => totals.end_round(|owner| owner % 20 != away),
                Step::Limit(limit) => totals.set_limit(limit),
            }
            let series = series(&totals);
            let now = series.get(&OTHER).copied().unwrap_or(0);
            prop_assert!(now >= other, "other fell from {other} to {now}");
            other = now;
            prop_assert_eq!(series.values().sum::<u64>(), added);
            prop_assert!(totals.named.len() <= 9 && totals.candidates.len() <= MOST_CANDIDATES);
        }
    }

    #[test]
    fn the_largest_of_now_are_named_within_twenty_rounds(
        sizes in proptest::collection::vec(1_u64..50, 0..300),
        large in 200_u64..1_000,
    ) {
        let mut totals = NamedTotals::new(5, OTHER);
        // Owners that came first.
        for (owner, size) in sizes.iter().enumerate() {
            totals.add(&(1_000 + owner as u32), (), *size);
        }
        for _ in 0..20 {
            for (owner, size) in sizes.iter().enumerate() {
                totals.add(&(1_000 + owner as u32), (), *size);
            }
            for owner in 0..5 {
                totals.add(&owner, (), large);
            }
            totals.end_round(there);
        }
        let series = series(&totals);
        prop_assert!((0..5).all(|owner| series.contains_key(&owner)), "{series:?}");
    }
}
