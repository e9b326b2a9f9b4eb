//! Three servers over one bucket and one upstream, and what is known of each at a moment.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tarpon::limits::CLONE_FAILURE_KEPT_MS;

use super::history::NAME;
use super::ways::{Link, StoreWay, UpstreamWay};
use crate::bucket_server::BucketServer;
use crate::support::lab::{self, Lab};
use crate::support::server::{Server, Settings};
use crate::support::upstream::Upstream;

/// So many there are.
pub const SERVERS: usize = 3;
/// What nothing names stays for so long.
pub const KEPT: Duration = Duration::from_millis(1500);
/// How wrong their clocks are, in seconds: by more than what nothing names is to stay.
const SKEWS_S: [&str; SERVERS] = ["0", "20", "-20"];
/// For so long a server answers as an upstream did that was away, and a second more.
const FAILURE_KEPT: Duration = Duration::from_millis(CLONE_FAILURE_KEPT_MS + 1000);
/// How long a way is silent.
const SILENT: Duration = Duration::from_secs(4);

/// What is known of a server.
#[derive(Debug, Clone, Copy)]
pub struct Condition {
    /// Another one with each change.
    pub epoch: u64,
    pub address: Option<SocketAddr>,
    pub is_paused: bool,
    pub upstream: Link,
    /// Since when it is so.
    pub upstream_since: Option<Instant>,
    pub store: Link,
    /// Whether requests to the store meet with something.
    pub is_spoiled: bool,
    /// Whether a snapshot was seen on its disk.
    pub has_snapshot: bool,
}

impl Condition {
    pub fn is_up(&self) -> bool {
        self.address.is_some() && !self.is_paused
    }

    /// Whether the upstream can be asked, and nothing is remembered of a time at which it could not.
    pub fn has_upstream(&self) -> bool {
        let is_new = |since: Instant| since.elapsed() < FAILURE_KEPT;
        self.upstream == Link::Open && !self.upstream_since.is_some_and(is_new)
    }
}

/// What all clients see of it.
pub struct Board {
    conditions: Mutex<[Condition; SERVERS]>,
}

impl Board {
    pub fn now(&self) -> [Condition; SERVERS] {
        *self.conditions.lock().unwrap()
    }

    fn change(&self, number: usize, change: impl FnOnce(&mut Condition)) {
        let condition = &mut self.conditions.lock().unwrap()[number];
        condition.epoch += 1;
        change(condition);
    }

    /// Something has become of what all of them share.
    pub fn change_all(&self) {
        (0..SERVERS).for_each(|number| self.change(number, |_| {}));
    }

    /// A snapshot was seen on a disk that nothing has become of since.
    pub fn note_snapshot(&self, number: usize, epoch: u64) {
        let condition = &mut self.conditions.lock().unwrap()[number];
        condition.has_snapshot |= condition.epoch == epoch;
    }
}

struct Member {
    settings: Settings,
    server: Option<Server>,
    store: StoreWay,
    upstream: UpstreamWay,
    /// When it goes on.
    resumes: Option<Instant>,
    /// When what is silent is mended: nobody is to wait for the longest silence that servers take.
    mends: Option<Instant>,
    logs: Vec<String>,
}

/// See the module's text.
pub struct Farm {
    pub board: Arc<Board>,
    pub bucket: BucketServer,
    root: PathBuf,
    members: Vec<Member>,
}

impl Farm {
    pub fn new(lab: &Lab, seed: u64) -> Farm {
        let root = lab.scratch("s3");
        let bucket = BucketServer::start(&root);
        let upstream = Upstream::new(lab.upstreams());
        let condition = Condition {
            epoch: 0,
            address: None,
            is_paused: false,
            upstream: Link::Open,
            upstream_since: None,
            store: Link::Open,
            is_spoiled: false,
            has_snapshot: false,
        };
        let make = |number: usize| {
            let store = StoreWay::new(&bucket, seed ^ number as u64);
            let upstream = UpstreamWay::new(upstream.address());
            Member {
                settings: settings(lab, number, &store, &upstream),
                server: None,
                store,
                upstream,
                resumes: None,
                mends: None,
                logs: Vec::new(),
            }
        };
        let mut farm = Farm {
            board: Arc::new(Board {
                conditions: Mutex::new([condition; SERVERS]),
            }),
            members: (0..SERVERS).map(make).collect(),
            bucket,
            root,
        };
        (0..SERVERS).for_each(|number| farm.start(number));
        farm
    }

