//! Whether bytes of a file are in the page cache, asked without waiting for the disk; and
//! bringing them there, which waits.

#![allow(unsafe_code)] // One system call that has no safe wrapper yet.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};

/// `struct cachestat_range` of `linux/mman.h`.
#[repr(C)]
struct CacheRange {
    offset: u64,
    len: u64,
}

/// `struct cachestat` of `linux/mman.h`; counts of pages.
#[repr(C)]
#[derive(Default)]
struct CacheCounts {
    cached: u64,
    dirty: u64,
    writeback: u64,
    evicted: u64,
    recently_evicted: u64,
}

/// The call's number, the same on every architecture.
const SYS_CACHESTAT: libc::c_long = 451;

/// Whether all pages of a file's range are in the page cache; `None` where the kernel cannot
/// tell (before Linux 6.5, or forbidden).
pub(crate) fn in_memory(file: BorrowedFd<'_>, range: Range<u64>) -> Option<bool> {
    if range.is_empty() {
        return Some(true);
    }
    let page_bytes = rustix::param::page_size() as u64;
    let asked = CacheRange {
        offset: range.start,
        len: range.end - range.start,
    };
    let mut counts = CacheCounts::default();
    // SAFETY: the descriptor is open for the call; both pointers are to live values laid out as
    // the kernel's structures; the call writes only to `counts`.
    let result = unsafe {
        libc::syscall(
            SYS_CACHESTAT,
            file.as_raw_fd() as libc::c_uint,
            &raw const asked,
            &raw mut counts,
            0 as libc::c_uint,
        )
    };
    let pages = (range.end - 1) / page_bytes - range.start / page_bytes + 1;
    (result == 0).then_some(counts.cached >= pages)
}

/// Where [`read_in`] sends what it reads.
pub(crate) fn nowhere() -> io::Result<File> {
    File::options().write(true).open("/dev/null")
}

/// Reads a range of `file` into the page cache, and waits for it, by sending it `nowhere`: no
/// byte is copied. The kernel reads ahead as for any reader in sequence and so takes large
/// folios; `MADV_POPULATE_READ` and `POSIX_FADV_WILLNEED` take single pages, which cost every
/// later `sendfile` of them a tenth of its time (perf/record/2026-11-24-hits).
pub(crate) fn read_in(file: &File, range: Range<u64>, nowhere: &File) -> io::Result<()> {
    let mut at = range.start;
    while at < range.end {
        let want = usize::try_from(range.end - at).unwrap_or(usize::MAX);
        if rustix::fs::sendfile(nowhere, file, Some(&mut at), want)? == 0 {
            // The file is shorter; whoever sends it will say so.
            break;
        }
    }
    Ok(())
}
