//! Packs that come from somebody else than an upstream: they are written beside a mirror, and are put into it whole.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::SystemTime;

use tempfile::TempDir;

use super::error::MirrorError;
use super::journal;

use crate::manifest::id::is_lower_hex;

/// The files of a pack, in the order in which they appear: nothing is a pack without its index.
pub(super) const ENDS: [&str; 3] = ["pack", "rev", "idx"];

/// Packs on their way into a mirror. What is not put there goes. All of this waits for the disk.
#[derive(Debug)]
pub(crate) struct Arriving {
    home: TempDir,
}

/// The pack that a file is of, without an end, if it is a file of a pack. The name becomes a path.
pub(crate) fn pack_of(name: &str) -> Option<&str> {
    let (stem, end) = name.split_once('.')?;
    let hash = stem.strip_prefix("pack-")?;
    let is_hash = matches!(hash.len(), 40 | 64) && is_lower_hex(hash.as_bytes());
    (is_hash && ENDS.contains(&end)).then_some(stem)
}

/// Whether a mirror has a pack of this name.
pub(crate) fn has_pack(mirror: &Path, stem: &str) -> bool {
    let folder = mirror.join("objects/pack");
    folder.join(format!("{stem}.idx")).exists()
}

impl Arriving {
    /// Below a directory in the file system of the mirror.
    pub(crate) fn begin(tmp: &Path) -> io::Result<Arriving> {
        let home = tempfile::tempdir_in(tmp)?;
        Ok(Arriving { home })
    }

    /// A new file, of a name that [`pack_of`] takes.
    pub(crate) fn file(&self, name: &str) -> io::Result<File> {
        File::create_new(self.home.path().join(name))
    }

    /// It is whole.
    pub(crate) fn end(file: &File) -> io::Result<()> {
        file.set_permissions(Permissions::from_mode(0o444))?;
        file.sync_all()
    }

    /// Puts packs into a mirror, as old as [`journal::oldest_left`] says. They are on the disk when this returns.
    pub(crate) fn put<'s>(
        self,
        mirror: &Path,
        stems: impl Iterator<Item = &'s String>,
    ) -> Result<(), MirrorError> {
        let oldest = journal::oldest_left(mirror)?;
        let put = self.put_dated(&mirror.join("objects/pack"), stems, oldest);
        put.map_err(|source| MirrorError::io("put packs into", mirror, source))
    }

    fn put_dated<'s>(
        &self,
        into: &Path,
        stems: impl Iterator<Item = &'s String>,
        oldest: Option<SystemTime>,
    ) -> io::Result<()> {
        for stem in stems {
            for name in ENDS.map(|end| format!("{stem}.{end}")) {
                let from = self.home.path().join(&name);
                if from.exists() {
                    let dated = oldest.map(|oldest| File::open(&from)?.set_modified(oldest));
                    dated.unwrap_or(Ok(()))?;
                    fs::rename(from, into.join(name))?;
                }
            }
        }
        File::open(into)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_packs_become_paths() {
        let hash = "0123456789abcdef0123456789abcdef01234567";
        let name = format!("pack-{hash}.idx");
        assert_eq!(pack_of(&name), Some(&*format!("pack-{hash}")));
        let others = [
            format!("pack-{hash}.keep"),
            format!("pack-{hash}"),
            format!("pack-{hash}.pack.idx"),
            format!("pack-../{hash}.idx"),
            format!("{hash}.idx"),
            "pack-.idx".to_owned(),
        ];
        assert!(others.iter().all(|name| pack_of(name).is_none()));
    }

    #[test]
    fn what_is_not_put_goes() {
        let dir = tempfile::tempdir().unwrap();
        let mirror = dir.path().join("mirror.git");
        fs::create_dir_all(mirror.join("objects/pack")).unwrap();
        let stem = format!("pack-{}", "0".repeat(40));
        let make = || {
            let arriving = Arriving::begin(dir.path()).unwrap();
            for end in ["idx", "pack"] {
                let file = arriving.file(&format!("{stem}.{end}")).unwrap();
                Arriving::end(&file).unwrap();
            }
            arriving
        };
        drop(make());
        assert!(!has_pack(&mirror, &stem));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        make().put(&mirror, [&stem].into_iter()).unwrap();
        assert!(has_pack(&mirror, &stem));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    /// Or what expires here would be kept by a pack that is young.
    #[test]
    fn a_pack_is_as_old_as_what_refs_have_left() {
        let dir = tempfile::tempdir().unwrap();
        let mirror = dir.path().join("mirror.git");
        fs::create_dir_all(mirror.join("objects/pack")).unwrap();
        journal::begin(&mirror).unwrap();
        let left = gix::ObjectId::from_bytes_or_panic(&[1; 20]);
        journal::add(&mirror, &[left].into(), 1_000_000).unwrap();
        let arriving = Arriving::begin(dir.path()).unwrap();
        let stem = format!("pack-{}", "0".repeat(40));
        for end in ["idx", "pack"] {
            let file = arriving.file(&format!("{stem}.{end}")).unwrap();
            Arriving::end(&file).unwrap();
        }
        arriving.put(&mirror, [&stem].into_iter()).unwrap();
        for end in ["idx", "pack"] {
            let put = mirror.join(format!("objects/pack/{stem}.{end}"));
            let modified = fs::metadata(put).unwrap().modified().unwrap();
            let unix_ms = modified.duration_since(SystemTime::UNIX_EPOCH).unwrap();
            assert_eq!(unix_ms.as_millis(), 1_000_000, "{end}");
        }
    }
}
