//! What is wrong where TLS does not go on, in words that say what helps.

use std::io;

use rustls::pki_types::ServerName;
use rustls::{AlertDescription, CertificateError, InconsistentKeys, PeerIncompatible};

use crate::io::certificate;

/// How an alert of the other side's begins that came in the place of an answer (RFC 8446, section 5.1): its type, and
/// the first half of a version.
pub(super) const ALERT_BEGIN: [u8; 2] = [0x15, 3];

/// What went wrong, for people; `shows` is whether a certificate of one's own is shown. What another try would find
/// again is [`io::ErrorKind::PermissionDenied`].
pub(super) fn told(error: rustls::Error, shows: bool) -> io::Error {
    use io::ErrorKind::{InvalidData, PermissionDenied};
    let (kind, what) = match error {
        rustls::Error::InvalidCertificate(why) => (PermissionDenied, disbelief(&why)),
        rustls::Error::AlertReceived(alert) => match alert_told(alert, shows) {
            Some(what) => (PermissionDenied, what),
            None => (
                InvalidData,
                format!("the server ends it with the alert {alert:?}"),
            ),
        },
        rustls::Error::InvalidMessage(_) => (
            InvalidData,
            "what answers speaks no TLS: write http:// in --server, or the port that speaks it"
                .into(),
        ),
        rustls::Error::PeerIncompatible(why) => (PermissionDenied, incompatible(&why)),
        other => (InvalidData, other.to_string()),
    };
    io::Error::new(kind, what)
}

fn incompatible(why: &PeerIncompatible) -> String {
    match why {
        PeerIncompatible::ServerDoesNotSupportTls12Or13
        | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig => {
            "the server speaks neither TLS 1.2 nor 1.3, and nothing older is spoken here".into()
        }
        why => format!("the server speaks TLS in no way that is spoken here ({why:?})"),
    }
}

/// What the server refuses; `None` where that says nothing to whoever runs this.
fn alert_told(alert: AlertDescription, shows: bool) -> Option<String> {
    use AlertDescription as Alert;
    let own = "the certificate of --cert";
    let what = match (alert, shows) {
        (Alert::ProtocolVersion, _) => {
            "the server speaks neither TLS 1.2 nor 1.3, and nothing older is spoken here".to_owned()
        }
        (Alert::UnrecognisedName, _) => {
            "the server has no certificate for the name in --server".to_owned()
        }
        (Alert::NoApplicationProtocol, _) => {
            "the server speaks no HTTP/1.1 at that port".to_owned()
        }
        (
            Alert::CertificateRequired
            | Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::UnknownCA
            | Alert::AccessDenied,
            false,
        ) => {
            format!("the server wants a client certificate ({alert:?}): --cert and --key show one")
        }
        (Alert::UnknownCA, true) => format!(
            "the server believes no authority that has signed {own} (its --tls-client-ca), or has no list of that \
             authority's that says whether it is revoked (--tls-client-crl)"
        ),
        (Alert::AccessDenied, true) => {
            format!("the server lets in no name that {own} has (its --tls-client-san says which)")
        }
        (Alert::CertificateRevoked, true) => format!("{own} is revoked, says the server"),
        (Alert::CertificateExpired, true) => {
            format!("{own} has run out or does not count yet, says the server")
        }
        (Alert::UnsupportedCertificate, true) => {
            format!("{own} is for no client, says the server (extendedKeyUsage without clientAuth)")
        }
        (Alert::CertificateRequired, true) => {
            format!("the server wants another client certificate than {own}")
        }
        (Alert::BadCertificate | Alert::CertificateUnknown | Alert::DecryptError, true) => {
            format!("the server does not take {own} ({alert:?})")
        }
        _ => return None,
    };
    Some(what)
}

/// A name of a certificate without what rustls puts around it, which is its kind; and that it is a name where an
/// address is wanted.
fn bare(name: &str, wants_address: bool) -> String {
    let (kind, rest) = name.split_once('(').unwrap_or(("", name));
    let bare = rest.strip_suffix(')').unwrap_or(rest).trim_matches('"');
    match (kind, wants_address) {
        ("DnsName", true) => format!("the name {bare}"),
        _ => bare.to_owned(),
    }
}

