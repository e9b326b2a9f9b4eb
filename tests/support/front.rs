//! What stands before a server as a proxy does: speaks TLS, has it below a path, asks who asks, sends requests
//! elsewhere, and writes down what it was asked.

use super::certificates::{Authority, Issued};
use super::relay::listen;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// TLS for `localhost` and `127.0.0.1`, by an authority; who connects has to show a certificate of `clients`.
pub fn tls_of(authority: &Authority, clients: Option<&Authority>) -> Arc<ServerConfig> {
    tls_as(&own_of(authority), clients)
}

fn own_of(authority: &Authority) -> Issued {
    authority.issue("front", &["localhost", "127.0.0.1"], 7)
}

/// The same with this certificate.
pub fn tls_as(own: &Issued, clients: Option<&Authority>) -> Arc<ServerConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone());
    let builder = builder.with_safe_default_protocol_versions();
    let builder = builder.unwrap_or_else(|e| panic!("{e}"));
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(clients) => {
            let mut roots = RootCertStore::empty();
            let added = roots.add(certificate_of(&clients.file));
            added.unwrap_or_else(|e| panic!("{e}"));
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
            let verifier = verifier.build().unwrap_or_else(|e| panic!("{e}"));
            builder.with_client_cert_verifier(verifier)
        }
    };
    let key = PrivateKeyDer::from_pem_file(&own.key).unwrap_or_else(|e| panic!("{e}"));
    let config = builder.with_single_cert(vec![certificate_of(&own.cert)], key);
    Arc::new(config.unwrap_or_else(|e| panic!("{e}")))
}

/// TLS by the first authority, and once the flag is set by the second one.
pub fn tls_that_turns(first: &Authority, then: &Authority) -> (Arc<ServerConfig>, Arc<AtomicBool>) {
    let turned = Arc::new(AtomicBool::new(false));
    let keys = [first, then].map(|authority| {
        let own = own_of(authority);
        let key = PrivateKeyDer::from_pem_file(&own.key).unwrap_or_else(|e| panic!("{e}"));
        let key = any_supported_type(&key).unwrap_or_else(|e| panic!("{e}"));
        Arc::new(CertifiedKey::new(vec![certificate_of(&own.cert)], key))
    });
    let turns = Turns {
        keys,
        turned: turned.clone(),
    };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder =
        ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.unwrap_or_else(|e| panic!("{e}"));
    let mut config = builder
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(turns));
    // Who has been there before must look at the certificate again.
    config.send_tls13_tickets = 0;
    (Arc::new(config), turned)
}

#[derive(Debug)]
struct Turns {
    keys: [Arc<CertifiedKey>; 2],
    turned: Arc<AtomicBool>,
}

impl ResolvesServerCert for Turns {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let at = usize::from(self.turned.load(Ordering::Relaxed));
        self.keys.get(at).cloned()
    }
}

fn certificate_of(path: &Path) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// What a front does with a request.
pub enum Does {
    /// Passes it on with this target.
    Passes(String),
    /// Answers so itself.
    Says(Vec<u8>),
    /// The same, and over TLS says nothing of the end.
    Breaks(Vec<u8>),
}

/// A request's head, as it came.
#[derive(Clone, Debug)]
pub struct Asked {
    pub text: String,
}

impl Asked {
    pub fn target(&self) -> &str {
        self.text.split(' ').nth(1).unwrap_or_default()
    }

    /// The value of a header; `name` in lower case.
    pub fn get(&self, name: &str) -> Option<&str> {
        let mut pairs = self.text.lines().filter_map(|line| line.split_once(": "));
        let found = pairs.find(|(found, _)| found.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value)
    }
}

/// A front that runs until the test ends.
pub struct Front {
    pub address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Front {
    /// Before `server`; `does` says what it does with each request.
    pub fn start(
        server: SocketAddr,
        tls: Option<Arc<ServerConfig>>,
        does: impl Fn(&Asked) -> Does + Send + Sync + 'static,
    ) -> Front {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let notes = asked.clone();
        let serve = move |socket: &TcpStream| -> io::Result<()> {
            let mut socket = socket.try_clone()?;
            let Some(tls) = &tls else {
                return serve_one(&mut socket, server, &notes, &does).map(|_| ());
            };
            let session = ServerConnection::new(tls.clone()).map_err(io::Error::other)?;
            let mut stream = StreamOwned::new(session, socket);
            if serve_one(&mut stream, server, &notes, &does)? {
                stream.conn.send_close_notify();
            }
            stream.flush()
        };
        let address = listen(move |socket| drop(serve(socket)));
        Front { address, asked }
    }

    /// One that asks for a header and passes on what has it.
    pub fn asking(server: SocketAddr, tls: Option<Arc<ServerConfig>>, wanted: &str) -> Front {
        let wanted = wanted.to_owned();
        Front::start(server, tls, move |asked| {
            match asked.get("authorization") == Some(&wanted) {
                true => Does::Passes(asked.target().to_owned()),
                false => Does::Says(answer(
                    "401 Unauthorized",
                    "WWW-Authenticate: Basic\r\n",
                    b"who are you?\n",
                )),
            }
        })
    }

    /// `https://localhost:PORT`.
    pub fn https(&self) -> String {
        format!("https://localhost:{}", self.address.port())
    }

    /// `http://localhost:PORT`.
    pub fn http(&self) -> String {
        format!("http://localhost:{}", self.address.port())
    }

    /// All that was asked so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap_or_else(|p| p.into_inner()).clone()
    }
}

/// A whole answer.
pub fn answer(status: &str, fields: &str, body: &[u8]) -> Vec<u8> {
    let len = body.len();
    let head =
        format!("HTTP/1.1 {status}\r\nContent-Length: {len}\r\nConnection: close\r\n{fields}\r\n");
    [head.as_bytes(), body].concat()
}

/// Serves one request; whether it ends as it should.
fn serve_one(
    client: &mut (impl Read + Write),
    server: SocketAddr,
    notes: &Mutex<Vec<Asked>>,
    does: &(dyn Fn(&Asked) -> Does + Send + Sync),
) -> io::Result<bool> {
    let mut came = Vec::new();
    let end = loop {
        if let Some(at) = came.windows(4).position(|w| w == b"\r\n\r\n") {
            break at + 4;
        }
        let mut piece = [0; 4096];
        match client.read(&mut piece)? {
            0 => return Ok(true),
            got => came.extend_from_slice(&piece[..got]),
        }
    };
    let mut body = came.split_off(end);
    let asked = Asked {
        text: String::from_utf8_lossy(&came).into_owned(),
    };
    let length = asked.get("content-length").and_then(|len| len.parse().ok());
    let mut rest = vec![0; length.unwrap_or(0_usize).saturating_sub(body.len())];
    client.read_exact(&mut rest)?;
    body.extend_from_slice(&rest);
    notes
        .lock()
        .unwrap_or_else(|p| p.into_inner())
        .push(asked.clone());
    let target = match does(&asked) {
        Does::Passes(target) => target,
        Does::Says(answer) => return client.write_all(&answer).map(|()| true),
        Does::Breaks(answer) => return client.write_all(&answer).map(|()| false),
    };
    let head = asked.text.replacen(asked.target(), &target, 1);
    let head = head.replacen("\r\n", "\r\nConnection: close\r\n", 1);
    let mut upstream = TcpStream::connect(server)?;
    upstream.write_all(&[head.as_bytes(), &body].concat())?;
    io::copy(&mut upstream, client)?;
    Ok(true)
}
