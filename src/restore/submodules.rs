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
use super::error::{RestoreError, failed};
use super::gitmodules::{self, Submodule, resolved, too_many};
use super::losses::Losses;
use super::noted::{NOTE, noted};
use super::placed::Placed;
use super::quota::Shared;
use super::settled::{origin, settle};
use super::stop::Stop;
use super::summary::{Counted, Summary};
use crate::config::{GivenUrl, RestoreArgs};
use crate::limits::{
    INTERRUPT_POLL_MS, SUBMODULES_AT_ONCE, SUBMODULES_NESTED_MAX, SUBMODULES_RESTORED_MAX,
};

/// Why the others end when one of them has failed.
const OTHER_FAILED: &str = "another submodule that has failed";

/// What is noted of each in the configuration around it.
pub(super) const NOTED: &[&str] = &["active", "url", "update"];

/// Of what a restore is a part.
#[derive(Debug, Default)]
pub(super) struct Nest {
    /// Superprojects around it.
    depth: usize,
    /// Submodules of all of them that were begun.
    count: Arc<AtomicUsize>,
    /// What was done for those that are there.
    done: Arc<Mutex<Counted>>,
    /// What all take of the disk.
    pub taken: Shared,
    /// Those inside of it, once they have their places.
    placed: Mutex<Vec<Placed>>,
    /// Where it is, if it is a submodule that stays there.
    pub home: Option<Home>,
}

/// Where a submodule is that stays there.
#[derive(Debug)]
pub(super) struct Home {
    pub git_dir: PathBuf,
    placed: Placed,
    pub turn: Turn,
    /// A directory for objects that have come before it is changed; it may not be there.
    pub objects: PathBuf,
    /// So many bytes its index may have, which is held beside those around it.
    pub index_bytes_max: u64,
}

/// What is done about a submodule that stays.
#[derive(Debug)]
pub(super) enum Turn {
    /// It is looked at what would be lost, and nothing of it changes: it is one of several.
    Looks(Box<Mutex<Losses>>),
    Changes,
}

/// What is to be done about a submodule.
#[derive(Debug)]
pub(super) struct Job {
    pub one: Submodule,
    /// Where it is, if it is only brought to its commit.
    pub stays: Option<Stays>,
}

/// See [`Job`].
#[derive(Debug)]
pub(super) struct Stays {
    pub dir: PathBuf,
    pub git_dir: PathBuf,
    /// Whether its history has an end.
    pub is_shallow: bool,
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
            done: self.done.clone(),
            taken: self.taken.clone(),
            placed: Mutex::default(),
            home: None,
        })
    }

    /// The same of one that is only looked at, which counts when it is brought to its commit.
    fn looking(&self) -> Result<Nest, RestoreError> {
        let nest = self.below()?;
        nest.count.fetch_sub(1, Relaxed);
        Ok(Nest {
            done: Arc::default(),
            ..nest
        })
    }

    /// What would be lost with it, if that is looked at now.
    pub(super) fn losses(&self) -> Option<&Mutex<Losses>> {
        match &self.home.as_ref()?.turn {
            Turn::Looks(losses) => Some(losses),
            Turn::Changes => None,
        }
    }

    /// One of them is there.
    pub(super) fn add(&self, one: &Summary) {
        let mut done = lock(&self.done);
        done.count += 1;
        done.bytes += one.bytes.unwrap_or(0);
        done.seed_bytes += one.seed_bytes;
        done.entries += one.entries.unwrap_or(0);
        done.cleaned += one.cleaned.unwrap_or(0);
        done.is_changed |= !one.head.is_same;
    }

    /// All that are there.
    pub(super) fn done(&self) -> Counted {
        *lock(&self.done)
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// How one repository is restored.
pub(super) type Restores<'a> =
    &'a (dyn Fn(&RestoreArgs, &Stop, &Nest) -> Result<(), RestoreError> + Sync);

/// What is done about one of several jobs, of which this is the number.
type Does<'a> = &'a (dyn Fn((usize, &Job), &Stop) -> Result<(), RestoreError> + Sync);

/// A restored tree, of which the submodules are to be.
pub(super) struct Site<'a> {
    pub args: &'a RestoreArgs,
    pub stop: &'a Stop,
    pub tree: PathBuf,
    /// An empty directory on the same file system.
    pub scratch: PathBuf,
    pub nest: &'a Nest,
    /// Where its repository is from.
    pub origin: String,
    /// So many bytes the indexes may have of those that stay and are looked at at once.
    pub index_bytes_left: u64,
}