    pub fn state(&self, number: usize) -> PathBuf {
        self.members[number].settings.state.clone()
    }

    pub fn server(&self, number: usize) -> &Server {
        self.members[number].server.as_ref().expect("it is up")
    }

    /// What lies in the bucket.
    pub fn objects(&self) -> PathBuf {
        self.root.join("farm")
    }

    pub fn start(&mut self, number: usize) {
        let member = &mut self.members[number];
        if member.server.is_none() {
            let server = member.settings.start();
            let address = Some(server.address());
            member.server = Some(server);
            self.board.change(number, |it| it.address = address);
        }
    }

    /// `kill -9`.
    pub fn kill(&mut self, number: usize) {
        self.board.change(number, |it| {
            (it.address, it.is_paused) = (None, false);
        });
        let member = &mut self.members[number];
        if let Some(mut server) = member.server.take() {
            server.kill();
            member.logs.push(server.log());
        }
        member.resumes = None;
    }

    /// The disk of one that was killed is another one.
    pub fn lose_disk(&mut self, number: usize) {
        self.board.change(number, |it| it.has_snapshot = false);
        let state = self.state(number);
        if state.exists() {
            std::fs::remove_dir_all(&state).unwrap();
        }
    }

    /// It stands still, as a machine does that is moved.
    pub fn pause(&mut self, number: usize, time: Duration) {
        let member = &mut self.members[number];
        if let Some(server) = member.server.as_mut() {
            self.board.change(number, |it| it.is_paused = true);
            server.signal(Signal::STOP);
            member.resumes = Some(Instant::now() + time);
        }
    }

    /// Those go on whose time it is; or all.
    pub fn resume(&mut self, all: bool) {
        let now = Instant::now();
        for number in 0..SERVERS {
            if self.members[number]
                .mends
                .is_some_and(|at| all || at <= now)
            {
                self.members[number].mends = None;
                let is = self.board.now()[number];
                if is.upstream == Link::Silent {
                    self.part_from_upstream(number, Link::Open);
                }
                if is.store == Link::Silent {
                    self.part_from_store(number, Link::Open);
                }
            }
            let member = &mut self.members[number];
            if member.resumes.is_some_and(|at| all || at <= now) {
                member.resumes = None;
                if let Some(server) = member.server.as_mut() {
                    server.signal(Signal::CONT);
                }
                self.board.change(number, |it| it.is_paused = false);
            }
        }
    }

    /// How many are up and go on.
    pub fn up(&self) -> usize {
        self.board.now().iter().filter(|it| it.is_up()).count()
    }

    pub fn is_up(&self, number: usize) -> bool {
        self.board.now()[number].is_up()
    }

    pub fn part_from_upstream(&mut self, number: usize, link: Link) {
        self.mend_later(number, link);
        self.board.change(number, |it| {
            if it.upstream != link {
                it.upstream_since = Some(Instant::now());
            }
            it.upstream = link;
        });
        self.members[number].upstream.set(link);
    }

    fn mend_later(&mut self, number: usize, link: Link) {
        if link == Link::Silent {
            self.members[number].mends = Some(Instant::now() + SILENT);
        }
    }

    pub fn part_from_store(&mut self, number: usize, link: Link) {
        self.mend_later(number, link);
        self.board.change(number, |it| it.store = link);
        self.members[number].store.set(link);
    }

    pub fn spoil(&self, number: usize, permille: u64) {
        self.board.change(number, |it| it.is_spoiled = permille > 0);
        self.members[number].store.spoil(permille);
    }

    /// Nothing is left in the bucket.
    pub fn empty(&self) {
        self.board.change_all();
        let objects = self.objects().join("v1");
        self.bucket.change(|| {
            if objects.exists() {
                std::fs::remove_dir_all(&objects).unwrap();
            }
        });
        self.board.change_all();
    }

