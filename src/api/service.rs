//! A network core as the service of its connections: routes each request to its endpoint, and counts
//! and logs what became of it.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use super::core::{Asked, Core, Note};
use super::gate::Entry;
use super::git_protocol;
use super::parts::NO_PART;
use super::pass::Pass;
use super::refused::{Refused, Why, logged_path};
use super::snapshot::NOTHING_CACHED;
use crate::access::permissions::Shown;
use crate::config::RepoKey;
use crate::http::net::body::{Body, BodyReader};
use crate::http::net::service::{Answer, BodyUse, Done, GivenUp, Payload, Peer, Service};
use crate::http::net::socket::SendError;
use crate::http::wire::caching::{Caching, Reach};
use crate::http::wire::head::{Framing, RequestHead};
use crate::http::wire::response::{Head, Text};
use crate::http::wire::route::{RepoRef, Route, route};
use crate::http::wire::{Method, Reject};
use crate::limits::{BODY_BYTES_MAX, ENSURE_BODY_BYTES_MAX, METRICS_REPOSITORIES_MAX};
use crate::repos::repo::{First, Repo};
use crate::telemetry::log::{RequestLog, RequestRecord};
use crate::telemetry::metrics::{DropReason, Event, Gauges, Outcome, Timing};

impl Core {
    /// What the repository is found by, if its host is one of the upstreams: here a request's spelling of it ends.
    pub(super) fn key<'r>(&'r self, repo: RepoRef<'r>) -> Option<RepoKey<'r>> {
        self.config.upstreams.key(repo.host, repo.path)
    }

    /// The repository, if its host is one of the upstreams. If it is not known it is so from here on, as it is
    /// spelled now.
    pub(super) fn repo(&self, repo: RepoRef<'_>) -> Option<Arc<Repo>> {
        let key = self.key(repo)?;
        if let Some(known) = self.catalog.registry.get(&key) {
            return Some(known);
        }
        let url = self.config.upstreams.url_for(key.host(), repo.path)?;
        let first = || First {
            spelled: format!("{}/{}", key.host(), repo.path),
            mirror: self.catalog.state.mirror_path(key.host(), key.path()),
            url,
        };
        Some(self.catalog.registry.get_or_add(&key, first))
    }

    /// The repository, if its host is one of the upstreams and it was asked for before.
    pub(super) fn known(&self, repo: RepoRef<'_>) -> Option<Option<Arc<Repo>>> {
        let key = self.key(repo)?;
        let known = self.catalog.registry.get(&key);
        let upstream = || self.config.upstreams.url_for(key.host(), repo.path);
        (known.is_some() || upstream().is_some()).then_some(known)
    }

    /// Whether this repository's host is one of the upstreams.
    fn is_served(&self, repo: RepoRef<'_>) -> bool {
        self.known(repo).is_some()
    }

