//! Whether bytes of a file are in the page cache, asked without waiting for the disk.

#![allow(unsafe_code)] // One system call that has no safe wrapper yet.

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
pub fn in_memory(file: BorrowedFd<'_>, range: Range<u64>) -> Option<bool> {
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
