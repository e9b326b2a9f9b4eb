//! Who may, where the upstream's own permission decides: a real git host behind Basic auth, with several users
//! and repositories.

use super::support::client::{Conn, Response, post};
use super::support::lab::{self, Lab};
use super::support::repos::{self, Shape};
use super::support::server::{Server, Settings};
use super::support::upstream::{Answers, Rights, Upstream, User};
use super::support::{git, wait};
use super::{new_lab, remove};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tarpon::manifest::parts::Manifest;

/// Nothing but what is asked for.
const FAR: [&str; 4] = ["--fetch-interval", "720h", "--scrub-interval", "0"];

/// Alice may read `private`, Bob `other`, everybody `public`.
pub(super) struct Host {
    pub lab: Lab,
    pub upstream: Upstream,
    pub alice: User,
    pub bob: User,
}

impl Host {
    pub fn new() -> Host {
        let lab = new_lab();
        for name in ["private", "other", "public"] {
            lab.generate(name, Shape::ManySmall, 100_000);
        }
        let upstream = Upstream::new(lab.upstreams());
        let host = Host {
            lab,
            upstream,
            alice: User::new("alice", &["private"]),
            bob: User::new("bob", &["other"]),
        };
        host.let_read(&[&host.alice, &host.bob]);
        host
    }

    pub fn let_read(&self, users: &[&User]) {
        self.upstream.let_read(Rights {
            users: users.iter().map(|user| (*user).clone()).collect(),
            public: vec!["public".to_owned()],
        });
    }

    pub fn settings(&self) -> Settings {
        let mut settings = self.lab.settings().with(&FAR);
        settings = settings.with(&["--no-default-upstreams", "--access", "test=upstream"]);
        settings.upstreams = vec![self.upstream.named("test")];
        settings
    }

    /// Panics unless a snapshot unpacks to what a repository has now.
    fn expect_head(&self, name: &str, body: &[u8]) {
        let unpacked = self.lab.unpack(body, "unpacked");
        let head = git::text(&self.lab.upstream(name), &["rev-parse", "main"]);
        assert_eq!(git::text(&unpacked, &["rev-parse", "HEAD"]), head);
        assert_eq!(git::text(&unpacked, &["status", "--porcelain"]), "");
        let config = std::fs::read_to_string(unpacked.join(".git/config")).unwrap();
        assert!(!config.to_lowercase().contains("authorization"), "{config}");
        remove(&unpacked);
    }

    /// How often it was asked who may read.
    pub fn questions(&self, server: &Server) -> u64 {
        server.metrics().count("tarpon_questions_total", &[])
    }
}

pub(super) fn get(server: &Server, target: &str, who: Option<&User>) -> Response {
    let field = who.map(User::field);
    server.fetch(
        "GET",
        target,
        field.as_deref().into_iter().collect::<Vec<_>>().as_slice(),
    )
}

pub(super) fn snapshot(server: &Server, name: &str, who: Option<&User>) -> Response {
    get(server, &lab::target(name), who)
}

/// A commit that no ref of a repository leads to.
fn lost(up: &Path) -> String {
    git::run(up, &["update-ref", "refs/heads/lost", "refs/heads/main"]);
    let id = repos::add_commit(up, "lost", "lost.txt", b"lost\n");
    git::run(up, &["update-ref", "-d", "refs/heads/lost"]);
    id
}

/// All of an answer but the time.
pub(super) fn seen(answer: &Response) -> (u16, Vec<(String, String)>, String) {
    let fields = answer.head.fields.iter();
    let fields = fields.filter(|(name, _)| name != "date").cloned().collect();
    (answer.head.status, fields, answer.text())
}

#[test]
fn who_may_read_there_reads_here() {
    let host = Host::new();
    let server = host.settings().start();
    let (alice, bob) = (Some(&host.alice), Some(&host.bob));
    // Those who may not, before anything is there.
    let (none, foreign) = (
        snapshot(&server, "private", None),
        snapshot(&server, "private", bob),
    );
    assert_eq!((none.head.status, foreign.head.status), (401, 404));
    assert!(
        none.head.get("www-authenticate").is_some(),
        "{:?}",
        none.head
    );
    assert_eq!(foreign.head.get("www-authenticate"), None);
    for answer in [&none, &foreign] {
        assert_eq!(answer.head.get("cache-control"), Some("private, no-store"));
    }
    assert_eq!(
        server.metrics().count("tarpon_clones_total", &[]),
        0,
        "a refusal has caused a clone"
    );
    assert!(!host.lab.mirror("private").exists());
    let answer = snapshot(&server, "private", alice).expect(200);
    host.expect_head("private", &answer.body);
    snapshot(&server, "public", None).expect(200);
    snapshot(&server, "public", alice).expect(200);
    wait::until_true("it is in the cache", || {
        let field = host.alice.field();
        server
            .fetch("HEAD", &lab::target("private"), &[&field])
            .head
            .status
            == 200
    });
    // Nothing is another answer now, for one who may not, than where there is nothing.
    for (who, before) in [(None, &none), (bob, &foreign)] {
        for name in ["private", "none", "private.git", "PRIVATE", "a/b/c"] {
            for end in [
                "snapshot.tar.zst",
                "status",
                "info/refs?service=git-upload-pack",
                "snapshot.bundle?base=1111111111111111111111111111111111111111",
            ] {
                let answer = get(&server, &format!("/git/test/{name}/{end}"), who);
                assert_eq!(seen(&answer), seen(before), "{name} {end}");
            }
        }
    }
    assert_eq!(server.metrics().count("tarpon_clones_total", &[]), 2);
    assert!(!host.lab.mirror("none").exists() && !host.lab.mirror("other").exists());
    expect_little_asked(&host, &server);
}

