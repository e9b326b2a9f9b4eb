//! Replaces the refs of a mirror within milliseconds, whatever their number.
//!
//! `git update-ref --stdin` makes one lock file for each ref: 6.4 s for 50,000 of them on a
//! 2-core machine, all of it under the write lock, and it refuses to delete `a` and create
//! `a/b` in one transaction. Here the new `packed-refs` is written and synced next to the old
//! one first; under the lock it is only renamed.
use crate::limits;
use crate::refs::{self, Follow, Head, MirrorRefs, Ref, RefsError, Stamp};
use gix::bstr::{BString, ByteSlice};
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// New refs of a mirror, written and synced, not yet in force. Removed when dropped.
#[derive(Debug)]
pub(super) struct Prepared {
    mirror: PathBuf,
    /// The new `packed-refs`.
    file: tempfile::TempPath,
    /// What that looks like, and whether it says of every tag what that leads to.
    pub made: (Stamp, bool),
    /// What the `packed-refs` that was read looked like; it must not have changed since.
    base: Option<Stamp>,
    /// Loose files that would hide a packed ref or that are deleted with it.
    loose: Vec<BString>,
    /// HEAD, when it has to be written.
    head: Option<Head>,
}

/// Why [`Prepared::commit`] did nothing.
#[derive(Debug)]
pub(super) enum CommitError {
    /// Another process changed `packed-refs` in the meantime.
    Changed,
    Io(PathBuf, io::Error),
}

/// Writes the file for: every ref of the mirror that is not followed as it is, and exactly
/// `wanted` (sorted, peeled as far as they can be) of those that are.
pub(super) fn prepare(
    mirror: &Path,
    follow: &Follow,
    wanted: &[Ref],
    head: Option<Head>,
) -> Result<Prepared, RefsError> {
    let path = mirror.join("packed-refs");
    let fail = |source| RefsError::Io {
        path: path.clone(),
        source,
    };
    let loose = refs::read_loose(mirror)?
        .into_keys()
        .filter(|name| follow.matches(name))
        .collect();
    let (old, base) = refs::read_packed_where(mirror, |name| !follow.matches(name))?;
    let mut all: Vec<&Ref> = old.refs.iter().collect();
    let fully_peeled = old.fully_peeled || all.is_empty();
    all.extend(wanted);
    all.sort_by(|a, b| a.name.cmp(&b.name));
    let (file, stamp) = write_packed(mirror, &all, fully_peeled).map_err(fail)?;
    Ok(Prepared {
        mirror: mirror.to_owned(),
        file,
        made: (stamp, fully_peeled),
        base,
        loose,
        head,
    })
}

fn write_packed(
    mirror: &Path,
    refs: &[&Ref],
    fully_peeled: bool,
) -> io::Result<(tempfile::TempPath, Stamp)> {
    let file = tempfile::Builder::new()
        .prefix("tmp_packed_refs_")
        .tempfile_in(mirror)?;
    let mut out = BufWriter::new(file.as_file());
    write_text(&mut out, refs.iter().copied(), fully_peeled)?;
    out.flush()?;
    drop(out);
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    file.as_file().set_permissions(mode)?;
    file.as_file().sync_all()?;
    let stamp = Stamp::of(&file.as_file().metadata()?);
    Ok((file.into_temp_path(), stamp))
}

fn write_text<'r>(
    out: &mut impl Write,
    refs: impl Iterator<Item = &'r Ref>,
    fully_peeled: bool,
) -> io::Result<()> {
    let traits = if fully_peeled {
        "peeled fully-peeled sorted"
    } else {
        "sorted"
    };
    writeln!(out, "# pack-refs with: {traits} ")?;
    for r in refs {
        write!(out, "{} ", r.target)?;
        out.write_all(&r.name)?;
        out.write_all(b"\n")?;
        if let Some(peeled) = r.peeled {
            writeln!(out, "^{peeled}")?;
        }
    }
    Ok(())
}

/// Branches and tags as `packed-refs` has them.
pub(crate) fn text(refs: &MirrorRefs) -> Vec<u8> {
    let (mut text, shown) = (Vec::new(), Follow::default());
    let all = refs.refs.iter().filter(|r| shown.matches(&r.name));
    // Memory takes all that is written.
    let _ = write_text(&mut text, all, refs.fully_peeled);
    text
}

impl Prepared {
    /// Puts the new refs in force: two renames and as many unlinks as there were loose refs.
    /// Called under the write lock. A crash in between leaves refs that the next look at
    /// upstream corrects.
    pub(super) fn commit(self) -> Result<(), CommitError> {
        let path = self.mirror.join("packed-refs");
        let lock = Lock::take(&path)?;
        if Stamp::at(&path).map_err(|error| CommitError::Io(path.clone(), error))? != self.base {
            return Err(CommitError::Changed);
        }
        self.file
            .persist(&path)
            .map_err(|error| CommitError::Io(path.clone(), error.error))?;
        for name in &self.loose {
            let file = self.mirror.join(name.to_path_lossy());
            match std::fs::remove_file(&file) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(CommitError::Io(file, error));
                }
                _ => remove_empty_parents(&self.mirror, &file),
            }
        }
        if let Some(head) = &self.head {
            write_head(&self.mirror, head)?;
        }
        drop(lock);
        Ok(())
    }
}

/// Folders left by loose refs would stand in the way of a ref of the same name.
fn remove_empty_parents(mirror: &Path, file: &Path) {
    let keep = mirror.join("refs");
    for folder in file
        .ancestors()
        .skip(1)
        .take_while(|folder| folder.parent() != Some(&keep))
    {
        if folder == keep || std::fs::remove_dir(folder).is_err() {
            return;
        }
    }
}

fn write_head(mirror: &Path, head: &Head) -> Result<(), CommitError> {
    let path = mirror.join("HEAD");
    let mut lock = Lock::take(&path)?;
    let text = match head {
        Head::Symbolic(name) => [b"ref: ", name.as_slice(), b"\n"].concat(),
        Head::Detached(id) => format!("{id}\n").into_bytes(),
    };
    let written = lock
        .file
        .write_all(&text)
        .and_then(|()| lock.publish(&path));
    written.map_err(|error| CommitError::Io(path, error))
}

/// git's own lock of one file, `NAME.lock`: made with O_EXCL, removed when dropped.
struct Lock {
    path: PathBuf,
    file: File,
    published: bool,
}

impl Lock {
    fn take(path: &Path) -> Result<Self, CommitError> {
        let mut lock = path.as_os_str().to_owned();
        lock.push(".lock");
        let path = PathBuf::from(lock);
        let open = || OpenOptions::new().write(true).create_new(true).open(&path);
        let opened = match open() {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && is_stale(&path) => {
                std::fs::remove_file(&path).and_then(|()| open())
            }
            opened => opened,
        };
        match opened {
            Ok(file) => Ok(Self {
                path,
                file,
                published: false,
            }),
            Err(error) => Err(CommitError::Io(path, error)),
        }
    }

    fn publish(&mut self, path: &Path) -> io::Result<()> {
        std::fs::rename(&self.path, path)?;
        self.published = true;
        Ok(())
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if !self.published {
            // Nothing can be done here; a lock that stays is taken over once it is stale.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Whether a lock was left by a process that was killed.
fn is_stale(lock: &Path) -> bool {
    let modified = std::fs::metadata(lock).and_then(|m| m.modified());
    let age = modified
        .ok()
        .and_then(|at| SystemTime::now().duration_since(at).ok());
    age.is_some_and(|age| age > Duration::from_millis(limits::MIRROR_LOCK_STALE_MS))
}
