//! Memory for the bytes of an archive. None is had without room in a budget, whose size is fixed:
//! it holds whatever becomes of the restore, and whatever a server sends.
//!
//! There are three: what is received, content, and entries. None waits for another in a circle: what
//! is received is claimed in the archive's order, so the piece that is needed next has its memory; a
//! frame gets the room that it is decoded into before a worker gets the frame; and entries that wait
//! for room wait only for those before them to be written, for which nothing more is needed.

use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use super::stop::Stop;
use crate::limits::{BUFFER_STEP_BYTES, INTERRUPT_POLL_MS};

/// So many bytes and no more, in use or kept to be used again.
#[derive(Debug)]
pub struct Budget {
    limit_bytes: usize,
    state: Mutex<State>,
    freed: Condvar,
}

/// Invariant: `held_bytes` is the sum of all [`Room`]s, those of `spare` among them, and at most
/// the limit.
#[derive(Debug, Default)]
struct State {
    held_bytes: usize,
    /// Memory that nobody uses now, with the room that it takes.
    spare: Vec<(usize, Vec<u8>)>,
    /// Nobody asks for more: what is given back is not kept.
    is_over: bool,
}

impl Budget {
    /// A budget of `limit_bytes`.
    pub fn new(limit_bytes: usize) -> Arc<Budget> {
        Arc::new(Budget {
            limit_bytes,
            state: Mutex::default(),
            freed: Condvar::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Takes room for `bytes`, if there is as much without what others use.
    fn claim(&self, state: &mut State, bytes: usize) -> bool {
        while state.held_bytes + bytes > self.limit_bytes {
            match state.spare.pop() {
                Some((held, _)) => state.held_bytes -= held,
                None => return false,
            }
        }
        state.held_bytes += bytes;
        true
    }

    /// Room for `bytes` that are not in a buffer of this budget.
    pub fn try_room(self: &Arc<Self>, bytes: usize) -> Option<Room> {
        let is_there = self.claim(&mut self.lock(), bytes);
        is_there.then(|| self.room(bytes))
    }

    /// The same as soon as there is; `None` when the restore is to stop.
    pub fn take_room(self: &Arc<Self>, bytes: usize, stop: &Stop) -> Option<Room> {
        while !stop.is_set() {
            if let Some(room) = self.try_room(bytes) {
                return Some(room);
            }
            self.wait(bytes);
        }
        None
    }

    /// Nobody asks for more memory: what is spare goes, and so does what is given back.
    pub fn ends(&self) {
        let mut state = self.lock();
        state.is_over = true;
        for (held, _) in std::mem::take(&mut state.spare) {
            state.held_bytes -= held;
        }
    }

    fn room(self: &Arc<Self>, bytes: usize) -> Room {
        let budget = self.clone();
        Room { bytes, budget }
    }

    /// A buffer with a capacity of `len` at least.
    pub fn try_take(self: &Arc<Self>, len: usize) -> Option<Buffer> {
        let want = steps(len);
        let mut state = self.lock();
        let spare = state.spare.iter().enumerate();
        let fits = spare.filter(|(_, (held, _))| *held >= want);
        if let Some((at, _)) = fits.min_by_key(|(_, (held, _))| *held) {
            let (held, bytes) = state.spare.swap_remove(at);
            let room = self.room(held);
            return Some(Buffer { bytes, room });
        }
        let is_there = self.claim(&mut state, want);
        drop(state);
        is_there.then(|| Buffer {
            bytes: Vec::with_capacity(want),
            room: self.room(want),
        })
    }

    /// The same as soon as there is room; `None` when the restore is to stop.
    pub fn take(self: &Arc<Self>, len: usize, stop: &Stop) -> Option<Buffer> {
        while !stop.is_set() {
            if let Some(buffer) = self.try_take(len) {
                return Some(buffer);
            }
            self.wait(steps(len));
        }
        None
    }

    /// Waits until something is given back, for a moment at most; not at all where `bytes` fit.
    pub fn wait(&self, bytes: usize) {
        let state = self.lock();
        let spare: usize = state.spare.iter().map(|(held, _)| held).sum();
        if state.held_bytes - spare + bytes > self.limit_bytes {
            let limit = Duration::from_millis(INTERRUPT_POLL_MS);
            drop(self.freed.wait_timeout(state, limit));
        }
    }
}

/// How much a buffer takes that holds `len`.
fn steps(len: usize) -> usize {
    len.max(1).next_multiple_of(BUFFER_STEP_BYTES)
}

/// Room in a budget, given back when it is dropped.
#[derive(Debug)]
pub struct Room {
    bytes: usize,
    budget: Arc<Budget>,
}

impl Room {
    /// Gives back all but `bytes` of it.
    pub fn shrink(&mut self, bytes: usize) {
        let kept = bytes.min(self.bytes);
        let freed = std::mem::replace(&mut self.bytes, kept) - kept;
        self.budget.lock().held_bytes -= freed;
        self.budget.freed.notify_all();
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.budget.lock().held_bytes -= self.bytes;
        self.budget.freed.notify_all();
    }
}

/// Memory with its room in a budget.
#[derive(Debug)]
pub struct Buffer {
    pub bytes: Vec<u8>,
    room: Room,
}

impl Buffer {
    /// Gives back what is not needed for the first `len` bytes; `more_bytes` are kept besides.
    pub fn shrink(&mut self, len: usize, more_bytes: usize) {
        self.bytes.truncate(len);
        self.bytes.shrink_to_fit();
        self.room.shrink(len + more_bytes);
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // What was shrunk is of no use to others.
        let mut state = self.room.budget.lock();
        if self.bytes.capacity() >= self.room.bytes && !state.is_over {
            let held = std::mem::take(&mut self.room.bytes);
            let bytes = std::mem::take(&mut self.bytes);
            state.spare.push((held, bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: usize = BUFFER_STEP_BYTES;

    #[test]
    fn nothing_is_had_beyond_the_limit_and_what_is_given_back_serves_again() {
        let budget = Budget::new(4 * STEP);
        let mut first = budget.try_take(STEP + 1).unwrap();
        assert!(first.bytes.capacity() >= 2 * STEP);
        let second = budget.try_take(2 * STEP).unwrap();
        assert!(budget.try_take(1).is_none() && budget.try_room(1).is_none());
        first.bytes.push(7);
        drop(first);
        // The same memory again, though less is asked for.
        let again = budget.try_take(1).unwrap();
        assert_eq!(again.bytes, [7]);
        assert!(budget.try_take(1).is_none());
        drop((again, second));
        // Spare memory makes room for what it does not fit.
        let all = budget.try_take(4 * STEP).unwrap();
        assert!(budget.try_room(1).is_none());
        drop(all);
        let rooms = [1, 2 * STEP, STEP].map(|bytes| budget.try_room(bytes).unwrap());
        assert!(budget.try_take(STEP).is_none());
        drop(rooms);
        assert!(budget.try_take(4 * STEP).is_some());
    }

    #[test]
    fn what_is_shrunk_leaves_room_for_others() {
        let budget = Budget::new(2 * STEP);
        let mut small = budget.try_take(2 * STEP).unwrap();
        small.bytes.extend([1, 2, 3]);
        small.shrink(2, 10);
        assert_eq!(small.bytes, [1, 2]);
        let room = budget.try_room(2 * STEP - 12).unwrap();
        assert!(budget.try_room(1).is_none());
        drop((small, room));
        assert!(budget.try_take(2 * STEP).is_some());
    }

    /// Memory of one who needs no more is there for the next one, who has a budget of his own.
    #[test]
    fn behind_its_end_nothing_is_kept() {
        let budget = Budget::new(4 * STEP);
        let [first, second] = [1, 2].map(|_| budget.try_take(STEP).unwrap());
        drop(first);
        budget.ends();
        drop(second);
        let state = budget.lock();
        assert!(state.spare.is_empty());
        assert_eq!(state.held_bytes, 0);
    }

    #[test]
    fn who_waits_ends_with_the_restore() {
        let budget = Budget::new(STEP);
        let all = budget.try_take(STEP).unwrap();
        let stop = Stop::default();
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| budget.take(1, &stop).is_none());
            stop.set();
            assert!(waits.join().unwrap());
        });
        drop(all);
        assert!(budget.take(1, &stop).is_none(), "a stop is a stop");
        stop.clear();
        assert!(budget.take(1, &stop).is_some());
    }
}
