//! What an update says of itself.

use gix::ObjectId;

use super::plan::Before;
use crate::config::{RestoreArgs, WorktreeWay};
use crate::restore::error::RestoreError;
use crate::restore::link::Link;
use crate::restore::looked::Looked;
use crate::restore::refs::Refs;
use crate::restore::summary::{
    CheckedOut, EMPTY, FILES, SOURCE_UPDATE, Summary, Worktree, counted, leads_nowhere,
};
use crate::restore::update;

/// What was asked for and is of no use.
pub(super) fn unused(args: &RestoreArgs) -> Vec<&'static str> {
    // In the environment it is there for all restores of a machine; submodules may come anew.
    let is_seeds = args.seed.is_some() && std::env::var_os("TARPON_SEED").is_none();
    let flags = [
        ("--worktree", args.worktree != WorktreeWay::Auto),
        ("--by-parts", args.by_parts),
        ("--by-archive", args.by_archive),
        ("--seed", is_seeds && !args.recurse_submodules),
    ];
    let flags = flags.iter().filter(|(_, is_given)| *is_given);
    flags.map(|(flag, _)| *flag).collect()
}

/// What was done.
pub(super) struct Done {
    /// What was looked at, if it is to be proven.
    pub looked: Option<Looked>,
    /// What is checked out.
    pub commit: Option<ObjectId>,
    /// Of new packs.
    pub bytes: u64,
    /// Files that were written.
    pub written: u64,
    /// Those of them that a program of the user's would have converted.
    pub filtered: u64,
    pub bundle_applied: bool,
    /// Why nothing is checked out.
    pub note: Option<String>,
    /// Nothing of it is another one than before.
    pub is_same: bool,
}

/// Why nothing of these refs is checked out.
pub(super) fn why_nothing(refs: &Refs<'_>) -> String {
    match refs.branch().filter(|_| !refs.is_empty()) {
        Some(branch) => leads_nowhere(&format!("refs/heads/{branch}")),
        None => EMPTY.into(),
    }
}

/// Says what has to be said at once, and gives the rest.
pub(super) fn summary(
    args: &RestoreArgs,
    link: Link<'_>,
    before: &Before,
    done: &Done,
) -> Result<Summary, RestoreError> {
    let filtered = done.filtered;
    if filtered > 0 && !args.quiet {
        let files = counted(filtered, FILES);
        link.progress.say(&format!(
            "{files} with a filter are written as the repository has them: of git-lfs pointers, for which git lfs pull gets \
             the files"
        ));
    }
    let directory = args.dir.to_string_lossy();
    let mut summary = link.progress.summary(&args.repo_url, &directory);
    summary.source = SOURCE_UPDATE;
    summary.worktree = Some(Worktree::Packs);
    summary.origin = before.copy.restored.origin();
    summary.bundle_applied = done.bundle_applied;
    (summary.bytes, summary.entries) = (Some(done.bytes), Some(done.written));
    let branch = update::branch_of(&before.copy.git_dir)?;
    summary.head = CheckedOut {
        commit: done.commit.map(|commit| commit.to_string()),
        from: before.scratch.head.map(|commit| commit.to_string()),
        is_same: done.is_same && branch == before.branch,
        branch,
    };
    summary.verified = done.looked.as_ref().map(Looked::proven_of_copy);
    summary.note.clone_from(&done.note);
    Ok(summary)
}
