//! The journal of a mirror: commits that refs have left, and those that were fetched by their ids, with the
//! time. What they reach is kept for as long as an operator says, and gone after.
//!
//! A file of lines in the mirror's directory. It is synced before refs move, so a ref that has left
//! something without a line here has left it before there was a journal, or was moved by others.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use gix::ObjectId;

use super::error::MirrorError;
use crate::limits::{JOURNAL_BYTES_MAX, JOURNAL_TIPS_MAX};

/// The file's name.
pub(super) const NAME: &str = "tarpon-journal";

/// What refs have left, and when last, in milliseconds since 1970.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Journal(BTreeMap<ObjectId, u64>);

fn path(mirror: &Path) -> PathBuf {
    mirror.join(NAME)
}

/// Held while a mirror's file is written: what one adds another must not lose.
type Writing = Mutex<()>;

/// That of one mirror. Another's disk may take its time.
fn writing(mirror: &Path) -> Arc<Writing> {
    static ALL: Mutex<BTreeMap<PathBuf, Weak<Writing>>> = Mutex::new(BTreeMap::new());
    let mut all = ALL.lock().unwrap_or_else(PoisonError::into_inner);
    all.retain(|_, writing| writing.strong_count() > 0);
    let known = all.get(mirror).and_then(Weak::upgrade);
    known.unwrap_or_else(|| {
        let writing = Arc::default();
        all.insert(mirror.to_owned(), Arc::downgrade(&writing));
        writing
    })
}

/// Adds tips. They are on the disk when this returns.
pub(super) fn add(
    mirror: &Path,
    tips: &BTreeSet<ObjectId>,
    unix_ms: u64,
) -> Result<(), MirrorError> {
    if tips.is_empty() {
        return Ok(());
    }
    let writing = writing(mirror);
    let _writing = writing.lock().unwrap_or_else(PoisonError::into_inner);
    let path = path(mirror);
    let lines: String = tips
        .iter()
        .map(|tip| format!("{unix_ms} {tip}\n"))
        .collect();
    let append = || -> io::Result<()> {
        let is_new = !path.exists();
        let mut file = File::options().create(true).append(true).open(&path)?;
        // Behind a line that a power cut has cut off.
        file.write_all(format!("\n{lines}").as_bytes())?;
        file.sync_data()?;
        match is_new {
            true => File::open(mirror)?.sync_all(),
            false => Ok(()),
        }
    };
    append().map_err(|source| MirrorError::io("write", &path, source))?;
    let is_long = std::fs::metadata(&path).is_ok_and(|found| found.len() > JOURNAL_BYTES_MAX);
    match is_long {
        true => read(mirror)?.unwrap_or_default().write(mirror),
        false => Ok(()),
    }
}

/// Makes the journal of a fresh clone: all that it has is reached, so nobody has to look.
pub(super) fn begin(mirror: &Path) -> Result<(), MirrorError> {
    forget_before(mirror, 0, u64::MAX)
}

/// Forgets those that are older; those that lie ahead of `now_unix_ms`, from a clock that was wrong, are of
/// now. From here on there is a journal.
pub(super) fn forget_before(
    mirror: &Path,
    unix_ms: u64,
    now_unix_ms: u64,
) -> Result<(), MirrorError> {
    let writing = writing(mirror);
    let _writing = writing.lock().unwrap_or_else(PoisonError::into_inner);
    let before = read(mirror)?;
    let mut after = before.clone().unwrap_or_default();
    after.0.retain(|_, at| *at >= unix_ms);
    after
        .0
        .values_mut()
        .for_each(|at| *at = (*at).min(now_unix_ms));
    match before.as_ref() == Some(&after) {
        true => Ok(()),
        false => after.write(mirror),
    }
}

/// Reads the journal, if there is one. Lines that make no sense are left out: a power cut leaves such.
pub(super) fn read(mirror: &Path) -> Result<Option<Journal>, MirrorError> {
    let path = path(mirror);
    let failed = |source| MirrorError::io("read", &path, source);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut journal = BTreeMap::new();
    // Twice: it can be longer for a moment.
    let lines = BufReader::new(file.take(2 * JOURNAL_BYTES_MAX)).split(b'\n');
    for line in lines {
        let line = line.map_err(failed)?;
        let Ok(line) = std::str::from_utf8(&line) else {
            continue;
        };
        let Some((unix_ms, id)) = line.split_once(' ') else {
            continue;
        };
        if let (Ok(unix_ms), Ok(id)) = (unix_ms.parse(), ObjectId::from_hex(id.as_bytes())) {
            let last: &mut u64 = journal.entry(id).or_default();
            *last = (*last).max(unix_ms);
        }
    }
    Ok(Some(Journal(journal)))
}

impl Journal {
    /// Those that are not older.
    pub(super) fn since(&self, unix_ms: u64) -> BTreeSet<ObjectId> {
        let young = self.0.iter().filter(|(_, at)| **at >= unix_ms);
        young.map(|(id, _)| *id).collect()
    }

