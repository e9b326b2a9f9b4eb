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
    /// The second, a commit, as the branch that the first names, whatever that is elsewhere; detached where
    /// the name is a tag's or no branch's.
    At(Named, String),
}

/// All that was asked for by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    pub checkout: Checkout,
    pub refs: Vec<Named>,
    pub commits: Vec<String>,
    /// Whether one commit is all that is wanted of the history.
    pub is_shallow: bool,
}

impl Wanted {
    /// Reads `--ref NAME[=SHA]`, `--commit SHA`, `--have` and `--depth`.
    pub(super) fn parse(args: &RestoreArgs) -> Result<Wanted, RestoreError> {
        let mut wanted = Wanted {
            checkout: Checkout::parse(&args.refs, &args.commits)?,
            is_shallow: args.depth.is_some(),
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
        self.checkout == Checkout::Head && self.has_no_more()
    }

    /// Whether nothing is wanted but what is checked out.
    pub(super) fn has_no_more(&self) -> bool {
        self.refs.is_empty() && self.commits.is_empty()
    }

    /// What must be there besides what is checked out.
    pub(super) fn without_checkout(&self) -> Wanted {
        Wanted {
            checkout: Checkout::Head,
            ..self.clone()
        }
    }

    /// What asks a server for all of it but for what must be there as well; empty for a plain request.
    pub(super) fn query(&self) -> String {
        let (name, id) = match &self.checkout {
            Checkout::Head => (None, None),
            Checkout::Ref(named) => (Some(&named.given), None),
            Checkout::Commit(id) => (None, Some(id)),
            Checkout::At(named, id) => (Some(&named.given), Some(id)),
        };
        let pairs = [
            name.map(|name| format!("ref={}", encoded(name))),
            id.map(|id| format!("commit={id}")),
            self.is_shallow.then(|| "depth=1".to_owned()),
        ];
        let pairs: Vec<String> = pairs.into_iter().flatten().collect();
        match pairs.is_empty() {
            true => String::new(),
            false => format!("?{}", pairs.join("&")),
        }
    }

    /// The refs, that of the checkout among them.
    pub(super) fn all_refs(&self) -> impl Iterator<Item = &Named> {
        let checkout = match &self.checkout {
            Checkout::Ref(named) => Some(named),
            Checkout::Head | Checkout::Commit(_) | Checkout::At(..) => None,
        };
        checkout.into_iter().chain(&self.refs)
    }

    /// The commits, that of the checkout among them.
    pub(super) fn all_commits(&self) -> impl Iterator<Item = &String> {
        let checkout = match &self.checkout {
            Checkout::Commit(id) | Checkout::At(_, id) => Some(id),
            Checkout::Head | Checkout::Ref(_) => None,
        };
        checkout.into_iter().chain(&self.commits)
    }
}

impl Checkout {
    /// Reads what `--ref` and `--commit` give.
    fn parse(refs: &[String], commits: &[String]) -> Result<Checkout, RestoreError> {
        let id = |given: &String| full_id(given).map_err(RestoreError::Usage);
        match (refs, commits) {
            ([], []) => Ok(Checkout::Head),
            ([], [commit]) => Ok(Checkout::Commit(id(commit)?)),
            ([given], []) => {
                let mut named = Named::parse(given)?;
                Ok(match named.id.take() {
                    Some(id) => Checkout::At(named, id),
                    None => Checkout::Ref(named),
                })
            }
            ([given], [commit]) => {
                let mut named = Named::parse(given)?;
                let commit = id(commit)?;
                match named.id.take().filter(|id| *id != commit) {
                    None => Ok(Checkout::At(named, commit)),
                    Some(id) => Err(RestoreError::Usage(format!(
                        "--ref names the commit {id}, --commit another one"
                    ))),
                }
            }
            _ => Err(RestoreError::Usage(
                "only one --ref and one --commit can be checked out; name what must be there as well \
                 with --have"
                    .into(),
            )),
        }
    }
}

/// Percent-encoded: the server decodes it once, and what is between here and there takes none of it for
/// something else.
fn encoded(name: &str) -> String {
    let mut out = String::new();
    for byte in name.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                out.push(char::from(byte));
            }
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
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
            ["--commit", &id, "--commit", &id],
        ] {
            let error = wanted(&more).unwrap_err();
            assert_eq!(error.exit_code(), 1);
            assert!(error.to_string().contains("--have"), "{error}");
        }
        let main = format!("main={id}");
        let found = wanted(&["--ref", &main, "--have", &id, "--have", "refs/pull/1/head"]).unwrap();
        let Checkout::At(branch, at) = &found.checkout else {
            panic!("{found:?}");
        };
        assert_eq!(branch.names, ["refs/heads/main", "refs/tags/main"]);
        assert_eq!((at, &branch.id), (&id.to_ascii_lowercase(), &None));
        assert_eq!(found.commits, [id.to_ascii_lowercase()]);
        assert_eq!(found.refs[0].names, ["refs/pull/1/head"]);
        assert!(wanted(&[]).unwrap().is_empty());
        let error = wanted(&["--ref", "=abc"]).unwrap_err().to_string();
        assert!(error.contains("\"\" is no name of a ref"), "{error}");
        let both = wanted(&["--ref", "main", "--commit", &id]).unwrap();
        assert_eq!(both.checkout, found.checkout);
        assert_eq!(
            wanted(&["--ref", &main, "--commit", &id]).unwrap().checkout,
            both.checkout
        );
        let other = "1".repeat(40);
        let error = wanted(&["--ref", &main, "--commit", &other]).unwrap_err();
        assert_eq!(error.exit_code(), 1);
    }

    /// What the server reads of it is what was given.
    #[test]
    fn what_is_wanted_is_one_query() {
        let id = "ab".repeat(20);
        let at = |name: &str| format!("{name}={id}");
        let rows = [
            (&[][..], String::new()),
            (&["--depth", "1"], "?depth=1".into()),
            (&["--commit", &id], format!("?commit={id}")),
            (&["--ref", "a/b"], "?ref=a/b".into()),
            (
                &["--ref", &at("fix/#7&x%+ü")],
                format!("?ref=fix/%237%26x%25%2B%C3%BC&commit={id}"),
            ),
            (&["--ref", "v1", "--depth", "1"], "?ref=v1&depth=1".into()),
            (&["--have", &id], String::new()),
        ];
        for (given, query) in rows {
            assert_eq!(wanted(given).unwrap().query(), query, "{given:?}");
        }
    }
}
