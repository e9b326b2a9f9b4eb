//! Which repositories had something expire lately, in one object for all: a server reads it now and then instead of the
//! heads of all repositories that nobody asks it for.
//!
//! It says that a look is worth it, and nothing rests on what else it says. It has the last ones; who has missed some looks
//! at all it has.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::key::{Place, RandomId};
use super::objects::{Condition, Found, Got, ObjectError, Objects, Version};
use super::publish::Draw;
use super::swap::{Swapped, swap};
use crate::limits::{RAISES_TOLD_MAX, REMOTE_TRIES_MAX, SMALL_OBJECT_BYTES_MAX};

/// Its key.
pub const RAISED: &str = "v1/raised.json";

/// The object.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Raised {
    /// The last one last.
    #[serde(default)]
    raises: Vec<Raise>,
    /// Of the write that made it.
    #[serde(default)]
    write: RandomId,
    /// What another version has written there.
    #[serde(flatten)]
    more: Map<String, Value>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Raise {
    /// The directory of the repository.
    repository: String,
    raise: RandomId,
}

fn decode(found: &Found) -> Option<Raised> {
    serde_json::from_slice(&found.bytes).ok()
}

/// Has it say that a repository's generation was raised; whether it does by now.
///
/// # Errors
/// Nobody knows.
pub async fn tell(
    objects: &impl Objects,
    (place, raise): (&Place, RandomId),
    random: &mut impl Draw,
) -> Result<bool, ObjectError> {
    for round in 0..REMOTE_TRIES_MAX {
        if round > 0 {
            objects.before_again(round).await;
        }
        let found = objects.get(RAISED, SMALL_OBJECT_BYTES_MAX).await?;
        let mut raised = found.as_ref().and_then(decode).unwrap_or_default();
        if raised.raises.iter().any(|one| one.raise == raise) {
            return Ok(true);
        }
        let repository = place.dir().to_owned();
        raised.raises.push(Raise { repository, raise });
        let surplus = raised.raises.len().saturating_sub(RAISES_TOLD_MAX);
        raised.raises.drain(..surplus);
        raised.write = random.draw();
        let condition = match found {
            None => Condition::Absent,
            Some(found) => Condition::Unchanged(found.version),
        };
        // Its keys are texts, so this cannot fail.
        let bytes = serde_json::to_vec(&raised).unwrap_or_default();
        let is_own = |found: &Found| decode(found).is_some_and(|now| now.write == raised.write);
        let key = (RAISED, SMALL_OBJECT_BYTES_MAX);
        if let Swapped::Done = swap(objects, key, &bytes, &condition, is_own).await? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What one server has heard.
#[derive(Debug, Default)]
pub struct Heard {
    version: Option<Version>,
    raises: BTreeSet<RandomId>,
    /// The last of them, and whether there were any: what does not have it any more is not what was heard before.
    last: Option<RandomId>,
    has_heard: bool,
}

/// Where a look is worth it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct News {
    /// In these directories.
    pub of: BTreeSet<String>,
    /// In all others as well, sooner or later: something may have been missed.
    pub is_all: bool,
}

impl Heard {
    /// What is new since the last time.
    ///
    /// # Errors
    /// It is heard the next time.
    pub async fn news(&mut self, objects: &impl Objects) -> Result<News, ObjectError> {
        let known = self.version.as_ref();
        let got = objects.get_unless(RAISED, SMALL_OBJECT_BYTES_MAX, known);
        let found = match got.await? {
            Got::Same => return Ok(News::default()),
            Got::Found(found) => Some(found),
            Got::Absent => None,
        };
        let raised = found.as_ref().and_then(decode).unwrap_or_default();
        let now: BTreeSet<RandomId> = raised.raises.iter().map(|one| one.raise).collect();
        let has_missed = match self.last {
            // The store was emptied or restored, or told of more than it has room for.
            Some(last) => !now.contains(&last),
            None => !self.has_heard || raised.raises.len() >= RAISES_TOLD_MAX,
        };
        let last = raised.raises.last().map(|one| one.raise);
        let new = raised.raises.into_iter();
        let new = new.filter(|one| !self.raises.contains(&one.raise));
        let new = new.map(|one| one.repository).collect();
        self.version = found.map(|found| found.version);
        (self.raises, self.last, self.has_heard) = (now, last, true);
        Ok(News {
            of: new,
            is_all: has_missed,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::files::FileStore;
    use super::super::key::Identity;
    use super::super::publish::SystemRandom;
    use super::*;

    fn place(path: &str) -> Place {
        let [host, path, url] = ["h", path, "https://h"].map(str::to_owned);
        Place::of(Identity { host, path, url })
    }

    async fn told(store: &FileStore, path: &str, raise: u128) -> bool {
        let what = (&place(path), RandomId(raise));
        tell(store, what, &mut SystemRandom).await.unwrap()
    }

    #[test]
    fn what_is_told_is_heard_once() {
        let dir = tempfile::tempdir().unwrap();
        let store = FileStore::open(dir.path());
        let dirs = |paths: &[&str]| {
            let dirs = paths.iter().map(|path| place(path).dir().to_owned());
            News {
                of: dirs.collect(),
                is_all: false,
            }
        };
        let all = |paths: &[&str]| News {
            is_all: true,
            ..dirs(paths)
        };
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_time().build().unwrap().block_on(async {
            // Who has just started knows nothing.
            let mut heard = Heard::default();
            assert_eq!(heard.news(&store).await.unwrap(), all(&[]));
            assert_eq!(heard.news(&store).await.unwrap(), dirs(&[]));
            for (path, raise) in [("a", 1), ("a", 1), ("b", 2)] {
                assert!(told(&store, path, raise).await);
            }
            assert_eq!(heard.news(&store).await.unwrap(), dirs(&["a", "b"]));
            assert_eq!(heard.news(&store).await.unwrap(), dirs(&[]));
            assert!(told(&store, "c", 3).await);
            assert_eq!(heard.news(&store).await.unwrap(), dirs(&["c"]));
            // Then many, until it has nothing any more of what this one has heard.
            let found = store.get(RAISED, SMALL_OBJECT_BYTES_MAX).await.unwrap();
            let mut raised = decode(found.as_ref().unwrap()).unwrap();
            let raises = (0..RAISES_TOLD_MAX as u128).map(|raise| Raise {
                repository: place("d").dir().to_owned(),
                raise: RandomId(1 << 64 | raise),
            });
            raised.raises = raises.collect();
            let bytes = serde_json::to_vec(&raised).unwrap();
            let condition = Condition::Unchanged(found.unwrap().version);
            store.swap(RAISED, bytes, &condition).await.unwrap();
            assert!(told(&store, "e", 4).await);
            assert_eq!(heard.news(&store).await.unwrap(), all(&["d", "e"]));
            assert_eq!(heard.news(&store).await.unwrap(), dirs(&[]));
            // It was emptied, and somebody tells there.
            store.delete(RAISED).await.unwrap();
            assert!(told(&store, "f", 5).await);
            assert_eq!(heard.news(&store).await.unwrap(), all(&["f"]));
            store.delete(RAISED).await.unwrap();
            assert_eq!(heard.news(&store).await.unwrap(), all(&[]));
            assert_eq!(heard.news(&store).await.unwrap(), dirs(&[]));
        });
    }
}
