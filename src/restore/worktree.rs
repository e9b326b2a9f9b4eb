//! The worktree, made from the packs alone: what the index of a commit lists is written by all cores, each file as its
//! blob and its attributes have it. It is the same as an archive's frames have it, as both come from the same decoder
//! and the same conversions. Packs may still come: what a walk of the trees has found ([`found`]) is made while it goes
//! on, and what has come of that first ([`turns`]).

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use gix::bstr::BStr;
use gix::hash::{ObjectId, oid};

use super::blobs::{Attributes, BlobReader, Blobs};
use super::dates::Dates;
use super::error::RestoreError;
use super::in_the_way::Watch;
use super::index::Listed;
use super::large::{self, ToFile};
use super::objects::Objects;
use super::progress::Progress;
use super::quota::{Allowed, Quota};
use super::spill::Spill;
use super::stop::Stop;
use super::tree::{Unpacked, plan};
use super::write::{Site, Writer, Written, stopped};
use crate::limits::{
    EARLY_ATTRIBUTE_FILES_MAX, HELD_CONVERTED_BYTES, PATH_BYTES_MAX, RESTORED_ATTRIBUTES_BYTES,
    WORKTREE_WORKERS_MAX,
};
use crate::tree::decoder::Packs;
use crate::tree::filter::{Conversions, Filter, FilterError};
use crate::tree::index::{SUBMODULE, mode};
use crate::tree::rules::AttributeFiles;
use crate::tree::walk::ATTRIBUTES_FILE;
use found::Finder;
use turns::{Ends, Turns};

mod found;
mod turns;

/// What becomes of the blobs of a worktree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Task {
    /// Files are made of them, and what they are is believed.
    Make,
    /// Files are made of them, and each is proven to be what its id says.
    MakeProven,
    /// They are proven, and nothing is made.
    Prove,
}

/// How a worktree is to be made.
pub(super) struct Making<'m> {
    pub site: Site<'m>,
    pub dates: Dates,
    pub progress: &'m Progress,
    /// What sees whether something is in the way.
    pub way: Option<Watch<'m>>,
    pub task: Task,
    /// How many threads make it.
    pub workers: usize,
    /// What is there of it, if it was begun in another way: what of that is whole is what it is to be.
    pub begun: Option<Unpacked>,
    /// Once it is made.
    pub made: Option<Made>,
}

/// A worktree that was made.
pub(super) struct Made {
    pub commit: ObjectId,
    /// Of how many packs.
    pub packs: usize,
    /// The index that lists it.
    pub index: Vec<u8>,
    /// If that was its task.
    pub proven: Option<Proven>,
}

/// A commit, its trees and all blobs that they list were each found to be what its id says, in every pack that has it. Only
/// who has read them makes one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Proven(());

/// How many threads make a worktree on this machine.
pub(super) fn workers() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    cores.min(WORKTREE_WORKERS_MAX)
}

/// Packs that a worktree is made from.
pub(super) enum From {
    /// All of them are there.
    There,
    /// They still come.
    Coming(Packs),
}

impl Making<'_> {
    /// Makes what `commit` lists in the repository at `tree`. Packs that are there have been looked at; of those that
    /// come, their indexes.
    pub(super) fn run(
        &mut self,
        tree: &Path,
        commit: ObjectId,
        from: From,
    ) -> Result<(), RestoreError> {
        let (hash, stop) = (commit.kind(), self.site.stop);
        let is_coming = matches!(from, From::Coming(_));
        let packs = match from {
            From::Coming(packs) => packs,
            From::There => {
                let opened = Packs::open_all(&tree.join(".git"), hash);
                opened.map_err(|e| RestoreError::entry(b".git/objects/pack", e.to_string()))?
            }
        };
        let packs = Arc::new(packs);
        let packs_made_of = packs.iter().count();
        let git = tree.join(".git");
        let spill = Spill {
            directory: &git,
            quota: self.site.quota,
        };
        let is_proven = self.task != Task::Make;
        let workers = (is_proven, self.workers);
        let blobs = Blobs::of(packs.clone(), tree, hash, spill, workers, stop)?;
        let objects = Objects::of(packs.clone(), tree, hash, stop);
        let mut way = self.way.take();
        let there = self.begun.unwrap_or_default();
        let written = Written::beside(there.files, there.directories);
        let shared = Shared {
            written: &written,
            making: self,
            id_bytes: hash.len_in_bytes(),
            turns: Turns::new(is_coming.then_some(&*packs), stop),
            blobs: &blobs,
            spill,
            failure: Mutex::new(None),
        };
        let index = shared.run(&objects, commit, way.as_mut())?;
        self.way = way;
        self.made = Some(Made {
            commit,
            packs: packs_made_of,
            index,
            proven: is_proven.then_some(Proven(())),
        });
        Ok(())
    }
}

