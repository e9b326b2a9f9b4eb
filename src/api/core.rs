//! What a network core answers with: its counters, its log, its clock, and the way to the
//! background plane.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::num::NonZeroUsize;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::{oneshot, watch};

use super::pass::Pass;
use super::preamble::Behind;
use crate::access::issuers::Issuers;
use crate::access::permissions::{Permissions, Shown};
use crate::access::tokens::Tokens;
use crate::archive::open_files::OpenFiles;
use crate::archive::place::Archive;
use crate::archive::prefetch::Prefetch;
use crate::config::{Config, Secrets};
use crate::faults::Faults;
use crate::http::net::client::client_at;
use crate::http::net::door::{Door, Entry, Look};
use crate::http::net::idle::{Idle, Rank, Waiting};
use crate::http::net::pulse::Pulse;
use crate::http::net::service::{Answer, Payload, Peer};
use crate::http::net::socket::CoreSockets;
use crate::http::wire::Method;
use crate::http::wire::caching::{Caching, Reach};
use crate::http::wire::head::RequestHead;
use crate::http::wire::response::{Text, retry_after_s};
use crate::http::wire::table::Row;
use crate::jobs::asker::Asker;
use crate::jobs::plane::Handle;
use crate::jobs::state::Jobs;
use crate::jobs::warmth::Warmth;
use crate::limits::{MIRROR_WAIT_MS, PLACE_LOOKS};
use crate::manifest::want::Named;
use crate::mirror::Via;
use crate::repos::catalog::Catalog;
use crate::repos::error::StartError;
use crate::repos::repo::Repo;
use crate::telemetry::log::{RequestLog, Wanted};
use crate::telemetry::metrics::{Event, Level, Meter, Metrics, Outcome};

/// What a core remembers of a request until its answer is sent.
pub(crate) struct Note {
    pub(super) repository: Arc<str>,
    /// What of it, if that is no plain snapshot.
    pub(super) want: Option<Wanted>,
    /// The path of a request that was refused and names no repository.
    pub(super) path: Option<Box<str>>,
    /// Why it was refused, or why nothing came of it.
    pub(super) reason: Option<Box<str>>,
    /// By what name it is known who asked.
    pub(super) who: Option<Arc<str>>,
    pub(super) method: &'static str,
    pub(super) outcome: Outcome,
    pub(super) status: u16,
    /// Of an answer that began before its archive.
    pub(super) behind: Option<Rc<Behind>>,
}

impl Note {
    /// That of an answer which begins before its archive.
    pub(super) fn of(self, behind: Rc<Behind>) -> Note {
        Note {
            behind: Some(behind),
            ..self
        }
    }
}

/// A request for something of a repository, with what is needed to answer it.
pub(super) struct Asked<'r, 'h> {
    pub(super) head: &'r RequestHead<'h>,
    /// The route.
    pub(super) row: &'static Row,
    /// By what it was let in.
    pub(super) pass: Pass,
    /// Whether others get other answers.
    pub(super) reach: Reach,
    pub(super) repo: Arc<Repo>,
    /// What of a snapshot, if that is asked for.
    pub(super) named: Named,
    pub(super) peer: &'r Peer,
    /// What was shown, where the upstream's permission decides.
    pub(super) shown: Option<Shown>,
}

impl Asked<'_, '_> {
    /// Who asks.
    pub(super) fn asker(&self) -> Asker {
        Asker::at(self.peer.ip()).showing(self.shown.clone())
    }

    /// What caches on the way may do with what is answered.
    pub(super) fn caching(&self) -> Caching {
        Caching {
            lifetime: self.row.kept.lifetime(&self.named),
            reach: self.reach,
        }
    }
}

/// What becomes of a connection that was accepted.
pub(crate) enum Admitted {
    Now,
    /// There is a place for it once others have ended.
    Soon(Look),
    /// There are too many.
    Not,
}

/// What all cores share.
#[derive(Clone)]
pub(crate) struct CoreContext {
    pub config: Arc<Config>,
    pub catalog: Arc<Catalog>,
    pub door: Arc<Door>,
    pub prefetch: Arc<Prefetch>,
    pub open_files: Arc<OpenFiles>,
    pub plane: Handle<Jobs>,
    pub metrics: Arc<Metrics>,
    pub log: RequestLog,
    /// Turns true when the server stops.
    pub closing: watch::Receiver<bool>,
    /// What other servers know this process by.
    pub via: Via,
    /// Of webhooks.
    pub secrets: Arc<ArcSwap<Secrets>>,
    /// Of clients.
    pub tokens: Arc<ArcSwap<Tokens>>,
    /// The upstreams whose own permission decides who may read.
    pub permissions: Arc<Permissions>,
    /// Of CI systems.
    pub issuers: Arc<Issuers>,
    /// Whether what others have used lately is here.
    pub warmth: Warmth,
    /// Faults to inject; none outside tests.
    pub faults: Faults,
}

