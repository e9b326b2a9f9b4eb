//! More repositories than a small file system holds, under a skewed load: what is kept at any moment, and
//! how often the hot ones are in the cache.

use super::probe::{self, Manners};
use super::site::{Site, target};
use super::support::repos::{self, FILE, Importer, Layout};
use super::support::rng::Rng;
use super::support::server::Server;
use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How often what is kept is measured.
const SAMPLE: Duration = Duration::from_millis(20);

/// What runs.
#[derive(Debug, Clone)]
pub struct Room {
    /// Size of the file system.
    pub bytes: u64,
    /// Repositories that differ.
    pub repositories: u64,
    /// Bytes of each, once as its pack and once more as frames.
    pub each_bytes: u64,
    /// Those of them that are wanted most of the time.
    pub hot: u64,
    /// Share of the requests that want those, of 100.
    pub hot_percent: u64,
    /// Clients, each of which downloads one snapshot after the other.
    pub clients: u64,
    /// What each waits between two.
    pub pause: Duration,
    /// For how long.
    pub duration: Duration,
}

/// What became of it.
#[derive(Debug, Default)]
pub struct Outcome {
    limit_bytes: u64,
    most_bytes: u64,
    hot: u64,
    hot_hits: u64,
    cold: u64,
    cold_hits: u64,
    counts: Vec<(String, u64)>,
    failures: BTreeMap<String, u64>,
}

#[derive(Default)]
struct Counted {
    hot: u64,
    hot_hits: u64,
    cold: u64,
    cold_hits: u64,
    failures: BTreeMap<String, u64>,
}

fn name_of(number: u64) -> String {
    format!("room-{number}")
}

impl Room {
    /// Makes the repositories and runs.
    pub fn run(&self, site: &Site) -> Outcome {
        for number in 0..self.repositories {
            let path = site.run_path("room").join(format!("{number}.git"));
            self.generate(&path, number);
            site.offer(&path, &name_of(number));
        }
        let state = site.run_path("room-state");
        fs::create_dir_all(&state).unwrap_or_else(|e| panic!("{}: {e}", state.display()));
        let mut settings = site.settings(state.clone());
        let script = format!(
            "mount -t tmpfs -o size={} tarpon \"$0\" && exec \"$@\"",
            self.bytes
        );
        let state = state.to_string_lossy().into_owned();
        let launcher = ["unshare", "-rm", "sh", "-c", &script, &state];
        settings.launcher = launcher.map(str::to_owned).to_vec();
        let server = settings.start();
        let seen = PathBuf::from(format!("/proc/{}/root{state}", server.pid()));
        let outcome = self.run_on(&server, &seen);
        server.stop();
        outcome
    }

    fn generate(&self, path: &Path, number: u64) {
        repos::init_bare(path, "main", "sha1");
        let mut import = Importer::start(path, Layout::Packed);
        import.commit("refs/heads/main", "room");
        let content = Rng::new(1000 + number).bytes(self.each_bytes as usize);
        import.file(FILE, b"random.bin", &content);
        import.finish();
    }

