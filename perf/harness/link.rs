//! A client that speaks TLS, with one suite and in as few system calls as it can.

use super::support::certificates::Authority;
use rustls::crypto::aws_lc_rs::{self, kx_group};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{
    CipherSuite, ClientConfig, ClientConnection, HandshakeKind, ProtocolVersion, RootCertStore,
};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

/// The one suite.
const SUITE: CipherSuite = CipherSuite::TLS13_AES_128_GCM_SHA256;
/// Bytes that are read at a time.
const READ_BYTES: usize = 256 << 10;
/// Longest silence of a server.
const SILENCE: Duration = Duration::from_secs(60);

/// By what clients connect that believe `authority`; they come back with a ticket if `resumes`.
pub fn config(authority: &Authority, resumes: bool) -> Arc<ClientConfig> {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites.retain(|one| one.suite() == SUITE);
    provider.kx_groups = vec![kx_group::X25519];
    let root = CertificateDer::from_pem_file(&authority.file);
    let mut roots = RootCertStore::empty();
    let added = roots.add(root.unwrap_or_else(|e| panic!("the root: {e}")));
    added.unwrap_or_else(|e| panic!("the root: {e}"));
    let builder = ClientConfig::builder_with_provider(Arc::new(provider));
    let builder = builder.with_protocol_versions(&[&rustls::version::TLS13]);
    let builder = builder.unwrap_or_else(|e| panic!("TLS: {e}"));
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    if !resumes {
        config.resumption = rustls::client::Resumption::disabled();
    }
    Arc::new(config)
}

/// A connection.
pub struct Link {
    connection: ClientConnection,
    stream: TcpStream,
    /// What was read and not opened.
    wire: Vec<u8>,
    /// What was opened.
    content: Vec<u8>,
}

/// What came of a request.
#[derive(Debug, Clone, Copy)]
pub struct Got {
    /// Bytes of the body.
    pub bytes: u64,
    /// How the connection's handshake went.
    pub is_resumed: bool,
}

impl Link {
    /// Connects and shakes hands.
    pub fn open(address: SocketAddr, config: &Arc<ClientConfig>) -> io::Result<Link> {
        let mut link = Link::half_open(address, config)?;
        while link.connection.is_handshaking() {
            link.write()?;
            if link.connection.is_handshaking() && !link.read()? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        link.write()?;
        assert_eq!(
            link.connection.protocol_version(),
            Some(ProtocolVersion::TLSv1_3)
        );
        Ok(link)
    }

    fn half_open(address: SocketAddr, config: &Arc<ClientConfig>) -> io::Result<Link> {
        let name = ServerName::from(address.ip());
        let connection = ClientConnection::new(config.clone(), name).map_err(io::Error::other)?;
        let stream = TcpStream::connect_timeout(&address, SILENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SILENCE))?;
        Ok(Link {
            connection,
            stream,
            wire: Vec::new(),
            content: Vec::new(),
        })
    }

    /// Connects and sends half of what it would begin with.
    pub fn half_hello(address: SocketAddr, config: &Arc<ClientConfig>) -> io::Result<Link> {
        let mut link = Link::half_open(address, config)?;
        let mut hello = Vec::new();
        link.connection.write_tls(&mut hello)?;
        link.stream.write_all(&hello[..hello.len() / 2])?;
        Ok(link)
    }

    /// Sends `bytes` as they are.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.connection.writer().write_all(bytes)?;
        self.write()
    }

    fn write(&mut self) -> io::Result<()> {
        while self.connection.wants_write() {
            self.connection.write_tls(&mut self.stream)?;
        }
        Ok(())
    }

    /// Reads once, and opens all of it. Whether it was not the end.
    fn read(&mut self) -> io::Result<bool> {
        self.wire.resize(READ_BYTES, 0);
        let count = self.stream.read(&mut self.wire)?;
        let mut rest = &self.wire[..count];
        while !rest.is_empty() {
            self.connection.read_tls(&mut rest)?;
            let state = self.connection.process_new_packets();
            let there = state.map_err(io::Error::other)?.plaintext_bytes_to_read();
            let had = self.content.len();
            self.content.resize(had + there, 0);
            self.connection
                .reader()
                .read_exact(&mut self.content[had..])?;
        }
        Ok(count > 0)
    }

    /// `GET target`; panics unless the answer is a whole 200 of known length.
    pub fn get(&mut self, target: &str) -> io::Result<Got> {
        let request = format!("GET {target} HTTP/1.1\r\nHost: bench\r\n\r\n");
        self.content.clear();
        self.send(request.as_bytes())?;
        let end = loop {
            let end = self.content.windows(4).position(|four| four == b"\r\n\r\n");
            match end {
                Some(end) => break end + 4,
                None if self.read()? => {}
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        };
        let head = String::from_utf8_lossy(&self.content[..end]).to_lowercase();
        assert!(head.starts_with("http/1.1 200"), "{head}");
        let length = head.split("content-length: ").nth(1);
        let length = length.and_then(|rest| rest.split("\r\n").next()?.parse().ok());
        let bytes: u64 = length.unwrap_or_else(|| panic!("no length: {head}"));
        let mut got = (self.content.len() - end) as u64;
        while got < bytes {
            self.content.clear();
            if !self.read()? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            got += self.content.len() as u64;
        }
        Ok(Got {
            bytes: got,
            is_resumed: self.connection.handshake_kind() == Some(HandshakeKind::Resumed),
        })
    }

    /// Gives back what it holds; the connection stays.
    pub fn be_idle(&mut self) {
        (self.wire, self.content) = (Vec::new(), Vec::new());
    }
}
