//! Making the files of a worktree: plain system calls against chains of io_uring. Both from one
//! and from two threads, each of which takes one directory after the other; every tree is read
//! back and compared with what it should be.
//!
//! It happens below the directory that `TARPON_BENCH_DIR` names, else in cargo's own.

#[path = "../tests/support/mod.rs"]
mod support;

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput};
use criterion::{criterion_group, criterion_main};
use io_uring::types::{DestinationSlot, Fd, Fixed};
use io_uring::{IoUring, opcode, squeue};
use rustix::fs::{AtFlags, Mode, OFlags, Timespec, Timestamps};
use std::ffi::CString;
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use support::bench::is_quick;
use support::rng::Rng;
use xxhash_rust::xxh64::Xxh64;

/// Files of one tree.
const FILES: usize = 20_000;
const FILES_QUICK: usize = 500;
const FILES_IN_DIRECTORY: usize = 20;
/// Sizes as those of sources: the median, and the spread of their logarithms, which makes the mean
/// four times as large.
const MEDIAN_BYTES: f64 = 4096.0;
const SPREAD: f64 = 1.665;
const FILE_BYTES_MAX: usize = 1 << 20;
/// Chains that a ring has in flight.
const CHAINS: u32 = 16;
/// Operations of a chain.
const CHAIN: usize = 3;

/// As `tarpon restore` opens what it writes.
const FLAGS: OFlags = OFlags::CREATE
    .union(OFlags::EXCL)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::WRONLY);
const MODE: Mode = Mode::from_raw_mode(0o666);
const DATE: Timespec = Timespec {
    tv_sec: 1_700_000_000,
    tv_nsec: 0,
};
const DATES: Timestamps = Timestamps {
    last_access: DATE,
    last_modification: DATE,
};

/// What is to be made.
struct Tree {
    directories: Vec<Directory>,
    /// What the files' bytes are taken from.
    pool: Vec<u8>,
    hash: u64,
}

struct Directory {
    path: PathBuf,
    files: Vec<Entry>,
}

/// A file; its bytes are `pool[at..at + len]`.
struct Entry {
    name: CString,
    at: usize,
    len: usize,
}

