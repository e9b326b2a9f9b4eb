//! What `restore` writes into `.git` of what an archive says of its origin, its refs and HEAD:
//! whatever that is, git reads the settings that a clone has and no others, and the refs are what a
//! plain reading of the archive's gives, or nothing is taken.
//!
//! An input is a choice, the name that was asked for, the archive's configuration, and its files of
//! refs. In them `@` and a letter is an id.

#![no_main]

use std::collections::BTreeMap;

use gix::ObjectId;
use gix::bstr::ByteSlice;
use gix::hash::Kind;
use libfuzzer_sys::fuzz_target;
use tarpon::restore::layers::{
    self, Captured, Modes, Refs, Restored, Stop, check_path, choose, configuration, said,
};
use tarpon_fuzz::{Input, gitconfig, names};

const REMOTE_HEAD: &[u8] = b"refs/remotes/origin/HEAD";
const FILES: [&str; 6] = [
    "HEAD",
    "packed-refs",
    "shallow",
    "refs/heads/main",
    "refs/tags/v1",
    "refs/remotes/origin/HEAD",
];

/// Small files below `.git`.
type Files = BTreeMap<Vec<u8>, Vec<u8>>;

fuzz_target!(|data: &[u8]| {
    let mut input = Input::new(data);
    let choice = input.u8();
    let kind = match choice & 1 {
        0 => Kind::Sha1,
        _ => Kind::Sha256,
    };
    let given = String::from_utf8_lossy(input.text()).replace('\0', "");
    let config = match (choice & 2, input.text()) {
        (0, text) => text.to_vec(),
        (_, origin) => sound_configuration(origin, kind),
    };
    let files = files(&mut input, kind);
    let (origin, hash) = match said(&config).map(|said| (choose(&given, &said), said.hash)) {
        Ok((Ok(origin), hash)) => (origin, hash),
        // Nothing is made then. Refs are looked at all the same.
        _ => (b"https://host/path".to_vec(), kind),
    };
    assert!(
        origin == given.as_bytes() || is_plain(&origin),
        "{}",
        origin.escape_ascii()
    );
    let captured = captured(&files);
    let refs = Refs::read(&captured, hash, &Stop::default()).ok();
    let made = refs.as_ref().map(written);
    assert_eq!(made, plain(&files, hash), "{files:?}");
    let branch = refs.as_ref().and_then(Refs::branch);
    let modes = [Modes::Told, Modes::Masked, Modes::None][usize::from(choice >> 4) % 3];
    let restored = Restored {
        kind: hash,
        origin,
        fetches: Some(b"+refs/heads/*:refs/remotes/origin/*".to_vec()),
        modes,
    };
    let config = configuration(&restored, branch);
    let expected = settings(&restored, branch.map(|name| &**name));
    assert_eq!(
        gitconfig::read(&config),
        Some(expected.clone()),
        "{:?}",
        config.as_bstr()
    );
    by_gix(&config, &expected);
});

/// One that has the origin in quotes.
fn sound_configuration(origin: &[u8], kind: Kind) -> Vec<u8> {
    let mut text = match kind {
        Kind::Sha256 => b"[extensions]\n\tobjectFormat = sha256\n".to_vec(),
        _ => Vec::new(),
    };
    text.extend_from_slice(b"[remote \"origin\"]\n\turl = \"");
    for byte in origin {
        match byte {
            b'\n' => text.extend_from_slice(b"\\n"),
            b'"' | b'\\' => text.extend_from_slice(&[b'\\', *byte]),
            _ => text.push(*byte),
        }
    }
    text.extend_from_slice(b"\"\n");
    text
}

/// The small files of an archive: each path once, as it comes from the check of paths.
fn files(input: &mut Input<'_>, kind: Kind) -> Files {
    let mut files = Files::new();
    while !input.is_empty() && files.len() < 64 {
        let which = usize::from(input.u8());
        let name = match FILES.get(which) {
            Some(name) => name.as_bytes().to_vec(),
            None => [b"refs/", input.text()].concat(),
        };
        let text = with_ids(input.text(), kind);
        let path = [b".git/", &name[..]].concat();
        // Longer ones are refused before they are here.
        if check_path(&path, layers::Kind::File).is_ok() && text.len() < 4096 {
            files.entry(name).or_insert(text);
        }
    }
    files
}

