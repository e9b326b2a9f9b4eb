//! A file of the worktree whose blob is too large to be held: it is written piece by piece. Where it is converted, that
//! is done by way of files without names.

use gix::bstr::BStr;
use gix::hash::oid;

use super::blobs::BlobReader;
use super::error::RestoreError;
use super::sink::Sink;
use super::spill::{Spill, Spilled};
use super::stop::Stop;
use super::write::{PartFile, Site, Writer, stopped};
use crate::limits::WRITE_BYTES;
use crate::tree::filter::{Conversions, Filter, expand_ident_to};

/// What a file goes through, and what does it.
pub(super) type Conversion<'c> = Option<(&'c mut Filter, &'c Conversions)>;

/// Writes the file of the blob `id`.
pub(super) fn write(
    mut file: ToFile<'_, '_>,
    reader: &mut BlobReader<'_>,
    id: &oid,
    conversion: Conversion<'_>,
    spill: Spill<'_>,
) -> Result<(), RestoreError> {
    let Some(conversion) = conversion else {
        return reader.stream(id, &mut file);
    };
    let stop = file.site.stop;
    let converted = convert(reader, id, conversion, spill, stop)?;
    file.begin(converted.len() as u64)?;
    match converted.is_empty() {
        true => Ok(()),
        false => file.piece(&converted),
    }
}

/// What the conversions make of the blob `id`.
pub(super) fn convert(
    reader: &mut BlobReader<'_>,
    id: &oid,
    (filter, wanted): (&mut Filter, &Conversions),
    spill: Spill<'_>,
    stop: &Stop,
) -> Result<Spilled, RestoreError> {
    let mut blob = reader.spilled(id)?;
    if wanted.has_ident() {
        let mut expanded = spill.begin()?;
        expand_ident_to(&blob, id, |piece| expanded.piece(piece))?;
        blob = expanded.finish()?;
    }
    let mut converted = spill.begin()?;
    filter.convert_large(wanted, &blob, |piece| match stop.is_set() {
        true => Err(stopped()),
        false => converted.piece(piece),
    })?;
    converted.finish()
}

/// A file of the worktree whose content comes piece by piece.
pub(super) struct ToFile<'f, 'r> {
    writer: &'f mut Writer<'r>,
    site: Site<'r>,
    path: &'f BStr,
    executable: bool,
    mtime_s: i64,
    file: Option<PartFile>,
    /// What comes is written from here on.
    at: u64,
    /// Bytes that still come.
    left: u64,
    /// What came and is not written: deltas are made of many small pieces.
    held: Vec<u8>,
}

impl<'f, 'r> ToFile<'f, 'r> {
    pub(super) fn new(
        writer: &'f mut Writer<'r>,
        site: Site<'r>,
        (path, executable): (&'f BStr, bool),
        mtime_s: i64,
    ) -> ToFile<'f, 'r> {
        ToFile {
            writer,
            site,
            path,
            executable,
            mtime_s,
            file: None,
            at: 0,
            left: 0,
            held: Vec::new(),
        }
    }
}

impl Sink for ToFile<'_, '_> {
    fn begin(&mut self, bytes: u64) -> Result<(), RestoreError> {
        self.site.quota.take_entry(bytes)?;
        if bytes == 0 {
            return self
                .writer
                .file(self.path, self.executable, self.mtime_s, b"");
        }
        let file = self
            .writer
            .begin(self.path, self.executable, self.mtime_s, bytes);
        (self.file, self.left) = (Some(file?), bytes);
        Ok(())
    }

    fn piece(&mut self, piece: &[u8]) -> Result<(), RestoreError> {
        let Some(file) = self.file.as_ref().filter(|_| !piece.is_empty()) else {
            return Ok(());
        };
        self.left = self.left.saturating_sub(piece.len() as u64);
        if self.left > 0 && self.held.len() + piece.len() < WRITE_BYTES {
            self.held.extend_from_slice(piece);
            return Ok(());
        }
        let pieces = [&self.held[..], piece];
        file.write(self.at, pieces.into_iter(), self.site.stop)?;
        self.at += (self.held.len() + piece.len()) as u64;
        self.held.clear();
        Ok(())
    }
}
