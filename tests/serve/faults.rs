//! What breaks on the server breaks visibly and once: no client takes a part for the whole,
//! nothing half-made stays, and the next request is served.

use super::support::client::{Conn, End, Response, get};
use super::support::lab::{self, Lab};
use super::support::repos::{self, FILE, Importer, Layout, Shape};
use super::support::rng::Rng;
use super::support::server::Server;
use super::support::{git, wait};
use super::{at_once, begin, expect_clone, hit, large_lab, new_lab};
use std::fs;
use std::io::{self, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// What curl says when a transfer ended before it was whole.
const CURL_PARTIAL_FILE: i32 = 18;

/// Runs curl on the snapshot and gives its exit code.
fn curl(server: &Server, name: &str) -> Option<i32> {
    let url = format!("http://{}{}", server.address(), lab::target(name));
    let mut command = Command::new("curl");
    command.args([
        "--silent",
        "--fail",
        "--max-time",
        "60",
        "--noproxy",
        "*",
        "--output",
    ]);
    let status = command
        .args(["/dev/null", &url])
        .stderr(Stdio::null())
        .status();
    status
        .unwrap_or_else(|e| panic!("curl does not start: {e}"))
        .code()
}

/// Either the error came before the head or the body is not whole.
fn is_error(response: &Response) -> bool {
    response.head.status >= 500 || response.end == End::Truncated
}

/// Nothing of the failed build is left, and the next request is served rightly.
fn expect_recovery(lab: &Lab, server: &mut Server, name: &str) {
    assert!(server.is_running(), "the server ended");
    wait::until_true("the failure is counted", || server.builds("failed") == 1);
    assert_eq!(
        lab.entries(),
        Vec::<String>::new(),
        "a failed build was published"
    );
    lab.expect_no_orphans();
    let cached = hit(server, name);
    assert_eq!(server.builds("complete"), 1);
    expect_clone(lab, name, &cached.body);
}

/// All clients wait for the same clone, so all of them are in the build that fails.
#[test]
fn a_build_that_fails_in_the_middle() {
    let lab = large_lab();
    let fault = "build-fail-after-bytes=40000000";
    let mut server = lab.settings().with_fault(fault).start();
    let curl_code = |_| curl(&server, "large");
    let codes = std::thread::scope(|scope| {
        let curls = scope.spawn(|| at_once(2, curl_code));
        let responses = at_once(3, |_| get(server.address(), &lab::target("large")));
        for response in &responses {
            assert_eq!(response.head.status, 200, "{:?}", response.head);
            assert_eq!(
                response.end,
                End::Truncated,
                "{} bytes",
                response.body.len()
            );
            assert!(
                response.body.len() > 1_000_000,
                "{} bytes",
                response.body.len()
            );
        }
        curls.join().unwrap_or_default()
    });
    assert_eq!(codes, [Some(CURL_PARTIAL_FILE); 2]);
    let counted = |outcome| {
        server
            .metrics()
            .count("tarpon_requests_total", &[("outcome", outcome)])
    };
    wait::until_true("each is counted, once", || {
        (counted("error"), counted("build"), counted("follow")) == (5, 0, 0)
    });
    let log = server.log();
    let cut = log
        .lines()
        .filter(|line| line.contains("\"complete\":false"));
    let is_said =
        |line: &str| line.contains("\"reason\":\"") && line.contains("\"outcome\":\"error\"");
    assert!(
        cut.clone().count() == 5 && cut.clone().all(is_said),
        "{log}"
    );
    expect_recovery(&lab, &mut server, "large");
    assert_eq!(curl(&server, "large"), Some(0));
}

/// A failure at the very start: clients get an error, never an empty success.
#[test]
fn a_build_that_fails_at_once() {
    let lab = super::small_lab();
    let mut server = lab
        .settings()
        .with_fault("build-fail-after-bytes=1")
        .start();
    let responses = at_once(3, |_| attempt(&server));
    // A request that had not been given a byte when the build failed, perhaps every one of them,
    // is answered from the next build; that the first has failed is asked below.
    let answers = responses.into_iter().flatten();
    for response in answers.filter(|answer| !is_error(answer)) {
        expect_clone(&lab, "small", &response.expect(200).body);
    }
    wait::until_true("the failure is counted", || server.builds("failed") == 1);
    expect_clone(&lab, "small", &hit(&server, "small").body);
    assert!(server.is_running());
    lab.expect_no_orphans();
}

/// A damaged mirror breaks a transfer or two; after that clients hear at once what is damaged, and
/// the server does not build for each of them. Mended, it is served again.
#[test]
fn builds_of_a_damaged_mirror_do_not_follow_each_other() {
    let lab = super::small_lab();
    let server = super::start_on_mirror(&lab);
    let pack = only_pack(&lab.mirror("small"));
    let sound = fs::read(&pack).unwrap();
    let mut rotten = sound.clone();
    let (from, to) = (sound.len() / 2, sound.len() - 20);
    rotten[from..to].fill(0);
    exchange(&pack, &rotten);
    let target = lab::target("small");
    let text = wait::until("clients hear why", || {
        let answer = attempt(&server)?;
        assert!(is_error(&answer), "{} bytes of rot", answer.body.len());
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        (answer.head.status == 500 && text.contains("tries failed")).then_some(text)
    });
    // Whoever meets it first says so: who reads trees, or who checks the pack.
    let is_named =
        text.contains("test/small: tree ") || text.contains(".pack of the mirror is damaged");
    assert!(is_named, "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    for _ in 0..50 {
        assert_eq!(get(server.address(), &target).head.status, 500);
    }
    let failed = server.builds("failed");
    assert!(
        (2..=4).contains(&failed),
        "{failed} builds of a damaged mirror"
    );
    exchange(&pack, &sound);
    wait::until_true("it is built again", || {
        get(server.address(), &target).head.status == 200
    });
    expect_clone(&lab, "small", &hit(&server, "small").body);
    lab.expect_no_orphans();
}

/// Most of a pack is history, which no worktree shows: what has rotted there must be found as well.
#[test]
fn a_pack_that_has_rotted_is_never_whole() {
    let lab = super::small_lab();
    let upstream = lab.upstream("small");
    let old = "of old, and gone at HEAD\n".repeat(10);
    repos::add_commit(&upstream, "main", "history", old.as_bytes());
    let id = git::text(&upstream, &["rev-parse", "main:history"]);
    repos::add_commit(&upstream, "main", "history", b"new\n");
    let server = super::start_on_mirror(&lab);
    let mirror = lab.mirror("small");
    git::run(&mirror, &["repack", "-adq"]);
    let pack = only_pack(&mirror);
    let index = pack.with_extension("idx");
    let listed = git::text(&mirror, &["verify-pack", "-v", index.to_str().unwrap()]);
    let line = listed.lines().find(|line| line.starts_with(&id)).unwrap();
    let offset: usize = line.split_whitespace().nth(4).unwrap().parse().unwrap();
    let sound = fs::read(&pack).unwrap();
    let mut rotten = sound.clone();
    rotten[offset + 20] ^= 1;
    exchange(&pack, &rotten);
    let text = wait::until("clients hear why", || {
        let answer = attempt(&server)?;
        assert!(
            is_error(&answer),
            "{} bytes pass for the whole",
            answer.body.len()
        );
        (answer.head.status == 500).then(|| String::from_utf8_lossy(&answer.body).into_owned())
    });
    let name = pack.file_name().unwrap().to_str().unwrap();
    assert!(text.contains(name) && text.contains("is damaged"), "{text}");
    lab.expect_no_orphans();
    assert_eq!(lab.entries(), Vec::<String>::new());
    exchange(&pack, &sound);
    wait::until_true("it is built again", || {
        get(server.address(), &lab::target("small")).head.status == 200
    });
    expect_clone(&lab, "small", &hit(&server, "small").body);
}

fn only_pack(mirror: &Path) -> PathBuf {
    let files = fs::read_dir(mirror.join("objects/pack")).unwrap();
    let mut packs = files
        .map(|file| file.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "pack"));
    let pack = packs.next().unwrap();
    assert_eq!(packs.next(), None);
    pack
}

