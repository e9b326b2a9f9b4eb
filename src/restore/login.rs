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

/// One line of a request's head that says who asks.
#[derive(Debug, Clone)]
pub(super) struct Field {
    name: &'static str,
    value: Secret,
    /// Where it is from, for messages.
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
                "{TOKEN_VARIABLE} is no token: it has spaces or more"
            ))
        };
        is_token.then_some(()).ok_or_else(wrong)?;
        Ok(Field {
            name: AUTHORIZATION,
            value: Secret::new(["Bearer ", token.text()].concat()),
            source: TOKEN_VARIABLE,
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
    /// The repository's own, which goes to the server as that is to ask the upstream with it.
    pub upstream: Option<User>,
    /// Whether credentials may go where others can read along.
    pub is_insecure: bool,
}

/// Who asks.
#[derive(Debug)]
pub(super) struct Login {
    given: Vec<Field>,
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
        let own = match user.and_then(|user| Field::basic(user, "--server's URL")) {
            Some(field) => Some(field),
            None => given.token.as_ref().map(Field::bearer).transpose()?,
        };
        let upstream = given.upstream.as_ref();
        let upstream = upstream.and_then(|user| Field::basic(user, "the repository's"));
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
                "the credential of {} is not sent to {}, over plain http: use https, or \
                 --insecure-credentials where nobody else can read along",
                field.source,
                server.origin()
            )));
        }
        Ok(Login {
            given: fields,
            is_allowed,
            stays_here: !server.is_tls && !given.is_insecure,
            found: Mutex::new(Found::Unknown),
        })
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

    /// What a server that asks who it is was told, for a message.
    pub(super) fn told(&self) -> String {
        let sources: Vec<&str> = self.fields().0.iter().map(|field| field.source).collect();
        match (sources.is_empty(), self.is_allowed) {
            (false, _) => format!("with the credential of {}", sources.join(" and ")),
            (true, true) => "without a credential: neither --server, TARPON_TOKEN, .netrc nor a helper of git's \
                             has one"
                .into(),
            (true, false) => "without a credential, which is not sent over plain http: use https, or \
                              --insecure-credentials"
                .into(),
        }
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
            upstream: upstream.map(|user| User::parse(user).unwrap()),
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
