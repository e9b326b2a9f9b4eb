//! What a request asks for: method and target in, [`Route`] out.
//!
//! The mirror of a repository lives at `mirrors/{host}/{path}.git`. So the rules for names are
//! those of directories that must never leave their place, collide or nest; see [`RepoRef`].

use super::query::snapshot_query;
use super::{Method, Reject};
use crate::limits::{HOST_BYTES_MAX, PATH_PART_BYTES_MAX, REPO_PATH_BYTES_MAX};
use crate::manifest::want::Named;

const SNAPSHOT: &str = "/snapshot.tar.zst";

const GET: &str = "GET";
const GET_HEAD: &str = "GET, HEAD";
const POST: &str = "POST";

const METHOD: Reject = Reject::new(501, "unknown request method; use GET, HEAD or POST");
const NOT_FOUND: Reject = Reject::new(
    404,
    "unknown path; a snapshot is at /git/HOST/PATH/snapshot.tar.zst",
);
const ENCODED: Reject = Reject::new(
    400,
    "percent-encoding is read in a snapshot's query only; write the rest plainly",
);
const BAD_TARGET: Reject = Reject::new(
    400,
    "the URL holds a backslash, a '#' or a control character; remove it",
);
const DOTS: Reject = Reject::new(400, "the URL holds a '.' or '..' part; write it without");
const HOST: Reject = Reject::new(
    400,
    "malformed repository host; use letters, digits and . _ - with :PORT",
);
const NO_PATH: Reject = Reject::new(
    400,
    "no repository in the URL; use /git/HOST/PATH/snapshot.tar.zst",
);
const PATH_TOO_LONG: Reject = Reject::new(
    400,
    "the repository path is too long; 1024 bytes and 255 per part at most",
);
const PATH_EMPTY_PART: Reject = Reject::new(
    400,
    "the repository path has an empty part; remove the extra '/'",
);
const PATH_CHARACTERS: Reject = Reject::new(
    400,
    "a repository path is made of letters, digits and . _ - ~ + @ only",
);
const PATH_DASH: Reject = Reject::new(400, "no part of a repository path may begin with '-'");
const PATH_RESERVED: Reject = Reject::new(
    400,
    "no part of a repository path but the last may end in .git, none in .lock",
);
const BASE: Reject = Reject::new(
    400,
    "send base=HASH once, with all 40 or 64 hex digits of a commit",
);
const SERVICE: Reject = Reject::new(
    400,
    "only git's smart protocol is served; add ?service=git-upload-pack once",
);
const READ_ONLY: Reject = Reject::new(
    403,
    "this server is read-only: push to the upstream repository instead",
);

/// A repository, as named by a request.
///
/// Invariants, which hold for every value because only [`RepoRef::new`] makes one:
/// - `host` is 1 to 255 of `[A-Za-z0-9._:-]`, begins with a letter or digit.
/// - `path` is one or more parts joined by `/`, each of `[A-Za-z0-9._~+@-]`, none `.` or `..`,
///   none beginning with `-`, none ending in `.git` or `.lock` in any case. A leading dot is
///   fine: `.github` is the name of many real repositories.
/// - Two different values have different mirror directories `{host}/{path}.git`, and neither is
///   inside the other: only a mirror's own directory ends in `.git`, no part above it does.
/// - Names with any other character (`=`, `,`, `%`, …) or ending in `.lock` are never a mirror or
///   a directory above one: the server may use them next to mirrors for its own purposes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(
    clippy::manual_non_exhaustive,
    reason = "the attribute would let the rest of this crate build one without the checks"
)]
pub struct RepoRef<'a> {
    /// The upstream's name, with a port if the client gave one; case as sent.
    pub host: &'a str,
    /// The path of the repository below it, without `.git`; case as sent.
    pub path: &'a str,
    /// Keeps the struct from being built without the checks.
    checked: (),
}

impl<'a> RepoRef<'a> {
    /// Checks a host and a path; one trailing `.git` of the path is dropped.
    pub fn new(host: &'a str, path: &'a str) -> Result<Self, Reject> {
        check_host(host)?;
        let path = path.strip_suffix(".git").unwrap_or(path);
        check_path(path)?;
        Ok(Self {
            host,
            path,
            checked: (),
        })
    }
}

