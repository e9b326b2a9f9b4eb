//! What lies in the store of a repository: what a head says of it is one thing, and what is there another.

use std::collections::BTreeMap;

use super::key::{PartKey, Place};
use super::objects::{ObjectError, Objects};

/// The parts that are there, and their lengths.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing(BTreeMap<PartKey, u64>);

impl Listing {
    /// Lists them. Whoever compares it with a head has read that before: what is given up is removed afterwards.
    ///
    /// # Errors
    /// They cannot be listed.
    pub async fn read(objects: &impl Objects, place: &Place) -> Result<Listing, ObjectError> {
        let listed = objects.list(&place.parts()).await?;
        // What none of us has put there stays.
        let known = listed.into_iter();
        Ok(known
            .filter_map(|object| Some((object.name.parse().ok()?, object.bytes)))
            .collect())
    }

    /// Whether it is there, and as long.
    #[must_use]
    pub fn has(&self, key: &PartKey, bytes: u64) -> bool {
        self.0.get(key) == Some(&bytes)
    }

    /// All that is there.
    pub fn keys(&self) -> impl Iterator<Item = &PartKey> {
        self.0.keys()
    }
}

impl FromIterator<(PartKey, u64)> for Listing {
    fn from_iter<T: IntoIterator<Item = (PartKey, u64)>>(parts: T) -> Listing {
        Listing(parts.into_iter().collect())
    }
}
