//! tarpon serves whole git repositories as one compressed archive.
pub mod cache;
pub mod extent;
pub mod limits;
