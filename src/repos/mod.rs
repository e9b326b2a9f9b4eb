//! Repositories, and what there is of each.
//!
//! - [`catalog`]: all that there is, with the state directory it is in.
//! - [`registry`]: all of them by name, sharded, one short lock a shard.
//! - [`repo`]: what can be served of one, what is built, what is known of its mirror and upstream.
//! - [`early_notes`]: which answers began before their archives.
//! - [`wants`]: what there is for each want.
//! - [`served`]: what can be served, and of which refs.
//! - [`retired`]: archives that were replaced.
//! - [`upstream`]: what the last comparisons have shown.
//! - [`builds`]: the builds that run, and those that failed.
//! - [`head`]: the HEAD of a mirror.
//! - [`error`]: why there is nothing to answer with, as the client hears it.

mod annexed;
pub(crate) mod builds;
pub(crate) mod catalog;
mod early;
mod early_notes;
pub(crate) mod error;
pub(crate) mod head;
mod locks;
mod marks;
pub(crate) mod registry;
pub(crate) mod repo;
pub(crate) mod retired;
mod served;
mod upstream;
mod wants;

#[cfg(test)]
mod testing;
