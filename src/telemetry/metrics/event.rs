//! What can be counted, and which atomic of a block counts it.

use super::family::Id;
use super::label::*;
use super::slots::BASES;

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
    /// The frames of a job were made.
    JobsEncoded,
    /// The frames of a job were taken over from an earlier snapshot.
    JobsReused,
    /// Bytes were written to the cache.
    SpooledBytes,
    /// A snapshot could not be kept.
    SpoolFailure(SpoolFailure),
    /// A window of cached data was prepared.
    Prefault(Prefault),
    /// A first clone ended.
    Clone(CloneResult),
    /// A snapshot was to be shared through the object store.
    Offer(OfferResult),
    /// A snapshot was looked for there.
    Import(ImportResult),
    /// The packs of another server were to take the place of a mirror's own.
    Adoption(AdoptionResult),
    /// The lease of a repository has changed hands.
    Lease(LeaseResult),
    /// The object store was asked for something.
    StoreRequest(StoreRequest),
    /// It did not answer that.
    StoreFailure(StoreRequest),
    /// Bytes were read from it.
    StoreReadBytes,
    /// Bytes were uploaded to it.
    StoreUploadedBytes,
    /// A mirror begins to be compared with its upstream.
    Comparison(Cause),
    /// A fetch ended.
    Fetch(FetchResult),
    /// An upstream was asked for something that no followed ref leads to.
    Annex(AnnexResult),
    /// An upstream was asked who may read.
    Question(QuestionResult),
    /// A token of a CI system was shown.
    CiToken(CiToken),
    /// An issuer of such was asked for its keys.
    KeyFetch(KeyFetchResult),
    /// A host has asked for fewer requests.
    UpstreamPause,
    /// There was no place for work, nor one in the queue.
    WorkRefused(WorkClass),
    /// A webhook was answered.
    Webhook(WebhookResult),
    /// Files of secrets were to be read anew.
    Reload(ReloadResult),
    /// A step of a mirror's upkeep ended.
    Maintenance(MaintenanceResult),
    /// Something was removed to make room.
    Eviction(Evicted),
    /// So many bytes were freed by that.
    EvictedBytes,
    /// The disk was full, and room was made for another try.
    DiskFull,
    /// A pack was copied within its mirror, for it could not be linked.
    PackCopied,
    /// A snapshot or mirror was looked at.
    Scrub(ScrubResult),
    /// Bytes were read for that.
    ScrubbedBytes,
    /// A request record was lost.
    LogRecordDropped,
}

impl Event {
    pub(super) fn slot(self) -> usize {
        let (id, offset) = match self {
            Self::Request(outcome) => (Id::Requests, outcome as usize),
            Self::Response(status) => (Id::Responses, usize::from(status / 100).clamp(1, 5) - 1),
            Self::SentBytes => (Id::SentBytes, 0),
            Self::Connection => (Id::Connections, 0),
            Self::ConnectionRefused => (Id::ConnectionsRefused, 0),
            Self::ClientDropped(reason) => (Id::ClientsDropped, reason as usize),
            Self::BodyRefused => (Id::BodiesRefused, 0),
            Self::Build(result) => (Id::Builds, result as usize),
            Self::JobsEncoded => (Id::JobsEncoded, 0),
            Self::JobsReused => (Id::JobsReused, 0),
            Self::SpooledBytes => (Id::SpooledBytes, 0),
            Self::SpoolFailure(reason) => (Id::SpoolFailures, reason as usize),
            Self::Prefault(result) => (Id::Prefault, result as usize),
            Self::Clone(result) => (Id::Clones, result as usize),
            Self::Offer(result) => (Id::Offers, result as usize),
            Self::Import(result) => (Id::Imports, result as usize),
            Self::Adoption(result) => (Id::Adoptions, result as usize),
            Self::Lease(result) => (Id::Leases, result as usize),
            Self::StoreRequest(request) => (Id::StoreRequests, request as usize),
            Self::StoreFailure(request) => (Id::StoreFailures, request as usize),
            Self::StoreReadBytes => (Id::StoreReadBytes, 0),
            Self::StoreUploadedBytes => (Id::StoreUploadedBytes, 0),
            Self::Comparison(cause) => (Id::Comparisons, cause as usize),
            Self::UpstreamPause => (Id::UpstreamPauses, 0),
            Self::WorkRefused(class) => (Id::WorkRefused, class as usize),
            Self::Webhook(result) => (Id::Webhooks, result as usize),
            Self::Reload(result) => (Id::Reloads, result as usize),
            Self::Fetch(result) => (Id::Fetches, result as usize),
            Self::Annex(result) => (Id::AnnexFetches, result as usize),
            Self::Question(result) => (Id::Questions, result as usize),
            Self::CiToken(result) => (Id::CiTokens, result as usize),
            Self::KeyFetch(result) => (Id::KeyFetches, result as usize),
            Self::Maintenance(result) => (Id::Maintenance, result as usize),
            Self::Eviction(what) => (Id::Evictions, what as usize),
            Self::EvictedBytes => (Id::EvictedBytes, 0),
            Self::DiskFull => (Id::DiskFull, 0),
            Self::PackCopied => (Id::PacksCopied, 0),
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
    /// An object store that does not answer, and is not asked.
    StoreResting,
    /// A mirror that may have what has expired at another server.
    StoreBehind,
    /// A repository that is to be taken from the store before the server says that it is ready.
    StoreWarming,
    /// A repository that this server alone compares with its upstream by timer.
    StoreLeases,
    /// Work that has a place.
    WorkRunning(WorkClass),
    /// Work that waits for one.
    WorkWaiting(WorkClass),
}

impl Level {
    pub(super) fn slot(self) -> usize {
        match self {
            Self::ConnectionsOpen => BASES[Id::ConnectionsOpen as usize],
            Self::BuildsRunning => BASES[Id::BuildsRunning as usize],
            Self::StoreResting => BASES[Id::StoreResting as usize],
            Self::StoreBehind => BASES[Id::StoreBehind as usize],
            Self::StoreWarming => BASES[Id::StoreWarming as usize],
            Self::StoreLeases => BASES[Id::StoreLeases as usize],
            Self::WorkRunning(class) => BASES[Id::WorkRunning as usize] + class as usize,
            Self::WorkWaiting(class) => BASES[Id::WorkWaiting as usize] + class as usize,
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
