//! Whether it is the working copy's own objects that are damaged, once something of what leads on from them could not be
//! had: what an archive or a server is blamed for came on top of these.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use gix::ObjectId;
use gix::hash::Kind;
use gix::objs::TreeRefIter;
use gix::objs::tree::EntryKind;

use super::copy::Copy;
use super::scratch::Scratch;
use crate::limits::WORK_PIECE_BYTES;
use crate::restore::error::{RestoreError, failed};
use crate::restore::objects::{Objects, refused};
use crate::restore::stop::Stop;
use crate::restore::write::stopped;
use crate::tree::sum::Sum;

/// A file of the working copy's repository that is not as it was, and why.
pub(super) struct Damage {
    pub path: PathBuf,
    pub what: String,
}

/// How much is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Depth {
    /// What is missing.
    There,
    /// All packs are read.
    Sums,
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
    let (mut alone, mut files) = (None, Vec::new());
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
            let what = format!("{} of it is not there", ending_of(&other));
            alone.get_or_insert(Damage { path, what });
        } else if let Some(what) = wrong(&path, copy.hash(), stop)? {
            return Ok(Some(Damage { path, what }));
        }
    }
    Ok(missing.map(|what| {
        let path = copy.git_dir.join("objects");
        alone.unwrap_or(Damage { path, what })
    }))
}

fn ending_of(path: &Path) -> String {
    format!(".{}", path.extension().unwrap_or_default().display())
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
