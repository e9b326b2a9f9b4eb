//! The repositories of submodules, which are inside of the one that they are submodules of and go
//! with it: `modules/NAME`, where a name may have slashes, of a repository and of its linked
//! worktrees, and of such a submodule again.
//!
//! And the linked worktrees of all of them, which are elsewhere and lead into them.
//!
//! A repository that a submodule has in its own directory, as old versions of git made it, is none of
//! these: it stays where it is, as all that nobody tracks.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::data::read;
use super::path::as_path;
use crate::limits::{
    GIT_FILE_BYTES_MAX, SUBMODULES_DEPTH_MAX, SUBMODULES_ENTRIES_MAX, SUBMODULES_MAX,
};

/// A submodule's repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Submodule {
    /// As its directory has it, below that of each submodule that it is one of.
    pub name: String,
    pub git_dir: PathBuf,
}

/// All of them inside of the repository at `git_dir`; an error says why that cannot be told.
pub(super) fn submodules(git_dir: &Path) -> Result<Vec<Submodule>, String> {
    let mut walk = Walk {
        found: Vec::new(),
        entries: 0,
    };
    walk.repository(git_dir, "", 0)?;
    Ok(walk.found)
}

/// Where the linked worktrees of the repository at `git_dir`, and of those inside of it, are; an error
/// says why that cannot be told. One that is gone and not said to come back is none.
pub(super) fn worktrees(git_dir: &Path) -> Result<Vec<PathBuf>, String> {
    let mut walk = Walk {
        found: Vec::new(),
        entries: 0,
    };
    walk.repository(git_dir, "", 0)?;
    let inside = std::mem::take(&mut walk.found);
    let inside = inside.into_iter().map(|submodule| submodule.git_dir);
    let mut found = Vec::new();
    for git_dir in [git_dir.to_owned()].into_iter().chain(inside) {
        for worktree in walk.list(&git_dir.join("worktrees"))? {
            found.extend(leads_to(&worktree)?);
        }
    }
    Ok(found)
}

/// The directory that the linked worktree with the data at `worktree` is, if it is one.
fn leads_to(worktree: &Path) -> Result<Option<PathBuf>, String> {
    let link = worktree.join("gitdir");
    let text = match read(&link, GIT_FILE_BYTES_MAX) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(cannot(&link, e)),
    };
    let file = worktree.join(as_path(text.trim_ascii_end()));
    let is_there = |path: &Path| fs::symlink_metadata(path).is_ok();
    let is_one = is_there(&file) || is_there(&worktree.join("locked"));
    Ok(file.parent().filter(|_| is_one).map(Path::to_owned))
}

struct Walk {
    found: Vec<Submodule>,
    entries: usize,
}

fn cannot(path: &Path, why: impl std::fmt::Display) -> String {
    format!(
        "its submodules cannot be looked at: {}: {why}",
        path.display()
    )
}

impl Walk {
    /// Those of a repository, whose own name is `name`.
    fn repository(&mut self, git_dir: &Path, name: &str, depth: usize) -> Result<(), String> {
        self.names(&git_dir.join("modules"), name, depth)?;
        for worktree in self.list(&git_dir.join("worktrees"))? {
            self.names(&worktree.join("modules"), name, depth)?;
        }
        Ok(())
    }

    /// Those in a directory whose name, as far as it goes, is `name`.
    fn names(&mut self, directory: &Path, name: &str, depth: usize) -> Result<(), String> {
        if depth >= SUBMODULES_DEPTH_MAX {
            return Err(cannot(directory, "it is nested too deep"));
        }
        for path in self.list(directory)? {
            let last = path.file_name().unwrap_or_default().to_string_lossy();
            let name = match name {
                "" => last.into_owned(),
                above => format!("{above}/{last}"),
            };
            if !is_repository(&path) {
                self.names(&path, &name, depth + 1)?;
                continue;
            }
            if self.found.len() >= SUBMODULES_MAX {
                let why = format!("there are more than {SUBMODULES_MAX}");
                return Err(cannot(directory, why));
            }
            self.found.push(Submodule {
                name: name.clone(),
                git_dir: path.clone(),
            });
            self.repository(&path, &name, depth + 1)?;
        }
        Ok(())
    }

