//! Entries on their way from the parser to the workers that write them. What is known about them,
//! names and targets above all, has its room in a budget of its own: a small archive may have a long
//! name for each of many entries.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

use crossbeam::channel::Sender;

use super::budget::{Budget, Room};
use super::capture::Archive;
use super::decode::Content;
use super::error::RestoreError;
use super::in_the_way::Watch;
use super::stop::Stop;
use super::sums::{self, Running};
use super::tar::Event;
use super::write::{PartFile, Writer, stopped};
use crate::limits::{ENTRIES_AT_ONCE_BYTES, ENTRY_BYTES, PART_FILE_BYTES};

/// A file that comes in parts, and those of them that wait.
pub(super) struct PartQueue {
    file: PartFile,
    writes: OneAtATime,
    sum: Option<Sum>,
    /// For its name, and for being open.
    _room: Room,
}

/// The sum of a pack: made from the same memory as it is written from, by another worker.
struct Sum {
    running: Arc<Mutex<Running>>,
    parts: OneAtATime,
}

/// Parts of a file that wait for a worker. One at a time takes them: two that write the same file
/// would only wait for each other in the kernel (the inode's lock), and burn a core doing so.
#[derive(Default)]
struct OneAtATime(Mutex<Waiting>);

/// A part: its offset in the file, and where it is.
type Part = (u64, Arc<Content>, Range<usize>);

/// Invariant: while `is_taken`, one worker takes from `parts` until it is empty. It stays set when
/// a step fails: that ends the whole restore, and what still waits here must not be taken by
/// anyone else.
#[derive(Default)]
struct Waiting {
    is_taken: bool,
    parts: VecDeque<Part>,
}

impl OneAtATime {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn add(&self, part: Part) {
        self.lock().parts.push_back(part);
    }

    /// Does `each` for what waits, and for what comes meanwhile; or leaves it to the worker that is
    /// at it.
    fn take(
        &self,
        mut each: impl FnMut(Part) -> Result<(), RestoreError>,
    ) -> Result<(), RestoreError> {
        let mut waiting = self.lock();
        if std::mem::replace(&mut waiting.is_taken, true) {
            return Ok(());
        }
        while let Some(part) = waiting.parts.pop_front() {
            drop(waiting);
            each(part)?;
            waiting = self.lock();
        }
        waiting.is_taken = false;
        Ok(())
    }
}

impl PartQueue {
    /// Writes a part.
    fn write(&self, part: Part, stop: &Stop) -> Result<(), RestoreError> {
        self.writes.add(part);
        self.writes
            .take(|(offset, content, data)| self.file.write(offset, content.slices(&data), stop))
    }
}

/// A pack of which parts wait to be summed. They do so in their order, which is that in which they
/// were handed on.
pub(super) struct Summing(Arc<PartQueue>);

impl Summing {
    /// Adds them to the sum.
    pub(super) fn run(self, stop: &Stop) -> Result<(), RestoreError> {
        let Some(sum) = &self.0.sum else {
            return Ok(());
        };
        sum.parts.take(|(_, content, data)| {
            if stop.is_set() {
                return Err(stopped());
            }
            let mut running = sums::lock(&sum.running);
            content.slices(&data).for_each(|slice| running.add(slice));
            Ok(())
        })
    }
}

/// One entry to write, its data a range of a content.
enum Entry {
    File {
        path: Vec<u8>,
        executable: bool,
        mtime_s: i64,
        data: Range<usize>,
    },
    Part {
        file: Arc<PartQueue>,
        offset: u64,
        data: Range<usize>,
    },
    Symlink {
        path: Vec<u8>,
        target: Vec<u8>,
    },
    Directory {
        path: Vec<u8>,
    },
}

impl Entry {
    /// What is known about it.
    fn held_bytes(&self) -> usize {
        let names = match self {
            Self::File { path, .. } | Self::Directory { path } => path.len(),
            Self::Symlink { path, target } => path.len() + target.len(),
            Self::Part { .. } => 0,
        };
        ENTRY_BYTES + names
    }

