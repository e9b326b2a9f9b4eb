//! Parts that come straight from a server's store: where that is, and what is not asked for there again.
//!
//! Only the answer with a manifest names a store, and only that origin is gone to, with nothing that says who asks. What comes
//! from there is compared as what the server sends. Each stretch is asked for there once: whatever becomes of it, the next try
//! is the server's. A store that cannot be reached is left for good, and so is any once an archive was found corrupt.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, OnceLock, PoisonError};

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
    pub(super) fn is_not_reached(&self) {
        self.is_left.store(true, Relaxed);
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
