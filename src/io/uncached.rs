//! Reading what is on a disk, and not what the kernel remembers of it, slowly and without making
//! it remember more: for those who look whether a disk has kept what was written.
//!
//! Files are read with O_DIRECT. Where a file system has none, they are read as usual, and what was
//! not in memory before is dropped again; what was stays, for somebody uses it.

use std::cell::{Cell, RefCell};
use std::fs::{File, Metadata};
use std::io;
use std::num::NonZeroU64;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::Advice;

use super::residency;
use crate::limits::SCRUB_STOP_SEEN_MS;

/// What offsets and lengths of a direct read are multiples of: a page, which is a multiple of every
/// disk's block.
const ALIGN: usize = 4096;

/// How fast is read, and whether still.
#[derive(Debug)]
pub struct Pace {
    bytes_per_s: Option<u64>,
    stop: Arc<AtomicBool>,
    free_at: Cell<Option<Instant>>,
    bytes: Cell<u64>,
}

impl Pace {
    /// As many bytes in a second, or as fast as it goes, until `stop` turns true.
    pub fn new(bytes_per_s: Option<NonZeroU64>, stop: Arc<AtomicBool>) -> Pace {
        Pace {
            bytes_per_s: bytes_per_s.map(NonZeroU64::get),
            stop,
            free_at: Cell::new(None),
            bytes: Cell::new(0),
        }
    }

    /// Whether to stop.
    pub fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Bytes read since this was last asked.
    pub fn take_bytes(&self) -> u64 {
        self.bytes.take()
    }

    /// Waits until so many bytes more may be read; an error if all is to stop.
    fn wait(&self, bytes: usize) -> io::Result<()> {
        self.bytes.set(self.bytes.get() + bytes as u64);
        let Some(rate) = self.bytes_per_s else {
            return self.check();
        };
        let now = Instant::now();
        let from = self.free_at.get().map_or(now, |free_at| free_at.max(now));
        self.free_at.set(Some(
            from + Duration::from_secs_f64(bytes as f64 / rate as f64),
        ));
        while let left = from.saturating_duration_since(Instant::now())
            && !left.is_zero()
        {
            self.check()?;
            std::thread::sleep(left.min(Duration::from_millis(SCRUB_STOP_SEEN_MS)));
        }
        self.check()
    }

    fn check(&self) -> io::Result<()> {
        match self.is_over() {
            true => Err(io::ErrorKind::Interrupted.into()),
            false => Ok(()),
        }
    }
}

/// Bytes at any place of a file.
pub trait ReadExactAt {
    /// Fills `buffer` with what is at `offset`.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
}

impl ReadExactAt for File {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        FileExt::read_exact_at(self, buffer, offset)
    }
}

/// A file that is read from the disk.
#[derive(Debug)]
pub struct Uncached<'p> {
    file: File,
    is_direct: Cell<bool>,
    buffer: RefCell<Vec<u8>>,
    pace: &'p Pace,
}

