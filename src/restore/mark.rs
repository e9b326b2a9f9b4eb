//! What was put at a path, so that it can be told from what somebody else has made of it since.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Of a file its number, its length and when it was written; of a directory also that nothing inside of it was changed
/// after it came. What is written into a file within one tick of the clock is seen, for files that come have an earlier
/// date; what is put into a directory then is seen where the clock of the file system tells changes apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    inode: u64,
    size: u64,
    modified: Moment,
    /// When a directory had come.
    came: Moment,
}

/// Seconds and nanoseconds.
type Moment = (i64, i64);

impl Mark {
    /// As bytes.
    pub(super) const BYTES: usize = 48;

    /// That of what was `before` it was moved to `path`.
    pub(super) fn of(before: &Metadata, path: &Path) -> Mark {
        let mut mark = Mark {
            inode: before.ino(),
            size: before.len(),
            modified: (before.mtime(), before.mtime_nsec()),
            came: (before.ctime(), before.ctime_nsec()),
        };
        // Of a file the rest is enough.
        if before.is_dir()
            && let Ok(now) = fs::symlink_metadata(path)
            && mark.is_same(&now)
        {
            mark.came = (now.ctime(), now.ctime_nsec());
        }
        mark
    }

    fn is_same(&self, found: &Metadata) -> bool {
        let is_written = (found.mtime(), found.mtime_nsec()) != self.modified;
        let has_length = found.is_dir() || found.len() == self.size;
        found.ino() == self.inode && has_length && !is_written
    }

    /// Whether what was moved on to `path` is what came, and nothing else.
    pub(super) fn is_untouched(&self, path: &Path) -> io::Result<bool> {
        let found = fs::symlink_metadata(path)?;
        Ok(self.is_same(&found) && (!found.is_dir() || self.is_untouched_inside(path)?))
    }

    fn is_untouched_inside(&self, directory: &Path) -> io::Result<bool> {
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let found = entry.metadata()?;
            if (found.ctime(), found.ctime_nsec()) > self.came {
                return Ok(false);
            }
            if found.is_dir() && !self.is_untouched_inside(&entry.path())? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    pub(super) fn to_bytes(self) -> [u8; Mark::BYTES] {
        let numbers = [
            self.inode.cast_signed(),
            self.size.cast_signed(),
            self.modified.0,
            self.modified.1,
            self.came.0,
            self.came.1,
        ];
        let mut bytes = [0; Mark::BYTES];
        for (place, number) in bytes.chunks_exact_mut(8).zip(numbers) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        bytes
    }

    pub(super) fn from_bytes(bytes: &[u8; Mark::BYTES]) -> Mark {
        let (numbers, _) = bytes.as_chunks::<8>();
        let number = |at: usize| i64::from_le_bytes(numbers[at]);
        Mark {
            inode: number(0).cast_unsigned(),
            size: number(1).cast_unsigned(),
            modified: (number(2), number(3)),
            came: (number(4), number(5)),
        }
    }
}
