//! Counters of every thread, added up when somebody asks (`/metrics`).
//!
//! Each writing thread has a block of atomics of its own, on cache lines of its own, and adds to
//! it without locks or allocation. [`Metrics::render`] sums the blocks. [`FAMILIES`] is the one
//! table of what exists.
mod text;

use crate::limits::METRICS_REPOSITORIES_MAX;
use crossbeam::utils::CachePadded;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What a family of series is in Prometheus' terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only ever grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Observed durations, counted by bucket. Holds the upper bounds in microseconds, ascending.
    Histogram(&'static [u64]),
}

/// A metric that operators see: one row of [`FAMILIES`].
#[derive(Debug, Clone, Copy)]
pub struct Family {
    id: Id,
    /// The metric's name.
    pub name: &'static str,
    /// Its type.
    pub kind: Kind,
    /// The label that tells its series apart; empty when there is one series.
    pub label: &'static str,
    /// The values of that label that [`Meter`]s count; empty when there is one series, or when
    /// the values are known only at scrape time.
    pub values: &'static [&'static str],
    /// What it means.
    pub help: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Id {
    Requests,
    Responses,
    Ttfb,
    Duration,
    SentBytes,
    Connections,
    ConnectionsRefused,
    ConnectionsOpen,
    ClientsDropped,
    BodiesRefused,
    BodyBytes,
    BuildsRunning,
    Builds,
    SpooledBytes,
    SpoolFailures,
    Prefault,
    Clones,
    Fetches,
    Evictions,
    Scrubbed,
    ScrubbedBytes,
    LogRecordsDropped,
    CacheBytes,
    CacheLimitBytes,
    CacheEntries,
    MirrorAge,
    BuildInfo,
}

