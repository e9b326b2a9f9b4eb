//! `ensure-refs`: what a client needs is in the mirror, after a look at the upstream if need be.

use super::support::client::Response;
use super::support::git;
use super::support::lab::{self, Lab};
use super::support::repos;
use super::support::server::Server;
use super::support::wait;
use super::{at_once, ensure, small_lab, start_on_mirror};
use serde_json::json;
use std::net::TcpListener;

fn tip(lab: &Lab) -> String {
    git::text(&lab.upstream("small"), &["rev-parse", "refs/heads/main"])
}

fn ask(server: &Server, body: &str) -> Response {
    server.post_json(&lab::endpoint("small", "ensure-refs"), body)
}

/// What is there needs no look at the upstream, and none is claimed.
#[test]
fn what_is_there_costs_no_fetch() {
    let lab = small_lab();
    git::run(
        &lab.upstream("small"),
        &["tag", "-a", "v1", "-m", "one", "main"],
    );
    let server = start_on_mirror(&lab);
    let id = tip(&lab);
    let tag = git::text(&lab.upstream("small"), &["rev-parse", "refs/tags/v1"]);
    let questions = [
        json!({"refs": {"refs/heads/main": id}}),
        json!({"refs": {"refs/heads/main": ""}, "commits": []}),
        json!({"refs": {"refs/heads/main": id.to_uppercase(), "refs/tags/v1": tag}}),
        json!({"commits": [id], "unknown": 1}),
    ];
    for question in questions {
        let answer = ensure(&server, "small", &question.to_string());
        assert_eq!(answer["fetched"], false, "{question}: {answer}");
        assert_eq!(answer["missing_commits"], json!([]), "{question}");
        let asked = question["refs"].as_object().cloned().unwrap_or_default();
        for name in asked.keys() {
            let expected = if name.contains("tags") { &tag } else { &id };
            assert_eq!(answer["refs"][name], **expected, "{question}: {answer}");
        }
    }
    assert_eq!(server.fetches(), 1);
    lab.hide("small");
    let alone = ensure(&server, "small", &json!({"commits": [id]}).to_string());
    assert_eq!(alone["fetched"], false);
}

/// The first question clones, which is a fetch.
#[test]
fn the_first_question_clones() {
    let lab = small_lab();
    let server = lab.start();
    let question = json!({"refs": {"refs/heads/main": tip(&lab)}}).to_string();
    assert_eq!(ensure(&server, "small", &question)["fetched"], true);
    assert_eq!(ensure(&server, "small", &question)["fetched"], false);
    assert_eq!(server.metrics().count("tarpon_clones_total", &[]), 1);
    assert_eq!(server.fetches(), 0);
}

/// New, moved and new again: each is there after the answer, however short ago the fetch
/// before was, and `fetched` says what the counter says.
#[test]
fn what_is_missing_or_stale_is_fetched() {
    let lab = small_lab();
    let server = start_on_mirror(&lab);
    let upstream = lab.upstream("small");
    let mut fetches = 1;
    let mut expect = |question: serde_json::Value, refs: serde_json::Value| {
        let answer = ensure(&server, "small", &question.to_string());
        fetches += 1;
        assert_eq!(answer["fetched"], true, "{question}: {answer}");
        assert_eq!(answer["refs"], refs, "{question}");
        assert_eq!(answer["missing_commits"], json!([]), "{question}");
        assert_eq!(server.fetches(), fetches, "{question}");
    };
    git::run(&upstream, &["branch", "topic", "main"]);
    let main = tip(&lab);
    let topic = json!({"refs/heads/topic": main});
    expect(json!({"refs": {"refs/heads/topic": ""}}), topic);
    let stale = repos::add_commit(&upstream, "main", "a.txt", b"a\n");
    let moved = json!({"refs/heads/main": stale});
    expect(json!({"refs": {"refs/heads/main": stale}}), moved);
    let commit = repos::add_commit(&upstream, "topic", "b.txt", b"b\n");
    expect(json!({"commits": [commit, main]}), json!({}));
    let there = git::text(&lab.mirror("small"), &["rev-parse", "refs/heads/topic"]);
    assert_eq!(there, commit);
}

/// What nobody has is said to be missing, after a look that really ran, each time.
#[test]
fn what_nobody_has() {
    let lab = small_lab();
    let server = start_on_mirror(&lab);
    let (main, nothing) = (tip(&lab), "12".repeat(20));
    let long = "12".repeat(32);
    let question = json!({
        "refs": {"refs/heads/main": nothing, "refs/heads/absent": ""},
        "commits": [nothing, main, long],
    });
    for looks in 2..=3 {
        let answer = ensure(&server, "small", &question.to_string());
        assert_eq!(answer["fetched"], true);
        let refs = json!({"refs/heads/main": main, "refs/heads/absent": ""});
        assert_eq!(answer["refs"], refs);
        assert_eq!(answer["missing_commits"], json!([nothing, long]));
        assert_eq!(server.fetches(), looks);
    }
    // A commit that no followed ref leads to is asked for by its id.
    let upstream = lab.upstream("small");
    let tree = "refs/heads/main^{tree}";
    let pull = git::text(&upstream, &["commit-tree", tree, "-m", "a pull request"]);
    git::run(&upstream, &["update-ref", "refs/pull/1/head", &pull]);
    let question = json!({"commits": [pull]}).to_string();
    let answer = ensure(&server, "small", &question);
    assert_eq!(answer["missing_commits"], json!([]));
    assert_eq!(answer["fetched"], true);
}

