//! Days on which something was used.

use crate::limits::USED_DAY_MS;

/// A day: its date, and on how many days somebody has looked at all heads by then.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Day {
    /// In days since 1970.
    pub date: u64,
    /// That count.
    pub looks: u64,
}

impl Day {
    /// An earlier one, as if somebody had looked on each day since.
    #[must_use]
    pub fn at(self, date: u64) -> Day {
        let date = date.min(self.date);
        let looks = self.looks.saturating_sub(self.date - date);
        Day { date, looks }
    }
}

/// The day of a time.
#[must_use]
pub fn day_of(unix_ms: u64) -> u64 {
    unix_ms / USED_DAY_MS
}
