//! tarpon serves whole git repositories as one compressed archive.
pub mod config;
pub mod limits;
pub mod log;
pub mod metrics;
