//! What is known between the tries of an adoption, and what these have downloaded: it is not downloaded once more.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::io::unkept::Unkept;
use crate::limits::{ADOPTION_KEPT_MS, ADOPTION_WAIT_DOUBLED_MAX};
use crate::store::remote::entry::{EntryError, Incoming};

/// How the packs that a head names take the place of a server's own.
#[derive(Debug, Default)]
pub(super) struct Adoption {
    /// The last shared archive that this server has had, or of which it has taken all packs.
    pub(super) had: Option<String>,
    /// One whose packs lack too much of what is here.
    refused: Option<String>,
    /// What whoever is at it holds.
    at_it: Weak<()>,
    /// The last tries, if they were in vain.
    vain: Option<Vain>,
    /// What they have downloaded.
    kept: Option<KeptPacks>,
    /// What whoever takes over files of the same archive holds.
    at_files: Weak<()>,
    /// They are not taken over before.
    files_again: Option<Instant>,
}

/// Tries to take over the packs of one archive.
#[derive(Debug)]
struct Vain {
    id: String,
    /// So many in a row that have brought nothing, and the one before.
    count: u32,
    /// When the last one has ended.
    ended: Instant,
}

impl Vain {
    fn is_over(&self, id: &str, wait: Duration) -> bool {
        let doubled = match self.id == id {
            true => self.count.saturating_sub(1).min(ADOPTION_WAIT_DOUBLED_MAX),
            false => 0,
        };
        self.ended.elapsed() >= wait.saturating_mul(1 << doubled)
    }
}

impl Adoption {
    /// Whether that of an archive is to begin; if so it has, for as long as what this gives is there. After one that was in
    /// vain it does not for so long, and longer with each.
    pub(super) fn begin(&mut self, id: &str, wait: Duration) -> Option<Rc<()>> {
        let is_it = |other: &Option<String>| other.as_deref() == Some(id);
        let is_late = self.vain.as_ref().is_none_or(|vain| vain.is_over(id, wait));
        if self.at_it.strong_count() > 0 || !is_late || is_it(&self.had) || is_it(&self.refused) {
            return None;
        }
        let before = self.vain.take().filter(|vain| vain.id == id);
        // One that never comes to its end was in vain, too.
        self.vain = Some(Vain {
            id: id.to_owned(),
            count: before.map_or(1, |vain| vain.count.saturating_add(1)),
            ended: Instant::now(),
        });
        let at_it = Rc::new(());
        self.at_it = Rc::downgrade(&at_it);
        Some(at_it)
    }

    /// What earlier tries have downloaded, for one that takes it along.
    pub(super) fn take_kept(&mut self) -> Option<KeptPacks> {
        self.kept.take().map(|kept| KeptPacks {
            is_more: false,
            ..kept
        })
    }

    /// What is kept, if that is to leave: it is old, or there is no room.
    pub(super) fn leave_kept(&mut self, is_room_needed: bool) -> Option<KeptPacks> {
        let kept = Duration::from_millis(ADOPTION_KEPT_MS);
        let leaves = |it: &mut KeptPacks| is_room_needed || it.begun.elapsed() >= kept;
        self.kept.take_if(leaves)
    }

    /// Whether files are to be taken over now; if so that has begun, for as long as what this gives is there.
    pub(super) fn begin_files(&mut self) -> Option<Rc<()>> {
        let is_late = self.files_again.is_none_or(|again| again <= Instant::now());
        if self.at_files.strong_count() > 0 || !is_late {
            return None;
        }
        let at_files = Rc::new(());
        self.at_files = Rc::downgrade(&at_files);
        Some(at_files)
    }

    /// They are taken over no sooner than that, for it was in vain; else at any time.
    pub(super) fn end_files(&mut self, again: Option<Instant>) {
        self.files_again = again;
    }

    /// The mirror has the packs of an archive.
    pub(super) fn done(&mut self, id: String) {
        (self.had, self.vain) = (Some(id), None);
    }

    /// Those of an archive lack too much.
    pub(super) fn refused(&mut self, id: String) {
        (self.refused, self.vain) = (Some(id), None);
    }

    /// It is tried again, with what has come.
    pub(super) fn in_vain(&mut self, kept: Option<KeptPacks>) {
        if let Some(vain) = &mut self.vain {
            vain.ended = Instant::now();
            if kept.as_ref().is_some_and(|kept| kept.is_more) {
                vain.count = 1;
            }
        }
        self.kept = kept;
    }
}

/// Files of packs on their way into a mirror, in a directory that goes with this.
#[derive(Debug)]
pub(super) struct KeptPacks {
    /// What is left of it is removed beside the plane.
    home: Unkept<TempDir>,
    begun: Instant,
    /// By their names.
    files: HashMap<String, Coming>,
    /// Something has come since it was taken along.
    is_more: bool,
}

