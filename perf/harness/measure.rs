//! Measuring one repository: contestants side by side, in alternating runs.

use super::gitcgi::Bridge;
use super::nginx::Nginx;
use super::peer::Peer;
use super::pipeline;
use super::probe::{self, Manners, Transfer};
use super::record::{Contestant, Measured, Record, Run};
use super::refresh::{self, Case, Stage};
use super::site::{self, Repository, Site, State, target, wait_published};
use super::support::lab;
use super::support::server::Server;
use super::usage::{Meter, Usage};
use std::fs::{self, File};
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Barrier;
use std::time::Duration;

/// Clients of a run with several.
const SEVERAL: usize = 4;

/// How much is measured.
#[derive(Debug, Clone)]
pub struct Effort {
    /// Rounds of all contestants.
    pub rounds: u32,
    /// Hits of each server in a round.
    pub hits: u32,
    /// Misses to the first byte.
    pub misses: u32,
    /// Hits to the first byte.
    pub firsts: u32,
    /// Clients of the run with followers.
    pub followers: usize,
    /// Clients of the runs that show memory.
    pub crowd: usize,
    /// Requests to a busy server.
    pub busy: u32,
    /// Exact commits.
    pub wants: u32,
    /// Refreshes of each case.
    pub refreshes: u32,
    /// Threads of pzstd.
    pub pzstd_threads: u32,
}

/// One repository under measurement.
pub struct Bench<'a> {
    /// Where.
    pub site: &'a Site,
    /// What.
    pub repository: &'a Repository,
    /// How much.
    pub effort: &'a Effort,
    /// Other servers.
    pub peers: &'a [Peer],
    /// The name of the nginx binary, if there is one.
    pub nginx: Option<&'a str>,
    /// Where results go.
    pub record: &'a mut Record,
}

/// Downloads after files were evicted from memory and before hits are measured.
const WARM_UPS: u32 = 2;

/// What runs beside the tarpon servers for as long as a repository is measured.
struct Rivals {
    nginx: Option<Nginx>,
    bridge: Bridge,
}

