//! Packs that come from somebody else than an upstream: they are written beside a mirror, and are put into it whole.
//!
//! Of what comes along with them nothing is believed but the packs' own bytes: each object is hashed, and the index is made of
//! that, by `git index-pack`. So a pack can hold what nobody asked for, but nothing under another's id; and it is known to be
//! whole before anything gives way to it. That runs in no repository: within the mirror git would compare each object that it
//! has already, byte for byte. Nor does it look where the objects lead (`--strict`): what refs lead to the upstream says, and
//! each fetch looks whether all of that is there.

use std::collections::BTreeSet;
use std::fs::{self, File, Permissions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use gix::hash::Kind;
use tempfile::TempDir;

use super::blocking::blocking;
use super::config;
use super::error::MirrorError;
use super::git::Git;
use super::journal;
use super::set_up::format_of;
use crate::io::unkept::Unkept;
use crate::manifest::id::is_lower_hex;

/// The files of a pack, in the order in which they appear: nothing is a pack without its index.
pub(super) const ENDS: [&str; 3] = ["pack", "rev", "idx"];

/// Where packs lie on their way into a mirror. What is not put there goes, on another thread than that of the plane.
#[derive(Debug)]
pub(crate) struct Arriving {
    home: Unkept<TempDir>,
}

/// Packs with indices that were made here of what is in them, which may be put into a mirror.
#[derive(Debug)]
pub(crate) struct Indexed {
    home: Arriving,
    /// Their names, without an end.
    stems: Vec<String>,
}

/// The pack that a file is of, without an end, if it is a file of a pack. The name becomes a path.
pub(crate) fn pack_of(name: &str) -> Option<&str> {
    let (stem, end) = name.split_once('.')?;
    let hash = stem.strip_prefix("pack-")?;
    let is_hash = matches!(hash.len(), 40 | 64) && is_lower_hex(hash.as_bytes());
    (is_hash && ENDS.contains(&end)).then_some(stem)
}

/// Which packs of these names a mirror has not. May wait for the disk.
///
/// # Errors
/// One is of another object format than the mirror.
pub(crate) fn missing_of<'s>(
    mirror: &Path,
    stems: impl Iterator<Item = &'s String>,
) -> Result<BTreeSet<String>, MirrorError> {
    let hash = format_of(&config::read(mirror)?);
    let folder = mirror.join("objects/pack");
    let mut missing = BTreeSet::new();
    for stem in stems {
        if stem.len() != "pack-".len() + hash.len_in_hex() {
            return Err(not_accepted(mirror, format!("{stem} is no pack of {hash}")));
        }
        let has = |end: &str| folder.join(format!("{stem}.{end}")).exists();
        if !has("pack") || !has("idx") {
            missing.insert(stem.clone());
        }
    }
    Ok(missing)
}

const INDEX: &str = "git index-pack";

fn not_accepted(mirror: &Path, what: String) -> MirrorError {
    MirrorError::Output {
        op: INDEX,
        target: mirror.display().to_string(),
        what,
    }
}

/// Whether packs did not come into a mirror because git has found them to be something else.
pub(crate) fn are_wrong_packs(why: &MirrorError) -> bool {
    match why {
        MirrorError::Output { op, .. } => *op == INDEX,
        // One that was ended by a signal says nothing of them.
        MirrorError::Git { op, code, .. } => *op == INDEX && code.is_some(),
        _ => false,
    }
}

impl Arriving {
    /// Below a directory in the file system of the mirror, where the next start removes what a process that is killed leaves.
    pub(crate) fn begin(within: &Path) -> io::Result<Arriving> {
        let home = tempfile::Builder::new()
            .prefix("tmp_others_")
            .tempdir_in(within)?;
        Ok(Arriving {
            home: Unkept::new(home),
        })
    }

    /// Where a file is to be, of a name that [`pack_of`] takes.
    pub(crate) fn place_of(&self, name: &str) -> PathBuf {
        let home = self.home.get().map_or(Path::new(""), TempDir::path);
        home.join(name)
    }

    fn file(&self, stem: &str, end: &str) -> PathBuf {
        self.place_of(&format!("{stem}.{end}"))
    }

    /// Where the index of a pack is.
    pub(super) fn index_of(&self, stem: &str) -> PathBuf {
        self.file(stem, "idx")
    }
}

/// Takes what came as the index of a pack away; gives what it ends with.
fn take_index(pack: &Path, hash: Kind) -> io::Result<Vec<u8>> {
    let sums = sums_of(pack, hash)?;
    fs::remove_file(pack.with_extension("idx"))?;
    match fs::remove_file(pack.with_extension("rev")) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(sums),
    }
}

