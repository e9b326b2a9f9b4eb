//! A URL of the command line.

use std::convert::Infallible;
use std::fmt;

use super::Secret;
use crate::io::say::without_login;

/// A URL as somebody has given it, perhaps with a password. Whatever shows it leaves out who logs in, and what stands
/// behind its path.
#[derive(Clone, PartialEq, Eq)]
pub struct GivenUrl(Secret);

impl GivenUrl {
    /// Takes it as it is: who uses it checks it.
    pub fn new(text: &str) -> GivenUrl {
        GivenUrl(Secret::new(text.to_owned()))
    }

    /// All of it.
    pub fn text(&self) -> &str {
        self.0.text()
    }

    /// For clap.
    pub(super) fn parse(text: &str) -> Result<GivenUrl, Infallible> {
        Ok(GivenUrl::new(text))
    }
}

impl fmt::Display for GivenUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.text();
        if text.contains("://") {
            let shown = without_login(text);
            return f.write_str(shown.split(['?', '#']).next().unwrap_or_default());
        }
        // As if it had a scheme.
        let host = text.split('/').next().unwrap_or_default();
        match host.rfind('@').filter(|at| host[..*at].contains(':')) {
            Some(at) => write!(f, "***{}", &text[at..]),
            None => f.write_str(text),
        }
    }
}

impl fmt::Debug for GivenUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_shown_without_who_logs_in() {
        for (given, shown) in [
            ("https://u:p@h:1/a.git", "https://***@h:1/a.git"),
            ("https://h/a?private_token=t", "https://h/a"),
            ("https://h/a@b#c@d", "https://h/a@b"),
            ("https://u:p?w@h/a", "https://***@h/a"),
            ("https://u:p w@h/a", "https://***@h/a"),
            ("u:p@h/a", "***@h/a"),
            ("git@h:a/b", "git@h:a/b"),
            ("local/a@b", "local/a@b"),
            ("/srv/a?b", "/srv/a?b"),
        ] {
            let url = GivenUrl::new(given);
            assert_eq!(url.to_string(), shown);
            assert_eq!(format!("{url:?}"), shown);
            assert_eq!(url.text(), given);
        }
    }
}
