//! `tarpon serve` as a child process: started, read, measured, and always ended by its own id.

use super::client::{self, Response};
use super::metrics::Metrics;
use super::{git, wait};
use rustix::process::{Pid, Signal};
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;
use tempfile::NamedTempFile;

/// Chooses how every server of a test run does its I/O: a value for `--io-driver`, or
/// `seccomp` for a server that chooses by itself where io_uring is refused.
pub const DRIVER_VARIABLE: &str = "TARPON_TEST_IO_DRIVER";

/// Another binary to test than the one just built: an installed release, for one.
pub const BINARY_VARIABLE: &str = "TARPON_TEST_BINARY";

const START_LIMIT: Duration = Duration::from_secs(30);
const READY_PREFIX: &str = "listening on ";

/// How to start a server. Public fields: a test changes what it is about.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The `tarpon` binary.
    pub binary: PathBuf,
    /// `--state`.
    pub state: PathBuf,
    /// Where it listens; port 0 is any that is free.
    pub listen: String,
    /// `--upstream`, each `HOST=BASE_URL`.
    pub upstreams: Vec<String>,
    /// Further flags of `serve`.
    pub arguments: Vec<String>,
    /// Environment variables.
    pub environment: Vec<(String, String)>,
    /// `--io-driver` or `seccomp`; what [`DRIVER_VARIABLE`] says when `None`.
    pub driver: Option<String>,
    /// Program and arguments to put in front of the command; it must `exec` its last arguments.
    pub launcher: Vec<String>,
}

impl Settings {
    /// Adds flags.
    pub fn with(mut self, arguments: &[&str]) -> Self {
        self.arguments
            .extend(arguments.iter().map(|a| (*a).to_owned()));
        self
    }

    /// Has the server inject these faults, too (`TARPON_FAULT`).
    pub fn with_fault(mut self, fault: &str) -> Self {
        self.environment
            .push(("TARPON_FAULT".to_owned(), fault.to_owned()));
        self
    }

    /// All faults in one.
    fn faults(&self) -> String {
        let variables = self.environment.iter();
        let faults = variables.filter(|(name, _)| name == "TARPON_FAULT");
        let mut faults = Vec::from_iter(faults.map(|(_, fault)| fault.as_str()));
        let wait = "cold-wait-ms=";
        if !faults.iter().any(|fault| fault.contains(wait)) {
            // How fast this machine is must not decide in what way a test is answered.
            faults.push("cold-wait-ms=600000");
        }
        faults.join(",")
    }

    /// Chooses the I/O driver, whatever the run says.
    pub fn with_driver(mut self, driver: &str) -> Self {
        self.driver = Some(driver.to_owned());
        self
    }

    /// The command line, launcher included.
    fn command(&self) -> Command {
        let chosen = self
            .driver
            .clone()
            .or_else(|| std::env::var(DRIVER_VARIABLE).ok());
        let chosen = chosen.filter(|driver| !driver.is_empty());
        let mut words: Vec<PathBuf> = self.launcher.iter().map(PathBuf::from).collect();
        if chosen.as_deref() == Some("seccomp") {
            words.insert(0, seccomp_launcher(&self.binary).to_owned());
        }
        let other = std::env::var_os(BINARY_VARIABLE).map(PathBuf::from);
        words.push(other.unwrap_or_else(|| self.binary.clone()));
        let mut command = git::with_umask(&words[0]);
        command.args(&words[1..]);
        command
            .args(["serve", "--listen", &self.listen, "--state"])
            .arg(&self.state);
        for upstream in &self.upstreams {
            command.args(["--upstream", upstream]);
        }
        if let Some(driver) = chosen.filter(|driver| driver != "seccomp") {
            command.args(["--io-driver", &driver]);
        }
        let floor = "--cache-free-floor";
        if !self.arguments.iter().any(|given| given == floor) {
            // How full this machine's disk is must not decide what a test sees.
            command.args([floor, "0"]);
        }
        let looks = "--ref-check-interval";
        if !self.arguments.iter().any(|given| given == looks) {
            // Nor must what the server does by itself, while a request is answered.
            command.args([looks, "720h"]);
        }
        command.args(&self.arguments);
        git::isolate(&mut command);
        command.envs(self.environment.iter().map(|(k, v)| (k, v)));
        command.env("TARPON_FAULT", self.faults());
        command
    }

    /// Starts the server; panics with its log unless it accepts within 30 s.
    pub fn start(&self) -> Server {
        match self.try_start() {
            Ok(server) => server,
            Err(Exited { status, log }) => panic!("the server ended at start: {status}\n{log}"),
        }
    }

