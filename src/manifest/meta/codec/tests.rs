use proptest::prelude::*;

use super::*;
use crate::extent::{RAW_FRAME_BYTES, raw_frames};
use crate::manifest::want::{Revision, Shape};
use gix::ObjectId;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

fn id(hex: &str) -> ObjectId {
    ObjectId::from_hex(hex.as_bytes()).unwrap()
}

fn fields() -> Fields {
    let mut layout = Layout::default();
    layout.push_spool(100);
    layout.push_raw(1, 5, RAW_FRAME_BYTES + 1, &[1, 2]);
    layout.push_spool(50);
    layout.push_stored(2, 3, 40);
    let linked = |path: &str, bytes, whole| Linked {
        path: path.into(),
        bytes,
        whole,
    };
    Fields {
        id: EntryId::from_bytes([0xA5; 16]),
        repository: "example.org/group/repo".into(),
        want: Want::new(
            Revision::BranchAt("refs/heads/a".into(), id(COMMIT)),
            Shape::Full,
        )
        .unwrap(),
        commit: Some(COMMIT.into()),
        shown: [0x5A; 32],
        created_unix_ms: 1_700_000_000_000,
        linked: vec![
            linked("objects/pack/pack-1.idx", 9, None),
            linked("objects/pack/pack-1.pack", RAW_FRAME_BYTES + 6, None),
            linked("frames/old", 43, Some(u64::MAX)),
        ],
        spool: "frames/new".into(),
        layout,
        spool_checksum: 0x0123_4567_89ab_cdef,
    }
}

/// The file with the payload's length and the digest made right again after a change.
fn reseal(mut file: Vec<u8>) -> Vec<u8> {
    file.truncate(file.len() - DIGEST_BYTES);
    let payload_bytes = (file.len() - Header::BYTES_MIN) as u64;
    file[12..20].copy_from_slice(&payload_bytes.to_le_bytes());
    let digest = Sha256::digest(&file);
    file.extend_from_slice(&digest);
    file
}

/// A sealed file whose payload is the fields as they are, right or wrong.
fn unchecked(fields: Fields) -> Vec<u8> {
    Meta(fields).encode()
}

#[test]
fn the_written_form_does_not_drift() {
    let mut small = fields();
    small.linked.clear();
    small.layout = Layout::default();
    small.commit = None;
    small.spool = "f/n".into();
    small.repository = "h/p".into();
    small.want = Want::default();
    let file = Meta::new(small).unwrap().encode();
    let mut expected = Vec::new();
    expected.extend_from_slice(b"tarpon\x1a\n\x06\0\0\0");
    expected.extend_from_slice(&152u64.to_le_bytes());
    expected.extend_from_slice("a5".repeat(16).as_bytes());
    expected.extend_from_slice(b"\x03\0\0\0\0\0\0\0h/p");
    // HEAD, with all of its history.
    expected.extend_from_slice(&[0, 0]);
    expected.extend_from_slice(&[0; 8]);
    expected.extend_from_slice(&[0x5A; 32]);
    expected.extend_from_slice(&1_700_000_000_000u64.to_le_bytes());
    // No linked files.
    expected.extend_from_slice(&[0; 8]);
    expected.extend_from_slice(b"\x03\0\0\0\0\0\0\0f/n");
    // Two lengths, no extents, no checksums.
    expected.extend_from_slice(&[0; 16 + 8 + 8]);
    expected.extend_from_slice(&0x0123_4567_89ab_cdef_u64.to_le_bytes());
    assert_eq!(file[..file.len() - DIGEST_BYTES], expected);
}

#[test]
fn what_is_around_the_payload_is_checked_first() {
    let file = Meta::new(fields()).unwrap().encode();
    assert!(Meta::decode(&file).is_ok());
    for len in 0..file.len() {
        assert!(Meta::decode(&file[..len]).is_err(), "{len} bytes");
    }
    assert_eq!(
        Meta::decode(&file[..10]),
        Err(MetaError::End {
            offset: 10,
            wanted: 42
        })
    );
    let longer = [file.as_slice(), &[0]].concat();
    let digest = MetaError::Digest {
        offset: file.len() - DIGEST_BYTES + 1,
    };
    assert_eq!(Meta::decode(&longer), Err(digest));

    let mut other = file.clone();
    other[0] ^= 1;
    assert_eq!(Meta::decode(&reseal(other)), Err(MetaError::Magic));

    let mut newer = file.clone();
    newer[8] = VERSION as u8 + 1;
    assert!(matches!(
        Meta::decode(&newer),
        Err(MetaError::Digest { .. })
    ));
    assert_eq!(
        Meta::decode(&reseal(newer)),
        Err(MetaError::Version {
            offset: 8,
            version: VERSION + 1
        })
    );

    let mut trailing = file.clone();
    trailing.splice(file.len() - DIGEST_BYTES..file.len() - DIGEST_BYTES, [0; 3]);
    let offset = file.len() - DIGEST_BYTES;
    assert_eq!(
        Meta::decode(&reseal(trailing)),
        Err(MetaError::Trailing { offset, bytes: 3 })
    );
}

