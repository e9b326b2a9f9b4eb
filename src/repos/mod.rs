//! Repositories, and what there is of each.
//!
//! - [`registry`]: all of them by name, sharded, one short lock a shard.
//! - [`repo`]: what can be served of one, what is built, what is known of its mirror and upstream.
//! - [`builds`]: the builds that run, and those that failed.
//! - [`head`]: the HEAD of a mirror.
//! - [`error`]: why there is nothing to answer with, as the client hears it.

pub mod builds;
pub mod error;
pub mod head;
pub mod registry;
pub mod repo;

#[cfg(test)]
mod testing;
