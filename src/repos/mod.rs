//! Repositories, and what there is of each.

pub mod registry;
