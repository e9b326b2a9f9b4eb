//! Entries of a tar archive, from an input and into an archive.

use tarpon::tree::tar::{self as encoder, Kind};

use crate::input::Input;

/// What goes in, and what each reader must give back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub path: Vec<u8>,
    pub what: What,
    pub mtime_s: i64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    File {
        data: Vec<u8>,
        executable: bool,
    },
    /// The header of a file whose data never comes; only the last of an archive.
    Huge {
        size: u64,
        executable: bool,
    },
    Symlink {
        target: Vec<u8>,
    },
    Directory,
}

impl Entry {
    /// A file's header without its data: only the last of an archive, which then has no end.
    pub fn is_huge(&self) -> bool {
        matches!(self.what, What::Huge { .. })
    }
}

/// The entries that an input means: for each its kind, mtime (8 bytes), path, and what the kind
/// needs.
pub fn entries(input: &mut Input<'_>) -> Vec<Entry> {
    let mut entries = Vec::new();
    while !input.is_empty() {
        let kind = input.u8();
        let mtime_s = input.u64() as i64;
        let path = name(input.text(), b"p");
        let executable = kind & 4 != 0;
        let what = match kind & 3 {
            0 => What::File {
                data: input.text().to_vec(),
                executable,
            },
            1 => What::Huge {
                size: (input.u64() & i64::MAX as u64).max(1),
                executable,
            },
            2 => What::Symlink {
                target: name(input.text(), b"t"),
            },
            _ => What::Directory,
        };
        let is_last = matches!(what, What::Huge { .. });
        entries.push(Entry {
            path,
            what,
            mtime_s,
        });
        if is_last {
            break;
        }
    }
    entries
}

/// What git can hold: no NUL, not empty, no slash at the end.
fn name(bytes: &[u8], otherwise: &[u8]) -> Vec<u8> {
    let mut name: Vec<u8> = bytes.iter().copied().filter(|byte| *byte != 0).collect();
    while name.last() == Some(&b'/') {
        name.pop();
    }
    if name.is_empty() {
        otherwise.to_vec()
    } else {
        name
    }
}

/// Appends an entry as the program does.
pub fn encode(entry: &Entry, out: &mut Vec<u8>) {
    let Entry {
        path,
        what,
        mtime_s,
    } = entry;
    match what {
        What::File { data, executable } => {
            encoder::push_file(out, path, data, *executable, *mtime_s);
        }
        What::Huge { size, executable } => {
            let kind = Kind::File {
                size: *size,
                executable: *executable,
            };
            encoder::push_header(out, path, kind, *mtime_s);
        }
        What::Symlink { target } => {
            encoder::push_header(out, path, Kind::Symlink { target }, *mtime_s);
        }
        What::Directory => encoder::push_header(out, path, Kind::Directory, *mtime_s),
    }
}
