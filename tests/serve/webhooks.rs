//! Webhooks of the large hosts, with real signatures.

use super::support::client::{self, Response};
use super::support::lab::{self, Lab};
use super::support::server::{Server, Settings};
use super::support::{git, repos, wait};
use super::{hit, small_lab};
use hmac::{Hmac, Mac};
use rustix::process::Signal;
use sha2::Sha256;
use std::time::{Duration, Instant};

const SECRET: &str = "it is a secret";

/// Settings of a server that does nothing by itself and believes [`SECRET`] of host `test`.
fn settings(lab: &Lab) -> Settings {
    let file = lab.scratch("secrets");
    write(&file, &format!("# ours\ntest other\ntest {SECRET}\n"));
    let file = file.to_string_lossy();
    let arguments = ["--fetch-interval", "720h", "--webhook-secrets", &file];
    lab.settings().with(&arguments)
}

fn write(path: &std::path::Path, text: &str) {
    std::fs::write(path, text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}

/// The signature of a body.
fn signature(secret: &str, body: &[u8]) -> String {
    let mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes());
    let mut mac = mac.unwrap_or_else(|e| panic!("{e}"));
    mac.update(body);
    let made = mac.finalize().into_bytes();
    made.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The example that GitHub gives.
#[test]
fn signatures_are_those_of_the_hosts() {
    let made = signature("It's a Secret to Everybody", b"Hello, World!");
    let given = "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
    assert_eq!(made, given);
}

fn push(lab: &Lab, name: &str) -> String {
    repos::add_commit(&lab.upstream("small"), "main", name, name.as_bytes())
}

/// A push as GitHub and Gitea tell it.
fn payload(commit: &str) -> String {
    format!(
        r#"{{"ref":"refs/heads/main","before":"1","after":"{commit}","commits":[{{"id":"x"}}],
            "repository":{{"id":1,"full_name":"Small"}},"deleted":false,"forced":false}}"#
    )
}

fn post(server: &Server, target: &str, fields: &[&str], body: &[u8]) -> Response {
    client::post(server.address(), target, fields, body)
}

/// The same with a signature as GitHub's.
fn post_signed(server: &Server, target: &str, fields: &[&str], body: &[u8]) -> Response {
    let signed = format!("X-Hub-Signature-256: sha256={}", signature(SECRET, body));
    let fields = [fields, &[&*signed]].concat();
    post(server, target, &fields, body)
}

/// Panics unless a plain request hits `commit`, soon.
fn expect_hit(server: &Server, commit: &str) {
    wait::until_true("the new commit is served from the cache", || {
        let answer = server.get(&lab::target("small")).expect(200);
        let outcome = answer.head.get("cache-status") == Some("tarpon; hit");
        outcome && answer.head.get("x-cachew-snapshot-commit") == Some(commit)
    });
}

fn count(server: &Server, result: &str) -> u64 {
    let labels = [("result", result)];
    server.metrics().count("tarpon_webhooks_total", &labels)
}

#[test]
fn each_hosts_webhook_brings_what_was_pushed() {
    let lab = small_lab();
    let server = settings(&lab).start();
    hit(&server, "small");
    let own = lab::endpoint("small", "webhook");
    let json = "Content-Type: application/json";
    // GitHub, for one repository and for all.
    for target in [&*own, "/webhook"] {
        let body = payload(&push(&lab, &target[1..].replace('/', "-")));
        let began = Instant::now();
        post_signed(
            &server,
            target,
            &[json, "X-GitHub-Event: push"],
            body.as_bytes(),
        )
        .expect(202);
        let commit = git::text(&lab.upstream("small"), &["rev-parse", "main"]);
        expect_hit(&server, &commit);
        assert!(began.elapsed() < Duration::from_secs(20));
    }
    // As a form.
    let commit = push(&lab, "form");
    let encoded: String = payload(&commit)
        .bytes()
        .map(|byte| format!("%{byte:02X}"))
        .collect();
    let form = "Content-Type: application/x-www-form-urlencoded";
    let body = format!("payload={encoded}");
    post_signed(
        &server,
        "/webhook",
        &[form, "X-GitHub-Event: push"],
        body.as_bytes(),
    )
    .expect(202);
    expect_hit(&server, &commit);
    // GitLab: the secret itself.
    let commit = push(&lab, "gitlab");
    let body = format!(
        r#"{{"object_kind":"push","ref":"refs/heads/main","after":"{commit}",
            "project":{{"path_with_namespace":"small"}}}}"#
    );
    let token = format!("X-Gitlab-Token: {SECRET}");
    let fields = [json, "X-Gitlab-Event: Push Hook", &token];
    post(&server, "/webhook", &fields, body.as_bytes()).expect(202);
    expect_hit(&server, &commit);
    // Gitea and Forgejo.
    for (kind, name) in [("Gitea", "gitea"), ("Forgejo", "forgejo")] {
        let commit = push(&lab, name);
        let body = payload(&commit);
        let signed = format!(
            "X-{kind}-Signature: {}",
            signature("other", body.as_bytes())
        );
        let event = format!("X-{kind}-Event: push");
        post(&server, &own, &[json, &event, &signed], body.as_bytes()).expect(202);
        expect_hit(&server, &commit);
    }
    assert_eq!(
        (count(&server, "accepted"), count(&server, "refused")),
        (6, 0)
    );
}

