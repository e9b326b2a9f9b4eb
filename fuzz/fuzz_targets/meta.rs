//! Metadata files of cache entries, and their outlines: any bytes are an entry that holds every invariant and is
//! written again as exactly these bytes, or an error that says where; and every entry comes back.
//!
//! An input counts three times: as a file, as a payload that is sealed here with the right length
//! and digest (otherwise nothing gets past them), and as a recipe for an entry.

#![no_main]

use std::collections::HashSet;

use gix::ObjectId;
use gix::hash::Kind;
use libfuzzer_sys::fuzz_target;
use sha2::{Digest, Sha256};
use tarpon::extent::{Extent, Layout, raw_frames};
use tarpon::manifest::id::EntryId;
use tarpon::manifest::meta::{Fields, Meta};
use tarpon::manifest::outline::Outline;
use tarpon::manifest::record::Linked;
use tarpon::manifest::want::{Revision, Shape, Want};
use tarpon_fuzz::Input;

const META: &[u8; 8] = b"tarpon\x1a\n";
const OUTLINE: &[u8; 8] = b"tarpono\n";
const VERSION: u32 = 6;
const HEAD_BYTES: usize = 8 + 4 + 8;
const DIGEST_BYTES: usize = 32;
const RAW_FRAME_BYTES: u64 = 4 << 20;

fuzz_target!(|data: &[u8]| {
    check_file(data);
    check_outline(data);
    check_sealed(data);
    if let Some(payload) = data.get(HEAD_BYTES..data.len().saturating_sub(DIGEST_BYTES)) {
        check_sealed(payload);
    }
    check_entry(data);
});

fn check_sealed(payload: &[u8]) {
    check_file(&sealed(META, payload));
    check_outline(&sealed(OUTLINE, payload));
}

/// A file with this payload: magic, version, length, payload, digest of all before it.
fn sealed(magic: &[u8; 8], payload: &[u8]) -> Vec<u8> {
    let len = (payload.len() as u64).to_le_bytes();
    let mut file = [magic, &VERSION.to_le_bytes()[..], &len, payload].concat();
    let digest = Sha256::digest(&file);
    file.extend_from_slice(&digest);
    file
}

fn check_file(file: &[u8]) {
    match Meta::decode(file) {
        Ok(meta) => {
            assert!(is_sound(&meta), "{meta:?}");
            assert!(meta.encode() == file, "written in another way");
        }
        // An error is one line that says where.
        Err(error) => {
            let text = error.to_string();
            assert!(text.contains("offset ") && !text.contains('\n'), "{text}");
        }
    }
}

fn check_outline(file: &[u8]) {
    match Outline::decode(file) {
        Ok(outline) => {
            assert!(outline.is_sound(), "{outline:?}");
            assert!(outline.encode() == file, "written in another way");
            for number in 0..outline.directories.len() {
                // Nothing leads out of it.
                let _ = &outline.jobs[outline.jobs_below(number)];
                let _ = &outline.jobs[outline.own_jobs(number)];
                let directory = &outline.directories[number];
                let range = |(from, to): (u32, u32)| from as usize..to as usize;
                let _ = &outline.entries[range(directory.entries)];
                let _ = &outline.lines[range(directory.lines)];
            }
            for (at, _) in outline.stretches() {
                let _ = (&outline.parts[at.part as usize], at.offset + at.bytes);
            }
        }
        Err(error) => {
            let text = error.to_string();
            assert!(text.contains("offset ") && !text.contains('\n'), "{text}");
        }
    }
}

fn check_entry(data: &[u8]) {
    let mut input = Input::new(data);
    let fields = fields(&mut input);
    let is_sound = is_sound(&fields);
    match Meta::new(fields.clone()) {
        Ok(meta) => {
            assert!(is_sound, "{meta:?}");
            let mut file = meta.encode();
            let decoded = Meta::decode(&file).expect("what was written is read");
            assert_eq!(*decoded, fields);
            assert_eq!(
                file[HEAD_BYTES..file.len() - DIGEST_BYTES],
                written(&fields)
            );
            assert!(file == sealed(META, &written(&fields)));
            let at = input.u16() as usize % file.len();
            file[at] ^= 1 << (input.u8() % 8);
            assert!(
                Meta::decode(&file).is_err(),
                "damage at {at} goes unnoticed"
            );
        }
        Err(invalid) => assert!(!is_sound, "refused: {invalid}"),
    }
}

