//! What a commit says of its submodules: where in its tree each is and at which commit, by what name its repository is
//! kept, and where that is from. All of it may be anybody's: names, paths and URLs are held to the rules that git has
//! for them (`submodule-config.c`, `fsck.c`), and whatever commands stand there are not looked at.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use gix::bstr::ByteSlice;

use super::error::RestoreError;
use super::origin::{is_plain, names_a_way};
use super::path::as_path;
use super::run;
use super::settings::scheme;
use super::stop::Stop;
use super::tracked::Tracked;
use crate::limits::{
    LISTED_PATHS_MAX, SUBMODULES_RESTORED_MAX, SUBMODULES_SAID_BYTES_MAX, TRACKED_INDEX_BYTES_MAX,
};

const FILE: &[u8] = b".gitmodules";

/// A submodule of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Submodule {
    pub name: String,
    /// Relative to the worktree.
    pub path: PathBuf,
    /// As it is written.
    pub url: String,
    pub commit: String,
    /// What `git submodule update` is to do, if that is no command; `none` has it left out.
    pub update: Option<String>,
    /// Whether its upstream says that nobody needs its history.
    pub is_shallow: bool,
}

/// Those of the commit that is checked out at `tree`, in the order of their paths.
pub(super) fn of_tree(stop: &Stop, tree: &Path) -> Result<Vec<Submodule>, RestoreError> {
    let mut paths = Vec::new();
    let tracked =
        Tracked::open(tree, TRACKED_INDEX_BYTES_MAX, stop).map_err(RestoreError::Usage)?;
    tracked.each_submodule(|path| {
        paths.push(path.to_vec());
        match paths.len() > SUBMODULES_RESTORED_MAX {
            true => Err(too_many()),
            false => Ok(()),
        }
    })?;
    let commits = commits(stop, tree, &paths)?;
    let links: Vec<_> = paths.into_iter().zip(commits).collect();
    of_commit(stop, tree, "HEAD", &links)
}

/// Those of a commit of the repository at `tree`, which has these: paths and commits.
pub(super) fn of_commit(
    stop: &Stop,
    tree: &Path,
    commit: &str,
    links: &[(Vec<u8>, String)],
) -> Result<Vec<Submodule>, RestoreError> {
    if links.is_empty() {
        return Ok(Vec::new());
    }
    if links.len() > SUBMODULES_RESTORED_MAX {
        return Err(too_many());
    }
    let sections = sections_of(stop, tree, commit)?;
    let found = links.iter().map(|link| submodule(&sections, link));
    let found = found.collect::<Result<Vec<_>, _>>()?;
    check_names(&found)?;
    Ok(found)
}

/// The same of a commit that may have others: what it says nothing of, or nothing that is taken, is none.
pub(super) fn of_other_commit(
    stop: &Stop,
    tree: &Path,
    commit: &str,
    links: &[(Vec<u8>, String)],
) -> Result<Vec<Submodule>, RestoreError> {
    let sections = match sections_of(stop, tree, commit) {
        Err(e) if stop.is_set() => return Err(e),
        // It may have no such file.
        sections => sections.unwrap_or_default(),
    };
    let found = links.iter().map(|link| submodule(&sections, link));
    let found = found.flatten().take(SUBMODULES_RESTORED_MAX);
    Ok(found.collect())
}

/// What the `.gitmodules` of a commit says, by names.
fn sections_of(
    stop: &Stop,
    tree: &Path,
    commit: &str,
) -> Result<BTreeMap<String, Section>, RestoreError> {
    let blob = format!("{commit}:.gitmodules");
    let args = ["config", "--blob", &blob, "-z", "--list"];
    let said = run::local(stop, tree, &args);
    let said = said.map_err(|e| refused(format!("it cannot be read ({e})")))?;
    if said.len() > SUBMODULES_SAID_BYTES_MAX {
        return Err(refused("it is too long".into()));
    }
    Ok(sections(&said))
}

