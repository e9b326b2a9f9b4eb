//! `snapshot.tar.zst`: a hit, a build to follow, or a build to start.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::core::{Asked, Core, Note};
use super::headers::{describe, name_bundle, names};
use crate::archive::growth::Status;
use crate::archive::open_files::OpenError;
use crate::archive::place::Archive;
use crate::archive::reader::ArchiveReader;
use crate::extent::{Next, Source};
use crate::http::net::service::{Answer, Payload};
use crate::http::wire::head::RequestHead;
use crate::http::wire::precondition::{Conditions, Verdict, evaluate, if_range_matches};
use crate::http::wire::range::{Requested, Selection, requested};
use crate::http::wire::response::Head;
use crate::http::wire::{Method, Version};
use crate::jobs::asker::ClientPart;
use crate::jobs::heal::Doubt;
use crate::limits::{DOUBT_WAIT_MS, LIVE_ONLY_LOOK_MS, LIVE_ONLY_WAIT_MS, LOOKS_MAX};
use crate::manifest::want::Want;
use crate::repos::builds::{Started, Ticket};
use crate::repos::error::StartError;
use crate::repos::repo::{Found, Repo};
use crate::telemetry::metrics::Outcome;

/// What HEAD says when there is no snapshot.
pub(super) const NOTHING_CACHED: &str = "nothing is cached; GET it to have it built";

/// A part of an archive to send, or all of it.
enum Part {
    /// All; the length may not be known yet.
    Whole { total: Option<u64> },
    /// Bytes from `start` to `end_inclusive`.
    Range {
        start: u64,
        end_inclusive: u64,
        total: Option<u64>,
    },
    /// No byte of it.
    Unsatisfiable { total: u64 },
}

/// A build that others may follow, too.
struct Build {
    want: Arc<Want>,
    ticket: Ticket,
}

/// Why an archive that was found cannot be read.
enum Unreadable {
    /// Its files cannot be opened.
    Files(OpenError),
    /// Its build failed, or its first bytes are gone because the spool failed.
    Over,
    /// Bytes that had to be waited for are gone because the spool failed.
    Lost,
}

impl Core {
    /// Answers `GET` and `HEAD` of a snapshot.
    pub(super) async fn snapshot(&self, asked: &Asked<'_, '_>, out: &mut Vec<u8>) -> Answer<Note> {
        if asked.head.method != Method::Head {
            return self.get(asked, out).await;
        }
        match self.cached(asked).await {
            Some(archive) => self.head_only(asked, &archive, out),
            None => self.failed(asked, 404, NOTHING_CACHED, out),
        }
    }

    /// The archive that there is of what is asked for.
    async fn cached(&self, asked: &Asked<'_, '_>) -> Option<Arc<Archive>> {
        let repo = &asked.repo;
        if asked.named.is_default() {
            return repo.current();
        }
        if let Some((_, Found::Hit(archive))) = repo.find_known(&asked.named) {
            return Some(archive);
        }
        let (at, named) = (repo.clone(), asked.named.clone());
        let want = self.ask(move |jobs| jobs.resolve_here(at, named)).await;
        repo.archive_of(&*want.ok()?)
    }

    /// Answers `GET`: finds an archive, or has one built, and reads it.
    async fn get(&self, asked: &Asked<'_, '_>, out: &mut Vec<u8>) -> Answer<Note> {
        let repo = &asked.repo;
        self.hear_of_damage(asked).await;
        if let Some(archive) = self.superseded(asked)
            && let Ok(answer) = self.serve(asked, &archive, Outcome::Hit, out).await
        {
            return answer;
        }
        let mut failure = None;
        let faults = &self.faults;
        let wait_ms = faults.live_only_wait_ms.unwrap_or(LIVE_ONLY_WAIT_MS);
        let until = Instant::now() + Duration::from_millis(wait_ms);
        let mut looks = 0;
        while looks < LOOKS_MAX {
            looks += 1;
            let (started, outcome, build) = self.find(asked).await;
            let archive = match started {
                Ok(archive) => archive,
                Err(StartError { status, message }) => {
                    return self.failed(asked, status, &message, out);
                }
            };
            match self.serve(asked, &archive, outcome, out).await {
                Ok(answer) => return answer,
                Err(Unreadable::Files(e)) if e.is_not_found() => {
                    // Evicted between the look and the first read, or deleted by somebody.
                    if repo.forget(&archive) {
                        self.catalog.retired.add(archive);
                    }
                }
                Err(Unreadable::Files(e)) => {
                    let message = format!("the snapshot cannot be opened: {e}; try again");
                    return self.failed(asked, 503, &message, out);
                }
                Err(Unreadable::Lost) => {
                    let message = "the snapshot cannot be kept on the server's disk and is only \
                                   sent while it is made; ask with HTTP/1.1 and without a range";
                    return self.failed(asked, 503, message, out);
                }
                Err(Unreadable::Over) => {
                    match archive.fanout.status() {
                        Status::Failed(why) => failure = Some(why),
                        // It came too late for this one, which is no fault of any: the wait is what is
                        // bounded.
                        _ if build.is_some() => looks -= 1,
                        _ => {}
                    }
                    // The next build can only begin when this one has ended, or waits for slow
                    // clients.
                    if !wait_over(repo, build, until).await {
                        let message = format!(
                            "the server's disk takes nothing more, and the builds of {} go on at \
                             the pace of slow clients; try again later, or clone it from upstream",
                            repo.name
                        );
                        return self.failed(asked, 503, &message, out);
                    }
                }
            }
        }
        let why = failure.as_deref().unwrap_or("it went while it was read");
        let message = format!("no snapshot of {}: {why}; try again", repo.name);
        self.failed(asked, 503, &message, out)
    }

