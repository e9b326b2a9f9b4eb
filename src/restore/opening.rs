//! The first answer: whether the server has the archive, and how it is to be fetched.

use super::again::{Tries, tries_max};
use super::answer::Answer;
use super::download::{Download, Served};
use super::error::RestoreError;
use super::http::Conn;
use super::link::Link;
use super::preamble::{self, Failed};
use super::request::Request;
use super::segments::First;
use crate::config::{RestoreArgs, WorktreeWay};
use crate::limits::{BUSY_TRIES_MAX, SEGMENT_BYTES};
use crate::manifest::parts::{
    MANIFEST_BEFORE_ARCHIVE, MANIFEST_OR_ARCHIVE, MANIFEST_TYPE, Manifest, tag_of_archive,
};

/// A download whose first answer has come.
pub(super) struct Opened<'a> {
    link: Link<'a>,
    /// The path of its repository: where the server has sent the request, if that is of one.
    base: String,
    /// Of what was answered.
    query: String,
    /// Where further stretches of the archive are asked for.
    archive: String,
    conn: Conn<'a>,
    answer: Answer,
    etag: Option<String>,
    /// If it is a manifest: that, or why it is none.
    manifest: Option<Result<Manifest, String>>,
}

/// What is asked for.
pub(super) struct Asked<'b> {
    /// The path of its repository.
    pub base: &'b str,
    /// See [`Wanted::query`](super::wanted::Wanted::query).
    pub query: String,
    /// Whether it must be no older than the request.
    pub is_fresh: bool,
    pub by: By,
}

/// How a snapshot is to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    Archive,
    /// By a manifest, where the server has one.
    Manifest,
    /// The same, unless the archive is as good: that of a small repository, or of one that the server has to clone or
    /// to build.
    ManifestOrArchive,
    /// The same where much need not come by a manifest: a moment's building is waited for.
    ManifestBeforeArchive,
}

impl By {
    /// As is asked for.
    pub(super) fn of(args: &RestoreArgs) -> By {
        // Where the worktree need not come, or is here already, much need not.
        let is_little =
            args.worktree == WorktreeWay::Packs || args.verify.is_some() || args.seed.is_some();
        match (args.by_parts, is_little) {
            _ if args.by_archive => By::Archive,
            (true, _) => By::Manifest,
            (false, true) => By::ManifestBeforeArchive,
            (false, false) => By::ManifestOrArchive,
        }
    }

    /// What a request says that it takes, if it has to.
    fn accept(self) -> Option<&'static str> {
        match self {
            By::Archive => None,
            By::Manifest => Some(MANIFEST_TYPE),
            By::ManifestOrArchive => Some(MANIFEST_OR_ARCHIVE),
            By::ManifestBeforeArchive => Some(MANIFEST_BEFORE_ARCHIVE),
        }
    }
}

/// What can be asked for of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Archive,
    /// Instead of it the archive may come.
    Manifest,
}

impl What {
    /// What its path ends with.
    fn end(self) -> &'static str {
        match self {
            What::Archive => "/snapshot.tar.zst",
            What::Manifest => "/manifest",
        }
    }
}

/// Asks for it, and has all of a manifest come; tries again while the server cannot be reached, breaks off before anything of
/// the archive came or says that it is busy, but not when it says nothing at all, or is not believed.
pub(super) fn open<'a>(link: Link<'a>, asked: &Asked<'_>) -> Result<Opened<'a>, RestoreError> {
    answered(link, asked, Opened::with_manifest)
}

/// The same of the answer's head alone: whether there is one.
pub(super) fn look(link: Link<'_>, asked: &Asked<'_>) -> Result<(), RestoreError> {
    answered(link, asked, Ok).map(drop)
}

/// Asks until there is an answer of which `rest` has come.
fn answered<'a>(
    link: Link<'a>,
    asked: &Asked<'_>,
    rest: fn(Opened<'a>) -> Result<Opened<'a>, Failed>,
) -> Result<Opened<'a>, RestoreError> {
    let mut what = match asked.by {
        By::Archive => What::Archive,
        By::Manifest | By::ManifestOrArchive | By::ManifestBeforeArchive => What::Manifest,
    };
    let mut query = &*asked.query;
    let mut tries = Tries::begin();
    loop {
        let first = ask_first((link, tries.limited(link)), (asked, what), query);
        let first = first.and_then(|opened| match opened.answer.status {
            200 | 206 => rest(opened),
            _ => Ok(opened),
        });
        let (failed, tries_max) = match first {
            Ok(opened) => match opened.answer.status {
                200 | 206 => return Ok(opened),
                // An old server takes no escapes, and knows nothing of names.
                400 if query.contains('%') => {
                    query = "";
                    continue;
                }
                // Nor do older ones know of manifests: what they say of the archive counts.
                400 | 404 | 405 | 501 if what == What::Manifest => {
                    what = What::Archive;
                    continue;
                }
                status => {
                    let Opened {
                        mut conn, answer, ..
                    } = opened;
                    let error = conn.refused(&answer);
                    // One that says when to come again has been asked for as long as it may take.
                    if status != 503 || answer.again().is_some() {
                        return Err(error);
                    }
                    (error, BUSY_TRIES_MAX)
                }
            },
            Err(Failed::Told(error)) => return Err(error),
            Err(Failed::Io(e)) => {
                link.progress.is_not_reached(&e);
                let error = RestoreError::Server(format!("{}: {e}", link.server.authority));
                (error, tries_max(e.kind()))
            }
        };
        if !tries.go_on(link, tries_max) {
            return Err(failed);
        }
    }
}

/// What a server says of a manifest cannot be.
fn lies(what: &str) -> RestoreError {
    RestoreError::Corrupt {
        offset: 0,
        what: format!("the manifest: {what}"),
    }
}

