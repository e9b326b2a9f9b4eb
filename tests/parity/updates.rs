//! `--update` from each odd repository to each other one: a working copy is then what a clone is.

use super::cases;
use super::support::lab::Lab;
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

/// A file that is not held to be written.
fn large(lab: &Lab) {
    const BYTES: u64 = 17 << 20;
    let path = lab.upstream("large");
    repos::init_bare(&path, "main", "sha1");
    let mut import = repos::Importer::start(&path, repos::Layout::Packed);
    import.commit("refs/heads/main", "large");
    import.file_from(repos::EXECUTABLE, b"large.bin", BYTES, &mut Rng::new(7));
    import.file(repos::FILE, b"small", b"small\n");
    import.finish();
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
    for name in names
        .iter()
        .chain(names.iter().rev().skip(1))
        .take(names.len() + 2)
    {
        done(
            update(&lab, &server, "all", &target, &["--ref", name]),
            name,
        );
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
