//! A soak: one server, pushes to several repositories at a fixed pace, and clients that download
//! one snapshot after the other, whatever becomes of the pushes.

use super::probe::{self, Manners};
use super::push::Pusher;
use super::record;
use super::site::{self, Repository, Site, State, target};
use super::support::rng::Rng;
use super::support::server::Server;
use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// How often the server's open files are counted.
const SAMPLE: Duration = Duration::from_millis(100);
/// How often a pusher looks whether its push is served.
const LOOK: Duration = Duration::from_millis(20);
/// Longest that a snapshot may take to be served after its push.
const PUBLISH_LIMIT: Duration = Duration::from_secs(60);

/// What runs.
#[derive(Debug, Clone)]
pub struct Soak {
    /// Copies of one repository.
    pub repositories: usize,
    /// From one push to the next, of each.
    pub every: Duration,
    /// For how long pushes begin.
    pub duration: Duration,
    /// Clients, each on one connection after the other.
    pub clients: usize,
    /// How fast each reads at most.
    pub client_bytes_per_s: u64,
}

/// What became of it.
#[derive(Debug, Default)]
pub struct Outcome {
    pushes: u64,
    /// From the answer that the refs have moved to the first answer with the new snapshot.
    published: Vec<Duration>,
    downloads: u64,
    bytes: u64,
    open_files_max: usize,
    open_files_end: usize,
    rss_anon_bytes: u64,
    builds_failed: u64,
    failures: BTreeMap<String, u64>,
}

/// What the threads share.
struct Stage<'a> {
    soak: &'a Soak,
    server: &'a Server,
    began: Instant,
    stop: AtomicBool,
    pushes: AtomicU64,
    published: Mutex<Vec<Duration>>,
    downloads: AtomicU64,
    bytes: AtomicU64,
    open_files_max: AtomicUsize,
    failures: Mutex<BTreeMap<String, u64>>,
}

/// Ends the other threads, also when one panics; they would be waited for.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn name_of(number: usize) -> String {
    format!("soak-{number}")
}

impl Soak {
    /// Copies the repository, has each copy built once, and runs.
    pub fn run(&self, site: &Site, repository: &Repository) -> Outcome {
        let copies = (0..self.repositories).map(|number| site.copy(repository, &name_of(number)));
        let copies: Vec<Repository> = copies.collect();
        let mut state = site.state("soak", &copies[0]);
        for copy in &copies[1..] {
            state.add(copy, &copy.name);
        }
        let server = state.start();
        for copy in &copies {
            site::download(&server, &copy.name);
            site::wait_published(&server, &copy.name);
        }
        let outcome = self.run_on(&server, &copies);
        server.stop();
        State::remove(state);
        outcome
    }

    fn run_on(&self, server: &Server, copies: &[Repository]) -> Outcome {
        let stage = Stage {
            soak: self,
            server,
            began: Instant::now(),
            stop: AtomicBool::new(false),
            pushes: AtomicU64::new(0),
            published: Mutex::default(),
            downloads: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            open_files_max: AtomicUsize::new(0),
            failures: Mutex::default(),
        };
        std::thread::scope(|scope| {
            let _stop = StopOnDrop(&stage.stop);
            for number in 0..self.clients {
                let stage = &stage;
                scope.spawn(move || stage.download(number as u64));
            }
            scope.spawn(|| stage.watch());
            let pusher = |(number, copy)| {
                let stage = &stage;
                scope.spawn(move || stage.push(number, copy))
            };
            let pushers: Vec<_> = copies.iter().enumerate().map(pusher).collect();
            for pusher in pushers {
                if let Err(panic) = pusher.join() {
                    std::panic::resume_unwind(panic);
                }
            }
        });
        stage.outcome()
    }
}