/// Kind, shape, name and id of a want.
fn write_want(out: &mut Vec<u8>, want: &Want) {
    let (kind, name, id) = match want.revision() {
        Revision::Head => (0, None, None),
        Revision::Ref(name) => (1, Some(name), None),
        Revision::Commit(id) => (2, None, Some(id)),
        Revision::BranchAt(name, id) => (3, Some(name), Some(id)),
    };
    // The shape: all of its history.
    out.extend([kind, 0]);
    let parts = [name.map(|name| &name[..]), id.map(|id| id.as_bytes())];
    for bytes in parts.into_iter().flatten() {
        out.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
        out.extend_from_slice(bytes);
    }
}

/// The payload, put together from the description of the format.
fn written(fields: &Fields) -> Vec<u8> {
    let mut out = fields.id.as_str().as_bytes().to_vec();
    let text = |out: &mut Vec<u8>, text: &str| {
        out.extend_from_slice(&(text.len() as u64).to_le_bytes());
        out.extend_from_slice(text.as_bytes());
    };
    let number = |out: &mut Vec<u8>, value: u64| out.extend_from_slice(&value.to_le_bytes());
    text(&mut out, &fields.repository);
    write_want(&mut out, &fields.want);
    text(&mut out, fields.commit.as_deref().unwrap_or_default());
    out.extend_from_slice(&fields.shown);
    number(&mut out, fields.created_unix_ms);
    number(&mut out, fields.linked.len() as u64);
    for linked in &fields.linked {
        text(&mut out, &linked.path);
        number(&mut out, linked.bytes);
        out.push(u8::from(linked.whole.is_some()));
        if let Some(whole) = linked.whole {
            number(&mut out, whole);
        }
    }
    text(&mut out, &fields.spool);
    let layout = &fields.layout;
    number(&mut out, layout.wire_bytes());
    number(&mut out, layout.spool_bytes());
    number(&mut out, layout.extents().len() as u64);
    for extent in layout.extents() {
        match *extent {
            Extent::Spool { offset, len } => {
                out.push(0);
                number(&mut out, offset);
                number(&mut out, len);
            }
            Extent::RawRun {
                file,
                offset,
                len,
                first_checksum,
            } => {
                out.push(1);
                out.extend_from_slice(&file.to_le_bytes());
                number(&mut out, offset);
                number(&mut out, len);
                out.extend_from_slice(&first_checksum.to_le_bytes());
            }
            Extent::Stored { file, offset, len } => {
                out.push(2);
                out.extend_from_slice(&file.to_le_bytes());
                number(&mut out, offset);
                number(&mut out, len);
            }
        }
    }
    number(&mut out, layout.checksums().len() as u64);
    for checksum in layout.checksums() {
        out.extend_from_slice(&checksum.to_le_bytes());
    }
    number(&mut out, fields.spool_checksum);
    out
}

/// Every invariant of an entry, spelt out once more.
fn is_sound(fields: &Fields) -> bool {
    let is_hex = |text: &str| text.bytes().all(|byte| b"0123456789abcdef".contains(&byte));
    let commit = fields.commit.as_ref();
    let paths = fields.linked.iter().map(|linked| &linked.path);
    let paths: Vec<&String> = paths.chain([&fields.spool]).collect();
    let are_paths_plain = paths.iter().all(|path| {
        let below = |name: &str| *path == name || path.starts_with(&format!("{name}/"));
        is_plain(path) && !["meta", "outline", "manifest"].into_iter().any(below)
    });
    let different: HashSet<&String> = paths.iter().copied().collect();
    is_hex(fields.id.as_str())
        && fields.id.as_str().len() == 32
        && is_plain(&fields.repository)
        && fields.repository.contains('/')
        && commit.is_none_or(|commit| matches!(commit.len(), 40 | 64) && is_hex(commit))
        && are_paths_plain
        && different.len() == paths.len()
        && is_layout_sound(fields)
}

fn is_plain(path: &str) -> bool {
    let is_name = |part: &str| !matches!(part, "" | "." | "..");
    path.split('/').all(is_name) && !path.chars().any(char::is_control)
}

