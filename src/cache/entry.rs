//! The metadata file of a cache entry, as a pure codec (design, section 5).
//!
//! Layout of the file, all numbers little-endian:
//!
//! | bytes | what |
//! |---|---|
//! | 8 | magic |
//! | 4 | format version |
//! | 8 | length of the payload |
//! | … | payload: [`Fields`] in the order of its `wire_struct!` line |
//! | 32 | SHA-256 of everything before it |
//!
//! Magic, version and digest keep their places in every version, so a file of another version
//! is told from a damaged one. The digest is checked before anything else is believed. A list
//! or text is its count (8 bytes) and its items; a count is checked against the bytes that are
//! left before anything is allocated. There is one encoding of each value, and reading accepts
//! only that one: `encode(decode(b)) == b`.

use std::collections::HashSet;
use std::fmt;
use std::ops::Deref;
use std::str::FromStr;

use sha2::{Digest, Sha256};

use crate::extent::{Extent, Layout, LayoutError};
use crate::limits::META_BYTES_MAX;

const MAGIC: [u8; 8] = *b"tarpon\x1a\n";
/// The format version that is written, and the only one that is read.
pub const VERSION: u32 = 2;
const DIGEST_BYTES: usize = 32;
const EXTENT_SPOOL: u8 = 0;
const EXTENT_RAW_RUN: u8 = 1;
/// Names in an entry's directory that are not linked files.
pub const META_NAME: &str = "meta";
/// The file of the entry's own bytes; see [`META_NAME`].
pub const SPOOL_NAME: &str = "spool";

const _: () = assert!(META_BYTES_MAX as usize > Header::BYTES_MIN + Fields::BYTES_MIN);

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
    /// The mtime its tar headers carry, in seconds since the epoch.
    pub mtime_s: i64,
    /// Sizes of its files as `.git/index` holds them: the low 32 bits, in order.
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
    /// Digest of the refs that the archive shows, to tell whether the mirror has others.
    pub refs_digest: [u8; 32],
    /// When the build began, in milliseconds since the epoch.
    pub created_unix_ms: u64,
    /// The linked files; raw runs name them by their place in this list.
    pub linked: Vec<LinkedFile>,
    /// The archive.
    pub layout: Layout,
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

/// Why bytes are not the metadata of an entry. Offsets are in bytes from the file's beginning;
/// for what is wrong with several parts together, the offset of the field that holds them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MetaError {
    #[error("at offset {offset}: the file ends too early, {wanted} more bytes are needed")]
    End { offset: usize, wanted: usize },
    #[error("at offset 0: not the metadata of an entry")]
    Magic,
    #[error("the digest at offset {offset} does not match, so the file is damaged")]
    Digest { offset: usize },
    #[error("at offset {offset}: format version {version}, but only {VERSION} can be read")]
    Version { offset: usize, version: u32 },
    #[error("at offset {offset}: a payload of {stated} bytes is stated, {present} are there")]
    PayloadLength {
        offset: usize,
        stated: u64,
        present: usize,
    },
    #[error("at offset {offset}: {count} items are stated, which {present} bytes cannot hold")]
    Count {
        offset: usize,
        count: u64,
        present: usize,
    },
    #[error("at offset {offset}: not {expected}")]
    Value {
        offset: usize,
        expected: &'static str,
    },
    #[error("at offset {offset}: {source}")]
    Layout { offset: usize, source: LayoutError },
    #[error("at offset {offset}: {source}")]
    Invalid { offset: usize, source: InvalidMeta },
    #[error("at offset {offset}: {bytes} bytes stand after the last field")]
    Trailing { offset: usize, bytes: usize },
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

    /// The bytes of the metadata file.
    pub fn encode(&self) -> Vec<u8> {
        let mut payload = Vec::new();
        self.0.put(&mut payload);
        let header = Header {
            magic: MAGIC,
            version: VERSION,
            payload_bytes: payload.len() as u64,
        };
        let mut out = Vec::with_capacity(Header::BYTES_MIN + payload.len() + DIGEST_BYTES);
        header.put(&mut out);
        out.extend_from_slice(&payload);
        let digest = Sha256::digest(&out);
        out.extend_from_slice(&digest);
        out
    }

    /// Reads a metadata file. Any bytes give an entry that holds every invariant, or an error.
    pub fn decode(bytes: &[u8]) -> Result<Meta, MetaError> {
        let mut input = open_sealed(bytes)?;
        let fields = Fields::take(&mut input)?;
        let left = input.left();
        if left > 0 {
            return Err(MetaError::Trailing {
                offset: input.at,
                bytes: left,
            });
        }
        if let Err(source) = fields.check() {
            let offset = Header::BYTES_MIN + fields.offset_of(source.field());
            return Err(MetaError::Invalid { offset, source });
        }
        Ok(Meta(fields))
    }
}

