//! `packed-refs` against gix, and against the list that a file was made from.
//!
//! An input counts twice: as a file, and as a recipe for one as git writes it.

#![no_main]

use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;

use gix::ObjectId;
use gix::bstr::{BString, ByteSlice};
use gix::hash::Kind;
use libfuzzer_sys::fuzz_target;
use tarpon::refs::{Follow, Ref, read};
use tarpon_fuzz::{Input, names};

/// Where the file is: in memory where there is such a place.
static PLACE: LazyLock<PathBuf> = LazyLock::new(|| {
    let above = match fs::metadata("/dev/shm") {
        Ok(_) => PathBuf::from("/dev/shm"),
        Err(_) => std::env::temp_dir(),
    };
    let place = above.join(format!("tarpon-fuzz-refs-{}", std::process::id()));
    fs::create_dir_all(&place).expect("a place for refs");
    fs::write(place.join("HEAD"), "ref: refs/heads/main\n").expect("a HEAD");
    place
});

fuzz_target!(|data: &[u8]| {
    check_file(data);
    let mut input = Input::new(data);
    let refs = refs(&mut input);
    let file = written(&refs, input.u8() % 2 == 0);
    let found = parse(&file).expect("what git writes is read");
    assert_eq!(found, refs);
    check_file(&file);
});

/// The heads and tags in a file, by name.
fn parse(file: &[u8]) -> Option<Vec<Ref>> {
    fs::write(PLACE.join("packed-refs"), file).expect("a file is written");
    read(&PLACE, &Follow::default())
        .ok()
        .map(|read| read.refs.to_vec())
}

/// Any bytes: an error, or what gix reads.
fn check_file(file: &[u8]) {
    let Some(found) = parse(file) else {
        return;
    };
    for pair in found.windows(2) {
        assert!(pair[0].name < pair[1].name, "not sorted");
    }
    // Lines that are no refs git passes over wherever they are; gix only at the beginning.
    let mut lines = file.split(|byte| *byte == b'\n');
    let first_is_known = file.is_empty() || !file.starts_with(b"#") || file.starts_with(HEADER);
    let has_comments = lines.by_ref().skip(1).any(|line| line.starts_with(b"#"));
    if has_comments || !first_is_known {
        return;
    }
    let kind = found
        .first()
        .map_or(Kind::Sha1, |first| first.target.kind());
    let Ok(iter) = gix::refs::packed::Iter::new(file, kind) else {
        return;
    };
    let mut by_gix = Vec::new();
    for one in iter {
        // Refs of another kind of hash, which are no heads and tags.
        let Ok(one) = one else {
            return;
        };
        let name: BString = one.name.as_bstr().to_owned();
        if name.starts_with(b"refs/heads/") || name.starts_with(b"refs/tags/") {
            by_gix.push(Ref {
                name,
                target: one.target(),
                peeled: one
                    .object
                    .map(|hex| ObjectId::from_hex(hex).expect("an id")),
            });
        }
    }
    by_gix.sort_by(|a, b| a.name.cmp(&b.name));
    assert_eq!(found, by_gix, "{:?}", file.as_bstr());
}

const HEADER: &[u8] = b"# pack-refs with: ";

fn refs(input: &mut Input<'_>) -> Vec<Ref> {
    let kind_bytes = [20, 32][usize::from(input.u8() % 2)];
    let count = input.u8() % 6;
    let mut refs = Vec::new();
    for _ in 0..count {
        let choice = input.u8();
        let part: BString = input.text().into();
        let above = ["refs/heads/", "refs/tags/"][usize::from(choice % 2)];
        let mut name = BString::from(above);
        name.extend_from_slice(&part);
        if !names::is_ref(&name) {
            continue;
        }
        let id = |byte: u8| ObjectId::from_bytes_or_panic(&vec![byte; kind_bytes]);
        refs.push(Ref {
            name,
            target: id(input.u8()),
            peeled: (choice & 4 > 0).then(|| id(input.u8())),
        });
    }
    refs.sort_by(|a, b| a.name.cmp(&b.name));
    refs.dedup_by(|a, b| a.name == b.name);
    refs
}

/// The file as git writes it.
fn written(refs: &[Ref], has_header: bool) -> Vec<u8> {
    let mut file = Vec::new();
    if has_header {
        file.extend_from_slice(HEADER);
        file.extend_from_slice(b"peeled fully-peeled sorted \n");
    }
    for one in refs {
        file.extend_from_slice(format!("{} ", one.target).as_bytes());
        file.extend_from_slice(&one.name);
        file.push(b'\n');
        if let Some(peeled) = one.peeled {
            file.extend_from_slice(format!("^{peeled}\n").as_bytes());
        }
    }
    file
}
