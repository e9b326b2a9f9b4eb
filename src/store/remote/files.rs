//! A directory as an object store, for the processes of one machine (or of one that all mount and that has locks).
//!
//! An object is a file. It appears by a rename, and is swapped under a lock, which is one file for all of the store: what
//! is swapped is small.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use sha2::{Digest, Sha256};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::key::RandomId;
use super::objects::{Condition, Content, Found, Listed, ObjectError, Objects, Page, Version};
use super::sums::SummedFile;
use crate::io::fs::{Fs, Os};
use crate::limits::{
    REMOTE_EXCHANGE_MS, REMOTE_PIECE_BYTES, REMOTE_SILENCE_MS, STORE_HEAD_BYTES_MAX,
    STORE_LISTED_MAX,
};

/// See the module's text.
#[derive(Debug, Clone)]
pub struct FileStore {
    dir: PathBuf,
}

/// Where files are before they have their names; the lock lies beside it.
const TMP: &str = "tmp";
const LOCK: &str = "lock";

/// A file in the making. It is locked for as long as somebody writes it, so that others can tell what was left behind;
/// dropped before it has its name, it goes.
struct Draft {
    path: PathBuf,
    file: File,
    is_named: bool,
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.is_named {
            // What stays is removed by who opens the store.
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl FileStore {
    /// The same for who changes nothing there.
    #[must_use]
    pub fn at(dir: &Path) -> FileStore {
        FileStore {
            dir: dir.to_owned(),
        }
    }

    /// What lies below a directory; a disk has it on one page.
    ///
    /// # Errors
    /// It cannot be listed.
    pub async fn page(&self, dir: &str) -> Result<Page, ObjectError> {
        let owned = dir.to_owned();
        let page = move |store: &FileStore| {
            let mut page = Page::default();
            for object in store.list_now(&owned)? {
                match fs::metadata(store.dir.join(&owned).join(&object.name)) {
                    Ok(found) if found.is_dir() => page.dirs.push(object.name),
                    _ => page.objects.push(object),
                }
            }
            Ok(page)
        };
        self.run(("list", dir), REMOTE_SILENCE_MS, page).await
    }

    /// The store in this directory, which is made when something is written. What others have left half written, who
    /// are not there any more, is removed.
    #[must_use]
    pub fn open(dir: &Path) -> FileStore {
        let store = FileStore::at(dir);
        for draft in fs::read_dir(store.dir.join(TMP))
            .into_iter()
            .flatten()
            .flatten()
        {
            let path = draft.path();
            if let Ok(file) = File::open(&path)
                && flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok()
            {
                // Somebody else may have removed it as well.
                let _ = fs::remove_file(&path);
            }
        }
        store
    }

    fn draft(&self) -> io::Result<Draft> {
        let tmp = self.dir.join(TMP);
        fs::create_dir_all(&tmp)?;
        loop {
            let path = tmp.join(RandomId::drawn()?.to_string());
            let file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .open(&path)?;
            let draft = Draft {
                path,
                file,
                is_named: false,
            };
            flock(&draft.file, FlockOperation::LockExclusive)?;
            // Who has opened the store just now may have taken it for left before it was locked.
            if draft.file.metadata()?.nlink() > 0 {
                return Ok(draft);
            }
        }
    }

    /// Has it appear under a key, and last.
    fn name(&self, mut draft: Draft, key: &str) -> io::Result<()> {
        draft.file.sync_all()?;
        let path = self.dir.join(key);
        let parent = path.parent().unwrap_or(&self.dir);
        fs::create_dir_all(parent)?;
        fs::rename(&draft.path, &path)?;
        draft.is_named = true;
        Os.sync(parent)
    }

    fn read(&self, key: &str, bytes_max: usize) -> io::Result<Option<Found>> {
        let file = match File::open(self.dir.join(key)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let mut bytes = Vec::new();
        file.take(bytes_max as u64 + 1).read_to_end(&mut bytes)?;
        if bytes.len() > bytes_max {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let version = version(&bytes);
        Ok(Some(Found { bytes, version }))
    }

    /// `None` if the condition does not hold.
    fn swap_now(
        &self,
        key: &str,
        bytes: &[u8],
        condition: &Condition,
    ) -> io::Result<Option<Version>> {
        let mut draft = self.draft()?;
        draft.file.write_all(bytes)?;
        let mut lock = OpenOptions::new();
        let lock = lock.write(true).create(true).truncate(false);
        let lock = lock.open(self.dir.join(LOCK))?;
        flock(&lock, FlockOperation::LockExclusive)?;
        let found = self.read(key, STORE_HEAD_BYTES_MAX)?;
        if !condition.holds_of(found.as_ref()) {
            return Ok(None);
        }
        self.name(draft, key)?;
        Ok(Some(version(bytes)))
    }

    fn list_now(&self, dir: &str) -> io::Result<Vec<Listed>> {
        let dir = self.dir.join(dir);
        let names = match Os.list(&dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
            listed => listed?,
        };
        if names.len() > STORE_LISTED_MAX {
            let what = format!("{} has more than {STORE_LISTED_MAX} files", dir.display());
            return Err(io::Error::other(what));
        }
        let mut listed = Vec::with_capacity(names.len());
        for name in names {
            match fs::metadata(dir.join(&name)) {
                // It has left meanwhile.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                found => listed.push(Listed {
                    bytes: found?.len(),
                    name,
                }),
            }
        }
        Ok(listed)
    }

    /// Runs what blocks beside the plane. A disk that does not answer is left: its thread ends when it does.
    async fn run<T: Send + 'static>(
        &self,
        (op, key): (&'static str, &str),
        limit_ms: u64,
        work: impl FnOnce(&FileStore) -> io::Result<T> + Send + 'static,
    ) -> Result<T, ObjectError> {
        let store = self.clone();
        let done = spawn_blocking(move || work(&store));
        let done = match timeout(Duration::from_millis(limit_ms), done).await {
            Ok(done) => done.unwrap_or_else(|panic| Err(io::Error::other(panic))),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        };
        done.map_err(|source| ObjectError::Failed {
            op,
            key: self.dir.join(key).display().to_string(),
            source: source.into(),
        })
    }

    /// Copies a file piece by piece, so that one on a slow disk may be as long as it is.
    async fn copy(
        &self,
        key: &str,
        file: &SummedFile,
        mut draft: Draft,
    ) -> Result<Draft, ObjectError> {
        let what = ("upload", key);
        let local = |source| ObjectError::Local {
            key: key.to_owned(),
            source,
        };
        let (owned, limit_ms) = (file.clone(), REMOTE_SILENCE_MS);
        let opened = self.run(what, limit_ms, move |_| Ok(owned.open()));
        let from = Arc::new(opened.await?.map_err(local)?);
        let (bytes, mut at) = (file.pieces.bytes, 0);
        while at < bytes {
            let end = bytes.min(at + REMOTE_PIECE_BYTES);
            let (file, from) = (file.clone(), from.clone());
            let copied = self.run(what, REMOTE_EXCHANGE_MS, move |_| {
                Ok(match file.read(&from, at..end) {
                    Ok(piece) => {
                        draft.file.write_all(&piece)?;
                        Ok(draft)
                    }
                    Err(why) => Err(why),
                })
            });
            draft = copied.await?.map_err(local)?;
            at = end;
        }
        Ok(draft)
    }
}

/// What is swapped has a random number in it, so no content ever comes again.
fn version(bytes: &[u8]) -> Version {
    let digest: [u8; 32] = Sha256::digest(bytes).into();
    Version(digest.iter().map(|byte| format!("{byte:02x}")).collect())
}

impl Objects for FileStore {
    type Content = Content;

    async fn swap(
        &self,
        key: &str,
        bytes: Vec<u8>,
        condition: &Condition,
    ) -> Result<Version, ObjectError> {
        let (op, owned, condition) = ("write", key.to_owned(), condition.clone());
        let swap = move |store: &FileStore| store.swap_now(&owned, &bytes, &condition);
        let swapped = self.run((op, key), REMOTE_SILENCE_MS, swap).await?;
        let key = key.to_owned();
        swapped.ok_or(ObjectError::Refused { op, key })
    }

    async fn upload(&self, key: &str, content: &Content) -> Result<(), ObjectError> {
        let (what, owned) = (("upload", key), key.to_owned());
        let mut draft = self.run(what, REMOTE_SILENCE_MS, FileStore::draft).await?;
        match content {
            Content::File(file) => draft = self.copy(key, file, draft).await?,
            Content::Bytes(bytes) => {
                let bytes = bytes.clone();
                let write = move |_: &FileStore| draft.file.write_all(&bytes).map(|()| draft);
                draft = self.run(what, REMOTE_EXCHANGE_MS, write).await?;
            }
        }
        // All of it has to be on the disk.
        let name = move |store: &FileStore| store.name(draft, &owned);
        self.run(what, REMOTE_EXCHANGE_MS, name).await
    }

    async fn get(&self, key: &str, bytes_max: usize) -> Result<Option<Found>, ObjectError> {
        let (op, owned) = ("read", key.to_owned());
        let read = move |store: &FileStore| match store.read(&owned, bytes_max) {
            Err(e) if e.kind() == io::ErrorKind::FileTooLarge => Ok(Err(())),
            found => found.map(Ok),
        };
        let found = self.run((op, key), REMOTE_SILENCE_MS, read).await?;
        let key = key.to_owned();
        found.map_err(|()| ObjectError::TooLong { op, key, bytes_max })
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Vec<u8>, ObjectError> {
        let owned = key.to_owned();
        let read = move |store: &FileStore| {
            let bytes = usize::try_from(range.end.saturating_sub(range.start));
            let mut bytes = vec![0; bytes.map_err(io::Error::other)?];
            let file = match File::open(store.dir.join(owned)) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
                file => file?,
            };
            match file.read_exact_at(&mut bytes, range.start) {
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
                read => read.map(|()| Some(bytes)),
            }
        };
        let read = self.run(("read", key), REMOTE_SILENCE_MS, read).await?;
        let (op, key) = ("read", key.to_owned());
        read.ok_or(ObjectError::Absent { op, key })
    }

    async fn list(&self, dir: &str) -> Result<Vec<Listed>, ObjectError> {
        let owned = dir.to_owned();
        self.run(("list", dir), REMOTE_SILENCE_MS, move |store| {
            store.list_now(&owned)
        })
        .await
    }

    async fn delete(&self, key: &str) -> Result<(), ObjectError> {
        let owned = key.to_owned();
        let delete = move |store: &FileStore| match fs::remove_file(store.dir.join(owned)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            deleted => deleted,
        };
        self.run(("remove", key), REMOTE_SILENCE_MS, delete).await
    }
}

#[cfg(test)]
mod tests {
    use super::super::probe::probe;
    use super::super::publish::SystemRandom;
    use super::*;

    fn run<T>(work: impl Future<Output = T>) -> T {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_time().build().unwrap().block_on(work)
    }

    #[test]
    fn a_directory_keeps_the_promises() {
        let dir = tempfile::tempdir().unwrap();
        let store = FileStore::open(&dir.path().join("new"));
        run(probe(&store, false, &mut SystemRandom)).unwrap();
        let left = fs::read_dir(dir.path().join("new/tmp")).unwrap();
        assert_eq!(left.count(), 0, "a draft is left");
    }

    /// As many as want to count at once: no count is lost, and none is made twice.
    #[test]
    fn of_many_that_swap_one_does() {
        let dir = tempfile::tempdir().unwrap();
        let count = |found: &Found| std::str::from_utf8(&found.bytes).unwrap().parse::<u64>();
        let work = || {
            let store = FileStore::open(dir.path());
            let mut done = 0;
            while done < 20 {
                let found = store.read("count", 100).unwrap();
                let next = found.as_ref().map_or(1, |found| count(found).unwrap() + 1);
                let condition = found.map_or(Condition::Absent, |found| {
                    Condition::Unchanged(found.version)
                });
                let swapped = store.swap_now("count", next.to_string().as_bytes(), &condition);
                done += u64::from(swapped.unwrap().is_some());
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(work);
            }
        });
        let store = FileStore::open(dir.path());
        let found = store.read("count", 100).unwrap().unwrap();
        assert_eq!(count(&found), Ok(80));
    }

    #[test]
    fn what_nobody_writes_any_more_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let store = FileStore::open(dir.path());
        let draft = store.draft().unwrap();
        let (path, left) = (draft.path.clone(), dir.path().join("tmp/left"));
        fs::write(&left, "half").unwrap();
        drop(FileStore::open(dir.path()));
        assert!(path.exists() && !left.exists());
        drop(draft);
        assert!(!path.exists());
    }
}
