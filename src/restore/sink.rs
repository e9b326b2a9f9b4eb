//! What takes content piece by piece.

use super::error::RestoreError;

pub(super) trait Sink {
    /// So many bytes come.
    fn begin(&mut self, bytes: u64) -> Result<(), RestoreError>;
    /// These come next.
    fn piece(&mut self, piece: &[u8]) -> Result<(), RestoreError>;
}

/// Takes all and does nothing.
pub(super) struct Nothing;

impl Sink for Nothing {
    fn begin(&mut self, _: u64) -> Result<(), RestoreError> {
        Ok(())
    }

    fn piece(&mut self, _: &[u8]) -> Result<(), RestoreError> {
        Ok(())
    }
}
