//! What the tests of this module share: real repositories, a runtime, tiny servers.
use crate::mirror::{Git, Locks};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::RwLock;

/// The locks of a repository that nobody else has.
#[derive(Default)]
pub struct OwnLocks {
    pub arrivals: RwLock<()>,
    pub packs: RwLock<()>,
    pub refs: RwLock<()>,
}

impl OwnLocks {
    pub fn all(&self) -> Locks<'_> {
        Locks {
            arrivals: &self.arrivals,
            packs: &self.packs,
            refs: &self.refs,
        }
    }
}

/// Runs git as a user would, with nobody's configuration, and returns its stdout.
pub fn git(dir: &Path, args: &[&str]) -> String {
    git_with(dir, args, b"")
}

pub fn git_with(dir: &Path, args: &[&str], input: &[u8]) -> String {
    let mut command = Command::new("git");
    command
        .current_dir(dir)
        .args(args)
        .env("GIT_CONFIG_GLOBAL", "/dev/null");
    for role in ["AUTHOR", "COMMITTER"] {
        command
            .env(format!("GIT_{role}_NAME"), "t")
            .env(format!("GIT_{role}_EMAIL"), "t@example.com");
        command.env(format!("GIT_{role}_DATE"), "1700000000 +0000");
    }
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let out = child.wait_with_output().unwrap();
    assert!(
        out.status.success(),
        "git {args:?}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    String::from_utf8(out.stdout).unwrap().trim_end().to_owned()
}

/// A temporary directory with an upstream, a place for the mirror and one for staging.
pub struct Scratch {
    dir: tempfile::TempDir,
    pub git: Git,
}

impl Scratch {
    /// The upstream is an empty bare repository.
    pub fn new(format: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let format = format!("--object-format={format}");
        git(
            dir.path(),
            &["init", "-q", "--bare", &format, "-b", "main", "up.git"],
        );
        std::fs::create_dir(dir.path().join("staging")).unwrap();
        Self {
            dir,
            git: Git::default(),
        }
    }

    /// An upstream with one commit on main.
    pub fn with_commit() -> Self {
        let scratch = Self::new("sha1");
        scratch.commit("main", "one");
        scratch
    }

    pub fn root(&self) -> &Path {
        self.dir.path()
    }

    pub fn up(&self) -> PathBuf {
        self.dir.path().join("up.git")
    }

    pub fn mirror(&self) -> PathBuf {
        self.dir.path().join("mirrors/host/a/b.git")
    }

    pub fn staging(&self) -> PathBuf {
        self.dir.path().join("staging")
    }

    pub fn url(&self) -> String {
        format!("file://{}", self.up().display())
    }

    /// Runs git in the upstream.
    pub fn upstream(&self, args: &[&str]) -> String {
        git(&self.up(), args)
    }

    /// Makes a commit on a branch of the upstream (a new root when there is no such branch)
    /// and returns its id.
    pub fn commit(&self, branch: &str, text: &str) -> String {
        let name = format!("refs/heads/{branch}");
        let data = |text: &str| format!("data {}\n{text}\n", text.len());
        let from = if self.upstream(&["for-each-ref", &name]).is_empty() {
            String::new()
        } else {
            format!("from {name}^0\n")
        };
        let stream = format!(
            "commit {name}\ncommitter t <t@example.com> 1700000000 +0000\n{}{from}M 644 inline file\n{}",
            data(text),
            data(text)
        );
        git_with(
            &self.up(),
            &["fast-import", "--quiet", "--force"],
            stream.as_bytes(),
        );
        self.upstream(&["rev-parse", &name])
    }

    pub fn clone_mirror(&self) {
        run(self
            .git
            .clone_mirror(&self.url(), &self.mirror(), &self.staging()))
        .unwrap();
    }

    pub fn freshen(&self) -> crate::mirror::Freshened {
        let lock = tokio::sync::RwLock::new(());
        run(self.git.freshen(&self.mirror(), &self.url(), &lock)).unwrap()
    }

    /// Asserts that the mirror has what a clone made now has, and is sound.
    pub fn assert_equal(&self) {
        let fresh = self.root().join("fresh.git");
        git(
            self.root(),
            &[
                "clone",
                "-q",
                "--bare",
                "--no-local",
                &self.url(),
                "fresh.git",
            ],
        );
        let args = &[
            "for-each-ref",
            "--format=%(refname) %(objectname) %(*objectname)",
        ];
        assert_eq!(git(&self.mirror(), args), git(&fresh, args));
        let head = |dir: &Path| std::fs::read_to_string(dir.join("HEAD")).unwrap();
        assert_eq!(head(&self.mirror()), head(&fresh));
        git(&self.mirror(), &["fsck", "--strict", "--connectivity-only"]);
        std::fs::remove_dir_all(fresh).unwrap();
    }

    pub fn assert_staging_empty(&self) {
        let left: Vec<_> = std::fs::read_dir(self.staging()).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

/// Runs a future on the kind of runtime that the background plane has, within a minute.
pub fn run<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let limited = async { tokio::time::timeout(Duration::from_secs(60), future).await };
    runtime.block_on(limited).expect("within a minute")
}

/// Waits until a condition holds; fails after half a minute.
pub fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < deadline, "timed out: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The same without holding up the runtime.
pub async fn until_async(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < deadline, "timed out: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Ids of the processes whose command line holds a text.
pub fn processes_with(text: &str) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let holds = |id: &u32| {
        std::fs::read(format!("/proc/{id}/cmdline"))
            .is_ok_and(|line| String::from_utf8_lossy(&line).contains(text))
    };
    ids.filter(|id| *id != std::process::id())
        .filter(holds)
        .collect()
}

/// Whether a process is over. One whose parent was killed may stay a zombie where the first
/// process of a container reaps nothing; our own children may not.
pub fn is_over(id: u32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{id}/stat")) else {
        return true;
    };
    let after_name = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    let mut fields = after_name.split(' ');
    let state = fields.next();
    let parent: u32 = fields.next().and_then(|id| id.parse().ok()).unwrap_or(0);
    state == Some("Z") && parent != std::process::id()
}

/// A request as a test server sees it.
pub struct Request {
    pub method: String,
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Request {
    fn header(&self, name: &str) -> &str {
        let found = self
            .headers
            .iter()
            .find(|(have, _)| have.eq_ignore_ascii_case(name));
        found.map_or("", |(_, value)| value)
    }
}

/// An HTTP server on loopback; answers one request per connection. Stops when dropped.
pub struct Server {
    pub port: u16,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub fn new(answer: impl Fn(&Request) -> Vec<u8> + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let mut stream = stream.unwrap();
                if let Some(request) = read_request(&stream) {
                    // A client that left is its own business.
                    let _ = stream.write_all(&answer(&request));
                }
            }
        });
        Self {
            port,
            stop,
            thread: Some(thread),
        }
    }

    /// Serves the repositories below a directory as git's own CGI program does.
    pub fn git(root: PathBuf) -> Self {
        Self::new(move |request| http_backend(&root, request))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(("127.0.0.1", self.port)));
        self.thread.take().unwrap().join().unwrap();
    }
}