impl Stage<'_> {
    /// One repository's pushes. One that is late is made at once; none is left out.
    fn push(&self, number: usize, copy: &Repository) {
        let mut pusher = Pusher::new(&copy.mirror, number as u64);
        let share = number as f64 / self.soak.repositories as f64;
        let mut due = self.soak.every.mul_f64(share);
        while due < self.soak.duration {
            std::thread::sleep(due.saturating_sub(self.began.elapsed()));
            due += self.soak.every;
            let old = site::etag(self.server, &copy.name, &[]);
            let pushed = pusher.change(1);
            site::ensure_ref(self.server, &copy.name, &pushed.reference, &pushed.commit);
            self.pushes.fetch_add(1, Ordering::Relaxed);
            let moved = Instant::now();
            match self.wait_for_another(&copy.name, &old, moved) {
                Some(time) => lock(&self.published).push(time),
                None => self.failed("a push was not served".to_owned()),
            }
        }
    }

    fn wait_for_another(&self, name: &str, old: &str, moved: Instant) -> Option<Duration> {
        while moved.elapsed() < PUBLISH_LIMIT {
            let etag = site::etag(self.server, name, &[]);
            if !etag.is_empty() && etag != old {
                return Some(moved.elapsed());
            }
            std::thread::sleep(LOOK);
        }
        None
    }

    /// One client.
    fn download(&self, number: u64) {
        let mut rng = Rng::new(number);
        let manners = Manners {
            bytes_per_s: Some(self.soak.client_bytes_per_s),
            ..Manners::EAGER
        };
        let address = self.server.address();
        while !self.stop.load(Ordering::SeqCst) {
            let name = name_of(rng.below(self.soak.repositories as u64) as usize);
            match get(address, &name, manners) {
                Ok(bytes) => {
                    self.downloads.fetch_add(1, Ordering::Relaxed);
                    self.bytes.fetch_add(bytes, Ordering::Relaxed);
                }
                Err(why) => {
                    self.failed(why);
                    std::thread::sleep(SAMPLE);
                }
            }
        }
    }

    /// Counts the server's open files.
    fn watch(&self) {
        while !self.stop.load(Ordering::SeqCst) {
            let count = open_files(self.server);
            self.open_files_max.fetch_max(count, Ordering::Relaxed);
            std::thread::sleep(SAMPLE);
        }
    }

    fn failed(&self, why: String) {
        *lock(&self.failures).entry(why).or_default() += 1;
    }

    fn outcome(self) -> Outcome {
        let metrics = self.server.metrics();
        let ended = |result| metrics.count("tarpon_builds_total", &[("result", result)]);
        let into = |taken: Mutex<Vec<Duration>>| taken.into_inner().unwrap_or_default();
        Outcome {
            pushes: self.pushes.into_inner(),
            published: into(self.published),
            downloads: self.downloads.into_inner(),
            bytes: self.bytes.into_inner(),
            open_files_max: self.open_files_max.into_inner(),
            open_files_end: open_files(self.server),
            rss_anon_bytes: self.server.rss_anon_bytes(),
            builds_failed: ended("failed"),
            failures: self.failures.into_inner().unwrap_or_default(),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(|e| panic!("another thread: {e}"))
}

/// Bytes of a whole download, or what is wrong with it.
fn get(address: SocketAddr, name: &str, manners: Manners) -> Result<u64, String> {
    let transfer = probe::get(address, &target(name), manners, &mut |_| true);
    let transfer = transfer.map_err(|e| format!("download: {e}"))?;
    match (transfer.head.status, transfer.whole) {
        (200, true) => Ok(transfer.bytes),
        (200, false) => Err("a truncated download".to_owned()),
        (status, _) => Err(format!("a download answered {status}")),
    }
}

fn open_files(server: &Server) -> usize {
    let path = format!("/proc/{}/fd", server.pid());
    let listing = fs::read_dir(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    listing.count()
}

impl Outcome {
    /// Whether nothing failed.
    pub fn is_clean(&self) -> bool {
        self.failures.is_empty() && self.builds_failed == 0
    }

    /// As printed.
    pub fn text(&self, soak: &Soak) -> String {
        let times = record::histogram(self.published.iter().copied());
        let ms = |percentile| times.value_at_percentile(percentile) as f64 / 1e3;
        let mut out = format!(
            "{} repositories, a push every {:?} each for {:?}, {} clients of {} bytes/s\n\
             pushes: {}; snapshots published: {}, p50 {:.1} ms, p95 {:.1} ms after the refs moved\n\
             downloads: {}, {:.3} GB\n\
             open files of the server: at most {}, {} at the end; RssAnon {:.1} MB\n",
            soak.repositories,
            soak.every,
            soak.duration,
            soak.clients,
            soak.client_bytes_per_s,
            self.pushes,
            self.published.len(),
            ms(50.0),
            ms(95.0),
            self.downloads,
            self.bytes as f64 / 1e9,
            self.open_files_max,
            self.open_files_end,
            self.rss_anon_bytes as f64 / 1e6,
        );
        let failed: u64 = self.failures.values().sum();
        out.push_str(&format!(
            "failures: {failed}; builds that failed: {}\n",
            self.builds_failed
        ));
        for (why, count) in &self.failures {
            out.push_str(&format!("  {count} times: {why}\n"));
        }
        out
    }
}
