//! Turns: which builds produce at the moment.
//!
//! A build has a *place* before its first byte leaves, and until its end ([`crate::classes`]). Those with a place
//! for large builds take turns: one has a turn while it produces, and passes it on after [`TURN_MS`] if
//! another one waits for it. So builds go on side by side, as many at a time as the processors carry, in the order
//! of asking; where one repository has two builds they share what is its part. There are so few places that
//! nothing which has begun is silent for long. What waits holds little: its results have left, its window
//! is empty (see [`crate::archive::fanout`]) and the check of its packs rests. So does a build that waits for its
//! readers or for memory ([`Turn::rest`]); it has the next turn before anything that has no place. While somebody
//! waits for a place, builds that are not kept and go on at the pace of a slow client give way, the slowest first.
//!
//! A small build never waits for a large one: there are other places for it, and it is over before it
//! would pass a turn on. One that turns out not to be small becomes a large one ([`Turn::grow`]).

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::Thread;
use std::time::{Duration, Instant};

use super::ring::Size;
use crate::archive::fanout::Fanout;
pub(crate) use crate::classes::Closed;
use crate::classes::{Arrival, Class, Refused, Seat, Urgency};
use crate::limits::{
    BUILD_SILENT_MAX_MS, BUILDS_OPEN_MAX, BUILDS_PER_TURN, BUILDS_PRODUCING_MAX,
    BUILDS_PRODUCING_MIN, LIVE_ONLY_LOOK_MS, SMALL_BUILDS_MAX, TURN_MS,
};
use crate::telemetry::metrics::{Meter, WorkClass};

// A turn can last longer than it should, and what has turned out not to be small has some, too.
const _: () = assert!(
    2 * BUILDS_PER_TURN as u64 * TURN_MS <= BUILD_SILENT_MAX_MS,
    "who has a place has a turn in time"
);

/// All turns, and the places for them.
#[derive(Debug)]
pub(crate) struct Turns {
    large_max: usize,
    /// Places of small builds, and of large ones.
    small: Arc<Class>,
    large: Arc<Class>,
    state: Mutex<State>,
}

/// Invariants: `large` has those who have a turn, at most as many as there are turns; `open` has the large builds
/// that have a place, whether they have a turn or not. After every change nobody waits who could have a turn.
#[derive(Debug, Default)]
struct State {
    closed: bool,
    next_ticket: u64,
    open: Vec<Open>,
    large: Vec<Holder>,
    waiting: VecDeque<Waiter>,
}

#[derive(Debug)]
struct Open {
    ticket: u64,
    fanout: Arc<Fanout>,
    /// It was told to end.
    gives_way: bool,
}

#[derive(Debug)]
struct Holder {
    ticket: u64,
    repository: Arc<str>,
}

#[derive(Debug)]
struct Waiter {
    holder: Holder,
    thread: Thread,
}

/// A build's turn, or its wish for one, and its place. Dropping it gives back what it holds.
#[derive(Debug)]
pub struct Turn {
    turns: Arc<Turns>,
    ticket: u64,
    repository: Arc<str>,
    fanout: Arc<Fanout>,
    size: Size,
    since: Instant,
    seat: Seat,
}

impl Turns {
    /// Turns for a machine that carries this number of encoder threads.
    pub(crate) fn new(encoders: usize, meter: &Meter) -> Arc<Turns> {
        let carried = (encoders / 2).clamp(BUILDS_PRODUCING_MIN, BUILDS_PRODUCING_MAX);
        let places = (BUILDS_PER_TURN * carried).min(BUILDS_OPEN_MAX);
        Turns::with(carried, places, meter)
    }

    fn with(large_max: usize, places: usize, meter: &Meter) -> Arc<Turns> {
        Arc::new(Turns {
            large_max,
            small: Class::new(WorkClass::Build, SMALL_BUILDS_MAX, meter),
            large: Class::new(WorkClass::Build, places, meter),
            state: Mutex::default(),
        })
    }