/// What the index of a pack ends with: the sum of the pack, and its own.
fn sums_of(pack: &Path, hash: Kind) -> io::Result<Vec<u8>> {
    let mut sums = vec![0; 2 * hash.len_in_bytes()];
    let mut file = File::open(pack.with_extension("idx"))?;
    file.seek(SeekFrom::End(-(sums.len() as i64)))?;
    file.read_exact(&mut sums)?;
    Ok(sums)
}

impl Git {
    /// Makes the indices of packs that have come, of what is in them. Then they are on the disk, and as old as
    /// [`journal::oldest_left`] says: all that takes time before they have their place.
    ///
    /// # Errors
    /// One is no pack, is not whole, or is not what its name or the index that came with it says.
    pub(crate) async fn index(
        &self,
        mirror: &Path,
        home: Arriving,
        stems: Vec<String>,
    ) -> Result<Indexed, MirrorError> {
        for stem in &stems {
            self.index_pack(mirror, &home, stem).await?;
        }
        let (path, indexed) = (mirror.to_owned(), Indexed { home, stems });
        let prepare = move || indexed.prepare(&path).map(|()| indexed);
        blocking(mirror, prepare).await
    }

    async fn index_pack(
        &self,
        mirror: &Path,
        home: &Arriving,
        stem: &str,
    ) -> Result<(), MirrorError> {
        let (path, pack) = (mirror.to_owned(), home.file(stem, "pack"));
        let io = |path: &Path, source| MirrorError::io("read the index of", path, source);
        let came = blocking(mirror, {
            let pack = pack.clone();
            move || {
                let hash = format_of(&config::read(&path)?);
                let came = take_index(&pack, hash).map_err(|source| io(&pack, source))?;
                Ok((hash, came))
            }
        });
        let (hash, came) = came.await?;
        let format = format!("--object-format={hash}");
        let nowhere = home.place_of("none");
        let mut call = self.upkeep(INDEX, mirror, &["index-pack", "--rev-index", &format]);
        call.git_dir = Some(&nowhere);
        // It is what a clone does with what it receives.
        call.limit = self.limits.clone;
        call.args.push(pack.clone().into());
        let said = self.output(call).await?;
        let named = format!("pack-{}", String::from_utf8_lossy(&said).trim());
        let made = move || sums_of(&pack, hash).map_err(|source| io(&pack, source));
        match named == stem && blocking(mirror, made).await? == came {
            true => Ok(()),
            false => {
                let what = format!("{stem} is not what its name and its index say");
                Err(not_accepted(mirror, what))
            }
        }
    }
}

impl Indexed {
    fn files(&self) -> impl Iterator<Item = (&String, &'static str)> {
        let stems = self.stems.iter();
        stems.flat_map(|stem| ENDS.map(|end| (stem, end)))
    }

    fn prepare(&self, mirror: &Path) -> Result<(), MirrorError> {
        let oldest = journal::oldest_left(mirror)?;
        let prepare = |(stem, end): (&String, &str)| {
            let file = File::open(self.home.file(stem, end))?;
            oldest.map_or(Ok(()), |oldest| file.set_modified(oldest))?;
            file.set_permissions(Permissions::from_mode(0o444))?;
            file.sync_all()
        };
        let done = self.files().try_for_each(prepare);
        done.map_err(|source| MirrorError::io("look at packs for", mirror, source))
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.stems.len()
    }

    /// Their names, without an end, and where their indices are.
    pub(super) fn indices(&self) -> impl Iterator<Item = (&str, PathBuf)> {
        let stems = self.stems.iter();
        stems.map(|stem| (&**stem, self.home.index_of(stem)))
    }

    /// Has them in their place in a mirror, as a few renames; what does not come whole leaves nothing there.
    pub(super) fn put_now(&self, mirror: &Path) -> io::Result<()> {
        let folder = mirror.join("objects/pack");
        for stem in &self.stems {
            let place = |end: &str| folder.join(format!("{stem}.{end}"));
            let put = |end: &&str| fs::rename(self.home.file(stem, end), place(end));
            let is_put = ENDS.iter().try_for_each(put);
            if is_put.is_err() && !place("idx").exists() {
                let _ = ["rev", "pack"].map(|end| fs::remove_file(place(end)));
            }
            is_put?;
        }
        Ok(())
    }

    /// The same for whoever holds the lock of what arrives; they are on the disk when this returns. They have their place
    /// before anything is waited for: somebody who is left half way leaves nothing half done.
    pub(crate) async fn put(self, mirror: &Path) -> Result<(), MirrorError> {
        let failed = |source| MirrorError::io("put packs into", mirror, source);
        self.put_now(mirror).map_err(failed)?;
        let folder = mirror.join("objects/pack");
        let synced = move || {
            let synced = File::open(&folder).and_then(|folder| folder.sync_all());
            synced.map_err(|source| MirrorError::io("sync", &folder, source))
        };
        blocking(mirror, synced).await
    }
}

#[cfg(test)]
pub(super) mod tests;
