//! The waiting connections of one core: those of each rank in the order of waiting, all of them and those
//! of each client. Whatever changes takes a few links and no allocation.

use std::collections::HashMap;
use std::net::IpAddr;
use std::task::Waker;

/// What a connection waits for: those of one kind are closed before any of the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rank {
    /// For its client, which has asked for nothing, or not for all of it.
    Request,
    /// For what is to be sent, which its client may not take any more: it has ended its sending side.
    Deserted,
    /// For its client to take what stands ready of a response. Whoever [renews](super::Waiting::renew) that
    /// often enough is closed only if its client has more than its part.
    Taking,
    /// For an answer.
    Answer,
    /// For more of a response that has begun, of which its client has taken what there is. Closed only if
    /// its client has more than its part.
    More,
}

/// How many kinds there are.
pub(super) const RANKS: usize = Rank::More as usize + 1;

/// Places of one core, those of each rank in the order of waiting: of all, and of each client.
#[derive(Debug, Default)]
pub(super) struct List {
    pub(super) places: Vec<Place>,
    pub(super) free: Vec<usize>,
    pub(super) queues: [Queue; RANKS],
    pub(super) clients: HashMap<IpAddr, usize>,
    pub(super) owners: Vec<Owner>,
    pub(super) free_owners: Vec<usize>,
}

/// A client's connections on this core.
#[derive(Debug, Default)]
pub(super) struct Owner {
    pub(super) connections: usize,
    pub(super) queues: [Queue; RANKS],
}

/// Linked both ways.
#[derive(Debug, Default)]
pub(super) struct Queue {
    pub(super) first: Option<usize>,
    pub(super) last: Option<usize>,
}

#[derive(Debug, Default)]
pub(super) struct Links {
    before: Option<usize>,
    after: Option<usize>,
}

/// Whether a connection was told to end; if so, it is in no queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ends {
    No,
    /// Unless it need not after all.
    Perhaps,
    /// Whatever it does: this client, whose it is, has more than its part.
    Surely(IpAddr),
}

#[derive(Debug)]
pub(super) struct Place {
    pub(super) owner: Option<usize>,
    pub(super) of_all: Links,
    pub(super) of_owner: Links,
    pub(super) rank: Rank,
    pub(super) since_us: u64,
    pub(super) ends: Ends,
    pub(super) waker: Option<Waker>,
}

impl Place {
    pub(super) const NEW: Place = Place {
        owner: None,
        of_all: Links {
            before: None,
            after: None,
        },
        of_owner: Links {
            before: None,
            after: None,
        },
        rank: Rank::Request,
        since_us: 0,
        ends: Ends::No,
        waker: None,
    };
}

impl Queue {
    fn push(&mut self, places: &mut [Place], at: usize, links: fn(&mut Place) -> &mut Links) {
        let last = self.last.replace(at);
        match last {
            Some(last) => links(&mut places[last]).after = Some(at),
            None => self.first = Some(at),
        }
        *links(&mut places[at]) = Links {
            before: last,
            after: None,
        };
    }

    fn remove(&mut self, places: &mut [Place], at: usize, links: fn(&mut Place) -> &mut Links) {
        let Links { before, after } = std::mem::take(links(&mut places[at]));
        match before {
            Some(before) => links(&mut places[before]).after = after,
            None => self.first = after,
        }
        match after {
            Some(after) => links(&mut places[after]).before = before,
            None => self.last = before,
        }
    }
}

impl List {
    pub(super) fn push(&mut self, at: usize, rank: Rank, since_us: u64) {
        let place = &mut self.places[at];
        (place.rank, place.since_us) = (rank, since_us);
        let owner = place.owner;
        self.queues[rank as usize].push(&mut self.places, at, |place| &mut place.of_all);
        if let Some(owner) = owner {
            let queue = &mut self.owners[owner].queues[rank as usize];
            queue.push(&mut self.places, at, |place| &mut place.of_owner);
        }
    }

    pub(super) fn unlink(&mut self, at: usize) {
        let Place { rank, owner, .. } = self.places[at];
        self.queues[rank as usize].remove(&mut self.places, at, |place| &mut place.of_all);
        if let Some(owner) = owner {
            let queue = &mut self.owners[owner].queues[rank as usize];
            queue.remove(&mut self.places, at, |place| &mut place.of_owner);
        }
    }

    /// Tells one that waits to end; gives what wakes it.
    pub(super) fn tell(&mut self, at: usize, ends: Ends) -> Option<Waker> {
        self.unlink(at);
        let place = &mut self.places[at];
        place.ends = ends;
        place.waker.take()
    }

    pub(super) fn enter_owner(&mut self, client: IpAddr) -> usize {
        let (owners, free) = (&mut self.owners, &mut self.free_owners);
        let owner = *self.clients.entry(client).or_insert_with(|| {
            free.pop().unwrap_or_else(|| {
                owners.push(Owner::default());
                owners.len() - 1
            })
        });
        self.owners[owner].connections += 1;
        owner
    }

    pub(super) fn leave_owner(&mut self, client: IpAddr, owner: usize) {
        self.owners[owner].connections -= 1;
        if self.owners[owner].connections == 0 {
            self.clients.remove(&client);
            self.free_owners.push(owner);
        }
    }
}
