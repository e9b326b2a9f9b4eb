//! Pushes to an upstream on this machine: commits made from a seed, by git's plumbing and without a
//! worktree, so that one of 1,000 files takes well below a second. Shared with the benches.

use super::support::git;
use super::support::repos::{self, FILE, Importer, Layout};
use super::support::rng::Rng;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Seek, Write};
use std::path::{Path, PathBuf};

/// How many files a directory that is renamed has, as far as there is one.
const RENAMED_FILES: usize = 1_000;

/// Somebody who pushes to a bare repository; nobody else does.
pub struct Pusher {
    upstream: PathBuf,
    /// The default branch, a full ref.
    main: String,
    /// Mode and path of the regular files of the default branch, in an order of chance.
    files: Vec<(String, Vec<u8>)>,
    rng: Rng,
    /// Pushes so far; a part of what they write, so that no two write the same.
    number: u64,
    /// Of the newest commit.
    time_s: u64,
}

/// A ref that was moved.
#[derive(Debug, Clone)]
pub struct Pushed {
    /// The full ref.
    pub reference: String,
    /// Where it is now.
    pub commit: String,
}

impl Pusher {
    /// For the repository at `upstream`.
    pub fn new(upstream: &Path, seed: u64) -> Pusher {
        let time = git::text(upstream, &["log", "-1", "--format=%ct", "HEAD"]);
        Pusher {
            main: git::text(upstream, &["symbolic-ref", "HEAD"]),
            files: regular_files(upstream),
            rng: Rng::new(seed),
            number: 0,
            time_s: time.parse().unwrap_or_else(|e| panic!("{time}: {e}")),
            upstream: upstream.to_owned(),
        }
    }

    /// Makes `count` branches where the default branch is, and gives their full names.
    pub fn add_branches(&self, count: usize) -> Vec<String> {
        let name = |number: usize| format!("refs/heads/beside/{number}");
        repos::add_refs(&self.upstream, count, "HEAD", name);
        git::run(&self.upstream, &["pack-refs", "--all"]);
        (0..count).map(name).collect()
    }

    /// Adds a line to `count` files, scattered over the whole tree, of the default branch.
    pub fn change(&mut self, count: usize) -> Pushed {
        self.change_on(&self.main.clone(), count)
    }

    /// The same on another branch.
    pub fn change_on(&mut self, reference: &str, count: usize) -> Pushed {
        let count = count.min(self.files.len());
        for at in 0..count {
            let left = (self.files.len() - at) as u64;
            self.files.swap(at, at + self.rng.below(left) as usize);
        }
        let chosen = self.files[..count].to_vec();
        self.append(reference, &chosen, |number| format!("change {number}\n"))
    }

    /// Adds a line to the `.gitattributes` of the default branch's root: one that no file matches.
    pub fn add_attribute(&mut self) -> Pushed {
        let file = (FILE.to_owned(), b".gitattributes".to_vec());
        let line = |number| format!("*.change-{number} -diff\n");
        self.append(&self.main.clone(), &[file], line)
    }

    /// Renames, on the default branch, the directory whose number of files is the nearest to 1,000;
    /// `None` if there is no directory.
    pub fn rename_directory(&mut self) -> Option<Pushed> {
        let from = directory_to_rename(self.files.iter().map(|(_, path)| &**path))?;
        let parent = from.iter().rposition(|byte| *byte == b'/');
        let mut to = from[..parent.map_or(0, |slash| slash + 1)].to_vec();
        let mut import = self.begin(&self.main.clone());
        to.extend_from_slice(format!("renamed-{}", self.number).as_bytes());
        import.rename(&from, &to);
        import.finish();
        for (_, path) in &mut self.files {
            if path.starts_with(&from) && path.get(from.len()) == Some(&b'/') {
                path.splice(..from.len(), to.iter().copied());
            }
        }
        Some(self.pushed(&self.main))
    }

    fn append(
        &mut self,
        reference: &str,
        files: &[(String, Vec<u8>)],
        line: impl Fn(u64) -> String,
    ) -> Pushed {
        let contents = contents(&self.upstream, reference, files);
        let mut import = self.begin(reference);
        for ((mode, path), mut content) in files.iter().zip(contents) {
            content.extend_from_slice(line(self.number).as_bytes());
            import.file(mode, path, &content);
        }
        import.finish();
        self.pushed(reference)
    }

    fn begin(&mut self, reference: &str) -> Importer {
        self.number += 1;
        self.time_s += 60;
        // As a push of a few objects is received.
        let mut import = Importer::start(&self.upstream, Layout::Loose);
        let message = format!("change {}", self.number);
        import.commit_at(reference, &message, self.time_s);
        import.raw(format!("from {reference}^0\n").as_bytes());
        import
    }

    fn pushed(&self, reference: &str) -> Pushed {
        Pushed {
            reference: reference.to_owned(),
            commit: git::text(&self.upstream, &["rev-parse", reference]),
        }
    }
}

