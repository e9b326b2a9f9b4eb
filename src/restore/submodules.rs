//! Restores the submodules of a restored tree, each as a repository of its own and a few at a time, and puts them where
//! `git clone --recurse-submodules` has them: their repositories below `.git/modules` of the one that they are submodules
//! of, files in their places, which lead there.
//!
//! Each is made beside the tree, with all that is inside of it, before it gets its place. What leads from one to the
//! other is written last, once all have theirs.

use std::collections::VecDeque;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use gix::bstr::ByteSlice;

use super::configured::Configured;
use super::credentials;
use super::default_branch;
use super::error::{RestoreError, failed};
use super::gitmodules::{self, Submodule, resolved, too_many};
use super::quota::Shared;
use super::stop::Stop;
use crate::config::{GivenUrl, RestoreArgs};
use crate::limits::{
    INTERRUPT_POLL_MS, SUBMODULES_AT_ONCE, SUBMODULES_NESTED_MAX, SUBMODULES_RESTORED_MAX,
};

/// Why the others end when one of them has failed.
const OTHER_FAILED: &str = "another submodule that has failed";

/// Where a submodule is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Placed {
    /// Its files, relative to the worktree.
    path: PathBuf,
    /// Its repository, relative to the `.git` of that.
    git_dir: PathBuf,
}

/// Of what a restore is a part.
#[derive(Debug, Default)]
pub(super) struct Nest {
    /// Superprojects around it.
    depth: usize,
    /// Submodules of all of them.
    count: Arc<AtomicUsize>,
    /// What all take of the disk.
    pub taken: Shared,
    /// Those inside of it, once they have their places.
    placed: Mutex<Vec<Placed>>,
}

