//! tarpon serves whole git repositories as one compressed archive.
pub mod extent;
pub mod limits;
pub mod snapshot;
