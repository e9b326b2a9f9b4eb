//! What decides a file's bytes besides its blob: nothing of it may be missing in the key under which
//! a later snapshot looks for frames.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};

use gix::objs::Kind;
use gix::objs::tree::EntryKind;

use super::{Built, Repository, build, decompress, files_of};
use crate::tree::batch::Batch;
use crate::tree::filter::Conversions;

/// A file of a made-up tree.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Made {
    mode: &'static str,
    data: Vec<u8>,
}

type Tree = BTreeMap<String, Made>;

/// Numbers that look random and are the same for the same seed.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 33) as usize % bound
    }

    fn of<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len())]
    }
}

const DIRECTORIES: [&str; 6] = ["", "dir", "dir/sub", "dir/sub/deep", "lib", "lib/sub"];

/// Lines of attribute files; a pattern with a slash means another file wherever its own lies.
const LINES: [&str; 22] = [
    "/dir/sub/f* text eol=crlf",
    "sub/f* text eol=crlf",
    "/sub/* ident",
    "* text=auto",
    "*.txt eol=crlf",
    "*.txt !eol",
    "*.txt -text",
    "f1* eol=lf",
    "f2* ident",
    "f2* -ident",
    "[attr]dos text eol=crlf",
    "*.md dos",
    "*.md !dos",
    "*.md -dos",
    "f3* working-tree-encoding=UTF-16LE",
    "f3* working-tree-encoding=latin-1",
    "f3* !working-tree-encoding",
    "[attr]wide working-tree-encoding=UTF-16BE-BOM eol=crlf",
    "deep/* wide",
    "*.txt export-subst",
    "**/sub/*.md text eol=crlf",
    "*.bin binary",
];

const TEXTS: [&str; 6] = [
    "one\ntwo\n",
    "one\r\ntwo\r\n",
    "$Id$\n$Format:%H$\n",
    "mixed\r\nends\n",
    "caf\u{e9} \u{20ac}\n",
    "nul \0 bytes\n",
];

/// A blob after which a job ends: so a tree of a few files has many jobs.
fn ending(text: &str) -> Vec<u8> {
    let ends = |data: &[u8]| {
        let id = gix::objs::compute_hash(gix::hash::Kind::Sha1, Kind::Blob, data).unwrap();
        id.as_bytes()[16..] < [4, 0, 0, 0][..]
    };
    let nonced = (0u32..).map(|nonce| format!("{text}{nonce}\n").into_bytes());
    nonced.into_iter().find(|data| ends(data)).unwrap()
}

fn attribute_file(numbers: &mut Numbers) -> Made {
    let count = 1 + numbers.below(4);
    let lines = (0..count).map(|_| format!("{}\n", numbers.of(&LINES)));
    Made {
        mode: "100644",
        data: lines.collect::<String>().into_bytes(),
    }
}

fn path(directory: &str, name: &str) -> String {
    match directory {
        "" => name.to_owned(),
        directory => format!("{directory}/{name}"),
    }
}

fn first_tree(numbers: &mut Numbers, ending: &[Vec<u8>]) -> Tree {
    let mut tree = Tree::new();
    for directory in DIRECTORIES {
        for number in 0..36 {
            let name = format!("f{number}{}", numbers.of(&["", ".txt", ".md", ".bin"]));
            let file = Made {
                mode: "100644",
                data: ending[numbers.below(ending.len())].clone(),
            };
            tree.insert(path(directory, &name), file);
        }
    }
    tree.insert(".gitattributes".into(), attribute_file(numbers));
    tree
}

