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
