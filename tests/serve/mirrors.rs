//! Mirrors that come, go and change under the server's snapshots, by other hands than its own.

use super::children::settings_with_loose;
use super::support::client::{Conn, Response};
use super::support::lab::{self, Lab};
use super::support::metrics::Metrics;
use super::support::repos;
use super::support::server::Server;
use super::support::steps::push_and_fetch;
use super::support::tokens::{self, Token};
use super::support::{git, wait};
use super::{ensure, expect_clone, hit, new_lab, remove, small_lab};
use std::fs::File;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// The time of the next look at the upstream does not come.
const NEVER: [&str; 2] = ["--fetch-interval", "720h"];

/// A lab whose server has built a snapshot and was stopped; with that snapshot.
fn lab_with_snapshot() -> (Lab, Response) {
    let lab = small_lab();
    let server = lab.settings().with(&NEVER).start();
    let old = hit(&server, "small");
    server.stop();
    (lab, old)
}

/// Asks until the snapshot is another than `old`, of this commit, and gives it. Until then every
/// answer is the old one, whole.
fn expect_new(server: &Server, old: &Response, commit: &str) -> Response {
    let target = lab::target("small");
    wait::until("the new snapshot is served", || {
        let answer = server.get(&target).expect(200);
        if answer.head.etag() == old.head.etag() {
            assert!(answer.body == old.body, "the old tag with other bytes");
            return None;
        }
        let shown = answer.head.get("x-cachew-snapshot-commit");
        assert_eq!(shown, Some(commit), "{:?}", answer.head);
        Some(answer)
    })
}

fn head_of(lab: &Lab) -> String {
    git::text(&lab.upstream("small"), &["rev-parse", "HEAD"])
}

fn clones(server: &Server) -> u64 {
    server.metrics().count("tarpon_clones_total", &[])
}

/// The mirror was replaced by one with a newer commit while the server was down: it has its
/// snapshot without a look at the upstream.
#[test]
fn a_mirror_that_was_replaced_has_its_snapshot() {
    let (lab, old) = lab_with_snapshot();
    remove(&lab.mirror("small"));
    let commit = repos::add_commit(&lab.upstream("small"), "main", "new.txt", b"new\n");
    lab.place_mirror("small");
    let server = lab.settings().with(&NEVER).start();
    let new = expect_new(&server, &old, &commit);
    expect_clone(&lab, "small", &new.body);
    assert_eq!((clones(&server), server.fetches()), (0, 0));
    // The next start finds nothing to do.
    server.stop();
    let server = lab.settings().with(&NEVER).start();
    let again = hit(&server, "small");
    assert_eq!(again.head.etag(), new.head.etag());
    assert_eq!(server.builds("complete"), 0);
}

/// How old a mirror is is known from the start on, before anybody looks at its upstream.
#[test]
fn the_age_of_a_mirror_outlives_the_server() {
    let lab = small_lab();
    let token = Token::new(env!("CARGO_BIN_EXE_tarpon"), "scraper", &["--metrics"]);
    let file = lab.scratch("tokens");
    tokens::write(&file, &[&token]);
    let file = file.to_string_lossy();
    let settings = lab.settings().with(&NEVER).with(&["--tokens", &file]);
    let age = |server: &Server| {
        let labels = [("repository", "test/small")];
        let scraped = server
            .fetch("GET", "/metrics", &[&token.bearer()])
            .expect(200);
        Metrics::new(scraped.text()).sum("tarpon_mirror_age_seconds", &labels)
    };
    let server = settings.start();
    push_and_fetch(&lab, &server, "small", "new.txt", b"new");
    assert!(age(&server).is_some_and(|age_s| age_s < 60.0));
    server.stop();
    let note = lab.mirror("small").join("FETCH_HEAD");
    let note = File::options().append(true).open(note);
    let before = SystemTime::now() - Duration::from_secs(5000);
    note.unwrap().set_modified(before).unwrap();
    let server = settings.start();
    let age_s = wait::until("the mirror is taken over", || age(&server));
    assert!((5000.0..5600.0).contains(&age_s), "{age_s} s");
    assert_eq!(server.fetches(), 0);
}

/// The same where HEAD stayed what it was: a branch and a tag moved, another branch went.
#[test]
fn refs_besides_head_count_as_well() {
    let lab = small_lab();
    let upstream = lab.upstream("small");
    for name in ["moves", "goes"] {
        git::run(&upstream, &["branch", name, "main"]);
    }
    git::run(&upstream, &["tag", "moves", "main"]);
    let server = lab.settings().with(&NEVER).start();
    let old = hit(&server, "small");
    server.stop();
    remove(&lab.mirror("small"));
    let moved = repos::add_commit(&upstream, "moves", "new.txt", b"new\n");
    git::run(&upstream, &["tag", "-f", "moves", &moved]);
    git::run(&upstream, &["branch", "-D", "goes"]);
    lab.place_mirror("small");
    let server = lab.settings().with(&NEVER).start();
    let new = expect_new(&server, &old, &head_of(&lab));
    expect_clone(&lab, "small", &new.body);
    assert_eq!((clones(&server), server.fetches()), (0, 0));
}

