//! When which repository is fetched. Pure: the caller brings the time, in milliseconds of
//! any monotonic clock, and reports what came of each fetch.
use crate::limits;
use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher, Hash};
use std::sync::Arc;

/// What the schedule goes by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Policy {
    /// Between two successful fetches of one repository.
    pub interval_ms: u64,
    /// After the first failure; doubled with every further one.
    pub retry_ms: u64,
    /// The longest wait after failures.
    pub retry_max_ms: u64,
    /// How many fetches may run at once.
    pub running_max: usize,
    /// The same of one host: one that does not answer must leave turns to the others.
    pub host_running_max: usize,
    /// Decides the jitter; the same seed and calls give the same times.
    pub seed: u64,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            interval_ms: limits::FETCH_INTERVAL_DEFAULT_MS,
            retry_ms: limits::FETCH_RETRY_MS,
            retry_max_ms: limits::FETCH_RETRY_MAX_MS,
            running_max: limits::FETCHES_MAX,
            host_running_max: limits::FETCHES_OF_HOST_MAX,
            seed: 0,
        }
    }
}

/// What is fetched, and from where.
pub(crate) trait Key: Clone + Eq + Hash + Ord {
    /// The host that it is fetched from.
    fn host(&self) -> &str;
}

/// A repository's name, `host/path`.
impl Key for Arc<str> {
    fn host(&self) -> &str {
        self.split('/').next().unwrap_or_default()
    }
}

/// The due times of all repositories.
///
/// Invariant: a plan that is removed while it runs stays until it has ended, so that no
/// repository is fetched twice at once.
#[derive(Debug)]
pub(crate) struct Schedule<K> {
    policy: Policy,
    plans: HashMap<K, Plan>,
    /// Counts the due times given, so that each gets its own jitter.
    draws: u64,
}

#[derive(Debug)]
struct Plan {
    due_ms: u64,
    /// The last success; `None` sorts as the most stale.
    fresh_ms: Option<u64>,
    /// In a row.
    failures: u32,
    running: bool,
    removed: bool,
}

impl<K: Key> Schedule<K> {
    /// An empty schedule.
    #[must_use]
    pub(crate) fn new(policy: Policy) -> Self {
        Self {
            policy,
            plans: HashMap::new(),
            draws: 0,
        }
    }

    /// Adds a repository that was last fetched at `fresh_ms`, as far as is known. It is due when
    /// the interval is over. If that is unknown, or in the past, it is due at a random time within
    /// the next interval: many that are added together, at the start for example, are not fetched
    /// together. One that is there already keeps its plan.
    pub(crate) fn add(&mut self, key: K, fresh_ms: Option<u64>, now_ms: u64) {
        if let Some(plan) = self.plans.get_mut(&key) {
            plan.removed = false;
            return;
        }
        let interval_ms = self.policy.interval_ms;
        // A clock that was set back must not put it off for longer than the interval.
        let fresh_ms = fresh_ms.map(|at| at.min(now_ms));
        let due_ms = fresh_ms
            .map(|at| at.saturating_add(self.jittered(&key, interval_ms)))
            .filter(|due_ms| *due_ms > now_ms)
            .unwrap_or_else(|| {
                let wait_ms = self.random(&key) % interval_ms.max(1);
                now_ms.saturating_add(wait_ms)
            });
        self.plans.insert(
            key,
            Plan {
                due_ms,
                fresh_ms,
                failures: 0,
                running: false,
                removed: false,
            },
        );
    }

    /// Forgets a repository. A fetch of it that runs still has to be reported.
    pub(crate) fn remove(&mut self, key: &K) {
        if let Some(plan) = self.plans.get_mut(key).filter(|plan| plan.running) {
            plan.removed = true;
        } else {
            self.plans.remove(key);
        }
    }

    /// The repository to fetch now, counted as running until [`Self::finished`]: of those
    /// that are due the one that was fetched longest ago. `None` when none is due or enough
    /// are running, of all or of its host.
    pub(crate) fn start(&mut self, now_ms: u64) -> Option<K> {
        let due = self.startable().filter(|(_, plan)| plan.due_ms <= now_ms);
        // The key decides last, so that the order of a hash table never shows.
        let (key, _) = due.min_by_key(|(key, plan)| (plan.fresh_ms, plan.due_ms, *key))?;
        let key = key.clone();
        self.plans.get_mut(&key)?.running = true;
        Some(key)
    }

    /// What could start if it were due.
    fn startable(&self) -> impl Iterator<Item = (&K, &Plan)> {
        let mut of_hosts: HashMap<&str, usize> = HashMap::new();
        for (key, _) in self.plans.iter().filter(|(_, plan)| plan.running) {
            *of_hosts.entry(key.host()).or_default() += 1;
        }
        let is_full = of_hosts.values().sum::<usize>() >= self.policy.running_max;
        let host_max = self.policy.host_running_max;
        self.plans.iter().filter(move |(key, plan)| {
            let of_host = of_hosts.get(key.host()).copied().unwrap_or(0);
            !is_full && !plan.running && of_host < host_max
        })
    }

