//! `manifest` and `parts/NAME`: what a snapshot is made of, and each of these files by itself.
//!
//! Whoever asks for a manifest and takes an archive, too, gets that where it is small or no manifest stands, soon or at
//! once as he would have it: he never asks in vain, and what is built begins to come as ever. The name of a part says nothing of who may have it: it is looked for in the snapshots of what
//! is asked for, current ones and those that were replaced lately, and nowhere else.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::core::{Asked, Core, Note};
use super::freshness::Taken;
use super::headers::{describe_kept, name_bundle};
use super::snapshot::NOTHING_CACHED;
use super::sought::{First, Sought};
use super::straight::STORE;
use crate::archive::growth::Status;
use crate::archive::handle::ReaderHandle;
use crate::archive::lending::Borrower;
use crate::archive::part::PartReader;
use crate::archive::place::{Archive, Files};
use crate::http::net::service::{Answer, Payload};
use crate::http::wire::Method;
use crate::http::wire::head::RequestHead;
use crate::http::wire::precondition::{Conditions, Verdict, evaluate, if_range_matches};
use crate::http::wire::range::{Requested, Selection, requested};
use crate::http::wire::response::Head;
use crate::limits::{MANIFEST_LOOK_MS, MANIFEST_WAIT_MS, SMALL_ARCHIVE_BYTES};
use crate::manifest::parts::{MANIFEST_TYPE, manifest_tag};
use crate::repos::error::StartError;
use crate::telemetry::metrics::Outcome;

const NO_MANIFEST: &str = "the snapshot has no manifest; ask for all of it";
pub(super) const NO_PART: &str = "no snapshot of this has such a part; ask for a new manifest";

/// A file of an archive that stands, about to be sent.
struct Opened {
    handle: ReaderHandle,
    borrower: Option<Borrower>,
    files: Arc<Files>,
    /// Which of them, and its length.
    file: (Option<u32>, u64),
}

/// Whether whoever asks for a manifest takes the archive instead of it (RFC 9110, section 12.5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Instead {
    /// Whoever says nothing of archives, or takes anything, has not asked for one.
    No,
    /// He would rather wait a little for the manifest.
    Second,
    /// Whichever is there sooner.
    Alike,
}

impl Instead {
    fn of(head: &RequestHead<'_>) -> Instead {
        let mut all = head
            .accept
            .iter()
            .flat_map(|line| line.split(|byte| *byte == b','));
        let found = all.find_map(|one| {
            let mut words = one.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
            let kind = words.next()?;
            let weight =
                words.find_map(|word| word.strip_prefix(b"q=").or(word.strip_prefix(b"Q=")));
            let is_it = kind.eq_ignore_ascii_case(b"application/zstd");
            is_it.then(|| Instead::weighing(weight))
        });
        found.unwrap_or(Instead::No)
    }

    /// By the weight of archives (RFC 9110, section 12.4.2).
    fn weighing(weight: Option<&[u8]>) -> Instead {
        match weight {
            Some([b'0']) => Instead::No,
            Some([b'0', b'.', digits @ ..]) if digits.iter().all(|digit| *digit == b'0') => {
                Instead::No
            }
            Some([b'0', ..]) => Instead::Second,
            _ => Instead::Alike,
        }
    }
}

/// Whether an archive is sent in its manifest's place to who takes either.
fn is_small(archive: &Archive) -> bool {
    let all = archive.fanout.total_bytes();
    all.is_some_and(|all| all < SMALL_ARCHIVE_BYTES)
}

fn conditions<'a>(head: &RequestHead<'a>) -> Conditions<'a> {
    Conditions {
        if_match: head.if_match,
        if_none_match: head.if_none_match,
    }
}

impl Core {
    /// Answers `GET` and `HEAD` of a manifest.
    pub(super) async fn manifest(
        self: &Rc<Self>,
        asked: &Asked<'_, '_>,
        out: &mut Vec<u8>,
    ) -> Answer<Note> {
        if asked.head.method == Method::Head {
            return self.cached_manifest(asked, out).await;
        }
        let now = Instant::now();
        let until = now + Duration::from_millis(MANIFEST_WAIT_MS);
        let answer = match Instead::of(asked.head) {
            Instead::Alike => self.get_archive(asked, Some(now), out).await,
            Instead::Second => self.get_archive(asked, Some(until), out).await,
            Instead::No => self.manifest_alone(asked, until, out).await,
        };
        self.look_at_upstream(&asked.repo);
        answer
    }

    async fn cached_manifest(&self, asked: &Asked<'_, '_>, out: &mut Vec<u8>) -> Answer<Note> {
        let Some(archive) = self.cached(asked).await else {
            return self.failed(asked, 404, NOTHING_CACHED, out);
        };
        let takes_archive = Instead::of(asked.head) != Instead::No;
        if takes_archive && is_small(&archive) {
            return self.head_only(asked, &archive, out);
        }
        match self.open_manifest(&archive).await {
            Some(opened) => self.send_manifest(asked, &archive, opened, out),
            None if takes_archive => self.head_only(asked, &archive, out),
            None => self.failed(asked, 404, NO_MANIFEST, out),
        }
    }

