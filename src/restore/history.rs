//! Whether what a repository's refs lead to is there: git takes it for granted that whoever has a
//! commit has its history, too, and finds out in the user's next `git log` or `git fetch`.
//!
//! Every object that a ref names has to be there, and of the kind that it must be. From there on
//! commits and tags are read, those next to the refs first, up to a limit, and what they name is looked
//! up. Further down, and of trees and files other than HEAD's, an archive is believed; so it is where
//! it says that its history ends (`shallow`).

use std::collections::{HashSet, VecDeque};
use std::path::Path;

use gix::hash::{Kind, ObjectId};
use gix::objs::commit::ref_iter::Token;
use gix::objs::{CommitRefIter, TagRefIter};

use super::error::RestoreError;
use super::objects::Objects;
use super::refs::Refs;
use super::stop::Stop;
use super::write::stopped;
use crate::limits::{HISTORY_READ_MAX, UNSORTED_REFS_MAX};

/// Looks for what the refs of the repository at `tree` lead to.
pub(super) fn check(
    tree: &Path,
    refs: &Refs<'_>,
    hash: Kind,
    stop: &Stop,
) -> Result<(), RestoreError> {
    let objects = Objects::open(tree, hash, stop)?;
    let mut walk = Walk {
        objects: &objects,
        ends: ends(refs)?,
        met: HashSet::new(),
        open: VecDeque::new(),
        stop,
    };
    // That of HEAD first, whatever number of refs there is.
    if let Some(head) = refs.commit() {
        walk.named(b".git/HEAD", head, true)?;
        walk.run(HISTORY_READ_MAX)?;
    }
    refs.each(|name, hex| {
        let id = ObjectId::from_hex(hex);
        let id = id.map_err(|e| RestoreError::entry(name, e.to_string()))?;
        walk.named(name, id, !name.starts_with(b"refs/tags/"))
    })?;
    walk.run(HISTORY_READ_MAX)
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
/// Invariant: what is in `open` is a commit or a tag, is there, and in `met`.
struct Walk<'w> {
    objects: &'w Objects<'w>,
    ends: Vec<&'w [u8]>,
    met: HashSet<ObjectId>,
    open: VecDeque<(ObjectId, gix::objs::Kind)>,
    stop: &'w Stop,
}

impl Walk<'_> {
    /// Takes what a ref names: a commit if it `is_branch`, anything if not.
    fn named(&mut self, name: &[u8], id: ObjectId, is_branch: bool) -> Result<(), RestoreError> {
        if self.stop.is_set() {
            return Err(stopped());
        }
        match self.objects.kind(id)? {
            None => {
                let why = format!("it names {id}, which is not in the archive");
                Err(RestoreError::entry(name, why))
            }
            Some(kind) if is_branch && kind != gix::objs::Kind::Commit => {
                let why = format!("it names {id}, which is a {kind} and no commit");
                Err(RestoreError::entry(name, why))
            }
            Some(kind) => {
                self.add(id, kind);
                Ok(())
            }
        }
    }

    fn add(&mut self, id: ObjectId, kind: gix::objs::Kind) {
        let leads_on = matches!(kind, gix::objs::Kind::Commit | gix::objs::Kind::Tag);
        if leads_on && self.open.len() < HISTORY_READ_MAX && self.met.insert(id) {
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
        self.open.clear();
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
        for token in CommitRefIter::from_bytes(content, id.kind()) {
            match token.map_err(|e| wrong("commit", id, e.to_string()))? {
                Token::Tree { id: tree } => {
                    self.names("commit", id, tree, Some(gix::objs::Kind::Tree))?;
                }
                Token::Parent { id: parent } if !is_end => {
                    self.names("commit", id, parent, Some(gix::objs::Kind::Commit))?;
                }
                Token::Parent { .. } => {}
                _ => break,
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
        if self.met.contains(&named) {
            return Ok(());
        }
        match self.objects.kind(named)? {
            None => {
                let why = format!("it names {named}, which is not in the archive");
                Err(wrong(kind, id, why))
            }
            Some(found) if must_be.is_some_and(|must_be| must_be != found) => {
                Err(wrong(kind, id, format!("{named} is a {found}")))
            }
            Some(found) => {
                self.add(named, found);
                Ok(())
            }
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
            let branch = said(&repository, head, &[("refs/remotes/origin/b", id)], &[]);
            assert_eq!(branch.is_ok(), id == head, "{branch:?}");
        }
        let nested = tag(&repository, tags[0], "tag");
        said(&repository, head, &[("refs/tags/v", nested)], &[]).unwrap();
        std::fs::remove_file(repository.loose(tree)).unwrap();
        said(&repository, head, &[("refs/tags/v", nested)], &[]).unwrap_err();
        // A parent that is no commit.
        let odd = commit(&repository, "odd", &[blob]);
        said(&repository, odd, &[], &[]).unwrap_err();
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
