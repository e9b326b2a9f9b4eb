//! Who may: what a request shows of who sends it, and what its upstream says of that.
//!
//! Nothing here answers anybody, and nothing of it stands in a log. `api`'s `gate` decides.

pub mod credential;
pub mod discovery;
pub mod identity;
pub mod issuers;
pub mod jwks;
pub mod jwt;
pub(crate) mod own;
pub(crate) mod packets;
pub(crate) mod permissions;
pub(crate) mod question;
pub(crate) mod redirect;
pub(crate) mod shown;
pub mod tokens;
pub(crate) mod verdicts;
pub(crate) mod way;
