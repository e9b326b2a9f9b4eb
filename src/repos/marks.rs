//! What is noted of a repository without its lock.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::io::clock::unix_ms;
use crate::limits::{ASKED_STEP_MS, EARLY_KEPT_MS};
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

/// What follows from what was seen of it.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    is_clonable: AtomicBool,
    /// 0 for none.
    too_large_bytes: AtomicU64,
    has_said_links: AtomicBool,
    /// When an answer last began before its archive; 0 for never.
    early_unix_ms: AtomicU64,
    copies_in_vain: AtomicBool,
}

impl Notes {
    /// A clone of its upstream is known to work: the mirror may go to make room.
    pub(crate) fn set_clonable(&self) {
        self.is_clonable.store(true, Ordering::Relaxed);
    }

    /// Whether it is: an operator may have put the mirror there because nothing else has it.
    pub(crate) fn is_clonable(&self) -> bool {
        self.is_clonable.load(Ordering::Relaxed)
    }

    /// Whether the snapshot, as it was built last, is too large to be kept, and how large.
    pub(crate) fn set_too_large(&self, bytes: Option<u64>) {
        let bytes = bytes.unwrap_or_default();
        self.too_large_bytes.store(bytes, Ordering::Relaxed);
    }

    /// What was noted of that.
    pub(crate) fn too_large_bytes(&self) -> Option<u64> {
        let bytes = self.too_large_bytes.load(Ordering::Relaxed);
        (bytes > 0).then_some(bytes)
    }

    /// It is said that packs cannot be linked; whether it was before.
    pub(crate) fn say_links(&self) -> bool {
        self.has_said_links.swap(true, Ordering::Relaxed)
    }

    /// An answer begins before its archive: its bytes are not at the offsets of the archive's.
    pub(crate) fn set_early(&self) {
        self.early_unix_ms.store(unix_ms(), Ordering::Relaxed);
    }

    /// Whether one did within [`EARLY_KEPT_MS`].
    pub(crate) fn was_early(&self) -> bool {
        let at = self.early_unix_ms.load(Ordering::Relaxed);
        at > 0 && unix_ms().saturating_sub(at) < EARLY_KEPT_MS
    }

    /// A pack was copied, and the copy could not take its place: none is copied again.
    pub(crate) fn set_copies_in_vain(&self) {
        self.copies_in_vain.store(true, Ordering::Relaxed);
    }

    /// Whether one was.
    pub(crate) fn copies_in_vain(&self) -> bool {
        self.copies_in_vain.load(Ordering::Relaxed)
    }
}