    /// Answers a request for something of a repository.
    async fn of_repository(
        self: &Rc<Self>,
        (head, peer): (&RequestHead<'_>, &Peer),
        (repo, route): (RepoRef<'_>, Route<'_>),
        (pass, shown): (Pass, Option<Shown>),
        body: Body,
        out: &mut Vec<u8>,
    ) -> Answer<Note> {
        let named = match route.named() {
            Ok(named) => named,
            Err(reject) => return self.refuse_repository(head, repo, 400, reject.message, out),
        };
        let known = match head.method {
            // Asking what there is must not make anything known.
            Method::Head => self.known(repo),
            _ if matches!(route, Route::Status(_)) => self.known(repo),
            // Others may have shared it.
            _ if matches!(route, Route::Part { .. }) && self.config.store.is_none() => {
                self.known(repo)
            }
            _ => self.repo(repo).map(Some),
        };
        let Some(known) = known else {
            let message = format!(
                "{} is not one of this server's upstreams; a repository is named HOST/PATH, and who runs the server adds a \
                 host with --upstream {}",
                repo.host, repo.host
            );
            return self.refuse_repository(head, repo, 403, &message, out);
        };
        let Some(repo) = known else {
            let nothing = match route {
                Route::Status(_) => NOTHING_KNOWN,
                Route::Part { .. } => NO_PART,
                _ => NOTHING_CACHED,
            };
            return self.refuse_repository(head, repo, 404, nothing, out);
        };
        let asked = Asked {
            head,
            row: route.endpoint().row(),
            pass,
            reach: self.reach(head.target),
            repo,
            named,
            peer,
            shown,
        };
        if let Route::Status(_) = route {
            return self.status(&asked, out).await;
        }
        if asked.repo.asked.note() {
            let repo = asked.repo.clone();
            self.plane.spawn(|jobs| jobs.look_often(repo));
        }
        match route {
            Route::Manifest { .. } => self.manifest(&asked, out).await,
            Route::Part { name, .. } => self.part(&asked, name, out).await,
            Route::Bundle { base, .. } => self.bundle(&asked, base, out).await,
            Route::EnsureRefs(_) => self.ensure_refs(&asked, body, out).await,
            Route::InfoRefs(_) => self.info_refs(&asked, out).await,
            Route::UploadPack(_) => self.upload_pack(&asked, body, out).await,
            _ => self.snapshot(&asked, out).await,
        }
    }

    /// An answer of one line about a repository that nothing is known of; the log names it.
    pub(super) fn refuse_repository(
        &self,
        head: &RequestHead<'_>,
        repo: RepoRef<'_>,
        status: u16,
        message: &str,
        out: &mut Vec<u8>,
    ) -> Answer<Note> {
        let note = self.note(head, Outcome::Refused, status);
        let repository = Arc::from(format!("{}/{}", repo.host, repo.path));
        Answer {
            payload: self.text(head, status, message, out),
            keep_alive: head.keep_alive,
            note: Note {
                repository,
                reason: Some(message.into()),
                ..note
            },
        }
    }

    fn reject(&self, head: &RequestHead<'_>, reject: &Reject, out: &mut Vec<u8>) -> Answer<Note> {
        let text = Text {
            reach: self.reach(head.target),
            ..Text::reject(reject, head.keep_alive, head.method == Method::Head)
        };
        let _ = self.with_date(|date| text.write(out, date));
        let note = self.note(head, Outcome::Refused, reject.status);
        let path = Some(logged_path(head.target));
        Answer {
            payload: Payload::Written,
            keep_alive: head.keep_alive && !reject.close,
            note: Note {
                path,
                reason: Some(reject.message.into()),
                ..note
            },
        }
    }

    fn admin(
        &self,
        head: &RequestHead<'_>,
        status: u16,
        message: &str,
        out: &mut Vec<u8>,
    ) -> Answer<Note> {
        Answer {
            payload: self.text(head, status, message, out),
            keep_alive: head.keep_alive,
            note: self.note(head, Outcome::Admin, status),
        }
    }

    /// The levels that are not counted but looked up; without asking the file system.
    fn gauges(&self) -> Gauges {
        let (usage, marks) = (&self.catalog.usage, self.catalog.usage.marks());
        Gauges {
            cache_bytes: usage.all_bytes(),
            cache_part_bytes: usage.part_bytes(),
            cache_limit_bytes: marks.high_bytes,
            cache_low_bytes: marks.low_bytes,
            cache_entries: usage.snapshots(),
            cache_wants: usage.wants(),
            mirrors: usage.mirrors(),
            open_files: self.open_files.count() as u64,
            open_files_limit: self.open_files.max() as u64,
            connections_limit: self.door.admission.max() as u64,
            body_bytes: self.door.bodies.used_bytes(),
        }
    }

    /// With names of repositories for who may see them.
    fn metrics(&self, head: &RequestHead<'_>, pass: &Pass, out: &mut Vec<u8>) -> Answer<Note> {
        let now = crate::io::clock::unix_ms();
        let mut repos = match pass {
            Pass::Entrance | Pass::Token(..) => self.catalog.registry.all(),
            _ => Vec::new(),
        };
        // Of more not all are shown, and this is a core.
        if repos.len() <= METRICS_REPOSITORIES_MAX {
            repos.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        }
        let ages = repos.iter().filter_map(|repo| {
            let fresh = repo.fresh_unix_ms()?;
            let age = std::time::Duration::from_millis(now.saturating_sub(fresh));
            Some((&*repo.name, age))
        });
        let mut text = String::new();
        let ages = ages.take(METRICS_REPOSITORIES_MAX);
        self.metrics.render(&self.gauges(), ages, &mut text);
        self.with_date(|date| {
            let caching = Caching {
                reach: Reach::Asker,
                ..Caching::NEVER
            };
            let written = Head::new(out, 200, date, caching)
                .header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
                .content_length(text.len() as u64)
                .connection(head.keep_alive)
                .finish();
            // All values are the program's own.
            let _ = written;
        });
        if head.method != Method::Head {
            out.extend_from_slice(text.as_bytes());
        }
        Answer {
            payload: Payload::Written,
            keep_alive: head.keep_alive,
            note: self.note(head, Outcome::Admin, 200),
        }
    }
}

impl Service for Core {
    type Note = Note;
    type Entry<'h> = Entry<'h>;

