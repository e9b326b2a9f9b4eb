//! Who asks, as each request to the server says it: what was given for it, and what was found for it once the
//! server has asked who that is.

use std::io;
use std::net::TcpStream;
use std::sync::{Mutex, MutexGuard};

use base64ct::{Base64, Encoding};
use zeroize::Zeroizing;

use super::error::RestoreError;
use super::url::{Server, User};
use crate::config::{Secret, TOKEN_VARIABLE};

/// A credential is the upstream's in this field where both are sent.
const AUTHORIZATION: &str = "Authorization";
/// Then the server's own is in this one.
const OWN_AUTHORIZATION: &str = "Tarpon-Authorization";

/// Where the token is from.
const TOKEN_SOURCE: &str = "in TARPON_TOKEN (as Bearer)";

/// One line of a request's head that says who asks.
#[derive(Debug, Clone)]
pub(super) struct Field {
    name: &'static str,
    value: Secret,
    /// Whose it is, behind "the credential".
    source: &'static str,
}

impl Field {
    /// `NAME: VALUE`, without the end of a line.
    pub(super) fn line(&self) -> Zeroizing<String> {
        let Field { name, value, .. } = self;
        // In one piece, so that no part of it is left behind.
        let mut line = Zeroizing::new(String::with_capacity(name.len() + 2 + value.text().len()));
        line.push_str(name);
        line.push_str(": ");
        line.push_str(value.text());
        line
    }

    fn basic(user: &User, source: &'static str) -> Option<Field> {
        let password = user.password.as_ref()?;
        let pair = Zeroizing::new([user.name.as_bytes(), b":", password.bytes()].concat());
        let coded = Zeroizing::new(Base64::encode_string(&pair));
        Some(Field {
            name: AUTHORIZATION,
            value: Secret::new(["Basic ", &**coded].concat()),
            source,
        })
    }

    fn bearer(token: &Secret) -> Result<Field, RestoreError> {
        let is_token = token.bytes().iter().all(u8::is_ascii_graphic);
        let wrong = || {
            RestoreError::Usage(format!(
                "{TOKEN_VARIABLE} is no token: it is sent as it is, and has blanks or letters that none has; write it \
                 without Bearer and without quotes"
            ))
        };
        is_token.then_some(()).ok_or_else(wrong)?;
        Ok(Field {
            name: AUTHORIZATION,
            value: Secret::new(["Bearer ", token.text()].concat()),
            source: TOKEN_SOURCE,
        })
    }
}

/// The line in which `user` is sent, if there is a password.
pub fn basic(user: &User) -> Option<Zeroizing<String>> {
    Field::basic(user, "").map(|field| field.line())
}

/// What was given.
#[derive(Debug, Default)]
pub(super) struct Given {
    /// See [`TOKEN_VARIABLE`].
    pub token: Option<Secret>,
    pub upstream: Own,
    /// Whether credentials may go where others can read along.
    pub is_insecure: bool,
}

/// The repository's own credential, as a server that is to ask the upstream with it gets it.
#[derive(Debug, Default)]
pub(super) enum Own {
    /// Nobody has said that it is to go there.
    #[default]
    Kept,
    /// There is none for this URL, wherever it was looked for.
    Missing(String),
    Sent(User),
}

impl Own {
    /// What there is to say of it to somebody who was refused; `may_help` is whether it would be sent, and nothing else
    /// was.
    fn told(&self, may_help: bool) -> String {
        match self {
            Own::Sent(_) => "; where the server has that host by another name, NAME/PATH for REPO_URL says so".into(),
            Own::Missing(what) => format!("; --send-upstream-credential has found none for {what}"),
            Own::Kept if !may_help => String::new(),
            Own::Kept => "; where the server asks the upstream who may read, --send-upstream-credential sends it what \
                          you have for REPO_URL"
                .into(),
        }
    }
}

/// Who asks.
#[derive(Debug)]
pub(super) struct Login {
    given: Vec<Field>,
    own: Own,
    /// Whether a credential may be sent at all.
    is_allowed: bool,
    /// Whether it may be sent to nobody but this machine.
    stays_here: bool,
    found: Mutex<Found>,
}

/// What there is for a server that asks who it is.
#[derive(Debug)]
enum Found {
    /// Nobody has looked yet.
    Unknown,
    /// There is no more than what is sent.
    Nothing,
    Field(Field),
}