    /// The answer to who takes nothing else.
    async fn manifest_alone(
        self: &Rc<Self>,
        asked: &Asked<'_, '_>,
        until: Instant,
        out: &mut Vec<u8>,
    ) -> Answer<Note> {
        self.hear_of_damage(asked).await;
        let taken = Taken::by(asked, self.permissions.young());
        let first = Box::pin(self.clone().first(Sought::of(asked, taken)));
        let left = until.saturating_duration_since(Instant::now());
        let first = match monoio::time::timeout(left, first).await {
            Ok(Ok(first)) => first,
            Ok(Err(StartError { status, message })) => {
                return self.failed(asked, status, &message, out);
            }
            Err(_) => {
                asked.repo.notes.want_clone_soon();
                return self.come_again(asked, out);
            }
        };
        match self.manifest_instead(asked, first, until, out).await {
            Ok(answer) => answer,
            Err(first) if first.archive.fanout.total_bytes().is_none() => {
                self.come_again(asked, out)
            }
            Err(_) => self.failed(asked, 404, NO_MANIFEST, out),
        }
    }

    /// The manifest of an archive, once its entry stands, if that is in time. Gives back what is to be sent
    /// instead of one.
    pub(super) async fn manifest_instead(
        &self,
        asked: &Asked<'_, '_>,
        first: First,
        until: Instant,
        out: &mut Vec<u8>,
    ) -> Result<Answer<Note>, First> {
        let archive = first.archive.clone();
        let takes_archive = Instead::of(asked.head) != Instead::No;
        let fanout = &archive.fanout;
        loop {
            if takes_archive && is_small(&archive) {
                return Err(first);
            }
            let current = asked.repo.archive_of(&archive.want);
            if current.is_some_and(|current| Arc::ptr_eq(&current, &archive)) {
                break;
            }
            let is_kept = !fanout.is_live_only() && !matches!(fanout.status(), Status::Failed(_));
            if !is_kept || Instant::now() >= until {
                return Err(first);
            }
            monoio::time::sleep(Duration::from_millis(MANIFEST_LOOK_MS)).await;
        }
        match self.open_manifest(&archive).await {
            Some(opened) => Ok(self.send_manifest(asked, &archive, opened, out)),
            None => Err(first),
        }
    }

    /// The manifest of an archive that stands; `None` if it has none.
    async fn open_manifest(&self, archive: &Arc<Archive>) -> Option<Opened> {
        // Joined first: from here on the entry is not removed.
        let handle = archive.fanout.join(0)?;
        let open = self.open_files.clone();
        let opened = self.prefetch.open_manifest(archive.clone(), open).await;
        let (files, bytes) = opened.ok()?.ok()?;
        Some(Opened {
            handle,
            borrower: None,
            files,
            file: (None, bytes),
        })
    }

    fn send_manifest(
        &self,
        asked: &Asked<'_, '_>,
        archive: &Arc<Archive>,
        opened: Opened,
        out: &mut Vec<u8>,
    ) -> Answer<Note> {
        archive.touch();
        let etag = manifest_tag(&archive.id);
        match evaluate(&conditions(asked.head), &etag, true) {
            Verdict::Proceed => {}
            Verdict::NotModified => return self.is_same(asked, &etag, out),
            Verdict::Failed => {
                return self.failed(asked, 412, "If-Match names another manifest", out);
            }
        }
        if asked.head.method != Method::Head {
            // Whoever has it may come for any part.
            archive.note_told();
        }
        let bytes = opened.file.1;
        self.with_date(|date| {
            let head = Head::new(out, 200, date, asked.caching())
                .etag(&etag)
                .content_length(bytes)
                .header("Content-Type", MANIFEST_TYPE)
                .header("Vary", "Accept");
            let head = match self.store_of(asked) {
                Some(origin) => head.header(STORE, origin),
                None => head,
            };
            let head = name_bundle(head, &asked.repo, archive);
            let head = describe_kept(head, (&asked.repo, archive));
            // All values are the program's own or were checked when they were read.
            let _ = head.connection(asked.head.keep_alive).finish();
        });
        Answer {
            payload: self.payload(asked, opened, 0..bytes),
            keep_alive: asked.head.keep_alive,
            note: self.note_of((asked, archive), Outcome::Manifest, 200),
        }
    }

    fn payload(
        &self,
        asked: &Asked<'_, '_>,
        opened: Opened,
        range: std::ops::Range<u64>,
    ) -> Payload {
        if asked.head.method == Method::Head || range.is_empty() {
            return Payload::Written;
        }
        let Opened {
            handle,
            borrower,
            files,
            file,
        } = opened;
        let with = (self.ahead(), borrower);
        Payload::Stream {
            source: Box::new(PartReader::new(handle, files, file, with)),
            start: range.start,
            end: Some(range.end),
        }
    }

