//! The operating system, as the rest of the program sees it.
pub mod net;
pub mod residency;
