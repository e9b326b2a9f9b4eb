//! The ring: encoder threads that take work from one queue, and results that leave in order.
//!
//! Work of all builds goes through one queue, first come first served. A build keeps a bounded
//! number of pieces of work in flight (its window of the ring) and takes the results in the
//! order of submission, so memory is bounded whatever the number of threads, and no encoder
//! ever waits for anything but work.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::JoinHandle;

use crossbeam::channel::{Receiver, Sender, bounded, unbounded};

use crate::io::sched;
use crate::limits::ENCODER_NICE;

type Work<S> = Box<dyn FnOnce(&mut S) + Send>;

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
    /// Waits for the result.
    pub fn wait(self) -> Result<T, RingError> {
        self.receiver.recv().unwrap_or(Err(RingError::Ended))
    }
}

/// The encoder threads. `S` is what each of them keeps from one piece of work to the next.
pub struct Ring<S> {
    queue: Option<Sender<Work<S>>>,
    threads: Vec<JoinHandle<()>>,
}

impl<S: 'static> Ring<S> {
    /// Starts `threads` encoder threads, each with a state from `state`, at a lower scheduling
    /// priority than the network cores.
    pub fn start(
        threads: usize,
        state: impl Fn() -> S + Send + Clone + 'static,
    ) -> std::io::Result<Ring<S>> {
        let (queue, work) = unbounded::<Work<S>>();
        let mut started = Vec::with_capacity(threads);
        for index in 0..threads {
            let work = work.clone();
            let state = state.clone();
            let builder = std::thread::Builder::new().name(format!("encoder-{index}"));
            started.push(builder.spawn(move || run(&work, &state))?);
        }
        Ok(Ring {
            queue: Some(queue),
            threads: started,
        })
    }

    /// Number of threads.
    pub fn threads(&self) -> usize {
        self.threads.len()
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
        if let Some(queue) = &self.queue {
            // Fails only when all threads have ended, and then the receiver says so.
            let _ = queue.send(Box::new(task));
        }
        Pending { receiver }
    }
}

impl<S> Drop for Ring<S> {
    fn drop(&mut self) {
        self.queue = None;
        for thread in self.threads.drain(..) {
            // A thread's panics were reported to whoever waited for its work.
            let _ = thread.join();
        }
    }
}

fn run<S>(work: &Receiver<Work<S>>, make_state: &dyn Fn() -> S) {
    sched::be_nice(ENCODER_NICE);
    let mut state = make_state();
    while let Ok(task) = work.recv() {
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

    #[test]
    fn results_come_in_order_and_a_panic_costs_one_result_and_the_state() {
        let ring = Ring::start(2, || 0u32).unwrap();
        let pending: Vec<_> = (0..100u32)
            .map(|i| {
                ring.submit(move |state| {
                    *state += 1;
                    assert!(i != 50, "the fiftieth");
                    i
                })
            })
            .collect();
        for (i, pending) in pending.into_iter().enumerate() {
            match pending.wait() {
                Ok(value) => assert_eq!(value as usize, i),
                Err(RingError::Panicked(text)) => {
                    assert_eq!(i, 50);
                    assert!(text.contains("the fiftieth"));
                }
                Err(RingError::Ended) => panic!("ended"),
            }
        }
        let states: Vec<u32> = (0..200)
            .map(|_| ring.submit(|s| *s).wait().unwrap())
            .collect();
        assert!(states.iter().all(|s| *s < 100));
    }
}
