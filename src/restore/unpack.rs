//! From the first answer to what is unpacked: the archive as a stream, or played out of parts.

use std::fs;
use std::path::Path;

use super::capture::Archive;
use super::dates::Dates;
use super::download::{Download, Served};
use super::error::{RestoreError, failed};
use super::extract::extract;
use super::feed::{Feed, Unpacks};
use super::in_the_way::Watch;
use super::landing::Destination;
use super::opening::{self, Asked, By, Opened};
use super::origin;
use super::parts::Fetching;
use super::progress::Progress;
use super::quota::{Allowed, Quota};
use super::reel::Reel;
use super::refs::Refs;
use super::seed::Seed;
use super::source::Source;
use super::stop::Stop;
use super::wanted::Wanted;
use super::way::Way;
use super::worktree::{From, Making, Task, workers};
use super::worktree_frames::unpack_frames;
use super::write::{Site, Written};
use crate::config::{RestoreArgs, WorktreeWay};
use crate::limits::{PARTS_MAX, RESTARTS_MAX};
use crate::manifest::parts::{Contents, Manifest};

/// What of an archive comes out of files of frames; the worktree last, which is left out where it is made from packs. Its
/// index is never read.
const PLAYED: [Contents; 4] = [
    Contents::GitDir,
    Contents::Refs,
    Contents::End,
    Contents::Worktree,
];

/// What is unpacked, and how a worktree is made besides that.
type Ways<'w> = (Unpacks<'w>, Option<Making<'w>>);

/// As is asked for; of parts that come by themselves packs come first, and what is made of them is left open. `way` looks for
/// what is in the way of either.
fn ways<'w>(
    (args, is_by_parts): (&RestoreArgs, bool),
    site: Site<'w>,
    (dates, progress): (Dates, &'w Progress),
    way: Option<Watch<'w>>,
) -> Ways<'w> {
    let (unpacks, task) = match (args.verify, args.worktree) {
        (Some(_), _) => (Unpacks::Packs, Task::MakeProven),
        (None, WorktreeWay::Packs) => (Unpacks::Objects, Task::Make),
        (None, WorktreeWay::Auto) if is_by_parts => (Unpacks::Objects, Task::Make),
        (None, WorktreeWay::Auto | WorktreeWay::Frames) => return (Unpacks::All(way), None),
    };
    let making = Making {
        site,
        dates,
        progress,
        way,
        task,
        workers: workers(),
        begun: None,
        made: None,
    };
    (unpacks, Some(making))
}

/// Makes the worktree at `tree` of packs that still come, once it is known of what.
fn make_coming(
    tree: &Path,
    archive: &Archive,
    packs: &Fetching<'_, '_>,
    making: &mut Making<'_>,
) -> Result<(), RestoreError> {
    let captured = &archive.captured;
    let Some(config) = captured.file("config") else {
        // Who makes the rest of `.git` says so.
        return Ok(());
    };
    let hash = origin::read(config)?.hash;
    match Refs::read(captured, hash, making.site.stop)?.commit() {
        Some(commit) => making.run(tree, commit, From::Coming(packs.open_coming(hash)?)),
        None => Ok(()),
    }
}

/// What a snapshot comes by.
enum Came<'a> {
    Archive(Box<Opened<'a>>),
    Parts(Box<Manifest>),
}

/// What was answered; the archive where that is of more parts than are open at a time.
fn came<'a>(
    opened: Opened<'a>,
    (args, seed): (&RestoreArgs, Option<&Seed<'_>>),
) -> Result<Came<'a>, RestoreError> {
    let archive = |opened| {
        seed.iter().for_each(|seed| seed.say_kept_nothing());
        Came::Archive(Box::new(opened))
    };
    if !opened.is_manifest() {
        return Ok(archive(opened));
    }
    let (link, base, query) = opened.asked();
    let manifest = opened.manifest()?;
    if manifest.parts.len() <= PARTS_MAX {
        return Ok(Came::Parts(Box::new(manifest)));
    }
    let asked = Asked {
        base: &base,
        query,
        is_fresh: args.fresh,
        by: By::Archive,
    };
    opening::open(link, &asked).map(archive)
}

