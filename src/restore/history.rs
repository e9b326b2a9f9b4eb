//! Whether what a repository's refs lead to is there: git takes it for granted that whoever has a
//! commit has its history, too, and finds out in the user's next `git log` or `git fetch`.
//!
//! Every object that a ref names has to be there; that of HEAD is a commit, others are of any kind.
//! From there on commits and tags are read, those next to the refs first, up to a limit, and what they
//! name is looked up. Of a commit no more is read than git reads to walk: old importers have written
//! authors that are none. Further down, and of trees and files other than HEAD's, an archive is believed; so it is where
//! it says that its history ends (`shallow`).

use std::collections::{HashMap, VecDeque};
use std::path::Path;

use crossbeam::channel::{Receiver, Sender, unbounded};
use gix::hash::{Kind, ObjectId};
use gix::objs::TagRefIter;

use super::error::RestoreError;
use super::objects::Objects;
use super::refs::Refs;
use super::stop::Stop;
use super::write::stopped;
use crate::limits::{HISTORY_READ_MAX, HISTORY_TREES_AT_ONCE, UNSORTED_REFS_MAX};

/// Looks for what the refs of the repository at `tree` lead to.
pub(super) fn check(
    tree: &Path,
    refs: &Refs<'_>,
    hash: Kind,
    stop: &Stop,
) -> Result<(), RestoreError> {
    let objects = Objects::open(tree, hash, stop)?;
    let beside = objects.beside();
    let ends = ends(refs)?;
    let (asked, trees) = unbounded();
    std::thread::scope(|scope| {
        let looked = scope.spawn(move || look_for(&trees, &beside));
        let walk = Walk {
            objects: &objects,
            ends,
            met: HashMap::new(),
            open: VecDeque::new(),
            trees: Vec::new(),
            asked,
            stop,
        };
        let walked = walk.all(refs);
        let looked = looked.join();
        let looked = looked.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        walked.and(looked)
    })
}

/// A commit and the tree that it names.
type Named = (ObjectId, ObjectId);

/// Looks whether what commits name are trees, until no more come.
fn look_for(trees: &Receiver<Vec<Named>>, objects: &Objects<'_>) -> Result<(), RestoreError> {
    for (commit, tree) in trees.iter().flatten() {
        let why = match objects.kind(tree)? {
            Some(gix::objs::Kind::Tree) => continue,
            Some(kind) => format!("which is a {kind} and no tree"),
            None => "which is not in the archive".into(),
        };
        return Err(wrong("commit", commit, format!("it names {tree}, {why}")));
    }
    Ok(())
}

/// The commits at which history is said to end, sorted.
fn ends<'r>(refs: &Refs<'r>) -> Result<Vec<&'r [u8]>, RestoreError> {
    let mut ends: Vec<&[u8]> = refs.shallow().collect();
    if !ends.is_sorted() {
        // Git sorts them.
        if ends.len() > UNSORTED_REFS_MAX {
            let why = "its many ids are not sorted";
            return Err(RestoreError::entry(b".git/shallow", why));
        }
        ends.sort_unstable();
    }
    Ok(ends)
}

/// A walk from what is newest.
///
/// Invariant: what is in `open` is a commit or a tag, is there, and in `met`; what is in `met` was read
/// or is in `open`.
struct Walk<'w> {
    objects: &'w Objects<'w>,
    ends: Vec<&'w [u8]>,
    met: HashMap<ObjectId, gix::objs::Kind>,
    open: VecDeque<(ObjectId, gix::objs::Kind)>,
    /// Trees that nobody was asked to look for yet.
    trees: Vec<Named>,
    /// Who looks for them meanwhile.
    asked: Sender<Vec<Named>>,
    stop: &'w Stop,
}

