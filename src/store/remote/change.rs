//! What a server wants a head to say, and what it has uploaded for that.

use serde::{Deserialize, Serialize};

use super::day::Day;
use super::key::{PartKey, RandomId};
use crate::manifest::id::EntryId;

/// What a snapshot is of: servers of two versions have two kinds, and never replace each other's.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct About {
    /// The text of its want.
    pub want: String,
    /// Format, level and version of the libraries.
    pub kind: String,
}

/// Nothing that has expired up to then is in what is of it. It is raised by a swap and by nothing else: of two that have one
/// number, but not by one swap, neither says anything of the other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Generation {
    /// How many raises there were.
    pub number: u64,
    /// Of the last one.
    pub raise: RandomId,
}

impl Generation {
    /// Whether something has expired by the other one, or may have, that has not by this one.
    #[must_use]
    pub fn is_before(self, other: Generation) -> bool {
        let is_other = self.number == other.number && self.raise != other.raise;
        other.number > self.number || is_other
    }
}

/// A snapshot that a server has made, by the names of its parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSnapshot {
    /// What it is of.
    pub about: About,
    /// Its `ETag`.
    pub id: EntryId,
    /// A digest of what it shows: of two that show the same, neither is newer.
    pub shows: String,
    /// The name of its manifest.
    pub manifest: String,
    /// The names of its parts.
    pub parts: Vec<String>,
    /// When the upstream was last compared.
    pub compared_unix_ms: u64,
}

/// What a server wants a head to say, by the names of parts; what it says nothing of stays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// Of the server's packs: nothing that has expired up to then is in them. A head of an earlier one loses all that
    /// it names, as far as the change does not name it.
    pub generation: Generation,
    /// Of the server's packs before others were told of anything by that: what had expired up to then is not in them, either.
    pub after: Generation,
    /// The packs and the refs of a comparison that began after the head was read.
    pub mirror: Option<(Vec<String>, String)>,
    /// On which day somebody has used the repository, if that is to be said.
    pub used: Option<Day>,
    /// Snapshots that are current.
    pub snapshots: Vec<NewSnapshot>,
}

/// What a server has uploaded and no head names yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uploaded {
    /// The key.
    pub key: PartKey,
    /// The length.
    pub bytes: u64,
    /// The removals of the head that was read before the upload began.
    pub removals: u64,
}

/// Why a head cannot say something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotYet {
    /// These have to be uploaded first.
    Missing(Vec<String>),
    /// Something has expired that may be in what is to be said.
    Behind,
}

impl Uploaded {
    /// Whether a head can name it: it may have been found by whoever collects, and be gone.
    pub(super) fn is_sure_on(&self, removals: u64, removed: &[PartKey]) -> bool {
        removals <= self.removals.saturating_add(1) && !removed.contains(&self.key)
    }
}

impl Change {
    /// All that it names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let mirror = self
            .mirror
            .iter()
            .flat_map(|(packs, refs)| packs.iter().chain([refs]));
        let manifests = self.snapshots.iter().map(|new| &new.manifest);
        let parts = self.snapshots.iter().flat_map(|new| &new.parts);
        mirror.chain(manifests).chain(parts).map(|name| &**name)
    }
}
