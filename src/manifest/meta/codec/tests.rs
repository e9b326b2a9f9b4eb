use proptest::prelude::*;

use super::*;
use crate::extent::{RAW_FRAME_BYTES, raw_frames};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

fn fields() -> Fields {
    let mut layout = Layout::default();
    layout.push_spool(100);
    layout.push_raw(1, 5, RAW_FRAME_BYTES + 1, &[1, 2]);
    layout.push_spool(50);
    let linked = |path: &str, bytes| Linked {
        path: path.into(),
        bytes,
    };
    let job = |spool_offset, spool_bytes| Record {
        key: [7; 32],
        spool_offset,
        spool_bytes,
        checksum: u64::MAX,
        mtime_s: -1,
        sizes: vec![1, u32::MAX],
    };
    Fields {
        id: EntryId::from_bytes([0xA5; 16]),
        repository: "example.org/group/repo".into(),
        commit: Some(COMMIT.into()),
        refs_digest: [0x5A; 32],
        created_unix_ms: 1_700_000_000_000,
        linked: vec![
            linked("objects/pack/pack-1.idx", 9),
            linked("objects/pack/pack-1.pack", RAW_FRAME_BYTES + 6),
        ],
        layout,
        spool_checksum: 0x0123_4567_89ab_cdef,
        jobs: vec![job(100, 30), job(130, 20)],
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
    small.jobs.clear();
    small.commit = None;
    small.repository = "h/p".into();
    let file = Meta::new(small).unwrap().encode();
    let mut expected = Vec::new();
    expected.extend_from_slice(b"tarpon\x1a\n\x04\0\0\0");
    expected.extend_from_slice(&147u64.to_le_bytes());
    expected.extend_from_slice("a5".repeat(16).as_bytes());
    expected.extend_from_slice(b"\x03\0\0\0\0\0\0\0h/p");
    expected.extend_from_slice(&[0; 8]);
    expected.extend_from_slice(&[0x5A; 32]);
    expected.extend_from_slice(&1_700_000_000_000u64.to_le_bytes());
    // No linked files; two lengths, no extents, no checksums.
    expected.extend_from_slice(&[0; 8 + 16 + 8 + 8]);
    expected.extend_from_slice(&0x0123_4567_89ab_cdef_u64.to_le_bytes());
    // No jobs.
    expected.extend_from_slice(&[0; 8]);
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
    for field in ["repository", "commit", "linked", "jobs"] {
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
    let cases: [(&str, Change); 24] = [
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
        ("linked", |f| f.linked[0].path = "spool/x".into()),
        ("linked", |f| f.linked[0].path = f.linked[1].path.clone()),
        ("layout", |f| f.linked[1].bytes -= 1),
        ("layout", |f| f.linked.truncate(1)),
        ("jobs", |f| f.jobs[1].spool_bytes += 1),
        ("jobs", |f| f.jobs[1].spool_offset += 1),
        ("jobs", |f| f.jobs[0].spool_offset = u64::MAX),
        ("jobs", |f| f.jobs[0].spool_bytes = u64::MAX),
        ("jobs", |f| f.jobs[0].spool_offset = 151),
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
    file[kind] = 2;
    let error = MetaError::Value {
        offset: kind,
        expected: "a kind of extent",
    };
    assert_eq!(Meta::decode(&reseal(file)), Err(error));
}

fn layout_and_files() -> impl Strategy<Value = (Layout, Vec<Linked>)> {
    let step = (any::<bool>(), 0u32..3, 0u64..1 << 40, 1u64..20_000_000);
    prop::collection::vec(step, 0..12).prop_map(|steps| {
        let mut layout = Layout::default();
        let mut bytes = [0u64; 3];
        for (raw, file, offset, len) in steps {
            if raw {
                let checksums: Vec<u32> = (0..raw_frames(len)).map(|i| i as u32).collect();
                layout.push_raw(file, offset, len, &checksums);
                bytes[file as usize] = bytes[file as usize].max(offset + len);
            } else {
                layout.push_spool(len);
            }
        }
        let files = bytes.iter().enumerate().map(|(i, bytes)| Linked {
            path: format!("objects/pack/pack-{i}.pack"),
            bytes: *bytes,
        });
        (layout, files.collect())
    })
}

fn job() -> impl Strategy<Value = (Record, u64, u64)> {
    let sizes = prop::collection::vec(any::<u32>(), 0..5);
    let parts = (
        any::<([u8; 32], u64)>(),
        any::<i64>(),
        sizes,
        any::<(u64, u64)>(),
    );
    parts.prop_map(|((key, checksum), mtime_s, sizes, (offset, len))| {
        let record = Record {
            key,
            spool_offset: 0,
            spool_bytes: 0,
            checksum,
            mtime_s,
            sizes,
        };
        (record, offset, len)
    })
}

fn meta() -> impl Strategy<Value = Meta> {
    let commit = prop::option::of(prop_oneof!["[0-9a-f]{40}", "[0-9a-f]{64}"]);
    let name = "[a-z0-9.-]{0,6}[a-z0-9](/[^/.\\p{Cc}][^/\\p{Cc}]{0,8}){1,3}";
    let head = (any::<([u8; 16], [u8; 32])>(), name, commit, any::<u64>());
    let jobs = prop::collection::vec(job(), 0..6);
    (head, layout_and_files(), jobs).prop_map(|(head, (layout, linked), jobs)| {
        let spool_bytes = layout.spool_bytes();
        let place = |(mut job, offset, len): (Record, u64, u64)| {
            job.spool_offset = offset % (spool_bytes + 1);
            job.spool_bytes = len % (spool_bytes - job.spool_offset + 1);
            job
        };
        let jobs = jobs.into_iter().map(place).collect();
        let ((id, refs_digest), repository, commit, created_unix_ms) = head;
        let fields = Fields {
            id: EntryId::from_bytes(id),
            repository,
            commit,
            refs_digest,
            created_unix_ms,
            linked,
            layout,
            spool_checksum: created_unix_ms.rotate_left(7),
            jobs,
        };
        Meta::new(fields).expect("the strategy makes valid entries")
    })
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
