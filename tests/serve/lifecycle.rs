//! Shutdown, restart, refresh, eviction, clients that hang: nothing is lost, nothing leaks.

use super::support::certificates::Authority;
use super::support::client::{Conn, End, Paced, get};
use super::support::lab::{self, Lab};
use super::support::repos::{self, Shape};
use super::support::rng::Rng;
use super::support::server::{Server, Settings};
use super::support::{git, wait};
use super::{begin, expect_clone, finish, hit, large_lab, new_lab, small_lab, wait_published};
use rustix::process::Signal;
use sha2::{Digest, Sha256};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::time::{Duration, Instant};
use std::{fs, io};

/// Waits until nothing accepts at the server's address any more.
fn wait_refused(server: &Server) {
    wait::until_true("new connections are refused", || {
        let refused = io::ErrorKind::ConnectionRefused;
        Conn::try_open(server.address()).is_err_and(|error| error.kind() == refused)
    });
}

/// SIGTERM in the middle of the response to a miss: that response ends whole, the exit code
/// is 0, and nothing half-made stays.
#[test]
fn sigterm_lets_a_running_response_finish() {
    let lab = large_lab();
    let mut server = lab.start();
    let (mut conn, _, start) = begin(&server, "large", 1 << 20);
    server.terminate();
    wait_refused(&server);
    assert!(server.is_running(), "it ended under its client");
    let body = finish(&mut conn, start);
    let status = server.wait_exit(wait::DEADLINE);
    assert!(status.success(), "{status}");
    expect_clone(&lab, "large", &body);
    lab.expect_no_orphans();
}

/// A terminal that is closed sends SIGHUP twice: once itself, once by the shell.
#[test]
fn a_second_hangup_breaks_no_response() {
    let lab = large_lab();
    let (terminal, launcher) = super::access::on_terminal("exec env --default-signal=HUP");
    let mut settings = lab.settings();
    settings.launcher = launcher;
    let mut server = settings.start();
    let (mut conn, _, start) = begin(&server, "large", 1 << 20);
    drop(terminal);
    wait_refused(&server);
    server.signal(Signal::HUP);
    finish(&mut conn, start);
    let status = server.wait_exit(wait::DEADLINE);
    assert!(status.success(), "{status}");
    let log = server.log();
    assert!(
        log.contains("SIGHUP of the terminal that it was started from"),
        "{log}"
    );
    // Others still end it at once.
    let mut server = lab.start();
    let (_stalled, _, _) = begin(&server, "large", 1000);
    server.terminate();
    wait_refused(&server);
    // Not before: two within a second are one.
    std::thread::sleep(Duration::from_millis(1200));
    server.terminate();
    let status = server.wait_exit(wait::DEADLINE);
    assert_eq!(status.signal(), Some(Signal::TERM.as_raw()), "{status}");
}

/// `timeout` of coreutils sends one to its child and one to the child's group.
#[test]
fn two_signals_at_a_time_are_one_wish() {
    let lab = large_lab();
    for second in [Signal::TERM, Signal::INT] {
        let mut server = lab.start();
        let (mut conn, _, start) = begin(&server, "large", 1 << 20);
        let began = Instant::now();
        server.terminate();
        while began.elapsed() < Duration::from_millis(500) {
            std::thread::sleep(Duration::from_millis(20));
            server.signal(second);
        }
        assert!(server.is_running(), "it ended under its client");
        finish(&mut conn, start);
        let status = server.wait_exit(wait::DEADLINE);
        assert!(status.success(), "{status}");
    }
}

