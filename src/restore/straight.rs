//! Parts that come straight from a server's store: where that is, and what is not asked for there again.
//!
//! Only the answer with a manifest names a store, and only that origin is gone to, with nothing that says who asks. What comes
//! from there is compared as what the server sends. Each stretch is asked for there once: whatever becomes of it, the next try
//! is the server's. A store that cannot be reached or that stalls is left for good, and so is any once an archive was found
//! corrupt of which something came from there: the server then gives what is asked for again, and is not told that what it has
//! were wrong.
//!
//! Nobody is sent to an address that only he can reach: see [`may_send`].

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, OnceLock, PoisonError};

use super::error::RestoreError;
use super::login::Login;
use super::tls::{Files, Tls};
use super::url::Server;

/// The field that names a store, and by which a client says that it goes there.
pub(super) const STORE: &str = "Tarpon-Store";

/// The store of a server, once it is named.
#[derive(Debug, Default)]
pub(super) struct Straight {
    /// Whom to believe there.
    roots: Option<PathBuf>,
    store: OnceLock<Option<Store>>,
}

/// Where it is.
#[derive(Debug)]
pub(super) struct Store {
    origin: String,
    pub(super) server: Server,
    pub(super) tls: Option<Tls>,
    /// Nobody: it is told nothing of who asks.
    pub(super) login: Login,
    is_left: AtomicBool,
    has_given: AtomicBool,
    /// What it gave was found wrong, and is not used.
    is_doubted: AtomicBool,
    /// The parts that were asked for there, and up to where.
    asked: Mutex<HashSet<(String, u64)>>,
}

impl Straight {
    /// None is named yet; of one that speaks TLS these roots are believed, else the system's.
    pub(super) fn believing(roots: Option<PathBuf>) -> Straight {
        Straight {
            roots,
            store: OnceLock::new(),
        }
    }

    /// A server names its store; the first one counts.
    pub(super) fn is_named(&self, origin: Option<&str>, by: &Server) {
        if let Some(origin) = origin {
            self.store
                .get_or_init(|| Store::at(origin, by, self.roots.clone()));
        }
    }

    /// Whether something that came from the store may be wrong, and was not found so yet.
    pub(super) fn may_be_wrong(&self) -> bool {
        let store = self.store.get().and_then(Option::as_ref);
        store.is_some_and(|it| it.has_given.load(Relaxed) && !it.is_doubted.load(Relaxed))
    }

    /// Whether a restore may have failed because of what came from there, and another try does without.
    pub(super) fn is_to_blame(&self, error: &RestoreError) -> bool {
        let may_be = matches!(
            error,
            RestoreError::Corrupt { .. } | RestoreError::Entry { .. }
        );
        let is_to_blame = may_be && self.may_be_wrong();
        if is_to_blame && let Some(Some(store)) = self.store.get() {
            store.is_left();
            store.is_doubted.store(true, Relaxed);
        }
        is_to_blame
    }

    /// The store, if this stretch of a part, by its end, is to be asked for there: once.
    pub(super) fn take(&self, part: &str, end: u64) -> Option<&Store> {
        let store = self.store.get()?.as_ref()?;
        if store.is_left.load(Relaxed) {
            return None;
        }
        let mut asked = store.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.insert((part.to_owned(), end)).then_some(store)
    }
}

impl Store {
    /// The one at an origin that `by` names; none where it is the server itself, which would be told who asks, or where
    /// others could read along who cannot with the server.
    fn at(origin: &str, by: &Server, roots: Option<PathBuf>) -> Option<Store> {
        let server = Server::parse(origin).ok()?;
        let is_bare = server.user.is_none() && server.prefix.is_empty();
        let is_exposed = server.is_overheard() && !by.is_overheard();
        if !is_bare || is_exposed || server.address.eq_ignore_ascii_case(&by.address) {
            return None;
        }
        let files = Files {
            roots,
            ..Files::default()
        };
        Some(Store {
            tls: Tls::new(&server, files).ok()?,
            origin: server.origin(),
            server,
            login: Login::nobody(),
            is_left: AtomicBool::new(false),
            has_given: AtomicBool::new(false),
            is_doubted: AtomicBool::new(false),
            asked: Mutex::default(),
        })
    }

    /// As it was named.
    pub(super) fn origin(&self) -> &str {
        &self.origin
    }

    /// The target of a URL, if it leads there.
    pub(super) fn target(&self, url: &str) -> Option<String> {
        url.contains("://").then(|| self.server.follow(url))?
    }

    /// Nothing is asked for there any more.
    pub(super) fn is_left(&self) {
        self.is_left.store(true, Relaxed);
    }

    /// Something comes from there.
    pub(super) fn gives(&self) {
        self.has_given.store(true, Relaxed);
    }
}

/// How far an address leads.
#[derive(Debug, PartialEq, Eq)]
enum Reach {
    /// Nobody is there, or many are.
    Nobody,
    /// This machine.
    Loopback,
    /// What is on the same wire: a cloud tells its machines secrets there.
    Link,
    /// A network that is somebody's own.
    Private,
    /// All the world.
    World,
}

