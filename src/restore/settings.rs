//! What of the user's own configuration a `git` that a restore runs gets to see: how to log in and
//! how to reach the network. Nothing that says what else is to be run, and nothing of an archive's.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use zeroize::Zeroize;

use super::error::RestoreError;
use crate::config::GivenUrl;

/// What the user has set, includes resolved.
pub struct Users {
    settings: Vec<Setting>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Setting {
    /// Section and name in lower case, what is between them as written.
    key: Vec<u8>,
    /// Perhaps a secret.
    value: Vec<u8>,
}

impl Drop for Setting {
    fn drop(&mut self) {
        self.value.zeroize();
    }
}

/// What one step gets.
#[derive(Default)]
pub struct Settings {
    settings: Vec<Setting>,
    scheme: String,
}

impl Users {
    /// Reads `git config --list -z --show-scope`: `SCOPE NUL KEY LF VALUE NUL`, again and again. A
    /// key without a value, which means true, has no LF.
    pub fn parse(listed: &[u8]) -> Users {
        let parts: Vec<&[u8]> = listed.split(|b| *b == 0).collect();
        // `command` is the environment's; what is set on the command line is none of these keys.
        let is_users = |pair: &&[&[u8]]| matches!(pair[0], b"system" | b"global" | b"command");
        let users = parts.chunks_exact(2).filter(is_users);
        let settings = users.map(|pair| {
            let end = pair[1].iter().position(|b| *b == b'\n');
            let (key, value) = match end {
                Some(end) => (&pair[1][..end], &pair[1][end + 1..]),
                None => (pair[1], &b"true"[..]),
            };
            Setting {
                key: key.to_vec(),
                value: value.to_vec(),
            }
        });
        Users {
            settings: settings.filter(|s| kind(&s.key).is_some()).collect(),
        }
    }

    /// What a step gets that asks the upstream at `url`.
    pub fn for_upstream(&self, url: &str) -> Result<Settings, RestoreError> {
        let real = self.rewritten(url.as_bytes());
        let scheme = scheme(&real).ok_or_else(|| {
            let real = GivenUrl::new(&String::from_utf8_lossy(&real));
            RestoreError::Usage(format!(
                "\"{real}\" is no URL of http, https, ssh, git or file"
            ))
        })?;
        Ok(Settings {
            settings: self.of(&[Kind::Network, Kind::Rewrite]),
            scheme: scheme.to_owned(),
        })
    }

    fn of(&self, kinds: &[Kind]) -> Vec<Setting> {
        let wanted = |s: &&Setting| kind(&s.key).is_some_and(|kind| kinds.contains(&kind));
        self.settings.iter().filter(wanted).cloned().collect()
    }

