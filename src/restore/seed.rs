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
//!   manifest, and with git's own sums. A manifest's checksums show what a disk has broken, not what somebody has forged:
//!   what is of a pack ends with the sum that the pack is called after ([`named`]), and of the rest a repository's server
//!   is believed, so each has a directory of its own, and of others nobody but root ([`ground`]).
//! * A restore lives without: what cannot be written is not kept, and what cannot be read is fetched ([`Lent`]).
//! * What was used least recently leaves ([`room`]).

mod check;
mod ground;
mod incoming;
mod name;
mod named;
mod note;
mod place;
mod room;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::fmt::Display;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use rustix::fs::{AtFlags, Mode, OFlags};

use self::check::{Verdict, check};
use self::ground::{Ground, Refused, is_file_believed};
use self::note::{Clock, Known, SEALED};
use self::place::Fault;
use self::room::{Asked, Room};
use super::error::RestoreError;
use super::progress::Progress;
use super::stop::Stop;
use crate::config::RestoreArgs;
use crate::limits::SEED_CHECK_INTERVAL_DEFAULT_MS;
use crate::manifest::parts::Manifest;

pub(super) use self::incoming::Incoming;

/// Why what a server gives under the name of a pack is not kept.
const ANOTHER_PACK: &str = "it is not of the pack that its name says";

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
    bounds: Asked,
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

/// Whether an error of writing is one that every other part would meet as well.
fn is_of_all(error: &io::Error) -> bool {
    !matches!(
        error.kind(),
        io::ErrorKind::IsADirectory
            | io::ErrorKind::NotADirectory
            | io::ErrorKind::DirectoryNotEmpty
            | io::ErrorKind::AlreadyExists
            | io::ErrorKind::NotFound
    )
}

