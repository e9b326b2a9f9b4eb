//! What a response's bytes go through: the socket as it is, or TLS. One attempt each, which never waits; whoever
//! calls waits for room and tries again.

use std::cell::RefCell;
use std::io;
use std::os::fd::BorrowedFd;

use super::super::tls::{Opened, Session};
use crate::io::gather::{Buffer, Gather, Reading};
use crate::io::{net, outlet};

/// How bytes leave and come.
pub(super) enum Wire {
    /// As they are.
    Plain,
    /// Sealed.
    Tls(RefCell<Box<Session>>),
}

impl Wire {
    /// Appends what is there to `input`, at most what `buffer` has room for.
    pub(super) fn receive(
        &self,
        socket: BorrowedFd<'_>,
        buffer: &mut [u8],
        input: &mut Vec<u8>,
    ) -> io::Result<Opened> {
        match self {
            Wire::Plain => {
                let count = net::receive(socket, buffer)?;
                input.extend_from_slice(&buffer[..count]);
                Ok(Opened::Content(count))
            }
            Wire::Tls(session) => session.borrow_mut().receive(socket, buffer, input),
        }
    }

    /// Sends from memory; `more` says that other bytes follow at once.
    pub(super) fn send(
        &self,
        socket: BorrowedFd<'_>,
        bytes: &[u8],
        more: bool,
    ) -> io::Result<usize> {
        match self {
            Wire::Plain => net::send(socket, bytes, more),
            Wire::Tls(session) => session.borrow_mut().send(socket, bytes, more),
        }
    }

    /// Sends what was taken and is still here.
    pub(super) fn flush(&self, socket: BorrowedFd<'_>) -> io::Result<()> {
        match self {
            Wire::Plain => Ok(()),
            Wire::Tls(session) => session.borrow_mut().flush(socket),
        }
    }

    /// The end of the connection is not that of its content.
    pub(super) fn break_off(&self) {
        if let Wire::Tls(session) = self {
            session.borrow_mut().break_off();
        }
    }

    /// Has the client be told, with what is sent next, that nothing follows.
    pub(super) fn seal_end(&self) {
        if let Wire::Tls(session) = self {
            session.borrow_mut().seal_end();
        }
    }

    /// The client may begin its next request.
    pub(super) fn renew(&self) {
        if let Wire::Tls(session) = self {
            session.borrow_mut().renew();
        }
    }

    /// Sends up to `len` bytes of `file` from `offset`. They must be in memory already, or the call waits for the
    /// disk; what is sealed is gathered in `buffer`, and read as that says. An error of the file is the outer one, as
    /// far as the kernel tells.
    pub(super) fn send_file(
        &self,
        (buffer, reading): (&RefCell<Buffer>, Reading),
        socket: BorrowedFd<'_>,
        file: BorrowedFd<'_>,
        (offset, len): (u64, u64),
    ) -> io::Result<io::Result<usize>> {
        let Wire::Tls(session) = self else {
            return Ok(net::send_file(socket, file, offset, len));
        };
        let mut session = session.borrow_mut();
        let room = match session.room(socket) {
            Ok(room) => room,
            Err(e) => return Ok(Err(e)),
        };
        let mut buffer = buffer.borrow_mut();
        let mut copied = buffer.gather(room, reading);
        copied.put_file(file, offset, len)?;
        Ok(session.seal(socket, copied.as_slice(), false))
    }

    /// Sends up to `len` bytes of those that are in a pipe, behind which others follow at once.
    pub(super) fn send_pipe(
        &self,
        buffer: &RefCell<Buffer>,
        socket: BorrowedFd<'_>,
        pipe: BorrowedFd<'_>,
        len: u64,
    ) -> io::Result<usize> {
        let Wire::Tls(session) = self else {
            return outlet::send(pipe, socket, len, true);
        };
        let mut session = session.borrow_mut();
        let room = session.room(socket)?;
        let mut buffer = buffer.borrow_mut();
        let mut copied = buffer.gather(room, Reading::Now);
        copied.put_pipe(pipe, len)?;
        session.seal(socket, copied.as_slice(), true)
    }
}
