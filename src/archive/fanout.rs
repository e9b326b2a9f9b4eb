//! The one thing that every client reads: an archive, still growing or complete.
//!
//! A producer appends; any number of readers walk the extents from any offset and wait at the
//! frontier. Bytes that were just made are still in memory (the window) and go from there to
//! the sockets; older ones are in the spool file. The spool writer paces the producer; a reader
//! never does, unless the spool has failed: then the archive is *live-only*, its bytes past the
//! failure exist nowhere but in the window, and the producer waits for the slowest reader that
//! keeps a minimal pace ([`Pace`]). One that does not is left behind, so that it holds up neither the
//! others nor the build. Once all have left, the build is abandoned: that is no failure of it.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

use super::pace::{Pace, Times};
use crate::extent::{Layout, Next, Piece, Segment};
use crate::limits::{SPOOL_LAG_BYTES, WINDOW_BYTES};

/// How the archive ends. A reader is never left to guess.
#[derive(Debug, Clone)]
pub enum Status {
    /// More will come.
    Growing,
    /// All of it is there.
    Complete,
    /// It will never be complete; what was sent must not look whole.
    Failed(Arc<str>),
}

struct Reader {
    at: u64,
    waker: Option<Waker>,
    /// Too slow for a live-only archive: it gets no more.
    left_behind: bool,
    /// Of a live-only archive.
    pace: Option<Pace>,
}

/// When the producer waited for the readers of a live-only archive.
#[derive(Debug, Clone, Copy)]
enum Waits {
    Never,
    Now,
    Until(Instant),
}

/// Invariants:
/// 1. Every spool byte of the layout is below `spooled` (written to the file) or in `window`.
/// 2. `window` holds consecutive pieces; the last one ends at `layout.spool_bytes()`.
/// 3. After `spool_error` is set, `spooled` does not grow, and every reader has a pace.
struct Shared {
    layout: Layout,
    window: VecDeque<(u64, Piece)>,
    window_bytes: u64,
    window_bytes_max: u64,
    /// Nothing that is in the spool file stays in the window.
    resting: bool,
    spooled: u64,
    spool_error: Option<Arc<str>>,
    status: Status,
    readers: Vec<Option<Reader>>,
    waits: Waits,
    times: Times,
    /// Since when nobody reads.
    alone: Option<Instant>,
    /// Nothing is to wait for its readers any more.
    stopped: bool,
}

/// See the module's text.
pub struct Fanout {
    shared: Mutex<Shared>,
    /// Signalled when the producer may have room again.
    room: Condvar,
}

impl std::fmt::Debug for Fanout {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shared = self.lock();
        f.debug_struct("Fanout")
            .field("wire_bytes", &shared.layout.wire_bytes())
            .field("status", &shared.status)
            .finish_non_exhaustive()
    }
}

/// The producer has to stop.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Abandoned {
    /// Nobody can receive what it makes.
    #[error("the spool failed ({spool}) and the last client has left")]
    ByReaders { spool: Arc<str> },
    /// The archive has failed for another reason.
    #[error("{0}")]
    Stopped(Arc<str>),
}

impl Default for Fanout {
    fn default() -> Self {
        Self::new()
    }
}

impl Fanout {
    /// An archive of which nothing is there yet.
    pub fn new() -> Fanout {
        Fanout::with_window(WINDOW_BYTES)
    }

    /// The same with another size of the window, so that a simulated archive of a few bytes
    /// leaves it.
    pub fn with_window(window_bytes_max: u64) -> Fanout {
        Fanout::with(Layout::default(), Status::Growing, window_bytes_max)
    }

    /// A complete archive whose spool bytes are all in its spool file.
    pub fn complete(layout: Layout) -> Fanout {
        Fanout::with(layout, Status::Complete, WINDOW_BYTES)
    }

    fn with(layout: Layout, status: Status, window_bytes_max: u64) -> Fanout {
        let spooled = layout.spool_bytes();
        Fanout {
            shared: Mutex::new(Shared {
                layout,
                window: VecDeque::new(),
                window_bytes: 0,
                window_bytes_max,
                resting: false,
                spooled,
                spool_error: None,
                status,
                readers: Vec::new(),
                waits: Waits::Never,
                times: Times::default(),
                alone: None,
                stopped: false,
            }),
            room: Condvar::new(),
        }
    }

