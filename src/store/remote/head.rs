//! The head of a repository: the one object that matters and is ever replaced. What it names is written once.
//!
//! Everything here is a function of heads: nothing is read, and no clock asked. What a server does not know of a head
//! that another version has written it keeps.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::change::{About, Change, NewSnapshot, Uploaded};
use super::key::{Identity, PartKey, RandomId};
use crate::limits::{
    REMOTE_KEPT_MS, STORE_HEAD_BYTES_MAX, STORE_HEAD_ITEMS_MAX, STORE_HEAD_TEXT_BYTES_MAX,
    STORE_HEAD_WRITES_KEPT,
};

/// See the module's text. Any that was decoded is sound.
///
/// Invariants:
/// 1. What packs, refs and snapshots name stands in `parts`, and nothing else does.
/// 2. No key stands twice in `parts`, `condemned` and `removed` together, and no name twice in `parts`.
/// 3. There is at most one current snapshot of each want and kind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Head {
    /// Whose it is.
    pub repository: Identity,
    /// One more with each write.
    pub sequence: u64,
    /// One more with each expiry of what no ref leads to.
    pub generation: u64,
    /// Of the write that made it.
    pub write: RandomId,
    /// Of the writes before it, the last one last.
    #[serde(default)]
    pub writes: Vec<RandomId>,
    /// What is stored and named.
    #[serde(default)]
    pub parts: Vec<Stored>,
    /// The files of the mirror's packs.
    #[serde(default)]
    pub packs: Vec<PartKey>,
    /// The mirror's refs.
    #[serde(default)]
    pub refs: Option<PartKey>,
    /// The current snapshots, and those that were lately replaced.
    #[serde(default)]
    pub snapshots: Vec<Snapshot>,
    /// What nothing names and will be removed.
    #[serde(default)]
    pub condemned: Vec<Condemned>,
    /// What the last removal was of: no longer anybody's to name, and perhaps still there.
    #[serde(default)]
    pub removed: Vec<PartKey>,
    /// How many removals there were.
    #[serde(default)]
    pub removals: u64,
    /// What another version has written there.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

/// A part.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stored {
    /// Its key.
    pub key: PartKey,
    /// Its length.
    pub bytes: u64,
    /// What another version has written there.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

/// A snapshot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// What it is of.
    #[serde(flatten)]
    pub about: About,
    /// Its `ETag`.
    pub id: String,
    /// Its manifest.
    pub manifest: PartKey,
    /// What it is made of.
    pub parts: Vec<PartKey>,
    /// When the upstream was last compared that had it: to tell how old it is, and for nothing else.
    #[serde(default)]
    pub compared_unix_ms: u64,
    /// Since when another one is the current.
    #[serde(default)]
    pub replaced_unix_ms: Option<u64>,
    /// What another version has written there.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

/// A part that will be removed, unless somebody names it before.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Condemned {
    /// Its key.
    pub key: PartKey,
    /// Its length, where that is known.
    #[serde(default)]
    pub bytes: Option<u64>,
    /// Since when.
    pub since_unix_ms: u64,
    /// What another version has written there.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

/// Why bytes are no head.
#[derive(Debug, thiserror::Error)]
pub enum BadHead {
    #[error("line {} column {}: {source}", source.line(), source.column())]
    Json { source: serde_json::Error },
    #[error("it is the head of another repository, {host}/{path}")]
    Elsewhere { host: String, path: String },
    #[error(
        "it has more than {STORE_HEAD_BYTES_MAX} bytes or {STORE_HEAD_ITEMS_MAX} items, or a longer text"
    )]
    TooLong,
    #[error("{key} is named and does not stand among the parts, or the other way round")]
    Unnamed { key: String },
    #[error("{key} stands there twice")]
    Twice { key: String },
}

impl Head {
    /// The head of a repository of which nothing is stored.
    #[must_use]
    pub fn empty(repository: Identity) -> Head {
        Head {
            repository,
            sequence: 0,
            generation: 0,
            write: RandomId(0),
            writes: Vec::new(),
            parts: Vec::new(),
            packs: Vec::new(),
            refs: None,
            snapshots: Vec::new(),
            condemned: Vec::new(),
            removed: Vec::new(),
            removals: 0,
            more: Map::new(),
        }
    }

