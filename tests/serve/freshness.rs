//! How old what is served is: comparisons with upstreams, on request and by timer.

use super::support::client::Response;
use super::support::lab::{self, Lab};
use super::support::server::{Server, Settings};
use super::support::upstream::{Answers, Upstream};
use super::support::{git, repos, wait};
use super::{at_once, hit, remove, small_lab, wait_published};
use std::time::{Duration, Instant};

const FRESH: &str = "Cache-Control: max-age=0";

/// A lab whose upstream is asked by HTTP, and settings of a server that does nothing by itself.
fn http_lab() -> (Lab, Upstream, Settings) {
    let lab = small_lab();
    let upstream = Upstream::new(lab.upstreams());
    let mut settings = lab.settings().with(&["--fetch-interval", "720h"]);
    settings.upstreams = vec![upstream.named("test")];
    (lab, upstream, settings)
}

fn push(lab: &Lab, name: &str) -> String {
    repos::add_commit(&lab.upstream("small"), "main", name, name.as_bytes())
}

fn get(server: &Server, fields: &[&str]) -> Response {
    server.fetch("GET", &lab::target("small"), fields)
}

fn commit(answer: &Response) -> &str {
    let commit = answer.head.get("x-cachew-snapshot-commit");
    commit.unwrap_or_else(|| panic!("{:?}", answer.head))
}

/// Panics unless the archive unpacks to the commit that it names, whole and clean.
fn expect_sound(lab: &Lab, answer: &Response) {
    let unpacked = lab.unpack(&answer.body, "unpacked");
    assert_eq!(git::text(&unpacked, &["rev-parse", "HEAD"]), commit(answer));
    assert_eq!(git::text(&unpacked, &["status", "--porcelain"]), "");
    git::run(&unpacked, &["fsck", "--strict"]);
    remove(&unpacked);
}

fn age_s(answer: &Response) -> u64 {
    let age = answer.head.get("age").and_then(|age| age.parse().ok());
    age.unwrap_or_else(|| panic!("no Age: {:?}", answer.head))
}

fn comparisons(server: &Server, cause: &str) -> u64 {
    let labels = [("cause", cause)];
    server.metrics().count("tarpon_comparisons_total", &labels)
}

#[test]
fn who_asks_for_what_is_new_gets_it() {
    let (lab, upstream, settings) = http_lab();
    let server = settings.start();
    let old = hit(&server, "small");
    let new = push(&lab, "new.txt");
    assert!(commit(&get(&server, &[])) != new, "nobody asked for it");
    // git always sends this.
    assert!(commit(&get(&server, &["Pragma: no-cache"])) != new);
    let answer = get(&server, &[FRESH]).expect(200);
    assert_eq!(commit(&answer), new);
    assert_eq!(answer.head.get("cache-control"), Some("no-cache"));
    expect_sound(&lab, &answer);
    // A condition is one of what is there now.
    let tag = format!("If-None-Match: {}", answer.head.etag());
    get(&server, &[FRESH, &tag]).expect(304);
    push(&lab, "newer.txt");
    get(&server, &[FRESH, &tag]).expect(200);
    // Whoever names an archive goes on with that one.
    let looks = upstream.looks();
    let names = format!("If-Match: {}", old.head.etag());
    let part = get(&server, &[FRESH, &names, "Range: bytes=0-9"]).expect(206);
    assert_eq!(
        (part.body, upstream.looks()),
        (old.body[..10].to_vec(), looks)
    );
}

#[test]
fn what_is_young_enough_is_not_looked_at_again() {
    let (lab, upstream, settings) = http_lab();
    let server = settings.start();
    let answer = hit(&server, "small");
    assert!(age_s(&answer) < 60, "{:?}", answer.head);
    let new = push(&lab, "new.txt");
    let looks = upstream.looks();
    let answer = get(&server, &["Cache-Control: max-age=3600"]);
    assert!(commit(&answer) != new && upstream.looks() == looks);
    std::thread::sleep(Duration::from_millis(1100));
    assert!(age_s(&get(&server, &[])) >= 1);
    assert_eq!(commit(&get(&server, &["Cache-Control: max-age=1"])), new);
}

/// Whoever comes while a comparison runs that began before waits for the next one; all of these share it.
#[test]
fn many_who_ask_share_what_begins_after_them() {
    let (lab, upstream, settings) = http_lab();
    let server = settings.start();
    hit(&server, "small");
    let looks = upstream.looks();
    upstream.answer(Answers::Slowly(Duration::from_millis(300)));
    let answers = at_once(20, |number| {
        if number == 0 {
            return get(&server, &[FRESH]);
        }
        wait::until_true("the first runs", || upstream.looks() > looks);
        let new = if number == 1 {
            push(&lab, "new.txt")
        } else {
            String::new()
        };
        let answer = get(&server, &[FRESH]).expect(200);
        // Who has waited for long has an answer that began before it was known of what.
        assert!(new.is_empty() || answer.head.get("etag").is_none() || commit(&answer) == new);
        answer
    });
    assert!(answers.iter().all(|answer| answer.head.status == 200));
    assert!(server.fetches() <= 2, "{}", server.fetches());
    // The first build, and the one of what is new.
    wait_published(&server, "small");
    assert!(server.builds("complete") <= 2);
}

