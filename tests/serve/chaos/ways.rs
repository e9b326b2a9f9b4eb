//! The ways from one server to the bucket and to the upstream: each can be broken by itself.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::{Bytes, Frame, Incoming};
use hyper::{Method, Request, Response, StatusCode};
use s3s::{Body, HttpError};
use tokio::sync::watch;

use crate::bucket_server::{BucketServer, Store};
use crate::support::relay;
use crate::support::rng::Rng;

/// Whether anything comes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    Open,
    /// Connections are taken, and closed.
    Refused,
    /// Requests are taken, and nothing comes of them.
    Silent,
    /// Requests are taken, and wait.
    Paused,
}

/// What becomes of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    Well,
    /// It waits before anything is done.
    Delayed(u64),
    /// Its answer waits.
    SlowFirstByte(u64),
    /// 503, and nothing was done.
    Busy,
    /// 503, and it was done.
    BusyDone,
    /// 409, and nothing was done.
    Conflict,
    /// 412, and it was done: somebody on the way has sent it twice.
    RefusedDone,
    Denied,
    /// The connection breaks before anything is done,
    Cut,
    /// after it was done,
    CutDone,
    /// or in the middle of the answer.
    CutBody,
    /// Half of the answer, which says that it is all.
    Short,
    /// A byte of a part is another one. Who reads heads has nothing to compare them with but TLS.
    Flipped,
}

impl Fate {
    fn choose(rng: &mut Rng, is_write: bool, is_swap: bool, is_part: bool) -> Fate {
        let ms = 20 + rng.below(400);
        let common = [
            Fate::Delayed(ms),
            Fate::SlowFirstByte(ms),
            Fate::Busy,
            Fate::Cut,
            Fate::CutDone,
        ];
        let more: &[Fate] = match (is_write, is_swap, is_part) {
            (true, true, _) => &[
                Fate::BusyDone,
                Fate::Conflict,
                Fate::RefusedDone,
                Fate::RefusedDone,
            ],
            (true, false, _) => &[Fate::BusyDone],
            (false, _, true) => &[Fate::CutBody, Fate::Short, Fate::Flipped, Fate::Denied],
            (false, _, false) => &[Fate::CutBody],
        };
        let all = common.len() + more.len();
        let at = rng.below(all as u64) as usize;
        *common.get(at).unwrap_or_else(|| &more[at - common.len()])
    }
}

struct Shared {
    link: watch::Sender<Link>,
    /// Of a thousand requests so many have another fate.
    permille: AtomicU64,
    rng: Mutex<Rng>,
    fates: Mutex<BTreeMap<String, u64>>,
}

/// The way of one server to the bucket.
pub struct StoreWay {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl StoreWay {
    pub fn new(bucket: &BucketServer, seed: u64) -> StoreWay {
        let shared = Arc::new(Shared {
            link: watch::Sender::new(Link::Open),
            permille: AtomicU64::new(0),
            rng: Mutex::new(Rng::new(seed)),
            fates: Mutex::default(),
        });
        let treating = shared.clone();
        let address = bucket.listen(move |request, store| treat(request, store, treating.clone()));
        StoreWay { address, shared }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn set(&self, link: Link) {
        self.shared.link.send_replace(link);
    }

    /// Has so many of a thousand requests meet with something.
    pub fn spoil(&self, permille: u64) {
        self.shared.permille.store(permille, Ordering::SeqCst);
    }

    /// What has become of requests, and how often.
    pub fn fates(&self) -> BTreeMap<String, u64> {
        self.shared.fates.lock().unwrap().clone()
    }
}

impl Shared {
    fn fate(&self, request: &Request<Incoming>) -> Fate {
        let mut rng = self.rng.lock().unwrap();
        if rng.below(1000) >= self.permille.load(Ordering::SeqCst) {
            return Fate::Well;
        }
        let headers = request.headers();
        let is_write = request.method() != Method::GET && request.method() != Method::HEAD;
        let is_swap = headers.contains_key("if-match") || headers.contains_key("if-none-match");
        let is_part = request.uri().path().contains("/parts/");
        let fate = Fate::choose(&mut rng, is_write, is_swap, is_part);
        let name = format!("{fate:?}");
        let name = name.split('(').next().unwrap_or_default().to_owned();
        *self.fates.lock().unwrap().entry(name).or_default() += 1;
        fate
    }

