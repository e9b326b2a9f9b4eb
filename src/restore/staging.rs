//! All or nothing: a restore is made in a directory of its own beside the target (or inside of it,
//! where it cannot be replaced as a whole) and takes its place at the end.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use tempfile::TempDir;

use super::error::RestoreError;
use super::write::as_path;

/// A restore in the making; removed with everything in it unless it was installed.
pub struct Staging {
    directory: TempDir,
    target: PathBuf,
    /// The target is there and stays: entries move into it one by one.
    merges: bool,
}

fn failed(op: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RestoreError {
    let path = path.to_owned();
    move |e| RestoreError::disk(op, path, e)
}

impl Staging {
    /// Makes the directory. A target that is not empty is refused unless `overwrite`.
    pub fn new(target: &Path, overwrite: bool) -> Result<Staging, RestoreError> {
        let target = std::path::absolute(target).map_err(failed("find", target))?;
        let usage = |why: &str| RestoreError::Usage(format!("{} {why}", target.display()));
        let parent = target.parent().ok_or_else(|| usage("cannot be replaced"))?;
        fs::create_dir_all(parent).map_err(failed("create", parent))?;
        let mut merges = false;
        match fs::symlink_metadata(&target) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(RestoreError::disk("look at", target, e)),
            Ok(found) if found.is_dir() => {
                let mut listing = fs::read_dir(&target).map_err(failed("read", &target))?;
                let is_empty = listing.next().is_none();
                if !is_empty && !overwrite {
                    return Err(usage("is not empty; --overwrite replaces what is in it"));
                }
                let above = fs::metadata(parent).map_err(failed("look at", parent))?;
                let here = fs::metadata(".").map(|m| (m.dev(), m.ino())).ok();
                // A mount point, or where the caller's shell stands, cannot be replaced.
                let stays = above.dev() != found.dev() || here == Some((found.dev(), found.ino()));
                merges = !is_empty || stays;
            }
            Ok(_) => return Err(usage("is there and is no directory")),
        }
        let base = if merges { &target } else { parent };
        let directory = tempfile::Builder::new()
            .prefix(".tarpon-restore-")
            .tempdir_in(base);
        let staging = Staging {
            directory: directory.map_err(failed("create a directory in", base))?,
            target: target.clone(),
            merges,
        };
        for path in [staging.tree(), staging.trash()] {
            fs::create_dir(&path).map_err(failed("create", &path))?;
        }
        Ok(staging)
    }

    /// Where the repository is made.
    pub fn tree(&self) -> PathBuf {
        self.directory.path().join("tree")
    }

    /// A place for a file that is needed meanwhile.
    pub fn scratch(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn trash(&self) -> PathBuf {
        self.directory.path().join("trash")
    }

    /// Whether the files move one by one, which changes their ctime.
    pub fn merges(&self) -> bool {
        self.merges
    }

    /// The target.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Opens the tree, to write below it.
    pub fn open_tree(&self) -> Result<File, RestoreError> {
        File::open(self.tree()).map_err(failed("open", &self.tree()))
    }

    /// Puts the tree into the target's place. `stale` are files of an earlier checkout that the
    /// new one does not have.
    pub fn install(&self, stale: &[Vec<u8>]) -> Result<(), RestoreError> {
        if !self.merges {
            // Replaces nothing, or an empty directory; fails if somebody else was faster.
            return fs::rename(self.tree(), &self.target).map_err(|e| match e.kind() {
                io::ErrorKind::DirectoryNotEmpty
                | io::ErrorKind::AlreadyExists
                | io::ErrorKind::NotADirectory => {
                    let target = self.target.display();
                    RestoreError::Usage(format!("{target} was made by somebody else meanwhile"))
                }
                _ => RestoreError::disk("rename to", &self.target, e),
            });
        }
        let mut moved = 0;
        self.merge(&self.tree(), &self.target, true, &mut moved)?;
        for path in stale {
            self.remove_stale(&as_path(path));
        }
        // Last: until here the old repository is whole.
        let git = self.target.join(".git");
        self.replace(&self.tree().join(".git"), &git, &mut moved)
    }

    fn merge(
        &self,
        from: &Path,
        to: &Path,
        top: bool,
        moved: &mut u64,
    ) -> Result<(), RestoreError> {
        for entry in fs::read_dir(from).map_err(failed("read", from))? {
            let entry = entry.map_err(failed("read", from))?;
            if top && entry.file_name() == ".git" {
                continue;
            }
            let (source, to) = (entry.path(), to.join(entry.file_name()));
            let is_dir = |path: &Path| fs::symlink_metadata(path).is_ok_and(|m| m.is_dir());
            match is_dir(&source) && is_dir(&to) {
                true => self.merge(&source, &to, false, moved)?,
                false => self.replace(&source, &to, moved)?,
            }
        }
        Ok(())
    }

    /// Renames `from` to `to`; a directory on either side first has what is there moved away.
    fn replace(&self, from: &Path, to: &Path, moved: &mut u64) -> Result<(), RestoreError> {
        let kind = |path: &Path| fs::symlink_metadata(path).map(|m| m.is_dir());
        let was_dir = kind(to);
        let is_dir = kind(from).map_err(failed("look at", from))?;
        if was_dir.as_ref().is_ok_and(|was_dir| *was_dir || is_dir) {
            *moved += 1;
            let away = self.trash().join(moved.to_string());
            fs::rename(to, away).map_err(failed("move away", to))?;
        }
        fs::rename(from, to).map_err(failed("rename to", to))
    }

    /// Removes a file, unless its path leads through something that is no directory; directories
    /// that are empty then go, too.
    fn remove_stale(&self, path: &Path) {
        let plain = path.components().all(|c| matches!(c, Component::Normal(_)));
        let mut above = path
            .ancestors()
            .skip(1)
            .filter(|p| !p.as_os_str().is_empty());
        let is_dir = |p: &Path| fs::symlink_metadata(self.target.join(p)).is_ok_and(|m| m.is_dir());
        if !plain || !above.all(is_dir) || fs::remove_file(self.target.join(path)).is_err() {
            return;
        }
        for above in path
            .ancestors()
            .skip(1)
            .filter(|p| !p.as_os_str().is_empty())
        {
            if fs::remove_dir(self.target.join(above)).is_err() {
                return;
            }
        }
    }
}

/// The paths of `old` that `new` does not have.
pub fn stale(old: Vec<Vec<u8>>, new: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let new: HashSet<Vec<u8>> = new.into_iter().collect();
    old.into_iter().filter(|path| !new.contains(path)).collect()
}