/// One for each core.
pub(crate) struct Core {
    pub(super) config: Arc<Config>,
    pub(super) catalog: Arc<Catalog>,
    pub(super) door: Arc<Door>,
    pub(super) prefetch: Arc<Prefetch>,
    pub(super) open_files: Arc<OpenFiles>,
    pub(super) plane: Handle<Jobs>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) meter: Meter,
    pub(super) log: RequestLog,
    pub(super) closing: watch::Receiver<bool>,
    pub(super) via: Via,
    pub(super) secrets: Arc<ArcSwap<Secrets>>,
    pub(super) tokens: Arc<ArcSwap<Tokens>>,
    pub(super) permissions: Arc<Permissions>,
    pub(super) issuers: Arc<Issuers>,
    pub(super) warmth: Warmth,
    pub(super) faults: Faults,
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
    /// The service of core number `index`.
    pub(crate) fn new(context: CoreContext, index: usize) -> Core {
        let CoreContext {
            config,
            catalog,
            door,
            prefetch,
            open_files,
            plane,
            metrics,
            log,
            closing,
            via,
            secrets,
            tokens,
            permissions,
            issuers,
            warmth,
            faults,
        } = context;
        Core {
            config,
            catalog,
            door,
            prefetch,
            open_files,
            plane,
            meter: metrics.meter(index),
            metrics,
            log,
            closing,
            via,
            secrets,
            tokens,
            permissions,
            issuers,
            warmth,
            faults,
            cut: watch::Sender::new(false),
            date: RefCell::new(Date {
                made: None,
                text: String::new(),
            }),
            open: Cell::new(0),
            refusals: Idle::apart(),
            no_repository: Arc::from(""),
        }
    }

    /// The server's configuration.
    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// What the sockets of this core, number `index`, share.
    pub(crate) fn sockets(&self, index: usize, pulse: Option<Rc<Pulse>>) -> Rc<CoreSockets> {
        let idle = Idle::of_core(self.door.idle.clone(), index);
        let (bodies, proxies) = (
            self.door.bodies.clone(),
            self.config.listeners.trust_proxy.clone(),
        );
        Rc::new(CoreSockets::new(pulse, idle, bodies, proxies))
    }

    /// Whether this core is to panic: tests do that.
    pub(crate) fn panics(&self) -> bool {
        self.faults.core_panics()
    }

    /// A connection was accepted from `peer`: what becomes of it.
    pub(crate) fn admit(&self, peer: &Peer) -> Admitted {
        let newcomer = client_at(peer.address, &self.config.listeners.trust_proxy);
        let look = match self.door.enter(newcomer) {
            Entry::Entered => {
                self.entered();
                return Admitted::Now;
            }
            Entry::Soon => self.door.look(newcomer),
            Entry::Full => None,
        };
        look.map_or(Admitted::Not, Admitted::Soon)
    }

    /// Looks for a place for one that is to have it soon. Whether it is to be served.
    pub(crate) async fn admit_soon(&self, look: Look) -> bool {
        for _ in 0..PLACE_LOOKS {
            // That core has something else to do for a moment.
            monoio::time::sleep(Duration::from_millis(1)).await;
            if look.enter() == Entry::Entered {
                self.entered();
                return true;
            }
        }
        false
    }

    /// Waits while many look for a place, who are no others than those that come next. For one that has
    /// its part nobody waits.
    pub(crate) async fn wait_for_newcomers(&self) {
        let mut looks = PLACE_LOOKS;
        while looks > 0 && self.door.is_busy() {
            monoio::time::sleep(Duration::from_millis(1)).await;
            looks -= 1;
        }
    }

    fn entered(&self) {
        self.open.set(self.open.get() + 1);
        self.meter.add(Event::Connection, 1);
        self.meter.up(Level::ConnectionsOpen);
    }

    /// A connection is not served. A place for its client to be told so: the one who has it longest makes
    /// room; `None` when those before have not yet left.
    pub(crate) fn refusal(&self) -> Option<Waiting> {
        self.meter.add(Event::ConnectionRefused, 1);
        let max = refusals_max(self.door.admission.spare(), self.config.cores);
        if self.refusals.len() >= max {
            self.refusals.close_oldest();
        }
        (self.refusals.len() < 2 * max).then(|| self.refusals.enter(Rank::Request))
    }

    /// A connection that was admitted has ended.
    pub(crate) fn closed(&self) {
        self.door.admission.leave();
        self.open.set(self.open.get() - 1);
        self.meter.down(Level::ConnectionsOpen);
    }

    /// Open connections.
    pub(crate) fn open(&self) -> usize {
        self.open.get()
    }

    /// Ends all connections: the grace time is over.
    pub(crate) fn cut_off(&self) {
        tracing::warn!(connections = self.open(), "cut off: the grace time is over");
        self.cut.send_replace(true);
    }

    /// Ready when connections are to end whatever they do.
    pub(crate) async fn cut(&self) {
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
        let message = self.without_paths(message);
        let text = Text {
            status,
            message: &message,
            allow: None,
            retry_after_s: retry_after_s(status),
            reach: self.reach(head.target),
            keep_alive: head.keep_alive,
            head_only: head.method == Method::Head,
        };
        // The text is sent as one line whatever is in it.
        let _ = self.with_date(|date| text.write(out, date));
        Payload::Written
    }

    /// What a client is told of what went wrong: where the server keeps things is no client's business.
    pub(super) fn without_paths<'m>(&self, message: &'m str) -> Cow<'m, str> {
        let root = &self.config.state;
        let state = root.to_string_lossy();
        match message.contains(&*state) {
            true => message.replace(&*state, "STATE").into(),
            false => message.into(),
        }
    }

    pub(super) fn note(&self, head: &RequestHead<'_>, outcome: Outcome, status: u16) -> Note {
        Note {
            repository: self.no_repository.clone(),
            want: None,
            path: None,
            reason: None,
            who: None,
            method: method_name(head.method),
            outcome,
            status,
            behind: None,
        }
    }

    /// Has a job done on the background plane, and waits for what comes of it.
    pub(super) async fn ask<T, F>(
        &self,
        job: impl FnOnce(Rc<Jobs>) -> F + Send + 'static,
    ) -> Result<T, StartError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StartError>> + 'static,
    {
        let (mut reply, answer) = oneshot::channel();
        self.plane.spawn(move |jobs| {
            let done = job(jobs);
            async move {
                tokio::select! {
                    done = done => drop(reply.send(done)),
                    // The client has left, and this job was for it alone.
                    () = reply.closed() => {}
                }
            }
        });
        self.hear(answer).await
    }

    /// How long who cannot be told on the way waits for a mirror.
    pub(super) fn mirror_wait(&self) -> Duration {
        Duration::from_millis(self.faults.mirror_wait_ms.unwrap_or(MIRROR_WAIT_MS))
    }

    /// The answer to who has waited for so long.
    pub(super) fn come_again(&self, asked: &Asked<'_, '_>, out: &mut Vec<u8>) -> Answer<Note> {
        let message = format!(
            "{} is not there yet, and is worked on; try again later",
            asked.repo.name
        );
        self.failed(asked, 503, &message, out)
    }

    /// Waits for what a job answers.
    pub(super) async fn hear<T>(
        &self,
        answer: oneshot::Receiver<Result<T, StartError>>,
    ) -> Result<T, StartError> {
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
            note: Note {
                reason: Some(message.into()),
                ..self.note_for(asked, outcome, status)
            },
        }
    }

    pub(super) fn note_for(&self, asked: &Asked<'_, '_>, outcome: Outcome, status: u16) -> Note {
        let named = &asked.named;
        Note {
            repository: asked.repo.name.clone(),
            want: (!named.is_default()).then(|| Wanted(Arc::new(named.clone()))),
            ..self.note(asked.head, outcome, status)
        }
    }

    /// The same where there is an archive, which knows what it is of.
    pub(super) fn note_of(
        &self,
        (asked, archive): (&Asked<'_, '_>, &Archive),
        outcome: Outcome,
        status: u16,
    ) -> Note {
        let want = &archive.want;
        Note {
            repository: asked.repo.name.clone(),
            want: (!want.is_default()).then(|| Wanted(want.clone())),
            ..self.note(asked.head, outcome, status)
        }
    }
}

/// How many clients a core may be telling at a time that it turns them away.
fn refusals_max(all: usize, cores: NonZeroUsize) -> usize {
    (all / cores).max(1)
}

fn method_name(method: Method) -> &'static str {
    match method {
        Method::Get => "GET",
        Method::Head => "HEAD",
        Method::Post => "POST",
        Method::Other => "other",
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
