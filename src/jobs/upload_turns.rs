//! Turns of git's endpoint: so many `git upload-pack` at a time, of which one client's address has a
//! quarter at most. A client that takes too little of its response loses its turn while others wait.
//!
//! What an address is, and which may have all, [`client_of`] says.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::http::net::client::{Client, client_of};
use crate::http::net::made::Taking;
use crate::limits::{
    UPLOAD_LOOK_MS, UPLOAD_PACKS_MAX, UPLOAD_PACKS_OF_CLIENT_MAX, UPLOAD_SLOW_BYTES, UPLOAD_SLOW_MS,
};

/// The bounds.
#[derive(Debug, Clone, Copy)]
pub(super) struct UploadBounds {
    pub(super) all: usize,
    pub(super) of_client: usize,
    /// A turn is slow in which the client takes less than this ...
    pub(super) slow_bytes: u64,
    /// ... in this time.
    pub(super) slow: Duration,
}

impl Default for UploadBounds {
    fn default() -> UploadBounds {
        UploadBounds {
            all: UPLOAD_PACKS_MAX,
            of_client: UPLOAD_PACKS_OF_CLIENT_MAX,
            slow_bytes: UPLOAD_SLOW_BYTES,
            slow: Duration::from_millis(UPLOAD_SLOW_MS),
        }
    }
}

/// See the module's text. For one thread.
pub(super) struct UploadTurns {
    bounds: UploadBounds,
    book: RefCell<Book>,
}

#[derive(Default)]
struct Book {
    held: HashMap<u64, Held>,
    queue: VecDeque<Queued>,
    next: u64,
}

struct Held {
    client: Client,
    taking: Arc<Taking>,
    /// It was told to end.
    is_lost: bool,
    lost: Rc<Notify>,
}

struct Queued {
    id: u64,
    client: Client,
    granted: Rc<Notify>,
}

impl Held {
    fn new(client: Client, slow_bytes: u64) -> Held {
        Held {
            client,
            taking: Taking::new(slow_bytes),
            is_lost: false,
            lost: Rc::default(),
        }
    }
}

impl UploadTurns {
    pub(super) fn new(bounds: UploadBounds) -> UploadTurns {
        UploadTurns {
            bounds,
            book: RefCell::default(),
        }
    }

    /// Waits for a turn for the client at `address`.
    pub(super) async fn acquire(&self, address: IpAddr) -> UploadTurn<'_> {
        let queued = self.enter(client_of(address));
        let look = Duration::from_millis(UPLOAD_LOOK_MS);
        while !queued.is_held() {
            if tokio::time::timeout(look, queued.granted.notified())
                .await
                .is_err()
            {
                self.end_slow(Instant::now());
            }
        }
        queued
    }

    /// Has a turn, or stands in the queue for one.
    fn enter(&self, client: Client) -> UploadTurn<'_> {
        let mut book = self.book.borrow_mut();
        let id = book.next;
        book.next += 1;
        let granted: Rc<Notify> = Rc::default();
        book.queue.push_back(Queued {
            id,
            client,
            granted: granted.clone(),
        });
        self.grant(&mut book);
        drop(book);
        UploadTurn {
            turns: self,
            id,
            granted,
        }
    }

    /// Gives free turns to the first in the queue whose clients have not theirs.
    fn grant(&self, book: &mut Book) {
        while book.held.len() < self.bounds.all {
            let may = |queued: &Queued| self.may_have(book, queued.client, None);
            let Some(at) = book.queue.iter().position(may) else {
                return;
            };
            if let Some(queued) = book.queue.remove(at) {
                let held = Held::new(queued.client, self.bounds.slow_bytes);
                book.held.insert(queued.id, held);
                queued.granted.notify_one();
            }
        }
    }

    /// Whether a client may have one more turn, once `ended` has none any more.
    fn may_have(&self, book: &Book, client: Client, ended: Option<u64>) -> bool {
        let is_its = |(id, held): &(&u64, &Held)| held.client == client && Some(**id) != ended;
        client.is_none() || book.held.iter().filter(is_its).count() < self.bounds.of_client
    }

    /// Ends the slowest turn whose end would help one who waits, unless as many end already.
    fn end_slow(&self, now: Instant) {
        let mut book = self.book.borrow_mut();
        let ending = book.held.values().filter(|held| held.is_lost).count();
        if ending >= book.queue.len() {
            return;
        }
        let helps = |id: u64| {
            let mut waiting = book.queue.iter();
            waiting.any(|queued| self.may_have(&book, queued.client, Some(id)))
        };
        let slow = book.held.iter().filter_map(|(id, held)| {
            let waited = held.taking.waited(now);
            let is_slow = !held.is_lost && waited >= self.bounds.slow && helps(*id);
            is_slow.then_some((waited, *id))
        });
        let Some((_, id)) = slow.max() else {
            return;
        };
        if let Some(held) = book.held.get_mut(&id) {
            held.is_lost = true;
            held.lost.notify_one();
        }
    }
}

