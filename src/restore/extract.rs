//! From the archive's bytes to files: frames are cut here, decoded and written by worker threads,
//! and put in order in between.
//!
//! ```text
//! Download ─► Cutter ─► workers: decode ─► Parser (in order) ─► workers: write
//! ```

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::Instant;

use crossbeam::channel::{Receiver, Sender, bounded, unbounded};

use super::budget::Budget;
use super::capture::Archive;
use super::dates::Dates;
use super::decode::{self, Content, Space, Stream};
use super::download::Download;
use super::entries::{Batch, Batches, PartQueue, Summing};
use super::error::RestoreError;
use super::feed::{Feed, Unpacks};
use super::frames::{Body, Cut, Cutter, Frame, Part};
use super::gaps::Gaps;
use super::in_the_way::Watch;
use super::parts::Fetching;
use super::progress::Progress;
use super::tar::{Event, Parser};
use super::write::{Site, Writer, Written, stopped};
use crate::limits::{
    BEHIND_END_BYTES_MAX, BUFFER_STEP_BYTES, CONTENT_BYTES_MAX, ENTRIES_BYTES_MAX, FRAMES_AHEAD,
    STORED_ROOM_BYTES, STREAM_CONTENT_BYTES,
};

type Decoded = Result<Content, RestoreError>;

enum Task {
    Decode {
        frame: Frame,
        space: Space,
        reply: Sender<Decoded>,
    },
    Write(Batch),
    Sum(Summing),
}

impl From<Summing> for Task {
    fn from(pack: Summing) -> Task {
        Task::Sum(pack)
    }
}

impl From<Batch> for Task {
    fn from(batch: Batch) -> Task {
        Task::Write(batch)
    }
}

/// What all threads of an extraction share.
struct Shared<'a> {
    site: Site<'a>,
    progress: &'a Progress,
    failure: Mutex<Option<RestoreError>>,
    written: &'a Written,
}

impl Shared<'_> {
    /// Keeps the first failure and has everybody stop.
    fn fail(&self, error: RestoreError) {
        let mut failure = self.failure.lock().unwrap_or_else(|p| p.into_inner());
        failure.get_or_insert(error);
        self.site.stop.set();
    }
}

/// Held by a thread for as long as it lives: one that panics ends the restore, as an error does.
struct Duty<'s, 'r>(&'s Shared<'r>, &'static str);

impl Drop for Duty<'_, '_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail(RestoreError::Thread(self.1));
        }
    }
}

/// Downloads what is unpacked, at `site`, and counts what is `written` of it; once that is, and while packs still come,
/// `beside` is done; files are dated by `dates`. Gives what the archive's `.git` has said, and what is in the worktree.
pub(super) fn extract<'a>(
    download: &Download<'a>,
    feed: Feed<'_, 'a>,
    (site, written): (Site<'_>, &Written),
    dates: Dates,
    unpacks: Unpacks<'_>,
    beside: impl FnOnce(&Archive) -> Result<(), RestoreError>,
) -> Result<Archive, RestoreError> {
    let shared = Shared {
        site,
        progress: download.link.progress,
        failure: Mutex::new(None),
        written,
    };
    let packs = feed.packs();
    let (mut archive, way) = unpacks.begin();
    archive.has_parts = !matches!(feed, Feed::Stream(_));
    std::thread::scope(|scope| {
        let (tasks, queue) = unbounded();
        let mut running = start_workers(scope, &shared, queue);
        feed.start(scope, download, &mut running);
        let closes = download.closes();
        let line = Line {
            budget: Budget::new(CONTENT_BYTES_MAX),
            entries_budget: Budget::new(ENTRIES_BYTES_MAX),
            shared: &shared,
            tasks,
            pending: VecDeque::new(),
            stream: Stream::default(),
            gaps: Gaps::new(download.link.wait_alive),
            parser: Parser::new(site.quota),
            writer: Writer::counting(site, written),
            dates,
            way,
            part: None,
            archive: &mut archive,
            end: None,
        };
        let ran = line.run(download);
        download.takes_no_more();
        let ran = ran.and_then(|()| match beside(&archive) {
            // Who fetches says why.
            Err(_) if packs.is_some_and(Fetching::is_cause) => Ok(()),
            done => done,
        });
        if let Err(error) = ran {
            shared.fail(error);
        }
        drop(closes);
        for thread in running {
            // One that panicked has said so.
            let _ = thread.join();
        }
    });
    let failure = shared.failure.into_inner();
    let failure = failure.unwrap_or_else(|p| p.into_inner());
    // Those who fetch packs go on behind the end of all else.
    if let Some(error) = failure.or_else(|| download.take_error()) {
        return Err(error);
    }
    archive.unpacked.directories = written.directories();
    if let Some(packs) = packs {
        packs.finish()?;
        packs.note(&mut archive)?;
    }
    // Behind all that says why.
    written.expect_whole()?;
    Ok(archive)
}

