//! Trees of odd shapes: what is built on what is there is what is built from nothing, and little of it is
//! made anew.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::process::Command;

use super::{Built, Repository, build};

/// Adds a commit with these changes, as fast-import has them, to what the last one has.
fn change(repository: &Repository, changes: &str) {
    let mut stream = String::from(
        "commit refs/heads/main\ncommitter t <t@example.com> 1700000000 +0000\ndata 1\nc\n",
    );
    let has_parent = repository.git(&["for-each-ref", "refs/heads/main"]);
    if !has_parent.is_empty() {
        stream.push_str("from refs/heads/main^0\n");
    }
    stream.push_str(changes);
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(stream.as_bytes()).unwrap();
    let mut import = Command::new("git");
    import
        .current_dir(repository.dir.path())
        .args(["-c", "fastimport.unpackLimit=0", "fast-import", "--quiet"])
        .stdin(File::open(file.path()).unwrap());
    assert!(import.status().unwrap().success());
    repository.git(&["symbolic-ref", "HEAD", "refs/heads/main"]);
}

/// The same with files of these paths and contents.
fn commit(repository: &Repository, files: impl Iterator<Item = (String, String)>) {
    let mut changes = String::new();
    for (path, content) in files {
        let bytes = content.len();
        write!(changes, "M 100644 inline {path}\ndata {bytes}\n{content}\n").unwrap();
    }
    change(repository, &changes);
}

/// Builds on `before`, compares that with a build from nothing, and gives how many jobs were made.
fn refresh(repository: &Repository, before: &Built) -> usize {
    let built = build(repository, 2, Some(before));
    assert!(built.archive == build(repository, 2, None).archive);
    built.outline.jobs.len() - built.taken_from(before)
}

/// Makes a tree of files, each the blob that `id` says, and gives its id. git fast-import takes ever longer
/// for each file of one directory.
fn tree(repository: &Repository, count: usize, id: impl Fn(usize) -> String) -> String {
    let mut list = String::new();
    for n in 0..count {
        writeln!(list, "100644 blob {}\tfile{n:06}", id(n)).unwrap();
    }
    let list_file = repository.dir.path().join(".git/list");
    std::fs::write(&list_file, list).unwrap();
    let mut make = Command::new("git");
    make.current_dir(repository.dir.path())
        .arg("mktree")
        .stdin(File::open(&list_file).unwrap());
    let made = make.output().unwrap();
    assert!(made.status.success());
    String::from_utf8(made.stdout)
        .unwrap()
        .trim_end()
        .to_owned()
}

#[test]
fn one_directory_of_500_000_files() {
    let repository = Repository::new();
    let contents = (0..1000).map(|n| (format!("dir/{n}"), format!("content {n}\n")));
    commit(&repository, contents);
    let blobs = repository.git(&["ls-tree", "--object-only", "main:dir"]);
    let blobs: Vec<&str> = blobs.lines().collect();
    let of = |n: usize| blobs[n * 7919 % blobs.len()].to_owned();
    let all = tree(&repository, 500_000, of);
    change(&repository, &format!("M 040000 {all} dir\n"));
    repository.git(&["repack", "-adq"]);
    let first = build(&repository, 2, None);
    assert_eq!(first.outline.directories.len(), 2);
    let other = tree(&repository, 500_000, |n| of(n + usize::from(n == 250_000)));
    change(&repository, &format!("M 040000 {other} dir\n"));
    repository.git(&["repack", "-adq"]);
    assert!(refresh(&repository, &first) <= 2);
}

#[test]
fn directories_300_levels_deep() {
    let repository = Repository::new();
    let files = |level: usize, text: &'static str| {
        let path = "d/".repeat(level);
        (0..3).map(move |n| (format!("{path}f{n}"), format!("{text} {level} {n}\n")))
    };
    commit(&repository, (0..=300).flat_map(|level| files(level, "one")));
    let first = build(&repository, 2, None);
    let names = first.check();
    assert!(names.contains_key(&format!("{}f2", "d/".repeat(300))));
    for level in [0, 31, 32, 33, 150, 300] {
        commit(&repository, files(level, "another"));
        let made = refresh(&repository, &first);
        assert!(made > 0, "level {level}");
    }
}

/// As deep as a path can be, with many files at the bottom: no bound but that of paths is met, and no job
/// grows without end where no directory is a large one.
#[test]
fn many_files_at_the_deepest_levels() {
    let repository = Repository::new();
    let bottom = |text: &'static str| {
        (0..700).map(move |n| (format!("bottom/f{n}"), format!("{text} {n}\n")))
    };
    commit(&repository, bottom("one"));
    let tree = repository.git(&["rev-parse", "main:bottom"]);
    let below = "/d".repeat(1980);
    let chains = (0..10).map(|chain| format!("M 040000 {tree} {chain}{below}\n"));
    change(&repository, &chains.collect::<String>());
    let first = build(&repository, 2, None);
    let largest = first.outline.jobs.iter().map(|job| job.sizes.len()).max();
    assert!(largest < Some(600), "{largest:?}");
    let path = format!("3{below}/f7");
    commit(&repository, std::iter::once((path, "another\n".to_owned())));
    assert!(refresh(&repository, &first) <= 4);
}
