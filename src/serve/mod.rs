//! The only orchestrator: answers requests from what there is, or has it built.
//!
//! A request for a snapshot finds its repository a hit, a running build to follow, or nothing;
//! then it starts the one build and follows that. All three read the same [`archive::Archive`].

pub mod archive;
pub mod background;
mod builder;
mod core;
pub mod prefetch;
mod reader;
pub mod registry;
pub mod shared;
mod snapshot;

pub use core::Core;
