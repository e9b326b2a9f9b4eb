//! What answers began before their archives lately, of all repositories. Whoever had one may take its bytes for the
//! archive's, and ask for what follows them: also the next process, for which it is noted on the disk.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use sha2::{Digest, Sha256};

use super::early::is_kept;
use super::repo::Repo;
use crate::io::clock::unix_ms;
use crate::limits::EARLY_STEP_MS;
use crate::manifest::want::Named;
use crate::store::early::{EarlyFile, Noted, Of, Stand};
use crate::store::files::StoreError;

/// Names are clients' own, and may be long.
fn stands_for(digest: [u8; 32]) -> Stand {
    let mut stand = Stand::default();
    stand.copy_from_slice(&digest[..size_of::<Stand>()]);
    stand
}

fn stand_of(repo: &Repo) -> Stand {
    stands_for(Sha256::digest(repo.name.as_bytes()).into())
}

/// See the module's text.
pub(crate) struct EarlyNotes {
    before: HashMap<Of, u64>,
    file: Mutex<EarlyFile>,
    /// What is to be written.
    pending: Mutex<Vec<Noted>>,
}

impl EarlyNotes {
    /// With what is noted below this state directory.
    pub(super) fn open(root: &Path) -> EarlyNotes {
        let (file, lines) = EarlyFile::open(root, unix_ms());
        EarlyNotes {
            before: lines.into_iter().map(|one| (one.of, one.unix_ms)).collect(),
            file: Mutex::new(file),
            pending: Mutex::default(),
        }
    }

    /// An answer begins before its archive: its bytes are not at the offsets of the archive's. What is to be noted of
    /// that, unless it was a moment ago.
    pub(crate) fn set(&self, repo: &Repo, named: &Named) -> Option<Noted> {
        let (named, before) = repo.notes.early.set(stands_for(named.digest()));
        let repository = stand_of(repo);
        let of = named.map_or(Of::Repository(repository), |named| {
            Of::Named(repository, named)
        });
        let unix_ms = unix_ms();
        let is_news = unix_ms.saturating_sub(before) >= EARLY_STEP_MS;
        is_news.then_some(Noted { unix_ms, of })
    }

    /// Whether one did within [`EARLY_KEPT_MS`].
    pub(crate) fn was(&self, repo: &Repo, named: &Named) -> bool {
        let named = stands_for(named.digest());
        repo.notes.early.was(&named) || self.was_before(repo, named)
    }

    fn was_before(&self, repo: &Repo, named: Stand) -> bool {
        if self.before.is_empty() {
            return false;
        }
        let repository = stand_of(repo);
        let all = [
            Of::All,
            Of::Repository(repository),
            Of::Named(repository, named),
        ];
        let mut known = all.iter().filter_map(|of| self.before.get(of));
        // It is not noted at each step that the time since goes.
        known.any(|at| is_kept(*at, EARLY_STEP_MS))
    }

    /// Writes this, and what others want to have written; it is on the disk when this returns. Not on a core.
    pub(crate) fn write(&self, noted: Noted) -> Result<(), StoreError> {
        let pending = || self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        pending().push(noted);
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let lines = std::mem::take(&mut *pending());
        match lines.is_empty() {
            // By whoever had the file before.
            true => Ok(()),
            false => file.add(&lines, unix_ms()),
        }
    }
}
