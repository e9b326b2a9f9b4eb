//! Reads requests: their heads, and their bodies as far as they are wanted.

use std::io;
use std::pin::{Pin, pin};
use std::time::{Duration, Instant};

use super::super::bodies::{Lost, Share};
use super::super::body::Body;
use super::super::idle::{Rank, Waiting};
use super::super::service::{BodyUse, GivenUp, Service};
use super::super::socket::INPUT_BYTES;
use super::super::unless::unless;
use super::{Connection, End, NO_ROOM, TOO_SLOW};
use crate::http::wire::body::Decoder;
use crate::http::wire::head::{Framing, Parse, RequestHead, Scan, parse_from};
use crate::http::wire::response::CONTINUE;
use crate::limits::{
    BODY_GROWTH, BODY_LOOK_MS, BODY_PAUSE_MAX_MS, BODY_TIME_MAX_MS, BODY_WAIT_MS, HEAD_FREE_BYTES,
    HEAD_ROOM_BYTES_MAX, MAPPED_FROM_BYTES, UNUSED_BODY_BYTES_MAX,
};

/// What a head may take: more than a little only as a part of the budget for bodies.
pub(super) struct HeadRoom {
    bytes: usize,
    share: Option<Share>,
}

impl Default for HeadRoom {
    fn default() -> HeadRoom {
        HeadRoom {
            bytes: HEAD_FREE_BYTES,
            share: None,
        }
    }
}

impl HeadRoom {
    /// Ready when others need the room.
    pub(super) async fn lost(&self) {
        match &self.share {
            Some(share) => share.lost().await,
            None => std::future::pending().await,
        }
    }
}

/// The time that a body has.
struct BodyTime {
    began: Instant,
    /// How often it may still be looked for room for it.
    looks_for_room: u64,
    /// The client waits to be told to send it.
    asks_leave: bool,
}

impl BodyTime {
    fn new(head: &RequestHead<'_>) -> BodyTime {
        BodyTime {
            began: Instant::now(),
            looks_for_room: BODY_WAIT_MS / BODY_LOOK_MS,
            asks_leave: head.expect_continue,
        }
    }
}

impl<S: Service> Connection<S> {
    /// Reads until a whole head is in the input buffer, or until one is refused. Gives the part of the
    /// budget that the head has.
    pub(super) async fn read_head(&mut self, scan: &mut Scan) -> Result<HeadRoom, End> {
        let waiting = self.socket.enter(Rank::Request);
        let mut room = HeadRoom::default();
        let mut began = None;
        while let Parse::Partial = parse_from(&self.input, scan)? {
            if self.input.len() >= HEAD_ROOM_BYTES_MAX {
                return Err(End::Quiet);
            }
            let read = {
                let read = pin!(self.read_head_bytes(&mut room, &mut began));
                unless(read, pin!(waiting.closed())).await
            };
            let Some(read) = read else {
                self.service.given_up(GivenUp::Crowded);
                return Err(End::Quiet);
            };
            read?;
        }
        Ok(room)
    }

    /// Reads more of a head. As a whole it has its time, however many bytes it comes in.
    async fn read_head_bytes(
        &mut self,
        room: &mut HeadRoom,
        began: &mut Option<Instant>,
    ) -> Result<(), End> {
        if self.input.is_empty() {
            return self.read_first().await;
        }
        let began = began.get_or_insert_with(Instant::now);
        self.make_room(room).await?;
        let had = self.input.len();
        let left = self.patience.idle.saturating_sub(began.elapsed());
        let read = {
            let read = pin!(self.read_at_most(room.bytes - had, left));
            unless(read, pin!(room.lost())).await
        };
        let Some(read) = read else {
            return Err(self.give_up(GivenUp::SlowBody, TOO_SLOW));
        };
        read?;
        if let Some(share) = &mut room.share {
            share.arrived((self.input.len() - had) as u64);
        }
        Ok(())
    }

