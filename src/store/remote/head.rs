//! The head of a repository: the one object that matters and is ever replaced. What it names is written once.
//!
//! Everything here is a function of heads: nothing is read, and no clock asked. What a server does not know of a head
//! that another version has written it keeps.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::change::{About, Generation};
use super::key::{Identity, PartKey, RandomId};
use super::listing::Listing;
use crate::limits::{
    STORE_HEAD_BYTES_MAX, STORE_HEAD_COUNT_MAX, STORE_HEAD_ITEMS_MAX, STORE_HEAD_TEXT_BYTES_MAX,
};

/// See the module's text. Any that was decoded is sound.
///
/// Invariants:
/// 1. What packs, refs and snapshots name stands in `parts`, and nothing else does.
/// 2. No key stands twice in `parts`, `condemned` and `removed` together, and no name twice in `parts`.
/// 3. There is at most one current snapshot of each want and kind.
/// 4. What is broken stands in `parts`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Head {
    /// Whose it is.
    pub repository: Identity,
    /// One more with each write.
    pub sequence: u64,
    /// One more with each write that says what somebody has, and with none that only keeps order: so it says of two heads, one
    /// of which may be of a store that was restored, which has the newer state.
    #[serde(default)]
    pub shares: u64,
    /// One more with each expiry of what no ref leads to.
    pub generation: u64,
    /// Which swap has raised that.
    #[serde(default)]
    pub raise: RandomId,
    /// Of the raises before it, the last one last.
    #[serde(default)]
    pub raises: Vec<RandomId>,
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
    /// Parts that somebody has found to be something else, or not to be there: whoever has them uploads them again.
    #[serde(default)]
    pub broken: Vec<PartKey>,
    /// What nothing names and will be removed.
    #[serde(default)]
    pub condemned: Vec<Condemned>,
    /// What the last removal was of: no longer anybody's to name, and perhaps still there.
    #[serde(default)]
    pub removed: Vec<PartKey>,
    /// How many removals there were.
    #[serde(default)]
    pub removals: u64,
    /// The day on which somebody last used it, in days since 1970; 0 where nobody has said.
    #[serde(default)]
    pub used_day: u64,
    /// On how many days somebody had looked at all heads by then; 0 where nobody has said.
    #[serde(default)]
    pub used_looks: u64,
    /// How often it had been shared when it came to name nothing, since nobody used it. Where it was shared again since, by
    /// whomever, this says nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub emptied: Option<u64>,
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
    /// A digest of what it shows.
    #[serde(default)]
    pub shows: String,
    /// That of the head which named it first: one of an earlier one is neither served nor taken.
    #[serde(default)]
    pub generation: u64,
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
    #[error("it counts to {count}, where nobody gets by counting")]
    TooHigh { count: u64 },
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
            shares: 0,
            generation: 0,
            raise: RandomId::default(),
            raises: Vec::new(),
            write: RandomId(0),
            writes: Vec::new(),
            parts: Vec::new(),
            packs: Vec::new(),
            refs: None,
            snapshots: Vec::new(),
            broken: Vec::new(),
            condemned: Vec::new(),
            removed: Vec::new(),
            removals: 0,
            used_day: 0,
            used_looks: 0,
            emptied: None,
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
            self.broken.len(),
            self.removed.len(),
            self.writes.len(),
            self.raises.len(),
        ];
        let is_long = |text: &String| text.len() > STORE_HEAD_TEXT_BYTES_MAX;
        let has_long = |one: &Snapshot| {
            is_long(&one.about.want) || is_long(&one.about.kind) || is_long(&one.shows)
        };
        if counts
            .into_iter()
            .chain(parts_of)
            .any(|count| count > STORE_HEAD_ITEMS_MAX)
            || self.snapshots.iter().any(has_long)
        {
            return Err(BadHead::TooLong);
        }
        let counters = [
            self.sequence,
            self.shares,
            self.generation,
            self.removals,
            self.used_day,
            self.used_looks,
        ];
        if let Some(count) = counters
            .into_iter()
            .find(|count| *count > STORE_HEAD_COUNT_MAX)
        {
            return Err(BadHead::TooHigh { count });
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
        let broken = self.broken.iter().find(|key| !stored.contains(key));
        let unnamed = stored.symmetric_difference(&self.named()).next().copied();
        if let Some(key) = unnamed.or(broken) {
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

    pub(super) fn keys(&self) -> impl Iterator<Item = &PartKey> {
        self.parts.iter().map(|part| &part.key)
    }

    /// All that it names.
    pub(super) fn named(&self) -> BTreeSet<&PartKey> {
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

    /// Its generation.
    #[must_use]
    pub fn at(&self) -> Generation {
        Generation {
            number: self.generation,
            raise: self.raise,
        }
    }

    /// Whether it is of nothing but what is thought of it: nobody has written it.
    #[must_use]
    pub fn is_thought(&self) -> bool {
        self.write == RandomId::default()
    }

    /// Whether something has expired since a generation, or may have.
    #[must_use]
    pub fn is_later(&self, own: Generation) -> bool {
        !self.is_thought() && own.is_before(self.at())
    }

    /// Whether who has packs of that generation may have what has expired by this one, which it does not follow. Which number
    /// is larger says nothing: who began with none may have had something expire since.
    #[must_use]
    pub fn is_past(&self, own: Generation) -> bool {
        !self.is_thought() && (own.is_before(self.at()) || !self.follows(own))
    }

    /// Whether it was raised on top of that generation. If not, the store was restored meanwhile, and what had expired up to
    /// then may be with others still.
    #[must_use]
    pub fn follows(&self, own: Generation) -> bool {
        let is_first = own == Generation::default();
        is_first || self.raise == own.raise || self.raises.contains(&own.raise)
    }

    /// Whether this raise is the last one, or one of those before it.
    #[must_use]
    pub fn has_raised(&self, raise: RandomId) -> bool {
        !self.is_thought() && (self.raise == raise || self.raises.contains(&raise))
    }

    /// Whether it names a snapshot that was made since the last expiry, whatever has become of its parts.
    #[must_use]
    pub fn is_of_now(&self, about: &About, id: &str) -> bool {
        let is_it = |s: &Snapshot| s.about == *about && s.id == id;
        let mut of_now = self
            .snapshots
            .iter()
            .filter(|s| s.generation == self.generation);
        of_now.any(is_it)
    }

    /// Whether a snapshot that somebody has may have what has expired by now: it was made in an earlier generation, or nobody
    /// knows in which. That it is not named says nothing: what nobody uses is not, either.
    #[must_use]
    pub fn may_have_expired(&self, (about, id): (&About, &str), made: Option<Generation>) -> bool {
        let is_past = |made: Generation| self.is_past(made);
        self.generation > 0 && !self.is_of_now(about, id) && made.is_none_or(is_past)
    }

    /// The current snapshot of something.
    #[must_use]
    pub fn current(&self, about: &About) -> Option<&Snapshot> {
        let is_it = |s: &&Snapshot| s.replaced_unix_ms.is_none() && s.about == *about;
        self.snapshots.iter().find(is_it)
    }

    /// The current snapshot, if its packs are to take the place of a server's own: it shows what that one does, is another
    /// archive, and up to it nothing has expired that has not there, nor the other way round.
    #[must_use]
    pub fn to_adopt(
        &self,
        about: &About,
        (id, shows): (&str, &str),
        own: Generation,
    ) -> Option<&Snapshot> {
        let current = self.current(about)?;
        let is_other = current.shows == shows && current.id != id;
        (is_other && self.at() == own && self.is_valid(current)).then_some(current)
    }

    /// A part by its key.
    #[must_use]
    pub fn stored(&self, key: &PartKey) -> Option<&Stored> {
        self.parts.iter().find(|part| part.key == *key)
    }

    /// Whether something of a snapshot is not as it should be: not there, of another length, or found to be something else.
    #[must_use]
    pub fn lacks(&self, snapshot: &Snapshot, listing: &Listing) -> bool {
        !self.lost(snapshot, listing).is_empty()
    }

    /// What that is.
    #[must_use]
    pub fn lost<'s>(&self, snapshot: &'s Snapshot, listing: &Listing) -> Vec<&'s PartKey> {
        let sound = self.sound(listing);
        let parts = snapshot.parts.iter().chain([&snapshot.manifest]);
        parts.filter(|key| !sound.contains(*key)).collect()
    }

    /// The parts that are as they should be, as far as anybody knows.
    pub(super) fn sound(&self, listing: &Listing) -> BTreeSet<&PartKey> {
        let broken: BTreeSet<&PartKey> = self.broken.iter().collect();
        let parts = self.parts.iter();
        let there = parts.filter(|part| listing.has(&part.key, part.bytes));
        there
            .map(|part| &part.key)
            .filter(|key| !broken.contains(key))
            .collect()
    }

    /// Whether its current snapshot shows this, and all of it is there: another one of the same would be newer in nothing.
    #[must_use]
    pub fn shows(&self, about: &About, shows: &str, listing: &Listing) -> bool {
        let current = self.current(about);
        current.is_some_and(|current| {
            current.shows == shows && self.is_valid(current) && !self.lacks(current, listing)
        })
    }

    /// Whether nothing that it names is newer than refs of this name: it has the same, or names nothing since something has
    /// expired. Of snapshots alone that cannot be told: others may be of another kind; nor where what it has named has left
    /// since nobody used it.
    #[must_use]
    pub fn is_no_newer(&self, refs: Option<&str>) -> bool {
        match &self.refs {
            Some(key) => refs == Some(key.name()),
            None => self.snapshots.is_empty() && !self.is_emptied(),
        }
    }

    /// Whether a snapshot was made since the last expiry, and nobody has found anything broken of it.
    #[must_use]
    pub fn is_valid(&self, snapshot: &Snapshot) -> bool {
        let broken: BTreeSet<&PartKey> = self.broken.iter().collect();
        let mut parts = snapshot.parts.iter().chain([&snapshot.manifest]);
        snapshot.generation == self.generation && !parts.any(|key| broken.contains(key))
    }
}

#[cfg(test)]
mod tests;
