//! Which directories of an index are what its `TREE` extension says of them: anybody may have written that. All
//! entries are gone through once, however often the index is compared with a commit then.

use gix::ObjectId;
use gix::bstr::ByteSlice;
use gix::objs::tree::EntryKind;

use super::cache_tree::CacheTree;
use super::entries::{Entries, Entry};
use crate::restore::error::RestoreError;
use crate::restore::path;
use crate::restore::stop::Stop;
use crate::restore::write::stopped;
use crate::tree::index::mode;
use crate::tree::order::Order;

/// What an entry of an index can be, with its mode as trees have it.
const KINDS: [(EntryKind, &[u8]); 4] = [
    (EntryKind::Blob, b"100644 "),
    (EntryKind::BlobExecutable, b"100755 "),
    (EntryKind::Link, b"120000 "),
    (EntryKind::Commit, b"160000 "),
];
const TREE_MODE: &[u8] = b"40000 ";

/// What of an index's extension is to be believed: a directory, if it is what its entries make and the extension has
/// just the directories inside of it, which are to be believed as well.
pub(super) fn believed(
    entries: &Entries,
    said: CacheTree,
    stop: &Stop,
) -> Result<CacheTree, RestoreError> {
    if said.node(0).is_none() {
        return Ok(said);
    }
    let mut walk = Walk {
        entries,
        trees: said,
        open: Vec::new(),
    };
    // What no entry leads to is never met, and nothing of that is believed.
    walk.enter(&[], 0, 0);
    for at in 0..entries.len() {
        if stop.is_set() {
            return Err(stopped());
        }
        walk.take(at, entries.get(at));
    }
    while !walk.open.is_empty() {
        walk.leave(entries.len());
    }
    Ok(walk.trees)
}

/// A directory whose entries are gone through.
struct Open<'e> {
    /// Its path, which ends with a slash unless it is the root.
    path: &'e [u8],
    /// Its number in the extension.
    node: usize,
    /// What the extension has inside of it, by name.
    inside: Vec<(&'e [u8], usize)>,
    met: usize,
    /// The number of its first entry.
    first: usize,
    /// Its tree as far as it is made, unless it is known to be another, or one that git would not make files of.
    made: Option<Vec<u8>>,
    order: Order,
}

struct Walk<'e> {
    entries: &'e Entries,
    trees: CacheTree,
    /// Each inside of the one before it.
    open: Vec<Open<'e>>,
}

impl<'e> Walk<'e> {
    /// Goes on to an entry. Below a directory of which nothing is said nothing is to be found out.
    fn take(&mut self, at: usize, entry: Entry<'e>) {
        let path = entry.path();
        while let Some(open) = self.open.last()
            && !path.starts_with(open.path)
        {
            self.leave(at);
        }
        while let Some(open) = self.open.last_mut() {
            let base = open.path.len();
            let Some(len) = path[base..].find_byte(b'/') else {
                return open.push_entry(&path[base..], entry);
            };
            let Some(node) = open.meet(&path[base..base + len]) else {
                open.made = None;
                return;
            };
            self.enter(&path[..=base + len], node, at);
        }
    }

    fn enter(&mut self, path: &'e [u8], node: usize, first: usize) {
        let entries = self.entries;
        let mut inside = Vec::from_iter(self.trees.children(node, &entries.bytes));
        inside.sort_unstable();
        self.open.push(Open {
            path,
            node,
            inside,
            met: 0,
            first,
            made: Some(Vec::new()),
            order: Order::default(),
        });
    }

    /// The innermost directory ends before the entry `end`.
    fn leave(&mut self, end: usize) {
        let Some(done) = self.open.pop() else {
            return;
        };
        let said = self.trees.said(done.node);
        let is_all = done.met == done.inside.len();
        let id = match (&done.made, said) {
            (Some(made), Some((id, count))) if is_all && count == end - done.first => {
                tree_id(made, self.entries.hash).filter(|made| *made == id)
            }
            _ => None,
        };
        if id.is_some() {
            self.trees.believe(done.node);
        }
        if let Some(above) = self.open.last_mut() {
            let name = &done.path[above.path.len()..done.path.len() - 1];
            match id {
                Some(id) => above.push((EntryKind::Tree, TREE_MODE), name, id),
                None => above.made = None,
            }
        }
    }
}

impl Open<'_> {
    /// The number of the directory of this name inside of it, which is met once.
    fn meet(&mut self, name: &[u8]) -> Option<usize> {
        let found = self.inside.binary_search_by(|(one, _)| (*one).cmp(name));
        let (_, number) = self.inside[found.ok()?];
        self.met += 1;
        Some(number)
    }

    fn push_entry(&mut self, name: &[u8], entry: Entry<'_>) {
        let mut kinds = KINDS.into_iter();
        match kinds.find(|(kind, _)| mode(*kind) == entry.mode()) {
            Some(kind) => self.push(kind, name, entry.id()),
            // Git makes no tree of that.
            None => self.made = None,
        }
    }

    fn push(&mut self, (kind, mode): (EntryKind, &[u8]), name: &[u8], id: ObjectId) {
        let Some(made) = &mut self.made else {
            return;
        };
        // Of a tree that is not read nobody else asks that.
        let is_one = path::component(name, kind == EntryKind::Link).is_ok();
        if !is_one || !self.order.accept(name.as_bstr(), kind == EntryKind::Tree) {
            self.made = None;
            return;
        }
        made.extend_from_slice(mode);
        made.extend_from_slice(name);
        made.push(0);
        made.extend_from_slice(id.as_bytes());
    }
}

