//! Who may, by the tokens of CI systems: an issuer of the test's own, over https, that rotates its keys, answers wrong,
//! or is down; and tokens that somebody has forged.

use std::process::{Command, Output};
use std::time::Instant;

use base64ct::{Base64, Encoding};
use serde_json::{Value, json};
use tarpon::http::wire::table::{Need, TABLE};

use super::access::{self, ask, expect_strangers, methods, target};
use super::permission::Host;
use super::permission_matrix::expect_refusals;
use super::support::client::{Conn, Response};
use super::support::issuer::{Issuer, Says, Signer, by_hmac, now_s, unsigned};
use super::support::lab::{self, Lab};
use super::support::repos::Shape;
use super::support::server::{Server, Settings};
use super::support::tokens::base64;
use super::support::{git, wait};
use super::{new_lab, small_lab};

/// A lab, and an issuer with one key.
pub(super) struct Farm {
    pub lab: Lab,
    pub issuer: Issuer,
    pub signer: Signer,
}

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}")
}

fn snapshot(server: &Server, field: &str) -> Response {
    server.fetch("GET", &lab::target("small"), &[field])
}

impl Farm {
    pub fn new() -> Farm {
        Farm::of(small_lab())
    }

    fn of(lab: Lab) -> Farm {
        let signer = Signer::rsa("first");
        let issuer = Issuer::new(&lab.scratch(""), "issuer", &signer);
        Farm {
            lab,
            issuer,
            signer,
        }
    }

    /// `--oidc` and what belongs to it.
    fn flags(&self) -> Vec<String> {
        let rule = format!("{};farm;repository_owner_id=7", self.issuer.url);
        let ca = self.issuer.ca.display().to_string();
        vec!["--oidc".into(), rule, "--oidc-ca".into(), ca]
    }

    /// A server that asks for a token of it.
    pub fn settings(&self) -> Settings {
        let mut settings = self.lab.settings();
        let access = ["--no-default-upstreams", "--access", "test=token"];
        settings.arguments.extend(access.map(str::to_owned));
        settings.arguments.extend(self.flags());
        settings
    }

    /// A header line with a token that says this instead of what a good one says.
    pub fn field_but(&self, but: &Value) -> String {
        bearer(&self.signer.token(&self.issuer.claims_but(but)))
    }

    fn token(&self) -> String {
        self.signer.token(&self.issuer.claims())
    }
}

fn tokens(server: &Server, result: &str) -> u64 {
    let labels = [("result", result)];
    server.metrics().count("tarpon_ci_tokens_total", &labels)
}

fn key_fetches(server: &Server) -> u64 {
    server.metrics().count("tarpon_ci_key_fetches_total", &[])
}

#[test]
fn a_job_of_the_owner_reads_however_it_shows_its_token() {
    let farm = Farm::new();
    let server = farm.settings().start();
    let token = farm.token();
    let basic = format!("Authorization: Basic {}", base64(&format!("x:{token}")));
    let own = bearer(&token).replace("Auth", "Tarpon-Auth");
    for field in [bearer(&token), basic.clone(), own] {
        snapshot(&server, &field).expect(200);
        let status = lab::endpoint("small", "status");
        server.fetch("GET", &status, &[&field]).expect(200);
    }
    assert_eq!(
        (tokens(&server, "proven"), tokens(&server, "known")),
        (1, 5)
    );
    // Of all audiences that a token names one is enough.
    let several = json!({"aud": ["other", "farm"]});
    snapshot(&server, &farm.field_but(&several)).expect(200);
    // Stock git sends it as a password.
    let url = format!("http://x:{token}@{}/git/test/small", server.address());
    let into = farm.lab.scratch("cloned");
    git::clone(&url, &into);
    let head = git::text(&farm.lab.upstream("small"), &["rev-parse", "main"]);
    assert_eq!(git::text(&into, &["rev-parse", "HEAD"]), head);
    // It reads, and does nothing else.
    let admin = server.fetch("GET", "/status", &[&basic]);
    assert_eq!(admin.head.status, 404);
    let metrics = server
        .fetch("GET", "/metrics", &[&basic])
        .expect(200)
        .text();
    assert!(!metrics.contains("repository=\"test/small\""));
    // The log has who it was, and nothing of the token.
    server.wait_logged("repo:acme/app:ref:refs/heads/main");
    let log = server.log();
    assert!(token.split('.').all(|part| !log.contains(part)), "{log}");
    assert_eq!(farm.issuer.count(), 2, "{:?}", farm.issuer.asked());
}

