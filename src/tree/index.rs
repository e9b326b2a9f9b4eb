//! The git index of a worktree, version 2: its format, and the server's, written as a stream.
//!
//! Format: git's `Documentation/gitformat-index.txt`. Stat data holds what a `tar` extraction
//! reproduces: mtime in whole seconds and size; the rest is zero, which git ignores with
//! `core.checkStat=minimal` and `core.trustctime=false`. The `TREE` extension spares the first
//! `git status` a walk of HEAD's trees.

use std::convert::Infallible;

use gix::bstr::BStr;
use gix::hash::Kind;
use gix::objs::tree::EntryKind;
use gix::{ObjectId, oid};

/// What an index begins with; in version 2 and before the number of entries.
pub(crate) const MAGIC: [u8; 4] = *b"DIRC";
pub(crate) const VERSION: u32 = 2;
/// Magic, version, number of entries.
pub(crate) const HEADER_BYTES: usize = 12;
/// Fields of stat data that an entry begins with, of four bytes each.
pub(crate) const STAT_FIELDS: usize = 10;
pub(crate) const STAT_BYTES: usize = 4 * STAT_FIELDS;
/// Which of them is the mode, and where it is in an entry.
const MODE_FIELD: usize = 6;
pub(crate) const MODE_AT: usize = 4 * MODE_FIELD;
/// The mode of a submodule.
pub(crate) const SUBMODULE: u32 = 0o160_000;
const EXTENSION_HEADER_BYTES: usize = 8;
/// Longest path whose length fits in an entry's flags; longer ones end at their NUL.
const NAME_LEN_MAX: usize = 0xfff;

/// The shape of an index, gathered in one walk before any of it is written: a tar header names
/// the size of what follows.
pub(crate) struct Plan {
    hash: Kind,
    entries: u32,
    entries_bytes: u64,
    directories: Directories,
}

/// The directories of a worktree as the `TREE` extension has them, met in the order of the index.
#[derive(Debug, Default)]
pub(crate) struct Directories {
    all: Vec<Directory>,
    open: Vec<usize>,
}

#[derive(Debug)]
struct Directory {
    name: Vec<u8>,
    id: ObjectId,
    entries: u32,
    children: u32,
}

impl Directories {
    /// A directory begins.
    pub(crate) fn enter(&mut self, name: &[u8], id: &oid) {
        if let Some(parent) = self.open.last() {
            self.all[*parent].children += 1;
        }
        self.open.push(self.all.len());
        self.all.push(Directory {
            name: name.to_vec(),
            id: id.to_owned(),
            entries: 0,
            children: 0,
        });
    }

    /// The innermost directory ends.
    pub(crate) fn leave(&mut self) {
        if let Some(done) = self.open.pop()
            && let Some(parent) = self.open.last()
        {
            self.all[*parent].entries += self.all[done].entries;
        }
    }

    /// The innermost directory has an entry.
    pub(crate) fn entry(&mut self) {
        if let Some(directory) = self.open.last() {
            self.all[*directory].entries += 1;
        }
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.all.len()
    }

    /// Appends the extension. `go_on` is asked before each directory: there may be millions.
    pub(crate) fn push_extension<E>(
        &self,
        out: &mut Vec<u8>,
        mut go_on: impl FnMut() -> Result<(), E>,
    ) -> Result<(), E> {
        let start = out.len();
        out.extend_from_slice(b"TREE\0\0\0\0");
        for directory in &self.all {
            go_on()?;
            out.extend_from_slice(&directory.name);
            let counts = format!("\0{} {}\n", directory.entries, directory.children);
            out.extend_from_slice(counts.as_bytes());
            out.extend_from_slice(directory.id.as_bytes());
        }
        let bytes = (out.len() - start - EXTENSION_HEADER_BYTES) as u32;
        out[start + 4..start + EXTENSION_HEADER_BYTES].copy_from_slice(&bytes.to_be_bytes());
        Ok(())
    }
}

impl Plan {
    /// An empty plan.
    pub(crate) fn new(hash: Kind) -> Plan {
        Plan {
            hash,
            entries: 0,
            entries_bytes: 0,
            directories: Directories::default(),
        }
    }

    /// A directory begins.
    pub(crate) fn enter(&mut self, path: &BStr, id: &oid) {
        let name = path.rsplit(|b| *b == b'/').next().unwrap_or_default();
        self.directories.enter(name, id);
    }

    /// The innermost directory ends.
    pub(crate) fn leave(&mut self) {
        self.directories.leave();
    }