impl Walk<'_> {
    /// Walks from all refs.
    fn all(mut self, refs: &Refs<'_>) -> Result<(), RestoreError> {
        // From HEAD first, whatever number of refs there is.
        if let Some(head) = refs.commit() {
            self.named(b".git/HEAD", head, Some(gix::objs::Kind::Commit))?;
            self.run(HISTORY_READ_MAX)?;
        }
        refs.each(|name, hex| {
            let id = ObjectId::from_hex(hex);
            let id = id.map_err(|e| RestoreError::entry(name, e.to_string()))?;
            self.named(name, id, None)
        })?;
        self.run(HISTORY_READ_MAX)?;
        self.ask();
        Ok(())
    }

    /// Hands on which trees are to be looked for. Who does that has ended only if one is not there, and says so.
    fn ask(&mut self) {
        let _ = self.asked.send(std::mem::take(&mut self.trees));
    }

    /// Takes what a ref names, which may have to be of a kind.
    fn named(
        &mut self,
        name: &[u8],
        id: ObjectId,
        must_be: Option<gix::objs::Kind>,
    ) -> Result<(), RestoreError> {
        if self.stop.is_set() {
            return Err(stopped());
        }
        self.take(id, must_be)?
            .map_err(|why| RestoreError::entry(name, format!("it names {id}, {why}")))
    }

    /// Takes an object that something names; or says what is wrong with it.
    fn take(
        &mut self,
        id: ObjectId,
        must_be: Option<gix::objs::Kind>,
    ) -> Result<Result<(), String>, RestoreError> {
        let found = match self.met.get(&id) {
            Some(kind) => Some(*kind),
            None => self.objects.kind(id)?,
        };
        Ok(match (found, must_be) {
            (None, _) => Err("which is not in the archive".into()),
            (Some(kind), Some(must_be)) if kind != must_be => {
                Err(format!("which is a {kind} and no {must_be}"))
            }
            (Some(kind), _) => {
                self.add(id, kind);
                Ok(())
            }
        })
    }

    fn add(&mut self, id: ObjectId, kind: gix::objs::Kind) {
        let leads_on = matches!(kind, gix::objs::Kind::Commit | gix::objs::Kind::Tag);
        if !leads_on || self.open.len() >= HISTORY_READ_MAX {
            return;
        }
        if self.met.insert(id, kind).is_none() {
            self.open.push_back((id, kind));
        }
    }

    /// Reads until there is nothing left, or so many; what is left then is left out.
    fn run(&mut self, most: usize) -> Result<(), RestoreError> {
        let mut buffer = Vec::new();
        for _ in 0..most {
            let Some((id, kind)) = self.open.pop_front() else {
                break;
            };
            self.objects.read(id, kind, &mut buffer)?;
            match kind {
                gix::objs::Kind::Tag => self.tag(id, &buffer)?,
                _ => self.commit(id, &buffer)?,
            }
        }
        // Whatever names it later has it read.
        for (id, _) in self.open.drain(..) {
            self.met.remove(&id);
        }
        Ok(())
    }

    fn tag(&mut self, id: ObjectId, content: &[u8]) -> Result<(), RestoreError> {
        let target = TagRefIter::from_bytes(content, id.kind()).target_id();
        let target = target.map_err(|e| wrong("tag", id, e.to_string()))?;
        self.names("tag", id, target, None)
    }

    fn commit(&mut self, id: ObjectId, content: &[u8]) -> Result<(), RestoreError> {
        let hex = id.to_string();
        let is_end = self.ends.binary_search(&hex.as_bytes()).is_ok();
        let (tree, mut rest) = line(b"tree ", id, content)?
            .ok_or_else(|| wrong("commit", id, "it has no tree".into()))?;
        self.trees.push((id, tree));
        if self.trees.len() == HISTORY_TREES_AT_ONCE {
            self.ask();
        }
        while let Some((parent, after)) = line(b"parent ", id, rest)? {
            rest = after;
            if !is_end {
                self.names("commit", id, parent, Some(gix::objs::Kind::Commit))?;
            }
        }
        Ok(())
    }

    /// What an object of `kind` names has to be there, and what it `must_be`.
    fn names(
        &mut self,
        kind: &str,
        id: ObjectId,
        named: ObjectId,
        must_be: Option<gix::objs::Kind>,
    ) -> Result<(), RestoreError> {
        self.take(named, must_be)?
            .map_err(|why| wrong(kind, id, format!("it names {named}, {why}")))
    }
}

/// The id on the line of a commit that begins with `key`, and what is behind the line; `None` for any
/// other line.
fn line<'c>(
    key: &[u8],
    commit: ObjectId,
    content: &'c [u8],
) -> Result<Option<(ObjectId, &'c [u8])>, RestoreError> {
    let Some(rest) = content.strip_prefix(key) else {
        return Ok(None);
    };
    let (hex, rest) = rest
        .split_at_checked(commit.kind().len_in_hex())
        .unwrap_or_default();
    match (ObjectId::from_hex(hex), rest.strip_prefix(b"\n")) {
        (Ok(id), Some(rest)) => Ok(Some((id, rest))),
        _ => {
            let why = format!("its line \"{}\" has no id", key.trim_ascii().escape_ascii());
            Err(wrong("commit", commit, why))
        }
    }
}

