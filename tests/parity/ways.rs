//! Every way of a restore makes the same: without a history, and with submodules.

use super::cases;
use super::support::lab::Lab;
use super::support::repos::{self, Importer, Layout};
use super::support::server::Server;
use super::support::{compare, git, parity, restore};
use super::{new_lab, wait_for_hit};
use std::path::Path;

const BINARY: &str = env!("CARGO_BIN_EXE_tarpon");

fn restored(lab: &Lab, server: &Server, name: &str, target: &Path, more: &[&str]) {
    let repository = format!("test/{name}");
    let mut command = restore::command(BINARY, server.address(), &repository, target, more);
    let out = command.current_dir(lab.scratch("")).output();
    let out = out.unwrap_or_else(|e| panic!("tarpon does not start: {e}"));
    restore::expect(&out, 0);
}

fn remove(path: &Path) {
    std::fs::remove_dir_all(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}

/// One commit alone, by each way, proven or not, into a seed and out of it.
fn alone(name: &str, make: fn(&Lab)) {
    let lab = new_lab();
    make(&lab);
    let clone = lab.scratch("clone");
    let into = clone.display().to_string();
    let args = ["clone", "--quiet", "--depth", "1", &lab.url(name), &into];
    git::run(&lab.scratch(""), &args);
    let server = lab.start();
    wait_for_hit(&lab, &server, name);
    let seed = lab.scratch("seed").display().to_string();
    let seeded = ["--seed", &seed, "--seed-free-floor", "0"];
    let by_seed = [&["--by-parts", "--worktree", "frames"], &seeded[..]].concat();
    let proven = [&["--by-parts", "--verify"], &seeded[..]].concat();
    let ways: [&[&str]; 9] = [
        &["--by-archive"],
        &["--by-archive", "--verify"],
        &["--by-parts", "--worktree", "frames"],
        &["--by-parts", "--worktree", "packs"],
        &["--by-parts", "--verify"],
        &["--by-parts", "--verify=full"],
        &by_seed,
        &by_seed,
        &proven,
    ];
    for way in ways {
        let target = lab.scratch("target");
        let more = [&["--depth", "1"], way].concat();
        restored(&lab, &server, name, &target, &more);
        parity::expect_same(&clone, &target, &format!("{name} {way:?}"));
        let update = ["--depth", "1", "--update", "--verify", "--clean"];
        restored(&lab, &server, name, &target, &update);
        parity::expect_same(&clone, &target, &format!("{name} {way:?} and --update"));
        remove(&target);
    }
}

#[test]
fn one_commit_alone() {
    alone("tagged", cases::tagged);
    alone("names", cases::names);
}

#[test]
fn one_commit_alone_sha256() {
    alone("sha256", cases::sha256);
}

/// A commit more in a repository of SHA-256, with a submodule if there is a commit of one.
fn commit(lab: &Lab, name: &str, text: &str, submodule: Option<&str>) -> String {
    let path = lab.upstream(name);
    let is_new = !path.exists();
    if is_new {
        repos::init_bare(&path, "main", "sha256");
    }
    let mut import = Importer::start(&path, Layout::Packed);
    match is_new {
        true => import.commit("refs/heads/main", text),
        false => import.commit_on("refs/heads/main", "refs/heads/main^0", text),
    }
    import.file(
        repos::FILE,
        b"dir/file",
        format!("{name} {text}\n").as_bytes(),
    );
    if let Some(id) = submodule {
        let text = b"[submodule \"inner\"]\n\tpath = x/inner\n\turl = ../inner\n";
        import.file(repos::FILE, b".gitmodules", text);
        import.gitlink(b"x/inner", id);
    }
    import.finish();
    git::text(&path, &["rev-parse", "main"])
}

#[test]
fn submodules_sha256() {
    let lab = new_lab();
    let inner = commit(&lab, "inner", "first", None);
    commit(&lab, "outer", "first", Some(&inner));
    let server = lab.start();
    let clone = lab.scratch("clone");
    let into = clone.display().to_string();
    let recurse = ["clone", "--quiet", "--recurse-submodules"];
    let outer = lab.url("outer");
    let expect_same = |target: &Path, context: &str| {
        let args = [&recurse[..], &[&outer, &into]].concat();
        // Git asks before it clones what is in a directory.
        let args = [&["-c", "protocol.file.allow=always"], &args[..]].concat();
        git::run(&lab.scratch(""), &args);
        let differences = compare::differences(&clone, target, &[".git"]);
        assert_eq!(differences, Vec::<String>::new(), "{context}");
        for path in ["", "x/inner"] {
            for question in [
                &["rev-parse", "HEAD", "--show-object-format"][..],
                &["status", "--porcelain", "--ignored"],
                &["for-each-ref"],
                &["fsck", "--full"],
            ] {
                let said = |tree: &Path| git::text(&tree.join(path), question);
                assert_eq!(said(&clone), said(target), "{context}: {path} {question:?}");
            }
        }
        remove(&clone);
    };
    let restore = |target: &Path, more: &[&str]| {
        let more = [&["--recurse-submodules"], more].concat();
        restored(&lab, &server, "outer", target, &more);
    };
    let target = lab.scratch("target");
    for way in [&[][..], &["--by-parts", "--verify"], &["--verify=full"]] {
        if target.exists() {
            remove(&target);
        }
        restore(&target, way);
        expect_same(&target, &format!("{way:?}"));
    }
    let inner = commit(&lab, "inner", "second", None);
    commit(&lab, "outer", "second", Some(&inner));
    for more in [&["--fresh"][..], &["--verify", "--clean"]] {
        restore(&target, &[&["--update"], more].concat());
        expect_same(&target, &format!("updated {more:?}"));
    }
}
