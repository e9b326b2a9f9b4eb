//! What an archive shows, and its id, which is its tag too. Both are the same for the same snapshot of the
//! same packs, whoever makes it and whatever was there before.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use gix::ObjectId;
use gix::bstr::ByteSlice;
use sha2::{Digest, Sha256};

use crate::manifest::id::EntryId;
use crate::manifest::meta::VERSION;
use crate::manifest::want::{Revision, Shape, Want};
use crate::refs::{Head, MirrorRefs};
use crate::snapshot::checkout::{Checkout, Shows};
use crate::snapshot::produce::made_with;
use crate::snapshot::view::View;

/// Version of everything that decides an archive's bytes besides what its id is made from.
const ARCHIVE_FORMAT: u8 = 6;

/// What two servers must have in common for the one to take the other's snapshots; and behind it which refs they follow: what is
/// not followed is in no mirror that another one's begins with.
pub(super) fn kind(level: i32, follow: &[String]) -> String {
    let mut parts = Parts::default();
    parts.add(&[ARCHIVE_FORMAT]);
    parts.add(&VERSION.to_le_bytes());
    parts.add(&made_with(level));
    let mut followed = Parts::default();
    follow
        .iter()
        .for_each(|pattern| followed.add(pattern.as_bytes()));
    format!("{}{BETWEEN}{}", parts.short(), followed.short())
}

/// Between what snapshots are made with and which refs are followed.
const BETWEEN: char = '-';

/// Whether who makes snapshots of this kind follows the same refs as who makes those of the other.
pub(super) fn follows_as(kind: &str, other: &str) -> bool {
    let followed = |kind: &str| {
        kind.split_once(BETWEEN)
            .map(|(_, followed)| followed.to_owned())
    };
    followed(kind).is_some() && followed(kind) == followed(other)
}

/// A digest of parts, none of which can be taken for another.
#[derive(Default)]
struct Parts(Sha256);

impl Parts {
    fn add(&mut self, part: &[u8]) {
        self.0.update((part.len() as u64).to_le_bytes());
        self.0.update(part);
    }

    /// A few characters that stand for all of them.
    fn short(self) -> String {
        let digest: [u8; 32] = self.0.finalize().into();
        digest[..8]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }
}

/// A digest of all that a snapshot of these refs shows, whatever form its objects have: two of the same one
/// are equally up to date. What tags lead to follows from what they are, and HEAD's tree from its commit.
/// `target` is the commit of the ref that is wanted, if it is not among those that are shown.
pub(super) fn shown(
    want: &Want,
    (refs, digest): (&MirrorRefs, &[u8; 32]),
    target: Option<ObjectId>,
    url: &str,
    level: i32,
) -> [u8; 32] {
    let mut parts = Parts::default();
    parts.add(&[ARCHIVE_FORMAT]);
    // Format, level, libraries.
    parts.add(&made_with(level));
    parts.add(url.as_bytes());
    match want.shape() {
        Shape::Full => parts.add(digest),
        Shape::Tip => add_tip(&mut parts, want, refs, target),
    }
    if !want.is_default() {
        add_want(&mut parts, want);
        parts.add(target.as_ref().map_or(&[], |id| id.as_bytes()));
    }
    parts.0.finalize().into()
}

fn add_want(parts: &mut Parts, want: &Want) {
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

/// Of other refs one commit shows nothing, but for the tags of what it has, of which those that lead to others
/// than itself hardly ever move.
fn add_tip(parts: &mut Parts, want: &Want, refs: &MirrorRefs, target: Option<ObjectId>) {
    let name = want.followed();
    let peeled = name.and_then(|name| refs.get(name)?.peeled);
    // There is none where the ref is gone.
    let Ok(checkout) = Checkout::of(want, refs, peeled.or(target)) else {
        return;
    };
    parts.add(b"depth 1");
    match &checkout.head {
        Head::Symbolic(name) => parts.add(name),
        Head::Detached(id) => parts.add(id.as_bytes()),
    }
    let (commit, branch) = (checkout.commit, &checkout.origin_head);
    parts.add(commit.as_ref().map_or(&[], |id| id.as_bytes()));
    parts.add(branch.as_ref().map_or(&[], |name| name.as_slice()));
    if let Shows::Tip { tags: true, .. } = checkout.shows {
        let all = refs.refs.iter();
        let tags = all.filter(|one| one.name.starts_with_str("refs/tags/"));
        for tag in tags.filter(|tag| Some(tag.peeled.unwrap_or(tag.target)) == commit) {
            parts.add(&tag.name);
            parts.add(tag.target.as_bytes());
        }
    }
}

/// What tells apart builds whose packs are made for them, which can be others each time: where git makes them its
/// threads have their turns as they come. A count would be the same on two servers.
pub(super) fn salt() -> io::Result<[u8; 16]> {
    let mut salt = [0; 16];
    let mut at = 0;
    while at < salt.len() {
        let flags = rustix::rand::GetRandomFlags::empty();
        at += rustix::rand::getrandom(&mut salt[at..], flags)?;
    }
    Ok(salt)
}

/// The id of the archive that shows this: the same for the same bytes, another for any other. The packs
/// are below `mirror`: what they end with, a hash of all that is in them, stands for their content. An archive
/// whose own pack is made of them has `salt`.
pub(super) fn archive_id(
    shown: &[u8; 32],
    view: &View,
    mirror: &Path,
    salt: Option<[u8; 16]>,
) -> io::Result<EntryId> {
    let mut parts = Parts::default();
    parts.add(shown);
    if let Some(salt) = salt {
        parts.add(&salt);
    }
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
