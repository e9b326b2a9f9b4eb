//! Threads that bring files into memory before a network core sends them, so that no core ever
//! waits for the disk, and that open the files of entries.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam::channel::{Receiver, Sender, unbounded};
use tokio::sync::oneshot;

use super::open_files::{OpenError, OpenFiles};
use super::place::{Archive, Files};
use crate::io::residency;
use crate::limits::PREFETCH_THREADS;

/// Ranges of an archive's files: the spool (`None`) or a linked file.
pub(crate) type FileRanges = Vec<(Option<u32>, Range<u64>)>;

enum Request {
    Read {
        files: Arc<Files>,
        ranges: FileRanges,
        done: oneshot::Sender<io::Result<()>>,
    },
    Open {
        archive: Arc<Archive>,
        open: Arc<OpenFiles>,
        done: oneshot::Sender<Result<Arc<Files>, OpenError>>,
    },
    OpenManifest {
        archive: Arc<Archive>,
        open: Arc<OpenFiles>,
        done: oneshot::Sender<Result<(Arc<Files>, u64), OpenError>>,
    },
}

/// The threads. Dropping it ends them.
#[derive(Debug)]
pub(crate) struct Prefetch {
    queue: Option<Sender<Request>>,
    threads: Vec<JoinHandle<()>>,
}

impl Prefetch {
    /// Starts the threads.
    pub(crate) fn start() -> io::Result<Prefetch> {
        let (queue, requests) = unbounded();
        let mut threads = Vec::new();
        let nowhere = Arc::new(residency::nowhere()?);
        for index in 0..PREFETCH_THREADS {
            let requests: Receiver<Request> = requests.clone();
            let nowhere = nowhere.clone();
            let builder = std::thread::Builder::new().name(format!("prefetch-{index}"));
            threads.push(builder.spawn(move || run(&requests, &nowhere))?);
        }
        Ok(Prefetch {
            queue: Some(queue),
            threads,
        })
    }

    /// Has the ranges read into the page cache; the receiver hears when they are there.
    pub(crate) fn read(
        &self,
        files: Arc<Files>,
        ranges: FileRanges,
    ) -> oneshot::Receiver<io::Result<()>> {
        let (done, receiver) = oneshot::channel();
        self.send(Request::Read {
            files,
            ranges,
            done,
        });
        receiver
    }

    /// Has the archive's files opened.
    pub(crate) fn open(
        &self,
        archive: Arc<Archive>,
        open: Arc<OpenFiles>,
    ) -> oneshot::Receiver<Result<Arc<Files>, OpenError>> {
        let (done, receiver) = oneshot::channel();
        self.send(Request::Open {
            archive,
            open,
            done,
        });
        receiver
    }

    /// Has the manifest of an archive that stands opened; with its length.
    pub(crate) fn open_manifest(
        &self,
        archive: Arc<Archive>,
        open: Arc<OpenFiles>,
    ) -> oneshot::Receiver<Result<(Arc<Files>, u64), OpenError>> {
        let (done, receiver) = oneshot::channel();
        self.send(Request::OpenManifest {
            archive,
            open,
            done,
        });
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

fn run(requests: &Receiver<Request>, nowhere: &File) {
    while let Ok(request) = requests.recv() {
        // Whoever asked may have left: then nobody hears the answer.
        match request {
            Request::Read {
                files,
                ranges,
                done,
            } => {
                let _ = done.send(read(&files, &ranges, nowhere));
            }
            Request::Open {
                archive,
                open,
                done,
            } => {
                let _ = done.send(archive.open_files(&open));
            }
            Request::OpenManifest {
                archive,
                open,
                done,
            } => {
                let _ = done.send(archive.open_manifest_file(&open));
            }
        }
    }
}

/// Reads the ranges into the page cache.
fn read(files: &Files, ranges: &FileRanges, nowhere: &File) -> io::Result<()> {
    for (file, range) in ranges {
        let file = match file {
            None => &files.spool,
            Some(index) => files.linked(*index).ok_or(io::ErrorKind::NotFound)?,
        };
        residency::read_in(file.file(), range.clone(), nowhere)?;
    }
    Ok(())
}
