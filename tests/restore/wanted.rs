//! What is asked for by name, against what `git clone --branch` gives, and refs that move while they
//! are read.

use crate::bundle::{large, run, small_lab, start};
use crate::lab::{BINARY, expect, expect_nothing, nobody, relay, restore, serve_before};
use crate::remade;
use crate::support::lab::Lab;
use crate::support::steps::{ensure, hit};
use crate::support::{git, parity, repos, wait};
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
                let fetch = ["fetch", "--quiet", "--prune", "origin", "+refs/*:refs/*"];
                // The server may be about to do the same.
                wait::until_true("the mirror has moved", || {
                    git::output(&mirror, &fetch).status.success()
                });
                git::repack_and_prune(&mirror);
                // Else it is asked for by its id.
                git::repack_and_prune(upstream);
            }
            false
        },
        |_| {},
    );
    let (restored, summary, _) = run(&lab, between, "moved", &["--have", "main", "--no-bundle"]);
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
            &restore(hostile, "test/app", &target, &["--have", &pinned]),
            7,
        );
        assert!(errors.contains(&format!("not {wanted}")), "{errors}");
        crate::lab::expect_nothing(&target);
    }
    // What is checked out is the commit, whatever is said of the ref.
    let pinned = format!("main={wanted}");
    let at_main = lab.scratch("at-main");
    let more = ["--ref", &pinned];
    expect(&restore(hostile, "test/app", &at_main, &more), 0);
    assert_eq!(git::text(&at_main, &["rev-parse", "main"]), wanted);
    let pinned = format!("good={wanted}");
    let more = ["--ref", &pinned, "--have", &pinned];
    expect(&restore(hostile, "test/app", &target, &more), 0);
    assert_eq!(git::text(&target, &["rev-parse", "HEAD"]), wanted);
    assert_eq!(git::text(&target, &["rev-parse", "v1^{}"]), other);
    let listed = git::text(
        &target,
        &["for-each-ref", "--format=%(*objectname)", "refs/tags"],
    );
    assert_eq!(listed, format!("{wanted}\n{other}"));
}

/// A server may say of a tag what it likes: whoever names an id gets that or nothing.
#[test]
fn a_pinned_tag_is_compared_with_its_object_not_with_the_servers_word() {
    let lab = small_lab();
    let server = start(&lab);
    prepare(&lab, || drop(hit(&server, "small")));
    let upstream = lab.upstream("small");
    let (pin, real) = ("main", "v1^{commit}");
    let (pin, real) = (id(&upstream, pin), id(&upstream, real));
    let (from, to) = (format!("peeled:{real}"), format!("peeled:{pin}"));
    let liar = relay(
        server.address(),
        |target| target.ends_with("/git-upload-pack"),
        move |body| {
            let at = body.windows(from.len()).position(|w| w == from.as_bytes());
            if let Some(at) = at {
                body[at..at + to.len()].copy_from_slice(to.as_bytes());
            }
        },
    );
    let target = lab.scratch("pinned");
    let wanted = format!("refs/tags/v1={pin}");
    let more = ["--have", &wanted, "--no-bundle"];
    expect(&restore(liar, "test/small", &target, &more), 7);
    expect_nothing(&target);
    let named = lab.scratch("named");
    let more = ["--ref", &wanted, "--no-bundle"];
    expect(&restore(liar, "test/small", &named, &more), 0);
    assert_eq!(id(&named, "HEAD"), pin);
    // Nor does git learn it.
    let more = ["--ref", "v1", "--no-bundle"];
    expect(&restore(liar, "test/small", &target, &more), 0);
    assert_eq!(id(&target, "HEAD"), real);
    let tag = git::text(
        &target,
        &["for-each-ref", "--format=%(*objectname)", "refs/tags/v1"],
    );
    assert_eq!(tag, real);
}

fn id(repository: &Path, what: &str) -> String {
    git::text(repository, &["rev-parse", what])
}

/// An archive may have any object under the name of another one.
#[test]
fn a_commit_whose_trees_an_archive_misnames_is_refused() {
    let lab = small_lab();
    let server = start(&lab);
    let archive = hit(&server, "small").body;
    let mut items = remade::open(&archive);
    let upstream = lab.upstream("small");
    let new = repos::add_commit(&upstream, "main", "d/f", b"right");
    git::run(&upstream, &["branch", "evil", "main"]);
    let evil = repos::add_commit(&upstream, "evil", "d/f", b"wrong");
    let loose = lab.scratch("loose");
    git::run(
        &lab.scratch(""),
        &["init", "--quiet", &loose.to_string_lossy()],
    );
    // All that the new commit has, but for one tree: that is another one's.
    let mut add = |what: &str, named: &str| {
        let (what, named) = (id(&upstream, what), id(&upstream, named));
        let path = upstream.to_string_lossy();
        let script = format!(
            "kind=$(git -C {path} cat-file -t {what}) && git -C {path} cat-file $kind {what} | \
             git hash-object -t $kind -w --stdin --literally"
        );
        let mut command = std::process::Command::new("sh");
        git::isolate(&mut command);
        let made = command.args(["-c", &script]).current_dir(&loose).status();
        assert!(made.unwrap().success(), "{script}");
        let object = loose.join(".git/objects").join(&what[..2]).join(&what[2..]);
        let data = std::fs::read(object).unwrap();
        let path = format!(".git/objects/{}/{}", &named[..2], &named[2..]);
        remade::put(&mut items, &path, &data);
    };
    for what in ["", "^{tree}", ":d/f"] {
        let what = format!("{new}{what}");
        add(&what, &what);
    }
    add(&format!("{evil}:d/f"), &format!("{evil}:d/f"));
    add(&format!("{evil}:d"), &format!("{new}:d"));
    // Nothing is left to be fetched.
    git::run(&upstream, &["branch", "-D", "evil"]);
    let between = serve_before(server.address(), remade::pack(&items));
    let target = lab.scratch("misnamed");
    let more = ["--commit", &new, "--no-bundle"];
    expect(&restore(between, "test/small", &target, &more), 5);
    expect_nothing(&target);
}