    /// Every change is completed by the one who begins it, without anything that can panic.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has a place for a build of this size, or stands in the queue for one.
    pub(crate) fn enter(
        &self,
        repository: &str,
        size: Size,
        urgency: &Urgency,
        arrival: Arrival,
    ) -> Result<Seat, Refused> {
        let class = match size {
            Size::Small => &self.small,
            Size::Large => &self.large,
        };
        class.enter(repository, urgency, arrival)
    }

    /// Waits until it is a place, as long as it is wanted; whether it is one.
    pub(crate) fn wait_placed(
        &self,
        seat: &mut Seat,
        is_wanted: impl Fn() -> bool,
    ) -> Result<bool, Closed> {
        let look = Duration::from_millis(LIVE_ONLY_LOOK_MS);
        let began = Instant::now();
        seat.wait_placed(look, || {
            if began.elapsed() >= look {
                self.free_place();
            }
            is_wanted()
        })
    }

    /// A build that has a place begins, and has no turn yet.
    pub(crate) fn begin(
        self: &Arc<Self>,
        seat: Seat,
        repository: &Arc<str>,
        size: Size,
        fanout: &Arc<Fanout>,
    ) -> Turn {
        let mut state = self.lock();
        state.next_ticket += 1;
        let ticket = state.next_ticket;
        let mut turn = Turn {
            turns: self.clone(),
            ticket,
            repository: repository.clone(),
            fanout: fanout.clone(),
            size,
            since: Instant::now(),
            seat,
        };
        if size == Size::Large {
            turn.open(&mut state);
            drop(state);
            // It has grown since it was looked at.
            turn.seat.move_to(&self.large);
        }
        turn
    }

    /// Lets nobody have a turn any more, and ends all waiting for one.
    pub(crate) fn close(&self) {
        self.small.close();
        self.large.close();
        let mut state = self.lock();
        state.closed = true;
        for waiter in state.waiting.drain(..) {
            waiter.thread.unpark();
        }
    }

    /// Gives the turns that are free to those who wait.
    fn grant(&self, state: &mut State) {
        while state.large.len() < self.large_max {
            let next = self.next(state);
            let Some(waiter) = next.and_then(|index| state.waiting.remove(index)) else {
                return;
            };
            state.large.push(waiter.holder);
            waiter.thread.unpark();
        }
    }

    /// Who is next: the first whose repository has no turn, or the first of all.
    fn next(&self, state: &State) -> Option<usize> {
        let has_none = |waiter: &Waiter| {
            let mut holders = state.large.iter();
            holders.all(|holder| holder.repository != waiter.holder.repository)
        };
        let first = state.waiting.iter().position(has_none);
        first.or_else(|| (!state.waiting.is_empty()).then_some(0))
    }

