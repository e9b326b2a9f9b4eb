//! Load: requests arrive at a given rate whatever becomes of those before (an open loop), and
//! every latency counts from the moment at which the request was due. A server that stalls pays
//! for everything that should have been asked meanwhile (no coordinated omission).

use super::columns::columns;
use super::peer::Peer;
use super::probe::{self, Manners, Transfer};
use super::site::{self, Repository, Site, target, wait_published};
use super::support::rng::Rng;
use super::support::server::Server;
use super::svg::{Picture, Series};
use super::{folder, record};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Most arrivals of one run.
pub const ARRIVALS_MAX: f64 = 1e6;
/// Stack of a client's thread.
const STACK_BYTES: usize = 256 << 10;

/// What the load is.
#[derive(Debug, Clone)]
pub struct Load {
    /// Arrivals per second, on average; they come at random (a Poisson process).
    pub rate: f64,
    /// For how long.
    pub duration: Duration,
    /// Repositories and their weights.
    pub mix: Vec<(String, f64)>,
    /// A running server instead of one started here; on this machine only.
    pub server: Option<Peer>,
    /// Whether the started server's cache is empty at first.
    pub cold: bool,
    /// Share of clients that read slowly.
    pub slow_share: f64,
    /// How slowly.
    pub slow_bytes_per_s: u64,
    /// Share of clients that leave early.
    pub leave_share: f64,
    /// After how many bytes.
    pub leave_after_bytes: u64,
    /// Clients at the same time; arrivals beyond wait, and their waiting counts.
    pub clients_max: usize,
    /// Of everything that is drawn by chance.
    pub seed: u64,
}

/// One request to come.
#[derive(Debug, Clone)]
struct Arrival {
    due: Duration,
    target: usize,
    manners: Manners,
}

/// What became of it.
#[derive(Debug, Clone)]
struct Outcome {
    due: Duration,
    /// From the due time.
    first: Option<Duration>,
    /// From the due time.
    total: Duration,
    bytes: u64,
    end: &'static str,
    cache: String,
    target: usize,
}

/// `REPO=WEIGHT,…`; a weight of 1 may be left out.
pub fn parse_mix(text: &str) -> Result<Vec<(String, f64)>, String> {
    let one = |part: &str| {
        let (name, weight) = part.rsplit_once('=').unwrap_or((part, "1"));
        let weight = weight.parse::<f64>().ok().filter(|w| *w > 0.0);
        let weight = weight.ok_or_else(|| format!("'{part}': the weight is no number above 0"))?;
        Ok((name.to_owned(), weight))
    };
    text.split(',')
        .filter(|part| !part.is_empty())
        .map(one)
        .collect()
}

/// Runs the load and prints what came of it; keeps a record in `directory`, if there is one.
pub fn run(load: &Load, site: &Site, record: Option<(&Path, &str)>) -> Result<(), String> {
    if load.rate * load.duration.as_secs_f64() > ARRIVALS_MAX {
        return Err(format!(
            "more than {ARRIVALS_MAX} arrivals; lower rate or duration"
        ));
    }
    let place = Place::find(load, site)?;
    let arrivals = schedule(load);
    eprintln!("{} arrivals in {:?}", arrivals.len(), load.duration);
    let outcomes = drive(load, &place, &arrivals);
    let text = report(load, &outcomes);
    print!("{text}");
    if let Some((directory, machine)) = record {
        folder::create_dir(directory);
        folder::write_file(&directory.join("load.txt"), &text);
        folder::write_file(&directory.join("load.csv"), &csv(load, &outcomes));
        folder::write_file(&directory.join("load.svg"), &picture(&outcomes));
        folder::write_file(&directory.join("machine.txt"), machine);
    }
    place.end();
    Ok(())
}

/// The server and its snapshots.
struct Place {
    address: SocketAddr,
    targets: Vec<String>,
    ours: Option<(Server, site::State)>,
}

impl Place {
    fn find(load: &Load, site: &Site) -> Result<Place, String> {
        if let Some(peer) = &load.server {
            if !peer.address().ip().is_loopback() {
                return Err("load goes to this machine only".to_owned());
            }
            let snapshot = |(name, _): &(String, f64)| format!("/git/{name}/snapshot.tar.zst");
            return Ok(Place {
                address: peer.address(),
                targets: load.mix.iter().map(snapshot).collect(),
                ours: None,
            });
        }
        let mix = load.mix.iter().map(|(spec, _)| site.repository(spec));
        let repositories: Vec<Repository> = mix.collect::<Result<_, _>>()?;
        let first = repositories.first().ok_or("the mix is empty")?;
        let mut state = site.state("load", first);
        for repository in &repositories[1..] {
            state.add(repository, &repository.name);
        }
        let server = state.start();
        for repository in repositories.iter().filter(|_| !load.cold) {
            site::download(&server, &repository.name);
            wait_published(&server, &repository.name);
        }
        Ok(Place {
            address: server.address(),
            targets: repositories.iter().map(|one| target(&one.name)).collect(),
            ours: Some((server, state)),
        })
    }

