use super::*;
use proptest::prelude::*;

fn candidate(key: usize, own_bytes: u64, idle_s: u64) -> Candidate {
    Candidate {
        key,
        own_bytes,
        shared: Vec::new(),
        cost: own_bytes,
        idle_ms: idle_s * 1000,
        pinned: false,
    }
}

fn snapshot(key: usize, own_bytes: u64, idle_s: u64) -> Holding {
    Holding {
        snapshot: Some(candidate(key, own_bytes, idle_s)),
        ..Holding::default()
    }
}

fn limit(used_bytes: u64, low_bytes: u64, high_bytes: u64) -> Bounds {
    Bounds {
        used_bytes,
        high_bytes,
        low_bytes,
        ..Bounds::default()
    }
}

#[test]
fn down_to_the_low_mark_by_value_and_superseded_first() {
    let mut all = vec![
        snapshot(1, 10, 50),
        snapshot(2, 10, 100),
        snapshot(3, 10, 3),
        snapshot(4, 10, 500),
    ];
    all[2].superseded = vec![candidate(5, 10, 1)];
    all[3].snapshot.as_mut().unwrap().pinned = true;
    let victims = |used, low| plan(&all, &[], limit(used, low, 50)).victims;
    assert!(victims(50, 10).is_empty(), "it is not passed");
    assert_eq!(victims(51, 50), [5]);
    assert_eq!(victims(51, 41), [5]);
    assert_eq!(victims(51, 40), [5, 2]);
    assert_eq!(victims(51, 25), [5, 2, 1]);
    assert_eq!(victims(51, 0), [5, 2, 1, 3]);
    let over = |used| plan(&all, &[], limit(used, 5, 50)).over_bytes;
    assert_eq!((over(51), over(90), over(91)), (0, 0, 1));
    // What costs more to have again stays longer.
    all[1].snapshot.as_mut().unwrap().cost = 1000;
    assert_eq!(plan(&all, &[], limit(51, 40, 50)).victims, [5, 1]);
}

/// A pack is in the mirror and in two snapshots: it goes with the last of them.
#[test]
fn a_file_goes_with_the_last_of_its_names() {
    let linked = |key, idle_s| Candidate {
        shared: vec![0],
        cost: 1 << 20,
        ..candidate(key, 1, idle_s)
    };
    let all = [Holding {
        superseded: vec![linked(1, 9)],
        snapshot: Some(linked(2, 9)),
        mirror: Some(linked(3, 9)),
        ..Holding::default()
    }];
    let pack = |names| [Shared { bytes: 100, names }];
    let victims = |names, low| {
        let plan = plan(&all, &pack(names), limit(103, low, 102));
        (plan.victims, plan.over_bytes)
    };
    assert_eq!(victims(3, 102), (vec![1], 0));
    // Two bytes alone would cost as much as all: they go together.
    assert_eq!(victims(3, 101), (vec![1, 2, 3], 0));
    // Somebody else has the fourth name.
    assert_eq!(victims(4, 0), (vec![1, 2, 3], 0));
    assert_eq!(plan(&all, &pack(4), limit(150, 0, 120)).over_bytes, 27);
}

/// A mirror that nobody uses leaves before a snapshot that is in use all the time, and takes its own
/// snapshot along; one whose snapshot is read stays.
#[test]
fn idle_mirrors_leave_before_what_is_wanted() {
    let with_mirror = |key, idle_s| Holding {
        snapshot: Some(candidate(key, 10, idle_s)),
        mirror: Some(Candidate {
            cost: 40,
            ..candidate(key + 1, 10, idle_s)
        }),
        ..Holding::default()
    };
    let mut all = [with_mirror(1, 1), with_mirror(3, 1000)];
    assert_eq!(plan(&all, &[], limit(41, 31, 40)).victims, [3]);
    assert_eq!(plan(&all, &[], limit(41, 21, 40)).victims, [3, 4]);
    assert_eq!(plan(&all, &[], limit(41, 11, 40)).victims, [3, 4, 1]);
    all[1].snapshot.as_mut().unwrap().pinned = true;
    assert_eq!(plan(&all, &[], limit(41, 1, 40)).victims, [1, 2]);
}