/// What they say of the one at a path, where a commit is recorded.
fn submodule(
    sections: &BTreeMap<String, Section>,
    (path, commit): &(Vec<u8>, String),
) -> Result<Submodule, RestoreError> {
    let of_path = |(_, section): &(&String, &Section)| section.path.as_ref() == Some(path);
    let Some((name, section)) = sections.iter().find(of_path) else {
        return Err(refused(format!("it does not name {}", path.escape_ascii())));
    };
    if let Some(why) = &section.wrong {
        return Err(refused(why.clone()));
    }
    let url = section.url.as_deref();
    Ok(Submodule {
        name: name.clone(),
        path: as_path(path),
        url: checked_url(url.unwrap_or_default())?.to_owned(),
        commit: commit.clone(),
        update: section.update.clone(),
        is_shallow: section.is_shallow,
    })
}

pub(super) fn too_many() -> RestoreError {
    refused(format!(
        "there are more than {SUBMODULES_RESTORED_MAX} submodules"
    ))
}

fn refused(why: String) -> RestoreError {
    RestoreError::entry(FILE, why)
}

/// The commits that are recorded at `paths`, in their order.
fn commits(stop: &Stop, tree: &Path, paths: &[Vec<u8>]) -> Result<Vec<String>, RestoreError> {
    let mut found = BTreeMap::new();
    for some in paths.chunks(LISTED_PATHS_MAX) {
        let args = ["ls-tree", "-z", "--full-tree", "HEAD", "--"].map(PathBuf::from);
        let args: Vec<PathBuf> = args
            .into_iter()
            .chain(some.iter().map(|path| as_path(path)))
            .collect();
        let listed = run::local(stop, tree, &args)?;
        for line in listed.split(|byte| *byte == 0) {
            // `160000 commit ID TAB PATH`
            if let Some((what, path)) = line.split_once_str("\t")
                && let Some(id) = what.strip_prefix(b"160000 commit ")
            {
                found.insert(path.to_vec(), String::from_utf8_lossy(id).into_owned());
            }
        }
    }
    let commit = |path: &Vec<u8>| {
        let missing = || refused(format!("{} is no submodule of HEAD", path.escape_ascii()));
        found.remove(path).ok_or_else(missing)
    };
    paths.iter().map(commit).collect()
}

/// What is said of one name.
#[derive(Debug, Default)]
struct Section {
    path: Option<Vec<u8>>,
    url: Option<String>,
    update: Option<String>,
    is_shallow: bool,
    /// Why it is refused where a submodule needs it; what none needs hurts nobody.
    wrong: Option<String>,
}

/// Reads `git config --list -z`: `KEY LF VALUE NUL`, again and again. As with git the last word about a thing counts,
/// but for a name that has two paths, of which no submodule may be.
fn sections(said: &[u8]) -> BTreeMap<String, Section> {
    let mut all: BTreeMap<String, Section> = BTreeMap::new();
    for pair in said.split(|byte| *byte == 0) {
        let (key, value) = match pair.split_once_str("\n") {
            Some((key, value)) => (key, Some(value)),
            None => (pair, None),
        };
        let Some(rest) = key.strip_prefix(b"submodule.") else {
            continue;
        };
        let Some((name, key)) = rest.rsplit_once_str(".") else {
            continue;
        };
        // What git finds suspicious it leaves out. A submodule that only such a name has is not named then.
        let Some(name) = checked_name(name) else {
            continue;
        };
        let section = all.entry(name.to_owned()).or_default();
        section.take(name, key, value);
    }
    all
}

impl Section {
    /// Takes a key of it, which has a value unless it is merely switched on.
    fn take(&mut self, name: &str, key: &[u8], value: Option<&[u8]>) {
        match (key, value) {
            (b"path", Some(_)) if self.path.is_some() => {
                self.wrong = Some(format!("{name} has two paths"));
            }
            (b"path", Some(value)) => {
                self.path = Some(value.strip_suffix(b"/").unwrap_or(value).to_vec());
            }
            (b"url", Some(value)) => match std::str::from_utf8(value) {
                Ok(text) if !text.chars().any(char::is_control) => self.url = Some(text.to_owned()),
                _ => self.wrong = Some(format!("\"{}\" is no text", value.escape_ascii())),
            },
            (b"shallow", value) => self.is_shallow = value.is_none_or(is_true),
            (b"update", Some(value)) => {
                let known = [&b"none"[..], b"checkout", b"rebase", b"merge"];
                if known.contains(&value) {
                    self.update = Some(String::from_utf8_lossy(value).into_owned());
                }
            }
            _ => {}
        }
    }
}

