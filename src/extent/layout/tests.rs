use proptest::prelude::*;

use super::*;
use crate::extent::raw::{
    BLOCK_HEADER_BYTES, CHECKSUM_BYTES, FRAME_HEADER_BYTES, content_checksum,
};

fn data(len: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}

fn checksums(data: &[u8]) -> Vec<u32> {
    data.chunks(RAW_FRAME_BYTES as usize)
        .map(content_checksum)
        .collect()
}

/// Reads the whole wire from `at`, segment by segment.
fn wire(layout: &Layout, spool: &[u8], file: &[u8], mut at: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while let Some(segment) = layout.segment_at(at) {
        match segment {
            Segment::Inline(inline) => out.extend_from_slice(inline.as_slice()),
            Segment::Spool { offset, len } => {
                out.extend_from_slice(&spool[offset as usize..][..len as usize])
            }
            Segment::File { offset, len, .. } => {
                out.extend_from_slice(&file[offset as usize..][..len as usize])
            }
        }
        assert!(segment.wire_bytes() > 0);
        at += segment.wire_bytes();
    }
    out
}

#[test]
fn a_stock_decoder_unpacks_raw_runs_of_every_edge_length() {
    let block = RAW_BLOCK_BYTES as usize;
    let frame = RAW_FRAME_BYTES as usize;
    let lens = [
        1,
        2,
        block - 1,
        block,
        block + 1,
        frame - 1,
        frame,
        frame + 1,
        2 * frame + block + 7,
    ];
    for len in lens {
        let file = data(len);
        let mut layout = Layout::default();
        layout.push_raw(0, 0, len as u64, &checksums(&file));
        let wire = wire(&layout, &[], &file, 0);
        assert_eq!(wire.len() as u64, layout.wire_bytes(), "length {len}");
        assert_eq!(decode_frames(&wire), file, "length {len}");
    }
}

fn decode_frames(mut wire: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    while !wire.is_empty() {
        let size = zstd_safe::find_frame_compressed_size(wire).unwrap();
        let mut frame = Vec::with_capacity(RAW_FRAME_BYTES as usize);
        zstd_safe::decompress(&mut frame, &wire[..size]).unwrap();
        out.extend_from_slice(&frame);
        wire = &wire[size..];
    }
    out
}

#[test]
fn every_offset_reads_the_same_bytes_as_the_whole() {
    let file = data(RAW_FRAME_BYTES as usize + RAW_BLOCK_BYTES as usize + 5);
    let spool = data(40);
    let mut layout = Layout::default();
    layout.push_spool(10);
    let sums = checksums(&file);
    layout.push_raw(0, 0, RAW_FRAME_BYTES, &sums[..1]);
    layout.push_raw(0, RAW_FRAME_BYTES, RAW_BLOCK_BYTES + 5, &sums[1..]);
    layout.push_spool(20);
    layout.push_spool(10);
    assert_eq!(layout.extents().len(), 3, "neighbours are merged");
    let whole = wire(&layout, &spool, &file, 0);
    let mut at = 0;
    while at < whole.len() as u64 {
        // Every offset near an edge, a coarse step elsewhere.
        let Some(segment) = layout.segment_at(at) else {
            panic!("no segment at {at}")
        };
        assert!(segment.wire_bytes() > 0);
        let rest = wire(&layout, &spool, &file, at);
        assert_eq!(rest, whole[at as usize..], "from {at}");
        at += if segment.wire_bytes() > 64 {
            segment.wire_bytes() - 20
        } else {
            1
        };
    }
}

#[test]
fn ranges_to_read_ahead_cover_what_is_sent() {
    let len = 3 * RAW_FRAME_BYTES + 77;
    let file = data(len as usize);
    let mut layout = Layout::default();
    layout.push_spool(100);
    layout.push_raw(0, 0, len, &checksums(&file));
    let end = layout.wire_bytes();
    for start in (0..end).step_by(999_983) {
        let range = start..(start + 1_000_000).min(end);
        let mut covered: Vec<(Option<u32>, Range<u64>)> = Vec::new();
        layout.file_ranges(range.clone(), |file, range| covered.push((file, range)));
        let mut at = range.start;
        while at < range.end {
            let segment = layout.segment_at(at).unwrap();
            if let Segment::File { offset, len, .. } = segment {
                let len = len.min(range.end - at);
                let inside = |(file, r): &(Option<u32>, Range<u64>)| {
                    file.is_some() && r.start <= offset && r.end >= offset + len
                };
                assert!(covered.iter().any(inside), "{offset}+{len} of {range:?}");
            }
            at += segment.wire_bytes();
        }
    }
}

#[test]
fn parts_of_a_layout_make_the_same_layout() {
    let mut layout = Layout::default();
    layout.push_spool(10);
    layout.push_raw(1, 7, RAW_FRAME_BYTES + 1, &[1, 2]);
    layout.push_raw(0, 0, 1, &[3]);
    layout.push_spool(20);
    let parts = (layout.extents().to_vec(), layout.checksums().to_vec());
    assert_eq!(Layout::from_parts(parts.0, parts.1), Ok(layout));
    assert_eq!(
        Layout::from_parts(Vec::new(), Vec::new()),
        Ok(Layout::default())
    );
}

