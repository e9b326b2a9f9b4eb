//! Brings a working copy to what was planned. Until the index has its place all is undone when something fails.

use std::path::{Path, PathBuf};

use gix::ObjectId;

use super::guard::Guard;
use super::held::Held;
use super::look;
use super::modules::Modules;
use super::note::Way;
use super::plan::{Before, Leave, Plan, Seen};
use super::staged::{self, Item, Stage};
use super::written;
use crate::config::RestoreArgs;
use crate::limits::UPDATE_NOTED_MAX;
use crate::restore::dates::Dates;
use crate::restore::error::{RestoreError, failed};
use crate::restore::link::Link;
use crate::restore::moves::Moves;
use crate::restore::names::Names;
use crate::restore::path::as_path;
use crate::restore::run::Room;
use crate::restore::staging::Staging;
use crate::restore::steps;
use crate::restore::submodules::Restores;
use crate::restore::write::stopped;

/// What is done, and where.
pub(super) struct Applying<'a> {
    pub args: &'a RestoreArgs,
    pub link: Link<'a>,
    pub dates: Dates,
    pub staging: &'a Staging,
    pub restores: Restores<'a>,
    pub before: &'a Before,
    pub seen: &'a Seen,
    pub plan: &'a Plan,
    pub modules: Option<&'a Modules<'a>>,
    /// The refs that were looked at, unless all may go.
    pub held: Option<&'a Held>,
}

