//! What answers of a repository began before their archives lately, in this process.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::io::clock::unix_ms;
use crate::limits::{EARLY_KEPT_MS, EARLY_NAMES_MAX};
use crate::store::early::Stand;

/// Whether this time, or one so much later, is within [`EARLY_KEPT_MS`].
pub(super) fn is_kept(at_unix_ms: u64, later_ms: u64) -> bool {
    unix_ms().saturating_sub(at_unix_ms) < EARLY_KEPT_MS + later_ms
}

/// See the module's text; by what was asked for: nobody's random names are in the way of those who
/// ask for something else.
#[derive(Debug, Default)]
pub(super) struct Early {
    /// When one last may have, whatever was asked for; 0 for never.
    all_unix_ms: AtomicU64,
    named: Mutex<HashMap<Stand, u64>>,
}

impl Early {
    fn lock(&self) -> MutexGuard<'_, HashMap<Stand, u64>> {
        // Every change is one step.
        self.named.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One begins; whether that is all that is known, or of all of the repository, and when it was so last.
    pub(super) fn set(&self, named: Stand) -> (Option<Stand>, u64) {
        let now = unix_ms();
        let mut all = self.lock();
        if all.len() >= EARLY_NAMES_MAX {
            all.retain(|_, at| is_kept(*at, 0));
        }
        match all.len() < EARLY_NAMES_MAX || all.contains_key(&named) {
            true => (Some(named), all.insert(named, now).unwrap_or(0)),
            // None may be forgotten.
            false => (None, self.all_unix_ms.fetch_max(now, Ordering::Relaxed)),
        }
    }

    pub(super) fn was(&self, named: &Stand) -> bool {
        let all = self.all_unix_ms.load(Ordering::Relaxed);
        let is_named = || self.lock().get(named).is_some_and(|at| is_kept(*at, 0));
        is_kept(all, 0) || is_named()
    }
}
