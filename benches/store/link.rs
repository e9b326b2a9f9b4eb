//! What lies between servers and the bucket: each request waits, and only so many bytes come in a second, of one
//! request and of all together. Parts are sent from the disk, so that the small S3 server is not what is measured.

use super::bucket_server::{BucketServer, Store};
use hyper::body::{Body as _, Bytes, Frame, Incoming};
use hyper::{Method, Request, Response, StatusCode};
use s3s::{Body, HttpError};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// Each request waits so long,
const DELAY: Duration = Duration::from_millis(20);
/// one of them gets so many bytes in a second,
const BYTES_S: f64 = 60e6;
/// and all together so many.
const BYTES_S_ALL: f64 = 200e6;
/// Bytes that are sent at a time.
const PIECE_BYTES: u64 = 128 << 10;

/// What went over the way of one server.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    /// By method, and what kind of object.
    pub requests: BTreeMap<String, u64>,
    /// Bytes of parts that were sent to it, by the last element of the key.
    pub read: BTreeMap<String, u64>,
    /// Bytes that it has sent.
    pub written: u64,
}

impl Counts {
    /// Bytes of parts that were sent to it.
    pub fn read_bytes(&self) -> u64 {
        self.read.values().sum()
    }

    /// All requests.
    pub fn all(&self) -> u64 {
        self.requests.values().sum()
    }
}

/// When the link is free, for all of them.
pub type Shared = Arc<Mutex<Instant>>;

/// The way of one server.
pub struct Link {
    address: SocketAddr,
    state: Arc<State>,
}

struct State {
    root: PathBuf,
    all: Shared,
    counts: Mutex<Counts>,
    is_down: AtomicBool,
}

impl Link {
    /// A way to the bucket whose objects lie in `root`.
    pub fn new(bucket: &BucketServer, root: &Path, all: &Shared) -> Link {
        let state = Arc::new(State {
            root: root.to_owned(),
            all: all.clone(),
            counts: Mutex::default(),
            is_down: AtomicBool::new(false),
        });
        let answering = state.clone();
        let address =
            bucket.listen(move |request, store| answer(request, store, answering.clone()));
        Link { address, state }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What went over it since this was last asked.
    pub fn take_counts(&self) -> Counts {
        let counts = self.state.counts.lock();
        std::mem::take(&mut counts.unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether requests are taken and not answered.
    pub fn set_down(&self, is_down: bool) {
        self.state.is_down.store(is_down, Ordering::SeqCst);
    }
}

impl State {
    fn note(&self, request: &Request<Incoming>) {
        let path = request.uri().path();
        let kind = match path.rsplit('/').next().unwrap_or_default() {
            _ if path.contains("/parts/") => "part",
            name if name.ends_with(".json") => name,
            _ => "list",
        };
        let bytes = request.body().size_hint().exact().unwrap_or(0);
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let named = format!("{} {kind}", request.method());
        *counts.requests.entry(named).or_default() += 1;
        counts.written += bytes;
    }

    /// When so many bytes may be there.
    fn take(&self, bytes: u64) -> Instant {
        let takes = Duration::from_secs_f64(bytes as f64 / BYTES_S_ALL);
        let mut free = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        *free = (*free).max(Instant::now()) + takes;
        *free
    }
}

async fn answer(
    request: Request<Incoming>,
    store: Store,
    state: Arc<State>,
) -> Result<Response<Body>, HttpError> {
    while state.is_down.load(Ordering::SeqCst) {
        tokio::time::sleep(DELAY).await;
    }
    state.note(&request);
    tokio::time::sleep(DELAY).await;
    let is_part = request.uri().path().contains("/parts/");
    if request.method() == Method::GET && is_part {
        return Ok(part(&request, &state).unwrap_or_else(|_| {
            let mut none = Response::new(Body::empty());
            *none.status_mut() = StatusCode::NOT_FOUND;
            none
        }));
    }
    let bytes = request.body().size_hint().exact().unwrap_or(0);
    let sent = Duration::from_secs_f64(bytes as f64 / BYTES_S);
    let free = (Instant::now() + sent).max(state.take(bytes));
    tokio::time::sleep_until(free.into()).await;
    store.answer(request).await
}

/// A stretch of a part, as its request has it.
fn part(request: &Request<Incoming>, state: &Arc<State>) -> io::Result<Response<Body>> {
    let file = File::open(
        state
            .root
            .join(request.uri().path().trim_start_matches('/')),
    )?;
    let length = file.metadata()?.len();
    let range = request.headers().get("range");
    let range = range.and_then(|range| range.to_str().ok()?.strip_prefix("bytes="));
    let (first, end) = match range.and_then(|range| range.split_once('-')) {
        Some((first, last)) => {
            let first = first.parse().map_err(io::Error::other)?;
            let last: Option<u64> = last.parse().ok();
            (first, last.map_or(length, |last| length.min(last + 1)))
        }
        None => (0, length),
    };
    let name = request.uri().path().rsplit('/').next().unwrap_or_default();
    let mut counts = state.counts.lock().unwrap_or_else(PoisonError::into_inner);
    *counts.read.entry(name.to_owned()).or_default() += end - first;
    drop(counts);
    let body = Paced {
        file,
        at: first,
        end,
        began: Instant::now(),
        first,
        wait: None,
        state: state.clone(),
    };
    let mut answer = Response::new(Body::http_body_unsync(body));
    let headers = answer.headers_mut();
    headers.insert("content-length", (end - first).into());
    headers.insert("etag", "\"part\"".parse().map_err(io::Error::other)?);
    let date = "Mon, 30 Nov 2026 00:00:00 GMT";
    headers.insert("last-modified", date.parse().map_err(io::Error::other)?);
    if range.is_some() {
        let of = format!("bytes {first}-{}/{length}", end - 1);
        headers.insert("content-range", of.parse().map_err(io::Error::other)?);
        *answer.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    Ok(answer)
}

/// A stretch of a file, no faster than it may come.
struct Paced {
    file: File,
    first: u64,
    at: u64,
    end: u64,
    began: Instant,
    /// What comes next, and when.
    wait: Option<(Pin<Box<tokio::time::Sleep>>, Bytes)>,
    state: Arc<State>,
}

impl hyper::body::Body for Paced {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let it = &mut *self;
        if it.wait.is_none() {
            let bytes = PIECE_BYTES.min(it.end - it.at);
            if bytes == 0 {
                return Poll::Ready(None);
            }
            let mut piece = vec![0; bytes as usize];
            it.file.read_exact_at(&mut piece, it.at)?;
            it.at += bytes;
            let so_far = Duration::from_secs_f64((it.at - it.first) as f64 / BYTES_S);
            let at = (it.began + so_far).max(it.state.take(bytes));
            let sleep = Box::pin(tokio::time::sleep_until(at.into()));
            it.wait = Some((sleep, piece.into()));
        }
        let ready = it
            .wait
            .as_mut()
            .map(|(sleep, _)| sleep.as_mut().poll(context));
        if ready.is_some_and(|ready| ready.is_pending()) {
            return Poll::Pending;
        }
        let piece = it.wait.take().map(|(_, piece)| Ok(Frame::data(piece)));
        Poll::Ready(piece)
    }
}
