//! Where the server listens, and what it shows of itself and asks of clients where that is TLS.
use super::error::{ConfigError, Origin};
use super::layers::Layers;
use super::pattern::Pattern;
use super::proxies::{self, Proxies};
use super::value;
use crate::limits::{LISTENERS_MAX, SOCKET_PATH_MAX_BYTES, TLS_PAIRS_MAX};
use std::ffi::OsString;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

/// Where a listener is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum At {
    /// An address; port 0 lets the kernel choose.
    Tcp(SocketAddr),
    /// A socket file.
    Unix(PathBuf),
}

impl At {
    /// Whether the two cannot be had together.
    fn is_same(&self, other: &At) -> bool {
        let is_any_port = matches!(self, At::Tcp(address) if address.port() == 0);
        self == other && !is_any_port
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            At::Tcp(address) => address.fmt(f),
            At::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// Where.
    pub at: At,
    /// Whether it speaks TLS; never a socket file.
    pub tls: bool,
}

/// A certificate and the key that it is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// The file with the certificate, and what leads from it to a root.
    pub cert: PathBuf,
    /// The file with the key.
    pub key: PathBuf,
}

/// What client certificates are believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientFiles {
    /// The file with the authorities that may have signed them.
    pub ca: PathBuf,
    /// The file with what these have revoked.
    pub crl: Option<PathBuf>,
    /// Names that count, one at least.
    pub names: Vec<Pattern>,
}

/// What TLS listeners need.
///
/// Invariant: there is a pair, and a listener that uses it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The first is the default.
    pub pairs: Vec<Pair>,
    /// `None` if clients are not asked for certificates.
    pub clients: Option<ClientFiles>,
}

/// All listeners, and whom they believe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listeners {
    /// One at least.
    pub listen: Vec<Listen>,
    /// The socket file by which whoever may open it is an administrator.
    pub admin: Option<PathBuf>,
    /// `None` if none of them speaks TLS.
    pub tls: Option<TlsFiles>,
    /// Proxies that are believed when they say who asks.
    pub trust_proxy: Proxies,
}

/// Only this machine, until an operator says otherwise.
const DEFAULT: Listen = Listen {
    at: At::Tcp(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080)),
    tls: false,
};

impl Listeners {
    pub(super) fn of(layers: &Layers) -> Result<Listeners, ConfigError> {
        let (listen, tls) = listeners(layers)?;
        let admin = admin(layers)?;
        each_place_once(layers, &listen, admin.as_ref())?;
        let proxies = layers.list("trust_proxy", proxies::proxy)?;
        Ok(Listeners {
            listen,
            admin,
            tls,
            trust_proxy: Proxies::new(proxies.unwrap_or_default()),
        })
    }
}

/// Where to listen, and what those need that speak TLS.
fn listeners(layers: &Layers) -> Result<(Vec<Listen>, Option<TlsFiles>), ConfigError> {
    let given = layers.list("listen", listen)?;
    let mut listeners = given.unwrap_or_else(|| vec![DEFAULT]);
    if listeners.len() > LISTENERS_MAX {
        return Err(wrong(
            layers,
            "listen",
            format!("at most {LISTENERS_MAX} of them"),
        ));
    }
    let pairs = pairs(layers)?;
    let clients = clients(layers)?;
    let mut on_addresses = listeners.iter_mut().filter(|l| matches!(l.at, At::Tcp(_)));
    if pairs.is_empty() {
        if on_addresses.any(|listener| listener.tls) {
            let allowed = "tls: only with --tls-cert and --tls-key";
            return Err(wrong(layers, "listen", allowed));
        }
        if clients.is_some() {
            let allowed = "a file only with --tls-cert and --tls-key";
            return Err(wrong(layers, "tls_client_ca", allowed));
        }
        return Ok((listeners, None));
    }
    if !listeners.iter().any(|listener| listener.tls) {
        let mut plain = listeners
            .iter_mut()
            .filter(|l| matches!(l.at, At::Tcp(_)))
            .peekable();
        if plain.peek().is_none() {
            let allowed = "a file only with a listener on an address";
            return Err(wrong(layers, "tls_cert", allowed));
        }
        plain.for_each(|listener| listener.tls = true);
    }
    Ok((listeners, Some(TlsFiles { pairs, clients })))
}

