//! The beginning of a connection that speaks TLS. Until it is over such a connection counts as one whose request
//! is waited for: it makes room for others, and has a time as a whole.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use super::super::bodies::Share;
use super::super::idle::Rank;
use super::super::service::{GivenUp, Service};
use super::super::tls::keys::Keys;
use super::super::unless::unless;
use super::{Connection, End};
use crate::io::certificate;
use crate::limits::{BODY_LOOK_MS, BODY_WAIT_MS, HANDSHAKE_BYTES_MAX, HANDSHAKE_FREE_BYTES};

impl<S: Service> Connection<S> {
    /// Shakes hands, for so long at most, and finds out who the client is.
    pub(super) async fn shake_hands(
        &mut self,
        keys: Arc<Keys>,
        limit: Duration,
    ) -> Result<(), End> {
        let waiting = self.socket.enter(Rank::Request);
        let shaken = {
            let shake = pin!(monoio::time::timeout(limit, self.shake(keys)));
            unless(shake, pin!(waiting.closed())).await
        };
        let why = match shaken {
            Some(Ok(shaken)) => return shaken,
            Some(Err(_)) => GivenUp::Silent,
            None => GivenUp::Crowded,
        };
        self.service.given_up(why);
        Err(End::Quiet)
    }

    async fn shake(&mut self, keys: Arc<Keys>) -> Result<(), End> {
        let service = self.service.clone();
        // Who says nothing costs nothing.
        match unless(pin!(self.socket.readable()), pin!(service.closing())).await {
            Some(ready) => ready?,
            None => return Err(End::Quiet),
        }
        self.socket.seal(keys)?;
        let mut share = None;
        loop {
            match self.socket.greet() {
                Ok(true) => break,
                Ok(false) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(self.misgreeted(&e)),
            }
            // A signature may take a millisecond.
            self.socket.breathe().await;
            self.room_to_greet(&mut share).await?;
            let more = pin!(self.socket.greetable());
            let lost = pin!(async {
                match &share {
                    Some(share) => share.lost().await,
                    None => std::future::pending().await,
                }
            });
            unless(more, lost).await.ok_or(End::Quiet)??;
        }
        let shown = self.socket.identity();
        self.peer.identity = shown.map_err(|e| self.misgreeted(&e))?;
        self.socket.breathe().await;
        Ok(())
    }

    /// A long greeting takes its room of what bodies have.
    async fn room_to_greet(&self, share: &mut Option<Share>) -> Result<(), End> {
        match self.socket.greeted_bytes() {
            0..=HANDSHAKE_FREE_BYTES => return Ok(()),
            HANDSHAKE_BYTES_MAX.. => {
                self.service.given_up(GivenUp::Handshake);
                return Err(End::Quiet);
            }
            _ if share.is_some() => return Ok(()),
            _ => {}
        }
        let share = share.insert(self.core.bodies.arriving(self.client()));
        let mut looks = BODY_WAIT_MS / BODY_LOOK_MS;
        let claim = pin!(share.claim(HANDSHAKE_BYTES_MAX));
        // It speaks no HTTP yet in which it could be told why.
        let claimed = self.claimed(claim, &mut looks).await;
        claimed.map_err(|_| End::Quiet)
    }

    fn misgreeted(&self, error: &io::Error) -> End {
        if error.kind() == io::ErrorKind::InvalidData {
            let why = certificate::why_of_io(error).unwrap_or_else(|| error.to_string());
            tracing::debug!(peer = %self.peer.address, "a handshake failed: {why}");
            self.service.given_up(GivenUp::Handshake);
        }
        End::Quiet
    }
}
