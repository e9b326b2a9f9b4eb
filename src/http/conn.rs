//! A connection on a core: reads requests, has them answered, writes the answers in order.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use monoio::net::TcpStream;

use super::body::Decoder;
use super::head::{Framing, Parse, RequestHead, Scan, parse_from};
use super::response::{CONTINUE, Text};
use super::socket::{CoreSockets, SendError, Sent, Socket};
use super::{Method, Reject};
use crate::extent::Source;
use crate::limits::{
    BODY_BYTES_MAX, BODY_PAUSE_MAX_MS, BODY_TIME_MAX_MS, HEAD_BYTES_MAX, LINGER_MS,
    REQUEST_TURN_BYTES,
};

/// Bytes a connection's buffer starts with; most heads fit.
const INPUT_BYTES: usize = 4096;

const TOO_MANY: Reject = Reject::new(503, "too many connections at once; try again later");

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

    /// Writes the head (and any short content) of the answer to `out`. The body is the
    /// service's to keep or to drop: it is not held while the answer is sent.
    fn answer(
        &self,
        head: &RequestHead<'_>,
        body: Vec<u8>,
        out: &mut Vec<u8>,
    ) -> impl Future<Output = Answer<Self::Note>>;

    /// Writes the refusal of a request that could not be read; the connection closes.
    fn refuse(&self, reject: &Reject, out: &mut Vec<u8>);

    /// The limit of the body that `head` may bring, if it may bring one.
    fn body_bytes_max(&self, head: &RequestHead<'_>) -> u64;

    /// An answer was sent, or failed.
    fn done(&self, note: Self::Note, done: Done, peer: SocketAddr);

    /// A connection was closed because of the client's silence.
    fn timed_out(&self);

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
    service: Rc<S>,
    peer: SocketAddr,
    patience: Patience,
    /// What was read and not yet used.
    input: Vec<u8>,
    output: Vec<u8>,
}

/// Serves a connection until it ends, on the core whose sockets share `sockets`.
pub async fn serve<S: Service>(
    stream: TcpStream,
    peer: SocketAddr,
    service: Rc<S>,
    patience: Patience,
    sockets: Rc<CoreSockets>,
) {
    // A socket that cannot be prepared is one that the client has closed already.
    let Ok(socket) = Socket::new(stream, patience.stall, sockets) else {
        return;
    };
    let mut connection = Connection {
        socket,
        service,
        peer,
        patience,
        input: Vec::with_capacity(INPUT_BYTES),
        output: Vec::new(),
    };
    loop {
        match connection.request().await {
            Ok(true) => {}
            Ok(false) => {
                let linger = Duration::from_millis(LINGER_MS);
                return connection.socket.linger(linger).await;
            }
            Err(End::Quiet) => return,
            Err(End::Reject(reject)) => return connection.refuse(&reject).await,
        }
    }
}

/// Tells a client that there are too many connections, once it has asked for something.
pub async fn turn_away<S: Service>(stream: TcpStream, service: &S, sockets: Rc<CoreSockets>) {
    let limit = Duration::from_millis(LINGER_MS);
    let Ok(socket) = Socket::new(stream, limit, sockets) else {
        return;
    };
    let mut unread = [0u8; INPUT_BYTES];
    if !matches!(socket.receive(&mut unread, limit).await, Ok(1..)) {
        return;
    }
    let mut output = Vec::new();
    service.refuse(&TOO_MANY, &mut output);
    // The connection ends whether the client takes this or not.
    let _ = socket.send(&output, false).await;
    socket.linger(limit).await;
}

impl<S: Service> Connection<S> {
    /// Reads and answers one request. Whether another may follow.
    async fn request(&mut self) -> Result<bool, End> {
        let mut scan = Scan::default();
        let mut began = None;
        while let Parse::Partial = parse_from(&self.input, &mut scan)? {
            if self.input.len() > HEAD_BYTES_MAX + INPUT_BYTES {
                return Err(End::Quiet);
            }
            if self.input.is_empty() {
                self.read_first().await?;
            } else {
                // The head as a whole has its time, however many bytes it comes in.
                let began: &Instant = began.get_or_insert_with(Instant::now);
                let left = self.patience.idle.saturating_sub(began.elapsed());
                self.read_more(left).await?;
            }
        }
        let asked = Instant::now();
        let input = std::mem::take(&mut self.input);
        let Parse::Complete { head, head_bytes } = parse_from(&input, &mut scan)? else {
            return Err(End::Quiet);
        };
        let body = self.read_body(&head, &input[head_bytes..]).await?;
        self.output.clear();
        let mut output = std::mem::take(&mut self.output);
        let service = self.service.clone();
        // A client that has ended its sending side may still read: only sending to it tells.
        let mut answer = service.answer(&head, body, &mut output).await;
        self.output = output;
        answer.keep_alive &= !self.service.is_closing();
        let mut sending = Sending {
            service: &*service,
            peer: self.peer,
            asked,
            sent: Sent::default(),
            note: Some(answer.note),
        };
        let result = self.send(&mut answer.payload, &mut sending.sent).await;
        // A failed answer ends without its length or its last chunk, so no client takes it for
        // a whole one; HTTP/1.0 clients, who know no chunks, always get a length.
        let whole = result.is_ok();
        if matches!(result, Err(SendError::Stalled(_))) {
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
        }
    }

