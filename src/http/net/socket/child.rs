//! Sends what a child makes, from its pipe.

use std::num::NonZeroU64;
use std::pin::pin;
use std::time::Instant;

use super::super::made::{Made, Outlet, Taking};
use super::{SendError, Sent, Socket};
use crate::http::wire::response::{CHUNK_END, LAST_CHUNK, chunk_head};

fn failed(error: std::io::Error) -> SendError {
    SendError::Source(format!("cannot read what git writes: {error}"))
}

impl Socket {
    /// Sends all of what is made, in chunked coding. Its last chunk follows only once whoever makes it has
    /// said that it is whole. `sent` counts along, also when it fails.
    pub(in super::super) async fn send_made(
        &self,
        made: &mut Made,
        sent: &mut Sent,
    ) -> Result<(), SendError> {
        let first = std::mem::take(&mut made.first);
        if let Some(len) = NonZeroU64::new(first.len() as u64) {
            made.taking.begin_wait();
            self.send(chunk_head(len).as_bytes(), true).await?;
            self.send(&first, true).await?;
            self.send(CHUNK_END, false).await?;
            made.taking.taken(len.get());
            sent.bytes = len.get();
            sent.first = Some(Instant::now());
        }
        drop(first);
        if let Some(rest) = made.rest.take() {
            let rest = Outlet::new(rest).map_err(failed)?;
            self.send_outlet(&rest, &made.taking, sent).await?;
        }
        if let Some(taken) = made.taken.take() {
            // Nobody hears it where nothing is made any more.
            let _ = taken.send(());
        }
        match self.more(pin!(&mut made.ended)).await? {
            Ok(Ok(())) => self.send(LAST_CHUNK, false).await,
            Ok(Err(why)) => Err(SendError::Source(why.to_string())),
            Err(_) => Err(SendError::Source("the server is stopping".into())),
        }
    }

    /// Sends what comes through a pipe, a chunk of what is there at a time.
    async fn send_outlet(
        &self,
        outlet: &Outlet,
        taking: &Taking,
        sent: &mut Sent,
    ) -> Result<(), SendError> {
        loop {
            let there = pin!(outlet.there_bytes(sent.bytes));
            let there = self.more(there).await?.map_err(failed)?;
            let Some(len) = NonZeroU64::new(there) else {
                return Ok(());
            };
            taking.begin_wait();
            self.send(chunk_head(len).as_bytes(), true).await?;
            let mut left = there;
            while left > 0 {
                let (core, pipe) = (&self.core, outlet.fd());
                let tried = self.timed(|| self.wire.send_pipe(&core.buffer, self.fd(), pipe, left));
                match self.settle(tried).await? {
                    Some(0) => return Err(SendError::Source("a pipe is too short".into())),
                    Some(count) => {
                        left -= count;
                        sent.bytes += count;
                        sent.first.get_or_insert_with(Instant::now);
                        taking.taken(count);
                        taking.begin_wait();
                    }
                    None => {}
                }
            }
            self.send(CHUNK_END, false).await?;
            taking.taken(0);
        }
    }
}
