//! Mirrors: listings of upstreams, upkeep and the schedule of fetches.

/// Longest line of `git ls-remote` that is accepted.
pub const UPSTREAM_LINE_BYTES_MAX: usize = 16 * 1024;
/// Most refs followed of one upstream.
pub const UPSTREAM_REFS_MAX: usize = 4_000_000;
/// Memory for refs of mirrors that were read lately: some ten lists of 10,000.
pub const REFS_KEPT_BYTES_MAX: usize = 16 << 20;
/// Most bytes of one listing of an upstream's refs, those that are not followed included.
pub const UPSTREAM_LISTING_BYTES_MAX: u64 = 1 << 30;
/// Most memory that each process of git takes which lists an upstream's refs.
pub const LISTING_MEMORY_BYTES: u64 = 512 << 20;
/// Redirects that are followed from one URL of an upstream.
pub const REDIRECTS_MAX: usize = 3;
/// Longest URL that a redirect leads to.
pub const REDIRECT_BYTES_MAX: usize = 4 * 1024;
/// How much of git's trace of one request is read to find where it is redirected.
pub const REDIRECT_TRACE_BYTES_MAX: usize = 256 * 1024;
/// Servers that one request for an upstream may have come by way of.
pub const VIA_IDS_MAX: usize = 8;
/// How often the removal of a directory is tried in which somebody still makes files.
pub const TREE_REMOVE_ATTEMPTS: u32 = 500;
/// Between two of these attempts.
pub const TREE_REMOVE_PAUSE_MS: u64 = 10;
/// A lock file in a mirror that is older than this was left by a killed process.
pub const MIRROR_LOCK_STALE_MS: u64 = 10 * 60 * 1000;
/// A mirror with more packs than this is consolidated.
pub const MIRROR_PACKS_MAX: usize = 50;
/// In a consolidated mirror every pack has at least this many times the objects of the next
/// smaller one.
pub const MIRROR_PACK_FACTOR: u64 = 2;
/// How far a due time is moved at random, to either side, in percent.
pub const FETCH_JITTER_PERCENT: u64 = 10;
/// Wait after the first failed fetch; doubled with every further failure.
pub const FETCH_RETRY_MS: u64 = 60 * 1000;
/// Longest wait after failed fetches.
pub const FETCH_RETRY_MAX_MS: u64 = 4 * 60 * 60 * 1000;
/// Mirrors that are compared with their upstream on schedule at the same time.
pub const FETCHES_MAX: usize = 8;
/// The same of one host.
pub const FETCHES_OF_HOST_MAX: usize = 4;

const _: () = assert!(FETCHES_OF_HOST_MAX < FETCHES_MAX);

const _: () = assert!(FETCH_JITTER_PERCENT < 100 && FETCHES_OF_HOST_MAX > 0);

const _: () = assert!(MIRROR_PACK_FACTOR >= 2 && MIRROR_PACKS_MAX >= 2);
