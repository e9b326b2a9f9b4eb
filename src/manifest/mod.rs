//! What a snapshot is: its id, the extents it is made of, the files that it is linked from, and
//! what of it can be used again. Pure: nothing here touches a file.
//!
//! - [`id`]: the id of a snapshot, which is its ETag.
//! - [`record`]: linked files, and the frames of jobs and of the index.
//! - [`outline`]: what the next snapshot can take over of them without looking at its files.
//! - [`meta`]: all that is known of an entry, what must hold of it, and its files as codecs.
//! - [`parts`]: what it is to whoever puts it together himself.
//! - [`want`]: what somebody wants of a repository: a revision in a shape.
//! - [`preamble`]: what stands before an archive that has to be waited for.
//! - [`path`]: paths that stay below the directory they are joined to.

pub mod id;
pub mod meta;
pub mod outline;
pub mod parts;
pub(crate) mod path;
pub(crate) mod preamble;
pub mod record;
pub mod want;