    fn run_on(&self, server: &Server, seen: &Path) -> Outcome {
        let (stop, most) = (AtomicBool::new(false), AtomicU64::new(0));
        let counted = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::SeqCst) {
                    most.fetch_max(kept_bytes(seen), Ordering::SeqCst);
                    std::thread::sleep(SAMPLE);
                }
            });
            let client = |number| scope.spawn(move || self.download(server, number));
            let clients: Vec<_> = (0..self.clients).map(client).collect();
            let counted = clients.into_iter().map(|client| client.join());
            let counted: Vec<_> = counted.collect();
            stop.store(true, Ordering::SeqCst);
            counted
        });
        let metrics = server.metrics();
        let of = |name: &str, label: (&str, &str)| {
            let count = metrics.count(name, &[label]);
            (format!("{name}{{{}={}}}", label.0, label.1), count)
        };
        let mut outcome = Outcome {
            limit_bytes: metrics.count("tarpon_cache_limit_bytes", &[]),
            most_bytes: most.into_inner(),
            counts: vec![
                of("tarpon_evictions_total", ("what", "superseded")),
                of("tarpon_evictions_total", ("what", "snapshot")),
                of("tarpon_evictions_total", ("what", "mirror")),
                of("tarpon_builds_total", ("result", "complete")),
                of("tarpon_builds_total", ("result", "live_only")),
                of("tarpon_builds_total", ("result", "failed")),
                of("tarpon_clones_total", ("result", "complete")),
                of("tarpon_clones_total", ("result", "failed")),
            ],
            ..Outcome::default()
        };
        let full = metrics.count("tarpon_disk_full_total", &[]);
        outcome
            .counts
            .push(("tarpon_disk_full_total".to_owned(), full));
        for one in counted {
            let one = one.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            outcome.hot += one.hot;
            outcome.hot_hits += one.hot_hits;
            outcome.cold += one.cold;
            outcome.cold_hits += one.cold_hits;
            for (why, count) in one.failures {
                *outcome.failures.entry(why).or_default() += count;
            }
        }
        outcome
    }

    /// One client. The first request for each hot one is not counted: nothing can be there.
    fn download(&self, server: &Server, number: u64) -> Counted {
        let (mut rng, mut counted) = (Rng::new(number), Counted::default());
        let began = Instant::now();
        let mut known = HashSet::new();
        while began.elapsed() < self.duration {
            let is_hot = rng.below(100) < self.hot_percent;
            let which = match is_hot {
                true => rng.below(self.hot),
                false => self.hot + rng.below(self.repositories - self.hot),
            };
            match self.get(server, which) {
                Ok(_) if is_hot && known.insert(which) => {}
                Ok(is_hit) if is_hot => {
                    counted.hot += 1;
                    counted.hot_hits += u64::from(is_hit);
                }
                Ok(is_hit) => {
                    counted.cold += 1;
                    counted.cold_hits += u64::from(is_hit);
                }
                Err(why) => *counted.failures.entry(why).or_default() += 1,
            }
            std::thread::sleep(self.pause);
        }
        counted
    }

    /// Whether the answer came from the cache; or what is wrong with it.
    fn get(&self, server: &Server, number: u64) -> Result<bool, String> {
        let name = name_of(number);
        let transfer = probe::get(
            server.address(),
            &target(&name),
            Manners::EAGER,
            &mut |_| true,
        );
        let transfer = transfer.map_err(|e| format!("download: {e}"))?;
        if transfer.head.status != 200 {
            return Err(format!("a download answered {}", transfer.head.status));
        }
        if !transfer.whole || transfer.bytes < 2 * self.each_bytes {
            return Err("a truncated download".to_owned());
        }
        let status = transfer.head.get("cache-status").unwrap_or_default();
        Ok(status.contains("hit"))
    }
}

/// What is kept for the files below `root`, each once, as far as they do not vanish meanwhile.
fn kept_bytes(root: &Path) -> u64 {
    let (mut bytes, mut seen) = (0, HashSet::new());
    let mut pending = vec![root.to_owned()];
    while let Some(path) = pending.pop() {
        let Ok(found) = fs::symlink_metadata(&path) else {
            continue;
        };
        if seen.insert((found.dev(), found.ino())) {
            bytes += found.blocks() * 512;
        }
        if found.is_dir() {
            let inside = fs::read_dir(&path).into_iter().flatten().flatten();
            pending.extend(inside.map(|entry| entry.path()));
        }
    }
    bytes
}

impl Outcome {
    /// Whether nothing failed, and all that must hold did.
    pub fn is_clean(&self, room: &Room) -> bool {
        let over = self.most_bytes.saturating_sub(self.limit_bytes);
        let is_bounded = over <= 2 * room.each_bytes + (1 << 20);
        self.failures.is_empty() && is_bounded && self.hot_hits * 100 >= self.hot * 95
    }

    /// As printed.
    pub fn text(&self, room: &Room) -> String {
        let mb = |bytes: u64| bytes as f64 / 1e6;
        let share = |hits: u64, all: u64| hits as f64 / all.max(1) as f64;
        let mut out = format!(
            "a file system of {:.0} MB, {} repositories with a pack and frames of {:.0} MB each, {} of \
             them hot with {} % of the requests, {} clients, {:?}\n\
             kept at most {:.1} MB, limit {:.1} MB: {:.1} MB over it\n\
             hot: {} of {} from the cache, {:.4}; others: {} of {}, {:.4}\n",
            mb(room.bytes),
            room.repositories,
            mb(room.each_bytes),
            room.hot,
            room.hot_percent,
            room.clients,
            room.duration,
            mb(self.most_bytes),
            mb(self.limit_bytes),
            mb(self.most_bytes.saturating_sub(self.limit_bytes)),
            self.hot_hits,
            self.hot,
            share(self.hot_hits, self.hot),
            self.cold_hits,
            self.cold,
            share(self.cold_hits, self.cold),
        );
        for (name, count) in &self.counts {
            out.push_str(&format!("{name} {count}\n"));
        }
        let failed: u64 = self.failures.values().sum();
        out.push_str(&format!("failures: {failed}\n"));
        for (why, count) in &self.failures {
            out.push_str(&format!("  {count} times: {why}\n"));
        }
        out
    }
}
