//! An issuer of tokens as CI systems have one, over https: it says what it is, gives its keys, and can answer wrong.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
};
use base64ct::{Base64UrlUnpadded, Encoding};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};

use super::certificates::Authority;
use super::{relay, wait};

fn encode(bytes: &[u8]) -> String {
    Base64UrlUnpadded::encode_string(bytes)
}

/// Seconds since 1970.
pub fn now_s() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or_else(|e| panic!("{e}")).as_secs()
}

/// A pair of keys.
pub enum Pair {
    Rsa(RsaKeyPair),
    Ec(EcdsaKeyPair),
}

/// A pair of keys with a name.
pub struct Signer {
    pub kid: String,
    pub pair: Pair,
}

impl Signer {
    pub fn rsa(kid: &str) -> Signer {
        let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap_or_else(|e| panic!("{e}"));
        Signer {
            kid: kid.to_owned(),
            pair: Pair::Rsa(pair),
        }
    }

    pub fn ec(kid: &str) -> Signer {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING);
        Signer {
            kid: kid.to_owned(),
            pair: Pair::Ec(pair.unwrap_or_else(|e| panic!("{e}"))),
        }
    }

    /// The public half, as it is written somewhere.
    pub fn public(&self) -> Vec<u8> {
        match &self.pair {
            Pair::Rsa(pair) => pair.public_key().as_ref().to_vec(),
            Pair::Ec(pair) => pair.public_key().as_ref().to_vec(),
        }
    }

    /// The modulus: behind the head of a sequence and of its first number, with the zero in front of it.
    pub fn modulus(&self) -> Vec<u8> {
        self.public()[9..9 + 256].to_vec()
    }

    pub fn jwk(&self) -> Value {
        match &self.pair {
            Pair::Rsa(_) => json!({
                "kty": "RSA", "use": "sig", "alg": "RS256", "kid": self.kid, "e": "AQAB",
                "n": encode(&self.modulus()),
            }),
            Pair::Ec(pair) => {
                let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
                let (x, y) = (encode(x), encode(y));
                json!({"kty": "EC", "crv": "P-256", "kid": self.kid, "x": x, "y": y})
            }
        }
    }

    pub fn algorithm(&self) -> &'static str {
        match &self.pair {
            Pair::Rsa(_) => "RS256",
            Pair::Ec(_) => "ES256",
        }
    }

    /// A token with these claims.
    pub fn token(&self, claims: &Value) -> String {
        self.token_of(&json!({"typ": "JWT"}), claims)
    }

    /// The same, whose header says this as well.
    pub fn token_of(&self, more: &Value, claims: &Value) -> String {
        let mut header = json!({"alg": self.algorithm(), "kid": self.kid});
        for (name, value) in more.as_object().into_iter().flatten() {
            header[name] = value.clone();
        }
        let signed = unsigned(&header, claims);
        let signature = self.sign(signed.as_bytes());
        format!("{signed}.{}", encode(&signature))
    }

    fn sign(&self, text: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.pair {
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                let signed = pair.sign(&RSA_PKCS1_SHA256, &random, text, &mut signature);
                signed.unwrap_or_else(|e| panic!("{e}"));
                signature
            }
            Pair::Ec(pair) => {
                let signed = pair.sign(&random, text);
                signed.unwrap_or_else(|e| panic!("{e}")).as_ref().to_vec()
            }
        }
    }
}

/// Header and claims, as they are signed.
pub fn unsigned(header: &Value, claims: &Value) -> String {
    let part = |value: &Value| encode(value.to_string().as_bytes());
    format!("{}.{}", part(header), part(claims))
}

/// A token that is signed with a secret which everybody knows: a public key.
pub fn by_hmac(secret: &[u8], kid: &str, claims: &Value) -> String {
    use hmac::{Hmac, Mac};
    let signed = unsigned(&json!({"alg": "HS256", "kid": kid}), claims);
    let mac = Hmac::<sha2::Sha256>::new_from_slice(secret);
    let mut mac = mac.unwrap_or_else(|e| panic!("{e}"));
    mac.update(signed.as_bytes());
    format!("{signed}.{}", encode(&mac.finalize().into_bytes()))
}

/// How it answers.
#[derive(Debug, Clone)]
pub enum Says {
    /// As it should.
    Well,
    /// Not at all.
    Nothing,
    /// With a redirect to below there.
    Elsewhere(String),
    /// With another name of itself.
    Other(String),
    /// That its keys are there.
    KeysAt(String),
    /// With keys, and this many bytes of blanks.
    Huge(usize),
    /// With a page for people.
    Page,
}

struct State {
    keys: Vec<Value>,
    says: Says,
    asked: Vec<String>,
    /// What it gives to whoever asks for a token of a job, but for the audience.
    job: Option<(Arc<Signer>, Value)>,
}

/// See the module's text. It runs until the test ends.
pub struct Issuer {
    pub url: String,
    /// The authority that has signed its certificate.
    pub ca: PathBuf,
    state: Arc<Mutex<State>>,
}

