//! Whether it is the working copy's own objects that are damaged, once something of what leads on from them could not be
//! had: what an archive or a server is blamed for came on top of these.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use gix::ObjectId;
use gix::hash::Kind;
use gix::objs::TreeRefIter;
use gix::objs::tree::EntryKind;

use super::copy::Copy;
use super::scratch::Scratch;
use crate::limits::{OLD_WALK_LIMIT_MS, WORK_PIECE_BYTES};
use crate::restore::error::{RestoreError, failed};
use crate::restore::objects::{Objects, refused};
use crate::restore::run;
use crate::restore::steps;
use crate::restore::stop::Stop;
use crate::restore::write::stopped;
use crate::tree::sum::Sum;

/// A file of the working copy's repository that is not as it was, and why.
pub(super) struct Damage {
    pub path: PathBuf,
    pub what: String,
}

/// How much is looked at, besides what HEAD's commit leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Depth {
    /// Nothing.
    There,
    /// All packs are read.
    Sums,
    /// And all commits that refs lead to.
    Commits,
    /// And all that these lead to.
    All,
}

/// What is damaged of a working copy, if that is; `ours` is a path of ours that is not there yet.
pub(super) fn find(
    copy: &Copy,
    ours: PathBuf,
    depth: Depth,
    stop: &Stop,
) -> Result<Option<Damage>, RestoreError> {
    let scratch = Scratch::new(ours, copy)?;
    let missing = match head_is_whole(&scratch, copy.hash(), stop) {
        Ok(()) if depth == Depth::There => return Ok(None),
        Ok(()) => None,
        Err(error) if error.is_disks() || stop.is_set() => return Err(error),
        Err(RestoreError::Entry { why, .. }) => Some(why),
        Err(error) => Some(error.to_string()),
    };
    let directory = copy.git_dir.join("objects/pack");
    let (mut alone, mut files) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(&directory).map_err(failed("read", &directory))? {
        let entry = entry.map_err(failed("read", &directory))?;
        // A link is none: what it leads to is not the working copy's own.
        if entry.file_type().is_ok_and(|kind| kind.is_file()) {
            files.push(entry.path());
        }
    }
    files.sort();
    for path in files {
        let ending = path.extension().unwrap_or_default();
        let other = match ending.to_str() {
            Some("pack") => path.with_extension("idx"),
            Some("idx") => path.with_extension("pack"),
            _ => continue,
        };
        if !other.is_file() {
            alone.push(path);
        } else if let Some(what) = wrong(&path, copy.hash(), stop)? {
            return Ok(Some(Damage { path, what }));
        }
    }
    let missing = match missing {
        None if depth >= Depth::Commits => lacks(&scratch, depth, stop)?,
        missing => missing,
    };
    let Some(what) = missing else {
        return Ok(None);
    };
    Ok(Some(match lost_half(&scratch, alone, copy.hash(), stop)? {
        Some(damage) => damage,
        None => Damage {
            path: copy.git_dir.join("objects"),
            what,
        },
    }))
}

/// What is not there of all that refs lead to.
fn lacks(scratch: &Scratch, depth: Depth, stop: &Stop) -> Result<Option<String>, RestoreError> {
    let walk = ["rev-list", "--all", "--quiet"];
    let objects = match depth {
        Depth::All => &["--objects"][..],
        _ => &[],
    };
    match git(scratch, stop, &[&walk[..], objects].concat()) {
        Ok(()) => Ok(None),
        Err(error) if error.is_disks() || stop.is_set() => Err(error),
        Err(RestoreError::Git { detail, .. }) => Ok(Some(detail)),
        Err(error) => Ok(Some(error.to_string())),
    }
}

fn git(scratch: &Scratch, stop: &Stop, args: &[&str]) -> Result<(), RestoreError> {
    let until = Instant::now() + Duration::from_millis(OLD_WALK_LIMIT_MS);
    run::walk(stop, &scratch.tree, until, Stdio::null(), args).map(drop)
}