/// Starts the threads that do what is in `queue`.
fn start_workers<'s>(
    scope: &'s Scope<'s, '_>,
    shared: &'s Shared<'_>,
    queue: Receiver<Task>,
) -> Vec<ScopedJoinHandle<'s, ()>> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let start = |_| {
        let queue = queue.clone();
        scope.spawn(move || {
            let _duty = Duty(shared, "decodes and writes");
            work(&queue, shared);
        })
    };
    // Those that are busy have what they need: the queue itself goes.
    (0..threads).map(start).collect()
}

/// A worker: decodes and writes until there is no more, or until a step failed.
fn work(queue: &Receiver<Task>, shared: &Shared<'_>) {
    let mut writer = Writer::counting(shared.site, shared.written);
    let mut context = zstd_safe::DCtx::create();
    for task in queue {
        if shared.site.stop.is_set() {
            shared.written.cut();
            continue;
        }
        let start = Instant::now();
        match task {
            Task::Decode {
                frame,
                space,
                reply,
            } => {
                // The receiver has left only when a step failed.
                let _ = reply.send(decode::whole(&mut context, frame, space));
                shared.progress.decoded(start.elapsed());
            }
            Task::Write(batch) => {
                let count = batch.len();
                if let Err(error) = batch.write(&mut writer, shared.site.stop) {
                    shared.fail(error);
                }
                shared.written.took(count);
                shared.progress.written(count, start.elapsed());
            }
            Task::Sum(pack) => {
                if let Err(error) = pack.run(shared.site.stop) {
                    shared.fail(error);
                }
            }
        }
    }
}

/// The thread that keeps the order.
///
/// Invariants: `pending` holds the frames that were cut and not yet parsed, in order, each with
/// its room in `budget` taken; `part` is the file that the parser is inside of; `end` is where and
/// when the archive's end was seen.
struct Line<'s> {
    budget: Arc<Budget>,
    entries_budget: Arc<Budget>,
    shared: &'s Shared<'s>,
    tasks: Sender<Task>,
    pending: VecDeque<Receiver<Decoded>>,
    stream: Stream,
    gaps: Gaps,
    parser: Parser<'s>,
    writer: Writer<'s>,
    dates: Dates,
    way: Option<Watch<'s>>,
    part: Option<Arc<PartQueue>>,
    archive: &'s mut Archive,
    end: Option<(u64, Instant)>,
}

