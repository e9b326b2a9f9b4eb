//! Connections that wait for their client: for a request's head, or for a body that comes slowly.
//! When places are short the one that has waited longest, on whichever core, is closed first.
//!
//! Each core has a list of its own in the order of waiting, which costs a request no lock and no
//! allocation. What other cores see of it is since when its first one waits, and they ask it to
//! close that: only a connection's own core touches it.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Poll, Waker};
use std::time::Instant;

use crossbeam::utils::CachePadded;
use tokio::sync::Notify;

/// What a core shows that has no waiting connection.
const NONE_US: u64 = u64::MAX;

/// What the cores know of each other's waiting connections.
#[derive(Debug)]
pub struct IdleCores {
    began: Instant,
    cores: Box<[CachePadded<Shown>]>,
}

#[derive(Debug)]
struct Shown {
    /// Since when the first one waits, counted from the start.
    oldest_us: AtomicU64,
    /// How many are to be closed.
    wanted: AtomicUsize,
    asked: Notify,
}

impl IdleCores {
    /// For so many cores.
    pub fn new(cores: usize) -> Arc<IdleCores> {
        let shown = |_| {
            CachePadded::new(Shown {
                oldest_us: AtomicU64::new(NONE_US),
                wanted: AtomicUsize::new(0),
                asked: Notify::new(),
            })
        };
        Arc::new(IdleCores {
            began: Instant::now(),
            cores: (0..cores).map(shown).collect(),
        })
    }

    /// Has the connection closed that has waited longest. False if none waits.
    pub fn close_oldest(&self) -> bool {
        let since = |core: &&CachePadded<Shown>| core.oldest_us.load(Ordering::Relaxed);
        let Some(core) = self.cores.iter().min_by_key(since) else {
            return false;
        };
        if since(&core) == NONE_US {
            return false;
        }
        core.wanted.fetch_add(1, Ordering::Relaxed);
        core.asked.notify_one();
        true
    }
}

/// The waiting connections of one core, or of one kind on it.
pub struct Idle {
    list: RefCell<List>,
    shown: Option<(Arc<IdleCores>, usize)>,
}

/// Places in the order of waiting, linked both ways.
#[derive(Default)]
struct List {
    places: Vec<Place>,
    free: Vec<usize>,
    first: Option<usize>,
    last: Option<usize>,
}

#[derive(Default)]
struct Place {
    before: Option<usize>,
    after: Option<usize>,
    since_us: u64,
    /// The connection was told to end; it is in the list no more.
    closed: bool,
    waker: Option<Waker>,
}

impl List {
    fn push(&mut self, place: usize, since_us: u64) {
        self.places[place].since_us = since_us;
        self.places[place].before = self.last;
        self.places[place].after = None;
        match self.last {
            Some(last) => self.places[last].after = Some(place),
            None => self.first = Some(place),
        }
        self.last = Some(place);
    }

    fn unlink(&mut self, place: usize) {
        let Place { before, after, .. } = self.places[place];
        match before {
            Some(before) => self.places[before].after = after,
            None => self.first = after,
        }
        match after {
            Some(after) => self.places[after].before = before,
            None => self.last = before,
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
    pub fn enter(self: &Rc<Self>) -> Waiting {
        let mut list = self.list.borrow_mut();
        let place = list.free.pop().unwrap_or_else(|| {
            list.places.push(Place::default());
            list.places.len() - 1
        });
        list.places[place].closed = false;
        list.push(place, self.now_us());
        self.show(&list);
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

    /// Tells the one that has waited longest to end, if any waits.
    pub fn close_oldest(&self) {
        let mut list = self.list.borrow_mut();
        let Some(first) = list.first else {
            return;
        };
        list.unlink(first);
        let place = &mut list.places[first];
        place.closed = true;
        let waker = place.waker.take();
        self.show(&list);
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
        let began = self.shown.as_ref().map(|(cores, _)| cores.began);
        began.map_or(0, |began| began.elapsed().as_micros() as u64)
    }

    fn show(&self, list: &List) {
        if let Some((cores, core)) = &self.shown {
            let oldest = list
                .first
                .map_or(NONE_US, |first| list.places[first].since_us);
            cores.cores[*core]
                .oldest_us
                .store(oldest, Ordering::Relaxed);
        }
    }
}

/// A connection that waits; dropping it ends the waiting.
pub struct Waiting {
    idle: Rc<Idle>,
    place: usize,
}

impl Waiting {
    /// Counts as beginning to wait now.
    pub fn renew(&self) {
        let mut list = self.idle.list.borrow_mut();
        if !list.places[self.place].closed {
            list.unlink(self.place);
            list.push(self.place, self.idle.now_us());
            self.idle.show(&list);
        }
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
            self.idle.show(&list);
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

    fn is_closed(waiting: &Waiting) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        pin!(waiting.closed()).poll(&mut context).is_ready()
    }

    #[test]
    fn the_longest_waiting_is_closed_first() {
        let idle = Idle::unshown();
        let waiting: Vec<Waiting> = (0..5).map(|_| idle.enter()).collect();
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
        let again = idle.enter();
        assert!(!is_closed(&again), "the place's last one was");
        assert_eq!(idle.list.borrow().places.len(), 5);
    }

    #[test]
    fn the_core_of_the_longest_waiting_is_asked() {
        let cores = IdleCores::new(2);
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
        let first = idle[1].enter();
        std::thread::sleep(wait);
        let second = idle[0].enter();
        std::thread::sleep(wait);
        let third = idle[1].enter();
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
