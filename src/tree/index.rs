//! The git index of a worktree, version 2: its format, and the server's, written as a stream.
//!
//! Format: git's `Documentation/gitformat-index.txt`. Stat data holds what a `tar` extraction
//! reproduces: mtime in whole seconds and size; the rest is zero, which git ignores with
//! `core.checkStat=minimal` and `core.trustctime=false`. The `TREE` extension spares the first
//! `git status` a walk of HEAD's trees.

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
pub(crate) const EXTENSION_HEADER_BYTES: usize = 8;
/// Longest path whose length fits in an entry's flags; longer ones end at their NUL.
const NAME_LEN_MAX: usize = 0xfff;

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

    /// A directory of so many entries is passed over; its lines are known from elsewhere.
    pub(crate) fn pass(&mut self, entries: u32) {
        if let Some(parent) = self.open.last() {
            self.all[*parent].children += 1;
            self.all[*parent].entries += entries;
        }
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.all.len()
    }

    /// How many entries are below directory number `number`, which has ended.
    pub(crate) fn entries_below(&self, number: usize) -> u32 {
        self.all[number].entries
    }

    /// Appends what the extension says of directory number `number`, which has ended.
    pub(crate) fn push_line(&self, number: usize, out: &mut Vec<u8>) {
        let directory = &self.all[number];
        out.extend_from_slice(&directory.name);
        let counts = format!("\0{} {}\n", directory.entries, directory.children);
        out.extend_from_slice(counts.as_bytes());
        out.extend_from_slice(directory.id.as_bytes());
    }

    /// Appends the extension. `go_on` is asked before each directory: there may be millions.
    pub(crate) fn push_extension<E>(
        &self,
        out: &mut Vec<u8>,
        mut go_on: impl FnMut() -> Result<(), E>,
    ) -> Result<(), E> {
        let start = out.len();
        out.extend_from_slice(&extension_header(0));
        for number in 0..self.count() {
            go_on()?;
            self.push_line(number, out);
        }
        let bytes = (out.len() - start - EXTENSION_HEADER_BYTES) as u32;
        out[start..start + EXTENSION_HEADER_BYTES].copy_from_slice(&extension_header(bytes));
        Ok(())
    }
}

/// What the `TREE` extension begins with, if so many bytes follow.
pub(crate) fn extension_header(bytes: u32) -> [u8; EXTENSION_HEADER_BYTES] {
    let mut header = *b"TREE\0\0\0\0";
    header[4..].copy_from_slice(&bytes.to_be_bytes());
    header
}

/// Appends what an index begins with.
pub(crate) fn push_header(out: &mut Vec<u8>, entries: u32) {
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&VERSION.to_be_bytes());
    out.extend_from_slice(&entries.to_be_bytes());
}

/// The mode that an index has for an entry of a tree.
pub(crate) const fn mode(kind: EntryKind) -> u32 {
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
