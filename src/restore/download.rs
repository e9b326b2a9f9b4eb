//! The archive's bytes in order, whatever happens to connections.
//!
//! A complete archive comes in segments over several connections, each pinned with `If-Match` so
//! that bytes of two archives never mix. One that still grows comes as one stream. When a stream
//! breaks, what is missing is asked for in segments.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use super::budget::{Budget, Buffer};
use super::chunk::Chunk;
use super::error::RestoreError;
use super::http::{Answer, Conn};
use super::progress::Progress;
use super::stop::Stop;
use super::url::Server;
use crate::limits::{
    CHUNK_WAIT_MS, DOWNLOAD_RETRY_MS, DOWNLOAD_TRIES_MAX, FIRST_ANSWER_MS, INTERRUPT_POLL_MS,
    PACE_BYTES, RECEIVED_BYTES_MAX, SEGMENT_BYTES, SEGMENTS_AHEAD, STREAM_READ_BYTES,
};

/// How to download.
#[derive(Debug, Clone, Copy)]
pub(super) struct Link<'a> {
    pub server: &'a Server,
    pub stop: &'a Stop,
    pub progress: &'a Progress,
    pub connections: usize,
    /// How long a connection may bring nothing.
    pub stall: Duration,
    /// The same for those of `git`.
    pub git_stall: Duration,
    /// The tag of an archive that was found corrupt, which the server is told when it is asked again.
    pub corrupt: &'a OnceLock<String>,
}

/// A download whose first answer has come.
pub(super) struct Opened<'a> {
    link: Link<'a>,
    target: String,
    conn: Conn<'a>,
    answer: Answer,
    etag: Option<String>,
}

/// Asks for `target`; tries again while the server cannot be reached or says that it is busy, but
/// not when it says nothing at all.
pub(super) fn open<'a>(link: Link<'a>, target: &str) -> Result<Opened<'a>, RestoreError> {
    let mut tries = 0;
    loop {
        let failed = match ask_first(link, target) {
            Ok(opened) => match opened.answer.status {
                200 | 206 => return Ok(opened),
                status => {
                    let mut conn = opened.conn;
                    let error = refusal(status, &conn.read_text().unwrap_or_default());
                    if status != 503 {
                        return Err(error);
                    }
                    error
                }
            },
            Err(e) => {
                let error = RestoreError::Server(format!("{}: {e}", link.server.authority));
                // All the time that it may take is over: no more for further tries.
                if e.kind() == io::ErrorKind::TimedOut {
                    return Err(error);
                }
                error
            }
        };
        tries += 1;
        if tries >= DOWNLOAD_TRIES_MAX / 2 || link.stop.is_set() {
            return Err(failed);
        }
        pause(link.stop, tries);
    }
}

fn ask_first<'a>(link: Link<'a>, target: &str) -> io::Result<Opened<'a>> {
    let conn = Conn::open(link.server, link.stop, link.stall)?;
    let mut conn = conn.heed(link.progress.signs());
    link.progress.asked();
    let range = format!("bytes=0-{}", SEGMENT_BYTES - 1);
    let mut fields = vec![("Range", range.as_str())];
    fields.extend(link.corrupt.get().map(|tag| ("Tarpon-Corrupt", &**tag)));
    let answer = conn.ask(
        "GET",
        target,
        &fields,
        b"",
        Duration::from_millis(FIRST_ANSWER_MS),
    )?;
    link.progress.answered();
    let etag = answer
        .get("etag")
        .filter(|etag| !etag.starts_with("W/"))
        .map(str::to_owned);
    Ok(Opened {
        link,
        target: target.to_owned(),
        conn,
        answer,
        etag,
    })
}

/// What a status that is no success means.
pub(super) fn refusal(status: u16, text: &str) -> RestoreError {
    let message = format!("{status}: {}", text.lines().next().unwrap_or_default());
    match status {
        400 | 403 | 404 | 410 => RestoreError::NoSnapshot(message),
        412 => RestoreError::Changed,
        _ => RestoreError::Server(format!("the server answers {message}")),
    }
}

/// Waits before try number `tries`, longer each time; less when the restore is to stop.
fn pause(stop: &Stop, tries: u32) {
    let until = Instant::now() + Duration::from_millis(DOWNLOAD_RETRY_MS << tries.min(6));
    while Instant::now() < until && !stop.is_set() {
        std::thread::sleep(Duration::from_millis(INTERRUPT_POLL_MS / 4));
    }
}

/// What the connections and the reader share.
///
/// Invariants: bytes before `delivered` were handed out, in order; those from there to `claimed`
/// are in `ready` or being fetched by exactly one connection, into memory of the budget, or behind
/// the archive's end; `claimed` is never more than the window ahead of `delivered`. No byte that
/// came stands at or behind `total`, which is set once.
struct State {
    delivered: u64,
    claimed: u64,
    /// Behind the last byte that came, wherever it stands.
    received_end: u64,
    ready: BTreeMap<u64, Chunk>,
    total: Option<u64>,
    error: Option<RestoreError>,
    /// Whether one connection takes all there is, so that nothing may be claimed.
    streaming: bool,
    /// Whether nothing more is wanted.
    closed: bool,
}

