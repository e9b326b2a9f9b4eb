//! Every bound in the program, in one place, related to each other at compile time.
//! Units end the names. A bound that an operator may change is only a default here.

use crate::extent::RAW_BLOCK_BYTES;

/// Spooled bytes of a running build that stay in memory for the clients that follow closely.
pub const WINDOW_BYTES: u64 = 8 << 20;

/// Bytes of a running build that wait to be written to its spool file; at the limit the
/// producer waits for the disk.
pub const SPOOL_LAG_BYTES: u64 = 8 << 20;

/// Loose objects that a snapshot takes along as they are; a mirror with more has them packed
/// first.
pub const LOOSE_TAKEN_MAX: usize = 256;

/// Largest `packed-refs` file that is read.
pub const PACKED_REFS_BYTES_MAX: u64 = 1024 * 1024 * 1024;
/// Longest line of one that is read line by line: an id, a name and what is around them.
pub const PACKED_LINE_BYTES_MAX: u64 = 128 + PATH_BYTES_MAX as u64;
/// Largest loose ref file that is read.
pub const LOOSE_REF_BYTES_MAX: u64 = 64 * 1024;
/// Symbolic refs that are followed one after the other, like git.
pub const REF_SYMBOLIC_DEPTH_MAX: usize = 5;

/// Deepest nesting of directories that is followed: git's own limit (`core.maxTreeDepth`).
pub const TREE_DEPTH_MAX: usize = 2048;
/// The kernel's longest file name: a longer one is in no worktree.
pub const NAME_BYTES_MAX: usize = 255;
/// The kernel's longest path, and longest target of a link.
pub const PATH_BYTES_MAX: usize = KERNEL_PATH_BYTES_MAX - 1;
/// Most directories and files of a worktree: far more than the largest repositories have. About
/// 100 bytes of memory are needed for each directory, 100 bytes of the index for each file.
pub const TREE_DIRECTORIES_MAX: u64 = 2 << 20;
/// See [`TREE_DIRECTORIES_MAX`].
pub const TREE_ENTRIES_MAX: u64 = 32 << 20;
/// Largest HEAD commit, and largest tree that is not read from a pack in one step.
pub const COMMIT_BYTES_MAX: u64 = 64 << 20;
/// See [`COMMIT_BYTES_MAX`].
pub const TREE_BYTES_MAX: u64 = 256 << 20;
/// Times that a request looks again when what it found is gone before it can be read.
pub const LOOKS_MAX: usize = 3;

/// Tar bytes after which a compressed frame ends.
pub const FRAME_TAR_BYTES: usize = 1 << 20;
/// Entries of the worktree in one job.
pub const JOB_ENTRIES_MAX: usize = 256;
/// Bytes of files in one job, unless it is a single file.
pub const JOB_TAR_BYTES: u64 = 4 << 20;
/// Files above this size are encoded as a stream instead of being decoded in memory.
pub const BIG_FILE_BYTES: u64 = 8 << 20;
/// Bytes that the encoders decode an object with: twice the largest of it and what its delta is
/// made from, and the deltas.
pub const DECODE_LIMIT_BYTES: u64 = 32 << 20;
/// Bytes for decoding what takes more, of all builds together; one that alone needs more than all
/// is decoded alone.
pub const DECODE_BUDGET_BYTES: u64 = 96 << 20;
/// Deltas between an object and what it is made from that are followed without gix; git itself makes
/// no chain longer than 4,095.
pub const DELTA_CHAIN_MAX: usize = 4095;
/// Bytes that a delta may promise before its instructions are added up, so that memory is taken
/// only for what they make.
pub const DELTA_UNCHECKED_BYTES: usize = 1 << 20;
/// Bytes of delta bases that a thread keeps for each build.
pub const DELTA_CACHE_BYTES: u64 = 16 << 20;
/// Largest buffer that an encoder keeps for its next job: there is one set for each processor.
pub const ENCODER_KEPT_BYTES: usize = 4 << 20;
/// Bytes of a linked file that are read at a time to be summed: a part of a processor's cache.
pub const SUM_READ_BYTES: usize = 256 << 10;
/// Entries of a pack whose places are held at a time while it is checked, on average.
pub const VERIFY_ENTRIES: u64 = 1 << 19;
/// Files of packs that are remembered to be sound.
pub const VERIFIED_FILES_MAX: usize = 1 << 18;
/// Bytes of a linked file that one job brings into memory and sums.
pub const RAW_JOB_BYTES: u64 = 16 << 20;

const _: () = assert!(
    JOB_TAR_BYTES < BIG_FILE_BYTES,
    "a big file never shares a job"
);
const _: () = assert!(
    3 * BIG_FILE_BYTES <= DECODE_LIMIT_BYTES && DECODE_LIMIT_BYTES <= DECODE_BUDGET_BYTES,
    "what is no big file is decoded without a grant, as a rule"
);
const _: () = assert!(RAW_JOB_BYTES.is_multiple_of(crate::extent::RAW_FRAME_BYTES));
// --- HTTP: what a client may send -------------------------------------------------------------

/// Longest request head: request line, headers and the empty line. Over it: 431. A buffer of
/// exactly this size is enough to get a verdict on any head.
pub const HEAD_BYTES_MAX: usize = 64 * 1024;

/// Most header lines in one request. Over it: 431.
pub const HEADERS_MAX: usize = 100;

/// Longest request target. Over it: 414.
pub const TARGET_BYTES_MAX: usize = 8 * 1024;

/// Longest method name that is read before the request is refused with 501.
pub const METHOD_BYTES_MAX: usize = 32;

/// Empty lines that are tolerated before a request line (RFC 9112 section 2.2 asks for one).
pub const LEADING_EMPTY_LINES_MAX: u8 = 1;

/// Most lines of one list-valued header, such as `If-None-Match`, that are kept. Over it: 400.
pub const FIELD_LINES_MAX: usize = 4;

/// Longest `{host}` of a repository: the longest name of a directory on Linux.
pub const HOST_BYTES_MAX: usize = NAME_BYTES_MAX;

