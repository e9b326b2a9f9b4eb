//! What is to be done to bring a working copy to another commit, and what would be lost by that.

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
use super::goes::{Goes, MakesRoom, TooMany};
use super::held::Tip;
use super::left::{Left, left_at};
use super::look::{self, Eye, Ground, Looked};
use super::note::Way;
use super::own_trees;
use super::refusal::{expect_no_repository, not_taken};
use super::scratch::Scratch;
use crate::config::RestoreArgs;
use crate::limits::{IGNORED_ASKED_BYTES, LEFT_CHANGES_BYTES_MAX, MAKES_ROOM_MAX};
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
    /// So many bytes its index may have.
    pub index_bytes_max: u64,
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

/// What is to be done.
pub(super) struct Plan {
    pub changes: Changes,
    pub attributes: AttributeFiles,
    /// Entries whose files are written anew though they stay the same.
    pub rewritten: Vec<usize>,
    /// What is not as the index says, and goes all the same.
    pub makes_room: MakesRoom,
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
        let entries = Entries::read(&index, self.copy.hash(), self.index_bytes_max, stop);
        let mut entries = entries.map_err(|unread| match unread {
            Unread::Kind(why) => not_taken(target, why),
            Unread::Failed(error) => error,
        })?;
        let mut said = std::mem::take(&mut entries.trees);
        if self.reads_all {
            said = CacheTree::default();
        }
        let attributes = content::attributes_of(&entries);
        let (looked, trees) = std::thread::scope(|scope| {
            let all = &entries;
            let trees = scope.spawn(move || own_trees::believed(all, said, stop));
            let looked = look::look(self.ground(stop), all, &attributes);
            let trees = trees.join();
            (
                looked,
                trees.unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            )
        });
        let looked = looked?;
        entries.trees = trees?;
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
        (commit, changes): (Option<ObjectId>, Changes),
        gone: Option<&[PathBuf]>,
        objects: &Objects<'_>,
        losses: &mut Losses,
    ) -> Result<Plan, RestoreError> {
        let Planner { before, seen, .. } = *self;
        let attributes = content::attributes_with(&seen.entries, &changes);
        let all_left = self.all_left((commit, &changes), objects);
        let staged = self.changes(before.scratch.head, objects)?;
        self.find_staged((&staged, &changes), &all_left, losses);
        drop(staged);
        self.expect_absorbed(&changes)?;
        if gone.is_none() {
            self.find_submodules(&changes, losses);
        }
        let mut makes_room = MakesRoom::default();
        let mut eyes = self.eyes(&all_left, &changes)?;
        if !self.leave.force {
            self.find_changed(&mut eyes, &mut makes_room, losses)?;
        }
        if !self.leave.clean {
            let gone = gone.unwrap_or_default();
            let to = (&mut makes_room, &mut *losses);
            self.find_blocked(&changes, gone, &mut eyes, to)?;
        }
        drop(eyes);
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

    /// What runs that were killed were on their way to, the last first, where `changes` lead to the wanted commit.
    fn all_left(
        &self,
        (commit, changes): (Option<ObjectId>, &Changes),
        objects: &Objects<'_>,
    ) -> Vec<Left> {
        let entries = &self.seen.entries;
        let (mut all, mut held_bytes) = (Vec::new(), 0);
        for to in self.before.left.iter().flat_map(|way| way.to.iter().rev()) {
            if *to == commit {
                all.push(Left {
                    changes: None,
                    attributes: content::attributes_with(entries, changes),
                });
                continue;
            }
            // What nothing leads to may be gone.
            let Ok(changes) = self.changes(*to, objects) else {
                continue;
            };
            held_bytes += changes.bytes();
            if held_bytes > LEFT_CHANGES_BYTES_MAX {
                break;
            }
            all.push(Left {
                attributes: content::attributes_with(entries, &changes),
                changes: Some(changes),
            });
        }
        all
    }

    /// What looks at files as runs that were killed would have left them.
    fn eyes<'e>(
        &'e self,
        left: &'e [Left],
        wanted: &'e Changes,
    ) -> Result<Vec<(Eye<'e>, &'e Changes)>, RestoreError> {
        let hash = self.before.copy.hash();
        let eyes = left.iter().map(|left| {
            let eye = Eye::new(self.before.ground(self.stop), hash, &left.attributes)?;
            Ok((eye, left.changes(wanted)))
        });
        eyes.collect()
    }

    fn too_many(&self, _: TooMany) -> RestoreError {
        RestoreError::Usage(format!(
            "{} is not updated: of what is in the way and not tracked there are more than {MAKES_ROOM_MAX} files; with \
             --force all of that goes",
            self.target.display()
        ))
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
            let is_left = |left: &Left| {
                left.changes
                    .as_ref()
                    .unwrap_or(changes)
                    .find(path)
                    .is_none()
            };
            if left.iter().any(is_left) {
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
        makes_room: &mut MakesRoom,
        losses: &mut Losses,
    ) -> Result<(), RestoreError> {
        for number in &self.seen.looked.changed {
            let entry = self.seen.entries.get(*number);
            let same = Some((entry.mode(), entry.id()));
            // A run that was killed may have taken it away, to put the submodule there; a file it has not put there.
            if entry.is_submodule() && !eyes.is_empty() {
                let there = std::fs::symlink_metadata(self.target.join(as_path(entry.path())));
                if there.map_or(true, |there| there.is_dir()) {
                    continue;
                }
            }
            match left_at(eyes, entry.path(), same)? {
                None => losses.changed.push(named(entry.path())),
                Some(goes) => {
                    let added = makes_room.add(entry.path(), goes);
                    added.map_err(|many| self.too_many(many))?;
                }
            }
        }
        Ok(())
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

    /// Adds what nobody tracks and is where something comes, unless git ignores it: that goes. Where files may go
    /// whatever they are, that is what a repository by itself has.
    fn find_blocked(
        &self,
        changes: &Changes,
        gone: &[PathBuf],
        eyes: &mut [(Eye<'_>, &Changes)],
        (makes_room, losses): (&mut MakesRoom, &mut Losses),
    ) -> Result<(), RestoreError> {
        let blocked = Blocked {
            target: self.target,
            old: &self.seen.entries,
            changes,
            stop: self.stop,
        };
        // The directory of the last one, and whether that is in a repository by itself.
        let mut inside = (Vec::new(), false);
        let mut asked = Vec::new();
        blocked.each(&mut |path| {
            if gone.iter().any(|gone| as_path(path).starts_with(gone)) {
                return Ok(());
            }
            let above = &path[..path.iter().rposition(|b| *b == b'/').unwrap_or(0)];
            if above != inside.0 {
                inside = (above.to_vec(), blocked.is_in_repository(path));
            }
            // Whatever git ignores of it.
            if inside.1 {
                self.add_repository(path, losses);
                return Ok(());
            }
            if self.leave.force {
                return Ok(());
            }
            if let Some(goes) = left_at(eyes, path, None)? {
                let added = makes_room.add(path, goes);
                return added.map_err(|many| self.too_many(many));
            }
            asked.extend_from_slice(path);
            asked.push(0);
            match asked.len() < IGNORED_ASKED_BYTES {
                true => Ok(()),
                false => self.find_ignored(&mut asked, makes_room, losses),
            }
        })?;
        self.find_ignored(&mut asked, makes_room, losses)
    }

    /// Adds what is at `path`, in a repository by itself: who is forced to lose files does not lose commits by that.
    fn add_repository(&self, path: &[u8], losses: &mut Losses) {
        if !self.leave.force {
            losses.blocked.push(named(path));
        }
        if !self.leave.discard_local {
            losses.lost.repositories.push(named(path));
        }
    }

    /// Sorts what was `asked` about by whether git ignores it.
    fn find_ignored(
        &self,
        asked: &mut Vec<u8>,
        makes_room: &mut MakesRoom,
        losses: &mut Losses,
    ) -> Result<(), RestoreError> {
        let at = (self.target, &*self.before.scratch.tree);
        blocked::ignored(asked, at, self.until, self.stop, |path, is_ignored| {
            if !is_ignored {
                losses.blocked.push(named(path));
                return Ok(());
            }
            let added = makes_room.add(path, Goes::Ignored);
            added.map_err(|many| self.too_many(many))
        })?;
        asked.clear();
        Ok(())
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
