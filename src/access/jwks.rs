//! The keys of an issuer (RFC 7517), and what each says of a signature.
//!
//! A key decides by which algorithms it is used: nothing that was signed can choose to have a key taken for one of
//! another kind.

use aws_lc_rs::signature as sig;
use aws_lc_rs::signature::{
    EcdsaVerificationAlgorithm, RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey,
};
use base64ct::{Base64UrlUnpadded, Encoding};
use serde::Deserialize;
use serde_json::Value;

use super::jwt::Algorithm;
use crate::limits::{
    OIDC_KEYS_MAX, OIDC_KID_BYTES_MAX, OIDC_RSA_BYTES, OIDC_RSA_EXPONENT_BYTES_MAX,
};

/// The public half of a pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    /// Its name.
    pub kid: String,
    /// The only algorithm that it is for, if its issuer says so.
    only: Option<Algorithm>,
    half: Half,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Half {
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    /// A point, in full: those of P-256 and P-384 differ in length.
    P256(Vec<u8>),
    P384(Vec<u8>),
    Ed25519(Vec<u8>),
}

/// Why there are no keys.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // They say what they are.
pub enum KeysError {
    #[error("it is no set of keys (RFC 7517)")]
    Unreadable,
    #[error("it has more than {OIDC_KEYS_MAX} keys")]
    TooMany,
    #[error(
        "none of its keys has a name (kid), and is an RSA key of 2048 to 4096 bits, P-256, P-384 or Ed25519"
    )]
    NoneOfUse,
}

#[derive(Deserialize)]
struct Set {
    keys: Vec<Value>,
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

/// Reads a set of keys. What is of another use, of another kind or damaged is left out: a set may have such as well.
///
/// # Errors
/// It is none, or none of its keys can be used.
pub fn read(text: &[u8]) -> Result<Vec<PublicKey>, KeysError> {
    let set: Set = serde_json::from_slice(text).map_err(|_| KeysError::Unreadable)?;
    if set.keys.len() > OIDC_KEYS_MAX {
        return Err(KeysError::TooMany);
    }
    let mut keys: Vec<PublicKey> = Vec::new();
    for key in set.keys.into_iter().filter_map(of_use) {
        // Of two with one name nobody knows which is meant; the first is as good.
        if !keys.iter().any(|known| known.kid == key.kid) {
            keys.push(key);
        }
    }
    match keys.is_empty() {
        true => Err(KeysError::NoneOfUse),
        false => Ok(keys),
    }
}

fn of_use(key: Value) -> Option<PublicKey> {
    let key: Jwk = serde_json::from_value(key).ok()?;
    let signs = key.usage.as_deref().is_none_or(|usage| usage == "sig");
    let verifies = |ops: &[String]| ops.iter().any(|op| op == "verify");
    if !signs || !key.key_ops.as_deref().is_none_or(verifies) {
        return None;
    }
    let kid = key.kid.filter(|kid| kid.len() <= OIDC_KID_BYTES_MAX)?;
    let only = match &key.alg {
        // One that is for something else is no key for this.
        Some(name) => Some(Algorithm::named(name)?),
        None => None,
    };
    let bytes = |part: &Option<String>| Base64UrlUnpadded::decode_vec(part.as_deref()?).ok();
    let half = match (&*key.kty, key.crv.as_deref()) {
        ("RSA", _) => rsa(bytes(&key.n)?, bytes(&key.e)?)?,
        ("EC", Some("P-256")) => Half::P256(point(&bytes(&key.x)?, &bytes(&key.y)?, 32)?),
        ("EC", Some("P-384")) => Half::P384(point(&bytes(&key.x)?, &bytes(&key.y)?, 48)?),
        ("OKP", Some("Ed25519")) => Half::Ed25519(bytes(&key.x).filter(|x| x.len() == 32)?),
        _ => return None,
    };
    Some(PublicKey { kid, only, half })
}

fn rsa(n: Vec<u8>, e: Vec<u8>) -> Option<Half> {
    // Some write the zero in front that DER has.
    let plain = |bytes: Vec<u8>| -> Vec<u8> {
        let digits = bytes.iter().skip_while(|byte| **byte == 0);
        digits.copied().collect()
    };
    let (n, e) = (plain(n), plain(e));
    let (from, to) = OIDC_RSA_BYTES;
    let is_fit = (from..=to).contains(&n.len()) && e.len() <= OIDC_RSA_EXPONENT_BYTES_MAX;
    // 1 would have everything signed by everybody, and even ones are none.
    let is_odd = |number: &[u8]| number.last().is_some_and(|last| last & 1 == 1);
    (is_fit && is_odd(&n) && is_odd(&e) && e != [1]).then_some(Half::Rsa { n, e })
}

fn point(x: &[u8], y: &[u8], length: usize) -> Option<Vec<u8>> {
    let is_fit = x.len() == length && y.len() == length;
    is_fit.then(|| [&[4], x, y].concat())
}

impl PublicKey {
    /// Whether it is for signatures of this kind.
    pub fn is_for(&self, algorithm: Algorithm) -> bool {
        use Algorithm::{EdDsa, Es256, Es384, Ps256, Ps384, Ps512, Rs256, Rs384, Rs512};
        let is_of_kind = match self.half {
            Half::Rsa { .. } => matches!(algorithm, Rs256 | Rs384 | Rs512 | Ps256 | Ps384 | Ps512),
            Half::P256(_) => algorithm == Es256,
            Half::P384(_) => algorithm == Es384,
            Half::Ed25519(_) => algorithm == EdDsa,
        };
        is_of_kind && self.only.is_none_or(|only| only == algorithm)
    }