/// Longest part of a repository path, the `.git` that is added to its last part included.
pub const PATH_PART_BYTES_MAX: usize = NAME_BYTES_MAX;

/// Longest repository path, without host and without `.git`.
pub const REPO_PATH_BYTES_MAX: usize = 1024;

/// Largest request body that is taken, decoded from its chunks. Over it: 413. A fetch of 100,000
/// refs sends 5 MB of `want` lines.
pub const BODY_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// Most bytes of chunk extensions in one body, all chunks together. They are read and dropped.
pub const CHUNK_EXTENSION_BYTES_MAX: u32 = 4 * 1024;

/// Most bytes of trailers behind one body. They are read and dropped. Over it: 431.
pub const TRAILER_BYTES_MAX: u32 = 8 * 1024;

/// The kernel's longest path, with its NUL.
const KERNEL_PATH_BYTES_MAX: usize = 4096;

// The longest allowed request line leaves half of the head to the headers.
const _: () = assert!(METHOD_BYTES_MAX + TARGET_BYTES_MAX <= HEAD_BYTES_MAX / 2);
// Any repository fits into a target, with the endpoint and a 64-digit hash behind it.
const _: () = assert!(HOST_BYTES_MAX + REPO_PATH_BYTES_MAX + 256 <= TARGET_BYTES_MAX);
// Any mirror fits into a path, with 1 KiB each for the state directory and the files inside.
const _: () = assert!(HOST_BYTES_MAX + REPO_PATH_BYTES_MAX + 2048 <= KERNEL_PATH_BYTES_MAX);
// ---- configuration (src/config) ----

/// Largest configuration file that is read. A real one is under a page; the bound keeps a path
/// such as `/dev/zero` from filling memory.
pub const CONFIG_FILE_MAX_BYTES: u64 = 1 << 20;
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
/// Default time between two fetches of a mirror, before jitter: 15 min.
pub const FETCH_INTERVAL_DEFAULT_MS: u64 = 15 * MINUTE_MS;
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
/// Default share of the file system that the cache may take.
pub const CACHE_LIMIT_DEFAULT_PERCENT: u8 = 80;
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
/// Longest upstream host name with its port. It becomes one directory name under `mirrors/`.
pub const HOST_MAX_BYTES: usize = 253;
/// The longest name that Linux file systems take.
const FILE_NAME_MAX_BYTES: usize = 255;

const SECOND_MS: u64 = 1000;
const MINUTE_MS: u64 = 60 * SECOND_MS;
const HOUR_MS: u64 = 60 * MINUTE_MS;

const _: () = {
    assert!(HOST_MAX_BYTES <= FILE_NAME_MAX_BYTES);
    assert!(LEVEL_MIN <= LEVEL_DEFAULT && LEVEL_DEFAULT <= LEVEL_MAX);
    assert!(CACHE_LIMIT_DEFAULT_PERCENT + CACHE_FREE_FLOOR_DEFAULT_PERCENT <= 100);
    assert!(
        TIMEOUT_MIN_MS <= STALL_TIMEOUT_DEFAULT_MS && TIMEOUT_MIN_MS <= IDLE_TIMEOUT_DEFAULT_MS
    );
    assert!(STALL_TIMEOUT_DEFAULT_MS <= CLIENT_TIMEOUT_MAX_MS);
    assert!(IDLE_TIMEOUT_DEFAULT_MS <= CLIENT_TIMEOUT_MAX_MS);
    assert!(SHUTDOWN_GRACE_DEFAULT_MS <= CLIENT_TIMEOUT_MAX_MS);
    assert!(FETCH_INTERVAL_DEFAULT_MS <= UPSTREAM_TIME_MAX_MS);
    assert!(CLONE_TIMEOUT_DEFAULT_MS <= UPSTREAM_TIME_MAX_MS);
};

// ---- metrics and log (src/telemetry/metrics.rs, src/telemetry/log.rs) ----

/// Most repositories that `/metrics` names one by one; further mirrors are left out, so that the
/// page stays small and a metrics store is not flooded with series.
pub const METRICS_REPOSITORIES_MAX: usize = 1000;
/// Request records that may wait for the log thread; more are dropped and counted. About 0.5 MB.
pub const LOG_QUEUE_RECORDS: usize = 4096;
/// Most of a path that the log shows of a request which is refused and names no repository. With it the
/// records that wait take 1 MB more at most.
pub const LOGGED_PATH_BYTES_MAX: usize = 256;
/// Lines of the log that may wait for standard error; a thread that has more to do than to wait drops
/// further ones.
pub const LOG_QUEUE_LINES: usize = 4096;
/// Longest that the end of the process waits for the log thread to write what is left: 5 s.
pub const LOG_FINISH_MAX_MS: u64 = 5 * SECOND_MS;

