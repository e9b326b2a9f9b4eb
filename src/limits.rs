//! Every bound in the program, in one place, related to each other at compile time.
//! Units end the names. A bound that an operator may change is only a default here.

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
