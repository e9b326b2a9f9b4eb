//! `status`: what there is of a repository, for people and their scripts.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::core::{Asked, Core, Note};
use super::freshness::Taken;
use crate::access::verdicts::Known;
use crate::archive::place::Archive;
use crate::http::net::service::{Answer, Payload};
use crate::http::wire::Method;
use crate::http::wire::response::Head;
use crate::repos::error::StartError;
use crate::repos::repo::{Repo, StateName};
use crate::telemetry::metrics::Outcome;

/// The answer's JSON.
#[derive(Serialize)]
struct Status<'r> {
    repository: &'r str,
    state: StateName,
    head: Option<HeadStatus>,
    comparison: Comparison,
    clone: Option<CloneStatus>,
    snapshots: Vec<SnapshotStatus<'r>>,
}

/// Of the mirror, as far as it was read.
#[derive(Serialize)]
struct HeadStatus {
    branch: Option<String>,
    commit: Option<String>,
}

/// With the upstream.
#[derive(Serialize)]
struct Comparison {
    /// How long ago the last one that succeeded began.
    age_s: Option<u64>,
    /// Why the last one failed, and how long ago, if none has succeeded since.
    error: Option<String>,
    error_age_s: Option<u64>,
}

/// The first one, while it runs or after it has failed.
#[derive(Serialize)]
struct CloneStatus {
    /// While it runs; `None` while it waits for its turn.
    received_bytes: Option<u64>,
    /// Why the last one failed, and how long ago.
    error: Option<String>,
    error_age_s: Option<u64>,
    /// How long none is tried again.
    again_in_s: Option<u64>,
}

impl CloneStatus {
    fn of(repo: &Repo, state: StateName) -> Option<CloneStatus> {
        let failed = repo.not_cloned();
        let seconds = |time: &Duration| time.as_secs();
        match (state, failed) {
            (StateName::Cloning, _) => Some(CloneStatus {
                received_bytes: repo.arrived.bytes(),
                error: None,
                error_age_s: None,
                again_in_s: None,
            }),
            (_, Some((why, ago, left))) => Some(CloneStatus {
                received_bytes: None,
                error: Some(why.message),
                error_age_s: Some(seconds(&ago)),
                again_in_s: Some(seconds(&left)),
            }),
            _ => None,
        }
    }
}

/// One that is served, or is about to be.
#[derive(Serialize)]
struct SnapshotStatus<'r> {
    /// What it is of: HEAD, a ref, a commit, a branch at a commit.
    want: String,
    id: &'r str,
    commit: Option<&'r str>,
    /// How long ago the upstream had this.
    age_s: Option<u64>,
    size_bytes: Option<u64>,
    /// Files that it is made of: packs, files of frames.
    parts: Option<usize>,
}

impl Core {
    /// Answers `GET …/status`.
    pub(super) async fn status(&self, asked: &Asked<'_, '_>, out: &mut Vec<u8>) -> Answer<Note> {
        let mut taken = Taken::by(asked, self.permissions.young());
        if asked.shown.is_some() && asked.repo.is_mirrored() {
            // What there is may be of another repository, which had the name before.
            let asker = asked.asker();
            let fresh = self.fresh_enough((&asked.repo, &asked.named), taken, &asker);
            match fresh.await {
                Ok(fresh) => taken = fresh,
                Err(StartError { status, message }) => {
                    return self.failed(asked, status, &message, out);
                }
            }
        }
        let mut archives = asked.repo.archives();
        archives.retain(|archive| self.may_know_of(asked, taken.since(), archive));
        let mut status = status_of(&asked.repo, &archives);
        let clone_error = status.clone.as_mut().and_then(|clone| clone.error.as_mut());
        for error in status.comparison.error.iter_mut().chain(clone_error) {
            *error = self.without_paths(error).into_owned();
        }
        // Strings and numbers always have a form in JSON.
        let mut json = serde_json::to_string_pretty(&status).unwrap_or_default();
        json.push('\n');
        self.with_date(|date| {
            let head = Head::new(out, 200, date, asked.caching())
                .header("Content-Type", "application/json")
                .content_length(json.len() as u64)
                .connection(asked.head.keep_alive);
            // All values are the program's own.
            let _ = head.finish();
        });
        if asked.head.method != Method::Head {
            out.extend_from_slice(json.as_bytes());
        }
        Answer {
            payload: Payload::Written,
            keep_alive: asked.head.keep_alive,
            note: self.note_for(asked, Outcome::Admin, 200),
        }
    }
}

impl Core {
    /// Whether whoever asks may know that there is an archive: where the upstream's permission decides, what he could
    /// have now.
    fn may_know_of(
        &self,
        asked: &Asked<'_, '_>,
        since: Option<Instant>,
        archive: &Arc<Archive>,
    ) -> bool {
        let (repo, Some(shown)) = (&asked.repo, &asked.shown) else {
            return true;
        };
        match archive.want.commit() {
            Some(id) => {
                let refs = repo.refs_mark();
                self.permissions.is_shown(shown, id.as_slice(), &refs) == Known::Yes
            }
            None => since.is_none_or(|since| {
                repo.moment_of(archive)
                    .is_some_and(|moment| moment.began >= since)
            }),
        }
    }
}

fn status_of<'r>(repo: &'r Repo, archives: &'r [Arc<Archive>]) -> Status<'r> {
    let head = repo.head().map(|head| HeadStatus {
        branch: head.branch.as_ref().map(ToString::to_string),
        commit: head.commit.clone(),
    });
    let since = |began: Instant| began.elapsed().as_secs();
    let failure = repo.failure();
    let snapshot = |archive: &'r Arc<Archive>| SnapshotStatus {
        want: archive.want.to_string(),
        id: archive.id.as_str(),
        commit: archive.commit.as_deref(),
        age_s: repo.moment_of(archive).map(|moment| since(moment.began)),
        size_bytes: archive.fanout.total_bytes(),
        parts: archive.names().map(|names| 1 + names.files().count()),
    };
    let state = repo.state();
    Status {
        repository: &repo.name,
        state,
        clone: CloneStatus::of(repo, state),
        head,
        comparison: Comparison {
            age_s: repo.compared().map(|compared| since(compared.began)),
            error: failure.as_ref().map(|(why, _)| why.message.clone()),
            error_age_s: failure.as_ref().map(|(_, ago)| ago.as_secs()),
        },
        snapshots: archives.iter().map(snapshot).collect(),
    }
}