impl<'p> Uncached<'p> {
    /// Opens a file.
    pub fn open(path: &Path, pace: &'p Pace) -> io::Result<Uncached<'p>> {
        let direct = File::options()
            .read(true)
            .custom_flags(libc::O_DIRECT)
            .open(path);
        let (file, is_direct) = match direct {
            Ok(file) => (file, true),
            Err(error) if is_not_offered(&error) => (File::open(path)?, false),
            Err(error) => return Err(error),
        };
        Ok(Uncached {
            file,
            is_direct: Cell::new(is_direct),
            buffer: RefCell::default(),
            pace,
        })
    }

    /// What the file system says of it.
    pub fn metadata(&self) -> io::Result<Metadata> {
        self.file.metadata()
    }

    /// Gives the file's first `bytes` bytes to `each`, in parts of at most `part_bytes`.
    pub fn read_parts(
        &self,
        range: std::ops::Range<u64>,
        part_bytes: usize,
        mut each: impl FnMut(&[u8]),
    ) -> io::Result<()> {
        let mut part = vec![0; part_bytes];
        let mut at = range.start;
        while at < range.end {
            let len = (range.end - at).min(part_bytes as u64) as usize;
            self.read_exact_at(&mut part[..len], at)?;
            each(&part[..len]);
            at += len as u64;
        }
        Ok(())
    }

    fn read_direct(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        let skip = (offset % ALIGN as u64) as usize;
        let from = offset - skip as u64;
        let want = (skip + out.len()).next_multiple_of(ALIGN);
        let mut buffer = self.buffer.borrow_mut();
        if buffer.len() < want + ALIGN {
            buffer.resize(want + ALIGN, 0);
        }
        let start = buffer.as_ptr().align_offset(ALIGN);
        let aligned = buffer.get_mut(start..start + want);
        let aligned = aligned.ok_or(io::ErrorKind::OutOfMemory)?;
        let mut read = 0;
        while read < skip + out.len() {
            let more = self.file.read_at(&mut aligned[read..], from + read as u64);
            match more {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => read += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            // Only the end of the file leaves a part of a page.
            if read < skip + out.len() && !read.is_multiple_of(ALIGN) {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        out.copy_from_slice(&aligned[skip..skip + out.len()]);
        Ok(())
    }

    fn read_remembered(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        let range = offset..offset + out.len() as u64;
        let was_there = residency::in_memory(self.file.as_fd(), range);
        FileExt::read_exact_at(&self.file, out, offset)?;
        if was_there == Some(false) {
            forget(&self.file, offset, out.len() as u64);
        }
        Ok(())
    }
}

impl ReadExactAt for Uncached<'_> {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.pace.wait(buffer.len())?;
        if self.is_direct.get() {
            match self.read_direct(buffer, offset) {
                Err(error) if is_not_offered(&error) => {
                    rustix::fs::fcntl_setfl(&self.file, rustix::fs::OFlags::empty())?;
                    self.is_direct.set(false);
                }
                read => return read,
            }
        }
        self.read_remembered(buffer, offset)
    }
}

/// Has the kernel drop what it remembers of a range. Best effort: it only costs memory.
pub fn forget(file: &File, offset: u64, bytes: u64) {
    let _ = rustix::fs::fadvise(file, offset, NonZeroU64::new(bytes), Advice::DontNeed);
}

fn is_not_offered(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    matches!(code, Some(libc::EINVAL | libc::EOPNOTSUPP))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace() -> Pace {
        Pace::new(None, Arc::default())
    }

    #[test]
    fn any_range_is_read_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let bytes: Vec<u8> = (0..30_001u32).map(|n| (n * 7 % 251) as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        let pace = pace();
        for is_direct in [true, false] {
            let file = Uncached::open(&path, &pace).unwrap();
            if !is_direct {
                file.is_direct.set(false);
                rustix::fs::fcntl_setfl(&file.file, rustix::fs::OFlags::empty()).unwrap();
            }
            for offset in [0, 1, 4095, 4096, 4097, 20_000, 29_999] {
                for len in [0, 1, 2, 4096, 5000, 10_001] {
                    let mut found = vec![0; len];
                    let read = file.read_exact_at(&mut found, offset as u64);
                    match bytes.get(offset..offset + len) {
                        Some(expected) => assert!(read.is_ok() && found == expected, "{offset}"),
                        None => assert!(read.is_err(), "{offset}, {len}"),
                    }
                }
            }
            let mut all = Vec::new();
            let each = |part: &[u8]| all.extend_from_slice(part);
            file.read_parts(1..30_001, 7000, each).unwrap();
            assert!(all == bytes[1..]);
        }
    }

    /// What nobody uses is not in memory afterwards either, and what somebody uses still is.
    #[test]
    fn the_kernel_remembers_as_much_as_before() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let path = dir.path().join("file");
        let bytes = 1u64 << 20;
        std::fs::write(&path, vec![7; bytes as usize]).unwrap();
        let file = File::open(&path).unwrap();
        file.sync_all().unwrap();
        let in_memory = |range| residency::in_memory(file.as_fd(), range);
        forget(&file, 0, bytes);
        if in_memory(0..4096) != Some(false) {
            eprintln!("skipped: this file system has its files in memory");
            return;
        }
        // The first half is in use.
        residency::read_in(&file, 0..bytes / 2, &residency::nowhere().unwrap()).unwrap();
        forget(&file, bytes / 2, bytes / 2);
        let pace = pace();
        for is_direct in [true, false] {
            let read = Uncached::open(&path, &pace).unwrap();
            if !is_direct {
                rustix::fs::fcntl_setfl(&read.file, rustix::fs::OFlags::empty()).unwrap();
                read.is_direct.set(false);
                // Without reading ahead of what is asked for.
                rustix::fs::fadvise(&read.file, 0, None, Advice::Random).unwrap();
            }
            read.read_parts(0..bytes, 64 << 10, |_| ()).unwrap();
            assert_eq!(in_memory(0..bytes / 2), Some(true), "dropped");
            assert_eq!(in_memory(bytes - 4096..bytes), Some(false), "kept");
        }
    }

    #[test]
    fn a_pace_is_kept_and_ends() {
        let stop = Arc::new(AtomicBool::new(false));
        let pace = Pace::new(NonZeroU64::new(10_000_000), stop.clone());
        let began = Instant::now();
        for _ in 0..4 {
            pace.wait(1_000_000).unwrap();
        }
        // The first need not wait.
        assert!(began.elapsed() >= Duration::from_millis(300));
        assert_eq!((pace.take_bytes(), pace.take_bytes()), (4_000_000, 0));
        stop.store(true, Ordering::Relaxed);
        assert!(pace.wait(1 << 40).is_err() && pace.wait(1).is_err());
    }
}
