//! Parts that stay on a host for the next restore.

use crate::lab::{
    BINARY, Running, command, direct, expect, expect_files, expect_nothing, new_lab, restore,
};
use crate::support::git;
use crate::support::lab::Lab;
use crate::support::repos::{self, Shape};
use crate::support::rng::Rng;
use crate::support::server::Server;
use crate::support::steps::{hit, push_and_fetch};
use std::fs::{self, File, FileTimes};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

/// Somebody else.
const OTHER: u32 = 54_321;
const RESTORES: usize = 32;
const KILLS: u64 = 24;

fn parts(server: &Server) -> u64 {
    let labels = [("outcome", "part")];
    server.metrics().count("tarpon_requests_total", &labels)
}

/// The files of a seed.
fn files(seed: &Path) -> Vec<PathBuf> {
    let below = |dir: &Path| {
        let listing = fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
        listing
            .flatten()
            .map(|entry| entry.path())
            .collect::<Vec<_>>()
    };
    below(seed).iter().flat_map(|home| below(home)).collect()
}

/// Panics if something in a seed is not what a part is, or is on its way though nobody downloads.
#[track_caller]
fn expect_sound(seed: &Path) {
    for path in files(seed) {
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        assert!(!name.starts_with(".new-"), "{name} is left over");
        let mode = fs::metadata(&path).map(|found| found.mode() & 0o7777);
        assert_eq!(mode.ok(), Some(0o444), "{name}");
    }
}

/// Changes a byte as a disk does: no date tells.
fn rot(path: &Path) {
    let found = fs::metadata(path).unwrap();
    let times = FileTimes::new().set_modified(found.modified().unwrap());
    let times = times.set_accessed(found.accessed().unwrap());
    fs::set_permissions(path, PermissionsExt::from_mode(0o644)).unwrap();
    let file = File::options().read(true).write(true).open(path).unwrap();
    let (mut byte, at) = ([0], found.len() / 2);
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 4], at).unwrap();
    file.set_times(times).unwrap();
    fs::set_permissions(path, found.permissions()).unwrap();
}

/// A repository that is small, and large enough to come in parts.
fn small(lab: &Lab, name: &str, seed: u64) {
    let path = lab.upstream(name);
    repos::init_bare(&path, "main", "sha1");
    let mut import = repos::Importer::start(&path, repos::Layout::Packed);
    let mut rng = Rng::new(seed);
    import.commit("refs/heads/main", "first");
    for number in 0..30 {
        let name = format!("d{}/f{number}", number % 5);
        import.file(repos::FILE, name.as_bytes(), &rng.bytes(50_000));
    }
    import.finish();
}

fn with<'a>(seed: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
    let seed = seed
        .to_str()
        .unwrap_or_else(|| panic!("{}", seed.display()));
    let floor = "--seed-free-floor";
    // How full this machine's disk is must not decide what a test sees.
    let none = match more.contains(&floor) {
        true => &[][..],
        false => &[floor, "0"],
    };
    // What is there sooner must not either.
    let frames = match more.contains(&"--verify") || more.contains(&"--worktree") {
        true => &[][..],
        false => &["--worktree", "frames"],
    };
    [&["--seed", seed], none, frames, more].concat()
}

/// What was said of a seed.
fn of_seed(said: &str) -> String {
    let lines = said.lines().filter(|line| line.contains("seed "));
    lines.collect::<Vec<_>>().join("\n")
}

/// A host with a seed, restoring `app`.
struct Host {
    lab: Lab,
    server: Server,
    seed: PathBuf,
    /// What is to come of it.
    plain: PathBuf,
    number: usize,
}

impl Host {
    fn new() -> Host {
        let lab = new_lab();
        let server = lab.start();
        hit(&server, "app");
        let (seed, plain) = (lab.scratch("seed"), lab.scratch("plain"));
        let out = restore(server.address(), "test/app", &plain, &["--by-parts"]);
        expect(&out, 0);
        Host {
            lab,
            server,
            seed,
            plain,
            number: 0,
        }
    }