/// Waits for a line of the log that has all of these in it.
fn logged(server: &Server, all: &[&str]) {
    wait::until_true(&format!("{all:?} is logged"), || {
        let log = server.log();
        let mut lines = log.lines();
        lines.any(|line| all.iter().all(|text| line.contains(text)))
    });
}

/// What runs without secrets says so.
#[test]
fn a_server_without_secrets_says_that_it_takes_no_webhooks() {
    let lab = small_lab();
    let server = lab.settings().with(&["--fetch-interval", "720h"]).start();
    let refused = post_signed(&server, "/webhook", &["X-GitHub-Event: push"], b"{}");
    let text = refused.expect(401).text().to_owned();
    assert!(text.contains("runs without --webhook-secrets"), "{text}");
}

#[test]
fn what_is_not_signed_is_refused() {
    let lab = small_lab();
    let server = settings(&lab).start();
    hit(&server, "small");
    let body = payload(&push(&lab, "new"));
    let (body, own) = (body.as_bytes(), lab::endpoint("small", "webhook"));
    let good = signature(SECRET, body);
    let wrong = [
        String::new(),
        "X-Hub-Signature-256: sha256=".to_owned(),
        format!("X-Hub-Signature-256: {good}"),
        format!("X-Hub-Signature-256: sha256={}", signature("guess", body)),
        format!("X-Hub-Signature-256: sha256={}", &good[..62]),
        format!("X-Hub-Signature: sha1={}", &good[..40]),
        "X-Gitlab-Token: guess".to_owned(),
        "X-Gitlab-Token:".to_owned(),
        format!("X-Gitea-Signature: {}", signature(SECRET, b"another body")),
    ];
    for field in wrong {
        let event = ["X-GitHub-Event: push", &field];
        let fields = if field.is_empty() {
            &event[..1]
        } else {
            &event[..]
        };
        for target in [&*own, "/webhook"] {
            post(&server, target, fields, body).expect(401);
        }
    }
    // The secret of one host says nothing of another.
    let elsewhere = "/git/github.com/small/webhook";
    post_signed(&server, elsewhere, &["X-GitHub-Event: push"], body).expect(401);
    // The log says why, and of which repository as far as that stands in the URL.
    logged(&server, &["test/small", "it has no signature"]);
    logged(&server, &["test/small", "its signature is of no secret"]);
    logged(
        &server,
        &["github.com/small", "there is no secret of its host"],
    );
    logged(&server, &["\"path\":\"/webhook\"", "it has no signature"]);
    assert!(!server.log().contains(SECRET));
    assert_eq!(server.fetches(), 0);
    assert_eq!(count(&server, "accepted"), 0);
}

#[test]
fn what_says_nothing_new_does_nothing() {
    let lab = small_lab();
    let server = settings(&lab).start();
    hit(&server, "small");
    let body = payload("1");
    for event in ["ping", "issues", "star"] {
        let event = format!("X-GitHub-Event: {event}");
        let answer = post_signed(&server, "/webhook", &[&event], body.as_bytes()).expect(204);
        assert!(answer.body.is_empty());
    }
    logged(
        &server,
        &["test/Small", "nothing follows from an event", "ping"],
    );
    // A repository that nobody has asked for is not cloned.
    lab::copy_tree(&lab.upstream("small"), &lab.upstream("other"));
    let other = body.replace("Small", "other");
    for target in ["/webhook", "/git/test/other/webhook"] {
        let event = ["X-GitHub-Event: push"];
        post_signed(&server, target, &event, other.as_bytes()).expect(202);
        logged(&server, &["nothing follows from a webhook", "other"]);
    }
    assert_eq!((count(&server, "ignored"), server.fetches()), (3, 0));
    assert!(!lab.mirror("other").exists());
}

