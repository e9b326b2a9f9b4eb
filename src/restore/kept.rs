//! Why a target stays as it is: what nobody else has of the repository that would be replaced, each
//! with what its user can do.

use std::path::Path;

use gix::ObjectId;

use super::error::RestoreError;
use super::local::{self, Lost, Unseen};
use super::nested::{self, Submodule};
use super::staging::Staging;
use super::stop::Stop;
use crate::limits::LOCAL_NAMED_MAX;

/// Refuses to bring the working copy at the target of `staging`, whose repository is at `git_dir`, to another commit if
/// commits or stashes would be lost with its refs. What the `known` lead to somebody else has.
pub(super) fn check_update(
    stop: &Stop,
    staging: &Staging,
    git_dir: &Path,
    known: &[ObjectId],
) -> Result<(), RestoreError> {
    let lost = local::lost_with_refs(stop, git_dir, &staging.old(), known);
    updates(staging, lost)
}

/// The same if these repositories of its submodules were removed.
pub(super) fn check_removed(
    stop: &Stop,
    staging: &Staging,
    submodules: Vec<Submodule>,
) -> Result<(), RestoreError> {
    updates(staging, local::lost_with(stop, submodules, &staging.old()))
}

fn updates(staging: &Staging, lost: Result<Lost, Unseen>) -> Result<(), RestoreError> {
    let target = staging.target();
    let why = match lost {
        Ok(lost) => said(&lost),
        Err(Unseen::Why(why)) => Some(why),
        Err(Unseen::Disk(error)) => return Err(error),
    };
    match why {
        None => Ok(()),
        Some(why) => Err(RestoreError::Usage(format!(
            "{} is not updated: {why}; or have it go with --discard-local",
            target.display()
        ))),
    }
}

/// Refuses to replace what nobody else has of the repository in the target of `staging`.
pub(super) fn check(stop: &Stop, staging: &Staging) -> Result<(), RestoreError> {
    let target = staging.target();
    let found = match nested::worktrees(&target.join(".git")) {
        Ok(linked) if linked.is_empty() => local::lost(stop, target, &staging.old()),
        Ok(linked) => {
            let linked = linked.iter().take(LOCAL_NAMED_MAX);
            let linked: Vec<String> = linked.map(|path| path.display().to_string()).collect();
            Err(format!(
                "it is the repository of the linked worktrees {}, too; remove those first (git \
                 worktree remove)",
                linked.join(", ")
            )
            .into())
        }
        Err(why) => Err(why.into()),
    };
    let why = match found {
        Ok(lost) => said(&lost),
        Err(Unseen::Why(why)) => Some(why),
        Err(Unseen::Disk(error)) => return Err(error),
    };
    match why {
        None => Ok(()),
        Some(why) => Err(RestoreError::Usage(format!(
            "{} is not replaced: {why}; or have it go with --discard-local",
            target.display()
        ))),
    }
}

/// What is lost in words, if there is any.
fn said(lost: &Lost) -> Option<String> {
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
            "nobody else may have what was added of",
            &lost.added,
            "commit and push it first",
        ),
    ];
    let kinds = kinds.iter().filter(|(_, of, _)| !of.is_empty());
    let said: Vec<String> = kinds
        .map(|(what, of, advice)| format!("{what} {}; {advice}", of.join(", ")))
        .collect();
    (!said.is_empty()).then(|| said.join("; "))
}
