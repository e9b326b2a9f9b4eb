//! `--update`: brings an existing working copy to another commit.
//!
//! ```text
//! copy: is it one that is taken ─► lock: git's own ─┬─► kept, update: what is wanted, and its objects ─► scratch
//!                                                    └─► entries, look: the index, and all files by their stat data
//! changes: index and tree ─► blocked: what is in the way ─► staged: new files, beside ─► note ─► moves ─► written: the
//! index ─► heads: refs
//! ```
//!
//! Until the note nothing of the working copy has changed; until the index has, all is undone when something fails.
//! Who is killed leaves the note, and the next run takes what is of either commit for clean and comes to the end.

mod blocked;
mod cache_tree;
mod changes;
mod content;
mod copy;
mod entries;
mod heads;
mod lock;
mod look;
mod modules;
mod news;
mod note;
mod plan;
mod scratch;
mod staged;
mod written;

use std::fs::File;
use std::path::{Path, PathBuf};

use gix::ObjectId;

use super::dates::Dates;
use super::error::{RestoreError, failed};
use super::kept;
use super::link::Link;
use super::moves::Moves;
use super::noted::{NOTE_NAME, noted};
use super::objects::Objects;
use super::opening::{self, Asked, By};
use super::path::as_path;
use super::proof;
use super::proven::Proven;
use super::quota::Quota;
use super::run::{self, Room};
use super::staging::Staging;
use super::submodules::{Nest, Restores, Site};
use super::summary::{SOURCE_UPDATE, Summary, Worktree};
use super::update::{self, Update};
use super::wanted::Wanted;
use super::write::stopped;
use crate::config::RestoreArgs;
use crate::limits::UPDATE_NOTED_MAX;
use changes::Changes;
use copy::{Copy, Place};
use heads::Replacing;
use lock::Lock;
use modules::{Around, Modules};
use news::{News, One};
use note::Way;
use plan::{Before, Leave, Plan, Planner, Seen};
use scratch::Scratch;
use staged::{Item, Stage};

/// Brings the working copy that is there to what is wanted; `None` where there is none yet.
pub(super) fn run(
    args: &RestoreArgs,
    link: Link<'_>,
    wanted: &Wanted,
    dates: Dates,
    (nest, restores): (&Nest, Restores<'_>),
) -> Result<Option<Summary>, RestoreError> {
    proof::check(args)?;
    let staging = match &nest.home {
        Some(_) => Staging::of_submodule(&args.dir)?,
        None => Staging::new(&args.dir, true)?,
    };
    if staging.is_empty() {
        return Ok(None);
    }
    let renewal = Renewal {
        args,
        link,
        wanted,
        dates,
        staging: &staging,
        nest,
        restores,
    };
    let renewed = renewal.run().map(Some);
    renewed.map_err(|error| error.of_server(&link.server.authority))
}

/// One update.
struct Renewal<'a> {
    args: &'a RestoreArgs,
    link: Link<'a>,
    wanted: &'a Wanted,
    dates: Dates,
    /// Inside of the working copy.
    staging: &'a Staging,
    /// What it is a part of, and how its submodules are restored.
    nest: &'a Nest,
    restores: Restores<'a>,
}

