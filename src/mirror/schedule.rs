//! When which repository is compared with its upstream without anybody waiting for it. Pure: the caller
//! brings the time, in milliseconds of any monotonic clock, and reports every comparison, whoever had it begun.
//!
//! One that is in use is compared often, and less often the longer nothing moves; all others at the
//! operator's interval. Each host has a rate of its own, and stands still when it has asked for that.

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher, Hash};
use std::sync::Arc;

use crate::limits;

/// What the schedule goes by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Policy {
    /// Between two comparisons of a repository that nobody uses.
    pub interval_ms: u64,
    /// The same of one that is in use and moves; doubled each time that nothing has moved.
    pub in_use_ms: u64,
    /// The longest that it is doubled to.
    pub in_use_max_ms: u64,
    /// The same where webhooks say what moves.
    pub hooked_max_ms: u64,
    /// Hosts where neither is longer than [`YOUNG_INTERVAL_MAX_MS`](limits::YOUNG_INTERVAL_MAX_MS): what is older
    /// than a minute is not served there.
    pub young_hosts: BTreeSet<String>,
    /// After the first failure; doubled with every further one.
    pub retry_ms: u64,
    /// The longest wait after failures.
    pub retry_max_ms: u64,
    /// How many comparisons may run at once. A host has one more only while that leaves more of them than it has: those that
    /// do not answer must leave some to others.
    pub running_max: usize,
    /// How many begin within a second, of one host.
    pub host_rate: u64,
    /// Decides the jitter; the same seed and calls give the same times.
    pub seed: u64,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            interval_ms: limits::FETCH_INTERVAL_DEFAULT_MS,
            in_use_ms: limits::REF_CHECK_INTERVAL_DEFAULT_MS,
            in_use_max_ms: limits::IN_USE_INTERVAL_MAX_MS,
            hooked_max_ms: limits::HOOKED_INTERVAL_MAX_MS,
            young_hosts: BTreeSet::new(),
            retry_ms: limits::FETCH_RETRY_MS,
            retry_max_ms: limits::FETCH_RETRY_MAX_MS,
            running_max: limits::FETCHES_MAX,
            host_rate: limits::UPSTREAM_RATE_DEFAULT,
            seed: 0,
        }
    }
}

/// What is compared, and with whom.
pub(crate) trait Key: Clone + Eq + Hash + Ord {
    /// The host that it comes from.
    fn host(&self) -> &str;
}

/// A repository's name, `host/path`.
impl Key for Arc<str> {
    fn host(&self) -> &str {
        self.split('/').next().unwrap_or_default()
    }
}

/// What a comparison has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shown {
    Same,
    Moved,
    Failed,
}

/// The due times of all repositories.
///
/// Invariants: a plan that does not run is in its host's queue, once, at its due time, and one that runs is
/// not; a plan that is removed while it runs stays until it has ended, so that none is started twice at once.
#[derive(Debug)]
pub(crate) struct Schedule<K: Key> {
    policy: Policy,
    plans: HashMap<K, Plan>,
    /// There are as many as upstreams are configured.
    hosts: HashMap<String, Host<K>>,
    running: usize,
    /// Counts the due times given, so that each gets its own jitter.
    draws: u64,
}

#[derive(Debug)]
struct Plan {
    due_ms: u64,
    /// In a row.
    failures: u32,
    /// The wait while it is in use, before jitter; 0 when it was not.
    in_use_ms: u64,
    /// When the last webhook came for it.
    hooked_ms: Option<u64>,
    running: bool,
    /// It was compared since it was started.
    reported: bool,
    removed: bool,
}

#[derive(Debug)]
struct Host<K> {
    due: BTreeSet<(u64, K)>,
    running: usize,
    /// Its rate allows none before.
    next_ms: u64,
    /// It has asked not to be asked before.
    paused_until_ms: u64,
}

impl<K> Default for Host<K> {
    fn default() -> Self {
        Host {
            due: BTreeSet::new(),
            running: 0,
            next_ms: 0,
            paused_until_ms: 0,
        }
    }
}

impl<K: Key> Host<K> {
    /// When its first could start, which may be in the past.
    fn ready_ms(&self) -> Option<u64> {
        let (due_ms, _) = self.due.first()?;
        Some((*due_ms).max(self.next_ms).max(self.paused_until_ms))
    }
}

impl<K: Key> Schedule<K> {
    /// An empty schedule.
    #[must_use]
    pub(crate) fn new(policy: Policy) -> Self {
        Self {
            policy,
            plans: HashMap::new(),
            hosts: HashMap::new(),
            running: 0,
            draws: 0,
        }
    }

