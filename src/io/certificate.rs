//! What is wrong with a certificate, in words of those who make them.

use std::io;

use rustls::{CertificateError, Error, OtherError};

/// Why something of TLS cannot be used, or came to nothing.
pub(crate) fn why(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(why) => why_not_believed(why),
        Error::General(why) => why.clone(),
        other => other.to_string(),
    }
}

/// The same of what a connection has met, if it is about TLS.
pub(crate) fn why_of_io(error: &io::Error) -> Option<String> {
    let inside = error.get_ref()?.downcast_ref::<Error>()?;
    Some(why(inside))
}

/// Why a certificate cannot be read.
pub(crate) fn why_unread(error: &webpki::Error) -> String {
    match error {
        webpki::Error::UnsupportedCertVersion => {
            "it is of version 1 of X.509, without any name: make it with extensions (subjectAltName)".into()
        }
        webpki::Error::CaUsedAsEndEntity => {
            "it is that of an authority; make one with basicConstraints=CA:FALSE".into()
        }
        other => format!("it is no certificate that can be read ({other})"),
    }
}

/// Why a certificate is not believed.
fn why_not_believed(error: &CertificateError) -> String {
    use CertificateError as Why;
    match error {
        Why::UnknownIssuer => "no authority that is believed here has signed it".into(),
        // An authority of the same name has another key.
        Why::BadSignature
        | Why::UnsupportedSignatureAlgorithmContext { .. }
        | Why::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            "no authority that is believed here has signed it, though one has the name of the one that did".into()
        }
        Why::Expired | Why::ExpiredContext { .. } => "it has run out".into(),
        Why::NotValidYet | Why::NotValidYetContext { .. } => {
            "it is not valid yet; is this machine's clock right?".into()
        }
        Why::Revoked => "it is revoked".into(),
        Why::ExpiredRevocationList | Why::ExpiredRevocationListContext { .. } => {
            "the list of what is revoked has run out".into()
        }
        Why::NotValidForName | Why::NotValidForNameContext { .. } => {
            "it is for another name".into()
        }
        Why::InvalidPurpose | Why::InvalidPurposeContext { .. } => {
            "it is for another purpose (extendedKeyUsage)".into()
        }
        Why::BadEncoding => "it is no certificate that can be read".into(),
        Why::ApplicationVerificationFailure => {
            "none of its names is one that --tls-client-san allows".into()
        }
        Why::Other(OtherError(why)) => match why.downcast_ref() {
            Some(why) => why_unread(why),
            None => error.to_string(),
        },
        other => other.to_string(),
    }
}