    /// Reads one. Any bytes give a head that holds every invariant, or an error.
    ///
    /// # Errors
    /// See [`BadHead`].
    pub fn decode(bytes: &[u8], identity: &Identity) -> Result<Head, BadHead> {
        if bytes.len() > STORE_HEAD_BYTES_MAX {
            return Err(BadHead::TooLong);
        }
        let head: Head =
            serde_json::from_slice(bytes).map_err(|source| BadHead::Json { source })?;
        if head.repository != *identity {
            return Err(BadHead::Elsewhere {
                host: head.repository.host,
                path: head.repository.path,
            });
        }
        head.check()?;
        Ok(head)
    }

    /// The bytes of the object; `None` if they are more than anybody reads.
    #[must_use]
    pub fn encode(&self) -> Option<Vec<u8>> {
        // It has no map with other keys than texts, which is all that can fail.
        let bytes = serde_json::to_vec(self).ok()?;
        (bytes.len() <= STORE_HEAD_BYTES_MAX && self.check().is_ok()).then_some(bytes)
    }

    fn check(&self) -> Result<(), BadHead> {
        let parts_of = self.snapshots.iter().map(|snapshot| snapshot.parts.len());
        let counts = [
            self.parts.len(),
            self.packs.len(),
            self.snapshots.len(),
            self.condemned.len(),
            self.removed.len(),
            self.writes.len(),
        ];
        let is_long = |text: &String| text.len() > STORE_HEAD_TEXT_BYTES_MAX;
        let abouts = self.snapshots.iter().map(|snapshot| &snapshot.about);
        let has_long = |about: &About| is_long(&about.want) || is_long(&about.kind);
        if counts
            .into_iter()
            .chain(parts_of)
            .any(|count| count > STORE_HEAD_ITEMS_MAX)
            || abouts.clone().any(has_long)
        {
            return Err(BadHead::TooLong);
        }
        let twice = |key: &PartKey| BadHead::Twice {
            key: key.to_string(),
        };
        let (mut keys, mut names) = (BTreeSet::new(), BTreeSet::new());
        let condemned = self.condemned.iter().map(|condemned| &condemned.key);
        for key in self.keys().chain(condemned).chain(&self.removed) {
            if !keys.insert(key) {
                return Err(twice(key));
            }
        }
        if let Some(key) = self.keys().find(|key| !names.insert(key.name())) {
            return Err(twice(key));
        }
        let stored: BTreeSet<&PartKey> = self.keys().collect();
        if let Some(key) = stored.symmetric_difference(&self.named()).next() {
            let key = key.to_string();
            return Err(BadHead::Unnamed { key });
        }
        let mut current = BTreeSet::new();
        let is_current = |snapshot: &&Snapshot| snapshot.replaced_unix_ms.is_none();
        match self
            .snapshots
            .iter()
            .filter(is_current)
            .find(|snapshot| !current.insert(&snapshot.about))
        {
            Some(snapshot) => Err(twice(&snapshot.manifest)),
            None => Ok(()),
        }
    }

    fn keys(&self) -> impl Iterator<Item = &PartKey> {
        self.parts.iter().map(|part| &part.key)
    }

    /// All that it names.
    fn named(&self) -> BTreeSet<&PartKey> {
        let manifests = self.snapshots.iter().map(|snapshot| &snapshot.manifest);
        let parts = self.snapshots.iter().flat_map(|snapshot| &snapshot.parts);
        let mirror = self.packs.iter().chain(&self.refs);
        mirror.chain(manifests).chain(parts).collect()
    }

    /// Whether it was written by this write, or on top of it: a refusal may be one's own success.
    #[must_use]
    pub fn is_of(&self, write: RandomId) -> bool {
        self.write == write || self.writes.contains(&write)
    }

    /// The current snapshot of something.
    #[must_use]
    pub fn current(&self, about: &About) -> Option<&Snapshot> {
        let is_it = |s: &&Snapshot| s.replaced_unix_ms.is_none() && s.about == *about;
        self.snapshots.iter().find(is_it)
    }

    /// A part by its key.
    #[must_use]
    pub fn stored(&self, key: &PartKey) -> Option<&Stored> {
        self.parts.iter().find(|part| part.key == *key)
    }

    /// The key by which a part can be named on top of this head: it is named, or condemned and taken off that list
    /// when it is named, or was uploaded and cannot have gone since.
    #[must_use]
    pub fn usable(
        &self,
        name: &str,
        bytes: u64,
        uploaded: &BTreeMap<String, Uploaded>,
    ) -> Option<PartKey> {
        let named = self.parts.iter().find(|part| part.key.name() == name);
        if let Some(part) = named.filter(|part| part.bytes == bytes) {
            return Some(part.key.clone());
        }
        let is_it = |c: &&Condemned| c.key.name() == name && c.bytes == Some(bytes);
        let condemned = self.condemned.iter().find(is_it).map(|c| c.key.clone());
        let own = uploaded
            .get(name)
            .filter(|own| own.bytes == bytes && own.is_sure_on(self.removals, &self.removed));
        condemned.or_else(|| own.map(|own| own.key.clone()))
    }

