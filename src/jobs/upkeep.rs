//! Which mirrors need upkeep, and when they get it. Pure: the caller brings the time, in milliseconds of any
//! clock that does not go back, and reports what came of it.

use std::collections::HashMap;
use std::hash::Hash;

use crate::limits::{
    EXPIRY_WAIT_MAX_MS, MAINTENANCE_LIMIT_MAX_MS, MAINTENANCE_LIMIT_MS, MAINTENANCE_RETRY_MS,
    MAINTENANCE_WAIT_MAX_MS,
};

/// What is due, and what runs: one of those that were not cut off before and one of those that were, so that
/// what takes for ever in one mirror keeps no other waiting.
#[derive(Debug)]
pub(super) struct Upkeep<K> {
    due: HashMap<K, Due>,
    /// When something will expire, without anything changing.
    later: HashMap<K, u64>,
    runs_first: bool,
    runs_again: bool,
}

#[derive(Debug, Clone, Copy)]
struct Due {
    since_ms: u64,
    /// From then on it waits for no quiet time.
    late_ms: u64,
    /// In the future where it was tried in vain.
    not_before_ms: u64,
    /// For each step of the next try.
    limit_ms: u64,
}

/// A try that has begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Try {
    /// Since when it was due, and from when on it did not wait.
    since_ms: u64,
    late_ms: u64,
    /// For each of its steps.
    pub limit_ms: u64,
}

/// Whether something with such a limit was cut off before.
fn is_again(limit_ms: u64) -> bool {
    limit_ms > MAINTENANCE_LIMIT_MS
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
            runs_first: false,
            runs_again: false,
        }
    }
}

impl<K: Clone + Eq + Hash> Upkeep<K> {
    /// Something has changed in a mirror.
    pub(super) fn add(&mut self, key: K, now_ms: u64) {
        self.add_for(key, now_ms, MAINTENANCE_WAIT_MAX_MS);
    }

    fn add_for(&mut self, key: K, now_ms: u64, wait_max_ms: u64) {
        let late_ms = now_ms.saturating_add(wait_max_ms);
        let due = self.due.entry(key).or_insert(Due {
            since_ms: now_ms,
            late_ms,
            not_before_ms: now_ms,
            limit_ms: MAINTENANCE_LIMIT_MS,
        });
        due.late_ms = due.late_ms.min(late_ms);
    }

