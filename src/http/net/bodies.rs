//! Memory for request bodies: one budget for all that the process holds, in whatever form: what has
//! arrived, what was decoded from it, files in memory that `git` reads.
//!
//! Counted is what is there, not what a client announces. The larger a body is, the less of the
//! budget is open to it, so that small ones, as nearly all are, find room whatever the large ones do.
//! Who finds none waits, in the order of asking among those of about the same size. While somebody
//! waits, bodies that come slower than [`BODY_SLOW_BYTES`] a second lose their place.
//!
//! One client's address has [a part](BODIES_OF_CLIENT_BYTES_MAX) of it for all its requests together, so
//! that they never shut out another's. One of them at a time may take more, as long as it leaves as much
//! free: a request can be larger than that part.

use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use super::client::Client;
use crate::limits::{
    BODIES_OF_CLIENT_BYTES_MAX, BODY_LOOK_MS, BODY_SLOW_BYTES, BODY_SLOW_MS, BODY_TIERS,
};

/// The budget. See the module's text.
#[derive(Debug, Default)]
pub(crate) struct Bodies {
    book: Mutex<Book>,
}

/// Invariants: `used_bytes` is the sum over `places`, and what `clients` have that over theirs;
/// `ending_bytes` is that over those that have ended; a place wants something exactly while it is in one
/// of the queues.
#[derive(Debug, Default)]
struct Book {
    used_bytes: u64,
    ending_bytes: u64,
    places: HashMap<u64, Place>,
    /// Those that have something.
    clients: HashMap<IpAddr, OfClient>,
    next: u64,
    /// Who waits, by tier.
    queues: [VecDeque<u64>; BODY_TIERS.len()],
    looked: Option<Instant>,
}

/// What one client's address has.
#[derive(Debug, Default)]
struct OfClient {
    bytes: u64,
    /// The request that may have more than the client's part.
    over: Option<u64>,
}

/// Whose a place is.
#[derive(Debug, Clone, Copy)]
struct Owner {
    client: Client,
    /// The request: the number of its first place.
    request: u64,
}

/// Whether there is room for a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Room {
    Free,
    /// Not for this client.
    OfClientFull,
    Full,
}

#[derive(Debug)]
struct Place {
    owner: Owner,
    bytes: u64,
    wanted_bytes: u64,
    life: Life,
    waker: Option<Waker>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    /// The client is sending it; since then it has sent less than [`BODY_SLOW_BYTES`].
    Arriving(Instant),
    /// It was too slow and is to end.
    Ended,
    /// All of it is there.
    Whole,
}

/// The body has lost its place: it came too slowly while others waited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lost;

/// Which tier a body of so many bytes is in.
fn tier(bytes: u64) -> usize {
    let fits = BODY_TIERS.iter().position(|(size, _)| bytes <= *size);
    fits.unwrap_or(BODY_TIERS.len() - 1)
}

impl Book {
    /// Whether there is room for `more` bytes of the place `id`.
    fn room(&self, id: u64, more: u64) -> Room {
        let Some(place) = self.places.get(&id) else {
            return Room::Free;
        };
        let (_, limit) = BODY_TIERS[tier(place.bytes + more)];
        let used = self.used_bytes + more;
        if used > limit {
            return Room::Full;
        }
        let of_client = place.owner.client.and_then(|c| self.clients.get(&c));
        let (bytes, over) = of_client.map_or((0, None), |of| (of.bytes, of.over));
        let is_within = place.owner.client.is_none() || bytes + more <= BODIES_OF_CLIENT_BYTES_MAX;
        let may_be_over = over.is_none_or(|over| over == place.owner.request);
        match is_within || (may_be_over && used + BODIES_OF_CLIENT_BYTES_MAX <= limit) {
            true => Room::Free,
            false => Room::OfClientFull,
        }
    }

    /// Gives room to who waits, as far as there is some.
    fn grant(&mut self) {
        for tier in 0..BODY_TIERS.len() {
            let mut at = 0;
            while let Some(&id) = self.queues[tier].get(at) {
                let wanted = self.places.get(&id).map_or(0, |place| place.wanted_bytes);
                match self.room(id, wanted) {
                    Room::Full => break,
                    // Those behind it may be of others.
                    Room::OfClientFull => at += 1,
                    Room::Free => {
                        self.queues[tier].remove(at);
                        self.take(id, wanted);
                    }
                }
            }
        }
    }

