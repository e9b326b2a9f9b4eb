//! Why a target stays as it is: what nobody else has of the repository that would be replaced, each
//! with what its user can do.

use std::path::{Path, PathBuf};

use gix::ObjectId;

use super::error::RestoreError;
use super::local::{self, Lost, Unseen};
use super::names::Names;
use super::nested::{self, Submodule};
use super::staging::Staging;
use super::stop::Stop;

/// What would be lost of commits and stashes of the working copy at the target of `staging`, whose repository is at
/// `git_dir`, if its refs were replaced and nothing else. What the `known` lead to somebody else has, and exactly
/// `theirs` the upstream has.
pub(super) fn of_refs(
    stop: &Stop,
    staging: &Staging,
    git_dir: &Path,
    (known, theirs): (&[ObjectId], Vec<ObjectId>),
) -> Result<Lost, Unseen> {
    local::lost_with_refs(stop, git_dir, &staging.old(), (known, theirs))
}

/// The same if these repositories of its submodules were removed.
pub(super) fn of_removed(
    stop: &Stop,
    staging: &Staging,
    submodules: Vec<Submodule>,
) -> Result<Lost, Unseen> {
    local::lost_with(stop, submodules, &staging.old())
}

/// Why a working copy is not updated of which cannot be told what would be lost.
pub(super) fn not_told(target: &Path, unseen: Unseen) -> RestoreError {
    match unseen {
        Unseen::Why(why) => RestoreError::Unseen {
            directory: target.to_owned(),
            why,
        },
        Unseen::Disk(error) => error,
    }
}

/// Refuses to replace what nobody else has of the repository in the target of `staging`.
pub(super) fn check(stop: &Stop, staging: &Staging) -> Result<(), RestoreError> {
    let target = staging.target();
    let found = match nested::worktrees(&target.join(".git")) {
        Ok(linked) if linked.is_empty() => local::lost(stop, target, &staging.old()),
        Ok(linked) => Err(of_worktrees(&linked).into()),
        Err(why) => Err(why.into()),
    };
    let why = match found {
        Ok(lost) => said(&lost).join("; "),
        Err(Unseen::Why(why)) => why,
        Err(Unseen::Disk(error)) => return Err(error),
    };
    match why.is_empty() {
        true => Ok(()),
        false => Err(RestoreError::Usage(format!(
            "{} is not replaced: {why}; or have it go with --discard-local",
            target.display()
        ))),
    }
}

/// Why a repository stays that has these linked worktrees.
pub(super) fn of_worktrees(linked: &[PathBuf]) -> String {
    let names = linked.iter().map(|path| path.display().to_string());
    let names: Names = names.collect();
    format!(
        "it is the repository of linked worktrees, too: {names} (git worktree remove; git worktree unlock and prune \
         for what is gone)"
    )
}

/// What is lost in words, and what may be done about it.
pub(super) fn said(lost: &Lost) -> Vec<String> {
    let kinds = [
        (
            "nobody else may have the commits of",
            &lost.commits,
            "push them first",
        ),
        (
            "nobody else has the stashes",
            &lost.stashes,
            "apply, commit and push them first, or drop them (git stash drop)",
        ),
        (
            "nobody else may have what is no commit and is tagged as",
            &lost.tags,
            "push them first (git push origin TAG)",
        ),
        (
            "nobody else may have what was added of",
            &lost.added,
            "commit and push it first",
        ),
        (
            "nobody else may have what is in the repositories that are in the way,",
            &lost.repositories,
            "move them away first",
        ),
    ];
    let kinds = kinds.iter().filter(|(_, of, _)| !of.is_empty());
    kinds
        .map(|(what, of, advice)| format!("{what} {of}; {advice}"))
        .collect()
}
