//! What each connection of a download does: the first takes its answer as it comes, all others fetch
//! the archive segment by segment, and so does the first one after it broke.

use std::io;
use std::ops::Range;
use std::time::{Duration, Instant};

use super::budget::Buffer;
use super::chunk::Chunk;
use super::download::{Claim, Download, Duty, NotNow, Served};
use super::error::RestoreError;
use super::http::Conn;
use super::link::pause;
use super::parts::Fetching;
use super::reel::Reel;
use super::request::Request;
use super::source::Source;
use super::stock::Stock;
use super::untaken::{Untaken, reusable};
use crate::limits::{CHUNK_WAIT_MS, DOWNLOAD_TRIES_MAX, PACE_BYTES, STREAM_READ_BYTES};
use crate::manifest::parts::Manifest;

/// The connection that the first answer came on.
pub(super) struct First<'a> {
    pub conn: Conn<'a>,
    /// Whether its answer is a part of the archive.
    pub is_part: bool,
}

/// What is played, out of what, and by whom it is kept.
type Played<'p, 'a> = (
    &'p Reel,
    &'p Source<'a>,
    &'p Manifest,
    Option<&'p Stock<'p>>,
);

impl<'a> Download<'a> {
    /// What the first connection does, until the archive is there.
    pub(super) fn run_first(&self, first: First<'a>) {
        let _duty = Duty(self);
        let First { mut conn, is_part } = first;
        let result = self.stream(&mut conn);
        let can_resume = !matches!(self.served, Served::Archive { etag: None, .. });
        // One without a length may be cut off: what lies behind it is asked for, if that can be.
        let is_all = !is_part && (!self.ends_itself || !can_resume);
        let is_lost = result.is_err() && !can_resume;
        let complete = self.stream_ended(result.is_ok() && is_all, is_lost);
        match result {
            _ if complete => {}
            Err(e) if !can_resume => {
                let what = format!("the download broke and cannot be resumed: {e}");
                self.fail(RestoreError::Server(what));
            }
            result => {
                if result.is_err() {
                    self.link.progress.resumed();
                }
                self.run_segments(result.is_ok().then_some(conn), None);
            }
        }
    }

