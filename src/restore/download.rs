//! The archive's bytes in order, whatever happens to connections: what has come, what is being
//! fetched and by whom, and what is wanted next. The connections are in [`super::segments`]. What is played out of
//! parts is such an archive, too, which comes from several files.
//!
//! A complete archive comes in segments over several connections, each pinned with `If-Match` so
//! that bytes of two archives never mix. One that still grows comes as one stream. When a stream
//! breaks, what is missing is asked for in segments.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::budget::{Budget, Buffer};
use super::chunk::Chunk;
use super::error::RestoreError;
use super::link::Link;
use super::reel::Reel;
use super::source::Source;
use crate::limits::{
    INTERRUPT_POLL_MS, RECEIVED_BYTES_MAX, SEGMENT_BYTES, SEGMENTS_AHEAD, STREAM_READ_BYTES,
};
use crate::manifest::parts::Manifest;

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

/// What is downloaded.
pub(super) enum Served<'a> {
    /// One file.
    Archive {
        target: String,
        /// Which archive that is; without it what breaks cannot be resumed.
        etag: Option<String>,
    },
    /// Stretches of parts.
    Parts(Reel, Source<'a>, &'a Manifest),
}

/// A running download.
pub(super) struct Download<'a> {
    pub link: Link<'a>,
    pub served: Served<'a>,
    /// Whether nothing but the archive itself says where its first answer ends.
    pub ends_itself: bool,
    window_bytes: u64,
    budget: Arc<Budget>,
    state: Mutex<State>,
    changed: Condvar,
}

impl<'a> Download<'a> {
    /// Of `total` bytes, if that is known. An archive is streamed by its first connection.
    pub(super) fn new(link: Link<'a>, served: Served<'a>, total: Option<u64>) -> Download<'a> {
        let state = State {
            delivered: 0,
            claimed: 0,
            received_end: 0,
            ready: BTreeMap::new(),
            total,
            error: None,
            streaming: matches!(served, Served::Archive { .. }),
            closed: false,
        };
        Download {
            link,
            served,
            ends_itself: false,
            window_bytes: link.connections as u64 * SEGMENTS_AHEAD * SEGMENT_BYTES,
            budget: Budget::new(RECEIVED_BYTES_MAX),
            state: Mutex::new(state),
            changed: Condvar::new(),
        }
    }

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

    /// How much of it was not taken, if that is known; and whether whoever takes it waits for more.
    pub(super) fn left(&self) -> (Option<u64>, bool) {
        let state = self.lock();
        let left = state.total;
        let left = left.map(|total| total.saturating_sub(state.delivered));
        (left, !state.ready.contains_key(&state.delivered))
    }

    /// All that is wanted of it was taken: no memory is kept for more.
    pub(super) fn takes_no_more(&self) {
        self.budget.ends();
    }

    /// How long the answer may take to end behind the archive.
    pub(super) fn stall(&self) -> Duration {
        self.link.stall
    }

    /// Ends it with an error.
    pub(super) fn fail(&self, error: RestoreError) {
        self.lock().error.get_or_insert(error);
        self.changed.notify_all();
    }

    /// Why it has failed, if it has and nobody was told.
    pub(super) fn take_error(&self) -> Option<RestoreError> {
        self.lock().error.take()
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
    pub(super) fn learn(
        &self,
        total: Option<u64>,
        least: u64,
    ) -> Result<Option<u64>, RestoreError> {
        let mut state = self.lock();
        if let Some(total) = total {
            state.set_total(total)?;
            self.link.progress.set_total(total);
        }
        match state.total.is_some_and(|total| total < least) {
            true => Err(RestoreError::Changed),
            false => Ok(state.total),
        }
    }

    /// Whether nothing more is to be fetched.
    pub(super) fn is_over(&self) -> bool {
        self.ends(&self.lock())
    }

    fn ends(&self, state: &State) -> bool {
        self.link.stop.is_set() || state.closed || state.error.is_some()
    }

    /// The stream of the first connection has ended, and with it the archive if it `is_whole`;
    /// whether all is there or being fetched. What is not, if it `is_lost`, is left to nobody: who
    /// streamed says why.
    pub(super) fn stream_ended(&self, is_whole: bool, is_lost: bool) -> bool {
        let mut state = self.lock();
        if is_whole {
            let end = state.claimed;
            state.total.get_or_insert(end);
        }
        let is_all = state.total.is_some_and(|total| state.claimed >= total);
        state.streaming = is_lost && !is_all;
        let complete = state.is_all_claimed();
        drop(state);
        self.changed.notify_all();
        complete
    }

    /// Takes what came next in the stream: `len` bytes of `buffer`; whether that is all.
    pub(super) fn streamed(&self, buffer: Buffer, len: usize) -> Result<bool, RestoreError> {
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
        inserted.map(|()| is_complete)
    }

    /// Memory for what is claimed next in the stream, which only the first connection does.
    pub(super) fn room(&self) -> io::Result<Buffer> {
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

    /// The next segment that nobody fetches, and memory for it; `None` when there is none left.
    pub(super) fn claim(&self) -> Option<(Buffer, Claim<'_, 'a>)> {
        let mut state = self.lock();
        loop {
            match self.claim_now(&mut state) {
                Ok(claimed) => return Some(claimed),
                Err(NotNow::Over) => return None,
                Err(NotNow::Window) => state = self.wait(state),
                Err(NotNow::Memory) => {
                    drop(state);
                    self.budget.wait(STREAM_READ_BYTES);
                    state = self.lock();
                }
            }
        }
    }

    /// The same without a wait.
    pub(super) fn try_claim(&self) -> Result<(Buffer, Claim<'_, 'a>), NotNow> {
        self.claim_now(&mut self.lock())
    }

    fn claim_now(&self, state: &mut State) -> Result<(Buffer, Claim<'_, 'a>), NotNow> {
        if self.ends(state) || state.is_all_claimed() {
            return Err(NotNow::Over);
        }
        if state.streaming || state.claimed - state.delivered >= self.window_bytes {
            return Err(NotNow::Window);
        }
        let buffer = self.budget.try_take(STREAM_READ_BYTES);
        let buffer = buffer.ok_or(NotNow::Memory)?;
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
        Ok((buffer, claim))
    }
}

/// Why no segment can be claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotNow {
    /// There is none left.
    Over,
    /// What was claimed is to be taken first.
    Window,
    Memory,
}

