//! Who works on a repository. Nothing right rests on it: it saves comparisons, clones and upkeep.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::key::RandomId;
use super::objects::{Condition, Found, ObjectError, Objects, Version};
use super::publish::Draw;
use super::swap::{Swapped, swap};
use crate::limits::{LEASE_MS, SMALL_OBJECT_BYTES_MAX};

/// The object.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Lease {
    /// The server that has it; none that has given it back.
    pub holder: Option<RandomId>,
    /// Of the write that made it: each renewal is another.
    pub write: RandomId,
    /// What another version has written there.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

/// What one server has seen of a lease. Its time is that server's own clock, which nobody sets: a lease has expired
/// when it was seen unchanged for long enough, whatever anybody's date is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Watch {
    seen: Option<(Version, u64)>,
}

impl Watch {
    /// Whether a lease that is found at a time can be taken from whoever has it.
    pub fn has_expired(&mut self, version: &Version, now_ms: u64) -> bool {
        match &self.seen {
            Some((seen, since_ms)) if seen == version => {
                now_ms.saturating_sub(*since_ms) >= LEASE_MS
            }
            _ => {
                self.seen = Some((version.clone(), now_ms));
                false
            }
        }
    }

    /// Takes the lease or renews it; whether this server has it. The clock is asked once the lease was read: one that
    /// was asked before would count time in which it was renewed.
    ///
    /// # Errors
    /// Nobody knows who has it.
    pub async fn take(
        &mut self,
        objects: &impl Objects,
        key: &str,
        me: RandomId,
        (random, now_ms): (&mut impl Draw, impl Fn() -> u64),
    ) -> Result<bool, ObjectError> {
        let found = objects.get(key, SMALL_OBJECT_BYTES_MAX).await?;
        let lease = found.as_ref().and_then(decode);
        let holder = lease.as_ref().and_then(|lease| lease.holder);
        if let Some(found) = &found {
            // What is no lease is nobody's, once it has not changed for as long.
            let is_free = lease.is_some() && holder.is_none() || holder == Some(me);
            if !is_free && !self.has_expired(&found.version, now_ms()) {
                return Ok(false);
            }
        }
        write(objects, key, (Some(me), found, lease), random).await
    }

    /// Renews it, if this server has it still. One that somebody else has had since is lost, also if it is free again: what was
    /// seen under it may be so no more.
    ///
    /// # Errors
    /// Nobody knows who has it.
    pub async fn keep(
        &mut self,
        objects: &impl Objects,
        key: &str,
        me: RandomId,
        random: &mut impl Draw,
    ) -> Result<bool, ObjectError> {
        let found = objects.get(key, SMALL_OBJECT_BYTES_MAX).await?;
        let lease = found.as_ref().and_then(decode);
        if lease.as_ref().and_then(|lease| lease.holder) != Some(me) {
            return Ok(false);
        }
        write(objects, key, (Some(me), found, lease), random).await
    }

    /// Gives it back, if this server has it.
    ///
    /// # Errors
    /// It is given back, or expires.
    pub async fn give_back(
        &mut self,
        objects: &impl Objects,
        key: &str,
        me: RandomId,
        random: &mut impl Draw,
    ) -> Result<(), ObjectError> {
        let found = objects.get(key, SMALL_OBJECT_BYTES_MAX).await?;
        let lease = found.as_ref().and_then(decode);
        if lease.as_ref().is_some_and(|lease| lease.holder == Some(me)) {
            write(objects, key, (None, found, lease), random).await?;
        }
        Ok(())
    }
}

fn decode(found: &Found) -> Option<Lease> {
    serde_json::from_slice(&found.bytes).ok()
}

async fn write(
    objects: &impl Objects,
    key: &str,
    (holder, found, lease): (Option<RandomId>, Option<Found>, Option<Lease>),
    random: &mut impl Draw,
) -> Result<bool, ObjectError> {
    let written = Lease {
        holder,
        write: random.draw(),
        more: lease.map_or_else(Map::new, |lease| lease.more),
    };
    let condition = match found {
        None => Condition::Absent,
        Some(found) => Condition::Unchanged(found.version),
    };
    // Its keys are texts, so this cannot fail.
    let bytes = serde_json::to_vec(&written).unwrap_or_default();
    let is_own = |found: &Found| decode(found).is_some_and(|lease| lease.write == written.write);
    let key = (key, SMALL_OBJECT_BYTES_MAX);
    let swapped = swap(objects, key, &bytes, &condition, is_own).await?;
    Ok(matches!(swapped, Swapped::Done))
}

#[cfg(test)]
mod tests {
    use super::super::files::FileStore;
    use super::super::publish::SystemRandom;
    use super::*;

    #[test]
    fn what_somebody_else_has_had_is_lost_also_if_it_is_free_again() {
        let dir = tempfile::tempdir().unwrap();
        let store = FileStore::open(dir.path());
        let (one, other) = (RandomId(1), RandomId(2));
        let (mut first, mut second) = (Watch::default(), Watch::default());
        let random = &mut SystemRandom;
        let key = "v1/lease.json";
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_time().build().unwrap().block_on(async {
            assert!(!first.keep(&store, key, one, random).await.unwrap());
            let taken = first.take(&store, key, one, (random, || 0)).await;
            assert!(taken.unwrap());
            assert!(first.keep(&store, key, one, random).await.unwrap());
            for (now_ms, is_taken) in [(0, false), (LEASE_MS, true)] {
                let taken = second.take(&store, key, other, (random, || now_ms)).await;
                assert_eq!(taken.unwrap(), is_taken);
            }
            assert!(!first.keep(&store, key, one, random).await.unwrap());
            second.give_back(&store, key, other, random).await.unwrap();
            assert!(!first.keep(&store, key, one, random).await.unwrap());
            let taken = first.take(&store, key, one, (random, || 0)).await;
            assert!(taken.unwrap());
        });
    }
}
