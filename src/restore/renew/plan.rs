//! What is to be done to bring a working copy to another commit, and whether it may be: what would be lost is refused by
//! name.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Instant;

use gix::ObjectId;

use super::blocked::{self, Blocked};
use super::cache_tree::CacheTree;
use super::changes::{self, Changes};
use super::content::{self, Contents};
use super::copy::{Copy, not_taken};
use super::entries::{Entries, Unread};
use super::look::{self, Eye, Ground, Looked};
use super::note::Way;
use super::scratch::Scratch;
use crate::config::RestoreArgs;
use crate::limits::LOCAL_NAMED_MAX;
use crate::restore::error::RestoreError;
use crate::restore::objects::Objects;
use crate::restore::path::as_path;
use crate::restore::quota::Quota;
use crate::restore::stop::Stop;
use crate::restore::write::stopped;
use crate::tree::rules::AttributeFiles;

/// The working copy as it is, and what sees its objects.
pub(super) struct Before {
    pub copy: Copy,
    pub scratch: Scratch,
    pub root: File,
    pub left: Option<Way>,
    pub quota: Quota,
    /// Whether neither stat data nor what the index says of trees is enough.
    pub reads_all: bool,
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

    /// Compares all that is known; refuses what would be lost. Of submodules, `gone` are those that go, where they are
    /// wanted.
    pub(super) fn plan(
        &self,
        changes: Changes,
        gone: Option<&[PathBuf]>,
        objects: &Objects<'_>,
    ) -> Result<Plan, RestoreError> {
        let Planner {
            before, seen, stop, ..
        } = *self;
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
        if !self.leave.discard_local {
            self.check_added(&between(before.scratch.head)?, &all_left)?;
        }
        if gone.is_none() {
            self.check_submodules(&changes)?;
        }
        let mut eyes = self.eyes(&all_left)?;
        if !self.leave.force {
            self.check_changed(&mut eyes)?;
        }
        let blocked = Blocked {
            target: self.target,
            old: &seen.entries,
            changes: &changes,
            stop,
        };
        if !self.leave.force && !self.leave.clean {
            let mut found = blocked.find()?;
            let mut kept = Vec::new();
            let gone = gone.unwrap_or_default();
            let is_gone = |path: &[u8]| gone.iter().any(|gone| as_path(path).starts_with(gone));
            for path in found.drain(..).filter(|path| !is_gone(path)) {
                if !is_of_left(&mut eyes, &path, None)? {
                    kept.push(path);
                }
            }
            self.check_blocked(kept)?;
        }
        let rewritten = self.rewritten(&changes, &attributes)?;
        Ok(Plan {
            changes,
            attributes,
            rewritten,
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

    /// Refuses what was added to the index and is in no commit.
    fn check_added(&self, staged: &Changes, left: &[Left]) -> Result<(), RestoreError> {
        let is_added = |change: &&changes::Change| {
            let path = staged.path(change);
            change.is_there && left.iter().all(|left| left.changes.find(path).is_some())
        };
        let added = staged.iter().filter(is_added);
        let added = added.map(|change| self.seen.entries.get(change.at).path());
        let added: Vec<String> = added.take(LOCAL_NAMED_MAX).map(named).collect();
        match added.is_empty() {
            true => Ok(()),
            false => Err(self.refused(
                &format!(
                    "nobody else may have what was added of {}",
                    added.join(", ")
                ),
                "commit and push it first, or have it go with --discard-local",
            )),
        }
    }

    fn refused(&self, why: &str, advice: &str) -> RestoreError {
        let target = self.target.display();
        RestoreError::Usage(format!("{target} is not updated: {why}; {advice}"))
    }

    /// Refuses to change a submodule that is checked out.
    fn check_submodules(&self, changes: &Changes) -> Result<(), RestoreError> {
        let target = self.target;
        let is_old = |change: &&changes::Change| {
            change.is_there && self.seen.entries.get(change.at).is_submodule()
        };
        for change in changes.iter().filter(is_old) {
            let path = changes.path(change);
            let listing = std::fs::read_dir(target.join(as_path(path)));
            if listing.is_ok_and(|mut listing| listing.next().is_some()) {
                let path = named(path);
                let why = format!(
                    "the submodule {path} is checked out, and changes (--recurse-submodules brings it along)"
                );
                return Err(not_taken(target, why));
            }
        }
        Ok(())
    }

    /// Refuses changed and missing files, unless it is a run that was killed which has written them.
    fn check_changed(&self, eyes: &mut [(Eye<'_>, &Changes)]) -> Result<(), RestoreError> {
        let mut changed = Vec::new();
        for number in &self.seen.looked.changed {
            let entry = self.seen.entries.get(*number);
            let same = Some((entry.mode(), entry.id()));
            // A run that was killed may have taken it away, to put the submodule there.
            if entry.is_submodule() && !eyes.is_empty() {
                continue;
            }
            if !is_of_left(eyes, entry.path(), same)? {
                changed.push(named(entry.path()));
            }
            if changed.len() > LOCAL_NAMED_MAX {
                break;
            }
        }
        let more = match changed.len() > LOCAL_NAMED_MAX {
            true => " and others",
            false => "",
        };
        changed.truncate(LOCAL_NAMED_MAX);
        match changed.is_empty() {
            true => Ok(()),
            false => Err(self.refused(
                &format!("{}{more} are changed or missing", changed.join(", ")),
                "have them made anew with --force",
            )),
        }
    }

    /// Refuses to replace what nobody tracks, unless git ignores it.
    fn check_blocked(&self, found: Vec<Vec<u8>>) -> Result<(), RestoreError> {
        let (stop, target) = (self.stop, self.target);
        let scratch = &self.before.scratch.tree;
        let left = blocked::not_ignored(found, target, scratch, self.until, stop)?;
        let left: Vec<String> = left
            .iter()
            .take(LOCAL_NAMED_MAX)
            .map(|path| path.display().to_string())
            .collect();
        match left.is_empty() {
            true => Ok(()),
            false => Err(self.refused(
                &format!(
                    "{} is where something of the commit comes, and not tracked",
                    left.join(", ")
                ),
                "move it away first, or have it replaced with --force",
            )),
        }
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

/// Whether what is at `path` is what a run that was killed may have left there, which it had to be the `same` as unless
/// it changed: what one of their commits has; nothing, where a file that it replaced may have been between two names.
fn is_of_left(
    eyes: &mut [(Eye<'_>, &Changes)],
    path: &[u8],
    same: Option<(u32, ObjectId)>,
) -> Result<bool, RestoreError> {
    for (eye, changes) in eyes {
        let expected = match changes.find(path) {
            Some(change) => change.new,
            None => same,
        };
        let is_so = match expected {
            Some(expected) if changes.find(path).is_some() => {
                eye.is_of(path, expected)?.is_some() || eye.is_absent(path)?
            }
            Some(expected) => eye.is_of(path, expected)?.is_some(),
            None => eye.has_no_file(path)?,
        };
        if is_so {
            return Ok(true);
        }
    }
    Ok(false)
}
