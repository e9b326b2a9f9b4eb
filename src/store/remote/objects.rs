//! What is asked of an object store: four promises, and nothing else.
//!
//! An object appears whole; a read after a write sees it; a write may be "only if absent" or "only if unchanged";
//! several readers of one object cost nothing.

use std::error::Error;
use std::ops::Range;
use std::time::Duration;

use super::key::RandomId;
use super::sums::{FileError, SummedFile};
use crate::limits::{REMOTE_TRIES_MAX, STORE_LISTED_MAX, SWAP_RETRY_MS};

/// What tells one content of an object from another: its `ETag`, which nobody but the store understands.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Version(pub String);

/// An object as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its content.
    pub bytes: Vec<u8>,
    /// Its version.
    pub version: Version,
}

/// What is found of an object of which some version is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Got {
    /// There is none.
    Absent,
    /// It is that version.
    Same,
    /// It is another one.
    Found(Found),
}

impl Got {
    /// What was read is that.
    #[must_use]
    pub fn of(found: Option<Found>, known: Option<&Version>) -> Got {
        match found {
            None => Got::Absent,
            Some(found) if known == Some(&found.version) => Got::Same,
            Some(found) => Got::Found(found),
        }
    }
}

/// What a part is made of, where it is uploaded from a machine.
#[derive(Debug, Clone)]
pub enum Content {
    /// These bytes.
    Bytes(Vec<u8>),
    /// A file that does not change.
    File(SummedFile),
}

impl ObjectError {
    /// Whether it comes to the same if it is done again at once.
    #[must_use]
    pub fn is_final(&self) -> bool {
        matches!(
            self,
            ObjectError::Denied { .. }
                | ObjectError::Local { .. }
                | ObjectError::Resting { .. }
                | ObjectError::Ends { .. }
        )
    }
}

impl Content {
    /// How long it is.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        match self {
            Content::Bytes(bytes) => bytes.len() as u64,
            Content::File(file) => file.pieces.bytes,
        }
    }
}

/// An object that lies below a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The last element of its key.
    pub name: String,
    /// Its length.
    pub bytes: u64,
}

/// Some of what lies below a directory.
#[derive(Debug, Default)]
pub struct Page {
    /// The names of directories.
    pub dirs: Vec<String>,
    /// The objects.
    pub objects: Vec<Listed>,
    /// By what the next page is asked for, if there is one.
    pub next: Option<String>,
}

/// What must hold of an object for a write to happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// There is none.
    Absent,
    /// It is this version.
    Unchanged(Version),
}

impl Condition {
    /// Whether it still holds of what was found.
    #[must_use]
    pub fn holds_of(&self, found: Option<&Found>) -> bool {
        match (self, found) {
            (Condition::Absent, None) => true,
            (Condition::Unchanged(version), Some(found)) => *version == found.version,
            _ => false,
        }
    }
}

/// Why something was not done; or it was done, and the answer got lost: of a write nobody knows.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// The condition does not hold, or so the store says.
    #[error("cannot {op} {key}: it is not as it was")]
    Refused {
        /// What was to be done.
        op: &'static str,
        /// To what.
        key: String,
    },
    /// It is longer than anything that is expected there.
    #[error("cannot {op} {key}: it has more than {bytes_max} bytes")]
    TooLong {
        /// What was to be done.
        op: &'static str,
        /// To what.
        key: String,
        /// What is allowed.
        bytes_max: usize,
    },
    /// There is more than anybody lists.
    #[error("cannot {op} {key}: it has more than {STORE_LISTED_MAX} objects")]
    TooMany {
        /// What was to be done.
        op: &'static str,
        /// Where.
        key: String,
    },
    /// It should be there, and is not, or not all of it.
    #[error("cannot {op} {key}: it is not there, or is shorter")]
    Absent {
        /// What was to be done.
        op: &'static str,
        /// To what.
        key: String,
    },
    /// What was to be uploaded is not as it was built, or cannot be read: the store has no part in it.
    #[error("cannot upload {key}: {source}")]
    Local {
        /// To what.
        key: String,
        /// What is the matter.
        source: FileError,
    },
    /// This server may not do that, or is not known there.
    #[error("cannot {op} {key}: the store refuses it: {source}")]
    Denied {
        /// What was to be done.
        op: &'static str,
        /// To what.
        key: String,
        /// In its words.
        source: Box<dyn Error + Send + Sync>,
    },
    /// Nobody was asked: the store has not answered lately.
    #[error("cannot {op} {key}: the store does not answer, and is left alone for a while")]
    Resting {
        /// What was to be done.
        op: &'static str,
        /// To what.
        key: String,
    },
    /// The process is about to end, and begins nothing any more.
    #[error("cannot {op} {key}: the server ends")]
    Ends {
        /// What was to be done.
        op: &'static str,
        /// To what.
        key: String,
    },
    /// Anything else.
    #[error("cannot {op} {key}: {source}")]
    Failed {
        /// What was to be done.
        op: &'static str,
        /// To what.
        key: String,
        /// Why it was not.
        source: Box<dyn Error + Send + Sync>,
    },
}

/// A store. Keys are below its prefix; each method asks once, so that who calls knows what may have happened.
pub trait Objects {
    /// What a part is uploaded from: a file, or what stands for one.
    type Content;

    /// Writes a small object if the condition holds, and gives its version.
    fn swap(
        &self,
        key: &str,
        bytes: Vec<u8>,
        condition: &Condition,
    ) -> impl Future<Output = Result<Version, ObjectError>>;

    /// Writes an object that nobody else writes.
    fn upload(
        &self,
        key: &str,
        content: &Self::Content,
    ) -> impl Future<Output = Result<(), ObjectError>>;

    /// Reads a small object, if there is one.
    fn get(
        &self,
        key: &str,
        bytes_max: usize,
    ) -> impl Future<Output = Result<Option<Found>, ObjectError>>;

    /// The same unless it is the version that is known.
    fn get_unless(
        &self,
        key: &str,
        bytes_max: usize,
        known: Option<&Version>,
    ) -> impl Future<Output = Result<Got, ObjectError>> {
        async move { Ok(Got::of(self.get(key, bytes_max).await?, known)) }
    }

    /// Reads a part of an object, which must be there and as long.
    fn get_range(
        &self,
        key: &str,
        range: Range<u64>,
    ) -> impl Future<Output = Result<Vec<u8>, ObjectError>>;

    /// What lies below a directory; no more than [`STORE_LISTED_MAX`].
    fn list(&self, dir: &str) -> impl Future<Output = Result<Vec<Listed>, ObjectError>>;

    /// Removes an object. That there is none is no error.
    fn delete(&self, key: &str) -> impl Future<Output = Result<(), ObjectError>>;

    /// Does something with what was read or is to be written that may take a while, where it holds up nobody.
    fn apart<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = T> {
        async move { work() }
    }

    /// Waits before something is done again that has failed so often, longer each time, and never as long as another.
    fn before_again(&self, tries: usize) -> impl Future<Output = ()> {
        let wait_ms = SWAP_RETRY_MS << tries.min(REMOTE_TRIES_MAX);
        let jitter = RandomId::drawn().map_or(0, |drawn| drawn.0 % u128::from(wait_ms));
        let jitter_ms = u64::try_from(jitter).unwrap_or(0);
        tokio::time::sleep(Duration::from_millis(wait_ms + jitter_ms))
    }
}