/// One change, most of them of attribute files: one moves, appears, vanishes or changes.
fn change(tree: &mut Tree, numbers: &mut Numbers, ending: &[Vec<u8>]) {
    let place = |numbers: &mut Numbers| path(numbers.of(&DIRECTORIES), ".gitattributes");
    let of_attributes: Vec<String> = tree
        .keys()
        .filter(|path| path.ends_with(".gitattributes"))
        .cloned()
        .collect();
    let one = (!of_attributes.is_empty())
        .then(|| of_attributes[numbers.below(of_attributes.len().max(1))].clone());
    match (numbers.below(10), one) {
        (0..=3, Some(one)) => {
            let moved = tree.remove(&one).unwrap();
            tree.insert(place(numbers), moved);
        }
        (4, Some(one)) => drop(tree.remove(&one)),
        (5, Some(one)) => drop(tree.insert(one, attribute_file(numbers))),
        (6 | 7, _) => {
            let paths: Vec<String> = tree
                .keys()
                .filter(|p| !p.ends_with("attributes"))
                .cloned()
                .collect();
            let file = tree.get_mut(&paths[numbers.below(paths.len())]).unwrap();
            match numbers.below(2) {
                0 => file.data = ending[numbers.below(ending.len())].clone(),
                _ => {
                    file.mode = if file.mode == "100644" {
                        "100755"
                    } else {
                        "100644"
                    }
                }
            }
        }
        _ => drop(tree.insert(place(numbers), attribute_file(numbers))),
    }
}

