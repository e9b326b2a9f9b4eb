//! What nobody uses any more leaves the store, whole repositories at a time, and what is used least where it is too full.
//!
//! A head says on which day somebody last used its repository. Who uses it says so there once a day, by a swap; so what is
//! not said is not used, whatever `used.json` has room for. A head that does not say it is of today.
//!
//! It goes in the steps of all that goes ([`collect`](super::collect)), each a swap against the head that was read:
//!
//! 1. The head names nothing any more, and all that it has named is condemned. Who uses it meanwhile shares it anew, and
//!    takes from what is condemned what it needs.
//! 2. What was condemned for long enough is given up by the next swap, and removed.
//! 3. A head that has named nothing for as long again goes, and is the last that goes. Until then it keeps its generation: what
//!    has expired is not brought back.
//!
//! Who writes in between is never overwritten. Who writes while the head itself is removed finds a store that was emptied, as
//! far as this repository goes, and uploads it again.

use super::head::Head;
use super::key::{Identity, Place, RandomId};
use super::listing::Listing;
use super::objects::{ObjectError, Objects};
use super::publish::{Base, Draw, RemoteError};
use super::swap::Swapped;
use crate::limits::{STORE_HEAD_BYTES_MAX, USED_DAY_MS};

/// What is to become of a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It stays.
    Stays,
    /// Nobody has said yet when it was used, or it was said of a day that is still to come.
    NoteToday,
    /// Its head is to name nothing.
    Empty,
    /// Its head is to go.
    Remove,
}

/// The day of a time.
#[must_use]
pub fn day_of(unix_ms: u64) -> u64 {
    unix_ms / USED_DAY_MS
}

impl Head {
    /// Whether it does not say that somebody uses it on this day.
    #[must_use]
    pub fn wants_day(&self, day: u64) -> bool {
        // Clocks differ.
        self.used_day < day || self.used_day > day + 1
    }

    /// The head that says so.
    #[must_use]
    pub fn used_on(&self, day: u64, write: RandomId) -> Head {
        let mut next = self.followed_by(write);
        next.used_day = day;
        next
    }

    /// The head that names nothing of what this one does, which is condemned.
    #[must_use]
    pub fn emptied(&self, (write, now_unix_ms): (RandomId, u64)) -> Head {
        let mut next = self.followed_by(write);
        next.snapshots.clear();
        next.packs.clear();
        next.refs = None;
        next.settle(Vec::new(), now_unix_ms);
        next
    }

    /// Whether it names nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// How many bytes it names.
    #[must_use]
    pub fn named_bytes(&self) -> u64 {
        let bytes = self.parts.iter().map(|part| part.bytes);
        bytes.fold(0, u64::saturating_add)
    }

    /// What is to become of its repository, if what is not used for so long expires.
    #[must_use]
    pub fn fate(&self, expiry_ms: u64, day: u64) -> Fate {
        let idle_ms = |times: u64| expiry_ms.saturating_mul(times) / USED_DAY_MS;
        if self.used_day == 0 || self.used_day > day + 1 {
            return Fate::NoteToday;
        }
        // The day on which it was used may have ended just now.
        let idle_days = day.saturating_sub(self.used_day);
        match self.is_empty() {
            false if idle_days > idle_ms(1) => Fate::Empty,
            true if idle_days > idle_ms(2) && self.condemned.is_empty() => Fate::Remove,
            _ => Fate::Stays,
        }
    }
}

/// Reads the head in a directory, and whose it is.
///
/// # Errors
/// It cannot be read. What is no head, or another repository's, is none.
pub async fn head_in(
    objects: &impl Objects,
    dir: &str,
) -> Result<Option<(Place, Head)>, ObjectError> {
    /// Whatever else stands in it.
    #[derive(serde::Deserialize)]
    struct Whose {
        repository: Identity,
    }
    let key = format!("{dir}/head.json");
    let found = match objects.get(&key, STORE_HEAD_BYTES_MAX).await {
        Ok(Some(found)) => found,
        Ok(None) | Err(ObjectError::TooLong { .. }) => return Ok(None),
        Err(why) => return Err(why),
    };
    let read = move || {
        let whose: Whose = serde_json::from_slice(&found.bytes).ok()?;
        let place = Place::of(whose.repository);
        let head = Head::decode(&found.bytes, &place.identity).ok()?;
        (place.head() == key).then_some((place, head))
    };
    Ok(objects.apart(read).await)
}

/// Swaps the head of a repository for what `next` makes of it; whether that is done. Nothing is if that gives nothing, or
/// somebody else has written meanwhile.
///
/// # Errors
/// See [`RemoteError`].
pub async fn change_head(
    objects: &impl Objects,
    place: &Place,
    random: &mut impl Draw,
    next: impl FnOnce(&Head, RandomId) -> Option<Head>,
) -> Result<bool, RemoteError> {
    let base = Base::read(objects, place).await?;
    let next = match base.is_there() {
        true => next(&base.head, random.draw()),
        false => None,
    };
    let Some(next) = next else { return Ok(false) };
    Ok(matches!(
        base.swap(objects, place, &next).await?,
        Swapped::Done
    ))
}

