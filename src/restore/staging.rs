//! All or nothing: a restore is made in a directory of its own beside the target (or inside of it,
//! where it cannot be replaced as a whole) and takes its place at the end. What is updated has it in its `.git`, where
//! neither git nor a repository's files see it.
//!
//! A staging directory is locked by its owner for as long as that lives. One that nobody locks was
//! left by a run that was killed, and goes when the next one comes by. That it is one is said by an empty directory in it,
//! which is called as the number of its inode: no repository can have that. It is the first that is made there and the
//! last that goes, so that a kill at any moment leaves what goes. In a `.git`, where nobody else has anything that is called
//! so, the number may be another one: all that was copied has others.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Access, AtFlags, CWD, FlockOperation, OFlags, StatxAttributes};
use tempfile::TempDir;

use super::checkouts::Checkouts;
use super::error::{RestoreError, failed};
use super::in_the_way::{self, go_on};
use super::moves::Moves;
use super::parents::Parents;
use super::path::as_path;
use super::removed;
use super::stop::Stop;
use super::tls::TRUST;
use super::tracked::Stale;
use crate::limits::{INTERRUPT_POLL_MS, STAGING_TRIES_MAX};

/// What the names of staging directories begin with.
const PREFIX: &str = ".tarpon-restore-";
/// What the names of their marks begin with.
const MARK: &str = "inode-";
/// What is in them.
const TREE: &str = "tree";
const TRASH: &str = "trash";
const BUNDLE: &str = "bundle";
const OLD: &str = "old";
const SUBMODULES: &str = "submodules";
const CONTENTS: [&str; 6] = [TREE, TRASH, BUNDLE, OLD, TRUST, SUBMODULES];

/// A restore in the making; removed with everything in it unless it was installed.
pub(super) struct Staging {
    directory: TempDir,
    /// The directory, locked: whoever comes by sees that it has an owner.
    _lock: File,
    target: PathBuf,
    /// The target is there and stays: entries move into it one by one.
    merges: bool,
    /// There was nothing in the target.
    is_empty: bool,
    /// Goes behind the directory.
    _parents: Parents,
}

/// What a restore is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum For<'f> {
    /// A target that has nothing, or is replaced.
    New { overwrite: bool },
    /// A working copy that stays; a submodule's repository is elsewhere.
    Update { git_dir: Option<&'f Path> },
}

/// Where staging directories are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Where anybody has files, and a repository any that it likes.
    Files,
    /// In a `.git`.
    Repository,
}

impl Drop for Staging {
    fn drop(&mut self) {
        empty(self.directory.path());
    }
}

/// The same where the target is to be made, with what to do where that is not allowed.
fn not_made<'a>(
    op: &'static str,
    path: &'a Path,
    target: &'a Path,
) -> impl FnOnce(io::Error) -> RestoreError {
    move |e| {
        let advice = match e.kind() {
            io::ErrorKind::PermissionDenied => format!(
                "{e}; have {} made for this user first, or choose another place",
                target.display()
            ),
            _ => return RestoreError::disk(op, path, e),
        };
        RestoreError::disk(op, path, io::Error::new(e.kind(), advice))
    }
}

impl Staging {
    /// Makes the directory. A target that is not empty is refused unless `overwrite`.
    pub(super) fn new(target: &Path, overwrite: bool) -> Result<Staging, RestoreError> {
        Staging::begin(target, For::New { overwrite })
    }

    /// The same for a working copy that is brought to another commit; `git_dir` is that of a submodule.
    pub(super) fn of_update(
        target: &Path,
        git_dir: Option<&Path>,
    ) -> Result<Staging, RestoreError> {
        Staging::begin(target, For::Update { git_dir })
    }

