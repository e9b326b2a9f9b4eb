//! What lies between two commits of a restored repository: by how much a worktree grows that goes
//! from one to the other. Looked at before git is told to, for a few trees that hold each other many
//! times are a worktree without end, and git would begin with it.

use std::cmp::Ordering;
use std::path::Path;

use gix::ObjectId;
use gix::objs::tree::{EntryKind, EntryRef};
use gix::objs::{Kind, TreeRefIter};

use super::error::RestoreError;
use super::objects::Objects;
use super::quota::{Quota, entry_bytes};
use super::stop::Stop;
use super::write::stopped;
use crate::limits::{TREE_DEPTH_MAX, TREE_DIRECTORIES_MAX, TREE_ENTRIES_MAX};

/// What a checkout changes.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Difference {
    pub added_bytes: u64,
    pub freed_bytes: u64,
    /// Whether one of the files is `.gitattributes`.
    pub has_attributes: bool,
}

/// Looks at the trees of two commits in the repository at `tree`; without one there are no files.
/// Refused is what `quota` has no room for. Attributes may make more of a file than it is in its
/// object: that is seen while git writes.
pub(super) fn between(
    tree: &Path,
    [old, new]: [Option<ObjectId>; 2],
    quota: &Quota,
    stop: &Stop,
) -> Result<Difference, RestoreError> {
    let Some(kind) = new.or(old).map(|id| id.kind()) else {
        return Ok(Difference::default());
    };
    let mut walk = Walk {
        objects: &Objects::open(tree, kind, stop)?,
        quota,
        stop,
        difference: Difference::default(),
        added: 0,
        freed: 0,
        entries: 0,
        directories: 0,
        left: Vec::new(),
    };
    walk.run([old, new])?;
    quota.look_entries(walk.added.saturating_sub(walk.freed))?;
    let Difference {
        added_bytes,
        freed_bytes,
        ..
    } = walk.difference;
    quota.look(added_bytes.saturating_sub(freed_bytes))?;
    Ok(walk.difference)
}

fn refused(why: impl Into<String>) -> RestoreError {
    RestoreError::Git {
        step: "checkout".into(),
        detail: why.into(),
    }
}

/// The same of an object, whoever has it.
fn unread(error: RestoreError) -> RestoreError {
    match error {
        RestoreError::Entry { why, .. } => refused(why),
        error => error,
    }
}

fn next<'t>(entries: &mut TreeRefIter<'t>) -> Result<Option<EntryRef<'t>>, RestoreError> {
    let entry = entries.next().transpose();
    entry.map_err(|e| refused(format!("a tree: {e}")))
}

/// A directory in the old and the new worktree, where it is in both.
struct Pair {
    trees: [Option<ObjectId>; 2],
    depth: usize,
}

/// A walk through what is not the same in both.
///
/// Invariant: what is in `left` was counted, so it cannot have more entries than there is room for.
struct Walk<'w> {
    objects: &'w Objects<'w>,
    quota: &'w Quota,
    stop: &'w Stop,
    difference: Difference,
    /// Entries of the new one that are not the same in the old one, and the other way round.
    added: u64,
    freed: u64,
    entries: u64,
    directories: u64,
    left: Vec<Pair>,
}

