//! What is left of repositories of submodules that went piece by piece, by a run that was killed: it had looked at them,
//! and their HEAD goes first. What has one is a repository, and is looked at as any other.

use std::fs;
use std::path::{Path, PathBuf};

/// Those of these paths, relative to the repository at `git_dir`, which the note of such a run names.
pub(super) fn of(git_dir: &Path, mut named: Vec<PathBuf>) -> Vec<PathBuf> {
    named.retain(|path| is_rest(git_dir, path));
    named.sort_unstable();
    // What is inside of one goes with it.
    named.dedup_by(|later, first| later.starts_with(&*first));
    named
}

/// Keeps those that have nothing to do with these repositories: what is inside of one goes with it, or stays.
pub(super) fn keep_apart(rests: &mut Vec<PathBuf>, from: &[PathBuf]) {
    let is_apart = |rest: &Path, one: &Path| !rest.starts_with(one) && !one.starts_with(rest);
    rests.retain(|rest| from.iter().all(|one| is_apart(rest, one)));
}

/// Whether the directory at `path` has some of them, or is one.
pub(super) fn has(rests: &[PathBuf], path: &Path) -> bool {
    rests.iter().any(|rest| rest.starts_with(path))
}

/// Only directories lead to it, and it has no HEAD.
fn is_rest(git_dir: &Path, path: &Path) -> bool {
    let above = path
        .ancestors()
        .filter(|above| !above.as_os_str().is_empty());
    let is_directory = |path: &Path| {
        let found = fs::symlink_metadata(git_dir.join(path));
        found.is_ok_and(|found| found.is_dir())
    };
    let has_head = fs::symlink_metadata(git_dir.join(path).join("HEAD")).is_ok();
    above.into_iter().all(is_directory) && !has_head
}
