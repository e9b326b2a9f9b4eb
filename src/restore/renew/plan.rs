//! What is to be done to bring a working copy to another commit, and what would be lost by that.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Instant;

use gix::ObjectId;

use super::blocked::{self, Blocked};
use super::cache_tree::CacheTree;
use super::changes::{self, Changes};
use super::content::{self, Contents};
use super::copy::Copy;
use super::entries::{Entries, Unread};
use super::held::Tip;
use super::look::{self, Eye, Ground, Looked, StatData};
use super::note::Way;
use super::refusal::{expect_no_repository, not_taken};
use super::scratch::Scratch;
use crate::config::RestoreArgs;
use crate::restore::error::RestoreError;
use crate::restore::losses::Losses;
use crate::restore::objects::Objects;
use crate::restore::path::as_path;
use crate::restore::quota::Quota;
use crate::restore::stop::Stop;
use crate::restore::write::stopped;
use crate::tree::index::SUBMODULE;
use crate::tree::rules::AttributeFiles;

/// The working copy as it is, and what sees its objects.
pub(super) struct Before {
    pub copy: Copy,
    /// What HEAD leads to there, if that is to be replaced.
    pub tip: Option<Tip>,
    pub scratch: Scratch,
    pub root: File,
    /// The branch that is checked out.
    pub branch: Option<String>,
    pub left: Option<Way>,
    pub quota: Quota,
    /// Whether neither stat data nor what the index says of trees is enough.
    pub reads_all: bool,
}

impl Before {
    /// Refuses to update the working copy at `target` if HEAD leads elsewhere by now.
    pub(super) fn expect_tip(&self, target: &Path) -> Result<(), RestoreError> {
        let tip = self.tip.as_ref();
        tip.map_or(Ok(()), |tip| tip.expect_same(target, &self.copy.git_dir))
    }
}

/// Its index and its files.
pub(super) struct Seen {
    pub entries: Entries,
    pub attributes: AttributeFiles,
    pub looked: Looked,
}

/// What a run that was killed was on its way to.
struct Left {
    changes: Changes,
    attributes: AttributeFiles,
}

/// What is to be done.
pub(super) struct Plan {
    pub changes: Changes,
    pub attributes: AttributeFiles,
    /// Entries whose files are written anew though they stay the same.
    pub rewritten: Vec<usize>,
    /// What is not as the index says, and goes all the same.
    pub makes_room: MakesRoom,
}

/// See [`Plan::makes_room`]: by their paths.
pub(super) type MakesRoom = BTreeMap<Vec<u8>, Goes>;

/// Why something goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Goes {
    /// Git ignores it.
    Ignored,
    /// A run that was killed has left it so.
    Left(Option<StatData>),
}

impl Plan {
    /// Whether there is nothing to be done.
    pub(super) fn is_empty(&self) -> bool {
        self.changes.iter().next().is_none() && self.rewritten.is_empty()
    }
}

impl Before {
    /// Where its files are looked at.
    pub(super) fn ground<'g>(&'g self, stop: &'g Stop) -> Ground<'g> {
        Ground {
            root: self.root.as_fd(),
            executable: self.copy.has_modes(),
            objects: &self.scratch.tree,
            reads_all: self.reads_all,
            quota: &self.quota,
            stop,
        }
    }

    /// Reads the index and looks at all files of it.
    pub(super) fn see(&self, target: &Path, stop: &Stop) -> Result<Seen, RestoreError> {
        let index = self.copy.git_dir.join("index");
        let entries = Entries::read(&index, self.copy.hash(), stop);
        let mut entries = entries.map_err(|unread| match unread {
            Unread::Kind(why) => not_taken(target, why),
            Unread::Failed(error) => error,
        })?;
        if self.reads_all {
            entries.trees = CacheTree::default();
        }
        let attributes = content::attributes_of(&entries);
        let looked = look::look(self.ground(stop), &entries, &attributes)?;
        Ok(Seen {
            entries,
            attributes,
            looked,
        })
    }
}

/// What may be lost.
#[derive(Debug, Clone, Copy)]
pub(super) struct Leave {
    /// Changed files, and untracked ones that are in the way.
    pub force: bool,
    /// Untracked files wherever they are.
    pub clean: bool,
    /// What was added.
    pub discard_local: bool,
}

impl Leave {
    pub(super) fn of(args: &RestoreArgs) -> Leave {
        Leave {
            force: args.force,
            clean: args.clean,
            discard_local: args.discard_local,
        }
    }
}

/// Compares all that is known.
pub(super) struct Planner<'p> {
    pub target: &'p Path,
    pub before: &'p Before,
    pub seen: &'p Seen,
    pub leave: Leave,
    pub until: Instant,
    pub stop: &'p Stop,
}