    /// What every further connection does: fetches segments until the archive is there, but for what a stock has of them.
    pub(super) fn run_further(&self, stock: Option<&Stock<'_>>) {
        let _duty = Duty(self);
        self.run_segments(None, stock);
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

    fn run_segments(&self, mut conn: Option<Conn<'a>>, stock: Option<&Stock<'_>>) {
        while let Some(claimed) = self.claim() {
            if !self.fetch(&mut conn, stock, claimed) {
                return;
            }
        }
    }

    /// What every connection does that fetches parts: what is played out of them comes first, and packs while that
    /// waits for whoever takes it.
    pub(super) fn run_parts(&self, packs: &Fetching<'_, 'a>) {
        let _duty = Duty(self);
        let (mut conn, mut buffer) = (None, Vec::new());
        let failed = loop {
            let claimed = match self.try_claim() {
                Ok(claimed) => Some(claimed),
                Err(NotNow::Over) => None,
                Err(NotNow::Window | NotNow::Memory) => {
                    match packs.fetch_next(&mut conn, &mut buffer) {
                        Ok(true) => continue,
                        Ok(false) => self.claim(),
                        Err(error) => break Err(error),
                    }
                }
            };
            let Some(claimed) = claimed else {
                break packs.fetch_all(&mut conn, &mut buffer);
            };
            if !self.fetch(&mut conn, Some(packs.stock()), claimed) {
                return;
            }
        };
        if let Err(error) = failed {
            self.fail(error);
            // What is done beside it is of no use.
            self.link.stop.set();
        }
    }

    /// Fetches what was claimed; whether it could. Why not is said before the claim is given up, which says itself that
    /// something is wrong where nobody else has.
    fn fetch(
        &self,
        conn: &mut Option<Conn<'a>>,
        stock: Option<&Stock<'_>>,
        (mut buffer, claim): (Buffer, Claim<'_, 'a>),
    ) -> bool {
        buffer.bytes.resize(STREAM_READ_BYTES, 0);
        let kept = match self.segment(conn, stock, claim.start..claim.end, &mut buffer.bytes) {
            Ok(0) => Ok(()),
            Ok(len) => claim.keep(Chunk::new(buffer, len)),
            Err(error) => Err(error),
        };
        match kept {
            Ok(()) => true,
            Err(error) => {
                self.fail(error);
                false
            }
        }
    }

    /// Fetches bytes `start..end`, less at the archive's end, with as many tries as bring more than
    /// a little.
    fn segment(
        &self,
        conn: &mut Option<Conn<'a>>,
        stock: Option<&Stock<'_>>,
        Range { start, end }: Range<u64>,
        into: &mut [u8],
    ) -> Result<usize, RestoreError> {
        let mut len = 0;
        let mut tries = 0;
        loop {
            let at = start + len as u64;
            let before = len;
            let tried = match &self.served {
                Served::Archive { target, etag } => {
                    let etag = etag.as_deref().unwrap_or_default();
                    self.try_segment(
                        conn,
                        (target, etag),
                        at..end,
                        &mut into[..],
                        start,
                        &mut len,
                    )
                }
                Served::Parts(reel, source, manifest) => {
                    let whole = &mut into[..(end - start) as usize];
                    let served = (reel, source, *manifest, stock);
                    self.try_stretches(conn, served, start, whole, &mut len)
                }
            };
            let failed = match tried {
                Ok(true) => return Ok(len),
                Ok(false) => "the answer ended early".to_owned(),
                Err(Untaken::Final(error)) => return Err(error),
                Err(Untaken::Again(why)) => why,
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

    /// One request for each stretch of a part that a segment begins or goes on with, but for those that are at hand;
    /// whether it is whole now.
    fn try_stretches(
        &self,
        slot: &mut Option<Conn<'a>>,
        (reel, source, manifest, stock): Played<'_, 'a>,
        start: u64,
        whole: &mut [u8],
        len: &mut usize,
    ) -> Result<bool, Untaken> {
        while *len < whole.len() {
            let Some(stretch) = reel.at(start + *len as u64) else {
                return Ok(true);
            };
            let left = (whole.len() - *len).min(usize::try_from(stretch.len).unwrap_or(usize::MAX));
            let (begin, end) = (*len, *len + left);
            let progress = self.link.progress;
            if let Some(stock) = stock
                && stock.had(
                    stretch.part,
                    stretch.offset,
                    &mut whole[begin..end],
                    progress,
                )
            {
                *len = end;
                continue;
            }
            let part = &manifest.parts[stretch.part];
            let conn = reusable(slot, self.link)?;
            let conn = source.ask(conn, part, stretch.offset..stretch.offset + left as u64)?;
            let came = self.take(conn, &mut whole[..end], len);
            if let Some(stock) = stock {
                stock.played(stretch.part, stretch.offset, &whole[begin..*len]);
            }
            if !came? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Takes what comes until `into` is full; whether it is.
    fn take(&self, conn: &mut Conn<'a>, into: &mut [u8], len: &mut usize) -> io::Result<bool> {
        while *len < into.len() {
            let got = conn.read(&mut into[*len..])?;
            if got == 0 {
                return Ok(false);
            }
            *len += got;
            self.link.progress.received(got);
        }
        Ok(true)
    }

    /// One request; whether the segment is whole now.
    fn try_segment(
        &self,
        slot: &mut Option<Conn<'a>>,
        (target, etag): (&str, &str),
        Range { start: at, end }: Range<u64>,
        into: &mut [u8],
        start: u64,
        len: &mut usize,
    ) -> Result<bool, Untaken> {
        let conn = reusable(slot, self.link)?;
        let range = format!("bytes={at}-{}", end - 1);
        let fields = [("Range", range.as_str()), ("If-Match", etag)];
        // The archive is there: nothing has to be made first.
        let request = Request::get(target, &fields);
        let answer = conn.ask(&request, self.link.stall)?;
        let (from, total) = answer.content_range().unwrap_or_default();
        match answer.status {
            206 if from == Some(at) && answer.get("etag") == Some(etag) => {}
            // Nothing is there: right behind what came, or anywhere if nothing came.
            416 if total.is_some_and(|total| total <= at) => {
                self.learn(total, if *len > 0 { at } else { 0 })?;
                return Ok(true);
            }
            200 | 206 => return Err(Untaken::Final(RestoreError::Changed)),
            status if status >= 500 => {
                let text = conn.read_text().unwrap_or_default();
                return Err(Untaken::Again(format!("{status}: {text}")));
            }
            404 => return Err(Untaken::Final(RestoreError::Changed)),
            _ => return Err(Untaken::Final(conn.refused(&answer))),
        }
        // The first byte that it brings is one of the archive's.
        let total = self.learn(total, at + 1)?;
        let end = total.map_or(end, |total| end.min(total));
        let whole = usize::try_from(end.saturating_sub(start)).unwrap_or(usize::MAX);
        let whole = whole.min(into.len());
        // Nothing may be left of the answer, or the connection could not be used again.
        Ok(self.take(conn, &mut into[..whole], len)?)
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
