use proptest::prelude::*;
use sha2::{Digest, Sha256};

use super::super::{DIGEST_BYTES, Header};
use super::*;
use crate::manifest::meta::VERSION;

fn record(part: u32, offset: u64, bytes: u64) -> Record {
    Record {
        key: [7; 32],
        at: Stretch {
            part,
            offset,
            bytes,
        },
        checksum: u64::MAX,
        sizes: vec![1, u32::MAX],
    }
}

fn chunk(part: u32, offset: u64, bytes: u64) -> Chunk {
    Chunk {
        key: [8; 32],
        at: Stretch {
            part,
            offset,
            bytes,
        },
        checksum: 9,
        raw_bytes: 300_000,
    }
}

fn directory(path: &str, count: u32, first_job: u32) -> LargeDirectory {
    LargeDirectory {
        path: path.into(),
        id: vec![0xAB; 20],
        inherited: [3; 32],
        count,
        entries_below: 100,
        directories: 7,
        first_job,
        entries: (0, 2),
        lines: (0, 1),
    }
}

/// Two files of frames; the root with one job of its own, `a` with one, `b` with none, `b/c` with two.
fn outline() -> Outline {
    Outline {
        made_with: [1; 32],
        parts: vec!["frames/new".into(), "frames/old".into()],
        directories: vec![
            directory("", 4, 0),
            directory("a", 1, 1),
            directory("b", 2, 2),
            directory("b/c", 1, 2),
        ],
        jobs: (0..4)
            .map(|i| record(i % 2, 10 * u64::from(i), 10))
            .collect(),
        entries: vec![chunk(0, 40, 5), chunk(1, 45, 5)],
        lines: vec![chunk(1, 50, 5)],
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

#[test]
fn a_directory_has_its_jobs_and_those_below() {
    let outline = outline();
    assert!(outline.is_sound());
    let below: Vec<_> = (0..4).map(|i| outline.jobs_below(i)).collect();
    assert_eq!(below, [0..4, 1..2, 2..4, 2..4]);
    let own: Vec<_> = (0..4).map(|i| outline.own_jobs(i)).collect();
    assert_eq!(own, [0..1, 1..2, 2..2, 2..4]);
    assert_eq!(outline.stretches().count(), 4 + 2 + 1);
}

type Change = fn(&mut Outline);

#[test]
fn what_leads_out_of_the_outline_is_refused() {
    let cases: [Change; 20] = [
        |o| o.directories[0].count = 0,
        |o| o.directories[0].count = 5,
        |o| o.directories[3].count = 2,
        |o| o.directories[3].count = u32::MAX,
        |o| o.directories[0].first_job = 5,
        |o| o.directories[3].first_job = 5,
        |o| o.directories[3].first_job = u32::MAX,
        // The directory before it has later ones.
        |o| o.directories[3].first_job = 1,
        |o| o.directories[1].entries = (0, 3),
        |o| o.directories[1].entries = (2, 1),
        |o| o.directories[1].entries = (u32::MAX, u32::MAX),
        |o| o.directories[2].lines = (0, 2),
        |o| o.directories[2].lines = (1, 0),
        |o| o.jobs[1].at.part = 2,
        |o| o.jobs[1].at.offset = u64::MAX,
        |o| o.jobs[1].at.bytes = u64::MAX,
        |o| o.entries[0].at.part = 2,
        |o| o.entries[0].at.offset = u64::MAX - 4,
        |o| o.lines[0].at.part = u32::MAX,
        |o| o.parts.truncate(1),
    ];
    for (number, change) in cases.into_iter().enumerate() {
        let mut changed = outline();
        change(&mut changed);
        assert!(!changed.is_sound(), "case {number}");
        let decoded = Outline::decode(&changed.encode());
        assert!(
            matches!(decoded, Err(MetaError::Value { .. })),
            "case {number}: {decoded:?}"
        );
    }
}

#[test]
fn one_kind_of_file_is_not_taken_for_the_other() {
    let file = outline().encode();
    assert_eq!(Outline::decode(&file), Ok(outline()));
    let as_meta = crate::manifest::meta::Meta::decode(&file);
    assert_eq!(as_meta, Err(MetaError::Magic));
    let mut as_outline = file.clone();
    as_outline[..8].copy_from_slice(&super::super::MAGIC);
    assert_eq!(Outline::decode(&reseal(as_outline)), Err(MetaError::Magic));
    let mut newer = file.clone();
    newer[8] = VERSION as u8 + 1;
    let version = VERSION + 1;
    let other = MetaError::Version { offset: 8, version };
    assert_eq!(Outline::decode(&reseal(newer)), Err(other));
}

fn stretch(parts: u32) -> impl Strategy<Value = Stretch> {
    (0..parts, 0u64..1 << 62, 0u64..1 << 62).prop_map(|(part, offset, bytes)| Stretch {
        part,
        offset,
        bytes,
    })
}

fn job(parts: u32) -> impl Strategy<Value = Record> {
    let sizes = prop::collection::vec(any::<u32>(), 0..5);
    (any::<([u8; 32], u64)>(), stretch(parts), sizes).prop_map(|((key, checksum), at, sizes)| {
        Record {
            key,
            at,
            checksum,
            sizes,
        }
    })
}

fn frames(parts: u32) -> impl Strategy<Value = Vec<Chunk>> {
    let frame = (any::<([u8; 32], u64, u32)>(), stretch(parts));
    let frame = frame.prop_map(|((key, checksum, raw_bytes), at)| Chunk {
        key,
        at,
        checksum,
        raw_bytes,
    });
    prop::collection::vec(frame, 0..5)
}

/// Directories with ranges that lie in lists of these lengths.
fn directories(
    jobs: usize,
    entries: usize,
    lines: usize,
) -> impl Strategy<Value = Vec<LargeDirectory>> {
    let range = |len: usize| {
        let len = len as u32;
        (0..=len, 0..=len).prop_map(|(a, b)| (a.min(b), a.max(b)))
    };
    let directory = (
        (any::<Vec<u8>>(), any::<Vec<u8>>(), any::<[u8; 32]>()),
        (any::<prop::sample::Index>(), any::<u32>()),
        0..=jobs as u32,
        (range(entries), range(lines)),
    );
    prop::collection::vec(directory, 0..6).prop_map(|made| {
        let mut first_jobs: Vec<u32> = made.iter().map(|(_, _, first, _)| *first).collect();
        first_jobs.sort_unstable();
        let all = made.len();
        let made = made.into_iter().zip(first_jobs).enumerate();
        let made = made.map(
            |(number, ((names, (count, below), _, ranges), first_job))| {
                let (path, id, inherited) = names;
                LargeDirectory {
                    path,
                    id,
                    inherited,
                    count: count.index(all - number) as u32 + 1,
                    entries_below: below,
                    directories: below / 2,
                    first_job,
                    entries: ranges.0,
                    lines: ranges.1,
                }
            },
        );
        made.collect()
    })
}

fn sound() -> impl Strategy<Value = Outline> {
    let lists = (1u32..4).prop_flat_map(|parts| {
        let jobs = prop::collection::vec(job(parts), 0..6);
        (Just(parts), jobs, frames(parts), frames(parts))
    });
    let made = lists.prop_flat_map(|(parts, jobs, entries, lines)| {
        let directories = directories(jobs.len(), entries.len(), lines.len());
        (
            Just((parts, jobs, entries, lines)),
            directories,
            any::<[u8; 32]>(),
        )
    });
    made.prop_map(
        |((parts, jobs, entries, lines), directories, made_with)| Outline {
            made_with,
            parts: (0..parts).map(|part| format!("frames/{part}")).collect(),
            directories,
            jobs,
            entries,
            lines,
        },
    )
}

/// Any bytes: an error, or an outline that leads nowhere else and is written as exactly these bytes.
fn decodes_soundly(file: &[u8]) -> Result<(), TestCaseError> {
    if let Ok(outline) = Outline::decode(file) {
        prop_assert!(outline.is_sound());
        prop_assert_eq!(outline.encode(), file);
        for number in 0..outline.directories.len() {
            let below = outline.jobs_below(number);
            let own = outline.own_jobs(number);
            prop_assert!(own.start <= own.end && below.start <= below.end);
            prop_assert!(own.end.max(below.end) <= outline.jobs.len());
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn outlines_survive_the_round_trip(outline in sound()) {
        prop_assert!(outline.is_sound());
        let file = outline.encode();
        prop_assert_eq!(Outline::decode(&file), Ok(outline));
        decodes_soundly(&file)?;
    }

    #[test]
    fn a_flipped_bit_or_a_missing_tail_is_noticed(
        outline in sound(),
        place in any::<prop::sample::Index>(),
        bit in 0u32..8,
    ) {
        let mut file = outline.encode();
        let at = place.index(file.len());
        prop_assert!(Outline::decode(&file[..at]).is_err());
        file[at] ^= 1 << bit;
        prop_assert!(Outline::decode(&file).is_err());
    }

    /// With a right digest the rest of the checks stand alone.
    #[test]
    fn sealed_nonsense_is_refused_or_sound(
        outline in sound(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut file = outline.encode();
        let payload = Header::BYTES_MIN..file.len() - DIGEST_BYTES;
        for (place, value) in changes {
            file[payload.start + place.index(payload.len())] = value;
        }
        if let Some(cut) = cut {
            file.truncate(Header::BYTES_MIN + cut.index(payload.len()) + DIGEST_BYTES);
        }
        decodes_soundly(&reseal(file))?;
    }

    #[test]
    fn any_sealed_payload_is_refused_or_sound(payload in any::<Vec<u8>>()) {
        let mut file = [&MAGIC[..], &VERSION.to_le_bytes(), &[0; 8], &payload].concat();
        file.extend_from_slice(&[0; DIGEST_BYTES]);
        decodes_soundly(&reseal(file))?;
    }

    #[test]
    fn any_bytes_are_refused(file in any::<Vec<u8>>()) {
        prop_assert!(Outline::decode(&file).is_err());
    }
}
