//! The mirrors of a state directory: where they are, and how one leaves.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fs, io};

use super::{MIRRORS_NAME, StateDir};
use crate::io::fs::{Fs, Kind, Os};
use crate::limits::MIRROR_DEPTH_MAX;
use crate::manifest::path::is_plain_path;
use crate::store::files::{
    At, StoreError, create_dirs, delete_or_warn, is_repository, list, sync, sync_parent,
};

impl StateDir {
    /// The mirrors that are there, as ordered pairs of host and path: directories whose name
    /// ends in `.git` and that hold `HEAD` and `objects`. Not searched are repositories
    /// themselves, links to directories that are no mirrors, what is deeper than
    /// [`MIRROR_DEPTH_MAX`], and (with a warning) what this process may not read.
    pub fn mirrors(&self) -> Result<Vec<(String, String)>, StoreError> {
        let mut mirrors = Vec::new();
        for (host, dir) in list(&Os, &self.root.join(MIRRORS_NAME))? {
            if dir.is_dir() && !is_repository(&dir) {
                find_mirrors(&host, dir, &mut mirrors)?;
            }
        }
        mirrors.sort();
        Ok(mirrors)
    }

    /// Gives a mirror another place in one step, so that a process that dies leaves it at one of both; another
    /// mirror that lies there takes its old one. It lasts once this has returned; after an error all is as before.
    pub(crate) fn move_mirror(&self, from: &Path, to: &Path) -> Result<(), StoreError> {
        if from.is_symlink() {
            // What it leads to may depend on where it is.
            return Err(io::Error::other("it is a symbolic link")).at("move", from);
        }
        let parent = to.parent().unwrap_or(to);
        create_dirs(&Os, parent)?;
        let mut above = parent.ancestors().take_while(|dir| *dir != self.root);
        above.try_for_each(|dir| sync(&Os, dir))?;
        match is_repository(to) {
            true => Os.exchange(from, to),
            false => Os.rename(from, to),
        }
        .at("move", from)?;
        sync_parent(&Os, to)?;
        sync_parent(&Os, from)?;
        self.remove_empty_above(from);
        Ok(())
    }
}

impl<F: Fs> StateDir<F> {
    /// Where the mirror of `path` at `host` lies, whether it is there or not. Both must be
    /// plain (see [`is_plain_path`]), as the parser of routes makes sure.
    pub fn mirror_path(&self, host: &str, path: &str) -> PathBuf {
        debug_assert!(is_plain_path(host) && is_plain_path(path), "{host}/{path}");
        let mut file = self.root.join(MIRRORS_NAME);
        file.push(host);
        file.push(format!("{path}.git"));
        file
    }

    /// Takes a mirror's name away, for good. After an error it is there as before.
    pub(crate) fn take_mirror_away(&self, mirror: &Path) -> Result<Away<F>, StoreError> {
        let tmp = self.tmp_dir();
        let path = tmp.join(format!("evicted-{}.git", self.next_serial()));
        self.fs.rename(mirror, &path).at("rename", mirror)?;
        // The rename must be on disk before the first file is gone.
        let synced = sync_parent(&self.fs, mirror).and_then(|()| sync(&self.fs, &tmp));
        if let Err(error) = synced {
            // Best effort: if it stays away, the next start deletes it.
            let _ = self.fs.rename(&path, mirror);
            return Err(error);
        }
        Ok(Away {
            fs: self.fs.clone(),
            path,
            _lock: self.lock.clone(),
        })
    }

    /// Removes the directories above where a mirror was that are empty now, up to its host's.
    pub(crate) fn remove_empty_above(&self, mirror: &Path) {
        let mirrors = self.root.join(MIRRORS_NAME);
        let above = mirror.ancestors().skip(1);
        let mut above = above.take_while(|dir| dir.starts_with(&mirrors) && *dir != mirrors);
        // One that is not empty stays, and those above it.
        let _ = above.find(|dir| fs::remove_dir(dir).is_err());
    }
}

/// A mirror that has lost its name. Dropping it deletes it, which takes as long as it is large.
#[derive(Debug)]
pub(crate) struct Away<F: Fs = Os> {
    fs: F,
    path: PathBuf,
    /// No other process takes the state directory over meanwhile.
    _lock: Arc<F::Lock>,
}

impl<F: Fs> Drop for Away<F> {
    fn drop(&mut self) {
        delete_or_warn(&self.fs, &self.path);
    }
}

/// Adds the mirrors below `mirrors/{host}` to `found`.
fn find_mirrors(
    host: &str,
    dir: PathBuf,
    found: &mut Vec<(String, String)>,
) -> Result<(), StoreError> {
    let mut pending = vec![(dir, String::new(), 0)];
    while let Some((dir, prefix, depth)) = pending.pop() {
        let children = match list(&Os, &dir) {
            Err(StoreError::Io { source, .. })
                if source.kind() == io::ErrorKind::PermissionDenied =>
            {
                tracing::warn!(dir = %dir.display(), "not allowed to look for mirrors here");
                continue;
            }
            children => children?,
        };
        for (name, path) in children {
            if is_repository(&path) {
                if let Some(name) = name.strip_suffix(".git").filter(|name| !name.is_empty()) {
                    found.push((host.to_owned(), format!("{prefix}{name}")));
                }
            } else if depth < MIRROR_DEPTH_MAX
                && Os.stat(&path).is_ok_and(|stat| stat.kind == Kind::Dir)
            {
                pending.push((path, format!("{prefix}{name}/"), depth + 1));
            }
        }
    }
    Ok(())
}
