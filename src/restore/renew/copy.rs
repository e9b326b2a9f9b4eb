//! Which working copies are brought to another commit: those that a plain clone or a restore has made, of the
//! repository that is asked for. What an earlier job may have written into one is looked at as data.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use gix::bstr::ByteSlice;
use gix::hash::Kind;

use super::plain::{Plain, leads_to};
use super::refusal::{Overwrite, Why, not_taken};
use crate::config::GivenUrl;
use crate::limits::{RESTORE_NOTE_BYTES_MAX, RESTORED_CONFIG_BYTES_MAX};
use crate::restore::data::read;
use crate::restore::error::{RestoreError, failed};
use crate::restore::gitdir::{Modes, Restored};
use crate::restore::kept;
use crate::restore::nested;
use crate::restore::noted::NOTE_NAME;
use crate::restore::origin::{self, FETCHES_ALL, fetches, has_own_fetches};
use crate::restore::url::base_target;

/// Directories that lead nowhere else.
const DIRECTORIES: [&str; 4] = ["", "objects", "objects/pack", "refs"];
/// The same, where they are there.
const MORE_DIRECTORIES: [&str; 2] = ["logs", "logs/refs"];
/// What a repository has that is not by itself, or in the middle of something: a file, what it is, what helps, and what
/// `--overwrite` does.
const OTHERS: [(&str, &str, &str, Overwrite); 13] = [
    (
        "commondir",
        "it is a linked worktree",
        "",
        Overwrite::Refuses,
    ),
    (
        "objects/info/alternates",
        "it borrows objects of another repository",
        "git repack -a -d has its own, then remove .git/objects/info/alternates",
        Overwrite::Refuses,
    ),
    (
        "reftable",
        "its refs are in a reftable",
        "git refs migrate --ref-format=files",
        Overwrite::Refuses,
    ),
    (
        "info/attributes",
        "it has attributes of its own",
        "remove .git/info/attributes",
        Overwrite::Restores,
    ),
    (
        "info/grafts",
        "it has grafts",
        "remove .git/info/grafts",
        Overwrite::Restores,
    ),
    (
        "MERGE_HEAD",
        "a merge goes on in it",
        "git merge --abort ends it",
        Overwrite::Drops,
    ),
    (
        "CHERRY_PICK_HEAD",
        "a cherry-pick goes on in it",
        "git cherry-pick --abort ends it",
        Overwrite::Drops,
    ),
    (
        "REVERT_HEAD",
        "a revert goes on in it",
        "git revert --abort ends it",
        Overwrite::Drops,
    ),
    (
        "BISECT_START",
        "a bisection goes on in it",
        "git bisect reset ends it",
        Overwrite::Restores,
    ),
    (
        "rebase-merge",
        "a rebase goes on in it",
        "git rebase --abort ends it",
        Overwrite::Drops,
    ),
    (
        "rebase-apply/applying",
        "patches are applied in it",
        "git am --abort ends that",
        Overwrite::Drops,
    ),
    (
        "rebase-apply",
        "a rebase goes on in it",
        "git rebase --abort ends it",
        Overwrite::Drops,
    ),
    (
        "sequencer",
        "a series of picks goes on in it",
        "git cherry-pick --quit ends it",
        Overwrite::Drops,
    ),
];

/// A working copy that is taken.
pub(super) struct Copy {
    pub directory: PathBuf,
    pub git_dir: PathBuf,
    pub config: Vec<u8>,
    pub restored: Restored,
    /// Whether what `git fetch` brings was set by somebody.
    pub has_own_fetches: bool,
    /// Whether its history has an end.
    has_end: bool,
}

/// Where one is, and its repository.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'p> {
    pub directory: &'p Path,
    pub git_dir: &'p Path,
}

impl Copy {
    pub(super) fn hash(&self) -> Kind {
        self.restored.kind
    }

    /// What `git fetch` brings, where that is less than all branches: one branch or tag, or nothing by a name.
    pub(super) fn narrow(&self) -> Option<Option<&[u8]>> {
        let fetches = self.restored.fetches.as_deref();
        (fetches != Some(FETCHES_ALL)).then_some(fetches)
    }

    /// Whether modes say who may execute a file.
    pub(super) fn has_modes(&self) -> bool {
        self.restored.modes == Modes::Told
    }
}

impl Copy {
    /// Looks at the one at `place`, which is to be of the repository `given`.
    pub(super) fn open(
        place: Place<'_>,
        given: &GivenUrl,
        is_shallow: bool,
    ) -> Result<Copy, RestoreError> {
        let copy = Copy::look(place)?;
        let refused = |why: (&str, &str)| Err(not_taken(place.directory, why));
        let origin = &copy.restored.origin;
        if !is_of(place.git_dir, given, origin) {
            let shown = origin::shown(origin);
            return refused((
                &format!("its origin is {shown}"),
                "git remote set-url names another",
            ));
        }
        match (copy.has_end, is_shallow) {
            (true, false) => refused((
                "it has not all of its history",
                "add --depth 1, or have the rest with git fetch --unshallow",
            )),
            (false, true) => refused(("it has all of its history", "leave out --depth 1")),
            _ => Ok(copy),
        }
    }