    /// Restores, and removes what came of it; how many requests for parts there were, and what was said of the seed.
    #[track_caller]
    fn run(&mut self, more: &[&str]) -> (u64, String) {
        self.number += 1;
        let into = self.lab.scratch(&format!("restored-{}", self.number));
        let before = parts(&self.server);
        let more = with(&self.seed, more);
        let out = restore(self.server.address(), "test/app", &into, &more);
        let said = expect(&out, 0);
        expect_files(&self.plain, &into, &said);
        expect_sound(&self.seed);
        fs::remove_dir_all(&into).unwrap();
        (parts(&self.server) - before, of_seed(&said))
    }

    /// The largest file of the seed whose name has `part` of a pack's, or else has not.
    fn largest(&self, part: &str, is_in: bool) -> PathBuf {
        let mut all = files(&self.seed);
        all.retain(|path| path.to_string_lossy().contains(part) == is_in);
        let bytes = |path: &PathBuf| fs::metadata(path).unwrap().len();
        all.into_iter().max_by_key(bytes).unwrap()
    }
}

#[test]
fn a_warm_seed_downloads_no_part_and_what_has_rotted_comes_again() {
    let mut host = Host::new();
    let (cold, said) = host.run(&[]);
    assert!(cold >= 4, "{cold} requests for parts");
    assert_eq!(said, "", "nothing is worth a word");
    let kept = files(&host.seed).len();
    let nothing = (0, String::new());
    assert_eq!(host.run(&[]), nothing);
    assert_eq!(host.run(&["--seed-check-interval", "0s"]), nothing);
    // Nothing is read again of what is believed, unless something is to be proven or is unpacked. Then it is found by
    // git's sums, those of frames, or before any of these, and only what is wrong comes again.
    let (pack, frames) = (host.largest(".pack.", true), host.largest("/pack-", false));
    rot(&pack);
    let into = host.lab.scratch("believed");
    let out = restore(
        host.server.address(),
        "test/app",
        &into,
        &with(&host.seed, &[]),
    );
    assert_eq!(of_seed(&expect(&out, 0)), "");
    let copies = fs::read_dir(into.join(".git/objects/pack")).unwrap();
    let copies: Vec<Vec<u8>> = copies
        .map(|copy| fs::read(copy.unwrap().path()).unwrap())
        .collect();
    let rotten = fs::read(&pack).unwrap();
    assert!(
        copies.contains(&rotten),
        "it was read though it is believed"
    );
    let checks = ["--seed-check-interval", "0s"];
    let verify = ["--verify"];
    for (path, more) in [
        (&pack, &verify[..]),
        (&pack, &checks),
        (&frames, &[]),
        (&frames, &checks),
    ] {
        if fs::read(path).unwrap() != rotten {
            rot(path);
        }
        let (fetched, said) = host.run(more);
        assert!((1..cold).contains(&fetched), "{fetched} of {cold}: {said}");
        let removed = said.matches("it is removed").count();
        assert_eq!(removed, 1, "{said}");
        assert_eq!(host.run(&[]), nothing);
    }
    assert_eq!(files(&host.seed).len(), kept);
    let builds = host.server.builds("complete");
    assert_eq!(builds, 1, "the server is not to blame");
}

/// A seed that is in use is read again as often as one that is not: a use puts off nothing.
#[test]
fn what_is_used_all_day_is_read_again_all_the_same() {
    // Nearly half of the time after which a part is read again.
    const USED_EACH: Duration = Duration::from_secs(43_000);
    let mut host = Host::new();
    host.run(&[]);
    let pack = host.largest(".pack.", true);
    let sound = fs::read(&pack).unwrap();
    for use_number in 0..3 {
        let into = host.lab.scratch(&format!("used-{use_number}"));
        let address = host.server.address();
        let out = restore(address, "test/app", &into, &with(&host.seed, &[]));
        assert_eq!(of_seed(&expect(&out, 0)), "");
        if use_number == 0 {
            rot(&pack);
        }
        // As it is that much later.
        for path in files(&host.seed) {
            let read = fs::metadata(&path).unwrap().modified().unwrap();
            let file = File::open(&path).unwrap();
            file.set_modified(read - USED_EACH).unwrap();
        }
    }
    let (_, said) = host.run(&[]);
    assert_eq!(said.matches("it is removed").count(), 1, "{said}");
    assert_eq!(fs::read(&pack).unwrap(), sound);
}

