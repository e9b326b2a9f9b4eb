//! `--verify` of a working copy. An earlier job could write its `.git`: so all packs are looked at that git will find
//! objects by, and what it finds them by besides these goes.

use std::fs;
use std::io;
use std::path::Path;

use gix::ObjectId;

use super::plan::{Before, Plan, Seen};
use super::refusal::not_taken;
use crate::restore::dates::Dates;
use crate::restore::error::{RestoreError, failed};
use crate::restore::link::Link;
use crate::restore::looked::{Alone, Looked};
use crate::restore::names::Names;
use crate::restore::proof;
use crate::restore::run::{self, Room};
use crate::restore::staging::Staging;
use crate::restore::steps;

const PACKS: &str = "objects/pack";
const INFO: &str = "objects/info";
/// What git keeps beside objects to find them and their history sooner. It believes them, and makes them anew.
const CACHES: [&str; 2] = ["objects/info/commit-graph", "objects/info/commit-graphs"];
/// The same among packs: what begins so, and what ends so.
const PACKS_CACHE: &str = "multi-pack-index";
const PACK_CACHES: [&str; 2] = ["bitmap", "mtimes"];
const ORDER: &str = "rev";

/// Proves all packs of a working copy and what `commit` makes files of, before anything of it is changed.
pub(super) fn prove(
    (link, dates): (Link<'_>, Dates),
    before: &Before,
    commit: Option<ObjectId>,
) -> Result<Looked, RestoreError> {
    let directory = &before.copy.directory;
    let unseen: Names = others(before, &["idx"])?
        .into_iter()
        .map(|name| format!(".git/{PACKS}/{name}"))
        .collect();
    if !unseen.is_empty() {
        return Err(not_taken(
            directory,
            (
                format!("not looked at: {unseen}: a link, or its pack is not there"),
                "remove it, or have it be a file beside its pack",
            ),
        ));
    }
    let at = (&*before.scratch.tree, &before.quota);
    let looked = proof::prove((link, dates), at, (commit, before.copy.hash()));
    link.progress.proven();
    // What has come was summed by the git that has fetched it.
    looked.map_err(|error| match error {
        RestoreError::Entry { entry, why } => RestoreError::Damaged {
            directory: directory.clone(),
            path: entry.into(),
            what: why,
        },
        error => error,
    })
}

/// What is proven once all is done: files only if each was read, and the index if it was compared with each tree.
pub(super) fn conclude(
    looked: Looked,
    before: &Before,
    (seen, plan): (&Seen, &Plan),
) -> Result<Looked, RestoreError> {
    remove_caches(before)?;
    let is_read = seen.looked.has_read && plan.changes.is_whole;
    Ok(Looked {
        files: looked.files.filter(|_| is_read),
        ..looked
    })
}

/// Files that end so among the packs of a working copy that are not looked at.
fn others(before: &Before, endings: &[&str]) -> Result<Vec<String>, RestoreError> {
    let ours = before.scratch.tree.join(".git").join(PACKS);
    let mut others = Vec::new();
    for name in names(&before.copy.git_dir.join(PACKS))? {
        let ending = Path::new(&name).extension().and_then(|end| end.to_str());
        let is_ours = || fs::symlink_metadata(ours.join(&name)).is_ok();
        if ending.is_some_and(|ending| endings.contains(&ending)) && !is_ours() {
            others.push(name);
        }
    }
    Ok(others)
}

/// The names in a directory, but for those that are no text, which git gives to nothing there.
fn names(directory: &Path) -> Result<Vec<String>, RestoreError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed("read", directory))? {
        let name = entry.map_err(failed("read", directory))?.file_name();
        names.extend(name.into_string());
    }
    Ok(names)
}

/// Removes what git would believe instead of packs and their indexes.
fn remove_caches(before: &Before) -> Result<(), RestoreError> {
    let git_dir = &before.copy.git_dir;
    let info = git_dir.join(INFO);
    // Git follows a link; what is behind it is not this repository's, and stays. That of packs is refused as one.
    if fs::symlink_metadata(&info).is_ok_and(|found| !found.is_dir()) {
        remove(&info)?;
    }
    for name in CACHES {
        remove(&git_dir.join(name))?;
    }
    let packs = git_dir.join(PACKS);
    for name in names(&packs)? {
        let ending = Path::new(&name).extension().and_then(|end| end.to_str());
        let is_cache = ending.is_some_and(|ending| PACK_CACHES.contains(&ending));
        if is_cache || name.starts_with(PACKS_CACHE) {
            remove(&packs.join(name))?;
        }
    }
    // One that was looked at is right.
    for name in others(before, &[ORDER])? {
        remove(&packs.join(name))?;
    }
    Ok(())
}

/// Removes a file, or a directory with all in it.
fn remove(path: &Path) -> Result<(), RestoreError> {
    let is_directory = fs::symlink_metadata(path).is_ok_and(|found| found.is_dir());
    let removed = match is_directory {
        true => steps::remove_dir_all(path),
        false => steps::remove_file(path),
    };
    match removed {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(e)),
        _ => Ok(()),
    }
}

/// Removes all that is not tracked, but for the directory of this run.
pub(super) fn clean(
    link: Link<'_>,
    staging: &Staging,
    before: &Before,
    room: Room<'_>,
) -> Result<Alone, RestoreError> {
    let scratch = &before.scratch.tree;
    let (index, ours) = (
        before.copy.git_dir.join("index"),
        scratch.join(".git/index"),
    );
    steps::symlink(&index, &ours).map_err(failed("link", &ours))?;
    let own = staging.old();
    let own = own.parent().and_then(Path::file_name).unwrap_or_default();
    let own = format!("/{}", own.to_string_lossy());
    let args = ["clean", "-ffdx", "-e", &own];
    let at = (&**scratch, staging.target());
    steps::step().map_err(failed("clean", staging.target()))?;
    // A line for each: of a directory that goes with all in it, one.
    let cleaned = run::to_files(link.stop, at, room.until, &args);
    let cleaned = cleaned.map(|count| link.progress.cleaned(count));
    cleaned.map(|()| Alone).map_err(|error| match error {
        // It is the disk that keeps them, and not what has come.
        RestoreError::Git { detail, .. } => RestoreError::disk(
            "(all else is done) remove what is not tracked in",
            staging.target(),
            std::io::Error::other(detail),
        ),
        error => error,
    })
}
