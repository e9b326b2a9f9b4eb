//! The bytes of a connection, as they are or inside of TLS. Nothing here waits for longer than the socket does.

use std::io::{self, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use rustix::event::PollFlags;
use rustls::ClientConnection;

use super::connect::wait_for;
use super::distrust::told;
use super::stop::Stop;
use super::tls::Tls;
use crate::limits::TLS_READ_BYTES;

/// A connection.
pub(super) enum Wire {
    Plain(TcpStream),
    Tls(Box<Session>),
}

/// What a look for bytes has brought.
pub(super) enum Came {
    /// So many.
    Bytes(usize),
    /// Something that is none yet: a part of a record, or what TLS says for itself.
    Parts,
    /// The other side has said that nothing more follows.
    End,
}

impl Wire {
    /// What TLS there is begins with the first bytes.
    pub(super) fn new(socket: TcpStream, tls: Option<&Tls>) -> io::Result<Wire> {
        let Some(way) = tls else {
            return Ok(Wire::Plain(socket));
        };
        let tls = ClientConnection::new(way.config.clone(), way.name.clone());
        Ok(Wire::Tls(Box::new(Session {
            socket: BufReader::with_capacity(TLS_READ_BYTES, socket),
            tls: tls.map_err(io::Error::other)?,
            has_ended: false,
            shows_own: way.shows_own(),
        })))
    }

    pub(super) fn socket(&self) -> &TcpStream {
        match self {
            Wire::Plain(socket) => socket,
            Wire::Tls(session) => session.socket.get_ref(),
        }
    }

    /// Does one step of a handshake; whether there is none left to do.
    pub(super) fn shake(&mut self) -> io::Result<bool> {
        match self {
            Wire::Plain(_) => Ok(true),
            Wire::Tls(session) => session.shake(),
        }
    }

    /// Takes some of `bytes`, or goes on with what it took before: then it takes none. See [`Wire::is_sent`].
    pub(super) fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Wire::Plain(socket) => match socket.write(bytes)? {
                0 => Err(io::ErrorKind::WriteZero.into()),
                sent => Ok(sent),
            },
            Wire::Tls(session) if session.tls.wants_write() => session.push().map(|()| 0),
            Wire::Tls(session) => session.tls.writer().write(bytes),
        }
    }

    /// Whether all has left that was taken.
    pub(super) fn is_sent(&self) -> bool {
        match self {
            Wire::Plain(_) => true,
            Wire::Tls(session) => !session.tls.wants_write(),
        }
    }

    /// Looks once for bytes. Over TLS an end that the other side has not said is an error.
    pub(super) fn read(&mut self, into: &mut [u8]) -> io::Result<Came> {
        match self {
            Wire::Plain(socket) => socket.read(into).map(Came::of),
            Wire::Tls(session) => match session.tls.reader().read(into) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    session.pull().map(|()| Came::Parts)
                }
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                    let what = "the connection ended without a word of TLS that it ends";
                    Err(io::Error::new(e.kind(), what))
                }
                read => read.map(Came::of),
            },
        }
    }

    /// Waits for bytes or the end; whether there are before `until`.
    pub(super) fn wait(&mut self, until: Instant, stop: &Stop) -> io::Result<bool> {
        match self {
            Wire::Plain(socket) => wait_for(socket, PollFlags::IN, until, stop),
            Wire::Tls(session) => session.wait(until, stop),
        }
    }
}

impl Came {
    fn of(bytes: usize) -> Came {
        match bytes {
            0 => Came::End,
            bytes => Came::Bytes(bytes),
        }
    }
}

/// A connection inside of TLS.
pub(super) struct Session {
    /// Rustls takes little at a time.
    socket: BufReader<TcpStream>,
    tls: ClientConnection,
    /// Whether nothing more comes by the socket.
    has_ended: bool,
    /// Whether a certificate of one's own is shown.
    shows_own: bool,
}

impl Session {
    /// Sends some of what is to be sent.
    fn push(&mut self) -> io::Result<()> {
        match self.tls.write_tls(self.socket.get_mut()) {
            Ok(0) => Err(io::ErrorKind::WriteZero.into()),
            Ok(_) => Ok(()),
            Err(e) if is_pause(&e) => Err(e),
            Err(e) => Err(self.last_word().unwrap_or(e)),
        }
    }

    /// Why the other side takes nothing more, if it has said so before it left.
    fn last_word(&mut self) -> Option<io::Error> {
        while self.tls.read_tls(&mut self.socket).is_ok_and(|got| got > 0) {
            if let Err(e) = self.tls.process_new_packets() {
                return Some(told(e, self.shows_own));
            }
        }
        None
    }

    /// Takes some of what has come.
    fn pull(&mut self) -> io::Result<()> {
        // What TLS says for itself, such as an answer to new keys, must not wait for the next request.
        while self.tls.wants_write() {
            self.push()?;
        }
        if self.tls.read_tls(&mut self.socket)? == 0 {
            self.has_ended = true;
        }
        self.tls.process_new_packets().map(|_| ()).map_err(|e| {
            // The other side is told why, if that is possible at once.
            let _ = self.push();
            told(e, self.shows_own)
        })
    }

    fn shake(&mut self) -> io::Result<bool> {
        if self.tls.is_handshaking() {
            match self.tls.wants_write() {
                true => self.push()?,
                false if self.has_ended => return Err(io::ErrorKind::UnexpectedEof.into()),
                false => self.pull()?,
            }
        }
        Ok(!self.tls.is_handshaking())
    }

    fn wait(&mut self, until: Instant, stop: &Stop) -> io::Result<bool> {
        loop {
            let state = self.tls.process_new_packets();
            let state = state.map_err(|e| told(e, self.shows_own))?;
            let is_here = state.plaintext_bytes_to_read() > 0 || state.peer_has_closed();
            if is_here || self.has_ended {
                return Ok(true);
            }
            let is_empty = self.socket.buffer().is_empty();
            let has_time = match is_empty {
                true => wait_for(self.socket.get_ref(), PollFlags::IN, until, stop)?,
                false => Instant::now() < until,
            };
            if !has_time {
                return Ok(false);
            }
            match self.pull() {
                Err(e) if !is_pause(&e) => return Err(e),
                _ => {}
            }
        }
    }
}

/// Whether a call only took its time: nothing is wrong.
pub(super) fn is_pause(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}
