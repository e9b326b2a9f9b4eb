//! What an entry holds besides the bytes of its spool file, and which of these can be used again.

/// A file of the mirror that an archive sends as it is, and that its entry keeps alive by a hard
/// link (or has a copy of).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Linked {
    /// Where it lies below `.git`, and below the entry's directory, such as
    /// `objects/pack/pack-….pack`.
    pub path: String,
    /// Its length.
    pub bytes: u64,
}

/// One job of the worktree whose frames lie in the spool file, so that a later snapshot of the
/// same files can take them over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Hash of everything that decides the job's bytes.
    pub key: [u8; 32],
    /// Where the job's frames begin in the spool file.
    pub spool_offset: u64,
    /// Length of its frames.
    pub spool_bytes: u64,
    /// XXH64 of its frames, with seed 0.
    pub checksum: u64,
    /// The mtime its tar headers carry, in seconds since the epoch.
    pub mtime_s: i64,
    /// Sizes of its files as `.git/index` holds them, in order.
    pub sizes: Vec<u32>,
}
