//! The objects that decide what a restored worktree holds: the commit, tags on the way to it, and
//! its trees. Each is compared with its id before it is used: an archive's `.idx` may have an id at
//! another object's place, and git believes it.
//!
//! Git takes an id from whichever file has it, so every copy is compared, whatever file it is in.
//! Blobs are believed as they are: that a file's content is that of its id is not looked at.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::fs;
use std::path::Path;

use gix::hash::{Kind, ObjectId};
use gix::objs::tree::EntryKind;
use gix::objs::{CommitRefIter, Data, TagRefIter, TreeRefIter};
use gix::odb::pack::cache::DecodeEntry;
use gix::odb::{loose, pack};
use gix::zlib::Inflate;

use super::error::RestoreError;
use super::stop::Stop;
use crate::limits::{
    DELTA_STEPS_MAX, RESTORED_TREE_BYTES_MAX, TREE_WORK_BYTES_MIN, TREE_WORK_PER_PACK_BYTE,
};

const HEAD: &[u8] = b".git/HEAD";

/// The objects of the repository at a path.
pub struct Objects<'s> {
    packs: Vec<pack::Bundle>,
    loose: loose::Store,
    hash: Kind,
    stop: &'s Stop,
    inflate: RefCell<Inflate>,
    /// Bytes that may yet be inflated and copied: small packs can have much of both.
    work_left: Cell<u64>,
}

/// Keeps nothing, but counts the deltas of an object. One with too many gets a base that fits none
/// of them, so that it is no object.
#[derive(Default)]
struct Steps(u64);

impl DecodeEntry for Steps {
    fn put(&mut self, _: u32, _: u64, _: &[u8], _: gix::objs::Kind, _: usize) {}

    fn get(&mut self, _: u32, _: u64, out: &mut Vec<u8>) -> Option<(gix::objs::Kind, usize)> {
        self.0 += 1;
        if self.0 <= DELTA_STEPS_MAX {
            return None;
        }
        out.clear();
        Some((gix::objs::Kind::Blob, 0))
    }
}

impl<'s> Objects<'s> {
    pub fn open(tree: &Path, hash: Kind, stop: &'s Stop) -> Result<Objects<'s>, RestoreError> {
        let directory = tree.join(".git/objects");
        let failed = |e| RestoreError::disk("open", &directory, e);
        let mut packs = Vec::new();
        let mut packed_bytes = 0;
        for entry in fs::read_dir(directory.join("pack")).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.extension().is_none_or(|ending| ending != "idx") {
                continue;
            }
            let opened = pack::Bundle::at(&path, hash);
            let mut bundle = opened.map_err(|e| {
                RestoreError::entry(path.as_os_str().as_encoded_bytes(), e.to_string())
            })?;
            let limit = Some(RESTORED_TREE_BYTES_MAX);
            bundle.pack = bundle.pack.with_alloc_limit_bytes(limit);
            packed_bytes += bundle.pack.data_len() as u64;
            packs.push(bundle);
        }
        let options = loose::Options {
            alloc_limit_bytes: Some(RESTORED_TREE_BYTES_MAX),
            ..Default::default()
        };
        let work = packed_bytes.saturating_mul(TREE_WORK_PER_PACK_BYTE);
        Ok(Objects {
            packs,
            loose: loose::Store::at_opts(directory, hash, options),
            hash,
            stop,
            inflate: RefCell::default(),
            work_left: Cell::new(work.saturating_add(TREE_WORK_BYTES_MIN)),
        })
    }

    /// Reads an object of a kind, and compares every copy of it with its id.
    pub fn read(
        &self,
        id: ObjectId,
        kind: gix::objs::Kind,
        buffer: &mut Vec<u8>,
    ) -> Result<(), RestoreError> {
        buffer.clear();
        if kind == gix::objs::Kind::Tree && id == ObjectId::empty_tree(self.hash) {
            return Ok(());
        }
        match self.find(id, buffer)? {
            None => Err(refused(kind, id, "it is not there".into())),
            Some(found) if found != kind => Err(refused(kind, id, format!("it is a {found}"))),
            Some(_) => Ok(()),
        }
    }

