//! How much a directory grows while somebody writes into it: what bounds a `git`, which knows no
//! limit of its own.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::limits::{DISK_BLOCK_BYTES, GROWTH_LOOK_MS};

/// Looks at a directory again and again. It need not be there yet.
#[derive(Debug)]
pub(crate) struct Meter {
    dir: PathBuf,
    first_bytes: Option<u64>,
}

impl Meter {
    /// One that has not looked yet.
    pub(crate) fn new(dir: PathBuf) -> Meter {
        let first_bytes = None;
        Meter { dir, first_bytes }
    }

    /// The directory.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// By how many bytes it has grown since the first look.
    pub(crate) fn look(&mut self) -> io::Result<u64> {
        let bytes = disk_bytes(&self.dir)?;
        Ok(bytes.saturating_sub(*self.first_bytes.get_or_insert(bytes)))
    }
}

/// How long to wait after a look that `took` so long: looking takes a small part of the time,
/// however much there is to look at.
pub(crate) fn pause(took: Duration) -> Duration {
    Duration::from_millis(GROWTH_LOOK_MS).max(took * 10)
}

/// What everything below a directory takes on the disk, at least a block each: a file without
/// content and a directory are something, too. What is not there, or goes meanwhile, takes nothing.
pub(crate) fn disk_bytes(dir: &Path) -> io::Result<u64> {
    let mut bytes = 0_u64;
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        let entries = match std::fs::read_dir(&dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let found = match entry.metadata() {
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                found => found?,
            };
            // A block is 512 bytes there, whatever the file system's are.
            let taken = found.len().max(found.blocks() * 512);
            bytes = bytes.saturating_add(taken.max(DISK_BLOCK_BYTES));
            if found.is_dir() {
                dirs.push(entry.path());
            }
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_before_is_no_growth_and_nothing_is_free() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("before"), [1; 10_000]).unwrap();
        let mut meter = Meter::new(dir.path().to_owned());
        assert_eq!(meter.look().unwrap(), 0);
        std::fs::create_dir(at("made")).unwrap();
        for number in 0..9 {
            std::fs::write(at("made").join(number.to_string()), b"").unwrap();
        }
        assert!(meter.look().unwrap() >= 10 * DISK_BLOCK_BYTES);
        std::fs::write(at("made/large"), vec![1; 1 << 20]).unwrap();
        assert!(meter.look().unwrap() >= (1 << 20) + 10 * DISK_BLOCK_BYTES);
        std::fs::remove_dir_all(dir.path()).unwrap();
        assert_eq!(meter.look().unwrap(), 0);
    }
}
