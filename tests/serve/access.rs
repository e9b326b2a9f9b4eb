//! Who may: hosts that are open and hosts that ask for a token, in a matrix of the table of routes.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};

use rustix::process::Signal;
use tarpon::http::wire::table::{At, Endpoint, Methods, Need, Row, TABLE};

use super::preambles::{Cold, Early, cold_of};
use super::support::client::{Conn, End, Response, fetch};
use super::support::lab::{self, Lab};
use super::support::server::{Server, Settings};
use super::support::tokens::{self, Token};
use super::support::{git, repos, wait};
use super::{expect_clone, finish, new_lab, small_lab};

/// Some tokens and the server's file of them.
pub(super) struct Tokens {
    pub read: Token,
    pub metrics: Token,
    pub admin: Token,
    /// One that the file does not know.
    pub foreign: Token,
    pub file: PathBuf,
}

fn token(name: &str, flags: &[&str]) -> Token {
    Token::new(env!("CARGO_BIN_EXE_tarpon"), name, flags)
}

impl Tokens {
    pub fn new(lab: &Lab) -> Tokens {
        let tokens = Tokens {
            read: token("farm", &[]),
            metrics: token("prometheus", &["--metrics"]),
            admin: token("operator", &["--admin"]),
            foreign: token("farm", &[]),
            file: lab.scratch("tokens"),
        };
        tokens.write(&[&tokens.read, &tokens.metrics, &tokens.admin]);
        tokens
    }

    fn write(&self, known: &[&Token]) {
        tokens::write(&self.file, known);
    }
}

/// Settings of a server that knows the tokens of `file` and asks for one.
fn closed(settings: Settings, file: &Path) -> Settings {
    let file = file.to_string_lossy();
    let access = [
        "--no-default-upstreams",
        "--access",
        "test=token",
        "--tokens",
        &*file,
    ];
    let mut settings = settings.with(&access);
    // Without a terminal.
    settings.launcher = vec!["setsid".into()];
    settings
}

/// A target of a route, of repository `name` where it is about one.
pub(super) fn target(row: &Row, host: &str, name: &str) -> String {
    let query = match row.endpoint {
        Endpoint::Bundle => format!("?base={}", "a".repeat(40)),
        Endpoint::InfoRefs => "?service=git-upload-pack".into(),
        Endpoint::LogFilter => "?filter=info".into(),
        _ => String::new(),
    };
    match row.at {
        At::Server { path, .. } => format!("{path}{query}"),
        At::Repository { end, .. } => format!("/git/{host}/{name}{end}{query}"),
        At::Part => format!("/git/{host}/{name}/parts/pack-1.pack"),
        At::Admin { end, .. } => format!("/admin/git/{host}/{name}{end}"),
    }
}

pub(super) fn methods(row: &Row) -> &'static [&'static str] {
    match row.methods {
        Methods::Get => &["GET"],
        Methods::GetHead => &["GET", "HEAD"],
        Methods::Post => &["POST"],
    }
}

pub(super) fn ask(server: &Server, method: &str, target: &str, fields: &[&str]) -> Response {
    let mut conn = Conn::open(server.address());
    match method {
        "POST" => conn.post(target, fields, b"0000"),
        _ => conn.request(method, target, fields),
    }
    conn.response(method)
}

/// All of an answer but the time.
pub(super) fn seen(answer: &Response) -> (u16, Vec<(String, String)>, String) {
    let fields = answer.head.fields.iter();
    let fields = fields.filter(|(name, _)| !name.eq_ignore_ascii_case("date"));
    (answer.head.status, fields.cloned().collect(), answer.text())
}

