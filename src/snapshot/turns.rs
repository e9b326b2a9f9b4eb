//! Turns: which builds produce at the moment.
//!
//! A large build has a turn while it produces, and passes it on after [`TURN_MS`] if another one
//! waits for it: builds go on side by side, as many at a time as the processors carry, in the order of
//! asking; where one repository has two builds they share what is its part. What waits holds little: its
//! results have left, its window is empty (see [`crate::archive::fanout`]) and the check of its packs rests. So
//! does a build that waits for its readers or for memory ([`Turn::rest`]). A large build holds a *place*
//! besides, from its first turn to its end, for its index and its packs stay open; at most
//! [`BUILDS_OPEN_MAX`] have one.
//!
//! A small build never waits for a large one: there are other turns for it, and it is over before it
//! would pass one on. One that turns out not to be small becomes a large one ([`Turn::grow`]).

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::Thread;
use std::time::{Duration, Instant};

use super::ring::Size;
use crate::limits::{
    BUILDS_OPEN_MAX, BUILDS_PRODUCING_MAX, BUILDS_PRODUCING_MIN, SMALL_BUILDS_MAX, TURN_MS,
};

/// The server is shutting down: there are no turns any more.
#[derive(Debug, thiserror::Error)]
#[error("the server is shutting down")]
pub struct Closed;

/// All turns.
#[derive(Debug)]
pub struct Turns {
    large_max: usize,
    places_max: usize,
    state: Mutex<State>,
}

/// Invariants: `large` and `small` have those who have a turn, at most as many as there are turns;
/// `placed` counts the builds with a place, whether they have a turn or wait for one. After every change
/// nobody waits who could have a turn.
#[derive(Debug, Default)]
struct State {
    closed: bool,
    next_ticket: u64,
    large: Vec<Holder>,
    small: Vec<Holder>,
    placed: usize,
    waiting: VecDeque<Waiter>,
}

#[derive(Debug)]
struct Holder {
    ticket: u64,
    repository: Arc<str>,
}

#[derive(Debug)]
struct Waiter {
    holder: Holder,
    size: Size,
    has_place: bool,
    thread: Thread,
}

/// A build's turn, or its wish for one. Dropping it gives back what it holds.
#[derive(Debug)]
pub struct Turn {
    turns: Arc<Turns>,
    ticket: u64,
    repository: Arc<str>,
    size: Size,
    has_place: bool,
    since: Instant,
}

impl Turns {
    /// Turns for a machine that carries this number of encoder threads.
    pub fn new(encoders: usize) -> Arc<Turns> {
        let carried = (encoders / 2).clamp(BUILDS_PRODUCING_MIN, BUILDS_PRODUCING_MAX);
        Turns::with(carried, BUILDS_OPEN_MAX)
    }

    fn with(large_max: usize, places_max: usize) -> Arc<Turns> {
        Arc::new(Turns {
            large_max,
            places_max,
            state: Mutex::default(),
        })
    }

    /// Every change is completed by the one who begins it, without anything that can panic.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a turn.
    pub fn enter(self: &Arc<Self>, repository: &Arc<str>, size: Size) -> Result<Turn, Closed> {
        let mut state = self.lock();
        state.next_ticket += 1;
        let mut turn = Turn {
            turns: self.clone(),
            ticket: state.next_ticket,
            repository: repository.clone(),
            size,
            has_place: false,
            since: Instant::now(),
        };
        drop(state);
        turn.wait()?;
        Ok(turn)
    }