/// Every metric, in the order in which it is rendered.
pub const FAMILIES: [Family; 27] = [
    Family {
        id: Id::Requests,
        name: "tarpon_requests_total",
        kind: Kind::Counter,
        label: "outcome",
        values: Outcome::NAMES,
        help: "Requests answered, by how: from the cache (hit), from a running build (follow), \
               by starting one (build), or otherwise.",
    },
    Family {
        id: Id::Responses,
        name: "tarpon_responses_total",
        kind: Kind::Counter,
        label: "status",
        values: &["1xx", "2xx", "3xx", "4xx", "5xx"],
        help: "Responses by class of HTTP status.",
    },
    Family {
        id: Id::Ttfb,
        name: "tarpon_ttfb_seconds",
        kind: Kind::Histogram(&TTFB_BOUNDS_US),
        label: "",
        values: &[],
        help: "Time from the end of a request's head to the first byte of the response's body.",
    },
    Family {
        id: Id::Duration,
        name: "tarpon_request_duration_seconds",
        kind: Kind::Histogram(&DURATION_BOUNDS_US),
        label: "",
        values: &[],
        help: "Time from the end of a request's head to the last byte of its response.",
    },
    Family {
        id: Id::SentBytes,
        name: "tarpon_sent_bytes_total",
        kind: Kind::Counter,
        label: "",
        values: &[],
        help: "Bytes written to clients.",
    },
    Family {
        id: Id::Connections,
        name: "tarpon_connections_total",
        kind: Kind::Counter,
        label: "",
        values: &[],
        help: "Connections accepted.",
    },
    Family {
        id: Id::ConnectionsRefused,
        name: "tarpon_connections_refused_total",
        kind: Kind::Counter,
        label: "",
        values: &[],
        help: "Connections that were turned away because there were too many and none was idle; \
               raise the limit of open files.",
    },
    Family {
        id: Id::ConnectionsOpen,
        name: "tarpon_connections_open",
        kind: Kind::Gauge,
        label: "",
        values: &[],
        help: "Connections open now.",
    },
    Family {
        id: Id::ClientsDropped,
        name: "tarpon_clients_dropped_total",
        kind: Kind::Counter,
        label: "reason",
        values: DropReason::NAMES,
        help: "Connections ended before their response or before a request: no progress (stall), \
               nothing asked (idle), waiting the longest when places were short (crowded), a request sent \
               or a response taken too slowly while others waited (slow), closed by the client \
               (gone), or server stopping (shutdown).",
    },
    Family {
        id: Id::BodiesRefused,
        name: "tarpon_bodies_refused_total",
        kind: Kind::Counter,
        label: "",
        values: &[],
        help: "Requests answered with 503 because the memory for request bodies and long heads was in use.",
    },
    Family {
        id: Id::BodyBytes,
        name: "tarpon_body_bytes",
        kind: Kind::Gauge,
        label: "",
        values: &[],
        help: "Bytes of request bodies, as sent and decoded, and of long heads, held now.",
    },
    Family {
        id: Id::BuildsRunning,
        name: "tarpon_builds_running",
        kind: Kind::Gauge,
        label: "",
        values: &[],
        help: "Snapshots being built now.",
    },
    Family {
        id: Id::Builds,
        name: "tarpon_builds_total",
        kind: Kind::Counter,
        label: "result",
        values: BuildResult::NAMES,
        help: "Snapshots built: cached (complete), sent but not cached (live_only), given up \
               because all clients had left an uncached one (abandoned), or failed.",
    },
    Family {
        id: Id::SpooledBytes,
        name: "tarpon_spooled_bytes_total",
        kind: Kind::Counter,
        label: "",
        values: &[],
        help: "Bytes of snapshots written to the cache; linked packs are not among them.",
    },
    Family {
        id: Id::SpoolFailures,
        name: "tarpon_spool_failures_total",
        kind: Kind::Counter,
        label: "reason",
        values: SpoolFailure::NAMES,
        help: "Snapshots that could not be kept, because the disk was full or failed.",
    },
    Family {
        id: Id::Prefault,
        name: "tarpon_prefault_total",
        kind: Kind::Counter,
        label: "result",
        values: Prefault::NAMES,
        help: "Windows of cached data looked at before sending: already in memory (resident), \
               read from disk (read), or not readable (failed).",
    },
    Family {
        id: Id::Clones,
        name: "tarpon_clones_total",
        kind: Kind::Counter,
        label: "result",
        values: CloneResult::NAMES,
        help: "First clones from an upstream.",
    },
    Family {
        id: Id::Fetches,
        name: "tarpon_fetches_total",
        kind: Kind::Counter,
        label: "result",
        values: FetchResult::NAMES,
        help: "Fetches from an upstream into a mirror.",
    },
    Family {
        id: Id::Evictions,
        name: "tarpon_evictions_total",
        kind: Kind::Counter,
        label: "",
        values: &[],
        help: "Snapshots removed to make room.",
    },
    Family {
        id: Id::Scrubbed,
        name: "tarpon_scrub_checks_total",
        kind: Kind::Counter,
        label: "result",
        values: ScrubResult::NAMES,
        help: "Snapshots and mirrors read from the disk and checked: sound, damaged (and replaced), \
               or not readable.",
    },
    Family {
        id: Id::ScrubbedBytes,
        name: "tarpon_scrub_bytes_total",
        kind: Kind::Counter,
        label: "",
        values: &[],
        help: "Bytes read from the disk to be checked.",
    },
    Family {
        id: Id::LogRecordsDropped,
        name: "tarpon_log_records_dropped_total",
        kind: Kind::Counter,
        label: "",
        values: &[],
        help: "Requests missing from the log because it could not be written fast enough.",
    },
    Family {
        id: Id::CacheBytes,
        name: "tarpon_cache_bytes",
        kind: Kind::Gauge,
        label: "",
        values: &[],
        help: "Bytes that cached snapshots take.",
    },
    Family {
        id: Id::CacheLimitBytes,
        name: "tarpon_cache_limit_bytes",
        kind: Kind::Gauge,
        label: "",
        values: &[],
        help: "Bytes that cached snapshots may take.",
    },
    Family {
        id: Id::CacheEntries,
        name: "tarpon_cache_entries",
        kind: Kind::Gauge,
        label: "",
        values: &[],
        help: "Snapshots in the cache.",
    },
    Family {
        id: Id::MirrorAge,
        name: "tarpon_mirror_age_seconds",
        kind: Kind::Gauge,
        label: "repository",
        values: &[],
        help: "Time since a mirror was last known to equal its upstream; the first 1000 mirrors.",
    },
    Family {
        id: Id::BuildInfo,
        name: "tarpon_build_info",
        kind: Kind::Gauge,
        label: "version",
        values: &[env!("CARGO_PKG_VERSION")],
        help: "Always 1; its label is the version that runs.",
    },
];

/// 0.5 ms to 60 s.
const TTFB_BOUNDS_US: [u64; 16] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 10_000_000, 30_000_000, 60_000_000,
];
/// 1 ms to 1 h.
const DURATION_BOUNDS_US: [u64; 16] = [
    1_000,
    5_000,
    10_000,
    50_000,
    100_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    30_000_000,
    60_000_000,
    120_000_000,
    300_000_000,
    900_000_000,
    3_600_000_000,
];

/// Atomics per block.
const SLOTS: usize = slot_base(FAMILIES.len());

