//! What the end-to-end tests, the benches and the performance harness share: repositories
//! made from a seed, the server as a child process, an HTTP client, and comparisons.
//!
//! Nothing here depends on the test framework; take it in with `#[path]`. The path of the
//! `tarpon` binary is always given by the caller.
#![allow(dead_code)] // Every crate that includes this uses another part of it.

pub mod client;
pub mod compare;
pub mod git;
pub mod lab;
pub mod metrics;
pub mod parity;
pub mod repos;
pub mod rng;
pub mod server;
pub mod wait;
