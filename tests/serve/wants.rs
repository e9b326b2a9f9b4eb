//! Snapshots of refs and commits: each is built once for all, kept, served like any other, and bounded in
//! number.

use super::children::settings_with_git;
use super::support::client::{Conn, Response};
use super::support::lab::{self, Lab};
use super::support::repos::{self, Shape};
use super::support::server::Server;
use super::support::{git, steps, wait};
use super::tips::most_at_a_time;
use super::{at_once, ensure, finish, hit, new_lab, push_and_fetch, remove, small_lab};
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;

/// Nothing but what is asked for.
const FAR: [&str; 4] = ["--fetch-interval", "720h", "--scrub-interval", "0"];
const NAME: &str = "small";
/// See the limit of this name.
const WANTS_OF_REPOSITORY_MAX: usize = 64;

fn target(query: &str) -> String {
    format!("{}?{query}", lab::target(NAME))
}

/// Adds commits to `main`; gives their ids, the oldest first.
fn commits(lab: &Lab, count: usize) -> Vec<String> {
    let add = |number: usize| {
        let path = format!("added{number}.txt");
        repos::add_commit(&lab.upstream(NAME), "main", &path, path.as_bytes())
    };
    (0..count).map(add).collect()
}

/// Asks until it comes from the cache.
fn kept(server: &Server, query: &str) -> Response {
    steps::kept(server, &target(query))
}

fn commit_of(answer: &Response) -> Option<&str> {
    answer.head.get("x-cachew-snapshot-commit")
}

/// Whatever number of clients asks for whatever of it.
#[test]
fn each_want_is_built_once_for_all() {
    let lab = small_lab();
    let ids = commits(&lab, 5);
    let server = lab.settings().with(&FAR).start();
    // Without a mirror, too: it is cloned once.
    let answers = at_once(60, |number| {
        let id = &ids[number % ids.len()];
        (id, server.get(&target(&format!("commit={id}"))).expect(200))
    });
    let mut bodies: BTreeMap<&str, &[u8]> = BTreeMap::new();
    for (id, answer) in &answers {
        assert_eq!(commit_of(answer), Some(&***id));
        let first = bodies.entry(id).or_insert(&answer.body);
        assert!(*first == answer.body, "{id}: bodies differ");
    }
    wait::until_true("all are kept", || server.builds("complete") == 5);
    let clones = [("result", "complete")];
    assert_eq!(server.metrics().count("tarpon_clones_total", &clones), 1);
    for id in &ids {
        kept(&server, &format!("commit={id}"));
    }
    assert_eq!(server.builds("complete"), 5, "one is built again");
    assert_eq!(lab.entries().len(), 5);
    server.stop();
    lab.expect_no_orphans();
}

/// What the answers say, and what is refused.
#[test]
fn what_is_answered() {
    let lab = small_lab();
    let ids = commits(&lab, 2);
    let id = &ids[0];
    let server = lab.settings().with(&FAR).start();
    let by_id = format!("commit={id}");
    let no = server.fetch("HEAD", &target(&by_id), &[]);
    assert_eq!(no.head.status, 404);
    assert!(!lab.mirror(NAME).exists(), "HEAD has it cloned");
    let plain = hit(&server, NAME);
    assert_eq!(plain.head.get("cache-control"), Some("no-cache"));
    let no = server.fetch("HEAD", &target(&by_id), &[]);
    assert_eq!(no.head.status, 404, "HEAD has it built");
    for (query, control) in [
        (&*by_id, "max-age=3600"),
        (&format!("ref=main&{by_id}"), "max-age=3600"),
        ("ref=main", "no-cache"),
    ] {
        let answer = kept(&server, query);
        let head = &answer.head;
        assert_eq!(head.get("cache-control"), Some(control), "{query}");
        assert_ne!(head.etag(), plain.head.etag());
        assert_eq!(head.get("x-cachew-bundle-url"), None);
        let asked = server.fetch("HEAD", &target(query), &[]).expect(200);
        assert_eq!(asked.head.etag(), head.etag());
        let tag = format!("If-None-Match: {}", head.etag());
        let same = server.fetch("GET", &target(query), &[&tag]);
        assert_eq!(same.head.status, 304);
        assert_eq!(same.head.get("cache-control"), Some(control));
        let tag = format!("If-Range: {}", head.etag());
        let part = server.fetch("GET", &target(query), &[&tag, "Range: bytes=100-299"]);
        assert_eq!(part.head.status, 206);
        assert!(part.body == answer.body[100..300], "{query}");
    }
    let upper = server.get(&target(&by_id.to_uppercase().replace("COMMIT", "commit")));
    assert_eq!(commit_of(&upper), Some(&**id));

    server.stop();
}

