//! Where a restored repository says that it is from, what it fetches from there, and of which kind its ids are:
//! all that is taken from an archive's configuration.

use gix::bstr::ByteSlice;

use super::error::RestoreError;
use super::settings::scheme;
use crate::config::GivenUrl;
use crate::refs::is_ref_name;

const CONFIG: &[u8] = b".git/config";

/// What an archive's configuration says.
#[derive(Debug, PartialEq, Eq)]
pub struct Said {
    pub hash: gix::hash::Kind,
    /// Not yet checked.
    origin: Option<Vec<u8>>,
    /// The same.
    fetches: Vec<Vec<u8>>,
}

/// What `git fetch` brings in a clone of all branches.
pub(super) const FETCHES_ALL: &[u8] = b"+refs/heads/*:refs/remotes/origin/*";

/// What `git fetch` brings, as a refspec: what the archive says if that is one branch or tag, under the name that
/// a clone of it alone has for it; else all branches. Nothing besides HEAD, if the archive says so and its history
/// has an end: git clones a detached HEAD so.
pub(super) fn fetches(said: &Said, is_shallow: bool) -> Option<Vec<u8>> {
    match &said.fetches[..] {
        [] if is_shallow => None,
        [one] if is_one_ref(one) => Some(one.clone()),
        _ => Some(FETCHES_ALL.into()),
    }
}

/// Whether what `git fetch` brings is what no clone says of itself: somebody has set it.
pub(super) fn has_own_fetches(said: &Said) -> bool {
    match &said.fetches[..] {
        [] => false,
        [one] => one != FETCHES_ALL && !is_one_ref(one),
        _ => true,
    }
}

/// Whether a refspec is that of the branch `short` alone.
pub(super) fn fetches_branch(refspec: &[u8], short: &[u8]) -> bool {
    let theirs = refspec.strip_prefix(b"+refs/heads/").unwrap_or_default();
    theirs
        .split_once_str(":")
        .is_some_and(|(theirs, _)| theirs == short)
}

fn is_one_ref(refspec: &[u8]) -> bool {
    let sides = refspec.strip_prefix(b"+").unwrap_or_default();
    let Some((theirs, ours)) = sides.split_once_str(":") else {
        return false;
    };
    let branch = |name: &[u8], prefix: &[u8]| name.strip_prefix(prefix).map(<[u8]>::to_vec);
    let is_same = match theirs.starts_with(b"refs/tags/") {
        true => theirs == ours,
        false => branch(theirs, b"refs/heads/")
            .is_some_and(|short| branch(ours, b"refs/remotes/origin/") == Some(short)),
    };
    is_same && is_ref_name(theirs)
}

/// Reads an archive's configuration. A repository that needs an extension of git's other than the
/// kind of its ids is not one that can be made anew from what is checked here.
pub fn read(text: &[u8]) -> Result<Said, RestoreError> {
    let refused = |why: String| RestoreError::entry(CONFIG, why);
    let config = gix::config::File::try_from(text.as_bstr()).map_err(|e| {
        refused(format!(
            "it cannot be read: {}",
            e.to_string().escape_debug()
        ))
    })?;
    let mut hash = gix::hash::Kind::Sha1;
    for section in config.sections_by_name("extensions").into_iter().flatten() {
        for name in section.value_names() {
            let name: &str = &name;
            let value = section.value(name).map(|v| v.to_ascii_lowercase());
            let is_format = name.eq_ignore_ascii_case("objectformat");
            hash = match value.as_deref().filter(|_| is_format) {
                Some(b"sha1") => gix::hash::Kind::Sha1,
                Some(b"sha256") => gix::hash::Kind::Sha256,
                _ => return Err(refused(format!("it has the extension {name:?}"))),
            };
        }
    }
    of_origin(&config, hash).map_err(|why| refused(why.into()))
}

/// What a configuration says of the origin, where its extensions are looked at elsewhere; an error says why that cannot
/// be told.
pub(super) fn said(text: &[u8], hash: gix::hash::Kind) -> Result<Said, String> {
    let config = gix::config::File::try_from(text.as_bstr());
    of_origin(&config.map_err(|e| e.to_string())?, hash).map_err(str::to_owned)
}