    /// The kind of an object, whose content is in `buffer` then; `None` if it is not there.
    fn find(
        &self,
        id: ObjectId,
        buffer: &mut Vec<u8>,
    ) -> Result<Option<gix::objs::Kind>, RestoreError> {
        let mut found = None;
        for bundle in &self.packs {
            // Its capacity tells of what is between a delta's base and its result.
            let (mut out, mut steps) = (Vec::new(), Steps::default());
            let inflate = &mut self.inflate.borrow_mut();
            let data = bundle.find(&id, &mut out, inflate, &mut steps);
            let data = data.map_err(|e| refused("object", id, e.to_string()))?;
            let Some((data, _)) = data else {
                continue;
            };
            found = Some(self.same(id, &data)?);
            self.work(id, out.capacity() as u64 * (steps.0 + 1))?;
            buffer.clear();
            buffer.extend_from_slice(&out);
        }
        let mut out = Vec::new();
        let data = self.loose.try_find(&id, &mut out);
        let data = data.map_err(|e| refused("object", id, e.to_string()))?;
        if let Some(data) = data {
            found = Some(self.same(id, &data)?);
            buffer.clear();
            buffer.extend_from_slice(data.data);
            self.work(id, buffer.len() as u64)?;
        }
        Ok(found)
    }

    /// Compares what was found with its id.
    fn same(&self, id: ObjectId, data: &Data<'_>) -> Result<gix::objs::Kind, RestoreError> {
        let real = gix::objs::compute_hash(self.hash, data.kind, data.data);
        match real.map_err(|e| refused(data.kind, id, e.to_string()))? == id {
            true => Ok(data.kind),
            false => Err(refused(data.kind, id, "it is another object".into())),
        }
    }

    fn work(&self, id: ObjectId, bytes: u64) -> Result<(), RestoreError> {
        if self.stop.is_set() {
            return Err(RestoreError::Server("stopped".into()));
        }
        let left = self.work_left.get().checked_sub(bytes);
        let left =
            left.ok_or_else(|| refused("object", id, "its deltas are too much work".into()))?;
        self.work_left.set(left);
        Ok(())
    }

    /// The commit that an object leads to.
    pub fn commit_of(&self, id: ObjectId) -> Result<ObjectId, RestoreError> {
        let missing = || RestoreError::Missing(format!("a commit at {id}"));
        let mut at = id;
        let mut buffer = Vec::new();
        loop {
            match self.find(at, &mut buffer)? {
                Some(gix::objs::Kind::Commit) => return Ok(at),
                Some(gix::objs::Kind::Tag) => {
                    let target = TagRefIter::from_bytes(&buffer, self.hash).target_id();
                    at = target.map_err(|_| missing())?;
                }
                _ => return Err(missing()),
            }
        }
    }

    /// The tree of a commit.
    pub fn tree_of(&self, commit: ObjectId) -> Result<ObjectId, RestoreError> {
        let mut buffer = Vec::new();
        self.read(commit, gix::objs::Kind::Commit, &mut buffer)?;
        let root = CommitRefIter::from_bytes(&buffer, self.hash).tree_id();
        root.map_err(|e| RestoreError::entry(HEAD, format!("its commit: {e}")))
    }

    /// Sees to it that a commit's trees are those that their ids are of.
    pub fn check_trees(&self, commit: ObjectId) -> Result<(), RestoreError> {
        let root = self.tree_of(commit)?;
        let mut met = HashSet::from([root]);
        let mut open = vec![root];
        let mut buffer = Vec::new();
        while let Some(id) = open.pop() {
            let kind = gix::objs::Kind::Tree;
            self.read(id, kind, &mut buffer)?;
            for entry in TreeRefIter::from_bytes(&buffer, self.hash) {
                let entry = entry.map_err(|e| refused(kind, id, e.to_string()))?;
                let below = entry.oid.to_owned();
                if entry.mode.kind() == EntryKind::Tree && met.insert(below) {
                    open.push(below);
                }
            }
        }
        Ok(())
    }
}