/// A client that takes nothing does not keep the server alive past the limit, and sees that
/// its body is not whole.
#[test]
fn sigterm_waits_no_longer_than_the_limit() {
    let lab = large_lab();
    let mut server = lab.settings().with(&["--shutdown-grace", "1s"]).start();
    let (mut conn, _, _) = begin(&server, "large", 1000);
    wait_published(&server, "large");
    let asked = Instant::now();
    server.terminate();
    let status = server.wait_exit(Duration::from_secs(20));
    assert!(status.success(), "{status}");
    assert!(
        asked.elapsed() >= Duration::from_millis(900),
        "the limit was not used"
    );
    let rest = conn.copy_body(&mut io::sink());
    assert!(
        rest.is_ok_and(|(end, _)| end == End::Truncated),
        "a part passes for the whole"
    );
    let log = server.log();
    let requests = log.lines().filter(|line| line.contains("tarpon::request"));
    let mut cut = requests.filter(|line| line.contains(r#""complete":false"#));
    let line = cut
        .next()
        .expect("the request that was cut off is not logged");
    assert!(
        line.contains("test/large") && cut.next().is_none(),
        "{line}"
    );
    lab.expect_no_orphans();
}

/// A signal that comes before the main thread waits for it goes to any thread that does not block
/// it, and ends the process.
#[test]
fn every_thread_blocks_the_signals_of_the_end() {
    let lab = small_lab();
    let server = lab.start();
    hit(&server, "small");
    let first = server.pid();
    let mut threads = 0;
    for task in fs::read_dir(format!("/proc/{first}/task")).unwrap() {
        let task = task.unwrap();
        // The first waits with sigwait(3), which takes them.
        if task.file_name().to_str() == Some(&first.to_string()) {
            continue;
        }
        // A thread may have ended.
        let Ok(status) = fs::read_to_string(task.path().join("status")) else {
            continue;
        };
        let field = |name| status.lines().find_map(|line| line.strip_prefix(name));
        let blocked = u64::from_str_radix(field("SigBlk:").unwrap().trim(), 16).unwrap();
        for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
            let bit = 1 << (signal.as_raw() - 1);
            assert!(blocked & bit != 0, "{:?}: {signal:?}", field("Name:"));
        }
        threads += 1;
    }
    assert!(threads > 4, "{threads} threads");
    server.stop();
}

#[test]
fn each_signal_of_the_end_ends_it_in_order() {
    let lab = small_lab();
    for (signal, name) in [(Signal::TERM, "SIGTERM"), (Signal::INT, "SIGINT")] {
        let mut server = lab.start();
        hit(&server, "small");
        server.signal(signal);
        let status = server.wait_exit(wait::DEADLINE);
        assert!(status.success(), "{name}: {status}");
        assert!(server.log().contains(name), "the log does not say why");
    }
    lab.expect_no_orphans();
}

/// SIGTERM while the only build runs for nobody, and while an idle connection stays open.
#[test]
fn sigterm_with_nothing_to_finish_is_quick() {
    let lab = large_lab();
    let mut server = lab.start();
    let (conn, _, _) = begin(&server, "large", 1000);
    drop(conn);
    let idle = Conn::open(server.address());
    server.terminate();
    let status = server.wait_exit(Duration::from_secs(25));
    assert!(status.success(), "{status}");
    drop(idle);
    lab.expect_no_orphans();
}

/// Entries outlive the server: the same tag, the same bytes, no build.
#[test]
fn a_restart_finds_the_entries() {
    let lab = small_lab();
    let server = lab.start();
    let before = hit(&server, "small");
    server.stop();
    let server = lab.start();
    let after = server.get(&lab::target("small")).expect(200);
    assert!(after.head.content_length().is_some(), "{:?}", after.head);
    assert_eq!(before.head.etag(), after.head.etag());
    assert!(before.body == after.body, "bodies differ");
    assert_eq!(server.builds("complete"), 0);
    assert_eq!(server.metrics().count("tarpon_cache_entries", &[]), 1);
}

/// Snapshots and staging files that nobody published are removed at the start, entries that
/// do not hold what they should are not served.
#[test]
fn a_start_cleans_up() -> io::Result<()> {
    let lab = small_lab();
    let server = lab.start();
    let before = hit(&server, "small");
    server.stop();
    let snapshots = lab.state().join("snapshots");
    let entry = lab.entries().remove(0);
    lab::copy_tree(&snapshots.join(&entry), &snapshots.join(".building-0123"));
    lab::create_dir(&snapshots.join("ffffffffffffffffffffffffffffffff"));
    lab::create_dir(&lab.state().join("tmp/clone-123/objects"));
    std::fs::write(lab.state().join("tmp/pack"), b"half")?;
    let server = lab.start();
    lab.expect_no_orphans();
    wait::until_true("only the entry is left", || {
        lab.entries() == [entry.as_str()]
    });
    assert!(hit(&server, "small").body == before.body, "bodies differ");
    assert_eq!(server.builds("complete"), 0);
    Ok(())
}

/// An old entry that cannot be removed costs nothing but its space: here something is mounted
/// there.
#[test]
fn a_superseded_entry_that_stays_does_not_stop_the_start() {
    let lab = small_lab();
    let server = lab.start();
    hit(&server, "small");
    server.stop();
    let old = lab.entries().remove(0);
    let snapshots = lab.state().join("snapshots");
    lab::copy_tree(&snapshots.join(&old), &lab.scratch("old"));
    lab.forget_snapshots();
    let server = lab.start();
    super::push_and_fetch(&lab, &server, "small", "new.txt", b"new\n");
    let new = hit(&server, "small");
    server.stop();
    lab::copy_tree(&lab.scratch("old"), &snapshots.join(&old));
    let mut settings = lab.settings();
    let entry = snapshots.join(&old).display().to_string();
    let script = "mount --bind \"$0\" \"$0\" && exec \"$@\"";
    settings.launcher = ["unshare", "-rm", "sh", "-c", script, &entry]
        .map(str::to_owned)
        .into();
    if settings
        .clone()
        .with(&["--help"])
        .try_start()
        .is_err_and(|e| !e.status.success())
    {
        eprintln!("not tested: nothing can be mounted here");
        return;
    }
    let server = settings.start();
    server.wait_logged("a superseded entry stays");
    let served = server.get(&lab::target("small")).expect(200);
    assert!(served.body == new.body, "the old one is served");
    assert_eq!(server.builds("complete"), 0);
    assert!(lab.entries().contains(&old));
    server.stop();
    lab.start().stop();
    assert!(
        !lab.entries().contains(&old),
        "the next start did not try again"
    );
}

/// A mirror that is put there while the server runs is used, and from then on kept like its
/// upstream; one that cannot be used is named, and can be put right.
#[test]
fn a_mirror_can_be_added_at_any_time() {
    let lab = small_lab();
    let server = lab.settings().with(&["--fetch-interval", "1s"]).start();
    let clones = || server.metrics().count("tarpon_clones_total", &[]);
    git::run(&lab.upstream("small"), &["branch", "other", "main"]);
    lab::copy_tree(
        &lab.upstream("small").join("objects"),
        &lab.mirror("small").join("objects"),
    );
    let answer = server.get(&lab::target("small")).expect(500).text();
    assert!(answer.contains("it is no bare git repository"), "{answer}");
    super::remove(&lab.mirror("small"));
    lab.place_mirror("small");
    let old = hit(&server, "small");
    assert_eq!(clones(), 0);
    wait::until_true("the mirror is configured", || {
        let config = std::fs::read_to_string(lab.mirror("small").join("config"));
        config.is_ok_and(|config| config.contains("auto = 0"))
    });
    let commit = repos::add_commit(&lab.upstream("small"), "main", "new.txt", b"new\n");
    wait::until_true("the schedule brings the new commit", || {
        let head = server.fetch("HEAD", &lab::target("small"), &[]).head;
        head.get("x-cachew-snapshot-commit") == Some(&commit) && head.etag() != old.head.etag()
    });
}

/// After a restart, mirrors whose age is known are not fetched before their time.
#[test]
fn a_restart_fetches_nothing_before_its_time() {
    let lab = small_lab();
    let server = lab.start();
    hit(&server, "small");
    server.stop();
    let noted = std::fs::metadata(lab.mirror("small").join("FETCH_HEAD"));
    assert!(
        noted.is_ok_and(|noted| noted.len() == 0),
        "the clone is not noted"
    );
    let server = lab.settings().with(&["--fetch-interval", "720h"]).start();
    hit(&server, "small");
    assert_eq!(server.fetches(), 0);
    server.stop();
    // An age over the interval is spread over the next one.
    let server = lab.settings().with(&["--fetch-interval", "1s"]).start();
    wait::until_true("the mirror is fetched", || server.fetches() >= 1);
}

/// Three repositories where two fit at most: the least recently used goes, but not under its
/// reader, who gets every byte.
#[test]
fn eviction_takes_the_oldest_and_never_under_a_reader() {
    let lab = new_lab();
    for (number, name) in ["a", "b", "c"].into_iter().enumerate() {
        // More than the sockets on the way hold, so that the reader is in the middle.
        let bytes = 16 << 20;
        repos::generate(&lab.upstream(name), Shape::FewLarge, bytes, number as u64);
    }
    let server = lab.settings().with(&["--cache-limit", "40M"]).start();
    let whole = hit(&server, "a").body;
    let (mut conn, _, start) = begin(&server, "a", 64 << 10);
    // Whether these are kept while the reader holds its entry is the server's choice.
    for name in ["b", "c"] {
        server.get(&lab::target(name)).expect(200);
    }
    assert!(
        finish(&mut conn, start) == whole,
        "the reader got something else"
    );
    hit(&server, "b");
    hit(&server, "c");
    wait::until_true("the oldest entry is evicted", || {
        let status = server.fetch("HEAD", &lab::target("a"), &[]).head.status;
        status == 404
    });
    let newest = server.fetch("HEAD", &lab::target("c"), &[]).head.status;
    assert_eq!(newest, 200, "the newest entry was evicted");
    wait::until_true("its files are removed", || lab.entries().len() <= 2);
    assert!(server.metrics().count("tarpon_evictions_total", &[]) >= 1);
    // Counted by the sweep when it has removed them.
    wait::until_true("what is left is counted", || {
        server.metrics().count("tarpon_cache_entries", &[]) == lab.entries().len() as u64
    });
    expect_clone(&lab, "a", &hit(&server, "a").body);
    lab.expect_no_orphans();
}

#[test]
fn one_server_per_state_directory() {
    let lab = small_lab();
    let server = lab.start();
    let Err(second) = lab.settings().try_start() else {
        panic!("a second server started on the same state directory");
    };
    assert!(!second.status.success(), "{}", second.status);
    let state = lab.state();
    assert!(
        second.log.contains(&*state.to_string_lossy()),
        "{}",
        second.log
    );
    expect_clone(&lab, "small", &hit(&server, "small").body);
    // The lock goes with the process, however that ends.
    let mut server = server;
    server.kill();
    lab.start().stop();
}

/// A server that was killed has its state directory and port until the kernel has closed its files.
#[test]
fn a_start_waits_for_one_that_is_at_its_end() {
    let lab = small_lab();
    lab.start().stop();
    let held = std::fs::File::open(lab.state().join("lock")).unwrap();
    held.lock().unwrap();
    let listening = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut settings = lab.settings();
    settings.listen = listening.local_addr().unwrap().to_string();
    let ending = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(500));
        drop(held);
        std::thread::sleep(Duration::from_millis(500));
        drop(listening);
    });
    hit(&settings.start(), "small");
    ending.join().unwrap();
}

