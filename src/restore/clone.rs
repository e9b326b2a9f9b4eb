//! What takes the place of a snapshot when there is none: a clone from the upstream, with the real
//! `git`.

use std::path::Path;

use super::download::Link;
use super::error::RestoreError;
use super::run;
use super::update::has_commit;
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

/// Clones into the empty directory `tree` and checks out what is wanted.
pub fn clone(link: Link<'_>, url: &str, wanted: &Wanted, tree: &Path) -> Result<(), RestoreError> {
    let args = ["clone", "--quiet", "--origin", "origin", "--", url, "."];
    run::upstream(link, url, tree, &args)?;
    let clone = Clone { link, url, tree };
    let mut missing = Vec::new();
    let mut note = |found: Result<String, String>| found.map_err(|why| missing.push(why)).ok();
    let commits = wanted.all_commits();
    commits.for_each(|id| drop(note(clone.ensure_commit(id))));
    let names = wanted.all_refs();
    let names: Vec<_> = names.map(|named| note(clone.ensure_ref(named))).collect();
    if !missing.is_empty() {
        return Err(RestoreError::Missing(missing.join(", ")));
    }
    match (&wanted.checkout, names.first()) {
        (Checkout::Commit(id), _) => clone.check_out(id),
        (Checkout::Ref(_), Some(Some(name))) => clone.check_out(name),
        _ => Ok(()),
    }
}

struct Clone<'a> {
    link: Link<'a>,
    url: &'a str,
    tree: &'a Path,
}

impl Clone<'_> {
    fn git(&self, args: &[&str]) -> Result<String, RestoreError> {
        run::local(self.link.stop, self.tree, args).map(line)
    }

    fn fetch(&self, what: &str) -> Result<(), RestoreError> {
        let args = [
            "fetch",
            "--quiet",
            "--no-tags",
            "--no-write-fetch-head",
            "origin",
            what,
        ];
        run::upstream(self.link, self.url, self.tree, &args).map(|_| ())
    }

    /// Fetches a commit if it is not there; an error says which is missing.
    fn ensure_commit(&self, id: &str) -> Result<String, String> {
        let is_there = || has_commit(self.link.stop, self.tree, id);
        if !is_there() {
            self.fetch(id).map_err(|e| format!("{id} ({e})"))?;
        }
        match is_there() {
            true => Ok(id.to_owned()),
            false => Err(format!("{id} is no commit")),
        }
    }

    /// Finds a ref, fetched if a clone has it not by itself; gives its full name.
    fn ensure_ref(&self, named: &Named) -> Result<String, String> {
        let verify = |what: &str| self.git(&["rev-parse", "--quiet", "--verify", what]);
        let is_there = |name: &&String| verify(&local_name(name)).is_ok();
        let name = match named.names.iter().find(is_there) {
            Some(name) => name,
            None => {
                let name = &named.names[0];
                self.fetch(&format!("+{name}:{}", local_name(name)))
                    .map_err(|e| format!("{} ({e})", named.given))?;
                name
            }
        };
        let local = local_name(name);
        let peeled = format!("{local}^{{commit}}");
        let found = [&local, &peeled].map(|what| verify(what).unwrap_or_default());
        match &named.id {
            Some(id) if !found.contains(id) => Err(format!("{name} is {}, not {id}", found[0])),
            _ => Ok(name.clone()),
        }
    }

    /// Checks out a branch by its name and anything else detached, and removes the branch that the
    /// clone has made.
    fn check_out(&self, what: &str) -> Result<(), RestoreError> {
        let made = self
            .git(&["symbolic-ref", "--quiet", "--short", "HEAD"])
            .ok();
        let branch = what.strip_prefix("refs/heads/");
        match branch {
            Some(branch) => {
                let remote = local_name(what);
                self.git(&["checkout", "--quiet", "-B", branch, "--track", &remote])?;
            }
            None => {
                self.git(&[
                    "checkout",
                    "--quiet",
                    "--detach",
                    &format!("{what}^{{commit}}"),
                ])?;
            }
        }
        if let Some(made) = made.filter(|made| Some(made.as_str()) != branch) {
            // There is none in an empty repository.
            let _ = self.git(&["branch", "--quiet", "-D", "--", &made]);
        }
        Ok(())
    }
}
