//! A walk over the tree of a commit, in the order of git's index, that holds one path in memory, and
//! goes past the directories that it is told to.
//!
//! Git sorts the entries of a tree as if directories ended in `/`, so a depth-first walk meets
//! files in the byte order of their full paths, which is the order of the index.

use super::order::Order;
use crate::io::shortage::Detail;
use crate::limits::{
    LARGE_DIRECTORIES_MAX, NAME_BYTES_MAX, PATH_BYTES_MAX, TREE_DEPTH_MAX, TREE_DIRECTORIES_MAX,
    TREE_ENTRIES_MAX,
};
use gix::bstr::{BStr, BString, ByteSlice, ByteVec};
use gix::objs::tree::EntryKind;
use gix::objs::{Find, TreeRefIter};
use gix::validate::path::component;
use gix::{ObjectId, oid};
use sha2::{Digest, Sha256};

/// The name of the files that say which conversions apply to the files below them.
pub(crate) const ATTRIBUTES_FILE: &[u8] = b".gitattributes";

/// What went wrong in a walk.
#[derive(Debug, thiserror::Error)]
pub enum WalkError {
    #[error("tree {id} of directory '{path}' cannot be read: {detail}")]
    Tree {
        id: ObjectId,
        path: BString,
        #[source]
        detail: Detail,
    },
    #[error(
        "entry '{path}' has a name that git refuses to check out, here or on other systems: {detail}; \
         fix it in the repository"
    )]
    Name { path: BString, detail: String },
    #[error("tree {id} of directory '{path}' is not sorted or holds a name twice; run git fsck")]
    Order { id: ObjectId, path: BString },
    #[error("directory '{path}' is nested deeper than {TREE_DEPTH_MAX} levels")]
    Depth { path: BString },
    #[error(
        "HEAD's tree has more than {TREE_DIRECTORIES_MAX} directories or {TREE_ENTRIES_MAX} files"
    )]
    TooMany,
    #[error(
        "HEAD's tree has more than {LARGE_DIRECTORIES_MAX} directories with many files in them, or such \
         with too long paths"
    )]
    TooManyLarge,
}

/// What the walk meets.
#[derive(Debug)]
pub(crate) enum Step<'a> {
    /// A directory begins; its entries follow, if the walk is to go in.
    Enter {
        path: &'a BStr,
        id: ObjectId,
        /// The attribute files that apply to it as a whole, its own not among them.
        inherited: Chain,
    },
    /// A file, symlink or submodule.
    Entry(Entry<'a>),
    /// The directory that began last and has not ended yet ends.
    Leave,
}

/// A file, symlink or submodule of the worktree.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry<'a> {
    /// Path from the root of the worktree, `/`-separated.
    pub path: &'a BStr,
    /// What it is; never a tree.
    pub kind: EntryKind,
    /// The blob, or the submodule's commit.
    pub id: ObjectId,
}

/// Where a walk begins.
#[derive(Debug, Clone)]
pub(crate) struct Start {
    /// Path of the directory; empty for the root.
    pub path: BString,
    /// Its tree.
    pub id: ObjectId,
    /// As in [`Step::Enter`].
    pub inherited: Chain,
}

impl Start {
    /// At the root of a worktree.
    pub(crate) fn root(tree: &oid) -> Start {
        Start {
            path: BString::default(),
            id: tree.to_owned(),
            inherited: NO_ATTRIBUTES,
        }
    }
}

/// Where a walk goes on after a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Go {
    /// Into the directory that begins; to the next entry otherwise.
    On,
    /// Past the directory that begins: no step of what is in it, and not its end either.
    Past,
}

/// Directory and id of every `.gitattributes` from the root down to a directory, as a digest of
/// full length: the same rule means something else in another directory, so where each file lies
/// is a part of it. All zeros where there is none.
pub(crate) type Chain = [u8; 32];

/// The chain where there are no attribute files.
pub(crate) const NO_ATTRIBUTES: Chain = [0; 32];