/// What can never be kept leaves alone, and is no reason for anything else to leave while it is used.
#[test]
fn what_is_larger_than_the_limit_throws_out_nothing_else() {
    let mut all = vec![snapshot(1, 10, 5), snapshot(2, 10, 5), snapshot(3, 101, 0)];
    let with = |all: &[Holding]| plan(all, &[], limit(121, 90, 100));
    assert_eq!((with(&all).victims, with(&all).over_bytes), (vec![3], 0));
    all[2].snapshot.as_mut().unwrap().pinned = true;
    assert_eq!((with(&all).victims, with(&all).over_bytes), (vec![], 0));
}

/// Others fill the disk: what nobody has wanted for a while leaves if that is enough, and nothing
/// otherwise.
#[test]
fn a_floor_that_cannot_be_reached_evicts_nothing() {
    let all = [
        snapshot(1, 10, 1000),
        snapshot(2, 10, 100),
        snapshot(3, 10, 1),
    ];
    let bounds = |free_bytes| Bounds {
        free_bytes,
        floor_bytes: 30,
        ..limit(0, 90, 100)
    };
    let with = |free_bytes| {
        let plan = plan(&all, &[], bounds(free_bytes));
        (plan.victims, plan.floor_missed_bytes)
    };
    assert_eq!(plan(&all, &[], bounds(10)).reasons, [Why::Floor; 2]);
    assert_eq!(with(30), (vec![], 0));
    assert_eq!(with(29), (vec![1], 0));
    assert_eq!(with(10), (vec![1, 2], 0));
    assert_eq!(
        with(9),
        (vec![], 21),
        "the third one is wanted all the time"
    );
}

/// Somebody found the disk full, whatever the limit says.
#[test]
fn who_lacks_room_gets_some() {
    let all = [snapshot(1, 10, 9), snapshot(2, 10, 1)];
    let bounds = Bounds {
        short_bytes: 5,
        ..limit(20, 90, 100)
    };
    let made = plan(&all, &[], bounds);
    assert_eq!((made.victims, made.reasons), (vec![1], vec![Why::Full]));
    // What is only to be kept does not take a mirror that somebody has wanted lately.
    let mut all = [snapshot(1, 3, 9), snapshot(2, 3, 70)];
    for (holding, idle_s) in all.iter_mut().zip([9, 70]) {
        let key = holding.snapshot.as_ref().unwrap().key + 10;
        holding.mirror = Some(candidate(key, 3, idle_s));
    }
    let spares = |short_bytes, spares_mirrors| Bounds {
        short_bytes,
        spares_mirrors,
        ..limit(20, 90, 100)
    };
    let victims = |short, spares_mirrors| plan(&all, &[], spares(short, spares_mirrors)).victims;
    assert_eq!(victims(9, true), [2, 12, 1]);
    assert_eq!(victims(12, true), [2, 12, 1]);
    assert_eq!(victims(12, false), [2, 12, 1, 11]);
}

