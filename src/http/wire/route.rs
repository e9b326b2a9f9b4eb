//! What a request asks for: method and target in, a [`Route`] of the [`table`](super::table) out.

pub use super::repo_ref::RepoRef;
pub use super::table::Route;

use super::repo_ref::DOTS;
use super::table::{At, MANIFEST, Methods, READ_ONLY, SNAPSHOT, TABLE};
use super::{Method, Reject};
use crate::manifest::parts::is_part_name;

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
    let below = path.strip_prefix("/git/");
    let admin = path.strip_prefix("/admin/git/");
    for row in TABLE {
        match row.at {
            At::Server { path: own, make } if path == own => {
                allow(method, row.methods)?;
                return make(query);
            }
            // The endpoint is the end of the path, so a repository may itself be called `info` or
            // `ensure-refs`.
            At::Repository { end, make } => {
                if let Some(repo) = below.and_then(|below| below.strip_suffix(end)) {
                    let repo = RepoRef::read(repo)?;
                    allow(method, row.methods)?;
                    return make(repo, query);
                }
            }
            At::Admin { end, wish } => {
                if let Some(repo) = admin.and_then(|below| below.strip_suffix(end)) {
                    let repo = RepoRef::read(repo)?;
                    allow(method, row.methods)?;
                    return Ok(Route::Wish(repo, wish));
                }
            }
            At::Part => {
                if let Some((repo, name)) = below.and_then(part_below) {
                    let repo = RepoRef::read(repo)?;
                    allow(method, row.methods)?;
                    return Ok(Route::Part { repo, name, query });
                }
            }
            At::Server { .. } => {}
        }
    }
    match below {
        Some(below) if below.ends_with("/git-receive-pack") => Err(READ_ONLY),
        _ => Err(NOT_FOUND),
    }
}

/// The repository and the name, if this is where a part is.
fn part_below(below: &str) -> Option<(&str, &str)> {
    let (parts, name) = below.rsplit_once('/')?;
    let repo = parts.strip_suffix("/parts")?;
    is_part_name(name).then_some((repo, name))
}

fn allow(method: Method, allowed: Methods) -> Result<(), Reject> {
    if allowed.contains(method) {
        return Ok(());
    }
    let message = "wrong method for this path; use one of those in the Allow header";
    Err(Reject {
        allow: Some(allowed.names()),
        ..Reject::new(405, message)
    })
}

/// What no target may hold, wherever it leads. No repository that is served needs an escape, and a
/// path that means two things to two readers is how `..` gets past a check. Refs do need them.
fn check_target(path: &str, query: &str) -> Result<(), Reject> {
    let is_part = || path.strip_prefix("/git/").and_then(part_below).is_some();
    let has_names = path.ends_with(SNAPSHOT) || path.ends_with(MANIFEST) || is_part();
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

#[cfg(test)]
mod tests {
    use std::path::{Component, Path, PathBuf};

    use proptest::prelude::*;

    use super::*;
    use crate::http::wire::table::{Endpoint, Row};
    use crate::manifest::want::Named;

    fn mirror(repo: RepoRef<'_>) -> PathBuf {
        PathBuf::from(format!("{}/{}.git", repo.host, repo.path))
    }

    fn repo<'a>(host: &'a str, path: &'a str) -> RepoRef<'a> {
        RepoRef::new(host, path).unwrap()
    }

    fn snapshot<'a>(repo: RepoRef<'a>, query: &'a str) -> Route<'a> {
        Route::Snapshot { repo, query }
    }

    /// A target of each row, with what its query needs.
    fn target(row: &Row) -> String {
        let query = match row.endpoint {
            Endpoint::Bundle => format!("?base={}", "a".repeat(40)),
            Endpoint::InfoRefs => "?service=git-upload-pack".into(),
            Endpoint::LogFilter => "?filter=info".into(),
            _ => String::new(),
        };
        match row.at {
            At::Server { path, .. } => format!("{path}{query}"),
            At::Repository { end, .. } => format!("/git/host/a/b{end}{query}"),
            At::Admin { end, .. } => format!("/admin/git/host/a/b{end}"),
            At::Part => "/git/host/a/b/parts/pack-1.pack?ref=%61".into(),
        }
    }

    #[test]
    fn each_row_is_reached_by_its_methods_and_no_other() {
        for row in TABLE {
            assert_eq!(row.endpoint.row().endpoint, row.endpoint);
            let target = target(row);
            for method in [Method::Get, Method::Head, Method::Post] {
                match route(method, &target) {
                    Ok(route) => {
                        assert!(row.methods.contains(method), "{method:?} {target}");
                        assert_eq!(route.endpoint(), row.endpoint, "{target}");
                        let is_of_repository = !matches!(row.at, At::Server { .. });
                        assert_eq!(route.repo().is_some(), is_of_repository, "{target}");
                    }
                    Err(reject) => {
                        assert!(!row.methods.contains(method), "{method:?} {target}");
                        assert_eq!(reject.allow, Some(row.methods.names()), "{target}");
                    }
                }
            }
        }
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
                    query: &sha1[sha1.len() - 45..],
                },
            ),
            (
                Method::Get,
                &sha256,
                Route::Bundle {
                    repo: r,
                    base: &long,
                    query: &sha256[sha256.len() - 73..],
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
    fn manifests_and_parts() {
        let r = repo("github.com", "a/b");
        let rows = [
            (
                Method::Get,
                "/git/github.com/a/b.git/manifest?ref=%C3%BC",
                Route::Manifest {
                    repo: r,
                    query: "ref=%C3%BC",
                },
            ),
            (
                Method::Head,
                "/git/github.com/a/b/parts/pack-0f.idx?depth=1",
                Route::Part {
                    repo: r,
                    name: "pack-0f.idx",
                    query: "depth=1",
                },
            ),
            // A repository that is called so.
            (
                Method::Get,
                "/git/github.com/a/parts/manifest",
                Route::Manifest {
                    repo: repo("github.com", "a/parts"),
                    query: "",
                },
            ),
        ];
        for (method, target, expected) in rows {
            assert_eq!(route(method, target), Ok(expected), "{target}");
        }
    }

    #[test]
    fn what_no_part_can_be_called_is_no_path() {
        let all = [
            "parts/meta",
            "parts/..%2fmeta",
            "parts/pack-a.keep",
            "parts/",
            "parts",
            "part/pack-1.pack",
            "parts/pack-1.pack/",
        ];
        for end in all {
            let target = format!("/git/h/a/{end}");
            let status = route(Method::Get, &target).unwrap_err().status;
            assert!(matches!(status, 400 | 404), "{target}");
        }
        assert_eq!(
            route(Method::Get, "/git/h/parts/pack-1.pack"),
            RepoRef::read("h").map(|_| unreachable!())
        );
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
