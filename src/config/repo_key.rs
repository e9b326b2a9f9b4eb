//! What a repository is found by, however its name is spelled.
use std::borrow::Cow;
use std::sync::Arc;

/// The canonical name of a repository: the key of its mirror, of what its upstream says of it, and of all that
/// is known of it.
///
/// Invariant, for only [`Upstreams::key`](super::Upstreams::key) makes one: two spellings of one repository have
/// the same. The host is one that is served, in lower case; the path is in lower case where the host ignores
/// case, and has no `.git` at its end.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RepoKey<'a> {
    host: &'a str,
    path: Cow<'a, str>,
}

impl<'a> RepoKey<'a> {
    /// `host` in lower case; what has no upper case costs no memory.
    pub(super) fn new(host: &'a str, path: &'a str, ignores_case: bool) -> Self {
        let has_upper = || path.bytes().any(|byte| byte.is_ascii_uppercase());
        let mut path = match ignores_case && has_upper() {
            true => Cow::Owned(path.to_ascii_lowercase()),
            false => Cow::Borrowed(path),
        };
        if let Some(bare) = path.strip_suffix(".git").map(str::len) {
            match &mut path {
                Cow::Borrowed(path) => *path = path.get(..bare).unwrap_or_default(),
                Cow::Owned(path) => path.truncate(bare),
            }
        }
        RepoKey { host, path }
    }

    /// One for tests of what knows no upstreams.
    #[cfg(test)]
    pub(crate) fn of_test(host: &'a str, path: &'a str) -> Self {
        Self::new(host, path, false)
    }

    /// The host.
    pub fn host(&self) -> &str {
        self.host
    }

    /// The path below it.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Both, as `host/path`.
    pub fn name(&self) -> Arc<str> {
        Arc::from(format!("{}/{}", self.host, self.path))
    }
}

#[cfg(test)]
mod tests {
    use super::super::upstreams::{Upstreams, upstream};

    #[test]
    fn spellings_of_one_repository_have_one_key() {
        let given = ["Own.example", "plain=file:///srv/"].map(|text| upstream(text).unwrap());
        let all = Upstreams::new(given.into(), true).unwrap();
        let all = all.ignoring_case(vec!["own.Example".into()]).unwrap();
        for (host, path, name) in [
            ("github.com", "Org/Repo", "github.com/org/repo"),
            ("GitHub.COM", "oRG/repo.git", "github.com/org/repo"),
            ("codeberg.org", "a/b", "codeberg.org/a/b"),
            ("OWN.example", "A/.B", "own.example/a/.b"),
            ("plain", "Org/Repo", "plain/Org/Repo"),
            ("PLAIN", "Org/Repo.git", "plain/Org/Repo"),
        ] {
            let key = all.key(host, path).unwrap();
            assert_eq!(&*key.name(), name, "{host}/{path}");
            let again = all.key(key.host(), key.path()).unwrap();
            assert_eq!(again, key);
        }
        assert_eq!(all.key("elsewhere", "a"), None);
        assert_ne!(all.key("plain", "a/B"), all.key("plain", "a/b"));
        assert_eq!(all.key("github.com", "a/B"), all.key("github.com", "A/b"));
    }

    #[test]
    fn a_host_that_ignores_case_is_one_that_is_served() {
        let known = || Upstreams::new(vec![upstream("a").unwrap()], false).unwrap();
        assert_eq!(known().ignoring_case(vec!["b".into()]), Err("b".to_owned()));
        let defaults = Upstreams::new(Vec::new(), true).unwrap();
        assert!(defaults.ignores_case("gitlab.com") && !known().ignores_case("a"));
        assert!(
            known()
                .ignoring_case(vec!["A".into()])
                .unwrap()
                .ignores_case("a")
        );
    }
}
