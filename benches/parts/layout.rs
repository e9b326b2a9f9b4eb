//! Finding a wire offset in an archive of very many extents.

use super::support::rng::Rng;
use criterion::{Criterion, Throughput};
use std::hint::black_box;
use tarpon::extent::{Extent, Layout, RAW_BLOCK_BYTES, Segment};

const EXTENTS: usize = 100_000;
/// Offsets looked up in one iteration.
const LOOKUPS: u64 = 1000;
/// Longest run of an extent here: less than one frame, so that the model stays simple.
const LEN_MAX: u64 = 300_000;
/// How far a reader looks ahead.
const AHEAD_BYTES: u64 = 8 << 20;

pub fn bench(criterion: &mut Criterion) {
    let mut rng = Rng::new(0x1A70);
    let extents = extents(&mut rng);
    let checksums = vec![0x5A; EXTENTS / 2];
    let layout = Layout::from_parts(extents.clone(), checksums);
    let layout = layout.unwrap_or_else(|e| panic!("layout: {e}"));
    let offsets: Vec<u64> = (0..LOOKUPS)
        .map(|_| rng.below(layout.wire_bytes()))
        .collect();
    let expected: Vec<(u64, Where)> = offsets.iter().map(|at| model(&extents, *at)).collect();
    let total = expected.iter().map(|(len, _)| len).sum::<u64>();
    for (at, expected) in offsets.iter().zip(&expected) {
        let segment = layout.segment_at(*at);
        let segment = segment.unwrap_or_else(|| panic!("nothing at {at}"));
        assert_eq!(
            (segment.wire_bytes(), place(&segment)),
            *expected,
            "at {at}"
        );
    }
    let mut group = criterion.benchmark_group("layout_of_100000_extents");
    group.throughput(Throughput::Elements(LOOKUPS));
    group.bench_function("segment_at", |bencher| {
        bencher.iter(|| {
            let len = |at: &u64| {
                layout
                    .segment_at(black_box(*at))
                    .map_or(0, |s| s.wire_bytes())
            };
            assert_eq!(offsets.iter().map(len).sum::<u64>(), total);
        });
    });
    let touched: usize = offsets.iter().map(|at| touched(&extents, *at)).sum();
    group.bench_function("file_ranges_of_8_MiB", |bencher| {
        bencher.iter(|| {
            let mut count = 0;
            for at in &offsets {
                layout.file_ranges(*at..*at + AHEAD_BYTES, |_, _| count += 1);
            }
            assert_eq!(count, touched);
        });
    });
    group.finish();
}

/// Spool and pack by turns.
fn extents(rng: &mut Rng) -> Vec<Extent> {
    let (mut spooled, mut packed) = (0, 0);
    let extent = |number: usize| {
        let len = 1 + rng.below(LEN_MAX);
        if number.is_multiple_of(2) {
            let offset = spooled;
            spooled += len;
            return Extent::Spool { offset, len };
        }
        let offset = packed;
        packed += len;
        Extent::RawRun {
            file: 0,
            offset,
            len,
            first_checksum: (number / 2) as u32,
        }
    };
    (0..EXTENTS).map(extent).collect()
}

/// Where a byte comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Where {
    Framing,
    Spool(u64),
    Pack(u64),
}

fn place(segment: &Segment) -> Where {
    match segment {
        Segment::Inline(_) => Where::Framing,
        Segment::Spool { offset, .. } => Where::Spool(*offset),
        Segment::File { offset, .. } => Where::Pack(*offset),
    }
}

/// Walks everything from the start: how many bytes stand in one piece from `at` on, and where.
fn model(extents: &[Extent], at: u64) -> (u64, Where) {
    let mut start = 0;
    for extent in extents {
        for (len, place) in segments(extent) {
            if at < start + len {
                let within = at - start;
                let place = match place {
                    Where::Framing => Where::Framing,
                    Where::Spool(offset) => Where::Spool(offset + within),
                    Where::Pack(offset) => Where::Pack(offset + within),
                };
                return (len - within, place);
            }
            start += len;
        }
    }
    panic!("{at} is behind the end");
}

/// RFC 8878: frame header of 9 bytes, block headers of 3, content, checksum of 4.
fn segments(extent: &Extent) -> Vec<(u64, Where)> {
    match *extent {
        Extent::Spool { offset, len } => vec![(len, Where::Spool(offset))],
        Extent::RawRun { offset, len, .. } => {
            let mut out = Vec::new();
            for block in 0..len.div_ceil(RAW_BLOCK_BYTES) {
                out.push((if block == 0 { 12 } else { 3 }, Where::Framing));
                let from = block * RAW_BLOCK_BYTES;
                let here = (len - from).min(RAW_BLOCK_BYTES);
                out.push((here, Where::Pack(offset + from)));
            }
            out.push((4, Where::Framing));
            out
        }
        Extent::Stored { .. } => panic!("a layout with frames of others"),
    }
}

/// Number of extents that a reader at `at` looks ahead to.
fn touched(extents: &[Extent], at: u64) -> usize {
    let mut start = 0;
    let mut count = 0;
    for extent in extents {
        let len: u64 = segments(extent).iter().map(|(len, _)| len).sum();
        count += usize::from(start + len > at && start < at + AHEAD_BYTES);
        start += len;
    }
    count
}