    fn write(
        self,
        writer: &mut Writer<'_>,
        content: &Arc<Content>,
        stop: &Stop,
    ) -> Result<(), RestoreError> {
        match self {
            Self::File {
                path,
                executable,
                mtime_s,
                data,
            } => {
                // A file that is whole in a frame is so in one piece of it; an empty one in none.
                let data = content.slices(&data).next().unwrap_or_default();
                writer.file(&path, executable, mtime_s, data)
            }
            Self::Part { file, offset, data } => file.write((offset, content.clone(), data), stop),
            Self::Symlink { path, target } => writer.symlink(&path, &target),
            Self::Directory { path } => writer.directory(&path),
        }
    }
}

/// Entries in the same content.
///
/// Invariant: `held_bytes` is what they hold, and at most what `room` has.
pub(super) struct Batch {
    content: Arc<Content>,
    entries: Vec<Entry>,
    held_bytes: usize,
    room: Room,
}

impl Batch {
    /// How many entries it has.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Has the parts of packs wait for their sums; gives the packs.
    fn sums(&self) -> Vec<Summing> {
        let mut packs: Vec<Summing> = Vec::new();
        for entry in &self.entries {
            let Entry::Part { file, offset, data } = entry else {
                continue;
            };
            if let Some(sum) = &file.sum {
                sum.parts.add((*offset, self.content.clone(), data.clone()));
                if packs.last().is_none_or(|last| !Arc::ptr_eq(&last.0, file)) {
                    packs.push(Summing(file.clone()));
                }
            }
        }
        packs
    }

    /// Writes them all.
    pub(super) fn write(self, writer: &mut Writer<'_>, stop: &Stop) -> Result<(), RestoreError> {
        let mut entries = self.entries.into_iter();
        entries.try_for_each(|entry| entry.write(writer, &self.content, stop))
    }
}

/// What the parser finds in one content, on its way to the workers.
///
/// Nobody waits in a circle: what is put together here is handed on before there is a wait for room,
/// and what was handed on is written without any more of it.
pub(super) struct Batches<'b, 'r, T> {
    pub budget: &'b Arc<Budget>,
    pub tasks: &'b Sender<T>,
    pub stop: &'b Stop,
    pub writer: &'b mut Writer<'r>,
    pub archive: &'b mut Archive,
    /// What sees whether something is in the way.
    pub way: &'b mut Option<Watch<'r>>,
    /// The file that the parser is inside of.
    pub part: &'b mut Option<Arc<PartQueue>>,
    pub mtime_s: i64,
    pub content: &'b Arc<Content>,
    pub batch: Option<Batch>,
}

impl<T: From<Batch> + From<Summing>> Batches<'_, '_, T> {
    /// Has written what is to be for an event in `piece`, which begins at `begin` of the content.
    pub(super) fn take(
        &mut self,
        event: Event<'_>,
        piece: &[u8],
        begin: usize,
    ) -> Result<(), RestoreError> {
        if !self.archive.takes(&event, piece)? {
            return Ok(());
        }
        if let Some(way) = self.way {
            match &event {
                Event::Whole { meta, .. } | Event::Begin { meta, .. } => {
                    way.comes(meta.path, false)?;
                }
                Event::Symlink { path, .. } => way.comes(path, false)?,
                Event::Directory { path } => way.comes(path, true)?,
                Event::Data { .. } => {}
            }
        }
        let place = |data: Range<usize>| begin + data.start..begin + data.end;
        let entry = match event {
            Event::Whole { meta, data } => Entry::File {
                path: meta.path.to_owned(),
                executable: meta.executable,
                mtime_s: self.mtime_s,
                data: place(data),
            },
            Event::Begin { meta, size } => {
                let _room = self.room(PART_FILE_BYTES + meta.path.len())?;
                let begun = self
                    .writer
                    .begin(meta.path, meta.executable, self.mtime_s, size);
                *self.part = Some(Arc::new(PartQueue {
                    file: begun?,
                    writes: OneAtATime::default(),
                    sum: self.archive.sum(meta.path, size).map(|running| Sum {
                        running,
                        parts: OneAtATime::default(),
                    }),
                    _room,
                }));
                return Ok(());
            }
            Event::Data { offset, data } => {
                let Some(file) = self.part.clone() else {
                    return Ok(());
                };
                let data = place(data);
                Entry::Part { file, offset, data }
            }
            Event::Symlink { path, target } => Entry::Symlink {
                path: path.to_owned(),
                target: target.to_owned(),
            },
            Event::Directory { path } => Entry::Directory {
                path: path.to_owned(),
            },
        };
        self.add(entry)
    }