/// Of refs and commits there are never more than there may be: the least valuable leave, those in use stay,
/// and with them what a plain request is answered from.
#[test]
fn snapshots_of_refs_and_commits_are_bounded() {
    let others = |keys: std::ops::Range<usize>| keys.map(|key| candidate(key, 10, key as u64));
    let mut all = [Holding {
        others: others(1..9).collect(),
        snapshot: Some(candidate(100, 10, 500)),
        ..Holding::default()
    }];
    let bounds = |of_one, of_one_bytes, of_all| Bounds {
        others: OthersMax {
            of_one,
            of_one_bytes,
            of_all,
        },
        ..limit(90, 90, 100)
    };
    let victims = |all: &[Holding], bounds| plan(all, &[], bounds).victims;
    assert!(victims(&all, bounds(8, 80, 8)).is_empty());
    assert_eq!(victims(&all, bounds(6, 80, 8)), [8, 7]);
    let many_and_much = Bounds {
        used_bytes: 115,
        low_bytes: 85,
        ..bounds(7, 80, 8)
    };
    let reasons = plan(&all, &[], many_and_much).reasons;
    assert_eq!(reasons, [Why::Count, Why::Limit, Why::Limit]);
    assert_eq!(victims(&all, bounds(8, 59, 8)), [8, 7, 6]);
    assert_eq!(victims(&all, bounds(8, 80, 5)), [8, 7, 6]);
    all[0].others[7].pinned = true;
    assert_eq!(victims(&all, bounds(6, 80, 8)), [7, 6]);
    // The default one is the least valuable of all, and the last.
    let full = limit(90, 5, 80);
    assert_eq!(victims(&all, full), [7, 6, 5, 4, 3, 2, 1]);
    all[0].others[7].pinned = false;
    let all_of_it = victims(&all, full);
    assert_eq!((all_of_it.len(), all_of_it.last()), (9, Some(&100)));
    let few = victims(&all, limit(90, 75, 80));
    assert_eq!(few, [8, 7], "it is not alone");
}

fn one() -> impl Strategy<Value = Candidate> {
    let bytes = prop_oneof![0u64..4, 0u64..1000, Just(u64::MAX)];
    let shared = prop::collection::vec(0usize..6, 0..4);
    (bytes, shared, 0u64..2000, 0u64..200_000, any::<bool>()).prop_map(
        |(own_bytes, shared, cost, idle_ms, pinned)| Candidate {
            key: 0,
            own_bytes,
            shared,
            cost,
            idle_ms,
            pinned,
        },
    )
}

fn holdings() -> impl Strategy<Value = Vec<Holding>> {
    let superseded = prop::collection::vec(one(), 0..3);
    let others = prop::collection::vec(one(), 0..3);
    let served = (others, prop::option::of(one()));
    let apart = (prop::option::of(one()), prop::option::of(one()));
    let holding = (superseded, served, apart);
    prop::collection::vec(holding, 0..6).prop_map(|list| {
        let mut next = 0..;
        let mut number = |one: Candidate| Candidate {
            key: next.next().unwrap(),
            ..one
        };
        type Served = (Vec<Candidate>, Option<Candidate>);
        type Apart = (Option<Candidate>, Option<Candidate>);
        let make =
            |(superseded, (others, snapshot), (tips, mirror)): (Vec<_>, Served, Apart)| Holding {
                superseded: superseded.into_iter().map(&mut number).collect(),
                tips: tips.map(&mut number),
                others: others.into_iter().map(&mut number).collect(),
                snapshot: snapshot.map(&mut number),
                mirror: mirror.map(&mut number),
            };
        list.into_iter().map(make).collect()
    })
}

fn bounds() -> impl Strategy<Value = Bounds> {
    let bytes = || 0u64..3000;
    (bytes(), bytes(), bytes(), bytes(), bytes()).prop_map(
        |(used_bytes, high_bytes, low_bytes, free_bytes, floor_bytes)| Bounds {
            used_bytes: used_bytes * 3,
            high_bytes,
            low_bytes: low_bytes.min(high_bytes),
            free_bytes,
            floor_bytes,
            short_bytes: 0,
            spares_mirrors: false,
            others: OthersMax::default(),
        },
    )
}

/// What the victims give back, said differently than in `plan`.
fn freed(holdings: &[Holding], shared: &[Shared], victims: &[usize]) -> u128 {
    let all = || holdings.iter().flat_map(Holding::all);
    let gone = || all().filter(|one| victims.contains(&one.key));
    let own: u128 = gone().map(|one| u128::from(one.own_bytes)).sum();
    let names = |file: usize| {
        let of = |one: &Candidate| one.shared.iter().filter(|f| **f == file).count() as u64;
        gone().map(of).sum::<u64>()
    };
    let files = (0..shared.len()).filter(|file| shared[*file].names > 0);
    let files = files.filter(|file| names(*file) >= shared[*file].names);
    own + files
        .map(|file| u128::from(shared[file].bytes))
        .sum::<u128>()
}

