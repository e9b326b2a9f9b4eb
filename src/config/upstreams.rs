//! Which hosts are served and where their repositories come from.
use super::repo_key::RepoKey;
use crate::limits::HOST_MAX_BYTES;
use std::collections::{BTreeMap, BTreeSet};

/// Hosts that are served unless `no_default_upstreams` is set. All of them ignore the case of a repository's name.
pub(super) const DEFAULT_HOSTS: [&str; 4] =
    ["github.com", "gitlab.com", "bitbucket.org", "codeberg.org"];
/// What git may be told to talk. Transports such as `ext::` run commands.
const SCHEMES: [&str; 5] = ["https", "http", "ssh", "git", "file"];

/// One configured upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// The name under `/git/`, in lower case.
    pub host: String,
    /// What a repository's path is appended to; ends with `/`.
    pub base_url: String,
}

/// All upstreams, by host.
///
/// Invariant: hosts are lower-case names that are safe as a directory name; base URLs have an
/// allowed scheme, carry no secret, no query and no fragment, and end with `/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstreams {
    bases: BTreeMap<String, String>,
    /// Hosts to which a repository's name is the same in any case.
    ignoring_case: BTreeSet<String>,
}

impl Upstreams {
    /// `configured` ones and, if `with_defaults`, the default hosts that they do not redefine.
    /// Fails with the host that is configured twice with different base URLs.
    pub fn new(configured: Vec<Upstream>, with_defaults: bool) -> Result<Self, String> {
        let mut bases = BTreeMap::new();
        for Upstream { host, base_url } in configured {
            match bases.get(&host) {
                Some(known) if *known != base_url => return Err(host),
                _ => bases.insert(host, base_url),
            };
        }
        for host in DEFAULT_HOSTS.iter().filter(|_| with_defaults) {
            bases
                .entry((*host).to_string())
                .or_insert_with(|| format!("https://{host}/"));
        }
        let is_served = |host: &&str| bases.contains_key(*host);
        let ignoring_case = DEFAULT_HOSTS.into_iter().filter(is_served);
        Ok(Self {
            ignoring_case: ignoring_case.map(str::to_owned).collect(),
            bases,
        })
    }

    /// The same where these hosts ignore the case of a repository's name, too. Fails with the one that is not
    /// served.
    pub fn ignoring_case(mut self, hosts: Vec<String>) -> Result<Self, String> {
        for host in hosts {
            let known = self.spelled(&host).map(str::to_owned);
            self.ignoring_case.insert(known.ok_or(host)?);
        }
        Ok(self)
    }

    /// Whether a host, spelled as [`Upstreams::spelled`] gives it, ignores the case of a repository's name.
    pub fn ignores_case(&self, host: &str) -> bool {
        self.ignoring_case.contains(host)
    }

    /// The key of the repository `path` of `host`, or `None` when the host is not served.
    pub fn key<'a>(&'a self, host: &str, path: &'a str) -> Option<RepoKey<'a>> {
        let host = self.spelled(host)?;
        Some(RepoKey::new(host, path, self.ignores_case(host)))
    }

    /// The name by which a repository is known whose host and path are spelled so.
    pub fn name_of(&self, spelled: &str) -> Option<std::sync::Arc<str>> {
        let (host, path) = spelled.split_once('/')?;
        Some(self.key(host, path)?.name())
    }

    /// Whether `host` is served, whatever its case.
    pub fn contains(&self, host: &str) -> bool {
        self.spelled(host).is_some()
    }

    /// `host` in the spelling of which there is one mirror, or `None` when it is not served: host
    /// names are the same in any case (RFC 3986 section 3.2.2), directories are not.
    pub fn spelled(&self, host: &str) -> Option<&str> {
        if let Some((known, _)) = self.bases.get_key_value(host) {
            return Some(known);
        }
        let mut hosts = self.bases.keys();
        let known = hosts.find(|known| known.eq_ignore_ascii_case(host));
        known.map(String::as_str)
    }