    /// Whether this is the signature of these bytes by that algorithm.
    pub fn has_signed(&self, algorithm: Algorithm, signed: &[u8], signature: &[u8]) -> bool {
        if !self.is_for(algorithm) {
            return false;
        }
        let ec = |kind: &'static EcdsaVerificationAlgorithm, point: &[u8]| {
            UnparsedPublicKey::new(kind, point).verify(signed, signature)
        };
        let checked = match &self.half {
            Half::Rsa { n, e } => match rsa_parameters(algorithm) {
                Some(how) => RsaPublicKeyComponents { n, e }.verify(how, signed, signature),
                None => return false,
            },
            Half::P256(point) => ec(&sig::ECDSA_P256_SHA256_FIXED, point),
            Half::P384(point) => ec(&sig::ECDSA_P384_SHA384_FIXED, point),
            Half::Ed25519(x) => UnparsedPublicKey::new(&sig::ED25519, x).verify(signed, signature),
        };
        checked.is_ok()
    }
}

fn rsa_parameters(algorithm: Algorithm) -> Option<&'static RsaParameters> {
    Some(match algorithm {
        Algorithm::Rs256 => &sig::RSA_PKCS1_2048_8192_SHA256,
        Algorithm::Rs384 => &sig::RSA_PKCS1_2048_8192_SHA384,
        Algorithm::Rs512 => &sig::RSA_PKCS1_2048_8192_SHA512,
        Algorithm::Ps256 => &sig::RSA_PSS_2048_8192_SHA256,
        Algorithm::Ps384 => &sig::RSA_PSS_2048_8192_SHA384,
        Algorithm::Ps512 => &sig::RSA_PSS_2048_8192_SHA512,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::rsa::KeySize;
    use aws_lc_rs::signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair,
        Ed25519KeyPair, KeyPair, RsaEncoding, RsaKeyPair,
    };
    use serde_json::json;

    fn encoded(bytes: &[u8]) -> String {
        Base64UrlUnpadded::encode_string(bytes)
    }

    fn of_rsa(pair: &RsaKeyPair) -> Value {
        // A sequence of two numbers: the modulus behind a head of 9 bytes (with its zero), the exponent at the end.
        let der = pair.public_key().as_ref();
        let n = &der[9..9 + pair.public_modulus_len()];
        json!({"kty": "RSA", "kid": "r", "n": encoded(n), "e": "AQAB"})
    }

    fn of_ec(pair: &EcdsaKeyPair, curve: &str) -> Value {
        let (x, y) = pair.public_key().as_ref()[1..].split_at(pair.public_key().as_ref().len() / 2);
        json!({"kty": "EC", "kid": "e", "crv": curve, "x": encoded(x), "y": encoded(y)})
    }

    fn keys(all: &[Value]) -> Result<Vec<PublicKey>, KeysError> {
        read(json!({"keys": all}).to_string().as_bytes())
    }

    fn one(key: &Value) -> PublicKey {
        keys(std::slice::from_ref(key)).unwrap().remove(0)
    }

    const ALL: [Algorithm; 9] = [
        Algorithm::Rs256,
        Algorithm::Rs384,
        Algorithm::Rs512,
        Algorithm::Ps256,
        Algorithm::Ps384,
        Algorithm::Ps512,
        Algorithm::Es256,
        Algorithm::Es384,
        Algorithm::EdDsa,
    ];

    /// A key believes what its other half has signed by the algorithm that is named, and nothing else.
    fn expect_only(key: &PublicKey, by: Algorithm, signature: &[u8]) {
        for algorithm in ALL {
            let is_its = algorithm == by;
            assert_eq!(
                key.has_signed(algorithm, b"text", signature),
                is_its,
                "{algorithm:?}"
            );
        }
        assert!(!key.has_signed(by, b"texu", signature));
        assert!(!key.has_signed(by, b"text", b""));
        let mut other = signature.to_vec();
        other[10] ^= 1;
        assert!(!key.has_signed(by, b"text", &other));
    }

    #[test]
    fn each_kind_of_key_is_for_its_own_algorithms() {
        let random = SystemRandom::new();
        let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        let key = one(&of_rsa(&pair));
        let ways: [(&dyn RsaEncoding, Algorithm); 6] = [
            (&sig::RSA_PKCS1_SHA256, Algorithm::Rs256),
            (&sig::RSA_PKCS1_SHA384, Algorithm::Rs384),
            (&sig::RSA_PKCS1_SHA512, Algorithm::Rs512),
            (&sig::RSA_PSS_SHA256, Algorithm::Ps256),
            (&sig::RSA_PSS_SHA384, Algorithm::Ps384),
            (&sig::RSA_PSS_SHA512, Algorithm::Ps512),
        ];
        for (way, algorithm) in ways {
            let mut signature = vec![0; pair.public_modulus_len()];
            pair.sign(way, &random, b"text", &mut signature).unwrap();
            expect_only(&key, algorithm, &signature);
            let mut only = of_rsa(&pair);
            only["alg"] = json!("RS384");
            let is_its = one(&only).has_signed(algorithm, b"text", &signature);
            assert_eq!(is_its, algorithm == Algorithm::Rs384);
        }
        for (how, curve, algorithm) in [
            (&ECDSA_P256_SHA256_FIXED_SIGNING, "P-256", Algorithm::Es256),
            (&ECDSA_P384_SHA384_FIXED_SIGNING, "P-384", Algorithm::Es384),
        ] {
            let pair = EcdsaKeyPair::generate(how).unwrap();
            let signature = pair.sign(&random, b"text").unwrap();
            expect_only(&one(&of_ec(&pair, curve)), algorithm, signature.as_ref());
        }
        let pair = Ed25519KeyPair::generate().unwrap();
        let x = encoded(pair.public_key().as_ref());
        let key = one(&json!({"kty": "OKP", "kid": "d", "crv": "Ed25519", "x": x}));
        expect_only(&key, Algorithm::EdDsa, pair.sign(b"text").as_ref());
    }

    #[test]
    fn what_cannot_be_used_is_left_out() {
        let good = json!({"kty": "OKP", "kid": "d", "crv": "Ed25519", "x": encoded(&[7; 32])});
        let changed = |name: &str, value: Value| {
            let mut key = good.clone();
            key[name] = value;
            key
        };
        let rsa = |n: &[u8], e: &[u8]| json!({"kty": "RSA", "kid": "r", "n": encoded(n), "e": encoded(e)});
        let odd = |length: usize| vec![0xff; length];
        for key in [
            changed("use", json!("enc")),
            changed("key_ops", json!(["sign"])),
            changed("alg", json!("HS256")),
            changed("alg", json!("none")),
            changed("kid", json!(null)),
            changed("kid", json!("k".repeat(OIDC_KID_BYTES_MAX + 1))),
            changed("x", json!(encoded(&[7; 31]))),
            changed("x", json!("===")),
            changed("crv", json!("X25519")),
            json!({"kty": "oct", "kid": "o", "k": encoded(&[1; 32])}),
            json!({"kty": "EC", "kid": "e", "crv": "P-256", "x": encoded(&[1; 32]), "y": encoded(&[1; 31])}),
            rsa(&odd(255), &[1, 0, 1]),
            rsa(&odd(513), &[1, 0, 1]),
            rsa(&odd(256), &[1]),
            rsa(&odd(256), &[2]),
            rsa(&odd(256), &[]),
            rsa(&odd(256), &[1, 0, 0, 0, 1]),
            rsa(&[&odd(255)[..], &[2]].concat(), &[1, 0, 1]),
            json!("key"),
            json!({}),
        ] {
            assert_eq!(
                keys(std::slice::from_ref(&key)),
                Err(KeysError::NoneOfUse),
                "{key}"
            );
            assert_eq!(keys(&[key, good.clone()]).unwrap(), [one(&good)]);
        }
        let padded = rsa(&[&[0][..], &odd(256)].concat(), &[0, 1, 0, 1]);
        assert_eq!(one(&padded), one(&rsa(&odd(256), &[1, 0, 1])));
        let twice = changed("x", json!(encoded(&[8; 32])));
        assert_eq!(keys(&[good.clone(), twice]).unwrap(), [one(&good)]);
        let many = vec![good; OIDC_KEYS_MAX + 1];
        assert_eq!(keys(&many), Err(KeysError::TooMany));
        for text in ["", "[]", "{}", "{\"keys\":{}}", "<html>"] {
            assert_eq!(read(text.as_bytes()), Err(KeysError::Unreadable), "{text}");
        }
    }
}
