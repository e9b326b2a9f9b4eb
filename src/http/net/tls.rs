//! TLS on a core: what a connection has sealed and not sent, and what it has read and not opened.
//!
//! Nothing here waits: whoever calls does so for the socket, and tries again. What is sealed is sent by one
//! system call for up to eight records ([`SEAL_BYTES`]), and waits in memory if the kernel has no room.
//!
//! - [`keys`]: what listeners show of themselves and ask of clients; [`files`]: where that is read.
//! - [`clients`]: which client certificates are good; [`holder`]: that of a connection.

mod clients;
pub mod files;
pub(crate) mod holder;
pub mod keys;
mod slack;
mod worth;

use std::io::{self, Read, Write};
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use rustls::{ProtocolVersion, ServerConnection};

use self::holder::Holder;
use self::keys::Keys;
use self::slack::Slack;
use crate::io::net;
use crate::limits::{
    ROOM_BYTES_MIN, SEAL_ALONE_BYTES, SEAL_BYTES, SEALED_RECORDS_MAX, TLS_RECORD_BYTES,
};

/// A connection that speaks TLS.
pub struct Session {
    connection: ServerConnection,
    keys: Arc<Keys>,
    /// Read so far, as long as it shakes hands.
    greeted_bytes: u64,
    /// What the client may still send that is no content.
    slack: Slack,
    /// Records sealed so far by one key, where the key stays.
    sealed_records: u64,
    /// The kernel has no room for what is sealed.
    is_full: bool,
    /// A response has failed: the client must not take what it got for all.
    is_broken: bool,
    /// What came was no TLS, and nothing more is read.
    is_refused: bool,
}

/// What came of reading.
pub enum Opened {
    /// So many bytes of content; 0 at its end.
    Content(usize),
    /// Nothing to see of it: records without content.
    Nothing,
}

/// The socket itself.
struct Raw<'s>(BorrowedFd<'s>);

impl Read for Raw<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        net::receive(self.0, buffer)
    }
}

