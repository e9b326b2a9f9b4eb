//! A network core's service: routes requests, keeps the core's counters and log.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};

use super::background::Command;
use super::git_protocol;
use super::registry::{Repo, StartError};
use super::shared::{Entry, Shared};
use super::snapshot::NOTHING_CACHED;
use crate::http::bodies::Body;
use crate::http::head::{Framing, RequestHead};
use crate::http::idle::{Idle, Rank, Waiting};
use crate::http::pulse::Pulse;
use crate::http::response::{Head, Text, retry_after_s};
use crate::http::route::{RepoRef, Route, route};
use crate::http::service::{Answer, BodyUse, Done, GivenUp, Payload, Service};
use crate::http::socket::{CoreSockets, SendError};
use crate::http::{Method, Reject};
use crate::limits::{BODY_BYTES_MAX, ENSURE_BODY_BYTES_MAX, METRICS_REPOSITORIES_MAX, PLACE_LOOKS};
use crate::log::{RequestLog, RequestRecord};
use crate::metrics::{DropReason, Event, Level, Meter, Outcome, Timing};

/// What a core remembers of a request until its answer is sent.
pub struct Note {
    pub(super) repository: Arc<str>,
    pub(super) method: &'static str,
    pub(super) outcome: Outcome,
    pub(super) status: u16,
}

/// A request for something of a repository, with what is needed to answer it.
pub(super) struct Asked<'r, 'h> {
    pub(super) head: &'r RequestHead<'h>,
    pub(super) repo: Arc<Repo>,
    pub(super) peer: SocketAddr,
}

/// Where the background plane's answer to a core goes.
pub(super) type Reply<T> = oneshot::Sender<Result<T, StartError>>;

/// One for each core.
pub struct Core {
    pub(super) shared: Arc<Shared>,
    pub(super) meter: Meter,
    log: RequestLog,
    closing: watch::Receiver<bool>,
    /// Turns true when the grace time is over.
    cut: watch::Sender<bool>,
    date: RefCell<Date>,
    open: Cell<usize>,
    /// Connections that are being turned away.
    refusals: Rc<Idle>,
    no_repository: Arc<str>,
}

/// The current time as an HTTP date, made once a second.
struct Date {
    made: Option<Instant>,
    text: String,
}

impl Core {
    /// The service of core number `index`. `closing` turns true when the server stops.
    pub fn new(
        shared: Arc<Shared>,
        index: usize,
        log: RequestLog,
        closing: watch::Receiver<bool>,
    ) -> Core {
        Core {
            meter: shared.metrics.meter(index),
            shared,
            log,
            closing,
            cut: watch::Sender::new(false),
            date: RefCell::new(Date {
                made: None,
                text: String::new(),
            }),
            open: Cell::new(0),
            refusals: Idle::unshown(),
            no_repository: Arc::from(""),
        }
    }

    /// The server's configuration.
    pub fn config(&self) -> &crate::config::Config {
        &self.shared.config
    }

    /// What the sockets of this core, number `index`, share.
    pub fn sockets(&self, index: usize, pulse: Option<Rc<Pulse>>) -> Rc<CoreSockets> {
        let idle = Idle::of_core(self.shared.idle.clone(), index);
        Rc::new(CoreSockets::new(pulse, idle, self.shared.bodies.clone()))
    }

    /// Whether this core is to panic: tests do that.
    pub fn panics(&self) -> bool {
        self.shared.faults.core_panics()
    }

    /// A connection was accepted. Whether it is to be served; if not, there are too many.
    pub async fn admit(&self) -> bool {
        let admission = &self.shared.admission;
        // The one that has waited longest makes room, on whichever core it is.
        let mut entry = admission.enter(|| self.shared.idle.close_oldest());
        let mut looks = PLACE_LOOKS;
        while entry == Entry::Soon && looks > 0 {
            // That core has something else to do for a moment. Nobody more is told to end meanwhile.
            monoio::time::sleep(Duration::from_millis(1)).await;
            entry = admission.enter(|| true);
            looks -= 1;
        }
        if entry != Entry::Entered {
            self.meter.add(Event::ConnectionRefused, 1);
            return false;
        }
        self.open.set(self.open.get() + 1);
        self.meter.add(Event::Connection, 1);
        self.meter.up(Level::ConnectionsOpen);
        true
    }

