//! What is known of a cache entry, and what must hold of it (design, section 5).

mod codec;

pub use codec::{MetaError, VERSION};

use std::collections::HashSet;
use std::fmt;
use std::ops::Deref;
use std::str::FromStr;

use crate::extent::{Extent, Layout};

/// Names in an entry's directory that are not linked files.
pub const META_NAME: &str = "meta";
/// The file of the entry's own bytes; see [`META_NAME`].
pub const SPOOL_NAME: &str = "spool";

/// The id of an entry: 16 bytes as 32 lower-case hex characters. It is the name of the entry's
/// directory and the text of its strong ETag.
///
/// Invariant: the bytes are ASCII `0-9a-f`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId([u8; 32]);

/// The text is not 32 lower-case hex characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an entry id is 32 lower-case hex characters")]
pub struct BadEntryId;

impl EntryId {
    /// The id of these bytes.
    pub fn from_bytes(bytes: [u8; 16]) -> EntryId {
        const DIGITS: [u8; 16] = *b"0123456789abcdef";
        let mut text = [0; 32];
        for (pair, byte) in text.chunks_exact_mut(2).zip(bytes) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
        EntryId(text)
    }

    /// The id of this text; upper-case hex is refused, so that an id has one spelling.
    pub fn parse(text: &str) -> Result<EntryId, BadEntryId> {
        let bytes: [u8; 32] = text.as_bytes().try_into().map_err(|_| BadEntryId)?;
        if !is_lower_hex(&bytes) {
            return Err(BadEntryId);
        }
        Ok(EntryId(bytes))
    }

    /// The 32 characters.
    pub fn as_str(&self) -> &str {
        // ASCII by the invariant, so this cannot fail.
        std::str::from_utf8(&self.0).expect("an entry id is ASCII")
    }
}

impl FromStr for EntryId {
    type Err = BadEntryId;
    fn from_str(text: &str) -> Result<EntryId, BadEntryId> {
        EntryId::parse(text)
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EntryId({self})")
    }
}

/// A file of the mirror that the entry keeps alive by a hard link (or has a copy of).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkedFile {
    /// Where it lies below the entry's directory, such as `objects/pack/pack-….pack`.
    pub path: String,
    /// Its length.
    pub bytes: u64,
}

/// One job of the worktree whose frames lie in the spool file, so that a later snapshot of the
/// same files can take them over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobRecord {
    /// Hash of everything that decides the job's bytes.
    pub key: [u8; 32],
    /// Where the job's frames begin in the spool file.
    pub spool_offset: u64,
    /// Length of its frames.
    pub spool_bytes: u64,
    /// XXH64 of its frames, with seed 0.
    pub checksum: u64,
    /// The mtime its tar headers carry, in seconds since the epoch.
    pub mtime_s: i64,
    /// Sizes of its files as `.git/index` holds them, in order.
    pub sizes: Vec<u32>,
}

/// What is known of an entry; [`Meta`] is the checked form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fields {
    /// The entry's id.
    pub id: EntryId,
    /// `host/path` of the repository.
    pub repository: String,
    /// The commit of HEAD as full lower-case hex; `None` when HEAD points nowhere.
    pub commit: Option<String>,
    /// Digest of the refs and the URL that the archive shows, to tell whether there are others now.
    pub refs_digest: [u8; 32],
    /// When the build began, in milliseconds since the epoch.
    pub created_unix_ms: u64,
    /// The linked files; raw runs name them by their place in this list.
    pub linked: Vec<LinkedFile>,
    /// The archive.
    pub layout: Layout,
    /// XXH64 of the whole spool file, with seed 0.
    pub spool_checksum: u64,
    /// The worktree's jobs.
    pub jobs: Vec<JobRecord>,
}

/// The metadata of an entry. Its fields can be read, and are changed by making a new one.
///
/// Invariants:
/// 1. `repository` is a plain path (see [`is_plain_path`]) of at least two parts.
/// 2. `commit` is 40 or 64 lower-case hex characters.
/// 3. Paths of `linked` are plain, differ, and do not lie at or below `meta` or `spool`.
/// 4. Raw runs lie inside linked files that exist.
/// 5. Jobs lie inside the spool file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meta(Fields);

