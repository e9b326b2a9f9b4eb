//! One file for each endpoint: what is asked, and what is answered.

mod admin;
mod bundle;
mod ci;
mod core;
mod early;
mod ensure_refs;
mod freshness;
mod gate;
mod git_protocol;
mod headers;
mod lent;
mod line_ends;
mod parts;
mod pass;
mod permission;
mod preamble;
mod refused;
mod service;
mod snapshot;
mod sought;
mod status;
mod straight;
mod webhook;
mod young;

pub(crate) use core::{Admitted, Core, CoreContext};
