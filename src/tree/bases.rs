//! What deltas are made of, kept for those that follow: in a pack, objects that are made of the same stand together.

use std::collections::{BTreeMap, HashMap};
use std::marker::PhantomData;

use super::packed::Pack;

/// Which pack, by its address, and where in it.
type Key = (usize, u64);

/// Objects that deltas were applied to, as many as there is room for; those that were of no use for the longest time go
/// first.
///
/// Invariants: each stands in both maps, under the same turn; they take `bytes`, at most `bytes_max`. A pack outlives it,
/// so no other one has its address.
pub(crate) struct Bases<'p> {
    held: HashMap<Key, (u64, Vec<u8>)>,
    turns: BTreeMap<u64, Key>,
    turn: u64,
    bytes: usize,
    bytes_max: usize,
    packs: PhantomData<&'p Pack>,
}

impl<'p> Bases<'p> {
    /// With room for so many bytes.
    pub(crate) fn new(bytes_max: usize) -> Bases<'p> {
        Bases {
            held: HashMap::new(),
            turns: BTreeMap::new(),
            turn: 0,
            bytes: 0,
            bytes_max,
            packs: PhantomData,
        }
    }

    fn key(pack: &'p Pack, offset: u64) -> Key {
        (std::ptr::from_ref(pack).addr(), offset)
    }

    /// Takes out what the data at `offset` of a pack makes.
    pub(super) fn take(&mut self, pack: &'p Pack, offset: u64) -> Option<Vec<u8>> {
        let (turn, held) = self.held.remove(&Self::key(pack, offset))?;
        self.turns.remove(&turn);
        self.bytes -= held.capacity();
        Some(held)
    }

    /// Keeps it; gives memory that is free now, if any is.
    pub(super) fn keep(&mut self, pack: &'p Pack, offset: u64, made: Vec<u8>) -> Option<Vec<u8>> {
        let key = Self::key(pack, offset);
        if made.capacity() > self.bytes_max || self.held.contains_key(&key) {
            return Some(made);
        }
        let mut free = None;
        while self.bytes + made.capacity() > self.bytes_max {
            let (_, oldest) = self.turns.pop_first()?;
            let (_, gone) = self.held.remove(&oldest)?;
            self.bytes -= gone.capacity();
            free = Some(gone);
        }
        self.bytes += made.capacity();
        self.turn += 1;
        self.turns.insert(self.turn, key);
        self.held.insert(key, (self.turn, made));
        debug_assert_eq!(self.held.len(), self.turns.len());
        free
    }
}