/// Removes a head that names nothing, if that is still so and nothing lies beside it; whether it has.
///
/// # Errors
/// See [`RemoteError`].
pub async fn remove_head(
    objects: &impl Objects,
    place: &Place,
    is_due: impl FnOnce(&Head) -> bool,
) -> Result<bool, RemoteError> {
    let listing = Listing::read(objects, place).await?;
    let base = Base::read(objects, place).await?;
    let is_bare = listing.keys().next().is_none() && base.is_there() && base.head.is_empty();
    if !is_bare || !is_due(&base.head) {
        return Ok(false);
    }
    objects.delete(&place.lease()).await?;
    objects.delete(&place.head()).await?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::super::collect::{Swept, sweep};
    use super::super::files::FileStore;
    use super::super::head::{Condemned, Stored};
    use super::super::key::{PartKey, refs_name};
    use super::super::objects::{Condition, Content};
    use super::super::publish::SystemRandom;
    use super::*;

    fn place() -> Place {
        let [host, path, url] = ["h", "p", "https://h/p"].map(str::to_owned);
        Place::of(Identity { host, path, url })
    }

    /// One that names a part of three bytes.
    fn head(used_day: u64) -> Head {
        let mut head = Head::empty(place().identity);
        (head.sequence, head.generation, head.write) = (7, 3, RandomId(9));
        head.used_day = used_day;
        let key = PartKey::new(&refs_name(b"abc"), RandomId(1)).unwrap();
        head.parts.push(Stored {
            key: key.clone(),
            bytes: 3,
            more: Default::default(),
        });
        head.refs = Some(key);
        head
    }

    #[test]
    fn what_is_not_used_goes_and_nothing_else() {
        let expiry_ms = 30 * USED_DAY_MS;
        for (used_day, day, fate) in [
            (0, 1000, Fate::NoteToday),
            (1000, 1000, Fate::Stays),
            (1001, 1000, Fate::Stays),
            // The clock of who said so was ahead.
            (1002, 1000, Fate::NoteToday),
            (970, 1000, Fate::Stays),
            (969, 1000, Fate::Empty),
        ] {
            assert_eq!(head(used_day).fate(expiry_ms, day), fate, "{used_day}");
        }
        assert_eq!(
            head(1).fate(u64::MAX, u64::MAX / USED_DAY_MS / 4),
            Fate::Stays
        );
        let emptied = |used_day| head(used_day).emptied((RandomId(2), 5));
        assert_eq!(
            emptied(900).fate(expiry_ms, 1000),
            Fate::Stays,
            "it is condemned"
        );
        let gone = |used_day| {
            let mut head = emptied(used_day);
            head.condemned.clear();
            head.fate(expiry_ms, 1000)
        };
        assert_eq!((gone(940), gone(939)), (Fate::Stays, Fate::Remove));
    }

    #[test]
    fn a_head_goes_last_and_keeps_what_it_says_until_then() {
        let dir = tempfile::tempdir().unwrap();
        let (store, place, random) = (FileStore::open(dir.path()), place(), &mut SystemRandom);
        let full = head(5);
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_time().build().unwrap().block_on(async {
            let part = place.part(full.refs.as_ref().unwrap());
            store
                .upload(&part, &Content::Bytes(b"abc".into()))
                .await
                .unwrap();
            let bytes = full.encode().unwrap();
            store
                .swap(&place.head(), bytes, &Condition::Absent)
                .await
                .unwrap();
            let empty = |head: &Head, write| Some(head.emptied((write, 5)));
            assert!(change_head(&store, &place, random, empty).await.unwrap());
            let (_, now) = head_in(&store, place.dir()).await.unwrap().unwrap();
            assert!(now.is_empty() && now.snapshots.is_empty() && now.refs.is_none());
            assert_eq!((now.generation, now.used_day), (3, 5));
            assert_eq!(now.condemned.len(), 1);
            // Whoever shares it meanwhile takes it back as it is.
            assert_eq!(now.condemned[0].bytes, Some(3));
            // Something lies there still.
            assert!(!remove_head(&store, &place, |_| true).await.unwrap());
            let due = |_: &Condemned| true;
            let swept = sweep(&store, &place, due, (random, 6)).await.unwrap();
            assert_eq!(
                swept,
                Swept::Done {
                    condemned: 0,
                    removed: 1
                }
            );
            assert!(!remove_head(&store, &place, |_| false).await.unwrap());
            assert!(remove_head(&store, &place, |_| true).await.unwrap());
            assert!(head_in(&store, place.dir()).await.unwrap().is_none());
            assert!(!change_head(&store, &place, random, empty).await.unwrap());
        });
    }

    #[test]
    fn what_is_no_head_is_nobodys() {
        let dir = tempfile::tempdir().unwrap();
        let (store, place) = (FileStore::open(dir.path()), place());
        let other = Head::empty(Identity {
            path: "other".into(),
            ..place.identity.clone()
        });
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_time().build().unwrap().block_on(async {
            let mut condition = Condition::Absent;
            for bytes in [b"{}".to_vec(), b"[".to_vec(), other.encode().unwrap()] {
                let version = store.swap(&place.head(), bytes, &condition).await.unwrap();
                condition = Condition::Unchanged(version);
                assert!(head_in(&store, place.dir()).await.unwrap().is_none());
            }
        });
    }
}
