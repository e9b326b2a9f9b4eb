//! Tokens that an issuer has signed, as RFC 7515 and RFC 7519 have them: what one says, and when it counts.
//!
//! Of a header the algorithm and the name of the key are read and nothing else: what would name another key, or brings
//! one along (`jku`, `x5u`, `jwk`, `x5c`), is as if it were not there, and what must be understood (`crit`) is not.

use base64ct::{Base64UrlUnpadded, Encoding};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value};

use crate::config::IssuerRule;
use crate::limits::{OIDC_KID_BYTES_MAX, OIDC_SKEW_S, OIDC_TOKEN_BYTES_MAX};

/// How a token is signed: by the private half of a pair of keys, always.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // They are named by RFC 7518 and RFC 8037.
pub enum Algorithm {
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    EdDsa,
}

impl Algorithm {
    /// The one of this name. `none`, and all by which whoever checks can sign as well, are no algorithms here.
    pub fn named(name: &str) -> Option<Algorithm> {
        Some(match name {
            "RS256" => Algorithm::Rs256,
            "RS384" => Algorithm::Rs384,
            "RS512" => Algorithm::Rs512,
            "PS256" => Algorithm::Ps256,
            "PS384" => Algorithm::Ps384,
            "PS512" => Algorithm::Ps512,
            "ES256" => Algorithm::Es256,
            "ES384" => Algorithm::Es384,
            "EdDSA" => Algorithm::EdDsa,
            _ => return None,
        })
    }
}

/// Why a token is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // Their words say what they are.
pub enum Fault {
    NoToken,
    TooLong,
    Unreadable,
    Algorithm,
    NoKey,
    Issuer,
    Audience,
    Claims,
    NoEnd,
    Expired,
    NotYet,
    UnknownKey,
    Signature,
}

impl Fault {
    /// In words, for the operator.
    pub fn words(self) -> &'static str {
        match self {
            Fault::NoToken => "it is no signed token of an issuer of --oidc",
            Fault::TooLong => "the token is longer than any that is decoded",
            Fault::Unreadable => {
                "the token cannot be read, or asks for something that is not understood"
            }
            Fault::Algorithm => {
                "the token is not signed by an asymmetric algorithm that is known, or not by that of its key"
            }
            Fault::NoKey => "the token names no key",
            Fault::Issuer => "the token is of an issuer that no --oidc names",
            Fault::Audience => "the token is for another audience than those of --oidc",
            Fault::Claims => "the token lacks a claim that --oidc requires",
            Fault::NoEnd => "the token does not say when it runs out",
            Fault::Expired => "the token has run out",
            Fault::NotYet => "the token is not valid yet; is this machine's clock right?",
            Fault::UnknownKey => "the token is signed by a key that its issuer does not have",
            Fault::Signature => "the token's signature is not that of its key",
        }
    }
}

/// A token as it was sent: nothing of it is believed yet.
#[derive(Debug, Clone, PartialEq)]
pub struct Unproven<'t> {
    /// By what it says that it is signed.
    pub algorithm: Algorithm,
    /// The name of the key.
    pub kid: String,
    /// What it says.
    pub claims: Map<String, Value>,
    /// Whoever checks the signature does so over these bytes.
    pub signed: &'t [u8],
    /// The signature.
    pub signature: Vec<u8>,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    crit: Option<IgnoredAny>,
}

/// Whether it may be a token of this kind at all: three parts.
pub fn has_its_form(secret: &[u8]) -> bool {
    secret.iter().filter(|byte| **byte == b'.').count() == 2
}

