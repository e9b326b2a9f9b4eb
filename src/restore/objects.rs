//! The objects that decide what a restored worktree holds: the commit, tags on the way to it, and
//! its trees. Each is compared with its id before it is used: an archive's `.idx` may have an id at
//! another object's place, and git believes it.
//!
//! Git takes an id from whichever file has it, so every copy is compared, whatever file it is in.
//! Blobs are believed as they are here: that a file's content is that of its id is looked at by who proves it
//! ([`super::blobs`]).

use std::cell::RefCell;
use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gix::hash::{Kind, ObjectId};
use gix::objs::tree::EntryKind;
use gix::objs::{CommitRefIter, TagRefIter, TreeRefIter};

use super::content::{Fault, Reader, Work};
use super::error::RestoreError;
use super::stop::Stop;
use super::write::stopped;
use crate::limits::{TREE_DIRECTORIES_MAX, TREE_WORK_BYTES_MIN, TREE_WORK_PER_PACK_BYTE};
use crate::tree::decoder::Packs;

const HEAD: &[u8] = b".git/HEAD";

/// The objects of the repository at a path.
pub(super) struct Objects<'s> {
    packs: Arc<Packs>,
    directory: PathBuf,
    hash: Kind,
    stop: &'s Stop,
    reader: RefCell<Reader>,
    /// Small packs can have much of it.
    work: Work<'s>,
}