/// There is no mirror at the start, and no upstream any more; the one that is put there later is
/// found and has its snapshot, although every request is answered from the cache.
#[test]
fn a_mirror_that_comes_later_has_its_snapshot() {
    let (lab, old) = lab_with_snapshot();
    remove(&lab.mirror("small"));
    let commit = repos::add_commit(&lab.upstream("small"), "main", "new.txt", b"new\n");
    let beside = lab.scratch("mirror.git");
    git::clone_mirror(&lab.url("small"), &beside);
    let clone = lab.scratch("clone");
    git::clone(&lab.url("small"), &clone);
    lab.hide("small");
    let rename = |from: &Path, to: &Path| {
        std::fs::rename(from, to).unwrap_or_else(|e| panic!("rename: {e}"));
    };
    let looks = ["--ref-check-interval", "1s", "--fetch-interval", "720h"];
    let server = lab.settings().with(&looks).start();
    let still = hit(&server, "small");
    assert_eq!(still.head.etag(), old.head.etag());
    rename(&beside, &lab.mirror("small"));
    let new = expect_new(&server, &old, &commit);
    let unpacked = lab.unpack(&new.body, "unpacked");
    super::parity::expect_same(&clone, &unpacked, "from the mirror alone");
}

/// There is no mirror at the start and nobody puts one there: the schedule clones it, and the
/// snapshot is kept like the upstream as before.
#[test]
fn a_mirror_that_is_missing_is_cloned_on_schedule() {
    let (lab, old) = lab_with_snapshot();
    remove(&lab.mirror("small"));
    let commit = repos::add_commit(&lab.upstream("small"), "main", "new.txt", b"new\n");
    let server = lab.settings().with(&["--fetch-interval", "1s"]).start();
    let new = expect_new(&server, &old, &commit);
    expect_clone(&lab, "small", &new.body);
    // So it is when the mirror goes while the server runs.
    remove(&lab.mirror("small"));
    let commit = repos::add_commit(&lab.upstream("small"), "main", "newer.txt", b"newer\n");
    let newest = expect_new(&server, &new, &commit);
    expect_clone(&lab, "small", &newest.body);
    assert_eq!(clones(&server), 2);
    lab.expect_no_orphans();
}

/// Requests that come as soon as the server says that it is ready are not answered from a mirror
/// that nobody has looked at yet, nor wait until all the others were looked at.
#[test]
fn a_mirror_is_checked_before_it_is_used() {
    let lab = small_lab();
    let mirror = lab.mirror("small");
    lab.place_mirror("small");
    // Each of these takes a git process, which packs the branch.
    for number in 0..30 {
        let sound = lab.mirror(&format!("sound{number}"));
        lab::copy_tree(&mirror, &sound);
        git::run(&sound, &["branch", "loose", "main"]);
    }
    let odd = ["odd0", "odd1", "odd2", "odd3"];
    for name in odd {
        lab::copy_tree(&mirror, &lab.mirror(name));
        let config = lab.mirror(name).join("config").display().to_string();
        git::run(
            &lab.state(),
            &["config", "--file", &config, "extensions.wonder", "1"],
        );
    }
    let server = lab.settings().with(&NEVER).start();
    for name in odd {
        let answer = server.get(&lab::target(name)).expect(500).text();
        assert!(answer.contains("extensions.wonder"), "{answer}");
    }
    let answer = server.get(&lab::target("small")).expect(200);
    expect_clone(&lab, "small", &answer.body);
    // The others are taken over all the same.
    let is_packed = |number| {
        let sound = lab.mirror(&format!("sound{number}"));
        !sound.join("refs/heads/loose").exists()
    };
    wait::until_true("all are taken over", || (0..30).all(is_packed));
    assert_eq!((clones(&server), server.fetches()), (0, 0));
}