/// Whether git takes a value for yes.
fn is_true(value: &[u8]) -> bool {
    let value = value.to_ascii_lowercase();
    matches!(&value[..], b"true" | b"yes" | b"on" | b"1")
}

/// A name is a path below `modules`, and leads nowhere else.
fn checked_name(name: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(name).ok()?;
    let is_plain = |part: &str| !matches!(part, "" | "." | "..");
    let is_name = text.split(['/', '\\']).all(is_plain)
        && !text.chars().any(char::is_control)
        && !text.starts_with('-');
    is_name.then_some(text)
}

/// No repository is kept inside of another one's own directory.
fn check_names(all: &[Submodule]) -> Result<(), RestoreError> {
    let mut names: Vec<&Path> = all.iter().map(|one| Path::new(&one.name)).collect();
    names.sort_unstable();
    for pair in names.windows(2) {
        if pair[1].starts_with(pair[0]) {
            let (one, other) = (pair[1].display(), pair[0].display());
            return Err(refused(format!(
                "the name {one} leads into the repository of {other}"
            )));
        }
    }
    let is_odd = |one: &&Submodule| {
        let path = one.path.as_os_str().as_bytes();
        path.starts_with(b"-") || path.iter().any(u8::is_ascii_control)
    };
    match all.iter().find(is_odd) {
        Some(one) => Err(refused(format!("{:?} is no path of a submodule", one.path))),
        None => Ok(()),
    }
}

/// A URL that is relative, or of a scheme that others may name.
fn checked_url(url: &str) -> Result<&str, RestoreError> {
    let is_relative = url.starts_with("./") || url.starts_with("../");
    let is_others = || {
        names_a_way(url.as_bytes())
            && is_plain(url.as_bytes())
            && scheme(url.as_bytes()) != Some("file")
    };
    let lower = url.to_ascii_lowercase();
    let breaks_lines = lower.contains("%0a") || lower.contains("%0d") || url.contains("::");
    match !breaks_lines && (is_relative || is_others()) {
        true => Ok(url),
        false => Err(refused(format!(
            "\"{}\" is no URL of http, https, ssh or git, nor ./ or ../ and a path",
            url.escape_debug()
        ))),
    }
}

/// Where a submodule with `url` is, whose superproject is at `base`: a URL, or `HOST/PATH` as a server has it. A path
/// that is relative stays at the host of that.
pub(super) fn resolved(base: &str, url: &str) -> Result<String, RestoreError> {
    if !url.starts_with("./") && !url.starts_with("../") {
        return Ok(url.to_owned());
    }
    let leads_out = || {
        refused(format!(
            "\"{}\" leads out of {}",
            url.escape_debug(),
            super::origin::shown(base.as_bytes())
        ))
    };
    let root = root(base).ok_or_else(leads_out)?;
    let (root, path) = base.split_at(root);
    let mut parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let mut rest = url;
    loop {
        if let Some(below) = rest.strip_prefix("../") {
            parts.pop().ok_or_else(leads_out)?;
            rest = below;
        } else if let Some(below) = rest.strip_prefix("./") {
            rest = below;
        } else {
            break;
        }
    }
    let rest = rest.trim_end_matches('/');
    if rest.is_empty() || rest.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(leads_out());
    }
    parts.push(rest);
    Ok(format!("{root}{}", parts.join("/")))
}