    /// Has the archive looked at that the client found damaged, and waits for that, but not for
    /// ever.
    async fn hear_of_damage(&self, asked: &Asked<'_, '_>) {
        let (Some(tag), repo) = (asked.head.corrupt, &asked.repo) else {
            return;
        };
        let is_it = |archive: &Arc<Archive>| {
            archive.repository == repo.name && archive.etag.as_bytes() == tag
        };
        let current = repo.archives().into_iter().find(is_it);
        let Some(archive) = current.or_else(|| self.catalog.retired.find(is_it)) else {
            return;
        };
        let (looked, has_looked) = oneshot::channel();
        let repo = repo.clone();
        let doubt = Doubt {
            repo,
            archive,
            looked,
        };
        self.plane.spawn(|jobs| jobs.doubt(doubt));
        let limit = Duration::from_millis(DOUBT_WAIT_MS);
        drop(monoio::time::timeout(limit, has_looked).await);
    }

    /// The archive that the request names by its tag, if a newer one has replaced it lately: a
    /// download in parts goes on with the parts of the archive that it began with.
    fn superseded(&self, asked: &Asked<'_, '_>) -> Option<Arc<Archive>> {
        let repo = &asked.repo;
        let is_it = |archive: &Arc<Archive>| {
            asked.named.may_mean(&archive.want) && names(asked.head, archive)
        };
        if asked.head.if_match.is_absent() && asked.head.if_range.is_none() {
            return None;
        }
        if let Some(current) = repo.archives().into_iter().find(is_it) {
            // That of a ref can be one that whoever asks anew does not get any more.
            return (!current.want.is_default()).then_some(current);
        }
        self.catalog
            .retired
            .find(|archive| archive.repository == repo.name && is_it(archive))
    }

    /// Finds an archive, or has one built; with the build if there is one.
    async fn find(&self, asked: &Asked<'_, '_>) -> (Started, Outcome, Option<Build>) {
        let repo = &asked.repo;
        if !asked.named.is_default() {
            return match self.find_named(asked).await {
                Ok((want, found)) => self.begin(want, found, None).await,
                Err(why) => (Err(why), Outcome::Build, None),
            };
        }
        if let Some(archive) = repo.current() {
            return (Ok(archive), Outcome::Hit, None);
        }
        let mut part = None;
        if !repo.is_mirrored() {
            let (repo, client) = (repo.clone(), asked.peer.ip());
            part = match self.ask(move |jobs| jobs.clone_part(repo, client)).await {
                Ok(part) => part,
                Err(why) => return (Err(why), Outcome::Build, None),
            };
        }
        self.begin(Arc::default(), repo.find(), part).await
    }

    /// Finds what a request names: where it is not known, by a look at the mirror.
    async fn find_named(&self, asked: &Asked<'_, '_>) -> Result<(Arc<Want>, Found), StartError> {
        let repo = &asked.repo;
        if let Some(known) = repo.find_known(&asked.named) {
            return Ok(known);
        }
        let (at, named, client) = (repo.clone(), asked.named.clone(), asked.peer.ip());
        let want = self
            .ask(move |jobs| jobs.resolve(at, named, client))
            .await?;
        let found = repo.find_want(&want);
        Ok((want, found))
    }