impl Login {
    /// What is known before the server is asked for anything.
    pub(super) fn new(server: &Server, given: Given) -> Result<Login, RestoreError> {
        let user = server.user.as_ref();
        let own = match user.and_then(|user| Field::basic(user, "in --server")) {
            Some(field) => Some(field),
            None => given.token.as_ref().map(Field::bearer).transpose()?,
        };
        let upstream = match &given.upstream {
            Own::Sent(user) => Field::basic(user, "of the repository"),
            Own::Kept | Own::Missing(_) => None,
        };
        let fields = match (upstream, own) {
            (Some(upstream), Some(own)) => vec![
                upstream,
                Field {
                    name: OWN_AUTHORIZATION,
                    ..own
                },
            ],
            (upstream, own) => upstream.into_iter().chain(own).collect(),
        };
        let is_allowed = given.is_insecure || !server.is_overheard();
        if let Some(field) = fields.first().filter(|_| !is_allowed) {
            return Err(RestoreError::Usage(format!(
                "the credential {} is not sent to {}, over plain http: use https, or \
                 --insecure-credentials where nobody else can read along",
                field.source,
                server.origin()
            )));
        }
        Ok(Login {
            given: fields,
            own: given.upstream,
            is_allowed,
            stays_here: !server.is_tls && !given.is_insecure,
            found: Mutex::new(Found::Unknown),
        })
    }

