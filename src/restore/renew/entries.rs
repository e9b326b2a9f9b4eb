//! The index of a working copy that is brought to another commit, in memory: what is in it and when it was written.
//!
//! Taken is what a plain clone has: version 2, or 3 without what only that has, nothing unmerged, nothing that git
//! is told to leave alone. Format: git's `Documentation/gitformat-index.txt`.

use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use gix::ObjectId;
use gix::bstr::ByteSlice;
use gix::hash::Kind;

use super::cache_tree::CacheTree;
use super::refusal::{Overwrite, Why};
use crate::limits::{PATH_BYTES_MAX, WORK_PIECE_BYTES};
use crate::restore::error::RestoreError;
use crate::restore::stop::Stop;
use crate::restore::write::stopped;
use crate::tree::index::{
    EXTENSION_HEADER_BYTES, HEADER_BYTES, MAGIC, MODE_AT, STAT_BYTES, SUBMODULE, padded,
};
use crate::tree::sum::Sum;

const VERSIONS: [u32; 2] = [2, 3];
/// Flags of an entry: git takes the file for unchanged, there are further flags, the stage of a merge.
const ASSUMED: u16 = 0x8000;
const EXTENDED: u16 = 0x4000;
const STAGE: u16 = 0x3000;
/// How long its path is; all of them mean that it is that long or longer.
const NAME_LEN: u16 = 0x0fff;
const LONG: usize = NAME_LEN as usize;
/// Further flags: the file is not checked out, it is to be added.
const LEFT_OUT: u16 = 0x4000;
const TO_BE_ADDED: u16 = 0x2000;

/// Why an index is not taken.
#[derive(Debug)]
pub(in crate::restore) enum Unread {
    /// It is of another kind.
    Kind(Why),
    Failed(RestoreError),
}

impl From<RestoreError> for Unread {
    fn from(error: RestoreError) -> Unread {
        Unread::Failed(error)
    }
}

/// All of it.
///
/// Invariant: paths are in their order, each once, and lead nowhere but below the root.
#[derive(Debug)]
pub(in crate::restore) struct Entries {
    pub bytes: Vec<u8>,
    starts: Vec<u32>,
    pub hash: Kind,
    /// The second of its date.
    pub dated_s: i64,
    /// What the index says of its directories; once they were looked at, what is to be believed of that.
    pub trees: CacheTree,
}

/// One entry.
#[derive(Debug, Clone, Copy)]
pub(in crate::restore) struct Entry<'e> {
    bytes: &'e [u8],
    hash: Kind,
}

impl<'e> Entry<'e> {
    pub(super) fn stat(self) -> &'e [u8] {
        &self.bytes[..STAT_BYTES]
    }

    pub(super) fn mode(self) -> u32 {
        number(self.bytes, MODE_AT)
    }

    pub(super) fn is_submodule(self) -> bool {
        self.mode() == SUBMODULE
    }

    pub(super) fn id(self) -> ObjectId {
        let id = &self.bytes[STAT_BYTES..STAT_BYTES + self.hash.len_in_bytes()];
        ObjectId::from_bytes_or_panic(id)
    }

    pub(super) fn path(self) -> &'e [u8] {
        let at = STAT_BYTES + self.hash.len_in_bytes() + 2;
        let flags = flags(self.bytes, self.hash);
        let at = match flags & EXTENDED {
            0 => at,
            _ => at + 2,
        };
        let rest = &self.bytes[at..];
        match usize::from(flags & NAME_LEN) {
            LONG => &rest[..rest.find_byte(0).unwrap_or_default()],
            len => &rest[..len],
        }
    }
}

fn number(bytes: &[u8], at: usize) -> u32 {
    let [a, b, c, d] = [0, 1, 2, 3].map(|n| bytes[at + n]);
    u32::from_be_bytes([a, b, c, d])
}

fn flags(entry: &[u8], hash: Kind) -> u16 {
    let at = STAT_BYTES + hash.len_in_bytes();
    u16::from_be_bytes([entry[at], entry[at + 1]])
}

fn other<T>(what: impl Into<Why>) -> Result<T, Unread> {
    Err(Unread::Kind(what.into()))
}

impl Entries {
    /// Reads the index at `path`, whose ids are of the kind `hash` and which may have so many bytes; one that is not there
    /// has no entries.
    pub(super) fn read(
        path: &Path,
        hash: Kind,
        bytes_max: u64,
        stop: &Stop,
    ) -> Result<Entries, Unread> {
        let failed = |e| RestoreError::disk("read", path, e);
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let opened = File::options().read(true).custom_flags(flags).open(path);
        let mut entries = Entries {
            bytes: Vec::new(),
            starts: Vec::new(),
            hash,
            dated_s: 0,
            trees: CacheTree::default(),
        };
        let mut file = match opened {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(entries),
            Err(e) => return Err(failed(e).into()),
        };
        let found = file.metadata().map_err(failed)?;
        if !found.is_file() || found.len() > bytes_max {
            return other(format!(
                "its index is no file, or has more than {bytes_max} bytes, which is what may be held of it and of those \
                 around it"
            ));
        }
        entries.dated_s = found.mtime();
        entries.bytes.reserve_exact(found.len() as usize + 1);
        let limited = (&mut file).take(bytes_max);
        let mut limited = limited;
        limited.read_to_end(&mut entries.bytes).map_err(failed)?;
        entries.check_sum(stop)?;
        let end = entries.parse(stop)?;
        entries.extensions(end)?;
        Ok(entries)
    }