#[test]
fn a_stated_payload_length_must_be_right() {
    let mut file = Meta::new(fields()).unwrap().encode();
    let present = file.len() - Header::BYTES_MIN - DIGEST_BYTES;
    file.truncate(file.len() - DIGEST_BYTES);
    file[12..20].copy_from_slice(&u64::MAX.to_le_bytes());
    let digest = Sha256::digest(&file);
    file.extend_from_slice(&digest);
    let error = MetaError::PayloadLength {
        offset: 12,
        stated: u64::MAX,
        present,
    };
    assert_eq!(Meta::decode(&file), Err(error));
}

#[test]
fn counts_are_bounded_by_the_bytes_that_are_there() {
    let good = Meta::new(fields()).unwrap();
    for field in ["repository", "commit", "linked", "spool"] {
        let mut file = good.encode();
        let offset = Header::BYTES_MIN + good.offset_of(field);
        file[offset..offset + 8].copy_from_slice(&(u64::MAX / 2).to_le_bytes());
        let present = file.len() - DIGEST_BYTES - offset - 8;
        let error = MetaError::Count {
            offset,
            count: u64::MAX / 2,
            present,
        };
        assert_eq!(Meta::decode(&reseal(file)), Err(error), "{field}");
    }
}

type Change = fn(&mut Fields);

#[test]
fn each_broken_invariant_is_refused_in_both_directions() {
    let cases: [(&str, Change); 29] = [
        ("repository", |f| f.repository = "host".into()),
        ("repository", |f| f.repository = String::new()),
        ("repository", |f| f.repository = "host/../x".into()),
        ("repository", |f| f.repository = "/host/x".into()),
        ("repository", |f| f.repository = "host//x".into()),
        ("repository", |f| f.repository = "host/a\nb".into()),
        ("commit", |f| f.commit = Some(COMMIT[1..].into())),
        ("commit", |f| f.commit = Some(COMMIT.to_uppercase())),
        ("linked", |f| f.linked[0].path = "../escape".into()),
        ("linked", |f| f.linked[0].path = "/etc/passwd".into()),
        ("linked", |f| f.linked[0].path = "a/./b".into()),
        ("linked", |f| f.linked[0].path = "a/".into()),
        ("linked", |f| f.linked[0].path = "a\0b".into()),
        ("linked", |f| f.linked[0].path = String::new()),
        ("linked", |f| f.linked[0].path = "meta".into()),
        ("linked", |f| f.linked[0].path = "meta/x".into()),
        ("linked", |f| f.linked[0].path = "outline".into()),
        ("linked", |f| f.linked[0].path = "outline/x".into()),
        ("linked", |f| f.linked[0].path = f.linked[1].path.clone()),
        ("linked", |f| f.spool = "../escape".into()),
        ("linked", |f| f.spool = String::new()),
        ("linked", |f| f.spool = "meta".into()),
        ("linked", |f| f.spool = "outline".into()),
        ("linked", |f| f.spool = f.linked[2].path.clone()),
        ("layout", |f| f.linked[1].bytes -= 1),
        ("layout", |f| f.linked[2].bytes -= 1),
        ("layout", |f| f.linked.truncate(1)),
        ("layout", |f| f.linked.truncate(2)),
        ("layout", |f| f.layout.push_stored(3, 0, 1)),
    ];
    for (number, (field, change)) in cases.into_iter().enumerate() {
        let mut changed = fields();
        change(&mut changed);
        let source = Meta::new(changed.clone()).expect_err(&format!("case {number}"));
        assert_eq!(source.field(), field, "case {number}: {source}");
        let offset = Header::BYTES_MIN + changed.offset_of(field);
        let error = MetaError::Invalid { offset, source };
        assert_eq!(Meta::decode(&unchecked(changed)), Err(error));
    }
}

#[test]
fn lengths_that_do_not_follow_from_the_extents_are_refused() {
    let good = Meta::new(fields()).unwrap();
    let offset = Header::BYTES_MIN + good.offset_of("layout");
    for at in [offset, offset + 8] {
        let mut file = good.encode();
        file[at] ^= 1;
        let expected = "the lengths that the extents have";
        let error = MetaError::Value { offset, expected };
        assert_eq!(Meta::decode(&reseal(file)), Err(error));
    }
    // The second extent's kind: wire_bytes, spool_bytes, count, one spool extent of 17.
    let kind = offset + 8 + 8 + 8 + 17;
    let mut file = good.encode();
    assert_eq!(file[kind], EXTENT_RAW_RUN);
    file[kind] = EXTENT_STORED + 1;
    let error = MetaError::Value {
        offset: kind,
        expected: "a kind of extent",
    };
    assert_eq!(Meta::decode(&reseal(file)), Err(error));
}

#[test]
fn whether_a_checksum_is_there_has_one_form() {
    let good = Meta::new(fields()).unwrap();
    // The last linked file ends the list: its mark and its checksum.
    let offset = Header::BYTES_MIN + good.offset_of("spool") - 9;
    let mut file = good.encode();
    assert_eq!(file[offset], 1);
    file[offset] = 2;
    let error = MetaError::Value {
        offset,
        expected: "0 or 1",
    };
    assert_eq!(Meta::decode(&reseal(file)), Err(error));
}