/// Reads a token, of which nothing is decoded if it is too long.
///
/// # Errors
/// See [`Fault`].
pub fn read(token: &[u8]) -> Result<Unproven<'_>, Fault> {
    if !has_its_form(token) {
        return Err(Fault::NoToken);
    }
    if token.len() > OIDC_TOKEN_BYTES_MAX {
        return Err(Fault::TooLong);
    }
    let mut parts = token.split(|byte| *byte == b'.');
    let (Some(header), Some(claims), Some(signature)) = (parts.next(), parts.next(), parts.next())
    else {
        return Err(Fault::NoToken);
    };
    let decoded = |part| decode(part).ok_or(Fault::Unreadable);
    let (signed, _) = token
        .split_at_checked(header.len() + 1 + claims.len())
        .ok_or(Fault::Unreadable)?;
    let header = header_of(&decoded(header)?).ok_or(Fault::Unreadable)?;
    if header.crit.is_some() {
        return Err(Fault::Unreadable);
    }
    let algorithm = Algorithm::named(&header.alg).ok_or(Fault::Algorithm)?;
    let kid = header.kid.filter(|kid| kid.len() <= OIDC_KID_BYTES_MAX);
    Ok(Unproven {
        algorithm,
        kid: kid.ok_or(Fault::NoKey)?,
        claims: serde_json::from_slice(&decoded(claims)?).map_err(|_| Fault::Unreadable)?,
        signed,
        signature: decoded(signature)?,
    })
}

/// A header that can be read in full, what nobody looks at included, and names nothing that counts twice.
fn header_of(text: &[u8]) -> Option<Header> {
    serde_json::from_slice::<Map<String, Value>>(text).ok()?;
    serde_json::from_slice(text).ok()
}

/// Base64 of URLs, without padding and without anything behind the last byte.
fn decode(part: &[u8]) -> Option<Vec<u8>> {
    Base64UrlUnpadded::decode_vec(std::str::from_utf8(part).ok()?).ok()
}

/// The issuer that some part of this names, however much of a token it is.
pub(crate) fn issuer_in(part: &[u8]) -> Option<String> {
    // As a token is read.
    let named: Map<String, Value> = serde_json::from_slice(&decode(part)?).ok()?;
    named.get("iss")?.as_str().map(str::to_owned)
}

impl Unproven<'_> {
    /// Who it says has issued it.
    pub fn issuer(&self) -> Option<&str> {
        self.claims.get("iss").and_then(Value::as_str)
    }

    /// Until when it counts, if it counts at this time (both in seconds since 1970).
    ///
    /// # Errors
    /// It does not, or does not say so.
    pub fn until(&self, now_unix_s: u64) -> Result<u64, Fault> {
        let time = |name| match self.claims.get(name) {
            None => Ok(None),
            Some(value) => seconds(value).map(Some).ok_or(Fault::Unreadable),
        };
        let until = time("exp")?.ok_or(Fault::NoEnd)?;
        let until = until.saturating_add(OIDC_SKEW_S);
        if until <= now_unix_s {
            return Err(Fault::Expired);
        }
        let by_now = now_unix_s.saturating_add(OIDC_SKEW_S);
        for from in [time("nbf")?, time("iat")?].into_iter().flatten() {
            if from > by_now {
                return Err(Fault::NotYet);
            }
        }
        Ok(until)
    }

    /// Whether it says all that some rule asks for, of the rules of its issuer.
    ///
    /// # Errors
    /// What it does not say.
    pub fn is_of<'r>(&self, rules: impl IntoIterator<Item = &'r IssuerRule>) -> Result<(), Fault> {
        let rules = rules.into_iter();
        let mut rules = rules.filter(|rule| self.is_for(&rule.audience)).peekable();
        if rules.peek().is_none() {
            return Err(Fault::Audience);
        }
        match rules.any(|rule| {
            rule.claims
                .iter()
                .all(|(name, value)| self.says(name, value))
        }) {
            true => Ok(()),
            false => Err(Fault::Claims),
        }
    }

    fn is_for(&self, audience: &str) -> bool {
        match self.claims.get("aud") {
            Some(Value::String(one)) => one == audience,
            Some(Value::Array(all)) => all.iter().any(|one| one.as_str() == Some(audience)),
            _ => false,
        }
    }

    /// Whether a claim is exactly this: a text, a number in its digits, or true or false. What is a list is no claim
    /// of one thing.
    fn says(&self, name: &str, wanted: &str) -> bool {
        match self.claims.get(name) {
            Some(Value::String(text)) => text == wanted,
            Some(Value::Number(number)) => {
                (number.is_u64() || number.is_i64()) && number.to_string() == wanted
            }
            Some(Value::Bool(yes)) => yes.to_string() == wanted,
            _ => false,
        }
    }
}

