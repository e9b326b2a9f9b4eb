//! `--overwrite`: what nobody else has of the old repository is not lost, nothing of that is run, and
//! a restore that fails changes nothing.

use crate::lab::{Running, expect, new_lab, restore, staged};
use crate::support::lab::Lab;
use crate::support::relay::listen;
use crate::support::server::Server;
use crate::support::{git, repos, wait};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

fn overwrite(server: &Server, target: &Path, more: &[&str]) -> Output {
    let more = [&["--overwrite"], more].concat();
    restore(server.address(), "test/app", target, &more)
}

/// A restored checkout.
fn restored(lab: &Lab, server: &Server, name: &str) -> PathBuf {
    let target = lab.scratch(name);
    expect(&restore(server.address(), "test/app", &target, &[]), 0);
    target
}

/// Commits a new file in `target`.
fn commit(target: &Path, name: &str) -> String {
    fs::write(target.join(name), name).unwrap_or_else(|e| panic!("{e}"));
    git::run(target, &["add", "--", name]);
    git::run(target, &["commit", "--quiet", "-m", name]);
    git::text(target, &["rev-parse", "HEAD"])
}

/// All that is in `target`: kind, mode, inode, date and content of every path.
pub fn everything(target: &Path) -> BTreeMap<PathBuf, String> {
    let mut all = BTreeMap::new();
    let mut pending = vec![target.to_owned()];
    while let Some(path) = pending.pop() {
        let found = fs::symlink_metadata(&path).unwrap_or_else(|e| panic!("{path:?}: {e}"));
        let content = match found.is_file() {
            true => fs::read(&path).unwrap_or_default(),
            false => Vec::new(),
        };
        if found.is_dir() {
            let listing = fs::read_dir(&path).unwrap_or_else(|e| panic!("{path:?}: {e}"));
            pending.extend(listing.flatten().map(|entry| entry.path()));
        }
        let dated = if found.is_dir() { 0 } else { found.mtime() };
        let sum = gix::hash::hasher(gix::hash::Kind::Sha1);
        let mut sum = sum;
        sum.update(&content);
        let sum = sum.try_finalize().unwrap_or_else(|e| panic!("{e}"));
        let what = format!("{:o} {} {dated} {sum}", found.mode(), found.ino());
        all.insert(path, what);
    }
    all
}

#[test]
fn two_pull_requests_in_a_row() {
    let lab = new_lab();
    let server = lab.start();
    let upstream = lab.upstream("app");
    let mut ids = Vec::new();
    for number in 1..=2 {
        let branch = format!("pr{number}");
        git::run(&upstream, &["branch", &branch, "main"]);
        let id = repos::add_commit(&upstream, &branch, "pr.txt", branch.as_bytes());
        let pull = format!("refs/pull/{number}/head");
        git::run(&upstream, &["update-ref", &pull, &id]);
        git::run(&upstream, &["branch", "-D", &branch]);
        ids.push(id);
    }
    git::run(
        &upstream,
        &["config", "uploadpack.allowAnySHA1InWant", "true"],
    );
    let target = restored(&lab, &server, "target");
    for id in ids.iter().chain(&ids) {
        expect(&overwrite(&server, &target, &["--commit", id]), 0);
        assert_eq!(git::text(&target, &["rev-parse", "HEAD"]), *id);
        let noted = fs::read_to_string(target.join(".git/tarpon-restored"));
        assert_eq!(noted.unwrap_or_default().lines().next(), Some(&**id));
        assert_eq!(git::text(&target, &["status", "--porcelain"]), "");
    }
}