/// One of them.
#[derive(Debug)]
struct Coming {
    bytes: u64,
    /// What has come and was compared with its checksums: where each stretch begins, and where it ends.
    there: BTreeMap<u64, u64>,
    /// All of it is what its name says.
    is_checked: bool,
}

impl Coming {
    fn there_bytes(&self) -> u64 {
        self.there.iter().map(|(start, end)| end - start).sum()
    }
}

/// Where one is written, and whether something of it is there.
pub(super) struct Begun {
    path: PathBuf,
    bytes: u64,
    has_some: bool,
}

impl Begun {
    /// Opens or makes it. May wait for the disk.
    pub(super) fn open_or_make(self) -> Result<Incoming, EntryError> {
        if self.has_some {
            return Incoming::again(self.path, self.bytes);
        }
        // What is there is of another length, or wrong; mostly nothing is.
        let _ = fs::remove_file(&self.path);
        Incoming::make(self.path, self.bytes)
    }
}

impl KeptPacks {
    /// None yet, below a directory in the file system of the mirror.
    pub(super) fn make_in(tmp: &Path) -> io::Result<KeptPacks> {
        // The next start removes what is there.
        let home = tempfile::Builder::new().prefix("packs-").tempdir_in(tmp)?;
        Ok(KeptPacks {
            home: Unkept::new(home),
            begun: Instant::now(),
            files: HashMap::new(),
            is_more: false,
        })
    }

