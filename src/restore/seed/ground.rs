//! Directories and files of a seed, each opened from the one above by one name that is no link: what somebody else
//! owns or may write is not believed.

use std::fs::{File, Metadata};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

/// Bits of those who are not the owner, with which they could change something.
const OTHERS_WRITE: u32 = 0o022;
/// The bit of a directory that is meant to be written to by all, as /tmp is.
const STICKY: u32 = 0o1000;

/// Why a directory is none of a seed's.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    #[error("cannot {op} it: {source}")]
    Io { op: &'static str, source: io::Error },
    #[error("it is no directory")]
    NoDirectory,
    #[error("it belongs to user {owner}; name one of your own, or of root")]
    Foreign { owner: u32 },
    #[error("others may write to it (mode {:o}): {}", .mode & 0o7777, advice(*.mode, *.is_own))]
    Open { mode: u32, is_own: bool },
}

/// What is to be done about a directory of this mode that others may write to. All of it is safe: nobody is told to close a
/// place that all have their files in.
fn advice(mode: u32, is_own: bool) -> &'static str {
    match is_own && mode & STICKY == 0 {
        true => "chmod go-w it, or name a directory in it that is not there yet",
        false => "name a directory in it that is not there yet",
    }
}

fn failed<E: Into<io::Error>>(op: &'static str) -> impl FnOnce(E) -> Refused {
    move |source| Refused::Io {
        op,
        source: source.into(),
    }
}

/// Whether what this user has is believed.
fn is_believed(owner: u32) -> bool {
    owner == 0 || is_own(owner)
}

fn is_own(owner: u32) -> bool {
    owner == rustix::process::geteuid().as_raw()
}

/// A directory whose names nobody has chosen but this user or root.
#[derive(Debug)]
pub(super) struct Ground(File);

impl AsFd for Ground {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Ground {
    /// Opens the directory at a path that the user has given, made if it is not there. One of his that is empty becomes his
    /// alone, whoever may write to it, as volumes of containers are made for all; who opens it to others later has a reason.
    /// What is meant for all stays as it is: it may be the place where they have their files.
    pub(super) fn open(path: &Path) -> Result<Ground, Refused> {
        use std::os::unix::fs::DirBuilderExt;
        let mut builder = std::fs::DirBuilder::new();
        let made = builder.recursive(true).mode(0o700).create(path);
        // What is there already may be in a place that is only read.
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let opened = rustix::fs::open(path, flags, Mode::empty());
        let opened = match (made, opened) {
            (_, Ok(opened)) => File::from(opened),
            (_, Err(Errno::NOTDIR)) if path.exists() => return Err(Refused::NoDirectory),
            (Err(source), Err(_)) => return Err(failed("make")(source)),
            (Ok(()), Err(errno)) => return Err(failed("open")(errno)),
        };
        let found = opened.metadata().map_err(failed("look at"))?;
        let ground = Ground(opened);
        let is_for_all = found.mode() & STICKY != 0 && found.mode() & OTHERS_WRITE != 0;
        if is_own(found.uid())
            && !is_for_all
            && ground.names().is_ok_and(|mut names| names.next().is_none())
        {
            // Read-only places stay as they are.
            let _ = rustix::fs::fchmod(&ground, Mode::RWXU);
        }
        ground.check()
    }

    /// The directory of this name in it.
    pub(super) fn below(&self, name: &str) -> Result<Ground, Refused> {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(self, name, flags, Mode::empty());
        Ground(File::from(opened.map_err(failed("open"))?)).check()
    }

    /// The same, made if it is not there.
    pub(super) fn make_below(&self, name: &str) -> Result<Ground, Refused> {
        match rustix::fs::mkdirat(self, name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => self.below(name),
            Err(errno) => Err(failed("make")(errno)),
        }
    }

    fn check(self) -> Result<Ground, Refused> {
        let found = self.0.metadata().map_err(failed("look at"))?;
        let (owner, mode) = (found.uid(), found.mode());
        match mode & OTHERS_WRITE == 0 {
            _ if !is_believed(owner) => Err(Refused::Foreign { owner }),
            true => Ok(self),
            false => Err(Refused::Open {
                mode,
                is_own: is_own(owner),
            }),
        }
    }

    /// The names in it, but for those that are no text.
    pub(super) fn names(&self) -> io::Result<impl Iterator<Item = String>> {
        let listing = rustix::fs::Dir::read_from(self)?;
        let names = listing.map_while(Result::ok);
        let names = names.filter_map(|entry| entry.file_name().to_str().ok().map(str::to_owned));
        Ok(names.filter(|name| name != "." && name != ".."))
    }

    /// What is at a name, and is no link.
    pub(super) fn stat(&self, name: &str) -> io::Result<rustix::fs::Stat> {
        Ok(rustix::fs::statat(self, name, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// Opens a file, at once: who has put a pipe there waits in vain.
    pub(super) fn read(&self, name: &str) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        Ok(File::from(rustix::fs::openat(
            self,
            name,
            flags | OFlags::NOCTTY,
            Mode::empty(),
        )?))
    }

    /// Makes a file, which nobody else has opened.
    pub(super) fn create(&self, name: &str) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let mode = Mode::RUSR | Mode::WUSR;
        Ok(File::from(rustix::fs::openat(
            self,
            name,
            flags | OFlags::CLOEXEC,
            mode,
        )?))
    }

    pub(super) fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        Ok(rustix::fs::renameat(self, from, self, to)?)
    }

    /// Removes what is at a name, and nothing that is below it.
    pub(super) fn remove(&self, name: &str) -> io::Result<()> {
        match rustix::fs::unlinkat(self, name, AtFlags::empty()) {
            // Of a directory the one says this, and the other that.
            Err(Errno::ISDIR | Errno::PERM) => self.remove_below(name),
            removed => Ok(removed?),
        }
    }

    /// Removes a directory that is empty.
    pub(super) fn remove_below(&self, name: &str) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(self, name, AtFlags::REMOVEDIR)?)
    }
}

/// Whether a file is one that this user or root has made, and nobody else can write.
pub(super) fn is_file_believed(found: &Metadata) -> bool {
    found.is_file() && is_believed(found.uid()) && found.mode() & OTHERS_WRITE == 0
}