/// Makes the files of the directories that it takes from the tree, below the first argument.
type Make = fn(&Tree, BorrowedFd<'_>, &AtomicUsize);

impl Tree {
    fn new(files: usize) -> Tree {
        let mut rng = Rng::new(5);
        let pool = rng.bytes(2 * FILE_BYTES_MAX);
        let mut hash = Xxh64::new(0);
        let directories = (0..files / FILES_IN_DIRECTORY).map(|number| {
            let path = PathBuf::from(format!("part{}/d{number:04}", number / 32));
            let files = (0..FILES_IN_DIRECTORY).map(|number| {
                let len = size(&mut rng);
                let at = rng.below((pool.len() - len) as u64) as usize;
                let name = format!("source{number:02}.c");
                add(&mut hash, &path.join(&name), &pool[at..at + len]);
                let name = CString::new(name).unwrap_or_else(|e| panic!("{e}"));
                Entry { name, at, len }
            });
            let files = files.collect();
            Directory { path, files }
        });
        Tree {
            directories: directories.collect(),
            hash: hash.digest(),
            pool,
        }
    }

    fn bytes(&self, file: &Entry) -> &[u8] {
        &self.pool[file.at..file.at + file.len]
    }

    /// The next directory that no thread has taken.
    fn take(&self, next: &AtomicUsize) -> Option<&Directory> {
        self.directories.get(next.fetch_add(1, Ordering::Relaxed))
    }

    /// Panics unless exactly this tree is at `root`, dated.
    fn expect(&self, root: &Path) {
        let (mut hash, mut count) = (Xxh64::new(0), 0);
        for part in listing(root) {
            for directory in listing(&part) {
                for path in listing(&directory) {
                    let found = fs::metadata(&path).unwrap_or_else(|e| panic!("{e}"));
                    assert_eq!(found.mtime(), DATE.tv_sec, "{}", path.display());
                    let bytes = fs::read(&path).unwrap_or_else(|e| panic!("{e}"));
                    let name = path.strip_prefix(root).unwrap_or(&path);
                    add(&mut hash, name, &bytes);
                    count += 1;
                }
            }
        }
        assert_eq!(count, self.directories.len() * FILES_IN_DIRECTORY);
        assert_eq!(hash.digest(), self.hash, "another tree");
    }
}

impl Directory {
    fn open(&self, root: BorrowedFd<'_>) -> OwnedFd {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(root, &self.path, flags, Mode::empty());
        opened.unwrap_or_else(|e| panic!("{}: {e}", self.path.display()))
    }
}

/// The paths in a directory, in the order of a [`Tree`].
fn listing(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap_or_else(|e| panic!("{e}"));
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    // Shorter names first, so that numbers are in order.
    paths.sort_by_key(|path| (path.as_os_str().len(), path.clone()));
    paths
}

fn add(hash: &mut Xxh64, path: &Path, bytes: &[u8]) {
    hash.update(path.as_os_str().as_encoded_bytes());
    hash.update(&(bytes.len() as u64).to_le_bytes());
    hash.update(bytes);
}

/// Log-normal, by Box and Muller.
fn size(rng: &mut Rng) -> usize {
    let mut unit = || (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
    let (a, b) = (1.0 - unit(), unit());
    let normal = (-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos();
    let len = MEDIAN_BYTES * (SPREAD * normal).exp();
    (len as usize).clamp(1, FILE_BYTES_MAX)
}

fn plain(tree: &Tree, root: BorrowedFd<'_>, next: &AtomicUsize) {
    while let Some(directory) = tree.take(next) {
        let at = directory.open(root);
        for entry in &directory.files {
            let opened = rustix::fs::openat(&at, &entry.name, FLAGS | OFlags::CLOEXEC, MODE);
            let mut file = File::from(opened.unwrap_or_else(|e| panic!("open: {e}")));
            let written = file.write_all(tree.bytes(entry));
            written.unwrap_or_else(|e| panic!("write: {e}"));
            rustix::fs::futimens(&file, &DATES).unwrap_or_else(|e| panic!("date: {e}"));
        }
    }
}

fn ring() -> std::io::Result<IoUring> {
    let mut builder = IoUring::builder();
    builder.setup_single_issuer().setup_defer_taskrun();
    let ring = builder.build(CHAINS * CHAIN as u32)?;
    ring.submitter().register_files_sparse(CHAINS)?;
    Ok(ring)
}

fn chains(tree: &Tree, root: BorrowedFd<'_>, next: &AtomicUsize) {
    let mut ring = ring().unwrap_or_else(|e| panic!("io_uring: {e}"));
    let mut files = std::iter::from_fn(|| tree.take(next)).flat_map(|directory| {
        let at = Rc::new(directory.open(root));
        directory.files.iter().map(move |entry| (at.clone(), entry))
    });
    let mut free: Vec<u32> = (0..CHAINS).collect();
    // The directory of a file in flight stays open.
    let mut busy = [const { None }; CHAINS as usize];
    loop {
        while let Some(slot) = free.pop() {
            let Some((at, entry)) = files.next() else {
                free.push(slot);
                break;
            };
            let chain = chain(slot, &at, entry, tree.bytes(entry));
            // SAFETY: names and bytes belong to the tree, which outlives the ring; the directory
            // is in `busy` until the last operation is done. The kernel writes to none of them.
            let pushed = unsafe { ring.submission().push_multiple(&chain) };
            pushed.unwrap_or_else(|e| panic!("{e}"));
            busy[slot as usize] = Some((at, entry));
        }
        if free.len() == CHAINS as usize {
            return;
        }
        ring.submit_and_wait(1).unwrap_or_else(|e| panic!("{e}"));
        for done in ring.completion() {
            // Of the others only failures are reported, a short write among them.
            let slot = done.user_data() as usize;
            assert!(slot < busy.len() && done.result() == 0, "{done:?}");
            if let Some((at, entry)) = busy[slot].take() {
                let dated =
                    rustix::fs::utimensat(&*at, &entry.name, &DATES, AtFlags::SYMLINK_NOFOLLOW);
                dated.unwrap_or_else(|e| panic!("date: {e}"));
            }
            free.push(slot as u32);
        }
    }
}

/// Opens a file as number `slot` of the ring's table, writes it and closes it.
fn chain(slot: u32, at: &OwnedFd, entry: &Entry, bytes: &[u8]) -> [squeue::Entry; CHAIN] {
    let target = DestinationSlot::try_from_slot_target(slot);
    let open = opcode::OpenAt::new(Fd(at.as_raw_fd()), entry.name.as_ptr())
        .file_index(target.ok())
        .flags(FLAGS.bits() as i32)
        .mode(MODE.as_raw_mode());
    let write = opcode::Write::new(Fixed(slot), bytes.as_ptr(), bytes.len() as u32);
    let close = opcode::Close::new(Fixed(slot));
    let first = squeue::Flags::IO_LINK | squeue::Flags::SKIP_SUCCESS;
    // Failures of these have numbers that are no slot's.
    let failed = |operation: u64| (operation << 32) | u64::from(slot);
    [
        open.build().flags(first).user_data(failed(1)),
        write.build().flags(first).user_data(failed(2)),
        close.build().user_data(u64::from(slot)),
    ]
}

/// Makes the tree once, from so many threads; what it took, without directories.
fn run(tree: &Tree, threads: usize, make: Make) -> Duration {
    let parent = std::env::var_os("TARPON_BENCH_DIR");
    let parent = parent.map_or_else(|| env!("CARGO_TARGET_TMPDIR").into(), PathBuf::from);
    let root = tempfile::tempdir_in(parent).unwrap_or_else(|e| panic!("{e}"));
    for directory in &tree.directories {
        let made = fs::create_dir_all(root.path().join(&directory.path));
        made.unwrap_or_else(|e| panic!("{e}"));
    }
    let handle = File::open(root.path()).unwrap_or_else(|e| panic!("{e}"));
    let next = AtomicUsize::new(0);
    let started = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| make(tree, handle.as_fd(), &next));
        }
    });
    let took = started.elapsed();
    tree.expect(root.path());
    took
}

fn files(criterion: &mut Criterion) {
    let tree = Tree::new(if is_quick() { FILES_QUICK } else { FILES });
    let count = tree.directories.len() * FILES_IN_DIRECTORY;
    let mut group = criterion.benchmark_group("files");
    group.sample_size(10).sampling_mode(SamplingMode::Flat);
    group.warm_up_time(Duration::from_millis(1));
    group.throughput(Throughput::Elements(count as u64));
    for threads in [1, 2] {
        for (name, make) in [("plain", plain as Make), ("io_uring", chains)] {
            if name == "io_uring"
                && let Err(why) = ring()
            {
                println!("files/{name}: not measured: {why}");
                continue;
            }
            group.bench_function(BenchmarkId::new(name, threads), |bencher| {
                bencher.iter_custom(|iterations| {
                    (0..iterations).map(|_| run(&tree, threads, make)).sum()
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, files);
criterion_main!(benches);