/// What is asked for. HEAD is allowed where GET is, except for bundles and git's own protocol;
/// the answer to it has no body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route<'a> {
    /// `GET`, `HEAD /git/{host}/{path}/snapshot.tar.zst`
    Snapshot {
        /// The repository.
        repo: RepoRef<'a>,
        /// What of it, see [`Route::named`].
        query: &'a str,
    },
    /// `GET /git/{host}/{path}/snapshot.bundle?base=HEX`
    Bundle {
        /// The repository.
        repo: RepoRef<'a>,
        /// 40 or 64 hex digits, in the case that was sent.
        base: &'a str,
    },
    /// `POST /git/{host}/{path}/ensure-refs`
    EnsureRefs(RepoRef<'a>),
    /// `GET /git/{host}/{path}/info/refs?service=git-upload-pack`
    InfoRefs(RepoRef<'a>),
    /// `POST /git/{host}/{path}/git-upload-pack`
    UploadPack(RepoRef<'a>),
    /// `GET`, `HEAD /git/{host}/{path}/status`
    Status(RepoRef<'a>),
    /// `POST /git/{host}/{path}/webhook`, `POST /webhook` where the body names the repository
    Webhook(Option<RepoRef<'a>>),
    /// `GET`, `HEAD /_liveness`
    Liveness,
    /// `GET`, `HEAD /_readiness`
    Readiness,
    /// `GET`, `HEAD /metrics`
    Metrics,
}

impl<'a> Route<'a> {
    /// The repository that is asked about.
    pub fn repo(&self) -> Option<RepoRef<'a>> {
        match self {
            Route::Snapshot { repo, .. }
            | Route::Bundle { repo, .. }
            | Route::EnsureRefs(repo)
            | Route::InfoRefs(repo)
            | Route::UploadPack(repo)
            | Route::Status(repo) => Some(*repo),
            Route::Webhook(repo) => *repo,
            Route::Liveness | Route::Readiness | Route::Metrics => None,
        }
    }

    /// What a snapshot is asked for of; of anything else nothing in particular.
    pub fn named(&self) -> Result<Named, Reject> {
        match self {
            Route::Snapshot { query, .. } => snapshot_query(query),
            _ => Ok(Named::default()),
        }
    }
}

/// Finds the route of a request. `target` is as in the request line, beginning with `/`. A
/// snapshot's query is read by [`Route::named`]; keys that another route does not know are
/// ignored. No reject closes the connection: the framing of the request is known and sound by now.
pub fn route(method: Method, target: &str) -> Result<Route<'_>, Reject> {
    if method == Method::Other {
        return Err(METHOD);
    }
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    check_target(path, query)?;
    if path.split('/').any(|part| part == "." || part == "..") {
        return Err(DOTS);
    }
    if path == "/webhook" {
        allow(method, POST)?;
        return Ok(Route::Webhook(None));
    }
    let plain = match path {
        "/_liveness" => Route::Liveness,
        "/_readiness" => Route::Readiness,
        "/metrics" => Route::Metrics,
        _ => return git_route(method, path.strip_prefix("/git/").ok_or(NOT_FOUND)?, query),
    };
    allow(method, GET_HEAD)?;
    Ok(plain)
}

/// Routes `{host}/{path}/{endpoint}`. The endpoint is the end of the path, so a repository may
/// itself be called `info` or `ensure-refs`.
fn git_route<'a>(method: Method, rest: &'a str, query: &'a str) -> Result<Route<'a>, Reject> {
    if let Some(repo) = rest.strip_suffix(SNAPSHOT) {
        let repo = parse_repo(repo)?;
        allow(method, GET_HEAD)?;
        Ok(Route::Snapshot { repo, query })
    } else if let Some(repo) = rest.strip_suffix("/snapshot.bundle") {
        let repo = parse_repo(repo)?;
        allow(method, GET)?;
        Ok(Route::Bundle {
            repo,
            base: parse_base(query)?,
        })
    } else if let Some(repo) = rest.strip_suffix("/ensure-refs") {
        let repo = parse_repo(repo)?;
        allow(method, POST)?;
        Ok(Route::EnsureRefs(repo))
    } else if let Some(repo) = rest.strip_suffix("/info/refs") {
        let repo = parse_repo(repo)?;
        allow(method, GET)?;
        check_service(query)?;
        Ok(Route::InfoRefs(repo))
    } else if let Some(repo) = rest.strip_suffix("/git-upload-pack") {
        let repo = parse_repo(repo)?;
        allow(method, POST)?;
        Ok(Route::UploadPack(repo))
    } else if let Some(repo) = rest.strip_suffix("/status") {
        let repo = parse_repo(repo)?;
        allow(method, GET_HEAD)?;
        Ok(Route::Status(repo))
    } else if let Some(repo) = rest.strip_suffix("/webhook") {
        let repo = parse_repo(repo)?;
        allow(method, POST)?;
        Ok(Route::Webhook(Some(repo)))
    } else if rest.ends_with("/git-receive-pack") {
        Err(READ_ONLY)
    } else {
        Err(NOT_FOUND)
    }
}

fn allow(method: Method, allowed: &'static str) -> Result<(), Reject> {
    let is_allowed = match method {
        Method::Get => allowed != POST,
        Method::Head => allowed == GET_HEAD,
        Method::Post => allowed == POST,
        Method::Other => false,
    };
    if is_allowed {
        return Ok(());
    }
    let message = "wrong method for this path; use one of those in the Allow header";
    Err(Reject {
        allow: Some(allowed),
        ..Reject::new(405, message)
    })
}

/// What no target may hold, wherever it leads. No repository that is served needs an escape, and a
/// path that means two things to two readers is how `..` gets past a check. Refs do need them.
fn check_target(path: &str, query: &str) -> Result<(), Reject> {
    let has_names = path.ends_with(SNAPSHOT);
    let rest = query.bytes().map(|byte| (byte, has_names));
    for (byte, may_escape) in path.bytes().map(|byte| (byte, false)).chain(rest) {
        match byte {
            b'%' if may_escape => {}
            b'%' => return Err(ENCODED),
            b'\\' | b'#' => return Err(BAD_TARGET),
            _ if !byte.is_ascii_graphic() => return Err(BAD_TARGET),
            _ => {}
        }
    }
    Ok(())
}

fn parse_repo(text: &str) -> Result<RepoRef<'_>, Reject> {
    let (host, path) = text.split_once('/').ok_or(NO_PATH)?;
    RepoRef::new(host, path)
}

fn check_host(host: &str) -> Result<(), Reject> {
    let has_start = host
        .bytes()
        .next()
        .is_some_and(|byte| byte.is_ascii_alphanumeric());
    let is_valid = host
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"._:-".contains(&byte));
    if has_start && is_valid && host.len() <= HOST_BYTES_MAX {
        Ok(())
    } else {
        Err(HOST)
    }
}

