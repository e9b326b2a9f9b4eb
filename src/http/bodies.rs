//! Memory for request bodies: one budget for all that the process holds, in whatever form: what has
//! arrived, what was decoded from it, files in memory that `git` reads.
//!
//! Counted is what is there, not what a client announces. The larger a body is, the less of the
//! budget is open to it, so that small ones, as nearly all are, find room whatever the large ones do.
//! Who finds none waits, in the order of asking among those of about the same size. While somebody
//! waits, bodies that come slower than [`BODY_SLOW_BYTES`] a second lose their place.

use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use crate::limits::{
    BODY_FIRST_BYTES, BODY_GROWTH, BODY_LOOK_MS, BODY_PIECE_BYTES, BODY_SLOW_BYTES, BODY_SLOW_MS,
    BODY_TIERS,
};

/// The budget. See the module's text.
#[derive(Debug, Default)]
pub struct Bodies {
    book: Mutex<Book>,
}

/// Invariants: `used_bytes` is the sum over `places`; `ending_bytes` that over those that have
/// ended; a place wants something exactly while it is in one of the queues.
#[derive(Debug, Default)]
struct Book {
    used_bytes: u64,
    ending_bytes: u64,
    places: HashMap<u64, Place>,
    next: u64,
    /// Who waits, by tier.
    queues: [VecDeque<u64>; BODY_TIERS.len()],
    looked: Option<Instant>,
}

#[derive(Debug)]
struct Place {
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
pub struct Lost;

/// Which tier a body of so many bytes is in.
fn tier(bytes: u64) -> usize {
    let fits = BODY_TIERS.iter().position(|(size, _)| bytes <= *size);
    fits.unwrap_or(BODY_TIERS.len() - 1)
}

impl Book {
    fn fits(&self, held: u64, more: u64) -> bool {
        let (_, limit) = BODY_TIERS[tier(held + more)];
        self.used_bytes + more <= limit
    }

