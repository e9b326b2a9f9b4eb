//! The ring: encoder threads, and results that leave in order.
//!
//! Each build has a lane of its own. Lanes are served in turn, one piece of work each, so that what
//! a build begins with waits for the pieces that are at work and not for all that others have handed
//! in. Small builds come first, and have threads of their own besides: an encoder can be at one piece
//! of a large build, the walk of its tree for one, for longer than a small build takes in all. One of
//! the encoders takes large builds first, so that neither can keep the other waiting for ever.
//!
//! A build keeps a bounded number of pieces of work in flight (its window of the ring) and takes
//! the results in the order of submission, so memory is bounded whatever the number of threads,
//! and no encoder ever waits for anything but work.

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError, bounded};

use crate::io::sched;
use crate::limits::{ENCODER_NICE, SMALL_BUILD_NICE, SMALL_ENCODERS_PERCENT};

type Work<S> = Box<dyn FnOnce(&mut S) + Send>;

/// Whose work comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// A build that is done in a few pieces of work.
    Small,
    /// Any other.
    Large,
}

/// A piece of work did not come back with a result.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// Its code panicked; the thread that ran it goes on with fresh state.
    #[error("an encoder thread panicked: {0}")]
    Panicked(String),
    /// The ring is shutting down.
    #[error("the encoder threads have ended")]
    Ended,
}

/// A result that will come.
pub struct Pending<T> {
    receiver: Receiver<Result<T, RingError>>,
}

impl<T> Pending<T> {
    /// Waits for the result. If that takes longer than `soon`, `meanwhile` is done first.
    pub fn wait(self, soon: Duration, meanwhile: impl FnOnce()) -> Result<T, RingError> {
        let result = match self.receiver.recv_timeout(soon) {
            Err(RecvTimeoutError::Timeout) => {
                meanwhile();
                self.receiver.recv().ok()
            }
            other => other.ok(),
        };
        result.unwrap_or(Err(RingError::Ended))
    }
}

/// The encoder threads. `S` is what each of them keeps from one piece of work to the next.
pub struct Ring<S> {
    queue: Arc<Queue<S>>,
    threads: usize,
    started: Vec<JoinHandle<()>>,
}

struct Queue<S> {
    state: Mutex<State<S>>,
    /// Signalled for the threads that take anything, and for those of small builds.
    any: Condvar,
    small: Condvar,
}

struct State<S> {
    small: Lanes<S>,
    large: Lanes<S>,
    lanes_made: u64,
    ended: bool,
}

/// Work by lane. Invariant: `turns` has each lane of `waiting` once, and none of those is empty.
struct Lanes<S> {
    waiting: HashMap<u64, VecDeque<Work<S>>>,
    turns: VecDeque<u64>,
}

impl<S> Default for Lanes<S> {
    fn default() -> Self {
        Lanes {
            waiting: HashMap::new(),
            turns: VecDeque::new(),
        }
    }
}

impl<S> Lanes<S> {
    fn push(&mut self, lane: u64, work: Work<S>) {
        let waiting = self.waiting.entry(lane).or_default();
        if waiting.is_empty() {
            self.turns.push_back(lane);
        }
        waiting.push_back(work);
    }

    /// The next piece of work of the lane whose turn it is.
    fn pop(&mut self) -> Option<Work<S>> {
        let lane = self.turns.pop_front()?;
        let waiting = self.waiting.get_mut(&lane)?;
        let work = waiting.pop_front();
        match waiting.is_empty() {
            true => drop(self.waiting.remove(&lane)),
            false => self.turns.push_back(lane),
        }
        work
    }
}

/// Which work a thread takes.
#[derive(Debug, Clone, Copy)]
enum Takes {
    LargeFirst,
    SmallFirst,
    SmallOnly,
}

impl<S> State<S> {
    fn pop(&mut self, takes: Takes) -> Option<Work<S>> {
        match takes {
            Takes::LargeFirst => self.large.pop().or_else(|| self.small.pop()),
            Takes::SmallFirst => self.small.pop().or_else(|| self.large.pop()),
            Takes::SmallOnly => self.small.pop(),
        }
    }
}