    /// Reports the end of a fetch that [`Self::start`] gave out.
    pub(crate) fn finished(&mut self, key: &K, succeeded: bool, now_ms: u64) {
        let Some(plan) = self.plans.get_mut(key).filter(|plan| plan.running) else {
            return;
        };
        plan.running = false;
        if plan.removed {
            self.plans.remove(key);
            return;
        }
        plan.failures = if succeeded {
            0
        } else {
            plan.failures.saturating_add(1)
        };
        if succeeded {
            plan.fresh_ms = Some(now_ms);
        }
        let wait_ms = match plan.failures {
            0 => self.policy.interval_ms,
            failures => self.backoff_ms(failures),
        };
        let due_ms = now_ms.saturating_add(self.jittered(key, wait_ms));
        if let Some(plan) = self.plans.get_mut(key) {
            plan.due_ms = due_ms;
        }
    }

    /// When [`Self::start`] should be asked next: the earliest due time. `None` while nothing
    /// can start before a running fetch ends, or there is nothing to do at all.
    #[must_use]
    pub(crate) fn wake_at_ms(&self) -> Option<u64> {
        self.startable().map(|(_, plan)| plan.due_ms).min()
    }

    fn backoff_ms(&self, failures: u32) -> u64 {
        let doubled = 1_u64
            .checked_shl(failures.saturating_sub(1))
            .unwrap_or(u64::MAX);
        self.policy
            .retry_ms
            .saturating_mul(doubled)
            .min(self.policy.retry_max_ms)
    }

    /// The time moved by at most [`FETCH_JITTER_PERCENT`](limits::FETCH_JITTER_PERCENT) to
    /// either side, so that repositories added together do not stay together.
    fn jittered(&mut self, key: &K, wait_ms: u64) -> u64 {
        let reach = wait_ms / 100 * limits::FETCH_JITTER_PERCENT;
        let offset = self.random(key) % (2 * reach + 1);
        wait_ms.saturating_sub(reach).saturating_add(offset)
    }

