//! How much of the disk the state directory takes, as far as that is known without asking the file system,
//! and how much it may.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::ledger::{Ledger, Part};
use crate::config::{Config, Share};
use crate::limits::CACHE_LOW_DEFAULT_PERCENT;
use crate::manifest::want::Want;

/// How much there may be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Marks {
    /// Above so many bytes, something leaves.
    pub high_bytes: u64,
    /// Until there are no more than these.
    pub low_bytes: u64,
    /// Bytes that stay free on the file system.
    pub floor_bytes: u64,
}

impl Marks {
    /// What is configured, on a file system of this size.
    pub(crate) fn of(config: &Config, total_bytes: u64) -> Marks {
        let high_bytes = config.cache_limit.of(total_bytes);
        let low = Share::Percent(CACHE_LOW_DEFAULT_PERCENT).of(high_bytes);
        let low = config.cache_low.map_or(low, |low| low.of(total_bytes));
        Marks {
            high_bytes,
            low_bytes: low.min(high_bytes),
            floor_bytes: config.cache_free_floor.of(total_bytes),
        }
    }
}

/// See the module's text. Exact after [`Usage::note`]; until the next one only what is written counts.
#[derive(Debug, Default)]
pub(crate) struct Usage {
    /// What takes how much. Held while the disk is looked at: for threads.
    ledger: Mutex<Ledger>,
    all_bytes: AtomicU64,
    /// All bytes when somebody looked last.
    swept_bytes: AtomicU64,
    mirror_bytes: AtomicU64,
    snapshot_bytes: AtomicU64,
    other_bytes: AtomicU64,
    snapshots: AtomicU64,
    wants: AtomicU64,
    mirrors: AtomicU64,
    high_bytes: AtomicU64,
    low_bytes: AtomicU64,
    floor_bytes: AtomicU64,
    /// Bytes above the limit of which none could leave when somebody looked last.
    stuck_bytes: AtomicU64,
}

impl Usage {
    /// Nothing yet, where there may be so much.
    pub(crate) fn new(marks: Marks) -> Usage {
        let usage = Usage::default();
        usage.set_marks(marks);
        usage
    }

    /// What takes how much.
    pub(crate) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The file system's size has changed.
    pub(crate) fn set_marks(&self, marks: Marks) {
        self.high_bytes.store(marks.high_bytes, Ordering::Relaxed);
        self.low_bytes.store(marks.low_bytes, Ordering::Relaxed);
        self.floor_bytes.store(marks.floor_bytes, Ordering::Relaxed);
    }

    /// How much there may be.
    pub(crate) fn marks(&self) -> Marks {
        Marks {
            high_bytes: self.high_bytes.load(Ordering::Relaxed),
            low_bytes: self.low_bytes.load(Ordering::Relaxed),
            floor_bytes: self.floor_bytes.load(Ordering::Relaxed),
        }
    }

    /// Notes a snapshot that was published.
    pub(crate) fn add_snapshot(&self, want: &Want) {
        self.snapshots.fetch_add(1, Ordering::Relaxed);
        if !want.is_default() {
            self.wants.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Notes bytes that were written; whether there are more than there may be from these on.
    pub(crate) fn add(&self, bytes: u64) -> bool {
        let before = self.all_bytes.fetch_add(bytes, Ordering::Relaxed);
        let high = self.high_bytes.load(Ordering::Relaxed);
        before <= high && before.saturating_add(bytes) > high
    }

    /// Whether there is more than there may be, and enough of it has come since the last look that another may find
    /// something to remove.
    pub(crate) fn is_sweep_due(&self) -> bool {
        let (all, marks) = (self.all_bytes(), self.marks());
        let swept = self.swept_bytes.load(Ordering::Relaxed);
        let beside = marks.high_bytes.saturating_sub(marks.low_bytes);
        all > marks.high_bytes && all >= swept.saturating_add(beside / 2)
    }

    /// Notes that something is gone which is neither a mirror nor a snapshot, with so many bytes.
    pub(crate) fn other_gone(&self, bytes: u64) {
        self.take([&self.all_bytes, &self.other_bytes], bytes);
    }

    fn take(&self, from: [&AtomicU64; 2], bytes: u64) {
        for all in from {
            let less = |now: u64| Some(now.saturating_sub(bytes));
            // It always has a value.
            let _ = all.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        }
    }

    /// Notes that a mirror is gone, with so many bytes.
    pub(crate) fn mirror_gone(&self, bytes: u64) {
        self.take([&self.all_bytes, &self.mirror_bytes], bytes);
        let less = |now: u64| Some(now.saturating_sub(1));
        let _ = self
            .mirrors
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    /// Notes what the ledger says, with so many bytes of files without names, and so many snapshots, how many
    /// of them of refs and commits.
    pub(crate) fn note(
        &self,
        ledger: &Ledger,
        nameless_bytes: u64,
        (snapshots, wants): (u64, u64),
    ) {
        let all = ledger.total_bytes() + nameless_bytes;
        self.all_bytes.store(all, Ordering::Relaxed);
        self.swept_bytes.store(all, Ordering::Relaxed);
        for (part, bytes) in ledger.by_part() {
            let (of_it, more) = match part {
                Part::Mirror => (&self.mirror_bytes, 0),
                Part::Snapshot => (&self.snapshot_bytes, 0),
                Part::Other => (&self.other_bytes, nameless_bytes),
            };
            of_it.store(bytes + more, Ordering::Relaxed);
        }
        self.mirrors.store(ledger.mirrors(), Ordering::Relaxed);
        self.snapshots.store(snapshots, Ordering::Relaxed);
        self.wants.store(wants, Ordering::Relaxed);
    }

    /// Notes how many bytes above the limit cannot leave, because they are in use.
    pub(crate) fn set_stuck(&self, bytes: u64) {
        self.stuck_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Whether there is more than there may be, and it does not leave: nothing new is kept meanwhile, else what
    /// is in use could be any multiple of the limit.
    pub(crate) fn is_stuck(&self) -> bool {
        self.stuck_bytes.load(Ordering::Relaxed) > 0
    }

    /// Bytes of all that is below the state directory.
    pub(crate) fn all_bytes(&self) -> u64 {
        self.all_bytes.load(Ordering::Relaxed)
    }

    /// Bytes of mirrors, of what snapshots do not share with them, and of all else.
    pub(crate) fn part_bytes(&self) -> [u64; 3] {
        let parts = [&self.mirror_bytes, &self.snapshot_bytes, &self.other_bytes];
        parts.map(|bytes| bytes.load(Ordering::Relaxed))
    }

    /// Snapshots.
    pub(crate) fn snapshots(&self) -> u64 {
        self.snapshots.load(Ordering::Relaxed)
    }

    /// Those of refs and commits.
    pub(crate) fn wants(&self) -> u64 {
        self.wants.load(Ordering::Relaxed)
    }

    /// Mirrors.
    pub(crate) fn mirrors(&self) -> u64 {
        self.mirrors.load(Ordering::Relaxed)
    }
}
