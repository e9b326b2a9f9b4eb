//! A real S3 server on loopback, with what real ones do that it does not, and with faults.
//!
//! The server looks at conditions before it has read the body, and at checksums after it has renamed: so each PUT is
//! read whole here before it goes on, and one at a time for a key.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use http_body_util::BodyExt;
use hyper::body::{Bytes, Incoming};
use hyper::http::request::Parts;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{Body, HttpError};
use s3s_fs::FileSystem;

pub const KEY: &str = "farm";
pub const SECRET: &str = "no-secret-at-all";

/// What becomes of reads by a URL that was signed for somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signed {
    Whole,
    /// They are refused.
    Denied,
    /// They end in the middle.
    Cut,
    /// A byte of each is another one.
    Flipped,
    /// The same of what is no file of a pack, unless it is short.
    FlippedFrames,
    /// They are sent on to where they are, which would be whole.
    Moved,
    /// They begin, and nothing more comes.
    Stalled,
    /// They begin late.
    Late,
}

/// What happens to the next write of a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is done, and the answer says that it was refused.
    Refused,
    /// It is done, and the answer gets lost.
    Lost,
    /// It is not done: the store is busy.
    Busy,
    /// It is not done: the client may not do that.
    Denied,
}

#[derive(Default)]
struct State {
    faults: Mutex<Vec<Fault>>,
    keys: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    /// Reads of keys that have this in them wait.
    held: tokio::sync::watch::Sender<Option<String>>,
    /// What is refused for good: requests that have this in them.
    denied: Mutex<Option<String>>,
    /// All that was asked for: method, key and query; and 304 and the key where it was known.
    asked: Mutex<Vec<String>>,
    /// So many reads wait for that.
    holds: AtomicUsize,
    /// What becomes of reads by signed URLs.
    signed: Mutex<Option<Signed>>,
    /// Those reads: the heads of their requests.
    signed_reads: Mutex<Vec<String>>,
    /// What may be done, by S3's names; all of it if nothing is said.
    allowed: Mutex<Option<Vec<String>>>,
    /// What is said of how the bucket is set up, by what is asked.
    set_up: Mutex<HashMap<String, String>>,
    /// Whether conditions of writes mean nothing.
    is_careless: AtomicBool,
    /// A header without which nothing is answered.
    needed: Mutex<Option<(&'static str, &'static str)>>,
    /// So many bytes were read of each key, in ranges.
    read: Mutex<HashMap<String, u64>>,
    /// Nobody is answered while somebody changes what there is.
    changing: tokio::sync::RwLock<()>,
}

/// The store behind the address: what asks it in other ways than the clients of that.
#[derive(Clone)]
pub struct Store {
    service: S3Service,
    state: Arc<State>,
}

impl Store {
    /// The answer to a request.
    pub async fn answer(self, request: Request<Incoming>) -> Result<Response<Body>, HttpError> {
        answer(request, self.service, self.state).await
    }
}

/// See the module's text. It ends when this is dropped.
pub struct BucketServer {
    address: SocketAddr,
    store: Store,
    state: Arc<State>,
    runtime: tokio::runtime::Handle,
    _running: tokio::sync::oneshot::Sender<()>,
}

