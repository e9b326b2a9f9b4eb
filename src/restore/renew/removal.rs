//! Removes refs: those that were looked at, each under git's own lock of it; any other stays.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::held::Held;
use super::lock::Locks;
use crate::refs;
use crate::restore::error::{RestoreError, failed};
use crate::restore::names::Names;
use crate::restore::path::as_path;
use crate::restore::steps;

/// Where the upstream's refs are.
const REMOTES: &str = "refs/remotes";

/// Removes the refs of the repository at `git_dir`.
pub(super) struct Removal<'r> {
    git_dir: &'r Path,
    /// Those that may go; `None` if all may.
    held: Option<&'r Held>,
    /// Those that are held already, and those that it takes.
    locks: &'r mut Locks,
    /// The branch that is there in the end, whose lock is held until then.
    stays: Option<&'r Path>,
    /// Names of those that stay.
    kept: BTreeSet<PathBuf>,
}

impl<'r> Removal<'r> {
    pub(super) fn new(
        git_dir: &'r Path,
        held: Option<&'r Held>,
        locks: &'r mut Locks,
        stays: Option<&'r Path>,
    ) -> Removal<'r> {
        Removal {
            git_dir,
            held,
            locks,
            stays,
            kept: BTreeSet::new(),
        }
    }

    /// Names of those that were not looked at and stay.
    pub(super) fn kept(&self) -> Names {
        let kept = self.kept.iter();
        kept.map(|name| name.display().to_string()).collect()
    }

    fn name<'p>(&self, path: &'p Path) -> &'p Path {
        path.strip_prefix(self.git_dir).unwrap_or(path)
    }

    /// Whether what is at `path` now is the ref that was looked at there, or none.
    fn is_known(&self, path: &Path) -> bool {
        let name = self.name(path).as_os_str().as_bytes();
        match (self.held, refs::read_loose_at(path)) {
            (None, _) | (_, Ok(None)) => true,
            (Some(held), Ok(Some(now))) => held.has(name, &now),
            (Some(_), Err(_)) => false,
        }
    }

    /// Removes one that has a file of its own, and its log, unless that is not what was looked at.
    pub(super) fn remove(&mut self, path: &Path) -> Result<(), RestoreError> {
        let is_locked = self.held.is_none() || self.locks.try_take(path)?;
        if !is_locked || !self.is_known(path) {
            let name = self.name(path).to_owned();
            self.kept.insert(name);
            self.release(path);
            return Ok(());
        }
        // Of a stash it has all but the last.
        let name = self.name(path);
        remove_below(self.git_dir, &Path::new("logs").join(name))?;
        remove_below(self.git_dir, name)?;
        self.release(path);
        Ok(())
    }

    fn release(&mut self, path: &Path) {
        if self.stays != Some(path) {
            self.locks.release(path);
        }
    }

    /// Puts the file at `from` there as the ref at `path`.
    pub(super) fn put(&mut self, from: &Path, path: &Path) -> Result<(), RestoreError> {
        if !self.locks.try_take(path)? || !self.is_known(path) {
            return Err(RestoreError::Usage(format!(
                "(all but refs is done) {} was made meanwhile, or somebody has its lock: the same command again looks at it",
                path.display()
            )));
        }
        steps::rename(from, path).map_err(failed("rename to", path))
    }

    /// Removes those below a directory, and that itself unless something stays there, or somebody has a lock.
    pub(super) fn clear(&mut self, directory: &Path) -> Result<(), RestoreError> {
        if !is_directory_itself(directory) {
            return Ok(());
        }
        for (path, is_directory) in listing(directory)? {
            match is_directory {
                _ if is_no_ref(&path) => {}
                true => self.clear(&path)?,
                // One of a branch that was nowhere but in `packed-refs`.
                false if is_lock(&path) => self.release(&path.with_extension("")),
                false => self.remove(&path)?,
            }
        }
        remove_directory(directory)
    }

    /// Removes the logs of all that have gone, or were replaced.
    pub(super) fn clear_logs(&self, branch: Option<&[u8]>) -> Result<(), RestoreError> {
        let logs = self.git_dir.join("logs");
        match self.held {
            Some(_) if is_directory_itself(&logs) => self.clear_logs_below(&logs, branch),
            // A link goes alone.
            _ if fs::symlink_metadata(&logs).is_ok_and(|found| !found.is_dir()) => remove(&logs),
            _ => match steps::remove_dir_all(&logs) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed("remove", &logs)(e)),
                _ => Ok(()),
            },
        }
    }

    fn clear_logs_below(
        &self,
        directory: &Path,
        branch: Option<&[u8]>,
    ) -> Result<(), RestoreError> {
        for (path, is_directory) in listing(directory)? {
            let name = self.name(&path);
            let name = name.strip_prefix("logs").unwrap_or(name);
            let is_ours = name == Path::new("HEAD")
                || name.starts_with(REMOTES)
                || branch.is_some_and(|branch| name == as_path(branch));
            match is_directory {
                true => self.clear_logs_below(&path, branch)?,
                // That of a ref which was made since.
                false if !is_ours && self.git_dir.join(name).is_file() => {}
                false => remove(&path)?,
            }
        }
        remove_directory(directory)
    }
}