fn with_ids(text: &[u8], kind: Kind) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some((byte, after)) = rest.split_first() {
        match rest {
            [b'@', digit, ..] if digit.is_ascii_hexdigit() => {
                out.resize(out.len() + kind.len_in_hex(), *digit);
                rest = &rest[2..];
            }
            _ => {
                out.push(*byte);
                rest = after;
            }
        }
    }
    out
}

fn captured(files: &Files) -> Captured {
    let mut captured = Captured::default();
    for (name, text) in files {
        captured
            .begin(&[b".git/", &name[..]].concat())
            .expect("it is small");
        captured.push(text).expect("it is small");
    }
    captured
}

/// An archive's origin: git and ssh take it for nothing but a place.
fn is_plain(url: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(url) else {
        return false;
    };
    let places = ["http://", "https://", "ssh://", "git://"];
    let rest = places.iter().find_map(|place| text.strip_prefix(place));
    let (host, path) = match (rest, text.split_once(':')) {
        (Some(rest), _) => rest.split_once('/').unwrap_or((rest, "")),
        (None, _) if text.starts_with("file:///") => ("host", ""),
        // scp's form.
        (None, Some((host, path))) if !path.starts_with("//") => (host, path),
        _ => return false,
    };
    let (user, host) = host.rsplit_once('@').unwrap_or(("", host));
    let is_host = |c: char| c.is_ascii_alphanumeric() || ".-_:[]".contains(c);
    !text.chars().any(char::is_control)
        && !text.contains("::")
        && !host.is_empty()
        && host.chars().all(is_host)
        && ![text, user, host, path]
            .iter()
            .any(|part| part.starts_with('-'))
}

/// What the client writes: small files, and `packed-refs` without its first line.
fn written(refs: &Refs<'_>) -> Files {
    let files = refs.files();
    let count = files.len();
    let owned = files
        .into_iter()
        .map(|(name, text)| (name, text.into_owned()));
    let mut files: Files = owned.collect();
    assert_eq!(files.len(), count, "one is there twice");
    let mut packed = Vec::new();
    refs.write_packed(|| Ok(&mut packed), &Stop::default())
        .expect("memory takes all");
    if !packed.is_empty() {
        let lines = packed.strip_prefix(b"# pack-refs with: sorted \n");
        files.insert(
            b"packed-refs".to_vec(),
            lines.expect("its first line").to_vec(),
        );
    }
    files
}

enum Line<'l> {
    Id(ObjectId),
    Name(&'l [u8]),
}

fn id(hex: &[u8], kind: Kind) -> Option<ObjectId> {
    let is_digit = |byte: &u8| b"0123456789abcdef".contains(byte);
    let is_id = hex.len() == kind.len_in_hex() && hex.iter().all(is_digit);
    let is_zero = hex.iter().all(|byte| *byte == b'0');
    let id = || ObjectId::from_hex(hex).expect("digits");
    (is_id && !is_zero).then(id)
}

fn line(text: &[u8], kind: Kind) -> Option<Line<'_>> {
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    match text.strip_prefix(b"ref: ") {
        Some(name) => names::is_ref(name).then_some(Line::Name(name)),
        None => id(text, kind).map(Line::Id),
    }
}

/// The refs of a clone, read plainly; `None` if it is none.
fn plain(files: &Files, kind: Kind) -> Option<Files> {
    let mut made = Files::new();
    let mut refs = packed(
        files.get(&b"packed-refs"[..]).map_or(b"", |text| text),
        kind,
    )?;
    let mut remote_head = None;
    for (name, text) in files.iter().filter(|(name, _)| name.starts_with(b"refs/")) {
        match line(text, kind).filter(|_| names::is_ref(name))? {
            Line::Id(id) => drop(refs.insert(name.clone(), id)),
            Line::Name(to) => {
                remote_head = Some(to).filter(|_| name == REMOTE_HEAD);
                remote_head?;
                made.insert(name.clone(), [b"ref: ", to, b"\n"].concat());
            }
        }
    }
    if let Some(to) = remote_head {
        refs.remove(REMOTE_HEAD);
        let is_there = to.starts_with(b"refs/remotes/origin/") && refs.contains_key(to);
        is_there.then_some(())?;
    }
    let head = match line(files.get(&b"HEAD"[..])?, kind)? {
        Line::Id(id) => format!("{id}\n").into_bytes(),
        Line::Name(name) => {
            name.starts_with(b"refs/heads/").then_some(())?;
            if let Some(id) = refs.remove(name) {
                made.insert(name.to_vec(), format!("{id}\n").into_bytes());
            }
            [b"ref: ", name, b"\n"].concat()
        }
    };
    made.insert(b"HEAD".to_vec(), head);
    // The branch that a clone makes is left out where something else was checked out afterwards.
    if let Some(branch) = remote_head.and_then(|to| to.strip_prefix(b"refs/remotes/origin/")) {
        refs.remove(&[b"refs/heads/", branch].concat());
    }
    let mut lines = Vec::new();
    for (name, id) in &refs {
        let of_clone: [&[u8]; 2] = [b"refs/remotes/origin/", b"refs/tags/"];
        of_clone
            .iter()
            .any(|above| name.starts_with(above))
            .then_some(())?;
        lines.extend([format!("{id} ").as_bytes(), name, b"\n"].concat());
    }
    let names = || {
        refs.keys()
            .map(Vec::as_slice)
            .chain(remote_head.map(|_| REMOTE_HEAD))
    };
    let is_above = |above: &[u8]| {
        let above = [above, b"/"].concat();
        names().any(|name| name.starts_with(&above))
    };
    (!names().any(is_above)).then_some(())?;
    if !lines.is_empty() {
        made.insert(b"packed-refs".to_vec(), lines);
    }
    let shallow = files.get(&b"shallow"[..]).filter(|text| !text.is_empty());
    if let Some(text) = shallow {
        made.insert(b"shallow".to_vec(), ids(text, kind)?);
    }
    Some(made)
}

