//! The index of a restored repository, made from the trees of HEAD and nothing else: an archive's
//! own is never read. That the files are there, each of its kind, is seen when their stat data is
//! put in ([`super::index`]).

use std::path::Path;

use gix::bstr::BStr;
use gix::hash::{Kind, ObjectId};
use gix::objs::TreeRefIter;
use gix::objs::tree::EntryKind;

use super::error::RestoreError;
use super::objects::Objects;
use super::path;
use super::quota::Quota;
use super::stop::Stop;
use super::write::{Written, stopped};
use crate::limits::{
    DISK_BLOCK_BYTES, EMPTY_TREES_MAX, PATH_BYTES_MAX, RESTORED_TREE_BYTES_MAX,
    TRACKED_INDEX_BYTES_MAX, TREE_DEPTH_MAX, TREE_DIRECTORIES_MAX, WORK_PIECE_BYTES,
};
use crate::tree::index::{Directories, HEADER_BYTES, STAT_FIELDS, mode, push_entry, push_header};
use crate::tree::order::Order;

const HEAD: &[u8] = b".git/HEAD";

/// What was unpacked into the worktree.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Unpacked {
    /// Files and symbolic links.
    pub files: u64,
    pub directories: u64,
}

impl Unpacked {
    /// What writers have made.
    pub(super) fn of(written: &Written) -> Unpacked {
        Unpacked {
            files: written.files(),
            directories: written.directories(),
        }
    }

    /// Refuses more or less than a commit has: `all`. An empty tree need not have a directory.
    pub(super) fn check(self, all: Unpacked) -> Result<(), RestoreError> {
        match self.files == all.files && self.directories <= all.directories {
            true => Ok(()),
            false => {
                let why = "the archive has files or directories that its commit has not";
                Err(RestoreError::entry(HEAD, why))
            }
        }
    }
}

/// An index of version 2 without stat data, and what it counts.
#[derive(Debug)]
struct Made {
    bytes: Vec<u8>,
    files: u64,
    /// Trees below the first, and places of submodules. Whether an empty tree has a directory in a
    /// worktree depends on who has made that.
    directories: u64,
}

/// What bounds a walk: a few trees that hold each other many times have no end.
#[derive(Clone, Copy)]
enum Bound<'q> {
    /// What was unpacked, of which a commit has no more.
    Unpacked(Unpacked),
    /// What there is room for, besides the entries and bytes that were taken before: what is found is made meanwhile, and
    /// is to count once.
    Quota(&'q Quota, (u64, u64)),
}

/// Makes the index of `commit`. More files than were `unpacked` are not listed: they are not there.
pub fn index(
    tree: &Path,
    commit: ObjectId,
    unpacked: Unpacked,
    stop: &Stop,
) -> Result<Vec<u8>, RestoreError> {
    let objects = Objects::open(tree, commit.kind(), stop)?;
    let bound = Bound::Unpacked(unpacked);
    let made = made(&objects, commit, bound, &mut Nobody, stop)?;
    let all = Unpacked {
        files: made.files,
        directories: made.directories,
    };
    unpacked.check(all)?;
    Ok(made.bytes)
}

/// Follows a walk while it goes on.
pub(super) trait Follower {
    /// A tree begins; `path` is what the paths of its entries begin with.
    fn tree(&mut self, path: &[u8], tree: &[u8]);

    /// So much of the `index` is made, and that `is_all` of its entries or the next tree is about to be read: each entry is
    /// of a tree that has begun, as have those that lead to it.
    fn found(&mut self, index: &[u8], is_all: bool) -> Result<(), RestoreError>;
}

/// Makes the index of `commit`, if what it lists may be made; gives also how much that is. The `follower` is told what is
/// found meanwhile.
pub(super) fn plan(
    objects: &Objects<'_>,
    commit: ObjectId,
    quota: &Quota,
    follower: &mut dyn Follower,
    stop: &Stop,
) -> Result<(Vec<u8>, Unpacked), RestoreError> {
    let bound = Bound::Quota(quota, quota.taken());
    let made = made(objects, commit, bound, follower, stop)?;
    let all = Unpacked {
        files: made.files,
        directories: made.directories,
    };
    Ok((made.bytes, all))
}

