//! Connections that wait: for their client's request, with it for an answer, or for it to take one. When
//! places are short one of them is closed: of the first [kind](Rank) that there is, the one that has
//! waited longest, on whichever core.
//!
//! Each core has a list of its own in the order of waiting, which costs a request no lock and no
//! allocation. What other cores see of it is since when the first one of each kind waits, and they ask
//! it to close that: only a connection's own core touches it.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use crossbeam::utils::CachePadded;
use tokio::sync::Notify;

/// What a core shows that has no waiting connection.
const NONE: u64 = u64::MAX;

/// What a connection waits for: those of one kind are closed before any of the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rank {
    /// For its client, which has asked for nothing, or not for all of it.
    Request,
    /// For what is to be sent, which its client may not take any more: it has ended its sending side.
    Deserted,
    /// For its client to take what stands ready of a response. Whoever [renews](Waiting::renew) that
    /// often enough is never closed.
    Taking,
    /// For an answer.
    Answer,
    /// For more of a response that has begun, of which its client has taken what there is. Never closed.
    More,
}

/// How many kinds there are.
const RANKS: usize = Rank::More as usize + 1;
/// Those that are closed, in this order.
const CLOSED: [Rank; RANKS - 1] = [Rank::Request, Rank::Deserted, Rank::Taking, Rank::Answer];

/// What the cores know of each other's waiting connections.
#[derive(Debug)]
pub struct IdleCores {
    began: Instant,
    /// How long [`Rank::Taking`] may last.
    slow_us: u64,
    cores: Box<[CachePadded<Shown>]>,
}

#[derive(Debug)]
struct Shown {
    /// Since when the first one of each kind waits.
    first_us: [AtomicU64; RANKS],
    /// How many are to be closed.
    wanted: AtomicUsize,
    asked: Notify,
}

impl IdleCores {
    /// For so many cores. Whoever does not take enough of its response in the time `slow` may be closed.
    pub fn new(cores: usize, slow: Duration) -> Arc<IdleCores> {
        let shown = |_| {
            CachePadded::new(Shown {
                first_us: [const { AtomicU64::new(NONE) }; RANKS],
                wanted: AtomicUsize::new(0),
                asked: Notify::new(),
            })
        };
        Arc::new(IdleCores {
            began: Instant::now(),
            slow_us: slow.as_micros() as u64,
            cores: (0..cores).map(shown).collect(),
        })
    }

    /// Has the connection closed that comes first. False if there is none to close.
    pub fn close_oldest(&self) -> bool {
        let now_us = self.now_us();
        for rank in CLOSED {
            let since =
                |core: &&CachePadded<Shown>| core.first_us[rank as usize].load(Ordering::Relaxed);
            let Some(core) = self.cores.iter().min_by_key(since) else {
                return false;
            };
            if self.may_close(rank, since(&core), now_us) {
                core.wanted.fetch_add(1, Ordering::Relaxed);
                core.asked.notify_one();
                return true;
            }
        }
        false
    }

    fn may_close(&self, rank: Rank, since_us: u64, now_us: u64) -> bool {
        let enough_us = match rank {
            Rank::Taking => self.slow_us,
            _ => 0,
        };
        since_us != NONE && now_us.saturating_sub(since_us) >= enough_us
    }

    fn now_us(&self) -> u64 {
        self.began.elapsed().as_micros() as u64
    }
}

/// The waiting connections of one core, or of one kind on it.
pub struct Idle {
    list: RefCell<List>,
    shown: Option<(Arc<IdleCores>, usize)>,
}

/// Places, those of each rank in the order of waiting, linked both ways.
#[derive(Default)]
struct List {
    places: Vec<Place>,
    free: Vec<usize>,
    queues: [Queue; RANKS],
}

#[derive(Default)]
struct Queue {
    first: Option<usize>,
    last: Option<usize>,
}

struct Place {
    before: Option<usize>,
    after: Option<usize>,
    rank: Rank,
    since_us: u64,
    /// The connection was told to end; it is in the list no more.
    closed: bool,
    waker: Option<Waker>,
}

impl Place {
    const NEW: Place = Place {
        before: None,
        after: None,
        rank: Rank::Request,
        since_us: 0,
        closed: false,
        waker: None,
    };
}

impl List {
    /// Since when the first one of a kind waits.
    fn first_us(&self, rank: Rank) -> u64 {
        let first = self.queues[rank as usize].first;
        first.map_or(NONE, |first| self.places[first].since_us)
    }

    fn push(&mut self, place: usize, rank: Rank, since_us: u64) {
        let queue = &mut self.queues[rank as usize];
        let last = queue.last.replace(place);
        match last {
            Some(last) => self.places[last].after = Some(place),
            None => queue.first = Some(place),
        }
        let place = &mut self.places[place];
        (place.rank, place.since_us) = (rank, since_us);
        (place.before, place.after) = (last, None);
    }

    fn unlink(&mut self, place: usize) {
        let Place {
            before,
            after,
            rank,
            ..
        } = self.places[place];
        let queue = &mut self.queues[rank as usize];
        match before {
            Some(before) => self.places[before].after = after,
            None => queue.first = after,
        }
        match after {
            Some(after) => self.places[after].before = before,
            None => queue.last = before,
        }
    }
}

