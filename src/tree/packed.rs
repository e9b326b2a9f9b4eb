//! A pack, mapped: where objects lie in it, as its index says. Its data may still come: then nothing of that is looked
//! at before it is there.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use gix::hash::Kind;
use gix::odb::pack::data::Entry;
use gix::odb::pack::{data, index};
use gix::oid;

use super::frontier::Frontier;
use super::map::MappedFile;
use super::pack::HEADER_BYTES;
use crate::io::shortage::Detail;

/// More than the head of an entry has: its size, and an id or a distance.
const ENTRY_HEAD_BYTES: u64 = 64;
/// What a zlib stream has besides the bytes that it makes, and an eighth of those: more than any compressor takes that
/// cannot compress (zlib's `deflateBound`).
const STREAM_MORE_BYTES: u64 = 1024;

/// A pack that cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {}: {detail}", .path.display())]
pub struct OpenError {
    pub(super) path: PathBuf,
    #[source]
    pub(super) detail: Detail,
}

/// See the module's text.
pub(crate) struct Pack {
    pub(super) index: index::File<MappedFile>,
    pub(super) data: data::File<MappedFile>,
    /// Of data that still comes.
    frontier: Option<Arc<Frontier>>,
}

impl Pack {
    /// Opens a pack by the path of its index or of its data.
    pub(crate) fn open(path: &Path, hash: Kind) -> Result<Pack, OpenError> {
        Ok(Pack {
            index: open_part(path.with_extension("idx"), hash, index::File::from_data)?,
            data: open_part(path.with_extension("pack"), hash, data::File::from_data)?,
            frontier: None,
        })
    }

    /// Opens one whose index is there, and whose data comes to a file that has all its length.
    pub(crate) fn open_coming(
        path: &Path,
        data: &File,
        hash: Kind,
        frontier: Arc<Frontier>,
    ) -> Result<Pack, OpenError> {
        let path = path.with_extension("pack");
        let mapped = match frontier.wait(HEADER_BYTES as u64) {
            true => MappedFile::coming(data),
            false => Err(std::io::Error::other("it does not come")),
        };
        Ok(Pack {
            index: open_part(path.with_extension("idx"), hash, index::File::from_data)?,
            data: parse_part(path, mapped, hash, data::File::from_data)?,
            frontier: Some(frontier),
        })
    }

    /// How many bytes its data has.
    pub(crate) fn bytes(&self) -> u64 {
        self.data.data_len() as u64
    }

    /// Where an object begins.
    pub(crate) fn offset(&self, id: &oid) -> Option<u64> {
        let index = self.index.lookup(id)?;
        Some(self.index.pack_offset_at_index(index))
    }

    /// Whether what begins at `offset` has come, or begun to, or never will, which who reads it sees.
    pub(crate) fn is_known(&self, offset: u64) -> bool {
        let frontier = self.frontier.as_ref();
        frontier.is_none_or(|frontier| frontier.is_known(offset.saturating_add(1)))
    }

    /// Waits for that, for so long at most.
    pub(crate) fn wait_for(&self, offset: u64, time: Duration) {
        if let Some(frontier) = &self.frontier {
            frontier.wait_for(offset.saturating_add(1), time);
        }
    }

    /// The entry that begins at `offset`, all of which is there; `None` if there is none, or it does not come.
    pub(crate) fn entry(&self, offset: u64) -> Option<Entry> {
        self.expect(offset.saturating_add(ENTRY_HEAD_BYTES))?;
        let entry = self.data.entry(offset).ok()?;
        // What is behind that may not be there yet.
        if entry.data_offset.saturating_sub(offset) > ENTRY_HEAD_BYTES {
            return None;
        }
        self.expect(self.end(&entry))?;
        Some(entry)
    }

    /// What there is of the pack from an entry's data on: all of that, and perhaps more.
    pub(crate) fn wire(&self, entry: &Entry) -> Option<&[u8]> {
        self.data.entry_slice(entry.data_offset..self.end(entry))
    }

    /// Where an entry has ended at the latest.
    fn end(&self, entry: &Entry) -> u64 {
        let end = self.data.pack_end() as u64;
        if self.frontier.is_none() {
            return end;
        }
        let bytes = entry.decompressed_size;
        let longest = bytes
            .saturating_add(bytes / 8)
            .saturating_add(STREAM_MORE_BYTES);
        end.min(entry.data_offset.saturating_add(longest))
    }

    /// Waits until all before `end` is there, or the pack ends.
    fn expect(&self, end: u64) -> Option<()> {
        let end = end.min(self.data.pack_end() as u64);
        match &self.frontier {
            None => Some(()),
            Some(frontier) => frontier.wait(end).then_some(()),
        }
    }
}

/// Maps a file of a pack and has `parse` look at it.
fn open_part<P>(
    path: PathBuf,
    hash: Kind,
    parse: fn(MappedFile, PathBuf, Kind) -> gix::error::Result<P>,
) -> Result<P, OpenError> {
    let opened = MappedFile::open(&path);
    parse_part(path, opened, hash, parse)
}

/// Has `parse` look at a file of a pack.
fn parse_part<P>(
    path: PathBuf,
    opened: std::io::Result<MappedFile>,
    hash: Kind,
    parse: fn(MappedFile, PathBuf, Kind) -> gix::error::Result<P>,
) -> Result<P, OpenError> {
    let opened = opened.map_err(|e| Detail::of(&e));
    let parsed = opened.and_then(|file| {
        let parsed = parse(file, path.clone(), hash);
        parsed.map_err(|e| Detail::of(&e))
    });
    parsed.map_err(|detail| OpenError { path, detail })
}