impl<'s> Objects<'s> {
    pub(super) fn open(
        tree: &Path,
        hash: Kind,
        stop: &'s Stop,
    ) -> Result<Objects<'s>, RestoreError> {
        let packs = Packs::open_all(&tree.join(".git"), hash);
        let packs = packs.map_err(|e| RestoreError::entry(b".git/objects/pack", e.to_string()))?;
        Ok(Objects::of(Arc::new(packs), tree, hash, stop))
    }

    /// Those of these packs, and loose ones.
    pub(super) fn of(packs: Arc<Packs>, tree: &Path, hash: Kind, stop: &'s Stop) -> Objects<'s> {
        let work = packs.bytes().saturating_mul(TREE_WORK_PER_PACK_BYTE);
        Objects {
            packs,
            directory: tree.join(".git/objects"),
            hash,
            stop,
            reader: RefCell::default(),
            work: Work::new(work.saturating_add(TREE_WORK_BYTES_MIN), stop),
        }
    }

    /// The same for another thread, which may have as much work.
    pub(super) fn beside(&self) -> Objects<'s> {
        let work = self.packs.bytes().saturating_mul(TREE_WORK_PER_PACK_BYTE);
        Objects {
            packs: self.packs.clone(),
            directory: self.directory.clone(),
            hash: self.hash,
            stop: self.stop,
            reader: RefCell::default(),
            work: Work::new(work.saturating_add(TREE_WORK_BYTES_MIN), self.stop),
        }
    }

    /// The same for objects that files are made of: what those may take bounds the work.
    pub(super) fn open_for_files(
        tree: &Path,
        hash: Kind,
        stop: &'s Stop,
    ) -> Result<Objects<'s>, RestoreError> {
        let objects = Objects::open(tree, hash, stop)?;
        let work = Work::new(u64::MAX, stop);
        Ok(Objects { work, ..objects })
    }

    pub(super) fn packs(&self) -> &Arc<Packs> {
        &self.packs
    }

    /// Of which kind its ids are.
    pub(super) fn hash(&self) -> Kind {
        self.hash
    }

    /// Reads an object of a kind, and compares every copy of it with its id.
    pub(super) fn read(
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
        let mut reader = self.reader.borrow_mut();
        for pack in self.packs.iter() {
            let kind = reader.packed(pack, &id, buffer, &self.work);
            if let Some(kind) = kind.map_err(|fault| failed(id, fault))? {
                found = Some(self.same(id, kind, buffer)?);
            }
        }
        if let Some(file) = self.loose(id)? {
            let kind = reader.loose(file, buffer, &self.work);
            let kind = kind.map_err(|fault| failed(id, fault))?;
            found = Some(self.same(id, kind, buffer)?);
        }
        Ok(found)
    }

    /// The file of a loose object.
    fn loose(&self, id: ObjectId) -> Result<Option<BufReader<File>>, RestoreError> {
        if self.stop.is_set() {
            return Err(stopped());
        }
        let hex = id.to_string();
        let path = self.directory.join(&hex[..2]).join(&hex[2..]);
        match File::open(&path) {
            Ok(file) => Ok(Some(BufReader::new(file))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(RestoreError::disk("open", path, e)),
        }
    }

    /// The kind of an object by what its first copy says, whose content nobody has looked at; `None`
    /// if it is not there.
    pub(super) fn kind(&self, id: ObjectId) -> Result<Option<gix::objs::Kind>, RestoreError> {
        if id == ObjectId::empty_tree(self.hash) {
            return Ok(Some(gix::objs::Kind::Tree));
        }
        let mut reader = self.reader.borrow_mut();
        for pack in self.packs.iter() {
            let kind = reader.packed_kind(pack, &id, &self.work);
            if let Some(kind) = kind.map_err(|fault| failed(id, fault))? {
                return Ok(Some(kind));
            }
        }
        let Some(file) = self.loose(id)? else {
            return Ok(None);
        };
        let head = reader.loose_head(file, &self.work);
        head.map(|(kind, _)| Some(kind))
            .map_err(|fault| failed(id, fault))
    }

    /// How long an object is by what its largest copy says; `None` if it is not there.
    pub(super) fn size(&self, id: ObjectId) -> Result<Option<u64>, RestoreError> {
        let mut reader = self.reader.borrow_mut();
        let mut largest = None;
        for pack in self.packs.iter() {
            let size = reader.packed_size(pack, &id, &self.work);
            largest = size.map_err(|fault| failed(id, fault))?.max(largest);
        }
        if let Some(file) = self.loose(id)? {
            let head = reader.loose_head(file, &self.work);
            let (_, size) = head.map_err(|fault| failed(id, fault))?;
            largest = Some(size).max(largest);
        }
        Ok(largest)
    }

    /// Compares what was found with its id.
    fn same(
        &self,
        id: ObjectId,
        kind: gix::objs::Kind,
        content: &[u8],
    ) -> Result<gix::objs::Kind, RestoreError> {
        let real = self.work.id(self.hash, kind, content);
        match real.map_err(|fault| failed(id, fault))? == id {
            true => Ok(kind),
            false => Err(refused(kind, id, "it is another object".into())),
        }
    }

    /// The commit that an object leads to.
    pub(super) fn commit_of(&self, id: ObjectId) -> Result<ObjectId, RestoreError> {
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
    pub(super) fn tree_of(&self, commit: ObjectId) -> Result<ObjectId, RestoreError> {
        let mut buffer = Vec::new();
        self.read(commit, gix::objs::Kind::Commit, &mut buffer)?;
        let root = CommitRefIter::from_bytes(&buffer, self.hash).tree_id();
        root.map_err(|e| RestoreError::entry(HEAD, format!("its commit: {e}")))
    }

    /// Sees to it that a commit's trees are those that their ids are of.
    pub(super) fn check_trees(&self, commit: ObjectId) -> Result<(), RestoreError> {
        let root = self.tree_of(commit)?;
        let mut met = HashSet::from([root]);
        let mut open = vec![root];
        let mut buffer = Vec::new();
        while let Some(id) = open.pop() {
            let kind = gix::objs::Kind::Tree;
            self.read(id, kind, &mut buffer)?;
            for entry in TreeRefIter::from_bytes(&buffer, self.hash) {
                if self.stop.is_set() {
                    return Err(stopped());
                }
                let entry = entry.map_err(|e| refused(kind, id, e.to_string()))?;
                let below = entry.oid.to_owned();
                if entry.mode.kind() == EntryKind::Tree && met.insert(below) {
                    open.push(below);
                }
            }
            if met.len() as u64 > TREE_DIRECTORIES_MAX {
                return Err(refused(kind, root, "it has too many directories".into()));
            }
        }
        Ok(())
    }
}

/// What is wrong with an object that was to be read.
pub(super) fn failed(id: ObjectId, fault: Fault) -> RestoreError {
    match fault {
        Fault::Stopped => stopped(),
        Fault::Content(what) => refused("object", id, what.into()),
        Fault::Read(e) => RestoreError::disk("read", format!("the object {id}"), e),
        Fault::Taken(error) => *error,
    }
}

pub(super) fn refused(kind: impl std::fmt::Display, id: ObjectId, why: String) -> RestoreError {
    RestoreError::entry(HEAD, format!("its {kind} {id}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::super::testing::Repository;
    use super::*;
    use std::fs;

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
        let mut objects = Objects::open(repository.path(), Kind::Sha1, &stop).unwrap();
        objects.work = Work::new(10, &stop);
        let error = objects.check_trees(commit).unwrap_err();
        assert!(error.to_string().contains("too much work"), "{error}");
        objects.work = Work::new(TREE_WORK_BYTES_MIN, &stop);
        objects.check_trees(commit).unwrap();
        stop.interrupt("SIGINT");
        objects.check_trees(commit).unwrap_err();
    }
}
