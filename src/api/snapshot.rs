//! `snapshot.tar.zst`: a hit, a build to follow, or a build to start.

use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::core::{Asked, Core, Note};
use super::freshness::{Taken, ready};
use super::headers::{describe, name_bundle, names};
use super::preamble::may_begin_early;
use super::sought::{First, Sought, Unreadable, progress};
use crate::archive::growth::Status;
use crate::archive::place::Archive;
use crate::archive::reader::ArchiveReader;
use crate::extent::{Next, Source};
use crate::http::net::service::{Answer, Payload};
use crate::http::wire::precondition::{Conditions, Verdict, evaluate, if_range_matches};
use crate::http::wire::range::{Requested, Selection, requested};
use crate::http::wire::response::Head;
use crate::http::wire::table::Endpoint;
use crate::http::wire::{Method, Version};
use crate::jobs::heal::Doubt;
use crate::limits::{COLD_WAIT_MS, DOUBT_WAIT_MS, LOOKS_MAX, QUESTION_LIMIT_MS};
use crate::repos::error::StartError;
use crate::telemetry::metrics::Outcome;

/// What HEAD says when there is no snapshot.
pub(super) const NOTHING_CACHED: &str = "nothing is cached; GET it to have it built";

/// What of an archive to send.
enum Portion {
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

impl Core {
    /// Answers `GET` and `HEAD` of a snapshot.
    pub(super) async fn snapshot(
        self: &Rc<Self>,
        asked: &Asked<'_, '_>,
        out: &mut Vec<u8>,
    ) -> Answer<Note> {
        if asked.head.method != Method::Head {
            return self.get(asked, out).await;
        }
        match self.cached(asked).await {
            Some(archive) => self.head_only(asked, &archive, out),
            None => self.failed(asked, 404, NOTHING_CACHED, out),
        }
    }

    /// Answers `GET`. The upstream is looked at afterwards: what starts a process must not be in the way of what
    /// this request waits for.
    async fn get(self: &Rc<Self>, asked: &Asked<'_, '_>, out: &mut Vec<u8>) -> Answer<Note> {
        let answer = self.get_archive(asked, None, out).await;
        self.look_at_upstream(&asked.repo);
        answer
    }

    /// Finds an archive, or has one built, and reads it; or its manifest, if that stands by `manifest_until`.
    pub(super) async fn get_archive(
        self: &Rc<Self>,
        asked: &Asked<'_, '_>,
        manifest_until: Option<Instant>,
        out: &mut Vec<u8>,
    ) -> Answer<Note> {
        self.hear_of_damage(asked).await;
        let superseded = match self.superseded(asked) {
            None if manifest_until.is_none() => self.lent_archive(asked).await,
            superseded => superseded,
        };
        if manifest_until.is_none()
            && let Some(archive) = superseded
            && let Ok(reader) = self.reader(&archive).await
            && let Ok(answer) = self.serve(asked, First::hit(archive, reader), out).await
        {
            return answer;
        }
        let taken = Taken::by(asked, self.permissions.young());
        for _ in 0..LOOKS_MAX {
            let mut first = match self.first_in_time(asked, taken, out).await {
                Ok(first) => first,
                Err(answer) => return answer,
            };
            if let Some(until) = manifest_until {
                match self.manifest_instead(asked, first, until, out).await {
                    Ok(answer) => return answer,
                    Err(instead) => first = instead,
                }
                if let Some(answer) = self.decided_by_tag(asked, &first.archive, out) {
                    return answer;
                }
            }
            match self.serve(asked, first, out).await {
                Ok(answer) => return answer,
                Err(Unreadable::Lost) => {
                    let message = "the snapshot cannot be kept on the server's disk and is only \
                                   sent while it is made; ask with HTTP/1.1 and without a range";
                    return self.failed(asked, 503, message, out);
                }
                // It went while more of it was waited for: the next look says why.
                Err(Unreadable::Over | Unreadable::Files(_)) => {}
            }
        }
        let message = format!(
            "no snapshot of {}: it went while it was read; try again",
            asked.repo.name
        );
        self.failed(asked, 503, &message, out)
    }

