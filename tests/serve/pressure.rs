//! Clients that ask for too much, too slowly or too fast: others do not notice, and nothing in
//! the server grows with them.

use super::support::client::{Conn, End, get};
use super::support::lab;
use super::support::server::Server;
use super::support::wait;
use super::{at_once, begin, expect_clone, finish, hit, large_lab, small_lab, start_on_mirror};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

fn dropped(server: &Server, reason: &str) -> u64 {
    let labels = [("reason", reason)];
    server
        .metrics()
        .count("tarpon_clients_dropped_total", &labels)
}

/// Fewer than it can work with: said at the start, and not by what breaks later.
#[test]
fn too_few_descriptors() {
    let lab = small_lab();
    for limit in [100, 40, 16] {
        let mut settings = lab.settings().with(&["--cores", "1"]);
        let script = format!("ulimit -n {limit}; exec \"$@\"");
        let launcher = ["sh", "-c", &script, "sh"];
        settings.launcher = launcher.map(str::to_owned).to_vec();
        let refused = settings.try_start().err();
        let refused = refused.unwrap_or_else(|| panic!("it starts with {limit}"));
        assert_eq!(refused.status.code(), Some(3), "{limit}");
        let said = format!("may open {limit} files and needs 120");
        assert!(refused.log.contains(&said), "{}", refused.log);
    }
}

/// All descriptors of the process are in use, but for a few, by one more from one try to the next: a
/// build that lacks one is nobody's failure. Who asks is told to come again, and gets it as soon as it
/// can be had.
#[test]
fn a_build_without_descriptors_is_no_failure() {
    let lab = small_lab();
    let server = start_on_mirror(&lab);
    let pid = rustix::process::Pid::from_raw(server.pid().cast_signed());
    let limit = |files: Option<u64>| {
        let most = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
        let limits = rustix::process::Rlimit {
            current: files.or(most),
            maximum: most,
        };
        rustix::process::prlimit(pid, rustix::process::Resource::Nofile, limits).unwrap();
    };
    // The fewest of some looks: what it does beside for a moment is not to count.
    let looks = (0..50).map(|_| {
        std::thread::sleep(wait::POLL);
        server.descriptors().len()
    });
    let open = looks.min().unwrap_or(0);
    for free in 2..64 {
        limit(Some((open + free) as u64));
        let mut conn = Conn::open(server.address());
        conn.limit_silence(Duration::from_secs(3));
        conn.request("GET", &lab::target("small"), &[]);
        // With too few it is not even accepted.
        let head = conn.read_head("GET").ok();
        let whole = match head.as_ref().map(|head| head.status) {
            Some(200) => matches!(conn.copy_body(&mut std::io::sink()), Ok((End::Complete, _))),
            Some(503) => {
                assert_eq!(head.unwrap().get("retry-after"), Some("5"));
                false
            }
            None => false,
            Some(other) => panic!("{other} with {free}: {}", server.log()),
        };
        drop(conn);
        limit(None);
        // In turn: what one was counted for is over.
        let idle = || server.metrics().count("tarpon_builds_running", &[]) == 0;
        wait::until_true("the build ends", idle);
        if whole {
            break;
        }
    }
    // After as many failures nobody would have been served.
    let given_up = server.builds("abandoned");
    assert!(given_up >= 2, "{given_up} builds: {}", server.log());
    assert_eq!(server.builds("failed"), 0, "{}", server.log());
    expect_clone(
        &lab,
        "small",
        &server.get(&lab::target("small")).expect(200).body,
    );
}

/// Questions about many names of an allowed host, none of which is a repository.
#[test]
fn many_names_cost_no_memory() {
    let lab = small_lab();
    let server = lab.start();
    let ask = |from: usize| {
        let mut conn = Conn::open(server.address());
        for block in 0..20 {
            let mut requests = String::new();
            for number in 0..1000 {
                let name = format!("absent-{from}-{block}-{number}");
                let target = lab::endpoint(&name, "ensure-refs");
                requests +=
                    &format!("POST {target} HTTP/1.1\r\nHost: t\r\nContent-Length: 2\r\n\r\n{{}}");
            }
            let mut writer = conn.writer().unwrap_or_else(|e| panic!("{e}"));
            std::thread::scope(|scope| {
                scope.spawn(move || writer.write_all(requests.as_bytes()));
                for _ in 0..1000 {
                    conn.response("POST").expect(400);
                }
            });
        }
    };
    ask(0);
    let before = server.rss_anon_bytes();
    at_once(4, |from| ask(from + 1));
    let grown = server.rss_anon_bytes().saturating_sub(before);
    assert!(grown < 8 << 20, "{} KiB for 80,000 names", grown >> 10);
    assert!(!lab.mirror("absent-0-0-0").exists());
}

