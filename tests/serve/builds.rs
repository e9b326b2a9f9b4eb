//! Builds side by side: large ones take turns, small ones wait for none of them, and what clients do
//! is no failure of a build, on a full disk either.

use super::faults::may_mount;
use super::pressure::Relax;
use super::support::client::{Conn, Paced};
use super::support::lab::{self, Lab};
use super::support::repos::{self, FILE, Importer, Layout, Shape};
use super::support::rng::Rng;
use super::support::server::Server;
use super::support::steps::{ensure, hit, push_and_fetch};
use super::support::wait;
use super::{at_once, begin, expect_clone, finish, new_lab};
use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::DirEntryExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const MIB: u64 = 1 << 20;

/// Asks for no ref that is there, so that the mirror is cloned and nothing built.
const ABSENT: &str = r#"{"refs":{"refs/heads/absent":""}}"#;

/// Puts a mirror of `from` there under another name.
fn alias(lab: &Lab, from: &str, name: &str) {
    repos::link_mirror(&lab.upstream(from), &lab.upstream(name));
    lab.place_mirror(name);
}

/// At a level at which the large ones take seconds, with one encoder; there are more of them than
/// turns.
#[test]
fn small_builds_do_not_wait_for_large_ones() {
    let lab = new_lab();
    lab.generate("large", Shape::ManySmall, 64 * MIB);
    lab.generate("small", Shape::ManySmall, 30_000);
    for number in 0..3 {
        alias(&lab, "large", &format!("large{number}"));
    }
    for number in 0..10 {
        alias(&lab, "small", &format!("small{number}"));
    }
    let level = ["--encoders", "1", "--level", "12"];
    let settings = lab
        .settings()
        .with(&level)
        .with(&["--fetch-interval", "720h"]);
    let server = settings.start();
    let mut large: Vec<_> = (0..3)
        .map(|number| begin(&server, &format!("large{number}"), 1))
        .collect();
    let mut small = Vec::new();
    for number in 0..10 {
        let name = format!("small{number}");
        small.push(server.get(&lab::target(&name)).expect(200).body);
    }
    let complete = || server.builds("complete");
    wait::until_true("the small ones are counted", || complete() >= 10);
    assert_eq!(complete(), 10, "a small build has waited for a large one");
    // All of the large ones go on, though there are two turns: each gets something of its worktree,
    // which follows its packs, before one of them is over.
    let packs = lab.mirror("large0").join("objects/pack");
    let files = std::fs::read_dir(packs).unwrap_or_else(|e| panic!("{e}"));
    let linked: u64 = files
        .flatten()
        .map(|file| file.metadata().map_or(0, |m| m.len()))
        .sum();
    std::thread::scope(|scope| {
        for (conn, ..) in &mut large {
            scope.spawn(move || {
                let read = conn.read_some((linked + MIB) as usize);
                assert!(read.is_ok_and(|read| read.len() as u64 == linked + MIB));
            });
        }
    });
    assert_eq!(complete(), 10, "one was made after the other");
    for (number, body) in small.iter().enumerate() {
        expect_clone(&lab, &format!("small{number}"), body);
    }
}

/// A server on a real file system of `mib`, mounted where only it sees it; `None` where a user may not
/// make a mount namespace. With the path under which others see its state.
pub(super) fn on_small_disk(lab: &Lab, mib: u64) -> Option<(Server, PathBuf)> {
    on_tmpfs(lab, &format!("size={mib}m"))
}

/// The same with other limits (tmpfs(5)).
pub(super) fn on_tmpfs(lab: &Lab, limits: &str) -> Option<(Server, PathBuf)> {
    if !may_mount(lab) {
        eprintln!("skipped: no mount namespace for this user");
        return None;
    }
    let script = format!("mount -t tmpfs -o {limits} tarpon \"$0\" && exec \"$@\"");
    let mut settings = lab
        .settings()
        .with(&["--cache-free-floor", "1M", "--cache-limit", "1G"]);
    let state = settings.state.to_string_lossy().into_owned();
    let launcher = ["unshare", "-rm", "sh", "-c", &script, &state];
    settings.launcher = launcher.map(str::to_owned).to_vec();
    let server = settings.start();
    let seen = PathBuf::from(format!("/proc/{}/root{state}", server.pid()));
    Some((server, seen))
}