    /// An archive whose first byte is there. Who would have to wait for that longer than a proxy likes is
    /// answered before it, or asked to come again.
    pub(super) async fn first_in_time(
        self: &Rc<Self>,
        asked: &Asked<'_, '_>,
        taken: Taken,
        out: &mut Vec<u8>,
    ) -> Result<First, Answer<Note>> {
        let began = Instant::now();
        if let Some(archive) = ready(asked, taken, &self.permissions) {
            if let Some(answer) = self.decided(asked, &archive, out) {
                return Err(answer);
            }
            if let Ok(reader) = self.reader(&archive).await {
                return Ok(First::hit(archive, reader));
            }
        }
        let sought = Sought::of(asked, taken);
        let may_show = self.showing(asked);
        let is_found = sought.is_found.clone();
        let mut first = Box::pin(self.clone().first(sought));
        let mut wait_ms = self.faults.cold_wait_ms.unwrap_or(COLD_WAIT_MS);
        if !may_show() {
            // Nothing is said before it is known that it may be had.
            wait_ms = wait_ms.max(QUESTION_LIMIT_MS);
        }
        let wait = Duration::from_millis(wait_ms);
        match monoio::time::timeout(wait, &mut first).await {
            Ok(Ok(first)) => match self.decided(asked, &first.archive, out) {
                Some(answer) => Err(answer),
                None => Ok(first),
            },
            Ok(Err(StartError { status, message })) => {
                Err(self.failed(asked, status, &message, out))
            }
            Err(_) if may_begin_early(asked.head) && (is_found.get() || may_show()) => {
                let (repo, shape) = (asked.repo.clone(), asked.named.shape());
                let progress = move || progress(&repo, shape, is_found.get());
                Err(self.early(asked, (began, first), progress, out).await)
            }
            Err(_) => {
                asked.repo.notes.want_clone_soon();
                let message = format!(
                    "the snapshot of {} is being made; come again, or ask for all of it with HTTP/1.1 \
                     and without conditions, and see how far it is",
                    asked.repo.name
                );
                Err(self.failed(asked, 503, &message, out))
            }
        }
    }

    /// The answer, if the request's conditions already decide it. Of what a manifest's route has they do once it is known
    /// whether that or the archive is sent.
    fn decided(
        &self,
        asked: &Asked<'_, '_>,
        archive: &Arc<Archive>,
        out: &mut Vec<u8>,
    ) -> Option<Answer<Note>> {
        match asked.row.endpoint {
            Endpoint::Manifest => None,
            _ => self.decided_by_tag(asked, archive, out),
        }
    }

    /// The same of the archive, whatever was asked for.
    fn decided_by_tag(
        &self,
        asked: &Asked<'_, '_>,
        archive: &Arc<Archive>,
        out: &mut Vec<u8>,
    ) -> Option<Answer<Note>> {
        let conditions = Conditions {
            if_match: asked.head.if_match,
            if_none_match: asked.head.if_none_match,
        };
        match evaluate(&conditions, &archive.etag, true) {
            Verdict::Proceed => None,
            Verdict::NotModified => Some(self.bare(asked, archive, 304, out)),
            Verdict::Failed => {
                let message = "the snapshot is another one than If-Match names";
                Some(self.failed(asked, 412, message, out))
            }
        }
    }

    /// Has the archive looked at that the client found damaged, and waits for that, but not for
    /// ever.
    pub(super) async fn hear_of_damage(&self, asked: &Asked<'_, '_>) {
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
        if asked.shown.is_some() {
            // What was replaced is not what the upstream has.
            return None;
        }
        let is_it = |archive: &Arc<Archive>| {
            asked.named.may_mean(&archive.want) && names(asked.head, archive)
        };
        if asked.head.if_match.is_absent() && asked.head.if_range.is_none() {
            return None;
        }
        if let Some(current) = repo.archives().into_iter().find(is_it) {
            // That of a ref can be one that whoever asks anew does not get any more.
            let is_served = !current.want.is_default() && repo.may_serve(&current.want);
            return is_served.then_some(current);
        }
        self.catalog
            .retired
            .find(|archive| archive.repository == repo.name && is_it(archive))
    }

    /// Answers from an archive, unless it cannot be read after all.
    pub(super) async fn serve(
        &self,
        asked: &Asked<'_, '_>,
        first: First,
        out: &mut Vec<u8>,
    ) -> Result<Answer<Note>, Unreadable> {
        let First {
            archive,
            outcome,
            mut reader,
        } = first;
        archive.touch();
        let portion = self.portion(asked, &archive, &mut reader).await?;
        let (start, end, status) = match &portion {
            Portion::Whole { total } => (0, *total, 200),
            Portion::Range {
                start,
                end_inclusive,
                ..
            } => (*start, Some(end_inclusive + 1), 206),
            Portion::Unsatisfiable { .. } => (0, Some(0), 416),
        };
        self.write_head(asked, &archive, outcome, &portion, out);
        let payload = match portion {
            Portion::Unsatisfiable { .. } => Payload::Written,
            Portion::Whole { .. } | Portion::Range { .. } => Payload::Stream {
                source: Box::new(reader),
                start,
                end,
            },
        };
        Ok(Answer {
            payload,
            keep_alive: asked.head.keep_alive,
            note: self.note_of((asked, &archive), outcome, status),
        })
    }

