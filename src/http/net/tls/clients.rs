//! Who holds a client certificate: it must be signed by an authority that is believed, neither run out nor
//! revoked, and have a name that counts.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use rustls::{
    CertRevocationListError, CertificateError, DigitallySignedStruct, DistinguishedName, Error,
    RootCertStore, SignatureScheme,
};
use webpki::EndEntityCert;

use super::files::{self, Named, TlsError};
use crate::config::{ClientFiles, Pattern};
use crate::io::certificate;

/// Which client certificates are believed.
pub(crate) struct Clients {
    chain: Arc<dyn ClientCertVerifier>,
    names: Vec<Pattern>,
}

impl fmt::Debug for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Clients").field(&self.names).finish()
    }
}

impl Clients {
    pub(super) fn from_files(
        from: &ClientFiles,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Clients, TlsError> {
        let ca = Named::client_ca(&from.ca);
        let crl = from.crl.as_deref().map(Named::client_crl);
        let mut roots = RootCertStore::empty();
        for authority in files::certificates(&ca)? {
            let added = roots.add(authority);
            added.map_err(|e| ca.unusable(certificate::why(&e)))?;
        }
        let provider = provider.clone();
        let mut chain = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .allow_unauthenticated();
        if let Some(crl) = &crl {
            // A list that has run out says nothing of what was revoked since.
            chain = chain
                .with_crls(files::revocations(crl)?)
                .enforce_revocation_expiration();
        }
        let of = crl.as_ref().unwrap_or(&ca);
        Ok(Clients {
            chain: chain.build().map_err(|e| of.unusable(unusable(&e)))?,
            names: from.names.clone(),
        })
    }

    /// The name that counts of a certificate that is good at `now`.
    pub(super) fn name(
        &self,
        own: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Arc<str>, Error> {
        self.chain.verify_client_cert(own, others, now)?;
        let certificate =
            EndEntityCert::try_from(own).map_err(|_| CertificateError::BadEncoding)?;
        let names = certificate
            .valid_dns_names()
            .chain(certificate.valid_uri_names());
        // What stands for many names is nobody's.
        let mut names = names.filter(|name| !name.contains('*'));
        let allowed = names.find(|name| self.names.iter().any(|pattern| pattern.allows(name)));
        let allowed = allowed.ok_or(CertificateError::ApplicationVerificationFailure)?;
        Ok(allowed.into())
    }
}

impl ClientCertVerifier for Clients {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        own: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.name(own, others, now)
            .map(|_| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        own: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, own, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        own: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, own, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// Why authorities and lists of revocations cannot be used.
fn unusable(error: &VerifierBuilderError) -> String {
    match error {
        VerifierBuilderError::InvalidCrl(CertRevocationListError::ParseError) => {
            "it is no list of revocations that can be read; one of version 1 has no number, and is made anew with crlnumber".into()
        }
        other => other.to_string(),
    }
}
