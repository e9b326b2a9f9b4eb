//! What is too large to be held: it is written to a file that has no name, and looked at through a mapping of that.
//! The kernel may write it to the disk and let go of its memory; with the process, it is gone.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::ops::Deref;
use std::path::Path;

use super::error::RestoreError;
use super::quota::{Lent, Quota};
use super::sink::Sink;
use crate::limits::WRITE_BYTES;
use crate::tree::map::MappedFile;

/// Where there is room for such files.
#[derive(Clone, Copy)]
pub(super) struct Spill<'s> {
    pub directory: &'s Path,
    pub quota: &'s Quota,
}

impl<'s> Spill<'s> {
    pub(super) fn begin(self) -> Result<Spilling<'s>, RestoreError> {
        let file = tempfile::tempfile_in(self.directory);
        let file = file.map_err(|e| RestoreError::disk("create a file in", self.directory, e))?;
        Ok(Spilling {
            spill: self,
            file: BufWriter::with_capacity(WRITE_BYTES, file),
            lent: self.quota.lend(),
            bytes: 0,
        })
    }
}

/// Such a file while it is written.
pub(super) struct Spilling<'s> {
    spill: Spill<'s>,
    file: BufWriter<File>,
    lent: Lent,
    bytes: u64,
}

impl Spilling<'_> {
    pub(super) fn finish(self) -> Result<Spilled, RestoreError> {
        let directory = self.spill.directory;
        let failed = |e| RestoreError::disk("write to a file in", directory, e);
        let file = self.file.into_inner();
        let file = file.map_err(|e| failed(e.into_error()))?;
        let map = match self.bytes {
            0 => None,
            _ => Some(MappedFile::nameless(&file).map_err(failed)?),
        };
        let _lent = self.lent;
        Ok(Spilled { map, _lent })
    }
}

impl Sink for Spilling<'_> {
    fn begin(&mut self, bytes: u64) -> Result<(), RestoreError> {
        self.spill.quota.look(bytes)
    }

    fn piece(&mut self, piece: &[u8]) -> Result<(), RestoreError> {
        self.bytes += piece.len() as u64;
        let quota = self.spill.quota;
        quota.lend_more(&mut self.lent, piece.len() as u64)?;
        let written = self.file.write_all(piece);
        written.map_err(|e| RestoreError::disk("write to a file in", self.spill.directory, e))
    }
}

/// What was written.
pub(super) struct Spilled {
    /// `None` of nothing.
    map: Option<MappedFile>,
    _lent: Lent,
}

impl Deref for Spilled {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.map.as_deref().unwrap_or_default()
    }
}
