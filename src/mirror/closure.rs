//! Whether all that a commit leads to is in a mirror. What refs lead to always is; of what they have left,
//! something may have expired.

use std::collections::HashSet;
use std::path::Path;

use gix::ObjectId;

use super::blocking::blocking;
use super::config;
use super::error::MirrorError;
use super::files::loose_ids;
use super::git::{Call, Git};
use super::packs::{PackKind, open_index, packs};
use super::set_up::format_of;
use crate::git::stdin_file;

/// What a mirror has of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closure {
    /// Refs lead to it.
    Reached,
    /// No ref does, and all of it is in packs.
    Left,
    /// Something of it is gone, or perhaps not in packs.
    Broken,
}

impl Git {
    /// What the mirror has of a commit that is there.
    ///
    /// # Errors
    /// The mirror cannot be read, or that takes too long.
    pub async fn closure(&self, mirror: &Path, id: ObjectId) -> Result<Closure, MirrorError> {
        let id = id.to_string();
        let args = ["rev-list", "--objects", "--count", &id, "--not", "--all"];
        let counted = self.output(self.local("git rev-list", mirror, args)).await;
        let out = match counted {
            Ok(out) => out,
            // It ends so at the first object that is missing.
            Err(MirrorError::Git { code: Some(_), .. }) => return Ok(Closure::Broken),
            Err(e) => return Err(e),
        };
        if out.trim_ascii() == b"0" {
            return Ok(Closure::Reached);
        }
        let at = mirror.to_owned();
        let has_aside = blocking(mirror, move || has_aside(&at)).await?;
        Ok(match has_aside {
            true => Closure::Broken,
            false => Closure::Left,
        })
    }

    /// Those of some objects that followed refs lead to: what they name, and commits. Of what else there may be this
    /// says nothing.
    ///
    /// # Errors
    /// The mirror cannot be read, or that takes too long.
    pub(crate) async fn reached_of(
        &self,
        mirror: &Path,
        ids: &[ObjectId],
    ) -> Result<HashSet<ObjectId>, MirrorError> {
        if ids.is_empty() {
            return Ok(HashSet::new());
        }
        let (path, git) = (mirror.to_owned(), self.clone());
        let refs = blocking(mirror, move || Ok(git.refs.read(&path, &git.follow)?)).await?;
        let named = refs
            .refs
            .iter()
            .flat_map(|one| [Some(one.target), one.peeled]);
        let tips: HashSet<ObjectId> = named.flatten().chain(refs.head_id()).collect();
        let is_tip = |id: &&ObjectId| tips.contains(*id);
        let mut reached: HashSet<ObjectId> = ids.iter().filter(is_tip).copied().collect();
        let rest: Vec<ObjectId> = ids.iter().filter(|id| !is_tip(id)).copied().collect();
        // For each that is not there git would look through the directory of packs anew.
        let path = mirror.to_owned();
        let rest = blocking(mirror, move || there(&path, rest)).await?;
        if rest.is_empty() {
            return Ok(reached);
        }
        let names: Vec<String> = rest.iter().map(ToString::to_string).collect();
        let kinds = self.kinds(mirror, &names).await?;
        let there = rest.into_iter().zip(kinds);
        let commits = there.filter(|(_, kind)| kind.as_deref() == Some("commit"));
        let commits: HashSet<ObjectId> = commits.map(|(id, _)| id).collect();
        if commits.is_empty() {
            return Ok(reached);
        }
        let left = self.left_of(mirror, &commits, &tips).await?;
        reached.extend(commits.difference(&left));
        Ok(reached)
    }

    /// Those of some commits that none of these tips leads to.
    async fn left_of(
        &self,
        mirror: &Path,
        commits: &HashSet<ObjectId>,
        tips: &HashSet<ObjectId>,
    ) -> Result<HashSet<ObjectId>, MirrorError> {
        let wanted = commits.iter().map(|id| format!("{id}\n"));
        let text: String = wanted
            .chain(tips.iter().map(|id| format!("^{id}\n")))
            .collect();
        let stdin = stdin_file(text.as_bytes());
        let stdin = stdin.map_err(|source| MirrorError::io("name commits of", mirror, source))?;
        let call = Call {
            stdin: Some(stdin),
            ..self.local("git rev-list", mirror, ["rev-list", "--stdin"])
        };
        let (mut left, mut line) = (HashSet::new(), Vec::new());
        let mut take = |bytes: &[u8]| {
            for byte in bytes {
                if *byte != b'\n' {
                    line.push(*byte);
                    continue;
                }
                let id = ObjectId::from_hex(&line).map_err(|e| e.to_string())?;
                line.clear();
                left.extend(commits.get(&id));
            }
            Ok(())
        };
        self.run(call, &mut take).await?;
        Ok(left)
    }

