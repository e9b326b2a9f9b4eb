//! What no followed ref of an upstream leads to: asked for by its id, or by the ref that was named with it, kept
//! for as long as the upstream is believed, and then gone.

use super::support::client::{Conn, Response};
use super::support::lab::{self, Lab};
use super::support::repos;
use super::support::rng::Rng;
use super::support::server::Server;
use super::support::upstream::{Answers, Upstream};
use super::support::{git, steps, wait};
use super::upkeep::is_anywhere;
use super::{at_once, ensure, finish, hit, push_and_fetch, remove, small_lab};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Nothing but what is asked for.
const FAR: [&str; 4] = ["--fetch-interval", "720h", "--scrub-interval", "0"];
const NAME: &str = "small";

fn target(query: &str) -> String {
    format!("{}?{query}", lab::target(NAME))
}

/// A commit at the upstream on top of its `main` that only a pull request's ref leads to.
fn pull(lab: &Lab, number: u32, content: &[u8]) -> String {
    let up = lab.upstream(NAME);
    let reference = format!("refs/pull/{number}/head");
    git::run(
        &up,
        &["update-ref", "refs/heads/made-here", "refs/heads/main"],
    );
    let path = format!("pull{number}.bin");
    let id = repos::add_commit(&up, "made-here", &path, content);
    git::run(&up, &["update-ref", &reference, &id]);
    git::run(&up, &["update-ref", "-d", "refs/heads/made-here"]);
    id
}

fn by_id(server: &Server, id: &str) -> Response {
    server.get(&target(&format!("commit={id}")))
}

fn commit_of(answer: &Response) -> Option<&str> {
    answer.head.get("x-cachew-snapshot-commit")
}

/// Asks until it comes from the cache.
fn kept(server: &Server, id: &str) -> Response {
    steps::kept(server, &target(&format!("commit={id}")))
}

fn annex(lab: &Lab) -> PathBuf {
    lab.mirror(NAME).join("tarpon-annex")
}

fn fetches(server: &Server, result: &str) -> u64 {
    let metrics = server.metrics();
    metrics.count("tarpon_annex_fetches_total", &[("result", result)])
}

fn over_http(lab: &Lab, upstream: &Upstream) -> super::support::server::Settings {
    let mut settings = lab.settings().with(&FAR);
    settings.upstreams = vec![upstream.named("test")];
    settings
}

/// One fetch serves all who ask, and nobody else has anything of it.
#[test]
fn it_is_fetched_once_for_all() {
    let lab = small_lab();
    let id = pull(&lab, 7, b"of a pull request\n");
    let server = lab.settings().with(&FAR).start();
    let plain = hit(&server, NAME);
    let answers = at_once(30, |_| by_id(&server, &id).expect(200));
    for answer in &answers {
        assert_eq!(commit_of(answer), Some(&*id));
        assert_eq!(answer.body, answers[0].body);
    }
    assert_eq!(fetches(&server, "given"), 1);
    wait::until_true("it is kept", || server.builds("complete") == 2);
    assert!(
        git::output(&lab.mirror(NAME), &["cat-file", "-e", &id])
            .status
            .code()
            != Some(0)
    );
    assert_eq!(hit(&server, NAME).body, plain.body);
    let unpacked = lab.unpack(&answers[0].body, "unpacked");
    git::run(&unpacked, &["fsck", "--full", "--strict", "--no-dangling"]);
    remove(&unpacked);
    // Without the upstream, too, and after a server that was killed.
    let before = kept(&server, &id);
    let mut server = server;
    server.kill();
    drop(server);
    let left = annex(&lab).join("tmp_fetch_left");
    std::fs::create_dir(&left).unwrap();
    lab.hide(NAME);
    let server = lab.settings().with(&FAR).start();
    assert_eq!(
        by_id(&server, &id).expect(200).head.etag(),
        before.head.etag()
    );
    assert!(!left.exists());
    lab.forget_snapshots();
    server.stop();
    lab.forget_snapshots();
    // It is built anew from what the annex has.
    let server = lab.settings().with(&FAR).start();
    assert_eq!(commit_of(&by_id(&server, &id).expect(200)), Some(&*id));
    server.stop();
    lab.expect_no_orphans();
}

