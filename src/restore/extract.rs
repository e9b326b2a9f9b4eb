//! From the archive's bytes to files: frames are cut here, decoded and written by worker threads,
//! and put in order in between.
//!
//! ```text
//! Download ─► Cutter ─► workers: decode ─► Parser (in order) ─► workers: write
//! ```

use std::collections::VecDeque;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender, bounded, unbounded};
use xxhash_rust::xxh64::Xxh64;

use super::capture::Archive;
use super::chunk::Slice;
use super::dates::Dates;
use super::download::{Download, First};
use super::error::RestoreError;
use super::frames::{Body, Cutter, Frame};
use super::packs::{self, Running};
use super::progress::Progress;
use super::stop::Stop;
use super::tar::{Event, Parser};
use super::write::{PartFile, Writer};
use crate::limits::{CONTENT_BYTES_MAX, FRAMES_AHEAD, INTERRUPT_POLL_MS};

/// Content in memory that waits to be written, and buffers to be used again.
#[derive(Default)]
struct Memory {
    state: Mutex<MemoryState>,
    freed: Condvar,
}

#[derive(Default)]
struct MemoryState {
    used_bytes: u64,
    spare: Vec<Vec<u8>>,
}

impl Memory {
    fn lock(&self) -> MutexGuard<'_, MemoryState> {
        self.state
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Takes `bytes` of the budget if there is room.
    fn try_take(&self, bytes: u64) -> bool {
        let mut state = self.lock();
        let fits = state.used_bytes + bytes <= CONTENT_BYTES_MAX;
        if fits {
            state.used_bytes += bytes;
        }
        fits
    }

    /// Waits until something was given back, for a moment at most.
    fn wait(&self) {
        let limit = Duration::from_millis(INTERRUPT_POLL_MS);
        let state = self.lock();
        if state.used_bytes > 0 {
            drop(self.freed.wait_timeout(state, limit));
        }
    }
}

enum Data {
    Decoded(Vec<u8>),
    /// As it arrived.
    Stored(Vec<Slice>),
}

/// What a frame holds; its memory goes back when the last entry of it is written.
struct Content<'m> {
    data: Data,
    taken_bytes: u64,
    memory: &'m Memory,
}

impl Content<'_> {
    /// All of it, in order.
    fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let (decoded, stored) = match &self.data {
            Data::Decoded(bytes) => (Some(&bytes[..]), &[][..]),
            Data::Stored(slices) => (None, &slices[..]),
        };
        decoded
            .into_iter()
            .chain(stored.iter().map(|slice| &slice[..]))
    }

    /// The bytes `range`, by the pieces that they are in.
    fn slices(&self, range: &Range<usize>) -> impl Iterator<Item = &[u8]> {
        let mut begin = 0;
        self.pieces().filter_map(move |piece| {
            let from = range.start.max(begin) - begin;
            let to = range.end.saturating_sub(begin).min(piece.len());
            begin += piece.len();
            piece.get(from..to).filter(|part| !part.is_empty())
        })
    }
}

impl Drop for Content<'_> {
    fn drop(&mut self) {
        let mut state = self.memory.lock();
        state.used_bytes -= self.taken_bytes;
        if let Data::Decoded(bytes) = &mut self.data {
            state.spare.push(std::mem::take(bytes));
        }
        drop(state);
        self.memory.freed.notify_all();
    }
}

/// The parts of one file that wait to be written. One worker at a time writes them: two in the same
/// file would only wait for each other in the kernel (the inode's lock), and burn a core doing so.
struct PartQueue<'m> {
    file: PartFile,
    /// Whoever writes adds to it.
    sum: Option<Arc<Mutex<Running>>>,
    waiting: Mutex<Waiting<'m>>,
}

/// Invariant: while `is_written`, one worker takes from `parts` until it is empty. It stays set when
/// a write fails: that ends the whole restore, and what still waits here must not be written by
/// anyone else.
#[derive(Default)]
struct Waiting<'m> {
    is_written: bool,
    parts: VecDeque<(u64, Arc<Content<'m>>, Range<usize>)>,
}