/// Nobody.
struct Nobody;

impl Follower for Nobody {
    fn tree(&mut self, _: &[u8], _: &[u8]) {}

    fn found(&mut self, _: &[u8], _: bool) -> Result<(), RestoreError> {
        Ok(())
    }
}

fn made(
    objects: &Objects<'_>,
    commit: ObjectId,
    bound: Bound<'_>,
    follower: &mut dyn Follower,
    stop: &Stop,
) -> Result<Made, RestoreError> {
    let root = objects.tree_of(commit)?;
    let mut walk = Walk {
        objects,
        bound,
        follower,
        stop,
        made: Made {
            bytes: Vec::new(),
            files: 0,
            directories: 0,
        },
        entries: 0,
        path: Vec::new(),
        directories: Directories::default(),
        names_bytes: 0,
        open: Vec::new(),
        spare: Vec::new(),
    };
    // The number of entries is put in when it is known.
    walk.made.bytes.resize(HEADER_BYTES, 0);
    walk.run(root)?;
    walk.follower.found(&walk.made.bytes, true)?;
    let Walk {
        mut made,
        entries,
        directories,
        ..
    } = walk;
    let mut header = Vec::new();
    push_header(&mut header, entries);
    made.bytes[..HEADER_BYTES].copy_from_slice(&header);
    let go_on = || match stop.is_set() {
        true => Err(stopped()),
        false => Ok(()),
    };
    directories.push_extension(&mut made.bytes, go_on)?;
    // The sum is put in with the stat data.
    made.bytes
        .resize(made.bytes.len() + commit.kind().len_in_bytes(), 0);
    Ok(made)
}

/// A tree that the walk is inside of.
struct Level {
    data: Vec<u8>,
    at: usize,
    /// Where the names of its entries begin in the path.
    path_len: usize,
}

/// A walk in the order of the index, depth first.
///
/// Invariant: `path` is that of the entry which was met last.
struct Walk<'w> {
    objects: &'w Objects<'w>,
    bound: Bound<'w>,
    follower: &'w mut dyn Follower,
    stop: &'w Stop,
    made: Made,
    entries: u32,
    path: Vec<u8>,
    directories: Directories,
    /// Of the names of all directories.
    names_bytes: usize,
    open: Vec<Level>,
    /// Memory of moderate trees that are done with.
    spare: Vec<Vec<u8>>,
}