/// Ids, one a line.
fn ids(text: &[u8], kind: Kind) -> Option<Vec<u8>> {
    let mut read = Vec::new();
    // Git ends its lines so, and no others.
    for line in text.strip_suffix(b"\n")?.split(|byte| *byte == b'\n') {
        read.extend_from_slice(format!("{}\n", id(line, kind)?).as_bytes());
    }
    Some(read)
}

fn packed(text: &[u8], kind: Kind) -> Option<BTreeMap<Vec<u8>, ObjectId>> {
    let mut refs = BTreeMap::new();
    (text.is_empty() || text.ends_with(b"\n")).then_some(())?;
    for (number, line) in text.lines().enumerate() {
        if number == 0 && line.starts_with(b"# pack-refs with:") {
            continue;
        }
        if let Some(peeled) = line.strip_prefix(b"^") {
            id(peeled, kind)?;
            continue;
        }
        let (hex, name) = line.split_at(line.iter().position(|byte| *byte == b' ')?);
        let name = names::is_ref(&name[1..]).then(|| name[1..].to_vec())?;
        // Each once.
        refs.insert(name, id(hex, kind)?).is_none().then_some(())?;
    }
    Some(refs)
}

/// The settings of a clone.
fn settings(restored: &Restored, branch: Option<&[u8]>) -> Vec<gitconfig::Setting> {
    let mut settings: Vec<gitconfig::Setting> = Vec::new();
    let mut add = |key: &[u8], value: &[u8]| settings.push((key.to_vec(), Some(value.to_vec())));
    let is_sha256 = restored.kind == Kind::Sha256;
    add(
        b"core.repositoryformatversion",
        if is_sha256 { b"1" } else { b"0" },
    );
    let has_modes: &[u8] = if restored.modes == Modes::None {
        b"false"
    } else {
        b"true"
    };
    add(b"core.filemode", has_modes);
    add(b"core.bare", b"false");
    add(b"core.logallrefupdates", b"true");
    if is_sha256 {
        add(b"extensions.objectformat", b"sha256");
    }
    add(b"remote.origin.url", &restored.origin);
    add(
        b"remote.origin.fetch",
        b"+refs/heads/*:refs/remotes/origin/*",
    );
    if let Some(branch) = branch {
        add(&[b"branch.", branch, b".remote"].concat(), b"origin");
        let merge = [b"refs/heads/", branch].concat();
        add(&[b"branch.", branch, b".merge"].concat(), &merge);
    }
    settings
}

/// Another reader finds the same.
fn by_gix(text: &[u8], expected: &[gitconfig::Setting]) {
    let config = gix::config::File::try_from(text.as_bstr()).expect("gix reads it, too");
    let mut found = Vec::new();
    for section in config.sections() {
        let header = section.header();
        let above = match header.subsection_name() {
            Some(middle) => [&**header.name(), b".", &**middle].concat(),
            None => header.name().to_vec(),
        };
        for name in section.value_names() {
            let name: &str = &name;
            let value = section.value(name).map(|value| value.to_vec());
            found.push(([&above[..], b".", name.as_bytes()].concat(), value));
        }
    }
    assert_eq!(found, expected);
}
