use super::*;
use crate::extent::raw::content_checksum;

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
}