/// Where nothing can be kept it is served all the same.
#[test]
fn it_is_served_live_only() {
    let lab = small_lab();
    let id = pull(&lab, 7, b"of a pull request\n");
    let fault = "spool-enospc-after-bytes=1";
    let server = lab.settings().with(&FAR).with_fault(fault).start();
    let mut conn = Conn::open(server.address());
    conn.request("GET", &target(&format!("commit={id}")), &[]);
    let head = conn.read_head("GET").unwrap();
    assert_eq!(head.status, 200, "{head:?}");
    let body = finish(&mut conn, Vec::new());
    assert!(lab.entries().is_empty());
    let unpacked = lab.unpack(&body, "live");
    assert_eq!(git::text(&unpacked, &["rev-parse", "HEAD"]), id);
    git::run(&unpacked, &["fsck", "--full", "--strict", "--no-dangling"]);
    remove(&unpacked);
    server.stop();
    lab.expect_no_orphans();
}

/// An upstream is asked twice for what it has not got, however many ask, and then not for a while: unless
/// something has moved there.
#[test]
fn what_is_not_known_is_asked_for_twice() {
    let lab = small_lab();
    let upstream = Upstream::new(lab.upstreams());
    let server = over_http(&lab, &upstream).start();
    hit(&server, NAME);
    let absent = "1".repeat(40);
    let began = Instant::now();
    let answers = at_once(20, |_| by_id(&server, &absent).expect(404));
    assert!(began.elapsed() >= Duration::from_secs(1), "asked once");
    let text = answers[0].text();
    assert!(
        text.contains("not in the mirror") && text.contains("ref="),
        "{text}"
    );
    assert_eq!(fetches(&server, "refused"), 1);
    let asked = upstream.asked().len();
    by_id(&server, &absent).expect(404);
    assert_eq!(upstream.asked().len(), asked, "it is asked for again");
    push_and_fetch(&lab, &server, NAME, "moved.txt", b"moved\n");
    by_id(&server, &absent).expect(404);
    assert_eq!(fetches(&server, "refused"), 2, "something has moved");
    // Ids of the other kind are no ids there.
    by_id(&server, &"2".repeat(64)).expect(404);
    server.stop();
}

/// Of a host's replicas the one that is asked first has it not yet.
#[test]
fn a_replica_that_is_late() {
    let lab = small_lab();
    let late = lab.scratch("late");
    lab::copy_tree(&lab.upstreams(), &late);
    let upstream = Upstream::new(lab.upstreams());
    let server = over_http(&lab, &upstream).start();
    hit(&server, NAME);
    let id = pull(&lab, 7, b"just pushed\n");
    upstream.answer(Answers::From(late));
    let before = upstream.asked().len();
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| by_id(&server, &id).expect(200));
        // The fetch of the id has asked in vain, and so has the comparison.
        wait::until_true("it was asked for", || {
            let asked = upstream.asked();
            let posts = asked[before..].iter().filter(|one| one.method == "POST");
            posts.count() >= 2
        });
        std::thread::sleep(Duration::from_millis(300));
        upstream.answer(Answers::Well);
        assert_eq!(commit_of(&asking.join().unwrap()), Some(&*id));
    });
    server.stop();
}

/// Upstreams that give out only what refs name are asked for the ref that was named.
#[test]
fn an_upstream_that_refuses_ids() {
    let lab = small_lab();
    let upstream = Upstream::new(lab.upstreams());
    let server = over_http(&lab, &upstream).start();
    hit(&server, NAME);
    upstream.answer(Answers::OldProtocol);
    let id = pull(&lab, 7, b"one\n");
    let up = lab.upstream(NAME);
    let last = git::text(
        &up,
        &[
            "commit-tree",
            "-m",
            "two",
            "-p",
            &id,
            &format!("{id}^{{tree}}"),
        ],
    );
    git::run(&up, &["update-ref", "refs/pull/7/head", &last]);
    let other = pull(&lab, 8, b"other\n");
    let refused = by_id(&server, &id).expect(404);
    assert!(refused.text().contains("ref="), "{}", refused.text());
    // It is looked for in the wrong place.
    let query = |number: u32| target(&format!("ref=refs/pull/{number}/head&commit={id}"));
    server.get(&query(8)).expect(404);
    server.get(&query(9)).expect(404);
    assert_eq!(commit_of(&server.get(&query(7)).expect(200)), Some(&*id));
    // From here on it is known.
    assert_eq!(commit_of(&by_id(&server, &id).expect(200)), Some(&*id));
    let by_ref = server.get(&target("ref=refs/pull/8/head")).expect(200);
    assert_eq!(commit_of(&by_ref), Some(&*other));
    server.stop();
}

