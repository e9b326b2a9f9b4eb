//! What a restore leaves behind and what it must leave alone: killed runs, full and foreign file
//! systems, files that are nobody's.

use crate::lab::{
    Ends, Running, command, expect, expect_files, expect_nothing, interrupt, interrupt_process,
    new_lab, restore, served, staged,
};
use crate::support::lab::Lab;
use crate::support::repos::{self, FILE};
use crate::support::{git, wait};
use rustix::process::Signal;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Starts a restore that gets only the beginning; gives its staging directory.
fn start_stalled(lab: &Lab, address: SocketAddr, name: &str) -> (Running, PathBuf) {
    let before = staged(&lab.scratch(""));
    let child = Running::start(address, "test/app", &lab.scratch(name), &[]);
    let directory = wait::until("it has a staging directory", || {
        let mut now = staged(&lab.scratch("")).into_iter();
        now.find(|path| !before.contains(path) && path.join("tree").exists())
    });
    (child, directory)
}

#[test]
fn what_a_killed_run_left_goes_and_what_a_live_one_uses_stays() {
    let (lab, server, _) = served();
    let address = interrupt(server.address(), |_| Ends::Stall(3 << 20));
    let (mut live, used) = start_stalled(&lab, address, "live");
    let (mut killed, left) = start_stalled(&lab, address, "killed");
    killed.kill();
    assert!(left.exists(), "a killed run cannot have cleaned up");
    // Somebody's directory that only has such a name.
    let foreign = lab.scratch(".tarpon-restore-mine");
    fs::create_dir(&foreign).unwrap_or_else(|e| panic!("{e}"));
    fs::write(foreign.join("mine"), b"mine").unwrap_or_else(|e| panic!("{e}"));
    expect(
        &restore(server.address(), "test/app", &lab.scratch("next"), &[]),
        0,
    );
    assert!(!left.exists(), "{} was not removed", left.display());
    assert!(
        used.join("tree").exists(),
        "a live run's directory was removed"
    );
    assert!(foreign.join("mine").exists());
    live.kill();
    expect(
        &restore(server.address(), "test/app", &lab.scratch("last"), &[]),
        0,
    );
    assert_eq!(staged(&lab.scratch("")), [foreign]);
}

/// A checkout of `app` with one thing changed, and an upstream whose next commit is in its way.
fn overwrite(lab: &Lab, server: SocketAddr, name: &str, prepare: impl Fn(&Path)) -> Output {
    let target = lab.scratch(name);
    git::clone(&lab.url("before"), &target);
    prepare(&target);
    restore(server, "test/app", &target, &["--overwrite"])
}

#[test]
fn overwriting_never_loses_what_nobody_tracks() {
    let lab = new_lab();
    let before = lab.upstream("before");
    repos::init_bare(&before, "main", "sha1");
    let mut import = repos::Importer::start(&before, repos::Layout::Packed);
    import.commit("refs/heads/main", "before");
    // A directory where `app` has a file, a file where it has a directory.
    import.file(FILE, b"big.bin/tracked", b"1");
    import.file(FILE, b"src", b"2");
    import.finish();
    let server = lab.start();
    let write = |path: PathBuf| fs::write(path, b"mine").unwrap_or_else(|e| panic!("{e}"));

    let out = overwrite(&lab, server.address(), "clean", |_| {});
    expect(&out, 0);
    let clean = lab.scratch("clean");
    assert_eq!(git::text(&clean, &["status", "--porcelain"]), "");
    assert!(clean.join("big.bin").is_file() && clean.join("src/link").is_symlink());

    for named in ["big.bin/mine", "big.bin/sub/deep"] {
        let name = named.replace('/', "-");
        let out = overwrite(&lab, server.address(), &name, |target| {
            let path = target.join(named);
            fs::create_dir_all(path.parent().unwrap_or(target)).unwrap_or_else(|e| panic!("{e}"));
            write(path);
        });
        expect_refused(&lab.scratch(&name), &out, named);
    }
    let out = overwrite(&lab, server.address(), "file", |target| {
        git::run(target, &["rm", "--quiet", "--cached", "src"]);
    });
    let errors = expect(&out, 1);
    assert!(errors.contains("/src is not tracked"), "{errors}");
    assert!(lab.scratch("file").join("src").is_file());

    let out = overwrite(&lab, server.address(), "worktree", |target| {
        fs::rename(target.join(".git"), lab.scratch("elsewhere")).unwrap_or_else(|e| panic!("{e}"));
        write(target.join(".git"));
    });
    assert!(expect(&out, 1).contains(".git is a file"));
    assert_eq!(staged(&lab.scratch("")), Vec::<PathBuf>::new());
}

