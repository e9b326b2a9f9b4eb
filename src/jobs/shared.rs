//! What the cores, the builders and the background plane share.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use crate::archive::fanout::Fanout;
use crate::archive::place::Archive;
use crate::archive::prefetch::Prefetch;
use crate::config::Config;
use crate::faults::Faults;
use crate::http::net::bodies::Bodies;
use crate::http::net::idle::IdleCores;
use crate::io::clock::unix_ms;
use crate::limits::{
    CONNECTIONS_SPARE_PERCENT, DECODE_BUDGET_BYTES, RETIRED_MAX_MS, TAKING_SLOW_MS,
};
use crate::metrics::{Gauges, Meter, Metrics};
use crate::mirror::Via;
use crate::repos::registry::Registry;
use crate::snapshot::budget::Budget;
use crate::snapshot::job::EncoderState;
use crate::snapshot::turns::Turns;
use crate::snapshot::verify::Verified;
use crate::snapshot::zstd::ring::Ring;
use crate::store::dir::StateDir;

/// See the module's text.
pub struct Shared {
    /// The configuration.
    pub config: Config,
    /// The state directory, locked.
    pub state: StateDir,
    /// All repositories.
    pub registry: Registry,
    /// The encoder threads.
    pub ring: Ring<EncoderState>,
    /// The prefetch threads.
    pub prefetch: Arc<Prefetch>,
    /// All counters.
    pub metrics: Arc<Metrics>,
    /// Memory for decoding big objects.
    pub budget: Arc<Budget>,
    /// Files of packs that were found to be sound.
    pub verified: Verified,
    /// Turns to produce.
    pub turns: Arc<Turns>,
    /// Open connections of all cores.
    pub admission: Admission,
    /// Those of them that wait for their client.
    pub idle: Arc<IdleCores>,
    /// Memory for request bodies.
    pub bodies: Arc<Bodies>,
    /// What other servers know this process by.
    pub via: Via,
    /// Faults to inject; none outside tests.
    pub faults: Faults,
    /// Archives that a newer one has replaced, until nobody has read them for
    /// [`RETIRED_KEPT_MS`](crate::limits::RETIRED_KEPT_MS).
    retired: Mutex<Vec<(Instant, Arc<Archive>)>>,
    running: Mutex<Vec<Weak<Fanout>>>,
    cache_bytes: AtomicU64,
    cache_entries: AtomicU64,
    disk_bytes: AtomicU64,
}

/// What [`Shared::new`] takes.
pub struct Parts {
    pub config: Config,
    pub state: StateDir,
    pub ring: Ring<EncoderState>,
    pub prefetch: Prefetch,
    pub metrics: Arc<Metrics>,
    pub faults: Faults,
    pub connections_max: usize,
}

impl Shared {
    /// Puts the parts together.
    pub fn new(parts: Parts) -> Shared {
        let disk_bytes = parts.state.space().map_or(0, |space| space.total_bytes);
        let slow_ms = parts.faults.taking_slow_ms.unwrap_or(TAKING_SLOW_MS);
        let slow = Duration::from_millis(slow_ms);
        Shared {
            registry: Registry::new(parts.config.cores.get()),
            idle: IdleCores::new(parts.config.cores.get(), slow),
            bodies: Bodies::new(),
            config: parts.config,
            state: parts.state,
            turns: Turns::new(parts.ring.threads()),
            ring: parts.ring,
            prefetch: Arc::new(parts.prefetch),
            metrics: parts.metrics,
            budget: Budget::new(DECODE_BUDGET_BYTES),
            verified: Verified::default(),
            admission: Admission::new(parts.connections_max),
            via: Via::random(),
            faults: parts.faults,
            retired: Mutex::default(),
            running: Mutex::default(),
            cache_bytes: AtomicU64::new(0),
            cache_entries: AtomicU64::new(0),
            disk_bytes: AtomicU64::new(disk_bytes),
        }
    }

    /// The counters of everything but the cores, which have a block each before it.
    pub fn meter(&self) -> Meter {
        self.metrics.meter(self.config.cores.get())
    }