    fn begin(target: &Path, what_for: For<'_>) -> Result<Staging, RestoreError> {
        let target = std::path::absolute(target).map_err(failed("find", target))?;
        // The directory that a link leads to is filled, as git does; the link stays.
        let leads = fs::symlink_metadata(&target).is_ok_and(|found| found.is_symlink());
        let target = match leads && target.is_dir() {
            true => fs::canonicalize(&target).map_err(failed("find", &target))?,
            false => target,
        };
        let usage = |why: &str| RestoreError::Usage(format!("{} {why}", target.display()));
        let parent = target.parent().ok_or_else(|| usage("cannot be replaced"))?;
        let mut parents = Parents::default();
        let made = parents.with(parent, |_| Ok(()));
        made.map_err(not_made("create", parent, &target))?;
        sweep(parent, Place::Files);
        let (mut merges, mut is_empty) = (false, true);
        match fs::symlink_metadata(&target) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(RestoreError::disk("look at", target, e)),
            Ok(found) if found.is_dir() => {
                sweep(&target, Place::Files);
                let mut listing = fs::read_dir(&target).map_err(failed("read", &target))?;
                is_empty = listing.next().is_none();
                if !is_empty && what_for == (For::New { overwrite: false }) {
                    let advice = match fs::symlink_metadata(target.join(".git")) {
                        Ok(_) => "--update brings the working copy in it to what is asked for, ",
                        Err(_) => "",
                    };
                    return Err(usage(&format!(
                        "is not empty; {advice}--overwrite replaces what is in it"
                    )));
                }
                expect_own_repository(&target, what_for)?;
                merges = !is_empty || stays(&target, &found);
            }
            Ok(_) => return Err(usage("is there and is no directory")),
        }
        let inside = what_for.base(&target);
        let base = if merges { &*inside } else { parent };
        if merges && base != target {
            sweep(base, Place::Repository);
        }
        let made = match base == parent {
            true => parents.with(parent, new_directory),
            false => new_directory(base),
        };
        let (directory, lock) = made.map_err(not_made("create a directory in", base, &target))?;
        let staging = Staging {
            directory,
            _lock: lock,
            target: target.clone(),
            merges,
            is_empty,
            _parents: parents,
        };
        for path in [
            staging.tree(),
            staging.trash(),
            staging.old(),
            staging.submodules(),
        ] {
            fs::create_dir(&path).map_err(failed("create", &path))?;
        }
        Ok(staging)
    }

    /// Where the repository is made.
    pub(super) fn tree(&self) -> PathBuf {
        self.directory.path().join(TREE)
    }

    /// A place for a bundle meanwhile.
    pub(super) fn bundle(&self) -> PathBuf {
        self.directory.path().join(BUNDLE)
    }

    /// An empty directory, to look at the old repository from.
    pub(super) fn old(&self) -> PathBuf {
        self.directory.path().join(OLD)
    }

    /// An empty directory, where submodules are made.
    pub(super) fn submodules(&self) -> PathBuf {
        self.directory.path().join(SUBMODULES)
    }

    /// Where what has to go is kept meanwhile.
    pub(super) fn trash(&self) -> PathBuf {
        self.directory.path().join(TRASH)
    }

    /// Whether the files move one by one, which changes their ctime.
    pub(super) fn merges(&self) -> bool {
        self.merges
    }

    /// Whether nothing was in the target, or it was not there.
    pub(super) fn is_empty(&self) -> bool {
        self.is_empty
    }

    /// The target.
    pub(super) fn target(&self) -> &Path {
        &self.target
    }

    /// Opens the tree, to write below it.
    pub(super) fn open_tree(&self) -> Result<File, RestoreError> {
        File::open(self.tree()).map_err(failed("open", &self.tree()))
    }

    /// Waits until no other restore puts its files into the target; none does until what this gives
    /// is dropped. `None` where the file system has no locks.
    pub(super) fn turn(&self, stop: &Stop) -> Result<Option<File>, RestoreError> {
        let target = open_directory(&self.target).map_err(failed("open", &self.target))?;
        loop {
            match rustix::fs::flock(&target, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Some(target)),
                Err(rustix::io::Errno::WOULDBLOCK) if !stop.is_set() => {
                    std::thread::sleep(Duration::from_millis(INTERRUPT_POLL_MS / 10));
                }
                Err(_) => return Ok(None),
            }
        }
    }

    /// Changes nothing; an error if the tree would take the place of something that neither the
    /// checkout that is there nor one of its submodules has.
    pub(super) fn check(&self, stale: &Stale<'_>, stop: &Stop) -> Result<(), RestoreError> {
        let mut checkouts = Checkouts::find(&self.target, stale, stop)?;
        let (tree, old) = (self.tree(), &stale.old);
        match in_the_way::find(&tree, &self.target, old, &mut checkouts, stop)? {
            None => Ok(()),
            Some(path) => Err(in_the_way::lost(&self.target, &path)),
        }
    }

    /// Puts the tree into the target's place, then has `finish` do the rest there. `stale` are
    /// files of an earlier checkout that the new one does not have. If it fails the target is as it
    /// was. Gives the directories of submodules, relative to the target, in which something stays.
    pub(super) fn install(
        &self,
        stale: Option<&Stale<'_>>,
        stop: &Stop,
        finish: impl FnOnce() -> Result<(), RestoreError>,
    ) -> Result<Vec<PathBuf>, RestoreError> {
        if !self.merges {
            // Replaces nothing, or an empty directory; fails if somebody else was faster.
            let renamed = fs::rename(self.tree(), &self.target).map_err(|e| match e.kind() {
                io::ErrorKind::DirectoryNotEmpty
                | io::ErrorKind::AlreadyExists
                | io::ErrorKind::NotADirectory => {
                    let target = self.target.display();
                    RestoreError::Usage(format!("{target} was made by somebody else meanwhile"))
                }
                _ => RestoreError::disk("rename to", &self.target, e),
            });
            return renamed.map(|()| Vec::new());
        }
        let mut moves = Moves::new(self.tree(), self.target.clone(), self.trash());
        let merged = self.merge_all(stale, &mut moves, stop);
        let installed = merged.and_then(|left| finish().map(|()| left));
        if installed.is_err() {
            moves.undo();
        }
        installed
    }

    fn merge_all(
        &self,
        stale: Option<&Stale<'_>>,
        moves: &mut Moves<'_>,
        stop: &Stop,
    ) -> Result<Vec<PathBuf>, RestoreError> {
        let left = match stale {
            Some(stale) => Checkouts::find(&self.target, stale, stop)?.take_out(moves)?,
            None => Vec::new(),
        };
        self.merge(Path::new(""), moves, stop)?;
        if let Some(stale) = stale {
            stale.each(|path| {
                go_on(stop)?;
                moves.take_out(&as_path(path))
            })?;
        }
        // What was stale may have been read to its end, or no further.
        go_on(stop)?;
        // Last: until here the old repository is whole.
        moves.place(Path::new(".git"))?;
        Ok(left)
    }

    /// Moves everything in the tree's directory at `path` into the target's, but `.git`.
    pub(super) fn merge(
        &self,
        path: &Path,
        moves: &mut Moves<'_>,
        stop: &Stop,
    ) -> Result<(), RestoreError> {
        let (from, to) = (self.tree().join(path), self.target.join(path));
        // Listed first: what is exchanged comes into this directory.
        let listing = fs::read_dir(&from).map_err(failed("read", &from))?;
        let names = listing.map(|entry| {
            go_on(stop)?;
            Ok(entry.map_err(failed("read", &from))?.file_name())
        });
        let names: Vec<OsString> = names.collect::<Result<_, RestoreError>>()?;
        for name in names {
            go_on(stop)?;
            let path = path.join(&name);
            if path == Path::new(".git") {
                continue;
            }
            let is_dir = |path: &Path| fs::symlink_metadata(path).is_ok_and(|m| m.is_dir());
            match is_dir(&from.join(&name)) && is_dir(&to.join(&name)) {
                true => self.merge(&path, moves, stop)?,
                false => moves.place(&path)?,
            }
        }
        Ok(())
    }
}

