//! The packs of a mirror: what there is, what is to be joined, and whether one can go.

use super::files::entries;
use crate::limits;
use gix::ObjectId;
use gix::hash::Kind;
use std::fs::{DirEntry, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// A pack by the name of its files without the extension.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pack {
    pub stem: String,
    /// Its `.idx`.
    pub index: PathBuf,
    pub bytes: u64,
    /// Since when it, or the oldest of those that were joined to it, is there.
    pub modified: SystemTime,
    /// What somebody wants of it.
    pub kind: PackKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PackKind {
    Plain,
    /// It has a `.keep`: it stays as it is.
    Kept,
    /// It has an `.mtimes`: somebody's git has put aside there what no ref reached.
    Cruft,
}

impl Pack {
    /// The name that git knows it by.
    pub(super) fn name(&self) -> String {
        format!("{}.pack", self.stem)
    }
}

/// All packs that have an index, the smallest first.
pub(super) fn packs(folder: &Path) -> io::Result<Vec<Pack>> {
    let found = match entries(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        found => found?,
    };
    let mut packs = Vec::new();
    for entry in found {
        let index = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(stem) = name
            .strip_suffix(".idx")
            .filter(|stem| stem.starts_with("pack-"))
        else {
            continue;
        };
        let Ok(found) = std::fs::metadata(index.with_extension("pack")) else {
            continue;
        };
        let has = |extension: &str| index.with_extension(extension).exists();
        let kind = match (has("mtimes"), has("keep")) {
            (true, _) => PackKind::Cruft,
            (false, true) => PackKind::Kept,
            (false, false) => PackKind::Plain,
        };
        packs.push(Pack {
            stem: stem.to_owned(),
            bytes: found.len(),
            modified: found.modified()?,
            index,
            kind,
        });
    }
    packs.sort_by(|a, b| (a.bytes, &a.stem).cmp(&(b.bytes, &b.stem)));
    Ok(packs)
}

pub(super) fn open_index(path: &Path, hash: Kind) -> io::Result<gix::odb::pack::index::File> {
    gix::odb::pack::index::File::at(path, hash).map_err(|error| io::Error::other(error.to_string()))
}

/// Whether a pack has so much of the mirror's `total` bytes that it is left alone right after a fetch.
pub(super) fn is_large(pack: &Pack, total: u64) -> bool {
    u128::from(pack.bytes) * 100 > u128::from(total) * u128::from(limits::MIRROR_PACK_LARGE_PERCENT)
}

fn total(packs: &[Pack]) -> u64 {
    packs.iter().map(|pack| pack.bytes).sum()
}

/// Which packs to join, of those that may be, sorted by size.
pub(super) type Choose = fn(Vec<Pack>) -> Vec<Pack>;

/// Right after a fetch: the small ones, once there are too many. If there are still too many in all, the
/// smallest of all, so that half as many remain.
pub(super) fn small_ones(mut packs: Vec<Pack>) -> Vec<Pack> {
    let total = total(&packs);
    let small = packs
        .iter()
        .take_while(|pack| !is_large(pack, total))
        .count();
    if small > limits::MIRROR_SMALL_PACKS_MAX {
        packs.truncate(small);
    } else if are_many(&packs) {
        packs.truncate(packs.len() - limits::MIRROR_PACKS_MAX / 2);
    } else {
        packs.clear();
    }
    packs
}

/// Whether one more would be one too many.
fn are_many(packs: &[Pack]) -> bool {
    packs.len() > limits::MIRROR_PACKS_JOINED
}

/// The same of a mirror, of the packs that may be joined.
pub(crate) fn has_many(mirror: &Path) -> io::Result<bool> {
    let mut packs = packs(&mirror.join("objects/pack"))?;
    packs.retain(|pack| pack.kind == PackKind::Plain);
    Ok(are_many(&packs))
}

/// At a quiet time: so many of the smallest that each of the others has at least
/// [`MIRROR_PACK_FACTOR`](limits::MIRROR_PACK_FACTOR) times the bytes of all that are smaller. What has
/// come since the largest was made takes no more than that part of it, however badly it is packed.
pub(super) fn out_of_proportion(mut packs: Vec<Pack>) -> Vec<Pack> {
    while let Some((largest, smaller)) = packs.split_last() {
        let least = total(smaller).saturating_mul(limits::MIRROR_PACK_FACTOR);
        if smaller.is_empty() {
            packs.clear();
        } else if largest.bytes >= least {
            packs.pop();
        } else {
            break;
        }
    }
    packs
}

/// The first object of `gone` that no pack of `stay` has.
pub(super) fn first_missing(
    gone: &[Pack],
    stay: &[PathBuf],
    hash: Kind,
) -> io::Result<Option<ObjectId>> {
    let open = |path: &PathBuf| open_index(path, hash);
    let stay: Vec<_> = stay.iter().map(open).collect::<io::Result<_>>()?;
    for pack in gone {
        let index = open_index(&pack.index, hash)?;
        for at in 0..index.num_objects() {
            let id = index.oid_at_index(at);
            if !stay.iter().any(|stay| stay.lookup(id).is_some()) {
                return Ok(Some(id.to_owned()));
            }
        }
    }
    Ok(None)
}

/// Makes new packs as old as the oldest that they stand for.
pub(super) fn set_age(folder: &Path, made: &[String], gone: &[Pack]) -> io::Result<()> {
    let Some(oldest) = gone.iter().map(|pack| pack.modified).min() else {
        return Ok(());
    };
    for stem in made {
        let pack = File::open(folder.join(format!("{stem}.pack")))?;
        pack.set_modified(oldest)?;
    }
    Ok(())
}

/// Takes packs, their indices first, out of the repository. Moving is quick; unlinking gigabytes is not.
/// The index over several packs and what belongs to it goes if it names one of them: git takes what it
/// names for there.
pub(super) fn move_packs(folder: &Path, packs: &[Pack], trash: &Path) -> io::Result<()> {
    let mut names = Vec::new();
    let is_named = |named: &PathBuf| {
        let stem = named.file_stem().unwrap_or_default();
        packs.iter().any(|pack| *pack.stem == *stem)
    };
    let over_several = folder.join(OVER_SEVERAL);
    // One that cannot be read is of no use.
    if over_several.exists() && named_by(&over_several).is_none_or(|all| all.iter().any(is_named)) {
        let files = entries(folder)?;
        let all = files.iter().map(DirEntry::file_name);
        names.extend(all.filter(|name| name.to_string_lossy().starts_with(OVER_SEVERAL)));
    }
    for pack in packs {
        let files = ["idx", "rev", "bitmap", "mtimes", "keep", "pack"]
            .map(|end| format!("{}.{end}", pack.stem));
        names.extend(files.map(Into::into));
    }
    for name in names {
        match std::fs::rename(folder.join(&name), trash.join(&name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// git's index over several packs; what belongs to it has names that begin so.
pub(super) const OVER_SEVERAL: &str = "multi-pack-index";

/// The packs that it names, by the names of their indices.
pub(super) fn named_by(over_several: &Path) -> Option<Vec<PathBuf>> {
    let index = gix::odb::pack::multi_index::File::at(over_several, None).ok()?;
    Some(index.index_names().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pack((number, bytes): (usize, u64)) -> Pack {
        Pack {
            stem: format!("pack-{number}"),
            index: PathBuf::new(),
            bytes,
            modified: SystemTime::UNIX_EPOCH,
            kind: PackKind::Plain,
        }
    }

    fn chosen(choose: Choose, sizes: &[u64]) -> Vec<u64> {
        let packs = sizes.iter().copied().enumerate().map(pack).collect();
        choose(packs).into_iter().map(|pack| pack.bytes).collect()
    }

    #[test]
    fn after_a_fetch_the_small_ones_are_chosen() {
        let small = [3; limits::MIRROR_SMALL_PACKS_MAX];
        let large = [1000, 4000];
        assert_eq!(chosen(small_ones, &[&small[..], &large].concat()), [0; 0]);
        let many = [3; limits::MIRROR_SMALL_PACKS_MAX + 1];
        assert_eq!(chosen(small_ones, &[&many[..], &large].concat()), many);
        assert_eq!(chosen(small_ones, &many), many, "all are alike");
        // Whatever their sizes, there is always room for more.
        let large = [10_000, 11_000, 12_000];
        let most = [&small[..], &large].concat();
        let left = most.len() - chosen(small_ones, &most).len() + 1;
        assert!(left <= limits::MIRROR_PACKS_JOINED, "{left}");
    }

    #[test]
    fn at_a_quiet_time_what_is_small_beside_the_others_stays() {
        let factor = limits::MIRROR_PACK_FACTOR;
        assert_eq!(chosen(out_of_proportion, &[]), [0; 0]);
        assert_eq!(chosen(out_of_proportion, &[5]), [0; 0]);
        assert_eq!(chosen(out_of_proportion, &[5, 5 * factor]), [0; 0]);
        assert_eq!(chosen(out_of_proportion, &[5, 5 * factor - 1]).len(), 2);
        // The small ones become one.
        assert_eq!(chosen(out_of_proportion, &[1, 2, 100 * factor]), [1, 2]);
        let progression: Vec<u64> = (0..8).map(|n| (2 * factor).pow(n)).collect();
        assert_eq!(chosen(out_of_proportion, &progression), [0; 0]);
    }
}