impl Write for Raw<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        net::send(self.0, bytes, false)
    }

    fn write_vectored(&mut self, parts: &[io::IoSlice<'_>]) -> io::Result<usize> {
        net::send_all(self.0, parts)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn wrong(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl Session {
    /// A connection of which nothing was read, by the terms of now.
    pub fn new(keys: Arc<Keys>) -> io::Result<Session> {
        let mut connection = ServerConnection::new(keys.terms().server.clone()).map_err(wrong)?;
        // What is sealed is bounded here, by what is asked for at a time.
        connection.set_buffer_limit(None);
        Ok(Session {
            connection,
            keys,
            greeted_bytes: 0,
            slack: Slack::default(),
            sealed_records: 0,
            is_full: false,
            is_broken: false,
            is_refused: false,
        })
    }

    /// Takes the handshake as far as it goes with what has come. Whether it is done.
    pub fn greet(&mut self, socket: BorrowedFd<'_>) -> io::Result<bool> {
        loop {
            self.flush(socket)?;
            if !self.connection.is_handshaking() {
                return Ok(true);
            }
            match self.connection.read_tls(&mut Raw(socket))? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => self.greeted_bytes += count as u64,
            }
            self.process(socket)?;
            if self.connection.is_handshaking() && !self.connection.wants_write() {
                // Whoever waits counts what has come.
                return Ok(false);
            }
        }
    }

    /// Bytes that were read for the handshake.
    pub(super) fn greeted_bytes(&self) -> u64 {
        self.greeted_bytes
    }

    /// Who holds the certificate that the client has shown, if it has; an error if that is not good.
    pub(super) fn holder(&self) -> io::Result<Option<Holder>> {
        let shown = self.connection.peer_certificates();
        let holder = shown.map(|chain| Holder::new(self.keys.clone(), chain));
        holder.transpose().map_err(wrong)
    }

    /// The client may begin its next request.
    pub fn renew(&mut self) {
        self.slack = Slack::default();
    }

    /// Whether what was sealed waits for room.
    pub(super) fn is_full(&self) -> bool {
        self.is_full
    }

    /// Appends content that is there to `input`, at most what `buffer` has room for.
    pub fn receive(
        &mut self,
        socket: BorrowedFd<'_>,
        buffer: &mut [u8],
        input: &mut Vec<u8>,
    ) -> io::Result<Opened> {
        if let Some(count) = self.content(buffer, input)? {
            return Ok(Opened::Content(count));
        }
        let read = self.connection.read_tls(&mut Raw(socket))?;
        self.slack.take(read)?;
        self.process(socket)?;
        let content = self.content(buffer, input)?;
        Ok(content.map_or(Opened::Nothing, Opened::Content))
    }

    fn content(&mut self, buffer: &mut [u8], input: &mut Vec<u8>) -> io::Result<Option<usize>> {
        match self.connection.reader().read(buffer) {
            Ok(count) => {
                input.extend_from_slice(&buffer[..count]);
                self.slack.content(count);
                Ok(Some(count))
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Opens what was read; the client is told what is wrong with it, if it takes that at once.
    fn process(&mut self, socket: BorrowedFd<'_>) -> io::Result<()> {
        if self.is_refused {
            // It was told so, once.
            return Err(io::ErrorKind::InvalidData.into());
        }
        let processed = self.connection.process_new_packets();
        if self.connection.wants_write() {
            // What is left waits for the next that is sent.
            let _ = self.flush(socket);
        }
        processed.map(drop).map_err(|error| {
            (self.is_broken, self.is_refused) = (true, true);
            wrong(error)
        })
    }

    /// How many bytes are to be sealed next; `WouldBlock` if what was sealed waits for room.
    pub(super) fn room(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        if self.is_full {
            self.flush(socket)?;
        }
        // More than the kernel takes would wait in memory.
        let room = net::room_bytes(socket).unwrap_or(u64::MAX);
        if room == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(SEAL_BYTES.min(room.max(ROOM_BYTES_MIN) as usize))
    }

    /// Seals and sends the first of `bytes`, and says how many; `more` says that other bytes follow at once. What
    /// of them the kernel has no room for is sent before all else.
    pub fn send(&mut self, socket: BorrowedFd<'_>, bytes: &[u8], more: bool) -> io::Result<usize> {
        let most = self.room(socket)?;
        self.seal(socket, &bytes[..bytes.len().min(most)], more)
    }

    /// The same of all of `bytes`, of which there is [`room`](Self::room) for.
    pub(super) fn seal(
        &mut self,
        socket: BorrowedFd<'_>,
        bytes: &[u8],
        more: bool,
    ) -> io::Result<usize> {
        self.count_sealed(bytes.len())?;
        let sealed = self.connection.writer().write(bytes)?;
        if more && bytes.len() < SEAL_ALONE_BYTES {
            return Ok(sealed);
        }
        match self.flush(socket) {
            Err(e) if e.kind() != io::ErrorKind::WouldBlock => Err(e),
            _ => Ok(sealed),
        }
    }

    /// Without changes of keys, as in TLS 1.2, a key is good for so many records. Whoever has all of them sealed gets
    /// nothing more, and no end that says that it was all.
    fn count_sealed(&mut self, len: usize) -> io::Result<()> {
        if self.connection.protocol_version() != Some(ProtocolVersion::TLSv1_2) {
            return Ok(());
        }
        self.sealed_records += len.div_ceil(TLS_RECORD_BYTES) as u64;
        match self.sealed_records <= SEALED_RECORDS_MAX {
            true => Ok(()),
            false => {
                self.is_broken = true;
                Err(io::Error::other("the keys of the connection are used up"))
            }
        }
    }

    /// Sends what is sealed.
    pub fn flush(&mut self, socket: BorrowedFd<'_>) -> io::Result<()> {
        while self.connection.wants_write() {
            match self.connection.write_tls(&mut Raw(socket)) {
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => {
                    self.is_full = e.kind() == io::ErrorKind::WouldBlock;
                    return Err(e);
                }
            }
        }
        self.is_full = false;
        Ok(())
    }

    /// From now on the end of the connection is not that of its content.
    pub fn break_off(&mut self) {
        self.is_broken = true;
    }

    /// Has the client be told, with what is sent next, that nothing follows and all of it was content; unless that
    /// would not be true.
    pub fn seal_end(&mut self) {
        if !self.is_broken && !self.connection.is_handshaking() {
            self.connection.send_close_notify();
        }
    }
}

#[cfg(test)]
mod tests;
