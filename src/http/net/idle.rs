//! Connections that wait: for their client's request, with it for an answer, or for it to take one. When
//! places are short one of them is closed.
//!
//! One client has its [part](CONNECTIONS_OF_CLIENT_PART) of the places. It may have more, all of them as
//! well, while they are free; when they are not, who has more gives way before anybody else does,
//! whatever its connections do. Otherwise, and among a client's own, it is the first [kind](Rank) of those
//! that there are, and the one that has waited longest, on whichever core.
//!
//! Each core has a list of its own in the order of waiting, which costs a request no allocation. Its lock
//! is held for a few links, and by another core only to find who is to make room.

mod clients;
mod list;

use std::future::poll_fn;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use crossbeam::utils::CachePadded;

use super::client::Client;
use crate::limits::CONNECTIONS_OF_CLIENT_PART;
use clients::Clients;
pub(crate) use list::Rank;
use list::{Ends, List, Place};

/// All waiting connections, by core.
#[derive(Debug)]
pub(crate) struct IdleCores {
    began: Instant,
    /// How long [`Rank::Taking`] may last.
    slow_us: u64,
    clients: Mutex<Clients>,
    cores: Box<[CachePadded<Mutex<List>>]>,
}

/// Which of a kind are closed.
#[derive(Clone, Copy)]
enum Whose {
    All,
    Slow,
}

/// Those that are closed of whoever has more than its part, in this order.
const CLOSED_OF_CROWD: [(Rank, Whose); CLOSED + 2] = [
    (Rank::Request, Whose::All),
    (Rank::Deserted, Whose::All),
    (Rank::Taking, Whose::Slow),
    (Rank::Answer, Whose::All),
    (Rank::Taking, Whose::All),
    (Rank::More, Whose::All),
];
/// How many of them are closed of all others.
const CLOSED: usize = 4;
/// Where other things than places are short.
const CLOSED_SLOW: [(Rank, Whose); 1] = [(Rank::Taking, Whose::Slow)];

/// Among whom one is to be closed.
#[derive(Clone, Copy)]
enum Among {
    /// All: those of a kind that others may close.
    All,
    /// A client's own, by that kind as well.
    Own(IpAddr),
    /// A client's that has more than its part: those of any kind.
    Crowd(IpAddr),
    /// Those who take too little of their response.
    Slow,
}

impl Among {
    /// In which order they are closed: by how little they lose.
    fn order(self) -> &'static [(Rank, Whose)] {
        match self {
            Among::Crowd(_) => &CLOSED_OF_CROWD,
            Among::All | Among::Own(_) => &CLOSED_OF_CROWD[..CLOSED],
            Among::Slow => &CLOSED_SLOW,
        }
    }

    fn client(self) -> Option<IpAddr> {
        match self {
            Among::All | Among::Slow => None,
            Among::Own(client) | Among::Crowd(client) => Some(client),
        }
    }
}

impl IdleCores {
    /// For so many cores and places. Whoever does not take enough of its response in the time `slow` may
    /// be closed.
    pub(crate) fn new(cores: usize, slow: Duration, places: usize) -> Arc<IdleCores> {
        Arc::new(IdleCores {
            began: Instant::now(),
            slow_us: slow.as_micros() as u64,
            clients: Mutex::new(Clients::new((places / CONNECTIONS_OF_CLIENT_PART).max(1))),
            cores: (0..cores).map(|_| CachePadded::default()).collect(),
        })
    }

    /// Has a connection closed that is to make room for one of `newcomer`. False if there is none.
    pub(crate) fn make_room(&self, newcomer: Client) -> bool {
        let clients = self.clients();
        let is_over = newcomer.filter(|client| clients.has_part(*client));
        let largest = clients.largest();
        drop(clients);
        match (is_over, largest) {
            // Nobody makes room for one who has more than its part.
            (Some(own), _) => self.close(Among::Own(own)),
            (None, Some(crowd)) => self.close(Among::Crowd(crowd)) || self.close(Among::All),
            (None, None) => self.close(Among::All),
        }
    }

    /// Has the slowest download closed that takes too little, for what it holds. False if there is none.
    pub(crate) fn end_slow(&self) -> bool {
        self.close(Among::Slow)
    }