/// What somebody sends who may not, and how he is refused.
fn strangers(tokens: &Tokens) -> Vec<(Vec<String>, u16)> {
    let malformed = "Authorization: Basic !!!".to_owned();
    let negotiate = "Authorization: Negotiate YII=".to_owned();
    let doubtful = vec![
        tokens.read.bearer(),
        "Tarpon-Authorization: Bearer x".into(),
    ];
    vec![
        (vec![], 401),
        (vec![malformed], 404),
        (vec![negotiate], 404),
        (vec![tokens.foreign.bearer()], 404),
        (vec![tokens.metrics.bearer()], 404),
        (doubtful, 404),
    ]
}

/// A server with `small` in its cache that asks for a token, and `cold`, which nobody has asked for.
pub(super) fn matrix_lab() -> (Lab, Tokens, Server) {
    let lab = small_lab();
    lab.generate("cold", repos::Shape::ManySmall, 100_000);
    let tokens = Tokens::new(&lab);
    let server = closed(lab.settings(), &tokens.file).start();
    let (target, read) = (lab::target("small"), tokens.read.bearer());
    ask(&server, "GET", &target, &[&read]).expect(200);
    wait::until_true("it is in the cache", || {
        ask(&server, "HEAD", &target, &[&read]).head.status == 200
    });
    (lab, tokens, server)
}

/// Whatever is asked for, by whatever name, who may not have it sees no difference between what there is and
/// what there is not, and causes nothing.
#[test]
fn the_matrix_of_who_gets_what() {
    let (lab, tokens, server) = matrix_lab();
    expect_strangers((&lab, &server), &strangers(&tokens));
}

/// The same of these, each with how he is refused.
pub(super) fn expect_strangers((lab, server): (&Lab, &Server), strangers: &[(Vec<String>, u16)]) {
    let clones = || server.metrics().count("tarpon_clones_total", &[]);
    let before = clones();
    let others = [
        ("test", "cold"),
        ("test", "none"),
        ("TEST", "small"),
        ("test", "small.git"),
        ("evil.org", "small"),
    ];
    let all = TABLE.iter().filter(|row| row.need == Need::Read);
    for (row, method) in all.flat_map(|row| methods(row).iter().map(move |method| (row, method))) {
        for (credential, status) in strangers {
            let fields: Vec<&str> = credential.iter().map(String::as_str).collect();
            let of = |host, name| seen(&ask(server, method, &target(row, host, name), &fields));
            let there = of("test", "small");
            let what = format!("{method} {:?} {credential:?}", row.endpoint);
            assert_eq!(there.0, *status, "{what}: {there:?}");
            for (host, name) in others {
                assert_eq!(of(host, name), there, "{what} {host}/{name}");
            }
        }
    }
    assert_eq!(clones(), before, "a refusal has caused a clone");
    assert!(!lab.mirror("cold").exists() && !lab.mirror("none").exists());
    assert!(!lab.state().join("mirrors/evil.org").exists());
}

/// The same whatever else a request says; and whoever may has all of it.
#[test]
fn conditions_and_queries_let_nobody_in() {
    let (lab, tokens, server) = matrix_lab();
    let target = lab::target("small");
    let plain = seen(&server.get(&target));
    for condition in [
        "Range: bytes=0-9",
        "If-None-Match: *",
        "Cache-Control: max-age=0",
        "If-Match: \"a\"",
        "Tarpon-Corrupt: \"a\"",
    ] {
        let asked = server.fetch("GET", &target, &[condition]);
        assert_eq!(seen(&asked), plain, "{condition}");
    }
    for query in ["?ref=main", "?depth=1", "?commit=x", "?nonsense"] {
        let asked = server.get(&format!("{target}{query}"));
        assert_eq!(seen(&asked), plain, "{query}");
    }
    for token in [&tokens.read, &tokens.admin] {
        let own = token.bearer().replace("Auth", "Tarpon-Auth");
        for field in [token.bearer(), token.basic(), own] {
            ask(&server, "GET", &target, &[&field]).expect(200);
            ask(&server, "GET", &lab::endpoint("small", "status"), &[&field]).expect(200);
        }
    }
    let read = tokens.read.bearer();
    ask(&server, "GET", "/git/evil.org/small/status", &[&read]).expect(403);
    ask(&server, "HEAD", &lab::target("none"), &[&read]).expect(404);
    assert!(!lab.mirror("none").exists());
}

