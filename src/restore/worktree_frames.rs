//! The worktree out of frames, where it is left open what it is made of: only if that is sooner than to make it from the
//! packs, which come meanwhile. Once that is no longer so, because less comes than did, the rest of it is left off: files that
//! are whole by then stay.
//!
//! It does not turn the other way round, from packs to frames. Files are made as their blobs come, so what is not made yet lies
//! in all frames, and which of them has what is known only once it is decoded: all would have to come, and be gone through. By
//! the rates of [`choice`] that is sooner only before a third of the files is made, on a link that by then has become as fast
//! as all frames need; what there is to gain is a part of that third.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use super::choice::{self, Sizes};
use super::download::{Download, Served};
use super::error::{RestoreError, failed};
use super::extract::extract;
use super::feed::{Feed, Unpacks};
use super::link::Link;
use super::parts::Fetching;
use super::pieces::Piece;
use super::reel::Reel;
use super::removed;
use super::source::Source;
use super::stock::Stock;
use super::stop::Stop;
use super::tree::Unpacked;
use super::worktree::Making;
use super::write::{Site, Written};
use crate::limits::{CHOICE_AGAIN_MS, CHOICE_BYTES, INTERRUPT_POLL_MS};
use crate::manifest::parts::{Contents, Manifest};

/// Unpacks the worktree at `tree` as `making` says, if that is sooner than to make it. `None` if it is not, or no longer:
/// then that says what is there of it, which is nothing unless sums have spoken for all of it.
pub(super) fn unpack_frames(
    source: Source<'_>,
    manifest: &Manifest,
    packs: &Fetching<'_, '_>,
    tree: &Path,
    making: &mut Making<'_>,
) -> Result<Option<Unpacked>, RestoreError> {
    let reel = Reel::of(manifest, &[Contents::Worktree, Contents::End])?;
    let Some(chosen) = Chosen::of(source, manifest, packs, &reel) else {
        return Ok(None);
    };
    let (bytes, had) = (reel.bytes(), chosen.had);
    let outer = source;
    let stop = Stop::default();
    let source = Source {
        link: Link {
            stop: &stop,
            ..source.link
        },
        ..source
    };
    // What is looked for in the way is looked for once; and what is at hand says nothing of the link.
    let may_turn = making.way.is_none() && had == 0;
    let site = Site {
        stop: &stop,
        ..making.site
    };
    let (taken, written) = (site.quota.taken(), Written::default());
    source.link.progress.add_total(bytes - had);
    let served = Served::Parts(reel, source, manifest);
    let download = Download::new(source.link, served, Some(bytes));
    let unpacks = Unpacks::All(making.way.take());
    let has_turned = AtomicBool::new(false);
    let watched = Watched {
        download: &download,
        has_turned: &has_turned,
        rate_bytes_s: chosen.rate_bytes_s,
        may_turn,
        outer: making.site.stop,
    };
    let result = std::thread::scope(|scope| {
        let (over, is_over) = channel::<()>();
        let watching = scope.spawn(move || watched.watch(&is_over));
        let feed = Feed::Frames(&chosen.stock);
        let at = (site, &written);
        let result = extract(&download, feed, at, making.dates, unpacks, |_| Ok(()));
        drop(over);
        // One that panicked has turned nothing, or said so before.
        let _ = watching.join();
        result
    });
    // Where they were left off they are so, whatever has ended besides: with all, or with what else has failed meanwhile.
    if has_turned.into_inner() {
        let left = download.left().0;
        source.link.progress.takes_back(left.unwrap_or_default());
        // What is found is counted again.
        source.link.progress.takes_back_entries(written.entries());
        site.quota.give_back_to(taken);
        match written.is_sound() {
            true => making.begun = Some(Unpacked::of(&written)),
            false => empty(tree)?,
        }
        return Ok(None);
    }
    let archive = result?;
    chosen
        .stock
        .fetch_all((&outer, manifest), &chosen.not_played);
    Ok(Some(archive.unpacked))
}

/// Frames that are sooner.
struct Chosen<'f> {
    stock: Stock<'f>,
    /// What is to be fetched of those that are kept besides.
    not_played: Vec<Piece>,
    /// How much of them is at hand.
    had: u64,
    rate_bytes_s: f64,
}

