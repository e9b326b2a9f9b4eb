//! Whether what an upstream lists is believed where something is removed for good because of it. One that lists nothing once,
//! while it is restored or moved, would have it gone everywhere: so a second listing, some time later, has to have all the
//! names of the first. What was true the first time is so the second time; what was not is found out by the names that come
//! back, and what the second one has counts.
//!
//! A function of listings and of a clock that nobody sets.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use super::change::Generation;

/// The names of refs, by their hashes: there may be many.
pub type Names = BTreeSet<u64>;

/// These.
#[must_use]
pub fn names_of<T: AsRef<[u8]>>(names: impl Iterator<Item = T>) -> Names {
    let hash = |name: T| {
        let mut hasher = DefaultHasher::new();
        name.as_ref().hash(&mut hasher);
        hasher.finish()
    };
    names.map(hash).collect()
}

/// What was listed before.
#[derive(Debug, Default)]
pub struct Twice {
    first: Option<First>,
}

#[derive(Debug)]
struct First {
    of: Generation,
    names: Names,
    at_ms: u64,
}

impl Twice {
    /// Takes a listing that was made after a head of this generation was read; whether it is believed, or for how long the
    /// next one has to wait.
    ///
    /// # Errors
    /// See above.
    pub fn take(
        &mut self,
        of: Generation,
        names: Names,
        (now_ms, wait_ms): (u64, u64),
    ) -> Result<(), u64> {
        if let Some(first) = self
            .first
            .take_if(|first| first.of == of && first.names.is_subset(&names))
        {
            let left_ms = wait_ms.saturating_sub(now_ms.saturating_sub(first.at_ms));
            if left_ms == 0 {
                return Ok(());
            }
            self.first = Some(first);
            return Err(left_ms);
        }
        let at_ms = now_ms;
        self.first = Some(First { of, names, at_ms });
        Err(wait_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(number: u64) -> Generation {
        Generation {
            number,
            ..Generation::default()
        }
    }

    #[test]
    fn what_is_listed_twice_is_believed() {
        let (mut twice, main) = (Twice::default(), || names_of(["main"].iter()));
        assert_eq!(twice.take(of(1), main(), (0, 10)), Err(10));
        assert_eq!(twice.take(of(1), main(), (4, 10)), Err(6), "too soon");
        let more = names_of(["main", "new"].iter());
        assert_eq!(twice.take(of(1), more, (10, 10)), Ok(()));
        assert_eq!(twice.take(of(1), main(), (30, 10)), Err(10), "begun anew");
        assert_eq!(
            twice.take(of(2), main(), (60, 10)),
            Err(10),
            "of another raise"
        );
        assert_eq!(twice.take(of(2), main(), (70, 10)), Ok(()));
    }

    #[test]
    fn what_is_missing_once_is_not_believed() {
        let (main, none) = (|| names_of(["main"].iter()), Names::new);
        let mut twice = Twice::default();
        assert_eq!(twice.take(of(1), main(), (0, 10)), Err(10));
        assert_eq!(twice.take(of(1), none(), (10, 10)), Err(10));
        assert_eq!(
            twice.take(of(1), main(), (20, 10)),
            Ok(()),
            "all of it is there"
        );
        // What is gone is gone.
        assert_eq!(twice.take(of(1), none(), (30, 10)), Err(10));
        assert_eq!(twice.take(of(1), none(), (40, 10)), Ok(()));
    }
}
