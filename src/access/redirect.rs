//! Where an upstream may send git. git itself follows no redirect: it would go to any host. Where
//! one answers `info/refs` with a redirect, git is asked what it said and the new URL is looked
//! at here.
use super::shown::without_password;
use crate::config::{Access, Rule, Upstreams};
use crate::limits;

/// What git asks for first; a redirect must lead to the same of another repository.
const ASKED: &str = "/info/refs?service=git-upload-pack";

/// Which redirects of an upstream are followed, besides that they stay at its host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Redirects {
    /// To another repository: where all are open, nobody gets what he may not read. Elsewhere it is as if there was
    /// nothing, for it is the first one's name that somebody may read.
    pub elsewhere: bool,
    /// Whether names that differ in case only are of the same repository.
    pub ignores_case: bool,
}

impl Redirects {
    const ALL: Redirects = Redirects {
        elsewhere: true,
        ignores_case: false,
    };
}

/// The same of all upstreams.
#[derive(Clone, Debug, Default)]
pub(crate) struct AllRedirects(Vec<(String, Redirects)>);

impl AllRedirects {
    /// These, by what their repositories' paths are appended to.
    pub(crate) fn new(redirects: Vec<(String, Redirects)>) -> AllRedirects {
        AllRedirects(redirects)
    }

    /// Those of the upstreams that are served.
    pub(crate) fn of(upstreams: &Upstreams, access: &Access) -> AllRedirects {
        let of = |(host, base): (&str, &str)| {
            let redirects = Redirects {
                elsewhere: access.of(host) == Rule::Open,
                ignores_case: upstreams.ignores_case(host),
            };
            (base.to_owned(), redirects)
        };
        AllRedirects::new(upstreams.iter().map(of).collect())
    }

    /// Those of a repository's upstream. Two may have one base, or one that the other's begins with: what either
    /// does not follow is not followed.
    pub(crate) fn of_url(&self, url: &str) -> Redirects {
        let of_it = self.0.iter().filter(|(base, _)| url.starts_with(base));
        let of_it = of_it.map(|(_, redirects)| *redirects);
        let both = |one: Redirects, other: Redirects| Redirects {
            elsewhere: one.elsewhere && other.elsewhere,
            ignores_case: one.ignores_case && other.ignores_case,
        };
        of_it.reduce(both).unwrap_or(Redirects::ALL)
    }
}

/// What a repository's own URL is asked for first.
pub(crate) fn asked(url: &str) -> String {
    format!("{url}{ASKED}")
}

/// Whether two URLs are of the same repository: the same path, with `.git` or without, and in any case where the host
/// ignores that. The host is one that [`target`] leads to.
pub(crate) fn is_same_repository(url: &str, other: &str, ignores_case: bool) -> bool {
    fn path(url: &str) -> Option<&str> {
        let (_, rest) = url.split_once("://")?;
        let (_, path) = rest.split_once('/')?;
        let path = path.trim_end_matches('/');
        Some(path.strip_suffix(".git").unwrap_or(path))
    }
    match (path(url), path(other)) {
        (Some(one), Some(other)) if ignores_case => one.eq_ignore_ascii_case(other),
        (Some(one), Some(other)) => one == other,
        _ => false,
    }
}

/// Where the last answer in a trace of git's HTTP (`GIT_TRACE_CURL`) redirects to, if it does.
pub(crate) fn location(trace: &str) -> Option<&str> {
    let mut found = None;
    for line in trace.lines() {
        let Some((_, field)) = line.split_once("<= Recv header: ") else {
            continue;
        };
        if field.starts_with("HTTP/") {
            // Another answer.
            found = None;
        } else if let Some((name, value)) = field.split_once(':')
            && name.eq_ignore_ascii_case("location")
        {
            found = Some(value.trim());
        }
    }
    found
}