    /// Reads the first bytes of a request, for which the client has the idle time; ends quietly
    /// when the server stops meanwhile.
    async fn read_first(&mut self) -> Result<(), End> {
        let mut buffer = [0u8; INPUT_BYTES];
        let received = {
            let receive = std::pin::pin!(self.socket.receive(&mut buffer, self.patience.idle));
            let closing = std::pin::pin!(self.service.closing());
            match first(receive, closing).await {
                First::Left(received) => received,
                First::Right(()) => return Err(End::Quiet),
            }
        };
        self.take(received, &buffer)
    }

    /// Reads into the input buffer. Ends quietly when nothing comes in time or all is over.
    async fn read_more(&mut self, limit: Duration) -> Result<(), End> {
        let mut buffer = [0u8; INPUT_BYTES];
        let received = match limit.is_zero() {
            true => Err(io::ErrorKind::TimedOut.into()),
            false => self.socket.receive(&mut buffer, limit).await,
        };
        self.take(received, &buffer)
    }

    fn take(&mut self, received: io::Result<usize>, buffer: &[u8]) -> Result<(), End> {
        match received {
            Ok(0) => Err(End::Quiet),
            Ok(count) => {
                self.input.extend_from_slice(&buffer[..count]);
                Ok(())
            }
            Err(e) => {
                if e.kind() == io::ErrorKind::TimedOut {
                    self.service.timed_out();
                }
                Err(End::Quiet)
            }
        }
    }

    /// Reads the body of a request whose first bytes are `rest`; what follows the body goes
    /// back to the input.
    async fn read_body(&mut self, head: &RequestHead<'_>, rest: &[u8]) -> Result<Vec<u8>, End> {
        if head.framing == Framing::None {
            self.input.extend_from_slice(rest);
            return Ok(Vec::new());
        }
        let max = self.service.body_bytes_max(head).min(BODY_BYTES_MAX);
        let mut decoder = Decoder::new(head.framing, max)?;
        let mut body = Vec::new();
        let mut progress = decoder.decode(rest, &mut body)?;
        self.input.extend_from_slice(&rest[progress.consumed..]);
        if !progress.finished && head.expect_continue {
            self.socket
                .send(CONTINUE, false)
                .await
                .map_err(|_| End::Quiet)?;
        }
        let began = Instant::now();
        while !progress.finished {
            let left = Duration::from_millis(BODY_TIME_MAX_MS).saturating_sub(began.elapsed());
            let pause = Duration::from_millis(BODY_PAUSE_MAX_MS);
            self.read_more(left.min(pause)).await?;
            let input = std::mem::take(&mut self.input);
            progress = decoder.decode(&input, &mut body)?;
            self.input.extend_from_slice(&input[progress.consumed..]);
        }
        Ok(body)
    }

    async fn refuse(&mut self, reject: &Reject) {
        self.output.clear();
        self.service.refuse(reject, &mut self.output);
        // The connection ends whether the client takes this or not.
        let _ = self.socket.send(&self.output, false).await;
        self.socket.linger(Duration::from_millis(LINGER_MS)).await;
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

enum First<A, B> {
    Left(A),
    Right(B),
}

/// Whichever is ready first; the left one if both are.
async fn first<A, B>(
    mut left: std::pin::Pin<&mut impl Future<Output = A>>,
    mut right: std::pin::Pin<&mut impl Future<Output = B>>,
) -> First<A, B> {
    std::future::poll_fn(|context| {
        if let std::task::Poll::Ready(a) = left.as_mut().poll(context) {
            return std::task::Poll::Ready(First::Left(a));
        }
        right.as_mut().poll(context).map(First::Right)
    })
    .await
}
