//! Which directories of an index are what its `TREE` extension says of them: anybody may have written that. All
//! entries are gone through once, however often the index is compared with a commit then.

use gix::ObjectId;
use gix::bstr::ByteSlice;
use gix::objs::tree::EntryKind;

use super::cache_tree::CacheTree;
use super::entries::{Entries, Entry};
use crate::limits::TREE_DEPTH_MAX;
use crate::restore::error::RestoreError;
use crate::restore::stop::Stop;
use crate::restore::write::stopped;
use crate::tree::index::mode;

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
    walk.enter(&[], Some(0), 0);
    for at in 0..entries.len() {
        if stop.is_set() {
            return Err(stopped());
        }
        if !walk.take(at, entries.get(at)) {
            return Ok(CacheTree::default());
        }
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
    node: Option<usize>,
    /// What the extension has inside of it, by name.
    inside: Vec<(&'e [u8], usize)>,
    met: usize,
    /// The number of its first entry.
    first: usize,
    /// Its tree as far as it is made, unless it is known to be another.
    made: Option<Vec<u8>>,
}

struct Walk<'e> {
    entries: &'e Entries,
    trees: CacheTree,
    /// Each inside of the one before it.
    open: Vec<Open<'e>>,
}

impl<'e> Walk<'e> {
    /// Goes on to an entry; `false` where there is no end to its directories.
    fn take(&mut self, at: usize, entry: Entry<'e>) -> bool {
        let path = entry.path();
        while let Some(open) = self.open.last()
            && !path.starts_with(open.path)
        {
            self.leave(at);
        }
        loop {
            let depth = self.open.len();
            let Some(open) = self.open.last_mut() else {
                return false;
            };
            let base = open.path.len();
            let Some(len) = path[base..].find_byte(b'/') else {
                open.push_entry(&path[base..], entry);
                return true;
            };
            if depth > TREE_DEPTH_MAX {
                return false;
            }
            let name = &path[base..base + len];
            let node = open.meet(name);
            self.enter(&path[..=base + len], node, at);
        }
    }

    fn enter(&mut self, path: &'e [u8], node: Option<usize>, first: usize) {
        let mut inside = Vec::new();
        if let Some(number) = node {
            let entries = self.entries;
            inside.extend(self.trees.children(number, &entries.bytes));
            inside.sort_unstable();
        }
        self.open.push(Open {
            path,
            node,
            inside,
            met: 0,
            first,
            made: node.map(|_| Vec::new()),
        });
    }

    /// The innermost directory ends before the entry `end`.
    fn leave(&mut self, end: usize) {
        let Some(done) = self.open.pop() else {
            return;
        };
        let said = done.node.and_then(|number| self.trees.node(number)?.tree);
        let is_all = done.met == done.inside.len();
        let id = match (&done.made, said) {
            (Some(made), Some((id, count))) if is_all && count == end - done.first => {
                tree_id(made, self.entries.hash).filter(|made| *made == id)
            }
            _ => None,
        };
        if let (Some(number), None) = (done.node, id) {
            self.trees.disbelieve(number);
        }
        if let Some(above) = self.open.last_mut() {
            let name = &done.path[above.path.len()..done.path.len() - 1];
            match id {
                Some(id) => above.push(TREE_MODE, name, id),
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
            Some((_, mode)) => self.push(mode, name, entry.id()),
            // Git makes no tree of that.
            None => self.made = None,
        }
    }

    fn push(&mut self, mode: &[u8], name: &[u8], id: ObjectId) {
        if let Some(made) = &mut self.made {
            made.extend_from_slice(mode);
            made.extend_from_slice(name);
            made.push(0);
            made.extend_from_slice(id.as_bytes());
        }
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
