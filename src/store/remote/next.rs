//! Which head may follow another one: functions of heads, as these are.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Map;

use super::change::{Change, Generation, NewSnapshot, NotYet, Uploaded};
use super::head::{Condemned, Head, Snapshot, Stored};
use super::key::{PartKey, RandomId};
use super::listing::Listing;
use crate::limits::{
    REMOTE_KEPT_MS, STORE_CONDEMNED_MAX, STORE_HEAD_RAISES_KEPT, STORE_HEAD_WRITES_KEPT,
};

impl Head {
    /// What follows it when somebody writes: the next sequence, his write, and nothing else.
    pub(super) fn followed_by(&self, write: RandomId) -> Head {
        let mut next = self.clone();
        next.sequence += 1;
        // There is none of one that is only thought of.
        if !self.is_thought() {
            next.writes.push(self.write);
        }
        let surplus = next.writes.len().saturating_sub(STORE_HEAD_WRITES_KEPT);
        next.writes.drain(..surplus);
        next.write = write;
        next
    }

    /// The head that says what a server wants it to say, with what is there and what that server has uploaded.
    ///
    /// # Errors
    /// See [`NotYet`].
    pub fn with(
        &self,
        change: &Change,
        lengths: impl Fn(&str) -> Option<u64>,
        (listing, uploaded): (&Listing, &BTreeMap<String, Uploaded>),
        (write, now_unix_ms): (RandomId, u64),
    ) -> Result<Head, NotYet> {
        if self.is_later(change.generation) {
            return Err(NotYet::Behind);
        }
        let usable = Usable::of(self, listing, uploaded);
        let (mut found, mut missing) = (BTreeMap::new(), BTreeSet::new());
        for name in change.names() {
            let bytes = lengths(name);
            match bytes.and_then(|bytes| Some((usable.key(name, bytes)?, bytes))) {
                Some(usable) => drop(found.insert(name, usable)),
                None => drop(missing.insert(name.to_owned())),
            }
        }
        if !missing.is_empty() {
            return Err(NotYet::Missing(missing.into_iter().collect()));
        }
        let key = |name: &String| found[&**name].0.clone();
        let mut next = self.followed_by(write);
        next.shares = next.shares.saturating_add(1);
        change.used.inspect(|day| next.note_used(*day));
        if change.generation != self.at() {
            next.expire(change.generation, change.after);
        }
        next.repair(found.values().map(|(key, _)| key));
        let mut sound = self.sound(listing);
        sound.extend(found.values().map(|(key, _)| key));
        next.drop_unsound(&sound);
        if let Some((packs, refs)) = &change.mirror {
            next.packs = packs.iter().map(key).collect();
            next.refs = Some(key(refs));
        }
        for new in &change.snapshots {
            let snapshot = Snapshot {
                about: new.about.clone(),
                id: new.id.to_string(),
                shows: new.shows.clone(),
                generation: change.generation.number,
                manifest: key(&new.manifest),
                parts: new.parts.iter().map(key).collect(),
                compared_unix_ms: new.compared_unix_ms,
                replaced_unix_ms: None,
                more: Map::new(),
            };
            next.make_current(snapshot, now_unix_ms);
        }
        let known = found.values().map(|(key, bytes)| Stored {
            key: key.clone(),
            bytes: *bytes,
            more: Map::new(),
        });
        next.settle(known.collect(), now_unix_ms);
        // That something has expired besides is no use.
        next.emptied = (self.is_emptied() && next.is_empty()).then_some(next.shares);
        Ok(next)
    }

    /// Whether it says all that already, and all that it says is there. A snapshot with the same id is the same,
    /// whatever parts it is made of.
    #[must_use]
    pub fn says(&self, change: &Change, listing: &Listing) -> bool {
        let sound = self.sound(listing);
        let is = |name: &String, key: &PartKey| name == key.name() && sound.contains(key);
        let mirror = change.mirror.as_ref().is_none_or(|(packs, refs)| {
            let are_packs = packs.len() == self.packs.len()
                && packs
                    .iter()
                    .zip(&self.packs)
                    .all(|(name, key)| is(name, key));
            are_packs && self.refs.as_ref().is_some_and(|key| is(refs, key))
        });
        let is_said = |new: &NewSnapshot| {
            let current = self.current(&new.about);
            current.is_some_and(|current| {
                let mut parts = current.parts.iter().chain([&current.manifest]);
                current.id == new.id.as_str() && parts.all(|key| sound.contains(key))
            })
        };
        self.at() == change.generation && mirror && change.snapshots.iter().all(is_said)
    }