/// Bytes in one chunk of a response whose length is not known yet.
pub const CHUNK_BYTES_MAX: u64 = 1 << 20;
/// Bytes that one connection sends before its core looks at the others.
pub const TURN_BYTES: u64 = 2 << 20;
/// Bytes that all connections of a core together send before the core asks the kernel for what
/// else happened: wakes of other threads and timers wait so long, 2 ms at 4 GB/s.
pub const POLL_BYTES: u64 = 8 << 20;
/// Room of a core's pipe: the most that every user may have (`/proc/sys/fs/pipe-max-size`).
pub const GATHER_PIPE_BYTES: usize = 1 << 20;
/// Bytes gathered in a core's pipe before they are sent. A pipe of 1 MiB has 256 places, one for
/// each page and each run of framing bytes: seven blocks of 32 pages, whose ends may take one more.
pub const GATHER_BYTES: usize = 7 * RAW_BLOCK_BYTES as usize;
/// What a core puts into its pipe for a socket whatever room that says it has: the kernel takes a
/// whole buffer of about this size as long as any room is left.
pub const ROOM_BYTES_MIN: u64 = 64 << 10;
/// How long bytes that were in memory are taken to be there still, without a look.
pub const RESIDENT_TRUST_MS: u64 = 250;
/// Stretches of an archive of which is remembered that they were in memory.
pub const RESIDENT_STRETCHES: usize = 1024;
const _: () = assert!(TURN_BYTES <= POLL_BYTES);
const _: () = assert!(LIVE_ONLY_STEP_MS < LIVE_ONLY_WAIT_MS);
const _: () = assert!(GATHER_BYTES as u64 / RAW_BLOCK_BYTES * (RAW_BLOCK_BYTES / 4096 + 2) <= 256);
/// Bytes read ahead of a socket from files that are not in memory.
pub const READ_AHEAD_BYTES: u64 = 8 << 20;
/// Time between two looks whether a client that has sent more, or has ended its sending side, is gone.
pub const PEER_LOOK_MS: u64 = 250;
/// A client that takes less than this of a response in [`TAKING_SLOW_MS`] may lose its place to others
/// when places are short.
pub const TAKING_SLOW_BYTES: u64 = UPLOAD_SLOW_BYTES;
/// See [`TAKING_SLOW_BYTES`]. Only time counts in which something is there for the client to take.
pub const TAKING_SLOW_MS: u64 = UPLOAD_SLOW_MS;
/// How long a closing connection waits for a client to take a refusal.
pub const LINGER_MS: u64 = 2_000;
/// What a request counts for in a turn, whatever its response.
pub const REQUEST_TURN_BYTES: u64 = TURN_BYTES / 64;
/// What a head may take before it counts as a body does.
pub const HEAD_FREE_BYTES: usize = 4 << 10;
/// Most that a head takes before there is a verdict on it, with what may follow it.
pub const HEAD_ROOM_BYTES_MAX: usize = HEAD_BYTES_MAX + HEAD_FREE_BYTES;
/// What a connection keeps of each of its two buffers between two requests: of a head that is in no
/// budget, all, so that the next one like it takes no allocation.
pub const BUFFER_KEPT_BYTES: usize = HEAD_FREE_BYTES;
/// Memory for the bodies of all requests together, as they were sent and decoded, and for long heads.
const BODIES_BYTES_MAX: u64 = 28 << 20;
/// The part of it that one client's address has. One of its requests at a time may have more, if as much
/// stays free for others as they may have.
pub const BODIES_OF_CLIENT_BYTES_MAX: u64 = BODIES_BYTES_MAX / 4;
/// How much of it may be used once a body of at most so many bytes has its part: size and bound.
/// Small bodies, as nearly all are, find room whatever large ones do.
pub const BODY_TIERS: [(u64, u64); 4] = [
    (1 << 10, BODIES_BYTES_MAX),
    (4 << 10, BODIES_BYTES_MAX - (1 << 20)),
    (64 << 10, BODIES_BYTES_MAX - (2 << 20)),
    (GIT_REQUEST_BYTES_MAX as u64, BODIES_BYTES_MAX - (4 << 20)),
];
/// A body that brings less than this in [`BODY_SLOW_MS`] loses its place while others wait for one.
pub const BODY_SLOW_BYTES: u64 = 16 << 10;
/// See [`BODY_SLOW_BYTES`].
pub const BODY_SLOW_MS: u64 = SECOND_MS;
/// Time between two looks for slow bodies while somebody waits.
pub const BODY_LOOK_MS: u64 = 100;
/// How long a body waits for room before its request is answered with 503.
pub const BODY_WAIT_MS: u64 = 5 * SECOND_MS;
/// First room for a body that announces more.
pub const BODY_FIRST_BYTES: u64 = 4 << 10;
/// How many times its room a body gets with each next piece.
pub const BODY_GROWTH: u64 = 4;
/// Largest piece.
pub const BODY_PIECE_BYTES: u64 = 64 << 10;
/// How long a client may take to send a request's body without sending a byte.
pub const BODY_PAUSE_MAX_MS: u64 = 60_000;
/// How long it may take to send all of it.
pub const BODY_TIME_MAX_MS: u64 = 10 * MINUTE_MS;
/// Time between two beats of a core's pulse.
pub const PULSE_MS: u64 = 100;
/// A beat that has not come for so long is late: time limits no longer hold.
pub const PULSE_LATE_MS: u64 = 3 * PULSE_MS;
// --- cache: entries on disk and the state directory ---

/// Longest metadata file of an entry, in bytes. It holds 4 bytes per file of the worktree and
/// per 4 MiB of pack, so this is room for tens of millions of files; anything longer was not
/// written by us and is not read into memory.
pub const META_BYTES_MAX: u64 = 256 << 20;
/// Directories between `mirrors/{host}` and a mirror that are searched at start.
pub const MIRROR_DEPTH_MAX: usize = 32;

const _: () = assert!(
    META_BYTES_MAX <= u32::MAX as u64,
    "fits memory of any machine"
);
// --- mirror: git subprocesses, refs, upkeep and the fetch schedule ---

/// How much of the end of a git subprocess's stderr is kept for the error message.
pub const GIT_STDERR_TAIL_BYTES: usize = 8 * 1024;
/// Default time limit of fetching objects from upstream.
pub const GIT_FETCH_LIMIT_MS: u64 = 60 * 60 * 1000;
/// Default time limit of asking upstream for its refs.
pub const GIT_LIST_LIMIT_MS: u64 = 2 * 60 * 1000;
/// Default time limit of a git command that talks to nobody (config, pack-objects).
pub const GIT_LOCAL_LIMIT_MS: u64 = 30 * 60 * 1000;
/// Between SIGTERM, which lets git remove its lock files and end its helpers, and SIGKILL.
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
/// How often is looked how much a clone or fetch has brought.
pub const GROWTH_LOOK_MS: u64 = 200;
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

const _: () = assert!(CLONES_OF_HOST_MAX < CLONES_RUNNING_MAX);
const _: () = assert!(FETCHES_OF_HOST_MAX < FETCHES_MAX);
const _: () = assert!(FRESHENS_OF_HOST_MAX < FRESHENS_RUNNING_MAX);
const _: () = assert!(GIT_LIST_LIMIT_MS <= GIT_FETCH_LIMIT_MS);
const _: () = assert!(LISTING_MEMORY_BYTES != GIT_MEMORY_DEFAULT_BYTES);
const _: () =
    assert!(GIT_PIPE_GRACE_MS < GIT_LIST_LIMIT_MS && GIT_KILL_GRACE_MS < GIT_LIST_LIMIT_MS);
