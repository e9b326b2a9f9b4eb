//! What an archive shows, and its id, which is its tag too. Both are the same for the same snapshot of the
//! same packs, whoever makes it and whatever was there before.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use gix::ObjectId;
use sha2::{Digest, Sha256};

use crate::manifest::id::EntryId;
use crate::manifest::want::{Revision, Shape, Want};
use crate::snapshot::produce::made_with;
use crate::snapshot::view::View;

/// Version of everything that decides an archive's bytes besides what its id is made from.
const ARCHIVE_FORMAT: u8 = 6;

/// A digest of parts, none of which can be taken for another.
#[derive(Default)]
struct Parts(Sha256);

impl Parts {
    fn add(&mut self, part: &[u8]) {
        self.0.update((part.len() as u64).to_le_bytes());
        self.0.update(part);
    }
}

/// A digest of all that a snapshot of these refs shows, whatever form its objects have: two of the same one
/// are equally up to date. What tags lead to follows from what they are, and HEAD's tree from its commit.
/// `target` is the commit of the ref that is wanted, if it is not among those that are shown.
pub(super) fn shown(
    want: &Want,
    refs: &[u8; 32],
    target: Option<ObjectId>,
    url: &str,
    level: i32,
) -> [u8; 32] {
    let mut parts = Parts::default();
    parts.add(&[ARCHIVE_FORMAT]);
    // Format, level, libraries.
    parts.add(&made_with(level));
    parts.add(url.as_bytes());
    parts.add(refs);
    if !want.is_default() {
        add_want(&mut parts, want);
        parts.add(target.as_ref().map_or(&[], |id| id.as_bytes()));
    }
    parts.0.finalize().into()
}

fn add_want(parts: &mut Parts, want: &Want) {
    let Shape::Full = want.shape();
    let (kind, name, id) = match want.revision() {
        Revision::Head => ("HEAD", None, None),
        Revision::Ref(name) => ("ref", Some(name), None),
        Revision::Commit(id) => ("commit", None, Some(id)),
        Revision::BranchAt(name, id) => ("branch at", Some(name), Some(id)),
    };
    parts.add(kind.as_bytes());
    parts.add(name.map_or(&[], |name| name.as_slice()));
    parts.add(id.map_or(&[], |id| id.as_bytes()));
}

/// The id of the archive that shows this: the same for the same bytes, another for any other. The packs
/// are below `mirror`: what they end with, a hash of all that is in them, stands for their content.
pub(super) fn archive_id(shown: &[u8; 32], view: &View, mirror: &Path) -> io::Result<EntryId> {
    let mut parts = Parts::default();
    parts.add(shown);
    parts.add(view.hash.to_string().as_bytes());
    for pack in &view.packs {
        parts.add(pack.path.as_bytes());
        parts.add(&pack.bytes.to_le_bytes());
        let mut trailer = vec![0; view.hash.len_in_bytes()];
        let at = pack.bytes.saturating_sub(trailer.len() as u64);
        File::open(mirror.join(&pack.path))?.read_exact_at(&mut trailer, at)?;
        parts.add(&trailer);
    }
    let mut id = [0; 16];
    id.copy_from_slice(&parts.0.finalize()[..16]);
    Ok(EntryId::from_bytes(id))
}