    fn end(self) {
        if let Some((server, state)) = self.ours {
            server.stop();
            state.remove();
        }
    }
}

/// Draws all arrivals before the first one comes.
fn schedule(load: &Load) -> Vec<Arrival> {
    let mut rng = Rng::new(load.seed);
    // In (0, 1], so that its logarithm is a number.
    let mut chance = move || ((rng.next_u64() >> 11) + 1) as f64 / (1u64 << 53) as f64;
    let weights: f64 = load.mix.iter().map(|(_, weight)| weight).sum();
    let (mut arrivals, mut at) = (Vec::new(), 0.0);
    loop {
        at -= chance().ln() / load.rate;
        if at >= load.duration.as_secs_f64() {
            return arrivals;
        }
        let mut left = chance() * weights;
        let is_it = |(_, weight): &(String, f64)| {
            left -= weight;
            left <= 0.0
        };
        let target = load.mix.iter().position(is_it).unwrap_or(0);
        let (slow, leaves) = (chance() <= load.slow_share, chance() <= load.leave_share);
        arrivals.push(Arrival {
            due: Duration::from_secs_f64(at),
            target,
            manners: Manners {
                leave_after_bytes: leaves.then_some(load.leave_after_bytes),
                bytes_per_s: slow.then_some(load.slow_bytes_per_s),
            },
        });
    }
}

/// Each client takes the next arrival, waits until it is due (or is late already) and asks.
fn drive(load: &Load, place: &Place, arrivals: &[Arrival]) -> Vec<Outcome> {
    let (next, outcomes) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let started = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..load.clients_max.min(arrivals.len()) {
            let client = || {
                while let Some(arrival) = arrivals.get(next.fetch_add(1, Ordering::Relaxed)) {
                    std::thread::sleep(arrival.due.saturating_sub(started.elapsed()));
                    let outcome = ask(place, arrival, started);
                    let mut all = outcomes.lock().unwrap_or_else(|e| e.into_inner());
                    all.push(outcome);
                }
            };
            let thread = std::thread::Builder::new().stack_size(STACK_BYTES);
            let spawned = thread.spawn_scoped(scope, client);
            spawned.unwrap_or_else(|e| panic!("a client's thread: {e}"));
        }
    });
    outcomes.into_inner().unwrap_or_else(|e| e.into_inner())
}

fn ask(place: &Place, arrival: &Arrival, started: Instant) -> Outcome {
    let late = started.elapsed().saturating_sub(arrival.due);
    let path = &place.targets[arrival.target];
    let got = probe::get(place.address, path, arrival.manners, &mut |_| true);
    let cache = |transfer: &Transfer| {
        let status = transfer.head.get("cache-status").unwrap_or("-");
        status.replace(['"', ','], "")
    };
    Outcome {
        due: arrival.due,
        first: got
            .as_ref()
            .ok()
            .and_then(|t| t.first)
            .map(|first| late + first),
        total: started.elapsed().saturating_sub(arrival.due),
        bytes: got.as_ref().map_or(0, |transfer| transfer.bytes),
        cache: got.as_ref().map_or("-".to_owned(), cache),
        end: match &got {
            Err(_) => "error",
            Ok(transfer) if transfer.head.status != 200 => "refused",
            Ok(transfer) if transfer.whole => "whole",
            Ok(_) if arrival.manners.leave_after_bytes.is_some() => "left",
            Ok(_) => "truncated",
        },
        target: arrival.target,
    }
}

fn series(outcomes: &[Outcome]) -> Vec<Series> {
    let of = |name: &str, times: Vec<Duration>| Series {
        name: name.to_owned(),
        latency_us: record::histogram(times),
    };
    let whole = outcomes.iter().filter(|outcome| outcome.end == "whole");
    let all = [
        of(
            "first byte",
            outcomes.iter().filter_map(|o| o.first).collect(),
        ),
        of("last byte", whole.map(|outcome| outcome.total).collect()),
    ];
    let some = |series: &Series| !series.latency_us.is_empty();
    all.into_iter().filter(some).collect()
}

fn report(load: &Load, outcomes: &[Outcome]) -> String {
    let mut ends: BTreeMap<&str, usize> = BTreeMap::new();
    for outcome in outcomes {
        *ends.entry(outcome.end).or_default() += 1;
    }
    let bytes: u64 = outcomes.iter().map(|outcome| outcome.bytes).sum();
    let last = outcomes
        .iter()
        .map(|outcome| outcome.due + outcome.total)
        .max();
    let seconds = last.unwrap_or(load.duration).as_secs_f64();
    let mut rows = vec![
        [
            "from the due time, ms",
            "n",
            "p50",
            "p90",
            "p99",
            "p99.9",
            "max",
        ]
        .map(str::to_owned)
        .to_vec(),
    ];
    for one in series(outcomes) {
        let mut row = vec![one.name, one.latency_us.len().to_string()];
        for percentile in [50.0, 90.0, 99.0, 99.9, 100.0] {
            let us = one.latency_us.value_at_percentile(percentile);
            row.push(format!("{:.3}", us as f64 / 1e3));
        }
        rows.push(row);
    }
    let mut out = format!(
        "{} arrivals at {}/s over {:?}, seed {:#x}; {:.3} GB in {seconds:.1} s, {:.3} GB/s\n",
        outcomes.len(),
        load.rate,
        load.duration,
        load.seed,
        bytes as f64 / 1e9,
        bytes as f64 / 1e9 / seconds,
    );
    for (end, count) in ends {
        out.push_str(&format!("{end}: {count}\n"));
    }
    out + &columns(&rows, 1)
}