    async fn enter<'h>(self: &Rc<Self>, head: &RequestHead<'h>, peer: &Peer) -> Entry<'h> {
        self.entry(head, peer).await
    }

    async fn answer<'h>(
        self: &Rc<Self>,
        head: &RequestHead<'h>,
        peer: &Peer,
        (entry, body): (Entry<'h>, Body),
        out: &mut Vec<u8>,
    ) -> Answer<Note> {
        let entry = match body.len_bytes() {
            0 => entry,
            // It may have taken long.
            _ => self.entry_again(entry, head, peer).await,
        };
        let (route, (pass, shown)) = match entry {
            Entry::LetIn(route, passed) => (route, passed),
            Entry::Refused(route, refused) => return self.not_let_in((head, &route), refused, out),
            Entry::Nowhere(reject) => return self.reject(head, &reject, out),
        };
        let written = out.len();
        let answer = match route {
            Route::Snapshot { repo, .. }
            | Route::Manifest { repo, .. }
            | Route::Part { repo, .. }
            | Route::Bundle { repo, .. }
            | Route::EnsureRefs(repo)
            | Route::InfoRefs(repo)
            | Route::UploadPack(repo)
            | Route::Status(repo) => {
                self.of_repository(
                    (head, peer),
                    (repo, route),
                    (pass.clone(), shown),
                    body,
                    out,
                )
                .await
            }
            Route::Webhook(repo) => self.webhook(head, repo, body, out),
            Route::Liveness => self.admin(head, 200, "alive", out),
            Route::Readiness if self.is_closing() => self.admin(head, 503, "stopping", out),
            Route::Readiness if !self.warmth.is_there() => {
                self.admin(head, 503, "taking from the store what was used lately", out)
            }
            Route::Readiness => self.admin(head, 200, "ready", out),
            Route::Metrics => self.metrics(head, &pass, out),
            Route::ServerStatus => self.server_status(head, out),
            Route::LogFilter(filter) => self.log_filter(head, filter, out),
            Route::Wish(repo, wish) => self.wish(head, (repo, wish), out).await,
        };
        let still = match self.still(&pass, &peer.identity) {
            true => Ok(()),
            // It is long ago that its upstream was asked.
            false => match self.let_in(pass.clone(), (route.repo(), head, peer)).await {
                Ok(_) if pass.is_said() => Ok(()),
                Ok(_) => Err(Refused::Named(Why::Meanwhile)),
                Err(refused) => Err(refused),
            },
        };
        let Err(refused) = still else {
            let note = Note {
                who: self.name_of(&pass, peer),
                ..answer.note
            };
            return Answer { note, ..answer };
        };
        // No byte of it has left.
        out.truncate(written);
        self.not_let_in((head, &route), refused, out)
    }

    fn refuse(&self, reject: &Reject, out: &mut Vec<u8>) {
        let text = Text::reject(reject, false, false);
        // Its text is the program's own.
        let _ = self.with_date(|date| text.write(out, date));
        self.meter.add(Event::Request(Outcome::Refused), 1);
        self.meter.add(Event::Response(reject.status), 1);
    }

    fn body_use(&self, head: &RequestHead<'_>, entry: &Entry<'_>) -> BodyUse {
        let Entry::LetIn(route, _) = entry else {
            return BodyUse::Refuse;
        };
        match *route {
            Route::EnsureRefs(repo) if self.is_served(repo) => BodyUse::Keep(ENSURE_BODY_BYTES_MAX),
            Route::UploadPack(repo)
                if self.is_served(repo) && git_protocol::upload_form(head).is_ok() =>
            {
                BodyUse::Keep(BODY_BYTES_MAX)
            }
            Route::Webhook(repo) => match self.webhook_bytes(head, repo) {
                Some(most) => BodyUse::Read(most),
                None => BodyUse::Refuse,
            },
            Route::EnsureRefs(_) | Route::UploadPack(_) => BodyUse::Refuse,
            _ => BodyUse::Discard,
        }
    }

    fn body_reader(&self, head: &RequestHead<'_>) -> Box<dyn BodyReader> {
        let repo = match route(head.method, head.target) {
            Ok(Route::Webhook(repo)) => repo,
            _ => None,
        };
        Box::new(self.hearing(head, repo))
    }

    fn is_vital(&self, head: &RequestHead<'_>) -> bool {
        let route = route(head.method, head.target);
        let is_vital = matches!(
            route,
            Ok(Route::Liveness | Route::Readiness | Route::Metrics)
        );
        is_vital && matches!(head.framing, Framing::None | Framing::Length(0))
    }

    fn done(&self, note: Note, done: Done, peer: &Peer) {
        let since_asked = |at: Instant| at.duration_since(done.asked).as_micros() as u64;
        // What a preamble says is not what was asked for.
        let (first, outcome) = match &note.behind {
            None => (done.sent.first, note.outcome),
            Some(behind) => match behind.get() {
                Some((outcome, at)) => (Some(at), outcome),
                None => (None, note.outcome),
            },
        };
        let failed = done.result.as_ref().err();
        let dropped = failed.and_then(|why| dropped(why, self.is_closing()));
        let outcome = match (failed, dropped) {
            (Some(_), None) => Outcome::Error,
            _ => outcome,
        };
        let reason = || failed.map(|why| why.to_string().into());
        let reason = note.reason.or_else(reason);
        let ttfb_us = first.map(since_asked);
        let total_us = since_asked(Instant::now());
        self.meter.add(Event::Request(outcome), 1);
        self.meter.add(Event::Response(note.status), 1);
        self.meter.add(Event::SentBytes, done.sent.bytes);
        self.meter.observe_us(Timing::Duration, total_us);
        if let Some(us) = ttfb_us {
            self.meter.observe_us(Timing::Ttfb, us);
        }
        if let Some(why) = dropped {
            self.meter.add(Event::ClientDropped(why), 1);
        }
        let record = RequestRecord {
            repository: note.repository,
            want: note.want,
            path: note.path,
            reason,
            who: note.who,
            method: note.method,
            outcome,
            status: note.status,
            bytes: done.sent.bytes,
            complete: done.result.is_ok(),
            ttfb_us,
            total_us,
            peer: peer.address,
        };
        if RequestLog::is_wanted() {
            self.log.push(record, &self.meter);
        }
    }

    fn given_up(&self, why: GivenUp) {
        let event = match why {
            GivenUp::Silent => Event::ClientDropped(DropReason::Idle),
            GivenUp::Crowded => Event::ClientDropped(DropReason::Crowded),
            GivenUp::SlowBody => Event::ClientDropped(DropReason::Slow),
            GivenUp::NoRoom => Event::BodyRefused,
            GivenUp::Gone => Event::ClientDropped(DropReason::Gone),
            GivenUp::Handshake => Event::ClientDropped(DropReason::Handshake),
        };
        self.meter.add(event, 1);
    }

    fn unanswered(&self, head: &RequestHead<'_>, peer: &Peer, asked: Instant, why: GivenUp) {
        self.given_up(why);
        let (outcome, status) = match why {
            // What is sent to make way is counted there.
            GivenUp::Crowded => (Outcome::Refused, 503),
            _ => {
                self.meter.add(Event::Request(Outcome::Left), 1);
                (Outcome::Left, STATUS_LEFT)
            }
        };
        let note = self.note(head, outcome, status);
        let record = RequestRecord {
            repository: asked_repository(head).unwrap_or(note.repository),
            want: None,
            path: note.path,
            reason: note.reason,
            who: note.who,
            method: note.method,
            outcome,
            status,
            bytes: 0,
            complete: false,
            ttfb_us: None,
            total_us: asked.elapsed().as_micros() as u64,
            peer: peer.address,
        };
        if RequestLog::is_wanted() {
            self.log.push(record, &self.meter);
        }
    }

    async fn closing(&self) {
        let mut closing = self.closing.clone();
        // The sender lives as long as the cores; without it the server is closing, too.
        let _ = closing.wait_for(|closing| *closing).await;
    }

    fn is_closing(&self) -> bool {
        *self.closing.borrow()
    }
}

/// What `status` says of what nobody has asked for.
const NOTHING_KNOWN: &str = "nothing is known of it; a GET of its snapshot.tar.zst has it built";

/// Why a client has not got all of its answer, if that is not the answer's fault.
fn dropped(why: &SendError, is_closing: bool) -> Option<DropReason> {
    match why {
        SendError::Left(_) => Some(DropReason::Gone),
        SendError::Stalled(_) => Some(DropReason::Stall),
        SendError::Slow => Some(DropReason::Slow),
        SendError::Crowded => Some(DropReason::Crowded),
        SendError::Cut => is_closing.then_some(DropReason::Shutdown),
        SendError::Source(_) => None,
    }
}

/// What the log says of a request whose client left before it was answered, as others do.
const STATUS_LEFT: u16 = 499;

/// `host/path` of the repository that a request is about.
fn asked_repository(head: &RequestHead<'_>) -> Option<Arc<str>> {
    let repo = route(head.method, head.target).ok()?.repo()?;
    Some(Arc::from(format!("{}/{}", repo.host, repo.path)))
}
