//! The files that a working copy gets, made in a staging directory: a disk that is full shows before anything of the
//! working copy is touched.

use std::fs::{self, File, FileTimes};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use gix::ObjectId;
use gix::hash::Kind;

use super::content::{Contents, Made};
use crate::limits::RENEWED_FILES_PER_THREAD;
use crate::restore::dates::Dates;
use crate::restore::error::{RestoreError, failed};
use crate::restore::path::as_path;
use crate::restore::run::{self, Room};
use crate::restore::write::{Site, Writer, stopped};
use crate::tree::filter::AttributeFiles;
use crate::tree::index::SUBMODULE;

/// A file to be made: path, mode and object.
pub(super) type Item<'i> = (&'i [u8], u32, ObjectId);

/// Where and how files are made.
#[derive(Clone, Copy)]
pub(super) struct Stage<'s> {
    /// The directory.
    pub tree: &'s Path,
    pub site: Site<'s>,
    pub dates: Dates,
    pub hash: Kind,
    pub attributes: &'s AttributeFiles,
    /// The repository that has the objects.
    pub room: Room<'s>,
}

/// Makes them; how many of them a program of the user's would have converted.
pub(super) fn make(stage: Stage<'_>, items: &[Item<'_>]) -> Result<u64, RestoreError> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let per_thread = items.len().div_ceil(threads);
    let per_thread = per_thread.max(RENEWED_FILES_PER_THREAD);
    std::thread::scope(|scope| {
        let parts = items.chunks(per_thread);
        let running: Vec<_> = parts
            .map(|part| scope.spawn(move || make_part(stage, part)))
            .collect();
        let mut filtered = 0;
        for thread in running {
            let made = thread.join();
            filtered += made.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        Ok(filtered)
    })
}

fn make_part(stage: Stage<'_>, items: &[Item<'_>]) -> Result<u64, RestoreError> {
    let site = stage.site;
    let mut writer = Writer::new(site);
    let mut contents = Contents::new(stage.room.tree, stage.hash, stage.attributes, site.stop)?;
    let mut filtered = 0;
    for (path, mode, id) in items {
        if site.stop.is_set() {
            return Err(stopped());
        }
        if *mode == SUBMODULE {
            writer.directory(path)?;
            continue;
        }
        let is_link = mode & libc::S_IFMT == libc::S_IFLNK;
        let executable = mode & libc::S_IXUSR != 0;
        filtered += u64::from(!is_link && contents.has_filter(path)?);
        match contents.make(path, *id, is_link)? {
            Made::Bytes(bytes) => {
                site.quota.take_entry(bytes.len() as u64)?;
                match is_link {
                    true => writer.symlink(path, bytes)?,
                    false => writer.file(path, executable, stage.dates.file_s(), bytes)?,
                }
            }
            Made::Large(bytes) => {
                site.quota.look(bytes)?;
                let above = path.iter().rposition(|b| *b == b'/').unwrap_or(0);
                writer.directory(&path[..above])?;
                large(stage, path, executable, *id)?;
            }
        }
    }
    Ok(filtered)
}

/// Has git write a blob as it is.
fn large(
    stage: Stage<'_>,
    path: &[u8],
    executable: bool,
    id: ObjectId,
) -> Result<(), RestoreError> {
    let stop = stage.site.stop;
    let said = run::check_out(stop, stage.room, &["unpack-file", &id.to_string()])?;
    let name = said.trim_ascii_end();
    let made = stage
        .room
        .tree
        .join(Path::new(std::ffi::OsStr::from_bytes(name)));
    let mode = if executable { 0o777 } else { 0o666 } & !stage.site.umask.bits();
    let date = SystemTime::UNIX_EPOCH
        + Duration::from_secs(u64::try_from(stage.dates.file_s()).unwrap_or_default());
    let set = File::options().write(true).open(&made).and_then(|file| {
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.set_times(FileTimes::new().set_accessed(date).set_modified(date))
    });
    set.map_err(failed("date", &made))?;
    let to = stage.tree.join(as_path(path));
    fs::rename(&made, &to).map_err(failed("rename to", &to))
}

/// What is written at the staging directory.
pub(super) fn site<'s>(
    root: &'s File,
    quota: &'s crate::restore::quota::Quota,
    stop: &'s crate::restore::stop::Stop,
) -> Site<'s> {
    Site {
        root: root.as_fd(),
        umask: crate::restore::write::umask(),
        quota,
        stop,
    }
}
