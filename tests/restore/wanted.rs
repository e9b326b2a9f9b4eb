//! What is asked for by name, against what `git clone --branch` gives, and refs that move while they
//! are read.

use crate::bundle::{large, run, small_lab, start};
use crate::lab::{BINARY, expect, nobody, relay, restore};
use crate::support::lab::Lab;
use crate::support::steps::{ensure, hit};
use crate::support::{git, parity, repos};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// A clone of what `git clone --branch` takes for `name`.
fn clone_of(lab: &Lab, name: &str) -> PathBuf {
    let into = lab.scratch(&format!("{}-clone", name.replace('/', "-")));
    let (url, path) = (lab.url("small"), into.to_string_lossy().into_owned());
    let args = ["clone", "--quiet", "--branch", name, &url, &path];
    git::run(&lab.scratch(""), &args);
    into
}

fn branches(repository: &Path) -> String {
    git::text(repository, &["for-each-ref", "refs/heads"])
}

/// An upstream with branches and tags besides `main`, the newest of them after `older`.
fn prepare(lab: &Lab, older: impl FnOnce()) {
    let upstream = lab.upstream("small");
    git::run(&upstream, &["branch", "team/topic", "main"]);
    repos::add_commit(&upstream, "team/topic", "topic.txt", b"topic");
    git::run(&upstream, &["tag", "-a", "-m", "one", "v1", "team/topic"]);
    // A branch and a tag of one name: the branch is meant.
    git::run(&upstream, &["branch", "both", "main"]);
    git::run(&upstream, &["tag", "both", "team/topic"]);
    older();
    repos::add_commit(&upstream, "team/topic", "later.txt", b"later");
    git::run(&upstream, &["tag", "v2", "team/topic"]);
}

#[test]
fn a_ref_is_checked_out_as_a_clone_of_it() {
    let lab = small_lab();
    let server = lab.start();
    prepare(&lab, || drop(hit(&server, "small")));
    ensure(&server, "small", r#"{"refs":{"refs/tags/v2":""}}"#);
    for name in ["team/topic", "v1", "v2", "both", "main"] {
        let expected = clone_of(&lab, name);
        let id = git::text(&expected, &["rev-parse", "HEAD"]);
        for (way, wanted) in [("name", name.to_owned()), ("id", format!("{name}={id}"))] {
            let into = format!("{}-{way}", name.replace('/', "-"));
            let (restored, summary, _) = run(&lab, server.address(), &into, &["--ref", &wanted]);
            assert_eq!(summary["commit"], *id, "{wanted}");
            parity::expect_same_clones(&expected, &restored, &wanted);
            assert_eq!(branches(&restored), branches(&expected), "{wanted}");
        }
    }
}

#[test]
fn the_fallback_checks_out_a_ref_as_a_clone_of_it() {
    let lab = small_lab();
    prepare(&lab, || {});
    for name in ["team/topic", "v1", "main"] {
        let expected = clone_of(&lab, name);
        let target = lab.scratch(&name.replace('/', "-"));
        let more = ["--ref", name, "--fallback", "clone"];
        expect(&restore(nobody(), &lab.url("small"), &target, &more), 0);
        parity::expect_same_clones(&expected, &target, name);
        assert_eq!(branches(&target), branches(&expected), "{name}");
    }
}

/// What a list of refs names is gone before it is fetched: a later moment is taken, whole.
#[test]
fn refs_that_move_while_they_are_fetched_are_those_of_a_later_moment() {
    let lab = small_lab();
    let server = start(&lab);
    hit(&server, "small");
    let upstream = lab.upstream("small");
    let old = git::text(&upstream, &["rev-parse", "main"]);
    let lost = repos::add_commit(&upstream, "main", "lost.bin", &large());
    let json = format!(r#"{{"refs":{{"refs/heads/main":"{lost}"}}}}"#);
    ensure(&server, "small", &json);
    let moved = AtomicBool::new(false);
    let (mirror, address) = (lab.mirror("small"), server.address());
    let (upstream_moved, old_main) = (upstream.clone(), old.clone());
    let between = relay(
        address,
        move |target| {
            // Git asks for this when it begins to fetch: the list was read before.
            if target.contains("info/refs") && !moved.swap(true, Ordering::SeqCst) {
                let upstream = &upstream_moved;
                git::run(upstream, &["update-ref", "refs/heads/main", &old_main]);
                repos::add_commit(upstream, "main", "kept.txt", b"kept");
                git::run(upstream, &["branch", "late", "main"]);
                git::run(
                    &mirror,
                    &["fetch", "--quiet", "--prune", "origin", "+refs/*:refs/*"],
                );
                git::repack_and_prune(&mirror);
            }
            false
        },
        |_| {},
    );
    let (restored, summary, _) = run(&lab, between, "moved", &["--ref", "main", "--no-bundle"]);
    let kept = git::text(&upstream, &["rev-parse", "main"]);
    assert_ne!(kept, lost);
    assert_eq!(summary["commit"], *kept);
    let expected = clone_of(&lab, "main");
    parity::expect_same_clones(&expected, &restored, "moved");
}

/// A server's word of what a ref leads to is not taken for it: the objects say that.
#[test]
fn a_ref_at_a_certain_commit_is_at_that_commit() {
    let lab = Lab::new(BINARY);
    let upstream = lab.upstream("app");
    repos::init_bare(&upstream, "main", "sha1");
    let mut import = repos::Importer::start(&upstream, repos::Layout::Packed);
    import.commit("refs/heads/main", "first");
    import.file(repos::FILE, b"a.txt", b"text\n");
    import.finish();
    let wanted = git::text(&upstream, &["rev-parse", "main"]);
    let other = repos::add_commit(&upstream, "main", "b.txt", b"other\n");
    let tagger = ["-c", "user.name=a", "-c", "user.email=a@b"];
    for (name, commit) in [("good", &wanted), ("v1", &other)] {
        let tag = ["tag", "-a", "-m", "x", name, commit];
        git::run(&upstream, &[&tagger[..], &tag].concat());
    }
    let [good, bad] = ["good", "v1"].map(|name| git::text(&upstream, &["rev-parse", name]));
    let server = lab.start();
    let whole = crate::lab::archive(&lab, &server);
    let lies = [
        format!("{other} HEAD symref-target:refs/heads/main"),
        format!("{other} refs/heads/main peeled:{wanted}"),
        format!("{good} refs/tags/good peeled:{other}"),
        format!("{bad} refs/tags/v1 peeled:{wanted}"),
    ];
    let hostile = crate::limits::moves_refs(whole, &lies);
    let target = lab.scratch("pinned");
    for pinned in ["main", "v1"] {
        let pinned = format!("{pinned}={wanted}");
        let errors = expect(
            &restore(hostile, "test/app", &target, &["--ref", &pinned]),
            7,
        );
        assert!(errors.contains(&format!("not {wanted}")), "{errors}");
        crate::lab::expect_nothing(&target);
    }
    let pinned = format!("good={wanted}");
    expect(
        &restore(hostile, "test/app", &target, &["--ref", &pinned]),
        0,
    );
    assert_eq!(git::text(&target, &["rev-parse", "HEAD"]), wanted);
    assert_eq!(git::text(&target, &["rev-parse", "v1^{}"]), other);
    let listed = git::text(
        &target,
        &["for-each-ref", "--format=%(*objectname)", "refs/tags"],
    );
    assert_eq!(listed, format!("{wanted}\n{other}"));
}
