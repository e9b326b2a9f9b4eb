//! The flags of listeners and TLS.
use clap::Args;
use std::ffi::OsString;

/// The flags, as given.
#[derive(Args, Debug, Default)]
pub(super) struct ListenArgs {
    /// Address to listen on, or a socket file that whoever can reach may use; may be repeated. Use
    /// 0.0.0.0:8080 to serve other machines. tls: is TLS, with --tls-cert [default: 127.0.0.1:8080]
    #[arg(long, value_name = "[tls:]ADDRESS:PORT|unix:PATH")]
    listen: Vec<OsString>,

    /// Socket file, which only the user that the server runs as can open, and whoever does so is an
    /// administrator
    #[arg(long, value_name = "unix:PATH")]
    admin_listen: Option<OsString>,

    /// Believe these when they say in X-Forwarded-For who asks: an address, a network such as 10.0.0.0/8,
    /// or unix for whoever comes by a socket file; may be repeated
    #[arg(long, value_name = "ADDRESSES")]
    trust_proxy: Vec<OsString>,

    /// File (PEM) with a certificate for TLS and what leads from it to a root; may be repeated, each with
    /// its --tls-key in the same order. The first is used where no other has the name that the client
    /// wants. Without any tls: listener all listeners on addresses speak TLS
    #[arg(long, value_name = "FILE", help_heading = "TLS")]
    tls_cert: Vec<OsString>,

    /// File (PEM) with the key of a certificate
    #[arg(long, value_name = "FILE", help_heading = "TLS")]
    tls_key: Vec<OsString>,

    /// File (PEM) with the authorities that sign client certificates. A client without one is nobody, with
    /// another it is refused
    #[arg(long, value_name = "FILE", help_heading = "TLS")]
    tls_client_ca: Option<OsString>,

    /// File (PEM) with the revocations of each of these authorities
    #[arg(long, value_name = "FILE", help_heading = "TLS")]
    tls_client_crl: Option<OsString>,

    /// Name (DNS or URI) in a client certificate that counts, such as *.ci.example.org or
    /// spiffe://example.org/farm/*, where * is a part of one; may be repeated
    #[arg(long, value_name = "PATTERN", help_heading = "TLS")]
    tls_client_san: Vec<OsString>,
}

impl ListenArgs {
    /// Those that were given, by key.
    pub(super) fn given(self) -> [(&'static str, Option<Vec<OsString>>); 8] {
        let list = |values: Vec<OsString>| (!values.is_empty()).then_some(values);
        let one = |value: Option<OsString>| value.map(|value| vec![value]);
        // Taken apart by name, so that a new flag that is forgotten here does not compile.
        let Self {
            listen,
            admin_listen,
            trust_proxy,
            tls_cert,
            tls_key,
            tls_client_ca,
            tls_client_crl,
            tls_client_san,
        } = self;
        [
            ("listen", list(listen)),
            ("admin_listen", one(admin_listen)),
            ("trust_proxy", list(trust_proxy)),
            ("tls_cert", list(tls_cert)),
            ("tls_key", list(tls_key)),
            ("tls_client_ca", one(tls_client_ca)),
            ("tls_client_crl", one(tls_client_crl)),
            ("tls_client_san", list(tls_client_san)),
        ]
    }
}