/// What all workers share.
struct Shared<'s, 'm> {
    making: &'s Making<'m>,
    id_bytes: usize,
    turns: Turns<'s>,
    blobs: &'s Blobs<'s>,
    spill: Spill<'s>,
    written: &'s Written,
    failure: Mutex<Option<RestoreError>>,
}

impl Shared<'_, '_> {
    /// Makes what `commit` lists while that is found; gives the index of it.
    fn run(
        self,
        objects: &Objects<'_>,
        commit: ObjectId,
        way: Option<&mut Watch<'_>>,
    ) -> Result<Vec<u8>, RestoreError> {
        let Site { quota, stop, .. } = self.making.site;
        // What is only proven takes no room.
        let all = Quota::new(Allowed::Bytes(u64::MAX), Path::new("."))?;
        let quota = match self.making.task {
            Task::Prove => &all,
            Task::Make | Task::MakeProven => quota,
        };
        let planned = std::thread::scope(|scope| {
            for _ in 0..self.making.workers {
                scope.spawn(|| {
                    let _panics = Panics(stop);
                    self.work().map_err(|error| self.fail(error))
                });
            }
            let _ends = Ends(&self.turns);
            let mut finder = Finder::new(&self.turns, self.blobs, way, commit.kind());
            let planned = plan(objects, commit, quota, &mut finder, stop);
            planned.map_err(|error| self.fail(error))
        });
        let failure = self.failure.into_inner();
        let (index, all) = match (failure.unwrap_or_else(PoisonError::into_inner), planned) {
            (None, Ok(planned)) => planned,
            (Some(error), _) => return Err(error),
            (None, Err(())) => return Err(stopped()),
        };
        self.written.expect_whole()?;
        if let Some(begun) = self.making.begun {
            // All that the commit has was found or made.
            Unpacked::of(self.written).check(all)?;
            (0..begun.directories).try_for_each(|_| quota.take_entry(0))?;
        }
        Ok(index)
    }

    /// Ends all; the first one says why.
    fn fail(&self, error: RestoreError) {
        let failure = self.failure.lock();
        let mut failure = failure.unwrap_or_else(PoisonError::into_inner);
        failure.get_or_insert(error);
        self.making.site.stop.set();
    }

    /// Makes entries until there are no more.
    fn work(&self) -> Result<(), RestoreError> {
        let mut maker = Maker::new(self);
        let mut turns = Vec::new();
        loop {
            self.turns.take(&mut turns);
            if turns.is_empty() {
                return Ok(());
            }
            let began = Instant::now();
            for turn in &turns {
                if self.making.site.stop.is_set() {
                    return Err(stopped());
                }
                let entry = Listed::of(turn.entry(), self.id_bytes);
                match self.making.task {
                    Task::Make | Task::MakeProven => {
                        maker.convert_by(&turn.batch.attributes)?;
                        maker.make(entry)?;
                    }
                    Task::Prove if entry.mode == SUBMODULE => {}
                    Task::Prove => maker.reader.look(entry.id)?,
                }
            }
            let decoded = std::mem::take(&mut maker.decoded);
            self.making.progress.decoded(decoded);
            let took = began.elapsed().saturating_sub(decoded);
            if self.making.task != Task::Prove {
                self.making.progress.written(turns.len(), took);
            }
        }
    }
}

/// Ends all where a worker panics: who finds entries would wait for it.
struct Panics<'p>(&'p Stop);

impl Drop for Panics<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.set();
        }
    }
}

/// What one worker makes entries with.
struct Maker<'s> {
    writer: Writer<'s>,
    reader: BlobReader<'s>,
    /// `None` where nothing is converted.
    filter: Option<(Filter, Attributes<'s>)>,
    /// How many files of attributes it was made of: all that say what becomes of what was made.
    attribute_files: usize,
    blobs: &'s Blobs<'s>,
    spill: Spill<'s>,
    site: Site<'s>,
    /// How many do as it does.
    workers: usize,
    mtime_s: i64,
    /// Whether some of it may be there already.
    is_begun: bool,
    /// Time that was not spent with writing.
    decoded: Duration,
}

