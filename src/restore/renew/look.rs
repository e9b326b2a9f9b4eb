//! Whether the files of a working copy are as its index says: all are looked at, and read are those of which their
//! stat data does not tell.

use std::fs::File;
use std::os::fd::BorrowedFd;
use std::path::Path;

use gix::ObjectId;
use rustix::fs::Stat;
use rustix::io::Errno;

use super::content::Contents;
use super::entries::Entries;
use crate::restore::error::RestoreError;
use crate::restore::index::{Directory, is_of_kind, put};
use crate::restore::path::as_path;
use crate::restore::quota::Quota;
use crate::restore::stop::Stop;
use crate::restore::write::stopped;
use crate::tree::index::{STAT_BYTES, SUBMODULE};
use crate::tree::rules::AttributeFiles;

/// Where an index has the device, which git does not compare.
const DEVICE: std::ops::Range<usize> = 16..20;
/// Where it has when a file was written, its number, and whose and how long it is.
const WRITTEN: std::ops::Range<usize> = 8..16;
const INODE: std::ops::Range<usize> = 20..24;
const OWNER_AND_SIZE: std::ops::Range<usize> = 28..STAT_BYTES;
/// Where it has the second of a file's last change.
const CHANGED_S: std::ops::Range<usize> = 8..12;

pub(super) type StatData = [u8; STAT_BYTES];

/// What was found out, by the numbers of the entries, which are in order. What is in neither list is as the index
/// says.
#[derive(Debug, Default)]
pub(super) struct Looked {
    /// What the index says but for the stat data, which is this.
    pub touched: Vec<(usize, StatData)>,
    /// Changed, or not there.
    pub changed: Vec<usize>,
    /// Whether all files were read, whatever their stat data says.
    pub has_read: bool,
}

impl Looked {
    /// What was found of the file of an entry that is not changed.
    fn stat<'e>(&'e self, entries: &'e Entries, number: usize) -> &'e [u8] {
        let touched = self.touched.binary_search_by_key(&number, |(at, _)| *at);
        touched.map_or(entries.get(number).stat(), |at| &self.touched[at].1[..])
    }

    /// Whether a file that was moved from the place of an entry is the one that was found there.
    pub(super) fn has_found(&self, entries: &Entries, number: usize, now: &Stat) -> bool {
        self.changed.binary_search(&number).is_err()
            && Stays::of(self.stat(entries, number)).is_of(now)
    }
}

/// What of a file's stat data stays when it is moved: all of it but the device, the mode, and when something of the file was
/// changed, as its name is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stays([u8; WRITTEN_BYTES + INODE_BYTES + OWNER_AND_SIZE_BYTES]);

const WRITTEN_BYTES: usize = WRITTEN.end - WRITTEN.start;
const INODE_BYTES: usize = INODE.end - INODE.start;
const OWNER_AND_SIZE_BYTES: usize = OWNER_AND_SIZE.end - OWNER_AND_SIZE.start;

impl Stays {
    pub(super) fn of(stat: &[u8]) -> Stays {
        let mut stays = Stays([0; WRITTEN_BYTES + INODE_BYTES + OWNER_AND_SIZE_BYTES]);
        let parts = [WRITTEN, INODE, OWNER_AND_SIZE]
            .into_iter()
            .flat_map(|part| &stat[part]);
        stays
            .0
            .iter_mut()
            .zip(parts)
            .for_each(|(to, from)| *to = *from);
        stays
    }

    /// Whether a file is the one of this stat data, wherever that was.
    pub(super) fn is_of(&self, now: &Stat) -> bool {
        let mut stat = [0; STAT_BYTES];
        put(&mut stat, 0, now);
        *self == Stays::of(&stat)
    }
}

/// Where files are looked at.
#[derive(Clone, Copy)]
pub(super) struct Ground<'g> {
    pub root: BorrowedFd<'g>,
    /// Whether modes say who may execute a file.
    pub executable: bool,
    /// A repository that has the objects.
    pub objects: &'g Path,
    /// Whether stat data is not enough.
    pub reads_all: bool,
    /// For what is too large to be held.
    pub quota: &'g Quota,
    pub stop: &'g Stop,
}

/// Looks at files one after the other; one for each thread.
pub(super) struct Eye<'g> {
    directory: Directory<'g>,
    executable: bool,
    contents: Contents<'g>,
}

fn is_absent(e: Errno) -> bool {
    matches!(e, Errno::NOENT | Errno::NOTDIR | Errno::LOOP)
}

