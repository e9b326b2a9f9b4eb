//! What a snapshot takes over from an earlier one: the frames of jobs and of the index, found by their
//! keys or for a whole directory that is still the same; and the checksums of packs that are still the
//! same files.
//!
//! In come an earlier entry's outline and its files of frames, each looked at once a process before
//! anything is built on it. Out come frames, which stay where they are: the new entry links their files.
//! Those of files that are joined are copied into its own instead, so that there are never many, nor many
//! that are mostly of no use.

use std::collections::HashMap;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use gix::ObjectId;
use gix::bstr::BStr;
use xxhash_rust::xxh64::{Xxh64, xxh64};

use super::lie::is_wasteful;
use super::verify::{FileId, Verified};
use crate::archive::open_files::OpenFile;
use crate::extent::{Extent, Layout, raw_frames};
use crate::limits::{FRAMES_FILES_JOINED, FRAMES_FILES_MAX, META_BYTES_MAX, SUM_READ_BYTES};
use crate::manifest::meta::{META_NAME, Meta};
use crate::manifest::outline::{OUTLINE_NAME, Outline};
use crate::manifest::record::{Chunk, Linked, Record, Stretch};
use crate::tree::walk::Chain;

/// An earlier entry of the repository.
pub(crate) struct Base {
    dir: PathBuf,
    outline: Outline,
    /// The files that the outline lists.
    parts: Vec<BasePart>,
    sums: Sums,
    /// When it was last looked at as a whole.
    looked_at: Option<SystemTime>,
    clean: Clean,
}

/// Which files are joined besides those that have to be, for there would be too many.
#[derive(Clone, Copy)]
enum Clean {
    None,
    /// Those that have something of no use and were written before then.
    Before(SystemTime),
    /// Those that have anything of no use.
    Dead,
    /// All, so that what one archive has lies in its order.
    Order,
}

/// A file of frames of an earlier entry.
struct BasePart {
    file: Linked,
    /// Bytes of it that the entry's archive has, of those that can be taken over.
    live_bytes: u64,
    /// When it was written.
    made_at: Option<SystemTime>,
}

impl BasePart {
    /// Whether something in it has been of no use since before then, or can have been.
    fn has_dead_before(&self, then: SystemTime) -> bool {
        self.live_bytes < self.file.bytes && self.made_at.is_none_or(|at| at < then)
    }
}

impl Base {
    /// The entry in `dir`. Without it, or if it cannot be read, a build only takes longer.
    pub(crate) fn open(dir: &Path) -> Option<Base> {
        let meta = Meta::decode(&read(&dir.join(META_NAME))?).ok()?;
        let outline = Outline::decode(&read(&dir.join(OUTLINE_NAME))?).ok()?;
        let spool = Linked {
            path: meta.spool.clone(),
            bytes: meta.spool_bytes(),
            whole: Some(meta.spool_checksum),
        };
        let part = |path: &String| {
            let files = std::iter::once(&spool).chain(&meta.linked);
            let file = files.into_iter().find(|file| file.path == *path);
            let file = file.filter(|file| file.whole.is_some())?.clone();
            let found = fs::metadata(dir.join(path));
            Some(BasePart {
                file,
                live_bytes: 0,
                made_at: found.and_then(|found| found.modified()).ok(),
            })
        };
        let mut parts = outline.parts.iter().map(part).collect::<Option<Vec<_>>>()?;
        for (at, _) in outline.stretches() {
            let part = &mut parts[at.part as usize];
            if at.offset + at.bytes > part.file.bytes {
                return None;
            }
            part.live_bytes += at.bytes;
        }
        let sums = Sums::of(dir, &meta.linked, &meta.layout);
        Some(Base {
            dir: dir.to_owned(),
            outline,
            parts,
            sums,
            looked_at: fs::metadata(dir.join(META_NAME))
                .and_then(|found| found.modified())
                .ok(),
            clean: Clean::None,
        })
    }

    /// How many files of frames there are to take over.
    pub(crate) fn parts(&self) -> usize {
        self.parts.len()
    }

    /// Has the files joined that have anything of no use, so that nothing of it is left.
    pub(crate) fn without_dead(mut self) -> Base {
        self.clean = Clean::Dead;
        self
    }

