//! A hit over TLS beside nginx, what clients take of a server's memory, and what those do to a good one that shake hands
//! halfway or send half a head.

use super::columns::columns;
use super::link::{self, Link};
use super::nginx::Nginx;
use super::probe::{self, Manners};
use super::site::{self, Repository, Site, State, target, wait_published};
use super::support::certificates::{Authority, Issued};
use super::support::lab;
use super::support::server::Server;
use super::usage::Meter;
use rustls::ClientConfig;
use std::fs::{self, File};
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

/// What the server may take, of nginx's, and what it has to send.
const CPU_RATIO_MAX: f64 = 1.1;
const THROUGHPUT_RATIO_MIN: f64 = 0.9;
/// Anonymous memory: of a server, of each client, of an idle connection.
const RSS_BYTES: f64 = 26e6;
const CLIENT_BYTES: f64 = 0.5e6;
const IDLE_BYTES: f64 = (64 << 10) as f64;
/// How much longer a good client's hit may take beside others.
const TIMES_MAX: f64 = 2.0;
const MORE_MS_MAX: f64 = 2.0;
/// Downloads of one side in a round.
const DOWNLOADS: u32 = 3;
/// Clients of the run that shows memory.
const CROWD: usize = 64;
/// Connections that do nothing, or half of something.
const MANY: usize = 1000;
/// Hits of a good client.
const HITS: usize = 500;

/// Both sides, and a client's two ways to them.
struct Stage {
    server: Server,
    address: SocketAddr,
    nginx: Nginx,
    configs: [Arc<ClientConfig>; 2],
    targets: [String; 2],
}

/// A run of one side.
#[derive(Debug, Clone, Copy)]
struct Run {
    cpu_s_gb: f64,
    gb_s: f64,
}

/// What was measured.
#[derive(Debug)]
pub struct Outcome {
    /// By handshake, full and resumed, then by side.
    runs: [[Vec<Run>; 2]; 2],
    crowd_bytes: f64,
    idle_bytes: f64,
    /// p50 and p99 of a good client's hits in ms: alone, beside half-open handshakes, beside slow heads.
    hits: [[f64; 2]; 3],
    congestion: String,
}

/// Measures everything; `small` is what a good client gets.
pub fn run(
    site: &Site,
    binary: &str,
    (repository, small): (&Repository, &Repository),
    rounds: u32,
) -> Outcome {
    let authority = Authority::new(&site.run_path(""), "ca");
    let pair = authority.issue("server", &["127.0.0.1"], 1);
    let mut state = site.state("tls", repository);
    state.add(small, &small.name);
    let flags = pair.flags();
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let state = state.with(&[&flags[..], &["--listen", "tls:127.0.0.1:0"]].concat());
    let stage = Stage::new(site, binary, &pair, &authority, &state, (repository, small));
    let mut runs: [[Vec<Run>; 2]; 2] = Default::default();
    for round in 0..rounds {
        for (is_resumed, sides) in [false, true].into_iter().zip(&mut runs) {
            for turn in 0..2 {
                let side = (turn + round as usize) % 2;
                sides[side].push(stage.round(is_resumed, side == 1));
            }
        }
    }
    let target = stage.targets[0].clone();
    let outcome = Outcome {
        runs,
        crowd_bytes: stage.crowd(&target),
        idle_bytes: stage.idle(&site::target(&small.name)),
        hits: stage.good_hits(&site::target(&small.name)),
        congestion: fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control")
            .unwrap_or_default(),
    };
    stage.server.stop();
    drop(stage.nginx);
    state.remove();
    outcome
}