/// Puts another file in the place of `path`: entries have links to the one that is there.
fn exchange(path: &Path, content: &[u8]) {
    let new = path.with_extension("new");
    fs::write(&new, content).unwrap();
    fs::rename(&new, path).unwrap();
}

/// Requests `small`; `None` when the connection ends without an answer.
fn attempt(server: &Server) -> Option<Response> {
    let mut conn = Conn::open(server.address());
    conn.request("GET", &lab::target("small"), &[]);
    let head = conn.read_head("GET").ok()?;
    let mut body = Vec::new();
    let (end, _) = conn.copy_body(&mut body).ok()?;
    Some(Response { head, body, end })
}

/// Without one of its cores a server would leave those connections without an answer that the
/// kernel gives to that core. It ends instead, as on SIGTERM but for its exit code.
#[test]
fn a_core_panics() {
    let lab = large_lab();
    let settings = lab.settings().with_fault("core-panic-at-connection=3");
    let mut server = settings.with(&["--cores", "2"]).start();
    let (mut conn, _, body) = begin(&server, "large", 1 << 20);
    let others = [(); 2].map(|()| Conn::try_open(server.address()));
    server.wait_logged("has ended, so the server stops: fault injected");
    // It is whole unless its own core was the one.
    let whole = conn.copy_body(&mut std::io::sink());
    drop((whole, body, others));
    let status = server.wait_exit(wait::DEADLINE);
    assert_eq!(status.code(), Some(3), "{}", server.log());
    let log = server.log();
    assert!(
        log.contains("a network core could not run: fault injected"),
        "{log}"
    );
}

