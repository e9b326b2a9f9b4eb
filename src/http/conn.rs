//! A connection on a core: reads requests, has them answered, writes the answers in order.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::time::{Duration, Instant};

use monoio::net::TcpStream;
use tokio::sync::oneshot;

use super::bodies::{Body, Lost, Share};
use super::body::Decoder;
use super::client::client_of;
use super::head::{Framing, Parse, RequestHead, Scan, parse_from};
use super::idle::{Idle, Rank, Waiting};
use super::response::{CONTINUE, Text};
use super::socket::{CoreSockets, INPUT_BYTES, SendError, Sent, Socket};
use super::unless::{at_once, unless};
use super::{Method, Reject};
use crate::extent::Source;
use crate::limits::{
    BODY_GROWTH, BODY_LOOK_MS, BODY_PAUSE_MAX_MS, BODY_TIME_MAX_MS, BODY_WAIT_MS,
    BUFFER_KEPT_BYTES, HEAD_FREE_BYTES, HEAD_ROOM_BYTES_MAX, LINGER_MS, MAPPED_FROM_BYTES,
    REQUEST_TURN_BYTES, UNUSED_BODY_BYTES_MAX,
};

const TOO_MANY: Reject = Reject::closing(503, "too many connections at once; try again later");
const NO_ROOM: Reject = Reject::closing(
    503,
    "too many requests with bodies or long heads at once; try again later",
);
const TOO_SLOW: Reject = Reject::closing(
    408,
    "the request came too slowly while others waited; try again",
);

/// How long a connection may be left alone.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Between two requests, and again from the first byte of a request's head to its end.
    pub idle: Duration,
    /// While the client takes nothing of a response.
    pub stall: Duration,
}

/// The content of an answer, after its head.
pub enum Payload {
    /// None, or all of it was written behind the head.
    Written,
    /// From wire offset `start` to `end`, or in chunks to the source's own end.
    Stream {
        source: Box<dyn Source>,
        start: u64,
        end: Option<u64>,
    },
    /// What is made while it is sent, in chunks, by somebody who waits for the client and may have
    /// enough of that: when `cut` is ready, or its other end gone with it, the response ends as failed.
    Made {
        source: Box<dyn Source>,
        cut: oneshot::Receiver<()>,
    },
}

/// What is to be done with the body of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyUse {
    /// The answer needs it; at most so many bytes are taken.
    Keep(u64),
    /// It means nothing. A small one is read, so that it is not taken for the next request.
    Discard,
    /// The request is refused whatever is in it.
    Refuse,
}

/// Why a connection or a body was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GivenUp {
    /// The client was silent for too long.
    Silent,
    /// It has waited longest of all when places were short.
    Crowded,
    /// The body, or a long head, came too slowly while others waited for room.
    SlowBody,
    /// There was no room for the body, or a long head, in time.
    NoRoom,
    /// It has left before it was answered.
    Gone,
}

/// An answer whose head stands in the connection's output buffer.
pub struct Answer<N> {
    /// What follows the head.
    pub payload: Payload,
    /// Whether the next request may follow.
    pub keep_alive: bool,
    /// What the service wants back when the answer is sent.
    pub note: N,
}

/// What became of an answer.
#[derive(Debug)]
pub struct Done {
    /// Content that was sent.
    pub sent: Sent,
    /// When the request's head was complete.
    pub asked: Instant,
    /// Whether all of it was sent.
    pub result: Result<(), SendError>,
}

/// An answer on its way. However its task ends, the service hears of it, once.
struct Sending<'s, S: Service> {
    service: &'s S,
    peer: SocketAddr,
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
            self.service.done(note, done, self.peer);
        }
    }
}

impl<S: Service> Drop for Sending<'_, S> {
    fn drop(&mut self) {
        self.end(Err(SendError::Cut));
    }
}

