//! From a seed into a working copy: by sharing its blocks where the file system can, else copied by the kernel; by
//! giving it another name only for who asks for that.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

use super::super::stop::Stop;
use crate::limits::SEED_COPY_BYTES;

/// Gives a file the name `name` in `directory`, where there is none: the file itself if it `may_link`, else a copy with
/// this mode.
pub(super) fn place(
    file: &File,
    (directory, name): (BorrowedFd<'_>, &str),
    (may_link, mode): (bool, Mode),
    stop: &Stop,
) -> io::Result<()> {
    if may_link && link(file, directory, name).is_ok() {
        return Ok(());
    }
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let to = File::from(rustix::fs::openat(directory, name, flags, mode)?);
    match rustix::fs::ioctl_ficlone(&to, file) {
        Ok(()) => Ok(()),
        Err(_) => copy(file, &to, stop),
    }
}

/// Just this file, whatever has its name by now.
fn link(file: &File, directory: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    let own = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
    let flags = AtFlags::SYMLINK_FOLLOW;
    Ok(rustix::fs::linkat(CWD, own, directory, name, flags)?)
}

/// Copies within the kernel; what it cannot copy so, as between some file systems, it sends.
fn copy(from: &File, to: &File, stop: &Stop) -> io::Result<()> {
    let (mut at, end, mut sends) = (0, from.metadata()?.len(), false);
    while at < end {
        if stop.is_set() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let left = usize::try_from(end - at).unwrap_or(usize::MAX);
        let bytes = left.min(SEED_COPY_BYTES);
        let mut from_at = at;
        // What was written so far is all that is there.
        let copied = match sends {
            false => rustix::fs::copy_file_range(from, Some(&mut from_at), to, None, bytes),
            true => rustix::fs::sendfile(to, from, Some(&mut from_at), bytes),
        };
        match copied {
            Ok(0) if sends => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(copied) if copied > 0 => at += copied as u64,
            Err(Errno::INTR) => {}
            Err(errno) if sends => return Err(errno.into()),
            // Of some files it copies nothing, and says so in one way or the other.
            Ok(_) | Err(_) => sends = true,
        }
    }
    Ok(())
}