    /// When the oldest was added.
    pub(super) fn oldest(&self) -> Option<u64> {
        self.0.values().min().copied()
    }

    /// Puts this in the place of what is on the disk. Of too many the oldest are left out.
    fn write(&self, mirror: &Path) -> Result<(), MirrorError> {
        let mut tips = Vec::from_iter(&self.0);
        tips.sort_by_key(|(_, at)| std::cmp::Reverse(**at));
        tips.truncate(JOURNAL_TIPS_MAX);
        let path = path(mirror);
        let write = || -> io::Result<()> {
            let mut file = tempfile::Builder::new()
                .prefix("tmp_journal_")
                .tempfile_in(mirror)?;
            let lines: String = tips.iter().map(|(id, at)| format!("{at} {id}\n")).collect();
            file.write_all(lines.as_bytes())?;
            file.as_file().sync_all()?;
            file.persist(&path).map_err(|error| error.error)?;
            File::open(mirror)?.sync_all()
        };
        write().map_err(|source| MirrorError::io("write", &path, source))
    }
}

/// What refs have left first. Packs of somebody else that come into a mirror are dated so: they keep nothing of what was
/// left for longer than its own packs would. `None` where nothing was left.
pub(super) fn oldest_left(mirror: &Path) -> Result<Option<SystemTime>, MirrorError> {
    let oldest = read(mirror)?.and_then(|journal| journal.oldest());
    Ok(oldest.map(|ms| SystemTime::UNIX_EPOCH + Duration::from_millis(ms)))
}

/// Makes all of it so much older.
#[cfg(test)]
pub(super) fn shift(mirror: &Path, by_ms: u64) {
    if let Some(mut journal) = read(mirror).unwrap() {
        journal.0.values_mut().for_each(|at| *at -= by_ms);
        journal.write(mirror).unwrap();
    }
}

/// The same the other way.
#[cfg(test)]
pub(super) fn shift_ahead(mirror: &Path, by_ms: u64) {
    if let Some(mut journal) = read(mirror).unwrap() {
        journal.0.values_mut().for_each(|at| *at += by_ms);
        journal.write(mirror).unwrap();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(byte: u8) -> ObjectId {
        ObjectId::from_bytes_or_panic(&[byte; 20])
    }

    #[test]
    fn it_says_when_tips_were_left_last() {
        let dir = tempfile::tempdir().unwrap();
        let mirror = dir.path();
        assert_eq!(read(mirror).unwrap(), None);
        add(mirror, &BTreeSet::new(), 1).unwrap();
        assert!(!path(mirror).exists());
        add(mirror, &BTreeSet::from([id(1), id(2)]), 10).unwrap();
        add(mirror, &BTreeSet::from([id(2), id(3)]), 20).unwrap();
        let now = || read(mirror).unwrap().unwrap();
        assert_eq!(now().since(11), BTreeSet::from([id(2), id(3)]));
        assert_eq!(now().oldest(), Some(10));
        forget_before(mirror, 11, u64::MAX).unwrap();
        assert_eq!(now().since(0), BTreeSet::from([id(2), id(3)]));
        assert_eq!(now().oldest(), Some(20));
        // What a power cut leaves.
        let mut file = File::options().append(true).open(path(mirror)).unwrap();
        file.write_all(b"30 0404\0\xff\n7").unwrap();
        add(mirror, &BTreeSet::from([id(4)]), 40).unwrap();
        assert_eq!(now().since(0), BTreeSet::from([id(2), id(3), id(4)]));
    }

    #[test]
    fn a_slow_disk_is_waited_for_by_its_own_mirror_only() {
        let (slow, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let held = writing(slow.path());
        let held = held.lock().unwrap();
        add(other.path(), &BTreeSet::from([id(1)]), 10).unwrap();
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| add(slow.path(), &BTreeSet::from([id(2)]), 10));
            std::thread::sleep(std::time::Duration::from_millis(50));
            assert!(!waits.is_finished(), "two write at the same time");
            drop(held);
            waits.join().unwrap().unwrap();
        });
        let written = read(slow.path()).unwrap().unwrap();
        assert_eq!(written.since(0), BTreeSet::from([id(2)]));
    }

    #[test]
    fn it_does_not_grow_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let mirror = dir.path();
        for round in 0..40 {
            let ids = (0..JOURNAL_TIPS_MAX as u64 / 10).map(|n| {
                let mut bytes = [0; 20];
                bytes[..8].copy_from_slice(&(n + round * 1_000_000).to_be_bytes());
                ObjectId::from_bytes_or_panic(&bytes)
            });
            add(mirror, &ids.collect(), round).unwrap();
        }
        let journal = read(mirror).unwrap().unwrap();
        assert!(journal.0.len() <= 2 * JOURNAL_TIPS_MAX);
        assert!(std::fs::metadata(path(mirror)).unwrap().len() <= JOURNAL_BYTES_MAX);
        assert_eq!(journal.since(39).len(), JOURNAL_TIPS_MAX / 10, "the newest");
    }
}