/// Each takes its turn; the last one's work stays, whole.
#[test]
fn those_that_overwrite_one_directory_do_not_mix() {
    let (lab, server, _) = served();
    let expected = lab.scratch("clone");
    git::clone(&lab.url("app"), &expected);
    let target = lab.scratch("both");
    git::clone(&lab.url("app"), &target);
    for _ in 0..2 {
        let start = |_| {
            let more = ["--overwrite", "--quiet"];
            let child = command(server.address(), "test/app", &target, &more).spawn();
            child.unwrap_or_else(|e| panic!("tarpon does not start: {e}"))
        };
        let running = [0, 1, 2].map(start);
        for mut child in running {
            let status = child.wait().unwrap_or_else(|e| panic!("wait: {e}"));
            assert_eq!(status.code(), Some(0));
        }
        expect_files(&expected, &target, "both");
        assert_eq!(staged(&target), Vec::<PathBuf>::new());
    }
}

/// While somebody else's files go into the target, none of this one's do; it can be interrupted.
#[test]
fn overwriting_waits_for_its_turn() {
    let (lab, server, _) = served();
    let target = lab.scratch("target");
    fs::create_dir(&target).unwrap_or_else(|e| panic!("{e}"));
    fs::write(target.join("mine"), b"mine").unwrap_or_else(|e| panic!("{e}"));
    let turn = fs::File::open(&target).unwrap_or_else(|e| panic!("{e}"));
    turn.lock().unwrap_or_else(|e| panic!("{e}"));
    let start = || {
        let more = ["--overwrite", "--quiet"];
        let running = Running::start(server.address(), "test/app", &target, &more);
        wait::until_true("the files are there", || {
            let mut staged = staged(&target).into_iter();
            staged.any(|path| path.join("tree/.git/index").exists())
        });
        // Time enough for all the rest, if it did not wait.
        expect(
            &restore(server.address(), "test/app", &lab.scratch("other"), &[]),
            0,
        );
        fs::remove_dir_all(lab.scratch("other")).unwrap_or_else(|e| panic!("{e}"));
        assert!(!target.join("run.sh").exists() && !target.join(".git").exists());
        running
    };
    let mut interrupted = start();
    interrupt_process(&mut interrupted.0, Signal::TERM);
    let left = fs::read_dir(&target).map(Iterator::count);
    assert_eq!(left.ok(), Some(1), "only what was there");

    let mut waiting = start();
    drop(turn);
    let status = waiting.0.wait().unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(status.code(), Some(0));
    assert_eq!(git::text(&target, &["status", "--porcelain"]), "?? mine");
}

/// When some of its files have moved, and most have not.
#[test]
fn a_signal_in_the_middle_of_a_large_overwrite_leaves_all_as_it_was() {
    let lab = new_lab();
    for (name, files) in [("before", 1), ("large", 20_000)] {
        let path = lab.upstream(name);
        repos::init_bare(&path, "main", "sha1");
        let mut import = repos::Importer::start(&path, repos::Layout::Packed);
        import.commit("refs/heads/main", name);
        for number in 0..files {
            let content = format!("{name} {number}");
            import.file(
                FILE,
                format!("d/{name}{number}").as_bytes(),
                content.as_bytes(),
            );
        }
        import.finish();
    }
    let server = lab.start();
    let target = lab.scratch("target");
    git::clone(&lab.url("before"), &target);
    let count = || fs::read_dir(target.join("d")).map(Iterator::count).ok();
    let more = ["--overwrite", "--quiet"];
    let mut running = Running::start(server.address(), "test/large", &target, &more);
    wait::until_true("the first file is there", || count() != Some(1));
    interrupt_process(&mut running.0, Signal::INT);
    assert_eq!(count(), Some(1));
    assert_eq!(git::text(&target, &["status", "--porcelain"]), "");
    assert_eq!(git::text(&target, &["log", "--format=%s"]), "before");
    assert_eq!(staged(&target), Vec::<PathBuf>::new());
    expect(&restore(server.address(), "test/large", &target, &more), 0);
    assert_eq!(count(), Some(20_000));
}

