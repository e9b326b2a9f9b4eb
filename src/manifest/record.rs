//! What an entry holds besides the bytes of its spool file, and which of these can be used again.

/// A file that an archive is made of and that its entry keeps alive by a hard link (or has a copy of): a
/// pack of the mirror or one of its companions, sent framed as it is, or a file of frames that an earlier
/// entry has written, of which stretches are sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Linked {
    /// Where it lies below the entry's directory, such as `objects/pack/pack-….pack`, which for a pack is
    /// its place below `.git`, too; or `frames/NAME`, a random name that the file has for good.
    pub path: String,
    /// Its length.
    pub bytes: u64,
    /// XXH64 of a whole file of frames, with seed 0. A pack's frames have their checksums in the layout.
    pub whole: Option<u64>,
}

/// Where frames lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretch {
    /// Number of a file of frames, as the outline lists them.
    pub part: u32,
    /// From where on.
    pub offset: u64,
    /// Length of the frames.
    pub bytes: u64,
}

/// One job of the worktree, so that a later snapshot of the same files can take its frames over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Hash of everything that decides the job's bytes.
    pub key: [u8; 32],
    /// Its frames.
    pub at: Stretch,
    /// XXH64 of its frames, with seed 0.
    pub checksum: u64,
    /// Sizes of its files as `.git/index` holds them, in order.
    pub sizes: Vec<u32>,
}

/// One frame of the index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Hash of its content and of what else decides the frame.
    pub key: [u8; 32],
    /// The frame.
    pub at: Stretch,
    /// XXH64 of the frame, with seed 0.
    pub checksum: u64,
    /// Length of its content.
    pub raw_bytes: u32,
}