impl Line<'_> {
    fn run(mut self, download: &Download<'_>) -> Result<(), RestoreError> {
        let mut cutter = Cutter::default();
        let downloading = self.shared.progress.downloading();
        loop {
            let deadline = self.end.map(|(_, seen)| seen + download.stall());
            let Some(chunk) = download.next(deadline)? else {
                break;
            };
            let chunk = Arc::new(chunk);
            let mut at = 0;
            while let Some(cut) = cutter.cut(&chunk, &mut at)? {
                if cutter.has_unchecked() {
                    self.shared.written.unchecked();
                }
                self.take(cut)?;
            }
            drop(chunk);
            while self.pending.front().is_some_and(|first| !first.is_empty()) {
                self.parse_front()?;
            }
            self.check_end(cutter.position())?;
        }
        drop(downloading);
        let cut_off = |error| match error {
            RestoreError::Corrupt { offset, .. } if download.ends_itself => {
                let what = "the answer has no length, and the archive does not end where it ends";
                RestoreError::Server(format!("{what}: at byte {offset}"))
            }
            error => error,
        };
        cutter.finish().map_err(cut_off)?;
        self.parse_all()?;
        self.parser.finish().map_err(cut_off)
    }

    /// Takes what was cut, in order.
    fn take(&mut self, cut: Cut) -> Result<(), RestoreError> {
        match cut {
            Cut::Whole(frame) => {
                match frame.content_bytes {
                    0 => self.nothing(frame.offset)?,
                    _ => self.content(),
                }
                self.submit(frame)
            }
            Cut::Part(part) => self.stream(part),
            Cut::Skipped { offset } => self.nothing(offset),
        }
    }

    /// Content came.
    fn content(&mut self) {
        self.shared.progress.content();
        self.gaps.content();
    }

    /// A frame without content came.
    fn nothing(&mut self, offset: u64) -> Result<(), RestoreError> {
        self.shared.progress.lives();
        self.gaps.nothing(offset)
    }

    /// Behind the archive's end little may follow.
    fn check_end(&mut self, offset: u64) -> Result<(), RestoreError> {
        if !self.parser.is_ended() {
            return Ok(());
        }
        let (seen, _) = *self.end.get_or_insert_with(|| (offset, Instant::now()));
        match offset - seen <= BEHIND_END_BYTES_MAX {
            true => Ok(()),
            false => Err(RestoreError::Corrupt {
                offset,
                what: "it goes on behind its end".into(),
            }),
        }
    }

    fn submit(&mut self, frame: Frame) -> Result<(), RestoreError> {
        while self.pending.len() >= FRAMES_AHEAD {
            self.parse_front()?;
        }
        let space = loop {
            if let Some(space) = self.space(&frame) {
                break space;
            }
            if self.shared.site.stop.is_set() {
                return Err(stopped());
            }
            // What is parsed can be written, and so be given back.
            match self.pending.is_empty() {
                false => self.parse_front()?,
                true => self.budget.wait(bytes_to_decode(&frame)),
            }
        };
        let (reply, decoded) = bounded(1);
        self.pending.push_back(decoded);
        let task = Task::Decode {
            frame,
            space,
            reply,
        };
        self.tasks.send(task).map_err(|_| stopped())
    }

    /// Memory to decode a frame with, if there is as much.
    fn space(&self, frame: &Frame) -> Option<Space> {
        match &frame.body {
            Body::Stored { .. } => self.budget.try_room(STORED_ROOM_BYTES).map(Space::Stored),
            Body::Coded(wire) => {
                let content = self.budget.try_take(frame.content_bytes)?;
                let joined = match decode::joined_bytes(wire) {
                    Some(len) => Some(self.budget.try_take(len)?),
                    None => None,
                };
                Some(Space::Coded(content, joined))
            }
        }
    }

    /// Decodes a part of a frame right here, when all before it is parsed.
    fn stream(&mut self, part: Part) -> Result<(), RestoreError> {
        self.parse_all()?;
        if part.is_first {
            self.stream.begin();
            self.shared.written.frame_begins();
        }
        let mut offset = part.offset;
        for slice in &part.wire {
            let mut wire = &slice[..];
            // Also when all is used: content may wait inside of the decoder.
            loop {
                let buffer = self
                    .budget
                    .take(STREAM_CONTENT_BYTES, self.shared.site.stop);
                let mut buffer = buffer.ok_or_else(stopped)?;
                buffer.bytes.clear();
                let start = Instant::now();
                let used = self.stream.decode(wire, offset, &mut buffer.bytes)?;
                self.shared.progress.decoded(start.elapsed());
                (wire, offset) = (&wire[used..], offset + used as u64);
                let is_full = buffer.bytes.len() == buffer.bytes.capacity();
                if !buffer.bytes.is_empty() {
                    self.content();
                    self.parse(Content::Decoded(buffer))?;
                }
                if wire.is_empty() && !is_full {
                    break;
                }
            }
        }
        if !part.is_last {
            return Ok(());
        }
        let is_empty = self.stream.finish(offset)?;
        self.shared.written.frame_ends();
        match is_empty {
            true => self.nothing(offset),
            false => Ok(()),
        }
    }

    fn parse_all(&mut self) -> Result<(), RestoreError> {
        while !self.pending.is_empty() {
            self.parse_front()?;
        }
        Ok(())
    }

    /// Waits for the first frame to be decoded and has its entries written.
    fn parse_front(&mut self) -> Result<(), RestoreError> {
        let Some(first) = self.pending.pop_front() else {
            return Ok(());
        };
        // No answer: a step failed.
        let content = first.recv().map_err(|_| stopped())??;
        self.parse(content)
    }

    /// Has the entries in what comes next in the archive written.
    fn parse(&mut self, content: Content) -> Result<(), RestoreError> {
        let content = Arc::new(content);
        let mut batches = Batches {
            budget: &self.entries_budget,
            tasks: &self.tasks,
            stop: self.shared.site.stop,
            writer: &mut self.writer,
            archive: self.archive,
            way: &mut self.way,
            part: &mut self.part,
            mtime_s: self.dates.file_s(),
            content: &content,
            batch: None,
        };
        let mut begin = 0;
        for piece in content.pieces() {
            let mut take = |event: Event<'_>| batches.take(event, piece, begin);
            self.parser.push(piece, &mut take)?;
            begin += piece.len();
        }
        batches.hand_on()
    }
}

