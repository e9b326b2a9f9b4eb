//! The first byte of other repositories while a server is busy: with hits that clients read at a
//! limited rate, together about half of what one core can send, and with builds, one after the
//! other.

use super::measure::{Bench, of};
use super::probe::{self, Manners};
use super::record::{Contestant, Run};
use super::site::{self, State, target, wait_published};
use super::support::rng::Rng;
use super::support::server::Server;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Sender};
use std::time::{Duration, Instant};

/// Rate-limited clients.
const PACED: u64 = 50;
/// Copies of the repository under measurement that are there to be built.
const BUILDS: u32 = 24;
/// The repositories whose first bytes are measured.
const SMALL: &str = "generate:many_small:1M";

fn build_name(number: u32) -> String {
    format!("busy-build-{number}")
}

fn small_name(number: u32) -> String {
    format!("busy-small-{number}")
}

/// What the threads share.
struct Stage {
    address: SocketAddr,
    stop: AtomicBool,
    paced_bytes: AtomicU64,
    builds_ended: AtomicBool,
}

/// Ends the other threads, also when the measuring one panics; they would be waited for.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl Bench<'_> {
    /// Measures it.
    pub fn busy(&mut self) {
        let name = self.repository.name.clone();
        let Some(rate) = self.one_core_bytes_per_s() else {
            let word = format!("{name}: busy server: too small to know what one core sends");
            self.record.skip(word);
            return;
        };
        let per_client = (rate / 2.0) as u64 / PACED;
        self.say("busy server");
        let mut state = self.site.state("busy", self.repository);
        self.fill(&mut state);
        let server = state.start();
        for hit in [name.clone(), small_name(0)] {
            site::download(&server, &hit);
            wait_published(&server, &hit);
        }
        state.sync();
        let stage = Stage {
            address: server.address(),
            stop: AtomicBool::new(false),
            paced_bytes: AtomicU64::new(0),
            builds_ended: AtomicBool::new(false),
        };
        let started = Instant::now();
        std::thread::scope(|scope| {
            let _stops = StopOnDrop(&stage.stop);
            for _ in 0..PACED {
                scope.spawn(|| stage.read_slowly(&name, per_client));
            }
            let (begun, begins) = mpsc::channel();
            scope.spawn(|| stage.build(begun));
            // Ends with an error if the builder has ended, which its own panic tells.
            let _ = begins.recv();
            self.ask(&server, &stage);
        });
        let paced = stage.paced_bytes.load(Ordering::SeqCst) as f64;
        let achieved = paced / started.elapsed().as_secs_f64();
        self.record
            .fact(&name, "busy_hits_wanted_bytes_per_s", per_client * PACED);
        self.record
            .fact(&name, "busy_hits_bytes_per_s", achieved as u64);
        server.stop();
        state.remove();
    }

    /// What one core can send here, by the hits of one client measured before: a connection is
    /// served by one core. By its CPU time alone it could send more than clients on the same machine
    /// can read beside it, and what is measured would be the clients.
    fn one_core_bytes_per_s(&self) -> Option<f64> {
        let hits = self
            .record
            .summary(&self.repository.name, &Contestant::Hit)?;
        let by_cpu = 1e9 / hits.cpu_s_per_gb.filter(|cpu| *cpu > 0.0)?;
        Some(by_cpu.min(hits.bytes_per_s))
    }

    fn fill(&self, state: &mut State) {
        for number in 0..BUILDS {
            state.add(self.repository, &build_name(number));
        }
        let small = self.site.repository(SMALL);
        let small = small.unwrap_or_else(|e| panic!("{SMALL}: {e}"));
        for number in 0..=self.effort.busy {
            state.add(&small, &small_name(number));
        }
    }

    /// Misses of one small repository after the other, each followed by a hit.
    fn ask(&mut self, server: &Server, stage: &Stage) {
        let mut rng = Rng::new(0x7A59_0002);
        for number in 1..=self.effort.busy {
            if stage.builds_ended.load(Ordering::SeqCst) {
                let word = format!(
                    "{}: busy server: all {BUILDS} builds had ended after {} requests",
                    self.repository.name,
                    number - 1
                );
                self.record.skip(word);
                return;
            }
            let (miss, hit) = (Contestant::BusyMiss, Contestant::BusyHit);
            for (contestant, asked) in [(miss, number), (hit, 0)] {
                // Not in step with anything that the server does.
                std::thread::sleep(Duration::from_micros(5_000 + rng.below(20_000)));
                let measured = of(&site::first_byte(server, &small_name(asked)));
                self.record.runs.push(Run {
                    repository: self.repository.name.clone(),
                    contestant,
                    round: number,
                    clients: vec![measured],
                    wall: measured.total,
                    usage: None,
                });
            }
        }
    }
}

impl Stage {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::SeqCst)
    }

    /// One slow client after the other.
    fn read_slowly(&self, name: &str, bytes_per_s: u64) {
        let manners = Manners {
            bytes_per_s: Some(bytes_per_s),
            ..Manners::EAGER
        };
        while self.goes_on() {
            let transfer = probe::get(self.address, &target(name), manners, &mut |block| {
                self.paced_bytes
                    .fetch_add(block.len() as u64, Ordering::Relaxed);
                self.goes_on()
            });
            let transfer = transfer.unwrap_or_else(|e| panic!("slow client: {e}"));
            assert!(
                transfer.whole || !self.goes_on(),
                "a slow client was cut off"
            );
        }
    }

    /// One build after the other; `begun` hears of the first one's first byte.
    fn build(&self, begun: Sender<()>) {
        for number in 0..BUILDS {
            let target = target(&build_name(number));
            let built = probe::get(self.address, &target, Manners::EAGER, &mut |_| {
                // Nobody listens after the first time.
                let _ = begun.send(());
                self.goes_on()
            });
            let built = built.unwrap_or_else(|e| panic!("build: {e}"));
            if !self.goes_on() {
                return;
            }
            assert!(built.whole && built.head.status == 200, "{:?}", built.head);
        }
        self.builds_ended.store(true, Ordering::SeqCst);
    }
}
