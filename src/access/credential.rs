//! The credential of a request: what `Authorization` or `Tarpon-Authorization` says.
//!
//! What cannot be read is an error and never the same as none: whoever sends something is told so, and not
//! served as anybody. Its secret is overwritten when it is dropped, and no form of it shows it.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;

use base64ct::{Base64, Encoding};
use hmac::{Hmac, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::limits::{CREDENTIAL_BYTES_MAX, TOKEN_LIKE_BYTES_MIN};

/// What every token of a server begins with.
pub const TOKEN_PREFIX: &str = "tarpon_";

/// Bytes that nobody sees and that are overwritten when they are dropped.
type Hidden = Zeroizing<Vec<u8>>;

/// Who sends a request, as far as it says.
///
/// Invariant: at most [`CREDENTIAL_BYTES_MAX`] bytes; none of them is a control character, and a token is
/// made of those of RFC 6750, so that all of it may stand in one header or one line.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential(Form);

#[derive(Clone, PartialEq, Eq)]
enum Form {
    None,
    /// `user:password`, and where the colon is.
    Basic {
        pair: Hidden,
        colon: usize,
    },
    Bearer(Hidden),
}

/// A credential that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the credential is neither Basic nor Bearer as RFC 7617 and RFC 6750 have them")]
pub struct Invalid;

/// What stands for a credential where it is remembered: a hash of all of it, with a key of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mark([u8; 32]);

impl Mark {
    /// That of a secret, in whatever form of credential it was sent.
    pub(crate) fn of_secret(secret: &[u8]) -> Mark {
        Mark::of(&[b"secret ", secret])
    }

    fn of(parts: &[&[u8]]) -> Mark {
        // A key of any length will do.
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(KEY.as_slice()) else {
            return Mark([0; 32]);
        };
        parts.iter().for_each(|part| mac.update(part));
        Mark(mac.finalize().into_bytes().into())
    }

    /// Its bytes, to be part of another.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Credential {
    /// That of a request without one.
    pub const NONE: Credential = Credential(Form::None);

    /// Reads the value of a header, if it was sent.
    ///
    /// # Errors
    /// It is no credential that is known here.
    pub fn read(value: Option<&[u8]>) -> Result<Credential, Invalid> {
        let Some(value) = value else {
            return Ok(Credential::NONE);
        };
        let at = value.iter().position(|byte| *byte == b' ').ok_or(Invalid)?;
        let (scheme, rest) = value.split_at(at);
        let rest = rest.trim_ascii();
        if rest.is_empty() || rest.len() > CREDENTIAL_BYTES_MAX {
            return Err(Invalid);
        }
        if scheme.eq_ignore_ascii_case(b"basic") {
            basic(rest)
        } else if scheme.eq_ignore_ascii_case(b"bearer") {
            bearer(rest)
        } else {
            Err(Invalid)
        }
    }

    /// Whether there is none.
    pub fn is_none(&self) -> bool {
        matches!(self.0, Form::None)
    }

    /// User and password.
    pub fn basic(&self) -> Option<(&[u8], &[u8])> {
        match &self.0 {
            Form::Basic { pair, colon } => {
                let (user, rest) = pair.split_at_checked(*colon)?;
                Some((user, rest.get(1..)?))
            }
            _ => None,
        }
    }

    /// The token of Bearer.
    pub fn bearer(&self) -> Option<&[u8]> {
        match &self.0 {
            Form::Bearer(token) => Some(token),
            _ => None,
        }
    }

    /// What proves something: the token of Bearer, or the password, in which git sends a token.
    pub fn secret(&self) -> Option<&[u8]> {
        self.bearer()
            .or_else(|| self.basic().map(|(_, password)| password))
    }

    /// The value of an `Authorization` that says the same.
    pub fn header_value(&self) -> Option<Zeroizing<String>> {
        // Room for all of it at once: what grows leaves copies behind.
        let with_room = |bytes| Zeroizing::new(String::with_capacity(bytes));
        match &self.0 {
            Form::None => None,
            Form::Basic { pair, .. } => {
                let encoded = Zeroizing::new(Base64::encode_string(pair));
                let mut value = with_room("Basic ".len() + encoded.len());
                value.push_str("Basic ");
                value.push_str(&encoded);
                Some(value)
            }
            Form::Bearer(token) => {
                let token = std::str::from_utf8(token).ok()?;
                let mut value = with_room("Bearer ".len() + token.len());
                value.push_str("Bearer ");
                value.push_str(token);
                Some(value)
            }
        }
    }

    /// What it is remembered by. None has a mark, too, which no other has.
    pub fn mark(&self) -> Mark {
        match &self.0 {
            Form::None => Mark::of(&[b"none"]),
            // The first colon is where the password begins, so no two pairs are the same bytes.
            Form::Basic { pair, .. } => Mark::of(&[b"basic ", pair]),
            Form::Bearer(token) => Mark::of(&[b"bearer ", token]),
        }
    }

    /// All that it holds.
    pub(crate) fn bytes(&self) -> &[u8] {
        match &self.0 {
            Form::None => &[],
            Form::Basic { pair: bytes, .. } | Form::Bearer(bytes) => bytes,
        }
    }

    /// Whether a token of a server stands in it, or what may be one or most of one, wherever: as user, as
    /// password, in other letters, with something around it. Such a thing goes to nobody else.
    pub fn is_or_looks_like_token(&self) -> bool {
        holds_token(self.bytes())
    }
}

/// Says which kind it is, and nothing of what it holds.
impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Form::None => "no credential",
            Form::Basic { .. } => "Basic",
            Form::Bearer(_) => "Bearer",
        })
    }
}

