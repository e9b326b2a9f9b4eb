//! Counters of every thread, added up when somebody asks (`/metrics`).
//!
//! Each writing thread has a block of atomics of its own, on cache lines of its own, and adds to
//! it without locks or allocation. [`Metrics::render`] sums the blocks. [`FAMILIES`] is the one
//! table of what exists.
mod bounds;
mod event;
mod family;
mod id;
mod kind;
mod label;
mod slots;
mod text;

pub(crate) use event::{Event, Level, Timing};
pub(crate) use family::{FAMILIES, Family, Kind};
pub(crate) use label::{
    AdoptionResult, AnnexResult, BuildResult, Cause, CiToken, CloneResult, DropReason, Evicted,
    FetchResult, ImportResult, KeyFetchResult, LeaseResult, MaintenanceResult, OfferResult,
    Outcome, Prefault, QuestionResult, ReloadResult, ScrubResult, SpoolFailure, StoreRequest,
    WebhookResult, WorkClass,
};

use bounds::{DURATION_BOUNDS_US, TTFB_BOUNDS_US};
use family::*;
use slots::{BASES, SLOTS};

use crossbeam::utils::CachePadded;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The atomics of one writing thread. Alignment and padding keep its cache lines its own.
type Block = CachePadded<[AtomicU64; SLOTS]>;

/// All counters of the process.
///
/// Invariant: what `/metrics` shows is the wrapping sum over `blocks`, slot by slot. So any thread
/// may use any block and a gauge may go below zero in one of them; a block for each thread is only
/// there to keep threads from sharing cache lines.
#[derive(Debug)]
pub(crate) struct Metrics {
    blocks: Box<[Block]>,
    /// The last second of each certificate that listeners show, since 1970. Held to be copied.
    certificates: Mutex<Vec<u64>>,
}

/// What is read off other parts at scrape time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Gauges {
    /// Bytes that everything below the state directory takes.
    pub cache_bytes: u64,
    /// The same of mirrors, of what snapshots do not share with them, and of all else.
    pub cache_part_bytes: [u64; 3],
    /// Bytes that it may take.
    pub cache_limit_bytes: u64,
    /// Bytes that are left when something had to leave.
    pub cache_low_bytes: u64,
    /// Published entries.
    pub cache_entries: u64,
    /// Those of refs and commits.
    pub cache_wants: u64,
    /// Mirrors.
    pub mirrors: u64,
    /// Files of archives that are open.
    pub open_files: u64,
    /// How many may be.
    pub open_files_limit: u64,
    /// How many connections may be open.
    pub connections_limit: u64,
    /// Bytes of request bodies.
    pub body_bytes: u64,
}

impl Metrics {
    /// Counters for `writers` threads: cores, encoders and background.
    pub(crate) fn new(writers: usize) -> Arc<Self> {
        let block = || CachePadded::new([const { AtomicU64::new(0) }; SLOTS]);
        Arc::new(Self {
            blocks: (0..writers.max(1)).map(|_| block()).collect(),
            certificates: Mutex::default(),
        })
    }

    /// The handle of thread number `writer`. One beyond the number given to [`Metrics::new`]
    /// shares a block, which costs time but loses nothing.
    pub(crate) fn meter(self: &Arc<Self>, writer: usize) -> Meter {
        Meter {
            metrics: Arc::clone(self),
            block: writer % self.blocks.len(),
        }
    }

    fn certificates(&self) -> MutexGuard<'_, Vec<u64>> {
        let certificates = self.certificates.lock();
        certificates.unwrap_or_else(PoisonError::into_inner)
    }

    fn sum(&self, slot: usize) -> u64 {
        let values = self
            .blocks
            .iter()
            .map(|block| block[slot].load(Ordering::Relaxed));
        values.fold(0, u64::wrapping_add)
    }
}

/// One thread's handle. Every operation is one or two relaxed atomic additions.
#[derive(Debug, Clone)]
pub struct Meter {
    metrics: Arc<Metrics>,
    /// Below `metrics.blocks.len()`.
    block: usize,
}

impl Meter {
    /// Counts `event` `count` times (or so many bytes).
    pub fn add(&self, event: Event, count: u64) {
        self.add_to(event.slot(), count);
    }

    /// Has the ends of the certificates shown that are in force now.
    pub(crate) fn show_certificates(&self, ends_unix_s: Vec<u64>) {
        *self.metrics.certificates() = ends_unix_s;
    }

    /// One more of `level`. Balance it with [`Meter::down`] on any thread's meter.
    pub fn up(&self, level: Level) {
        self.add_to(level.slot(), 1);
    }

    /// One less of `level`.
    pub fn down(&self, level: Level) {
        self.add_to(level.slot(), u64::MAX);
    }

    /// Counts a duration in its bucket.
    pub fn observe_us(&self, timing: Timing, us: u64) {
        let (id, bounds) = match timing {
            Timing::Ttfb => (Id::Ttfb, &TTFB_BOUNDS_US[..]),
            Timing::Duration => (Id::Duration, &DURATION_BOUNDS_US[..]),
        };
        let base = BASES[id as usize];
        let bucket = bounds.partition_point(|bound_us| *bound_us < us);
        self.add_to(base + bucket, 1);
        self.add_to(base + bounds.len() + 1, us);
    }

    fn add_to(&self, slot: usize, value: u64) {
        self.metrics.blocks[self.block][slot].fetch_add(value, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
