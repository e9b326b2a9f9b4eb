//! Whom the client believes to be the server, and what it shows of itself: the settings of rustls, from files.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64ct::{Base64, Encoding};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, InconsistentKeys, RootCertStore};
use zeroize::Zeroizing;

use super::distrust::unusable;
use super::error::{RestoreError, failed};
use super::url::Server;
use crate::limits::PEM_BYTES_MAX;

/// What OpenSSL, and so curl and git, read their roots from where it is set.
const ROOTS_VARIABLE: &str = "SSL_CERT_FILE";
/// The directory beside a repository in the making that has what git is to believe.
pub(super) const TRUST: &str = "trust";
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
}

/// How to speak TLS with a server.
#[derive(Debug, Clone)]
pub(super) struct Tls {
    pub config: Arc<ClientConfig>,
    pub name: ServerName<'static>,
    /// Whom to believe: what git is to believe, too.
    roots: Vec<CertificateDer<'static>>,
    files: Files,
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
        let (store, roots) = roots(files.roots.as_deref())?;
        let builder = ClientConfig::builder_with_provider(Arc::new(provider()))
            .with_safe_default_protocol_versions()
            .map_err(unfit)?
            .with_root_certificates(store);
        let mut config = match (&files.certificate, &files.key) {
            (Some(certificate), Some(key)) => {
                let chain = certificates(certificate)?;
                let own = private_key(key)?;
                let unfit = |e: rustls::Error| wrong(certificate, &unusable(&e));
                let pair = any_supported_type(&own).map(|own| CertifiedKey::new(chain, own));
                let pair = pair.map_err(unfit)?;
                // Where that cannot be known the server says so.
                match pair.keys_match() {
                    Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
                    Err(e) => return Err(unfit(e)),
                }
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(pair)))
            }
            _ => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![ALPN.to_vec()];
        let config = Arc::new(config);
        Ok(Some(Tls {
            config,
            name,
            roots,
            files,
        }))
    }

    /// Whether a certificate of one's own is shown.
    pub(super) fn shows_own(&self) -> bool {
        self.files.certificate.is_some()
    }

    /// What has git believe the same and nobody else, as its settings name it (git-config(1), `http.*`), with files in
    /// the directory `at`, which is made. Libraries that git speaks TLS with believe a directory of the system's
    /// besides the file that is named, unless another is.
    pub(super) fn settings(
        &self,
        at: &Path,
    ) -> Result<Vec<(&'static str, OsString)>, RestoreError> {
        let (file, directory) = (at.join("roots.pem"), at.join("none"));
        std::fs::create_dir_all(&directory).map_err(failed("create", &directory))?;
        let roots = self.roots.iter().map(|root| pem(root));
        std::fs::write(&file, String::from_iter(roots)).map_err(failed("write", &file))?;
        let mut all = vec![("sslCAInfo", file.into()), ("sslCAPath", directory.into())];
        let Files {
            certificate, key, ..
        } = &self.files;
        for (name, path) in [("sslCert", certificate), ("sslKey", key)] {
            all.extend(path.clone().map(|path| (name, path.into())));
        }
        Ok(all)
    }
}

/// RFC 7468, section 5.
fn pem(certificate: &[u8]) -> String {
    const LINE: usize = 64;
    let text = Base64::encode_string(certificate);
    let mut out = String::from("-----BEGIN CERTIFICATE-----\n");
    for at in (0..text.len()).step_by(LINE) {
        out.push_str(&text[at..text.len().min(at + LINE)]);
        out.push('\n');
    }
    out.push_str("-----END CERTIFICATE-----\n");
    out
}

fn wrong(path: &Path, why: &str) -> RestoreError {
    RestoreError::Usage(format!("{}: {why}", path.display()))
}

/// Whom to believe: those of the file, or else of the system.
fn roots(
    file: Option<&Path>,
) -> Result<(RootCertStore, Vec<CertificateDer<'static>>), RestoreError> {
    let mut store = RootCertStore::empty();
    if let Some(path) = file {
        let all = certificates(path)?;
        for root in &all {
            let added = store.add(root.clone());
            added.map_err(|e| {
                let why = format!("a certificate of it is no root: {}", unusable(&e));
                wrong(path, &why)
            })?;
        }
        return Ok((store, all));
    }
    let mut systems = rustls_native_certs::load_native_certs();
    // Some of a system's may be of a kind that nobody knows.
    systems.certs.retain(|root| store.add(root.clone()).is_ok());
    match store.is_empty() {
        false => Ok((store, systems.certs)),
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

fn private_key(path: &Path) -> Result<Zeroizing<PrivateKeyDer<'static>>, RestoreError> {
    let key = PrivateKeyDer::from_pem_slice(&read(path)?);
    key.map(Zeroizing::new).map_err(|e| {
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
