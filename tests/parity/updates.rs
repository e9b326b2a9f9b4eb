//! `--update` from each odd repository to each other one: a working copy is then what a clone is.

use super::cases;
use super::support::lab::{Lab, copy_tree};
use super::support::rng::Rng;
use super::support::{git, parity, repos, restore};
use super::{clone_as_now, new_lab};
use std::path::Path;
use std::process::Output;

const BINARY: &str = env!("CARGO_BIN_EXE_tarpon");

fn update(lab: &Lab, server: &super::Server, name: &str, target: &Path, more: &[&str]) -> Output {
    let repository = format!("test/{name}");
    let more = [&["--update"], more].concat();
    let mut command = restore::command(BINARY, server.address(), &repository, target, &more);
    let out = command.current_dir(lab.scratch("")).output();
    out.unwrap_or_else(|e| panic!("tarpon does not start: {e}"))
}

/// A repository's name, and what makes it.
type Made = (&'static str, fn(&Lab));

/// What git makes of the branch `name`.
fn expected(lab: &Lab, name: &str) -> std::path::PathBuf {
    let into = lab.scratch(&format!("expected-{name}"));
    git::clone(&lab.url("all"), &into);
    git::run(&into, &["checkout", "--quiet", name]);
    // As a clone of that branch alone has it.
    git::run(&into, &["branch", "--quiet", "-D", "main"]);
    into
}

/// Files that are not held to be written, of which one is converted.
fn large(lab: &Lab) {
    const BYTES: u64 = 17 << 20;
    const LINES: usize = 320_000;
    let path = lab.upstream("large");
    repos::init_bare(&path, "main", "sha1");
    let mut import = repos::Importer::start(&path, repos::Layout::Packed);
    import.commit("refs/heads/main", "large");
    import.file_from(repos::EXECUTABLE, b"large.bin", BYTES, &mut Rng::new(7));
    import.file(repos::FILE, b"small", b"small\n");
    let text = b"a line of a text, whatever it says: $Id$, and its end\n".repeat(LINES);
    import.file(repos::FILE, b"large.txt", &text);
    import.file(
        repos::FILE,
        b".gitattributes",
        b"*.txt text eol=crlf ident\n",
    );
    import.finish();
}

/// As another file system has it: all stat data is new, and all files are read.
fn copy_all(target: &Path) {
    let before = target.with_extension("before");
    std::fs::rename(target, &before).unwrap_or_else(|e| panic!("{e}"));
    copy_tree(&before, target);
    std::fs::remove_dir_all(&before).unwrap_or_else(|e| panic!("{e}"));
}

/// Changes the first file that is tracked; its name.
fn spoil(target: &Path) -> String {
    let listed = git::text(target, &["ls-files", "-s"]);
    let name = listed.lines().find_map(|line| {
        let (what, name) = line.split_once('\t')?;
        (what.starts_with("100644") && !name.starts_with('"')).then(|| name.to_owned())
    });
    let name = name.unwrap_or_default();
    if !name.is_empty() {
        let path = target.join(&name);
        let text = std::fs::read(&path).unwrap_or_else(|e| panic!("{e}"));
        let text = [&text[..], b"mine\n"].concat();
        std::fs::write(&path, text).unwrap_or_else(|e| panic!("{e}"));
    }
    name
}

#[test]
fn from_each_odd_repository_to_the_next() {
    let lab = new_lab();
    let made: [Made; 7] = [
        ("attributes", cases::attributes),
        ("names", cases::names),
        ("encodings", cases::encodings),
        ("empty-tree", cases::empty_tree),
        ("large", large),
        ("encodings-that-fail", cases::encodings_that_fail),
        ("tagged", cases::tagged),
    ];
    let all = lab.upstream("all");
    repos::init_bare(&all, "main", "sha1");
    repos::generate(&lab.upstream("main"), repos::Shape::ManySmall, 200_000, 1);
    let fetch = |name: &str, to: &str| {
        let from = lab.upstream(name);
        let refspec = format!("refs/heads/main:refs/heads/{to}");
        git::run(
            &all,
            &["fetch", "--quiet", &from.to_string_lossy(), &refspec],
        );
    };
    fetch("main", "main");
    for (name, make) in made {
        make(&lab);
        fetch(name, name);
    }
    let server = lab.start();
    let target = lab.scratch("target");
    let done = |out: Output, context: &str| {
        let errors = restore::expect(&out, 0);
        assert!(!errors.contains("restored"), "{context}: {errors}");
        parity::expect_same(&expected(&lab, context), &target, context);
    };
    // There is nothing yet.
    restore::expect(&update(&lab, &server, "all", &target, &[]), 0);
    let names = made.map(|(name, _)| name);
    let back = names.iter().rev().skip(1);
    for (number, name) in names.iter().chain(back).take(names.len() + 2).enumerate() {
        let to = ["--ref", name];
        // Once as it was left, once all of it copied, once with changes.
        let spoilt = match number % 3 {
            0 => String::new(),
            1 => {
                copy_all(&target);
                String::new()
            }
            _ => spoil(&target),
        };
        let mut out = update(&lab, &server, "all", &target, &to);
        if !spoilt.is_empty() {
            let errors = restore::expect(&out, 1);
            assert!(errors.contains(&spoilt), "{name}: {errors}");
            let force = [&to[..], &["--force"]].concat();
            out = update(&lab, &server, "all", &target, &force);
        }
        done(out, name);
        std::fs::remove_dir_all(lab.scratch(&format!("expected-{name}")))
            .unwrap_or_else(|e| panic!("{e}"));
    }
}

/// With SHA-256, from nothing, and to nothing again.
#[test]
fn sha256_and_nothing() {
    let lab = new_lab();
    cases::sha256(&lab);
    let upstream = lab.upstream("sha256");
    let server = lab.start();
    let target = lab.scratch("target");
    git::run(&upstream, &["branch", "old", "main~1"]);
    restore::expect(
        &update(&lab, &server, "sha256", &target, &["--ref", "old"]),
        0,
    );
    restore::expect(&update(&lab, &server, "sha256", &target, &[]), 0);
    let clone = lab.scratch("clone");
    clone_as_now(&lab, "sha256", &clone);
    parity::expect_same(&clone, &target, "sha256");
}

/// A commit more for what HEAD of a bare repository leads to, and what takes it back.
fn go_on(upstream: &Path) -> Vec<Vec<String>> {
    let id = |what: &str| {
        let out = git::output(upstream, &["rev-parse", "--quiet", "--verify", what]);
        String::from_utf8_lossy(&out.stdout).trim().to_owned()
    };
    let symbolic = git::output(upstream, &["symbolic-ref", "--quiet", "HEAD"]).stdout;
    let symbolic = String::from_utf8_lossy(&symbolic).trim().to_owned();
    let (branch, head) = match symbolic.is_empty() {
        true => ("refs/heads/main".to_owned(), id("HEAD")),
        false => (symbolic, String::new()),
    };
    let old = id(&branch);
    let back = |args: &[&str]| args.iter().map(|&arg| arg.to_owned()).collect::<Vec<_>>();
    let mut all = vec![match old.is_empty() {
        true => back(&["update-ref", "-d", &branch]),
        false => back(&["update-ref", &branch, &old]),
    }];
    let mut import = repos::Importer::start(upstream, repos::Layout::Packed);
    match old.is_empty() {
        true => import.commit(&branch, "it goes on"),
        false => import.commit_on(&branch, &format!("{branch}^0"), "it goes on"),
    }
    import.file(repos::FILE, b"goes/on", b"and on\n");
    import.finish();
    if !head.is_empty() {
        all.push(back(&["update-ref", "--no-deref", "HEAD", &head]));
        git::run(
            upstream,
            &[
                "update-ref",
                "--no-deref",
                "HEAD",
                &id(&format!("{branch}~1")),
            ],
        );
    }
    all
}

/// From each of the odd repositories to what it has next, and back to it, proven; asked for by its name.
#[test]
fn each_goes_on_and_back() {
    let made: [Made; 17] = [
        ("attributes", cases::attributes),
        ("encodings", cases::encodings),
        ("encodings-that-fail", cases::encodings_that_fail),
        ("names", cases::names),
        ("empty", cases::empty),
        ("empty-trunk", cases::empty_trunk),
        ("empty-sha256", cases::empty_sha256),
        ("empty-tree", cases::empty_tree),
        ("sha256", cases::sha256),
        ("detached", cases::detached),
        ("detached-at-tip", cases::detached_at_tip),
        ("unborn-head", cases::unborn_head),
        ("branch-name", cases::branch_name),
        ("tagged", cases::tagged),
        ("many-refs", cases::many_refs),
        ("packs-and-loose", cases::packs_and_loose),
        ("all-loose", cases::all_loose),
    ];
    let lab = new_lab();
    let server = lab.start();
    for (name, make) in made {
        make(&lab);
        let (target, clone) = (
            lab.scratch(&format!("target-{name}")),
            lab.scratch("expected"),
        );
        let upstream = lab.upstream(name);
        let expect_same = |more: &[&str], context: &str| {
            let out = update(&lab, &server, name, &target, more);
            println!(
                "{name}, {context}: {}",
                String::from_utf8_lossy(&out.stderr)
            );
            restore::expect(&out, 0);
            clone_as_now(&lab, name, &clone);
            parity::expect_same(&clone, &target, &format!("{name}, {context}"));
            std::fs::remove_dir_all(&clone).unwrap_or_else(|e| panic!("{e}"));
        };
        expect_same(&[], "at first");
        let back = go_on(&upstream);
        expect_same(&["--fresh", "--verify", "--clean"], "further");
        for args in back {
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            git::run(&upstream, &args);
        }
        // What has nothing any more is not what it was.
        let refs = git::text(&upstream, &["for-each-ref", "--count=1"]);
        if !refs.is_empty() {
            expect_same(&["--fresh", "--verify"], "back");
        }
    }
}