/// The key of [`Mark`]s: 128 bits of the system's, other ones in each process.
static KEY: LazyLock<Zeroizing<[u8; 32]>> = LazyLock::new(|| {
    let random = RandomState::new();
    let mut key = Zeroizing::new([0; 32]);
    for (number, part) in key.chunks_exact_mut(8).enumerate() {
        part.copy_from_slice(&random.hash_one(number).to_ne_bytes());
    }
    key
});

/// RFC 7617: base64 of `user:password`.
fn basic(encoded: &[u8]) -> Result<Credential, Invalid> {
    let mut pair = Zeroizing::new(vec![0; encoded.len()]);
    let bytes = Base64::decode(encoded, &mut pair)
        .map_err(|_| Invalid)?
        .len();
    pair.truncate(bytes);
    if pair.iter().any(u8::is_ascii_control) {
        return Err(Invalid);
    }
    let colon = pair.iter().position(|byte| *byte == b':');
    let colon = colon.ok_or(Invalid)?;
    Ok(Credential(Form::Basic { pair, colon }))
}

/// RFC 6750: letters, digits and `-._~+/`, with `=` at the end.
fn bearer(token: &[u8]) -> Result<Credential, Invalid> {
    let ends = token.iter().rev().take_while(|byte| **byte == b'=').count();
    let (body, _) = token.split_at_checked(token.len() - ends).ok_or(Invalid)?;
    let is_allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~+/".contains(byte);
    match !body.is_empty() && body.iter().all(is_allowed) {
        true => Ok(Credential(Form::Bearer(Zeroizing::new(token.to_vec())))),
        false => Err(Invalid),
    }
}

