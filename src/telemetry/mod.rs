//! What the process says of itself: lines of the log, and counters that `/metrics` shows.
//!
//! In come records and events from every thread; a core adds to atomics and to a bounded queue,
//! and never waits. Out go lines on standard error and the text of `/metrics`.

pub mod log;
pub(crate) mod metrics;
