//! The packs that come into a repository after its archive: those of a step that failed go again,
//! with all that was put beside them.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::error::RestoreError;

/// What comes from now on, which goes when this does, unless it is kept.
pub(super) struct Arrivals {
    directory: PathBuf,
    before: HashSet<OsString>,
    stay: bool,
}

impl Arrivals {
    /// Those of the repository at `tree`, which need not be there yet.
    pub(super) fn watch(tree: &Path) -> Result<Arrivals, RestoreError> {
        let directory = tree.join(".git/objects/pack");
        let failed = |e| RestoreError::disk("read", &directory, e);
        let before = match fs::read_dir(&directory) {
            Ok(entries) => {
                let names = entries.map(|entry| Ok(entry?.file_name()));
                names.collect::<io::Result<_>>().map_err(failed)?
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => HashSet::new(),
            Err(e) => return Err(failed(e)),
        };
        Ok(Arrivals {
            directory,
            before,
            stay: false,
        })
    }

    /// What has come is whole and stays.
    pub(super) fn keep(mut self) {
        self.stay = true;
    }
}

impl Drop for Arrivals {
    fn drop(&mut self) {
        if self.stay {
            return;
        }
        for entry in fs::read_dir(&self.directory)
            .into_iter()
            .flatten()
            .flatten()
        {
            if !self.before.contains(&entry.file_name()) {
                // What cannot be removed now goes with all of the directory that is in the making.
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_kept_goes_and_nothing_else() {
        let tree = tempfile::tempdir().unwrap();
        let pack = tree.path().join(".git/objects/pack");
        let none = Arrivals::watch(tree.path()).unwrap();
        fs::create_dir_all(&pack).unwrap();
        let put = |name: &str| fs::write(pack.join(name), name).unwrap();
        let left = || {
            let entries = fs::read_dir(&pack).unwrap();
            let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name()).collect();
            names.sort();
            names
        };
        put("a.pack");
        let kept = Arrivals::watch(tree.path()).unwrap();
        put("b.pack");
        kept.keep();
        let lost = Arrivals::watch(tree.path()).unwrap();
        put("c.pack");
        put("c.promisor");
        drop(lost);
        assert_eq!(left(), ["a.pack", "b.pack"]);
        drop(none);
        assert!(left().is_empty());
    }
}