fn csv(load: &Load, outcomes: &[Outcome]) -> String {
    let mut out = String::from("due_us,repository,first_byte_us,total_us,bytes,end,cache\n");
    for outcome in outcomes {
        let name = load.mix.get(outcome.target).map_or("", |(name, _)| name);
        // A path says something about this machine; its last part names the repository.
        let name = name.trim_end_matches('/').rsplit('/').next().unwrap_or("");
        let first = outcome.first.map(|first| first.as_micros().to_string());
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "{},{name},{},{},{},{},{}",
            outcome.due.as_micros(),
            first.unwrap_or_default(),
            outcome.total.as_micros(),
            outcome.bytes,
            outcome.end,
            outcome.cache,
        );
    }
    out
}

fn picture(outcomes: &[Outcome]) -> String {
    let mut picture = Picture::new();
    let title = "Latency from the time at which the request was due, ms";
    picture.latencies(title, &series(outcomes));
    picture.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    fn load(rate: f64, seconds: f64, clients_max: usize) -> Load {
        Load {
            rate,
            duration: Duration::from_secs_f64(seconds),
            mix: vec![("a".to_owned(), 3.0), ("b".to_owned(), 1.0)],
            server: None,
            cold: false,
            slow_share: 0.25,
            slow_bytes_per_s: 1,
            leave_share: 0.0,
            leave_after_bytes: 1,
            clients_max,
            seed: 7,
        }
    }

    #[test]
    fn arrivals_keep_rate_and_shares_and_repeat() {
        let load = load(1000.0, 20.0, 1);
        let arrivals = schedule(&load);
        let count = arrivals.len() as f64;
        assert!((count - 20_000.0).abs() < 600.0, "{count}");
        assert!(arrivals.windows(2).all(|two| two[0].due <= two[1].due));
        let share = |is: &dyn Fn(&Arrival) -> bool| {
            arrivals.iter().filter(|one| is(one)).count() as f64 / count
        };
        assert!((share(&|one| one.target == 0) - 0.75).abs() < 0.02);
        assert!((share(&|one| one.manners.bytes_per_s.is_some()) - 0.25).abs() < 0.02);
        assert!(share(&|one| one.manners.leave_after_bytes.is_some()) == 0.0);
        let again: Vec<Duration> = schedule(&load).iter().map(|one| one.due).collect();
        assert!(arrivals.iter().map(|one| one.due).eq(again));
    }

    /// A server that takes 20 ms for each of 20 requests that are all due at once: the last one
    /// waited for all the others, although its own answer took 20 ms.
    #[test]
    fn waiting_for_others_counts() {
        const EACH: Duration = Duration::from_millis(20);
        const REQUESTS: usize = 20;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap_or_else(|e| panic!("bind: {e}"));
        let address = listener.local_addr().unwrap_or_else(|e| panic!("{e}"));
        let server = std::thread::spawn(move || {
            for stream in listener.incoming().take(REQUESTS).flatten() {
                let mut stream = stream;
                let mut request = [0; 4096];
                let received = stream.read(&mut request);
                assert!(received.is_ok_and(|count| count > 0), "no request");
                std::thread::sleep(EACH);
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
                stream.write_all(answer).unwrap_or_else(|e| panic!("{e}"));
            }
        });
        let place = Place {
            address,
            targets: vec!["/".to_owned()],
            ours: None,
        };
        let due_at_once = Arrival {
            due: Duration::ZERO,
            target: 0,
            manners: Manners::EAGER,
        };
        let outcomes = drive(&load(1.0, 1.0, 1), &place, &vec![due_at_once; REQUESTS]);
        assert!(server.join().is_ok());
        assert_eq!(outcomes.len(), REQUESTS);
        assert!(outcomes.iter().all(|outcome| outcome.end == "whole"));
        let longest = outcomes.iter().map(|outcome| outcome.total).max();
        assert!(longest >= Some(EACH * REQUESTS as u32), "{longest:?}");
    }

    #[test]
    fn a_mix_has_weights() {
        let mix = parse_mix("a=3,generate:many_small:1M");
        let expected = [
            ("a".to_owned(), 3.0),
            ("generate:many_small:1M".to_owned(), 1.0),
        ];
        assert_eq!(mix, Ok(expected.to_vec()));
        assert!(parse_mix("a=0").is_err() && parse_mix("a=x").is_err());
    }
}