/// Changes upstream by new commits, moved, new and deleted references; the new snapshot
/// appears by itself, and until then, and for whoever reads it, the old one is served.
/// Cores share their port; another server must not share it too, and answer half of the requests.
#[test]
fn one_server_per_port() {
    let (lab, other) = (small_lab(), small_lab());
    let server = lab.start();
    let mut settings = other.settings();
    settings.listen = server.address().to_string();
    let refused = settings.try_start().err();
    let refused = refused.unwrap_or_else(|| panic!("two servers listen at one port"));
    assert_eq!(refused.status.code(), Some(3));
    let said = format!("cannot listen on {}", server.address());
    assert!(refused.log.contains(&said), "{}", refused.log);
    // Once the first has ended, with connections that are not forgotten yet.
    hit(&server, "small");
    server.stop();
    hit(&settings.start(), "small");
}

#[test]
fn a_new_commit_appears_in_the_background() {
    let lab = large_lab();
    let upstream = lab.upstream("large");
    git::run(&upstream, &["branch", "doomed", "main"]);
    git::run(&upstream, &["tag", "moving", "main"]);
    let server = lab.settings().with(&["--fetch-interval", "1s"]).start();
    let old = hit(&server, "large");
    let (mut reader, _, start) = begin(&server, "large", 64 << 10);

    repos::add_commit(&upstream, "main", "new.txt", b"new\n");
    git::run(&upstream, &["branch", "-D", "doomed"]);
    git::run(&upstream, &["branch", "fresh", "main"]);
    git::run(&upstream, &["tag", "-f", "moving", "main"]);
    expect_refresh(&lab, &server, old.head.etag());
    assert!(
        finish(&mut reader, start) == old.body,
        "the reader of the old one got another"
    );

    // The default branch becomes another one, and the old one is rewritten.
    let tag = server
        .fetch("HEAD", &lab::target("large"), &[])
        .head
        .etag()
        .to_owned();
    let tree = "refs/heads/main^{tree}";
    let orphan = git::text(&upstream, &["commit-tree", tree, "-m", "rewritten"]);
    git::run(&upstream, &["update-ref", "refs/heads/main", &orphan]);
    git::run(&upstream, &["symbolic-ref", "HEAD", "refs/heads/fresh"]);
    expect_refresh(&lab, &server, &tag);
    lab.expect_no_orphans();
}

