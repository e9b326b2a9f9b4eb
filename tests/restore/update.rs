//! `--update`: a working copy is brought to another commit, what would be lost is named, and whoever is killed in the
//! middle of it leaves what the next run brings to the end.

use crate::lab::{BINARY, Running, direct, expect, expect_files, nobody, relay, restore};
use crate::overwrite::everything;
use crate::support::lab::{Lab, copy_tree};
use crate::support::repos::{self, Importer, Layout};
use crate::support::rng::Rng;
use crate::support::server::Server;
use crate::support::steps::ensure;
use crate::support::{compare, git, parity};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant, SystemTime};

/// So many runs are killed, if `KILLS` does not say how many.
const KILLED: u64 = 12;

pub fn update(server: &Server, target: &Path, more: &[&str]) -> Output {
    let more = [&["--update"], more].concat();
    restore(server.address(), "test/app", target, &more)
}

/// A lab with the repository `app`: a few directories, an executable, a link.
fn lab() -> Lab {
    let lab = Lab::new(BINARY);
    let upstream = lab.upstream("app");
    repos::init_bare(&upstream, "main", "sha1");
    let mut import = Importer::start(&upstream, Layout::Packed);
    import.commit("refs/heads/main", "first");
    for number in 0..70 {
        let name = format!("src/d{}/f{number}.c", number % 7);
        import.file(repos::FILE, name.as_bytes(), name.as_bytes());
    }
    import.file(repos::FILE, b"\xff\n", b"odd name");
    import.file(repos::EXECUTABLE, b"run.sh", b"#!/bin/sh\n");
    import.file(repos::SYMLINK, b"src/link", b"../../nowhere");
    import.gitlink(b"module", &"1".repeat(40));
    import.finish();
    lab
}