/// Removes the file at `path` below `root`, if only directories lead there: what is behind a link is nobody's to remove.
fn remove_below(root: &Path, path: &Path) -> Result<(), RestoreError> {
    let whole = root.join(path);
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::open(root, flags.difference(OFlags::NOFOLLOW), Mode::empty());
    let mut directory = opened.map_err(|e| RestoreError::disk("open", root, e))?;
    for name in path.parent().into_iter().flatten() {
        directory = match rustix::fs::openat(&directory, name, flags, Mode::empty()) {
            Ok(inside) => inside,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
            Err(e) => return Err(RestoreError::disk("remove", &whole, e)),
        };
    }
    let name = path.file_name().unwrap_or_default();
    match steps::remove_at(&directory, name) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed("remove", &whole)(e)),
        _ => Ok(()),
    }
}

pub(super) fn remove(path: &Path) -> Result<(), RestoreError> {
    match steps::remove_file(path) {
        Err(e)
            if !matches!(
                e.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            Err(failed("remove", path)(e))
        }
        _ => Ok(()),
    }
}

fn remove_directory(directory: &Path) -> Result<(), RestoreError> {
    match steps::remove_dir(directory) {
        Err(e) if e.kind() != io::ErrorKind::DirectoryNotEmpty => {
            Err(failed("remove", directory)(e))
        }
        _ => Ok(()),
    }
}

/// What is in a directory, and which of it are directories themselves.
pub(super) fn listing(directory: &Path) -> Result<Vec<(PathBuf, bool)>, RestoreError> {
    let entry = |entry: io::Result<fs::DirEntry>| {
        let entry = entry?;
        Ok((entry.path(), entry.file_type()?.is_dir()))
    };
    let entries = fs::read_dir(directory).and_then(|entries| entries.map(entry).collect());
    entries.map_err(failed("read", directory))
}

/// Whether it is one, and no link to one: what that leads to is nobody's to remove.
fn is_directory_itself(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.is_dir())
}

/// Whether it is what git passes over below the directory of refs: what editors and file managers leave there.
pub(super) fn is_no_ref(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default();
    name.as_bytes().starts_with(b".")
}

