//! The trees of a build, which are read three times over: what is large in one is kept from one walk to
//! the next. It takes longer to inflate than to walk.

use std::sync::{Mutex, MutexGuard, PoisonError};

use gix::objs::{Data, Find, Kind};
use gix::{ObjectId, oid};

use crate::limits::{TREE_KEPT_BYTES_MAX, TREE_KEPT_BYTES_MIN};

/// The largest tree that was read, if it is large and not too large. One for each build.
#[derive(Debug, Default)]
pub(super) struct LargestTree(Mutex<Option<(ObjectId, Vec<u8>)>>);

impl LargestTree {
    fn lock(&self) -> MutexGuard<'_, Option<(ObjectId, Vec<u8>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives its memory back.
    pub(super) fn forget(&self) {
        *self.lock() = None;
    }
}

/// Trees that are read by way of it.
pub(super) struct Kept<'a> {
    pub(super) trees: &'a dyn Find,
    pub(super) largest: &'a LargestTree,
}

impl Find for Kept<'_> {
    fn try_find<'b>(
        &self,
        id: &oid,
        buffer: &'b mut Vec<u8>,
    ) -> gix::error::Result<Option<Data<'b>>> {
        if let Some((kept, tree)) = &*self.largest.lock()
            && **kept == *id
        {
            buffer.clone_from(tree);
            return Ok(Some(Data {
                kind: Kind::Tree,
                object_hash: id.kind(),
                data: buffer,
            }));
        }
        let found = self.trees.try_find(id, buffer)?;
        if let Some(found) = &found {
            let may_be = TREE_KEPT_BYTES_MIN..=TREE_KEPT_BYTES_MAX;
            let mut largest = self.largest.lock();
            let before = largest.as_ref().map_or(0, |(_, tree)| tree.len());
            let is_tree = found.kind == Kind::Tree;
            if is_tree && may_be.contains(&found.data.len()) && found.data.len() > before {
                *largest = Some((id.to_owned(), found.data.to_vec()));
            }
        }
        Ok(found)
    }
}