fn of_origin(config: &gix::config::File, hash: gix::hash::Kind) -> Result<Said, &'static str> {
    let origins = config.strings("remote.origin.url").unwrap_or_default();
    let fetches = config.strings("remote.origin.fetch").unwrap_or_default();
    match &origins[..] {
        [] | [_] => Ok(Said {
            hash,
            fetches: Vec::from_iter(fetches.iter().map(|fetch| fetch.to_vec())),
            origin: origins.first().map(|url| url.to_vec()),
        }),
        _ => Err("its origin has several addresses"),
    }
}

/// The origin of a repository that was asked for as `given`: that, where it says how it is reached;
/// what the archive says for a bare `HOST/PATH`.
pub fn choose(given: &str, said: &Said) -> Result<Vec<u8>, RestoreError> {
    let given = given.as_bytes();
    if names_a_way(given) {
        return Ok(given.to_vec());
    }
    let refused = |why: String| RestoreError::entry(CONFIG, why);
    let Some(url) = &said.origin else {
        return Err(refused("it names no origin".into()));
    };
    match is_plain(url) {
        true => Ok(url.clone()),
        false => Err(refused(format!(
            "its origin \"{}\" is no URL of http, https, ssh, git or file",
            url.escape_ascii()
        ))),
    }
}

/// Whether a name has a scheme or scp's form.
pub(super) fn names_a_way(given: &[u8]) -> bool {
    given.contains_str("://") || scheme(given) == Some("ssh")
}

/// Whether `url` may be handed to git, and by that to ssh, whoever wrote it.
pub(super) fn is_plain(url: &[u8]) -> bool {
    let is_text = std::str::from_utf8(url).is_ok_and(|text| !text.chars().any(char::is_control));
    if !is_text || url.contains_str("::") || url.first() == Some(&b'-') {
        return false;
    }
    let (host, path) = match url.split_once_str("://") {
        Some((b"file", path)) => return path.first() == Some(&b'/'),
        Some((b"http" | b"https" | b"ssh" | b"git", rest)) => {
            rest.split_once_str("/").unwrap_or((rest, b""))
        }
        None if scheme(url) == Some("ssh") => url.split_once_str(":").unwrap_or((b"", b"")),
        _ => return false,
    };
    // ssh would take either for an option.
    let (user, host) = host.rsplit_once_str("@").unwrap_or((b"", host));
    let is_host = |b: &u8| b.is_ascii_alphanumeric() || b".-_:[]".contains(b);
    !host.is_empty()
        && host.iter().all(is_host)
        && ![user, host, path]
            .iter()
            .any(|part| part.first() == Some(&b'-'))
}

/// `url` for people to read: without who logs in.
pub fn shown(url: &[u8]) -> String {
    GivenUrl::new(&String::from_utf8_lossy(url)).to_string()
}

/// Whether a repository's name says how it is reached.
pub(crate) fn is_url(name: &str) -> bool {
    names_a_way(name.as_bytes())
}

