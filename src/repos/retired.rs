//! Archives that a newer one has replaced. Downloads in parts go on with the archive that they began
//! with, so each stays for a while after its last reader.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::archive::place::Archive;
use crate::io::clock::unix_ms;
use crate::limits::RETIRED_MAX_MS;

/// See the module's text. Whoever takes one out removes its entry.
#[derive(Default)]
pub(crate) struct Retired {
    /// With the time when it was replaced.
    archives: Mutex<Vec<(Instant, Arc<Archive>)>>,
}

impl Retired {
    fn lock(&self) -> MutexGuard<'_, Vec<(Instant, Arc<Archive>)>> {
        self.archives.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has an archive removed that is no repository's current one any more, once nobody has read
    /// it for a while.
    pub(crate) fn add(&self, archive: Arc<Archive>) {
        let mut archives = self.lock();
        archives.push((Instant::now(), archive));
    }

    /// Forgets the one in whose place this archive's entry is now: nothing is left of its own to be read or
    /// removed, and who asks for it by its tag is to find what came after it.
    pub(crate) fn replaced_by(&self, archive: &Archive) {
        let mut archives = self.lock();
        archives.retain(|(_, one)| one.id != archive.id);
    }

    /// Closes the files of those that nobody reads: whoever does is to have them opened again.
    pub(crate) fn close_idle(&self) {
        let archives: Vec<_> = {
            let archives = self.lock();
            archives
                .iter()
                .map(|(_, archive)| archive.clone())
                .collect()
        };
        for archive in archives {
            archive.close_if_idle();
        }
    }

    /// All of them.
    pub(crate) fn all(&self) -> Vec<Arc<Archive>> {
        let archives = self.lock();
        archives
            .iter()
            .map(|(_, archive)| archive.clone())
            .collect()
    }

    /// Takes one out that nobody reads; whether it was among them.
    pub(crate) fn take_idle(&self, archive: &Arc<Archive>) -> bool {
        archive.fanout.readers() == 0 && self.take(archive)
    }

    /// An archive that was retired and is still there. It counts as used from here on.
    pub(crate) fn find(&self, is_it: impl Fn(&Arc<Archive>) -> bool) -> Option<Arc<Archive>> {
        let archives = self.lock();
        let (_, found) = archives.iter().find(|(_, archive)| is_it(archive))?;
        found.touch();
        Some(found.clone())
    }

    /// Takes one out of them; whether it was among them.
    pub(crate) fn take(&self, archive: &Arc<Archive>) -> bool {
        let mut archives = self.lock();
        let before = archives.len();
        archives.retain(|(_, one)| !Arc::ptr_eq(one, archive));
        archives.len() < before
    }

    /// Takes out the retired archives that nobody reads or has read for `kept_ms`, or that were replaced
    /// [`RETIRED_MAX_MS`] ago, however often somebody asks for them.
    pub(crate) fn take_over(&self, kept_ms: u64) -> Vec<Arc<Archive>> {
        let now = unix_ms();
        let longest = Duration::from_millis(RETIRED_MAX_MS);
        let is_over = |(since, archive): &mut (Instant, Arc<Archive>)| {
            let unused_ms = now.saturating_sub(archive.last_used_unix_ms());
            let is_old = unused_ms >= kept_ms || since.elapsed() >= longest;
            archive.fanout.readers() == 0 && is_old
        };
        let mut archives = self.lock();
        let over = archives.extract_if(.., is_over);
        over.map(|(_, archive)| archive).collect()
    }
}
