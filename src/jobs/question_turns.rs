//! How many questions go to one upstream: so many at a time, and so many a minute.
//!
//! Of both nobody gets more than he leaves: who has as much already as is left waits, or is told to come again. So
//! one who takes all that he can get leaves half for others, and nobody has to be told from others beforehand. It
//! holds among clients, and within what a client has among its credentials; and of the threads that ask, among upstreams:
//! one that says nothing keeps those that it has for as long as a question may take.
//!
//! Whoever has shown that he may read a repository asks about it in places of their own, or in those that strangers
//! leave: there can be more of these than places, and no share of what they have all taken is enough. The same holds of
//! what may begin within a minute, and of the threads.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::Hash;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::flights::Flights;
use crate::access::credential::Mark;
use crate::access::verdicts::About;
use crate::http::net::client::Client;
use crate::limits::{
    ASKERS_MAX, ASKERS_OF_PROVEN, QUESTIONS_A_MINUTE_MAX, QUESTIONS_OF_PROVEN_A_MINUTE_MAX,
    QUESTIONS_OF_PROVEN_MAX, QUESTIONS_OF_SILENT_MAX, QUESTIONS_RUNNING_MAX, QUESTIONS_UNANSWERED,
    QUESTIONS_WEIGHT_OF_CREDENTIAL, QUESTIONS_WEIGHT_OF_PROXY,
};

/// What became of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Yes,
    No,
    /// It is not known now, and nobody is served.
    Unknown,
}

/// Those to all upstreams.
pub(super) struct Questions {
    /// Those that run.
    pub(super) asking: Flights<About, Verdict>,
    /// By host.
    turns: RefCell<HashMap<String, OfHost>>,
    threads: Rc<Threads>,
    threads_of_proven: Rc<Threads>,
}

impl Default for Questions {
    fn default() -> Questions {
        Questions {
            asking: Flights::default(),
            turns: RefCell::default(),
            threads: Threads::new(ASKERS_MAX - ASKERS_OF_PROVEN),
            threads_of_proven: Threads::new(ASKERS_OF_PROVEN),
        }
    }
}

/// Those to one host.
struct OfHost {
    common: Rc<Turns>,
    of_proven: Rc<Turns>,
}

/// Where somebody may ask.
pub(super) struct Places {
    common: Rc<Turns>,
    /// Of those who are no strangers.
    own: Option<Rc<Turns>>,
}

impl Places {
    /// Waits for one.
    pub(super) async fn take(&self, who: Who) -> Turn {
        let own = async {
            match &self.own {
                Some(own) => own.take(who).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            turn = own => turn,
            turn = self.common.take(who) => turn,
        }
    }

    /// Whether one more may begin within this minute.
    pub(super) fn begin(&self, who: Who) -> bool {
        let own = self.own.as_ref();
        own.is_some_and(|own| own.begin(who)) || self.common.begin(who)
    }
}

/// Whose questions they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Of {
    /// Of nobody who is known.
    Strangers,
    /// Of those who may read what they ask about, or might a while ago.
    Proven,
}

/// Those that ask, of all upstreams together.
struct Threads {
    max: u32,
    used: Cell<u32>,
    /// Somebody waits for one.
    are_short: Cell<bool>,
    /// One is free again that somebody waited for.
    freed: Notify,
}

impl Threads {
    fn new(max: usize) -> Rc<Threads> {
        Rc::new(Threads {
            max: max as u32,
            used: Cell::new(0),
            are_short: Cell::new(false),
            freed: Notify::new(),
        })
    }

    /// Takes one, if no fewer are left than its upstream `has`.
    fn take(&self, has: u32) -> bool {
        let used = self.used.get();
        let is_left = has < self.max.saturating_sub(used);
        match is_left {
            true => self.used.set(used + 1),
            false => self.are_short.set(true),
        }
        is_left
    }

    fn give_back(&self) {
        self.used.set(self.used.get().saturating_sub(1));
        if self.are_short.take() {
            self.freed.notify_waiters();
        }
    }
}

impl Questions {
    /// The places at one upstream.
    pub(super) fn places(&self, of: Of, host: &str) -> Places {
        let mut all = self.turns.borrow_mut();
        let turns = |running, a_minute, threads: &Rc<Threads>| {
            Rc::new(Turns::new(running, a_minute, threads.clone()))
        };
        let new = || OfHost {
            common: turns(QUESTIONS_RUNNING_MAX, QUESTIONS_A_MINUTE_MAX, &self.threads),
            of_proven: turns(
                QUESTIONS_OF_PROVEN_MAX,
                QUESTIONS_OF_PROVEN_A_MINUTE_MAX,
                &self.threads_of_proven,
            ),
        };
        let turns = all.entry(host.to_owned()).or_insert_with(new);
        Places {
            common: turns.common.clone(),
            own: (of == Of::Proven).then(|| turns.of_proven.clone()),
        }
    }
}

