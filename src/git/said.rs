//! What a git said on standard error.

/// What git and the system say when there is no room on the disk, in lower case. A line of a server
/// that begins with `remote:` is about that one's disk.
pub(crate) const DISK_FULL_MESSAGES: [&str; 3] = [
    "no space left on device",
    "disk quota exceeded",
    "out of diskspace",
];

/// The end of what a command said.
pub(crate) struct Tail {
    bytes: Vec<u8>,
    max_bytes: usize,
}

impl Tail {
    pub(crate) fn new(max_bytes: usize) -> Self {
        Self {
            bytes: Vec::new(),
            max_bytes,
        }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        let excess = self.bytes.len().saturating_sub(self.max_bytes);
        self.bytes.drain(..excess);
    }
}
