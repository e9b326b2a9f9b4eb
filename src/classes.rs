//! Classes of work: how much of each runs at a time, and who is next.
//!
//! Work enters its class, stands in its queue, and has a place once there is one: what is asked for first, then
//! what a webhook wants, then what a timer does; within that in the order of entering. Who joins work that waits
//! does not enter: it moves up ([`Urgency`]). Places belong to no thread and no runtime.
//!
//! What holds places together (a host, a repository) gets one more only while that leaves more free than
//! it has: alone it has a half, with another one these have a half and a quarter, and so on, so that others find one. A
//! host whose last tries of this class timed out has one: that its clones take too long says nothing of comparisons
//! with it, and that these succeed nothing of its clones.
//!
//! What nobody waits for never has the last places, of the class nor of its sharer: one is left for what is asked
//! for.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::limits::{PLACES_OF_ASKED, QUEUE_MAX, QUEUE_WAIT_MAX_MS, REFUSED_SAID_MS, TIMEOUTS_MAX};
use crate::telemetry::metrics::{Cause, Event, Level, Meter, WorkClass};

/// How soon work is to have a place, as all see it who wait for it: it only ever moves up.
#[derive(Debug, Clone)]
pub(crate) struct Urgency(Arc<Wanted>);

#[derive(Debug)]
struct Wanted {
    cause: AtomicU8,
    /// Where it waits, if it does: it may have a place now that it had not before.
    class: Mutex<Weak<Class>>,
}

impl Default for Urgency {
    /// The least.
    fn default() -> Self {
        Urgency::of(Cause::Timer)
    }
}

impl Urgency {
    /// That of work which nobody can join.
    pub(crate) fn of(cause: Cause) -> Urgency {
        Urgency(Arc::new(Wanted {
            cause: AtomicU8::new(cause as u8),
            class: Mutex::default(),
        }))
    }

    /// Somebody waits for it for this reason: it may have a place now.
    pub(crate) fn raise(&self, cause: Cause) {
        if self.note(cause) {
            self.take_place();
        }
    }

    /// Somebody waits for it for this reason; whether it moves up. Then it may have a place, which
    /// [`take_place`](Self::take_place) gives it: that takes a lock which nice threads hold, so no core does it.
    pub(crate) fn note(&self, cause: Cause) -> bool {
        self.0.cause.fetch_min(cause as u8, Ordering::Relaxed) > cause as u8
    }

    /// Gives it the place that it may have by now.
    pub(crate) fn take_place(&self) {
        let class = self.class().upgrade();
        if let Some(class) = class {
            class.grant(&mut class.lock());
        }
    }

    /// It enters a class. Whoever raises it meanwhile is seen by that, or sees this.
    fn enter(&self, class: &Arc<Class>) {
        *self.class() = Arc::downgrade(class);
    }

    /// Every change is one step.
    fn class(&self) -> MutexGuard<'_, Weak<Class>> {
        self.0.class.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The most urgent reason.
    pub(crate) fn cause(&self) -> Cause {
        let all = [Cause::Asked, Cause::Webhook, Cause::Timer];
        let now = self.0.cause.load(Ordering::Relaxed);
        let found = all.into_iter().find(|cause| *cause as u8 == now);
        found.unwrap_or(Cause::Timer)
    }
}

/// Who enters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// Nobody has waited for it: it can be refused.
    New,
    /// Somebody was told that it comes.
    Promised,
}

/// Too much waits, or for too long.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error(
    "{}: {running} run and {waiting} wait for a turn, the first for {} s; come again",
    .class.name_of_several(),
    .longest.as_secs()
)]
pub(crate) struct Refused {
    class: WorkClass,
    running: usize,
    waiting: usize,
    longest: Duration,
}

/// The server is shutting down: there are no places any more.
#[derive(Debug, thiserror::Error)]
#[error("the server is shutting down")]
pub struct Closed;

/// How the last tries of hosts ended.
#[derive(Debug, Default)]
struct Tries(Mutex<HashMap<String, u32>>);

impl Tries {
    fn note(&self, host: &str, is_timeout: bool) {
        let mut timeouts = self.lock();
        match is_timeout {
            true => *timeouts.entry(host.to_owned()).or_default() += 1,
            false => drop(timeouts.remove(host)),
        }
    }

    fn is_hanging(&self, host: &str) -> bool {
        self.lock().get(host).is_some_and(|n| *n >= TIMEOUTS_MAX)
    }

    /// Every change is one step.
    fn lock(&self) -> MutexGuard<'_, HashMap<String, u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Class {
    name: WorkClass,
    places: usize,
    tries: Tries,
    meter: Meter,
    book: Mutex<Book>,
}

/// Invariant: after every change nobody waits who could have a place.
#[derive(Debug, Default)]
struct Book {
    closed: bool,
    next: u64,
    /// When it was last said that newcomers are refused.
    refused_said: Option<Instant>,
    /// In the order of entering.
    work: Vec<Work>,
}