impl Bench<'_> {
    /// Measures everything.
    pub fn run(&mut self) {
        let state = self.site.state("state", self.repository);
        let nginx = self.prepare(&state);
        let rivals = Rivals {
            nginx,
            bridge: Bridge::start(&self.site.run_path("state/mirrors/bench")),
        };
        for round in 0..self.effort.rounds {
            self.round(round, &state, &rivals);
        }
        self.first_bytes(&state, &rivals);
        self.crowds(&state);
        self.wants(&state, &rivals.bridge);
        state.remove();
        drop(rivals);
        self.refreshes();
        self.busy();
    }

    /// Measures only what is asked for by name.
    pub fn run_wants(&mut self) {
        let state = self.site.state("state", self.repository);
        let bridge = Bridge::start(&self.site.run_path("state/mirrors/bench"));
        self.wants(&state, &bridge);
        state.remove();
    }

    /// What pushes cost, one case after the other on one server.
    fn refreshes(&mut self) {
        let mut stage = Stage::new(self.site, self.repository, 1, refresh::SETTLE);
        let mut series = Vec::new();
        for case in Case::ALL {
            self.say(&format!("refresh: {case}"));
            series.push(stage.series(case, self.effort.refreshes));
        }
        let refreshes = stage.refreshes(self.name(), series);
        self.record.refreshes.push(refreshes);
        stage.stop(self.site);
    }

    fn name(&self) -> &str {
        &self.repository.name
    }

    /// The archive is made once, checked, and laid out for nginx.
    fn prepare(&mut self, state: &State) -> Option<Nginx> {
        self.say("preparing");
        let name = self.name().to_owned();
        let directory = self.site.run_path("nginx");
        lab::create_dir(&directory.join("www"));
        let file = directory.join("www").join(file_name(&name));
        let server = state.start();
        let made = save(&server, &name, Some(&file));
        wait_published(&server, &name);
        let kept = save(&server, &name, None);
        assert!(
            made == kept && made.1 > 0,
            "the cache does not give what the miss gave"
        );
        expect_decodes(&file);
        let owned = state.owned_bytes();
        server.stop();
        state.forget_snapshots();
        let clone = self.site.run_path("clone");
        let mirror = state.mirror(&name);
        let worktree = pipeline::compressed_worktree_bytes(&mirror, &clone);
        for (what, value) in [
            ("files", self.repository.files),
            ("worktree_bytes", self.repository.worktree_bytes),
            ("pack_bytes", self.repository.pack_bytes),
            ("archive_bytes", made.1),
            ("entry_owned_bytes", owned),
            ("compressed_worktree_bytes", worktree),
        ] {
            self.record.fact(&name, what, value);
        }
        self.nginx.map(|binary| Nginx::start(binary, &directory))
    }

    /// Every contestant once; every second round the other way round.
    fn round(&mut self, round: u32, state: &State, rivals: &Rivals) {
        self.say(&format!("round {} of {}", round + 1, self.effort.rounds));
        let mut order = [0, 1, 2, 3, 4];
        if round % 2 == 1 {
            order.reverse();
        }
        for contestant in order {
            state.sync();
            match contestant {
                0 => self.pipeline(round, state),
                1 => self.miss_and_hits(round, state, rivals),
                2 => self.git_http(round, rivals),
                3 => self.followers(round, state),
                _ => self.peers(round),
            }
        }
    }

    fn pipeline(&mut self, round: u32, state: &State) {
        let clone = self.site.run_path("clone");
        let mirror = state.mirror(self.name());
        let (measured, usage) = pipeline::run(&mirror, &clone, self.effort.pzstd_threads);
        self.push_one(Contestant::Pipeline, round, measured, Some(usage));
    }

    fn git_http(&mut self, round: u32, rivals: &Rivals) {
        let clone = self.site.run_path("clone");
        let (measured, usage) = rivals.bridge.clone_once(self.name(), &[], &clone);
        self.push_one(Contestant::GitHttp, round, measured, Some(usage));
    }

    /// A miss to its end and publication, then hits in turn with nginx.
    fn miss_and_hits(&mut self, round: u32, state: &State, rivals: &Rivals) {
        let name = self.name().to_owned();
        let server = state.start();
        let meter = Meter::start(server.pid());
        let missed = site::download(&server, &name);
        wait_published(&server, &name);
        self.push_one(Contestant::Miss, round, of(&missed), Some(meter.stop()));
        self.expect_size(&missed);
        self.same_start(state, &server, rivals);
        for number in 0..self.effort.hits {
            for clients in [1, SEVERAL] {
                let mut order = [true, false];
                if (round + number) % 2 == 1 {
                    order.reverse();
                }
                for tarpon in order {
                    self.hit(round, tarpon, clients, &server, rivals);
                }
            }
        }
        server.stop();
        state.forget_snapshots();
    }

    /// Has tarpon and nginx read their files anew, as after a start of the machine. Git has just
    /// written its pack in pieces of a few KiB, nginx's file came in large ones, and the page
    /// cache holds either as it came: small pages cost whoever sends them a tenth more.
    fn same_start(&self, state: &State, server: &Server, rivals: &Rivals) {
        state.sync();
        state.evict();
        site::evict_tree(&self.site.run_path("nginx/www"));
        for _ in 0..WARM_UPS {
            site::download(server, self.name());
            if let Some(nginx) = &rivals.nginx {
                let target = format!("/{}", file_name(self.name()));
                let sent = probe::get(nginx.address(), &target, Manners::EAGER, &mut |_| true);
                site::expect_whole(sent);
            }
        }
    }

    /// One run of hits of tarpon or nginx.
    fn hit(&mut self, round: u32, tarpon: bool, clients: usize, server: &Server, rivals: &Rivals) {
        let name = self.name().to_owned();
        let (pid, address, target, one, several) = match (tarpon, &rivals.nginx) {
            (true, _) => {
                let (one, several) = (Contestant::Hit, Contestant::HitSeveral);
                (server.pid(), server.address(), target(&name), one, several)
            }
            (false, Some(nginx)) => {
                let (one, several) = (Contestant::Nginx, Contestant::NginxSeveral);
                let target = format!("/{}", file_name(&name));
                (nginx.pid(), nginx.address(), target, one, several)
            }
            (false, None) => return,
        };
        let meter = Meter::start(pid);
        let (transfers, wall) = at_once(clients, address, &target);
        let usage = meter.stop();
        transfers.iter().for_each(|one| self.expect_size(one));
        let contestant = if clients == 1 { one } else { several };
        self.push(contestant, round, &transfers, wall, Some(usage));
    }

    /// Several clients of one build.
    fn followers(&mut self, round: u32, state: &State) {
        let contestant = Contestant::Followers;
        self.missing_clients(contestant, round, state, self.effort.followers);
    }

    fn missing_clients(&mut self, who: Contestant, round: u32, state: &State, clients: usize) {
        let name = self.name().to_owned();
        let server = state.start();
        let meter = Meter::start(server.pid());
        let (transfers, wall) = at_once(clients, server.address(), &target(&name));
        wait_published(&server, &name);
        let usage = meter.stop();
        transfers.iter().for_each(|one| self.expect_size(one));
        assert_eq!(server.builds("complete"), 1, "one build for all clients");
        self.push(who, round, &transfers, wall, Some(usage));
        server.stop();
        state.forget_snapshots();
    }

    fn peers(&mut self, round: u32) {
        for (number, peer) in self.peers.iter().enumerate() {
            // By number: a record does not name other people's machines.
            let name = format!("peer {}", number + 1);
            match peer.get(self.repository) {
                Ok(transfer) => {
                    let contestant = Contestant::Peer(name);
                    self.push_one(contestant, round, of(&transfer), None);
                }
                Err(why) => self.record.skip(format!("{name}: {why}")),
            }
        }
    }

    /// Many first bytes: misses on servers restarted before each, hits in turn with nginx.
    fn first_bytes(&mut self, state: &State, rivals: &Rivals) {
        self.say("first bytes");
        let name = self.name().to_owned();
        state.sync();
        for number in 0..self.effort.misses {
            let mut server = state.start();
            let measured = of(&site::first_byte(&server, &name));
            self.push_one(Contestant::MissFirst, number, measured, None);
            // Its build would go on; there is no need to see it end.
            server.kill();
            state.forget_snapshots();
        }
        let server = state.start();
        site::download(&server, &name);
        wait_published(&server, &name);
        for number in 0..self.effort.firsts {
            let measured = of(&site::first_byte(&server, &name));
            self.push_one(Contestant::HitFirst, number, measured, None);
            if let Some(nginx) = &rivals.nginx {
                let target = format!("/{}", file_name(&name));
                let transfer =
                    probe::get(nginx.address(), &target, Manners::CURIOUS, &mut |_| true);
                let transfer = transfer.unwrap_or_else(|e| panic!("nginx: {e}"));
                self.push_one(Contestant::NginxFirst, number, of(&transfer), None);
            }
        }
        server.stop();
        state.forget_snapshots();
    }

    /// Memory with a crowd of clients, on a miss and on a hit.
    fn crowds(&mut self, state: &State) {
        self.say(&format!("{} clients at once", self.effort.crowd));
        state.sync();
        let crowd = self.effort.crowd;
        self.missing_clients(Contestant::MissCrowd, 0, state, crowd);
        let name = self.name().to_owned();
        let server = state.start();
        site::download(&server, &name);
        wait_published(&server, &name);
        let meter = Meter::start(server.pid());
        let (transfers, wall) = at_once(crowd, server.address(), &target(&name));
        let usage = meter.stop();
        transfers.iter().for_each(|one| self.expect_size(one));
        self.push(Contestant::HitCrowd, 0, &transfers, wall, Some(usage));
        server.stop();
        state.forget_snapshots();
    }

    /// Every archive of a commit has the same length.
    fn expect_size(&self, transfer: &Transfer) {
        let expected = self.record.find_fact(self.name(), "archive_bytes");
        assert_eq!(Some(transfer.bytes), expected, "{:?}", transfer.head);
    }

    /// Keeps a run of one client.
    pub fn push_one(&mut self, who: Contestant, round: u32, one: Measured, usage: Option<Usage>) {
        self.record.runs.push(Run {
            repository: self.name().to_owned(),
            contestant: who,
            round,
            clients: vec![one],
            wall: one.total,
            usage,
        });
    }

    /// Keeps a run of several clients.
    pub fn push(
        &mut self,
        contestant: Contestant,
        round: u32,
        transfers: &[Transfer],
        wall: Duration,
        usage: Option<Usage>,
    ) {
        self.record.runs.push(Run {
            repository: self.name().to_owned(),
            contestant,
            round,
            clients: transfers.iter().map(of).collect(),
            wall,
            usage,
        });
    }

    /// Tells what is going on; the table alone goes to standard output.
    pub fn say(&self, what: &str) {
        eprintln!("{}: {what}", self.name());
    }
}

