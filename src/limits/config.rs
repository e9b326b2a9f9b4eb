//! What may be configured: defaults, the least and the most.

use super::units::{HOUR_MS, MINUTE_MS, SECOND_MS};

/// Largest configuration file that is read. A real one is under a page; the bound keeps a path
/// such as `/dev/zero` from filling memory.
pub const CONFIG_FILE_MAX_BYTES: u64 = 1 << 20;
/// Most listeners.
pub const LISTENERS_MAX: usize = 16;
/// Longest path of a socket file (unix(7)).
pub const SOCKET_PATH_MAX_BYTES: usize = 107;
/// Most secrets of webhooks: each costs a hash of a webhook's body that names no repository.
pub const SECRETS_MAX: usize = 64;
/// Longest of them.
pub const SECRET_BYTES_MAX: usize = 1024;
/// Most cores (network threads) that may be asked for: the size of the kernel's default CPU set.
pub const CORES_MAX: usize = 1024;
/// Most encoder threads that may be asked for.
pub const ENCODERS_MAX: usize = 1024;
/// Default zstd level: higher ones cannot keep up with a client.
pub const LEVEL_DEFAULT: i32 = 1;
/// Lowest zstd level that may be configured.
pub const LEVEL_MIN: i32 = 1;
/// Highest zstd level that may be configured; the ones above need hundreds of MB per thread.
pub const LEVEL_MAX: i32 = 19;
/// Default time after which a request has a mirror compared with its upstream: 10 s.
pub const REF_CHECK_INTERVAL_DEFAULT_MS: u64 = 10 * SECOND_MS;
/// Default of how many comparisons a second begin by themselves with one host.
pub const UPSTREAM_RATE_DEFAULT: u64 = 10;
/// Most such comparisons that may be configured.
pub const UPSTREAM_RATE_MAX: i32 = 1000;
/// Default time between two comparisons of a mirror that nobody uses, before jitter: 15 min.
pub const FETCH_INTERVAL_DEFAULT_MS: u64 = 15 * MINUTE_MS;
/// Default time without a request for a repository after which its mirror is repacked: 10 min.
pub const MAINTENANCE_IDLE_DEFAULT_MS: u64 = 10 * MINUTE_MS;
/// Default time for which what no ref leads to any more is kept: 1 day.
pub const UNREACHABLE_EXPIRY_DEFAULT_MS: u64 = 24 * HOUR_MS;
/// Default limit for one clone from an upstream: 1 h.
pub const CLONE_TIMEOUT_DEFAULT_MS: u64 = HOUR_MS;
/// Default time that running responses get after SIGTERM: 30 s.
pub const SHUTDOWN_GRACE_DEFAULT_MS: u64 = 30 * SECOND_MS;
/// Default time after which a client that takes no byte is dropped: 60 s.
pub const STALL_TIMEOUT_DEFAULT_MS: u64 = MINUTE_MS;
/// Default time that a kept-alive connection may wait for its next request: 60 s.
pub const IDLE_TIMEOUT_DEFAULT_MS: u64 = MINUTE_MS;
/// Shortest time limit that may be configured; below it, timers would fire on healthy clients.
pub const TIMEOUT_MIN_MS: u64 = 100;
/// Longest time limit for a client (stall, idle) and for shutdown: 24 h.
pub const CLIENT_TIMEOUT_MAX_MS: u64 = 24 * HOUR_MS;
/// Longest time limit for work on an upstream (clone, fetch interval): 30 days.
pub const UPSTREAM_TIME_MAX_MS: u64 = 720 * HOUR_MS;
/// Longest time of upkeep that may be configured: ten years.
pub const UPKEEP_TIME_MAX_MS: u64 = 10 * 366 * 24 * HOUR_MS;
/// What `never` is: a thousand years, which added to any date is a date.
pub const NEVER_MS: u64 = 1000 * 366 * 24 * HOUR_MS;
/// Least cache that may be configured: whoever says less has forgotten a unit.
pub const CACHE_LIMIT_MIN_BYTES: u64 = 1 << 20;
/// Default share of the file system that the cache may take.
pub const CACHE_LIMIT_DEFAULT_PERCENT: u8 = 80;
/// Default of what is left when the cache's limit was passed, as a part of that limit.
pub const CACHE_LOW_DEFAULT_PERCENT: u8 = 90;
/// Default share of the file system that stays free whatever the cache limit says.
pub const CACHE_FREE_FLOOR_DEFAULT_PERCENT: u8 = 5;
/// Default of how much of the file system one clone or fetch may take.
pub const CLONE_SIZE_DEFAULT_PERCENT: u8 = 50;
/// Default of the most memory of each process of a clone or fetch. What indexes a pack holds 96 MB of
/// bases of deltas for each of its threads, of which there are 20 at most, and about 100 bytes for
/// each object.
pub const GIT_MEMORY_DEFAULT_BYTES: u64 = 4 << 30;
/// Least memory that may be configured: below it git does not clone the smallest repository.
pub const GIT_MEMORY_MIN_BYTES: u64 = 128 << 20;
/// Default share of the file system that a server which starts with an empty disk takes from a store.
pub const WARM_LIMIT_DEFAULT_PERCENT: u8 = 25;
/// Default time for that: 5 min.
pub const WARM_FOR_DEFAULT_MS: u64 = 5 * MINUTE_MS;
/// Longest such time that may be configured: 1 day.
pub const WARM_FOR_MAX_MS: u64 = 24 * HOUR_MS;
/// Default time for which what nobody uses stays in a store: 30 days.
pub const STORE_EXPIRY_DEFAULT_MS: u64 = 30 * 24 * HOUR_MS;
/// Least such time: who uses something says so there once a day.
pub const STORE_EXPIRY_MIN_MS: u64 = 48 * HOUR_MS;
/// Most headers that are sent to a store beside its own,
pub const STORE_HEADERS_MAX: usize = 16;
/// and the longest of them, name and value.
pub const STORE_HEADER_BYTES_MAX: usize = 4096;
/// Longest upstream host name with its port. It becomes one directory name under `mirrors/`.
pub const HOST_MAX_BYTES: usize = 253;
/// The longest name that Linux file systems take.
const FILE_NAME_MAX_BYTES: usize = 255;

