//! Which working copies are brought to another commit: those that a plain clone or a restore has made, of the
//! repository that is asked for. What an earlier job may have written into one is looked at as data.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use gix::bstr::ByteSlice;
use gix::hash::Kind;

use crate::config::GivenUrl;
use crate::limits::{RESTORE_NOTE_BYTES_MAX, RESTORED_CONFIG_BYTES_MAX};
use crate::restore::data::read;
use crate::restore::error::{RestoreError, failed};
use crate::restore::gitdir::{Modes, Restored};
use crate::restore::nested;
use crate::restore::noted::NOTE_NAME;
use crate::restore::origin::{self, fetches};
use crate::restore::path::as_path;
use crate::restore::url::base_target;

/// Directories that lead nowhere else.
const DIRECTORIES: [&str; 4] = ["", "objects", "objects/pack", "refs"];
/// What a repository has that is not by itself, or in the middle of something.
const OTHERS: [(&str, &str); 13] = [
    ("commondir", "it is a linked worktree"),
    (
        "objects/info/alternates",
        "it borrows objects of another repository",
    ),
    ("reftable", "its refs are in a reftable"),
    (
        "info/attributes",
        "it has attributes of its own (info/attributes)",
    ),
    (
        "info/sparse-checkout",
        "files of it are not checked out (sparse-checkout)",
    ),
    ("info/grafts", "it has grafts"),
    ("MERGE_HEAD", "a merge goes on in it"),
    ("CHERRY_PICK_HEAD", "a cherry-pick goes on in it"),
    ("REVERT_HEAD", "a revert goes on in it"),
    ("BISECT_START", "a bisection goes on in it"),
    ("rebase-merge", "a rebase goes on in it"),
    ("rebase-apply", "a rebase goes on in it"),
    ("sequencer", "a series of picks goes on in it"),
];

/// Sections of a configuration that decide nothing about files, refs and objects.
const SECTIONS: [&str; 38] = [
    "advice",
    "alias",
    "am",
    "apply",
    "author",
    "blame",
    "branch",
    "color",
    "column",
    "commit",
    "committer",
    "credential",
    "diff",
    "fetch",
    "filter",
    "gc",
    "gpg",
    "grep",
    "gui",
    "help",
    "http",
    "init",
    "lfs",
    "log",
    "maintenance",
    "merge",
    "protocol",
    "pull",
    "push",
    "rebase",
    "rerere",
    "safe",
    "ssh",
    "stash",
    "status",
    "submodule",
    "tag",
    "user",
];
/// The same of `core`.
const CORE: [&str; 16] = [
    "askpass",
    "bigfilethreshold",
    "checkstat",
    "commitgraph",
    "compression",
    "editor",
    "fsmonitor",
    "hookspath",
    "logallrefupdates",
    "multipackindex",
    "pager",
    "precomposeunicode",
    "preloadindex",
    "quotepath",
    "sshcommand",
    "trustctime",
];
/// The same of a remote.
const REMOTE: [&str; 9] = [
    "fetch",
    "prune",
    "prunetags",
    "proxy",
    "pushurl",
    "skipdefaultupdate",
    "tagopt",
    "url",
    "followremotehead",
];

/// A working copy that is taken.
pub(super) struct Copy {
    pub git_dir: PathBuf,
    pub config: Vec<u8>,
    pub restored: Restored,
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

    /// Whether modes say who may execute a file.
    pub(super) fn has_modes(&self) -> bool {
        self.restored.modes == Modes::Told
    }
}

/// It is not taken, for this reason.
pub(super) fn not_taken(directory: &Path, why: impl std::fmt::Display) -> RestoreError {
    RestoreError::Usage(format!(
        "{} is not brought to another commit: {why}; --overwrite restores it whole",
        directory.display()
    ))
}

impl Copy {
    /// Looks at the one at `place`, which is to be of the repository `given`.
    pub(super) fn open(
        place: Place<'_>,
        given: &GivenUrl,
        is_shallow: bool,
    ) -> Result<Copy, RestoreError> {
        let copy = Copy::look(place)?;
        let refused = |why: &str| Err(not_taken(place.directory, why));
        let origin = &copy.restored.origin;
        if !is_of(place.git_dir, given, origin) {
            let shown = origin::shown(origin);
            return refused(&format!("its origin is {shown}"));
        }
        match (copy.has_end, is_shallow) {
            (true, false) => refused("it has not all of its history, which --depth 1 is for"),
            (false, true) => refused("it has all of its history, not --depth 1"),
            _ => Ok(copy),
        }
    }

