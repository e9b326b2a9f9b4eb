//! Removing a directory with all that is in it. How deep that is a server may have chosen, and who removes it holds two
//! directories open at the most, whatever that is: what lies deeper comes up first.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags};
use rustix::io::Errno;

/// Removes the directory at `path`, which is nobody else's. No link is followed.
pub(super) fn directory(path: &Path) -> io::Result<()> {
    let root = open(CWD, path)?;
    let mut lifted = 0;
    // What is removed while it is listed may keep something else from being listed.
    while each(root.as_fd(), |name| lift(root.as_fd(), name, &mut lifted))? > 0 {}
    Ok(rustix::fs::unlinkat(CWD, path, AtFlags::REMOVEDIR)?)
}

fn open<P: rustix::path::Arg>(at: BorrowedFd<'_>, path: P) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
    rustix::fs::openat(at, path, flags, Mode::empty())
}

/// Removes all of a directory but its directories, which `and` removes; how much was listed.
fn each(
    directory: BorrowedFd<'_>,
    mut and: impl FnMut(&CStr) -> rustix::io::Result<()>,
) -> rustix::io::Result<u64> {
    let mut listed = 0;
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        listed += 1;
        match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            // Linux says the one, others the other.
            Err(Errno::ISDIR | Errno::PERM) => and(name)?,
            Err(e) => return Err(e),
        }
    }
    Ok(listed)
}

/// Removes the directory `name` in `root`, once those inside of it lie beside it.
fn lift(root: BorrowedFd<'_>, name: &CStr, lifted: &mut u64) -> rustix::io::Result<()> {
    let directory = open(root, name)?;
    let mut up = |inner: &CStr| {
        match rustix::fs::unlinkat(directory.as_fd(), inner, AtFlags::REMOVEDIR) {
            Err(Errno::NOTEMPTY | Errno::EXIST) => {}
            removed => return removed,
        }
        loop {
            *lifted += 1;
            match rustix::fs::renameat(directory.as_fd(), inner, root, lifted.to_string()) {
                // Something has that name.
                Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => {}
                renamed => return renamed,
            }
        }
    };
    while each(directory.as_fd(), &mut up)? > 0 {}
    rustix::fs::unlinkat(root, name, AtFlags::REMOVEDIR)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn all_of_it_goes_however_deep_and_nothing_that_links_lead_to() {
        let (parent, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(other.path().join("stays"), "").unwrap();
        let root = parent.path().join("root");
        fs::create_dir(&root).unwrap();
        // More levels than this process may have files open, if it had to have them all: the path is longer than any call takes.
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        let levels = limit.current.unwrap_or(1024).min(3000) + 8;
        let mut at = open(CWD, &root).unwrap();
        for level in 0..levels {
            // Names that those have which come up.
            for name in ["1", "2", "deep"] {
                rustix::fs::mkdirat(&at, name, Mode::RWXU).unwrap();
            }
            let link = format!("link{level}");
            rustix::fs::symlinkat(other.path(), &at, link).unwrap();
            let file = OFlags::CREATE | OFlags::WRONLY;
            drop(rustix::fs::openat(&at, "3", file, Mode::RWXU).unwrap());
            let next = if level % 7 == 0 { "2" } else { "deep" };
            at = open(at.as_fd(), next).unwrap();
        }
        drop(at);
        directory(&root).unwrap();
        assert!(!root.exists() && other.path().join("stays").exists());
    }

    #[test]
    fn a_link_to_a_directory_is_none() {
        let parent = tempfile::tempdir().unwrap();
        let (real, link) = (parent.path().join("real"), parent.path().join("link"));
        fs::create_dir_all(real.join("in")).unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        directory(&link).unwrap_err();
        assert!(real.join("in").is_dir());
    }
}
