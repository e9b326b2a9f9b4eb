//! The refs of a working copy that was brought to another commit: all are replaced, as a restore has them. At each
//! moment HEAD leads to a commit that is there.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::copy::Copy;
use super::held::{Held, Tip};
use super::lock::{self, Locks};
use super::modules::Modules;
use super::packed;
use super::removal::{Removal, expect_room, is_lock, is_no_ref, listing, remove};
use crate::limits::RESTORED_CONFIG_BYTES_MAX;
use crate::restore::data::read;
use crate::restore::default_branch;
use crate::restore::error::{RestoreError, failed};
use crate::restore::gitdir::{self, followed};
use crate::restore::names::Names;
use crate::restore::path::as_path;
use crate::restore::refs::Refs;
use crate::restore::steps;
use crate::restore::stop::Stop;
use gix::ObjectId;
use gix::bstr::{BStr, ByteSlice};

/// What is needed for that.
pub(super) struct Replacing<'r> {
    pub copy: &'r Copy,
    pub refs: &'r Refs<'r>,
    /// What `git fetch` brings from now on, if that is another thing than before.
    pub fetches: Option<Option<&'r [u8]>>,
    /// The repository that has fetched what came.
    pub scratch: &'r Path,
    /// What its configuration says of submodules, where they are wanted.
    pub modules: Option<&'r Modules<'r>>,
    /// Whether it is a submodule itself.
    pub is_submodule: bool,
    /// The refs that were looked at, unless all may go.
    pub held: Option<&'r Held>,
    /// A directory of ours that is not there yet.
    pub ours: &'r Path,
    pub stop: &'r Stop,
}

impl Replacing<'_> {
    /// Makes what takes their place, and takes git's locks: what may fail does so before anything changes.
    pub(super) fn prepare(&self) -> Result<Locks, RestoreError> {
        steps::create_dir(self.ours).map_err(failed("create", self.ours))?;
        gitdir::write(&self.made(), &self.copy.restored, self.refs, self.stop)?;
        let own = match self.is_submodule {
            true => default_branch::add(&self.made())?,
            false => None,
        };
        let branch = own.as_ref().map(|name| name.as_bstr());
        let branch = branch.or(followed(self.refs));
        let locks = self.locks()?;
        expect_room(&self.made().join("refs"), &self.copy.git_dir.join("refs"))?;
        let old = &self.copy.config;
        self.expect_configuration()?;
        let mut config = configuration(old, branch, self.fetches)?;
        if let Some(modules) = self.modules {
            let text = modules.configured(config.as_ref().unwrap_or(old))?;
            config = Some(text).filter(|text| text != old);
        }
        if let Some(config) = config {
            let path = self.ours.join("config");
            steps::write(&path, config).map_err(failed("write", &path))?;
            // A login may stand there.
            let old = fs::metadata(self.copy.git_dir.join("config"));
            let kept = old.and_then(|old| steps::set_permissions(&path, old.permissions()));
            kept.map_err(failed("set the mode of", &path))?;
        }
        Ok(locks)
    }

    /// Refuses where the configuration is not what it was: not every editor heeds git's lock.
    fn expect_configuration(&self) -> Result<(), RestoreError> {
        let path = self.copy.git_dir.join("config");
        let now = read(&path, RESTORED_CONFIG_BYTES_MAX as u64).map_err(failed("read", &path))?;
        match now == self.copy.config {
            true => Ok(()),
            false => Err(RestoreError::Usage(format!(
                "{} is not updated: its configuration was changed meanwhile; the same command again looks at that",
                self.copy.directory.display()
            ))),
        }
    }

    fn made(&self) -> PathBuf {
        self.ours.join("made")
    }

    /// Replaces them, whose locks those are; `commit` is checked out. Names of those that were made meanwhile and stay.
    pub(super) fn run(
        &self,
        commit: Option<ObjectId>,
        locks: &mut Locks,
    ) -> Result<Names, RestoreError> {
        let (git_dir, ours, made) = (&self.copy.git_dir, self.ours, self.made());
        let branch = self.branch();
        let path = branch.as_ref().map(|name| git_dir.join(as_path(name)));
        // What it says of submodules is told from what HEAD has of them, while that is the old one.
        let config = ours.join("config");
        if config.exists() {
            self.expect_configuration()?;
            put(&config, &git_dir.join("config"))?;
        }
        let mut removal = Removal::new(git_dir, self.held, locks, path.as_deref());
        // Where history ends of what was there and of what came; what only the old refs lead to goes in the end.
        let (shallow, ends) = (git_dir.join("shallow"), made.join("shallow"));
        if ends.exists() {
            put(&self.scratch.join(".git/shallow"), &shallow)?;
        }
        // Own refs go before what shows that somebody else has their commits, which may be a HEAD that is no branch's: who
        // is killed is asked nothing.
        let is_detached = Tip::read(git_dir).is_ok_and(|tip| tip.detached().is_some());
        if is_detached {
            clear_own(git_dir, &self.kept_packed(), &mut removal)?;
        }
        if let Some(commit) = commit {
            let head = ours.join("HEAD");
            steps::write(&head, format!("{commit}\n")).map_err(failed("write", &head))?;
            put(&head, &git_dir.join("HEAD"))?;
        }
        if !is_detached {
            clear_own(git_dir, &self.kept_packed(), &mut removal)?;
        }
        let packed = made.join("packed-refs");
        match packed.exists() {
            true => put(&packed, &git_dir.join("packed-refs"))?,
            false => remove(&git_dir.join("packed-refs"))?,
        }
        replace(&made.join("refs"), &git_dir.join("refs"), &mut removal)?;
        put(&made.join("HEAD"), &git_dir.join("HEAD"))?;
        // What stays may lead to where history ended before.
        if ends.exists() && removal.kept().is_empty() {
            put(&ends, &shallow)?;
        }
        // What they tell of is not there any more.
        removal.clear_logs(branch.as_deref())?;
        Ok(removal.kept())
    }

    /// The full name of the branch that is checked out then.
    fn branch(&self) -> Option<Vec<u8>> {
        let branch = self.refs.branch()?;
        Some([b"refs/heads/", branch.as_bytes()].concat())
    }

    /// What the old `packed-refs` has besides branches.
    fn kept_packed(&self) -> PathBuf {
        self.ours.join("packed-refs")
    }

    /// Locks of what is replaced; refs that have files of their own are locked as they go.
    fn locks(&self) -> Result<Locks, RestoreError> {
        let git_dir = &self.copy.git_dir;
        let mut locks = Locks::new(self.ours.join("locks"));
        for name in ["HEAD", "packed-refs", "config", "shallow"] {
            locks.take(&git_dir.join(name))?;
        }
        // Whatever ref it is of: all are replaced.
        lock::expect_none(&git_dir.join("refs"))?;
        if let Some(name) = self.branch() {
            locks.take_ref(&git_dir.join(as_path(&name)))?;
        }
        packed::without_branches(git_dir, &self.kept_packed(), |name| {
            locks.take_ref(&git_dir.join(as_path(name)))
        })?;
        Ok(locks)
    }
}