impl BucketServer {
    /// A server of a bucket `farm` in a directory.
    pub fn start(root: &Path) -> BucketServer {
        std::fs::create_dir_all(root.join("farm")).expect("a bucket");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let mut builder = S3ServiceBuilder::new(FileSystem::new(root).expect("a file system"));
        builder.set_auth(SimpleAuth::from_single(KEY, SECRET));
        let (service, state) = (builder.build(), Arc::<State>::default());
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0"));
        let listener = listener.expect("a listener");
        let address = listener.local_addr().expect("an address");
        let (running, stopped) = tokio::sync::oneshot::channel::<()>();
        let store = Store {
            service,
            state: state.clone(),
        };
        let handle = runtime.handle().clone();
        let answered = store.clone();
        let serving = serve(listener, move |request| answered.clone().answer(request));
        std::thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = serving => {}
                    _ = stopped => {}
                }
            });
        });
        BucketServer {
            address,
            store,
            state,
            runtime: handle,
            _running: running,
        }
    }

    /// Another address of it, where requests are answered so.
    pub fn listen<F>(
        &self,
        answer: impl Fn(Request<Incoming>, Store) -> F + Clone + Send + 'static,
    ) -> SocketAddr
    where
        F: Future<Output = Result<Response<Body>, HttpError>> + Send + 'static,
    {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a listener");
        listener.set_nonblocking(true).expect("a listener");
        let (address, store) = (listener.local_addr(), self.store.clone());
        self.runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
            serve(listener, move |request| answer(request, store.clone())).await;
        });
        address.expect("an address")
    }

    /// Changes what there is, while nobody is answered.
    pub fn change<T>(&self, change: impl FnOnce() -> T) -> T {
        let alone = self.state.changing.blocking_write();
        let changed = change();
        drop(alone);
        changed
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The variables that a client of it needs.
    pub fn environment(&self) -> Vec<(String, String)> {
        Self::environment_at(self.address)
    }

    /// The same, for a client of another address of it.
    pub fn environment_at(address: SocketAddr) -> Vec<(String, String)> {
        let variables = [
            ("AWS_ENDPOINT", format!("http://{address}")),
            ("AWS_ALLOW_HTTP", "true".to_owned()),
            ("NO_PROXY", "127.0.0.1".to_owned()),
            ("AWS_REGION", "us-east-1".to_owned()),
            ("AWS_ACCESS_KEY_ID", KEY.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", SECRET.to_owned()),
        ];
        Vec::from(variables.map(|(name, value)| (name.to_owned(), value)))
    }

    /// Has these happen to the next writes of heads, the last one first.
    pub fn break_heads(&self, faults: &[Fault]) {
        *self.state.faults.lock().unwrap() = faults.to_vec();
    }

    /// Has reads wait of all that has this in its key, or uploads of a piece with this `partNumber`; of nothing any more
    /// for `None`.
    pub fn hold(&self, text: Option<&str>) {
        self.state.held.send_replace(text.map(str::to_owned));
    }

    /// Says of every write that it was taken, whatever its condition.
    pub fn ignore_conditions(&self) {
        self.state.is_careless.store(true, Ordering::SeqCst);
    }

    /// Refuses all that does not say this.
    pub fn need(&self, name: &'static str, value: &'static str) {
        *self.state.needed.lock().unwrap() = Some((name, value));
    }

    /// The origin at which it is.
    pub fn origin(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Has this become of reads by signed URLs.
    pub fn treat_signed(&self, signed: Signed) {
        *self.state.signed.lock().unwrap() = Some(signed);
    }

    /// Those reads since this was last asked: the heads of their requests.
    pub fn take_signed_reads(&self) -> Vec<String> {
        std::mem::take(&mut self.state.signed_reads.lock().unwrap())
    }

    /// Has it refuse all but these actions.
    pub fn allow(&self, actions: &[String]) {
        *self.state.allowed.lock().unwrap() = Some(actions.to_vec());
    }

    /// Has it say how it is set up, by the query by which that is asked; where it has versions each write is given one.
    pub fn set_up(&self, query: &str, says: &str) {
        let mut set_up = self.state.set_up.lock().unwrap();
        set_up.insert(query.to_owned(), says.to_owned());
    }

    /// How many reads wait.
    pub fn holds(&self) -> usize {
        self.state.holds.load(Ordering::SeqCst)
    }

    /// How many bytes were read in ranges, by the last element of the key.
    pub fn read_bytes(&self) -> HashMap<String, u64> {
        self.state.read.lock().unwrap().clone()
    }

    /// Refuses what has this in its method, key and query; nothing any more for `None`.
    pub fn deny(&self, text: Option<&str>) {
        *self.state.denied.lock().unwrap() = text.map(str::to_owned);
    }

    /// How many requests had all of these in method, key and query.
    pub fn asked(&self, texts: &[&str]) -> usize {
        let asked = self.state.asked.lock().unwrap();
        let has_all = |one: &&String| texts.iter().all(|text| one.contains(text));
        asked.iter().filter(has_all).count()
    }

    /// Whether all of them have happened.
    pub fn has_broken_all(&self) -> bool {
        self.state.faults.lock().unwrap().is_empty()
    }
}

/// An answer to a write that is said to be done.
fn taken() -> Response<Body> {
    let mut answer = status(StatusCode::OK);
    let etag = "\"0\"".parse().expect("a value");
    answer.headers_mut().insert("etag", etag);
    answer
}

/// An answer without a body.
fn status(status: StatusCode) -> Response<Body> {
    let mut answer = Response::new(Body::empty());
    *answer.status_mut() = status;
    answer
}

impl State {
    /// Notes a request; whether it is denied.
    fn note(&self, asked: &str) -> bool {
        let denied = self.denied.lock().unwrap().clone();
        self.asked.lock().unwrap().push(asked.to_owned());
        denied.is_some_and(|text| asked.contains(&text))
    }

    /// Notes a request; whether it is refused.
    fn refuses(&self, head: &Parts, uploads: &str) -> bool {
        let needed = *self.needed.lock().unwrap();
        let lacks = |(name, value)| head.headers.get(name).is_none_or(|it| it != value);
        let allowed = self.allowed.lock().unwrap().clone();
        let is_allowed = |allowed: Vec<String>| allowed.iter().any(|it| it == action(head));
        let has = |name: &&&str| head.headers.contains_key(**name);
        let condition = ["if-match", "if-none-match"].iter().find(has);
        let condition = condition.filter(|_| head.method == "PUT");
        let condition = condition.map_or(String::new(), |name| format!(" {name}"));
        let is_denied = self.note(&format!("{} {uploads}{condition}", head.method));
        is_denied || needed.is_some_and(lacks) || !allowed.is_none_or(is_allowed)
    }
}

async fn serve<F>(
    listener: tokio::net::TcpListener,
    answer: impl Fn(Request<Incoming>) -> F + Clone + Send + 'static,
) where
    F: Future<Output = Result<Response<Body>, HttpError>> + Send + 'static,
{
    while let Ok((socket, _)) = listener.accept().await {
        // As servers have it: else what is small waits for the acknowledgement of what was before it.
        let _ = socket.set_nodelay(true);
        let answer = service_fn(answer.clone());
        let http = hyper::server::conn::http1::Builder::new();
        tokio::spawn(http.serve_connection(TokioIo::new(socket), answer));
    }
}

/// How many bytes a request for a range is for.
fn range_bytes(headers: &hyper::HeaderMap) -> Option<u64> {
    let range = headers.get("range")?.to_str().ok()?;
    let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    Some(last.parse::<u64>().ok()? + 1 - first.parse::<u64>().ok()?)
}

/// Does to an answer what is to become of it.
async fn treat(signed: Signed, is_frames: bool, answer: Response<Body>) -> Response<Body> {
    if signed == Signed::Late {
        tokio::time::sleep(std::time::Duration::from_millis(400)).await;
    }
    let (mut head, body) = answer.into_parts();
    if signed == Signed::Stalled {
        return Response::from_parts(head, Body::http_body_unsync(Stalled::default()));
    }
    // It has the length that it has.
    head.headers.remove("content-length");
    let mut bytes = body.collect().await.unwrap().to_bytes().to_vec();
    let middle = bytes.len() / 2;
    match signed {
        Signed::Whole | Signed::Denied | Signed::Late => {}
        Signed::FlippedFrames if !is_frames => {}
        Signed::Moved | Signed::Stalled => {}
        Signed::Cut => bytes.truncate(middle),
        Signed::Flipped | Signed::FlippedFrames => bytes[middle] ^= 1,
    }
    Response::from_parts(head, Body::from(Bytes::from(bytes)))
}

/// Does to the answer to one who was sent here what is to become of it.
async fn treated(
    state: &State,
    (key, uploads): (&str, &str),
    answer: Response<Body>,
) -> Response<Body> {
    let signed = *state.signed.lock().unwrap();
    match signed.filter(|_| answer.status().is_success()) {
        Some(Signed::Denied) => status(StatusCode::FORBIDDEN),
        Some(Signed::Moved) => moved(uploads),
        Some(signed) => treat(signed, !key.contains("/pack-"), answer).await,
        None => answer,
    }
}

/// Sends a reader on to another key of the same origin.
fn moved(target: &str) -> Response<Body> {
    let mut answer = status(StatusCode::TEMPORARY_REDIRECT);
    let location = format!("{target}&moved").parse().expect("a location");
    answer.headers_mut().insert("location", location);
    answer
}

/// A body that begins and does not go on.
#[derive(Default)]
struct Stalled {
    has_begun: bool,
}

impl hyper::body::Body for Stalled {
    type Data = Bytes;
    type Error = s3s::StdError;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<Bytes>, s3s::StdError>>> {
        let is_first = !std::mem::replace(&mut self.has_begun, true);
        match is_first {
            true => {
                let piece = Bytes::from_static(&[0; 9]);
                std::task::Poll::Ready(Some(Ok(hyper::body::Frame::data(piece))))
            }
            false => std::task::Poll::Pending,
        }
    }
}

/// By what permission a request is made.
fn action(head: &Parts) -> &'static str {
    let query = head.uri.query().unwrap_or_default();
    let is_bucket = head.uri.path().trim_matches('/') == "farm";
    match head.method {
        Method::GET if is_bucket && query.contains("list-type") => "s3:ListBucket",
        Method::GET if is_bucket => "s3:GetBucketConfiguration",
        Method::GET | Method::HEAD => "s3:GetObject",
        // Several at once.
        Method::POST if is_bucket => "s3:DeleteObject",
        Method::PUT | Method::POST => "s3:PutObject",
        Method::DELETE if query.contains("uploadId") => "s3:AbortMultipartUpload",
        Method::DELETE => "s3:DeleteObject",
        _ => "none",
    }
}

/// Waits where that is asked for, and counts what is read.
async fn wait_held(state: &State, head: &Parts, uploads: &str) {
    let key = head.uri.path();
    let mut held = state.held.subscribe();
    if head.method == Method::PUT {
        let is_held = |held: &Option<String>| {
            let held = held.as_ref().filter(|held| held.contains("partNumber"));
            held.is_some_and(|held| uploads.contains(held))
        };
        let _ = held.wait_for(|held| !is_held(held)).await;
    }
    if head.method != Method::GET {
        return;
    }
    let is_held = |held: &Option<String>| held.as_ref().is_some_and(|held| key.contains(held));
    if is_held(&held.borrow_and_update()) {
        state.holds.fetch_add(1, Ordering::SeqCst);
        // The sender is there for as long as the server is.
        let _ = held.wait_for(|held| !is_held(held)).await;
        state.holds.fetch_sub(1, Ordering::SeqCst);
    }
    if let Some(bytes) = range_bytes(&head.headers) {
        let name = key.rsplit('/').next().unwrap_or_default().to_owned();
        *state.read.lock().unwrap().entry(name).or_default() += bytes;
    }
}

/// The answer of a bucket that is set up so. Whether the request may be made the server has seen to by then.
fn set_up(
    state: &State,
    is_put: bool,
    query: Option<&str>,
    mut answer: Response<Body>,
) -> Response<Body> {
    let set_up = state.set_up.lock().unwrap();
    if is_put && let Some(versioning) = set_up.get("versioning") {
        let version = match versioning.contains("Enabled") {
            true => "a-version",
            false => "null",
        };
        let headers = answer.headers_mut();
        headers.insert("x-amz-version-id", version.parse().unwrap());
    }
    let asked = query.and_then(|query| query.split_once('='));
    match asked.and_then(|(asked, _)| set_up.get(asked)) {
        Some(says) if answer.status() == StatusCode::NOT_IMPLEMENTED => {
            Response::new(Body::from(says.clone()))
        }
        _ => answer,
    }
}

async fn answer(
    request: Request<Incoming>,
    service: S3Service,
    state: Arc<State>,
) -> Result<Response<Body>, HttpError> {
    let (head, body) = request.into_parts();
    let is_write = matches!(head.method, Method::PUT | Method::POST | Method::DELETE);
    let body = body.collect().await.map_err(|e| HttpError::new(e.into()))?;
    let body: Bytes = body.to_bytes();
    let key = head.uri.path().to_owned();
    let uploads = format!("{key}?{}", head.uri.query().unwrap_or_default());
    if state.refuses(&head, &uploads) {
        return Ok(status(StatusCode::FORBIDDEN));
    }
    wait_held(&state, &head, &uploads).await;
    let lock = state
        .keys
        .lock()
        .unwrap()
        .entry(key.clone())
        .or_default()
        .clone();
    let _alone = match is_write {
        true => Some(lock.lock().await),
        false => None,
    };
    let is_head = head.method == Method::PUT && key.ends_with("/head.json");
    let fault = match is_head {
        true => state.faults.lock().unwrap().pop(),
        false => None,
    };
    match fault {
        Some(Fault::Busy) => return Ok(status(StatusCode::SERVICE_UNAVAILABLE)),
        Some(Fault::Denied) => return Ok(status(StatusCode::FORBIDDEN)),
        _ => {}
    }
    let is_signed = uploads.contains("X-Amz-Signature=");
    if is_signed {
        let said = format!("{} {uploads} {:?}", head.method, head.headers);
        state.signed_reads.lock().unwrap().push(said);
    }
    let (is_put, query) = (
        head.method == Method::PUT,
        head.uri.query().map(str::to_owned),
    );
    let known = head.headers.get("if-none-match").cloned();
    let _unchanged = state.changing.read().await;
    let request = Request::from_parts(head, Body::from(body));
    let mut answer = service.call(request).await?;
    let is_refused = answer.status() == StatusCode::PRECONDITION_FAILED;
    if is_refused && state.is_careless.load(Ordering::SeqCst) {
        answer = taken();
    }
    if known.is_some() && known == answer.headers().get("etag").cloned() {
        state.asked.lock().unwrap().push(format!("304 {key}"));
        return Ok(status(StatusCode::NOT_MODIFIED));
    }
    let answer = set_up(&state, is_put, query.as_deref(), answer);
    let answer = match is_signed {
        true => treated(&state, (&key, &uploads), answer).await,
        false => answer,
    };
    match fault {
        Some(Fault::Refused) => Ok(status(StatusCode::PRECONDITION_FAILED)),
        Some(Fault::Lost) => Err(HttpError::new("the connection is cut".into())),
        _ => Ok(answer),
    }
}