struct Level {
    data: Vec<u8>,
    id: ObjectId,
    at: usize,
    path_len: usize,
    attributes: Chain,
    order: Order,
}

/// Counts what a walk meets: a few trees that hold each other many times make a worktree without
/// end.
#[derive(Default)]
struct Met {
    directories: u64,
    entries: u64,
}

impl Met {
    fn one(&mut self, is_tree: bool) -> Result<(), WalkError> {
        match is_tree {
            true => self.directories += 1,
            false => self.entries += 1,
        }
        match self.directories > TREE_DIRECTORIES_MAX || self.entries > TREE_ENTRIES_MAX {
            true => Err(WalkError::TooMany),
            false => Ok(()),
        }
    }
}

/// Walks the tree of `start`, calling `each` for every step. Memory: one path and its trees.
///
/// The error of `each` ends the walk and is returned as it is.
pub(crate) fn walk<E: From<WalkError>>(
    objects: &dyn Find,
    hash: gix::hash::Kind,
    start: &Start,
    mut each: impl FnMut(Step<'_>) -> Result<Go, E>,
) -> Result<(), E> {
    let mut path = start.path.clone();
    let mut spare: Vec<Vec<u8>> = Vec::new();
    let mut met = Met::default();
    let went = each(Step::Enter {
        path: path.as_bstr(),
        id: start.id,
        inherited: start.inherited,
    })?;
    if went == Go::Past {
        return Ok(());
    }
    let mut above = 0;
    if !path.is_empty() {
        above = 1 + path.iter().filter(|b| **b == b'/').count();
        path.push(b'/');
    }
    let first = open_level(objects, hash, &start.id, &path, start.inherited, Vec::new())?;
    let mut levels = vec![first];
    loop {
        let depth = above + levels.len();
        let Some(level) = levels.last_mut() else {
            return Ok(());
        };
        path.truncate(level.path_len);
        let Some((kind, id, is_tree)) = next_entry(level, hash, &mut path)? else {
            if let Some(done) = levels.pop() {
                spare.push(done.data);
            }
            each(Step::Leave)?;
            continue;
        };
        met.one(is_tree)?;
        if !is_tree {
            let path = path.as_bstr();
            each(Step::Entry(Entry { path, kind, id }))?;
            continue;
        }
        if depth >= TREE_DEPTH_MAX {
            return Err(WalkError::Depth { path }.into());
        }
        let inherited = level.attributes;
        let went = each(Step::Enter {
            path: path.as_bstr(),
            id,
            inherited,
        })?;
        if went == Go::Past {
            continue;
        }
        path.push(b'/');
        let buffer = spare.pop().unwrap_or_default();
        levels.push(open_level(objects, hash, &id, &path, inherited, buffer)?);
    }
}

fn open_level(
    objects: &dyn Find,
    hash: gix::hash::Kind,
    id: &oid,
    path: &BString,
    inherited: Chain,
    mut data: Vec<u8>,
) -> Result<Level, WalkError> {
    let error = |detail: Detail| WalkError::Tree {
        id: id.to_owned(),
        path: path.clone(),
        detail,
    };
    if id == ObjectId::empty_tree(hash) {
        data.clear();
    } else {
        let found = objects
            .try_find(id, &mut data)
            .map_err(|e| error(Detail::of(&e)))?
            .ok_or_else(|| error("it is missing; run git fsck on the mirror".into()))?;
        if found.kind != gix::objs::Kind::Tree {
            return Err(error(format!("it is a {}", found.kind).into()));
        }
    }
    let attributes = attributes_below(&data, hash, path.as_bstr(), inherited);
    let attributes = attributes.map_err(|e| error(e.into()))?;
    Ok(Level {
        data,
        id: id.to_owned(),
        at: 0,
        path_len: path.len(),
        attributes,
        order: Order::default(),
    })
}

/// The attributes in force inside the directory at `path`: those of its parent, and its own
/// `.gitattributes` if it has one.
fn attributes_below(
    data: &[u8],
    hash: gix::hash::Kind,
    path: &BStr,
    inherited: Chain,
) -> Result<Chain, String> {
    for entry in TreeRefIter::from_bytes(data, hash) {
        let entry = entry.map_err(|e| e.to_string())?;
        // Behind it in the order of a tree; one in another order is refused when it is walked.
        if entry.filename > ATTRIBUTES_FILE {
            break;
        }
        if entry.filename == ATTRIBUTES_FILE && entry.mode.is_blob_or_symlink() {
            let digest = Sha256::new()
                .chain_update(inherited)
                .chain_update((path.len() as u64).to_le_bytes())
                .chain_update(path)
                .chain_update(entry.oid.as_bytes())
                .finalize();
            return Ok(digest.into());
        }
    }
    Ok(inherited)
}

/// Decodes the next entry of `level`, appends its name to `path` and checks name and order.
fn next_entry(
    level: &mut Level,
    hash: gix::hash::Kind,
    path: &mut BString,
) -> Result<Option<(EntryKind, ObjectId, bool)>, WalkError> {
    let rest = &level.data[level.at..];
    let mut iter = TreeRefIter::from_bytes(rest, hash);
    let entry = match iter.next() {
        None => return Ok(None),
        Some(Ok(entry)) => entry,
        Some(Err(e)) => {
            return Err(WalkError::Tree {
                id: level.id,
                path: path.clone(),
                detail: e.to_string().into(),
            });
        }
    };
    let kind = entry.mode.kind();
    let is_tree = kind == EntryKind::Tree;
    check_length(entry.filename, path)?;
    path.push_str(entry.filename);
    check_name(entry.filename, kind, path)?;
    if !level.order.accept(entry.filename, is_tree) {
        return Err(WalkError::Order {
            id: level.id,
            path: path.clone(),
        });
    }
    let id = entry.oid.to_owned();
    level.at += iter.offset_to_next_entry(rest);
    Ok(Some((kind, id, is_tree)))
}

/// Refuses a name that no file system takes; `path` is that of its directory.
fn check_length(name: &BStr, path: &BString) -> Result<(), WalkError> {
    let path_bytes = path.len() + name.len();
    if name.len() <= NAME_BYTES_MAX && path_bytes <= PATH_BYTES_MAX {
        return Ok(());
    }
    // Not all of it: it can be as long as the tree.
    let mut shown = path.clone();
    shown.push_str(&name[..name.len().min(NAME_BYTES_MAX)]);
    Err(WalkError::Name {
        path: shown,
        detail: format!(
            "with {} bytes, {path_bytes} in its whole path, it is too long",
            name.len()
        ),
    })
}

/// Refuses what git refuses to check out: `.git` in any spelling, `..`, and the like.
fn check_name(name: &BStr, kind: EntryKind, path: &BString) -> Result<(), WalkError> {
    let options = component::Options {
        protect_windows: false,
        protect_hfs: true,
        protect_ntfs: true,
    };
    let mode = (kind == EntryKind::Link).then_some(component::Mode::Symlink);
    let bad = |detail: String| WalkError::Name {
        path: path.clone(),
        detail,
    };
    if name.contains(&0) {
        return Err(bad("it holds a NUL byte".into()));
    }
    gix::validate::path::component(name, mode, options).map_err(|e| bad(e.to_string()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepts(names: &[&str]) -> bool {
        let mut order = Order::default();
        names.iter().all(|name| {
            let tree = name.strip_suffix('/');
            order.accept(tree.unwrap_or(name).into(), tree.is_some())
        })
    }

    /// Trees by their id, whose first byte is their number.
    struct Forest(Vec<Vec<u8>>);

    impl Find for Forest {
        fn try_find<'b>(
            &self,
            id: &oid,
            buffer: &'b mut Vec<u8>,
        ) -> gix::error::Result<Option<gix::objs::Data<'b>>> {
            let tree = &self.0[usize::from(id.as_bytes()[0])];
            buffer.clone_from(tree);
            Ok(Some(gix::objs::Data {
                kind: gix::objs::Kind::Tree,
                object_hash: gix::hash::Kind::Sha1,
                data: buffer,
            }))
        }
    }

    impl Forest {
        /// Adds a tree; `entries` are mode, name, and number of a tree.
        fn add(&mut self, entries: &[(&str, &str, u8)]) -> u8 {
            let mut tree = Vec::new();
            for (mode, name, number) in entries {
                tree.extend_from_slice(format!("{mode} {name}\0").as_bytes());
                tree.extend_from_slice(&[*number; 20]);
            }
            self.0.push(tree);
            (self.0.len() - 1) as u8
        }

        fn walk(&self, root: u8) -> Result<u64, WalkError> {
            let mut steps = 0;
            let id = ObjectId::from_bytes_or_panic(&[root; 20]);
            walk(self, gix::hash::Kind::Sha1, &Start::root(&id), |_| {
                steps += 1;
                Ok::<_, WalkError>(Go::On)
            })?;
            Ok(steps)
        }
    }

    #[test]
    fn few_trees_that_make_a_worktree_without_end_are_refused() {
        let mut forest = Forest(Vec::new());
        let mut below = forest.add(&[("100644", "file", 9)]);
        let names = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];
        for _ in 0..3 {
            let entries = names.map(|name| ("40000", name, below));
            below = forest.add(&entries);
        }
        // Two steps for each of 1,111 directories, and a thousand files.
        assert_eq!(forest.walk(below).unwrap(), 3222);
        for _ in 3..12 {
            let entries = names.map(|name| ("40000", name, below));
            below = forest.add(&entries);
        }
        assert!(matches!(forest.walk(below), Err(WalkError::TooMany)));
    }

    #[test]
    fn names_that_no_file_system_takes_are_refused() {
        let mut forest = Forest(Vec::new());
        let longest = "n".repeat(NAME_BYTES_MAX);
        let mut below = forest.add(&[("100644", &longest, 0)]);
        let depth = (PATH_BYTES_MAX + 1) / (NAME_BYTES_MAX + 1);
        for _ in 1..depth {
            below = forest.add(&[("40000", &longest, below)]);
        }
        forest.walk(below).unwrap();
        let deeper = forest.add(&[("40000", &longest, below)]);
        let longer = forest.add(&[("100644", &"n".repeat(NAME_BYTES_MAX + 1), 0)]);
        let huge = forest.add(&[("100644", &"n".repeat(1 << 20), 0)]);
        for tree in [deeper, longer, huge] {
            let refused = forest.walk(tree).unwrap_err();
            assert!(matches!(refused, WalkError::Name { .. }), "{refused}");
            assert!(refused.to_string().len() < 2 * PATH_BYTES_MAX);
        }
    }

    #[test]
    fn a_name_comes_once_whatever_stands_between() {
        assert!(accepts(&["a", "a-b", "a.b.c", "a.b/", "a0/", "b/"]));
        assert!(accepts(&[
            "foo",
            "foo.bar",
            "foo.bar.baz",
            "foo.baz/",
            "foo0"
        ]));
        assert!(accepts(&["a/", "a0", "b", "b-/", "b-c/"]));
        assert!(!accepts(&["b", "a"]));
        assert!(!accepts(&["a", "a"]));
        assert!(!accepts(&["a", "a/"]));
        assert!(!accepts(&["a/", "a/"]));
        assert!(!accepts(&["foo", "foo-x/", "foo.bar", "foo/"]));
        assert!(!accepts(&[
            "foo",
            "foo.bar",
            "foo.bar.baz",
            "foo.bar/",
            "foo/"
        ]));
        assert!(!accepts(&[
            "foo",
            "foo.bar",
            "foo.bar.baz",
            "foo.baz",
            "foo/"
        ]));
    }
}
