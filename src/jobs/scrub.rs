//! The scrub: one idle thread that reads every entry and every mirror from the disk, one after the
//! other, and has what has rotted replaced (see [`super::heal`]).
//!
//! When something was looked at last is noted where it is: as the date of an entry's metadata, and
//! of a file in the mirror. So a restart goes on where the process before it ended. A file in the
//! state directory is there while a server runs and longer if it does not end as it should; then
//! everything that was not looked at since is due at once. So is a mirror that a build fails of.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use super::heal::Damaged;
use super::plane::Handle;
use super::state::Jobs;
use crate::archive::place::Archive;
use crate::io::sched;
use crate::io::uncached::Pace;
use crate::limits::{SCRUB_BYTES_PER_S, SCRUB_LOOK_MS, SCRUB_NICE, SCRUB_RETRY_MS};
use crate::manifest::meta::META_NAME;
use crate::repos::registry::Registry;
use crate::repos::repo::Repo;
use crate::snapshot::scrub::{MirrorFault, check_mirror};
use crate::store::check::{Fault, check_entry, is_rot};
use crate::telemetry::metrics::{Event, Meter, ScrubResult};

/// There while a server runs.
const MARKER_NAME: &str = "running";
/// Its date is when the mirror that it is in was looked at last.
const STAMP_NAME: &str = "tarpon-checked";

/// The scrub's thread. Dropped, it ends.
#[derive(Debug)]
pub(crate) struct Scrub {
    marker: PathBuf,
    stop: Arc<AtomicBool>,
    /// Whether something is left to look at because the process before this ended badly.
    is_pending: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Scrub {
    /// Starts the thread, unless `interval` is zero, and leaves the mark in the state directory `root`
    /// that is there as long as the server runs.
    pub(crate) fn start(
        root: &Path,
        interval: Duration,
        meter: Meter,
        plane: Handle<Jobs>,
    ) -> io::Result<Scrub> {
        let marker = root.join(MARKER_NAME);
        let was_cut_off = marker.exists();
        // A disk that is full or read-only can be served from.
        if let Err(e) = leave(&marker) {
            tracing::warn!("cannot note that a server runs: {e}");
        }
        if was_cut_off {
            tracing::warn!("the last server did not end as it should: all is checked");
        }
        let is_pending = Arc::new(AtomicBool::new(was_cut_off && !interval.is_zero()));
        let stop = Arc::new(AtomicBool::new(false));
        let scrubber = Scrubber {
            pace: Pace::new(NonZeroU64::new(SCRUB_BYTES_PER_S), stop.clone()),
            meter,
            plane,
            interval,
            started: SystemTime::now(),
            is_pending: is_pending.clone(),
            not_before: HashMap::new(),
        };
        let thread = match interval.is_zero() {
            true => None,
            false => {
                let thread = std::thread::Builder::new().name("scrub".into());
                Some(thread.spawn(move || scrubber.run())?)
            }
        };
        Ok(Scrub {
            marker,
            stop,
            is_pending,
            thread,
        })
    }

    /// The server ends as it should: what it wrote is on its way to the disk.
    pub(crate) fn end(mut self) {
        self.join();
        if !self.is_pending.load(Ordering::Relaxed) {
            // If it stays, all is checked once more.
            let _ = fs::remove_file(&self.marker);
        }
    }

    fn join(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A panic was logged when it happened.
            let _ = thread.join();
        }
    }
}

impl Drop for Scrub {
    fn drop(&mut self) {
        self.join();
    }
}

