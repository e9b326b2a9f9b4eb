//! The flags of the object store, and what one is called.
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::error::{ConfigError, Origin};
use super::layers::Layers;
use super::secrets::Secret;
use super::value::{self, Share};
use crate::limits::{
    STORE_EXPIRY_DEFAULT_MS, STORE_EXPIRY_MIN_MS, STORE_HEADER_BYTES_MAX, STORE_HEADERS_MAX,
    UPKEEP_TIME_MAX_MS, WARM_FOR_DEFAULT_MS, WARM_FOR_MAX_MS,
};

/// The flags, as given.
#[derive(Args, Debug, Default)]
pub(super) struct StoreArgs {
    /// Share snapshots with other servers through an object store: s3://BUCKET/PREFIX, or file:///DIR for
    /// the servers of one machine. What was built is uploaded in the background; what another server has
    /// uploaded is taken from there where there is no mirror yet. Credentials, endpoint and region are found
    /// in AWS_ variables, as other tools find them
    #[arg(long, value_name = "URL", help_heading = "Object store")]
    store: Option<OsString>,

    /// Take from --store, and upload nothing
    #[arg(
        long,
        value_name = "true|false",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        help_heading = "Object store"
    )]
    store_readonly: Option<OsString>,

    /// Write to --store though it does not refuse a write where somebody else has written since: for the one
    /// server that writes and collects there, while all others have --store-readonly. tarpon check says whether a
    /// store needs it
    #[arg(
        long,
        value_name = "true|false",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        help_heading = "Object store"
    )]
    store_writer: Option<OsString>,

    /// Send this header with each request to a bucket of --store, beside what is signed; may be repeated
    #[arg(long, value_name = "NAME=VALUE", help_heading = "Object store")]
    store_header: Vec<OsString>,

    /// Send a tarpon restore that asks for a part on to a bucket of --store: ENDPOINT is the http or https
    /// origin at which clients reach it. Such a URL is good for one minute and one part
    #[arg(long, value_name = "ENDPOINT", help_heading = "Object store")]
    store_redirect: Option<OsString>,

    /// How much a server that starts with an empty disk takes from --store, of what was used lately, before
    /// /_readiness is answered 200: bytes such as 100G, or a share of the file system such as 25%
    /// [default: 25%]
    #[arg(long, value_name = "SIZE", help_heading = "Object store")]
    warm_limit: Option<OsString>,

    /// The longest time for that; 0 for ready at once [default: 5m]
    #[arg(long, value_name = "TIME", help_heading = "Object store")]
    warm_for: Option<OsString>,

    /// Remove from --store what no server that writes there has been asked for for so long, or never; days are
    /// counted [default: 30d]
    #[arg(long, value_name = "TIME", help_heading = "Object store")]
    store_expiry: Option<OsString>,

    /// Remove from --store what was used least lately where there is more than this: bytes such as 20T
    /// [default: no limit]
    #[arg(long, value_name = "SIZE", help_heading = "Object store")]
    store_limit: Option<OsString>,
}

impl StoreArgs {
    /// Those that were given, by key.
    pub(super) fn given(self) -> [(&'static str, Option<Vec<OsString>>); 9] {
        let one = |value: Option<OsString>| value.map(|value| vec![value]);
        // Taken apart by name, so that a new flag that is forgotten here does not compile.
        let Self {
            store,
            store_readonly,
            store_writer,
            store_header,
            store_redirect,
            warm_limit,
            warm_for,
            store_expiry,
            store_limit,
        } = self;
        [
            ("store", one(store)),
            ("store_readonly", one(store_readonly)),
            ("store_writer", one(store_writer)),
            (
                "store_header",
                (!store_header.is_empty()).then_some(store_header),
            ),
            ("store_redirect", one(store_redirect)),
            ("warm_limit", one(warm_limit)),
            ("warm_for", one(warm_for)),
            ("store_expiry", one(store_expiry)),
            ("store_limit", one(store_limit)),
        ]
    }
}

/// Where an object store is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreUrl {
    /// A bucket, and what is below a prefix there.
    Bucket {
        /// The bucket.
        name: String,
        /// Without a slash at either end; may be empty.
        prefix: String,
    },
    /// A directory, absolute.
    Dir(PathBuf),
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bucket { name, prefix } => write!(f, "s3://{name}/{prefix}"),
            Self::Dir(dir) => write!(f, "file://{}", dir.display()),
        }
    }
}

