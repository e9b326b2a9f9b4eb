//! What takes the place of a snapshot when there is none: a clone from the upstream, with the real
//! `git`.

use super::difference;
use super::error::RestoreError;
use super::link::Link;
use super::run::{self, Room};
use super::update::{has_commit, object_id};
use super::wanted::{Checkout, Named, Wanted};

fn line(bytes: Vec<u8>) -> String {
    String::from_utf8_lossy(&bytes).trim().to_owned()
}

/// Where a clone has the upstream's ref `name`.
fn local_name(name: &str) -> String {
    match name.strip_prefix("refs/heads/") {
        Some(branch) => format!("refs/remotes/origin/{branch}"),
        None => name.to_owned(),
    }
}

/// What has git take no more of the history than that.
fn depth(is_shallow: bool) -> &'static [&'static str] {
    match is_shallow {
        true => &["--depth", "1"],
        false => &[],
    }
}

/// What git says of a branch or tag that the upstream does not have.
const NOT_FOUND: &str = "not found in upstream";

/// The short name of a branch or tag that is checked out by its name, and the name as it was given. A clone without
/// history has that ref and no other.
fn branch_or_tag(checkout: &Checkout) -> Option<(&str, &str)> {
    let Checkout::Ref(named) = checkout else {
        return None;
    };
    let full = &named.names[0];
    let short = full
        .strip_prefix("refs/heads/")
        .or_else(|| full.strip_prefix("refs/tags/"))?;
    Some((short, &named.given))
}

/// Clones into the empty directory of `room` and checks out what is wanted.
pub(super) fn clone(
    link: Link<'_>,
    url: &str,
    wanted: &Wanted,
    room: Room<'_>,
) -> Result<(), RestoreError> {
    // Its files come when they were looked at.
    let args = ["clone", "--quiet", "--no-checkout", "--origin", "origin"];
    let depth = depth(wanted.is_shallow);
    let (named, is_shallow) = (branch_or_tag(&wanted.checkout), wanted.is_shallow);
    let named = named.filter(|_| is_shallow);
    let branch = named.map(|(short, _)| ["--branch", short]);
    let branch = branch.as_ref().map_or(&[][..], |branch| branch);
    let args = [&args[..], depth, branch, &["--", url, "."]].concat();
    run::upstream(link, url, room, &args).map_err(|error| match (error, named) {
        (RestoreError::Git { detail, .. }, Some((_, given))) if detail.contains(NOT_FOUND) => {
            RestoreError::Missing(format!("{given} ({detail})"))
        }
        (error, _) => error,
    })?;
    let clone = Clone {
        link,
        url,
        room,
        is_shallow,
    };
    let mut missing = Vec::new();
    for id in wanted.all_commits() {
        note(clone.ensure_commit(id), &mut missing)?;
    }
    let mut names = Vec::new();
    for named in wanted.all_refs() {
        names.push(note(clone.ensure_ref(named), &mut missing)?);
    }
    if !missing.is_empty() {
        return Err(RestoreError::Missing(missing.join(", ")));
    }
    match (&wanted.checkout, names.first()) {
        (Checkout::Commit(id), _) => clone.check_out(id),
        (Checkout::At(named, id), _) => clone.check_out_at(named, id),
        (Checkout::Ref(_), Some(Some(name))) => clone.check_out(name),
        _ => clone.check_out_head(),
    }
}

/// Notes what is missing; all else that goes wrong is an error.
fn note(
    found: Result<String, RestoreError>,
    missing: &mut Vec<String>,
) -> Result<Option<String>, RestoreError> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(RestoreError::Missing(what)) => {
            missing.push(what);
            Ok(None)
        }
        Err(e) => Err(e),
    }
}

struct Clone<'a> {
    link: Link<'a>,
    url: &'a str,
    room: Room<'a>,
    is_shallow: bool,
}

