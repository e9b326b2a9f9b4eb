//! What was asked for by name: what is checked out, and what must be there as well.

use super::error::RestoreError;
use crate::config::RestoreArgs;
use crate::refs::{full_id, is_ref_name};

/// A ref by its name, at one commit if one is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Named {
    /// As it was given.
    pub given: String,
    /// Full names that it may stand for; the first that is there does.
    pub names: Vec<String>,
    /// In lower-case hex.
    pub id: Option<String>,
}

/// What is checked out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum Checkout {
    /// What HEAD of the repository is.
    #[default]
    Head,
    /// A branch by its name; a tag, or any other ref, detached.
    Ref(Named),
    /// A commit, detached.
    Commit(String),
}

/// All that was asked for by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    pub checkout: Checkout,
    pub refs: Vec<Named>,
    pub commits: Vec<String>,
}

impl Wanted {
    /// Reads `--ref NAME[=SHA]`, `--commit SHA` and `--have`.
    pub(super) fn parse(args: &RestoreArgs) -> Result<Wanted, RestoreError> {
        let checkout = match (&args.refs[..], &args.commits[..]) {
            ([], []) => Checkout::Head,
            ([given], []) => Checkout::Ref(Named::parse(given)?),
            ([], [id]) => Checkout::Commit(full_id(id).map_err(RestoreError::Usage)?),
            _ => {
                let what = "only one --ref or --commit can be checked out; name what must be there \
                            as well with --have";
                return Err(RestoreError::Usage(what.into()));
            }
        };
        let mut wanted = Wanted {
            checkout,
            ..Wanted::default()
        };
        for given in &args.have {
            match full_id(given) {
                Ok(id) => wanted.commits.push(id),
                Err(_) => wanted.refs.push(Named::parse(given)?),
            }
        }
        Ok(wanted)
    }

    /// Whether nothing was asked for by name.
    pub(super) fn is_empty(&self) -> bool {
        *self == Wanted::default()
    }

    /// The refs, that of the checkout among them.
    pub(super) fn all_refs(&self) -> impl Iterator<Item = &Named> {
        let checkout = match &self.checkout {
            Checkout::Ref(named) => Some(named),
            Checkout::Head | Checkout::Commit(_) => None,
        };
        checkout.into_iter().chain(&self.refs)
    }

    /// The commits, that of the checkout among them.
    pub(super) fn all_commits(&self) -> impl Iterator<Item = &String> {
        let checkout = match &self.checkout {
            Checkout::Commit(id) => Some(id),
            Checkout::Head | Checkout::Ref(_) => None,
        };
        checkout.into_iter().chain(&self.commits)
    }
}

impl Named {
    /// Reads `NAME[=SHA]`. A plain name is a branch or, where there is none, a tag.
    fn parse(given: &str) -> Result<Named, RestoreError> {
        let (name, id) = match given.split_once('=') {
            Some((name, id)) => (name, Some(id)),
            None => (given, None),
        };
        let names = match name.starts_with("refs/") {
            true => vec![name.to_owned()],
            false => ["heads", "tags"]
                .map(|kind| format!("refs/{kind}/{name}"))
                .into(),
        };
        if !names.iter().all(|name| is_ref_name(name.as_bytes())) {
            return Err(RestoreError::Usage(format!("{name:?} is no name of a ref")));
        }
        let id = id.map(full_id).transpose().map_err(RestoreError::Usage)?;
        Ok(Named {
            given: name.to_owned(),
            names,
            id,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Command, parse};

    fn wanted(given: &[&str]) -> Result<Wanted, RestoreError> {
        let args = ["tarpon", "restore", "a/b", "c"].iter().chain(given);
        match parse(args.map(std::ffi::OsString::from), |_| None) {
            Ok(Command::Restore(args)) => Wanted::parse(&args),
            _ => panic!("{given:?} is not understood"),
        }
    }

    #[test]
    fn one_thing_is_checked_out() {
        let id = "Ab".repeat(20);
        for more in [
            ["--ref", "a", "--ref", "b"],
            ["--ref", "a", "--commit", &id],
            ["--commit", &id, "--commit", &id],
        ] {
            let error = wanted(&more).unwrap_err();
            assert_eq!(error.exit_code(), 1);
            assert!(error.to_string().contains("--have"), "{error}");
        }
        let main = format!("main={id}");
        let found = wanted(&["--ref", &main, "--have", &id, "--have", "refs/pull/1/head"]).unwrap();
        let Checkout::Ref(branch) = &found.checkout else {
            panic!("{found:?}");
        };
        assert_eq!(branch.names, ["refs/heads/main", "refs/tags/main"]);
        assert_eq!(branch.id.as_deref(), Some(&*id.to_ascii_lowercase()));
        assert_eq!(found.commits, [id.to_ascii_lowercase()]);
        assert_eq!(found.refs[0].names, ["refs/pull/1/head"]);
        assert!(wanted(&[]).unwrap().is_empty());
        let error = wanted(&["--ref", "=abc"]).unwrap_err().to_string();
        assert!(error.contains("\"\" is no name of a ref"), "{error}");
    }
}
