//! What was asked for lately, in one object for all: who starts with an empty disk begins with that.
//!
//! It has the last ones, by the hour. Nothing right rests on it: who writes a store can have it say anything, and clocks
//! differ. So what it names is looked at as what anybody may ask for, and nothing is removed for not standing there.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::key::RandomId;
use super::objects::{Condition, Found, ObjectError, Objects};
use super::publish::Draw;
use super::swap::{Swapped, swap};
use crate::limits::{
    REMOTE_TRIES_MAX, SMALL_OBJECT_BYTES_MAX, STORE_HEAD_COUNT_MAX, STORE_LOOK_AHEAD_HOURS_MAX,
    STORE_LOOK_GAP_DAYS_MAX, USED_NAME_BYTES_MAX, USED_NAMES_BYTES_MAX, USED_NAMES_MAX,
};

/// Its key.
pub const USED: &str = "v1/used.json";

/// The object.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Used {
    /// The last ones first.
    #[serde(default)]
    used: Vec<Use>,
    /// When somebody is to look at all heads next, in hours since 1970.
    #[serde(default)]
    look_hour: u64,
    /// On how many days somebody has looked at all heads,
    #[serde(default)]
    looks: u64,
    /// and up to which day that is counted, in days since 1970.
    #[serde(default)]
    look_day: u64,
    /// Of the write that made it.
    #[serde(default)]
    write: RandomId,
    /// What another version has written there.
    #[serde(flatten)]
    more: Map<String, Value>,
}

impl Used {
    /// Counts a day on which somebody looks, if it is another one than the last.
    fn count_look(&mut self, date: u64) {
        let is_far = date.abs_diff(self.look_day) > STORE_LOOK_GAP_DAYS_MAX;
        if is_far && self.looks > 0 {
            // Somebody's clock is wrong, or nobody has looked for long. Two that look in turn by clocks which are far from each
            // other would count each time, so neither does; nor does a third whose clock is right to a day.
            tracing::warn!(
                date,
                last = self.look_day,
                "the last look at the store was on a day far from this one, which is not counted"
            );
            self.look_day = date.saturating_add(1);
        } else if self.look_day < date || self.looks == 0 {
            (self.looks, self.look_day) = (self.looks.saturating_add(1), date);
        }
    }
}

/// A repository that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Use {
    /// Host and path, as a server knows it; of what was read nobody has looked at it.
    pub repository: String,
    /// The last time, in hours since 1970.
    pub hour: u64,
}

/// What was read of it.
fn decode(found: &Found) -> Option<Used> {
    let mut said: Used = serde_json::from_slice(&found.bytes).ok()?;
    if said.looks > STORE_HEAD_COUNT_MAX {
        // Nobody gets there by counting.
        said.looks = 0;
    }
    Some(said)
}

/// Both together: of each name the last use, and no more than anybody reads. Hours that are still to come are taken for
/// this one, so that nobody whose clock is ahead stays there for good.
fn merged(old: &[Use], new: &[Use], now_hour: u64) -> Vec<Use> {
    let mut last: BTreeMap<&str, u64> = BTreeMap::new();
    for one in old.iter().chain(new) {
        let is_name = one.repository.len() <= USED_NAME_BYTES_MAX
            && one.repository.bytes().all(|byte| byte.is_ascii_graphic());
        if is_name {
            let hour = last.entry(&one.repository).or_default();
            *hour = one.hour.min(now_hour).max(*hour);
        }
    }
    let mut last = Vec::from_iter(last);
    last.sort_by_key(|(_, hour)| std::cmp::Reverse(*hour));
    let mut bytes = 0;
    let fits = |(name, _): &(&str, u64)| {
        bytes += name.len();
        bytes <= USED_NAMES_BYTES_MAX
    };
    let last = last.into_iter().take(USED_NAMES_MAX).take_while(fits);
    let used = last.map(|(name, hour)| Use {
        repository: name.to_owned(),
        hour,
    });
    used.collect()
}

/// What was asked for lately, the last one first.
///
/// # Errors
/// It cannot be read. What is no such object says nothing.
pub async fn read(objects: &impl Objects) -> Result<Vec<Use>, ObjectError> {
    let mut used = said(objects).await?.used;
    used.sort_by_key(|one| std::cmp::Reverse(one.hour));
    used.truncate(USED_NAMES_MAX);
    Ok(used)
}

/// Has it say besides what others have written that these were used; whether it does by now. Nothing is written where it
/// says so already.
///
/// # Errors
/// Nobody knows.
pub async fn tell(
    objects: &impl Objects,
    (new, now_hour): (&[Use], u64),
    random: &mut impl Draw,
) -> Result<bool, ObjectError> {
    let say = |said: &mut Used| said.used = merged(&said.used, new, now_hour);
    change(objects, say, random).await
}

/// Whether all heads are to be looked at.
///
/// # Errors
/// It cannot be read.
pub async fn is_look_due(objects: &impl Objects, now_hour: u64) -> Result<bool, ObjectError> {
    let next = said(objects).await?.look_hour;
    Ok(next <= now_hour || next > now_hour + STORE_LOOK_AHEAD_HOURS_MAX)
}

