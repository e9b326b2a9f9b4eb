//! What nobody uses any more leaves the store, whole repositories at a time, and what is used least where it is too full.
//!
//! A head says on which day somebody last used its repository. Who uses it says so there once a day, by a swap; so what is
//! not said is not used, whatever `used.json` has room for. A head that does not say it is of today.
//!
//! Days are counted by date, and besides by those on which somebody has looked at all heads ([`used`](super::used)): the
//! smaller number counts. So a pause of all servers is no time in which nobody used anything, nor is what was between a backup
//! and its restoration; and a server of an older version, which says the date alone, is heard. A day far from that of the last
//! look is not counted, so that no server whose clock is wrong has days go by for the others.
//!
//! It goes in the steps of all that goes ([`collect`](super::collect)), each a swap against the head that was read:
//!
//! 1. The head names nothing any more, and all that it has named is condemned. Who uses it meanwhile shares it anew, and
//!    takes from what is condemned what it needs.
//! 2. What was condemned for long enough is given up by the next swap, and removed.
//!
//! Why a head names nothing stands in it: what has left since nobody used it has not expired, and nothing is dropped for it.
//!
//! The head itself stays, and keeps its generation and its sequence: others compare what they have with these, and a head that
//! began with neither would be older than all of that. Who writes in between is never overwritten.

use super::day::Day;
use super::head::Head;
use super::key::{Identity, Place, RandomId};
use super::memory::Memory;
use super::objects::{ObjectError, Objects};
use super::publish::{Base, Draw, RemoteError};
use super::swap::Swapped;
use crate::limits::{STORE_HEAD_BYTES_MAX, USED_DAY_MS};

/// What is to become of a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It stays.
    Stays,
    /// Nobody has said yet when it was used, or it was said of a day that is still to come: by a clock, or by a count, that is
    /// none any more.
    NoteToday,
    /// Its head is to name nothing.
    Empty,
}

impl Head {
    /// Whether it does not say that somebody uses it on this day.
    #[must_use]
    pub fn wants_day(&self, day: Day) -> bool {
        // One that is still to come is left to who looks at all: two whose clocks differ do not write by turns.
        self.used_day < day.date || self.used_looks == 0
    }

    /// The head that says so.
    #[must_use]
    pub fn used_on(&self, day: Day, write: RandomId) -> Head {
        let mut next = self.followed_by(write);
        next.note_used(day);
        next
    }

    pub(super) fn note_used(&mut self, day: Day) {
        self.used_day = self.used_day.max(day.date);
        self.used_looks = self.used_looks.max(day.looks).max(1);
    }

    /// The head of which nothing is known but that it is there on this day.
    #[must_use]
    pub fn noted_on(&self, day: Day, write: RandomId) -> Head {
        let mut next = self.followed_by(write);
        (next.used_day, next.used_looks) = (day.date, day.looks.max(1));
        next
    }

    /// On how many days nobody has used it, as far as it says; this one is none.
    #[must_use]
    pub fn idle_days(&self, day: Day) -> u64 {
        let days = day.date.saturating_sub(self.used_day);
        days.min(day.looks.saturating_sub(self.used_looks))
    }

    /// The head that names nothing of what this one does, which is condemned.
    #[must_use]
    pub fn emptied(&self, (write, now_unix_ms): (RandomId, u64)) -> Head {
        let mut next = self.followed_by(write);
        next.snapshots.clear();
        next.packs.clear();
        next.refs = None;
        next.settle(Vec::new(), now_unix_ms);
        next.emptied = Some(next.shares);
        next
    }

