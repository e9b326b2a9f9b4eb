//! Git's own protocol from the mirror, spoken by the real git.

use super::support::client::{Conn, End};
use super::support::lab::{self, Lab};
use super::support::repos::{self, FILE, Importer, Layout};
use super::support::server::Server;
use super::support::{client, git, parity, processes};
use super::{ensure, large_lab, new_lab, push_and_fetch, small_lab, start_on_mirror};
use std::process::Output;

fn url(server: &Server, name: &str) -> String {
    format!("http://{}/git/test/{name}", server.address())
}

/// git in the scratch directory, with a trace of its HTTP on stderr.
fn traced(lab: &Lab, args: &[&str]) -> Output {
    let mut command = git::command(&lab.scratch(""), args);
    command.env("GIT_TRACE_CURL", "1");
    let ended = command.output();
    ended.unwrap_or_else(|e| panic!("git {args:?} does not start: {e}"))
}

/// Like [`traced`] for what must succeed; gives the trace in lower case.
fn trace(lab: &Lab, args: &[&str]) -> String {
    let out = traced(lab, args);
    let stderr = String::from_utf8_lossy(&out.stderr).to_lowercase();
    let lines: Vec<&str> = stderr.lines().rev().take(20).collect();
    assert!(out.status.success(), "git {args:?}: {lines:#?}");
    stderr
}

/// Clones from the server and from the upstream are the same but for the origin's URL.
fn expect_same_clone(lab: &Lab, server: &Server, name: &str, settings: &[&str]) -> String {
    let (from, into) = (url(server, name), lab.scratch("clone"));
    let mut args = settings.to_vec();
    let into_text = into.to_string_lossy();
    args.extend(["clone", "--quiet", &from, &into_text]);
    let trace = trace(lab, &args);
    git::run(&into, &["remote", "set-url", "origin", &lab.url(name)]);
    let expected = lab.scratch("expected");
    git::clone(&lab.url(name), &expected);
    parity::expect_same_clones(&expected, &into, name);
    super::remove(&expected);
    super::remove(&into);
    trace
}

#[test]
fn a_clone_is_a_clone() {
    let lab = small_lab();
    let upstream = lab.upstream("small");
    git::run(&upstream, &["tag", "-a", "v1", "-m", "one", "main"]);
    git::run(&upstream, &["branch", "topic/deep", "main"]);
    let server = lab.start();
    let second = expect_same_clone(&lab, &server, "small", &[]);
    assert!(second.contains("git-protocol: version=2"), "not version 2");
    assert!(second.contains("application/x-git-upload-pack-result"));
    let zeroth = ["-c", "protocol.version=0"];
    let zeroth = expect_same_clone(&lab, &server, "small", &zeroth);
    assert!(!zeroth.contains("git-protocol"), "not version 0");
    let suffixed = url(&server, "small.git");
    trace(&lab, &["ls-remote", "--exit-code", &suffixed, "main"]);
    assert_eq!(server.metrics().count("tarpon_clones_total", &[]), 1);
}

#[test]
fn sha256_and_empty_repositories() {
    let lab = new_lab();
    repos::init_bare(&lab.upstream("wide"), "main", "sha256");
    let mut import = Importer::start(&lab.upstream("wide"), Layout::Packed);
    import.commit("refs/heads/main", "one");
    import.file(FILE, b"a.txt", b"a\n");
    import.finish();
    repos::init_bare(&lab.upstream("empty"), "trunk", "sha1");
    let server = lab.start();
    for name in ["wide", "empty"] {
        expect_same_clone(&lab, &server, name, &[]);
    }
}

#[test]
fn ls_remote_shows_what_the_mirror_has() {
    let lab = small_lab();
    let upstream = lab.upstream("small");
    git::run(&upstream, &["tag", "-a", "v1", "-m", "one", "main"]);
    let server = lab.start();
    for version in ["0", "1", "2"] {
        let setting = format!("protocol.version={version}");
        let listed = |from: &str| {
            let args = ["-c", &setting, "ls-remote", "--symref", from];
            git::text(&lab.scratch(""), &args)
        };
        assert_eq!(
            listed(&url(&server, "small")),
            listed(&lab.url("small")),
            "version {version}"
        );
    }
}

