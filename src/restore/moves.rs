//! What is done to a target that is overwritten, so that it can be undone.
//!
//! A target may have any number of files, each of which moves: what was done is noted in memory a
//! little, and the rest in a file.

use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;

use super::error::{RestoreError, failed};
use super::mark::Mark;
use super::path::as_path;
use crate::limits::{BESIDE_TRIES_MAX, MOVES_BYTES};

/// Whether what was at a path of the target, and is now at the other one, may go: it is looked at once nobody finds it
/// by its path any more.
pub(super) type MayGo<'m> = &'m dyn Fn(&Path, &Path) -> io::Result<bool>;

/// Moves from a new tree into a target. Paths are relative to both.
pub(super) struct Moves<'m> {
    tree: PathBuf,
    target: PathBuf,
    /// Where what has to go is kept meanwhile, by numbers.
    trash: PathBuf,
    taken: u32,
    log: Log,
    /// `None` where anything may.
    may_go: Option<MayGo<'m>>,
    /// A directory of the target to which only directories lead.
    inside: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Move {
    /// Tree and target have changed places.
    Exchanged(Mark),
    /// From the tree to the target.
    Placed(Mark),
    /// From the target to the trash, under this number.
    Taken(u32),
    /// An empty directory of the target, with its mode.
    Removed(u32),
    /// A directory of the target that was not there.
    Made,
}