/// Removes all refs but those of the upstream, branches in `packed-refs` first: `packed` is what that has besides. So at no
/// moment an old value shows in the place of one that has gone. What the upstream has of them comes again.
fn clear_own(git_dir: &Path, packed: &Path, removal: &mut Removal<'_>) -> Result<(), RestoreError> {
    if packed.exists() {
        put(packed, &git_dir.join("packed-refs"))?;
    }
    let refs = git_dir.join("refs");
    removal.clear(&refs.join("heads"))?;
    for (path, is_directory) in listing(&refs)? {
        match is_directory {
            true if path.ends_with("remotes") => {}
            true => removal.clear(&path)?,
            false if is_lock(&path) || is_no_ref(&path) => {}
            false => removal.remove(&path)?,
        }
    }
    Ok(())
}

fn put(from: &Path, to: &Path) -> Result<(), RestoreError> {
    steps::rename(from, to).map_err(failed("rename to", to))
}

/// Has the refs below `to` be those below `from`, one file after the other: not every file system has a directory change
/// its place. Locks stay.
fn replace(from: &Path, to: &Path, removal: &mut Removal<'_>) -> Result<(), RestoreError> {
    for (path, is_directory) in listing(to)? {
        if is_no_ref(&path) {
            continue;
        }
        let new = from.join(path.file_name().unwrap_or_default());
        if is_directory {
            if !new.is_dir() {
                removal.clear(&path)?;
            }
        } else if !is_lock(&path) && !new.is_file() {
            removal.remove(&path)?;
        }
    }
    for (path, is_directory) in listing(from)? {
        let old = to.join(path.file_name().unwrap_or_default());
        match is_directory {
            false => removal.put(&path, &old)?,
            true => {
                make(&old)?;
                replace(&path, &old, removal)?;
            }
        }
    }
    Ok(())
}

fn make(directory: &Path) -> Result<(), RestoreError> {
    match steps::create_dir(directory) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(failed("create", directory)(e)),
        _ => Ok(()),
    }
}