const _: () = assert!(
    FETCH_RETRY_MS <= FETCH_INTERVAL_DEFAULT_MS && FETCH_INTERVAL_DEFAULT_MS <= FETCH_RETRY_MAX_MS
);
const _: () = assert!(FETCH_JITTER_PERCENT < 100 && FETCHES_OF_HOST_MAX > 0);
const _: () = assert!(MIRROR_PACK_FACTOR >= 2 && MIRROR_PACKS_MAX >= 2);
/// Threads that read files ahead of the sockets.
pub const PREFETCH_THREADS: usize = 4;
/// A build that is not kept goes on at the pace of its slowest client that takes
/// [`LIVE_ONLY_STEP_BYTES`] in this time.
pub const LIVE_ONLY_STEP_MS: u64 = 10_000;
/// See [`LIVE_ONLY_STEP_MS`].
pub const LIVE_ONLY_STEP_BYTES: u64 = 1 << 20;
/// Steps that a client can be ahead by: a socket's buffer takes several at once.
pub const LIVE_ONLY_STEPS_AHEAD_MAX: u64 = 2;
/// Whoever asks while such a build goes on at less than this gets another one.
pub const LIVE_ONLY_SLOW_BYTES_S: u64 = 8_000_000;
/// How long a client's pace is looked at before it counts.
pub const LIVE_ONLY_LOOK_MS: u64 = 1_000;
/// How long a request waits for the end of one of two such builds that it cannot follow any more: less
/// than the minute after which a proxy in front gives up.
pub const LIVE_ONLY_WAIT_MS: u64 = 45_000;
/// How long such a build goes on waiting without clients: some may be about to come.
pub const LIVE_ONLY_ALONE_MS: u64 = 1_000;
/// Large builds that produce at the same time, half as many as there are encoders: the least
/// and the most.
pub const BUILDS_PRODUCING_MIN: usize = 2;
/// See [`BUILDS_PRODUCING_MIN`].
pub const BUILDS_PRODUCING_MAX: usize = 8;
/// How long such a build produces before another one has its turn, if one waits.
pub const TURN_MS: u64 = 100;
/// Large builds that have begun to produce and have not ended. Each may have a window, what waits
/// to be spooled, and a few results in memory; further ones have sent their first bytes and wait.
pub const BUILDS_OPEN_MAX: usize = 32;
/// Small builds at the same time.
pub const SMALL_BUILDS_MAX: usize = 16;
/// Bytes of packs and loose objects that a small build has at most.
pub const SMALL_BUILD_LINKED_BYTES: u64 = 4 << 20;
/// Steps of the walk of a small build's tree, and jobs of its worktree. One that needs more goes on
/// as a large one.
pub const SMALL_BUILD_STEPS: u64 = 8192;
/// See [`SMALL_BUILD_STEPS`].
pub const SMALL_BUILD_JOBS: u64 = 8;
/// How long an entry's files stay open after its last request.
pub const IDLE_ENTRY_OPEN_MS: u64 = 10_000;
/// How long a snapshot that a newer one has replaced can still be read by its tag after its last
/// request: between two requests of a download in parts, a retry with its pause included. It
/// goes at once when the disk is needed.
pub const RETIRED_KEPT_MS: u64 = 60_000;
/// Longest time that a snapshot which was replaced is kept for whoever asks for it by its tag.
pub const RETIRED_MAX_MS: u64 = HOUR_MS;
/// Time between two looks at the cache's size and at superseded entries.
pub const SWEEP_INTERVAL_MS: u64 = 5_000;
/// First clones that run at the same time.
pub const CLONES_RUNNING_MAX: usize = 16;
/// The same of one host.
pub const CLONES_OF_HOST_MAX: usize = 8;
/// The same for requests of one client's address: a quarter of all.
pub const CLONES_OF_CLIENT_MAX: usize = CLONES_RUNNING_MAX / 4;
/// How long a first clone waits for its turn before the log says so.
pub const TURN_WAIT_LOGGED_MS: u64 = 5_000;
/// How long an upstream may send nothing over HTTP: git's own side sends something every 5 s.
pub const UPSTREAM_SILENT_MS: u64 = 300_000;
/// How long a failed clone is remembered: requests for the same name are answered alike
/// meanwhile, without asking the upstream again.
pub const CLONE_FAILURE_KEPT_MS: u64 = 10_000;
/// Wait after the second build of a repository that failed in a row; doubled with every further
/// one. The first is followed by another at once.
pub const BUILD_RETRY_MS: u64 = 1_000;
/// Longest wait after builds that failed: whoever has mended a mirror should not wait longer.
pub const BUILD_RETRY_MAX_MS: u64 = 30_000;
/// How long a start waits for the state directory and for the port each: the kernel may still be
/// at the end of a server that was killed just now.
pub const TAKEN_WAIT_MS: u64 = 2 * SECOND_MS;
/// Wait between two tries at them.
pub const TAKEN_RETRY_MS: u64 = 20;
/// A signal of the end that comes so soon after the first is the same wish: `timeout` of coreutils sends
/// one to the process and one to its group.
pub const SAME_WISH_MS: u64 = SECOND_MS;
/// How long a core waits for connections that were cut off after the grace time of a stop.
pub const CUT_OFF_MAX_MS: u64 = 2 * SECOND_MS;
/// Largest body that is read and thrown away where none is expected.
pub const UNUSED_BODY_BYTES_MAX: u64 = 64 * 1024;
/// Names of repositories of which nothing else is known, in a shard of the registry, before they
/// are dropped. About 0.5 KB each.
pub const REPOSITORIES_BARE_MAX: usize = 256;
/// Entries of a core's io_uring submission queue.
pub const CORE_RING_ENTRIES: u32 = 1024;
/// Descriptors that the server itself holds: its log, state directory, background plane and helper
/// threads.
pub const DESCRIPTORS_OWN: u64 = 48;
/// The same for each core: listener, ring, pipes.
pub const DESCRIPTORS_OF_CORE: u64 = 8;
/// Descriptors that the kernel's table has room for from the start; eight bytes each.
pub const DESCRIPTORS_READY: u64 = 65_536;
/// Fewest descriptors besides those: for a few connections, and a clone and a build.
pub const DESCRIPTORS_MIN: u64 = 64;
/// Share of the other descriptors that connections may take, in percent. The rest is for
/// entries (one for each of their files, while they are read), mirrors, and the pipes of git.
pub const CONNECTIONS_DESCRIPTORS_PERCENT: u64 = 50;
/// How often, a millisecond after the other, it is looked whether those that were told to end have
/// done so, before a connection is refused.
pub const PLACE_LOOKS: u32 = 50;
/// Connections over the limit that may be there, as a share of it in percent, until idle ones that
/// were told to end for them have done so; and as many for which none could be, and that are told
/// so or ask for the server's health.
pub const CONNECTIONS_SPARE_PERCENT: usize = 10;
/// What part of the places for connections one client may have when they are short: one in so many. Who
/// has more then gives way to others, whatever its connections do.
pub const CONNECTIONS_OF_CLIENT_PART: usize = 4;
/// What a client that is told so is asked to wait before it tries again.
pub const REFUSAL_RETRY_S: u64 = 5;
/// Connections that wait in a listener's queue.
pub const LISTEN_BACKLOG: i32 = 1024;
// --- serve: bundles, ensure-refs, git's protocol ---

