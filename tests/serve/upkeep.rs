//! The upkeep of mirrors beside what is served: few packs, bitmaps, and what is put aside in them.

use super::children::settings_with_git;
use super::support::client::Conn;
use super::support::lab::{self, Lab};
use super::support::repos::{self, FILE, Importer, Layout};
use super::support::rng::Rng;
use super::support::server::Server;
use super::support::{git, wait};
use super::{begin, ensure, expect_clone, finish, hit, new_lab, push_and_fetch, small_lab};
use gix::bstr::ByteSlice;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// Nothing but what is asked for.
const FAR: [&str; 4] = ["--fetch-interval", "720h", "--scrub-interval", "0"];

fn files(mirror: &Path, end: &str) -> Vec<String> {
    let listing = std::fs::read_dir(mirror.join("objects/pack"));
    let listing = listing.unwrap_or_else(|e| panic!("{}: {e}", mirror.display()));
    let names = listing.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.ends_with(end)).collect()
}

fn pack_bytes(mirror: &Path) -> u64 {
    let bytes = files(mirror, ".pack").into_iter().map(|name| {
        let path = mirror.join("objects/pack").join(name);
        path.metadata().unwrap().len()
    });
    bytes.sum()
}

/// The packs in the archive of now.
fn archived_packs(lab: &Lab, server: &Server, name: &str) -> usize {
    let body = server.get(&lab::target(name)).expect(200).body;
    let unpacked = lab.unpack(&body, "unpacked");
    let count = files(&unpacked.join(".git"), ".pack").len();
    super::remove(&unpacked);
    count
}

fn steps(server: &Server, result: &str) -> u64 {
    server
        .metrics()
        .count("tarpon_maintenance_total", &[("result", result)])
}