    /// Whether a client has its part of the places already.
    pub(super) fn has_part(&self, client: Client) -> bool {
        client.is_some_and(|client| self.clients().has_part(client))
    }

    fn close(&self, among: Among) -> bool {
        let now_us = self.now_us();
        let firsts = self.cores.iter().filter_map(|core| {
            let (at, since_us, _) = self.first(&lock(core), among, now_us)?;
            Some((at, since_us, core))
        });
        let Some((.., core)) = firsts.min_by_key(|(at, since_us, _)| (*at, *since_us)) else {
            return false;
        };
        // It may be another by now, or have gone on; then the next who comes finds one.
        let mut list = lock(core);
        let Some((.., first)) = self.first(&list, among, now_us) else {
            return false;
        };
        let ends = match among {
            Among::Crowd(client) => Ends::Surely(client),
            Among::All | Among::Own(_) | Among::Slow => Ends::Perhaps,
        };
        let waker = list.tell(first, ends);
        if let Ends::Surely(client) = ends {
            self.clients().count_ending(client, 1);
        }
        drop(list);
        if let Some(waker) = waker {
            waker.wake();
        }
        true
    }

    /// The first one of a core to be closed: its kind's position in the order, since when, and its place.
    fn first(&self, list: &List, among: Among, now_us: u64) -> Option<(usize, u64, usize)> {
        let queues = match among.client() {
            None => &list.queues,
            Some(client) => &list.owners[*list.clients.get(&client)?].queues,
        };
        let mut order = among.order().iter().enumerate();
        order.find_map(|(at, (rank, whose))| {
            let first = queues[*rank as usize].first?;
            let since_us = list.places[first].since_us;
            let enough_us = match whose {
                Whose::Slow => self.slow_us,
                Whose::All => 0,
            };
            let may_close = now_us.saturating_sub(since_us) >= enough_us;
            may_close.then_some((at, since_us, first))
        })
    }

    /// Held for a few field accesses when a connection comes or goes.
    fn clients(&self) -> MutexGuard<'_, Clients> {
        lock(&self.clients)
    }

    fn now_us(&self) -> u64 {
        self.began.elapsed().as_micros() as u64
    }
}

/// Every change is completed by the one who begins it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The waiting connections of one core, or of one kind on it.
#[derive(Debug)]
pub(crate) struct Idle {
    cores: Arc<IdleCores>,
    core: usize,
}

impl Idle {
    /// The waiting connections of core number `core`.
    pub(crate) fn of_core(cores: Arc<IdleCores>, core: usize) -> Rc<Idle> {
        Rc::new(Idle { cores, core })
    }

    /// Connections that make room for nobody but each other.
    pub(crate) fn apart() -> Rc<Idle> {
        Idle::of_core(IdleCores::new(1, Duration::ZERO, usize::MAX), 0)
    }

    /// A connection of `client`.
    pub(crate) fn member(self: &Rc<Self>, client: Client) -> Member {
        if let Some(client) = client {
            self.cores.clients().enter(client);
        }
        let owner = client.map(|client| (client, self.list().enter_owner(client)));
        let idle = self.clone();
        Member { idle, owner }
    }

    /// A connection that counts for no client begins to wait.
    pub(crate) fn enter(self: &Rc<Self>, rank: Rank) -> Waiting {
        self.enter_for(None, rank)
    }

    fn enter_for(self: &Rc<Self>, owner: Option<usize>, rank: Rank) -> Waiting {
        let mut list = self.list();
        let place = list.free.pop().unwrap_or_else(|| {
            list.places.push(Place::NEW);
            list.places.len() - 1
        });
        list.places[place].ends = Ends::No;
        list.places[place].owner = owner;
        list.push(place, rank, self.cores.now_us());
        drop(list);
        let idle = self.clone();
        Waiting { idle, place }
    }

    /// Connections that wait, or have not yet ended as they were told.
    pub(crate) fn len(&self) -> usize {
        let list = self.list();
        list.places.len() - list.free.len()
    }

    /// Tells the first one to end, if there is one, as [`IdleCores::make_room`].
    pub(crate) fn close_oldest(&self) {
        self.cores.make_room(None);
    }

    fn list(&self) -> MutexGuard<'_, List> {
        lock(&self.cores.cores[self.core])
    }
}