/// Tokens that somebody has forged, and why each is not believed.
fn forged(farm: &Farm, elsewhere: &str, stranger: &Signer) -> Vec<(String, &'static str)> {
    let (signer, claims) = (&farm.signer, farm.issuer.claims());
    let none = unsigned(&json!({"alg": "none", "kid": "first"}), &claims);
    let good = farm.token();
    let (before, signature) = good.rsplit_once('.').unwrap();
    let first = if signature.starts_with('A') { "B" } else { "A" };
    let changed = format!("{before}.{first}{}", &signature[1..]);
    let at = format!("{elsewhere}/keys");
    let own_key = json!({"jku": at, "jwk": stranger.jwk(), "x5u": at});
    let pem = format!(
        "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
        Base64::encode_string(&signer.public())
    );
    let by_secret = |secret: &[u8]| by_hmac(secret, "first", &claims);
    let named = |algorithm| signer.token_of(&json!({"alg": algorithm}), &claims);
    let must = json!({"crit": ["x"], "x": 1});
    let algorithm = "not signed by an asymmetric algorithm";
    let signature = "signature is not that of its key";
    vec![
        (format!("{none}."), algorithm),
        (by_secret(&signer.public()), algorithm),
        (by_secret(&signer.modulus()), algorithm),
        (by_secret(pem.as_bytes()), algorithm),
        (named("ES256"), algorithm),
        (named("RS512"), algorithm),
        (stranger.token(&claims), signature),
        (stranger.token_of(&own_key, &claims), signature),
        (changed, signature),
        (signer.token_of(&must, &claims), "cannot be read"),
        ("a.b.c".to_owned(), "cannot be read"),
    ]
}

/// Tokens that the issuer has signed for something or somebody else, and why each is not believed.
fn of_others(farm: &Farm, elsewhere: &str) -> Vec<(String, &'static str)> {
    let (issuer, now) = (&farm.issuer, now_s());
    let all = [
        (json!({"exp": now - 61}), "has run out"),
        (json!({"exp": null}), "does not say when"),
        (json!({"nbf": now + 3600}), "is not valid yet"),
        (json!({"iat": now + 3600}), "is not valid yet"),
        (json!({"aud": "farm2"}), "for another audience"),
        (json!({"aud": null}), "for another audience"),
        (json!({"repository_owner_id": "8"}), "lacks a claim"),
        (json!({"repository_owner_id": ["7"]}), "lacks a claim"),
        (json!({"repository_owner_id": null}), "lacks a claim"),
        (json!({"iss": elsewhere}), "of an issuer that no --oidc"),
        (json!({"iss": format!("{}/", issuer.url)}), "of an issuer"),
        (json!({"sub": "x".repeat(8000)}), "longer than any"),
    ];
    let signed = |but: &Value| farm.signer.token(&issuer.claims_but(but));
    all.iter().map(|(but, why)| (signed(but), *why)).collect()
}

/// Each is refused in the same words as a token that is unknown, whatever is wrong with it; the log has what.
#[test]
fn what_is_forged_or_of_somebody_else_is_refused() {
    let farm = Farm::new();
    let stranger = Signer::rsa("first");
    let elsewhere = Issuer::new(&farm.lab.scratch(""), "elsewhere", &stranger);
    let server = farm.settings().start();
    snapshot(&server, &bearer(&farm.token())).expect(200);
    let asked = farm.issuer.count();
    let mut all = forged(&farm, &elsewhere.url, &stranger);
    all.extend(of_others(&farm, &elsewhere.url));
    let unknown = access::seen(&snapshot(&server, "Authorization: Bearer unknown"));
    assert_eq!(unknown.0, 404);
    for (token, why) in &all {
        let refused = access::seen(&snapshot(&server, &bearer(token)));
        assert_eq!(refused, unknown, "{why} {token}");
        server.wait_logged(why);
    }
    assert_eq!(tokens(&server, "refused"), all.len() as u64);
    // Nobody was asked for a key because of any of these.
    assert_eq!((farm.issuer.count(), elsewhere.count()), (asked, 0));
    let log = server.log();
    let parts = all.iter().flat_map(|(token, _)| token.split('.'));
    let mut long = parts.filter(|part| part.len() > 40);
    assert!(long.all(|part| !log.contains(part)), "{log}");
}

