//! Manifests: any bytes that a server sends are a manifest that holds every invariant and is written again as exactly
//! these bytes, or an error of one line; and whatever they claim, no memory is taken for it.
//!
//! An input counts three times: as what is sent, as a file in its frame, and as a payload that is sealed here with the
//! right length and digest, as somebody would who means harm.

#![no_main]

use std::collections::HashSet;

use libfuzzer_sys::fuzz_target;
use sha2::{Digest, Sha256};
use tarpon::extent::{Extent, Segment};
use tarpon::manifest::parts::{Contents, Manifest};

const MAGIC: &[u8; 8] = b"tarponm\n";
const VERSION: u32 = 6;
const HEAD_BYTES: usize = 8 + 4 + 8;
const DIGEST_BYTES: usize = 32;
/// Segments that are looked at: of long archives not all.
const SEGMENTS: usize = 4096;

fuzz_target!(|data: &[u8]| {
    if let Err(error) = Manifest::unpack(data) {
        check_text(&error.to_string());
    }
    check_file(data);
    check_file(&sealed(data));
    if let Some(payload) = data.get(HEAD_BYTES..data.len().saturating_sub(DIGEST_BYTES)) {
        check_file(&sealed(payload));
    }
});

/// A file with this payload: magic, version, length, payload, digest of all before it.
fn sealed(payload: &[u8]) -> Vec<u8> {
    let len = (payload.len() as u64).to_le_bytes();
    let mut file = [MAGIC, &VERSION.to_le_bytes()[..], &len, payload].concat();
    let digest = Sha256::digest(&file);
    file.extend_from_slice(&digest);
    file
}

/// An error is one line that says where.
fn check_text(text: &str) {
    assert!(text.contains("offset ") && !text.contains('\n'), "{text}");
}

fn check_file(file: &[u8]) {
    match Manifest::decode(file) {
        Ok(manifest) => {
            check(&manifest);
            assert!(manifest.encode() == file, "written in another way");
            let sent = manifest.pack().expect("it is short");
            assert_eq!(Manifest::unpack(&sent).as_ref(), Ok(&manifest));
        }
        Err(error) => check_text(&error.to_string()),
    }
}

/// Every invariant, spelt out once more, and nothing that leads out of it.
fn check(manifest: &Manifest) {
    assert!(manifest.is_sound());
    let names: HashSet<&String> = manifest.parts.iter().map(|part| &part.name).collect();
    assert_eq!(names.len(), manifest.parts.len(), "two parts of one name");
    for part in &manifest.parts {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        assert!(part.name.bytes().all(is_plain) && !part.name.starts_with('.'));
        assert!(part.name.len() <= 255 && !part.name.is_empty());
    }
    let own = manifest.parts.last().expect("what it has written itself");
    assert_eq!(own.bytes, manifest.layout.spool_bytes());
    for extent in manifest.layout.extents() {
        let (file, end) = match *extent {
            Extent::Spool { offset, len } => (manifest.parts.len() - 1, offset + len),
            Extent::RawRun {
                file, offset, len, ..
            }
            | Extent::Stored { file, offset, len } => (file as usize, offset + len),
        };
        assert!(end <= manifest.parts[file].bytes);
    }
    for segment in manifest.segments().take(SEGMENTS) {
        if let Segment::File { file, offset, len } = segment {
            assert!(offset + len <= manifest.linked()[file as usize].bytes);
        }
    }
    let all = [
        Contents::GitDir,
        Contents::Refs,
        Contents::Packs,
        Contents::Worktree,
        Contents::Index,
        Contents::End,
    ];
    for stretch in all
        .into_iter()
        .flat_map(|contents| manifest.stretches(contents))
    {
        assert!(stretch.start < stretch.end && stretch.end <= manifest.layout.wire_bytes());
    }
    let is_hex = |text: &str| text.bytes().all(|byte| b"0123456789abcdef".contains(&byte));
    let commit = manifest.commit.as_ref();
    assert!(commit.is_none_or(|commit| matches!(commit.len(), 40 | 64) && is_hex(commit)));
    let wanted = manifest.want.commit().map(|id| id.to_string());
    assert!(wanted.is_none() || wanted.as_ref() == commit);
}