/// What is known is not asked again, and a credential that is wrong is not taken for none.
fn expect_little_asked(host: &Host, server: &Server) {
    let (alice, bob) = (Some(&host.alice), Some(&host.bob));
    // A no does not count for long.
    snapshot(server, "private", bob).expect(404);
    let questions = host.questions(server);
    for _ in 0..5 {
        snapshot(server, "private", alice).expect(200);
        snapshot(server, "private", bob).expect(404);
    }
    assert_eq!(host.questions(server), questions);
    snapshot(server, "public", Some(&User::new("mallory", &[]))).expect(404);
    for wrong in [
        "Authorization: Basic !",
        "Authorization: Negotiate x",
        "Authorization: Bearer tarpon_0123456789abcdef0123456789abcdef",
    ] {
        server
            .fetch("GET", &lab::target("public"), &[wrong])
            .expect(404);
    }
}

/// A repository that has another name now is nobody's who may read the old one; in another case it is the same.
#[test]
fn names_are_those_that_may_be_read() {
    let host = Host::new();
    let settings = host.settings();
    let server = settings.with(&["--upstream-ignore-case", "test"]).start();
    let (alice, bob) = (Some(&host.alice), Some(&host.bob));
    let answer = snapshot(&server, "private", alice).expect(200);
    snapshot(&server, "Private", bob).expect(404);
    let questions = host.questions(&server);
    for name in ["PRIVATE", "pRIVATE.git"] {
        let other = snapshot(&server, name, alice).expect(200);
        assert_eq!(other.head.etag(), answer.head.etag());
        snapshot(&server, name, bob).expect(404);
    }
    assert_eq!(host.questions(&server), questions);
    let renamed = |from: &str, to: &str| {
        let [from, to] = [from, to].map(|name| format!("/{name}/"));
        host.upstream.answer(Answers::Renamed { from, to });
    };
    renamed("old", "private");
    snapshot(&server, "old", alice).expect(404);
    let to = format!(
        "http://{}/private), which is another",
        host.upstream.address()
    );
    server.wait_logged(&to);
    assert!(!host.lab.mirror("old").exists());
    renamed("PUBLIC", "public");
    snapshot(&server, "PUBLIC", None).expect(200);
    assert!(host.lab.mirror("public").exists() && !host.lab.mirror("PUBLIC").exists());
}

#[test]
fn git_itself_clones_and_fetches_with_its_credential() {
    let host = Host::new();
    let server = host.settings().start();
    let url = |user: &str, name: &str| {
        let at = server.address();
        format!("http://{user}:hush-{user}@{at}/git/test/{name}")
    };
    let clone = host.lab.scratch("clone");
    let refused = git::output(
        &host.lab.scratch(""),
        &["clone", "-q", &url("bob", "private"), "refused"],
    );
    assert!(!refused.status.success());
    git::clone(&url("alice", "private"), &clone);
    let commit = repos::add_commit(&host.lab.upstream("private"), "main", "new.txt", b"new\n");
    git::run(&clone, &["pull", "-q"]);
    assert_eq!(git::text(&clone, &["rev-parse", "HEAD"]), commit);
    let partial = host.lab.scratch("partial");
    git::run(
        &host.lab.scratch(""),
        &[
            "clone",
            "-q",
            "--filter=blob:none",
            &url("alice", "private"),
            "partial",
        ],
    );
    assert_eq!(git::text(&partial, &["status", "--porcelain"]), "");
    remove(&clone);
    remove(&partial);
}

#[test]
fn what_says_nothing_is_neither_yes_nor_no() {
    let host = Host::new();
    let server = host.settings().start();
    let alice = Some(&host.alice);
    let mut said = Vec::new();
    for answers in [
        Answers::Status("429 Too Many Requests", "Retry-After: 7\r\n"),
        Answers::Status("500 No", ""),
        Answers::Garbage,
    ] {
        host.upstream.answer(answers);
        for (name, who) in [("private", alice), ("none", alice), ("public", None)] {
            let answer = snapshot(&server, name, who).expect(503);
            assert!(
                answer.head.get("retry-after").is_some(),
                "{:?}",
                answer.head
            );
            said.push(seen(&answer));
        }
    }
    said.dedup();
    assert_eq!(said.len(), 1, "{said:?}");
    host.upstream.answer(Answers::Never);
    let began = Instant::now();
    snapshot(&server, "private", alice).expect(503);
    let took = began.elapsed();
    assert!(
        took > Duration::from_secs(9) && took < Duration::from_secs(15),
        "{took:?}"
    );
    host.upstream.answer(Answers::Well);
    // None of it is remembered.
    snapshot(&server, "private", alice).expect(200);
    snapshot(&server, "none", alice).expect(404);
}

