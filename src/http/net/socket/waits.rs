//! How a response waits: for its client to take it, or for more of it. Its client may leave meanwhile,
//! or be too slow when others need the place.

use std::io;
use std::pin::{Pin, pin};
use std::time::Duration;

use super::super::idle::{Rank, Waiting};
use super::super::unless::{at_once, unless};
use super::{SendError, Socket};
use crate::io::net::{self, Peer};
use crate::limits::{PEER_LOOK_MS, TAKING_SLOW_BYTES};

impl Socket {
    /// Ready when the connection is reset; calls `ended` while its client sends nothing more.
    pub(crate) async fn gone(&self, mut ended: impl FnMut()) {
        loop {
            if self.stream.readable(false).await.is_err() {
                return;
            }
            match net::peer(self.fd()) {
                Peer::Gone => return,
                Peer::Ended => ended(),
                Peer::There => {}
            }
            // A socket with bytes that are not to be read yet stays readable, and one that has ended.
            monoio::time::sleep(Duration::from_millis(PEER_LOOK_MS)).await;
        }
    }

    /// Waits until the client takes bytes again; fails when it has taken none for the limit, or too
    /// little while others need its place.
    pub(super) async fn writable(&self) -> Result<(), SendError> {
        self.sent_in_turn.set(0);
        let mut unsent = net::unsent_bytes(self.fd());
        let place = self.taking(unsent);
        loop {
            let ready = pin!(monoio::time::timeout(
                self.stall,
                self.stream.writable(false)
            ));
            match unless(ready, pin!(place.closed())).await {
                Some(Ok(ready)) => return ready.map_err(SendError::Left),
                Some(Err(_)) => {
                    // A slow client may take bytes without making enough room to be called
                    // writable: only one that takes none is stalled.
                    let now = net::unsent_bytes(self.fd());
                    if now.is_none() || now == unsent {
                        return Err(SendError::Stalled(self.stall));
                    }
                    unsent = now;
                }
                None if place.must_end() => return Err(SendError::Crowded),
                // It may have taken enough since it was last looked at.
                None if self.takes_enough(net::unsent_bytes(self.fd())) => {
                    place.turn_to(Rank::Taking);
                }
                None => return Err(SendError::Slow),
            }
        }
    }

    /// The response's place, as one whose client is to take something. Its time begins anew with every
    /// [`TAKING_SLOW_BYTES`], and when it had waited for something else.
    fn taking(&self, unsent: Option<u32>) -> &Waiting {
        let mut is_new = false;
        let place = self.place.get_or_init(|| {
            is_new = true;
            self.enter(Rank::Taking)
        });
        if is_new || place.rank() != Rank::Taking {
            self.taken_before_bytes.set(self.taken_bytes(unsent));
            if !is_new {
                place.turn_to(Rank::Taking);
            }
        } else if self.takes_enough(unsent) {
            // Whatever it was told a moment ago.
            place.turn_to(Rank::Taking);
        }
        place
    }

    /// Whether the client has taken [`TAKING_SLOW_BYTES`] since its time began; if so, that begins anew.
    fn takes_enough(&self, unsent: Option<u32>) -> bool {
        let taken = self.taken_bytes(unsent);
        let is_enough = taken.saturating_sub(self.taken_before_bytes.get()) >= TAKING_SLOW_BYTES;
        if is_enough {
            self.taken_before_bytes.set(taken);
        }
        is_enough
    }

    /// What the client has acknowledged. What the kernel holds for it may be much, and is taken over
    /// from here in large steps.
    fn taken_bytes(&self, unsent: Option<u32>) -> u64 {
        let unsent = u64::from(unsent.unwrap_or(0));
        self.sent_bytes.get().saturating_sub(unsent)
    }

    /// The response is over: nothing more is waited for.
    pub(crate) fn rest(&mut self) {
        self.place.take();
    }

    /// What of a response comes after a wait for it, unless the client has left, or may have and its
    /// place is needed.
    pub(super) async fn more<T>(
        &self,
        mut more: Pin<&mut impl Future<Output = T>>,
    ) -> Result<T, SendError> {
        if let Some(more) = at_once(&mut more).await {
            return Ok(more);
        }
        self.flush().await?;
        let place = self.place.get_or_init(|| self.enter(Rank::More));
        if place.rank() != Rank::More {
            place.turn_to(Rank::More);
        }
        let gone = pin!(async {
            // Most waits are short, and to watch is not for nothing.
            monoio::time::sleep(Duration::from_millis(PEER_LOOK_MS)).await;
            self.gone(|| place.desert()).await;
        });
        let more = pin!(unless(more, gone));
        match unless(more, pin!(place.closed())).await {
            Some(Some(more)) => Ok(more),
            Some(None) => Err(SendError::Left(io::ErrorKind::ConnectionReset.into())),
            None => Err(SendError::Crowded),
        }
    }
}
