//! `--update`: brings an existing working copy to another commit.
//!
//! ```text
//! copy: is it one that is taken ─► lock: git's own ─┬─► kept, update: what is wanted, and its objects ─► scratch
//!                                                    └─► entries, look, own_trees: the index, all files by their stat
//!                                                        data, and which trees the index has
//! changes: index and tree ─► blocked: what is in the way ─► losses ─► proves: all packs, with --verify ─► staged: new
//! files, beside ─► note ─► moves ─► written: the index ─► heads: refs
//! ```
//!
//! Until the note nothing of the working copy has changed; until the index has, all is undone when something fails.
//! Who is killed leaves the note, and the next run takes what is of either commit for clean and comes to the end.

mod apply;
mod blocked;
mod cache_tree;
mod changes;
mod checkout;
mod content;
mod copy;
mod damage;
mod entries;
mod goes;
mod guard;
mod heads;
mod held;
mod left;
mod lock;
mod look;
mod modules;
mod news;
mod note;
mod own;
mod own_trees;
mod packed;
mod plain;
mod plan;
mod proves;
mod refusal;
mod removal;
mod rests;
mod scratch;
mod staged;
mod told;
mod written;

use std::fs::File;
use std::path::PathBuf;
use std::sync::OnceLock;

use gix::ObjectId;

use super::dates::Dates;
use super::error::{RestoreError, failed};
use super::link::Link;
use super::local::Lost;
use super::looked::Looked;
use super::losses::Losses;
use super::names::Names;
use super::noted::{NOTE_NAME, noted};
use super::objects::Objects;
use super::opening::{self, Asked, By};
use super::proof;
use super::quota::{Allowed, Quota};
use super::refs::Refs;
use super::run::Room;
use super::staging::Staging;
use super::submodules::{self, Nest, Restores, Site};
use super::summary::Summary;
use super::update::{self, Update};
use super::wanted::Wanted;
use crate::config::RestoreArgs;
use crate::limits::RENEWED_INDEX_BYTES_MAX;
use apply::Applying;
use changes::Changes;
use copy::{Copy, Place};
use damage::{Damage, Depth};
use heads::Replacing;
use held::{Held, Tip};
use lock::Locks;
use modules::{Around, Modules};
use news::{News, One};
use note::Way;
use own::Own;
use plan::{Before, Leave, Plan, Planner, Seen};
use scratch::Scratch;
use told::Done;