    /// Whether one commit leads to another, in any repository.
    ///
    /// # Errors
    /// It cannot be read, or that takes too long.
    pub(crate) async fn leads_to(
        &self,
        repository: &Path,
        tip: ObjectId,
        id: ObjectId,
    ) -> Result<bool, MirrorError> {
        let [tip, id] = [tip, id].map(|id| id.to_string());
        let args = ["rev-list", "--objects", "--count", &id, "--not", &tip];
        match self
            .output(self.local("git rev-list", repository, args))
            .await
        {
            Ok(out) => Ok(out.trim_ascii() == b"0"),
            // It is not there.
            Err(MirrorError::Git { code: Some(_), .. }) => Ok(false),
            Err(e) => Err(e),
        }
    }
}

/// Those of some objects that a mirror has.
fn there(mirror: &Path, mut ids: Vec<ObjectId>) -> Result<Vec<ObjectId>, MirrorError> {
    let objects = mirror.join("objects");
    let failed = |source| MirrorError::io("look for objects in", &objects, source);
    // In this order: what is packed meanwhile is seen in a pack.
    let loose = loose_ids(&objects).map_err(failed)?;
    let loose: HashSet<ObjectId> = loose.into_iter().collect();
    let hash = format_of(&config::read(mirror)?);
    let packs = packs(&objects.join("pack")).map_err(failed)?;
    let mut indices = Vec::new();
    for pack in packs {
        match open_index(&pack.index, hash) {
            Ok(index) => indices.push(index),
            // Joined with others meanwhile. What is not found is shown in another way, or not known here.
            Err(_) if !pack.index.exists() => {}
            Err(e) => return Err(failed(e)),
        }
    }
    ids.retain(|id| loose.contains(id) || indices.iter().any(|index| index.lookup(id).is_some()));
    Ok(ids)
}

/// Whether there are loose objects or cruft packs, which are no part of a snapshot.
pub(super) fn has_aside(mirror: &Path) -> Result<bool, MirrorError> {
    let objects = mirror.join("objects");
    let failed = |source| MirrorError::io("list", &objects, source);
    let has_cruft = packs(&objects.join("pack"))
        .map_err(failed)?
        .iter()
        .any(|pack| pack.kind == PackKind::Cruft);
    Ok(has_cruft || !loose_ids(&objects).map_err(failed)?.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mirror::testing::{Scratch, git, run as wait};

    #[test]
    fn what_refs_have_left_is_there_until_something_of_it_is_gone() {
        let scratch = Scratch::with_commit();
        let up = scratch.up();
        let tip = || ObjectId::from_hex(git(&up, &["rev-parse", "main"]).as_bytes()).unwrap();
        let first = tip();
        scratch.commit("main", "two");
        let second = tip();
        let closure = |id| wait(scratch.git.closure(&up, id)).unwrap();
        assert_eq!(closure(first), Closure::Reached);
        assert_eq!(closure(second), Closure::Reached);
        git(&up, &["update-ref", "refs/heads/main", &first.to_string()]);
        assert_eq!(closure(second), Closure::Broken, "it is loose");
        git(&up, &["update-ref", "refs/heads/main", &second.to_string()]);
        git(&up, &["repack", "-adq"]);
        git(&up, &["update-ref", "refs/heads/main", &first.to_string()]);
        assert_eq!(closure(second), Closure::Left);
        let absent = ObjectId::null(gix::hash::Kind::Sha1);
        assert_eq!(closure(absent), Closure::Broken);
        let tree = ObjectId::from_hex(git(&up, &["rev-parse", "main^{tree}"]).as_bytes()).unwrap();
        let reached = wait(scratch.git.reached_of(&up, &[first, second, absent, tree])).unwrap();
        assert_eq!(reached, HashSet::from([first]));
        git(
            &up,
            &["update-ref", "refs/heads/other", &second.to_string()],
        );
        git(&up, &["update-ref", "-d", "refs/heads/main"]);
        let reached = wait(scratch.git.reached_of(&up, &[first, second])).unwrap();
        assert_eq!(
            reached,
            HashSet::from([first, second]),
            "one of them is no tip"
        );
        git(&up, &["update-ref", "refs/mine/other", &second.to_string()]);
        git(&up, &["update-ref", "-d", "refs/heads/other"]);
        let reached = wait(scratch.git.reached_of(&up, &[first])).unwrap();
        assert!(reached.is_empty(), "it is not followed");
    }
}
