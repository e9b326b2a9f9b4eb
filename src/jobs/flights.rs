//! Work of the background plane that runs once for everybody who needs it at the time.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::Hash;
use std::rc::Rc;
use std::time::Instant;

use tokio::sync::{Notify, watch};

use crate::classes::Urgency;
use crate::telemetry::metrics::Cause;

type Running<K, T> = Rc<RefCell<HashMap<K, Started<T>>>>;

/// Work that runs. It holds no receiver: who does it hears when nobody waits any more.
struct Started<T> {
    urgency: Urgency,
    began: Rc<Cell<Option<Instant>>>,
    end: Rc<watch::Sender<Option<T>>>,
}

impl<T> Started<T> {
    fn flight(&self) -> Flight<T> {
        Flight {
            urgency: self.urgency.clone(),
            began: self.began.clone(),
            end: self.end.subscribe(),
        }
    }
}

/// The work that runs, by what it is for.
pub(super) struct Flights<K: Eq + Hash, T> {
    running: Running<K, T>,
    /// Something begins to run.
    begins: Notify,
}

impl<K: Eq + Hash, T> Default for Flights<K, T> {
    fn default() -> Self {
        Flights {
            running: Rc::default(),
            begins: Notify::new(),
        }
    }
}

/// Work that runs, as somebody who waits for it sees it.
pub(super) struct Flight<T> {
    urgency: Urgency,
    began: Rc<Cell<Option<Instant>>>,
    end: watch::Receiver<Option<T>>,
}

impl<T> Clone for Flight<T> {
    fn clone(&self) -> Self {
        Flight {
            urgency: self.urgency.clone(),
            began: self.began.clone(),
            end: self.end.clone(),
        }
    }
}

impl<T> Flight<T> {
    /// Somebody waits for it for this reason: while it waits itself, it moves up.
    pub(super) fn raise(&self, cause: Cause) {
        self.urgency.raise(cause);
    }

    /// When what it does began in earnest, for whoever must not have anything older; `None` while it waits
    /// for its turn, and all who join meanwhile come before that.
    pub(super) fn began(&self) -> Option<Instant> {
        self.began.get()
    }
}

impl<T: Clone> Flight<T> {
    /// Waits for its end; `None` if it ended without a result, by a panic for example.
    pub(super) async fn end(mut self) -> Option<T> {
        let ended = self.end.wait_for(Option::is_some).await;
        ended.ok().and_then(|end| end.clone())
    }
}

/// The duty to do the work. Dropping it ends it for everybody.
pub(super) struct Duty<K: Eq + Hash, T> {
    running: Running<K, T>,
    key: K,
    urgency: Urgency,
    began: Rc<Cell<Option<Instant>>>,
    sender: Rc<watch::Sender<Option<T>>>,
}

impl<K: Eq + Hash, T> Duty<K, T> {
    /// How soon all who wait for it want it.
    pub(super) fn urgency(&self) -> &Urgency {
        &self.urgency
    }

    /// It begins in earnest: whoever joins from here on comes later than this.
    pub(super) fn begin(&self) -> Instant {
        let now = Instant::now();
        self.began.set(Some(now));
        now
    }

    /// Tells everybody.
    pub(super) fn done(self, result: T) {
        self.sender.send_replace(Some(result));
    }

    /// Ready when nobody waits for the end any more.
    pub(super) async fn unwanted(&self) {
        self.sender.closed().await;
    }

    /// What others can see of who waits for the end. That is not told while this is kept.
    pub(super) fn waiting(&self) -> Waiting<T> {
        Waiting(self.sender.clone())
    }
}

/// Those who wait for the end of some work.
pub(super) struct Waiting<T>(Rc<watch::Sender<Option<T>>>);

impl<T> Waiting<T> {
    /// Ready while there are none, unless they have heard of the end.
    pub(super) async fn are_gone(&self) {
        self.0.closed().await;
        if self.0.borrow().is_some() {
            std::future::pending().await
        }
    }
}

