//! What goes on the wire against a stock zstd decoder, and the arithmetic of wire offsets against
//! the bytes themselves: an input is a list of compressed frames and raw runs, whose wire is put
//! together here in the plainest way (RFC 8878) and compared from every edge on. It begins with
//! 4 bytes that say whether the content may cross a frame of a raw run; few do, for they are slow.

#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use tarpon::extent::{Layout, Segment, content_checksum};
use tarpon::tree::frames::Compressor;
use tarpon_fuzz::{Input, Rng};

const BLOCK: usize = 128 << 10;
const FRAME: usize = 4 << 20;
/// Content of one input at most: blocks are crossed.
const CONTENT_BYTES_MAX: usize = 2 * BLOCK + 1024;
/// The same for inputs that begin with [`LARGE`]: a frame is crossed.
const LARGE_CONTENT_BYTES_MAX: usize = FRAME + 2 * BLOCK;
/// Four bytes, so that most mutations of a large input make a small one.
const LARGE: u32 = u32::from_le_bytes(*b"4MiB");
const FILES: usize = 2;

/// An archive in the making, and what it must be.
struct Archive {
    layout: Layout,
    spool: Vec<u8>,
    wire: Vec<u8>,
    content: Vec<u8>,
    content_bytes_max: usize,
    /// Wire offset and length of what went to the spool.
    spooled: Vec<(usize, usize)>,
    /// Linked file and its offset behind the last raw run.
    last_run: (usize, usize),
}

fuzz_target!(|data: &[u8]| {
    let archive = archive(&mut Input::new(data));
    let Archive {
        layout,
        wire,
        content,
        spool,
        ..
    } = &archive;
    assert_eq!(layout.wire_bytes(), wire.len() as u64);
    assert_eq!(layout.spool_bytes(), spool.len() as u64);
    let parts = (layout.extents().to_vec(), layout.checksums().to_vec());
    assert_eq!(Layout::from_parts(parts.0, parts.1).as_ref(), Ok(layout));

    assert!(
        decode(wire, content.len()).as_ref() == Ok(content),
        "a stock decoder disagrees"
    );
    let mut rng = Rng::new(u64::from(content_checksum(data)));
    if !wire.is_empty() && content.len() < BLOCK {
        let mut damaged = wire.clone();
        damaged[rng.below(wire.len() as u64) as usize] ^= 1 << rng.below(8);
        let decoded = decode(&damaged, content.len() + BLOCK);
        assert!(
            decoded.is_err() || decoded.as_ref() == Ok(content),
            "damage goes unnoticed"
        );
    }
    check_offsets(&archive, &mut rng);
    check_read_ahead(&archive, &mut rng);
});

fn archive(input: &mut Input<'_>) -> Archive {
    let content_bytes_max = match input.u32() {
        LARGE => LARGE_CONTENT_BYTES_MAX,
        _ => CONTENT_BYTES_MAX,
    };
    let mut archive = Archive {
        layout: Layout::default(),
        spool: Vec::new(),
        wire: Vec::new(),
        content: Vec::new(),
        content_bytes_max,
        spooled: Vec::new(),
        last_run: (0, 0),
    };
    let mut compressor = Compressor::new().unwrap();
    while !input.is_empty() {
        match input.u8() % 3 {
            0 => push_compressed(&mut archive, &mut compressor, input),
            1 => {
                let file = usize::from(input.u8()) % FILES;
                let offset = usize::from(input.u16());
                push_run(&mut archive, file, offset, run_bytes(input));
            }
            _ => {
                let (file, offset) = archive.last_run;
                push_run(&mut archive, file, offset, run_bytes(input));
            }
        }
    }
    archive
}

/// A length near one of the edges of the format.
fn run_bytes(input: &mut Input<'_>) -> usize {
    let edges = [
        0,
        0,
        0,
        BLOCK,
        BLOCK,
        2 * BLOCK,
        FRAME,
        FRAME - BLOCK,
        FRAME + BLOCK,
    ];
    let edge = edges[usize::from(input.u8()) % edges.len()];
    // An exact edge is common, a few bytes to either side the rest.
    (edge + usize::from(input.u8())).saturating_sub(usize::from(input.u8()))
}

fn push_compressed(archive: &mut Archive, compressor: &mut Compressor, input: &mut Input<'_>) {
    let level = 1 + i32::from(input.u8() % 3);
    let times = 1 + usize::from(input.u8());
    let data = input.text().repeat(times);
    if archive.content.len() + data.len() > archive.content_bytes_max {
        return;
    }
    let mut frame = vec![7];
    compressor.push_frame(level, &data, &mut frame).unwrap();
    assert_eq!(frame.remove(0), 7, "what was there stays");
    let mut alone = Vec::new();
    Compressor::new()
        .unwrap()
        .push_frame(level, &data, &mut alone)
        .unwrap();
    assert_eq!(frame, alone, "a frame depends on the frames before it");
    assert_eq!(
        zstd_safe::find_frame_compressed_size(&frame),
        Ok(frame.len())
    );
    let stated = zstd_safe::get_frame_content_size(&frame).unwrap();
    assert_eq!(stated, Some(data.len() as u64));
    assert_eq!(
        frame[frame.len() - 4..],
        content_checksum(&data).to_le_bytes()
    );

    archive.layout.push_spool(frame.len() as u64);
    archive.spooled.push((archive.wire.len(), frame.len()));
    archive.spool.extend_from_slice(&frame);
    archive.wire.extend_from_slice(&frame);
    archive.content.extend_from_slice(&data);
}