impl<'g> Eye<'g> {
    /// Files are as these attributes have them.
    pub(super) fn new(
        ground: Ground<'g>,
        hash: gix::hash::Kind,
        attributes: &AttributeFiles,
    ) -> Result<Eye<'g>, RestoreError> {
        Ok(Eye {
            directory: Directory::new(ground.root, ground.stop),
            executable: ground.executable,
            contents: Contents::new(
                ground.objects,
                hash,
                attributes,
                (ground.quota, ground.stop),
            )?,
        })
    }

    /// The stat data of what is at `path`, if that is of the mode.
    fn stat(&mut self, path: &[u8], mode: u32) -> Result<Option<(StatData, u64)>, RestoreError> {
        let found = match self.directory.stat(path) {
            Ok(found) => found,
            Err(e) if is_absent(e) => return Ok(None),
            Err(e) => return Err(RestoreError::disk("look at", as_path(path), e)),
        };
        let mut stat = [0; STAT_BYTES];
        put(&mut stat, mode, &found);
        let bytes = found.st_size.cast_unsigned();
        Ok(is_of_kind(mode, found.st_mode, self.executable).then_some((stat, bytes)))
    }

    /// The stat data of what is at `path`, if that is what is written there for an entry of a tree.
    pub(super) fn is_of(
        &mut self,
        path: &[u8],
        (mode, id): (u32, ObjectId),
    ) -> Result<Option<StatData>, RestoreError> {
        let Some((stat, bytes)) = self.stat(path, mode)? else {
            return Ok(None);
        };
        Ok(self.reads(path, (mode, id), bytes)?.then_some(stat))
    }

    /// Whether there is neither a file nor a link at `path`.
    pub(super) fn has_no_file(&mut self, path: &[u8]) -> Result<bool, RestoreError> {
        match self.directory.stat(path) {
            Ok(found) => Ok(found.st_mode & libc::S_IFMT == libc::S_IFDIR),
            Err(e) if is_absent(e) => Ok(true),
            Err(e) => Err(RestoreError::disk("look at", as_path(path), e)),
        }
    }

    /// Whether there is nothing at `path`.
    pub(super) fn is_absent(&mut self, path: &[u8]) -> Result<bool, RestoreError> {
        match self.directory.stat(path) {
            Ok(_) => Ok(false),
            Err(e) if is_absent(e) => Ok(true),
            Err(e) => Err(RestoreError::disk("look at", as_path(path), e)),
        }
    }

    fn reads(
        &mut self,
        path: &[u8],
        (mode, id): (u32, ObjectId),
        bytes: u64,
    ) -> Result<bool, RestoreError> {
        let failed = |e: Errno| RestoreError::disk("read", as_path(path), e);
        let is_link = mode & libc::S_IFMT == libc::S_IFLNK;
        if mode == SUBMODULE {
            return Ok(true);
        }
        if is_link {
            let said = match self.directory.link(path) {
                Ok(said) => said,
                Err(e) if is_absent(e) || e == Errno::INVAL => return Ok(false),
                Err(e) => return Err(failed(e)),
            };
            let bytes = said.len() as u64;
            return self.contents.is_of((path, id), &said[..], bytes, true);
        }
        let file: File = match self.directory.file(path) {
            Ok(file) => file,
            // It was taken away meanwhile.
            Err(e) if is_absent(e) => return Ok(false),
            Err(e) => return Err(failed(e)),
        };
        self.contents.is_of((path, id), file, bytes, false)
    }
}

/// Looks at all files of an index.
pub(super) fn look(
    ground: Ground<'_>,
    entries: &Entries,
    attributes: &AttributeFiles,
) -> Result<Looked, RestoreError> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let per_thread = entries.len().div_ceil(threads).max(1);
    std::thread::scope(|scope| {
        let mut running = Vec::new();
        for from in (0..entries.len()).step_by(per_thread) {
            let range = from..(from + per_thread).min(entries.len());
            running.push(scope.spawn(move || look_part(ground, entries, range, attributes)));
        }
        let mut all = Looked::default();
        for thread in running {
            let part = thread.join();
            let part = part.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            all.touched.extend(part.touched);
            all.changed.extend(part.changed);
        }
        all.has_read = ground.reads_all;
        Ok(all)
    })
}

fn look_part(
    ground: Ground<'_>,
    entries: &Entries,
    range: std::ops::Range<usize>,
    attributes: &AttributeFiles,
) -> Result<Looked, RestoreError> {
    let mut eye = Eye::new(ground, entries.hash, attributes)?;
    let mut looked = Looked::default();
    for number in range {
        if ground.stop.is_set() {
            return Err(stopped());
        }
        let entry = entries.get(number);
        let (path, mode) = (entry.path(), entry.mode());
        let Some((stat, bytes)) = eye.stat(path, mode)? else {
            looked.changed.push(number);
            continue;
        };
        let is_told = || !ground.reads_all && is_told(entry.stat(), &stat, entries.dated_s);
        if entry.is_submodule() || is_told() {
            continue;
        }
        match eye.reads(path, (mode, entry.id()), bytes)? {
            true => looked.touched.push((number, stat)),
            false => looked.changed.push(number),
        }
    }
    Ok(looked)
}

/// Those of some entries whose file is not what was found there. Those that were changed then are not looked at.
pub(super) fn changed_since(
    ground: Ground<'_>,
    entries: &Entries,
    looked: &Looked,
    numbers: impl Iterator<Item = usize>,
) -> Result<Vec<usize>, RestoreError> {
    let mut directory = Directory::new(ground.root, ground.stop);
    let mut changed = Vec::new();
    for number in numbers {
        let entry = entries.get(number);
        if entry.is_submodule() || looked.changed.binary_search(&number).is_ok() {
            continue;
        }
        let mut now = [0; STAT_BYTES];
        match directory.stat(entry.path()) {
            Ok(found) => put(&mut now, entry.mode(), &found),
            Err(e) if is_absent(e) => {}
            Err(e) => return Err(RestoreError::disk("look at", as_path(entry.path()), e)),
        }
        if !is_same(looked.stat(entries, number), &now) {
            changed.push(number);
        }
    }
    Ok(changed)
}

/// Whether stat data is the same, but for the device.
fn is_same(before: &[u8], now: &StatData) -> bool {
    before[..DEVICE.start] == now[..DEVICE.start] && before[DEVICE.end..] == now[DEVICE.end..]
}

/// Whether stat data tells that a file is as it was when its index was written: the same, and older than the index
/// by a second. What is as young may have been changed since.
fn is_told(before: &[u8], now: &StatData, dated_s: i64) -> bool {
    let changed_s = u32::from_be_bytes([0, 1, 2, 3].map(|n| now[CHANGED_S][n]));
    is_same(before, now) && i64::from(changed_s) < dated_s
}