fn check_path(path: &str) -> Result<(), Reject> {
    if path.len() > REPO_PATH_BYTES_MAX {
        return Err(PATH_TOO_LONG);
    }
    path.split('/').try_for_each(check_part)?;
    // The mirror's directory is the last part with `.git` behind it.
    let last_bytes = path.rsplit('/').next().map_or(0, str::len);
    if last_bytes + ".git".len() > PATH_PART_BYTES_MAX {
        return Err(PATH_TOO_LONG);
    }
    Ok(())
}

fn check_part(part: &str) -> Result<(), Reject> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-~+@".contains(&byte);
    if part.is_empty() {
        Err(PATH_EMPTY_PART)
    } else if part.len() > PATH_PART_BYTES_MAX {
        Err(PATH_TOO_LONG)
    } else if part == "." || part == ".." {
        Err(DOTS)
    } else if part.starts_with('-') {
        Err(PATH_DASH)
    } else if !part.bytes().all(is_allowed) {
        Err(PATH_CHARACTERS)
    } else if ends_with_ignore_case(part, ".git") || ends_with_ignore_case(part, ".lock") {
        Err(PATH_RESERVED)
    } else {
        Ok(())
    }
}

fn ends_with_ignore_case(part: &str, end: &str) -> bool {
    let tail = part
        .len()
        .checked_sub(end.len())
        .and_then(|at| part.as_bytes().get(at..));
    tail.is_some_and(|tail| tail.eq_ignore_ascii_case(end.as_bytes()))
}

fn parse_base(query: &str) -> Result<&str, Reject> {
    let base = parameter(query, "base").ok_or(BASE)?;
    let is_hash = matches!(base.len(), 40 | 64) && base.bytes().all(|b| b.is_ascii_hexdigit());
    if is_hash { Ok(base) } else { Err(BASE) }
}

fn check_service(query: &str) -> Result<(), Reject> {
    match parameter(query, "service") {
        Some("git-upload-pack") => Ok(()),
        Some("git-receive-pack") => Err(READ_ONLY),
        _ => Err(SERVICE),
    }
}

/// The value of a parameter that is there exactly once.
fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    let mut values = query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .filter_map(|(key, value)| (key == name).then_some(value));
    let value = values.next()?;
    values.next().is_none().then_some(value)
}

