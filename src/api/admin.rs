//! What runs the server: repositories are made, fetched anew and dropped, and the log is filtered otherwise.
//! And what there is of all repositories, for who may see their names.

use std::rc::Rc;
use std::sync::Arc;

use serde::Serialize;

use super::core::{Core, Note};
use crate::http::net::service::{Answer, Payload};
use crate::http::wire::Method;
use crate::http::wire::caching::{Caching, Reach};
use crate::http::wire::head::RequestHead;
use crate::http::wire::response::Head;
use crate::http::wire::route::RepoRef;
use crate::http::wire::table::Wish;
use crate::limits::STATUS_REPOSITORIES_MAX;
use crate::repos::error::StartError;
use crate::repos::repo::{Repo, StateName};
use crate::telemetry::log;
use crate::telemetry::metrics::Outcome;

/// The JSON of the whole server.
#[derive(Serialize)]
struct ServerStatus<'r> {
    version: &'static str,
    cache_bytes: u64,
    mirrors: u64,
    snapshots: u64,
    /// The first by name.
    repositories: Vec<RepositoryStatus<'r>>,
    /// How many more there are.
    left_out: usize,
}

#[derive(Serialize)]
struct RepositoryStatus<'r> {
    repository: &'r str,
    state: StateName,
    /// How long ago the last comparison with the upstream that succeeded began.
    age_s: Option<u64>,
    snapshots: usize,
}

impl Core {
    /// Answers `GET /status`.
    pub(super) fn server_status(&self, head: &RequestHead<'_>, out: &mut Vec<u8>) -> Answer<Note> {
        let mut repos = self.catalog.registry.all();
        let left_out = repos.len().saturating_sub(STATUS_REPOSITORIES_MAX);
        // Of more not all are shown, and this is a core.
        if left_out == 0 {
            repos.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        }
        let of = |repo: &'_ Arc<Repo>| (repo.state(), repo.archives().len(), repo.compared());
        let shown = repos.iter().take(STATUS_REPOSITORIES_MAX).map(|repo| {
            let (state, snapshots, compared) = of(repo);
            RepositoryStatus {
                repository: &repo.name,
                state,
                age_s: compared.map(|compared| compared.began.elapsed().as_secs()),
                snapshots,
            }
        });
        let usage = &self.catalog.usage;
        let status = ServerStatus {
            version: env!("CARGO_PKG_VERSION"),
            cache_bytes: usage.all_bytes(),
            mirrors: usage.mirrors(),
            snapshots: usage.snapshots(),
            repositories: shown.collect(),
            left_out,
        };
        // Strings and numbers always have a form in JSON.
        let mut json = serde_json::to_string_pretty(&status).unwrap_or_default();
        json.push('\n');
        self.with_date(|date| {
            let caching = Caching {
                reach: Reach::Asker,
                ..Caching::NEVER
            };
            let head = Head::new(out, 200, date, caching)
                .header("Content-Type", "application/json")
                .content_length(json.len() as u64)
                .connection(head.keep_alive);
            // All values are the program's own.
            let _ = head.finish();
        });
        if head.method != Method::Head {
            out.extend_from_slice(json.as_bytes());
        }
        Answer {
            payload: Payload::Written,
            keep_alive: head.keep_alive,
            note: self.note(head, Outcome::Admin, 200),
        }
    }

    /// Answers `POST /admin/git/…`: begins what takes long, does what does not.
    pub(super) async fn wish(
        self: &Rc<Self>,
        head: &RequestHead<'_>,
        (repo, wish): (RepoRef<'_>, Wish),
        out: &mut Vec<u8>,
    ) -> Answer<Note> {
        let named = format!("{}/{}", repo.host, repo.path);
        let done = match wish {
            Wish::Prewarm => match self.repo(repo) {
                Some(repo) => {
                    self.plane.spawn(|jobs| jobs.prewarm(repo));
                    Ok((202, "begun; its status says how it goes"))
                }
                None => Err(not_served(&named)),
            },
            Wish::Refetch => match self.known(repo) {
                Some(Some(repo)) if repo.is_mirrored() => {
                    self.plane.spawn(|jobs| jobs.refetch(repo));
                    Ok((202, "begun; what there is is served until it is done"))
                }
                _ => Err(not_mirrored(&named)),
            },
            Wish::Drop => {
                let name = self
                    .key(repo)
                    .map_or(named.as_str().into(), |key| key.name());
                let dropped = self.ask(move |jobs| jobs.drop_repository(name));
                dropped.await.map(|()| (200, "dropped"))
            }
        };
        let (outcome, status) = match &done {
            Ok((status, _)) => (Outcome::Admin, *status),
            Err(why) if why.status >= 500 => (Outcome::Error, why.status),
            Err(why) => (Outcome::Refused, why.status),
        };
        let line = match &done {
            Ok((_, line)) => line,
            Err(why) => &*why.message,
        };
        Answer {
            payload: self.text(head, status, line, out),
            keep_alive: head.keep_alive,
            note: Note {
                repository: Arc::from(named),
                ..self.note(head, outcome, status)
            },
        }
    }

    /// Answers `POST /admin/log`.
    pub(super) fn log_filter(
        &self,
        head: &RequestHead<'_>,
        filter: &str,
        out: &mut Vec<u8>,
    ) -> Answer<Note> {
        let (status, line) = match log::set_filter(filter) {
            Ok(()) => (200, format!("the log is filtered by {filter}")),
            Err(why) => (400, why),
        };
        let outcome = if status == 200 {
            Outcome::Admin
        } else {
            Outcome::Refused
        };
        Answer {
            payload: self.text(head, status, &line, out),
            keep_alive: head.keep_alive,
            note: self.note(head, outcome, status),
        }
    }
}

fn not_served(named: &str) -> StartError {
    StartError {
        status: 403,
        message: format!("{named} is of no upstream of this server"),
    }
}

fn not_mirrored(named: &str) -> StartError {
    StartError {
        status: 404,
        message: format!("there is no mirror of {named}"),
    }
}
