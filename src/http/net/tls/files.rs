//! The files of certificates, keys and revocations.

use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use zeroize::Zeroizing;

use crate::io::regular::open_regular;
use crate::limits::TLS_FILE_MAX_BYTES;

/// A file, and the setting that names it.
#[derive(Debug, Clone)]
pub struct Named {
    setting: &'static str,
    path: PathBuf,
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the file {} of {}", self.path.display(), self.setting)
    }
}

/// What is wrong with a file that TLS needs.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{file} cannot be read: {source}")]
    Read { file: Named, source: io::Error },
    #[error("{file} has no {what} in PEM form")]
    Empty { file: Named, what: &'static str },
    #[error("{file} is not PEM: {source}")]
    Pem { file: Named, source: pem::Error },
    #[error("{file} cannot be used: {why}")]
    Unusable { file: Named, why: String },
    #[error("{key} has not the key of the certificate in {cert}")]
    NoPair { cert: Named, key: Named },
    #[error("TLS cannot be set up: {0}")]
    SetUp(String),
}

impl Named {
    pub(super) fn cert(path: &Path) -> Named {
        Named::new("--tls-cert", path)
    }

    pub(super) fn key(path: &Path) -> Named {
        Named::new("--tls-key", path)
    }

    pub(super) fn client_ca(path: &Path) -> Named {
        Named::new("--tls-client-ca", path)
    }

    pub(super) fn client_crl(path: &Path) -> Named {
        Named::new("--tls-client-crl", path)
    }

    fn new(setting: &'static str, path: &Path) -> Named {
        Named {
            setting,
            path: path.to_owned(),
        }
    }

    pub(super) fn unusable(&self, why: impl fmt::Display) -> TlsError {
        TlsError::Unusable {
            file: self.clone(),
            why: why.to_string(),
        }
    }
}

pub(super) fn certificates(file: &Named) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    all(file, "certificate")
}

pub(super) fn revocations(
    file: &Named,
) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    all(file, "list of revocations")
}

pub(super) fn key(file: &Named) -> Result<PrivateKeyDer<'static>, TlsError> {
    match PrivateKeyDer::from_pem_slice(&read(file)?) {
        Ok(key) => Ok(key),
        Err(pem::Error::NoItemsFound) => Err(TlsError::Empty {
            file: file.clone(),
            what: "key without a password",
        }),
        Err(source) => Err(TlsError::Pem {
            file: file.clone(),
            source,
        }),
    }
}

/// All items of one kind, one at least.
fn all<T: PemObject>(file: &Named, what: &'static str) -> Result<Vec<T>, TlsError> {
    let bytes = read(file)?;
    let items = T::pem_slice_iter(&bytes).collect::<Result<Vec<T>, _>>();
    let items = items.map_err(|source| TlsError::Pem {
        file: file.clone(),
        source,
    })?;
    match items.is_empty() {
        true => Err(TlsError::Empty {
            file: file.clone(),
            what,
        }),
        false => Ok(items),
    }
}

fn read(file: &Named) -> Result<Zeroizing<Vec<u8>>, TlsError> {
    let failed = |source| TlsError::Read {
        file: file.clone(),
        source,
    };
    let opened = open_regular(&file.path).map_err(failed)?;
    // All the room at once: of what grows, a part of a key would be left behind.
    let len = opened
        .metadata()
        .map_err(failed)?
        .len()
        .min(TLS_FILE_MAX_BYTES);
    let mut bytes = Zeroizing::new(Vec::with_capacity(len as usize + 1));
    let read = opened.take(TLS_FILE_MAX_BYTES + 1).read_to_end(&mut bytes);
    if read.map_err(failed)? as u64 > TLS_FILE_MAX_BYTES {
        return Err(failed(io::ErrorKind::FileTooLarge.into()));
    }
    Ok(bytes)
}
