//! Counters of every thread, added up when somebody asks (`/metrics`, DESIGN 6).
//!
//! Each writing thread has a block of atomics of its own, on cache lines of its own, and adds to
//! it without locks or allocation. [`Metrics::render`] sums the blocks. [`FAMILIES`] is the one
//! table of what exists.
use crate::limits::METRICS_REPOSITORIES_MAX;
use crossbeam::utils::CachePadded;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

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
    BuildsRunning,
    Builds,
    SpooledBytes,
    SpoolFailures,
    Prefault,
    Clones,
    Fetches,
    Evictions,
    LogRecordsDropped,
    CacheBytes,
    CacheLimitBytes,
    CacheEntries,
    MirrorAge,
    BuildInfo,
}

/// Every metric, in the order in which it is rendered.
pub const FAMILIES: [Family; 23] = [
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
        help: "Connections that were turned away because there were too many; raise the limit of \
               open files.",
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
               nothing asked (idle), closed by the client (gone), or server stopping (shutdown).",
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
        help: "Snapshots built: cached (complete), sent but not cached (live_only), or failed.",
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
    }
}

label! {
    /// Why a connection ended before its time.
    DropReason {
        /// No byte taken for the stall time.
        Stall = "stall",
        /// No request for the idle time.
        Idle = "idle",
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
            Self::Build(result) => (Id::Builds, result as usize),
            Self::SpooledBytes => (Id::SpooledBytes, 0),
            Self::SpoolFailure(reason) => (Id::SpoolFailures, reason as usize),
            Self::Prefault(result) => (Id::Prefault, result as usize),
            Self::Clone(result) => (Id::Clones, result as usize),
            Self::Fetch(result) => (Id::Fetches, result as usize),
            Self::Eviction => (Id::Evictions, 0),
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

    /// Appends all metrics in Prometheus' text format 0.0.4. `mirrors` gives each repository's
    /// name and the age of its mirror; only the first [`METRICS_REPOSITORIES_MAX`] are shown.
    /// Blocks: no. Allocates: only in `out`.
    pub fn render<'a>(
        &self,
        gauges: &Gauges,
        mirrors: impl IntoIterator<Item = (&'a str, Duration)>,
        out: &mut String,
    ) {
        let mut mirrors = mirrors.into_iter().take(METRICS_REPOSITORIES_MAX);
        for family in &FAMILIES {
            push_head(out, family);
            match family.id {
                Id::CacheBytes => push_sample(out, family.name, None, gauges.cache_bytes),
                Id::CacheLimitBytes => {
                    push_sample(out, family.name, None, gauges.cache_limit_bytes);
                }
                Id::CacheEntries => push_sample(out, family.name, None, gauges.cache_entries),
                Id::BuildInfo => {
                    let version = family.values.first().map(|value| (family.label, *value));
                    push_sample(out, family.name, version, 1);
                }
                Id::MirrorAge => {
                    for (repository, age) in mirrors.by_ref() {
                        let label = Some((family.label, repository));
                        push_sample(out, family.name, label, age.as_secs_f64());
                    }
                }
                _ => self.push_counted(out, family),
            }
        }
    }

    fn push_counted(&self, out: &mut String, family: &Family) {
        let base = BASES[family.id as usize];
        if let Kind::Histogram(bounds) = family.kind {
            return self.push_histogram(out, family.name, base, bounds);
        }
        if family.values.is_empty() {
            return self.push_sum(out, family, None, base);
        }
        for (offset, value) in family.values.iter().enumerate() {
            self.push_sum(out, family, Some((family.label, value)), base + offset);
        }
    }

    fn push_sum(
        &self,
        out: &mut String,
        family: &Family,
        label: Option<(&str, &str)>,
        slot: usize,
    ) {
        let sum = self.sum(slot);
        match family.kind {
            // Read block by block while others write, a gauge's end may be seen before its
            // beginning.
            Kind::Gauge => push_sample(out, family.name, label, sum.cast_signed().max(0)),
            Kind::Counter | Kind::Histogram(_) => push_sample(out, family.name, label, sum),
        }
    }

    /// `_count` is the last cumulative bucket and not a counter of its own, so that the two agree
    /// even when read in the middle of an observation.
    fn push_histogram(&self, out: &mut String, name: &str, base: usize, bounds: &[u64]) {
        let mut count = 0;
        for (offset, bound_us) in bounds.iter().enumerate() {
            count += self.sum(base + offset);
            push(
                out,
                format_args!("{name}_bucket{{le=\"{}\"}} {count}\n", seconds(*bound_us)),
            );
        }
        count += self.sum(base + bounds.len());
        let sum_us = self.sum(base + bounds.len() + 1);
        push(out, format_args!("{name}_bucket{{le=\"+Inf\"}} {count}\n"));
        push(
            out,
            format_args!("{name}_sum {}\n{name}_count {count}\n", seconds(sum_us)),
        );
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

fn push(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a String never fails.
    let _ = out.write_fmt(text);
}

fn push_head(out: &mut String, family: &Family) {
    let kind = match family.kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram(_) => "histogram",
    };
    let Family { name, help, .. } = family;
    push(
        out,
        format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"),
    );
}

fn push_sample(
    out: &mut String,
    name: &str,
    label: Option<(&str, &str)>,
    value: impl std::fmt::Display,
) {
    out.push_str(name);
    if let Some((label, text)) = label {
        push(out, format_args!("{{{label}=\""));
        push_escaped(out, text);
        out.push_str("\"}");
    }
    push(out, format_args!(" {value}\n"));
}

/// Label values: the format gives a meaning to these three only.
fn push_escaped(out: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            c => out.push(c),
        }
    }
}

fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};
    use std::thread;

    /// Name with labels to value, as a scraper reads it; fails on anything malformed.
    fn scrape_with(metrics: &Metrics, gauges: &Gauges, mirrors: &[(&str, u64)]) -> Samples {
        let mut out = String::new();
        let ages = mirrors
            .iter()
            .map(|(name, age_s)| (*name, Duration::from_secs(*age_s)));
        metrics.render(gauges, ages, &mut out);
        assert!(out.ends_with('\n'));
        let (mut samples, mut family) = (Samples::new(), String::new());
        let mut seen = BTreeSet::new();
        for line in out.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                family = rest.split_once(' ').unwrap().0.to_owned();
                assert!(seen.insert(family.clone()), "{family} twice");
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                assert_eq!(name, family);
                assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            } else {
                let (name, value) = line.rsplit_once(' ').unwrap();
                assert!(name.starts_with(&family), "{line} is not below its TYPE");
                assert!(
                    samples
                        .insert(name.into(), value.parse().unwrap())
                        .is_none(),
                    "{line}"
                );
            }
        }
        samples
    }

    type Samples = BTreeMap<String, f64>;

    fn scrape(metrics: &Metrics) -> Samples {
        scrape_with(metrics, &Gauges::default(), &[])
    }

    #[test]
    fn the_table_is_sound() {
        let plain = |c: char| c.is_ascii_lowercase() || c == '_';
        for family in &FAMILIES {
            assert!(family.name.starts_with("tarpon_") && family.name.chars().all(plain));
            assert!(family.help.ends_with('.') && !family.help.contains(['\\', '\n']));
            assert_eq!(
                family.kind == Kind::Counter,
                family.name.ends_with("_total"),
                "{}: counters and only they end in _total",
                family.name
            );
            assert!(
                family.values.is_empty() || !family.label.is_empty(),
                "{}",
                family.name
            );
            if let Kind::Histogram(bounds) = family.kind {
                assert!(bounds.is_sorted_by(|a, b| a < b), "{}", family.name);
            }
        }
        let mut out = String::new();
        Metrics::new(1).render(&Gauges::default(), [], &mut out);
        for family in &FAMILIES {
            assert!(
                out.contains(&format!("# TYPE {} ", family.name)),
                "{}",
                family.name
            );
        }
    }

    #[test]
    fn every_event_has_a_series_of_its_own() {
        let metrics = Metrics::new(2);
        let events = [
            (
                Event::Request(Outcome::Hit),
                "tarpon_requests_total{outcome=\"hit\"}",
            ),
            (
                Event::Request(Outcome::Error),
                "tarpon_requests_total{outcome=\"error\"}",
            ),
            (
                Event::Response(206),
                "tarpon_responses_total{status=\"2xx\"}",
            ),
            (
                Event::Response(502),
                "tarpon_responses_total{status=\"5xx\"}",
            ),
            (Event::SentBytes, "tarpon_sent_bytes_total"),
            (Event::Connection, "tarpon_connections_total"),
            (Event::ConnectionRefused, "tarpon_connections_refused_total"),
            (
                Event::ClientDropped(DropReason::Idle),
                "tarpon_clients_dropped_total{reason=\"idle\"}",
            ),
            (
                Event::Build(BuildResult::LiveOnly),
                "tarpon_builds_total{result=\"live_only\"}",
            ),
            (Event::SpooledBytes, "tarpon_spooled_bytes_total"),
            (
                Event::SpoolFailure(SpoolFailure::DiskFull),
                "tarpon_spool_failures_total{reason=\"disk_full\"}",
            ),
            (
                Event::Prefault(Prefault::Read),
                "tarpon_prefault_total{result=\"read\"}",
            ),
            (
                Event::Clone(CloneResult::TimedOut),
                "tarpon_clones_total{result=\"timed_out\"}",
            ),
            (
                Event::Fetch(FetchResult::Unchanged),
                "tarpon_fetches_total{result=\"unchanged\"}",
            ),
            (Event::Eviction, "tarpon_evictions_total"),
            (Event::LogRecordDropped, "tarpon_log_records_dropped_total"),
        ];
        for (count, (event, name)) in (1..).zip(events) {
            let before = scrape(&metrics);
            metrics.meter(1).add(event, count);
            let mut expected = before;
            *expected.get_mut(name).unwrap() += count as f64;
            assert_eq!(scrape(&metrics), expected, "{event:?}");
        }
    }

    #[test]
    fn odd_statuses_count_in_the_nearest_class() {
        let metrics = Metrics::new(1);
        metrics.meter(0).add(Event::Response(0), 1);
        metrics.meter(0).add(Event::Response(999), 1);
        let samples = scrape(&metrics);
        assert_eq!(samples["tarpon_responses_total{status=\"1xx\"}"], 1.0);
        assert_eq!(samples["tarpon_responses_total{status=\"5xx\"}"], 1.0);
    }

    #[test]
    fn writers_are_summed_and_extra_ones_lose_nothing() {
        let metrics = Metrics::new(3);
        for writer in 0..7 {
            metrics.meter(writer).add(Event::SentBytes, 10);
        }
        assert_eq!(scrape(&metrics)["tarpon_sent_bytes_total"], 70.0);
        let none = Metrics::new(0);
        none.meter(5).add(Event::SentBytes, 1);
        assert_eq!(scrape(&none)["tarpon_sent_bytes_total"], 1.0);
    }

    #[test]
    fn a_level_may_rise_on_one_thread_and_fall_on_another() {
        let metrics = Metrics::new(2);
        metrics.meter(0).up(Level::BuildsRunning);
        metrics.meter(0).up(Level::BuildsRunning);
        metrics.meter(1).down(Level::BuildsRunning);
        metrics.meter(1).up(Level::ConnectionsOpen);
        let samples = scrape(&metrics);
        assert_eq!(samples["tarpon_builds_running"], 1.0);
        assert_eq!(samples["tarpon_connections_open"], 1.0);
        metrics.meter(1).down(Level::BuildsRunning);
        metrics.meter(1).down(Level::BuildsRunning);
        assert_eq!(
            scrape(&metrics)["tarpon_builds_running"],
            0.0,
            "never shown below zero"
        );
    }

    #[test]
    fn histogram_buckets_are_cumulative_and_bounds_belong_to_them() {
        let metrics = Metrics::new(2);
        for (writer, us) in [(0, 0), (1, 500), (0, 501), (1, 60_000_000), (0, 60_000_001)] {
            metrics.meter(writer).observe_us(Timing::Ttfb, us);
        }
        let samples = scrape(&metrics);
        let bucket = |le: &str| samples[&format!("tarpon_ttfb_seconds_bucket{{le=\"{le}\"}}")];
        assert_eq!(bucket("0.0005"), 2.0);
        assert_eq!(bucket("0.001"), 3.0);
        assert_eq!(bucket("30"), 3.0);
        assert_eq!(bucket("60"), 4.0);
        assert_eq!(bucket("+Inf"), 5.0);
        assert_eq!(samples["tarpon_ttfb_seconds_count"], 5.0);
        assert!((samples["tarpon_ttfb_seconds_sum"] - 120.001_002).abs() < 1e-9);
        assert_eq!(samples["tarpon_request_duration_seconds_count"], 0.0);
    }

    #[test]
    fn buckets_never_fall() {
        let metrics = Metrics::new(1);
        (0..40).for_each(|bits| metrics.meter(0).observe_us(Timing::Duration, 1 << bits));
        let mut out = String::new();
        metrics.render(&Gauges::default(), [], &mut out);
        let start = "tarpon_request_duration_seconds_bucket";
        let lines = out.lines().filter(|line| line.starts_with(start));
        let counts: Vec<u64> = lines
            .map(|line| line.rsplit_once(' ').unwrap().1.parse().unwrap())
            .collect();
        assert_eq!(counts.len(), DURATION_BOUNDS_US.len() + 1);
        assert!(counts.is_sorted());
        assert_eq!(counts.last(), Some(&40));
    }

    #[test]
    fn gauges_and_mirrors_are_shown_and_escaped() {
        let gauges = Gauges {
            cache_bytes: u64::MAX,
            cache_limit_bytes: 7,
            cache_entries: 2,
        };
        let mirrors = [("github.com/a/b", 90), ("x/\"q\"\\\n", 0)];
        let samples = scrape_with(&Metrics::new(1), &gauges, &mirrors);
        assert_eq!(samples["tarpon_cache_bytes"], u64::MAX as f64);
        assert_eq!(samples["tarpon_cache_limit_bytes"], 7.0);
        assert_eq!(samples["tarpon_cache_entries"], 2.0);
        let age = "tarpon_mirror_age_seconds{repository=\"github.com/a/b\"}";
        assert_eq!(samples[age], 90.0);
        let odd = "tarpon_mirror_age_seconds{repository=\"x/\\\"q\\\"\\\\\\n\"}";
        assert!(samples.contains_key(odd), "{samples:?}");
    }

    #[test]
    fn the_number_of_repositories_is_bounded() {
        let names: Vec<String> = (0..METRICS_REPOSITORIES_MAX + 5)
            .map(|n| format!("h/{n}"))
            .collect();
        let mirrors: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), 1)).collect();
        let samples = scrape_with(&Metrics::new(1), &Gauges::default(), &mirrors);
        let shown = samples
            .keys()
            .filter(|name| name.starts_with("tarpon_mirror_age"))
            .count();
        assert_eq!(shown, METRICS_REPOSITORIES_MAX);
    }

    #[test]
    fn adds_from_many_threads_are_all_counted_and_only_ever_grow() {
        const EACH: u64 = 20_000;
        let metrics = Metrics::new(3);
        thread::scope(|scope| {
            let writers: Vec<_> = (0..4)
                .map(|writer| {
                    let meter = metrics.meter(writer);
                    scope.spawn(move || {
                        for _ in 0..EACH {
                            meter.add(Event::Request(Outcome::Hit), 1);
                            meter.observe_us(Timing::Ttfb, 700);
                        }
                    })
                })
                .collect();
            let mut last = 0.0;
            while !writers.iter().all(|writer| writer.is_finished()) {
                let samples = scrape(&metrics);
                let now = samples["tarpon_requests_total{outcome=\"hit\"}"];
                assert!(now >= last);
                last = now;
                let all = samples["tarpon_ttfb_seconds_bucket{le=\"+Inf\"}"];
                assert_eq!(samples["tarpon_ttfb_seconds_count"], all);
            }
        });
        let samples = scrape(&metrics);
        let total = (4 * EACH) as f64;
        assert_eq!(samples["tarpon_requests_total{outcome=\"hit\"}"], total);
        assert_eq!(samples["tarpon_ttfb_seconds_bucket{le=\"0.001\"}"], total);
        assert_eq!(samples["tarpon_ttfb_seconds_bucket{le=\"0.0005\"}"], 0.0);
    }
}
