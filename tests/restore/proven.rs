//! `--verify` of a working copy that is there: what is said to be proven was looked at, whatever an earlier job has left in
//! its `.git`, and what git would believe instead is no longer there.

use crate::gitdir::resum;
use crate::lab::{BINARY, expect, restore};
use crate::support::git;
use crate::support::lab::{Lab, copy_tree};
use crate::support::repos::{self, Importer, Layout};
use crate::support::server::Server;
use crate::support::steps::ensure;
use crate::verify::places;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Output;

const ID_BYTES: usize = 20;
/// Files that stay: they take more than one that changes may.
const MANY: usize = 100;
const LIMIT: [&str; 2] = ["--size-limit", "200K"];
const VERIFY: [&str; 3] = ["--update", "--verify", "--json"];

/// What a summary says.
pub fn said(out: &Output, list: &str) -> Vec<String> {
    let summary: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    let list = summary["verified"][list].as_array().cloned();
    let list = list.unwrap_or_else(|| panic!("{summary}"));
    list.iter()
        .map(|one| one.as_str().unwrap_or_default().to_owned())
        .collect()
}

/// A commit more in the repository `app`, which the server has then.
fn commit(lab: &Lab, server: Option<&Server>, text: &str) {
    let path = lab.upstream("app");
    let mut import = Importer::start(&path, Layout::Packed);
    match server {
        None => import.commit("refs/heads/main", text),
        Some(_) => import.commit_on("refs/heads/main", "refs/heads/main^0", text),
    }
    import.file(repos::FILE, b"top", format!("top {text}\n").as_bytes());
    import.file(repos::FILE, b"d/below", b"below\n");
    import.file(repos::FILE, b"d/other", b"other\n");
    for number in 0..MANY {
        import.file(repos::FILE, format!("many/{number}").as_bytes(), b"");
    }
    import.finish();
    if let Some(server) = server {
        let id = git::text(&path, &["rev-parse", "main"]);
        let json = format!(r#"{{"refs":{{"refs/heads/main":"{id}"}}}}"#);
        ensure(server, "app", &json);
    }
}

/// A server with the repository `app`, and a working copy of it.
fn restored() -> (Lab, Server, PathBuf) {
    let lab = Lab::new(BINARY);
    repos::init_bare(&lab.upstream("app"), "main", "sha1");
    commit(&lab, None, "first");
    let server = lab.start();
    let target = lab.scratch("target");
    expect(&restore(server.address(), "test/app", &target, &[]), 0);
    (lab, server, target)
}

/// The file among the packs of a working copy that ends so.
fn ending(copy: &Path, ending: &str) -> PathBuf {
    let listing = fs::read_dir(copy.join(".git/objects/pack")).unwrap();
    let mut paths = listing.map(|entry| entry.unwrap().path());
    paths
        .find(|path| path.extension().is_some_and(|e| e == ending))
        .unwrap_or_else(|| panic!("no {ending}"))
}

fn change(path: &Path, change: impl Fn(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::set_permissions(path, PermissionsExt::from_mode(0o644)).unwrap();
    fs::remove_file(path).unwrap();
    fs::write(path, bytes).unwrap();
}

type Change = (&'static str, fn(&Path));

/// What an earlier job, or a disk, can do to packs and their indexes.
const CHANGES: [Change; 6] = [
    ("the sum of a pack", |copy| {
        change(&ending(copy, "pack"), |bytes| {
            *bytes.last_mut().unwrap() ^= 1
        });
    }),
    ("the sum of an index", |copy| {
        change(&ending(copy, "idx"), |bytes| {
            *bytes.last_mut().unwrap() ^= 1
        });
    }),
    ("an index of another pack", |copy| {
        change(&ending(copy, "idx"), |bytes| {
            let at = bytes.len() - 2 * ID_BYTES;
            bytes[at] ^= 1;
            resum(bytes, ID_BYTES);
        });
    }),
    ("a checksum of an entry", |copy| {
        let id = git::text(copy, &["rev-parse", "HEAD:d/below"]);
        change(&ending(copy, "idx"), |bytes| {
            let [sum, _] = places(bytes, &id);
            bytes[sum] ^= 1;
            resum(bytes, ID_BYTES);
        });
    }),
    ("exchanged offsets", |copy| {
        let id = |what: &str| git::text(copy, &["rev-parse", what]);
        let ids = [id("HEAD:d/below"), id("HEAD:d/other")];
        let order = ending(copy, "idx").with_extension("rev");
        if order.exists() {
            fs::remove_file(order).unwrap();
        }
        change(&ending(copy, "idx"), |bytes| {
            let [one, other] = ids.each_ref().map(|id| places(bytes, id));
            for (one, other) in one.into_iter().zip(other) {
                for byte in 0..4 {
                    bytes.swap(one + byte, other + byte);
                }
            }
            resum(bytes, ID_BYTES);
        });
        assert_eq!(git::text(copy, &["cat-file", "-p", &ids[0]]), "other");
    }),
    ("a pack that is elsewhere", |copy| {
        for end in ["pack", "idx"] {
            let path = ending(copy, end);
            let elsewhere = copy.parent().unwrap().join(format!("elsewhere.{end}"));
            fs::rename(&path, &elsewhere).unwrap();
            // What is there is a sound one, too.
            fs::copy(
                &elsewhere,
                copy.join(format!(".git/objects/pack/pack-own.{end}")),
            )
            .unwrap();
            std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
        }
    }),
];

#[test]
fn what_git_refuses_of_packs_is_not_proven() {
    let (lab, server, target) = restored();
    let update = |copy: &Path| restore(server.address(), "test/app", copy, &VERIFY);
    let sound = lab.scratch("sound");
    copy_tree(&target, &sound);
    let out = update(&sound);
    expect(&out, 0);
    let all = ["packs", "commit", "trees", "files", "index"];
    assert_eq!(said(&out, "proven"), all);
    let believed = ["refs", "history", "configuration", "hooks"];
    assert_eq!(said(&out, "believed"), believed);
    for is_behind in [false, true] {
        if is_behind {
            commit(&lab, Some(&server), "second");
        }
        for (what, change) in CHANGES {
            let copy = lab.scratch("changed");
            copy_tree(&target, &copy);
            let head = git::text(&copy, &["rev-parse", "HEAD"]);
            change(&copy);
            let errors = expect(&update(&copy), 1);
            assert!(errors.contains("is not updated: "), "{what}: {errors}");
            assert_eq!(fs::read_to_string(copy.join("top")).unwrap(), "top first\n");
            let at = fs::read_to_string(copy.join(".git/refs/heads/main")).unwrap();
            assert_eq!(at.trim(), head, "{what}");
            fs::remove_dir_all(&copy).unwrap();
        }
    }
    // What stays is proven, and counts nothing.
    let more = [&VERIFY[..], &LIMIT].concat();
    expect(&restore(server.address(), "test/app", &sound, &more), 0);
    assert_eq!(
        fs::read_to_string(sound.join("top")).unwrap(),
        "top second\n"
    );
}

/// Each of these can say that an object is another one, or that there is no history: they are gone, and all that is not
/// tracked as well, whatever it is called.
#[test]
fn what_git_would_believe_instead_is_gone() {
    let (lab, server, target) = restored();
    let at_once = ["repack", "-adq", "--write-bitmap-index"];
    git::run(&target, &at_once);
    git::run(&target, &["multi-pack-index", "write"]);
    git::run(&target, &["commit-graph", "write", "--reachable"]);
    let objects = target.join(".git/objects");
    fs::create_dir_all(objects.join("info/commit-graphs")).unwrap();
    fs::write(objects.join("info/commit-graphs/commit-graph-chain"), "x").unwrap();
    fs::write(ending(&target, "pack").with_extension("mtimes"), "x").unwrap();
    let order = objects.join("pack/pack-x.rev");
    fs::write(&order, "x").unwrap();
    let evil = target.join(".tarpon-restore-evil");
    fs::create_dir(&evil).unwrap();
    fs::write(evil.join("Makefile"), "x").unwrap();
    commit(&lab, Some(&server), "second");
    let more = [&VERIFY[..], &["--clean"]].concat();
    let out = restore(server.address(), "test/app", &target, &more);
    expect(&out, 0);
    assert!(said(&out, "proven").contains(&"nothing else".to_owned()));
    assert!(!evil.exists(), "nobody else's");
    for name in [
        "pack/multi-pack-index",
        "info/commit-graph",
        "info/commit-graphs",
    ] {
        assert!(!objects.join(name).exists(), "{name}");
    }
    assert!(!order.exists());
    for entry in fs::read_dir(objects.join("pack")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let is_known = [".pack", ".idx", ".rev"]
            .iter()
            .any(|end| name.ends_with(end));
        assert!(is_known, "{name}");
    }
    git::run(&target, &["fsck", "--full", "--strict"]);
    assert_eq!(
        git::text(&target, &["status", "--porcelain", "--ignored"]),
        ""
    );
    // What is elsewhere is not this repository's.
    let elsewhere = lab.scratch("elsewhere");
    fs::create_dir_all(elsewhere.join("commit-graphs")).unwrap();
    fs::write(elsewhere.join("commit-graphs/mine"), "mine").unwrap();
    drop(fs::remove_dir_all(objects.join("info")));
    std::os::unix::fs::symlink(&elsewhere, objects.join("info")).unwrap();
    expect(&restore(server.address(), "test/app", &target, &more), 0);
    assert!(elsewhere.join("commit-graphs/mine").is_file());
    assert!(!objects.join("info").is_symlink());
}

/// Nothing is checked out: nobody has looked at a commit, or at files of it.
#[test]
fn of_no_commit_none_is_proven() {
    let lab = Lab::new(BINARY);
    let path = lab.upstream("app");
    repos::init_bare(&path, "none", "sha1");
    commit(&lab, None, "first");
    let server = lab.start();
    for (name, more) in [
        ("by parts", ["--by-parts", "--verify", "--json"]),
        ("by archive", ["--by-archive", "--verify", "--json"]),
        ("wholly", ["--by-parts", "--verify=full", "--json"]),
    ] {
        let out = restore(server.address(), "test/app", &lab.scratch(name), &more);
        expect(&out, 0);
        let proven = said(&out, "proven");
        let is_whole = proven.iter().any(|one| one == "history");
        assert_eq!(is_whole, name == "wholly", "{proven:?}");
        let rest: Vec<_> = proven.iter().filter(|one| *one != "history").collect();
        assert_eq!(rest, ["packs", "nothing else"], "{name}");
    }
    // By its name, of which only a note says what it stands for.
    let unborn = lab.scratch("by parts");
    let out = restore(server.address(), "test/app", &unborn, &VERIFY);
    expect(&out, 0);
    assert_eq!(said(&out, "proven"), ["packs"]);
}

/// Has the index of a working copy say of each tree in `lies` that it is the other one.
fn tell_of_trees(copy: &Path, lies: &[(String, String)]) {
    let id = |hex: &str| {
        let byte = |n: usize| u8::from_str_radix(&hex[2 * n..2 * n + 2], 16).unwrap();
        (0..ID_BYTES).map(byte).collect::<Vec<u8>>()
    };
    change(&copy.join(".git/index"), |bytes| {
        for (old, new) in lies {
            let found = bytes.windows(ID_BYTES).rposition(|one| one == id(old));
            let at = found.unwrap_or_else(|| panic!("the index says nothing of {old}"));
            bytes[at..at + ID_BYTES].copy_from_slice(&id(new));
        }
        resum(bytes, ID_BYTES);
    });
}

/// An index can say of a directory that it is the tree that is wanted, and have other entries: these count.
#[test]
fn what_an_index_says_of_trees_is_compared_with_its_entries() {
    let (lab, server, target) = restored();
    let path = lab.upstream("app");
    // Of one inside of another that is as it says.
    let copy = lab.scratch("inside");
    copy_tree(&target, &copy);
    let d = git::text(&copy, &["rev-parse", "HEAD:d"]);
    let root = git::text(&copy, &["rev-parse", "HEAD^{tree}"]);
    tell_of_trees(&copy, &[(d.clone(), root.clone())]);
    let cached = || git::text(&copy, &["write-tree", "--prefix=d/"]);
    assert_eq!(cached(), root, "git does not believe it");
    let out = restore(server.address(), "test/app", &copy, &["--update"]);
    expect(&out, 0);
    assert_eq!(cached(), d);
    let mut import = Importer::start(&path, Layout::Packed);
    import.commit_on("refs/heads/main", "refs/heads/main^0", "second");
    import.file(repos::FILE, b"d/new", b"new\n");
    import.delete(b"d/other");
    import.finish();
    let id = git::text(&path, &["rev-parse", "main"]);
    let json = format!(r#"{{"refs":{{"refs/heads/main":"{id}"}}}}"#);
    ensure(&server, "app", &json);
    let tree = |at: &Path, what: String| git::text(at, &["rev-parse", &what]);
    for (number, lies) in [&["^{tree}", ":d"][..], &[":d"]].into_iter().enumerate() {
        let copy = lab.scratch(&format!("copy-{number}"));
        copy_tree(&target, &copy);
        let lie = |what: &&str| {
            let old = tree(&copy, format!("HEAD{what}"));
            (old, tree(&path, format!("main{what}")))
        };
        tell_of_trees(&copy, &lies.iter().map(lie).collect::<Vec<_>>());
        let out = restore(server.address(), "test/app", &copy, &["--update"]);
        expect(&out, 0);
        assert_eq!(fs::read_to_string(copy.join("d/new")).unwrap(), "new\n");
        assert!(!copy.join("d/other").exists());
        assert_eq!(git::text(&copy, &["status", "--porcelain"]), "");
    }
}