    /// Something expires in a mirror at `at_ms`. If that is over, it was tried in vain just now.
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
            .for_each(|(key, at_ms)| self.add_for(key, at_ms, EXPIRY_WAIT_MAX_MS));
    }

    /// Begins with the mirror that has waited longest of those whose repository was not asked for during
    /// `idle_ms`, or that have waited too long. What changes in it from here on is due anew. Its end is to be
    /// [told](Self::ended).
    pub(super) fn begin(
        &mut self,
        now_ms: u64,
        idle_ms: u64,
        of: impl Fn(&K) -> Use,
    ) -> Option<(K, Try)> {
        let is_quiet = |key: &K, due: &Due| {
            let of = of(key);
            let is_idle = now_ms.saturating_sub(of.asked_ms) >= idle_ms && !of.is_building;
            let is_late = due.late_ms <= now_ms;
            let runs = match is_again(due.limit_ms) {
                false => self.runs_first,
                true => self.runs_again,
            };
            (is_idle || is_late) && due.not_before_ms <= now_ms && !runs
        };
        let quiet = self.due.iter().filter(|(key, due)| is_quiet(key, due));
        let (key, _) = quiet.min_by_key(|(_, due)| (due.not_before_ms, due.since_ms))?;
        let key = key.clone();
        let Due {
            since_ms,
            late_ms,
            limit_ms,
            ..
        } = self.due.remove(&key)?;
        *self.runs(limit_ms) = true;
        let this = Try {
            since_ms,
            late_ms,
            limit_ms,
        };
        Some((key, this))
    }

    fn runs(&mut self, limit_ms: u64) -> &mut bool {
        match is_again(limit_ms) {
            false => &mut self.runs_first,
            true => &mut self.runs_again,
        }
    }

    /// A try has ended.
    pub(super) fn ended(&mut self, key: K, this: Try, ended: Ended, now_ms: u64) {
        let Try {
            since_ms,
            late_ms,
            limit_ms,
        } = this;
        assert!(std::mem::take(self.runs(limit_ms)), "a try that ends runs");
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
                late_ms,
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

    /// The mirror whose turn it is, which is put back as if it had not been.
    fn next(upkeep: &mut Upkeep<u8>, now_ms: u64, of: impl Fn(&u8) -> Use) -> Option<u8> {
        let due = upkeep.due.clone();
        let (key, this) = upkeep.begin(now_ms, 10, of)?;
        upkeep.ended(key, this, Ended::Done, now_ms);
        upkeep.due = due;
        Some(key)
    }

    fn run(upkeep: &mut Upkeep<u8>, now_ms: u64, ended: Ended) -> (u8, u64) {
        let (key, this) = upkeep.begin(now_ms, 0, |_| asked(0)).unwrap();
        upkeep.ended(key, this, ended, now_ms);
        (key, this.limit_ms)
    }

    #[test]
    fn a_mirror_has_its_turn_when_nobody_asks_for_it_or_after_a_day() {
        let mut upkeep = Upkeep::default();
        assert_eq!(next(&mut upkeep, 0, |_| asked(0)), None);
        upkeep.add(1, 100);
        upkeep.add(1, 105);
        upkeep.add(2, 101);
        assert_eq!(next(&mut upkeep, 109, |_| asked(100)), None);
        assert_eq!(next(&mut upkeep, 110, |_| asked(100)), Some(1));
        let building = |key: &u8| Use {
            asked_ms: 100,
            is_building: *key == 1,
        };
        assert_eq!(next(&mut upkeep, 110, building), Some(2));
        // Somebody asks for it all the time.
        let day = MAINTENANCE_WAIT_MAX_MS;
        assert_eq!(next(&mut upkeep, 99 + day, |_| asked(99 + day)), None);
        assert_eq!(next(&mut upkeep, 100 + day, |_| asked(100 + day)), Some(1));
        assert_eq!(run(&mut upkeep, 200, Ended::Done).0, 1);
        assert_eq!(next(&mut upkeep, 110, |_| asked(100)), Some(2));
        run(&mut upkeep, 200, Ended::Done);
        assert_eq!(next(&mut upkeep, 999, |_| asked(0)), None);
    }

    /// One that is cut off again and again, whose tries take longer and longer, has a place of its own.
    #[test]
    fn what_takes_for_ever_keeps_no_other_waiting() {
        let mut upkeep = Upkeep::default();
        upkeep.add(1, 0);
        upkeep.add(2, 1);
        upkeep.add(3, 2);
        let begin = |upkeep: &mut Upkeep<u8>, now| upkeep.begin(now, 0, |_| asked(0));
        let (first, try_1) = begin(&mut upkeep, 10).unwrap();
        assert_eq!(first, 1);
        assert_eq!(begin(&mut upkeep, 10), None, "one at a time");
        upkeep.ended(1, try_1, Ended::CutOff, 10);
        let (second, try_2) = begin(&mut upkeep, 10).unwrap();
        assert_eq!(second, 2);
        let later = 10 + MAINTENANCE_RETRY_MS;
        let (again, longer) = begin(&mut upkeep, later).unwrap();
        assert_eq!((again, longer.limit_ms), (1, 2 * MAINTENANCE_LIMIT_MS));
        upkeep.ended(2, try_2, Ended::Done, later);
        assert_eq!(begin(&mut upkeep, later).unwrap().0, 3);
        assert_eq!(begin(&mut upkeep, later), None);
    }

    #[test]
    fn what_is_due_later_waits_for_its_time_and_a_quiet_one() {
        let mut upkeep = Upkeep::default();
        upkeep.add_later(1, 100, 50);
        upkeep.pass(99);
        assert_eq!(next(&mut upkeep, 99, |_| asked(0)), None);
        upkeep.pass(100);
        assert_eq!(next(&mut upkeep, 109, |_| asked(100)), None);
        assert_eq!(next(&mut upkeep, 110, |_| asked(100)), Some(1));
        run(&mut upkeep, 110, Ended::Done);
        upkeep.pass(200);
        assert_eq!(next(&mut upkeep, 300, |_| asked(100)), None);
        // It is over and was tried in vain.
        upkeep.add_later(1, 100, 300);
        upkeep.pass(299 + MAINTENANCE_RETRY_MS);
        assert!(upkeep.due.is_empty());
        upkeep.pass(300 + MAINTENANCE_RETRY_MS);
        assert!(upkeep.due.contains_key(&1));
    }

    /// What has expired is to be gone soon, whoever asks for the repository all the time.
    #[test]
    fn what_expires_waits_for_no_quiet_day() {
        let mut upkeep = Upkeep::default();
        let busy = |now_ms| move |_: &u8| asked(now_ms);
        upkeep.add(1, 0);
        upkeep.add_later(1, 100, 50);
        upkeep.pass(100);
        let late = 100 + EXPIRY_WAIT_MAX_MS;
        assert_eq!(next(&mut upkeep, late - 1, busy(late - 1)), None);
        let (key, this) = upkeep.begin(late, 10, busy(late)).unwrap();
        assert_eq!((key, this.since_ms), (1, 0));
        upkeep.ended(1, this, Ended::PutOff, late);
        let later = late + MAINTENANCE_RETRY_MS;
        assert_eq!(next(&mut upkeep, later, busy(later)), Some(1));
    }

    #[test]
    fn what_is_cut_off_is_tried_again_with_twice_the_time() {
        let mut upkeep = Upkeep::default();
        upkeep.add(1, 0);
        let cut_off = |round| run(&mut upkeep, round * MAINTENANCE_RETRY_MS, Ended::CutOff).1;
        let limits = Vec::from_iter((0..20).map(cut_off));
        assert_eq!(limits[..3], [1, 2, 4].map(|n| n * MAINTENANCE_LIMIT_MS));
        assert_eq!(limits[19], MAINTENANCE_LIMIT_MAX_MS);
        let now = 20 * MAINTENANCE_RETRY_MS;
        let (_, limit_ms) = run(&mut upkeep, now, Ended::PutOff);
        assert_eq!(next(&mut upkeep, now, |_| asked(0)), None, "at once");
        let now = now + MAINTENANCE_RETRY_MS;
        assert_eq!(run(&mut upkeep, now, Ended::Done), (1, limit_ms));
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
            let (key, this) = upkeep.begin(now, 10, busy(now)).unwrap();
            assert_eq!(this.since_ms, 100);
            upkeep.ended(key, this, Ended::PutOff, now);
            assert_eq!(upkeep.begin(now, 10, busy(now)), None, "at once");
        }
    }
}
