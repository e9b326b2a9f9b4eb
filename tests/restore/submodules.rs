//! `--overwrite` of a working copy with submodules: they can be had again afterwards.

use crate::lab::{expect, staged};
use crate::overwrite::everything;
use crate::support::lab::Lab;
use crate::support::server::Server;
use crate::support::{git, repos};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

/// Runs git where it may clone submodules from this machine.
pub fn run(directory: &Path, args: &[&str]) -> String {
    let allow = ["-c", "protocol.file.allow=always"];
    git::text(directory, &[&allow[..], args].concat())
}

fn write(path: &Path, text: &str) {
    let parent = path.parent().unwrap_or(path);
    fs::create_dir_all(parent)
        .and_then(|()| fs::write(path, text))
        .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}

/// Makes the upstream `name` with a few files and submodules; gives where it was made.
fn new_upstream(lab: &Lab, name: &str, submodules: &[(&str, &str)]) -> PathBuf {
    let bare = lab.upstream(name);
    repos::init_bare(&bare, "main", "sha1");
    let made = lab.scratch(&format!("{name}-made"));
    git::clone(&lab.url(name), &made);
    git::run(&made, &["checkout", "--quiet", "-B", "main"]);
    for path in ["a", "dir/b", "dir/c"] {
        write(&made.join(path), name);
    }
    for (path, of) in submodules {
        run(&made, &["submodule", "--quiet", "add", &lab.url(of), path]);
    }
    push(&made);
    made
}

/// Commits all of it, and pushes that.
fn push(made: &Path) -> String {
    git::run(made, &["add", "--all"]);
    git::run(made, &["commit", "--quiet", "-m", "more"]);
    git::run(made, &["push", "--quiet", "origin", "HEAD:main"]);
    git::text(made, &["rev-parse", "HEAD"])
}

/// A repository with the submodules `x/one`, which has one itself, and `two`.
struct Super {
    lab: Lab,
    server: Server,
    /// Where it is made.
    made: PathBuf,
}

impl Super {
    fn new() -> Super {
        let lab = Lab::new(crate::lab::BINARY);
        new_upstream(&lab, "deep", &[]);
        new_upstream(&lab, "one", &[("in/deep", "deep")]);
        new_upstream(&lab, "two", &[]);
        let made = new_upstream(&lab, "super", &[("x/one", "one"), ("two", "two")]);
        let server = lab.start();
        Super { lab, server, made }
    }

    /// A checkout with all submodules.
    fn checkout(&self, name: &str) -> PathBuf {
        let target = self.lab.scratch(name);
        expect(&self.restore(&target, &[]), 0);
        self.update(&target);
        assert!(
            target
                .join(".git/modules/x/one/modules/in/deep/HEAD")
                .exists()
        );
        assert_eq!(run(&target, &["status", "--porcelain"]), "");
        target
    }

    fn restore(&self, target: &Path, more: &[&str]) -> Output {
        crate::lab::restore(self.server.address(), "test/super", target, more)
    }

    fn update(&self, target: &Path) {
        let update = ["submodule", "--quiet", "update", "--init", "--recursive"];
        run(target, &update);
        for path in ["x/one/dir/b", "x/one/in/deep/a", "two/a"] {
            assert!(target.join(path).exists(), "{path}");
        }
    }
}

fn lines(text: &str) -> Vec<&str> {
    text.lines()
        .filter(|line| !line.contains("restored"))
        .collect()
}

#[test]
fn submodules_can_be_had_again() {
    let all = Super::new();
    let target = all.checkout("target");
    // Of what is tracked edits go, as anywhere.
    write(&target.join("x/one/dir/b"), "edited");
    let run_it = |more: &[&str]| {
        let more = [&["--overwrite"], more].concat();
        all.restore(&target, &more)
    };
    for _ in 0..2 {
        let errors = expect(&run_it(&[]), 0);
        assert_eq!(lines(&errors), Vec::<&str>::new());
        assert_eq!(run(&target, &["status", "--porcelain", "--ignored"]), "");
        for directory in ["x/one", "two"] {
            assert!(
                fs::read_dir(target.join(directory)).is_ok_and(|mut found| found.next().is_none())
            );
        }
        all.update(&target);
        assert_eq!(run(&target, &["status", "--porcelain"]), "");
    }
}

#[test]
fn what_a_submodule_does_not_track_stays_and_is_named() {
    let all = Super::new();
    let target = all.checkout("target");
    for path in ["x/one/in/deep/mine.o", "x/one/dir/mine"] {
        write(&target.join(path), "mine");
    }
    let errors = expect(&all.restore(&target, &["--overwrite"]), 0);
    let said = lines(&errors);
    assert_eq!(said.len(), 1, "{errors}");
    assert!(said[0].contains("submodules: x/one;"), "{errors}");
    let mut left: Vec<PathBuf> = everything(&target.join("x")).into_keys().collect();
    left.retain(|path| !path.is_dir());
    let expected = ["x/one/dir/mine", "x/one/in/deep/mine.o"];
    assert_eq!(left, expected.map(|path| target.join(path)));
    run(
        &target,
        &["submodule", "--quiet", "update", "--init", "two"],
    );
    assert!(target.join("two/dir/c").exists());
    assert!(!run(&target, &["status", "--porcelain"]).contains("two"));
    // Once more, with a word or without.
    let errors = expect(&all.restore(&target, &["--overwrite", "--quiet"]), 0);
    assert_eq!(errors, "");
    fs::remove_dir_all(target.join("x/one")).unwrap_or_else(|e| panic!("{e}"));
    expect(&all.restore(&target, &["--overwrite"]), 0);
    all.update(&target);
}

