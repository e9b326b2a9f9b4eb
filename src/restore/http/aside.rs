//! A connection to the store beside that to the server, and what becomes of either that was idle meanwhile.

use std::io;

use super::super::link::Link;
use super::super::straight::{Store, may_send};
use super::Conn;

impl<'a> Conn<'a> {
    /// Connects to the store that the server of this one sends to, if that is where such a server may send.
    pub(in crate::restore) fn open_aside(
        &self,
        link: Link<'a>,
        store: &'a Store,
    ) -> io::Result<Conn<'a>> {
        let server = self.wire.socket().peer_addr()?.ip();
        let mut conn = Conn::open_where(link, |address| may_send(server, address))?;
        conn.store = Some(store);
        Ok(conn)
    }

    /// Connects once more if this is an error of a connection that was idle, and was closed meanwhile; whether it has. What
    /// goes on beside it goes on.
    pub(in crate::restore) fn revive(&mut self, error: &io::Error) -> io::Result<bool> {
        if !self.was_closed(error) {
            return Ok(false);
        }
        let aside = self.aside.take();
        self.reopen()?;
        self.aside = aside;
        Ok(true)
    }

    /// Whether this is an error of a connection that was idle, and was closed meanwhile.
    pub(in crate::restore) fn was_closed(&self, error: &io::Error) -> bool {
        use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
        let kinds = [
            BrokenPipe,
            ConnectionAborted,
            ConnectionReset,
            UnexpectedEof,
        ];
        self.has_answered && kinds.contains(&error.kind())
    }
}
