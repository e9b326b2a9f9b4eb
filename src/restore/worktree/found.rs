//! Entries of a worktree as a walk of its trees finds them: looked at, and handed to those who make them.

use std::sync::Arc;

use gix::hash::{Kind, oid};
use gix::objs::TreeRefIter;
use gix::objs::tree::EntryKind;

use super::super::blobs::Blobs;
use super::super::error::RestoreError;
use super::super::in_the_way::Watch;
use super::super::index::{Listed, next_entry};
use super::super::tree::Follower;
use super::turns::{Batch, Turns};
use crate::limits::EARLY_ATTRIBUTE_FILES_MAX;
use crate::tree::index::{HEADER_BYTES, SUBMODULE};
use crate::tree::rules::AttributeFiles;
use crate::tree::walk::ATTRIBUTES_FILE;

/// Hands over what a walk finds before it reads the next tree, which may not have come yet.
pub(super) struct Finder<'f, 'w> {
    turns: &'f Turns<'f>,
    blobs: &'f Blobs<'f>,
    way: Option<&'f mut Watch<'w>>,
    hash: Kind,
    attributes: Arc<AttributeFiles>,
    /// So much of the index is handed over.
    handed_bytes: usize,
}

impl<'f, 'w> Finder<'f, 'w> {
    pub(super) fn new(
        turns: &'f Turns<'f>,
        blobs: &'f Blobs<'f>,
        way: Option<&'f mut Watch<'w>>,
        hash: Kind,
    ) -> Finder<'f, 'w> {
        Finder {
            turns,
            blobs,
            way,
            hash,
            attributes: Arc::default(),
            handed_bytes: HEADER_BYTES,
        }
    }
}

impl Follower for Finder<'_, '_> {
    fn tree(&mut self, path: &[u8], tree: &[u8]) {
        let entries = TreeRefIter::from_bytes(tree, self.hash).map_while(Result::ok);
        for entry in entries.filter(|entry| entry.filename == ATTRIBUTES_FILE) {
            // Of a link, git takes the target for the file's lines.
            if !matches!(entry.mode.kind(), EntryKind::Tree | EntryKind::Commit) {
                let path = [path, ATTRIBUTES_FILE].concat();
                let id: &oid = entry.oid;
                Arc::make_mut(&mut self.attributes).push(path[..].into(), id);
            }
        }
    }

    fn found(&mut self, index: &[u8], is_all: bool) -> Result<(), RestoreError> {
        let bytes = &index[self.handed_bytes..];
        // What asks for conversions is put together anew for each file more that says which: so many times, and once.
        if bytes.is_empty() || !is_all && self.attributes.count() > EARLY_ATTRIBUTE_FILES_MAX {
            return Ok(());
        }
        let batch = Arc::new(Batch {
            bytes: bytes.to_owned(),
            attributes: self.attributes.clone(),
        });
        let id_bytes = self.hash.len_in_bytes();
        let (mut entries, mut at) = (Vec::new(), 0);
        while let Some(end) = next_entry(&batch.bytes, at, id_bytes) {
            let entry = Listed::of(&batch.bytes[at..end], id_bytes);
            if let Some(way) = &mut self.way {
                way.comes(entry.path, entry.mode == SUBMODULE)?;
            }
            let place = self.blobs.place(entry.id);
            entries.push((at..end, place.unwrap_or_default()));
            at = end;
        }
        self.handed_bytes += at;
        self.turns.add(&batch, entries);
        Ok(())
    }
}
