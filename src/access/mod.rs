//! Who may: what a request shows of who sends it.
//!
//! Nothing here answers anybody, and nothing of it stands in a log. `api`'s `gate` decides.

pub mod credential;
pub mod tokens;