    /// The head that says that these are not what they should be; `None` if it knows, or names none of them.
    #[must_use]
    pub fn with_broken(
        &self,
        broken: impl IntoIterator<Item = PartKey>,
        write: RandomId,
    ) -> Option<Head> {
        let sound = self.unbroken();
        let is_news = |key: &PartKey| sound.contains(key);
        let mut next = self.followed_by(write);
        next.broken.extend(broken.into_iter().filter(is_news));
        (next.broken.len() > self.broken.len()).then_some(next)
    }

    fn unbroken(&self) -> BTreeSet<&PartKey> {
        let broken: BTreeSet<&PartKey> = self.broken.iter().collect();
        self.keys().filter(|key| !broken.contains(key)).collect()
    }

    /// Nothing that was made before is named any more. Who shares this has had gone what had expired by both, by the head and by
    /// its own generation, which this one may not have followed.
    fn expire(&mut self, generation: Generation, after: Generation) {
        let is_known = self.follows(after) || after == generation;
        self.raises.extend((!is_known).then_some(after.raise));
        self.raises.push(self.raise);
        let surplus = self.raises.len().saturating_sub(STORE_HEAD_RAISES_KEPT);
        self.raises.drain(..surplus);
        (self.generation, self.raise) = (generation.number, generation.raise);
        self.snapshots.clear();
        self.packs.clear();
        self.refs = None;
    }

    /// What lacks something that nobody has uploaded again is named no more: who has it shares it anew.
    fn drop_unsound(&mut self, sound: &BTreeSet<&PartKey>) {
        self.snapshots.retain(|one| {
            let mut parts = one.parts.iter().chain([&one.manifest]);
            parts.all(|key| sound.contains(key))
        });
        let mut mirror = self.packs.iter().chain(&self.refs);
        if !mirror.all(|key| sound.contains(key)) {
            self.packs.clear();
            self.refs = None;
        }
    }