#[test]
fn what_only_the_old_repository_has_is_named_and_kept() {
    let lab = new_lab();
    let server = lab.start();
    let kinds: [Kind; 5] = [
        (
            "ahead",
            |target| drop(commit(target, "mine.txt")),
            &["main"],
        ),
        (
            "branch",
            |target| {
                git::run(target, &["checkout", "--quiet", "-b", "topic/a"]);
                commit(target, "mine.txt");
                git::run(target, &["checkout", "--quiet", "main"]);
            },
            &["topic/a"],
        ),
        (
            "detached",
            |target| {
                git::run(target, &["checkout", "--quiet", "--detach"]);
                commit(target, "mine.txt");
            },
            &["HEAD"],
        ),
        (
            "stash",
            |target| {
                for text in ["one", "two"] {
                    fs::write(target.join("run.sh"), text).unwrap_or_else(|e| panic!("{e}"));
                    git::run(target, &["stash", "--quiet"]);
                }
            },
            &["stash@{0}, stash@{1}; apply", "git stash drop"],
        ),
        (
            "packed",
            |target| {
                commit(target, "mine.txt");
                git::run(target, &["gc", "--quiet"]);
                git::run(
                    target,
                    &["checkout", "--quiet", "-b", "other", "origin/main"],
                );
            },
            &["main"],
        ),
    ];
    expect_kept(&lab, &server, &kinds);
}

#[test]
fn what_was_added_is_named_and_kept() {
    let lab = new_lab();
    let server = lab.start();
    let kinds: [Kind; 2] = [
        (
            "added",
            |target| {
                fs::write(target.join("src/new.c"), "new").unwrap_or_else(|e| panic!("{e}"));
                fs::write(target.join("run.sh"), "changed").unwrap_or_else(|e| panic!("{e}"));
                git::run(target, &["add", "src/new.c", "run.sh"]);
            },
            &["added of run.sh, src/new.c; commit and push it first"],
        ),
        (
            "added, detached",
            |target| {
                git::run(target, &["checkout", "--quiet", "--detach"]);
                fs::write(target.join("run.sh"), "changed").unwrap_or_else(|e| panic!("{e}"));
                git::run(target, &["update-index", "--index-version", "4"]);
                git::run(target, &["add", "run.sh"]);
                git::run(target, &["pack-refs", "--all"]);
            },
            &["added of run.sh"],
        ),
    ];
    expect_kept(&lab, &server, &kinds);
}

/// A name, what is done to a target, and what an error about it names.
type Kind<'k> = (&'k str, fn(&Path), &'k [&'k str]);