    /// Answers `GET` and `HEAD` of a part.
    pub(super) async fn part(
        &self,
        asked: &Asked<'_, '_>,
        name: &str,
        out: &mut Vec<u8>,
    ) -> Answer<Note> {
        let found = match self.find_part(asked, name).await {
            None => self.lent_part(asked, name).await,
            found => found,
        };
        let Some((archive, file)) = found else {
            return self.failed(asked, 404, NO_PART, out);
        };
        archive.touch();
        let etag = format!("\"{name}-{:x}\"", file.1);
        match evaluate(&conditions(asked.head), &etag, true) {
            Verdict::Proceed => {}
            Verdict::NotModified => return self.is_same(asked, &etag, out),
            Verdict::Failed => {
                return self.failed(asked, 412, "If-Match names another file", out);
            }
        }
        if let Some(url) = self.url_in_store(asked, name, file.1).await {
            return self.send_to_store(asked, &archive, &url, out);
        }
        // It may have gone since: then it is none of a snapshot any more.
        let Ok((handle, files)) = self.joined(&archive).await else {
            return self.failed(asked, 404, NO_PART, out);
        };
        let Some(files) = files else {
            return self.failed(asked, 404, NO_PART, out);
        };
        let opened = Opened {
            handle,
            borrower: archive.borrower(),
            files,
            file,
        };
        self.send_part(asked, (&archive, &etag), opened, out)
    }

    /// The part of this name in what a request may have.
    async fn find_part(
        &self,
        asked: &Asked<'_, '_>,
        name: &str,
    ) -> Option<(Arc<Archive>, (Option<u32>, u64))> {
        let in_it = |archive: Arc<Archive>| {
            let part = archive.part(name)?;
            Some((archive, part))
        };
        if asked.shown.is_some() {
            // What was replaced is not what the upstream has.
            return in_it(self.cached(asked).await?);
        }
        let repo = &asked.repo;
        let may_be = |archive: &Arc<Archive>| {
            asked.named.may_mean(&archive.want) && repo.may_serve(&archive.want)
        };
        let mut current = repo.archives();
        current.retain(may_be);
        let is_known = !current.is_empty();
        if let Some(found) = current.into_iter().find_map(in_it) {
            return Some(found);
        }
        let retired = self.catalog.retired.find(|archive| {
            archive.repository == repo.name && may_be(archive) && archive.part(name).is_some()
        });
        match retired {
            Some(archive) => in_it(archive),
            None if is_known => None,
            // A tag can be named that leads to the commit.
            None => in_it(self.cached(asked).await?),
        }
    }

    fn is_same(&self, asked: &Asked<'_, '_>, etag: &str, out: &mut Vec<u8>) -> Answer<Note> {
        self.with_date(|date| {
            let head = Head::new(out, 304, date, asked.caching()).etag(etag);
            // All values are the program's own.
            let _ = head.connection(asked.head.keep_alive).finish();
        });
        Answer {
            payload: Payload::Written,
            keep_alive: asked.head.keep_alive,
            note: self.note_for(asked, Outcome::Precondition, 304),
        }
    }

    fn send_part(
        &self,
        asked: &Asked<'_, '_>,
        (archive, etag): (&Arc<Archive>, &str),
        opened: Opened,
        out: &mut Vec<u8>,
    ) -> Answer<Note> {
        let (head, total) = (asked.head, opened.file.1);
        let is_same = head
            .if_range
            .is_none_or(|value| if_range_matches(value, etag));
        let wanted = match is_same && head.method != Method::Head {
            true => requested(head.range),
            false => Requested::Full,
        };
        let selection = wanted.resolve(total);
        let (status, range) = match selection {
            Selection::Full => (200, 0..total),
            Selection::Part {
                start,
                end_inclusive,
            } => (206, start..end_inclusive + 1),
            Selection::Unsatisfiable => (416, 0..0),
        };
        self.with_date(|date| {
            let head = Head::new(out, status, date, asked.caching())
                .etag(etag)
                .content_length(range.end - range.start)
                .header("Content-Type", "application/octet-stream")
                .header("Accept-Ranges", "bytes")
                .header("Cache-Status", "tarpon; hit");
            let head = match selection {
                Selection::Full => head,
                Selection::Part {
                    start,
                    end_inclusive,
                } => head.content_range(start, end_inclusive, Some(total)),
                Selection::Unsatisfiable => head.content_range_unsatisfiable(total),
            };
            // All values are the program's own or were checked when they were read.
            let _ = head.connection(asked.head.keep_alive).finish();
        });
        Answer {
            payload: self.payload(asked, opened, range),
            keep_alive: asked.head.keep_alive,
            note: self.note_of((asked, archive), Outcome::Part, status),
        }
    }
}