fn push_run(archive: &mut Archive, file: usize, offset: usize, len: usize) {
    let file_bytes = files()[file].len();
    if archive.content.len() + len > archive.content_bytes_max || offset + len > file_bytes {
        return;
    }
    let data = &files()[file][offset..offset + len];
    let checksums: Vec<u32> = data.chunks(FRAME).map(content_checksum).collect();
    let (at, bytes) = (offset as u64, len as u64);
    archive.layout.push_raw(file as u32, at, bytes, &checksums);
    for frame in data.chunks(FRAME) {
        push_raw_frame(&mut archive.wire, frame);
    }
    archive.content.extend_from_slice(data);
    archive.last_run = (file, offset + len);
}

/// RFC 8878 section 3.1.1: magic, descriptor (4 bytes of content size, single segment, checksum),
/// content size, raw blocks, checksum.
fn push_raw_frame(wire: &mut Vec<u8>, data: &[u8]) {
    wire.extend_from_slice(&[0x28, 0xb5, 0x2f, 0xfd, 2 << 6 | 1 << 5 | 1 << 2]);
    wire.extend_from_slice(&(data.len() as u32).to_le_bytes());
    let blocks = data.len().div_ceil(BLOCK);
    for (index, block) in data.chunks(BLOCK).enumerate() {
        let header = u32::from(index + 1 == blocks) + block.len() as u32 * 8;
        wire.extend_from_slice(&header.to_le_bytes()[..3]);
        wire.extend_from_slice(block);
    }
    wire.extend_from_slice(&content_checksum(data).to_le_bytes());
}

fn decode(wire: &[u8], content_bytes_max: usize) -> Result<Vec<u8>, usize> {
    let mut content = Vec::with_capacity(content_bytes_max.max(1));
    zstd_safe::decompress(&mut content, wire)?;
    Ok(content)
}

/// From the first byte of every segment, the one behind it, its last one, and some others.
fn check_offsets(archive: &Archive, rng: &mut Rng) {
    let Archive { layout, wire, .. } = archive;
    let end = wire.len() as u64;
    let mut at = 0;
    while let Some(segment) = layout.segment_at(at) {
        let next = at + segment.wire_bytes();
        for at in [at, (at + 1).min(end - 1), next - 1, rng.below(end)] {
            check_offset(archive, at, rng.below(200));
        }
        at = next;
    }
    assert_eq!(at, end);
    for beyond in [end, end + 1, u64::MAX] {
        assert_eq!(layout.segment_at(beyond), None);
    }
}

fn check_offset(archive: &Archive, at: u64, max: u64) {
    let mut segment = archive.layout.segment_at(at).expect("bytes up to the end");
    let bytes = bytes_of(archive, &segment);
    assert!(!bytes.is_empty() && bytes.len() as u64 == segment.wire_bytes());
    assert!(
        archive.wire[at as usize..].starts_with(bytes),
        "other bytes at {at}"
    );
    let first = bytes[..bytes.len().min(max as usize)].to_vec();
    segment.truncate(max);
    assert!(bytes_of(archive, &segment) == first, "cut to {max} bytes");

    let before = |(start, len): &(usize, usize)| (at as usize).saturating_sub(*start).min(*len);
    let spool_offset: usize = archive.spooled.iter().map(before).sum();
    assert_eq!(
        archive.layout.spool_offset_at(at),
        spool_offset as u64,
        "spool at {at}"
    );
}

fn bytes_of<'a>(archive: &'a Archive, segment: &'a Segment) -> &'a [u8] {
    let (source, offset, len) = match segment {
        Segment::Inline(inline) => return inline.as_slice(),
        Segment::Spool { offset, len } => (&archive.spool, offset, len),
        Segment::File { file, offset, len } => (&files()[*file as usize], offset, len),
    };
    &source[*offset as usize..][..*len as usize]
}

/// What is read ahead for a range of the wire holds all that the range sends, and lies in files.
fn check_read_ahead(archive: &Archive, rng: &mut Rng) {
    let Archive {
        layout,
        wire,
        spool,
        ..
    } = archive;
    for _ in 0..8 {
        let start = rng.below(wire.len() as u64);
        let end = start + rng.below(wire.len() as u64 - start + 1);
        let mut covered = Vec::new();
        layout.file_ranges(start..end, |file, range| covered.push((file, range)));
        for (file, range) in &covered {
            let holder = file.map_or(spool, |file| &files()[file as usize]);
            assert!(range.start <= range.end && range.end <= holder.len() as u64);
        }
        let mut at = start;
        while at < end {
            let mut segment = layout.segment_at(at).expect("inside of the archive");
            segment.truncate(end - at);
            let (file, from, len) = match segment {
                Segment::Inline(_) => (None, 0, 0),
                Segment::Spool { offset, len } => (None, offset, len),
                Segment::File { file, offset, len } => (Some(file), offset, len),
            };
            let holds = |(held, range): &(Option<u32>, std::ops::Range<u64>)| {
                *held == file && range.start <= from && from + len <= range.end
            };
            assert!(
                len == 0 || covered.iter().any(holds),
                "{start}..{end} at {at}"
            );
            at += segment.wire_bytes();
        }
    }
}

/// The linked files: bytes that differ everywhere.
fn files() -> &'static [Vec<u8>; FILES] {
    static MADE: OnceLock<[Vec<u8>; FILES]> = OnceLock::new();
    MADE.get_or_init(|| {
        std::array::from_fn(|seed| {
            let mut bytes = vec![0; LARGE_CONTENT_BYTES_MAX + (1 << 16)];
            Rng::new(seed as u64).fill(&mut bytes);
            bytes
        })
    })
}