impl For<'_> {
    /// Where in `target` it is made: on its file system.
    fn base(self, target: &Path) -> PathBuf {
        let For::Update { git_dir } = self else {
            return target.to_owned();
        };
        let git_dir = git_dir.map_or_else(|| target.join(".git"), Path::to_owned);
        let device = |path: &Path| {
            let found = fs::symlink_metadata(path).ok()?;
            found.is_dir().then(|| found.dev())
        };
        match device(&git_dir).is_some() && device(&git_dir) == device(target) {
            true => git_dir,
            false => target.to_owned(),
        }
    }
}

/// Refuses a target whose `.git` is not its own repository; that of a submodule is elsewhere.
fn expect_own_repository(target: &Path, what_for: For<'_>) -> Result<(), RestoreError> {
    if matches!(what_for, For::Update { git_dir: Some(_) }) {
        return Ok(());
    }
    let git = fs::symlink_metadata(target.join(".git"));
    let why = match git.map(|git| git.file_type()) {
        Ok(kind) if kind.is_symlink() => "has its repository elsewhere: its .git is a link",
        Ok(kind) if !kind.is_dir() => {
            "belongs to another repository, as a linked worktree or a submodule: its .git is a file"
        }
        _ => return Ok(()),
    };
    let target = target.display();
    Err(RestoreError::Usage(format!("{target} {why}")))
}

