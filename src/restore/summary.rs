//! What a restore says of itself.

use serde::Serialize;

use super::proven::Proven;
use crate::io::say::line;

/// What a restore is made of.
pub(super) const SOURCE_SNAPSHOT: &str = "snapshot";
/// The same when the server had none.
pub(super) const SOURCE_CLONE: &str = "clone";

/// The same when an existing working copy was brought to another commit.
pub(super) const SOURCE_UPDATE: &str = "update";

/// Why nothing is checked out.
pub(super) const EMPTY: &str = "the repository is empty: nothing is checked out";

/// The same where HEAD leads to what is not there.
pub(super) fn leads_nowhere(head: &str) -> String {
    format!("HEAD leads to {head}, which does not exist: nothing is checked out")
}

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

impl Phases {
    /// Each took from the end of the one that ended before it; one that did not take place no time. They ended at these
    /// microseconds, and it is `now_us`.
    pub(super) fn of(ends_us: [u64; 5], now_us: u64) -> Phases {
        // Of two that ended at once the later one took no time.
        let took_ms = |number: usize, end_us: u64| {
            let others = ends_us.iter().enumerate();
            let before = others.filter(|(other, us)| (**us, *other) < (end_us, number));
            let before_us = before.map(|(_, us)| *us).max().unwrap_or_default();
            (end_us - before_us) as f64 / 1000.0
        };
        let [answer, download, make, prove, submodules] =
            std::array::from_fn(|number| took_ms(number, ends_us[number]));
        Phases {
            answer,
            download,
            make,
            prove,
            submodules,
            place: took_ms(ends_us.len(), now_us),
        }
    }
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

impl Failure {
    /// What is known of a restore that failed, by what its summary would be.
    pub(super) fn of(error: &str, exit_code: u8, summary: Summary) -> Failure {
        Failure {
            error: line(error),
            exit_code,
            repository: summary.repository,
            directory: summary.directory,
            bytes: summary.bytes.unwrap_or_default(),
            entries: summary.entries.unwrap_or_default(),
            resumes: summary.resumes,
            first_byte_ms: summary.first_byte_ms,
            total_ms: summary.total_ms,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_are_all_of_the_time_whichever_did_not_take_place() {
        let sum = |ends_us, now_us| {
            let all = Phases::of(ends_us, now_us);
            let waits = [all.answer, all.download, all.make];
            let rest = [all.prove, all.submodules, all.place];
            waits.iter().chain(&rest).sum::<f64>()
        };
        for ends_us in [
            [0; 5],
            [1000, 5000, 9000, 9000, 9000],
            [1000, 5000, 9000, 0, 9000],
            [0, 0, 7000, 7000, 0],
            // Files were made before all had come.
            [1000, 8000, 5000, 9000, 9500],
        ] {
            assert_eq!(sum(ends_us, 10_000), 10.0, "{ends_us:?}");
        }
        let all = Phases::of([1000, 5000, 9000, 9500, 9500], 10_000);
        assert_eq!((all.prove, all.submodules, all.place), (0.5, 0.0, 0.5));
    }
}