impl<'m> Moves<'m> {
    /// Moves from `tree` to `target`; `directory` is an empty one, for what has to go.
    pub(super) fn new(tree: PathBuf, target: PathBuf, directory: PathBuf) -> Moves<'m> {
        Moves {
            tree,
            target,
            log: Log::new(directory.clone()),
            trash: directory,
            taken: 0,
            may_go: None,
            inside: None,
        }
    }

    /// The same where nothing goes but what `may_go`.
    pub(super) fn of_what(self, may_go: MayGo<'m>) -> Moves<'m> {
        Moves {
            may_go: Some(may_go),
            ..self
        }
    }

    /// Puts what the tree has at `path` there; what is there comes into the staging directory.
    pub(super) fn place(&mut self, path: &Path) -> Result<(), RestoreError> {
        let (from, to) = (self.tree.join(path), self.target.join(path));
        self.expect_inside(path)?;
        self.make_room()?;
        let comes = fs::symlink_metadata(&from).map_err(failed("look at", &from))?;
        if fs::symlink_metadata(&to).is_ok() {
            // At no moment without either; not every file system can.
            let exchange =
                || rustix::fs::renameat_with(CWD, &from, CWD, &to, RenameFlags::EXCHANGE);
            if exchange().is_ok() {
                let lets_go = self.lets_go(path, &from);
                if !matches!(lets_go, Ok(true)) {
                    // What has come there is nobody's any more.
                    exchange().or_else(|_| put_back(&from, &to))?;
                    lets_go?;
                    return Err(came_meanwhile(&to));
                }
                let mark = Mark::of(&comes, &to);
                self.inside = None;
                self.log.push(Move::Exchanged(mark), path);
                return Ok(());
            }
            self.take_away(path)?;
        }
        match self.may_go {
            None => fs::rename(&from, &to).map_err(failed("rename to", &to))?,
            Some(_) => put(&from, &to)?,
        }
        self.log.push(Move::Placed(Mark::of(&comes, &to)), path);
        Ok(())
    }

    /// Whether only directories lead to what is at `path`: what is behind a link is not the target's.
    pub(super) fn is_inside(&self, path: &Path) -> bool {
        let is_directory = |above: &Path| {
            let found = fs::symlink_metadata(self.target.join(above));
            found.is_ok_and(|found| found.is_dir())
        };
        above(path).all(is_directory)
    }

    /// Whether something is at `path`.
    pub(super) fn has(&self, path: &Path) -> bool {
        fs::symlink_metadata(self.target.join(path)).is_ok()
    }

    /// Nothing goes or comes behind a link.
    fn expect_inside(&mut self, path: &Path) -> Result<(), RestoreError> {
        let directory = path.parent().unwrap_or(Path::new(""));
        if self.inside.as_deref() == Some(directory) {
            return Ok(());
        }
        if !self.is_inside(path) {
            return Err(RestoreError::Usage(format!(
                "{} is behind something that is no directory, a link perhaps: remove that",
                self.target.join(path).display()
            )));
        }
        self.inside = Some(directory.to_owned());
        Ok(())
    }

    fn make_room(&mut self) -> Result<(), RestoreError> {
        let made = self.log.make_room();
        made.map_err(failed("note moves in", &self.trash))
    }

    /// Makes the directories that `path` leads through and that are not there.
    pub(super) fn make_above(&mut self, path: &Path) -> Result<(), RestoreError> {
        let all: Vec<&Path> = above(path).collect();
        for above in all.into_iter().rev() {
            let whole = self.target.join(above);
            self.make_room()?;
            match fs::create_dir(&whole) {
                Ok(()) => self.log.push(Move::Made, above),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(failed("create", &whole)(e)),
            }
        }
        Ok(())
    }

    /// Whether what was at `path`, and is `now` elsewhere, may go.
    fn lets_go(&self, path: &Path, now: &Path) -> Result<bool, RestoreError> {
        let may_go = self.may_go.map_or(Ok(true), |may_go| may_go(path, now));
        may_go.map_err(failed("look at", now))
    }

    /// Takes what is at `path` away from the target.
    pub(super) fn take_away(&mut self, path: &Path) -> Result<(), RestoreError> {
        self.expect_inside(path)?;
        self.inside = None;
        self.make_room()?;
        let from = self.target.join(path);
        let away = self.trash.join(self.taken.to_string());
        let is_directory = || fs::symlink_metadata(&from).is_ok_and(|found| found.is_dir());
        match fs::rename(&from, &away) {
            // A directory of a lower layer (overlayfs) goes only piece by piece.
            Err(e) if e.kind() == io::ErrorKind::CrossesDevices && is_directory() => {
                return self.take_away_inside(path);
            }
            moved => moved.map_err(failed("move away", &from))?,
        }
        let lets_go = self.lets_go(path, &away);
        if !matches!(lets_go, Ok(true)) {
            put_back(&away, &from)?;
            lets_go?;
            return Err(came_meanwhile(&from));
        }
        self.log.push(Move::Taken(self.taken), path);
        self.taken += 1;
        Ok(())
    }

    /// Takes away what is in the directory at `path`, and that itself.
    fn take_away_inside(&mut self, path: &Path) -> Result<(), RestoreError> {
        let whole = self.target.join(path);
        let listing = fs::read_dir(&whole).and_then(Iterator::collect);
        let listing: Vec<fs::DirEntry> = listing.map_err(failed("read", &whole))?;
        for entry in listing {
            self.take_away(&path.join(entry.file_name()))?;
        }
        let found = fs::symlink_metadata(&whole).map_err(failed("look at", &whole))?;
        self.make_room()?;
        fs::remove_dir(&whole).map_err(failed("remove", &whole))?;
        self.log
            .push(Move::Removed(found.permissions().mode()), path);
        Ok(())
    }

    /// Takes a file away, unless its path leads through something that is no directory or into a
    /// repository; directories that are empty then go, too.
    pub(super) fn take_out(&mut self, path: &Path) -> Result<(), RestoreError> {
        let plain = |c| matches!(c, Component::Normal(name) if name != ".git");
        let look = |p: &Path| fs::symlink_metadata(self.target.join(p));
        let is_dir = |p: &Path| look(p).is_ok_and(|m| m.is_dir());
        if !path.components().all(plain) || !above(path).all(is_dir) {
            return Ok(());
        }
        if look(path).map_or(true, |found| found.is_dir()) {
            return Ok(());
        }
        self.take_away(path)?;
        self.remove_emptied(path);
        Ok(())
    }

    /// Takes an empty directory away, under the same conditions.
    pub(super) fn take_out_empty(&mut self, path: &Path) {
        let plain = |c| matches!(c, Component::Normal(name) if name != ".git");
        let look = |p: &Path| fs::symlink_metadata(self.target.join(p));
        let is_dir = |p: &Path| look(p).is_ok_and(|m| m.is_dir());
        let is_there = path.components().all(plain) && above(path).all(is_dir) && is_dir(path);
        if is_there && self.remove_empty(path) {
            self.remove_emptied(path);
        }
    }

    /// Removes the directories around `path` that are empty now.
    pub(super) fn remove_emptied(&mut self, path: &Path) {
        for above in above(path) {
            if !self.remove_empty(above) {
                break;
            }
        }
    }

    /// Removes a directory of the target if it is empty; whether it was.
    fn remove_empty(&mut self, path: &Path) -> bool {
        let whole = self.target.join(path);
        let Ok(found) = fs::symlink_metadata(&whole) else {
            return false;
        };
        let removed = self.log.make_room().is_ok() && fs::remove_dir(&whole).is_ok();
        if removed {
            self.inside = None;
            self.log
                .push(Move::Removed(found.permissions().mode()), path);
        }
        removed
    }

    /// Undoes all, the last first; whether all is as it was. What does not go back stays in the staging directory, whose
    /// end comes; there is nothing better to do with a disk that fails twice.
    pub(super) fn undo(mut self) -> bool {
        let is_back = std::cell::Cell::new(true);
        let say = |e: RestoreError| {
            is_back.set(false);
            crate::io::say::say(format_args!("tarpon: cannot undo what was done: {e}"));
        };
        let trash = self.trash.clone();
        let mut log = std::mem::replace(&mut self.log, Log::new(PathBuf::new()));
        loop {
            match log.take_last() {
                Ok(None) => return is_back.get(),
                Ok(Some(moves)) => {
                    for (done, path) in moves.into_iter().rev() {
                        self.undo_one(done, &path).unwrap_or_else(say);
                    }
                }
                Err(e) => {
                    say(failed("read what was done in", &trash)(e));
                    return false;
                }
            }
        }
    }

    fn undo_one(&self, done: Move, path: &Path) -> Result<(), RestoreError> {
        let (from, to) = (self.tree.join(path), self.target.join(path));
        match done {
            Move::Exchanged(mark) => self.undo_exchange(&from, &to, mark),
            Move::Placed(mark) => self.undo_placement(&from, &to, mark),
            Move::Taken(number) => put_back(&self.trash.join(number.to_string()), &to),
            Move::Removed(mode) => {
                let made = fs::create_dir(&to);
                let set = |()| fs::set_permissions(&to, fs::Permissions::from_mode(mode));
                match made.and_then(set) {
                    // Somebody else has made it.
                    Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
                    made => made.map_err(failed("create", &to)),
                }
            }
            Move::Made => match fs::remove_dir(&to) {
                Err(e) if !is_others(&e) => Err(failed("remove", &to)(e)),
                _ => Ok(()),
            },
        }
    }

    /// Whether what was put into the target, and is at `path` now, is somebody else's by now. It is looked at once nobody
    /// finds it in its place any more.
    fn is_touched(&self, mark: Mark, path: &Path) -> bool {
        self.may_go.is_some() && !matches!(mark.is_untouched(path), Ok(true))
    }

    fn undo_placement(&self, from: &Path, to: &Path, mark: Mark) -> Result<(), RestoreError> {
        match fs::rename(to, from) {
            // Somebody has removed it.
            Err(e) if is_others(&e) => return Ok(()),
            moved => moved.map_err(failed("move away", to))?,
        }
        match self.is_touched(mark, from) {
            false => Ok(()),
            true => put_back(from, to).and(Err(came_meanwhile(to))),
        }
    }

    fn undo_exchange(&self, from: &Path, to: &Path, mark: Mark) -> Result<(), RestoreError> {
        let exchange = || {
            let exchanged = rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::EXCHANGE);
            exchanged.map_err(io::Error::from)
        };
        match exchange() {
            // Somebody has removed what had come.
            Err(e) if is_others(&e) => return put_back(from, to),
            exchanged => exchanged.map_err(failed("rename to", to))?,
        }
        if !self.is_touched(mark, from) {
            return Ok(());
        }
        // Theirs stays, and what was there before is beside it. Where that has gone meanwhile there is room for theirs.
        let _ = exchange();
        put_back(from, to)
    }
}

