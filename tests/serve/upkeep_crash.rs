//! `kill -9` in the middle of a mirror's upkeep: the mirror is whole, and the next server finishes it.
//!
//! The moments come from a seed, printed at the start; `TARPON_TEST_SEED=N` repeats a run.

use super::support::lab::{self, Lab, copy_tree};
use super::support::rng::Rng;
use super::support::server::Settings;
use super::support::{git, wait};
use super::{expect_clone, hit, push_and_fetch, remove, small_lab};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const ROUNDS: u64 = 24;
const SEED_VARIABLE: &str = "TARPON_TEST_SEED";
const FAR: [&str; 4] = ["--fetch-interval", "720h", "--scrub-interval", "0"];

fn seed() -> u64 {
    if let Ok(text) = std::env::var(SEED_VARIABLE) {
        return text.parse().unwrap();
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(1, |since| since.as_nanos() as u64)
}

/// A state directory whose mirror has packs to join and something to expire.
fn template(lab: &Lab) -> (PathBuf, String) {
    let template = lab.scratch("template");
    lab::create_dir(&template);
    let mut settings = lab.settings().with(&FAR);
    settings.state = template.clone();
    let server = settings.start();
    hit(&server, "small");
    let mut rng = Rng::new(3);
    let before = git::text(&lab.upstream("small"), &["rev-parse", "refs/heads/main"]);
    let secret = push_and_fetch(lab, &server, "small", "secret.bin", &rng.bytes(30_000));
    git::run(
        &lab.upstream("small"),
        &["update-ref", "refs/heads/main", &before],
    );
    for number in 0..10 {
        let path = format!("new{number}.bin");
        push_and_fetch(lab, &server, "small", &path, &rng.bytes(30_000));
    }
    server.stop();
    (template, secret)
}

/// A server on a copy of the template that begins the upkeep at once.
fn hurried(lab: &Lab, template: &Path) -> Settings {
    let state = lab.scratch("state-of-round");
    if state.exists() {
        remove(&state);
    }
    copy_tree(template, &state);
    let soon = [
        "--maintenance-idle",
        "100ms",
        "--unreachable-expiry",
        "100ms",
    ];
    let mut settings = lab.settings().with(&FAR).with(&soon);
    settings.state = state;
    settings
}

fn is_done(mirror: &Path, secret: &str) -> bool {
    let is_gone = || {
        !git::output(mirror, &["cat-file", "-e", secret])
            .status
            .success()
    };
    mirror.join("objects/info/commit-graph").exists() && is_gone()
}

#[test]
fn upkeep_can_be_killed_at_any_moment() {
    let seed = seed();
    println!("seed {seed}; repeat with {SEED_VARIABLE}={seed}");
    let mut rng = Rng::new(seed);
    let lab = small_lab();
    let (template, secret) = template(&lab);
    let settings = hurried(&lab, &template);
    let mirror = settings.state.join("mirrors/test/small.git");
    let server = settings.start();
    let began = Instant::now();
    wait::until_true("the upkeep is done", || is_done(&mirror, &secret));
    let whole = began.elapsed();
    server.stop();
    let mut unfinished = 0;
    for round in 0..ROUNDS {
        let settings = hurried(&lab, &template);
        let mut server = settings.start();
        let after = Duration::from_micros(rng.below(whole.as_micros() as u64 * 5 / 4));
        std::thread::sleep(after);
        server.kill();
        let context = format!("seed {seed}, round {round}, killed after {after:?}");
        drop(server);
        unfinished += u64::from(!is_done(&mirror, &secret));
        git::run(&mirror, &["fsck", "--full", "--strict", "--no-dangling"]);
        let server = settings.start();
        let tip = git::text(&lab.upstream("small"), &["rev-parse", "refs/heads/main"]);
        let body = wait::until("the snapshot is of now", || {
            let answer = server.get(&lab::target("small")).expect(200);
            let is_new = answer.head.get("x-cachew-snapshot-commit") == Some(&tip);
            is_new.then_some(answer.body)
        });
        expect_clone(&lab, "small", &body);
        wait::until_true(&format!("it is finished ({context})"), || {
            is_done(&mirror, &secret)
        });
        assert_eq!(repos_failed(&server), 0, "{context}: {}", server.log());
        server.stop();
        git::run(&mirror, &["fsck", "--full", "--strict", "--no-dangling"]);
        let left = lab::orphans(&settings.state);
        assert!(left.is_empty(), "{context}: {left:?}");
        let temporary = std::fs::read_dir(&mirror).unwrap();
        let temporary = temporary.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let temporary: Vec<_> = temporary.filter(|name| name.starts_with("tmp_")).collect();
        assert!(temporary.is_empty(), "{context}: {temporary:?}");
        let halves = halves(&mirror);
        assert!(halves.is_empty(), "{context}: {halves:?}");
    }
    assert!(unfinished >= ROUNDS / 4, "killed too late: {unfinished}");
}

/// Files of packs that have no pack or no index.
fn halves(mirror: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(mirror.join("objects/pack")).unwrap();
    let paths = files.map(|file| file.unwrap().path());
    let mut paths: Vec<_> = paths.collect();
    paths.retain(|path| {
        let is_of_one = path
            .file_name()
            .unwrap()
            .to_string_lossy()
            .starts_with("pack-");
        let has = |end: &str| path.with_extension(end).exists();
        is_of_one && !(has("pack") && has("idx"))
    });
    paths
}

fn repos_failed(server: &super::Server) -> u64 {
    let failed = [("result", "failed")];
    server.metrics().count("tarpon_maintenance_total", &failed)
}