    /// Tells the slowest build to end that is not kept and has a place, if one more is waited for than
    /// will be free.
    fn free_place(&self) {
        let wanted = self.large.waiting();
        let mut state = self.lock();
        let ending = state.open.iter().filter(|p| p.gives_way).count();
        if ending >= wanted {
            return;
        }
        let others = state.open.iter_mut().filter(|p| !p.gives_way);
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

    fn open(&self, state: &mut State) {
        state.open.push(Open {
            ticket: self.ticket,
            fanout: self.fanout.clone(),
            gives_way: false,
        });
    }

    /// Waits for a turn.
    pub fn take(&mut self) -> Result<(), Closed> {
        let turns = self.turns.clone();
        self.queue(&turns, turns.lock())
    }

    /// Joins those who wait, and waits until it is held. A small build needs none but its place.
    fn queue<'t>(
        &mut self,
        turns: &'t Turns,
        mut state: MutexGuard<'t, State>,
    ) -> Result<(), Closed> {
        if state.closed {
            return Err(Closed);
        }
        if self.size == Size::Small {
            return Ok(());
        }
        state.waiting.push_back(Waiter {
            holder: Holder {
                ticket: self.ticket,
                repository: self.repository.clone(),
            },
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
        self.since = Instant::now();
        Ok(())
    }

    fn is_held(&self, state: &State) -> bool {
        let mut holders = state.large.iter();
        holders.any(|holder| holder.ticket == self.ticket)
    }

    fn give_back(&self, state: &mut State) {
        state.large.retain(|holder| holder.ticket != self.ticket);
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
        !self.turns.lock().waiting.is_empty()
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
        self.take()?;
        Ok(waited)
    }

    /// There is nothing left to produce: only the place is held until it is dropped.
    pub fn end(&mut self) {
        self.leave();
    }

    /// From here on it is that of a large build, which has a place at once: its first bytes have left.
    pub fn grow(&mut self) -> Result<(), Closed> {
        self.size = Size::Large;
        self.seat.move_to(&self.turns.large);
        self.open(&mut self.turns.lock());
        self.take()
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut state = self.turns.lock();
        self.give_back(&mut state);
        state.open.retain(|open| open.ticket != self.ticket);
        self.turns.grant(&mut state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::metrics::Metrics;
    use std::sync::mpsc;

    fn name(name: &str) -> Arc<str> {
        Arc::from(name)
    }

    fn with(large_max: usize, places: usize) -> Arc<Turns> {
        Turns::with(large_max, places, &Metrics::new(1).meter(0))
    }

    fn placed(turns: &Arc<Turns>, repository: &str, size: Size) -> Result<Seat, Closed> {
        let entered = turns.enter(repository, size, &Urgency::default(), Arrival::New);
        let mut seat = entered.unwrap();
        turns.wait_placed(&mut seat, || true).map(|_| seat)
    }

    fn enter(turns: &Arc<Turns>, repository: &str, size: Size) -> Result<Turn, Closed> {
        let seat = placed(turns, repository, size)?;
        let mut turn = turns.begin(seat, &name(repository), size, &Arc::default());
        turn.take()?;
        Ok(turn)
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
        let turns = with(1, 8);
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
        assert!(turns.lock().open.is_empty());
    }

    #[test]
    fn a_small_build_never_waits_for_large_ones() {
        let turns = with(2, 2);
        let mut held = ["a", "c"].map(|name| enter(&turns, name, Size::Large).unwrap());
        let mut small = enter(&turns, "b", Size::Small).unwrap();
        std::thread::scope(|scope| {
            let grown = scope.spawn(|| small.grow().map(|()| small.size()));
            wait_waiting(&turns, 1);
            make_old(&mut held[0]);
            // It has begun: no other has to end before it has a place.
            assert!(held[0].is_over());
            held[0].leave();
            assert_eq!(grown.join().unwrap().unwrap(), Size::Large);
        });
    }

    /// Nothing leaves of what has no place, and what rested comes before that.
    #[test]
    fn what_has_a_place_comes_before_newcomers() {
        let turns = with(1, 2);
        let mut first = enter(&turns, "a", Size::Large).unwrap();
        let second = enter_resting(&turns, "b");
        let newcomer = turns.enter("c", Size::Large, &Urgency::default(), Arrival::New);
        let newcomer = newcomer.unwrap();
        assert!(!newcomer.is_placed());
        first.rest(|| ()).unwrap();
        assert!(!newcomer.is_placed(), "both have begun");
        drop(second);
        assert!(newcomer.is_placed());
    }

    /// A build with a place and no turn.
    fn enter_resting(turns: &Arc<Turns>, repository: &str) -> Turn {
        let seat = placed(turns, repository, Size::Large).unwrap();
        turns.begin(seat, &name(repository), Size::Large, &Arc::default())
    }

    /// Two builds of one repository have the part of one.
    #[test]
    fn the_repository_counts() {
        let turns = with(2, 8);
        let first = enter(&turns, "a", Size::Large).unwrap();
        let held = enter(&turns, "x", Size::Large).unwrap();
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
        let turns = with(1, 8);
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
        let turns = with(2, 2);
        let builds = [(); 2].map(|()| Arc::new(Fanout::new()));
        let readers = builds.each_ref().map(|fanout| fanout.join(0).unwrap());
        std::thread::scope(|scope| {
            let mut repositories = ["a", "c"].iter();
            let producing = builds.each_ref().map(|fanout| {
                fanout.spool_failed("full");
                let repository = repositories.next().unwrap();
                let seat = placed(&turns, repository, Size::Large).unwrap();
                let mut turn = turns.begin(seat, &name(repository), Size::Large, fanout);
                turn.take().unwrap();
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
        assert!(turns.lock().open.is_empty());
    }
}