const _: () = {
    assert!(HOST_MAX_BYTES <= FILE_NAME_MAX_BYTES);
    assert!(STORE_EXPIRY_MIN_MS <= STORE_EXPIRY_DEFAULT_MS && STORE_EXPIRY_DEFAULT_MS < NEVER_MS);
    assert!(LEVEL_MIN <= LEVEL_DEFAULT && LEVEL_DEFAULT <= LEVEL_MAX);
    assert!(CACHE_LIMIT_DEFAULT_PERCENT + CACHE_FREE_FLOOR_DEFAULT_PERCENT <= 100);
    assert!(CACHE_LOW_DEFAULT_PERCENT < 100);
    assert!(
        TIMEOUT_MIN_MS <= STALL_TIMEOUT_DEFAULT_MS && TIMEOUT_MIN_MS <= IDLE_TIMEOUT_DEFAULT_MS
    );
    assert!(STALL_TIMEOUT_DEFAULT_MS <= CLIENT_TIMEOUT_MAX_MS);
    assert!(IDLE_TIMEOUT_DEFAULT_MS <= CLIENT_TIMEOUT_MAX_MS);
    assert!(SHUTDOWN_GRACE_DEFAULT_MS <= CLIENT_TIMEOUT_MAX_MS);
    assert!(FETCH_INTERVAL_DEFAULT_MS <= UPSTREAM_TIME_MAX_MS);
    assert!(REF_CHECK_INTERVAL_DEFAULT_MS <= FETCH_INTERVAL_DEFAULT_MS);
    assert!(UPSTREAM_RATE_DEFAULT <= UPSTREAM_RATE_MAX as u64);
    assert!(CLONE_TIMEOUT_DEFAULT_MS <= UPSTREAM_TIME_MAX_MS);
};
/// Longest time that an upstream which cannot be asked may be believed for.
pub const ACCESS_STALE_MAX_MS: u64 = 24 * HOUR_MS;
/// Largest file with a credential for an upstream that is read.
pub const UPSTREAM_TOKEN_BYTES_MAX: u64 = 16 * 1024;
