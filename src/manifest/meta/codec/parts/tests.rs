use proptest::prelude::*;
use sha2::{Digest, Sha256};

use super::super::{DIGEST_BYTES, Header};
use super::*;
use crate::extent::{Extent, RAW_FRAME_BYTES, Segment};
use crate::manifest::meta::{Fields, Meta, VERSION};
use crate::manifest::parts::Unsound;
use crate::manifest::record::Linked;
use crate::manifest::want::{Revision, Shape};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

fn meta() -> Meta {
    let mut layout = Layout::default();
    layout.push_spool(100);
    layout.push_raw(0, 0, 9, &[7]);
    layout.push_spool(50);
    layout.push_raw(1, 0, RAW_FRAME_BYTES, &[1]);
    layout.push_raw(1, RAW_FRAME_BYTES, 6, &[2]);
    layout.push_stored(2, 3, 40);
    layout.push_spool(20);
    let linked = |path: String, bytes, whole| Linked { path, bytes, whole };
    let fields = Fields {
        id: EntryId::from_bytes([0xA5; 16]),
        repository: "example.org/group/repo".into(),
        want: Want::default(),
        commit: Some(COMMIT.into()),
        shown: [0x5A; 32],
        created_unix_ms: 1_700_000_000_000,
        linked: vec![
            linked("objects/pack/pack-1.idx".into(), 9, None),
            linked("objects/pack/pack-1.pack".into(), RAW_FRAME_BYTES + 6, None),
            linked(format!("frames/{}", "0a".repeat(16)), 43, Some(u64::MAX)),
        ],
        spool: format!("frames/{}", "0b".repeat(16)),
        layout,
        spool_checksum: 0x0123_4567_89ab_cdef,
    };
    Meta::new(fields).unwrap()
}

fn sections() -> Vec<Section> {
    let section = |contents, from| Section { contents, from };
    vec![
        section(Contents::GitDir, 0),
        section(Contents::Refs, 60),
        section(Contents::Packs, 100),
        section(Contents::Worktree, 4_194_500),
        section(Contents::End, 4_194_600),
    ]
}

