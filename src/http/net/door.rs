//! The door: how many connections there may be, which of them make room, and the memory that the bodies
//! of their requests share. One for all cores.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::bodies::Bodies;
use super::client::Client;
use super::idle::IdleCores;
use crate::limits::CONNECTIONS_SPARE_PERCENT;

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Door {
    /// Open connections of all cores.
    pub admission: Admission,
    /// Those of them that wait for their client.
    pub idle: Arc<IdleCores>,
    /// Memory for request bodies.
    pub bodies: Arc<Bodies>,
    looking: Looking,
}

/// How many newcomers look for a place.
#[derive(Debug, Default)]
struct Looking {
    /// Those of clients that have less than their part.
    urgent: AtomicUsize,
    /// Those of clients that had their part already. They look while nobody else does.
    with_part: AtomicUsize,
}

impl Looking {
    /// Whether one looks whose client has less than its part.
    fn is_urgent(&self) -> bool {
        self.urgent.load(Ordering::Relaxed) > 0
    }

    fn of(&self, has_part: bool) -> &AtomicUsize {
        match has_part {
            true => &self.with_part,
            false => &self.urgent,
        }
    }
}

impl Door {
    /// For so many connections of so many cores. Whoever does not take enough of its response in the
    /// time `slow` may have to make room.
    pub(crate) fn new(connections_max: usize, cores: usize, slow: Duration) -> Door {
        Door {
            admission: Admission::new(connections_max),
            idle: IdleCores::new(cores, slow, connections_max),
            bodies: Bodies::new(),
            looking: Looking::default(),
        }
    }

    /// Counts a connection of `newcomer` in, or says whether there is a place for it soon.
    pub(crate) fn enter(&self, newcomer: Client) -> Entry {
        if self.looking.is_urgent() && self.idle.has_part(newcomer) {
            // What becomes free is for those who look.
            self.idle.make_room(newcomer);
            return Entry::Full;
        }
        self.admission.enter(|| self.idle.make_room(newcomer))
    }

    /// Has a newcomer look for the place that there is to be soon; `None` if too many do.
    pub(crate) fn look(self: &Arc<Self>, newcomer: Client) -> Option<Look> {
        let has_part = self.idle.has_part(newcomer);
        let max = match has_part {
            true => self.few(),
            false => self.admission.spare(),
        };
        let others = self.looking.of(has_part);
        let others = others.fetch_add(1, Ordering::Relaxed);
        let door = self.clone();
        let look = Look { door, has_part };
        (others < max).then_some(look)
    }

    /// Whether so many look that whoever comes next had better wait where it takes nothing, in the kernel's
    /// queue. None of them has its part, so it would be no other.
    pub(crate) fn is_busy(&self) -> bool {
        self.looking.urgent.load(Ordering::Relaxed) >= self.few()
    }

    /// Half of those that may look.
    fn few(&self) -> usize {
        self.admission.spare().div_ceil(2)
    }
}

/// A newcomer that looks for a place. There are at most as many as there may be connections over the limit
/// for a moment, and half as many whose clients have their part.
#[derive(Debug)]
pub(crate) struct Look {
    door: Arc<Door>,
    has_part: bool,
}

impl Look {
    /// Counts it in if there is a place by now. Nobody more is told to end for it.
    pub(crate) fn enter(&self) -> Entry {
        if self.has_part && self.door.looking.is_urgent() {
            return Entry::Soon;
        }
        self.door.admission.enter(|| true)
    }
}

impl Drop for Look {
    fn drop(&mut self) {
        let looking = self.door.looking.of(self.has_part);
        looking.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A bounded number of connections.
#[derive(Debug)]
pub(crate) struct Admission {
    open: AtomicUsize,
    max: usize,
}

/// What became of a connection at the door.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entry {
    /// It was counted in.
    Entered,
    /// Others were told to end; when they have done so there is a place.
    Soon,
    /// None of the others can be told to.
    Full,
}

impl Admission {
    fn new(max: usize) -> Admission {
        Admission {
            open: AtomicUsize::new(0),
            max,
        }
    }

    /// The bound.
    pub(crate) fn max(&self) -> usize {
        self.max
    }

    /// How many more there may be for a moment, until one that was told to end has done so.
    pub(crate) fn spare(&self) -> usize {
        (self.max.saturating_mul(CONNECTIONS_SPARE_PERCENT) / 100).max(1)
    }

    /// Counts a connection in, unless there are too many and no other can be told to end.
    pub(crate) fn enter(&self, end_another: impl FnOnce() -> bool) -> Entry {
        let open = self.open.fetch_add(1, Ordering::Relaxed);
        let most = self.max.saturating_add(self.spare());
        // Another is told so in any case: those before may not have been as many as there are over.
        let entry = match open < self.max || end_another() {
            true if open < most => Entry::Entered,
            true => Entry::Soon,
            false => Entry::Full,
        };
        if entry != Entry::Entered {
            self.leave();
        }
        entry
    }

    /// Counts a connection out.
    pub(crate) fn leave(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    fn client(last: u8) -> Client {
        Some(IpAddr::from([10, 0, 0, last]))
    }

    /// Of 40 places a client may have ten.
    #[test]
    fn who_has_less_than_its_part_gets_the_next_place() {
        let door = Arc::new(Door::new(40, 1, Duration::from_secs(60)));
        let idle = super::super::idle::Idle::of_core(door.idle.clone(), 0);
        let come = |n: u8| {
            let entry = door.enter(client(n));
            (
                entry,
                (entry == Entry::Entered).then(|| idle.member(client(n))),
            )
        };
        let members: Vec<_> = (0..40).map(|_| come(1)).collect();
        assert!(members.iter().all(|(entry, _)| *entry == Entry::Entered));
        // None of them has ended as it was told.
        let crowd: Vec<_> = members.iter().filter_map(|(_, m)| m.as_ref()).collect();
        let waiting = crowd
            .iter()
            .map(|m| m.enter(super::super::idle::Rank::Request));
        let _waiting: Vec<_> = waiting.collect();
        let spare: Vec<_> = (0..4).map(|_| come(1)).collect();
        assert!(spare.iter().all(|(entry, _)| *entry == Entry::Entered));
        assert_eq!(come(1).0, Entry::Soon);
        let own: Vec<Look> = (0..2).filter_map(|_| door.look(client(1))).collect();
        assert_eq!(own.len(), 2);
        assert!(door.look(client(1)).is_none(), "they take half at most");
        assert_eq!(come(2).0, Entry::Soon);
        let look = door.look(client(2)).unwrap();
        // One has ended.
        door.admission.leave();
        assert_eq!(come(1).0, Entry::Full, "it comes behind those who look");
        assert!(own.iter().all(|own| own.enter() == Entry::Soon));
        assert_eq!(look.enter(), Entry::Entered);
        drop(look);
        door.admission.leave();
        assert_eq!(own[0].enter(), Entry::Entered, "nobody else looks");
        let others = (3..9).filter_map(|n| door.look(client(n)));
        assert_eq!(others.count(), 6, "each has given up before the next");
        let others: Vec<Look> = (3..9).filter_map(|n| door.look(client(n))).collect();
        assert!(others.len() == 4 && door.is_busy(), "{}", others.len());
        drop(others);
        assert!(!door.looking.is_urgent() && !door.is_busy());
        drop(own);
        assert_eq!(door.looking.with_part.load(Ordering::Relaxed), 0);
    }
}
