//! What an answer says of an archive, and which archive a request names.

use std::sync::Arc;

use crate::archive::place::Archive;
use crate::http::wire::head::RequestHead;
use crate::http::wire::precondition::{Conditions, Verdict, evaluate, if_range_matches};
use crate::http::wire::response::Head;
use crate::io::clock::unix_ms;
use crate::repos::repo::Repo;
use crate::telemetry::metrics::Outcome;

/// Whether the request's conditions hold for `archive` and one of them is its tag.
pub(super) fn names(head: &RequestHead<'_>, archive: &Archive) -> bool {
    names_tag(head, &archive.etag)
}

/// The same of the archive with this tag.
pub(super) fn names_tag(head: &RequestHead<'_>, etag: &str) -> bool {
    let conditions = Conditions {
        if_match: head.if_match,
        ..Conditions::default()
    };
    evaluate(&conditions, etag, true) == Verdict::Proceed
        && head
            .if_range
            .is_none_or(|value| if_range_matches(value, etag))
}

/// The headers that say what an archive is.
pub(super) fn describe<'b>(
    head: Head<'b>,
    (repo, archive): (&Repo, &Arc<Archive>),
    outcome: Outcome,
) -> Head<'b> {
    let disposition = "attachment; filename=\"snapshot.tar.zst\"";
    let head = head
        .header("Content-Type", "application/zstd")
        .header("Content-Disposition", disposition)
        .header("Accept-Ranges", "bytes");
    say(head, (repo, archive), outcome)
}

/// What is said of an archive that stands, whatever of it is sent.
pub(super) fn describe_kept<'b>(head: Head<'b>, of: (&Repo, &Arc<Archive>)) -> Head<'b> {
    say(head, of, Outcome::Hit)
}

fn say<'b>(head: Head<'b>, (repo, archive): (&Repo, &Arc<Archive>), outcome: Outcome) -> Head<'b> {
    let status = match outcome {
        // Not that it is stored: whether it will be is not known yet.
        Outcome::Build => "tarpon; fwd=uri-miss",
        Outcome::Follow => "tarpon; fwd=uri-miss; collapsed",
        _ => "tarpon; hit",
    };
    let head = match age_s(repo, archive) {
        Some(seconds) => head.age_s(seconds),
        None => head,
    };
    let commit = archive.commit.as_deref().unwrap_or("");
    head.header("X-Cachew-Snapshot-Commit", commit)
        .header("Cache-Status", status)
}

/// Names the bundle that brings the archive of a plain request up to the mirror's HEAD, if that has moved on.
pub(super) fn name_bundle<'b>(head: Head<'b>, repo: &Repo, archive: &Archive) -> Head<'b> {
    if !archive.want.is_default() {
        return head;
    }
    let mirror = repo.head();
    let ahead = mirror.as_ref().and_then(|mirror| mirror.commit.as_ref());
    match &archive.commit {
        Some(base) if ahead.is_some_and(|ahead| ahead != base) => {
            let url = format!("/git/{}/snapshot.bundle?base={base}", repo.name);
            head.header("X-Cachew-Bundle-Url", &url)
        }
        _ => head,
    }
}

/// How long ago the upstream had what `archive` has, in seconds, as far as is known.
fn age_s(repo: &Repo, archive: &Arc<Archive>) -> Option<u64> {
    // A commit does not age.
    if !archive.want.follows() {
        return None;
    }
    let moment = repo.moment_of(archive);
    let here = moment.map(|moment| moment.began.elapsed().as_secs());
    let elsewhere = archive.seen_elsewhere_unix_ms();
    let elsewhere = elsewhere.map(|seen| unix_ms().saturating_sub(seen) / 1_000);
    here.into_iter().chain(elsewhere).min()
}