impl State {
    /// The server says how long the archive is: always the same, and no less than what came of it.
    fn set_total(&mut self, total: u64) -> Result<(), RestoreError> {
        match *self.total.get_or_insert(total) == total && self.received_end <= total {
            true => Ok(()),
            false => Err(RestoreError::Changed),
        }
    }

    /// Takes bytes of the archive that came for `start`.
    fn insert(&mut self, start: u64, chunk: Chunk) -> Result<(), RestoreError> {
        let end = start.saturating_add(chunk.len() as u64);
        self.received_end = self.received_end.max(end);
        if self.total.is_some_and(|total| end > total) {
            return Err(RestoreError::Changed);
        }
        self.ready.insert(start, chunk);
        Ok(())
    }

    /// Whether all of the archive is fetched or being fetched.
    fn is_all_claimed(&self) -> bool {
        !self.streaming && self.total.is_some_and(|total| self.claimed >= total)
    }
}

/// A running download.
pub(super) struct Download<'a> {
    link: Link<'a>,
    target: String,
    etag: Option<String>,
    window_bytes: u64,
    budget: Arc<Budget>,
    state: Mutex<State>,
    changed: Condvar,
}

impl<'a> Opened<'a> {
    /// A header of the first answer.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.answer.get(name)
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
        let state = State {
            delivered: 0,
            claimed: 0,
            received_end: 0,
            ready: BTreeMap::new(),
            total,
            error: None,
            streaming: true,
            closed: false,
        };
        let download = Download {
            link: self.link,
            target: self.target,
            etag: self.etag,
            window_bytes: self.link.connections as u64 * SEGMENTS_AHEAD * SEGMENT_BYTES,
            budget: Budget::new(RECEIVED_BYTES_MAX),
            state: Mutex::new(state),
            changed: Condvar::new(),
        };
        Ok((
            download,
            First {
                conn: self.conn,
                is_part,
            },
        ))
    }
}

/// The connection that the first answer came on.
pub(super) struct First<'a> {
    conn: Conn<'a>,
    is_part: bool,
}

