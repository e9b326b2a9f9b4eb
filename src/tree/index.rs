//! The git index of the archive's worktree, version 2, written as a stream.
//!
//! Format: git's `Documentation/gitformat-index.txt`. Stat data holds what a `tar` extraction
//! reproduces: mtime in whole seconds and size; the rest is zero, which git ignores with
//! `core.checkStat=minimal` and `core.trustctime=false`. The `TREE` extension spares the first
//! `git status` a walk of HEAD's trees.

use gix::bstr::BStr;
use gix::hash::Kind;
use gix::objs::tree::EntryKind;
use gix::{ObjectId, oid};

const HEADER_BYTES: u64 = 12;
const EXTENSION_HEADER_BYTES: u64 = 8;
/// Longest path whose length fits in an entry's flags; longer ones end at their NUL.
const NAME_LEN_MAX: usize = 0xfff;

/// The shape of an index, gathered in one walk before any of it is written: a tar header names
/// the size of what follows.
pub struct Plan {
    hash: Kind,
    entries: u32,
    entries_bytes: u64,
    directories: Vec<Directory>,
    open: Vec<usize>,
}

struct Directory {
    name: Vec<u8>,
    id: ObjectId,
    entries: u32,
    children: u32,
}

impl Plan {
    /// An empty plan.
    pub fn new(hash: Kind) -> Plan {
        Plan {
            hash,
            entries: 0,
            entries_bytes: 0,
            directories: Vec::new(),
            open: Vec::new(),
        }
    }

    /// A directory begins.
    pub fn enter(&mut self, path: &BStr, id: &oid) {
        if let Some(parent) = self.open.last() {
            self.directories[*parent].children += 1;
        }
        let name = path.rsplit(|b| *b == b'/').next().unwrap_or_default();
        self.open.push(self.directories.len());
        self.directories.push(Directory {
            name: name.to_vec(),
            id: id.to_owned(),
            entries: 0,
            children: 0,
        });
    }

    /// The innermost directory ends.
    pub fn leave(&mut self) {
        if let Some(done) = self.open.pop()
            && let Some(parent) = self.open.last()
        {
            self.directories[*parent].entries += self.directories[done].entries;
        }
    }

    /// A file, symlink or submodule.
    pub fn entry(&mut self, path: &BStr) {
        if let Some(directory) = self.open.last() {
            self.directories[*directory].entries += 1;
        }
        self.entries += 1;
        self.entries_bytes += entry_bytes(self.hash, path.len()) as u64;
    }

    /// Number of entries.
    pub fn entries(&self) -> u32 {
        self.entries
    }

    /// Length of the whole index in bytes, and the writer that makes it.
    pub fn into_writer(self) -> (u64, Writer) {
        let tree = self.tree_extension();
        let total = HEADER_BYTES
            + self.entries_bytes
            + EXTENSION_HEADER_BYTES
            + tree.len() as u64
            + self.hash.len_in_bytes() as u64;
        let mut out = Vec::new();
        out.extend_from_slice(b"DIRC");
        out.extend_from_slice(&2u32.to_be_bytes());
        out.extend_from_slice(&self.entries.to_be_bytes());
        let hasher = gix::hash::hasher(self.hash);
        (total, Writer { out, hasher, tree })
    }

    fn tree_extension(&self) -> Vec<u8> {
        let mut tree = Vec::new();
        for directory in &self.directories {
            tree.extend_from_slice(&directory.name);
            let counts = format!("\0{} {}\n", directory.entries, directory.children);
            tree.extend_from_slice(counts.as_bytes());
            tree.extend_from_slice(directory.id.as_bytes());
        }
        tree
    }
}

/// Bytes of one entry: ten 4 byte fields, the id, flags, the path, and 1 to 8 NUL bytes that
/// pad to a multiple of eight.
fn entry_bytes(hash: Kind, path_len: usize) -> usize {
    (40 + hash.len_in_bytes() + 2 + path_len) / 8 * 8 + 8
}

/// Writes an index: [`entry`](Writer::entry) for every entry in the order of the walk,
/// [`take`](Writer::take) at any time, then [`finish`](Writer::finish).
///
/// Invariant: the entries are those of the [`Plan`] it was made from, in the same order.
pub struct Writer {
    out: Vec<u8>,
    hasher: gix::hash::Hasher,
    tree: Vec<u8>,
}

impl Writer {
    /// An entry of `size` bytes on disk (0 for a submodule) whose file says `mtime_s`.
    pub fn entry(&mut self, path: &BStr, kind: EntryKind, id: &oid, size: u32, mtime_s: i64) {
        let start = self.out.len();
        // git leaves the stat data of a submodule's entry at zero.
        let mtime = if kind == EntryKind::Commit {
            0
        } else {
            mtime_s
        };
        let mode = match kind {
            EntryKind::Blob => 0o100_644u32,
            EntryKind::BlobExecutable => 0o100_755,
            EntryKind::Link => 0o120_000,
            EntryKind::Commit | EntryKind::Tree => 0o160_000,
        };
        let stat = [0, 0, mtime as u32, 0, 0, 0, mode, 0, 0, size];
        for value in stat {
            self.out.extend_from_slice(&value.to_be_bytes());
        }
        self.out.extend_from_slice(id.as_bytes());
        let flags = path.len().min(NAME_LEN_MAX) as u16;
        self.out.extend_from_slice(&flags.to_be_bytes());
        self.out.extend_from_slice(path);
        self.out
            .resize(start + entry_bytes(id.kind(), path.len()), 0);
    }

    /// Bytes written and not yet taken.
    pub fn pending_bytes(&self) -> usize {
        self.out.len()
    }

    /// Moves what is written to the end of `to`.
    pub fn take(&mut self, to: &mut Vec<u8>) {
        self.hasher.update(&self.out);
        to.append(&mut self.out);
    }

    /// Ends the index with the extension and the checksum; all of it goes to the end of `to`.
    pub fn finish(mut self, to: &mut Vec<u8>) -> Result<(), gix::Error> {
        self.out.extend_from_slice(b"TREE");
        let tree_bytes = self.tree.len() as u32;
        self.out.extend_from_slice(&tree_bytes.to_be_bytes());
        let tree = std::mem::take(&mut self.tree);
        self.out.extend_from_slice(&tree);
        self.take(to);
        to.extend_from_slice(self.hasher.try_finalize()?.as_bytes());
        Ok(())
    }
}
