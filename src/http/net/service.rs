//! What connections ask of whoever answers their requests, and tell it.

use std::future::Future;
use std::rc::Rc;
use std::time::Instant;

use super::body::{Body, BodyReader};
use super::made::Made;
pub(crate) use super::peer::{Entrance, Identity, Peer};
use super::socket::{SendError, Sent};
use crate::extent::Source;
use crate::http::wire::Reject;
use crate::http::wire::head::RequestHead;

/// The content of an answer, after its head.
pub(crate) enum Payload {
    /// None, or all of it was written behind the head.
    Written,
    /// From wire offset `start` to `end`, or in chunks to the source's own end.
    Stream {
        source: Box<dyn Source>,
        start: u64,
        end: Option<u64>,
    },
    /// What is made while it is sent, in chunks, by somebody who waits for the client and may have
    /// enough of that: then the response ends as failed.
    Made(Box<Made>),
}

/// What is to be done with the body of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BodyUse {
    /// The answer needs it; at most so many bytes are taken.
    Keep(u64),
    /// The answer needs what the [reader](Service::body_reader) makes of it; at most so many bytes are taken.
    Read(u64),
    /// It means nothing. A small one is read, so that it is not taken for the next request.
    Discard,
    /// The request is refused whatever is in it.
    Refuse,
}

/// Why a connection or a body was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GivenUp {
    /// The client was silent for too long.
    Silent,
    /// When places were short it had waited longest of all, or its address had too many of them.
    Crowded,
    /// The body, or a long head, came too slowly while others waited for room.
    SlowBody,
    /// There was no room for the body, or a long head, in time.
    NoRoom,
    /// The handshake of TLS has failed.
    Handshake,
    /// It has left before it was answered.
    Gone,
}

/// An answer whose head stands in the connection's output buffer.
pub(crate) struct Answer<N> {
    /// What follows the head.
    pub payload: Payload,
    /// Whether the next request may follow.
    pub keep_alive: bool,
    /// What the service wants back when the answer is sent.
    pub note: N,
}

/// What became of an answer.
#[derive(Debug)]
pub(crate) struct Done {
    /// Content that was sent.
    pub sent: Sent,
    /// When the request's head was complete.
    pub asked: Instant,
    /// Whether all of it was sent.
    pub result: Result<(), SendError>,
}

/// What answers requests. One for each core.
pub(crate) trait Service: 'static {
    /// What it keeps of a request until the answer is sent.
    type Note;
    /// By what a request is let in, or why it is not.
    type Entry<'h>;

    /// Whether a request is let in, which its head alone says: of its body nothing is taken before that is known.
    fn enter<'h>(
        self: &Rc<Self>,
        head: &RequestHead<'h>,
        peer: &Peer,
    ) -> impl Future<Output = Self::Entry<'h>>;

    /// Writes the head (and any short content) of the answer to `out`. The body is the service's to
    /// keep or to drop: it is not held while the answer is sent. It is empty unless
    /// [`body_use`](Service::body_use) has it kept.
    fn answer<'h>(
        self: &Rc<Self>,
        head: &RequestHead<'h>,
        peer: &Peer,
        entered: (Self::Entry<'h>, Body),
        out: &mut Vec<u8>,
    ) -> impl Future<Output = Answer<Self::Note>>;

    /// Writes the refusal of a request that could not be read; the connection closes.
    fn refuse(&self, reject: &Reject, out: &mut Vec<u8>);

    /// What is to be done with the body that `head` may bring. Asked before any of it is taken.
    fn body_use(&self, head: &RequestHead<'_>, entry: &Self::Entry<'_>) -> BodyUse;

    /// What reads the body of a request that is to be [read](BodyUse::Read).
    fn body_reader(&self, head: &RequestHead<'_>) -> Box<dyn BodyReader>;

    /// Whether this is asked by who watches over the server, and answered even if there are too many
    /// connections.
    fn is_vital(&self, head: &RequestHead<'_>) -> bool;

    /// An answer was sent, or failed.
    fn done(&self, note: Self::Note, done: Done, peer: &Peer);

    /// A request will not be answered, or its connection was closed.
    fn given_up(&self, why: GivenUp);

    /// The same of one that waited for its answer since it was `asked`.
    fn unanswered(&self, head: &RequestHead<'_>, peer: &Peer, asked: Instant, why: GivenUp);

    /// Ready when connections are to close after the request at hand.
    fn closing(&self) -> impl Future<Output = ()>;

    /// Whether [`closing`](Service::closing) is ready.
    fn is_closing(&self) -> bool;
}