/// Leaves the mark, so that it is there after a power cut.
fn leave(marker: &Path) -> io::Result<()> {
    File::create(marker)?.sync_all()?;
    match marker.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

/// Something to look at. It holds no repository: whose mirror is in nobody's hands may be evicted before
/// its turn comes.
enum Item {
    Entry(Weak<Repo>, Arc<Archive>),
    /// Where it is, and whether builds fail of what it holds.
    Mirror(Weak<Repo>, PathBuf, bool),
}

/// All that there is to look at.
fn items(registry: &Registry) -> Vec<Item> {
    let of = |repo: &Arc<Repo>| {
        let weak = || Arc::downgrade(repo);
        let archives = repo.archives().into_iter();
        let entries = archives.map(|archive| Item::Entry(weak(), archive));
        let mirror = || Item::Mirror(weak(), repo.mirror.clone(), repo.is_failing());
        let mirror = repo.is_mirrored().then(mirror);
        entries.chain(mirror).collect::<Vec<_>>()
    };
    let all = registry.all();
    all.iter().flat_map(of).collect()
}

impl Item {
    /// The file whose date says when this was looked at last, and one that says when it was made.
    fn stamps(&self) -> [PathBuf; 2] {
        match self {
            Item::Entry(_, archive) => [META_NAME; 2].map(|name| archive.dir().join(name)),
            Item::Mirror(_, dir, _) => [STAMP_NAME, "config"].map(|name| dir.join(name)),
        }
    }

    fn stamp(&self) -> Option<SystemTime> {
        let dates = self.stamps().map(|path| fs::metadata(path)?.modified());
        dates.into_iter().find_map(io::Result::ok)
    }

    /// Notes that it was looked at; that may fail on a disk that is read-only.
    fn note(&self) -> io::Result<()> {
        let [path, _] = self.stamps();
        let mut options = File::options();
        let is_own = matches!(self, Item::Mirror(..));
        let file = options
            .write(true)
            .create(is_own)
            .truncate(false)
            .open(path)?;
        file.set_modified(SystemTime::now())
    }
}

/// What was found of all that was due at a time.
struct Pass {
    began: Instant,
    bytes: u64,
    snapshots: u64,
    mirrors: u64,
    /// Damaged, or not readable.
    bad: u64,
}

impl Pass {
    fn new() -> Pass {
        Pass {
            began: Instant::now(),
            bytes: 0,
            snapshots: 0,
            mirrors: 0,
            bad: 0,
        }
    }

    fn count(&mut self, result: ScrubResult, bytes: u64) {
        self.bytes += bytes;
        match result {
            ScrubResult::EntrySound => self.snapshots += 1,
            ScrubResult::MirrorSound => self.mirrors += 1,
            ScrubResult::EntryDamaged | ScrubResult::MirrorDamaged | ScrubResult::Unreadable => {
                self.bad += 1;
            }
        }
    }

    /// What was bad was said when it was found.
    fn say(&self) {
        let Pass {
            bytes,
            snapshots,
            mirrors,
            bad,
            ..
        } = *self;
        let took_s = self.began.elapsed().as_secs();
        match (snapshots + mirrors, bad) {
            (0, 0) => {}
            (_, 0) => tracing::info!(snapshots, mirrors, bytes, took_s, "checked: all is sound"),
            (_, _) => tracing::warn!(
                snapshots,
                mirrors,
                bad,
                bytes,
                took_s,
                "checked: not all is sound"
            ),
        }
    }
}

struct Scrubber {
    meter: Meter,
    plane: Handle<Jobs>,
    interval: Duration,
    started: SystemTime,
    is_pending: Arc<AtomicBool>,
    pace: Pace,
    /// What could not be looked at, or not be noted: not to be tried again all the time.
    not_before: HashMap<PathBuf, Instant>,
}

impl Scrubber {
    fn run(mut self) {
        sched::be_idle(SCRUB_NICE);
        while !self.pace.is_over() {
            let (due, wait) = self.due();
            if due.is_empty() {
                self.is_pending.store(false, Ordering::Relaxed);
                self.sleep(wait);
            }
            let mut pass = Pass::new();
            for item in due {
                if self.pace.is_over() {
                    return;
                }
                self.look(&item, &mut pass);
            }
            pass.say();
        }
    }

    /// The plane lists them: this thread is idle, and must not hold a lock that a core needs.
    fn items(&self) -> Vec<Item> {
        let (sender, list) = mpsc::channel();
        self.plane.spawn(move |jobs| async move {
            // Before that nothing is known of most mirrors.
            let mut taken_over = jobs.taken_over.subscribe();
            let _ = taken_over.wait_for(|is| *is).await;
            // Fails only while the process ends.
            let _ = sender.send(items(&jobs.catalog.registry));
        });
        list.recv().unwrap_or_default()
    }

    /// What is due, in the order in which it was looked at last; and when something will be.
    fn due(&mut self) -> (Vec<Item>, Duration) {
        let now = SystemTime::now();
        let mut wait = self.interval.min(Duration::from_millis(SCRUB_LOOK_MS));
        self.not_before.retain(|_, until| *until > Instant::now());
        let is_pending = self.is_pending.load(Ordering::Relaxed);
        let mut due = Vec::new();
        for item in self.items() {
            let is_suspect = matches!(item, Item::Mirror(_, _, true));
            // What is not there is looked for by others.
            let Some(stamp) = item.stamp() else {
                continue;
            };
            if self.not_before.contains_key(&item.stamps()[0]) {
                continue;
            }
            // Clocks are set back: a date to come is as good as none.
            let age = now.duration_since(stamp).unwrap_or(self.interval);
            let left = self.interval.saturating_sub(age);
            if left.is_zero() || is_suspect || (is_pending && stamp < self.started) {
                due.push((stamp, item));
            } else {
                wait = wait.min(left);
            }
        }
        due.sort_by_key(|(stamp, _)| *stamp);
        (due.into_iter().map(|(_, item)| item).collect(), wait)
    }

    fn sleep(&self, wait: Duration) {
        let until = Instant::now() + wait;
        while !self.pace.is_over()
            && let left = until.saturating_duration_since(Instant::now())
            && !left.is_zero()
        {
            // Who ends it wakes it.
            std::thread::park_timeout(left);
        }
    }

    fn look(&mut self, item: &Item, pass: &mut Pass) {
        let (Item::Entry(repo, _) | Item::Mirror(repo, _, _)) = item;
        // Both have left.
        let Some(repo) = &repo.upgrade() else {
            return;
        };
        let result = match item {
            Item::Entry(_, archive) => self.look_at_entry(repo, archive),
            Item::Mirror(..) => self.look_at_mirror(repo),
        };
        let meter = &self.meter;
        let bytes = self.pace.take_bytes();
        meter.add(Event::ScrubbedBytes, bytes);
        let Some(result) = result else {
            return;
        };
        pass.count(result, bytes);
        meter.add(Event::Scrub(result), 1);
        let is_done = match result {
            ScrubResult::EntrySound => item.note().is_ok(),
            // Whatever its builds fail of, that is not it.
            ScrubResult::MirrorSound => {
                !matches!(item, Item::Mirror(_, _, true)) && item.note().is_ok()
            }
            // Nobody finds it any more.
            ScrubResult::EntryDamaged => true,
            ScrubResult::MirrorDamaged | ScrubResult::Unreadable => false,
        };
        if !is_done {
            let until = Instant::now() + Duration::from_millis(SCRUB_RETRY_MS);
            let [stamp, _] = item.stamps();
            self.not_before.insert(stamp, until);
        }
        let (repository, result) = (&*repo.name, result.name());
        tracing::debug!(repository, result, "scrubbed");
    }

    /// `None` if there is nothing to say of it.
    fn look_at_entry(&self, repo: &Arc<Repo>, archive: &Arc<Archive>) -> Option<ScrubResult> {
        let repository = &*repo.name;
        match check_entry(&archive.dir(), archive.id, &self.pace) {
            Ok(()) => Some(ScrubResult::EntrySound),
            Err(Fault::Stopped | Fault::Gone) => None,
            Err(e @ Fault::Unreadable { .. }) => {
                tracing::warn!(repository, "cannot check the snapshot: {e}");
                Some(ScrubResult::Unreadable)
            }
            Err(fault @ Fault::Damaged { .. }) => {
                let (condemned, is_condemned) = mpsc::channel();
                let damaged = Damaged::Entry {
                    repo: repo.clone(),
                    archive: archive.clone(),
                    fault,
                    condemned,
                };
                self.plane.spawn(|jobs| jobs.heal(damaged));
                // It counts as found once nobody gets it any more. The answer is that it is dropped.
                let _ = is_condemned.recv();
                Some(ScrubResult::EntryDamaged)
            }
        }
    }

    fn look_at_mirror(&self, repo: &Arc<Repo>) -> Option<ScrubResult> {
        let repository = &*repo.name;
        match check_mirror(&repo.mirror, &self.pace, is_rot) {
            Ok(()) => Some(ScrubResult::MirrorSound),
            Err(MirrorFault::Stopped) => None,
            Err(e @ (MirrorFault::Unreadable { .. } | MirrorFault::Unusable(_))) => {
                tracing::warn!(repository, "cannot check the mirror: {e}");
                Some(ScrubResult::Unreadable)
            }
            Err(fault @ MirrorFault::Damaged { .. }) => {
                let damaged = Damaged::Mirror {
                    repo: repo.clone(),
                    fault,
                };
                self.plane.spawn(|jobs| jobs.heal(damaged));
                Some(ScrubResult::MirrorDamaged)
            }
        }
    }
}
