//! Whether an object store is asked at all. One that answers nothing for a while is left alone: nobody waits for it, and
//! it is not kept busy with what it cannot do; one request at a time finds out whether it is there again.
//!
//! A function of outcomes and of a clock that nobody sets.

use std::fmt;
use std::sync::Arc;

use crate::limits::{STORE_FAILING_MS, STORE_FAILURES_MIN, STORE_REST_MAX_MS, STORE_REST_MS};

/// See the module's text.
#[derive(Debug, Default)]
pub struct Breaker {
    state: State,
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// Whoever asks may: so many in a row have failed, the first of them then.
    Closed { failures: u32, since_ms: u64 },
    /// Nobody may until then, after a wait of so long.
    Open { until_ms: u64, wait_ms: u64 },
    /// One has asked, and nobody else may.
    Trying { wait_ms: u64 },
}

impl Default for State {
    fn default() -> Self {
        State::Closed {
            failures: 0,
            since_ms: 0,
        }
    }
}

/// What a request has come to, as far as it tells of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It has answered, be it with a refusal.
    Answered,
    /// It has not.
    Failed,
    /// Whoever asked has left before.
    Left,
}

/// Hears what has come of requests that are parts of one.
#[derive(Clone)]
pub struct Hears(Arc<dyn Fn(Outcome) + Send + Sync>);

impl Hears {
    /// What does.
    pub fn new(hears: impl Fn(Outcome) + Send + Sync + 'static) -> Hears {
        Hears(Arc::new(hears))
    }

    /// Tells it.
    pub fn tell(&self, outcome: Outcome) {
        (self.0)(outcome);
    }
}

impl fmt::Debug for Hears {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hears")
    }
}

impl Breaker {
    /// Whether a request may be made; if so its outcome is to be noted.
    pub fn admits(&mut self, now_ms: u64) -> bool {
        match self.state {
            State::Closed { .. } => true,
            State::Open { until_ms, wait_ms } if now_ms >= until_ms => {
                self.state = State::Trying { wait_ms };
                true
            }
            State::Open { .. } | State::Trying { .. } => false,
        }
    }

    /// Whether nobody may.
    #[must_use]
    pub fn rests(&self, now_ms: u64) -> bool {
        match self.state {
            State::Closed { .. } => false,
            State::Open { until_ms, .. } => now_ms < until_ms,
            State::Trying { .. } => true,
        }
    }

    /// Whether the store is thought to work.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed { .. })
    }

    /// Notes what has come of a request that was admitted.
    pub fn note(&mut self, outcome: Outcome, now_ms: u64) {
        self.state = match (self.state, outcome) {
            // What was asked before it was left alone says that it is there, too.
            (_, Outcome::Answered) => State::default(),
            (State::Closed { failures, since_ms }, Outcome::Failed) => {
                let since_ms = if failures == 0 { now_ms } else { since_ms };
                let failures = failures.saturating_add(1);
                let is_long = now_ms.saturating_sub(since_ms) >= STORE_FAILING_MS;
                match is_long && failures >= STORE_FAILURES_MIN {
                    true => open(now_ms, STORE_REST_MS),
                    false => State::Closed { failures, since_ms },
                }
            }
            (State::Trying { wait_ms }, Outcome::Failed) => {
                open(now_ms, wait_ms.saturating_mul(2).min(STORE_REST_MAX_MS))
            }
            (State::Trying { wait_ms }, Outcome::Left) => open(now_ms, wait_ms),
            (state, _) => state,
        };
    }

    /// Somebody has waited for as long as anybody does.
    pub fn trip(&mut self, now_ms: u64) {
        if let State::Closed { .. } = self.state {
            self.state = open(now_ms, STORE_REST_MS);
        }
    }
}

fn open(now_ms: u64, wait_ms: u64) -> State {
    State::Open {
        until_ms: now_ms.saturating_add(wait_ms),
        wait_ms,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One that is open since 0.
    fn opened() -> Breaker {
        let mut breaker = Breaker::default();
        breaker.trip(0);
        assert!(!breaker.admits(0) && breaker.rests(0));
        breaker
    }

    #[test]
    fn what_fails_now_and_then_goes_on() {
        let mut breaker = Breaker::default();
        for now_ms in (0..100).map(|turn| turn * STORE_FAILING_MS) {
            assert!(breaker.admits(now_ms));
            breaker.note(Outcome::Failed, now_ms);
            breaker.note(Outcome::Answered, now_ms);
        }
        // Many at once are one failure of the store.
        for _ in 0..100 {
            breaker.note(Outcome::Failed, STORE_FAILING_MS);
        }
        assert!(breaker.admits(STORE_FAILING_MS));
        breaker.note(Outcome::Left, 10 * STORE_FAILING_MS);
        assert!(breaker.is_closed());
    }

    #[test]
    fn what_fails_for_long_is_left_alone() {
        let mut breaker = Breaker::default();
        for failure in 0..STORE_FAILURES_MIN {
            assert!(breaker.admits(0));
            let is_last = failure + 1 == STORE_FAILURES_MIN;
            breaker.note(Outcome::Failed, if is_last { STORE_FAILING_MS } else { 0 });
        }
        assert!(breaker.rests(STORE_FAILING_MS) && !breaker.admits(STORE_FAILING_MS));
    }

    #[test]
    fn one_at_a_time_tries_it_later_and_later() {
        let mut breaker = opened();
        let (mut now_ms, mut wait_ms) = (0, STORE_REST_MS);
        for _ in 0..20 {
            assert!(!breaker.admits(now_ms + wait_ms - 1));
            now_ms += wait_ms;
            assert!(!breaker.rests(now_ms) && breaker.admits(now_ms));
            assert!(
                !breaker.admits(now_ms) && breaker.rests(now_ms),
                "a second one"
            );
            breaker.note(Outcome::Failed, now_ms);
            wait_ms = (2 * wait_ms).min(STORE_REST_MAX_MS);
        }
        assert!(breaker.admits(now_ms + wait_ms));
        breaker.note(Outcome::Answered, now_ms + wait_ms);
        assert!(breaker.is_closed() && breaker.admits(now_ms + wait_ms));
    }

    /// Who tries it and leaves must not keep all others out for good.
    #[test]
    fn who_leaves_gives_the_try_back() {
        let mut breaker = opened();
        assert!(breaker.admits(STORE_REST_MS));
        breaker.note(Outcome::Left, STORE_REST_MS);
        assert!(!breaker.admits(STORE_REST_MS) && breaker.admits(2 * STORE_REST_MS));
    }
}