    /// A place for a client to be told that it is turned away. The one who has it longest makes room;
    /// `None` when those before have not yet left.
    pub fn refusal(&self) -> Option<Waiting> {
        let max = refusals_max(self.shared.admission.spare(), self.shared.config.cores);
        if self.refusals.len() >= max {
            self.refusals.close_oldest();
        }
        (self.refusals.len() < 2 * max).then(|| self.refusals.enter(Rank::Request))
    }

    /// A connection that was admitted has ended.
    pub fn closed(&self) {
        self.shared.admission.leave();
        self.open.set(self.open.get() - 1);
        self.meter.down(Level::ConnectionsOpen);
    }

    /// Open connections.
    pub fn open(&self) -> usize {
        self.open.get()
    }

    /// Ends all connections: the grace time is over.
    pub fn cut_off(&self) {
        tracing::warn!(connections = self.open(), "cut off: the grace time is over");
        self.cut.send_replace(true);
    }

    /// Ready when connections are to end whatever they do.
    pub async fn cut(&self) {
        let mut cut = self.cut.subscribe();
        // The sender is this core's own.
        let _ = cut.wait_for(|cut| *cut).await;
    }

    /// Calls `with` with the date of now.
    pub(super) fn with_date<T>(&self, with: impl FnOnce(&str) -> T) -> T {
        let mut date = self.date.borrow_mut();
        let fresh = date.made.is_some_and(|made| made.elapsed().as_secs() < 1);
        if !fresh {
            date.made = Some(Instant::now());
            date.text = httpdate::fmt_http_date(std::time::SystemTime::now());
        }
        with(&date.text)
    }

    /// An answer of one line.
    pub(super) fn text(
        &self,
        head: &RequestHead<'_>,
        status: u16,
        message: &str,
        out: &mut Vec<u8>,
    ) -> Payload {
        let text = Text {
            status,
            message,
            allow: None,
            retry_after_s: retry_after_s(status),
            keep_alive: head.keep_alive,
            head_only: head.method == Method::Head,
        };
        // The text is sent as one line whatever is in it.
        let _ = self.with_date(|date| text.write(out, date));
        Payload::Written
    }

    pub(super) fn note(&self, head: &RequestHead<'_>, outcome: Outcome, status: u16) -> Note {
        Note {
            repository: self.no_repository.clone(),
            method: method_name(head.method),
            outcome,
            status,
        }
    }

    /// The repository, if its host is one of the upstreams.
    fn repo(&self, repo: RepoRef<'_>) -> Option<Arc<Repo>> {
        let shared = &self.shared;
        if let Some(known) = shared.registry.get(repo.host, repo.path) {
            return Some(known);
        }
        let host = shared.config.upstreams.spelled(repo.host)?;
        let url = shared.config.upstreams.url_for(host, repo.path)?;
        let mirror = || shared.state.mirror_path(host, repo.path);
        let registry = &shared.registry;
        Some(registry.get_or_add(host, repo.path, mirror, || url))
    }

    /// The repository, if its host is one of the upstreams and it was asked for before.
    fn known(&self, repo: RepoRef<'_>) -> Option<Option<Arc<Repo>>> {
        let shared = &self.shared;
        let host = shared.config.upstreams.spelled(repo.host)?;
        let known = shared.registry.get(host, repo.path);
        let upstream = || shared.config.upstreams.url_for(host, repo.path);
        (known.is_some() || upstream().is_some()).then_some(known)
    }

    /// Has the background plane do something, and waits for what it says.
    pub(super) async fn ask<T>(
        &self,
        command: impl FnOnce(Reply<T>) -> Command,
    ) -> Result<T, StartError> {
        let (reply, answer) = oneshot::channel();
        self.shared.tell(command(reply));
        answer.await.unwrap_or_else(|_| {
            Err(StartError {
                status: 503,
                message: "the server is stopping; try again".into(),
            })
        })
    }

    /// An answer that says why there is nothing.
    pub(super) fn failed(
        &self,
        asked: &Asked<'_, '_>,
        status: u16,
        message: &str,
        out: &mut Vec<u8>,
    ) -> Answer<Note> {
        let outcome = match status {
            500.. => Outcome::Error,
            _ => Outcome::Refused,
        };
        Answer {
            payload: self.text(asked.head, status, message, out),
            keep_alive: asked.head.keep_alive,
            note: self.note_for(asked, outcome, status),
        }
    }

    pub(super) fn note_for(&self, asked: &Asked<'_, '_>, outcome: Outcome, status: u16) -> Note {
        Note {
            repository: asked.repo.name.clone(),
            ..self.note(asked.head, outcome, status)
        }
    }

