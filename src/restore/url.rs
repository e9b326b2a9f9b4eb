//! Where a repository is on a server, and where a server is.

use std::net::IpAddr;

use super::error::RestoreError;
use crate::config::{GivenUrl, Secret};
use crate::limits::TARGET_BYTES_MAX;

/// Where a server is, from `http[s]://[USER[:PASSWORD]@]HOST[:PORT][/PREFIX]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    pub is_tls: bool,
    /// What `Host` says.
    pub authority: String,
    /// What to connect to: `HOST:PORT`.
    pub address: String,
    /// What every path begins with: nothing, or `/` and what a proxy has the server below.
    pub prefix: String,
    /// Who asks, as the URL says it.
    pub user: Option<User>,
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub password: Option<Secret>,
}

impl Server {
    /// Reads `--server`. Errors show nothing of a password.
    pub fn parse(url: &str) -> Result<Server, RestoreError> {
        let usage =
            |why: &str| RestoreError::Usage(format!("--server {}: {why}", GivenUrl::new(url)));
        let form =
            "write it as https://HOST or http://HOST:PORT, with a path if a proxy has it below one";
        let (is_tls, rest) = match url.split_once("://") {
            Some(("http", rest)) => (false, rest),
            Some(("https", rest)) => (true, rest),
            _ => return Err(usage(form)),
        };
        let (authority, prefix) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (user, authority) = match authority.rsplit_once('@') {
            Some((user, authority)) => (Some(user), authority),
            None => (None, authority),
        };
        let user = user.map(|user| {
            User::parse(user).ok_or("its user and password are no text, or the user has a colon")
        });
        let user = user.transpose().map_err(usage)?;
        let plain = |b: u8| b.is_ascii_alphanumeric() || b".-_:[]".contains(&b);
        if authority.is_empty() || !authority.bytes().all(plain) {
            return Err(usage(form));
        }
        let prefix = prefix.trim_end_matches('/');
        if !prefix.is_empty() && !prefix[1..].split('/').all(is_plain_part) {
            return Err(usage(
                "its path may have letters, digits and -._~!$&'()*+,;=:@ in each part",
            ));
        }
        Ok(Server {
            is_tls,
            authority: authority.to_owned(),
            address: with_port(authority, is_tls).map_err(usage)?,
            prefix: prefix.to_owned(),
            user,
        })
    }

    /// The host, without the brackets of an address.
    pub fn host(&self) -> &str {
        let (host, _) = self.address.rsplit_once(':').unwrap_or((&self.address, ""));
        let bare = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        bare.unwrap_or(host)
    }

    /// Scheme, host and port: who it is to whom a credential belongs.
    pub fn origin(&self) -> String {
        format!("{}://{}", self.scheme(), self.authority)
    }

    /// `http` or `https`.
    pub fn scheme(&self) -> &'static str {
        match self.is_tls {
            true => "https",
            false => "http",
        }
    }

    /// Whether what is said to it leaves this machine in the clear. Names other than `localhost` may lead
    /// anywhere by the time that git asks for them.
    pub fn is_overheard(&self) -> bool {
        let host = self.host();
        let is_loopback = match host.parse::<IpAddr>() {
            Ok(address) => address.is_loopback(),
            Err(_) => host.eq_ignore_ascii_case("localhost"),
        };
        !self.is_tls && !is_loopback
    }

    /// The target that `Location` names for a request; `None` where that leaves scheme, host or port, or
    /// is no target.
    pub fn follow(&self, location: &str) -> Option<String> {
        let location = location.split('#').next().unwrap_or_default();
        let absolute = match location.strip_prefix("//") {
            Some(rest) => Some((self.scheme(), rest)),
            None => location
                .split_once("://")
                .filter(|_| !location.starts_with('/')),
        };
        let target = match absolute {
            None => location.to_owned(),
            Some((scheme, rest)) => self.target_here(scheme, rest)?,
        };
        let is_plain = target.bytes().all(|b| b.is_ascii_graphic() && b != b'\\');
        let is_target = target.starts_with('/') && target.len() <= TARGET_BYTES_MAX;
        (is_plain && is_target).then_some(target)
    }

    /// What is behind the authority of a URL, if that is this server's.
    fn target_here(&self, scheme: &str, rest: &str) -> Option<String> {
        let (authority, target) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let address = with_port(authority, self.is_tls).ok()?;
        let is_here = scheme.eq_ignore_ascii_case(self.scheme())
            && address.eq_ignore_ascii_case(&self.address);
        let slash = if target.starts_with('/') { "" } else { "/" };
        is_here.then(|| format!("{slash}{target}"))
    }

    /// The target of what the server names as `said`: it knows nothing of what a proxy has it below.
    pub fn below(&self, said: &str) -> String {
        match said.starts_with(&format!("{}/git/", self.prefix)) {
            true => said.to_owned(),
            false => format!("{}{said}", self.prefix),
        }
    }
}

