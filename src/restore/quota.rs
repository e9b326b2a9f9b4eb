//! How much of the disk a restore may take, whatever the archive says.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::error::RestoreError;
use crate::limits::{DISK_BLOCK_BYTES, RESTORE_FREE_PERCENT};

/// What may still be written. It is counted when it is announced: before it is there.
#[derive(Debug)]
pub struct Quota {
    limit_bytes: u64,
    /// Whether the limit was asked for.
    is_given: bool,
    taken_bytes: AtomicU64,
}

impl Quota {
    /// `given` bytes, or what leaves a part of the file system at `path` free.
    pub fn new(given: Option<u64>, path: &Path) -> Result<Quota, RestoreError> {
        let limit_bytes = match given {
            Some(limit_bytes) => limit_bytes,
            None => {
                let stat = rustix::fs::statvfs(path);
                let stat = stat.map_err(|e| RestoreError::disk("look at", path, e))?;
                let bytes = |blocks: u64| u128::from(blocks) * u128::from(stat.f_frsize);
                // As df(1) counts: without what is reserved for root.
                let reserved = stat.f_bfree.saturating_sub(stat.f_bavail);
                let size = bytes(stat.f_blocks.saturating_sub(reserved));
                let kept = size * u128::from(RESTORE_FREE_PERCENT) / 100;
                let limit = bytes(stat.f_bavail).saturating_sub(kept);
                u64::try_from(limit).unwrap_or(u64::MAX)
            }
        };
        Ok(Quota {
            limit_bytes,
            is_given: given.is_some(),
            taken_bytes: AtomicU64::new(0),
        })
    }

    /// Counts `bytes`, which are refused if they are too many.
    pub fn take(&self, bytes: u64) -> Result<(), RestoreError> {
        let add = |taken: u64| Some(taken.saturating_add(bytes));
        let before = self.taken_bytes.fetch_update(Relaxed, Relaxed, add);
        let before = before.unwrap_or_else(|taken| taken);
        self.expect(before.saturating_add(bytes))
    }

    /// Counts nothing; refused is what [`Self::take`] would refuse.
    pub fn look(&self, bytes: u64) -> Result<(), RestoreError> {
        self.expect(self.taken_bytes.load(Relaxed).saturating_add(bytes))
    }

    /// So many bytes in all, whatever is there already.
    pub fn expect(&self, all_bytes: u64) -> Result<(), RestoreError> {
        match all_bytes <= self.limit_bytes {
            true => Ok(()),
            false => Err(RestoreError::SizeLimit {
                limit_bytes: self.limit_bytes,
                is_given: self.is_given,
            }),
        }
    }

    /// Counts a file of `bytes`, or a directory or link of none: it takes whole blocks, and one of
    /// the file system's own.
    pub fn take_entry(&self, bytes: u64) -> Result<(), RestoreError> {
        self.take(entry_bytes(bytes))
    }
}

/// What such an entry takes.
pub fn entry_bytes(bytes: u64) -> u64 {
    let whole = bytes.div_ceil(DISK_BLOCK_BYTES).max(1);
    whole.saturating_mul(DISK_BLOCK_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_announced_counts_in_whole_blocks() {
        let quota = Quota::new(Some(3 * DISK_BLOCK_BYTES), Path::new("/nowhere")).unwrap();
        quota.take_entry(0).unwrap();
        quota.take_entry(DISK_BLOCK_BYTES + 1).unwrap();
        let error = quota.take_entry(0).unwrap_err();
        assert_eq!(error.exit_code(), 4);
        assert!(error.to_string().contains("--size-limit"), "{error}");
        quota.take_entry(u64::MAX).unwrap_err();
        quota.take(1).unwrap_err();
    }

    #[test]
    fn by_default_a_part_of_the_file_system_stays_free() {
        let quota = Quota::new(None, Path::new("/")).unwrap();
        let error = quota.take(u64::MAX).unwrap_err();
        assert!(error.to_string().contains("5 %"), "{error}");
        assert!(error.to_string().contains("--size-limit"), "{error}");
    }
}