    /// Where a file is.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        let home = self.home.get().map_or(Path::new(""), TempDir::path);
        home.join(name)
    }

    /// Keeps those of these names and lengths; gives where others are, which are to be removed.
    pub(super) fn retain(&mut self, wanted: &BTreeMap<String, u64>) -> Vec<PathBuf> {
        let is_other = |name: &String, file: &mut Coming| wanted.get(name) != Some(&file.bytes);
        let others = self.files.extract_if(is_other);
        let names: Vec<String> = others.map(|(name, _)| name).collect();
        names.iter().map(|name| self.path(name)).collect()
    }

    /// How much of these has not come.
    pub(super) fn missing_bytes(&self, wanted: &BTreeMap<String, u64>) -> u64 {
        let there = |name: &String| self.files.get(name).map_or(0, Coming::there_bytes);
        let missing = wanted.iter().map(|(name, bytes)| bytes - there(name));
        missing.fold(0, u64::saturating_add)
    }

    /// Where one is to be written, if not all of it has come.
    pub(super) fn begun(&mut self, name: &str, bytes: u64) -> Option<Begun> {
        let path = self.path(name);
        let file = self.files.entry(name.to_owned());
        let file = file.or_insert_with(|| Coming {
            bytes,
            there: BTreeMap::new(),
            is_checked: false,
        });
        (file.there_bytes() < bytes).then_some(Begun {
            path,
            bytes,
            has_some: !file.there.is_empty(),
        })
    }

    /// Whether a stretch of one has come.
    pub(super) fn has(&self, name: &str, range: &Range<u64>) -> bool {
        let file = self.files.get(name);
        let before = file.and_then(|file| file.there.range(..=range.start).next_back());
        before.is_some_and(|(_, end)| *end >= range.end)
    }

    /// It has come.
    pub(super) fn note(&mut self, name: &str, range: &Range<u64>) {
        let Some(file) = self.files.get_mut(name) else {
            return;
        };
        let (mut start, mut end) = (range.start, range.end);
        // Those that it touches are one with it.
        while let Some((first, last)) = file.there.range(..=end).next_back().map(|(a, b)| (*a, *b))
            && last >= start
        {
            (start, end) = (start.min(first), end.max(last));
            file.there.remove(&first);
        }
        file.there.insert(start, end);
        self.is_more = true;
    }

    /// Those of these of which nobody has seen whether they are what their names say.
    pub(super) fn unchecked(&self, wanted: &BTreeMap<String, u64>) -> Vec<PathBuf> {
        let is_checked = |name: &&String| self.files.get(*name).is_some_and(|it| it.is_checked);
        let names = wanted.keys().filter(|name| !is_checked(name));
        names.map(|name| self.path(name)).collect()
    }

    /// They are.
    pub(super) fn note_checked(&mut self, wanted: &BTreeMap<String, u64>) {
        for (name, file) in &mut self.files {
            file.is_checked |= wanted.contains_key(name);
        }
    }

    /// One is not what it should be, or cannot be opened.
    pub(super) fn forget(&mut self, name: &str) {
        self.files.remove(name);
    }

    /// Nothing of it can be relied on.
    pub(super) fn forget_all(&mut self) {
        self.files.clear();
    }

    /// Waits for the disk.
    pub(super) fn remove(self) {
        drop(self.home.take());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    /// So that one that panics keeps nobody from trying again.
    #[test]
    fn one_is_at_it_for_as_long_as_it_lives() {
        let mut adoption = Adoption::default();
        let first = adoption.begin("a", Duration::ZERO).unwrap();
        assert!(adoption.begin("a", Duration::ZERO).is_none());
        assert!(adoption.begin("b", Duration::ZERO).is_none());
        drop(first);
        // It was in vain, though nobody has said so.
        assert!(adoption.begin("a", MINUTE).is_none());
        assert!(adoption.begin("a", Duration::ZERO).is_some());
        adoption.done("a".into());
        assert!(adoption.begin("a", Duration::ZERO).is_none());
        adoption.refused("b".into());
        assert!(adoption.begin("b", Duration::ZERO).is_none());
        assert!(adoption.begin("c", MINUTE).is_some(), "nothing was in vain");
    }

    #[test]
    fn the_wait_doubles_for_one_archive() {
        let vain = |count, ago: u32| Vain {
            id: "a".into(),
            count,
            ended: Instant::now().checked_sub(MINUTE * ago).unwrap(),
        };
        for (count, minutes) in [(1, 1), (2, 2), (3, 4), (4, 8), (5, 16), (6, 16), (99, 16)] {
            assert!(vain(count, minutes).is_over("a", MINUTE), "{count}");
            assert!(!vain(count, minutes - 1).is_over("a", MINUTE), "{count}");
            assert!(vain(count, 1).is_over("b", MINUTE), "another one");
            assert!(!vain(count, 0).is_over("b", MINUTE), "another one, at once");
        }
        let mut adoption = Adoption::default();
        let count = |adoption: &Adoption| adoption.vain.as_ref().unwrap().count;
        for expected in 1..4 {
            drop(adoption.begin("a", Duration::ZERO));
            adoption.in_vain(None);
            assert_eq!(count(&adoption), expected);
        }
        drop(adoption.begin("b", Duration::ZERO));
        assert_eq!(count(&adoption), 1);
        // Who brings something does not wait longer and longer.
        let dir = tempfile::tempdir().unwrap();
        for is_more in [true, true, false] {
            drop(adoption.begin("b", Duration::ZERO));
            let mut kept = KeptPacks::make_in(dir.path()).unwrap();
            kept.is_more = is_more;
            adoption.in_vain(Some(kept));
            assert_eq!(count(&adoption), if is_more { 1 } else { 2 });
            assert!(!adoption.take_kept().unwrap().is_more);
        }
    }

    #[test]
    fn what_is_kept_leaves_once_it_is_old_or_there_is_no_room() {
        let dir = tempfile::tempdir().unwrap();
        let mut adoption = Adoption::default();
        let keep = |adoption: &mut Adoption, ago_ms: u64| {
            let mut kept = KeptPacks::make_in(dir.path()).unwrap();
            let ago = Duration::from_millis(ago_ms);
            kept.begun = kept.begun.checked_sub(ago).unwrap();
            adoption.in_vain(Some(kept));
        };
        keep(&mut adoption, 0);
        assert!(adoption.leave_kept(false).is_none());
        adoption.leave_kept(true).unwrap().remove();
        keep(&mut adoption, ADOPTION_KEPT_MS);
        adoption.leave_kept(false).unwrap().remove();
        assert!(adoption.take_kept().is_none());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_has_come_is_known_by_its_stretches() {
        let dir = tempfile::tempdir().unwrap();
        let mut kept = KeptPacks::make_in(dir.path()).unwrap();
        let wanted = BTreeMap::from([("a".to_owned(), 100), ("b".to_owned(), 10)]);
        let begun = kept.begun("a", 100).unwrap();
        begun.open_or_make().unwrap().put(&[7; 10], 20).unwrap();
        assert_eq!(kept.missing_bytes(&wanted), 110);
        for range in [20..30, 60..70, 30..40, 0..20] {
            assert!(!kept.has("a", &range), "{range:?}");
            kept.note("a", &range);
            assert!(kept.has("a", &range), "{range:?}");
        }
        assert!(kept.has("a", &(5..35)) && !kept.has("a", &(35..65)));
        assert_eq!(kept.missing_bytes(&wanted), 60);
        // It goes on where it was.
        let again = kept.begun("a", 100).unwrap().open_or_make().unwrap();
        again.put(&[8; 60], 40).unwrap();
        kept.note("a", &(40..100));
        assert!(kept.begun("a", 100).is_none(), "it is whole");
        assert_eq!(fs::read(kept.path("a")).unwrap()[20..30], [7; 10]);
        assert_eq!(kept.missing_bytes(&wanted), 10);
        // What is no more wanted, or is another, goes.
        let others = kept.retain(&BTreeMap::from([("a".to_owned(), 99)]));
        assert_eq!(others, [kept.path("a")]);
        assert!(!kept.has("a", &(0..1)));
        // One that is begun anew has nothing of the one before.
        let anew = kept.begun("a", 5).unwrap().open_or_make().unwrap();
        drop(anew);
        assert_eq!(fs::read(kept.path("a")).unwrap(), [0; 5]);
        drop(kept);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