#[cfg(test)]
mod tests {
    use std::path::{Component, Path, PathBuf};

    use proptest::prelude::*;

    use super::*;

    fn mirror(repo: RepoRef<'_>) -> PathBuf {
        PathBuf::from(format!("{}/{}.git", repo.host, repo.path))
    }

    fn repo<'a>(host: &'a str, path: &'a str) -> RepoRef<'a> {
        RepoRef::new(host, path).unwrap()
    }

    fn snapshot<'a>(repo: RepoRef<'a>, query: &'a str) -> Route<'a> {
        Route::Snapshot { repo, query }
    }

    #[test]
    fn escapes_are_for_the_names_of_refs() {
        for target in [
            "/git/h/a%62/snapshot.tar.zst?ref=a",
            "/git/h/a/snapshot%2Etar.zst?ref=a",
            "/git/h/a/snapshot.bundle?base=%61",
            "/git/h/a/info/refs?service=git%2Dupload-pack",
            "/metrics?a=%61",
            "/%3Fsnapshot.tar.zst?ref=%61",
        ] {
            let rejected = route(Method::Get, target);
            assert!(rejected.is_err(), "{target}");
        }
        let target = "/git/h/a/snapshot.tar.zst?ref=%61%ff";
        let found = route(Method::Get, target).unwrap();
        let asked = found.named().unwrap();
        assert_eq!(asked.name(), Some(b"a\xff".as_slice().into()));
        for query in ["x", "ref=%0a", "commit=abc", "ref=a&ref=b", "ref=%4"] {
            let target = format!("/git/h/a/snapshot.tar.zst?{query}");
            let reject = route(Method::Get, &target).unwrap().named().unwrap_err();
            assert!(reject.status == 400 && !reject.close, "{query}");
        }
        assert_eq!(Route::Metrics.named(), Ok(Named::default()));
    }

    #[test]
    fn all_routes() {
        let r = repo("github.com", "a/b");
        let hash = "0123456789abcdefABCDEF0123456789abcdef01";
        let long = "0123456789abcdef".repeat(4);
        let sha1 = format!("/git/github.com/a/b/snapshot.bundle?base={hash}");
        let sha256 = format!("/git/github.com/a/b.git/snapshot.bundle?x=y&base={long}");
        let rows = [
            (
                Method::Get,
                "/git/github.com/a/b/snapshot.tar.zst",
                snapshot(r, ""),
            ),
            (
                Method::Head,
                "/git/github.com/a/b.git/snapshot.tar.zst?ref=%C3%BC",
                snapshot(r, "ref=%C3%BC"),
            ),
            (
                Method::Get,
                &sha1,
                Route::Bundle {
                    repo: r,
                    base: hash,
                },
            ),
            (
                Method::Get,
                &sha256,
                Route::Bundle {
                    repo: r,
                    base: &long,
                },
            ),
            (
                Method::Post,
                "/git/github.com/a/b/ensure-refs",
                Route::EnsureRefs(r),
            ),
            (
                Method::Get,
                "/git/github.com/a/b.git/info/refs?service=git-upload-pack",
                Route::InfoRefs(r),
            ),
            (
                Method::Post,
                "/git/github.com/a/b/git-upload-pack",
                Route::UploadPack(r),
            ),
            (Method::Get, "/git/github.com/a/b/status", Route::Status(r)),
            (
                Method::Post,
                "/git/github.com/a/b.git/webhook",
                Route::Webhook(Some(r)),
            ),
            (Method::Post, "/webhook", Route::Webhook(None)),
            (Method::Get, "/_liveness", Route::Liveness),
            (Method::Head, "/_readiness", Route::Readiness),
            (Method::Get, "/metrics?x=1", Route::Metrics),
        ];
        for (method, target, expected) in rows {
            assert_eq!(route(method, target), Ok(expected), "{target}");
        }
    }

    #[test]
    fn allow_names_the_methods() {
        let rows = [
            (Method::Post, "/git/h/a/snapshot.tar.zst", "GET, HEAD"),
            (Method::Head, "/git/h/a/snapshot.bundle?base=x", "GET"),
            (Method::Get, "/git/h/a/ensure-refs", "POST"),
            (Method::Head, "/git/h/a/info/refs", "GET"),
            (Method::Get, "/git/h/a/git-upload-pack", "POST"),
            (Method::Post, "/metrics", "GET, HEAD"),
            (Method::Get, "/webhook", "POST"),
            (Method::Get, "/git/h/a/webhook", "POST"),
            (Method::Post, "/git/h/a/status", "GET, HEAD"),
        ];
        for (method, target, allowed) in rows {
            let reject = route(method, target).unwrap_err();
            assert_eq!(
                (reject.status, reject.allow),
                (405, Some(allowed)),
                "{target}"
            );
        }
    }