/// With a key for each of two algorithms, which is how one is replaced.
#[test]
fn keys_are_rotated() {
    let farm = Farm::new();
    let settings = farm.settings().with_fault("issuer-apart-ms=1");
    let server = settings.with_fault("issuer-young-ms=200").start();
    let old = bearer(&farm.token());
    snapshot(&server, &old).expect(200);
    let next = Signer::ec("next");
    farm.issuer.has(&[&farm.signer, &next]);
    // It is asked for a key that is not there, before the token is refused.
    let new = bearer(&next.token(&farm.issuer.claims()));
    snapshot(&server, &new).expect(200);
    snapshot(&server, &old).expect(200);
    farm.issuer.has(&[&next]);
    // What was proven by a key goes with it, once that is seen to be gone.
    wait::until_true("the old key counts no more", || {
        snapshot(&server, &old).head.status == 404
    });
    server.wait_logged("signed by a key that its issuer does not have");
    snapshot(&server, &new).expect(200);
    // Those of other uses and kinds do no harm, and nor does one more of its name.
    let other = Signer::ec("next");
    farm.issuer.has_keys(vec![
        json!({"kty": "oct", "kid": "s", "k": "AAAA"}),
        json!(7),
        next.jwk(),
        other.jwk(),
    ]);
    let fetched = key_fetches(&server);
    wait::until_true("it is asked again", || key_fetches(&server) > fetched + 1);
    snapshot(&server, &new).expect(200);
    // One that has no key any more has answered.
    farm.issuer.has_keys(Vec::new());
    wait::until_true("no key counts", || {
        snapshot(&server, &new).head.status == 404
    });
}

/// Whoever makes up names of keys has their issuer asked no more often than once a minute, and nobody waits for him.
#[test]
fn made_up_keys_by_the_thousand() {
    let farm = Farm::new();
    let server = farm.settings().start();
    let good = bearer(&farm.token());
    snapshot(&server, &good).expect(200);
    let began = Instant::now();
    let claims = farm.issuer.claims();
    let mut conn = Conn::open(server.address());
    for number in 0..2_000 {
        let header = json!({"kid": format!("made-up-{number}")});
        // The signature is of no account: nothing is there to check it by.
        let token = format!(
            "{}.AAAA",
            unsigned(&json!({"alg": "RS256", "kid": header["kid"]}), &claims)
        );
        conn.request("GET", &lab::target("small"), &[&bearer(&token)]);
        let answer = conn.response("GET");
        let status = answer.head.status;
        assert!(matches!(status, 404 | 503), "{:?}", answer.head);
        if status == 503 {
            assert!(
                answer.head.get("retry-after").is_some(),
                "{:?}",
                answer.head
            );
            assert_eq!(answer.head.get("cache-control"), Some("private, no-store"));
        }
        if number % 100 == 0 {
            snapshot(&server, &good).expect(200);
        }
    }
    let minutes = began.elapsed().as_secs() as usize / 60;
    // At the start, and once more in each minute that this took: what it is, and its keys.
    let most = 2 * (2 + minutes);
    assert!(farm.issuer.count() <= most, "{:?}", farm.issuer.asked());
    assert!(tokens(&server, "unsaid") > 1_900);
    assert_eq!(server.metrics().count("tarpon_clones_total", &[]), 1);
}

#[test]
fn an_issuer_that_is_down_takes_nobody_along_whose_key_is_known() {
    let farm = Farm::new();
    farm.issuer.says(Says::Nothing);
    let settings = farm.settings().with_fault("issuer-apart-ms=50");
    let server = settings.with_fault("issuer-young-ms=50").start();
    let field = bearer(&farm.token());
    let refused = snapshot(&server, &field);
    assert_eq!(refused.head.status, 503, "{:?}", refused.head);
    assert!(refused.text().contains("by which keys it signs"));
    server.wait_logged("does not answer");
    assert!(!farm.lab.mirror("small").exists(), "it has caused a clone");
    farm.issuer.says(Says::Well);
    wait::until_true("it is asked again", || {
        snapshot(&server, &field).head.status == 200
    });
    farm.issuer.says(Says::Nothing);
    let before = farm.issuer.count();
    wait::until_true("it is asked in vain", || farm.issuer.count() > before + 3);
    snapshot(&server, &field).expect(200);
    // One that was never shown, by a key that is known.
    snapshot(&server, &farm.field_but(&json!({"jti": "new"}))).expect(200);
    let unknown = Signer::ec("unknown").token(&farm.issuer.claims());
    assert_eq!(snapshot(&server, &bearer(&unknown)).head.status, 503);
    // A server that knows none of its keys starts all the same.
    server.stop();
    let server = farm.settings().start();
    assert_eq!(snapshot(&server, &field).head.status, 503);
    server.fetch("GET", "/_readiness", &[]).expect(200);
}