impl Issuer {
    /// One with this key, which keeps its files in a directory.
    pub fn new(directory: &Path, name: &str, signer: &Signer) -> Issuer {
        let authority = Authority::new(directory, &format!("{name}-ca"));
        let pair = authority.issue(name, &["localhost"], 1);
        let cert = CertificateDer::from_pem_file(&pair.cert).unwrap_or_else(|e| panic!("{e}"));
        let key = PrivateKeyDer::from_pem_file(&pair.key).unwrap_or_else(|e| panic!("{e}"));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .and_then(|builder| {
                let builder = builder.with_no_client_auth();
                builder.with_single_cert(vec![cert], key)
            });
        let config = Arc::new(config.unwrap_or_else(|e| panic!("{e}")));
        let state = Arc::new(Mutex::new(State {
            keys: vec![signer.jwk()],
            says: Says::Well,
            asked: Vec::new(),
            job: None,
        }));
        let serving = state.clone();
        let address = relay::listen(move |socket| serve(socket, &config, &serving));
        Issuer {
            url: format!("https://localhost:{}", address.port()),
            ca: authority.file,
            state,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| panic!("{e}"))
    }

    /// From now on it has these keys.
    pub fn has(&self, signers: &[&Signer]) {
        self.state().keys = signers.iter().map(|signer| signer.jwk()).collect();
    }

    /// The same, whatever they are.
    pub fn has_keys(&self, keys: Vec<Value>) {
        self.state().keys = keys;
    }

    /// From now on it answers so.
    pub fn says(&self, says: Says) {
        self.state().says = says;
    }

    /// What it was asked for.
    pub fn asked(&self) -> Vec<String> {
        self.state().asked.clone()
    }

    /// How often it was asked for its keys, or what it is.
    pub fn count(&self) -> usize {
        self.state().asked.len()
    }

    /// Waits until it was asked for its keys so often.
    pub fn wait_asked(&self, count: usize) {
        wait::until_true("the issuer is asked for its keys", || {
            let asked = self.asked();
            asked.iter().filter(|path| *path == "/keys").count() >= count
        });
    }

    /// From now on it gives a token with these claims to a job that asks for it (`GET /token?…&audience=…`).
    pub fn gives(&self, signer: Arc<Signer>, claims: Value) {
        self.state().job = Some((signer, claims));
    }

    /// The claims of a job that may read, for the audience `farm`.
    pub fn claims(&self) -> Value {
        let now = now_s();
        json!({
            "iss": self.url, "aud": "farm", "sub": "repo:acme/app:ref:refs/heads/main",
            "repository_owner_id": "7", "iat": now, "nbf": now, "exp": now + 3600,
        })
    }

    /// The same but for some: null for those that are left out.
    pub fn claims_but(&self, but: &Value) -> Value {
        let mut claims = self.claims();
        for (name, value) in but.as_object().into_iter().flatten() {
            match value {
                Value::Null => drop(claims.as_object_mut().map(|claims| claims.remove(name))),
                value => claims[name] = value.clone(),
            }
        }
        claims
    }
}

fn serve(socket: &TcpStream, config: &Arc<ServerConfig>, state: &Mutex<State>) {
    // Whoever gives up on it, or does not believe it, is the test's to notice.
    let _ = try_serve(socket, config, state);
}

fn try_serve(
    socket: &TcpStream,
    config: &Arc<ServerConfig>,
    state: &Mutex<State>,
) -> std::io::Result<()> {
    let connection = ServerConnection::new(config.clone()).map_err(std::io::Error::other)?;
    let mut stream = StreamOwned::new(connection, socket.try_clone()?);
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let target = head.split(' ').nth(1).unwrap_or_default();
    let host = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("host").then(|| value.to_owned())
    });
    let url = format!("https://{}", host.unwrap_or_default());
    let Some((status, fields, body)) = answer(target, &url, state) else {
        return Ok(());
    };
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status}\r\n{fields}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )?;
    stream.conn.send_close_notify();
    stream.flush()
}

/// Status, further fields and content; nothing where it does not answer.
fn answer(target: &str, url: &str, state: &Mutex<State>) -> Option<(&'static str, String, String)> {
    let mut state = state.lock().unwrap_or_else(|e| panic!("{e}"));
    let ok = |body: String| Some(("200 OK", String::new(), body));
    if let Some(query) = target.strip_prefix("/token?") {
        let audience = query.rsplit_once("audience=")?.1;
        let (signer, claims) = state.job.as_ref()?;
        let mut claims = claims.clone();
        claims["aud"] = json!(audience);
        return ok(json!({"count": 9, "value": signer.token(&claims)}).to_string());
    }
    state.asked.push(target.to_owned());
    let itself = json!({"issuer": url, "jwks_uri": format!("{url}/keys")});
    let says = state.says.clone();
    match (says, target) {
        (Says::Nothing, _) => None,
        (Says::Elsewhere(to), _) => Some((
            "302 Found",
            format!("Location: {to}{target}\r\n"),
            String::new(),
        )),
        (Says::Page, _) => ok("<html>welcome</html>".to_owned()),
        (Says::Other(name), "/.well-known/openid-configuration") => {
            ok(json!({"issuer": name, "jwks_uri": format!("{url}/keys")}).to_string())
        }
        (Says::KeysAt(at), "/.well-known/openid-configuration") => {
            ok(json!({"issuer": url, "jwks_uri": at}).to_string())
        }
        (_, "/.well-known/openid-configuration") => ok(itself.to_string()),
        (says, "/keys") => {
            let blanks = match says {
                Says::Huge(blanks) => " ".repeat(blanks),
                _ => String::new(),
            };
            ok(format!("{}{blanks}", json!({"keys": state.keys})))
        }
        _ => Some(("404 Not Found", String::new(), String::new())),
    }
}
