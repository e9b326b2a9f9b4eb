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
    archives: Mutex<Vec<One>>,
}

/// One of them.
struct One {
    /// When it was replaced.
    since: Instant,
    archive: Arc<Archive>,
    /// Its upstream does not give out any more what is in it: those who read it do so to the end, and nobody
    /// begins again.
    is_refused: bool,
}

impl Retired {
    fn lock(&self) -> MutexGuard<'_, Vec<One>> {
        self.archives.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has an archive removed that is no repository's current one any more, once nobody has read
    /// it for a while.
    pub(crate) fn add(&self, archive: Arc<Archive>) {
        self.put(archive, false);
    }

    /// The same for one that may not be served to anybody who asks from here on, by whatever name.
    pub(crate) fn add_refused(&self, archive: Arc<Archive>) {
        self.put(archive, true);
    }

    fn put(&self, archive: Arc<Archive>, is_refused: bool) {
        let since = Instant::now();
        self.lock().push(One {
            since,
            archive,
            is_refused,
        });
    }

    /// The same for all that there are of a repository.
    pub(crate) fn refuse(&self, repository: &str) {
        let mut archives = self.lock();
        let of_it = archives
            .iter_mut()
            .filter(|one| *one.archive.repository == *repository);
        of_it.for_each(|one| one.is_refused = true);
    }

    /// Forgets the one in whose place this archive's entry is now: nothing is left of its own to be read or
    /// removed, and who asks for it by its tag is to find what came after it.
    pub(crate) fn replaced_by(&self, archive: &Archive) {
        let mut archives = self.lock();
        archives.retain(|one| one.archive.id != archive.id);
    }

    /// Closes the files of those that nobody reads: whoever does is to have them opened again.
    pub(crate) fn close_idle(&self) {
        let archives: Vec<_> = {
            let archives = self.lock();
            archives.iter().map(|one| one.archive.clone()).collect()
        };
        for archive in archives {
            archive.close_if_idle();
        }
    }

    /// All of them.
    pub(crate) fn all(&self) -> Vec<Arc<Archive>> {
        let archives = self.lock();
        archives.iter().map(|one| one.archive.clone()).collect()
    }

    /// Takes one out that nobody reads; whether it was among them.
    pub(crate) fn take_idle(&self, archive: &Arc<Archive>) -> bool {
        archive.fanout.readers() == 0 && self.take(archive)
    }

    /// An archive that was retired and is still there. It counts as used from here on.
    pub(crate) fn find(&self, is_it: impl Fn(&Arc<Archive>) -> bool) -> Option<Arc<Archive>> {
        let archives = self.lock();
        let mut resumable = archives.iter().filter(|one| !one.is_refused);
        let found = resumable.find(|one| is_it(&one.archive))?;
        found.archive.touch();
        Some(found.archive.clone())
    }

    /// Takes one out of them; whether it was among them.
    pub(crate) fn take(&self, archive: &Arc<Archive>) -> bool {
        let mut archives = self.lock();
        let before = archives.len();
        archives.retain(|one| !Arc::ptr_eq(&one.archive, archive));
        archives.len() < before
    }

    /// Takes out the retired archives that nobody reads or has read for `kept_ms`, or that were replaced
    /// [`RETIRED_MAX_MS`] ago, however often somebody asks for them. Of whose parts somebody was told stay for so
    /// long: he may come for any of them.
    pub(crate) fn take_over(&self, kept_ms: u64) -> Vec<Arc<Archive>> {
        let now = unix_ms();
        let longest = Duration::from_millis(RETIRED_MAX_MS);
        let is_over = |one: &mut One| {
            let unused_ms = now.saturating_sub(one.archive.last_used_unix_ms());
            let is_left = unused_ms >= kept_ms && !one.archive.is_known_by_parts();
            let is_old = is_left || one.since.elapsed() >= longest;
            one.archive.fanout.readers() == 0 && is_old
        };
        let mut archives = self.lock();
        let over = archives.extract_if(.., is_over);
        over.map(|one| one.archive).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repos::testing::archive;

    #[test]
    fn what_is_refused_is_found_by_nobody_and_still_removed() {
        let retired = Retired::default();
        retired.add(archive(1));
        let repository = retired.all()[0].repository.clone();
        retired.refuse("another/one");
        assert!(retired.find(|_| true).is_some());
        retired.refuse(&repository);
        assert!(retired.find(|_| true).is_none());
        assert_eq!(retired.all().len(), 1);
    }

    #[test]
    fn what_somebody_was_told_the_parts_of_stays_for_him() {
        let retired = Retired::default();
        let (told, other) = (archive(1), archive(2));
        told.note_told();
        retired.add(told.clone());
        retired.add(other);
        assert_eq!(retired.take_over(0).len(), 1);
        assert!(Arc::ptr_eq(&retired.all()[0], &told));
        assert!(retired.take_idle(&told), "where its room is needed it goes");
    }
}
