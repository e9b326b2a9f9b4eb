//! TLS, with clients that people use: git, curl, and rustls where it is to be looked at closely.

use super::preambles::cold_of;
use super::support::certificates::{Authority, Issued};
use super::support::client::Conn;
use super::support::lab::{self, Lab};
use super::support::repos;
use super::support::server::{Server, Settings};
use super::support::{git, parity, relay, wait};
use super::{hit, large_lab, new_lab, small_lab};
use rustix::process::Signal;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::{Duration, Instant};

type Stream = StreamOwned<ClientConnection, TcpStream>;

/// A lab, and what it shows of itself.
struct Shown {
    lab: Lab,
    authority: Authority,
}

impl Shown {
    fn new(lab: Lab) -> Shown {
        let authority = Authority::new(&lab.scratch(""), "ca");
        Shown { lab, authority }
    }

    fn settings(&self) -> Settings {
        let pair = self
            .authority
            .issue("server", &["localhost", "127.0.0.1"], 1);
        let mut settings = self.lab.settings();
        settings.arguments.extend(pair.flags());
        settings
    }

    /// With a plain listener, too, which is the first: tests look at metrics there.
    fn both(&self, arguments: &[&str]) -> (Server, SocketAddr) {
        let settings = self.settings().with(&["--listen", "tls:127.0.0.1:0"]);
        let server = settings.with(arguments).start();
        let places = server.places(2);
        let address = places[1].strip_prefix("https://").expect("TLS").parse();
        (server, address.unwrap_or_else(|e| panic!("{e}")))
    }

    fn config(&self) -> Arc<ClientConfig> {
        self.config_with(None)
    }

    fn config_with(&self, own: Option<&Issued>) -> Arc<ClientConfig> {
        config_of(&self.authority, own)
    }

    fn curl(&self, address: SocketAddr, arguments: &[&str], target: &str) -> Output {
        let url = format!("https://localhost:{}{target}", address.port());
        let mut curl = Command::new("curl");
        curl.args([
            "--silent",
            "--show-error",
            "--max-time",
            "60",
            "--noproxy",
            "*",
            "--cacert",
        ]);
        curl.arg(&self.authority.file).args(arguments).arg(url);
        curl.output().unwrap_or_else(|e| panic!("curl: {e}"))
    }
}

