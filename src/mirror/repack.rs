//! Loose objects into packs, and few packs instead of many.
//!
//! New packs are written without a lock, because they only add to what is there. The write
//! lock is held while files are removed that the new pack stands for: some 10 µs each.

use super::files::{entries, loose_ids};
use super::set_up::format_of;
use crate::git::stdin_file;
use crate::limits;
use crate::mirror::blocking::blocking;
use crate::mirror::config::{self};
use crate::mirror::error::MirrorError;
use crate::mirror::git::Git;
use gix::hash::Kind;
use std::ffi::OsString;
use std::fs::{DirEntry, File};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use tokio::sync::RwLock;

impl Git {
    /// Puts all loose objects, reachable or not, into one pack, and returns their number.
    /// `lock` is held for writing while the loose files are removed: about 5 ms and 10 µs
    /// for each.
    ///
    /// # Errors
    /// [`MirrorError::Git`] when an object is damaged; then every loose file stays.
    pub async fn pack_loose(&self, mirror: &Path, lock: &RwLock<()>) -> Result<usize, MirrorError> {
        let path = mirror.to_owned();
        let (count, list) = blocking(mirror, move || {
            let objects = path.join("objects");
            let ids =
                loose_ids(&objects).map_err(|source| MirrorError::io("list", &objects, source))?;
            let list = stdin_file(ids.join("\n").as_bytes());
            Ok((
                ids.len(),
                list.map_err(|source| MirrorError::io("list", &objects, source))?,
            ))
        })
        .await?;
        if count == 0 {
            return Ok(0);
        }
        self.pack_objects(mirror, list, &["--incremental", "--non-empty"])
            .await?;
        let exclusive = lock.write().await;
        let pruned = self
            .output(self.local("git prune-packed", mirror, ["prune-packed", "--quiet"]))
            .await;
        drop(exclusive);
        pruned.map(|_| count)
    }

    /// Does nothing to a mirror with at most
    /// [`MIRROR_PACKS_MAX`](limits::MIRROR_PACKS_MAX) packs. Otherwise joins small packs so
    /// that each of the others has at least
    /// [`MIRROR_PACK_FACTOR`](limits::MIRROR_PACK_FACTOR) times the objects of the next
    /// smaller one. Returns how many were removed. Every object stays. `lock` is held for
    /// writing while the old files are moved away: 10 µs for each. Packs with a `.keep` file
    /// are left alone.
    ///
    /// # Errors
    /// [`MirrorError::Git`] when git cannot pack; then every pack stays.
    pub async fn consolidate(
        &self,
        mirror: &Path,
        lock: &RwLock<()>,
    ) -> Result<usize, MirrorError> {
        let path = mirror.to_owned();
        let joined = blocking(mirror, move || {
            let hash = format_of(&config::read(&path)?);
            let folder = path.join("objects/pack");
            let io = |source| MirrorError::io("read the packs of", &folder, source);
            let packs = choose(packs(&folder, hash).map_err(io)?);
            if packs.is_empty() {
                return Ok(None);
            }
            let list =
                tempfile::tempfile_in(&path).and_then(|file| list_objects(file, &packs, hash));
            Ok(Some((list.map_err(io)?, packs)))
        })
        .await?;
        let Some((list, mut old)) = joined else {
            return Ok(0);
        };
        let made = self.pack_objects(mirror, list, &[]).await?;
        let folder = mirror.join("objects/pack");
        // Joining duplicates can give exactly one of the packs that were joined.
        old.retain(|pack| !made.contains(&pack.stem));
        if made.is_empty()
            || made
                .iter()
                .any(|name| !folder.join(format!("{name}.idx")).is_file())
        {
            let what = "no new pack is there".to_owned();
            return Err(MirrorError::Output {
                op: "git pack-objects",
                target: mirror.display().to_string(),
                what,
            });
        }
        let trash = tempfile::Builder::new()
            .prefix("tmp_old_packs_")
            .tempdir_in(mirror);
        let trash =
            trash.map_err(|source| MirrorError::io("make a directory in", mirror, source))?;
        let exclusive = lock.write().await;
        // Not on another thread: if this future were dropped, it would go on without the lock.
        let moved = move_packs(&folder, &old, trash.path());
        drop(exclusive);
        moved.map_err(|source| MirrorError::io("remove old packs of", &folder, source))?;
        let path = trash.path().to_owned();
        let close = move || {
            trash
                .close()
                .map_err(|source| MirrorError::io("remove", &path, source))
        };
        blocking(mirror, close).await?;
        Ok(old.len())
    }