fn is_layout_sound(fields: &Fields) -> bool {
    let (mut wire, mut spool, mut frames) = (0u128, 0u128, 0u128);
    for extent in fields.layout.extents() {
        match *extent {
            Extent::Spool { offset, len } => {
                if len == 0 || u128::from(offset) != spool {
                    return false;
                }
                spool += u128::from(len);
                wire += u128::from(len);
            }
            Extent::Stored { file, offset, len } => {
                let holder = fields.linked.get(file as usize);
                let end = u128::from(offset) + u128::from(len);
                if len == 0 || !holder.is_some_and(|linked| end <= u128::from(linked.bytes)) {
                    return false;
                }
                wire += u128::from(len);
            }
            Extent::RawRun {
                file,
                offset,
                len,
                first_checksum,
            } => {
                let holder = fields.linked.get(file as usize);
                let end = u128::from(offset) + u128::from(len);
                let is_inside = holder.is_some_and(|linked| end <= u128::from(linked.bytes));
                if len == 0 || !is_inside || u128::from(first_checksum) != frames {
                    return false;
                }
                let (full, rest) = (len / RAW_FRAME_BYTES, len % RAW_FRAME_BYTES);
                frames += u128::from(full) + u128::from(rest > 0);
                // Frame header, checksum, and 3 bytes for each block of 128 KiB.
                let rest_framing = if rest > 0 {
                    13 + 3 * rest.div_ceil(128 << 10)
                } else {
                    0
                };
                wire +=
                    u128::from(len) + u128::from(full) * (13 + 3 * 32) + u128::from(rest_framing);
            }
        }
    }
    wire == u128::from(fields.layout.wire_bytes())
        && spool == u128::from(fields.layout.spool_bytes())
        && frames == fields.layout.checksums().len() as u128
        && wire <= i64::MAX as u128
}

/// An entry after the recipe of the input; often sound, not always.
fn fields(input: &mut Input<'_>) -> Fields {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&input.u64().to_le_bytes());
    let repository = text(input);
    let want = want(input);
    let commit = match input.u8() % 4 {
        0 => None,
        1 => Some("0123456789".repeat(4)),
        2 => Some("abcdef01".repeat(8)),
        _ => Some(text(input)).filter(|text| !text.is_empty()),
    };
    let shown = [input.u8(); 32];
    let created_unix_ms = input.u64();
    let linked = (0..input.u8() % 4).map(|_| {
        let bytes = u64::from(input.u32()) << (input.u8() % 16);
        Linked {
            path: text(input),
            bytes,
            whole: (input.u8() % 2 == 0).then(|| input.u64()),
        }
    });
    let linked = linked.collect();
    let mut layout = Layout::default();
    for _ in 0..input.u8() % 8 {
        let (kind, len) = (input.u8(), u64::from(input.u32()));
        if kind % 4 == 0 {
            layout.push_spool(len);
        } else if kind % 8 > 4 {
            layout.push_stored(u32::from(kind % 4 - 1), input.u16().into(), len);
        } else {
            let checksums: Vec<u32> = (0..raw_frames(len)).map(|_| input.u32()).collect();
            layout.push_raw(u32::from(kind % 4 - 1), input.u16().into(), len, &checksums);
        }
    }
    let spool_checksum = input.u64();
    let spool = text(input);
    Fields {
        id: EntryId::from_bytes(id),
        repository,
        want,
        commit,
        shown,
        created_unix_ms,
        linked,
        spool,
        layout,
        spool_checksum,
    }
}

/// A want, or that of a plain request where the name is none.
fn want(input: &mut Input<'_>) -> Want {
    let name = format!("refs/heads/{}", text(input)).into();
    let id = match input.u8() % 2 {
        0 => ObjectId::null(Kind::Sha1),
        _ => ObjectId::null(Kind::Sha256),
    };
    let revision = match input.u8() % 4 {
        0 => Revision::Head,
        1 => Revision::Ref(name),
        2 => Revision::Commit(id),
        _ => Revision::BranchAt(name, id),
    };
    Want::new(revision, Shape::Full).unwrap_or_default()
}

fn text(input: &mut Input<'_>) -> String {
    let len = input.u8();
    String::from_utf8_lossy(input.bytes(usize::from(len))).into_owned()
}
