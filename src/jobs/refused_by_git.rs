//! What `git upload-pack` says of a request that it does not take, and what its client hears of that.

use crate::mirror::MirrorError;
use crate::repos::error::StartError;
use crate::repos::repo::Repo;

/// What git says of a request that is at fault itself, or that nothing can come of: all ends of that kind that there are
/// in its `serve.c`, `upload-pack.c`, `pkt-line.c`, `shallow.c` and `list-objects-filter-options.c`. The mirror has no
/// part in these.
const MISTAKES: &[&str] = &[
    // serve.c, pkt-line.c
    "protocol error",
    "unknown capability",
    "capability requires an argument",
    "invalid command",
    "after already requesting command",
    "no command requested",
    "unknown object format",
    "mismatched object format",
    // upload-pack.c
    "unexpected line",
    "expected flush",
    "expected SHA1",
    "not our ref",
    "unknown ref",
    "duplicate want-ref",
    "invalid shallow",
    "Invalid deepen",
    "deepen-not",
    "filtering capability not negotiated",
    // shallow.c
    "no commits selected for shallow requests",
    // list-objects-filter-options.c
    "invalid filter-spec",
    "expected 'tree:<depth>'",
    "expected something after combine:",
    "filters support has been dropped",
    "is not a valid object type",
    "must escape char in sub-filter-spec",
    "cannot be combined",
    "incompatible with any other filter",
];

/// What a client hears of a git that failed. What else git says names files of this server: that is for the log.
pub(super) fn answer(repo: &Repo, error: &MirrorError) -> StartError {
    if let MirrorError::Git { stderr, .. } = error
        && let Some(said) = mistake(stderr)
    {
        return StartError {
            status: 400,
            message: format!("git does not understand the request: {said}"),
        };
    }
    if !matches!(error, MirrorError::Output { .. }) {
        tracing::warn!(repository = &*repo.name, "{error}");
    }
    let why = match error {
        MirrorError::Git { .. } => "git failed here; the log of the server says why",
        _ => return super::look::failed(repo, error),
    };
    super::look::failed(repo, &why)
}

/// The line in which git says so, parts of which are the client's.
fn mistake(stderr: &str) -> Option<&str> {
    let is_it = |line: &&str| {
        line.starts_with("fatal: ") && MISTAKES.iter().any(|text| line.contains(text))
    };
    stderr.lines().find(is_it)
}
