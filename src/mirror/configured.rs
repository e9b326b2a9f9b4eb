//! What git is configured to do that speaks to an upstream: what the operator has set, and what is given to it
//! beside that, in its environment.

use std::ffi::OsString;
use std::path::Path;

use super::error::MirrorError;
use super::git::Git;
use super::speaks::{Speaks, with_credential};

impl Git {
    /// The variables of a git that speaks to `url`.
    pub(super) fn variables(&self, url: &str) -> Vec<(String, OsString)> {
        let (first, settings) = match &self.speaks {
            Speaks::For(voice) => (0, voice.settings(url)),
            Speaks::AsServer => (operators_settings(), self.own_settings(url)),
        };
        if settings.is_empty() {
            return Vec::new();
        }
        let count = first + settings.len();
        let pairs = settings
            .into_iter()
            .enumerate()
            .flat_map(|(number, (key, value))| {
                let number = first + number;
                [
                    (format!("GIT_CONFIG_KEY_{number}"), key.into()),
                    (format!("GIT_CONFIG_VALUE_{number}"), value.into()),
                ]
            });
        let count = ("GIT_CONFIG_COUNT".to_owned(), count.to_string().into());
        std::iter::once(count).chain(pairs).collect()
    }

    /// The server's own credential, if there is a file with one.
    fn own_settings(&self, url: &str) -> Vec<(String, String)> {
        let own = self.own.load();
        let value = own.of(url);
        value.map_or_else(Vec::new, |value| with_credential(url, value))
    }
}

/// How many settings the operator has put into the environment.
fn operators_settings() -> usize {
    let count = std::env::var("GIT_CONFIG_COUNT").ok();
    count.and_then(|count| count.parse().ok()).unwrap_or(0)
}

/// What the operator's configuration has of one upstream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Configured {
    /// Proxy and certificates that are believed: keys in lower case, and values.
    pub way: Vec<(String, String)>,
    /// What is replaced in URLs like this one, if something is.
    pub rewritten: Option<String>,
}

/// Settings of `http` that say by which proxy and to whom git connects, whoever speaks. A proxy's own
/// credential is part of the way to it.
const WAY: &[&str] = &[
    "http.pinnedpubkey",
    "http.proxy",
    "http.proxyauthmethod",
    "http.proxysslcainfo",
    "http.proxysslcert",
    "http.proxysslcertpasswordprotected",
    "http.proxysslkey",
    "http.sslbackend",
    "http.sslcainfo",
    "http.sslcapath",
    "http.sslcipherlist",
    "http.ssltry",
    "http.sslverify",
    "http.sslversion",
    "http.version",
];

impl Git {
    /// What the operator's configuration has of the upstream with this base; `nowhere` is a directory that is not
    /// there.
    ///
    /// # Errors
    /// git cannot be run, or does not understand its configuration.
    pub(crate) async fn configured(
        &self,
        nowhere: &Path,
        base: &str,
    ) -> Result<Configured, MirrorError> {
        let http = self
            .settings(nowhere, &["--get-urlmatch", "http", base])
            .await?;
        let replaced = self
            .settings(nowhere, &["--get-regexp", r"^url\..*\.insteadof$"])
            .await?;
        let is_way = |(key, _): &(String, String)| WAY.contains(&&**key);
        // Also where that is only of some of its repositories.
        let is_its = |value: &String| base.starts_with(value) || value.starts_with(base);
        let home = std::env::var("HOME").ok();
        // A git that speaks for somebody has no home.
        let expanded = |(key, value): (String, String)| {
            let below = value.strip_prefix("~/").zip(home.as_ref());
            (
                key,
                below.map_or(value.clone(), |(rest, home)| format!("{home}/{rest}")),
            )
        };
        Ok(Configured {
            way: http.into_iter().filter(is_way).map(expanded).collect(),
            rewritten: replaced.into_iter().map(|(_, value)| value).find(is_its),
        })
    }