/// Mode and path of the files of HEAD whose content means nothing to git.
fn regular_files(upstream: &Path) -> Vec<(String, Vec<u8>)> {
    let listing = git::run(upstream, &["ls-tree", "-r", "-z", "HEAD"]);
    let file = |line: &[u8]| {
        let tab = line.iter().position(|byte| *byte == b'\t')?;
        let (mode, path) = (line.get(..6)?, &line[tab + 1..]);
        let name = path.rsplit(|byte| *byte == b'/').next()?;
        // A newline ends a name that `git cat-file` is asked for.
        let is_plain = mode.starts_with(b"100") && !path.contains(&b'\n');
        let mode = String::from_utf8_lossy(mode).into_owned();
        (is_plain && !name.starts_with(b".git")).then(|| (mode, path.to_vec()))
    };
    listing
        .split(|byte| *byte == 0)
        .filter_map(file)
        .collect::<Vec<_>>()
}

/// What the files hold on a branch; nothing where it has none of that name.
fn contents(upstream: &Path, reference: &str, files: &[(String, Vec<u8>)]) -> Vec<Vec<u8>> {
    // A file, as git must not wait for its output to be read before it reads on.
    let mut names = tempfile::tempfile().unwrap_or_else(|e| panic!("tempfile: {e}"));
    let mut list = Vec::new();
    for (_, path) in files {
        list.extend_from_slice(format!("{reference}:").as_bytes());
        list.extend_from_slice(path);
        list.push(b'\n');
    }
    let written = names.write_all(&list).and_then(|()| names.rewind());
    written.unwrap_or_else(|e| panic!("tempfile: {e}"));
    let output = cat_file(upstream, names);
    let mut rest = &output[..];
    let content = |(_, path): &(String, Vec<u8>)| {
        let end = rest.iter().position(|byte| *byte == b'\n');
        let end = end.unwrap_or_else(|| panic!("git cat-file ends before {path:?}"));
        let line = String::from_utf8_lossy(&rest[..end]).into_owned();
        rest = &rest[end + 1..];
        if line.ends_with(" missing") {
            return Vec::new();
        }
        let len = line.rsplit(' ').next().and_then(|word| word.parse().ok());
        let len: usize = len.unwrap_or_else(|| panic!("git cat-file says {line}"));
        let content = rest[..len].to_vec();
        rest = &rest[len + 1..];
        content
    };
    files.iter().map(content).collect()
}

fn cat_file(upstream: &Path, names: File) -> Vec<u8> {
    let mut command = git::command(upstream, &["cat-file", "--batch"]);
    let output = command.stdin(names).output();
    let output = output.unwrap_or_else(|e| panic!("git cat-file does not start: {e}"));
    assert!(output.status.success(), "git cat-file: {}", output.status);
    output.stdout
}

/// The directory with the number of files that is the nearest to [`RENAMED_FILES`].
fn directory_to_rename<'a>(paths: impl Iterator<Item = &'a [u8]>) -> Option<Vec<u8>> {
    let mut counts: BTreeMap<&[u8], usize> = BTreeMap::new();
    for path in paths {
        let slashes = (0..path.len()).filter(|at| path[*at] == b'/');
        for at in slashes {
            *counts.entry(&path[..at]).or_default() += 1;
        }
    }
    let nearest = counts
        .into_iter()
        .min_by_key(|(_, count)| count.abs_diff(RENAMED_FILES));
    nearest.map(|(directory, _)| directory.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upstream(directory: &Path) -> PathBuf {
        let path = directory.join("upstream.git");
        repos::generate(&path, repos::Shape::ManySmall, 300_000, 7);
        path
    }

    fn changed(upstream: &Path, pushed: &Pushed) -> Vec<String> {
        let range = [&format!("{}~1", pushed.commit), &pushed.commit];
        let args = ["diff", "--name-status", "-M", range[0], range[1]];
        let listing = git::text(upstream, &args);
        listing.lines().map(str::to_owned).collect()
    }

    /// Each push changes what it says and nothing else, and a seed gives the same commits again.
    #[test]
    fn pushes_change_what_they_say_and_repeat() {
        let root = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let commits = [0, 1].map(|turn| {
            let upstream = upstream(&root.path().join(turn.to_string()));
            let mut pusher = Pusher::new(&upstream, 5);
            let branches = pusher.add_branches(3);
            let ten = pusher.change(10);
            assert_eq!(ten.reference, "refs/heads/main");
            assert_eq!(changed(&upstream, &ten).len(), 10);
            let renamed = pusher.rename_directory().unwrap_or_else(|| panic!("none"));
            let moved = changed(&upstream, &renamed);
            assert!(
                moved.iter().all(|line| line.starts_with("R100")),
                "{moved:?}"
            );
            let all = git::text(&upstream, &["ls-tree", "-r", "--name-only", "main"]);
            assert_eq!(
                moved.len(),
                all.lines().count(),
                "src is the only directory"
            );
            assert_eq!(changed(&upstream, &pusher.change(1000)).len(), moved.len());
            let attribute = pusher.add_attribute();
            assert_eq!(changed(&upstream, &attribute), ["A\t.gitattributes"]);
            assert_eq!(
                changed(&upstream, &pusher.add_attribute()),
                ["M\t.gitattributes"]
            );
            let beside = pusher.change_on(&branches[2], 1);
            assert_eq!(beside.reference, "refs/heads/beside/2");
            assert_eq!(changed(&upstream, &beside).len(), 1);
            git::run(&upstream, &["fsck", "--strict"]);
            [ten.commit, renamed.commit, attribute.commit, beside.commit]
        });
        assert_eq!(commits[0], commits[1]);
    }
}
