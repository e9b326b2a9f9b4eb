//! From a mirror to an archive: frames, jobs, decoding, checks, builds side by side.

use super::units::MINUTE_MS;

/// Tar bytes after which a compressed frame ends.
pub const FRAME_TAR_BYTES: usize = 1 << 20;
/// Entries of the worktree after which a job ends, wherever it is cut.
pub const JOB_ENTRIES_MAX: usize = 256;
/// Entries below a directory from which on it is a large one: no job crosses its border, and an equal
/// one is not walked again. It is the mean number of entries of a job, too.
pub const LARGE_DIRECTORY_ENTRIES: u64 = 64;
/// How deep a large directory can lie. Below, all counts as its own: trees of a few thousand levels would
/// otherwise have more bytes in the paths of large directories than anything else.
pub const LARGE_DIRECTORY_DEPTH_MAX: usize = 32;
/// Entries that a job has at least before an id can end it: ids can be chosen.
pub const JOB_ENTRIES_MIN: usize = 8;
/// Most large directories, and most bytes of their paths: what is known of each takes some hundred bytes.
pub const LARGE_DIRECTORIES_MAX: usize = 1 << 18;
/// See [`LARGE_DIRECTORIES_MAX`].
pub const LARGE_DIRECTORY_PATHS_BYTES_MAX: usize = 32 << 20;
/// Bytes of the index that a frame of it has at least before an id can end it.
pub const CHUNK_BYTES_MIN: usize = 4 << 10;
/// Mean number of entries in a frame of the index, within one large directory.
pub const CHUNK_ENTRIES: u64 = 512;
/// Files of frames that an entry consists of, its own included.
pub const FRAMES_FILES_MAX: usize = 16;
/// Bytes of such files that may be of no use, however few are of use.
pub const DEAD_FRAMES_BYTES: u64 = 256 << 10;
/// More stretches of files than these make an archive dear to send: each costs about 2 us of a core, so these a
/// millisecond.
pub const SCATTERED_STRETCHES: usize = 512;
/// A snapshot that was current for so long, and that many stretches are in, has its frames put in order.
pub const ORDER_QUIET_MS: u64 = MINUTE_MS;
/// How many of the smallest are joined where there would be more.
pub const FRAMES_FILES_JOINED: usize = 8;
/// Bytes of files in one job, unless it is a single file.
pub const JOB_TAR_BYTES: u64 = 4 << 20;
/// Files above this size are encoded as a stream instead of being decoded in memory.
pub const BIG_FILE_BYTES: u64 = 8 << 20;
/// Bytes of a file that is too large to be held that are converted at a time.
pub const FILTER_PIECE_BYTES: usize = 64 << 10;
/// More than any letter of a text has.
pub const LETTER_BYTES_MAX: usize = 8;
/// Memory that the attribute files of a path's directories may take, for each thread that converts files: two hundred
/// thousand lines.
pub const ATTRIBUTES_BYTES_MAX: usize = 128 << 20;
/// What a parsed line of an attribute file takes, and each of its attributes, and each name of one.
pub const ATTRIBUTE_LINE_BYTES: usize = 320;
pub const ATTRIBUTE_WORD_BYTES: usize = 80;
pub const ATTRIBUTE_NAME_BYTES: usize = 500;
/// What an attribute file takes that is only listed, besides twice its path.
pub const ATTRIBUTE_FILE_BYTES: usize = 160;
/// Bytes that the encoders decode an object with: twice the largest of it and what its delta is
/// made from, and the deltas.
pub const DECODE_LIMIT_BYTES: u64 = 32 << 20;
/// What a base that is kept takes beside its bytes.
pub const BASE_COST_BYTES: usize = 192;
/// Bytes for decoding what takes more, of all builds together; one that alone needs more than all
/// is decoded alone.
pub const DECODE_BUDGET_BYTES: u64 = 96 << 20;
/// How hard what is decoded for the pack of one commit is compressed again, as libdeflate counts it.
pub const TIP_DEFLATE_LEVEL: i32 = 4;
/// What an object and what it is decoded from may take for that, in any number of threads.
pub const TIP_DECODED_SMALL_BYTES: u64 = 2 << 20;
/// The same in one thread at a time; what takes more is left to git.
pub const TIP_DECODED_BYTES_MAX: u64 = DECODE_LIMIT_BYTES;
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
/// Times that a mirror is prepared for one build: its loose objects packed, a reverse index made.
pub const PREPARED_MAX: usize = 8;
/// Files of packs and of frames that are remembered to be sound.
pub const VERIFIED_FILES_MAX: usize = 1 << 18;
/// Size of the one tree that a build keeps from one walk to the next.
pub const TREE_KEPT_BYTES_MIN: usize = 1 << 20;
/// See [`TREE_KEPT_BYTES_MIN`].
pub const TREE_KEPT_BYTES_MAX: usize = 32 << 20;
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
/// Large builds that produce at the same time, half as many as there are encoders: the least
/// and the most.
pub const BUILDS_PRODUCING_MIN: usize = 2;
/// See [`BUILDS_PRODUCING_MIN`].
pub const BUILDS_PRODUCING_MAX: usize = 8;
/// How long such a build produces before another one has its turn, if one waits.
pub const TURN_MS: u64 = 100;
/// Bytes of packs that a small build has at most.
pub const SMALL_BUILD_LINKED_BYTES: u64 = 4 << 20;
/// Steps of the walk of a small build's tree, and jobs of its worktree. One that needs more goes on
/// as a large one.
pub const SMALL_BUILD_STEPS: u64 = 8192;
/// See [`SMALL_BUILD_STEPS`].
pub const SMALL_BUILD_JOBS: u64 = 8;
/// How much nicer than the network cores the encoders are.
pub const ENCODER_NICE: i32 = 10;
/// The same of small builds: they are over soon, and large ones are not to hold them up.
pub const SMALL_BUILD_NICE: i32 = 5;
/// Threads that encode for small builds only, as a share of the encoders, rounded up.
pub const SMALL_ENCODERS_PERCENT: usize = 25;
