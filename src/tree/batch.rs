//! The worktree, cut into runs of files that are encoded independently of each other: jobs.
//!
//! Jobs follow directories, so that an equal subtree gives equal jobs. A directory with many entries
//! below it is a *large* one, whose border no job crosses. Inside, its own files and its small
//! directories as a whole are the units that jobs are made of, in the order of the walk; its large
//! directories come behind them. A job ends after a unit whose id says so ([`Batch::ends_after`]), so
//! that the same units give the same jobs wherever they stand.

use gix::bstr::{BStr, ByteSlice};
use gix::objs::tree::EntryKind;
use gix::{ObjectId, oid};
use sha2::{Digest, Sha256};

use super::dates::DATES;
use super::filter::Conversions;
use crate::limits::{
    BIG_FILE_BYTES, FRAME_TAR_BYTES, JOB_ENTRIES_MAX, JOB_ENTRIES_MIN, JOB_TAR_BYTES,
    LARGE_DIRECTORY_ENTRIES,
};

/// Version of everything that decides the bytes of a job besides its key's other parts: the tar
/// format, the conversions and how they are set up, the settings of frames.
const JOB_FORMAT: u8 = 4;

/// Gives `part` all that decides the bytes of every job: the format, level, library and bounds. Each part
/// has the same length always.
pub(crate) fn describe_format(level: i32, mut part: impl FnMut(&[u8])) {
    part(&[JOB_FORMAT]);
    part(&level.to_le_bytes());
    part(&zstd_safe::version_number().to_le_bytes());
    for bound in [FRAME_TAR_BYTES as u64, JOB_TAR_BYTES, BIG_FILE_BYTES] {
        part(&bound.to_le_bytes());
    }
    part(&DATES.start.to_le_bytes());
}

/// One entry of a job.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Item {
    pub(crate) path_end: u32,
    pub(crate) kind: EntryKind,
    pub(crate) id: ObjectId,
}

/// A run of entries. Invariant: `paths` holds the paths one after the other, `items[i].path_end`
/// the end of each.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    paths: Vec<u8>,
    pub(crate) items: Vec<Item>,
    /// Whether the sizes of its files were looked at already, so that it is not split again.
    pub(crate) measured: bool,
    big: bool,
}

impl Batch {
    /// Appends an entry.
    pub(crate) fn push(&mut self, path: &BStr, kind: EntryKind, id: ObjectId) {
        self.paths.extend_from_slice(path);
        let path_end = self.paths.len() as u32;
        self.items.push(Item { path_end, kind, id });
    }

    /// Whether the job ends after a unit of so many entries: with the probability that gives jobs as many
    /// entries on average as a large directory has at least, by the unit's id, or because it is full.
    pub(crate) fn ends_after(&self, id: &oid, entries: u64) -> bool {
        let bytes = id.as_bytes();
        let draw = bytes.last_chunk().map_or(0, |low| u32::from_be_bytes(*low));
        let entries = entries.min(LARGE_DIRECTORY_ENTRIES);
        let is_drawn = u64::from(draw) < (entries << 32) / LARGE_DIRECTORY_ENTRIES;
        let count = self.items.len();
        count >= JOB_ENTRIES_MAX || is_drawn && count >= JOB_ENTRIES_MIN
    }

    /// Whether it ends in the middle of a unit of which it has so many entries: of one that is no large
    /// directory only because it lies too deep.
    pub(crate) fn ends_within(&self, entries: u64) -> bool {
        entries >= LARGE_DIRECTORY_ENTRIES && self.items.len() >= JOB_ENTRIES_MAX
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Whether it is one file too big to be decoded in memory.
    pub fn is_big(&self) -> bool {
        self.big
    }

    /// The key under which its frames can be found again: everything that decides their bytes, each
    /// thing whole and where nothing else can be taken for it: what varies in length has its length
    /// before it. `conversions` are those of each entry. A part of a split batch has the key that a
    /// batch of its own would have.
    pub(crate) fn key(&self, level: i32, conversions: &[Conversions]) -> [u8; 32] {
        debug_assert_eq!(conversions.len(), self.items.len());
        let mut key = Sha256::new();
        describe_format(level, |part| key.update(part));
        for ((path, kind, id), conversions) in self.entries().zip(conversions) {
            // All of the mode: its low byte is the same for a link and a submodule.
            key.update((kind as u16).to_le_bytes());
            for part in [id.as_bytes(), path] {
                key.update((part.len() as u32).to_le_bytes());
                key.update(part);
            }
            if !conversions.is_empty() {
                // No mode is this.
                key.update(u16::MAX.to_le_bytes());
                conversions.describe(|part| {
                    key.update((part.len() as u32).to_le_bytes());
                    key.update(part);
                });
            }
        }
        key.finalize().into()
    }

    /// Path, kind and id of each entry.
    pub fn entries(&self) -> impl Iterator<Item = (&BStr, EntryKind, &oid)> {
        let starts = std::iter::once(0).chain(self.items.iter().map(|i| i.path_end as usize));
        self.items.iter().zip(starts).map(|(item, start)| {
            let path = self.paths[start..item.path_end as usize].as_bstr();
            (path, item.kind, &*item.id)
        })
    }

    /// Cuts into batches whose files together stay below the maximum; big files stand alone.
    pub(crate) fn split(&self, sizes: &[u64]) -> Vec<Batch> {
        let mut out: Vec<Batch> = Vec::new();
        let mut bytes = 0;
        for ((path, kind, id), size) in self.entries().zip(sizes) {
            let big = *size > BIG_FILE_BYTES;
            let full = bytes + size > JOB_TAR_BYTES || out.last().is_none_or(|b| b.big);
            if full || big {
                bytes = 0;
                out.push(Batch {
                    measured: true,
                    big,
                    ..Batch::default()
                });
            }
            bytes += size;
            if let Some(batch) = out.last_mut() {
                batch.push(path, kind, id.to_owned());
            }
        }
        out
    }
}