impl<'m> PartQueue<'m> {
    fn new(file: PartFile, sum: Option<Arc<Mutex<Running>>>) -> PartQueue<'m> {
        PartQueue {
            file,
            sum,
            waiting: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting<'m>> {
        self.waiting
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Writes `data` of `content` at `offset`, and what comes meanwhile; or leaves it to the
    /// worker that is at this file.
    fn write(
        &self,
        offset: u64,
        content: &Arc<Content<'m>>,
        data: Range<usize>,
    ) -> Result<(), RestoreError> {
        let mut waiting = self.lock();
        waiting.parts.push_back((offset, content.clone(), data));
        if std::mem::replace(&mut waiting.is_written, true) {
            return Ok(());
        }
        while let Some((offset, content, data)) = waiting.parts.pop_front() {
            drop(waiting);
            self.file.write(offset, content.slices(&data))?;
            if let Some(sum) = &self.sum {
                self.file
                    .sum(&mut packs::lock(sum), offset, content.slices(&data))?;
            }
            drop(content);
            waiting = self.lock();
        }
        waiting.is_written = false;
        Ok(())
    }
}

/// One entry to write, its data a range of a content.
enum Entry<'m> {
    File {
        path: Vec<u8>,
        executable: bool,
        mtime_s: i64,
        data: Range<usize>,
    },
    Part {
        file: Arc<PartQueue<'m>>,
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

type Decoded<'m> = Result<Content<'m>, RestoreError>;

enum Task<'m> {
    Decode {
        frame: Frame,
        memory: &'m Memory,
        reply: Sender<Decoded<'m>>,
    },
    Write {
        content: Arc<Content<'m>>,
        entries: Vec<Entry<'m>>,
    },
}

/// What all threads of an extraction share.
struct Shared<'a> {
    root: BorrowedFd<'a>,
    stop: &'a Stop,
    progress: &'a Progress,
    failure: Mutex<Option<RestoreError>>,
    /// Of the worktree, by the workers that have ended.
    directories: AtomicU64,
}

impl Shared<'_> {
    /// Keeps the first failure and has everybody stop.
    fn fail(&self, error: RestoreError) {
        let mut failure = self.failure.lock().unwrap_or_else(|p| p.into_inner());
        failure.get_or_insert(error);
        self.stop.set();
    }
}

/// Downloads over `connections` and unpacks below `root`; files are dated by `dates`. Gives what the
/// archive's `.git` has said, and what is in the worktree.
pub fn extract(
    download: &Download<'_>,
    first: First<'_>,
    connections: usize,
    root: BorrowedFd<'_>,
    dates: Dates,
    stop: &Stop,
    progress: &Progress,
) -> Result<Archive, RestoreError> {
    let memory = Memory::default();
    let shared = Shared {
        root,
        stop,
        progress,
        failure: Mutex::new(None),
        directories: AtomicU64::new(0),
    };
    let mut archive = Archive::default();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let (tasks, queue) = unbounded();
        for _ in 0..threads {
            let (queue, shared) = (queue.clone(), &shared);
            scope.spawn(move || work(&queue, shared));
        }
        scope.spawn(|| download.run_first(first));
        for _ in 1..connections {
            scope.spawn(|| download.run_further());
        }
        let line = Line {
            memory: &memory,
            shared: &shared,
            tasks,
            pending: VecDeque::new(),
            parser: Parser::default(),
            writer: Writer::new(root),
            dates,
            part: None,
            archive: &mut archive,
        };
        if let Err(error) = line.run(download) {
            shared.fail(error);
        }
    });
    match shared
        .failure
        .into_inner()
        .unwrap_or_else(|p| p.into_inner())
    {
        None => {
            archive.unpacked.directories = shared.directories.into_inner();
            Ok(archive)
        }
        Some(error) => Err(error),
    }
}

/// A worker: decodes and writes until there is no more, or until a step failed.
fn work(queue: &Receiver<Task<'_>>, shared: &Shared<'_>) {
    let mut writer = Writer::new(shared.root);
    let mut decoder = Decoder {
        context: zstd_safe::DCtx::create(),
        joined: Vec::new(),
    };
    for task in queue {
        if shared.stop.is_set() {
            continue;
        }
        let start = Instant::now();
        match task {
            Task::Decode {
                frame,
                memory,
                reply,
            } => {
                // The receiver has left only when a step failed.
                let _ = reply.send(decoder.decode(frame, memory));
                shared.progress.decoded(start.elapsed());
            }
            Task::Write { content, entries } => {
                let count = entries.len();
                if let Err(error) = write(&mut writer, &content, entries) {
                    shared.fail(error);
                }
                shared.progress.written(count, start.elapsed());
            }
        }
    }
    let made = writer.directories_made();
    shared.directories.fetch_add(made, Ordering::Relaxed);
}