/// What is asked for plainly is answered at once, and looked at meanwhile.
#[test]
fn a_plain_request_has_the_upstream_looked_at() {
    let (lab, upstream, settings) = http_lab();
    let server = settings.with(&["--ref-check-interval", "1s"]).start();
    hit(&server, "small");
    upstream.answer(Answers::Slowly(Duration::from_millis(300)));
    let new = push(&lab, "new.txt");
    let began = Instant::now();
    wait::until_true("it is looked at", || {
        let asked = Instant::now();
        let answer = get(&server, &[]).expect(200);
        assert!(asked.elapsed() < Duration::from_millis(250), "it waited");
        std::thread::sleep(Duration::from_millis(50));
        commit(&answer) == new
    });
    assert!(began.elapsed() < Duration::from_secs(10));
    assert_eq!(comparisons(&server, "asked"), 0);
}

/// In use it is compared by timer, without anybody asking for it again.
#[test]
fn what_is_in_use_is_compared_by_timer() {
    let (lab, _upstream, settings) = http_lab();
    let server = settings.with(&["--ref-check-interval", "200ms"]).start();
    hit(&server, "small");
    let new = push(&lab, "new.txt");
    wait::until_true("it is built", || {
        let head = wait_published(&server, "small");
        head.get("x-cachew-snapshot-commit") == Some(&*new)
    });
    assert!(comparisons(&server, "timer") >= 1);
}

#[test]
fn an_upstream_that_fails_leaves_what_is_there() {
    let (lab, upstream, settings) = http_lab();
    let server = settings.start();
    let old = hit(&server, "small");
    let mirrored = || git::text(&lab.mirror("small"), &["for-each-ref"]);
    let refs = mirrored();
    push(&lab, "new.txt");
    let failures = [
        Answers::Status("500 Internal Server Error", ""),
        Answers::Garbage,
        Answers::Status(
            "401 Unauthorized",
            "WWW-Authenticate: Basic realm=\"x\"\r\n",
        ),
        Answers::Status("404 Not Found", ""),
    ];
    for (number, failure) in failures.into_iter().enumerate() {
        // An answer of the one before is believed no longer.
        upstream.answer(failure.clone());
        let failed = || {
            server
                .metrics()
                .count("tarpon_fetches_total", &[("result", "failed")])
        };
        wait::until_true("it is asked", || {
            let answer = get(&server, &[FRESH]);
            assert_eq!(answer.head.status, 504, "{failure:?}: {}", answer.text());
            std::thread::sleep(Duration::from_millis(50));
            failed() > number as u64
        });
        // Known to fail: nobody waits, and the upstream has rest.
        let (looks, began) = (upstream.looks(), Instant::now());
        get(&server, &[FRESH]).expect(504);
        assert!(began.elapsed() < Duration::from_secs(2) && upstream.looks() == looks);
        let stale = get(&server, &["Cache-Control: max-age=0, stale-if-error=600"]).expect(200);
        assert!(stale.body == old.body, "{failure:?}");
        get(&server, &["Cache-Control: max-age=0, stale-if-error=0"]).expect(504);
        assert!(get(&server, &[]).expect(200).body == old.body);
        assert_eq!(mirrored(), refs, "{failure:?}");
    }
    lab.expect_no_orphans();
}

/// One that does not answer holds nobody for ever; what is there is served.
#[test]
fn an_upstream_that_is_silent_is_waited_for_so_long() {
    let (_lab, upstream, settings) = http_lab();
    let server = settings.with_fault("cold-wait-ms=3000").start();
    let old = hit(&server, "small");
    upstream.answer(Answers::Never);
    let began = Instant::now();
    // It begins before it is known what there is, and ends with the old one.
    let answer = get(&server, &["Cache-Control: max-age=0, stale-if-error"]).expect(200);
    assert!(answer.head.is_chunked() && answer.body.ends_with(&old.body));
    assert!(
        began.elapsed() < Duration::from_secs(50),
        "{:?}",
        began.elapsed()
    );
    let info = lab::endpoint("small", "info/refs?service=git-upload-pack");
    let began = Instant::now();
    server.get(&info).expect(200);
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "{:?}",
        began.elapsed()
    );
}