/// What a client believes, and the certificate that it may have.
fn config_of(authority: &Authority, own: Option<&Issued>) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    let root = CertificateDer::from_pem_file(&authority.file).unwrap();
    roots.add(root).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    let builder = builder.with_root_certificates(roots);
    let mut config = match own {
        None => builder.with_no_client_auth(),
        Some(own) => {
            let cert = CertificateDer::from_pem_file(&own.cert).unwrap();
            let key = PrivateKeyDer::from_pem_file(&own.key).unwrap();
            builder.with_client_auth_cert(vec![cert], key).unwrap()
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Arc::new(config)
}

fn connect(address: SocketAddr, config: &Arc<ClientConfig>) -> Stream {
    connect_by(TcpStream::connect(address).unwrap(), config)
}

fn connect_by(socket: TcpStream, config: &Arc<ClientConfig>) -> Stream {
    let name = ServerName::try_from("localhost").unwrap();
    let client = ClientConnection::new(config.clone(), name).unwrap();
    socket.set_read_timeout(Some(wait::DEADLINE)).unwrap();
    StreamOwned::new(client, socket)
}

fn ask(stream: &mut Stream, target: &str, field: &str) {
    let head = format!("GET {target} HTTP/1.1\r\nHost: t\r\n{field}\r\n");
    stream.write_all(head.as_bytes()).unwrap();
}

/// The head of an answer, in lower case.
fn read_head(stream: &mut Stream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap().to_lowercase()
}

/// The bytes of an answer's body of known length.
fn answer(stream: &mut Stream) -> Vec<u8> {
    let head = read_head(stream);
    assert!(head.starts_with("http/1.1 20"), "{head}");
    let (_, length) = head
        .split_once("content-length: ")
        .unwrap_or_else(|| panic!("{head}"));
    let length = length.split("\r\n").next().unwrap().parse().unwrap();
    let mut body = vec![0; length];
    stream.read_exact(&mut body).unwrap();
    body
}

#[test]
fn git_clones_and_fetches_over_tls() {
    let shown = Shown::new(small_lab());
    let lab = &shown.lab;
    let server = shown.settings().start();
    let url = format!(
        "https://localhost:{}/git/test/small",
        server.address().port()
    );
    let git = |args: &[&str]| {
        let mut command = git::command(&lab.scratch(""), args);
        let ended = command
            .env("GIT_SSL_CAINFO", &shown.authority.file)
            .output();
        let ended = ended.unwrap_or_else(|e| panic!("git: {e}"));
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(ended.status.success(), "git {args:?}: {said}");
    };
    git(&["clone", "--quiet", &url, "clone"]);
    let (clone, expected) = (lab.scratch("clone"), lab.scratch("expected"));
    git::run(&clone, &["remote", "set-url", "origin", &lab.url("small")]);
    git::clone(&lab.url("small"), &expected);
    parity::expect_same_clones(&expected, &clone, "small");
    git::run(&clone, &["remote", "set-url", "origin", &url]);
    let pushed = repos::add_commit(&lab.upstream("small"), "main", "new", b"content");
    let came = || {
        git(&["-C", "clone", "fetch", "--quiet"]);
        git::text(&clone, &["rev-parse", "origin/main"]).trim() == pushed
    };
    wait::until_true("what was pushed is fetched", came);
    let unbelieved = git::output(&lab.scratch(""), &["ls-remote", &url]);
    assert!(!unbelieved.status.success());
}

/// The first client, whose archive grows while it is sent, one that gets it from the disk, parts of it, and all in
/// one connection.
#[test]
fn an_archive_is_the_same_over_tls() {
    for driver in ["uring", "epoll"] {
        let shown = Shown::new(large_lab());
        let (server, address) = shown.both(&["--io-driver", driver]);
        let target = lab::target("large");
        let first = shown.curl(address, &[], &target);
        assert!(
            first.status.success(),
            "{}",
            String::from_utf8_lossy(&first.stderr)
        );
        let expected = hit(&server, "large").body;
        assert!(first.stdout == expected, "while it grows");
        let mut stream = connect(address, &shown.config());
        for _ in 0..2 {
            ask(&mut stream, &target, "");
            assert!(answer(&mut stream) == expected);
            assert_eq!(stream.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
            for range in [5..6, 100_000..400_001, 1 << 20..(1 << 20) + 70_000] {
                let field = format!("Range: bytes={}-{}\r\n", range.start, range.end - 1);
                ask(&mut stream, &target, &field);
                assert!(answer(&mut stream) == expected[range]);
            }
        }
        // Many at once, of whom some are slow: what waits for each is its own.
        let got = super::at_once(8, |number| {
            let mut stream = connect(address, &shown.config());
            ask(&mut stream, &target, "");
            std::thread::sleep(Duration::from_millis(50 * number as u64));
            answer(&mut stream)
        });
        assert!(got.iter().all(|body| *body == expected));
        server.stop();
    }
}

/// The first frame of a preamble waits for nothing that follows it.
#[test]
fn what_is_said_while_somebody_waits_leaves_at_once() {
    let shown = Shown::new(small_lab());
    let silent = relay::listen(|_| relay::be_silent());
    let mut settings = shown.settings().with_fault("cold-wait-ms=100");
    settings.upstreams.push(format!("hang=http://{silent}/"));
    let server = settings.start();
    let mut stream = connect(server.address(), &shown.config());
    ask(&mut stream, "/git/hang/x/snapshot.tar.zst", "");
    let began = Instant::now();
    let mut said = Vec::new();
    // A frame of zstd that is skipped, or is empty, in a chunk of its own.
    while !said
        .windows(3)
        .any(|three| three == b"\x2a\x4d\x18" || three == b"\xb5\x2f\xfd")
    {
        let mut some = [0; 1000];
        let count = stream.read(&mut some).unwrap();
        assert!(count > 0, "it ends");
        said.extend_from_slice(&some[..count]);
    }
    assert!(began.elapsed() < Duration::from_secs(4));
}

#[test]
fn only_its_end_says_that_a_stream_is_whole() {
    let shown = Shown::new(large_lab());
    let (server, address) = shown.both(&["--shutdown-grace", "1s"]);
    hit(&server, "large");
    let config = shown.config();
    let mut whole = connect(address, &config);
    ask(&mut whole, "/_liveness", "Connection: close\r\n");
    answer(&mut whole);
    assert_eq!(whole.read(&mut [0; 10]).unwrap(), 0, "close_notify");
    let mut idle = connect(address, &config);
    ask(&mut idle, "/_liveness", "");
    answer(&mut idle);
    let mut cut = connect(address, &config);
    ask(&mut cut, &lab::target("large"), "");
    cut.read_exact(&mut [0; 1000]).unwrap();
    server.stop();
    assert_eq!(idle.read(&mut [0; 10]).unwrap(), 0, "close_notify");
    let end = cut.read_to_end(&mut Vec::new()).unwrap_err();
    let cuts = [ErrorKind::UnexpectedEof, ErrorKind::ConnectionReset];
    assert!(cuts.contains(&end.kind()), "{end}");
}

/// However full a connection is when the last of an answer is sent, its end follows.
#[test]
fn a_client_that_is_slow_hears_the_end() {
    let shown = Shown::new(large_lab());
    let (server, address) = shown.both(&[]);
    let expected = hit(&server, "large").body;
    let config = shown.config();
    super::at_once(8, |number| {
        for step in 0..6 {
            let len = (number * 6 + step + 1) * 16_000;
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
            let socket = socket.unwrap();
            // With a window so small that the server's buffer is what fills.
            socket.set_recv_buffer_size(4096).unwrap();
            socket.connect(&address.into()).unwrap();
            let mut stream = connect_by(socket.into(), &config);
            let field = format!("Connection: close\r\nRange: bytes=0-{}\r\n", len - 1);
            ask(&mut stream, &lab::target("large"), &field);
            assert!(answer(&mut stream) == expected[..len]);
            let end = stream.read(&mut [0; 10]);
            assert_eq!(end.expect("close_notify"), 0, "{len}");
        }
    });
}

/// What is not in memory any more is read by somebody else than a core, and sent.
#[test]
fn what_has_left_the_page_cache_is_sent_all_the_same() {
    let shown = Shown::new(large_lab());
    let (server, address) = shown.both(&["--cores", "1"]);
    let expected = hit(&server, "large").body;
    let state = shown.lab.settings().state;
    let read = || {
        let labels = [("result", "read")];
        server.metrics().count("tarpon_prefault_total", &labels)
    };
    const TMPFS: i64 = 0x0102_1994;
    let is_in_memory = rustix::fs::statfs(&state).unwrap().f_type == TMPFS;
    let mut stream = connect(address, &shown.config());
    ask(&mut stream, &lab::target("large"), "");
    assert!(answer(&mut stream) == expected);
    for round in 0..3 {
        let before = read();
        evict(&state);
        // A moment ago all of it was there, and the server has seen it.
        ask(&mut stream, &lab::target("large"), "");
        assert!(answer(&mut stream) == expected, "{round}");
        assert!(is_in_memory || read() > before, "{round}: nothing was read");
    }
}

/// Takes the files below a directory out of the page cache.
fn evict(directory: &std::path::Path) {
    for entry in std::fs::read_dir(directory).unwrap().flatten() {
        match entry.file_type().unwrap() {
            kind if kind.is_dir() => evict(&entry.path()),
            kind if kind.is_file() => {
                let file = std::fs::File::open(entry.path()).unwrap();
                file.sync_all().unwrap();
                rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
            }
            _ => {}
        }
    }
}

#[test]
fn who_comes_back_shakes_hands_shortly_on_any_core() {
    let shown = Shown::new(small_lab());
    let (_server, address) = shown.both(&["--cores", "2"]);
    let config = shown.config();
    for number in 0..12 {
        let mut stream = connect(address, &config);
        ask(&mut stream, "/_liveness", "");
        answer(&mut stream);
        let expected = match number {
            0 => HandshakeKind::Full,
            _ => HandshakeKind::Resumed,
        };
        assert_eq!(stream.conn.handshake_kind(), Some(expected), "{number}");
    }
}

#[test]
fn curl_shows_a_certificate_or_none_but_no_wrong_one() {
    let shown = Shown::new(small_lab());
    let authority = &shown.authority;
    let other = Authority::new(&shown.lab.scratch(""), "other");
    let good = authority.issue("good", &["runner-1.ci.example"], 2);
    let revoked = authority.issue("revoked", &["runner-2.ci.example"], 3);
    let unnamed = authority.issue("unnamed", &["runner.example"], 4);
    let foreign = other.issue("foreign", &["runner-1.ci.example"], 5);
    let list = authority.revoke("list", &[&revoked]).display().to_string();
    let ca = authority.file.display().to_string();
    let flags = ["--tls-client-ca", &ca, "--tls-client-crl", &list];
    let (server, address) =
        shown.both(&[&flags[..], &["--tls-client-san", "*.ci.example"]].concat());
    let curl = |own: Option<&Issued>| {
        let mut arguments = vec!["--fail".to_owned()];
        if let Some(own) = own {
            let [cert, key] = [&own.cert, &own.key].map(|path| path.display().to_string());
            arguments.extend(["--cert".to_owned(), cert, "--key".to_owned(), key]);
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        shown
            .curl(address, &arguments, "/_liveness")
            .status
            .success()
    };
    assert!(curl(None) && curl(Some(&good)));
    for wrong in [&revoked, &unnamed, &foreign] {
        assert!(!curl(Some(wrong)), "{wrong:?}");
    }
    let labels = [("reason", "handshake")];
    let dropped = || {
        server
            .metrics()
            .count("tarpon_clients_dropped_total", &labels)
    };
    assert_eq!(
        wait::until("all are counted", || Some(dropped()).filter(|n| *n >= 3)),
        3
    );
    // With client certificates nobody comes back without showing it.
    let config = shown.config();
    for _ in 0..3 {
        let mut stream = connect(address, &config);
        ask(&mut stream, "/_liveness", "");
        answer(&mut stream);
        assert_eq!(stream.conn.handshake_kind(), Some(HandshakeKind::Full));
    }
}

/// Who shows a certificate is somebody, as who shows a token is; he reads, and does not run the server.
#[test]
fn a_certificate_reads_where_a_token_does() {
    let shown = Shown::new(small_lab());
    let good = shown.authority.issue("good", &["runner-1.ci.example"], 2);
    let ca = shown.authority.file.display().to_string();
    let (server, address) = shown.both(&[
        "--no-default-upstreams",
        "--access",
        "test=token",
        "--tls-client-ca",
        &ca,
        "--tls-client-san",
        "*.ci.example",
    ]);
    let [cert, key] = [&good.cert, &good.key].map(|path| path.display().to_string());
    let curl = |own: &[&str], target: &str| {
        let status = ["--write-out", "%{http_code}", "--output", "/dev/null"];
        let output = shown.curl(address, &[own, &status].concat(), target);
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let own = ["--cert", &*cert, "--key", &*key];
    let target = lab::target("small");
    assert_eq!(
        (curl(&own, &target), curl(&[], &target)),
        ("200".into(), "401".into())
    );
    for target in ["/status", "/metrics"] {
        assert_eq!(curl(&own, target), curl(&[], target), "{target}");
    }
    // Stock git by its own settings.
    let url = format!("https://localhost:{}/git/test/small", address.port());
    let listed = |own: &[(&str, &str)]| {
        let mut git = git::command(&shown.lab.scratch(""), &["ls-remote", &url]);
        git.env("GIT_SSL_CAINFO", &shown.authority.file);
        let output = git.envs(own.iter().copied()).output().unwrap();
        (output.status.success(), output.stdout.is_empty())
    };
    let own_of_git = [("GIT_SSL_CERT", &*cert), ("GIT_SSL_KEY", &*key)];
    assert_eq!(listed(&own_of_git), (true, false));
    assert_eq!(listed(&[]), (false, true));
    let post = [&own[..], &["--request", "POST"]].concat();
    assert_eq!(curl(&post, "/admin/git/test/small/drop"), "401");
    // The plain listener beside it proves nothing. What would be shown is said, and nothing that nobody can have.
    let said = server.get(&target).expect(401).text();
    assert!(
        said.contains("Show a client certificate; there are no tokens here"),
        "{said}"
    );
    let said = server.get("/status").expect(401).text();
    assert!(
        said.contains("--admin-listen; there are no tokens"),
        "{said}"
    );
}

/// A hello of a client that knows no later version than 1.`minor - 1`.
fn hello(minor: u8) -> Vec<u8> {
    let groups = [0, 10, 0, 4, 0, 2, 0, 0x17];
    let signatures = [0, 13, 0, 4, 0, 2, 4, 3];
    let extended_secret = [0, 0x17, 0, 0];
    let extensions = [&groups[..], &signatures, &extended_secret].concat();
    let body = [
        &[3, minor][..],
        &[7; 32],
        &[0],
        &[0, 4, 0xc0, 0x2b, 0xc0, 0x09],
        &[1, 0, 0, extensions.len() as u8],
        &extensions,
    ]
    .concat();
    let len = body.len() as u8;
    [&[22, 3, 1, 0, len + 4, 1, 0, 0, len][..], &body].concat()
}

#[test]
fn tls_1_1_is_refused_by_an_alert() {
    let shown = Shown::new(small_lab());
    let server = shown.settings().start();
    let told = |minor| {
        let mut socket = TcpStream::connect(server.address()).unwrap();
        socket.set_read_timeout(Some(wait::DEADLINE)).unwrap();
        socket.write_all(&hello(minor)).unwrap();
        let mut said = [0; 7];
        socket.read_exact(&mut said).unwrap();
        said
    };
    // An alert, which is fatal: protocol_version.
    assert_eq!(told(2), [21, 3, 3, 0, 2, 2, 70]);
    assert_eq!(told(3)[0], 22, "the handshake goes on");
}

/// Half-open handshakes make room, have a time, and are nobody's trouble meanwhile.
#[test]
fn half_open_handshakes_hold_no_place_from_a_good_client() {
    let shown = Shown::new(small_lab());
    let mut settings = shown
        .settings()
        .with(&["--listen", "tls:127.0.0.1:0", "--cores", "1"]);
    // With room for 80 connections.
    let script = format!("ulimit -n {}; exec \"$@\"", 48 + 9 + 2 * 80);
    settings.launcher = ["sh", "-c", &script, "sh"].map(str::to_owned).to_vec();
    let server = settings.with(&["--idle-timeout", "5s"]).start();
    let address = server.places(2)[1]
        .strip_prefix("https://")
        .unwrap()
        .parse()
        .unwrap();
    let config = shown.config();
    let hello = {
        let mut hello = Vec::new();
        let mut half = connect(address, &config);
        half.conn.write_tls(&mut hello).unwrap();
        hello
    };
    let mut crowd: Vec<Conn> = (0..200)
        .map(|number| {
            let mut conn = Conn::open(address);
            // Nothing, a part of a hello, a hello and nothing more.
            let sent = [0, hello.len() / 2, hello.len()][number % 3];
            // It may have had to make room already.
            let _ = conn.send(&hello[..sent]);
            conn
        })
        .collect();
    for number in 0..20 {
        let began = Instant::now();
        let mut stream = connect(address, &config);
        ask(&mut stream, "/_liveness", "");
        answer(&mut stream);
        assert!(began.elapsed() < Duration::from_secs(2), "{number}");
    }
    let reason = |reason| {
        let metrics = server.metrics();
        metrics.count("tarpon_clients_dropped_total", &[("reason", reason)])
    };
    assert!(reason("crowded") >= 100);
    let refused = server
        .metrics()
        .count("tarpon_connections_refused_total", &[]);
    assert_eq!(refused, 0);
    for conn in &mut crowd {
        assert!(conn.closes_within(Duration::from_secs(10)));
    }
    assert!(reason("idle") > 0);
}

/// What idle connections that speak TLS take.
#[test]
fn idle_connections_are_small() {
    let shown = Shown::new(small_lab());
    let (server, address) = shown.both(&["--cores", "1"]);
    hit(&server, "small");
    let config = shown.config();
    let target = lab::target("small");
    let open = || {
        let mut stream = connect(address, &config);
        ask(&mut stream, &target, "");
        answer(&mut stream);
        stream
    };
    let warm: Vec<Stream> = (0..20).map(|_| open()).collect();
    let before = server.rss_anon_bytes();
    let idle: Vec<Stream> = (0..200).map(|_| open()).collect();
    let each = server.rss_anon_bytes().saturating_sub(before) / idle.len() as u64;
    assert!(each <= 64 << 10, "{each} bytes for each");
    drop(warm);
}

#[test]
fn what_tls_needs_is_looked_at_before_anything_starts() {
    let shown = Shown::new(small_lab());
    let [one, two] = ["one", "two"].map(|name| shown.authority.issue(name, &["localhost"], 1));
    let mut settings = shown.lab.settings();
    let [cert, _] = one.flags();
    let [_, key] = two.flags();
    settings.arguments.extend([cert, key]);
    let refused = settings.try_start().err().expect("it has no pair");
    assert_eq!(refused.status.code(), Some(3));
    assert!(
        refused
            .log
            .contains("two.key of --tls-key has not the key of the certificate in"),
        "{}",
        refused.log
    );
}

/// A download goes on, whoever comes next is shown what is there now, and a file that is wrong changes nothing.
#[test]
fn certificates_change_in_the_middle_of_a_download() {
    let shown = Shown::new(large_lab());
    let (mut server, address) = shown.both(&[]);
    let expected = hit(&server, "large").body;
    let config = shown.config();
    let mut old = connect(address, &config);
    ask(&mut old, &lab::target("large"), "");
    let mut begun = vec![0; 1000];
    old.read_exact(&mut begun).unwrap();
    let serial = |stream: &Stream| {
        let own = &stream.conn.peer_certificates().unwrap()[0];
        webpki::EndEntityCert::try_from(own)
            .unwrap()
            .serial()
            .to_vec()
    };
    assert_eq!(serial(&old), [1]);
    let reloads = |server: &Server, result| {
        let metrics = server.metrics();
        metrics.count("tarpon_reloads_total", &[("result", result)])
    };
    let (file, key) = (
        shown.lab.scratch("server.pem"),
        shown.lab.scratch("server.key"),
    );
    let right = std::fs::read(&key).unwrap();
    std::fs::write(&key, "no key").unwrap();
    server.signal(Signal::HUP);
    wait::until_true("a wrong file is said to be", || {
        reloads(&server, "failed") == 1
    });
    std::fs::write(&key, right).unwrap();
    let next = shown.authority.issue("next", &["localhost"], 7);
    std::fs::copy(&next.cert, &file).unwrap();
    std::fs::copy(&next.key, &key).unwrap();
    server.signal(Signal::HUP);
    wait::until_true("it is read anew", || reloads(&server, "done") == 1);
    let fresh = shown.config();
    let mut new = connect(address, &fresh);
    ask(&mut new, "/_liveness", "");
    answer(&mut new);
    assert_eq!(serial(&new), [7]);
    let mut rest = Vec::new();
    while begun.len() + rest.len() < expected.len() {
        let mut some = [0; 65536];
        let count = old.read(&mut some).unwrap();
        assert!(count > 0);
        rest.extend_from_slice(&some[..count]);
    }
    assert!(
        [begun, rest]
            .concat()
            .ends_with(&expected[expected.len() - 100_000..])
    );
    // Who was there before comes back as before.
    let mut again = connect(address, &fresh);
    ask(&mut again, "/_liveness", "");
    answer(&mut again);
    assert_eq!(again.conn.handshake_kind(), Some(HandshakeKind::Resumed));
}

/// Who has shown a certificate of an authority that is believed no more is let go with its next request.
#[test]
fn an_authority_that_is_removed_is_believed_no_more() {
    let shown = Shown::new(small_lab());
    let ca = shown.lab.scratch("believed.pem");
    std::fs::copy(&shown.authority.file, &ca).unwrap();
    let path = ca.display().to_string();
    let flags = ["--tls-client-ca", &path, "--tls-client-san", "*.ci.example"];
    let (mut server, address) = shown.both(&flags);
    let own = shown.authority.issue("own", &["r.ci.example"], 2);
    let config = shown.config_with(Some(&own));
    let mut stream = connect(address, &config);
    ask(&mut stream, "/_liveness", "");
    answer(&mut stream);
    let other = Authority::new(&shown.lab.scratch(""), "other");
    std::fs::copy(&other.file, &ca).unwrap();
    server.signal(Signal::HUP);
    let is_done = || {
        let labels = [("result", "done")];
        server.metrics().count("tarpon_reloads_total", &labels) == 1
    };
    wait::until_true("it is read anew", is_done);
    ask(&mut stream, "/_liveness", "");
    assert_eq!(
        stream.read(&mut [0; 10]).unwrap(),
        0,
        "it is let go in good order"
    );
    let refused = shown.curl(
        address,
        &[
            "--cert",
            &own.cert.display().to_string(),
            "--key",
            &own.key.display().to_string(),
        ],
        "/_liveness",
    );
    assert!(!refused.status.success());
    assert!(
        shown
            .curl(address, &["--fail"], "/_liveness")
            .status
            .success()
    );
}

/// Whose certificate is revoked while he waits gets nothing, whether his answer has begun or not; another gets it.
#[test]
fn a_certificate_that_is_revoked_while_one_waits_is_none() {
    for wait_ms in [600_000, 100] {
        let own = new_lab();
        let authority = Authority::new(&own.scratch(""), "ca");
        let gone = authority.issue("gone", &["r1.ci.example"], 2);
        let other = authority.issue("other", &["r2.ci.example"], 3);
        let pair = authority.issue("server", &["localhost"], 1);
        let list = authority.revoke("list", &[]).display().to_string();
        let ca = authority.file.display().to_string();
        let mut cold = cold_of((small_lab(), own), |mut settings| {
            settings.arguments.extend(pair.flags());
            let flags = ["--listen", "tls:127.0.0.1:0", "--no-default-upstreams"];
            let access = ["--access", "test=token", "--tls-client-san", "*.ci.example"];
            let files = ["--tls-client-ca", &ca, "--tls-client-crl", &list];
            let wait = format!("cold-wait-ms={wait_ms}");
            let settings = settings.with(&flags).with(&access);
            settings.with(&files).with_fault(&wait)
        });
        let place = &cold.server.places(2)[1];
        let address = place.strip_prefix("https://").unwrap().parse().unwrap();
        let [mut waits, mut stays] = [&gone, &other].map(|own| {
            let mut stream = connect(address, &config_of(&authority, Some(own)));
            ask(&mut stream, &lab::target("small"), "");
            stream
        });
        let is_early = wait_ms < 1000;
        if is_early {
            assert!(read_head(&mut waits).starts_with("http/1.1 200 "));
        }
        wait::until_true("a clone is waited for", || {
            let running = [("class", "clone")];
            cold.server.metrics().count("tarpon_work_running", &running) > 0
        });
        authority.revoke("list", &[&gone]);
        cold.server.signal(Signal::HUP);
        wait::until_true("it is read anew", || {
            let labels = [("result", "done")];
            cold.server.metrics().count("tarpon_reloads_total", &labels) == 1
        });
        cold.gate.store(true, std::sync::atomic::Ordering::Relaxed);
        if is_early {
            let mut said = Vec::new();
            let end = waits.read_to_end(&mut said).unwrap_err();
            assert_ne!(end.kind(), ErrorKind::WouldBlock);
            let said = String::from_utf8_lossy(&said);
            assert!(said.contains(r#""status":404"#), "{said}");
        } else {
            assert!(read_head(&mut waits).starts_with("http/1.1 404 "));
        }
        let mut whole = Vec::new();
        assert!(read_head(&mut stays).starts_with("http/1.1 200 "));
        while !whole.ends_with(b"\r\n0\r\n\r\n") {
            let mut some = [0; 65536];
            let count = stays.read(&mut some).unwrap();
            assert!(count > 0);
            whole.extend_from_slice(&some[..count]);
        }
        assert!(whole.len() > 100_000);
    }
}
