//! What listeners show of themselves and ask of clients. All of it is replaced at once when the files are read
//! anew; connections that are there go on as they are.

use std::fmt;
use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::crypto::aws_lc_rs::{self, Ticketer};
use rustls::server::{ClientHello, NoServerSessionStorage, ProducesTickets, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys};
use webpki::EndEntityCert;
use zeroize::Zeroize;

use super::clients::Clients;
use super::files::{self, Named, TlsError};
use super::worth::Worth;
use crate::config::{Pair, TlsFiles};
use crate::io::certificate;

/// What all TLS listeners of all cores share.
pub struct Keys {
    from: TlsFiles,
    provider: Arc<CryptoProvider>,
    /// What clients come back with. The same for as long as the process lives, so that they can.
    tickets: Arc<dyn ProducesTickets>,
    now: ArcSwap<Terms>,
}

/// By what a connection begins.
#[derive(Debug)]
pub(crate) struct Terms {
    pub(super) server: Arc<ServerConfig>,
    /// `None` if clients are not asked for certificates.
    pub(super) clients: Option<Arc<Clients>>,
    /// What the certificates are worth, in order.
    worths: Vec<Worth>,
    /// Others have another.
    pub(super) number: u64,
}

impl Terms {
    /// The last second of each certificate, in order.
    pub(crate) fn ends_unix_s(&self) -> Vec<u64> {
        self.worths.iter().map(|worth| worth.ends_unix_s).collect()
    }

    /// What clients find wrong with them now.
    pub(crate) fn complaints(&self, now_unix_s: u64) -> Vec<String> {
        let complaints = self.worths.iter();
        complaints
            .filter_map(|worth| worth.complaint(now_unix_s))
            .collect()
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys")
            .field("from", &self.from)
            .finish_non_exhaustive()
    }
}

impl Keys {
    /// Reads the files. To be called where it may wait for the disk.
    pub fn from_files(from: TlsFiles) -> Result<Keys, TlsError> {
        let set_up = |e: Error| TlsError::SetUp(certificate::why(&e));
        let provider = Arc::new(aws_lc_rs::default_provider());
        let tickets = Ticketer::new().map_err(set_up)?;
        let terms = read_terms(&from, &provider, &tickets, 0)?;
        let now = ArcSwap::from_pointee(terms);
        Ok(Keys {
            from,
            provider,
            tickets,
            now,
        })
    }

    /// Reads the files anew; nothing changes. To be called where it may wait for the disk.
    pub(crate) fn anew_from_files(&self) -> Result<Terms, TlsError> {
        let number = self.now.load().number + 1;
        read_terms(&self.from, &self.provider, &self.tickets, number)
    }

    /// Has connections begin by these terms from now on, and looks at the client certificates of the others once
    /// more. One thread does so at a time.
    pub(crate) fn take(&self, terms: Terms) {
        self.now.store(Arc::new(terms));
    }

    /// Those of now.
    pub(crate) fn terms(&self) -> Guard<Arc<Terms>> {
        self.now.load()
    }
}

fn read_terms(
    from: &TlsFiles,
    provider: &Arc<CryptoProvider>,
    tickets: &Arc<dyn ProducesTickets>,
    number: u64,
) -> Result<Terms, TlsError> {
    let set_up = |e: Error| TlsError::SetUp(certificate::why(&e));
    let pairs = from
        .pairs
        .iter()
        .map(|pair| Shown::from_files(pair, provider));
    let pairs = pairs.collect::<Result<Vec<_>, _>>()?;
    let worths = pairs.iter().map(|shown| shown.worth.clone()).collect();
    let pairs = Pairs(pairs);
    let clients = from
        .clients
        .as_ref()
        .map(|from| Clients::from_files(from, provider))
        .transpose()?;
    let clients = clients.map(Arc::new);
    let server = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(set_up)?;
    let server = match clients.clone() {
        Some(clients) => server.with_client_cert_verifier(clients),
        None => server.with_no_client_auth(),
    };
    let mut server = server.with_cert_resolver(Arc::new(pairs));
    server.alpn_protocols = vec![b"http/1.1".to_vec()];
    server.session_storage = Arc::new(NoServerSessionStorage {});
    if clients.is_none() {
        // Who comes back with a ticket shows no certificate: it would be believed for as long as that is good.
        server.ticketer = tickets.clone();
    } else {
        server.send_tls13_tickets = 0;
    }
    Ok(Terms {
        server: Arc::new(server),
        clients,
        worths,
        number,
    })
}

/// A certificate and its key, with the names that it is for.
#[derive(Debug)]
struct Shown {
    key: Arc<CertifiedKey>,
    names: Vec<String>,
    worth: Worth,
}

impl Shown {
    fn from_files(pair: &Pair, provider: &CryptoProvider) -> Result<Shown, TlsError> {
        let (cert, key) = (Named::cert(&pair.cert), Named::key(&pair.key));
        let chain = files::certificates(&cert)?;
        let worth = Worth::of(&cert, &chain[0], provider)?;
        let names = {
            let own = EndEntityCert::try_from(&chain[0]);
            let own = own.map_err(|e| cert.unusable(certificate::why_unread(&e)))?;
            own.valid_dns_names().map(str::to_ascii_lowercase).collect()
        };
        let loaded = {
            let mut der = files::key(&key)?;
            let loaded = any_supported_type(&der);
            der.zeroize();
            loaded
        };
        let certified = CertifiedKey::new(
            chain,
            loaded.map_err(|e| key.unusable(certificate::why(&e)))?,
        );
        match certified.keys_match() {
            Ok(()) => Ok(Shown {
                key: Arc::new(certified),
                names,
                worth,
            }),
            Err(Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
                Err(TlsError::NoPair { cert, key })
            }
            Err(e) => Err(cert.unusable(certificate::why(&e))),
        }
    }

    /// Whether it is for a name in lower case: its own, or one label more than what follows a `*.`.
    fn is_for(&self, name: &str) -> bool {
        let parent = name.split_once('.').map(|(_, parent)| parent);
        self.names.iter().any(|own| match own.strip_prefix("*.") {
            Some(own) => parent == Some(own),
            None => own == name,
        })
    }
}

/// Which pair a client is shown.
#[derive(Debug)]
struct Pairs(Vec<Shown>);

impl ResolvesServerCert for Pairs {
    /// The first that is for the name and that the client can check, else the first that it can check.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().map(str::to_ascii_lowercase);
        let checked = |shown: &&Shown| {
            let scheme = shown.key.key.choose_scheme(hello.signature_schemes());
            scheme.is_some()
        };
        let named = self
            .0
            .iter()
            .filter(|shown| name.as_deref().is_some_and(|name| shown.is_for(name)));
        let chosen = named.chain(&self.0).find(checked);
        chosen.map(|shown| shown.key.clone())
    }
}
