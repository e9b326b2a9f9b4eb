use super::*;
use crate::access::jwks;
use crate::config::issuer_rule;
use crate::limits::OIDC_SKEW_S;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64ct::{Base64UrlUnpadded, Encoding};
use serde_json::{Value, json};

const NOW: u64 = 1_000_000;

/// Who signs.
struct Signer {
    pair: Ed25519KeyPair,
    kid: &'static str,
}

impl Signer {
    fn new(kid: &'static str) -> Signer {
        let pair = Ed25519KeyPair::generate().unwrap();
        Signer { pair, kid }
    }

    fn keys(all: &[&Signer]) -> Vec<PublicKey> {
        let key = |signer: &&Signer| {
            let x = Base64UrlUnpadded::encode_string(signer.pair.public_key().as_ref());
            json!({"kty": "OKP", "crv": "Ed25519", "kid": signer.kid, "x": x})
        };
        let keys: Vec<Value> = all.iter().map(key).collect();
        jwks::read(json!({"keys": keys}).to_string().as_bytes()).unwrap()
    }

    fn token(&self, claims: &Value) -> String {
        let encode = |bytes: &[u8]| Base64UrlUnpadded::encode_string(bytes);
        let header = json!({"alg": "EdDSA", "kid": self.kid}).to_string();
        let signed = format!(
            "{}.{}",
            encode(header.as_bytes()),
            encode(claims.to_string().as_bytes())
        );
        let signature = self.pair.sign(signed.as_bytes());
        format!("{signed}.{}", encode(signature.as_ref()))
    }
}

fn claims(more: &str) -> Value {
    json!({"iss": "https://a.org", "aud": "farm", "owner": "1", "sub": "job", "exp": NOW + 100, "x": more})
}

fn issuers() -> Issuers {
    let rules = ["https://a.org;farm;owner=1", "https://b.org;farm;owner=1"];
    Issuers::new(&rules.map(|rule| issuer_rule(rule).unwrap()), None)
}

/// What came of it, in a word.
fn word(judged: &Judged) -> String {
    match judged {
        Judged::Known(_) => "known".to_owned(),
        Judged::Proven(_) => "proven".to_owned(),
        Judged::Unknown(IssuerAt(at)) => format!("unknown {at}"),
        Judged::Refused(fault) => format!("{fault:?}"),
    }
}

fn judged(issuers: &Issuers, token: &str, now: u64) -> String {
    word(&issuers.judge(token.as_bytes(), now))
}

#[test]
fn a_token_is_proven_once_and_known_until_it_runs_out() {
    let (issuers, signer) = (issuers(), Signer::new("k"));
    let token = signer.token(&claims(""));
    assert_eq!(judged(&issuers, &token, NOW), "unknown 0");
    issuers.put_keys(IssuerAt(0), Signer::keys(&[&signer]), Instant::now());
    let Judged::Proven(proven) = issuers.judge(token.as_bytes(), NOW) else {
        panic!("it is not believed");
    };
    assert_eq!(&*proven.identity.subject, "job");
    assert_eq!(&*proven.name, "a.org job");
    let end = NOW + 100 + OIDC_SKEW_S;
    assert_eq!(judged(&issuers, &token, end - 1), "known");
    assert!(proven.counts(end - 1) && !proven.counts(end));
    assert_eq!(judged(&issuers, &token, end), "Expired");
    // What differs in one letter is another token.
    let other = token.replacen('.', "A.", 1);
    assert_ne!(judged(&issuers, &other, NOW), "known");
    let forged = format!("{}.{}", token.rsplit_once('.').unwrap().0, "A".repeat(86));
    assert_eq!(judged(&issuers, &forged, NOW), "Signature");
    // One issuer's key signs for none of the others.
    let mut elsewhere = claims("");
    elsewhere["iss"] = json!("https://b.org");
    assert_eq!(
        judged(&issuers, &signer.token(&elsewhere), NOW),
        "unknown 1"
    );
    elsewhere["iss"] = json!("https://c.org");
    assert_eq!(judged(&issuers, &signer.token(&elsewhere), NOW), "Issuer");
}