/// A part of the archive that one connection has promised to fetch.
pub(super) struct Claim<'d, 'a> {
    download: &'d Download<'a>,
    pub start: u64,
    pub end: u64,
}

impl Claim<'_, '_> {
    /// Here it is.
    pub(super) fn keep(&self, chunk: Chunk) -> Result<(), RestoreError> {
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
pub(super) struct Duty<'d, 'a>(pub &'d Download<'a>);

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

#[cfg(test)]
mod tests {
    use super::super::login::{Given, Login};
    use super::super::progress::Progress;
    use super::super::stop::Stop;
    use super::super::url::Server;
    use super::*;
    use std::sync::OnceLock;

    /// A download of `total` bytes of which nothing came yet.
    fn attempt(total: Option<u64>, check: impl FnOnce(&Download<'_>)) {
        let (stop, progress, corrupt) = (Stop::default(), Progress::default(), OnceLock::new());
        let straight = super::super::straight::Straight::default();
        let server = Server::parse("http://127.0.0.1:9").unwrap();
        let login = Login::new(&server, Given::default()).unwrap();
        let link = Link {
            server: &server,
            place: "/git/x/y",
            tls: None,
            login: &login,
            stop: &stop,
            progress: &progress,
            connections: 2,
            stall: Duration::from_secs(1),
            git_stall: Duration::from_secs(1),
            wait: Duration::from_secs(1),
            wait_unsaid: Duration::from_secs(1),
            wait_alive: Duration::from_secs(1),
            corrupt: &corrupt,
            straight: &straight,
        };
        let served = Served::Archive {
            target: "/x".into(),
            etag: None,
        };
        let mut download = Download::new(link, served, total);
        download.window_bytes = 4 * SEGMENT_BYTES;
        download.lock().streaming = false;
        check(&download);
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
        let is_refused = |said: Result<Option<u64>, RestoreError>| {
            let changed = matches!(said, Err(RestoreError::Changed));
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
