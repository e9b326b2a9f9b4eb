//! A directory in which parts stay for the next restore on this host: `--seed`.
//!
//! ```text
//! SEED/REPOSITORY/PART.SUM      whole, 0444
//! SEED/REPOSITORY/.new-RANDOM   on its way, locked by whoever downloads it
//! ```
//!
//! Any number of restores share it, and none waits for another: files never change, come by a rename and go while
//! whoever uses them has them open. A seed is a cache: whatever is wrong with it, the restore goes on without.
//!
//! * A name says what a part contains ([`name`]), so one that is there is the right one, or has rotted.
//! * That it has not was looked at in this boot and not too long ago ([`note`]), or it is read and compared with the
//!   manifest. The checksums show what a disk has broken, not what somebody has forged: a repository's server is
//!   believed, so each has a directory of its own, and of others nobody but root ([`ground`]).
//! * What was used least recently leaves ([`room`]).

mod check;
mod ground;
mod incoming;
mod name;
mod note;
mod place;
mod room;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::fmt::Display;
use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use rustix::fs::Mode;

use self::check::{Verdict, check};
use self::ground::{Ground, Refused, is_file_believed};
use self::note::{Clock, SEALED};
use self::room::Room;
use super::error::RestoreError;
use super::progress::Progress;
use super::stop::Stop;
use crate::config::RestoreArgs;
use crate::limits::SEED_CHECK_INTERVAL_DEFAULT_MS;
use crate::manifest::parts::Manifest;

pub(super) use self::incoming::Incoming;

