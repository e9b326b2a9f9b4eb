//! What `--verify` proves, and how what is not proven on the way is proven in the end.
//!
//! Proven is what HEAD's commit makes: the commit, its trees and blobs are summed, each copy in each pack, through the
//! `.idx` files that git will use; packs and indexes have their own checksums, each entry of a pack has the one
//! that its index has of it; files, and git's index, are made from that. Nothing else is taken of objects: neither loose ones nor
//! caches. What lies beyond HEAD's tree, and where other refs lead, is believed, unless git looks at all of it.

use std::os::fd::AsFd;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use gix::ObjectId;

use super::dates::Dates;
use super::error::{RestoreError, failed};
use super::link::Link;
use super::proven::Proven;
use super::quota::{Allowed, Quota};
use super::run::{self, Room};
use super::staging::Staging;
use super::stop::Stop;
use super::worktree::{From, Making, Task, workers};
use super::write::{Site, umask};
use crate::config::{RestoreArgs, Verify, WorktreeWay};
use crate::limits::RESTORE_GIT_LIMIT_MS;
use crate::tree::decoder::Packs;
use crate::tree::stored::Entries;

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

/// Proves what `--verify` asks for of a finished tree; says what is. Of what git has made of it the `commit` is not
/// proven yet.
pub(super) fn conclude(
    args: &RestoreArgs,
    link: Link<'_>,
    dates: Dates,
    staging: &Staging,
    commit: Option<&str>,
) -> Result<Option<Proven>, RestoreError> {
    let Some(verify) = args.verify else {
        return Ok(None);
    };
    let (tree, root) = (staging.tree(), staging.open_tree()?);
    let quota = Quota::new(Allowed::of(args), &tree)?;
    if let Some(commit) = commit.and_then(|hex| ObjectId::from_hex(hex.as_bytes()).ok()) {
        let site = Site {
            root: root.as_fd(),
            umask: umask(),
            quota: &quota,
            stop: link.stop,
        };
        check_entries(&tree, commit.kind(), link.stop)?;
        let mut proving = Making {
            site,
            dates,
            progress: link.progress,
            way: None,
            task: Task::Prove,
            workers: workers(),
            made: None,
        };
        proving.run(&tree, commit, From::There)?;
    }
    if verify == Verify::Full {
        full(&tree, Room::new(&tree, &quota), link.stop)?;
    }
    Ok(Some(Proven::of(verify, !staging.merges())))
}

/// Sees to it that each entry of the packs at `tree` is what its index sums up.
pub(super) fn check_entries(
    tree: &Path,
    hash: gix::hash::Kind,
    stop: &Stop,
) -> Result<(), RestoreError> {
    let directory = b".git/objects/pack";
    let packs = Packs::open_all(&tree.join(".git"), hash);
    let packs = packs.map_err(|e| RestoreError::entry(directory, e.to_string()))?;
    let sums = Entries::of(&packs).check(|| stop.is_set());
    sums.map_err(|what| RestoreError::entry(directory, what))
}

/// Has git index each pack anew, which sums all objects, and look whether all that refs lead to is there.
fn full(tree: &Path, room: Room<'_>, stop: &Stop) -> Result<(), RestoreError> {
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
    refused(objects, run::walk(stop, tree, until, Stdio::null(), &args))
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
