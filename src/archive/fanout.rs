//! The one thing that every client reads: an archive, still growing or complete.
//!
//! A producer appends; any number of readers walk the extents from any offset and wait at the
//! frontier. Bytes that were just made are still in memory (the window) and go from there to
//! the sockets; older ones are in the spool file. The spool writer paces the producer; a reader
//! never does, unless the spool has failed: then the archive is *live-only*, its bytes past the
//! failure exist nowhere but in the window, and the producer waits for the slowest reader that
//! keeps a minimal pace ([`Pace`]). One that does not is left behind, so that it holds up neither the
//! others nor the build. Once all have left, the build is abandoned: that is no failure of it.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

use super::growth::{Abandoned, Growth, Status, Waits};
use super::pace::Pace;
use super::whole::Whole;
use crate::extent::{Layout, Piece};
use crate::limits::WINDOW_BYTES;

/// See the module's text.
///
/// Invariant: once `whole` is set, the archive is complete and all its bytes are in files, and nobody
/// appends any more; what is left in `growth` are the readers that joined before.
pub struct Fanout {
    pub(super) whole: OnceLock<Whole>,
    growth: Mutex<Growth>,
    /// Signalled when the producer may have room again.
    pub(super) room: Condvar,
}

impl std::fmt::Debug for Fanout {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fanout")
            .field("wire_bytes", &self.wire_bytes())
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
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
        let growth = Growth::new(Layout::default(), Status::Growing, window_bytes_max);
        Fanout {
            whole: OnceLock::new(),
            growth: Mutex::new(growth),
            room: Condvar::new(),
        }
    }

    /// A complete archive whose spool bytes are all in its spool file.
    pub fn complete(layout: Layout) -> Fanout {
        let growth = Growth::new(Layout::default(), Status::Complete, WINDOW_BYTES);
        Fanout {
            whole: OnceLock::from(Whole::new(layout)),
            growth: Mutex::new(growth),
            room: Condvar::new(),
        }
    }

    /// A panic while the lock is held cannot leave the state half changed (every update is a
    /// few infallible steps), so a poisoned lock is as good as a sound one.
    pub(super) fn lock(&self) -> MutexGuard<'_, Growth> {
        self.growth.lock().unwrap_or_else(PoisonError::into_inner)
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
        appended(shared, len);
        Ok(spools.then_some(offset))
    }

    /// Tells those who wait at the frontier what was appended. To be called before the producer waits for
    /// anything: what is appended meanwhile in small pieces is told together.
    pub fn tell(&self) {
        let shared = self.lock();
        if shared.untold_bytes > 0 {
            wake(shared);
        }
    }

    /// Whether the next `bytes` have to wait for a reader.
    pub fn waits_for_readers(&self, bytes: u64) -> Result<bool, Abandoned> {
        let mut shared = self.lock();
        shared.trim(bytes);
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
        mut shared: MutexGuard<'s, Growth>,
        bytes: u64,
    ) -> Result<MutexGuard<'s, Growth>, Abandoned> {
        loop {
            let now = Instant::now();
            shared.trim(bytes);
            if shared.has_room(now, bytes)? {
                return Ok(shared);
            }
            if shared.untold_bytes > 0 {
                wake(shared);
                shared = self.lock();
                continue;
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
        shared: MutexGuard<'s, Growth>,
        limit: Option<Duration>,
    ) -> MutexGuard<'s, Growth> {
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
            let all = shared.window_bytes_max;
            shared.trim(all);
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
        shared.trim(0);
    }

    /// The producer goes on.
    pub fn resume(&self) {
        self.lock().resting = false;
    }

    /// The spool file now holds everything below `bytes`.
    pub fn spooled(&self, bytes: u64) {
        let mut shared = self.lock();
        if shared.spool_error.is_none() {
            assert!(
                bytes <= shared.layout.spool_bytes(),
                "more was written than there is"
            );
            shared.spooled = shared.spooled.max(bytes);
            shared.trim(0);
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
        wake(shared);
        self.room.notify_all();
    }

    /// Whether its bytes are kept nowhere.
    pub fn is_live_only(&self) -> bool {
        self.lock().spool_error.is_some()
    }

    /// Whether its readers hold up the producer of a live-only archive, or what is left of it is for
    /// them alone: whoever comes now should not have to wait for them.
    pub fn is_slow(&self) -> bool {
        let now = Instant::now();
        let shared = self.lock();
        let is_over = matches!(shared.status, Status::Complete)
            && shared.spool_error.is_some()
            && !shared.reachable_from(0);
        is_over || shared.waits_lately(now) && shared.slow_bytes_s(now).is_some()
    }

    /// How fast a live-only archive goes on, in bytes a second, if that is the pace of a slow reader.
    pub fn slow_bytes_s(&self) -> Option<u64> {
        let now = Instant::now();
        let shared = self.lock();
        let is_made = matches!(shared.status, Status::Complete);
        let waits = shared.spool_error.is_some() && (is_made || shared.waits_lately(now));
        shared.slow_bytes_s(now).filter(|_| waits)
    }

    /// Others need what a live-only archive takes: it goes on for nobody, and what is made is kept no
    /// longer.
    pub fn give_way(&self, why: &str) {
        let mut shared = self.lock();
        if shared.spool_error.is_none() {
            return;
        }
        let readers = shared.readers.iter_mut().flatten();
        readers.for_each(|reader| reader.left_behind = true);
        if matches!(shared.status, Status::Growing) {
            shared.status = Status::Failed(Arc::from(why));
        }
        wake(shared);
        self.room.notify_all();
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
        if let Some(whole) = self.whole.get() {
            whole.condemn(why);
        }
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
        self.read(
            |whole| whole.layout().spool_bytes(),
            |growth| growth.layout.spool_bytes(),
        )
    }

    /// Forgets what the spool file holds too, if the archive is complete and all of it is there: from
    /// here on it is read without a lock.
    pub fn release_window(&self) {
        let mut shared = self.lock();
        let is_kept = shared.spool_error.is_none() && shared.spooled == shared.layout.spool_bytes();
        if !is_kept {
            return;
        }
        shared.window.clear();
        shared.window_bytes = 0;
        if matches!(shared.status, Status::Complete) && self.whole.get().is_none() {
            shared.spooled = 0;
            let layout = std::mem::take(&mut shared.layout);
            self.whole.get_or_init(|| Whole::new(layout));
        }
    }

    /// A copy of the layout as it is now.
    pub fn layout(&self) -> Layout {
        let shared = self.lock();
        match self.whole.get() {
            Some(whole) => whole.layout().clone(),
            None => shared.layout.clone(),
        }
    }

    // ---- the readers' side (never blocks for longer than a few list operations) ----

    /// Bytes on the wire so far.
    pub fn wire_bytes(&self) -> u64 {
        self.read(
            |whole| whole.layout().wire_bytes(),
            |growth| growth.layout.wire_bytes(),
        )
    }

    /// How the archive stands.
    pub fn status(&self) -> Status {
        let whole = |whole: &Whole| match whole.condemned() {
            Some(why) => Status::Failed(why.clone()),
            None => Status::Complete,
        };
        self.read(whole, |growth| growth.status.clone())
    }

    /// Total length, once the archive is complete.
    pub fn total_bytes(&self) -> Option<u64> {
        let whole = |whole: &Whole| {
            let is_sound = whole.condemned().is_none();
            is_sound.then(|| whole.layout().wire_bytes())
        };
        self.read(whole, |growth| {
            let is_complete = matches!(growth.status, Status::Complete);
            is_complete.then(|| growth.layout.wire_bytes())
        })
    }

    /// Looks at what is whole without the lock, and at what grows under it.
    fn read<T>(&self, whole: impl Fn(&Whole) -> T, growth: impl FnOnce(&Growth) -> T) -> T {
        if let Some(now) = self.whole.get() {
            return whole(now);
        }
        let shared = self.lock();
        // It may have become whole before the lock was had.
        match self.whole.get() {
            Some(now) => whole(now),
            None => growth(&shared),
        }
    }

    /// Number of readers.
    pub fn readers(&self) -> usize {
        let of_whole = self.whole.get().map_or(0, Whole::readers);
        of_whole + self.lock().readers.iter().flatten().count()
    }

    /// The file ranges that the `len` wire bytes from `at` come from, as far as they are known.
    /// Bytes of the window come from no file.
    pub fn file_ranges(
        &self,
        at: u64,
        len: u64,
        mut each: impl FnMut(Option<u32>, std::ops::Range<u64>),
    ) {
        if let Some(whole) = self.whole.get() {
            return whole.file_ranges(at, len, each);
        }
        let shared = self.lock();
        if let Some(whole) = self.whole.get() {
            return whole.file_ranges(at, len, each);
        }
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

/// Calls the waiting readers, if it is time to.
pub(super) fn appended(mut shared: MutexGuard<'_, Growth>, bytes: u64) {
    if shared.is_to_be_told(bytes) {
        wake(shared);
    }
}

/// Calls every waiting reader, after the lock is released.
fn wake(mut shared: MutexGuard<'_, Growth>) {
    shared.untold_bytes = 0;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::handle::ReaderHandle;
    use crate::archive::pace::Times;
    use crate::extent::Next;
    use crate::limits::{LIVE_ONLY_STEP_BYTES, SPOOL_LAG_BYTES, TELL_BYTES};

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

    #[derive(Default)]
    struct Calls(std::sync::atomic::AtomicUsize);

    impl std::task::Wake for Calls {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    }

    impl Calls {
        fn count(&self) -> usize {
            self.0.load(std::sync::atomic::Ordering::Relaxed)
        }
    }

    /// Small pieces are told together, the first ones and those of a live-only archive at once, and nothing
    /// stays untold when the producer waits, however it waits, or when it ends.
    #[test]
    fn who_waits_is_called_when_it_is_worth_it() {
        let fanout = Arc::new(Fanout::new());
        let calls = Arc::new(Calls::default());
        let waker = Waker::from(calls.clone());
        let reader = fanout.join(0).unwrap();
        let wait = || {
            let at = fanout.wire_bytes();
            assert!(matches!(reader.next(at, 1, &waker), Next::Wait));
            calls.count()
        };
        let push = |bytes| {
            fanout.push_piece(piece(bytes)).unwrap();
        };
        wait();
        push(1);
        assert_eq!(wait(), 1, "the first byte");
        push(TELL_BYTES);
        assert_eq!(wait(), 2, "many bytes");
        push(TELL_BYTES - 1);
        fanout.push_stored(1, 0, 0).unwrap();
        assert_eq!(calls.count(), 2, "a few bytes");
        fanout.push_raw(2, 0, 1, &[0]).unwrap();
        assert_eq!(calls.count(), 3, "together they are many");
        wait();
        push(1);
        fanout.tell();
        fanout.tell();
        assert_eq!(wait(), 4, "the producer waits for something");
        fanout.spooled(fanout.layout_spool_bytes());
        push(SPOOL_LAG_BYTES - 1);
        assert_eq!(wait(), 5);
        push(1);
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| push(1));
            let began = Instant::now();
            while calls.count() == 5 {
                assert!(
                    began.elapsed() < Duration::from_secs(20),
                    "it waits and tells nothing"
                );
                std::thread::yield_now();
            }
            fanout.spooled(fanout.layout_spool_bytes());
            waits.join().unwrap();
        });
        let before = wait();
        push(1);
        fanout.spool_failed("full");
        assert_eq!(wait(), before + 1, "the spool has failed");
        push(1);
        assert_eq!(wait(), before + 2, "it is live-only");
        fanout.finish();
        assert_eq!(calls.count(), before + 3, "the end");
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
        shared.trim(1);
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

    /// Whoever comes when the beginning is gone is to have another build, though the producer is done.
    #[test]
    fn what_is_left_for_the_last_readers_is_for_them_alone() {
        let (fanout, reader) = live_only();
        fanout.finish();
        assert!(!fanout.is_slow(), "all of it can be had");
        assert!(matches!(next(&reader, 1 << 20), Next::Memory { .. }));
        fanout.lock().trim(1);
        assert!(fanout.is_slow() && fanout.join(0).is_none());
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