    /// Whether this repository's host is one of the upstreams.
    fn is_served(&self, repo: RepoRef<'_>) -> bool {
        self.known(repo).is_some()
    }

    /// Answers a request for something of a repository.
    async fn of_repository(
        &self,
        head: &RequestHead<'_>,
        peer: SocketAddr,
        (repo, route): (RepoRef<'_>, Route<'_>),
        body: Body,
        out: &mut Vec<u8>,
    ) -> Answer<Note> {
        let known = match head.method {
            // Asking what there is must not make anything known.
            Method::Head => self.known(repo),
            _ => self.repo(repo).map(Some),
        };
        let Some(known) = known else {
            let message = format!(
                "{} is not one of this server's upstreams; start it with --upstream {}",
                repo.host, repo.host
            );
            return self.refuse_repository(head, repo, 403, &message, out);
        };
        let Some(repo) = known else {
            // Only snapshots take HEAD.
            return self.refuse_repository(head, repo, 404, NOTHING_CACHED, out);
        };
        let asked = Asked { head, repo, peer };
        match route {
            Route::Bundle { base, .. } => self.bundle(&asked, base, out).await,
            Route::EnsureRefs(_) => self.ensure_refs(&asked, body, out).await,
            Route::InfoRefs(_) => self.info_refs(&asked, out).await,
            Route::UploadPack(_) => self.upload_pack(&asked, body, out).await,
            _ => self.snapshot(&asked, out).await,
        }
    }

