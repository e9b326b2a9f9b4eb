//! Where finished snapshots are kept: what an entry is on disk, and which entries stay.
//!
//! What is known of an entry, and its metadata file, is [`manifest`](crate::manifest)'s.
//!
//! - [`staging`]: an entry in the making, until it is published.
//! - [`dir`]: the state directory; finding and removing entries.
//! - [`files`]: their steps on a file system, and what can go wrong.
//! - [`early`]: which answers began before their archives, for the next process.
//! - `ledger`: what takes how much of the disk, each file once.
//! - [`evict`]: what leaves when there are too many bytes, as a pure function.
//! - [`admin`]: what is said of that to who runs it.
//! - [`remote`]: an object store that several servers share.
//!
//! Everything here is synchronous and touches the file system: it runs on background threads,
//! never on a network core.

pub mod admin;
pub(crate) mod check;
pub mod dir;
pub mod early;
pub mod evict;
pub mod files;
pub(crate) mod ledger;
pub mod remote;
pub mod staging;
pub(crate) mod usage;