fn layout_and_files() -> impl Strategy<Value = (Layout, Vec<Linked>)> {
    let step = (0..3, 0u32..3, 0u64..1 << 40, 1u64..20_000_000);
    let steps = prop::collection::vec(step, 0..12);
    (steps, any::<[Option<u64>; 3]>()).prop_map(|(steps, wholes)| {
        let mut layout = Layout::default();
        let mut bytes = [0u64; 3];
        for (kind, file, offset, len) in steps {
            match kind {
                0 => layout.push_spool(len),
                1 => layout.push_stored(file, offset, len),
                _ => {
                    let checksums: Vec<u32> = (0..raw_frames(len)).map(|i| i as u32).collect();
                    layout.push_raw(file, offset, len, &checksums);
                }
            }
            if kind != 0 {
                bytes[file as usize] = bytes[file as usize].max(offset + len);
            }
        }
        let files = bytes.into_iter().zip(wholes).enumerate();
        let files = files.map(|(i, (bytes, whole))| Linked {
            path: format!("objects/pack/pack-{i}.pack"),
            bytes,
            whole,
        });
        (layout, files.collect())
    })
}

fn want() -> impl Strategy<Value = Want> {
    let hex = prop_oneof!["[0-9a-f]{40}", "[0-9a-f]{64}"];
    (0..4u8, "[a-z]{1,3}(/[a-z]{1,9})?", hex).prop_map(|(kind, name, hex)| {
        let revision = match kind {
            0 => Revision::Head,
            1 => Revision::Ref(format!("refs/{name}").into()),
            2 => Revision::Commit(id(&hex)),
            _ => Revision::BranchAt(format!("refs/heads/{name}").into(), id(&hex)),
        };
        Want::new(revision, Shape::Full).expect("a sound name")
    })
}

fn meta() -> impl Strategy<Value = Meta> {
    let commit = prop::option::of(prop_oneof!["[0-9a-f]{40}", "[0-9a-f]{64}"]);
    let name = "[a-z0-9.-]{0,6}[a-z0-9](/[^/.\\p{Cc}][^/\\p{Cc}]{0,8}){1,3}";
    let names = (name, want());
    let head = (any::<([u8; 16], [u8; 32])>(), names, commit, any::<u64>());
    (head, layout_and_files(), "frames/[0-9a-f]{1,32}").prop_map(
        |(head, (layout, linked), spool)| {
            let ((id, shown), (repository, want), commit, created_unix_ms) = head;
            let fields = Fields {
                id: EntryId::from_bytes(id),
                repository,
                want,
                commit,
                shown,
                created_unix_ms,
                linked,
                spool,
                layout,
                spool_checksum: created_unix_ms.rotate_left(7),
            };
            Meta::new(fields).expect("the strategy makes valid entries")
        },
    )
}

/// Any bytes: an error, or an entry that is written as exactly these bytes.
fn decodes_canonically(file: &[u8]) -> Result<(), TestCaseError> {
    if let Ok(meta) = Meta::decode(file) {
        prop_assert!(meta.check().is_ok());
        prop_assert_eq!(meta.encode(), file);
    }
    Ok(())
}

proptest! {
    #[test]
    fn entries_survive_the_round_trip(meta in meta()) {
        let file = meta.encode();
        let decoded = Meta::decode(&file);
        prop_assert_eq!(decoded.as_ref(), Ok(&meta));
        prop_assert_eq!(decoded.unwrap().encode(), file);
    }

    #[test]
    fn a_flipped_bit_or_a_missing_tail_is_noticed(
        meta in meta(),
        place in any::<prop::sample::Index>(),
        bit in 0u32..8,
    ) {
        let mut file = meta.encode();
        let at = place.index(file.len());
        prop_assert!(Meta::decode(&file[..at]).is_err());
        file[at] ^= 1 << bit;
        prop_assert!(Meta::decode(&file).is_err());
    }

    /// With a right digest the rest of the checks stand alone.
    #[test]
    fn sealed_nonsense_is_refused_or_canonical(
        meta in meta(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut file = meta.encode();
        let payload = Header::BYTES_MIN..file.len() - DIGEST_BYTES;
        for (place, value) in changes {
            file[payload.start + place.index(payload.len())] = value;
        }
        if let Some(cut) = cut {
            let len = Header::BYTES_MIN + cut.index(payload.len());
            file.truncate(len + DIGEST_BYTES);
        }
        decodes_canonically(&reseal(file))?;
    }

    #[test]
    fn any_sealed_payload_is_refused_or_canonical(payload in any::<Vec<u8>>()) {
        let mut file = [&MAGIC[..], &VERSION.to_le_bytes(), &[0; 8], &payload].concat();
        file.extend_from_slice(&[0; DIGEST_BYTES]);
        decodes_canonically(&reseal(file))?;
    }

    #[test]
    fn any_bytes_are_refused(file in any::<Vec<u8>>()) {
        prop_assert!(Meta::decode(&file).is_err());
    }
}