/// A worker's way to decode frames.
struct Decoder {
    context: zstd_safe::DCtx<'static>,
    /// A frame that arrived in several chunks, in one piece.
    joined: Vec<u8>,
}

impl Decoder {
    /// The content of a frame whose room in `memory` has been taken, checked.
    fn decode<'m>(&mut self, frame: Frame, memory: &'m Memory) -> Decoded<'m> {
        let mut content = Content {
            data: Data::Stored(Vec::new()),
            taken_bytes: frame.content_bytes as u64,
            memory,
        };
        let corrupt = |what: &str| {
            Err(RestoreError::Corrupt {
                offset: frame.offset,
                what: format!("zstd: {what}"),
            })
        };
        let len = match frame.body {
            Body::Stored {
                content: slices,
                checksum,
            } => {
                let mut hash = Xxh64::new(0);
                slices.iter().for_each(|slice| hash.update(slice));
                // The format keeps the low half (RFC 8878 section 3.1.1).
                if hash.digest() as u32 != checksum {
                    return corrupt("the checksum of a frame is wrong");
                }
                let len = slices.iter().map(|slice| slice.len()).sum();
                content.data = Data::Stored(slices);
                len
            }
            Body::Coded(wire) => {
                let mut bytes = memory.lock().spare.pop().unwrap_or_default();
                bytes.clear();
                bytes.reserve(frame.content_bytes);
                let result = self
                    .context
                    .decompress(&mut bytes, join(&mut self.joined, &wire));
                let len = bytes.len();
                content.data = Data::Decoded(bytes);
                if let Err(code) = result {
                    return corrupt(zstd_safe::get_error_name(code));
                }
                len
            }
        };
        match len == frame.content_bytes {
            true => Ok(content),
            false => corrupt("a frame is not as long as it says"),
        }
    }
}

/// The bytes of `slices`; put together in `joined` if they are in several.
fn join<'s>(joined: &'s mut Vec<u8>, slices: &'s [Slice]) -> &'s [u8] {
    match slices {
        [one] => one,
        many => {
            joined.clear();
            many.iter()
                .for_each(|slice| joined.extend_from_slice(slice));
            joined
        }
    }
}

fn write<'m>(
    writer: &mut Writer<'_>,
    content: &Arc<Content<'m>>,
    entries: Vec<Entry<'m>>,
) -> Result<(), RestoreError> {
    for entry in entries {
        match entry {
            Entry::File {
                path,
                executable,
                mtime_s,
                data,
            } => {
                // A file that is whole in a frame is so in one piece of it; an empty one in none.
                let data = content.slices(&data).next().unwrap_or_default();
                writer.file(&path, executable, mtime_s, data)?;
            }
            Entry::Part { file, offset, data } => file.write(offset, content, data)?,
            Entry::Symlink { path, target } => writer.symlink(&path, &target)?,
            Entry::Directory { path } => writer.directory(&path)?,
        }
    }
    Ok(())
}

/// The thread that keeps the order.
///
/// Invariants: `pending` holds the frames that were cut and not yet parsed, in order, each with
/// its room in `memory` taken; `part` is the file that the parser is inside of.
struct Line<'s, 'm> {
    memory: &'m Memory,
    shared: &'s Shared<'s>,
    tasks: Sender<Task<'m>>,
    pending: VecDeque<Receiver<Decoded<'m>>>,
    parser: Parser,
    writer: Writer<'s>,
    dates: Dates,
    part: Option<Arc<PartQueue<'m>>>,
    archive: &'s mut Archive,
}

fn stopped() -> RestoreError {
    RestoreError::Server("stopped".into())
}