/// Why a server's certificate is not believed.
fn disbelief(why: &CertificateError) -> String {
    let unknown = "no authority that is believed here has signed the server's certificate";
    match why {
        CertificateError::UnknownIssuer => format!("{unknown}; --cacert names one"),
        // Of an authority that is believed and is called the same. The variants that say more, or less, mean that.
        CertificateError::BadSignature
        | CertificateError::UnsupportedSignatureAlgorithmContext { .. }
        | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => format!(
            "{unknown}: one that has the name of the signer has another key, or signs in no way that is known here; \
             --cacert names one"
        ),
        CertificateError::NotValidForNameContext {
            expected,
            presented,
        } => {
            let address = match expected {
                ServerName::IpAddress(_) => Some(expected.to_str()),
                _ => None,
            };
            let bare = |name: &String| bare(name, address.is_some());
            let names = match presented.is_empty() {
                true => "no name".to_owned(),
                false => presented.iter().map(bare).collect::<Vec<_>>().join(", "),
            };
            let wanted = match address {
                Some(address) => format!("the address {address} (subjectAltName=IP:{address})"),
                None => expected.to_str().into_owned(),
            };
            format!("the server's certificate is for {names}, and not for {wanted}")
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "the server's certificate has run out".into()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "the server's certificate does not count yet; is this machine's clock right?".into()
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "the server's certificate is for no server (extendedKeyUsage without serverAuth)".into()
        }
        CertificateError::Other(_) => format!(
            "the server's certificate is not believed: {}",
            certificate::why(&rustls::Error::InvalidCertificate(why.clone()))
        ),
        why => format!("the server's certificate is not believed: {why}"),
    }
}

/// Why a certificate of one's own, or its key, cannot be used.
pub(super) fn unusable(why: &rustls::Error) -> String {
    match why {
        rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            "the key is that of another certificate".into()
        }
        why => certificate::why(why),
    }
}

#[cfg(test)]
mod tests {
    use rustls::OtherError;

    use super::*;

    fn of(why: CertificateError) -> String {
        told(rustls::Error::InvalidCertificate(why), false).to_string()
    }

    fn names(expected: &str, presented: &[&str]) -> String {
        of(CertificateError::NotValidForNameContext {
            expected: ServerName::try_from(expected.to_owned()).unwrap(),
            presented: presented.iter().map(|name| (*name).to_owned()).collect(),
        })
    }

    #[test]
    fn certificates_are_refused_in_words() {
        assert_eq!(
            names("a.b", &["DnsName(\"c.d\")", "IpAddress(10.0.0.5)"]),
            "the server's certificate is for c.d, 10.0.0.5, and not for a.b"
        );
        assert_eq!(
            names("127.0.0.1", &["DnsName(\"127.0.0.1\")"]),
            "the server's certificate is for the name 127.0.0.1, and not for the address 127.0.0.1 \
             (subjectAltName=IP:127.0.0.1)"
        );
        assert!(names("a.b", &[]).contains("is for no name, and not for a.b"));
        let why = OtherError(std::sync::Arc::new(webpki::Error::UnsupportedCertVersion));
        assert!(of(CertificateError::Other(why.clone())).contains("of version 1"));
        let own = rustls::Error::InvalidCertificate(CertificateError::Other(why));
        assert!(unusable(&own).contains("of version 1"));
        // A signature that an authority of the same name has not made.
        let foreign = CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext {
            signature_algorithm_id: vec![6],
            public_key_algorithm_id: vec![7],
        };
        for why in [CertificateError::BadSignature, foreign] {
            assert!(of(why).contains("--cacert names one"));
        }
    }

    #[test]
    fn alerts_say_whose_certificate_it_is() {
        let told = |alert, shows| told(rustls::Error::AlertReceived(alert), shows);
        for alert in [
            AlertDescription::CertificateRequired,
            AlertDescription::UnknownCA,
            AlertDescription::AccessDenied,
            AlertDescription::CertificateRevoked,
        ] {
            let [none, own] = [false, true].map(|shows| told(alert, shows));
            assert!(none.to_string().contains("--cert and --key show one"));
            assert!(own.to_string().contains("--cert") && !own.to_string().contains("--key"));
            // No other try finds anything else.
            assert_eq!(own.kind(), io::ErrorKind::PermissionDenied);
            assert_eq!(none.kind(), io::ErrorKind::PermissionDenied);
        }
        let other = told(AlertDescription::InternalError, true);
        assert_eq!(other.kind(), io::ErrorKind::InvalidData);
    }
}