    /// Notes a running build, so that it can be stopped.
    pub fn add_running(&self, fanout: &Arc<Fanout>) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.retain(|f| f.strong_count() > 0);
        running.push(Arc::downgrade(fanout));
    }

    /// Ends all running builds with an error and lets no waiting one begin.
    pub fn stop_builds(&self) {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        for fanout in running.iter().filter_map(Weak::upgrade) {
            fanout.fail("the server is shutting down");
        }
        drop(running);
        self.turns.close();
    }

    /// Has an archive removed that is no repository's current one any more, once nobody has read
    /// it for a while.
    pub fn retire(&self, archive: Arc<Archive>) {
        let mut retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
        retired.push((Instant::now(), archive));
    }

    /// Closes the files of those that nobody reads: whoever does is to have them opened again.
    pub fn close_retired(&self) {
        let retired: Vec<_> = {
            let retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
            retired.iter().map(|(_, archive)| archive.clone()).collect()
        };
        for archive in retired {
            archive.close_if_idle();
        }
    }

    /// An archive that was retired and is still there. It counts as used from here on.
    pub fn find_retired(&self, is_it: impl Fn(&Arc<Archive>) -> bool) -> Option<Arc<Archive>> {
        let retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, found) = retired.iter().find(|(_, archive)| is_it(archive))?;
        found.touch();
        Some(found.clone())
    }

    /// Takes one out of them; whether it was among them.
    pub fn take_one_retired(&self, archive: &Arc<Archive>) -> bool {
        let mut retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
        let before = retired.len();
        retired.retain(|(_, one)| !Arc::ptr_eq(one, archive));
        retired.len() < before
    }

    /// Takes out the retired archives that nobody reads or has read for `kept_ms`, or that were replaced
    /// [`RETIRED_MAX_MS`] ago, however often somebody asks for them.
    pub fn take_retired(&self, kept_ms: u64) -> Vec<Arc<Archive>> {
        let now = unix_ms();
        let longest = Duration::from_millis(RETIRED_MAX_MS);
        let is_over = |(since, archive): &mut (Instant, Arc<Archive>)| {
            let unused_ms = now.saturating_sub(archive.last_used_unix_ms());
            let is_old = unused_ms >= kept_ms || since.elapsed() >= longest;
            archive.fanout.readers() == 0 && is_old
        };
        let mut retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
        let over = retired.extract_if(.., is_over);
        over.map(|(_, archive)| archive).collect()
    }

    /// Notes an entry that was published, until the next look at the whole cache.
    pub fn add_to_cache(&self, bytes: u64) {
        self.cache_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.cache_entries.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes the size of the cache and of the disk that it is on.
    pub fn set_cache(&self, bytes: u64, entries: u64, disk_bytes: u64) {
        self.disk_bytes.store(disk_bytes, Ordering::Relaxed);
        self.cache_bytes.store(bytes, Ordering::Relaxed);
        self.cache_entries.store(entries, Ordering::Relaxed);
    }

    /// The levels that are not counted but looked up; without asking the file system, for the
    /// cores call it.
    pub fn gauges(&self) -> Gauges {
        let disk_bytes = self.disk_bytes.load(Ordering::Relaxed);
        Gauges {
            cache_bytes: self.cache_bytes.load(Ordering::Relaxed),
            cache_limit_bytes: self.config.cache_limit.of(disk_bytes),
            cache_entries: self.cache_entries.load(Ordering::Relaxed),
            body_bytes: self.bodies.used_bytes(),
        }
    }
}

/// A bounded number of connections.
#[derive(Debug)]
pub struct Admission {
    open: AtomicUsize,
    max: usize,
}

/// What became of a connection at the door.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// It was counted in.
    Entered,
    /// Others were told to end; when they have done so there is a place.
    Soon,
    /// None of the others can be told to.
    Full,
}

impl Admission {
    fn new(max: usize) -> Admission {
        Admission {
            open: AtomicUsize::new(0),
            max,
        }
    }

    /// The bound.
    pub fn max(&self) -> usize {
        self.max
    }

    /// How many more there may be for a moment, until one that was told to end has done so.
    pub fn spare(&self) -> usize {
        (self.max.saturating_mul(CONNECTIONS_SPARE_PERCENT) / 100).max(1)
    }

    /// Counts a connection in, unless there are too many and no other can be told to end.
    pub fn enter(&self, end_another: impl FnOnce() -> bool) -> Entry {
        let open = self.open.fetch_add(1, Ordering::Relaxed);
        let most = self.max.saturating_add(self.spare());
        // Another is told so in any case: those before may not have been as many as there are over.
        let entry = match open < self.max || end_another() {
            true if open < most => Entry::Entered,
            true => Entry::Soon,
            false => Entry::Full,
        };
        if entry != Entry::Entered {
            self.leave();
        }
        entry
    }

    /// Counts a connection out.
    pub fn leave(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}