impl Walk<'_> {
    fn refused(&self, why: impl Into<String>) -> RestoreError {
        RestoreError::entry(&self.path, why)
    }

    fn run(&mut self, root: ObjectId) -> Result<(), RestoreError> {
        self.enter(root, 0)?;
        while let Some(mut level) = self.open.pop() {
            if self.stop.is_set() {
                return Err(stopped());
            }
            self.path.truncate(level.path_len);
            let Some((mode, id)) = self.next(&mut level, root.kind())? else {
                self.leave();
                if level.data.capacity() <= WORK_PIECE_BYTES {
                    self.spare.push(level.data);
                }
                continue;
            };
            let name_at = level.path_len;
            self.open.push(level);
            match mode {
                EntryKind::Tree => self.enter(id, name_at)?,
                kind => self.entry(kind, id)?,
            }
        }
        Ok(())
    }

    /// The next entry of a tree; its name is at the end of `path` then.
    fn next(
        &mut self,
        level: &mut Level,
        hash: Kind,
    ) -> Result<Option<(EntryKind, ObjectId)>, RestoreError> {
        let rest = &level.data[level.at..];
        let mut entries = TreeRefIter::from_bytes(rest, hash);
        let entry = match entries.next() {
            None => return Ok(None),
            Some(Ok(entry)) => entry,
            Some(Err(e)) => return Err(self.refused(format!("its tree: {e}"))),
        };
        let name: &BStr = entry.filename;
        self.path.extend_from_slice(name);
        let (kind, id) = (entry.mode.kind(), entry.oid.to_owned());
        path::component(name, kind == EntryKind::Link)
            .map_err(|e| self.refused(format!("in its commit: {e}")))?;
        level.at += entries.offset_to_next_entry(rest);
        match self.path.len() > PATH_BYTES_MAX {
            true => Err(self.refused("its path is too long")),
            false => Ok(Some((kind, id))),
        }
    }

    /// A directory begins; `path` is its own, without the slash, and its name the end of it.
    fn enter(&mut self, id: ObjectId, name_at: usize) -> Result<(), RestoreError> {
        if self.open.len() >= TREE_DEPTH_MAX {
            return Err(self.refused("it is nested too deep"));
        }
        self.follower.found(&self.made.bytes, false)?;
        let mut data = self.spare.pop().unwrap_or_default();
        self.objects.read(id, gix::objs::Kind::Tree, &mut data)?;
        if !is_in_order(&data, id.kind()) {
            let why = "in its commit its names are not in git's order, or not unique";
            return Err(self.refused(why));
        }
        let open: usize = self.open.iter().map(|level| level.data.len()).sum();
        if open + data.len() > RESTORED_TREE_BYTES_MAX {
            return Err(self.refused("the trees that lead to it are too large together"));
        }
        if !self.open.is_empty() {
            self.directory(self.directories.count() as u64)?;
        }
        self.names_bytes += self.path.len() - name_at;
        self.expect_held()?;
        self.directories.enter(&self.path[name_at..], &id);
        if !self.open.is_empty() {
            self.path.push(b'/');
        }
        self.follower.tree(&self.path, &data);
        self.open.push(Level {
            data,
            at: 0,
            path_len: self.path.len(),
        });
        Ok(())
    }

    /// The directory that began last and has not ended yet ends.
    fn leave(&mut self) {
        self.directories.leave();
        if !self.open.is_empty() {
            self.made.directories += 1;
        }
    }

    /// There are so many directories.
    fn directory(&self, count: u64) -> Result<(), RestoreError> {
        match self.bound {
            Bound::Unpacked(unpacked) if count > unpacked.directories + EMPTY_TREES_MAX => {
                Err(self.refused("it is in the commit, but not in the archive"))
            }
            Bound::Unpacked(_) => Ok(()),
            Bound::Quota(..) if count > TREE_DIRECTORIES_MAX => {
                Err(self.refused("its commit has too many directories"))
            }
            Bound::Quota(quota, (entries, _)) => {
                quota.expect_entries(entries.saturating_add(count))
            }
        }
    }

    /// There is one file more.
    fn file(&self) -> Result<(), RestoreError> {
        let files = self.made.files;
        match self.bound {
            Bound::Unpacked(unpacked) if files > unpacked.files => {
                Err(self.refused("it is in the commit, but not in the archive"))
            }
            Bound::Unpacked(_) => Ok(()),
            Bound::Quota(quota, (entries, bytes)) => {
                quota.expect_entries(entries.saturating_add(files))?;
                let blocks = files.saturating_mul(DISK_BLOCK_BYTES);
                quota.expect(bytes.saturating_add(blocks))
            }
        }
    }

    /// What is held of names and entries, of whatever kind, is bounded; what was unpacked bounds it by itself.
    fn expect_held(&self) -> Result<(), RestoreError> {
        let held_bytes = (self.made.bytes.len() + self.names_bytes) as u64;
        match self.bound {
            Bound::Quota(..) if held_bytes > TRACKED_INDEX_BYTES_MAX => {
                Err(self.refused("its commit has too many files"))
            }
            _ => Ok(()),
        }
    }

    /// A file, link or submodule, at `path`.
    fn entry(&mut self, kind: EntryKind, id: ObjectId) -> Result<(), RestoreError> {
        self.expect_held()?;
        match kind {
            EntryKind::Commit | EntryKind::Tree => {
                self.made.directories += 1;
                self.directory(self.made.directories)?;
            }
            _ => {
                self.made.files += 1;
                self.file()?;
            }
        }
        self.directories.entry();
        self.entries += 1;
        // The stat data is put in when the files have been looked at.
        push_entry(
            &mut self.made.bytes,
            [0; STAT_FIELDS],
            mode(kind),
            &id,
            &self.path,
        );
        Ok(())
    }
}

