//! Snapshots of one commit without its history: what their entries hold, when they are built anew, and what is
//! sent where the disk takes nothing.

use super::children::settings_with_git;
use super::faults::may_mount;
use super::support::client::{Conn, Response};
use super::support::lab::{self, Lab};
use super::support::repos::{self, FILE, Importer, Layout};
use super::support::rng::Rng;
use super::support::server::Server;
use super::support::upstream::{Answers, Upstream};
use super::support::{compare, git, steps, wait};
use super::{at_once, ensure, finish, hit, new_lab, push_and_fetch, remove, small_lab};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Longer than any test.
const FAR_OFF: Duration = Duration::from_secs(60);
/// Nothing but what is asked for.
const FAR: [&str; 4] = ["--fetch-interval", "720h", "--scrub-interval", "0"];
const NAME: &str = "small";

fn target(query: &str) -> String {
    format!("{}?{query}", lab::target(NAME))
}

fn kept(server: &Server, query: &str) -> Response {
    steps::kept(server, &target(query))
}

/// Panics unless it unpacks to what git clones without history.
fn expect_shallow(lab: &Lab, name: &str, snapshot: &[u8]) {
    let clone = lab.scratch("expected-clone");
    let unpacked = lab.unpack(snapshot, "unpacked");
    let (url, path) = (lab.url(name), clone.to_string_lossy().into_owned());
    git::run(
        &lab.scratch(""),
        &["clone", "-q", "--depth", "1", &url, &path],
    );
    let differences = compare::differences(&clone, &unpacked, &[".git"]);
    assert!(differences.is_empty(), "{differences:?}");
    for question in [
        &["for-each-ref"][..],
        &["rev-parse", "HEAD", "--is-shallow-repository"],
        &["rev-list", "--objects", "HEAD"],
        &["status", "--porcelain"],
    ] {
        let answers = [&clone, &unpacked].map(|dir| git::text(dir, question));
        assert_eq!(answers[0], answers[1], "{question:?}");
    }
    git::run(&unpacked, &["fsck", "--full", "--strict", "--no-dangling"]);
    remove(&clone);
    remove(&unpacked);
}

fn add(lab: &Lab, branch: &str, name: &str) -> String {
    repos::add_commit(&lab.upstream(NAME), branch, name, name.as_bytes())
}

/// All files below a directory that are packs or belong to them.
fn packs(dir: &Path) -> Vec<String> {
    let files = fs::read_dir(dir.join("objects/pack")).unwrap();
    let mut names =
        Vec::from_iter(files.map(|file| file.unwrap().file_name().into_string().unwrap()));
    names.sort();
    names
}

/// What an archive has, in its order.
fn listing(archive: &Path) -> Vec<String> {
    let script = "set -o pipefail; zstd -dc \"$0\" | tar -t";
    let mut command = Command::new("bash");
    let listed = command.args(["-c", script]).arg(archive).output().unwrap();
    assert!(listed.status.success(), "{listed:?}");
    let text = String::from_utf8(listed.stdout).unwrap();
    text.lines().map(str::to_owned).collect()
}