    /// The URL to clone the repository `path` of `host` from, or `None` when the host is not
    /// served. The host is spelled as [`Upstreams::spelled`] gives it. `path` is decoded, has no
    /// leading or trailing `/`, and was checked by the router; one that would leave the base URL
    /// gives `None` all the same.
    pub fn url_for(&self, host: &str, path: &str) -> Option<String> {
        let base = self.bases.get(host)?;
        let is_plain = |part: &str| !matches!(part, "" | "." | "..");
        if !path.split('/').all(is_plain) || path.contains(char::is_control) {
            return None;
        }
        let mut url = base.clone();
        path.bytes().for_each(|byte| push_encoded(&mut url, byte));
        Some(url)
    }

    /// The schemes of all base URLs.
    pub fn schemes(&self) -> BTreeSet<&str> {
        let schemes = self
            .bases
            .values()
            .filter_map(|base| base.split_once("://"));
        schemes.map(|(scheme, _)| scheme).collect()
    }

    /// Host and base URL of each upstream, in the order of hosts.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.bases
            .iter()
            .map(|(host, base)| (host.as_str(), base.as_str()))
    }
}

/// git decodes `%` in the URLs of every scheme, and `?` or `#` would end the path.
fn push_encoded(url: &mut String, byte: u8) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    if byte.is_ascii_alphanumeric() || b"/-._~+@!$&'()*,;=:".contains(&byte) {
        url.push(char::from(byte));
    } else {
        url.push('%');
        url.push(char::from(HEX[usize::from(byte >> 4)]));
        url.push(char::from(HEX[usize::from(byte & 15)]));
    }
}

/// `HOST` or `HOST=BASE_URL`.
pub(super) fn upstream(text: &str) -> Result<Upstream, String> {
    let (host, base) = match text.split_once('=') {
        Some((host, base)) => (host, Some(base)),
        None => (text, None),
    };
    if !is_host(host) {
        return Err(
            "HOST or HOST=BASE_URL, where HOST is letters, digits, '.', '-' and '_' \
                    with an optional :PORT, such as git.example.org"
                .into(),
        );
    }
    let host = host.to_ascii_lowercase();
    let mut base_url = match base {
        Some(base) => check_base(base)?.to_owned(),
        None => format!("https://{host}/"),
    };
    if !base_url.ends_with('/') {
        base_url.push('/');
    }
    Ok(Upstream { host, base_url })
}

fn is_host(host: &str) -> bool {
    let (name, port) = host
        .split_once(':')
        .map_or((host, None), |(name, port)| (name, Some(port)));
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    host.len() <= HOST_MAX_BYTES
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.bytes().all(plain)
        && !name.contains("..")
        && !name.ends_with('.')
        && port.is_none_or(is_port)
}

fn is_port(port: &str) -> bool {
    port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0)
}

/// Whether git may be given URLs that start with `base`; fails with what is allowed.
fn check_base(base: &str) -> Result<&str, String> {
    let (scheme, rest) = base.split_once("://").unwrap_or(("", base));
    if !SCHEMES.contains(&scheme) {
        return Err(format!(
            "a base URL that starts with one of {}://, such as file:///srv/git/",
            SCHEMES.join("://, ")
        ));
    }
    if base.contains(|c: char| c.is_control() || c.is_whitespace() || "?#\\".contains(c)) {
        return Err("a base URL without spaces, control characters, '?', '#' or '\\'".into());
    }
    if base.contains(',') {
        return Err(
            "one host and base URL (%2C stands for a comma in it); give the setting again for each"
                .into(),
        );
    }
    if rest.split('/').any(|part| matches!(part, "." | "..")) {
        return Err("a base URL without '.' or '..' parts".into());
    }
    if scheme == "file" {
        let is_absolute = rest.starts_with('/');
        return is_absolute
            .then_some(base)
            .ok_or("file:// and an absolute path".into());
    }
    check_authority(scheme, rest.split('/').next().unwrap_or_default())?;
    Ok(base)
}