    /// Lets nobody have a turn any more, and ends all waiting for one.
    pub fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        for waiter in state.waiting.drain(..) {
            waiter.thread.unpark();
        }
    }

    /// Gives the turns that are free to those who wait.
    fn grant(&self, state: &mut State) {
        while let Some(index) = self.next(state) {
            let Some(waiter) = state.waiting.remove(index) else {
                return;
            };
            match waiter.size {
                Size::Small => state.small.push(waiter.holder),
                Size::Large => {
                    state.placed += usize::from(!waiter.has_place);
                    state.large.push(waiter.holder);
                }
            }
            waiter.thread.unpark();
        }
    }

    /// Who is next: the first whose repository has no turn, or the first of all.
    fn next(&self, state: &State) -> Option<usize> {
        let small_free = state.small.len() < SMALL_BUILDS_MAX;
        let large_free = state.large.len() < self.large_max;
        let place_free = state.placed < self.places_max;
        let can = |waiter: &Waiter| match waiter.size {
            Size::Small => small_free,
            Size::Large => large_free && (waiter.has_place || place_free),
        };
        let has_none = |waiter: &Waiter| {
            let mut holders = state.large.iter().chain(&state.small);
            holders.all(|holder| holder.repository != waiter.holder.repository)
        };
        let first = state.waiting.iter().position(|w| can(w) && has_none(w));
        first.or_else(|| state.waiting.iter().position(can))
    }
}

impl Turn {
    /// Whose turn it is.
    pub fn size(&self) -> Size {
        self.size
    }

    /// How many large builds have a turn.
    pub fn running(&self) -> usize {
        self.turns.lock().large.len()
    }

    fn wait(&mut self) -> Result<(), Closed> {
        let turns = self.turns.clone();
        self.queue(&turns, turns.lock())
    }

