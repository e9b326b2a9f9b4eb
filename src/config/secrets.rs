//! The secrets of webhooks: a file of lines `HOST SECRET`, several for a host while one replaces another.

use std::fmt;
use std::io::{self, Read};
use std::path::Path;

use zeroize::Zeroizing;

use super::Upstreams;
use crate::io::regular::open_regular;
use crate::limits::{CONFIG_FILE_MAX_BYTES, SECRET_BYTES_MAX, SECRETS_MAX};

/// A secret, which no log shows, and of which nothing is left in memory when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes it from where it was.
    pub fn new(text: String) -> Secret {
        Secret(Zeroizing::new(text))
    }

    /// What it says.
    pub fn text(&self) -> &str {
        &self.0
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// The secrets, each with the host that it speaks for: at most [`SECRETS_MAX`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Secrets {
    known: Vec<(String, Secret)>,
}

impl Secrets {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// Those of the file, and what is wrong with which line; never a secret.
    pub fn read(path: &Path, upstreams: &Upstreams) -> io::Result<Secrets> {
        let mut text = Zeroizing::new(String::new());
        let file = open_regular(path)?;
        let bytes = file
            .take(CONFIG_FILE_MAX_BYTES + 1)
            .read_to_string(&mut text)?;
        if bytes as u64 > CONFIG_FILE_MAX_BYTES {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let parsed = Secrets::parse(&text, upstreams);
        parsed.map_err(|why| io::Error::new(io::ErrorKind::InvalidData, why))
    }

    /// Lines of a host and a secret; empty ones and those that begin with `#` mean nothing.
    fn parse(text: &str, upstreams: &Upstreams) -> Result<Secrets, String> {
        let mut known = Vec::new();
        for (number, line) in (1..).zip(text.lines().map(str::trim)) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let wrong = |why: &str| format!("line {number}: {why}");
            let (host, secret) = line
                .split_once(char::is_whitespace)
                .ok_or_else(|| wrong("write HOST SECRET"))?;
            let host = upstreams
                .spelled(host)
                .ok_or_else(|| wrong(&format!("{host} is no upstream; add --upstream {host}")))?;
            let secret = secret.trim_start();
            if secret.len() > SECRET_BYTES_MAX {
                return Err(wrong("the secret is too long"));
            }
            known.push((host.to_owned(), Secret::new(secret.to_owned())));
            if known.len() > SECRETS_MAX {
                return Err(wrong(&format!("more than {SECRETS_MAX} secrets")));
            }
        }
        Ok(Secrets { known })
    }

    /// Those of a host, or of all.
    pub fn of<'s>(&'s self, host: Option<&'s str>) -> impl Iterator<Item = (&'s str, &'s Secret)> {
        let known = self.known.iter();
        known
            .filter(move |(own, _)| host.is_none_or(|host| host == own))
            .map(|(host, secret)| (host.as_str(), secret))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_hosts_and_secrets() {
        let upstreams = Upstreams::new(Vec::new(), true).unwrap();
        let text = "# ours\n\ngithub.com one two\r\nGITLAB.com\tthree\n  github.com   four\n";
        let secrets = Secrets::parse(text, &upstreams).unwrap();
        let of = |host| -> Vec<String> {
            let of = secrets.of(host);
            of.map(|(host, secret)| format!("{host} {}", secret.text()))
                .collect()
        };
        assert_eq!(
            of(Some("github.com")),
            ["github.com one two", "github.com four"]
        );
        assert_eq!(of(Some("codeberg.org")), [""; 0]);
        assert_eq!(of(None).len(), 3);
        assert!(!format!("{secrets:?}").contains("three"));
        let many = "github.com x\n".repeat(SECRETS_MAX + 1);
        let long = format!("github.com {}", "x".repeat(SECRET_BYTES_MAX + 1));
        for (text, why) in [
            ("github.com", "line 1: write HOST SECRET"),
            ("\nevil.org hush", "line 2: evil.org is no upstream"),
            (&*many, "more than"),
            (&*long, "too long"),
        ] {
            let refused = Secrets::parse(text, &upstreams).unwrap_err();
            assert!(
                refused.contains(why) && !refused.contains("hush"),
                "{refused}"
            );
        }
    }
}
