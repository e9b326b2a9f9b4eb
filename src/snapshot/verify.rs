//! Whether the files of a build's packs are what git wrote. Most of a pack is never decoded here: a
//! bit that has rotted in it, or a file that was copied in part, would be in every archive.
//!
//! Each of these files ends with a hash of all that is before it (gitformat-pack(5), "the checksum
//! of all of the above"; the same of .idx, .rev and .mtimes). Git looks at it when it writes and in
//! `git fsck`.

use std::collections::HashSet;
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::view::Linked;
use super::zstd::ring::panic_text;
use crate::io::sched;
use crate::limits::{ENCODER_NICE, SUM_READ_BYTES, VERIFIED_FILES_MAX};

/// A file of a pack that is not as git wrote it.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    #[error("cannot read {}: {source}", .path.display())]
    Io { path: PathBuf, source: io::Error },
    /// By its name: the path is that of a link, which is gone when somebody reads this.
    #[error(
        "{} of the mirror is damaged: the checksum in it at {offset} is not that of what is before \
         it; remove the mirror, and it is cloned anew", .name.display()
    )]
    Damaged { name: PathBuf, offset: u64 },
    #[error("cannot check the packs: {0}")]
    Thread(String),
}

/// Files that were found to be sound since the process began, so that they are read for it once.
/// Cheap to clone; all clones are of the same ones.
#[derive(Debug, Clone, Default)]
pub struct Verified {
    known: Arc<Mutex<HashSet<FileId>>>,
}

/// A file whatever its name: a pack in a mirror, and its link in an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct FileId {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
}

impl FileId {
    fn of(found: &Metadata) -> FileId {
        FileId {
            device: found.dev(),
            inode: found.ino(),
            bytes: found.size(),
            modified: (found.mtime(), found.mtime_nsec()),
        }
    }
}

impl Verified {
    fn has(&self, id: &FileId) -> bool {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.contains(id)
    }

    fn add(&self, id: FileId) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= VERIFIED_FILES_MAX {
            // They are read once more.
            known.clear();
        }
        known.insert(id);
    }

    /// Starts to check `linked`, below `directory`, on a thread of its own.
    pub fn start(
        &self,
        directory: &Path,
        linked: &[Linked],
        hash: gix::hash::Kind,
    ) -> Result<Verifying, VerifyError> {
        let (verified, stop) = (self.clone(), Arc::new(AtomicBool::new(false)));
        let paths = linked.iter().map(|l| directory.join(&l.relative));
        let paths: Vec<PathBuf> = paths.collect();
        let theirs = stop.clone();
        let thread = std::thread::Builder::new().name("verifier".into());
        let thread = thread.spawn(move || {
            sched::be_nice(ENCODER_NICE);
            let check = |path| verified.check(path, hash, &theirs);
            paths.into_iter().try_for_each(check)
        });
        Ok(Verifying {
            stop,
            thread: Some(thread.map_err(|e| VerifyError::Thread(e.to_string()))?),
        })
    }

    fn check(
        &self,
        path: PathBuf,
        hash: gix::hash::Kind,
        stop: &AtomicBool,
    ) -> Result<(), VerifyError> {
        let opened = File::open(&path).and_then(|file| Ok((file.metadata()?, file)));
        let (found, file) = match opened {
            Ok(opened) => opened,
            Err(source) => return Err(VerifyError::Io { path, source }),
        };
        let id = FileId::of(&found);
        if self.has(&id) {
            return Ok(());
        }
        let trailer = hash.len_in_bytes() as u64;
        let offset = id.bytes.saturating_sub(trailer);
        let sound = match hash {
            gix::hash::Kind::Sha256 => is_sound::<Sha256>(&file, offset, stop),
            _ => is_sound::<Sha1>(&file, offset, stop),
        };
        match sound {
            Ok(true) => {
                self.add(id);
                Ok(())
            }
            // Nobody wants to know any more.
            Ok(false) if stop.load(Ordering::Relaxed) => Ok(()),
            Ok(false) => Err(VerifyError::Damaged {
                name: path.file_name().unwrap_or_default().into(),
                offset,
            }),
            Err(source) => Err(VerifyError::Io { path, source }),
        }
    }
}

/// Whether the hash at `offset` is that of all before it; false as well when `stop` turns true.
fn is_sound<H: Digest>(file: &File, offset: u64, stop: &AtomicBool) -> io::Result<bool> {
    let mut hash = H::new();
    let mut buffer = vec![0; SUM_READ_BYTES];
    let mut at = 0;
    while at < offset && !stop.load(Ordering::Relaxed) {
        let len = (offset - at).min(buffer.len() as u64);
        let part = &mut buffer[..len as usize];
        file.read_exact_at(part, at)?;
        hash.update(&*part);
        at += len;
    }
    let own = hash.finalize();
    let trailer = &mut buffer[..own.len()];
    file.read_exact_at(trailer, offset)?;
    Ok(at == offset && *trailer == *own)
}

/// A check that runs. Dropped, it is ended.
#[derive(Debug)]
pub struct Verifying {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<(), VerifyError>>>,
}

impl Verifying {
    /// Waits for its end.
    pub fn wait(mut self) -> Result<(), VerifyError> {
        let thread = self.thread.take();
        let checked = thread.map_or(Ok(Ok(())), JoinHandle::join);
        checked.map_err(|panic| VerifyError::Thread(panic_text(&*panic)))?
    }
}

impl Drop for Verifying {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // The build has failed for another reason.
            drop(thread.join());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::tests::Repository;
    use std::fs;

    fn check(verified: &Verified, directory: &Path, linked: &[Linked]) -> Result<(), VerifyError> {
        let kind = gix::hash::Kind::Sha1;
        verified.start(directory, linked, kind).unwrap().wait()
    }

    #[test]
    fn what_is_not_as_git_wrote_it_is_found() {
        let repository = Repository::new();
        repository.write("file", "some content\n".repeat(100));
        repository.commit_packed();
        let packs = repository.dir.path().join(".git/objects/pack");
        let directory = tempfile::tempdir().unwrap();
        let mut linked = Vec::new();
        for entry in fs::read_dir(packs).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let bytes = fs::read(repository.dir.path().join(".git/objects/pack").join(&name));
            let bytes = bytes.unwrap();
            fs::write(directory.path().join(&name), &bytes).unwrap();
            linked.push(Linked {
                relative: name,
                bytes: bytes.len() as u64,
            });
        }
        assert!(linked.len() >= 2, "{linked:?}");
        let verified = Verified::default();
        check(&verified, directory.path(), &linked).unwrap();
        assert_eq!(verified.known.lock().unwrap().len(), linked.len());
        for file in &linked {
            let path = directory.path().join(&file.relative);
            let sound = fs::read(&path).unwrap();
            for at in [0, sound.len() / 2, sound.len() - 1] {
                let mut damaged = sound.clone();
                damaged[at] ^= 1;
                // Another file, as a copy would be.
                fs::remove_file(&path).unwrap();
                fs::write(&path, damaged).unwrap();
                let error = check(&Verified::default(), directory.path(), &linked).unwrap_err();
                let error = error.to_string();
                assert!(error.contains(&file.relative), "{error}");
                assert!(error.contains("is damaged"), "{error}");
            }
            fs::write(&path, &sound[..sound.len() - 1]).unwrap();
            check(&Verified::default(), directory.path(), &linked).unwrap_err();
            fs::write(&path, &sound).unwrap();
        }
    }
}
