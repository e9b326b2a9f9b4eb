//! Every bound in the program, in one place, related to each other at compile time.
//! Units end the names. A bound that an operator may change is only a default here.

/// Spooled bytes of a running build that stay in memory for the clients that follow closely.
pub const WINDOW_BYTES: u64 = 8 << 20;

/// Bytes of a running build that wait to be written to its spool file; at the limit the
/// producer waits for the disk.
pub const SPOOL_LAG_BYTES: u64 = 8 << 20;

/// Loose objects that a snapshot takes along as they are; a mirror with more has them packed
/// first.
pub const LOOSE_TAKEN_MAX: usize = 256;

/// Object directories that a mirror may borrow from.
pub const ALTERNATES_MAX: usize = 16;

/// Largest `packed-refs` file that is read.
pub const PACKED_REFS_BYTES_MAX: u64 = 1024 * 1024 * 1024;
/// Largest loose ref file that is read.
pub const LOOSE_REF_BYTES_MAX: u64 = 64 * 1024;
/// Symbolic refs that are followed one after the other, like git.
pub const REF_SYMBOLIC_DEPTH_MAX: usize = 5;

/// Tar bytes after which a compressed frame ends.
pub const FRAME_TAR_BYTES: usize = 1 << 20;
/// Entries of the worktree in one job.
pub const JOB_ENTRIES_MAX: usize = 256;
/// Bytes of files in one job, unless it is a single file.
pub const JOB_TAR_BYTES: u64 = 4 << 20;
/// Files above this size are encoded as a stream instead of being decoded in memory.
pub const BIG_FILE_BYTES: u64 = 8 << 20;
/// Bytes of a linked file that one job brings into memory and sums.
pub const RAW_JOB_BYTES: u64 = 16 << 20;

const _: () = assert!(
    JOB_TAR_BYTES < BIG_FILE_BYTES,
    "a big file never shares a job"
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

/// The kernel's longest file name.
const NAME_BYTES_MAX: usize = 255;

/// The kernel's longest path, with its NUL.
const KERNEL_PATH_BYTES_MAX: usize = 4096;

// The longest allowed request line leaves half of the head to the headers.
const _: () = assert!(METHOD_BYTES_MAX + TARGET_BYTES_MAX <= HEAD_BYTES_MAX / 2);
// Any repository fits into a target, with the endpoint and a 64-digit hash behind it.
const _: () = assert!(HOST_BYTES_MAX + REPO_PATH_BYTES_MAX + 256 <= TARGET_BYTES_MAX);
// Any mirror fits into a path, with 1 KiB each for the state directory and the files inside.
const _: () = assert!(HOST_BYTES_MAX + REPO_PATH_BYTES_MAX + 2048 <= KERNEL_PATH_BYTES_MAX);
