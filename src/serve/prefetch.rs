//! Threads that bring files into memory before a network core sends them, so that no core ever
//! waits for the disk, and that open the files of entries.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam::channel::{Receiver, Sender, unbounded};
use tokio::sync::oneshot;

use super::archive::{Archive, Files};
use crate::limits::{PREFETCH_THREADS, READ_AHEAD_BYTES};
use crate::snapshot::map::MappedFile;

/// Ranges of an archive's files: the spool (`None`) or a linked file.
pub type FileRanges = Vec<(Option<u32>, Range<u64>)>;

enum Request {
    Read {
        files: Arc<Files>,
        ranges: FileRanges,
        done: oneshot::Sender<io::Result<()>>,
    },
    Open {
        archive: Arc<Archive>,
        done: oneshot::Sender<io::Result<Arc<Files>>>,
    },
}

/// The threads. Dropping it ends them.
#[derive(Debug)]
pub struct Prefetch {
    queue: Option<Sender<Request>>,
    threads: Vec<JoinHandle<()>>,
}

impl Prefetch {
    /// Starts the threads.
    pub fn start() -> io::Result<Prefetch> {
        let (queue, requests) = unbounded();
        let mut threads = Vec::new();
        for index in 0..PREFETCH_THREADS {
            let requests: Receiver<Request> = requests.clone();
            let builder = std::thread::Builder::new().name(format!("prefetch-{index}"));
            threads.push(builder.spawn(move || run(&requests))?);
        }
        Ok(Prefetch {
            queue: Some(queue),
            threads,
        })
    }

    /// Has the ranges read into the page cache; the receiver hears when they are there.
    pub fn read(&self, files: Arc<Files>, ranges: FileRanges) -> oneshot::Receiver<io::Result<()>> {
        let (done, receiver) = oneshot::channel();
        self.send(Request::Read {
            files,
            ranges,
            done,
        });
        receiver
    }

    /// Has the archive's files opened.
    pub fn open(&self, archive: Arc<Archive>) -> oneshot::Receiver<io::Result<Arc<Files>>> {
        let (done, receiver) = oneshot::channel();
        self.send(Request::Open { archive, done });
        receiver
    }

    fn send(&self, request: Request) {
        if let Some(queue) = &self.queue {
            // Fails only when the threads have ended; then the receiver hears of it.
            let _ = queue.send(request);
        }
    }
}

impl Drop for Prefetch {
    fn drop(&mut self) {
        self.queue = None;
        for thread in self.threads.drain(..) {
            // Its panics were answered by dropping the request's sender.
            let _ = thread.join();
        }
    }
}

fn run(requests: &Receiver<Request>) {
    let mut scratch = vec![0u8; 1 << 20];
    while let Ok(request) = requests.recv() {
        // Whoever asked may have left: then nobody hears the answer.
        match request {
            Request::Read {
                files,
                ranges,
                done,
            } => {
                let _ = done.send(read(&files, &ranges, &mut scratch));
            }
            Request::Open { archive, done } => {
                let _ = done.send(archive.open());
            }
        }
    }
}

/// Reads the ranges, and has the kernel begin with what follows them.
fn read(files: &Files, ranges: &FileRanges, scratch: &mut [u8]) -> io::Result<()> {
    for (file, range) in ranges {
        let file = match file {
            None => &files.spool,
            Some(index) => files
                .linked
                .get(*index as usize)
                .ok_or(io::ErrorKind::NotFound)?,
        };
        let ahead = std::num::NonZeroU64::new(range.end - range.start + READ_AHEAD_BYTES);
        // Only advice.
        let _ = rustix::fs::fadvise(file, range.start, ahead, rustix::fs::Advice::WillNeed);
        if !populate(file, range)? {
            read_through(file, range, scratch)?;
        }
    }
    Ok(())
}

/// Waits for the range without copying it; `false` where that cannot be done.
fn populate(file: &File, range: &Range<u64>) -> io::Result<bool> {
    let mapped = MappedFile::of(file)?;
    let end = range.end.min(mapped.bytes().len() as u64);
    if range.start >= end {
        return Ok(true);
    }
    mapped.populate(range.start as usize..end as usize)
}

fn read_through(file: &File, range: &Range<u64>, scratch: &mut [u8]) -> io::Result<()> {
    let mut at = range.start;
    while at < range.end {
        let want = (range.end - at).min(scratch.len() as u64) as usize;
        match file.read_at(&mut scratch[..want], at)? {
            0 => break,
            got => at += got as u64,
        }
    }
    Ok(())
}
