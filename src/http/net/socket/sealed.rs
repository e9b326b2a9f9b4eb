//! The beginning of TLS on a socket, and what is gathered before it is sent, sealed or not.

use std::cell::RefCell;
use std::io;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::super::peer::Identity;
use super::super::tls::Session;
use super::super::tls::keys::Keys;
use super::Socket;
use super::stream::Unsent;
use super::wire::Wire;
use crate::extent::{Next, Source};
use crate::io::gather::{Gather, Reading};
use crate::io::net;
use crate::limits::ROOM_BYTES_MIN;

impl Socket {
    /// Ready when there is something to read.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        self.stream.readable(false).await
    }

    /// Has everything from now on be sealed, which begins with a handshake.
    pub(crate) fn seal(&mut self, keys: Arc<Keys>) -> io::Result<()> {
        self.wire = Wire::Tls(RefCell::new(Box::new(Session::new(keys)?)));
        Ok(())
    }

    /// Takes the handshake as far as it goes. Whether it is done.
    pub(crate) fn greet(&self) -> io::Result<bool> {
        match &self.wire {
            Wire::Plain => Ok(true),
            Wire::Tls(session) => self.timed(|| session.borrow_mut().greet(self.fd())),
        }
    }

    /// Ready when the handshake may go further.
    pub(crate) async fn greetable(&self) -> io::Result<()> {
        let is_full = match &self.wire {
            Wire::Plain => false,
            Wire::Tls(session) => session.borrow().is_full(),
        };
        match is_full {
            true => self.stream.writable(false).await,
            false => self.readable().await,
        }
    }

    /// Bytes that were read for the handshake.
    pub(crate) fn greeted_bytes(&self) -> u64 {
        match &self.wire {
            Wire::Plain => 0,
            Wire::Tls(session) => session.borrow().greeted_bytes(),
        }
    }

    /// Whom the client has shown to be.
    pub(crate) fn identity(&self) -> io::Result<Identity> {
        let holder = match &self.wire {
            Wire::Plain => None,
            Wire::Tls(session) => session.borrow().holder()?,
        };
        Ok(holder.map_or(Identity::None, |holder| {
            Identity::Certificate(Rc::new(holder))
        }))
    }

    /// The client may begin its next request.
    pub(crate) fn renew(&self) {
        self.wire.renew();
    }

    /// Has the client be told, with what is sent next, that nothing follows; unless a response has failed.
    pub(crate) fn seal_end(&self) {
        self.wire.seal_end();
    }
}

impl Socket {
    /// Sends what stands in `wire`, or the first part of it, gathered; gives what the socket said, or `None`
    /// without a pipe. An error of the source is the outer one.
    pub(super) fn gather(
        &self,
        source: &mut dyn Source,
        wire: Range<u64>,
        end: Option<u64>,
        reading: Reading,
    ) -> Result<Option<io::Result<usize>>, Unsent> {
        let is_last = |bytes: usize| end == Some(wire.start + bytes as u64);
        if let Wire::Tls(session) = &self.wire {
            let mut session = session.borrow_mut();
            let room = match session.room(self.fd()) {
                Ok(room) => room,
                Err(e) => return Ok(Some(Err(e))),
            };
            let mut buffer = self.core.buffer.borrow_mut();
            let mut copied = buffer.gather(room, reading);
            fill(&mut copied, source, wire.clone())?;
            let more = !is_last(copied.bytes());
            return Ok(Some(session.seal(self.fd(), copied.as_slice(), more)));
        }
        let mut pipe = self.core.pipe.as_ref().map(RefCell::borrow_mut);
        let Some(mut gathered) = pipe.as_mut().and_then(|pipe| pipe.gather()) else {
            return Ok(None);
        };
        // What the socket does not take would have been put into the pipe for nothing.
        let room = net::room_bytes(self.fd()).unwrap_or(u64::MAX);
        if room == 0 {
            return Ok(Some(Err(io::ErrorKind::WouldBlock.into())));
        }
        let until = wire
            .end
            .min(wire.start.saturating_add(room.max(ROOM_BYTES_MIN)));
        fill(&mut gathered, source, wire.start..until)?;
        let more = !is_last(gathered.bytes());
        Ok(Some(gathered.send(self.fd(), more)))
    }
}

/// Puts what stands in `wire` where it is gathered, as far as there is room.
fn fill(
    gathered: &mut impl Gather,
    source: &mut dyn Source,
    wire: Range<u64>,
) -> Result<(), Unsent> {
    // Everything in `wire` is there already, so nobody has to be woken.
    let mut context = Context::from_waker(Waker::noop());
    loop {
        let at = wire.start + gathered.bytes() as u64;
        if at >= wire.end || !gathered.wants_more() {
            return Ok(());
        }
        let Poll::Ready(next) = source.poll_next(at, wire.end - at, &mut context) else {
            return Ok(());
        };
        let put = match &next {
            Next::Inline(inline) => match inline.as_static() {
                Some(bytes) => gathered.put_static(bytes),
                None => gathered.put(inline.as_slice()),
            },
            Next::File { file, offset, len } => {
                let file = source.file(*file).map_err(Unsent::of_file)?;
                gathered.put_file(file, *offset, *len)
            }
            _ => return Ok(()),
        };
        match put {
            Ok(put) if put as u64 == next.wire_bytes() => {}
            Ok(_) => return Ok(()),
            // What is there before it is sent.
            Err(_) if gathered.bytes() > 0 => return Ok(()),
            Err(e) => return Err(Unsent::of_file(e)),
        }
    }
}
