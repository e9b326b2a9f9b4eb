//! How many connections each client has.

use std::collections::HashMap;
use std::net::IpAddr;

/// How many connections there are of each client that is counted.
///
/// Invariant: `over` has those that have more than `part`, of whom there are a few at most.
#[derive(Debug)]
pub(super) struct Clients {
    pub(super) part: usize,
    pub(super) counts: HashMap<IpAddr, Count>,
    pub(super) over: Vec<IpAddr>,
}

#[derive(Debug, Default)]
pub(super) struct Count {
    pub(super) open: usize,
    /// Those of them that have been told to end, for others.
    pub(super) ending: usize,
}

impl Clients {
    /// Of whom each may have `part`.
    pub(super) fn new(part: usize) -> Clients {
        Clients {
            part,
            counts: HashMap::new(),
            over: Vec::new(),
        }
    }

    /// How many of a client have not been told to end.
    pub(super) fn left(&self, client: IpAddr) -> usize {
        let count = self.counts.get(&client);
        count.map_or(0, |count| count.open.saturating_sub(count.ending))
    }

    /// Whether a client has as many as it may have when places are short.
    pub(super) fn has_part(&self, client: IpAddr) -> bool {
        self.left(client) >= self.part
    }

    /// Who has most of all that have more than their part.
    pub(super) fn largest(&self) -> Option<IpAddr> {
        let over = self.over.iter().map(|client| (self.left(*client), *client));
        let over = over.filter(|(left, _)| *left > self.part);
        over.max().map(|(_, client)| client)
    }

    /// One has come.
    pub(super) fn enter(&mut self, client: IpAddr) {
        let count = self.counts.entry(client).or_default();
        count.open += 1;
        if count.open == self.part.saturating_add(1) {
            self.over.push(client);
        }
    }

    /// One has been told to end, or one that was has ended.
    pub(super) fn count_ending(&mut self, client: IpAddr, more: isize) {
        if let Some(count) = self.counts.get_mut(&client) {
            count.ending = count.ending.saturating_add_signed(more);
        }
    }

    /// One has ended.
    pub(super) fn leave(&mut self, client: IpAddr) {
        let Some(count) = self.counts.get_mut(&client) else {
            return;
        };
        count.open -= 1;
        if count.open == self.part {
            self.over.retain(|other| *other != client);
        }
        if count.open == 0 {
            self.counts.remove(&client);
        }
    }
}