/// A part of a seed has what git's formats want of it, with those that belong to it.
pub(super) fn note_sound(file: &Arc<File>) {
    // It is read again the next time where that cannot be noted.
    let _ = Clock::new().note_sound(file);
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
        if args.by_archive {
            if let Some(progress) = progress {
                progress.say("--by-archive takes nothing from the seed, and keeps nothing there");
            }
            return Ok(None);
        }
        match Ground::open(path) {
            Ok(ground) => Ok(Some(Seed::new(ground, path, url, args, progress))),
            Err(Refused::Io { op, source }) => {
                let path = path.display();
                if let Some(progress) = progress {
                    progress.say(&format!(
                        "the seed {path} is not used: cannot {op} it: {source}"
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
            bounds: Asked::new(args.seed_limit, args.seed_free_floor),
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
    pub(super) fn find(&self, manifest: &Manifest, number: usize, stop: &Stop) -> Option<Lent<'_>> {
        let home = self.home.get()?;
        let (part, name) = (&manifest.parts[number], name::of_part(manifest, number));
        let refused = |why: &dyn Display| {
            self.refuse(home, &name, why);
            None
        };
        let file = match home.read(&name) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return None,
            Err(e) => return refused(&e),
        };
        let found = match file.metadata() {
            Ok(found) => found,
            Err(e) => return refused(&e),
        };
        if !is_file_believed(&found) {
            return refused(&"it is another user's, others may write to it, or it is no file");
        }
        if found.len() != part.bytes {
            return refused(&"it is of another length");
        }
        match named::ends_as_named(&file, &part.name, part.bytes) {
            Ok(true) => {}
            Ok(false) => return refused(&ANOTHER_PACK),
            Err(e) => return refused(&e),
        }
        let is_doubted = self.is_doubted.load(Relaxed);
        let known = self.clock.known(&found, self.check_interval);
        let known = match known.filter(|_| !is_doubted) {
            Some(known) => {
                // Who may not write there counts as nobody who uses it.
                let _ = self.clock.note_used(&file);
                known
            }
            None => {
                let verdict = match check(&file, manifest, number, stop) {
                    // Else whoever takes it sums it beside what is done with it.
                    Verdict::Right if is_doubted => {
                        named::check(&file, &part.name, part.bytes, stop)
                    }
                    verdict => verdict,
                };
                match verdict {
                    Verdict::Right => {}
                    Verdict::Wrong => {
                        return refused(&"its content is not what the server says of it");
                    }
                    Verdict::Stopped => return None,
                }
                let sealed = rustix::fs::fchmod(&file, Mode::from_raw_mode(SEALED));
                // It is read again the next time where that cannot be noted.
                let _ = sealed.map(|()| self.clock.note_read(&file));
                Known::Right
            }
        };
        // Another try finds it once more.
        if lock(&self.kept).insert(name.clone()) {
            self.used_bytes.fetch_add(part.bytes, Relaxed);
        }
        Some(Lent::new(self, file, name, known))
    }

    /// A part that is used cannot be read.
    fn lose(&self, name: &str, why: &io::Error) {
        if let Some(home) = self.home.get() {
            self.refuse(home, name, why);
        }
    }

    /// Removes what is no part.
    fn refuse(&self, home: &Ground, name: &str, why: &dyn Display) {
        let removed = match home.remove(name) {
            Ok(()) => "it is removed, and comes from the server again",
            Err(_) => "it stays, and comes from the server",
        };
        let path = self.path.display();
        self.say(&format!(
            "the seed {path}: {name} is wrong ({why}): {removed}"
        ));
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
            self.say_once(
                "is full: not all that comes is kept there (--seed-limit, --seed-free-floor)",
            );
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
        room.make(&self.ground, kept, bytes, self.bounds)
    }

    /// Keeps a part that was found right.
    pub(super) fn keep(&self, incoming: Incoming) {
        let name = incoming.name().to_owned();
        let not_kept = |why: &dyn Display| {
            let path = self.path.display();
            self.say(&format!("the seed {path}: {name} is not kept: {why}"));
        };
        let part = name.rsplit_once('.').map_or(&*name, |(part, _)| part);
        let file = incoming.file();
        let bytes = file.metadata().map(|found| found.len());
        match bytes.and_then(|bytes| named::ends_as_named(file, part, bytes)) {
            Ok(true) => {}
            Ok(false) => return not_kept(&ANOTHER_PACK),
            Err(e) => return not_kept(&e),
        }
        lock(&self.kept).insert(name.clone());
        match incoming.finish(&self.clock) {
            Ok(()) => {}
            Err(e) if is_of_all(&e) => self.close(&e),
            Err(e) => not_kept(&e),
        }
    }

    /// Whether packs in a working copy may be the seed's own files.
    pub(super) fn may_link(&self) -> bool {
        self.may_link
    }

    /// Nothing more is written.
    pub(super) fn close(&self, why: &dyn Display) {
        self.is_closed.store(true, Relaxed);
        self.say_once(&format!("cannot be written to, and is only read: {why}"));
    }

    /// Whether a restore may have failed because of what is here, and another try does without that. Of a part that was
    /// not read blocks may be shared, or it may be mapped: any error of reading can be one of its disk.
    pub(super) fn is_to_blame(&self, error: &RestoreError) -> bool {
        let may_be = match error {
            RestoreError::Corrupt { .. } | RestoreError::Entry { .. } => true,
            RestoreError::Disk { source, .. } => source.raw_os_error() == Some(libc::EIO),
            RestoreError::Thread(_) => true,
            _ => false,
        };
        let is_to_blame = may_be && self.may_be_wrong();
        if is_to_blame {
            self.is_doubted.store(true, Relaxed);
        }
        is_to_blame
    }

    /// Whether something was taken from here that was not read and compared.
    pub(super) fn may_be_wrong(&self) -> bool {
        self.used_bytes() > 0 && !self.is_doubted.load(Relaxed)
    }

    /// Bytes of the parts that it had.
    pub(super) fn used_bytes(&self) -> u64 {
        self.used_bytes.load(Relaxed)
    }

    /// What comes is one archive.
    pub(super) fn say_kept_nothing(&self) {
        self.say("it comes as one archive, of which the seed keeps nothing");
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

/// A part of a seed while a restore uses it. Whoever cannot read it does without: it is removed, and fetched.
#[derive(Debug)]
pub(super) struct Lent<'s> {
    seed: &'s Seed<'s>,
    file: Arc<File>,
    name: String,
    known: Known,
    /// It could not be read.
    is_lost: AtomicBool,
}

impl<'s> Lent<'s> {
    fn new(seed: &'s Seed<'s>, file: File, name: String, known: Known) -> Lent<'s> {
        let is_lost = AtomicBool::new(false);
        Lent {
            seed,
            file: Arc::new(file),
            name,
            known,
            is_lost,
        }
    }

    /// Whether git's own sums of it need not be made once more.
    pub(super) fn is_sound(&self) -> bool {
        self.known == Known::Sound && !self.is_lost()
    }

    pub(super) fn is_lost(&self) -> bool {
        self.is_lost.load(Relaxed)
    }

    pub(super) fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Reads bytes of it; whether it could.
    pub(super) fn read(&self, at: u64, into: &mut [u8]) -> bool {
        if self.is_lost() {
            return false;
        }
        let read = self.file.read_exact_at(into, at);
        read.map_err(|e| self.lose(&e)).is_ok()
    }

    /// Makes a file in `directory` that is this one, or shares its blocks; whether it could.
    pub(super) fn place(&self, directory: BorrowedFd<'_>, name: &str, mode: Mode) -> bool {
        if self.seed.may_link && place::link(&self.file, directory, name).is_ok() {
            return true;
        }
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let made = rustix::fs::openat(directory, name, flags | OFlags::CLOEXEC, mode);
        let Ok(made) = made.map(File::from) else {
            return false;
        };
        let is_shared = place::share(&self.file, &made).is_ok();
        if !is_shared {
            let _ = rustix::fs::unlinkat(directory, name, AtFlags::empty());
        }
        is_shared
    }

    /// Copies bytes of it to the same place of another file; whether they could be read.
    pub(super) fn copy(&self, to: &File, range: Range<u64>, stop: &Stop) -> io::Result<bool> {
        if self.is_lost() {
            return Ok(false);
        }
        match place::copy(&self.file, to, range, stop) {
            Ok(()) => Ok(true),
            Err(Fault::To(e)) => Err(e),
            Err(Fault::From(e)) => {
                self.lose(&e);
                Ok(false)
            }
        }
    }

    fn lose(&self, why: &io::Error) {
        if !self.is_lost.swap(true, Relaxed) {
            self.seed.lose(&self.name, why);
        }
    }
}

impl Drop for Seed<'_> {
    fn drop(&mut self) {
        let is_changed = lock(&self.room).is_some();
        if is_changed && !self.is_closed.load(Relaxed) {
            // Restores that ran at once have each looked before the others wrote.
            let room = Room::look(&self.ground);
            let _ = room.and_then(|mut room| room.trim(&self.ground, self.bounds));
        }
    }
}