/// A header that is sent with each request to a bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreHeader {
    /// In lower case.
    pub name: String,
    /// Of visible characters and spaces.
    pub value: Secret,
}

/// The store, and whether it is only read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedStore {
    /// Where it is.
    pub url: StoreUrl,
    /// Whether nothing is written there.
    pub is_readonly: bool,
    /// Whether this server alone writes there, and no write is refused.
    pub is_writer: bool,
    /// What is sent with each request.
    pub headers: Vec<StoreHeader>,
    /// The origin at which clients reach the bucket, if they are sent there.
    pub redirect: Option<String>,
    /// How much is taken from there at the start, where there is nothing,
    pub warm_limit: Share,
    /// and for how long; zero for nothing.
    pub warm_for: Duration,
    /// How long what nobody uses stays there.
    pub expiry: Duration,
    /// How much there may be.
    pub limit_bytes: Option<u64>,
}

impl SharedStore {
    /// What the settings say.
    pub(super) fn of(layers: &Layers) -> Result<Option<SharedStore>, ConfigError> {
        let url = layers.one("store", store_url)?;
        let is_readonly = layers
            .one("store_readonly", value::switch)?
            .unwrap_or(false);
        let redirect = layers.one("store_redirect", origin)?;
        let is_writer = layers.one("store_writer", value::switch)?.unwrap_or(false);
        let headers = layers.list("store_header", header)?.unwrap_or_default();
        let is_bucket = matches!(url, Some(StoreUrl::Bucket { .. }));
        let wrong = |key, value: &str, allowed: &str| {
            let found = layers.find(key).map(|(_, origin)| origin);
            let origin = found.unwrap_or_else(|| Origin::flag(key));
            Err(ConfigError::value(key, value.as_ref(), origin, allowed))
        };
        const OF_BUCKET: &str = "one only together with --store s3://BUCKET";
        if let Some(value) = redirect.as_ref().filter(|_| !is_bucket) {
            return wrong("store_redirect", value, OF_BUCKET);
        }
        if let Some(StoreHeader { name, .. }) = headers.first().filter(|_| !is_bucket) {
            return wrong("store_header", name, OF_BUCKET);
        }
        if headers.len() > STORE_HEADERS_MAX {
            let allowed = format!("{STORE_HEADERS_MAX} of them at most");
            return wrong("store_header", &headers[0].name, &allowed);
        }
        if is_writer && !is_bucket {
            return wrong(
                "store_writer",
                "true",
                "true only together with --store s3://BUCKET",
            );
        }
        match url {
            Some(url) => Ok(Some(SharedStore {
                url,
                is_readonly,
                is_writer,
                headers,
                redirect,
                warm_limit: layers
                    .one("warm_limit", value::share(0))?
                    .unwrap_or(Share::WARM_DEFAULT),
                warm_for: layers
                    .one("warm_for", value::duration(0, WARM_FOR_MAX_MS))?
                    .unwrap_or(Duration::from_millis(WARM_FOR_DEFAULT_MS)),
                expiry: layers
                    .one(
                        "store_expiry",
                        value::duration_or_never(STORE_EXPIRY_MIN_MS, UPKEEP_TIME_MAX_MS),
                    )?
                    .unwrap_or(Duration::from_millis(STORE_EXPIRY_DEFAULT_MS)),
                limit_bytes: layers.one("store_limit", value::bytes)?,
            })),
            None if is_readonly => {
                wrong("store_readonly", "true", "true only together with --store")
            }
            None => Ok(None),
        }
    }
}

/// `NAME=VALUE`. What says how a request goes is not to be had by this, nor what would have to be signed.
fn header(text: &str) -> Result<StoreHeader, String> {
    let allowed = || {
        "NAME=VALUE, where NAME is of letters, digits and -_, no x-amz- and nothing that a request has anyway, and \
         VALUE of visible characters and spaces"
            .to_owned()
    };
    let (name, value) = text.split_once('=').ok_or_else(allowed)?;
    let name = name.to_ascii_lowercase();
    const OWN: [&str; 14] = [
        "authorization",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "cookie",
        "date",
        "expect",
        "host",
        "range",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    let is_name = !name.is_empty() && name.bytes().all(is_plain);
    let is_own = OWN.contains(&&*name) || ["x-amz-", "if-"].iter().any(|it| name.starts_with(it));
    let is_value = value.bytes().all(|byte| (0x20..0x7f).contains(&byte)) && value.trim() == value;
    match is_name && !is_own && is_value && text.len() <= STORE_HEADER_BYTES_MAX {
        true => Ok(StoreHeader {
            name,
            value: Secret::new(value.to_owned()),
        }),
        false => Err(allowed()),
    }
}

/// `http[s]://HOST[:PORT]` as it stands in URLs: without the port that is the scheme's own.
fn origin(text: &str) -> Result<String, String> {
    let allowed =
        || "http://HOST or https://HOST, with or without :PORT, and nothing behind it".to_owned();
    let text = text.strip_suffix('/').unwrap_or(text).to_ascii_lowercase();
    let (scheme, authority) = text.split_once("://").ok_or_else(allowed)?;
    let own_port = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => return Err(allowed()),
    };
    let authority = authority.strip_suffix(own_port).unwrap_or(authority);
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-.:[]".contains(&byte);
    match !authority.is_empty() && authority.bytes().all(is_plain) {
        true => Ok(format!("{scheme}://{authority}")),
        false => Err(allowed()),
    }
}