/// Nothing was changed, and the error names what is in the way.
fn expect_refused(target: &Path, out: &Output, named: &str) {
    let errors = expect(out, 1);
    assert!(errors.contains(named), "{errors}");
    assert_eq!(
        fs::read(target.join(named)).ok().as_deref(),
        Some(&b"mine"[..])
    );
    let status = git::text(target, &["status", "--porcelain", "--untracked-files=all"]);
    assert_eq!(status, format!("?? {named}"));
    assert_eq!(git::text(target, &["log", "--format=%s"]), "before");
    assert_eq!(staged(target), Vec::<PathBuf>::new());
}

/// Runs a restore into `target` where `mount` is done first, in a mount namespace of its own; what
/// is at `at` afterwards is on standard output. `None` where that is not possible.
fn mounted(
    server: SocketAddr,
    mount: &str,
    at: &Path,
    target: &Path,
    more: &[&str],
) -> Option<Output> {
    let possible = Command::new("unshare").args(["-m", "true"]).output();
    if !possible.is_ok_and(|out| out.status.success()) {
        eprintln!("skipped: no mount namespace may be made here");
        return None;
    }
    let script = format!("{mount} || exit 99; shift; \"$@\"; code=$?; ls -A \"$at\"; exit $code");
    let mut restore = command(server, "test/app", target, &["--quiet"]);
    restore.args(more);
    let mut command = Command::new("unshare");
    git::isolate(&mut command);
    command.args(["-m", "sh", "-c", &script, "sh"]).arg(at);
    command.arg(restore.get_program()).args(restore.get_args());
    command.env("at", at);
    Some(command.output().unwrap_or_else(|e| panic!("{e}")))
}

fn listing(out: &Output) -> String {
    String::from_utf8_lossy(&out.stdout).into_owned()
}

#[test]
fn a_full_disk_leaves_nothing() {
    let (lab, server, _) = served();
    let disk = lab.scratch("disk");
    fs::create_dir(&disk).unwrap_or_else(|e| panic!("{e}"));
    // Full in the pack, full in the files; into a new directory and into the mount point itself.
    for (size, target) in [("4m", "x"), ("16m", "x"), ("16m", "")] {
        let mount = format!("mount -t tmpfs -o size={size} tmpfs \"$at\"");
        // Of itself it keeps a part of the disk free, and says how to have more of it.
        let cases: [(&[&str], &str); 2] = [
            (&["--size-limit", "1T"], "No space left"),
            (&[], "--size-limit"),
        ];
        for (more, why) in cases {
            let at = disk.join(target);
            let Some(out) = mounted(server.address(), &mount, &disk, &at, more) else {
                return;
            };
            let errors = expect(&out, 4);
            assert!(errors.contains(why), "{errors}");
            assert_eq!(listing(&out), "", "{size} {target} {more:?}");
        }
    }
}