/// What cannot be answered is said, and the upstream is asked once for what is not there.
#[test]
fn what_is_refused() {
    let lab = small_lab();
    let up = lab.upstream(NAME);
    let id = commits(&lab, 1).remove(0);
    let server = lab.settings().with(&FAR).start();
    hit(&server, NAME);
    let by_id = format!("commit={id}");
    let tree = git::text(&up, &["rev-parse", "main^{tree}"]);
    let blob = git::text(&up, &["rev-parse", "main:added0.txt"]);
    let fetches = server.fetches();
    let absent = "1".repeat(40);
    let rows = [
        (format!("commit={}", &id[..12]), 400, "all 40 or 64"),
        (format!("commit={tree}"), 400, "leads to a tree"),
        (format!("commit={blob}"), 400, "leads to a blob"),
        (format!("{by_id}&{by_id}"), 400, "twice"),
        (
            "branch=main".into(),
            400,
            "ref=NAME, commit=FULL-ID and depth=1",
        ),
        ("ref=a..b".into(), 400, "no name that git allows"),
        // git makes no branch of that name.
        (format!("ref=HEAD&{by_id}"), 400, "no name that git allows"),
        (format!("ref=-x&{by_id}"), 400, "no name that git allows"),
        (
            format!("ref=main/below&{by_id}"),
            400,
            "beside refs/heads/main",
        ),
        ("ref=nothing".into(), 404, "no branch or tag nothing"),
        ("ref=refs/pull/7/head".into(), 404, "has no ref"),
        (format!("commit={absent}"), 404, "not in the mirror"),
        (
            format!("commit={}", "2".repeat(64)),
            404,
            "not in the mirror",
        ),
    ];
    for (query, status, text) in &rows {
        let answer = server.get(&target(query));
        assert_eq!(answer.head.status, *status, "{query}: {}", answer.text());
        assert!(answer.text().contains(text), "{query}: {}", answer.text());
    }
    // The mirror was compared once for each branch, tag or commit that is not there, and is not at once again.
    assert_eq!(server.fetches(), fetches + 3);
    server.get(&target(&format!("commit={absent}"))).expect(404);
    assert_eq!(server.fetches(), fetches + 3);
    server.stop();
}

/// A commit that was pushed a moment ago, which no comparison has brought yet.
#[test]
fn what_was_just_pushed_is_fetched_for_the_asking() {
    let lab = small_lab();
    let server = lab.settings().with(&FAR).start();
    hit(&server, NAME);
    let fetches = server.fetches();
    let id = commits(&lab, 1).remove(0);
    let answers = at_once(20, |_| {
        server.get(&target(&format!("commit={id}"))).expect(200)
    });
    assert!(answers.iter().all(|answer| commit_of(answer) == Some(&id)));
    assert_eq!(server.fetches(), fetches + 1, "one comparison for all");
    git::run(&lab.upstream(NAME), &["branch", "new/one", &id]);
    let answer = server.get(&target("ref=new/one")).expect(200);
    assert_eq!(commit_of(&answer), Some(&*id));
    server.stop();
}

/// After a start all is there, by short names too, and nothing is built.
#[test]
fn wants_outlive_the_server() {
    let lab = small_lab();
    let id = commits(&lab, 2).remove(0);
    git::run(&lab.upstream(NAME), &["tag", "v1", &id]);
    let queries = [
        "ref=main".to_owned(),
        "ref=v1".into(),
        format!("commit={id}"),
        format!("ref=other&commit={id}"),
    ];
    let server = lab.settings().with(&FAR).start();
    let plain = hit(&server, NAME);
    let before: Vec<Response> = queries.iter().map(|query| kept(&server, query)).collect();
    server.stop();
    let server = lab.settings().with(&FAR).start();
    let again = server.get(&lab::target(NAME)).expect(200);
    assert_eq!(again.head.etag(), plain.head.etag());
    for (query, before) in queries.iter().zip(&before) {
        // What a name leads to is known once the mirror is taken over.
        let head = wait::until("the mirror is taken over", || {
            let head = server.fetch("HEAD", &target(query), &[]).head;
            (head.status == 200).then_some(head)
        });
        assert_eq!(head.etag(), before.head.etag(), "{query}");
        let answer = server.get(&target(query)).expect(200);
        assert!(answer.body == before.body, "{query}");
    }
    assert_eq!(server.builds("complete"), 0);
    server.stop();
    lab.expect_no_orphans();
}

