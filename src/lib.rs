//! tarpon serves whole git repositories as one compressed archive.
pub mod cache;
pub mod config;
pub mod extent;
pub mod faults;
pub mod http;
pub mod io;
pub mod limits;
pub mod log;
pub mod metrics;
pub mod mirror;
pub mod refs;
pub mod serve;
pub mod server;
pub mod snapshot;
