//! A connection on a core: reads requests, has them answered, writes the answers in order.

mod deliver;
mod greet;
mod receive;

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use monoio::net::TcpStream;

use super::body::Body;
use super::client::{Client, client_at, client_of};
use super::idle::{Idle, Rank, Waiting};
use super::service::{Answer, GivenUp, Peer, Service};
use super::socket::{CoreSockets, INPUT_BYTES, Socket};
use super::tls::keys::Keys;
use super::unless::{at_once, unless};
use crate::http::wire::Reject;
use crate::http::wire::forwarded;
use crate::http::wire::head::{Parse, RequestHead, Scan, parse_from};
use crate::io::address::Address;
use crate::limits::{BUFFER_KEPT_BYTES, HANDSHAKE_MAX_MS, LINGER_MS};

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
pub(crate) struct Patience {
    /// Between two requests, and again from the first byte of a request's head to its end.
    pub idle: Duration,
    /// While the client takes nothing of a response.
    pub stall: Duration,
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
    /// Who makes the request at hand.
    peer: Peer,
    /// Where the connection comes from.
    from: Address,
    patience: Patience,
    /// What was read and not yet used.
    input: Vec<u8>,
    output: Vec<u8>,
}

/// Serves a connection until it ends, on the core whose sockets share `core`; by TLS if there are `keys` for it.
pub(crate) async fn serve<S: Service>(
    stream: TcpStream,
    (peer, keys): (Peer, Option<Arc<Keys>>),
    service: Rc<S>,
    patience: Patience,
    core: Rc<CoreSockets>,
) {
    // A socket that cannot be prepared is one that the client has closed already.
    let idle = core.idle.clone();
    let Ok(mut connection) = Connection::new(stream, peer, service, patience, core, &idle) else {
        return;
    };
    if let Some(keys) = keys {
        let limit = Duration::from_millis(HANDSHAKE_MAX_MS).min(patience.idle);
        if connection.shake_hands(keys, limit).await.is_err() {
            return;
        }
    }
    loop {
        match connection.request().await {
            Ok(true) => {}
            Ok(false) => return connection.linger().await,
            Err(End::Quiet) => return connection.end().await,
            Err(End::Reject(reject)) => return connection.refuse(&reject).await,
            Err(End::Crowded(reject)) => return connection.make_way(&reject),
        }
    }
}

/// Tells a client that there are too many connections, once it has asked for something; answers
/// those that watch over the server. Ends when `place` is wanted for another.
pub(crate) async fn turn_away<S: Service>(
    stream: TcpStream,
    (peer, keys): (Peer, Option<Arc<Keys>>),
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
    let Ok(mut connection) = Connection::new(stream, peer, service, patience, core, &idle) else {
        return;
    };
    unless(pin!(connection.turn_away(keys)), pin!(place.closed())).await;
}

impl<S: Service> Connection<S> {
    fn new(
        stream: TcpStream,
        peer: Peer,
        service: Rc<S>,
        patience: Patience,
        core: Rc<CoreSockets>,
        idle: &Rc<Idle>,
    ) -> io::Result<Connection<S>> {
        Ok(Connection {
            socket: {
                let client = client_at(peer.address, &core.proxies);
                Socket::new(stream, client, patience.stall, core.clone(), idle)?
            },
            core,
            service,
            from: peer.address,
            peer,
            patience,
            input: Vec::new(),
            output: Vec::new(),
        })
    }

    /// Reads and answers one request. Whether another may follow.
    async fn request(&mut self) -> Result<bool, End> {
        let mut scan = Scan::default();
        self.peer.address = self.from;
        self.socket.renew();
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
        self.asked_by(&head)?;
        let service = self.service.clone();
        let entry = {
            let entry = pin!(service.enter(&head, &self.peer));
            self.while_there(entry).await
        };
        let entry = entry.map_err(|why| self.unanswered(&head, asked, why))?;
        // What is not let in waits where it came from until here, in the kernel.
        let body_use = service.body_use(&head, &entry);
        let body = self.read_body(&mut head, body_use).await?;
        self.output.clear();
        let mut output = std::mem::take(&mut self.output);
        let answer = {
            let answer = pin!(service.answer(&head, &self.peer, (entry, body), &mut output));
            self.while_there(answer).await
        };
        self.output = output;
        answer.map_err(|why| self.unanswered(&head, asked, why))
    }