/// Whether [`TOKEN_PREFIX`] stands somewhere with enough behind it that it may be a secret.
fn holds_token(bytes: &[u8]) -> bool {
    let prefix = TOKEN_PREFIX.as_bytes();
    bytes
        .windows(prefix.len() + TOKEN_LIKE_BYTES_MIN)
        .any(|window| {
            let (start, rest) = window.split_at(prefix.len());
            start.eq_ignore_ascii_case(prefix) && rest.iter().all(u8::is_ascii_alphanumeric)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: &str) -> Result<Credential, Invalid> {
        Credential::read(Some(value.as_bytes()))
    }

    fn of_pair(pair: &str) -> Credential {
        read(&format!("Basic {}", Base64::encode_string(pair.as_bytes()))).unwrap()
    }

    #[test]
    fn what_is_sent_is_what_is_read() {
        // The example of RFC 7617.
        let known = read("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==").unwrap();
        assert_eq!(known.basic(), Some((&b"Aladdin"[..], &b"open sesame"[..])));
        assert_eq!(known.secret(), Some(&b"open sesame"[..]));
        assert_eq!((known.bearer(), known.is_none()), (None, false));
        for (pair, user, password) in [
            ("a:b:c", "a", "b:c"),
            (":b", "", "b"),
            ("a:", "a", ""),
            ("\u{fc}:\u{df}", "\u{fc}", "\u{df}"),
        ] {
            let read = of_pair(pair);
            assert_eq!(read.basic(), Some((user.as_bytes(), password.as_bytes())));
        }
        for value in ["Bearer mF_9.B5f-4.1JqM", "bEARER   a+/~.==  "] {
            let token = value.split_whitespace().nth(1).unwrap();
            let read = read(value).unwrap();
            assert_eq!(read.bearer(), Some(token.as_bytes()));
            assert_eq!((read.secret(), read.basic()), (read.bearer(), None));
        }
        assert_eq!(Credential::read(None), Ok(Credential::NONE));
        assert!(Credential::NONE.is_none() && Credential::NONE.secret().is_none());
    }

    #[test]
    fn what_cannot_be_read_is_never_none() {
        let long = format!("Bearer {}", "a".repeat(CREDENTIAL_BYTES_MAX + 1));
        let basic = |pair: &[u8]| format!("Basic {}", Base64::encode_string(pair));
        for wrong in [
            "",
            "Basic",
            "Bearer",
            "Basic ",
            "Bearer  ",
            "Negotiate YII=",
            "token abc",
            "Basic YTpi=",
            "Basic YTpi YTpi",
            "Basic YTpi, Bearer a",
            "Basic YTp",
            "Basic YTo-",
            "Bearer a b",
            "Bearer a,b",
            "Bearer =",
            "Bearer a=b",
            "Bearer \u{e9}",
            "Basic\tYTpi",
            &basic(b"nocolon"),
            &basic(b"a:b\nhost=evil"),
            &basic(b"a\0:b"),
            &long,
        ] {
            assert_eq!(read(wrong), Err(Invalid), "{wrong:?}");
        }
    }

    #[test]
    fn header_values_say_the_same() {
        for value in ["Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==", "Bearer a.b-c=="] {
            let read = read(value).unwrap();
            assert_eq!(read.header_value().unwrap().as_str(), value);
        }
        assert!(Credential::NONE.header_value().is_none());
    }

    #[test]
    fn marks_tell_all_credentials_apart() {
        let all = [
            Credential::NONE,
            of_pair("a:b"),
            of_pair("a:bc"),
            of_pair("a::b"),
            of_pair("none:"),
            read("Bearer none").unwrap(),
            read("Bearer a").unwrap(),
        ];
        for (index, one) in all.iter().enumerate() {
            for (other, two) in all.iter().enumerate() {
                assert_eq!(one.mark() == two.mark(), index == other);
            }
        }
        assert_eq!(of_pair("a:b").mark(), read("basic   YTpi").unwrap().mark());
    }

    #[test]
    fn nothing_shows_a_secret() {
        let shown = format!(
            "{:?} {:?}",
            of_pair("alice:hush"),
            read("Bearer hush").unwrap()
        );
        assert_eq!(shown, "Basic Bearer");
        let marked = format!("{:?}", of_pair("alice:hush").mark());
        assert!(!marked.contains("hush") && !marked.contains("alice"));
    }

    #[test]
    fn tokens_are_seen_wherever_they_stand() {
        let token = format!("{TOKEN_PREFIX}{}", "0123456789abcdef".repeat(4));
        let part = &token[..TOKEN_PREFIX.len() + TOKEN_LIKE_BYTES_MIN];
        for like in [
            of_pair(&format!("x:{token}")),
            of_pair(&format!("{token}:")),
            of_pair(&format!("x: {token} ")),
            of_pair(&format!("{}:y", token.to_uppercase())),
            of_pair(&format!("x:oauth2:{part}")),
            read(&format!("Bearer {token}")).unwrap(),
            read(&format!("Bearer x.{part}")).unwrap(),
        ] {
            assert!(like.is_or_looks_like_token());
        }
        for other in [
            Credential::NONE,
            of_pair("tarpon:tarpon"),
            of_pair("tarpon_builder:ghp_0123456789abcdef0123456789abcdef"),
            read("Bearer ghp_0123456789abcdef").unwrap(),
        ] {
            assert!(!other.is_or_looks_like_token());
        }
    }
}