/// A moment, which may have a fraction.
fn seconds(value: &Value) -> Option<u64> {
    if let Some(whole) = value.as_u64() {
        return Some(whole);
    }
    // What is before 1970 is long ago, and what is too large for the type is its largest.
    value.as_f64().map(|seconds| seconds.max(0.0) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::issuer_rule;
    use serde_json::json;

    fn token(header: &Value, claims: &Value) -> String {
        let encode = |value: &Value| Base64UrlUnpadded::encode_string(value.to_string().as_bytes());
        format!("{}.{}.c2ln", encode(header), encode(claims))
    }

    fn header() -> Value {
        json!({"alg": "RS256", "kid": "a"})
    }

    fn with(claims: &Value) -> Unproven<'static> {
        let text = token(&header(), claims);
        read(Box::leak(text.into_boxed_str()).as_bytes()).unwrap()
    }

    #[test]
    fn a_token_is_read_as_it_stands() {
        let claims = json!({"iss": "https://ci.org", "n": 7});
        let text = token(&header(), &claims);
        let read = read(text.as_bytes()).unwrap();
        assert_eq!((read.algorithm, &*read.kid), (Algorithm::Rs256, "a"));
        assert_eq!(read.issuer(), Some("https://ci.org"));
        assert_eq!(read.signature, b"sig");
        let (signed, _) = text.rsplit_once('.').unwrap();
        assert_eq!(read.signed, signed.as_bytes());
        assert_eq!(Value::Object(read.claims), claims);
    }

    #[test]
    fn what_is_no_token_of_a_pair_of_keys_is_refused() {
        let of = |header: Value| {
            let text = token(&header, &json!({}));
            read(text.as_bytes()).map(|_| ()).unwrap_err()
        };
        for name in [
            "none", "None", "HS256", "HS512", "rs256", "ES512", "RSA-OAEP", "",
        ] {
            assert_eq!(
                of(json!({"alg": name, "kid": "a"})),
                Fault::Algorithm,
                "{name}"
            );
        }
        assert_eq!(of(json!({"kid": "a"})), Fault::Unreadable);
        assert_eq!(of(json!({"alg": "RS256"})), Fault::NoKey);
        let long = "k".repeat(OIDC_KID_BYTES_MAX + 1);
        assert_eq!(of(json!({"alg": "RS256", "kid": long})), Fault::NoKey);
        let must = json!({"alg": "RS256", "kid": "a", "crit": ["b64"], "b64": false});
        assert_eq!(of(must), Fault::Unreadable);
        let twice = Base64UrlUnpadded::encode_string(br#"{"alg":"RS256","alg":"none","kid":"a"}"#);
        assert_eq!(
            read(format!("{twice}.e30.").as_bytes()),
            Err(Fault::Unreadable)
        );
        for header in [
            &br#"["RS256","a",null]"#[..],
            b"{\"alg\":\"RS256\",\"kid\":\"a\",\"x\":\"\xff\"}",
        ] {
            let header = Base64UrlUnpadded::encode_string(header);
            let read = read(format!("{header}.e30.").as_bytes()).map(|_| ());
            assert_eq!(read, Err(Fault::Unreadable));
        }
        let good = token(&header(), &json!({}));
        for (text, fault) in [
            ("", Fault::NoToken),
            ("a.b", Fault::NoToken),
            ("a.b.c.d", Fault::NoToken),
            ("a.b.c.d.e", Fault::NoToken),
            ("..", Fault::Unreadable),
            (&good.replace("c2ln", "c2ln="), Fault::Unreadable),
            (&good.replace("c2ln", "c2lo+"), Fault::Unreadable),
            (&good.replace("c2ln", "c2"), Fault::Unreadable),
            (&good.replacen('.', ".W10", 1), Fault::Unreadable),
            (
                &format!("{good}{}", "A".repeat(OIDC_TOKEN_BYTES_MAX)),
                Fault::TooLong,
            ),
        ] {
            assert_eq!(read(text.as_bytes()).map(|_| ()), Err(fault), "{text:.40}");
        }
    }

    #[test]
    fn a_token_counts_from_its_beginning_to_its_end() {
        let now = 1_000_000;
        let until = |claims| with(&claims).until(now);
        assert_eq!(until(json!({"exp": now})), Ok(now + OIDC_SKEW_S));
        assert_eq!(until(json!({"exp": now - OIDC_SKEW_S + 1})), Ok(now + 1));
        assert_eq!(
            until(json!({"exp": now - OIDC_SKEW_S})),
            Err(Fault::Expired)
        );
        assert_eq!(until(json!({"exp": -5})), Err(Fault::Expired));
        assert_eq!(until(json!({"exp": 1_000_000.5})), Ok(now + OIDC_SKEW_S));
        assert_eq!(until(json!({"exp": 1e300})), Ok(u64::MAX));
        assert_eq!(until(json!({})), Err(Fault::NoEnd));
        for wrong in [json!("1000000"), json!(null), json!([]), json!({})] {
            assert_eq!(until(json!({"exp": wrong})), Err(Fault::Unreadable));
        }
        for name in ["nbf", "iat"] {
            assert!(until(json!({"exp": now, name: now + OIDC_SKEW_S})).is_ok());
            let early = json!({"exp": now, name: now + OIDC_SKEW_S + 1});
            assert_eq!(until(early), Err(Fault::NotYet), "{name}");
            assert_eq!(
                until(json!({"exp": now, name: "x"})),
                Err(Fault::Unreadable)
            );
        }
    }

    #[test]
    fn a_token_says_all_of_some_rule() {
        let rules = ["a;owner=1;ok=true", "b;owner=x"]
            .map(|rule| issuer_rule(&format!("https://h;{rule}")).unwrap());
        let is_of = |claims| with(&claims).is_of(&rules);
        for good in [
            json!({"aud": "a", "owner": 1, "ok": true}),
            json!({"aud": "a", "owner": "1", "ok": "true"}),
            json!({"aud": ["z", "a"], "owner": "1", "ok": true, "more": []}),
            json!({"aud": ["b"], "owner": "x"}),
        ] {
            assert_eq!(is_of(good.clone()), Ok(()), "{good}");
        }
        for aud in [
            json!("A"),
            json!("a "),
            json!(["ab"]),
            json!({"a": 1}),
            json!([["a"]]),
            json!(1),
        ] {
            let claims = json!({"aud": aud, "owner": "1", "ok": true});
            assert_eq!(is_of(claims), Err(Fault::Audience), "{aud}");
        }
        assert_eq!(
            is_of(json!({"owner": "1", "ok": true})),
            Err(Fault::Audience)
        );
        for wrong in [
            json!({"aud": "a", "owner": "1"}),
            json!({"aud": "a", "ok": true}),
            json!({"aud": "a", "owner": "x", "ok": true}),
            json!({"aud": "b", "owner": "1", "ok": true}),
            json!({"aud": "a", "owner": 1.0, "ok": true}),
            json!({"aud": "a", "owner": ["1"], "ok": true}),
            json!({"aud": "b", "owner": "X"}),
            json!({"aud": "b", "owner": null}),
        ] {
            assert_eq!(is_of(wrong.clone()), Err(Fault::Claims), "{wrong}");
        }
    }
}