#[derive(Debug)]
struct Work {
    id: u64,
    /// What it shares its part of the places with.
    sharer: Arc<str>,
    urgency: Urgency,
    state: State,
}

#[derive(Debug)]
enum State {
    Waiting {
        since: Instant,
        placed: oneshot::Sender<()>,
    },
    Running,
}

impl Book {
    fn running(&self) -> impl Iterator<Item = &Work> {
        self.work
            .iter()
            .filter(|w| matches!(w.state, State::Running))
    }

    /// How many places each sharer has.
    fn shares(&self) -> HashMap<&str, usize> {
        let mut shares = HashMap::new();
        for work in self.running() {
            *shares.entry(&*work.sharer).or_default() += 1;
        }
        shares
    }

    fn waiting(&self) -> impl Iterator<Item = (&Work, Instant)> {
        self.work.iter().filter_map(|work| match work.state {
            State::Waiting { since, .. } => Some((work, since)),
            State::Running => None,
        })
    }

    /// Whether it is to be said that newcomers are refused: not at each of them.
    fn is_refusal_news(&mut self) -> bool {
        let calm = Duration::from_millis(REFUSED_SAID_MS);
        let is_news = self.refused_said.is_none_or(|said| said.elapsed() >= calm);
        if is_news {
            self.refused_said = Some(Instant::now());
        }
        is_news
    }
}

impl Class {
    /// With so many places.
    pub(crate) fn new(name: WorkClass, places: usize, meter: &Meter) -> Arc<Class> {
        Arc::new(Class {
            name,
            places,
            tries: Tries::default(),
            meter: meter.clone(),
            book: Mutex::default(),
        })
    }

    /// A try with a host has ended, for work whose sharers are hosts.
    pub(crate) fn note_try(&self, host: &str, is_timeout: bool) {
        self.tries.note(host, is_timeout);
        self.grant(&mut self.lock());
    }

    /// Every change is completed by the one who begins it, without anything that can panic.
    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stands in the queue, or has a place at once.
    pub(crate) fn enter(
        self: &Arc<Self>,
        sharer: &str,
        urgency: &Urgency,
        arrival: Arrival,
    ) -> Result<Seat, Refused> {
        urgency.enter(self);
        let mut book = self.lock();
        if arrival == Arrival::New && self.is_full(&book, sharer, urgency.cause()) {
            self.meter.add(Event::WorkRefused(self.name), 1);
            let (refused, is_news) = (self.refused(&book), book.is_refusal_news());
            drop(book);
            if is_news {
                tracing::warn!(
                    class = self.name.name(),
                    running = refused.running,
                    waiting = refused.waiting,
                    oldest_s = refused.longest.as_secs(),
                    "newcomers are told to come again: too many wait for a place, or for too long"
                );
            }
            return Err(refused);
        }
        let (sender, placed) = oneshot::channel();
        let waiting = State::Waiting {
            since: Instant::now(),
            placed: sender,
        };
        let mut id = u64::MAX;
        // Afterwards it hears that nobody places it.
        if !book.closed {
            self.meter.up(Level::WorkWaiting(self.name));
            id = self.add(&mut book, sharer, urgency, waiting);
            self.grant(&mut book);
        }
        drop(book);
        Ok(Seat {
            class: self.clone(),
            id,
            placed,
        })
    }

    fn add(&self, book: &mut Book, sharer: &str, urgency: &Urgency, state: State) -> u64 {
        let id = book.next;
        book.next += 1;
        book.work.push(Work {
            id,
            sharer: sharer.into(),
            urgency: urgency.clone(),
            state,
        });
        id
    }

    /// Whether one that enters would stand behind too many, or behind one that has waited for too long. Those
    /// behind it, and those that wait for their own sharer, hold it up no longer than they do now.
    fn is_full(&self, book: &Book, sharer: &str, cause: Cause) -> bool {
        let (free, shares) = (self.free(book), book.shares());
        let has = |other: &str| shares.get(other).copied().unwrap_or_default();
        let may = |other: &str, free| self.may_have(other, has(other), free);
        if self.may_have_for(cause, sharer, has(sharer), free) {
            return false;
        }
        let is_before = |(work, _): &(&Work, Instant)| {
            let is_in_the_way = *work.sharer == *sharer || may(&work.sharer, free.max(1));
            work.urgency.cause() <= cause && is_in_the_way
        };
        let longest = Duration::from_millis(QUEUE_WAIT_MAX_MS);
        let is_late = |(_, since): (&Work, Instant)| since.elapsed() >= longest;
        let before = || book.waiting().filter(is_before);
        before().count() >= QUEUE_MAX || before().any(is_late)
    }

    /// What a newcomer hears for whom there is no place.
    fn refused(&self, book: &Book) -> Refused {
        let waits = || book.waiting().map(|(_, since)| since.elapsed());
        Refused {
            class: self.name,
            running: book.running().count(),
            waiting: waits().count(),
            longest: waits().max().unwrap_or_default(),
        }
    }

    fn free(&self, book: &Book) -> usize {
        self.places.saturating_sub(book.running().count())
    }

