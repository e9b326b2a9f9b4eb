//! `git http-backend` behind the smallest possible HTTP server, one thread per request, so that
//! cloning over HTTP can be measured on any machine that has git.

use super::record::Measured;
use super::site::remove_tree;
use super::support::git;
use super::usage::{ChildMeter, Usage};
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Longest silence of a client.
const SILENCE: Duration = Duration::from_secs(60);
/// Largest request body; git is told to send no larger one.
const BODY_BYTES_MAX: u64 = 64 << 20;

/// What all requests cost and sent so far.
#[derive(Debug, Clone, Copy, Default)]
struct Served {
    usage: Usage,
    bytes: u64,
}

/// The server. Dropping it ends it.
pub struct Bridge {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    served: Arc<Mutex<Served>>,
    thread: Option<JoinHandle<()>>,
}

impl Bridge {
    /// Serves the bare repositories in `root`.
    pub fn start(root: &Path) -> Bridge {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap_or_else(|e| panic!("bind: {e}"));
        let address = listener.local_addr();
        let address = address.unwrap_or_else(|e| panic!("address: {e}"));
        let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let bridge = (stop.clone(), Arc::clone(&served), root.to_owned());
        let thread = std::thread::spawn(move || accept(&listener, &bridge.0, &bridge.1, &bridge.2));
        Bridge {
            address,
            stop,
            served,
            thread: Some(thread),
        }
    }

    /// Where it serves them.
    pub fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// Clones the repository `name` over HTTP, with these options, into `directory`, which is removed
    /// afterwards: time and bytes of the clone, cost of the server's side.
    pub fn clone_once(&self, name: &str, options: &[&str], directory: &Path) -> (Measured, Usage) {
        *lock(&self.served) = Served::default();
        let parent = directory.parent().unwrap_or(Path::new("/"));
        let url = format!("{}{name}.git", self.url());
        let post = format!("http.postBuffer={BODY_BYTES_MAX}");
        let into = directory.to_string_lossy();
        let started = Instant::now();
        let clone = ["-c", &post, "clone", "--quiet", &url, &into];
        git::run(parent, &[&clone, options].concat());
        let total = started.elapsed();
        remove_tree(directory);
        let served = *lock(&self.served);
        let measured = Measured {
            first: None,
            total,
            bytes: served.bytes,
        };
        (measured, served.usage)
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the accepting thread; if that fails, it has ended.
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

fn lock(served: &Mutex<Served>) -> std::sync::MutexGuard<'_, Served> {
    served.lock().unwrap_or_else(PoisonError::into_inner)
}

fn accept(listener: &TcpListener, stop: &AtomicBool, served: &Arc<Mutex<Served>>, root: &Path) {
    let mut requests: Vec<JoinHandle<()>> = Vec::new();
    for stream in listener.incoming().flatten() {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let (served, root) = (served.clone(), root.to_owned());
        requests.retain(|thread| !thread.is_finished());
        requests.push(std::thread::spawn(move || {
            if let Err(e) = answer(stream, &root, &served) {
                eprintln!("git http-backend: {e}");
            }
        }));
    }
    for thread in requests {
        // A panic of its own was printed, and the clone fails by it.
        drop(thread.join());
    }
}

/// What of a request the backend has to know.
#[derive(Default)]
struct Request {
    method: String,
    path: String,
    query: String,
    length: u64,
    content_type: String,
    content_encoding: String,
    protocol: String,
}

fn answer(stream: TcpStream, root: &Path, served: &Mutex<Served>) -> io::Result<()> {
    stream.set_read_timeout(Some(SILENCE))?;
    stream.set_write_timeout(Some(SILENCE))?;
    let mut input = BufReader::new(stream.try_clone()?);
    let request = read_request(&mut input)?;
    let mut child = backend(&request, root)?;
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let meter = ChildMeter::new(child);
    let relayed = relay(&request, &mut input, stdin, stdout, stream);
    let (status, usage) = meter.finish();
    let bytes = relayed?;
    if !status.success() {
        return Err(io::Error::other(format!("{status}")));
    }
    let mut served = lock(served);
    served.usage = served.usage.plus(usage);
    served.bytes += bytes;
    Ok(())
}

fn read_request(input: &mut impl BufRead) -> io::Result<Request> {
    let mut line = String::new();
    input.read_line(&mut line)?;
    let mut words = line.split_whitespace();
    let mut request = Request {
        method: words.next().unwrap_or_default().to_owned(),
        ..Request::default()
    };
    let target = words.next().unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    (request.path, request.query) = (path.to_owned(), query.to_owned());
    loop {
        let mut line = String::new();
        input.read_line(&mut line)?;
        let Some((name, value)) = line.split_once(':') else {
            break;
        };
        let value = value.trim().to_owned();
        match name.to_ascii_lowercase().as_str() {
            "content-length" => request.length = value.parse().unwrap_or(u64::MAX),
            "content-type" => request.content_type = value,
            "content-encoding" => request.content_encoding = value,
            "git-protocol" => request.protocol = value,
            "transfer-encoding" => return Err(io::Error::other("a chunked request")),
            _ => {}
        }
    }
    if request.length > BODY_BYTES_MAX {
        return Err(io::Error::other("too large a request"));
    }
    Ok(request)
}

/// The backend as a CGI program (RFC 3875).
fn backend(request: &Request, root: &Path) -> io::Result<Child> {
    let root: PathBuf = fs::canonicalize(root)?;
    git::command(&root, &["http-backend"])
        .env("GIT_PROJECT_ROOT", &root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("REQUEST_METHOD", &request.method)
        .env("PATH_INFO", &request.path)
        .env("QUERY_STRING", &request.query)
        .env("CONTENT_TYPE", &request.content_type)
        .env("CONTENT_LENGTH", request.length.to_string())
        .env("HTTP_CONTENT_ENCODING", &request.content_encoding)
        .env("GIT_PROTOCOL", &request.protocol)
        .env("REMOTE_ADDR", "127.0.0.1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
}

/// Sends the body to the backend and its answer to the client; gives the bytes of the answer.
fn relay(
    request: &Request,
    input: &mut impl Read,
    stdin: Option<impl Write>,
    stdout: Option<impl Read>,
    mut client: TcpStream,
) -> io::Result<u64> {
    let (Some(mut stdin), Some(stdout)) = (stdin, stdout) else {
        return Err(io::Error::other("no pipes"));
    };
    io::copy(&mut input.take(request.length), &mut stdin)?;
    drop(stdin);
    let mut stdout = BufReader::with_capacity(64 << 10, stdout);
    let (mut status, mut fields) = ("200 OK".to_owned(), String::new());
    loop {
        let mut line = String::new();
        stdout.read_line(&mut line)?;
        let line = line.trim_end();
        match line.strip_prefix("Status: ") {
            _ if line.is_empty() => break,
            Some(said) => status = said.to_owned(),
            None => fields.push_str(&format!("{line}\r\n")),
        }
    }
    let head = format!("HTTP/1.1 {status}\r\n{fields}Connection: close\r\n\r\n");
    client.write_all(head.as_bytes())?;
    io::copy(&mut stdout, &mut client)
}