    fn unanswered(&self, head: &RequestHead<'_>, asked: Instant, why: GivenUp) -> End {
        self.service.unanswered(head, &self.peer, asked, why);
        match why {
            GivenUp::Crowded => End::Crowded(TOO_MANY),
            _ => End::Quiet,
        }
    }

    /// Finds out who makes a request. Who has shown a certificate that is good no more is nobody's client.
    fn asked_by(&mut self, head: &RequestHead<'_>) -> Result<(), End> {
        let proxies = &self.core.proxies;
        if proxies.trusts(self.from) {
            let asker = forwarded::asker(&head.forwarded_for, |address| proxies.has(address));
            self.peer.address = asker.map_or(self.from, Address::Forwarded);
        }
        match self.peer.identity.is_lost() {
            true => Err(End::Quiet),
            false => Ok(()),
        }
    }

    /// As whose what the request at hand takes counts.
    fn client(&self) -> Client {
        match self.peer.address {
            Address::Forwarded(address) => client_of(address),
            own => client_at(own, &self.core.proxies),
        }
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
        let waiting = self.socket.enter(Rank::Answer);
        let gone = pin!(self.socket.gone(|| waiting.desert()));
        let answer = pin!(unless(answer, gone));
        match unless(answer, pin!(waiting.closed())).await {
            Some(Some(answer)) => Ok(answer),
            Some(None) => Err(GivenUp::Gone),
            None => Err(GivenUp::Crowded),
        }
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
        if self.socket.send(&self.output, false).await.is_ok() {
            self.linger().await;
        }
    }

    /// Tells the client that nothing follows, unless the place is needed before it takes that.
    async fn end(&self) {
        let waiting = self.socket.enter(Rank::Request);
        let end = pin!(self.socket.end(Duration::from_millis(LINGER_MS)));
        unless(end, pin!(waiting.closed())).await;
    }

    /// Waits a little for the client to take the last response, unless the place is needed.
    async fn linger(&self) {
        let waiting = self.socket.enter(Rank::Request);
        let linger = pin!(self.socket.linger(Duration::from_millis(LINGER_MS)));
        unless(linger, pin!(waiting.closed())).await;
    }

    /// Refuses the one request of a connection for which there is no place, unless it is vital.
    async fn turn_away(&mut self, keys: Option<Arc<Keys>>) {
        let mut scan = Scan::default();
        let limit = Duration::from_millis(LINGER_MS);
        if let Some(keys) = keys
            && self.shake_hands(keys, limit).await.is_err()
        {
            return;
        }
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
                if self.asked_by(&head).is_err() {
                    return;
                }
                self.output.clear();
                let mut output = std::mem::take(&mut self.output);
                let service = self.service.clone();
                let entry = service.enter(&head, &self.peer).await;
                let entered = (entry, Body::default());
                let answer = service.answer(&head, &self.peer, entered, &mut output);
                let answer = answer.await;
                self.output = output;
                if self.deliver(answer, began).await.is_ok() {
                    self.linger().await;
                }
            }
            _ => self.refuse(&TOO_MANY).await,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::HEAD_FREE_BYTES;

    #[test]
    fn the_buffer_of_a_head_without_a_budget_is_kept() {
        let head = vec![b'x'; HEAD_FREE_BYTES];
        let kept_head = kept(head.clone());
        assert!(kept_head.is_empty() && kept_head.capacity() == head.capacity());
        assert_eq!(kept([head, vec![b'x']].concat()).capacity(), 0);
    }
}