    /// Starts the server and waits until it accepts or has ended.
    pub fn try_start(&self) -> Result<Server, Exited> {
        let log = NamedTempFile::new().unwrap_or_else(|e| panic!("log file: {e}"));
        let stderr = log.reopen().unwrap_or_else(|e| panic!("log file: {e}"));
        let mut command = self.command();
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr);
        let mut child = command
            .spawn()
            .unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let (sender, receiver) = mpsc::channel();
        let told = Told::default();
        if let Some(stdout) = child.stdout.take() {
            let told = told.clone();
            std::thread::spawn(move || read_addresses(stdout, &told, &sender));
        }
        let received = receiver.recv_timeout(START_LIMIT);
        let address = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut server = Server {
            child,
            address,
            told,
            log,
            ended: None,
        };
        match received {
            Ok(address) => {
                server.address = address;
                Ok(server)
            }
            Err(RecvTimeoutError::Timeout) => panic!("the server did not say where it listens"),
            Err(RecvTimeoutError::Disconnected) => {
                let status = server.wait_exit(START_LIMIT);
                Err(Exited {
                    status,
                    log: server.log(),
                })
            }
        }
    }
}

/// A server that ended before it accepted.
#[derive(Debug)]
pub struct Exited {
    pub status: ExitStatus,
    /// Everything it wrote to stderr.
    pub log: String,
}

/// Where a server says that it listens, in order.
type Told = Arc<Mutex<Vec<String>>>;

/// Notes all places that a server prints and sends the first address, then drains its stdout for ever, so
/// that it never blocks on it.
fn read_addresses(stdout: impl Read, told: &Told, sender: &mpsc::Sender<SocketAddr>) {
    let mut reader = BufReader::new(stdout);
    let mut line = String::new();
    while reader.read_line(&mut line).is_ok_and(|count| count > 0) {
        if let Some(place) = line.trim().strip_prefix(READY_PREFIX) {
            let mut told = told.lock().unwrap_or_else(|e| panic!("{e}"));
            told.push(place.to_owned());
            drop(told);
            if let Some((_, address)) = place.split_once("://") {
                let parsed = address.parse().unwrap_or_else(|e| panic!("{address}: {e}"));
                // Only the first is waited for.
                let _ = sender.send(parsed);
            }
        }
        line.clear();
    }
}

/// A running server. Dropping it kills that one process and waits for it.
pub struct Server {
    child: Child,
    address: SocketAddr,
    told: Told,
    log: NamedTempFile,
    ended: Option<ExitStatus>,
}

