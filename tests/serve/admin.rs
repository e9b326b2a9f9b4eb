//! What runs the server: by its own socket, or with a token.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::access::Tokens;
use super::support::client::Response;
use super::support::lab::{self, Lab};
use super::support::server::Server;
use super::support::upstream::{Answers, Upstream};
use super::support::{git, repos, wait};
use super::{hit, small_lab};

fn post(server: &Server, target: &str, fields: &[&str]) -> Response {
    super::support::client::post(server.address(), target, fields, b"")
}

/// Status and body of what curl is answered by way of a socket file.
fn by_socket(socket: &str, arguments: &[&str], target: &str) -> (String, String) {
    let output = Command::new("curl")
        .args(["-sS", "--unix-socket", socket, "-w", "\n%{http_code}"])
        .args(arguments)
        .arg(format!("http://server{target}"))
        .output()
        .unwrap_or_else(|e| panic!("curl: {e}"));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let (body, status) = said.rsplit_once('\n').unwrap_or_default();
    (status.to_owned(), body.to_owned())
}

#[test]
fn who_runs_the_server_has_a_repository_made_fetched_and_dropped() {
    let lab = small_lab();
    repos::add_commit(&lab.upstream("small"), "main", "two.txt", b"two\n");
    let tokens = Tokens::new(&lab);
    let file = tokens.file.to_string_lossy();
    let server = lab.settings().with(&["--tokens", &file]).start();
    let admin = tokens.admin.bearer();
    let of = |wish: &str| format!("/admin/git/test/small/{wish}");
    let cached = || server.fetch("HEAD", &lab::target("small"), &[]).head.status;
    let cloned = || {
        let complete = [("result", "complete")];
        server.metrics().count("tarpon_clones_total", &complete)
    };
    for (credential, status) in [
        (None, 401),
        (Some(tokens.read.bearer()), 404),
        (Some(tokens.metrics.bearer()), 404),
        (Some(tokens.foreign.bearer()), 404),
    ] {
        let fields: Vec<&str> = credential.iter().map(String::as_str).collect();
        for target in [
            of("prewarm"),
            of("refetch"),
            of("drop"),
            "/admin/log?filter=off".into(),
        ] {
            post(&server, &target, &fields).expect(status);
        }
    }
    assert_eq!((cached(), cloned()), (404, 0));
    post(&server, &of("drop"), &[&admin]).expect(404);
    post(&server, &of("prewarm"), &[&admin]).expect(202);
    wait::until_true("it is prewarmed", || cached() == 200);
    assert_eq!(cloned(), 1);
    post(&server, &of("refetch"), &[&admin]).expect(202);
    wait::until_true("it is cloned anew", || cloned() == 2);
    // All kinds of what there can be of it.
    let lost = lost_commit(&lab);
    for query in ["depth=1", "ref=main", &format!("commit={lost}")] {
        let target = format!("{}?{query}", lab::target("small"));
        server.get(&target).expect(200);
    }
    let base = git::text(&lab.upstream("small"), &["rev-parse", "main~1"]);
    let bundle = format!("snapshot.bundle?base={base}");
    server.get(&lab::endpoint("small", &bundle)).expect(200);
    wait::until_true("all is built", || {
        lab.entries().len() >= 4 && lab.orphans().is_empty()
    });
    assert!(lab.mirror("small").join("tarpon-annex").exists());
    post(&server, "/admin/git/TEST/small.git/drop", &[&admin]).expect(200);
    wait::until_true("nothing is left", || left(&lab.state()).is_empty());
    assert_eq!(cached(), 404);
    hit(&server, "small");
    assert_eq!(cloned(), 3);
    post(&server, "/admin/git/elsewhere.example/a/prewarm", &[&admin]).expect(403);
}

/// A commit that no ref of the upstream leads to.
fn lost_commit(lab: &Lab) -> String {
    let upstream = lab.upstream("small");
    git::run(
        &upstream,
        &["config", "uploadpack.allowAnySHA1InWant", "true"],
    );
    git::run(&upstream, &["branch", "lost", "main"]);
    let id = repos::add_commit(&upstream, "lost", "lost.txt", b"lost\n");
    git::run(&upstream, &["branch", "-D", "lost"]);
    id
}

/// All files below a state directory but the server's own.
fn left(state: &Path) -> Vec<PathBuf> {
    let (mut left, mut pending) = (Vec::new(), vec![state.to_owned()]);
    while let Some(dir) = pending.pop() {
        for found in fs::read_dir(&dir).unwrap().map(Result::unwrap) {
            let own = dir == state
                && ["lock", "running", "early"]
                    .iter()
                    .any(|own| found.file_name() == *own);
            match found.file_type().unwrap().is_dir() {
                true => pending.push(found.path()),
                false if own => {}
                false => left.push(found.path()),
            }
        }
    }
    left
}