/// Ten thousand requests at once on one connection are answered in order, and others on the
/// same core are served meanwhile.
#[test]
fn ten_thousand_requests_ahead() {
    let lab = small_lab();
    let server = lab.settings().with(&["--cores", "1"]).start();
    hit(&server, "small");
    let mut conn = Conn::open(server.address());
    let mut requests = String::new();
    for number in 0..10_000 {
        let range = format!("Range: bytes={number}-{number}");
        let target = lab::target("small");
        requests += &format!("GET {target} HTTP/1.1\r\nHost: t\r\n{range}\r\n\r\n");
    }
    let mut writer = conn.writer().unwrap_or_else(|e| panic!("{e}"));
    std::thread::scope(|scope| {
        scope.spawn(move || writer.write_all(requests.as_bytes()));
        for number in 0..10_000 {
            let answer = conn.response("GET").expect(206);
            let range = answer.head.get("content-range").unwrap_or_default();
            assert!(
                range.starts_with(&format!("bytes {number}-{number}/")),
                "{range}"
            );
            if number % 1000 == 0 {
                get(server.address(), "/_liveness").expect(200);
            }
        }
    });
}

/// Heads that come byte by byte without end have the time of a head and no more.
#[test]
fn slow_heads() {
    let lab = small_lab();
    let server = lab.settings().with(&["--idle-timeout", "2s"]).start();
    let started = Instant::now();
    let mut slow: Vec<_> = (0..20).map(|_| Conn::open(server.address())).collect();
    for conn in &mut slow {
        assert!(conn.send(b"GET /_liveness HTTP/1.1\r\nX: ").is_ok());
    }
    wait::until_true("the slow ones are dropped", || {
        std::thread::sleep(Duration::from_millis(50));
        for conn in &mut slow {
            // It may be closed by now.
            drop(conn.send(b"x"));
        }
        assert!(started.elapsed() < Duration::from_secs(20), "they stay");
        dropped(&server, "idle") == 20
    });
    assert!(started.elapsed() >= Duration::from_millis(1900));
    get(server.address(), "/_liveness").expect(200);
}

/// Time limits hold on a core that is never without work, with epoll, too.
#[test]
fn time_limits_hold_under_load() {
    for driver in ["epoll", "auto"] {
        let lab = large_lab();
        let limits = [
            "--cores",
            "1",
            "--idle-timeout",
            "1s",
            "--stall-timeout",
            "1s",
        ];
        let server = lab.settings().with_driver(driver).with(&limits).start();
        let whole = hit(&server, "large").body;
        let busy = AtomicBool::new(true);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| download(&server, &busy));
                scope.spawn(|| flood(&server, &busy));
            }
            let _relax = Relax(&busy);
            let mut silent = Conn::open(server.address());
            let (stalled, _, _) = begin(&server, "large", 1000);
            let started = Instant::now();
            let closes = silent.closes_within(Duration::from_secs(20));
            let stalls = || dropped(&server, "stall") >= 1;
            while closes && !stalls() && started.elapsed() < Duration::from_secs(30) {
                std::thread::sleep(Duration::from_millis(20));
            }
            let stalls = stalls();
            drop(stalled);
            assert!(closes, "{driver}: an idle connection stays open");
            assert!(stalls, "{driver}: a stalled client is not dropped");
        });
        let (mut conn, _, start) = begin(&server, "large", 1000);
        assert!(finish(&mut conn, start) == whole);
    }
}

/// Ends the load when it is dropped, also by a panic, so that its threads end.
pub(super) struct Relax<'a>(pub(super) &'a AtomicBool);

impl Drop for Relax<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// Downloads again and again, as fast as the server can.
fn download(server: &Server, busy: &AtomicBool) {
    let mut conn = Conn::open(server.address());
    while busy.load(Ordering::Relaxed) {
        conn.request("GET", &lab::target("large"), &[]);
        let head = conn.read_head("GET");
        assert!(head.is_ok_and(|head| head.status == 200));
        assert!(conn.copy_body(&mut std::io::sink()).is_ok());
    }
}

/// Keeps a connection full of requests, and reads the answers without looking at them.
fn flood(server: &Server, busy: &AtomicBool) {
    let mut stream = TcpStream::connect(server.address()).unwrap_or_else(|e| panic!("{e}"));
    let mut writer = stream.try_clone().unwrap_or_else(|e| panic!("{e}"));
    let requests = "GET /_liveness HTTP/1.1\r\nHost: t\r\n\r\n".repeat(1000);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            while busy.load(Ordering::Relaxed) {
                if writer.write_all(requests.as_bytes()).is_err() {
                    return;
                }
            }
            drop(writer.shutdown(std::net::Shutdown::Write));
        });
        let mut answers = vec![0; 1 << 20];
        while stream.read(&mut answers).is_ok_and(|count| count > 0) {}
    });
}
