//! One archive of one repository: what a request is answered from, growing or complete.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use arc_swap::ArcSwapOption;

use super::lending::{Borrower, Lending};
use super::open_files::{OpenError, OpenFile, OpenFiles, Owner};
use super::resident::Resident;
use crate::archive::fanout::Fanout;
use crate::io::clock::unix_ms;
use crate::limits::DOUBT_INTERVAL_MS;
use crate::manifest::id::EntryId;
use crate::manifest::meta::Meta;
use crate::manifest::parts::{MANIFEST_NAME, part_name};
use crate::manifest::record::Linked;
use crate::manifest::want::Want;

/// The open files of an archive.
#[derive(Debug)]
pub(crate) struct Files {
    /// The spool file.
    pub spool: Arc<OpenFile>,
    /// The linked files, in the order the layout numbers them.
    linked: Vec<Arc<OpenFile>>,
    /// Those behind them, which are made while the archive grows.
    made: OnceLock<Vec<Arc<OpenFile>>>,
    /// What of the archive was in memory lately.
    pub resident: Resident,
}

impl Files {
    /// Takes over open files.
    pub(crate) fn new(spool: Arc<OpenFile>, linked: Vec<Arc<OpenFile>>) -> Files {
        Files {
            spool,
            linked,
            made: OnceLock::new(),
            resident: Resident::default(),
        }
    }

    /// The linked file of this number in the layout.
    pub(crate) fn linked(&self, number: u32) -> Option<&Arc<OpenFile>> {
        let number = number as usize;
        self.linked.get(number).or_else(|| {
            let made = self.made.get()?;
            made.get(number - self.linked.len())
        })
    }

    /// The spool (`None`) or a linked file, to be sent.
    pub(crate) fn file(&self, number: Option<u32>) -> io::Result<BorrowedFd<'_>> {
        let file = match number {
            None => Some(&self.spool),
            Some(number) => self.linked(number),
        };
        let file = file.ok_or(io::ErrorKind::NotFound)?;
        Ok(file.as_fd())
    }

    /// Files that were made meanwhile: their numbers follow those of the others. Once.
    pub(crate) fn add_made(&self, made: Vec<Arc<OpenFile>>) {
        let is_first = self.made.set(made).is_ok();
        debug_assert!(is_first, "files were made twice");
    }
}

/// An archive and where its bytes are.
#[derive(Debug)]
pub(crate) struct Archive {
    /// The id, known from the first byte on.
    pub id: EntryId,
    /// The id as a strong ETag, in quotes.
    pub etag: String,
    /// Name of the repository, whatever it was spelled like when this was made.
    pub repository: Arc<str>,
    /// What of it this is.
    pub want: Arc<Want>,
    /// HEAD's commit as hex; `None` when HEAD points nowhere.
    pub commit: Option<String>,
    /// Of what it shows: whether it is up to date.
    pub shown: [u8; 32],
    /// When the build began, ms since 1970; before it read the mirror's refs.
    pub created_unix_ms: u64,
    /// The bytes.
    pub fanout: Arc<Fanout>,
    /// Known once it has a place.
    names: OnceLock<Names>,
    place: Place,
    last_used_unix_ms: AtomicU64,
    /// When it was last looked at on a client's word; 0 for never.
    doubted_unix_ms: AtomicU64,
    /// Whether somebody was told of its parts, and may come for them.
    is_known_by_parts: AtomicBool,
    /// Whether it is shared with other servers, or is about to be.
    is_offered: AtomicBool,
    /// When another server saw that the upstream has it, which is told and never relied on; 0 for never.
    seen_unix_ms: AtomicU64,
    /// Where its files are brought from as somebody reads them.
    lending: Option<Arc<Lending>>,
}

/// The names of an archive's files in its directory.
#[derive(Debug)]
pub(crate) struct Names {
    /// Of its own bytes: a name that no other archive's have, so that whoever opens an entry by its id
    /// gets these bytes or an error, though another one may have taken its place.
    pub spool: String,
    /// The linked files, in the order the layout numbers them.
    pub linked: Vec<Linked>,
    /// Those behind them, which are made while the archive grows; there before it has ended.
    pub made: OnceLock<Vec<Linked>>,
}

impl Names {
    /// All but the spool file, in the order the layout numbers them.
    pub(crate) fn files(&self) -> impl Iterator<Item = &Linked> {
        self.linked
            .iter()
            .chain(self.made.get().into_iter().flatten())
    }

    /// The file that is the part of this name: `None` for the spool, else its number.
    fn part(&self, name: &str) -> Option<Option<u32>> {
        if part_name(&self.spool) == name {
            return Some(None);
        }
        let found = self.files().position(|file| part_name(&file.path) == name);
        found.map(|number| Some(number as u32))
    }
}