    /// Looks at the one at `place`, whatever it is of.
    pub(super) fn look(place: Place<'_>) -> Result<Copy, RestoreError> {
        let Place { directory, git_dir } = place;
        check_kind(place)?;
        let refused = |why: Why| not_taken(directory, why);
        let path = git_dir.join("config");
        let unread = |path: &Path, e: io::Error| {
            refused(format!("its configuration {}: {e}", path.display()).into())
        };
        let own = |worktree: &Path| leads_to(git_dir, worktree, directory);
        let config = read(&path, RESTORED_CONFIG_BYTES_MAX as u64).map_err(|e| unread(&path, e))?;
        let mut plain = Plain::new().with(&config, "", own).map_err(refused)?;
        if plain.goes_on {
            let path = git_dir.join("config.worktree");
            match read(&path, RESTORED_CONFIG_BYTES_MAX as u64) {
                Ok(more) => plain = plain.with(&more, "--worktree ", own).map_err(refused)?,
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(unread(&path, e)),
            }
        }
        let said = origin::said(&config, plain.hash).map_err(|why| refused(why.into()))?;
        let origin = config_value(&config, "remote.origin.url");
        let origin = origin.ok_or_else(|| {
            refused(
                (
                    "its configuration names no origin",
                    "git remote add origin URL",
                )
                    .into(),
            )
        })?;
        let has_end = has_end(git_dir)?;
        let restored = Restored {
            kind: plain.hash,
            fetches: fetches(&said, has_end),
            origin,
            modes: match plain.has_modes {
                true => Modes::Told,
                false => Modes::None,
            },
        };
        Ok(Copy {
            directory: directory.to_owned(),
            git_dir: git_dir.to_owned(),
            config,
            restored,
            has_own_fetches: has_own_fetches(&said),
            has_end,
        })
    }
}

/// Refuses what is no repository of a worktree, has others or is in the middle of something.
fn check_kind(place: Place<'_>) -> Result<(), RestoreError> {
    let Place { directory, git_dir } = place;
    let refused = |why: Why| Err(not_taken(directory, why));
    for name in DIRECTORIES.into_iter().chain(MORE_DIRECTORIES) {
        match fs::symlink_metadata(git_dir.join(name)) {
            Ok(found) if found.is_dir() => {}
            Err(_) if MORE_DIRECTORIES.contains(&name) => {}
            Err(_) if name.is_empty() => return refused(without_git(directory)),
            Err(_) => {
                let why = format!("its .git has no {name}, as repositories have");
                return refused((why, "", Overwrite::Refuses).into());
            }
            Ok(_) => {
                let why = format!("its .git/{name} is no directory");
                let help = match MORE_DIRECTORIES.contains(&name) {
                    true => "remove that link or file",
                    false => "",
                };
                return refused((why, help, Overwrite::Refuses).into());
            }
        }
    }
    for (name, why, help, overwrite) in OTHERS {
        match fs::symlink_metadata(git_dir.join(name)) {
            Ok(found) if found.is_dir() || found.len() > 0 || name.starts_with("rebase") => {
                return refused((why, help, overwrite).into());
            }
            _ => {}
        }
    }
    match nested::worktrees(git_dir) {
        Ok(linked) if linked.is_empty() => Ok(()),
        Ok(linked) => refused((kept::of_worktrees(&linked), "", Overwrite::Refuses).into()),
        Err(why) => refused((why, "", Overwrite::Refuses).into()),
    }
}

/// What a directory is that has files and no `.git`.
fn without_git(directory: &Path) -> Why {
    let has = |name: &str| fs::symlink_metadata(directory.join(name)).is_ok();
    if ["HEAD", "objects", "refs"].into_iter().all(has) {
        return (
            "it is a bare repository, without files",
            "name another directory",
            Overwrite::No,
        )
            .into();
    }
    let mut above = directory.ancestors().skip(1);
    match above.find(|above| fs::symlink_metadata(above.join(".git")).is_ok()) {
        Some(above) => (
            "it is no working copy, for it has no .git, but a directory of one",
            format!("that is {}", above.display()),
            Overwrite::No,
        )
            .into(),
        None => "it is no working copy, for it has no .git, and not empty".into(),
    }
}

/// Whether its history ends somewhere.
fn has_end(git_dir: &Path) -> Result<bool, RestoreError> {
    let path = git_dir.join("shallow");
    match fs::symlink_metadata(&path) {
        Ok(found) => Ok(found.len() > 0),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(failed("look at", &path)(e)),
    }
}

fn config_value(config: &[u8], key: &str) -> Option<Vec<u8>> {
    let config = gix::config::File::try_from(config.as_bstr()).ok()?;
    config.string(key).map(|value| value.to_vec())
}

/// Whether a working copy with this origin is of the repository that was asked for. One that was restored under a
/// name of the server's own has a note of that.
pub(super) fn is_of(git_dir: &Path, given: &GivenUrl, origin: &[u8]) -> bool {
    let text = String::from_utf8_lossy(origin);
    let target = base_target(given.text());
    let is_named = text == given.text() || (target.is_some() && base_target(&text) == target);
    let note = read(&git_dir.join(NOTE_NAME), RESTORE_NOTE_BYTES_MAX);
    let noted = note.unwrap_or_default();
    let mut lines = noted.lines().skip(1);
    let noted = [lines.next(), lines.next()];
    let is_noted = target.is_some_and(|target| noted == [Some(target.as_bytes()), Some(origin)]);
    is_named || (is_noted && !origin::is_url(given.text()))
}
