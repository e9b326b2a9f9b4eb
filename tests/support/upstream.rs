//! git's own server for HTTP (`git http-backend`) as an upstream, which can fail in the ways that
//! upstreams do.

use super::tokens::base64;
use super::{git, relay};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How it answers.
#[derive(Debug, Clone)]
pub enum Answers {
    /// As it should.
    Well,
    /// With this status line's end and further fields, each with its line end.
    Status(&'static str, &'static str),
    /// With a page that is nothing of git's.
    Garbage,
    /// Never.
    Never,
    /// What it has, and never an object of it.
    NoObjects,
    /// After this time.
    Slowly(Duration),
    /// As it should, but whole histories after this time.
    SlowClones(Duration),
    /// The same, and what it has only after that one.
    SlowLooks { look: Duration, clone: Duration },
    /// The same by git's older protocol only.
    SlowOldLooks { look: Duration, clone: Duration },
    /// What it has after this time, and never this object nor whole histories.
    Without { id: String, look: Duration },
    /// As it should, but no whole histories.
    NoClones,
    /// With what another directory has: a replica that is late.
    From(PathBuf),
    /// As it should, and what is asked for below the first of these paths with a redirect to below the second.
    Renamed { from: String, to: String },
    /// By git's older protocol only, in which what no ref names is not given out by its id.
    OldProtocol,
}

/// A request that came.
#[derive(Debug, Clone)]
pub struct Asked {
    pub at: Instant,
    pub method: String,
    pub target: String,
    /// For objects, without what is before them.
    pub is_shallow: bool,
    /// For what it has.
    pub is_look: bool,
    /// Its header, with names in lower case.
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Asked {
    /// The value of `Authorization`.
    pub fn authorization(&self) -> Option<&str> {
        let found = self.fields.iter().find(|(name, _)| name == "authorization");
        found.map(|(_, value)| value.as_str())
    }

    fn request(&self) -> Request {
        Request {
            method: self.method.clone(),
            target: self.target.clone(),
            fields: self.fields.clone(),
            body: self.body.clone(),
        }
    }
}

/// Somebody whom it knows.
#[derive(Debug, Clone)]
pub struct User {
    /// `Basic …` or `Bearer …`.
    pub authorization: String,
    /// The repositories that he may read.
    pub repositories: Vec<String>,
    /// Objects that it gives out to others only.
    pub hidden: Vec<String>,
}

impl User {
    /// One who shows a name and a password.
    pub fn new(name: &str, repositories: &[&str]) -> User {
        let pair = base64(&format!("{name}:hush-{name}"));
        User {
            authorization: format!("Basic {pair}"),
            repositories: repositories.iter().map(|name| (*name).to_owned()).collect(),
            hidden: Vec::new(),
        }
    }

    /// A header line that shows who he is.
    pub fn field(&self) -> String {
        format!("Authorization: {}", self.authorization)
    }
}

/// Who may read what: some users, and what everybody may.
#[derive(Debug, Clone, Default)]
pub struct Rights {
    pub users: Vec<User>,
    pub public: Vec<String>,
}

impl Rights {
    /// The answer to a request that may not have what it asks for.
    fn refuse(&self, request: &Request) -> Option<Vec<u8>> {
        let path = request.target.split('?').next().unwrap_or_default();
        let path = path.trim_start_matches('/');
        let ends = ["/info/refs", "/git-upload-pack"];
        let name = ends
            .iter()
            .find_map(|end| path.strip_suffix(end))
            .unwrap_or(path);
        let name = name.strip_suffix(".git").unwrap_or(name);
        let is_public = self.public.iter().any(|public| public == name);
        let shown = request.field("authorization");
        let user = self.users.iter().find(|user| user.authorization == shown);
        let challenge = "WWW-Authenticate: Basic realm=\"git\"\r\n";
        match user {
            None if shown.is_empty() && is_public => None,
            None => Some(plain("401 Unauthorized", challenge, b"")),
            Some(user) if is_public || user.repositories.iter().any(|own| own == name) => {
                let hidden = user.hidden.iter();
                let mut wanted = hidden.filter(|id| request.has(format!("want {id}").as_bytes()));
                wanted.next().map(|id| {
                    let error = format!("ERR upload-pack: not our ref {id}");
                    let line = format!("{:04x}{error}", error.len() + 4);
                    let kind = "Content-Type: application/x-git-upload-pack-result\r\n";
                    plain("200 OK", kind, line.as_bytes())
                })
            }
            Some(_) => Some(plain("404 Not Found", "", b"")),
        }
    }
}

struct Shared {
    root: PathBuf,
    answers: Mutex<Answers>,
    asked: Mutex<Vec<Asked>>,
    /// Everybody may read everything without any.
    rights: Mutex<Option<Rights>>,
}

impl Shared {
    /// The answer to a request that may not have what it asks for.
    fn refuse(&self, request: &Request) -> Option<Vec<u8>> {
        let rights = self.rights.lock();
        let rights = rights.unwrap_or_else(PoisonError::into_inner);
        rights.as_ref()?.refuse(request)
    }
}

/// The server. It answers as long as the test runs.
pub struct Upstream {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Upstream {
    /// Serves the repositories below `root`.
    pub fn new(root: PathBuf) -> Upstream {
        let shared = Arc::new(Shared {
            root,
            answers: Mutex::new(Answers::Well),
            asked: Mutex::default(),
            rights: Mutex::default(),
        });
        let serving = shared.clone();
        let address = relay::listen(move |socket| drop(serve(socket, &serving)));
        Upstream { address, shared }
    }