/// Whether a move failed for what others have done: there is nothing, or something else.
fn is_others(e: &io::Error) -> bool {
    use io::ErrorKind::{DirectoryNotEmpty, NotADirectory, NotFound};
    matches!(e.kind(), NotFound | NotADirectory | DirectoryNotEmpty)
}

/// Moves what is at `from` to `to`, where nothing may be.
fn put(from: &Path, to: &Path) -> Result<(), RestoreError> {
    let moved = match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // Not every file system can.
        Err(Errno::INVAL | Errno::NOSYS) if fs::symlink_metadata(to).is_err() => {
            fs::rename(from, to)
        }
        moved => moved.map_err(io::Error::from),
    };
    moved.map_err(|e| match e.kind() {
        io::ErrorKind::AlreadyExists => came_meanwhile(to),
        _ => RestoreError::disk("rename to", to, e),
    })
}

/// The same with what was taken from `to`. Where something has come meanwhile it is put beside that.
fn put_back(from: &Path, to: &Path) -> Result<(), RestoreError> {
    let Err(why) = put(from, to) else {
        return Ok(());
    };
    for number in 1..=BESIDE_TRIES_MAX {
        let mut beside = to.as_os_str().to_owned();
        beside.push(format!(".before-{number}"));
        let beside = PathBuf::from(beside);
        if put(from, &beside).is_ok() {
            return Err(RestoreError::Usage(format!(
                "{why}; what was there before is {} now",
                beside.display()
            )));
        }
    }
    Err(why)
}