impl Nest {
    /// That of a submodule of it.
    fn below(&self) -> Result<Nest, RestoreError> {
        if self.depth >= SUBMODULES_NESTED_MAX {
            let why = format!("submodules are nested more than {SUBMODULES_NESTED_MAX} deep");
            return Err(RestoreError::entry(b".gitmodules", why));
        }
        if self.count.fetch_add(1, Relaxed) >= SUBMODULES_RESTORED_MAX {
            return Err(too_many());
        }
        Ok(Nest {
            depth: self.depth + 1,
            count: self.count.clone(),
            taken: self.taken.clone(),
            placed: Mutex::default(),
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// How one repository is restored.
pub(super) type Restores<'a> =
    &'a (dyn Fn(&RestoreArgs, &Stop, &Nest) -> Result<(), RestoreError> + Sync);

/// A restored tree, of which the submodules are to be.
pub(super) struct Site<'a> {
    pub args: &'a RestoreArgs,
    pub stop: &'a Stop,
    pub tree: &'a Path,
    /// An empty directory on the same file system.
    pub scratch: &'a Path,
    pub nest: &'a Nest,
    /// Where its repository is from.
    pub origin: &'a str,
}

/// What the threads share.
struct Work {
    left: VecDeque<(usize, Submodule)>,
    error: Option<RestoreError>,
}

impl Site<'_> {
    /// Restores all of them by `restores`.
    pub(super) fn restore_all(&self, restores: Restores<'_>) -> Result<(), RestoreError> {
        let all = gitmodules::of_tree(self.stop, self.tree)?;
        let path = self.tree.join(".git/config");
        let mut config = Configured::open(&path)?;
        self.configure(&mut config, &all)?;
        config.write(&path)?;
        let wanted = all
            .into_iter()
            .filter(|one| one.update.as_deref() != Some("none"));
        let work = Mutex::new(Work {
            left: wanted.enumerate().collect(),
            error: None,
        });
        let stops: [Stop; SUBMODULES_AT_ONCE] = std::array::from_fn(|_| Stop::default());
        std::thread::scope(|scope| {
            let run = |stop| {
                while let Some((number, one)) = next(&work) {
                    if let Err(error) = self.restore(number, &one, stop, restores) {
                        lock(&work)
                            .error
                            .get_or_insert(error.of_submodule(&one.path));
                        stops
                            .iter()
                            .for_each(|stop: &Stop| stop.interrupt(OTHER_FAILED));
                    }
                }
            };
            // Within one of them it is one after the other: each that runs has the memory of a restore.
            let at_once = match self.nest.depth {
                0 => SUBMODULES_AT_ONCE,
                _ => 1,
            };
            let running = stops.iter().take(at_once);
            let running: Vec<_> = running.map(|stop| scope.spawn(move || run(stop))).collect();
            while !running.iter().all(|thread| thread.is_finished()) {
                if self.stop.is_set() {
                    let signal = self.stop.signal().unwrap_or(OTHER_FAILED);
                    stops.iter().for_each(|stop| stop.interrupt(signal));
                }
                std::thread::sleep(Duration::from_millis(INTERRUPT_POLL_MS / 10));
            }
        });
        if let Some(error) = lock(&work).error.take() {
            return Err(error);
        }
        match self.nest.depth {
            0 => lock(&self.nest.placed)
                .iter()
                .try_for_each(|placed| self.link(placed)),
            _ => Ok(()),
        }
    }

    /// Restores one and gives it its place.
    fn restore(
        &self,
        number: usize,
        one: &Submodule,
        stop: &Stop,
        restores: Restores<'_>,
    ) -> Result<(), RestoreError> {
        let made = self.scratch.join(number.to_string());
        let nest = self.nest.below()?;
        let url = resolved(self.args.repo_url.text(), &one.url)?;
        let args = RestoreArgs {
            repo_url: GivenUrl::new(&url),
            send_upstream_credential: self.args.send_upstream_credential && self.is_near(&url),
            dir: made.clone(),
            refs: Vec::new(),
            commits: vec![one.commit.clone()],
            have: Vec::new(),
            depth: None,
            overwrite: false,
            discard_local: false,
            quiet: true,
            json: false,
            ..self.args.clone()
        };
        restores(&args, stop, &nest)?;
        settle(&made.join(".git"), &resolved(self.origin, &one.url)?)?;
        let git_dir = Path::new("modules").join(&one.name);
        let there = self.tree.join(".git").join(&git_dir);
        let above = there.parent().unwrap_or(&there);
        fs::create_dir_all(above).map_err(failed("create", above))?;
        fs::rename(made.join(".git"), &there).map_err(failed("rename to", &there))?;
        // An empty directory is there for it.
        let place = self.tree.join(&one.path);
        fs::rename(&made, &place).map_err(failed("rename to", &place))?;
        let mut placed = lock(&self.nest.placed);
        placed.extend(lock(&nest.placed).drain(..).map(|inside| Placed {
            path: one.path.join(inside.path),
            git_dir: git_dir.join(inside.git_dir),
        }));
        placed.push(Placed {
            path: one.path.clone(),
            git_dir,
        });
        Ok(())
    }

    /// Says of the superproject's submodules what `git submodule init` notes.
    fn configure(&self, config: &mut Configured, all: &[Submodule]) -> Result<(), RestoreError> {
        if self.nest.depth == 0 {
            config.set(("submodule", None), "active", b".")?;
        }
        for one in all {
            let section = ("submodule", Some(one.name.as_bytes().as_bstr()));
            if self.nest.depth > 0 {
                config.set(section, "active", b"true")?;
            }
            let url = resolved(self.origin, &one.url)?;
            config.set(section, "url", url.as_bytes())?;
            if let Some(update) = &one.update {
                config.set(section, "update", update.as_bytes())?;
            }
        }
        Ok(())
    }

    /// Has the two parts of one lead to each other, wherever the whole is.
    fn link(&self, placed: &Placed) -> Result<(), RestoreError> {
        let Placed { path, git_dir } = placed;
        let up = |path: &Path, more: usize| "../".repeat(path.components().count() + more);
        let config = self.tree.join(".git").join(git_dir).join("config");
        let worktree = Path::new(&up(git_dir, 1)).join(path);
        let mut configured = Configured::open(&config)?;
        configured.set(("core", None), "worktree", worktree.as_os_str().as_bytes())?;
        configured.write(&config)?;
        let leads = self.tree.join(path).join(".git");
        let text = format!("gitdir: {}.git/{}\n", up(path, 0), git_dir.display());
        let written =
            fs::File::create_new(&leads).and_then(|mut file| file.write_all(text.as_bytes()));
        written.map_err(failed("write", &leads))
    }

    /// Whether a submodule is at the host that the user has named, so that a credential for that is meant.
    fn is_near(&self, url: &str) -> bool {
        credentials::is_one_place(self.args.repo_url.text(), url)
    }
}

/// Where the repository at `git_dir` is from.
pub(super) fn origin(git_dir: &Path) -> Result<String, RestoreError> {
    let config = Configured::open(&git_dir.join("config"))?;
    let origin = config.get("remote.origin.url").unwrap_or_default();
    Ok(origin.to_str_lossy().into_owned())
}

/// Says in its configuration where the repository at `git_dir` is from, as git does, also where the server has named it
/// otherwise, and which branch of it follows that.
fn settle(git_dir: &Path, origin: &str) -> Result<(), RestoreError> {
    let branch = default_branch::add(git_dir)?;
    let path = git_dir.join("config");
    let mut config = Configured::open(&path)?;
    config.set(("remote", Some("origin".into())), "url", origin.as_bytes())?;
    if let Some(branch) = branch {
        let section = ("branch", Some(branch.as_bstr()));
        config.set(section, "remote", b"origin")?;
        let merge = [b"refs/heads/", &branch[..]].concat();
        config.set(section, "merge", &merge)?;
    }
    config.write(&path)
}

/// One that nobody restores yet.
fn next(work: &Mutex<Work>) -> Option<(usize, Submodule)> {
    let mut work = lock(work);
    match work.error {
        None => work.left.pop_front(),
        Some(_) => None,
    }
}
