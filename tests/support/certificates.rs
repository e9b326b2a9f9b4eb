//! Certificates for tests, made anew for each: authorities, what they sign, what they revoke.
#![allow(dead_code)] // Every crate that includes this uses another part of it.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer,
    KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};

/// An authority, and where its files are.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    directory: PathBuf,
    /// The file with its own certificate.
    pub file: PathBuf,
}

/// A certificate and its key.
#[derive(Debug, Clone)]
pub struct Issued {
    pub cert: PathBuf,
    pub key: PathBuf,
    serial: u8,
}

impl Issued {
    /// As a server's flags.
    pub fn flags(&self) -> [String; 2] {
        let [cert, key] = [&self.cert, &self.key].map(|path| path.display().to_string());
        [format!("--tls-cert={cert}"), format!("--tls-key={key}")]
    }
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}

fn must<T>(made: Result<T, rcgen::Error>) -> T {
    made.unwrap_or_else(|e| panic!("a certificate: {e}"))
}

impl Authority {
    /// One that keeps its files, which begin with `name`, in `directory`.
    pub fn new(directory: &Path, name: &str) -> Authority {
        let mut params = must(CertificateParams::new(Vec::new()));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, name);
        let key = must(KeyPair::generate());
        let file = directory.join(format!("{name}.pem"));
        write(&file, &must(params.self_signed(&key)).pem());
        Authority {
            issuer: Issuer::new(params, key),
            directory: directory.to_owned(),
            file,
        }
    }

    /// A certificate for `names` (DNS, addresses, URIs, `dns:` and what is written as DNS whatever it is), in files that begin with `file`.
    pub fn issue(&self, file: &str, names: &[&str], serial: u8) -> Issued {
        self.issue_for(file, names, serial, (2020, 4090))
    }

    /// The same, which counts from the beginning of one year to that of another.
    pub fn issue_for(
        &self,
        file: &str,
        names: &[&str],
        serial: u8,
        (from, to): (i32, i32),
    ) -> Issued {
        let (uris, others): (Vec<&str>, Vec<&str>) = names.iter().partition(|n| n.contains("://"));
        let (dns, others): (Vec<&str>, Vec<&str>) = others
            .into_iter()
            .partition(|name| name.starts_with("dns:"));
        let others: Vec<String> = others.iter().map(|name| (*name).to_owned()).collect();
        let mut params = must(CertificateParams::new(others));
        for uri in uris {
            let uri = uri.try_into();
            params.subject_alt_names.push(SanType::URI(must(uri)));
        }
        for name in dns {
            let name = name.trim_start_matches("dns:").try_into();
            params.subject_alt_names.push(SanType::DnsName(must(name)));
        }
        params.not_before = date_time_ymd(from, 1, 1);
        params.not_after = date_time_ymd(to, 1, 1);
        params.serial_number = Some(SerialNumber::from_slice(&[serial]));
        let key = must(KeyPair::generate());
        let issued = Issued {
            cert: self.directory.join(format!("{file}.pem")),
            key: self.directory.join(format!("{file}.key")),
            serial,
        };
        write(
            &issued.cert,
            &must(params.signed_by(&key, &self.issuer)).pem(),
        );
        write(&issued.key, &key.serialize_pem());
        issued
    }

    /// A list of what is revoked.
    pub fn revoke(&self, file: &str, revoked: &[&Issued]) -> PathBuf {
        let one = |issued: &&Issued| RevokedCertParams {
            serial_number: SerialNumber::from_slice(&[issued.serial]),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(2400, 1, 1),
            crl_number: SerialNumber::from_slice(&[1]),
            issuing_distribution_point: None,
            revoked_certs: revoked.iter().map(one).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let path = self.directory.join(format!("{file}.crl"));
        write(&path, &must(must(list.signed_by(&self.issuer)).pem()));
        path
    }
}