/// Whether an empty target cannot be replaced as a whole: it is a mount point, the caller's shell
/// stands there, or nothing may be made beside it.
fn stays(target: &Path, found: &fs::Metadata) -> bool {
    let is_mount = || {
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        let stat = rustix::fs::statx(CWD, target, flags, rustix::fs::StatxFlags::TYPE);
        stat.is_ok_and(|stat| stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
    };
    let above = target.parent().unwrap_or(target);
    let other_device = fs::metadata(above).is_ok_and(|above| above.dev() != found.dev());
    let here = fs::metadata(".").map(|m| (m.dev(), m.ino())).ok();
    let is_here = here == Some((found.dev(), found.ino()));
    let closed = rustix::fs::access(above, Access::WRITE_OK | Access::EXEC_OK).is_err();
    other_device || is_mount() || is_here || closed
}

fn open_directory(path: &Path) -> io::Result<File> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW;
    let flags = flags.bits().cast_signed();
    File::options().read(true).custom_flags(flags).open(path)
}

/// Makes a staging directory and locks it.
fn new_directory(base: &Path) -> io::Result<(TempDir, File)> {
    for _ in 0..STAGING_TRIES_MAX {
        let directory = tempfile::Builder::new().prefix(PREFIX).tempdir_in(base)?;
        let Ok(lock) = open_directory(directory.path()) else {
            continue;
        };
        // On a file system without locks nobody can take it for left over either.
        let locked = rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive);
        if locked == Err(rustix::io::Errno::WOULDBLOCK) {
            continue;
        }
        // Before it was locked somebody may have taken it for left over.
        let (ours, there) = (lock.metadata()?, fs::symlink_metadata(directory.path()));
        if there.is_ok_and(|there| (there.dev(), there.ino()) == (ours.dev(), ours.ino())) {
            fs::create_dir(directory.path().join(mark(ours.ino())))?;
            return Ok((directory, lock));
        }
    }
    Err(io::Error::other("it is taken away at once each time"))
}

/// Removes the staging directories in `parent` whose owners are gone. What cannot be removed stays:
/// it is in nobody's way.
fn sweep(parent: &Path, place: Place) {
    let own = rustix::process::geteuid().as_raw();
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        if !entry.file_name().as_bytes().starts_with(PREFIX.as_bytes()) {
            continue;
        }
        let path = entry.path();
        let Ok(directory) = open_directory(&path) else {
            continue;
        };
        let is_own = directory.metadata().is_ok_and(|found| {
            let inode = (place == Place::Files).then(|| found.ino());
            found.uid() == own && is_staging(&path, inode)
        });
        let lock = || rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive);
        if is_own && lock().is_ok() {
            empty(&path);
            let _ = fs::remove_dir_all(&path);
        }
    }
}

/// What says of a directory with that inode that it is one.
fn mark(inode: u64) -> String {
    format!("{MARK}{inode}")
}

/// Whether `name` is such a mark, of that inode if it is to be that one.
fn is_mark(name: &OsStr, inode: Option<u64>) -> bool {
    let number = name.to_str().and_then(|name| name.strip_prefix(MARK));
    let number = number.and_then(|number| number.parse().ok());
    number.is_some_and(|number: u64| inode.is_none_or(|inode| inode == number))
}

/// Removes what is in a staging directory, but for its mark. What cannot be removed stays.
fn empty(path: &Path) {
    for name in CONTENTS {
        let path = path.join(name);
        let is_directory = fs::symlink_metadata(&path).is_ok_and(|found| found.is_dir());
        let _ = match is_directory {
            true => removed::directory(&path),
            false => fs::remove_file(&path),
        };
    }
}

