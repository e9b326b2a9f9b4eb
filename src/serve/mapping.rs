//! A linked file, mapped, so that what is in it can be given to the kernel by reference.
//!
//! A core does that only where the pages were mapped before. To map one takes a lock of the whole
//! process, which other threads hold for milliseconds when they unmap large files.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::limits::READ_AHEAD_BYTES;
use crate::snapshot::map::MappedFile;

/// Pages of a stretch are to be mapped.
const ASKED: u8 = 1;
/// Pages of a stretch are mapped, unless the kernel needed the memory for something else.
const MAPPED: u8 = 2;

/// See the module's text.
#[derive(Debug)]
pub struct Mapping {
    file: MappedFile,
    /// For each stretch of [`READ_AHEAD_BYTES`] 0, [`ASKED`] or [`MAPPED`], in this order.
    marks: Box<[AtomicU8]>,
}

impl Mapping {
    /// Maps a file, but none of its pages; `None` where the system has no mappings left.
    pub fn of(file: &File) -> Option<Mapping> {
        let file = MappedFile::of(file).ok()?;
        let stretches = (file.bytes().len() as u64).div_ceil(READ_AHEAD_BYTES);
        Some(Mapping {
            file,
            marks: (0..stretches).map(|_| AtomicU8::new(0)).collect(),
        })
    }

    /// A range of the file, if its pages are mapped. On a core it is only to be given to the kernel.
    pub fn bytes(&self, range: &Range<u64>) -> Option<&[u8]> {
        let marks = self.marks(range)?;
        let mapped = |mark: &AtomicU8| mark.load(Ordering::Acquire) == MAPPED;
        let (start, end) = (range.start.try_into().ok()?, range.end.try_into().ok()?);
        let bytes = self.file.bytes().get::<Range<usize>>(start..end)?;
        marks.iter().all(mapped).then_some(bytes)
    }

    /// Whether somebody should call [`Mapping::map_in`] for a range; says so only once.
    pub fn wants(&self, range: &Range<u64>) -> bool {
        let ask = |mark: &&AtomicU8| {
            let asked = mark.compare_exchange(0, ASKED, Ordering::Relaxed, Ordering::Relaxed);
            asked.is_ok()
        };
        let marks = self.marks(range).unwrap_or_default();
        // Each of them, not until the first.
        marks.iter().filter(ask).count() > 0
    }

    /// Has the pages of the stretches under a range mapped that were asked for. Waits for the disk
    /// if they are not in memory.
    pub fn map_in(&self, range: &Range<u64>) -> io::Result<()> {
        let numbers = range.start / READ_AHEAD_BYTES..;
        for (mark, number) in self.marks(range).unwrap_or_default().iter().zip(numbers) {
            if mark.load(Ordering::Relaxed) == ASKED {
                let start = number * READ_AHEAD_BYTES;
                let end = (start + READ_AHEAD_BYTES).min(self.file.bytes().len() as u64);
                if self.file.populate(start as usize..end as usize)? {
                    mark.store(MAPPED, Ordering::Release);
                }
            }
        }
        Ok(())
    }

    /// The marks of the stretches that a range lies in.
    fn marks(&self, range: &Range<u64>) -> Option<&[AtomicU8]> {
        let first = usize::try_from(range.start / READ_AHEAD_BYTES).ok()?;
        let end = usize::try_from(range.end.div_ceil(READ_AHEAD_BYTES)).ok()?;
        self.marks.get(first..end)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn only_what_was_mapped_in_is_given() {
        let mut file = tempfile::tempfile().unwrap();
        let content: Vec<u8> = (0..2 * READ_AHEAD_BYTES + 1000)
            .map(|i| (i / 1021) as u8)
            .collect();
        file.write_all(&content).unwrap();
        let mapping = Mapping::of(&file).unwrap();
        let across = READ_AHEAD_BYTES - 10..READ_AHEAD_BYTES + 10;
        assert_eq!(mapping.bytes(&(0..10)), None);
        assert!(mapping.wants(&across));
        assert!(!mapping.wants(&across), "it was asked for twice");
        assert_eq!(mapping.bytes(&across), None);
        mapping.map_in(&(0..10)).unwrap();
        assert_eq!(mapping.bytes(&(5..10)), Some(&content[5..10]));
        assert_eq!(mapping.bytes(&across), None, "its second half is not there");
        mapping.map_in(&across).unwrap();
        let expected = &content[across.start as usize..across.end as usize];
        assert_eq!(mapping.bytes(&across), Some(expected));
        let end = content.len() as u64;
        assert!(mapping.wants(&(end - 1..end)));
        mapping.map_in(&(end - 1..end)).unwrap();
        assert_eq!(
            mapping.bytes(&(end - 1..end)),
            content.last_chunk::<1>().map(|c| &c[..])
        );
        for beyond in [
            end - 1..end + 1,
            end + READ_AHEAD_BYTES..end + READ_AHEAD_BYTES + 1,
        ] {
            mapping.map_in(&beyond).unwrap();
            assert_eq!(mapping.bytes(&beyond), None);
        }
    }
}