    /// Its content is as it was written.
    fn check_sum(&self, stop: &Stop) -> Result<(), Unread> {
        let sum_bytes = self.hash.len_in_bytes();
        if self.bytes.len() < HEADER_BYTES + sum_bytes {
            return other("its index is cut off");
        }
        let (content, said) = self.bytes.split_at(self.bytes.len() - sum_bytes);
        // Git can be told to make none.
        if said.iter().all(|b| *b == 0) {
            return Ok(());
        }
        let mut sum = Sum::new(self.hash);
        for piece in content.chunks(WORK_PIECE_BYTES) {
            if stop.is_set() {
                return Err(stopped().into());
            }
            sum.update(piece);
        }
        match sum.finish() == said {
            true => Ok(()),
            false => other((
                "its index is damaged, or of ids of another kind",
                "remove .git/index, and git reset makes another",
            )),
        }
    }

    /// Finds the entries; where they end.
    fn parse(&mut self, stop: &Stop) -> Result<usize, Unread> {
        let end = self.bytes.len() - self.hash.len_in_bytes();
        let version = number(&self.bytes, 4);
        if !self.bytes.starts_with(&MAGIC) || !VERSIONS.contains(&version) {
            return other((
                "its index is not of version 2 or 3, as plain clones have it",
                "git update-index --index-version 2",
            ));
        }
        let mut at = HEADER_BYTES;
        let mut last: Range<usize> = 0..0;
        for _ in 0..number(&self.bytes, 8) {
            if stop.is_set() {
                return Err(stopped().into());
            }
            let path = self.entry(at, end)?;
            let (before, name) = (&self.bytes[last.clone()], &self.bytes[path.clone()]);
            if (!last.is_empty() && before >= name) || !is_safe(name) {
                return other(format!(
                    "its index has \"{}\" out of order",
                    name.escape_ascii()
                ));
            }
            self.starts.push(at as u32);
            at += padded(path.end - at);
            last = path;
        }
        match at <= end {
            true => Ok(at),
            false => other("its index is cut off"),
        }
    }

    /// Looks at the entry that begins at `at`; where its path is.
    fn entry(&self, at: usize, end: usize) -> Result<Range<usize>, Unread> {
        let fixed = STAT_BYTES + self.hash.len_in_bytes() + 2;
        let Some(entry) = self.bytes.get(at..end).filter(|rest| rest.len() > fixed) else {
            return other("its index is cut off");
        };
        let said = flags(entry, self.hash);
        let path_at = match said & EXTENDED {
            0 => fixed,
            _ => fixed + 2,
        };
        let most = entry.len().min(path_at + PATH_BYTES_MAX + 1);
        let path = entry.get(path_at..most).unwrap_or_default();
        let path = match path.find_byte(0) {
            Some(len) if len > 0 && len.min(LONG) == usize::from(said & NAME_LEN) => &path[..len],
            _ => return other("its index has an entry whose path does not end where it says"),
        };
        let name = || path.as_bstr().to_string();
        if said & EXTENDED != 0 {
            let more = u16::from_be_bytes([entry[fixed], entry[fixed + 1]]);
            if more & LEFT_OUT != 0 {
                return other((
                    format!("{} is left out (skip-worktree)", name()),
                    "git update-index --no-skip-worktree FILE",
                ));
            }
            if more & TO_BE_ADDED != 0 {
                return other((
                    format!("{} is noted to be added (git add -N)", name()),
                    "git add it, or git reset",
                ));
            }
        }
        if said & STAGE != 0 {
            return other((
                format!("{} is not merged", name()),
                "git add or git rm it once it is, or git reset --merge",
                Overwrite::Drops,
            ));
        }
        if said & ASSUMED != 0 {
            return other((
                format!(
                    "git is told to take {} for unchanged (assume-unchanged)",
                    name()
                ),
                "git update-index --no-assume-unchanged FILE",
            ));
        }
        let is_known = match number(entry, MODE_AT) & libc::S_IFMT {
            libc::S_IFREG | libc::S_IFLNK => true,
            _ => number(entry, MODE_AT) == SUBMODULE,
        };
        if !is_known {
            return other((
                "its index has an entry that is no file, link or submodule (sparse)",
                "git sparse-checkout disable",
            ));
        }
        Ok(at + path_at..at + path_at + path.len())
    }