/// Invariant: before [`Archive::placed`] the directory is empty and there are no files, and no
/// byte of the archive is in a file either: the first ones are in the fan-out's window. It stays
/// empty for an archive that is not kept and read from the mirror.
///
/// The files are found without a lock, for every hit needs them. Who opens or closes them holds that
/// of the directory.
#[derive(Debug, Default)]
struct Place {
    dir: Mutex<PathBuf>,
    files: ArcSwapOption<Files>,
}

impl Archive {
    /// An archive that begins to grow, without a place in the cache yet.
    pub(crate) fn growing(
        id: EntryId,
        repository: Arc<str>,
        want: Arc<Want>,
        commit: Option<String>,
        shown: [u8; 32],
        created_unix_ms: u64,
    ) -> Archive {
        Archive {
            id,
            etag: format!("\"{id}\""),
            repository,
            want,
            commit,
            shown,
            created_unix_ms,
            fanout: Arc::new(Fanout::new()),
            names: OnceLock::new(),
            place: Place::default(),
            last_used_unix_ms: AtomicU64::new(created_unix_ms),
            doubted_unix_ms: AtomicU64::new(0),
            is_known_by_parts: AtomicBool::new(false),
            is_offered: AtomicBool::new(false),
            seen_unix_ms: AtomicU64::new(0),
            lending: None,
        }
    }

    /// A published entry of this repository, found in `dir`.
    pub(crate) fn found(repository: Arc<str>, dir: PathBuf, meta: Meta) -> Archive {
        let fields = meta.into_fields();
        Archive {
            id: fields.id,
            etag: format!("\"{}\"", fields.id),
            repository,
            want: Arc::new(fields.want),
            commit: fields.commit,
            shown: fields.shown,
            created_unix_ms: fields.created_unix_ms,
            fanout: Arc::new(Fanout::complete(fields.layout)),
            names: OnceLock::from(Names {
                spool: fields.spool,
                linked: fields.linked,
                made: OnceLock::new(),
            }),
            place: Place {
                dir: Mutex::new(dir),
                files: ArcSwapOption::empty(),
            },
            // The clock may have been set back since.
            last_used_unix_ms: AtomicU64::new(fields.created_unix_ms.min(unix_ms())),
            doubted_unix_ms: AtomicU64::new(0),
            is_known_by_parts: AtomicBool::new(false),
            is_offered: AtomicBool::new(false),
            seen_unix_ms: AtomicU64::new(0),
            lending: None,
        }
    }

    /// The directory is replaced in one step.
    fn lock_dir(&self) -> MutexGuard<'_, PathBuf> {
        let dir = &self.place.dir;
        dir.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The names of its files; none before it has a place.
    pub(crate) fn names(&self) -> Option<&Names> {
        self.names.get()
    }

    /// The files, if they are open.
    pub(crate) fn files(&self) -> Option<Arc<Files>> {
        self.place.files.load_full()
    }

    /// Opens the files if they are not open. May wait for the disk.
    pub(crate) fn open_files(self: &Arc<Self>, open: &OpenFiles) -> Result<Arc<Files>, OpenError> {
        let dir = self.lock_dir();
        if let Some(files) = self.files() {
            return Ok(files);
        }
        let Some(names) = self.names() else {
            let nowhere = std::io::Error::from(std::io::ErrorKind::NotFound);
            return Err(OpenError::io(&dir, nowhere));
        };
        let linked = names.files().map(|file| file.path.as_str());
        let paths = std::iter::once(names.spool.as_str()).chain(linked);
        let mut opened = open.open_all(&Vec::from_iter(paths.map(|path| dir.join(path))))?;
        let spool = opened.remove(0);
        let files = Arc::new(Files::new(spool, opened));
        self.place.files.store(Some(files.clone()));
        drop(dir);
        open.note(self.as_owner());
        Ok(files)
    }

    /// The entry is made in `dir`, with these files of these names.
    pub(crate) fn placed(
        self: &Arc<Self>,
        dir: PathBuf,
        names: Names,
        files: Arc<Files>,
        open: &OpenFiles,
    ) {
        // Once: a build has one place.
        let _ = self.names.set(names);
        *self.lock_dir() = dir;
        self.place.files.store(Some(files));
        open.note(self.as_owner());
    }

    fn as_owner(self: &Arc<Self>) -> Weak<dyn Owner> {
        let owner: Arc<dyn Owner> = self.clone();
        Arc::downgrade(&owner)
    }