impl Reach {
    fn of(address: IpAddr) -> Reach {
        match address.to_canonical() {
            IpAddr::V4(v4) => Reach::of_v4(v4),
            IpAddr::V6(v6) => Reach::of_v6(v6),
        }
    }

    /// The special ones of RFC 6890.
    fn of_v4(v4: Ipv4Addr) -> Reach {
        match v4.octets() {
            [0 | 224..=255, ..] => Reach::Nobody,
            [127, ..] => Reach::Loopback,
            [169, 254, ..] => Reach::Link,
            [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => Reach::Private,
            // Of a provider, and of tests.
            [100, 64..=127, ..] | [198, 18..=19, ..] | [192, 0, 0, _] => Reach::Private,
            _ => Reach::World,
        }
    }

    fn of_v6(v6: Ipv6Addr) -> Reach {
        match v6.segments() {
            // Addresses of version 4 as others write them.
            [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
                Reach::of_v4(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)))
            }
            [0, 0, 0, 0, 0, 0, 0, 1] => Reach::Loopback,
            [0, 0, 0, 0, 0, 0, ..] | [0xff00..=0xffff, ..] => Reach::Nobody,
            [0xfe80..=0xfebf, ..] => Reach::Link,
            [0xfc00..=0xfdff, ..] | [0xfec0..=0xfeff, ..] => Reach::Private,
            _ => Reach::World,
        }
    }
}

/// Whether a server at one address may send a client to another one: to all the world, or to what is as near as it is
/// itself. So none has its clients ask what only they can reach.
pub(super) fn may_send(server: IpAddr, to: IpAddr) -> bool {
    match Reach::of(to) {
        Reach::World => true,
        Reach::Nobody => false,
        reach => reach == Reach::of(server),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(url: &str) -> Server {
        Server::parse(url).unwrap()
    }

    #[test]
    fn only_an_origin_of_its_own_is_gone_to() {
        let by = server("https://tarpon.example.org");
        let at = |origin: &str| Store::at(origin, &by, None).is_some();
        assert!(at("https://s3.example.org") && at("https://s3.example.org:9000"));
        for wrong in [
            "https://tarpon.example.org",
            "https://TARPON.example.org:443",
            "http://s3.example.org",
            "https://user:password@s3.example.org",
            "https://s3.example.org/below",
            "ftp://s3.example.org",
            "/here",
            "",
        ] {
            assert!(!at(wrong), "{wrong}");
        }
        let plain = server("http://tarpon.example.org");
        assert!(Store::at("http://s3.example.org", &plain, None).is_some());
    }

    #[test]
    fn nobody_is_sent_to_what_only_he_can_reach() {
        let may = |server: &str, to: &str| may_send(server.parse().unwrap(), to.parse().unwrap());
        let of_each = ["127.0.0.1", "169.254.1.1", "10.0.0.1", "8.8.8.8"];
        for server in of_each {
            for to in of_each {
                assert_eq!(
                    may(server, to),
                    to == "8.8.8.8" || to == server,
                    "{server} {to}"
                );
            }
        }
        for (server, to, is) in [
            ("10.0.0.1", "192.168.7.7", true),
            ("10.0.0.1", "fd00::1", true),
            ("10.0.0.1", "169.254.169.254", false),
            ("10.0.0.1", "::ffff:127.0.0.1", false),
            ("8.8.8.8", "::ffff:10.0.0.1", false),
            ("8.8.8.8", "64:ff9b::a00:1", false),
            ("8.8.8.8", "64:ff9b::808:808", true),
            ("8.8.8.8", "100.64.0.1", false),
            ("::1", "127.0.0.1", true),
            ("::1", "fe80::1", false),
            ("fe80::2", "fe80::1", true),
            ("2001:4860::8", "2001:4860::9", true),
            ("127.0.0.1", "0.0.0.0", false),
            ("127.0.0.1", "::", false),
            ("8.8.8.8", "224.0.0.1", false),
            ("8.8.8.8", "255.255.255.255", false),
            ("8.8.8.8", "ff02::1", false),
        ] {
            assert_eq!(may(server, to), is, "{server} {to}");
        }
    }

    #[test]
    fn a_url_leads_to_that_origin_or_nowhere() {
        let by = server("https://tarpon.example.org");
        let store = Store::at("https://s3.example.org", &by, None).unwrap();
        let there = "https://s3.example.org/farm/a?X-Amz-Signature=0";
        let target = Some("/farm/a?X-Amz-Signature=0".to_owned());
        assert_eq!(store.target(there), target);
        for wrong in [
            "http://s3.example.org/farm/a",
            "https://s3.example.org:8443/farm/a",
            "https://s3.example.org.evil/farm/a",
            "https://s3.example.org@evil/farm/a",
            "https://tarpon.example.org/farm/a",
            "/farm/a",
            "",
        ] {
            assert_eq!(store.target(wrong), None, "{wrong}");
        }
    }
}