/// Whether a server may name this as one that it has.
fn is_target(target: &str) -> bool {
    target.starts_with("/") && target.bytes().all(|b| b.is_ascii_graphic())
}

/// Asks once, along a link whose wait is what is left of it.
fn ask_first<'a>(
    (whole, link): (Link<'a>, Link<'a>),
    (asked, what): (&Asked<'_>, What),
    query: &str,
) -> Result<Opened<'a>, Failed> {
    let conn = Conn::open(link)?;
    let mut conn = conn.heed(link.progress.signs());
    link.progress.asked(whole.wait);
    let range = format!("bytes=0-{}", SEGMENT_BYTES - 1);
    let mut fields = vec![("Range", range.as_str())];
    let accept = asked.by.accept().filter(|_| what == What::Manifest);
    fields.extend(accept.map(|accept| ("Accept", accept)));
    fields.extend(asked.is_fresh.then_some(("Cache-Control", "max-age=0")));
    fields.extend(link.corrupt.get().map(|tag| ("Tarpon-Corrupt", &**tag)));
    let target = format!("{}{}{query}", asked.base, what.end());
    let answer = conn.ask(&Request::get(&target, &fields), link.wait)?;
    link.progress.answered();
    link.straight
        .is_named(answer.get("tarpon-store"), link.server);
    let age_s = answer.get("age").and_then(|age| age.parse().ok());
    link.progress.aged(age_s);
    let mut etag = answer
        .get("etag")
        .filter(|etag| !etag.starts_with("W/"))
        .map(str::to_owned);
    if answer.status == 200 && etag.is_none() {
        etag = preamble::read(&mut conn, link)?.etag;
    }
    let moved = answer.moved.as_deref().and_then(|moved| {
        let (path, query) = moved.split_at(moved.find('?').unwrap_or(moved.len()));
        Some((path.strip_suffix(what.end())?.to_owned(), query.to_owned()))
    });
    let (base, query) = moved.unwrap_or_else(|| (asked.base.to_owned(), query.to_owned()));
    let archive = match (what, &answer.moved) {
        (What::Archive, Some(moved)) => moved.clone(),
        _ => format!("{base}{}{query}", What::Archive.end()),
    };
    Ok(Opened {
        link: whole,
        base,
        query,
        archive,
        conn,
        answer,
        etag,
        manifest: None,
    })
}

impl<'a> Opened<'a> {
    /// The target of a bundle that brings what comes up to what is newer, if the server names one.
    pub(super) fn bundle(&self) -> Option<String> {
        let target = self.answer.get("x-cachew-bundle-url");
        let target = target.filter(|target| is_target(target));
        target.map(|target| self.link.server.below(target))
    }

    /// The path of the repository: what is asked for further goes there at once.
    pub(super) fn base(&self) -> &str {
        &self.base
    }

    /// Whom further requests go to: the path of the repository, and what of it is asked for, as a query.
    pub(super) fn asked(&self) -> (Link<'a>, String, String) {
        (self.link, self.base.clone(), self.query.clone())
    }

    /// Whether it is a manifest; else it is the archive.
    pub(super) fn is_manifest(&self) -> bool {
        self.answer.status == 200 && self.answer.get("content-type") == Some(MANIFEST_TYPE)
    }

    /// With the manifest, if the answer is one.
    fn with_manifest(mut self) -> Result<Self, Failed> {
        if !self.is_manifest() {
            return Ok(self);
        }
        let mut broken = None;
        let manifest = Manifest::unpack_from(&mut |into| match self.conn.read(into) {
            Ok(got) => got,
            Err(e) => {
                broken.get_or_insert(e);
                0
            }
        });
        // What has not come says why.
        if let Some(e) = broken {
            return Err(e.into());
        }
        self.manifest = Some(manifest.map_err(|e| e.to_string()));
        Ok(self)
    }

    /// The manifest that the answer is.
    pub(super) fn manifest(self) -> Result<Manifest, RestoreError> {
        let manifest = self.manifest.unwrap_or_else(|| Err("it is none".into()));
        let manifest = manifest.map_err(|why| lies(&why))?;
        match self.etag {
            Some(etag) if etag == manifest.tag() => Ok(manifest),
            _ => Err(lies("it is that of another snapshot")),
        }
    }

    /// The archive's tag, if the server is one that can be told that it is corrupt.
    pub(super) fn tag_of_tarpon(&self) -> Option<String> {
        let status = self.answer.get("cache-status")?;
        let etag = match self.is_manifest() {
            true => tag_of_archive(self.etag.as_deref()?),
            false => self.etag.clone(),
        };
        etag.filter(|_| status.starts_with("tarpon;"))
    }

    /// The download, and its first connection.
    pub(super) fn start(self) -> Result<(Download<'a>, First<'a>), RestoreError> {
        let range = self.answer.content_range();
        let is_part = self.answer.status == 206;
        if is_part && range.and_then(|(start, _)| start) != Some(0) {
            let what = "the server answers with another range than was asked for";
            return Err(RestoreError::Server(what.into()));
        }
        let ends_itself = !is_part
            && self.answer.get("content-length").is_none()
            && self.answer.get("transfer-encoding").is_none();
        let total = match is_part {
            true => range.and_then(|(_, total)| total),
            false => self
                .answer
                .get("content-length")
                .and_then(|len| len.parse().ok()),
        };
        if let Some(total) = total {
            self.link.progress.set_total(total);
        }
        let served = Served::Archive {
            target: self.archive,
            etag: self.etag,
        };
        let mut download = Download::new(self.link, served, total);
        download.ends_itself = ends_itself;
        Ok((
            download,
            First {
                conn: self.conn,
                is_part,
            },
        ))
    }
}