/// `tarpon check` with these flags.
fn check(flags: &[String], more: &[&str]) -> Output {
    let state = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_tarpon"));
    git::isolate(&mut command);
    command.args(["check", "--listen", "127.0.0.1:0", "--no-default-upstreams"]);
    command.args([
        "--upstream",
        "test=https://localhost/",
        "--access",
        "test=token",
    ]);
    command
        .arg("--state")
        .arg(state.path())
        .args(flags)
        .args(more);
    command.output().unwrap()
}

fn said(output: &Output) -> String {
    let all = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&all).into_owned()
}

/// What an issuer answers is not believed because it answers: each fault is named, and what to do about it.
#[test]
fn what_an_issuer_answers_wrong_is_said() {
    let farm = Farm::of(new_lab());
    let elsewhere = Issuer::new(&farm.lab.scratch(""), "elsewhere", &farm.signer);
    let checked = check(&farm.flags(), &[]);
    assert!(checked.status.success(), "{}", said(&checked));
    assert!(said(&checked).contains("serve would start"));
    let plain = format!("{}/keys", farm.issuer.url).replace("https", "http");
    let expect = |says: Says, why: &str| {
        let count = farm.issuer.count();
        farm.issuer.says(says);
        let checked = check(&farm.flags(), &[]);
        let said = said(&checked);
        assert_eq!(checked.status.code(), Some(3), "{said}");
        assert!(
            said.contains(&format!("--oidc {}", farm.issuer.url)),
            "{said}"
        );
        assert!(said.contains(why), "{said}");
        assert!(farm.issuer.count() > count);
    };
    expect(Says::Nothing, "can this machine reach it");
    expect(Says::Page, "is not what an issuer says of itself");
    expect(Says::Elsewhere(elsewhere.url.clone()), "is not followed");
    expect(Says::Other(elsewhere.url.clone()), "write that in --oidc");
    expect(
        Says::Other(format!("{}/", farm.issuer.url)),
        "write that in --oidc",
    );
    expect(Says::KeysAt(plain), "not to be had by https");
    expect(
        Says::KeysAt("file:///etc/passwd".into()),
        "not to be had by https",
    );
    expect(
        Says::KeysAt(format!("{}/none", farm.issuer.url)),
        "answers 404",
    );
    expect(Says::Huge(300 << 10), "more than 262144 bytes");
    farm.issuer
        .has_keys(vec![json!({"kty": "oct", "kid": "s", "k": "AAAA"})]);
    expect(Says::Well, "none of its keys");
    let many = (0..65).map(|number| Signer::ec(&format!("{number}")).jwk());
    farm.issuer.has_keys(many.collect());
    expect(Says::Well, "more than 64 keys");
    assert_eq!(elsewhere.count(), 0, "{:?}", elsewhere.asked());
    // Another authority than its own is not believed, nor are those of the system.
    let url = format!("{};farm;a=b", farm.issuer.url);
    let ca = elsewhere.ca.display().to_string();
    for flags in [&["--oidc", &url, "--oidc-ca", &ca][..], &["--oidc", &url]] {
        let checked = check(&[], flags);
        assert!(
            said(&checked).contains("--oidc-ca FILE"),
            "{}",
            said(&checked)
        );
    }
    let checked = check(&[], &["--oidc", &url, "--oidc-ca", "/nowhere"]);
    assert!(
        said(&checked).contains("of --oidc-ca cannot be read"),
        "{}",
        said(&checked)
    );
}

