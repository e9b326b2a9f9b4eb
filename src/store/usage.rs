//! How much of the disk the cache takes, as far as that is known without asking the file system.

use std::sync::atomic::{AtomicU64, Ordering};

/// See the module's text. Exact after [`Usage::set`]; between two of them only what was added counts.
#[derive(Debug)]
pub(crate) struct Usage {
    cache_bytes: AtomicU64,
    entries: AtomicU64,
    disk_bytes: AtomicU64,
}

impl Usage {
    /// Nothing, on a disk of this size.
    pub(crate) fn new(disk_bytes: u64) -> Usage {
        Usage {
            cache_bytes: AtomicU64::new(0),
            entries: AtomicU64::new(0),
            disk_bytes: AtomicU64::new(disk_bytes),
        }
    }

    /// Notes an entry that was published, until the next look at the whole cache.
    pub(crate) fn add_entry(&self, bytes: u64) {
        self.cache_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.entries.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes the size of the cache and of the disk that it is on.
    pub(crate) fn set(&self, cache_bytes: u64, entries: u64, disk_bytes: u64) {
        self.disk_bytes.store(disk_bytes, Ordering::Relaxed);
        self.cache_bytes.store(cache_bytes, Ordering::Relaxed);
        self.entries.store(entries, Ordering::Relaxed);
    }

    /// Bytes that entries hold of their own.
    pub(crate) fn cache_bytes(&self) -> u64 {
        self.cache_bytes.load(Ordering::Relaxed)
    }

    /// Entries.
    pub(crate) fn entries(&self) -> u64 {
        self.entries.load(Ordering::Relaxed)
    }

    /// The size of the disk.
    pub(crate) fn disk_bytes(&self) -> u64 {
        self.disk_bytes.load(Ordering::Relaxed)
    }
}
