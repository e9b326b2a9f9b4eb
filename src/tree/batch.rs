//! The worktree, cut into runs of files that are encoded independently of each other.
//!
//! Cuts are content-defined: a run ends after an entry whose object id ends in six zero bits,
//! or at a maximum. So the same files give the same run wherever they stand, and a later
//! snapshot finds the frames of the runs it shares with an earlier one by their key.

use gix::bstr::{BStr, ByteSlice};
use gix::objs::tree::EntryKind;
use gix::{ObjectId, oid};
use sha2::{Digest, Sha256};

use super::iconv::Identity;
use super::walk::{Chain, Entry};
use crate::limits::{BIG_FILE_BYTES, FRAME_TAR_BYTES, JOB_ENTRIES_MAX, JOB_TAR_BYTES};

/// Version of everything that decides the bytes of a job besides its key's other parts: how the
/// worktree is cut, the tar format, the conversions and how they are set up, the settings of frames.
const JOB_FORMAT: u8 = 3;

/// One entry of a job.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Item {
    pub(crate) path_end: u32,
    pub(crate) kind: EntryKind,
    pub(crate) id: ObjectId,
    pub(crate) in_force: InForce,
}

/// What decides, besides its path, which conversions a file goes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct InForce {
    /// The attribute files.
    pub attributes: Chain,
    /// What text is encoded by, where one of them names an encoding.
    pub iconv: Option<&'static Identity>,
}

/// A run of entries. Invariant: `paths` holds the paths one after the other, `items[i].path_end`
/// the end of each.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    paths: Vec<u8>,
    pub(crate) items: Vec<Item>,
    key: Sha256,
    /// Whether the sizes of its files were looked at already, so that it is not split again.
    pub(crate) measured: bool,
    big: bool,
}

impl Batch {
    /// Appends an entry, whose text is encoded by `iconv` if it is encoded at all.
    pub fn push(&mut self, entry: &Entry<'_>, iconv: Option<&'static Identity>) {
        let in_force = InForce {
            attributes: entry.attributes_in_force,
            iconv,
        };
        self.push_item(entry.path, entry.kind, entry.id, in_force);
    }

    /// Everything that decides the entry's bytes goes into the key, each thing whole and where
    /// nothing else can be taken for it: what varies in length has its length before it.
    fn push_item(&mut self, path: &BStr, kind: EntryKind, id: ObjectId, in_force: InForce) {
        if self.items.is_empty() {
            self.begin_key();
        }
        let InForce { attributes, iconv } = in_force;
        self.key.update(attributes);
        self.key.update([u8::from(iconv.is_some())]);
        self.key.update(iconv.map_or(&[][..], Identity::as_bytes));
        // All of the mode: its low byte is the same for a link and a submodule.
        self.key.update((kind as u16).to_le_bytes());
        for part in [id.as_bytes(), path] {
            self.key.update((part.len() as u32).to_le_bytes());
            self.key.update(part);
        }
        self.paths.extend_from_slice(path);
        let path_end = self.paths.len() as u32;
        self.items.push(Item {
            path_end,
            kind,
            id,
            in_force,
        });
    }

    fn begin_key(&mut self) {
        self.key.update([JOB_FORMAT]);
        self.key.update(zstd_safe::version_number().to_le_bytes());
        for bound in [FRAME_TAR_BYTES as u64, JOB_TAR_BYTES, BIG_FILE_BYTES] {
            self.key.update(bound.to_le_bytes());
        }
    }

    /// Whether the job ends here.
    pub fn ends(&self) -> bool {
        let Some(last) = self.items.last() else {
            return false;
        };
        let cut = last
            .id
            .as_bytes()
            .last()
            .is_some_and(|b| b.trailing_zeros() >= 6);
        cut || self.items.len() >= JOB_ENTRIES_MAX
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Whether it is one file too big to be decoded in memory.
    pub fn is_big(&self) -> bool {
        self.big
    }

    /// The key under which its frames can be found again: everything that decides its bytes
    /// but the date, which its [`Record`](crate::manifest::record::Record) has. A part of a split batch has the key that a batch of its own would have.
    pub fn key(&self, level: i32) -> [u8; 32] {
        let digest = self.key.clone().chain_update(level.to_le_bytes());
        digest.finalize().into()
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
        for (((path, kind, id), item), size) in self.entries().zip(&self.items).zip(sizes) {
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
                batch.push_item(path, kind, id.to_owned(), item.in_force);
            }
        }
        out
    }
}