/// See the module's text.
#[derive(Debug)]
pub(super) struct Seed<'a> {
    path: PathBuf,
    ground: Ground,
    /// The directory of the repository.
    repository: String,
    home: OnceLock<Arc<Ground>>,
    clock: Clock,
    check_interval: Duration,
    limit_bytes: Option<u64>,
    may_link: bool,
    /// Something of it was wrong though it was believed: nothing is believed any more.
    is_doubted: AtomicBool,
    /// Nothing can be written.
    is_closed: AtomicBool,
    /// Why not everything is kept was said.
    is_said: AtomicBool,
    /// Parts that this restore uses.
    kept: Mutex<HashSet<String>>,
    room: Mutex<Option<Room>>,
    used_bytes: AtomicU64,
    progress: Option<&'a Progress>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl<'a> Seed<'a> {
    /// Opens the seed that was asked for, for the repository that its server has at `url`. `None` if there is none that
    /// can be used, which is said.
    ///
    /// # Errors
    /// If it is somebody else's, or others may write there.
    pub(super) fn open(
        args: &RestoreArgs,
        url: &str,
        progress: &'a Progress,
    ) -> Result<Option<Seed<'a>>, RestoreError> {
        let Some(path) = &args.seed else {
            return Ok(None);
        };
        let progress = Some(progress).filter(|_| !args.quiet);
        match Ground::open(path) {
            Ok(ground) => Ok(Some(Seed::new(ground, path, url, args, progress))),
            Err(Refused::Io { op, source }) => {
                let path = path.display();
                if let Some(progress) = progress {
                    progress.say(&format!(
                        "without the seed {path}: cannot {op} it: {source}"
                    ));
                }
                Ok(None)
            }
            Err(refused) => {
                let path = path.display();
                Err(RestoreError::Usage(format!("the seed {path}: {refused}")))
            }
        }
    }

    fn new(
        ground: Ground,
        path: &Path,
        url: &str,
        args: &RestoreArgs,
        progress: Option<&'a Progress>,
    ) -> Seed<'a> {
        let check_interval = Duration::from_millis(SEED_CHECK_INTERVAL_DEFAULT_MS);
        let seed = Seed {
            path: path.to_owned(),
            ground,
            repository: name::of_repository(url),
            home: OnceLock::new(),
            clock: Clock::new(),
            check_interval: args.seed_check_interval.unwrap_or(check_interval),
            limit_bytes: args.seed_limit,
            may_link: args.seed_link,
            is_doubted: AtomicBool::new(false),
            is_closed: AtomicBool::new(false),
            is_said: AtomicBool::new(false),
            kept: Mutex::default(),
            room: Mutex::default(),
            used_bytes: AtomicU64::new(0),
            progress,
        };
        match seed.ground.below(&seed.repository) {
            Ok(home) => {
                room::sweep(&home);
                let _ = seed.home.set(Arc::new(home));
            }
            Err(Refused::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            Err(refused) => seed.close(&refused),
        }
        seed
    }

    /// The part, if the seed has it. What is there and is not right is removed.
    pub(super) fn find(&self, manifest: &Manifest, number: usize, stop: &Stop) -> Option<File> {
        let home = self.home.get()?;
        let (part, name) = (&manifest.parts[number], name::of_part(manifest, number));
        let file = match home.read(&name) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return None,
            Err(e) => return self.refuse(home, &name, e),
        };
        let found = match file.metadata() {
            Ok(found) => found,
            Err(e) => return self.refuse(home, &name, e),
        };
        if !is_file_believed(&found) {
            return self.refuse(home, &name, "another user's, or no file");
        }
        if found.len() != part.bytes {
            return self.refuse(home, &name, "of another length");
        }
        let is_right = self.clock.is_right(&found, self.check_interval);
        if is_right && !self.is_doubted.load(Relaxed) {
            // Who may not write there counts as nobody who uses it.
            let _ = self.clock.note_used(&file);
        } else {
            match check(&file, manifest, number, stop) {
                Verdict::Right => {}
                Verdict::Wrong => return self.refuse(home, &name, "not what the manifest says"),
                Verdict::Stopped => return None,
            }
            let sealed = rustix::fs::fchmod(&file, Mode::from_raw_mode(SEALED));
            // It is read again the next time where that cannot be noted.
            let _ = sealed.map(|()| self.clock.note_right(&file));
        }
        // Another try finds it once more.
        if lock(&self.kept).insert(name) {
            self.used_bytes.fetch_add(part.bytes, Relaxed);
        }
        Some(file)
    }

    /// Removes what is no part.
    fn refuse(&self, home: &Ground, name: &str, why: impl Display) -> Option<File> {
        let removed = match home.remove(name) {
            Ok(()) => "removed and fetched again",
            Err(_) => "fetched",
        };
        let path = self.path.display();
        self.say(&format!(
            "in the seed {path} {name} is wrong and {removed}: {why}"
        ));
        None
    }

    /// A file for a part that the seed has not; `None` if it cannot be kept.
    pub(super) fn begin(&self, manifest: &Manifest, number: usize) -> Option<Incoming> {
        if self.is_closed.load(Relaxed) {
            return None;
        }
        let begun = self.try_begin(manifest, number);
        begun.map_err(|why| self.close(&why)).ok().flatten()
    }

    fn try_begin(&self, manifest: &Manifest, number: usize) -> Result<Option<Incoming>, Refused> {
        let home = match self.home.get() {
            Some(home) => home.clone(),
            None => {
                let made = Arc::new(self.ground.make_below(&self.repository)?);
                self.home.get_or_init(|| made).clone()
            }
        };
        let bytes = manifest.parts[number].bytes;
        let failed = |op| move |source| Refused::Io { op, source };
        if !self.make_room(bytes).map_err(failed("look at"))? {
            self.say_once("is full: not all is kept");
            return Ok(None);
        }
        let name = name::of_part(manifest, number);
        let incoming = Incoming::new(home, name, bytes);
        incoming.map(Some).map_err(failed("write to"))
    }

    fn make_room(&self, bytes: u64) -> io::Result<bool> {
        let mut room = lock(&self.room);
        let room = match room.take().filter(|room| !room.is_old()) {
            Some(found) => room.insert(found),
            None => room.insert(Room::look(&self.ground)?),
        };
        let kept = lock(&self.kept);
        let kept = (self.repository.as_str(), &*kept);
        room.make(&self.ground, kept, bytes, self.limit_bytes)
    }

    /// Keeps a part that was found right. Gives it back: whatever becomes of its name, the file is there.
    pub(super) fn keep(&self, incoming: Incoming) -> Arc<File> {
        let (file, name) = (incoming.file().clone(), incoming.name().to_owned());
        lock(&self.kept).insert(name);
        if let Err(e) = incoming.finish(&self.clock) {
            self.close(&e);
        }
        file
    }

    /// Gives a part its place in a working copy: the name `name` in `directory`, with this mode if it is a copy.
    pub(super) fn place(
        &self,
        file: &File,
        to: (BorrowedFd<'_>, &str),
        mode: Mode,
        stop: &Stop,
    ) -> io::Result<()> {
        place::place(file, to, (self.may_link, mode), stop)
    }

    /// Something was not right that came from here: from now on all is read and compared before it is used.
    fn doubt(&self) {
        self.is_doubted.store(true, Relaxed);
    }

    /// Nothing more is written.
    pub(super) fn close(&self, why: &dyn Display) {
        self.is_closed.store(true, Relaxed);
        self.say_once(&format!("is only read: {why}"));
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether a restore failed because of what is here, and another try does without that.
    pub(super) fn is_to_blame(&self, error: &RestoreError) -> bool {
        match error {
            RestoreError::Disk { path, .. } if *path == self.path => {
                let (was_closed, was_doubted) =
                    (self.is_closed.load(Relaxed), self.is_doubted.load(Relaxed));
                self.doubt();
                self.close(error);
                !was_closed || !was_doubted
            }
            RestoreError::Corrupt { .. } | RestoreError::Entry { .. } if self.may_be_wrong() => {
                self.doubt();
                true
            }
            _ => false,
        }
    }

    /// Whether something was taken from here that was not read and compared.
    pub(super) fn may_be_wrong(&self) -> bool {
        self.used_bytes() > 0 && !self.is_doubted.load(Relaxed)
    }

    /// Bytes of the parts that it had.
    pub(super) fn used_bytes(&self) -> u64 {
        self.used_bytes.load(Relaxed)
    }

    fn say_once(&self, what: &str) {
        if !self.is_said.swap(true, Relaxed) {
            self.say(&format!("the seed {} {what}", self.path.display()));
        }
    }

    fn say(&self, text: &str) {
        if let Some(progress) = self.progress {
            progress.say(text);
        }
    }
}

impl Drop for Seed<'_> {
    fn drop(&mut self) {
        let is_changed = lock(&self.room).is_some();
        if is_changed && !self.is_closed.load(Relaxed) {
            // Restores that ran at once have each looked before the others wrote.
            let room = Room::look(&self.ground);
            let _ = room.and_then(|mut room| room.trim(&self.ground, self.limit_bytes));
        }
    }
}