impl<'s> Maker<'s> {
    fn new(shared: &'s Shared<'_, '_>) -> Maker<'s> {
        Maker {
            writer: Writer::counting(shared.making.site, shared.written),
            reader: shared.blobs.reader(),
            filter: None,
            attribute_files: 0,
            blobs: shared.blobs,
            spill: shared.spill,
            site: shared.making.site,
            workers: shared.making.workers.max(1),
            mtime_s: shared.making.dates.file_s(),
            is_begun: shared.making.begun.is_some(),
            decoded: Duration::ZERO,
        }
    }

    /// From here on files are converted as at least these `attributes` say: one that was found later says nothing of what
    /// was found before.
    fn convert_by(&mut self, attributes: &AttributeFiles) -> Result<(), RestoreError> {
        if attributes.count() > self.attribute_files {
            self.attribute_files = attributes.count();
            let limit_bytes = RESTORED_ATTRIBUTES_BYTES / self.workers;
            let blobs = Attributes::of(self.blobs, limit_bytes / 2);
            // To look at many takes longer than it saves.
            let is_few = attributes.count() <= EARLY_ATTRIBUTE_FILES_MAX;
            if is_few && !attributes.may_convert(&blobs) {
                return Ok(());
            }
            let filter = Filter::new(attributes, limit_bytes);
            let filter = filter.map_err(|e| RestoreError::entry(ATTRIBUTES_FILE, e.to_string()))?;
            self.filter = Some((filter, blobs));
        }
        Ok(())
    }

    fn make(&mut self, entry: Listed<'_>) -> Result<(), RestoreError> {
        let (path, id) = (entry.path, entry.id);
        if self.is_begun
            && entry.mode != SUBMODULE
            && let Some(bytes) = self.writer.find(path, self.mtime_s)?
        {
            return self.site.quota.take_entry(bytes);
        }
        match entry.mode {
            SUBMODULE => self.writer.directory(path),
            LINK => self.link(path, id),
            mode => self.file(path, id, mode == EXECUTABLE),
        }
    }

    fn link(&mut self, path: &BStr, id: &oid) -> Result<(), RestoreError> {
        let why = "its target is empty, too long, or has a NUL";
        let refused = || RestoreError::entry(path, why);
        let spilled;
        let target = match self.reader.hold(id)? {
            true => &self.reader.held[..],
            false => {
                spilled = self.reader.spilled(id)?;
                &spilled[..]
            }
        };
        let is_path = (1..=PATH_BYTES_MAX).contains(&target.len());
        if !is_path || target.contains(&0) {
            return Err(refused());
        }
        self.site.quota.take_entry(0)?;
        self.writer.symlink(path, target)
    }

    fn file(&mut self, path: &BStr, id: &oid, executable: bool) -> Result<(), RestoreError> {
        let began = Instant::now();
        let conversions = match &mut self.filter {
            None => Conversions::default(),
            Some((filter, attributes)) => {
                let conversions = filter.conversions(path, attributes);
                conversions.map_err(|e| unconverted(path, &e))?
            }
        };
        if !self.reader.hold(id)? {
            self.decoded += began.elapsed();
            return self.large(path, id, executable, &conversions);
        }
        let held = &self.reader.held[..];
        let mut data = held;
        if let Some((filter, _)) = self.filter.as_mut().filter(|_| !conversions.is_empty()) {
            if held.len() > HELD_CONVERTED_BYTES {
                self.decoded += began.elapsed();
                return self.large(path, id, executable, &conversions);
            }
            let converted = filter.convert(&conversions, path, id, held);
            data = converted
                .map_err(|e| unconverted(path, &e))?
                .unwrap_or(held);
        }
        self.decoded += began.elapsed();
        self.site.quota.take_entry(data.len() as u64)?;
        self.writer.file(path, executable, self.mtime_s, data)
    }

    /// A file that is not held.
    fn large(
        &mut self,
        path: &BStr,
        id: &oid,
        executable: bool,
        conversions: &Conversions,
    ) -> Result<(), RestoreError> {
        let file = ToFile::new(
            &mut self.writer,
            self.site,
            (path, executable),
            self.mtime_s,
        );
        let filter = self.filter.as_mut().filter(|_| !conversions.is_empty());
        let conversion = filter.map(|(filter, _)| (filter, conversions));
        large::write(file, &mut self.reader, id, conversion, self.spill)
    }
}

const LINK: u32 = mode(gix::objs::tree::EntryKind::Link);
const EXECUTABLE: u32 = mode(gix::objs::tree::EntryKind::BlobExecutable);

fn unconverted(path: &BStr, error: &FilterError) -> RestoreError {
    RestoreError::entry(path, error.to_string())
}

#[cfg(test)]
mod tests;
