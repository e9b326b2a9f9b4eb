//! The locks of a repository's mirror.

use tokio::sync::{Mutex, RwLock};

/// What keeps a mirror as it is. Who needs several takes them in this order.
#[derive(Debug, Default)]
pub(crate) struct MirrorLocks {
    /// Held while a build packs loose objects, and while what failed fetches left is removed: that
    /// looks the same as a pack in the making.
    pub packing: Mutex<()>,
    /// Read while a fetch is between its first look at the mirror and its refs: it may take objects for there
    /// that no ref leads to. Read while something comes into the annex, or a build takes what is there. Written while
    /// such go.
    pub arrivals: RwLock<()>,
    /// Keeps packs where they are: read while they are listed and linked, and for as long as a build reads
    /// them in the mirror, at the pace of its clients; written while packs go. Writers do not queue
    /// ([`crate::mirror`]).
    pub packs: RwLock<()>,
    /// Keeps refs as they are: read while they are read, written while they move. Held for milliseconds.
    pub refs: RwLock<()>,
}
