//! Turns: which builds produce at the moment.
//!
//! A large build has a turn while it produces, and passes it on after [`TURN_MS`] if another one
//! waits for it: builds go on side by side, as many at a time as the processors carry, in the order of
//! asking; where one repository has two builds they share what is its part. What waits holds little: its
//! results have left, its window is empty (see [`crate::archive::fanout`]) and the check of its packs rests. So
//! does a build that waits for its readers or for memory ([`Turn::rest`]). A large build holds a *place*
//! besides, from its first turn to its end, for its index and its packs stay open; at most
//! [`BUILDS_OPEN_MAX`] have one. While somebody waits for a place and there is none, those that are not kept
//! and go on at the pace of a slow client give way, the slowest first.
//!
//! A small build never waits for a large one: there are other turns for it, and it is over before it
//! would pass one on. One that turns out not to be small becomes a large one ([`Turn::grow`]).

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::Thread;
use std::time::{Duration, Instant};

use super::ring::Size;
use crate::archive::fanout::Fanout;
use crate::limits::{
    BUILDS_OPEN_MAX, BUILDS_PRODUCING_MAX, BUILDS_PRODUCING_MIN, LIVE_ONLY_LOOK_MS,
    SMALL_BUILDS_MAX, TURN_MS,
};

/// The server is shutting down: there are no turns any more.
#[derive(Debug, thiserror::Error)]
#[error("the server is shutting down")]
pub struct Closed;

/// All turns.
#[derive(Debug)]
pub(crate) struct Turns {
    large_max: usize,
    places_max: usize,
    state: Mutex<State>,
}

/// Invariants: `large` and `small` have those who have a turn, at most as many as there are turns;
/// `placed` has the builds with a place, whether they have a turn or wait for one. After every change
/// nobody waits who could have a turn.
#[derive(Debug, Default)]
struct State {
    closed: bool,
    next_ticket: u64,
    large: Vec<Holder>,
    small: Vec<Holder>,
    placed: Vec<Placed>,
    waiting: VecDeque<Waiter>,
}

#[derive(Debug)]
struct Holder {
    ticket: u64,
    repository: Arc<str>,
}

#[derive(Debug)]
struct Placed {
    ticket: u64,
    fanout: Arc<Fanout>,
    /// It was told to end.
    gives_way: bool,
}

#[derive(Debug)]
struct Waiter {
    holder: Holder,
    fanout: Arc<Fanout>,
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
    fanout: Arc<Fanout>,
    size: Size,
    has_place: bool,
    since: Instant,
}

impl Turns {
    /// Turns for a machine that carries this number of encoder threads.
    pub(crate) fn new(encoders: usize) -> Arc<Turns> {
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

    /// Waits for a turn to produce what `fanout` is for.
    pub(crate) fn enter(
        self: &Arc<Self>,
        repository: &Arc<str>,
        size: Size,
        fanout: &Arc<Fanout>,
    ) -> Result<Turn, Closed> {
        let mut state = self.lock();
        state.next_ticket += 1;
        let mut turn = Turn {
            turns: self.clone(),
            ticket: state.next_ticket,
            repository: repository.clone(),
            fanout: fanout.clone(),
            size,
            has_place: false,
            since: Instant::now(),
        };
        drop(state);
        turn.wait()?;
        Ok(turn)
    }

    /// Lets nobody have a turn any more, and ends all waiting for one.
    pub(crate) fn close(&self) {
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
                    if !waiter.has_place {
                        state.placed.push(Placed {
                            ticket: waiter.holder.ticket,
                            fanout: waiter.fanout,
                            gives_way: false,
                        });
                    }
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
        let place_free = state.placed.len() < self.places_max;
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

    /// Tells the slowest build to end that is not kept and has a place, if one more is waited for than
    /// will be free.
    fn free_place(&self) {
        let mut state = self.lock();
        let wants = |w: &&Waiter| w.size == Size::Large && !w.has_place;
        let wanted = state.waiting.iter().filter(wants).count();
        let ending = state.placed.iter().filter(|p| p.gives_way).count();
        if state.placed.len() < self.places_max || ending >= wanted {
            return;
        }
        let others = state.placed.iter_mut().filter(|p| !p.gives_way);
        let slow = others.filter_map(|p| Some((p.fanout.slow_bytes_s()?, p)));
        let Some((_, slowest)) = slow.min_by_key(|(bytes_s, _)| *bytes_s) else {
            return;
        };
        slowest.gives_way = true;
        let fanout = slowest.fanout.clone();
        drop(state);
        fanout.give_way("others waited, and its clients were slow");
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
            fanout: self.fanout.clone(),
            size: self.size,
            has_place: self.has_place,
            thread: std::thread::current(),
        });
        turns.grant(&mut state);
        let began = Instant::now();
        while !self.is_held(&state) {
            if state.closed {
                return Err(Closed);
            }
            drop(state);
            match self.size == Size::Large && !self.has_place {
                true => self.wait_for_place(turns, began),
                false => std::thread::park(),
            }
            state = turns.lock();
        }
        self.has_place = self.size == Size::Large;
        self.since = Instant::now();
        Ok(())
    }