#[test]
fn what_a_key_has_proven_goes_with_it() {
    let (issuers, old, new) = (issuers(), Signer::new("old"), Signer::new("new"));
    let token = old.token(&claims(""));
    issuers.put_keys(IssuerAt(0), Signer::keys(&[&old]), Instant::now());
    assert_eq!(judged(&issuers, &token, NOW), "proven");
    issuers.put_keys(IssuerAt(0), Signer::keys(&[&old, &new]), Instant::now());
    assert_eq!(
        judged(&issuers, &token, NOW),
        "known",
        "its key is still there"
    );
    assert_eq!(judged(&issuers, &new.token(&claims("")), NOW), "proven");
    issuers.put_keys(IssuerAt(0), Signer::keys(&[&new]), Instant::now());
    assert_eq!(judged(&issuers, &token, NOW), "unknown 0");
    // Another key of the same name is another key.
    let other = Signer::new("old");
    issuers.put_keys(IssuerAt(0), Signer::keys(&[&other]), Instant::now());
    assert_eq!(judged(&issuers, &token, NOW), "Signature");
    // What was proven is looked at again once what its issuer has said no longer counts.
    let hour = Duration::from_secs(3600);
    let day = Duration::from_millis(OIDC_KEYS_LAST_MS);
    let before = Instant::now()
        .checked_sub(day - hour)
        .expect("up for a day");
    issuers.put_keys(IssuerAt(0), Signer::keys(&[&old]), before);
    let mut long = claims("");
    long["exp"] = json!(NOW + 100_000);
    let long = old.token(&long);
    assert_eq!(judged(&issuers, &long, NOW), "proven");
    assert_eq!(judged(&issuers, &long, NOW + 3000), "known");
    assert_eq!(judged(&issuers, &long, NOW + 3700), "proven");
    // What an issuer said a day ago does not count any more.
    let day = Duration::from_millis(OIDC_KEYS_LAST_MS);
    let long_ago = Instant::now().checked_sub(day).expect("up for a day");
    issuers.put_keys(IssuerAt(0), Signer::keys(&[&old]), long_ago);
    assert_eq!(judged(&issuers, &token, NOW), "unknown 0");
}

#[test]
fn what_is_remembered_is_bounded() {
    let (issuers, signer) = (issuers(), Signer::new("k"));
    issuers.put_keys(IssuerAt(0), Signer::keys(&[&signer]), Instant::now());
    let key = issuers.all[0].keys.load().known[0].clone();
    let remember = |number: usize, bytes| {
        let identity = Identity::of_ci(serde_json::Map::new());
        let proven = Proven {
            name: identity.logged(),
            identity,
            until_unix_s: NOW + 1,
            key: Arc::downgrade(&key),
            bytes,
        };
        let mark = Mark::of_secret(number.to_string().as_bytes());
        issuers.proven.put(mark, Arc::new(proven));
    };
    let sums = || {
        let shards = issuers.proven.shards.iter().map(|shard| {
            let shard = shard.lock().unwrap();
            assert_eq!(shard.known.len(), shard.order.len());
            let bytes: usize = shard.known.values().map(|proven| proven.bytes).sum();
            assert_eq!(bytes, shard.bytes);
            (shard.known.len(), bytes)
        });
        shards.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
    };
    (0..10).for_each(|_| remember(1, 7));
    assert_eq!(sums(), (1, 7), "one that comes again is one");
    (0..2 * OIDC_PROVEN_MAX).for_each(|number| remember(number, 1));
    let (count, _) = sums();
    assert!(
        count <= OIDC_PROVEN_MAX && count > OIDC_PROVEN_MAX / 2,
        "{count}"
    );
    let large = OIDC_PROVEN_BYTES_MAX / OIDC_PROVEN_SHARDS / 4;
    (0..1000).for_each(|number| remember(usize::MAX - number, large));
    let (count, bytes) = sums();
    assert!(
        bytes <= OIDC_PROVEN_BYTES_MAX && count >= OIDC_PROVEN_SHARDS,
        "{count} {bytes}"
    );
}

#[test]
fn a_token_of_an_issuer_is_seen_wherever_it_stands() {
    let (issuers, signer) = (issuers(), Signer::new("k"));
    let mut late = claims("");
    late["exp"] = json!(1);
    let (token, late) = (signer.token(&claims("")), signer.token(&late));
    let (unsigned, _) = token.rsplit_once('.').unwrap();
    let mut other = claims("");
    other["iss"] = json!("https://other.org");
    let other = signer.token(&other);
    let basic = |pair: &str| {
        let value = format!("Basic {}", base64ct::Base64::encode_string(pair.as_bytes()));
        Credential::read(Some(value.as_bytes())).unwrap()
    };
    let bearer = |text: &str| Credential::read(Some(format!("Bearer {text}").as_bytes())).unwrap();
    for ours in [
        bearer(&token),
        bearer(&late),
        bearer(unsigned),
        bearer(&format!("x.y/{token}")),
        basic(&format!("x:{token}")),
        basic(&format!("{token}:")),
        basic(&format!("x: {token} ")),
        basic(&format!("oauth2:{unsigned}")),
    ] {
        assert!(issuers.have_issued(&ours));
        assert!(!Issuers::default().have_issued(&ours));
    }
    for theirs in [
        Credential::NONE,
        bearer(&other),
        bearer("ghp_0123456789abcdef"),
        basic("x:https://a.org"),
        basic("a.b:c.d"),
    ] {
        assert!(!issuers.have_issued(&theirs));
    }
}