    /// Counts `more` bytes for a place; its clock begins anew, as it could not go on before.
    fn take(&mut self, id: u64, more: u64) {
        let Some(place) = self.places.get_mut(&id) else {
            return;
        };
        self.used_bytes += more;
        place.bytes += more;
        if let Some(client) = place.owner.client {
            let of_client = self.clients.entry(client).or_default();
            of_client.bytes += more;
            if of_client.bytes > BODIES_OF_CLIENT_BYTES_MAX {
                of_client.over = Some(place.owner.request);
            }
        }
        let waited = std::mem::take(&mut place.wanted_bytes) > 0;
        if let (true, Life::Arriving(since)) = (waited, &mut place.life) {
            *since = Instant::now();
        }
        if let (true, Some(waker)) = (waited, place.waker.take()) {
            waker.wake();
        }
    }

    /// Ends slow bodies, the longest slow first, until all that is waited for has room. Those that wait
    /// for others of their own client are helped by no other.
    fn end_slow(&mut self, now: Instant) {
        let look = Duration::from_millis(BODY_LOOK_MS);
        let is_early = |looked| now.duration_since(looked) < look;
        if self.queues.iter().all(VecDeque::is_empty) || self.looked.is_some_and(is_early) {
            return;
        }
        self.looked = Some(now);
        let (mut short, mut short_of) = self.shortage();
        let slow = Duration::from_millis(BODY_SLOW_MS);
        let is_slow = |(id, place): (&u64, &Place)| match place.life {
            Life::Arriving(since)
                if place.wanted_bytes == 0 && place.bytes > 0 && now - since >= slow =>
            {
                Some((since, *id))
            }
            _ => None,
        };
        let mut slow: Vec<(Instant, u64)> = self.places.iter().filter_map(is_slow).collect();
        slow.sort_unstable();
        for (_, id) in slow {
            let Some(place) = self.places.get_mut(&id) else {
                continue;
            };
            let mut none = 0;
            let client = place.owner.client;
            let of_client = client.and_then(|client| short_of.get_mut(&client));
            let of_client = of_client.unwrap_or(&mut none);
            if short == 0 && *of_client == 0 {
                continue;
            }
            place.life = Life::Ended;
            short = short.saturating_sub(place.bytes);
            *of_client = of_client.saturating_sub(place.bytes);
            self.ending_bytes += place.bytes;
            if let Some(waker) = place.waker.take() {
                waker.wake();
            }
        }
    }

    /// How many bytes more there would have to be for all that is waited for: of all, and of those
    /// clients that have all they may.
    fn shortage(&self) -> (u64, HashMap<IpAddr, u64>) {
        let mut wanted = 0;
        let mut largest = None;
        let mut of_clients: HashMap<IpAddr, u64> = HashMap::new();
        for (tier, queue) in self.queues.iter().enumerate() {
            for id in queue {
                let Some(place) = self.places.get(id) else {
                    continue;
                };
                match (self.room(*id, place.wanted_bytes), place.owner.client) {
                    (Room::OfClientFull, Some(client)) => {
                        *of_clients.entry(client).or_default() += place.wanted_bytes;
                    }
                    _ => {
                        wanted += place.wanted_bytes;
                        largest = Some(tier);
                    }
                }
            }
        }
        let all = self.used_bytes - self.ending_bytes + wanted;
        let short = largest.map_or(0, |tier| all.saturating_sub(BODY_TIERS[tier].1));
        if !of_clients.is_empty() {
            self.count_ending(&mut of_clients);
        }
        (short, of_clients)
    }

    /// Takes off what clients get back from those that end already.
    fn count_ending(&self, of_clients: &mut HashMap<IpAddr, u64>) {
        for place in self.places.values().filter(|p| p.life == Life::Ended) {
            let client = place.owner.client;
            if let Some(short) = client.and_then(|client| of_clients.get_mut(&client)) {
                *short = short.saturating_sub(place.bytes);
            }
        }
    }

    fn remove(&mut self, id: u64) {
        if let Some(place) = self.places.remove(&id) {
            self.used_bytes -= place.bytes;
            if place.life == Life::Ended {
                self.ending_bytes -= place.bytes;
            }
            if place.wanted_bytes > 0 {
                self.forget(id, place.bytes + place.wanted_bytes);
            }
            self.remove_of_client(&place);
        }
        self.grant();
    }