/// A repository with the same `mib` that do not compress under `paths` paths: a pack, and that many
/// times as much worktree.
fn copies(lab: &Lab, name: &str, mib: u64, paths: u64) {
    let path = lab.upstream(name);
    repos::init_bare(&path, "main", "sha1");
    let content = Rng::new(mib).bytes((mib * MIB) as usize);
    let mut import = Importer::start(&path, Layout::Packed);
    import.commit("refs/heads/main", "copies");
    for number in 0..paths {
        import.file(FILE, format!("copy{number}.bin").as_bytes(), &content);
    }
    import.finish();
}

/// Reads a snapshot, which must be whole, at most that fast. Who had to wait for it was told so before it.
fn read_at(server: &Server, name: &str, bytes_per_s: u64) -> Vec<u8> {
    let mut conn = Conn::open(server.address());
    conn.request("GET", &lab::target(name), &[]);
    let head = conn.read_head("GET");
    let head = head.unwrap_or_else(|e| panic!("{name} at {bytes_per_s} B/s: {e}"));
    assert_eq!(head.status, 200, "{head:?}");
    let mut body = Vec::new();
    let mut paced = Paced::new(&mut conn, bytes_per_s);
    loop {
        match paced.step(&mut body) {
            Ok(true) => {}
            Ok(false) => return super::preambles::behind(body),
            Err(e) => panic!("{name} at {bytes_per_s} B/s: {e} after {}", body.len()),
        }
    }
}

fn nothing_is_left(server: &Server, state: &Path) {
    wait::until_true("nothing is left over", || lab::orphans(state).is_empty());
    assert_eq!(lab::entries(state), Vec::<String>::new());
    assert_eq!(server.builds("failed"), 0, "{}", server.log());
}

/// The first reader is slow, so those who come then share another build; who comes still later follows
/// that one while it has its first bytes, or waits for the end of one. None of that holds up another
/// repository.
#[test]
fn on_a_full_disk_readers_of_any_pace_get_all() {
    let lab = new_lab();
    copies(&lab, "paced", 12, 2);
    copies(&lab, "other", 5, 4);
    let Some((server, state)) = on_small_disk(&lab, 25) else {
        return;
    };
    for name in ["other", "paced"] {
        ensure(&server, name, ABSENT);
    }
    let before = server.rss_anon_bytes();
    let busy = AtomicBool::new(true);
    let bodies = std::thread::scope(|scope| {
        let (server, busy) = (&server, &busy);
        let relax = Relax(busy);
        let watch = scope.spawn(move || {
            let mut peak = 0;
            while busy.load(Ordering::Relaxed) {
                peak = peak.max(server.rss_anon_bytes());
                std::thread::sleep(Duration::from_millis(50));
            }
            peak
        });
        let read = |bytes_per_s| scope.spawn(move || read_at(server, "paced", bytes_per_s));
        let mut readers = vec![read(500_000)];
        // Until the build is at the pace of its reader.
        std::thread::sleep(Duration::from_secs(4));
        readers.extend([1_000_000, 4_000_000, 8_000_000, 100_000_000].map(read));
        std::thread::sleep(Duration::from_secs(4));
        let running = || server.metrics().count("tarpon_builds_running", &[]);
        wait::until_true("whoever asks gets another build", || running() == 2);
        let other = read_at(server, "other", u64::MAX);
        wait::until_true("it is counted", || server.builds("live_only") >= 1);
        // Had it waited for them, they would be over.
        wait::until_true("the others go on", || running() == 2);
        readers.push(read(100_000_000));
        let bodies = readers.into_iter().map(|reader| reader.join().unwrap());
        let bodies: Vec<_> = bodies.collect();
        expect_clone(&lab, "other", &other);
        drop(relax);
        let grown = watch.join().unwrap().saturating_sub(before);
        assert!(grown < 96 * MIB, "{} MiB of memory", grown / MIB);
        bodies
    });
    for body in &bodies {
        assert!(*body == bodies[0], "bodies differ");
    }
    expect_clone(&lab, "paced", &bodies[0]);
    wait::until_true("all builds end", || {
        server.metrics().count("tarpon_builds_running", &[]) == 0
    });
    let made = server.builds("live_only");
    assert!((3..=4).contains(&made), "{made} builds");
    nothing_is_left(&server, &state);
}

