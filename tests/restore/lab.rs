//! Running the client, and servers that misbehave.

use crate::support::lab::Lab;
use crate::support::relay::listen;
pub use crate::support::relay::{Ends, interrupt, switch};
pub use crate::support::restore::{asks_for_archive, expect};
use crate::support::server::Server;
use crate::support::{compare, git, repos, wait};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};

pub const BINARY: &str = env!("CARGO_BIN_EXE_tarpon");

/// A lab with the repository `app`: directories, an executable, a link, text that compresses.
pub fn new_lab() -> Lab {
    let lab = Lab::new(BINARY);
    let path = lab.upstream("app");
    repos::init_bare(&path, "main", "sha1");
    let mut import = repos::Importer::start(&path, repos::Layout::Packed);
    let mut rng = crate::support::rng::Rng::new(7);
    import.commit("refs/heads/main", "first");
    for number in 0..400 {
        let name = format!("src/d{}/f{number}.c", number % 7);
        let len = 100 + rng.below(20_000) as usize;
        import.file(repos::FILE, name.as_bytes(), &rng.text(len));
    }
    import.file(repos::FILE, b"big.bin", &rng.bytes(9 << 20));
    import.file(repos::FILE, &[b'n'; 150], b"long name");
    import.file(repos::FILE, b"\xff\n", b"odd name");
    import.file(repos::EXECUTABLE, b"run.sh", b"#!/bin/sh\n");
    import.file(repos::SYMLINK, b"src/link", b"../../nowhere");
    import.gitlink(b"module", &"1".repeat(40));
    import.finish();
    lab
}

/// Runs `tarpon restore` with what is given.
pub fn restore(server: SocketAddr, repository: &str, into: &Path, more: &[&str]) -> Output {
    command(server, repository, into, more)
        .output()
        .unwrap_or_else(|e| panic!("tarpon does not start: {e}"))
}

/// The same, not yet started.
pub fn command(server: SocketAddr, repository: &str, into: &Path, more: &[&str]) -> Command {
    crate::support::restore::command(BINARY, server, repository, into, more)
}

/// The same as the process itself, with no shell around it: it can be sent signals.
pub fn direct(server: SocketAddr, repository: &str, into: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    git::isolate(&mut command);
    command.args(["restore", repository]).arg(into);
    let server = format!("http://{server}");
    command.args(["--server", &server]).args(more);
    command
}

/// A restore that ends with the test, whatever comes.
pub struct Running(pub Child);

impl Running {
    /// `tarpon restore` of `repository` from `server`.
    pub fn start(server: SocketAddr, repository: &str, into: &Path, more: &[&str]) -> Running {
        let mut command = direct(server, repository, into, more);
        let child = command.stderr(Stdio::null()).spawn();
        Running(child.unwrap_or_else(|e| panic!("tarpon does not start: {e}")))
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        drop(self.0.kill());
        self.0.wait().unwrap_or_else(|e| panic!("wait: {e}"));
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Panics unless the files are those of `expected`, and git finds all of it clean and sound.
#[track_caller]
pub fn expect_files(expected: &Path, restored: &Path, context: &str) {
    let differences = compare::differences(expected, restored, &[".git"]);
    assert!(differences.is_empty(), "{context}: {differences:?}");
    let status = git::text(restored, &["status", "--porcelain"]);
    assert_eq!(status, "", "{context}");
    git::run(restored, &["fsck", "--strict"]);
}

/// Panics if anything is at `target`, or left of a staging directory beside it.
pub fn expect_nothing(target: &Path) {
    let parent = target.parent().unwrap_or(target);
    let listing = std::fs::read_dir(parent).unwrap_or_else(|e| panic!("{}: {e}", parent.display()));
    for entry in listing.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        assert!(!name.starts_with(".tarpon-restore-"), "left over: {name}");
        assert!(entry.path() != target, "{} is there", target.display());
    }
}

/// An address that nobody listens on: its port is taken for as long as the tests run, or another
/// test's server could get it.
pub fn nobody() -> SocketAddr {
    let taken = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
    let taken = taken.unwrap_or_else(|e| panic!("socket: {e}"));
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let bound = taken.bind(&any.into()).and_then(|()| taken.local_addr());
    std::mem::forget(taken);
    let address = bound.unwrap_or_else(|e| panic!("bind: {e}"));
    address.as_socket().unwrap_or_else(|| panic!("no address"))
}

/// A server that takes no connection: the kernel drops what asks for one, as its queue of those
/// that nobody accepted is full. Nobody ever does.
pub struct Full {
    pub address: SocketAddr,
    _listener: TcpListener,
    _queued: TcpStream,
}

impl Full {
    pub fn start() -> Full {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap_or_else(|e| panic!("{e}"));
        let address = listener.local_addr().unwrap_or_else(|e| panic!("{e}"));
        // Again, with the shortest queue: it is full with one.
        rustix::net::listen(&listener, 0).unwrap_or_else(|e| panic!("listen: {e}"));
        let queued = TcpStream::connect(address).unwrap_or_else(|e| panic!("{e}"));
        // A moment after the client has its connection the server's side has, too.
        wait::until_true("the queue is full", || queue_length(address) == Some(1));
        Full {
            address,
            _listener: listener,
            _queued: queued,
        }
    }