/// What a later snapshot shares with the one before is there, and packs may be the seed's own files.
#[test]
fn a_later_snapshot_takes_what_is_there() {
    let mut host = Host::new();
    let (cold, _) = host.run(&[]);
    push_and_fetch(&host.lab, &host.server, "app", "new", b"new");
    hit(&host.server, "app");
    fs::remove_dir_all(&host.plain).unwrap();
    let out = restore(host.server.address(), "test/app", &host.plain, &[]);
    let said = expect(&out, 0);
    // Where the snapshot is still the one before, its manifest names a bundle, too.
    assert!(host.plain.join("new").exists(), "{said}");
    let old = files(&host.seed);
    let (fetched, said) = host.run(&["--no-bundle"]);
    assert!((1..cold).contains(&fetched), "{fetched} of {cold}: {said}");
    assert!(old.iter().all(|path| path.exists()));
    assert_eq!(host.run(&[]).0, 0);
    let linked = host.lab.scratch("linked");
    let more = with(&host.seed, &["--seed-link", "--no-bundle"]);
    let out = restore(host.server.address(), "test/app", &linked, &more);
    expect_files(&host.plain, &linked, &expect(&out, 0));
    let packs = fs::read_dir(linked.join(".git/objects/pack")).unwrap();
    let names: Vec<u64> = packs
        .map(|pack| pack.unwrap().metadata().unwrap().nlink())
        .collect();
    let are_linked = names.iter().all(|names| *names == 2);
    assert!(names.len() >= 3 && are_linked, "{names:?}");
}

/// None waits for another, and what one has removed another one downloads.
#[test]
fn any_number_of_restores_share_a_seed_beside_one_that_evicts() {
    let lab = Lab::new(BINARY);
    small(&lab, "shared", 1);
    small(&lab, "other", 2);
    let server = lab.start();
    hit(&server, "shared");
    hit(&server, "other");
    let (seed, plain) = (lab.scratch("seed"), lab.scratch("plain"));
    expect(&restore(server.address(), "test/shared", &plain, &[]), 0);
    let into = |number: usize| lab.scratch(&format!("restored-{number}"));
    let is_over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        // It has no room for more than its own.
        let evicts = || {
            let mut rounds = 0;
            while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                let at = lab.scratch("other");
                let limit = with(&seed, &["--seed-limit", "4M", "--quiet"]);
                expect(&restore(server.address(), "test/other", &at, &limit), 0);
                fs::remove_dir_all(&at).unwrap();
                let gone = files(&seed).into_iter().take(2).map(fs::remove_file);
                rounds += gone.flatten().count();
            }
            rounds
        };
        let evicting = scope.spawn(evicts);
        let start = |number: usize| {
            let mut command = command(
                server.address(),
                "test/shared",
                &into(number),
                &with(&seed, &[]),
            );
            command.stderr(std::process::Stdio::piped());
            command.spawn().unwrap_or_else(|e| panic!("{e}"))
        };
        let running: Vec<_> = (0..RESTORES).map(start).collect();
        for child in running {
            let said = expect(&child.wait_with_output().unwrap(), 0);
            assert!(!said.contains("wrong"), "{said}");
        }
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(evicting.join().unwrap() > 0, "nothing was evicted");
    });
    for number in 0..RESTORES {
        expect_files(&plain, &into(number), "at once");
        fs::remove_dir_all(into(number)).unwrap();
    }
    // A look at all of it finds nothing wrong, and what is too much leaves.
    let checks = ["--seed-check-interval", "0s", "--seed-limit", "4M"];
    for name in ["shared", "other"] {
        let out = restore(
            server.address(),
            &format!("test/{name}"),
            &into(0),
            &with(&seed, &checks),
        );
        let said = expect(&out, 0);
        assert!(!said.contains("wrong"), "{said}");
        fs::remove_dir_all(into(0)).unwrap();
    }
    expect_sound(&seed);
    let bytes: u64 = files(&seed)
        .iter()
        .map(|path| fs::metadata(path).unwrap().len())
        .sum();
    assert!(bytes <= 4 << 20, "{bytes} are there");
}

