//! Histories at random: what is built on what is there is what is built from nothing, byte for byte.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{Built, Repository, build, noise};
use crate::limits::{FRAMES_FILES_MAX, LARGE_DIRECTORY_ENTRIES};

/// One step of a history.
#[derive(Debug, Clone)]
enum Change {
    /// So many files of a directory get another content.
    Edit { directory: u8, files: u8, seed: u16 },
    /// A directory gets so many new files, which can make it a large one.
    Grow { directory: u8, files: u8, seed: u16 },
    /// It loses all but so many.
    Shrink { directory: u8, left: u8 },
    /// It is renamed to another, which it takes the place of.
    Rename { from: u8, to: u8 },
    /// A line is added to the attribute file of a directory.
    Attributes { directory: u8, line: u8 },
}

/// Some lie in others.
const DIRECTORIES: [&str; 8] = [
    "",
    "a",
    "a/b",
    "a/b/c",
    "a/b/c/d/e/f",
    "lib",
    "lib/src",
    "z-z/y",
];
const LINES: [&str; 4] = [
    "*.txt text eol=crlf\n",
    "*.txt -text\n",
    "*.md ident\n",
    "*.bin working-tree-encoding=UTF-16LE\n",
];
const ENDINGS: [&str; 3] = ["txt", "md", "bin"];

fn change() -> impl Strategy<Value = Change> {
    let directory = || 0..DIRECTORIES.len() as u8;
    prop_oneof![
        4 => (directory(), 1..6u8, any::<u16>())
            .prop_map(|(directory, files, seed)| Change::Edit { directory, files, seed }),
        3 => (directory(), 1..120u8, any::<u16>())
            .prop_map(|(directory, files, seed)| Change::Grow { directory, files, seed }),
        1 => (directory(), 0..70u8).prop_map(|(directory, left)| Change::Shrink { directory, left }),
        1 => (directory(), directory()).prop_map(|(from, to)| Change::Rename { from, to }),
        1 => (directory(), 0..LINES.len() as u8)
            .prop_map(|(directory, line)| Change::Attributes { directory, line }),
    ]
}

type Tree = BTreeMap<String, Vec<u8>>;

fn path(directory: u8, name: &str) -> String {
    match DIRECTORIES[usize::from(directory)] {
        "" => name.to_owned(),
        directory => format!("{directory}/{name}"),
    }
}

/// The files in a directory itself.
fn files_in(tree: &Tree, directory: u8) -> Vec<String> {
    let parent = |path: &str| {
        path.rsplit_once('/')
            .map_or("", |(parent, _)| parent)
            .to_owned()
    };
    let own = |path: &&String| {
        parent(path) == DIRECTORIES[usize::from(directory)] && !path.ends_with("attributes")
    };
    tree.keys().filter(own).cloned().collect()
}

fn content(seed: u16, n: usize) -> Vec<u8> {
    format!("$Id$ {seed} {n}\ntext\n")
        .repeat(1 + n % 5)
        .into_bytes()
}

fn apply(tree: &mut Tree, change: &Change) {
    match *change {
        Change::Edit {
            directory,
            files,
            seed,
        } => {
            let own = files_in(tree, directory);
            for n in 0..usize::from(files).min(own.len()) {
                let which = (usize::from(seed) + n * 7) % own.len();
                tree.insert(own[which].clone(), content(seed, n));
            }
        }
        Change::Grow {
            directory,
            files,
            seed,
        } => {
            for n in 0..usize::from(files) {
                let name = format!("{seed:x}-{n}.{}", ENDINGS[n % 3]);
                tree.insert(path(directory, &name), content(seed, n));
            }
        }
        Change::Shrink { directory, left } => {
            for file in files_in(tree, directory).into_iter().skip(left.into()) {
                tree.remove(&file);
            }
        }
        Change::Rename { from, to } => {
            let moved = files_in(tree, from);
            for file in &moved {
                let content = tree.remove(file).unwrap();
                let name = file.rsplit('/').next().unwrap();
                tree.insert(path(to, name), content);
            }
        }
        Change::Attributes { directory, line } => {
            let file = tree.entry(path(directory, ".gitattributes")).or_default();
            file.extend_from_slice(LINES[usize::from(line)].as_bytes());
        }
    }
}