    /// Whether somebody waits for a connection.
    pub fn is_asked(&self) -> bool {
        const SYN_SENT: &str = "02";
        let asks = |fields: &Vec<String>| {
            fields[2].ends_with(&port(self.address)) && fields[3] == SYN_SENT
        };
        sockets().iter().any(asks)
    }
}

/// The lines of the kernel's list of sockets, in fields: the second is the socket's own address,
/// the third its peer's, the fourth its state, the fifth its two queues.
fn sockets() -> Vec<Vec<String>> {
    let sockets = std::fs::read_to_string("/proc/net/tcp").unwrap_or_else(|e| panic!("{e}"));
    let fields = |line: &str| line.split_whitespace().map(str::to_owned).collect();
    sockets.lines().map(fields).collect()
}

/// How the list ends the address of a port.
fn port(address: SocketAddr) -> String {
    format!(":{:04X}", address.port())
}

/// How many connections wait to be accepted at `address`: the second of the two queues of a socket
/// that listens.
fn queue_length(address: SocketAddr) -> Option<u64> {
    const LISTENS: &str = "0A";
    let listens =
        |fields: &Vec<String>| fields[1].ends_with(&port(address)) && fields[3] == LISTENS;
    let found = sockets().into_iter().find(listens)?;
    let (_, received) = found[4].split_once(':')?;
    u64::from_str_radix(received, 16).ok()
}

/// A lab, its server, which has `app` cached, and the whole archive of that.
pub fn served() -> (Lab, Server, Vec<u8>) {
    let lab = new_lab();
    let server = lab.start();
    let whole = archive(&lab, &server);
    (lab, server, whole)
}

/// The whole archive of `app`, which the server has cached then.
pub fn archive(lab: &Lab, server: &Server) -> Vec<u8> {
    let file = lab.scratch("archive.tar.zst");
    crate::support::lab::download(server.address(), &crate::support::lab::target("app"), &file);
    std::fs::read(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()))
}

/// A request as [`serve`] sees it: its number, and the range it asks for.
pub struct Asked {
    pub number: usize,
    pub range: Option<(usize, usize)>,
}

/// Serves `archive` with ranges on a port of its own until the test ends. `cut` says after how many
/// bytes of its body an answer breaks off.
pub fn serve(
    archive: Vec<u8>,
    cut: impl Fn(&Asked) -> Option<usize> + Send + Sync + 'static,
) -> SocketAddr {
    let shared = (archive, cut);
    let count = std::sync::atomic::AtomicUsize::new(0);
    listen(move |socket| {
        let number = || count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        while answer(socket, &shared.0, &shared.1, number()).is_some() {}
    })
}

/// Serves what `archive` is when it is asked for.
pub fn serve_current(archive: Arc<Mutex<Vec<u8>>>) -> SocketAddr {
    listen(move |socket| {
        let now = archive.lock().unwrap_or_else(|e| panic!("{e}")).clone();
        while answer(socket, &now, &|_| None, 0).is_some() {}
    })
}

/// Serves `archive` in the place of every archive of `server`'s, which answers all else.
pub fn serve_before(server: SocketAddr, archive: Vec<u8>) -> SocketAddr {
    listen(move |socket| {
        let mut first = [0; 256];
        let len = socket.peek(&mut first).unwrap_or(0);
        let first = String::from_utf8_lossy(&first[..len]);
        match asks_for_archive(&first) {
            true => while answer(socket, &archive, &|_| None, 0).is_some() {},
            false => drop(relay_one(socket, server, &|_| false, &|_| {})),
        }
    })
}

