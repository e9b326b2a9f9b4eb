//! The operating system, as the rest of the program sees it.
pub mod address;
pub(crate) mod certificate;
pub mod child;
pub(crate) mod clock;
pub mod disk;
pub mod fs;
pub(crate) mod gather;
pub(crate) mod growth;
pub(crate) mod heap;
pub(crate) mod lasts;
pub(crate) mod net;
pub(crate) mod outlet;
pub(crate) mod pipe;
pub(crate) mod regular;
pub(crate) mod residency;
pub mod say;
pub(crate) mod sched;
pub(crate) mod shortage;
pub mod signal;
pub mod uncached;
pub(crate) mod unkept;

/// Whether this process may use io_uring: makes a small ring and drops it.
pub fn probe_uring() -> std::io::Result<()> {
    io_uring::IoUring::new(8).map(drop)
}
