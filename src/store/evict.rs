//! Which entries leave the cache: a pure function from sizes, ages and pins to victims.

use std::cmp::Reverse;

use crate::manifest::id::EntryId;

/// What is known of an entry when space is short.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Which entry.
    pub id: EntryId,
    /// Bytes that its removal gives back.
    pub bytes: u64,
    /// When a request last used it, in milliseconds since the epoch.
    pub last_used_unix_ms: u64,
    /// Time since it was created, in milliseconds.
    pub age_ms: u64,
    /// Whether somebody reads it now.
    pub pinned: bool,
    /// Whether it is the newest entry of its repository.
    pub current: bool,
}

/// What must hold, and the free space as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Most bytes that all entries together may own.
    pub limit_bytes: u64,
    /// Bytes free on the file system now.
    pub free_bytes: u64,
    /// Fewest bytes that must stay free on the file system.
    pub floor_bytes: u64,
}

/// The answer of [`plan`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Entries to remove, in this order.
    pub victims: Vec<EntryId>,
    /// Whether both bounds hold afterwards. When not, everything that helps is a victim.
    pub enough: bool,
}

/// Chooses what to remove so that both bounds hold: superseded entries first, then current
/// ones, each least recently used first (older and then smaller id first among equals). Stops
/// as soon as both hold; never takes a pinned entry, nor one whose removal gives nothing back.
/// The order of `candidates` does not matter.
pub fn plan(candidates: &[Candidate], bounds: Bounds) -> Plan {
    // u128: the sum of sizes is a sum of foreign numbers and must not wrap.
    let owned_bytes: u128 = candidates.iter().map(|c| u128::from(c.bytes)).sum();
    let above_limit = owned_bytes.saturating_sub(bounds.limit_bytes.into());
    let below_floor = bounds.floor_bytes.saturating_sub(bounds.free_bytes);
    let wanted_bytes = above_limit.max(below_floor.into());

    let mut order: Vec<&Candidate> = candidates
        .iter()
        .filter(|candidate| !candidate.pinned && candidate.bytes > 0)
        .collect();
    order.sort_by_key(|c| (c.current, c.last_used_unix_ms, Reverse(c.age_ms), c.id));

    let mut freed_bytes = 0u128;
    let mut victims = Vec::new();
    for candidate in order {
        if freed_bytes >= wanted_bytes {
            break;
        }
        freed_bytes += u128::from(candidate.bytes);
        victims.push(candidate.id);
    }
    Plan {
        victims,
        enough: freed_bytes >= wanted_bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(number: u8) -> EntryId {
        EntryId::from_bytes([number; 16])
    }

    fn candidate(number: u8, bytes: u64, last_used_unix_ms: u64) -> Candidate {
        Candidate {
            id: id(number),
            bytes,
            last_used_unix_ms,
            age_ms: 0,
            pinned: false,
            current: true,
        }
    }

    fn limit(limit_bytes: u64) -> Bounds {
        Bounds {
            limit_bytes,
            free_bytes: 0,
            floor_bytes: 0,
        }
    }

    #[test]
    fn superseded_entries_leave_before_the_least_recently_used() {
        let mut entries = vec![
            candidate(1, 10, 500),
            candidate(2, 10, 100),
            candidate(3, 10, 900),
            candidate(4, 10, 50),
        ];
        entries[2].current = false;
        entries[3].pinned = true;
        let victims = |limit_bytes| plan(&entries, limit(limit_bytes)).victims;
        assert_eq!(victims(40), []);
        assert_eq!(victims(39), [id(3)]);
        assert_eq!(victims(25), [id(3), id(2)]);
        assert_eq!(victims(10), [id(3), id(2), id(1)]);
        assert!(plan(&entries, limit(10)).enough);
        let all = plan(&entries, limit(9));
        assert_eq!((all.victims.len(), all.enough), (3, false));
    }

    #[test]
    fn the_free_space_floor_counts_as_well() {
        let entries = [candidate(1, 10, 1), candidate(2, 10, 2)];
        let bounds = |free_bytes| Bounds {
            limit_bytes: 100,
            free_bytes,
            floor_bytes: 30,
        };
        assert_eq!(plan(&entries, bounds(30)).victims, []);
        assert_eq!(plan(&entries, bounds(25)).victims, [id(1)]);
        assert_eq!(plan(&entries, bounds(15)).victims, [id(1), id(2)]);
        assert!(plan(&entries, bounds(10)).enough);
        assert!(!plan(&entries, bounds(9)).enough);
    }

    #[test]
    fn among_equals_the_older_leaves_first_and_nothing_wraps() {
        let mut entries = vec![candidate(1, u64::MAX, 7), candidate(2, u64::MAX, 7)];
        entries[1].age_ms = 1;
        let plan = plan(&entries, limit(u64::MAX));
        assert_eq!((plan.victims, plan.enough), (vec![id(2)], true));
    }

    fn candidates() -> impl Strategy<Value = Vec<Candidate>> {
        let bytes = prop_oneof![0u64..4, 0u64..1000, Just(u64::MAX)];
        let one = (bytes, 0u64..4, 0u64..3, any::<bool>(), any::<bool>());
        prop::collection::vec(one, 0..20).prop_map(|list| {
            let numbered = list.into_iter().enumerate();
            let make = |(i, (bytes, used, age_ms, pinned, current))| Candidate {
                age_ms,
                pinned,
                current,
                ..candidate(i as u8, bytes, used)
            };
            numbered.map(make).collect()
        })
    }

    fn bounds() -> impl Strategy<Value = Bounds> {
        (0u64..6000, 0u64..3000, 0u64..3000).prop_map(|(limit_bytes, free_bytes, floor_bytes)| {
            Bounds {
                limit_bytes,
                free_bytes,
                floor_bytes,
            }
        })
    }

    /// Whether the bounds hold once `victims` are gone, said differently than in `plan`.
    fn holds(entries: &[Candidate], bounds: Bounds, victims: &[EntryId]) -> bool {
        let (gone, stay): (Vec<_>, Vec<_>) = entries.iter().partition(|c| victims.contains(&c.id));
        let sum = |list: &[&Candidate]| list.iter().map(|c| u128::from(c.bytes)).sum::<u128>();
        sum(&stay) <= u128::from(bounds.limit_bytes)
            && u128::from(bounds.free_bytes) + sum(&gone) >= u128::from(bounds.floor_bytes)
    }

    proptest! {
        #[test]
        fn a_plan_is_safe_enough_minimal_and_ordered(
            entries in candidates(),
            bounds in bounds(),
            shuffle in any::<prop::sample::Index>(),
        ) {
            let plan = super::plan(&entries, bounds);
            let of = |id: &EntryId| entries.iter().find(|c| c.id == *id).unwrap();
            prop_assert!(plan.victims.iter().all(|id| !of(id).pinned && of(id).bytes > 0));
            let mut unique = plan.victims.clone();
            unique.sort();
            unique.dedup();
            prop_assert_eq!(unique.len(), plan.victims.len());

            prop_assert_eq!(plan.enough, holds(&entries, bounds, &plan.victims));
            let helpful = entries.iter().filter(|c| !c.pinned && c.bytes > 0).count();
            prop_assert!(plan.enough || plan.victims.len() == helpful);
            if let Some((_, fewer)) = plan.victims.split_last() {
                prop_assert!(!holds(&entries, bounds, fewer), "the last victim is not needed");
            }

            // Nobody left behind would have had to go before a victim.
            for (left, victim) in entries.iter().flat_map(|l| plan.victims.iter().map(move |v| (l, v))) {
                let may_leave = !left.pinned && left.bytes > 0 && !plan.victims.contains(&left.id);
                let before = (left.current, left.last_used_unix_ms)
                    < (of(victim).current, of(victim).last_used_unix_ms);
                prop_assert!(!(may_leave && before));
            }

            let mut turned = entries.clone();
            if !turned.is_empty() {
                turned.rotate_left(shuffle.index(entries.len()));
                turned.reverse();
            }
            prop_assert_eq!(super::plan(&turned, bounds), plan);
        }
    }
}
