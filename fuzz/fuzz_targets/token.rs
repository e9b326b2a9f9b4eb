//! Tokens of CI systems: an input is keys of an issuer; a token as it comes; or a header and claims, and who signs them.
//! None is believed but what the issuer's own key has signed, by that key's algorithm and name, and that says all that
//! is required; and what is believed is seen to be such a token wherever it stands.

#![no_main]

use std::sync::OnceLock;
use std::time::Instant;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64ct::{Base64UrlUnpadded, Encoding};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use tarpon::access::credential::Credential;
use tarpon::access::issuers::{Issuers, Judged};
use tarpon::access::{jwks, jwt};
use tarpon::config::issuer_rule;
use tarpon_fuzz::Input;

/// Seconds since 1970.
const NOW: u64 = 1_000_000;
const SKEW: f64 = 60.0;

struct Side {
    issuers: Issuers,
    pair: Ed25519KeyPair,
    stranger: Ed25519KeyPair,
}

fn encode(bytes: &[u8]) -> String {
    Base64UrlUnpadded::encode_string(bytes)
}

fn side() -> &'static Side {
    static SIDE: OnceLock<Side> = OnceLock::new();
    SIDE.get_or_init(|| {
        let pair = |seed| Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap();
        let (pair, stranger) = (pair(7), pair(8));
        let issuers = Issuers::new(&[issuer_rule("https://a.org;farm;owner=1").unwrap()], None);
        let x = encode(pair.public_key().as_ref());
        let keys = format!(r#"{{"keys":[{{"kty":"OKP","crv":"Ed25519","kid":"k","x":"{x}"}}]}}"#);
        let (at, _) = issuers.urls().next().unwrap();
        issuers.put_keys(at, jwks::read(keys.as_bytes()).unwrap(), Instant::now());
        Side {
            issuers,
            pair,
            stranger,
        }
    })
}

/// Whether what was signed says what is required.
fn is_good(header: &[u8], claims: &[u8]) -> bool {
    let parsed = |bytes| serde_json::from_slice::<Value>(bytes).ok();
    let (Some(header), Some(claims)) = (parsed(header), parsed(claims)) else {
        return false;
    };
    let one = Value::from("farm");
    let audience = &claims["aud"];
    let is_for = *audience == one || audience.as_array().is_some_and(|all| all.contains(&one));
    let time = |name: &str| claims[name].as_f64();
    let now = NOW as f64;
    let counts = time("exp").is_some_and(|exp| exp + SKEW + 1.0 > now)
        && time("nbf").is_none_or(|nbf| nbf < now + SKEW + 1.0)
        && time("iat").is_none_or(|iat| iat < now + SKEW + 1.0);
    header["alg"] == "EdDSA"
        && header["kid"] == "k"
        && header.get("crit").is_none_or(Value::is_null)
        && claims["iss"] == "https://a.org"
        && (claims["owner"] == "1" || claims["owner"] == 1)
        && is_for
        && counts
}

/// Whether it is believed.
fn is_believed(token: &[u8]) -> bool {
    let judged = side().issuers.judge(token, NOW);
    // Reading it says the same as judging it.
    let is_read = jwt::read(token).is_ok();
    match judged {
        Judged::Known(_) | Judged::Proven(_) => {
            assert!(is_read);
            let value = [b"Bearer ", token].concat();
            let shown = Credential::read(Some(&value)).unwrap();
            assert!(
                side().issuers.have_issued(&shown),
                "it could be sent elsewhere"
            );
            true
        }
        Judged::Unknown(_) => {
            assert!(is_read);
            false
        }
        Judged::Refused(_) => false,
    }
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input::new(data);
    match input.u8() % 4 {
        0 => {
            if let Ok(keys) = jwks::read(input.bytes(usize::MAX)) {
                assert!(!keys.is_empty());
                for key in keys {
                    assert!(!key.has_signed(jwt::Algorithm::EdDsa, b"text", &[1; 64]));
                    assert!(!key.has_signed(jwt::Algorithm::Rs256, b"text", &[1; 256]));
                    assert!(!key.has_signed(jwt::Algorithm::Es256, b"text", &[1; 64]));
                }
            }
        }
        1 => assert!(
            !is_believed(input.bytes(usize::MAX)),
            "nobody has signed it"
        ),
        who => {
            let (header, claims) = (input.text(), input.text());
            let signed = format!("{}.{}", encode(header), encode(claims));
            let pair = match who {
                2 => &side().pair,
                _ => &side().stranger,
            };
            let signature = pair.sign(signed.as_bytes());
            let token = format!("{signed}.{}", encode(signature.as_ref()));
            let believed = is_believed(token.as_bytes());
            assert!(!believed || who == 2 && is_good(header, claims));
            // What differs in its signature is another.
            let cut = &token[..token.len() - 1];
            assert!(!is_believed(cut.as_bytes()));
        }
    }
});