/// Of a repository that cannot be cloned there are single commits, which leave as well.
#[test]
fn single_commits_are_dropped_too() {
    let lab = small_lab();
    let tokens = Tokens::new(&lab);
    let file = tokens.file.to_string_lossy();
    let upstream = Upstream::new(lab.upstreams());
    upstream.answer(Answers::NoClones);
    let mut settings = lab.settings().with(&["--tokens", &file]);
    settings.upstreams = vec![upstream.named("test")];
    let server = settings.start();
    let target = format!("{}?depth=1", lab::target("small"));
    let first = server.get(&target).expect(200);
    wait::until_true("it is in the cache", || {
        server.fetch("HEAD", &target, &[]).head.status == 200
    });
    assert!(
        left(&lab.state())
            .iter()
            .any(|file| file.starts_with(lab.state().join("tmp")))
    );
    wait::until_true("it is dropped", || {
        let drop = "/admin/git/test/small/drop";
        post(&server, drop, &[&tokens.admin.bearer()]).head.status == 200
    });
    assert_eq!(left(&lab.state()), Vec::<PathBuf>::new());
    assert_eq!(server.fetch("HEAD", &target, &[]).head.status, 404);
    let shallow = upstream.shallow_fetches();
    let again = server.get(&target).expect(200);
    let commit = |answer: &Response| {
        answer
            .head
            .get("x-cachew-snapshot-commit")
            .map(str::to_owned)
    };
    assert_eq!(commit(&again), commit(&first));
    assert!(
        upstream.shallow_fetches() > shallow,
        "it was not fetched anew"
    );
}

#[test]
fn the_log_is_filtered_otherwise() {
    let lab = small_lab();
    let tokens = Tokens::new(&lab);
    let file = tokens.file.to_string_lossy();
    let server = lab.settings().with(&["--tokens", &file]).start();
    let admin = tokens.admin.bearer();
    post(&server, "/admin/log?filter=a=b=c", &[&admin]).expect(400);
    post(&server, "/admin/log", &[&admin]).expect(400);
    post(&server, "/admin/log?filter=warn", &[&admin]).expect(200);
    let lines = || server.log().matches("\"request\"").count();
    post(&server, "/admin/log?filter=off", &[&admin]).expect(200);
    let before = lines();
    hit(&server, "small");
    post(&server, "/admin/log?filter=info", &[&admin]).expect(200);
    server.wait_logged("the log is filtered otherwise");
    let snapshots = server.log().matches("snapshot.tar.zst").count();
    assert!(snapshots == 0 && lines() <= before + 2, "{}", server.log());
}

/// The socket of `--admin-listen` gives the right, one of `--listen` does not.
#[test]
fn a_socket_of_its_own_is_who_runs_the_server() {
    let lab = small_lab();
    let (own, other) = (lab.scratch("admin"), lab.scratch("other"));
    let (own, other) = (own.to_string_lossy(), other.to_string_lossy());
    let listen = [
        "--listen",
        &format!("unix:{other}"),
        "--admin-listen",
        &format!("unix:{own}"),
    ];
    let server = lab.settings().with(&listen).start();
    hit(&server, "small");
    let (status, body) = by_socket(&own, &[], "/status");
    assert_eq!(status, "200", "{body}");
    let json: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(json["repositories"][0]["repository"], "test/small");
    assert_eq!(json["repositories"][0]["state"], "ready");
    let names = |socket: &str| {
        by_socket(socket, &[], "/metrics")
            .1
            .contains("\"test/small\"")
    };
    assert!(names(&own) && !names(&other));
    assert_eq!(by_socket(&other, &[], "/status").0, "401");
    assert_eq!(
        by_socket(&other, &["-X", "POST"], "/admin/git/test/small/drop").0,
        "401"
    );
    server.get("/status").expect(401);
    assert_eq!(
        by_socket(&own, &["-X", "POST"], "/admin/git/test/small/prewarm").0,
        "202"
    );
}

#[test]
fn a_page_of_another_site_has_nothing_done() {
    let lab = small_lab();
    let tokens = Tokens::new(&lab);
    let file = tokens.file.to_string_lossy();
    let server = lab.settings().with(&["--tokens", &file]).start();
    hit(&server, "small");
    let admin = tokens.admin.bearer();
    let ensure = lab::endpoint("small", "ensure-refs");
    for origin in [
        "Origin: http://evil.example",
        "Origin: null",
        "Origin: http://test.evil",
        "Origin: file://test",
    ] {
        post(&server, &ensure, &[origin]).expect(403);
        post(&server, "/admin/log?filter=info", &[origin, &admin]).expect(403);
        server
            .fetch("GET", &lab::target("small"), &[origin])
            .expect(200);
    }
    // The tests' client calls every server `test`.
    post(&server, &ensure, &["Origin: https://TEST"]).expect(400);
    post(
        &server,
        "/admin/log?filter=info",
        &["Origin: http://test", &admin],
    )
    .expect(200);
}