#[test]
fn an_encoder_panics() {
    let lab = new_lab();
    lab.generate("mixed", Shape::ManySmall, 12 << 20);
    let mut server = lab.settings().with_fault("encoder-panic-at-job=4").start();
    let responses = at_once(3, |_| get(server.address(), &lab::target("mixed")));
    for response in &responses {
        assert!(
            is_error(response),
            "{:?}, {} bytes",
            response.head,
            response.body.len()
        );
    }
    expect_recovery(&lab, &mut server, "mixed");
}

/// What must hold when the disk is full: whole snapshots for everybody, nothing kept, and the
/// reason in the log and in a metric.
fn expect_live_only(lab: &Lab, server: &mut Server, state: &std::path::Path) {
    let target = lab::target("spooled");
    let bodies = at_once(3, |_| server.get(&target).expect(200).body);
    for body in &bodies {
        assert!(*body == bodies[0], "bodies differ");
    }
    expect_clone(lab, "spooled", &bodies[0]);
    let failures = || server.metrics().count("tarpon_spool_failures_total", &[]);
    wait::until_true("the failure is counted", || failures() >= 1);
    let full = [("reason", "disk_full")];
    assert!(server.metrics().count("tarpon_spool_failures_total", &full) >= 1);
    wait::until_true("nothing is left over", || lab::orphans(state).is_empty());
    assert_eq!(
        lab::entries(state),
        Vec::<String>::new(),
        "a broken entry was published"
    );
    assert_eq!(server.fetch("HEAD", &target, &[]).head.status, 404);
    assert_eq!(server.metrics().count("tarpon_cache_entries", &[]), 0);
    server.wait_logged("disk_full");
    assert!(server.is_running());
    // And again: the next request is served the same way.
    expect_clone(lab, "spooled", &server.get(&target).expect(200).body);
}

/// A repository whose worktree is far larger than its pack: ten paths of the same 4 MiB.
fn spooled(lab: &Lab) {
    let path = lab.upstream("spooled");
    repos::init_bare(&path, "main", "sha1");
    let content = Rng::new(3).bytes(4 << 20);
    let mut import = Importer::start(&path, Layout::Packed);
    import.commit("refs/heads/main", "copies");
    for number in 0..10 {
        import.file(FILE, format!("copy{number}.bin").as_bytes(), &content);
    }
    import.finish();
}

#[test]
fn the_disk_is_full_by_fault() {
    let lab = new_lab();
    spooled(&lab);
    let mut server = lab
        .settings()
        .with_fault("spool-enospc-after-bytes=10000000")
        .start();
    expect_live_only(&lab, &mut server, &lab.state());
}