/// The URL of the repository that `location` leads to when `url` was asked for; fails with why
/// it is not followed. Only the same host and port are, for a credential goes along: http becomes https where both
/// are at their own.
pub(crate) fn target(url: &str, location: &str) -> Result<String, String> {
    // What it has besides a place may be a secret.
    let shown = location.split(['?', '#']).next().unwrap_or_default();
    let not_followed = |why: &str| format!("to {:?}, {why}", without_password(shown));
    let is_plain = |byte: u8| byte.is_ascii_graphic() && !b"\"\\<>^`{|}".contains(&byte);
    if location.len() > limits::REDIRECT_BYTES_MAX || !location.bytes().all(is_plain) {
        return Err("to what is no URL".to_owned());
    }
    let from = Origin::of(url).ok_or_else(|| not_followed("from what is no URL"))?;
    let absolute = match location {
        _ if location.starts_with("//") => format!("{}:{location}", from.scheme),
        _ if location.starts_with('/') => {
            format!("{}://{}{location}", from.scheme, from.authority)
        }
        _ => location.to_owned(),
    };
    let to = Origin::of(&absolute).ok_or_else(|| not_followed("which is no http URL"))?;
    let upgraded = (from.scheme, to.scheme) == ("http", "https");
    if !from.host.eq_ignore_ascii_case(to.host) {
        return Err(not_followed("which is another host"));
    }
    if from.scheme != to.scheme && !upgraded {
        return Err(not_followed("which is not encrypted"));
    }
    let is_own = upgraded && (from.port, to.port) == (HTTP_PORT, HTTPS_PORT);
    if from.port != to.port && !is_own {
        return Err(not_followed("which is another port"));
    }
    match absolute.strip_suffix(ASKED) {
        Some(repository) if !repository.contains(['?', '#']) => Ok(repository.to_owned()),
        _ => Err(not_followed("which is no repository")),
    }
}

const HTTP_PORT: u16 = 80;
const HTTPS_PORT: u16 = 443;

/// Where the requests for a URL go.
struct Origin<'u> {
    scheme: &'static str,
    /// As it was written.
    authority: &'u str,
    host: &'u str,
    port: u16,
}