/// Commits the trees one after the other, as they are: `git add` would convert them. Gives the ids
/// of the commits.
fn import(repository: &Repository, trees: &[Tree]) -> Vec<String> {
    let mut stream = Vec::new();
    for (number, tree) in trees.iter().enumerate() {
        // One date for all: what is reused keeps its date, and everything is to be equal.
        writeln!(stream, "commit refs/heads/main\nmark :{}", number + 1).unwrap();
        stream.extend_from_slice(b"committer t <t@example.com> 1700000000 +0000\ndata 1\nc\n");
        stream.extend_from_slice(b"deleteall\n");
        for (path, file) in tree {
            writeln!(
                stream,
                "M {} inline {path}\ndata {}",
                file.mode,
                file.data.len()
            )
            .unwrap();
            stream.extend_from_slice(&file.data);
            stream.push(b'\n');
        }
    }
    let marks = repository.dir.path().join("marks");
    let mut command = Command::new("git");
    command
        .args(["-c", "fastimport.unpackLimit=1", "fast-import", "--quiet"])
        .arg(format!("--export-marks={}", marks.display()))
        .current_dir(repository.dir.path())
        .stdin(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(&stream).unwrap();
    assert!(child.wait().unwrap().success());
    let marks = std::fs::read_to_string(marks).unwrap();
    let mut marks: Vec<(usize, String)> = marks
        .lines()
        .map(|line| line[1..].split_once(' ').unwrap())
        .map(|(mark, id)| (mark.parse().unwrap(), id.to_owned()))
        .collect();
    marks.sort();
    marks.into_iter().map(|(_, id)| id).collect()
}

/// The worktree as git checks it out.
fn cloned(repository: &Repository) -> BTreeMap<String, Vec<u8>> {
    let place = tempfile::tempdir().unwrap();
    let clone = place.path().join("clone");
    repository.git(&["clone", "-q", ".", clone.to_str().unwrap()]);
    let listed = repository.git(&["ls-tree", "-r", "-z", "--name-only", "HEAD"]);
    let read = |path: &str| (path.to_owned(), std::fs::read(clone.join(path)).unwrap());
    listed
        .split('\0')
        .filter(|path| !path.is_empty())
        .map(read)
        .collect()
}

fn worktree(built: &Built) -> BTreeMap<String, Vec<u8>> {
    let mut files = files_of(built);
    files.retain(|path, _| !path.starts_with(".git/") && !path.ends_with('/'));
    files
}

/// Through several commits: what is built on the snapshot before is what is built from nothing, and
/// what a clone has.
#[test]
fn whatever_attributes_do_a_refresh_is_a_clone() {
    let ending: Vec<_> = TEXTS.iter().map(|text| ending(text)).collect();
    let mut taken = 0;
    for seed in 0..12 {
        let mut numbers = Numbers(seed);
        let mut trees = vec![first_tree(&mut numbers, &ending)];
        for _ in 0..5 {
            let mut next = trees.last().unwrap().clone();
            for _ in 0..1 + numbers.below(3) {
                change(&mut next, &mut numbers, &ending);
            }
            trees.push(next);
        }
        let repository = Repository::new();
        let mut before: Option<Built> = None;
        for (number, commit) in import(&repository, &trees).iter().enumerate() {
            repository.git(&["update-ref", "refs/heads/main", commit]);
            let scratch = build(&repository, 1, None);
            let refreshed = build(&repository, 1, before.as_ref());
            let what = format!("seed {seed}, commit {number}: {:?}", trees[number]);
            assert!(worktree(&refreshed) == cloned(&repository), "{what}");
            assert!(refreshed.archive == scratch.archive, "{what}");
            assert!(decompress(&refreshed.archive) == decompress(&scratch.archive));
            taken += before.as_ref().map_or(0, |b| refreshed.taken_from(b));
            before = Some(refreshed);
        }
    }
    assert!(taken > 300, "only {taken} jobs were taken over");
}

/// The rule as it was seen: moved a directory down it matches nothing.
#[test]
fn a_rule_that_moves_down_matches_other_files() {
    let rule = Made {
        mode: "100644",
        data: b"/dir/sub/f* text eol=crlf\n".to_vec(),
    };
    let mut files = Tree::new();
    for number in 0..900 {
        let data = format!("{number}\nof many\n").into_bytes();
        files.insert(
            format!("dir/sub/f{number}"),
            Made {
                mode: "100644",
                data,
            },
        );
    }
    let (mut above, mut below) = (files.clone(), files);
    above.insert(".gitattributes".into(), rule.clone());
    below.insert("dir/.gitattributes".into(), rule);
    let repository = Repository::new();
    let commits = import(&repository, &[above, below]);
    repository.git(&["update-ref", "refs/heads/main", &commits[0]]);
    let first = build(&repository, 2, None);
    let crlf = |built: &Built| {
        worktree(built)
            .values()
            .filter(|d| d.contains(&b'\r'))
            .count()
    };
    assert_eq!(crlf(&first), 900);
    repository.git(&["update-ref", "refs/heads/main", &commits[1]]);
    let second = build(&repository, 2, Some(&first));
    assert_eq!(crlf(&second), 0);
    assert!(worktree(&second) == cloned(&repository));
}

/// Two things that give other bytes never have one key.
#[test]
fn all_that_decides_is_in_the_key() {
    let kinds = [
        EntryKind::Blob,
        EntryKind::BlobExecutable,
        EntryKind::Link,
        EntryKind::Commit,
    ];
    let none = Conversions::default();
    let conversions = ["latin1", "utf-16"].map(Conversions::of_encoding);
    let mut keys = Vec::new();
    for kind in kinds {
        for conversions in [&none, &conversions[0], &conversions[1]] {
            for path in ["dir/file", "dir/filf"] {
                for level in [1, 2] {
                    let mut batch = Batch::default();
                    let id = gix::ObjectId::from_bytes_or_panic(&[0x40; 20]);
                    batch.push(path.into(), kind, id);
                    keys.push(batch.key(level, std::slice::from_ref(conversions)));
                }
            }
        }
    }
    let count = keys.len();
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), count);
}

/// A submodule of the id that a link had: modes that differ in their high byte alone.
#[test]
fn a_link_that_becomes_a_submodule_is_none_any_more() {
    let repository = Repository::new();
    let blob = repository.dir.path().join("target");
    std::fs::write(&blob, ending("nowhere")).unwrap();
    let id = repository.git(&["hash-object", "-w", "target"]);
    std::fs::remove_file(blob).unwrap();
    let mut before = None;
    for mode in ["120000", "160000"] {
        let entry = format!("{mode},{id},thing");
        repository.git(&["update-index", "--add", "--cacheinfo", &entry]);
        repository.git(&["commit", "-qm", mode]);
        let built = build(&repository, 1, before.as_ref());
        assert_eq!(
            files_of(&built).contains_key("thing/"),
            mode == "160000",
            "{mode}"
        );
        before = Some(built);
    }
}