const _: () = {
    let mut i = 0;
    while i < FAMILIES.len() {
        assert!(
            FAMILIES[i].id as usize == i,
            "FAMILIES and Id must have the same order"
        );
        i += 1;
    }
    assert!(
        METRICS_REPOSITORIES_MAX == 1000,
        "the help of tarpon_mirror_age_seconds says 1000"
    );
};

/// How many atomics of a block a family takes. A histogram has one per bucket, one for what is
/// above the last bound, and one for the sum.
const fn slots_of(family: &Family) -> usize {
    match (family.kind, family.values.len()) {
        (Kind::Histogram(bounds), _) => bounds.len() + 2,
        (_, 0) => 1,
        (_, values) => values,
    }
}

/// Where a family's atomics start.
const fn slot_base(family: usize) -> usize {
    let (mut i, mut base) = (0, 0);
    while i < family {
        base += slots_of(&FAMILIES[i]);
        i += 1;
    }
    base
}

/// `slot_base` of each family, so that counting costs one look-up.
const BASES: [usize; FAMILIES.len()] = {
    let mut bases = [0; FAMILIES.len()];
    let mut i = 0;
    while i < bases.len() {
        bases[i] = slot_base(i);
        i += 1;
    }
    bases
};

/// A label: an enum whose variants are the values, with their names in the same order.
macro_rules! label {
    ($(#[$doc:meta])* $name:ident { $($(#[$value_doc:meta])* $value:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$value_doc])* $value,)+
        }

        impl $name {
            /// The label values, in the order of the variants.
            pub const NAMES: &'static [&'static str] = &[$($text),+];

            /// The label value.
            pub const fn name(self) -> &'static str {
                Self::NAMES[self as usize]
            }
        }
    };
}

label! {
    /// How a request was answered.
    Outcome {
        /// A snapshot from the cache.
        Hit = "hit",
        /// A snapshot from a build that was already running.
        Follow = "follow",
        /// A snapshot from a build that this request started.
        Build = "build",
        /// A condition held: 304 or 412.
        Precondition = "precondition",
        /// A `HEAD` of a snapshot.
        Head = "head",
        /// A bundle.
        Bundle = "bundle",
        /// `ensure-refs`.
        EnsureRefs = "ensure_refs",
        /// The git protocol.
        Git = "git",
        /// Health or metrics.
        Admin = "admin",
        /// The request was wrong: 4xx.
        Refused = "refused",
        /// The server or the upstream failed: 5xx, or a response cut short.
        Error = "error",
        /// It was not: the client had left.
        Left = "left",
    }
}

label! {
    /// Why a connection ended before its time.
    DropReason {
        /// No byte taken for the stall time.
        Stall = "stall",
        /// No request for the idle time.
        Idle = "idle",
        /// The longest without a request when places were short.
        Crowded = "crowded",
        /// A body or the taking of a response was too slow while others waited.
        Slow = "slow",
        /// The client closed in the middle of a response.
        Gone = "gone",
        /// The grace time after SIGTERM was over.
        Shutdown = "shutdown",
    }
}

label! {
    /// How a build ended.
    BuildResult {
        /// Published in the cache.
        Complete = "complete",
        /// Given up, for its clients left or the server stopped.
        Abandoned = "abandoned",
        /// Clients got an error.
        Failed = "failed",
        /// Clients got it, the cache did not.
        LiveOnly = "live_only",
    }
}

label! {
    /// Why a snapshot could not be spooled.
    SpoolFailure {
        /// ENOSPC or EDQUOT.
        DiskFull = "disk_full",
        /// Any other error.
        Io = "io",
    }
}

label! {
    /// What came of preparing cached data for sending.
    Prefault {
        /// It was in the page cache.
        Resident = "resident",
        /// It was read from disk.
        Read = "read",
        /// It could not be read.
        Failed = "failed",
    }
}

label! {
    /// How a first clone ended.
    CloneResult {
        /// There is a mirror.
        Complete = "complete",
        /// The upstream says that there is no such repository.
        NotFound = "not_found",
        /// It took longer than the limit.
        TimedOut = "timed_out",
        /// Anything else.
        Failed = "failed",
    }
}

label! {
    /// How a fetch ended.
    FetchResult {
        /// Refs moved.
        Changed = "changed",
        /// Nothing new.
        Unchanged = "unchanged",
        /// It failed.
        Failed = "failed",
    }
}

label! {
    /// What came of a look at what the disk has.
    ScrubResult {
        /// A snapshot is what was published.
        EntrySound = "entry_sound",
        /// A snapshot has rotted.
        EntryDamaged = "entry_damaged",
        /// A mirror is what git wrote.
        MirrorSound = "mirror_sound",
        /// A mirror has rotted.
        MirrorDamaged = "mirror_damaged",
        /// Files could not be read.
        Unreadable = "unreadable",
    }
}