    /// Whether it names nothing since nobody used it; not since something has expired, or nothing was ever shared.
    #[must_use]
    pub fn is_emptied(&self) -> bool {
        self.is_empty() && self.emptied == Some(self.shares)
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
    pub fn fate(&self, expiry_ms: u64, day: Day) -> Fate {
        let is_said = |said: u64, now: u64| said != 0 && said <= now.saturating_add(1);
        if !is_said(self.used_day, day.date) || !is_said(self.used_looks, day.looks) {
            return Fate::NoteToday;
        }
        // The day on which it was used may have ended just now.
        match !self.is_empty() && self.idle_days(day) > expiry_ms / USED_DAY_MS {
            true => Fate::Empty,
            false => Fate::Stays,
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
/// somebody else has written meanwhile, or what is there does not come up to what was seen.
///
/// # Errors
/// See [`RemoteError`].
pub async fn change_head(
    objects: &impl Objects,
    (place, seen): (&Place, Option<&Memory>),
    random: &mut impl Draw,
    next: impl FnOnce(&Head, RandomId) -> Option<Head>,
) -> Result<bool, RemoteError> {
    let base = Base::read(objects, place).await?.unless_below(seen);
    let Some(base) = base.filter(Base::is_there) else {
        return Ok(false);
    };
    let Some(next) = next(&base.head, random.draw()) else {
        return Ok(false);
    };
    Ok(matches!(
        base.swap(objects, place, &next).await?,
        Swapped::Done
    ))
}

#[cfg(test)]
mod tests {
    use super::super::broken::mark_broken;
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
        (head.used_day, head.used_looks) = (used_day, used_day);
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
            let fates = head(used_day).fate(expiry_ms, on(day, day));
            assert_eq!(fates, fate, "{used_day}");
        }
        let last = u64::MAX / USED_DAY_MS / 4;
        assert_eq!(head(1).fate(u64::MAX, on(last, last)), Fate::Stays);
        let emptied = head(900).emptied((RandomId(2), 5));
        assert_eq!(emptied.fate(expiry_ms, on(1000, 1000)), Fate::Stays);
    }

    fn on(date: u64, looks: u64) -> Day {
        Day { date, looks }
    }

    #[test]
    fn a_pause_is_no_time_in_which_nobody_used_anything() {
        let expiry_ms = 30 * USED_DAY_MS;
        let fate = |head: &Head, day| head.fate(expiry_ms, day);
        let mut used = head(1000);
        used.used_looks = 70;
        // All servers were off, or the bucket is a restored one: nobody has looked since.
        assert_eq!(fate(&used, on(1400, 71)), Fate::Stays);
        assert_eq!(fate(&used, on(1400, 100)), Fate::Stays);
        assert_eq!(fate(&used, on(1430, 101)), Fate::Empty);
        // A server of another version says the date alone.
        used.used_day = 1429;
        assert_eq!(fate(&used, on(1430, 101)), Fate::Stays);
        used.used_looks = 0;
        assert_eq!(fate(&used, on(1430, 101)), Fate::NoteToday);
        // The count has begun anew.
        used.used_looks = 70;
        assert_eq!(fate(&used, on(1430, 2)), Fate::NoteToday);
        let noted = used.noted_on(on(1430, 2), RandomId(3));
        assert_eq!((noted.used_day, noted.used_looks), (1430, 2));
        // Whose clock is behind takes nothing back, and does not write by turns with who is ahead.
        let ahead = used.used_on(on(1432, 70), RandomId(4));
        assert!(!ahead.wants_day(on(1430, 70)) && ahead.wants_day(on(1433, 70)));
        let behind = ahead.used_on(on(1430, 1), RandomId(5));
        assert_eq!((behind.used_day, behind.used_looks), (1432, 70));
        assert_eq!(on(1430, 50).at(1420), on(1420, 40));
        assert_eq!(on(1430, 5).at(1420), on(1420, 0));
        assert_eq!(on(1430, 5).at(1440), on(1430, 5));
        let far = Head {
            used_day: u64::MAX,
            ..head(1)
        };
        assert!(far.encode().is_none(), "nobody gets there by counting");
    }

    #[test]
    fn a_head_stays_and_keeps_what_it_says() {
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
            assert!(
                change_head(&store, (&place, None), random, empty)
                    .await
                    .unwrap()
            );
            let (_, now) = head_in(&store, place.dir()).await.unwrap().unwrap();
            assert!(now.is_empty() && now.snapshots.is_empty() && now.refs.is_none());
            assert_eq!((now.generation, now.used_day), (3, 5));
            assert_eq!(now.condemned.len(), 1);
            // Whoever shares it meanwhile takes it back as it is.
            assert_eq!(now.condemned[0].bytes, Some(3));
            let due = |_: &Condemned| true;
            // Of one that was restored nobody removes anything who has seen a later one, and nobody says anything in it.
            let mut seen = Memory::of(place.identity.clone());
            assert!(seen.note(&now));
            seen.sequence += 5;
            let at = (&place, Some(&seen));
            let swept = sweep(&store, at, due, (random, 6)).await.unwrap();
            assert_eq!(swept, Swept::Lost);
            let used = |head: &Head, write| Some(head.noted_on(on(9, 9), write));
            assert!(!change_head(&store, at, random, used).await.unwrap());
            let broken = [now.condemned[0].key.clone()].into();
            assert!(!mark_broken(&store, at, &broken, random).await.unwrap());
            let (_, same) = head_in(&store, place.dir()).await.unwrap().unwrap();
            assert_eq!(same, now);
            let part = place.part(&now.condemned[0].key);
            assert!(store.get(&part, 9).await.unwrap().is_some());
            let swept = sweep(&store, (&place, None), due, (random, 6))
                .await
                .unwrap();
            assert_eq!(
                swept,
                Swept::Done {
                    condemned: 0,
                    removed: 1
                }
            );
            let (_, last) = head_in(&store, place.dir()).await.unwrap().unwrap();
            assert!(last.sequence > now.sequence && last.generation == 3);
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