/// How much memory it takes to decode a frame, in whole steps.
fn bytes_to_decode(frame: &Frame) -> usize {
    match &frame.body {
        Body::Stored { .. } => STORED_ROOM_BYTES,
        Body::Coded(wire) => {
            let joined = decode::joined_bytes(wire).unwrap_or_default();
            let step = |bytes: usize| bytes.max(1).next_multiple_of(BUFFER_STEP_BYTES);
            step(frame.content_bytes) + step(joined)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::quota::Quota;
    use super::super::stop::Stop;
    use super::super::tar::Meta;
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::fs::MetadataExt;
    use std::path::Path;

    /// Has `check` look at an extraction into a directory.
    fn attempt(check: impl FnOnce(&Shared<'_>, &Path)) {
        let into = tempfile::tempdir().unwrap();
        let root = std::fs::File::open(into.path()).unwrap();
        let quota = Quota::new(Some(u64::MAX), Path::new("/")).unwrap();
        let (stop, progress) = (Stop::default(), Progress::default());
        let written = Written::default();
        let site = Site {
            root: root.as_fd(),
            umask: rustix::fs::Mode::empty(),
            quota: &quota,
            stop: &stop,
        };
        let shared = Shared {
            site,
            progress: &progress,
            failure: Mutex::new(None),
            written: &written,
        };
        check(&shared, into.path());
    }

    /// A worker takes content with it that others wait for the room of.
    #[test]
    fn a_thread_that_panics_ends_the_restore() {
        attempt(|shared, _| {
            std::thread::scope(|scope| {
                drop(Duty(shared, "ends well"));
                assert!(!shared.site.stop.is_set());
                let ends = scope.spawn(|| {
                    let _duty = Duty(shared, "panics");
                    panic!("while others wait");
                });
                ends.join().unwrap_err();
            });
            assert!(shared.site.stop.is_set());
            let error = shared.failure.lock().unwrap().take().unwrap();
            assert!(error.to_string().contains("that panics"), "{error}");
            assert_eq!(error.exit_code(), 101);
        });
    }

    const DATE_S: i64 = 1_000_000_000;

    /// Has the file `large` in two parts, and `small`, handed to workers: each in a task of its own.
    fn hand_on(shared: &Shared<'_>, tasks: &Sender<Task>) {
        let (budget, entries) = (
            Budget::new(CONTENT_BYTES_MAX),
            Budget::new(ENTRIES_BYTES_MAX),
        );
        let mut buffer = budget.try_take(8).unwrap();
        buffer.bytes.extend(b"contents");
        let content = Arc::new(Content::Decoded(buffer));
        let mut archive = Archive::default();
        let meta = |path| Meta {
            path,
            executable: false,
            mtime_s: 0,
        };
        let mut batches = Batches {
            budget: &entries,
            tasks,
            stop: shared.site.stop,
            writer: &mut Writer::counting(shared.site, shared.written),
            archive: &mut archive,
            way: &mut None,
            part: &mut None,
            mtime_s: DATE_S,
            content: &content,
            batch: None,
        };
        let large = meta(b"large");
        let small = meta(b"small");
        let (first, second) = (0..4, 4..8);
        let events = [
            Event::Begin {
                meta: large,
                size: 8,
            },
            Event::Data {
                offset: 0,
                data: first,
            },
            Event::Data {
                offset: 4,
                data: second.clone(),
            },
            Event::Whole {
                meta: small,
                data: second,
            },
        ];
        for event in events {
            batches.take(event, b"contents", 0).unwrap();
            batches.hand_on().unwrap();
        }
    }

    /// A stop may come when all is handed to workers, and nobody else looks at it any more: whichever of their tasks it
    /// comes before, what they leave out is not there, whole or dated.
    #[test]
    fn what_is_left_out_because_of_a_stop_is_never_taken_for_whole() {
        const TASKS: usize = 3;
        for done in 0..=TASKS {
            attempt(|shared, into| {
                let (tasks, queue) = unbounded();
                hand_on(shared, &tasks);
                drop(tasks);
                assert_eq!(queue.len(), TASKS);
                let (before, begins) = unbounded();
                queue
                    .iter()
                    .take(done)
                    .for_each(|task| before.send(task).unwrap());
                drop(before);
                work(&begins, shared);
                shared.site.stop.set();
                work(&queue, shared);
                assert!(shared.failure.lock().unwrap().is_none());
                assert_eq!(shared.written.expect_whole().is_ok(), done == TASKS);
                let large = std::fs::metadata(into.join("large")).unwrap();
                assert_eq!(large.mtime() == DATE_S, done >= 2, "{done}");
                assert_eq!(into.join("small").exists(), done == TASKS);
            });
        }
    }

    /// Nobody has said that anything was left out.
    #[test]
    fn a_file_that_ends_before_its_time_is_not_whole() {
        attempt(|shared, into| {
            let mut writer = Writer::counting(shared.site, shared.written);
            let file = writer.begin(b"a", false, DATE_S, 8).unwrap();
            let part = |offset| file.write(offset, [&b"half"[..]].into_iter(), shared.site.stop);
            let is_dated = || std::fs::metadata(into.join("a")).unwrap().mtime() == DATE_S;
            part(0).unwrap();
            shared.written.expect_whole().unwrap_err();
            assert!(!is_dated());
            part(4).unwrap();
            shared.written.expect_whole().unwrap();
            assert!(is_dated());
        });
    }
}