/// A host that repeats itself, or tells of each of many pushes, costs one comparison a second.
#[test]
fn repeated_ones_cost_one_comparison_a_second() {
    let lab = small_lab();
    let server = settings(&lab).start();
    hit(&server, "small");
    let commit = push(&lab, "new");
    let body = payload(&commit);
    let began = Instant::now();
    for _ in 0..50 {
        let event = ["X-GitHub-Event: push"];
        post_signed(&server, "/webhook", &event, body.as_bytes()).expect(202);
    }
    let most = 2 + began.elapsed().as_secs();
    expect_hit(&server, &commit);
    let looks = server
        .metrics()
        .count("tarpon_comparisons_total", &[("cause", "webhook")]);
    assert!((1..=most).contains(&looks), "{looks} of {most}");
    assert_eq!(server.builds("complete"), 2);
}

#[test]
fn a_large_one_is_read_and_a_larger_one_refused() {
    let lab = small_lab();
    let server = settings(&lab).start();
    hit(&server, "small");
    let before = server.rss_anon_bytes();
    let commit = push(&lab, "new");
    let padded = |bytes: usize| {
        let start = r#"{"commits":[""#.to_owned() + &"x".repeat(bytes) + r#""],"#;
        start + &payload(&commit)[1..]
    };
    let event = ["X-GitHub-Event: push"];
    post_signed(&server, "/webhook", &event, padded(20_000_000).as_bytes()).expect(202);
    expect_hit(&server, &commit);
    let grown = server.rss_anon_bytes().saturating_sub(before);
    assert!(grown < 16 << 20, "{grown} bytes were kept");
    let large = padded(27_000_000);
    let signed = format!(
        "X-Hub-Signature-256: sha256={}",
        signature(SECRET, large.as_bytes())
    );
    let mut conn = client::Conn::open(server.address());
    let length = format!("Content-Length: {}", large.len());
    conn.request(
        "POST",
        "/webhook",
        &[&length, &signed, "X-GitHub-Event: push"],
    );
    let head = conn.read_head("POST").unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(head.status, 413);
}

/// Nobody makes a core work for long who proves nothing: the more secrets a body is to be compared with, the less
/// of it is read.
#[test]
fn the_more_secrets_there_are_the_smaller_is_what_is_compared_with_them() {
    let lab = small_lab();
    let mut settings = settings(&lab);
    settings.upstreams.push("other=file:///nowhere/".into());
    let others: String = (0..60).map(|n| format!("other secret-{n}\n")).collect();
    let file = lab.scratch("secrets");
    write(&file, &format!("{others}test {SECRET}\n"));
    let server = settings.start();
    hit(&server, "small");
    let body = payload("1").replacen('{', &format!("{{\"x\":\"{}\",", "x".repeat(3 << 20)), 1);
    let event = ["X-GitHub-Event: push"];
    let own = lab::endpoint("small", "webhook");
    post_signed(&server, &own, &event, body.as_bytes()).expect(202);
    post_signed(&server, "/webhook", &event, payload("1").as_bytes()).expect(202);
    // Refused by its length, before any of it comes.
    let signed = signature(SECRET, body.as_bytes());
    let signed = format!("X-Hub-Signature-256: sha256={signed}");
    let length = format!("Content-Length: {}", body.len());
    let mut conn = client::Conn::open(server.address());
    conn.request("POST", "/webhook", &[&length, &signed, event[0]]);
    assert_eq!(conn.read_head("POST").unwrap().status, 413);
}

/// Another secret takes effect while the server runs; a file that is wrong, or does not answer, changes nothing.
#[test]
fn secrets_are_read_anew() {
    let lab = small_lab();
    let mut settings = settings(&lab);
    // Without a terminal.
    settings.launcher = vec!["setsid".into()];
    let mut server = settings.start();
    hit(&server, "small");
    let file = lab.scratch("secrets");
    let (body, event) = (payload("1"), ["X-GitHub-Event: ping"]);
    let is_believed = |server: &Server| {
        let answer = post_signed(server, "/webhook", &event, body.as_bytes());
        answer.head.status == 204
    };
    assert!(is_believed(&server));
    write(&file, "test\n");
    server.signal(Signal::HUP);
    server.wait_logged("line 1: write HOST SECRET");
    assert!(is_believed(&server));
    std::fs::remove_file(&file).unwrap();
    let made = std::process::Command::new("mkfifo").arg(&file).status();
    assert!(made.unwrap().success());
    server.signal(Signal::HUP);
    server.wait_logged("no regular file");
    std::fs::remove_file(&file).unwrap();
    write(&file, "test another\n");
    assert!(is_believed(&server), "nobody has asked for it");
    server.signal(Signal::HUP);
    wait::until_true("it is not believed any more", || !is_believed(&server));
    write(&file, &format!("test another\ntest {SECRET}\n"));
    server.signal(Signal::HUP);
    wait::until_true("it is believed again", || is_believed(&server));
    assert!(!server.log().contains(SECRET));
    server.stop();
    // At the start it is an error.
    write(&file, "nobody.example x\n");
    let Err(ended) = settings_with(&lab, &file).try_start() else {
        panic!("it has started");
    };
    assert!(ended.log.contains("is no upstream"), "{}", ended.log);
}