/// Another mirror is put into the place of one while the server runs: the next look at the
/// upstream finds nothing new, and yet the snapshot is another.
#[test]
fn a_mirror_can_be_exchanged_at_any_time() {
    let lab = small_lab();
    let server = lab.settings().with(&NEVER).start();
    let old = hit(&server, "small");
    let commit = repos::add_commit(&lab.upstream("small"), "main", "new.txt", b"new\n");
    let beside = lab.scratch("mirror.git");
    git::clone_mirror(&lab.url("small"), &beside);
    let mirror = lab.mirror("small");
    let away = std::fs::rename(&mirror, lab.scratch("old.git"));
    away.and_then(|()| std::fs::rename(&beside, &mirror))
        .unwrap_or_else(|e| panic!("rename: {e}"));
    ensure(&server, "small", r#"{"refs":{"refs/heads/absent":""}}"#);
    let new = expect_new(&server, &old, &commit);
    expect_clone(&lab, "small", &new.body);
    let unchanged = [("result", "unchanged")];
    let looks = server.metrics().count("tarpon_fetches_total", &unchanged);
    assert_eq!((looks, server.fetches()), (1, 1));
}

/// git leaves the half of a pack that did not fit on the disk.
#[test]
fn a_fetch_that_fails_leaves_no_half_pack() {
    let lab = small_lab();
    let server = lab.settings().with(&["--fetch-interval", "1s"]).start();
    server.get(&lab::target("small")).expect(200);
    let packs = lab.mirror("small").join("objects/pack");
    let half = packs.join("tmp_pack_Ab12Cd");
    std::fs::write(&half, "half").unwrap();
    lab.hide("small");
    wait::until_true("it is removed", || !half.exists());
    server.wait_logged("cannot fetch");
    let whole = std::fs::read_dir(&packs).unwrap().count();
    assert!(whole >= 2, "a whole pack went, too");
}

/// Stands in for `git`: what packs objects has begun a pack before it is allowed to end, and fails
/// if that is gone, as git does.
const PACKER_THAT_WAITS: &str = "#!/bin/sh
case \" $* \" in *' pack-objects '*)
    begun=MIRROR/objects/pack/tmp_pack_Ab12Cd
    touch $begun
    until [ -e MIRROR/go ]; do sleep 0.01; done
    rm $begun || exit 1 ;;
esac
PATH=${PATH#*:} exec git \"$@\"
";

/// A fetch fails while a build packs loose objects: what that writes is no half pack.
#[test]
fn a_fetch_that_fails_leaves_packs_in_the_making() {
    let lab = new_lab();
    let mirror = lab.mirror("loose");
    let packer = PACKER_THAT_WAITS.replace("MIRROR", &mirror.display().to_string());
    let server = settings_with_loose(&lab, &packer).with(&NEVER).start();
    let mut conn = Conn::open(server.address());
    conn.request("GET", &lab::target("loose"), &[]);
    let begun = mirror.join("objects/pack/tmp_pack_Ab12Cd");
    wait::until_true("objects are packed", || begun.exists());
    lab.hide("loose");
    let absent = r#"{"refs":{"refs/heads/absent":""}}"#;
    let asked = server.post_json(&lab::endpoint("loose", "ensure-refs"), absent);
    assert_eq!(asked.head.status, 502, "{}", asked.text());
    std::fs::write(mirror.join("go"), "").unwrap();
    conn.response("GET").expect(200);
}

/// However a host is written, its repositories have one mirror and one snapshot.
#[test]
fn the_case_of_a_host_makes_no_second_mirror() {
    let lab = small_lab();
    let server = lab.settings().with(&NEVER).start();
    let target = lab::target("small");
    let (host, _) = target["/git/".len()..].split_once('/').unwrap();
    let shouted = target.replacen(host, &host.to_ascii_uppercase(), 1);
    assert_ne!(shouted, target);
    let first = server.get(&shouted).expect(200);
    let second = hit(&server, "small");
    assert_eq!(first.head.etag(), second.head.etag());
    assert_eq!(
        server.get(&shouted).expect(200).head.get("cache-status"),
        second.head.get("cache-status")
    );
    assert!(first.body == second.body);
    let mirrors = std::fs::read_dir(lab.mirror("small").ancestors().nth(2).unwrap()).unwrap();
    assert_eq!(mirrors.count(), 1);
    assert_eq!(clones(&server), 1);
}

/// A host that is no upstream any more: its snapshots go, which nobody could ask for nor evict, and
/// its mirrors stay, in case it comes back.
#[test]
fn an_upstream_that_was_taken_away_leaves_no_entries() {
    let (lab, old) = lab_with_snapshot();
    assert_eq!(lab.entries().len(), 1);
    let mut settings = lab.settings().with(&NEVER);
    settings.upstreams = vec!["other=file:///nowhere/".to_owned()];
    let server = settings.start();
    server.get(&lab::target("small")).expect(403);
    assert!(lab.entries().is_empty());
    server.wait_logged("belongs to no upstream");
    server.stop();
    let server = lab.settings().with(&NEVER).start();
    assert!(hit(&server, "small").body == old.body);
    assert_eq!(clones(&server), 0);
}

/// The URL is in every archive: one that shows another than is configured now is replaced.
#[test]
fn an_upstream_that_has_moved_is_the_origin_of_what_is_served() {
    let lab = small_lab();
    let server = lab.start();
    hit(&server, "small");
    server.stop();
    let moved = lab.scratch("moved");
    lab::create_dir(&moved);
    std::fs::rename(lab.upstream("small"), moved.join("small")).unwrap();
    let mut settings = lab.settings();
    settings.upstreams = vec![format!("test=file://{}/", moved.display())];
    let server = settings.start();
    let url = format!("file://{}", moved.join("small").display());
    wait::until_true("the new one is served", || {
        let unpacked = lab.unpack(&hit(&server, "small").body, "unpacked");
        let origin = git::text(&unpacked, &["config", "remote.origin.url"]);
        remove(&unpacked);
        origin == url
    });
    let builds = server.builds("complete");
    assert_eq!(builds, 1, "one is enough");
    server.stop();
    let server = settings.start();
    let answer = server.get(&lab::target("small")).expect(200);
    assert!(answer.head.content_length().is_some(), "it is built again");
    assert_eq!(server.builds("complete"), 0);
}
