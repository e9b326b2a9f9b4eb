//! How much of the disk a restore may take, whatever the archive says.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use rustix::fs::StatVfs;

use super::error::RestoreError;
use crate::config::{RestoreArgs, Share};
use crate::io::fs::Space;
use crate::limits::DISK_BLOCK_BYTES;

/// How much may be written.
#[derive(Debug, Clone, Copy)]
pub enum Allowed {
    /// So many bytes, in however many files.
    Bytes(u64),
    /// What leaves this much of the file system free: of its inodes, too, where it is a percentage.
    AllBut(Share),
}

impl Allowed {
    pub(super) fn of(args: &RestoreArgs) -> Allowed {
        let floor = args.free_floor.unwrap_or(Share::RESTORE_FLOOR_DEFAULT);
        args.size_limit
            .map_or(Allowed::AllBut(floor), Allowed::Bytes)
    }
}

/// So many bytes, or what restores leave free by default.
impl From<Option<u64>> for Allowed {
    fn from(given: Option<u64>) -> Allowed {
        let default = Allowed::AllBut(Share::RESTORE_FLOOR_DEFAULT);
        given.map_or(default, Allowed::Bytes)
    }
}

/// What may still be written. It is counted when it is announced: before it is there.
#[derive(Debug)]
pub struct Quota {
    limit_bytes: u64,
    /// Whether the limit was asked for.
    is_given: bool,
    taken_bytes: Shared,
    /// What is taken of the same limit, by this and by others.
    all_bytes: Shared,
    is_kept: AtomicBool,
    /// Files, links and directories; `None` if the file system makes as many as one likes.
    entries_max: Option<u64>,
    taken_entries: AtomicU64,
}

/// What the repositories of one restore have taken together.
pub(super) type Shared = Arc<AtomicU64>;

/// What was made is gone again, unless it is kept.
impl Drop for Quota {
    fn drop(&mut self) {
        if !self.is_kept.load(Relaxed) {
            let taken = self.taken_bytes.load(Relaxed);
            self.all_bytes.fetch_sub(taken, Relaxed);
        }
    }
}

/// What is taken for a while: it is given back when this is dropped, which is before the quota is.
#[derive(Debug)]
pub(super) struct Lent {
    from: [Shared; 2],
    bytes: u64,
}

impl Drop for Lent {
    fn drop(&mut self) {
        for from in &self.from {
            from.fetch_sub(self.bytes, Relaxed);
        }
    }
}

fn add(to: &AtomicU64, bytes: u64) -> u64 {
    let add = |taken: u64| Some(taken.saturating_add(bytes));
    let before = to.fetch_update(Relaxed, Relaxed, add);
    before.unwrap_or_else(|taken| taken).saturating_add(bytes)
}

impl Quota {
    /// The same as [`Self::new`] where others take of a limit that is given, too: `all`.
    pub(super) fn beside(
        all: &Shared,
        allowed: impl Into<Allowed>,
        path: &Path,
    ) -> Result<Quota, RestoreError> {
        let mut quota = Quota::new(allowed, path)?;
        // What is free says by itself what others have taken.
        if quota.is_given {
            quota.all_bytes = all.clone();
        }
        Ok(quota)
    }

    /// What was written stays.
    pub(super) fn keep(&self) {
        self.is_kept.store(true, Relaxed);
    }

    /// What is allowed on the file system at `path`.
    pub fn new(allowed: impl Into<Allowed>, path: &Path) -> Result<Quota, RestoreError> {
        let (limit_bytes, entries_max, is_given) = match allowed.into() {
            Allowed::Bytes(limit_bytes) => (limit_bytes, None, true),
            Allowed::AllBut(floor) => {
                let stat = rustix::fs::statvfs(path);
                let stat = stat.map_err(|e| RestoreError::disk("look at", path, e))?;
                (bytes_max(&stat, floor), entries_max(&stat, floor), false)
            }
        };
        Ok(Quota {
            limit_bytes,
            is_given,
            taken_bytes: Shared::default(),
            all_bytes: Shared::default(),
            is_kept: AtomicBool::new(false),
            entries_max,
            taken_entries: AtomicU64::new(0),
        })
    }

