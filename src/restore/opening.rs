//! The first answer: whether the server has the archive, and how it is to be fetched.

use std::io;
use std::time::Instant;

use super::answer::Answer;
use super::download::Download;
use super::error::RestoreError;
use super::http::Conn;
use super::link::{Link, pause};
use super::preamble;
use super::request::Request;
use super::segments::First;
use crate::limits::{DOWNLOAD_TRIES_MAX, SEGMENT_BYTES};

/// A download whose first answer has come.
pub(super) struct Opened<'a> {
    link: Link<'a>,
    target: String,
    conn: Conn<'a>,
    answer: Answer,
    etag: Option<String>,
}

/// What is asked for.
pub(super) struct Asked {
    pub target: String,
    /// See [`Wanted::query`](super::wanted::Wanted::query).
    pub query: String,
    /// Whether it must be no older than the request.
    pub is_fresh: bool,
}

/// Asks for it; tries again while the server cannot be reached or says that it is busy, but
/// not when it says nothing at all, or is not believed.
pub(super) fn open<'a>(link: Link<'a>, asked: &Asked) -> Result<Opened<'a>, RestoreError> {
    let mut target = format!("{}{}", asked.target, asked.query);
    let mut tries = 0;
    let began = Instant::now();
    loop {
        let limited = Link {
            wait: link.wait.saturating_sub(began.elapsed()),
            ..link
        };
        let failed = match ask_first((link, limited), &target, asked.is_fresh) {
            Ok(opened) => match opened.answer.status {
                200 | 206 => return Ok(opened),
                // An old server takes no escapes, and knows nothing of names.
                400 if target.contains('%') => {
                    target.clone_from(&asked.target);
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
                    error
                }
            },
            Err(Failed::Told(error)) => return Err(error),
            Err(Failed::Io(e)) => {
                let error = RestoreError::Server(format!("{}: {e}", link.server.authority));
                match e.kind() {
                    // All the time that it may take is over: no more for further tries.
                    io::ErrorKind::TimedOut => return Err(error),
                    // Nor would another one find anything else.
                    io::ErrorKind::PermissionDenied => return Err(error),
                    _ => error,
                }
            }
        };
        tries += 1;
        if tries >= DOWNLOAD_TRIES_MAX / 2 || link.stop.is_set() {
            return Err(failed);
        }
        pause(link.stop, tries);
    }
}

/// Why there is no first answer.
enum Failed {
    /// The connection.
    Io(io::Error),
    /// The server has said so, or what it says is no archive.
    Told(RestoreError),
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Failed {
        Failed::Io(error)
    }
}

impl From<RestoreError> for Failed {
    fn from(error: RestoreError) -> Failed {
        Failed::Told(error)
    }
}

/// Asks once, along a link whose wait is what is left of it.
fn ask_first<'a>(
    (whole, link): (Link<'a>, Link<'a>),
    target: &str,
    is_fresh: bool,
) -> Result<Opened<'a>, Failed> {
    let conn = Conn::open(link)?;
    let mut conn = conn.heed(link.progress.signs());
    link.progress.asked(whole.wait);
    let range = format!("bytes=0-{}", SEGMENT_BYTES - 1);
    let mut fields = vec![("Range", range.as_str())];
    fields.extend(is_fresh.then_some(("Cache-Control", "max-age=0")));
    fields.extend(link.corrupt.get().map(|tag| ("Tarpon-Corrupt", &**tag)));
    let answer = conn.ask(&Request::get(target, &fields), link.wait)?;
    link.progress.answered();
    let mut etag = answer
        .get("etag")
        .filter(|etag| !etag.starts_with("W/"))
        .map(str::to_owned);
    if answer.status == 200 && etag.is_none() {
        etag = preamble::read(&mut conn, link)?.etag;
    }
    Ok(Opened {
        link: whole,
        // What is asked for further goes there at once.
        target: answer.moved.clone().unwrap_or_else(|| target.to_owned()),
        conn,
        answer,
        etag,
    })
}

impl<'a> Opened<'a> {
    /// A header of the first answer.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.answer.get(name)
    }

    /// The target of what a repository has, which was asked for at `base`: where the server has sent the request,
    /// if that has the same end as what was asked for.
    pub(super) fn base(&self, base: &str, asked: &Asked) -> String {
        let moved = self.answer.moved.as_deref();
        let end = asked.target.strip_prefix(base).unwrap_or_default();
        let base_of = |moved: &str| {
            let path = moved.split('?').next().unwrap_or_default();
            path.strip_suffix(end).map(str::to_owned)
        };
        moved.and_then(base_of).unwrap_or_else(|| base.to_owned())
    }

    /// The archive's tag, if the server is one that can be told that it is corrupt.
    pub(super) fn tag_of_tarpon(&self) -> Option<String> {
        let status = self.answer.get("cache-status")?;
        self.etag.clone().filter(|_| status.starts_with("tarpon;"))
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
        let mut download = Download::new(self.link, self.target, self.etag, total);
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
