//! What is read of a repository: its refs, its trees, and paths in them.

/// Tags of tags that are followed one after the other.
pub const TAG_DEPTH_MAX: usize = 4096;
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
/// Commits that are looked at to find that a ref leads to one: what is further away takes a longer look.
pub const NEAR_COMMITS_MAX: usize = 256;
/// Refs from all of which that is tried: of more, reading where they lead takes as long as git does.
pub const NEAR_TIPS_MAX: usize = 512;
/// Commits that are looked at below one to find a snapshot that it can be built on.
pub const NEAR_KNOWN_COMMITS_MAX: usize = 64;
/// How much older than its parents a commit can claim to be, and still be found so.
pub const CLOCK_SKEW_S: u64 = 24 * 60 * 60;
/// Times that a request looks again when what it found is gone before it can be read.
pub const LOOKS_MAX: usize = 3;
/// The kernel's longest path, with its NUL.
pub(super) const KERNEL_PATH_BYTES_MAX: usize = 4096;