/// One extent after another, as the model sees them: where its bytes come from, and how many.
#[derive(Debug, Clone)]
enum Step {
    Spool(u64),
    Raw(u32, u64, u64),
    Stored(u32, u64, u64),
}

/// Of few places, so that some continue each other; some are empty.
fn steps() -> impl Strategy<Value = Vec<Step>> {
    let at = || (0u32..2, 0u64..4, 0u64..4);
    let step = prop_oneof![
        (0u64..40).prop_map(Step::Spool),
        at().prop_map(|(file, at, len)| Step::Raw(file, 10 * at, 10 * len)),
        at().prop_map(|(file, at, len)| Step::Stored(file, 10 * at, 10 * len)),
    ];
    prop::collection::vec(step, 0..20)
}

/// A byte of the wire by its file and place there: the spool is no file, and framing is nowhere.
type Byte = Option<(Option<u32>, u64)>;

/// The layout of the steps, and the wire byte by byte.
fn laid_out(steps: &[Step]) -> (Layout, Vec<Byte>) {
    let (mut layout, mut wire, mut spooled) = (Layout::default(), Vec::new(), 0);
    for step in steps {
        match *step {
            Step::Spool(len) => {
                layout.push_spool(len);
                wire.extend((spooled..spooled + len).map(|at| Some((None, at))));
                spooled += len;
            }
            Step::Stored(file, offset, len) => {
                layout.push_stored(file, offset, len);
                wire.extend((offset..offset + len).map(|at| Some((Some(file), at))));
            }
            Step::Raw(file, offset, len) => {
                layout.push_raw(file, offset, len, &vec![7; raw_frames(len) as usize]);
                if len > 0 {
                    // One block: what is around it are the head and the checksum.
                    wire.extend([None; (FRAME_HEADER_BYTES + BLOCK_HEADER_BYTES) as usize]);
                    wire.extend((offset..offset + len).map(|at| Some((Some(file), at))));
                    wire.extend([None; CHECKSUM_BYTES as usize]);
                }
            }
        }
    }
    (layout, wire)
}

fn bytes_of(segment: &Segment) -> Vec<Byte> {
    match segment {
        Segment::Inline(inline) => vec![None; inline.as_slice().len()],
        Segment::Spool { offset, len } => {
            (*offset..offset + len).map(|at| Some((None, at))).collect()
        }
        Segment::File { file, offset, len } => {
            let bytes = *offset..offset + len;
            bytes.map(|at| Some((Some(*file), at))).collect()
        }
    }
}

proptest! {
    /// Every offset of the wire, against a model that knows each byte by itself.
    #[test]
    fn each_byte_of_the_wire_is_where_it_was_put(steps in steps(), to in any::<prop::sample::Index>()) {
        let (layout, wire) = laid_out(&steps);
        prop_assert_eq!(layout.wire_bytes(), wire.len() as u64);
        let is_spooled = |byte: &&Byte| matches!(byte, Some((None, _)));
        let spooled = wire.iter().filter(is_spooled).count() as u64;
        prop_assert_eq!(layout.spool_bytes(), spooled);
        for at in 0..wire.len() {
            let segment = layout.segment_at(at as u64).unwrap();
            let bytes = bytes_of(&segment);
            prop_assert!(!bytes.is_empty() && bytes.len() as u64 == segment.wire_bytes());
            prop_assert_eq!(&wire[at..][..bytes.len()], &bytes[..], "at {}", at);
            let next = wire[at..].iter().find(is_spooled).map_or(spooled, |byte| byte.unwrap().1);
            prop_assert_eq!(layout.spool_offset_at(at as u64), next, "at {}", at);
            // What is read ahead covers what is sent.
            let end = at + 1 + to.index(wire.len() - at);
            let mut ahead = Vec::new();
            layout.file_ranges(at as u64..end as u64, |file, range| ahead.push((file, range)));
            for (file, at) in wire[at..end].iter().flatten() {
                let covers = ahead.iter().any(|(of, range)| of == file && range.contains(at));
                prop_assert!(covers, "{:?} of {:?} in {:?}", at, file, ahead);
            }
        }
        prop_assert_eq!(layout.segment_at(wire.len() as u64), None);
        prop_assert_eq!(layout.spool_offset_at(wire.len() as u64), spooled);
        let parts = (layout.extents().to_vec(), layout.checksums().to_vec());
        prop_assert_eq!(Layout::from_parts(parts.0, parts.1), Ok(layout));
    }

    /// No two neighbours could be one, and none is empty.
    #[test]
    fn stretches_that_continue_each_other_are_one(steps in steps()) {
        let (layout, _) = laid_out(&steps);
        prop_assert!(layout.extents().iter().all(|extent| extent.wire_bytes() > 0));
        for pair in layout.extents().windows(2) {
            let joined = match (pair[0], pair[1]) {
                (Extent::Spool { .. }, Extent::Spool { .. }) => true,
                (Extent::Stored { file, offset, len }, Extent::Stored { file: of, offset: at, .. }) => {
                    file == of && offset + len == at
                }
                _ => false,
            };
            prop_assert!(!joined, "{:?}", pair);
        }
    }
}