impl<'a> Download<'a> {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn wait<'s>(&self, state: MutexGuard<'s, State>) -> MutexGuard<'s, State> {
        let limit = Duration::from_millis(INTERRUPT_POLL_MS);
        match self.changed.wait_timeout(state, limit) {
            Ok((state, _)) => state,
            Err(poisoned) => poisoned.into_inner().0,
        }
    }

    /// The next bytes; `None` when all have been handed out. An error when they do not come until
    /// `deadline`.
    pub(super) fn next(&self, deadline: Option<Instant>) -> Result<Option<Chunk>, RestoreError> {
        let mut state = self.lock();
        loop {
            if let Some(error) = state.error.take() {
                return Err(error);
            }
            let at = state.delivered;
            if let Some(chunk) = state.ready.remove(&at) {
                state.delivered += chunk.len() as u64;
                self.changed.notify_all();
                return Ok(Some(chunk));
            }
            if state.total == Some(at) {
                return Ok(None);
            }
            if self.link.stop.is_set() {
                return Err(RestoreError::Server("the download was stopped".into()));
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                let what = "all of the archive came, but the answer does not end";
                return Err(RestoreError::Server(what.into()));
            }
            state = self.wait(state);
        }
    }

    /// How long the answer may take to end behind the archive.
    pub(super) fn stall(&self) -> Duration {
        self.link.stall
    }

    fn fail(&self, error: RestoreError) {
        self.lock().error.get_or_insert(error);
        self.changed.notify_all();
    }

    /// Nothing more is wanted as soon as this is dropped: who receives ends, also where a server
    /// goes on.
    pub(super) fn closes(&self) -> Closes<'_, 'a> {
        Closes(self)
    }

    /// A connection's thread has ended before its time.
    fn fail_unless_over(&self) {
        if !self.is_over() {
            self.fail(RestoreError::Thread("downloads"));
        }
    }

    /// What an answer says of the archive's length, if it does, and that is at least `least`; gives
    /// what is known of it.
    fn learn(&self, total: Option<u64>, least: u64) -> Result<Option<u64>, SegmentError> {
        let mut state = self.lock();
        if let Some(total) = total {
            state.set_total(total).map_err(SegmentError::Final)?;
            self.link.progress.set_total(total);
        }
        match state.total.is_some_and(|total| total < least) {
            true => Err(SegmentError::Final(RestoreError::Changed)),
            false => Ok(state.total),
        }
    }

    fn is_over(&self) -> bool {
        self.ends(&self.lock())
    }

    fn ends(&self, state: &State) -> bool {
        self.link.stop.is_set() || state.closed || state.error.is_some()
    }

    /// What the first connection does, until the archive is there.
    pub(super) fn run_first(&self, first: First<'a>) {
        let _duty = Duty(self);
        let First { mut conn, is_part } = first;
        let result = self.stream(&mut conn);
        let complete = {
            let mut state = self.lock();
            state.streaming = false;
            if result.is_ok() && !is_part {
                let end = state.claimed;
                state.total.get_or_insert(end);
            }
            state.is_all_claimed()
        };
        self.changed.notify_all();
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

    /// Memory for what is claimed next in the stream, which only this connection does.
    fn room(&self) -> io::Result<Buffer> {
        let mut state = self.lock();
        loop {
            if self.ends(&state) {
                return Err(io::Error::other("the restore ends"));
            }
            if state.claimed - state.delivered >= self.window_bytes {
                state = self.wait(state);
                continue;
            }
            if let Some(buffer) = self.budget.try_take(STREAM_READ_BYTES) {
                return Ok(buffer);
            }
            drop(state);
            self.budget.wait(STREAM_READ_BYTES);
            state = self.lock();
        }
    }

    /// Takes the body of the first answer as it comes.
    fn stream(&self, conn: &mut Conn<'a>) -> io::Result<()> {
        loop {
            let mut buffer = self.room()?;
            buffer.bytes.resize(STREAM_READ_BYTES, 0);
            let mut len = 0;
            let result = read_piece(conn, &mut buffer.bytes, &mut len);
            self.link.progress.received(len);
            let mut state = self.lock();
            let at = state.claimed;
            // A server may send more than it says.
            let left = state.total.map(|total| total.saturating_sub(at));
            let len = left.map_or(len, |left| len.min(usize::try_from(left).unwrap_or(len)));
            state.claimed += len as u64;
            let inserted = match len {
                0 => Ok(()),
                len => state.insert(at, Chunk::new(buffer, len)),
            };
            let is_complete = state.total == Some(state.claimed);
            drop(state);
            self.changed.notify_all();
            inserted.map_err(io::Error::other)?;
            if is_complete || result? {
                return Ok(());
            }
        }
    }

    /// The next segment that nobody fetches, and memory for it; `None` when there is none left.
    fn claim(&self) -> Option<(Buffer, Claim<'_, 'a>)> {
        let mut state = self.lock();
        loop {
            if self.ends(&state) || state.is_all_claimed() {
                return None;
            }
            if state.streaming || state.claimed - state.delivered >= self.window_bytes {
                state = self.wait(state);
                continue;
            }
            if let Some(buffer) = self.budget.try_take(STREAM_READ_BYTES) {
                let start = state.claimed;
                let full = start + SEGMENT_BYTES;
                let end = state.total.map_or(full, |total| full.min(total));
                state.claimed = end;
                let download = self;
                let claim = Claim {
                    download,
                    start,
                    end,
                };
                return Some((buffer, claim));
            }
            drop(state);
            self.budget.wait(STREAM_READ_BYTES);
            state = self.lock();
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
            None => Conn::open(self.link.server, self.link.stop, self.link.stall)?,
        };
        let conn = slot.insert(conn);
        let range = format!("bytes={at}-{}", end - 1);
        let etag = self.etag.as_deref().unwrap_or_default();
        let fields = [("Range", range.as_str()), ("If-Match", etag)];
        // The archive is there: nothing has to be made first.
        let limit = self.link.stall;
        let answer = conn.ask("GET", &self.target, &fields, b"", limit)?;
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
            status => {
                let text = conn.read_text().unwrap_or_default();
                return Err(SegmentError::Final(refusal(status, &text)));
            }
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

/// A part of the archive that one connection has promised to fetch.
struct Claim<'d, 'a> {
    download: &'d Download<'a>,
    start: u64,
    end: u64,
}

impl Claim<'_, '_> {
    /// Here it is.
    fn keep(&self, chunk: Chunk) -> Result<(), RestoreError> {
        self.download.lock().insert(self.start, chunk)
    }
}

/// However it goes: what was promised is there or behind the archive's end, or the download fails.
impl Drop for Claim<'_, '_> {
    fn drop(&mut self) {
        let state = self.download.lock();
        let came = state.delivered > self.start || state.ready.contains_key(&self.start);
        let is_behind = state.total.is_some_and(|total| self.start >= total);
        drop(state);
        match came || is_behind {
            true => self.download.changed.notify_all(),
            false => self.download.fail_unless_over(),
        }
    }
}

/// Held by a connection's thread for as long as it lives. However it ends: somebody else fetches
/// what is left, or the download fails.
struct Duty<'d, 'a>(&'d Download<'a>);

impl Drop for Duty<'_, '_> {
    fn drop(&mut self) {
        let is_left = !self.0.lock().is_all_claimed();
        if is_left {
            self.0.fail_unless_over();
        }
    }
}

/// Held by whoever takes what is downloaded.
pub(super) struct Closes<'d, 'a>(&'d Download<'a>);

impl Drop for Closes<'_, '_> {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.changed.notify_all();
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
enum SegmentError {
    /// Worth another try.
    Again(String),
    Final(RestoreError),
}

impl From<io::Error> for SegmentError {
    fn from(error: io::Error) -> Self {
        Self::Again(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A download of `total` bytes of which nothing came yet.
    fn attempt(total: Option<u64>, check: impl FnOnce(&Download<'_>)) {
        let (stop, progress, corrupt) = (Stop::default(), Progress::default(), OnceLock::new());
        let server = Server::parse("http://127.0.0.1:9").unwrap();
        let link = Link {
            server: &server,
            stop: &stop,
            progress: &progress,
            connections: 2,
            stall: Duration::from_secs(1),
            git_stall: Duration::from_secs(1),
            corrupt: &corrupt,
        };
        let state = State {
            delivered: 0,
            claimed: 0,
            received_end: 0,
            ready: BTreeMap::new(),
            total,
            error: None,
            streaming: false,
            closed: false,
        };
        check(&Download {
            link,
            target: "/x".into(),
            etag: None,
            window_bytes: 4 * SEGMENT_BYTES,
            budget: Budget::new(RECEIVED_BYTES_MAX),
            state: Mutex::new(state),
            changed: Condvar::new(),
        });
    }

    fn chunk(download: &Download<'_>, len: usize) -> Chunk {
        let mut buffer = download.budget.try_take(STREAM_READ_BYTES).unwrap();
        buffer.bytes.resize(STREAM_READ_BYTES, 0);
        Chunk::new(buffer, len)
    }

    /// The error that ends the wait for what comes next.
    fn error(download: &Download<'_>) -> RestoreError {
        let limit = Instant::now() + Duration::from_secs(60);
        let error = download.next(Some(limit)).unwrap_err();
        assert!(Instant::now() < limit, "{error}");
        error
    }

    #[test]
    fn a_thread_that_ends_before_its_time_leaves_nobody_waiting() {
        let is_found = |error| assert!(matches!(error, RestoreError::Thread(_)), "{error}");
        // With something promised, as a panic ends it.
        attempt(Some(4 * SEGMENT_BYTES), |download| {
            drop(download.claim().unwrap());
            is_found(error(download));
        });
        // With something left that nobody has promised.
        attempt(Some(10), |download| {
            drop(Duty(download));
            is_found(error(download));
        });
        attempt(None, |download| {
            download.lock().streaming = true;
            std::thread::scope(|scope| {
                let ends = scope.spawn(|| {
                    let _duty = Duty(download);
                    panic!("while it streams");
                });
                ends.join().unwrap_err();
            });
            is_found(error(download));
            // Nor the others.
            download.fail(RestoreError::Changed);
            assert!(download.claim().is_none());
        });
        // What is there, or behind the end, is no reason.
        attempt(None, |download| {
            let (_, claim) = download.claim().unwrap();
            let (_, behind) = download.claim().unwrap();
            claim.keep(chunk(download, 10)).unwrap();
            assert!(download.learn(Some(10), 0).is_ok());
            drop((claim, behind, Duty(download)));
            assert_eq!(download.next(None).unwrap().unwrap().len(), 10);
            assert!(download.next(None).unwrap().is_none());
        });
        attempt(Some(10), |download| {
            drop(download.closes());
            drop(Duty(download));
            assert!(download.lock().error.is_none());
        });
    }

    #[test]
    fn an_archive_has_one_length() {
        let is_refused = |said: Result<Option<u64>, SegmentError>| {
            let changed = matches!(said, Err(SegmentError::Final(RestoreError::Changed)));
            assert!(changed);
        };
        attempt(None, |download| {
            assert!(matches!(download.learn(None, 7), Ok(None)));
            assert!(matches!(download.learn(Some(10), 10), Ok(Some(10))));
            assert!(matches!(download.learn(None, 10), Ok(Some(10))));
            for total in [0, 9, 11, u64::MAX] {
                is_refused(download.learn(Some(total), 0));
            }
            is_refused(download.learn(Some(10), 11));
            is_refused(download.learn(None, 11));
            let late = download.lock().insert(5, chunk(download, 6));
            assert!(matches!(late, Err(RestoreError::Changed)));
        });
        // Less than what came.
        attempt(None, |download| {
            let (_, claim) = download.claim().unwrap();
            claim.keep(chunk(download, 10)).unwrap();
            is_refused(download.learn(Some(9), 0));
        });
    }
}
