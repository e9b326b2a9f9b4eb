//! `--verify`: what it proves is so, what it believes it says, and an archive that lies is refused.

use crate::gitdir::resum;
use crate::lab::{BINARY, expect, expect_nothing, restore, serve};
use crate::remade::{self, Item, at, ending, put};
use crate::support::lab::{self, Lab};
use crate::support::{git, parity, repos};
use std::fs;
use std::path::PathBuf;
use std::process::Output;

const ID_BYTES: usize = 20;

/// Two commits, `app` in its archive.
pub fn archive(lab: &Lab) -> Vec<Item> {
    let path = lab.upstream("app");
    repos::init_bare(&path, "main", "sha1");
    let mut import = repos::Importer::start(&path, repos::Layout::Packed);
    for text in ["first", "second"] {
        import.commit("refs/heads/main", text);
        import.file(repos::FILE, b".gitattributes", b"*.txt text eol=crlf\n");
        import.file(repos::FILE, b"a/b.txt", format!("{text}\n").as_bytes());
        import.file(repos::FILE, b"plain", b"as it is\n");
        import.file(repos::SYMLINK, b"link", b"plain");
    }
    import.finish();
    let head = git::text(&path, &["rev-parse", "HEAD"]);
    git::run(&path, &["tag", "v1", &head]);
    let server = lab.start();
    let file = lab.scratch("archive.tar.zst");
    lab::download(server.address(), &lab::target("app"), &file);
    let clone = lab.scratch("clone");
    git::clone(&lab.url("app"), &clone);
    // The server itself, by its manifest.
    let target = lab.scratch("target");
    let more = ["--verify=full", "--by-parts", "--json"];
    let out = restore(server.address(), "test/app", &target, &more);
    expect(&out, 0);
    parity::expect_same(&clone, &target, "verified");
    let said = said(&out);
    assert_eq!(said["proven"].as_array().map(Vec::len), Some(7), "{said}");
    assert_eq!(said["believed"], serde_json::json!(["refs"]));
    let more = ["--verify", "--worktree", "frames"];
    let out = restore(server.address(), "test/app", &lab.scratch("none"), &more);
    expect(&out, 1);
    remade::open(&fs::read(&file).unwrap())
}

fn said(out: &Output) -> serde_json::Value {
    let summary: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    summary["verified"].clone()
}

/// Where the index of a pack has the offset of an object, and its checksum before that.
pub fn places(index: &[u8], id: &str) -> [usize; 2] {
    let ids = 8 + 256 * 4;
    let count = u32::from_be_bytes(index[ids - 4..ids].try_into().unwrap()) as usize;
    let id: Vec<u8> = (0..ID_BYTES)
        .map(|n| u8::from_str_radix(&id[2 * n..2 * n + 2], 16).unwrap())
        .collect();
    let mut all = index[ids..ids + count * ID_BYTES].chunks(ID_BYTES);
    let number = all.position(|other| other == id).unwrap();
    let sums = ids + count * ID_BYTES;
    [sums + 4 * number, sums + 4 * (count + number)]
}

/// Has the index of a pack say of two objects that each is the other.
fn exchange(index: &mut Vec<u8>, ids: &[String; 2]) {
    let [one, other] = ids.each_ref().map(|id| places(index, id));
    for (one, other) in one.into_iter().zip(other) {
        for byte in 0..4 {
            index.swap(one + byte, other + byte);
        }
    }
    resum(index, ID_BYTES);
}

