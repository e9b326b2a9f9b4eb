//! The dates of a restored working copy: one for all files, a later one for the index, whichever way
//! the files came, and with every git that compares them.

use crate::bundle::{self, large};
use crate::lab::{expect, new_lab, nobody, restore};
use crate::support::steps::{hit, push_and_fetch};
use crate::support::{git, repos};
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

fn now_s() -> i64 {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since_1970.unwrap_or_else(|e| panic!("{e}")).as_secs() as i64
}

/// Panics unless all files of `restored` have the date of a restore that began at `began_s` or
/// since then, and the index the second after it.
fn expect_dates(restored: &Path, began_s: i64, context: &str) {
    let index = fs::symlink_metadata(restored.join(".git/index"));
    let index_s = index.unwrap_or_else(|e| panic!("{e}")).mtime();
    assert!(index_s >= began_s && index_s <= now_s(), "{context}");
    let listed = git::run(restored, &["ls-files", "-z"]);
    let paths = listed.split(|b| *b == 0).filter(|path| !path.is_empty());
    let mut count = 0;
    for path in paths {
        let path = restored.join(std::ffi::OsStr::new(
            std::str::from_utf8(path).unwrap_or("run.sh"),
        ));
        let found = fs::symlink_metadata(&path).unwrap_or_else(|e| panic!("{path:?}: {e}"));
        if !found.is_dir() {
            let date = (found.mtime(), found.mtime_nsec());
            assert_eq!(date, (index_s - 1, 0), "{context}: {path:?}");
            count += 1;
        }
    }
    assert!(count > 3, "{context}");
    let stale = git::text(restored, &["diff-files", "--name-only"]);
    assert_eq!(stale, "", "{context}");
}

/// Every git of this machine.
fn gits() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let all = std::env::split_paths(&path).map(|directory| directory.join("git"));
    all.filter(|git| git.is_file()).collect()
}

/// Panics unless `restored` is clean, then changes one file, to a content of equal size, and panics
/// unless each git sees that.
fn expect_edit_is_seen(restored: &Path, file: &str, context: &str) {
    let status = |program: &Path| {
        let mut command = Command::new(program);
        git::isolate(&mut command).arg("-C").arg(restored);
        command.args(["status", "--porcelain"]);
        let out = command
            .output()
            .unwrap_or_else(|e| panic!("{program:?}: {e}"));
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    let path = restored.join(file);
    let mut content = fs::read(&path).unwrap_or_else(|e| panic!("{path:?}: {e}"));
    content[0] ^= 1;
    fs::write(&path, content).unwrap_or_else(|e| panic!("{path:?}: {e}"));
    for program in gits() {
        assert_eq!(
            status(&program),
            format!(" M {file}\n"),
            "{context} {program:?}"
        );
    }
}

#[test]
fn all_files_have_one_date_and_the_index_a_later_one() {
    let lab = new_lab();
    let server = lab.start();
    let old = git::text(&lab.upstream("app"), &["rev-parse", "main"]);
    hit(&server, "app");
    let new = repos::add_commit(&lab.upstream("app"), "main", "src/new.c", b"new");
    let url = lab.url("app");
    let way = |name: &str, more: &[&str]| {
        let target = lab.scratch(name);
        let began_s = now_s();
        let (address, repository) = match name {
            "clone" => (nobody(), &*url),
            _ => (server.address(), "test/app"),
        };
        expect(&restore(address, repository, &target, more), 0);
        expect_dates(&target, began_s, name);
        expect_edit_is_seen(&target, "run.sh", name);
    };
    way("plain", &["--no-bundle"]);
    way("commit", &["--commit", &new]);
    way("older", &["--commit", &old]);
    way("clone", &["--fallback", "clone"]);
    way("plain", &["--overwrite", "--commit", &new]);
}

#[test]
fn files_that_a_bundle_changes_have_that_date_too() {
    let lab = bundle::small_lab();
    let server = bundle::start(&lab);
    hit(&server, "small");
    push_and_fetch(&lab, &server, "small", "large.bin", &large());
    let began_s = now_s();
    let (restored, summary, _) = bundle::run(&lab, server.address(), "bundle", &[]);
    assert_eq!(summary["bundle_applied"], true);
    expect_dates(&restored, began_s, "bundle");
    expect_edit_is_seen(&restored, "large.bin", "bundle");
}

/// What was built from an older checkout is older than what came with the new one.
#[test]
fn make_takes_restored_sources_for_new() {
    let lab = new_lab();
    let server = lab.start();
    let target = lab.scratch("built");
    expect(&restore(server.address(), "test/app", &target, &[]), 0);
    let built = target.join("built.o");
    let file = File::create(&built).unwrap_or_else(|e| panic!("{e}"));
    // Long after any commit.
    let before = SystemTime::now() - Duration::from_secs(60);
    file.set_modified(before).unwrap_or_else(|e| panic!("{e}"));
    let new = repos::add_commit(&lab.upstream("app"), "main", "src/d0/f0.c", b"new");
    let more = ["--overwrite", "--commit", &*new];
    expect(&restore(server.address(), "test/app", &target, &more), 0);
    let date = |path: &Path| fs::metadata(path).and_then(|found| found.modified());
    let source = date(&target.join("src/d0/f0.c"));
    let (source, built) = (source.ok(), date(&built).ok());
    assert!(source > built, "{source:?} {built:?}");
}