impl Clone<'_> {
    fn git(&self, args: &[&str]) -> Result<String, RestoreError> {
        run::local(self.link.stop, self.room.tree, args).map(line)
    }

    /// What a name leads to, if it is there.
    fn verify(&self, what: &str) -> Result<String, RestoreError> {
        self.git(&["rev-parse", "--quiet", "--verify", what])
    }

    /// Fetches what is missing otherwise: `given` is its name in an error.
    fn fetch(&self, what: &str, given: &str) -> Result<(), RestoreError> {
        let args = ["fetch", "--quiet", "--no-tags", "--no-write-fetch-head"];
        let args = [&args[..], depth(self.is_shallow), &["origin", what]].concat();
        match run::upstream(self.link, self.url, self.room, &args) {
            Ok(_) => Ok(()),
            Err(e) if e.is_disks() => Err(e),
            Err(e) => Err(RestoreError::Missing(format!("{given} ({e})"))),
        }
    }

    /// Fetches a commit if it is not there.
    fn ensure_commit(&self, id: &str) -> Result<String, RestoreError> {
        let is_there = || has_commit(self.link.stop, self.room.tree, id);
        if !is_there() {
            self.fetch(id, id)?;
        }
        match is_there() {
            true => Ok(id.to_owned()),
            false => Err(RestoreError::Missing(format!("{id} is no commit"))),
        }
    }

    /// Finds a ref, fetched if a clone has it not by itself; gives its full name.
    fn ensure_ref(&self, named: &Named) -> Result<String, RestoreError> {
        let is_there = |name: &&String| self.verify(&local_name(name)).is_ok();
        let name = match named.names.iter().find(is_there) {
            Some(name) => name,
            None => self.fetch_ref(named)?,
        };
        let local = local_name(name);
        let peeled = format!("{local}^{{commit}}");
        let found = [&local, &peeled].map(|what| self.verify(what).unwrap_or_default());
        match &named.id {
            Some(id) if !found.contains(id) => {
                let what = format!("{name} is {}, not {id}", found[0]);
                Err(RestoreError::Missing(what))
            }
            _ => Ok(name.clone()),
        }
    }

    /// Fetches a ref that a clone has not by itself: one with no history has no branch but its own.
    fn fetch_ref<'n>(&self, named: &'n Named) -> Result<&'n String, RestoreError> {
        let (first, others) = (&named.names[0], &named.names[1..]);
        let fetch =
            |name: &String| self.fetch(&format!("+{name}:{}", local_name(name)), &named.given);
        match (fetch(first), others.first()) {
            (Err(RestoreError::Missing(_)), Some(other)) if self.is_shallow => {
                fetch(other).map(|()| other)
            }
            (fetched, _) => fetched.map(|()| first),
        }
    }

    /// Has git write the files of a commit, of which there are none yet, if there is room for them.
    fn write(&self, commit: &str, args: &[&str]) -> Result<(), RestoreError> {
        let Room { tree, quota, .. } = self.room;
        let commit = self.verify(&format!("{commit}^{{commit}}"))?;
        let ids = [None, Some(object_id(&commit)?)];
        difference::between(tree, ids, quota, self.link.stop)?;
        run::check_out(self.link.stop, self.room, args).map(|_| ())
    }

    /// Checks out what the clone has made HEAD of, if there is any commit.
    fn check_out_head(&self) -> Result<(), RestoreError> {
        match self.verify("HEAD") {
            Ok(_) => self.write("HEAD", &["read-tree", "--reset", "-u", "HEAD"]),
            Err(_) => Ok(()),
        }
    }

    /// Checks out a branch by its name and anything else detached.
    fn check_out(&self, what: &str) -> Result<(), RestoreError> {
        match what.strip_prefix("refs/heads/") {
            Some(branch) => {
                let remote = local_name(what);
                let args = ["checkout", "--quiet", "-B", branch, "--track", &remote];
                self.instead(Some(branch), &remote, &args)
            }
            None => {
                let commit = format!("{what}^{{commit}}");
                self.instead(None, what, &["checkout", "--quiet", "--detach", &commit])
            }
        }
    }

    /// Checks out a commit as the branch of that name, or detached if that is another ref's.
    fn check_out_at(&self, named: &Named, id: &str) -> Result<(), RestoreError> {
        let is_there = |name: &&String| self.verify(&local_name(name)).is_ok();
        let there = named.names.iter().find(is_there);
        let name = there.unwrap_or(&named.names[0]);
        let Some(branch) = name.strip_prefix("refs/heads/") else {
            return self.check_out(id);
        };
        let commit = format!("{id}^{{commit}}");
        let args = ["checkout", "--quiet", "-B", branch, &commit];
        self.instead(Some(branch), id, &args)?;
        if there.is_none() {
            // There is nothing to follow.
            return Ok(());
        }
        let remote = [("remote", "origin"), ("merge", name)];
        remote.iter().try_for_each(|(key, value)| {
            let key = format!("branch.{branch}.{key}");
            self.git(&["config", &key, value]).map(|_| ())
        })
    }

    /// Checks out something else than the branch that the clone has made, and removes that.
    fn instead(
        &self,
        branch: Option<&str>,
        commit: &str,
        args: &[&str],
    ) -> Result<(), RestoreError> {
        let head = ["symbolic-ref", "--quiet", "--short", "HEAD"];
        let made = self.git(&head).ok();
        self.write(commit, args)?;
        if let Some(made) = made.filter(|made| Some(made.as_str()) != branch) {
            // There is none in an empty repository.
            let _ = self.git(&["branch", "--quiet", "-D", "--", &made]);
        }
        Ok(())
    }
}