/// Checks all that stands around the payload, and gives the payload.
fn open_sealed(bytes: &[u8]) -> Result<Input<'_>, MetaError> {
    let bytes_min = Header::BYTES_MIN + DIGEST_BYTES;
    if bytes.len() < bytes_min {
        return Err(MetaError::End {
            offset: bytes.len(),
            wanted: bytes_min - bytes.len(),
        });
    }
    let (sealed, digest) = bytes.split_at(bytes.len() - DIGEST_BYTES);
    let mut input = Input {
        bytes: sealed,
        at: 0,
    };
    let header = Header::take(&mut input)?;
    if header.magic != MAGIC {
        return Err(MetaError::Magic);
    }
    if Sha256::digest(sealed).as_slice() != digest {
        return Err(MetaError::Digest {
            offset: sealed.len(),
        });
    }
    if header.version != VERSION {
        return Err(MetaError::Version {
            offset: header.offset_of("version"),
            version: header.version,
        });
    }
    let present = input.left();
    if header.payload_bytes != present as u64 {
        return Err(MetaError::PayloadLength {
            offset: header.offset_of("payload_bytes"),
            stated: header.payload_bytes,
            present,
        });
    }
    Ok(input)
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

/// The bytes before the digest, read from `at` on.
struct Input<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Input<'a> {
    fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], MetaError> {
        if len > self.left() {
            return Err(MetaError::End {
                offset: self.at,
                wanted: len - self.left(),
            });
        }
        let taken = &self.bytes[self.at..][..len];
        self.at += len;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], MetaError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    /// A count of items that take at least `bytes_min` each: never more than can be there.
    fn count(&mut self, bytes_min: usize) -> Result<usize, MetaError> {
        let offset = self.at;
        let count = u64::take(self)?;
        let present = self.left();
        if count > (present / bytes_min) as u64 {
            return Err(MetaError::Count {
                offset,
                count,
                present,
            });
        }
        Ok(count as usize)
    }
}

/// A value with exactly one form in the file.
trait Wire: Sized {
    /// Fewest bytes of a value.
    const BYTES_MIN: usize;
    fn put(&self, out: &mut Vec<u8>);
    fn take(input: &mut Input<'_>) -> Result<Self, MetaError>;
}

/// The fields of a struct in the order of the file: the one definition for both directions.
macro_rules! wire_struct {
    ($name:ident { $($field:ident: $type:ty),* $(,)? }) => {
        impl Wire for $name {
            const BYTES_MIN: usize = 0 $(+ <$type as Wire>::BYTES_MIN)*;
            fn put(&self, out: &mut Vec<u8>) {
                $(self.$field.put(out);)*
            }
            fn take(input: &mut Input<'_>) -> Result<Self, MetaError> {
                Ok($name { $($field: <$type as Wire>::take(input)?,)* })
            }
        }
    };
    (@with_offsets $name:ident { $($field:ident: $type:ty),* $(,)? }) => {
        wire_struct!($name { $($field: $type),* });
        impl $name {
            /// Where the field stands from the struct's beginning, for errors.
            fn offset_of(&self, field: &str) -> usize {
                let mut before = Vec::new();
                $(
                    if field == stringify!($field) {
                        return before.len();
                    }
                    self.$field.put(&mut before);
                )*
                before.len()
            }
        }
    };
}

/// What stands before the payload.
struct Header {
    magic: [u8; 8],
    version: u32,
    payload_bytes: u64,
}

wire_struct!(@with_offsets Header { magic: [u8; 8], version: u32, payload_bytes: u64 });
wire_struct!(@with_offsets Fields {
    id: EntryId,
    repository: String,
    commit: Option<String>,
    refs_digest: [u8; 32],
    created_unix_ms: u64,
    linked: Vec<LinkedFile>,
    layout: Layout,
    jobs: Vec<JobRecord>,
});
wire_struct!(LinkedFile {
    path: String,
    bytes: u64
});
wire_struct!(JobRecord {
    key: [u8; 32],
    spool_offset: u64,
    spool_bytes: u64,
    mtime_s: i64,
    sizes: Vec<u32>,
});

macro_rules! wire_integer {
    ($($type:ty),*) => {$(
        impl Wire for $type {
            const BYTES_MIN: usize = size_of::<$type>();
            fn put(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }
            fn take(input: &mut Input<'_>) -> Result<Self, MetaError> {
                Ok(<$type>::from_le_bytes(input.array()?))
            }
        }
    )*};
}
wire_integer!(u8, u32, u64, i64);

impl<const N: usize> Wire for [u8; N] {
    const BYTES_MIN: usize = N;
    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self);
    }
    fn take(input: &mut Input<'_>) -> Result<Self, MetaError> {
        input.array()
    }
}