/// The entry has the worktree's frames and the one pack, and no other file of the mirror; it is served as it is
/// by the next server, too.
#[test]
fn a_tip_has_a_pack_of_its_own() {
    let lab = small_lab();
    for number in 0..3 {
        add(&lab, "main", &format!("{number}.txt"));
    }
    let server = lab.settings().with(&FAR).start();
    let answer = kept(&server, "depth=1");
    let tag = answer.head.etag().to_owned();
    expect_shallow(&lab, NAME, &answer.body);
    let entries = lab.entries();
    assert_eq!(entries.len(), 1);
    let entry = lab.state().join("snapshots").join(&entries[0]);
    let own = packs(&entry);
    assert_eq!(own.len(), 3, "{own:?}");
    wait::until_true("the clone follows", || lab.mirror(NAME).is_dir());
    assert!(
        packs(&lab.mirror(NAME))
            .iter()
            .all(|name| !own.contains(name))
    );
    let names = fs::read_dir(&entry).unwrap();
    let mut names = Vec::from_iter(names.map(|name| name.unwrap().file_name()));
    names.sort();
    assert_eq!(names, ["frames", "manifest", "meta", "objects", "outline"]);
    // Git's own small files first, then what is checked out, then the pack.
    let file = lab.scratch("listed.tar.zst");
    fs::write(&file, &answer.body).unwrap();
    let order = listing(&file);
    let at = |what: &dyn Fn(&str) -> bool| {
        let found = order.iter().position(|name| what(name));
        found.unwrap_or_else(|| panic!("{order:?}"))
    };
    let worktree = at(&|name| !name.starts_with(".git"));
    assert!(at(&|name| name == ".git/shallow") < worktree);
    assert!(at(&|name| name == ".git/refs/heads/main") < worktree);
    assert!(worktree < at(&|name| name.ends_with(".pack")));
    // A full one is built on it, and it on a full one.
    let encoded = || server.metrics().count("tarpon_jobs_encoded_total", &[]);
    let before = encoded();
    hit(&server, NAME);
    kept(&server, "ref=main&depth=1");
    assert_eq!(encoded(), before, "what is the same is encoded again");
    server.stop();
    let server = lab.settings().with(&FAR).start();
    let again = server.get(&target("depth=1")).expect(200);
    assert_eq!(again.head.etag(), tag);
    assert!(again.body == answer.body);
    let part = server.fetch(
        "GET",
        &target("depth=1"),
        &[&format!("If-Range: {tag}"), "Range: bytes=100-"],
    );
    assert_eq!(part.head.status, 206);
    assert!(part.body == answer.body[100..]);
    let same = server.fetch(
        "GET",
        &target("depth=1"),
        &[&format!("If-None-Match: {tag}")],
    );
    assert_eq!(same.head.status, 304);
    let head = server.fetch("HEAD", &target("depth=1"), &[]).expect(200);
    assert_eq!(head.head.content_length(), Some(answer.body.len() as u64));
    server.get(&target("depth=2")).expect(400);
    server.stop();
    lab.expect_no_orphans();
}