    /// Has all files joined: the frames lie in the order of the archive then, in one file.
    pub(crate) fn in_order(mut self) -> Base {
        self.clean = Clean::Order;
        self
    }

    /// The same of those that were written before then: what is of no use goes after a while, whatever has
    /// become of the mirror that it came from and of who was to see to it.
    pub(crate) fn without_dead_before(mut self, then: SystemTime) -> Base {
        self.clean = Clean::Before(then);
        self
    }

    /// Whether there are any.
    pub(crate) fn has_dead_before(&self, then: SystemTime) -> bool {
        self.parts.iter().any(|part| part.has_dead_before(then))
    }

    /// Opens the files that are sound, and decides which are joined. `open` opens a file at a path. What
    /// is to be linked is [`Reuse::linked`] then. Once `stops` none is taken.
    pub(crate) fn take(
        self,
        verified: &Verified,
        stops: impl Fn() -> bool,
        mut open: impl FnMut(&Path) -> Option<Arc<OpenFile>>,
    ) -> Reuse {
        // Before anything is taken for sound.
        let forgotten = verified.forgotten();
        let mut join = to_join(&self.parts);
        for (part, join) in self.parts.iter().zip(&mut join) {
            *join |= match self.clean {
                Clean::None => false,
                Clean::Before(then) => part.has_dead_before(then),
                Clean::Dead => part.live_bytes < part.file.bytes,
                Clean::Order => true,
            };
        }
        let mut linked = Vec::new();
        let mut taken = Vec::new();
        for (part, join) in self.parts.iter().zip(join) {
            let path = self.dir.join(&part.file.path);
            let sound = (part.live_bytes > 0).then(|| open(&path)).flatten();
            let sound = sound.filter(|file| is_sound(file.file(), &part.file, verified, &stops));
            taken.push(match sound {
                None => Taken::Not,
                Some(file) if join => Taken::Joined(file),
                Some(open) => {
                    linked.push(LinkedFrames {
                        source: path,
                        file: part.file.clone(),
                        open: open.clone(),
                    });
                    Taken::Linked {
                        part: linked.len() as u32,
                        open,
                    }
                }
            });
        }
        let looked_at = self.looked_at.filter(|_| !linked.is_empty());
        Reuse {
            looked_at,
            forgotten,
            ..Reuse::new(self.outline, taken, linked, self.sums)
        }
    }
}

fn read(path: &Path) -> Option<Vec<u8>> {
    let bytes = fs::metadata(path).ok()?.len();
    (bytes <= META_BYTES_MAX).then(|| fs::read(path).ok())?
}

/// Whether a file of frames is what was written; it is read for that once a process.
fn is_sound(file: &File, expected: &Linked, verified: &Verified, stops: impl Fn() -> bool) -> bool {
    let look = || -> io::Result<bool> {
        let found = file.metadata()?;
        let id = FileId::of(&found);
        if found.len() != expected.bytes {
            return Ok(false);
        }
        if verified.has(&id, expected.whole) {
            return Ok(true);
        }
        let mut checksum = Xxh64::new(0);
        let mut buffer = vec![0; SUM_READ_BYTES];
        let mut at = 0;
        while at < expected.bytes {
            if stops() {
                return Err(io::Error::other("the server is shutting down"));
            }
            let len = (expected.bytes - at).min(buffer.len() as u64);
            let part = &mut buffer[..len as usize];
            file.read_exact_at(part, at)?;
            checksum.update(part);
            at += len;
        }
        let is_sound = Some(checksum.digest()) == expected.whole;
        if is_sound {
            verified.add(id, expected.whole);
        }
        Ok(is_sound)
    };
    let path = &expected.path;
    match look() {
        Ok(true) => true,
        Ok(false) => {
            tracing::warn!("frames of the previous snapshot are not used: {path} is damaged");
            false
        }
        Err(e) => {
            tracing::warn!("frames of the previous snapshot are not used: cannot read {path}: {e}");
            false
        }
    }
}