/// Whether a directory, whose inode has that number if that matters, has its mark and nothing that a staging directory has
/// not: in a target all of it could be the user's. One that has nothing was not yet marked, or is not any more.
fn is_staging(path: &Path, inode: Option<u64>) -> bool {
    let Ok(listing) = fs::read_dir(path) else {
        return false;
    };
    let mut names = Vec::new();
    for entry in listing {
        let Ok(entry) = entry else { return false };
        let name = entry.file_name();
        if !is_mark(&name, inode) && !CONTENTS.iter().any(|known| name == **known) {
            return false;
        }
        names.push(name);
    }
    names.is_empty() || names.iter().any(|name| is_mark(name, inode))
}

#[cfg(test)]
mod tests {
    use super::super::tracked::Tracked;
    use super::*;
    use std::time::Instant;

    /// Files of the new tree, in one directory.
    const FILES: usize = 20_000;
    /// After it a signal has been heard, and what was done is undone.
    const HEARD: Duration = Duration::from_millis(100);
    const ATTEMPTS: usize = 5;

    /// A target that has `d/mine`, and a staging directory with many files for `d`.
    fn large(parent: &Path) -> Staging {
        let target = parent.join("target");
        fs::create_dir_all(target.join("d")).unwrap();
        fs::write(target.join("d/mine"), b"mine").unwrap();
        let staging = Staging::new(&target, true).unwrap();
        fs::create_dir_all(staging.tree().join("d")).unwrap();
        fs::create_dir_all(staging.tree().join(".git")).unwrap();
        for number in 0..FILES {
            File::create(staging.tree().join(format!("d/{number}"))).unwrap();
        }
        staging
    }

    fn count(directory: &Path) -> usize {
        fs::read_dir(directory).unwrap().count()
    }

    #[test]
    fn a_signal_ends_the_look_at_a_target_and_the_moves_into_it() {
        let parent = tempfile::tempdir().unwrap();
        let staging = large(parent.path());
        let stop = Stop::default();
        let none = Stale {
            old: Tracked::none(),
            new: Tracked::none(),
        };
        staging.check(&none, &stop).unwrap();
        let (tree, target) = (staging.tree().join("d"), staging.target().join("d"));
        let mut heard = Vec::new();
        for _ in 0..ATTEMPTS {
            let stop = Stop::default();
            std::thread::scope(|scope| {
                let installing = scope.spawn(|| {
                    let finish = || -> Result<(), RestoreError> { panic!("it was not heard") };
                    let installed = staging.install(None, &stop, finish);
                    (installed, Instant::now())
                });
                while count(&target) == 1 && !installing.is_finished() {
                    std::thread::yield_now();
                }
                stop.interrupt("SIGINT");
                let told = Instant::now();
                let (installed, ended) = installing.join().unwrap();
                assert!(installed.unwrap_err().to_string().contains("stopped"));
                heard.push(ended - told);
            });
            assert_eq!((count(&target), count(&tree)), (1, FILES));
            assert!(!staging.target().join(".git").exists());
        }
        heard.sort();
        assert!(heard[ATTEMPTS / 2] <= HEARD, "{heard:?}");
        stop.interrupt("SIGINT");
        let error = staging.check(&none, &stop).unwrap_err();
        assert!(error.to_string().contains("stopped"), "{error}");
    }

    /// Those that fail take away what they have made of the way to their targets, under the feet of who has none yet.
    #[test]
    fn who_fails_takes_nothing_away_from_others() {
        let above = tempfile::tempdir().unwrap();
        let parent = above.path().join("a/b/c");
        let make = || {
            let mut parents = Parents::default();
            parents.with(&parent, |_| Ok(())).map(|()| parents).unwrap()
        };
        let other = std::cell::Cell::new(Some(make()));
        let mut parents = make();
        let made = parents.with(&parent, |parent| {
            drop(other.take());
            new_directory(parent)
        });
        let (directory, _lock) = made.unwrap();
        drop(directory);
        drop(parents);
        assert!(!above.path().join("a").exists());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..300 {
                        let mut parents = make();
                        let (directory, _lock) = parents.with(&parent, new_directory).unwrap();
                        drop(directory);
                    }
                });
            }
        });
    }
}