fn store_url(text: &str) -> Result<StoreUrl, String> {
    let allowed = || {
        "s3://BUCKET or s3://BUCKET/PREFIX of plain letters, digits and -_. between slashes, or \
         file:///DIR"
            .to_owned()
    };
    if let Some(dir) = text.strip_prefix("file://") {
        let is_dir = dir.len() > 1 && dir.starts_with('/') && !dir.contains('\0');
        return is_dir
            .then(|| StoreUrl::Dir(dir.into()))
            .ok_or_else(allowed);
    }
    let rest = text.strip_prefix("s3://").ok_or_else(allowed)?;
    let (name, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let is_name = |text: &str| !matches!(text, "" | "." | "..") && text.bytes().all(is_plain);
    match is_name(name) && (prefix.is_empty() || prefix.split('/').all(is_name)) {
        true => Ok(StoreUrl::Bucket {
            name: name.to_owned(),
            prefix: prefix.to_owned(),
        }),
        false => Err(allowed()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_sent_to_an_origin() {
        for (text, origin_of_it) in [
            ("https://S3.example.org:443/", "https://s3.example.org"),
            ("http://127.0.0.1:9000", "http://127.0.0.1:9000"),
            ("https://[::1]:9000", "https://[::1]:9000"),
        ] {
            assert_eq!(origin(text), Ok(origin_of_it.to_owned()), "{text}");
        }
        for wrong in [
            "",
            "s3.example.org",
            "https://",
            "ftp://a",
            "https://a/b",
            "https://u@a",
            "https://a?b",
        ] {
            assert!(origin(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn headers_are_none_that_requests_have() {
        let is = |text: &str| header(text).map(|it| (it.name, it.value.text().to_owned()));
        let of = |name: &str, value: &str| Ok((name.to_owned(), value.to_owned()));
        assert_eq!(is("X-Tenant=a=b c"), of("x-tenant", "a=b c"));
        assert_eq!(is("x-empty="), of("x-empty", ""));
        for wrong in [
            "",
            "=a",
            "x-tenant",
            "x tenant=a",
            "x:y=a",
            "Host=a",
            "Authorization=a",
            "x-amz-acl=a",
            "If-Match=a",
            "Range=a",
            "a=b\r\nc: d",
            "a= b",
            "a=b ",
            "a=ä",
            "Content-Length=1",
        ] {
            assert!(is(wrong).is_err(), "{wrong:?}");
        }
        assert!(is(&format!("a={}", "b".repeat(STORE_HEADER_BYTES_MAX))).is_err());
    }

    #[test]
    fn stores_have_plain_names() {
        let bucket = |name: &str, prefix: &str| {
            Ok(StoreUrl::Bucket {
                name: name.into(),
                prefix: prefix.into(),
            })
        };
        assert_eq!(store_url("s3://farm"), bucket("farm", ""));
        assert_eq!(store_url("s3://farm/"), bucket("farm", ""));
        assert_eq!(store_url("s3://farm/a/b.c/"), bucket("farm", "a/b.c"));
        assert_eq!(
            store_url("file:///srv/s"),
            Ok(StoreUrl::Dir("/srv/s".into()))
        );
        for wrong in [
            "",
            "s3://",
            "s3:///x",
            "s3://a/../b",
            "s3://a//b",
            "s3://u:p@a",
            "s3://a?x",
            "file://x",
            "file:///",
            "http://a/b",
            "/srv/s",
            "file:///a\0b",
        ] {
            assert!(store_url(wrong).is_err(), "{wrong:?}");
        }
    }
}