    /// What of the archive to send. For a part of one that still grows, waits until the part
    /// is there; for a client that knows no chunks, until all of it is.
    async fn portion(
        &self,
        asked: &Asked<'_, '_>,
        archive: &Archive,
        reader: &mut ArchiveReader,
    ) -> Result<Portion, Unreadable> {
        let (head, fanout) = (asked.head, &archive.fanout);
        let pinned = match head.if_range {
            Some(value) => if_range_matches(value, &archive.etag),
            None => !head.if_match.is_absent(),
        };
        // An offset of a manifest is none of the archive that is sent instead.
        let is_asked_for = asked.row.endpoint == Endpoint::Snapshot;
        let ranges = is_asked_for && (head.if_range.is_none() || pinned);
        let wanted = match requested(head.range) {
            // Whoever had a preamble may take its bytes for the archive's, and ask for what follows them.
            Requested::Bounded { start, .. } | Requested::From { start }
                if start > 0 && !pinned && self.catalog.early.was(&asked.repo, &asked.named) =>
            {
                Requested::Full
            }
            wanted if ranges => wanted,
            _ => Requested::Full,
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
                        return ensure_readable(reader, start).map(|()| Portion::Range {
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
                _ => return Ok(Portion::Whole { total: None }),
            }
        }
        // What grows no more and has no length has failed.
        let total = fanout.total_bytes().ok_or(Unreadable::Over)?;
        Ok(match wanted.resolve(total) {
            Selection::Full => {
                ensure_readable(reader, 0)?;
                Portion::Whole { total: Some(total) }
            }
            Selection::Part {
                start,
                end_inclusive,
            } => {
                ensure_readable(reader, start)?;
                Portion::Range {
                    start,
                    end_inclusive,
                    total: Some(total),
                }
            }
            Selection::Unsatisfiable => Portion::Unsatisfiable { total },
        })
    }

    /// Writes the head of 200, 206 or 416.
    fn write_head(
        &self,
        asked: &Asked<'_, '_>,
        archive: &Arc<Archive>,
        outcome: Outcome,
        portion: &Portion,
        out: &mut Vec<u8>,
    ) {
        self.with_date(|date| {
            let status = match portion {
                Portion::Whole { .. } => 200,
                Portion::Range { .. } => 206,
                Portion::Unsatisfiable { .. } => 416,
            };
            let mut head = Head::new(out, status, date, asked.caching()).etag(&archive.etag);
            head = match portion {
                Portion::Whole { total: None } => head.chunked(),
                Portion::Whole { total: Some(total) } => head.content_length(*total),
                Portion::Range {
                    start,
                    end_inclusive,
                    total,
                } => head
                    .content_length(end_inclusive - start + 1)
                    .content_range(*start, *end_inclusive, *total),
                Portion::Unsatisfiable { total } => {
                    head.content_length(0).content_range_unsatisfiable(*total)
                }
            };
            if asked.row.endpoint == Endpoint::Manifest {
                head = head.header("Vary", "Accept");
            }
            if !matches!(portion, Portion::Unsatisfiable { .. }) {
                head = name_bundle(head, &asked.repo, archive);
            }
            let head =
                describe(head, (&asked.repo, archive), outcome).connection(asked.head.keep_alive);
            // All values are the program's own or were checked when they were read.
            let _ = head.finish();
        });
    }

    /// A head without content: 304, and all answers to HEAD.
    fn bare(
        &self,
        asked: &Asked<'_, '_>,
        archive: &Arc<Archive>,
        status: u16,
        out: &mut Vec<u8>,
    ) -> Answer<Note> {
        self.with_date(|date| {
            let mut head = Head::new(out, status, date, asked.caching()).etag(&archive.etag);
            if let (200, Some(total)) = (status, archive.fanout.total_bytes()) {
                head = head.content_length(total);
            }
            if status == 200 {
                head = name_bundle(head, &asked.repo, archive);
            }
            let head = describe(head, (&asked.repo, archive), Outcome::Hit)
                .connection(asked.head.keep_alive);
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

    pub(super) fn head_only(
        &self,
        asked: &Asked<'_, '_>,
        archive: &Arc<Archive>,
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
