//! Who somebody was shown to be, whatever showed it.

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::limits::OIDC_NAME_CHARS_MAX;

/// By what somebody was shown to be who he is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A token that the issuer of a CI system has signed.
    Ci,
}

/// Who somebody was shown to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// By what.
    pub kind: Kind,
    /// By what name he is known there.
    pub subject: Arc<str>,
    /// What else was said of him, by whoever vouches for it.
    pub claims: Map<String, Value>,
}

impl Identity {
    /// Of a job that a token was issued to.
    pub(crate) fn of_ci(claims: Map<String, Value>) -> Identity {
        let subject = claims.get("sub").and_then(Value::as_str);
        Identity {
            kind: Kind::Ci,
            subject: Arc::from(subject.unwrap_or_default()),
            claims,
        }
    }

    /// What the log calls him: by whom he is called how. No token of a server has a name with a space in it.
    pub(crate) fn logged(&self) -> Arc<str> {
        let issuer = self.claims.get("iss").and_then(Value::as_str);
        let issuer = issuer.unwrap_or_default().trim_start_matches("https://");
        let plain = |text: &str| -> String {
            let shown = text.chars().take(OIDC_NAME_CHARS_MAX);
            shown
                .map(|c| if c.is_control() { '\u{fffd}' } else { c })
                .collect()
        };
        Arc::from(format!("{} {}", plain(issuer), plain(&self.subject)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_line_and_no_tokens() {
        let claims =
            serde_json::json!({"iss": "https://ci.org", "sub": "a\nb".repeat(1000), "x": 1});
        let identity = Identity::of_ci(claims.as_object().unwrap().clone());
        let logged = identity.logged();
        assert!(logged.starts_with("ci.org a\u{fffd}ba"), "{logged}");
        assert_eq!(
            logged.chars().count(),
            "ci.org ".len() + OIDC_NAME_CHARS_MAX
        );
        assert!(crate::config::check_token_name(&logged).is_err());
        assert_eq!(&*Identity::of_ci(Map::new()).subject, "");
    }
}
