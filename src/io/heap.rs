//! How the C library's allocator keeps memory that was given back.
//!
//! Frames are of some 100 KiB, made by encoders and dropped by whoever sent the last byte of them.
//! glibc takes the first such drop as a reason to serve all of that size from its heaps
//! (mallopt(3), "dynamic mmap threshold"), where one that lives long keeps everything below it: a
//! build of 788,000 files held 205 MB of which 35 were in use.

#![allow(unsafe_code)] // One function of the C library without a safe wrapper.

use crate::limits::{HEAP_TRIM_BYTES, MAPPED_FROM_BYTES};

/// Has large memory go back to the kernel when it is dropped. To be called before threads are
/// started. Other allocators than glibc's are left as they are.
pub(crate) fn give_back_large() {
    #[cfg(target_env = "gnu")]
    for (option, bytes) in [
        (libc::M_MMAP_THRESHOLD, MAPPED_FROM_BYTES),
        (libc::M_TRIM_THRESHOLD, HEAP_TRIM_BYTES),
    ] {
        // SAFETY: takes two integers; what it refuses it leaves as it was.
        unsafe { libc::mallopt(option, bytes) };
    }
}
