//! Encoding of frames on the ring's threads.

use super::hash::hash;
use super::support::rng::Rng;
use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tarpon::limits::{FRAME_TAR_BYTES, LEVEL_DEFAULT};
use tarpon::snapshot::job::EncoderState;
use tarpon::snapshot::ring::{Pending, Ring, Size};

/// Frames in one iteration.
const FRAMES: u64 = 32;
/// Most threads.
const THREADS_MAX: usize = 16;

pub fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("ring");
    group.sample_size(10).sampling_mode(SamplingMode::Flat);
    group.warm_up_time(Duration::from_millis(500));
    let blocks: Vec<Arc<Vec<u8>>> = (0..FRAMES)
        .map(|seed| Arc::new(Rng::new(seed).text(FRAME_TAR_BYTES)))
        .collect();
    let plain: Vec<u8> = blocks
        .iter()
        .flat_map(|block| block.iter().copied())
        .collect();
    group.throughput(Throughput::Bytes(plain.len() as u64));
    let mut expected = None;
    let most = std::thread::available_parallelism().map_or(1, |n| n.get().min(THREADS_MAX));
    for threads in 1..=most {
        let ring = Ring::start(threads, EncoderState::default);
        let ring = ring.unwrap_or_else(|e| panic!("threads: {e}"));
        let frames = encode(&ring, &blocks);
        assert_eq!(hash(&decoded(&frames, plain.len())), hash(&plain));
        // The same bytes whatever the number of threads.
        let expected = *expected.get_or_insert(hash(&frames));
        group.bench_function(BenchmarkId::new("frames_of_1_MiB", threads), |bencher| {
            bencher.iter(|| assert_eq!(hash(&encode(&ring, &blocks)), expected));
        });
    }
    group.finish();
}

/// Encodes all blocks with as many in flight as the producer has.
fn encode(ring: &Ring<EncoderState>, blocks: &[Arc<Vec<u8>>]) -> Vec<u8> {
    let window = 2 * ring.threads() + 2;
    let lane = ring.lane(Size::Large);
    let (mut out, mut line) = (Vec::new(), VecDeque::new());
    let take = |pending: Pending<Vec<u8>>, out: &mut Vec<u8>| {
        let frame = pending.wait(std::time::Duration::ZERO, || {});
        out.extend(frame.unwrap_or_else(|e| panic!("an encoder: {e}")));
    };
    for block in blocks {
        let block = block.clone();
        line.push_back(lane.submit(move |state: &mut EncoderState| {
            let mut frame = Vec::new();
            let made = state.push_frame(LEVEL_DEFAULT, &block, &mut frame);
            made.unwrap_or_else(|e| panic!("a frame: {e}"));
            frame
        }));
        if line.len() >= window
            && let Some(pending) = line.pop_front()
        {
            take(pending, &mut out);
        }
    }
    for pending in line {
        take(pending, &mut out);
    }
    out
}

fn decoded(frames: &[u8], len: usize) -> Vec<u8> {
    let mut plain = vec![0; len];
    let decoded = zstd_safe::decompress(&mut plain[..], frames);
    assert_eq!(decoded, Ok(len));
    plain
}