    /// Ends once nothing comes through.
    async fn broken(&self) {
        let mut link = self.link.subscribe();
        let _ = link.wait_for(|link| *link != Link::Open).await;
    }
}

fn cut() -> HttpError {
    HttpError::new("the connection is cut".into())
}

fn status(status: StatusCode) -> Response<Body> {
    let mut answer = Response::new(Body::empty());
    *answer.status_mut() = status;
    answer
}

async fn treat(
    request: Request<Incoming>,
    store: Store,
    shared: Arc<Shared>,
) -> Result<Response<Body>, HttpError> {
    let mut paused = shared.link.subscribe();
    let _ = paused.wait_for(|link| *link != Link::Paused).await;
    let link = *shared.link.borrow();
    match link {
        Link::Open | Link::Paused => {}
        Link::Refused => return Err(cut()),
        Link::Silent => {
            let mut link = shared.link.subscribe();
            let _ = link.wait_for(|link| *link != Link::Silent).await;
            return Err(cut());
        }
    }
    let fate = shared.fate(&request);
    let wait = |ms| tokio::time::sleep(Duration::from_millis(ms));
    match fate {
        Fate::Delayed(ms) => wait(ms).await,
        Fate::Busy => return Ok(status(StatusCode::SERVICE_UNAVAILABLE)),
        Fate::Conflict => return Ok(status(StatusCode::CONFLICT)),
        Fate::Denied => return Ok(status(StatusCode::FORBIDDEN)),
        Fate::Cut => return Err(cut()),
        _ => {}
    }
    // What has come that far is done, whether or not anybody hears of it.
    let answer = store.answer(request).await?;
    if let Fate::SlowFirstByte(ms) = fate {
        tokio::select! {
            () = wait(ms) => {}
            () = shared.broken() => return Err(cut()),
        }
    }
    let is_well = answer.status().is_success();
    match fate {
        Fate::BusyDone => Ok(status(StatusCode::SERVICE_UNAVAILABLE)),
        Fate::RefusedDone if is_well => Ok(status(StatusCode::PRECONDITION_FAILED)),
        Fate::CutDone => Err(cut()),
        Fate::CutBody | Fate::Short | Fate::Flipped if is_well => spoil(fate, answer).await,
        _ => Ok(answer),
    }
}

/// The answer with another body.
async fn spoil(fate: Fate, answer: Response<Body>) -> Result<Response<Body>, HttpError> {
    let (mut head, body) = answer.into_parts();
    let body = body.collect().await.map_err(HttpError::new)?.to_bytes();
    let mut bytes = body.to_vec();
    let middle = bytes.len() / 2;
    let body = match fate {
        // It says how much there is, and less comes.
        Fate::CutBody => {
            bytes.truncate(middle);
            Body::http_body_unsync(Broken(Some(bytes.into())))
        }
        Fate::Short => {
            head.headers.remove("content-length");
            bytes.truncate(middle);
            Body::from(bytes)
        }
        _ => {
            if let Some(byte) = bytes.get_mut(middle) {
                *byte ^= 1;
            }
            Body::from(bytes)
        }
    };
    Ok(Response::from_parts(head, body))
}

/// A body that breaks off.
struct Broken(Option<Bytes>);

impl hyper::body::Body for Broken {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        let broken = || Err(std::io::ErrorKind::ConnectionReset.into());
        Poll::Ready(Some(
            self.0.take().map_or_else(broken, |it| Ok(Frame::data(it))),
        ))
    }
}

/// The way of one server to the upstream: a proxy, for all servers must call it by one name.
pub struct UpstreamWay {
    address: SocketAddr,
    link: Arc<Mutex<Link>>,
}

impl UpstreamWay {
    pub fn new(upstream: SocketAddr) -> UpstreamWay {
        let link = Arc::new(Mutex::new(Link::Open));
        let now = link.clone();
        let address = relay::listen(move |client| drop(pass(client, upstream, &now)));
        UpstreamWay { address, link }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn set(&self, link: Link) {
        *self.link.lock().unwrap() = link;
    }
}

/// How often a connection sees whether it is still to be there.
const LOOK: Duration = Duration::from_millis(20);

fn pass(client: &TcpStream, upstream: SocketAddr, link: &Mutex<Link>) -> std::io::Result<()> {
    while *link.lock().unwrap() == Link::Paused {
        std::thread::sleep(LOOK);
    }
    let at_first = *link.lock().unwrap();
    match at_first {
        Link::Refused => return Ok(()),
        Link::Silent => {
            while *link.lock().unwrap() == Link::Silent {
                std::thread::sleep(LOOK);
            }
            return Ok(());
        }
        Link::Open | Link::Paused => {}
    }
    let server = TcpStream::connect(upstream)?;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            drop(copy(&server, client, link));
            drop(client.shutdown(Shutdown::Both));
            drop(server.shutdown(Shutdown::Both));
        });
        drop(copy(client, &server, link));
        drop(server.shutdown(Shutdown::Write));
    });
    Ok(())
}

/// Copies for as long as the link is open.
fn copy(mut from: &TcpStream, mut to: &TcpStream, link: &Mutex<Link>) -> std::io::Result<()> {
    from.set_read_timeout(Some(LOOK))?;
    let mut piece = vec![0; 64 << 10];
    while *link.lock().unwrap() == Link::Open {
        match from.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(got) => to.write_all(&piece[..got])?,
            Err(e) if matches!(e.kind(), std::io::ErrorKind::WouldBlock) => {}
            Err(e) => return Err(e),
        }
    }
    drop(from.shutdown(Shutdown::Both));
    drop(to.shutdown(Shutdown::Both));
    Ok(())
}