    /// Joins those who wait, and waits until it is held.
    fn queue<'t>(
        &mut self,
        turns: &'t Turns,
        mut state: MutexGuard<'t, State>,
    ) -> Result<(), Closed> {
        if state.closed {
            return Err(Closed);
        }
        state.waiting.push_back(Waiter {
            holder: Holder {
                ticket: self.ticket,
                repository: self.repository.clone(),
            },
            size: self.size,
            has_place: self.has_place,
            thread: std::thread::current(),
        });
        turns.grant(&mut state);
        while !self.is_held(&state) {
            if state.closed {
                return Err(Closed);
            }
            drop(state);
            std::thread::park();
            state = turns.lock();
        }
        self.has_place = self.size == Size::Large;
        self.since = Instant::now();
        Ok(())
    }

    fn is_held(&self, state: &State) -> bool {
        let mut holders = state.large.iter().chain(&state.small);
        holders.any(|holder| holder.ticket == self.ticket)
    }

    fn give_back(&self, state: &mut State) {
        state.large.retain(|holder| holder.ticket != self.ticket);
        state.small.retain(|holder| holder.ticket != self.ticket);
    }

    fn leave(&self) {
        let mut state = self.turns.lock();
        self.give_back(&mut state);
        self.turns.grant(&mut state);
    }

    /// Whether it has been held for long enough, and somebody waits who could have it.
    pub fn is_over(&self) -> bool {
        if self.size == Size::Small || self.since.elapsed() < Duration::from_millis(TURN_MS) {
            return false;
        }
        let state = self.turns.lock();
        let place_free = state.placed < self.turns.places_max;
        let could = |w: &Waiter| w.size == Size::Large && (w.has_place || place_free);
        state.waiting.iter().any(could)
    }

    /// Passes it on, and waits for the next one, behind those who wait now: it is given back and asked
    /// for in one step.
    pub fn pass(&mut self) -> Result<(), Closed> {
        let turns = self.turns.clone();
        let mut state = turns.lock();
        self.give_back(&mut state);
        self.queue(&turns, state)
    }

    /// Does what waits for others without a turn.
    pub fn rest<T>(&mut self, wait: impl FnOnce() -> T) -> Result<T, Closed> {
        self.leave();
        let waited = wait();
        self.wait()?;
        Ok(waited)
    }

    /// There is nothing left to produce: only the place, if it has one, is held until it is dropped.
    pub fn end(&mut self) {
        self.leave();
    }

    /// From here on it is that of a large build, which waits for one of those.
    pub fn grow(&mut self) -> Result<(), Closed> {
        self.leave();
        self.size = Size::Large;
        self.wait()
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut state = self.turns.lock();
        self.give_back(&mut state);
        state.placed -= usize::from(self.has_place);
        self.turns.grant(&mut state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    fn name(name: &str) -> Arc<str> {
        Arc::from(name)
    }

    /// Waits until this number waits for a turn.
    fn wait_waiting(turns: &Turns, count: usize) {
        let began = Instant::now();
        while turns.lock().waiting.len() != count {
            assert!(began.elapsed() < Duration::from_secs(20), "{turns:?}");
            std::thread::yield_now();
        }
    }

    /// Held for long enough.
    fn make_old(turn: &mut Turn) {
        turn.since = Instant::now() - Duration::from_millis(TURN_MS);
    }

    #[test]
    fn turns_are_passed_on_in_the_order_of_asking() {
        let turns = Turns::with(1, 8);
        let mut first = turns.enter(&name("a"), Size::Large).unwrap();
        make_old(&mut first);
        assert!(!first.is_over(), "nobody waits");
        let (sender, order) = mpsc::channel();
        std::thread::scope(|scope| {
            for (number, repository) in ["b", "c"].into_iter().enumerate() {
                let (turns, sender) = (&turns, sender.clone());
                scope.spawn(move || {
                    let mut turn = turns.enter(&name(repository), Size::Large).unwrap();
                    for _ in 0..2 {
                        sender.send(repository).unwrap();
                        turn.pass().unwrap();
                    }
                });
                wait_waiting(turns, number + 1);
            }
            assert!(first.is_over());
            for _ in 0..2 {
                sender.send("a").unwrap();
                first.pass().unwrap();
            }
            drop(first);
        });
        assert_eq!(order.try_iter().collect::<String>(), "abcabc");
        assert_eq!(turns.lock().placed, 0);
    }

    #[test]
    fn a_small_build_never_waits_for_large_ones() {
        let turns = Turns::with(2, 2);
        let mut held = [(); 2].map(|()| turns.enter(&name("a"), Size::Large).unwrap());
        let mut small = turns.enter(&name("b"), Size::Small).unwrap();
        std::thread::scope(|scope| {
            let grown = scope.spawn(|| small.grow().map(|()| small.size()));
            wait_waiting(&turns, 1);
            make_old(&mut held[0]);
            // There is no place for it before one of the others has ended.
            assert!(!held[0].is_over());
            held[0].pass().unwrap();
            assert!(!grown.is_finished());
            drop(held);
            assert_eq!(grown.join().unwrap().unwrap(), Size::Large);
        });
    }

    /// Two builds of one repository have the part of one.
    #[test]
    fn the_repository_counts() {
        let turns = Turns::with(1, 8);
        let first = turns.enter(&name("a"), Size::Large).unwrap();
        let held = turns.enter(&name("x"), Size::Small).unwrap();
        std::thread::scope(|scope| {
            let (sender, order) = mpsc::channel();
            for (number, repository) in ["x", "y"].into_iter().enumerate() {
                let (turns, sender) = (&turns, sender.clone());
                scope.spawn(move || {
                    let turn = turns.enter(&name(repository), Size::Large).unwrap();
                    sender.send(repository).unwrap();
                    drop(turn);
                });
                wait_waiting(turns, number + 1);
            }
            drop(first);
            assert_eq!([order.recv().unwrap(), order.recv().unwrap()], ["y", "x"]);
        });
        drop(held);
    }

    #[test]
    fn what_rests_has_no_turn_and_the_end_wakes_all() {
        let turns = Turns::with(1, 8);
        let mut turn = turns.enter(&name("a"), Size::Large).unwrap();
        turn.rest(|| drop(turns.enter(&name("b"), Size::Large).unwrap()))
            .unwrap();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| turns.enter(&name("c"), Size::Large).map(drop));
            wait_waiting(&turns, 1);
            turns.close();
            waiting.join().unwrap().unwrap_err();
        });
        turn.pass().unwrap_err();
        turns.enter(&name("d"), Size::Small).unwrap_err();
    }
}