fn wrong(kind: &str, id: ObjectId, why: String) -> RestoreError {
    RestoreError::entry(b".git/objects", format!("{kind} {id}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::super::capture::Captured;
    use super::super::testing::Repository;
    use super::*;

    /// A commit with the empty tree and these parents.
    fn commit(repository: &Repository, text: &str, parents: &[ObjectId]) -> ObjectId {
        let tree = repository.tree::<&str>(&[]);
        let parents: String = parents.iter().map(|id| format!("parent {id}\n")).collect();
        let who = "A <a@b> 1 +0000";
        let text = format!("tree {tree}\n{parents}author {who}\ncommitter {who}\n\n{text}\n");
        repository.object("commit", text.as_bytes())
    }

    fn tag(repository: &Repository, target: ObjectId, kind: &str) -> ObjectId {
        let text = format!("object {target}\ntype {kind}\ntag v\ntagger A <a@b> 1 +0000\n\nx\n");
        repository.object("tag", text.as_bytes())
    }

    /// What is said of a repository whose HEAD is at `head`, with other refs and `shallow`.
    fn said(
        repository: &Repository,
        head: ObjectId,
        others: &[(&str, ObjectId)],
        shallow: &[ObjectId],
    ) -> Result<(), String> {
        let mut captured = Captured::default();
        let mut put = |name: &str, text: String| {
            captured.begin(format!(".git/{name}").as_bytes()).unwrap();
            captured.push(text.as_bytes()).unwrap();
        };
        put("HEAD", "ref: refs/heads/main\n".into());
        put("refs/heads/main", format!("{head}\n"));
        for (name, id) in others {
            put(name, format!("{id}\n"));
        }
        put(
            "shallow",
            shallow.iter().map(|id| format!("{id}\n")).collect(),
        );
        let stop = Stop::default();
        let refs = Refs::read(&captured, Kind::Sha1, &stop).unwrap();
        check(repository.path(), &refs, Kind::Sha1, &stop).map_err(|e| {
            assert_eq!(e.exit_code(), 5, "{e}");
            e.to_string()
        })
    }

    #[test]
    fn what_refs_and_commits_name_is_there() {
        let repository = Repository::new();
        let first = commit(&repository, "first", &[]);
        let second = commit(&repository, "second", &[first]);
        let third = commit(&repository, "third", &[second]);
        let said = |head, others: &[_], shallow: &[_]| said(&repository, head, others, shallow);
        said(third, &[("refs/remotes/origin/old", first)], &[]).unwrap();
        let remove = |id| std::fs::remove_file(repository.loose(id)).unwrap();
        remove(first);
        for head in [third, second] {
            let why = said(head, &[], &[]).unwrap_err();
            assert!(why.contains(&format!("names {first}")), "{why}");
        }
        // Where it says that it ends.
        said(third, &[], &[second]).unwrap();
        said(third, &[], &[third]).unwrap();
        said(third, &[], &[first]).unwrap_err();
        for name in ["refs/remotes/origin/old", "refs/tags/old"] {
            let why = said(third, &[(name, first)], &[second]).unwrap_err();
            assert!(why.contains(name), "{why}");
        }
        // Another ref's history.
        let other = commit(&repository, "other", &[first]);
        said(third, &[("refs/tags/other", other)], &[second]).unwrap_err();
        said(third, &[("refs/tags/other", other)], &[other, second]).unwrap();
        remove(second);
        said(third, &[], &[second]).unwrap_err();
        // A tree that nobody has checked out.
        let gone = repository.tree(&[("100644 f", repository.object("blob", b"x"))]);
        let text = format!("tree {gone}\nauthor A <a@b> 1 +0000\ncommitter A <a@b> 1 +0000\n\nx\n");
        let bare = repository.object("commit", text.as_bytes());
        said(bare, &[], &[]).unwrap();
        remove(gone);
        said(bare, &[], &[]).unwrap_err();
    }

    #[test]
    fn what_a_ref_names_is_of_its_kind() {
        let repository = Repository::new();
        let head = commit(&repository, "head", &[]);
        let blob = repository.object("blob", b"x");
        let tree = repository.tree(&[("100644 f", blob)]);
        let tags = [
            tag(&repository, tree, "tree"),
            tag(&repository, head, "commit"),
        ];
        // Git's own repository has tags of files, that of Linux one of a tree.
        for id in tags.into_iter().chain([blob, tree, head]) {
            said(&repository, head, &[("refs/tags/v", id)], &[]).unwrap();
            // Git clones such branches.
            said(&repository, head, &[("refs/remotes/origin/b", id)], &[]).unwrap();
            let at_head = said(&repository, id, &[], &[]);
            assert_eq!(at_head.is_ok(), id == head, "{at_head:?}");
        }
        let nested = tag(&repository, tags[0], "tag");
        said(&repository, head, &[("refs/tags/v", nested)], &[]).unwrap();
        std::fs::remove_file(repository.loose(tree)).unwrap();
        said(&repository, head, &[("refs/tags/v", nested)], &[]).unwrap_err();
        // A parent that is no commit, met before or not.
        for parent in [blob, tags[1]] {
            let odd = commit(&repository, "odd", &[parent]);
            said(&repository, odd, &[], &[]).unwrap_err();
            let others = [("refs/tags/a", tags[1]), ("refs/tags/b", odd)];
            said(&repository, head, &others, &[]).unwrap_err();
        }
    }

    #[test]
    fn of_a_commit_no_more_is_read_than_git_reads() {
        let repository = Repository::new();
        let tree = repository.tree::<&str>(&[]);
        let who = "A <a@b> 1 +0000";
        for author in [
            "author A U Thor 1112911993 +0000\n",
            "author A a@b> 1 +0000\n",
            "author \n",
            "",
        ] {
            let text = format!("tree {tree}\n{author}committer {who}\n\nx\n");
            let old = repository.object("commit", text.as_bytes());
            said(&repository, commit(&repository, "new", &[old]), &[], &[]).unwrap();
        }
        let bare = repository.object("commit", format!("tree {tree}\n").as_bytes());
        said(&repository, commit(&repository, "new", &[bare]), &[], &[]).unwrap();
        for text in [
            String::new(),
            format!("tree {tree}"),
            format!("tree {}\n\n", &tree.to_string()[1..]),
            format!("author {who}\ntree {tree}\n"),
            format!("tree {tree}\nparent {}\n\n", "x".repeat(40)),
        ] {
            let odd = repository.object("commit", text.as_bytes());
            let why = said(&repository, commit(&repository, "new", &[odd]), &[], &[]);
            assert!(why.is_err(), "{text:?}");
        }
    }

    /// A branch there is not taken for read because of what HEAD's history has named.
    #[test]
    fn what_a_ref_names_is_read_where_the_limit_of_heads_history_is() {
        let repository = Repository::new();
        let gone = commit(&repository, "gone", &[]);
        let old = commit(&repository, "old", &[gone]);
        std::fs::remove_file(repository.loose(gone)).unwrap();
        let mut stream = String::new();
        for number in 0..HISTORY_READ_MAX {
            let who = format!("committer A <a@b> {number} +0000");
            stream += &format!("commit refs/heads/new\n{who}\ndata 0\n\n");
            if number == 0 {
                stream += &format!("from {old}\n");
            }
        }
        repository.git(&["fast-import", "--quiet"], stream.as_bytes());
        let new = repository.git(&["rev-parse", "new"], b"");
        let new = ObjectId::from_hex(new.trim_ascii()).unwrap();
        said(&repository, new, &[], &[]).unwrap();
        let why = said(&repository, new, &[("refs/remotes/origin/old", old)], &[]).unwrap_err();
        assert!(why.contains(&format!("names {gone}")), "{why}");
    }

    #[test]
    fn in_packs_deltas_are_what_they_build_upon() {
        let repository = Repository::new();
        let text: String = (0..200).map(|n| format!("line {n}\n")).collect();
        let first = commit(&repository, &text, &[]);
        let second = commit(&repository, &format!("{text}x"), &[first]);
        let third = commit(&repository, &format!("{text}y"), &[second]);
        let all = format!("{first}\n{second}\n{third}\n");
        let args = [
            "pack-objects",
            "-q",
            "--window=10",
            ".git/objects/pack/pack",
        ];
        repository.git(&args, all.as_bytes());
        repository.git(&["prune-packed", "-q"], b"");
        let shown = repository.git(
            &[
                "cat-file",
                "--batch-all-objects",
                "--batch-check=%(deltabase)",
            ],
            b"",
        );
        assert!(
            shown
                .split(|b| *b == b'\n')
                .any(|base| base.iter().any(|b| *b > b'0'))
        );
        said(&repository, third, &[], &[]).unwrap();
    }
}
