use super::*;
use crate::extent::{RAW_FRAME_BYTES, low_checksum};
use crate::manifest::id::EntryId;
use crate::manifest::meta::Fields;
use crate::manifest::parts::part_name;
use crate::manifest::record::Linked;
use crate::manifest::want::Want;
use xxhash_rust::xxh64::xxh64;

const PACK_BYTES: u64 = RAW_FRAME_BYTES + 10;
const FRAMES_BYTES: u64 = 3 * SUM_PIECE_BYTES + 5;
const SPOOL_BYTES: u64 = 2 * SUM_PIECE_BYTES + 1;

fn content(file: usize, bytes: u64) -> Vec<u8> {
    (0..bytes).map(|at| (at % 251) as u8 ^ file as u8).collect()
}

/// A pack, a file of frames of which two stretches are of use, and a spool file that all of it stands between.
fn snapshot() -> (Meta, Sums, Vec<Vec<u8>>) {
    let files = vec![
        content(0, PACK_BYTES),
        content(1, FRAMES_BYTES),
        content(2, SPOOL_BYTES),
    ];
    let frames = files[0].chunks(RAW_FRAME_BYTES as usize);
    let checksums = Vec::from_iter(frames.map(|frame| low_checksum(xxh64(frame, 0))));
    let mut layout = Layout::default();
    layout.push_spool(100);
    layout.push_raw(0, 0, PACK_BYTES, &checksums);
    layout.push_stored(1, SUM_PIECE_BYTES - 3, 6);
    layout.push_spool(SUM_PIECE_BYTES);
    layout.push_stored(1, 2 * SUM_PIECE_BYTES, SUM_PIECE_BYTES + 5);
    layout.push_spool(SPOOL_BYTES - SUM_PIECE_BYTES - 100);
    let linked = |path: &str, file: usize, whole| Linked {
        path: path.into(),
        bytes: files[file].len() as u64,
        whole,
    };
    let pack = format!("objects/pack/pack-{}.pack", "a".repeat(40));
    let [frames, spool] = ["1", "2"].map(|digit| format!("frames/{}", digit.repeat(32)));
    let mut sums = Sums::default();
    for (path, file) in [(&frames, 1), (&spool, 2)] {
        let pieces = files[file].chunks(SUM_PIECE_BYTES as usize);
        let pieces = pieces.map(|piece| xxh64(piece, 0)).collect();
        sums.files.insert(part_name(path).to_owned(), pieces);
    }
    let meta = Meta::new(Fields {
        id: EntryId::from_bytes([1; 16]),
        repository: "h/r".into(),
        want: Want::default(),
        commit: None,
        shown: [0; 32],
        created_unix_ms: 0,
        linked: vec![linked(&pack, 0, None), linked(&frames, 1, Some(0))],
        spool,
        layout,
        spool_checksum: 0,
    });
    (meta.expect("metadata"), sums, files)
}

fn stretches(plan: &mut Plan) -> Vec<Stretch> {
    std::iter::from_fn(|| plan.next_stretch()).collect()
}

#[test]
fn each_byte_is_fetched_once_and_what_comes_first_first() {
    let (meta, sums, files) = snapshot();
    let stretches = stretches(&mut Plan::new(&meta, &sums).unwrap());
    assert_eq!((stretches[0].file, stretches[0].range.start), (2, 0));
    assert_eq!(
        stretches[0].range.end, SUM_PIECE_BYTES,
        "something comes soon"
    );
    assert_eq!(stretches[1].file, 0);
    for (file, content) in files.iter().enumerate() {
        let mut of_it = Vec::from_iter(stretches.iter().filter(|one| one.file == file));
        of_it.sort_by_key(|one| one.range.start);
        let mut at = 0;
        for one in of_it {
            assert_eq!(one.range.start, at, "file {file}");
            at = one.range.end;
        }
        assert_eq!(at, content.len() as u64, "file {file}");
    }
}

/// In whatever order they come: the frontier passes nothing that is not there, and what it passes makes the layout.
#[test]
fn the_frontier_moves_over_what_is_there() {
    let (meta, sums, _) = snapshot();
    for turn in 0..6 {
        let mut plan = Plan::new(&meta, &sums).unwrap();
        let mut left = stretches(&mut plan);
        let (mut there, mut made) = (Vec::new(), Layout::default());
        while !left.is_empty() {
            let next = left.remove(turn % left.len());
            plan.note(&next);
            there.push(next);
            let is_there = |file: usize, from: u64, len: u64| {
                (from..from + len)
                    .step_by(1000)
                    .chain([from + len - 1])
                    .all(|at| {
                        let has = |one: &Stretch| one.file == file && one.range.contains(&at);
                        there.iter().any(has)
                    })
            };
            while let Some(ready) = plan.advance() {
                match ready {
                    Ready::Spool { len } => {
                        assert!(is_there(2, made.spool_bytes(), len));
                        made.push_spool(len);
                    }
                    Ready::Stored { file, offset, len } => {
                        assert!(is_there(file as usize, offset, len));
                        made.push_stored(file, offset, len);
                    }
                    Ready::Raw {
                        file,
                        offset,
                        len,
                        checksum,
                    } => {
                        assert!(is_there(file as usize, offset, len));
                        made.push_raw(file, offset, len, &[checksum]);
                    }
                }
            }
            assert_eq!(plan.is_whole(), made.wire_bytes() == meta.wire_bytes());
        }
        assert!(plan.is_whole());
        assert_eq!(made, meta.layout, "turn {turn}");
    }
}

#[test]
fn what_is_something_else_is_found() {
    let (meta, sums, files) = snapshot();
    for stretch in stretches(&mut Plan::new(&meta, &sums).unwrap()) {
        let range = stretch.range.start as usize..stretch.range.end as usize;
        let mut bytes = files[stretch.file][range].to_vec();
        assert_eq!(stretch.check(&bytes), Ok(()));
        assert_eq!(stretch.check(&bytes[1..]), Err(stretch.range.start));
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        let found = stretch.check(&bytes).unwrap_err();
        assert!(found < stretch.range.end && stretch.range.end - found <= RAW_FRAME_BYTES);
    }
}

#[test]
fn what_has_no_checksums_is_not_taken() {
    let (meta, sums, _) = snapshot();
    for name in sums.files.keys() {
        let mut fewer = sums.clone();
        fewer.files.get_mut(name).unwrap().pop();
        let refused = Plan::new(&meta, &fewer).unwrap_err();
        assert_eq!(refused.name, *name);
        fewer.files.remove(name);
        assert!(Plan::new(&meta, &fewer).is_err());
    }
    // A pack of which the archive does not have all.
    let mut fields = meta.into_fields();
    fields.linked[0].bytes += RAW_FRAME_BYTES;
    assert!(Plan::new(&Meta::new(fields).unwrap(), &sums).is_err());
}

#[test]
fn packs_come_first_where_a_mirror_waits_for_them() {
    let (meta, sums, _) = snapshot();
    let mut plan = Plan::new(&meta, &sums).unwrap();
    let all = stretches(&mut Plan::new(&meta, &sums).unwrap()).len();
    let begun = plan.next_stretch().unwrap();
    assert_ne!(begun.file, 0);
    let mut fetched = vec![begun];
    while !plan.has_packs() {
        let next = plan.next_stretch_of_packs().unwrap();
        assert_eq!(next.file, 0);
        plan.note(&next);
        fetched.push(next);
    }
    fetched.extend(std::iter::from_fn(|| plan.next_stretch_of_packs()));
    assert_eq!(fetched.len(), all, "each once");
}