/// A program in front of git that keeps what it is given.
fn watched_git(host: &Host) -> (PathBuf, PathBuf) {
    let (bin, log) = (host.lab.scratch("bin"), host.lab.scratch("arguments"));
    std::fs::create_dir(&bin).unwrap();
    let path = std::env::var("PATH").unwrap();
    let script = format!(
        "#!/bin/sh\necho \"$@\" >> {}\nPATH={path} exec git \"$@\"\n",
        log.display()
    );
    executable(&bin.join("git"), &script);
    (bin, log)
}

fn executable(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// Gives the server all that git and curl could find of its own, each with something that can be seen.
pub(super) fn with_own_credentials(host: &Host, settings: &mut Settings) -> PathBuf {
    let home = host.lab.scratch("home");
    std::fs::create_dir(&home).unwrap();
    let asked = home.join("asked");
    let helper = home.join("helper");
    executable(
        &helper,
        &format!(
            "#!/bin/sh\necho \"$1\" >> {}\necho username=own\necho password=own-helper\n",
            asked.display()
        ),
    );
    let port = host.upstream.address().port();
    std::fs::write(
        home.join(".netrc"),
        "machine 127.0.0.1 login own password own-netrc\n",
    )
    .unwrap();
    std::fs::write(
        home.join(".git-credentials"),
        format!("http://own:own-store@127.0.0.1:{port}\n"),
    )
    .unwrap();
    std::fs::write(
        home.join("cookies"),
        "127.0.0.1\tFALSE\t/\tFALSE\t0\towncookie\town-cookie\n",
    )
    .unwrap();
    let config = format!(
        "[credential]\nhelper = store\nhelper = {}\n[http]\nextraHeader = X-Own: own-header\ncookieFile = {}\nsaveCookies = true\n\
         [http \"http://127.0.0.1:{port}/\"]\nextraHeader = X-Own: own-header\n[core]\naskPass = {}\n",
        helper.display(),
        home.join("cookies").display(),
        helper.display(),
    );
    std::fs::write(home.join(".gitconfig"), config).unwrap();
    let helper = helper.display().to_string();
    let variables = [
        ("HOME", home.display().to_string()),
        (
            "GIT_CONFIG_GLOBAL",
            home.join(".gitconfig").display().to_string(),
        ),
        ("GIT_ASKPASS", helper.clone()),
        ("SSH_ASKPASS", helper),
    ];
    settings
        .environment
        .extend(variables.map(|(name, value)| (name.to_owned(), value)));
    home
}

/// A proxy that may be asked for nothing: what is said in plain to this machine goes by none.
fn proxy_for(settings: &mut Settings) -> TcpListener {
    let proxy = TcpListener::bind("127.0.0.1:0").unwrap();
    proxy.set_nonblocking(true).unwrap();
    let by = format!("http://{}", proxy.local_addr().unwrap());
    settings.environment.push(("http_proxy".to_owned(), by));
    proxy
}

/// Each file below a directory, with what is in it.
pub(super) fn files(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries
        .map(|path| (path.clone(), std::fs::read(path).unwrap()))
        .collect();
    files.sort();
    files
}

#[test]
fn nothing_of_the_server_s_goes_along_and_nothing_is_kept() {
    let host = Host::new();
    let mut settings = host.settings();
    let home = with_own_credentials(&host, &mut settings);
    let (bin, arguments) = watched_git(&host);
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    settings.environment.push(("PATH".to_owned(), path));
    let proxy = proxy_for(&mut settings);
    let before = files(&home);
    let server = settings.start();
    let (alice, bob) = (Some(&host.alice), Some(&host.bob));
    snapshot(&server, "private", None).expect(401);
    snapshot(&server, "private", bob).expect(404);
    snapshot(&server, "private", alice).expect(200);
    snapshot(&server, "public", None).expect(200);
    let commit = repos::add_commit(&host.lab.upstream("private"), "main", "new.txt", b"new\n");
    let refs = format!(r#"{{"refs":{{"refs/heads/main":"{commit}"}}}}"#);
    let json = ["Content-Type: application/json", &host.alice.field()];
    let target = lab::endpoint("private", "ensure-refs");
    let ensured = post(server.address(), &target, &json, refs.as_bytes());
    assert!(ensured.expect(200).text().contains(&commit));
    // What only an id leads to.
    let up = host.lab.upstream("private");
    let lost = lost(&up);
    get(
        &server,
        &format!("{}?commit={lost}", lab::target("private")),
        alice,
    )
    .expect(200);
    // A permission that ends while the server believes in it still.
    host.let_read(&[&host.bob]);
    repos::add_commit(&up, "main", "newer.txt", b"newer\n");
    let fresh = ["Cache-Control: max-age=0", &host.alice.field()];
    let refused = server
        .fetch("GET", &lab::target("private"), &fresh)
        .head
        .status;
    assert!(matches!(refused, 404 | 503), "{refused}");
    snapshot(&server, "private", alice).expect(404);
    assert!(!host.upstream.asked().is_empty());
    assert!(proxy.accept().is_err(), "the proxy was asked");
    for asked in host.upstream.asked() {
        let shown = format!("{:?}", asked.fields);
        assert!(!shown.contains("own"), "{} {shown}", asked.target);
        let is_known = asked.authorization().is_none_or(|value| {
            value == host.alice.authorization || value == host.bob.authorization
        });
        assert!(is_known, "{shown}");
    }
    assert_eq!(
        files(&home),
        before,
        "something was asked for, stored or erased"
    );
    let given = std::fs::read_to_string(arguments).unwrap();
    let log = server.log();
    for secret in [
        "hush-alice",
        &host.alice.authorization,
        host.alice.authorization.trim_start_matches("Basic "),
    ] {
        assert!(!given.contains(secret) && !log.contains(secret), "{secret}");
        assert!(
            !is_below(&host.lab.state(), secret.as_bytes()),
            "{secret} is on the disk"
        );
    }
    assert!(given.contains("fetch"), "git was not watched");
}

/// Whether some file below a directory has this in it.
fn is_below(dir: &Path, text: &[u8]) -> bool {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    entries
        .into_iter()
        .any(|entry| match entry.file_type().unwrap().is_dir() {
            true => is_below(&entry.path(), text),
            false => std::fs::read(entry.path())
                .is_ok_and(|bytes| bytes.windows(text.len()).any(|part| part == text)),
        })
}

/// So that a minute does not take one.
const SHORT: &str = "young-ms=1500";

fn is_over(since: Instant) {
    let short = Duration::from_millis(1500);
    std::thread::sleep(short.saturating_sub(since.elapsed()));
}

#[test]
fn a_permission_that_ends_ends_here_within_the_time_that_it_counts() {
    let host = Host::new();
    let server = host.settings().with_fault(SHORT).start();
    let alice = Some(&host.alice);
    snapshot(&server, "private", alice).expect(200);
    host.let_read(&[&host.bob]);
    let since = Instant::now();
    is_over(since);
    for end in [
        "snapshot.tar.zst",
        "status",
        "info/refs?service=git-upload-pack",
    ] {
        get(&server, &format!("/git/test/private/{end}"), alice).expect(404);
    }
    host.let_read(&[&host.alice]);
    is_over(Instant::now());
    snapshot(&server, "private", alice).expect(200);
}

#[test]
fn an_upstream_that_cannot_be_asked_is_believed_for_as_long_as_the_operator_says() {
    for (stale, expected) in [("0", 503), ("1h", 200)] {
        let host = Host::new();
        let settings = host
            .settings()
            .with_fault(SHORT)
            .with(&["--access-stale", stale]);
        let server = settings.start();
        let alice = Some(&host.alice);
        snapshot(&server, "private", alice).expect(200);
        wait::until_true("it is in the cache", || {
            let field = host.alice.field();
            server
                .fetch("HEAD", &lab::target("private"), &[&field])
                .head
                .status
                == 200
        });
        host.upstream.answer(Answers::Status("500 No", ""));
        is_over(Instant::now());
        snapshot(&server, "private", alice).expect(expected);
        // No request widens that.
        let field = host.alice.field();
        let wide = ["Cache-Control: max-age=99999, stale-if-error=99999", &field];
        server
            .fetch("GET", &lab::target("private"), &wide)
            .expect(expected);
        snapshot(&server, "private", Some(&host.bob)).expect(503);
    }
}

#[test]
fn yesterday_s_content_is_not_sent() {
    let host = Host::new();
    let server = host.settings().with_fault(SHORT).start();
    let alice = Some(&host.alice);
    let first = snapshot(&server, "private", alice).expect(200);
    let commit = repos::add_commit(&host.lab.upstream("private"), "main", "new.txt", b"new\n");
    is_over(Instant::now());
    let head = snapshot(&server, "private", alice).expect(200).head;
    assert_eq!(head.get("x-cachew-snapshot-commit"), Some(&*commit));
    // Nor to whoever goes on with it.
    let goes_on = [
        "Range: bytes=10-",
        &format!("If-Range: {}", first.head.etag()),
        &host.alice.field(),
    ];
    let answer = server
        .fetch("GET", &lab::target("private"), &goes_on)
        .expect(200);
    assert_eq!(answer.head.get("x-cachew-snapshot-commit"), Some(&*commit));
}

#[test]
fn an_id_outside_the_refs_is_shown_by_each() {
    let host = Host::new();
    let mut carol = User::new("carol", &["private"]);
    let up = host.lab.upstream("private");
    let lost = lost(&up);
    carol.hidden = vec![lost.clone()];
    host.let_read(&[&host.alice, &carol]);
    let server = host.settings().start();
    let (alice, carol) = (Some(&host.alice), Some(&carol));
    let of = |id: &str| format!("{}?commit={id}", lab::target("private"));
    get(&server, &of(&lost), carol).expect(404);
    get(&server, &of(&lost), alice).expect(200);
    wait::until_true("it is in the cache", || {
        let field = host.alice.field();
        server.fetch("HEAD", &of(&lost), &[&field]).head.status == 200
    });
    // It is here now, and for those alone who have shown it.
    get(&server, &of(&lost), alice).expect(200);
    let absent = get(&server, &of(&"1".repeat(40)), carol).expect(404).text();
    let hidden = get(&server, &of(&lost), carol).expect(404).text();
    assert_eq!(
        hidden.replace(&lost, "ID"),
        absent.replace(&"1".repeat(40), "ID")
    );
    let field = carol.map(User::field).unwrap();
    assert_eq!(server.fetch("HEAD", &of(&lost), &[&field]).head.status, 404);
    let status = |who| {
        get(&server, &lab::endpoint("private", "status"), who)
            .expect(200)
            .text()
    };
    assert!(status(alice).contains(&lost) && !status(carol).contains(&lost));
    let ensure = |field: &str| {
        let json = format!(r#"{{"commits":["{lost}"]}}"#);
        let fields = ["Content-Type: application/json", field];
        let target = lab::endpoint("private", "ensure-refs");
        post(server.address(), &target, &fields, json.as_bytes())
            .expect(200)
            .text()
    };
    let missing = format!(r#""missing_commits":["{lost}"]"#);
    assert!(ensure(&field).contains(&missing) && !ensure(&host.alice.field()).contains(&missing));
    let base = |who| {
        get(
            &server,
            &format!("/git/test/private/snapshot.bundle?base={lost}"),
            who,
        )
        .head
        .status
    };
    assert_eq!(base(carol), 404);
}

fn packet(text: &str) -> String {
    format!("{:04x}{text}", text.len() + 4)
}

/// A request of git's protocol, version 2, with these lines.
fn fetch_with(server: &Server, field: &str, lines: &[String]) -> Response {
    let lines: String = lines.iter().map(|line| packet(line)).collect();
    let start = [packet("command=fetch\n"), "0001".into()].concat();
    let body = format!("{start}{lines}{}0000", packet("done\n"));
    let kind = "Content-Type: application/x-git-upload-pack-request";
    let target = lab::endpoint("private", "git-upload-pack");
    let mut conn = Conn::open(server.address());
    let fields = [kind, "Git-Protocol: version=2", field];
    conn.post(&target, &fields, body.as_bytes());
    conn.response("POST")
}

/// A request of git's protocol for an object, and for what is behind a commit that the client says it has.
fn upload(server: &Server, version: u8, field: &str, want: &str, have: Option<&str>) -> String {
    let have = have
        .map(|id| packet(&format!("have {id}\n")))
        .unwrap_or_default();
    let (body, protocol) = match version {
        2 => {
            let body = [
                packet("command=fetch\n"),
                "0001".into(),
                packet("no-progress\n"),
                packet(&format!("want {want}\n")),
                have,
                packet("done\n"),
                "0000".into(),
            ];
            (body.concat(), "Git-Protocol: version=2")
        }
        _ => {
            let want = packet(&format!("want {want} side-band-64k no-progress\n"));
            let body = [want, "0000".into(), have, packet("done\n")];
            (body.concat(), "Git-Protocol: version=0")
        }
    };
    let kind = "Content-Type: application/x-git-upload-pack-request";
    let target = lab::endpoint("private", "git-upload-pack");
    let mut conn = Conn::open(server.address());
    conn.post(&target, &[kind, protocol, field], body.as_bytes());
    String::from_utf8_lossy(&conn.response("POST").expect(200).body).into_owned()
}

#[test]
fn git_s_protocol_gives_out_no_id_that_was_not_shown() {
    let host = Host::new();
    let mut carol = User::new("carol", &["private"]);
    let up = host.lab.upstream("private");
    let left = repos::add_commit(&up, "main", "left.txt", b"left\n");
    let lost = lost(&up);
    carol.hidden = vec![left.clone(), lost.clone()];
    host.let_read(&[&host.alice, &carol]);
    let server = host.settings().start();
    let (a, c) = (host.alice.field(), carol.field());
    snapshot(&server, "private", Some(&host.alice)).expect(200);
    let main = git::text(&up, &["rev-parse", "main"]);
    assert_eq!(main, left);
    for version in [0, 2] {
        assert!(
            upload(&server, version, &c, &left, None).contains("PACK"),
            "a ref leads to it"
        );
    }
    // Forced away.
    git::run(
        &up,
        &["update-ref", "refs/heads/main", &format!("{left}~1")],
    );
    let main = git::text(&up, &["rev-parse", "main"]);
    let fresh = ["Cache-Control: max-age=0", &*c];
    server
        .fetch("GET", &lab::target("private"), &fresh)
        .expect(200);
    let refused = |id: &str| format!("ERR upload-pack: not our ref {id}");
    for version in [0, 2] {
        for id in [&left, &lost, &"1".repeat(40)] {
            let said = upload(&server, version, &c, id, None);
            assert!(
                said.ends_with(&refused(id)) && said.len() < 100,
                "{version}: {said}"
            );
        }
        for id in [&left, &lost] {
            assert!(
                upload(&server, version, &a, id, None).contains("PACK"),
                "{version}"
            );
        }
        // It is here now. Whoever may not know that is not told so.
        let said = upload(&server, version, &c, &main, Some(&left));
        assert!(
            said.contains("PACK") && !said.contains(&format!("ACK {left}")),
            "{version}"
        );
        let said = upload(&server, version, &a, &main, Some(&left));
        assert!(!said.is_empty());
    }
    // Nor by a rule that leaves others out, which is looked up as a name.
    let oid = format!("filter sparse:oid={left}:left.txt\n");
    let said = fetch_with(&server, &a, &[format!("want {main}\n"), oid]).text();
    assert!(said.contains("ERR") && !said.contains("PACK"), "{said}");
    expect_mistakes_told(&server, &a, (&main, &left));
}

/// What git does not take is the client's mistake, and is told without anything of this machine.
fn expect_mistakes_told(server: &Server, field: &str, (main, left): (&str, &str)) {
    for line in [
        format!("deepen-not {left}\n"),
        "filter sparse:path=x\n".into(),
    ] {
        let lines = [format!("want {main}\n"), line];
        let refused = fetch_with(server, field, &lines).expect(400).text();
        assert!(
            refused.contains("fatal: ") && !refused.contains("STATE"),
            "{refused}"
        );
    }
}

#[test]
fn many_ids_cost_no_question_each_and_too_many_are_refused() {
    let host = Host::new();
    let up = host.lab.upstream("private");
    let first = git::text(&up, &["rev-parse", "main"]);
    repos::add_commit(&up, "main", "new.txt", b"new\n");
    let server = host.settings().start();
    let (alice, main) = (host.alice.field(), git::text(&up, &["rev-parse", "main"]));
    snapshot(&server, "private", Some(&host.alice)).expect(200);
    let (questions, asked) = (host.questions(&server), host.upstream.asked().len());
    let made_up = |word: &str, count: u32| {
        let lines = (0..count).map(|n| format!("{word} {n:040x}\n"));
        lines.collect::<Vec<_>>()
    };
    // As many as fit; what counts comes first.
    let mut lines = vec![format!("want {main}\n"), "no-progress\n".into()];
    lines.push(format!("have {first}\n"));
    lines.extend(made_up("have", 150_000));
    let answer = fetch_with(&server, &alice, &lines).expect(200).body;
    let pack = answer.windows(4).any(|part| part == b"PACK");
    assert!(
        pack && answer.len() < 20_000,
        "{} bytes: all of it",
        answer.len()
    );
    for word in ["want", "shallow"] {
        let mut lines = vec![format!("want {main}\n")];
        lines.extend(made_up(word, 20_000));
        let refused = fetch_with(&server, &alice, &lines).expect(413).text();
        assert!(refused.contains("too many"), "{refused}");
    }
    assert_eq!(host.questions(&server), questions);
    assert_eq!(host.upstream.asked().len(), asked, "its upstream was asked");
    // Fewer are one question.
    let mut lines = vec![format!("want {main}\n")];
    lines.extend(made_up("want", 5_000));
    let refused = fetch_with(&server, &alice, &lines).expect(200).text();
    assert!(refused.contains("not our ref"), "{refused}");
    assert_eq!(host.questions(&server), questions + 1);
}

/// One who asks with credentials that he makes up, while the upstream takes its time.
#[test]
fn who_floods_an_upstream_waits_for_himself() {
    let host = Host::new();
    let slowly = Duration::from_millis(1500);
    host.upstream.answer(Answers::Slowly(slowly));
    let server = host.settings().start();
    let (flooder, other) = (Ipv4Addr::new(127, 0, 0, 2), Ipv4Addr::new(127, 0, 0, 3));
    let target = lab::endpoint("private", "status");
    let begin = |from: Ipv4Addr, field: &str| {
        let mut conn = Conn::open_from(from.into(), server.address());
        conn.request("GET", &target, &[field]);
        conn
    };
    let field = |n: u32| format!("Authorization: Bearer made-up-{n}");
    // What they would have read is not taken before it is known whether they may.
    let upload = lab::endpoint("private", "git-upload-pack");
    let kind = "Content-Type: application/x-git-upload-pack-request";
    let poster = Ipv4Addr::new(127, 0, 0, 4);
    let post = |n: u32| {
        let mut conn = Conn::open_from(poster.into(), server.address());
        conn.post(&upload, &[kind, &field(n)], &[b'x'; 256 << 10]);
        conn
    };
    let mut posts: Vec<Conn> = (1000..1004).map(post).collect();
    let mut careful = Conn::open_from(poster.into(), server.address());
    let expect = [
        "Expect: 100-continue",
        "Content-Length: 4",
        kind,
        &field(1004),
    ];
    careful.request("POST", &upload, &expect);
    wait::until_true("the upstream is asked", || host.upstream.asked().len() >= 5);
    let taken = server.metrics().sum("tarpon_body_bytes", &[]);
    assert_eq!(taken, Some(0.0));
    posts.push(careful);
    for mut conn in posts {
        assert_eq!(conn.read_head("POST").unwrap().status, 404);
    }
    let flood = |n: u32| begin(flooder, &field(n));
    // Alice's own question among them: of him who waits nobody has to wait for anything.
    let mut flooding: Vec<Conn> = (0..100).map(flood).collect();
    flooding.push(begin(flooder, &host.alice.field()));
    wait::until_true("the upstream is asked", || {
        host.upstream.asked().len() >= 16 + 5
    });
    let began = Instant::now();
    let answer = begin(other, &host.alice.field()).response("GET");
    let took = began.elapsed();
    assert!(
        answer.text().contains("nothing is known of it"),
        "{}",
        answer.text()
    );
    assert!(took < 3 * slowly, "{took:?}: behind the others");
    assert!(
        host.upstream.asked().len() < 64 + 5,
        "all of them were asked at once"
    );
    // They have left: what they wanted is not asked for any more.
    drop(flooding);
    host.upstream.answer(Answers::Well);
    let asked = || host.upstream.asked().len();
    wait::until_true("all who were asked for have been", || {
        let before = asked();
        std::thread::sleep(Duration::from_millis(200));
        asked() == before
    });
    assert!(asked() < 90 + 5, "{}", asked());
}

/// The first byte may take long: what is sent then is what the upstream has then.
#[test]
fn what_is_waited_for_longer_than_it_counts_is_looked_for_again() {
    let host = Host::new();
    let clone = Duration::from_secs(3);
    host.upstream.answer(Answers::SlowClones(clone));
    let server = host.settings().with_fault(SHORT).start();
    let alice = Some(&host.alice);
    let began = Instant::now();
    let answer = snapshot(&server, "private", alice).expect(200);
    assert!(began.elapsed() >= clone);
    host.expect_head("private", &answer.body);
    let asked = host.upstream.asked();
    let is_late = |at: Instant| at.duration_since(began) >= clone;
    let compared = asked.iter().any(|asked| asked.is_look && is_late(asked.at));
    assert!(compared, "it was cloned, and not compared after that");
}

/// A tag that refs have left, whose commit a ref leads to still.
#[test]
fn a_tag_that_is_gone_is_shown_by_nothing_that_it_leads_to() {
    let host = Host::new();
    let mut carol = User::new("carol", &["private"]);
    let up = host.lab.upstream("private");
    git::run(&up, &["tag", "-a", "-m", "hush", "gone", "main"]);
    let tag = git::text(&up, &["rev-parse", "gone"]);
    carol.hidden = vec![tag.clone()];
    host.let_read(&[&host.alice, &carol]);
    let server = host.settings().start();
    let of = format!("{}?commit={tag}", lab::target("private"));
    snapshot(&server, "private", Some(&host.alice)).expect(200);
    get(&server, &of, Some(&carol)).expect(200);
    git::run(&up, &["tag", "-d", "gone"]);
    let fresh = ["Cache-Control: max-age=0", &carol.field()];
    server
        .fetch("GET", &lab::target("private"), &fresh)
        .expect(200);
    get(&server, &of, Some(&carol)).expect(404);
    let said = upload(&server, 2, &carol.field(), &tag, None);
    assert!(
        said.contains("not our ref") && !said.contains("PACK"),
        "{said}"
    );
    get(&server, &of, Some(&host.alice)).expect(200);
}

/// Whether a snapshot has an object, reached or not.
fn brings(host: &Host, body: &[u8], id: &str) -> bool {
    let unpacked = host.lab.unpack(body, "unpacked");
    let is_there = git::output(&unpacked, &["cat-file", "-e", id])
        .status
        .success();
    git::run(&unpacked, &["fsck", "--full"]);
    remove(&unpacked);
    is_there
}

/// The longest pack of `private`, as the manifest has it that Alice gets.
fn part_with_all(server: &Server, host: &Host) -> String {
    let manifest = lab::endpoint("private", "manifest");
    wait::until_true("it is in the cache", || {
        let field = host.alice.field();
        server.fetch("HEAD", &manifest, &[&field]).head.status == 200
    });
    let sent = get(server, &manifest, Some(&host.alice)).expect(200);
    let control = sent.head.get("cache-control");
    assert_eq!(control, Some("private, no-store"));
    let manifest = Manifest::unpack(&sent.body).unwrap();
    let packs = manifest.parts.iter();
    let packs = packs.filter(|part| part.name.ends_with(".pack"));
    let pack = packs.max_by_key(|part| part.bytes).unwrap();
    lab::endpoint("private", &format!("parts/{}", pack.name))
}

/// Packs are sent whole: what was forced away before the comparison that saw it is in none of them, whatever was
/// built before.
#[test]
fn what_was_forced_away_is_in_no_archive() {
    let host = Host::new();
    let server = host.settings().start();
    let (up, alice) = (host.lab.upstream("private"), host.alice.field());
    let now = ["Cache-Control: max-age=0", &*alice];
    let first = git::text(&up, &["rev-parse", "main"]);
    let commit = format!("{}?commit={first}", lab::target("private"));
    let secret = repos::add_commit(&up, "main", "secret.txt", b"secret\n");
    let before = server
        .fetch("GET", &lab::target("private"), &now)
        .expect(200);
    assert!(brings(&host, &before.body, &secret));
    let part = part_with_all(&server, &host);
    get(&server, &part, Some(&host.alice)).expect(200);
    get(&server, &part, Some(&host.bob)).expect(404);
    // It has all of the mirror's packs.
    get(&server, &commit, Some(&host.alice)).expect(200);
    git::run(&up, &["update-ref", "refs/heads/main", &first]);
    git::run(&up, &["reflog", "expire", "--expire=now", "--all"]);
    repos::add_commit(&up, "main", "other.txt", b"other\n");
    let after = server
        .fetch("GET", &lab::target("private"), &now)
        .expect(200);
    assert!(!brings(&host, &after.body, &secret), "the default branch");
    let gone = get(&server, &part, Some(&host.alice)).expect(404);
    assert!(!gone.text().contains("pack-"), "{}", gone.text());
    let part_now = part_with_all(&server, &host);
    get(&server, &part_now, Some(&host.alice)).expect(200);
    host.expect_head("private", &after.body);
    let named = get(&server, &commit, Some(&host.alice)).expect(200);
    assert!(!brings(&host, &named.body, &secret), "a commit");
    let plain = snapshot(&server, "private", Some(&host.alice)).expect(200);
    assert!(!brings(&host, &plain.body, &secret), "no condition");
    server.stop();
    // Nor after a start.
    let server = host.settings().start();
    let again = get(&server, &commit, Some(&host.alice)).expect(200);
    assert!(!brings(&host, &again.body, &secret), "after a start");
    server.stop();
}

#[test]
fn what_another_repository_leaves_under_its_name_is_dropped() {
    let host = Host::new();
    let server = host.settings().with_fault(SHORT).start();
    let (alice, bob) = (Some(&host.alice), Some(&host.bob));
    let up = host.lab.upstream("private");
    let secret = git::text(&up, &["rev-parse", "main"]);
    snapshot(&server, "private", alice).expect(200);
    wait::until_true("it is in the cache", || {
        let field = host.alice.field();
        server
            .fetch("HEAD", &lab::target("private"), &[&field])
            .head
            .status
            == 200
    });
    // It is renamed, and Bob makes one of the same name.
    std::fs::rename(&up, host.lab.upstream("renamed")).unwrap();
    repos::generate(&up, Shape::ManySmall, 100_000, 0x0BAD_F00D);
    let own = repos::add_commit(&up, "main", "bob.txt", b"bob\n");
    let mine = User::new("bob", &["private"]);
    host.let_read(&[&mine]);
    is_over(Instant::now());
    let answer = snapshot(&server, "private", bob).expect(200);
    assert_eq!(answer.head.get("x-cachew-snapshot-commit"), Some(&*own));
    host.expect_head("private", &answer.body);
    server.wait_logged("is another repository now");
    let of = format!("{}?commit={secret}", lab::target("private"));
    get(&server, &of, bob).expect(404);
    assert!(
        !get(&server, &lab::endpoint("private", "status"), bob)
            .expect(200)
            .text()
            .contains(&secret)
    );
    snapshot(&server, "private", alice).expect(404);
}

#[test]
fn the_server_has_a_credential_of_its_own() {
    let host = Host::new();
    let robot = User::new("robot", &["private", "other"]);
    host.let_read(&[&host.alice, &host.bob, &robot]);
    let file = host.lab.scratch("token");
    std::fs::write(&file, "robot:hush-robot\n").unwrap();
    let own = format!("test={}", file.display());
    let server = host.settings().with(&["--upstream-token", &own]).start();
    // It widens nothing.
    snapshot(&server, "private", Some(&host.bob)).expect(404);
    snapshot(&server, "private", None).expect(401);
    assert!(!host.lab.mirror("private").exists());
    snapshot(&server, "private", Some(&host.alice)).expect(200);
    let asked = host.upstream.asked();
    let by = |user: &User| {
        asked
            .iter()
            .filter(|asked| asked.authorization() == Some(&*user.authorization))
            .count()
    };
    assert!(by(&robot) > 0, "it clones with its own");
    assert_eq!(by(&host.alice), 1, "hers was only tried");
    assert!(!server.log().contains("hush-robot"));
    server.stop();
    // A host for which it has one must be named.
    let mut settings =
        host.lab
            .settings()
            .with(&["--no-default-upstreams", "--upstream-token", &own]);
    settings.upstreams = vec![host.upstream.named("test")];
    let exited = settings.try_start().err().expect("it started");
    assert_eq!(exited.status.code(), Some(1));
    assert!(exited.log.contains("missing: test"), "{}", exited.log);
    // Where everybody may read, the same credential brings it.
    let open = settings.with(&["--access", "test=open"]).start();
    snapshot(&open, "private", None).expect(200);
}

#[test]
fn what_cannot_be_asked_rightly_is_refused_at_the_start() {
    let host = Host::new();
    let refused = |settings: Settings, why: &str| {
        let exited = settings.try_start().err().expect("it started");
        assert_eq!(exited.status.code(), Some(1), "{}", exited.log);
        assert!(exited.log.contains(why), "{}", exited.log);
    };
    let mut file = host.settings();
    file.upstreams = host.lab.settings().upstreams;
    refused(file, "http");
    let mut rewritten = host.settings();
    let base = format!("http://{}/", host.upstream.address());
    let variables = [
        ("GIT_CONFIG_COUNT", "1".to_owned()),
        (
            "GIT_CONFIG_KEY_0",
            "url.http://127.0.0.1:1/.insteadOf".to_owned(),
        ),
        ("GIT_CONFIG_VALUE_0", base),
    ];
    rewritten
        .environment
        .extend(variables.map(|(name, value)| (name.to_owned(), value)));
    refused(rewritten, "insteadOf");
}
