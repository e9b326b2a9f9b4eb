//! The bound of everything below the state directory: mirrors, snapshots and what is being made.

use super::pressure::Relax;
use super::support::client::{Conn, Response};
use super::support::lab::{self, Lab};
use super::support::repos::{self, FILE, Importer, Layout};
use super::support::rng::Rng;
use super::support::server::Server;
use super::support::{git, wait};
use super::{begin, expect_clone, finish, hit, new_lab};
use std::collections::HashSet;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// A repository whose pack and frames have about `bytes` each.
pub(super) fn repository(lab: &Lab, name: &str, bytes: u64) {
    let path = lab.upstream(name);
    repos::init_bare(&path, "main", "sha1");
    let seed = name
        .bytes()
        .fold(7, |sum: u64, byte| sum * 31 + u64::from(byte));
    let mut import = Importer::start(&path, Layout::Packed);
    import.commit("refs/heads/main", name);
    import.file(FILE, b"random.bin", &Rng::new(seed).bytes(bytes as usize));
    import.finish();
}

/// What is kept for the files below `root`, each once, as far as they do not vanish meanwhile.
pub(super) fn kept_bytes(root: &Path) -> u64 {
    let (mut bytes, mut seen) = (0, HashSet::new());
    let mut pending = vec![root.to_owned()];
    while let Some(path) = pending.pop() {
        let Ok(found) = std::fs::symlink_metadata(&path) else {
            continue;
        };
        if seen.insert((found.dev(), found.ino())) {
            bytes += found.blocks() * 512;
        }
        if found.is_dir() {
            let inside = std::fs::read_dir(&path).into_iter().flatten().flatten();
            pending.extend(inside.map(|entry| entry.path()));
        }
    }
    bytes
}

fn is_hit(answer: &Response) -> bool {
    let status = answer.head.get("cache-status").unwrap_or_default();
    status.contains("hit")
}

pub(super) fn evicted(server: &Server, what: &str) -> u64 {
    let labels = [("what", what)];
    server.metrics().count("tarpon_evictions_total", &labels)
}

/// Twenty repositories where seven fit, four of them wanted most of the time: what is kept passes the limit
/// by no more than one of them at any moment, the four stay, and every answer is whole.
#[test]
fn under_a_skewed_load_the_disk_is_bounded_and_the_hot_stay() {
    const REPOSITORIES: u64 = 20;
    const HOT: u64 = 4;
    const EACH: u64 = 512 * KIB;
    const LIMIT: u64 = 9 * MIB;
    const EVICTED: u64 = 10;
    let lab = new_lab();
    let name = |number| format!("r{number}");
    for number in 0..REPOSITORIES {
        repository(&lab, &name(number), EACH);
    }
    let limit = LIMIT.to_string();
    let server = lab.settings().with(&["--cache-limit", &limit]).start();
    for number in 0..HOT {
        hit(&server, &name(number));
    }
    let (stop, most) = (AtomicBool::new(false), AtomicU64::new(0));
    let (mut wanted, mut hits) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                most.fetch_max(kept_bytes(&lab.state()), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        let (mut rng, began) = (Rng::new(16), Instant::now());
        let is_due = |began: Instant| match began.elapsed() {
            young if young < Duration::from_secs(15) => true,
            // On a busy machine little is asked for in that time.
            old => old < wait::DEADLINE && evicted(&server, "mirror") <= EVICTED,
        };
        while is_due(began) {
            let is_hot = rng.below(10) < 8;
            let number = match is_hot {
                true => rng.below(HOT),
                false => HOT + rng.below(REPOSITORIES - HOT),
            };
            let answer = server.get(&lab::target(&name(number))).expect(200);
            assert!(answer.body.len() as u64 > EACH, "{}", answer.body.len());
            wanted += u64::from(is_hot);
            hits += u64::from(is_hot && is_hit(&answer));
            std::thread::sleep(Duration::from_millis(20));
        }
        stop.store(true, Ordering::Relaxed);
    });
    let (most, mirrors) = (most.into_inner(), evicted(&server, "mirror"));
    println!("at most {most} bytes, {hits} of {wanted} hot ones hit, {mirrors} mirrors evicted");
    // A pack and frames, and what lies around them.
    let slack = 2 * EACH + 256 * KIB;
    assert!(most <= LIMIT + slack, "{most} bytes were kept");
    assert!(hits * 100 >= wanted * 95, "{hits} of {wanted}");
    assert!(mirrors > EVICTED, "{mirrors} mirrors were evicted");
    for number in [0, REPOSITORIES - 1] {
        expect_clone(&lab, &name(number), &hit(&server, &name(number)).body);
    }
    // What is counted is what is there.
    wait::until_true("all is counted", || {
        let kept = kept_bytes(&lab.state());
        kept.abs_diff(server.metrics().count("tarpon_cache_bytes", &[])) < 64 * KIB
    });
    lab.expect_no_orphans();
}

