//! Archives of one commit without its history.

use std::fs;

use crate::bundle::small_lab;
use crate::lab::{expect, restore, serve};
use crate::support::lab::{self, Lab};
use crate::support::server::Server;
use crate::support::{git, parity, repos};

fn archive(lab: &Lab, server: &Server, query: &str) -> Vec<u8> {
    let file = lab.scratch("tip.tar.zst");
    let target = format!("{}?{query}", lab::target("small"));
    lab::download(server.address(), &target, &file);
    fs::read(file).unwrap_or_else(|e| panic!("{e}"))
}

/// What is restored is what git clones, down to where its history ends and what it fetches.
#[test]
fn an_archive_of_one_commit_is_the_shallow_clone() {
    let lab = small_lab();
    let upstream = lab.upstream("small");
    for name in ["one.txt", "two.txt"] {
        repos::add_commit(&upstream, "main", name, b"x");
    }
    git::run(&upstream, &["branch", "team/topic", "main~1"]);
    git::run(&upstream, &["tag", "-a", "-m", "x", "v1", "main~1"]);
    git::run(&upstream, &["tag", "of-a-file", "main:two.txt"]);
    let server = lab.start();
    for (number, (query, name)) in [
        ("depth=1", None),
        ("depth=1&ref=team/topic", Some("team/topic")),
        ("depth=1&ref=v1", Some("v1")),
    ]
    .into_iter()
    .enumerate()
    {
        let (expected, url) = (lab.scratch(&format!("clone{number}")), lab.url("small"));
        let path = expected.to_string_lossy().into_owned();
        let mut args = vec!["clone", "--quiet", "--depth", "1", &url, &path];
        args.extend(name.into_iter().flat_map(|name| ["--branch", name]));
        git::run(&lab.scratch(""), &args);
        let target = lab.scratch(&format!("restored{number}"));
        let served = serve(archive(&lab, &server, query), |_| None);
        expect(&restore(served, "test/small", &target, &[]), 0);
        parity::expect_same_clones(&expected, &target, query);
        let shallow = |dir: &std::path::Path| fs::read(dir.join(".git/shallow")).ok();
        assert_eq!(shallow(&target), shallow(&expected), "{query}");
        git::run(&target, &["fetch", "--quiet", "--unshallow"]);
        let count = git::text(&target, &["rev-list", "--count", "HEAD"]);
        let at = name.unwrap_or("main");
        assert_eq!(count, git::text(&upstream, &["rev-list", "--count", at]));
    }
}

/// An archive that leaves history out and does not say so is none of a repository.
#[test]
fn history_that_is_left_out_in_silence_is_refused() {
    let lab = small_lab();
    repos::add_commit(&lab.upstream("small"), "main", "one.txt", b"x");
    let server = lab.start();
    let (file, into) = (lab.scratch("whole.tar.zst"), lab.scratch("unpacked"));
    fs::write(&file, archive(&lab, &server, "depth=1")).unwrap_or_else(|e| panic!("{e}"));
    lab::unpack_file(&file, &into);
    fs::remove_file(into.join(".git/shallow")).unwrap_or_else(|e| panic!("{e}"));
    let packed = std::process::Command::new("bash")
        .args(["-c", "set -o pipefail; tar -cf - -C \"$0\" . | zstd"])
        .arg(&into)
        .output()
        .unwrap_or_else(|e| panic!("bash: {e}"));
    assert!(packed.status.success());
    let served = serve(packed.stdout, |_| None);
    expect(&restore(served, "test/small", &lab.scratch("no"), &[]), 5);
}