fn settings_with(lab: &Lab, file: &std::path::Path) -> Settings {
    let file = file.to_string_lossy();
    lab.settings().with(&["--webhook-secrets", &file])
}

/// What there is of a repository, to be looked at.
#[test]
fn the_status_says_what_there_is() {
    let lab = small_lab();
    let server = settings(&lab).start();
    let target = lab::endpoint("small", "status");
    let status = || -> serde_json::Value {
        let answer = server.get(&target).expect(200);
        assert_eq!(answer.head.get("content-type"), Some("application/json"));
        serde_json::from_slice(&answer.body).unwrap_or_else(|e| panic!("{}: {e}", answer.text()))
    };
    server.get(&target).expect(404);
    assert!(!lab.mirror("small").exists(), "a look makes nothing");
    server.get(&lab::target("none")).expect(404);
    let failed = server.get(&lab::endpoint("none", "status")).expect(200);
    let failed: serde_json::Value = serde_json::from_slice(&failed.body).unwrap();
    let clone = &failed["clone"];
    assert_eq!(failed["state"], "not_cloned");
    let error = clone["error"].as_str().unwrap_or_default();
    assert!(error.contains("no repository"), "{failed}");
    assert!(clone["again_in_s"].as_u64() <= Some(10) && clone["error_age_s"].is_u64());
    let answer = hit(&server, "small");
    let found = wait::until("its build has ended", || {
        Some(status()).filter(|found| found["state"] == "ready")
    });
    let commit = git::text(&lab.upstream("small"), &["rev-parse", "HEAD"]);
    assert_eq!(found["repository"], "test/small");
    assert_eq!(found["head"]["branch"], "refs/heads/main");
    assert_eq!(found["head"]["commit"], *commit);
    let snapshot = &found["snapshots"][0];
    assert_eq!(snapshot["commit"], *commit);
    assert_eq!(snapshot["size_bytes"], answer.body.len());
    assert_eq!(snapshot["id"], answer.head.etag().trim_matches('"'));
    assert!(
        snapshot["parts"].as_u64() >= Some(2) && snapshot["age_s"].is_u64(),
        "{found}"
    );
    assert!(found["comparison"]["error"].is_null() && found["comparison"]["age_s"].is_u64());
    lab.hide("small");
    let fresh = ["Cache-Control: max-age=0"];
    server
        .fetch("GET", &lab::target("small"), &fresh)
        .expect(504);
    let found = status();
    let error = found["comparison"]["error"].as_str().unwrap_or_default();
    assert!(error.contains("no repository"), "{found}");
    assert!(found["comparison"]["error_age_s"].is_u64() && found["snapshots"][0]["id"].is_string());
}

/// A branch that somebody asked for within a day is built as soon as it is pushed.
#[test]
fn the_branch_that_was_pushed_is_there() {
    let lab = small_lab();
    git::run(&lab.upstream("small"), &["branch", "side", "main"]);
    let server = settings(&lab).start();
    hit(&server, "small");
    let target = lab::target("small") + "?ref=side";
    server.get(&target).expect(200);
    let commit = repos::add_commit(&lab.upstream("small"), "side", "side", b"side");
    let body = payload(&commit).replace("refs/heads/main", "refs/heads/side");
    post_signed(
        &server,
        "/webhook",
        &["X-GitHub-Event: push"],
        body.as_bytes(),
    )
    .expect(202);
    wait::until_true("it is built", || {
        let head = server.fetch("HEAD", &target, &[]).head;
        head.get("x-cachew-snapshot-commit") == Some(&*commit)
    });
    let fresh = server.fetch("GET", &target, &["Cache-Control: max-age=0"]);
    assert_eq!(
        fresh.expect(200).head.get("x-cachew-snapshot-commit"),
        Some(&*commit)
    );
    let newer = repos::add_commit(&lab.upstream("small"), "side", "newer", b"newer");
    let fresh = server.fetch("GET", &target, &["Cache-Control: max-age=0"]);
    assert_eq!(
        fresh.expect(200).head.get("x-cachew-snapshot-commit"),
        Some(&*newer)
    );
}