    /// A panic while the lock is held cannot leave the state half changed (every update is a
    /// few infallible steps), so a poisoned lock is as good as a sound one.
    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // ---- the producer's side (may block; never called on a network core) ----

    /// Appends bytes for the spool, after waiting until there is room for them. Returns their
    /// offset in the spool file, where the caller has them written; `None` when the spool has
    /// failed and nothing is to be written any more.
    pub fn push_piece(&self, piece: Piece) -> Result<Option<u64>, Abandoned> {
        let mut shared = self.wait_for_room(self.lock(), 1)?;
        let offset = shared.layout.spool_bytes();
        let len = piece.len() as u64;
        shared.layout.push_spool(len);
        shared.window.push_back((offset, piece));
        shared.window_bytes += len;
        let spools = shared.spool_error.is_none();
        wake(shared);
        Ok(spools.then_some(offset))
    }

    /// Whether the next `bytes` have to wait for a reader.
    pub fn waits_for_readers(&self, bytes: u64) -> Result<bool, Abandoned> {
        let mut shared = self.lock();
        shared.trim();
        Ok(!shared.has_room(Instant::now(), bytes)? && shared.spool_error.is_some())
    }

    /// Waits until there is room for a piece.
    pub fn wait_room(&self) -> Result<(), Abandoned> {
        self.wait_for_room(self.lock(), 1).map(drop)
    }

    /// Waits until readers have taken all that is kept for them.
    pub fn wait_drained(&self) -> Result<(), Abandoned> {
        let shared = self.lock();
        let all = shared.window_bytes_max;
        self.wait_for_room(shared, all).map(drop)
    }

