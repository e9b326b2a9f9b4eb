//! Files of a mirror that the server makes its own.

use std::fs::{self, File};
use std::io;
use std::path::Path;

/// Puts a copy in the place of a pack's file, with its date and permissions, because the file cannot get
/// another name: it belongs to somebody else (`protected_hardlinks`), or has as many as there can be. Its
/// name begins as git's do for files in the making until it is whole, so that a copy that is cut off
/// leaves nothing. Nobody may remove such files meanwhile.
pub(crate) fn replace_by_copy(path: &Path) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let copy = path.with_file_name(format!("tmp_own_{name}"));
    // Not gigabytes for nothing.
    let copied = may_be_replaced(path)
        .and_then(|()| copy_to(path, &copy))
        .and_then(|()| fs::rename(&copy, path));
    if copied.is_err() {
        // Best effort: the next start removes it.
        let _ = fs::remove_file(&copy);
    }
    copied
}

/// Fails if the file can be removed by nobody (`chattr +i`, `+a`).
fn may_be_replaced(path: &Path) -> io::Result<()> {
    use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
    let found = statx(CWD, path, AtFlags::empty(), StatxFlags::empty())?;
    let fixed = StatxAttributes::IMMUTABLE | StatxAttributes::APPEND;
    match found.stx_attributes.intersects(fixed) {
        true => Err(io::Error::from_raw_os_error(libc::EPERM)),
        false => Ok(()),
    }
}

fn copy_to(path: &Path, copy: &Path) -> io::Result<()> {
    let mut from = File::open(path)?;
    let found = from.metadata()?;
    // What an earlier process has left.
    let _ = fs::remove_file(copy);
    let mut to = File::create_new(copy)?;
    io::copy(&mut from, &mut to)?;
    to.set_permissions(found.permissions())?;
    to.set_modified(found.modified()?)?;
    to.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    #[test]
    fn a_copy_is_the_same_file_by_another_inode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pack-x.pack");
        fs::write(&path, "content").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).unwrap();
        fs::hard_link(&path, dir.path().join("other")).unwrap();
        let before = fs::metadata(&path).unwrap();
        replace_by_copy(&path).unwrap();
        let after = fs::metadata(&path).unwrap();
        assert_ne!(before.ino(), after.ino());
        assert_eq!(before.modified().unwrap(), after.modified().unwrap());
        assert_eq!((after.mode() & 0o777, after.nlink()), (0o444, 1));
        assert_eq!(fs::read(&path).unwrap(), b"content");
        assert!(replace_by_copy(&dir.path().join("gone")).is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}
