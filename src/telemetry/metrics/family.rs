//! The one table of what exists, and where each family of series has its place.

use super::bounds::{DURATION_BOUNDS_US, TTFB_BOUNDS_US};
pub(super) use super::id::Id;
pub(crate) use super::kind::{Family, Kind};
use super::label::*;
use crate::limits::METRICS_REPOSITORIES_MAX;

/// A gauge that is one series.
const fn gauge(id: Id, name: &'static str, help: &'static str) -> Family {
    Family {
        id,
        name,
        kind: Kind::Gauge,
        label: "",
        values: &[],
        help,
    }
}

/// A counter that is one series.
const fn counter(id: Id, name: &'static str, help: &'static str) -> Family {
    Family {
        id,
        name,
        kind: Kind::Counter,
        label: "",
        values: &[],
        help,
    }
}

/// Every metric, in the order in which it is rendered.
pub(crate) const FAMILIES: [Family; 64] = [
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
        help: "Time from the end of a request's head to the first byte of the response's body; of an answer \
               that begins before its archive, to the first byte of that.",
    },
    Family {
        id: Id::Duration,
        name: "tarpon_request_duration_seconds",
        kind: Kind::Histogram(&DURATION_BOUNDS_US),
        label: "",
        values: &[],
        help: "Time from the end of a request's head to the last byte of its response.",
    },
    counter(
        Id::SentBytes,
        "tarpon_sent_bytes_total",
        "Bytes written to clients.",
    ),
    counter(
        Id::Connections,
        "tarpon_connections_total",
        "Connections accepted.",
    ),
    counter(
        Id::ConnectionsRefused,
        "tarpon_connections_refused_total",
        "Connections answered with 503 because all places were in use.",
    ),
    gauge(
        Id::ConnectionsOpen,
        "tarpon_connections_open",
        "Connections open now.",
    ),
    Family {
        id: Id::ClientsDropped,
        name: "tarpon_clients_dropped_total",
        kind: Kind::Counter,
        label: "reason",
        values: DropReason::NAMES,
        help: "Connections ended before their response or before a request: no progress (stall), \
               nothing asked (idle), waiting the longest, or from an address with too many, when places \
               were short (crowded), a request sent or a response taken too slowly while others waited (slow), closed by the client \
               (gone), server stopping (shutdown), or no TLS that is understood or \
               believed (handshake).",
    },
    counter(
        Id::BodiesRefused,
        "tarpon_bodies_refused_total",
        "Requests answered with 503 because the memory for request bodies and long heads was in use.",
    ),
    gauge(
        Id::BodyBytes,
        "tarpon_body_bytes",
        "Bytes of request bodies, as sent and decoded, and of long heads, held now.",
    ),
    gauge(
        Id::BuildsRunning,
        "tarpon_builds_running",
        "Snapshots being built now.",
    ),
    Family {
        id: Id::Builds,
        name: "tarpon_builds_total",
        kind: Kind::Counter,
        label: "result",
        values: BuildResult::NAMES,
        help: "Snapshots built: cached (complete), sent but not cached (live_only), given up \
               because all clients had left an uncached one, or because descriptors, memory or threads \
               had run out (abandoned), or failed.",
    },
    counter(
        Id::JobsEncoded,
        "tarpon_jobs_encoded_total",
        "Runs of files whose frames builds have made.",
    ),
    counter(
        Id::JobsReused,
        "tarpon_jobs_reused_total",
        "Runs of files whose frames builds have taken over from an earlier snapshot.",
    ),
    counter(
        Id::SpooledBytes,
        "tarpon_spooled_bytes_total",
        "Bytes of snapshots written to the cache; linked packs are not among them.",
    ),
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
        help: "First clones from an upstream that ended by themselves.",
    },
    Family {
        id: Id::Offers,
        name: "tarpon_offers_total",
        kind: Kind::Counter,
        label: "result",
        values: OfferResult::NAMES,
        help: "Snapshots that were to be shared through --store: uploaded (done), there already (known), of what has left there and nobody uses (unused), given up for a newer one (superseded), or put off (failed).",
    },
    Family {
        id: Id::Imports,
        name: "tarpon_imports_total",
        kind: Kind::Counter,
        label: "result",
        values: ImportResult::NAMES,
        help: "Looks for a snapshot in --store: taken from there (done), not there (absent), or not to be had (failed).",
    },
    Family {
        id: Id::Adoptions,
        name: "tarpon_adoptions_total",
        kind: Kind::Counter,
        label: "result",
        values: AdoptionResult::NAMES,
        help: "Packs of --store that were to take the place of a mirror's own, or files of a snapshot, where both show the same: they have (done), but for what they lack (kept), they wait for who is in the way or for room (put_off), or could not be had (failed).",
    },
    Family {
        id: Id::StoreRequests,
        name: "tarpon_store_requests_total",
        kind: Kind::Counter,
        label: "request",
        values: StoreRequest::NAMES,
        help: "Requests to the object store of --store, by what for.",
    },
    Family {
        id: Id::StoreFailures,
        name: "tarpon_store_failures_total",
        kind: Kind::Counter,
        label: "request",
        values: StoreRequest::NAMES,
        help: "Requests to the object store that it did not answer, or not as it should.",
    },
    counter(
        Id::StoreReadBytes,
        "tarpon_store_read_bytes_total",
        "Bytes read from the object store.",
    ),
    counter(
        Id::StoreUploadedBytes,
        "tarpon_store_uploaded_bytes_total",
        "Bytes uploaded to the object store.",
    ),
    gauge(
        Id::StoreResting,
        "tarpon_store_resting",
        "Whether the object store does not answer and is left alone for a while: 1 or 0.",
    ),
    gauge(
        Id::StoreBehind,
        "tarpon_store_behind",
        "Mirrors that may have what has expired at another server, and share nothing until they were compared.",
    ),
    gauge(
        Id::StoreWarming,
        "tarpon_store_warming",
        "Repositories that are still to be taken from the object store before /_readiness is answered 200.",
    ),
    gauge(
        Id::StoreLeases,
        "tarpon_store_leases",
        "Repositories in use that this server compares by timer for all that share the object store.",
    ),
    Family {
        id: Id::Leases,
        name: "tarpon_leases_total",
        kind: Kind::Counter,
        label: "result",
        values: LeaseResult::NAMES,
        help: "Leases of repositories in the object store: taken, given back since this server cannot compare, nobody asks it any more or it ends (given_back), or not renewed in time (lost).",
    },
    Family {
        id: Id::Comparisons,
        name: "tarpon_comparisons_total",
        kind: Kind::Counter,
        label: "cause",
        values: Cause::NAMES,
        help: "Comparisons of a mirror with its upstream that began, by why: a request \
               waits for it (asked), a webhook came, or it was time (timer).",
    },
    Family {
        id: Id::Fetches,
        name: "tarpon_fetches_total",
        kind: Kind::Counter,
        label: "result",
        values: FetchResult::NAMES,
        help: "Comparisons of a mirror with its upstream, by what followed: something \
               new was fetched (changed), there was nothing new (unchanged), or either \
               failed.",
    },
    Family {
        id: Id::AnnexFetches,
        name: "tarpon_annex_fetches_total",
        kind: Kind::Counter,
        label: "result",
        values: AnnexResult::NAMES,
        help: "Times that an upstream was asked for what no followed ref leads to, by its id or by a ref.",
    },
    Family {
        id: Id::Questions,
        name: "tarpon_questions_total",
        kind: Kind::Counter,
        label: "result",
        values: QuestionResult::NAMES,
        help: "Times that an upstream was asked who may read, where its own permission decides: yes, no, or neither (nothing).",
    },
    Family {
        id: Id::CiTokens,
        name: "tarpon_ci_tokens_total",
        kind: Kind::Counter,
        label: "result",
        values: CiToken::NAMES,
        help: "Tokens of CI systems (--oidc) that were shown: proven before (known) or now (proven), refused, or by a key that their issuer has not told (unsaid).",
    },
    Family {
        id: Id::KeyFetches,
        name: "tarpon_ci_key_fetches_total",
        kind: Kind::Counter,
        label: "result",
        values: KeyFetchResult::NAMES,
        help: "Times that an issuer of --oidc was asked for its keys: it gave them (done), or those of before go on (failed).",
    },
    counter(
        Id::UpstreamPauses,
        "tarpon_upstream_pauses_total",
        "Times that a host asked for fewer requests, and comparisons by timer stopped for it.",
    ),
    Family {
        id: Id::WorkRunning,
        name: "tarpon_work_running",
        kind: Kind::Gauge,
        label: "class",
        values: WorkClass::NAMES,
        help: "Comparisons, fetches, first clones, builds and packs of one commit that have a place.",
    },
    Family {
        id: Id::WorkWaiting,
        name: "tarpon_work_waiting",
        kind: Kind::Gauge,
        label: "class",
        values: WorkClass::NAMES,
        help: "The same that wait for one.",
    },
    Family {
        id: Id::WorkRefused,
        name: "tarpon_work_refused_total",
        kind: Kind::Counter,
        label: "class",
        values: WorkClass::NAMES,
        help: "The same that were not begun because too many waited, or the first had waited for a minute.",
    },
    Family {
        id: Id::Webhooks,
        name: "tarpon_webhooks_total",
        kind: Kind::Counter,
        label: "result",
        values: WebhookResult::NAMES,
        help: "Webhooks, by what became of them: accepted, ignored because nothing \
               follows from them, or refused without a valid signature.",
    },
    Family {
        id: Id::Reloads,
        name: "tarpon_reloads_total",
        kind: Kind::Counter,
        label: "result",
        values: ReloadResult::NAMES,
        help: "How often SIGHUP had files of secrets read anew (done), or failed to: \
               then nothing has changed.",
    },
    Family {
        id: Id::Maintenance,
        name: "tarpon_maintenance_total",
        kind: Kind::Counter,
        label: "result",
        values: MaintenanceResult::NAMES,
        help: "Steps of the upkeep of mirrors that had something to do: packs joined, a bitmap or a \
               commit-graph made, unreachable objects removed (expired); or cut off, put off because the packs were being read (busy), or failed.",
    },
    Family {
        id: Id::Evictions,
        name: "tarpon_evictions_total",
        kind: Kind::Counter,
        label: "what",
        values: Evicted::NAMES,
        help: "Removed to make room: snapshots that newer ones had replaced (superseded), others \
               (snapshot), single commits that were fetched before a clone (tips), and mirrors.",
    },
    counter(
        Id::EvictedBytes,
        "tarpon_evicted_bytes_total",
        "Bytes freed by that.",
    ),
    counter(
        Id::DiskFull,
        "tarpon_disk_full_total",
        "Times that the disk was full, whereupon room was made for another try.",
    ),
    counter(
        Id::PacksCopied,
        "tarpon_packs_copied_total",
        "Files of packs copied within their mirror because they could not be linked.",
    ),
    Family {
        id: Id::Scrubbed,
        name: "tarpon_scrub_checks_total",
        kind: Kind::Counter,
        label: "result",
        values: ScrubResult::NAMES,
        help: "Snapshots and mirrors read from the disk and checked: sound, damaged (and replaced), \
               or not readable.",
    },
    counter(
        Id::ScrubbedBytes,
        "tarpon_scrub_bytes_total",
        "Bytes read from the disk to be checked.",
    ),
    counter(
        Id::LogRecordsDropped,
        "tarpon_log_records_dropped_total",
        "Requests missing from the log because it could not be written fast enough.",
    ),
    gauge(
        Id::CacheBytes,
        "tarpon_cache_bytes",
        "Bytes that everything in the state directory takes, each file once.",
    ),
    Family {
        id: Id::CachePartBytes,
        name: "tarpon_cache_part_bytes",
        kind: Kind::Gauge,
        label: "part",
        values: &["mirrors", "snapshots", "other"],
        help: "The same of mirrors with the packs that snapshots share, of the rest of snapshots, and of \
               what is being made or removed, with all else (other).",
    },
    gauge(
        Id::CacheLimitBytes,
        "tarpon_cache_limit_bytes",
        "Bytes that everything in the state directory may take (--cache-limit).",
    ),
    gauge(
        Id::CacheLowBytes,
        "tarpon_cache_low_bytes",
        "Bytes that are left when the limit was passed and something has left (--cache-low).",
    ),
    gauge(
        Id::CacheEntries,
        "tarpon_cache_entries",
        "Snapshots in the cache.",
    ),
    gauge(
        Id::CacheWants,
        "tarpon_cache_wants",
        "Those of them that are of a ref or commit (?ref=, ?commit=).",
    ),
    gauge(
        Id::Mirrors,
        "tarpon_mirrors",
        "Mirrors in the state directory.",
    ),
    gauge(
        Id::OpenFiles,
        "tarpon_open_files",
        "Files of snapshots that are open, each once however many share it.",
    ),
    gauge(
        Id::OpenFilesLimit,
        "tarpon_open_files_limit",
        "Files of snapshots that may be open; more are answered with 503.",
    ),
    gauge(
        Id::ConnectionsLimit,
        "tarpon_connections_limit",
        "Connections that may be open; idle ones give way to more.",
    ),
    Family {
        id: Id::MirrorAge,
        name: "tarpon_mirror_age_seconds",
        kind: Kind::Gauge,
        label: "repository",
        values: &[],
        help: "Time since a mirror was last known to equal its upstream; the first 1000 mirrors.",
    },
    Family {
        id: Id::CertificateEnds,
        name: "tarpon_tls_certificate_not_after_seconds",
        kind: Kind::Gauge,
        label: "pair",
        values: &[],
        help: "When each --tls-cert runs out, in seconds since 1970; the pairs in the order given.",
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