/// What the threads share.
struct Work<'w> {
    left: VecDeque<(usize, &'w Job)>,
    error: Option<RestoreError>,
}

impl<'a> Site<'a> {
    /// A tree that is made at `tree`.
    pub(super) fn of(
        args: &'a RestoreArgs,
        stop: &'a Stop,
        nest: &'a Nest,
        (tree, scratch): (&Path, PathBuf),
    ) -> Result<Site<'a>, RestoreError> {
        Ok(Site {
            args,
            stop,
            tree: tree.to_owned(),
            scratch,
            nest,
            origin: origin(&tree.join(".git"))?,
            // None of them is there yet.
            index_bytes_left: 0,
        })
    }

    /// Restores all of them by `restores`.
    pub(super) fn restore_all(&self, restores: Restores<'_>) -> Result<(), RestoreError> {
        let all = gitmodules::of_tree(self.stop, &self.tree)?;
        let path = self.tree.join(".git/config");
        let mut config = Configured::open(&path)?;
        self.configure(&mut config, &all, |_| false)?;
        config.write(&path)?;
        let wanted = all
            .into_iter()
            .filter(|one| one.update.as_deref() != Some("none"));
        let jobs = wanted.map(|one| Job { one, stays: None });
        self.make(&jobs.collect::<Vec<_>>(), restores)?;
        match self.nest.depth {
            0 => self.link_all(),
            _ => Ok(()),
        }
    }

    /// Makes those that come anew, beside the tree.
    pub(super) fn make(&self, jobs: &[Job], restores: Restores<'_>) -> Result<(), RestoreError> {
        let come = |job: &Job| job.stays.is_none();
        self.each(jobs, come, &|(number, job), stop| {
            self.restore(number, job, stop, restores)
        })
    }

    /// Looks at those that stay, and adds what would be lost of them to `losses`.
    pub(super) fn look(
        &self,
        jobs: &[Job],
        restores: Restores<'_>,
        losses: &mut Losses,
    ) -> Result<(), RestoreError> {
        let all = Mutex::new(losses);
        let stay = |job: &Job| job.stays.is_some();
        self.each(jobs, stay, &|(number, job), stop| {
            let Some(stays) = &job.stays else {
                return Ok(());
            };
            let mut nest = self.nest.looking()?;
            nest.home = Some(self.home(number, job, stays, Turn::Looks(Box::default())));
            restores(&self.args(job, &stays.dir)?, stop, &nest)?;
            if let Some(found) = nest.losses() {
                lock(&all).add(&job.one.path, std::mem::take(&mut *lock(found)));
            }
            Ok(())
        })
    }

    /// Brings those that stay to their commits.
    pub(super) fn bring(&self, jobs: &[Job], restores: Restores<'_>) -> Result<(), RestoreError> {
        let stay = |job: &Job| job.stays.is_some();
        self.each(jobs, stay, &|(number, job), stop| {
            let Some(stays) = &job.stays else {
                return Ok(());
            };
            let mut nest = self.nest.below()?;
            nest.home = Some(self.home(number, job, stays, Turn::Changes));
            restores(&self.args(job, &stays.dir)?, stop, &nest)
        })
    }

    /// Where one is that stays.
    fn home(&self, number: usize, job: &Job, stays: &Stays, turn: Turn) -> Home {
        let around = self.nest.home.as_ref();
        let git_dir = Path::new("modules").join(&job.one.name);
        let objects = around.map_or(&self.scratch, |around| &around.objects);
        Home {
            git_dir: stays.git_dir.clone(),
            placed: Placed::below(around.map(|home| &home.placed), &job.one.path, &git_dir),
            turn,
            objects: objects.join(format!("objects-{number}")),
            index_bytes_max: self.index_bytes_left / self.at_once() as u64,
        }
    }

    /// Does what is to be done about each of the jobs that are `wanted`.
    fn each(
        &self,
        jobs: &[Job],
        wanted: impl Fn(&Job) -> bool,
        does: Does<'_>,
    ) -> Result<(), RestoreError> {
        let all = jobs.iter().enumerate();
        let work = Mutex::new(Work {
            left: all.filter(|(_, job)| wanted(job)).collect(),
            error: None,
        });
        let stops: [Stop; SUBMODULES_AT_ONCE] = std::array::from_fn(|_| Stop::default());
        std::thread::scope(|scope| {
            let run = |stop| {
                while let Some((number, job)) = next(&work) {
                    if let Err(error) = does((number, job), stop) {
                        let url = self.asked(&job.one).unwrap_or_else(|_| job.one.url.clone());
                        let error = error.of_submodule(&job.one.path, &url, &job.one.commit);
                        lock(&work).error.get_or_insert(error);
                        stops
                            .iter()
                            .for_each(|stop: &Stop| stop.interrupt(OTHER_FAILED));
                    }
                }
            };
            let running = stops.iter().take(self.at_once());
            let running: Vec<_> = running.map(|stop| scope.spawn(move || run(stop))).collect();
            while !running.iter().all(|thread| thread.is_finished()) {
                if self.stop.is_set() {
                    let signal = self.stop.signal().unwrap_or(OTHER_FAILED);
                    stops.iter().for_each(|stop| stop.interrupt(signal));
                }
                std::thread::sleep(Duration::from_millis(INTERRUPT_POLL_MS / 10));
            }
        });
        match lock(&work).error.take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// How many. Within one of them it is one after the other: each that runs has the memory of a restore.
    fn at_once(&self) -> usize {
        match self.nest.depth {
            0 => SUBMODULES_AT_ONCE,
            _ => 1,
        }
    }

    /// Where one is asked for.
    pub(super) fn asked(&self, one: &Submodule) -> Result<String, RestoreError> {
        resolved(self.args.repo_url.text(), &one.url)
    }

    /// What is asked for of one, which is made at `made` unless it stays.
    fn args(&self, job: &Job, made: &Path) -> Result<RestoreArgs, RestoreError> {
        let url = self.asked(&job.one)?;
        let stays = job.stays.as_ref();
        let is_shallow = stays.map_or(job.one.is_shallow, |stays| stays.is_shallow);
        Ok(RestoreArgs {
            repo_url: GivenUrl::new(&url),
            send_upstream_credential: self.args.send_upstream_credential && self.is_near(&url),
            dir: stays.map_or(made, |stays| &stays.dir).to_owned(),
            refs: Vec::new(),
            commits: vec![job.one.commit.clone()],
            have: Vec::new(),
            depth: is_shallow.then_some(1),
            overwrite: false,
            update: stays.is_some(),
            force: self.args.force && stays.is_some(),
            clean: self.args.clean && stays.is_some(),
            discard_local: self.args.discard_local && stays.is_some(),
            quiet: true,
            json: false,
            ..self.args.clone()
        })
    }

    /// Restores one and gives it its place.
    fn restore(
        &self,
        number: usize,
        job: &Job,
        stop: &Stop,
        restores: Restores<'_>,
    ) -> Result<(), RestoreError> {
        let one = &job.one;
        let made = self.scratch.join(number.to_string());
        let nest = self.nest.below()?;
        let args = self.args(job, &made)?;
        let git_dir = Path::new("modules").join(&one.name);
        restores(&args, stop, &nest)?;
        let origin = resolved(&self.origin, &one.url)?;
        settle(&made.join(".git"), &origin)?;
        let note = made.join(NOTE);
        let text = noted(Some(&one.commit), &args.repo_url, origin.as_bytes());
        fs::write(&note, text).map_err(failed("write", &note))?;
        let there = self.tree.join(".git").join(&git_dir);
        // An empty directory may be there for it.
        let place = self.tree.join(&one.path);
        for above in [&there, &place].map(|path| path.parent().unwrap_or(path)) {
            fs::create_dir_all(above).map_err(failed("create", above))?;
        }
        fs::rename(made.join(".git"), &there).map_err(failed("rename to", &there))?;
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

    /// Places and repositories of those that were made, without those inside of them.
    pub(super) fn made(&self) -> Vec<(PathBuf, PathBuf)> {
        let placed = lock(&self.nest.placed);
        let is_inside = |one: &&Placed| {
            let around = |other: &Placed| *other != **one && one.path.starts_with(&other.path);
            placed.iter().any(around)
        };
        let outer = placed.iter().filter(|one| !is_inside(one));
        outer
            .map(|one| (one.path.clone(), one.git_dir.clone()))
            .collect()
    }

    /// Has the parts of each that was made lead to each other.
    pub(super) fn link_all(&self) -> Result<(), RestoreError> {
        let placed = lock(&self.nest.placed);
        placed.iter().try_for_each(|placed| self.link(placed))
    }

    /// Says of the superproject's submodules what `git submodule init` notes, unless something says it already; of one
    /// that `stays` its URL as well.
    pub(super) fn configure(
        &self,
        config: &mut Configured,
        all: &[Submodule],
        stays: impl Fn(&Submodule) -> bool,
    ) -> Result<(), RestoreError> {
        if self.nest.depth == 0 && !config.has(("submodule", None), "active") {
            config.set(("submodule", None), "active", b".")?;
        }
        for one in all {
            let section = ("submodule", Some(one.name.as_bytes().as_bstr()));
            if self.nest.depth > 0 && !config.has(section, "active") {
                config.set(section, "active", b"true")?;
            }
            let url = resolved(&self.origin, &one.url)?;
            if !stays(one) || !config.has(section, "url") {
                config.set(section, "url", url.as_bytes())?;
            }
            if let Some(update) = &one.update
                && !config.has(section, "update")
            {
                config.set(section, "update", update.as_bytes())?;
            }
        }
        Ok(())
    }

    /// Whether the URL that is set of one is what `git submodule init` notes of it.
    pub(super) fn has_set(&self, config: &Configured, one: &Submodule) -> bool {
        let set = config.get(&format!("submodule.{}.url", one.name));
        let noted = resolved(&self.origin, &one.url).ok();
        set.is_some_and(|set| noted.is_some_and(|noted| set == noted))
    }

    /// Has the two parts of one lead to each other, wherever the whole is.
    fn link(&self, placed: &Placed) -> Result<(), RestoreError> {
        let Placed { path, git_dir } = placed;
        let around = self.nest.home.as_ref().map(|home| &home.placed);
        let whole = Placed::below(around, path, git_dir);
        let up = |path: &Path, more: usize| "../".repeat(path.components().count() + more);
        let config = self.tree.join(".git").join(git_dir).join("config");
        let worktree = Path::new(&up(&whole.git_dir, 1)).join(&whole.path);
        let mut configured = Configured::open(&config)?;
        configured.set(("core", None), "worktree", worktree.as_os_str().as_bytes())?;
        configured.write(&config)?;
        let leads = self.tree.join(path).join(".git");
        let text = [
            b"gitdir: ",
            up(&whole.path, 0).as_bytes(),
            b".git/",
            whole.git_dir.as_os_str().as_bytes(),
            b"\n",
        ]
        .concat();
        let written = fs::File::create_new(&leads).and_then(|mut file| file.write_all(&text));
        written.map_err(failed("write", &leads))
    }

    /// Whether a submodule is at the host that the user has named, so that a credential for that is meant.
    fn is_near(&self, url: &str) -> bool {
        credentials::is_one_place(self.args.repo_url.text(), url)
    }
}

/// One that nobody restores yet.
fn next<'w>(work: &Mutex<Work<'w>>) -> Option<(usize, &'w Job)> {
    let mut work = lock(work);
    match work.error {
        None => work.left.pop_front(),
        Some(_) => None,
    }
}