fn check_authority(scheme: &str, authority: &str) -> Result<(), String> {
    let (user, host) = authority
        .rsplit_once('@')
        .map_or((None, authority), |(u, h)| (Some(u), h));
    // The URL becomes `origin` of every snapshot: a secret in it would go to every client.
    if user.is_some_and(|user| scheme != "ssh" || user.contains(':')) {
        return Err(
            "a base URL without a user name or password, which every client would see \
                    (ssh://user@host/ is fine); keep secrets in a git credential helper"
                .into(),
        );
    }
    // ssh would take either as an option.
    let starts_with_dash = |text: &str| text.starts_with('-');
    if host.is_empty() || starts_with_dash(host) || user.is_some_and(starts_with_dash) {
        return Err(format!(
            "{scheme}:// and a host name that does not start with '-'"
        ));
    }
    Ok(())
}

/// The host of a URL, without its port and without the brackets of an address.
pub(crate) fn host_of(url: &str) -> &str {
    let (_, rest) = url.split_once("://").unwrap_or(("", url));
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let (_, authority) = authority.rsplit_once('@').unwrap_or(("", authority));
    match authority
        .strip_prefix('[')
        .and_then(|rest| rest.split_once(']'))
    {
        Some((address, _)) => address,
        None => authority.split(':').next().unwrap_or_default(),
    }
}

/// Whether a URL may be asked with somebody's credential: nobody on the way can read it.
pub(crate) fn is_safe(url: &str) -> bool {
    url.starts_with("https://") || is_plain_loopback(url)
}