impl Applying<'_> {
    fn ours(&self, name: &str) -> PathBuf {
        self.staging.old().join(name)
    }

    /// Makes the new files and moves them into their places; if it fails all is as it was. How many were written,
    /// and of these how many are those of a filter.
    pub(super) fn run(
        &self,
        commit: Option<ObjectId>,
        room: Room<'_>,
    ) -> Result<(u64, u64), RestoreError> {
        let Applying {
            before,
            seen,
            plan,
            modules,
            ..
        } = *self;
        let tree = self.staging.tree();
        let (written, filtered) = self.make_files(room)?;
        if let Some(modules) = modules {
            modules.make(self.restores)?;
            self.look_again()?;
            modules.bring(self.restores)?;
        }
        let target = self.staging.target().to_owned();
        let trash = |name| self.trash(name);
        let (away, replaced) = (trash("away")?, trash("replaced")?);
        let repositories = trash("repositories")?;
        self.note(commit)?;
        let git_dir = before.copy.git_dir.clone();
        let guard = Guard {
            seen,
            plan,
            leave: Leave::of(self.args),
            modules,
        };
        let may_go = |path: &Path, now: &Path| guard.may_go(path, now);
        let repository_may =
            |path: &Path, now: &Path| modules.map_or(Ok(false), |all| all.may_go(path, now));
        let moves = |away| Moves::new(tree.clone(), target.clone(), away).of_what(&may_go);
        let mut going = moves(away);
        let repositories = Moves::new(tree.join(".git"), git_dir, repositories);
        let mut repositories = repositories.of_what(&repository_may);
        let mut coming = moves(replaced);
        let made = self
            .look_again()
            .and_then(|()| self.move_all(&mut going, &mut repositories, &mut coming))
            .and_then(|()| self.make_index())
            .and_then(|()| self.move_index());
        if let Err(error) = made {
            // On a full disk directories cannot be made again beside it.
            let _ = steps::remove_file(self.ours("index"));
            // In this order a file that leads to a repository is never there without it.
            let is_back = [coming.undo(), repositories.undo(), going.undo()] == [true; 3];
            // What could not be put back the same command again makes anew, by the note.
            if is_back && before.left.is_none() {
                self.forget()?;
            }
            return Err(error);
        }
        Ok((written, filtered))
    }

    /// An empty directory, for what goes.
    fn trash(&self, name: &str) -> Result<PathBuf, RestoreError> {
        let path = self.ours(name);
        steps::create_dir(&path).map_err(failed("create", &path))?;
        Ok(path)
    }

    /// All that goes is away before anything comes.
    fn move_all(
        &self,
        going: &mut Moves<'_>,
        repositories: &mut Moves<'_>,
        coming: &mut Moves<'_>,
    ) -> Result<(), RestoreError> {
        if let Some(modules) = self.modules {
            modules.take_out(going, repositories)?;
        }
        self.take_out(going)?;
        if let Some(modules) = self.modules {
            modules.place(coming, repositories)?;
        }
        self.staging.merge(Path::new(""), coming, self.link.stop)
    }

    /// Makes the new files beside: how many, and how many of them are those of a filter.
    fn make_files(&self, room: Room<'_>) -> Result<(u64, u64), RestoreError> {
        let Applying {
            before, seen, plan, ..
        } = *self;
        let root = self.staging.open_tree()?;
        let stage = Stage {
            site: staged::site(&root, room.quota, self.link.stop),
            dates: self.dates,
            hash: before.copy.hash(),
            attributes: &plan.attributes,
            room,
        };
        let changed = plan.changes.iter().filter_map(|change| {
            let (mode, id) = change.new?;
            Some((plan.changes.path(change), mode, id))
        });
        let rewritten = plan.rewritten.iter().map(|number| {
            let entry = seen.entries.get(*number);
            (entry.path(), entry.mode(), entry.id())
        });
        let mut items: Vec<Item<'_>> = changed.chain(rewritten).collect();
        items.sort_unstable_by_key(|(path, ..)| *path);
        let filtered = staged::make(stage, &items)?;
        self.link.progress.made();
        Ok((items.len() as u64, filtered))
    }

    /// Notes that it is on its way.
    fn note(&self, commit: Option<ObjectId>) -> Result<(), RestoreError> {
        let before = self.before;
        let left = before.left.as_ref();
        let mut to = left.map_or(Vec::new(), |left| left.to.clone());
        if !to.contains(&commit) {
            to.push(commit);
        }
        let to = to.split_off(to.len().saturating_sub(UPDATE_NOTED_MAX));
        let named = left.map_or(Vec::new(), |left| left.repositories.clone());
        self.link.stop.changes();
        let way = Way {
            from: before.scratch.head,
            to,
            repositories: self.modules.map_or(named, Modules::going),
        };
        way.write(&before.copy.git_dir, &self.ours("note"))
    }

    /// Notes that it is where it was.
    fn forget(&self) -> Result<(), RestoreError> {
        Way::forget(&self.before.copy.git_dir)?;
        self.link.stop.changes_no_more();
        Ok(())
    }

    /// Refuses where refs, or one of the files that are replaced, are not what was looked at: much may have been done
    /// there meanwhile.
    fn look_again(&self) -> Result<(), RestoreError> {
        let Applying {
            before, seen, plan, ..
        } = *self;
        if let Some(held) = self.held {
            held.expect_same(self.staging.target(), &before.copy.git_dir)?;
        }
        if self.args.force {
            return Ok(());
        }
        let replaced = plan.changes.iter().filter(|change| change.is_there);
        let replaced = replaced.map(|change| change.at);
        let numbers = replaced.chain(plan.rewritten.iter().copied());
        let ground = before.ground(self.link.stop);
        let changed = look::changed_since(ground, &seen.entries, &seen.looked, numbers)?;
        let names = changed.iter().map(|number| {
            let path = as_path(seen.entries.get(*number).path());
            path.display().to_string()
        });
        let names: Names = names.collect();
        match names.is_empty() {
            true => Ok(()),
            false => Err(RestoreError::Usage(format!(
                "{} is not updated: changed meanwhile: {names}; with --force that goes",
                self.staging.target().display()
            ))),
        }
    }

    /// Takes away the files that go.
    fn take_out(&self, moves: &mut Moves<'_>) -> Result<(), RestoreError> {
        let (seen, plan, stop) = (self.seen, self.plan, self.link.stop);
        for change in plan.changes.iter().filter(|change| change.new.is_none()) {
            if stop.is_set() {
                return Err(stopped());
            }
            let path = as_path(plan.changes.path(change));
            match seen.entries.get(change.at).is_submodule() {
                true => moves.take_out_empty(&path)?,
                false => moves.take_out(&path)?,
            }
        }
        Ok(())
    }

    fn make_index(&self) -> Result<(), RestoreError> {
        let parts = written::Parts {
            old: &self.seen.entries,
            changes: &self.plan.changes,
            rewritten: &self.plan.rewritten,
            looked: &self.seen.looked,
        };
        written::write(
            &self.ours("index"),
            &parts,
            self.before.ground(self.link.stop),
            self.dates,
        )
    }

    /// Puts the index that was made into its place. From here on only the end is left.
    fn move_index(&self) -> Result<(), RestoreError> {
        let (from, to) = (self.ours("index"), self.before.copy.git_dir.join("index"));
        steps::rename(from, &to).map_err(failed("rename to", &to))
    }
}
