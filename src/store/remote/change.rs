//! What a server wants a head to say, and what it has uploaded for that.

use serde::{Deserialize, Serialize};

use super::key::PartKey;
use crate::manifest::id::EntryId;

/// What a snapshot is of: servers of two versions have two kinds, and never replace each other's.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct About {
    /// The text of its want.
    pub want: String,
    /// Format, level and version of the libraries.
    pub kind: String,
}

/// A snapshot that a server has made, by the names of its parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSnapshot {
    /// What it is of.
    pub about: About,
    /// Its `ETag`.
    pub id: EntryId,
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
    /// The packs and the refs of a comparison that began after the head was read.
    pub mirror: Option<(Vec<String>, String)>,
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
