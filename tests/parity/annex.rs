//! What no followed ref of the upstream leads to equals what git makes of it.

use super::support::lab;
use super::support::server::Server;
use super::support::{git, wait};
use super::tips;
use super::wait_for_hit;
use super::wants::{Source, compare, expect_same, remove, wanted};
use std::path::Path;

/// A merge commit, as hosts make them for pull requests; gives its id.
fn merge(source: &Source, message: &str) -> String {
    let [main, side] = ["main", "fork"].map(|what| source.id(what));
    let tree = format!("{side}^{{tree}}");
    let args = [
        "commit-tree",
        "-m",
        message,
        "-p",
        &main,
        "-p",
        &side,
        &tree,
    ];
    let merged = git::text(&source.work, &args);
    source.git(&["update-ref", "refs/pull/8/merge", &merged]);
    merged
}

/// Commits of a fork beside `main`, which are nobody's branch at the upstream; the last one's id.
fn fork(source: &Source) -> String {
    source.git(&["checkout", "-q", "-b", "fork", "main~1"]);
    source.commit("forked");
    source.commit("forked again");
    let fork = source.id("fork");
    source.git(&["tag", "-a", "-m", "x", "of-fork"]);
    source.git(&["update-ref", "refs/fork/one", "fork"]);
    source.git(&["update-ref", "refs/fork/tag", "of-fork"]);
    source.git(&["checkout", "-q", "main"]);
    fork
}

/// Pushes all but the branch and the tag of the fork.
fn push(source: &Source) {
    let url = source.lab.url("up");
    let mut refs = vec!["push", "-q", "--force", &url];
    refs.extend([
        "+refs/heads/main:refs/heads/main",
        "+refs/pull/*:refs/pull/*",
    ]);
    refs.extend(["+refs/fork/*:refs/fork/*"]);
    source.git(&refs);
}

fn all(format: &str) {
    let source = Source::new(format);
    let fork = fork(&source);
    let first = merge(&source, "merged");
    push(&source);
    let server = source.lab.start();
    let plain = wait_for_hit(&source.lab, &server, "up");
    let packs = mirror_packs(&source);
    by_ref(&source, &server, &first);
    by_id(&source, &server, &fork);
    alone(&source, &server, &fork);
    // Nobody else's archive has grown.
    assert_eq!(mirror_packs(&source), packs, "it is in the mirror");
    let again = wait_for_hit(&source.lab, &server, "up");
    assert!(std::fs::read(plain).unwrap() == std::fs::read(again).unwrap());
    server.stop();
    source.lab.expect_no_orphans();
}

fn by_ref(source: &Source, server: &Server, first: &str) {
    let fetch: &[&str] = &["fetch", "-q", "origin", "refs/pull/8/merge"];
    let at_fetched: &[&str] = &["checkout", "-q", "--detach", "FETCH_HEAD"];
    let query = "ref=refs/pull/8/merge";
    source.expect(server, query, &[], &[fetch, at_fetched]);
    let second = merge(source, "merged again");
    push(source);
    let fresh = ["Cache-Control: max-age=0"];
    let head = server.fetch("GET", &wanted(query), &fresh).expect(200).head;
    assert_eq!(head.get("x-cachew-snapshot-commit"), Some(&*second));
    assert_eq!(head.get("cache-control"), Some("no-cache"));
    source.expect(server, query, &[], &[fetch, at_fetched]);
    // What it has left is still there by its id.
    let fetch: &[&str] = &["fetch", "-q", "origin", first];
    let at: &[&str] = &["checkout", "-q", "--detach", first];
    source.expect(server, &format!("commit={first}"), &[], &[fetch, at]);
    let named = format!("ref=refs/pull/8/merge&commit={first}");
    source.expect(server, &named, &[], &[fetch, at]);
    server.get(&wanted("ref=refs/pull/9/merge")).expect(404);
}

fn by_id(source: &Source, server: &Server, fork: &str) {
    let fetch: &[&str] = &["fetch", "-q", "origin", fork];
    let at: &[&str] = &["checkout", "-q", "--detach", fork];
    source.expect(server, &format!("commit={fork}"), &[], &[fetch, at]);
    let made: &[&str] = &["checkout", "-q", "-B", "fork", fork];
    source.expect(
        server,
        &format!("ref=fork&commit={fork}"),
        &[],
        &[fetch, made],
    );
    // Below the one that is there, and a tag's own id, which is that of its commit.
    let below = source.id("fork~1");
    let at_below: &[&str] = &["checkout", "-q", "--detach", &below];
    source.expect(server, &format!("commit={below}"), &[], &[fetch, at_below]);
    let tag = source.id("of-fork");
    source.expect(server, &format!("commit={tag}"), &[], &[fetch, at]);
}

/// The same without their history.
fn alone(source: &Source, server: &Server, fork: &str) {
    let at_fetched = ["checkout", "-q", "--detach", "FETCH_HEAD"];
    for (what, query) in [
        ("refs/pull/8/merge", "ref=refs/pull/8/merge".to_owned()),
        (fork, format!("commit={fork}")),
    ] {
        let expected = tips::fetched(source, what, &at_fetched);
        tips::expect(source, server, &format!("depth=1&{query}"), &expected);
        remove(&expected);
    }
}

fn mirror_packs(source: &Source) -> Vec<String> {
    let packs = source.lab.mirror("up").join("objects/pack");
    let names = std::fs::read_dir(packs).unwrap();
    let mut names: Vec<String> = names
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn what_no_followed_ref_leads_to() {
    all("sha1");
}

#[test]
fn what_no_followed_ref_leads_to_of_sha256() {
    all("sha256");
}

/// Whether the mirror's own objects have one.
fn has(mirror: &Path, id: &str) -> bool {
    git::output(mirror, &["cat-file", "-e", id])
        .status
        .success()
}

/// A pull request's commit stands on a branch that goes, and with it what was borrowed from the mirror.
#[test]
fn a_commit_whose_branch_is_deleted_and_expired() {
    let source = Source::new("sha1");
    source.git(&["checkout", "-q", "-b", "base", "main~2"]);
    source.commit("borrowed");
    let base = source.id("base");
    source.git(&["checkout", "-q", "-b", "fork"]);
    source.commit("on top");
    let top = source.id("fork");
    source.git(&["update-ref", "refs/pull/9/head", "fork"]);
    source.git(&["checkout", "-q", "main"]);
    source.git(&["branch", "-q", "-D", "fork"]);
    source.push();
    let upkeep = ["--maintenance-idle", "1s", "--unreachable-expiry", "5s"];
    let server = source.lab.settings().with(&upkeep).start();
    wait_for_hit(&source.lab, &server, "up");
    let query = format!("commit={top}");
    let fetch: &[&str] = &["fetch", "-q", "origin", &top];
    let at: &[&str] = &["checkout", "-q", "--detach", &top];
    source.expect(&server, &query, &[], &[fetch, at]);
    source.git(&["branch", "-q", "-D", "base"]);
    source.push();
    compare(&server);
    let mirror = source.lab.mirror("up");
    assert!(has(&mirror, &base));
    wait::until_true("the branch has expired", || !has(&mirror, &base));
    let expected = source.cloned("expected-late", &[], &[fetch, at]);
    let file = source.lab.scratch("late.tar.zst");
    lab::download(server.address(), &wanted(&query), &file);
    expect_same(&expected, &file, &source.lab.scratch("unpacked"), "late");
    remove(&expected);
    let failed = [("result", "failed")];
    let steps = server.metrics().count("tarpon_maintenance_total", &failed);
    assert_eq!(steps, 0);
    server.stop();
}
