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
    /// What its holder knew of the upstream by then, where it is for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compared: Option<Compared>,
    /// What another version has written there.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

/// What a head says of a repository, and that its upstream had the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compared {
    /// What snapshots are made as: those of another kind are not looked at by who says this.
    pub kind: String,
    /// A digest of what the upstream had, as it stands in the head.
    pub shows: String,
    /// When it was compared, by the clock of who says this: to tell how old that is, and for nothing else.
    pub unix_ms: u64,
}

/// Whose a lease is.
#[derive(Debug, Clone, PartialEq)]
pub enum Taken {
    /// This server's.
    Own,
    /// Another one's, which has written this; nothing if it was just written.
    Others(Option<Lease>),
}

/// What one server has seen of a lease. Its time is that server's own clock, which nobody sets: a lease has expired
/// when it was seen unchanged for long enough, whatever anybody's date is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Watch {
    seen: Option<(Version, u64)>,
    /// Of this server's last write, if it knows that.
    own: Option<Version>,
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
        stamp: (&mut impl Draw, impl Fn() -> u64),
    ) -> Result<bool, ObjectError> {
        let taken = self.take_for(objects, key, (me, None), stamp).await?;
        Ok(taken == Taken::Own)
    }

    /// The same by one who says what it knows; whose it is, and what that one says.
    ///
    /// # Errors
    /// Nobody knows who has it.
    pub async fn take_for(
        &mut self,
        objects: &impl Objects,
        key: &str,
        (me, compared): (RandomId, Option<Compared>),
        (random, now_ms): (&mut impl Draw, impl Fn() -> u64),
    ) -> Result<Taken, ObjectError> {
        let found = objects.get(key, SMALL_OBJECT_BYTES_MAX).await?;
        let lease = found.as_ref().and_then(decode);
        let holder = lease.as_ref().and_then(|lease| lease.holder);
        if let Some(found) = &found {
            // What is no lease is nobody's, once it has not changed for as long.
            let is_free = lease.is_some() && holder.is_none() || holder == Some(me);
            if !is_free && !self.has_expired(&found.version, now_ms()) {
                return Ok(Taken::Others(lease));
            }
        }
        let next = Lease::next(lease, (Some(me), compared), random);
        match self.write(objects, key, (next, found)).await? {
            true => Ok(Taken::Own),
            false => Ok(Taken::Others(None)),
        }
    }

    /// Which other server has it, for one that does not take it: nothing where it is free.
    ///
    /// # Errors
    /// Nobody knows who has it.
    pub async fn look(
        &mut self,
        objects: &impl Objects,
        key: &str,
        (me, now_ms): (RandomId, impl Fn() -> u64),
    ) -> Result<Option<Lease>, ObjectError> {
        let Some(found) = objects.get(key, SMALL_OBJECT_BYTES_MAX).await? else {
            return Ok(None);
        };
        let has_expired = self.has_expired(&found.version, now_ms());
        let is_others = |lease: &Lease| lease.holder.is_some_and(|holder| holder != me);
        let lease = decode(&found).filter(is_others);
        Ok(lease.filter(|_| !has_expired))
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
        self.keep_for(objects, key, (me, None), random).await
    }

    /// The same by one who says what it knows. Nothing is read for it where nobody has written since this server has.
    ///
    /// # Errors
    /// Nobody knows who has it.
    pub async fn keep_for(
        &mut self,
        objects: &impl Objects,
        key: &str,
        (me, compared): (RandomId, Option<Compared>),
        random: &mut impl Draw,
    ) -> Result<bool, ObjectError> {
        if let Some(own) = self.own.take() {
            let next = Lease::next(None, (Some(me), compared.clone()), random);
            let condition = Condition::Unchanged(own);
            if let Ok(version) = objects.swap(key, next.encode(), &condition).await {
                self.own = Some(version);
                return Ok(true);
            }
        }
        let found = objects.get(key, SMALL_OBJECT_BYTES_MAX).await?;
        let lease = found.as_ref().and_then(decode);
        if lease.as_ref().and_then(|lease| lease.holder) != Some(me) {
            return Ok(false);
        }
        let next = Lease::next(lease, (Some(me), compared), random);
        self.write(objects, key, (next, found)).await
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
        self.own = None;
        let found = objects.get(key, SMALL_OBJECT_BYTES_MAX).await?;
        let lease = found.as_ref().and_then(decode);
        if lease.as_ref().is_some_and(|lease| lease.holder == Some(me)) {
            let next = Lease::next(lease, (None, None), random);
            self.write(objects, key, (next, found)).await?;
        }
        Ok(())
    }

    /// Whether what stands there is what was written on top of what was found.
    async fn write(
        &mut self,
        objects: &impl Objects,
        key: &str,
        (next, found): (Lease, Option<Found>),
    ) -> Result<bool, ObjectError> {
        let condition = match found {
            None => Condition::Absent,
            Some(found) => Condition::Unchanged(found.version),
        };
        let bytes = next.encode();
        if let Ok(version) = objects.swap(key, bytes.clone(), &condition).await {
            // What another version has written there would be lost if it were not read.
            let is_whole = next.holder.is_some() && next.more.is_empty();
            self.own = is_whole.then_some(version);
            return Ok(true);
        }
        // It may be written all the same.
        let is_own = |found: &Found| decode(found).is_some_and(|lease| lease.write == next.write);
        let key = (key, SMALL_OBJECT_BYTES_MAX);
        let swapped = swap(objects, key, &bytes, &condition, is_own).await?;
        Ok(matches!(swapped, Swapped::Done))
    }
}

impl Lease {
    /// Another one on top of it.
    fn next(
        before: Option<Lease>,
        (holder, compared): (Option<RandomId>, Option<Compared>),
        random: &mut impl Draw,
    ) -> Lease {
        Lease {
            holder,
            write: random.draw(),
            compared,
            more: before.map_or_else(Map::new, |before| before.more),
        }
    }

    /// Its keys are texts, so this cannot fail.
    fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}

fn decode(found: &Found) -> Option<Lease> {
    serde_json::from_slice(&found.bytes).ok()
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