impl<S> Queue<S> {
    /// Work runs outside of the lock, and a panic inside cannot leave it half changed.
    fn lock(&self) -> MutexGuard<'_, State<S>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for work; `None` when there will be none.
    fn next(&self, takes: Takes) -> Option<Work<S>> {
        let changed = match takes {
            Takes::SmallOnly => &self.small,
            Takes::LargeFirst | Takes::SmallFirst => &self.any,
        };
        let mut state = self.lock();
        loop {
            if let Some(work) = state.pop(takes) {
                return Some(work);
            }
            if state.ended {
                return None;
            }
            state = changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl<S: 'static> Ring<S> {
    /// Starts `threads` encoder threads, and a few for small builds only, each with a state from
    /// `state`, at a lower scheduling priority than the network cores.
    pub fn start(
        threads: usize,
        state: impl Fn() -> S + Send + Clone + 'static,
    ) -> std::io::Result<Ring<S>> {
        let queue = Arc::new(Queue {
            state: Mutex::new(State {
                small: Lanes::default(),
                large: Lanes::default(),
                lanes_made: 0,
                ended: false,
            }),
            any: Condvar::new(),
            small: Condvar::new(),
        });
        let mut ring = Ring {
            queue,
            threads,
            started: Vec::new(),
        };
        let small = (threads * SMALL_ENCODERS_PERCENT).div_ceil(100);
        for index in 0..threads + small {
            let (takes, nice) = match index {
                0 => (Takes::LargeFirst, ENCODER_NICE),
                index if index < threads => (Takes::SmallFirst, ENCODER_NICE),
                _ => (Takes::SmallOnly, SMALL_BUILD_NICE),
            };
            let (queue, state) = (ring.queue.clone(), state.clone());
            let builder = std::thread::Builder::new().name(format!("encoder-{index}"));
            ring.started.push(builder.spawn(move || {
                sched::be_nice(nice);
                run(&queue, takes, &state);
            })?);
        }
        Ok(ring)
    }

    /// Number of threads, without those for small builds only.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// A lane for the work of one build.
    pub fn lane(&self, size: Size) -> Lane<'_, S> {
        let mut state = self.queue.lock();
        state.lanes_made += 1;
        Lane {
            ring: self,
            id: state.lanes_made,
            size,
        }
    }
}

/// The way of one build's work to the encoders.
pub struct Lane<'r, S> {
    ring: &'r Ring<S>,
    id: u64,
    size: Size,
}

impl<'r, S: 'static> Lane<'r, S> {
    /// The ring.
    pub fn ring(&self) -> &'r Ring<S> {
        self.ring
    }

    /// Whose work comes first.
    pub fn size(&self) -> Size {
        self.size
    }

    /// From here on it is the lane of a large build.
    pub fn grow(&mut self) {
        self.size = Size::Large;
    }

    /// Queues a piece of work. The caller bounds how many it has in flight.
    pub fn submit<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut S) -> T + Send + 'static,
    ) -> Pending<T> {
        let (sender, receiver) = bounded(1);
        let task = move |state: &mut S| {
            let result = catch_unwind(AssertUnwindSafe(|| work(state)));
            let panicked = result.is_err();
            let result = result.map_err(|panic| RingError::Panicked(panic_text(&*panic)));
            // Nobody waits for the result of an abandoned build.
            let _ = sender.send(result);
            if panicked {
                // The state may be half changed: let the thread make a new one.
                std::panic::resume_unwind(Box::new("state dropped"));
            }
        };
        let queue = &self.ring.queue;
        let mut state = queue.lock();
        match self.size {
            Size::Small => state.small.push(self.id, Box::new(task)),
            Size::Large => state.large.push(self.id, Box::new(task)),
        }
        drop(state);
        if self.size == Size::Small {
            queue.small.notify_one();
        }
        queue.any.notify_one();
        Pending { receiver }
    }
}

