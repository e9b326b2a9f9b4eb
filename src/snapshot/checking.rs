//! A check of packs that runs beside their build: whether it may go on, how far it has come, and what came
//! of it.

use std::io;
use std::path::PathBuf;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::limits::TURN_MS;

/// A file of a pack that is not as git wrote it.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    #[error("cannot read {}: {source}", .path.display())]
    Io { path: PathBuf, source: io::Error },
    /// By its name: the path is that of a link, which is gone when somebody reads this.
    #[error(
        "{} of the mirror is damaged, it does not match its own checksums; it is \
         checked and, if it has rotted, cloned anew by itself", .name.display()
    )]
    Damaged { name: PathBuf },
    #[error("cannot check the packs: {0}")]
    Thread(#[source] io::Error),
    #[error("the check of the packs panicked: {0}")]
    Panicked(String),
}

/// Whether a check may go on.
#[derive(Debug, Default)]
pub struct Gate {
    way: Mutex<Way>,
    changed: Condvar,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Way {
    #[default]
    Open,
    /// Its build has no turn.
    Closed,
    /// Nobody wants to know any more; for good.
    Stopped,
}

impl Gate {
    /// Lets the check go on.
    pub fn open(&self) {
        self.set(Way::Open);
    }

    /// Has the check rest.
    pub fn close(&self) {
        self.set(Way::Closed);
    }

    pub(super) fn set(&self, to: Way) {
        let mut way = self.way.lock().unwrap_or_else(PoisonError::into_inner);
        if *way != Way::Stopped {
            *way = to;
        }
        drop(way);
        self.changed.notify_all();
    }

    /// Waits until the check may go on; whether it is to.
    pub(super) fn passes(&self) -> bool {
        let way = self.way.lock().unwrap_or_else(PoisonError::into_inner);
        let way = self.changed.wait_while(way, |way| *way == Way::Closed);
        *way.unwrap_or_else(PoisonError::into_inner) == Way::Open
    }

    pub(super) fn is_stopped(&self) -> bool {
        *self.way.lock().unwrap_or_else(PoisonError::into_inner) == Way::Stopped
    }
}

/// How far a check has come: no byte of a pack leaves before it was looked at, for the archive's tag
/// promises what the sound pack has.
#[derive(Debug, Default)]
pub struct Progress {
    reached: Mutex<Reached>,
    changed: Condvar,
}

/// Invariant: the files before number `file` are sound, and of that one the first `bytes`.
#[derive(Debug, Default)]
struct Reached {
    file: usize,
    bytes: u64,
    /// What came of it, once it has ended; `None` where somebody has taken that already, or after a panic.
    ended: Option<Option<Result<(), VerifyError>>>,
}

impl Progress {
    fn lock(&self) -> MutexGuard<'_, Reached> {
        self.reached.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn reach(&self, bytes: u64) {
        let mut reached = self.lock();
        reached.bytes = reached.bytes.max(bytes);
        drop(reached);
        self.changed.notify_all();
    }

    pub(super) fn next_file(&self) {
        let mut reached = self.lock();
        (reached.file, reached.bytes) = (reached.file + 1, 0);
        drop(reached);
        self.changed.notify_all();
    }

    pub(super) fn end(&self, with: Option<Result<(), VerifyError>>) {
        self.lock().ended = Some(with);
        self.changed.notify_all();
    }

    /// Waits, for the time of a turn, until file number `file` was found to be sound as far as `bytes`;
    /// whether it was. An error is that of the check. `meanwhile` is done first if it was not yet.
    pub fn wait_for(
        &self,
        file: usize,
        bytes: u64,
        meanwhile: impl FnOnce(),
    ) -> Result<bool, VerifyError> {
        let is_there = |r: &Reached| r.file > file || r.file == file && r.bytes >= bytes;
        if !is_there(&self.lock()) {
            meanwhile();
        }
        self.wait(is_there)
    }

    /// The same until the check has ended.
    pub fn wait_for_end(&self) -> Result<bool, VerifyError> {
        self.wait(|_| false)
    }

    fn wait(&self, is_there: impl Fn(&Reached) -> bool) -> Result<bool, VerifyError> {
        let time = Duration::from_millis(TURN_MS);
        let still = |r: &mut Reached| r.ended.is_none() && !is_there(r);
        let waited = self.changed.wait_timeout_while(self.lock(), time, still);
        let (mut reached, _) = waited.unwrap_or_else(PoisonError::into_inner);
        match &mut reached.ended {
            None => Ok(is_there(&reached)),
            Some(Some(Ok(()))) => Ok(true),
            Some(ended) => Err(match ended.take() {
                Some(Err(e)) => e,
                _ => VerifyError::Panicked("it has ended without a result".into()),
            }),
        }
    }
}

/// Notes the end of a check however that ends.
pub(super) struct EndOnDrop<'p>(
    pub(super) &'p Progress,
    pub(super) Option<Result<(), VerifyError>>,
);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.end(self.1.take());
    }
}