/// A mirror that was compared with its upstream this long ago or less is taken for fresh, and a
/// comparison that failed as recently is not repeated: bounds how often clients can make the
/// server ask an upstream. `ensure-refs` asks whenever something is missing, and a bundle that
/// would hold nothing is refused only after asking, unless asking failed as recently.
pub const MIRROR_FRESH_MS: u64 = 15_000;
/// How long a request waits for that comparison before it is answered from what is there.
pub const FRESHEN_WAIT_MS: u64 = 30_000;
/// Mirrors that are compared with their upstream at the same time, on schedule or for a request.
pub const FRESHENS_RUNNING_MAX: usize = 32;
/// The same of one host.
pub const FRESHENS_OF_HOST_MAX: usize = 16;
/// The same for requests of one client's address: a quarter. The schedule counts for none.
pub const FRESHENS_OF_CLIENT_MAX: usize = FRESHENS_RUNNING_MAX / 4;
/// Upstreams that are asked at the same time whether they lead back to a server that waits.
pub const WAYS_RUNNING_MAX: usize = 16;
/// The same for requests of one client's address.
pub const WAYS_OF_CLIENT_MAX: usize = WAYS_RUNNING_MAX / 4;
/// Requests that look for refs and objects in mirrors at the same time.
pub const LOOKUPS_RUNNING_MAX: usize = 16;
/// `git upload-pack` processes at the same time.
pub const UPLOAD_PACKS_MAX: usize = 64;
/// The same for one client's address: a quarter.
pub const UPLOAD_PACKS_OF_CLIENT_MAX: usize = UPLOAD_PACKS_MAX / 4;
/// A client that takes less than this of a response in [`UPLOAD_SLOW_MS`] loses its turn while others
/// wait for one.
pub const UPLOAD_SLOW_BYTES: u64 = 1 << 20;
/// See [`UPLOAD_SLOW_BYTES`]. Only time counts in which something is there for the client to take.
pub const UPLOAD_SLOW_MS: u64 = MINUTE_MS;
/// Time between two looks for such clients while somebody waits.
pub const UPLOAD_LOOK_MS: u64 = SECOND_MS;
/// How long a request waits to be one of them: longer than it takes to be found too slow.
pub const UPLOAD_PACK_WAIT_MS: u64 = 75_000;
/// Time limit of one `git upload-pack`, slow clients included.
pub const GIT_UPLOAD_LIMIT_MS: u64 = 6 * HOUR_MS;
/// Most bytes in one piece of a response that git produces.
pub const STREAM_PIECE_BYTES: usize = 64 * 1024;
/// Pieces of such a response that wait for the client; then git waits.
pub const STREAM_PIECES_MAX: usize = 8;
/// Largest request of git's protocol after its decompression: the `want` lines of 300,000 refs.
/// Over it: 413.
pub const GIT_REQUEST_BYTES_MAX: usize = 16 << 20;
/// Longest packet line of git's protocol, its length included (gitprotocol-common(5)).
pub const PKT_LINE_BYTES_MAX: usize = 65_520;
/// Longest `Git-Protocol` that is passed on; a longer one is ignored.
pub const GIT_PROTOCOL_BYTES_MAX: usize = 256;
/// Bundles that are kept.
pub const BUNDLES_MAX: usize = 64;
/// Bytes of bundles that are kept.
pub const BUNDLES_BYTES_MAX: u64 = 1 << 30;
/// Bytes of bundles, kept or only being sent, from which on no other is made.
pub const BUNDLES_MADE_BYTES_MAX: u64 = 4 << 30;
/// How long a bundle is kept.
pub const BUNDLE_AGE_MAX_MS: u64 = HOUR_MS;
/// Bundles that are made at the same time.
pub const BUNDLES_MAKING_MAX: usize = 2;
/// Largest body of an `ensure-refs` request: small enough to be parsed on a core. Over it: 413.
pub const ENSURE_BODY_BYTES_MAX: u64 = 256 * 1024;
/// Most refs and most commits in one `ensure-refs` request. Over it: 400.
pub const ENSURE_ITEMS_MAX: usize = 1000;
/// Most of those commits that an upstream is asked for by their ids, one by one, because no ref of it
/// leads to them.
pub const ENSURE_BY_ID_MAX: usize = 8;
/// Ids of which is remembered for [`MIRROR_FRESH_MS`] that an upstream did not give them: half a MB.
pub const ABSENT_IDS_MAX: usize = 2048;