#[test]
fn an_issuer_without_a_required_claim_is_refused() {
    for (rule, why) in [
        ("https://ci.example.org;farm", "with a claim at least"),
        ("https://ci.example.org;farm;aud=farm", "aud does not"),
        ("http://ci.example.org;farm;a=b", "begin with https://"),
    ] {
        let checked = check(&[], &["--oidc", rule]);
        assert_eq!(checked.status.code(), Some(1), "{}", said(&checked));
        assert!(said(&checked).contains(why), "{}", said(&checked));
    }
}

/// The matrix of the table of routes, by this identity: who is not believed sees nothing, who is has what a token reads.
#[test]
fn the_matrix_of_who_gets_what_by_a_token_of_a_ci_system() {
    let farm = Farm::new();
    farm.lab.generate("cold", Shape::ManySmall, 100_000);
    // However long this takes.
    let settings = farm.settings().with_fault("issuer-apart-ms=3600000");
    let server = settings.start();
    let good = bearer(&farm.token());
    snapshot(&server, &good).expect(200);
    wait::until_true("it is in the cache", || {
        let head = server.fetch("HEAD", &lab::target("small"), &[&good]);
        head.head.status == 200
    });
    let forged = Signer::rsa("first").token(&farm.issuer.claims());
    let strangers = [
        (vec![], 401),
        (
            vec![farm.field_but(&json!({"repository_owner_id": "8"}))],
            404,
        ),
        (vec![farm.field_but(&json!({"aud": "farm2"}))], 404),
        (vec![farm.field_but(&json!({"exp": 1}))], 404),
        (vec![bearer(&forged)], 404),
        (
            vec![good.clone(), "Tarpon-Authorization: Bearer x".into()],
            404,
        ),
        // Its key is not there, and its issuer was asked a moment ago.
        (
            vec![bearer(&Signer::ec("k").token(&farm.issuer.claims()))],
            503,
        ),
    ];
    expect_strangers((&farm.lab, &server), &strangers);
    for row in TABLE {
        for method in methods(row) {
            let answer = ask(&server, method, &target(row, "test", "small"), &[&good]);
            let status = answer.head.status;
            let what = format!("{method} {:?}: {}", row.endpoint, answer.text());
            match row.need {
                Need::Names | Need::Admin => assert_eq!(status, 404, "{what}"),
                Need::Signature => assert_eq!(status, 401, "{what}"),
                Need::Nothing | Need::Counts => assert_eq!(status, 200, "{what}"),
                // There is no such part or commit, and the body is none.
                Need::Read => assert!(!matches!(status, 401 | 403 | 503), "{what}"),
            }
            if row.need == Need::Read {
                let control = answer.head.get("cache-control").unwrap_or_default();
                assert!(control.starts_with("private"), "{what}: {control}");
            }
        }
    }
}

/// Where the upstream's own permission decides, such a token is no right, and is sent to nobody.
#[test]
fn no_upstream_gets_a_token_of_a_ci_system() {
    let mut host = Host::new();
    let farm = Farm::of(std::mem::replace(&mut host.lab, new_lab()));
    let mut settings = host.settings();
    settings.arguments.extend(farm.flags());
    let server = settings.start();
    let commit = git::text(&farm.lab.upstream("private"), &["rev-parse", "main"]);
    let token = farm.token();
    let late = farm
        .signer
        .token(&farm.issuer.claims_but(&json!({"exp": 1})));
    let unsigned = token.rsplit_once('.').unwrap().0.to_owned();
    let pair = |pair: String| format!("Authorization: Basic {}", base64(&pair));
    let strangers = [
        Some(bearer(&token)),
        Some(pair(format!("x-access-token:{token}"))),
        Some(pair(format!("{token}:x"))),
        Some(bearer(&late)),
        Some(bearer(&unsigned)),
    ];
    expect_refusals(&server, &commit, &strangers, "private");
    assert_eq!(
        host.upstream.asked().len(),
        0,
        "{:?}",
        host.upstream.asked()
    );
    assert_eq!(host.questions(&server), 0);
    // What is said to this server alone is not said there, either.
    let own = bearer(&token).replace("Auth", "Tarpon-Auth");
    let answer = server.fetch("GET", &lab::target("private"), &[&own, &host.alice.field()]);
    answer.expect(200);
    for asked in host.upstream.asked() {
        let fields = format!("{:?}", asked.fields);
        assert!(!fields.contains(&unsigned), "{fields}");
    }
    let log = server.log();
    assert!(!log.contains(&unsigned), "{log}");
}