impl<'f> Chosen<'f> {
    /// `None` if packs are, of which so many have come by then that the link is known.
    fn of(
        source: Source<'_>,
        manifest: &Manifest,
        packs: &Fetching<'f, '_>,
        reel: &Reel,
    ) -> Option<Chosen<'f>> {
        let find = |seed| Stock::find(seed, manifest, reel, source.link.stop);
        let mut stock = packs.seed().map(find).unwrap_or_default();
        let had = stock.bytes_of(reel);
        packs.wait(CHOICE_BYTES);
        let rate_bytes_s = source.link.progress.rate_bytes_s();
        let sizes = Sizes {
            packs: packs.packs_bytes(),
            frames: reel.bytes() - had,
            had,
        };
        if choice::takes_packs(sizes, rate_bytes_s) {
            return None;
        }
        let keep = |seed| stock.keep(seed, manifest, reel);
        Some(Chosen {
            not_played: packs.seed().map(keep).unwrap_or_default(),
            stock,
            had,
            rate_bytes_s,
        })
    }
}

/// Frames that are unpacked.
struct Watched<'w, 'a> {
    download: &'w Download<'a>,
    /// What came in a second when they were chosen.
    rate_bytes_s: f64,
    may_turn: bool,
    /// Set before they are ended, if they are left off.
    has_turned: &'w AtomicBool,
    /// What ends the restore.
    outer: &'w Stop,
}

impl Watched<'_, '_> {
    /// Ends them where the restore ends, or where packs are sooner by now.
    fn watch(&self, is_over: &Receiver<()>) {
        let link = self.download.link;
        let (mut since, mut before, mut looks, mut waits) =
            (Instant::now(), link.progress.bytes(), 0, 0);
        while let Err(RecvTimeoutError::Timeout) =
            is_over.recv_timeout(Duration::from_millis(INTERRUPT_POLL_MS))
        {
            if self.outer.is_set() {
                link.stop.set();
                return;
            }
            // Where it is this machine that is slow, more packs would not make it faster.
            let (left_bytes, is_waited_for) = self.download.left();
            looks += 1;
            waits += u32::from(is_waited_for);
            let took = since.elapsed();
            if took < Duration::from_millis(CHOICE_AGAIN_MS) {
                continue;
            }
            let bytes = link.progress.bytes();
            let rate_bytes_s = bytes.saturating_sub(before) as f64 / took.as_secs_f64();
            let is_slow = waits * 4 > looks * 3 && rate_bytes_s < self.rate_bytes_s / 2.0;
            let is_slow = is_slow && is_waited_for && self.may_turn;
            if let Some(frames) = left_bytes.filter(|_| is_slow) {
                let left = Sizes {
                    packs: link.progress.left().saturating_sub(frames),
                    frames,
                    had: 0,
                };
                if choice::takes_packs(left, rate_bytes_s) {
                    self.has_turned.store(true, Ordering::Relaxed);
                    link.stop.set();
                    return;
                }
            }
            (since, before, looks, waits) = (Instant::now(), bytes, 0, 0);
        }
    }
}

/// Removes what is in a working copy besides its repository.
fn empty(tree: &Path) -> Result<(), RestoreError> {
    let listed = std::fs::read_dir(tree).map_err(failed("read", tree))?;
    for entry in listed {
        let entry = entry.map_err(failed("read", tree))?;
        if entry.file_name() == ".git" {
            continue;
        }
        let path = entry.path();
        // A link is none.
        let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let removed = match is_directory {
            true => removed::directory(&path),
            false => std::fs::remove_file(&path),
        };
        removed.map_err(failed("remove", &path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn nothing_stays_but_the_repository_and_what_links_lead_to() {
        let (tree, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let at = |name: &str| tree.path().join(name);
        fs::create_dir_all(at(".git/refs")).unwrap();
        fs::create_dir_all(at("d/.git")).unwrap();
        fs::write(at("a"), "a").unwrap();
        fs::write(other.path().join("b"), "b").unwrap();
        std::os::unix::fs::symlink(other.path(), at("link")).unwrap();
        empty(tree.path()).unwrap();
        let left = fs::read_dir(tree.path()).unwrap();
        let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, [".git"]);
        assert!(at(".git/refs").is_dir() && other.path().join("b").is_file());
    }
}
