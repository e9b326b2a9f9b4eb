//! The operating system, as the rest of the program sees it.
pub mod child;
pub mod clock;
pub mod disk;
pub mod fs;
pub mod growth;
pub mod heap;
pub mod net;
pub mod pipe;
pub mod residency;
pub mod say;
pub mod sched;
pub mod shortage;
pub mod signal;
pub mod uncached;

/// Whether this process may use io_uring: makes a small ring and drops it.
pub fn probe_uring() -> std::io::Result<()> {
    io_uring::IoUring::new(8).map(drop)
}