fn expect_kept(lab: &Lab, server: &Server, kinds: &[Kind<'_>]) {
    for (name, prepare, named) in kinds.iter().copied() {
        let target = restored(lab, server, name);
        prepare(&target);
        let before = everything(&target);
        let errors = expect(&overwrite(server, &target, &[]), 1);
        for named in named {
            assert!(errors.contains(named), "{name}: {errors}");
        }
        assert!(errors.contains("--discard-local"), "{name}: {errors}");
        assert_eq!(everything(&target), before, "{name}");
        expect(&overwrite(server, &target, &["--discard-local"]), 0);
        let upstream = git::text(&lab.upstream("app"), &["rev-parse", "main"]);
        assert_eq!(git::text(&target, &["rev-parse", "HEAD"]), upstream);
        assert_eq!(git::text(&target, &["stash", "list"]), "");
    }
}

#[test]
fn what_somebody_else_has_is_replaced_without_a_word() {
    let lab = new_lab();
    let server = lab.start();
    let target = restored(&lab, &server, "target");
    commit(&target, "pushed.txt");
    // As if it had been pushed, and one tagged.
    git::run(&target, &["update-ref", "refs/remotes/fork/topic", "HEAD"]);
    git::run(&target, &["tag", "mine"]);
    // Nothing that was added: an edit.
    fs::write(target.join("run.sh"), "changed").unwrap_or_else(|e| panic!("{e}"));
    git::run(&target, &["update-index", "--split-index"]);
    expect(&overwrite(&server, &target, &[]), 0);
    // A clone that is shallow, as checkouts of build farms are.
    let second = repos::add_commit(&lab.upstream("app"), "main", "second.txt", b"2");
    let shallow = lab.scratch("shallow");
    let url = lab.url("app");
    let into = shallow.to_string_lossy();
    git::run(
        &lab.scratch(""),
        &["clone", "--quiet", "--depth", "1", &url, &into],
    );
    let second = format!("main={second}");
    expect(&overwrite(&server, &shallow, &["--ref", &second]), 0);
    assert!(shallow.join("second.txt").exists());
    commit(&shallow, "mine.txt");
    let errors = expect(&overwrite(&server, &shallow, &[]), 1);
    assert!(errors.contains("main"), "{errors}");
}

/// As git refuses it, whatever else the file is in: an older commit than what comes has it not, or it
/// is no longer tracked.
#[test]
fn a_file_that_nobody_tracks_is_not_replaced_by_one_that_comes() {
    let lab = new_lab();
    let server = lab.start();
    let upstream = lab.upstream("app");
    let old = git::text(&upstream, &["rev-parse", "main"]);
    let new = repos::add_commit(&upstream, "main", "src/new", b"theirs");
    let target = restored(&lab, &server, "target");
    let newest = format!("main={new}");
    expect(&overwrite(&server, &target, &["--ref", &newest]), 0);
    expect(&overwrite(&server, &target, &["--commit", &old]), 0);
    fs::write(target.join("src/new"), "mine").unwrap_or_else(|e| panic!("{e}"));
    fs::write(target.join("other"), "mine").unwrap_or_else(|e| panic!("{e}"));
    // It is in nobody's way there, though the archive has it.
    expect(&overwrite(&server, &target, &["--commit", &old]), 0);
    let is_kept = |path: &str, more: &[&str]| {
        let before = everything(&target);
        let errors = expect(&overwrite(&server, &target, more), 1);
        let named = target.join(path).to_string_lossy().into_owned();
        assert!(errors.contains(&named), "{errors}");
        assert!(errors.contains("is not tracked"), "{errors}");
        assert!(errors.contains("--discard-local"), "{errors}");
        assert_eq!(everything(&target), before);
    };
    is_kept("src/new", &["--ref", &newest]);
    let discard = ["--discard-local", "--ref", &newest];
    expect(&overwrite(&server, &target, &discard), 0);
    let content = |path: &str| fs::read_to_string(target.join(path)).unwrap_or_default();
    assert_eq!([content("src/new"), content("other")], ["theirs", "mine"]);
    git::run(&target, &["rm", "--quiet", "--cached", "big.bin"]);
    is_kept("big.bin", &[]);
    expect(&overwrite(&server, &target, &["--discard-local"]), 0);
    assert_eq!(git::text(&target, &["status", "--porcelain"]), "?? other");
}

/// A linked worktree is of no use without the repository.
#[test]
fn a_repository_with_linked_worktrees_is_kept() {
    let lab = new_lab();
    let server = lab.start();
    let target = restored(&lab, &server, "target");
    let [gone, linked] = ["gone", "linked"].map(|name| {
        let path = lab.scratch(name);
        let shown = path.to_string_lossy();
        let add = ["worktree", "add", "--quiet", "--detach"];
        git::run(&target, &[&add[..], &[&shown]].concat());
        path
    });
    fs::remove_dir_all(&gone).unwrap_or_else(|e| panic!("{e}"));
    let before = everything(&target);
    let errors = expect(&overwrite(&server, &target, &[]), 1);
    assert!(errors.contains(&*linked.to_string_lossy()), "{errors}");
    assert!(!errors.contains(&*gone.to_string_lossy()), "{errors}");
    assert!(errors.contains("git worktree remove"), "{errors}");
    assert!(errors.contains("--discard-local"), "{errors}");
    assert!(everything(&target) == before);
    assert_eq!(git::text(&linked, &["status", "--porcelain"]), "");
    // One that is on a disk that may come back.
    git::run(&target, &["worktree", "prune"]);
    let shown = linked.to_string_lossy();
    git::run(&target, &["worktree", "lock", &shown]);
    fs::remove_dir_all(&linked).unwrap_or_else(|e| panic!("{e}"));
    expect(&overwrite(&server, &target, &[]), 1);
    git::run(&target, &["worktree", "unlock", &shown]);
    expect(&overwrite(&server, &target, &[]), 0);
    git::run(&target, &["worktree", "add", "--quiet", "--detach", &shown]);
    expect(&overwrite(&server, &target, &["--discard-local"]), 0);
}

/// The upstream of a submodule.
fn new_sub(lab: &Lab) -> PathBuf {
    let upstream = lab.upstream("sub");
    repos::init_bare(&upstream, "main", "sha1");
    let mut import = repos::Importer::start(&upstream, repos::Layout::Packed);
    import.commit("refs/heads/main", "first");
    import.file(repos::FILE, b"a", b"a");
    import.finish();
    upstream
}

/// A checkout with the submodule `lib/x`, which has nothing of its own.
fn with_submodule(lab: &Lab, server: &Server, name: &str) -> PathBuf {
    let target = restored(lab, server, name);
    let url = lab.url("sub");
    let add = ["-c", "protocol.file.allow=always", "submodule", "--quiet"];
    git::run(&target, &[&add[..], &["add", &url, "lib/x"]].concat());
    // An edit of nobody's interest.
    git::run(&target, &["reset", "--quiet", "--", ".gitmodules"]);
    target
}

/// Where it is: with its repository in that of the checkout.
fn submodule(target: &Path) -> PathBuf {
    target.join("lib/x")
}

#[test]
fn a_submodule_that_has_nothing_of_its_own_is_replaced_without_a_word() {
    let lab = new_lab();
    let server = lab.start();
    let upstream = new_sub(&lab);
    let first = git::text(&upstream, &["rev-parse", "main"]);
    let hidden = repos::add_commit(&upstream, "main", "b", b"b");
    git::run(&upstream, &["update-ref", "refs/heads/main", &first]);
    let allow = ["config", "uploadpack.allowAnySHA1InWant", "true"];
    git::run(&upstream, &allow);

    let clean = with_submodule(&lab, &server, "clean");
    assert!(clean.join(".git/modules/lib/x/HEAD").exists());
    expect(&overwrite(&server, &clean, &[]), 0);
    // As `git submodule update` has it where no branch leads to what the commit says.
    let pinned = with_submodule(&lab, &server, "pinned");
    let fetch = ["-c", "protocol.file.allow=always", "fetch", "--quiet"];
    git::run(
        &submodule(&pinned),
        &[&fetch[..], &["origin", &hidden]].concat(),
    );
    git::run(&submodule(&pinned), &["checkout", "--quiet", &hidden]);
    expect(&overwrite(&server, &pinned, &[]), 0);
}

type Prepare = fn(&Path);

/// What is done to a checkout with a submodule, and what is then said of it.
const SUBMODULES: [(&str, Prepare, &str); 6] = [
    (
        "branch",
        |target| drop(commit(&submodule(target), "mine.txt")),
        "main of its submodule lib/x",
    ),
    (
        "detached",
        |target| {
            git::run(&submodule(target), &["checkout", "--quiet", "--detach"]);
            commit(&submodule(target), "mine.txt");
        },
        "HEAD of its submodule lib/x",
    ),
    (
        "stash",
        |target| {
            fs::write(submodule(target).join("a"), "mine").unwrap_or_else(|e| panic!("{e}"));
            git::run(&submodule(target), &["stash", "--quiet"]);
        },
        "stash@{0} of its submodule lib/x",
    ),
    (
        "nested",
        |target| {
            commit(&submodule(target), "mine.txt");
            let modules = target.join(".git/modules");
            fs::rename(modules.join("lib"), target.join("lib/away"))
                .and_then(|()| fs::create_dir_all(modules.join("y/modules")))
                .and_then(|()| fs::create_dir_all(modules.join("y/objects")))
                .and_then(|()| fs::create_dir_all(modules.join("y/refs")))
                .and_then(|()| fs::write(modules.join("y/HEAD"), "ref: refs/heads/main\n"))
                .and_then(|()| fs::rename(target.join("lib/away"), modules.join("y/modules/z")))
                .unwrap_or_else(|e| panic!("{e}"));
        },
        "main of its submodule y/z/x",
    ),
    (
        "damaged",
        |target| drop(fs::write(target.join(".git/modules/lib/x/HEAD"), "what")),
        "of its submodule lib/x its refs cannot be read",
    ),
    (
        "link",
        |target| {
            let modules = target.join(".git/modules");
            fs::rename(modules.join("lib"), target.join("away"))
                .and_then(|()| std::os::unix::fs::symlink("../../away", modules.join("lib")))
                .unwrap_or_else(|e| panic!("{e}"));
        },
        "it is a link",
    ),
];

#[test]
fn what_only_a_submodule_has_is_named_and_kept() {
    let lab = new_lab();
    let server = lab.start();
    new_sub(&lab);
    for (name, prepare, named) in SUBMODULES {
        let target = with_submodule(&lab, &server, name);
        prepare(&target);
        let before = everything(&target);
        let errors = expect(&overwrite(&server, &target, &[]), 1);
        assert!(errors.contains(named), "{name}: {errors}");
        assert!(errors.contains("--discard-local"), "{name}: {errors}");
        assert_eq!(everything(&target), before, "{name}");
        expect(&overwrite(&server, &target, &["--discard-local"]), 0);
        assert!(!target.join(".git/modules").exists(), "{name}");
    }
}

/// One that is in the submodule's own directory, as git made them once, is not replaced at all.
#[test]
fn a_repository_in_the_directory_of_a_submodule_stays() {
    let lab = new_lab();
    let server = lab.start();
    new_sub(&lab);
    let target = restored(&lab, &server, "target");
    // `module` is a submodule of what comes, too; `other` is not.
    for name in ["module", "other"] {
        git::clone(&lab.url("sub"), &target.join(name));
        commit(&target.join(name), "mine.txt");
        fs::write(target.join(name).join("a"), "mine").unwrap_or_else(|e| panic!("{e}"));
        git::run(&target.join(name), &["stash", "--quiet"]);
    }
    git::run(&target, &["add", "module", "other"]);
    let look = || ["module", "other"].map(|name| everything(&target.join(name)));
    let before = look();
    expect(&overwrite(&server, &target, &[]), 0);
    assert_eq!(look(), before);
    expect(&overwrite(&server, &target, &["--discard-local"]), 0);
    assert_eq!(look(), before);
}

/// Before the server is asked for anything.
#[test]
fn what_can_be_known_is_refused_before_the_download() {
    let lab = new_lab();
    let server = lab.start();
    let target = restored(&lab, &server, "target");
    commit(&target, "mine.txt");
    let before = everything(&target);
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let silent = listen(move |_| {
        count.fetch_add(1, Ordering::Relaxed);
    });
    let run = |more: &[&str]| restore(silent, "test/app", &target, more);
    for more in [
        &["--overwrite"][..],
        &["--overwrite", "--fallback", "clone"],
        &["--overwrite", "--ref", "main"],
    ] {
        let errors = expect(&run(more), 1);
        assert!(errors.contains("commits of main"), "{errors}");
    }
    assert_eq!(asked.load(Ordering::Relaxed), 0);
    assert_eq!(everything(&target), before);
    expect(&run(&["--overwrite", "--discard-local"]), 3);
    assert!(asked.load(Ordering::Relaxed) > 0);
    assert_eq!(everything(&target), before);
}

/// What is in the way is known before the files of the archive have come.
#[test]
fn untracked_files_in_the_way_are_refused_when_the_first_of_them_comes() {
    let lab = new_lab();
    let server = lab.start();
    let whole = crate::lab::archive(&lab, &server);
    let target = lab.scratch("target");
    let put = |path: &str| {
        let path = target.join(path);
        fs::create_dir_all(path.parent().unwrap_or(&target))
            .and_then(|()| fs::write(path, "mine"))
            .unwrap_or_else(|e| panic!("{e}"));
    };
    // A file and a link in the place of a directory, and directories in the places of files.
    for (number, in_the_way) in ["src", "src/d0", "big.bin/below", "run.sh/a/b"]
        .iter()
        .enumerate()
    {
        drop(fs::remove_dir_all(&target));
        put(in_the_way);
        put("other");
        // The archive has no end; what is behind the files' beginning never comes.
        let cut = whole.len() - 1;
        let endless = crate::lab::serve(whole.clone(), move |_| Some(cut));
        let before = everything(&target);
        let errors = expect(&restore(endless, "test/app", &target, &["--overwrite"]), 1);
        let named = target.join(in_the_way).to_string_lossy().into_owned();
        assert!(errors.contains(&named), "{number}: {errors}");
        assert!(
            errors.contains("is not tracked and would be lost"),
            "{errors}"
        );
        assert_eq!(everything(&target), before);
    }
}

/// An index of more than 64 MiB and as many refs as a large repository has.
#[test]
fn a_repository_of_any_size_is_overwritten() {
    const FILES: usize = 700_000;
    const REFS: usize = 300_000;
    let lab = new_lab();
    let server = lab.start();
    let target = restored(&lab, &server, "target");
    let id = git::text(&target, &["rev-parse", "HEAD"]);
    let path = |number: usize| {
        format!(
            "directory-{:03}/part-{}/file-{number:07}.rs",
            number / 1000,
            number % 2
        )
    };
    let paths = (0..FILES).map(|number| format!("100644 {id} 0\t{}\n", path(number)));
    let list = paths.collect::<String>();
    let file = lab.scratch("list");
    fs::write(&file, list).unwrap_or_else(|e| panic!("{e}"));
    let mut update = git::command(&target, &["update-index", "--index-info"]);
    let list = fs::File::open(&file).unwrap_or_else(|e| panic!("{e}"));
    assert!(
        update
            .stdin(list)
            .status()
            .is_ok_and(|status| status.success())
    );
    let index = target.join(".git/index");
    assert!(fs::metadata(&index).is_ok_and(|found| found.len() > 64 << 20));
    let packed = (0..REFS).map(|number| format!("{id} refs/tags/v{number:030}\n"));
    let packed: String = std::iter::once("# pack-refs with: peeled fully-peeled sorted \n".into())
        .chain(packed)
        .collect();
    assert!(packed.len() > 16 << 20);
    fs::write(target.join(".git/packed-refs"), packed).unwrap_or_else(|e| panic!("{e}"));
    let write = |path: &str| {
        let path = target.join(path);
        fs::create_dir_all(path.parent().unwrap_or(&target))
            .and_then(|()| fs::write(path, "x"))
            .unwrap_or_else(|e| panic!("{e}"));
    };
    let stale = [0, FILES / 2, FILES - 1].map(path);
    stale.iter().for_each(|path| write(path));
    write("directory-000/mine");
    let errors = expect(&overwrite(&server, &target, &[]), 1);
    assert!(
        errors.contains("added of directory-000/part-0/"),
        "{errors}"
    );
    expect(&overwrite(&server, &target, &["--discard-local"]), 0);
    for path in stale {
        assert!(!target.join(path).exists());
    }
    assert!(!target.join("directory-699").exists());
    let status = git::text(&target, &["status", "--porcelain"]);
    assert_eq!(status, "?? directory-000/");
    assert_eq!(git::text(&target, &["tag"]), "");
}

/// Where it cannot be told what would be lost, nothing is.
#[test]
fn an_old_repository_that_cannot_be_read_is_kept() {
    let lab = new_lab();
    let server = lab.start();
    type Damage = fn(&Path);
    let kinds: [(&str, Damage); 3] = [
        ("head", |git| drop(fs::write(git.join("HEAD"), "what"))),
        ("shallow", |git| {
            drop(fs::write(git.join("shallow"), "what\n"))
        }),
        ("reftable", |git| drop(fs::create_dir(git.join("reftable")))),
    ];
    for (name, damage) in kinds {
        let target = restored(&lab, &server, name);
        damage(&target.join(".git"));
        let before = everything(&target);
        let errors = expect(&overwrite(&server, &target, &[]), 1);
        assert!(errors.contains("--discard-local"), "{name}: {errors}");
        assert_eq!(everything(&target), before, "{name}");
        expect(&overwrite(&server, &target, &["--discard-local"]), 0);
        assert_eq!(git::text(&target, &["status", "--porcelain"]), "");
    }
}

/// Whoever opens a pipe waits for somebody who writes into it.
#[test]
fn pipes_where_objects_are_hold_nobody_up() {
    let lab = new_lab();
    let server = lab.start();
    let pipe = |path: &Path| {
        let made = mknodat(CWD, path, FileType::Fifo, Mode::RWXU, 0);
        made.unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    };
    for name in ["pack", "object", "link"] {
        let target = restored(&lab, &server, name);
        let id = commit(&target, "mine.txt");
        let objects = target.join(".git/objects");
        let object = objects.join(&id[..2]).join(&id[2..]);
        let pack = objects
            .join("pack")
            .join(format!("pack-{}", "0".repeat(40)));
        match name {
            "pack" => {
                fs::write(pack.with_extension("pack"), "").unwrap_or_else(|e| panic!("{e}"));
                pipe(&pack.with_extension("idx"));
            }
            "object" => {
                fs::remove_file(&object).unwrap_or_else(|e| panic!("{e}"));
                pipe(&object);
            }
            _ => {
                fs::remove_file(&object).unwrap_or_else(|e| panic!("{e}"));
                pipe(&target.join("pipe"));
                let linked = std::os::unix::fs::symlink(target.join("pipe"), &object);
                linked.unwrap_or_else(|e| panic!("{e}"));
            }
        }
        let before = everything(&target);
        let address = server.address();
        let mut running = Running::start(address, "test/app", &target, &["--overwrite"]);
        let mut code = None;
        wait::until_true("the restore ends", || {
            let ended = running.0.try_wait().unwrap_or_else(|e| panic!("{e}"));
            code = ended.and_then(|status| status.code());
            ended.is_some()
        });
        // What they were cannot be told.
        assert_eq!(code, Some(1), "{name}");
        assert_eq!(everything(&target), before, "{name}");
        expect(&overwrite(&server, &target, &["--discard-local"]), 0);
        assert_eq!(
            fs::read(target.join("run.sh")).ok().as_deref(),
            Some(&b"#!/bin/sh\n"[..])
        );
    }
}

/// Whatever it is configured to run, and whatever it says that its objects are.
#[test]
fn nothing_of_the_old_repository_is_run_or_believed() {
    let lab = new_lab();
    let server = lab.start();
    let target = restored(&lab, &server, "target");
    let pushed = git::text(&target, &["rev-parse", "HEAD"]);
    let mine = commit(&target, "mine.txt");
    let ran = lab.scratch("ran");
    let script = lab.scratch("script");
    let text = format!("#!/bin/sh\necho \"$0 $*\" >> {}\n", ran.display());
    fs::write(&script, text).unwrap_or_else(|e| panic!("{e}"));
    let mode = fs::Permissions::from_mode(0o755);
    fs::set_permissions(&script, mode).unwrap_or_else(|e| panic!("{e}"));
    let git_dir = target.join(".git");
    fs::create_dir_all(git_dir.join("hooks")).unwrap_or_else(|e| panic!("{e}"));
    for hook in [
        "post-index-change",
        "post-checkout",
        "reference-transaction",
    ] {
        fs::copy(&script, git_dir.join("hooks").join(hook)).unwrap_or_else(|e| panic!("{e}"));
    }
    let script = script.display();
    let config = format!(
        "[core]\n\trepositoryformatversion = 1\n\tfsmonitor = {script}\n\tsshCommand = {script}\n\
         \tpager = {script}\n\tworktree = /\n\talternateRefsCommand = {script}\n\
         [extensions]\n\tpartialClone = origin\n[remote \"origin\"]\n\tpromisor = true\n\
         \turl = ext::{script}\n\tuploadpack = {script}\n[filter \"x\"]\n\tclean = {script}\n\
         \tprocess = {script}\n"
    );
    fs::write(git_dir.join("config"), config).unwrap_or_else(|e| panic!("{e}"));
    fs::write(target.join(".gitattributes"), "* filter=x\n").unwrap_or_else(|e| panic!("{e}"));
    // By its own word the commit is that of the upstream, or has no parents that were not pushed.
    let replace = git_dir.join("refs/replace");
    fs::create_dir_all(&replace).unwrap_or_else(|e| panic!("{e}"));
    fs::write(replace.join(&mine), format!("{pushed}\n")).unwrap_or_else(|e| panic!("{e}"));
    fs::write(git_dir.join("info/grafts"), format!("{pushed} {mine}\n"))
        .unwrap_or_else(|e| panic!("{e}"));
    let before = everything(&target);
    let errors = expect(&overwrite(&server, &target, &[]), 1);
    assert!(errors.contains("main"), "{errors}");
    assert_eq!(everything(&target), before);
    expect(&overwrite(&server, &target, &["--discard-local"]), 0);
    let ran = fs::read_to_string(&ran).unwrap_or_default();
    assert_eq!(ran, "");
}

/// A step in the middle of putting the files in place fails.
#[test]
fn an_overwrite_that_fails_is_undone() {
    if rustix::process::geteuid().is_root() {
        // Root may write anywhere; a file that must not be changed stands in the way of it, too.
        let lab = new_lab();
        let server = lab.start();
        let target = restored(&lab, &server, "target");
        let pinned = target.join("src/d3/f3.c");
        let set = |flag: &str| {
            let status = std::process::Command::new("chattr")
                .arg(flag)
                .arg(&pinned)
                .status();
            status.is_ok_and(|status| status.success())
        };
        if !set("+i") {
            println!("not tested: no file can be made unchangeable here");
            return;
        }
        repos::add_commit(&lab.upstream("app"), "main", "src/d3/f3.c", b"new");
        let new = repos::add_commit(&lab.upstream("app"), "main", "big.bin", b"new");
        let new = format!("main={new}");
        let before = everything(&target);
        let out = overwrite(&server, &target, &["--ref", &new]);
        let after = everything(&target);
        assert!(set("-i"));
        expect(&out, 4);
        assert_eq!(after, before);
        assert_eq!(staged(&target), Vec::<PathBuf>::new());
        expect(&overwrite(&server, &target, &["--ref", &new]), 0);
        assert_eq!(git::text(&target, &["status", "--porcelain"]), "");
    }
}

#[test]
fn a_link_to_an_empty_directory_is_filled_as_git_does() {
    let lab = new_lab();
    let server = lab.start();
    let (real, link) = (lab.scratch("real"), lab.scratch("link"));
    fs::create_dir(&real).unwrap_or_else(|e| panic!("{e}"));
    std::os::unix::fs::symlink("real", &link).unwrap_or_else(|e| panic!("{e}"));
    expect(&restore(server.address(), "test/app", &link, &[]), 0);
    assert!(link.is_symlink() && real.join("run.sh").exists());
    assert_eq!(git::text(&link, &["status", "--porcelain"]), "");
    // It is not empty any more.
    expect(&restore(server.address(), "test/app", &link, &[]), 1);
    expect(&overwrite(&server, &link, &[]), 0);
    assert!(link.is_symlink());
    let dangling = lab.scratch("dangling");
    std::os::unix::fs::symlink("nowhere", &dangling).unwrap_or_else(|e| panic!("{e}"));
    expect(&restore(server.address(), "test/app", &dangling, &[]), 1);
    assert!(dangling.is_symlink());
}