impl Walk<'_> {
    fn run(&mut self, commits: [Option<ObjectId>; 2]) -> Result<(), RestoreError> {
        let mut buffers = [Vec::new(), Vec::new()];
        let mut trees = [None; 2];
        for (tree, commit) in trees.iter_mut().zip(commits) {
            let Some(commit) = commit else { continue };
            *tree = Some(self.objects.tree_of(commit).map_err(unread)?);
        }
        self.left.push(Pair { trees, depth: 0 });
        while let Some(pair) = self.left.pop() {
            if pair.trees[0] != pair.trees[1] {
                self.compare(&pair, &mut buffers)?;
            }
        }
        Ok(())
    }

    /// Goes through two trees side by side. Where they are not sorted, entries that are the same
    /// count as removed and added again.
    fn compare(&mut self, pair: &Pair, buffers: &mut [Vec<u8>; 2]) -> Result<(), RestoreError> {
        for (buffer, id) in buffers.iter_mut().zip(pair.trees) {
            match id {
                Some(id) => self.objects.read(id, Kind::Tree, buffer).map_err(unread)?,
                None => buffer.clear(),
            }
        }
        let hash = pair.trees.iter().flatten().next().map(|id| id.kind());
        let hash = hash.unwrap_or(gix::hash::Kind::Sha1);
        let [mut old, mut new] = buffers
            .each_ref()
            .map(|data| TreeRefIter::from_bytes(data, hash));
        let (mut a, mut b) = (next(&mut old)?, next(&mut new)?);
        loop {
            if self.stop.is_set() {
                return Err(stopped());
            }
            let order = match (&a, &b) {
                (None, None) => return Ok(()),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(a), Some(b)) => a.cmp(b),
            };
            let both = [a.filter(|_| order.is_le()), b.filter(|_| order.is_ge())];
            self.entry(both, pair.depth)?;
            if order.is_le() {
                a = next(&mut old)?;
            }
            if order.is_ge() {
                b = next(&mut new)?;
            }
        }
    }

    /// One name, as it was and as it will be.
    fn entry(&mut self, both: [Option<EntryRef<'_>>; 2], depth: usize) -> Result<(), RestoreError> {
        let what = both.map(|entry| entry.map(|entry| (entry.mode, entry.oid.to_owned())));
        self.entries += 1;
        if what[0] == what[1] {
            return Ok(());
        }
        let names = both.iter().flatten();
        self.difference.has_attributes |= names.into_iter().any(|e| e.filename == ".gitattributes");
        let mut trees = [None; 2];
        let mut bytes = [0; 2];
        for (side, (mode, id)) in what
            .into_iter()
            .enumerate()
            .filter_map(|(n, w)| Some((n, w?)))
        {
            bytes[side] = match mode.kind() {
                EntryKind::Blob | EntryKind::BlobExecutable => entry_bytes(self.size(id)?),
                EntryKind::Tree | EntryKind::Link | EntryKind::Commit => entry_bytes(0),
            };
            if mode.is_tree() {
                trees[side] = Some(id);
            }
        }
        let difference = &mut self.difference;
        difference.freed_bytes = difference.freed_bytes.saturating_add(bytes[0]);
        difference.added_bytes = difference.added_bytes.saturating_add(bytes[1]);
        // No more can go than was written: over all that may be is over what is left, whatever else
        // goes.
        self.quota.expect(self.difference.added_bytes)?;
        self.freed += u64::from(both[0].is_some());
        self.added += u64::from(both[1].is_some());
        self.quota.expect_entries(self.added)?;
        if trees != [None; 2] {
            self.directories += 1;
            let depth = depth + 1;
            self.left.push(Pair { trees, depth });
        }
        let is_endless = self.entries > TREE_ENTRIES_MAX
            || self.directories > TREE_DIRECTORIES_MAX
            || depth >= TREE_DEPTH_MAX;
        match is_endless {
            true => Err(refused("there is no end to its files")),
            false => Ok(()),
        }
    }

    /// The size of a file's object.
    fn size(&self, id: ObjectId) -> Result<u64, RestoreError> {
        let size = self.objects.size(id).map_err(unread)?;
        size.ok_or_else(|| refused(format!("blob {id} is not there")))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Repository;
    use super::*;
    use crate::limits::DISK_BLOCK_BYTES;

    /// A commit of a tree of these entries.
    fn commit(repository: &Repository, entries: &[(&str, ObjectId)]) -> ObjectId {
        repository.commit(repository.tree(entries))
    }

    fn compare(
        repository: &Repository,
        old: Option<ObjectId>,
        new: Option<ObjectId>,
        limit_bytes: u64,
    ) -> Result<Difference, RestoreError> {
        let quota = Quota::new(Some(limit_bytes), repository.path()).unwrap();
        between(repository.path(), [old, new], &quota, &Stop::default())
    }

    #[test]
    fn what_comes_and_goes_is_counted_and_what_stays_is_not() {
        let repository = Repository::new();
        let small = repository.object("blob", b"x");
        let large = repository.object("blob", &vec![0; 1 << 20]);
        let same = repository.tree(&[("100644 s", large)]);
        let was = repository.tree(&[("100644 .gitattributes", small), ("100644 y", small)]);
        let is = repository.tree(&[("100644 y", small)]);
        let old = commit(
            &repository,
            &[
                ("100644 a", small),
                ("100644 b", large),
                ("40000 c", same),
                ("40000 d", was),
            ],
        );
        let new = commit(
            &repository,
            &[
                ("100644 a", large),
                ("100755 a.x", large),
                ("40000 b", same),
                ("40000 c", same),
                ("40000 d", is),
            ],
        );
        let block = DISK_BLOCK_BYTES;
        let found = compare(&repository, Some(old), Some(new), 4 << 20).unwrap();
        // `d` is in both: its own block is as much on either side.
        let expected = Difference {
            added_bytes: (3 << 20) + 2 * block,
            freed_bytes: (1 << 20) + 3 * block,
            has_attributes: true,
        };
        assert_eq!(found, expected);
        assert!(compare(&repository, Some(old), Some(new), 4 << 20).is_ok());
        let error = compare(&repository, Some(old), Some(new), 2 << 20).unwrap_err();
        assert_eq!(error.exit_code(), 4);
        let nothing = compare(&repository, Some(new), Some(new), 0).unwrap();
        assert_eq!(nothing, Difference::default());
        let all = compare(&repository, Some(new), None, 0).unwrap();
        assert_eq!((all.added_bytes, all.has_attributes), (0, false));
        assert!(compare(&repository, None, None, 0).is_ok());
    }

    /// Thirty trees make a worktree of a billion files, or of a billion empty directories.
    #[test]
    fn trees_that_hold_each_other_many_times_end_with_the_limit() {
        let repository = Repository::new();
        let blob = repository.object("blob", b"x");
        let harmless = commit(&repository, &[("100644 a", blob)]);
        for lowest in [
            repository.tree(&[("100644 x", blob)]),
            repository.tree::<&str>(&[]),
        ] {
            let mut tree = lowest;
            for _ in 0..30 {
                tree = repository.tree(&[("40000 a", tree), ("40000 b", tree)]);
            }
            let bomb = commit(&repository, &[("40000 a", tree)]);
            for old in [None, Some(harmless)] {
                let error = compare(&repository, old, Some(bomb), 4 << 20).unwrap_err();
                assert_eq!(error.exit_code(), 4, "{error}");
            }
        }
    }

    #[test]
    fn what_is_not_there_or_no_tree_is_an_error() {
        let repository = Repository::new();
        let blob = repository.object("blob", b"x");
        let none = ObjectId::from_hex(&[b'1'; 40]).unwrap();
        for entry in [("100644 a", none), ("40000 a", none), ("40000 a", blob)] {
            let commit = commit(&repository, &[entry]);
            let error = compare(&repository, None, Some(commit), 1 << 20).unwrap_err();
            assert_eq!(error.exit_code(), 6, "{error}");
        }
        for commit in [none, blob, repository.tree::<&str>(&[])] {
            let error = compare(&repository, None, Some(commit), 1 << 20).unwrap_err();
            assert_eq!(error.exit_code(), 6, "{error}");
        }
    }
}