#[test]
fn a_mount_point_is_filled_and_a_read_only_one_is_refused() {
    let (lab, server, _) = served();
    let disk = lab.scratch("disk");
    fs::create_dir(&disk).unwrap_or_else(|e| panic!("{e}"));
    for mount in [
        "mount -t tmpfs -o size=200m tmpfs \"$at\"",
        // The same device as its parent.
        "mount --bind \"$at\" \"$at\"",
    ] {
        let Some(out) = mounted(server.address(), mount, &disk, &disk, &[]) else {
            return;
        };
        expect(&out, 0);
        let listing = listing(&out);
        assert!(
            listing.contains("run.sh") && !listing.contains("tarpon"),
            "{listing}"
        );
    }
    fs::remove_dir_all(&disk).unwrap_or_else(|e| panic!("{e}"));
    fs::create_dir(&disk).unwrap_or_else(|e| panic!("{e}"));
    let mount = "mount -t tmpfs -o ro tmpfs \"$at\"";
    for target in [disk.join("x"), disk.join("a/b"), disk.clone()] {
        let Some(out) = mounted(server.address(), mount, &disk, &target, &[]) else {
            return;
        };
        let errors = expect(&out, 4);
        assert!(errors.contains(&*disk.to_string_lossy()), "{errors}");
        assert!(errors.contains("Read-only"), "{errors}");
    }
    expect_nothing(&lab.scratch("x"));
}

/// Whatever bits the user takes away from what is made: a restore gives the modes that git gives,
/// and can always remove what it made.
#[test]
fn any_umask_gives_the_modes_of_a_clone_and_leaves_nothing_behind() {
    let (lab, server, _) = served();
    let under = |umask: &str, program: &Path| {
        let script = format!("umask {umask} && exec \"$0\" \"$@\"");
        let mut command = Command::new("sh");
        git::isolate(&mut command)
            .args(["-c", &script])
            .arg(program);
        command
    };
    let binary = lab.scratch("tarpon");
    fs::copy(crate::lab::BINARY, &binary).unwrap_or_else(|e| panic!("{e}"));
    let server = format!("http://{}", server.address());
    let restores = |umask: &str, target: &Path| {
        let mut command = under(umask, &binary);
        command.args(["restore", "test/app"]).arg(target);
        command.args(["--server", &server]);
        command
    };
    for umask in ["0077", "0002", "0027"] {
        let (cloned, target) = (lab.scratch(&format!("clone{umask}")), lab.scratch(umask));
        let mut clone = under(umask, Path::new("git"));
        clone
            .args(["clone", "--quiet", &lab.url("app")])
            .arg(&cloned);
        expect(&clone.output().unwrap_or_else(|e| panic!("{e}")), 0);
        expect(
            &restores(umask, &target)
                .output()
                .unwrap_or_else(|e| panic!("{e}")),
            0,
        );
        expect_files(&cloned, &target, umask);
    }
    if !rustix::process::geteuid().is_root() {
        println!("the rest is not tested: only root can become another user");
        return;
    }
    const NOBODY: u32 = 65534;
    let parent = lab.scratch("parent");
    fs::create_dir(&parent).unwrap_or_else(|e| panic!("{e}"));
    std::os::unix::fs::chown(&parent, Some(NOBODY), Some(NOBODY)).unwrap_or_else(|e| panic!("{e}"));
    let open = fs::Permissions::from_mode(0o755);
    for path in parent.ancestors().take(3).chain([&*binary]) {
        fs::set_permissions(path, open.clone()).unwrap_or_else(|e| panic!("{e}"));
    }
    for umask in ["0777", "0277", "0477", "0177"] {
        let mut command = restores(umask, &parent.join("app"));
        command.env("HOME", &parent).current_dir(&parent);
        let out = command.uid(NOBODY).gid(NOBODY).output();
        let out = out.unwrap_or_else(|e| panic!("{e}"));
        let errors = String::from_utf8_lossy(&out.stderr).into_owned();
        // Its own files, too, may be such that nobody can read them. Git itself cannot go on then.
        assert!(
            matches!(out.status.code(), Some(0 | 4)),
            "{umask}: {errors}"
        );
        if out.status.success() {
            fs::remove_dir_all(parent.join("app")).unwrap_or_else(|e| panic!("{e}"));
        }
        let left: Vec<_> = fs::read_dir(&parent)
            .unwrap_or_else(|e| panic!("{e}"))
            .collect();
        assert!(left.is_empty(), "{umask}: {left:?}: {errors}");
    }
}