const _: () = assert!(
    FRESHENS_RUNNING_MAX > FETCHES_MAX && FRESHENS_OF_HOST_MAX > FETCHES_OF_HOST_MAX,
    "the schedule leaves room for requests"
);
const _: () =
    assert!(FRESHEN_WAIT_MS < GIT_LIST_LIMIT_MS && MIRROR_FRESH_MS < FETCH_INTERVAL_DEFAULT_MS);
const _: () = assert!(BODY_BYTES_MAX <= GIT_REQUEST_BYTES_MAX as u64);
const _: () = assert!(UPLOAD_SLOW_MS + 2 * UPLOAD_LOOK_MS < UPLOAD_PACK_WAIT_MS);
const _: () = assert!(ENSURE_BODY_BYTES_MAX <= BODY_BYTES_MAX);
const _: () = assert!(
    BODY_BYTES_MAX + GIT_REQUEST_BYTES_MAX as u64 <= BODY_TIERS[3].1,
    "the largest request has room, as it was sent and decoded"
);
const _: () = assert!(
    BODY_BYTES_MAX + BODIES_OF_CLIENT_BYTES_MAX <= BODY_TIERS[3].1,
    "the largest request that is not compressed has room beside another client's"
);

// --- the allocator ---

/// Memory from this size on is mapped from the kernel, and goes back to it when it is dropped.
pub const MAPPED_FROM_BYTES: i32 = 512 << 10;
/// Unused memory that the allocator keeps at the end of each of its heaps.
pub const HEAP_TRIM_BYTES: i32 = 8 << 20;

// --- scrub: whether the disk keeps what was written ---

/// Default time after which an entry or mirror is looked at again: a week.
pub const SCRUB_INTERVAL_DEFAULT_MS: u64 = 7 * 24 * HOUR_MS;
/// Longest such time: a year.
pub const SCRUB_INTERVAL_MAX_MS: u64 = 366 * 24 * HOUR_MS;
/// Bytes that a scrub reads in a second: 5 TB in a day, a tenth of what a disk gives.
pub const SCRUB_BYTES_PER_S: u64 = 64 << 20;
/// Bytes that it reads at a time.
pub const SCRUB_READ_BYTES: usize = 1 << 20;
/// How often a scrub that waits looks whether it is to stop.
pub const SCRUB_STOP_SEEN_MS: u64 = 50;
/// Longest wait before a scrub looks again what there is.
pub const SCRUB_LOOK_MS: u64 = 10_000;
/// Wait after a look that could not be finished, because files could not be read or a mirror not
/// cloned anew.
pub const SCRUB_RETRY_MS: u64 = HOUR_MS;
/// Time between two looks at one entry on a client's word.
pub const DOUBT_INTERVAL_MS: u64 = HOUR_MS;
/// How long a client that doubts an archive waits for the look at it.
pub const DOUBT_WAIT_MS: u64 = 60_000;
/// How much nicer than the network cores a scrub is: as nice as can be.
pub const SCRUB_NICE: i32 = 19;

const _: () = assert!(SCRUB_RETRY_MS < SCRUB_INTERVAL_DEFAULT_MS);

// --- scheduling ---

/// How much less nice than the process the threads are that a first byte waits for.
pub const PROMPT_NICE: i32 = 10;
/// Slice of the threads that a first byte waits for: the shortest that the kernel has.
pub const PROMPT_SLICE_NS: u64 = 100_000;
/// How much nicer than the network cores the encoders are.
pub const ENCODER_NICE: i32 = 10;
/// The same of small builds: they are over soon, and large ones are not to hold them up.
pub const SMALL_BUILD_NICE: i32 = 5;
/// Threads that encode for small builds only, as a share of the encoders, rounded up.
pub const SMALL_ENCODERS_PERCENT: usize = 25;
/// How much nicer than the network cores `git` and its helpers are.
pub const CHILD_NICE: i32 = 10;

// --- restore: the client ---

