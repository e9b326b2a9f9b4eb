//! Waiting for a condition, always with a deadline.

use std::time::{Duration, Instant};

/// Longest that any single condition may take to come true. Generous: a loaded machine with
/// two cores is normal, and only a failing test ever waits this long.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// How often it is looked at.
pub const POLL: Duration = Duration::from_millis(2);

/// Calls `probe` until it gives a value; panics with `what` after [`DEADLINE`].
pub fn until<T>(what: &str, probe: impl FnMut() -> Option<T>) -> T {
    until_within(what, DEADLINE, probe)
}

/// Calls `probe` until it gives a value; panics with `what` after `limit`.
pub fn until_within<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = probe() {
            return value;
        }
        assert!(start.elapsed() < limit, "not within {limit:?}: {what}");
        std::thread::sleep(POLL);
    }
}

/// Waits until `probe` is true; panics with `what` after [`DEADLINE`].
pub fn until_true(what: &str, mut probe: impl FnMut() -> bool) {
    until(what, || probe().then_some(()));
}