/// The configuration with the branch that is checked out as the only one that follows something, and with what `git
/// fetch` brings; `None` if it is so already.
fn configuration(
    text: &[u8],
    branch: Option<&BStr>,
    fetches: Option<Option<&[u8]>>,
) -> Result<Option<Vec<u8>>, RestoreError> {
    let wrong = |e: &dyn std::fmt::Display| RestoreError::Usage(format!("its configuration: {e}"));
    let mut config = gix::config::File::try_from(text.as_bstr()).map_err(|e| wrong(&e))?;
    let sections = config.sections_by_name("branch").into_iter().flatten();
    let names = sections.filter_map(|section| {
        let name = section.header().subsection_name();
        name.map(BStr::to_owned)
    });
    let names: Vec<_> = names.collect();
    let follows = |branch: &BStr| {
        let merge = config.string_by("branch", Some(branch), "merge");
        let remote = config.string_by("branch", Some(branch), "remote");
        let full = [b"refs/heads/", branch.as_bytes()].concat();
        merge.is_some_and(|merge| merge == full) && remote.is_some_and(|remote| remote == "origin")
    };
    let is_so = match branch {
        Some(branch) => names.len() == 1 && names[0] == branch && follows(branch),
        None => names.is_empty(),
    };
    let fetches = fetches.filter(|new| {
        let old = config.strings("remote.origin.fetch").unwrap_or_default();
        let old: Vec<&[u8]> = old.iter().map(|old| old.as_slice()).collect();
        old != Vec::from_iter(*new)
    });
    if is_so && fetches.is_none() {
        return Ok(None);
    }
    if let Some(new) = fetches {
        let section = config.section_mut("remote", Some(BStr::new("origin")));
        let mut section = section.map_err(|e| wrong(&e))?;
        while section.remove("fetch").is_some() {}
        if let Some(new) = new {
            section
                .push("fetch", Some(new.as_bstr()))
                .map_err(|e| wrong(&e))?;
        }
    }
    for name in &names {
        config.remove_section("branch", Some(name.as_bstr()));
    }
    let mut text = config.to_bstring().to_vec();
    if !text.ends_with(b"\n") && !text.is_empty() {
        text.push(b'\n');
    }
    if let Some(branch) = branch {
        text.extend(gitdir::branch_section(branch));
    }
    Ok(Some(text))
}

/// A file of the repository with what it says, in the place of what was there.
pub(super) fn write(path: &Path, text: &[u8], scratch: &Path) -> Result<(), RestoreError> {
    let written = steps::create(scratch).and_then(|mut file| io::Write::write_all(&mut file, text));
    written.map_err(failed("write", scratch))?;
    put(scratch, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who is killed between the two leaves branches that were looked at, or none.
    #[test]
    fn no_old_value_shows_in_the_place_of_a_branch() {
        let directory = tempfile::tempdir().unwrap();
        let git_dir = &directory.path().join("git");
        let write = |name: &str, text: &str| {
            let path = git_dir.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let [old, new, tag] = ["1", "2", "3"].map(|digit| digit.repeat(40));
        write("HEAD", "ref: refs/heads/main\n");
        write("refs/heads/main", &format!("{new}\n"));
        let head = "# pack-refs with: peeled fully-peeled sorted \n";
        let tags = format!("{tag} refs/tags/a\n^{new}\n{tag} refs/remotes/origin/main\n");
        let branches = format!("{old} refs/heads/main\n^{new}\n{old} refs/heads/own/packed\n");
        write("packed-refs", &format!("{head}{branches}{tags}"));
        let held = Held::read(git_dir).unwrap();
        let kept = directory.path().join("kept");
        let mut locks = Locks::new(directory.path().join("locks"));
        packed::without_branches(git_dir, &kept, |name| {
            locks.take_ref(&git_dir.join(as_path(name)))
        })
        .unwrap();
        let is_locked = |name: &str| git_dir.join(format!("refs/heads/{name}.lock")).exists();
        assert!(is_locked("main") && is_locked("own/packed"));
        // What is in the place of a log cannot be removed: it ends here.
        write("logs/refs/heads/main/x", "");
        let mut removal = Removal::new(git_dir, Some(&held), &mut locks, None);
        clear_own(git_dir, &kept, &mut removal).unwrap_err();
        let packed = || fs::read_to_string(git_dir.join("packed-refs")).unwrap();
        assert_eq!(packed(), format!("{head}{tags}"));
        assert!(git_dir.join("refs/heads/main").exists());
        fs::remove_dir_all(git_dir.join("logs")).unwrap();
        clear_own(git_dir, &kept, &mut removal).unwrap();
        assert!(!git_dir.join("refs/heads").exists() && removal.kept().is_empty());
        // Without branches it stays as it is.
        packed::without_branches(git_dir, &kept, |_| unreachable!()).unwrap();
        assert!(!kept.exists() && packed() == format!("{head}{tags}"));
    }
}