/// A branch moves, goes, and the default branch changes its name while all of them are downloaded in parts.
#[test]
fn downloads_go_on_with_what_they_began_with() {
    let lab = small_lab();
    let up = lab.upstream(NAME);
    git::run(&up, &["branch", "side"]);
    git::run(&up, &["branch", "gone"]);
    let server = lab.settings().with(&FAR).start();
    let plain = hit(&server, NAME);
    let side = kept(&server, "ref=side");
    let gone = kept(&server, "ref=gone");
    let old = commit_of(&side).unwrap().to_owned();
    let at = kept(&server, &format!("commit={old}"));
    let new = repos::add_commit(&up, "side", "new.txt", b"new");
    git::run(&up, &["branch", "-q", "-D", "gone"]);
    git::run(&up, &["branch", "-m", "main", "trunk"]);
    git::run(&up, &["symbolic-ref", "HEAD", "refs/heads/trunk"]);
    ensure(&server, NAME, r#"{"refs":{"refs/heads/absent":""}}"#);
    wait::until_true("the new one is served", || {
        commit_of(&server.get(&target("ref=side")).expect(200)) == Some(&new)
    });
    wait::until_true("the new name is served", || {
        let answer = server.get(&lab::target(NAME)).expect(200);
        answer.head.etag() != plain.head.etag()
    });
    server.get(&target("ref=gone")).expect(404);
    let by_commit = format!("{}?commit={old}", lab::target(NAME));
    for (target, began) in [
        (lab::target(NAME), &plain),
        (target("ref=side"), &side),
        (target("ref=gone"), &gone),
        (by_commit.clone(), &at),
    ] {
        for name in ["If-Range", "If-Match"] {
            let tag = format!("{name}: {}", began.head.etag());
            let rest = server.fetch("GET", &target, &[&tag, "Range: bytes=5000-"]);
            assert_eq!(rest.head.status, 206, "{target}: {}", rest.text());
            assert!(rest.body == began.body[5000..], "{target}");
        }
    }
    // It is for ever what it was.
    let same = server.get(&by_commit).expect(200);
    assert_eq!(same.head.etag(), at.head.etag());
    server.stop();
    lab.expect_no_orphans();
}

/// Who asks for another thing by its tag gets what the URL names.
#[test]
fn a_tag_of_another_want_is_none_of_this_one() {
    let lab = small_lab();
    let id = commits(&lab, 2).remove(0);
    let server = lab.settings().with(&FAR).start();
    let plain = hit(&server, NAME);
    let query = format!("commit={id}");
    let by_id = kept(&server, &query);
    let tag = format!("If-Range: {}", plain.head.etag());
    let answer = server.fetch("GET", &target(&query), &[&tag, "Range: bytes=100-"]);
    assert_eq!(answer.head.status, 200);
    assert!(answer.body == by_id.body);
    let tag = format!("If-Match: {}", by_id.head.etag());
    let answer = server.fetch("GET", &lab::target(NAME), &[&tag]);
    assert_eq!(answer.head.status, 412);
    server.stop();
}

/// The inodes of an entry's files of frames.
fn frames(lab: &Lab, answer: &Response) -> BTreeMap<u64, u64> {
    let id = answer.head.etag().trim_matches('"');
    let directory = lab.state().join("snapshots").join(id).join("frames");
    let files = std::fs::read_dir(&directory).unwrap_or_else(|e| panic!("{id}: {e}"));
    let found = files.map(|file| file.unwrap().metadata().unwrap());
    found.map(|found| (found.ino(), found.len())).collect()
}

/// A commit near HEAD is built like a refresh: what is the same lies on the disk once.
#[test]
fn a_commit_near_head_takes_frames_over() {
    let lab = new_lab();
    lab.generate(NAME, Shape::ManySmall, 4 << 20);
    let ids = commits(&lab, 10);
    let server = lab.settings().with(&FAR).start();
    let plain = hit(&server, NAME);
    let before = frames(&lab, &plain);
    let all: u64 = before.values().sum();
    let encoded = || server.metrics().count("tarpon_jobs_encoded_total", &[]);
    let first = encoded();
    for id in &ids[..9] {
        let answer = kept(&server, &format!("commit={id}"));
        let own = frames(&lab, &answer);
        let shared: BTreeSet<_> = before
            .keys()
            .filter(|inode| own.contains_key(inode))
            .collect();
        assert_eq!(shared.len(), before.len(), "{id} links none of the frames");
        let added = own.iter().filter(|(inode, _)| !before.contains_key(inode));
        let added: u64 = added.map(|(_, bytes)| bytes).sum();
        assert!(added * 100 <= all * 3, "{added} bytes beside {all}");
    }
    let made = encoded() - first;
    assert!(
        made <= 9 * 3,
        "{made} jobs encoded for 9 commits, {first} for the first"
    );
    server.stop();
}

/// There are never more than may be, and what a plain request gets stays.
#[test]
fn wants_are_bounded_in_number() {
    let lab = small_lab();
    let ids = commits(&lab, WANTS_OF_REPOSITORY_MAX + 6);
    let server = lab.settings().with(&FAR).start();
    hit(&server, NAME);
    for id in &ids {
        kept(&server, &format!("commit={id}"));
    }
    wait::until_true("the first have left", || {
        lab.entries().len() <= WANTS_OF_REPOSITORY_MAX + 1
    });
    let builds = server.builds("complete");
    hit(&server, NAME);
    let last = ids.last().unwrap();
    server.get(&target(&format!("commit={last}"))).expect(200);
    assert_eq!(server.builds("complete"), builds, "they have left");
    wait::until_true("they are counted", || {
        let wants = server.metrics().count("tarpon_cache_wants", &[]);
        (1..=WANTS_OF_REPOSITORY_MAX as u64).contains(&wants)
    });
    let evicted = server
        .metrics()
        .count("tarpon_evictions_total", &[("what", "snapshot")]);
    assert!(evicted >= 6, "{evicted}");
    server.stop();
    lab.expect_no_orphans();
}

/// Where nothing can be kept all are served all the same.
#[test]
fn wants_are_served_live_only() {
    let lab = small_lab();
    let ids = commits(&lab, 2);
    let fault = "spool-enospc-after-bytes=1";
    let server = lab.settings().with(&FAR).with_fault(fault).start();
    ensure(&server, NAME, r#"{"refs":{"refs/heads/absent":""}}"#);
    let queries = [format!("commit={}", ids[0]), "ref=main".to_owned()];
    let bodies = at_once(6, |number| {
        let mut conn = Conn::open(server.address());
        conn.request("GET", &target(&queries[number % 2]), &[]);
        let head = conn.read_head("GET").unwrap();
        assert_eq!(head.status, 200, "{head:?}");
        finish(&mut conn, Vec::new())
    });
    assert!(lab.entries().is_empty());
    for (number, body) in bodies.iter().take(2).enumerate() {
        let unpacked = lab.unpack(body, &format!("live{number}"));
        assert_eq!(git::text(&unpacked, &["rev-parse", "HEAD"]), ids[number]);
        git::run(&unpacked, &["fsck", "--full", "--strict", "--no-dangling"]);
        remove(&unpacked);
    }
    server.stop();
    lab.expect_no_orphans();
}

/// A build that fails is told to those who asked for the same, and to nobody else.
#[test]
fn a_build_that_fails_fails_for_one_want() {
    let lab = small_lab();
    let ids = commits(&lab, 2);
    let fault = "build-fail-after-bytes=20000";
    let server = lab.settings().with(&FAR).with_fault(fault).start();
    let mut conn = Conn::open(server.address());
    conn.request("GET", &target(&format!("commit={}", ids[0])), &[]);
    conn.read_head("GET").unwrap();
    let ended = conn.copy_body(&mut Vec::new());
    assert!(
        !matches!(ended, Ok((super::support::client::End::Complete, _))),
        "it is whole"
    );
    hit(&server, NAME);
    kept(&server, &format!("commit={}", ids[1]));
    kept(&server, &format!("commit={}", ids[0]));
    assert_eq!(server.builds("failed"), 1);
    server.stop();
    lab.expect_no_orphans();
}

/// Refs that nobody has asked for lately are not built when others move, and are as they are when somebody
/// asks again.
#[test]
fn a_ref_that_is_asked_for_is_as_the_mirror_has_it() {
    let lab = small_lab();
    git::run(&lab.upstream(NAME), &["branch", "side"]);
    let server = lab.settings().with(&FAR).start();
    kept(&server, "ref=side");
    // The mirror of a server that was ended knows more than its snapshots.
    server.stop();
    let side = repos::add_commit(&lab.upstream(NAME), "side", "side.txt", b"side");
    git::run(
        &lab.mirror(NAME),
        &["fetch", "-q", "origin", "+refs/heads/*:refs/heads/*"],
    );
    let server = lab.settings().with(&FAR).start();
    wait::until_true("it is as new as the mirror", || {
        let answer = server.get(&target("ref=side")).expect(200);
        commit_of(&answer) == Some(&side)
    });
    let encoded = || server.metrics().count("tarpon_jobs_encoded_total", &[]);
    let before = encoded();
    let other = push_and_fetch(&lab, &server, NAME, "other.txt", b"other");
    let unpacked = wait::until("it shows the other branch, too", || {
        let body = server.get(&target("ref=side")).expect(200).body;
        let unpacked = lab.unpack(&body, "side");
        let shown = git::text(&unpacked, &["rev-parse", "origin/main"]);
        if shown == other {
            return Some(unpacked);
        }
        remove(&unpacked);
        None
    });
    assert_eq!(git::text(&unpacked, &["rev-parse", "HEAD"]), side);
    assert_eq!(encoded(), before, "what is the same is encoded again");
    server.stop();
}

/// What is remembered of what clients name has a length, however long their names are.
#[test]
fn long_names_that_lead_nowhere_take_no_memory() {
    let lab = small_lab();
    lab.place_mirror(NAME);
    let server = lab.settings().with(&FAR).start();
    hit(&server, NAME);
    let id = git::text(&lab.upstream(NAME), &["rev-parse", "main"]);
    let ask = |parts: usize| {
        let mut conn = Conn::open(server.address());
        for number in 0..1000 {
            let part = format!("{number}-{}/", "x".repeat(200)).repeat(parts);
            let query = format!("ref={part}x&commit={id}");
            conn.request("HEAD", &target(&query), &[]);
            conn.response("HEAD").expect(404);
        }
    };
    ask(1);
    let before = server.rss_anon_bytes();
    ask(18);
    let grown = server.rss_anon_bytes().saturating_sub(before);
    assert!(grown < 1 << 20, "{} KiB", grown >> 10);
    server.stop();
}

/// Whether all of a commit is there that refs have left takes a walk by git: of those a few run at a time, and a HEAD
/// begins none.
#[test]
fn few_walk_over_a_history_at_a_time() {
    /// See the limit of this name.
    const CLOSURES_RUNNING_MAX: usize = 8;
    let lab = small_lab();
    lab.place_mirror(NAME);
    let log = lab.scratch("walks");
    let script = format!(
        "#!/bin/sh
PATH=${{PATH#*:}}
case \" $* \" in *' rev-list --objects --count '*) ;; *) exec git \"$@\" ;; esac
echo begins >> {log}
sleep 0.2
git \"$@\"
ended=$?
echo ends >> {log}
exit $ended
",
        log = log.display()
    );
    let server = settings_with_git(&lab, &script).with(&FAR).start();
    hit(&server, NAME);
    let before = git::text(&lab.upstream(NAME), &["rev-parse", "main"]);
    let id = push_and_fetch(&lab, &server, NAME, "left.txt", b"left");
    git::run(
        &lab.upstream(NAME),
        &["update-ref", "refs/heads/main", &before],
    );
    push_and_fetch(&lab, &server, NAME, "other.txt", b"other");
    let left = target(&format!("commit={id}"));
    at_once(30, |_| server.fetch("HEAD", &left, &[]).expect(404));
    assert_eq!(most_at_a_time(&log), (0, 0), "a HEAD walks");
    at_once(30, |_| server.get(&left).expect(200));
    let (most, all) = most_at_a_time(&log);
    assert!(
        (2..=CLOSURES_RUNNING_MAX).contains(&most),
        "{most} of {all}"
    );
    server.stop();
    lab.expect_no_orphans();
}