impl<'u> Origin<'u> {
    /// `None` unless it is an http or https URL without a user.
    fn of(url: &'u str) -> Option<Self> {
        let (scheme, rest) = url.split_once("://")?;
        let (scheme, default_port) = match scheme {
            _ if scheme.eq_ignore_ascii_case("https") => ("https", HTTPS_PORT),
            _ if scheme.eq_ignore_ascii_case("http") => ("http", HTTP_PORT),
            _ => return None,
        };
        let authority = rest.split(['/', '?', '#']).next()?;
        // The colons of an IPv6 address stand in brackets.
        let host_end = match authority.find(']') {
            Some(bracket) => bracket + 1,
            None => authority.find(':').unwrap_or(authority.len()),
        };
        let (host, port) = authority.split_at(host_end);
        let port = match port.strip_prefix(':') {
            None if port.is_empty() => default_port,
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => digits.parse().ok()?,
            _ => return None,
        };
        (!host.is_empty() && !authority.contains('@')).then_some(Self {
            scheme,
            authority,
            host,
            port,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_answer_counts() {
        let trace = "\
12:00:00.1 http.c:872              <= Recv header: HTTP/1.1 302 Found
12:00:00.1 http.c:872              <= Recv header: Location: http://first/
12:00:00.1 http.c:872              <= Recv header:
12:00:00.1 http.c:872              <= Recv header: HTTP/2 301
12:00:00.1 http.c:872              <= Recv header: location: /a/info/refs
12:00:00.1 http.c:872              => Send header: Location: http://sent/
12:00:00.1 http.c:872              <= Recv header: x: Location: http://x/
fatal: unable to access 'http://h/': The requested URL returned error: 301";
        assert_eq!(location(trace), Some("/a/info/refs"));
        let other = format!("{trace}\nx <= Recv header: HTTP/1.1 200 OK\n");
        assert_eq!(location(&other), None);
    }

    #[test]
    fn the_same_host_is_followed() {
        for (from, to, expected) in [
            ("http://h/a", "http://h/b", "http://h/b"),
            ("http://h/a", "http://H:80/b.git", "http://H:80/b.git"),
            ("http://h:1/a", "/b/c", "http://h:1/b/c"),
            ("http://h:1/a", "//h:1/b", "http://h:1/b"),
            ("http://h/a", "https://h/a", "https://h/a"),
            ("http://h:1/a", "https://h:1/a", "https://h:1/a"),
            ("https://h/a", "https://h:443/b", "https://h:443/b"),
            ("http://[::1]:1/a", "http://[::1]:1/b", "http://[::1]:1/b"),
        ] {
            let to = format!("{to}{ASKED}");
            assert_eq!(target(from, &to).as_deref(), Ok(expected), "{from} {to}");
        }
    }

    #[test]
    fn another_path_is_another_repository() {
        let is_same = |other| is_same_repository("http://h:1/a/b", other, false);
        assert!(
            is_same("http://h:1/a/b.git")
                && is_same("https://h/a/b/")
                && is_same("https://h/a/b.git/")
        );
        assert!(!is_same("http://h:1/a/c") && !is_same("http://h:1/a") && !is_same("http://h:1"));
        assert!(!is_same("http://h:1/a/B"), "it may be another");
        let is_same = |other| is_same_repository("http://h:1/a/b", other, true);
        assert!(is_same("http://h:1/A/B.git") && !is_same("http://h:1/A/C"));
    }

    #[test]
    fn what_is_open_leads_elsewhere() {
        let bases = [("http://h/", true), ("http://h/closed/", false)];
        let of = |(base, elsewhere): (&str, bool)| {
            let redirects = Redirects {
                elsewhere,
                ..Redirects::ALL
            };
            (base.to_owned(), redirects)
        };
        let all = AllRedirects::new(bases.map(of).into());
        let elsewhere = |url| all.of_url(url).elsewhere;
        assert!(elsewhere("http://h/a") && elsewhere("http://i/a"));
        assert!(!elsewhere("http://h/closed/a"), "one of them is closed");
    }

    #[test]
    fn nothing_else_is() {
        for (from, to, why) in [
            ("http://h/a", "http://i/a", "another host"),
            (
                "http://127.0.0.1:1/a",
                "http://localhost:1/a",
                "another host",
            ),
            ("http://h/a", "http://h.evil/a", "another host"),
            ("http://h/a", "//i/a", "another host"),
            ("http://[::1]:1/a", "http://[::2]:1/a", "another host"),
            ("http://h/a", "http://h:8080/a", "another port"),
            ("http://h/a", "https://h:8443/a", "another port"),
            ("http://h:1/a", "https://h:2/a", "another port"),
            ("http://h:1/a", "https://h/a", "another port"),
            ("https://h/a", "https://h:8443/a", "another port"),
            ("https://h/a", "http://h/a", "not encrypted"),
            ("http://h/a", "http://u@h/a", "no http URL"),
            ("http://h/a", "http://h@i/a", "no http URL"),
            ("http://h/a", "file:///etc", "no http URL"),
            ("http://h/a", "ext::sh -c x", "no URL"),
            ("http://h/a", "b", "no http URL"),
            ("http://h/a", "http://h:1x/a", "no http URL"),
            ("http://h/a", "http:///a", "no http URL"),
            ("http://h/a", "http://h/a?x=1", "no repository"),
        ] {
            let to = format!("{to}{ASKED}");
            let refused = target(from, &to).unwrap_err();
            assert!(refused.contains(why), "{from} {to}: {refused}");
            assert!(
                !refused.contains('?') && !refused.contains('@'),
                "{refused}"
            );
        }
        for to in ["http://h/b", "http://h/login?info/refs", ""] {
            assert!(target("http://h/a", to).is_err(), "{to}");
        }
        let long = format!("http://h/{}{ASKED}", "x".repeat(limits::REDIRECT_BYTES_MAX));
        assert!(target("http://h/a", &long).is_err());
    }
}