/// Whoever fetches often has few packs all the same, and after a quiet time what a full repack would leave.
#[test]
fn many_fetches_leave_few_packs_and_little_waste() {
    let lab = new_lab();
    let upstream = lab.upstream("busy");
    repos::init_bare(&upstream, "main", "sha1");
    let mut import = Importer::start(&upstream, Layout::Packed);
    import.commit("refs/heads/main", "base");
    let mut rng = Rng::new(7);
    for number in 0..400 {
        let content = rng.text(2_000);
        import.file(
            FILE,
            format!("dir{}/file{number}.txt", number % 20).as_bytes(),
            &content,
        );
    }
    import.finish();
    let server = lab
        .settings()
        .with(&FAR)
        .with(&["--maintenance-idle", "2s"])
        .start();
    hit(&server, "busy");
    let mut most = 0;
    for number in 0..200 {
        let path = format!("dir{}/file{}.txt", number % 20, number % 400);
        push_and_fetch(&lab, &server, "busy", &path, &rng.text(2_000));
        most = most.max(files(&lab.mirror("busy"), ".pack").len());
        if number % 50 == 49 {
            let packs = archived_packs(&lab, &server, "busy");
            assert!(packs <= 16, "{packs} packs after {number} fetches");
        }
    }
    assert!(most <= 16, "{most} packs in the mirror");
    assert!(steps(&server, "joined") >= 10);
    let mirror = lab.mirror("busy");
    wait::until_true("a bitmap is made", || !files(&mirror, ".bitmap").is_empty());
    wait::until_true("a commit-graph is made", || {
        mirror.join("objects/info/commit-graph").exists()
    });
    let bytes = pack_bytes(&mirror);
    let copy = lab.scratch("copy.git");
    lab::copy_tree(&mirror, &copy);
    git::run(&copy, &["repack", "-adq"]);
    let least = pack_bytes(&copy);
    assert!(
        bytes * 100 <= least * 106,
        "{bytes} bytes instead of {least}"
    );
    // What is as it should be is left alone.
    let before = files(&mirror, "");
    let made = ["joined", "bitmap", "commit_graph"].map(|result| steps(&server, result));
    ensure(&server, "busy", r#"{"refs":{"refs/heads/absent":""}}"#);
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(files(&mirror, ""), before);
    assert_eq!(
        ["joined", "bitmap", "commit_graph"].map(|result| steps(&server, result)),
        made
    );
    let body = hit(&server, "busy").body;
    let unpacked = lab.unpack(&body, "unpacked");
    let names = files(&unpacked.join(".git"), "");
    assert!(
        names.iter().all(|name| !name.contains("multi-pack")),
        "{names:?}"
    );
    super::remove(&unpacked);
    expect_clone(&lab, "busy", &body);
    git::run(&mirror, &["fsck", "--full", "--strict"]);
}

/// Stands in for `git`: joining packs takes it as long as on a machine that has a lot to do.
const SLOW_JOINER: &str = "#!/bin/sh
case \" $* \" in *' --stdin-packs '*) sleep 2 ;; esac
PATH=${PATH#*:} exec git \"$@\"
";

/// Whoever fetches faster than packs are joined waits for that now and then.
#[test]
fn however_slowly_packs_are_joined_there_are_few() {
    let lab = small_lab();
    let settings = settings_with_git(&lab, SLOW_JOINER);
    let server = settings.with(&FAR).start();
    hit(&server, "small");
    let mirror = lab.mirror("small");
    let mut most = 0;
    for number in 0..40 {
        push_and_fetch(
            &lab,
            &server,
            "small",
            &format!("new{number}.txt"),
            b"new\n",
        );
        most = most.max(files(&mirror, ".pack").len());
    }
    assert!(most <= 16, "{most} packs in the mirror");
    assert!(steps(&server, "joined") >= 2);
    let packs = archived_packs(&lab, &server, "small");
    assert!(packs <= 16, "{packs} packs in the archive");
}

/// A client that takes a snapshot slowly, which is kept nowhere, so that it needs the mirror's packs: refs
/// move meanwhile, and others get what is new.
#[test]
fn a_slow_reader_and_a_fetch_do_not_wait_for_each_other() {
    let lab = new_lab();
    let upstream = lab.upstream("paced");
    repos::init_bare(&upstream, "main", "sha1");
    let content = Rng::new(8).bytes(8 << 20);
    let mut import = Importer::start(&upstream, Layout::Packed);
    import.commit("refs/heads/main", "copies");
    for number in 0..4 {
        import.file(FILE, format!("copy{number}.bin").as_bytes(), &content);
    }
    import.finish();
    let server = lab
        .settings()
        .with(&FAR)
        .with_fault("spool-enospc-after-bytes=1,live-only-wait-ms=2000")
        .start();
    ensure(&server, "paced", r#"{"refs":{"refs/heads/absent":""}}"#);
    let before = lab.scratch("before");
    git::clone(&lab.url("paced"), &before);
    let (mut slow, _, start) = begin(&server, "paced", 1000);
    // It goes on at the pace of its reader, which takes nothing.
    wait::until_true("it is under way", || {
        server.metrics().count("tarpon_builds_running", &[]) == 1
    });
    let began = Instant::now();
    for number in 0..16 {
        let path = format!("new{number}.txt");
        push_and_fetch(&lab, &server, "paced", &path, b"new\n");
    }
    assert!(
        began.elapsed() < Duration::from_secs(25),
        "they have waited"
    );
    // Nor does anybody wait behind a repack that the reader holds up.
    let now = wait::until("another build", || {
        let answer = server.get(&lab::target("paced"));
        (answer.head.status == 200).then_some(answer.body)
    });
    expect_clone(&lab, "paced", &now);
    let old = finish(&mut slow, start);
    let unpacked = lab.unpack(&old, "unpacked");
    super::parity::expect_same(&before, &unpacked, "what the slow reader has got");
}

/// What no ref reaches is nobody's business, be it loose or in a pack of git's for such objects.
#[test]
fn what_is_unreachable_is_in_no_archive() {
    let lab = small_lab();
    lab.place_mirror("small");
    let mirror = lab.mirror("small");
    // Pushed and forced away; an operator's git has made it loose.
    let secret = loose_commit(&mirror, "secret");
    let crufty = loose_commit(&mirror, "crufty secret");
    git::run(&mirror, &["update-ref", "refs/heads/crufty", &crufty]);
    git::run(&mirror, &["repack", "-dq"]);
    git::run(&mirror, &["update-ref", "-d", "refs/heads/crufty"]);
    git::run(&mirror, &["repack", "-dq", "--cruft"]);
    let again = loose_commit(&mirror, "loose secret");
    let server = lab.settings().with(&FAR).start();
    let has = |body: &[u8], id: &str| {
        let unpacked = lab.unpack(body, "unpacked");
        let found = git::output(&unpacked, &["cat-file", "-e", id]);
        super::remove(&unpacked);
        found.status.success()
    };
    let body = hit(&server, "small").body;
    for id in [&secret, &crufty, &again] {
        assert!(!has(&body, id), "{id} is in the archive");
        git::run(&mirror, &["cat-file", "-e", id]);
    }
    expect_clone(&lab, "small", &body);
    // A ref that moves to it has it.
    for id in [&crufty, &again] {
        git::run(
            &lab.upstream("small"),
            &["fetch", "-q", &mirror.display().to_string(), id],
        );
        let reference = format!("refs/heads/{}", &id[..8]);
        git::run(&lab.upstream("small"), &["update-ref", &reference, id]);
        let json = format!(r#"{{"refs":{{"{reference}":"{id}"}}}}"#);
        ensure(&server, "small", &json);
        let body = wait::until("it is in the archive", || {
            let body = server.get(&lab::target("small")).expect(200).body;
            has(&body, id).then_some(body)
        });
        assert!(!has(&body, &secret));
        expect_clone(&lab, "small", &body);
    }
}

/// A commit with a file, all loose, that no ref leads to.
fn loose_commit(mirror: &Path, text: &str) -> String {
    let file = mirror.join("text");
    std::fs::write(&file, text).unwrap();
    let blob = git::text(mirror, &["hash-object", "-w", "text"]);
    std::fs::remove_file(&file).unwrap();
    let index = mirror.join("index-of-test");
    let with_index = |args: &[&str]| {
        let mut command = git::command(mirror, args);
        let out = command.env("GIT_INDEX_FILE", &index).output().unwrap();
        assert!(out.status.success(), "{args:?}: {out:?}");
        String::from_utf8(out.stdout).unwrap().trim().to_owned()
    };
    with_index(&[
        "update-index",
        "--add",
        "--cacheinfo",
        &format!("100644,{blob},file"),
    ]);
    let tree = with_index(&["write-tree"]);
    std::fs::remove_file(&index).unwrap();
    git::text(mirror, &["commit-tree", "-m", text, &tree])
}

/// Whatever an operator does in a mirror, with whatever git, while snapshots are built of it.
#[test]
fn an_operators_git_breaks_no_archive() {
    const ROUNDS: usize = 50;
    let lab = small_lab();
    let server = lab.settings().with(&FAR).start();
    hit(&server, "small");
    let mirror = lab.mirror("small");
    let gits = ["git", "/usr/bin/git"];
    let work: [&[&str]; 4] = [
        &["gc", "--quiet", "--prune=now"],
        &["repack", "-adq"],
        &["prune", "--expire=now"],
        &["repack", "-Adfq"],
    ];
    let mut rng = Rng::new(9);
    let expected = lab.scratch("clone");
    for round in 0..ROUNDS {
        let path = format!("round{}.txt", round % 5);
        push_and_fetch(&lab, &server, "small", &path, &rng.text(500));
        // So that the next request builds.
        let pause = Duration::from_micros(rng.below(20_000));
        let mut operator = Command::new(gits[round % 2]);
        git::isolate(&mut operator).arg("-C").arg(&mirror);
        operator.args(work[(round / 2) % work.len()]);
        let mut operator = operator.spawn().unwrap();
        std::thread::sleep(pause);
        let mut conn = Conn::open(server.address());
        conn.request("GET", &lab::target("small"), &[]);
        let head = conn.read_head("GET").unwrap();
        assert_eq!(head.status, 200, "round {round}: {head:?}");
        let body = finish(&mut conn, Vec::new());
        let status = operator.wait().unwrap();
        assert!(status.success(), "round {round}: {status}");
        let unpacked = lab.unpack(&body, "unpacked");
        git::run(&unpacked, &["fsck", "--full", "--strict", "--no-dangling"]);
        super::remove(&unpacked);
    }
    git::clone(&lab.url("small"), &expected);
    let tip = git::text(&expected, &["rev-parse", "HEAD"]);
    let body = wait::until("all is in the archive", || {
        let body = server.get(&lab::target("small")).expect(200).body;
        let unpacked = lab.unpack(&body, "unpacked");
        let is_new = git::text(&unpacked, &["rev-parse", "HEAD"]) == tip;
        super::remove(&unpacked);
        is_new.then_some(body)
    });
    expect_clone(&lab, "small", &body);
}

/// Whether some file below a directory has these bytes, packed objects and frames looked into.
pub fn is_anywhere(lab: &Lab, secret: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    let mut pending = vec![lab.state()];
    while let Some(directory) = pending.pop() {
        for entry in std::fs::read_dir(&directory)
            .into_iter()
            .flatten()
            .flatten()
        {
            let path = entry.path();
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                pending.push(path);
            } else if let Ok(bytes) = std::fs::read(&path)
                && bytes.contains_str(secret)
            {
                found.push(path.display().to_string());
            }
        }
    }
    found
}

/// A secret is pushed to the default branch, served, and forced away: after the expiry it is in no archive, in
/// no file, and nobody gets it by its id. It does not compress, so that its bytes stand in packs and frames.
#[test]
fn a_secret_that_was_forced_away_is_gone() {
    let lab = small_lab();
    let upstream = lab.upstream("small");
    let before = git::text(&upstream, &["rev-parse", "refs/heads/main"]);
    let idle = ["--maintenance-idle", "1s", "--unreachable-expiry", "4s"];
    let server = lab.settings().with(&FAR).with(&idle).start();
    hit(&server, "small");
    let secret = Rng::new(11).bytes(3000);
    let id = push_and_fetch(&lab, &server, "small", "secret.bin", &secret);
    let with = wait::until("it is served", || {
        let answer = server.get(&lab::target("small")).expect(200);
        let commit = answer
            .head
            .get("x-cachew-snapshot-commit")
            .map(str::to_owned);
        (commit.as_deref() == Some(&id)).then_some(answer)
    });
    super::wait_published(&server, "small");
    let by_id = format!("{}?commit={id}", lab::target("small"));
    server.get(&by_id).expect(200);
    server
        .get(&format!("{}?ref=main", lab::target("small")))
        .expect(200);
    assert!(
        with.body
            .windows(100)
            .any(|window| *window == secret[1000..1100])
    );
    assert!(!is_anywhere(&lab, &secret[1000..1100]).is_empty());
    git::run(&upstream, &["update-ref", "refs/heads/main", &before]);
    git::run(&upstream, &["gc", "--quiet", "--prune=now"]);
    push_and_fetch(&lab, &server, "small", "fixed.txt", b"fixed\n");
    server.get(&by_id).expect(200);
    // What was replaced can be asked for for a minute more.
    wait::until_within("nothing of it is left", 3 * wait::DEADLINE, || {
        let found = is_anywhere(&lab, &secret[1000..1100]);
        std::thread::sleep(Duration::from_millis(200));
        found.is_empty().then_some(())
    });
    assert_eq!(steps(&server, "failed"), 0);
    server.get(&by_id).expect(404);
    let body = hit(&server, "small").body;
    assert!(
        !body
            .windows(100)
            .any(|window| *window == secret[1000..1100])
    );
    expect_clone(&lab, "small", &body);
    let by_id = lab.scratch("by-id");
    lab::create_dir(&by_id);
    git::run(&by_id, &["init", "-q"]);
    let url = format!("http://{}/git/test/small", server.address());
    let got = git::output(&by_id, &["fetch", "-q", &url, &id]);
    assert!(!got.status.success(), "it is given out by its id");
    let answer = ensure(&server, "small", &format!(r#"{{"commits":["{id}"]}}"#));
    assert_eq!(answer["missing_commits"][0], *id);
    git::run(&lab.mirror("small"), &["fsck", "--full", "--strict"]);
}

/// Who is sent what is kept nowhere and takes it slowly does not put off that a secret goes.
#[test]
fn a_slow_reader_does_not_put_off_an_expiry() {
    let lab = new_lab();
    let upstream = lab.upstream("slow");
    repos::init_bare(&upstream, "main", "sha1");
    let mut import = Importer::start(&upstream, Layout::Packed);
    import.commit("refs/heads/main", "large");
    import.file(FILE, b"large.bin", &Rng::new(5).bytes(24 << 20));
    import.finish();
    let before = git::text(&upstream, &["rev-parse", "refs/heads/main"]);
    let idle = ["--maintenance-idle", "1s", "--unreachable-expiry", "4s"];
    let settings = lab.settings().with(&FAR).with(&idle);
    let fault = "spool-enospc-after-bytes=1,live-only-wait-ms=2000";
    let server = settings.with_fault(fault).start();
    let secret = Rng::new(11).bytes(3000);
    ensure(&server, "slow", r#"{"refs":{"refs/heads/absent":""}}"#);
    push_and_fetch(&lab, &server, "slow", "secret.bin", &secret);
    git::run(&upstream, &["update-ref", "refs/heads/main", &before]);
    git::run(&upstream, &["gc", "--quiet", "--prune=now"]);
    push_and_fetch(&lab, &server, "slow", "fixed.txt", b"fixed\n");
    let ((mut slow, ..), mut read_bytes) = (begin(&server, "slow", 1000), 0);
    wait::until_within("nothing of it is left", 3 * wait::DEADLINE, || {
        // Far below the pace that what is kept nowhere goes on at, however slow this machine is.
        read_bytes += slow.read_some(2_000).expect("what is sent").len();
        let found = is_anywhere(&lab, &secret[1000..1100]);
        std::thread::sleep(Duration::from_millis(100));
        found.is_empty().then_some(())
    });
    assert!(read_bytes < 40 << 20, "it was waited for: {read_bytes}");
    git::run(&lab.mirror("slow"), &["fsck", "--full", "--strict"]);
}