    /// Counts `bytes`, which are refused if they are too many.
    pub fn take(&self, bytes: u64) -> Result<(), RestoreError> {
        add(&self.all_bytes, bytes);
        self.expect(add(&self.taken_bytes, bytes))
    }

    /// Takes nothing yet.
    pub(super) fn lend(&self) -> Lent {
        Lent {
            from: [self.taken_bytes.clone(), self.all_bytes.clone()],
            bytes: 0,
        }
    }

    /// Counts `bytes` for as long as `lent` is there, which is of this quota.
    pub(super) fn lend_more(&self, lent: &mut Lent, bytes: u64) -> Result<(), RestoreError> {
        lent.bytes += bytes;
        self.take(bytes)
    }

    /// Counts nothing; refused is what [`Self::take`] would refuse.
    pub fn look(&self, bytes: u64) -> Result<(), RestoreError> {
        self.expect(self.taken_bytes.load(Relaxed).saturating_add(bytes))
    }

    /// So many bytes in all, whatever is there already.
    pub fn expect(&self, all_bytes: u64) -> Result<(), RestoreError> {
        let taken = self.taken_bytes.load(Relaxed);
        let others = self.all_bytes.load(Relaxed).saturating_sub(taken);
        match all_bytes.saturating_add(others) <= self.limit_bytes {
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
        let before = self.taken_entries.fetch_add(1, Relaxed);
        self.expect_entries(before + 1)?;
        self.take(entry_bytes(bytes))
    }

    /// So many entries that were counted are not made after all, of so many bytes with what each takes.
    pub fn give_back(&self, entries: u64, bytes: u64) {
        self.taken_entries.fetch_sub(entries, Relaxed);
        self.taken_bytes.fetch_sub(bytes, Relaxed);
        self.all_bytes.fetch_sub(bytes, Relaxed);
    }

    /// What is counted by now, in entries and bytes.
    pub fn taken(&self) -> (u64, u64) {
        let (entries, bytes) = (&self.taken_entries, &self.taken_bytes);
        (entries.load(Relaxed), bytes.load(Relaxed))
    }

    /// What was counted since then is gone again.
    pub fn give_back_to(&self, (entries, bytes): (u64, u64)) {
        let (now_entries, now_bytes) = self.taken();
        self.give_back(
            now_entries.saturating_sub(entries),
            now_bytes.saturating_sub(bytes),
        );
    }

    /// Counts nothing; refused are more entries than may still be made.
    pub fn look_entries(&self, entries: u64) -> Result<(), RestoreError> {
        let taken = self.taken_entries.load(Relaxed);
        self.expect_entries(taken.saturating_add(entries))
    }

    /// So many entries in all, whatever is there already.
    pub fn expect_entries(&self, all: u64) -> Result<(), RestoreError> {
        match self.entries_max {
            Some(limit) if all > limit => Err(RestoreError::EntryLimit { limit }),
            _ => Ok(()),
        }
    }
}

fn bytes_max(stat: &StatVfs, floor: Share) -> u64 {
    let space = Space::from(stat);
    let floor_bytes = floor.of(space.total_bytes);
    space.free_bytes.saturating_sub(floor_bytes)
}

/// `None` where inodes are made as they are needed, which is said by none at all, or where nobody says how many are to
/// stay free.
fn entries_max(stat: &StatVfs, floor: Share) -> Option<u64> {
    let reserved = stat.f_ffree.saturating_sub(stat.f_favail);
    let all = stat.f_files.saturating_sub(reserved);
    match floor {
        Share::Percent(_) if stat.f_files > 0 => Some(stat.f_favail.saturating_sub(floor.of(all))),
        _ => None,
    }
}

/// What such an entry takes.
pub(super) fn entry_bytes(bytes: u64) -> u64 {
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
    fn what_is_given_back_can_be_taken_again() {
        let limit = 3 * DISK_BLOCK_BYTES;
        let quota = Quota::new(Some(limit), Path::new("/nowhere")).unwrap();
        quota.take(limit).unwrap();
        quota.give_back(0, limit);
        quota.expect(limit).unwrap();
        quota.take(limit).unwrap();
        quota.take(1).unwrap_err();
    }

    #[test]
    fn what_is_lent_counts_while_it_is_there() {
        let all = Shared::default();
        let quota = Quota::beside(&all, Some(100), Path::new("/nowhere")).unwrap();
        let mut lent = quota.lend();
        quota.lend_more(&mut lent, 60).unwrap();
        quota.lend_more(&mut lent, 60).unwrap_err();
        quota.look(1).unwrap_err();
        drop(lent);
        quota.take(100).unwrap();
        assert_eq!(all.load(Relaxed), 100);
    }

    #[test]
    fn by_default_a_part_of_the_file_system_stays_free() {
        let quota = Quota::new(None, Path::new("/")).unwrap();
        let error = quota.take(u64::MAX).unwrap_err();
        assert!(error.to_string().contains("--free-floor"), "{error}");
        assert!(error.to_string().contains("--size-limit"), "{error}");
    }

    /// Numbers of statvfs(3): an ext4 whose inodes are nearly gone, one of which root keeps some, and
    /// a btrfs, which counts none.
    #[test]
    fn inodes_count_as_bytes_do() {
        let floor = Share::RESTORE_FLOOR_DEFAULT;
        let mut stat = rustix::fs::statvfs("/").unwrap();
        stat.f_frsize = 4096;
        (stat.f_blocks, stat.f_bfree, stat.f_bavail) = (1_000_000, 500_000, 450_000);
        (stat.f_files, stat.f_ffree, stat.f_favail) = (65_536, 4_000, 4_000);
        assert_eq!(bytes_max(&stat, floor), (450_000 - 950_000 / 20) * 4096);
        assert_eq!(entries_max(&stat, floor), Some(4_000 - 3_276));
        (stat.f_ffree, stat.f_favail) = (3_000, 3_000);
        assert_eq!(entries_max(&stat, floor), Some(0));
        (stat.f_ffree, stat.f_favail) = (40_000, 30_000);
        assert_eq!(entries_max(&stat, floor), Some(30_000 - 2_776));
        let bytes = Share::Bytes(450_000 * 4096 - 5);
        assert_eq!(
            (bytes_max(&stat, bytes), entries_max(&stat, bytes)),
            (5, None)
        );
        (stat.f_files, stat.f_ffree, stat.f_favail) = (0, 0, 0);
        assert_eq!(entries_max(&stat, floor), None);
        let mut quota = Quota::new(None, Path::new("/")).unwrap();
        quota.entries_max = Some(2);
        quota.take_entry(0).unwrap();
        quota.look_entries(1).unwrap();
        quota.look_entries(2).unwrap_err();
        quota.take_entry(0).unwrap();
        let error = quota.take_entry(0).unwrap_err();
        assert_eq!(error.exit_code(), 4);
        assert!(error.to_string().contains("inodes"), "{error}");
        // Repositories of one restore share a limit that is given; what of them is gone again is free.
        let all = Shared::default();
        let beside = || Quota::beside(&all, Some(100), Path::new("/")).unwrap();
        let (one, other) = (beside(), beside());
        one.take(60).unwrap();
        other.take(60).unwrap_err();
        other.expect(40).unwrap();
        drop(other);
        one.keep();
        drop(one);
        let last = beside();
        last.expect(41).unwrap_err();
        last.take(40).unwrap();
        // Who gives a limit has looked.
        let given = Quota::new(Some(1 << 40), Path::new("/")).unwrap();
        given.look_entries(u64::MAX).unwrap();
    }
}
