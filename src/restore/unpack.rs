//! From the first answer to what is unpacked: the archive as a stream, or played out of parts.

use std::fs;
use std::path::Path;

use super::capture::Archive;
use super::dates::Dates;
use super::download::{Download, Served};
use super::error::{RestoreError, failed};
use super::extract::{Feed, extract};
use super::in_the_way::Watch;
use super::opening::Opened;
use super::parts::Fetching;
use super::reel::Reel;
use super::source::Source;
use super::write::Site;
use crate::manifest::parts::Contents;

/// What of an archive comes out of files of frames. Its index is never read.
const PLAYED: [Contents; 4] = [
    Contents::GitDir,
    Contents::Refs,
    Contents::Worktree,
    Contents::End,
];

/// Downloads and unpacks what was answered into `tree`, which is that of `site`.
pub(super) fn unpack(
    opened: Opened<'_>,
    tree: &Path,
    site: Site<'_>,
    dates: Dates,
    way: Option<Watch<'_>>,
) -> Result<Archive, RestoreError> {
    if !opened.is_manifest() {
        let (download, first) = opened.start()?;
        return extract(&download, Feed::Stream(Box::new(first)), site, dates, way);
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
    let packs = numbers.filter(|number| manifest.parts[*number].is_of_pack());
    let packs = Fetching::new(source, &manifest, packs, &packs_at, site.quota)?;
    let reel = Reel::of(&manifest, &PLAYED)?;
    let bytes = reel.bytes();
    link.progress.set_total(bytes + packs.bytes());
    let served = Served::Parts(reel, source, &manifest);
    let download = Download::new(link, served, Some(bytes));
    let mut archive = extract(&download, Feed::Parts(&packs), site, dates, way)?;
    archive.said_commit = manifest.commit.clone();
    Ok(archive)
}
