//! What a mirror gets at a quiet time besides few packs: a bitmap, by which git knows what a clone needs
//! without walking all of history, and a commit-graph.
//!
//! Both are files beside the packs that git makes whole or not at all, and that nothing depends on. They
//! go into no archive.

use super::blocking::blocking;
use super::error::MirrorError;
use super::git::{Call, Git};
use super::packs::{OVER_SEVERAL, Pack, PackKind, is_large, named_by, packs};
use crate::git::stdin_file;
use crate::limits::MIRROR_LOCK_STALE_MS;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// What came of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// There was nothing to do.
    Nothing,
    Done,
}

impl Git {
    /// Makes an index over the large packs, with a bitmap, if there is none: over those that stay when
    /// small ones are joined, so that it stays, too. Where these lack objects, it is over all packs.
    ///
    /// # Errors
    /// [`MirrorError::Git`] when git cannot make it, [`MirrorError::TimedOut`] when it takes too long.
    pub async fn write_bitmap(&self, mirror: &Path) -> Result<Step, MirrorError> {
        let path = mirror.to_owned();
        let packs = blocking(mirror, move || {
            let folder = path.join("objects/pack");
            let failed = |source| MirrorError::io("look at the packs of", &folder, source);
            remove_stale(&folder.join(format!("{OVER_SEVERAL}.lock"))).map_err(failed)?;
            let packs = packs(&folder).map_err(failed)?;
            match has_bitmap(&folder, &packs) {
                true => Ok(Vec::new()),
                false => Ok(packs),
            }
        })
        .await?;
        let plain = packs.iter().filter(|pack| pack.kind != PackKind::Cruft);
        let plain: Vec<&Pack> = plain.collect();
        if plain.is_empty() {
            return Ok(Step::Nothing);
        }
        let total = plain.iter().map(|pack| pack.bytes).sum();
        let large: Vec<&Pack> = plain
            .iter()
            .copied()
            .filter(|p| is_large(p, total))
            .collect();
        let of_large = match large.is_empty() {
            true => self.bitmap_of(mirror, &plain).await,
            false => self.bitmap_of(mirror, &large).await,
        };
        match of_large {
            Err(MirrorError::Git { .. }) if large.len() < plain.len() && !large.is_empty() => {
                self.bitmap_of(mirror, &plain).await?;
            }
            made => made?,
        }
        Ok(Step::Done)
    }

    /// Of `packs`, the largest last.
    async fn bitmap_of(&self, mirror: &Path, packs: &[&Pack]) -> Result<(), MirrorError> {
        let list: String = packs.iter().map(|p| format!("{}.idx\n", p.stem)).collect();
        let list = stdin_file(list.as_bytes());
        let list = list.map_err(|source| MirrorError::io("list packs of", mirror, source))?;
        // Of objects that several packs have, the one of the preferred is taken; what is sent whole is of it.
        let preferred = packs
            .last()
            .map(|p| format!("--preferred-pack={}", p.name()));
        let preferred = preferred.unwrap_or_default();
        let args = [
            "multi-pack-index",
            "write",
            "--bitmap",
            "--stdin-packs",
            "--no-progress",
            &preferred,
        ];
        let mut call = self.upkeep("git multi-pack-index", mirror, &args);
        call.stdin = Some(list);
        let lock = mirror
            .join("objects/pack")
            .join(format!("{OVER_SEVERAL}.lock"));
        self.locked(call, &lock).await
    }

    /// Runs a command that takes a lock. One that is ended in the middle may leave it; had it been
    /// somebody else's, the command would have failed at once.
    async fn locked(&self, call: Call<'_>, lock: &Path) -> Result<(), MirrorError> {
        let done = self.output(call).await;
        if matches!(done, Err(MirrorError::TimedOut { .. })) {
            match std::fs::remove_file(lock) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(MirrorError::io("remove", lock, source));
                }
                _ => {}
            }
        }
        done.map(drop)
    }

    /// Makes a commit-graph of what refs reach, if refs have moved since there was one.
    ///
    /// # Errors
    /// As [`Git::write_bitmap`].
    pub async fn write_commit_graph(&self, mirror: &Path) -> Result<Step, MirrorError> {
        let path = mirror.to_owned();
        let is_due = blocking(mirror, move || {
            let graph = path.join(GRAPH);
            let failed = |source| MirrorError::io("look at", &graph, source);
            remove_stale(&graph.with_extension("lock")).map_err(failed)?;
            let refs = modified(&path.join("packed-refs")).map_err(failed)?;
            let made = modified(&graph).map_err(failed)?;
            Ok(refs.is_some() && made.is_none_or(|made| refs.is_some_and(|moved| moved > made)))
        })
        .await?;
        if !is_due {
            return Ok(Step::Nothing);
        }
        let args = ["commit-graph", "write", "--reachable", "--no-progress"];
        let call = self.upkeep("git commit-graph", mirror, &args);
        let lock = mirror.join(GRAPH).with_extension("lock");
        self.locked(call, &lock).await?;
        Ok(Step::Done)
    }
}

/// git's commit-graph, in a mirror.
const GRAPH: &str = "objects/info/commit-graph";

/// Whether git has a bitmap of the largest pack, of packs that are all there.
fn has_bitmap(folder: &Path, packs: &[Pack]) -> bool {
    let plain = packs.iter().rfind(|pack| pack.kind != PackKind::Cruft);
    let Some(largest) = plain else {
        return true;
    };
    if largest.index.with_extension("bitmap").exists() {
        return true;
    }
    let path = folder.join(OVER_SEVERAL);
    let Some(names) = named_by(&path) else {
        return false;
    };
    let stem = |name: &PathBuf| name.file_stem().unwrap_or_default().to_owned();
    let is_there = |name: &PathBuf| packs.iter().any(|pack| *pack.stem == *stem(name));
    let is_of_largest = names.iter().any(|name| *largest.stem == *stem(name));
    is_of_largest && names.iter().all(is_there) && has_own_bitmap(folder, &path)
}

/// Whether the index over several packs has its bitmap.
fn has_own_bitmap(folder: &Path, over_several: &Path) -> bool {
    let index = gix::odb::pack::multi_index::File::at(over_several, None);
    index.is_ok_and(|index| {
        let bitmap = format!("{OVER_SEVERAL}-{}.bitmap", index.checksum());
        folder.join(bitmap).exists()
    })
}

fn modified(path: &Path) -> io::Result<Option<SystemTime>> {
    match std::fs::metadata(path) {
        Ok(found) => Ok(Some(found.modified()?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Removes the lock file of a git that was killed.
fn remove_stale(lock: &Path) -> io::Result<()> {
    let age = modified(lock)?.and_then(|at| at.elapsed().ok());
    match age {
        Some(age) if age > Duration::from_millis(MIRROR_LOCK_STALE_MS) => {
            std::fs::remove_file(lock)
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
