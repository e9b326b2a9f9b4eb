//! tarpon serves whole git repositories as one compressed archive.
pub mod http;
pub mod limits;
