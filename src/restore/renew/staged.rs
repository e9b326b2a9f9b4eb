//! The files that a working copy gets, made in a staging directory: a disk that is full shows before anything of the
//! working copy is touched.

use std::fs::File;
use std::os::fd::AsFd;

use gix::ObjectId;
use gix::bstr::ByteSlice;
use gix::hash::Kind;

use super::content::{Contents, Made};
use crate::limits::RENEWED_FILES_PER_THREAD;
use crate::restore::dates::Dates;
use crate::restore::error::RestoreError;
use crate::restore::index::Directory;
use crate::restore::large::ToFile;
use crate::restore::path::as_path;
use crate::restore::run::Room;
use crate::restore::write::{Site, Writer, stopped};
use crate::tree::index::SUBMODULE;
use crate::tree::rules::AttributeFiles;

/// A file to be made: path, mode and object.
pub(super) type Item<'i> = (&'i [u8], u32, ObjectId);

/// Where and how files are made.
#[derive(Clone, Copy)]
pub(super) struct Stage<'s> {
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
    let mut contents = Contents::new(
        stage.room.tree,
        stage.hash,
        stage.attributes,
        (site.quota, site.stop),
    )?;
    // Nothing is done to them once they have their places.
    let mut directory = Directory::new(site.root, site.stop);
    let mut date = |path: &[u8]| {
        let found = directory.stat(path);
        let dated = found.and_then(|found| directory.date(path, found, stage.dates));
        dated.map_err(|e| RestoreError::disk("date", as_path(path), e))
    };
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
                    true => {
                        writer.symlink(path, bytes)?;
                        date(path)?;
                    }
                    false => writer.file(path, executable, stage.dates.file_s(), bytes)?,
                }
            }
            Made::Large(conversions) => {
                let to = (path.as_bstr(), executable);
                let file = ToFile::new(&mut writer, site, to, stage.dates.file_s());
                contents.write_large(file, *id, &conversions)?;
            }
        }
    }
    Ok(filtered)
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