    /// Looks at the one at `place`, whatever it is of.
    pub(super) fn look(place: Place<'_>) -> Result<Copy, RestoreError> {
        let Place { directory, git_dir } = place;
        let refused = |why: &str| Err(not_taken(directory, why));
        for name in DIRECTORIES {
            match fs::symlink_metadata(git_dir.join(name)) {
                Ok(found) if found.is_dir() => {}
                _ => return refused(&format!("its .git/{name} is no directory")),
            }
        }
        for (name, why) in OTHERS {
            match fs::symlink_metadata(git_dir.join(name)) {
                Ok(found) if found.is_dir() || found.len() > 0 => return refused(why),
                _ => {}
            }
        }
        match nested::worktrees(git_dir) {
            Ok(linked) if linked.is_empty() => {}
            Ok(_) => return refused("it has linked worktrees"),
            Err(why) => return refused(&why),
        }
        let path = git_dir.join("config");
        let config =
            read(&path, RESTORED_CONFIG_BYTES_MAX as u64).map_err(failed("read", &path))?;
        let executable = plain(&config, place).map_err(|why| not_taken(directory, why))?;
        let said = origin::read(&config).map_err(|e| not_taken(directory, e))?;
        let origin = config_value(&config, "remote.origin.url");
        let Some(origin) = origin else {
            return refused("its configuration names no origin");
        };
        let has_end = has_end(git_dir)?;
        let restored = Restored {
            kind: said.hash,
            fetches: fetches(&said, has_end),
            origin,
            modes: match executable {
                true => Modes::Told,
                false => Modes::None,
            },
        };
        Ok(Copy {
            git_dir: git_dir.to_owned(),
            config,
            restored,
            has_end,
        })
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

/// Whether modes say who may execute a file; or what the configuration has that a plain clone's has not.
fn plain(config: &[u8], place: Place<'_>) -> Result<bool, String> {
    let config = gix::config::File::try_from(config.as_bstr());
    let config = config.map_err(|e| format!("its configuration cannot be read: {e}"))?;
    let mut executable = true;
    for section in config.sections() {
        let header = section.header();
        let name = header.name().to_str_lossy().to_ascii_lowercase();
        if SECTIONS.contains(&&*name) {
            continue;
        }
        for key in section.value_names() {
            let key = key.to_ascii_lowercase();
            let raw = section.value(&key).unwrap_or_default();
            let value = raw.to_str_lossy().to_ascii_lowercase();
            let is_plain = match (&*name, &*key, &*value) {
                ("core", "repositoryformatversion", "0" | "1") => true,
                ("core", "bare" | "ignorecase", "false") | ("core", "symlinks", "true") => true,
                ("core", "filemode", "true" | "false") => {
                    executable = value == "true";
                    true
                }
                // A submodule's repository leads to its files.
                ("core", "worktree", _) => leads_to(place, &raw),
                ("core", key, _) => CORE.contains(&key),
                ("extensions", "objectformat", _) => true,
                ("remote", key, _) => REMOTE.contains(&key),
                _ => false,
            };
            if !is_plain {
                return Err(format!("its configuration sets {name}.{key}"));
            }
        }
    }
    Ok(executable)
}

/// Whether a worktree that is named so by its repository is the one at `place`.
fn leads_to(place: Place<'_>, worktree: &[u8]) -> bool {
    let named = fs::canonicalize(place.git_dir.join(as_path(worktree)));
    let real = fs::canonicalize(place.directory);
    matches!((named, real), (Ok(named), Ok(real)) if named == real)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(config: &[u8]) -> Result<bool, String> {
        let place = Place {
            directory: Path::new("/nowhere"),
            git_dir: Path::new("/nowhere/.git"),
        };
        super::plain(config, place)
    }

    #[test]
    fn only_what_a_plain_clone_sets_is_taken() {
        let base = "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = false\n";
        for more in [
            "",
            "\tlogallrefupdates = true\n[remote \"origin\"]\n\turl = x\n\tfetch = y\n",
            "[user]\n\tname = a\n[branch \"core.bare\"]\n\tremote = origin\n",
            "[extensions]\n\tobjectFormat = sha256\n",
        ] {
            assert_eq!(
                plain(format!("{base}{more}").as_bytes()),
                Ok(true),
                "{more}"
            );
        }
        assert_eq!(plain(b"[core]\n\tfileMode = false\n"), Ok(false));
        for more in [
            "\tworktree = ../x\n",
            "\tautocrlf = true\n",
            "\tsymlinks = false\n",
            "\tbare\n",
            "[extensions]\n\tworktreeConfig = true\n",
            "[remote \"origin\"]\n\tpromisor = true\n",
            "[include]\n\tpath = x\n",
            "[index]\n\tversion = 4\n",
            "[what]\n\tis = this\n",
            "[core\n",
        ] {
            plain(format!("{base}{more}").as_bytes()).unwrap_err();
        }
    }
}
