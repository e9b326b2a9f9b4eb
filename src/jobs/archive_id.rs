//! The id of an archive, which is its tag too.

use std::time::{SystemTime, UNIX_EPOCH};

use sha2::{Digest, Sha256};

use crate::manifest::id::EntryId;
use crate::refs::Head;
use crate::snapshot::view::View;
use crate::tree::iconv::Identity;

/// Version of everything that decides an archive's bytes besides what its id is made from.
const ARCHIVE_FORMAT: u8 = 4;

/// The id of an archive: the same for the same bytes, another for any other.
pub(super) fn archive_id(
    view: &View,
    dates: impl Iterator<Item = Option<SystemTime>>,
    url: &str,
    level: i32,
    base: Option<EntryId>,
) -> EntryId {
    let mut hash = Sha256::new();
    let mut part = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    part(&[ARCHIVE_FORMAT]);
    part(&zstd_safe::version_number().to_le_bytes());
    part(Identity::of_system().as_bytes());
    part(&level.to_le_bytes());
    part(url.as_bytes());
    part(base.as_ref().map_or(&[], |id| id.as_str().as_bytes()));
    part(view.hash.to_string().as_bytes());
    match &view.head {
        Head::Symbolic(name) => part(name),
        Head::Detached(id) => part(id.as_bytes()),
    }
    part(&[u8::from(view.refs.fully_peeled)]);
    for r in &view.refs.refs {
        part(&r.name);
        part(r.target.as_bytes());
        part(r.peeled.as_ref().map_or(&[], |id| id.as_bytes()));
    }
    for file in view.packs.iter().chain(&view.loose) {
        part(file.path.as_bytes());
        part(&file.bytes.to_le_bytes());
    }
    // Those of packs, too: one that has rotted and the sound one in its place have the same name,
    // and loose objects, which are named by what is in them, can be compressed in many ways.
    for modified in dates {
        let since = modified.map(|at| at.duration_since(UNIX_EPOCH));
        let since = since.and_then(Result::ok).unwrap_or_default();
        part(&since.as_nanos().to_le_bytes());
    }
    let mut id = [0; 16];
    id.copy_from_slice(&hash.finalize()[..16]);
    EntryId::from_bytes(id)
}