/// What a killed one leaves is nobody's, and the next one removes it.
#[test]
fn a_restore_that_is_killed_leaves_the_seed_sound() {
    let lab = Lab::new(BINARY);
    small(&lab, "killed", 3);
    let server = lab.start();
    hit(&server, "killed");
    let (plain, target) = (lab.scratch("plain"), lab.scratch("target"));
    let began = Instant::now();
    let first = lab.scratch("first");
    expect(
        &restore(server.address(), "test/killed", &plain, &with(&first, &[])),
        0,
    );
    let whole = began.elapsed();
    let mut rng = Rng::new(19);
    let mut left = 0;
    for number in 0..KILLS {
        let seed = lab.scratch(&format!("seed-{}", number / 6));
        let mut running =
            Running::start(server.address(), "test/killed", &target, &with(&seed, &[]));
        if number % 3 == 0 {
            // While something is on its way, if it ever is now.
            let until = Instant::now() + 2 * whole;
            let is_new = |path: &PathBuf| path.to_string_lossy().contains(".new-");
            let is_begun = || seed.exists() && files(&seed).iter().any(is_new);
            while Instant::now() < until && !is_begun() {
                std::thread::yield_now();
            }
        } else {
            std::thread::sleep(whole.mul_f64(rng.below(1000) as f64 / 1000.0));
        }
        running.kill();
        if seed.exists() {
            let news = files(&seed);
            left += usize::from(
                news.iter()
                    .any(|path| path.to_string_lossy().contains(".new-")),
            );
        }
        let _ = fs::remove_dir_all(&target);
        if number % 3 == 2 {
            let checks = with(&seed, &["--seed-check-interval", "0s"]);
            let said = expect(
                &restore(server.address(), "test/killed", &target, &checks),
                0,
            );
            assert_eq!(of_seed(&said), "");
            expect_files(&plain, &target, "after a kill");
            expect_sound(&seed);
            fs::remove_dir_all(&target).unwrap();
            // The next ones have something to download.
            files(&seed)
                .iter()
                .step_by(2)
                .for_each(|path| fs::remove_file(path).unwrap());
        }
    }
    assert!(left > 0, "no kill came while something was on its way");
    expect_nothing(&target);
}

/// Runs `script` with mounts of its own, with `at` as the first and the way to tarpon as the other arguments. `None`
/// where that is not possible.
fn mounted(script: &str, at: &Path, restore: &Command) -> Option<Output> {
    let possible = Command::new("unshare").args(["-m", "true"]).output();
    if !possible.is_ok_and(|out| out.status.success()) {
        eprintln!("skipped: no mount namespace may be made here");
        return None;
    }
    let mut command = Command::new("unshare");
    git::isolate(&mut command);
    let script = format!("set -e; at=$1; shift; {script}");
    command.args(["-m", "sh", "-c", &script, "sh"]).arg(at);
    command.arg(restore.get_program()).args(restore.get_args());
    Some(command.output().unwrap_or_else(|e| panic!("{e}")))
}

/// Where the power goes while a seed is written: what its disk has by then, in any order that its file system leaves it in.
/// The next boot believes nothing of it that it has not read.
#[test]
fn a_power_cut_leaves_a_seed_of_which_only_what_is_right_is_taken() {
    let lab = Lab::new(BINARY);
    small(&lab, "app", 6);
    let server = lab.start();
    hit(&server, "app");
    let (disk, plain, at) = (lab.scratch("disk"), lab.scratch("plain"), lab.scratch("at"));
    expect(&restore(server.address(), "test/app", &plain, &[]), 0);
    fs::create_dir(&disk).unwrap();
    let (image, cut) = (lab.scratch("image"), lab.scratch("cut"));
    let boot = lab.scratch("boot");
    let seed = disk.join("seed");
    let run = |script: &str, more: &[&str]| {
        let restore = direct(server.address(), "test/app", &at, &with(&seed, more));
        let out = mounted(script, &disk, &restore)?;
        (out.status.code() != Some(99)).then_some(out)
    };
    let mount = |of: &Path| {
        format!(
            "mount -o loop,data=writeback {} \"$at\" || exit 99; ",
            of.display()
        )
    };
    for (number, (before, after)) in [
        // Nothing was told to come to the disk; names alone; data alone; one of several; while more is written.
        ("", ""),
        ("", "sync \"$at\"; "),
        ("sync \"$at\"; ", ""),
        (
            "",
            "sync -d \"$(ls \"$at\"/seed/*/*.pack.* | head -n 1)\"; ",
        ),
        ("", "rm \"$at\"/seed/*/*.idx.*; sync -f \"$at\"; "),
    ]
    .into_iter()
    .enumerate()
    {
        File::create(&image).unwrap().set_len(64 << 20).unwrap();
        let made = Command::new("mkfs.ext4").arg("-q").arg(&image).output();
        if !made.is_ok_and(|made| made.status.success()) {
            eprintln!("skipped: no mkfs.ext4");
            return;
        }
        // What the disk has by then is copied while it is in use.
        let (of, to) = (image.display(), cut.display());
        let script = format!(
            "{}mkdir \"$at\"/seed; sync; {before}\"$@\"; {after}cp --sparse=always {of} {to}",
            mount(&image)
        );
        let Some(out) = run(&script, &[]) else {
            eprintln!("skipped: this user cannot mount");
            return;
        };
        expect(&out, 0);
        fs::remove_dir_all(&at).unwrap();
        fs::write(&boot, format!("another boot {number}\n")).unwrap();
        let next = format!(
            "mount --bind {} /proc/sys/kernel/random/boot_id; ",
            boot.display()
        );
        let script = format!("{}{next}\"$@\"", mount(&cut));
        let out = run(&script, &[]).expect("it was mounted before");
        let said = expect(&out, 0);
        expect_files(&plain, &at, &said);
        git::run(&at, &["fsck", "--full"]);
        fs::remove_dir_all(&at).unwrap();
    }
}

