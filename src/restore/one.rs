//! One restore: from the first request to the target in its place.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

use gix::hash::Kind;

use super::dates::Dates;
use super::error::RestoreError;
use super::gitdir::Made;
use super::in_the_way::Watch;
use super::index::Expected;
use super::link::Link;
use super::looked::Looked;
use super::opening::{Asked, By};
use super::origin::is_cloneable;
use super::progress::Progress;
use super::quota::{Allowed, Quota};
use super::run::Room;
use super::seed::Seed;
use super::staging::Staging;
use super::stop::Stop;
use super::submodules::Nest;
use super::summary::{SOURCE_CLONE, Summary, Worktree};
use super::tracked::{Stale, Tracked};
use super::update::Update;
use super::wanted::Wanted;
use super::way::Way;
use super::write::Site;
use super::{
    checkouts, clone, gitdir, index, kept, noted, opening, proof, renew, run, seed, submodules,
    unpack, update, url, write,
};
use crate::config::RestoreArgs;
use crate::limits::{OLD_INDEX_BYTES_MAX, RESTARTS_MAX, TRACKED_INDEX_BYTES_MAX};

/// One of the submodules.
fn restore_one(args: &RestoreArgs, stop: &Stop, nest: &Nest) -> Result<(), RestoreError> {
    let one = restore(args, stop, &Progress::default(), nest)?;
    nest.add(&one);
    Ok(())
}

/// Restores as asked.
pub(super) fn restore(
    args: &RestoreArgs,
    stop: &Stop,
    progress: &Progress,
    nest: &Nest,
) -> Result<Summary, RestoreError> {
    let way = Way::of(args, stop)?;
    let link = way.link(args, stop, progress);
    let restore = Restore {
        args,
        link,
        wanted: Wanted::parse(args)?,
        dates: Dates::now(),
        seed: Seed::open(args, &link.url(), progress)?,
        nest,
    };
    std::thread::scope(|scope| {
        if !args.quiet && !args.json {
            scope.spawn(|| progress.show());
        }
        // Who panics, in whatever thread, has said so: nothing stays behind, and nobody waits for more.
        let run = std::panic::AssertUnwindSafe(|| restore.run());
        let result = std::panic::catch_unwind(run);
        let result = result.unwrap_or(Err(RestoreError::Thread("restores")));
        progress.finish();
        let mut summary = result?;
        if args.recurse_submodules {
            let done = nest.done();
            summary.head.is_same &= !done.is_changed;
            summary.submodules = Some(done);
        }
        Ok(summary)
    })
}

/// One restore.
struct Restore<'a> {
    args: &'a RestoreArgs,
    link: Link<'a>,
    wanted: Wanted,
    dates: Dates,
    seed: Option<Seed<'a>>,
    nest: &'a Nest,
}