    fn add(&mut self, entry: Entry) -> Result<(), RestoreError> {
        if let Some(last) = self
            .batch
            .as_mut()
            .and_then(|batch| batch.entries.last_mut())
            && goes_on(last, &entry)
        {
            return Ok(());
        }
        let bytes = entry.held_bytes();
        let is_full = |batch: &Batch| batch.held_bytes + bytes > ENTRIES_AT_ONCE_BYTES;
        if self.batch.as_ref().is_some_and(is_full) {
            self.hand_on()?;
        }
        let mut batch = match self.batch.take() {
            Some(batch) => batch,
            None => Batch {
                content: self.content.clone(),
                entries: Vec::new(),
                held_bytes: 0,
                room: self.room(ENTRIES_AT_ONCE_BYTES)?,
            },
        };
        batch.held_bytes += bytes;
        batch.entries.push(entry);
        self.batch = Some(batch);
        Ok(())
    }

    /// Room in the budget, as soon as there is.
    fn room(&mut self, bytes: usize) -> Result<Room, RestoreError> {
        if let Some(room) = self.budget.try_room(bytes) {
            return Ok(room);
        }
        self.hand_on()?;
        let room = self.budget.take_room(bytes, self.stop);
        room.ok_or_else(stopped)
    }

    /// Hands on what there is.
    pub(super) fn hand_on(&mut self) -> Result<(), RestoreError> {
        let Some(mut batch) = self.batch.take() else {
            return Ok(());
        };
        batch.room.shrink(batch.held_bytes);
        let packs = batch.sums();
        self.tasks.send(batch.into()).map_err(|_| stopped())?;
        let mut packs = packs.into_iter();
        packs.try_for_each(|pack| self.tasks.send(pack.into()).map_err(|_| stopped()))
    }
}

