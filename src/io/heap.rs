//! How the C library's allocator keeps memory that was given back.
//!
//! Frames are of some 100 KiB, made by encoders and dropped by whoever sent the last byte of them.
//! glibc takes the first such drop as a reason to serve all of that size from its heaps
//! (mallopt(3), "dynamic mmap threshold"), where one that lives long keeps everything below it: a
//! build of 788,000 files held 205 MB of which 35 were in use.

//!
//! Each thread is given one of up to eight heaps for each processor, and a build has threads of its own:
//! what one build needs at most would be kept as often as there are heaps (200 refreshes of Linux: 129 MB
//! instead of 30). One for each processor is enough for threads not to wait for each other.

#![allow(unsafe_code)] // Two functions of the C library without a safe wrapper.

use crate::limits::{HEAP_TRIM_BYTES, MAPPED_FROM_BYTES};

/// Has large memory go back to the kernel when it is dropped. To be called before threads are
/// started. Other allocators than glibc's are left as they are.
pub(crate) fn give_back_large() {
    #[cfg(target_env = "gnu")]
    for (option, value) in [
        (libc::M_MMAP_THRESHOLD, MAPPED_FROM_BYTES),
        (libc::M_TRIM_THRESHOLD, HEAP_TRIM_BYTES),
        (libc::M_ARENA_MAX, heaps()),
    ] {
        // SAFETY: takes two integers; what it refuses it leaves as it was.
        unsafe { libc::mallopt(option, value) };
    }
}

/// Gives back what the heaps hold and nobody uses: what lives long among what does not keeps it there
/// (200 refreshes of Linux: 44 MB, of which 25 are in use). Takes some milliseconds, in which other threads
/// wait that want memory of the same heap: not for cores or often.
pub(crate) fn give_back_unused() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes an integer and looks at nothing but the allocator's own memory, under its locks.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(target_env = "gnu")]
fn heaps() -> i32 {
    std::thread::available_parallelism().map_or(1, |processors| processors.get() as i32)
}