/// The first of these packs without an index, or the other way round, with which nothing is missing. Of an index alone
/// nobody can tell.
fn lost_half(
    scratch: &Scratch,
    alone: Vec<PathBuf>,
    hash: Kind,
    stop: &Stop,
) -> Result<Option<Damage>, RestoreError> {
    let ours = scratch.tree.join(".git/objects/pack");
    let mut index = None;
    for path in alone {
        if path.extension().is_none_or(|ending| ending != "pack") {
            let what = ".pack of it is not there".into();
            index.get_or_insert(Damage { path, what });
            continue;
        }
        let pack = ours.join(path.file_name().unwrap_or_default());
        steps::symlink(&path, &pack).map_err(failed("link", &pack))?;
        let idx = pack.with_extension("idx").display().to_string();
        let made = git(
            scratch,
            stop,
            &["index-pack", "-o", &idx, &pack.display().to_string()],
        );
        if made.is_ok()
            && head_is_whole(scratch, hash, stop).is_ok()
            && lacks(scratch, Depth::Commits, stop)?.is_none()
        {
            let help = format!("git index-pack {} makes it", path.display());
            let what = format!(".idx of it is not there ({help})");
            return Ok(Some(Damage { path, what }));
        }
        if stop.is_set() {
            return Err(stopped());
        }
    }
    Ok(index)
}

/// Opens a file that an earlier job may have exchanged for something else, which nobody waits for.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)
}

/// What is wrong with a pack or an index, which ends with the sum of all else of it.
fn wrong(path: &Path, hash: Kind, stop: &Stop) -> Result<Option<String>, RestoreError> {
    let unread = |e: io::Error| RestoreError::disk("read", path, e);
    let mut file = open(path).map_err(unread)?;
    let found = file.metadata().map_err(unread)?;
    if !found.is_file() {
        return Ok(Some("it is no file".into()));
    }
    let bytes = found.len();
    let Some(mut left) = bytes.checked_sub(hash.len_in_bytes() as u64) else {
        return Ok(Some("it is cut off".into()));
    };
    let mut sum = Sum::new(hash);
    let mut piece = vec![0; WORK_PIECE_BYTES];
    while left > 0 {
        if stop.is_set() {
            return Err(stopped());
        }
        let most = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        match file.read(&mut piece[..most]).map_err(unread)? {
            0 => return Ok(Some("it is cut off".into())),
            got => {
                sum.update(&piece[..got]);
                left -= got as u64;
            }
        }
    }
    let mut said = Vec::new();
    file.seek(SeekFrom::Start(bytes - hash.len_in_bytes() as u64))
        .and_then(|_| file.take(hash.len_in_bytes() as u64).read_to_end(&mut said))
        .map_err(unread)?;
    Ok((sum.finish() != said).then(|| "its checksum is another one".into()))
}

/// Sees to it that HEAD's commit, its trees and all that they name are there.
fn head_is_whole(scratch: &Scratch, hash: Kind, stop: &Stop) -> Result<(), RestoreError> {
    let objects = Objects::open(&scratch.tree, hash, stop)?;
    let Some(commit) = scratch.head else {
        return Ok(());
    };
    objects.check_trees(commit)?;
    let mut open = vec![objects.tree_of(commit)?];
    let mut met = std::collections::HashSet::<ObjectId>::new();
    let mut buffer = Vec::new();
    while let Some(id) = open.pop() {
        if stop.is_set() {
            return Err(stopped());
        }
        objects.read(id, gix::objs::Kind::Tree, &mut buffer)?;
        for entry in TreeRefIter::from_bytes(&buffer, hash) {
            let entry = entry.map_err(|e| refused("tree", id, e.to_string()))?;
            let below = entry.oid.to_owned();
            match entry.mode.kind() {
                EntryKind::Commit => {}
                EntryKind::Tree if met.insert(below) => open.push(below),
                EntryKind::Tree => {}
                _ if objects.kind(below)?.is_some() => {}
                _ => return Err(refused("file", below, "it is not there".into())),
            }
        }
    }
    Ok(())
}