    fn remove_of_client(&mut self, place: &Place) {
        let Owner { client, request } = place.owner;
        let Some(of_client) = client.and_then(|client| self.clients.get_mut(&client)) else {
            return;
        };
        of_client.bytes -= place.bytes;
        if of_client.over == Some(request) {
            let is_over = self.places.values().any(|p| p.owner.request == request);
            of_client.over = of_client.over.filter(|_| is_over);
        }
        if let (0, Some(client)) = (of_client.bytes, client) {
            self.clients.remove(&client);
        }
    }

    fn forget(&mut self, id: u64, size: u64) {
        self.queues[tier(size)].retain(|other| *other != id);
    }
}

impl Bodies {
    /// An empty budget.
    pub(crate) fn new() -> Arc<Bodies> {
        Arc::default()
    }

    /// Bytes of bodies that are held now.
    pub(crate) fn used_bytes(&self) -> u64 {
        self.book().used_bytes
    }

    /// A body that a client is about to send.
    pub(crate) fn arriving(self: &Arc<Self>, client: Client) -> Share {
        self.enter(client, None, Life::Arriving(Instant::now()))
    }

    /// Something that is all there, of no client.
    pub(super) fn whole(self: &Arc<Self>) -> Share {
        self.enter(None, None, Life::Whole)
    }

    /// Ends bodies that come too slowly, if others wait.
    pub(crate) fn end_slow(&self) {
        self.book().end_slow(Instant::now());
    }

    fn enter(self: &Arc<Self>, client: Client, request: Option<u64>, life: Life) -> Share {
        let mut book = self.book();
        let id = book.next;
        book.next += 1;
        let request = request.unwrap_or(id);
        let place = Place {
            owner: Owner { client, request },
            bytes: 0,
            wanted_bytes: 0,
            life,
            waker: None,
        };
        book.places.insert(id, place);
        drop(book);
        Share {
            bodies: self.clone(),
            id,
            unmarked_bytes: 0,
        }
    }

    /// Held for a few field accesses, and by whoever looks for slow bodies for the time that takes:
    /// a pass over them.
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A part of the budget; dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Share {
    bodies: Arc<Bodies>,
    id: u64,
    /// Arrived since the clock of slowness began.
    unmarked_bytes: u64,
}

impl Share {
    /// Something that is made of what has this share, as a part of the same request.
    pub(super) fn made(&self) -> Share {
        let Owner { client, request } = self.with(|place| place.owner);
        self.bodies.enter(client, Some(request), Life::Whole)
    }

    /// Waits for room for so many more bytes. A claim that is dropped is none.
    pub(crate) async fn claim(&mut self, bytes: u64) -> Result<(), Lost> {
        let claim = Claim { share: self };
        let mut asked = false;
        poll_fn(|context| claim.poll(bytes, &mut asked, context)).await
    }

    /// Notes what has arrived; true whenever that was a part that no slow body brings in its time.
    pub(crate) fn arrived(&mut self, bytes: u64) -> bool {
        self.unmarked_bytes += bytes;
        if self.unmarked_bytes < BODY_SLOW_BYTES {
            return false;
        }
        self.unmarked_bytes = 0;
        self.with(|place| {
            if let Life::Arriving(since) = &mut place.life {
                *since = Instant::now();
            }
        });
        true
    }

    /// All of the body is there: it cannot be slow any more.
    pub(crate) fn is_whole(&mut self) -> Result<(), Lost> {
        self.with(|place| match place.life {
            Life::Ended => Err(Lost),
            _ => {
                place.life = Life::Whole;
                Ok(())
            }
        })
    }

    /// Ready when the body has lost its place.
    pub(crate) async fn lost(&self) {
        poll_fn(|context| {
            self.with(|place| match place.life {
                Life::Ended => Poll::Ready(()),
                _ => {
                    place.waker = Some(context.waker().clone());
                    Poll::Pending
                }
            })
        })
        .await;
    }

    fn with<T>(&self, with: impl FnOnce(&mut Place) -> T) -> T {
        let mut book = self.bodies.book();
        let place = book.places.get_mut(&self.id);
        with(place.expect("a share's place is there as long as the share"))
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.bodies.book().remove(self.id);
    }
}

/// A share that may stand in a queue; it leaves that when the claim is dropped.
struct Claim<'s> {
    share: &'s mut Share,
}