    /// A file, symlink or submodule.
    pub(crate) fn entry(&mut self, path: &BStr) {
        self.directories.entry();
        self.entries += 1;
        self.entries_bytes += entry_bytes(self.hash.len_in_bytes(), path.len()) as u64;
    }

    /// Number of entries.
    pub(crate) fn entries(&self) -> u32 {
        self.entries
    }

    /// Length of the whole index in bytes, and the writer that makes it.
    pub(crate) fn into_writer(self) -> (u64, Writer) {
        let mut tree = Vec::new();
        let go_on = || Ok::<_, Infallible>(());
        let Ok(()) = self.directories.push_extension(&mut tree, go_on);
        let total = HEADER_BYTES as u64
            + self.entries_bytes
            + tree.len() as u64
            + self.hash.len_in_bytes() as u64;
        let mut out = Vec::new();
        push_header(&mut out, self.entries);
        let hasher = gix::hash::hasher(self.hash);
        (total, Writer { out, hasher, tree })
    }
}

/// Appends what an index begins with.
pub(crate) fn push_header(out: &mut Vec<u8>, entries: u32) {
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&VERSION.to_be_bytes());
    out.extend_from_slice(&entries.to_be_bytes());
}

/// The mode that an index has for an entry of a tree.
pub(crate) fn mode(kind: EntryKind) -> u32 {
    match kind {
        EntryKind::Blob => 0o100_644,
        EntryKind::BlobExecutable => 0o100_755,
        EntryKind::Link => 0o120_000,
        EntryKind::Commit | EntryKind::Tree => SUBMODULE,
    }
}

/// Appends an entry. Of `stat` all is taken but the mode.
pub(crate) fn push_entry(
    out: &mut Vec<u8>,
    mut stat: [u32; STAT_FIELDS],
    mode: u32,
    id: &oid,
    path: &[u8],
) {
    let start = out.len();
    stat[MODE_FIELD] = mode;
    for value in stat {
        out.extend_from_slice(&value.to_be_bytes());
    }
    out.extend_from_slice(id.as_bytes());
    let flags = path.len().min(NAME_LEN_MAX) as u16;
    out.extend_from_slice(&flags.to_be_bytes());
    out.extend_from_slice(path);
    out.resize(start + entry_bytes(id.as_bytes().len(), path.len()), 0);
}

/// Bytes of one entry: stat data, the id, flags, the path, and padding.
pub(crate) fn entry_bytes(id_bytes: usize, path_len: usize) -> usize {
    padded(STAT_BYTES + id_bytes + 2 + path_len)
}

/// An entry's length with the 1 to 8 NUL bytes that pad it to a multiple of eight.
pub(crate) fn padded(bytes: usize) -> usize {
    bytes / 8 * 8 + 8
}

/// Writes an index: [`entry`](Writer::entry) for every entry in the order of the walk,
/// [`take`](Writer::take) at any time, then [`finish`](Writer::finish).
///
/// Invariant: the entries are those of the [`Plan`] it was made from, in the same order.
pub(crate) struct Writer {
    out: Vec<u8>,
    hasher: gix::hash::Hasher,
    tree: Vec<u8>,
}

impl Writer {
    /// An entry of `size` bytes on disk (0 for a submodule) whose file says `mtime_s`.
    pub(crate) fn entry(
        &mut self,
        path: &BStr,
        kind: EntryKind,
        id: &oid,
        size: u32,
        mtime_s: i64,
    ) {
        // git leaves the stat data of a submodule's entry at zero.
        let mtime_s = if kind == EntryKind::Commit {
            0
        } else {
            mtime_s
        };
        let stat = [0, 0, mtime_s as u32, 0, 0, 0, 0, 0, 0, size];
        push_entry(&mut self.out, stat, mode(kind), id, path);
    }

    /// Bytes written and not yet taken.
    pub(crate) fn pending_bytes(&self) -> usize {
        self.out.len()
    }

    /// Moves what is written to the end of `to`.
    pub(crate) fn take(&mut self, to: &mut Vec<u8>) {
        self.hasher.update(&self.out);
        to.append(&mut self.out);
    }

    /// Ends the index with the extension and the checksum; all of it goes to the end of `to`.
    pub(crate) fn finish(mut self, to: &mut Vec<u8>) -> Result<(), gix::Error> {
        let tree = std::mem::take(&mut self.tree);
        self.out.extend_from_slice(&tree);
        self.take(to);
        to.extend_from_slice(self.hasher.try_finalize()?.as_bytes());
        Ok(())
    }
}