/// The list's count and its items; the other direction is that of `Vec`.
fn put_list<T: Wire>(list: &[T], out: &mut Vec<u8>) {
    (list.len() as u64).put(out);
    for item in list {
        item.put(out);
    }
}

impl<T: Wire> Wire for Vec<T> {
    const BYTES_MIN: usize = u64::BYTES_MIN;
    fn put(&self, out: &mut Vec<u8>) {
        put_list(self, out);
    }
    fn take(input: &mut Input<'_>) -> Result<Self, MetaError> {
        let count = input.count(T::BYTES_MIN)?;
        (0..count).map(|_| T::take(input)).collect()
    }
}

/// The text's length and its bytes; the other direction is that of `String`.
fn put_text(text: &str, out: &mut Vec<u8>) {
    (text.len() as u64).put(out);
    out.extend_from_slice(text.as_bytes());
}

impl Wire for String {
    const BYTES_MIN: usize = u64::BYTES_MIN;
    fn put(&self, out: &mut Vec<u8>) {
        put_text(self, out);
    }
    fn take(input: &mut Input<'_>) -> Result<Self, MetaError> {
        let len = input.count(1)?;
        let offset = input.at;
        let text = std::str::from_utf8(input.take(len)?).map_err(|error| MetaError::Value {
            offset: offset + error.valid_up_to(),
            expected: "UTF-8",
        })?;
        Ok(text.to_owned())
    }
}

/// Absent is the empty text, which no present value is.
impl Wire for Option<String> {
    const BYTES_MIN: usize = String::BYTES_MIN;
    fn put(&self, out: &mut Vec<u8>) {
        put_text(self.as_deref().unwrap_or_default(), out);
    }
    fn take(input: &mut Input<'_>) -> Result<Self, MetaError> {
        Ok(Some(String::take(input)?).filter(|text| !text.is_empty()))
    }
}

impl Wire for EntryId {
    const BYTES_MIN: usize = 32;
    fn put(&self, out: &mut Vec<u8>) {
        self.0.put(out);
    }
    fn take(input: &mut Input<'_>) -> Result<Self, MetaError> {
        let offset = input.at;
        let bytes: [u8; 32] = input.array()?;
        if !is_lower_hex(&bytes) {
            return Err(MetaError::Value {
                offset,
                expected: "an entry id",
            });
        }
        Ok(EntryId(bytes))
    }
}

impl Wire for Extent {
    const BYTES_MIN: usize = u8::BYTES_MIN + 2 * u64::BYTES_MIN;
    fn put(&self, out: &mut Vec<u8>) {
        match *self {
            Extent::Spool { offset, len } => {
                EXTENT_SPOOL.put(out);
                offset.put(out);
                len.put(out);
            }
            Extent::RawRun {
                file,
                offset,
                len,
                first_checksum,
            } => {
                EXTENT_RAW_RUN.put(out);
                file.put(out);
                offset.put(out);
                len.put(out);
                first_checksum.put(out);
            }
        }
    }
    fn take(input: &mut Input<'_>) -> Result<Self, MetaError> {
        let offset = input.at;
        // Fields are read in the order they stand here.
        match u8::take(input)? {
            EXTENT_SPOOL => Ok(Extent::Spool {
                offset: u64::take(input)?,
                len: u64::take(input)?,
            }),
            EXTENT_RAW_RUN => Ok(Extent::RawRun {
                file: u32::take(input)?,
                offset: u64::take(input)?,
                len: u64::take(input)?,
                first_checksum: u32::take(input)?,
            }),
            _ => Err(MetaError::Value {
                offset,
                expected: "a kind of extent",
            }),
        }
    }
}

/// The lengths stand in the file although they follow from the extents: so they can be seen
/// without counting, and tie the two together.
impl Wire for Layout {
    const BYTES_MIN: usize = 4 * u64::BYTES_MIN;
    fn put(&self, out: &mut Vec<u8>) {
        self.wire_bytes().put(out);
        self.spool_bytes().put(out);
        put_list(self.extents(), out);
        put_list(self.checksums(), out);
    }
    fn take(input: &mut Input<'_>) -> Result<Self, MetaError> {
        let offset = input.at;
        let stated = (u64::take(input)?, u64::take(input)?);
        let extents = Vec::take(input)?;
        let checksums = Vec::take(input)?;
        let layout = Layout::from_parts(extents, checksums)
            .map_err(|source| MetaError::Layout { offset, source })?;
        if stated != (layout.wire_bytes(), layout.spool_bytes()) {
            return Err(MetaError::Value {
                offset,
                expected: "the lengths that the extents have",
            });
        }
        Ok(layout)
    }
}

#[cfg(test)]
mod tests;