impl<'m> Line<'_, 'm> {
    fn run(mut self, download: &Download<'_>) -> Result<(), RestoreError> {
        let mut cutter = Cutter::default();
        while let Some(chunk) = download.next()? {
            let chunk = Arc::new(chunk);
            let mut at = 0;
            while let Some(frame) = cutter.cut(&chunk, &mut at)? {
                self.submit(frame)?;
            }
            drop(chunk);
            while self.pending.front().is_some_and(|first| !first.is_empty()) {
                self.parse_front()?;
            }
        }
        self.shared.progress.downloaded();
        cutter.finish()?;
        while !self.pending.is_empty() {
            self.parse_front()?;
        }
        let made = self.writer.directories_made();
        self.shared.directories.fetch_add(made, Ordering::Relaxed);
        self.parser.finish()
    }

    fn submit(&mut self, frame: Frame) -> Result<(), RestoreError> {
        while self.pending.len() >= FRAMES_AHEAD {
            self.parse_front()?;
        }
        while !self.memory.try_take(frame.content_bytes as u64) {
            if self.shared.stop.is_set() {
                return Err(stopped());
            }
            // What is parsed can be written, and so be given back.
            match self.pending.is_empty() {
                false => self.parse_front()?,
                true => self.memory.wait(),
            }
        }
        let (reply, decoded) = bounded(1);
        self.pending.push_back(decoded);
        let memory = self.memory;
        let task = Task::Decode {
            frame,
            memory,
            reply,
        };
        self.tasks.send(task).map_err(|_| stopped())
    }

    /// Waits for the first frame to be decoded and has its entries written.
    fn parse_front(&mut self) -> Result<(), RestoreError> {
        let Some(first) = self.pending.pop_front() else {
            return Ok(());
        };
        // No answer: a step failed.
        let content = Arc::new(first.recv().map_err(|_| stopped())??);
        let mut entries = Vec::new();
        let (writer, part) = (&mut self.writer, &mut self.part);
        let archive = &mut *self.archive;
        let mtime_s = self.dates.file_s();
        let mut begin = 0;
        for piece in content.pieces() {
            self.parser.push(piece, &mut |event| {
                if archive.takes(&event, piece)? {
                    let next = entry(writer, archive, mtime_s, part, event, begin)?;
                    add_entry(&mut entries, next);
                }
                Ok(())
            })?;
            begin += piece.len();
        }
        if entries.is_empty() {
            return Ok(());
        }
        let task = Task::Write { content, entries };
        self.tasks.send(task).map_err(|_| stopped())
    }
}

/// Adds an entry, or its data to the last one when it goes on in the same file.
fn add_entry<'m>(entries: &mut Vec<Entry<'m>>, next: Option<Entry<'m>>) {
    match (entries.last_mut(), next) {
        (
            Some(Entry::Part { file, data, .. }),
            Some(Entry::Part {
                file: same,
                data: more,
                ..
            }),
        ) if Arc::ptr_eq(file, &same) && data.end == more.start => {
            data.end = more.end;
        }
        (_, next) => entries.extend(next),
    }
}

/// What is to be written for an event in the piece of content that begins at `begin`.
fn entry<'m>(
    writer: &mut Writer<'_>,
    archive: &mut Archive,
    mtime_s: i64,
    part: &mut Option<Arc<PartQueue<'m>>>,
    event: Event<'_>,
    begin: usize,
) -> Result<Option<Entry<'m>>, RestoreError> {
    let place = |data: Range<usize>| begin + data.start..begin + data.end;
    Ok(match event {
        Event::Whole { meta, data } => Some(Entry::File {
            path: meta.path.to_owned(),
            executable: meta.executable,
            mtime_s,
            data: place(data),
        }),
        Event::Begin { meta, size } => {
            let begun = writer.begin(meta.path, meta.executable, mtime_s, size)?;
            let sum = archive.sum(meta.path, size);
            *part = Some(Arc::new(PartQueue::new(begun, sum)));
            None
        }
        Event::Data { offset, data } => part.clone().map(|file| Entry::Part {
            file,
            offset,
            data: place(data),
        }),
        Event::Symlink { path, target } => Some(Entry::Symlink {
            path: path.to_owned(),
            target: target.to_owned(),
        }),
        Event::Directory { path } => Some(Entry::Directory {
            path: path.to_owned(),
        }),
    })
}