    /// An answer of one line about a repository that nothing is known of; the log names it.
    fn refuse_repository(
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
            note: Note { repository, ..note },
        }
    }

    fn reject(&self, head: &RequestHead<'_>, reject: &Reject, out: &mut Vec<u8>) -> Answer<Note> {
        let text = Text::reject(reject, head.keep_alive, head.method == Method::Head);
        let _ = self.with_date(|date| text.write(out, date));
        Answer {
            payload: Payload::Written,
            keep_alive: head.keep_alive && !reject.close,
            note: self.note(head, Outcome::Refused, reject.status),
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

    fn metrics(&self, head: &RequestHead<'_>, out: &mut Vec<u8>) -> Answer<Note> {
        let now = super::archive::unix_ms();
        let repos = self.shared.registry.all();
        let ages = repos.iter().filter_map(|repo| {
            let fresh = repo.fresh_unix_ms()?;
            let age = std::time::Duration::from_millis(now.saturating_sub(fresh));
            Some((&*repo.name, age))
        });
        let mut text = String::new();
        let ages = ages.take(METRICS_REPOSITORIES_MAX);
        self.shared
            .metrics
            .render(&self.shared.gauges(), ages, &mut text);
        self.with_date(|date| {
            let written = Head::new(out, 200, date)
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

/// How many clients a core may be telling at a time that it turns them away.
fn refusals_max(all: usize, cores: NonZeroUsize) -> usize {
    (all / cores).max(1)
}

/// What the log says of a request whose client left before it was answered, as others do.
const STATUS_LEFT: u16 = 499;

/// `host/path` of the repository that a request is about.
fn asked_repository(head: &RequestHead<'_>) -> Option<Arc<str>> {
    let repo = route(head.method, head.target).ok()?.repo()?;
    Some(Arc::from(format!("{}/{}", repo.host, repo.path)))
}

fn method_name(method: Method) -> &'static str {
    match method {
        Method::Get => "GET",
        Method::Head => "HEAD",
        Method::Post => "POST",
        Method::Other => "other",
    }
}

impl Service for Core {
    type Note = Note;

    async fn answer(
        &self,
        head: &RequestHead<'_>,
        peer: SocketAddr,
        body: Body,
        out: &mut Vec<u8>,
    ) -> Answer<Note> {
        let route = match route(head.method, head.target) {
            Ok(route) => route,
            Err(reject) => return self.reject(head, &reject, out),
        };
        match route {
            Route::Snapshot(repo)
            | Route::Bundle { repo, .. }
            | Route::EnsureRefs(repo)
            | Route::InfoRefs(repo)
            | Route::UploadPack(repo) => {
                self.of_repository(head, peer, (repo, route), body, out)
                    .await
            }
            Route::Liveness => self.admin(head, 200, "alive", out),
            Route::Readiness if self.is_closing() => self.admin(head, 503, "stopping", out),
            Route::Readiness => self.admin(head, 200, "ready", out),
            Route::Metrics => self.metrics(head, out),
        }
    }

    fn refuse(&self, reject: &Reject, out: &mut Vec<u8>) {
        let text = Text::reject(reject, false, false);
        // Its text is the program's own.
        let _ = self.with_date(|date| text.write(out, date));
        self.meter.add(Event::Request(Outcome::Refused), 1);
        self.meter.add(Event::Response(reject.status), 1);
    }

    fn body_use(&self, head: &RequestHead<'_>) -> BodyUse {
        match route(head.method, head.target) {
            Ok(Route::EnsureRefs(repo)) if self.is_served(repo) => {
                BodyUse::Keep(ENSURE_BODY_BYTES_MAX)
            }
            Ok(Route::UploadPack(repo))
                if self.is_served(repo) && git_protocol::upload_form(head).is_ok() =>
            {
                BodyUse::Keep(BODY_BYTES_MAX)
            }
            Err(_) | Ok(Route::EnsureRefs(_) | Route::UploadPack(_)) => BodyUse::Refuse,
            Ok(_) => BodyUse::Discard,
        }
    }

    fn is_vital(&self, head: &RequestHead<'_>) -> bool {
        let route = route(head.method, head.target);
        let is_vital = matches!(
            route,
            Ok(Route::Liveness | Route::Readiness | Route::Metrics)
        );
        is_vital && matches!(head.framing, Framing::None | Framing::Length(0))
    }

    fn done(&self, note: Note, done: Done, peer: SocketAddr) {
        let since_asked = |at: Instant| at.duration_since(done.asked).as_micros() as u64;
        let ttfb_us = done.sent.first.map(since_asked);
        let total_us = since_asked(Instant::now());
        self.meter.add(Event::Request(note.outcome), 1);
        self.meter.add(Event::Response(note.status), 1);
        self.meter.add(Event::SentBytes, done.sent.bytes);
        self.meter.observe_us(Timing::Duration, total_us);
        if let Some(us) = ttfb_us {
            self.meter.observe_us(Timing::Ttfb, us);
        }
        match &done.result {
            Err(SendError::Left(_)) => self.meter.add(Event::ClientDropped(DropReason::Gone), 1),
            Err(SendError::Stalled(_)) => {
                self.meter.add(Event::ClientDropped(DropReason::Stall), 1);
            }
            Err(SendError::Slow) => self.meter.add(Event::ClientDropped(DropReason::Slow), 1),
            Err(SendError::Crowded) => {
                self.meter.add(Event::ClientDropped(DropReason::Crowded), 1);
            }
            Err(SendError::Cut) if self.is_closing() => {
                self.meter
                    .add(Event::ClientDropped(DropReason::Shutdown), 1);
            }
            Err(SendError::Source(_) | SendError::Cut) => {
                self.meter.add(Event::Request(Outcome::Error), 1);
            }
            Ok(()) => {}
        }
        let record = RequestRecord {
            repository: note.repository,
            method: note.method,
            outcome: note.outcome,
            status: note.status,
            bytes: done.sent.bytes,
            complete: done.result.is_ok(),
            ttfb_us,
            total_us,
            peer,
        };
        self.log.push(record, &self.meter);
    }

    fn given_up(&self, why: GivenUp) {
        let event = match why {
            GivenUp::Silent => Event::ClientDropped(DropReason::Idle),
            GivenUp::Crowded => Event::ClientDropped(DropReason::Crowded),
            GivenUp::SlowBody => Event::ClientDropped(DropReason::Slow),
            GivenUp::NoRoom => Event::BodyRefused,
            GivenUp::Gone => Event::ClientDropped(DropReason::Gone),
        };
        self.meter.add(event, 1);
    }

    fn unanswered(&self, head: &RequestHead<'_>, peer: SocketAddr, asked: Instant, why: GivenUp) {
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
            method: note.method,
            outcome,
            status,
            bytes: 0,
            complete: false,
            ttfb_us: None,
            total_us: asked.elapsed().as_micros() as u64,
            peer,
        };
        self.log.push(record, &self.meter);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_few_connections_is_told_why_too() {
        let of = |all, cores| refusals_max(all, NonZeroUsize::new(cores).unwrap());
        assert_eq!(of(8, 1), 8);
        assert_eq!(of(199, 2), 99);
        assert_eq!(of(3, 4), 1, "one can always be told");
    }
}
