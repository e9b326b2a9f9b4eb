//! Refs that are not followed and of which a comparison brings word all the same: somebody uses what they lead to.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use gix::ObjectId;
use gix::bstr::BString;

/// Their full names, and what a comparison has found them to lead to.
#[derive(Debug, Default)]
pub(crate) struct Beside {
    names: BTreeSet<BString>,
    /// Changed in single assignments, so a panic cannot leave it half done.
    told: Mutex<Vec<(BString, ObjectId)>>,
}

impl Beside {
    /// Of these names; there are few.
    pub(crate) fn of(names: impl IntoIterator<Item = BString>) -> Beside {
        Beside {
            names: names.into_iter().collect(),
            told: Mutex::default(),
        }
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &BString> {
        self.names.iter()
    }

    pub(super) fn has(&self, name: &[u8]) -> bool {
        self.names.contains(name)
    }

    /// What an upstream has listed of them, in place of what it has listed before.
    pub(crate) fn tell(&self, listed: Vec<(BString, ObjectId)>) {
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = listed;
    }

    /// What one of these names leads to by the last listing.
    pub(crate) fn told(&self, name: &BString) -> Option<ObjectId> {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let mut told = told.iter();
        told.find(|(listed, _)| listed == name).map(|(_, id)| *id)
    }
}