/// A connection: it may wait again and again.
#[derive(Debug)]
pub(crate) struct Member {
    idle: Rc<Idle>,
    /// Whose it is, and where they are in the core's list.
    owner: Option<(IpAddr, usize)>,
}

impl Member {
    /// It begins to wait.
    pub(crate) fn enter(&self, rank: Rank) -> Waiting {
        let owner = self.owner.map(|(_, owner)| owner);
        self.idle.enter_for(owner, rank)
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if let Some((client, owner)) = self.owner {
            self.idle.list().leave_owner(client, owner);
            self.idle.cores.clients().leave(client);
        }
    }
}

/// A connection that waits; dropping it ends the waiting. It does not outlive its [`Member`].
#[derive(Debug)]
pub(crate) struct Waiting {
    idle: Rc<Idle>,
    place: usize,
}

impl Waiting {
    /// What it waits for.
    pub(crate) fn rank(&self) -> Rank {
        self.idle.list().places[self.place].rank
    }

    /// Whether it is to end whatever it does.
    pub(crate) fn must_end(&self) -> bool {
        matches!(self.idle.list().places[self.place].ends, Ends::Surely(_))
    }

    /// Counts as beginning to wait now.
    pub(crate) fn renew(&self) {
        let mut list = self.idle.list();
        let place = &list.places[self.place];
        if place.ends == Ends::No {
            let rank = place.rank;
            self.relink(&mut list, rank);
        }
    }

    /// Its client has ended its sending side.
    pub(crate) fn desert(&self) {
        let mut list = self.idle.list();
        let place = &list.places[self.place];
        if place.ends == Ends::No && place.rank != Rank::Deserted {
            self.relink(&mut list, Rank::Deserted);
        }
    }

    /// Waits for something else from now on, or for what it was told to end for and need not: it stays,
    /// unless it must end.
    pub(crate) fn turn_to(&self, rank: Rank) {
        self.relink(&mut self.idle.list(), rank);
    }

    fn relink(&self, list: &mut List, rank: Rank) {
        let place = &mut list.places[self.place];
        match place.ends {
            Ends::Surely(_) => return,
            Ends::Perhaps => place.ends = Ends::No,
            Ends::No => list.unlink(self.place),
        }
        list.push(self.place, rank, self.idle.cores.now_us());
    }