pub(super) fn came_meanwhile(path: &Path) -> RestoreError {
    RestoreError::Usage(format!(
        "{} was changed or made meanwhile, and stays: the same command again looks at it",
        path.display()
    ))
}

/// The directories that `path` leads through, the last first.
fn above(path: &Path) -> impl Iterator<Item = &Path> {
    let above = path.ancestors().skip(1);
    above.filter(|above| !above.as_os_str().is_empty())
}

/// Kind, a number, and the length of the path that follows, behind the mark of what was put there.
const RECORD_BYTES: usize = 9;

/// In the place of a mark, where there is none.
const NO_MARK: [u8; Mark::BYTES] = [0; Mark::BYTES];

/// What was done, in its order.
///
/// Invariant: `tail` are the last records, whole ones; those before are in `file`, in parts that end
/// at `ends`.
struct Log {
    directory: PathBuf,
    file: Option<File>,
    ends: Vec<u64>,
    tail: Vec<u8>,
}

impl Log {
    fn new(directory: PathBuf) -> Log {
        Log {
            directory,
            file: None,
            ends: Vec::new(),
            tail: Vec::new(),
        }
    }

    /// To be called before something is done that is then noted: that cannot fail any more.
    fn make_room(&mut self) -> io::Result<()> {
        if self.tail.len() < MOVES_BYTES {
            return Ok(());
        }
        let file = match self.file.take() {
            Some(file) => file,
            None => tempfile::tempfile_in(&self.directory)?,
        };
        let file = self.file.insert(file);
        let at = self.ends.last().copied().unwrap_or_default();
        file.write_all_at(&self.tail, at)?;
        self.ends.push(at + self.tail.len() as u64);
        self.tail.clear();
        Ok(())
    }

    fn push(&mut self, done: Move, path: &Path) {
        let (kind, number, mark) = match done {
            Move::Exchanged(mark) => (0, 0, mark.to_bytes()),
            Move::Placed(mark) => (1, 0, mark.to_bytes()),
            Move::Taken(number) => (2, number, NO_MARK),
            Move::Removed(mode) => (3, mode, NO_MARK),
            Move::Made => (4, 0, NO_MARK),
        };
        let path = path.as_os_str().as_bytes();
        self.tail.push(kind);
        self.tail.extend_from_slice(&number.to_le_bytes());
        self.tail
            .extend_from_slice(&(path.len() as u32).to_le_bytes());
        self.tail.extend_from_slice(&mark);
        self.tail.extend_from_slice(path);
    }

