//! The clock.

use std::sync::OnceLock;
use std::time::{Instant, SystemTime};

/// Milliseconds since 1970: the system's time when this was first asked, and from there on a clock
/// that nobody sets. What is compared with each other must not go back while the server runs.
pub(crate) fn unix_ms() -> u64 {
    static START: OnceLock<(SystemTime, Instant)> = OnceLock::new();
    let (start, since) = START.get_or_init(|| (SystemTime::now(), Instant::now()));
    let unix = (*start + since.elapsed()).duration_since(SystemTime::UNIX_EPOCH);
    unix.map_or(0, |unix| unix.as_millis() as u64)
}
