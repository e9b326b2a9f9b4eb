//! Where a repository is on a server, and where a server is.

use super::error::RestoreError;

/// A server's address, from `http://HOST[:PORT]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// What `Host` says.
    pub authority: String,
    /// What to connect to: `HOST:PORT`.
    pub address: String,
}

impl Server {
    /// Reads `--server`.
    pub fn parse(url: &str) -> Result<Server, RestoreError> {
        let usage = |why: &str| RestoreError::Usage(format!("--server {url}: {why}"));
        let rest = match url.split_once("://") {
            Some(("http", rest)) => rest,
            Some(("https", _)) => {
                return Err(usage(
                    "https is not spoken here; use http inside a trusted network or through a \
                     local TLS proxy",
                ));
            }
            _ => return Err(usage("write it as http://HOST:PORT")),
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        let plain = |b: u8| b.is_ascii_alphanumeric() || b".-_:[]".contains(&b);
        if authority.is_empty() || !authority.bytes().all(plain) {
            return Err(usage("write it as http://HOST:PORT, without a path"));
        }
        let after_host = authority.rsplit(']').next().unwrap_or_default();
        let address = match after_host.split_once(':') {
            Some((_, port)) => match port.parse::<u16>() {
                Ok(1..) => authority.to_owned(),
                _ => return Err(usage("a port is a number from 1 to 65535")),
            },
            None => format!("{authority}:80"),
        };
        Ok(Server {
            authority: authority.to_owned(),
            address,
        })
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
    (plain(host) && plain(path) && all_parts).then(|| format!("/git/{host}/{path}"))
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
        assert_eq!(address("http://[::1]").as_deref(), Some("[::1]:80"));
        for bad in [
            "a:81",
            "http://",
            "http://a/b",
            "http://a b",
            "ftp://a",
            "http://a:",
            "http://a:0",
            "http://a:99999",
            "http://[::1]:x",
        ] {
            assert_eq!(address(bad), None, "{bad}");
        }
        let https = Server::parse("https://a").unwrap_err().to_string();
        assert!(https.contains("https is not spoken"), "{https}");
    }
}