fn manifest() -> Manifest {
    meta().manifest(&sections()).unwrap()
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

fn framed(file: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(zstd_safe::compress_bound(file.len()));
    zstd_safe::compress(&mut frame, file, 1).unwrap();
    frame
}

#[test]
fn an_entry_is_all_there_in_its_parts() {
    let (manifest, meta) = (manifest(), meta());
    let names = manifest.parts.iter().map(|part| &*part.name);
    let frames = ["0a".repeat(16), "0b".repeat(16)];
    assert_eq!(
        Vec::from_iter(names),
        ["pack-1.idx", "pack-1.pack", &frames[0], &frames[1]]
    );
    let of_pack = manifest.parts.iter().map(Part::is_of_pack);
    assert_eq!(Vec::from_iter(of_pack), [true, true, false, false]);
    let bytes = manifest.segments().map(|segment| segment.wire_bytes());
    assert_eq!(bytes.sum::<u64>(), meta.wire_bytes());
    let own = manifest.segments().filter_map(|segment| match segment {
        Segment::Spool { len, .. } => Some(len),
        _ => None,
    });
    assert_eq!(own.sum::<u64>(), manifest.parts[3].bytes);
    let at = |contents| {
        let all = manifest.stretches(contents);
        Vec::from_iter(all.map(|stretch| (stretch.start, stretch.end)))
    };
    assert_eq!(at(Contents::Refs), [(60, 100)]);
    assert_eq!(at(Contents::End), [(4_194_600, meta.wire_bytes())]);
    assert_eq!(at(Contents::Index), []);
    let sent = manifest.pack().unwrap();
    assert_eq!(Manifest::unpack(&sent), Ok(manifest));
}

type Change = fn(&mut Manifest);

/// How a manifest is refused that lies, all of whose checksums are right.
fn refused(change: Change) -> Unsound {
    let mut lie = manifest();
    change(&mut lie);
    match Manifest::unpack(&framed(&lie.encode())) {
        Err(UnpackError::Manifest(MetaError::Manifest { source, .. })) => source,
        other => panic!("{other:?}"),
    }
}

#[test]
fn parts_that_cannot_be_are_refused() {
    let names: [Change; 5] = [
        |m| m.parts[0].name = "../pack-1.idx".into(),
        |m| m.parts[1].name = "/etc/passwd".into(),
        |m| m.parts[2].name = String::new(),
        |m| m.parts[3].name = "meta".into(),
        |m| m.parts[0].name = "pack-1.keep".into(),
    ];
    for change in names {
        assert!(matches!(refused(change), Unsound::Name { .. }));
    }
    let twice = refused(|m| m.parts[3].name = m.parts[2].name.clone());
    assert!(matches!(twice, Unsound::Twice { part: 3, .. }), "{twice}");
    let sum = |part| Unsound::Sum { part };
    assert_eq!(refused(|m| m.parts[0].whole = Some(1)), sum(0));
    assert_eq!(refused(|m| m.parts[2].whole = None), sum(2));
    assert_eq!(refused(|m| m.parts[2].bytes = u64::MAX), Unsound::TooLong);
    let own: [Change; 3] = [
        |m| m.parts[3].bytes += 1,
        |m| m.parts[3].bytes -= 1,
        |m| m.parts.clear(),
    ];
    for change in own {
        assert_eq!(refused(change), Unsound::Own);
    }
}

/// Changes each extent, whose number is given.
fn extents(lie: &mut Manifest, change: impl Fn(usize, &mut Extent)) {
    let mut extents = lie.layout.extents().to_vec();
    let all = extents.iter_mut().enumerate();
    all.for_each(|(number, extent)| change(number, extent));
    lie.layout = Layout::from_parts(extents, lie.layout.checksums().to_vec()).unwrap();
}

/// Has the stored frames be others.
fn stored(lie: &mut Manifest, from: (u32, u64, u64)) {
    extents(lie, |_, extent| {
        if let Extent::Stored { file, offset, len } = extent {
            (*file, *offset, *len) = from;
        }
    });
}

#[test]
fn what_leads_out_of_the_parts_is_refused() {
    let not_whole = refused(|m| m.parts[0].bytes += 1);
    assert_eq!(not_whole, Unsound::NotWhole { part: 0 });
    let outside: [Change; 6] = [
        |m| m.parts[1].bytes -= 1,
        |m| m.parts[2].bytes = 42,
        // Out of a pack, out of what is no part, out of what the spool's extents alone lie in.
        |m| stored(m, (1, 3, 40)),
        |m| stored(m, (9, 3, 40)),
        |m| stored(m, (3, 0, 1)),
        |m| {
            extents(m, |_, extent| {
                if let Extent::RawRun { file, .. } = extent {
                    *file = 2;
                }
            });
        },
    ];
    for change in outside {
        assert!(matches!(refused(change), Unsound::Outside { .. }));
    }
    // A pack that begins in its middle.
    let moved = refused(|m| {
        extents(m, |number, extent| match extent {
            Extent::RawRun { offset, len, .. } if number == 1 => (*offset, *len) = (1, 8),
            _ => {}
        });
    });
    assert_eq!(moved, Unsound::NotWhole { part: 0 });
}

#[test]
fn sections_and_commits_that_cannot_be_are_refused() {
    let sections: [Change; 4] = [
        |m| m.sections[0].from = 1,
        |m| m.sections[2].from = 60,
        |m| m.sections.swap(2, 3),
        |m| m.sections[4].from = m.layout.wire_bytes(),
    ];
    for change in sections {
        assert_eq!(refused(change), Unsound::Sections);
    }
    let mut other = manifest();
    let id = gix::ObjectId::null(gix::hash::Kind::Sha1);
    other.want = Want::new(Revision::Commit(id), Shape::Full).unwrap();
    assert!(!other.is_sound(), "it is of another commit");
    other.commit = Some(id.to_string());
    assert!(other.is_sound());
    for commit in ["", "0", &COMMIT.to_uppercase(), &COMMIT[1..]] {
        let mut lie = manifest();
        lie.commit = Some(commit.into());
        assert!(!lie.is_sound(), "{commit:?}");
    }
}

#[test]
fn what_is_claimed_takes_no_memory() {
    let sent = manifest().pack().unwrap();
    for end in 0..sent.len() {
        assert!(Manifest::unpack(&sent[..end]).is_err(), "{end} bytes");
    }
    let longer = [&sent[..], &[0]].concat();
    assert!(matches!(
        Manifest::unpack(&longer),
        Err(UnpackError::Frame { .. })
    ));
    // More than anybody writes, in a few KB: said, and not said.
    let mut long = manifest().encode();
    long[12..20].copy_from_slice(&(MANIFEST_BYTES_MAX as u64 + 1).to_le_bytes());
    let said = Manifest::unpack(&framed(&long));
    assert_eq!(said, Err(UnpackError::TooLong { offset: 12 }));
    let mut long = manifest().encode();
    long.resize(MANIFEST_BYTES_MAX + 1, 0);
    let unsaid = Manifest::unpack(&framed(&long));
    assert!(
        matches!(unsaid, Err(UnpackError::TooLong { .. })),
        "{unsaid:?}"
    );
}

/// What is wrong with a manifest of which the first bytes are these and more follows than anybody has memory for; and how
/// much of that was read.
fn endless(file: &[u8]) -> (UnpackError, usize) {
    let mut rng = proptest::test_runner::TestRng::deterministic_rng(
        proptest::test_runner::RngAlgorithm::ChaCha,
    );
    let mut context = zstd_safe::CCtx::create();
    let mut read = 0;
    let mut from = file.to_vec();
    let mut give = |into: &mut [u8]| {
        if from.is_empty() {
            from.resize(into.len() / 2, 0);
            rng.fill_bytes(&mut from);
        }
        let mut input = InBuffer::around(&from);
        let mut output = OutBuffer::around(into);
        while input.pos() < from.len() {
            context.compress_stream(&mut output, &mut input).unwrap();
        }
        context.flush_stream(&mut output).unwrap();
        from.clear();
        read += output.pos();
        output.pos()
    };
    let refused = Manifest::unpack_from(&mut give).unwrap_err();
    (refused, read)
}

/// A billion entries of each list: refused as soon as that is said.
#[test]
fn what_cannot_be_is_refused_before_it_comes() {
    let whole = manifest();
    let (id, want, commit) = (32, 2, 8 + COMMIT.len());
    let parts = Header::BYTES_MIN + id + want + commit;
    let one = |part: &Part| 8 + part.name.len() + 8 + 1 + 8 * usize::from(part.whole.is_some());
    let sections = parts + 8 + whole.parts.iter().map(one).sum::<usize>();
    let extents = sections + 8 + 9 * whole.sections.len() + 2 * 8;
    for at in [parts, sections, extents] {
        let mut file = whole.encode();
        let payload_bytes = MANIFEST_BYTES_MAX - Header::BYTES_MIN - DIGEST_BYTES;
        file[12..20].copy_from_slice(&(payload_bytes as u64).to_le_bytes());
        file[at..at + 8].copy_from_slice(&1_000_000_000u64.to_le_bytes());
        let (refused, read) = endless(&file);
        let UnpackError::Manifest(MetaError::Count { count, offset, .. }) = refused else {
            panic!("{refused}");
        };
        assert_eq!((count, offset), (1_000_000_000, at));
        assert!(read <= file.len() * 2, "{read} bytes for a count at {at}");
        assert!(matches!(
            Manifest::decode(&reseal(file)),
            Err(MetaError::Count { .. })
        ));
    }
}

/// Nor is a text waited for that is longer than any name.
#[test]
fn a_text_that_is_no_name_is_refused_before_it_comes() {
    let mut file = manifest().encode();
    let at = Header::BYTES_MIN + 32 + 2;
    let payload_bytes = MANIFEST_BYTES_MAX - Header::BYTES_MIN - DIGEST_BYTES;
    file[12..20].copy_from_slice(&(payload_bytes as u64).to_le_bytes());
    for (len, is_refused) in [
        (MANIFEST_TEXT_BYTES_MAX, false),
        (MANIFEST_TEXT_BYTES_MAX + 1, true),
    ] {
        file[at..at + 8].copy_from_slice(&(len as u64).to_le_bytes());
        let (refused, read) = endless(&file);
        let memory = UnpackError::Manifest(MetaError::Memory { offset: at });
        assert_eq!(refused == memory, is_refused, "{refused}");
        assert!(!is_refused || read <= file.len() * 2, "{read} bytes");
    }
}

/// Whoever writes one counts as whoever reads it does, to the byte: what is written is taken, and of what is not taken
/// nothing is written.
#[test]
fn one_that_is_written_is_taken() {
    const FRAMES: u32 = 9 << 20;
    let name = |len: usize| ["refs/heads/", &"x".repeat(len)].concat();
    let of = |len: usize| Want::new(Revision::Ref(name(len).into()), Shape::Full).unwrap();
    let mut large = manifest();
    let bytes = u64::from(FRAMES) * RAW_FRAME_BYTES;
    let sums: Vec<u32> = (0..FRAMES).collect();
    let mut layout = Layout::default();
    large.parts.remove(0);
    layout.push_raw(0, 0, bytes, &sums);
    layout.push_spool(large.parts[2].bytes);
    (large.layout, large.parts[0].bytes) = (layout, bytes);
    (large.want, large.sections) = (of(1), Vec::new());
    let left = MANIFEST_HELD_BYTES_MAX - large.held_bytes();
    let sections = 0..(left / SECTION_HELD_BYTES) as u64;
    let contents = Contents::Worktree;
    let section = |from| Section { contents, from };
    large.sections = sections.map(section).collect();
    let more = left % SECTION_HELD_BYTES;
    large.want = of(1 + more);
    assert_eq!(large.held_bytes(), MANIFEST_HELD_BYTES_MAX);
    let sent = large.pack().unwrap();
    assert!(Manifest::unpack(&sent).as_ref() == Ok(&large));
    large.want = of(2 + more);
    assert!(large.pack().is_none());
    let refused = Manifest::unpack(&framed(&large.encode()));
    let Err(UnpackError::Manifest(MetaError::Memory { .. })) = refused else {
        panic!("it is taken, or refused for something else");
    };
}

/// One of 38 MB, of which there are few as large, and one that nobody has the memory for.
#[test]
fn a_large_manifest_comes_as_a_stream_and_what_it_takes_is_bounded() {
    const FRAMES: u32 = 9 << 20;
    let mut large = manifest();
    let bytes = u64::from(FRAMES) * RAW_FRAME_BYTES;
    let sums: Vec<u32> = (0..FRAMES).map(|n| n.wrapping_mul(2_654_435_761)).collect();
    let mut layout = Layout::default();
    large.parts.remove(0);
    layout.push_raw(0, 0, bytes, &sums);
    layout.push_spool(large.parts[2].bytes);
    (large.layout, large.parts[0].bytes) = (layout, bytes);
    large.sections.truncate(2);
    assert!(large.encode().len() > 36 << 20);
    let sent = large.pack().unwrap();
    let mut rest = &sent[..];
    // In pieces of any length.
    let unpacked = Manifest::unpack_from(&mut |into| {
        let len = into.len().min(rest.len()).min(rest.len() % 70_001 + 1);
        let (now, later) = rest.split_at(len.min(rest.len()));
        into[..now.len()].copy_from_slice(now);
        rest = later;
        now.len()
    });
    assert!(unpacked == Ok(large));
    let mut much = manifest();
    let from = 0..(MANIFEST_HELD_BYTES_MAX / SECTION_HELD_BYTES) as u64 + 1;
    let contents = Contents::Worktree;
    much.sections = from.map(|from| Section { contents, from }).collect();
    assert!(much.pack().is_none());
    let file = much.encode();
    assert!(file.len() < MANIFEST_BYTES_MAX);
    let refused = Manifest::unpack(&framed(&file));
    let Err(UnpackError::Manifest(MetaError::Memory { .. })) = refused else {
        panic!("it is taken, or refused for something else");
    };
}

#[test]
fn one_kind_of_file_is_not_taken_for_the_other() {
    let file = manifest().encode();
    assert_eq!(Manifest::decode(&file), Ok(manifest()));
    assert_eq!(Meta::decode(&file), Err(MetaError::Magic));
    assert_eq!(Manifest::decode(&meta().encode()), Err(MetaError::Magic));
    let mut newer = file.clone();
    newer[8] = VERSION as u8 + 1;
    let version = VERSION + 1;
    let other = MetaError::Version { offset: 8, version };
    assert_eq!(Manifest::decode(&reseal(newer)), Err(other));
}

/// Any bytes: an error, or a manifest that leads nowhere else and is written as exactly these bytes.
fn decodes_soundly(file: &[u8]) -> Result<(), TestCaseError> {
    if let Ok(manifest) = Manifest::decode(file) {
        prop_assert!(manifest.is_sound());
        prop_assert_eq!(manifest.encode(), file);
    }
    Ok(())
}

proptest! {
    #[test]
    fn a_flipped_bit_is_noticed(place in any::<prop::sample::Index>(), bit in 0u32..8) {
        let mut file = manifest().encode();
        let at = place.index(file.len());
        file[at] ^= 1 << bit;
        prop_assert!(Manifest::decode(&file).is_err());
        let mut sent = manifest().pack().unwrap();
        let at = place.index(sent.len());
        sent[at] ^= 1 << bit;
        let unpacked = Manifest::unpack(&sent);
        // Bits of a frame's head can mean the same.
        prop_assert!(unpacked.is_err() || unpacked == Ok(manifest()));
    }

    /// With a right digest the rest of the checks stand alone.
    #[test]
    fn sealed_nonsense_is_refused_or_sound(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut file = manifest().encode();
        let payload = Header::BYTES_MIN..file.len() - DIGEST_BYTES;
        for (place, value) in changes {
            file[payload.start + place.index(payload.len())] = value;
        }
        if let Some(cut) = cut {
            file.truncate(Header::BYTES_MIN + cut.index(payload.len()) + DIGEST_BYTES);
        }
        decodes_soundly(&reseal(file))?;
    }
}