/// What is no seed is said, and what is of no use.
fn expect_words(server: &Server, file: &Path, at: &Path) {
    fs::write(file, "").unwrap();
    let run = |more: &[&str]| restore(server.address(), "test/app", at, &with(file, more));
    let said = expect(&run(&[]), 1);
    assert!(said.contains("file: it is no directory"), "{said}");
    let said = expect(&run(&["--by-archive"]), 0);
    let words = "--by-archive takes nothing from the seed";
    assert!(said.contains(words), "{said}");
    fs::remove_dir_all(at).unwrap();
}

/// Who cannot write there reads, and says so once; whose seed it is counts.
#[test]
fn a_seed_that_is_full_or_only_read_is_used_all_the_same() {
    let lab = Lab::new(BINARY);
    small(&lab, "app", 4);
    let server = lab.start();
    hit(&server, "app");
    let (disk, plain, at) = (lab.scratch("disk"), lab.scratch("plain"), lab.scratch("at"));
    expect(&restore(server.address(), "test/app", &plain, &[]), 0);
    fs::create_dir(&disk).unwrap();
    expect_words(&server, &lab.scratch("file"), &at);
    let seed = disk.join("seed");
    let run = |mount: &str, more: &[&str]| {
        let restore = direct(server.address(), "test/app", &at, &with(&seed, more));
        let out = mounted(&format!("{mount}; \"$@\""), &disk, &restore)?;
        let said = expect(&out, 0);
        expect_files(&plain, &at, &said);
        fs::remove_dir_all(&at).unwrap();
        Some(of_seed(&said))
    };
    let tmpfs = "mount -t tmpfs -o size=3m tmpfs \"$at\"";
    for (mount, more, word) in [
        // A share of so little is nothing, and what is full has no room.
        (tmpfs, &[][..], "is full"),
        (
            tmpfs,
            &[
                "--seed-limit",
                "1G",
                "--seed-free-floor",
                "10%",
                "--connections",
                "1",
            ],
            "is full",
        ),
        ("mount -t tmpfs -o ro tmpfs \"$at\"", &[], "is not used"),
    ] {
        let Some(said) = run(mount, more) else {
            return;
        };
        assert_eq!(said.matches("the seed").count(), 1, "{said}");
        assert!(said.contains(word), "{said}");
    }
    let out = restore(server.address(), "test/app", &at, &with(&seed, &[]));
    expect(&out, 0);
    fs::remove_dir_all(&at).unwrap();
    let before = parts(&server);
    let only_read = "mount --bind \"$at\" \"$at\"; mount -o remount,ro,bind \"$at\"";
    assert_eq!(run(only_read, &[]).as_deref(), Some(""));
    assert_eq!(
        run(only_read, &["--seed-check-interval", "0s"]).as_deref(),
        Some("")
    );
    assert_eq!(parts(&server), before);
    for path in files(&seed).into_iter().take(2) {
        fs::remove_file(path).unwrap();
    }
    let said = run(only_read, &[]).unwrap_or_default();
    assert_eq!(said.matches("is only read").count(), 1, "{said}");
    assert!(said.contains("Read-only file system"), "{said}");
    assert!(
        parts(&server) > before,
        "what is gone comes from the server"
    );
}