/// What a ref that is not followed leads to is looked at by comparisons, for as long as somebody uses it: nobody
/// waits for a question of his own.
#[test]
fn comparisons_bring_word_of_refs_in_use() {
    let lab = small_lab();
    let upstream = Upstream::new(lab.upstreams());
    let server = over_http(&lab, &upstream).start();
    hit(&server, NAME);
    let id = pull(&lab, 7, b"one\n");
    let query = target("ref=refs/pull/7/head");
    assert_eq!(commit_of(&server.get(&query).expect(200)), Some(&*id));
    let asked = Instant::now();
    let compared = || {
        let now = ["Cache-Control: max-age=0"];
        server.fetch("GET", &lab::target(NAME), &now).expect(200);
    };
    // Older than the next comparison by more than the second in which HTTP counts.
    wait::until_true("a second is over", || {
        asked.elapsed() > Duration::from_millis(1_200)
    });
    compared();
    let questions = upstream.asked().len();
    let age = format!("Cache-Control: max-age={}", asked.elapsed().as_secs());
    let again = server.fetch("GET", &query, &[&age]).expect(200);
    assert_eq!(commit_of(&again), Some(&*id));
    assert_eq!(upstream.asked().len(), questions, "it is asked for again");

    // One that has moved, or is gone, is looked for.
    let moved = pull(&lab, 7, b"two\n");
    compared();
    let now = server.fetch("GET", &query, &["Cache-Control: max-age=0"]);
    assert_eq!(commit_of(&now.expect(200)), Some(&*moved));
    git::run(
        &lab.upstream(NAME),
        &["update-ref", "-d", "refs/pull/7/head"],
    );
    compared();
    server.get(&query).expect(404);
    server.stop();
}

