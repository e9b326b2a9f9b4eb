//! The allocator, scheduling and files of the process.

/// How often is looked how much a clone or fetch has brought.
pub const GROWTH_LOOK_MS: u64 = 200;
/// Memory from this size on is mapped from the kernel, and goes back to it when it is dropped.
pub const MAPPED_FROM_BYTES: i32 = 512 << 10;
/// Unused memory that the allocator keeps at the end of each of its heaps.
pub const HEAP_TRIM_BYTES: i32 = 8 << 20;
/// How much less nice than the process the threads are that a first byte waits for.
pub const PROMPT_NICE: i32 = 10;
/// Slice of the threads that a first byte waits for: the shortest that the kernel has.
pub const PROMPT_SLICE_NS: u64 = 100_000;
/// How much nicer than the network cores `git` and its helpers are.
pub const CHILD_NICE: i32 = 10;
/// What a file takes of the disk is counted in steps of this, and so is a directory or a link.
pub const DISK_BLOCK_BYTES: u64 = 4096;
/// Longest line that is said to whoever started the program; the middle of a longer one is left out.
pub const SAID_CHARS_MAX: usize = 2000;
/// Builds after which what the heap holds and nobody uses is given back.
pub const HEAP_TRIM_BUILDS: u64 = 8;
/// Once none has ended for so long: whoever wants memory waits meanwhile.
pub const HEAP_TRIM_QUIET_MS: u64 = 500;
