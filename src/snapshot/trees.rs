//! The trees of a build, which are read three times over: what is large in one is kept from one walk to
//! the next. It takes longer to inflate than to walk.

use std::sync::{Mutex, MutexGuard, PoisonError};

use gix::objs::{Data, Find, Kind};
use gix::{ObjectId, oid};

use crate::limits::{TREE_KEPT_BYTES_MAX, TREE_KEPT_BYTES_MIN};

/// The largest tree that was read, if it is large and not too large. One for each build.
#[derive(Debug, Default)]
pub(super) struct LargestTree(Mutex<Largest>);

#[derive(Debug, Default)]
enum Largest {
    #[default]
    None,
    Tree(ObjectId, Vec<u8>),
    /// None is kept any more.
    Off,
}

impl LargestTree {
    fn lock(&self) -> MutexGuard<'_, Largest> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives its memory back, until another one is read.
    pub(super) fn forget(&self) {
        let mut largest = self.lock();
        if !matches!(*largest, Largest::Off) {
            *largest = Largest::None;
        }
    }

    /// The same for good: its build waits for readers, which may take hours.
    pub(super) fn keep_none(&self) {
        *self.lock() = Largest::Off;
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
        if let Largest::Tree(kept, tree) = &*self.largest.lock()
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
            let before = match &*largest {
                Largest::None => 0,
                Largest::Tree(_, tree) => tree.len(),
                Largest::Off => usize::MAX,
            };
            let is_tree = found.kind == Kind::Tree;
            if is_tree && may_be.contains(&found.data.len()) && found.data.len() > before {
                *largest = Largest::Tree(id.to_owned(), found.data.to_vec());
            }
        }
        Ok(found)
    }
}
