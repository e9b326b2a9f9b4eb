//! Where a part goes that is fetched: into a directory, and beside that into a seed. What cannot be written there, for
//! whatever reason, is not kept, and the restore goes on.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use xxhash_rust::xxh64::Xxh64;

use super::error::{RestoreError, failed};
use super::quota::Quota;
use super::seed::{Incoming, Seed};
use crate::limits::STREAM_READ_BYTES;
use crate::manifest::parts::{Manifest, Part};

/// Of packs and their companions, wherever they lie.
pub(super) const SEALED: u32 = 0o444;

/// Where parts go.
#[derive(Clone, Copy)]
pub(super) struct Destination<'f> {
    pub dir: &'f Path,
    pub quota: &'f Quota,
    /// Where they stay.
    pub seed: Option<&'f Seed<'f>>,
}

/// Where a part of a pack goes.
#[derive(Debug)]
pub(super) struct Landing<'f> {
    file: File,
    /// Where it is until it is whole and right.
    path: PathBuf,
    /// Where it is kept as well.
    kept: Option<Keeping<'f>>,
}

/// How a seed gets what a directory gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    /// It is the same file.
    Linked,
    /// It gets the same blocks in the end.
    Shared,
    /// What comes is written twice, from the memory that it came in: no copy is left to be made in the end.
    Written,
}

impl<'f> Landing<'f> {
    /// In the directory, under another name than it has there in the end; in the seed, if it is to be kept there.
    pub(super) fn new(
        dir: &Path,
        seed: Option<&'f Seed<'f>>,
        manifest: &Manifest,
        number: usize,
    ) -> Result<Landing<'f>, RestoreError> {
        let path = dir.join(temporary(&manifest.parts[number]));
        let Some(keeping) = seed.and_then(|seed| Keeping::begin(seed, manifest, number)) else {
            return Landing::alone(path);
        };
        match keeping.linked(dir, &path)? {
            Some(file) => Ok(Landing {
                file,
                path,
                kept: Some(Keeping {
                    how: How::Linked,
                    ..keeping
                }),
            }),
            None => {
                let landing = Landing::alone(path)?;
                let kept = Some(keeping.beside(&landing.file));
                Ok(Landing { kept, ..landing })
            }
        }
    }

    /// In the directory alone.
    pub(super) fn in_directory(dir: &Path, part: &Part) -> Result<Landing<'f>, RestoreError> {
        Landing::alone(dir.join(temporary(part)))
    }

    fn alone(path: PathBuf) -> Result<Landing<'f>, RestoreError> {
        let file = create(&path)?;
        Ok(Landing {
            file,
            path,
            kept: None,
        })
    }

    /// Gives it its length.
    pub(super) fn extend(&self, bytes: u64) -> Result<(), RestoreError> {
        let extended = self.file.set_len(bytes);
        extended.map_err(failed("extend", &self.path))
    }

    /// XXH64 of all of it.
    pub(super) fn sum(&self) -> Result<u64, RestoreError> {
        sum(&self.file).map_err(failed("read", &self.path))
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes what came.
    pub(super) fn write(&self, bytes: &[u8], at: u64) -> Result<(), RestoreError> {
        let written = self.file.write_all_at(bytes, at);
        written.map_err(failed("write", &self.path))?;
        if let Some(kept) = self.kept.as_ref().filter(|kept| kept.how == How::Written) {
            kept.write(bytes, at);
        }
        Ok(())
    }

    /// Gives it its name: it is whole and right.
    pub(super) fn finish(&self, part: &Part, dir: &Path) -> Result<(), RestoreError> {
        let sealed = self.file.set_permissions(PermissionsExt::from_mode(SEALED));
        sealed.map_err(failed("seal", &self.path))?;
        let named = fs::rename(&self.path, dir.join(&part.name));
        named.map_err(failed("name", &self.path))?;
        if let Some(kept) = &self.kept {
            kept.finish(&self.file);
        }
        Ok(())
    }

    /// What the seed has of it, if it is kept.
    pub(super) fn kept(&self) -> Option<Arc<File>> {
        self.kept.as_ref().and_then(Keeping::kept)
    }
}

/// What a part is called until it is whole.
fn temporary(part: &Part) -> String {
    format!(".{}", part.name)
}

