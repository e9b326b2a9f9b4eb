//! Whom the client believes to be the server, and what it shows of itself: the settings of rustls, from files.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use zeroize::Zeroizing;

use super::error::RestoreError;
use super::url::Server;
use crate::limits::PEM_BYTES_MAX;

/// What OpenSSL, and so curl and git, read their roots from where it is set.
const ROOTS_VARIABLE: &str = "SSL_CERT_FILE";
/// All that is spoken.
const ALPN: &[u8] = b"http/1.1";

/// Files that say whom to believe, and who this is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Files {
    /// The roots, in the place of the system's.
    pub roots: Option<PathBuf>,
    pub certificate: Option<PathBuf>,
    /// In the certificate's file if there is none.
    pub key: Option<PathBuf>,
}

impl Files {
    /// As given, with what the environment says where nothing is.
    pub(super) fn new(
        roots: Option<&Path>,
        certificate: Option<&Path>,
        key: Option<&Path>,
    ) -> Result<Files, RestoreError> {
        let given = |path: Option<&Path>| path.map(std::path::absolute).transpose();
        let environments = || std::env::var_os(ROOTS_VARIABLE).filter(|path| !path.is_empty());
        let wrong = |e: io::Error| RestoreError::Usage(format!("a file has no path: {e}"));
        Ok(Files {
            roots: given(roots)
                .map_err(wrong)?
                .or_else(|| environments().map(PathBuf::from)),
            certificate: given(certificate).map_err(wrong)?,
            key: given(key.or(certificate)).map_err(wrong)?,
        })
    }

    /// The same for git, as its settings name them (git-config(1), `http.*`).
    pub(super) fn settings(&self) -> Vec<(&'static str, OsString)> {
        let named = [
            ("sslCAInfo", &self.roots),
            ("sslCert", &self.certificate),
            ("sslKey", &self.key),
        ];
        let given = named
            .into_iter()
            .filter_map(|(key, path)| Some((key, path.clone()?.into())));
        given.collect()
    }
}

/// How to speak TLS with a server.
#[derive(Debug, Clone)]
pub(super) struct Tls {
    pub config: Arc<ClientConfig>,
    pub name: ServerName<'static>,
    /// What git has to speak it with.
    pub files: Files,
}

/// What computes.
fn provider() -> CryptoProvider {
    rustls::crypto::aws_lc_rs::default_provider()
}

impl Tls {
    /// For `server`, if TLS is spoken with it.
    pub(super) fn new(server: &Server, files: Files) -> Result<Option<Tls>, RestoreError> {
        if !server.is_tls {
            return Ok(None);
        }
        let unfit = |e: rustls::Error| RestoreError::Usage(format!("TLS: {e}"));
        let name = ServerName::try_from(server.host().to_owned());
        let name =
            name.map_err(|e| RestoreError::Usage(format!("--server: {}: {e}", server.host())))?;
        let builder = ClientConfig::builder_with_provider(Arc::new(provider()))
            .with_safe_default_protocol_versions()
            .map_err(unfit)?
            .with_root_certificates(roots(files.roots.as_deref())?);
        let mut config = match (&files.certificate, &files.key) {
            (Some(certificate), Some(key)) => {
                let chain = certificates(certificate)?;
                let pair = builder.with_client_auth_cert(chain, private_key(key)?);
                pair.map_err(|e| wrong(certificate, &format!("with its key: {e}")))?
            }
            _ => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![ALPN.to_vec()];
        let config = Arc::new(config);
        Ok(Some(Tls {
            config,
            name,
            files,
        }))
    }
}

fn wrong(path: &Path, why: &str) -> RestoreError {
    RestoreError::Usage(format!("{}: {why}", path.display()))
}

/// Whom to believe: those of the file, or else of the system.
fn roots(file: Option<&Path>) -> Result<RootCertStore, RestoreError> {
    let mut store = RootCertStore::empty();
    if let Some(path) = file {
        for root in certificates(path)? {
            let added = store.add(root);
            added.map_err(|e| wrong(path, &format!("a certificate of it is no root: {e}")))?;
        }
        return Ok(store);
    }
    let systems = rustls_native_certs::load_native_certs();
    // Some of a system's may be of a kind that nobody knows.
    store.add_parsable_certificates(systems.certs);
    match store.is_empty() {
        false => Ok(store),
        true => {
            let why = systems
                .errors
                .first()
                .map_or_else(String::new, |e| format!(" ({e})"));
            Err(RestoreError::Usage(format!(
                "the system has no certificates of authorities to check a server with{why}: install \
                 ca-certificates, or name a file with --cacert"
            )))
        }
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, RestoreError> {
    let text = read(path)?;
    let parsed: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match parsed {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(wrong(path, "it has no certificate (PEM)")),
        Err(e) => Err(wrong(path, &format!("no PEM: {e}"))),
    }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, RestoreError> {
    let key = PrivateKeyDer::from_pem_slice(&read(path)?);
    key.map_err(|e| {
        let why = format!("it has no key (PEM, without a passphrase): {e}");
        wrong(path, &why)
    })
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, RestoreError> {
    let mut text = Zeroizing::new(Vec::new());
    let file = File::open(path).map_err(|e| wrong(path, &e.to_string()))?;
    let read = file.take(PEM_BYTES_MAX + 1).read_to_end(&mut text);
    match read.map_err(|e| wrong(path, &e.to_string()))? as u64 > PEM_BYTES_MAX {
        true => Err(wrong(path, "it is too large")),
        false => Ok(text),
    }
}
