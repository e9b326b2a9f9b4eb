//! What a row of the table of metrics has.

use super::id::Id;

/// What a family of series is in Prometheus' terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Only ever grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Observed durations, counted by bucket. Holds the upper bounds in microseconds, ascending.
    Histogram(&'static [u64]),
}

/// A metric that operators see: one row of [`FAMILIES`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Family {
    pub(super) id: Id,
    /// The metric's name.
    pub name: &'static str,
    /// Its type.
    pub kind: Kind,
    /// The label that tells its series apart; empty when there is one series.
    pub label: &'static str,
    /// The values of that label that [`Meter`]s count; empty when there is one series, or when
    /// the values are known only at scrape time.
    pub values: &'static [&'static str],
    /// What it means.
    pub help: &'static str,
}
