//! What goes though it is not as the index says, of which there may be as many files as a working copy has.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use super::look::Stays;
use crate::limits::MAKES_ROOM_MAX;

/// Why something goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Goes {
    /// Git ignores it.
    Ignored,
    /// A run that was killed has left it so.
    Left(Option<Stays>),
}

/// All of it. Of paths there are hashes by keys that nobody knows: that two of a million are the same is as likely as that
/// memory fails.
#[derive(Debug, Default)]
pub(super) struct MakesRoom {
    keys: RandomState,
    all: HashMap<u64, Goes>,
}

/// There is more than may be held.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooMany;

impl MakesRoom {
    pub(super) fn add(&mut self, path: &[u8], goes: Goes) -> Result<(), TooMany> {
        if self.all.len() >= MAKES_ROOM_MAX {
            return Err(TooMany);
        }
        self.all.insert(self.keys.hash_one(path), goes);
        Ok(())
    }

    pub(super) fn get(&self, path: &[u8]) -> Option<Goes> {
        self.all.get(&self.keys.hash_one(path)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_much_is_held_as_may_be() {
        let mut all = MakesRoom::default();
        let path = |number: usize| number.to_le_bytes();
        assert!(size_of::<(u64, Goes)>() <= 40);
        for number in 0..MAKES_ROOM_MAX {
            let goes = match number % 2 {
                0 => Goes::Ignored,
                _ => Goes::Left(None),
            };
            all.add(&path(number), goes).unwrap();
        }
        assert_eq!(all.add(b"more", Goes::Ignored), Err(TooMany));
        assert_eq!(all.get(&path(2)), Some(Goes::Ignored));
        assert_eq!(all.get(&path(3)), Some(Goes::Left(None)));
        assert_eq!(all.get(b"more"), None);
        // With what a table of that size has to spare.
        let table_bytes = all.all.capacity() * 8 / 7 * (size_of::<(u64, Goes)>() + 1);
        assert!(table_bytes < 100 << 20, "{table_bytes}");
    }
}