/// Commits the tree as it is, without what `git add` would convert.
fn commit(repository: &Repository, tree: &Tree) {
    use std::io::Write;
    let mut stream = Vec::new();
    stream.extend_from_slice(b"commit refs/heads/main\n");
    stream.extend_from_slice(b"committer t <t@example.com> 1700000000 +0000\ndata 1\nc\n");
    stream.extend_from_slice(b"deleteall\n");
    for (path, data) in tree {
        writeln!(stream, "M 100644 inline {path}\ndata {}", data.len()).unwrap();
        stream.extend_from_slice(data);
        stream.push(b'\n');
    }
    let mut command = std::process::Command::new("git");
    command
        .args([
            "-c",
            "fastimport.unpackLimit=1",
            "fast-import",
            "--quiet",
            "--force",
        ])
        .current_dir(repository.dir.path())
        .stdin(std::process::Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(&stream).unwrap();
    assert!(child.wait().unwrap().success());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn what_is_built_on_what_is_there_is_what_is_built_from_nothing(
        changes in prop::collection::vec(prop::collection::vec(change(), 1..4), 1..7)
    ) {
        let repository = Repository::new();
        let mut tree = Tree::new();
        for directory in 0..DIRECTORIES.len() as u8 {
            let grown = Change::Grow { directory, files: 20 * directory, seed: directory.into() };
            apply(&mut tree, &grown);
        }
        let mut before: Option<Built> = None;
        for changes in &changes {
            changes.iter().for_each(|change| apply(&mut tree, change));
            commit(&repository, &tree);
            let scratch = build(&repository, 1, None);
            let refreshed = build(&repository, 2, before.as_ref());
            prop_assert!(refreshed.archive == scratch.archive, "other bytes");
            prop_assert_eq!(&refreshed.outline.directories, &scratch.outline.directories);
            let keys = |built: &Built| Vec::from_iter(built.outline.jobs.iter().map(|job| job.key));
            prop_assert_eq!(keys(&refreshed), keys(&scratch));
            before = Some(refreshed);
        }
        if let Some(last) = before {
            last.check();
        }
    }
}

/// Whatever the history, an entry consists of a few files, of which most is of use.
#[test]
fn files_of_frames_stay_few_and_useful() {
    let repository = Repository::new();
    let mut tree = Tree::new();
    for directory in 0..8 {
        for n in 0..100 {
            let seed = u64::from(directory) * 100 + n;
            tree.insert(path(directory, &format!("f{n}")), noise(2000, seed));
        }
    }
    let mut before: Option<Built> = None;
    let mut most = 0;
    for seed in 0..60 {
        for n in 0..8 {
            let (directory, file) = ((seed % 8) as u8, (seed * 7 + n * 11) % 100);
            let content = noise(2000, 1000 + seed * 10 + n);
            tree.insert(path(directory, &format!("f{file}")), content);
        }
        commit(&repository, &tree);
        let built = build(&repository, 1, before.as_ref());
        let frames = built.linked.iter().filter(|file| file.whole.is_some());
        let (count, bytes) = frames.fold((1, 0), |(n, all), file| (n + 1, all + file.bytes));
        let own = std::fs::metadata(built.dir.path().join(&built.spool))
            .unwrap()
            .len();
        let live: u64 = built.outline.stretches().map(|(at, _)| at.bytes).sum();
        most = most.max(count);
        assert!(count <= FRAMES_FILES_MAX, "{count} files");
        // What became of no use by the last step is seen by the next.
        assert!(bytes + own <= 3 * live, "{} bytes for {live}", bytes + own);
        before = Some(built);
    }
    assert!(
        most > FRAMES_FILES_MAX / 2,
        "nothing was ever linked: {most}"
    );
    let last = before.unwrap();
    assert!(last.archive == build(&repository, 1, None).archive);
    last.check();
}

/// A directory that is as large as can be without being a large one, and one entry more.
#[test]
fn a_directory_becomes_large_and_small_again() {
    let repository = Repository::new();
    let mut tree = Tree::new();
    apply(
        &mut tree,
        &Change::Grow {
            directory: 4,
            files: 62,
            seed: 1,
        },
    );
    apply(
        &mut tree,
        &Change::Grow {
            directory: 5,
            files: 90,
            seed: 1,
        },
    );
    let mut before: Option<Built> = None;
    let mut large = Vec::new();
    for files in [62, 63, 64, 65, 64, 63] {
        for n in 0..files {
            tree.insert(path(4, &format!("more-{n}")), vec![b'x'; n]);
        }
        apply(
            &mut tree,
            &Change::Shrink {
                directory: 4,
                left: files as u8,
            },
        );
        commit(&repository, &tree);
        let built = build(&repository, 2, before.as_ref());
        assert!(built.archive == build(&repository, 2, None).archive);
        let found = |path: &[u8]| built.outline.directories.iter().any(|d| d.path == path);
        large.push(found(b"a/b/c/d/e/f"));
        assert!(found(b"lib") && found(b""));
        before = Some(built);
    }
    let expected = [62, 63, 64, 65, 64, 63].map(|files| files >= LARGE_DIRECTORY_ENTRIES);
    assert_eq!(large, expected);
    before.unwrap().check();
}

/// What is known of a directory that is still the same is taken over unseen: not even its trees are
/// read, which are not there any more.
#[test]
fn an_equal_directory_is_not_walked_again() {
    let repository = Repository::new();
    let mut tree = Tree::new();
    for directory in [0, 3, 5u8] {
        apply(
            &mut tree,
            &Change::Grow {
                directory,
                files: 90,
                seed: directory.into(),
            },
        );
    }
    commit(&repository, &tree);
    let first = build(&repository, 2, None);
    apply(
        &mut tree,
        &Change::Edit {
            directory: 5,
            files: 1,
            seed: 7,
        },
    );
    commit(&repository, &tree);
    let expected = build(&repository, 2, None);

    let listed = repository.git(&["rev-list", "--objects", "HEAD"]);
    let is_below = |line: &&str| {
        line.split_once(' ')
            .is_some_and(|(_, path)| path.starts_with("a/b"))
    };
    let (gone, kept): (Vec<&str>, Vec<&str>) = listed.lines().partition(is_below);
    assert!(gone.len() > 90, "{} objects", gone.len());
    let list = repository.dir.path().join("list");
    std::fs::write(
        &list,
        Vec::from_iter(kept.iter().map(|line| &line[..40])).join("\n"),
    )
    .unwrap();
    let packs = repository.dir.path().join(".git/objects/pack");
    let old = Vec::from_iter(
        std::fs::read_dir(&packs)
            .unwrap()
            .map(|file| file.unwrap().path()),
    );
    let packed = std::process::Command::new("git")
        .args(["pack-objects", "-q", ".git/objects/pack/pack"])
        .current_dir(repository.dir.path())
        .stdin(std::fs::File::open(&list).unwrap())
        .output()
        .unwrap();
    assert!(packed.status.success());
    old.iter()
        .for_each(|file| std::fs::remove_file(file).unwrap());

    let second = build(&repository, 2, Some(&first));
    let frames = |built: &Built| {
        let sums = built
            .outline
            .stretches()
            .map(|(at, checksum)| (at.bytes, checksum));
        Vec::from_iter(sums)
    };
    assert_eq!(frames(&second), frames(&expected));
    let root = |built: &Built| super::files_of(built)[".git/index"].clone();
    assert!(root(&second) == root(&expected), "another index");
}
