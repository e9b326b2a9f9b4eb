//! The credentials that the server itself has for upstreams, each from a file.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use base64ct::{Base64, Encoding};
use zeroize::Zeroizing;

use crate::config::{Upstreams, host_of, is_safe};
use crate::io::regular::open_regular;
use crate::limits::UPSTREAM_TOKEN_BYTES_MAX;

/// Who a token is said to belong to where its file does not say: hosts take any name.
const USER: &str = "x-access-token";

/// What is said to each upstream, by its base URL; nothing to most.
#[derive(Default)]
pub(crate) struct OwnTokens {
    known: Vec<(String, Option<Zeroizing<String>>)>,
}

impl fmt::Debug for OwnTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OwnTokens")
    }
}

impl OwnTokens {
    /// Reads the files of these hosts.
    ///
    /// # Errors
    /// Those of a file, or what is wrong with it; never what is in it.
    pub(crate) fn read(
        files: &BTreeMap<String, PathBuf>,
        upstreams: &Upstreams,
    ) -> Result<OwnTokens, (PathBuf, io::Error)> {
        let mut known = Vec::new();
        for (host, base) in upstreams.iter() {
            let value = files.get(host).map(|file| {
                let value = header_value(file);
                value.map_err(|e| (file.clone(), e))
            });
            known.push((base.to_owned(), value.transpose()?));
        }
        Ok(OwnTokens { known })
    }

    /// The value of `Authorization` for a URL: of the upstream whose it is; or of the only one of the same scheme,
    /// host and port, which may redirect there.
    pub(crate) fn of(&self, url: &str) -> Option<&str> {
        let own = self.known.iter().filter(|(base, _)| url.starts_with(base));
        if let Some((_, value)) = own.max_by_key(|(base, _)| base.len()) {
            return value.as_ref().map(|value| value.as_str());
        }
        let is_beside = |base: &str| is_safe(url) && origin_of(url) == origin_of(base);
        let mut beside = self.known.iter().filter(|(base, _)| is_beside(base));
        match (beside.next(), beside.next()) {
            (Some((_, Some(value))), None) => Some(value),
            _ => None,
        }
    }
}

/// Scheme, host and port of a URL.
fn origin_of(url: &str) -> (String, String, Option<&str>) {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let (_, authority) = authority.rsplit_once('@').unwrap_or(("", authority));
    let port = authority.rsplit_once(':').map(|(_, port)| port);
    let port = port.filter(|port| port.bytes().all(|byte| byte.is_ascii_digit()));
    let usual = match scheme {
        "https" => "443",
        _ => "80",
    };
    let host = host_of(url).to_ascii_lowercase();
    (scheme.to_owned(), host, port.or(Some(usual)))
}

fn header_value(file: &Path) -> io::Result<Zeroizing<String>> {
    // Room for all of it at once: what grows leaves copies behind.
    let mut text = Zeroizing::new(String::with_capacity(UPSTREAM_TOKEN_BYTES_MAX as usize + 1));
    let opened = open_regular(file)?;
    opened
        .take(UPSTREAM_TOKEN_BYTES_MAX + 1)
        .read_to_string(&mut text)?;
    if text.len() as u64 > UPSTREAM_TOKEN_BYTES_MAX {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let line = text.lines().next().unwrap_or_default().trim();
    let wrong = |why: &str| Err(io::Error::new(io::ErrorKind::InvalidData, why));
    if line.is_empty() || line.contains(|c: char| c.is_control() || c.is_whitespace()) {
        return wrong("its first line has to be USER:TOKEN or a TOKEN");
    }
    let mut pair = Zeroizing::new(String::with_capacity(USER.len() + 1 + line.len()));
    if !line.contains(':') {
        pair.push_str(USER);
        pair.push(':');
    }
    pair.push_str(line);
    let encoded = Zeroizing::new(Base64::encode_string(pair.as_bytes()));
    let mut value = Zeroizing::new(String::with_capacity("Basic ".len() + encoded.len()));
    value.push_str("Basic ");
    value.push_str(&encoded);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Upstream;

    #[test]
    fn tokens_are_for_their_upstream_and_nobody_else() {
        let dir = tempfile::tempdir().unwrap();
        let upstream = |host: &str, base: &str| Upstream {
            host: host.to_owned(),
            base_url: base.to_owned(),
        };
        let upstreams = vec![
            upstream("git.example.org", "https://git.example.org/team/"),
            upstream("local", "http://127.0.0.1:3000/"),
            upstream("open", "https://git.example.org/team/open/"),
            upstream("other", "http://127.0.0.1:4000/"),
            upstream("one", "https://alone.example.org/team/"),
        ];
        let upstreams = Upstreams::new(upstreams, true).unwrap();
        let read = |text: &str| {
            let file = dir.path().join("token");
            std::fs::write(&file, text).unwrap();
            let files =
                ["git.example.org", "local", "one"].map(|host| (host.to_owned(), file.clone()));
            OwnTokens::read(&files.into(), &upstreams)
        };
        let tokens = read("ci:hush\nmore\n").unwrap();
        assert_eq!(format!("{tokens:?}"), "OwnTokens");
        let value = Some("Basic Y2k6aHVzaA==");
        for (url, is_its) in [
            ("https://git.example.org/team/app", true),
            // Of two upstreams of the host it may be the other's.
            ("https://git.example.org/other", false),
            ("https://git.example.org/team/open/app", false),
            ("https://alone.example.org/other", true),
            ("https://alone.example.org:444/other", false),
            ("http://127.0.0.1:4000/a", false),
            ("http://git.example.org/team/app", false),
            ("https://git.example.org.evil.net/team/app", false),
            ("https://github.com/a", false),
            ("http://127.0.0.1:3000/a", true),
        ] {
            assert_eq!(tokens.of(url), value.filter(|_| is_its), "{url}");
        }
        let alone = read("hush").unwrap();
        assert_eq!(
            alone.of("http://127.0.0.1:3000/a"),
            Some("Basic eC1hY2Nlc3MtdG9rZW46aHVzaA==")
        );
        for wrong in ["", "\n hush", "a b", "a\u{7}"] {
            let refused = read(wrong).unwrap_err().1.to_string();
            assert!(
                refused.contains("USER:TOKEN") && !refused.contains("hush"),
                "{refused}"
            );
        }
        assert!(read(&"x".repeat(UPSTREAM_TOKEN_BYTES_MAX as usize + 1)).is_err());
    }
}