    /// What follows it when somebody writes: the next sequence, his write, and nothing else.
    fn followed_by(&self, write: RandomId) -> Head {
        let mut next = self.clone();
        next.sequence += 1;
        if self.sequence > 0 {
            next.writes.push(self.write);
        }
        let surplus = next.writes.len().saturating_sub(STORE_HEAD_WRITES_KEPT);
        next.writes.drain(..surplus);
        next.write = write;
        next
    }

    /// The head that says what a server wants it to say.
    ///
    /// # Errors
    /// The names of what has to be uploaded first.
    pub fn with(
        &self,
        change: &Change,
        lengths: impl Fn(&str) -> Option<u64>,
        uploaded: &BTreeMap<String, Uploaded>,
        (write, now_unix_ms): (RandomId, u64),
    ) -> Result<Head, Vec<String>> {
        let (mut found, mut missing) = (BTreeMap::new(), BTreeSet::new());
        for name in change.names() {
            let bytes = lengths(name);
            match bytes.and_then(|bytes| Some((self.usable(name, bytes, uploaded)?, bytes))) {
                Some(usable) => drop(found.insert(name, usable)),
                None => drop(missing.insert(name.to_owned())),
            }
        }
        if !missing.is_empty() {
            return Err(missing.into_iter().collect());
        }
        let key = |name: &String| found[&**name].0.clone();
        let mut next = self.followed_by(write);
        if let Some((packs, refs)) = &change.mirror {
            next.packs = packs.iter().map(key).collect();
            next.refs = Some(key(refs));
        }
        for new in &change.snapshots {
            let snapshot = Snapshot {
                about: new.about.clone(),
                id: new.id.to_string(),
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
        Ok(next)
    }

    /// Whether it says all that already. A snapshot with the same id is the same, whatever parts it is made of.
    #[must_use]
    pub fn says(&self, change: &Change) -> bool {
        let is = |name: &String, key: &PartKey| name == key.name();
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
            current.is_some_and(|snapshot| snapshot.id == new.id.as_str())
        };
        mirror && change.snapshots.iter().all(is_said)
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
    fn settle(&mut self, known: Vec<Stored>, now_unix_ms: u64) {
        let named: BTreeSet<PartKey> = self.named().into_iter().cloned().collect();
        let before = std::mem::take(&mut self.parts);
        let mut all: BTreeMap<PartKey, Stored> = BTreeMap::new();
        for part in before.into_iter().chain(known) {
            all.entry(part.key.clone()).or_insert(part);
        }
        self.condemned.retain(|old| !named.contains(&old.key));
        for (key, part) in all {
            if named.contains(&key) {
                self.parts.push(part);
            } else {
                self.condemned.push(Condemned {
                    key,
                    bytes: Some(part.bytes),
                    since_unix_ms: now_unix_ms,
                    more: Map::new(),
                });
            }
        }
    }

    /// The head that condemns what is stored and nobody names, and gives up what was condemned for long enough.
    /// `listed` is what was there when this head had been read; `None` if nothing changes.
    ///
    /// What `removed` says before must be gone by now: only the last removal is remembered.
    #[must_use]
    pub fn collecting(
        &self,
        listed: &BTreeSet<PartKey>,
        is_due: impl Fn(&Condemned) -> bool,
        (write, now_unix_ms): (RandomId, u64),
    ) -> Option<Head> {
        let mut known: BTreeSet<&PartKey> = self.keys().chain(&self.removed).collect();
        known.extend(self.condemned.iter().map(|condemned| &condemned.key));
        let orphans = listed.iter().filter(|key| !known.contains(key));
        let orphans = orphans.map(|key| Condemned {
            key: key.clone(),
            bytes: None,
            since_unix_ms: now_unix_ms,
            more: Map::new(),
        });
        let orphans = Vec::from_iter(orphans.take(STORE_HEAD_ITEMS_MAX / 2));
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
        next.condemned.truncate(STORE_HEAD_ITEMS_MAX);
        Some(next)
    }
}

#[cfg(test)]
mod tests;