/// A real small file system, mounted where only the server sees it. Skipped where a user may
/// not make a mount namespace.
#[test]
fn the_disk_is_full_for_real() {
    let lab = new_lab();
    if !may_mount(&lab) {
        eprintln!("skipped: no mount namespace for this user");
        return;
    }
    spooled(&lab);
    // Room for the mirror and its clone, not for the worktree of 40 MiB.
    let script = "mount -t tmpfs -o size=24m tarpon \"$0\" && exec \"$@\"";
    let mut settings = lab
        .settings()
        .with(&["--cache-free-floor", "1M", "--cache-limit", "1G"]);
    let state = settings.state.to_string_lossy().into_owned();
    let launcher = ["unshare", "-rm", "sh", "-c", script, &state];
    settings.launcher = launcher.map(str::to_owned).to_vec();
    let mut server = settings.start();
    let seen = PathBuf::from(format!("/proc/{}/root{state}", server.pid()));
    assert!(
        seen.join("mirrors").exists() || seen.join("snapshots").exists(),
        "not mounted"
    );
    expect_live_only(&lab, &mut server, &seen);
}

/// The log's disk is full: requests are answered all the same, and the end is a good one.
#[test]
fn the_log_cannot_be_written() {
    let lab = super::small_lab();
    let mut settings = lab.settings();
    let launcher = ["sh", "-c", "exec \"$@\" 2>/dev/full", "sh"];
    settings.launcher = launcher.map(str::to_owned).to_vec();
    expect_served_to_the_end(&lab, settings.start());
}

/// A clone and a build, which both log on their way, a hit, and the end.
fn expect_served_to_the_end(lab: &Lab, mut server: Server) {
    let body = server.get(&lab::target("small")).expect(200).body;
    expect_clone(lab, "small", &body);
    assert!(hit(&server, "small").body == body);
    server.terminate();
    assert_eq!(server.wait_exit(Duration::from_secs(30)).code(), Some(0));
}

/// Whoever should read the log has stopped, and the pipe to it is full.
#[test]
fn nobody_reads_the_log() {
    let lab = super::small_lab();
    let fifo = lab.scratch("log");
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    let made = rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0);
    made.unwrap_or_else(|e| panic!("mkfifo: {e}"));
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NONBLOCK;
    let reader = rustix::fs::open(&fifo, flags, rustix::fs::Mode::empty());
    let reader = reader.unwrap_or_else(|e| panic!("open: {e}"));
    let mut settings = lab.settings();
    let script = format!("exec \"$@\" 2>'{}'", fifo.display());
    settings.launcher = ["sh", "-c", &script, "sh"].map(str::to_owned).to_vec();
    settings.environment = vec![("TARPON_LOG".into(), "info".into())];
    let server = settings.start();
    // More lines than a pipe holds.
    for _ in 0..1000 {
        server.get("/git/nowhere/x/snapshot.tar.zst").expect(403);
    }
    wait::until_true("the pipe is full", || {
        rustix::io::ioctl_fionread(&reader).is_ok_and(|waiting| waiting > 60_000)
    });
    expect_served_to_the_end(&lab, server);
}

/// Not even the directory of an entry can be made: snapshots come from the mirror itself, which
/// stays locked meanwhile. Once that is repaired they are kept again.
#[test]
fn no_entry_can_be_made() {
    let lab = new_lab();
    spooled(&lab);
    let mut server = lab.start();
    let snapshots = lab.state().join("snapshots");
    std::fs::rename(&snapshots, lab.scratch("away")).unwrap_or_else(|e| panic!("{e}"));
    std::fs::write(&snapshots, "").unwrap_or_else(|e| panic!("{e}"));
    let target = lab::target("spooled");
    let bodies = at_once(3, |_| server.get(&target).expect(200).body);
    for body in &bodies {
        assert!(*body == bodies[0], "bodies differ");
    }
    expect_clone(&lab, "spooled", &bodies[0]);
    let failures = |reason| {
        let labels = [("reason", reason)];
        server
            .metrics()
            .count("tarpon_spool_failures_total", &labels)
    };
    assert!(failures("io") >= 1);
    assert_eq!(failures("disk_full"), 0);
    wait::until_true("the build is counted", || server.builds("live_only") >= 1);
    assert_eq!(server.builds("failed"), 0);
    // What is in the way.
    server.wait_logged(&format!("create {}/", snapshots.display()));

    std::fs::remove_file(&snapshots).unwrap_or_else(|e| panic!("{e}"));
    std::fs::rename(lab.scratch("away"), &snapshots).unwrap_or_else(|e| panic!("{e}"));
    wait::until_true("the snapshot is kept", || {
        expect_clone(&lab, "spooled", &server.get(&target).expect(200).body);
        server.builds("complete") == 1
    });
    assert!(hit(&server, "spooled").body == bodies[0]);
    lab.expect_no_orphans();
    assert!(server.is_running());
}