    /// The directories in one; none where that is not there. A link leads anywhere.
    fn list(&mut self, directory: &Path) -> Result<Vec<PathBuf>, String> {
        let failed = |e: io::Error| cannot(directory, e);
        match fs::symlink_metadata(directory) {
            Ok(found) if found.is_dir() => {}
            Ok(_) => return Err(cannot(directory, "it is no directory")),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(failed(e)),
        }
        let mut below = Vec::new();
        for entry in fs::read_dir(directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            self.entries += 1;
            if self.entries > SUBMODULES_ENTRIES_MAX {
                return Err(cannot(directory, "there is no end to them"));
            }
            let kind = entry.file_type().map_err(failed)?;
            if kind.is_symlink() {
                return Err(cannot(&entry.path(), "it is a link"));
            }
            if kind.is_dir() {
                below.push(entry.path());
            }
        }
        below.sort();
        Ok(below)
    }
}

/// Whether a directory is one, if a damaged one, and not a part of the names of some: these may be called `x/HEAD` and
/// `x/objects`.
fn is_repository(path: &Path) -> bool {
    let has_head = |path: &Path| {
        let head = fs::symlink_metadata(path.join("HEAD"));
        head.is_ok_and(|head| !head.is_dir())
    };
    let objects = path.join("objects");
    has_head(path) || (fs::symlink_metadata(&objects).is_ok() && !has_head(&objects))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make(git_dir: &Path, path: &str) {
        fs::create_dir_all(git_dir.join(path).join("objects")).unwrap();
    }

    #[test]
    fn submodules_are_found_wherever_git_puts_them() {
        let directory = tempfile::tempdir().unwrap();
        let git_dir = directory.path();
        assert_eq!(submodules(git_dir).unwrap(), []);
        for path in [
            "modules/a",
            "modules/lib/b",
            "modules/a/modules/c/d",
            "worktrees/w/modules/e",
        ] {
            make(git_dir, path);
        }
        fs::create_dir_all(git_dir.join("modules/empty")).unwrap();
        fs::write(git_dir.join("modules/file"), "").unwrap();
        let found = submodules(git_dir).unwrap();
        let names: Vec<&str> = found.iter().map(|found| &*found.name).collect();
        assert_eq!(names, ["a", "a/c/d", "lib/b", "e"]);
        assert_eq!(found[1].git_dir, git_dir.join("modules/a/modules/c/d"));
    }

    #[test]
    fn linked_worktrees_are_those_that_are_there_or_may_come_back() {
        let directory = tempfile::tempdir().unwrap();
        let git_dir = directory.path().join(".git");
        make(&git_dir, "modules/a");
        let link = |at: &str, to: &str| {
            let at = git_dir.join(at);
            fs::create_dir_all(&at).unwrap();
            fs::write(at.join("gitdir"), format!("{to}\n")).unwrap();
            at
        };
        let there = directory.path().join("there");
        fs::create_dir(&there).unwrap();
        fs::write(there.join(".git"), "").unwrap();
        // As an absolute path, and as a relative one.
        link("worktrees/a", &there.join(".git").to_string_lossy());
        link("modules/a/worktrees/b", "../../../../../there/.git");
        link("worktrees/c", "/nowhere/.git");
        let locked = link("worktrees/d", "/nowhere/too/.git");
        fs::write(locked.join("locked"), "").unwrap();
        fs::create_dir(git_dir.join("worktrees/e")).unwrap();
        let found = worktrees(&git_dir).unwrap();
        assert_eq!(found[..2], [there.clone(), "/nowhere/too".into()]);
        assert_eq!(found.len(), 3);
        assert!(found[2].ends_with("../there"), "{found:?}");
        let gitdir = locked.join("gitdir");
        fs::remove_file(&gitdir).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &gitdir).unwrap();
        worktrees(&git_dir).unwrap_err();
    }

    #[test]
    fn what_cannot_be_told_is_an_error() {
        type Prepare = fn(&Path);
        let kinds: [(&str, Prepare); 4] = [
            ("a link", |git_dir| {
                fs::create_dir(git_dir.join("modules")).unwrap();
                std::os::unix::fs::symlink("/", git_dir.join("modules/a")).unwrap();
            }),
            ("no directory", |git_dir| {
                std::os::unix::fs::symlink("/", git_dir.join("modules")).unwrap();
            }),
            ("too deep", |git_dir| {
                let deep = "/a".repeat(SUBMODULES_DEPTH_MAX + 1);
                make(git_dir, &format!("modules{deep}"));
            }),
            ("more than", |git_dir| {
                for number in 0..=SUBMODULES_MAX {
                    make(git_dir, &format!("modules/{number}"));
                }
            }),
        ];
        for (what, prepare) in kinds {
            let directory = tempfile::tempdir().unwrap();
            prepare(directory.path());
            let why = submodules(directory.path()).unwrap_err();
            assert!(why.contains(what), "{why}");
        }
    }
}