/// Where the path begins: behind scheme and host, or behind what ssh or a server has for a host.
fn root(base: &str) -> Option<usize> {
    let behind = |from: usize, byte: char| Some(from + base[from..].find(byte)? + 1);
    match base.find("://") {
        Some(at) => behind(at + 3, '/'),
        None if scheme(base.as_bytes()) == Some("ssh") => behind(0, ':'),
        None if base.starts_with('/') => Some(1),
        None => behind(0, '/'),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_urls_start_from_where_the_superproject_is() {
        for (base, url, expected) in [
            ("https://h/a/b", "../c", Some("https://h/a/c")),
            ("https://h/a/b.git/", "../../c/d/", Some("https://h/c/d")),
            ("https://u:p@h:1/a/b", "./../c", Some("https://u:p@h:1/a/c")),
            ("https://h/a/b", "./c", Some("https://h/a/b/c")),
            ("git@h:a/b", "../c", Some("git@h:a/c")),
            ("git@h:a/b", "../../c", Some("git@h:c")),
            ("local/a", "../c", Some("local/c")),
            ("file:///srv/a", "../c", Some("file:///srv/c")),
            ("local/a", "https://x/y", Some("https://x/y")),
            // No other host, and no host at all.
            ("https://h/a/b", "../../../x", None),
            ("local/a", "../../x/y", None),
            ("https://h/a", "../../x", None),
            ("git@h:a", "../../x", None),
            ("https://h/a/b", "../c/../../../x", None),
            ("https://h/a/b", "../", None),
        ] {
            let found = resolved(base, url).ok();
            assert_eq!(found.as_deref(), expected, "{base} {url}");
        }
    }

    #[test]
    fn urls_are_those_that_others_may_name() {
        for good in [
            "../a",
            "./a",
            "https://h/a b",
            "http://h:1/a",
            "ssh://g@h/a",
            "git@h:a",
            "git://h/a",
        ] {
            assert!(checked_url(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "a/b",
            "/srv/a",
            "file:///srv/a",
            "ext::sh -c x",
            "https::x",
            "-u./evil",
            "--upload-pack=evil",
            "ssh://-oProxyCommand=x/a",
            "ssh://u@-oProxyCommand=x/a",
            "-x:a",
            "ftp://h/a",
            "https://h/%0ahost=evil",
            "../%0Ax",
            "https:///a",
        ] {
            assert!(checked_url(bad).is_err(), "{bad}");
        }
    }

    fn one(name: &str, path: &str) -> Submodule {
        Submodule {
            name: name.into(),
            path: path.into(),
            url: "../a".into(),
            commit: String::new(),
            update: None,
            is_shallow: false,
        }
    }

    #[test]
    fn names_lead_below_modules_and_into_no_other_repository() {
        for good in ["a", "a/b", "a.b", "lib/ä c"] {
            assert!(checked_name(good.as_bytes()).is_some(), "{good}");
        }
        for bad in [
            "",
            "..",
            "../x",
            "a/../../hooks",
            "a\\..\\b",
            "/a",
            "a/",
            "a//b",
            "-a",
            "a\r",
            "./a",
        ] {
            assert!(checked_name(bad.as_bytes()).is_none(), "{bad:?}");
        }
        assert!(checked_name(b"a\xff").is_none());
        check_names(&[one("a", "x"), one("ab", "y"), one("b/a", "z")]).unwrap();
        check_names(&[one("a", "x"), one("a/hooks", "y")]).unwrap_err();
        check_names(&[one("a", "x"), one("a", "y")]).unwrap_err();
        check_names(&[one("a", "-x")]).unwrap_err();
        check_names(&[one("a", "x\r")]).unwrap_err();
    }

    #[test]
    fn what_is_said_of_a_name() {
        let said =
            b"submodule.a.b.path\nlib/b/\0submodule.a.b.url\nhttps://h/\0submodule.a.b.url\n../b\0\
            submodule.a.b.update\n!evil\0submodule.a.b.shallow\nYes\0submodule.d.shallow\0submodule.c.update\nnone\0core.x\ny\0submodule.c.path\0";
        let all = sections(said);
        let section = &all["a.b"];
        assert_eq!(section.path.as_deref(), Some(&b"lib/b"[..]));
        assert_eq!(
            (section.url.as_deref(), &section.update),
            (Some("../b"), &None)
        );
        assert!(section.is_shallow && all["d"].is_shallow && !all["c"].is_shallow);
        assert_eq!(all["c"].update.as_deref(), Some("none"));
        assert!(sections(b"submodule.a.url\nx\ry\0")["a"].wrong.is_some());
        assert!(sections(b"submodule.../x.url\ny\0").is_empty());
        let doubled = sections(b"submodule.a.path\nx\0submodule.a.path\ny\0");
        assert!(doubled["a"].wrong.is_some());
    }
}
