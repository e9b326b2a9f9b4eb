//! What lies between an index and a commit's tree: walked is only where the two are not known to be the same.

use std::collections::HashMap;
use std::ops::Range;

use gix::ObjectId;
use gix::objs::TreeRefIter;
use gix::objs::tree::EntryKind;

use super::entries::Entries;
use crate::limits::{
    PATH_BYTES_MAX, RESTORED_TREE_BYTES_MAX, TREE_DEPTH_MAX, TREE_DIRECTORIES_MAX, TREE_ENTRIES_MAX,
};
use crate::restore::error::RestoreError;
use crate::restore::objects::Objects;
use crate::restore::path;
use crate::restore::stop::Stop;
use crate::restore::write::stopped;
use crate::tree::index::{SUBMODULE, mode};
use crate::tree::order::Order;

/// A path that is another thing in the tree than in the index.
#[derive(Debug, Clone, Copy)]
pub(in crate::restore) struct Change {
    /// The number of its entry in the index, or of the one before which it would come.
    pub at: usize,
    pub is_there: bool,
    /// What it is in the tree: mode and object.
    pub new: Option<(u32, ObjectId)>,
    path: (usize, usize),
}

/// All of them, in the order of their paths.
#[derive(Debug, Default)]
pub(in crate::restore) struct Changes {
    list: Vec<Change>,
    paths: Vec<u8>,
    /// What the `TREE` extension says of the tree.
    pub lines: Vec<u8>,
    /// Whether all of the tree was read: nothing was taken over as the index has it.
    pub is_whole: bool,
}

impl Changes {
    /// Compares `old` with a tree; without one there are no files.
    pub(super) fn between(
        old: &Entries,
        tree: Option<ObjectId>,
        objects: &Objects<'_>,
        stop: &Stop,
    ) -> Result<Changes, RestoreError> {
        let mut walk = Walk {
            old,
            objects,
            stop,
            path: Vec::new(),
            held_bytes: 0,
            entries: 0,
            directories: Vec::new(),
            changes: Changes::default(),
        };
        match tree {
            Some(tree) => {
                walk.directory(tree, 0..old.len(), Some(0), 0)?;
                walk.changes.lines = walk.lines();
            }
            None => walk.gone(0..old.len()),
        }
        let is_read = |line: &Line| matches!(line, Line::Own { .. });
        walk.changes.is_whole = walk.directories.iter().all(is_read);
        Ok(walk.changes)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Change> {
        self.list.iter()
    }

    /// What they take of memory.
    pub(super) fn bytes(&self) -> usize {
        size_of_val(self.list.as_slice()) + self.paths.len() + self.lines.len()
    }

    pub(super) fn path(&self, change: &Change) -> &[u8] {
        &self.paths[change.path.0..change.path.1]
    }

    /// What becomes of a path, if it changes.
    pub(super) fn find(&self, path: &[u8]) -> Option<&Change> {
        let found = self.list.binary_search_by(|one| self.path(one).cmp(path));
        Some(&self.list[found.ok()?])
    }

    fn push(&mut self, path: &[u8], at: usize, is_there: bool, new: Option<(u32, ObjectId)>) {
        let begin = self.paths.len();
        self.paths.extend_from_slice(path);
        self.list.push(Change {
            at,
            is_there,
            new,
            path: (begin, self.paths.len()),
        });
    }
}

/// What the extension says of a directory, before that of those inside of it.
enum Line {
    Own {
        name: Vec<u8>,
        id: ObjectId,
        entries: usize,
        children: usize,
    },
    /// Taken over, with all inside of it.
    Kept(Range<usize>),
}

struct Walk<'w> {
    old: &'w Entries,
    objects: &'w Objects<'w>,
    stop: &'w Stop,
    path: Vec<u8>,
    /// Of the trees that the walk is inside of.
    held_bytes: usize,
    entries: u64,
    directories: Vec<Line>,
    changes: Changes,
}