/// Where the new commit has files in its place, or nothing.
#[test]
fn a_submodule_that_is_none_any_more_is_replaced_or_gone() {
    let all = Super::new();
    let target = all.checkout("target");
    for path in ["x/one", "two"] {
        run(&all.made, &["rm", "--quiet", path]);
    }
    for path in ["x/one/dir/b", "x/one/dir/mine"] {
        write(&all.made.join(path), "vendored");
    }
    let new = push(&all.made);
    let new = format!("main={new}");
    // What the submodule does not track is kept, as anywhere.
    let mine = target.join("x/one/dir/mine");
    write(&mine, "mine");
    let restore = || all.restore(&target, &["--overwrite", "--ref", &new]);
    let errors = expect(&restore(), 1);
    let named = format!("{} is not tracked", mine.display());
    assert!(errors.contains(&named), "{errors}");
    fs::remove_file(&mine).unwrap_or_else(|e| panic!("{e}"));
    expect(&restore(), 0);
    assert_eq!(run(&target, &["status", "--porcelain", "--ignored"]), "");
    assert!(!target.join("two").exists());
    let one = fs::read_dir(target.join("x/one")).unwrap_or_else(|e| panic!("{e}"));
    let names: Vec<_> = one.flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(names, ["dir"]);
}

/// One whose repository is somewhere else stays as it is; one whose repository is gone is mended.
#[test]
fn only_what_led_into_the_old_repository_goes() {
    let all = Super::new();
    let target = all.checkout("target");
    let modules = target.join(".git/modules");
    let away = all.lab.scratch("away");
    fs::rename(modules.join("two"), &away)
        .and_then(|()| {
            fs::write(
                target.join("two/.git"),
                format!("gitdir: {}\n", away.display()),
            )
        })
        .and_then(|()| fs::remove_dir_all(modules.join("x")))
        .unwrap_or_else(|e| panic!("{e}"));
    let config = away.join("config").to_string_lossy().into_owned();
    let worktree = target.join("two").to_string_lossy().into_owned();
    git::run(
        &target,
        &["config", "--file", &config, "core.worktree", &worktree],
    );
    let before = everything(&target.join("two"));
    let errors = expect(&all.restore(&target, &["--overwrite"]), 0);
    assert!(errors.contains("submodules: x/one;"), "{errors}");
    assert_eq!(everything(&target.join("two")), before);
    assert_eq!(run(&target.join("two"), &["status", "--porcelain"]), "");
    assert!(!target.join("x/one/.git").exists() && target.join("x/one/a").exists());
    run(&target, &["status", "--porcelain"]);
}

/// What an index or a `.git` says leads nowhere else.
#[test]
fn a_submodule_leads_no_further_than_into_its_target() {
    let all = Super::new();
    let target = all.checkout("target");
    let outside = all.lab.scratch("outside");
    write(&outside.join("a"), "kept");
    write(
        &outside.join(".git"),
        "gitdir: ../target/.git/modules/two\n",
    );
    fs::remove_dir_all(target.join("two"))
        .and_then(|()| std::os::unix::fs::symlink("../outside", target.join("two")))
        .and_then(|()| fs::write(target.join("x/one/.git"), "gitdir: ../../../../etc\n"))
        .unwrap_or_else(|e| panic!("{e}"));
    let before = everything(&outside);
    expect(
        &all.restore(&target, &["--overwrite", "--discard-local"]),
        0,
    );
    assert_eq!(everything(&outside), before);
    assert!(target.join("x/one/.git").exists());
}

/// All that is in `target`, but for which inodes its directories are: empty ones are made anew.
fn kept(target: &Path) -> Vec<(PathBuf, String)> {
    let shown = |(path, what): (PathBuf, String)| match path.is_dir() {
        true => (path, what.split(' ').next().unwrap_or_default().to_owned()),
        false => (path, what),
    };
    everything(target).into_iter().map(shown).collect()
}

#[test]
fn submodules_come_back_when_an_overwrite_is_undone() {
    let all = Super::new();
    let target = all.checkout("target");
    write(&target.join("x/one/dir/mine"), "mine");
    // Something that is not to be moved stands in the way of the step after that.
    let pinned = target.join("dir/b");
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
    write(&all.made.join("dir/b"), "new");
    let new = push(&all.made);
    let new = format!("main={new}");
    let before = kept(&target);
    let out = all.restore(&target, &["--overwrite", "--ref", &new]);
    let after = kept(&target);
    assert!(set("-i"));
    expect(&out, 4);
    assert!(after == before);
    assert_eq!(staged(&target), Vec::<PathBuf>::new());
    assert_eq!(
        run(&target.join("x/one/in/deep"), &["status", "--porcelain"]),
        ""
    );
    expect(&all.restore(&target, &["--overwrite", "--ref", &new]), 0);
}
