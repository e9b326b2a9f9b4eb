//! Where the parts of a snapshot are asked for.

use std::io;
use std::ops::Range;
use std::time::Duration;

use super::answer::Answer;
use super::error::RestoreError;
use super::http::Conn;
use super::link::Link;
use super::request::Request;
use super::straight::{STORE, Store};
use super::untaken::Untaken;
use crate::manifest::parts::Part;

/// Where the parts of a snapshot are asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Source<'a> {
    pub link: Link<'a>,
    /// The path of its repository.
    pub base: &'a str,
    /// What of it, as a query.
    pub query: &'a str,
}

/// What came of a request that may be sent on to the store.
enum Sent {
    /// The server sends the bytes.
    Here,
    /// The store does, on the connection aside.
    There,
    /// Nobody does: it is to be asked for once more, as of a server without a store.
    Nowhere,
}

impl<'a> Source<'a> {
    /// Asks for bytes of a part, which the connection that is given back gives next. What the server's store does not give
    /// the server does: each stretch is asked for there once.
    pub(super) fn ask<'c>(
        &self,
        conn: &'c mut Conn<'a>,
        part: &Part,
        wanted: Range<u64>,
    ) -> Result<&'c mut Conn<'a>, Untaken> {
        let mut sent = Sent::Nowhere;
        let link = self.link;
        let store = link.straight.take(&part.name, wanted.end);
        if let Some(store) = store.filter(|_| link.corrupt.get().is_none()) {
            sent = self.ask_once(conn, part, &wanted, Some(store))?;
        }
        if let Sent::Nowhere = sent {
            if !conn.is_reusable() {
                *conn = Conn::open(self.link)?;
            }
            sent = self.ask_once(conn, part, &wanted, None)?;
        }
        match sent {
            Sent::There => conn.aside.as_deref_mut().ok_or_else(no_aside),
            Sent::Here | Sent::Nowhere => Ok(conn),
        }
    }

    /// Asks the server, which may send on to `store`.
    fn ask_once(
        &self,
        conn: &mut Conn<'a>,
        part: &Part,
        wanted: &Range<u64>,
        store: Option<&'a Store>,
    ) -> Result<Sent, Untaken> {
        let target = format!("{}/parts/{}{}", self.base, part.name, self.query);
        let range = format!("bytes={}-{}", wanted.start, wanted.end - 1);
        let mut fields = vec![("Range", range.as_str())];
        fields.extend(store.map(|store| (STORE, store.origin())));
        let request = Request::get(&target, &fields);
        let answer = match conn.ask(&request, self.link.stall) {
            // Nothing was asked in vain.
            Err(why) if conn.revive(&why)? => conn.ask(&request, self.link.stall)?,
            asked => asked?,
        };
        match (answer.status, store) {
            (206, _) if is_wanted(&answer, part, wanted) => Ok(Sent::Here),
            // Another length, or gone: there is another manifest.
            (200 | 206 | 404 | 410 | 416, _) => Err(Untaken::Final(RestoreError::Changed)),
            (307, Some(store)) => {
                let url = answer.get("location").unwrap_or_default();
                Ok(self.ask_store(conn, (store, url), part, wanted))
            }
            (status, _) if status >= 500 => {
                let text = conn.read_text().unwrap_or_default();
                Err(Untaken::Again(format!("{status}: {text}")))
            }
            _ => Err(Untaken::Final(conn.refused(&answer))),
        }
    }

    /// Asks the store, if that is where the server sends.
    fn ask_store(
        &self,
        conn: &mut Conn<'a>,
        (store, url): (&'a Store, &str),
        part: &Part,
        wanted: &Range<u64>,
    ) -> Sent {
        let Some(target) = store.target(url) else {
            return Sent::Nowhere;
        };
        let range = format!("bytes={}-{}", wanted.start, wanted.end - 1);
        let fields = [("Range", range.as_str())];
        let request = Request::get(&target, &fields).unfollowed();
        let ask = |mut aside: Box<Conn<'a>>| {
            let stall = self.link.stall;
            // Nobody waits for one that is busy.
            let asked = aside.ask_patiently(&request, stall, Duration::ZERO);
            if let Err(why) = &asked
                && aside.was_closed(why)
            {
                return Ok(None);
            }
            Ok::<_, io::Error>(Some((aside, asked?)))
        };
        let aside = conn.aside.take().filter(|aside| aside.is_reusable());
        let link = Link {
            server: &store.server,
            tls: store.tls.as_ref(),
            login: &store.login,
            ..self.link
        };
        // One that was open may have been closed meanwhile.
        let asked = match aside.map(ask) {
            Some(Ok(None)) | None => {
                let afresh = conn.open_aside(link, store);
                afresh.and_then(|aside| ask(Box::new(aside)))
            }
            Some(asked) => asked,
        };
        match asked {
            Ok(Some((aside, answer)))
                if answer.status == 206 && is_wanted(&answer, part, wanted) =>
            {
                conn.aside = Some(aside);
                store.gives();
                Sent::There
            }
            Ok(Some(_)) => Sent::Nowhere,
            Ok(None) | Err(_) => {
                // Where the restore ends nobody has waited for it.
                if !self.link.stop.is_set() {
                    store.is_left();
                }
                Sent::Nowhere
            }
        }
    }
}

fn no_aside() -> Untaken {
    Untaken::Again("the connection to the store is lost".to_owned())
}

/// Whether an answer has these bytes of a part.
fn is_wanted(answer: &Answer, part: &Part, wanted: &Range<u64>) -> bool {
    answer.content_range() == Some((Some(wanted.start), Some(part.bytes)))
}
