//! Following a spool that grows: one producer, one writer, many followers.

use super::hash::hash;
use super::support::rng::Rng;
use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Barrier, mpsc};
use std::task::{Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};
use tarpon::archive::fanout::Fanout;
use tarpon::archive::handle::ReaderHandle;
use tarpon::extent::{Next, Piece};
use tarpon::limits::WINDOW_BYTES;
use xxhash_rust::xxh64::Xxh64;

const PIECE_BYTES: usize = 256 << 10;
/// Several times the window, so that some bytes come from the spool file.
const PIECES: usize = 4 * WINDOW_BYTES as usize / PIECE_BYTES;
/// Most bytes that a follower takes at once, as a connection does.
const TURN_BYTES: u64 = 1 << 20;

pub fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("spool");
    group.sample_size(10).sampling_mode(SamplingMode::Flat);
    group.warm_up_time(Duration::from_millis(500));
    let content = Rng::new(7).bytes(PIECES * PIECE_BYTES);
    let expected = hash(&content);
    let pieces: Vec<Piece> = content
        .chunks(PIECE_BYTES)
        .map(|piece| Arc::new(piece.to_vec()))
        .collect();
    for followers in [1usize, 16, 64] {
        group.throughput(Throughput::Bytes((content.len() * followers) as u64));
        group.bench_function(BenchmarkId::new("followers", followers), |bencher| {
            bencher.iter_custom(|iterations| {
                let one = |_| run(&pieces, followers, expected);
                (0..iterations).map(one).sum()
            });
        });
    }
    group.finish();
}

/// One archive from its first piece to the last follower's last byte; panics unless each of
/// them has all of it.
fn run(pieces: &[Piece], followers: usize, expected: u64) -> Duration {
    let spool = tempfile::tempfile_in(env!("CARGO_TARGET_TMPDIR"));
    let spool = spool.unwrap_or_else(|e| panic!("spool: {e}"));
    let fanout = Arc::new(Fanout::new());
    let ready = Barrier::new(followers + 1);
    std::thread::scope(|scope| {
        let follow = |_| {
            let reader = fanout.join(0).unwrap_or_else(|| panic!("cannot join"));
            let (ready, spool) = (&ready, &spool);
            scope.spawn(move || {
                ready.wait();
                follow(&reader, spool)
            })
        };
        let threads: Vec<_> = (0..followers).map(follow).collect();
        let (sender, receiver) = mpsc::channel::<(u64, Piece)>();
        let (writes, spool) = (&fanout, &spool);
        scope.spawn(move || {
            for (offset, piece) in receiver {
                let written = spool.write_all_at(&piece, offset);
                written.unwrap_or_else(|e| panic!("spool: {e}"));
                writes.spooled(offset + piece.len() as u64);
            }
        });
        ready.wait();
        let started = Instant::now();
        for piece in pieces {
            let offset = fanout.push_piece(piece.clone());
            let offset = offset.unwrap_or_else(|e| panic!("push: {e}"));
            let job = (offset.unwrap_or_else(|| panic!("no spool")), piece.clone());
            sender.send(job).unwrap_or_else(|e| panic!("writer: {e}"));
        }
        fanout.finish();
        drop(sender);
        for thread in threads {
            let hash = thread.join().unwrap_or_else(|_| panic!("a follower"));
            assert_eq!(hash, expected, "a follower got something else");
        }
        started.elapsed()
    })
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Reads all of the archive and gives its hash.
fn follow(reader: &ReaderHandle, spool: &File) -> u64 {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let (mut hash, mut at) = (Xxh64::new(0), 0);
    let mut block = vec![0; TURN_BYTES as usize];
    loop {
        let next = reader.next(at, TURN_BYTES, &waker);
        at += next.wire_bytes();
        match next {
            Next::Memory { piece, start, end } => hash.update(&piece[start..end]),
            Next::File { offset, len, .. } => {
                let block = &mut block[..len as usize];
                let read = spool.read_exact_at(block, offset);
                read.unwrap_or_else(|e| panic!("spool: {e}"));
                hash.update(block);
            }
            Next::Inline(inline) => hash.update(inline.as_slice()),
            // A wake-up between the look and here is not lost: park returns at once.
            Next::Wait => std::thread::park(),
            Next::End => return hash.digest(),
            Next::Failed(why) => panic!("{why}"),
        }
    }
}