    /// Has the input buffer have room for more of a head.
    async fn make_room(&mut self, room: &mut HeadRoom) -> Result<(), End> {
        let had = self.input.len();
        if had < HEAD_FREE_BYTES {
            // Not twice what there is, as it would become.
            self.input.reserve_exact(HEAD_FREE_BYTES - had);
        }
        while had >= room.bytes {
            let (bodies, client) = (&self.core.bodies, self.client());
            let share = room.share.get_or_insert_with(|| bodies.arriving(client));
            let growth = room.bytes * (BODY_GROWTH as usize - 1);
            let more = growth.min(HEAD_ROOM_BYTES_MAX - room.bytes);
            let mut looks = BODY_WAIT_MS / BODY_LOOK_MS;
            self.claimed(pin!(share.claim(more as u64)), &mut looks)
                .await?;
            room.bytes += more;
        }
        if self.input.capacity() < room.bytes {
            // So large that it is mapped: what is never written to takes no memory, and all of it
            // goes back to the kernel.
            let mut mapped = Vec::new();
            if mapped
                .try_reserve_exact(MAPPED_FROM_BYTES as usize)
                .is_err()
            {
                return Err(self.give_up(GivenUp::NoRoom, NO_ROOM));
            }
            mapped.append(&mut self.input);
            self.input = mapped;
        }
        Ok(())
    }

    /// Reads the first bytes of a request, for which the client has the idle time; ends quietly
    /// when the server stops meanwhile.
    async fn read_first(&mut self) -> Result<(), End> {
        let service = self.service.clone();
        let idle = self.patience.idle;
        match unless(pin!(self.read_more(idle)), pin!(service.closing())).await {
            Some(read) => read,
            None => Err(End::Quiet),
        }
    }

    /// Reads into the input buffer. Ends quietly when nothing comes in time or all is over.
    pub(super) async fn read_more(&mut self, limit: Duration) -> Result<(), End> {
        self.read_at_most(INPUT_BYTES, limit).await
    }

    /// As [`read_more`](Self::read_more), at most `most` bytes.
    async fn read_at_most(&mut self, most: usize, limit: Duration) -> Result<(), End> {
        let received = match limit.is_zero() {
            true => Err(io::ErrorKind::TimedOut.into()),
            false => self.socket.receive(&mut self.input, most, limit).await,
        };
        match received {
            Ok(0) => Err(End::Quiet),
            Ok(_) => Ok(()),
            Err(e) => {
                if e.kind() == io::ErrorKind::TimedOut {
                    self.service.given_up(GivenUp::Silent);
                }
                Err(End::Quiet)
            }
        }
    }

    /// Reads the body of a request as far as the service wants it; what follows the body stays in
    /// the input. A head whose body is not read closes the connection.
    pub(super) async fn read_body(
        &mut self,
        head: &mut RequestHead<'_>,
        body_use: BodyUse,
    ) -> Result<Body, End> {
        if matches!(head.framing, Framing::None | Framing::Length(0)) {
            return Ok(Body::default());
        }
        let is_small = matches!(head.framing, Framing::Length(..=UNUSED_BODY_BYTES_MAX));
        match body_use {
            BodyUse::Keep(max) => self.keep_body(head, max).await,
            BodyUse::Read(max) => {
                let mut reader = self.service.body_reader(head);
                self.read_through(head, max, |bytes| reader.take(bytes))
                    .await?;
                Ok(Body::read(reader))
            }
            BodyUse::Refuse if head.expect_continue || !is_small => {
                head.keep_alive = false;
                Ok(Body::default())
            }
            BodyUse::Discard | BodyUse::Refuse => {
                self.read_through(head, UNUSED_BODY_BYTES_MAX, |bytes| bytes.len() as u64)
                    .await?;
                Ok(Body::default())
            }
        }
    }

    /// Whatever it waits for meanwhile, its client's bytes or room for them: it ends when it is told to.
    async fn keep_body(&mut self, head: &RequestHead<'_>, max: u64) -> Result<Body, End> {
        let waiting = self.socket.enter(Rank::Request);
        let kept = {
            let kept = pin!(self.kept_body(head, max, &waiting));
            unless(kept, pin!(waiting.closed())).await
        };
        kept.unwrap_or_else(|| Err(self.give_up(GivenUp::Crowded, TOO_SLOW)))
    }

