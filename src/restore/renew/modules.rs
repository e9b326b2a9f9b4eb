//! The submodules of a working copy that is brought to another commit, where they are wanted.
//!
//! One that stays (of the same name, in the same place, from the same upstream) is brought to its commit where it is, by
//! the same code. Any other comes anew. What is not of the new commit goes: the files that it tracks, and its repository;
//! what it does not track stays. Those that stay are looked at first, all of them, and nothing changes if anything of one
//! would be lost. Then each is brought there by itself, before anything of the working copy around it changes; who is
//! killed finds it there the next time.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use gix::ObjectId;
use rustix::fs::Stat;

use super::changes::{Changes, links};
use super::checkout::Checkout;
use super::copy::{Copy, Place, is_of};
use super::entries::Entries;
use super::held::{AllHeld, HeldError};
use super::note::Way;
use super::plan::{Before, Seen};
use super::refusal::{expect_no_repository, not_taken};
use super::rests;
use super::scratch::Scratch;
use crate::config::{GivenUrl, RestoreArgs};
use crate::limits::GIT_FILE_BYTES_MAX;
use crate::restore::configured::Configured;
use crate::restore::data::read;
use crate::restore::error::{RestoreError, failed};
use crate::restore::gitmodules::{self, Submodule};
use crate::restore::kept;
use crate::restore::losses::Losses;
use crate::restore::moves::Moves;
use crate::restore::nested;
use crate::restore::path::as_path;
use crate::restore::quota::{Allowed, Quota};
use crate::restore::staging::Staging;
use crate::restore::submodules::{Job, NOTED, Restores, Site, Stays};
use crate::restore::write::stopped;

/// What a file says that is the `.git` of a submodule.
const LEADS_TO: &[u8] = b"gitdir: ";

/// The working copy around them.
#[derive(Clone, Copy)]
pub(super) struct Around<'m> {
    pub args: &'m RestoreArgs,
    pub staging: &'m Staging,
    pub copy: &'m Copy,
    pub entries: &'m Entries,
    /// What a run has left that was killed here.
    pub left: Option<&'m Way>,
    /// The commit that is there.
    pub head: Option<ObjectId>,
}

/// What becomes of them.
pub(super) struct Modules<'m> {
    around: Around<'m>,
    site: Site<'m>,
    all: Vec<Submodule>,
    /// Those of the commit that is there, where a run was killed.
    were: Vec<Submodule>,
    jobs: Vec<Job>,
    gone: Vec<Checkout>,
    /// What goes below `modules`, relative to the repository.
    repositories: Vec<PathBuf>,
    /// What a run that was killed has left of others there.
    rests: Vec<PathBuf>,
    /// What was looked at of each of `repositories`, unless it may go with whatever it has.
    held: Vec<AllHeld>,
}