    /// `url` as git will use it: the longest `url.BASE.insteadOf` that it begins with is replaced,
    /// the first of several.
    fn rewritten(&self, url: &[u8]) -> Vec<u8> {
        let rules = self.settings.iter().filter_map(|s| {
            let base = s.key.strip_prefix(b"url.")?.strip_suffix(b".insteadof")?;
            Some((base, &s.value[..]))
        });
        // Of equals the last counts for `max_by_key`.
        let longest = rules
            .rev()
            .filter(|(_, prefix)| url.starts_with(prefix))
            .max_by_key(|(_, prefix)| prefix.len());
        match longest {
            Some((base, prefix)) => [base, &url[prefix.len()..]].concat(),
            None => url.to_vec(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Network,
    Rewrite,
}

/// What a key is good for; `None` for all that is not the user's to say here.
fn kind(key: &[u8]) -> Option<Kind> {
    let first = key.iter().position(|b| *b == b'.')?;
    let last = key.iter().rposition(|b| *b == b'.')?;
    match (&key[..first], &key[last + 1..]) {
        // Who is asked is said by the caller.
        (b"http", b"followredirects") => None,
        (b"credential" | b"http", _) => Some(Kind::Network),
        (b"core", b"sshcommand" | b"askpass") | (b"ssh", b"variant") if first == last => {
            Some(Kind::Network)
        }
        (b"url", b"insteadof") => Some(Kind::Rewrite),
        _ => None,
    }
}

/// How git would reach `url`; `None` for what is not git's own, such as `ext::`.
pub fn scheme(url: &[u8]) -> Option<&'static str> {
    let name = |end: usize| url[..end].to_ascii_lowercase();
    if let Some(end) = url.windows(3).position(|w| w == b"://") {
        return match &name(end)[..] {
            b"http" => Some("http"),
            b"https" => Some("https"),
            b"ssh" | b"git+ssh" | b"ssh+git" => Some("ssh"),
            b"git" => Some("git"),
            b"file" => Some("file"),
            _ => None,
        };
    }
    let colon = url.iter().position(|b| *b == b':');
    let slash = url.iter().position(|b| *b == b'/');
    match (colon, slash) {
        (Some(colon), _) if url[colon..].starts_with(b"::") => None,
        (Some(colon), slash) if slash.is_none_or(|slash| slash > colon) => Some("ssh"),
        _ => Some("file"),
    }
}

impl Settings {
    /// What a step gets that asks the server at `origin`: these settings of `http` for it, and nothing of the user's.
    pub fn for_server(scheme: &str, origin: &str, all: Vec<(&str, OsString)>) -> Settings {
        let setting = |(name, value): (&str, OsString)| Setting {
            key: format!("http.{origin}/.{name}").into_bytes(),
            value: value.into_vec(),
        };
        Settings {
            settings: all.into_iter().map(setting).collect(),
            scheme: scheme.to_owned(),
        }
    }

    /// The scheme of what is asked.
    pub fn scheme(&self) -> &str {
        &self.scheme
    }

    /// Variables that bring the settings to git.
    pub fn environment(&self) -> Vec<(OsString, OsString)> {
        let mut all = vec![(
            OsString::from("GIT_CONFIG_COUNT"),
            OsString::from(self.settings.len().to_string()),
        )];
        for (number, setting) in self.settings.iter().enumerate() {
            all.push((
                format!("GIT_CONFIG_KEY_{number}").into(),
                OsString::from_vec(setting.key.clone()),
            ));
            all.push((
                format!("GIT_CONFIG_VALUE_{number}").into(),
                OsString::from_vec(setting.value.clone()),
            ));
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn users(listed: &[(&str, &str)]) -> Users {
        let pairs = listed.iter();
        let text: String = pairs
            .map(|(scope, pair)| format!("{scope}\0{pair}\0"))
            .collect();
        Users::parse(text.as_bytes())
    }

    fn keys(settings: &Settings) -> Vec<String> {
        let text = |s: &Setting| String::from_utf8_lossy(&s.key).into_owned();
        settings.settings.iter().map(text).collect()
    }

    #[test]
    fn only_networks_and_logins_are_taken() {
        let all = users(&[
            ("system", "core.fsmonitor\n/bin/evil"),
            ("system", "credential.helper\nstore"),
            ("global", "http.https://a.b/.extraheader\nX: y"),
            ("global", "http.sslverify"),
            ("global", "http.https://a.b/.followredirects\ntrue"),
            ("global", "filter.lfs.smudge\ngit-lfs"),
            ("global", "core.sshcommand\nssh -i key"),
            ("global", "core.x.askpass\nno"),
            ("global", "protocol.file.allow\nalways"),
            ("global", "url.git@a:.insteadof\nhttps://a/"),
            ("global", "url.x.pushinsteadof\nhttps://a/"),
            ("local", "core.askpass\n/bin/evil"),
            ("worktree", "credential.helper\n!evil"),
            ("command", "ssh.variant\nssh"),
        ]);
        let expected = vec![
            "credential.helper",
            "http.https://a.b/.extraheader",
            "http.sslverify",
            "core.sshcommand",
            "url.git@a:.insteadof",
            "ssh.variant",
        ];
        let upstream = all.for_upstream("https://a/b").unwrap();
        assert_eq!(keys(&upstream), expected);
        assert_eq!(upstream.scheme(), "ssh");
        assert_eq!(all.for_upstream("https://c/b").unwrap().scheme(), "https");
        let environment = upstream.environment();
        assert_eq!(environment[0].1, "6");
        assert_eq!(environment[6].1, "true");
    }

    #[test]
    fn the_server_gets_nothing_that_is_not_its_own() {
        let own = vec![("proxy", OsString::new()), ("extraHeader", "A: b".into())];
        let server = Settings::for_server("https", "https://a:1", own);
        assert_eq!(server.scheme(), "https");
        assert_eq!(
            keys(&server),
            ["http.https://a:1/.proxy", "http.https://a:1/.extraHeader"]
        );
    }

    #[test]
    fn the_longest_beginning_decides_where_an_upstream_is() {
        let all = users(&[
            ("global", "url.ssh://a/.insteadof\nhttps://a/"),
            ("global", "url.file:///srv/.insteadof\nhttps://a/b/"),
        ]);
        assert_eq!(all.rewritten(b"https://a/b/c"), b"file:///srv/c");
        assert_eq!(all.for_upstream("https://a/c").unwrap().scheme(), "ssh");
        let two = users(&[
            ("global", "url.ssh://a/.insteadof\nx:"),
            ("global", "url.git://a/.insteadof\nx:"),
        ]);
        assert_eq!(two.rewritten(b"x:y"), b"ssh://a/y");
    }

    #[test]
    fn schemes() {
        for (url, expected) in [
            ("HTTPS://a/b", Some("https")),
            ("git@a:b", Some("ssh")),
            ("a:b/c", Some("ssh")),
            ("/srv/a", Some("file")),
            ("./a:b", Some("file")),
            ("ext::sh -c x", None),
            ("ftp://a/b", None),
        ] {
            assert_eq!(scheme(url.as_bytes()), expected, "{url}");
        }
    }
}