/// It depends on its own ref and on the tags that it shows, and on nothing else.
#[test]
fn a_tip_is_built_anew_when_it_shows_something_else() {
    let lab = small_lab();
    let up = lab.upstream(NAME);
    add(&lab, "main", "one.txt");
    git::run(&up, &["branch", "side"]);
    let server = lab.settings().with(&FAR).start();
    let first = kept(&server, "ref=side&depth=1");
    wait::until_true("it is counted", || server.builds("complete") == 1);
    push_and_fetch(&lab, &server, NAME, "main.txt", b"main");
    git::run(&up, &["tag", "elsewhere", "main"]);
    ensure(&server, NAME, r#"{"refs":{"refs/tags/elsewhere":""}}"#);
    let same = server.get(&target("ref=side&depth=1")).expect(200);
    assert_eq!(same.head.etag(), first.head.etag(), "another ref moved");
    assert_eq!(server.builds("complete"), 1);
    git::run(&up, &["tag", "-a", "-m", "x", "here", "side"]);
    ensure(&server, NAME, r#"{"refs":{"refs/tags/here":""}}"#);
    let shown = |tag: &str| {
        let body = server.get(&target("ref=side&depth=1")).expect(200).body;
        let unpacked = lab.unpack(&body, "shown");
        let tags = git::text(&unpacked, &["tag"]);
        remove(&unpacked);
        tags == tag
    };
    wait::until_true("the tag is shown", || shown("here"));
    let new = add(&lab, "side", "side.txt");
    ensure(
        &server,
        NAME,
        &format!(r#"{{"refs":{{"refs/heads/side":"{new}"}}}}"#),
    );
    wait::until_true("the commit is shown", || {
        let answer = server.get(&target("ref=side&depth=1")).expect(200);
        answer.head.get("x-cachew-snapshot-commit") == Some(&*new)
    });
    server.stop();
    lab.expect_no_orphans();
}

/// Git packs the same objects in another way each time: no part of one build is sent for one of another.
#[test]
fn a_tip_that_is_built_again_has_another_tag() {
    let lab = small_lab();
    add(&lab, "main", "one.txt");
    let server = lab.settings().with(&FAR).start();
    let first = kept(&server, "depth=1");
    let plain = hit(&server, NAME);
    server.stop();
    lab.forget_snapshots();
    let server = lab.settings().with(&FAR).start();
    let again = kept(&server, "depth=1");
    assert_ne!(again.head.etag(), first.head.etag());
    assert_eq!(hit(&server, NAME).head.etag(), plain.head.etag());
    let tag = format!("If-Range: {}", first.head.etag());
    let whole = server.fetch("GET", &target("depth=1"), &[&tag, "Range: bytes=100-"]);
    assert_eq!(whole.head.status, 200);
    assert!(whole.body == again.body);
    server.stop();
}

/// All who ask meanwhile share one build.
#[test]
fn a_tip_is_built_once_for_all() {
    let lab = small_lab();
    add(&lab, "main", "one.txt");
    let server = lab.settings().with(&FAR).start();
    let bodies = at_once(20, |_| server.get(&target("depth=1")).expect(200).body);
    assert!(bodies.iter().all(|body| *body == bodies[0]));
    wait::until_true("it is kept", || server.builds("complete") == 1);
    expect_shallow(&lab, NAME, &bodies[0]);
    // What the one commit was fetched into goes once the clone is there.
    lab.expect_no_orphans();
    server.stop();
    lab.expect_no_orphans();
}

#[test]
fn tips_are_served_live_only() {
    let lab = small_lab();
    add(&lab, "main", "one.txt");
    let fault = "spool-enospc-after-bytes=1";
    let server = lab.settings().with(&FAR).with_fault(fault).start();
    ensure(&server, NAME, r#"{"refs":{"refs/heads/absent":""}}"#);
    let bodies = at_once(3, |_| {
        let mut conn = Conn::open(server.address());
        conn.request("GET", &target("depth=1"), &[]);
        let head = conn.read_head("GET").unwrap();
        assert_eq!(head.status, 200, "{head:?}");
        finish(&mut conn, Vec::new())
    });
    expect_shallow(&lab, NAME, &bodies[0]);
    assert!(lab.entries().is_empty());
    server.stop();
    lab.expect_no_orphans();
}

/// Where no entry can be made there is no place for a pack either: the mirror's are sent.
#[test]
fn tips_are_served_where_no_entry_can_be_made() {
    let lab = small_lab();
    add(&lab, "main", "one.txt");
    let server = lab.settings().with(&FAR).start();
    let snapshots = lab.state().join("snapshots");
    fs::rename(&snapshots, lab.scratch("away")).unwrap();
    fs::write(&snapshots, "").unwrap();
    let body = server.get(&target("depth=1")).expect(200).body;
    expect_shallow(&lab, NAME, &body);
    wait::until_true("the build is counted", || server.builds("live_only") == 1);
    assert_eq!(server.builds("failed"), 0);
    server.stop();
}

/// The disk has room for the mirror, and not for a pack beside it.
#[test]
fn tips_are_served_from_a_full_disk() {
    let lab = new_lab();
    if !may_mount(&lab) {
        eprintln!("skipped: no mount namespace for this user");
        return;
    }
    let path = lab.upstream("large");
    repos::init_bare(&path, "main", "sha1");
    let mut import = Importer::start(&path, Layout::Packed);
    for number in 0..2 {
        import.commit("refs/heads/main", "large");
        let name = format!("{number}.bin");
        import.file(FILE, name.as_bytes(), &Rng::new(number).bytes(6 << 20));
    }
    import.finish();
    let script = "mount -t tmpfs -o size=20m tarpon \"$0\" && exec \"$@\"";
    let mut settings = lab
        .settings()
        .with(&["--cache-free-floor", "1M", "--cache-limit", "1G"])
        .with(&["--clone-size-limit", "19M"]);
    let state = settings.state.to_string_lossy().into_owned();
    let launcher = ["unshare", "-rm", "sh", "-c", script, &state];
    settings.launcher = launcher.map(str::to_owned).to_vec();
    let server = settings.start();
    let at = format!("{}?depth=1", lab::target("large"));
    let body = server.get(&at).expect(200).body;
    expect_shallow(&lab, "large", &body);
    wait::until_true("the build is counted", || server.builds("live_only") == 1);
    assert_eq!(server.builds("failed"), 0);
}

/// A server whose upstream answers over HTTP, as it is told.
fn start_cold(lab: &Lab, answers: Answers) -> (Upstream, Server) {
    let upstream = Upstream::new(lab.upstreams());
    upstream.answer(answers);
    let often = ["--ref-check-interval", "1s"];
    let mut settings = lab.settings().with(&often).with_fault("cold-retry-ms=100");
    settings.upstreams = vec![upstream.named("test")];
    (upstream, settings.start())
}

/// Panics unless it unpacks to the whole of the upstream, which it names by another URL.
fn expect_full(lab: &Lab, snapshot: &[u8]) {
    let unpacked = lab.unpack(snapshot, "full");
    let all = ["rev-list", "--objects", "main"];
    let upstream = lab.upstream(NAME);
    assert_eq!(git::text(&unpacked, &all), git::text(&upstream, &all));
    assert_eq!(git::text(&unpacked, &["status", "--porcelain"]), "");
    remove(&unpacked);
}

/// What is left of repositories that have single commits.
fn cold_left(lab: &Lab) -> Vec<String> {
    let names = fs::read_dir(lab.state().join("tmp")).unwrap();
    let mut names = names.map(|name| name.unwrap().file_name().into_string().unwrap());
    names
        .by_ref()
        .filter(|name| name.starts_with("tips-"))
        .collect()
}

/// The commit does not wait for its history, and who wants that gets it, too.
#[test]
fn a_tip_comes_before_the_clone() {
    let lab = small_lab();
    for name in ["one.txt", "two.txt"] {
        add(&lab, "main", name);
    }
    git::run(&lab.upstream(NAME), &["tag", "-a", "-m", "x", "v1", "main"]);
    // One that is not followed.
    let pull = ["update-ref", "refs/pull/7/head", "main~1"];
    git::run(&lab.upstream(NAME), &pull);
    let held = Duration::from_secs(4);
    let (upstream, server) = start_cold(&lab, Answers::SlowClones(held));
    std::thread::scope(|scope| {
        let full = scope.spawn(|| server.get(&lab::target(NAME)).expect(200).body);
        let tips = at_once(10, |_| server.get(&target("depth=1")).expect(200));
        assert!(!lab.mirror(NAME).exists(), "it waited for the clone");
        for tip in &tips {
            assert!(tip.body == tips[0].body);
            assert_eq!(tip.head.etag(), tips[0].head.etag());
        }
        expect_shallow(&lab, NAME, &tips[0].body);
        let by_tag = server.get(&target("depth=1&ref=v1")).expect(200);
        let id = git::text(&lab.upstream(NAME), &["rev-parse", "main~1"]);
        let by_id = server
            .get(&target(&format!("depth=1&commit={id}")))
            .expect(200);
        assert_eq!(by_id.head.get("x-cachew-snapshot-commit"), Some(&*id));
        assert_ne!(by_tag.head.etag(), tips[0].head.etag());
        let by_ref = server.get(&target("depth=1&ref=refs/pull/7/head"));
        assert_eq!(by_ref.expect(200).head.etag(), by_id.head.etag());
        server.get(&target("depth=1&ref=absent")).expect(404);
        assert!(!lab.mirror(NAME).exists(), "it waited for the clone");
        let body = super::preambles::behind(full.join().unwrap());
        expect_full(&lab, &body);
        // It is as the mirror has it, and the other repository is gone.
        let again = server.get(&target("depth=1")).expect(200);
        assert_eq!(again.head.etag(), tips[0].head.etag());
        assert!(again.body == tips[0].body);
    });
    wait::until_true("what was fetched for it is gone", || {
        cold_left(&lab).is_empty()
    });
    let shallow = upstream.shallow_fetches();
    assert!(shallow <= 4, "{shallow} for four names");
    server.stop();
    lab.expect_no_orphans();
}

/// Without anybody else who asks the clone runs behind it, is tried again when it fails, and meanwhile the commit
/// is that of now. Nothing else is served from it.
#[test]
fn a_tip_without_a_clone_is_kept_fresh() {
    let lab = small_lab();
    add(&lab, "main", "one.txt");
    let (upstream, server) = start_cold(&lab, Answers::NoClones);
    let first = server.get(&target("depth=1")).expect(200);
    let failed = [("result", "failed")];
    let failures = || server.metrics().count("tarpon_clones_total", &failed);
    wait::until_true("the clone is tried again", || failures() >= 1);
    assert!(server.get(&lab::target(NAME)).head.status >= 500);
    let refs = server.get(&lab::endpoint(NAME, "info/refs?service=git-upload-pack"));
    assert!(refs.head.status >= 500, "{:?}", refs.head);
    let new = add(&lab, "main", "two.txt");
    let now = server.fetch("GET", &target("depth=1"), &["Cache-Control: max-age=0"]);
    let commit = now.expect(200);
    let commit = commit.head.get("x-cachew-snapshot-commit");
    assert_eq!(commit, Some(&*new), "it is older than the request");
    let new = add(&lab, "main", "three.txt");
    let body = wait::until("it is that of now", || {
        let answer = server.get(&target("depth=1")).expect(200);
        let commit = answer
            .head
            .get("x-cachew-snapshot-commit")
            .map(str::to_owned);
        (commit.as_deref() == Some(&*new)).then_some(answer.body)
    });
    expect_shallow(&lab, NAME, &body);
    assert_ne!(first.body, body);
    assert!(!lab.mirror(NAME).exists());
    upstream.answer(Answers::Well);
    wait::until_true("it is cloned", || lab.mirror(NAME).exists());
    wait::until_true("what was fetched for it is gone", || {
        cold_left(&lab).is_empty()
    });
    expect_full(&lab, &hit(&server, NAME).body);
    server.stop();
    lab.expect_no_orphans();
}

/// A server that is started again knows what it had, and clones then.
#[test]
fn a_tip_without_a_clone_outlives_the_server() {
    let lab = small_lab();
    add(&lab, "main", "one.txt");
    let (_upstream, server) = start_cold(&lab, Answers::NoClones);
    let first = kept(&server, "depth=1");
    server.stop();
    assert!(!lab.mirror(NAME).exists());
    let (_upstream, server) = start_cold(&lab, Answers::Well);
    assert!(cold_left(&lab).is_empty());
    let again = server.get(&target("depth=1")).expect(200);
    assert_eq!(again.head.etag(), first.head.etag());
    wait::until_true("it is cloned", || lab.mirror(NAME).exists());
    server.stop();
    lab.expect_no_orphans();
}

/// Stands in for `git`: says when it begins to pack and when it has ended, and takes its time.
fn slow_packer(log: &Path) -> String {
    let log = log.display();
    format!(
        "#!/bin/sh
PATH=${{PATH#*:}}
case \" $* \" in *' pack-objects '*) ;; *) exec git \"$@\" ;; esac
echo begins >> {log}
sleep 0.3
git \"$@\"
ended=$?
echo ends >> {log}
exit $ended
"
    )
}

/// How many ran at a time, at most, and in all.
pub(super) fn most_at_a_time(log: &Path) -> (usize, usize) {
    let text = fs::read_to_string(log).unwrap_or_default();
    let (mut now, mut most, mut all) = (0, 0, 0);
    for line in text.lines() {
        match line {
            "begins" => (now, all) = (now + 1, all + 1),
            _ => now -= 1,
        }
        most = most.max(now);
    }
    (most, all)
}

/// However many single commits are asked for at once, a few are packed at a time. git packs those of a mirror whose
/// packs have no sums.
#[test]
fn few_commits_are_packed_at_a_time() {
    /// See the limit of this name.
    const TIPS_PACKING_MAX: usize = 4;
    let lab = small_lab();
    let ids = Vec::from_iter((0..10).map(|number| add(&lab, "main", &format!("{number}.txt"))));
    lab.place_mirror(NAME);
    let again = ["-c", "pack.indexVersion=1", "repack", "-adfq"];
    git::run(&lab.mirror(NAME), &again);
    let log = lab.scratch("packing");
    let server = settings_with_git(&lab, &slow_packer(&log))
        .with(&FAR)
        .start();
    let targets = ids.iter().map(|id| target(&format!("depth=1&commit={id}")));
    let targets = Vec::from_iter(targets);
    at_once(targets.len(), |number| {
        server.get(&targets[number]).expect(200)
    });
    let (most, all) = most_at_a_time(&log);
    assert_eq!(all, targets.len());
    assert!((2..=TIPS_PACKING_MAX).contains(&most), "{most} at a time");
    server.stop();
    lab.expect_no_orphans();
}

/// A server that is killed while a commit is fetched, built or packed leaves nothing behind, and the next one serves
/// it: of a mirror, and before a clone.
#[test]
fn a_tip_outlives_a_server_that_was_killed() {
    let lab = small_lab();
    add(&lab, "main", "one.txt");
    let mut rng = Rng::new(23);
    for round in 0..8 {
        if round == 4 {
            lab.place_mirror(NAME);
        }
        let (_upstream, mut server) = start_cold(&lab, Answers::SlowClones(FAR_OFF));
        let mut conn = Conn::open(server.address());
        conn.request("GET", &target("depth=1"), &[]);
        std::thread::sleep(Duration::from_millis(rng.below(150)));
        server.kill();
        drop(server);
        let (_upstream, server) = start_cold(&lab, Answers::SlowClones(FAR_OFF));
        assert!(cold_left(&lab).is_empty());
        expect_shallow(&lab, NAME, &kept(&server, "depth=1").body);
        server.stop();
        lab.expect_no_orphans();
        lab.forget_snapshots();
    }
}