/// Waits for a snapshot with another tag than `old`, seeing a good answer at every look, until
/// it is what a clone is now (a refresh may fall between two changes upstream).
fn expect_refresh(lab: &Lab, server: &Server, old: &str) {
    let upstream = lab.upstream("large");
    let wanted = git::text(&upstream, &["rev-parse", "HEAD"]);
    let refs =
        |path: &std::path::Path| git::text(path, &["for-each-ref", "refs/heads", "refs/tags"]);
    wait::until_true("the new snapshot is served", || {
        let answer = server.fetch("HEAD", &lab::target("large"), &[]).expect(200);
        let commit = answer
            .head
            .get("x-cachew-snapshot-commit")
            .map(str::to_owned);
        answer.head.etag() != old
            && commit.as_deref() == Some(wanted.as_str())
            && refs(&lab.mirror("large")) == refs(&upstream)
    });
    let clone = lab.scratch("wanted");
    git::clone(&lab.url("large"), &clone);
    let all = |path: &std::path::Path| git::text(path, &["for-each-ref"]);
    wait::until_true("the new snapshot has all references", || {
        let body = server.get(&lab::target("large")).expect(200).body;
        let unpacked = lab.unpack(&body, "looked-at");
        let same = all(&unpacked) == all(&clone);
        super::remove(&unpacked);
        same
    });
    super::remove(&clone);
    expect_clone(
        lab,
        "large",
        &server.get(&lab::target("large")).expect(200).body,
    );
}