    fn wait_for_room<'s>(
        &'s self,
        mut shared: MutexGuard<'s, Shared>,
        bytes: u64,
    ) -> Result<MutexGuard<'s, Shared>, Abandoned> {
        loop {
            let now = Instant::now();
            shared.trim();
            if shared.has_room(now, bytes)? {
                return Ok(shared);
            }
            if shared.spool_error.is_none() {
                shared = self.wait_change(shared, None);
                continue;
            }
            shared.waits = Waits::Now;
            match shared.leave_behind(now) {
                Some(until) => {
                    let left = until.saturating_duration_since(now);
                    shared = self.wait_change(shared, Some(left));
                    shared.waits = Waits::Until(Instant::now());
                }
                None => {
                    wake(shared);
                    shared = self.lock();
                }
            }
        }
    }

    fn wait_change<'s>(
        &self,
        shared: MutexGuard<'s, Shared>,
        limit: Option<Duration>,
    ) -> MutexGuard<'s, Shared> {
        match limit {
            None => self.room.wait(shared),
            Some(limit) => match self.room.wait_timeout(shared, limit) {
                Ok((shared, _)) => Ok(shared),
                Err(poisoned) => Ok(poisoned.into_inner().0),
            },
        }
        .unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until nobody needs the window of a live-only archive that is complete: until then it
    /// takes memory. Who is too slow is left behind here, too.
    pub fn wait_taken(&self) {
        let mut shared = self.lock();
        while shared.spool_error.is_some() && !shared.stopped {
            let now = Instant::now();
            shared.trim();
            if shared.following().next().is_none() {
                shared.window.clear();
                shared.window_bytes = 0;
                return;
            }
            match shared.leave_behind(now) {
                Some(until) => {
                    let left = until.saturating_duration_since(now);
                    shared = self.wait_change(shared, Some(left));
                }
                None => {
                    wake(shared);
                    shared = self.lock();
                }
            }
        }
    }

    /// Keeps nothing in memory that is in the spool file, until [`Fanout::resume`].
    pub fn rest(&self) {
        let mut shared = self.lock();
        shared.resting = true;
        shared.trim();
    }

    /// The producer goes on.
    pub fn resume(&self) {
        self.lock().resting = false;
    }

    /// Appends a run of a linked file, whose pages are in memory and whose frames have these
    /// checksums. It needs no room, but somebody who wants it.
    pub fn push_raw(
        &self,
        file: u32,
        offset: u64,
        len: u64,
        checksums: &[u32],
    ) -> Result<(), Abandoned> {
        let mut shared = self.lock();
        shared.is_wanted(Instant::now())?;
        shared.layout.push_raw(file, offset, len, checksums);
        wake(shared);
        Ok(())
    }

    /// The spool file now holds everything below `bytes`.
    pub fn spooled(&self, bytes: u64) {
        let mut shared = self.lock();
        if shared.spool_error.is_none() {
            shared.spooled = shared.spooled.max(bytes);
            shared.trim();
        }
        drop(shared);
        self.room.notify_all();
    }

    /// The spool file will hold no more: from here on the archive is live-only.
    pub fn spool_failed(&self, why: &str) {
        let now = Instant::now();
        let mut shared = self.lock();
        if shared.spool_error.is_none() {
            shared.spool_error = Some(Arc::from(why));
            let times = shared.times;
            for reader in shared.readers.iter_mut().flatten() {
                reader.pace = Some(Pace::begin(reader.at, now, &times));
            }
            shared.note_alone(now);
        }
        drop(shared);
        self.room.notify_all();
    }

    /// Whether its bytes are kept nowhere.
    pub fn is_live_only(&self) -> bool {
        self.lock().spool_error.is_some()
    }

    /// Whether its readers hold up the producer of a live-only archive: whoever comes now should not
    /// have to wait for them.
    pub fn is_slow(&self) -> bool {
        let now = Instant::now();
        let shared = self.lock();
        let look = shared.times.look;
        let waits = match shared.waits {
            Waits::Never => false,
            Waits::Now => true,
            Waits::Until(end) => now.saturating_duration_since(end) < look,
        };
        waits && shared.is_held_up(now)
    }

    /// The archive is whole.
    pub fn finish(&self) {
        let mut shared = self.lock();
        if matches!(shared.status, Status::Growing) {
            shared.status = Status::Complete;
        }
        wake(shared);
    }

    /// The archive will never be whole. Has no effect on a complete one.
    pub fn fail(&self, why: &str) {
        let mut shared = self.lock();
        shared.stopped = true;
        if matches!(shared.status, Status::Growing) {
            shared.status = Status::Failed(Arc::from(why));
        }
        wake(shared);
        self.room.notify_all();
    }

    /// What is there turned out to be damaged: no more of it is sent, whole as it was thought to be.
    pub fn condemn(&self, why: &str) {
        let mut shared = self.lock();
        shared.status = Status::Failed(Arc::from(why));
        wake(shared);
        self.room.notify_all();
    }

    /// Waits until every byte is in the spool file, or the spool has failed.
    pub fn wait_spooled(&self) -> Result<(), Arc<str>> {
        let mut shared = self.lock();
        loop {
            if let Some(outcome) = shared.spool_outcome() {
                return outcome;
            }
            shared = self
                .room
                .wait(shared)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// What [`Fanout::wait_spooled`] gives, if it would not wait.
    pub fn spool_outcome(&self) -> Option<Result<(), Arc<str>>> {
        self.lock().spool_outcome()
    }

    /// Length of the spool so far.
    pub fn layout_spool_bytes(&self) -> u64 {
        self.lock().layout.spool_bytes()
    }

    /// Forgets what the spool file holds too; for an archive that is complete and at rest.
    pub fn release_window(&self) {
        let mut shared = self.lock();
        if shared.spool_error.is_none() && shared.spooled == shared.layout.spool_bytes() {
            shared.window.clear();
            shared.window_bytes = 0;
        }
    }

    /// A copy of the layout as it is now.
    pub fn layout(&self) -> Layout {
        self.lock().layout.clone()
    }

    // ---- the readers' side (never blocks for longer than a few list operations) ----

    /// Bytes on the wire so far.
    pub fn wire_bytes(&self) -> u64 {
        self.lock().layout.wire_bytes()
    }

    /// How the archive stands.
    pub fn status(&self) -> Status {
        self.lock().status.clone()
    }

    /// Total length, once the archive is complete.
    pub fn total_bytes(&self) -> Option<u64> {
        let shared = self.lock();
        matches!(shared.status, Status::Complete).then(|| shared.layout.wire_bytes())
    }

    /// Registers a reader at wire offset `at`; `None` if bytes from there on are gone already
    /// (the spool failed and they were sent and dropped) or the archive failed.
    pub fn join(self: &Arc<Self>, at: u64) -> Option<ReaderHandle> {
        let mut shared = self.lock();
        if matches!(shared.status, Status::Failed(_)) || !shared.reachable_from(at) {
            return None;
        }
        let live_only = shared.spool_error.is_some();
        let times = shared.times;
        shared.alone = None;
        let reader = Some(Reader {
            at,
            waker: None,
            left_behind: false,
            pace: live_only.then(|| Pace::begin(at, Instant::now(), &times)),
        });
        let slot = match shared.readers.iter().position(Option::is_none) {
            Some(slot) => {
                shared.readers[slot] = reader;
                slot
            }
            None => {
                shared.readers.push(reader);
                shared.readers.len() - 1
            }
        };
        Some(ReaderHandle {
            fanout: self.clone(),
            slot,
        })
    }

    /// Number of readers.
    pub fn readers(&self) -> usize {
        self.lock().readers.iter().flatten().count()
    }

    /// The file ranges that the `len` wire bytes from `at` come from, as far as they are known.
    /// Bytes of the window come from no file.
    pub fn file_ranges(
        &self,
        at: u64,
        len: u64,
        mut each: impl FnMut(Option<u32>, std::ops::Range<u64>),
    ) {
        let shared = self.lock();
        let spool_end = shared.readable();
        let wire = at..at.saturating_add(len);
        shared.layout.file_ranges(wire, |file, range| {
            let end = match file {
                None => range.end.min(spool_end),
                Some(_) => range.end,
            };
            if range.start < end {
                each(file, range.start..end);
            }
        });
    }
}

impl Shared {
    /// Drops pieces from the window that nobody needs there.
    fn trim(&mut self) {
        let live_only = self.spool_error.is_some();
        let slowest = if live_only {
            self.slowest_spool_offset()
        } else {
            0
        };
        while let Some((offset, piece)) = self.window.front() {
            let end = offset + piece.len() as u64;
            let over = live_only || self.resting || self.window_bytes > self.window_bytes_max;
            let on_disk = end <= self.spooled && over;
            let passed = live_only && end > self.spooled && end <= slowest;
            if !on_disk && !passed {
                return;
            }
            self.window_bytes -= piece.len() as u64;
            self.window.pop_front();
        }
    }

    fn spool_outcome(&self) -> Option<Result<(), Arc<str>>> {
        match &self.spool_error {
            Some(why) => Some(Err(why.clone())),
            None => (self.spooled == self.layout.spool_bytes()).then_some(Ok(())),
        }
    }

    /// The readers that still get what is made.
    fn following(&self) -> impl Iterator<Item = &Reader> {
        self.readers.iter().flatten().filter(|r| !r.left_behind)
    }

    /// In live-only mode: leaves those behind who hold up the producer and were too slow. `None` if there
    /// were any; otherwise when to look again.
    fn leave_behind(&mut self, now: Instant) -> Option<Instant> {
        let slowest = self.slowest_spool_offset();
        let alone = self.times.alone;
        let mut until = now + self.times.step;
        let mut left = false;
        let layout = &self.layout;
        for reader in self.readers.iter_mut().flatten() {
            let Some(pace) = reader.pace.filter(|_| reader.waker.is_none()) else {
                continue;
            };
            if reader.left_behind || layout.spool_offset_at(reader.at) > slowest {
                continue;
            }
            match pace.until() > now {
                true => until = until.min(pace.until()),
                false => (reader.left_behind, left) = (true, true),
            }
        }
        self.note_alone(now);
        if let Some(since) = self.alone {
            until = until.min(since + alone);
        }
        (!left).then_some(until)
    }

    /// In live-only mode: notes since when nobody reads.
    fn note_alone(&mut self, now: Instant) {
        if self.spool_error.is_some() && self.following().next().is_none() {
            self.alone.get_or_insert(now);
        }
    }

    /// In live-only mode: whether one that holds up the producer is slow.
    fn is_held_up(&self, now: Instant) -> bool {
        let slowest = self.slowest_spool_offset();
        self.following().any(|reader| {
            let holds = self.layout.spool_offset_at(reader.at) <= slowest;
            let pace = reader.pace.filter(|_| holds && reader.waker.is_none());
            pace.is_some_and(|pace| pace.is_slow(reader.at, now, &self.times))
        })
    }

    /// In live-only mode: the spool offset below which every reader has passed. Without a reader
    /// nothing has: one may be about to come.
    fn slowest_spool_offset(&self) -> u64 {
        let slowest = self.following().map(|r| r.at).min();
        slowest.map_or(0, |at| self.layout.spool_offset_at(at))
    }

    /// Whether anybody can still receive what is made. Once nobody can, nobody can join either:
    /// else a client would get an archive that is given up at the same moment.
    fn is_wanted(&mut self, now: Instant) -> Result<(), Abandoned> {
        if let Status::Failed(why) = &self.status {
            return Err(Abandoned::Stopped(why.clone()));
        }
        let Some(spool) = self.spool_error.clone() else {
            return Ok(());
        };
        self.note_alone(now);
        let over = self.times.alone;
        match self.alone {
            Some(since) if now.saturating_duration_since(since) >= over => {
                let abandoned = Abandoned::ByReaders { spool };
                self.status = Status::Failed(Arc::from(abandoned.to_string()));
                Err(abandoned)
            }
            _ => Ok(()),
        }
    }

    /// Whether there is room for that many bytes, the last of which may belong to a larger piece.
    fn has_room(&mut self, now: Instant, bytes: u64) -> Result<bool, Abandoned> {
        self.is_wanted(now)?;
        let unspooled = self.layout.spool_bytes() - self.spooled;
        Ok(match self.spool_error {
            None => unspooled < SPOOL_LAG_BYTES,
            Some(_) => self.window_bytes + bytes <= self.window_bytes_max,
        })
    }

    fn reachable_from(&self, at: u64) -> bool {
        let needed = self.layout.spool_offset_at(at);
        let in_window = self
            .window
            .front()
            .is_some_and(|(offset, _)| *offset <= needed);
        let window_start = self
            .window
            .front()
            .map_or(self.layout.spool_bytes(), |(o, _)| *o);
        in_window || (needed <= self.spooled && window_start <= self.spooled)
    }

    fn next(&self, at: u64, max: u64) -> Next {
        if let Status::Failed(why) = &self.status {
            return Next::Failed(why.clone());
        }
        let Some(mut segment) = self.layout.segment_at(at) else {
            return match self.status {
                Status::Complete => Next::End,
                _ => Next::Wait,
            };
        };
        segment.truncate(max);
        match segment {
            Segment::Inline(inline) => Next::Inline(inline),
            Segment::File { file, offset, len } => Next::File {
                file: Some(file),
                offset,
                len,
            },
            Segment::Spool { offset, len } => self.spool_bytes(offset, len),
        }
    }

    /// Spool bytes below this come from the file.
    fn readable(&self) -> u64 {
        let window_start = self.window.front().map_or(u64::MAX, |(start, _)| *start);
        self.spooled.min(window_start)
    }

    /// Up to `len` spool bytes from `offset`: from the window if they are there.
    fn spool_bytes(&self, offset: u64, len: u64) -> Next {
        let first = self.window.partition_point(|(start, _)| *start <= offset);
        if let Some((start, piece)) = first.checked_sub(1).and_then(|i| self.window.get(i)) {
            let skip = offset - start;
            if skip < piece.len() as u64 {
                let end = (skip + len).min(piece.len() as u64);
                return Next::Memory {
                    piece: piece.clone(),
                    start: skip as usize,
                    end: end as usize,
                };
            }
        }
        let readable = self.readable();
        if offset >= readable {
            return Next::Failed(Arc::from("bytes are gone: the spool failed"));
        }
        Next::File {
            file: None,
            offset,
            len: len.min(readable - offset),
        }
    }
}

/// Calls every waiting reader, after the lock is released.
fn wake(mut shared: MutexGuard<'_, Shared>) {
    let now = shared.spool_error.is_some().then(Instant::now);
    let times = shared.times;
    let waiting = shared.readers.iter_mut().flatten();
    let woken = waiting.filter_map(|reader| {
        let waker = reader.waker.take()?;
        // What it waited for is no time of its own.
        reader.pace = now.map(|now| Pace::begin(reader.at, now, &times));
        Some(waker)
    });
    let wakers: Vec<Waker> = woken.collect();
    drop(shared);
    wakers.into_iter().for_each(Waker::wake);
}

/// A reader's place in an archive; leaving is dropping it.
#[derive(Debug)]
pub struct ReaderHandle {
    fanout: Arc<Fanout>,
    slot: usize,
}

impl ReaderHandle {
    /// What stands at wire offset `at`, at most `max` bytes of it. On [`Next::Wait`], `waker` is
    /// called once something changes.
    pub fn next(&self, at: u64, max: u64, waker: &Waker) -> Next {
        let mut shared = self.fanout.lock();
        let mut next = shared.next(at, max);
        let live_only = shared.spool_error.is_some();
        let now = live_only.then(|| (Instant::now(), shared.times));
        if let Some(reader) = &mut shared.readers[self.slot] {
            if reader.left_behind {
                next = Next::Failed(Arc::from(
                    "the client is too slow for an archive that cannot be kept",
                ));
            }
            reader.at = at;
            if let (Some(pace), Some((now, times))) = (&mut reader.pace, now) {
                pace.step(at, now, &times);
            }
            if matches!(next, Next::Wait) {
                reader.waker = Some(waker.clone());
            }
        }
        drop(shared);
        if live_only {
            self.fanout.room.notify_all();
        }
        next
    }

    /// The archive.
    pub fn fanout(&self) -> &Arc<Fanout> {
        &self.fanout
    }
}

impl Drop for ReaderHandle {
    fn drop(&mut self) {
        let mut shared = self.fanout.lock();
        shared.readers[self.slot] = None;
        if shared.spool_error.is_some() {
            shared.note_alone(Instant::now());
        }
        drop(shared);
        self.fanout.room.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::LIVE_ONLY_STEP_BYTES;

    fn piece(bytes: u64) -> Piece {
        Arc::new(vec![7; bytes as usize])
    }

    fn next(reader: &ReaderHandle, at: u64) -> Next {
        reader.next(at, u64::MAX, Waker::noop())
    }

    fn ranges(fanout: &Fanout) -> Vec<(Option<u32>, std::ops::Range<u64>)> {
        let mut out = Vec::new();
        fanout.file_ranges(0, u64::MAX, |file, range| out.push((file, range)));
        out
    }

    #[test]
    fn bytes_are_read_from_the_file_once_they_left_the_window() {
        let fanout = Arc::new(Fanout::new());
        let reader = fanout.join(0).unwrap();
        assert!(matches!(next(&reader, 0), Next::Wait));
        let step = WINDOW_BYTES / 2;
        for n in 0..3 {
            assert_eq!(fanout.push_piece(piece(step)).unwrap(), Some(n * step));
            assert!(matches!(next(&reader, n * step), Next::Memory { .. }));
            assert_eq!(ranges(&fanout), []);
            fanout.spooled(n * step + 1);
            assert!(matches!(next(&reader, n * step), Next::Memory { .. }));
            fanout.spooled((n + 1) * step);
        }
        // The first piece left when the third was written.
        assert_eq!(ranges(&fanout), [(None, 0..step)]);
        match next(&reader, 1) {
            Next::File {
                file: None,
                offset: 1,
                len,
            } => assert_eq!(len, step - 1),
            other => panic!("{other:?}"),
        }
        fanout.push_raw(3, 5, 100, &[0]).unwrap();
        assert_eq!(ranges(&fanout), [(None, 0..step), (Some(3), 5..105)]);
        fanout.finish();
        fanout.wait_spooled().unwrap();
        fanout.release_window();
        assert_eq!(ranges(&fanout), [(None, 0..3 * step), (Some(3), 5..105)]);
    }

    /// A full window of an archive whose spool failed at once, and its reader.
    fn live_only() -> (Arc<Fanout>, ReaderHandle) {
        let fanout = Arc::new(Fanout::new());
        let reader = fanout.join(0).unwrap();
        fanout.spool_failed("full");
        fill(&fanout, 1 << 20);
        (fanout, reader)
    }

    fn fill(fanout: &Fanout, bytes: u64) {
        while !fanout.waits_for_readers(1).unwrap() {
            assert_eq!(fanout.push_piece(piece(bytes)).unwrap(), None);
        }
    }

    fn set_times(fanout: &Fanout, step_ms: u64, look_ms: u64, alone_ms: u64) {
        fanout.lock().times = Times {
            step: Duration::from_millis(step_ms),
            look: Duration::from_millis(look_ms),
            alone: Duration::from_millis(alone_ms),
        };
    }

    /// Runs `push` on a thread that has to wait for room, and `act` meanwhile.
    fn pushing(fanout: &Arc<Fanout>, act: impl FnOnce()) -> Result<Option<u64>, Abandoned> {
        let mut shared = fanout.lock();
        shared.trim();
        assert!(
            !shared.has_room(Instant::now(), 1).unwrap(),
            "it has to wait"
        );
        drop(shared);
        std::thread::scope(|scope| {
            let pushed = scope.spawn(|| fanout.push_piece(piece(1)));
            act();
            pushed.join().unwrap()
        })
    }

    #[test]
    fn without_a_spool_the_slowest_reader_paces_the_producer() {
        let (fanout, slow) = live_only();
        let fast = fanout.join(0).unwrap();
        let end = fanout.wire_bytes();
        assert!(matches!(next(&fast, end), Next::Wait));
        let pushed = pushing(&fanout, || {
            assert!(matches!(next(&slow, 1 << 20), Next::Memory { .. }));
        });
        assert_eq!(pushed.unwrap(), None);
        // What the slowest has passed is gone for those who come later, and only that.
        assert!(fanout.join(0).is_none());
        assert!(fanout.join(1 << 20).is_some());
        assert!(matches!(next(&slow, 1 << 20), Next::Memory { .. }));
        assert!(matches!(next(&slow, 0), Next::Failed(_)));
    }

    #[test]
    fn without_a_spool_nobody_waits_for_a_reader_that_takes_nothing() {
        let fanout = Arc::new(Fanout::new());
        set_times(&fanout, 20, 1000, 20);
        let (slow, fast) = (fanout.join(0).unwrap(), fanout.join(0).unwrap());
        fanout.spool_failed("full");
        // Many more than there is room for.
        let pieces = (3 * WINDOW_BYTES) >> 20;
        for _ in 0..pieces {
            fanout.push_piece(piece(1 << 20)).unwrap();
            assert!(matches!(next(&fast, fanout.wire_bytes()), Next::Wait));
        }
        fanout.finish();
        assert!(matches!(next(&fast, fanout.wire_bytes()), Next::End));
        match next(&slow, 0) {
            Next::Failed(why) => assert!(why.contains("too slow"), "{why}"),
            other => panic!("{other:?}"),
        }
    }

    /// What a reader takes of a linked pack frees nothing of the window, and counts all the same.
    #[test]
    fn a_reader_inside_the_packs_keeps_its_pace() {
        let fanout = Arc::new(Fanout::new());
        set_times(&fanout, 100, 1, 20);
        let reader = fanout.join(0).unwrap();
        fanout.spool_failed("full");
        let pack_bytes = 100 * LIVE_ONLY_STEP_BYTES;
        let sums = vec![0; pack_bytes.div_ceil(crate::extent::RAW_FRAME_BYTES) as usize];
        fanout.push_raw(0, 0, pack_bytes, &sums).unwrap();
        fill(&fanout, 1 << 20);
        let began = Instant::now();
        let pushed = pushing(&fanout, || {
            let mut at = 0;
            while at < pack_bytes {
                let slow = began.elapsed() > Duration::from_millis(400);
                at += if slow {
                    pack_bytes
                } else {
                    LIVE_ONLY_STEP_BYTES
                };
                assert!(!matches!(next(&reader, at), Next::Failed(_)), "at {at}");
                std::thread::sleep(Duration::from_millis(20));
            }
            next(&reader, fanout.wire_bytes());
        });
        pushed.unwrap();
        assert!(began.elapsed() > Duration::from_millis(400));
    }

    /// Whoever asks is to have another build while, and only while, a slow reader holds this one up.
    #[test]
    fn a_slow_reader_is_seen() {
        let (fanout, reader) = live_only();
        set_times(&fanout, 10_000, 20, 20);
        assert!(!fanout.is_slow(), "nobody waits for it");
        let pushed = pushing(&fanout, || {
            let began = Instant::now();
            while !fanout.is_slow() {
                assert!(began.elapsed() < Duration::from_secs(20), "it is not seen");
            }
            let end = fanout.wire_bytes();
            next(&reader, end);
        });
        pushed.unwrap();
        assert!(!fanout.is_slow(), "it waits itself");
    }

    #[test]
    fn a_producer_that_waits_goes_on_or_ends_when_readers_leave() {
        let (fanout, slow) = live_only();
        set_times(&fanout, 10_000, 1000, 50);
        let fast = fanout.join(0).unwrap();
        next(&fast, fanout.wire_bytes());
        pushing(&fanout, || drop(slow)).unwrap();
        fill(&fanout, 1 << 20);
        drop(fast);
        // Somebody may be about to come, who finds what was kept.
        fanout.push_raw(0, 0, 1, &[0]).unwrap();
        let window_start = fanout.wire_bytes();
        drop(fanout.join(window_start).unwrap());
        assert!(fanout.push_piece(piece(1)).is_err(), "nobody wants it");
        assert!(fanout.push_raw(0, 0, 1, &[0]).is_err(), "nobody wants it");
        // At the same moment: nobody gets an archive that was given up.
        assert!(fanout.join(window_start).is_none());
        assert!(matches!(fanout.status(), Status::Failed(_)));
    }

    /// The end of a live-only archive stays for who takes it, and no longer.
    #[test]
    fn the_last_bytes_are_kept_for_their_readers() {
        let (fanout, reader) = live_only();
        set_times(&fanout, 50, 1000, 20);
        fanout.finish();
        std::thread::scope(|scope| {
            let taken = scope.spawn(|| fanout.wait_taken());
            for at in 1..=4 {
                assert!(matches!(next(&reader, at << 20), Next::Memory { .. }));
                std::thread::sleep(Duration::from_millis(10));
                assert!(!taken.is_finished());
            }
            taken.join().unwrap();
        });
        assert!(
            matches!(next(&reader, 5 << 20), Next::Failed(_)),
            "too slow"
        );
        assert_eq!(fanout.lock().window_bytes, 0);
    }

    #[test]
    fn a_failure_ends_producer_and_readers() {
        let (fanout, reader) = live_only();
        assert!(pushing(&fanout, || fanout.fail("stop")).is_err());
        assert!(fanout.push_raw(0, 0, 1, &[0]).is_err());
        assert!(matches!(next(&reader, 0), Next::Failed(_)));
        assert!(fanout.join(0).is_none());
        fanout.finish();
        assert!(matches!(next(&reader, 0), Next::Failed(_)));
    }

    #[test]
    fn a_spool_that_ends_early_lets_the_build_end() {
        let fanout = Arc::new(Fanout::new());
        let _reader = fanout.join(0).unwrap();
        fanout.push_piece(piece(10)).unwrap();
        fanout.finish();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| fanout.wait_spooled());
            fanout.spool_failed("gone");
            assert!(waiting.join().unwrap().is_err());
        });
        // Written too late: it does not count any more.
        fanout.spooled(10);
        fanout.release_window();
        assert!(fanout.join(0).is_some());
    }
}