/// Whether the names of a tree are in git's order, each once: then the paths of an index are, and
/// none of its directories is there twice or as a file, too. Git ends on such an index.
fn is_in_order(tree: &[u8], hash: Kind) -> bool {
    let mut order = Order::default();
    // What is no entry is seen when that is its turn.
    TreeRefIter::from_bytes(tree, hash)
        .map_while(Result::ok)
        .all(|entry| order.accept(entry.filename, entry.mode.kind() == EntryKind::Tree))
}

#[cfg(test)]
mod tests {
    use super::super::testing::Repository;
    use super::*;

    const FILE: &str = "100644";
    const TREE: &str = "40000";

    /// A tree of these entries: mode, name, object.
    fn tree_of(repository: &Repository, entries: &[(&str, &[u8], ObjectId)]) -> ObjectId {
        let entry = |(mode, name, id): &(&str, &[u8], ObjectId)| {
            ([mode.as_bytes(), b" ", name].concat(), *id)
        };
        let entries: Vec<(Vec<u8>, ObjectId)> = entries.iter().map(entry).collect();
        repository.tree(&entries)
    }

    fn made(
        repository: &Repository,
        commit: ObjectId,
        files: u64,
        directories: u64,
    ) -> Option<Vec<u8>> {
        let unpacked = Unpacked { files, directories };
        let made = index(repository.path(), commit, unpacked, &Stop::default());
        made.map_err(|e| assert_eq!(e.exit_code(), 5, "{e}")).ok()
    }

    fn is_refused(repository: &Repository, entries: &[(&str, &[u8], ObjectId)]) -> bool {
        let commit = repository.commit(tree_of(repository, entries));
        let trees = entries.iter().filter(|(mode, ..)| *mode == TREE).count();
        let files = entries.len() - trees;
        // Each of these trees has one file.
        made(repository, commit, (files + trees) as u64, trees as u64).is_none()
    }

    #[test]
    fn an_index_is_what_git_makes_of_the_same_trees() {
        let repository = Repository::new();
        let blob = repository.object("blob", b"x");
        let inner = tree_of(&repository, &[(FILE, b"x", blob), ("120000", b"y", blob)]);
        let root = tree_of(
            &repository,
            &[
                (FILE, b"a", blob),
                (FILE, b"a.b", blob),
                (TREE, b"a0", inner),
                ("100755", b"b", blob),
                ("160000", b"module", blob),
            ],
        );
        let commit = repository.commit(root);
        let mut bytes = made(&repository, commit, 5, 2).unwrap();
        let end = bytes.len() - 20;
        let sum = {
            let mut hasher = gix::hash::hasher(Kind::Sha1);
            hasher.update(&bytes[..end]);
            hasher.try_finalize().unwrap()
        };
        bytes[end..].copy_from_slice(sum.as_bytes());
        let path = repository.path().join(".git/index");
        std::fs::write(&path, bytes).unwrap();
        let listed = repository.git(&["ls-files", "-s"], b"");
        let written = repository.git(&["write-tree"], b"");
        assert_eq!(written.trim_ascii(), root.to_string().as_bytes());
        repository.git(&["read-tree", &root.to_string()], b"");
        assert_eq!(repository.git(&["ls-files", "-s"], b""), listed);
        // As many as were unpacked, and no others.
        for (files, directories) in [(4, 2), (6, 2), (5, 3)] {
            assert!(made(&repository, commit, files, directories).is_none());
        }
    }

