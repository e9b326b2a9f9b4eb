//! Why refs cannot be read.

use std::io;
use std::path::PathBuf;

use gix::bstr::BString;

/// Why the refs of a mirror could not be read.
#[derive(Debug, thiserror::Error)]
pub enum RefsError {
    #[error("cannot read {}: {source}", .path.display())]
    Io { path: PathBuf, source: io::Error },
    /// `line` counts from 1.
    #[error("{} line {line}: {what}", .path.display())]
    Malformed {
        path: PathBuf,
        line: usize,
        what: &'static str,
    },
    #[error("{} line {line}: invalid ref name {name:?}", .path.display())]
    Name {
        path: PathBuf,
        line: usize,
        name: BString,
    },
    #[error("{} is larger than {limit} bytes", .path.display())]
    TooLarge { path: PathBuf, limit: u64 },
}