/// A pack of the two blobs more, as the archive's own and a repack later would have it: git reads each from either, so both
/// have to be right.
#[test]
fn a_blob_that_one_of_its_packs_has_wrong_is_refused_by_name() {
    let lab = Lab::new(BINARY);
    let mut items = archive(&lab);
    items.retain(|item| !item.path.ends_with(".rev"));
    let clone = lab.scratch("clone");
    let ids = ["HEAD:plain", "HEAD:a/b.txt"].map(|what| git::text(&clone, &["rev-parse", what]));
    let list = lab.scratch("list");
    fs::write(&list, ids.join("\n") + "\n").unwrap();
    let base = lab.scratch("pack").display().to_string();
    let args = ["pack-objects", "-q", "--index-version=2", &base];
    let mut packs = git::command(&clone, &args);
    let made = packs
        .stdin(fs::File::open(&list).unwrap())
        .output()
        .unwrap();
    let name = String::from_utf8(made.stdout).unwrap().trim().to_owned();
    let own = ending(&mut items, ".idx").path.clone();
    let more = format!(".git/objects/pack/pack-{name}.idx");
    for end in ["idx", "pack"] {
        let data = fs::read(format!("{base}-{name}.{end}")).unwrap();
        put(
            &mut items,
            &format!(".git/objects/pack/pack-{name}.{end}"),
            &data,
        );
    }
    for (number, lies) in [None, Some(&own), Some(&more)].into_iter().enumerate() {
        let mut items = items.clone();
        if let Some(index) = lies {
            exchange(&mut at(&mut items, index).data, &ids);
        }
        let target = lab.scratch(&format!("twice-{number}"));
        let address = serve(remade::pack(&items), |_| None);
        let out = restore(address, "test/app", &target, &["--verify"]);
        let errors = expect(&out, if lies.is_some() { 5 } else { 0 });
        let is_named = ids.iter().any(|id| errors.contains(id.as_str()));
        assert_eq!(is_named, lies.is_some(), "{errors}");
        if lies.is_some() {
            expect_nothing(&target);
        }
    }
}

#[test]
fn what_lies_is_refused_and_what_is_believed_is_said() {
    let lab = Lab::new(BINARY);
    let items = archive(&lab);
    let clone = lab.scratch("clone");
    let restored = |items: &[Item], more: &[&str]| -> (PathBuf, Output) {
        let target = lab.scratch("lies");
        let address = serve(remade::pack(items), |_| None);
        let out = restore(address, "test/app", &target, &[more, &["--json"]].concat());
        (target, out)
    };
    // Only who proves it sees what is wrong.
    let refused = |what: &str, change: &dyn Fn(&mut Vec<Item>)| {
        let mut items = items.clone();
        change(&mut items);
        let (target, out) = restored(&items, &["--verify"]);
        assert_eq!(out.status.code(), Some(5), "{what}");
        expect_nothing(&target);
        let (target, out) = restored(&items, &[]);
        assert_eq!(out.status.code(), Some(0), "{what}");
        fs::remove_dir_all(target).unwrap();
    };
    let id = |what: &str| git::text(&clone, &["rev-parse", what]);
    refused("offsets are exchanged", &|items| {
        // It would be found by what says in which order they are.
        items.retain(|item| !item.path.ends_with(".rev"));
        let index = &mut ending(items, ".idx").data;
        exchange(index, &["HEAD:plain", "HEAD:a/b.txt"].map(id));
    });
    refused("a checksum of an entry is another", &|items| {
        let index = &mut ending(items, ".idx").data;
        let [sum, _] = places(index, &id("HEAD:plain"));
        index[sum] ^= 1;
        resum(index, ID_BYTES);
    });
    refused("the history is cut off", &|items| {
        put(
            items,
            ".git/shallow",
            format!("{}\n", id("HEAD")).as_bytes(),
        );
    });
    // A tag that is moved is believed, which is said; a file of frames that is another is not even looked at.
    let mut items = items;
    let packed = &mut at(&mut items, ".git/packed-refs").data;
    let text = String::from_utf8(packed.clone()).unwrap();
    let (old, new) = (id("HEAD"), id("HEAD~"));
    let tag = format!("{old} refs/tags/v1");
    assert!(text.contains(&tag), "{text}");
    *packed = text
        .replace(&tag, &format!("{new} refs/tags/v1"))
        .into_bytes();
    at(&mut items, "plain").data = b"another\n".to_vec();
    let (target, out) = restored(&items, &["--verify"]);
    expect(&out, 0);
    assert_eq!(git::text(&target, &["rev-parse", "v1"]), new);
    assert_eq!(fs::read(target.join("plain")).unwrap(), b"as it is\n");
    assert_eq!(
        said(&out)["believed"],
        serde_json::json!(["refs", "history"])
    );
}
