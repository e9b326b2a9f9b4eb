//! Sends answers, and tells the service what became of them.

use std::pin::pin;
use std::time::Instant;

use super::super::service::{Answer, Done, Payload, Peer, Service};
use super::super::socket::{SendError, Sent};
use super::super::unless::unless;
use super::{Connection, End};
use crate::limits::REQUEST_TURN_BYTES;

/// An answer on its way. However its task ends, the service hears of it, once.
struct Sending<'s, S: Service> {
    service: &'s S,
    peer: Peer,
    asked: Instant,
    sent: Sent,
    /// Taken when the service was told.
    note: Option<S::Note>,
}

impl<S: Service> Sending<'_, S> {
    fn end(&mut self, result: Result<(), SendError>) {
        if let Some(note) = self.note.take() {
            let done = Done {
                sent: self.sent,
                asked: self.asked,
                result,
            };
            self.service.done(note, done, &self.peer);
        }
    }
}

impl<S: Service> Drop for Sending<'_, S> {
    fn drop(&mut self) {
        self.end(Err(SendError::Cut));
    }
}

impl<S: Service> Connection<S> {
    /// Sends an answer whose head is in the output buffer. Whether another request may follow.
    pub(super) async fn deliver(
        &mut self,
        mut answer: Answer<S::Note>,
        asked: Instant,
    ) -> Result<bool, End> {
        answer.keep_alive &= !self.service.is_closing();
        let service = self.service.clone();
        let mut sending = Sending {
            service: &*service,
            peer: self.peer.clone(),
            asked,
            sent: Sent::default(),
            note: Some(answer.note),
        };
        let mut result = self.send(&mut answer.payload, &mut sending.sent).await;
        if result.is_ok() {
            if !answer.keep_alive {
                // Among what is waited for: no client is to miss the end of what it has whole.
                self.socket.seal_end();
            }
            result = self.socket.flush().await;
        }
        self.socket.rest();
        // A failed answer ends without its length or its last chunk, so no client takes it for
        // a whole one; HTTP/1.0 clients, who know no chunks, always get a length.
        let whole = result.is_ok();
        if !whole {
            self.socket.break_off();
        }
        if matches!(
            result,
            Err(SendError::Stalled(_) | SendError::Slow | SendError::Crowded)
        ) {
            // Nobody takes what is still in the kernel's buffers, or is to.
            self.socket.reset_on_close();
        }
        sending.end(result);
        if !whole {
            return Err(End::Quiet);
        }
        // A client that sends many requests ahead is not the only one.
        if self.socket.turn(REQUEST_TURN_BYTES).await.is_err() {
            return Err(End::Quiet);
        }
        // It may have waited there as one whose client is to take something.
        self.socket.rest();
        Ok(answer.keep_alive)
    }

    async fn send(&self, payload: &mut Payload, sent: &mut Sent) -> Result<(), SendError> {
        match payload {
            Payload::Written => self.socket.send(&self.output, false).await,
            Payload::Stream { source, start, end } => {
                self.socket.send(&self.output, true).await?;
                self.socket
                    .send_source(source.as_mut(), *start, *end, sent)
                    .await
            }
            Payload::Made(made) => {
                let cut = made.cut.take();
                let send = pin!(async {
                    self.socket.send(&self.output, true).await?;
                    self.socket.send_made(made, sent).await
                });
                // Whoever ends in good order drops the other end, and what was made is still sent.
                let cut = pin!(async {
                    let is_cut = match cut {
                        Some(cut) => cut.await.is_ok(),
                        None => false,
                    };
                    if !is_cut {
                        std::future::pending().await
                    }
                });
                unless(send, cut).await.unwrap_or(Err(SendError::Slow))
            }
        }
    }
}
