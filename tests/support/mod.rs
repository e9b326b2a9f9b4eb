//! What the end-to-end tests, the benches and the performance harness share: repositories
//! made from a seed, the server as a child process, an HTTP client, and comparisons.
//!
//! Environment variables of a test run:
//! - `TARPON_TEST_IO_DRIVER`: `uring`, `epoll` or `auto` for every server of the run, or
//!   `seccomp`: the server chooses, and io_uring is refused to it as containers do.
//! - `TARPON_TEST_BINARY`: another `tarpon` than the one just built.
//! - `TARPON_TEST_SEED`: repeats a run of the crash test.
//!
//! Nothing here depends on the test framework; take it in with `#[path]`. The path of the
//! `tarpon` binary is always given by the caller.
#![allow(dead_code)] // Every crate that includes this uses another part of it.

pub mod bench;
pub mod certificates;
pub mod client;
pub mod compare;
pub mod front;
pub mod git;
pub mod issuer;
pub mod lab;
pub mod metrics;
pub mod parity;
pub mod processes;
pub mod relay;
pub mod repos;
pub mod restore;
pub mod rng;
pub mod server;
pub mod steps;
pub mod tokens;
pub mod upstream;
pub mod wait;