    /// Ready when the connection is to end.
    pub(crate) async fn closed(&self) {
        poll_fn(|context| {
            let place = &mut self.idle.list().places[self.place];
            if place.ends != Ends::No {
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
        let mut list = self.idle.list();
        let ends = list.places[self.place].ends;
        if ends == Ends::No {
            list.unlink(self.place);
        }
        list.places[self.place].waker = None;
        list.free.push(self.place);
        drop(list);
        if let Ends::Surely(client) = ends {
            self.idle.cores.clients().count_ending(client, -1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use std::task::{Context, Waker};

    const SLOW: Duration = Duration::from_millis(50);

    fn is_closed(waiting: &Waiting) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        pin!(waiting.closed()).poll(&mut context).is_ready()
    }

    #[test]
    fn the_longest_waiting_is_closed_first() {
        let idle = Idle::apart();
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
        assert_eq!(idle.len(), 0);
        let again = idle.enter(Rank::Request);
        assert!(!is_closed(&again), "the place's last one was");
        assert_eq!(idle.list().places.len(), 5);
    }

    #[test]
    fn who_may_have_left_is_closed_before_who_waits_for_an_answer() {
        let cores = IdleCores::new(2, SLOW, 8);
        let idle = [0, 1].map(|core| Idle::of_core(cores.clone(), core));
        let answer = idle[0].enter(Rank::Answer);
        let deserted = idle[1].enter(Rank::Answer);
        deserted.desert();
        let since_us = || idle[1].list().places[deserted.place].since_us;
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
            assert!(cores.make_room(None));
            assert_eq!([&request, &deserted, &answer].map(is_closed), expected);
        }
        assert!(!cores.make_room(None));
    }

    #[test]
    fn who_takes_its_response_is_closed_only_when_slow() {
        let cores = IdleCores::new(2, SLOW, 8);
        let idle = [0, 1].map(|core| Idle::of_core(cores.clone(), core));
        let slow = idle[1].enter(Rank::Taking);
        let more = idle[0].enter(Rank::More);
        assert!(!cores.make_room(None), "it has had no time");
        std::thread::sleep(SLOW);
        let fast = idle[1].enter(Rank::Taking);
        let answer = idle[0].enter(Rank::Answer);
        assert!(cores.make_room(None));
        let all = [&slow, &fast, &more, &answer];
        assert_eq!(all.map(is_closed), [true, false, false, false]);
        assert!(cores.make_room(None));
        assert_eq!(all.map(is_closed), [true, false, false, true]);
        assert!(!cores.make_room(None));
        // It turned out to have taken enough.
        slow.turn_to(Rank::Taking);
        assert!(!is_closed(&slow) && !cores.make_room(None));
        std::thread::sleep(SLOW);
        fast.renew();
        assert!(cores.make_room(None));
        assert_eq!(all.map(is_closed), [true, false, false, true]);
        // What it waits for now is not its client's to hasten.
        slow.turn_to(Rank::More);
        assert!(!is_closed(&slow) && !cores.make_room(None));
    }

    #[test]
    fn the_core_of_the_longest_waiting_is_asked() {
        let cores = IdleCores::new(2, SLOW, 8);
        assert!(!cores.make_room(None), "there is none");
        let idle = [0, 1].map(|core| Idle::of_core(cores.clone(), core));
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
            assert!(cores.make_room(None));
            assert_eq!([&first, &second, &third].map(is_closed), expected);
        }
        assert!(!cores.make_room(None));
    }

    fn client(last: u8) -> Client {
        Some(IpAddr::from([10, 0, 0, last]))
    }

    /// Of eight places a client may have two: who has more gives way, by how little it loses.
    #[test]
    fn who_has_more_than_its_part_gives_way_first() {
        let cores = IdleCores::new(2, SLOW, 8);
        let idle = [0, 1].map(|core| Idle::of_core(cores.clone(), core));
        let members: Vec<Member> = (0..6).map(|n| idle[n % 2].member(client(1))).collect();
        let ranks = [
            Rank::More,
            Rank::Taking,
            Rank::Answer,
            Rank::Request,
            Rank::Deserted,
            Rank::More,
        ];
        let crowd: Vec<Waiting> = members.iter().zip(ranks).map(|(m, r)| m.enter(r)).collect();
        let other = idle[0].member(client(2));
        let (answer, uncounted) = (other.enter(Rank::Answer), idle[1].enter(Rank::Request));
        let closed = || crowd.iter().map(is_closed).collect::<Vec<_>>();
        let mut expected = [false; 6];
        for next in [3, 4, 2, 1] {
            assert!(cores.make_room(client(3)));
            expected[next] = true;
            assert_eq!(closed(), expected);
        }
        // Its part is left to it: from here on all are alike.
        assert!(cores.make_room(client(3)) && is_closed(&uncounted));
        assert!(cores.make_room(client(3)) && is_closed(&answer));
        assert!(!cores.make_room(client(3)), "what is left is not closed");
        assert_eq!(closed(), expected);
        crowd[1].turn_to(Rank::Taking);
        assert!(is_closed(&crowd[1]) && crowd[1].must_end());
        drop((crowd, members));
        assert!(!cores.clients().counts.contains_key(&client(1).unwrap()));
        assert!(cores.clients().over.is_empty() && idle[0].list().clients.len() == 1);
    }

    /// Nobody makes room for a client that has its part already, but its own connections that would make
    /// room for anybody.
    #[test]
    fn who_has_its_part_makes_room_for_itself() {
        let cores = IdleCores::new(1, SLOW, 8);
        let idle = Idle::of_core(cores.clone(), 0);
        let other = idle.member(client(2));
        let (others_answer, others_request) =
            (other.enter(Rank::Answer), other.enter(Rank::Request));
        let members: Vec<Member> = (0..8).map(|_| idle.member(client(1))).collect();
        let answer = members[0].enter(Rank::Answer);
        let _taking: Vec<Waiting> = members[1..].iter().map(|m| m.enter(Rank::Taking)).collect();
        assert!(cores.make_room(client(1)) && is_closed(&answer));
        assert!(!cores.make_room(client(1)), "all take enough");
        answer.turn_to(Rank::Answer);
        assert!(!is_closed(&answer), "it got what it waited for");
        assert!(
            ![&others_answer, &others_request]
                .map(is_closed)
                .contains(&true)
        );
    }
}