/// The upstream goes away: what is cached is served, and so is what only the mirror holds.
#[test]
fn a_lost_upstream_is_no_loss() -> io::Result<()> {
    let lab = small_lab();
    let clone = lab.scratch("clone");
    git::clone(&lab.url("small"), &clone);
    let server = lab.settings().with(&["--fetch-interval", "1s"]).start();
    let before = hit(&server, "small").body;
    std::fs::rename(lab.upstream("small"), lab.scratch("hidden"))?;
    let fetches = || {
        server
            .metrics()
            .count("tarpon_fetches_total", &[("result", "failed")])
    };
    wait::until_true("a fetch has failed", || fetches() >= 1);
    assert!(
        server.get(&lab::target("small")).expect(200).body == before,
        "bodies differ"
    );
    server.stop();
    lab.forget_snapshots();
    let server = lab.start();
    let rebuilt = server.get(&lab::target("small")).expect(200).body;
    super::parity::expect_same(
        &clone,
        &lab.unpack(&rebuilt, "rebuilt"),
        "from the mirror alone",
    );
    Ok(())
}

/// A client that takes nothing is dropped, one that is only slow is not.
#[test]
fn a_stalled_client_is_dropped_a_slow_one_is_not() {
    let lab = large_lab();
    let server = lab.settings().with(&["--stall-timeout", "2s"]).start();
    let whole = hit(&server, "large").body;
    let (mut slow, _, mut slow_body) = begin(&server, "large", 1000);
    let (mut stalled, _, _) = begin(&server, "large", 1000);
    let mut paced = Paced::new(&mut slow, 4 << 20);
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(5) {
        assert!(
            paced.step(&mut slow_body).is_ok_and(|more| more),
            "the slow client was dropped"
        );
    }
    let stalls = || {
        server
            .metrics()
            .count("tarpon_clients_dropped_total", &[("reason", "stall")])
    };
    wait::until_true("the stalled client is dropped", || stalls() == 1);
    let rest = stalled.copy_body(&mut io::sink());
    assert!(
        rest.is_ok_and(|(end, _)| end == End::Truncated),
        "a part passes for the whole"
    );
    assert!(
        finish(&mut slow, slow_body) == whole,
        "the slow client got something else"
    );
}

#[test]
fn an_idle_connection_is_closed() {
    let lab = small_lab();
    let limits = ["--idle-timeout", "1s", "--stall-timeout", "1s"];
    let server = lab.settings().with(&limits).start();
    let mut silent = Conn::open(server.address());
    let mut used = Conn::open(server.address());
    used.request("GET", "/_liveness", &[]);
    used.response("GET").expect(200);
    let mut half = Conn::open(server.address());
    assert!(half.send(b"GET /_liveness HT").is_ok());
    for (what, conn) in [
        ("silent", &mut silent),
        ("used", &mut used),
        ("half", &mut half),
    ] {
        assert!(
            conn.closes_within(wait::DEADLINE),
            "the {what} connection stays open"
        );
    }
}