pub(super) fn may_mount(lab: &Lab) -> bool {
    let mut command = Command::new("unshare");
    command
        .args(["-rm", "mount", "-t", "tmpfs", "tarpon"])
        .arg(lab.scratch(""));
    command.stdin(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// The mirror cannot be made: one clear line, nothing left, and the next request tries again.
#[test]
fn a_clone_that_fails_leaves_nothing() -> io::Result<()> {
    let lab = super::small_lab();
    let hidden = lab.scratch("hidden");
    std::fs::rename(lab.upstream("small"), &hidden)?;
    let server = lab.start();
    let missing = server.get(&lab::target("small")).expect(404);
    assert_eq!(
        missing.text().trim_end().lines().count(),
        1,
        "{}",
        missing.text()
    );
    lab.expect_no_orphans();
    assert!(!lab.mirror("small").exists(), "an empty mirror stays");
    std::fs::rename(&hidden, lab.upstream("small"))?;
    wait::until_true("the failure is forgotten", || {
        server.get(&lab::target("small")).head.status == 200
    });
    expect_clone(&lab, "small", &hit(&server, "small").body);
    Ok(())
}

/// Without git, that is what the log says at the start and a client hears.
#[test]
fn git_is_missing() {
    let lab = super::small_lab();
    let mut settings = lab.settings();
    settings.launcher = ["env", "PATH=/nonexistent"].map(str::to_owned).into();
    let server = settings.start();
    server.wait_logged("install git");
    let answer = server.get(&lab::target("small")).expect(500).text();
    assert!(answer.contains("install git"), "{answer}");
}

/// An upstream that has nothing; it counts how often it is asked for it.
fn counting_upstream() -> (String, std::sync::Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap_or_else(|e| panic!("bind: {e}"));
    let address = listener.local_addr().unwrap_or_else(|e| panic!("{e}"));
    let asked = std::sync::Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    // Ends with the test's process.
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            count.fetch_add(1, Ordering::Relaxed);
            // Whatever it is, the answer is the same.
            let _ = io::Read::read(&mut stream, &mut [0; 4096]);
            let answer = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    (format!("http://{address}/"), asked)
}

/// A name that does not exist is asked for once, however many want it; a while later anew.
#[test]
fn a_failed_clone_is_remembered_for_a_while() {
    let lab = super::small_lab();
    let (base, asked) = counting_upstream();
    let mut settings = lab.settings();
    settings.upstreams.push(format!("none={base}"));
    let server = settings.start();
    let target = "/git/none/absent/snapshot.tar.zst";
    let began = std::time::Instant::now();
    let first = server.get(target).expect(404).text();
    let looks = asked.load(Ordering::Relaxed);
    assert!(looks > 0, "the upstream was not asked");
    for _ in 0..20 {
        assert_eq!(server.get(target).expect(404).text(), first);
    }
    let ensure = "/git/none/absent/ensure-refs";
    server
        .post_json(
            ensure,
            r#"{"commits":["1212121212121212121212121212121212121212"]}"#,
        )
        .expect(404);
    // On a machine that was stopped meanwhile, time may be up.
    if began.elapsed() < Duration::from_secs(8) {
        assert_eq!(asked.load(Ordering::Relaxed), looks, "asked again at once");
    }
    server.get("/git/none/other/snapshot.tar.zst").expect(404);
    assert!(asked.load(Ordering::Relaxed) > looks, "another name");
    let looks = asked.load(Ordering::Relaxed);
    wait::until_true("the upstream is asked again", || {
        server.get(target).expect(404);
        asked.load(Ordering::Relaxed) > looks
    });
}
