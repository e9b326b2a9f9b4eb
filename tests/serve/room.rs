//! The bound of everything below the state directory: mirrors, snapshots and what is being made.

use super::support::client::Response;
use super::support::lab::{self, Lab};
use super::support::repos::{self, FILE, Importer, Layout};
use super::support::rng::Rng;
use super::support::server::Server;
use super::support::{git, wait};
use super::{begin, expect_clone, finish, hit, new_lab};
use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// A repository whose pack and frames have about `bytes` each.
fn repository(lab: &Lab, name: &str, bytes: u64) {
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
fn kept_bytes(root: &Path) -> u64 {
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

fn evicted(server: &Server, what: &str) -> u64 {
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
        while began.elapsed() < Duration::from_secs(15) {
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
    assert!(mirrors > 10, "{mirrors} mirrors were evicted");
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
        assert!(evicted(&server, "mirror") >= round * 2 - 1);
        let again = hit(&server, "group/a").body;
        assert_eq!(again.len(), first.len());
        expect_clone(&lab, "group/a", &again);
        wait::until_true("the second mirror is gone", || !lab.mirror("b").exists());
    }
    wait::until_true("nothing is left over", || {
        lab.orphans() == ["mirrors/test/group"]
    });
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
    let server = lab.settings().with(&["--cache-free-floor", "100%"]).start();
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
    assert_eq!(metrics.count("tarpon_spool_failures_total", &[]), 0);
    assert_eq!(server.builds("live_only") + server.builds("failed"), 0);
    assert_eq!(
        metrics.count("tarpon_clones_total", &[("result", "failed")]),
        0
    );
    wait::until_true("nothing is left over", || lab::orphans(&seen).is_empty());
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
    let packs = lab.mirror("own").join("objects/pack");
    let pack = std::fs::read_dir(&packs)
        .unwrap()
        .flatten()
        .map(|entry| entry.path());
    let pack = pack
        .into_iter()
        .find(|path| path.extension().is_some_and(|end| end == "pack"));
    let pack = pack.unwrap();
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