    /// Has what was found built, if that is for this request to do, and waits for a build to begin.
    async fn begin(
        &self,
        want: Arc<Want>,
        found: Found,
        part: Option<ClientPart>,
    ) -> (Started, Outcome, Option<Build>) {
        let (mut ticket, outcome) = match found {
            Found::Hit(archive) => return (Ok(archive), Outcome::Hit, None),
            Found::Following(ticket) => (ticket, Outcome::Follow),
            Found::Refused(why) => return (Err(why), Outcome::Build, None),
            Found::Vacant(permit) => {
                let ticket = permit.ticket();
                self.plane.spawn(move |jobs| jobs.build(permit, part));
                (ticket, Outcome::Build)
            }
        };
        let started = wait_begun(&mut ticket).await;
        (started, outcome, Some(Build { want, ticket }))
    }

    /// Answers from an archive, unless it cannot be read after all.
    async fn serve(
        &self,
        asked: &Asked<'_, '_>,
        archive: &Arc<Archive>,
        outcome: Outcome,
        out: &mut Vec<u8>,
    ) -> Result<Answer<Note>, Unreadable> {
        archive.touch();
        let conditions = Conditions {
            if_match: asked.head.if_match,
            if_none_match: asked.head.if_none_match,
        };
        match evaluate(&conditions, &archive.etag, true) {
            Verdict::Proceed => {}
            Verdict::NotModified => return Ok(self.bare(asked, archive, 304, out)),
            Verdict::Failed => {
                let message = "the snapshot is another one than If-Match names";
                return Ok(self.failed(asked, 412, message, out));
            }
        }
        let mut reader = self.reader(archive).await?;
        let part = self.part(asked.head, archive, &mut reader).await?;
        let (start, end, status) = match &part {
            Part::Whole { total } => (0, *total, 200),
            Part::Range {
                start,
                end_inclusive,
                ..
            } => (*start, Some(end_inclusive + 1), 206),
            Part::Unsatisfiable { .. } => (0, Some(0), 416),
        };
        self.write_head(asked, archive, outcome, &part, out);
        let payload = match part {
            Part::Unsatisfiable { .. } => Payload::Written,
            Part::Whole { .. } | Part::Range { .. } => Payload::Stream {
                source: Box::new(reader),
                start,
                end,
            },
        };
        Ok(Answer {
            payload,
            keep_alive: asked.head.keep_alive,
            note: self.note_for(asked, outcome, status),
        })
    }

    /// Joins the archive's readers, with its files open if it has a place already.
    async fn reader(&self, archive: &Arc<Archive>) -> Result<ArchiveReader, Unreadable> {
        // Joined first: from here on the entry is not evicted.
        let handle = archive.fanout.join(0).ok_or(Unreadable::Over)?;
        let prefetch = self.prefetch.clone();
        let files = match archive.files() {
            Some(files) => Some(files),
            None if archive.fanout.total_bytes().is_none() => None,
            None => {
                let opened = prefetch.open(archive.clone(), self.open_files.clone());
                // The threads end with the process.
                let opened = opened.await.map_err(|_| Unreadable::Over)?;
                Some(opened.map_err(Unreadable::Files)?)
            }
        };
        let (archive, meter) = (archive.clone(), self.meter.clone());
        Ok(ArchiveReader::new(handle, archive, files, prefetch, meter))
    }

    /// What of the archive to send. For a part of one that still grows, waits until the part
    /// is there; for a client that knows no chunks, until all of it is.
    async fn part(
        &self,
        head: &RequestHead<'_>,
        archive: &Archive,
        reader: &mut ArchiveReader,
    ) -> Result<Part, Unreadable> {
        let fanout = &archive.fanout;
        if fanout.total_bytes().is_none() {
            // A build that fails before its first byte is an error with a status.
            reader.wait_for(0).await;
        }
        let pinned = match head.if_range {
            Some(value) => if_range_matches(value, &archive.etag),
            None => !head.if_match.is_absent(),
        };
        let ranges = head.if_range.is_none() || pinned;
        let wanted = match ranges {
            true => requested(head.range),
            false => Requested::Full,
        };
        if fanout.total_bytes().is_none() {
            match wanted {
                // A growing archive is sent whole to those who would take any version of it.
                Requested::Bounded {
                    start,
                    end_inclusive,
                } if pinned => {
                    reader.wait_for(end_inclusive).await;
                    if fanout.total_bytes().is_none() && fanout.wire_bytes() > end_inclusive {
                        return ensure_readable(reader, start).map(|()| Part::Range {
                            start,
                            end_inclusive,
                            total: None,
                        });
                    }
                }
                Requested::From { .. } | Requested::Suffix { .. } if pinned => {
                    reader.wait_for(u64::MAX).await;
                }
                _ if head.version == Version::Http10 => reader.wait_for(u64::MAX).await,
                _ if matches!(fanout.status(), Status::Failed(_)) => return Err(Unreadable::Over),
                _ => return Ok(Part::Whole { total: None }),
            }
        }
        // What grows no more and has no length has failed.
        let total = fanout.total_bytes().ok_or(Unreadable::Over)?;
        Ok(match wanted.resolve(total) {
            Selection::Full => {
                ensure_readable(reader, 0)?;
                Part::Whole { total: Some(total) }
            }
            Selection::Part {
                start,
                end_inclusive,
            } => {
                ensure_readable(reader, start)?;
                Part::Range {
                    start,
                    end_inclusive,
                    total: Some(total),
                }
            }
            Selection::Unsatisfiable => Part::Unsatisfiable { total },
        })
    }

