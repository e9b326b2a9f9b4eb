//! The pinned view of a mirror: its refs as they were at one moment, and hard links to the
//! packs that hold their objects. It stays readable whatever happens to the mirror afterwards.
//!
//! Pinning takes milliseconds whatever the size: refs are read, packs are listed, and linked while
//! the mirror's lock keeps them; nothing is copied, and of objects only tags are read that the refs do not
//! peel. The refs are read *before* the packs are listed, so every object that a ref leads to is in a pack
//! that is seen, whatever a fetch adds meanwhile.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gix::ObjectId;
use gix::bstr::{BString, ByteSlice};
use gix::objs::FindExt;
use gix::odb::Header;

use super::checkout::Checkout;
use crate::io::shortage::Detail;
use crate::limits::{COMMIT_BYTES_MAX, TAG_DEPTH_MAX};
use crate::manifest::record::Linked;
use crate::refs::{Follow, MirrorRefs, Recent, RefsError};

/// What pinning could not do.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    #[error("cannot {op} {}: {source}", .path.display())]
    Io {
        op: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error(transparent)]
    Refs(#[from] RefsError),
    #[error("mirror {}: {reason}", .path.display())]
    Unusable { path: PathBuf, reason: String },
    /// What is needed of them has to be packed first: the same objects can be loose files of many forms, and
    /// what nobody needs does not belong into an archive.
    #[error("mirror {} holds loose objects, or cruft packs", .path.display())]
    Loose { path: PathBuf },
    /// It has to be made first: whether git has written it depends on its version.
    #[error("{} packs have no reverse index", .packs.len())]
    NoReverse { packs: Vec<PathBuf> },
    #[error("tag {name} cannot be read: {detail}; run git fsck on the mirror")]
    Tag {
        name: BString,
        #[source]
        detail: Detail,
    },
}

pub(super) fn io_error<'a>(
    op: &'static str,
    path: &'a Path,
) -> impl Fn(io::Error) -> PinError + 'a {
    move |source| PinError::Io {
        op,
        path: path.to_owned(),
        source,
    }
}

/// Takes note of a file of the mirror, and where it belongs in the entry's directory, or links it
/// there; returns its length.
pub type LinkFn<'a> = dyn FnMut(&Path, &str) -> io::Result<u64> + 'a;

/// Whether none of the loose objects and cruft packs (by the names of their `.pack`) that there are beside
/// its other packs is needed for these refs.
pub type NeedsNone<'a> = dyn Fn(&MirrorRefs, &[ObjectId], &[String]) -> bool + 'a;

/// Whether a mirror is taken as it is, because what should be done to it first cannot be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AsItIs {
    Yes,
    No,
}

/// A pinned view.
#[derive(Debug, Clone)]
pub struct View {
    /// Kind of the repository's object ids.
    pub hash: gix::hash::Kind,
    /// What is checked out: what a plain clone gives, unless it was made something else.
    pub checkout: Checkout,
    /// Heads and tags.
    pub refs: MirrorRefs,
    /// Packs with their companions, in the order they are archived.
    pub packs: Vec<Linked>,
}

/// Looks at `mirror`, a bare repository, and tells `link` of the files that are needed. They have
/// to stay until they are linked. `recent` may have its refs. Nothing that is found depends on how the mirror came to have it.
///
/// # Errors
/// [`PinError::Loose`] and [`PinError::NoReverse`] say what has to be done to the mirror first; the
/// latter not if it is taken `as_it_is`: then reverse indices that are missing are left out.
pub fn pin(
    mirror: &Path,
    recent: &Recent,
    as_it_is: AsItIs,
    needs_none: &NeedsNone<'_>,
    link: &mut LinkFn<'_>,
) -> Result<View, PinError> {
    let hash = object_hash(mirror)?;
    let mut refs = recent.read(mirror, &Follow::default())?;
    let objects = mirror.join("objects");
    // In this order: an object that somebody else packs meanwhile is a loose file that is seen here, or in
    // a pack that is listed after it.
    let loose = list_loose(&objects)?;
    let names: BTreeSet<String> = list(&objects.join("pack"))?.into_iter().collect();
    if !needs_none(&refs, &loose, &cruft(&names)) {
        return Err(PinError::Loose {
            path: mirror.to_owned(),
        });
    }
    let mut packs = Vec::new();
    link_packs(mirror, &names, as_it_is, &mut packs, link)?;
    packs.sort_by(|a, b| a.path.cmp(&b.path));
    peel(&mut refs, &objects, hash)?;
    Ok(View {
        hash,
        checkout: Checkout::of_clone(&refs),
        refs,
        packs,
    })
}

