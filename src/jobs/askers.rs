//! Threads that wait for what upstreams say: few, and their own. A host that hangs keeps a thread for seconds, and those
//! that read the disk are needed by everybody.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::limits::{ASKER_IDLE_MS, ASKER_STACK_BYTES, ASKERS_MAX};

type Work = Box<dyn FnOnce() + Send>;

/// The threads. They end when they have had nothing to do for a while.
#[derive(Clone, Default)]
pub(super) struct Askers(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// There is something to do.
    wake: Condvar,
}

/// Invariant: `idle` threads of `threads`, of which there are at most [`ASKERS_MAX`], wait for something to do.
#[derive(Default)]
struct State {
    waiting: VecDeque<Work>,
    threads: usize,
    idle: usize,
}

impl Shared {
    /// Each change is one step.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does what there is to do, until there is nothing for long.
    fn work_until_idle(&self) {
        let mut state = self.lock();
        loop {
            if let Some(work) = state.waiting.pop_front() {
                drop(state);
                // Whoever waits for it hears that it is lost.
                let _ = catch_unwind(AssertUnwindSafe(work));
                state = self.lock();
                continue;
            }
            state.idle += 1;
            let idle = Duration::from_millis(ASKER_IDLE_MS);
            let waited = self.wake.wait_timeout(state, idle);
            let (now, timed_out) = waited.unwrap_or_else(PoisonError::into_inner);
            state = now;
            state.idle -= 1;
            if timed_out.timed_out() && state.waiting.is_empty() {
                state.threads -= 1;
                return;
            }
        }
    }
}

impl Askers {
    /// Has it done by one of them; `None` if it was lost.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let (done, answer) = oneshot::channel();
        // Fails if nobody waits any more.
        self.add(Box::new(move || drop(done.send(work()))));
        answer.await.ok()
    }

    fn add(&self, work: Work) {
        let mut state = self.0.lock();
        state.waiting.push_back(work);
        if state.waiting.len() <= state.idle || state.threads >= ASKERS_MAX {
            self.0.wake.notify_one();
            return;
        }
        let shared = self.0.clone();
        let thread = std::thread::Builder::new()
            .name("asker".into())
            .stack_size(ASKER_STACK_BYTES);
        match thread.spawn(move || shared.work_until_idle()) {
            Ok(_) => state.threads += 1,
            // Without any nobody would do it.
            Err(_) if state.threads == 0 => state.waiting.clear(),
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn there_are_so_many_and_what_panics_ends_none() {
        let askers = Askers::default();
        let (begun, begins) = channel();
        let gate = Arc::new(std::sync::Barrier::new(ASKERS_MAX + 1));
        for _ in 0..2 * ASKERS_MAX {
            let (begun, gate) = (begun.clone(), gate.clone());
            askers.add(Box::new(move || {
                begun.send(()).unwrap();
                gate.wait();
                panic!("of a question");
            }));
        }
        for _ in 0..2 {
            (0..ASKERS_MAX).for_each(|_| begins.recv().unwrap());
            assert!(begins.try_recv().is_err(), "more than there are threads");
            assert_eq!(askers.0.lock().threads, ASKERS_MAX);
            gate.wait();
        }
        let (done, is_done) = channel();
        askers.add(Box::new(move || done.send(7).unwrap()));
        assert_eq!(is_done.recv(), Ok(7));
    }
}