fn refused(kind: impl std::fmt::Display, id: ObjectId, why: String) -> RestoreError {
    RestoreError::entry(HEAD, format!("its {kind} {id}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::super::testing::Repository;
    use super::*;

    /// A tree with the file `name`, and one that has it at `d`.
    fn trees(repository: &Repository, name: &str) -> (ObjectId, ObjectId) {
        let blob = repository.object("blob", b"x");
        let below = repository.tree(&[(format!("100644 {name}"), blob)]);
        (below, repository.tree(&[("40000 d", below)]))
    }

    #[test]
    fn every_copy_of_a_tree_is_compared_with_its_id() {
        let repository = Repository::new();
        let ((below, root), (evil, _)) = (trees(&repository, "f"), trees(&repository, "evil"));
        let commit = repository.commit(root);
        let stop = Stop::default();
        let check = || {
            let objects = Objects::open(repository.path(), Kind::Sha1, &stop).unwrap();
            objects
                .check_trees(commit)
                .map_err(|e| assert_eq!(e.exit_code(), 5, "{e}"))
        };
        check().unwrap();
        let evil = fs::read(repository.loose(evil)).unwrap();
        // One is in a pack; git would take that.
        let all = format!("{commit}\n{root}\n{below}\n");
        let args = ["pack-objects", "-q", ".git/objects/pack/pack"];
        repository.git(&args, all.as_bytes());
        check().unwrap();
        fs::remove_file(repository.loose(below)).unwrap();
        check().unwrap();
        fs::write(repository.loose(below), evil).unwrap();
        check().unwrap_err();
    }

    #[test]
    fn a_tag_and_what_it_leads_to_are_compared_with_their_ids() {
        let repository = Repository::new();
        let (_, root) = trees(&repository, "f");
        let (commit, other) = (repository.commit(root), trees(&repository, "g").1);
        let other = repository.commit(other);
        let tag = |commit: ObjectId| {
            let text =
                format!("object {commit}\ntype commit\ntag v\ntagger A <a@b> 1 +0000\n\nx\n");
            repository.object("tag", text.as_bytes())
        };
        let (first, second) = (tag(commit), tag(other));
        let stop = Stop::default();
        let lead = |id| Objects::open(repository.path(), Kind::Sha1, &stop)?.commit_of(id);
        assert_eq!(lead(first).unwrap(), commit);
        assert_eq!(lead(commit).unwrap(), commit);
        assert_eq!(lead(root).unwrap_err().exit_code(), 7);
        fs::rename(repository.loose(second), repository.loose(first)).unwrap();
        assert_eq!(lead(first).unwrap_err().exit_code(), 5);
    }

    #[test]
    fn the_work_of_a_walk_has_an_end() {
        let repository = Repository::new();
        let commit = repository.commit(trees(&repository, "f").1);
        let stop = Stop::default();
        let objects = Objects::open(repository.path(), Kind::Sha1, &stop).unwrap();
        objects.work_left.set(10);
        let error = objects.check_trees(commit).unwrap_err();
        assert!(error.to_string().contains("too much work"), "{error}");
        objects.work_left.set(TREE_WORK_BYTES_MIN);
        objects.check_trees(commit).unwrap();
        stop.interrupt("SIGINT");
        objects.check_trees(commit).unwrap_err();
    }

    /// Each step may copy as much as the largest object has.
    #[test]
    fn a_long_chain_of_deltas_is_no_object() {
        let mut steps = Steps::default();
        let mut out = vec![1];
        for _ in 0..DELTA_STEPS_MAX {
            assert!(steps.get(0, 0, &mut out).is_none());
        }
        assert!(steps.get(0, 0, &mut out).is_some() && out.is_empty());
    }
}
