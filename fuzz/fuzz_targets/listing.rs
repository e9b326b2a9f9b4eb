//! What `git ls-remote --symref` prints: the same however it comes in pieces, what a plain reading
//! gives, and what a list was made from.

#![no_main]

use gix::ObjectId;
use gix::bstr::{BString, ByteSlice};
use libfuzzer_sys::fuzz_target;
use tarpon::mirror::{Listing, listed};
use tarpon::refs::{Follow, Ref};
use tarpon_fuzz::Input;

fuzz_target!(|data: &[u8]| {
    check(data);
    let mut input = Input::new(data);
    let made = made(&mut input);
    let text = written(&made);
    assert_eq!(read(&[&text]), Some(made));
    check(&text);
});

fn read(pieces: &[&[u8]]) -> Option<Listing> {
    listed(pieces.iter().copied(), &Follow::default()).ok()
}

/// Any bytes: an error, or what a plain reading gives, whatever the pieces are.
fn check(text: &[u8]) {
    let whole = read(&[text]);
    let bytes: Vec<&[u8]> = text.chunks(1).collect();
    assert_eq!(read(&bytes), whole);
    let halves = text.split_at(text.len() / 2);
    assert_eq!(read(&[halves.0, halves.1]), whole);
    if let Some(whole) = whole {
        assert_eq!(Some(whole), plain(text));
    }
}

/// By gitremote-helpers(7) and git-ls-remote(1): `ID TAB NAME`, `ref: NAME TAB NAME`.
fn plain(text: &[u8]) -> Option<Listing> {
    let mut listed = Listing::default();
    for line in text
        .strip_suffix(b"\n")
        .unwrap_or(text)
        .split(|b| *b == b'\n')
    {
        if text.is_empty() {
            break;
        }
        let tab = line.iter().position(|byte| *byte == b'\t')?;
        let (value, name) = (&line[..tab], &line[tab + 1..]);
        if let Some(target) = value.strip_prefix(b"ref: ") {
            if name == b"HEAD" {
                listed.head_target = Some(target.into());
            }
            continue;
        }
        let id = ObjectId::from_hex(value).ok()?;
        let peels = name.strip_suffix(b"^{}");
        let is_followed = name.starts_with(b"refs/heads/") || name.starts_with(b"refs/tags/");
        match peels {
            _ if name == b"HEAD" => listed.head_id = Some(id),
            Some(b"HEAD") => listed.head_peeled = Some(id),
            Some(tag) => {
                if let Some(last) = listed.refs.last_mut().filter(|last| last.name == tag) {
                    last.peeled = Some(id);
                }
            }
            None if is_followed && is_ref_name(name) => {
                listed.refs.push(Ref {
                    name: name.into(),
                    target: id,
                    peeled: None,
                });
            }
            None => {}
        }
    }
    listed.refs.sort_by(|a, b| a.name.cmp(&b.name));
    Some(listed)
}

/// By git's rules, and as a file can have it.
fn is_ref_name(name: &[u8]) -> bool {
    let fits = name.len() < 4096
        && name
            .split(|byte| *byte == b'/')
            .all(|part| part.len() < 256);
    fits && gix::validate::reference::name(name.as_bstr()).is_ok()
}

fn made(input: &mut Input<'_>) -> Listing {
    let id = |byte: u8| ObjectId::from_bytes_or_panic(&[byte; 20]);
    let mut listed = Listing::default();
    let choice = input.u8();
    if choice & 1 > 0 {
        listed.head_id = Some(id(input.u8()));
        listed.head_target = (choice & 2 > 0).then(|| BString::from("refs/heads/main"));
        listed.head_peeled = (choice & 4 > 0).then(|| id(input.u8()));
    }
    for _ in 0..input.u8() % 6 {
        let choice = input.u8();
        let above = ["refs/heads/", "refs/tags/"][usize::from(choice % 2)];
        let mut name = BString::from(above);
        name.extend_from_slice(input.text());
        if is_ref_name(&name) {
            listed.refs.push(Ref {
                name,
                target: id(input.u8()),
                peeled: (choice & 4 > 0).then(|| id(input.u8())),
            });
        }
    }
    listed.refs.sort_by(|a, b| a.name.cmp(&b.name));
    listed.refs.dedup_by(|a, b| a.name == b.name);
    listed
}

fn written(listed: &Listing) -> Vec<u8> {
    let mut text = Vec::new();
    let mut line = |parts: &[&[u8]]| {
        text.extend(parts.concat());
        text.push(b'\n');
    };
    if let Some(target) = &listed.head_target {
        line(&[b"ref: ", target, b"\tHEAD"]);
    }
    if let Some(id) = listed.head_id {
        line(&[id.to_string().as_bytes(), b"\tHEAD"]);
    }
    if let Some(id) = listed.head_peeled {
        line(&[id.to_string().as_bytes(), b"\tHEAD^{}"]);
    }
    for one in &listed.refs {
        line(&[one.target.to_string().as_bytes(), b"\t", &one.name]);
        if let Some(peeled) = one.peeled {
            line(&[peeled.to_string().as_bytes(), b"\t", &one.name, b"^{}"]);
        }
    }
    text
}