/// The id of a tree of this content; none if that is made to have another's sum, and so is another.
fn tree_id(made: &[u8], hash: gix::hash::Kind) -> Option<ObjectId> {
    let mut hasher = gix::hash::hasher(hash);
    let header = gix::objs::encode::loose_header(gix::objs::Kind::Tree, made.len() as u64);
    hasher.update(&header);
    hasher.update(made);
    hasher.try_finalize().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::index::{STAT_FIELDS, extension_header, push_entry, push_header};
    use crate::tree::sum::Sum;
    use gix::hash::Kind;

    const FILE: u32 = mode(EntryKind::Blob);

    fn blob() -> ObjectId {
        ObjectId::from_bytes_or_panic(&[7; 20])
    }

    fn tree(entries: &[(&[u8], &str, ObjectId)]) -> ObjectId {
        let mut made = Vec::new();
        for (mode, name, id) in entries {
            made.extend_from_slice(&[mode, name.as_bytes(), b"\0", id.as_bytes()].concat());
        }
        tree_id(&made, Kind::Sha1).unwrap()
    }

    /// Of which directories an index of these paths is believed that says this of them.
    fn believed_of(
        paths: &[(&str, u32)],
        said: &[(&str, i64, u32, Option<ObjectId>)],
    ) -> Vec<bool> {
        let mut bytes = Vec::new();
        push_header(&mut bytes, paths.len() as u32);
        for (path, mode) in paths {
            push_entry(
                &mut bytes,
                [0; STAT_FIELDS],
                *mode,
                &blob(),
                path.as_bytes(),
            );
        }
        let mut lines = Vec::new();
        for (name, entries, children, id) in said {
            lines.extend_from_slice(format!("{name}\0{entries} {children}\n").as_bytes());
            lines.extend_from_slice(id.as_ref().map_or(&[], |id| id.as_bytes()));
        }
        bytes.extend_from_slice(&extension_header(lines.len() as u32));
        bytes.extend_from_slice(&lines);
        let mut sum = Sum::new(Kind::Sha1);
        sum.update(&bytes);
        bytes.extend_from_slice(&sum.finish());
        let directory = tempfile::tempdir().unwrap();
        let (path, stop) = (directory.path().join("index"), Stop::default());
        std::fs::write(&path, bytes).unwrap();
        let mut entries = Entries::read(&path, Kind::Sha1, 1 << 20, &stop).unwrap();
        let trees = std::mem::take(&mut entries.trees);
        let trees = believed(&entries, trees, &stop).unwrap();
        let is_believed = |number| trees.node(number).map(|node| node.believed().is_some());
        (0..).map_while(is_believed).collect()
    }

    #[test]
    fn believed_is_what_the_entries_make_and_nothing_else() {
        let all = [("a", FILE), ("d/x/f", FILE), ("e/g", FILE)];
        let x = tree(&[(b"100644 ", "f", blob())]);
        let d = tree(&[(TREE_MODE, "x", x)]);
        let e = tree(&[(b"100644 ", "g", blob())]);
        let root = tree(&[
            (b"100644 ", "a", blob()),
            (TREE_MODE, "d", d),
            (TREE_MODE, "e", e),
        ]);
        let (root, d, x, e) = (
            ("", 3, 2, Some(root)),
            ("d", 1, 1, Some(d)),
            ("x", 1, 0, Some(x)),
            ("e", 1, 0, Some(e)),
        );
        assert_eq!(believed_of(&all, &[root, d, x, e]), [true; 4]);
        // One that is another, or of which nothing is said, has those that it is in say nothing.
        let other = ("x", 1, 0, e.3);
        assert_eq!(
            believed_of(&all, &[root, d, other, e]),
            [false, false, false, true]
        );
        let unsaid = ("x", -1, 0, None);
        assert_eq!(
            believed_of(&all, &[root, d, unsaid, e]),
            [false, false, false, true]
        );
        // A count that is wrong; a directory that is left out; one that is named twice.
        let many = ("x", 2, 0, x.3);
        assert_eq!(
            believed_of(&all, &[root, d, many, e]),
            [false, false, false, true]
        );
        assert_eq!(
            believed_of(&all, &[("", 3, 1, root.3), d, x]),
            [false, true, true]
        );
        let twice = [("", 3, 3, root.3), d, x, e, e];
        assert!(!believed_of(&all, &twice)[0]);
    }

    /// Nobody would miss what it once had.
    #[test]
    fn a_directory_without_entries_is_not_believed() {
        let x = tree(&[(b"100644 ", "f", blob())]);
        let said = [("", -1, 1, None), ("d", -1, 1, None), ("x", 0, 0, Some(x))];
        assert_eq!(believed_of(&[("d/keep", FILE)], &said), [false; 3]);
    }

    /// The tree is not read, so nobody else would refuse it.
    #[test]
    fn what_git_would_make_no_files_of_is_not_believed() {
        let odd = [("git~1", FILE)];
        let root = tree(&[(b"100644 ", "git~1", blob())]);
        assert_eq!(believed_of(&odd, &[("", 1, 0, Some(root))]), [false]);
        let below = tree(&[(b"100644 ", "f", blob())]);
        let both = tree(&[(b"100644 ", "x", blob()), (TREE_MODE, "x", below)]);
        let said = [("", 2, 1, Some(both)), ("x", 1, 0, Some(below))];
        let beside = [("x", FILE), ("x/f", FILE)];
        assert_eq!(believed_of(&beside, &said), [false, true]);
    }
}