    /// Writes the head of 200, 206 or 416.
    fn write_head(
        &self,
        asked: &Asked<'_, '_>,
        archive: &Archive,
        outcome: Outcome,
        part: &Part,
        out: &mut Vec<u8>,
    ) {
        self.with_date(|date| {
            let status = match part {
                Part::Whole { .. } => 200,
                Part::Range { .. } => 206,
                Part::Unsatisfiable { .. } => 416,
            };
            let mut head = Head::new(out, status, date).etag(&archive.etag);
            head = match part {
                Part::Whole { total: None } => head.chunked(),
                Part::Whole { total: Some(total) } => head.content_length(*total),
                Part::Range {
                    start,
                    end_inclusive,
                    total,
                } => head
                    .content_length(end_inclusive - start + 1)
                    .content_range(*start, *end_inclusive, *total),
                Part::Unsatisfiable { total } => {
                    head.content_length(0).content_range_unsatisfiable(*total)
                }
            };
            if !matches!(part, Part::Unsatisfiable { .. }) {
                head = name_bundle(head, &asked.repo, archive);
            }
            let head = describe(head, archive, outcome).connection(asked.head.keep_alive);
            // All values are the program's own or were checked when they were read.
            let _ = head.finish();
        });
    }

    /// A head without content: 304, and all answers to HEAD.
    fn bare(
        &self,
        asked: &Asked<'_, '_>,
        archive: &Archive,
        status: u16,
        out: &mut Vec<u8>,
    ) -> Answer<Note> {
        self.with_date(|date| {
            let mut head = Head::new(out, status, date).etag(&archive.etag);
            if let (200, Some(total)) = (status, archive.fanout.total_bytes()) {
                head = head.content_length(total);
            }
            if status == 200 {
                head = name_bundle(head, &asked.repo, archive);
            }
            let head = describe(head, archive, Outcome::Hit).connection(asked.head.keep_alive);
            let _ = head.finish();
        });
        let outcome = match status {
            304 => Outcome::Precondition,
            _ => Outcome::Head,
        };
        Answer {
            payload: Payload::Written,
            keep_alive: asked.head.keep_alive,
            note: self.note_for(asked, outcome, status),
        }
    }

    fn head_only(
        &self,
        asked: &Asked<'_, '_>,
        archive: &Archive,
        out: &mut Vec<u8>,
    ) -> Answer<Note> {
        let conditions = Conditions {
            if_match: asked.head.if_match,
            if_none_match: asked.head.if_none_match,
        };
        match evaluate(&conditions, &archive.etag, true) {
            Verdict::Proceed => self.bare(asked, archive, 200, out),
            Verdict::NotModified => self.bare(asked, archive, 304, out),
            Verdict::Failed => self.failed(asked, 412, "If-Match names another snapshot", out),
        }
    }
}

/// Whether the bytes from `at` on can still be read after a wait further on; without a spool
/// they may be gone. From here on they stay.
fn ensure_readable(reader: &mut ArchiveReader, at: u64) -> Result<(), Unreadable> {
    match reader.poll_next(at, 1, &mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Next::Failed(_)) => Err(Unreadable::Lost),
        _ => Ok(()),
    }
}

/// Waits for a build to begin.
async fn wait_begun(ticket: &mut Ticket) -> Started {
    let gone = || StartError {
        status: 503,
        message: "the server is shutting down".into(),
    };
    match ticket.wait_for(Option::is_some).await {
        Ok(started) => started.clone().unwrap_or_else(|| Err(gone())),
        Err(_) => Err(gone()),
    }
}

/// Waits until a request would find something else than this build. False if that is not
/// before `until`.
async fn wait_over(repo: &Repo, build: Option<Build>, until: Instant) -> bool {
    let Some(Build { want, mut ticket }) = build else {
        return true;
    };
    while repo.follows(&want, &ticket) {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        let ended = async { while ticket.changed().await.is_ok() {} };
        let look = Duration::from_millis(LIVE_ONLY_LOOK_MS).min(left);
        // It ended, or it is time to look at its pace again.
        drop(monoio::time::timeout(look, ended).await);
    }
    true
}