    fn wait_for_place(&self, turns: &Turns, began: Instant) {
        let look = Duration::from_millis(LIVE_ONLY_LOOK_MS);
        std::thread::park_timeout(look);
        if began.elapsed() >= look {
            turns.free_place();
        }
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
        let place_free = state.placed.len() < self.turns.places_max;
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
        state.placed.retain(|placed| placed.ticket != self.ticket);
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

    fn enter(turns: &Arc<Turns>, repository: &str, size: Size) -> Result<Turn, Closed> {
        turns.enter(&name(repository), size, &Arc::default())
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
        let mut first = enter(&turns, "a", Size::Large).unwrap();
        make_old(&mut first);
        assert!(!first.is_over(), "nobody waits");
        let (sender, order) = mpsc::channel();
        std::thread::scope(|scope| {
            for (number, repository) in ["b", "c"].into_iter().enumerate() {
                let (turns, sender) = (&turns, sender.clone());
                scope.spawn(move || {
                    let mut turn = enter(turns, repository, Size::Large).unwrap();
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
        assert!(turns.lock().placed.is_empty());
    }

    #[test]
    fn a_small_build_never_waits_for_large_ones() {
        let turns = Turns::with(2, 2);
        let mut held = [(); 2].map(|()| enter(&turns, "a", Size::Large).unwrap());
        let mut small = enter(&turns, "b", Size::Small).unwrap();
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
        let first = enter(&turns, "a", Size::Large).unwrap();
        let held = enter(&turns, "x", Size::Small).unwrap();
        std::thread::scope(|scope| {
            let (sender, order) = mpsc::channel();
            for (number, repository) in ["x", "y"].into_iter().enumerate() {
                let (turns, sender) = (&turns, sender.clone());
                scope.spawn(move || {
                    let turn = enter(turns, repository, Size::Large).unwrap();
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
        let mut turn = enter(&turns, "a", Size::Large).unwrap();
        turn.rest(|| drop(enter(&turns, "b", Size::Large).unwrap()))
            .unwrap();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| enter(&turns, "c", Size::Large).map(drop));
            wait_waiting(&turns, 1);
            turns.close();
            waiting.join().unwrap().unwrap_err();
        });
        turn.pass().unwrap_err();
        enter(&turns, "d", Size::Small).unwrap_err();
    }

    /// What a full disk does not keep has a place at the pace of its clients only as long as nobody else
    /// needs it.
    #[test]
    fn the_slowest_build_that_is_not_kept_gives_way() {
        let turns = Turns::with(2, 2);
        let builds = [(); 2].map(|()| Arc::new(Fanout::new()));
        let readers = builds.each_ref().map(|fanout| fanout.join(0).unwrap());
        std::thread::scope(|scope| {
            let producing = builds.each_ref().map(|fanout| {
                fanout.spool_failed("full");
                let mut turn = turns.enter(&name("a"), Size::Large, fanout).unwrap();
                scope.spawn(move || {
                    turn.rest(|| {
                        let push = || fanout.push_piece(vec![0; 1 << 20].into());
                        std::iter::repeat_with(push).find_map(Result::err)
                    })
                })
            });
            let third = scope.spawn(|| enter(&turns, "b", Size::Large).map(drop));
            let (began, mut at) = (Instant::now(), 0);
            while !third.is_finished() {
                assert!(began.elapsed() < Duration::from_secs(20), "{turns:?}");
                // 5 MiB a second; the other takes nothing.
                std::thread::sleep(Duration::from_millis(200));
                at += 1 << 20;
                readers[1].next(at, 1, std::task::Waker::noop());
            }
            third.join().unwrap().unwrap();
            let [slowest, slow] = producing;
            let why = slowest.join().unwrap().unwrap().unwrap().to_string();
            assert!(why.contains("others waited"), "{why}");
            assert!(!slow.is_finished(), "one is enough for one who waits");
            builds[1].fail("stop");
        });
        assert!(turns.lock().placed.is_empty());
    }
}
