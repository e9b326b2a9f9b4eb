//! What is noted of a repository without its lock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::io::clock::unix_ms;
use crate::limits::ASKED_STEP_MS;
use crate::mirror::Aside;

/// When somebody last asked for something of it, to [`ASKED_STEP_MS`]; when it became known, if nobody has.
#[derive(Debug)]
pub(crate) struct Asked(AtomicU64);

impl Default for Asked {
    fn default() -> Self {
        Asked(AtomicU64::new(unix_ms()))
    }
}

impl Asked {
    /// Somebody asks. On a core: the line of memory is only written when there is news.
    pub(crate) fn note(&self) {
        let now = unix_ms();
        if now.saturating_sub(self.unix_ms()) >= ASKED_STEP_MS {
            self.0.store(now, Ordering::Relaxed);
        }
    }

    /// The time.
    pub(crate) fn unix_ms(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What lies outside of the mirror's packs and is known not to be needed.
#[derive(Debug, Default)]
pub(crate) struct KnownAside(Mutex<Arc<Aside>>);

impl KnownAside {
    /// What is known.
    pub(crate) fn get(&self) -> Arc<Aside> {
        let aside = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        aside.clone()
    }

    /// Notes it.
    pub(crate) fn set(&self, now: Aside) {
        let mut aside = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *aside = Arc::new(now);
    }
}