    /// Adds a repository that was last compared at `fresh_ms`, as far as is known. It is due when
    /// the interval is over. If that is unknown, or in the past, it is due at a random time within
    /// the next interval: many that are added together, at the start for example, are not compared
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
        self.host(&key).due.insert((due_ms, key.clone()));
        let plan = Plan {
            due_ms,
            failures: 0,
            in_use_ms: 0,
            hooked_ms: None,
            running: false,
            reported: false,
            removed: false,
        };
        self.plans.insert(key, plan);
    }

    /// Forgets a repository. A comparison of it that runs still has to end.
    pub(crate) fn remove(&mut self, key: &K) {
        match self.plans.get_mut(key) {
            Some(plan) if plan.running => plan.removed = true,
            Some(plan) => {
                let due_ms = plan.due_ms;
                self.host(key).due.remove(&(due_ms, key.clone()));
                self.plans.remove(key);
            }
            None => {}
        }
    }

    /// The repository to compare now, counted as running until [`Self::ended`]: of those that are
    /// due and may start the one that has been due for the longest time. `None` when there is none,
    /// or enough are running, of all or of its host.
    pub(crate) fn start(&mut self, now_ms: u64) -> Option<K> {
        let gap_ms = 1000_u64.div_ceil(self.policy.host_rate.max(1));
        let ready = self.startable();
        let ready = ready.filter(|host| host.ready_ms().is_some_and(|at| at <= now_ms));
        // The key decides last, so that the order of a hash table never shows.
        let (_, key) = ready.filter_map(|host| host.due.first()).min()?.clone();
        let host = self.host(&key);
        host.due.pop_first();
        host.running += 1;
        host.next_ms = now_ms.saturating_add(gap_ms);
        self.running += 1;
        let plan = self.plans.get_mut(&key)?;
        (plan.running, plan.reported) = (true, false);
        Some(key)
    }

    /// Hosts of which one more could run.
    fn startable(&self) -> impl Iterator<Item = &Host<K>> {
        let free = self.policy.running_max.saturating_sub(self.running);
        let hosts = self.hosts.values();
        hosts.filter(move |host| host.running < free)
    }

    /// The end of what [`Self::start`] gave out. What has come of it was told to [`Self::compared`]; if not,
    /// it has failed.
    pub(crate) fn ended(&mut self, key: &K, now_ms: u64) {
        if self.plans.get(key).is_some_and(|plan| !plan.reported) {
            self.compared(key, Shown::Failed, false, now_ms);
        }
        let Some(plan) = self.plans.get_mut(key).filter(|plan| plan.running) else {
            return;
        };
        plan.running = false;
        let (due_ms, is_removed) = (plan.due_ms, plan.removed);
        self.running -= 1;
        let host = self.host(key);
        host.running -= 1;
        if is_removed {
            self.plans.remove(key);
        } else {
            host.due.insert((due_ms, key.clone()));
        }
    }

    /// A comparison has ended, whoever had it begun: the next one is due so much later.
    pub(crate) fn compared(&mut self, key: &K, shown: Shown, in_use: bool, now_ms: u64) {
        let policy = &self.policy;
        let Some(plan) = self.plans.get_mut(key) else {
            return;
        };
        plan.reported = true;
        plan.failures = match shown {
            Shown::Failed => plan.failures.saturating_add(1),
            _ => 0,
        };
        let hooked = plan.hooked_ms;
        let is_hooked = hooked.is_some_and(|at| now_ms.saturating_sub(at) < limits::HOOKED_KEPT_MS);
        let max_ms = match is_hooked {
            true => policy.hooked_max_ms,
            false => policy.in_use_max_ms,
        };
        let max_ms = match policy.young_hosts.contains(key.host()) {
            true => max_ms.min(limits::YOUNG_INTERVAL_MAX_MS),
            false => max_ms,
        };
        let before_ms = plan.in_use_ms;
        plan.in_use_ms = match shown {
            _ if !in_use => 0,
            Shown::Same if before_ms > 0 => (2 * before_ms).min(max_ms).max(policy.in_use_ms),
            _ => policy.in_use_ms,
        };
        let wait_ms = match plan.failures {
            0 if in_use => plan.in_use_ms.min(policy.interval_ms),
            0 => policy.interval_ms,
            failures => backoff_ms(policy, failures),
        };
        let due_ms = now_ms.saturating_add(self.jittered(key, wait_ms));
        self.set_due(key, due_ms);
    }

    /// Somebody asked: it is due at `at_ms` if that is earlier than otherwise.
    pub(crate) fn hasten(&mut self, key: &K, at_ms: u64) {
        if self.plans.get(key).is_some_and(|plan| plan.due_ms > at_ms) {
            self.set_due(key, at_ms);
        }
    }

    /// A webhook came for it.
    pub(crate) fn hooked(&mut self, key: &K, now_ms: u64) {
        if let Some(plan) = self.plans.get_mut(key) {
            plan.hooked_ms = Some(now_ms);
        }
    }

    /// Starts nothing of this host before.
    pub(crate) fn pause(&mut self, host: &str, until_ms: u64) {
        let host = self.hosts.entry(host.to_owned()).or_default();
        host.paused_until_ms = host.paused_until_ms.max(until_ms);
    }

    /// Whether this host has asked not to be asked.
    pub(crate) fn is_paused(&self, host: &str, now_ms: u64) -> bool {
        let host = self.hosts.get(host);
        host.is_some_and(|host| host.paused_until_ms > now_ms)
    }

    /// When [`Self::start`] should be asked next. `None` while nothing can start before something that
    /// runs has ended, or there is nothing to do at all.
    #[must_use]
    pub(crate) fn wake_at_ms(&self) -> Option<u64> {
        self.startable().filter_map(Host::ready_ms).min()
    }

    /// When it is due, if it is planned.
    #[cfg(test)]
    fn due_ms(&self, key: &K) -> Option<u64> {
        self.plans.get(key).map(|plan| plan.due_ms)
    }

    fn set_due(&mut self, key: &K, due_ms: u64) {
        let Some(plan) = self.plans.get_mut(key) else {
            return;
        };
        let before_ms = std::mem::replace(&mut plan.due_ms, due_ms);
        if !plan.running {
            let due = &mut self.host(key).due;
            due.remove(&(before_ms, key.clone()));
            due.insert((due_ms, key.clone()));
        }
    }

    fn host(&mut self, key: &K) -> &mut Host<K> {
        self.hosts.entry(key.host().to_owned()).or_default()
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

fn backoff_ms(policy: &Policy, failures: u32) -> u64 {
    let doubled = 1_u64
        .checked_shl(failures.saturating_sub(1))
        .unwrap_or(u64::MAX);
    let wait_ms = policy.retry_ms.saturating_mul(doubled);
    wait_ms.min(policy.retry_max_ms)
}

#[cfg(test)]
mod tests;