    /// Gives room to who waits, as far as there is some.
    fn grant(&mut self) {
        for tier in 0..BODY_TIERS.len() {
            while let Some(first) = self.queues[tier].front().copied() {
                let Some(place) = self.places.get(&first) else {
                    self.queues[tier].pop_front();
                    continue;
                };
                let (held, wanted) = (place.bytes, place.wanted_bytes);
                if !self.fits(held, wanted) {
                    break;
                }
                self.queues[tier].pop_front();
                self.take(first, wanted);
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
        let waited = std::mem::take(&mut place.wanted_bytes) > 0;
        if let (true, Life::Arriving(since)) = (waited, &mut place.life) {
            *since = Instant::now();
        }
        if let (true, Some(waker)) = (waited, place.waker.take()) {
            waker.wake();
        }
    }

    /// Ends slow bodies, the longest slow first, until all that is waited for has room.
    fn end_slow(&mut self, now: Instant) {
        let Some(tier) = (0..BODY_TIERS.len())
            .rev()
            .find(|t| !self.queues[*t].is_empty())
        else {
            return;
        };
        let look = Duration::from_millis(BODY_LOOK_MS);
        if self
            .looked
            .is_some_and(|looked| now.duration_since(looked) < look)
        {
            return;
        }
        self.looked = Some(now);
        let waiting = self.queues.iter().flatten();
        let wanted = waiting.filter_map(|id| self.places.get(id));
        let wanted: u64 = wanted.map(|place| place.wanted_bytes).sum();
        let all = self.used_bytes - self.ending_bytes + wanted;
        let mut short = all.saturating_sub(BODY_TIERS[tier].1);
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
            let Some(place) = self.places.get_mut(&id).filter(|_| short > 0) else {
                return;
            };
            place.life = Life::Ended;
            short = short.saturating_sub(place.bytes);
            self.ending_bytes += place.bytes;
            if let Some(waker) = place.waker.take() {
                waker.wake();
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
        }
        self.grant();
    }

    fn forget(&mut self, id: u64, size: u64) {
        self.queues[tier(size)].retain(|other| *other != id);
    }
}

impl Bodies {
    /// An empty budget.
    pub fn new() -> Arc<Bodies> {
        Arc::default()
    }

    /// Bytes of bodies that are held now.
    pub fn used_bytes(&self) -> u64 {
        self.book().used_bytes
    }

    /// A body that a client is about to send.
    pub fn arriving(self: &Arc<Self>) -> Share {
        self.enter(Life::Arriving(Instant::now()))
    }

    /// Something that is made of a body.
    pub fn made(self: &Arc<Self>) -> Share {
        self.enter(Life::Whole)
    }

    /// Ends bodies that come too slowly, if others wait.
    pub fn end_slow(&self) {
        self.book().end_slow(Instant::now());
    }

    fn enter(self: &Arc<Self>, life: Life) -> Share {
        let mut book = self.book();
        let id = book.next;
        book.next += 1;
        let place = Place {
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

/// The body of a request, as it was sent but for its framing.
#[derive(Debug, Default)]
pub struct Body {
    /// None of them ever grows: nothing is copied, and the allocator has few sizes to deal with, so
    /// that what is counted is what is taken.
    pieces: Vec<Vec<u8>>,
    len_bytes: u64,
    /// Room that was claimed.
    room_bytes: u64,
    /// `None` for a request without a body.
    share: Option<Share>,
}

impl Body {
    /// One of which nothing has come.
    pub fn arriving(bodies: &Arc<Bodies>) -> Body {
        Body {
            share: Some(bodies.arriving()),
            ..Body::default()
        }
    }

    /// What has come of it.
    pub fn pieces(&self) -> &[Vec<u8>] {
        &self.pieces
    }

    /// How much has come of it.
    pub fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// Waits for some room, unless there is some or the body has `most` bytes already.
    pub(super) async fn room(&mut self, most: u64) -> Result<(), Lost> {
        let Some(share) = &mut self.share else {
            return Ok(());
        };
        let had = self.room_bytes;
        if self.len_bytes < had || self.len_bytes >= most {
            return Ok(());
        }
        let ahead = (had * BODY_GROWTH).clamp(BODY_FIRST_BYTES, had + BODY_PIECE_BYTES);
        let piece = ahead.min(most) - had;
        share.claim(piece).await?;
        self.room_bytes += piece;
        self.pieces.push(Vec::with_capacity(piece as usize));
        Ok(())
    }

    /// Appends what `decode` makes of the next bytes of `input`, as many as there is
    /// [room](Body::room) for.
    pub(super) fn append<T>(
        &mut self,
        input: &[u8],
        most: u64,
        decode: impl FnOnce(&[u8], &mut Vec<u8>) -> T,
    ) -> T {
        // Of a body that has all it may have, only framing follows.
        let free = match self.len_bytes >= most {
            true => input.len(),
            false => (self.room_bytes - self.len_bytes) as usize,
        };
        let mut nothing = Vec::new();
        let out = self.pieces.last_mut().unwrap_or(&mut nothing);
        let had = out.len();
        let done = decode(&input[..free.min(input.len())], out);
        self.len_bytes += (out.len() - had) as u64;
        done
    }

    /// As [`Share::arrived`].
    pub(super) fn arrived(&mut self, bytes: u64) -> bool {
        let share = self.share.as_mut();
        share.is_some_and(|share| share.arrived(bytes))
    }

    /// As [`Share::is_whole`].
    pub(super) fn is_whole(&mut self) -> Result<(), Lost> {
        self.share.as_mut().map_or(Ok(()), Share::is_whole)
    }

    /// As [`Share::lost`].
    pub(super) async fn lost(&self) {
        match &self.share {
            Some(share) => share.lost().await,
            None => std::future::pending().await,
        }
    }
}

/// A part of the budget; dropping it gives it back.
#[derive(Debug)]
pub struct Share {
    bodies: Arc<Bodies>,
    id: u64,
    /// Arrived since the clock of slowness began.
    unmarked_bytes: u64,
}

impl Share {
    /// Waits for room for so many more bytes. A claim that is dropped is none.
    pub async fn claim(&mut self, bytes: u64) -> Result<(), Lost> {
        let claim = Claim { share: self };
        let mut asked = false;
        poll_fn(|context| claim.poll(bytes, &mut asked, context)).await
    }

    /// Notes what has arrived; true whenever that was a part that no slow body brings in its time.
    pub fn arrived(&mut self, bytes: u64) -> bool {
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
    pub fn is_whole(&mut self) -> Result<(), Lost> {
        self.with(|place| match place.life {
            Life::Ended => Err(Lost),
            _ => {
                place.life = Life::Whole;
                Ok(())
            }
        })
    }

    /// Ready when the body has lost its place.
    pub async fn lost(&self) {
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
        let held = book.places.get(&id).map_or(0, |place| place.bytes);
        let queue = tier(held + bytes);
        let is_room = book.queues[queue].is_empty() && book.fits(held, bytes);
        let Some(place) = book.places.get_mut(&id) else {
            return Poll::Ready(Err(Lost));
        };
        if place.life == Life::Ended {
            return Poll::Ready(Err(Lost));
        }
        if std::mem::replace(asked, true) {
            place.waker = Some(context.waker().clone());
            return match place.wanted_bytes {
                0 => Poll::Ready(Ok(())),
                _ => Poll::Pending,
            };
        }
        if bytes == 0 || is_room {
            book.take(id, bytes);
            return Poll::Ready(Ok(()));
        }
        place.wanted_bytes = bytes;
        place.waker = Some(context.waker().clone());
        book.queues[queue].push_back(id);
        book.end_slow(Instant::now());
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
                let mut share = bodies.made();
                let mut claimed = 0;
                while claimed < size {
                    assert_eq!(now(share.claim(step)), Some(Ok(())), "{held} of {limit}");
                    claimed += step;
                }
                held += size;
                shares.push(share);
            }
            assert_eq!(now(bodies.made().claim(size)), None);
            drop(shares);
        }
        assert_eq!(bodies.used_bytes(), 0);
    }

    #[test]
    fn who_waits_is_served_in_order_and_may_leave() {
        let bodies = Bodies::new();
        let size = BODY_TIERS[3].1;
        let mut first = bodies.made();
        assert_eq!(now(first.claim(size)), Some(Ok(())));
        let mut shares = [bodies.made(), bodies.made(), bodies.made()];
        let [a, b, c] = &mut shares;
        let mut context = Context::from_waker(Waker::noop());
        let (mut b, mut c) = (Box::pin(b.claim(size)), Box::pin(c.claim(size)));
        {
            let mut a = Box::pin(a.claim(size));
            for claim in [&mut a, &mut b, &mut c] {
                assert!(claim.as_mut().poll(&mut context).is_pending());
            }
            // A small one finds room all the same.
            assert_eq!(now(bodies.made().claim(100)), Some(Ok(())));
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
        let (mut slow, mut whole) = (bodies.arriving(), bodies.arriving());
        assert_eq!(now(slow.claim(half)), Some(Ok(())));
        assert_eq!(now(whole.claim(half)), Some(Ok(())));
        assert_eq!(whole.is_whole(), Ok(()));
        let empty = bodies.arriving();
        later(&bodies, BODY_SLOW_MS);
        assert!(!is_lost(&slow), "nobody waits");
        let mut new = bodies.arriving();
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
        let mut share = bodies.arriving();
        assert_eq!(now(share.claim(BODY_TIERS[3].1)), Some(Ok(())));
        assert!(!share.arrived(BODY_SLOW_BYTES - 1));
        let slow = Duration::from_millis(BODY_SLOW_MS);
        share.with(|place| place.life = Life::Arriving(Instant::now() - slow));
        assert!(share.arrived(1));
        let mut new = bodies.arriving();
        let mut claim = Box::pin(new.claim(1 << 20));
        let mut context = Context::from_waker(Waker::noop());
        assert!(claim.as_mut().poll(&mut context).is_pending());
        later(&bodies, 0);
        assert!(!is_lost(&share));
    }
}
