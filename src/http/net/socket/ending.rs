//! How a connection ends: with all that its client should have, and over TLS with a word that this was all; or broken
//! off, without it.

use std::io;
use std::time::{Duration, Instant};

use super::{INPUT_BYTES, Socket};
use crate::io::net;

impl Socket {
    /// Has the connection end in a reset.
    pub(crate) fn reset_on_close(&self) {
        // Fails only on a connection that is reset already.
        let _ = net::reset_on_close(self.fd());
    }

    /// Ends the sending side and reads what the client still sends, for a short while, so that
    /// a reset for unread data does not overtake the response.
    pub(crate) async fn linger(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        self.end(limit).await;
        if net::end_sending(self.fd()).is_err() {
            return;
        }
        let mut scratch = Vec::new();
        let mut left = 256;
        while left > 0 {
            let now = Instant::now();
            let wait = deadline.saturating_duration_since(now);
            scratch.clear();
            match self.receive(&mut scratch, INPUT_BYTES, wait).await {
                Ok(0) | Err(_) => return,
                Ok(_) => left -= 1,
            }
        }
    }

    /// Sends what is taken at once of `bytes`, and nothing behind it.
    pub(crate) fn send_last(&self, bytes: &[u8]) {
        // The connection ends whether the client takes this or not.
        let sent = self.wire.send(self.fd(), bytes, false);
        if sent.is_ok_and(|sent| sent == bytes.len()) {
            self.wire.seal_end();
            let flushed = self.wire.flush(self.fd());
            let _ = flushed.and_then(|()| net::end_sending(self.fd()));
        }
    }

    /// Tells the client that nothing more follows, unless a response has failed, and waits so long for it to take that.
    pub(crate) async fn end(&self, limit: Duration) {
        self.wire.seal_end();
        let told = async {
            while let Err(e) = self.wire.flush(self.fd()) {
                match e.kind() {
                    io::ErrorKind::WouldBlock if self.stream.writable(false).await.is_ok() => {}
                    io::ErrorKind::Interrupted => {}
                    _ => return,
                }
            }
        };
        // Whether it takes it or not, that is the end.
        let _ = monoio::time::timeout(limit, told).await;
    }

    /// A response has failed.
    pub(crate) fn break_off(&self) {
        self.wire.break_off();
    }
}
