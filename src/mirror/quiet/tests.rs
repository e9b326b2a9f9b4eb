use super::*;
use crate::mirror::testing::{Scratch, git, git_with, run};
use std::collections::BTreeSet;
use tokio::sync::RwLock;

fn names(mirror: &Path) -> BTreeSet<String> {
    let files = std::fs::read_dir(mirror.join("objects/pack")).unwrap();
    let names = files.map(|e| e.unwrap().file_name().into_string().unwrap());
    names.collect()
}

fn of(mirror: &Path, end: &str) -> Vec<String> {
    let names = names(mirror).into_iter();
    names.filter(|name| name.ends_with(end)).collect()
}

/// Whether git answers from it.
fn counts(mirror: &Path) -> String {
    let args = ["rev-list", "--test-bitmap", "HEAD"];
    git(mirror, &args)
}

#[test]
fn a_mirror_gets_a_bitmap_and_a_commit_graph_once() {
    for format in ["sha1", "sha256"] {
        let s = Scratch::new(format);
        s.commit("main", "one");
        s.clone_mirror();
        let mirror = s.mirror();
        assert_eq!(run(s.git.write_bitmap(&mirror)).unwrap(), Step::Done);
        assert_eq!(run(s.git.write_commit_graph(&mirror)).unwrap(), Step::Done);
        counts(&mirror);
        assert_eq!(of(&mirror, ".bitmap").len(), 1);
        assert!(mirror.join(GRAPH).exists());
        let made = names(&mirror);
        assert_eq!(run(s.git.write_bitmap(&mirror)).unwrap(), Step::Nothing);
        assert_eq!(
            run(s.git.write_commit_graph(&mirror)).unwrap(),
            Step::Nothing
        );
        // Small beside what the bitmap is of.
        s.commit("main", "two");
        run(s.git.freshen(&mirror, &s.url(), &RwLock::new(()))).unwrap();
        run(s.git.write_bitmap(&mirror)).unwrap();
        assert_eq!(run(s.git.write_commit_graph(&mirror)).unwrap(), Step::Done);
        assert!(names(&mirror).is_superset(&made) || of(&mirror, ".bitmap").len() == 1);
        git(&mirror, &["fsck", "--full", "--strict"]);
        s.assert_equal();
    }
}

/// What an operator's git has put aside may go any time.
#[test]
fn a_bitmap_is_of_no_cruft() {
    let s = Scratch::with_commit();
    s.clone_mirror();
    let mirror = s.mirror();
    git_with(&mirror, &["hash-object", "-w", "--stdin"], b"one more");
    let settings = ["-c", "repack.writeBitmaps=false"];
    git(
        &mirror,
        &[&settings[..], &["repack", "-dq", "--cruft"]].concat(),
    );
    assert_eq!(of(&mirror, ".mtimes").len(), 1);
    assert_eq!(run(s.git.write_bitmap(&mirror)).unwrap(), Step::Done);
    let named = named_by(&mirror.join("objects/pack").join(OVER_SEVERAL)).unwrap();
    assert_eq!(named.len(), 1);
    counts(&mirror);
}

/// The largest pack need not have all that it leads to.
#[test]
fn a_bitmap_is_of_all_packs_where_the_large_ones_lack_something() {
    let s = Scratch::with_commit();
    s.clone_mirror();
    let mirror = s.mirror();
    let text: String = (0..3000)
        .map(|n: u32| format!("{}\n", n.wrapping_mul(2654435761)))
        .collect();
    s.commit("main", &text);
    run(s.git.freshen(&mirror, &s.url(), &RwLock::new(()))).unwrap();
    assert_eq!(of(&mirror, ".pack").len(), 2);
    assert_eq!(run(s.git.write_bitmap(&mirror)).unwrap(), Step::Done);
    let named = named_by(&mirror.join("objects/pack").join(OVER_SEVERAL)).unwrap();
    assert_eq!(named.len(), 2);
    counts(&mirror);
    assert_eq!(run(s.git.write_bitmap(&mirror)).unwrap(), Step::Nothing);
}

#[test]
fn an_empty_mirror_needs_nothing() {
    let s = Scratch::new("sha1");
    s.clone_mirror();
    let mirror = s.mirror();
    assert_eq!(run(s.git.write_bitmap(&mirror)).unwrap(), Step::Nothing);
    run(s.git.write_commit_graph(&mirror)).unwrap();
}

/// A git that takes too long ends with all that it has begun, its lock included.
#[test]
fn what_is_cut_off_leaves_nothing_behind() {
    let s = Scratch::with_commit();
    s.clone_mirror();
    let mirror = s.mirror();
    let before = names(&mirror);
    let program = s.root().join("slow-git");
    let lock = mirror.join(format!("objects/pack/{OVER_SEVERAL}.lock"));
    let script = format!("#!/bin/sh\n: > '{}'\nexec sleep 60\n", lock.display());
    std::fs::write(&program, script).unwrap();
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&program, executable).unwrap();
    let mut slow = s.git.with_time(Duration::from_millis(200));
    slow.program = program;
    let cut = run(slow.write_bitmap(&mirror)).unwrap_err();
    assert!(matches!(cut, MirrorError::TimedOut { .. }), "{cut}");
    assert_eq!(names(&mirror), before);
    assert_eq!(run(s.git.write_bitmap(&mirror)).unwrap(), Step::Done);
}
