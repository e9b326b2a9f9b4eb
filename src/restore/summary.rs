//! What a restore says of itself.

use serde::Serialize;

use super::proven::Proven;

/// What a restore is made of.
pub(super) const SOURCE_SNAPSHOT: &str = "snapshot";
/// The same when the server had none.
pub(super) const SOURCE_CLONE: &str = "clone";

/// The same when an existing working copy was brought to another commit.
pub(super) const SOURCE_UPDATE: &str = "update";

/// A size for people.
pub(super) fn size(bytes: u64) -> String {
    let kib = bytes as f64 / 1024.0;
    match bytes {
        0..0x400 => format!("{bytes} bytes"),
        0x400..0x10_0000 => format!("{kib:.1} KiB"),
        0x10_0000..0x4000_0000 => format!("{:.1} MiB", kib / 1024.0),
        _ => format!("{:.1} GiB", kib / 1024.0 / 1024.0),
    }
}

/// What files, entries and submodules are called, one and several of them.
pub(super) const FILES: [&str; 2] = ["file", "files"];
/// See [`FILES`].
pub(super) const ENTRIES: [&str; 2] = ["entry", "entries"];
/// See [`FILES`].
pub(super) const UNTRACKED: [&str; 2] = ["untracked entry", "untracked entries"];
/// See [`FILES`].
pub(super) const SUBMODULES: [&str; 2] = ["submodule", "submodules"];

/// So many of them, for people.
pub(super) fn counted(count: u64, [one, several]: [&str; 2]) -> String {
    match count {
        1 => format!("1 {one}"),
        count => format!("{count} {several}"),
    }
}

/// What a worktree is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Worktree {
    /// Its files came as they are.
    Frames,
    /// Of the objects that packs have.
    Packs,
}

impl Worktree {
    pub(super) fn of(is_made: bool) -> Worktree {
        match is_made {
            true => Worktree::Packs,
            false => Worktree::Frames,
        }
    }
}

/// How long a restore was at what, one after the other: `total_ms` in all.
#[derive(Debug, Serialize)]
pub(super) struct Phases {
    /// Until the first answer.
    pub answer: f64,
    /// Until all was there; most is made meanwhile.
    pub download: f64,
    pub make: f64,
    pub prove: f64,
    pub submodules: f64,
    /// Until all is in its place, and dated.
    pub place: f64,
}

/// What is checked out.
#[derive(Debug, Default, Serialize)]
pub(super) struct CheckedOut {
    pub commit: Option<String>,
    /// What was before, where there was a working copy that was brought to it.
    pub from: Option<String>,
    /// As which branch; for people.
    #[serde(skip)]
    pub branch: Option<String>,
    /// Whether nothing is another one than before; for people.
    #[serde(skip)]
    pub is_same: bool,
}

/// All submodules together.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(super) struct Counted {
    pub count: u64,
    /// See [`Summary`].
    pub bytes: u64,
    pub seed_bytes: u64,
    pub entries: u64,
    pub cleaned: u64,
    /// Some are at another commit than before, or were not there.
    #[serde(skip)]
    pub is_changed: bool,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
pub(super) struct Summary {
    pub repository: String,
    pub directory: String,
    /// What the repository says that it is from, without a password.
    pub origin: String,
    /// See [`SOURCE_SNAPSHOT`].
    pub source: &'static str,
    #[serde(flatten)]
    pub head: CheckedOut,
    /// Why nothing is.
    pub note: Option<String>,
    pub bundle_applied: bool,
    /// What `--verify` has proven; `None` without it.
    pub verified: Option<Proven>,
    /// Of the archive, as it came; unknown of a clone, as are the entries.
    pub bytes: Option<u64>,
    /// Of parts that a seed had.
    pub seed_bytes: u64,
    /// What the files were made of; unknown of a clone.
    pub worktree: Option<Worktree>,
    pub entries: Option<u64>,
    /// What `--clean` has removed, a directory with all in it counted as one; `None` where it was not asked for.
    pub cleaned: Option<u64>,
    /// What was done for submodules, nested ones included; `None` unless they were asked for.
    pub submodules: Option<Counted>,
    pub resumes: u64,
    /// How long ago the snapshot was compared with its upstream; `None` where the server does not say.
    pub age_s: Option<u64>,
    /// `None` if no server has answered.
    pub first_byte_ms: Option<f64>,
    pub download_ms: f64,
    /// Summed over threads, as is `write_ms`.
    pub decode_ms: f64,
    pub write_ms: f64,
    pub phases_ms: Phases,
    pub total_ms: f64,
}

/// What `--json` prints when nothing was restored: why, and what is known.
#[derive(Debug, Serialize)]
pub(super) struct Failure {
    pub error: String,
    pub exit_code: u8,
    /// Both are unknown of a command line that nothing can be made of.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub repository: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub directory: String,
    pub bytes: u64,
    pub entries: u64,
    pub resumes: u64,
    /// `None` if no server has answered.
    pub first_byte_ms: Option<f64>,
    pub total_ms: f64,
}