    /// Packs the listed objects and returns the names of the packs made.
    async fn pack_objects(
        &self,
        mirror: &Path,
        list: File,
        options: &[&str],
    ) -> Result<Vec<String>, MirrorError> {
        let mut call = self.local(
            "git pack-objects",
            mirror,
            ["pack-objects", "--quiet", "--delta-base-offset"],
        );
        call.args.extend(options.iter().map(Into::into));
        call.args.push(mirror.join("objects/pack/pack").into());
        call.stdin = Some(list);
        let out = self.output(call).await?;
        Ok(String::from_utf8_lossy(&out)
            .lines()
            .map(|hash| format!("pack-{}", hash.trim()))
            .collect())
    }
}

/// A pack by the name of its files without the extension.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pack {
    stem: String,
    index: PathBuf,
    objects: u64,
}

/// The packs that may be joined with others, by number of objects.
fn packs(folder: &Path, hash: Kind) -> io::Result<Vec<Pack>> {
    let mut packs = Vec::new();
    for entry in entries(folder)? {
        let index = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(stem) = name
            .strip_suffix(".idx")
            .filter(|stem| stem.starts_with("pack-"))
        else {
            continue;
        };
        // `.mtimes` belongs to a pack of objects that git means to expire.
        if ["keep", "mtimes"]
            .iter()
            .any(|with| index.with_extension(with).exists())
            || !index.with_extension("pack").is_file()
        {
            continue;
        }
        let objects = open_index(&index, hash)?.num_objects().into();
        packs.push(Pack {
            stem: stem.to_owned(),
            index,
            objects,
        });
    }
    packs.sort_by(|a, b| (a.objects, &a.stem).cmp(&(b.objects, &b.stem)));
    Ok(packs)
}

fn open_index(path: &Path, hash: Kind) -> io::Result<gix::odb::pack::index::File> {
    gix::odb::pack::index::File::at(path, hash).map_err(|error| io::Error::other(error.to_string()))
}

/// From packs sorted by size: those to join so that the rest forms a geometric progression,
/// by the rule of `git repack --geometric`. None when there are not too many.
fn choose(mut packs: Vec<Pack>) -> Vec<Pack> {
    if packs.len() <= limits::MIRROR_PACKS_MAX {
        return Vec::new();
    }
    let factor = limits::MIRROR_PACK_FACTOR;
    let breaks = |pair: &[Pack]| pair[1].objects < pair[0].objects.saturating_mul(factor);
    let Some(last_break) = packs.windows(2).rposition(breaks) else {
        return Vec::new();
    };
    let mut split = last_break + 2;
    let mut total: u64 = packs.iter().take(split).map(|pack| pack.objects).sum();
    while let Some(next) = packs
        .get(split)
        .filter(|next| next.objects < total.saturating_mul(factor))
    {
        total += next.objects;
        split += 1;
    }
    packs.truncate(split);
    packs
}

/// Writes the ids of all objects of the packs, in the order in which they lie there, so that
/// the new pack keeps neighbours together.
fn list_objects(file: File, packs: &[Pack], hash: Kind) -> io::Result<File> {
    let mut out = BufWriter::new(file);
    for pack in packs.iter().rev() {
        let index = open_index(&pack.index, hash)?;
        let mut order: Vec<(u64, u32)> = (0..index.num_objects())
            .map(|at| (index.pack_offset_at_index(at), at))
            .collect();
        order.sort_unstable();
        for (_, at) in order {
            writeln!(out, "{}", index.oid_at_index(at))?;
        }
    }
    let mut file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.seek(SeekFrom::Start(0))?;
    Ok(file)
}

/// Takes packs, their indices first, and the index over all packs, which names them, out of
/// the repository. Moving is quick; unlinking gigabytes is not.
fn move_packs(folder: &Path, packs: &[Pack], trash: &Path) -> io::Result<()> {
    let mut names: Vec<OsString> = entries(folder)?.iter().map(DirEntry::file_name).collect();
    names.retain(|name| name.to_string_lossy().starts_with("multi-pack-index"));
    for pack in packs {
        names.extend(
            ["idx", "rev", "bitmap", "pack"].map(|end| format!("{}.{end}", pack.stem).into()),
        );
    }
    for name in names {
        match std::fs::rename(folder.join(&name), trash.join(&name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