/// Refs that are followed are shown, too, and no others.
#[test]
fn ls_remote_shows_what_is_followed() {
    let lab = small_lab();
    let upstream = lab.upstream("small");
    for name in ["refs/pull/7/head", "refs/pull/8/head", "refs/other/one"] {
        git::run(&upstream, &["update-ref", name, "refs/heads/main"]);
    }
    let follow = ["--follow", "refs/pull/*"];
    let server = lab.settings().with(&follow).start();
    for version in ["0", "2"] {
        let setting = format!("protocol.version={version}");
        let args = ["-c", &setting, "ls-remote", &url(&server, "small")];
        let listed = git::text(&lab.scratch(""), &args);
        let names: Vec<&str> = listed.split_whitespace().skip(1).step_by(2).collect();
        let expected = [
            "HEAD",
            "refs/heads/main",
            "refs/pull/7/head",
            "refs/pull/8/head",
        ];
        assert_eq!(names, expected, "version {version}");
    }
}

/// A shallow clone has one commit, is deepened, and a partial one gets what it lacks later.
#[test]
fn shallow_and_partial_clones() {
    let lab = small_lab();
    let upstream = lab.upstream("small");
    for number in 0..5 {
        repos::add_commit(&upstream, "main", "counter.txt", &[b'0' + number]);
    }
    let server = lab.start();
    let from = url(&server, "small");
    for version in ["0", "2"] {
        let setting = format!("protocol.version={version}");
        let into = lab.scratch(&format!("shallow{version}"));
        let into_text = into.to_string_lossy();
        let args = ["-c", &setting, "clone", "--depth", "1", &from, &into_text];
        trace(&lab, &args);
        assert_eq!(git::text(&into, &["rev-list", "--count", "HEAD"]), "1");
        git::run(&into, &["-c", &setting, "fetch", "--quiet", "--unshallow"]);
        assert_eq!(git::text(&into, &["rev-list", "--count", "HEAD"]), "6");
        git::run(&into, &["fsck", "--strict"]);
    }
    let into = lab.scratch("partial");
    let into_text = into.to_string_lossy();
    let filter = "--filter=blob:none";
    trace(&lab, &["clone", "--quiet", filter, &from, &into_text]);
    let missing = ["rev-list", "--objects", "--all", "--missing=print"];
    assert!(git::text(&into, &missing).contains("\n?"), "not partial");
    assert_eq!(
        git::text(&into, &["show", "HEAD~3:counter.txt"]),
        "1",
        "a blob that comes later"
    );
}