/// Answers one request; `None` when the connection is over.
fn answer(
    socket: &TcpStream,
    archive: &[u8],
    cut: &(dyn Fn(&Asked) -> Option<usize> + Send + Sync),
    number: usize,
) -> Option<()> {
    let mut range = None;
    let mut lines = BufReader::new(socket).lines();
    loop {
        let line = lines.next()?.ok()?;
        if let Some(text) = line.strip_prefix("Range: bytes=") {
            let (from, to) = text.split_once('-')?;
            range = Some((from.parse().ok()?, to.parse().ok()?));
        }
        if line.is_empty() {
            break;
        }
    }
    let asked = Asked { number, range };
    let (from, to) = range.unwrap_or((0, usize::MAX - 1));
    let total = archive.len();
    let body = archive.get(from..total.min(to + 1)).unwrap_or_default();
    let head = format!(
        "HTTP/1.1 206 Partial Content\r\nETag: \"x\"\r\nContent-Length: {}\r\n\
         Content-Range: bytes {from}-{}/{total}\r\n\r\n",
        body.len(),
        from + body.len().max(1) - 1
    );
    let mut socket = socket;
    socket.write_all(head.as_bytes()).ok()?;
    match cut(&asked) {
        Some(after) if after < body.len() => {
            drop(socket.write_all(&body[..after]));
            None
        }
        _ => socket.write_all(body).ok(),
    }
}

/// A clone to compare with.
pub fn clone(lab: &Lab, name: &str, into: &str) -> PathBuf {
    let path = lab.scratch(into);
    git::clone(&lab.url(name), &path);
    path
}

/// Stands between the client and `server`: one request for each connection; the body of an answer
/// to a request whose target is `chosen` goes through `change` first.
pub fn relay(
    server: SocketAddr,
    chosen: impl Fn(&str) -> bool + Send + Sync + 'static,
    change: impl Fn(&mut Vec<u8>) + Send + Sync + 'static,
) -> SocketAddr {
    listen(move |socket| drop(relay_one(socket, server, &chosen, &change)))
}

/// Passes one request of `client` on to `server`.
pub fn forward(client: &TcpStream, server: SocketAddr) {
    drop(relay_one(client, server, &|_| false, &|_| {}));
}

fn relay_one(
    client: &TcpStream,
    server: SocketAddr,
    chosen: &dyn Fn(&str) -> bool,
    change: &dyn Fn(&mut Vec<u8>),
) -> std::io::Result<()> {
    let mut request = Vec::new();
    let mut reader = BufReader::new(client);
    while !request.ends_with(b"\r\n\r\n") {
        if reader.read_until(b'\n', &mut request)? == 0 {
            return Ok(());
        }
    }
    let head = String::from_utf8_lossy(&request).into_owned();
    let target = head.split(' ').nth(1).unwrap_or_default();
    let head = head.to_ascii_lowercase();
    let length = head
        .lines()
        .find_map(|l| l.strip_prefix("content-length: "));
    let length: usize = length.and_then(|l| l.trim().parse().ok()).unwrap_or(0);
    let mut sent = vec![0; length];
    std::io::Read::read_exact(&mut reader, &mut sent)?;
    let mut upstream = TcpStream::connect(server)?;
    let at = request.len() - 2;
    request.splice(at..at, *b"Connection: close\r\n");
    upstream.write_all(&[request, sent].concat())?;
    if !chosen(target) {
        let mut client = client;
        return std::io::copy(&mut upstream, &mut client).map(|_| ());
    }
    let mut answer = Vec::new();
    std::io::Read::read_to_end(&mut upstream, &mut answer)?;
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n");
    let mut body = answer.split_off(end.map_or(answer.len(), |at| at + 4));
    change(&mut body);
    let mut client = client;
    client.write_all(&[answer, body].concat())
}
/// Staging directories of restores in `parent`.
pub fn staged(parent: &Path) -> Vec<PathBuf> {
    let listing = std::fs::read_dir(parent).into_iter().flatten().flatten();
    let is_staged = |path: &PathBuf| path.to_string_lossy().contains("/.tarpon-restore-");
    listing.map(|e| e.path()).filter(is_staged).collect()
}

/// Sends a signal to a restore, which must end with the exit code for that.
#[track_caller]
pub fn interrupt_process(child: &mut Child, signal: Signal) {
    let sent = kill_process(Pid::from_child(child), signal);
    sent.unwrap_or_else(|e| panic!("{signal:?}: {e}"));
    let status = child.wait().unwrap_or_else(|e| panic!("wait: {e}"));
    assert_eq!(status.code(), Some(130), "{signal:?}");
}