impl<S> Drop for Ring<S> {
    fn drop(&mut self) {
        self.queue.lock().ended = true;
        self.queue.any.notify_all();
        self.queue.small.notify_all();
        for thread in self.started.drain(..) {
            // A thread's panics were reported to whoever waited for its work.
            let _ = thread.join();
        }
    }
}

fn run<S>(queue: &Queue<S>, takes: Takes, make_state: &dyn Fn() -> S) {
    let mut state = make_state();
    while let Some(task) = queue.next(takes) {
        if catch_unwind(AssertUnwindSafe(|| task(&mut state))).is_err() {
            state = make_state();
        }
    }
}

/// The text of a panic.
pub fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    impl<T> Pending<T> {
        fn get(self) -> Result<T, RingError> {
            self.wait(Duration::ZERO, || {})
        }
    }

    #[test]
    fn results_come_in_order_and_a_panic_costs_one_result_and_the_state() {
        let ring = Ring::start(2, || 0u32).unwrap();
        let lane = ring.lane(Size::Large);
        let pending: Vec<_> = (0..100u32)
            .map(|i| {
                lane.submit(move |state| {
                    *state += 1;
                    assert!(i != 50, "the fiftieth");
                    i
                })
            })
            .collect();
        for (i, pending) in pending.into_iter().enumerate() {
            match pending.get() {
                Ok(value) => assert_eq!(value as usize, i),
                Err(RingError::Panicked(text)) => {
                    assert_eq!(i, 50);
                    assert!(text.contains("the fiftieth"));
                }
                Err(RingError::Ended) => panic!("ended"),
            }
        }
        let states: Vec<u32> = (0..200)
            .map(|_| lane.submit(|s| *s).get().unwrap())
            .collect();
        assert!(states.iter().all(|s| *s < 100));
    }

    /// A piece of work that goes on until it is told to end.
    fn hold(lane: &Lane<'_, u32>) -> (crossbeam::channel::Sender<()>, Pending<()>) {
        let (end, ended) = bounded::<()>(0);
        let (began, begun) = bounded(0);
        let pending = lane.submit(move |_| {
            let _ = began.send(());
            let _ = ended.recv();
        });
        begun.recv().unwrap();
        (end, pending)
    }

    #[test]
    fn lanes_are_served_in_turn() {
        let ring = Ring::start(1, || 0u32).unwrap();
        let lanes = [(); 3].map(|()| ring.lane(Size::Large));
        let (end, held) = hold(&lanes[0]);
        let order = Arc::new(Mutex::new(Vec::new()));
        let submit = |lane: usize, count: usize| {
            let note = |_| {
                let order = order.clone();
                lanes[lane].submit(move |_| order.lock().unwrap().push(lane))
            };
            (0..count).map(note).collect::<Vec<_>>()
        };
        let pending = [submit(0, 4), submit(1, 2), submit(2, 1)];
        drop(end);
        held.get().unwrap();
        for pending in pending.into_iter().flatten() {
            pending.get().unwrap();
        }
        assert_eq!(*order.lock().unwrap(), [0, 1, 2, 0, 1, 0, 0]);
    }

    /// However long the work of large builds takes.
    #[test]
    fn small_builds_do_not_wait_for_large_ones() {
        let ring = Ring::start(2, || 0u32).unwrap();
        let mut large = ring.lane(Size::Small);
        large.grow();
        let held = [(); 2].map(|()| hold(&large));
        let waiting = large.submit(|_| ());
        let small = ring.lane(Size::Small);
        for _ in 0..10 {
            small.submit(|_| ()).get().unwrap();
        }
        // Nor do large ones wait for small ones for ever.
        let [(first, held), others] = held;
        let (end_small, held_small) = hold(&small);
        drop(first);
        waiting.get().unwrap();
        drop((end_small, others.0));
        for pending in [held, held_small, others.1] {
            pending.get().unwrap();
        }
    }
}