/// An upstream is asked for an id once in a while, however often a client asks for it.
#[test]
fn what_the_upstream_lacks_is_remembered_for_a_while() {
    let lab = small_lab();
    let server = start_on_mirror(&lab);
    let upstream = lab.upstream("small");
    let tree = "refs/heads/main^{tree}";
    let pull = git::text(&upstream, &["commit-tree", tree, "-m", "a pull request"]);
    let object = upstream.join("objects").join(&pull[..2]).join(&pull[2..]);
    let hidden = lab.scratch("hidden-object");
    std::fs::rename(&object, &hidden).unwrap();
    let question = json!({"commits": [pull]}).to_string();
    let missing = || ensure(&server, "small", &question)["missing_commits"].clone();
    assert_eq!(missing(), json!([pull]));
    std::fs::rename(&hidden, &object).unwrap();
    git::run(&upstream, &["update-ref", "refs/pull/1/head", &pull]);
    let looks = server.fetches();
    for _ in 0..3 {
        assert_eq!(missing(), json!([pull]), "it was asked for again");
    }
    assert_eq!(server.fetches(), looks + 3, "new refs are looked for");
    let other = git::text(&upstream, &["commit-tree", tree, "-m", "another"]);
    git::run(&upstream, &["update-ref", "refs/pull/2/head", &other]);
    let both = json!({"commits": [pull, other]}).to_string();
    assert_eq!(
        ensure(&server, "small", &both)["missing_commits"],
        json!([pull])
    );
    wait::until_true("it is asked for again", || missing() == json!([]));
}

/// Everybody who asks at once hears of the new commit, and few comparisons serve them all.
#[test]
fn many_ask_at_once() {
    let lab = small_lab();
    let server = start_on_mirror(&lab);
    let id = repos::add_commit(&lab.upstream("small"), "main", "a.txt", b"a\n");
    let question = json!({"refs": {"refs/heads/main": id}}).to_string();
    let answers = at_once(16, |_| ensure(&server, "small", &question));
    assert!(answers.iter().any(|answer| answer["fetched"] == true));
    for answer in &answers {
        assert_eq!(answer["refs"]["refs/heads/main"], *id, "{answer}");
    }
    assert!((2..=4).contains(&server.fetches()), "{}", server.fetches());
}

#[test]
fn what_is_not_understood() {
    let lab = small_lab();
    let server = lab.start();
    let id = tip(&lab);
    let bodies = [
        String::new(),
        "no json".into(),
        "{}".into(),
        "[]".into(),
        json!({"refs": {}, "commits": []}).to_string(),
        json!({"refs": {"main": ""}}).to_string(),
        json!({"refs": {"refs/heads/a..b": ""}}).to_string(),
        json!({"refs": {"refs/heads/main": "main"}}).to_string(),
        json!({"commits": [id[1..]]}).to_string(),
        json!({"commits": ["--all"]}).to_string(),
        format!(r#"{{"commits":["{id}"]"#),
    ];
    for body in bodies {
        let answer = ask(&server, &body).expect(400);
        let text = answer.text();
        assert_eq!(text.trim_end().lines().count(), 1, "{body}: {text}");
    }
    let huge = format!(r#"{{"commits":["{}"]}}"#, "a".repeat(300 << 10));
    let answer = ask(&server, &huge);
    assert_eq!(answer.head.status, 413, "{:?}", answer.head);
    let get = server
        .get(&lab::endpoint("small", "ensure-refs"))
        .expect(405);
    assert_eq!(get.head.get("allow"), Some("POST"));
    assert!(!lab.mirror("small").exists(), "a wrong question cloned");
}

/// When the upstream cannot be asked, what is missing is 502 and not "missing".
#[test]
fn the_upstream_is_gone() {
    let lab = small_lab();
    lab.place_mirror("small");
    let unused = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let unused = unused.unwrap_or_else(|e| panic!("no port: {e}"));
    let mut settings = lab.settings();
    settings.upstreams.push(format!("dead=http://{unused}/"));
    let server = settings.start();
    lab.hide("small");
    let question = json!({"commits": ["12".repeat(20)]}).to_string();
    for (target, status) in [
        (lab::endpoint("small", "ensure-refs"), 502),
        ("/git/dead/small/ensure-refs".into(), 502),
        (lab::endpoint("absent", "ensure-refs"), 404),
        ("/git/unknown/small/ensure-refs".into(), 403),
    ] {
        let answer = server.post_json(&target, &question);
        let answer = answer.expect(status);
        let text = answer.text();
        assert_eq!(text.trim_end().lines().count(), 1, "{target}: {text}");
    }
}