/// Who comes to one place must not find now this, now that.
fn each_place_once(
    layers: &Layers,
    listen: &[Listen],
    admin: Option<&PathBuf>,
) -> Result<(), ConfigError> {
    for (number, one) in listen.iter().enumerate() {
        if listen[..number]
            .iter()
            .any(|other| one.at.is_same(&other.at))
        {
            return Err(wrong(layers, "listen", "each place once"));
        }
        if admin.is_some_and(|admin| one.at == At::Unix(admin.clone())) {
            let allowed = "another file than those of --listen";
            return Err(wrong(layers, "admin_listen", allowed));
        }
    }
    Ok(())
}

/// The socket file of `--admin-listen`.
fn admin(layers: &Layers) -> Result<Option<PathBuf>, ConfigError> {
    layers.one("admin_listen", |text| {
        let path = text.strip_prefix("unix:").ok_or_else(socket_file_allowed)?;
        socket_file(path)
    })
}

fn listen(text: &str) -> Result<Listen, String> {
    if let Some(path) = text.strip_prefix("unix:") {
        let at = At::Unix(socket_file(path)?);
        return Ok(Listen { at, tls: false });
    }
    let (address, tls) = match text.strip_prefix("tls:") {
        Some(address) => (address, true),
        None => (text, false),
    };
    let allowed = "an IP address and a port, such as 127.0.0.1:8080, 0.0.0.0:8080 (all interfaces) or \
                   [::1]:8080, with tls: before it for TLS; or unix: and the absolute path of a socket";
    let at = address.parse().map(At::Tcp).map_err(|_| allowed)?;
    Ok(Listen { at, tls })
}

fn socket_file(path: &str) -> Result<PathBuf, String> {
    let is_usable =
        path.starts_with('/') && path.len() <= SOCKET_PATH_MAX_BYTES && !path.contains('\0');
    is_usable
        .then(|| path.into())
        .ok_or_else(socket_file_allowed)
}

fn socket_file_allowed() -> String {
    format!("unix: and an absolute path of at most {SOCKET_PATH_MAX_BYTES} bytes")
}

fn pairs(layers: &Layers) -> Result<Vec<Pair>, ConfigError> {
    let files = |key| Ok::<_, ConfigError>(layers.list(key, value::file)?.unwrap_or_default());
    let (certs, keys) = (files("tls_cert")?, files("tls_key")?);
    if certs.len() > TLS_PAIRS_MAX {
        return Err(wrong(
            layers,
            "tls_cert",
            format!("at most {TLS_PAIRS_MAX} of them"),
        ));
    }
    if certs.len() != keys.len() {
        let (more, allowed) = match certs.len() > keys.len() {
            true => ("tls_cert", "one file for each --tls-key, in the same order"),
            false => ("tls_key", "one file for each --tls-cert, in the same order"),
        };
        return Err(wrong(layers, more, allowed));
    }
    let pairs = certs.into_iter().zip(keys);
    Ok(pairs.map(|(cert, key)| Pair { cert, key }).collect())
}

fn clients(layers: &Layers) -> Result<Option<ClientFiles>, ConfigError> {
    let ca = layers.one("tls_client_ca", value::file)?;
    let crl = layers.one("tls_client_crl", value::file)?;
    let names = layers
        .list("tls_client_san", Pattern::read)?
        .unwrap_or_default();
    let Some(ca) = ca else {
        let without_ca = [
            ("tls_client_crl", crl.is_some()),
            ("tls_client_san", !names.is_empty()),
        ];
        return match without_ca.iter().find(|(_, is_given)| *is_given) {
            Some((key, _)) => Err(wrong(layers, key, "a value only with --tls-client-ca")),
            None => Ok(None),
        };
    };
    if names.is_empty() {
        // An authority signs for more than this server.
        let allowed = "a file only with at least one --tls-client-san";
        return Err(wrong(layers, "tls_client_ca", allowed));
    }
    Ok(Some(ClientFiles { ca, crl, names }))
}

/// What is wrong with all values of a key together.
fn wrong(layers: &Layers, key: &'static str, allowed: impl Into<String>) -> ConfigError {
    let (values, origin) = match layers.find(key) {
        Some((values, origin)) => (values.join(",".as_ref()), origin),
        None => (OsString::new(), Origin::flag(key)),
    };
    ConfigError::value(key, &values, origin, allowed)
}