impl User {
    /// Of a name and a password, if the two can be sent (RFC 7617): they are of no control characters, and a colon in
    /// the name would be where the password begins.
    pub(super) fn new(name: &str, password: &str) -> Option<User> {
        let is_text = |text: &str| !text.contains(char::is_control);
        let can_be_sent = is_text(name) && !name.contains(':') && is_text(password);
        can_be_sent.then(|| User {
            name: name.to_owned(),
            password: Some(Secret::new(password.to_owned())),
        })
    }

    /// Reads `USER[:PASSWORD]` of a URL.
    pub fn parse(text: &str) -> Option<User> {
        let (name, password) = match text.split_once(':') {
            Some((name, password)) => (name, Some(password)),
            None => (text, None),
        };
        let password = password.map(|password| decoded(password).map(Secret::new));
        Some(User {
            // See [`User::new`].
            name: decoded(name).filter(|name| !name.contains(':'))?,
            password: match password {
                Some(password) => Some(password?),
                None => None,
            },
        })
    }
}

/// What `%` and two digits stand for; `None` where that is no text, or has control characters, which no
/// header could have.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        bytes.push(match (first, tail) {
            (b'%', [high, low, after @ ..]) => {
                rest = after;
                let digit = |b: &u8| char::from(*b).to_digit(16);
                u8::try_from(digit(high)? * 16 + digit(low)?).ok()?
            }
            (b'%', _) => return None,
            (byte, _) => *byte,
        });
    }
    let text = String::from_utf8(bytes).ok()?;
    (!text.contains(char::is_control)).then_some(text)
}

/// Whether a part of a path is as written, and leads nowhere else.
fn is_plain_part(part: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@".contains(&b);
    !matches!(part, "" | "." | "..") && part.bytes().all(plain)
}

/// `HOST:PORT` of `HOST[:PORT]`.
fn with_port(authority: &str, is_tls: bool) -> Result<String, &'static str> {
    let after_host = authority.rsplit(']').next().unwrap_or_default();
    match after_host.split_once(':') {
        Some((_, port)) => match port.parse::<u16>() {
            Ok(1..) if port.bytes().all(|b| b.is_ascii_digit()) => Ok(authority.to_owned()),
            _ => Err("a port is a number from 1 to 65535"),
        },
        None if is_tls => Ok(format!("{authority}:443")),
        None => Ok(format!("{authority}:80")),
    }
}

/// `/git/HOST/PATH` of a repository, from any form that git clones: a URL, `user@host:path`, or
/// plain `HOST/PATH`. `None` for what no server can know, such as a local path.
pub fn base_target(repo_url: &str) -> Option<String> {
    let (host, path) = match repo_url.split_once("://") {
        Some((scheme, rest)) => {
            if !matches!(scheme, "http" | "https" | "ssh" | "git" | "git+ssh") {
                return None;
            }
            rest.split_once('/')?
        }
        None if repo_url.starts_with(['/', '.']) => return None,
        None => match (repo_url.split_once(':'), repo_url.split_once('/')) {
            // scp's form: the colon stands before any slash.
            (Some((host, path)), slash) if slash.is_none_or(|(h, _)| h.len() > host.len()) => {
                (host, path)
            }
            (_, Some(split)) => split,
            _ => return None,
        },
    };
    let host = host.rsplit('@').next().unwrap_or(host);
    let path = path.trim_matches('/');
    let path = path.strip_suffix(".git").unwrap_or(path);
    let plain = |text: &str| {
        let ok = |b: u8| b.is_ascii_graphic() && !b"?#%\\".contains(&b);
        !text.is_empty() && text.bytes().all(ok)
    };
    // A server takes no such part, whatever is there.
    let is_part = |part: &str| !matches!(part, "" | "." | "..");
    let all_parts = [host].into_iter().chain(path.split('/')).all(is_part);
    // What looks like a port and is none may be a password.
    let has_port = match host
        .rsplit(']')
        .next()
        .and_then(|rest| rest.split_once(':'))
    {
        Some((_, port)) => port.bytes().all(|b| b.is_ascii_digit()),
        None => true,
    };
    (plain(host) && has_port && plain(path) && all_parts).then(|| format!("/git/{host}/{path}"))
}