/// On a full disk, while the two builds that there may be go on at the pace of slow clients, who asks is
/// told so within a time, and is served once one of them has ended.
#[test]
fn on_a_full_disk_nobody_waits_without_end() {
    let lab = new_lab();
    copies(&lab, "paced", 8, 4);
    let server = lab
        .settings()
        .with_fault("spool-enospc-after-bytes=1,live-only-wait-ms=2000")
        .start();
    ensure(&server, "paced", ABSENT);
    let stays = AtomicBool::new(true);
    let running = || server.metrics().count("tarpon_builds_running", &[]);
    std::thread::scope(|scope| {
        let stay = || {
            let (mut conn, ..) = begin(&server, "paced", 1000);
            // A little more than is asked of it.
            let mut paced = Paced::new(&mut conn, 200_000);
            while stays.load(Ordering::Relaxed) {
                assert!(matches!(paced.step(&mut std::io::sink()), Ok(true)));
            }
        };
        let relax = Relax(&stays);
        let slow = [(); 2].map(|()| {
            let slow = scope.spawn(stay);
            // Until the build is at the pace of its reader.
            std::thread::sleep(Duration::from_secs(4));
            slow
        });
        wait::until_true("both are slow", || running() == 2);
        for _ in 0..2 {
            let refused = server.get(&lab::target("paced")).expect(503);
            assert_eq!(refused.head.get("retry-after"), Some("5"));
            let told = refused.text();
            assert!(
                told.contains("disk") && told.contains("slow clients"),
                "{told}"
            );
        }
        assert!(slow.iter().all(|slow| !slow.is_finished()));
        drop(relax);
    });
    wait::until_true("both are given up", || running() == 0);
    let whole = server.get(&lab::target("paced")).expect(200).body;
    expect_clone(&lab, "paced", &whole);
    assert_eq!(server.builds("failed"), 0);
}

/// What is made and not kept has its build's place until the last reader has taken it or has left, and
/// gives it back then.
#[test]
fn a_build_that_is_not_kept_ends_with_its_last_reader() {
    let lab = new_lab();
    // The window holds all of the worktree, and that is more than sockets hold.
    copies(&lab, "paced", 7, 1);
    let server = lab
        .settings()
        .with_fault("spool-enospc-after-bytes=1,live-only-wait-ms=1500")
        .start();
    ensure(&server, "paced", ABSENT);
    let running = || server.metrics().count("tarpon_builds_running", &[]);
    let stay = |made| {
        let mut conn = Conn::open(server.address());
        let socket = socket2::Socket::from(conn.writer().unwrap());
        socket.set_recv_buffer_size(256 << 10).unwrap();
        conn.request("GET", &lab::target("paced"), &[]);
        assert_eq!(conn.read_head("GET").unwrap().status, 200);
        // The pack, and a little more: the beginning is gone.
        let start = conn.read_some(15 << 19).unwrap();
        wait::until_true("all of it is made", || {
            running() == 0 && server.builds("live_only") == made
        });
        (conn, start)
    };
    let first = stay(1);
    let (mut second, start) = stay(2);
    // Until the server has seen what the second one took, somebody may follow that.
    wait::until_true("the beginning is gone", || {
        server.get(&lab::target("paced")).head.status == 503
    });
    drop(first);
    let third = server.get(&lab::target("paced")).expect(200).body;
    assert!(finish(&mut second, start) == third, "bodies differ");
    expect_clone(&lab, "paced", &third);
    let others = at_once(2, |_| server.get(&lab::target("paced")).expect(200).body);
    assert!(others.iter().all(|body| *body == third), "bodies differ");
    assert_eq!(server.builds("failed"), 0);
}