/// Whether what is sent there is sent in plain, and stays on this machine if it goes by no proxy.
pub(crate) fn is_plain_loopback(url: &str) -> bool {
    let host = host_of(url);
    let is_loopback = |ip: std::net::IpAddr| ip.is_loopback();
    url.starts_with("http://")
        && (host.eq_ignore_ascii_case("localhost") || host.parse().is_ok_and(is_loopback))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upstreams(texts: &[&str], with_defaults: bool) -> Upstreams {
        let configured = texts.iter().map(|text| upstream(text).unwrap()).collect();
        Upstreams::new(configured, with_defaults).unwrap()
    }

    #[test]
    fn a_host_alone_means_https() {
        let known = upstreams(&["Git.Example.org", "localhost:3000"], false);
        let expected = [
            ("git.example.org", "https://git.example.org/"),
            ("localhost:3000", "https://localhost:3000/"),
        ];
        assert_eq!(known.iter().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn base_urls_get_a_slash_and_the_path() {
        let known = upstreams(&["a=file:///srv/git", "b=http://127.0.0.1:3000/x/"], false);
        assert_eq!(
            known.url_for("a", "team/app").as_deref(),
            Some("file:///srv/git/team/app")
        );
        assert_eq!(
            known.url_for("b", "app").as_deref(),
            Some("http://127.0.0.1:3000/x/app")
        );
        assert_eq!(known.url_for("c", "app"), None);
        assert_eq!(known.url_for("B", "app"), None);
        assert_eq!((known.spelled("B"), known.spelled("c")), (Some("b"), None));
        let ssh = upstreams(&["c=ssh://git@host:22/~u/"], false);
        assert_eq!(
            ssh.url_for("c", "app").as_deref(),
            Some("ssh://git@host:22/~u/app")
        );
    }

    #[test]
    fn paths_are_encoded_and_cannot_leave_the_base() {
        let known = upstreams(&["a=file:///srv/git/"], false);
        let url = known.url_for("a", "a b/c?d#e%2f/ü").unwrap();
        assert_eq!(url, "file:///srv/git/a%20b/c%3Fd%23e%252f/%C3%BC");
        for path in [
            "", "/etc", "../x", "a/../x", "a//b", "a/", "./a", "a\nb", "a\0",
        ] {
            assert_eq!(known.url_for("a", path), None, "{path:?}");
        }
    }

    #[test]
    fn defaults_are_added_unless_redefined_or_removed() {
        let known = upstreams(&["github.com=http://proxy/gh/"], true);
        assert_eq!(
            known.url_for("github.com", "a/b").as_deref(),
            Some("http://proxy/gh/a/b")
        );
        assert_eq!(
            known.url_for("codeberg.org", "a").as_deref(),
            Some("https://codeberg.org/a")
        );
        assert_eq!(known.iter().count(), DEFAULT_HOSTS.len());
        assert!(!upstreams(&["x"], false).contains("github.com"));
    }

    #[test]
    fn the_schemes_are_those_of_the_bases() {
        let schemes = |texts: &[&str], with_defaults| {
            let known = upstreams(texts, with_defaults);
            known.schemes().into_iter().collect::<Vec<_>>().join(":")
        };
        assert_eq!(
            schemes(&["a=file:///x", "b=ssh://h/", "c=file:///y"], false),
            "file:ssh"
        );
        assert_eq!(schemes(&["a=http://x/"], true), "http:https");
    }

    #[test]
    fn one_host_has_one_base() {
        let twice = |a, b| Upstreams::new(vec![upstream(a).unwrap(), upstream(b).unwrap()], true);
        assert_eq!(twice("x=http://a/", "X=http://b/"), Err("x".to_string()));
        assert!(twice("x=http://a/", "x=http://a").is_ok());
    }

    #[test]
    fn wrong_ones_are_refused_with_the_reason() {
        let wrong = [
            ("", "HOST or HOST=BASE_URL"),
            ("-oProxy", "HOST or HOST=BASE_URL"),
            ("..", "HOST or HOST=BASE_URL"),
            ("a/b", "HOST or HOST=BASE_URL"),
            ("https://github.com/", "HOST or HOST=BASE_URL"),
            ("host:0", "HOST or HOST=BASE_URL"),
            ("host:+80", "HOST or HOST=BASE_URL"),
            ("=http://x/", "HOST or HOST=BASE_URL"),
            ("a=ext::sh -c x", "https://, http://"),
            ("a=ext::sh://x", "https://, http://"),
            ("a=-u://x", "https://, http://"),
            ("a=/srv/git", "https://, http://"),
            ("a=HTTP://x/", "https://, http://"),
            ("a=git@host:team", "https://, http://"),
            ("a=file://srv/git", "absolute path"),
            ("a=http://x/?y", "without spaces"),
            ("a=http://x /", "without spaces"),
            ("a=file:///srv/../etc/", "'..'"),
            ("a=https://user:secret@x/", "credential helper"),
            ("a=https://token@x/", "credential helper"),
            ("a=ssh://git:secret@x/", "credential helper"),
            ("a=ssh://-oProxyCommand=x/", "does not start with '-'"),
            ("a=ssh://-l@x/", "does not start with '-'"),
            ("a=http://", "host name"),
            ("a=file:///tmp/,b=file:///srv/", "again for each"),
        ];
        for (text, reason) in wrong {
            let allowed = upstream(text).unwrap_err();
            assert!(allowed.contains(reason), "{text:?}: {allowed}");
        }
        assert!(upstream(&"a".repeat(HOST_MAX_BYTES + 1)).is_err());
    }

    #[test]
    fn nobody_on_the_way_reads_a_credential() {
        for (url, safe) in [
            ("https://h.org/x", true),
            ("http://localhost:3000/x", true),
            ("http://127.0.0.2/x", true),
            ("http://[::1]:80/x", true),
            ("http://h.org/x", false),
            ("http://127.0.0.1.h.org/x", false),
            ("http://localhost.h.org/x", false),
            ("http://127.0.0.1@h.org/x", false),
            ("http://10.0.0.1/x", false),
            ("ssh://localhost/x", false),
            ("file:///x", false),
        ] {
            assert_eq!(is_safe(url), safe, "{url}");
        }
    }
}