    /// Looks at what stands behind the entries.
    fn extensions(&mut self, mut at: usize) -> Result<(), Unread> {
        let end = self.bytes.len() - self.hash.len_in_bytes();
        while at < end {
            let Some(head) = self.bytes.get(at..at + EXTENSION_HEADER_BYTES) else {
                return other("its index is cut off");
            };
            let begin = at + EXTENSION_HEADER_BYTES;
            let next = begin + number(head, 4) as usize;
            if next > end {
                return other("its index is cut off");
            }
            match &head[..4] {
                b"TREE" => self.trees = CacheTree::read(&self.bytes, begin..next, self.hash),
                b"link" => {
                    return other((
                        "its index is split (core.splitIndex)",
                        "git update-index --no-split-index",
                    ));
                }
                // What git cannot do without has a name in lower case.
                name if !name[0].is_ascii_uppercase() => {
                    let name = name.escape_ascii();
                    return other((
                        format!("its index has the extension {name} (sparse)"),
                        "git sparse-checkout disable",
                    ));
                }
                _ => {}
            }
            at = next;
        }
        Ok(())
    }

    pub(super) fn len(&self) -> usize {
        self.starts.len()
    }

    pub(super) fn get(&self, number: usize) -> Entry<'_> {
        let begin = self.starts[number] as usize;
        Entry {
            bytes: &self.bytes[begin..],
            hash: self.hash,
        }
    }

    /// Where an entry of this path is, or would be.
    pub(super) fn find(&self, path: &[u8]) -> Result<usize, usize> {
        self.starts.binary_search_by(|start| {
            let bytes = &self.bytes[*start as usize..];
            let hash = self.hash;
            Entry { bytes, hash }.path().cmp(path)
        })
    }

    /// The first of the numbers from `from` to `to` whose entry is not below a directory, of whose path the slash is
    /// a part.
    pub(super) fn end_of(&self, directory: &[u8], from: usize, to: usize) -> usize {
        let is_in = |start: &u32| {
            let bytes = &self.bytes[*start as usize..];
            let hash = self.hash;
            Entry { bytes, hash }.path().starts_with(directory)
        };
        from + self.starts[from..to].partition_point(is_in)
    }

    /// The numbers of all that are below a directory, which has its slash; of the root all.
    pub(super) fn below(&self, directory: &[u8]) -> Range<usize> {
        let begin = match self.find(directory) {
            Ok(at) | Err(at) => at,
        };
        begin..self.end_of(directory, begin, self.len())
    }
}

/// Whether a path leads nowhere but below the root, and not into a repository.
fn is_safe(path: &[u8]) -> bool {
    let is_part =
        |part: &[u8]| !matches!(part, b"" | b"." | b"..") && !part.eq_ignore_ascii_case(b".git");
    path.split(|b| *b == b'/').all(is_part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_has_no_more_bytes_than_may_be_held() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("index");
        std::fs::write(&path, [0; 100]).unwrap();
        let why = |bytes_max| {
            let read = Entries::read(&path, Kind::Sha1, bytes_max, &Stop::default());
            format!("{:?}", read.unwrap_err())
        };
        assert!(why(99).contains("more than 99 bytes"), "{}", why(99));
        assert!(why(100).contains("not of version 2 or 3"), "{}", why(100));
    }

    /// Git goes by the length, and would have another file.
    #[test]
    fn a_path_ends_where_its_length_says() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("index");
        let read = |len: u16, name: &[u8]| {
            let mut bytes = [&MAGIC[..], &[0, 0, 0, 2, 0, 0, 0, 1]].concat();
            let mut entry = vec![0; STAT_BYTES + Kind::Sha1.len_in_bytes()];
            entry[MODE_AT..MODE_AT + 4].copy_from_slice(&0o100_644_u32.to_be_bytes());
            entry.extend_from_slice(&len.to_be_bytes());
            entry.extend_from_slice(name);
            entry.resize(padded(entry.len()), 0);
            bytes.extend_from_slice(&entry);
            let mut sum = Sum::new(Kind::Sha1);
            sum.update(&bytes);
            bytes.extend_from_slice(&sum.finish());
            std::fs::write(&path, &bytes).unwrap();
            Entries::read(&path, Kind::Sha1, 1 << 20, &Stop::default())
        };
        let long = vec![b'a'; LONG];
        for (len, name) in [
            (1, &b"a"[..]),
            (5, b"a/b.c"),
            (NAME_LEN, &long),
            (NAME_LEN - 1, &long[1..]),
        ] {
            let entries = read(len, name).unwrap();
            assert_eq!(entries.get(0).path(), name);
        }
        let short = &long[1..];
        for (len, name) in [
            (4, &b"a/b.c"[..]),
            (6, b"a/b.c"),
            (NAME_LEN, short),
            (0, b"a"),
        ] {
            let why = format!("{:?}", read(len, name).unwrap_err());
            assert!(why.contains("whose path does not end"), "{len}: {why}");
        }
    }
}