impl<K: Eq + Hash, T> Drop for Duty<K, T> {
    fn drop(&mut self) {
        self.running.borrow_mut().remove(&self.key);
    }
}

impl<K: Eq + Hash + Clone, T> Flights<K, T> {
    /// What runs for `key`.
    pub(super) fn running(&self, key: &K) -> Option<Flight<T>> {
        self.running.borrow().get(key).map(Started::flight)
    }

    /// Ready once something runs for `key`.
    pub(super) async fn begun(&self, key: &K) {
        loop {
            let next = self.begins.notified();
            if self.running.borrow().contains_key(key) {
                return;
            }
            next.await;
        }
    }

    /// Joins what runs for `key`; if nothing does, the caller has the duty to run it.
    pub(super) fn join(&self, key: &K) -> (Flight<T>, Option<Duty<K, T>>) {
        if let Some(flight) = self.running(key) {
            return (flight, None);
        }
        let sender = Rc::new(watch::Sender::new(None));
        let (began, urgency) = (Rc::default(), Urgency::default());
        let started = Started {
            urgency: urgency.clone(),
            began: Rc::clone(&began),
            end: sender.clone(),
        };
        let flight = started.flight();
        self.running.borrow_mut().insert(key.clone(), started);
        self.begins.notify_waiters();
        let duty = Duty {
            running: self.running.clone(),
            key: key.clone(),
            urgency,
            began,
            sender,
        };
        (flight, Some(duty))
    }
}

/// Waits until nobody else has the duty.
pub(super) async fn take_duty<K: Clone + Eq + Hash, T: Clone>(
    flights: &Flights<K, T>,
    key: &K,
) -> Duty<K, T> {
    loop {
        match flights.join(key) {
            (_, Some(duty)) => return duty,
            (flight, None) => drop(flight.end().await),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run<F: Future>(future: F) -> F::Output {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.unwrap().block_on(future)
    }

    #[test]
    fn one_has_the_duty_and_all_hear_of_its_end() {
        let flights = Flights::default();
        let (first, duty) = flights.join(&"a");
        let (second, none) = flights.join(&"a");
        assert!(none.is_none());
        assert!(flights.join(&"b").1.is_some(), "another key is other work");
        let duty = duty.unwrap();
        assert_eq!((first.began(), second.began()), (None, None), "it waits");
        let began = duty.begin();
        assert_eq!((first.began(), second.began()), (Some(began), Some(began)));
        duty.done(7);
        assert_eq!(
            run(async { (first.end().await, second.end().await) }),
            (Some(7), Some(7))
        );
        assert!(flights.running(&"a").is_none());
        assert!(flights.join(&"a").1.is_some());
    }

    #[test]
    fn work_is_unwanted_once_all_have_left() {
        let flights: Flights<_, u8> = Flights::default();
        let (first, duty) = flights.join(&"a");
        let duty = duty.unwrap();
        let second = flights.running(&"a").unwrap();
        drop(first);
        run(async {
            tokio::select! {
                biased;
                () = duty.unwanted() => panic!("one still waits"),
                () = async {} => {}
            }
            drop(second);
            duty.unwanted().await;
        });
    }

    #[test]
    fn who_waits_for_work_to_begin_hears_of_it() {
        let flights: Flights<_, u8> = Flights::default();
        run(async {
            let begin = async {
                let _other = flights.join(&"b");
                tokio::task::yield_now().await;
                flights.join(&"a")
            };
            let (duty, ()) = tokio::join!(begin, flights.begun(&"a"));
            assert!(duty.1.is_some());
            flights.begun(&"a").await;
        });
    }

    #[test]
    fn a_duty_that_is_dropped_ends_the_waiting() {
        let flights: Flights<_, u8> = Flights::default();
        let (flight, duty) = flights.join(&"a");
        drop(duty);
        assert_eq!(run(flight.end()), None);
        assert!(flights.join(&"a").1.is_some());
    }
}
