//! Why something leaves the disk.

/// Why something leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// There is more than may be.
    Limit,
    /// There are too many snapshots of refs and commits.
    Count,
    /// Somebody found the disk full.
    Full,
    /// Too little is free.
    Floor,
}

impl Why {
    /// In the log.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Why::Limit => "limit",
            Why::Count => "count",
            Why::Full => "full",
            Why::Floor => "floor",
        }
    }
}