/// Has it say when they are next; whether it does by now.
///
/// # Errors
/// Nobody knows.
pub async fn note_next_look(
    objects: &impl Objects,
    hour: u64,
    random: &mut impl Draw,
) -> Result<bool, ObjectError> {
    change(objects, |said| said.look_hour = hour, random).await
}

/// On how many days somebody has looked at all heads.
///
/// # Errors
/// It cannot be read.
pub async fn looks(objects: &impl Objects) -> Result<u64, ObjectError> {
    Ok(said(objects).await?.looks)
}

/// Counts a day on which somebody looks at all heads, once; the count by then. Nothing if others write all the time.
///
/// # Errors
/// Nobody knows.
pub async fn count_look(
    objects: &impl Objects,
    date: u64,
    random: &mut impl Draw,
) -> Result<Option<u64>, ObjectError> {
    let mut counted = 0;
    let count = |said: &mut Used| {
        said.count_look(date);
        counted = said.looks;
    };
    Ok(change(objects, count, random).await?.then_some(counted))
}

/// What it says. What is longer than anybody writes it says nothing.
async fn said(objects: &impl Objects) -> Result<Used, ObjectError> {
    match objects.get(USED, SMALL_OBJECT_BYTES_MAX).await {
        Ok(found) => Ok(found.as_ref().and_then(decode).unwrap_or_default()),
        Err(ObjectError::TooLong { .. }) => Ok(Used::default()),
        Err(why) => Err(why),
    }
}