impl Planner<'_> {
    /// What differs in a commit.
    pub(super) fn changes(
        &self,
        commit: Option<ObjectId>,
        objects: &Objects<'_>,
    ) -> Result<Changes, RestoreError> {
        let tree = commit.map(|id| objects.tree_of(id)).transpose()?;
        Changes::between(&self.seen.entries, tree, objects, self.stop)
    }

    /// Compares all that is known; adds what would be lost. Of submodules, `gone` are those that go, where they are
    /// wanted.
    pub(super) fn plan(
        &self,
        changes: Changes,
        gone: Option<&[PathBuf]>,
        objects: &Objects<'_>,
        losses: &mut Losses,
    ) -> Result<Plan, RestoreError> {
        let Planner { before, seen, .. } = *self;
        let between = |commit| self.changes(commit, objects);
        let attributes = content::attributes_with(&seen.entries, &changes);
        let mut all_left = Vec::new();
        for to in before.left.iter().flat_map(|way| &way.to) {
            // What nothing leads to may be gone.
            let Ok(changes) = between(*to) else { continue };
            let attributes = content::attributes_with(&seen.entries, &changes);
            all_left.push(Left {
                changes,
                attributes,
            });
        }
        self.find_staged(
            (&between(before.scratch.head)?, &changes),
            &all_left,
            losses,
        );
        self.expect_absorbed(&changes)?;
        if gone.is_none() {
            self.find_submodules(&changes, losses);
        }
        let mut eyes = self.eyes(&all_left)?;
        let mut makes_room = MakesRoom::new();
        if !self.leave.force {
            makes_room = self.find_changed(&mut eyes, losses)?;
        }
        if !self.leave.force && !self.leave.clean {
            let gone = gone.unwrap_or_default();
            makes_room.extend(self.find_blocked(&changes, gone, &mut eyes, losses)?);
        }
        let rewritten = self.rewritten(&changes, &attributes)?;
        if !self.leave.force {
            self.find_changed_since(&changes, &rewritten, losses)?;
        }
        Ok(Plan {
            changes,
            attributes,
            rewritten,
            makes_room,
        })
    }

    /// What looks at files as runs that were killed would have left them.
    fn eyes<'e>(&'e self, left: &'e [Left]) -> Result<Vec<(Eye<'e>, &'e Changes)>, RestoreError> {
        let hash = self.before.copy.hash();
        let eyes = left.iter().map(|left| {
            let eye = Eye::new(self.before.ground(self.stop), hash, &left.attributes)?;
            Ok((eye, &left.changes))
        });
        eyes.collect()
    }

    /// Adds what the index says otherwise than HEAD's commit, from which it `staged` differs: what was added, and what
    /// was taken out of it and would come back. What a run that was killed has brought there is neither.
    fn find_staged(
        &self,
        (staged, changes): (&Changes, &Changes),
        left: &[Left],
        losses: &mut Losses,
    ) {
        for change in staged.iter() {
            let path = staged.path(change);
            if left.iter().any(|left| left.changes.find(path).is_none()) {
                continue;
            }
            if change.is_there && !self.leave.discard_local {
                losses.lost.added.push(named(path));
            }
            if !change.is_there && !self.leave.force && changes.find(path).is_some() {
                losses.removed.push(named(path));
            }
        }
    }

    /// Refuses where something else comes in the place of a submodule that has its repository in its own directory.
    fn expect_absorbed(&self, changes: &Changes) -> Result<(), RestoreError> {
        let is_other = |change: &&changes::Change| {
            let is_module = change.is_there && self.seen.entries.get(change.at).is_submodule();
            is_module && change.new.is_some_and(|(mode, _)| mode != SUBMODULE)
        };
        let mut others = changes.iter().filter(is_other);
        others.try_for_each(|change| {
            let path = as_path(changes.path(change));
            expect_no_repository(self.target, &path, "something else")
        })
    }

    /// Adds submodules that are checked out and would change.
    fn find_submodules(&self, changes: &Changes, losses: &mut Losses) {
        let is_old = |change: &&changes::Change| {
            change.is_there && self.seen.entries.get(change.at).is_submodule()
        };
        for change in changes.iter().filter(is_old) {
            let path = changes.path(change);
            let listing = std::fs::read_dir(self.target.join(as_path(path)));
            if listing.is_ok_and(|mut listing| listing.next().is_some()) {
                losses.submodules.push(named(path));
            }
        }
    }

    /// Adds changed and missing files, unless it is a run that was killed which has written them: these go.
    fn find_changed(
        &self,
        eyes: &mut [(Eye<'_>, &Changes)],
        losses: &mut Losses,
    ) -> Result<MakesRoom, RestoreError> {
        let mut makes_room = MakesRoom::new();
        for number in &self.seen.looked.changed {
            let entry = self.seen.entries.get(*number);
            let same = Some((entry.mode(), entry.id()));
            // A run that was killed may have taken it away, to put the submodule there.
            if entry.is_submodule() && !eyes.is_empty() {
                continue;
            }
            match left_at(eyes, entry.path(), same)? {
                None => losses.changed.push(named(entry.path())),
                Some(goes) => drop(makes_room.insert(entry.path().to_vec(), goes)),
            }
        }
        Ok(makes_room)
    }

    /// Adds what has changed since it was looked at and would be replaced: objects may have come for minutes.
    fn find_changed_since(
        &self,
        changes: &Changes,
        rewritten: &[usize],
        losses: &mut Losses,
    ) -> Result<(), RestoreError> {
        let Seen {
            entries, looked, ..
        } = self.seen;
        let replaced = changes.iter().filter(|change| change.is_there);
        let replaced = replaced.map(|change| change.at);
        let numbers = replaced.chain(rewritten.iter().copied());
        let ground = self.before.ground(self.stop);
        for number in look::changed_since(ground, entries, looked, numbers)? {
            losses.changed.push(named(entries.get(number).path()));
        }
        Ok(())
    }

    /// Adds what nobody tracks and is where something comes, unless git ignores it: that goes.
    fn find_blocked(
        &self,
        changes: &Changes,
        gone: &[PathBuf],
        eyes: &mut [(Eye<'_>, &Changes)],
        losses: &mut Losses,
    ) -> Result<MakesRoom, RestoreError> {
        let blocked = Blocked {
            target: self.target,
            old: &self.seen.entries,
            changes,
            stop: self.stop,
        };
        let is_gone = |path: &[u8]| gone.iter().any(|gone| as_path(path).starts_with(gone));
        let (mut kept, mut makes_room) = (Vec::new(), MakesRoom::new());
        for path in blocked.find()?.into_iter().filter(|path| !is_gone(path)) {
            match left_at(eyes, &path, None)? {
                None => kept.push(path),
                Some(goes) => drop(makes_room.insert(path, goes)),
            }
        }
        let (scratch, until) = (&self.before.scratch.tree, self.until);
        let ignored = blocked::ignored(&kept, self.target, scratch, until, self.stop)?;
        for path in kept {
            match ignored.contains(&path) {
                true => drop(makes_room.insert(path, Goes::Ignored)),
                false => losses.blocked.push(named(&path)),
            }
        }
        Ok(makes_room)
    }

    /// The entries that stay the same and whose files have to be written: those that are changed, and those that
    /// attributes convert in another way.
    fn rewritten(
        &self,
        changes: &Changes,
        attributes: &AttributeFiles,
    ) -> Result<Vec<usize>, RestoreError> {
        let stays = |number: &usize| {
            changes
                .find(self.seen.entries.get(*number).path())
                .is_none()
        };
        let mut found: Vec<usize> = self
            .seen
            .looked
            .changed
            .iter()
            .copied()
            .filter(stays)
            .collect();
        let Planner { before, stop, .. } = *self;
        let hash = before.copy.hash();
        let of = |files| Contents::new(&before.scratch.tree, hash, files, (&before.quota, stop));
        let (mut old, mut new) = (of(&self.seen.attributes)?, of(attributes)?);
        for directory in content::differently(changes) {
            for number in self.seen.entries.below(&directory) {
                if stop.is_set() {
                    return Err(stopped());
                }
                let entry = self.seen.entries.get(number);
                let is_file = entry.mode() & libc::S_IFMT == libc::S_IFREG;
                if is_file && old.conversions(entry.path())? != new.conversions(entry.path())? {
                    found.extend(Some(number).filter(stays));
                }
            }
        }
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }
}

/// A path for people.
fn named(path: &[u8]) -> String {
    as_path(path).display().to_string()
}

/// What is at `path`, if that is what a run that was killed may have left there, which it had to be the `same` as unless
/// it changed: what one of their commits has; nothing, where a file that it replaced may have been between two names.
fn left_at(
    eyes: &mut [(Eye<'_>, &Changes)],
    path: &[u8],
    same: Option<(u32, ObjectId)>,
) -> Result<Option<Goes>, RestoreError> {
    for (eye, changes) in eyes {
        let change = changes.find(path);
        let expected = match change {
            Some(change) => change.new,
            None => same,
        };
        let Some(expected) = expected else {
            if eye.has_no_file(path)? {
                return Ok(Some(Goes::Left(None)));
            }
            continue;
        };
        if let Some(stat) = eye.is_of(path, expected)? {
            return Ok(Some(Goes::Left(Some(stat))));
        }
        if change.is_some() && eye.is_absent(path)? {
            return Ok(Some(Goes::Left(None)));
        }
    }
    Ok(None)
}
