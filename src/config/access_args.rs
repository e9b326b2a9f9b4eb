//! The flags of who may read.
use clap::Args;
use std::ffi::OsString;

/// The flags, as given.
#[derive(Args, Debug, Default)]
pub(super) struct AccessArgs {
    /// Who may read the repositories of a host; may be repeated. open: whoever reaches the server; token:
    /// who shows a token of --tokens or a client certificate; upstream: whom the upstream lets read the
    /// repository, with the credential that he sends. Without any all are open; with one, each host that is served must have
    /// its own
    #[arg(long, value_name = "HOST=open|token|upstream", help_heading = "Access")]
    access: Vec<OsString>,

    /// File with the tokens that are known, each line as tarpon token new prints it; read anew at SIGHUP
    #[arg(long, value_name = "FILE", help_heading = "Access")]
    tokens: Option<OsString>,

    /// Where access is token, let jobs of a CI system read who show a token that this issuer has signed, for this
    /// audience, with all of these claims; may be repeated. One claim at least must say whose jobs they are, such as
    /// repository_owner_id
    #[arg(
        long,
        value_name = "ISSUER;AUDIENCE;CLAIM=VALUE[;...]",
        help_heading = "Access"
    )]
    oidc: Vec<OsString>,

    /// Believe the issuers of --oidc by the certificates of these authorities, instead of those that the system
    /// believes
    #[arg(long, value_name = "FILE", help_heading = "Access")]
    oidc_ca: Option<OsString>,

    /// Use this credential for an upstream: the file's first line is USER:TOKEN, or a TOKEN alone; may be
    /// repeated. Only for an https upstream, or one on this machine
    #[arg(long, value_name = "HOST=FILE", help_heading = "Upstreams")]
    upstream_token: Vec<OsString>,

    /// Where access is upstream and the upstream cannot be asked: believe its last yes, and serve what was
    /// compared with it, for this much longer than the minute that they count for [default: 0]
    #[arg(long, value_name = "TIME", help_heading = "Access")]
    access_stale: Option<OsString>,
}

impl AccessArgs {
    /// Those that were given, by key.
    pub(super) fn given(self) -> [(&'static str, Option<Vec<OsString>>); 6] {
        let list = |values: Vec<OsString>| (!values.is_empty()).then_some(values);
        let one = |value: Option<OsString>| value.map(|value| vec![value]);
        // Taken apart by name, so that a new flag that is forgotten here does not compile.
        let Self {
            access,
            tokens,
            oidc,
            oidc_ca,
            upstream_token,
            access_stale,
        } = self;
        [
            ("access", list(access)),
            ("tokens", one(tokens)),
            ("oidc", list(oidc)),
            ("oidc_ca", one(oidc_ca)),
            ("upstream_token", list(upstream_token)),
            ("access_stale", one(access_stale)),
        ]
    }
}