    /// Keeps what is in the bucket now, to be put back later.
    pub fn keep_copy(&self) {
        let (objects, copy) = (self.objects().join("v1"), self.root.join("copy"));
        self.bucket.change(|| {
            if copy.exists() {
                std::fs::remove_dir_all(&copy).unwrap();
            }
            if objects.exists() {
                lab::copy_tree(&objects, &copy);
            }
        });
    }

    /// Puts it back.
    pub fn restore_copy(&self) {
        let (objects, copy) = (self.objects().join("v1"), self.root.join("copy"));
        if !copy.exists() {
            return;
        }
        self.board.change_all();
        self.bucket.change(|| {
            if objects.exists() {
                std::fs::remove_dir_all(&objects).unwrap();
            }
            lab::copy_tree(&copy, &objects);
        });
        self.board.change_all();
    }

    /// All ways are open, and all servers run.
    pub fn heal(&mut self) {
        self.resume(true);
        for number in 0..SERVERS {
            self.part_from_upstream(number, Link::Open);
            self.part_from_store(number, Link::Open);
            self.spoil(number, 0);
            self.start(number);
        }
    }

    /// All that they have logged, each by itself.
    pub fn logs(&self) -> Vec<String> {
        let logs = |member: &Member| {
            let now = member.server.as_ref().map(Server::log);
            let all = member.logs.iter().cloned().chain(now);
            all.collect::<Vec<String>>().join("-- killed\n")
        };
        self.members.iter().map(logs).collect()
    }

    /// How often something is said in the logs.
    pub fn logged(&self, texts: &[&str]) -> String {
        let logs = self.logs().concat();
        let count = |text: &&str| format!("{text}: {}", logs.matches(text).count());
        texts.iter().map(count).collect::<Vec<_>>().join(", ")
    }

    /// What has become of requests to the store.
    pub fn fates(&self) -> String {
        let fates = self.members.iter().map(|member| member.store.fates());
        format!("{:?}", fates.collect::<Vec<_>>())
    }

    /// Ends all in order.
    pub fn stop(self) {
        for member in self.members {
            member.server.into_iter().for_each(Server::stop);
        }
    }
}

/// What has the clock of a process be wrong.
fn wrong_clock(lab: &Lab) -> PathBuf {
    let (source, library) = (lab.scratch("clock.c"), lab.scratch("clock.so"));
    if !library.exists() {
        std::fs::write(&source, include_str!("clock.c")).unwrap();
        let mut cc = std::process::Command::new("cc");
        cc.args(["-shared", "-fPIC", "-o"])
            .arg(&library)
            .arg(&source);
        let status = cc.status().unwrap_or_else(|e| panic!("cc: {e}"));
        assert!(status.success(), "cc: {status}");
    }
    library
}

fn settings(lab: &Lab, number: usize, store: &StoreWay, upstream: &UpstreamWay) -> Settings {
    let mut environment = BucketServer::environment_at(store.address());
    let proxy = format!("http://{}", upstream.address());
    let clock = wrong_clock(lab).to_string_lossy().into_owned();
    for (name, value) in [
        ("http_proxy", &*proxy),
        ("no_proxy", "127.0.0.1"),
        ("LD_PRELOAD", &clock),
        ("CHAOS_SKEW_S", SKEWS_S[number]),
    ] {
        environment.push((name.to_owned(), value.to_owned()));
    }
    let settings = Settings {
        state: lab.scratch(&format!("state-{number}")),
        upstreams: vec!["test=http://upstream.test/".to_owned()],
        environment,
        ..lab.settings()
    };
    let expiry = ["3s", "6s", "720h"][number];
    let kept_ms = KEPT.as_millis();
    let faults = format!(
        "store-look-ms=200,store-kept-ms={kept_ms},store-lease-ms=2000,store-stall-ms=2000"
    );
    settings
        .with(&["--store", "s3://farm", "--ref-check-interval", "1s"])
        .with(&["--maintenance-idle", "1s", "--unreachable-expiry", expiry])
        .with_fault(&faults)
}

/// What clients ask for.
pub fn target() -> String {
    lab::target(NAME)
}
