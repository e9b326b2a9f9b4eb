//! tarpon serves whole git repositories as one compressed archive.
pub mod limits;
pub mod mirror;