/// What answers requests. One for each core.
pub trait Service: 'static {
    /// What it keeps of a request until the answer is sent.
    type Note;

    /// Writes the head (and any short content) of the answer to `out`. The body is the service's to
    /// keep or to drop: it is not held while the answer is sent. It is empty unless
    /// [`body_use`](Service::body_use) has it kept.
    fn answer(
        &self,
        head: &RequestHead<'_>,
        peer: SocketAddr,
        body: Body,
        out: &mut Vec<u8>,
    ) -> impl Future<Output = Answer<Self::Note>>;

    /// Writes the refusal of a request that could not be read; the connection closes.
    fn refuse(&self, reject: &Reject, out: &mut Vec<u8>);

    /// What is to be done with the body that `head` may bring. Asked before any of it is taken.
    fn body_use(&self, head: &RequestHead<'_>) -> BodyUse;

    /// Whether this is asked by who watches over the server, and answered even if there are too many
    /// connections.
    fn is_vital(&self, head: &RequestHead<'_>) -> bool;

    /// An answer was sent, or failed.
    fn done(&self, note: Self::Note, done: Done, peer: SocketAddr);

    /// A request will not be answered, or its connection was closed.
    fn given_up(&self, why: GivenUp);

    /// The same of one that waited for its answer since it was `asked`.
    fn unanswered(&self, head: &RequestHead<'_>, peer: SocketAddr, asked: Instant, why: GivenUp);

    /// Ready when connections are to close after the request at hand.
    fn closing(&self) -> impl Future<Output = ()>;

    /// Whether [`closing`](Service::closing) is ready.
    fn is_closing(&self) -> bool;
}

/// Why a connection ends without an answer.
enum End {
    /// The client closed it, or asked for nothing in time.
    Quiet,
    /// The request cannot be read.
    Reject(Reject),
    /// Another needs the place now: the client is told if it takes that at once.
    Crowded(Reject),
}

impl From<Reject> for End {
    fn from(reject: Reject) -> End {
        End::Reject(reject)
    }
}

impl From<io::Error> for End {
    fn from(_: io::Error) -> End {
        End::Quiet
    }
}

struct Connection<S> {
    socket: Socket,
    core: Rc<CoreSockets>,
    service: Rc<S>,
    peer: SocketAddr,
    patience: Patience,
    /// What was read and not yet used.
    input: Vec<u8>,
    output: Vec<u8>,
}

/// Serves a connection until it ends, on the core whose sockets share `core`.
pub async fn serve<S: Service>(
    stream: TcpStream,
    peer: SocketAddr,
    service: Rc<S>,
    patience: Patience,
    core: Rc<CoreSockets>,
) {
    // A socket that cannot be prepared is one that the client has closed already.
    let idle = core.idle.clone();
    let Ok(mut connection) = Connection::new(stream, peer, service, patience, core, idle) else {
        return;
    };
    loop {
        match connection.request().await {
            Ok(true) => {}
            Ok(false) => return connection.linger().await,
            Err(End::Quiet) => return,
            Err(End::Reject(reject)) => return connection.refuse(&reject).await,
            Err(End::Crowded(reject)) => return connection.make_way(&reject),
        }
    }
}

/// Tells a client that there are too many connections, once it has asked for something; answers
/// those that watch over the server. Ends when `place` is wanted for another.
pub async fn turn_away<S: Service>(
    stream: TcpStream,
    peer: SocketAddr,
    service: Rc<S>,
    core: Rc<CoreSockets>,
    place: Waiting,
) {
    let limit = Duration::from_millis(LINGER_MS);
    let patience = Patience {
        idle: limit,
        stall: limit,
    };
    let idle = core.turned_away.clone();
    let Ok(mut connection) = Connection::new(stream, peer, service, patience, core, idle) else {
        return;
    };
    unless(pin!(connection.turn_away()), pin!(place.closed())).await;
}

impl<S: Service> Connection<S> {
    fn new(
        stream: TcpStream,
        peer: SocketAddr,
        service: Rc<S>,
        patience: Patience,
        core: Rc<CoreSockets>,
        idle: Rc<Idle>,
    ) -> io::Result<Connection<S>> {
        Ok(Connection {
            socket: Socket::new(stream, patience.stall, core.clone(), idle)?,
            core,
            service,
            peer,
            patience,
            input: Vec::new(),
            output: Vec::new(),
        })
    }

    /// Reads and answers one request. Whether another may follow.
    async fn request(&mut self) -> Result<bool, End> {
        let mut scan = Scan::default();
        let room = self.read_head(&mut scan).await?;
        let asked = Instant::now();
        let input = std::mem::take(&mut self.input);
        let answer = {
            let answer = pin!(self.answer(&input, &mut scan, asked));
            unless(answer, pin!(room.lost())).await
        };
        let Some(answer) = answer else {
            return Err(self.give_up(GivenUp::NoRoom, NO_ROOM));
        };
        let answer = answer?;
        if self.input.is_empty() {
            self.input = kept(input);
        }
        drop(room);
        let more = self.deliver(answer, asked).await?;
        self.output = kept(std::mem::take(&mut self.output));
        Ok(more)
    }

    /// Has the request that begins `input` answered; what follows it becomes the input buffer's.
    async fn answer(
        &mut self,
        input: &[u8],
        scan: &mut Scan,
        asked: Instant,
    ) -> Result<Answer<S::Note>, End> {
        let Parse::Complete {
            mut head,
            head_bytes,
        } = parse_from(input, scan)?
        else {
            return Err(End::Quiet);
        };
        self.input.extend_from_slice(&input[head_bytes..]);
        let body = self.read_body(&mut head).await?;
        self.output.clear();
        let mut output = std::mem::take(&mut self.output);
        let service = self.service.clone();
        let answer = {
            let answer = pin!(service.answer(&head, self.peer, body, &mut output));
            self.while_there(answer).await
        };
        self.output = output;
        answer.map_err(|why| {
            service.unanswered(&head, self.peer, asked, why);
            match why {
                GivenUp::Crowded => End::Crowded(TOO_MANY),
                _ => End::Quiet,
            }
        })
    }

    /// Waits for an answer as long as the client does, and while no other needs the place more.
    async fn while_there<T>(
        &self,
        mut answer: Pin<&mut impl Future<Output = T>>,
    ) -> Result<T, GivenUp> {
        // What is answered at once costs nothing of all this.
        if let Some(answer) = at_once(&mut answer).await {
            return Ok(answer);
        }
        let waiting = self.socket.wait(Rank::Answer);
        let gone = pin!(self.socket.gone(|| waiting.desert()));
        let answer = pin!(unless(answer, gone));
        match unless(answer, pin!(waiting.closed())).await {
            Some(Some(answer)) => Ok(answer),
            Some(None) => Err(GivenUp::Gone),
            None => Err(GivenUp::Crowded),
        }
    }

    /// Reads until a whole head is in the input buffer, or until one is refused. Gives the part of the
    /// budget that the head has.
    async fn read_head(&mut self, scan: &mut Scan) -> Result<HeadRoom, End> {
        let waiting = self.socket.wait(Rank::Request);
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
            let bodies = &self.core.bodies;
            let share = room
                .share
                .get_or_insert_with(|| bodies.arriving(client_of(self.peer.ip())));
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

    /// Sends an answer whose head is in the output buffer. Whether another request may follow.
    async fn deliver(&mut self, mut answer: Answer<S::Note>, asked: Instant) -> Result<bool, End> {
        answer.keep_alive &= !self.service.is_closing();
        let service = self.service.clone();
        let mut sending = Sending {
            service: &*service,
            peer: self.peer,
            asked,
            sent: Sent::default(),
            note: Some(answer.note),
        };
        let result = self.send(&mut answer.payload, &mut sending.sent).await;
        self.socket.rest();
        // A failed answer ends without its length or its last chunk, so no client takes it for
        // a whole one; HTTP/1.0 clients, who know no chunks, always get a length.
        let whole = result.is_ok();
        if matches!(result, Err(SendError::Stalled(_) | SendError::Slow)) {
            // Nobody takes what is still in the kernel's buffers.
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
            Payload::Made { source, cut } => {
                let send = pin!(async {
                    self.socket.send(&self.output, true).await?;
                    self.socket
                        .send_source(source.as_mut(), 0, None, sent)
                        .await
                });
                // Whoever ends in good order drops the other end, and what was made is still sent.
                let cut = pin!(async {
                    if cut.await.is_err() {
                        std::future::pending().await
                    }
                });
                unless(send, cut).await.unwrap_or(Err(SendError::Slow))
            }
        }
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
    async fn read_more(&mut self, limit: Duration) -> Result<(), End> {
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
    async fn read_body(&mut self, head: &mut RequestHead<'_>) -> Result<Body, End> {
        if matches!(head.framing, Framing::None | Framing::Length(0)) {
            return Ok(Body::default());
        }
        let is_small = matches!(head.framing, Framing::Length(..=UNUSED_BODY_BYTES_MAX));
        match self.service.body_use(head) {
            BodyUse::Keep(max) => self.keep_body(head, max).await,
            BodyUse::Refuse if head.expect_continue || !is_small => {
                head.keep_alive = false;
                Ok(Body::default())
            }
            BodyUse::Discard | BodyUse::Refuse => {
                self.discard_body(head).await?;
                Ok(Body::default())
            }
        }
    }

    async fn keep_body(&mut self, head: &RequestHead<'_>, max: u64) -> Result<Body, End> {
        let mut decoder = Decoder::new(head.framing, max)?;
        let most = match head.framing {
            Framing::Length(length) => length,
            _ => max,
        };
        let waiting = self.socket.wait(Rank::Request);
        let mut body = Body::arriving(&self.core.bodies, client_of(self.peer.ip()));
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
                let (lost, closed) = (pin!(body.lost()), pin!(waiting.closed()));
                let more = pin!(unless(more, lost));
                unless(more, closed).await
            };
            let more = match more {
                Some(Some(more)) => more,
                Some(None) => return Err(self.give_up(GivenUp::SlowBody, TOO_SLOW)),
                None => return Err(self.give_up(GivenUp::Crowded, TOO_SLOW)),
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
    async fn claimed(
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

    async fn discard_body(&mut self, head: &RequestHead<'_>) -> Result<(), End> {
        let mut decoder = Decoder::new(head.framing, UNUSED_BODY_BYTES_MAX)?;
        let waiting = self.socket.wait(Rank::Request);
        let mut left = BodyTime::new(head);
        let mut content = Vec::new();
        loop {
            content.clear();
            let progress = decoder.decode(&self.input, &mut content)?;
            self.input.drain(..progress.consumed);
            if progress.finished {
                return Ok(());
            }
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

    fn give_up(&self, why: GivenUp, reject: Reject) -> End {
        self.service.given_up(why);
        match why {
            GivenUp::Crowded => End::Crowded(reject),
            _ => End::Reject(reject),
        }
    }

    /// Refuses a request without waiting for anything.
    fn make_way(&mut self, reject: &Reject) {
        self.output.clear();
        self.service.refuse(reject, &mut self.output);
        self.socket.send_last(&self.output);
    }

    async fn refuse(&mut self, reject: &Reject) {
        // Of a head that was refused nothing is kept meanwhile.
        self.input = Vec::new();
        self.output.clear();
        self.service.refuse(reject, &mut self.output);
        // The connection ends whether the client takes this or not.
        let _ = self.socket.send(&self.output, false).await;
        self.linger().await;
    }

    /// Waits a little for the client to take the last response, unless the place is needed.
    async fn linger(&self) {
        let waiting = self.socket.wait(Rank::Request);
        let linger = pin!(self.socket.linger(Duration::from_millis(LINGER_MS)));
        unless(linger, pin!(waiting.closed())).await;
    }

    /// Refuses the one request of a connection for which there is no place, unless it is vital.
    async fn turn_away(&mut self) {
        let mut scan = Scan::default();
        let limit = Duration::from_millis(LINGER_MS);
        let began = Instant::now();
        while let Ok(Parse::Partial) = parse_from(&self.input, &mut scan) {
            let left = limit.saturating_sub(began.elapsed());
            if self.input.len() >= INPUT_BYTES || self.read_more(left).await.is_err() {
                break;
            }
        }
        if self.input.is_empty() {
            return;
        }
        let input = std::mem::take(&mut self.input);
        match parse_from(&input, &mut scan) {
            Ok(Parse::Complete { mut head, .. }) if self.service.is_vital(&head) => {
                head.keep_alive = false;
                self.output.clear();
                let mut output = std::mem::take(&mut self.output);
                let service = self.service.clone();
                let body = Body::default();
                let answer = service.answer(&head, self.peer, body, &mut output).await;
                self.output = output;
                if self.deliver(answer, began).await.is_ok() {
                    self.linger().await;
                }
            }
            _ => self.refuse(&TOO_MANY).await,
        }
    }
}

/// What a head may take: more than a little only as a part of the budget for bodies.
struct HeadRoom {
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
    async fn lost(&self) {
        match &self.share {
            Some(share) => share.lost().await,
            None => std::future::pending().await,
        }
    }
}

/// What a connection keeps of a buffer until its next request: its room, unless that is large.
fn kept(mut buffer: Vec<u8>) -> Vec<u8> {
    if buffer.capacity() > BUFFER_KEPT_BYTES {
        return Vec::new();
    }
    buffer.clear();
    buffer
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

/// A refusal as text.
pub fn write_reject(
    reject: &Reject,
    keep_alive: bool,
    method: Method,
    date: &str,
    out: &mut Vec<u8>,
) {
    let text = Text::reject(reject, keep_alive, method == Method::Head);
    // Its text is the program's own.
    let _ = text.write(out, date);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_buffer_of_a_head_without_a_budget_is_kept() {
        let head = vec![b'x'; HEAD_FREE_BYTES];
        let kept_head = kept(head.clone());
        assert!(kept_head.is_empty() && kept_head.capacity() == head.capacity());
        assert_eq!(kept([head, vec![b'x']].concat()).capacity(), 0);
    }
}
