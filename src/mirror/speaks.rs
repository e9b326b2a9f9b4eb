//! As whom git speaks to an upstream: as the server, with all that the operator has set for git; or for somebody
//! who asks, with that one's credential and nothing that is the server's own. What is given here stands in the
//! environment of that git, which only the same user can read, and in no command line and no URL.

use std::fmt;
use std::sync::Arc;

use zeroize::Zeroizing;

use crate::access::credential::Credential;
use crate::config::{is_plain_loopback, is_safe};

/// See the module's text.
#[derive(Clone, Debug, Default)]
pub(crate) enum Speaks {
    #[default]
    AsServer,
    For(Arc<Voice>),
}

/// Somebody who asks.
pub(crate) struct Voice {
    /// What counts of the operator's configuration: keys and values.
    settings: Arc<[(String, String)]>,
    /// The value of `Authorization`.
    authorization: Option<Zeroizing<String>>,
}

impl fmt::Debug for Voice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Voice")
    }
}

impl Voice {
    /// Of whoever shows this credential, on the way that these settings say.
    pub(crate) fn of(credential: &Credential, settings: Arc<[(String, String)]>) -> Arc<Voice> {
        Arc::new(Voice {
            settings,
            authorization: credential.header_value(),
        })
    }

    /// Settings for a git that speaks to `url`. They come after those of the repository, and an empty one takes
    /// away what stands before it; where some are for one URL, those for all do not count.
    pub(super) fn settings(&self, url: &str) -> Vec<(String, String)> {
        let origin = origin(url);
        let of_url = |key: &str| format!("http.{url}.{key}");
        let mut all = self.settings.to_vec();
        let none = [
            ("credential.helper".to_owned(), ""),
            (format!("credential.{origin}.helper"), ""),
            (format!("credential.{url}.helper"), ""),
            ("core.askPass".to_owned(), ""),
            ("http.extraHeader".to_owned(), ""),
            (of_url("extraHeader"), ""),
            ("http.emptyAuth".to_owned(), "false"),
            (of_url("emptyAuth"), "false"),
            ("http.proactiveAuth".to_owned(), "none"),
            ("http.cookieFile".to_owned(), ""),
            (of_url("cookieFile"), ""),
            ("http.saveCookies".to_owned(), "false"),
            (of_url("saveCookies"), "false"),
        ];
        all.extend(none.map(|(key, value)| (key, value.to_owned())));
        if let Some(value) = &self.authorization {
            all.extend(with_credential(url, value));
        }
        all
    }
}

/// Settings of a git that shows a credential at `url`; none where others could hear it. What goes to this machine in
/// plain goes by no proxy, whatever is set for others.
pub(super) fn with_credential(url: &str, authorization: &str) -> Vec<(String, String)> {
    if !is_safe(url) {
        return Vec::new();
    }
    let of_url = |key: &str| format!("http.{url}.{key}");
    let header = format!("Authorization: {authorization}");
    let mut settings = vec![(of_url("extraHeader"), header)];
    if is_plain_loopback(url) {
        settings.push(("http.proxy".to_owned(), String::new()));
        settings.push((of_url("proxy"), String::new()));
    }
    settings
}

/// The scheme and host of a URL.
fn origin(url: &str) -> &str {
    let start = url.find("://").map_or(0, |at| at + 3);
    let end = url[start..].find('/').map_or(url.len(), |at| start + at);
    &url[..end]
}
