//! What a certificate is worth to clients, apart from who has signed it: from when until when it counts, and whether it
//! is one that a server may show.

use std::net::IpAddr;
use std::time::Duration;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use webpki::{EndEntityCert, Error, InvalidNameContext, KeyUsage};

use super::files::{Named, TlsError};
use crate::io::certificate;

/// Behind the end of the last certificate: the year 9999.
const NEVER_S: u64 = 1 << 40;

/// What is wrong with the names that it has: none of them, or an address in a form in which nobody looks for one.
fn misnamed(own: &EndEntityCert<'_>) -> Option<String> {
    let nobody = ServerName::try_from("nobody.invalid").ok()?;
    let Err(Error::CertNotValidForName(InvalidNameContext { presented, .. })) =
        own.verify_is_valid_for_subject_name(&nobody)
    else {
        return None;
    };
    if presented.is_empty() {
        return Some("it has no name that is looked at (subjectAltName)".into());
    }
    let address = presented.iter().find_map(|name| {
        let name = name.strip_prefix("DnsName(\"")?.strip_suffix("\")")?;
        name.parse::<IpAddr>().ok()
    })?;
    let is_there = own.verify_is_valid_for_subject_name(&ServerName::from(address));
    is_there.is_err().then(|| {
        format!("it has {address} for a DNS name; of an address clients look for subjectAltName=IP:{address}")
    })
}

/// What a certificate is worth.
#[derive(Debug, Clone)]
pub(crate) struct Worth {
    file: Named,
    /// The last second in which it counts, since 1970.
    pub ends_unix_s: u64,
    begins_unix_s: u64,
    /// Why no client takes it while it counts.
    flaw: Option<String>,
}

impl Worth {
    /// Of a certificate, whose file is named.
    pub(super) fn of(
        file: &Named,
        certificate: &CertificateDer<'_>,
        provider: &CryptoProvider,
    ) -> Result<Worth, TlsError> {
        let own = EndEntityCert::try_from(certificate);
        let own = own.map_err(|e| file.unusable(certificate::why_unread(&e)))?;
        // Nobody is believed: what is said first is about the certificate itself, and its time before all else.
        let at = |unix_s| {
            let (all, usage) = (
                provider.signature_verification_algorithms.all,
                KeyUsage::server_auth(),
            );
            let time = UnixTime::since_unix_epoch(Duration::from_secs(unix_s));
            own.verify_for_usage(all, &[], &[], time, usage, None, None)
                .err()
        };
        let ends_unix_s = match at(NEVER_S) {
            Some(Error::CertExpired { not_after, .. }) => not_after.as_secs(),
            _ => NEVER_S,
        };
        let begins_unix_s = match at(0) {
            Some(Error::CertNotValidYet { not_before, .. }) => not_before.as_secs(),
            _ => 0,
        };
        let flaw = match at(ends_unix_s) {
            Some(e @ Error::CaUsedAsEndEntity) => Some(certificate::why_unread(&e)),
            Some(Error::RequiredEkuNotFoundContext(_)) => {
                Some("it is not for servers (extendedKeyUsage)".to_owned())
            }
            _ => misnamed(&own),
        };
        Ok(Worth {
            file: file.clone(),
            ends_unix_s,
            begins_unix_s,
            flaw,
        })
    }

    /// What clients find wrong with it now.
    pub(crate) fn complaint(&self, now_unix_s: u64) -> Option<String> {
        let why = if now_unix_s > self.ends_unix_s {
            "it has run out"
        } else if now_unix_s < self.begins_unix_s {
            "it is not valid yet"
        } else {
            self.flaw.as_deref()?
        };
        Some(format!("clients refuse {}: {why}", self.file))
    }
}
