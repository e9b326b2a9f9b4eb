//! What an update does to a working copy, and beside it: one function for each kind of change, and nothing of it, nor of
//! what undoes it, changes anything by another way. So tests have a run end, or fail, at any of its steps ([`Faults`]).
//! New files, which are written beside before anything changes, and what git does are none.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, CWD, RenameFlags};
use rustix::process::{Signal, getpid, kill_process};

use crate::faults::Faults;

/// What tests ask for; nothing as a rule.
static FAULTS: OnceLock<Faults> = OnceLock::new();
static COUNT: AtomicU64 = AtomicU64::new(0);

/// Has them end or fail as `faults` say.
pub(super) fn arm(faults: &Faults) {
    if faults.has_steps() {
        // It is done once.
        let _ = FAULTS.set(faults.clone());
    }
}

/// How many there were so far, if somebody counts them.
pub(super) fn count() -> Option<u64> {
    FAULTS.get().map(|_| COUNT.load(Ordering::Relaxed))
}

/// To be called before anything is done.
pub(super) fn step() -> io::Result<()> {
    let Some(faults) = FAULTS.get() else {
        return Ok(());
    };
    let number = COUNT.fetch_add(1, Ordering::Relaxed) + 1;
    if faults.ends_at_step(number) {
        // As whoever is killed ends: nothing is put in order.
        let _ = kill_process(getpid(), Signal::KILL);
    }
    match faults.fails_at_step(number) {
        true => Err(io::Error::from_raw_os_error(libc::ENOSPC)),
        false => Ok(()),
    }
}

pub(super) fn rename(from: impl AsRef<Path>, to: impl AsRef<Path>) -> io::Result<()> {
    step()?;
    fs::rename(from, to)
}

/// Has the two change their places; not every file system can.
pub(super) fn exchange(one: &Path, other: &Path) -> io::Result<()> {
    rename_with(one, other, RenameFlags::EXCHANGE)
}

/// Renames to where nothing is; not every file system can.
pub(super) fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    rename_with(from, to, RenameFlags::NOREPLACE)
}

fn rename_with(from: &Path, to: &Path, flags: RenameFlags) -> io::Result<()> {
    step()?;
    Ok(rustix::fs::renameat_with(CWD, from, CWD, to, flags)?)
}

/// Removes the file `name` of an open directory.
pub(super) fn remove_at(directory: impl AsFd, name: &OsStr) -> io::Result<()> {
    step()?;
    Ok(rustix::fs::unlinkat(directory, name, AtFlags::empty())?)
}

pub(super) fn hard_link(from: &Path, to: &Path) -> io::Result<()> {
    step()?;
    fs::hard_link(from, to)
}

pub(super) fn symlink(to: impl AsRef<Path>, path: impl AsRef<Path>) -> io::Result<()> {
    step()?;
    std::os::unix::fs::symlink(to, path)
}

pub(super) fn write(path: impl AsRef<Path>, bytes: impl AsRef<[u8]>) -> io::Result<()> {
    step()?;
    fs::write(path, bytes)
}

pub(super) fn set_permissions(path: &Path, permissions: Permissions) -> io::Result<()> {
    step()?;
    fs::set_permissions(path, permissions)
}

pub(super) fn create_dir(path: impl AsRef<Path>) -> io::Result<()> {
    step()?;
    fs::create_dir(path)
}

pub(super) fn create_dir_all(path: impl AsRef<Path>) -> io::Result<()> {
    step()?;
    fs::create_dir_all(path)
}

pub(super) fn remove_dir(path: impl AsRef<Path>) -> io::Result<()> {
    step()?;
    fs::remove_dir(path)
}

pub(super) fn remove_dir_all(path: impl AsRef<Path>) -> io::Result<()> {
    step()?;
    fs::remove_dir_all(path)
}

pub(super) fn remove_file(path: impl AsRef<Path>) -> io::Result<()> {
    step()?;
    fs::remove_file(path)
}

pub(super) fn create(path: impl AsRef<Path>) -> io::Result<File> {
    step()?;
    File::create(path)
}

pub(super) fn create_new(path: impl AsRef<Path>) -> io::Result<File> {
    step()?;
    File::create_new(path)
}