/// A snapshot that a newer one has replaced can still be asked for, and holds no files open for that.
#[test]
fn what_is_replaced_closes_its_files() {
    let lab = new_lab();
    lab.generate("small", Shape::ManySmall, 30_000);
    let server = lab.settings().with(&["--fetch-interval", "720h"]).start();
    let etag = |name| hit(&server, name).head.etag().to_owned();
    let mut current = etag("small");
    let mut replaced = current.clone();
    let open = |current: &str| {
        let entry = lab
            .state()
            .join("snapshots")
            .join(current.trim_matches('"'));
        let shared = inodes_below(&entry);
        let (mut own, mut others) = (0, 0);
        // What both share is open once, by whichever name.
        for (path, inode) in server.descriptors_with_inodes() {
            let is_own = shared.contains(&inode);
            own += usize::from(is_own);
            others += usize::from(path.contains("/snapshots/") && !is_own);
        }
        (own, others)
    };
    let before = open(&current);
    assert!(before.0 > 0 && before.1 == 0, "{:?}", server.descriptors());
    for number in 0..4 {
        replaced = current.clone();
        push_and_fetch(&lab, &server, "small", &format!("{number}.txt"), b"x\n");
        wait::until_true("the new one is shown", || {
            current = etag("small");
            current != replaced
        });
        // Long before those are closed that nobody has read for a while.
        let limit = Duration::from_secs(5);
        wait::until_within("the old one is closed", limit, || {
            (open(&current).1 == 0).then_some(())
        });
    }
    let named = format!("If-Match: {replaced}");
    let old = server.fetch("GET", &lab::target("small"), &[&named]);
    assert_eq!(old.expect(200).head.etag(), replaced);
    wait::until_true("it is closed again", || open(&current).1 == 0);
}

fn inodes_below(directory: &Path) -> HashSet<u64> {
    let mut inodes = HashSet::new();
    for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
        match entry.file_type().unwrap().is_dir() {
            true => inodes.extend(inodes_below(&entry.path())),
            false => drop(inodes.insert(entry.ino())),
        }
    }
    inodes
}

/// Each time all clients of a build leave it is given up, which is no failure of it: whoever asks then is
/// served.
#[test]
fn clients_that_leave_fail_nothing() {
    let lab = new_lab();
    copies(&lab, "left", 4, 10);
    let Some((server, state)) = on_small_disk(&lab, 12) else {
        return;
    };
    ensure(&server, "left", ABSENT);
    for round in 1..=3 {
        drop(begin(&server, "left", 1 << 20));
        wait::until_true("the build is given up", || {
            server.builds("abandoned") == round
        });
    }
    let whole = server.get(&lab::target("left")).expect(200).body;
    expect_clone(&lab, "left", &whole);
    let stays = AtomicBool::new(true);
    std::thread::scope(|scope| {
        let (server, stays, whole) = (&server, &stays, &whole);
        let relax = Relax(stays);
        let good = scope.spawn(move || {
            let mut count = 0;
            while stays.load(Ordering::Relaxed) || count == 0 {
                let (mut conn, _, start) = begin(server, "left", 1);
                assert!(finish(&mut conn, start) == *whole, "another snapshot");
                count += 1;
            }
            count
        });
        // `begin` panics at any answer but 200.
        at_once(10, |client| {
            for number in 0..100 {
                drop(begin(server, "left", 1 + (client * 100 + number) * 999));
            }
        });
        drop(relax);
        assert!(good.join().unwrap() > 0);
    });
    wait::until_true("all builds end", || {
        server.metrics().count("tarpon_builds_running", &[]) == 0
    });
    nothing_is_left(&server, &state);
}
