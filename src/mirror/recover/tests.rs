use super::*;
use crate::mirror::testing::Scratch;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

/// A git that runs until its input ends.
struct RunningGit(Child);

impl RunningGit {
    /// It has answered when this returns: a child whose `execve` is under way has its parent's name yet.
    fn start(mirror: &Path) -> Self {
        let mut child = Command::new("git")
            .args(["cat-file", "--batch-check"])
            .current_dir(mirror)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.as_ref().unwrap().write_all(b"HEAD\n").unwrap();
        let mut answer = String::new();
        let mut out = BufReader::new(child.stdout.as_mut().unwrap());
        assert!(out.read_line(&mut answer).unwrap() > 0);
        Self(child)
    }
}

#[test]
fn leftovers_of_a_killed_process_are_removed() {
    let s = Scratch::with_commit();
    s.clone_mirror();
    let left = [
        "packed-refs.lock",
        "HEAD.lock",
        "tmp_packed_refs_x",
        "objects/pack/tmp_pack_x",
        "objects/pack/.tmp-1-x",
        "refs/heads/main.lock",
        "refs/tags/x/y.lock",
    ];
    std::fs::create_dir_all(s.mirror().join("refs/tags/x")).unwrap();
    std::fs::create_dir_all(s.mirror().join("refs/heads")).unwrap();
    for name in left {
        std::fs::write(s.mirror().join(name), "").unwrap();
    }
    std::fs::create_dir(s.mirror().join("tmp_old_packs_x")).unwrap();
    // As index-pack writes them for a fetch that is no more, for one that runs, and as people do.
    let mut runs = RunningGit::start(&s.mirror());
    let keep = |name: &str| s.mirror().join(format!("objects/pack/pack-{name}.keep"));
    let fetch = |pid: u32| format!("fetch-pack {pid} on host\n");
    // No process has it: another git may have taken that of one that has ended.
    std::fs::write(keep("gone"), fetch(u32::MAX)).unwrap();
    std::fs::write(keep("runs"), fetch(runs.0.id())).unwrap();
    std::fs::write(keep("people"), "do not touch\n").unwrap();
    std::fs::write(keep("empty"), "").unwrap();
    recover(&s.mirror()).unwrap();
    assert!(!keep("gone").exists());
    assert!(
        ["runs", "people", "empty"]
            .iter()
            .all(|name| keep(name).exists())
    );
    drop(runs.0.stdin.take());
    runs.0.wait().unwrap();
    assert!(!left.iter().any(|name| s.mirror().join(name).exists()));
    assert!(!s.mirror().join("tmp_old_packs_x").exists());
    s.assert_staging_empty();
    s.assert_equal();
    recover(Path::new("/nonexistent/mirror")).unwrap();
}

/// Killed while packs come into their place, or leave it; those that are whole, and what somebody keeps, stay.
#[test]
fn halves_of_packs_are_removed() {
    let s = Scratch::with_commit();
    s.clone_mirror();
    let folder = s.mirror().join("objects/pack");
    let names = || {
        let files = std::fs::read_dir(&folder).unwrap();
        let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        names.collect::<std::collections::BTreeSet<_>>()
    };
    let whole = names();
    let of = |digit: &str, ends: &[&str]| {
        for end in ends {
            let name = format!("pack-{}.{end}", digit.repeat(40));
            std::fs::write(folder.join(name), "half").unwrap();
        }
    };
    of("1", &["pack"]);
    of("2", &["pack", "rev", "bitmap"]);
    of("3", &["idx", "rev"]);
    of("4", &["mtimes", "rev"]);
    let kept = ["keep", "pack"];
    of("5", &kept);
    // A fetch that was killed meanwhile.
    of("6", &["pack"]);
    let keep = folder.join(format!("pack-{}.keep", "6".repeat(40)));
    std::fs::write(keep, format!("fetch-pack {} on host\n", u32::MAX)).unwrap();
    recover(&s.mirror()).unwrap();
    let mut expected = whole;
    expected.extend(kept.map(|end| format!("pack-{}.{end}", "5".repeat(40))));
    assert_eq!(names(), expected);
    s.assert_equal();
}
