//! What is asked for without its history equals what git makes of it with `--depth 1`.

use std::fs;
use std::path::{Path, PathBuf};

use super::support::server::Server;
use super::support::{git, lab, wait};
use super::wait_for_hit;
use super::wants::{Source, remove};

/// What git makes of `fetch --depth 1` of something in a repository that was made for that.
pub fn fetched(source: &Source, what: &str, then: &[&str]) -> PathBuf {
    let into = source.lab.scratch("expected");
    fs::create_dir_all(&into).unwrap();
    let format = git::text(&source.work, &["rev-parse", "--show-object-format"]);
    let format = format!("--object-format={format}");
    git::run(&into, &["init", "-q", &format]);
    git::run(&into, &["remote", "add", "origin", &source.lab.url("up")]);
    git::run(&into, &["fetch", "-q", "--depth", "1", "origin", what]);
    git::run(&into, then);
    into
}

fn cloned(source: &Source, options: &[&str]) -> PathBuf {
    let all = [&["--depth", "1"], options].concat();
    source.cloned("expected", &all, &[])
}

/// Whether the server gives that, down to where its history ends.
pub fn expect(source: &Source, server: &Server, query: &str, expected: &Path) {
    source.expect_as(server, query, expected);
    let file = source.lab.scratch("shallow.tar.zst");
    let target = format!("{}?{query}", lab::target("up"));
    lab::download(server.address(), &target, &file);
    let into = source.lab.scratch("unpacked");
    lab::unpack_file(&file, &into);
    let shallow = |dir: &Path| fs::read(dir.join(".git/shallow")).ok();
    assert_eq!(shallow(&into), shallow(expected), "{query}");
    let count = ["count-objects", "-v"];
    let objects = |dir: &Path| {
        let text = git::text(dir, &count);
        let lines = text
            .lines()
            .filter(|l| l.starts_with("count") || l.starts_with("in-pack"));
        lines
            .filter_map(|line| line.split(' ').nth(1)?.parse::<u64>().ok())
            .sum::<u64>()
    };
    assert_eq!(objects(&into), objects(expected), "{query}");
    remove(&into);
}

fn all_tips(source: &Source) {
    // Tags of what is in the worktree, and of what is not.
    let blob = source.id("main:last");
    let tree = source.id("main:dir");
    source.git(&["tag", "blob", &blob]);
    source.git(&["tag", "-a", "-m", "x", "noted-blob", &blob]);
    source.git(&["tag", "-a", "-m", "x", "noted-tree", &tree]);
    source.git(&[
        "tag",
        "-a",
        "-m",
        "x",
        "other-blob",
        &source.id("main~2:last"),
    ]);
    source.git(&["tag", "-a", "-m", "x", "newest", "main"]);
    source.push();
    let server = source.start();
    clones(source, &server);
    fetches(source, &server);
    server.stop();
    source.lab.expect_no_orphans();
}

fn clones(source: &Source, server: &Server) {
    let expected = cloned(source, &[]);
    expect(source, server, "depth=1", &expected);
    remove(&expected);
    // It is built on what the other has.
    wait_for_hit(&source.lab, server, "up");
    for (query, name) in [
        ("main", "main"),
        ("fix/%237%26x", "fix/#7&x"),
        ("%C3%BC", "ü"),
        ("a+b", "a+b"),
        ("same", "same"),
        ("light", "light"),
        ("noted", "noted"),
        ("twice", "twice"),
        ("newest", "newest"),
    ] {
        let expected = cloned(source, &["--branch", name]);
        expect(source, server, &format!("ref={query}&depth=1"), &expected);
        remove(&expected);
    }
}

fn fetches(source: &Source, server: &Server) {
    let at_fetched = ["checkout", "-q", "--detach", "FETCH_HEAD"];
    let expected = fetched(source, "refs/pull/7/head", &at_fetched);
    expect(source, server, "depth=1&ref=refs/pull/7/head", &expected);
    remove(&expected);
    for what in ["main", "main~1", "main~2", "fix/#7&x"] {
        let id = source.id(what);
        let expected = fetched(source, &id, &at_fetched);
        expect(source, server, &format!("commit={id}&depth=1"), &expected);
        remove(&expected);
    }
    let old = source.id("main~1");
    for (query, name) in [
        ("main", "main"),
        ("new", "new"),
        ("main/below", "main/below"),
    ] {
        let expected = fetched(source, &old, &["checkout", "-q", "-B", name, "FETCH_HEAD"]);
        let query = format!("ref={query}&depth=1&commit={old}");
        expect(source, server, &query, &expected);
        remove(&expected);
    }
    for name in ["noted", "refs/pull/7/head"] {
        let expected = fetched(source, &old, &at_fetched);
        let query = format!("ref={name}&commit={old}&depth=1");
        expect(source, server, &query, &expected);
        remove(&expected);
    }
}

#[test]
fn every_want_without_history() {
    all_tips(&Source::new("sha1"));
}

#[test]
fn every_want_without_history_of_sha256() {
    all_tips(&Source::new("sha256"));
}

/// Where the upstream's HEAD is detached, at a branch's tip or not, or names a branch that is not there.
#[test]
fn tips_beside_an_odd_head() {
    let source = Source::new("sha1");
    let up = source.lab.upstream("up");
    for head in ["detached", "branch", "unborn"] {
        match head {
            "detached" => {
                source.git(&["checkout", "-q", "--detach", "main~1"]);
                source.commit("alone");
                source.git(&["tag", "alone"]);
                source.push();
                git::run(
                    &up,
                    &["update-ref", "--no-deref", "HEAD", &source.id("alone")],
                )
            }
            "branch" => git::run(
                &up,
                &["update-ref", "--no-deref", "HEAD", &source.id("main")],
            ),
            _ => git::run(&up, &["symbolic-ref", "HEAD", "refs/heads/nothing"]),
        };
        let server = source.start();
        let expected = cloned(&source, &["--branch", "main"]);
        expect(&source, &server, "ref=main&depth=1", &expected);
        remove(&expected);
        if head != "unborn" {
            let expected = cloned(&source, &[]);
            expect(&source, &server, "depth=1", &expected);
            remove(&expected);
        }
        server.stop();
        remove(&source.lab.mirror("up"));
        source.lab.forget_snapshots();
    }
}