/// Brings the working copy that is there to what is wanted; `None` where there is none yet.
pub(super) fn run(
    args: &RestoreArgs,
    link: Link<'_>,
    wanted: &Wanted,
    dates: Dates,
    (nest, restores): (&Nest, Restores<'_>),
) -> Result<Option<Summary>, RestoreError> {
    proof::check(args)?;
    let git_dir = nest.home.as_ref().map(|home| &*home.git_dir);
    let staging = Staging::of_update(&args.dir, git_dir)?;
    if staging.is_empty() {
        return Ok(None);
    }
    let unused = told::unused(args).join(", ");
    if !unused.is_empty() && !args.quiet {
        link.progress.say(&format!(
            "for a directory that is restored, and of no use here: {unused}: this one is brought to the commit from packs"
        ));
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
        let (before, _locks) = self.begin()?;
        self.bring(&before)
            .map_err(|error| self.judged(&before, error))
    }

    fn bring(&self, before: &Before) -> Result<Summary, RestoreError> {
        let (args, link, hash) = (self.args, self.link, before.copy.hash());
        let room = Room::new(&before.scratch.tree, &before.quota);
        let (news, seen) = self.gather(before, room)?;
        let objects = Objects::open(&before.scratch.tree, hash, link.stop)?;
        let id = news.tip(hash, link.stop)?;
        let commit = id.map(|id| objects.commit_of(id)).transpose()?;
        let refs = news.refs(hash, commit, link.stop)?;
        let planner = Planner {
            target: self.staging.target(),
            before,
            seen: &seen,
            leave: Leave::of(args),
            until: room.until,
            stop: link.stop,
        };
        let (lost, held) = self.lost(before, &refs, room)?;
        let (plan, modules, losses) = self.plan(&planner, commit, &objects, lost)?;
        if let Some(looks) = self.nest.losses() {
            *submodules::lock(looks) = losses;
            before.scratch.leave(&self.objects())?;
            return Ok(link.progress.summary(&args.repo_url, ""));
        }
        losses.refuse(planner.target)?;
        let proves = |_| proves::prove((link, self.dates), before, commit);
        let looked = args.verify.map(proves).transpose()?;
        let ours = self.ours("refs");
        let replacing = Replacing {
            copy: &before.copy,
            refs: &refs,
            fetches: news.fetches(&before.copy, refs.branch()),
            scratch: &before.scratch.tree,
            modules: modules.as_ref(),
            is_submodule: self.nest.home.is_some(),
            held: held.as_ref(),
            ours: &ours,
            stop: link.stop,
        };
        let mut locks = replacing.prepare()?;
        let bytes = before.scratch.give(&before.copy)?;
        let applying = Applying {
            args,
            link,
            dates: self.dates,
            staging: self.staging,
            restores: self.restores,
            before,
            seen: &seen,
            plan: &plan,
            modules: modules.as_ref(),
            held: held.as_ref(),
        };
        let is_same = plan.is_empty() && commit == before.scratch.head;
        let (written, filtered) = applying.run(commit, room)?;
        let kept = replacing.run(commit, &mut locks)?;
        self.finish(before, commit, &kept)?;
        let done = Done {
            looked: self.conclude(looked, before, (&seen, &plan), room)?,
            commit,
            bytes,
            written,
            filtered,
            bundle_applied: news.bundle_applied(),
            note: commit.is_none().then(|| told::why_nothing(&refs)),
            is_same,
        };
        told::summary(args, link, before, &done)
    }

    /// What is proven once all is done; of the rest all is removed that is not tracked, if that is wanted.
    fn conclude(
        &self,
        looked: Option<Looked>,
        before: &Before,
        done: (&Seen, &Plan),
        room: Room<'_>,
    ) -> Result<Option<Looked>, RestoreError> {
        let looked = looked.map(|looked| proves::conclude(looked, before, done));
        let looked = looked.transpose()?;
        if !self.args.clean {
            return Ok(looked);
        }
        let alone = proves::clean(self.link, self.staging, before, room)?;
        Ok(looked.map(|looked| looked.alone(alone)))
    }

    /// What is to be done to come to a commit, and what would be lost by that, with what is `lost` of refs.
    fn plan<'m>(
        &'m self,
        planner: &Planner<'m>,
        commit: Option<ObjectId>,
        objects: &Objects<'_>,
        lost: Lost,
    ) -> Result<(Plan, Option<Modules<'m>>, Losses), RestoreError> {
        // All that follows is told from what it was.
        planner.before.expect_tip(planner.target)?;
        let mut losses = Losses {
            lost,
            ..Losses::default()
        };
        let changes = planner.changes(commit, objects)?;
        let mut modules = self.modules(planner.before, planner.seen, &changes, commit)?;
        let gone = modules.as_ref().map(Modules::gone);
        let plan = planner.plan((commit, changes), gone.as_deref(), objects, &mut losses)?;
        if let Some(modules) = &mut modules {
            modules.find_lost(&plan.changes, &mut losses)?;
            // What is inside of a submodule was looked at with it.
            if self.nest.home.is_none() || self.nest.losses().is_some() {
                modules.look(self.restores, &mut losses)?;
            }
        }
        Ok((plan, modules, losses))
    }

    /// What is wanted, and what is there.
    fn gather(&self, before: &Before, room: Room<'_>) -> Result<(News, Seen), RestoreError> {
        let (link, target) = (self.link, self.staging.target());
        // Whoever fails first is the reason, and the other need not go on.
        let is_news = OnceLock::new();
        let ends = &|side: bool| {
            is_news.get_or_init(|| side);
            link.stop.set();
        };
        std::thread::scope(|scope| {
            let seen = scope.spawn(move || {
                let seen = before.see(target, link.stop);
                seen.inspect_err(|_| ends(false))
            });
            let news = self.fetch(before, room);
            link.progress.fetched();
            let news = news.inspect_err(|_| ends(true));
            let seen = seen.join();
            let seen = seen.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            match (news, seen) {
                (Ok(news), Ok(seen)) => Ok((news, seen)),
                (Err(error), Ok(_)) | (Ok(_), Err(error)) => Err(error),
                (Err(news), Err(seen)) => match is_news.get() {
                    Some(true) => Err(news),
                    _ => Err(seen),
                },
            }
        })
    }

    /// An error, unless it is the working copy's own objects that are at fault.
    fn judged(&self, before: &Before, error: RestoreError) -> RestoreError {
        let depth = match &error {
            RestoreError::Corrupt { .. } | RestoreError::Entry { .. } => Depth::Sums,
            RestoreError::Git { step, .. } if step == "fetch" => Depth::Commits,
            RestoreError::Git { .. } | RestoreError::Unseen { .. } => Depth::All,
            RestoreError::Missing(_) => Depth::There,
            _ => return error,
        };
        let stop = self.link.stop;
        if stop.signal().is_some() {
            return error;
        }
        stop.clear();
        match damage::find(&before.copy, self.ours("damage"), depth, stop) {
            Ok(Some(Damage { path, what })) => RestoreError::Damaged {
                directory: self.staging.target().to_owned(),
                path,
                what,
            },
            // What cannot be looked at says nothing more.
            Ok(None) | Err(_) => error,
        }
    }

    /// The working copy as it is, and its lock.
    fn begin(&self) -> Result<(Before, Locks), RestoreError> {
        let (args, target) = (self.args, self.staging.target());
        let home = self.nest.home.as_ref();
        let place = Place {
            directory: target,
            git_dir: &home.map_or_else(|| target.join(".git"), |home| home.git_dir.clone()),
        };
        let copy = Copy::open(place, &args.repo_url, self.wanted.is_shallow)?;
        let tip = Tip::read(&copy.git_dir);
        let tip = tip.map_err(|why| refusal::refs_unread(target, why.to_string()))?;
        let scratch = Scratch::new(self.ours("scratch"), &copy)?;
        scratch.take(&self.objects())?;
        let mut locks = Locks::new(self.ours("locks"));
        locks.take(&copy.git_dir.join("index"))?;
        let left = Way::left(&copy.git_dir);
        // Whatever comes of this run: git waits for nobody who was killed.
        lock::sweep(&copy.git_dir);
        let before = Before {
            tip: Some(tip),
            scratch,
            branch: update::branch_of(&copy.git_dir)?,
            root: File::open(target).map_err(failed("open", target))?,
            copy,
            left,
            quota: Quota::beside(&self.nest.taken, Allowed::of(args), target)?,
            index_bytes_max: home.map_or(RENEWED_INDEX_BYTES_MAX, |home| home.index_bytes_max),
            reads_all: args.verify.is_some(),
        };
        Ok((before, locks))
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
            index_bytes_left: before.index_bytes_max - seen.entries.bytes.len() as u64,
        };
        let around = Around {
            args: self.args,
            staging: self.staging,
            copy: &before.copy,
            entries: &seen.entries,
            left: before.left.as_ref(),
            head: before.scratch.head,
        };
        let of = (&*before.scratch.tree, commit);
        Modules::find(around, site, changes, of).map(Some)
    }

    /// A path of ours, on the working copy's file system.
    fn ours(&self, name: &str) -> PathBuf {
        self.staging.old().join(name)
    }

    /// Where objects are that came when it was looked at, if it is a submodule.
    fn objects(&self) -> PathBuf {
        let home = self.nest.home.as_ref();
        home.map_or_else(|| self.ours("none"), |home| home.objects.clone())
    }

    /// Has the server look at its upstream: who asks for a snapshot can wait for that, and who fetches cannot.
    fn expect_fresh(&self) -> Result<(), RestoreError> {
        let asked = Asked {
            base: self.link.place,
            query: self.wanted.query(),
            is_fresh: true,
            by: By::Manifest,
        };
        opening::look(self.link, &asked)
    }

    /// What would be lost with the refs, once the upstream has `refs`; and which were looked at, unless all may go.
    fn lost(
        &self,
        before: &Before,
        refs: &Refs<'_>,
        room: Room<'_>,
    ) -> Result<(Lost, Option<Held>), RestoreError> {
        if self.args.discard_local {
            return Ok((Lost::default(), None));
        }
        let own = Own {
            link: self.link,
            staging: self.staging,
            before,
            room,
            is_submodule: self.nest.home.is_some(),
        };
        let (lost, held) = own.lost(refs)?;
        Ok((lost, Some(held)))
    }

    /// What is wanted, whose objects are there then.
    fn fetch(&self, before: &Before, room: Room<'_>) -> Result<News, RestoreError> {
        let link = self.link;
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
        let fetched = update.fetch()?;
        // Its refs are those of that moment.
        if let age_s @ Some(_) = fetched.moment.age_s {
            link.progress.aged(age_s);
        }
        Ok(News::All(fetched))
    }

    /// Notes that it is done, and says which refs were `kept`.
    fn finish(
        &self,
        before: &Before,
        commit: Option<ObjectId>,
        kept: &Names,
    ) -> Result<(), RestoreError> {
        before.quota.keep();
        if !kept.is_empty() && !self.args.quiet {
            let text = format!("made meanwhile, and not removed: {kept}");
            self.link.progress.say(&text);
        }
        let copy = &before.copy;
        let commit = commit.map(|commit| commit.to_string());
        let text = noted(
            commit.as_deref(),
            &self.args.repo_url,
            &copy.restored.origin,
        );
        let note = copy.git_dir.join(NOTE_NAME);
        heads::write(&note, &text, &self.ours("note"))?;
        Way::forget(&copy.git_dir)
    }
}