/// Whether `next` is more data of the file that `last` is a part of; `last` then has it.
fn goes_on(last: &mut Entry, next: &Entry) -> bool {
    match (last, next) {
        (
            Entry::Part { file, data, .. },
            Entry::Part {
                file: same,
                data: more,
                ..
            },
        ) if Arc::ptr_eq(file, same) && data.end == more.start => {
            data.end = more.end;
            true
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::quota::Quota;
    use super::super::tar::Meta;
    use super::super::write::Site;
    use super::*;
    use crate::limits::PATH_BYTES_MAX;
    use std::os::fd::AsFd;

    enum Task {
        Write(Batch),
        Sum(Summing),
    }

    impl From<Batch> for Task {
        fn from(batch: Batch) -> Task {
            Task::Write(batch)
        }
    }

    impl From<Summing> for Task {
        fn from(pack: Summing) -> Task {
            Task::Sum(pack)
        }
    }

    /// Nobody writes: who puts entries together waits before they are more than their budget.
    #[test]
    fn what_waits_to_be_written_has_its_room() {
        const LIMIT: usize = 3 * ENTRIES_AT_ONCE_BYTES;
        let root = tempfile::tempdir().unwrap();
        let root = std::fs::File::open(root.path()).unwrap();
        let quota = Quota::new(Some(u64::MAX), std::path::Path::new("/")).unwrap();
        let stop = Stop::default();
        let site = Site {
            root: root.as_fd(),
            umask: rustix::fs::Mode::empty(),
            quota: &quota,
            stop: &stop,
        };
        let name = vec![b'x'; PATH_BYTES_MAX];
        let events: [fn(&[u8]) -> Event<'_>; 3] = [
            |path| Event::Directory { path },
            |path| Event::Symlink { path, target: path },
            |_| Event::Directory { path: b"x" },
        ];
        for event in events {
            stop.clear();
            let (tasks, queue) = crossbeam::channel::unbounded::<Task>();
            let budget = Budget::new(LIMIT);
            let buffer = Budget::new(LIMIT).try_take(1).unwrap();
            let content = Arc::new(Content::Decoded(buffer));
            let feed = || {
                let mut batches = Batches {
                    budget: &budget,
                    tasks: &tasks,
                    stop: &stop,
                    writer: &mut Writer::new(site),
                    archive: &mut Archive::default(),
                    way: &mut None,
                    part: &mut None,
                    mtime_s: 0,
                    content: &content,
                    batch: None,
                };
                (0..1 << 20).find_map(|_| batches.take(event(&name), b"", 0).err())
            };
            std::thread::scope(|scope| {
                let feeds = scope.spawn(feed);
                // So much has come that one more does not fit.
                while budget.try_room(ENTRIES_AT_ONCE_BYTES).is_some() {
                    std::thread::yield_now();
                }
                stop.set();
                feeds.join().unwrap().unwrap();
            });
            let waits = queue.try_iter().filter_map(|task| match task {
                Task::Write(batch) => Some(batch),
                Task::Sum(_) => None,
            });
            let waits: Vec<Batch> = waits.collect();
            let sum = |each: fn(&Batch) -> usize| waits.iter().map(each).sum::<usize>();
            assert!(sum(|batch| batch.held_bytes) <= LIMIT);
            let held = sum(|batch| batch.entries.iter().map(Entry::held_bytes).sum());
            assert_eq!(held, sum(|batch| batch.held_bytes));
            drop(waits);
            assert!(budget.try_room(LIMIT).is_some(), "some is not given back");
        }
    }

    const PATH: &[u8] = b".git/objects/pack/pack-1111111111111111111111111111111111111111.pack";

    /// Whichever worker has which part, and whoever is slow.
    #[test]
    fn a_pack_is_summed_in_the_order_of_the_archive() {
        let root = tempfile::tempdir().unwrap();
        let root = std::fs::File::open(root.path()).unwrap();
        let quota = Quota::new(Some(u64::MAX), std::path::Path::new("/")).unwrap();
        let stop = Stop::default();
        let site = Site {
            root: root.as_fd(),
            umask: rustix::fs::Mode::empty(),
            quota: &quota,
            stop: &stop,
        };
        let bytes: Vec<u8> = (0..4_000_000_u32).map(|n| (n % 251) as u8).collect();
        let mut archive = Archive::default();
        archive.captured.begin(b".git/config").unwrap();
        let config = b"[core]\n[remote \"origin\"]\n\turl = https://h/a\n";
        archive.captured.push(config).unwrap();
        let (tasks, queue) = crossbeam::channel::unbounded::<Task>();
        let (budget, memory) = (Budget::new(1 << 30), Budget::new(1 << 30));
        let mut part = None;
        std::thread::scope(|scope| {
            for _ in 0..4 {
                let queue = queue.clone();
                let stop = &stop;
                scope.spawn(move || {
                    let mut writer = Writer::new(site);
                    for task in queue {
                        match task {
                            Task::Write(batch) => batch.write(&mut writer, stop).unwrap(),
                            Task::Sum(pack) => pack.run(stop).unwrap(),
                        }
                    }
                });
            }
            let mut feed = |piece: &[u8], event: Event<'_>| {
                let mut buffer = memory.try_take(piece.len()).unwrap();
                buffer.bytes.clear();
                buffer.bytes.extend_from_slice(piece);
                let mut batches = Batches {
                    budget: &budget,
                    tasks: &tasks,
                    stop: &stop,
                    writer: &mut Writer::new(site),
                    archive: &mut archive,
                    way: &mut None,
                    part: &mut part,
                    mtime_s: 0,
                    content: &Arc::new(Content::Decoded(buffer)),
                    batch: None,
                };
                batches.take(event, piece, 0).unwrap();
                batches.hand_on().unwrap();
            };
            let meta = Meta {
                path: PATH,
                executable: false,
                mtime_s: 0,
            };
            let size = bytes.len() as u64;
            feed(b"", Event::Begin { meta, size });
            for (number, piece) in bytes.chunks(1000).enumerate() {
                let offset = number as u64 * 1000;
                let data = 0..piece.len();
                feed(piece, Event::Data { offset, data });
            }
            drop(tasks);
        });
        let sum = sums::lock(&archive.sums[PATH]).finish().unwrap();
        use sha1::Digest;
        assert_eq!(sum, sha1::Sha1::digest(&bytes[..bytes.len() - 20]).to_vec());
    }
}