/// Which files are joined into the new one. The smallest, where there would be too many: so of a file's
/// bytes each is copied as often as files get larger by a factor, which is a few times at most. And
/// those that are mostly of no use, until what is of no use is less than a half of what is.
fn to_join(parts: &[BasePart]) -> Vec<bool> {
    let mut join = vec![false; parts.len()];
    let mut alive = Vec::from_iter((0..parts.len()).filter(|n| parts[*n].live_bytes > 0));
    let dead = |n: &usize| parts[*n].file.bytes.saturating_sub(parts[*n].live_bytes);
    if needs_joining(parts) {
        let live: u64 = parts.iter().map(|part| part.live_bytes).sum();
        let mut left: u64 = alive.iter().map(dead).sum();
        alive.sort_by_key(|n| std::cmp::Reverse(dead(n)));
        for n in &alive {
            if left <= live / 2 {
                break;
            }
            (join[*n], left) = (true, left - dead(n));
        }
    }
    alive.retain(|n| !join[*n]);
    if alive.len() + 1 >= FRAMES_FILES_MAX {
        alive.sort_by_key(|n| parts[*n].live_bytes);
        for n in alive.iter().take(FRAMES_FILES_JOINED) {
            join[*n] = true;
        }
    }
    join
}

/// Whether more bytes are of no use than are of use.
fn needs_joining(parts: &[BasePart]) -> bool {
    let linked = parts.iter().filter(|part| part.live_bytes > 0);
    is_wasteful(linked.map(|part| (part.file.bytes, part.live_bytes)))
}

/// What a disk has done that gives other bytes than before.
pub(super) fn changed() -> io::Error {
    io::Error::other("they have changed since they were looked at")
}

/// A file of frames that a new entry links.
pub(crate) struct LinkedFrames {
    /// Where it is now.
    pub source: PathBuf,
    /// What it is in the new entry.
    pub file: Linked,
    /// It, open.
    pub open: Arc<OpenFile>,
}

/// What becomes of an earlier entry's file of frames.
enum Taken {
    /// It is of no use, or damaged.
    Not,
    /// The new entry links it: as this part of its outline.
    Linked { part: u32, open: Arc<OpenFile> },
    /// What is of use is copied.
    Joined(Arc<OpenFile>),
}

/// See the module's text.
#[derive(Default)]
pub struct Reuse {
    outline: Outline,
    taken: Vec<Taken>,
    jobs: HashMap<[u8; 32], u32>,
    chunks: HashMap<[u8; 32], Chunk>,
    /// Large directories by their paths; empty unless whole ones can be taken over.
    directories: HashMap<Vec<u8>, u32>,
    /// The files that are linked, behind others.
    pub(crate) linked: Vec<LinkedFrames>,
    /// When these were last read from the disk, if there are any.
    pub(crate) looked_at: Option<SystemTime>,
    /// See [`Verified::forgotten`].
    pub(crate) forgotten: u64,
    files_before: u32,
    /// The checksums of its packs.
    pub(super) sums: Sums,
}

/// How frames get into the new archive.
pub(super) enum Frames<'a> {
    /// They stay where they are, which is a linked file, by its number.
    Linked { at: Stretch, file: u32 },
    /// They are copied from here.
    Copied(&'a File),
}

impl Reuse {
    fn new(outline: Outline, taken: Vec<Taken>, linked: Vec<LinkedFrames>, sums: Sums) -> Reuse {
        let is_there = |at: &Stretch| !matches!(taken[at.part as usize], Taken::Not);
        let jobs = outline.jobs.iter().enumerate();
        let jobs = jobs.filter(|(_, job)| is_there(&job.at));
        let jobs = HashMap::from_iter(jobs.map(|(n, job)| (job.key, n as u32)));
        let chunks = outline.entries.iter().chain(&outline.lines);
        let chunks = chunks.filter(|chunk| is_there(&chunk.at));
        let chunks = HashMap::from_iter(chunks.map(|chunk| (chunk.key, chunk.clone())));
        let whole = outline.stretches().all(|(at, _)| is_there(&at));
        let directories = outline.directories.iter().enumerate().filter(|_| whole);
        let directories = directories.map(|(n, directory)| (directory.path.clone(), n as u32));
        Reuse {
            directories: directories.collect(),
            jobs,
            chunks,
            outline,
            taken,
            linked,
            looked_at: None,
            forgotten: 0,
            files_before: 0,
            sums,
        }
    }