/// A turn, or a place in the queue for one; dropping it gives it back.
pub(super) struct UploadTurn<'t> {
    turns: &'t UploadTurns,
    id: u64,
    granted: Rc<Notify>,
}

impl UploadTurn<'_> {
    fn is_held(&self) -> bool {
        self.turns.book.borrow().held.contains_key(&self.id)
    }

    fn with<T>(&self, with: impl FnOnce(&mut Held) -> T) -> Option<T> {
        self.turns
            .book
            .borrow_mut()
            .held
            .get_mut(&self.id)
            .map(with)
    }

    /// How the client takes what it is for; `None` without a turn.
    pub(super) fn taking(&self) -> Option<Arc<Taking>> {
        self.with(|held| held.taking.clone())
    }

    /// Whether it was lost.
    pub(super) fn is_lost(&self) -> bool {
        self.with(|held| held.is_lost).unwrap_or(false)
    }

    /// Ready when it is lost.
    pub(super) async fn lost(&self) {
        match self.with(|held| held.lost.clone()) {
            Some(lost) => lost.notified().await,
            None => std::future::pending().await,
        }
    }
}

impl Drop for UploadTurn<'_> {
    fn drop(&mut self) {
        let mut book = self.turns.book.borrow_mut();
        if book.held.remove(&self.id).is_none() {
            book.queue.retain(|queued| queued.id != self.id);
        }
        self.turns.grant(&mut book);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOW: Duration = Duration::from_millis(UPLOAD_SLOW_MS);

    fn turns(all: usize, of_client: usize) -> UploadTurns {
        UploadTurns::new(UploadBounds {
            all,
            of_client,
            ..UploadBounds::default()
        })
    }

    fn client(last: u8) -> Client {
        client_of([127, 0, 0, last].into())
    }

    #[test]
    fn a_client_has_a_part_of_the_turns() {
        let turns = turns(4, 2);
        let mut first: Vec<_> = (0..5).map(|_| turns.enter(client(2))).collect();
        let held = |of: &[UploadTurn<'_>]| of.iter().map(UploadTurn::is_held).collect::<Vec<_>>();
        assert_eq!(held(&first), [true, true, false, false, false]);
        let second = turns.enter(client(3));
        assert!(second.is_held(), "it stands behind others that must wait");
        drop(first.remove(3));
        drop(first.remove(0));
        assert_eq!(held(&first), [true, true, false]);
        let proxy: Vec<_> = (0..3).map(|_| turns.enter(client(1))).collect();
        assert_eq!(held(&proxy), [true, false, false]);
        drop(second);
        assert_eq!(held(&proxy), [true, true, false]);
        drop(first);
        assert_eq!(held(&proxy), [true; 3], "this address may have all");
    }

    #[test]
    fn the_slowest_turn_is_lost_while_others_wait() {
        let turns = turns(2, 2);
        let (slow, slower) = (turns.enter(client(2)), turns.enter(client(2)));
        slower.taking().unwrap().begin_wait();
        slow.taking().unwrap().begin_wait();
        let lost = || [&slow, &slower].map(|turn| turn.is_lost());
        let later = Instant::now() + SLOW + Duration::from_secs(1);
        turns.end_slow(later);
        assert_eq!(lost(), [false, false], "nobody waits");
        let waiting = turns.enter(client(3));
        turns.end_slow(Instant::now());
        assert_eq!(lost(), [false, false], "not for so long");
        turns.end_slow(later);
        turns.end_slow(later);
        assert_eq!(lost(), [false, true], "one is enough for one who waits");
        drop(slower);
        assert!(waiting.is_held());
    }

    #[test]
    fn a_turn_is_kept_by_taking_enough_or_having_nothing_to_take() {
        let turns = turns(1, 1);
        let turn = turns.enter(client(2));
        let _waiting = turns.enter(client(3));
        let taking = turn.taking().unwrap();
        let is_lost_after = |wait: Duration| {
            turns.end_slow(Instant::now() + wait);
            turn.is_lost()
        };
        assert!(!is_lost_after(10 * SLOW), "git has given nothing");
        taking.set_waited(SLOW);
        taking.taken(UPLOAD_SLOW_BYTES);
        assert!(!is_lost_after(10 * SLOW));
        taking.set_waited(SLOW);
        taking.taken(UPLOAD_SLOW_BYTES - 1);
        assert!(is_lost_after(Duration::ZERO));
    }

    #[test]
    fn a_turn_is_not_lost_for_one_whom_that_does_not_help() {
        let turns = turns(2, 1);
        let (first, second) = (turns.enter(client(2)), turns.enter(client(3)));
        first.taking().unwrap().begin_wait();
        let waiting = turns.enter(client(3));
        turns.end_slow(Instant::now() + 2 * SLOW);
        assert!(!first.is_lost() && !waiting.is_held(), "it has its part");
        second.taking().unwrap().begin_wait();
        turns.end_slow(Instant::now() + 2 * SLOW);
        assert!(!first.is_lost() && second.is_lost());
    }
}
