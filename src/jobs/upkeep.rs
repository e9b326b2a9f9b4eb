//! Which mirrors need upkeep, and when they get it. Pure: the caller brings the time, in milliseconds of any
//! clock that does not go back, and reports what came of it.

use std::collections::HashMap;
use std::hash::Hash;

use crate::limits::{
    MAINTENANCE_LIMIT_MAX_MS, MAINTENANCE_LIMIT_MS, MAINTENANCE_RETRY_MS, MAINTENANCE_WAIT_MAX_MS,
};

/// What is due.
#[derive(Debug)]
pub(super) struct Upkeep<K> {
    due: HashMap<K, Due>,
    /// When something will be, without anything changing.
    later: HashMap<K, u64>,
}

#[derive(Debug, Clone, Copy)]
struct Due {
    since_ms: u64,
    /// In the future where it was tried in vain.
    not_before_ms: u64,
    /// For each step of the next try.
    limit_ms: u64,
}

/// How upkeep ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// There is nothing more to do.
    Done,
    /// A step took longer than it might.
    CutOff,
    /// Somebody was in the way: it is due as before.
    PutOff,
}

/// What is known of a repository.
#[derive(Debug, Clone, Copy)]
pub(super) struct Use {
    /// When somebody last asked for it.
    pub asked_ms: u64,
    pub is_building: bool,
}

impl<K> Default for Upkeep<K> {
    fn default() -> Self {
        Upkeep {
            due: HashMap::new(),
            later: HashMap::new(),
        }
    }
}

impl<K: Clone + Eq + Hash> Upkeep<K> {
    /// Something has changed in a mirror.
    pub(super) fn add(&mut self, key: K, now_ms: u64) {
        self.due.entry(key).or_insert(Due {
            since_ms: now_ms,
            not_before_ms: now_ms,
            limit_ms: MAINTENANCE_LIMIT_MS,
        });
    }

    /// Something will be due in a mirror at `at_ms`. If that is over, it was tried in vain just now.
    pub(super) fn add_later(&mut self, key: K, at_ms: u64, now_ms: u64) {
        let at_ms = match at_ms <= now_ms {
            true => now_ms.saturating_add(MAINTENANCE_RETRY_MS),
            false => at_ms,
        };
        self.later.insert(key, at_ms);
    }

    /// Makes due what was to be by now.
    pub(super) fn pass(&mut self, now_ms: u64) {
        let passed = self.later.extract_if(|_, at_ms| *at_ms <= now_ms);
        let passed = Vec::from_iter(passed);
        passed
            .into_iter()
            .for_each(|(key, at_ms)| self.add(key, at_ms));
    }

    /// The mirror that has waited longest of those whose repository was not asked for during `idle_ms`, or
    /// that have waited too long, and the limit of time for each step.
    pub(super) fn next(
        &self,
        now_ms: u64,
        idle_ms: u64,
        of: impl Fn(&K) -> Use,
    ) -> Option<(K, u64)> {
        let is_quiet = |key: &K, due: &Due| {
            let of = of(key);
            let is_idle = now_ms.saturating_sub(of.asked_ms) >= idle_ms && !of.is_building;
            let is_late = now_ms.saturating_sub(due.since_ms) >= MAINTENANCE_WAIT_MAX_MS;
            (is_idle || is_late) && due.not_before_ms <= now_ms
        };
        let quiet = self.due.iter().filter(|(key, due)| is_quiet(key, due));
        let (key, due) = quiet.min_by_key(|(_, due)| (due.not_before_ms, due.since_ms))?;
        Some((key.clone(), due.limit_ms))
    }

    /// It begins: what changes from here on is due anew. Gives since when it was due.
    pub(super) fn begin(&mut self, key: &K) -> Option<u64> {
        self.due.remove(key).map(|due| due.since_ms)
    }

