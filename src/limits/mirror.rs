//! Mirrors: listings of upstreams, upkeep and the schedule of fetches.

use super::units::{HOUR_MS, MINUTE_MS, SECOND_MS};

/// Longest line of `git ls-remote` that is accepted.
pub const UPSTREAM_LINE_BYTES_MAX: usize = 16 * 1024;
/// Most refs followed of one upstream.
pub const UPSTREAM_REFS_MAX: usize = 4_000_000;
/// Memory for refs of mirrors that were read lately: some ten lists of 10,000.
pub const REFS_KEPT_BYTES_MAX: usize = 16 << 20;
/// Most bytes of the names by which refs of an upstream are asked for; they fit into a pipe.
pub const LS_REFS_BYTES_MAX: usize = 32 * 1024;
/// Most bytes of one listing of an upstream's refs, those that are not followed included.
pub const UPSTREAM_LISTING_BYTES_MAX: u64 = 1 << 30;
/// Most memory that each process of git takes which lists an upstream's refs.
pub const LISTING_MEMORY_BYTES: u64 = 512 << 20;
/// Redirects that are followed from one URL of an upstream.
pub const REDIRECTS_MAX: usize = 3;
/// Longest URL that a redirect leads to.
pub const REDIRECT_BYTES_MAX: usize = 4 * 1024;
/// Most that is read of a mirror's note of where it is from.
pub const NOTED_ORIGIN_BYTES_MAX: u64 = 16 * 1024;
/// The same of its generation: three numbers and a word.
pub const NOTED_GENERATION_BYTES_MAX: u64 = 128;
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
/// Small packs of a mirror, beyond which they are joined right after a fetch.
pub const MIRROR_SMALL_PACKS_MAX: usize = 12;
/// A pack that has more of the bytes of a mirror's packs is not small.
pub const MIRROR_PACK_LARGE_PERCENT: u64 = 10;
/// Most packs of a mirror, and so of an archive.
pub const MIRROR_PACKS_MAX: usize = 16;
/// Packs of a mirror in all, beyond which the smallest are joined, small or not: there is room for that of a
/// fetch, and one more of what somebody has made loose. A fetch waits for that, as nothing else holds up
/// who fetches faster than packs are joined.
pub const MIRROR_PACKS_JOINED: usize = MIRROR_PACKS_MAX - 2;
/// How long it waits at most: then a mirror has more packs for a while.
pub const JOIN_WAIT_MS: u64 = 30_000;
/// After a quiet time each pack of a mirror has at least this many times the bytes of all that are
/// smaller. What was fetched since the largest was made takes at most a twentieth of it then, so all take
/// at most 1.05 of what a full repack would leave.
pub const MIRROR_PACK_FACTOR: u64 = 20;
/// Memory for the deltas that are tried, and the same for those that are kept, while a mirror is repacked.
pub const MIRROR_WINDOW_BYTES: u64 = 64 << 20;
/// Between two attempts to have the lock of a mirror's packs for writing.
pub const PACKS_LOCK_TRY_MS: u64 = 10;
/// For how long that is tried.
pub const PACKS_LOCK_WAIT_MS: u64 = 10_000;
/// The same where somebody waits for that.
pub const PACKS_LOCK_SOON_MS: u64 = 200;
/// First limit of time for one step of a mirror's upkeep; doubled for the next try when it was not enough.
pub const MAINTENANCE_LIMIT_MS: u64 = 10 * MINUTE_MS;
/// Longest such limit.
pub const MAINTENANCE_LIMIT_MAX_MS: u64 = 24 * HOUR_MS;
/// The upkeep that a mirror needs does not wait longer than this for a quiet time.
pub const MAINTENANCE_WAIT_MAX_MS: u64 = 24 * HOUR_MS;
/// What has expired in a mirror does not wait longer than this for one.
pub const EXPIRY_WAIT_MAX_MS: u64 = HOUR_MS;
/// Upkeep that was tried in vain, because it was cut off or something was in the way, is not tried again
/// before.
pub const MAINTENANCE_RETRY_MS: u64 = MINUTE_MS;
/// How exactly the last request for a repository is known.
pub const ASKED_STEP_MS: u64 = 100;
/// Tips that the journal of a mirror keeps when it is written anew; of more the oldest are given up.
pub const JOURNAL_TIPS_MAX: usize = 100_000;
/// Length at which it is written anew. A line has 55 to 79 bytes.
pub const JOURNAL_BYTES_MAX: u64 = 16 << 20;
/// How often an expiry looks again because refs have moved meanwhile.
pub const EXPIRY_LOOKS_MAX: u32 = 5;
/// How often, at most, is looked whether some mirror has a quiet time.
pub const MAINTENANCE_LOOK_MS: u64 = 10 * SECOND_MS;
/// Longest time between two comparisons by timer of a repository that is in use.
pub const IN_USE_INTERVAL_MAX_MS: u64 = MINUTE_MS;
/// The same where webhooks say what moves.
pub const HOOKED_INTERVAL_MAX_MS: u64 = 5 * MINUTE_MS;
/// The same where only what was compared within a minute is served.
pub const YOUNG_INTERVAL_MAX_MS: u64 = 45 * SECOND_MS;
/// For how long after a webhook others are expected.
pub const HOOKED_KEPT_MS: u64 = 24 * HOUR_MS;
/// For how long a host's timers stand still that has refused with 429 and not said for how long.
pub const PAUSE_DEFAULT_MS: u64 = MINUTE_MS;
/// The longest that they stand still, whatever a host says.
pub const PAUSE_MAX_MS: u64 = HOUR_MS;
/// How far a due time is moved at random, to either side, in percent.
pub const FETCH_JITTER_PERCENT: u64 = 10;
/// Wait after the first failed fetch; doubled with every further failure.
pub const FETCH_RETRY_MS: u64 = 60 * 1000;
/// Longest wait after failed fetches.
pub const FETCH_RETRY_MAX_MS: u64 = 4 * 60 * 60 * 1000;
/// Mirrors that are compared with their upstream on schedule at the same time.
pub const FETCHES_MAX: usize = 8;

const _: () = assert!(FETCH_JITTER_PERCENT < 100 && FETCHES_MAX > 0);

const _: () = assert!(100 + 100 / MIRROR_PACK_FACTOR <= 106);

const _: () = assert!(JOURNAL_TIPS_MAX as u64 * 100 <= JOURNAL_BYTES_MAX);

const _: () = assert!(MIRROR_SMALL_PACKS_MAX < MIRROR_PACKS_JOINED);

const _: () = assert!(MAINTENANCE_LIMIT_MS <= MAINTENANCE_LIMIT_MAX_MS);
/// How long a pack without an index, or the other way round, has to be there at the start to be a leftover: git moves one
/// after the other.
pub const HALF_LASTS_MS: u64 = 200;
/// What of a `.keep` file is read.
pub const KEEP_BYTES_MAX: u64 = 4096;
/// How far ahead of now something counts as left before, where nothing that refs have left may stay: dates of files
/// are whole seconds somewhere.
pub const LEFT_AHEAD_MS: u64 = 2_000;