/// The packs of a repository, each of which is handed to `link`; nothing is looked at besides them.
pub fn packs_of(repository: &Path, link: &mut LinkFn<'_>) -> Result<Vec<Linked>, PinError> {
    let names: BTreeSet<String> = list(&repository.join("objects/pack"))?
        .into_iter()
        .collect();
    let mut packs = Vec::new();
    link_packs(repository, &names, AsItIs::Yes, &mut packs, link)?;
    packs.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(packs)
}

/// Looks what annotated tags lead to where the mirror's refs do not say so, as for refs that are loose
/// files.
fn peel(refs: &mut MirrorRefs, objects: &Path, hash: gix::hash::Kind) -> Result<(), PinError> {
    if refs.fully_peeled {
        return Ok(());
    }
    let failed = |name: &BString, detail| PinError::Tag {
        name: name.clone(),
        detail,
    };
    let mut odb = None;
    let mut buffer = Vec::new();
    for tag in Arc::make_mut(&mut refs.refs) {
        if tag.peeled.is_some() || !tag.name.starts_with(b"refs/tags/") {
            continue;
        }
        let odb = match &mut odb {
            Some(odb) => odb,
            None => {
                let options = gix::odb::store::init::Options::default();
                let opened = gix::odb::at_opts(objects, hash, [], options);
                odb.insert(opened.map_err(|e| failed(&tag.name, Detail::of(&e)))?)
            }
        };
        let mut target = tag.target;
        for depth in 0.. {
            if depth > TAG_DEPTH_MAX {
                return Err(failed(&tag.name, "it leads through too many tags".into()));
            }
            let header = odb.try_header(&target);
            let header = header.map_err(|e| failed(&tag.name, Detail::of(&e)))?;
            // git takes one that leads nowhere for what it is, too.
            let Some(header) = header.filter(|header| header.kind() == gix::objs::Kind::Tag) else {
                break;
            };
            if header.size() > COMMIT_BYTES_MAX {
                return Err(failed(&tag.name, "it is too large".into()));
            }
            let found = odb.find_tag_iter(&target, &mut buffer);
            let found = found.map_err(|e| failed(&tag.name, Detail::of(&e)))?;
            let next = found.target_id();
            target = next.map_err(|e| failed(&tag.name, Detail::of(&e)))?;
            tag.peeled = Some(target);
        }
    }
    refs.fully_peeled = true;
    Ok(())
}

/// The kind of the mirror's object ids, if it is one that can be used.
pub(crate) fn object_hash(mirror: &Path) -> Result<gix::hash::Kind, PinError> {
    let path = mirror.join("config");
    let unusable = |reason: String| PinError::Unusable {
        path: mirror.to_owned(),
        reason,
    };
    let bytes = fs::read(&path).map_err(io_error("read", &path))?;
    let config = gix::config::File::try_from(bytes.as_bstr())
        .map_err(|e| unusable(format!("its config cannot be read: {e}")))?;
    if config
        .string("extensions.refStorage")
        .is_some_and(|v| v.as_slice() != b"files")
    {
        return Err(unusable("refs in reftable format are not supported; migrate it with 'git refs migrate --ref-format=files'".into()));
    }
    if config.string("extensions.partialClone").is_some() {
        return Err(unusable("it is a partial clone; clone it whole".into()));
    }
    for (file, what) in [
        ("shallow", "is shallow"),
        ("objects/info/alternates", "borrows objects"),
    ] {
        if mirror.join(file).exists() {
            let reason =
                format!("it {what} (it has the file {file}); put a whole clone in its place");
            return Err(unusable(reason));
        }
    }
    match config.string("extensions.objectFormat") {
        None => Ok(gix::hash::Kind::Sha1),
        Some(name) if name.eq_ignore_ascii_case(b"sha1") => Ok(gix::hash::Kind::Sha1),
        Some(name) if name.eq_ignore_ascii_case(b"sha256") => Ok(gix::hash::Kind::Sha256),
        Some(name) => Err(unusable(format!("object format '{name}' is unknown"))),
    }
}

