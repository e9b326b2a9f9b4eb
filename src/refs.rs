//! Reads the refs of a bare mirror: `packed-refs`, loose files and HEAD. Synchronous; a
//! builder thread calls it under the repository's read lock (50,000 packed refs: 15 ms with
//! little optimisation).
//!
//! Loose files are read before `packed-refs`. `git pack-refs` writes the packed file first
//! and removes the loose one then, so in this order no ref can be missed while it runs.

mod error;
mod file;
mod list;
mod loose;
mod name;
mod packed;
mod read;
mod recent;

pub use error::RefsError;
pub use list::{Follow, Head, MirrorRefs, Ref};
pub(crate) use loose::{Loose, read_head, read_loose, read_loose_at, read_loose_within};
pub(crate) use name::{Way, full_id, in_the_way, is_ref_name};
pub(crate) use packed::{each_packed, read_packed_where};
pub use read::read;
pub use recent::Recent;
pub(crate) use recent::{Listed, Stamp};
