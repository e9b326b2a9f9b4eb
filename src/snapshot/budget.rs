//! Memory for decoding big objects, shared by all builds of the process.
//!
//! A blob that is a delta cannot be decoded piece by piece: it and what it is made from are in
//! memory together. That is bounded for the encoders (see
//! [`DECODE_LIMIT_BYTES`](crate::limits::DECODE_LIMIT_BYTES)); what needs more is decoded with a
//! grant of this budget. Only builder threads wait for one, each has at most one and no turn
//! meanwhile, and what holds one waits for encoders and a turn but never for another grant, nor for
//! clients: so the wait always ends.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// A number of bytes that is never exceeded, except by one that alone needs more.
#[derive(Debug)]
pub struct Budget {
    max_bytes: u64,
    state: Mutex<State>,
    changed: Condvar,
}

/// Invariant: `granted_bytes` is the sum of all grants; at most `max_bytes` unless there is only
/// one. Grants are given in the order of the tickets, so that a large one is not overtaken for
/// ever by small ones.
#[derive(Debug, Default)]
struct State {
    granted_bytes: u64,
    next_ticket: u64,
    next_served: u64,
}

/// A part of the budget; dropping it gives it back.
#[derive(Debug)]
pub struct Grant {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Budget {
    /// A budget of `max_bytes`.
    pub fn new(max_bytes: u64) -> Arc<Budget> {
        Arc::new(Budget {
            max_bytes,
            state: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    /// The state is changed in single assignments, so a panic cannot leave it half done.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for `bytes`; more than there are in all are had when nobody else has any.
    pub fn take(self: &Arc<Self>, bytes: u64) -> Grant {
        let mut state = self.lock();
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        while state.next_served != ticket || !self.fits(&state, bytes) {
            let woken = self.changed.wait(state);
            state = woken.unwrap_or_else(PoisonError::into_inner);
        }
        state.next_served += 1;
        state.granted_bytes = state.granted_bytes.saturating_add(bytes);
        drop(state);
        self.changed.notify_all();
        Grant {
            budget: self.clone(),
            bytes,
        }
    }

    /// Waits until nobody else has a grant, for work whose need is not known.
    pub fn take_all(self: &Arc<Self>) -> Grant {
        self.take(self.max_bytes)
    }

    fn fits(&self, state: &State, bytes: u64) -> bool {
        let free_bytes = self.max_bytes.saturating_sub(state.granted_bytes);
        state.granted_bytes == 0 || bytes <= free_bytes
    }

    /// How many grants were given.
    #[cfg(test)]
    pub fn granted(&self) -> u64 {
        self.lock().next_served
    }

    /// How many wait.
    #[cfg(test)]
    pub fn waiting(&self) -> u64 {
        let state = self.lock();
        state.next_ticket - state.next_served
    }
}

impl Grant {
    /// Gives back what is over `bytes`.
    pub fn keep(&mut self, bytes: u64) {
        let bytes = bytes.min(self.bytes);
        let over_bytes = self.bytes - bytes;
        self.bytes = bytes;
        self.give_back(over_bytes);
    }

    fn give_back(&self, bytes: u64) {
        let mut state = self.budget.lock();
        state.granted_bytes = state.granted_bytes.saturating_sub(bytes);
        drop(state);
        self.budget.changed.notify_all();
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        self.give_back(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::thread;

    /// Many threads with needs from little to more than there is: all come to an end, and
    /// together they never have more than the budget, unless one is alone.
    #[test]
    fn the_budget_holds_and_everybody_gets_their_turn() {
        let budget = Budget::new(100);
        let (used, holders) = (AtomicU64::new(0), AtomicU64::new(0));
        thread::scope(|scope| {
            for thread in 0..8_u64 {
                let (budget, used, holders) = (&budget, &used, &holders);
                scope.spawn(move || {
                    for round in 0..500_u64 {
                        let bytes = 1 + (thread * 31 + round * 17) % 140;
                        let grant = budget.take(bytes);
                        holders.fetch_add(1, Ordering::SeqCst);
                        let all = used.fetch_add(bytes, Ordering::SeqCst) + bytes;
                        let alone = holders.load(Ordering::SeqCst) == 1;
                        assert!(all <= 100 || alone, "{all} with {bytes}");
                        used.fetch_sub(bytes, Ordering::SeqCst);
                        holders.fetch_sub(1, Ordering::SeqCst);
                        drop(grant);
                    }
                });
            }
        });
        assert_eq!(budget.lock().granted_bytes, 0);
    }

    /// A large need is not overtaken by small ones that would fit.
    #[test]
    fn the_order_of_asking_holds() {
        let budget = Budget::new(100);
        let mut first = budget.take(60);
        let order = Mutex::new(Vec::new());
        thread::scope(|scope| {
            for (position, bytes) in [1000, 10].into_iter().enumerate() {
                let (budget, order) = (&budget, &order);
                scope.spawn(move || {
                    let grant = budget.take(bytes);
                    order.lock().unwrap().push(bytes);
                    drop(grant);
                });
                while budget.waiting() != position as u64 + 1 {
                    thread::yield_now();
                }
            }
            // Room for the second, but not yet its turn.
            first.keep(20);
            assert_eq!(budget.waiting(), 2);
            drop(first);
        });
        assert_eq!(*order.lock().unwrap(), [1000, 10]);
    }
}
