//! What processes cost: CPU, anonymous memory, bytes written to disk; read from `/proc`, for a
//! process and everything it started.

use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
use std::collections::HashMap;
use std::fs;
use std::process::{Child, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Time between two samples of the anonymous memory.
const SAMPLE: Duration = Duration::from_millis(10);
/// Samples between two looks at which processes there are.
const SAMPLES_PER_TREE: u32 = 20;

/// What a run cost.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Usage {
    /// User and system time, children included.
    pub cpu_s: f64,
    /// Peak of the sampled anonymous resident memory, children included.
    pub rss_anon_bytes: u64,
    /// Bytes that file systems were given to write, children included.
    pub written_bytes: u64,
}

impl Usage {
    /// Both, one after the other.
    pub fn plus(self, other: Usage) -> Usage {
        Usage {
            cpu_s: self.cpu_s + other.cpu_s,
            rss_anon_bytes: self.rss_anon_bytes.max(other.rss_anon_bytes),
            written_bytes: self.written_bytes + other.written_bytes,
        }
    }
}

/// Measures a running process and its children from [`Meter::start`] to [`Meter::stop`].
pub struct Meter {
    root: u32,
    before: Totals,
    sampler: Sampler,
}

impl Meter {
    /// Starts to measure process `root`.
    pub fn start(root: u32) -> Meter {
        Meter {
            root,
            before: Totals::of_tree(root),
            sampler: Sampler::start(root),
        }
    }

    /// What was used since.
    pub fn stop(self) -> Usage {
        let after = Totals::of_tree(self.root);
        after.since(&self.before, self.sampler.stop())
    }
}

/// Measures a child of this process over its whole life.
pub struct ChildMeter {
    child: Child,
    sampler: Sampler,
}

impl ChildMeter {
    /// Takes over a child that was just started. Take its pipes out before.
    pub fn new(child: Child) -> ChildMeter {
        let sampler = Sampler::start(child.id());
        ChildMeter { child, sampler }
    }

    /// Waits for its end. What it used is read while the kernel still holds its totals, with
    /// those of the children that it waited for.
    pub fn finish(mut self) -> (ExitStatus, Usage) {
        let ended = waitid(
            WaitId::Pid(Pid::from_child(&self.child)),
            WaitIdOptions::EXITED | WaitIdOptions::NOWAIT,
        );
        ended.unwrap_or_else(|e| panic!("wait: {e}"));
        let totals = Totals::of(self.child.id());
        let status = self.child.wait().unwrap_or_else(|e| panic!("wait: {e}"));
        (
            status,
            totals.since(&Totals::default(), self.sampler.stop()),
        )
    }
}

/// Totals since the start of a process.
#[derive(Debug, Clone, Copy, Default)]
struct Totals {
    /// Whole clock ticks of CPU, those of ended threads and reaped children included.
    ticks: u64,
    /// Nanoseconds of CPU of the threads that live.
    threads_ns: u64,
    written_bytes: u64,
}

impl Totals {
    /// Of one process and the children that it waited for; nothing of one that is gone.
    fn of(pid: u32) -> Totals {
        let fields = stat_fields(pid);
        let tick = |at: usize| fields.get(at).and_then(|f| f.parse().ok()).unwrap_or(0);
        // utime, stime, cutime, cstime: fields 14 to 17 of proc_pid_stat(5), of which the
        // first two were cut off.
        let ticks: u64 = (11..15).map(tick).sum();
        let io = fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
        Totals {
            ticks,
            threads_ns: threads_ns(pid),
            written_bytes: number_after(&io, "write_bytes:"),
        }
    }

    /// Of a process and all that descend from it.
    fn of_tree(root: u32) -> Totals {
        tree(root).into_iter().fold(Totals::default(), |sum, pid| {
            let one = Totals::of(pid);
            Totals {
                ticks: sum.ticks + one.ticks,
                threads_ns: sum.threads_ns + one.threads_ns,
                written_bytes: sum.written_bytes + one.written_bytes,
            }
        })
    }

    fn since(&self, before: &Totals, rss_anon_bytes: u64) -> Usage {
        let tick_s = 1.0 / rustix::param::clock_ticks_per_second() as f64;
        let coarse_s = self.ticks.saturating_sub(before.ticks) as f64 * tick_s;
        let fine_s = self.threads_ns.saturating_sub(before.threads_ns) as f64 / 1e9;
        // The fine time lacks what has ended; as far as it lacks nothing, it is the better one.
        let nothing_ended = (coarse_s - fine_s).abs() <= 2.0 * tick_s && fine_s > 0.0;
        Usage {
            cpu_s: if nothing_ended { fine_s } else { coarse_s },
            rss_anon_bytes,
            written_bytes: self.written_bytes.saturating_sub(before.written_bytes),
        }
    }
}

/// CPU time of the threads that a process has now (`/proc/PID/task/*/schedstat`, first field);
/// 0 where the kernel does not tell.
fn threads_ns(pid: u32) -> u64 {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return 0;
    };
    let of_thread = |thread: fs::DirEntry| {
        let said = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        said.split_whitespace().next()?.parse::<u64>().ok()
    };
    threads.flatten().filter_map(of_thread).sum()
}

/// The fields of `/proc/PID/stat` from the process state on; none of one that is gone.
fn stat_fields(pid: u32) -> Vec<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let after_name = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    after_name.split_whitespace().map(str::to_owned).collect()
}

/// The number behind the line beginning `label`; 0 if there is none.
fn number_after(text: &str, label: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(label));
    let word = line.and_then(|rest| rest.split_whitespace().next());
    word.and_then(|word| word.parse().ok()).unwrap_or(0)
}

/// `root` and every process that descends from it now.
fn tree(root: u32) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    let listing = fs::read_dir("/proc").unwrap_or_else(|e| panic!("/proc: {e}"));
    for entry in listing.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|s| s.parse().ok()) else {
            continue;
        };
        let parent = stat_fields(pid).get(1).and_then(|f| f.parse().ok());
        children.entry(parent.unwrap_or(0)).or_default().push(pid);
    }
    let mut found = vec![root];
    let mut next = 0;
    while next < found.len() {
        found.extend(children.get(&found[next]).into_iter().flatten());
        next += 1;
    }
    found
}

/// A thread that looks at the anonymous memory of a process and its children.
struct Sampler {
    stop: Arc<AtomicBool>,
    peak: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl Sampler {
    fn start(root: u32) -> Sampler {
        let (stop, peak) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let (stopped, seen) = (stop.clone(), peak.clone());
        let thread = std::thread::spawn(move || {
            let mut pids = Vec::new();
            let mut samples = 0;
            while !stopped.load(Ordering::Relaxed) {
                if samples % SAMPLES_PER_TREE == 0 {
                    pids = tree(root);
                }
                samples += 1;
                let now = pids.iter().map(|pid| rss_anon_bytes(*pid)).sum();
                seen.fetch_max(now, Ordering::Relaxed);
                std::thread::sleep(SAMPLE);
            }
        });
        Sampler { stop, peak, thread }
    }

    fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        if let Err(panic) = self.thread.join() {
            std::panic::resume_unwind(panic);
        }
        self.peak.load(Ordering::Relaxed)
    }
}

fn rss_anon_bytes(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    number_after(&status, "RssAnon:") * 1024
}