/// Which invariant of [`Meta`] does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidMeta {
    #[error("repository {repository:?} is not a plain host/path")]
    Repository { repository: String },
    #[error("commit {commit:?} is not a full lower-case hex hash")]
    Commit { commit: String },
    #[error("linked file {file} has the path {path:?}, which is not allowed")]
    LinkedPath { file: usize, path: String },
    #[error("linked file {file} repeats the path {path:?}")]
    LinkedTwice { file: usize, path: String },
    #[error("extent {extent} reads beyond what linked file {file} holds")]
    RunOutside { extent: usize, file: u32 },
    #[error("job {job} reads beyond the spool file of {spool_bytes} bytes")]
    JobOutside { job: usize, spool_bytes: u64 },
}

impl InvalidMeta {
    /// The field of [`Fields`] that is wrong.
    fn field(&self) -> &'static str {
        match self {
            InvalidMeta::Repository { .. } => "repository",
            InvalidMeta::Commit { .. } => "commit",
            InvalidMeta::LinkedPath { .. } | InvalidMeta::LinkedTwice { .. } => "linked",
            InvalidMeta::RunOutside { .. } => "layout",
            InvalidMeta::JobOutside { .. } => "jobs",
        }
    }
}

impl Deref for Meta {
    type Target = Fields;
    fn deref(&self) -> &Fields {
        &self.0
    }
}

impl Meta {
    /// Checks the fields against the invariants of [`Meta`].
    pub fn new(fields: Fields) -> Result<Meta, InvalidMeta> {
        fields.check()?;
        Ok(Meta(fields))
    }

    /// Gives the fields back.
    pub fn into_fields(self) -> Fields {
        self.0
    }

    /// Length of the archive in bytes.
    pub fn wire_bytes(&self) -> u64 {
        self.layout.wire_bytes()
    }

    /// Length of the spool file.
    pub fn spool_bytes(&self) -> u64 {
        self.layout.spool_bytes()
    }
}

impl Fields {
    fn check(&self) -> Result<(), InvalidMeta> {
        let repository = &self.repository;
        if !is_plain_path(repository) || !repository.contains('/') {
            return Err(InvalidMeta::Repository {
                repository: repository.clone(),
            });
        }
        if let Some(commit) = &self.commit
            && !(matches!(commit.len(), 40 | 64) && is_lower_hex(commit.as_bytes()))
        {
            return Err(InvalidMeta::Commit {
                commit: commit.clone(),
            });
        }
        self.check_linked()?;
        self.check_runs()?;
        self.check_jobs()
    }

    fn check_linked(&self) -> Result<(), InvalidMeta> {
        let mut seen = HashSet::new();
        for (file, linked) in self.linked.iter().enumerate() {
            let path = linked.path.clone();
            if !is_linkable(&linked.path) {
                return Err(InvalidMeta::LinkedPath { file, path });
            }
            if !seen.insert(&linked.path) {
                return Err(InvalidMeta::LinkedTwice { file, path });
            }
        }
        Ok(())
    }

    fn check_runs(&self) -> Result<(), InvalidMeta> {
        for (extent, run) in self.layout.extents().iter().enumerate() {
            if let Extent::RawRun {
                file, offset, len, ..
            } = *run
            {
                let holder = self.linked.get(file as usize);
                if !holder.is_some_and(|linked| lies_within(offset, len, linked.bytes)) {
                    return Err(InvalidMeta::RunOutside { extent, file });
                }
            }
        }
        Ok(())
    }

    fn check_jobs(&self) -> Result<(), InvalidMeta> {
        let spool_bytes = self.layout.spool_bytes();
        let outside =
            |job: &JobRecord| !lies_within(job.spool_offset, job.spool_bytes, spool_bytes);
        match self.jobs.iter().position(outside) {
            Some(job) => Err(InvalidMeta::JobOutside { job, spool_bytes }),
            None => Ok(()),
        }
    }
}

fn lies_within(offset: u64, len: u64, whole: u64) -> bool {
    offset.checked_add(len).is_some_and(|end| end <= whole)
}

fn is_lower_hex(text: &[u8]) -> bool {
    let hex = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    text.iter().all(hex)
}

/// Whether a path stays below the directory it is joined to, whatever that is: relative, and
/// every part a name (not empty, not `.` or `..`) without control characters.
pub fn is_plain_path(path: &str) -> bool {
    !path.chars().any(char::is_control)
        && path
            .split('/')
            .all(|part| !part.is_empty() && part != "." && part != "..")
}

/// Whether a linked file may have this path in an entry.
pub(super) fn is_linkable(path: &str) -> bool {
    let first = path.split('/').next();
    is_plain_path(path) && first != Some(META_NAME) && first != Some(SPOOL_NAME)
}

#[cfg(test)]
mod tests;
