//! Every bound in the program, in one place, related to each other at compile time.
//! Units end the names. A bound that an operator may change is only a default here.

// --- mirror: git subprocesses, refs, upkeep and the fetch schedule ---

/// How much of the end of a git subprocess's stderr is kept for the error message.
pub const GIT_STDERR_TAIL_BYTES: usize = 8 * 1024;
/// Default time limit of a clone from upstream.
pub const GIT_CLONE_LIMIT_MS: u64 = 60 * 60 * 1000;
/// Default time limit of fetching objects from upstream.
pub const GIT_FETCH_LIMIT_MS: u64 = 60 * 60 * 1000;
/// Default time limit of asking upstream for its refs.
pub const GIT_LIST_LIMIT_MS: u64 = 2 * 60 * 1000;
/// Default time limit of a git command that talks to nobody (config, pack-objects).
pub const GIT_LOCAL_LIMIT_MS: u64 = 30 * 60 * 1000;
/// Between SIGTERM, which lets git remove its lock files, and SIGKILL.
pub const GIT_KILL_GRACE_MS: u64 = 2000;
/// How long a dropped git command may hold its thread until its killed leader is reaped.
pub const GIT_REAP_ON_DROP_MS: u64 = 20;
/// How long a pipe is still read after git itself has ended, when a helper of it (an ssh
/// connection kept open for later, for example) holds the pipe.
pub const GIT_PIPE_GRACE_MS: u64 = 1000;
/// Most output kept of a local git command.
pub const GIT_OUTPUT_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Longest line of `git ls-remote` that is accepted.
pub const UPSTREAM_LINE_BYTES_MAX: usize = 16 * 1024;
/// Most refs followed of one upstream.
pub const UPSTREAM_REFS_MAX: usize = 4_000_000;
/// Largest `packed-refs` file that is read.
pub const PACKED_REFS_BYTES_MAX: u64 = 1024 * 1024 * 1024;
/// Largest loose ref file (or HEAD) that is read.
pub const LOOSE_REF_BYTES_MAX: u64 = 64 * 1024;
/// How many symbolic refs may lead to each other.
pub const REF_SYMBOLIC_DEPTH_MAX: usize = 5;
/// How often the removal of an unfinished clone is tried, 10 ms apart.
pub const STAGING_REMOVE_ATTEMPTS: u32 = 100;
/// A lock file in a mirror that is older than this was left by a killed process.
pub const MIRROR_LOCK_STALE_MS: u64 = 10 * 60 * 1000;
/// A mirror with more packs than this is consolidated.
pub const MIRROR_PACKS_MAX: usize = 50;
/// In a consolidated mirror every pack has at least this many times the objects of the next
/// smaller one.
pub const MIRROR_PACK_FACTOR: u64 = 2;
/// Default time between two looks at an upstream.
pub const FETCH_INTERVAL_MS: u64 = 15 * 60 * 1000;
/// How far a due time is moved at random, to either side, in percent.
pub const FETCH_JITTER_PERCENT: u64 = 10;
/// Wait after the first failed fetch; doubled with every further failure.
pub const FETCH_RETRY_MS: u64 = 60 * 1000;
/// Longest wait after failed fetches.
pub const FETCH_RETRY_MAX_MS: u64 = 4 * 60 * 60 * 1000;
/// Default number of fetches at once.
pub const FETCHES_MAX: usize = 4;

const _: () = assert!(GIT_LIST_LIMIT_MS <= GIT_FETCH_LIMIT_MS);
const _: () =
    assert!(GIT_PIPE_GRACE_MS < GIT_LIST_LIMIT_MS && GIT_KILL_GRACE_MS < GIT_LIST_LIMIT_MS);
const _: () =
    assert!(FETCH_RETRY_MS <= FETCH_INTERVAL_MS && FETCH_INTERVAL_MS <= FETCH_RETRY_MAX_MS);
const _: () = assert!(FETCH_JITTER_PERCENT < 100 && FETCHES_MAX > 0);
const _: () = assert!(MIRROR_PACK_FACTOR >= 2 && MIRROR_PACKS_MAX >= 2);