    fn random(&mut self, key: &K) -> u64 {
        self.draws += 1;
        // This hasher has fixed keys: the same in every process.
        let hasher = BuildHasherDefault::<DefaultHasher>::default();
        hasher.hash_one((self.policy.seed, self.draws, key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Key for &'static str {
        fn host(&self) -> &str {
            self.split('/').next().unwrap_or_default()
        }
    }

    impl Key for u64 {
        fn host(&self) -> &str {
            ""
        }
    }

    fn schedule(running_max: usize) -> Schedule<&'static str> {
        let policy = Policy {
            interval_ms: 1000,
            retry_ms: 100,
            retry_max_ms: 1500,
            running_max,
            host_running_max: 2,
            seed: 7,
        };
        Schedule::new(policy)
    }

    #[test]
    fn what_is_new_is_due_within_the_interval_and_then_after_it() {
        let mut s = schedule(4);
        assert_eq!((s.start(0), s.wake_at_ms()), (None, None));
        s.add("a", None, 50);
        let due_ms = s.wake_at_ms().unwrap();
        assert!((50..1050).contains(&due_ms), "{due_ms}");
        assert_eq!(s.start(1050), Some("a"));
        assert_eq!(
            (s.start(1050), s.wake_at_ms()),
            (None, None),
            "it is running"
        );
        s.finished(&"a", true, 1060);
        let due_ms = s.wake_at_ms().unwrap();
        assert!((1960..=2160).contains(&due_ms), "{due_ms}");
        assert_eq!(s.start(due_ms - 1), None);
        assert_eq!(s.start(due_ms), Some("a"));
    }

    /// Many mirrors of unknown or of too great an age are spread over the interval.
    #[test]
    fn what_is_added_together_is_not_due_together() {
        let mut s: Schedule<u64> = Schedule::new(Policy {
            interval_ms: 1000,
            seed: 7,
            ..Policy::default()
        });
        let now_ms = 100_000;
        for key in 0..2000 {
            s.add(key, (key % 2 == 0).then_some(5), now_ms);
        }
        let due: Vec<u64> = s.plans.values().map(|plan| plan.due_ms).collect();
        assert!(due.iter().all(|at| (now_ms..now_ms + 1000).contains(at)));
        for tenth in 0..10 {
            let from = now_ms + 100 * tenth;
            let count = due.iter().filter(|at| (from..from + 100).contains(at));
            let count = count.count();
            assert!((120..280).contains(&count), "{count} from {from} on");
        }
    }

    /// A known age keeps its due time; one in the future counts as now.
    #[test]
    fn a_known_age_is_kept() {
        let mut s = schedule(4);
        s.add("a", Some(9_500), 10_000);
        let due_ms = s.wake_at_ms().unwrap();
        assert!((10_400..=10_600).contains(&due_ms), "{due_ms}");
        let mut s = schedule(4);
        s.add("a", Some(u64::MAX), 10_000);
        let due_ms = s.wake_at_ms().unwrap();
        assert!((10_900..=11_100).contains(&due_ms), "{due_ms}");
    }

    #[test]
    fn jitter_stays_within_ten_percent_and_spreads() {
        let mut s = schedule(1);
        let waits: Vec<u64> = (0..1000).map(|_| s.jittered(&"a", 1000)).collect();
        assert!(waits.iter().all(|w| (900..=1100).contains(w)));
        let distinct: std::collections::HashSet<_> = waits.iter().collect();
        assert!(distinct.len() > 150, "{}", distinct.len());
        let mean = waits.iter().sum::<u64>() / 1000;
        assert!((990..=1010).contains(&mean), "{mean}");
        let mut again = schedule(1);
        assert!(
            waits.iter().all(|w| again.jittered(&"a", 1000) == *w),
            "the seed decides"
        );
        assert_eq!(s.jittered(&"a", 0), 0);
        s.jittered(&"a", u64::MAX);
    }

    #[test]
    fn failures_double_the_wait_up_to_the_cap_and_success_resets_it() {
        let mut s = schedule(1);
        s.add("a", None, 0);
        let mut now_ms = 1000;
        for base in [100, 200, 400, 800, 1500, 1500] {
            assert_eq!(s.start(now_ms), Some("a"));
            s.finished(&"a", false, now_ms);
            let wait = s.wake_at_ms().unwrap() - now_ms;
            assert!(
                (base * 9 / 10..=base * 11 / 10).contains(&wait),
                "{base}: {wait}"
            );
            now_ms += wait;
        }
        assert_eq!(s.start(now_ms), Some("a"));
        s.finished(&"a", true, now_ms);
        assert!(s.wake_at_ms().unwrap() >= now_ms + 900);
        assert_eq!(s.start(now_ms + 2000), Some("a"));
        s.finished(&"a", false, now_ms + 2000);
        assert!(s.wake_at_ms().unwrap() <= now_ms + 2110);
        assert_eq!(s.backoff_ms(u32::MAX), 1500);
    }

    #[test]
    fn at_most_so_many_run_and_the_most_stale_goes_first() {
        let mut s = schedule(2);
        s.add("young", Some(300), 300);
        s.add("old", Some(100), 300);
        s.add("never", None, 300);
        s.add("not due", Some(9000), 9000);
        assert_eq!((s.start(5000), s.start(5000)), (Some("never"), Some("old")));
        assert_eq!(
            (s.start(5000), s.wake_at_ms()),
            (None, None),
            "two are running"
        );
        s.finished(&"old", true, 5000);
        assert_eq!((s.start(5000), s.start(5000)), (Some("young"), None));
    }

    #[test]
    fn a_host_that_does_not_answer_leaves_turns_to_others() {
        let mut s = schedule(4);
        for (fresh_ms, key) in (1..).zip(["hung/a", "hung/b", "hung/c", "other/a"]) {
            s.add(key, Some(fresh_ms), 4);
        }
        s.add("other/b", Some(8000), 8000);
        assert_eq!(
            (s.start(5000), s.start(5000)),
            (Some("hung/a"), Some("hung/b"))
        );
        assert_eq!((s.start(5000), s.start(5000)), (Some("other/a"), None));
        let due_ms = s.wake_at_ms().unwrap();
        assert!(
            due_ms > 8000,
            "what cannot start is not waited for: {due_ms}"
        );
        s.finished(&"hung/b", false, 9000);
        assert_eq!(s.start(8000), Some("hung/c"));
    }

    #[test]
    fn removed_while_running_frees_its_place() {
        let mut s = schedule(1);
        s.add("a", None, 0);
        s.add("b", Some(0), 0);
        assert_eq!(s.start(5000), Some("a"));
        s.remove(&"a");
        assert_eq!(s.start(5000), None);
        s.finished(&"a", true, 5000);
        assert_eq!(s.start(5000), Some("b"));
        s.remove(&"b");
        s.add("b", None, 5000);
        assert_eq!(s.start(9000), None, "never twice at once");
        s.remove(&"b");
        s.finished(&"b", false, 5000);
        assert_eq!((s.start(9000), s.wake_at_ms()), (None, None));
    }

    #[test]
    fn adding_twice_keeps_the_plan() {
        let mut s = schedule(1);
        s.add("a", Some(1000), 1000);
        s.add("a", None, 1000);
        assert_eq!(s.start(1500), None);
        assert!(s.wake_at_ms() > Some(1500));
    }
}