/// What others write fills the disk of a seed in the middle of a restore, which goes on.
#[test]
fn a_seed_whose_disk_fills_meanwhile_keeps_what_it_has() {
    let lab = Lab::new(BINARY);
    lab.generate("big", Shape::BigPack, 48 << 20);
    let server = lab.start();
    hit(&server, "big");
    let (disk, plain, at) = (lab.scratch("disk"), lab.scratch("plain"), lab.scratch("at"));
    expect(&restore(server.address(), "test/big", &plain, &[]), 0);
    fs::create_dir(&disk).unwrap();
    let seed = disk.join("seed");
    let more = with(&seed, &["--seed-limit", "1G"]);
    let restore = direct(server.address(), "test/big", &at, &more);
    // It is stopped while the pack is on its way, unless it was faster: then that is there.
    let script = format!(
        "mount -t tmpfs -o size=256m tmpfs \"$at\"; mkdir \"$at/seed\"
         coming() {{ find \"$at/seed\" -name '.new-*' -size +20M | grep -q .; }}
         for try in 1 2 3 4 5 6 7 8; do
             rm -rf \"$at\"/fill \"$at\"/seed/* {at}; \"$@\" 2> {at}.said & pid=$!
             until coming || ! kill -0 $pid; do :; done 2> /dev/null
             kill -STOP $pid && dd if=/dev/zero of=\"$at/fill\" bs=1M || :
             kill -CONT $pid || :
             wait $pid
             if ! ls \"$at\"/seed/*/*.pack.*; then break; fi
         done 2> /dev/null
         cat {at}.said; rm -f \"$at/fill\"; ls -A \"$at\"/seed/*",
        at = at.display()
    );
    let Some(out) = mounted(&script, &disk, &restore) else {
        return;
    };
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success(), "{said}: {out:?}");
    assert_eq!(of_seed(&said).lines().count(), 1, "{said}");
    assert!(
        !said.contains(".pack.") && !said.contains(".new-"),
        "{said}"
    );
    expect_files(&plain, &at, &said);
}

/// Behind a part of a seed a disk ends: what cannot be read of it comes from the server.
#[test]
fn a_seed_on_a_disk_that_fails_is_done_without() {
    let lab = Lab::new(BINARY);
    small(&lab, "app", 6);
    let server = lab.start();
    hit(&server, "app");
    let (disk, plain, at) = (lab.scratch("disk"), lab.scratch("plain"), lab.scratch("at"));
    expect(&restore(server.address(), "test/app", &plain, &[]), 0);
    fs::create_dir(&disk).unwrap();
    let image = lab.scratch("image");
    let restore = direct(
        server.address(),
        "test/app",
        &at,
        &with(&disk.join("seed"), &[]),
    );
    // All of the disk behind the middle of the file is gone, and nothing of it is in memory.
    let script = |(name, then): (&str, &str)| {
        let (image, at) = (image.display(), at.display());
        format!(
            "truncate -s 64M {image}; mkfs.ext4 -q -F -b 4096 -O ^has_journal {image}; loop=$(losetup -f --show {image}) || exit 99
             trap 'umount \"$at\"; losetup -d \"$loop\"' EXIT
             mount \"$loop\" \"$at\"; \"$@\"; rm -r {at}
             file=$(find \"$at/seed\" -name '{name}' -size +1M)
             block=$(filefrag -s -v \"$file\" | awk '$1 == \"0:\" {{ print int($4) }}')
             umount \"$at\"; mount \"$loop\" \"$at\"
             size=$(stat -f -c %S \"$at\")
             truncate -s $(( block * size + 524288 )) {image}
             \"$@\" 2>&1{then}"
        )
    };
    // Of a pack the end is missed at once, and it is kept anew; of frames what is missed while they are unpacked.
    for of in [
        ("*.pack.*", ""),
        (
            "????????????????????????????????.*",
            "; ! test -e \"$file\"",
        ),
    ] {
        let Some(out) = mounted(&script(of), &disk, &restore) else {
            return;
        };
        if out.status.code() == Some(99) {
            return eprintln!("skipped: there is no loop device here");
        }
        let said = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(out.status.success(), "{said}: {out:?}");
        assert!(said.contains("it is removed"), "{said}");
        expect_files(&plain, &at, &said);
        fs::remove_dir_all(&at).unwrap();
    }
}

/// What root has opened to others they read; what is another user's nobody takes.
#[test]
fn users_believe_themselves_and_root() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("skipped: only root can be two users");
    }
    let lab = Lab::new(BINARY);
    small(&lab, "app", 5);
    let server = lab.start();
    hit(&server, "app");
    let open = tempfile::tempdir().unwrap();
    let make = |name: &str, owner| {
        let path = open.path().join(name);
        fs::create_dir(&path).unwrap();
        std::os::unix::fs::chown(&path, Some(owner), None).unwrap();
        path
    };
    fs::set_permissions(open.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let (roots, theirs, home) = (make("roots", 0), make("theirs", OTHER), make("home", OTHER));
    let tarpon = open.path().join("tarpon");
    fs::copy(BINARY, &tarpon).unwrap();
    let mut number = 0;
    let mut run = |user: u32, seed: &Path| {
        number += 1;
        let (into, before) = (home.join(number.to_string()), parts(&server));
        let restore = direct(server.address(), "test/app", &into, &with(seed, &[]));
        let mut command = Command::new(&tarpon);
        git::isolate(&mut command);
        command.args(restore.get_args()).uid(user).gid(user);
        let out = command.output().unwrap_or_else(|e| panic!("{e}"));
        (out, parts(&server) - before)
    };
    let (out, cold) = run(0, &roots);
    expect(&out, 0);
    assert!(cold > 0);
    // Closed to him.
    let (out, _) = run(OTHER, &roots);
    assert!(expect(&out, 0).contains("is not used"));
    let opened = Command::new("chmod")
        .args(["-R", "go+rX"])
        .arg(&roots)
        .status();
    assert!(opened.is_ok_and(|status| status.success()));
    let (out, fetched) = run(OTHER, &roots);
    assert_eq!((of_seed(&expect(&out, 0)), fetched), (String::new(), 0));
    fs::remove_file(&files(&roots)[0]).unwrap();
    let (out, fetched) = run(OTHER, &roots);
    let said = expect(&out, 0);
    assert!(said.contains("is only read") && fetched > 0, "{said}");
    let (out, fetched) = run(OTHER, &theirs);
    assert_eq!((of_seed(&expect(&out, 0)), fetched), (String::new(), cold));
    let (out, fetched) = run(0, &theirs);
    let said = expect(&out, 1);
    assert!(
        said.contains("belongs to user 54321") && fetched == 0,
        "{said}"
    );
}

/// On file systems that can, packs in the working copy share the seed's blocks.
#[test]
fn packs_share_their_blocks_where_the_file_system_can() {
    let lab = Lab::new(BINARY);
    lab.generate("app", Shape::BigPack, 8 << 20);
    let server = lab.start();
    hit(&server, "app");
    let disk = lab.scratch("disk");
    fs::create_dir(&disk).unwrap();
    for kind in ["xfs", "btrfs"] {
        let image = lab.scratch(kind);
        File::create(&image).unwrap().set_len(400 << 20).unwrap();
        let made = Command::new(format!("mkfs.{kind}"))
            .arg("-q")
            .arg(&image)
            .output();
        let image = image.display();
        let seed = disk.join("seed");
        let restore = direct(
            server.address(),
            "test/app",
            &disk.join("copy"),
            &with(&seed, &[]),
        );
        let script = format!(
            "mount -o loop {image} \"$at\" || exit 99; \"$@\"; rm -r \"$at/copy\"; \"$@\"; \
             git -C \"$at/copy\" -c safe.directory='*' fsck; sync; \
             filefrag -v \"$at\"/copy/.git/objects/pack/*.pack"
        );
        let is_made = made.is_ok_and(|made| made.status.success());
        let out = mounted(&script, &disk, &restore)
            .filter(|out| is_made && out.status.code() != Some(99));
        let Some(out) = out else {
            eprintln!("skipped: this user cannot mount {kind}");
            continue;
        };
        expect(&out, 0);
        let said = String::from_utf8_lossy(&out.stdout);
        assert!(said.contains("shared"), "{kind}: {said}");
    }
}
