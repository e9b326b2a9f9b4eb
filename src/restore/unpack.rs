//! From the first answer to what is unpacked: the archive as a stream, or played out of parts.

use std::fs;
use std::path::Path;

use super::capture::Archive;
use super::dates::Dates;
use super::download::{Download, Served};
use super::error::{RestoreError, failed};
use super::extract::{Feed, Unpacks, extract};
use super::in_the_way::Watch;
use super::opening::{self, Asked, By, Opened};
use super::origin;
use super::parts::{Destination, Fetching};
use super::progress::Progress;
use super::quota::Quota;
use super::reel::Reel;
use super::refs::Refs;
use super::seed::Seed;
use super::source::Source;
use super::stop::Stop;
use super::wanted::Wanted;
use super::way::Way;
use super::worktree::{From, Making, Task};
use super::write::Site;
use crate::config::{RestoreArgs, WorktreeWay};
use crate::limits::RESTARTS_MAX;
use crate::manifest::parts::{Contents, Manifest, Part};

/// What of an archive comes out of files of frames; the worktree last, which is left out where it is made from packs. Its
/// index is never read.
const PLAYED: [Contents; 4] = [
    Contents::GitDir,
    Contents::Refs,
    Contents::End,
    Contents::Worktree,
];

/// What is unpacked of an archive, and how a worktree is made besides that, as is asked for; `way` looks for what is in
/// the way of either.
pub(super) fn ways<'w>(
    args: &RestoreArgs,
    site: Site<'w>,
    (dates, progress): (Dates, &'w Progress),
    way: Option<Watch<'w>>,
) -> (Unpacks<'w>, Option<Making<'w>>) {
    let (unpacks, task) = match (args.verify, args.worktree) {
        (Some(_), _) => (Unpacks::Packs, Task::MakeProven),
        (None, WorktreeWay::Packs) => (Unpacks::Objects, Task::Make),
        (None, WorktreeWay::Auto | WorktreeWay::Frames) => return (Unpacks::All(way), None),
    };
    let making = Making {
        site,
        dates,
        progress,
        way,
        task,
        made: None,
    };
    (unpacks, Some(making))
}

/// Whether a part is fetched into the place of packs.
fn is_wanted(part: &Part, unpacks: &Unpacks<'_>) -> bool {
    let is_left_out = matches!(unpacks, Unpacks::Packs) && part.name.ends_with(".mtimes");
    part.is_of_pack() && !is_left_out
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

/// Downloads and unpacks what was answered into `tree`, which is that of `site`.
pub(super) fn unpack(
    opened: Opened<'_>,
    tree: &Path,
    site: Site<'_>,
    (dates, unpacks): (Dates, Unpacks<'_>),
    making: Option<&mut Making<'_>>,
    seed: Option<&Seed<'_>>,
) -> Result<Archive, RestoreError> {
    if !opened.is_manifest() {
        let (download, first) = opened.start()?;
        return extract(
            &download,
            Feed::Stream(Box::new(first)),
            site,
            dates,
            unpacks,
            |_| Ok(()),
        );
    }
    let (link, base, query) = opened.asked();
    let source = Source {
        link,
        base: &base,
        query: &query,
    };
    let manifest = opened.manifest()?;
    let packs_at = tree.join(".git/objects/pack");
    fs::create_dir_all(&packs_at).map_err(failed("create", &packs_at))?;
    let numbers = 0..manifest.parts.len();
    let packs = numbers.filter(|number| is_wanted(&manifest.parts[*number], &unpacks));
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
    packs.play(&reel)?;
    let bytes = reel.bytes();
    link.progress.set_total(packs.bytes(&reel));
    let served = Served::Parts(reel, source, &manifest);
    let download = Download::new(link, served, Some(bytes));
    let mut archive = extract(
        &download,
        Feed::Parts(&packs),
        site,
        dates,
        unpacks,
        |archive| match making {
            Some(making) => make_coming(tree, archive, &packs, making),
            None => Ok(()),
        },
    )?;
    archive.said_commit = manifest.commit.clone();
    Ok(archive)
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
    let quota = Quota::new(args.size_limit, dir)?;
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
