//! What deltas are made of, kept for those that follow: in a pack, objects that are made of the same stand together.

use std::collections::{BTreeMap, HashMap};
use std::marker::PhantomData;

use super::packed::Pack;
use crate::limits::BASE_COST_BYTES;

/// Which pack, by its address, and where an entry begins in it.
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

/// What one takes, with its places in the maps: very many of them may have no bytes.
fn cost(made: &Vec<u8>) -> usize {
    made.capacity() + BASE_COST_BYTES
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

    /// Takes out what the entry at `offset` of a pack is.
    pub(super) fn take(&mut self, pack: &'p Pack, offset: u64) -> Option<Vec<u8>> {
        let (turn, held) = self.held.remove(&Self::key(pack, offset))?;
        self.turns.remove(&turn);
        self.bytes -= cost(&held);
        Some(held)
    }

    /// Keeps it; gives memory that is free now, if any is.
    pub(super) fn keep(&mut self, pack: &'p Pack, offset: u64, made: Vec<u8>) -> Option<Vec<u8>> {
        let key = Self::key(pack, offset);
        if cost(&made) > self.bytes_max || self.held.contains_key(&key) {
            return Some(made);
        }
        let mut free = None;
        while self.bytes + cost(&made) > self.bytes_max {
            let (_, oldest) = self.turns.pop_first()?;
            let (_, gone) = self.held.remove(&oldest)?;
            self.bytes -= cost(&gone);
            free = Some(gone);
        }
        self.bytes += cost(&made);
        self.turn += 1;
        self.turns.insert(self.turn, key);
        self.held.insert(key, (self.turn, made));
        debug_assert_eq!(self.held.len(), self.turns.len());
        free
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::tests::Repository;

    /// However small they are, there are only so many, and those of the longest time go first.
    #[test]
    fn what_is_kept_is_bounded() {
        let repository = Repository::new();
        repository.write("a", "a");
        repository.commit();
        repository.git(&["repack", "-adq"]);
        let packs = repository.dir.path().join(".git/objects/pack");
        let mut files = std::fs::read_dir(packs).unwrap().map(|e| e.unwrap().path());
        let index = files.find(|path| path.extension().is_some_and(|e| e == "idx"));
        let pack = Pack::open(&index.unwrap(), gix::hash::Kind::Sha1).unwrap();
        let mut bases = Bases::new(100 * BASE_COST_BYTES);
        for offset in 0..1_000 {
            drop(bases.keep(&pack, offset, Vec::new()));
        }
        assert_eq!(bases.held.len(), 100);
        assert!(bases.take(&pack, 899).is_none());
        assert_eq!(bases.take(&pack, 900), Some(Vec::new()));
        assert_eq!(bases.take(&pack, 900), None);
        assert!(bases.keep(&pack, 1, vec![0; bases.bytes_max]).is_some());
        assert_eq!(bases.bytes, 99 * BASE_COST_BYTES);
    }
}
