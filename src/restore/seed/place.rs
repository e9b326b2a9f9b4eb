//! From a seed into a working copy: by sharing its blocks where the file system can, else copied by the kernel; by
//! giving it another name only for who asks for that.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::{AtFlags, CWD};
use rustix::io::Errno;

use super::super::stop::Stop;
use crate::limits::SEED_COPY_BYTES;

/// Which of two files fails, and why.
#[derive(Debug)]
pub(super) enum Fault {
    From(io::Error),
    To(io::Error),
}

/// Gives just this file another name, whatever has its own by now.
pub(super) fn link(file: &File, directory: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    let own = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
    let flags = AtFlags::SYMLINK_FOLLOW;
    Ok(rustix::fs::linkat(CWD, own, directory, name, flags)?)
}

/// Has a file share all blocks of another.
pub(super) fn share(from: &File, to: &File) -> io::Result<()> {
    Ok(rustix::fs::ioctl_ficlone(to, from)?)
}

/// Copies bytes to the same place of another file: within the kernel; what that cannot copy, as between some file
/// systems, through memory.
pub(super) fn copy(from: &File, to: &File, range: Range<u64>, stop: &Stop) -> Result<(), Fault> {
    let (mut at, mut buffer) = (range.start, Vec::new());
    while at < range.end {
        if stop.is_set() {
            return Err(Fault::To(io::ErrorKind::Interrupted.into()));
        }
        let left = usize::try_from(range.end - at).unwrap_or(usize::MAX);
        let (mut from_at, mut to_at) = (at, at);
        if buffer.is_empty() {
            // What was written so far is all that is there.
            let (from_at, to_at) = (Some(&mut from_at), Some(&mut to_at));
            match rustix::fs::copy_file_range(from, from_at, to, to_at, left) {
                Ok(copied) if copied > 0 => {
                    at += copied as u64;
                    continue;
                }
                Err(Errno::INTR) => continue,
                // Of some files it copies nothing, and says so in one way or the other; whose fault it is it never says.
                Ok(_) | Err(_) => buffer.resize(SEED_COPY_BYTES, 0),
            }
        }
        let bytes = &mut buffer[..left.min(SEED_COPY_BYTES)];
        from.read_exact_at(bytes, at).map_err(Fault::From)?;
        to.write_all_at(bytes, at).map_err(Fault::To)?;
        at += bytes.len() as u64;
    }
    Ok(())
}