/// Downloads and unpacks what was answered into `tree`, which is that of `site`; gives also how its worktree is made, if it
/// is not unpacked.
pub(super) fn unpack<'w>(
    opened: Opened<'w>,
    (args, seed): (&RestoreArgs, Option<&Seed<'_>>),
    tree: &Path,
    site: Site<'w>,
    dates: Dates,
    way: Option<Watch<'w>>,
) -> Result<(Archive, Option<Making<'w>>), RestoreError> {
    let (link, base, query) = opened.asked();
    let came = came(opened, (args, seed))?;
    let may_choose = matches!(came, Came::Parts(_));
    let (unpacks, mut making) = ways((args, may_choose), site, (dates, link.progress), way);
    let manifest = match came {
        Came::Parts(manifest) => manifest,
        Came::Archive(opened) => {
            let (download, first) = opened.start()?;
            let feed = Feed::Stream(Box::new(first));
            let at = (site, &Written::default());
            let archive = extract(&download, feed, at, dates, unpacks, |_| Ok(()))?;
            return Ok((archive, making));
        }
    };
    let source = Source {
        link,
        base: &base,
        query: &query,
    };
    let packs_at = tree.join(".git/objects/pack");
    fs::create_dir_all(&packs_at).map_err(failed("create", &packs_at))?;
    let numbers = 0..manifest.parts.len();
    let packs = numbers.filter(|number| manifest.parts[*number].is_of_pack());
    let to = Destination {
        dir: &packs_at,
        quota: site.quota,
        seed,
    };
    let mut packs = Fetching::new(source, &manifest, packs, to)?;
    let played = match unpacks {
        Unpacks::All(_) => &PLAYED[..],
        Unpacks::Objects | Unpacks::Packs => &PLAYED[..PLAYED.len() - 1],
    };
    let reel = Reel::of(&manifest, played)?;
    packs.play(&reel);
    let bytes = reel.bytes();
    link.progress.set_total(packs.bytes(&reel));
    let served = Served::Parts(reel, source, &manifest);
    let download = Download::new(link, served, Some(bytes));
    let is_open = args.verify.is_none() && args.worktree == WorktreeWay::Auto;
    let mut unpacked = None;
    let beside = |archive: &Archive| {
        if is_open && let Some(made) = making.as_mut() {
            let frames = unpack_frames(source, &manifest, &packs, tree, made)?;
            if frames.is_some() {
                (unpacked, making) = (frames, None);
            }
        }
        match making.as_mut() {
            Some(making) => make_coming(tree, archive, &packs, making),
            None => Ok(()),
        }
    };
    let at = (site, &Written::default());
    let mut archive = extract(&download, Feed::Parts(&packs), at, dates, unpacks, beside)?;
    archive.said_commit = manifest.commit.clone();
    if args.verify.is_some() {
        archive.believed.clear();
    }
    archive.unpacked = unpacked.unwrap_or(archive.unpacked);
    Ok((archive, making))
}

/// Fetches the parts of what is asked for into a directory; gives what they are. `None` where the server sends the
/// archive instead.
pub fn fetch_parts(args: &RestoreArgs, dir: &Path) -> Result<Option<Manifest>, RestoreError> {
    let (stop, progress) = (Stop::default(), Progress::default());
    let way = Way::of(args, &stop)?;
    let link = way.link(args, &stop, &progress);
    let asked = Asked {
        base: link.place,
        query: Wanted::parse(args)?.query(),
        is_fresh: args.fresh,
        by: By::Manifest,
    };
    let quota = Quota::new(Allowed::of(args), dir)?;
    let mut tries = 0;
    loop {
        let opened = opening::open(link, &asked)?;
        if !opened.is_manifest() {
            return Ok(None);
        }
        let (link, base, query) = opened.asked();
        let source = Source {
            link,
            base: &base,
            query: &query,
        };
        let manifest = opened.manifest()?;
        match fetch_into(source, &manifest, dir, &quota) {
            Ok(()) => return Ok(Some(manifest)),
            // What is there of it stays.
            Err(RestoreError::Changed) if tries < RESTARTS_MAX => tries += 1,
            Err(error) => return Err(error),
        }
    }
}

fn fetch_into(
    source: Source<'_>,
    manifest: &Manifest,
    dir: &Path,
    quota: &Quota,
) -> Result<(), RestoreError> {
    let all = 0..manifest.parts.len();
    let to = Destination {
        dir,
        quota,
        seed: None,
    };
    let fetching = Fetching::new(source, manifest, all, to)?;
    let connections = source.link.connections;
    std::thread::scope(|scope| {
        let fetch = || fetching.fetch_all(&mut None, &mut Vec::new());
        let running: Vec<_> = (0..connections).map(|_| scope.spawn(fetch)).collect();
        running.into_iter().try_for_each(|thread| {
            let ended = thread.join();
            ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    })?;
    fetching.finish()
}