/// Finds such in a directory.
fn find_no_ref(directory: &Path) -> Result<Option<PathBuf>, RestoreError> {
    for (path, is_directory) in listing(directory)? {
        if is_no_ref(&path) {
            return Ok(Some(path));
        }
        if is_directory && let Some(found) = find_no_ref(&path)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// Refuses where such is in a directory below `to` that has to make room for a ref below `from`.
pub(super) fn expect_room(from: &Path, to: &Path) -> Result<(), RestoreError> {
    for (path, is_directory) in listing(from)? {
        let old = to.join(path.file_name().unwrap_or_default());
        match is_directory_itself(&old) {
            false => {}
            true if is_directory => expect_room(&path, &old)?,
            true => match find_no_ref(&old)? {
                None => {}
                Some(found) => {
                    return Err(RestoreError::Usage(format!(
                        "{} is no ref, and where one comes: remove it",
                        found.display()
                    )));
                }
            },
        }
    }
    Ok(())
}

pub(super) fn is_lock(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == "lock")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(git_dir: &Path, name: &str, text: &str) {
        let path = git_dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Whoever works there does so until the last moment.
    #[test]
    fn what_was_made_since_stays() {
        let directory = tempfile::tempdir().unwrap();
        let git_dir = directory.path();
        let ids = ["1", "2"].map(|digit| format!("{}\n", digit.repeat(40)));
        write(git_dir, "HEAD", "ref: refs/heads/main\n");
        for name in ["refs/heads/main", "refs/heads/a/b", "refs/tags/old"] {
            write(git_dir, name, &ids[0]);
            write(git_dir, &format!("logs/{name}"), "log\n");
        }
        write(git_dir, "refs/remotes/origin/main", &ids[0]);
        write(git_dir, "logs/HEAD", "log\n");
        let held = Held::read(git_dir).unwrap();
        write(git_dir, "refs/remotes/origin/main", &ids[1]);
        write(git_dir, "refs/heads/a/b", &ids[1]);
        for name in ["refs/stash", "refs/heads/new", "refs/tags/locked"] {
            write(git_dir, name, &ids[0]);
            write(git_dir, &format!("logs/{name}"), "log\n");
        }
        write(git_dir, "refs/tags/old.lock", "");
        // Git passes over them, too.
        let left = ["refs/heads/.x/y", "refs/heads/a/.b.swp"];
        left.iter().for_each(|name| write(git_dir, name, "x"));
        let main = git_dir.join("refs/heads/main");
        let mut locks = Locks::new(git_dir.join("scratch"));
        for name in ["refs/heads/main", "refs/heads/packed/only"] {
            locks.take_ref(&git_dir.join(name)).unwrap();
        }
        let mut removal = Removal::new(git_dir, Some(&held), &mut locks, Some(&main));
        removal.clear(&git_dir.join("refs")).unwrap();
        removal.clear_logs(Some(b"refs/heads/main")).unwrap();
        let stay = [
            "refs/heads/a/b",
            "refs/heads/new",
            "refs/stash",
            "refs/tags/locked",
            "refs/tags/old",
        ];
        assert_eq!(removal.kept().to_string(), stay.join(", "));
        for name in stay {
            assert!(git_dir.join(name).is_file() && git_dir.join("logs").join(name).is_file());
        }
        for name in [
            "refs/heads/main",
            "refs/heads/packed",
            "refs/remotes",
            "logs/HEAD",
        ] {
            assert!(!git_dir.join(name).exists(), "{name}");
        }
        drop(locks);
        let mut locks = Locks::new(git_dir.join("scratch-2"));
        let mut removal = Removal::new(git_dir, None, &mut locks, None);
        removal.clear(&git_dir.join("refs")).unwrap();
        removal.clear_logs(None).unwrap();
        assert!(removal.kept().is_empty() && !git_dir.join("logs").exists());
        assert!(left.iter().all(|name| git_dir.join(name).is_file()));
        // They are told of where a ref comes.
        write(&git_dir.join("made"), "heads/a", &ids[0]);
        let room = |from: &str| expect_room(&git_dir.join(from), &git_dir.join("refs"));
        let refused = room("made").unwrap_err().to_string();
        assert!(
            refused.contains("refs/heads/a/.b.swp is no ref"),
            "{refused}"
        );
        write(&git_dir.join("made-2"), "heads/b", &ids[0]);
        room("made-2").unwrap();
    }

    #[test]
    fn what_comes_replaces_nothing_that_was_not_looked_at() {
        let directory = tempfile::tempdir().unwrap();
        let git_dir = directory.path();
        let ids = ["1", "2"].map(|digit| format!("{}\n", digit.repeat(40)));
        write(git_dir, "HEAD", "ref: refs/heads/main\n");
        write(git_dir, "refs/heads/main", &ids[0]);
        let held = Held::read(git_dir).unwrap();
        let main = git_dir.join("refs/heads/main");
        let mut locks = Locks::new(git_dir.join("scratch"));
        let mut removal = Removal::new(git_dir, Some(&held), &mut locks, Some(&main));
        let comes = git_dir.join("comes");
        fs::write(&comes, &ids[0]).unwrap();
        removal.put(&comes, &main).unwrap();
        fs::write(&comes, &ids[0]).unwrap();
        write(git_dir, "refs/heads/main", &ids[1]);
        removal.put(&comes, &main).unwrap_err();
        // Whoever writes it has its lock.
        write(git_dir, "refs/heads/theirs.lock", "");
        let theirs = git_dir.join("refs/heads/theirs");
        let refused = removal.put(&comes, &theirs).unwrap_err();
        assert!(
            refused.to_string().contains("somebody has its lock"),
            "{refused}"
        );
        assert!(git_dir.join("refs/heads/main.lock").exists());
        drop(locks);
        assert!(!git_dir.join("refs/heads/main.lock").exists());
    }

    #[test]
    fn what_a_link_leads_to_stays() {
        let directory = tempfile::tempdir().unwrap();
        let (git_dir, other) = (
            &directory.path().join("git"),
            directory.path().join("other"),
        );
        write(git_dir, "HEAD", "ref: refs/heads/main\n");
        write(&other, "HEAD", "precious\n");
        write(&other, "heads/main", "precious\n");
        let held = Held::read(git_dir).unwrap();
        for held in [Some(&held), None] {
            for name in ["logs", "refs"] {
                std::os::unix::fs::symlink(&other, git_dir.join(name)).unwrap();
            }
            let mut locks = Locks::new(git_dir.join("scratch"));
            let mut removal = Removal::new(git_dir, held, &mut locks, None);
            removal.clear(&git_dir.join("refs")).unwrap();
            removal.clear_logs(None).unwrap();
            assert!(other.join("HEAD").is_file() && other.join("heads/main").is_file());
            assert!(fs::symlink_metadata(git_dir.join("logs")).is_err());
            fs::remove_file(git_dir.join("refs")).unwrap();
        }
    }
}