/// A host that has enough of it is not asked by timer for as long as it says.
#[test]
fn a_host_that_asks_for_rest_has_it() {
    let (_lab, upstream, settings) = http_lab();
    let server = settings.with(&["--ref-check-interval", "100ms"]).start();
    hit(&server, "small");
    let pauses = || server.metrics().count("tarpon_upstream_pauses_total", &[]);
    upstream.answer(Answers::Status(
        "429 Too Many Requests",
        "Retry-After: 4\r\n",
    ));
    wait::until_true("it is heard", || pauses() == 1);
    // Who cannot do without hears whose limit it is, and that it passes.
    let refused = get(&server, &[FRESH]).expect(503);
    assert!(refused.head.get("retry-after").is_some());
    let text = refused.text();
    assert!(text.contains("limits how often it is asked"), "{text}");
    upstream.answer(Answers::Well);
    let (looks, began) = (upstream.looks(), Instant::now());
    while began.elapsed() < Duration::from_secs(3) {
        get(&server, &[]).expect(200);
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(upstream.looks(), looks, "it had no rest");
    // Who waits for it is not held up by that.
    wait::until_true("it is asked", || get(&server, &[FRESH]).head.status == 200);
    let looks = upstream.looks();
    wait::until_true("the timers go on", || {
        get(&server, &[]).expect(200);
        upstream.looks() > looks
    });
}

/// A replica that is late takes nothing away for longer than until the next look.
#[test]
fn a_replica_that_is_late() {
    let (lab, upstream, settings) = http_lab();
    let late = lab.scratch("late");
    lab::copy_tree(&lab.upstreams(), &late);
    let server = settings.start();
    hit(&server, "small");
    let new = push(&lab, "new.txt");
    assert_eq!(commit(&get(&server, &[FRESH])), new);
    upstream.answer(Answers::From(late));
    assert!(commit(&get(&server, &[FRESH])) != new);
    upstream.answer(Answers::Well);
    let answer = get(&server, &[FRESH]).expect(200);
    assert_eq!(commit(&answer), new);
    expect_sound(&lab, &answer);
}

/// A fetch right after a push through the server does not take the branch back.
#[test]
fn git_sees_what_was_pushed_before_it_asked() {
    let (lab, upstream, settings) = http_lab();
    let server = settings.start();
    let url = format!("http://{}/git/test/small", server.address());
    let clone = lab.scratch("clone");
    git::clone(&url, &clone);
    for name in ["one.txt", "two.txt"] {
        let new = push(&lab, name);
        git::run(&clone, &["fetch", "--quiet", "origin"]);
        assert_eq!(git::text(&clone, &["rev-parse", "origin/main"]), new);
    }
    // One that is slow is not waited for longer than a person would take for broken.
    push(&lab, "three.txt");
    upstream.answer(Answers::Slowly(Duration::from_secs(20)));
    let began = Instant::now();
    git::run(&clone, &["ls-remote", "--quiet", "origin"]);
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "{:?}",
        began.elapsed()
    );
}

/// Of what is not followed nothing is asked for.
#[test]
fn only_what_is_followed_is_listed() {
    let (lab, upstream, settings) = http_lab();
    let head = git::text(&lab.upstream("small"), &["rev-parse", "HEAD"]);
    git::run(
        &lab.upstream("small"),
        &["update-ref", "refs/pull/1/head", &head],
    );
    git::run(
        &lab.upstream("small"),
        &["update-ref", "refs/notes/x", &head],
    );
    let server = settings.with(&["--follow", "refs/notes/*"]).start();
    hit(&server, "small");
    let new = push(&lab, "new.txt");
    assert_eq!(commit(&get(&server, &[FRESH])), new);
    let refs = git::text(
        &lab.mirror("small"),
        &["for-each-ref", "--format=%(refname)"],
    );
    assert!(
        refs.contains("refs/notes/x") && !refs.contains("refs/pull"),
        "{refs}"
    );
    let posts = upstream
        .asked()
        .into_iter()
        .filter(|asked| asked.method == "POST");
    assert!(
        posts.count() >= 2,
        "refs are asked for by what they begin with"
    );
}

/// Many repositories in use: of their host so many comparisons begin in a second by themselves, and who waits
/// for one waits for none of these.
#[test]
fn of_one_host_so_many_begin_in_a_second() {
    const COUNT: usize = 40;
    let lab = small_lab();
    for number in 0..COUNT {
        let path = lab.upstream(&format!("tiny{number}"));
        lab::create_dir(&path);
        git::run(&path, &["init", "--quiet", "-b", "main"]);
        git::run(&path, &["commit", "--quiet", "--allow-empty", "-m", "x"]);
    }
    let upstream = Upstream::new(lab.upstreams());
    let rate = ["--ref-check-interval", "100ms", "--upstream-rate", "10"];
    let mut settings = lab.settings().with(&rate);
    settings.upstreams = vec![upstream.named("test")];
    let server = settings.start();
    let name = |number: usize| lab::target(&format!("tiny{number}"));
    for number in 0..COUNT {
        server.get(&name(number)).expect(200);
    }
    let timed = || comparisons(&server, "timer");
    let (before, began) = (timed(), Instant::now());
    let mut waits = Vec::new();
    while began.elapsed() < Duration::from_secs(4) {
        let asked = Instant::now();
        server
            .fetch("GET", &name(waits.len() % COUNT), &[FRESH])
            .expect(200);
        waits.push(asked.elapsed());
        std::thread::sleep(Duration::from_millis(100));
    }
    let most = 10 * began.elapsed().as_secs() + 10;
    let begun = timed() - before;
    assert!((10..=most).contains(&begun), "{begun} of {most}");
    waits.sort();
    let median = waits[waits.len() / 2];
    assert!(median < Duration::from_secs(1), "{waits:?}");
}