    #[test]
    fn unusual_names_that_are_real() {
        let names = [
            ("localhost:3000", "a"),
            ("127.0.0.1:80", "a.b/c_d"),
            ("git.sr.ht", "~user/repo"),
            ("github.com", "org/.github"),
            ("github.com", "org/libstdc++"),
            ("h", "info/refs"),
            ("h", "ensure-refs"),
            ("h", ".../git-upload-pack"),
            ("h", "gitlab/sub/group/git"),
        ];
        for (host, path) in names {
            let target = format!("/git/{host}/{path}/snapshot.tar.zst");
            assert_eq!(
                route(Method::Get, &target),
                Ok(snapshot(repo(host, path), ""))
            );
            let target = format!("/git/{host}/{path}.git/snapshot.tar.zst");
            assert_eq!(
                route(Method::Get, &target),
                Ok(snapshot(repo(host, path), ""))
            );
        }
    }

    #[test]
    fn lengths_are_exact() {
        let part = |bytes| "a".repeat(bytes);
        assert!(RepoRef::new(&part(255), "a").is_ok());
        assert!(RepoRef::new(&part(256), "a").is_err());
        assert!(RepoRef::new("h", &format!("{}/a", part(255))).is_ok());
        assert!(RepoRef::new("h", &format!("{}/a", part(256))).is_err());
        assert!(RepoRef::new("h", &part(251)).is_ok());
        assert!(RepoRef::new("h", &format!("{}.git", part(251))).is_ok());
        assert!(RepoRef::new("h", &part(252)).is_err());
        let path = |bytes: usize| "a/".repeat(bytes / 2 - 1) + &part(2 + bytes % 2);
        assert_eq!(path(1024).len(), 1024);
        assert!(RepoRef::new("h", &path(1024)).is_ok());
        assert!(RepoRef::new("h", &path(1025)).is_err());
    }

    #[test]
    fn a_reject_of_a_target_leaves_the_connection_open() {
        for target in [
            "/",
            "/%",
            "/..",
            "/git/h/a/info/refs",
            "/git/h//a/snapshot.tar.zst",
        ] {
            assert!(!route(Method::Get, target).unwrap_err().close);
        }
    }

    fn name() -> impl Strategy<Value = String> {
        let part = prop::sample::select(vec![
            "a",
            "b",
            "a.git",
            ".git",
            ".",
            "..",
            "",
            "git",
            "a.lock",
            "-a",
            ".a",
            "a.GIT",
            "a.git.git",
            "info",
            "refs",
            "%61",
            "a\\b",
            "~a",
            "a b",
            "\u{e9}",
            "snapshot.tar.zst",
            "..git",
        ]);
        prop::collection::vec(part, 0..4).prop_map(|parts| parts.join("/"))
    }

    proptest! {
        /// No two repositories share a directory, none is inside another, none leaves its place.
        #[test]
        fn mirrors_never_meet(
            a in name(),
            b in name(),
            host_a in "[ab.]{1,2}",
            host_b in "[ab.]{1,2}",
        ) {
            let (Ok(a), Ok(b)) = (RepoRef::new(&host_a, &a), RepoRef::new(&host_b, &b)) else {
                return Ok(());
            };
            let (dir_a, dir_b) = (mirror(a), mirror(b));
            prop_assert_eq!(a == b, dir_a == dir_b);
            prop_assert!(a == b || !dir_a.starts_with(&dir_b));
            prop_assert!(dir_a.components().all(|part| matches!(part, Component::Normal(_))));
            prop_assert_eq!(dir_a.components().count(), 2 + a.path.matches('/').count());
            prop_assert!(!Path::new(a.path).iter().any(|p| p.to_str().unwrap().ends_with(".lock")));
        }

        #[test]
        fn no_target_panics_or_escapes(target in "/(git/)?[ -~]{0,40}(/snapshot\\.tar\\.zst)?") {
            if let Ok(Route::Snapshot { repo, .. }) = route(Method::Get, &target) {
                prop_assert!(mirror(repo).components().all(|p| matches!(p, Component::Normal(_))));
                prop_assert_eq!(RepoRef::new(repo.host, repo.path), Ok(repo));
            }
        }
    }
}
