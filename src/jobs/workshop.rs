//! What builds work with, and which of them run.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use crate::archive::fanout::Fanout;
use crate::archive::open_files::OpenFiles;
use crate::classes::Class;
use crate::faults::Faults;
use crate::io::heap;
use crate::limits::{DECODE_BUDGET_BYTES, HEAP_TRIM_BUILDS, TIPS_PACKING_MAX};
use crate::repos::catalog::Catalog;
use crate::snapshot::budget::Budget;
use crate::snapshot::job::EncoderState;
use crate::snapshot::ring::Ring;
use crate::snapshot::turns::Turns;
use crate::snapshot::verify::Verified;
use crate::telemetry::metrics::{Meter, WorkClass};

/// See the module's text. One for the process: its encoders, memory and turns are shared by all builds.
pub(crate) struct Workshop {
    /// Where entries are made.
    pub catalog: Arc<Catalog>,
    /// The files of archives that are open.
    pub open_files: Arc<OpenFiles>,
    /// The encoder threads.
    pub ring: Ring<EncoderState>,
    /// zstd's level.
    pub level: i32,
    /// Memory for decoding big objects.
    pub budget: Arc<Budget>,
    /// Files of packs that were found to be sound.
    pub verified: Verified,
    /// Turns to produce.
    pub turns: Arc<Turns>,
    /// Places for builds whose packs are made for them; each has one before its first byte.
    pub packing: Arc<Class>,
    /// Counts what builds do.
    pub meter: Meter,
    /// Faults to inject; none outside tests.
    pub faults: Faults,
    /// How long frames that are of no use may stay in files that new entries link.
    dead_frames_kept: Duration,
    running: Mutex<Vec<Weak<Fanout>>>,
    /// Builds that have ended, and how many had when the heap was tidied up.
    built: AtomicU64,
    tidied: AtomicU64,
}

impl Workshop {
    /// One with these encoder threads, whose builds make entries in `catalog`.
    pub(crate) fn new(
        catalog: Arc<Catalog>,
        open_files: Arc<OpenFiles>,
        ring: Ring<EncoderState>,
        level: i32,
        (meter, faults): (Meter, Faults),
        dead_frames_kept: Duration,
    ) -> Workshop {
        Workshop {
            catalog,
            open_files,
            turns: Turns::new(ring.threads(), &meter),
            packing: Class::new(WorkClass::Pack, TIPS_PACKING_MAX, &meter),
            ring,
            level,
            budget: Budget::new(DECODE_BUDGET_BYTES),
            verified: Verified::default(),
            meter,
            faults,
            dead_frames_kept,
            running: Mutex::default(),
            built: AtomicU64::default(),
            tidied: AtomicU64::default(),
        }
    }

    /// What was written before this may have no frames of no use in it.
    pub(super) fn dead_before(&self) -> SystemTime {
        let before = SystemTime::now().checked_sub(self.dead_frames_kept);
        before.unwrap_or(SystemTime::UNIX_EPOCH)
    }

    /// Notes a running build, so that it can be stopped.
    pub(crate) fn add_running(&self, fanout: &Arc<Fanout>) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.retain(|f| f.strong_count() > 0);
        running.push(Arc::downgrade(fanout));
    }

    /// Notes a build that has ended; gives its number if the heap should be tidied up once it is quiet.
    pub(super) fn note_built(&self) -> Option<u64> {
        let built = 1 + self.built.fetch_add(1, Ordering::Relaxed);
        let since = built - self.tidied.load(Ordering::Relaxed);
        (since >= HEAP_TRIM_BUILDS).then_some(built)
    }

    /// Gives back what the heap holds and nobody uses, unless a build has ended since this one.
    pub(super) fn tidy_heap(&self, built: u64) {
        if self.built.load(Ordering::Relaxed) == built {
            self.tidied.store(built, Ordering::Relaxed);
            heap::give_back_unused();
        }
    }

    /// Ends all running builds with an error and lets no waiting one begin.
    pub(crate) fn stop_builds(&self) {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        for fanout in running.iter().filter_map(Weak::upgrade) {
            fanout.fail("the server is shutting down");
        }
        drop(running);
        self.turns.close();
        self.packing.close();
    }
}