    /// The new archive links so many files before those of frames.
    pub(crate) fn follow(&mut self, files: usize) {
        self.files_before = files as u32;
    }

    /// Takes no directory as a whole if the earlier entry was made otherwise than by `made_with`.
    pub(super) fn made_with(mut self, made_with: &[u8; 32]) -> Reuse {
        if self.outline.made_with != *made_with {
            self.directories.clear();
        }
        self
    }

    /// The outline that the stretches below are of.
    pub(super) fn outline(&self) -> &Outline {
        &self.outline
    }

    /// Whether no job's frames are known.
    pub(super) fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// The job of this key, of so many entries, if its frames are known.
    pub(super) fn job(&self, key: &[u8; 32], entries: usize) -> Option<&Record> {
        let number = *self.jobs.get(key)?;
        let record = &self.outline.jobs[number as usize];
        (record.sizes.len() == entries).then_some(record)
    }

    /// The frame of the index of this key, if it is known.
    pub(super) fn chunk(&self, key: &[u8; 32], raw_bytes: usize) -> Option<&Chunk> {
        let chunk = self.chunks.get(key)?;
        (chunk.raw_bytes as usize == raw_bytes).then_some(chunk)
    }

    /// The number of the large directory that is still the same, with all that is below it.
    pub(super) fn directory(&self, path: &BStr, id: &ObjectId, inherited: &Chain) -> Option<u32> {
        let number = *self.directories.get::<[u8]>(path)?;
        let found = &self.outline.directories[number as usize];
        (found.id == id.as_bytes() && found.inherited == *inherited).then_some(number)
    }

    /// How frames of the earlier entry are taken over.
    pub(super) fn frames(&self, at: &Stretch) -> Option<Frames<'_>> {
        match &self.taken[at.part as usize] {
            Taken::Not => None,
            Taken::Linked { part, .. } => {
                let at = Stretch { part: *part, ..*at };
                // The entry's own is part 0, and no linked file.
                let file = self.files_before + part - 1;
                Some(Frames::Linked { at, file })
            }
            Taken::Joined(file) => Some(Frames::Copied(file.file())),
        }
    }

    /// Reads frames of the earlier entry and compares them with their checksum.
    pub(super) fn read(&self, at: &Stretch, checksum: u64) -> io::Result<Vec<u8>> {
        let file = match &self.taken[at.part as usize] {
            Taken::Not => return Err(io::ErrorKind::NotFound.into()),
            Taken::Linked { open, .. } | Taken::Joined(open) => open.file(),
        };
        let mut frames = vec![0; at.bytes as usize];
        file.read_exact_at(&mut frames, at.offset)?;
        match xxh64(&frames, 0) == checksum {
            true => Ok(frames),
            false => Err(changed()),
        }
    }
}

/// The checksums of the frames of packs that an earlier snapshot has linked. They hold for the same file
/// alone, by its device, inode, length and date, which its link keeps from being given to another; that it is
/// sound is checked as for any build (see [`super::verify`]).
#[derive(Debug, Default)]
pub(crate) struct Sums(HashMap<FileId, Vec<u32>>);

impl Sums {
    /// Those of an archive of this layout, whose linked files are below `dir`.
    pub(super) fn of(dir: &Path, linked: &[Linked], layout: &Layout) -> Sums {
        let mut sums = HashMap::new();
        for extent in layout.extents() {
            let Extent::RawRun {
                file,
                offset: 0,
                len,
                first_checksum,
            } = *extent
            else {
                continue;
            };
            let linked = linked.get(file as usize).filter(|l| l.bytes == len);
            // Without them a build only takes longer.
            if let Some(linked) = linked
                && let Ok(found) = std::fs::metadata(dir.join(&linked.path))
                && found.len() == len
            {
                let own = &layout.checksums()[first_checksum as usize..];
                let own = own[..raw_frames(len) as usize].to_vec();
                sums.insert(FileId::of(&found), own);
            }
        }
        Sums(sums)
    }

    /// Those of this file, if they are known.
    pub(super) fn find(&self, file: &Metadata) -> Option<&[u32]> {
        self.0.get(&FileId::of(file)).map(Vec::as_slice)
    }
}
