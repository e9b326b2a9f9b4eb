//! The files of certificates, keys and revocations.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use zeroize::Zeroizing;

use crate::limits::TLS_FILE_MAX_BYTES;

/// What is wrong with a file that TLS needs.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read {}: {source}", .path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} has no {what} in PEM form", .path.display())]
    Empty { path: PathBuf, what: &'static str },
    #[error("{} is not PEM: {source}", .path.display())]
    Pem { path: PathBuf, source: pem::Error },
    #[error("{} cannot be used: {why}", .path.display())]
    Unusable { path: PathBuf, why: String },
    #[error("{} is not the key of the certificate in {}", .key.display(), .cert.display())]
    NoPair { cert: PathBuf, key: PathBuf },
    #[error("TLS cannot be set up: {0}")]
    SetUp(String),
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, TlsError> {
    let failed = |source| TlsError::Read {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(failed)?;
    // All the room at once: of what grows, a part of a key would be left behind.
    let len = file
        .metadata()
        .map_err(failed)?
        .len()
        .min(TLS_FILE_MAX_BYTES);
    let mut bytes = Zeroizing::new(Vec::with_capacity(len as usize + 1));
    let read = file.take(TLS_FILE_MAX_BYTES + 1).read_to_end(&mut bytes);
    if read.map_err(failed)? as u64 > TLS_FILE_MAX_BYTES {
        return Err(failed(io::ErrorKind::FileTooLarge.into()));
    }
    Ok(bytes)
}

/// All items of one kind in a file, one at least.
fn all<T: PemObject>(path: &Path, what: &'static str) -> Result<Vec<T>, TlsError> {
    let bytes = read(path)?;
    let items = T::pem_slice_iter(&bytes).collect::<Result<Vec<T>, _>>();
    let items = items.map_err(|source| TlsError::Pem {
        path: path.to_owned(),
        source,
    })?;
    match items.is_empty() {
        true => Err(TlsError::Empty {
            path: path.to_owned(),
            what,
        }),
        false => Ok(items),
    }
}

pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    all(path, "certificate")
}

pub(super) fn revocations(
    path: &Path,
) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    all(path, "list of revocations")
}

/// It is overwritten when it is dropped.
pub(super) fn key(path: &Path) -> Result<Zeroizing<PrivateKeyDer<'static>>, TlsError> {
    let path = path.to_owned();
    match PrivateKeyDer::from_pem_slice(&read(&path)?) {
        Ok(key) => Ok(Zeroizing::new(key)),
        Err(pem::Error::NoItemsFound) => Err(TlsError::Empty {
            path,
            what: "key without a password",
        }),
        Err(source) => Err(TlsError::Pem { path, source }),
    }
}