    /// Closes the files unless somebody uses them; whether they were closed. Who takes them at this
    /// moment has them open all the same.
    pub(crate) fn close_if_idle(&self) -> bool {
        // A reader that joined before there were files takes them when it needs them.
        if self.fanout.readers() > 0 {
            return false;
        }
        // Whoever has it may be opening the files, and waits for the disk.
        let Ok(_dir) = self.place.dir.try_lock() else {
            return false;
        };
        let is_idle = |files: &Arc<Files>| Arc::strong_count(files) == 2;
        if self.files().as_ref().is_some_and(is_idle) {
            self.place.files.store(None);
            return true;
        }
        false
    }

    /// Where the entry is.
    pub(crate) fn dir(&self) -> PathBuf {
        self.lock_dir().clone()
    }

    /// The entry was published in `dir`.
    pub(crate) fn moved_to(&self, dir: PathBuf) {
        *self.lock_dir() = dir;
    }

    /// The part of this name of an archive that stands: which of its files, and its length.
    pub(crate) fn part(&self, name: &str) -> Option<(Option<u32>, u64)> {
        self.fanout.total_bytes()?;
        let names = self.names()?;
        let number = names.part(name)?;
        let bytes = match number {
            None => self.fanout.layout_spool_bytes(),
            Some(number) => names.files().nth(number as usize)?.bytes,
        };
        Some((number, bytes))
    }

    /// Its manifest's file, open, and its length. May wait for the disk.
    pub(crate) fn open_manifest_file(
        &self,
        open: &OpenFiles,
    ) -> Result<(Arc<Files>, u64), OpenError> {
        let path = self.dir().join(MANIFEST_NAME);
        let mut opened = open.open_all(std::slice::from_ref(&path))?;
        let file = opened.remove(0);
        let bytes = file.file().metadata();
        let bytes = bytes.map_err(|source| OpenError::io(&path, source))?.len();
        Ok((Arc::new(Files::new(file, Vec::new())), bytes))
    }

    /// Somebody is told of its parts.
    pub(crate) fn note_told(&self) {
        self.is_known_by_parts.store(true, Ordering::Relaxed);
    }

    /// Whether somebody was.
    pub(crate) fn is_known_by_parts(&self) -> bool {
        self.is_known_by_parts.load(Ordering::Relaxed)
    }

    /// It is about to be shared, or is not any more; whether it was before.
    pub(crate) fn set_offered(&self, is_offered: bool) -> bool {
        self.is_offered.swap(is_offered, Ordering::Relaxed)
    }

    /// Another server saw then, by its own clock, that the upstream has it.
    pub(crate) fn set_seen_elsewhere(&self, unix_ms: u64) {
        self.seen_unix_ms.store(unix_ms, Ordering::Relaxed);
    }

    /// One of which the files that were found are empty, and come as they are read.
    pub(crate) fn lent(self, lending: Arc<Lending>) -> Archive {
        Archive {
            lending: Some(lending),
            ..self
        }
    }

    /// Somebody who reads it, if its files come as they are read.
    pub(crate) fn borrower(&self) -> Option<Borrower> {
        self.lending.clone().map(Borrower::new)
    }

    /// Somebody is about to read it.
    pub(crate) fn note_borrowed(&self) {
        drop(self.borrower());
    }

    /// When that was.
    pub(crate) fn seen_elsewhere_unix_ms(&self) -> Option<u64> {
        let seen = self.seen_unix_ms.load(Ordering::Relaxed);
        (seen > 0).then_some(seen)
    }

    /// Notes that a request is answered from it.
    pub(crate) fn touch(&self) {
        self.last_used_unix_ms.store(unix_ms(), Ordering::Relaxed);
    }

    /// Whether it may be looked at on a client's word now; if so, not again for an hour.
    pub(crate) fn may_be_doubted(&self) -> bool {
        let (now, before) = (unix_ms(), self.doubted_unix_ms.load(Ordering::Relaxed));
        let may_be = before == 0 || now.saturating_sub(before) >= DOUBT_INTERVAL_MS;
        if may_be {
            self.doubted_unix_ms.store(now, Ordering::Relaxed);
        }
        may_be
    }

    /// When a request was last answered from it, ms since 1970.
    pub(crate) fn last_used_unix_ms(&self) -> u64 {
        self.last_used_unix_ms.load(Ordering::Relaxed)
    }
}

impl Owner for Archive {
    fn has_open(&self) -> bool {
        self.files().is_some()
    }

    fn last_used_unix_ms(&self) -> u64 {
        Archive::last_used_unix_ms(self)
    }

    fn close_if_idle(&self) -> bool {
        // While it grows, whoever joins next may need what is in no other place.
        self.fanout.total_bytes().is_some() && Archive::close_if_idle(self)
    }
}