/// A commit that was forced away at the upstream before anybody here has seen it on a branch, and that is asked for
/// again and again: once the upstream does not give it out any more it is gone after the expiry, from
/// archives and from the disk.
#[test]
fn use_does_not_keep_what_the_upstream_refuses() {
    let lab = small_lab();
    let secret = Rng::new(12).bytes(3000);
    let id = pull(&lab, 7, &secret);
    let times = ["--maintenance-idle", "1s", "--unreachable-expiry", "4s"];
    let server = lab.settings().with(&FAR).with(&times).start();
    hit(&server, NAME);
    let first = kept(&server, &id);
    let needle = &secret[1000..1100];
    assert!(first.body.windows(100).any(|window| window == needle));
    // Asked for again, the upstream gives it.
    let given = fetches(&server, "given");
    wait::until_true("it is asked for again", || {
        assert_eq!(commit_of(&by_id(&server, &id).expect(200)), Some(&*id));
        std::thread::sleep(Duration::from_millis(50));
        fetches(&server, "given") > given
    });
    let up = lab.upstream(NAME);
    git::run(&up, &["update-ref", "-d", "refs/pull/7/head"]);
    git::run(&up, &["gc", "--quiet", "--prune=now"]);
    let since = Instant::now();
    wait::until_true("it is refused", || {
        std::thread::sleep(Duration::from_millis(50));
        let answer = by_id(&server, &id);
        assert!(
            [200, 404].contains(&answer.head.status),
            "{}",
            answer.text()
        );
        answer.head.status == 404
    });
    assert!(
        since.elapsed() < Duration::from_secs(8),
        "{:?}",
        since.elapsed()
    );
    let tag = format!("If-Range: {}", first.head.etag());
    let query = target(&format!("commit={id}"));
    server
        .fetch("GET", &query, &[&tag, "Range: bytes=100-"])
        .expect(404);
    wait::until_true("nothing of it is left", || {
        is_anywhere(&lab, needle).is_empty()
    });
    by_id(&server, &id).expect(404);
    let answer = ensure(&server, NAME, &format!(r#"{{"commits":["{id}"]}}"#));
    assert_eq!(answer["missing_commits"][0], *id);
    server.stop();
    lab.expect_no_orphans();
}

/// Who reads what the upstream has refused meanwhile does so to the end, and keeps it for nobody else, by whatever
/// name.
#[test]
fn who_reads_what_is_refused_keeps_it_for_nobody() {
    let lab = small_lab();
    let id = pull(&lab, 7, &Rng::new(14).bytes(12 << 20));
    let times = ["--maintenance-idle", "1s", "--unreachable-expiry", "8s"];
    let server = lab.settings().with(&FAR).with(&times).start();
    hit(&server, NAME);
    let first = kept(&server, &id);
    let query = target(&format!("commit={id}"));
    let mut slow = Conn::open(server.address());
    slow.request("GET", &query, &[]);
    assert_eq!(slow.read_head("GET").unwrap().status, 200);
    let up = lab.upstream(NAME);
    git::run(&up, &["update-ref", "-d", "refs/pull/7/head"]);
    git::run(&up, &["gc", "--quiet", "--prune=now"]);
    wait::until_true("it is refused", || by_id(&server, &id).head.status == 404);
    let (range, tag) = (
        format!("If-Range: {}", first.head.etag()),
        format!("If-Match: {}", first.head.etag()),
    );
    for fields in [&[&range[..], "Range: bytes=100-"][..], &[&tag[..]]] {
        server.fetch("GET", &query, fields).expect(404);
    }
    let (mut bytes, mut piece) = (0, vec![0; 1 << 20]);
    loop {
        match slow.read_body(&mut piece).unwrap() {
            0 => break,
            got => bytes += got,
        }
    }
    assert_eq!(bytes, first.body.len());
}

/// While the upstream cannot be asked, what has to be asked for is not served, and comes back.
#[test]
fn what_cannot_be_asked_for_is_not_served() {
    let lab = small_lab();
    let id = pull(&lab, 7, b"of a pull request\n");
    let upstream = Upstream::new(lab.upstreams());
    let times = ["--unreachable-expiry", "2s"];
    let server = over_http(&lab, &upstream).with(&times).start();
    hit(&server, NAME);
    kept(&server, &id);
    upstream.answer(Answers::Status("500 Internal Server Error", ""));
    wait::until_true("it is too old", || by_id(&server, &id).head.status == 502);
    upstream.answer(Answers::Well);
    wait::until_true("it is there again", || {
        by_id(&server, &id).head.status == 200
    });
    server.stop();
}

/// git asks for an object by its id, in each version of its protocol.
#[test]
fn git_gets_it_by_its_id() {
    let lab = small_lab();
    let server = lab.settings().with(&FAR).start();
    hit(&server, NAME);
    let url = format!("http://{}/git/test/{NAME}", server.address());
    for (number, version) in [(1, "0"), (2, "1"), (3, "2")] {
        let id = pull(&lab, number, version.as_bytes());
        let into = lab.scratch(&format!("by-id-{version}"));
        lab::create_dir(&into);
        git::run(&into, &["init", "-q"]);
        let setting = format!("protocol.version={version}");
        // What the client has is left out of what it gets.
        git::run(
            &into,
            &["-c", &setting, "fetch", "-q", &url, "refs/heads/main"],
        );
        git::run(
            &into,
            &["-c", &setting, "fetch", "-q", "--no-tags", &url, &id],
        );
        git::run(&into, &["checkout", "-q", "--detach", "FETCH_HEAD"]);
        assert_eq!(git::text(&into, &["rev-parse", "HEAD"]), id);
        git::run(&into, &["fsck", "--full", "--strict", "--no-dangling"]);
        let absent = "3".repeat(40);
        let got = git::output(&into, &["-c", &setting, "fetch", "-q", &url, &absent]);
        let said = String::from_utf8_lossy(&got.stderr).into_owned();
        assert!(
            !got.status.success() && said.contains("not our ref"),
            "{version}: {said}"
        );
        remove(&into);
    }
    assert!(fetches(&server, "given") == 3);
    server.stop();
}

/// `ensure-refs` says that it is there, and then it is.
#[test]
fn ensured_commits_are_there_for_git() {
    let lab = small_lab();
    let id = pull(&lab, 7, b"of a pull request\n");
    let server = lab.settings().with(&FAR).start();
    let answer = ensure(&server, NAME, &format!(r#"{{"commits":["{id}"]}}"#));
    assert_eq!(answer["missing_commits"], serde_json::json!([]));
    assert!(annex(&lab).join("tips").exists(), "it is in the mirror");
    lab.hide(NAME);
    let into = lab.scratch("by-id");
    lab::create_dir(&into);
    git::run(&into, &["init", "-q"]);
    let url = format!("http://{}/git/test/{NAME}", server.address());
    git::run(&into, &["fetch", "-q", &url, &id]);
    assert_eq!(git::text(&into, &["rev-parse", "FETCH_HEAD"]), id);
    assert_eq!(commit_of(&by_id(&server, &id).expect(200)), Some(&*id));
    server.stop();
}

/// Once a followed ref leads to it, it is the mirror's, and not fetched again.
#[test]
fn what_is_merged_leaves_the_annex() {
    let lab = small_lab();
    let id = pull(&lab, 7, b"of a pull request\n");
    let times = ["--maintenance-idle", "1s"];
    let upstream = Upstream::new(lab.upstreams());
    let server = over_http(&lab, &upstream).with(&times).start();
    hit(&server, NAME);
    let before = kept(&server, &id);
    let questions = upstream.asked().len();
    let tips = || std::fs::read_to_string(annex(&lab).join("tips")).unwrap();
    assert!(tips().contains(&id));
    let up = lab.upstream(NAME);
    git::run(&up, &["update-ref", "refs/heads/main", &id]);
    ensure(&server, NAME, r#"{"refs":{"refs/heads/absent":""}}"#);
    wait::until_true("it has left the annex", || !tips().contains(&id));
    let asked = upstream.asked();
    let fetches = asked[questions..].iter().filter(|one| {
        let body = String::from_utf8_lossy(&one.body);
        body.contains("command=fetch")
    });
    assert_eq!(fetches.count(), 0, "it is fetched again");
    let packs = || {
        std::fs::read_dir(annex(&lab).join("objects/pack"))
            .unwrap()
            .count()
    };
    wait::until_true("its pack has left, too", || packs() == 0);
    assert_eq!(
        by_id(&server, &id).expect(200).head.etag(),
        before.head.etag()
    );
    server.stop();
    lab.expect_no_orphans();
}

/// A server that is killed at any moment leaves nothing behind, and what it has served is there.
#[test]
fn killed_at_any_moment() {
    const ROUNDS: u32 = 8;
    let lab = small_lab();
    let server = lab.settings().with(&FAR).start();
    hit(&server, NAME);
    server.stop();
    let mut rng = Rng::new(13);
    let mut ids = Vec::new();
    for round in 0..ROUNDS {
        ids.push(pull(&lab, round, &rng.text(2000)));
        let mut server = lab.settings().with(&FAR).start();
        let id = ids.last().unwrap();
        let query = target(&format!("commit={id}"));
        let mut conn = Conn::open(server.address());
        conn.request("GET", &query, &[]);
        std::thread::sleep(Duration::from_millis(rng.below(120)));
        server.kill();
    }
    let server = lab.settings().with(&FAR).start();
    for id in &ids {
        let body = kept(&server, id).body;
        let unpacked = lab.unpack(&body, "unpacked");
        assert_eq!(&git::text(&unpacked, &["rev-parse", "HEAD"]), id);
        git::run(&unpacked, &["fsck", "--full", "--strict", "--no-dangling"]);
        remove(&unpacked);
    }
    wait::until_true("nothing is left of what was killed", || {
        let names = |dir: PathBuf| {
            std::fs::read_dir(dir)
                .unwrap()
                .map(|e| e.unwrap().file_name())
        };
        let mut all = names(annex(&lab)).chain(names(annex(&lab).join("objects/pack")));
        all.all(|name| !name.to_string_lossy().contains("tmp_"))
    });
    server.stop();
    lab.expect_no_orphans();
}

/// What it takes of the disk counts, with its mirror.
#[test]
fn its_bytes_are_the_mirrors() {
    const BYTES: usize = 3 << 20;
    let lab = small_lab();
    let id = pull(&lab, 7, &Rng::new(14).bytes(BYTES));
    let server = lab.settings().with(&FAR).start();
    hit(&server, NAME);
    let bytes = || {
        let part = [("part", "mirrors")];
        server.metrics().count("tarpon_cache_part_bytes", &part)
    };
    wait::until_true("the mirror counts", || bytes() > 0);
    let before = bytes();
    kept(&server, &id);
    wait::until_true("the annex counts", || bytes() >= before + BYTES as u64);
    server.stop();
}

/// It is on a branch by now, and the annex has not dropped it yet.
#[test]
fn what_is_merged_meanwhile_is_built() {
    let lab = small_lab();
    let id = pull(&lab, 7, b"of a pull request\n");
    let server = lab.settings().with(&FAR).start();
    let answer = ensure(&server, NAME, &format!(r#"{{"commits":["{id}"]}}"#));
    assert_eq!(answer["missing_commits"], serde_json::json!([]));
    git::run(&lab.upstream(NAME), &["update-ref", "refs/heads/main", &id]);
    ensure(&server, NAME, r#"{"refs":{"refs/heads/absent":""}}"#);
    let tips = std::fs::read_to_string(annex(&lab).join("tips")).unwrap();
    assert!(tips.contains(&id));
    let unpacked = lab.unpack(&by_id(&server, &id).expect(200).body, "unpacked");
    assert_eq!(git::text(&unpacked, &["rev-parse", "HEAD"]), id);
    git::run(&unpacked, &["fsck", "--full", "--strict", "--no-dangling"]);
    server.stop();
}

/// A file of an annex that has rotted keeps no server from starting: what it named is not served on its word, and is
/// asked for again.
#[test]
fn a_damaged_list_of_tips_keeps_nothing_from_starting() {
    let lab = small_lab();
    let [first, second] = [1, 2].map(|number| pull(&lab, number, b"of a pull request\n"));
    let upstream = Upstream::new(lab.upstreams());
    let server = over_http(&lab, &upstream).start();
    let kept = [&first, &second].map(|id| kept(&server, id).head.etag().to_owned());
    server.stop();
    let tips = annex(&lab).join("tips");
    // One bad byte in the line of one.
    let mut bytes = std::fs::read(&tips).unwrap();
    let at = bytes
        .windows(first.len())
        .position(|part| part == first.as_bytes())
        .unwrap();
    bytes[at] = 0xff;
    std::fs::write(&tips, &bytes).unwrap();
    upstream.answer(Answers::Status("500 No", ""));
    let server = over_http(&lab, &upstream).start();
    let log = server.log();
    assert!(
        log.contains("tarpon-annex/tips") && log.contains("make no sense"),
        "{log}"
    );
    assert!(by_id(&server, &first).head.status >= 500);
    assert_eq!(by_id(&server, &second).expect(200).head.etag(), kept[1]);
    upstream.answer(Answers::Well);
    wait::until_true("it is asked for again", || {
        by_id(&server, &first).head.status == 200
    });
    server.stop();
    // Nor does one that cannot be read at all.
    std::fs::remove_file(&tips).unwrap();
    std::fs::create_dir(&tips).unwrap();
    let server = over_http(&lab, &upstream).start();
    for id in [&first, &second] {
        assert_eq!(commit_of(&by_id(&server, id).expect(200)), Some(&**id));
    }
    assert!(tips.is_file());
    server.stop();
    lab.expect_no_orphans();
}

/// What nobody wants any more leaves the annex, though its upstream would give it; who wants it again has it fetched.
#[test]
fn what_nobody_wants_leaves_the_annex() {
    let lab = small_lab();
    let content = Rng::new(15).bytes(3000);
    let id = pull(&lab, 7, &content);
    let times = ["--maintenance-idle", "1s", "--unreachable-expiry", "3s"];
    let server = lab.settings().with(&FAR).with(&times).start();
    hit(&server, NAME);
    kept(&server, &id);
    let packs = || {
        std::fs::read_dir(annex(&lab).join("objects/pack"))
            .unwrap()
            .count()
    };
    assert!(packs() > 0);
    wait::until_true("nothing of it is left", || {
        packs() == 0 && is_anywhere(&lab, &content[1000..1100]).is_empty()
    });
    assert_eq!(
        (fetches(&server, "given"), fetches(&server, "refused")),
        (1, 0)
    );
    assert_eq!(commit_of(&by_id(&server, &id).expect(200)), Some(&*id));
    assert_eq!(fetches(&server, "given"), 2);
    server.stop();
    lab.expect_no_orphans();
}