fn read_request(stream: &TcpStream) -> Option<Request> {
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim().split_once(':') else {
            break;
        };
        headers.push((name.to_owned(), value.trim().to_owned()));
    }
    let mut request = Request {
        method,
        target,
        headers,
        body: Vec::new(),
    };
    request.body = vec![0; request.header("content-length").parse().unwrap_or(0)];
    reader.read_exact(&mut request.body).ok()?;
    Some(request)
}

pub fn http_backend(root: &Path, request: &Request) -> Vec<u8> {
    let (path, query) = request
        .target
        .split_once('?')
        .unwrap_or((&request.target, ""));
    let mut command = Command::new("git");
    command
        .args(["-c", "safe.directory=*", "http-backend"])
        .env("GIT_HTTP_EXPORT_ALL", "1");
    command
        .env("GIT_PROJECT_ROOT", root)
        .env("PATH_INFO", path)
        .env("QUERY_STRING", query);
    command
        .env("REQUEST_METHOD", &request.method)
        .env("REMOTE_ADDR", "127.0.0.1");
    command.env("CONTENT_TYPE", request.header("content-type"));
    command.env("CONTENT_LENGTH", request.body.len().to_string());
    command.env("HTTP_CONTENT_ENCODING", request.header("content-encoding"));
    command.env("GIT_PROTOCOL", request.header("git-protocol"));
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let _ = child.stdin.take().unwrap().write_all(&request.body);
    let out = child.wait_with_output().unwrap().stdout;
    let text = String::from_utf8_lossy(&out[..out.len().min(200)]).into_owned();
    let status = text
        .lines()
        .find_map(|line| line.strip_prefix("Status: "))
        .unwrap_or("200 OK");
    [
        format!("HTTP/1.1 {status}\r\nConnection: close\r\n").as_bytes(),
        &out,
    ]
    .concat()
}