#[test]
fn stored_frames_are_merged_only_with_what_they_continue() {
    let stored = |file, offset, len| Extent::Stored { file, offset, len };
    let mut layout = Layout::default();
    layout.push_stored(1, 100, 10);
    layout.push_stored(1, 110, 0);
    layout.push_stored(1, 110, 5);
    // A hole, another file, the spool between, a raw run of the same bytes.
    layout.push_stored(1, 116, 4);
    layout.push_stored(2, 120, 4);
    layout.push_spool(3);
    layout.push_stored(2, 124, 1);
    layout.push_raw(2, 125, 1, &[9]);
    layout.push_stored(2, 126, 1);
    let raw = Extent::RawRun {
        file: 2,
        offset: 125,
        len: 1,
        first_checksum: 0,
    };
    let spool = Extent::Spool { offset: 0, len: 3 };
    let expected = [
        stored(1, 100, 15),
        stored(1, 116, 4),
        stored(2, 120, 4),
        spool,
        stored(2, 124, 1),
        raw,
        stored(2, 126, 1),
    ];
    assert_eq!(layout.extents(), expected);
    let mut ahead = Vec::new();
    layout.file_ranges(14..28, |file, range| ahead.push((file, range)));
    let expected = [
        (Some(1), 114..115),
        (Some(1), 116..120),
        (Some(2), 120..124),
        (None, 0..3),
        (Some(2), 124..125),
    ];
    // Ranges end with the wire's.
    assert_eq!(ahead[..5], expected);
    assert_eq!(layout.spool_offset_at(0), 0);
    assert_eq!(layout.spool_offset_at(24), 1);
    assert_eq!(layout.spool_offset_at(26), 3, "none comes behind");
}

#[test]
fn each_broken_invariant_of_the_parts_is_named() {
    let spool = |offset, len| Extent::Spool { offset, len };
    let raw = |offset, len, first_checksum| Extent::RawRun {
        file: 0,
        offset,
        len,
        first_checksum,
    };
    let error = |extents: &[Extent], checksums: usize| {
        Layout::from_parts(extents.to_vec(), vec![0; checksums]).unwrap_err()
    };
    use LayoutError::*;
    let file_max = i64::MAX as u64;
    let gap = |found, expected| SpoolGap {
        extent: 1,
        found,
        expected,
    };
    let first = |extent, found, expected| FirstChecksum {
        extent,
        found,
        expected,
    };
    let count = |found, expected| ChecksumCount { found, expected };
    assert_eq!(error(&[spool(0, 0)], 0), Empty { extent: 0 });
    assert_eq!(error(&[raw(5, 0, 0)], 0), Empty { extent: 0 });
    assert_eq!(error(&[spool(0, 5), spool(6, 5)], 0), gap(6, 5));
    assert_eq!(error(&[spool(0, 5), spool(4, 5)], 0), gap(4, 5));
    assert_eq!(error(&[raw(0, 1, 1)], 1), first(0, 1, 0));
    let two_frames = raw(0, RAW_FRAME_BYTES + 1, 0);
    assert_eq!(error(&[two_frames, raw(0, 1, 1)], 3), first(1, 1, 2));
    assert_eq!(error(&[two_frames], 1), count(1, 2));
    assert_eq!(error(&[two_frames], 3), count(3, 2));
    assert_eq!(error(&[spool(0, 1)], 1), count(1, 0));
    assert_eq!(error(&[raw(u64::MAX, 1, 0)], 1), TooLong { extent: 0 });
    assert_eq!(error(&[raw(1, u64::MAX, 0)], 1), TooLong { extent: 0 });
    assert_eq!(error(&[raw(0, file_max, 0)], 1), TooLong { extent: 0 });
    let full = [spool(0, file_max), spool(file_max, 1)];
    assert_eq!(error(&full, 0), TooLong { extent: 1 });
    let sum = [spool(0, file_max), raw(0, 1, 0)];
    assert_eq!(error(&sum, 1), TooLong { extent: 1 });
    let stored = |offset, len| Extent::Stored {
        file: u32::MAX,
        offset,
        len,
    };
    assert_eq!(error(&[stored(5, 0)], 0), Empty { extent: 0 });
    assert_eq!(error(&[stored(u64::MAX, 1)], 0), TooLong { extent: 0 });
    assert_eq!(error(&[stored(1, u64::MAX)], 0), TooLong { extent: 0 });
    assert_eq!(error(&[stored(1, file_max)], 0), TooLong { extent: 0 });
    let sum = [stored(0, file_max), stored(0, 1)];
    assert_eq!(error(&sum, 0), TooLong { extent: 1 });
    // Stored frames have no place in the spool, and no checksums.
    assert_eq!(
        error(&[stored(0, 5), spool(5, 5)], 0),
        SpoolGap {
            extent: 1,
            found: 5,
            expected: 0
        }
    );
    assert_eq!(error(&[stored(0, 1)], 1), count(1, 0));
}
