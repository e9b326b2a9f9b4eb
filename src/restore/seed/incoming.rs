//! A part on its way into a seed: a file that belongs to whoever downloads it, and has its name only once it is whole.
//! Nobody waits for it: a restore that cannot write it does without.

use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use rustix::fs::{FlockOperation, Mode};
use rustix::io::Errno;

use super::ground::Ground;
use super::name;
use super::note::{Clock, SEALED};
use super::place;
use crate::limits::STAGING_TRIES_MAX;

/// See the module's text. Goes unless it is finished.
#[derive(Debug)]
pub(in crate::restore) struct Incoming {
    home: Arc<Ground>,
    file: Arc<File>,
    /// `None` once it has the part's.
    new: Option<String>,
    name: String,
}

impl Incoming {
    /// Makes a file of so many bytes, for the part that is to have that name.
    pub(super) fn new(home: Arc<Ground>, name: String, bytes: u64) -> io::Result<Incoming> {
        let (new, file) = create(&home)?;
        let incoming = Incoming {
            home,
            file: Arc::new(file),
            new: Some(new),
            name,
        };
        // Others count it as it will be.
        incoming.file.set_len(bytes)?;
        Ok(incoming)
    }

    /// What is to be written.
    pub(in crate::restore) fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Gives the file, which is right, its name. It needs no sync: behind a power cut nothing is believed.
    pub(super) fn finish(mut self, clock: &Clock) -> io::Result<()> {
        rustix::fs::fchmod(&*self.file, Mode::from_raw_mode(SEALED))?;
        clock.note_read(&self.file)?;
        if let Some(new) = &self.new {
            self.home.rename(new, &self.name)?;
        }
        self.new = None;
        Ok(())
    }

    /// Gives the file itself another name elsewhere.
    pub(in crate::restore) fn link(&self, directory: BorrowedFd<'_>, name: &str) -> io::Result<()> {
        place::link(&self.file, directory, name)
    }

    /// Has it share the blocks of another file, where the file system can do that.
    pub(in crate::restore) fn share(&self, of: &File) -> io::Result<()> {
        place::share(of, &self.file)
    }

    /// The name that the part has then.
    pub(super) fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if let Some(new) = &self.new {
            let _ = self.home.remove(new);
        }
    }
}

/// Makes a file and locks it: whoever comes by sees that it has an owner.
fn create(home: &Ground) -> io::Result<(String, File)> {
    for _ in 0..STAGING_TRIES_MAX {
        let name = name::new();
        let file = home.create(&name)?;
        // Without locks it is taken for left over after a long time only.
        let locked = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive);
        if locked == Err(Errno::WOULDBLOCK) {
            continue;
        }
        // Before it was locked somebody may have taken it for left over.
        let ours = file.metadata()?;
        let there = home.stat(&name);
        if there.is_ok_and(|there| (there.st_dev, there.st_ino) == (ours.dev(), ours.ino())) {
            return Ok((name, file));
        }
    }
    Err(io::Error::other("it is taken away at once each time"))
}