/// Only one of two fits: when the second comes the first leaves with its mirror, and nothing of it is left.
/// Who asks for it again gets it all the same.
#[test]
fn an_evicted_mirror_is_forgotten_and_cloned_anew() {
    let lab = new_lab();
    for name in ["group/a", "b"] {
        std::fs::create_dir_all(lab.upstream("group")).unwrap();
        repository(&lab, name, 2 * MIB);
    }
    let server = lab.settings().with(&["--cache-limit", "5632K"]).start();
    let first = hit(&server, "group/a").body;
    assert_eq!(server.metrics().count("tarpon_mirrors", &[]), 1);
    for round in 1..4 {
        hit(&server, "b");
        wait::until_true("the first mirror is gone", || {
            !lab.mirror("group/a").exists()
        });
        wait::until_true("its directory is gone", || {
            !lab.mirror("group/a").parent().unwrap().exists()
        });
        let ages = server.get("/metrics").text();
        assert!(!ages.contains("test/group/a"), "{ages}");
        // It is counted once its files are removed.
        wait::until_true("the mirrors are counted", || {
            evicted(&server, "mirror") >= round * 2 - 1
        });
        let again = hit(&server, "group/a").body;
        assert_eq!(again.len(), first.len());
        expect_clone(&lab, "group/a", &again);
        wait::until_true("the second mirror is gone", || !lab.mirror("b").exists());
    }
    wait::until_true("nothing is left over", || {
        lab.orphans() == ["mirrors/test/group"]
    });
    let log = server.log();
    let lines = |text: &str| log.lines().filter(|line| line.contains(text)).count();
    assert_eq!(lines("evicted minutes ago is cloned again"), 1, "{log}");
    assert_eq!(
        lines(r#""message":"cloned""#),
        lines("cloning from"),
        "{log}"
    );
    for line in log.lines().filter(|line| line.contains(r#""evicted""#)) {
        let has = |text: &str| assert!(line.contains(text), "{text} in {line}");
        has(r#""reason":"limit""#);
        has(r#""in_use_bytes":"#);
        has(r#""limit_bytes":5767168"#);
    }
}

/// What a mirror needs that is larger than the limit is said when it leaves, which it does each time.
#[test]
fn a_mirror_larger_than_the_limit_is_named() {
    let lab = new_lab();
    repository(&lab, "giant", 4 * MIB);
    let server = lab.settings().with(&["--cache-limit", "3M"]).start();
    let answer = server.get(&lab::target("giant")).expect(200);
    expect_clone(&lab, "giant", &answer.body);
    server.wait_logged("it is cloned for each request; raise --cache-limit to at least");
    let log = server.log();
    let line = log.lines().find(|line| line.contains("for each request"));
    let line = line.unwrap_or_default();
    assert!(
        line.contains("WARN") && line.contains("test/giant"),
        "{line}"
    );
}

/// Mirrors that stay whatever leaves take all that there may be: the largest are named, with the reason.
#[test]
fn what_never_leaves_is_named() {
    let lab = new_lab();
    repository(&lab, "gone", 2 * MIB);
    lab.place_mirror("gone");
    let other = lab.state().join("mirrors/old.example.org/t/x.git");
    git::clone_mirror(&lab.url("gone"), &other);
    lab.hide("gone");
    let server = lab.settings().with(&["--cache-limit", "3M"]).start();
    server.get(&lab::target("gone")).expect(200);
    server.wait_logged("what never leaves takes all of --cache-limit");
    let log = server.log();
    let line = log.lines().find(|line| line.contains("what never leaves"));
    let line = line.unwrap_or_default();
    for text in [
        "test/gone 3 MiB (never compared with its upstream)",
        "mirrors/old.example.org/t/x.git 3 MiB (of no upstream)",
    ] {
        assert!(line.contains(text), "{text} in {line}");
    }
    assert_eq!(log.matches("what never leaves").count(), 1, "{log}");
}

/// A mirror that an operator has put there may have what nothing else has. It stays as long as its upstream
/// was never seen, and goes like any other once that was compared.
#[test]
fn an_operator_s_mirror_goes_only_when_its_upstream_is_known() {
    let lab = new_lab();
    for name in ["own", "b", "c"] {
        repository(&lab, name, MIB);
    }
    lab.place_mirror("own");
    lab.hide("own");
    let server = lab.settings().with(&["--cache-limit", "3M"]).start();
    hit(&server, "own");
    let load = || {
        for name in ["b", "c"] {
            server.get(&lab::target(name)).expect(200);
        }
    };
    wait::until_true("others leave", || {
        load();
        evicted(&server, "mirror") >= 4
    });
    assert!(lab.mirror("own").exists(), "nothing else has it");
    git::run(&lab.mirror("own"), &["fsck", "--full", "--strict"]);
    server.get(&lab::target("own")).expect(200);
    // Its upstream is there again and is looked at.
    std::fs::rename(lab.scratch("hidden-own"), lab.upstream("own")).unwrap();
    let wanted = r#"{"commits":["0123456789012345678901234567890123456789"]}"#;
    server
        .post_json(&lab::endpoint("own", "ensure-refs"), wanted)
        .expect(200);
    assert!(lab.mirror("own").join("tarpon-upstream").exists());
    wait::until_true("it leaves", || {
        load();
        !lab.mirror("own").exists()
    });
    let again = server.get(&lab::target("own")).expect(200);
    expect_clone(&lab, "own", &again.body);
}

/// Nothing leaves under those who read it, whatever comes meanwhile.
#[test]
fn what_is_read_stays() {
    let lab = new_lab();
    for name in ["read", "b", "c"] {
        repository(&lab, name, 12 * MIB);
    }
    let server = lab.settings().with(&["--cache-limit", "30M"]).start();
    let whole = hit(&server, "read").body;
    let (mut reader, _, start) = begin(&server, "read", 1000);
    for name in ["b", "c", "b"] {
        server.get(&lab::target(name)).expect(200);
    }
    wait::until_true("others leave", || evicted(&server, "mirror") >= 2);
    assert!(lab.mirror("read").exists());
    assert!(is_hit(&server.get(&lab::target("read")).expect(200)));
    assert!(finish(&mut reader, start) == whole);
}

/// Clients that take nothing keep what they were promised, but not for ever, and nothing new is kept for as long as
/// what they hold is too much: the bound holds whatever they ask for. Once they are ended all is as before.
#[test]
fn slow_readers_hold_no_more_than_there_may_be() {
    const EACH: u64 = 6 * MIB;
    const LIMIT: u64 = 48 * MIB;
    let lab = new_lab();
    let names = Vec::from_iter((0..12).map(|number| format!("r{number}")));
    names.iter().for_each(|name| repository(&lab, name, EACH));
    let limit = LIMIT.to_string();
    let settings = lab.settings().with(&["--cache-limit", &limit]);
    let server = settings.with_fault("taking-slow-ms=3000").start();
    let (busy, most) = (AtomicBool::new(true), AtomicU64::new(0));
    let refused = std::thread::scope(|scope| {
        scope.spawn(|| {
            while busy.load(Ordering::Relaxed) {
                most.fetch_max(kept_bytes(&lab.state()), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        let _stops = Relax(&busy);
        let (mut held, mut refused) = (Vec::new(), 0);
        for name in &names {
            let mut conn = Conn::open(server.address());
            conn.request("GET", &lab::target(name), &[]);
            match conn.read_head("GET").unwrap().status {
                200 => held.push(conn),
                507 => refused += 1,
                status => panic!("{name}: {status}"),
            }
        }
        wait::until_within("new ones are kept again", 2 * wait::DEADLINE, || {
            let answer = server.get(&lab::target("r11"));
            (answer.head.status == 200 && is_hit(&answer)).then_some(())
        });
        refused
    });
    let most = most.into_inner();
    println!("at most {most} bytes, {refused} refused");
    // A mirror and a snapshot that were in the making when nothing was stuck yet.
    assert!(most <= LIMIT + 4 * EACH, "{most} bytes were kept");
    expect_clone(&lab, "r11", &hit(&server, "r11").body);
    assert_eq!(server.builds("failed"), 0);
}

/// A snapshot that is larger than all that may be kept is served and not kept, and nothing else leaves for
/// its sake, however often it is asked for; the log says so once.
#[test]
fn what_is_larger_than_the_limit_is_served_and_throws_out_nothing() {
    let lab = new_lab();
    for (name, bytes) in [("a", MIB / 2), ("b", MIB / 2), ("giant", 6 * MIB)] {
        repository(&lab, name, bytes);
    }
    let server = lab.settings().with(&["--cache-limit", "12M"]).start();
    for name in ["a", "b"] {
        hit(&server, name);
    }
    for _ in 0..4 {
        let giant = server.get(&lab::target("giant")).expect(200);
        expect_clone(&lab, "giant", &giant.body);
        for name in ["a", "b"] {
            assert!(
                is_hit(&server.get(&lab::target(name)).expect(200)),
                "{name} has left"
            );
        }
    }
    assert_eq!(server.builds("complete"), 2);
    assert_eq!(server.builds("failed"), 0);
    server.wait_logged("larger than all that may be kept");
    let said = server
        .log()
        .matches("larger than all that may be kept")
        .count();
    assert_eq!(said, 1, "{}", server.log());
    assert_eq!(evicted(&server, "snapshot"), 0);
    assert_eq!(server.metrics().count("tarpon_disk_full_total", &[]), 0);
    lab.expect_no_orphans();
}

/// Somebody else has filled the disk: the floor cannot be reached, whatever leaves. That is said once, and
/// the cache goes on.
#[test]
fn a_floor_that_cannot_be_reached_empties_nothing() {
    let lab = new_lab();
    let names = ["a", "b", "c", "d"];
    for name in names {
        repository(&lab, name, 100 * KIB);
    }
    let server = lab
        .settings()
        .with(&["--cache-free-floor", "1000T"])
        .start();
    for name in names {
        // Each that is published has a sweep run.
        hit(&server, name);
    }
    server.wait_logged("less than --cache-free-floor is free");
    for name in names {
        assert!(
            is_hit(&server.get(&lab::target(name)).expect(200)),
            "{name} has left"
        );
    }
    let said = server
        .log()
        .matches("less than --cache-free-floor is free")
        .count();
    assert_eq!(said, 1, "{}", server.log());
    assert_eq!(server.metrics().count("tarpon_evictions_total", &[]), 0);
}

/// The disk is full before the limit is reached: whoever needs room gets it from what is worth the least, and
/// clones, builds and what is kept go on.
#[test]
fn a_full_disk_makes_room() {
    let lab = new_lab();
    let names = ["a", "b", "c", "d", "e", "f"];
    for name in names {
        repository(&lab, name, 3 * MIB);
    }
    // Three of them fit.
    let Some((server, seen)) = super::builds::on_small_disk(&lab, 20) else {
        return;
    };
    for round in 0..2 {
        for name in names {
            let answer = server.get(&lab::target(name)).expect(200);
            expect_clone(&lab, name, &answer.body);
            wait::until_true(&format!("{name} is kept, round {round}"), || {
                server.fetch("HEAD", &lab::target(name), &[]).head.status == 200
            });
        }
    }
    let metrics = server.metrics();
    assert!(
        server.log().contains(r#""reason":"full""#),
        "{}",
        server.log()
    );
    let full = server.log().matches("the disk is full: ").count() as u64;
    assert_eq!(full, metrics.count("tarpon_disk_full_total", &[]));
    assert_eq!(metrics.count("tarpon_spool_failures_total", &[]), 0);
    assert_eq!(server.builds("live_only") + server.builds("failed"), 0);
    assert_eq!(
        metrics.count("tarpon_clones_total", &[("result", "failed")]),
        0
    );
    wait::until_true("nothing is left over", || lab::orphans(&seen).is_empty());
}

/// What somebody else has put on the server's disk.
struct Filler(PathBuf);

impl Filler {
    /// Leaves so many bytes.
    fn bytes(seen: &Path, left: u64) -> Filler {
        let filler = Filler(seen.join("filler"));
        std::fs::create_dir(&filler.0).unwrap();
        let found = rustix::fs::statvfs(seen).unwrap();
        let bytes = (found.f_bavail * found.f_frsize).saturating_sub(left);
        std::fs::write(filler.0.join("bytes"), vec![1; bytes as usize]).unwrap();
        filler
    }

    /// Leaves room for so many names.
    fn names(seen: &Path, left: u64) -> Filler {
        let filler = Filler(seen.join("filler"));
        std::fs::create_dir(&filler.0).unwrap();
        let found = rustix::fs::statvfs(seen).unwrap();
        for number in 0..found.f_ffree.saturating_sub(left) {
            std::fs::write(filler.0.join(number.to_string()), "").unwrap();
        }
        filler
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

fn full_disks(server: &Server) -> u64 {
    server.metrics().count("tarpon_disk_full_total", &[])
}

fn wait_until_idle(server: &Server) {
    wait::until_true("nothing is built", || {
        server.metrics().count("tarpon_builds_running", &[]) == 0
    });
}

/// Fetches into a mirror as an operator does, who sees what the server sees: what comes stays loose.
fn fetch_loose(lab: &Lab, server: &Server, name: &str) {
    let target = server.pid().to_string();
    let fetched = Command::new("nsenter")
        .args(["--preserve-credentials", "-U", "-m", "-t", &target])
        .args([
            "git",
            "-c",
            "fetch.unpackLimit=100000",
            "-c",
            // Which counted more before git 2.43.
            "transfer.unpackLimit=100000",
            "-c",
            "safe.directory=*",
            "-C",
        ])
        .arg(lab.mirror(name))
        .args(["fetch", "-q", &lab.url(name), "+refs/heads/*:refs/heads/*"])
        .output()
        .unwrap();
    assert!(fetched.status.success(), "{fetched:?}");
}

/// A fetch, a bundle, and the packing of what somebody's git has made loose find the disk full: room is made,
/// and they are done.
#[test]
fn whatever_finds_the_disk_full_is_tried_again() {
    let lab = new_lab();
    let names = ["a", "b", "c"];
    for name in names {
        repository(&lab, name, 3 * MIB);
    }
    let Some((server, seen)) = super::builds::on_small_disk(&lab, 32) else {
        return;
    };
    let fill = |names: &[&str]| {
        for name in names {
            hit(&server, name);
        }
        wait_until_idle(&server);
        Filler::bytes(&seen, MIB + MIB / 2)
    };
    let mut rng = Rng::new(4);
    let before = git::text(&lab.upstream("a"), &["rev-parse", "HEAD"]);
    let filler = fill(&names);
    super::push_and_fetch(&lab, &server, "a", "new.bin", &rng.bytes(3 * MIB as usize));
    let by_fetch = full_disks(&server);
    assert!(by_fetch > 0, "there was room for a fetch");
    let failed = server
        .metrics()
        .count("tarpon_fetches_total", &[("result", "failed")]);
    assert_eq!(failed, 0, "{}", server.log());
    wait_until_idle(&server);
    drop(filler);
    let filler = fill(&names);
    let target = lab::endpoint("a", &format!("snapshot.bundle?base={before}"));
    let bundle = server.get(&target).expect(200).body;
    assert!(bundle.len() as u64 > 3 * MIB);
    let by_bundle = full_disks(&server);
    assert!(by_bundle > by_fetch, "there was room for a bundle");
    wait_until_idle(&server);
    drop(filler);
    for number in 0..300 {
        let path = format!("loose/{number}.bin");
        let content = rng.bytes(10 << 10);
        repos::add_commit(&lab.upstream("a"), "main", &path, &content);
    }
    fetch_loose(&lab, &server, "a");
    let filler = fill(&names[1..]);
    let answer = server.get(&lab::target("a")).expect(200);
    expect_clone(&lab, "a", &answer.body);
    server.wait_logged("packed loose objects");
    assert!(full_disks(&server) > by_bundle, "there was room to pack");
    wait_until_idle(&server);
    drop(filler);
    expect_clone(&lab, "a", &hit(&server, "a").body);
    assert_eq!(server.builds("failed"), 0, "{}", server.log());
}

/// Whatever file cannot be made for want of room, from the first of a fetch to the last of an entry, its
/// outline and its metadata: room is made, and it is tried again.
#[test]
fn a_disk_that_is_full_at_any_file_of_a_refresh_makes_room() {
    let lab = new_lab();
    let Some((server, seen)) = super::builds::on_tmpfs(&lab, "size=64m,nr_inodes=8000") else {
        return;
    };
    let others = ["x", "y", "z"];
    for name in others {
        repository(&lab, name, MIB);
    }
    let (mut full, mut left) = (0, 0);
    // Until there is room for all of it.
    loop {
        let name = format!("a{left}");
        repository(&lab, &name, 20 * KIB);
        hit(&server, &name);
        // What was freed the last time is used again.
        for other in others {
            hit(&server, other);
        }
        wait_until_idle(&server);
        let filler = Filler::names(&seen, left);
        let id = super::push_and_fetch(&lab, &server, &name, "new", b"new\n");
        // It may have left itself to make room: then it is built now.
        server.get(&lab::target(&name)).expect(200);
        wait::until_true(&format!("it is kept with {left} files left"), || {
            let answer = server.fetch("HEAD", &lab::target(&name), &[]);
            answer.head.get("x-cachew-snapshot-commit") == Some(&id)
        });
        expect_clone(&lab, &name, &hit(&server, &name).body);
        drop(filler);
        let now = full_disks(&server);
        if now == full {
            break;
        }
        (full, left) = (now, left + 1);
        assert!(left < 100, "there is never enough room");
    }
    assert!(left > 10, "only {left} files were tried");
    let metrics = server.metrics();
    let failed = metrics.count("tarpon_fetches_total", &[("result", "failed")]);
    assert_eq!(failed, 0, "{}", server.log());
    let lost = server.builds("live_only") + server.builds("failed");
    assert_eq!(lost, 0, "{}", server.log());
    wait::until_true("nothing is left over", || lab::orphans(&seen).is_empty());
}

/// Somebody else has filled the disk: whatever a clone lacks room for, and whether git says so or not, the
/// answer says that the disk is full, and how full.
#[test]
fn a_clone_on_a_full_disk_says_that_it_is_full() {
    const PAGE: u64 = 4096;
    let lab = new_lab();
    repository(&lab, "r", 8 * KIB);
    let Some((server, seen)) = super::builds::on_small_disk(&lab, 8) else {
        return;
    };
    let filler = std::fs::File::create(seen.join("filler")).unwrap();
    let mut filled = 0;
    while filler.write_all_at(&[1; PAGE as usize], filled).is_ok() {
        filled += PAGE;
    }
    for step in 0..100 {
        // Another repository each time: one that cannot be cloned is not tried again at once.
        let name = format!("r{step}");
        std::os::unix::fs::symlink(lab.upstream("r"), lab.upstream(&name)).unwrap();
        let answer = server.get(&lab::target(&name));
        let status = answer.head.status;
        if status == 200 {
            assert!(step > 3, "the disk was not full");
            return;
        }
        let text = answer.text();
        assert_eq!(status, 507, "{step}: {text}");
        assert!(
            text.contains("on the file system of the state directory"),
            "{text}"
        );
        assert!(text.contains("MiB free, tarpon has "), "{text}");
        filled -= PAGE;
        filler.set_len(filled).unwrap();
    }
    panic!("there is room, and nothing is cloned");
}

/// Where the server keeps things is no client's business.
#[test]
fn no_client_is_told_a_path_of_the_server() {
    let lab = new_lab();
    repository(&lab, "r", 8 * KIB);
    let server = lab.start();
    let tmp = lab.state().join("tmp");
    std::fs::remove_dir_all(&tmp).unwrap();
    std::fs::write(&tmp, "in the way").unwrap();
    let text = server.get(&lab::target("r")).expect(500).text();
    assert!(text.contains("STATE/tmp/clone-"), "{text}");
    let state = lab.state().to_string_lossy().into_owned();
    assert!(!text.contains(&state), "{text}");
    server.wait_logged(&format!("{state}/tmp/clone-"));
}

/// A file of a pack that cannot be linked where it lies is copied once, within its mirror.
#[test]
fn a_pack_that_cannot_be_linked_is_copied_once() {
    let lab = new_lab();
    repository(&lab, "own", MIB);
    lab.place_mirror("own");
    let Ok(elsewhere) = tempfile::tempdir_in("/dev/shm") else {
        eprintln!("skipped: /dev/shm cannot be written");
        return;
    };
    let device = |path: &Path| std::fs::metadata(path).unwrap().dev();
    if device(elsewhere.path()) == device(&lab.state()) {
        eprintln!("skipped: /dev/shm is the file system of the state directory");
        return;
    }
    let pack = pack_of(&lab.mirror("own"));
    let moved = elsewhere.path().join("pack");
    std::fs::copy(&pack, &moved).unwrap();
    std::fs::remove_file(&pack).unwrap();
    std::os::unix::fs::symlink(&moved, &pack).unwrap();
    let server = lab.start();
    expect_clone(&lab, "own", &hit(&server, "own").body);
    super::push_and_fetch(&lab, &server, "own", "later", b"later\n");
    wait::until_true("the new commit is shown", || server.builds("complete") == 2);
    let metrics = server.metrics();
    assert_eq!(metrics.count("tarpon_packs_copied_total", &[]), 1);
    assert!(std::fs::symlink_metadata(&pack).unwrap().is_file());
    assert_eq!(server.log().matches("cannot be linked").count(), 1);
    assert_eq!(metrics.count("tarpon_spool_failures_total", &[]), 0);
    git::run(&lab.mirror("own"), &["fsck", "--full", "--strict"]);
}

/// The one pack of a mirror.
fn pack_of(mirror: &Path) -> PathBuf {
    let files = std::fs::read_dir(mirror.join("objects/pack")).unwrap();
    let mut files = files.map(|entry| entry.unwrap().path());
    let pack = files.find(|path| path.extension().is_some_and(|end| end == "pack"));
    pack.unwrap()
}

/// A file that cannot be changed until this is dropped.
struct Immutable(PathBuf);

impl Immutable {
    /// `None` where the file system or this user cannot.
    fn new(path: &Path) -> Option<Immutable> {
        let done = Command::new("chattr").arg("+i").arg(path).output();
        let done = done.is_ok_and(|done| done.status.success());
        done.then(|| Immutable(path.to_owned()))
    }
}

impl Drop for Immutable {
    fn drop(&mut self) {
        let _ = Command::new("chattr").arg("-i").arg(&self.0).status();
    }
}

/// A pack that can neither be linked nor replaced is served where it lies, and copied not even once.
#[test]
fn a_pack_that_nobody_may_change_is_served_and_never_copied() {
    let lab = new_lab();
    repository(&lab, "fixed", MIB);
    lab.place_mirror("fixed");
    let pack = pack_of(&lab.mirror("fixed"));
    let Some(fixed) = Immutable::new(&pack) else {
        eprintln!("skipped: no chattr +i here");
        return;
    };
    let server = lab.start();
    for number in 1..=3 {
        let answer = server.get(&lab::target("fixed")).expect(200);
        expect_clone(&lab, "fixed", &answer.body);
        wait::until_true("it has ended", || server.builds("live_only") == number);
    }
    let said = server.log().matches("going on without the cache").count();
    assert_eq!(said, 1, "{}", server.log());
    let todo = "give the mirror to the server's user (chown -R)";
    assert!(server.log().contains(todo), "{}", server.log());
    assert!(!server.log().contains("was copied"), "{}", server.log());
    let metrics = server.metrics();
    assert_eq!(metrics.count("tarpon_packs_copied_total", &[]), 0);
    drop(fixed);
    let folder = std::fs::read_dir(pack.parent().unwrap()).unwrap();
    let mut names = folder.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert!(names.all(|name| !name.starts_with("tmp_")));
    // Once it may be, it is kept.
    expect_clone(&lab, "fixed", &hit(&server, "fixed").body);
}

/// The packs of a mirror belong to somebody else, and the server's user may not link them
/// (`protected_hardlinks`): one that is copied, once and not silently, is its own.
#[test]
fn a_pack_of_somebody_else_is_copied_once() {
    let protected = std::fs::read_to_string("/proc/sys/fs/protected_hardlinks");
    if protected.is_ok_and(|value| value.trim() != "1") || !rustix::process::getuid().is_root() {
        eprintln!("skipped: links to files of others are allowed, or there is no other user");
        return;
    }
    const NOBODY: u32 = 65_534;
    let lab = new_lab();
    repository(&lab, "other", MIB);
    lab.place_mirror("other");
    let pack = pack_of(&lab.mirror("other"));
    let root = lab.state().parent().unwrap().to_owned();
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(&root, mode).unwrap();
    let mut settings = lab.settings();
    let binary = lab.scratch("tarpon");
    std::fs::copy(&settings.binary, &binary).unwrap();
    settings.binary = binary;
    let to_nobody = Command::new("chown")
        .args(["-R", &format!("{NOBODY}:{NOBODY}")])
        .arg(lab.state())
        .status();
    assert!(to_nobody.unwrap().success());
    std::os::unix::fs::chown(&pack, Some(0), Some(0)).unwrap();
    let launcher = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
    ];
    settings.launcher = launcher.map(str::to_owned).to_vec();
    let server = settings.start();
    for _ in 0..2 {
        expect_clone(&lab, "other", &hit(&server, "other").body);
    }
    let metrics = server.metrics();
    assert_eq!(metrics.count("tarpon_packs_copied_total", &[]), 1);
    assert_eq!(std::fs::metadata(&pack).unwrap().uid(), NOBODY);
    assert_eq!(server.log().matches("cannot be linked").count(), 1);
    assert_eq!(server.builds("live_only"), 0, "{}", server.log());
}

/// A file system of its own kind for the state directory; `None` where this user cannot make one.
fn on_ext4(lab: &Lab) -> Option<(Server, PathBuf)> {
    let image = lab.scratch("image");
    std::fs::File::create(&image)
        .unwrap()
        .set_len(64 * MIB)
        .unwrap();
    let made = Command::new("mkfs.ext4").arg("-q").arg(&image).output();
    let mount = format!(
        "mount -o loop {} \"$0\" && rmdir \"$0/lost+found\"",
        image.display()
    );
    let state = lab.state().display().to_string();
    let tried = Command::new("unshare")
        .args(["-m", "sh", "-c", &mount, &state])
        .output();
    let done = |tried: std::io::Result<Output>| tried.is_ok_and(|tried| tried.status.success());
    if !done(made) || !done(tried) {
        eprintln!("skipped: this user cannot mount an ext4");
        return None;
    }
    let script = format!("mount -o loop {} \"$0\" && exec \"$@\"", image.display());
    let mut settings = lab.settings();
    let launcher = ["unshare", "-m", "sh", "-c", &script, &state];
    settings.launcher = launcher.map(str::to_owned).to_vec();
    let server = settings.start();
    let seen = PathBuf::from(format!("/proc/{}/root{state}", server.pid()));
    Some((server, seen))
}

/// Gives a file as many names as there can be.
fn fill_links(path: &Path, names: &Path) {
    std::fs::create_dir(names).unwrap();
    for number in 0..100_000 {
        match std::fs::hard_link(path, names.join(number.to_string())) {
            Ok(()) => {}
            Err(e) => return assert_eq!(e.raw_os_error(), Some(libc::EMLINK), "{e}"),
        }
    }
    panic!("a file can have any number of names here");
}

/// A file has as many names as there can be: a pack gets a copy, once, and what an earlier entry has is
/// built anew.
#[test]
fn a_file_with_all_the_names_it_can_have_is_no_end() {
    let lab = new_lab();
    repository(&lab, "linked", MIB);
    let Some((server, seen)) = on_ext4(&lab) else {
        return;
    };
    expect_clone(&lab, "linked", &hit(&server, "linked").body);
    let mirror = seen.join("mirrors/test/linked.git");
    let names = seen.join("tmp");
    fill_links(&pack_of(&mirror), &names.join("names-of-a-pack"));
    super::push_and_fetch(&lab, &server, "linked", "later", b"later\n");
    wait::until_true("it is built with a copy", || server.builds("complete") == 2);
    let copied = || server.metrics().count("tarpon_packs_copied_total", &[]);
    assert_eq!(copied(), 1);
    assert_eq!(server.log().matches("cannot be linked").count(), 1);
    let entries = lab::entries(&seen);
    let newest = entries.iter().map(|name| seen.join("snapshots").join(name));
    let newest = newest.max_by_key(|dir| dir.metadata().unwrap().modified().unwrap());
    let frames = std::fs::read_dir(newest.unwrap().join("frames")).unwrap();
    for (number, file) in frames.enumerate() {
        let path = file.unwrap().path();
        fill_links(&path, &names.join(format!("names-of-frames-{number}")));
    }
    super::push_and_fetch(&lab, &server, "linked", "last", b"last\n");
    wait::until_true("it is built from nothing", || {
        server.builds("complete") == 3
    });
    server.wait_logged("built from nothing, an entry could not be linked");
    expect_clone(&lab, "linked", &hit(&server, "linked").body);
    assert_eq!(copied(), 1, "{}", server.log());
    assert_eq!(server.builds("live_only"), 0);
}

/// A whole mirror on another file system: no copy would help. It is served, and that is said once.
#[test]
fn a_mirror_elsewhere_is_served_and_never_copied() {
    let lab = new_lab();
    repository(&lab, "far", MIB);
    let Ok(elsewhere) = tempfile::tempdir_in("/dev/shm") else {
        eprintln!("skipped: /dev/shm cannot be written");
        return;
    };
    let device = |path: &Path| std::fs::metadata(path).unwrap().dev();
    if device(elsewhere.path()) == device(&lab.state()) {
        eprintln!("skipped: /dev/shm is the file system of the state directory");
        return;
    }
    let mirror = elsewhere.path().join("far.git");
    git::clone_mirror(&lab.url("far"), &mirror);
    std::fs::create_dir_all(lab.mirror("far").parent().unwrap()).unwrap();
    std::os::unix::fs::symlink(&mirror, lab.mirror("far")).unwrap();
    let server = lab.start();
    for _ in 0..3 {
        let answer = server.get(&lab::target("far")).expect(200);
        expect_clone(&lab, "far", &answer.body);
    }
    wait::until_true("all have ended", || server.builds("live_only") == 3);
    let said = server.log().matches("going on without the cache").count();
    assert_eq!(said, 1, "{}", server.log());
    let todo = "put mirrors/ and snapshots/ on one file system";
    assert!(server.log().contains(todo), "{}", server.log());
    assert_eq!(server.metrics().count("tarpon_packs_copied_total", &[]), 0);
    lab.expect_no_orphans();
}

/// The low mark is below the high one, whatever the forms in which they are given.
#[test]
fn a_low_mark_above_the_limit_is_refused() {
    let lab = new_lab();
    let settings = lab
        .settings()
        .with(&["--cache-limit", "1M", "--cache-low", "50%"]);
    let refused = settings.try_start().err();
    let refused = refused.unwrap_or_else(|| panic!("it starts"));
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        refused.log.contains("not less than --cache-limit"),
        "{}",
        refused.log
    );
}