    /// Whether a sharer may have one more beside those that it has, while so many are free.
    fn may_have(&self, sharer: &str, has: usize, free: usize) -> bool {
        match self.tries.is_hanging(sharer) {
            true => has == 0 && free > 0,
            false => has < free,
        }
    }

    /// The same for a reason. What nobody waits for leaves places: some of the class, and one more that its
    /// sharer may have beside it, unless it is the first.
    fn may_have_for(&self, cause: Cause, sharer: &str, has: usize, free: usize) -> bool {
        if cause == Cause::Asked {
            return self.may_have(sharer, has, free);
        }
        let left = free.saturating_sub(1);
        let kept = PLACES_OF_ASKED.min(self.places / 4);
        let leaves = has == 0 || self.may_have(sharer, has + 1, left);
        self.may_have(sharer, has, free) && left >= kept && leaves
    }

    /// Gives free places to those who are next.
    fn grant(&self, book: &mut Book) {
        while let Some(index) = self.next(book) {
            let work = &mut book.work[index];
            if let State::Waiting { placed, .. } =
                std::mem::replace(&mut work.state, State::Running)
            {
                self.meter.down(Level::WorkWaiting(self.name));
                self.meter.up(Level::WorkRunning(self.name));
                // It fails where nobody waits any more, who then gives it back.
                let _ = placed.send(());
            }
        }
    }

    fn next(&self, book: &Book) -> Option<usize> {
        let free = self.free(book);
        if free == 0 || book.closed {
            return None;
        }
        let shares = book.shares();
        let may = |work: &Work| {
            let has = shares.get(&*work.sharer).copied().unwrap_or_default();
            let cause = work.urgency.cause();
            matches!(work.state, State::Waiting { .. })
                && self.may_have_for(cause, &work.sharer, has, free)
        };
        let all = book.work.iter().enumerate();
        let next = all
            .filter(|(_, work)| may(work))
            .min_by_key(|(index, work)| (work.urgency.cause(), *index));
        next.map(|(index, _)| index)
    }

    /// How much waits.
    pub(crate) fn waiting(&self) -> usize {
        self.lock().waiting().count()
    }

    /// Lets nobody have a place any more, and ends all waiting for one.
    pub(crate) fn close(&self) {
        let mut book = self.lock();
        book.closed = true;
        let is_waiting = |work: &mut Work| matches!(work.state, State::Waiting { .. });
        let ended = book.work.extract_if(.., is_waiting).count();
        drop(book);
        (0..ended).for_each(|_| self.meter.down(Level::WorkWaiting(self.name)));
    }

    fn leave(&self, id: u64) {
        let mut book = self.lock();
        let at = book.work.iter().position(|work| work.id == id);
        if let Some(at) = at {
            self.meter.down(match book.work.remove(at).state {
                State::Waiting { .. } => Level::WorkWaiting(self.name),
                State::Running => Level::WorkRunning(self.name),
            });
        }
        self.grant(&mut book);
    }
}

/// A place, or one in the queue for it. Dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Seat {
    class: Arc<Class>,
    id: u64,
    placed: oneshot::Receiver<()>,
}

impl Seat {
    /// Whether it is a place.
    pub(crate) fn is_placed(&self) -> bool {
        let book = self.class.lock();
        let mut running = book.running();
        running.any(|work| work.id == self.id)
    }

    /// Waits until it is one.
    pub(crate) async fn placed(&mut self) -> Result<(), Closed> {
        match self.is_placed() {
            true => Ok(()),
            false => Pin::new(&mut self.placed).await.map_err(|_| Closed),
        }
    }

    /// The same on a thread of its own, which looks after something every now and then meanwhile: whether it
    /// still is to wait. False if it is not.
    pub(crate) fn wait_placed(
        &mut self,
        every: Duration,
        look: impl Fn() -> bool,
    ) -> Result<bool, Closed> {
        let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
        let mut context = Context::from_waker(&waker);
        while !self.is_placed() {
            match Pin::new(&mut self.placed).poll(&mut context) {
                Poll::Ready(placed) => return placed.map(|()| true).map_err(|_| Closed),
                Poll::Pending => std::thread::park_timeout(every),
            }
            if !look() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Gives it back for one in another class, which has it at once: what has begun must not wait for others
    /// to end.
    pub(crate) fn move_to(&mut self, class: &Arc<Class>) {
        if Arc::ptr_eq(&self.class, class) {
            return;
        }
        let before = self.class.lock();
        let own = before.work.iter().find(|work| work.id == self.id);
        let Some((sharer, urgency)) = own.map(|w| (w.sharer.clone(), w.urgency.clone())) else {
            return;
        };
        drop(before);
        let id = class.add(&mut class.lock(), &sharer, &urgency, State::Running);
        class.meter.up(Level::WorkRunning(class.name));
        let before = std::mem::replace(&mut self.class, class.clone());
        before.leave(std::mem::replace(&mut self.id, id));
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.class.leave(self.id);
    }
}

/// Wakes a thread that waits.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

#[cfg(test)]
mod tests;