/// Each route does what its row says about who may, on a host that is open and on one that is not.
#[test]
fn each_route_asks_for_what_its_row_says() {
    let lab = small_lab();
    let tokens = Tokens::new(&lab);
    let server = closed(lab.settings(), &tokens.file).start();
    for row in TABLE {
        let method = methods(row)[0];
        let unnamed = ask(&server, method, &target(row, "test", "small"), &[]).head;
        let foreign = tokens.foreign.bearer();
        let foreign = ask(&server, method, &target(row, "test", "small"), &[&foreign]).head;
        let expected = match row.need {
            Need::Read | Need::Names | Need::Admin => (401, 404),
            Need::Signature => (401, 401),
            Need::Nothing => (200, 200),
            Need::Counts => (200, 404),
        };
        assert_eq!(
            (unnamed.status, foreign.status),
            expected,
            "{:?}",
            row.endpoint
        );
        if unnamed.status == 401 {
            let challenge = unnamed.get("www-authenticate");
            assert_eq!(challenge, Some("Basic realm=\"tarpon\", charset=\"UTF-8\""));
        }
    }
    let names = |field: &str| {
        let text = server.fetch("GET", "/metrics", &[field]).expect(200).text();
        text.contains("repository=\"test/small\"")
    };
    ask(
        &server,
        "GET",
        &lab::target("small"),
        &[&tokens.read.bearer()],
    )
    .expect(200);
    assert!(names(&tokens.metrics.bearer()) && names(&tokens.admin.basic()));
    assert!(!names("X: y"));
    assert!(!names(&tokens.read.bearer()), "as for everybody");
    // Who asks hears the same of all that is not enough; the operator hears which that was.
    let refused = |field: &str, target: &str| ask(&server, "GET", target, &[field]).text();
    let unknown = refused(&tokens.foreign.bearer(), "/metrics");
    assert!(!unknown.contains("repository"), "{unknown}");
    assert_eq!(refused(&tokens.read.bearer(), "/status"), unknown);
    refused(&tokens.metrics.bearer(), &lab::target("small"));
    for said in [
        "the token is not in the file of --tokens",
        "the token is of role read, which is not enough",
        "the token is of role metrics, which is not enough",
    ] {
        server.wait_logged(said);
    }
}