/// Who asks: by which address, and with what.
#[derive(Debug, Clone, Copy)]
pub(super) struct Who {
    pub client: Client,
    pub mark: Mark,
}

/// Those of one upstream.
struct Turns {
    /// How many questions have had no answer since the last one that had.
    unanswered: Cell<u32>,
    running: RefCell<Shares>,
    minute: RefCell<Minute>,
    /// A question has ended.
    ended: Notify,
    threads: Rc<Threads>,
}

/// The right to ask once, for as long as the answer takes.
pub(super) struct Turn {
    turns: Rc<Turns>,
    who: Who,
}

impl Turn {
    /// It was asked, and its upstream said something, or nothing.
    pub(super) fn end(self, is_answered: bool) {
        let unanswered = &self.turns.unanswered;
        unanswered.set(match is_answered {
            true => 0,
            false => unanswered.get().saturating_add(1),
        });
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.turns.running.borrow_mut().give_back(self.who);
        self.turns.ended.notify_waiters();
        self.turns.threads.give_back();
    }
}

impl Turns {
    /// So many at a time, so many begin within a minute, and these ask.
    fn new(running: u32, a_minute: u32, threads: Rc<Threads>) -> Turns {
        Turns {
            // Whether it answers is not known.
            unanswered: Cell::new(QUESTIONS_UNANSWERED),
            running: RefCell::new(Shares::new(running)),
            minute: RefCell::new(Minute {
                since: Instant::now(),
                begun: Shares::new(a_minute),
            }),
            ended: Notify::new(),
            threads,
        }
    }

    /// Whether one more may be asked beside those that are: of an upstream that says nothing a few find out whether it
    /// does again.
    fn has_place(&self) -> bool {
        self.unanswered.get() < QUESTIONS_UNANSWERED
            || self.running.borrow().used < QUESTIONS_OF_SILENT_MAX
    }

    /// Waits for a place.
    async fn take(self: &Rc<Self>, who: Who) -> Turn {
        loop {
            // Before the look, so that no end is missed.
            let (ended, freed) = (self.ended.notified(), self.threads.freed.notified());
            if self.has_place() && self.take_now(who) {
                let turns = self.clone();
                return Turn { turns, who };
            }
            tokio::select! {
                () = ended => {}
                () = freed => {}
            }
        }
    }

    /// Takes a place, and a thread for it.
    fn take_now(&self, who: Who) -> bool {
        let mut running = self.running.borrow_mut();
        let has = running.used;
        if !running.take(who) {
            return false;
        }
        let is_taken = self.threads.take(has);
        if !is_taken {
            running.give_back(who);
        }
        is_taken
    }

    /// See [`Places::begin`].
    fn begin(&self, who: Who) -> bool {
        self.minute.borrow_mut().begin(who, Instant::now())
    }
}

/// What has begun in a minute.
#[derive(Debug)]
struct Minute {
    since: Instant,
    begun: Shares,
}

impl Minute {
    fn begin(&mut self, who: Who, now: Instant) -> bool {
        if now.saturating_duration_since(self.since) >= Duration::from_secs(60) {
            self.since = now;
            self.begun = Shares::new(self.begun.max);
        }
        self.begun.take(who)
    }
}

/// What there is of something, and how much of it everybody has.
#[derive(Debug)]
struct Shares {
    max: u32,
    used: u32,
    of_clients: HashMap<Client, u32>,
    of_credentials: HashMap<(Client, Mark), u32>,
}

impl Shares {
    fn new(max: u32) -> Shares {
        Shares {
            max,
            used: 0,
            of_clients: HashMap::new(),
            of_credentials: HashMap::new(),
        }
    }