    #[test]
    fn names_that_lead_out_and_trees_that_are_none_are_refused() {
        let repository = Repository::new();
        let blob = repository.object("blob", b"x");
        let inner = tree_of(&repository, &[(FILE, b"x", blob)]);
        assert!(!is_refused(
            &repository,
            &[(FILE, b"a", blob), (TREE, b"b", inner)]
        ));
        for name in [
            &b".git"[..],
            b".GIT",
            b"..",
            b".",
            b"",
            b"a/b",
            b"git~1",
            b".g\xe2\x80\x8cit",
        ] {
            assert!(
                is_refused(&repository, &[(FILE, name, blob)]),
                "{}",
                name.escape_ascii()
            );
            assert!(
                is_refused(&repository, &[(TREE, name, inner)]),
                "{}",
                name.escape_ascii()
            );
        }
        assert!(is_refused(&repository, &[("120000", b".gitmodules", blob)]));
        assert!(is_refused(
            &repository,
            &[(FILE, b"b", blob), (FILE, b"a", blob)]
        ));
        assert!(is_refused(
            &repository,
            &[(FILE, b"a", blob), (FILE, b"a", blob)]
        ));
        assert!(is_refused(
            &repository,
            &[(TREE, b"a", inner), (TREE, b"a", inner)]
        ));
        assert!(is_refused(&repository, &[(TREE, b"a", blob)]));
        // Empty ones are no paths of an index, but directories of its extension.
        let empty = tree_of(&repository, &[]);
        let is_taken = |entries: &[(&str, &[u8], ObjectId)]| {
            let files = entries.iter().filter(|(mode, ..)| *mode == FILE).count();
            let commit = repository.commit(tree_of(&repository, entries));
            made(&repository, commit, files as u64, 0).is_some()
        };
        assert!(is_taken(&[(TREE, b"a", empty), (TREE, b"b", empty)]));
        assert!(!is_taken(&[(TREE, b"a", empty), (TREE, b"a", empty)]));
        assert!(!is_taken(&[(TREE, b"b", empty), (TREE, b"a", empty)]));
        let of_one_name: [(&str, &[u8], ObjectId); 3] = [
            (FILE, b"a", blob),
            (FILE, b"a.b", blob),
            (TREE, b"a", empty),
        ];
        assert!(is_taken(&of_one_name[..2]) && !is_taken(&of_one_name));
        let tree = repository.object("tree", b"garbage");
        assert!(made(&repository, repository.commit(tree), 0, 0).is_none());
        assert!(made(&repository, blob, 0, 0).is_none());
        assert!(made(&repository, tree, 0, 0).is_none());
        let none = ObjectId::from_hex(&[b'1'; 40]).unwrap();
        assert!(made(&repository, none, 0, 0).is_none());
    }

    /// Twenty trees make a worktree of a million files, or of a million empty directories.
    #[test]
    fn trees_that_hold_each_other_many_times_end_with_what_was_unpacked() {
        let repository = Repository::new();
        let blob = repository.object("blob", b"x");
        for lowest in [
            tree_of(&repository, &[(FILE, b"x", blob)]),
            tree_of(&repository, &[]),
        ] {
            let mut tree = lowest;
            for _ in 0..20 {
                tree = tree_of(&repository, &[(TREE, b"a", tree), (TREE, b"b", tree)]);
            }
            assert!(made(&repository, repository.commit(tree), 10, 10).is_none());
        }
    }

    /// An `.idx` can say that an id is at another object's place; so can a loose object's name.
    #[test]
    fn a_tree_under_the_name_of_another_is_refused() {
        let repository = Repository::new();
        let blob = repository.object("blob", b"x");
        let real = tree_of(&repository, &[(FILE, b"x", blob)]);
        let other = tree_of(&repository, &[(FILE, b"y", blob)]);
        let commit = repository.commit(real);
        assert!(made(&repository, commit, 1, 0).is_some());
        std::fs::rename(repository.loose(other), repository.loose(real)).unwrap();
        assert!(made(&repository, commit, 1, 0).is_none());
    }
}
