//! What `--verify` proves, and how what is not proven on the way is proven in the end.
//!
//! Proven is what HEAD's commit makes: the commit, its trees and blobs are summed, each copy in each pack, through the
//! `.idx` files that git will use; packs and indexes have their own checksums, each entry of a pack has the one
//! that its index has of it; files, and git's index, are made from that. Nothing else is taken of objects: neither loose ones nor
//! caches. What lies beyond HEAD's tree, and where other refs lead, is believed, unless git looks at all of it.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use gix::ObjectId;
use gix::hash::Kind;

use super::dates::Dates;
use super::error::{RestoreError, failed};
use super::link::Link;
use super::looked::{Alone, History, Looked};
use super::packs;
use super::proven::Proven;
use super::quota::{Allowed, Quota};
use super::run::{self, Room};
use super::staging::Staging;
use super::stop::Stop;
use super::worktree::{From, Making, Task, workers};
use super::write::{Site, umask};
use crate::config::{RestoreArgs, Verify, WorktreeWay};
use crate::limits::RESTORE_GIT_LIMIT_MS;

/// Refuses what contradicts itself.
pub(super) fn check(args: &RestoreArgs) -> Result<(), RestoreError> {
    if args.update && args.verify == Some(Verify::Full) && !is_new(&args.dir) {
        return Err(RestoreError::Usage(
            "--verify=full makes the index of each pack anew: it does not go with --update of what is there".into(),
        ));
    }
    match args.verify.is_some() && args.worktree == WorktreeWay::Frames {
        true => Err(RestoreError::Usage(
            "--verify makes the files from packs: it does not go with --worktree frames".into(),
        )),
        false => Ok(()),
    }
}

/// Whether there is nothing at `directory` yet.
pub(super) fn is_new(directory: &Path) -> bool {
    std::fs::read_dir(directory).map_or(true, |mut listing| listing.next().is_none())
}

/// Proves what `--verify` asks for of a finished tree, in which `commit` is checked out; says what is. What was `looked` at
/// is as it was then.
pub(super) fn conclude(
    args: &RestoreArgs,
    (link, dates): (Link<'_>, Dates),
    staging: &Staging,
    (commit, hash): (Option<&str>, Kind),
    looked: Option<Looked>,
) -> Result<Option<Proven>, RestoreError> {
    let Some(verify) = args.verify else {
        return Ok(None);
    };
    let tree = staging.tree();
    let quota = Quota::new(Allowed::of(args), &tree)?;
    let mut looked = match looked {
        Some(looked) => looked,
        None => {
            let commit = commit.and_then(|hex| ObjectId::from_hex(hex.as_bytes()).ok());
            prove((link, dates), (&tree, &quota), (commit, hash))?
        }
    };
    if verify == Verify::Full {
        looked.history = Some(full(&tree, Room::new(&tree, &quota), link.stop)?);
    }
    // What is not there yet is made, and moved as it is.
    looked.alone = (!staging.merges()).then_some(Alone);
    Ok(Some(looked.proven()))
}

/// Proves all packs of the repository at `tree`, and the objects that `commit` makes files of.
pub(super) fn prove(
    (link, dates): (Link<'_>, Dates),
    (tree, quota): (&Path, &Quota),
    (commit, hash): (Option<ObjectId>, Kind),
) -> Result<Looked, RestoreError> {
    let packs = packs::check_all(tree, hash, link.stop)?;
    let mut files = None;
    if let Some(commit) = commit {
        let root = File::open(tree).map_err(failed("open", tree))?;
        let site = Site {
            root: root.as_fd(),
            umask: umask(),
            quota,
            stop: link.stop,
        };
        let mut proving = Making {
            site,
            dates,
            progress: link.progress,
            way: None,
            task: Task::Prove,
            workers: workers(),
            begun: None,
            made: None,
        };
        proving.run(tree, commit, From::There)?;
        files = proving.made.and_then(|made| made.proven);
    }
    Ok(Looked::new(packs, files))
}

/// Has git index each pack anew, which sums all objects, and look whether all that refs lead to is there.
fn full(tree: &Path, room: Room<'_>, stop: &Stop) -> Result<History, RestoreError> {
    let directory = tree.join(".git/objects/pack");
    let fresh = tree.join(".git/tarpon-verify.idx");
    for file in std::fs::read_dir(&directory).map_err(failed("read", &directory))? {
        let pack = file.map_err(failed("read", &directory))?.path();
        if pack.extension().is_none_or(|ending| ending != "pack") {
            continue;
        }
        let args = [
            "index-pack".as_ref(),
            "--no-rev-index".as_ref(),
            "-o".as_ref(),
        ];
        let args = [&args[..], &[fresh.as_os_str(), pack.as_os_str()]].concat();
        refused(&pack, run::check_out(stop, room, &args))?;
        // It is in the order of another index.
        let order = pack.with_extension("rev");
        if order.exists() {
            std::fs::remove_file(&order).map_err(failed("remove", &order))?;
        }
        let index = pack.with_extension("idx");
        std::fs::rename(&fresh, &index).map_err(failed("replace", &index))?;
    }
    let until = Instant::now() + Duration::from_millis(RESTORE_GIT_LIMIT_MS);
    let args = [
        "fsck",
        "--connectivity-only",
        "--no-dangling",
        "--no-progress",
    ];
    let objects = Path::new(".git/objects");
    refused(objects, run::walk(stop, tree, until, Stdio::null(), &args))?;
    Ok(History)
}

/// What git finds fault with is an archive's.
fn refused(path: &Path, ran: Result<Vec<u8>, RestoreError>) -> Result<(), RestoreError> {
    match ran {
        Err(RestoreError::Git { step, detail }) => {
            let path = path.as_os_str().as_encoded_bytes();
            Err(RestoreError::entry(path, format!("git {step}: {detail}")))
        }
        ran => ran.map(|_| ()),
    }
}