impl Restore<'_> {
    fn run(&self) -> Result<Summary, RestoreError> {
        let (args, link) = (self.args, self.link);
        let base = Some(link.place).filter(|p| !p.is_empty());
        let may_clone = args.fallback_clone() && (!args.update || proof::is_new(&args.dir));
        if base.is_none() && !may_clone {
            return Err(RestoreError::Usage(url::no_name(&args.repo_url)));
        }
        if args.update
            && base.is_some()
            && let Some(updated) = self.renewed()?
        {
            return Ok(updated);
        }
        self.check_target()?;
        if base.is_some()
            && args.fallback_clone()
            && !is_cloneable(args.repo_url.text())
            && !args.quiet
        {
            link.progress.say(&format!(
                "--fallback clone has nothing to clone from: \"{}\" is no URL, such as https://HOST/PATH",
                args.repo_url
            ));
        }
        let (mut restarts, mut told) = (0, false);
        let error = loop {
            let staging = Staging::new(&args.dir, args.overwrite)?;
            let restored = match base {
                Some(base) => self.snapshot(&staging, base),
                None => Err(RestoreError::NoSnapshot(url::no_name(&args.repo_url))),
            };
            match restored {
                Ok(summary) => return Ok(summary),
                Err(RestoreError::Changed) if restarts < RESTARTS_MAX => restarts += 1,
                Err(e) if self.seed.as_ref().is_some_and(|seed| seed.is_to_blame(&e)) => {}
                Err(e) if link.straight.is_to_blame(&e) => self.leaves_store(&e),
                Err(e @ RestoreError::Corrupt { .. }) if !told && link.corrupt.get().is_some() => {
                    told = true;
                    let text = format!("{e}; the server is told, and asked for another");
                    link.progress.say(&text);
                }
                Err(error) => break error.of_server(&link.server.authority),
            }
            link.progress.begins_again();
            link.stop.clear();
        };
        if !args.fallback_clone() || !error.is_servers() || link.stop.signal().is_some() {
            return Err(error);
        }
        link.stop.clear();
        self.clone(error)
    }

    /// Brings a working copy up to date, if there is one: once more without the store, where what came from there was wrong.
    fn renewed(&self) -> Result<Option<Summary>, RestoreError> {
        let link = self.link;
        loop {
            let nested = (self.nest, &restore_one as _);
            let renewed = renew::run(self.args, link, &self.wanted, self.dates, nested);
            match renewed {
                Err(e) if link.straight.is_to_blame(&e) => self.leaves_store(&e),
                renewed => return renewed,
            }
            link.progress.begins_again();
            link.stop.clear();
        }
    }

    fn leaves_store(&self, error: &RestoreError) {
        let text = format!("{error}; what came from the store is asked for again, from the server");
        self.link.progress.say(&text);
    }

    /// Clones from the upstream after the `error` of the server's.
    fn clone(&self, error: RestoreError) -> Result<Summary, RestoreError> {
        let (args, link) = (self.args, self.link);
        let url = args.repo_url.text();
        if !is_cloneable(url) {
            return Err(match url::base_target(url) {
                Some(_) => RestoreError::NoUrl {
                    first: Box::new(error),
                    url: args.repo_url.clone(),
                },
                None => RestoreError::Usage(url::no_name(&args.repo_url)),
            });
        }
        let staging = Staging::new(&args.dir, args.overwrite)?;
        let tree = staging.tree();
        if !args.quiet {
            let text = format!("{error}; cloning {} instead", args.repo_url);
            link.progress.say(&text);
        }
        link.progress.clones();
        let quota = Quota::beside(&self.nest.taken, Allowed::of(args), &tree)?;
        let room = Room::new(&tree, &quota);
        clone::clone(link, url, &self.wanted, room)?;
        let sha256 = run::local(link.stop, &tree, &["rev-parse", "--show-object-format"])?;
        let sha256 = sha256.starts_with(b"sha256");
        let mut summary = self.finish(&staging, sha256, (false, None), b"")?;
        quota.keep();
        summary.source = SOURCE_CLONE;
        // Git does not say how much it got.
        (summary.bytes, summary.entries) = (None, None);
        summary.origin = args.repo_url.to_string();
        Ok(summary)
    }

    /// Has the server told in the next request that what it gave under this tag is corrupt, if it is that.
    fn doubt(&self, tag: Option<&String>, error: RestoreError) -> RestoreError {
        let is_seeds = self.seed.as_ref().is_some_and(Seed::may_be_wrong);
        let is_servers = !is_seeds && !self.link.straight.may_be_wrong();
        if let (RestoreError::Corrupt { .. }, Some(tag), true) = (&error, tag, is_servers) {
            // Only the first: the server is told once.
            let _ = self.link.corrupt.set(tag.clone());
        }
        error
    }

    fn snapshot(&self, staging: &Staging, base: &str) -> Result<Summary, RestoreError> {
        let (args, link) = (self.args, self.link);
        let asked = Asked {
            base,
            query: self.wanted.query(),
            is_fresh: args.fresh,
            by: By::of(args),
        };
        let opened = opening::open(link, &asked)?;
        let base = &*opened.base().to_owned();
        let bundle = opened.bundle().filter(|_| !args.no_bundle);
        let tag = opened.tag_of_tarpon();
        let doubted = |error| self.doubt(tag.as_ref(), error);
        let (root, tree) = (staging.open_tree()?, staging.tree());
        let quota = Quota::beside(&self.nest.taken, Allowed::of(args), &tree)?;
        let site = Site {
            root: root.as_fd(),
            umask: write::umask(),
            quota: &quota,
            stop: link.stop,
        };
        let tracked = match staging.merges() && args.overwrite && !args.discard_local {
            true => Some(self.tracked(staging)?),
            false => None,
        };
        let watch = |tracked| Watch::new(staging.target(), tracked, link.stop);
        let way = tracked.as_ref().map(watch);
        let seeded = (args, self.seed.as_ref());
        let unpacked = unpack::unpack(opened, seeded, &tree, site, self.dates, way);
        let (archive, mut making) = unpacked.map_err(doubted)?;
        let worktree = Worktree::of(making.is_some());
        let asked = (args.repo_url.text(), &self.wanted.checkout);
        let unpacked = (&archive, making.as_mut());
        let made = gitdir::make(&tree, asked, unpacked, self.dates, link.stop);
        let made = made.map_err(doubted)?;
        archive.kept.iter().for_each(seed::note_sound);
        drop(archive);
        let Made { restored, .. } = &made;
        let news = made.news(self.wanted.is_shallow, args.verify.is_some())?;
        if let Some(news) = news.filter(|_| !args.quiet) {
            link.progress.say(news);
        }
        let wanted = match &made.kept {
            None => self.wanted.clone(),
            Some(_) => self.wanted.without_checkout(),
        };
        let bundle = bundle.filter(|_| made.kept.is_none() && !made.is_shallow);
        let update = Update {
            link,
            base,
            wanted: &wanted,
            kept: made.kept.clone(),
            bundle: bundle.as_deref().map(|target| (target, staging.bundle())),
            room: Room::new(&tree, &quota),
            restored,
            is_quiet: args.quiet,
        };
        let updated = update.bring(made.is_wanted, &self.wanted)?;
        let is_sha256 = restored.kind == gix::hash::Kind::Sha256;
        let is_fresh = updated.is_none();
        let fresh = (is_fresh, made.looked.filter(|_| is_fresh));
        let mut summary = self.finish(staging, is_sha256, fresh, &restored.origin)?;
        quota.keep();
        summary.bundle_applied = updated.unwrap_or(false);
        summary.worktree = Some(worktree);
        summary.origin = restored.origin();
        Ok(summary)
    }

    /// Dates the files of the finished tree, notes what it is, and puts it into the target's place.
    /// Its index `is_fresh` if no file has changed since that was made, and what was `looked` at is as it was then. The
    /// repository is from `origin`.
    fn finish(
        &self,
        staging: &Staging,
        sha256: bool,
        (is_fresh, looked): (bool, Option<Looked>),
        origin: &[u8],
    ) -> Result<Summary, RestoreError> {
        let (args, link) = (self.args, self.link);
        let tree = staging.tree();
        link.progress.made();
        let commit = update::checked_out(&tree)?;
        let branch = update::branch(&tree)?;
        let note = match commit {
            None => Some(update::why_empty(self.link.stop, &tree)?),
            Some(_) => None,
        };
        // Of what it is stands there whatever is checked out.
        let noted = noted::noted(commit.as_deref(), &args.repo_url, origin);
        let at = tree.join(noted::NOTE);
        std::fs::write(&at, noted).map_err(|e| RestoreError::disk("write", at, e))?;
        let hash = if sha256 { Kind::Sha256 } else { Kind::Sha1 };
        let of = (commit.as_deref(), hash);
        let proven = proof::conclude(args, (link, self.dates), staging, of, looked)?;
        link.progress.proven();
        self.restore_submodules(&tree, staging, commit.is_some())?;
        link.progress.has_submodules();
        let mut stale = None;
        let _turn = match staging.merges() {
            true => staging.turn(link.stop)?,
            false => None,
        };
        if staging.merges() && args.overwrite {
            // Again: much may have been done there meanwhile.
            let old = self.check_old(staging)?;
            let new = Tracked::open(&tree, TRACKED_INDEX_BYTES_MAX, link.stop);
            let new = new.map_err(RestoreError::Usage)?;
            let stale = stale.insert(Stale { old, new });
            if !args.discard_local {
                staging.check(stale, link.stop)?;
            }
        }
        if !staging.merges() && !is_fresh {
            self.refresh(&tree, sha256)?;
        }
        if let Some(interrupted) = link.stop.interrupted() {
            return Err(interrupted);
        }
        // A file that is moved has a new ctime.
        let refresh = || self.refresh(staging.target(), sha256);
        let left = staging.install(stale.as_ref(), link.stop, refresh)?;
        let left = checkouts::left_over(&left, stale.as_ref());
        if let Some(left) = left.filter(|_| !args.quiet && !args.recurse_submodules) {
            link.progress.say(&left);
        }
        let directory = args.dir.to_string_lossy();
        let mut summary = link.progress.summary(&args.repo_url, &directory);
        summary.note = note;
        summary.head.commit = commit;
        summary.head.branch = branch;
        summary.verified = proven;
        Ok(summary)
    }

    /// Restores what HEAD has of submodules, where there is one and they are wanted.
    fn restore_submodules(
        &self,
        tree: &Path,
        staging: &Staging,
        has_head: bool,
    ) -> Result<(), RestoreError> {
        if !self.args.recurse_submodules || !has_head {
            return Ok(());
        }
        let made = (tree, staging.submodules());
        submodules::Site::of(self.args, self.link.stop, self.nest, made)?.restore_all(&restore_one)
    }

    fn refresh(&self, at: &Path, sha256: bool) -> Result<(), RestoreError> {
        let root = File::open(at).map_err(|e| RestoreError::disk("open", at, e))?;
        index::refresh(
            root.as_fd(),
            sha256,
            self.dates,
            Expected::There,
            self.link.stop,
        )
    }

    /// Refuses before anything is asked for what can be known to be refused in the end.
    fn check_target(&self) -> Result<(), RestoreError> {
        let args = self.args;
        proof::check(args)?;
        if !args.overwrite {
            return Ok(());
        }
        let staging = Staging::new(&args.dir, true)?;
        match staging.merges() {
            true => self.check_old(&staging).map(|_| ()),
            false => Ok(()),
        }
    }

    /// Looks at the repository that is to be replaced; gives what it tracks.
    fn check_old(&self, staging: &Staging) -> Result<Tracked<'_>, RestoreError> {
        if !self.args.discard_local {
            kept::check(self.link.stop, staging)?;
        }
        self.tracked(staging)
    }

    /// What the repository that is to be replaced tracks.
    fn tracked(&self, staging: &Staging) -> Result<Tracked<'_>, RestoreError> {
        let tracked = Tracked::open(staging.target(), OLD_INDEX_BYTES_MAX, self.link.stop);
        tracked.map_err(RestoreError::Usage)
    }
}