impl<'m> Modules<'m> {
    /// Compares those of `commit`, to which `changes` lead, with what is there. Objects are in the repository at `tree`.
    pub(super) fn find(
        around: Around<'m>,
        site: Site<'m>,
        changes: &Changes,
        (tree, commit): (&Path, Option<ObjectId>),
    ) -> Result<Modules<'m>, RestoreError> {
        let links = |changes| links(around.entries, changes);
        let hex = |commit: Option<ObjectId>| commit.map(|id| id.to_string()).unwrap_or_default();
        let all = gitmodules::of_commit(site.stop, tree, &hex(commit), &links(Some(changes)))?;
        // A run that was killed may have come to the files of one that goes, and not to its repository, or to those of one
        // that comes, and not to the settings. The index may be the new one by then.
        let (were, named) = match around.left {
            Some(left) => {
                let (head, links) = (hex(around.head), links(None));
                let were = gitmodules::of_other_commit(site.stop, tree, &head, &links)?;
                (were, left.repositories.clone())
            }
            None => Default::default(),
        };
        let mut modules = Modules {
            around,
            site,
            all,
            were,
            jobs: Vec::new(),
            gone: Vec::new(),
            repositories: Vec::new(),
            rests: rests::of(&around.copy.git_dir, named),
            held: Vec::new(),
        };
        modules.sort()?;
        Ok(modules)
    }

    /// Says which stay, come and go.
    fn sort(&mut self) -> Result<(), RestoreError> {
        let mut there = BTreeMap::new();
        for number in 0..self.around.entries.len() {
            let entry = self.around.entries.get(number);
            if entry.is_submodule()
                && let Some(checkout) = self.checkout(&as_path(entry.path()))?
            {
                there.insert(checkout.path.clone(), checkout);
            }
        }
        for one in self.all.clone() {
            let mut old = there.remove(&one.path);
            if old.is_none() && self.around.left.is_some() {
                // The run that was killed had come so far.
                old = self.checkout(&one.path)?;
            }
            if one.update.as_deref() == Some("none") {
                continue;
            }
            let given = GivenUrl::new(&self.site.asked(&one)?);
            let stays = match &old {
                Some(old) => self.stays(&one, old, &given)?,
                None => None,
            };
            if stays.is_none() {
                let target = self.around.staging.target();
                expect_no_repository(target, &one.path, "a submodule")?;
                self.gone.extend(old);
                self.make_room_for(&one)?;
            }
            self.jobs.push(Job { one, stays });
        }
        self.gone.extend(there.into_values());
        let gone = self.gone.iter().map(|gone| gone.repository.clone());
        self.repositories.extend(gone);
        let left = self.were.iter().filter(|one| {
            let is_named = |other: &Submodule| other.name == one.name;
            let link = self.around.staging.target().join(&one.path).join(".git");
            !self.all.iter().any(is_named) && fs::symlink_metadata(link).is_err()
        });
        let left = left.map(|one| Path::new("modules").join(&one.name));
        let is_there = |path: &PathBuf| self.around.copy.git_dir.join(path).join("HEAD").exists();
        let left: Vec<PathBuf> = left.filter(is_there).collect();
        self.repositories.extend(left);
        self.repositories.sort_unstable();
        // What is inside of one goes with it.
        self.repositories
            .dedup_by(|later, first| later.starts_with(&*first));
        rests::keep_apart(&mut self.rests, &self.repositories);
        let target = self.around.staging.target();
        for stays in self.jobs.iter().filter_map(|job| job.stays.as_ref()) {
            let is_inside = |gone: &PathBuf| {
                let gone = self.around.copy.git_dir.join(gone);
                stays.git_dir.starts_with(gone)
            };
            self.rests.retain(|rest| !is_inside(rest));
            if self.repositories.iter().any(is_inside) {
                let why = "the repository of a submodule is inside of another one's";
                return Err(not_taken(target, why));
            }
        }
        Ok(())
    }

    /// The submodule that is checked out at `path`, if one is.
    fn checkout(&self, path: &Path) -> Result<Option<Checkout>, RestoreError> {
        let (target, git_dir) = (self.around.staging.target(), &self.around.copy.git_dir);
        let at = target.join(path);
        let is_there = fs::symlink_metadata(&at).is_ok_and(|found| found.is_dir());
        let is_file = fs::symlink_metadata(at.join(".git")).is_ok_and(|found| found.is_file());
        // A repository in its own directory is not looked into; nothing comes in its place either.
        if !is_there || !is_file {
            return Ok(None);
        }
        let real = |path: &Path| fs::canonicalize(path).map_err(failed("find", path));
        let elsewhere = || {
            let path = path.display();
            not_taken(
                target,
                format!("the submodule {path} has its repository elsewhere"),
            )
        };
        let text = read(&at.join(".git"), GIT_FILE_BYTES_MAX).unwrap_or_default();
        let to = text.strip_prefix(LEADS_TO).ok_or_else(elsewhere)?;
        let to = at.join(as_path(to.trim_ascii_end()));
        let to = fs::canonicalize(to).map_err(|_| elsewhere())?;
        let inside = to.strip_prefix(real(git_dir)?).map_err(|_| elsewhere())?;
        if real(&at)? != real(target)?.join(path) || !inside.starts_with("modules") {
            return Err(elsewhere());
        }
        Ok(Some(Checkout {
            path: path.to_owned(),
            repository: inside.to_owned(),
            seen: None,
        }))
    }

    /// How a submodule stays, if it does where `old` is checked out.
    fn stays(
        &self,
        one: &Submodule,
        old: &Checkout,
        given: &GivenUrl,
    ) -> Result<Option<Stays>, RestoreError> {
        let git_dir = self.around.copy.git_dir.join(&old.repository);
        let config = Configured::open(&git_dir.join("config"))?;
        let origin = config.get("remote.origin.url").unwrap_or_default();
        let is_same = old.repository == Path::new("modules").join(&one.name);
        if !is_same || !is_of(&git_dir, given, &origin) {
            return Ok(None);
        }
        let ends = fs::symlink_metadata(git_dir.join("shallow"));
        Ok(Some(Stays {
            dir: self.around.staging.target().join(&one.path),
            git_dir,
            is_shallow: ends.is_ok_and(|found| found.len() > 0),
        }))
    }

    /// Has a repository go that is where one comes, or where that would lead through it.
    fn make_room_for(&mut self, one: &Submodule) -> Result<(), RestoreError> {
        let path = Path::new("modules").join(&one.name);
        for above in path
            .ancestors()
            .take_while(|path| *path != Path::new("modules"))
        {
            let there = self.around.copy.git_dir.join(above);
            let is_repository = there.join("HEAD").exists();
            if is_repository {
                self.repositories.push(above.to_owned());
            } else if above == path && there.exists() && !rests::has(&self.rests, &path) {
                let why = format!("its .git/{} is no repository", path.display());
                return Err(not_taken(self.around.staging.target(), why));
            }
        }
        Ok(())
    }

    /// The repositories that go, relative to the one around them.
    pub(super) fn going(&self) -> Vec<PathBuf> {
        self.repositories
            .iter()
            .chain(&self.rests)
            .cloned()
            .collect()
    }

    /// The places of those whose files go.
    pub(super) fn gone(&self) -> Vec<PathBuf> {
        self.gone.iter().map(|gone| gone.path.clone()).collect()
    }

    /// Adds what would be lost with those that go, and what is where something comes.
    pub(super) fn find_lost(
        &mut self,
        changes: &Changes,
        losses: &mut Losses,
    ) -> Result<(), RestoreError> {
        let args = self.around.args;
        if !args.discard_local {
            let repositories = self.repositories.iter().map(|path| nested::Submodule {
                name: path
                    .strip_prefix("modules")
                    .unwrap_or(path)
                    .display()
                    .to_string(),
                git_dir: self.around.copy.git_dir.join(path),
            });
            let staging = self.around.staging;
            let not_told = |unseen| kept::not_told(staging.target(), unseen);
            for path in &self.repositories {
                let held = AllHeld::read(&self.around.copy.git_dir.join(path));
                let held = held.map_err(|why| not_told(why.to_string().into()))?;
                self.held.push(held);
            }
            let lost = kept::of_removed(self.site.stop, staging, repositories.collect());
            losses.lost.extend(lost.map_err(not_told)?);
        }
        let mut next = 0;
        while next < self.gone.len() {
            self.look_at(next, losses)?;
            next += 1;
        }
        if args.force || args.clean {
            return Ok(());
        }
        let comes = self.jobs.iter().filter(|job| job.stays.is_none());
        let comes = comes.map(|job| job.one.path.clone());
        let replaced = self.gone.iter().filter(|gone| gone.is_replaced(changes));
        let replaced = replaced.map(|gone| gone.path.clone());
        for path in comes.chain(replaced) {
            if let Some(other) = self.other(&path)? {
                losses.blocked.push(other.display().to_string());
            }
        }
        Ok(())
    }

    /// Finds what one tracks that goes, and what of that is changed. Those inside of it go, too.
    fn look_at(&mut self, number: usize, losses: &mut Losses) -> Result<(), RestoreError> {
        let (args, stop) = (self.around.args, self.site.stop);
        let Checkout {
            path, repository, ..
        } = &self.gone[number];
        let dir = self.around.staging.target().join(path);
        let git_dir = self.around.copy.git_dir.join(repository);
        let copy = Copy::look(Place {
            directory: &dir,
            git_dir: &git_dir,
        })?;
        let scratch = self.around.staging.old().join(format!("gone-{number}"));
        let before = Before {
            scratch: Scratch::new(scratch, &copy)?,
            root: File::open(&dir).map_err(failed("open", &dir))?,
            quota: Quota::new(Allowed::of(args), &dir)?,
            index_bytes_max: self.site.index_bytes_left,
            copy,
            tip: None,
            branch: None,
            left: None,
            reads_all: false,
        };
        let seen = before.see(&dir, stop)?;
        // It is held to the end.
        self.site.index_bytes_left -= seen.entries.bytes.len() as u64;
        let is_lost = |path: &PathBuf| {
            // A run that was killed may have taken it away.
            self.around.left.is_none() || fs::symlink_metadata(dir.join(path)).is_ok()
        };
        if !args.force {
            let changed = seen.looked.changed.iter();
            let changed = changed.map(|number| as_path(seen.entries.get(*number).path()));
            let changed = changed.filter(is_lost);
            changed.for_each(|name| losses.changed.push(path.join(name).display().to_string()));
        }
        let mut inside = Vec::new();
        for number in 0..seen.entries.len() {
            let entry = seen.entries.get(number);
            if entry.is_submodule() {
                inside.extend(self.checkout(&path.join(as_path(entry.path())))?);
            }
        }
        self.gone[number].seen = Some(seen);
        self.gone.extend(inside);
        Ok(())
    }

    /// Whether a file is tracked where it goes: by one of those that go, or around them, where something else comes.
    fn goes(&self, path: &Path) -> bool {
        let bytes = path.as_os_str().as_bytes();
        self.around.entries.find(bytes).is_ok() || self.gone.iter().any(|gone| gone.has(path))
    }

    /// The first thing at or below `path` that nothing tracks of what goes.
    fn other(&self, path: &Path) -> Result<Option<PathBuf>, RestoreError> {
        if self.site.stop.is_set() {
            return Err(stopped());
        }
        let at = self.around.staging.target().join(path);
        match fs::symlink_metadata(&at) {
            Err(_) => return Ok(None),
            Ok(found) if !found.is_dir() => {
                return Ok((!self.goes(path)).then(|| path.to_owned()));
            }
            Ok(_) => {}
        }
        for entry in fs::read_dir(&at).map_err(failed("read", &at))? {
            let entry = entry.map_err(failed("read", &at))?;
            if let Some(other) = self.other(&path.join(entry.file_name()))? {
                return Ok(Some(other));
            }
        }
        Ok(None)
    }

    /// A configuration with what it says of them, and of no others.
    pub(super) fn configured(&self, text: &[u8]) -> Result<Vec<u8>, RestoreError> {
        let mut config = Configured::parse(text)?;
        let is_one = |name: &[u8]| self.all.iter().any(|one| one.name.as_bytes() == name);
        // What else is set of one is its user's.
        config.retain("submodule", NOTED, is_one);
        // One that seems to stay may have come with a run that was killed: what is set is of the one before.
        let were = self
            .were
            .iter()
            .filter(|was| self.site.has_set(&config, was));
        let were: Vec<&str> = were.map(|was| &*was.name).collect();
        let stays = |one: &Submodule| {
            let mut stay = self.jobs.iter().filter(|job| job.stays.is_some());
            stay.any(|job| job.one.name == one.name) && !were.contains(&&*one.name)
        };
        self.site.configure(&mut config, &self.all, stays)?;
        Ok(config.text())
    }

    /// Adds what would be lost of those that stay.
    pub(super) fn look(
        &self,
        restores: Restores<'_>,
        losses: &mut Losses,
    ) -> Result<(), RestoreError> {
        self.site.look(&self.jobs, restores, losses)
    }

    /// Makes those that come beside.
    pub(super) fn make(&self, restores: Restores<'_>) -> Result<(), RestoreError> {
        self.site.make(&self.jobs, restores)?;
        self.site.link_all()
    }

    /// Brings those that stay to their commits.
    pub(super) fn bring(&self, restores: Restores<'_>) -> Result<(), RestoreError> {
        self.site.bring(&self.jobs, restores)
    }

    /// Takes away what goes.
    pub(super) fn take_out(
        &self,
        files: &mut Moves<'_>,
        repositories: &mut Moves<'_>,
    ) -> Result<(), RestoreError> {
        // Those inside first.
        for gone in self.gone.iter().rev() {
            let Some(Seen { entries, .. }) = &gone.seen else {
                continue;
            };
            for number in 0..entries.len() {
                if self.site.stop.is_set() {
                    return Err(stopped());
                }
                let path = as_path(entries.get(number).path());
                files.take_out(&gone.path.join(path))?;
            }
            let git = gone.path.join(".git");
            files.take_away(&git)?;
            files.remove_emptied(&git)?;
        }
        for path in self.repositories.iter().chain(&self.rests) {
            repositories.take_away(path)?;
            repositories.remove_emptied(path)?;
        }
        Ok(())
    }

    /// Whether the repository of this number, which is at `now`, is as it was when it was looked at.
    fn is_held(&self, number: usize, now: &Path) -> Result<bool, HeldError> {
        match self.held.get(number) {
            Some(before) => Ok(AllHeld::read(now)? == *before),
            None => Ok(true),
        }
    }

    /// Whether a file that was moved from `path` is the one that was found there, where one that goes tracks it.
    pub(super) fn has_found(&self, path: &Path, now: &Stat) -> Option<bool> {
        self.gone.iter().find_map(|gone| gone.has_found(path, now))
    }

    /// Whether the repository that was moved from `path` is as it was when it was looked at, and one that goes.
    pub(super) fn may_go(&self, path: &Path, now: &Path) -> io::Result<bool> {
        let Some(number) = self.repositories.iter().position(|gone| gone == path) else {
            return Ok(self.rests.iter().any(|rest| rest == path));
        };
        self.is_held(number, now).map_err(io::Error::other)
    }

    /// Puts those that have come into their places: the repository first, then all files at once.
    pub(super) fn place(
        &self,
        files: &mut Moves<'_>,
        repositories: &mut Moves<'_>,
    ) -> Result<(), RestoreError> {
        for (path, repository) in self.site.made() {
            repositories.make_above(&repository)?;
            repositories.place(&repository)?;
            // What is there must not come into the tree that is still to be merged. Where something else is in the way above
            // it, that goes as a whole for what comes.
            if files.is_inside(&path) && files.has(&path) {
                files.take_away(&path)?;
                files.place(&path)?;
            }
        }
        Ok(())
    }
}
