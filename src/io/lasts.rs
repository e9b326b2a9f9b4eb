//! Who has what was written outlast a power cut.

/// Who sees to it that files are on the disk for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lasts {
    /// Who writes them syncs them before they have their names.
    ByWriter,
    /// Whoever has them made syncs them with all that belongs to them.
    ByCaller,
}
