use super::*;
use crate::extent::{Layout, content_checksum};
use crate::manifest::id::EntryId;
use crate::manifest::parts::Part;
use crate::manifest::want::Want;

const FRAME: u64 = RAW_FRAME_BYTES;

/// A pack of this content, in runs of the archive that end there, and what the snapshot has written.
fn manifest(pack: &[u8], ends: &[u64]) -> Manifest {
    let mut layout = Layout::default();
    layout.push_spool(10);
    let mut from = 0;
    for end in ends {
        let run = &pack[from as usize..*end as usize];
        let sums = run.chunks(FRAME as usize).map(content_checksum);
        layout.push_raw(0, from, end - from, &Vec::from_iter(sums));
        layout.push_spool(1);
        from = *end;
    }
    let part = |name: &str, bytes, whole| Part {
        name: name.into(),
        bytes,
        whole,
    };
    let manifest = Manifest {
        id: EntryId::from_bytes([1; 16]),
        want: Want::default(),
        commit: None,
        parts: vec![
            part("pack-1.pack", pack.len() as u64, None),
            part(&"0a".repeat(16), layout.spool_bytes(), Some(7)),
        ],
        sections: Vec::new(),
        layout,
    };
    assert!(manifest.is_sound());
    manifest
}

fn pieces(manifest: &Manifest, number: usize) -> Vec<Piece> {
    let mut pieces = Vec::new();
    push_pieces(manifest, number, &mut pieces);
    pieces
}

#[test]
fn pieces_are_all_of_a_part_and_end_where_frames_do() {
    let pack = vec![7; 6 * FRAME as usize];
    let whole = manifest(&pack, &[pack.len() as u64]);
    let cut = manifest(&pack, &[FRAME + 5, pack.len() as u64]);
    for manifest in [&whole, &cut] {
        let pieces = pieces(manifest, 0);
        let mut at = 0;
        for piece in &pieces {
            assert_eq!(piece.range.start, at);
            at = piece.range.end;
            let frames = (piece.range.end - piece.range.start).div_ceil(FRAME) as usize;
            assert_eq!(piece.sums.len(), frames);
            let sums = &manifest.layout.checksums()[piece.sums.clone()];
            let bytes = &pack[piece.range.start as usize..piece.range.end as usize];
            let mut taken = Taken::new(piece);
            for some in bytes.chunks(1_000_003) {
                taken.add(some, piece, sums).unwrap();
            }
            assert_eq!(taken.at, piece.range.end);
        }
        assert_eq!(at, pack.len() as u64);
    }
    assert!(pieces(&cut, 0).len() > pieces(&whole, 0).len());
    let own = pieces(&whole, 1);
    assert_eq!(own.len(), 1);
    assert!(own[0].sums.is_empty() && own[0].range == (0..whole.parts[1].bytes));
}

/// What is not right comes again, and nothing that was right.
#[test]
fn a_frame_that_is_not_right_is_taken_again() {
    let pack = vec![7; FRAME as usize + 9];
    let manifest = manifest(&pack, &[pack.len() as u64]);
    // However many frames a piece has.
    let piece = Piece {
        part: 0,
        range: 0..pack.len() as u64,
        sums: 0..2,
    };
    let sums = manifest.layout.checksums();
    let mut broken = pack.clone();
    broken[FRAME as usize + 1] ^= 1;
    let mut taken = Taken::new(&piece);
    assert_eq!(taken.add(&broken, &piece, sums), Err(FRAME));
    assert_eq!(taken.at, FRAME);
    taken.add(&pack[FRAME as usize..], &piece, sums).unwrap();
    assert_eq!(taken.at, pack.len() as u64);
}