/// The packs in which somebody's git has put aside what no ref reached.
fn cruft(names: &BTreeSet<String>) -> Vec<String> {
    let stems = names.iter().filter_map(|name| name.strip_suffix(".mtimes"));
    let packs = stems.map(|stem| format!("{stem}.pack"));
    packs.filter(|pack| names.contains(pack)).collect()
}

fn link_packs(
    mirror: &Path,
    names: &BTreeSet<String>,
    as_it_is: AsItIs,
    packs: &mut Vec<Linked>,
    link: &mut LinkFn<'_>,
) -> Result<(), PinError> {
    let directory = mirror.join("objects/pack");
    let mut without = Vec::new();
    for name in names {
        let Some(stem) = name.strip_suffix(".pack") else {
            continue;
        };
        // A pack without its index is still being written, and one of these names is about to get
        // another: git repack makes it of objects that are in packs which it has not removed yet.
        if !names.contains(&format!("{stem}.idx")) || stem.starts_with(".tmp-") {
            continue;
        }
        if !stem.starts_with("pack-") {
            return Err(PinError::Unusable {
                path: mirror.to_owned(),
                reason: format!("its pack {name} has no name that git gives; run git repack -ad"),
            });
        }
        if names.contains(&format!("{stem}.promisor")) {
            return Err(PinError::Unusable {
                path: mirror.to_owned(),
                reason: format!("its pack {name} is that of a partial clone; clone it whole"),
            });
        }
        if names.contains(&format!("{stem}.mtimes")) {
            continue;
        }
        if as_it_is == AsItIs::No && !names.contains(&format!("{stem}.rev")) {
            without.push(directory.join(name));
            continue;
        }
        for extension in ["pack", "idx", "rev"] {
            let name = format!("{stem}.{extension}");
            let relative = format!("objects/pack/{name}");
            if names.contains(&name) {
                let source = directory.join(&name);
                let bytes = link(&source, &relative).map_err(io_error("link", &source))?;
                packs.push(Linked {
                    path: relative,
                    bytes,
                    whole: None,
                });
            }
        }
    }
    match without.is_empty() {
        true => Ok(()),
        false => Err(PinError::NoReverse { packs: without }),
    }
}

/// All loose objects. A power cut leaves empty files; git looks for their objects elsewhere.
fn list_loose(objects: &Path) -> Result<Vec<ObjectId>, PinError> {
    let is_hex = |s: &str| {
        s.bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    let mut loose = Vec::new();
    for fan in list(objects)?.iter().filter(|n| n.len() == 2 && is_hex(n)) {
        let directory = objects.join(fan);
        let names = list(&directory)?;
        for name in names.iter() {
            let Ok(id) = ObjectId::from_hex(format!("{fan}{name}").as_bytes()) else {
                continue;
            };
            let path = directory.join(name);
            match fs::metadata(&path) {
                Ok(found) if found.len() > 0 => loose.push(id),
                Ok(_) => {}
                // Packed meanwhile.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(io_error("look at", &path)(e)),
            }
        }
    }
    Ok(loose)
}

/// Names in a directory that are valid UTF-8 (all that git makes are); empty if it is missing.
pub(super) fn list(directory: &Path) -> Result<Vec<String>, PinError> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(io_error("list", directory)(e)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(io_error("list", directory))?;
        names.extend(entry.file_name().into_string().ok());
    }
    Ok(names)
}

/// Makes `directory`, which holds the view's links, a bare repository of its own, so that the
/// objects can be read from it.
pub fn make_repository(view: &View, directory: &Path) -> Result<(), PinError> {
    let write = |name: &str, text: &str| {
        let path = directory.join(name);
        fs::write(&path, text).map_err(io_error("write", &path))
    };
    for name in ["objects/pack", "refs"] {
        let path = directory.join(name);
        fs::create_dir_all(&path).map_err(io_error("create", &path))?;
    }
    // The reader names all objects by id; HEAD and refs only have to be there.
    write("HEAD", "ref: refs/heads/unused\n")?;
    write(
        "config",
        match view.hash {
            gix::hash::Kind::Sha256 => {
                "[core]\n\trepositoryformatversion = 1\n\tbare = true\n[extensions]\n\tobjectformat = sha256\n"
            }
            _ => "[core]\n\trepositoryformatversion = 0\n\tbare = true\n",
        },
    )
}