    async fn kept_body(
        &mut self,
        head: &RequestHead<'_>,
        max: u64,
        waiting: &Waiting,
    ) -> Result<Body, End> {
        let mut decoder = Decoder::new(head.framing, max)?;
        let most = match head.framing {
            Framing::Length(length) => length,
            _ => max,
        };
        let mut body = Body::arriving(&self.core.bodies, self.client());
        let mut left = BodyTime::new(head);
        loop {
            let had = body.len_bytes();
            while !self.input.is_empty() {
                self.room(&mut body, most, &mut left).await?;
                let decode = |input: &[u8], out: &mut _| decoder.decode(input, out);
                let progress = body.append(&self.input, most, decode)?;
                self.input.drain(..progress.consumed);
                if progress.finished {
                    return match body.is_whole() {
                        Ok(()) => Ok(body),
                        Err(Lost) => Err(self.give_up(GivenUp::SlowBody, TOO_SLOW)),
                    };
                }
            }
            if body.arrived(body.len_bytes() - had) {
                waiting.renew();
            }
            let more = {
                let more = pin!(self.read_body_bytes(&mut left));
                unless(more, pin!(body.lost())).await
            };
            let Some(more) = more else {
                return Err(self.give_up(GivenUp::SlowBody, TOO_SLOW));
            };
            more?;
        }
    }

    /// Waits until there is some room; a body has a time for all its waiting.
    async fn room(&self, body: &mut Body, most: u64, time: &mut BodyTime) -> Result<(), End> {
        self.claimed(pin!(body.room(most)), &mut time.looks_for_room)
            .await
    }

    /// Waits for room, looking for slow ones so often.
    pub(super) async fn claimed(
        &self,
        mut room: Pin<&mut impl Future<Output = Result<(), Lost>>>,
        looks: &mut u64,
    ) -> Result<(), End> {
        let look = Duration::from_millis(BODY_LOOK_MS);
        loop {
            match monoio::time::timeout(look, room.as_mut()).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(Lost)) => return Err(self.give_up(GivenUp::SlowBody, TOO_SLOW)),
                Err(_) if *looks == 0 => {
                    return Err(self.give_up(GivenUp::NoRoom, NO_ROOM));
                }
                Err(_) => {
                    *looks -= 1;
                    self.core.bodies.end_slow();
                }
            }
        }
    }

    /// Reads a body of which nothing is kept, and has `take` see what comes and say what work that was: others
    /// are looked at in between, however fast it comes.
    async fn read_through(
        &mut self,
        head: &RequestHead<'_>,
        max: u64,
        mut take: impl FnMut(&[u8]) -> u64,
    ) -> Result<(), End> {
        let mut decoder = Decoder::new(head.framing, max)?;
        let waiting = self.socket.enter(Rank::Request);
        let mut left = BodyTime::new(head);
        let mut content = Vec::new();
        loop {
            content.clear();
            let progress = decoder.decode(&self.input, &mut content)?;
            self.input.drain(..progress.consumed);
            let work_bytes = take(&content);
            if progress.finished {
                return Ok(());
            }
            self.socket.turn(work_bytes).await.map_err(|_| End::Quiet)?;
            self.socket.rest();
            let read = {
                let more = pin!(self.read_body_bytes(&mut left));
                unless(more, pin!(waiting.closed())).await
            };
            let Some(read) = read else {
                return Err(self.give_up(GivenUp::Crowded, TOO_SLOW));
            };
            read?;
        }
    }

    /// Reads more of a body, in the time that it has left.
    async fn read_body_bytes(&mut self, time: &mut BodyTime) -> Result<(), End> {
        if std::mem::take(&mut time.asks_leave) {
            let sent = self.socket.send(CONTINUE, false).await;
            self.socket.rest();
            sent.map_err(|_| End::Quiet)?;
        }
        let all = Duration::from_millis(BODY_TIME_MAX_MS);
        let pause = Duration::from_millis(BODY_PAUSE_MAX_MS);
        let left = all.saturating_sub(time.began.elapsed());
        self.read_more(left.min(pause)).await
    }
}