/// A repository without a commit, and one whose only commit is its first.
#[test]
fn tips_without_parents() {
    let source = Source::new("sha1");
    let up = source.lab.upstream("up");
    source.git(&["checkout", "-q", "--orphan", "first"]);
    source.commit("first");
    source.push();
    let server = source.start();
    let expected = cloned(&source, &["--branch", "first"]);
    expect(&source, &server, "ref=first&depth=1", &expected);
    remove(&expected);
    let mirror = source.lab.mirror("up");
    wait::until_true("it is cloned", || mirror.exists());
    server.stop();
    remove(&mirror);
    source.lab.forget_snapshots();
    git::run(&up, &["symbolic-ref", "HEAD", "refs/heads/nothing"]);
    let server = source.start();
    let file = source.lab.scratch("unborn.tar.zst");
    let target = format!("{}?depth=1", lab::target("up"));
    lab::download(server.address(), &target, &file);
    let into = source.lab.scratch("unpacked");
    lab::unpack_file(&file, &into);
    assert_eq!(
        git::text(&into, &["symbolic-ref", "HEAD"]),
        "refs/heads/nothing"
    );
    assert_eq!(git::text(&into, &["for-each-ref"]), "");
    git::run(&into, &["status"]);
}

/// What is unpacked can be fetched into, and given its history, through the server and from the upstream.
#[test]
fn a_tip_grows_its_history() {
    let source = Source::new("sha1");
    let server = source.start();
    let file = source.lab.scratch("tip.tar.zst");
    let id = source.id("main~1");
    let endpoint = format!("http://{}/git/test/up", server.address());
    let upstream = source.lab.url("up");
    for query in [
        "depth=1",
        "ref=light&depth=1",
        &format!("commit={id}&depth=1"),
    ] {
        lab::download(
            server.address(),
            &format!("{}?{query}", lab::target("up")),
            &file,
        );
        for url in [&endpoint, &upstream] {
            let into = source.lab.scratch("unpacked");
            lab::unpack_file(&file, &into);
            git::run(&into, &["remote", "set-url", "origin", url]);
            git::run(&into, &["fetch", "-q", "origin"]);
            git::run(&into, &["fetch", "-q", "--unshallow", "origin"]);
            let head = git::text(&into, &["rev-parse", "HEAD"]);
            let count = |dir: &Path, what: &str| git::text(dir, &["rev-list", "--count", what]);
            assert_eq!(
                count(&into, "HEAD"),
                count(&source.work, &head),
                "{query} {url}"
            );
            assert!(!into.join(".git/shallow").exists(), "{query} {url}");
            git::run(&into, &["fsck", "--strict"]);
            assert_eq!(git::text(&into, &["status", "--porcelain"]), "");
            remove(&into);
        }
    }
}

/// Where the repository is not mirrored yet: each as the first that is asked for.
#[test]
fn tips_before_the_clone() {
    for format in ["sha1", "sha256"] {
        let source = Source::new(format);
        source.git(&[
            "tag",
            "-a",
            "-m",
            "x",
            "noted-blob",
            &source.id("main:last"),
        ]);
        source.push();
        let (old, tag) = (source.id("main~1"), source.id("twice"));
        // The tag is no part of what is named by its id.
        let tagged = source.id("twice^{commit}");
        let at_fetched = ["checkout", "-q", "--detach", "FETCH_HEAD"];
        let made = ["checkout", "-q", "-B", "new", "FETCH_HEAD"];
        type Make<'s> = Box<dyn Fn() -> PathBuf + 's>;
        let rows: Vec<(String, Make<'_>)> = vec![
            ("depth=1".to_owned(), Box::new(|| cloned(&source, &[]))),
            (
                "ref=fix/%237%26x&depth=1".into(),
                Box::new(|| cloned(&source, &["--branch", "fix/#7&x"])),
            ),
            (
                "ref=same&depth=1".into(),
                Box::new(|| cloned(&source, &["--branch", "same"])),
            ),
            (
                "ref=twice&depth=1".into(),
                Box::new(|| cloned(&source, &["--branch", "twice"])),
            ),
            (
                "ref=light&depth=1".into(),
                Box::new(|| cloned(&source, &["--branch", "light"])),
            ),
            (
                "ref=refs/pull/7/head&depth=1".into(),
                Box::new(|| fetched(&source, "refs/pull/7/head", &at_fetched)),
            ),
            (
                format!("commit={old}&depth=1"),
                Box::new(|| fetched(&source, &old, &at_fetched)),
            ),
            (
                format!("commit={tag}&depth=1"),
                Box::new(|| fetched(&source, &tagged, &at_fetched)),
            ),
            (
                format!("ref=new&commit={old}&depth=1"),
                Box::new(|| fetched(&source, &old, &made)),
            ),
        ];
        for (query, expected) in rows {
            let expected = expected();
            let server = source.start();
            expect(&source, &server, &query, &expected);
            server.stop();
            if source.lab.mirror("up").exists() {
                remove(&source.lab.mirror("up"));
            }
            source.lab.forget_snapshots();
            remove(&expected);
        }
    }
}