/// Bytes of one ranged request of a download: large enough that its round trip is little, small
/// enough that a few of them in memory are.
pub const SEGMENT_BYTES: u64 = 1 << 20;
/// Segments per connection that are asked for before the first of them is needed.
pub const SEGMENTS_AHEAD: u64 = 2;
/// Bytes handed on at a time from an archive that still grows.
pub const STREAM_READ_BYTES: usize = 1 << 20;
/// Default number of connections, and the most that may be asked for.
pub const CONNECTIONS_DEFAULT: usize = 4;
/// See [`CONNECTIONS_DEFAULT`].
pub const CONNECTIONS_MAX: usize = 16;
/// Largest frame that is decoded in one piece, and so in parallel with others, before and after
/// decompression; a server makes frames of 1 and 4 MiB. Larger ones, and those that do not say how
/// large they are, are decoded as a stream, one after the other.
pub const RESTORE_FRAME_BYTES_MAX: usize = 16 << 20;
/// Largest window of a frame (RFC 8878 section 3.1.1.1.2) that is decoded as a stream.
pub const RESTORE_WINDOW_LOG_MAX: u32 = 23;
/// Frames that are being decoded or wait for the ones before them.
pub const FRAMES_AHEAD: usize = 6;
/// Memory that the archive is received into, until what is in it is decoded or written. Nothing is
/// received without a part of it.
pub const RECEIVED_BYTES_MAX: usize = 64 << 20;
/// Memory of content that waits to be written, and of frames that are put together to be decoded.
pub const CONTENT_BYTES_MAX: usize = 48 << 20;
/// Memory of entries that wait to be written: their names, where links lead, open files.
pub const ENTRIES_BYTES_MAX: usize = 8 << 20;
/// The part of it that one worker gets at a time.
pub const ENTRIES_AT_ONCE_BYTES: usize = 256 << 10;
/// What an entry takes of it besides its name and target.
pub const ENTRY_BYTES: usize = 256;
/// What a file takes of it that is written in parts, so that few enough are open for any limit of
/// descriptors.
pub const PART_FILE_BYTES: usize = 32 << 10;
/// What a frame that is written from where it arrived takes of it: for what is known about it.
pub const STORED_ROOM_BYTES: usize = 64 << 10;
/// Buffers are of whole multiples of this, so that they fit again.
pub const BUFFER_STEP_BYTES: usize = 256 << 10;
/// Memory that a piece of the archive which is handed on before its buffer is full takes besides
/// its bytes.
pub const SMALL_CHUNK_BYTES: usize = 512;
/// How long bytes that came wait for more to fill their buffer, before they are handed on.
pub const CHUNK_WAIT_MS: u64 = 500;
/// Pieces that a frame which is decoded in one piece may arrive in.
pub const FRAME_SLICES_MAX: usize = 16 << 10;
/// Content that a stream of frames is decoded into at a time.
pub const STREAM_CONTENT_BYTES: usize = 1 << 20;
/// Bytes of a frame in a row that may bring no content: those of a block, several times.
pub const BARREN_BYTES_MAX: usize = 1 << 20;
/// Largest skippable frame of an archive, with its head.
pub const SKIPPABLE_BYTES_MAX: u64 = 1 << 20;
/// Bytes of all of them together.
pub const SKIPPABLES_BYTES_MAX: u64 = 16 << 20;
/// Frames without content in a row, within [`EMPTY_FRAMES_MS`], that end the restore: a server shows
/// that it lives by one every few seconds, for as long as it clones.
pub const EMPTY_FRAMES_MAX: usize = 1000;
/// See [`EMPTY_FRAMES_MAX`].
pub const EMPTY_FRAMES_MS: u64 = 10 * MINUTE_MS;
/// Bytes that may stand behind the archive's end: frames without content, and those of zeros.
pub const BEHIND_END_BYTES_MAX: u64 = 1 << 20;
/// Slices of memory that a stored frame is written from. A frame of more is decoded like any other,
/// so that small blocks do not take more memory than they hold.
pub const STORED_SLICES_MAX: usize = 1024;
/// Directories that a thread keeps open: enough for the way to a file of most repositories, few
/// enough for any limit of descriptors.
pub const OPEN_DIRECTORIES_MAX: usize = 16;
/// Entries of an archive.
pub const RESTORED_ENTRIES_MAX: u64 = 64 << 20;
/// Headers in a row that only describe the entry behind them: long names, PAX.
pub const DESCRIBING_HEADERS_MAX: usize = 8;
/// Bytes of a PAX header.
pub const PAX_BYTES_MAX: u64 = 256 << 10;
/// Zeros behind the end of a tar archive: tar fills its last record.
pub const TAR_RECORD_BYTES: u64 = 10_240;
/// What a file takes of the disk is counted in steps of this, and so is a directory or a link.
pub const DISK_BLOCK_BYTES: u64 = 4096;
/// Share of the file system that a restore leaves free unless it is told otherwise.
pub const RESTORE_FREE_PERCENT: u64 = 5;
/// Space that is reserved for a file ahead of the data that has come for it.
pub const RESERVED_AHEAD_BYTES: u64 = 64 << 20;
/// Longest line that is said to whoever started the program; the middle of a longer one is left out.
pub const SAID_CHARS_MAX: usize = 2000;
/// Most bytes that one system call writes to a restored file.
pub const WRITE_BYTES: usize = 128 << 10;
/// A connection that brings less of a body than this within so many times the time without a byte
/// after which it is dead, is dead as well: 270 bytes/s unless that time is given. The slowest link
/// brings more, also when all connections share it. A try that brings less counts as one that
/// brings nothing.
pub const PACE_BYTES: usize = 16 << 10;
/// See [`PACE_BYTES`].
pub const PACE_STALLS: u32 = 2;
/// Tries in a row that bring next to nothing before a download is given up, and the wait before the second
/// one; doubled with each further one.
pub const DOWNLOAD_TRIES_MAX: u32 = 6;
/// See [`DOWNLOAD_TRIES_MAX`].
pub const DOWNLOAD_RETRY_MS: u64 = 100;
/// Times that a restore begins anew because the server has another snapshot than before.
pub const RESTARTS_MAX: u32 = 2;
/// How often whoever waits looks whether the restore is to stop.
pub const INTERRUPT_POLL_MS: u64 = 50;
/// How long a connection may take to be made, whatever number of addresses the server has.
pub const CONNECT_TIMEOUT_MS: u64 = 10_000;
/// How long the first answer may take: a server may have to clone the repository first.
pub const FIRST_ANSWER_MS: u64 = HOUR_MS;
/// Default time without a byte after which a connection counts as dead.
pub const RESTORE_STALL_DEFAULT_MS: u64 = 30 * SECOND_MS;
/// The same for what `git` fetches: a server may have it wait before it says the first word.
pub const RESTORE_GIT_STALL_DEFAULT_MS: u64 = UPLOAD_PACK_WAIT_MS + RESTORE_STALL_DEFAULT_MS;
/// Most bytes of a small answer (an error's text, `ensure-refs`) that are read.
pub const SMALL_ANSWER_BYTES_MAX: usize = 1 << 20;
/// Times that a staging directory is made before somebody else's sweep of left-over ones leaves it.
pub const STAGING_TRIES_MAX: u32 = 16;
/// Most bytes of the list of all refs that a server sends.
pub const MOMENT_BYTES_MAX: usize = 64 << 20;
/// Times that a list of refs is asked for whose HEAD is of another moment than its branch, or whose
/// objects are gone before they are fetched.
pub const MOMENT_TRIES_MAX: u32 = 4;
/// Longest header of a bundle, a line of which may be as long: it names the commits that the bundle
/// builds upon, thousands after large merges, each with its subject.
pub const BUNDLE_HEADER_BYTES_MAX: u64 = 16 << 20;
/// Objects that are fetched at a time: their ids are arguments of one command.
pub const FETCH_IDS_MAX: usize = 1000;
/// Branches of a repository to be replaced that are looked at one by one, for their names, and how
/// many are named.
pub const LOCAL_TRIED_MAX: usize = 64;
/// See [`LOCAL_TRIED_MAX`].
pub const LOCAL_NAMED_MAX: usize = 8;
/// Largest list of shallow commits of such a repository.
pub const SHALLOW_BYTES_MAX: u64 = 64 << 20;
/// Largest log of its stashes that is read to count them.
pub const STASH_LOG_BYTES_MAX: u64 = 1 << 20;
/// How long the date of an index may be waited for: the second after a file's own.
pub const INDEX_DATE_WAIT_MAX_MS: u64 = 2 * SECOND_MS;
/// Most that a `git` of a restore may say, on either output: the paths of a large repository.
pub const RESTORE_GIT_OUTPUT_BYTES_MAX: u64 = 128 << 20;
/// Most memory of each process of a `git` of a restore that takes objects, writes files or walks
/// through history: as much as a server gives its own.
pub const RESTORE_GIT_MEMORY_BYTES: u64 = GIT_MEMORY_DEFAULT_BYTES;
/// The same of one that looks at settings, at refs (a million of them) or at a few objects.
pub const RESTORE_LOOK_MEMORY_BYTES: u64 = 1 << 30;
/// How long all the `git` of a restore may take that bring objects: a server gives one of them as
/// long.
pub const RESTORE_GIT_LIMIT_MS: u64 = GIT_UPLOAD_LIMIT_MS;
/// Largest `.git/config` of an archive.
pub const RESTORED_CONFIG_BYTES_MAX: usize = 1 << 20;
/// How long the walks may take through the history of a repository that is overwritten, and of those
/// of its submodules: a million commits take seconds.
pub const OLD_WALK_LIMIT_MS: u64 = 10 * MINUTE_MS;
/// Largest index of a repository that is overwritten, which is never held: some eight million files.
pub const OLD_INDEX_BYTES_MAX: u64 = 1 << 30;
/// Largest `packed-refs` of one, which is never held: some three million refs.
pub const OLD_PACKED_REFS_BYTES_MAX: u64 = 256 << 20;
/// Most of its loose refs, which are: about 200,000.
pub const OLD_LOOSE_REFS_BYTES_MAX: u64 = 16 << 20;
/// Largest list of what was last fetched into a submodule's repository.
pub const FETCHED_BYTES_MAX: u64 = 4 << 20;
/// Largest `.git` of a submodule, which is a file that says where its repository is.
pub const GIT_FILE_BYTES_MAX: u64 = 2 * PATH_BYTES_MAX as u64;
/// Repositories of submodules inside of one that is overwritten that are looked at, entries of the
/// directories that lead to them, and how deep those are.
pub const SUBMODULES_MAX: usize = 1024;
/// See [`SUBMODULES_MAX`].
pub const SUBMODULES_ENTRIES_MAX: usize = 64 * 1024;
/// See [`SUBMODULES_MAX`].
pub const SUBMODULES_DEPTH_MAX: usize = 64;
/// Paths that are looked for in an index at a time, with what each costs besides.
pub const DOUBTS_BYTES_MAX: usize = 16 << 20;
/// See [`DOUBTS_BYTES_MAX`].
pub const DOUBT_BYTES: usize = 64;
/// What was done to a target that is noted in memory; the rest is in a file.
pub const MOVES_BYTES: usize = 1 << 20;
/// Largest index of a repository that takes its place: about four million files.
pub const TRACKED_INDEX_BYTES_MAX: u64 = 512 << 20;
/// Bytes of an archive's `.git` that are looked at in memory, names and what each file costs
/// included: refs above all, about a million of them. Over it the archive is refused.
pub const CAPTURED_BYTES_MAX: usize = 96 << 20;
/// Refs that may come in any order: of more a list is taken only as git makes it, sorted.
pub const UNSORTED_REFS_MAX: usize = 64 << 10;
/// What a file costs there besides its name and content.
pub const CAPTURED_FILE_BYTES: usize = 128;
/// Largest object that is inflated to find what HEAD's trees hold, with all between it and its base,
/// and most of all those that lead to a place.
pub const RESTORED_TREE_BYTES_MAX: usize = 64 << 20;
/// Deltas between a tree and what is whole: git makes 50, and 250 when told to be aggressive.
pub const DELTA_STEPS_MAX: u64 = 512;
/// Bytes that are inflated, copied or summed for an object between two looks for the end of the
/// restore.
pub const WORK_PIECE_BYTES: usize = 1 << 20;
/// Bytes that are inflated and copied for the trees of a restore, whatever its packs have: two
/// seconds of it.
pub const TREE_WORK_BYTES_MIN: u64 = 4 << 30;
/// The same for each byte of its packs.
pub const TREE_WORK_PER_PACK_BYTE: u64 = 64;
/// Trees without a file that HEAD may have: git makes none.
pub const EMPTY_TREES_MAX: u64 = 1024;
/// Objects of a pack whose reverse index is checked and kept: four bytes each while it is. Git does
/// without one.
pub const REVERSE_INDEX_OBJECTS_MAX: u32 = 16 << 20;

