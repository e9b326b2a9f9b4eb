//! Who holds the client certificate of a connection.

use std::cell::Cell;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::{CertificateError, Error};

use super::keys::{Keys, Terms};
use crate::limits::{CERTIFICATE_BELIEVED_MS, CLIENT_CHAIN_BYTES_MAX};

/// The certificate that a connection has shown. What it is good for is asked whenever something is to be had for
/// it, and never remembered for longer than a while, nor beyond a reload.
pub(crate) struct Holder {
    keys: Arc<Keys>,
    /// Its own, and those that lead to a root.
    chain: Vec<CertificateDer<'static>>,
    /// The name that counts of it.
    name: Arc<str>,
    /// By which terms it was last found good, and when.
    believed: Cell<(u64, Instant)>,
}

impl fmt::Debug for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Holder").field(&self.name).finish()
    }
}

impl Holder {
    /// The name that counts of it, for who keeps it.
    pub(crate) fn kept_name(&self) -> Arc<str> {
        self.name.clone()
    }

    /// Of what a connection has shown, if that is good.
    pub(super) fn new(keys: Arc<Keys>, chain: &[CertificateDer<'_>]) -> Result<Holder, Error> {
        let bytes: usize = chain.iter().map(|one| one.len()).sum();
        if bytes > CLIENT_CHAIN_BYTES_MAX {
            // It stays in memory as long as the connection does.
            return Err(CertificateError::BadEncoding.into());
        }
        let (number, name) = {
            let terms = keys.terms();
            (terms.number, name(&terms, chain)?)
        };
        Ok(Holder {
            keys,
            chain: chain.iter().map(|one| one.clone().into_owned()).collect(),
            name,
            believed: Cell::new((number, Instant::now())),
        })
    }

    /// Whether it is good by now.
    pub(crate) fn is_believed(&self) -> bool {
        let (number, at) = self.believed.get();
        let terms = self.keys.terms();
        let is_recent = at.elapsed() < Duration::from_millis(CERTIFICATE_BELIEVED_MS);
        if is_recent && number == terms.number {
            return true;
        }
        // A certificate whose first name counts no more is another's.
        let is_good = name(&terms, &self.chain).is_ok_and(|name| name == self.name);
        if is_good {
            self.believed.set((terms.number, Instant::now()));
        }
        is_good
    }

    /// The name that counts of it.
    #[cfg(test)]
    pub(super) fn name(&self) -> &str {
        &self.name
    }
}

fn name(terms: &Terms, chain: &[CertificateDer<'_>]) -> Result<Arc<str>, Error> {
    // Without clients, they were asked for by earlier terms.
    let (Some(clients), [own, others @ ..]) = (&terms.clients, chain) else {
        return Err(Error::NoCertificatesPresented);
    };
    clients.name(own, others, UnixTime::now())
}