impl Idle {
    /// The waiting connections of core number `core`.
    pub fn of_core(cores: Arc<IdleCores>, core: usize) -> Rc<Idle> {
        Rc::new(Idle {
            list: RefCell::default(),
            shown: Some((cores, core)),
        })
    }

    /// Connections of which other cores hear nothing.
    pub fn unshown() -> Rc<Idle> {
        Rc::new(Idle {
            list: RefCell::default(),
            shown: None,
        })
    }

    /// A connection begins to wait.
    pub fn enter(self: &Rc<Self>, rank: Rank) -> Waiting {
        let mut list = self.list.borrow_mut();
        let place = list.free.pop().unwrap_or_else(|| {
            list.places.push(Place::NEW);
            list.places.len() - 1
        });
        list.places[place].closed = false;
        list.push(place, rank, self.now_us());
        self.show(&list, rank);
        drop(list);
        Waiting {
            idle: self.clone(),
            place,
        }
    }

    /// Connections that wait, or have not yet ended as they were told.
    pub fn len(&self) -> usize {
        let list = self.list.borrow();
        list.places.len() - list.free.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Tells the first one to end, if there is one.
    pub fn close_oldest(&self) {
        let mut list = self.list.borrow_mut();
        let now_us = self.now_us();
        let may_close = |rank: &Rank| {
            let since_us = list.first_us(*rank);
            match &self.shown {
                Some((cores, _)) => cores.may_close(*rank, since_us, now_us),
                None => since_us != NONE,
            }
        };
        let Some(rank) = CLOSED.into_iter().find(may_close) else {
            return;
        };
        let Some(first) = list.queues[rank as usize].first else {
            return;
        };
        list.unlink(first);
        let place = &mut list.places[first];
        place.closed = true;
        let waker = place.waker.take();
        self.show(&list, rank);
        drop(list);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Closes what other cores ask for, for ever.
    pub async fn obey(self: Rc<Self>) {
        let Some((cores, core)) = &self.shown else {
            return;
        };
        let shown = &cores.cores[*core];
        loop {
            shown.asked.notified().await;
            for _ in 0..shown.wanted.swap(0, Ordering::Relaxed) {
                self.close_oldest();
            }
        }
    }

    fn now_us(&self) -> u64 {
        self.shown.as_ref().map_or(0, |(cores, _)| cores.now_us())
    }

    fn show(&self, list: &List, rank: Rank) {
        if let Some((cores, core)) = &self.shown {
            let first_us = &cores.cores[*core].first_us[rank as usize];
            first_us.store(list.first_us(rank), Ordering::Relaxed);
        }
    }
}

/// A connection that waits; dropping it ends the waiting.
pub struct Waiting {
    idle: Rc<Idle>,
    place: usize,
}

impl Waiting {
    /// What it waits for.
    pub fn rank(&self) -> Rank {
        self.idle.list.borrow().places[self.place].rank
    }

    /// Counts as beginning to wait now.
    pub fn renew(&self) {
        let mut list = self.idle.list.borrow_mut();
        let place = &list.places[self.place];
        if !place.closed {
            let rank = place.rank;
            self.relink(&mut list, rank);
        }
    }

    /// Its client has ended its sending side.
    pub fn desert(&self) {
        let mut list = self.idle.list.borrow_mut();
        let place = &list.places[self.place];
        if !place.closed && place.rank != Rank::Deserted {
            self.relink(&mut list, Rank::Deserted);
        }
    }

    /// Waits for something else from now on, or for what it was told to end for and need not: it stays,
    /// whatever it was told.
    pub fn turn_to(&self, rank: Rank) {
        self.relink(&mut self.idle.list.borrow_mut(), rank);
    }

    fn relink(&self, list: &mut List, rank: Rank) {
        let place = &mut list.places[self.place];
        let before = place.rank;
        if !std::mem::take(&mut place.closed) {
            list.unlink(self.place);
        }
        list.push(self.place, rank, self.idle.now_us());
        self.idle.show(list, before);
        self.idle.show(list, rank);
    }

    /// Ready when the connection is to end.
    pub async fn closed(&self) {
        poll_fn(|context| {
            let place = &mut self.idle.list.borrow_mut().places[self.place];
            if place.closed {
                return Poll::Ready(());
            }
            let waker = context.waker();
            if !place.waker.as_ref().is_some_and(|w| w.will_wake(waker)) {
                place.waker = Some(waker.clone());
            }
            Poll::Pending
        })
        .await;
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut list = self.idle.list.borrow_mut();
        if !list.places[self.place].closed {
            list.unlink(self.place);
            self.idle.show(&list, list.places[self.place].rank);
        }
        list.places[self.place].waker = None;
        list.free.push(self.place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use std::task::Context;

    const SLOW: Duration = Duration::from_millis(50);

    fn is_closed(waiting: &Waiting) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        pin!(waiting.closed()).poll(&mut context).is_ready()
    }

    #[test]
    fn the_longest_waiting_is_closed_first() {
        let idle = Idle::unshown();
        let waiting: Vec<Waiting> = (0..5).map(|_| idle.enter(Rank::Request)).collect();
        let closed = |waiting: &[Waiting]| waiting.iter().map(is_closed).collect::<Vec<_>>();
        idle.close_oldest();
        assert_eq!(closed(&waiting), [true, false, false, false, false]);
        waiting[1].renew();
        idle.close_oldest();
        assert_eq!(closed(&waiting), [true, false, true, false, false]);
        assert_eq!(idle.len(), 5, "none has ended yet");
        let mut waiting = waiting;
        drop(waiting.remove(3));
        idle.close_oldest();
        idle.close_oldest();
        assert_eq!(closed(&waiting), [true; 4]);
        waiting[1].renew();
        idle.close_oldest();
        drop(waiting);
        assert!(idle.is_empty());
        let again = idle.enter(Rank::Request);
        assert!(!is_closed(&again), "the place's last one was");
        assert_eq!(idle.list.borrow().places.len(), 5);
    }

    #[test]
    fn who_may_have_left_is_closed_before_who_waits_for_an_answer() {
        let cores = IdleCores::new(2, SLOW);
        let idle = [0, 1].map(|core| Idle::of_core(cores.clone(), core));
        let mut obeying = idle.clone().map(|idle| Box::pin(idle.obey()));
        let answer = idle[0].enter(Rank::Answer);
        let deserted = idle[1].enter(Rank::Answer);
        deserted.desert();
        let since_us = || idle[1].list.borrow().places[deserted.place].since_us;
        let since = since_us();
        std::thread::sleep(std::time::Duration::from_millis(1));
        deserted.desert();
        assert_eq!(since_us(), since, "it counts from the first time");
        let request = idle[0].enter(Rank::Request);
        for expected in [
            [true, false, false],
            [true, true, false],
            [true, true, true],
        ] {
            assert!(cores.close_oldest());
            for obeying in &mut obeying {
                let mut context = Context::from_waker(Waker::noop());
                assert!(obeying.as_mut().poll(&mut context).is_pending());
            }
            assert_eq!([&request, &deserted, &answer].map(is_closed), expected);
        }
        assert!(!cores.close_oldest());
    }

    #[test]
    fn who_takes_its_response_is_closed_only_when_slow() {
        let cores = IdleCores::new(2, SLOW);
        let idle = [0, 1].map(|core| Idle::of_core(cores.clone(), core));
        let mut obeying = idle.clone().map(|idle| Box::pin(idle.obey()));
        let mut obey = || {
            for obeying in &mut obeying {
                let mut context = Context::from_waker(Waker::noop());
                assert!(obeying.as_mut().poll(&mut context).is_pending());
            }
        };
        let slow = idle[1].enter(Rank::Taking);
        let more = idle[0].enter(Rank::More);
        assert!(!cores.close_oldest(), "it has had no time");
        std::thread::sleep(SLOW);
        let fast = idle[1].enter(Rank::Taking);
        let answer = idle[0].enter(Rank::Answer);
        assert!(cores.close_oldest());
        obey();
        let all = [&slow, &fast, &more, &answer];
        assert_eq!(all.map(is_closed), [true, false, false, false]);
        assert!(cores.close_oldest());
        obey();
        assert_eq!(all.map(is_closed), [true, false, false, true]);
        assert!(!cores.close_oldest());
        // It turned out to have taken enough.
        slow.turn_to(Rank::Taking);
        assert!(!is_closed(&slow) && !cores.close_oldest());
        std::thread::sleep(SLOW);
        fast.renew();
        assert!(cores.close_oldest());
        obey();
        assert_eq!(all.map(is_closed), [true, false, false, true]);
        // What it waits for now is not its client's to hasten.
        slow.turn_to(Rank::More);
        assert!(!is_closed(&slow) && !cores.close_oldest());
    }

    #[test]
    fn the_core_of_the_longest_waiting_is_asked() {
        let cores = IdleCores::new(2, SLOW);
        assert!(!cores.close_oldest(), "there is none");
        let idle = [0, 1].map(|core| Idle::of_core(cores.clone(), core));
        let mut obeying = idle.clone().map(|idle| Box::pin(idle.obey()));
        let mut obey = || {
            for obeying in &mut obeying {
                let mut context = Context::from_waker(Waker::noop());
                assert!(obeying.as_mut().poll(&mut context).is_pending());
            }
        };
        let wait = std::time::Duration::from_millis(2);
        let first = idle[1].enter(Rank::Request);
        std::thread::sleep(wait);
        let second = idle[0].enter(Rank::Request);
        std::thread::sleep(wait);
        let third = idle[1].enter(Rank::Request);
        for expected in [
            [true, false, false],
            [true, true, false],
            [true, true, true],
        ] {
            assert!(cores.close_oldest());
            obey();
            assert_eq!([&first, &second, &third].map(is_closed), expected);
        }
        assert!(!cores.close_oldest());
    }
}