/// What `ensure-refs` has fetched is there for the next `git fetch`, and a commit that no ref
/// has any more can be asked for by its id.
#[test]
fn fetches_bring_what_is_new() {
    let lab = small_lab();
    let server = lab.start();
    let (from, into) = (url(&server, "small"), lab.scratch("work"));
    trace(&lab, &["clone", "--quiet", &from, &into.to_string_lossy()]);
    let old = push_and_fetch(&lab, &server, "small", "new.txt", b"new\n");
    git::run(&into, &["pull", "--quiet", "--ff-only"]);
    assert_eq!(git::text(&into, &["rev-parse", "HEAD"]), old);

    let upstream = lab.upstream("small");
    git::run(
        &upstream,
        &["update-ref", "refs/heads/main", &format!("{old}^")],
    );
    let first = git::text(&upstream, &["rev-parse", "refs/heads/main"]);
    let json = format!(r#"{{"refs":{{"refs/heads/main":"{first}"}}}}"#);
    ensure(&server, "small", &json);
    let fresh = lab.scratch("fresh");
    trace(&lab, &["init", "--quiet", &fresh.to_string_lossy()]);
    for wanted in [&old, &first] {
        git::run(&fresh, &["fetch", "--quiet", "--depth=1", &from, wanted]);
        assert_eq!(git::text(&fresh, &["rev-parse", "FETCH_HEAD"]), **wanted);
    }
}

/// A commit that is younger than the mirror is fetched for who asks for it by its id.
#[test]
fn a_commit_that_the_mirror_lacks_is_fetched() {
    let lab = small_lab();
    let server = start_on_mirror(&lab);
    let new = repos::add_commit(&lab.upstream("small"), "main", "new.txt", b"new\n");
    let into = lab.scratch("fresh");
    trace(&lab, &["init", "--quiet", &into.to_string_lossy()]);
    let from = url(&server, "small");
    git::run(&into, &["fetch", "--quiet", "--depth=1", &from, &new]);
    assert_eq!(git::text(&into, &["rev-parse", "FETCH_HEAD"]), new);
    assert_eq!(server.fetches(), 2);

    let nothing = "12".repeat(20);
    let failed = git::output(&into, &["fetch", "--depth=1", &from, &nothing]);
    assert!(!failed.status.success());
    let stderr = String::from_utf8_lossy(&failed.stderr);
    assert!(stderr.contains("not our ref"), "{stderr}");
}

/// Requests of more than 1 KiB come compressed.
#[test]
fn compressed_requests() {
    let lab = small_lab();
    let upstream = lab.upstream("small");
    let mut import = Importer::start(&upstream, Layout::Packed);
    for number in 0..100 {
        import.commit(
            &format!("refs/heads/b{number}"),
            &format!("branch {number}"),
        );
        import.file(FILE, b"a.txt", format!("{number}\n").as_bytes());
    }
    import.finish();
    let server = lab.start();
    for version in ["0", "2"] {
        let setting = format!("protocol.version={version}");
        let trace = expect_same_clone(&lab, &server, "small", &["-c", &setting]);
        assert!(trace.contains("content-encoding: gzip"), "not compressed");
    }
}

#[test]
fn a_push_is_refused() {
    let lab = small_lab();
    let server = lab.start();
    let (from, into) = (url(&server, "small"), lab.scratch("work"));
    trace(&lab, &["clone", "--quiet", &from, &into.to_string_lossy()]);
    let commit = ["commit", "--quiet", "--allow-empty", "-m", "local"];
    git::run(&into, &commit);
    let pushed = git::output(&into, &["push", "origin", "main"]);
    assert!(!pushed.status.success(), "pushed");
    let stderr = String::from_utf8_lossy(&pushed.stderr);
    assert!(stderr.contains("403"), "{stderr}");
    let target = lab::endpoint("small", "info/refs?service=git-receive-pack");
    let answer = server.get(&target).expect(403);
    assert!(answer.text().contains("read-only"), "{}", answer.text());
    let receive = lab::endpoint("small", "git-receive-pack");
    let kind = "Content-Type: application/x-git-receive-pack-request";
    client::post(server.address(), &receive, &[kind], b"0000").expect(403);
}

/// What is no request of git's protocol gets a status, and never a hanging git.
#[test]
fn requests_that_are_none() {
    let lab = small_lab();
    let server = lab.start();
    let call = lab::endpoint("small", "git-upload-pack");
    let kind = "Content-Type: application/x-git-upload-pack-request";
    let post = |fields: &[&str], body: &[u8]| {
        let answer = client::post(server.address(), &call, fields, body);
        (answer.head.status, answer.text())
    };
    assert_eq!(post(&[], b"0000").0, 415);
    assert_eq!(post(&[kind, "Content-Encoding: br"], b"0000").0, 415);
    assert_eq!(post(&[kind, "Content-Encoding: gzip"], b"0000").0, 400);
    // No packet lines, a part of one, and lines that mean nothing in either version.
    let garbage: [&[u8]; 5] = [
        b"",
        b"this is no packet line",
        b"0032want 1234",
        b"0009hello",
        b"000ewant xyz\n\n0000",
    ];
    for body in garbage {
        for version in ["X: y", "Git-Protocol: version=1", "Git-Protocol: version=2"] {
            let (status, text) = post(&[kind, version], body);
            assert_eq!(status, 400, "{version}, {}: {text}", body.escape_ascii());
        }
    }
    let command = b"0013command=explode\n0000";
    assert_eq!(post(&[kind, "Git-Protocol: version=2"], command).0, 400);
    for service in ["", "?service=git-upload-archive", "?service="] {
        let target = lab::endpoint("small", &format!("info/refs{service}"));
        server.get(&target).expect(400);
    }
    let absent = lab::endpoint("absent", "info/refs?service=git-upload-pack");
    server.get(&absent).expect(404);
    let old = format!("GET {absent} HTTP/1.0\r\n\r\n");
    let mut conn = client::Conn::open(server.address());
    assert!(conn.send(old.as_bytes()).is_ok());
    conn.response("GET").expect(505);
}

/// Begins a clone of `large` and takes next to nothing of it; with the ids of the processes that make it.
fn begin_clone(lab: &Lab, server: &Server) -> (Conn, Vec<i32>) {
    let info = lab::endpoint("large", "info/refs?service=git-upload-pack");
    server.get(&info).expect(200);
    let commit = git::text(&lab.upstream("large"), &["rev-parse", "HEAD"]);
    let mut conn = Conn::open(server.address());
    let call = lab::endpoint("large", "git-upload-pack");
    let kind = "Content-Type: application/x-git-upload-pack-request";
    let request = format!("0032want {commit}\n00000009done\n");
    conn.post(&call, &[kind], request.as_bytes());
    assert_eq!(conn.read_head("POST").unwrap().status, 200);
    assert_eq!(conn.read_some(1000).unwrap().len(), 1000);
    let mirror = lab.mirror("large").display().to_string();
    let making = processes::ids(&["upload-pack", &mirror]);
    assert!(!making.is_empty(), "git has ended");
    (conn, making)
}

/// What git has written before it was killed is no answer.
#[test]
fn a_git_that_is_killed_in_the_middle_is_no_whole_answer() {
    let lab = large_lab();
    let server = lab.start();
    let (mut conn, making) = begin_clone(&lab, &server);
    for id in making {
        let id = rustix::process::Pid::from_raw(id).unwrap();
        // A starter ends with what it has started.
        let _ = rustix::process::kill_process(id, rustix::process::Signal::KILL);
    }
    let (end, _) = conn.copy_body(&mut std::io::sink()).unwrap();
    assert_eq!(end, End::Truncated);
    server.wait_logged("git upload-pack");
}

/// A client that leaves in the middle ends its git; one that takes its time gets all, in memory of the
/// kernel's alone, and in order.
#[test]
fn a_client_that_leaves_ends_git_and_a_slow_one_gets_all() {
    let lab = large_lab();
    let server = lab.start();
    let (conn, _) = begin_clone(&lab, &server);
    drop(conn);
    let mirror = lab.mirror("large").display().to_string();
    let making = || {
        let ids = processes::ids(&["upload-pack", &mirror]);
        ids.iter().map(ToString::to_string).collect()
    };
    processes::expect_ended("a client has left", making);
    let before = server.rss_anon_bytes();
    let mut slow: Vec<Conn> = (0..8).map(|_| begin_clone(&lab, &server).0).collect();
    let grown = server.rss_anon_bytes().saturating_sub(before);
    assert!(grown < 4 << 20, "{grown} bytes for 8 clients that wait");
    let mut bodies = slow.iter_mut().map(|conn| {
        let mut body = Vec::new();
        let (end, _) = conn.copy_body(&mut body).unwrap();
        assert_eq!(end, End::Complete);
        body
    });
    let first = bodies.next().unwrap();
    assert!(first.ends_with(b"0000") || first.len() > 20 << 20);
    assert!(bodies.all(|body| body.len().abs_diff(first.len()) < 1 << 20));
}