impl Renewal<'_> {
    fn run(&self) -> Result<Summary, RestoreError> {
        let (args, link, target) = (self.args, self.link, self.staging.target());
        let (before, _lock) = self.begin()?;
        let before = &before;
        let room = Room::new(&before.scratch.tree, &before.quota);
        let (news, seen) = std::thread::scope(|scope| {
            // Whoever fails first is the reason, and the other need not go on.
            let ends = |_: &RestoreError| link.stop.set();
            let seen = scope.spawn(move || before.see(target, link.stop).inspect_err(ends));
            let news = self.fetch(before, room).inspect_err(ends);
            let seen = seen.join();
            let seen = seen.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            match (news, seen) {
                (Ok(news), Ok(seen)) => Ok((news, seen)),
                (Err(error), Ok(_)) => Err(error),
                (Err(error), Err(RestoreError::Server(_))) | (_, Err(error)) => Err(error),
            }
        })?;
        let objects = Objects::open(&before.scratch.tree, before.copy.hash(), link.stop)?;
        let hash = before.copy.hash();
        let id = news.tip(hash, link.stop)?;
        let commit = id.map(|id| objects.commit_of(id)).transpose()?;
        let refs = news.refs(hash, commit, link.stop)?;
        let planner = Planner {
            target,
            before,
            seen: &seen,
            leave: Leave::of(args),
            until: room.until,
            stop: link.stop,
        };
        let changes = planner.changes(commit, &objects)?;
        let mut modules = self.modules(before, &seen, &changes, commit)?;
        let gone = modules.as_ref().map(Modules::gone);
        let plan = planner.plan(changes, gone.as_deref(), &objects)?;
        if let Some(modules) = &mut modules {
            modules.check(&plan.changes)?;
        }
        if args.verify.is_some() {
            proof::check_entries(&before.scratch.tree, hash, link.stop)?;
        }
        let ours = self.ours("refs");
        let replacing = Replacing {
            copy: &before.copy,
            refs: &refs,
            fetches: news.fetches(),
            scratch: &before.scratch.tree,
            modules: modules.as_ref(),
            is_submodule: self.nest.home.is_some(),
            ours: &ours,
            stop: link.stop,
        };
        let _locks = replacing.prepare()?;
        let bytes = before.scratch.give(&before.copy)?;
        let ready = (&plan, commit, modules.as_ref());
        let (written, filtered) = self.change(before, &seen, ready, room)?;
        replacing.run(commit)?;
        before.quota.keep();
        self.finish(before, commit)?;
        if args.clean {
            self.clean(before, room)?;
        }
        self.say(filtered);
        self.summary(before, commit, (bytes, written))
    }

    /// The working copy as it is, and its lock.
    fn begin(&self) -> Result<(Before, Lock), RestoreError> {
        let (args, target) = (self.args, self.staging.target());
        let home = self.nest.home.as_ref();
        let place = Place {
            directory: target,
            git_dir: &home.map_or_else(|| target.join(".git"), |home| home.git_dir.clone()),
        };
        let copy = Copy::open(place, &args.repo_url, self.wanted.is_shallow)?;
        let lock = Lock::take(&copy.git_dir.join("index"), &self.ours("lock"))?;
        let left = Way::left(&copy.git_dir);
        if left.is_some() {
            lock::sweep(&copy.git_dir);
        }
        let before = Before {
            scratch: Scratch::new(self.ours("scratch"), &copy)?,
            root: File::open(target).map_err(failed("open", target))?,
            copy,
            left,
            quota: Quota::beside(&self.nest.taken, args.size_limit, target)?,
            reads_all: args.verify.is_some(),
        };
        Ok((before, lock))
    }

    /// What becomes of submodules, if they are wanted.
    fn modules<'m>(
        &'m self,
        before: &'m Before,
        seen: &'m Seen,
        changes: &Changes,
        commit: Option<ObjectId>,
    ) -> Result<Option<Modules<'m>>, RestoreError> {
        if !self.args.recurse_submodules {
            return Ok(None);
        }
        let site = Site {
            args: self.args,
            stop: self.link.stop,
            tree: self.staging.tree(),
            scratch: self.staging.submodules(),
            nest: self.nest,
            origin: String::from_utf8_lossy(&before.copy.restored.origin).into_owned(),
        };
        let around = Around {
            args: self.args,
            staging: self.staging,
            copy: &before.copy,
            entries: &seen.entries,
            is_left: before.left.is_some(),
        };
        let of = (&*before.scratch.tree, commit);
        Modules::find(around, site, changes, of).map(Some)
    }

    /// A path of ours, on the working copy's file system.
    fn ours(&self, name: &str) -> PathBuf {
        self.staging.old().join(name)
    }

    /// Has the server look at its upstream: who asks for a snapshot can wait for that, and who fetches cannot.
    fn expect_fresh(&self) -> Result<(), RestoreError> {
        let asked = Asked {
            base: self.link.place,
            query: self.wanted.query(),
            is_fresh: true,
            by: By::Manifest,
        };
        opening::open(self.link, &asked).map(drop)
    }

    /// What is wanted, whose objects are there then.
    fn fetch(&self, before: &Before, room: Room<'_>) -> Result<News, RestoreError> {
        let link = self.link;
        if !self.args.discard_local {
            let known = before.left.as_ref().map(Way::commits).unwrap_or_default();
            kept::check_update(link.stop, self.staging, &before.copy.git_dir, &known)?;
        }
        let of_history = Wanted {
            is_shallow: false,
            ..self.wanted.clone()
        };
        let query = of_history.query();
        let query = query.strip_prefix('?').map(|query| format!("&{query}"));
        let bundle = before
            .scratch
            .head
            .filter(|_| !self.args.no_bundle)
            .map(|head| {
                let query = query.unwrap_or_default();
                format!("{}/snapshot.bundle?base={head}{query}", link.place)
            });
        let update = Update {
            link,
            base: link.place,
            wanted: self.wanted,
            kept: None,
            bundle: bundle
                .as_deref()
                .map(|target| (target, self.staging.bundle())),
            room,
            restored: &before.copy.restored,
            is_quiet: true,
        };
        if self.wanted.is_shallow {
            let one = One {
                args: self.args,
                update: &update,
                wanted: self.wanted,
                dates: self.dates,
                hash: before.copy.hash(),
                ours: &self.staging.tree(),
            };
            return one.fetch();
        }
        if self.args.fresh {
            self.expect_fresh()?;
        }
        let fetched = update.fetch();
        link.progress.answered();
        fetched.map(News::All)
    }

    /// Makes the new files and moves them into their places; if it fails all is as it was. How many were written,
    /// and of these how many are those of a filter.
    fn change(
        &self,
        before: &Before,
        seen: &Seen,
        (plan, commit, modules): (&Plan, Option<ObjectId>, Option<&Modules<'_>>),
        room: Room<'_>,
    ) -> Result<(u64, u64), RestoreError> {
        let tree = self.staging.tree();
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
        if let Some(modules) = modules {
            modules.bring(self.restores)?;
        }
        self.note(before, commit)?;
        let target = self.staging.target().to_owned();
        let away = self.ours("repositories");
        std::fs::create_dir(&away).map_err(failed("create", &away))?;
        let git_dir = before.copy.git_dir.clone();
        let mut repositories = Moves::new(tree.join(".git"), git_dir, away);
        let mut moves = Moves::new(tree, target, self.staging.trash());
        let moved = self
            .look_again(before, seen, plan)
            .and_then(|()| match modules {
                None => Ok(()),
                Some(modules) => {
                    modules.take_out(&mut moves, &mut repositories)?;
                    modules.place(&mut moves, &mut repositories)
                }
            })
            .and_then(|()| self.move_files(seen, plan, &mut moves));
        let made = moved
            .and_then(|()| self.make_index(before, seen, plan))
            .and_then(|()| self.move_index(before));
        if let Err(error) = made {
            moves.undo();
            repositories.undo();
            if before.left.is_none() {
                Way::forget(&before.copy.git_dir)?;
            }
            return Err(error);
        }
        Ok((items.len() as u64, filtered))
    }

    /// Notes that it is on its way.
    fn note(&self, before: &Before, commit: Option<ObjectId>) -> Result<(), RestoreError> {
        let left = before.left.as_ref();
        let mut to = left.map_or(Vec::new(), |left| left.to.clone());
        if !to.contains(&commit) {
            to.push(commit);
        }
        let to = to.split_off(to.len().saturating_sub(UPDATE_NOTED_MAX));
        let way = Way {
            from: before.scratch.head,
            to,
        };
        way.write(&before.copy.git_dir, &self.ours("note"))
    }

    /// Refuses where one of the files that are replaced is not what was looked at: much may have been done there while
    /// objects came.
    fn look_again(&self, before: &Before, seen: &Seen, plan: &Plan) -> Result<(), RestoreError> {
        if self.args.force {
            return Ok(());
        }
        let replaced = plan.changes.iter().filter(|change| change.is_there);
        let replaced = replaced.map(|change| change.at);
        let numbers = replaced.chain(plan.rewritten.iter().copied());
        let ground = before.ground(self.link.stop);
        let Some(number) = look::first_changed(ground, &seen.entries, &seen.looked, numbers)?
        else {
            return Ok(());
        };
        let path = as_path(seen.entries.get(number).path())
            .display()
            .to_string();
        Err(RestoreError::Usage(format!(
            "{path} was changed meanwhile; --force replaces it"
        )))
    }

    /// What goes goes first.
    fn move_files(&self, seen: &Seen, plan: &Plan, moves: &mut Moves) -> Result<(), RestoreError> {
        let stop = self.link.stop;
        for change in plan.changes.iter().filter(|change| change.new.is_none()) {
            if stop.is_set() {
                return Err(stopped());
            }
            let path = as_path(plan.changes.path(change));
            match seen.entries.get(change.at).is_submodule() {
                true => moves.take_out_empty(&path),
                false => moves.take_out(&path)?,
            }
        }
        self.staging.merge(Path::new(""), moves, stop)
    }

    fn make_index(&self, before: &Before, seen: &Seen, plan: &Plan) -> Result<(), RestoreError> {
        let parts = written::Parts {
            old: &seen.entries,
            changes: &plan.changes,
            rewritten: &plan.rewritten,
            looked: &seen.looked,
        };
        written::write(
            &self.ours("index"),
            &parts,
            before.ground(self.link.stop),
            self.dates,
        )
    }

    /// Puts the index that was made into its place. From here on only the end is left.
    fn move_index(&self, before: &Before) -> Result<(), RestoreError> {
        let (from, to) = (self.ours("index"), before.copy.git_dir.join("index"));
        std::fs::rename(from, &to).map_err(failed("rename to", &to))
    }

    /// Notes that it is done.
    fn finish(&self, before: &Before, commit: Option<ObjectId>) -> Result<(), RestoreError> {
        let copy = &before.copy;
        if let Some(commit) = commit {
            let text = noted(
                &commit.to_string(),
                &self.args.repo_url,
                &copy.restored.origin,
            );
            let note = copy.git_dir.join(NOTE_NAME);
            heads::write(&note, &text, &self.ours("note"))?;
        }
        Way::forget(&copy.git_dir)
    }

    /// Removes all that is not tracked.
    fn clean(&self, before: &Before, room: Room<'_>) -> Result<(), RestoreError> {
        let scratch = &before.scratch.tree;
        let (index, link) = (
            before.copy.git_dir.join("index"),
            scratch.join(".git/index"),
        );
        std::os::unix::fs::symlink(&index, &link).map_err(failed("link", &link))?;
        let args = ["clean", "-ffdxq", "-e", "/.tarpon-restore-*"];
        let at = (&**scratch, self.staging.target());
        let input = std::process::Stdio::null();
        run::of_files(self.link.stop, at, room.until, input, &args).map(|_| ())
    }

    fn say(&self, filtered: u64) {
        if filtered > 0 && !self.args.quiet {
            self.link.progress.say(&format!(
                "{filtered} files with a filter (git-lfs) are written as they are in the repository"
            ));
        }
    }

    fn summary(
        &self,
        before: &Before,
        commit: Option<ObjectId>,
        (bytes, written): (u64, u64),
    ) -> Result<Summary, RestoreError> {
        let (args, link) = (self.args, self.link);
        let directory = args.dir.to_string_lossy();
        let mut summary = link.progress.summary(&args.repo_url, &directory);
        summary.source = SOURCE_UPDATE;
        summary.worktree = Some(Worktree::Packs);
        summary.origin = before.copy.restored.origin();
        (summary.bytes, summary.entries) = (Some(bytes), Some(written));
        summary.commit = commit.map(|commit| commit.to_string());
        summary.branch = update::branch_of(&before.copy.git_dir)?;
        summary.verified = args.verify.map(|verify| Proven::of(verify, args.clean));
        if commit.is_none() {
            summary.note = Some(update::why_empty(link.stop, &before.scratch.tree)?);
        }
        Ok(summary)
    }
}