    /// Takes the last of what was done, in its order; `None` if that was all.
    fn take_last(&mut self) -> io::Result<Option<Vec<(Move, PathBuf)>>> {
        let mut tail = std::mem::take(&mut self.tail);
        if tail.is_empty() {
            let (Some(end), Some(file)) = (self.ends.pop(), &self.file) else {
                return Ok(None);
            };
            let begin = self.ends.last().copied().unwrap_or_default();
            tail.resize((end - begin) as usize, 0);
            file.read_exact_at(&mut tail, begin)?;
        }
        Ok(Some(records(&tail)))
    }
}

fn records(mut bytes: &[u8]) -> Vec<(Move, PathBuf)> {
    let mut found = Vec::new();
    while let Some((head, rest)) = bytes.split_first_chunk::<RECORD_BYTES>()
        && let Some((mark, rest)) = rest.split_first_chunk()
    {
        let number = u32::from_le_bytes([head[1], head[2], head[3], head[4]]);
        let len = u32::from_le_bytes([head[5], head[6], head[7], head[8]]) as usize;
        let mark = || Mark::from_bytes(mark);
        let done = match head[0] {
            0 => Move::Exchanged(mark()),
            1 => Move::Placed(mark()),
            2 => Move::Taken(number),
            3 => Move::Removed(number),
            _ => Move::Made,
        };
        let (path, rest) = rest.split_at(len);
        found.push((done, as_path(path)));
        bytes = rest;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_not_go_goes_back() {
        let base = tempfile::tempdir().unwrap();
        let [tree, target, trash] = ["tree", "target", "trash"].map(|name| base.path().join(name));
        for directory in [&tree, &target, &trash] {
            fs::create_dir(directory).unwrap();
        }
        let may_go =
            |path: &Path, now: &Path| Ok(path.ends_with("mine") || fs::read(now)? != b"new");
        let mut moves = Moves::new(tree.clone(), target.clone(), trash).of_what(&may_go);
        for name in ["same", "changed"] {
            fs::write(tree.join(name), "comes").unwrap();
            fs::write(target.join(name), "old").unwrap();
        }
        fs::write(target.join("changed"), "new").unwrap();
        fs::write(target.join("gone"), "new").unwrap();
        moves.place(Path::new("same")).unwrap();
        for failed in [
            moves.place(Path::new("changed")),
            moves.take_away(Path::new("gone")),
        ] {
            assert_eq!(failed.unwrap_err().exit_code(), 1);
        }
        let has = |name: &str| fs::read(target.join(name)).unwrap();
        assert_eq!(
            [has("same"), has("changed"), has("gone")],
            [&b"comes"[..], b"new", b"new"]
        );
        moves.undo();
        assert_eq!(has("same"), b"old");
        // What has come into an empty place since that was looked at.
        put(&tree.join("same"), &target.join("changed")).unwrap_err();
        assert_eq!(has("changed"), b"new");
    }

    /// A guard that cannot tell is no reason to lose anything, nor is somebody who was faster.
    #[test]
    fn what_cannot_be_told_goes_back_or_beside() {
        let base = tempfile::tempdir().unwrap();
        let [tree, target, trash] = ["tree", "target", "trash"].map(|name| base.path().join(name));
        for directory in [&tree, &target, &trash] {
            fs::create_dir(directory).unwrap();
        }
        let is_there = |name: &str| fs::read(target.join(name)).unwrap();
        let may_go = |path: &Path, _: &Path| {
            if path.ends_with("raced") {
                fs::write(target.join("raced"), "newer").unwrap();
            }
            Err(io::ErrorKind::PermissionDenied.into())
        };
        let moves = || Moves::new(tree.clone(), target.clone(), trash.clone()).of_what(&may_go);
        for name in ["exchanged", "taken", "raced"] {
            fs::write(target.join(name), name).unwrap();
        }
        fs::write(tree.join("exchanged"), "comes").unwrap();
        moves().place(Path::new("exchanged")).unwrap_err();
        moves().take_away(Path::new("taken")).unwrap_err();
        assert_eq!(is_there("exchanged"), b"exchanged");
        assert_eq!(is_there("taken"), b"taken");
        let error = moves().take_away(Path::new("raced")).unwrap_err();
        assert!(error.to_string().contains("raced.before-1"), "{error}");
        assert_eq!(is_there("raced"), b"newer");
        assert_eq!(is_there("raced.before-1"), b"raced");
    }

    /// Puts a file there whose date is another than that of what was last changed at `than`.
    fn write_later(path: &Path, text: &str, than: &Path) {
        use std::os::unix::fs::MetadataExt;
        let changed = |path: &Path| {
            let found = fs::symlink_metadata(path).unwrap();
            (found.ctime(), found.ctime_nsec())
        };
        let before = changed(than);
        while {
            let _ = fs::remove_file(path);
            fs::write(path, text).unwrap();
            changed(path) <= before
        } {}
    }

    /// Who fails may have been at it for seconds.
    #[test]
    fn what_others_have_made_since_is_not_undone() {
        let base = tempfile::tempdir().unwrap();
        let [tree, target, trash] = ["tree", "target", "trash"].map(|name| base.path().join(name));
        for directory in [&tree, &target, &trash] {
            fs::create_dir(directory).unwrap();
        }
        let may_go = |_: &Path, _: &Path| Ok(true);
        let mut moves = Moves::new(tree.clone(), target.clone(), trash).of_what(&may_go);
        let old = ["kept", "edited", "replaced", "removed"];
        for name in old {
            fs::write(target.join(name), "old").unwrap();
        }
        let new = [
            "new",
            "new-edited",
            "new-removed",
            "lone/dir/file",
            "shared/dir/file",
        ];
        for name in old.iter().chain(&new) {
            let path = tree.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "comes").unwrap();
            let file = File::options().append(true).open(&path).unwrap();
            file.set_modified(std::time::UNIX_EPOCH).unwrap();
        }
        for name in old.iter().chain(&new[..3]).chain(&["lone", "shared"]) {
            moves.place(Path::new(name)).unwrap();
        }
        for above in ["made", "made/lone"] {
            moves.make_above(&Path::new(above).join("x")).unwrap();
        }
        let at = |name: &str| target.join(name);
        for name in ["edited", "new-edited"] {
            let mut file = File::options().write(true).open(at(name)).unwrap();
            io::Write::write_all(&mut file, b"mine!").unwrap();
        }
        fs::write(at("other"), "mine!").unwrap();
        fs::rename(at("other"), at("replaced")).unwrap();
        fs::remove_file(at("removed")).unwrap();
        fs::remove_file(at("new-removed")).unwrap();
        write_later(&at("shared/dir/mine"), "mine!", &at("shared"));
        fs::write(at("made/mine"), "mine!").unwrap();
        moves.undo();
        let has = |name: &str, text: &str| {
            assert_eq!(fs::read_to_string(at(name)).unwrap(), text, "{name}")
        };
        for name in ["kept", "edited.before-1", "replaced.before-1", "removed"] {
            has(name, "old");
        }
        for name in [
            "edited",
            "replaced",
            "new-edited",
            "shared/dir/mine",
            "made/mine",
        ] {
            has(name, "mine!");
        }
        for name in ["new", "new-removed", "lone", "made/lone"] {
            assert!(fs::symlink_metadata(at(name)).is_err(), "{name}");
        }
    }

    #[test]
    fn however_much_was_done_it_comes_back_the_last_first() {
        let directory = tempfile::tempdir().unwrap();
        let mut log = Log::new(directory.path().to_owned());
        let name = "x".repeat(1000);
        let found = fs::metadata(directory.path()).unwrap();
        let mark = Mark::of(&found, directory.path());
        let done = |number: u32| match number % 5 {
            0 => Move::Exchanged(mark),
            1 => Move::Placed(mark),
            2 => Move::Taken(number),
            3 => Move::Removed(number),
            _ => Move::Made,
        };
        let count = 3 * MOVES_BYTES as u32 / 1000;
        for number in 0..count {
            log.make_room().unwrap();
            assert!(log.tail.capacity() <= 4 * MOVES_BYTES);
            log.push(done(number), Path::new(&format!("{name}{number}")));
        }
        assert!(log.ends.len() >= 2);
        let mut next = count;
        while let Some(moves) = log.take_last().unwrap() {
            for (move_, path) in moves.into_iter().rev() {
                next -= 1;
                assert_eq!(move_, done(next));
                assert_eq!(path, Path::new(&format!("{name}{next}")));
            }
        }
        assert_eq!(next, 0);
    }
}
