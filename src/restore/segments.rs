//! What each connection of a download does: the first takes its answer as it comes, all others fetch
//! the archive segment by segment, and so does the first one after it broke.

use std::io;
use std::time::{Duration, Instant};

use super::chunk::Chunk;
use super::download::{Download, Duty};
use super::error::RestoreError;
use super::http::Conn;
use super::link::pause;
use super::request::Request;
use crate::limits::{CHUNK_WAIT_MS, DOWNLOAD_TRIES_MAX, PACE_BYTES, STREAM_READ_BYTES};

/// The connection that the first answer came on.
pub(super) struct First<'a> {
    pub conn: Conn<'a>,
    /// Whether its answer is a part of the archive.
    pub is_part: bool,
}

impl<'a> Download<'a> {
    /// What the first connection does, until the archive is there.
    pub(super) fn run_first(&self, first: First<'a>) {
        let _duty = Duty(self);
        let First { mut conn, is_part } = first;
        let result = self.stream(&mut conn);
        // One without a length may be cut off: what lies behind it is asked for, if that can be.
        let is_all = !is_part && (!self.ends_itself || self.etag.is_none());
        let complete = self.stream_ended(result.is_ok() && is_all);
        match result {
            _ if complete => {}
            Err(e) if self.etag.is_none() => {
                let what = format!("the download broke and cannot be resumed: {e}");
                self.fail(RestoreError::Server(what));
            }
            result => {
                if result.is_err() {
                    self.link.progress.resumed();
                }
                self.run_segments(result.is_ok().then_some(conn));
            }
        }
    }

    /// What every further connection does: fetches segments until the archive is there.
    pub(super) fn run_further(&self) {
        let _duty = Duty(self);
        self.run_segments(None);
    }

    /// Takes the body of the first answer as it comes.
    fn stream(&self, conn: &mut Conn<'a>) -> io::Result<()> {
        loop {
            let mut buffer = self.room()?;
            buffer.bytes.resize(STREAM_READ_BYTES, 0);
            let mut len = 0;
            let result = read_piece(conn, &mut buffer.bytes, &mut len);
            self.link.progress.received(len);
            let is_complete = self.streamed(buffer, len).map_err(io::Error::other)?;
            if is_complete || result? {
                return Ok(());
            }
        }
    }

    fn run_segments(&self, mut conn: Option<Conn<'a>>) {
        while let Some((mut buffer, claim)) = self.claim() {
            buffer.bytes.resize(STREAM_READ_BYTES, 0);
            let fetched = self.segment(&mut conn, claim.start, claim.end, &mut buffer.bytes);
            let kept = match fetched {
                Ok(len) if len > 0 => claim.keep(Chunk::new(buffer, len)),
                other => other.map(drop),
            };
            if let Err(error) = kept {
                return self.fail(error);
            }
        }
    }

    /// Fetches bytes `start..end`, less at the archive's end, with as many tries as bring more than
    /// a little.
    fn segment(
        &self,
        conn: &mut Option<Conn<'a>>,
        start: u64,
        end: u64,
        into: &mut [u8],
    ) -> Result<usize, RestoreError> {
        let mut len = 0;
        let mut tries = 0;
        loop {
            let at = start + len as u64;
            let before = len;
            let failed = match self.try_segment(conn, at, end, &mut into[..], start, &mut len) {
                Ok(true) => return Ok(len),
                Ok(false) => "the answer ended early".to_owned(),
                Err(SegmentError::Final(error)) => return Err(error),
                Err(SegmentError::Again(why)) => why,
            };
            *conn = None;
            let is_much = len - before >= PACE_BYTES;
            tries = if is_much { 1 } else { tries + 1 };
            if tries >= DOWNLOAD_TRIES_MAX || self.is_over() {
                let what = format!("the download broke at byte {at}, {tries} tries: {failed}");
                return Err(RestoreError::Server(what));
            }
            self.link.progress.resumed();
            pause(self.link.stop, tries);
        }
    }

    /// One request; whether the segment is whole now.
    fn try_segment(
        &self,
        slot: &mut Option<Conn<'a>>,
        at: u64,
        end: u64,
        into: &mut [u8],
        start: u64,
        len: &mut usize,
    ) -> Result<bool, SegmentError> {
        let conn = match slot.take().filter(Conn::is_reusable) {
            Some(conn) => conn,
            None => Conn::open(self.link)?,
        };
        let conn = slot.insert(conn);
        let range = format!("bytes={at}-{}", end - 1);
        let etag = self.etag.as_deref().unwrap_or_default();
        let fields = [("Range", range.as_str()), ("If-Match", etag)];
        // The archive is there: nothing has to be made first.
        let request = Request::get(&self.target, &fields);
        let answer = conn.ask(&request, self.link.stall)?;
        let (from, total) = answer.content_range().unwrap_or_default();
        match answer.status {
            206 if from == Some(at) && answer.get("etag") == self.etag.as_deref() => {}
            // Nothing is there: right behind what came, or anywhere if nothing came.
            416 if total.is_some_and(|total| total <= at) => {
                self.learn(total, if *len > 0 { at } else { 0 })?;
                return Ok(true);
            }
            200 | 206 => return Err(SegmentError::Final(RestoreError::Changed)),
            status if status >= 500 => {
                let text = conn.read_text().unwrap_or_default();
                return Err(SegmentError::Again(format!("{status}: {text}")));
            }
            404 => return Err(SegmentError::Final(RestoreError::Changed)),
            _ => return Err(SegmentError::Final(conn.refused(&answer))),
        }
        // The first byte that it brings is one of the archive's.
        let total = self.learn(total, at + 1)?;
        let end = total.map_or(end, |total| end.min(total));
        let whole = usize::try_from(end.saturating_sub(start)).unwrap_or(usize::MAX);
        let whole = whole.min(into.len());
        while *len < whole {
            let got = conn.read(&mut into[*len..whole])?;
            if got == 0 {
                return Ok(false);
            }
            *len += got;
            self.link.progress.received(got);
        }
        // Nothing may be left of the answer, or the connection could not be used again.
        Ok(true)
    }
}

/// Reads until `into` is full, or for a moment: what came is not kept waiting for what does not come.
/// Whether the body is at its end. `len` is how much came, also before an error.
fn read_piece(conn: &mut Conn<'_>, into: &mut [u8], len: &mut usize) -> io::Result<bool> {
    let mut until = None;
    while *len < into.len() {
        let got = conn.read(&mut into[*len..])?;
        if got == 0 {
            return Ok(true);
        }
        *len += got;
        let until =
            *until.get_or_insert_with(|| Instant::now() + Duration::from_millis(CHUNK_WAIT_MS));
        if *len < into.len() && !conn.has_more(until)? {
            break;
        }
    }
    Ok(false)
}

/// Why a request brought no segment.
pub(super) enum SegmentError {
    /// Worth another try.
    Again(String),
    Final(RestoreError),
}

impl From<RestoreError> for SegmentError {
    fn from(error: RestoreError) -> Self {
        Self::Final(error)
    }
}

impl From<io::Error> for SegmentError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            // Whoever is not believed is so the next time.
            io::ErrorKind::PermissionDenied => Self::Final(RestoreError::Server(error.to_string())),
            _ => Self::Again(error.to_string()),
        }
    }
}