    /// Nobody, whoever wants to know.
    pub(super) fn nobody() -> Login {
        Login {
            given: Vec::new(),
            own: Own::Kept,
            is_allowed: false,
            stays_here: false,
            found: Mutex::new(Found::Nothing),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(|p| p.into_inner())
    }

    /// What a request says, and whether there can be more to say.
    pub(super) fn fields(&self) -> (Vec<Field>, bool) {
        let mut fields = self.given.clone();
        let may_be_more = match &*self.lock() {
            Found::Unknown => fields.is_empty() && self.is_allowed,
            Found::Nothing => false,
            Found::Field(field) => {
                fields.push(field.clone());
                false
            }
        };
        (fields, may_be_more)
    }

    /// Sees to it that `fields` can be sent by `socket`: a name may lead elsewhere than it says.
    pub(super) fn check(&self, fields: &[Field], socket: &TcpStream) -> io::Result<()> {
        if fields.is_empty() || !self.stays_here {
            return Ok(());
        }
        let peer = socket.peer_addr()?.ip();
        match peer.to_canonical().is_loopback() {
            true => Ok(()),
            false => {
                let what = format!("no credential is sent to {peer}, over plain http");
                Err(io::Error::new(io::ErrorKind::PermissionDenied, what))
            }
        }
    }

    /// The server has asked who it is: `look` finds who, and where it is from, once for all. Whether there is
    /// more to say than before.
    pub(super) fn find(&self, look: impl FnOnce() -> Option<(User, &'static str)>) -> bool {
        // Whoever else is asked waits for it.
        let mut found = self.lock();
        if matches!(*found, Found::Unknown) {
            let field = look().and_then(|(user, source)| Field::basic(&user, source));
            *found = field.map_or(Found::Nothing, Found::Field);
        }
        matches!(*found, Found::Field(_))
    }

    /// Whether requests say who asks.
    pub(super) fn tells(&self) -> bool {
        !self.fields().0.is_empty()
    }

    /// With what a server was asked, for a message.
    pub(super) fn sent(&self) -> String {
        let sources: Vec<&str> = self.fields().0.iter().map(|field| field.source).collect();
        match sources.is_empty() {
            false => format!("with the credential {}", sources.join(" and that ")),
            true => "without a credential".into(),
        }
    }

    /// The same for one that asks who it is, and why it was not told more.
    pub(super) fn told(&self) -> String {
        let why = match (self.tells(), self.is_allowed) {
            (true, _) => "",
            (false, true) => {
                ": neither --server, TARPON_TOKEN, .netrc nor a helper of git's has one for it"
            }
            (false, false) => {
                ", which is not sent over plain http: use https, or --insecure-credentials"
            }
        };
        let may_help = !self.tells() && self.is_allowed;
        format!("{}{why}{}", self.sent(), self.own.told(may_help))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(url: &str, given: Given) -> Result<Vec<String>, String> {
        let login = Login::new(&Server::parse(url).unwrap(), given).map_err(|e| e.to_string())?;
        assert!(!format!("{login:?}").contains("Basic"), "{login:?}");
        let (fields, _) = login.fields();
        Ok(fields
            .iter()
            .map(|field| field.line().to_string())
            .collect())
    }

    fn given(token: Option<&str>, upstream: Option<&str>) -> Given {
        Given {
            token: token.map(|token| Secret::new(token.into())),
            upstream: upstream.map_or(Own::Kept, |user| Own::Sent(User::parse(user).unwrap())),
            is_insecure: false,
        }
    }

    #[test]
    fn the_url_comes_first_and_the_upstreams_has_its_own_field() {
        let lines = |url, token, upstream| lines(url, given(token, upstream)).unwrap();
        assert_eq!(lines("https://a", None, None), [""; 0]);
        assert_eq!(lines("https://u@a", None, None), [""; 0]);
        assert_eq!(
            lines("https://u@a", Some("t"), None),
            ["Authorization: Bearer t"]
        );
        assert_eq!(
            lines("https://u:p@a", Some("t"), None),
            ["Authorization: Basic dTpw"]
        );
        assert_eq!(
            lines("https://a", None, Some("x:y")),
            ["Authorization: Basic eDp5"]
        );
        assert_eq!(
            lines("https://a", Some("t"), Some("x:y")),
            [
                "Authorization: Basic eDp5",
                "Tarpon-Authorization: Bearer t"
            ]
        );
    }

    #[test]
    fn nothing_is_sent_where_others_read_along() {
        for (url, token, upstream) in [
            ("http://u:p@a", None, None),
            ("http://a", Some("t"), None),
            ("http://a", None, Some("x:y")),
        ] {
            let refused = lines(url, given(token, upstream)).unwrap_err();
            assert!(refused.contains("--insecure-credentials"), "{refused}");
            let insecure = Given {
                is_insecure: true,
                ..given(token, upstream)
            };
            assert_eq!(lines(url, insecure).unwrap().len(), 1);
            let here = url.replace('a', "127.0.0.1");
            assert_eq!(lines(&here, given(token, upstream)).unwrap().len(), 1);
        }
        // Nor looked for.
        let server = Server::parse("http://a").unwrap();
        let login = Login::new(&server, Given::default()).unwrap();
        assert!(!login.fields().1);
        assert!(lines("https://a", given(Some("a b"), None)).is_err());
        assert!(lines("https://a", given(Some("a\r\nb"), None)).is_err());
    }

    /// Whoever is refused hears what was sent, and what was not.
    #[test]
    fn what_was_told_is_a_sentence() {
        let told = |url, token, upstream| {
            let given = Given {
                upstream,
                ..given(token, None)
            };
            Login::new(&Server::parse(url).unwrap(), given)
                .unwrap()
                .told()
        };
        let own = || Own::Sent(User::parse("u:p").unwrap());
        for (url, sent) in [
            ("https://a", "with the credential of the repository; "),
            (
                "https://u:p@a",
                "with the credential of the repository and that in --server; ",
            ),
        ] {
            let told = told(url, None, own());
            assert!(
                told.starts_with(sent) && told.ends_with("NAME/PATH for REPO_URL says so"),
                "{told}"
            );
        }
        let token = "with the credential in TARPON_TOKEN (as Bearer)";
        assert_eq!(told("https://a", Some("t"), Own::Kept), token);
        let missing = || Own::Missing("https://up/x, nowhere".into());
        let none = "; --send-upstream-credential has found none for https://up/x, ";
        assert!(told("https://a", Some("t"), missing()).starts_with(&format!("{token}{none}")));
        assert!(told("https://a", None, missing()).contains(none));
        assert!(told("https://a", None, Own::Kept).contains("--send-upstream-credential sends it"));
    }

    #[test]
    fn it_is_looked_for_once() {
        let server = Server::parse("https://a").unwrap();
        let login = Login::new(&server, Given::default()).unwrap();
        assert!(login.fields().1);
        let look = || Some((User::parse("u:p")?, "x"));
        assert!(login.find(look));
        assert!(login.find(|| unreachable!()));
        let (fields, may_be_more) = login.fields();
        assert_eq!((fields.len(), may_be_more), (1, false));
        let none = Login::new(&server, Given::default()).unwrap();
        assert!(!none.find(|| None));
        assert!(!none.find(look));
        assert!(!none.fields().1);
        // What was given is all that is sent.
        let given = Login::new(&server, given(Some("t"), None)).unwrap();
        assert!(!given.fields().1);
    }
}
