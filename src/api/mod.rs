//! One file for each endpoint: what is asked, and what is answered.

mod bundle;
mod core;
mod ensure_refs;
mod git_protocol;
mod headers;
mod service;
mod snapshot;

pub(crate) use core::{Admitted, Core, CoreContext};