/// Why a repository has no place on a server.
pub(super) fn no_name(repo_url: &GivenUrl) -> String {
    format!(
        "{repo_url} does not name a host and a path below it: write a URL of http, https, ssh or git, \
         or HOST/PATH as the server has it, such as github.com/OWNER/NAME"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_a_repository_names_one_target() {
        for url in [
            "https://example.org/a/b",
            "https://user:secret@example.org/a/b.git/",
            "http://example.org/a/b.git",
            "ssh://git@example.org/a/b",
            "git@example.org:a/b.git",
            "example.org/a/b",
        ] {
            assert_eq!(
                base_target(url).as_deref(),
                Some("/git/example.org/a/b"),
                "{url}"
            );
        }
        for url in [
            "file:///srv/a",
            "/srv/a",
            "./a",
            "a",
            "https://x",
            "https://x/a?b",
            "x:a b",
            "local/../etc",
            "https://user:sec/ret@example.org/a",
            "https://x/a/./b",
            "x/a//b",
            "../x/a",
        ] {
            assert_eq!(base_target(url), None, "{url}");
        }
    }

    #[test]
    fn servers() {
        let address = |url| Server::parse(url).map(|s| s.address).ok();
        assert_eq!(address("http://a:81/").as_deref(), Some("a:81"));
        assert_eq!(address("http://a").as_deref(), Some("a:80"));
        assert_eq!(address("https://a/b/").as_deref(), Some("a:443"));
        assert_eq!(address("http://[::1]").as_deref(), Some("[::1]:80"));
        let host = |url| Server::parse(url).map(|s| s.host().to_owned()).ok();
        assert_eq!(host("https://[::1]/x").as_deref(), Some("::1"));
        assert_eq!(host("https://a:1").as_deref(), Some("a"));
        let prefix = |url| Server::parse(url).map(|s| s.prefix).ok();
        assert_eq!(prefix("http://a//").as_deref(), Some(""));
        assert_eq!(prefix("http://a/b.c/~d/").as_deref(), Some("/b.c/~d"));
        for bad in [
            "a:81",
            "http://",
            "http://a b",
            "ftp://a",
            "HTTP://a",
            "http://a:",
            "http://a:0",
            "http://a:+1",
            "http://a:99999",
            "http://[::1]:x",
            "http://a/b//c",
            "http://a/../b",
            "http://a/b?c",
            "http://a/%2e",
            "http://x:%zz@a",
            "http://x:%0a@a",
            "http://x%3ay:z@a",
        ] {
            assert_eq!(address(bad), None, "{bad}");
        }
    }

    #[test]
    fn who_asks_is_taken_from_the_url_and_never_shown() {
        let server = Server::parse("https://us%40er:p%3ass@a/b").unwrap();
        let user = server.user.as_ref().unwrap();
        assert_eq!(user.name, "us@er");
        assert_eq!(user.password.as_ref().unwrap().text(), "p:ss");
        assert_eq!((&*server.authority, &*server.prefix), ("a", "/b"));
        assert!(!format!("{server:?}").contains("p:ss"), "{server:?}");
        let alone = Server::parse("https://one@a").unwrap().user.unwrap();
        assert_eq!((&*alone.name, alone.password), ("one", None));
        for wrong in [
            "ftp://u:hush@a",
            "https://u:hush@a:0",
            "u:hush@a",
            "http://u:hush@a/?hush",
        ] {
            let error = Server::parse(wrong).unwrap_err().to_string();
            assert!(!error.contains("hush"), "{error}");
        }
    }

    #[test]
    fn credentials_stay_on_this_machine_or_inside_of_tls() {
        let is_overheard = |url| Server::parse(url).unwrap().is_overheard();
        for quiet in [
            "https://a",
            "http://127.0.0.9:1",
            "http://[::1]:2",
            "http://LocalHost/x",
        ] {
            assert!(!is_overheard(quiet), "{quiet}");
        }
        for loud in [
            "http://a",
            "http://10.0.0.1",
            "http://[::2]",
            "http://localhost.a",
            "http://127.0.0.1.a",
        ] {
            assert!(is_overheard(loud), "{loud}");
        }
    }

    #[test]
    fn redirects_stay_within_scheme_host_and_port() {
        let server = Server::parse("https://u:p@A.b/c").unwrap();
        for (location, target) in [
            ("/d?e=f#g", Some("/d?e=f")),
            ("https://a.B/d", Some("/d")),
            ("https://a.b:443", Some("/")),
            ("HTTPS://a.b?x", Some("/?x")),
            ("//a.b/d", Some("/d")),
            ("/d?to=http://x/", Some("/d?to=http://x/")),
            ("http://a.b/d", None),
            ("https://a.b:444/d", None),
            ("https://x.b/d", None),
            ("https://u@a.b/d", None),
            ("https://a.b@x/d", None),
            ("//x/d", None),
            ("d", None),
            ("", None),
            ("/a b", None),
            ("/a\\b", None),
            ("javascript://a.b/", None),
        ] {
            assert_eq!(server.follow(location).as_deref(), target, "{location}");
        }
        assert_eq!(
            server.follow(&format!("/{}", "x".repeat(TARGET_BYTES_MAX))),
            None
        );
        assert_eq!(server.below("/git/h/r/bundle"), "/c/git/h/r/bundle");
        assert_eq!(server.below("/c/git/h/r/bundle"), "/c/git/h/r/bundle");
    }
}