impl Walk<'_> {
    fn refused(&self, why: impl Into<String>) -> RestoreError {
        RestoreError::entry(&self.path, why)
    }

    /// Compares the entries of these numbers with a directory; `path` is its own, with a slash unless it is the
    /// root. Of the old one the extension says what `node` says. Gives how many entries it has.
    fn directory(
        &mut self,
        id: ObjectId,
        range: Range<usize>,
        node: Option<usize>,
        name_at: usize,
    ) -> Result<usize, RestoreError> {
        if self.stop.is_set() {
            return Err(stopped());
        }
        let trees = &self.old.trees;
        let known = node.and_then(|number| trees.node(number));
        if let Some(known) = known
            && known.believed() == Some((id, range.len()))
        {
            self.directories.push(Line::Kept(known.lines.clone()));
            return Ok(range.len());
        }
        let depth = self.path.iter().filter(|b| **b == b'/').count();
        if depth >= TREE_DEPTH_MAX || self.directories.len() as u64 > TREE_DIRECTORIES_MAX {
            return Err(
                self.refused("it is nested too deep, or there is no end to its directories")
            );
        }
        let mut data = Vec::new();
        self.objects.read(id, gix::objs::Kind::Tree, &mut data)?;
        self.held_bytes += data.len();
        if self.held_bytes > RESTORED_TREE_BYTES_MAX {
            return Err(self.refused("the trees that lead to it are too large together"));
        }
        let inside: HashMap<&[u8], usize> = match (known, node) {
            (Some(known), Some(number)) if known.children > 0 => {
                trees.children(number, &self.old.bytes).collect()
            }
            _ => HashMap::new(),
        };
        let number = self.directories.len();
        self.directories.push(Line::Own {
            name: self.path[name_at..]
                .strip_suffix(b"/")
                .unwrap_or_default()
                .to_vec(),
            id,
            entries: 0,
            children: 0,
        });
        let (entries, children) = self.compare(&data, range, &inside)?;
        self.held_bytes -= data.len();
        if let Line::Own {
            entries: e,
            children: c,
            ..
        } = &mut self.directories[number]
        {
            (*e, *c) = (entries, children);
        }
        Ok(entries)
    }

    /// Goes through a tree and the entries of these numbers side by side; how many entries it has, and directories.
    fn compare(
        &mut self,
        data: &[u8],
        range: Range<usize>,
        inside: &HashMap<&[u8], usize>,
    ) -> Result<(usize, usize), RestoreError> {
        let (mut at, mut order) = (range.start, Order::default());
        let (mut entries, mut children) = (0, 0);
        let base = self.path.len();
        for entry in TreeRefIter::from_bytes(data, self.old.hash) {
            let entry = entry.map_err(|e| self.refused(format!("its tree: {e}")))?;
            let (kind, id) = (entry.mode.kind(), entry.oid.to_owned());
            self.path.truncate(base);
            self.path.extend_from_slice(entry.filename);
            self.check(entry.filename, kind, &mut order)?;
            if kind == EntryKind::Tree {
                self.path.push(b'/');
            }
            let before = self.before(at..range.end);
            self.gone(at..before);
            at = before;
            if kind == EntryKind::Tree {
                let end = self.old.end_of(&self.path, at, range.end);
                let node = inside.get(&**entry.filename).copied();
                entries += self.directory(id, at..end, node, base)?;
                children += 1;
                at = end;
                continue;
            }
            entries += 1;
            let new = (mode(kind), id);
            let is_there = at < range.end && self.old.get(at).path() == self.path;
            let is_same = is_there && {
                let old = self.old.get(at);
                (old.mode(), old.id()) == new
            };
            if !is_same {
                self.changes.push(&self.path, at, is_there, Some(new));
            }
            at += usize::from(is_there);
        }
        self.path.truncate(base);
        self.gone(at..range.end);
        Ok((entries, children))
    }

    /// The first of these numbers whose entry does not come before the path that the walk is at.
    fn before(&self, range: Range<usize>) -> usize {
        let mut at = range.start;
        while at < range.end && self.old.get(at).path() < &self.path[..] {
            at += 1;
        }
        at
    }

    /// The entries of these numbers are not in the tree.
    fn gone(&mut self, range: Range<usize>) {
        for at in range {
            let old = self.old;
            self.changes.push(old.get(at).path(), at, true, None);
        }
    }

    /// A name is one that git would make a file of, and comes in its order.
    fn check(
        &mut self,
        name: &gix::bstr::BStr,
        kind: EntryKind,
        order: &mut Order,
    ) -> Result<(), RestoreError> {
        path::component(name, kind == EntryKind::Link)
            .map_err(|e| self.refused(format!("in its commit: {e}")))?;
        if self.path.len() > PATH_BYTES_MAX {
            return Err(self.refused("its path is too long"));
        }
        if !order.accept(name, kind == EntryKind::Tree) {
            return Err(
                self.refused("in its commit its names are not in git's order, or not unique")
            );
        }
        self.entries += 1;
        match self.entries > TREE_ENTRIES_MAX {
            true => Err(self.refused("there is no end to its files")),
            false => Ok(()),
        }
    }

    /// The extension's content.
    fn lines(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for line in &self.directories {
            match line {
                Line::Kept(range) => out.extend_from_slice(&self.old.bytes[range.clone()]),
                Line::Own {
                    name,
                    id,
                    entries,
                    children,
                } => {
                    out.extend_from_slice(name);
                    out.extend_from_slice(format!("\0{entries} {children}\n").as_bytes());
                    out.extend_from_slice(id.as_bytes());
                }
            }
        }
        out
    }
}

/// Paths and commits of all submodules of an index, once it has `changes` if there are any.
pub(super) fn links(entries: &Entries, changes: Option<&Changes>) -> Vec<(Vec<u8>, String)> {
    let mut links = Vec::new();
    for number in 0..entries.len() {
        let entry = entries.get(number);
        let stays = changes.is_none_or(|changes| changes.find(entry.path()).is_none());
        if entry.is_submodule() && stays {
            links.push((entry.path().to_vec(), entry.id().to_string()));
        }
    }
    if let Some(changes) = changes {
        for change in changes.iter() {
            if let Some((SUBMODULE, id)) = change.new {
                links.push((changes.path(change).to_vec(), id.to_string()));
            }
        }
    }
    links.sort_unstable();
    links
}
