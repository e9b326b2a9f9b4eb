//! Why a restore failed, and the exit code that says so.

use std::io;
use std::path::{Path, PathBuf};

use super::summary::size;
use crate::config::GivenUrl;

/// Why nothing was restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error("{0}")]
    Usage(String),
    #[error("the server has no snapshot: {0}")]
    NoSnapshot(String),
    /// Not to whoever asks.
    #[error("the server refuses: {0}")]
    Denied(String),
    #[error("{0}")]
    Server(String),
    /// The archive that was being read is no longer the server's.
    #[error("the server's snapshot changed while it was read; try again")]
    Changed,
    #[error("cannot {op} {}: {source}", .path.display())]
    Disk {
        op: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    /// What is to be written is more than is allowed.
    #[error("{}", over_limit(*.limit_bytes, *.is_given))]
    SizeLimit { limit_bytes: u64, is_given: bool },
    /// More files, links and directories are to be made.
    #[error(
        "more files and directories are to be made than the {limit} that leave enough of the file system's \
         inodes free; --free-floor allows more, and with --size-limit inodes are not looked at"
    )]
    EntryLimit { limit: u64 },
    #[error("the archive is corrupt at byte {offset}: {what}")]
    Corrupt { offset: u64, what: String },
    #[error("the archive is refused: entry {entry:?}: {why}")]
    Entry { entry: String, why: String },
    /// What would be lost of what was there before cannot be told.
    #[error("{} is not updated: {why}; have it go with --discard-local", .directory.display())]
    Unseen { directory: PathBuf, why: String },
    /// What was there before, and is to be built upon.
    #[error(
        "{} is not updated: its {} is damaged: {what}; --overwrite --discard-local restores it whole, and what only it has goes",
        .directory.display(), .path.display()
    )]
    Damaged {
        directory: PathBuf,
        path: PathBuf,
        what: String,
    },
    #[error("git {step}: {detail}")]
    Git { step: String, detail: String },
    /// The server could not, and a clone cannot be tried either.
    #[error(
        "{first}; for a clone instead \"{url}\" would have to be a URL, such as https://HOST/PATH"
    )]
    NoUrl {
        first: Box<RestoreError>,
        url: GivenUrl,
    },
    /// A submodule could not be had, nor cloned where that was to be tried.
    #[error("submodule {} ({url} at {commit}): {source}", .path.display())]
    Submodule {
        path: PathBuf,
        url: GivenUrl,
        commit: String,
        source: Box<RestoreError>,
    },
    #[error("not as asked for on the server or its upstream: {0}")]
    Missing(String),
    /// A fault of tarpon's own: whoever waited for that thread must not wait for ever.
    #[error("a thread that {0} ended before its time: this is a fault of tarpon's")]
    Thread(&'static str),
    #[error("interrupted by {signal}; {}", left(*.has_changed))]
    Interrupted {
        signal: &'static str,
        /// Whether the target is no more what it was.
        has_changed: bool,
    },
}

/// What an interrupted restore leaves.
fn left(has_changed: bool) -> &'static str {
    match has_changed {
        true => "the working copy is on its way; the same command again brings it to the end",
        false => "nothing was left behind",
    }
}

impl RestoreError {
    /// The process's exit code, as `--help` lists them.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::Unseen { .. } | Self::Damaged { .. } => 1,
            Self::NoSnapshot(_) | Self::Denied(_) => 2,
            Self::Server(_) | Self::Changed => 3,
            Self::Disk { .. } | Self::SizeLimit { .. } | Self::EntryLimit { .. } => 4,
            Self::Corrupt { .. } | Self::Entry { .. } => 5,
            Self::Git { .. } => 6,
            Self::NoUrl { first, .. } => first.exit_code(),
            Self::Submodule { source, .. } => source.exit_code(),
            Self::Missing(_) => 7,
            Self::Thread(_) => 101,
            Self::Interrupted { .. } => 130,
        }
    }

    /// Whether a clone from the upstream may help: the server could not give what was asked for. It
    /// is no help where that cannot be had, or cannot be put where it was asked for.
    pub fn is_servers(&self) -> bool {
        match self {
            Self::NoSnapshot(_) | Self::Denied(_) => true,
            Self::Server(_) | Self::Changed => true,
            Self::Corrupt { .. } | Self::Entry { .. } | Self::Thread(_) => true,
            // What comes after an archive is fetched from the server, too.
            Self::Git { .. } => true,
            Self::Usage(_) | Self::Unseen { .. } | Self::Damaged { .. } => false,
            Self::Disk { .. } => false,
            Self::SizeLimit { .. } | Self::EntryLimit { .. } => false,
            Self::NoUrl { .. } | Self::Missing(_) | Self::Interrupted { .. } => false,
            Self::Submodule { .. } => false,
        }
    }

    /// Whether the disk failed, or no more of it may be taken.
    pub fn is_disks(&self) -> bool {
        self.exit_code() == 4
    }

    /// The same failure, which says whose it is if it is a server's.
    pub(super) fn of_server(self, authority: &str) -> Self {
        match self {
            Self::Server(what) if !what.starts_with(&format!("{authority}: ")) => {
                Self::Server(format!("{authority}: {what}"))
            }
            error => error,
        }
    }

    /// The same failure, as that of a submodule.
    pub(super) fn of_submodule(self, path: &Path, url: &str, commit: &str) -> Self {
        Self::Submodule {
            path: path.to_owned(),
            url: GivenUrl::new(url),
            commit: commit.to_owned(),
            source: Box::new(self),
        }
    }

    pub(super) fn entry(path: &[u8], why: impl Into<String>) -> Self {
        let entry = String::from_utf8_lossy(path).into_owned();
        let why = why.into();
        Self::Entry { entry, why }
    }

    pub(super) fn disk(
        op: &'static str,
        path: impl Into<PathBuf>,
        source: impl Into<io::Error>,
    ) -> Self {
        let (path, source) = (path.into(), source.into());
        Self::Disk { op, path, source }
    }
}

/// Makes an error of the system's one of the disk's.
pub(super) fn failed(op: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RestoreError {
    let path = path.to_owned();
    move |e| RestoreError::disk(op, path, e)
}

fn over_limit(limit_bytes: u64, is_given: bool) -> String {
    match is_given {
        true => format!(
            "more is to be written than --size-limit allows, {}",
            size(limit_bytes)
        ),
        false => format!(
            "more is to be written than the {} that may be written there (--free-floor, or --size-limit, says how much that \
             is); make room, or name a directory of another file system",
            size(limit_bytes)
        ),
    }
}