    /// A value for `--upstream`.
    pub fn named(&self, host: &str) -> String {
        format!("{host}=http://{}/", self.address)
    }

    /// Has it answer so from now on.
    pub fn answer(&self, answers: Answers) {
        *self
            .shared
            .answers
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = answers;
    }

    /// From now on only these may read.
    pub fn let_read(&self, rights: Rights) {
        let lock = self.shared.rights.lock();
        *lock.unwrap_or_else(PoisonError::into_inner) = Some(rights);
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The requests so far.
    pub fn asked(&self) -> Vec<Asked> {
        let asked = self.shared.asked.lock();
        asked.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How often it was asked for objects without what is before them.
    pub fn shallow_fetches(&self) -> usize {
        self.asked().iter().filter(|asked| asked.is_shallow).count()
    }

    /// How often it was asked what it has: each clone, comparison and fetch begins so.
    pub fn looks(&self) -> usize {
        let asked = self.asked();
        let is_look = |asked: &&Asked| asked.target.contains("/info/refs");
        asked.iter().filter(is_look).count()
    }
}

struct Request {
    method: String,
    target: String,
    fields: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Request {
    fn field(&self, name: &str) -> &str {
        let found = self.fields.iter().find(|(known, _)| known == name);
        found.map_or("", |(_, value)| value)
    }

    /// Whether it is for objects.
    fn fetches(&self) -> bool {
        self.has(b"command=fetch") || self.has(b"want ")
    }

    /// Whether it is for what there is.
    fn looks(&self) -> bool {
        self.has(b"command=ls-refs")
    }

    /// The same, and for all that is before them.
    fn wants_history(&self) -> bool {
        self.fetches() && !self.has(b"deepen ")
    }

    fn in_old_protocol(mut self) -> Request {
        self.fields.retain(|(name, _)| name != "git-protocol");
        self
    }

    fn has(&self, what: &[u8]) -> bool {
        self.body.windows(what.len()).any(|part| part == what)
    }
}

fn serve(socket: &TcpStream, shared: &Shared) -> std::io::Result<()> {
    let mut reader = BufReader::new(socket);
    while let Some(request) = read_request(&mut reader)? {
        let asked = Asked {
            at: Instant::now(),
            method: request.method.clone(),
            target: request.target.clone(),
            is_shallow: request.fetches() && request.has(b"deepen "),
            is_look: request.looks(),
            fields: request.fields.clone(),
            body: request.body.clone(),
        };
        let refused = shared.refuse(&asked.request());
        let lock = shared.asked.lock();
        lock.unwrap_or_else(PoisonError::into_inner).push(asked);
        let answers = shared.answers.lock();
        let answers = answers.unwrap_or_else(PoisonError::into_inner).clone();
        hold(&answers, &request);
        let well = |root: &Path, request: &Request| match &refused {
            Some(refused) => Ok(refused.clone()),
            None => backend(root, request),
        };
        let answer = match answers {
            Answers::Renamed { ref from, ref to } if request.target.starts_with(from) => {
                let rest = request.target.strip_prefix(from).unwrap_or_default();
                let location = format!("Location: {to}{rest}\r\n");
                plain("301 Moved Permanently", &location, b"")
            }
            Answers::From(root) => well(&root, &request)?,
            Answers::OldProtocol | Answers::SlowOldLooks { .. } => {
                well(&shared.root, &request.in_old_protocol())?
            }
            Answers::Well
            | Answers::Renamed { .. }
            | Answers::Slowly(_)
            | Answers::SlowClones(_)
            | Answers::SlowLooks { .. }
            | Answers::Without { .. } => well(&shared.root, &request)?,
            Answers::NoClones if request.wants_history() => plain("500 No", "", b""),
            Answers::NoClones => well(&shared.root, &request)?,
            Answers::Status(status, fields) => plain(status, fields, b""),
            Answers::Garbage => plain(
                "200 OK",
                "Content-Type: text/html\r\n",
                b"<html>Log in</html>",
            ),
            Answers::NoObjects if !request.fetches() => well(&shared.root, &request)?,
            Answers::Never | Answers::NoObjects => relay::be_silent(),
        };
        let mut to = socket;
        to.write_all(&answer)?;
    }
    Ok(())
}

/// Lets it wait for its answer, or for none.
fn hold(answers: &Answers, request: &Request) {
    let wait_if = |is_it: bool, time: &Duration| {
        if is_it {
            std::thread::sleep(*time);
        }
    };
    match answers {
        Answers::Slowly(time) => wait_if(true, time),
        Answers::SlowClones(time) => wait_if(request.wants_history(), time),
        Answers::SlowLooks { look, clone } => {
            wait_if(request.looks(), look);
            wait_if(request.wants_history(), clone);
        }
        Answers::SlowOldLooks { look, clone } => {
            wait_if(request.target.contains("/info/refs"), look);
            wait_if(request.wants_history(), clone);
        }
        Answers::Without { id, look } => {
            if request.wants_history() || request.has(format!("want {id}").as_bytes()) {
                relay::be_silent();
            }
            wait_if(request.looks(), look);
        }
        _ => {}
    }
}

fn plain(status: &str, fields: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!("HTTP/1.1 {status}\r\n{fields}Content-Length: {length}\r\n\r\n");
    [head.as_bytes(), body].concat()
}

fn read_request(reader: &mut BufReader<&TcpStream>) -> std::io::Result<Option<Request>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split(' ').map(ToOwned::to_owned);
    let (method, target) = (
        words.next().unwrap_or_default(),
        words.next().unwrap_or_default(),
    );
    // Who comes by way of a proxy names the host as well.
    let target = match target.strip_prefix("http://") {
        Some(rest) => rest.find('/').map_or("/", |at| &rest[at..]).to_owned(),
        None => target,
    };
    let mut fields = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim().split_once(':') else {
            break;
        };
        fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let mut request = Request {
        method,
        target,
        fields,
        body: Vec::new(),
    };
    if request.field("transfer-encoding") == "chunked" {
        request.body = read_chunks(reader)?;
    } else {
        request.body = vec![0; request.field("content-length").parse().unwrap_or(0)];
        reader.read_exact(&mut request.body)?;
    }
    Ok(Some(request))
}

fn read_chunks(reader: &mut BufReader<&TcpStream>) -> std::io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let length = usize::from_str_radix(line.trim(), 16).unwrap_or(0);
        let mut chunk = vec![0; length + 2];
        reader.read_exact(&mut chunk)?;
        if length == 0 {
            return Ok(body);
        }
        body.extend_from_slice(&chunk[..length]);
    }
}

fn backend(root: &Path, request: &Request) -> std::io::Result<Vec<u8>> {
    let (path, query) = request
        .target
        .split_once('?')
        .unwrap_or((&request.target, ""));
    let mut command = git::command(root, &["-c", "safe.directory=*", "http-backend"]);
    command
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("GIT_PROJECT_ROOT", root)
        .env("PATH_INFO", path)
        .env("QUERY_STRING", query)
        .env("REQUEST_METHOD", &request.method)
        .env("REMOTE_ADDR", "127.0.0.1")
        .env("CONTENT_TYPE", request.field("content-type"))
        .env("CONTENT_LENGTH", request.body.len().to_string())
        .env("HTTP_CONTENT_ENCODING", request.field("content-encoding"))
        .env("GIT_PROTOCOL", request.field("git-protocol"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut child = command.spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // It may have read enough.
        drop(stdin.write_all(&request.body));
    }
    let out = child.wait_with_output()?.stdout;
    let end = out
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .unwrap_or(0);
    let (head, body) = (
        String::from_utf8_lossy(&out[..end]),
        &out[(end + 4).min(out.len())..],
    );
    let (mut status, mut fields) = ("200 OK", String::new());
    for line in head.lines() {
        match line.strip_prefix("Status: ") {
            Some(given) => status = given,
            None => fields.push_str(&format!("{line}\r\n")),
        }
    }
    Ok(plain(status, &fields, body))
}