/// Whether git can clone from what a repository is named by: a relative path leads from what is no place of the user's.
pub(super) fn is_cloneable(name: &str) -> bool {
    is_url(name) || name.starts_with('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> Result<Said, RestoreError> {
        read(text.as_bytes())
    }

    #[test]
    fn one_branch_or_tag_is_fetched_under_the_name_that_a_clone_has_for_it() {
        let of = |lines: &[&str], is_shallow| {
            let lines = lines.iter().map(|line| format!("\tfetch = {line}\n"));
            let text = format!("[remote \"origin\"]\n{}", String::from_iter(lines));
            let refspec = fetches(&said(&text).unwrap(), is_shallow)?;
            Some(String::from_utf8(refspec).unwrap())
        };
        let all = String::from_utf8(FETCHES_ALL.to_vec()).unwrap();
        let (branch, tag) = (
            "+refs/heads/a/b:refs/remotes/origin/a/b",
            "+refs/tags/v1:refs/tags/v1",
        );
        for is_shallow in [true, false] {
            for one in [branch, tag, &all] {
                assert_eq!(of(&[one], is_shallow).as_deref(), Some(one));
            }
            for other in [
                "refs/heads/a:refs/remotes/origin/a",
                "+refs/heads/a:refs/remotes/origin/b",
                "+refs/heads/a:refs/heads/a",
                "+refs/heads/*:refs/heads/*",
                "+refs/tags/v1:refs/tags/v2",
                "+refs/tags/*:refs/tags/*",
                "+refs/heads/a..b:refs/remotes/origin/a..b",
                "+refs/heads/:refs/remotes/origin/",
                "+HEAD:HEAD",
                "",
            ] {
                assert_eq!(of(&[other], is_shallow), Some(all.clone()), "{other}");
            }
            assert_eq!(of(&[branch, tag], is_shallow), Some(all.clone()));
        }
        assert_eq!(of(&[], true), None);
        assert_eq!(of(&[], false), Some(all));
    }

    #[test]
    fn only_origin_and_kind_of_ids_are_taken() {
        let text = "[core]\n\trepositoryformatversion = 1\n\tcheckStat = minimal\n\
            [extensions]\n\tobjectFormat = sha256\n[remote \"origin\"]\n\
            \turl = \"https://x/[core]\"\n\tuploadpack = evil\n[branch \"a b]\"]\n\tremote = x\n";
        let said = said(text).unwrap();
        assert_eq!(said.hash, gix::hash::Kind::Sha256);
        assert_eq!(choose("x/core", &said).unwrap(), b"https://x/[core]");
        assert_eq!(choose("ssh://y/z", &said).unwrap(), b"ssh://y/z");
        assert_eq!(choose("git@y:z", &said).unwrap(), b"git@y:z");
    }

    #[test]
    fn other_extensions_and_what_is_no_configuration_are_refused() {
        for text in [
            "[extensions]\n\tworktreeConfig = true\n",
            "[extensions]\n\tpartialClone = origin\n",
            "[extensions]\n\trefStorage = reftable\n",
            "[extensions]\n\tobjectFormat = md5\n",
            "[extensions]\n\tobjectFormat\n",
            "[core\n",
            "\u{0}",
            "[remote \"origin\"]\n\turl = https://a/b\n\turl = ssh://c/d\n",
        ] {
            assert_eq!(said(text).unwrap_err().exit_code(), 5, "{text:?}");
        }
    }

    #[test]
    fn an_origin_that_would_run_something_is_refused() {
        let choose = |url: &[u8]| {
            let origin = Some(url.to_vec());
            let hash = gix::hash::Kind::Sha1;
            choose(
                "host/path",
                &Said {
                    hash,
                    origin,
                    fetches: Vec::new(),
                },
            )
            .is_ok()
        };
        for good in [
            &b"https://example.org/a b/\xc3\xa4.git"[..],
            b"http://user:secret@h:80/p",
            b"git://h/p",
            b"git@h:p",
            b"file:///srv/git/a",
        ] {
            assert!(choose(good), "{}", good.escape_ascii());
        }
        for bad in [
            &b""[..],
            b"ext::sh -c evil",
            b"https::x",
            b"ssh://git@[::1]:22/p",
            b"ssh://-oProxyCommand=evil/x",
            b"ssh://u@-oProxyCommand=evil/x",
            b"ssh://-l@h/x",
            b"-oProxyCommand=evil:x",
            b"h:-x",
            b"file://h/x",
            b"file://../x",
            b"/srv/git/a",
            b"../a",
            b"ftp://h/x",
            b"https:///x",
            b"https://h/a\nb",
            b"https://h/\xff",
            b"https://h/\xc2\x9b31m",
        ] {
            assert!(!choose(bad), "{}", bad.escape_ascii());
        }
    }

    #[test]
    fn passwords_are_not_shown() {
        assert_eq!(shown(b"https://u:p@w@h/a"), "https://***@h/a");
        assert_eq!(shown(b"https://h/a@b"), "https://h/a@b");
        assert_eq!(shown(b"git@h:a"), "git@h:a");
    }
}