/// Everything that a commit can do to files. Gives its id, which the server has.
fn move_upstream(lab: &Lab, server: &Server) -> String {
    let upstream = lab.upstream("app");
    let mut import = Importer::start(&upstream, Layout::Packed);
    import.commit_on("refs/heads/main", "refs/heads/main^0", "everything");
    import.file(repos::FILE, b"src/d0/f0.c", b"changed\n");
    import.file(repos::FILE, b"new/deep/file", b"new\n");
    import.file(repos::FILE, b".gitignore", b"*.o\n");
    import.file(repos::FILE, b"obj/x.o", b"tracked all the same\n");
    import.delete(b"src/d1");
    import.delete(b"run.sh");
    import.file(repos::EXECUTABLE, b"run.sh/inner", b"#!/bin/sh\n");
    import.delete(b"src/d2");
    import.file(repos::FILE, b"src/d2", b"a file now\n");
    import.file(repos::SYMLINK, b"src/link", b"elsewhere");
    import.file(repos::EXECUTABLE, b"src/d3/f3.c", b"to be executed\n");
    import.gitlink(b"module", &"2".repeat(40));
    import.gitlink(b"second", &"3".repeat(40));
    import.finish();
    git::run(&upstream, &["branch", "topic/a", "main"]);
    git::run(&upstream, &["tag", "v1", "main"]);
    let id = git::text(&upstream, &["rev-parse", "main"]);
    let json = format!(r#"{{"refs":{{"refs/heads/main":"{id}","refs/heads/topic/a":"{id}"}}}}"#);
    ensure(server, "app", &json);
    id
}

/// A copy of a working copy, whose stat data is its own.
pub fn copied(from: &Path, lab: &Lab, name: &str) -> PathBuf {
    let to = lab.scratch(name);
    copy_tree(from, &to);
    to
}

pub fn write(path: &Path, text: &str) {
    let above = path.parent().unwrap_or(path);
    fs::create_dir_all(above).unwrap_or_else(|e| panic!("{e}"));
    fs::write(path, text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}

/// A lab whose working copy `target` is a commit behind, and a clone of what is newer.
pub fn behind() -> (Lab, Server, PathBuf, PathBuf) {
    let lab = lab();
    let server = lab.start();
    let target = lab.scratch("target");
    expect(&restore(server.address(), "test/app", &target, &[]), 0);
    move_upstream(&lab, &server);
    let clone = lab.scratch("clone");
    git::clone(&lab.url("app"), &clone);
    (lab, server, target, clone)
}

/// Objects may come for minutes, and somebody works there meanwhile.
#[test]
fn what_is_made_while_objects_come_is_kept() {
    let (_lab, server, target, _) = behind();
    let head = git::text(&target, &["rev-parse", "HEAD"]);
    let edited = target.join("src/d0/f0.c");
    let at = target.clone();
    let edits = move |_: &mut Vec<u8>| {
        write(&at.join("src/d0/f0.c"), "mine\n");
        let mine = commit_beside(&at);
        git::run(&at, &["tag", "mine", &mine]);
        git::run(&at, &["notes", "add", "-m", "noted"]);
        git::run(&at, &["tag", "-a", "-m", "x", "signed"]);
    };
    let is_bundle = |target: &str| target.contains("/snapshot.bundle");
    let address = relay(server.address(), is_bundle, edits);
    let errors = expect(&restore(address, "test/app", &target, &["--update"]), 1);
    for said in [
        "src/d0/f0.c",
        "the commits of refs/notes/commits, refs/tags/mine",
        "tagged as refs/tags/signed",
    ] {
        assert!(errors.contains(said), "{said}: {errors}");
    }
    assert_eq!(fs::read_to_string(&edited).unwrap(), "mine\n");
    assert_eq!(git::text(&target, &["rev-parse", "HEAD"]), head);
    let status = git::text(&target, &["status", "--porcelain"]);
    assert_eq!(status.trim(), "M src/d0/f0.c");
    git::run(&target, &["rev-parse", "mine", "signed"]);
    let errors = expect(&update(&server, &target, &["--force"]), 1);
    assert!(errors.contains("refs/tags/mine"), "{errors}");
    expect(
        &update(&server, &target, &["--force", "--discard-local"]),
        0,
    );
    assert_eq!(fs::read_to_string(&edited).unwrap(), "changed\n");
}

/// A commit that no ref leads to, on top of HEAD.
pub fn commit_beside(at: &Path) -> String {
    git::text(at, &["commit-tree", "-p", "HEAD", "-m", "x", "HEAD^{tree}"])
}

#[test]
fn what_differs_is_changed_and_nothing_else() {
    let (lab, server, target, clone) = behind();
    let same = target.join("src/d4/f4.c");
    let stat = |path: &Path| {
        let found = fs::symlink_metadata(path).unwrap_or_else(|e| panic!("{e}"));
        (found.ino(), found.mtime(), found.ctime_nsec())
    };
    let before = stat(&same);
    write(&target.join("mine/file"), "mine");
    git::run(&target, &["config", "user.name", "mine"]);
    let errors = expect(&update(&server, &target, &[]), 0);
    let new = git::text(&clone, &["rev-parse", "HEAD"]);
    let expected = format!(
        "updated {} from test/app at {} (branch main): ",
        target.display(),
        &new[..12]
    );
    assert!(errors.contains(&expected), "{errors}");
    assert!(errors.contains(" 10 files, "), "{errors}");
    let again = update(&server, &target, &["--json"]);
    let json: serde_json::Value = serde_json::from_slice(&again.stdout).unwrap();
    assert!(json["commit"] == new && json["from"] == new, "{json}");
    assert!(json["age_s"].is_u64(), "{json}");
    let errors = expect(&update(&server, &target, &[]), 0);
    assert!(
        errors.contains(&format!("is already at {} (branch main): ", &new[..12])),
        "{errors}"
    );
    assert_eq!(stat(&same), before);
    fs::remove_dir_all(target.join("mine")).unwrap_or_else(|e| panic!("it stays: {e}"));
    parity::expect_same(&clone, &target, "updated");
    assert_eq!(git::text(&target, &["config", "user.name"]), "mine");
    let left = |name: &str| target.join(".git").join(name).exists();
    assert!(!left("index.lock") && !left("tarpon-update") && !left("logs"));
    // Of a clone, after `cp -a` and `touch`, detached and back.
    git::run(&clone, &["config", "remote.origin.url", "https://test/app"]);
    let copy = copied(&clone, &lab, "copy");
    let file = fs::File::options()
        .append(true)
        .open(copy.join("src/d4/f4.c"));
    let touched =
        file.and_then(|file| file.set_modified(SystemTime::now() - Duration::from_secs(9)));
    touched.unwrap_or_else(|e| panic!("{e}"));
    for more in [&["--ref", "v1"][..], &["--ref", "topic/a"], &[]] {
        expect(&update(&server, &copy, more), 0);
    }
    // What was copied a moment ago is left for git to look at.
    parity::expect_same_clones(&clone, &copy, "copied");
    // One that was cloned of one branch has all of them then, and so has what git fetches.
    let fetch = ["config", "--get-all", "remote.origin.fetch"];
    let all = git::text(&copy, &fetch);
    let narrow = "+refs/heads/main:refs/remotes/origin/main";
    git::run(&copy, &["config", "remote.origin.fetch", narrow]);
    expect(&update(&server, &copy, &["--ref", "topic/a"]), 0);
    assert_eq!(git::text(&copy, &fetch), all);
    let from = git::text(&clone, &["rev-parse", "HEAD~1"]);
    expect(&update(&server, &copy, &["--commit", &from]), 0);
    assert_eq!(git::text(&copy, &["rev-parse", "HEAD"]), from);
    assert_eq!(git::text(&copy, &["status", "--porcelain"]), "");
    let out = update(&server, &copy, &["--size-limit", "1K"]);
    expect(&out, 4);
    assert_eq!(git::text(&copy, &["rev-parse", "HEAD"]), from);
    assert_eq!(git::text(&copy, &["status", "--porcelain"]), "");
}

/// A name, what is done to a working copy, and what an error says of it; then what has it updated all the same.
type Case<'c> = (&'c str, fn(&Path), &'c str, &'c [&'c str]);

const LOST: [Case<'_>; 10] = [
    (
        "changed",
        |t| write(&t.join("src/d5/f5.c"), "mine"),
        "changed or missing: src/d5/f5.c; with --force",
        &["--force"],
    ),
    (
        "missing",
        |t| drop(fs::remove_file(t.join("src/d5/f5.c"))),
        "src/d5/f5.c",
        &["--force"],
    ),
    (
        "untracked",
        |t| write(&t.join("new/deep"), "mine"),
        "new/deep",
        &["--force"],
    ),
    (
        "untracked-too",
        |t| write(&t.join("new/deep/file/mine"), "x"),
        "file/mine",
        &["--clean"],
    ),
    (
        "added",
        |t| {
            write(&t.join("mine"), "mine");
            git::run(t, &["add", "mine"]);
        },
        "what was added of mine; commit and push it first; with --discard-local",
        &["--discard-local"],
    ),
    (
        "removed",
        |t| drop(git::run(t, &["rm", "--quiet", "src/d5/f5.c"])),
        "taken out of the index: src/d5/f5.c; with --force all of that goes",
        &["--force"],
    ),
    (
        "all of it at once",
        everything_lost,
        EVERYTHING,
        &["--force", "--discard-local"],
    ),
    (
        "commit",
        |t| {
            drop(git::run(
                t,
                &["commit", "--quiet", "--allow-empty", "-m", "mine"],
            ))
        },
        "the commits of main",
        &["--discard-local"],
    ),
    (
        "stash",
        |t| {
            write(&t.join("src/d5/f5.c"), "mine");
            git::run(t, &["stash", "--quiet"]);
        },
        "stash@{0}",
        &["--discard-local"],
    ),
    (
        "locked",
        |t| write(&t.join(".git/index.lock"), ""),
        "index.lock",
        &[],
    ),
];

const EVERYTHING: &str = "changed or missing: src/d0/f0.c, src/d0/f14.c, src/d0/f21.c, src/d0/f28.c, src/d0/f35.c, \
    src/d0/f42.c, src/d0/f49.c, src/d0/f56.c and 3 others; taken out of the index: src/d6/f6.c; in the way and not \
    tracked: new/deep; nobody else may have the commits of main, topic; push them first; nobody else has the stashes \
    stash@{0}; apply, commit and push them first, or drop them (git stash drop); nobody else may have what was added of \
    mine; commit and push it first; with --force and --discard-local all of that goes\n";

fn everything_lost(target: &Path) {
    write(&target.join("src/d5/f5.c"), "mine");
    git::run(target, &["stash", "--quiet"]);
    git::run(target, &["branch", "topic"]);
    let commit = ["commit", "--quiet", "--allow-empty", "-m", "mine"];
    git::run(target, &commit);
    git::run(target, &["checkout", "--quiet", "topic"]);
    git::run(target, &commit);
    for directory in ["d0", "d5"] {
        fs::remove_dir_all(target.join("src").join(directory)).unwrap_or_else(|e| panic!("{e}"));
    }
    let some = target.join("src/d5");
    git::run(target, &["checkout", "--", "src/d0/f7.c", "src/d5"]);
    fs::remove_file(some.join("f5.c")).unwrap_or_else(|e| panic!("{e}"));
    write(&some.join("f12.c"), "mine");
    git::run(target, &["rm", "--quiet", "src/d6/f6.c"]);
    write(&target.join("new/deep"), "mine");
    write(&target.join("mine"), "mine");
    git::run(target, &["add", "mine"]);
}

/// A name, what git does to a working copy, what an error says that helps, and git doing that.
type Helped<'c> = (&'c str, &'c [&'c str], &'c str, &'c [&'c str]);

/// What is not taken, until what is said has been done.
const NOT_TAKEN: [Helped<'_>; 11] = [
    (
        "skip-worktree",
        &["update-index", "--skip-worktree", "src/d5/f5.c"],
        "src/d5/f5.c is left out (skip-worktree) (git update-index --no-skip-worktree FILE)",
        &["update-index", "--no-skip-worktree", "src/d5/f5.c"],
    ),
    (
        "assume-unchanged",
        &["update-index", "--assume-unchanged", "src/d5/f5.c"],
        "src/d5/f5.c for unchanged (assume-unchanged) (git update-index --no-assume-unchanged FILE)",
        &["update-index", "--no-assume-unchanged", "src/d5/f5.c"],
    ),
    (
        "version",
        &["update-index", "--index-version", "4"],
        "(git update-index --index-version 2)",
        &["update-index", "--index-version", "2"],
    ),
    (
        "split",
        &["update-index", "--split-index"],
        "(git update-index --no-split-index)",
        &["update-index", "--no-split-index"],
    ),
    (
        "autocrlf",
        &["config", "core.autocrlf", "input"],
        "sets core.autocrlf (git config --unset-all KEY",
        &["config", "--unset-all", "core.autocrlf"],
    ),
    (
        "origin",
        &["config", "remote.origin.url", "https://example.org/other"],
        "its origin is https://example.org/other (git remote set-url",
        &["remote", "set-url", "origin", "https://test/app"],
    ),
    (
        "sparse",
        &["sparse-checkout", "set", "src"],
        "(git sparse-checkout disable",
        &["sparse-checkout", "disable"],
    ),
    (
        "bisect",
        &["bisect", "start"],
        "a bisection goes on in it (git bisect reset",
        &["bisect", "reset"],
    ),
    (
        "merge",
        &[
            "merge",
            "--quiet",
            "--no-commit",
            "--no-ff",
            "refs/tags/other",
        ],
        "a merge goes on in it (git merge --abort ends it); --overwrite restores it whole, and what is not committed goes",
        &["merge", "--abort"],
    ),
    (
        "to be added",
        &["add", "-N", "mine"],
        "mine is noted to be added (git add -N) (git add it, or git reset)",
        &["reset", "--quiet"],
    ),
    (
        "linked",
        &["worktree", "add", "--quiet", "--detach", "linked"],
        "prune for what is gone); --overwrite --discard-local restores it whole",
        &["worktree", "remove", "linked"],
    ),
];

#[test]
fn what_would_be_lost_is_named_and_kept() {
    let (lab, server, target, clone) = behind();
    for (name, prepare, said, more) in LOST {
        let target = copied(&target, &lab, name);
        prepare(&target);
        let before = everything(&target);
        let errors = expect(&update(&server, &target, &[]), 1);
        assert!(errors.contains(said), "{name}: {errors}");
        assert_eq!(everything(&target), before, "{name}");
        if !more.is_empty() {
            expect(&update(&server, &target, more), 0);
            drop(fs::remove_file(target.join("mine")));
            // What was written a moment ago is left for git to look at.
            parity::expect_same_clones(&clone, &target, name);
        }
        fs::remove_dir_all(&target).unwrap_or_else(|e| panic!("{e}"));
    }
    let new = git::text(&clone, &["rev-parse", "HEAD"]);
    for (name, args, helps, help) in NOT_TAKEN {
        let target = copied(&target, &lab, name);
        let tree = git::text(&target, &["rev-parse", "HEAD^{tree}"]);
        let other = git::text(&target, &["commit-tree", "-p", "HEAD", "-m", "x", &tree]);
        if name == "merge" {
            git::run(&target, &["tag", "other", &other]);
        }
        if name == "to be added" {
            write(&target.join("mine"), "mine");
        }
        git::run(&target, args);
        let before = everything(&target);
        let errors = expect(&update(&server, &target, &[]), 1);
        assert!(errors.contains("--overwrite"), "{name}: {errors}");
        assert!(errors.contains(helps), "{name}: {errors}");
        assert_eq!(everything(&target), before, "{name}");
        git::run(&target, help);
        expect(&update(&server, &target, &["--discard-local"]), 0);
        assert_eq!(git::text(&target, &["rev-parse", "HEAD"]), new, "{name}");
        drop(fs::remove_file(target.join("mine")));
        assert_eq!(git::text(&target, &["status", "--porcelain"]), "", "{name}");
        fs::remove_dir_all(&target).unwrap_or_else(|e| panic!("{e}"));
    }
    expect_helped(&copied(&target, &lab, "more"), &server);
    // What git ignores makes room, by a list that is elsewhere, too.
    let (list, ignores) = (target.join(".git/info/exclude"), lab.scratch("ignores"));
    write(&ignores, "*.o\n");
    drop(fs::remove_file(&list));
    std::os::unix::fs::symlink(&ignores, &list).unwrap();
    write(&target.join("obj/x.o"), "built");
    write(&target.join("obj/y.o"), "built");
    expect(&update(&server, &target, &[]), 0);
    assert!(target.join("obj/y.o").exists());
    fs::rename(&ignores, &list).unwrap();
    write(&target.join("made/a/x"), "built");
    write(&target.join("made/b"), "built");
    let said = expect(&update(&server, &target, &["--clean"]), 0);
    // Directories with all in them: one is new, and one had what is ignored.
    assert!(said.contains(" 2 untracked entries removed, "), "{said}");
    parity::expect_same(&clone, &target, "cleaned");
    let out = update(&server, &target, &["--clean", "--json"]);
    assert!(String::from_utf8_lossy(&out.stdout).contains("\"cleaned\":0,"));
}

/// More that is not taken: what is set for one worktree, a list that leads to itself, and refs that are none.
fn expect_helped(copy: &Path, server: &Server) {
    git::run(copy, &["config", "extensions.worktreeConfig", "true"]);
    git::run(copy, &["config", "--worktree", "core.eol", "crlf"]);
    let refused = |said: &str| {
        let errors = expect(&update(server, copy, &[]), 1);
        assert!(errors.contains(said), "{said}: {errors}");
        let whole = format!("tarpon: {} is not updated: ", copy.display());
        assert!(errors.contains(&whole), "{errors}");
    };
    refused("core.eol (git config --worktree --unset-all KEY");
    git::run(copy, &["config", "--worktree", "--unset-all", "core.eol"]);
    let list = copy.join(".git/info/exclude");
    drop(fs::remove_file(&list));
    std::os::unix::fs::symlink(&list, &list).unwrap();
    refused("info/exclude cannot be read");
    fs::remove_file(&list).unwrap();
    // A repository by itself does not go because git ignores where it is.
    write(&list, "*.o\n");
    git::run(copy, &["init", "--quiet", "obj/x.o"]);
    write(&copy.join("obj/x.o/mine.o"), "mine");
    refused("not tracked: obj/x.o/");
    refused("obj/x.o/.git");
    fs::remove_dir_all(copy.join("obj")).unwrap();
    fs::remove_file(&list).unwrap();
    let broken = copy.join(".git/refs/tags/broken");
    write(&broken, "x\n");
    refused("(git fsck says more); --overwrite --discard-local");
    fs::remove_file(&broken).unwrap();
    expect(&update(server, copy, &[]), 0);
}

/// Copies `$2` to a small file system at `$1`, of which ever less is left, and runs the rest there until that is enough.
/// What it says of each run: its exit code, and what git says of the working copy.
const FULL: &str = "mount -t tmpfs -o size=8m tarpon \"$1\" || exit 77; cp -a \"$2\" \"$1/copy\"; cd \"$1\"; to=$3; shift 3; \
    for left in 0 8 24 60 100 160 240 4000; do rm -f fill; free=$(df -k --output=avail . | tail -n 1); \
    dd if=/dev/zero of=fill bs=1k count=$((free - left)) 2>/dev/null; \"$@\"; \
    echo \"$? $(git -C copy rev-parse HEAD) $(git -C copy --no-optional-locks status --porcelain | wc -l)\"; done; \
    cp -a copy \"$to\"";

/// What fails there is undone, however far it has come, and the same command again succeeds.
#[test]
fn a_disk_that_is_full() {
    let (lab, server, target, clone) = behind();
    let old = git::text(&target, &["rev-parse", "HEAD"]);
    let new = git::text(&clone, &["rev-parse", "HEAD"]);
    let (small, result) = (lab.scratch("small"), lab.scratch("result"));
    fs::create_dir(&small).unwrap_or_else(|e| panic!("{e}"));
    let copy = small.join("copy");
    let update = direct(
        server.address(),
        "test/app",
        &copy,
        &["--update", "--size-limit", "1G"],
    );
    let mut full = Command::new("unshare");
    git::isolate(&mut full);
    full.args(["-rm", "sh", "-c", FULL, "sh"]);
    full.args([&small, &target, &result]);
    full.arg(update.get_program()).args(update.get_args());
    let out = full.output().unwrap_or_else(|e| panic!("{e}"));
    let errors = String::from_utf8_lossy(&out.stderr);
    if out.status.code() == Some(77) || errors.starts_with("unshare:") {
        eprintln!("skipped: no mount namespace for this user: {errors}");
        return;
    }
    let said = String::from_utf8_lossy(&out.stdout);
    let (failed, done) = (format!("4 {old} 0"), format!("0 {new} 0"));
    let runs: Vec<&str> = said.lines().collect();
    let is_known = |run: &&str| *run == failed || *run == done;
    assert!(runs.iter().all(is_known), "{runs:?}: {errors}");
    assert!(
        runs.first() == Some(&&*failed) && runs.last() == Some(&&*done),
        "{runs:?}"
    );
    // What was copied has other inodes.
    git::run(&result, &["update-index", "-q", "--refresh"]);
    parity::expect_same_clones(&clone, &result, "full");
}

/// Mounts what `$2` has as the lower layer of `$3`, with `$1` for what is written, and has the rest run there.
const LAYERED: &str = "mount -t tmpfs tarpon \"$1\" && mkdir \"$1/upper\" \"$1/work\" && \
    mount -t overlay -o lowerdir=\"$2\",upperdir=\"$1/upper\",workdir=\"$1/work\",userxattr tarpon \"$3\" || exit 77; \
    from=$3 to=$4; shift 4; \"$@\" && cp -a \"$from\" \"$to\"";

/// As a container's image has it: directories of a lower layer are not to be renamed there.
#[test]
fn a_working_copy_of_a_lower_layer() {
    let (lab, server, target, clone) = behind();
    write(&target.join("src/d2/mine"), "in the way of a file");
    let places = ["written", "merged", "result"].map(|name| lab.scratch(name));
    let [written, merged, result] = &places;
    for place in [written, merged] {
        fs::create_dir(place).unwrap_or_else(|e| panic!("{e}"));
    }
    let update = direct(
        server.address(),
        "test/app",
        merged,
        &["--update", "--force"],
    );
    let mut layered = Command::new("unshare");
    git::isolate(&mut layered);
    layered.args(["-rm", "sh", "-c", LAYERED, "sh"]);
    layered.args([written, &target, merged, result]);
    layered.arg(update.get_program()).args(update.get_args());
    let out = layered.output().unwrap_or_else(|e| panic!("{e}"));
    let errors = String::from_utf8_lossy(&out.stderr);
    if out.status.code() == Some(77) || errors.starts_with("unshare:") {
        eprintln!("skipped: no layers for this user: {errors}");
        return;
    }
    expect(&out, 0);
    // It was copied out of there.
    git::run(result, &["update-index", "--refresh"]);
    parity::expect_same_clones(&clone, result, "layered");
}

/// One commit alone, from one branch to another and back.
#[test]
fn one_commit_without_its_history() {
    let lab = lab();
    let server = lab.start();
    let target = lab.scratch("target");
    let shallow = |more: &[&str]| {
        let more = [&["--depth", "1"], more].concat();
        expect(&update(&server, &target, &more), 0)
    };
    let expect_clone = |name: &str, branch: &str| {
        let clone = lab.scratch(name);
        let into = clone.to_string_lossy();
        let url = lab.url("app");
        let args = [
            "clone",
            "--quiet",
            "--depth=1",
            "--branch",
            branch,
            &url,
            &into,
        ];
        git::run(&lab.scratch(""), &args);
        parity::expect_same(&clone, &target, name);
    };
    shallow(&[]);
    let errors = expect(&update(&server, &target, &[]), 1);
    assert!(errors.contains("--depth 1"), "{errors}");
    move_upstream(&lab, &server);
    let upstream = lab.upstream("app");
    let side = repos::add_commit(&upstream, "topic/a", "side.txt", b"side");
    ensure(
        &server,
        "app",
        &format!(r#"{{"refs":{{"refs/heads/topic/a":"{side}"}}}}"#),
    );
    // Nothing that comes has what is missing here.
    let spoilt = copied(&target, &lab, "spoilt");
    fs::remove_file(pack_of(&spoilt).with_extension("idx")).unwrap();
    let errors = expect(&update(&server, &spoilt, &["--depth", "1"]), 1);
    assert!(
        errors.contains(".pack is damaged: .idx of it is not there (git index-pack "),
        "{errors}"
    );
    shallow(&["--ref", "topic/a"]);
    expect_clone("side", "topic/a");
    shallow(&[]);
    expect_clone("main", "main");
    // Of a commit it stays a clone of that branch, and what was set stays in any case.
    let fetch = |more: &[&str]| {
        let args = [&["config", "--get-all", "remote.origin.fetch"][..], more];
        git::text(&target, &args.concat())
    };
    let narrow = "+refs/heads/main:refs/remotes/origin/main";
    let main = git::text(&upstream, &["rev-parse", "main"]);
    for more in [["--commit", &main], ["--ref", &format!("main={main}")]] {
        shallow(&more);
        assert_eq!(fetch(&[]), narrow);
    }
    shallow(&["--ref", &format!("topic/a={side}")]);
    assert_eq!(fetch(&[]), "+refs/heads/*:refs/remotes/origin/*");
    shallow(&["--ref", "v1"]);
    expect_clone("tag", "v1");
    let notes = "+refs/notes/*:refs/notes/*";
    git::run(&target, &["config", "--add", "remote.origin.fetch", notes]);
    shallow(&[]);
    assert_eq!(fetch(&["notes"]), notes);
    assert!(fetch(&[]).contains("+refs/tags/v1:"));
}

/// Wherever it is: the same command again comes to the end.
#[test]
fn who_is_killed_leaves_what_the_next_run_finishes() {
    let (lab, server, target, clone) = behind();
    let first = copied(&target, &lab, "first");
    let began = Instant::now();
    expect(&update(&server, &first, &[]), 0);
    let took = began.elapsed();
    let heads = [&target, &clone].map(|at| git::text(at, &["rev-parse", "HEAD"]));
    let mut rng = Rng::new(19);
    let mut unfinished = 0;
    let kills = std::env::var("KILLS").map_or(KILLED, |kills| kills.parse().unwrap());
    for number in 0..kills {
        let copy = copied(&target, &lab, "killed");
        let mut running = Running::start(server.address(), "test/app", &copy, &["--update"]);
        // Each moment of a run is as good as any other.
        std::thread::sleep(Duration::from_micros(rng.below(took.as_micros() as u64)));
        running.kill();
        // Who looks sees one commit or the other, and all of it.
        let head = git::text(&copy, &["rev-parse", "HEAD"]);
        assert!(heads.contains(&head), "{number}: {head}");
        let fsck = ["fsck", "--connectivity-only", "--no-dangling"];
        git::run(&copy, &fsck);
        let looks = ["--no-optional-locks", "status", "--porcelain"];
        git::run(&copy, &looks);
        unfinished += u64::from(copy.join(".git/tarpon-update").exists());
        expect(&update(&server, &copy, &[]), 0);
        let differences = compare::differences(&clone, &copy, &[".git"]);
        assert!(differences.is_empty(), "{number}: {differences:?}");
        assert_eq!(git::text(&copy, &["status", "--porcelain"]), "", "{number}");
        let refs =
            |at: &Path| git::text(at, &["for-each-ref", "--format=%(refname) %(objectname)"]);
        assert_eq!(refs(&copy), refs(&clone), "{number}");
        fs::remove_dir_all(&copy).unwrap_or_else(|e| panic!("{e}"));
    }
    println!("{unfinished} of {kills} runs were killed in the middle of their changes");
}

/// With `--fresh` what was pushed a moment ago is there, and where nobody can tell nothing is done.
#[test]
fn what_is_to_be_fresh_is_what_the_upstream_has() {
    let lab = lab();
    let server = lab.settings().with(&["--ref-check-interval", "1h"]).start();
    let target = lab.scratch("target");
    expect(&restore(server.address(), "test/app", &target, &[]), 0);
    let upstream = lab.upstream("app");
    for number in 0..3 {
        let id = repos::add_commit(&upstream, "main", &format!("{number}.txt"), b"new");
        let out = update(&server, &target, &["--fresh", "--json"]);
        let json: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
        assert_eq!(json["bundle_applied"], true, "{json}");
        assert!(
            json["age_s"].as_u64().is_some_and(|age_s| age_s < 60),
            "{json}"
        );
        assert_eq!(git::text(&target, &["rev-parse", "HEAD"]), id, "{number}");
        assert_eq!(git::text(&target, &["status", "--porcelain"]), "");
    }
    fs::rename(&upstream, lab.scratch("away")).unwrap_or_else(|e| panic!("{e}"));
    expect(&update(&server, &target, &["--fresh"]), 3);
}

/// A tag or note that was made here, and what only that leads to, is nobody else's: it is named, also once git has
/// packed it, and goes when it may. Those of the upstream are not.
#[test]
fn tags_that_were_made_here_are_kept() {
    let (lab, server, target, clone) = behind();
    let tag = ["tag", "-a", "-m", "x", "v2", "main~1"];
    git::run(&lab.upstream("app"), &tag);
    let id = git::text(&lab.upstream("app"), &["rev-parse", "v2"]);
    let json = format!(r#"{{"refs":{{"refs/tags/v2":"{id}"}}}}"#);
    ensure(&server, "app", &json);
    let before = git::text(&target, &["rev-parse", "HEAD"]);
    let refused = |said: &str| {
        let errors = expect(&update(&server, &target, &[]), 1);
        assert!(errors.contains(said), "{said}: {errors}");
        assert!(errors.contains("--discard-local"), "{errors}");
        assert_eq!(git::text(&target, &["rev-parse", "HEAD"]), before);
    };
    git::run(&target, &["tag", "keepme", &commit_beside(&target)]);
    git::run(&target, &["notes", "add", "-m", "noted"]);
    git::run(&target, &["tag", "-a", "-m", "x", "signed"]);
    let all = "of refs/notes/commits, refs/tags/keepme; push them first; nobody else may have what is no commit and is \
               tagged as refs/tags/signed";
    refused(all);
    git::run(&target, &["pack-refs", "--all"]);
    assert!(!target.join(".git/refs/tags/keepme").exists());
    refused(all);
    git::run(&target, &["tag", "-d", "signed"]);
    git::run(&target, &["notes", "remove", "HEAD"]);
    git::run(&target, &["update-ref", "-d", "refs/notes/commits"]);
    // One on what somebody else has loses nothing.
    git::run(&target, &["tag", "-f", "keepme", &before]);
    expect(&update(&server, &target, &[]), 0);
    expect_files(&clone, &target, "after the tag");
    // All of it is the upstream's, however it is packed.
    assert_eq!(git::text(&target, &["rev-parse", "v2"]), id);
    git::run(&target, &["pack-refs", "--all"]);
    expect(&update(&server, &target, &[]), 0);
    // A run that was to discard a commit was killed: the commit is named all the same.
    let new = git::text(&target, &["rev-parse", "HEAD"]);
    let mine = commit_beside(&target);
    git::run(&target, &["reset", "-q", "--hard", &mine]);
    write(
        &target.join(".git/tarpon-update"),
        &format!("{mine} {new}\n"),
    );
    let errors = expect(&update(&server, &target, &[]), 1);
    assert!(errors.contains("the commits of main"), "{errors}");
    expect(&update(&server, &target, &["--discard-local"]), 0);
    assert_eq!(git::text(&target, &["rev-parse", "HEAD"]), new);
}

/// A name, what is done to a pack and a repository, and what is said of it.
type Damaged<'c> = (&'c str, fn(&Path, &Path), &'c str);

const DAMAGED: [Damaged<'_>; 3] = [
    (
        "pack",
        |pack, _| spoil(pack),
        ".pack is damaged: its checksum",
    ),
    (
        "idx",
        |pack, _| spoil(&pack.with_extension("idx")),
        ".idx is damaged: its checksum",
    ),
    (
        "index",
        |_, git| spoil(&git.join("index")),
        "its index is damaged",
    ),
];

/// What is no working copy, and one whose own files are damaged: neither the server nor its archive is to blame.
#[test]
fn what_cannot_be_built_upon_is_named() {
    let (lab, server, target, clone) = behind();
    let refused = |target: &Path, said: &[&str]| {
        let errors = expect(&update(&server, target, &[]), 1);
        for said in said {
            assert!(errors.contains(said), "{said}: {errors}");
        }
    };
    let files = lab.scratch("files");
    write(&files.join("inner/mine"), "mine");
    refused(
        &files,
        &["no working copy, for it has no .git, and not empty; --overwrite"],
    );
    let shown = target.to_string_lossy().into_owned();
    // Nobody wants these replaced.
    refused(
        &target.join("src"),
        &["a directory of one", &format!("(that is {shown})\n")],
    );
    refused(
        &lab.upstream("app"),
        &["it is a bare repository, without files (name another directory)\n"],
    );
    std::os::unix::fs::symlink(target.join(".git"), files.join(".git")).unwrap();
    refused(&files, &["its .git is a link"]);
    let errors = expect(&restore(server.address(), "test/app", &target, &[]), 1);
    assert!(
        errors.contains("--update brings the working copy"),
        "{errors}"
    );

    expect_no_clone(&server, &target);
    for (name, damage, said) in DAMAGED {
        let copy = copied(&target, &lab, name);
        let git = copy.join(".git");
        damage(&pack_of(&copy), &git);
        let errors = expect(&update(&server, &copy, &["--force"]), 1);
        assert!(
            errors.contains(said) && errors.contains("--overwrite"),
            "{name}: {errors}"
        );
        if name == "index" {
            let head = fs::read(git.join("HEAD")).unwrap();
            fs::remove_file(git.join("HEAD")).unwrap();
            let more = ["--force", "--discard-local"];
            let errors = expect(&update(&server, &copy, &more), 1);
            assert!(errors.contains("--overwrite --discard-local"), "{errors}");
            write(&git.join("HEAD"), &String::from_utf8(head).unwrap());
            fs::remove_file(git.join("index")).unwrap();
            git::run(&copy, &["reset", "--quiet"]);
            expect(&update(&server, &copy, &[]), 0);
        } else {
            let more = ["--overwrite", "--discard-local"];
            expect(&restore(server.address(), "test/app", &copy, &more), 0);
        }
        expect_files(&clone, &copy, name);
        fs::remove_dir_all(&copy).unwrap_or_else(|e| panic!("{e}"));
    }
    expect_not_waited_for(&copied(&target, &lab, "pipe"), &server);
    expect_missing_named(&lab, &server, &clone);
    expect_linked_logs_left(&copied(&target, &lab, "logs"), &lab, &server);
}

/// What logs are elsewhere is nobody's to remove.
fn expect_linked_logs_left(copy: &Path, lab: &Lab, server: &Server) {
    let (logs, precious) = (copy.join(".git/logs"), lab.scratch("precious"));
    write(&precious.join("mine"), "mine");
    if logs.exists() {
        fs::remove_dir_all(&logs).unwrap_or_else(|e| panic!("{e}"));
    }
    std::os::unix::fs::symlink(&precious, &logs).unwrap_or_else(|e| panic!("{e}"));
    let errors = expect(&update(server, copy, &[]), 1);
    assert!(errors.contains(".git/logs is no directory"), "{errors}");
    assert!(precious.join("mine").is_file());
}

/// Has each object of a working copy in a file of its own.
fn unpack(copy: &Path) {
    let pack = pack_of(copy);
    let away = copy.join("../away.pack");
    fs::rename(&pack, &away).unwrap_or_else(|e| panic!("{e}"));
    fs::remove_file(pack.with_extension("idx")).unwrap_or_else(|e| panic!("{e}"));
    let mut unpack = git::command(copy, &["unpack-objects", "-q"]);
    unpack.stdin(fs::File::open(away).unwrap());
    assert!(unpack.status().unwrap().success());
}

/// A pack without an index that has nothing of what is wanted.
const STRAY: &str = "echo stray | git hash-object -w --stdin | git pack-objects -q .git/objects/pack/pack && \
    rm -f .git/objects/pack/*.idx";

/// Older history that is missing, beside a pack that has nothing to do with that.
fn expect_missing_named(lab: &Lab, server: &Server, clone: &Path) {
    let upstream = lab.upstream("app");
    let side = ["commit-tree", "-p", "main~1", "-m", "x", "main~1^{tree}"];
    let side = git::text(&upstream, &side);
    git::run(&upstream, &["branch", "side", &side]);
    let json = format!(r#"{{"refs":{{"refs/heads/side":"{side}"}}}}"#);
    ensure(server, "app", &json);
    git::run(clone, &["config", "remote.origin.url", "https://test/app"]);
    let copy = copied(clone, lab, "missing");
    unpack(&copy);
    let mut stray = Command::new("sh");
    git::isolate(&mut stray).args(["-c", STRAY]);
    assert!(stray.current_dir(&copy).status().unwrap().success());
    let id = git::text(&copy, &["rev-parse", "HEAD~1"]);
    let object = copy.join(".git/objects").join(&id[..2]).join(&id[2..]);
    fs::remove_file(object).unwrap_or_else(|e| panic!("{e}"));
    let errors = expect(&update(server, &copy, &["--ref", "side"]), 1);
    assert!(errors.contains("/.git/objects is damaged: "), "{errors}");
}

/// A clone takes no working copy's place.
fn expect_no_clone(server: &Server, target: &Path) {
    let away = ["--update", "--fallback", "clone", "--by-parts"];
    let away = [&away[..], &["--worktree", "packs"]].concat();
    git::run(target, &["config", "remote.origin.url", "https://test/app"]);
    let errors = expect(&restore(nobody(), "https://test/app", target, &away), 3);
    let said = "--fallback clone is for a directory that is not there";
    assert!(errors.contains(said), "{errors}");
    assert!(
        errors.contains("of no use here: --worktree, --by-parts:"),
        "{errors}"
    );
    for flag in ["--force", "--clean"] {
        let more = ["--overwrite", flag];
        let errors = expect(&restore(nobody(), "test/app", target, &more), 1);
        assert!(errors.contains("cannot be used with"), "{errors}");
    }
    let errors = expect(&update(server, target, &["--ref", "nope"]), 7);
    assert!(
        errors.contains("there is no nope (neither as a branch nor as a tag"),
        "{errors}"
    );
}

/// What somebody has put beside the packs, and never gives anything.
fn expect_not_waited_for(copy: &Path, server: &Server) {
    // What would be lost is to be looked at.
    let mine = commit_beside(copy);
    git::run(copy, &["reset", "-q", "--hard", &mine]);
    let pipe = copy.join(".git/objects/pack/pack-x.pack");
    write(&pipe.with_extension("idx"), "x");
    let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU);
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, kind, mode, 0).unwrap();
    expect(&update(server, copy, &[]), 1);
}

/// The pack of a working copy that has one.
fn pack_of(copy: &Path) -> PathBuf {
    let listing = fs::read_dir(copy.join(".git/objects/pack")).unwrap();
    let mut packs = listing.flatten().map(|entry| entry.path());
    packs
        .find(|path| path.extension().is_some_and(|end| end == "pack"))
        .unwrap()
}

/// Changes what is in the middle of a file.
fn spoil(path: &Path) {
    let mut bytes = fs::read(path).unwrap_or_else(|e| panic!("{e}"));
    let end = bytes.len() - 20;
    bytes[20..end].iter_mut().for_each(|byte| *byte ^= 0x55);
    let mode = fs::metadata(path).unwrap().permissions();
    drop(fs::remove_file(path));
    fs::write(path, bytes).unwrap_or_else(|e| panic!("{e}"));
    fs::set_permissions(path, mode).unwrap_or_else(|e| panic!("{e}"));
}