/// A request and its answer: method, target, fields, status, and whether it may not be kept at all.
type Kept<'a> = (&'a str, &'a str, &'a [&'a str], u16, bool);

/// Asks for each, and sees to it that all of the answers are for who asked alone.
fn expect_private(server: &Server, rows: &[Kept<'_>]) {
    for (method, target, fields, status, is_never) in rows {
        let head = ask(server, method, target, fields).head;
        let control = head.get("cache-control").unwrap_or_default();
        let what = format!("{method} {target} {status}: {control:?}");
        assert_eq!(head.status, *status, "{what}");
        assert!(control.starts_with("private"), "{what}");
        assert_eq!(control.contains("no-store"), *is_never, "{what}");
        let vary = head.get("vary");
        assert_eq!(vary, Some("Authorization, Tarpon-Authorization"), "{what}");
    }
}

/// What is private says so to caches on the way, whatever the answer; what is open says nothing of it.
#[test]
fn caches_on_the_way_are_told() {
    let (lab, tokens, server) = matrix_lab();
    let (read, snapshot) = (&*tokens.read.bearer(), &*lab::target("small"));
    let answer = ask(&server, "GET", snapshot, &[read]).expect(200);
    let tag = answer.head.etag();
    let (named, unchanged) = (format!("If-Range: {tag}"), format!("If-None-Match: {tag}"));
    let id = git::text(&lab.upstream("small"), &["rev-parse", "main"]);
    let status = &*lab::endpoint("small", "status");
    let refs = &*lab::endpoint("small", "info/refs?service=git-upload-pack");
    let ensure = &*lab::endpoint("small", "ensure-refs");
    let (commit, wrong) = (
        &*format!("{snapshot}?commit={id}"),
        &*format!("{snapshot}?x"),
    );
    expect_private(
        &server,
        &[
            ("GET", snapshot, &[read], 200, false),
            ("HEAD", snapshot, &[read], 200, false),
            ("GET", commit, &[read], 200, false),
            (
                "GET",
                snapshot,
                &[read, "Range: bytes=0-9", &named],
                206,
                false,
            ),
            (
                "GET",
                snapshot,
                &[read, "Range: bytes=999999999-"],
                416,
                true,
            ),
            ("GET", snapshot, &[read, &unchanged], 304, false),
            ("GET", snapshot, &[read, "If-Match: \"x\""], 412, true),
            ("GET", snapshot, &[], 401, true),
            ("GET", snapshot, &["Authorization: Bearer x"], 404, true),
            ("GET", wrong, &[read], 400, true),
            ("POST", snapshot, &[read], 405, true),
            ("GET", status, &[read], 200, true),
            ("GET", refs, &[read], 200, false),
            ("POST", ensure, &[read], 400, true),
        ],
    );
    server.stop();
    let server = lab.start();
    for target in [snapshot, status, refs, commit, wrong] {
        let head = server.get(target).head;
        let control = head.get("cache-control").unwrap_or_default();
        assert!(!control.contains("private"), "{target}: {control}");
        assert!(head.get("vary").is_none(), "{target}");
        assert!(
            head.status == 200 || control == "no-store",
            "{target}: {control}"
        );
    }
}

/// A helper that says always the same.
fn helper(password: &str) -> String {
    format!(
        "credential.helper=!f() {{ test \"$1\" = get && echo username=x && echo password={password}; }}; f"
    )
}

#[test]
fn stock_git_has_a_token_from_its_helper() {
    let lab = small_lab();
    let tokens = Tokens::new(&lab);
    let server = closed(lab.settings(), &tokens.file).start();
    let url = format!("http://{}/git/test/small", server.address());
    let into = lab.scratch("clone");
    let clone = |settings: &[&str], name: &str| {
        let into = lab.scratch(name);
        let into = into.to_string_lossy();
        let asked = ["-c", "core.askPass=true"].iter().chain(settings).copied();
        let args: Vec<&str> = asked.chain(["clone", "--quiet", &url, &into]).collect();
        git::output(&lab.scratch(""), &args)
    };
    let output = clone(&["-c", &helper(&tokens.read.token)], "clone");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let tip = git::text(&lab.upstream("small"), &["rev-parse", "main"]);
    assert_eq!(git::text(&into, &["rev-parse", "HEAD"]), tip);
    // A fetch, and a POST in pieces.
    repos::add_commit(&lab.upstream("small"), "main", "new", b"new");
    let tip = git::text(&lab.upstream("small"), &["rev-parse", "main"]);
    let fetch = [
        "-c",
        &helper(&tokens.read.token),
        "-c",
        "http.postBuffer=70000",
        "fetch",
        "--quiet",
    ];
    git::run(&into, &fetch);
    assert_eq!(git::text(&into, &["rev-parse", "origin/main"]), tip);
    // One who may not hears that there is none, and his store keeps what it has.
    let store = lab.scratch("store");
    let line = format!("http://x:{}@{}\n", tokens.foreign.token, server.address());
    std::fs::write(&store, &line).unwrap();
    let setting = format!("credential.helper=store --file={}", store.display());
    let output = clone(&["-c", &setting], "refused");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && said.contains("not found"),
        "{said}"
    );
    assert_eq!(std::fs::read_to_string(&store).unwrap(), line);
    let output = clone(&[], "unnamed");
    assert!(!output.status.success());
}

fn reloads(server: &Server, result: &str) -> u64 {
    server
        .metrics()
        .count("tarpon_reloads_total", &[("result", result)])
}

fn reload(server: &mut Server, result: &str) {
    let before = reloads(server, result);
    server.signal(Signal::HUP);
    wait::until_true("the files are read", || reloads(server, result) > before);
}

/// The statuses that who has the first and who has the other token gets.
fn statuses(server: &Server, tokens: &Tokens) -> (u16, u16) {
    let of = |token: &Token| {
        let fields = [&*token.bearer()];
        server
            .fetch("GET", &lab::target("small"), &fields)
            .head
            .status
    };
    (of(&tokens.read), of(&tokens.foreign))
}

#[test]
fn a_hangup_reads_tokens_anew() {
    let lab = small_lab();
    let tokens = Tokens::new(&lab);
    let mut server = closed(lab.settings(), &tokens.file).start();
    assert_eq!(statuses(&server, &tokens), (200, 404));
    tokens.write(&[&tokens.foreign]);
    reload(&mut server, "done");
    assert_eq!(statuses(&server, &tokens), (404, 200));
    tokens.write(&[&tokens.read]);
    reload(&mut server, "done");
    assert_eq!(statuses(&server, &tokens), (200, 404));
    assert!(server.is_running());
    // What others can change by now is said, too.
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    std::fs::set_permissions(&tokens.file, mode).unwrap();
    reload(&mut server, "done");
    server.wait_logged("says who may read, and others may change it");
    let log = server.log();
    assert!(log.contains(r#""who":"farm""#), "{log}");
    for token in [&tokens.read, &tokens.foreign] {
        assert!(!log.contains(&token.token));
    }
}

/// A file with an error changes nothing, whichever of all it is; what needs a restart is named.
#[test]
fn a_hangup_changes_all_or_nothing() {
    let lab = small_lab();
    let tokens = Tokens::new(&lab);
    let (secrets, own) = (lab.scratch("secrets"), lab.scratch("tarpon.toml"));
    let write = |path: &Path, text: &str| std::fs::write(path, text).unwrap();
    let hook = "test first\n";
    write(&secrets, hook);
    write(&own, "upstream_rate = 5\n");
    let (secrets_path, own_path) = (secrets.to_string_lossy(), own.to_string_lossy());
    let more = ["--webhook-secrets", &secrets_path, "--config", &own_path];
    let mut server = closed(lab.settings(), &tokens.file).with(&more).start();
    // One file is good and the other is not; and the other way round.
    tokens.write(&[&tokens.foreign]);
    write(&secrets, "elsewhere.example x\n");
    reload(&mut server, "failed");
    assert_eq!(statuses(&server, &tokens), (200, 404));
    write(&secrets, hook);
    tokens::write_text(&tokens.file, "farm read sha256:12\n");
    reload(&mut server, "failed");
    server.wait_logged("everything stays as it is");
    std::fs::remove_file(&tokens.file).unwrap();
    reload(&mut server, "failed");
    tokens.write(&[&tokens.foreign]);
    write(&own, "upstream_rote = 5\n");
    reload(&mut server, "failed");
    assert_eq!(statuses(&server, &tokens), (200, 404));
    write(&own, "upstream_rate = 6\nlevel = 2\n");
    reload(&mut server, "done");
    assert_eq!(statuses(&server, &tokens), (404, 200));
    server.wait_logged("need a restart");
    assert!(
        server.log().contains("level, upstream_rate"),
        "{}",
        server.log()
    );
}

/// A server whose upstream says nothing before it is let, and that asks for a token.
fn cold(wait: &str) -> (Cold, Tokens) {
    let (above, own) = (small_lab(), new_lab());
    let tokens = Tokens::new(&own);
    let file = tokens.file.clone();
    let cold = cold_of((above, own), |settings| {
        closed(settings, &file).with_fault(wait)
    });
    (cold, tokens)
}

fn open(cold: &Cold) {
    cold.gate.store(true, std::sync::atomic::Ordering::Relaxed);
}

/// Who waits while his right is taken away gets nothing; one who has another gets it.
#[test]
fn a_right_that_goes_while_one_waits_is_gone() {
    let (mut cold, tokens) = cold("cold-wait-ms=600000");
    let address = cold.server.address();
    let admin = tokens.admin.bearer();
    let asks = |field: String, target: String| {
        std::thread::spawn(move || fetch(address, "GET", &target, &[&field]))
    };
    let refs = lab::endpoint("small", "info/refs?service=git-upload-pack");
    let waiting = [lab::target("small"), refs].map(|target| asks(tokens.read.bearer(), target));
    let other = asks(admin, lab::target("small"));
    wait::until_true("a clone is waited for", || {
        let running = [("class", "clone")];
        cold.server.metrics().count("tarpon_work_running", &running) > 0
    });
    tokens.write(&[&tokens.admin]);
    reload(&mut cold.server, "done");
    open(&cold);
    for waiting in waiting {
        let answer = waiting.join().unwrap().expect(404);
        assert_eq!(answer.head.get("etag"), None);
        assert!(answer.text().contains("not for you"), "{}", answer.text());
    }
    let other = other.join().unwrap().expect(200);
    cold.lab.unpack(&other.body, "other");
}

/// The same where the answer has begun: it breaks off, with no byte of the archive.
#[test]
fn a_right_that_goes_behind_a_preamble_ends_it() {
    let (mut cold, tokens) = cold("cold-wait-ms=100");
    let mut early = Early::ask(cold.server.address(), &[&tokens.read.bearer()]);
    early.read_lines(1);
    assert_eq!(
        early.head().get("vary"),
        Some("Authorization, Tarpon-Authorization")
    );
    tokens.write(&[&tokens.admin]);
    reload(&mut cold.server, "done");
    open(&cold);
    let (end, last) = early.broken();
    assert_eq!(end, End::Truncated);
    assert_eq!(
        (&last["state"], &last["status"]),
        (&"failed".into(), &404.into()),
        "{last}"
    );
}

/// A download that has begun goes on.
#[test]
fn a_stream_that_has_begun_goes_on() {
    let lab = super::large_lab();
    let tokens = Tokens::new(&lab);
    let mut server = closed(lab.settings(), &tokens.file).start();
    let mut conn = Conn::open(server.address());
    conn.request("GET", &lab::target("large"), &[&tokens.read.bearer()]);
    let head = conn.read_head("GET").unwrap();
    assert_eq!(head.status, 200);
    let start = conn.read_some(1000).unwrap();
    tokens.write(&[&tokens.admin]);
    reload(&mut server, "done");
    let target = lab::target("large");
    server
        .fetch("GET", &target, &[&tokens.read.bearer()])
        .expect(404);
    expect_clone(&lab, "large", &finish(&mut conn, start));
}

/// A server that has a terminal ends with it.
#[test]
fn a_server_with_a_terminal_ends_with_it() {
    let lab = small_lab();
    let (terminal, launcher) = on_terminal("exec env --default-signal=HUP");
    let mut settings = lab.settings();
    settings.launcher = launcher;
    let mut server = settings.start();
    drop(terminal);
    let status = server.wait_exit(wait::DEADLINE);
    assert!(status.success() && status.signal().is_none(), "{status}");
    assert!(server.log().contains("SIGHUP"), "{}", server.log());
    // Under nohup it stays, and reads its files anew.
    let (terminal, launcher) = on_terminal("trap '' HUP; exec");
    settings.launcher = launcher;
    let mut server = settings.start();
    drop(terminal);
    wait::until_true("it reads its files", || reloads(&server, "done") == 1);
    server.terminate();
    assert!(server.wait_exit(wait::DEADLINE).success());
}

/// A terminal, and what starts a server on it, behind these words of shell: the tests may be run where hangups are
/// ignored.
pub(super) fn on_terminal(first: &str) -> (rustix::fd::OwnedFd, Vec<String>) {
    let (terminal, name) = terminal().unwrap();
    let run = format!("{first} setsid --ctty \"$@\" <{name}");
    let launcher = ["sh", "-c", &run, "sh"].map(str::to_owned).to_vec();
    (terminal, launcher)
}

/// A terminal, and the path of its other end.
fn terminal() -> io::Result<(rustix::fd::OwnedFd, String)> {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&terminal)?;
    unlockpt(&terminal)?;
    let name = ptsname(&terminal, Vec::new())?
        .to_string_lossy()
        .into_owned();
    Ok((terminal, name))
}

/// What does not say who may is not started, and names what is missing.
#[test]
fn what_is_not_said_is_no_start() {
    let lab = small_lab();
    let named = ["--access", "test=token"];
    let file = lab.scratch("tokens");
    std::fs::write(&file, "farm owner sha256:12\n").unwrap();
    let file = file.to_string_lossy();
    for (arguments, code, why) in [
        (
            &named[..],
            1,
            "missing: bitbucket.org, codeberg.org, github.com, gitlab.com",
        ),
        (
            &["--no-default-upstreams", "--access", "test=upstream"],
            1,
            "reached by http or https",
        ),
        (
            &["--no-default-upstreams", "--access", "other=open"],
            1,
            "add --upstream other",
        ),
        (
            &["--no-default-upstreams", "--access", "test"],
            1,
            "HOST=open, HOST=token or HOST=upstream",
        ),
        (&["--tokens", &file], 3, "line 1: the role"),
        (&["--tokens", "/nowhere/tokens"], 3, "/nowhere/tokens"),
    ] {
        let exited = lab.settings().with(arguments).try_start();
        let exited = exited
            .err()
            .unwrap_or_else(|| panic!("{arguments:?}: it starts"));
        assert_eq!(exited.status.code(), Some(code), "{}", exited.log);
        assert!(exited.log.contains(why), "{}", exited.log);
    }
    let mut settings = lab
        .settings()
        .with(&["--no-default-upstreams", "--access", "test=token"]);
    settings.listen = "0.0.0.0:0".into();
    let server = settings.start();
    server.wait_logged(
        "other machines reach this server: who shows a token or a certificate reads test",
    );
}

/// Helpers of git are named, and nothing that they are given.
#[test]
fn the_start_names_the_helpers_that_git_has() {
    let lab = small_lab();
    let mut settings = lab.settings();
    let config = lab.scratch("gitconfig");
    let text = "[credential]\n\thelper = store --file /hush\n[credential \"https://a.example\"]\n\thelper = \"!f() { echo hush; }; f\"\n";
    std::fs::write(&config, text).unwrap();
    let own = config.to_string_lossy().into_owned();
    settings.environment.push(("GIT_CONFIG_GLOBAL".into(), own));
    let server = settings.start();
    server.wait_logged("a line of shell for https://a.example");
    let log = server.log();
    assert!(
        log.contains("store, a line of shell") && !log.contains("hush"),
        "{log}"
    );
}

/// A refused body is not waited for.
#[test]
fn a_body_of_who_may_not_is_not_read() {
    let lab = small_lab();
    let tokens = Tokens::new(&lab);
    let server = closed(lab.settings(), &tokens.file).start();
    let mut conn = Conn::open(server.address());
    let kind = "Content-Type: application/x-git-upload-pack-request";
    let fields = [kind, "Content-Length: 8000000", "Expect: 100-continue"];
    conn.request("POST", &lab::endpoint("small", "git-upload-pack"), &fields);
    let answer = conn.response("POST");
    assert_eq!(answer.head.status, 401, "{:?}", answer.head);
}
