//! `.git/tarpon-update`: from which commit to which a working copy is on its way, and a line for each repository of a
//! submodule that goes. A run that was killed leaves it, and the next one takes what is of either commit for what that run
//! has written, and what is left of those repositories for what it was to remove.

use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use gix::ObjectId;
use gix::bstr::ByteSlice;

use crate::limits::{UPDATE_NOTE_BYTES_MAX, UPDATE_NOTED_MAX};
use crate::restore::data::read;
use crate::restore::error::{RestoreError, failed};
use crate::restore::path::as_path;
use crate::restore::steps;

const NAME: &str = "tarpon-update";
/// In the place of a commit, where there is none.
const NONE: &str = "-";

/// Where repositories of submodules are.
const MODULES: &str = "modules";

/// The commits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Way {
    pub from: Option<ObjectId>,
    /// Several, if runs to others were killed before.
    pub to: Vec<Option<ObjectId>>,
    /// Those that go, relative to the repository.
    pub repositories: Vec<PathBuf>,
}

impl Way {
    /// That of a run which has not come to its end in the repository at `git_dir`.
    pub(super) fn left(git_dir: &Path) -> Option<Way> {
        let text = read(&git_dir.join(NAME), UPDATE_NOTE_BYTES_MAX).ok()?;
        let mut lines = text.lines();
        let mut words = lines.next()?.to_str().ok()?.split_whitespace();
        let mut next = || match words.next()? {
            NONE => Some(None),
            hex => ObjectId::from_hex(hex.as_bytes()).ok().map(Some),
        };
        Some(Way {
            from: next()?,
            to: std::iter::from_fn(next).take(UPDATE_NOTED_MAX).collect(),
            repositories: lines.map(as_path).filter(|path| is_modules(path)).collect(),
        })
    }

    /// Those that came from a server. Where it began may be nobody else's: who was to discard it was killed.
    pub(super) fn ends(&self) -> Vec<ObjectId> {
        self.to.iter().flatten().copied().collect()
    }

    /// Notes it; `scratch` is a path of ours.
    pub(super) fn write(&self, git_dir: &Path, scratch: &Path) -> Result<(), RestoreError> {
        let word = |id: Option<ObjectId>| id.map_or(NONE.to_owned(), |id| id.to_string());
        let words = [self.from].into_iter().chain(self.to.iter().copied());
        let words: Vec<String> = words.map(word).collect();
        let mut text = format!("{}\n", words.join(" ")).into_bytes();
        for path in &self.repositories {
            let line = [path.as_os_str().as_bytes(), b"\n"].concat();
            // What does not fit is only not removed by who comes next.
            if is_modules(path)
                && !line[..line.len() - 1].contains(&b'\n')
                && text.len() + line.len() <= UPDATE_NOTE_BYTES_MAX as usize
            {
                text.extend(line);
            }
        }
        let written = steps::create(scratch).and_then(|mut file| {
            file.write_all(&text)?;
            file.sync_all()
        });
        written.map_err(failed("write", scratch))?;
        let path = path(git_dir);
        steps::rename(scratch, &path).map_err(failed("rename to", &path))
    }

    /// There is none any more.
    pub(super) fn forget(git_dir: &Path) -> Result<(), RestoreError> {
        let path = path(git_dir);
        match steps::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed("remove", &path)(e)),
            _ => Ok(()),
        }
    }
}

/// Whether a path leads below `modules`, and nowhere else.
fn is_modules(path: &Path) -> bool {
    let is_plain = |part| matches!(part, Component::Normal(_));
    let below = path.strip_prefix(MODULES);
    below.is_ok_and(|below| below.components().count() > 0) && path.components().all(is_plain)
}

fn path(git_dir: &Path) -> PathBuf {
    git_dir.join(NAME)
}