    async fn settings(
        &self,
        nowhere: &Path,
        args: &[&str],
    ) -> Result<Vec<(String, String)>, MirrorError> {
        let args = ["config", "--null", "--includes"].iter().chain(args);
        let said = self.output(self.local("git config", nowhere, args)).await;
        let said = match said {
            // There are none.
            Err(MirrorError::Git { code: Some(1), .. }) => Vec::new(),
            said => said?,
        };
        let text = String::from_utf8_lossy(&said);
        let pair = |entry: &str| {
            // A key without a value is true.
            let (key, value) = entry.split_once('\n').unwrap_or((entry, "true"));
            (key.to_owned(), value.to_owned())
        };
        Ok(text.split_terminator('\0').map(pair).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::credential::Credential;
    use crate::mirror::speaks::Voice;
    use crate::mirror::testing::run;

    #[test]
    fn of_the_operator_s_settings_the_way_counts_for_all() {
        let dir = tempfile::tempdir().unwrap();
        let nowhere = dir.path().join("none");
        let base = "https://git.example.org/team/";
        let found = |text: &str| {
            let config = dir.path().join("config");
            std::fs::write(&config, text).unwrap();
            // Read as the file of a repository would be.
            let include = format!("include.path={}", config.display());
            let program = dir.path().join("git");
            let script = format!("#!/bin/sh\nexec git -c {include} \"$@\"\n");
            std::fs::write(&program, script).unwrap();
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            std::fs::set_permissions(&program, mode).unwrap();
            let git = Git {
                program,
                ..Git::default()
            };
            run(git.configured(&nowhere, base)).unwrap()
        };
        let some = found(
            "[http]\nproxy = http://p:1\nextraHeader = X: 1\nsslCert = /c\ncookieFile = /k\n\
             [http \"https://git.example.org/\"]\nproxy = http://q:1\nsslVerify\n",
        );
        let way = [("http.proxy", "http://q:1"), ("http.sslverify", "true")];
        assert_eq!(
            some.way,
            way.map(|(key, value)| (key.to_owned(), value.to_owned()))
        );
        assert_eq!(some.rewritten, None);
        for (replaced, is_its) in [
            ("https://git.example.org/", true),
            ("https://", true),
            ("https://git.example.org/team/secret/", true),
            ("https://git.example.org/other/", false),
            ("ssh://git.example.org/", false),
        ] {
            let text = format!("[url \"https://x/\"]\ninsteadOf = {replaced}\n");
            assert_eq!(found(&text).rewritten.is_some(), is_its, "{replaced}");
        }
    }

    #[test]
    fn what_is_said_for_somebody_stands_only_in_the_environment() {
        let credential = Credential::read(Some(b"Bearer hush")).unwrap();
        let proxy = ("http.proxy".to_owned(), "http://p:1".to_owned());
        let voice = Voice::of(&credential, [proxy].into());
        assert_eq!(format!("{voice:?}"), "Voice");
        let said = |url| {
            let git = Git::default().by_permission_of(Some(voice.clone()));
            let variables = git.variables(url);
            let values = variables
                .iter()
                .map(|(_, value)| value.to_str().unwrap().to_owned());
            values.collect::<Vec<_>>()
        };
        let safe = said("https://h/a");
        assert_eq!(safe.last().unwrap(), "Authorization: Bearer hush");
        assert!(
            safe.contains(&"http.proxy".to_owned())
                && safe.contains(&"http.https://h/a.extraHeader".to_owned())
        );
        assert_eq!(safe[0], ((safe.len() - 1) / 2).to_string());
        assert!(
            !said("http://h/a")
                .iter()
                .any(|value| value.contains("hush"))
        );
        // In plain it goes to this machine alone, and by no proxy.
        let here = said("http://127.0.0.1:1/a");
        let proxy = ["http.http://127.0.0.1:1/a.proxy".to_owned(), String::new()];
        assert!(here.ends_with(&proxy) && here.contains(&"Authorization: Bearer hush".to_owned()));
        assert!(!safe.contains(&"http.https://h/a.proxy".to_owned()));
        assert!(Git::default().variables("https://h/a").is_empty());
    }
}