proptest! {
    #[test]
    fn a_plan_is_safe_enough_and_minimal(
        holdings in holdings(),
        bounds in bounds(),
        outside in prop::collection::vec(0u64..2, 6),
        shuffle in any::<prop::sample::Index>(),
    ) {
        let all = || holdings.iter().flat_map(Holding::all);
        let names = |file| all().map(|one| one.shared.iter().filter(|f| **f == file).count() as u64).sum::<u64>();
        let shared: Vec<Shared> = (0..6)
            .map(|file| Shared { bytes: 100 * file as u64, names: names(file) + outside[file] })
            .collect();
        let plan = super::plan(&holdings, &shared, bounds);
        let victims = &plan.victims;
        let of = |key: &usize| all().find(|one| one.key == *key).unwrap();
        prop_assert!(victims.iter().all(|key| !of(key).pinned));
        prop_assert_eq!(victims.iter().collect::<HashSet<_>>().len(), victims.len());

        // A snapshot goes after those of refs and commits, and a mirror after its snapshots.
        for holding in &holdings {
            let at = |one: &Candidate| victims.iter().position(|key| *key == one.key);
            let last = |all: &mut dyn Iterator<Item = &Candidate>| {
                // `None` stays, which is later than any.
                all.map(|one| at(one).unwrap_or(usize::MAX)).max()
            };
            let others = last(&mut holding.others.iter());
            let served = last(&mut holding.served());
            if let Some(snapshot) = holding.snapshot.as_ref().and_then(at) {
                prop_assert!(others.is_none_or(|others| others < snapshot));
            }
            if let Some(mirror) = holding.mirror.as_ref().and_then(at) {
                prop_assert!(served.is_none_or(|served| served < mirror));
            }
        }

        let high = u128::from(bounds.high_bytes);
        let whole = |one: &Candidate| {
            let files = one.shared.iter().map(|file| u128::from(shared[*file].bytes));
            u128::from(one.own_bytes) + files.sum::<u128>()
        };
        let giants: Vec<usize> = all().filter(|one| whole(one) > high).map(|one| one.key).collect();
        let given = freed(&holdings, &shared, victims);
        let missed = u128::from(bounds.floor_bytes).saturating_sub(u128::from(bounds.free_bytes) + given);
        prop_assert_eq!(u128::from(plan.floor_missed_bytes), missed);
        if giants.is_empty() {
            let left = u128::from(bounds.used_bytes).saturating_sub(given);
            prop_assert_eq!(u128::from(plan.over_bytes), left.saturating_sub(high));
            // One less would not do.
            if let Some((last, fewer)) = victims.split_last() {
                let given = freed(&holdings, &shared, fewer);
                let left = u128::from(bounds.used_bytes).saturating_sub(given);
                let above = u128::from(bounds.used_bytes) > high && left > bounds.low_bytes.into();
                let below = u128::from(bounds.free_bytes) + given < bounds.floor_bytes.into();
                let is_last = |one: &Option<Candidate>| one.as_ref().is_some_and(|one| one.key == *last);
                let in_group = holdings.iter().any(|h| is_last(&h.mirror) || (is_last(&h.snapshot) && !h.others.is_empty()));
                prop_assert!(above || below || in_group, "the last victim is not needed");
            }
            // What is not above the limit leaves only for the floor, and only if that is reached.
            if u128::from(bounds.used_bytes) <= high && !victims.is_empty() {
                prop_assert_eq!(plan.floor_missed_bytes, 0);
                prop_assert!(victims.iter().all(|key| of(key).idle_ms >= FLOOR_IDLE_MS));
            }
        }

        let mut turned = holdings.clone();
        if !turned.is_empty() {
            turned.rotate_left(shuffle.index(holdings.len()));
            turned.reverse();
        }
        prop_assert_eq!(super::plan(&turned, &shared, bounds), plan);
    }
}