/// The times of a transfer.
pub fn of(transfer: &Transfer) -> Measured {
    Measured {
        first: transfer.first,
        total: transfer.total,
        bytes: transfer.bytes,
    }
}

/// Downloads by `clients` that start together; panics unless all are whole.
fn at_once(clients: usize, address: SocketAddr, target: &str) -> (Vec<Transfer>, Duration) {
    let barrier = Barrier::new(clients);
    std::thread::scope(|scope| {
        let client = |_| {
            scope.spawn(|| {
                barrier.wait();
                site::expect_whole(probe::get(address, target, Manners::EAGER, &mut |_| true))
            })
        };
        let threads: Vec<_> = (0..clients).map(client).collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, Transfer>| match thread.join() {
            Ok(transfer) => transfer,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        let transfers: Vec<Transfer> = threads.into_iter().map(join).collect();
        let first = transfers.iter().map(|one| one.started).min();
        let last = transfers.iter().map(|one| one.started + one.total).max();
        let wall = first.zip(last).map(|(first, last)| last - first);
        (transfers, wall.unwrap_or_default())
    })
}

/// Downloads a snapshot, into a file if there is one; gives hash and length.
fn save(server: &Server, name: &str, file: Option<&PathBuf>) -> (u64, u64) {
    let mut hash = xxhash_rust::xxh64::Xxh64::new(0);
    let create =
        |path: &PathBuf| File::create(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut out = file.map(create);
    let transfer = probe::get(
        server.address(),
        &target(name),
        Manners::EAGER,
        &mut |block| {
            hash.update(block);
            if let Some(out) = &mut out {
                out.write_all(block).unwrap_or_else(|e| panic!("save: {e}"));
            }
            true
        },
    );
    let transfer = site::expect_whole(transfer);
    (hash.digest(), transfer.bytes)
}

/// Panics unless the file is whole to `zstd` and `tar`.
fn expect_decodes(file: &PathBuf) {
    let script = "zstd -dcq -- \"$0\" | tar -tf - > /dev/null";
    let mut command = super::support::git::with_umask("bash");
    command.args(["-o", "pipefail", "-c", script]).arg(file);
    let status = command.status().unwrap_or_else(|e| panic!("bash: {e}"));
    assert!(status.success(), "the archive does not decode: {status}");
    let bytes = fs::metadata(file).map(|found| found.len());
    assert!(bytes.is_ok_and(|bytes| bytes > 0), "{}", file.display());
}

fn file_name(name: &str) -> String {
    format!("{name}.tar.zst")
}