// What is received, content, entries, and the window of the stream: within 300 MB with the rest.
const _: () = assert!(
    RECEIVED_BYTES_MAX + CONTENT_BYTES_MAX + ENTRIES_BYTES_MAX + (1 << RESTORE_WINDOW_LOG_MAX)
        <= 200 << 20
);
// One entry is handed on at a time at least, beside the file that the archive is inside of.
const _: () = assert!(ENTRY_BYTES + 2 * PATH_BYTES_MAX <= ENTRIES_AT_ONCE_BYTES);
const _: () =
    assert!(ENTRIES_AT_ONCE_BYTES + 2 * (PART_FILE_BYTES + PATH_BYTES_MAX) <= ENTRIES_BYTES_MAX);
// A frame that is put together fits beside its content.
const _: () = assert!(
    CONTENT_BYTES_MAX
        >= 2 * (RESTORE_FRAME_BYTES_MAX + RESTORE_FRAME_BYTES_MAX / 256 + BUFFER_STEP_BYTES)
);
// One that is not yet whole fits, in however small pieces, beside the buffers of all connections.
const _: () = assert!(
    RECEIVED_BYTES_MAX
        >= RESTORE_FRAME_BYTES_MAX
            + FRAME_SLICES_MAX * SMALL_CHUNK_BYTES
            + (CONNECTIONS_MAX + 4) * STREAM_READ_BYTES
);
const _: () = assert!(SEGMENT_BYTES as usize == STREAM_READ_BYTES);