impl Server {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// All places where it listens, once it has said so many.
    pub fn places(&self, count: usize) -> Vec<String> {
        wait::until("it has said where it listens", || {
            let told = self.told.lock().unwrap_or_else(|e| panic!("{e}"));
            (told.len() >= count).then(|| told.clone())
        })
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// `GET target`.
    pub fn get(&self, target: &str) -> Response {
        client::get(self.address, target)
    }

    /// A request with further header lines.
    pub fn fetch(&self, method: &str, target: &str, fields: &[&str]) -> Response {
        client::fetch(self.address, method, target, fields)
    }

    /// `POST target` with JSON.
    pub fn post_json(&self, target: &str, json: &str) -> Response {
        let kind = "Content-Type: application/json";
        client::post(self.address, target, &[kind], json.as_bytes())
    }

    /// A scrape of `/metrics`.
    pub fn metrics(&self) -> Metrics {
        Metrics::new(self.get("/metrics").expect(200).text())
    }

    /// Builds that ended with `result` so far.
    pub fn builds(&self, result: &str) -> u64 {
        self.metrics()
            .count("tarpon_builds_total", &[("result", result)])
    }

    /// Comparisons of mirrors with their upstreams so far, clones not counted.
    pub fn fetches(&self) -> u64 {
        self.metrics().count("tarpon_fetches_total", &[])
    }

    /// Everything logged so far.
    pub fn log(&self) -> String {
        let bytes = fs::read(self.log.path()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits until `text` stands in the log: that is written by a thread of its own, some time
    /// after what it is about.
    pub fn wait_logged(&self, text: &str) {
        wait::until_true(&format!("{text:?} is logged"), || self.log().contains(text));
    }

    /// Anonymous resident memory in bytes.
    pub fn rss_anon_bytes(&self) -> u64 {
        let path = format!("/proc/{}/status", self.pid());
        let status = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("RssAnon:"));
        let number = line.and_then(|rest| rest.split_whitespace().next());
        let kib: u64 = number
            .and_then(|n| n.parse().ok())
            .unwrap_or_else(|| panic!("{status}"));
        kib * 1024
    }

    /// Memory of the files in memory that it and its `git`s have open, in bytes.
    pub fn memory_file_bytes(&self) -> u64 {
        let path = PathBuf::from(format!("/proc/{}/fd", self.pid()));
        let listing = fs::read_dir(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let bytes = listing.flatten().filter_map(|entry| {
            let link = fs::read_link(entry.path()).ok()?;
            let is_memory = link.to_string_lossy().starts_with("/memfd:");
            // Through the link: the file has no name.
            let file = fs::metadata(entry.path()).ok().filter(|_| is_memory)?;
            Some(std::os::unix::fs::MetadataExt::blocks(&file) * 512)
        });
        bytes.sum()
    }

    /// What every open descriptor points at.
    pub fn descriptors(&self) -> Vec<String> {
        let path = PathBuf::from(format!("/proc/{}/fd", self.pid()));
        let listing = fs::read_dir(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let links = listing
            .flatten()
            .filter_map(|entry| fs::read_link(entry.path()).ok());
        let mut out: Vec<String> = links.map(|to| to.to_string_lossy().into_owned()).collect();
        out.sort();
        out
    }

    /// The same with the inode of each file, once for each descriptor.
    pub fn descriptors_with_inodes(&self) -> Vec<(String, u64)> {
        let path = PathBuf::from(format!("/proc/{}/fd", self.pid()));
        let listing = fs::read_dir(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let opened = listing.flatten().filter_map(|entry| {
            let to = fs::read_link(entry.path()).ok()?;
            // Through the link: the file may have no name any more.
            let file = fs::metadata(entry.path()).ok()?;
            let inode = std::os::unix::fs::MetadataExt::ino(&file);
            Some((to.to_string_lossy().into_owned(), inode))
        });
        opened.collect()
    }

    /// CPU time used so far, user and system, in seconds.
    pub fn cpu_s(&self) -> f64 {
        let path = format!("/proc/{}/stat", self.pid());
        let stat = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
        let after_name = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        let fields: Vec<&str> = after_name.split(' ').collect();
        let ticks = |at: usize| {
            fields
                .get(at)
                .and_then(|f| f.parse::<f64>().ok())
                .unwrap_or(0.0)
        };
        (ticks(11) + ticks(12)) / rustix::param::clock_ticks_per_second() as f64
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.poll_exit().is_none()
    }

    fn poll_exit(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self
                .child
                .try_wait()
                .unwrap_or_else(|e| panic!("wait: {e}"));
        }
        self.ended
    }

    /// Sends SIGTERM to this one process.
    pub fn terminate(&mut self) {
        self.signal(Signal::TERM);
    }

    /// Sends SIGKILL to this one process and waits for its end.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.wait_exit(wait::DEADLINE);
    }

    /// Sends a signal to this one process, unless it has ended.
    pub fn signal(&mut self, signal: Signal) {
        // Only while it has not been waited for is the id surely still this child's.
        if self.poll_exit().is_none() {
            let sent = rustix::process::kill_process(Pid::from_child(&self.child), signal);
            sent.unwrap_or_else(|e| panic!("kill {}: {e}", self.pid()));
        }
    }

    /// Waits for its end; panics with its log after `limit`.
    pub fn wait_exit(&mut self, limit: Duration) -> ExitStatus {
        wait::until_within("the server ends", limit, || self.poll_exit())
    }

    /// SIGTERM and the orderly end: panics unless it exits 0.
    pub fn stop(mut self) {
        self.terminate();
        let status = self.wait_exit(wait::DEADLINE);
        assert!(status.success(), "after SIGTERM: {status}\n{}", self.log());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.ended.is_none() {
            // It may have ended by itself; then there is nothing to kill.
            drop(self.child.kill());
            drop(self.child.wait());
        }
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().rev().take(40).collect();
            eprintln!("--- end of the log of server {}", self.child.id());
            for line in lines.iter().rev() {
                eprintln!("{line}");
            }
        }
    }
}

/// The compiled seccomp launcher, next to `binary`; compiled once per process.
fn seccomp_launcher(binary: &Path) -> &'static Path {
    static LAUNCHER: OnceLock<PathBuf> = OnceLock::new();
    LAUNCHER.get_or_init(|| {
        let directory = binary.parent().unwrap_or(Path::new("."));
        let build = tempfile::tempdir_in(directory).unwrap_or_else(|e| panic!("tempdir: {e}"));
        let source = build.path().join("seccomp.c");
        let output = build.path().join("launcher");
        let written = fs::write(&source, include_str!("seccomp.c"));
        written.unwrap_or_else(|e| panic!("{}: {e}", source.display()));
        let status = Command::new("cc")
            .arg("-o")
            .arg(&output)
            .arg(&source)
            .status();
        let status = status.unwrap_or_else(|e| panic!("cc does not start: {e}"));
        assert!(status.success(), "cc: {status}");
        // Renamed into place, as another test process may be running the one from before.
        let launcher = directory.join("seccomp-launcher");
        fs::rename(&output, &launcher).unwrap_or_else(|e| panic!("{}: {e}", launcher.display()));
        launcher
    })
}