/// Fifty requests of every kind, half of them cut off, twice: the second time costs no
/// descriptor and leaves no file.
#[test]
fn nothing_leaks() {
    let lab = new_lab();
    for number in 0..10 {
        let path = lab.upstream(&format!("leak{number}"));
        repos::generate(&path, Shape::FewLarge, 1 << 20, number);
    }
    let server = lab.start();
    mixed_requests(&server, 0);
    settle(&lab, &server);
    let before = server.descriptors();
    mixed_requests(&server, 5);
    settle(&lab, &server);
    let mut last = Vec::new();
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(20) {
        last = server.descriptors();
        if last.len() <= before.len() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!(
        "{} descriptors before, {} after:\n{before:#?}\n{last:#?}",
        before.len(),
        last.len()
    );
}

fn settle(lab: &Lab, server: &Server) {
    wait::until_true("no build runs", || {
        server.metrics().count("tarpon_builds_running", &[]) == 0
    });
    lab.expect_no_orphans();
}

/// Fifty requests to five repositories from `first` on.
fn mixed_requests(server: &Server, first: u64) {
    let mut rng = Rng::new(11);
    for number in 0..50 {
        let repository = format!("leak{}", first + rng.below(5));
        let target = lab::target(&repository);
        match number % 10 {
            0 => drop(get(server.address(), &target).expect(200)),
            1 => drop(get(server.address(), "/git/test/absent/snapshot.tar.zst").expect(404)),
            2 => drop(get(server.address(), "/git/test/../x/snapshot.tar.zst").expect(400)),
            3 => drop(server.fetch("HEAD", &target, &[])),
            4 => drop(server.fetch("GET", &target, &["Range: bytes=100-200"])),
            5 => drop(Conn::open(server.address())),
            6 => cut_off(server, &format!("GET {target} HTTP/1.1\r\nHost: t"), 0),
            7 => cut_off(
                server,
                &format!("GET {target} HTTP/1.1\r\nHost: t\r\n\r\n"),
                0,
            ),
            8 => cut_off(
                server,
                &format!("GET {target} HTTP/1.1\r\nHost: t\r\n\r\n"),
                10_000,
            ),
            _ => cut_off(server, "\0 is no request\r\n\r\n", 0),
        }
    }
}

/// Sends `request`, reads up to `count` bytes of the body, and closes.
fn cut_off(server: &Server, request: &str, count: usize) {
    let mut conn = Conn::open(server.address());
    assert!(conn.send(request.as_bytes()).is_ok());
    if count > 0 {
        let head = conn
            .read_head("GET")
            .unwrap_or_else(|e| panic!("no response: {e}"));
        assert_eq!(head.status, 200, "{head:?}");
        assert!(conn.read_some(count).is_ok_and(|body| body.len() == count));
    }
}

/// One line per request, in JSON, with repository and outcome.
#[test]
fn requests_are_logged() {
    let lab = small_lab();
    let server = lab.settings().with(&["--log-format", "json"]).start();
    hit(&server, "small");
    // Whoever looks for a wrong URL finds it.
    server
        .get("/git/elsewhere/a/b/snapshot.tar.zst")
        .expect(403);
    server.wait_logged("elsewhere/a/b");
    let parsed = |line: &str| serde_json::from_str::<serde_json::Value>(line);
    for outcome in ["build", "hit"] {
        wait::until_true(&format!("a request is logged as {outcome}"), || {
            let log = server.log();
            let lines: Vec<_> = log.lines().filter_map(|line| parsed(line).ok()).collect();
            let quoted = format!("\"{outcome}\"");
            lines
                .iter()
                .map(serde_json::Value::to_string)
                .any(|line| line.contains(&quoted) && line.contains("test/small"))
        });
    }
    let log = server.log();
    // What follows the last of them may be half a line.
    let whole = log.rfind('\n').unwrap_or_default();
    for line in log[..whole].lines() {
        assert!(
            parsed(line).is_ok_and(|value| value.is_object()),
            "not JSON: {line}"
        );
    }
}

/// Health answers, and metrics that a scraper can read.
#[test]
fn health_and_metrics() {
    let lab = small_lab();
    let server = lab.start();
    server.get("/_liveness").expect(200);
    server.get("/_readiness").expect(200);
    hit(&server, "small");
    // Counted by the cores that answered, when the client has it all already.
    let metrics = wait::until("the build and the hit are counted", || {
        let metrics = server.metrics();
        let asked = |outcome| metrics.count("tarpon_requests_total", &[("outcome", outcome)]);
        // By the background plane, which publishes the entry first.
        let built = metrics.count("tarpon_builds_total", &[("result", "complete")]);
        (asked("hit") >= 1 && asked("build") == 1 && built == 1).then_some(metrics)
    });
    assert!(metrics.count("tarpon_sent_bytes_total", &[]) > 1000);
    // A sweep that began before counts only what it has seen, and the next one all.
    wait::until_true("the entry is counted", || {
        server.metrics().count("tarpon_cache_bytes", &[]) > 1000
    });
    assert!(metrics.count("tarpon_ttfb_seconds_count", &[]) >= 2);
    for line in metrics.text().lines().filter(|line| !line.starts_with('#')) {
        let value = line
            .rsplit(' ')
            .next()
            .and_then(|value| value.parse::<f64>().ok());
        assert!(line.starts_with("tarpon_") && value.is_some(), "{line}");
    }
}

/// A wrong setting is named, with exit code 2, before anything is touched.
#[test]
fn a_wrong_setting_is_named() {
    let lab = small_lab();
    let wrong_flag = lab.settings().with(&["--fetch-interval", "soon"]);
    let wrong_fault = |fault| lab.settings().with_fault(fault);
    let cases: [(Settings, &[&str]); 4] = [
        (wrong_flag, &["fetch_interval", "soon"]),
        (
            wrong_fault("encoder-panic-at-job=1,smoke=3"),
            &["TARPON_FAULT", "\"smoke=3\"", "build-fail-after-bytes=N"],
        ),
        (
            wrong_fault("spool-enospc-after-bytes=-1"),
            &["TARPON_FAULT", "-1", "a whole number"],
        ),
        (
            wrong_fault("encoder-panic-at-job"),
            &["TARPON_FAULT", "encoder-panic-at-job=N"],
        ),
    ];
    for (settings, named) in cases {
        let Err(exited) = settings.try_start() else {
            panic!("it started: {named:?}");
        };
        assert_eq!(exited.status.code(), Some(1), "{}", exited.log);
        assert_eq!(exited.log.lines().count(), 1, "{}", exited.log);
        for name in named {
            assert!(exited.log.contains(name), "{name}: {}", exited.log);
        }
    }
    assert!(
        !lab.state().join("mirrors").exists(),
        "the state directory was touched"
    );
}

/// What an older program has left cannot be read: it goes, and the log says so once, not once for each.
#[test]
fn entries_of_an_older_format_go_with_one_line() {
    let lab = new_lab();
    let names = ["one", "two", "three"];
    for name in names {
        lab.generate(name, Shape::ManySmall, 100_000);
    }
    let server = lab.start();
    for name in names {
        server.get(&lab::target(name)).expect(200);
        wait_published(&server, name);
    }
    drop(server);
    let entries = lab.entries();
    assert_eq!(entries.len(), names.len());
    for entry in &entries {
        make_older(&lab.state().join("snapshots").join(entry).join("meta"));
    }
    let server = lab.start();
    assert_eq!(lab.entries(), [""; 0]);
    lab.expect_no_orphans();
    server.wait_logged("of another format");
    let log = server.log();
    let told = log
        .lines()
        .filter(|line| line.contains("of another format"));
    let told = Vec::from_iter(told);
    assert_eq!(told.len(), 1, "{log}");
    assert!(told[0].contains(r#""entries":3"#), "{}", told[0]);
    assert!(!log.contains("entry not used"), "{log}");
    for entry in &entries {
        assert!(!log.contains(entry.as_str()), "{log}");
    }
    server.get(&lab::target(names[0])).expect(200);
    wait_published(&server, names[0]);
    assert_eq!(lab.entries().len(), 1);
}

/// Makes a metadata file one of the version before: whole, as its digest says.
fn make_older(meta: &Path) {
    const DIGEST_BYTES: usize = 32;
    let mut bytes = fs::read(meta).unwrap();
    bytes.truncate(bytes.len() - DIGEST_BYTES);
    let version = u32::from_le_bytes(bytes[8..12].try_into().unwrap());
    bytes[8..12].copy_from_slice(&(version - 1).to_le_bytes());
    let digest = Sha256::digest(&bytes);
    bytes.extend_from_slice(&digest);
    fs::write(meta, bytes).unwrap();
}

/// What `tarpon check` says: its exit code, standard error and standard output.
fn check(arguments: &[&str]) -> (i32, String, Vec<u8>) {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_tarpon"));
    command.arg("check").args(arguments);
    command.env("TARPON_LEVLE", "3");
    let out = command.output().unwrap();
    let errors = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(!errors.contains("hush"), "{errors}");
    (out.status.code().unwrap(), errors, out.stdout)
}

/// A file of the lab's own.
fn file(lab: &Lab, name: &str, text: &str, mode: u32) -> String {
    let path = lab.scratch(name);
    fs::write(&path, text).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
    fs::set_permissions(&path, mode).unwrap();
    path.display().to_string()
}

/// Everything that a start would find wrong, and a server that runs does not mind.
#[test]
fn a_check_finds_what_a_start_would_and_makes_nothing() {
    let lab = small_lab();
    let new_state = lab.scratch("none/yet").display().to_string();
    let close = file(&lab, "close", "github.com hush\n", 0o640);
    let wrong = file(&lab, "wrong", "other.example hush\n", 0o600);
    let text = format!("state = {new_state:?}\nwebhook_secrets = {close:?}\n");
    let config = file(&lab, "config.toml", &text, 0o644);
    let (code, errors, out) = check(&["--config", &config]);
    assert_eq!(
        (code, &out[..]),
        (0, &b"serve would start\n"[..]),
        "{errors}"
    );
    assert!(
        errors.contains("TARPON_LEVLE") && !errors.contains("close"),
        "{errors}"
    );
    assert!(!lab.scratch("none").exists());
    let below_file = format!("{close}/state");
    let socket_below = format!("unix:{close}/socket");
    for (arguments, expected, why) in [
        (
            &["--webhook-secrets", &*wrong][..],
            3,
            "other.example is no upstream",
        ),
        (&["--webhook-secrets", "/nonexistent"], 3, "/nonexistent"),
        (&["--tokens", &wrong], 3, "--tokens"),
        (&["--state", &below_file], 3, "close"),
        // No machine has that address.
        (&["--listen", "192.0.2.1:9"], 3, "192.0.2.1:9"),
        (&["--listen", &socket_below], 3, "close/socket"),
        (
            &["--admin-listen", "unix:/nonexistent/socket"],
            3,
            "--admin-listen",
        ),
        (&["--level", "99"], 1, "level"),
        (&["--config", "/nonexistent"], 1, "/nonexistent"),
        (&["--cache-limit", "50%", "--cache-low", "8E"], 1, "cache"),
    ] {
        // A flag may be given once.
        let state = ["--state", &new_state];
        let state = match arguments[0] {
            "--state" => &[][..],
            _ => &state,
        };
        let (code, errors, out) = check(&[state, arguments].concat());
        assert_eq!((code, out.len()), (expected, 0), "{arguments:?}: {errors}");
        assert!(errors.contains(why), "{errors}");
    }
    let server = lab.start();
    let state = lab.state().display().to_string();
    let (code, errors, _) = check(&["--state", &state, "--listen", &server.address().to_string()]);
    assert_eq!(code, 0, "{errors}");
}

#[test]
fn who_reaches_a_server_and_what_is_overheard_is_said() {
    let lab = small_lab();
    let new_state = lab.scratch("none/yet").display().to_string();
    let beyond = ["--state", &new_state, "--listen", "0.0.0.0:0"];
    let (code, errors, _) = check(&beyond);
    let reached = "other machines reach this server: everybody";
    assert!(
        code == 0 && errors.contains(reached) && !errors.contains("in the clear"),
        "{errors}"
    );
    let none = file(&lab, "none-yet", "", 0o600);
    let asks = ["--tokens", &none];
    let (code, errors, _) = check(&[&beyond[..], &asks].concat());
    assert!(
        code == 0 && errors.contains("on the way to 0.0.0.0:0 reads the tokens"),
        "{errors}"
    );
    let proxy = ["--trust-proxy", "192.0.2.1"];
    let (_, errors, _) = check(&[&beyond[..], &asks, &proxy].concat());
    assert!(!errors.contains("in the clear"), "{errors}");
}

/// In a check and at a start; a key has to be that of its certificate.
#[test]
fn files_with_secrets_that_others_can_read_are_warned_of() {
    let lab = small_lab();
    let new_state = lab.scratch("none/yet").display().to_string();
    let state = ["--state", &new_state];
    let open = file(&lab, "open", "github.com hush\n", 0o644);
    let (code, errors, _) = check(&[&state[..], &["--webhook-secrets", &open]].concat());
    assert_eq!(code, 0, "{errors}");
    let warning = "open has secrets, and others may read or change it (mode 644)";
    assert!(errors.contains(warning), "{errors}");
    let mut settings = lab.settings();
    settings.arguments = vec![format!("--webhook-secrets={open}")];
    let mut server = settings.start();
    server.terminate();
    server.wait_exit(wait::DEADLINE);
    assert!(server.log().contains(warning), "{}", server.log());
    // Of tokens it has hashes, which tell nobody anything.
    let tokens = |name, mode| file(&lab, name, "", mode);
    for (tokens, is_said) in [
        (tokens("read", 0o644), false),
        (tokens("write", 0o606), true),
        (tokens("group", 0o660), true),
    ] {
        let (code, errors, _) = check(&[&state[..], &["--tokens", &tokens]].concat());
        let says = errors.contains("says who may read, and others may change it");
        assert_eq!((code, says), (0, is_said), "{errors}");
    }
    let authority = Authority::new(&lab.scratch(""), "ours");
    let [one, other] = ["one", "other"].map(|name| authority.issue(name, &["localhost"], 1));
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o604);
    fs::set_permissions(&one.key, mode).unwrap();
    let [cert, key] = one.flags();
    let (code, errors, _) = check(&[&state[..], &[&cert, &key]].concat());
    assert_eq!(code, 0, "{errors}");
    assert!(
        errors.contains("--tls-key: ") && errors.contains("mode 604"),
        "{errors}"
    );
    let [_, wrong_key] = other.flags();
    let (code, errors, _) = check(&[&state[..], &[&cert, &wrong_key]].concat());
    assert_eq!(code, 3, "{errors}");
}

/// What a server begins with, and nobody gets anything of it.
#[test]
fn settings_that_let_nobody_in_are_warned_of() {
    let lab = small_lab();
    let state = lab.scratch("none/yet").display().to_string();
    let none = file(&lab, "tokens", "# none\n", 0o600);
    let authority = Authority::new(&lab.scratch(""), "ours");
    let [cert, key] = authority
        .issue_for("old", &["localhost"], 1, (2020, 2025))
        .flags();
    let arguments = [
        "--state",
        &*state,
        "--no-default-upstreams",
        "--upstream=test=https://test.example/",
        "--access=test=token",
        "--access-stale=1h",
        "--tokens",
        &*none,
        &*cert,
        &*key,
    ];
    let (code, errors, _) = check(&arguments);
    assert_eq!(code, 0, "{errors}");
    for said in [
        "nobody may read test: the file of --tokens has no token that reads",
        "--access-stale means nothing",
        "of --tls-cert: it has run out",
    ] {
        assert!(errors.contains(said), "{said}: {errors}");
    }
    let mut server = lab.settings().with(&[&*cert, &*key]).start();
    server.wait_logged("of --tls-cert: it has run out");
    server.terminate();
    server.wait_exit(wait::DEADLINE);
}