    /// What is named by another key than one of these, which has the same name, was lost or is broken: it is named by this
    /// one from here on.
    fn repair<'k>(&mut self, keys: impl Iterator<Item = &'k PartKey>) {
        let by_name: BTreeMap<&str, &PartKey> = keys.map(|key| (key.name(), key)).collect();
        let snapshots = self.snapshots.iter_mut();
        let of_snapshots =
            snapshots.flat_map(|one| one.parts.iter_mut().chain([&mut one.manifest]));
        let named = self.packs.iter_mut().chain(&mut self.refs);
        for key in named.chain(of_snapshots) {
            if let Some(now) = by_name.get(key.name()).filter(|now| ***now != *key) {
                *key = (*now).clone();
            }
        }
    }

    /// The one before goes in an hour; if it is the same archive in other parts it goes at once.
    fn make_current(&mut self, new: Snapshot, now_unix_ms: u64) {
        self.snapshots
            .retain(|old| old.about != new.about || old.id != new.id);
        for old in &mut self.snapshots {
            if old.about == new.about && old.replaced_unix_ms.is_none() {
                old.replaced_unix_ms = Some(now_unix_ms);
            }
        }
        let is_kept = |old: &Snapshot| {
            let replaced = old.replaced_unix_ms;
            replaced.is_none_or(|then| then.saturating_add(REMOTE_KEPT_MS) > now_unix_ms)
        };
        self.snapshots.retain(is_kept);
        self.snapshots.push(new);
    }

    /// Parts are what is named; what is named no more is condemned, and what is named again is not.
    pub(super) fn settle(&mut self, known: Vec<Stored>, now_unix_ms: u64) {
        let named: BTreeSet<PartKey> = self.named().into_iter().cloned().collect();
        let before = std::mem::take(&mut self.parts);
        let mut all: BTreeMap<PartKey, Stored> = BTreeMap::new();
        for part in before.into_iter().chain(known) {
            all.entry(part.key.clone()).or_insert(part);
        }
        self.condemned.retain(|old| !named.contains(&old.key));
        let broken = std::mem::take(&mut self.broken);
        let (still, gone): (Vec<_>, BTreeSet<_>) = {
            let (still, gone): (Vec<_>, Vec<_>) =
                broken.into_iter().partition(|key| named.contains(key));
            (still, gone.into_iter().collect())
        };
        self.broken = still;
        for (key, part) in all {
            if named.contains(&key) {
                self.parts.push(part);
            } else {
                self.condemned.push(Condemned {
                    // What is broken nobody takes back.
                    bytes: (!gone.contains(&key)).then_some(part.bytes),
                    key,
                    since_unix_ms: now_unix_ms,
                    more: Map::new(),
                });
            }
        }
        // The others are found by who lists what is there.
        self.condemned.truncate(STORE_CONDEMNED_MAX);
    }

    /// The head that condemns what is stored and nobody names, and gives up what was condemned for long enough.
    /// `listing` is what was there when this head had been read; `None` if nothing changes.
    ///
    /// What `removed` says before must be gone by now: only the last removal is remembered.
    #[must_use]
    pub fn collecting(
        &self,
        listing: &Listing,
        is_due: impl Fn(&Condemned) -> bool,
        (write, now_unix_ms): (RandomId, u64),
    ) -> Option<Head> {
        let mut known: BTreeSet<&PartKey> = self.keys().chain(&self.removed).collect();
        known.extend(self.condemned.iter().map(|condemned| &condemned.key));
        let orphans = listing.keys().filter(|key| !known.contains(key));
        let orphans = orphans.map(|key| Condemned {
            key: key.clone(),
            bytes: None,
            since_unix_ms: now_unix_ms,
            more: Map::new(),
        });
        let room = STORE_CONDEMNED_MAX.saturating_sub(self.condemned.len());
        let orphans = Vec::from_iter(orphans.take(room));
        let is_due: Vec<bool> = self.condemned.iter().map(is_due).collect();
        if orphans.is_empty() && !is_due.contains(&true) {
            return None;
        }
        let mut next = self.followed_by(write);
        if is_due.contains(&true) {
            let (mut due, mut kept) = (Vec::new(), Vec::new());
            for (condemned, is_due) in std::mem::take(&mut next.condemned).into_iter().zip(is_due) {
                match is_due {
                    true => due.push(condemned.key),
                    false => kept.push(condemned),
                }
            }
            next.condemned = kept;
            next.removed = due;
            next.removals += 1;
        }
        next.condemned.extend(orphans);
        Some(next)
    }
}

/// By which keys parts can be named on top of a head.
struct Usable<'h> {
    head: &'h Head,
    listing: &'h Listing,
    uploaded: &'h BTreeMap<String, Uploaded>,
    named: BTreeMap<&'h str, &'h Stored>,
    condemned: BTreeMap<&'h str, &'h Condemned>,
}

impl<'h> Usable<'h> {
    fn of(
        head: &'h Head,
        listing: &'h Listing,
        uploaded: &'h BTreeMap<String, Uploaded>,
    ) -> Usable<'h> {
        let broken: BTreeSet<&PartKey> = head.broken.iter().collect();
        let named = head.parts.iter().map(|part| (part.key.name(), part));
        let named = named.filter(|(_, part)| !broken.contains(&part.key));
        let condemned = head.condemned.iter().map(|one| (one.key.name(), one));
        Usable {
            head,
            listing,
            uploaded,
            named: named.collect(),
            condemned: condemned.collect(),
        }
    }

    /// It is named, or condemned and taken off that list when it is named, and it is there; or it was uploaded and cannot
    /// have gone since.
    fn key(&self, name: &str, bytes: u64) -> Option<PartKey> {
        let is_there = |key: &&PartKey| self.listing.has(key, bytes);
        let named = self.named.get(name).map(|part| &part.key);
        let condemned = self.condemned.get(name);
        let condemned = condemned.filter(|one| one.bytes == Some(bytes));
        let condemned = condemned.map(|one| &one.key);
        let own = self.uploaded.get(name).filter(|own| {
            own.bytes == bytes && own.is_sure_on(self.head.removals, &self.head.removed)
        });
        let old = named.filter(is_there).or(condemned.filter(is_there));
        old.or(own.map(|own| &own.key)).cloned()
    }
}