/// Whether a part was fetched and found right before: until then it has another name.
pub(super) fn is_there(path: &Path, bytes: u64) -> bool {
    let found = fs::symlink_metadata(path);
    found.is_ok_and(|found| found.is_file() && found.len() == bytes)
}

/// A part on its way into a seed.
#[derive(Debug)]
pub(super) struct Keeping<'f> {
    seed: &'f Seed<'f>,
    file: Arc<File>,
    how: How,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    Comes(Incoming),
    Kept,
    /// It could not be written, or is not what it is to be.
    Lost,
}

impl<'f> Keeping<'f> {
    /// `None` if it is not to be kept.
    pub(super) fn begin(
        seed: &'f Seed<'f>,
        manifest: &Manifest,
        number: usize,
    ) -> Option<Keeping<'f>> {
        let incoming = seed.begin(manifest, number)?;
        Some(Keeping {
            seed,
            file: incoming.file().clone(),
            how: How::Written,
            state: Mutex::new(State::Comes(incoming)),
        })
    }

    /// The file itself under another name in a directory, where that is asked for and possible.
    fn linked(&self, dir: &Path, path: &Path) -> Result<Option<File>, RestoreError> {
        let state = self.lock();
        let (true, State::Comes(incoming)) = (self.seed.may_link(), &*state) else {
            return Ok(None);
        };
        remove(path)?;
        let directory = File::open(dir).map_err(failed("open", dir))?;
        let name = path.file_name().and_then(|name| name.to_str());
        let linked = incoming.link(directory.as_fd(), name.unwrap_or_default());
        let opened = linked.and_then(|()| self.file.try_clone());
        Ok(opened.ok())
    }

    /// To be kept beside another file, of which nothing is there yet.
    fn beside(self, other: &File) -> Keeping<'f> {
        let can_share = match &*self.lock() {
            State::Comes(incoming) => incoming.share(other).is_ok(),
            State::Kept | State::Lost => false,
        };
        let how = match can_share {
            true => How::Shared,
            false => How::Written,
        };
        Keeping { how, ..self }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Writes what came; if that cannot be, it is not kept.
    pub(super) fn write(&self, bytes: &[u8], at: u64) {
        if !self.is_lost()
            && let Err(e) = self.file.write_all_at(bytes, at)
        {
            self.fail(&e);
        }
    }

    fn fail(&self, why: &io::Error) {
        self.seed.close(why);
        self.lose();
    }

    /// It is not kept.
    pub(super) fn lose(&self) {
        *self.lock() = State::Lost;
    }

    pub(super) fn is_lost(&self) -> bool {
        matches!(*self.lock(), State::Lost)
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// All of it is there and right, as `other` is.
    fn finish(&self, other: &File) {
        let state = self.lock();
        if let (How::Shared, State::Comes(incoming)) = (self.how, &*state)
            && let Err(e) = incoming.share(other)
        {
            drop(state);
            return self.fail(&e);
        }
        drop(state);
        self.keep();
    }

    /// All of it is there and right.
    pub(super) fn keep(&self) {
        let mut state = self.lock();
        match std::mem::replace(&mut *state, State::Kept) {
            State::Comes(incoming) => self.seed.keep(incoming),
            before => *state = before,
        }
    }

    fn kept(&self) -> Option<Arc<File>> {
        matches!(*self.lock(), State::Kept).then(|| self.file.clone())
    }
}

/// A new file in the place of what an earlier run has left there.
fn create(path: &Path) -> Result<File, RestoreError> {
    remove(path)?;
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true).mode(0o600);
    options.open(path).map_err(failed("create", path))
}

fn remove(path: &Path) -> Result<(), RestoreError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(e)),
        _ => Ok(()),
    }
}

/// XXH64 of a whole file.
fn sum(file: &File) -> io::Result<u64> {
    let (mut sum, mut at) = (Xxh64::new(0), 0);
    let mut buffer = vec![0; STREAM_READ_BYTES];
    loop {
        match file.read_at(&mut buffer, at)? {
            0 => return Ok(sum.digest()),
            got => {
                sum.update(&buffer[..got]);
                at += got as u64;
            }
        }
    }
}