async fn change(
    objects: &impl Objects,
    mut say: impl FnMut(&mut Used),
    random: &mut impl Draw,
) -> Result<bool, ObjectError> {
    for round in 0..REMOTE_TRIES_MAX {
        if round > 0 {
            objects.before_again(round).await;
        }
        let found = match objects.get(USED, SMALL_OBJECT_BYTES_MAX).await {
            Err(ObjectError::TooLong { .. }) => {
                // Nobody can read it, so nobody can replace it by a swap.
                objects.delete(USED).await?;
                None
            }
            found => found?,
        };
        let before = found.as_ref().and_then(decode).unwrap_or_default();
        let mut next = before.clone();
        say(&mut next);
        if next == before {
            return Ok(true);
        }
        next.write = random.draw();
        // Its keys are texts, so this cannot fail.
        let mut bytes = serde_json::to_vec(&next).unwrap_or_default();
        if bytes.len() > SMALL_OBJECT_BYTES_MAX {
            // Else nobody could read it any more.
            next.more = Map::new();
            bytes = serde_json::to_vec(&next).unwrap_or_default();
        }
        let condition = match found {
            None => Condition::Absent,
            Some(found) => Condition::Unchanged(found.version),
        };
        let is_own = |found: &Found| decode(found).is_some_and(|now| now.write == next.write);
        let key = (USED, SMALL_OBJECT_BYTES_MAX);
        if let Swapped::Done = swap(objects, key, &bytes, &condition, is_own).await? {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::super::files::FileStore;
    use super::super::publish::SystemRandom;
    use super::*;

    fn at(repository: &str, hour: u64) -> Use {
        let repository = repository.to_owned();
        Use { repository, hour }
    }

    fn run(work: impl Future<Output = ()>) {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_time().build().unwrap().block_on(work);
    }

    async fn told(store: &FileStore, new: &[Use], now: u64) -> bool {
        tell(store, (new, now), &mut SystemRandom).await.unwrap()
    }

    #[test]
    fn what_several_tell_is_there_together() {
        let dir = tempfile::tempdir().unwrap();
        let store = FileStore::open(dir.path());
        run(async {
            assert_eq!(read(&store).await.unwrap(), []);
            assert!(told(&store, &[at("h/a", 7), at("h/b", 9)], 10).await);
            // Clocks differ: a later hour stays, and none that is still to come.
            assert!(told(&store, &[at("h/b", 8), at("h/c", 99)], 10).await);
            let all = [at("h/c", 10), at("h/b", 9), at("h/a", 7)];
            assert_eq!(read(&store).await.unwrap(), all);
            let version = async || {
                let found = store.get(USED, SMALL_OBJECT_BYTES_MAX).await.unwrap();
                found.unwrap().version
            };
            let before = version().await;
            assert!(told(&store, &[at("h/b", 9)], 10).await);
            assert_eq!(version().await, before, "nothing has changed");
            // Nothing is said yet of looks.
            assert!(is_look_due(&store, 10).await.unwrap());
            assert!(note_next_look(&store, 34, &mut SystemRandom).await.unwrap());
            assert!(told(&store, &[at("h/d", 10)], 10).await);
            assert!(note_next_look(&store, 99, &mut SystemRandom).await.unwrap());
            assert!(is_look_due(&store, 10).await.unwrap(), "of a wrong clock");
            assert!(note_next_look(&store, 34, &mut SystemRandom).await.unwrap());
            for (hour, is_due) in [(10, false), (33, false), (34, true)] {
                assert_eq!(is_look_due(&store, hour).await.unwrap(), is_due, "{hour}");
            }
        });
    }

    #[test]
    fn a_day_of_looks_is_counted_once() {
        let dir = tempfile::tempdir().unwrap();
        let store = FileStore::open(dir.path());
        let mut random = SystemRandom;
        run(async {
            assert_eq!(looks(&store).await.unwrap(), 0);
            // A few days count as one; after more it is counted from the second day on.
            for (date, counted) in [
                (100, 1),
                (100, 1),
                (101, 2),
                (100, 2),
                (106, 3),
                (101, 3),
                (200, 3),
                (201, 3),
                (202, 4),
            ] {
                let now = count_look(&store, date, &mut random).await.unwrap();
                assert_eq!(now, Some(counted), "{date}");
            }
            assert!(told(&store, &[at("h/a", 1)], 1).await);
            assert_eq!(looks(&store).await.unwrap(), 4);
            // Of those who look in turn, a clock is far ahead, and two differ by a day: none counts twice.
            for date in 203..220 {
                for turn in [date + 20, date, date + 20, date - 1, date, date + 21] {
                    count_look(&store, turn, &mut random).await.unwrap();
                }
            }
            assert!(looks(&store).await.unwrap() == 4);
            // It is put right, and the count goes on.
            let before = looks(&store).await.unwrap();
            for date in 221..225 {
                count_look(&store, date, &mut random).await.unwrap();
            }
            assert!(looks(&store).await.unwrap() >= before + 2);
            let found = store.get(USED, SMALL_OBJECT_BYTES_MAX).await.unwrap();
            let condition = Condition::Unchanged(found.unwrap().version);
            let wrong = format!("{{\"looks\":{}}}", u64::MAX).into_bytes();
            store.swap(USED, wrong, &condition).await.unwrap();
            assert_eq!(looks(&store).await.unwrap(), 0);
        });
    }

    #[test]
    fn those_who_write_at_once_lose_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let store = FileStore::open(dir.path());
        run(async {
            let (one, two, three) = ([at("h/1", 1)], [at("h/2", 1)], [at("h/3", 1)]);
            let all = tokio::join!(
                told(&store, &one, 1),
                told(&store, &two, 1),
                told(&store, &three, 1)
            );
            assert_eq!(all, (true, true, true));
            assert_eq!(read(&store).await.unwrap().len(), 3);
        });
    }

    #[test]
    fn it_has_a_bound_whatever_stood_there() {
        let names = |count: usize, bytes: usize| {
            let names = (0..count).map(|n| at(&format!("h/{n:0bytes$}"), n as u64));
            Vec::from_iter(names)
        };
        let many = merged(&names(3 * USED_NAMES_MAX, 9), &[], 1 << 20);
        assert_eq!(many.len(), USED_NAMES_MAX);
        assert_eq!(many[0].hour, 3 * USED_NAMES_MAX as u64 - 1, "the last ones");
        let long = merged(&names(USED_NAMES_MAX, USED_NAME_BYTES_MAX - 2), &[], 9);
        let bytes: usize = long.iter().map(|one| one.repository.len()).sum();
        assert!(bytes <= USED_NAMES_BYTES_MAX && !long.is_empty());
        let no_names = [at("h/\u{1}", 1), at(&"x".repeat(1 << 16), 1), at("h/ä", 1)];
        assert_eq!(merged(&no_names, &[], 9), []);

        let dir = tempfile::tempdir().unwrap();
        let store = FileStore::open(dir.path());
        run(async {
            let surplus = "x".repeat(SMALL_OBJECT_BYTES_MAX - 100);
            let other = serde_json::json!({"used": [at("h/a", 1)], "other": surplus});
            let bytes = serde_json::to_vec(&other).unwrap();
            store.swap(USED, bytes, &Condition::Absent).await.unwrap();
            assert!(told(&store, &names(USED_NAMES_MAX, 9), 9).await);
            assert_eq!(read(&store).await.unwrap().len(), USED_NAMES_MAX);
            // What is no such object is replaced by one.
            let found = store.get(USED, SMALL_OBJECT_BYTES_MAX).await.unwrap();
            let condition = Condition::Unchanged(found.unwrap().version);
            store.swap(USED, b"[1".to_vec(), &condition).await.unwrap();
            assert_eq!(read(&store).await.unwrap(), []);
            assert!(told(&store, &[at("h/b", 1)], 9).await);
            assert_eq!(read(&store).await.unwrap(), [at("h/b", 1)]);
            // So is what nobody can read.
            let found = store.get(USED, SMALL_OBJECT_BYTES_MAX).await.unwrap();
            let condition = Condition::Unchanged(found.unwrap().version);
            let long = vec![b' '; SMALL_OBJECT_BYTES_MAX + 1];
            store.swap(USED, long, &condition).await.unwrap();
            assert_eq!(looks(&store).await.unwrap(), 0);
            assert_eq!(read(&store).await.unwrap(), []);
            assert!(told(&store, &[at("h/c", 1)], 9).await);
            assert_eq!(read(&store).await.unwrap(), [at("h/c", 1)]);
        });
    }
}