impl Claim<'_> {
    fn poll(&self, bytes: u64, asked: &mut bool, context: &Context<'_>) -> Poll<Result<(), Lost>> {
        let id = self.share.id;
        let mut book = self.share.bodies.book();
        let Some(place) = book.places.get_mut(&id) else {
            return Poll::Ready(Err(Lost));
        };
        if place.life == Life::Ended {
            return Poll::Ready(Err(Lost));
        }
        if !std::mem::replace(asked, true) && bytes > 0 {
            place.waker = None;
            place.wanted_bytes = bytes;
            let queue = tier(place.bytes + bytes);
            book.queues[queue].push_back(id);
            book.grant();
            book.end_slow(Instant::now());
        }
        let Some(place) = book.places.get_mut(&id).filter(|p| p.wanted_bytes > 0) else {
            return Poll::Ready(Ok(()));
        };
        place.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut book = self.share.bodies.book();
        let id = self.share.id;
        let Some(place) = book.places.get_mut(&id) else {
            return;
        };
        let wanted = std::mem::take(&mut place.wanted_bytes);
        if wanted > 0 {
            let size = place.bytes + wanted;
            book.forget(id, size);
            // Who stood behind it may fit.
            book.grant();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;

    fn now<F: Future>(future: F) -> Option<F::Output> {
        let mut context = Context::from_waker(Waker::noop());
        match pin!(future).poll(&mut context) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        }
    }

    fn made(bodies: &Arc<Bodies>) -> Share {
        bodies.enter(None, None, Life::Whole)
    }

    fn later(bodies: &Bodies, ms: u64) {
        let mut book = bodies.book();
        book.looked = None;
        book.end_slow(Instant::now() + Duration::from_millis(ms));
    }

    fn is_lost(share: &Share) -> bool {
        now(share.lost()).is_some()
    }

    #[test]
    fn the_larger_a_body_the_less_is_open_to_it() {
        let bodies = Bodies::new();
        for (size, limit) in BODY_TIERS {
            let mut shares = Vec::new();
            let step = size.min(1 << 20);
            let mut held = bodies.used_bytes();
            while held + size <= limit {
                let mut share = made(&bodies);
                let mut claimed = 0;
                while claimed < size {
                    assert_eq!(now(share.claim(step)), Some(Ok(())), "{held} of {limit}");
                    claimed += step;
                }
                held += size;
                shares.push(share);
            }
            assert_eq!(now(made(&bodies).claim(size)), None);
            drop(shares);
        }
        assert_eq!(bodies.used_bytes(), 0);
    }

    #[test]
    fn who_waits_is_served_in_order_and_may_leave() {
        let bodies = Bodies::new();
        let size = BODY_TIERS[3].1;
        let mut first = made(&bodies);
        assert_eq!(now(first.claim(size)), Some(Ok(())));
        let mut shares = [made(&bodies), made(&bodies), made(&bodies)];
        let [a, b, c] = &mut shares;
        let mut context = Context::from_waker(Waker::noop());
        let (mut b, mut c) = (Box::pin(b.claim(size)), Box::pin(c.claim(size)));
        {
            let mut a = Box::pin(a.claim(size));
            for claim in [&mut a, &mut b, &mut c] {
                assert!(claim.as_mut().poll(&mut context).is_pending());
            }
            // A small one finds room all the same.
            assert_eq!(now(made(&bodies).claim(100)), Some(Ok(())));
        }
        drop(first);
        assert!(
            c.as_mut().poll(&mut context).is_pending(),
            "before its turn"
        );
        assert!(b.as_mut().poll(&mut context).is_ready());
        drop((b, c));
        drop(shares);
        assert_eq!(bodies.used_bytes(), 0);
        assert!(bodies.book().queues.iter().all(VecDeque::is_empty));
    }

    #[test]
    fn slow_bodies_lose_their_place_when_others_wait() {
        let bodies = Bodies::new();
        let half = BODY_TIERS[3].1 / 2;
        let (mut slow, mut whole) = (bodies.arriving(None), bodies.arriving(None));
        assert_eq!(now(slow.claim(half)), Some(Ok(())));
        assert_eq!(now(whole.claim(half)), Some(Ok(())));
        assert_eq!(whole.is_whole(), Ok(()));
        let empty = bodies.arriving(None);
        later(&bodies, BODY_SLOW_MS);
        assert!(!is_lost(&slow), "nobody waits");
        let mut new = bodies.arriving(None);
        {
            let mut claim = Box::pin(new.claim(half));
            let mut context = Context::from_waker(Waker::noop());
            assert!(claim.as_mut().poll(&mut context).is_pending());
            later(&bodies, BODY_SLOW_MS / 2);
            assert!(!is_lost(&slow), "it has had no time");
            later(&bodies, BODY_SLOW_MS);
            assert!(is_lost(&slow) && !is_lost(&whole) && !is_lost(&empty));
            assert_eq!(slow.is_whole(), Err(Lost));
            assert!(claim.as_mut().poll(&mut context).is_pending());
            drop(slow);
            assert_eq!(now(claim.as_mut()), Some(Ok(())));
        }
        assert_eq!(bodies.used_bytes(), 2 * half);
    }

    #[test]
    fn a_body_that_keeps_its_pace_stays() {
        let bodies = Bodies::new();
        let mut share = bodies.arriving(None);
        assert_eq!(now(share.claim(BODY_TIERS[3].1)), Some(Ok(())));
        assert!(!share.arrived(BODY_SLOW_BYTES - 1));
        let slow = Duration::from_millis(BODY_SLOW_MS);
        share.with(|place| place.life = Life::Arriving(Instant::now() - slow));
        assert!(share.arrived(1));
        let mut new = bodies.arriving(None);
        let mut claim = Box::pin(new.claim(1 << 20));
        let mut context = Context::from_waker(Waker::noop());
        assert!(claim.as_mut().poll(&mut context).is_pending());
        later(&bodies, 0);
        assert!(!is_lost(&share));
    }

    const QUARTER: u64 = BODIES_OF_CLIENT_BYTES_MAX;

    /// One of a client, which is a number.
    fn of(bodies: &Arc<Bodies>, client: u8) -> Share {
        bodies.arriving(Some([10, 0, 0, client].into()))
    }

    #[test]
    fn a_client_has_a_part_and_one_larger_request() {
        let bodies = Bodies::new();
        let (mut a, mut b, mut c) = (of(&bodies, 1), of(&bodies, 1), of(&bodies, 1));
        assert_eq!(now(a.claim(QUARTER)), Some(Ok(())));
        assert_eq!(now(b.claim(100)), Some(Ok(())), "one may go over it");
        assert_eq!(now(c.claim(100)), None, "another one of them may not");
        assert_eq!(now(a.claim(100)), None);
        assert_eq!(now(b.claim(1 << 20)), Some(Ok(())));
        let mut made = b.made();
        assert_eq!(
            now(made.claim(1 << 20)),
            Some(Ok(())),
            "it is the same request"
        );
        // It leaves a part for others.
        let left = BODY_TIERS[3].1 - bodies.used_bytes();
        assert_eq!(now(made.claim(left - QUARTER + 1)), None);
        assert_eq!(now(made.claim(left - QUARTER)), Some(Ok(())));
        drop(b);
        assert_eq!(now(c.claim(100)), None, "something of the request is there");
        let mut other = of(&bodies, 2);
        assert_eq!(now(other.claim(QUARTER)), Some(Ok(())));
        drop((made, other));
        assert_eq!(now(c.claim(100)), Some(Ok(())));
        drop((a, c));
        assert_eq!(bodies.used_bytes(), 0);
        assert!(bodies.book().clients.is_empty());
    }

    #[test]
    fn who_waits_for_its_own_client_holds_up_no_other() {
        let bodies = Bodies::new();
        let mut shares: Vec<Share> = (0..4).map(|_| of(&bodies, 1)).collect();
        for share in &mut shares[..2] {
            assert_eq!(now(share.claim(QUARTER / 2)), Some(Ok(())));
        }
        let [a, b, c, d] = &mut shares[..] else {
            unreachable!()
        };
        assert_eq!(now(a.claim(100)), Some(Ok(())));
        assert_eq!(c.is_whole(), Ok(()));
        let mut others = of(&bodies, 2);
        assert_eq!(now(others.claim(QUARTER)), Some(Ok(())));
        let mut waits = Box::pin(d.claim(1 << 20));
        let mut context = Context::from_waker(Waker::noop());
        assert!(waits.as_mut().poll(&mut context).is_pending());
        let mut third = of(&bodies, 3);
        assert_eq!(now(third.claim(1 << 20)), Some(Ok(())), "it stands behind");
        later(&bodies, BODY_SLOW_MS);
        assert!(!is_lost(&others), "its end would help nobody");
        assert!(is_lost(a) || is_lost(b), "its own client's are slow");
    }
}