/// Something to count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A request was answered.
    Request(Outcome),
    /// A response with this HTTP status was started.
    Response(u16),
    /// Bytes were written to a client.
    SentBytes,
    /// A connection was accepted.
    Connection,
    /// A connection was turned away.
    ConnectionRefused,
    /// A connection ended before its time.
    ClientDropped(DropReason),
    /// There was no room for a request's body.
    BodyRefused,
    /// A build ended.
    Build(BuildResult),
    /// Bytes were written to the cache.
    SpooledBytes,
    /// A snapshot could not be kept.
    SpoolFailure(SpoolFailure),
    /// A window of cached data was prepared.
    Prefault(Prefault),
    /// A first clone ended.
    Clone(CloneResult),
    /// A fetch ended.
    Fetch(FetchResult),
    /// A snapshot was removed to make room.
    Eviction,
    /// A snapshot or mirror was looked at.
    Scrub(ScrubResult),
    /// Bytes were read for that.
    ScrubbedBytes,
    /// A request record was lost.
    LogRecordDropped,
}

impl Event {
    fn slot(self) -> usize {
        let (id, offset) = match self {
            Self::Request(outcome) => (Id::Requests, outcome as usize),
            Self::Response(status) => (Id::Responses, usize::from(status / 100).clamp(1, 5) - 1),
            Self::SentBytes => (Id::SentBytes, 0),
            Self::Connection => (Id::Connections, 0),
            Self::ConnectionRefused => (Id::ConnectionsRefused, 0),
            Self::ClientDropped(reason) => (Id::ClientsDropped, reason as usize),
            Self::BodyRefused => (Id::BodiesRefused, 0),
            Self::Build(result) => (Id::Builds, result as usize),
            Self::SpooledBytes => (Id::SpooledBytes, 0),
            Self::SpoolFailure(reason) => (Id::SpoolFailures, reason as usize),
            Self::Prefault(result) => (Id::Prefault, result as usize),
            Self::Clone(result) => (Id::Clones, result as usize),
            Self::Fetch(result) => (Id::Fetches, result as usize),
            Self::Eviction => (Id::Evictions, 0),
            Self::Scrub(result) => (Id::Scrubbed, result as usize),
            Self::ScrubbedBytes => (Id::ScrubbedBytes, 0),
            Self::LogRecordDropped => (Id::LogRecordsDropped, 0),
        };
        BASES[id as usize] + offset
    }
}

/// Something that is on for a while. The thread that ends it need not be the one that began it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// An open connection.
    ConnectionsOpen,
    /// A running build.
    BuildsRunning,
}

impl Level {
    fn slot(self) -> usize {
        match self {
            Self::ConnectionsOpen => BASES[Id::ConnectionsOpen as usize],
            Self::BuildsRunning => BASES[Id::BuildsRunning as usize],
        }
    }
}

/// A duration to observe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timing {
    /// Time to the first byte of a body.
    Ttfb,
    /// Time to the last byte.
    Duration,
}

/// The atomics of one writing thread. Alignment and padding keep its cache lines its own.
type Block = CachePadded<[AtomicU64; SLOTS]>;

/// All counters of the process.
///
/// Invariant: what `/metrics` shows is the wrapping sum over `blocks`, slot by slot. So any thread
/// may use any block and a gauge may go below zero in one of them; a block for each thread is only
/// there to keep threads from sharing cache lines.
#[derive(Debug)]
pub struct Metrics {
    blocks: Box<[Block]>,
}

/// What is read off other parts at scrape time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Gauges {
    /// Bytes that published entries take.
    pub cache_bytes: u64,
    /// Bytes that they may take.
    pub cache_limit_bytes: u64,
    /// Published entries.
    pub cache_entries: u64,
    /// Bytes of request bodies.
    pub body_bytes: u64,
}

impl Metrics {
    /// Counters for `writers` threads: cores, encoders and background.
    pub fn new(writers: usize) -> Arc<Self> {
        let block = || CachePadded::new([const { AtomicU64::new(0) }; SLOTS]);
        Arc::new(Self {
            blocks: (0..writers.max(1)).map(|_| block()).collect(),
        })
    }

    /// The handle of thread number `writer`. One beyond the number given to [`Metrics::new`]
    /// shares a block, which costs time but loses nothing.
    pub fn meter(self: &Arc<Self>, writer: usize) -> Meter {
        Meter {
            metrics: Arc::clone(self),
            block: writer % self.blocks.len(),
        }
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
