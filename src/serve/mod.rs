//! The only orchestrator: answers requests from what there is, or has it built.
//!
//! A request for a snapshot finds its repository a hit, a running build to follow, or nothing;
//! then it starts the one build and follows that. All three read the same [`archive::Archive`].
//!
//! Bundles, `ensure-refs` and git's protocol are answered by the background plane, which runs
//! `git`: the core sends it a command and sends on what comes back.

pub mod archive;
pub mod background;
mod builder;
mod bundle;
mod bundle_cache;
mod core;
mod end;
mod ensure_refs;
mod flights;
mod freshness;
mod git_protocol;
pub mod heal;
mod pipe;
pub mod prefetch;
mod reader;
pub mod registry;
mod resident;
pub mod scrub;
pub mod shared;
mod snapshot;
pub mod spool;
mod upload_request;
mod upload_turns;

pub use core::Core;