impl Stage {
    fn new(
        site: &Site,
        binary: &str,
        pair: &Issued,
        authority: &Authority,
        state: &State,
        (repository, small): (&Repository, &Repository),
    ) -> Stage {
        let directory = site.run_path("nginx");
        lab::create_dir(&directory.join("www"));
        let server = state.start();
        let file = directory.join("www/archive");
        let mut out = File::create(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        for name in [&small.name, &repository.name] {
            site::download(&server, name);
            wait_published(&server, name);
        }
        let archive = target(&repository.name);
        let saved = probe::get(server.address(), &archive, Manners::EAGER, &mut |block| {
            out.write_all(block).is_ok()
        });
        site::expect_whole(saved);
        out.sync_all().unwrap_or_else(|e| panic!("sync: {e}"));
        // As after a start of the machine: how a file came into memory decides what it costs to send it.
        state.sync();
        state.evict();
        site::evict_tree(&directory.join("www"));
        let address = server.places(2)[1].trim_start_matches("https://").parse();
        let stage = Stage {
            address: address.unwrap_or_else(|e| panic!("an address: {e}")),
            server,
            nginx: Nginx::start_with_tls(binary, &directory, pair),
            configs: [false, true].map(|resumes| link::config(authority, resumes)),
            targets: [archive, "/archive".to_owned()],
        };
        for side in [false, true] {
            stage.round(true, side);
        }
        stage
    }

    /// Downloads from one side, each on a connection of its own.
    fn round(&self, is_resumed: bool, is_nginx: bool) -> Run {
        let config = &self.configs[usize::from(is_resumed)];
        let (pid, address) = match is_nginx {
            false => (self.server.pid(), self.address),
            true => (self.nginx.pid(), self.nginx.address()),
        };
        let target = &self.targets[usize::from(is_nginx)];
        let get = |target: &str| {
            let got = Link::open(address, config).and_then(|mut link| link.get(target));
            got.unwrap_or_else(|e| panic!("{address}: {e}"))
        };
        if is_resumed {
            // Tickets come behind the first answer of a connection.
            get(target);
        }
        let (meter, began) = (Meter::start(pid), Instant::now());
        let mut bytes = 0;
        for _ in 0..DOWNLOADS {
            let got = get(target);
            assert_eq!(got.is_resumed, is_resumed, "the handshake");
            bytes += got.bytes;
        }
        let wall_s = began.elapsed().as_secs_f64();
        let gb = bytes as f64 / 1e9;
        Run {
            cpu_s_gb: meter.stop().cpu_s / gb,
            gb_s: gb / wall_s,
        }
    }

    /// Peak of the server's anonymous memory while a crowd downloads.
    fn crowd(&self, target: &str) -> f64 {
        let barrier = Barrier::new(CROWD);
        let meter = Meter::start(self.server.pid());
        std::thread::scope(|scope| {
            for _ in 0..CROWD {
                scope.spawn(|| {
                    let link = Link::open(self.address, &self.configs[0]);
                    let mut link = link.unwrap_or_else(|e| panic!("connect: {e}"));
                    barrier.wait();
                    link.get(target).unwrap_or_else(|e| panic!("get: {e}"));
                });
            }
        });
        meter.stop().rss_anon_bytes as f64
    }

    fn opened(&self, count: usize, open: impl Fn() -> std::io::Result<Link>) -> Vec<Link> {
        let links = (0..count).map(|_| open());
        let links = links.collect::<std::io::Result<Vec<Link>>>();
        links.unwrap_or_else(|e| panic!("connect to {}: {e}", self.address))
    }

    /// Anonymous memory for each of many that have had an answer and ask for nothing more.
    fn idle(&self, target: &str) -> f64 {
        let open = || {
            let mut link = Link::open(self.address, &self.configs[0])?;
            link.get(target)?;
            link.be_idle();
            Ok(link)
        };
        drop(self.opened(CROWD, open));
        let before = self.server.rss_anon_bytes();
        let idle = self.opened(MANY, open);
        let after = self.server.rss_anon_bytes();
        after.saturating_sub(before) as f64 / idle.len() as f64
    }

    /// A good client's hits: alone, and once many others stand there.
    fn good_hits(&self, target: &str) -> [[f64; 2]; 3] {
        let alone = self.hits(target);
        let half = || Link::half_hello(self.address, &self.configs[0]);
        let crowd = self.opened(MANY, half);
        let beside_half_open = self.hits(target);
        drop(crowd);
        let slow = || {
            let mut link = Link::open(self.address, &self.configs[0])?;
            link.send(b"GET /git/bench/small HTTP/1.1\r\nHost: ben")?;
            Ok(link)
        };
        let crowd = self.opened(MANY, slow);
        let beside_slow = self.hits(target);
        drop(crowd);
        [alone, beside_half_open, beside_slow]
    }

    /// p50 and p99 in ms, from before a connection is opened to the last byte.
    fn hits(&self, target: &str) -> [f64; 2] {
        let hit = |_| {
            let began = Instant::now();
            let got = Link::open(self.address, &self.configs[0]).and_then(|mut l| l.get(target));
            got.unwrap_or_else(|e| panic!("a good client: {e}"));
            began.elapsed()
        };
        let mut times: Vec<Duration> = (0..HITS).map(hit).collect();
        times.sort_unstable();
        [50, 99].map(|percent| times[(times.len() - 1) * percent / 100].as_secs_f64() * 1e3)
    }
}

fn median(runs: &[Run], value: impl Fn(&Run) -> f64) -> f64 {
    let mut values: Vec<f64> = runs.iter().map(value).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

impl Outcome {
    /// Each bound: what it is of, the figure, the bound, and whether it is kept.
    fn checks(&self) -> Vec<(String, f64, String, bool)> {
        let mut checks = Vec::new();
        for (kind, [ours, theirs]) in ["full", "resumed"].iter().zip(&self.runs) {
            let ratio = |value: fn(&Run) -> f64| median(ours, value) / median(theirs, value);
            let (cpu, speed) = (ratio(|run| run.cpu_s_gb), ratio(|run| run.gb_s));
            let of = |what: &str| format!("{what} / nginx's, {kind} handshakes");
            let (most, least) = (CPU_RATIO_MAX, THROUGHPUT_RATIO_MIN);
            checks.push((of("CPU"), cpu, format!("<= {most}"), cpu <= most));
            checks.push((of("GB/s"), speed, format!(">= {least}"), speed >= least));
        }
        let mut at_most = |what: String, figure: f64, most: f64| {
            checks.push((what, figure, format!("<= {most:.3}"), figure <= most));
        };
        let most = (RSS_BYTES + CLIENT_BYTES * CROWD as f64) / 1e6;
        at_most(
            format!("RssAnon MB, {CROWD} clients"),
            self.crowd_bytes / 1e6,
            most,
        );
        let what = format!("KiB of an idle connection, of {MANY}");
        at_most(what, self.idle_bytes / 1024.0, IDLE_BYTES / 1024.0);
        let most = TIMES_MAX * self.hits[0][1] + MORE_MS_MAX;
        for (beside, [_, p99]) in ["half-open handshakes", "slow heads"]
            .iter()
            .zip(&self.hits[1..])
        {
            let what = format!("a hit's p99 ms beside {MANY} {beside}");
            at_most(what, *p99, most);
        }
        checks
    }

    /// What is printed.
    pub fn text(&self) -> String {
        let cells = |row: &[&str]| row.iter().map(|cell| (*cell).to_owned()).collect();
        let mut rows: Vec<Vec<String>> = vec![cells(&["medians", "n", "CPU s/GB", "GB/s"])];
        for (kind, sides) in ["full", "resumed"].iter().zip(&self.runs) {
            for (side, runs) in ["tarpon", "nginx"].iter().zip(sides) {
                rows.push(vec![
                    format!("{side}, {kind} handshakes"),
                    runs.len().to_string(),
                    format!("{:.3}", median(runs, |run| run.cpu_s_gb)),
                    format!("{:.3}", median(runs, |run| run.gb_s)),
                ]);
            }
        }
        let mut text = format!(
            "TLS 1.3, TLS_AES_128_GCM_SHA256, records of 16 KiB; nginx with {} as its congestion control, tarpon with \
             reno\n{}\n",
            self.congestion.trim(),
            columns(&rows, 1)
        );
        let mut rows: Vec<Vec<String>> = vec![cells(&["a good client's hit, ms", "p50", "p99"])];
        let beside = ["alone", "beside half-open handshakes", "beside slow heads"];
        for (beside, hits) in beside.iter().zip(&self.hits) {
            let hits = hits.map(|ms| format!("{ms:.3}"));
            rows.push([&[(*beside).to_owned()], &hits[..]].concat());
        }
        text.push_str(&columns(&rows, 1));
        text.push_str("\nWhat must be shown\n");
        let rows = self.checks().into_iter().map(|(what, figure, bound, is)| {
            let verdict = if is { "PASS" } else { "FAIL" };
            vec![what, format!("{figure:.3}"), bound, verdict.to_owned()]
        });
        text + &columns(&rows.collect::<Vec<_>>(), 1)
    }

    /// Every run, as lines.
    pub fn csv(&self) -> String {
        let mut csv = String::from("handshake,side,round,cpu_s_per_gb,gb_per_s\n");
        for (kind, sides) in ["full", "resumed"].iter().zip(&self.runs) {
            for (side, runs) in ["tarpon", "nginx"].iter().zip(sides) {
                for (round, run) in runs.iter().enumerate() {
                    csv += &format!(
                        "{kind},{side},{round},{:.4},{:.4}\n",
                        run.cpu_s_gb, run.gb_s
                    );
                }
            }
        }
        csv
    }

    /// Whether all bounds are kept.
    pub fn is_within(&self) -> bool {
        self.checks().iter().all(|(.., is_kept)| *is_kept)
    }
}