    /// It has ended, with such a limit; it was due since then.
    pub(super) fn ended(
        &mut self,
        key: K,
        (limit_ms, since_ms): (u64, u64),
        ended: Ended,
        now_ms: u64,
    ) {
        let limit_ms = match ended {
            Ended::Done => return,
            Ended::CutOff => limit_ms.saturating_mul(2).min(MAINTENANCE_LIMIT_MAX_MS),
            Ended::PutOff => limit_ms,
        };
        // Behind all others, and not again and again while what was in the way stays there.
        let not_before_ms = now_ms.saturating_add(MAINTENANCE_RETRY_MS);
        self.due.insert(
            key,
            Due {
                since_ms,
                not_before_ms,
                limit_ms,
            },
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(asked_ms: u64) -> Use {
        Use {
            asked_ms,
            is_building: false,
        }
    }

    #[test]
    fn a_mirror_has_its_turn_when_nobody_asks_for_it_or_after_a_day() {
        let mut upkeep = Upkeep::default();
        assert_eq!(upkeep.next(0, 10, |_: &u8| asked(0)), None);
        upkeep.add(1, 100);
        upkeep.add(1, 105);
        upkeep.add(2, 101);
        assert_eq!(upkeep.next(109, 10, |_| asked(100)), None);
        let first = Some((1, MAINTENANCE_LIMIT_MS));
        assert_eq!(upkeep.next(110, 10, |_| asked(100)), first);
        let building = |key: &u8| Use {
            asked_ms: 100,
            is_building: *key == 1,
        };
        assert_eq!(upkeep.next(110, 10, building).unwrap().0, 2);
        // Somebody asks for it all the time.
        let day = MAINTENANCE_WAIT_MAX_MS;
        assert_eq!(upkeep.next(99 + day, 10, |_| asked(99 + day)), None);
        assert_eq!(upkeep.next(100 + day, 10, |_| asked(100 + day)), first);
        upkeep.begin(&1);
        assert_eq!(upkeep.next(110, 10, |_| asked(100)).unwrap().0, 2);
        upkeep.ended(1, (MAINTENANCE_LIMIT_MS, 0), Ended::Done, 200);
        upkeep.begin(&2);
        assert_eq!(upkeep.next(999, 10, |_| asked(0)), None);
    }

    #[test]
    fn what_is_due_later_waits_for_its_time_and_a_quiet_one() {
        let mut upkeep = Upkeep::default();
        upkeep.add_later(1, 100, 50);
        upkeep.pass(99);
        assert_eq!(upkeep.next(99, 0, |_| asked(0)), None);
        upkeep.pass(100);
        assert_eq!(upkeep.next(109, 10, |_| asked(100)), None);
        assert_eq!(upkeep.next(110, 10, |_| asked(100)).unwrap().0, 1);
        upkeep.begin(&1);
        upkeep.pass(200);
        assert_eq!(upkeep.next(300, 10, |_| asked(100)), None);
        // It is over and was tried in vain.
        upkeep.add_later(1, 100, 300);
        upkeep.pass(299 + MAINTENANCE_RETRY_MS);
        assert!(upkeep.due.is_empty());
        upkeep.pass(300 + MAINTENANCE_RETRY_MS);
        assert!(upkeep.due.contains_key(&1));
    }

    #[test]
    fn what_is_cut_off_is_tried_again_with_twice_the_time() {
        let mut upkeep = Upkeep::default();
        upkeep.add(1, 0);
        let mut limits = Vec::new();
        for round in 0..20 {
            let now = round * MAINTENANCE_RETRY_MS;
            let (key, limit_ms) = upkeep.next(now, 0, |_| asked(0)).unwrap();
            limits.push(limit_ms);
            upkeep.begin(&key);
            upkeep.ended(key, (limit_ms, 0), Ended::CutOff, now);
        }
        assert_eq!(limits[..3], [1, 2, 4].map(|n| n * MAINTENANCE_LIMIT_MS));
        assert_eq!(limits[19], MAINTENANCE_LIMIT_MAX_MS);
        let now = 20 * MAINTENANCE_RETRY_MS;
        let (_, limit_ms) = upkeep.next(now, 0, |_| asked(0)).unwrap();
        upkeep.begin(&1);
        upkeep.ended(1, (limit_ms, 0), Ended::PutOff, now);
        let next = |upkeep: &Upkeep<u8>, now| upkeep.next(now, 0, |_| asked(0));
        assert_eq!(next(&upkeep, now), None, "at once");
        let now = now + MAINTENANCE_RETRY_MS;
        assert_eq!(next(&upkeep, now), Some((1, limit_ms)));
    }

    /// A day is a day, however often it was tried in vain.
    #[test]
    fn what_was_put_off_is_due_since_it_was() {
        let mut upkeep = Upkeep::default();
        upkeep.add(1, 100);
        let late = 100 + MAINTENANCE_WAIT_MAX_MS;
        let busy = |now_ms| {
            move |_: &u8| Use {
                asked_ms: now_ms,
                is_building: true,
            }
        };
        for round in 0..3 {
            let now = late + round * MAINTENANCE_RETRY_MS;
            let (key, limit_ms) = upkeep.next(now, 10, busy(now)).unwrap();
            let since_ms = upkeep.begin(&key).unwrap();
            assert_eq!(since_ms, 100);
            upkeep.ended(key, (limit_ms, since_ms), Ended::PutOff, now);
            assert_eq!(upkeep.next(now, 10, busy(now)), None, "at once");
        }
    }
}