    /// Takes one, if that is left for this one.
    fn take(&mut self, who: Who) -> bool {
        let of_client = self.of_clients.get(&who.client).copied().unwrap_or(0);
        let key = (who.client, who.mark);
        let of_credential = self.of_credentials.get(&key).copied().unwrap_or(0);
        // Behind an address that is not counted there are many.
        let weight = match who.client {
            Some(_) => 1,
            None => QUESTIONS_WEIGHT_OF_PROXY,
        };
        let left = self.max.saturating_sub(self.used) * weight;
        // What the client can have in all if nobody else takes anything, less what it has.
        let left_of_client = left.saturating_sub(of_client).div_ceil(1 + weight);
        if of_client >= left || of_credential >= left_of_client * QUESTIONS_WEIGHT_OF_CREDENTIAL {
            return false;
        }
        self.used += 1;
        self.of_clients.insert(who.client, of_client + 1);
        self.of_credentials.insert(key, of_credential + 1);
        true
    }

    fn give_back(&mut self, who: Who) {
        self.used = self.used.saturating_sub(1);
        less(&mut self.of_clients, who.client);
        less(&mut self.of_credentials, (who.client, who.mark));
    }
}

/// One less; what has none is forgotten.
fn less<K: Eq + Hash>(all: &mut HashMap<K, u32>, key: K) {
    if let Some(count) = all.get_mut(&key) {
        *count -= 1;
        if *count == 0 {
            all.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::credential::Credential;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    fn who(last: u8, credential: u32) -> Who {
        let value = format!("Bearer {credential}");
        Who {
            client: Some([10, 0, 0, last].into()),
            mark: Credential::read(Some(value.as_bytes())).unwrap().mark(),
        }
    }

    /// How many of `most` are taken, each with a credential of its own.
    fn made_up(shares: &mut Shares, last: u8, most: u32) -> u32 {
        (0..most).filter(|n| shares.take(who(last, *n))).count() as u32
    }

    #[test]
    fn whoever_takes_what_he_can_leaves_something_for_others() {
        let mut shares = Shares::new(QUESTIONS_A_MINUTE_MAX);
        assert_eq!(
            made_up(&mut shares, 1, 2 * QUESTIONS_A_MINUTE_MAX),
            QUESTIONS_A_MINUTE_MAX / 2
        );
        // And the next one half of that.
        for last in 2..10 {
            assert!(
                made_up(&mut shares, last, QUESTIONS_A_MINUTE_MAX) > 0,
                "{last}"
            );
            assert!(!shares.take(who(1, 1)), "the first has more than is left");
        }
        assert!(shares.take(who(200, 1)), "one comes who has had nothing");
        assert!(shares.of_clients.len() <= shares.used as usize);
    }

    #[test]
    fn one_credential_leaves_something_for_others_of_its_client() {
        let mut shares = Shares::new(QUESTIONS_RUNNING_MAX);
        let own = (0..100).filter(|_| shares.take(who(1, 0))).count() as u32;
        assert!(own >= QUESTIONS_RUNNING_MAX / 4, "{own}");
        let others = made_up(&mut shares, 1, 100);
        assert!(others > 1, "{others}");
        assert!(shares.take(who(2, 0)));
        // Behind a proxy that says of nobody who it is there may be many.
        let mut shares = Shares::new(QUESTIONS_RUNNING_MAX);
        let nobody = |n| Who {
            client: None,
            ..who(0, n)
        };
        let unnamed = (0..100).filter(|n| shares.take(nobody(*n))).count() as u32;
        assert!(unnamed > QUESTIONS_RUNNING_MAX / 2 && unnamed < QUESTIONS_RUNNING_MAX);
        assert!(shares.take(who(1, 0)));
    }

    #[test]
    fn a_minute_is_followed_by_another() {
        let now = Instant::now();
        let mut minute = Minute {
            since: now,
            begun: Shares::new(QUESTIONS_A_MINUTE_MAX),
        };
        while minute.begin(who(1, 0), now) {}
        assert!(!minute.begin(who(1, 0), now + Duration::from_secs(59)));
        assert!(minute.begin(who(1, 0), now + Duration::from_secs(60)));
        assert_eq!(minute.begun.used, 1);
    }

    /// Those of an upstream that has answered once.
    fn answering() -> Rc<Turns> {
        answering_by(&Questions::default().threads)
    }

    /// The same, and these threads ask.
    fn answering_by(threads: &Rc<Threads>) -> Rc<Turns> {
        let questions = Questions {
            threads: threads.clone(),
            ..Questions::default()
        };
        let turns = questions.places(Of::Strangers, "host").common;
        now(turns.take(who(0, 0))).unwrap().end(true);
        turns
    }

    #[test]
    fn strangers_leave_those_who_may_read_their_places() {
        let questions = Questions::default();
        let strangers = questions.places(Of::Strangers, "host");
        now(strangers.take(who(0, 0))).unwrap().end(true);
        let ask = |last| now(strangers.take(who(last, 0)));
        let mut held = Vec::from_iter((1..=u8::MAX).map_while(ask));
        assert_eq!(held.len() as u32, QUESTIONS_RUNNING_MAX);
        let proven = questions.places(Of::Proven, "host");
        now(proven.take(who(1, 0)))
            .expect("a place that no stranger takes")
            .end(true);
        let ask = |last| now(proven.take(who(last, 0)));
        let own = Vec::from_iter((1..=u8::MAX).map_while(ask));
        assert_eq!(own.len() as u32, QUESTIONS_OF_PROVEN_MAX);
        // What strangers leave is for them, too.
        assert!(now(proven.take(who(200, 0))).is_none());
        held.pop();
        assert!(now(proven.take(who(200, 0))).is_some());
        for last in 0..=u8::MAX {
            while strangers.begin(who(last, 0)) {}
        }
        assert!(!strangers.begin(who(1, 1)) && proven.begin(who(1, 0)));
    }

    /// However many upstreams there are that say nothing to them.
    #[test]
    fn strangers_leave_those_who_may_read_threads() {
        let questions = Questions::default();
        let hosts: Vec<String> = (0..64).map(|n| format!("host-{n}")).collect();
        let mut held = Vec::new();
        for host in &hosts {
            let strangers = questions.places(Of::Strangers, host);
            if let Some(turn) = now(strangers.take(who(0, 0))) {
                turn.end(true);
            }
            held.extend((0..100).map_while(|last| now(strangers.take(who(last, 0)))));
        }
        assert_eq!(held.len(), ASKERS_MAX - ASKERS_OF_PROVEN);
        for host in &hosts[..ASKERS_OF_PROVEN] {
            held.push(now(questions.places(Of::Proven, host).take(who(1, 0))).expect("a thread"));
        }
    }

    #[test]
    fn an_upstream_that_hangs_leaves_threads_to_others() {
        let threads = Questions::default().threads;
        let mut held = Vec::new();
        for upstream in 0..5 {
            let turns = answering_by(&threads);
            let had = held.len();
            // Of many clients.
            held.extend((0..100).map_while(|last| now(turns.take(who(last, 0)))));
            assert!(held.len() > had, "{upstream}");
        }
        assert!(held.len() < ASKERS_MAX);
        let turns = answering_by(&threads);
        while let Some(turn) = now(turns.take(who(1, 0))) {
            held.push(turn);
        }
        let mut waits = pin!(turns.take(who(2, 0)));
        let mut context = Context::from_waker(Waker::noop());
        assert!(waits.as_mut().poll(&mut context).is_pending());
        // Those of another upstream.
        held.drain(..8);
        assert!(waits.as_mut().poll(&mut context).is_ready());
    }

    /// What is there at once.
    fn now<F: Future>(future: F) -> Option<F::Output> {
        let mut context = Context::from_waker(Waker::noop());
        match pin!(future).poll(&mut context) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        }
    }

    #[test]
    fn an_upstream_that_says_nothing_has_few_places_until_it_does() {
        let turns = answering();
        let mut take = |last| now(turns.take(who(last, 0)));
        for last in 0..QUESTIONS_UNANSWERED as u8 {
            take(last).unwrap().end(false);
        }
        let mut held: Vec<_> = (0..100).map_while(&mut take).collect();
        assert_eq!(held.len() as u32, QUESTIONS_OF_SILENT_MAX);
        held.pop().unwrap().end(true);
        assert!(take(1).is_some() && take(2).is_some());
    }

    #[test]
    fn a_place_that_is_given_back_is_for_whoever_waits() {
        let turns = answering();
        let mut held = Vec::new();
        while let Some(turn) = now(turns.take(who(1, held.len() as u32))) {
            held.push(turn);
        }
        assert_eq!(held.len() as u32, QUESTIONS_RUNNING_MAX / 2);
        let other = now(turns.take(who(2, 0)));
        assert!(other.is_some(), "he waits for nobody else");
        let mut waits = pin!(turns.take(who(1, 99)));
        let mut context = Context::from_waker(Waker::noop());
        assert!(waits.as_mut().poll(&mut context).is_pending());
        drop(other);
        assert!(waits.as_mut().poll(&mut context).is_pending());
        held.pop();
        assert!(waits.as_mut().poll(&mut context).is_ready());
        held.clear();
        assert_eq!(
            turns.running.borrow().of_clients.len(),
            0,
            "who has left is forgotten"
        );
    }
}
