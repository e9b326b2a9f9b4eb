//! What is done to a target that is overwritten, so that it can be undone.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use super::error::{RestoreError, failed};
use super::log::{Log, Move};
use super::mark::Mark;
use super::put::{came_meanwhile, put, put_back};
use super::steps;

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
            let exchange = || steps::exchange(&from, &to);
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
            None => steps::rename(&from, &to).map_err(failed("rename to", &to))?,
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
            return Err(is_behind(&self.target.join(path)));
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
            match steps::create_dir(&whole) {
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
        match steps::rename(&from, &away) {
            // A directory of a lower layer (overlayfs) goes only piece by piece.
            Err(e) if e.kind() == io::ErrorKind::CrossesDevices && is_directory() => {
                return self.take_apart(path);
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

    /// Takes the directory at `path` away piece by piece. It is looked at once all of them are away, where they are as they
    /// were together; if it may not go they come back with all else.
    fn take_apart(&mut self, path: &Path) -> Result<(), RestoreError> {
        let number = self.taken;
        self.taken += 1;
        let away = self.trash.join(number.to_string()).join(path);
        steps::create_dir_all(&away).map_err(failed("create", &away))?;
        self.take_pieces(number, path, &away)?;
        match self.lets_go(path, &away)? {
            true => Ok(()),
            false => Err(came_meanwhile(&self.target.join(path))),
        }
    }

    /// Takes what is in the directory at `path` to the one at `away`, and then that itself. Without its HEAD, which goes
    /// first, it is no repository, for nobody.
    fn take_pieces(&mut self, number: u32, path: &Path, away: &Path) -> Result<(), RestoreError> {
        let whole = self.target.join(path);
        let entry = |entry: io::Result<fs::DirEntry>| {
            let entry = entry?;
            Ok((entry.file_name(), entry.file_type()?.is_dir()))
        };
        let listing = fs::read_dir(&whole).and_then(|listing| listing.map(entry).collect());
        let mut listing: Vec<_> = listing.map_err(failed("read", &whole))?;
        listing.sort_by_key(|(name, _)| name != "HEAD");
        for (name, is_directory) in listing {
            let (path, from, away) = (path.join(&name), whole.join(&name), away.join(&name));
            if is_directory {
                steps::create_dir(&away).map_err(failed("create", &away))?;
                self.take_pieces(number, &path, &away)?;
                continue;
            }
            self.make_room()?;
            steps::rename(&from, &away).map_err(failed("move away", &from))?;
            self.log.push(Move::Piece(number), &path);
        }
        let found = fs::symlink_metadata(&whole).map_err(failed("look at", &whole))?;
        self.make_room()?;
        steps::remove_dir(&whole).map_err(failed("remove", &whole))?;
        self.log
            .push(Move::Removed(found.permissions().mode()), path);
        Ok(())
    }

    /// Takes a file away, unless its path leads through something that is no directory or into a
    /// repository; directories that are empty then go, too. They do so as well where it is gone already: who took it away
    /// may have been killed before they went.
    pub(super) fn take_out(&mut self, path: &Path) -> Result<(), RestoreError> {
        if !is_plain(path) {
            return Ok(());
        }
        let found = fs::symlink_metadata(self.target.join(path));
        match found.map(|found| found.is_dir()) {
            Ok(true) => return Ok(()),
            Ok(false) if self.is_inside(path) => self.take_away(path)?,
            _ => {}
        }
        self.remove_emptied(path)
    }

    /// Takes an empty directory away, under the same conditions.
    pub(super) fn take_out_empty(&mut self, path: &Path) -> Result<(), RestoreError> {
        if is_plain(path) && (self.remove_empty(path)? || !self.has(path)) {
            self.remove_emptied(path)?;
        }
        Ok(())
    }

    /// Removes the directories around `path` that are empty now.
    pub(super) fn remove_emptied(&mut self, path: &Path) -> Result<(), RestoreError> {
        for above in above(path) {
            if self.has(above) && !self.remove_empty(above)? {
                break;
            }
        }
        Ok(())
    }

    /// Removes a directory of the target if it is empty; whether it was. One that is held, as where something is mounted,
    /// stays, as with git; a full disk ends all.
    fn remove_empty(&mut self, path: &Path) -> Result<bool, RestoreError> {
        let whole = self.target.join(path);
        let Ok(found) = fs::symlink_metadata(&whole) else {
            return Ok(false);
        };
        if !found.is_dir() || !self.is_inside(path) {
            return Ok(false);
        }
        self.make_room()?;
        match steps::remove_dir(&whole) {
            Err(e) if is_full(&e) => return Err(failed("remove", &whole)(e)),
            Err(_) => return Ok(false),
            Ok(()) => {}
        }
        self.inside = None;
        let mode = found.permissions().mode();
        self.log.push(Move::Removed(mode), path);
        Ok(true)
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
        // Nothing comes back, and nothing goes, behind what somebody has made of a directory since.
        let is_other = |above: &Path| {
            let found = fs::symlink_metadata(self.target.join(above));
            found.is_ok_and(|found| !found.is_dir())
        };
        if above(path).any(is_other) {
            return Err(is_behind(&to));
        }
        let trash = |number: u32| self.trash.join(number.to_string());
        match done {
            Move::Exchanged(mark) => self.undo_exchange(&from, &to, mark),
            Move::Placed(mark) => self.undo_placement(&from, &to, mark),
            Move::Taken(number) => put_back(&trash(number), &to),
            Move::Piece(number) => put_back(&trash(number).join(path), &to),
            Move::Removed(mode) => {
                let made = steps::create_dir(&to);
                let set = |()| steps::set_permissions(&to, fs::Permissions::from_mode(mode));
                match made.and_then(set) {
                    // Somebody else has made it.
                    Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
                    made => made.map_err(failed("create", &to)),
                }
            }
            Move::Made => match steps::remove_dir(&to) {
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
        match steps::rename(to, from) {
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
        let exchange = || steps::exchange(from, to);
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

fn is_behind(path: &Path) -> RestoreError {
    RestoreError::Usage(format!(
        "{} is behind something that is no directory, a link perhaps: remove that",
        path.display()
    ))
}

fn is_full(e: &io::Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(e.kind(), StorageFull | QuotaExceeded)
}

/// Whether `path` leads nowhere but down, and into no repository.
fn is_plain(path: &Path) -> bool {
    let is_plain = |c| matches!(c, Component::Normal(name) if name != ".git");
    path.components().all(is_plain)
}

/// The directories that `path` leads through, the last first.
fn above(path: &Path) -> impl Iterator<Item = &Path> {
    let above = path.ancestors().skip(1);
    above.filter(|above| !above.as_os_str().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

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
}
