//! What a refresh costs: a push to an upstream that a running server takes over, up to the moment at
//! which it serves the new snapshot, and what it does in the background after that. Shared with the
//! benches.

use super::columns::columns;
use super::push::{Pushed, Pusher};
use super::site::{self, Repository, Site, State};
use super::support::server::Server;
use super::support::wait;
use super::support::{git, lab};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fmt;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Background work that follows a refresh within this time belongs to it.
pub const SETTLE: Duration = Duration::from_secs(2);
/// Longest that a snapshot may take.
const PUBLISH_LIMIT: Duration = Duration::from_secs(600);
/// How often a server is asked once there is something new in its state directory.
const ASKS: u32 = 100;
/// Of everything that is drawn by chance.
const SEED: u64 = 1;

/// What is pushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Case {
    /// A line more in so many files.
    Files(usize),
    /// Another name for a directory of about 1,000 files.
    Rename,
    /// A line in the root's `.gitattributes`.
    Attributes,
    /// A line more in one file, after the mirror was packed into one new pack.
    Repacked,
    /// A line more in one file of a branch that the snapshot does not show.
    OtherBranch,
}

impl Case {
    /// All that are measured beside each other.
    pub const ALL: [Case; 7] = [
        Case::Files(1),
        Case::Files(10),
        Case::Files(1_000),
        Case::Rename,
        Case::Attributes,
        Case::Repacked,
        Case::OtherBranch,
    ];

    /// How many of `rounds` are measured: packing a mirror may take minutes.
    pub fn rounds(self, rounds: u32) -> u32 {
        match self {
            Case::Repacked => rounds.min(3),
            _ => rounds,
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Case::Files(count) => write!(f, "files {count}"),
            Case::Rename => f.write_str("rename of a directory"),
            Case::Attributes => f.write_str("line in .gitattributes"),
            Case::Repacked => f.write_str("repack, then 1 file"),
            Case::OtherBranch => f.write_str("another branch"),
        }
    }
}

/// What one snapshot cost the server.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cost {
    /// User and system time of its own process, from before the push to the end of settling.
    pub cpu_s: f64,
    /// Blocks of files below `snapshots/` that were not there before, packs and their `.idx` apart.
    pub written_bytes: u64,
    /// Blocks of new packs and their `.idx`, which are links to the mirror's.
    pub pack_bytes: u64,
    /// From the moment at which the mirror's refs had moved (for the first build, of the request)
    /// until requests were answered from the new snapshot.
    pub published: Duration,
    /// Jobs whose frames were made.
    pub encoded: u64,
    /// Jobs whose frames were there.
    pub reused: u64,
}

/// All that was measured of one case.
#[derive(Debug, Clone)]
pub struct Series {
    /// The case.
    pub name: String,
    /// In the order of measuring.
    pub costs: Vec<Cost>,
}

impl Series {
    /// The mean of something; `None` if nothing was measured.
    pub fn mean(&self, of: impl Fn(&Cost) -> f64) -> Option<f64> {
        let sum: f64 = self.costs.iter().map(of).sum();
        (!self.costs.is_empty()).then(|| sum / self.costs.len() as f64)
    }

    /// A percentile of the time to publication: the smallest time that so many do not exceed.
    pub fn published_ms(&self, percentile: f64) -> Option<f64> {
        let mut times: Vec<Duration> = self.costs.iter().map(|cost| cost.published).collect();
        times.sort();
        let rank = (percentile / 100.0 * times.len() as f64).ceil() as usize;
        let time = times.get(rank.max(1) - 1)?;
        Some(time.as_secs_f64() * 1e3)
    }
}

/// The cases of one repository.
#[derive(Debug, Clone)]
pub struct Refreshes {
    /// Short name of the repository.
    pub repository: String,
    /// Of the first build.
    pub first: Cost,
    /// Bytes of the first snapshot's frames.
    pub frames_bytes: u64,
    /// Each case.
    pub series: Vec<Series>,
}

impl Refreshes {
    /// The mean CPU of a case, as a share of the first build's.
    pub fn cpu_share(&self, series: &Series) -> Option<f64> {
        Some(series.mean(|cost| cost.cpu_s)? / self.first.cpu_s)
    }

    /// The mean of what a case has written, as a share of the worktree's frames.
    pub fn written_share(&self, series: &Series) -> Option<f64> {
        Some(series.mean(|cost| cost.written_bytes as f64)? / self.frames_bytes as f64)
    }

    /// A case by its name.
    pub fn find(&self, case: Case) -> Option<&Series> {
        let name = case.to_string();
        self.series.iter().find(|series| series.name == name)
    }

    /// The table: means, and percentiles of the times.
    pub fn table(&self) -> String {
        let headings = [
            "refresh after",
            "n",
            "CPU ms",
            "% of first",
            "written MB",
            "% of frames",
            "packs MB",
            "published p50 ms",
            "p95 ms",
            "encoded",
            "reused",
        ];
        let first = Series {
            name: "nothing (first build)".to_owned(),
            costs: vec![self.first],
        };
        let mut rows = vec![headings.map(str::to_owned).to_vec()];
        rows.push(self.row(&first));
        rows.extend(self.series.iter().map(|series| self.row(series)));
        columns(&rows, 1)
    }

    fn row(&self, series: &Series) -> Vec<String> {
        let shown = |value: Option<f64>, digits: usize| match value {
            Some(value) => format!("{value:.digits$}"),
            None => "-".to_owned(),
        };
        let percent = |share: Option<f64>| shown(share.map(|share| share * 100.0), 2);
        let mean = |of: fn(&Cost) -> f64, digits| shown(series.mean(of), digits);
        vec![
            series.name.clone(),
            series.costs.len().to_string(),
            mean(|cost| cost.cpu_s * 1e3, 1),
            percent(self.cpu_share(series)),
            mean(|cost| cost.written_bytes as f64 / 1e6, 2),
            percent(self.written_share(series)),
            mean(|cost| cost.pack_bytes as f64 / 1e6, 2),
            shown(series.published_ms(50.0), 1),
            shown(series.published_ms(95.0), 1),
            mean(|cost| cost.encoded as f64, 1),
            mean(|cost| cost.reused as f64, 1),
        ]
    }
}

/// A running server with one repository, and who pushes to its upstream.
pub struct Stage {
    server: Server,
    state: State,
    upstream: Repository,
    pusher: Pusher,
    /// Branches beside the default one, and how many pushes they had.
    branches: Vec<String>,
    pushes_beside: usize,
    settle: Duration,
    /// Of the first build.
    first: Cost,
    frames_bytes: u64,
}

impl Stage {
    /// Copies the repository, gives the copy so many branches more, and has a server build it.
    pub fn new(site: &Site, repository: &Repository, branches: usize, settle: Duration) -> Stage {
        let upstream = site.copy(repository, &format!("refresh-{}", repository.name));
        let pusher = Pusher::new(&upstream.mirror, SEED);
        let branches = pusher.add_branches(branches.max(1));
        let state = site.state("refresh", &upstream);
        state.sync();
        let mut stage = Stage {
            server: state.start(),
            state,
            upstream,
            pusher,
            branches,
            pushes_beside: 0,
            settle,
            first: Cost::default(),
            frames_bytes: 0,
        };
        stage.first = stage.first_build();
        stage.frames_bytes = frames(&stage.entry()).iter().map(Metadata::len).sum();
        stage
    }

    /// What was measured, beside the first build.
    pub fn refreshes(&self, repository: &str, series: Vec<Series>) -> Refreshes {
        Refreshes {
            repository: repository.to_owned(),
            first: self.first,
            frames_bytes: self.frames_bytes,
            series,
        }
    }

    /// Measures one case: so many rounds of it.
    pub fn series(&mut self, case: Case, rounds: u32) -> Series {
        let costs = (0..case.rounds(rounds)).map_while(|_| self.refresh(case));
        Series {
            name: case.to_string(),
            costs: costs.collect(),
        }
    }

    /// Measures many refreshes in a row, and what they leave; with that as text.
    pub fn row(&mut self, repository: &str, case: Case, rounds: u32) -> (Refreshes, String) {
        let mut costs = Vec::new();
        let mut half_bytes = self.server.rss_anon_bytes();
        for round in 1..=rounds {
            let cost = self.refresh(case);
            costs.push(cost.unwrap_or_else(|| panic!("{repository} has nothing for {case}")));
            if round == rounds.div_ceil(2) {
                half_bytes = self.server.rss_anon_bytes();
            }
            if round % 10 == 0 {
                eprintln!("{repository}: {case}: {round} of {rounds}");
            }
        }
        let name = case.to_string();
        let refreshes = self.refreshes(repository, vec![Series { name, costs }]);
        let text = format!(
            "{}frames {:.1} MB; RssAnon {:.1} MB after half, {:.1} MB at the end; \
             {} files of frames in the entry\n",
            refreshes.table(),
            self.frames_bytes as f64 / 1e6,
            half_bytes as f64 / 1e6,
            self.server.rss_anon_bytes() as f64 / 1e6,
            frames(&self.entry()).len(),
        );
        (refreshes, text)
    }

    /// Panics unless what is served now is what was pushed last: all its files have the content that
    /// git has for them.
    fn expect_served(&self, site: &Site) {
        let (archive, unpacked) = (site.run_path("served.tar.zst"), site.run_path("served"));
        let target = site::target(&self.upstream.name);
        lab::download(self.server.address(), &target, &archive);
        lab::unpack_file(&archive, &unpacked);
        let head = |repository: &Path| git::text(repository, &["rev-parse", "HEAD"]);
        assert_eq!(head(&unpacked), head(&self.upstream.mirror), "not served");
        // An index without dates, so that git reads the files.
        git::run(&unpacked, &["read-tree", "HEAD"]);
        assert_eq!(git::text(&unpacked, &["status", "--porcelain"]), "");
        site::remove_tree(&unpacked);
    }

    /// Looks at what is served in the end, ends the server and removes its state.
    pub fn stop(self, site: &Site) {
        self.expect_served(site);
        self.server.stop();
        self.state.remove();
        site::remove_tree(&self.upstream.mirror);
    }

    fn first_build(&self) -> Cost {
        self.measure(|| {
            let began = SystemTime::now();
            site::download(&self.server, &self.upstream.name);
            site::wait_published(&self.server, &self.upstream.name);
            began.elapsed().unwrap_or_default()
        })
    }

    /// One refresh; `None` if the repository has nothing for the case.
    pub fn refresh(&mut self, case: Case) -> Option<Cost> {
        if case == Case::Repacked {
            let mirror = self.state.mirror(&self.upstream.name);
            git::run(&mirror, &["repack", "-adq"]);
        }
        let pushed = match case {
            Case::Files(count) => self.pusher.change(count),
            Case::Rename => self.pusher.rename_directory()?,
            Case::Attributes => self.pusher.add_attribute(),
            Case::Repacked => self.pusher.change(1),
            Case::OtherBranch => {
                let branch = &self.branches[self.pushes_beside % self.branches.len()];
                self.pushes_beside += 1;
                self.pusher.change_on(branch, 1)
            }
        };
        // One refresh does not wait for what the one before has left to write.
        self.state.sync();
        Some(self.measure(|| self.take_over(case, &pushed)))
    }

    /// Has the server take over a push; how long after its refs had moved the snapshot was served.
    fn take_over(&self, case: Case, pushed: &Pushed) -> Duration {
        let name = &self.upstream.name;
        let (known, old) = (self.entries(), self.etag(&[]));
        site::ensure_ref(&self.server, name, &pushed.reference, &pushed.commit);
        let moved = self.refs_moved(&pushed.reference);
        if case == Case::OtherBranch {
            // Nothing has to be made until somebody asks.
            self.etag(&["Cache-Control: max-age=0"]);
        }
        let published = self.wait_for_another(&old, known);
        published.duration_since(moved).unwrap_or_default()
    }

    /// When the server gave its mirror the refs, by the files that hold them.
    fn refs_moved(&self, reference: &str) -> SystemTime {
        let mirror = self.state.mirror(&self.upstream.name);
        let files = [mirror.join("packed-refs"), mirror.join(reference)];
        let changed = files.iter().filter_map(|path| {
            let found = fs::metadata(path).ok()?;
            let since_epoch = Duration::new(found.ctime() as u64, found.ctime_nsec() as u32);
            Some(SystemTime::UNIX_EPOCH + since_epoch)
        });
        changed
            .max()
            .unwrap_or_else(|| panic!("no refs in {}", mirror.display()))
    }

    /// Waits until requests are answered from another archive than `old`. The server is asked only
    /// after something has appeared in its state directory: answers cost the CPU that is measured.
    fn wait_for_another(&self, old: &str, mut known: BTreeSet<OsString>) -> SystemTime {
        let mut asks_left = 0;
        wait::until_within("another snapshot is published", PUBLISH_LIMIT, || {
            let entries = self.entries();
            if !entries.is_subset(&known) {
                known.extend(entries);
                asks_left = ASKS;
            }
            if asks_left == 0 {
                return None;
            }
            asks_left -= 1;
            (self.etag(&[]) != old).then(SystemTime::now)
        })
    }

    fn measure(&self, snapshot: impl FnOnce() -> Duration) -> Cost {
        let metrics = self.server.metrics();
        let before = files(&self.snapshots());
        let ids: BTreeSet<Id> = before.iter().map(|(_, found)| Id::of(found)).collect();
        let cpu_s = self.server.cpu_s();
        let published = snapshot();
        std::thread::sleep(self.settle);
        let cpu_s = self.server.cpu_s() - cpu_s;
        let mut cost = Cost {
            cpu_s,
            published,
            ..Cost::default()
        };
        let mut counted = ids;
        for (path, found) in files(&self.snapshots()) {
            if !counted.insert(Id::of(&found)) {
                continue;
            }
            let bytes = found.blocks() * 512;
            match is_of_mirror(&path) {
                true => cost.pack_bytes += bytes,
                false => cost.written_bytes += bytes,
            }
        }
        let after = self.server.metrics();
        let since = |name| after.count(name, &[]) - metrics.count(name, &[]);
        cost.encoded = since("tarpon_jobs_encoded_total");
        cost.reused = since("tarpon_jobs_reused_total");
        cost
    }

    fn snapshots(&self) -> PathBuf {
        self.state.snapshots()
    }

    /// Names of the published entries.
    fn entries(&self) -> BTreeSet<OsString> {
        let listing = fs::read_dir(self.snapshots())
            .into_iter()
            .flatten()
            .flatten();
        let names = listing.map(|entry| entry.file_name());
        names
            .filter(|name| !name.to_string_lossy().starts_with('.'))
            .collect()
    }

    /// The newest entry.
    fn entry(&self) -> PathBuf {
        let paths = self
            .entries()
            .into_iter()
            .map(|name| self.snapshots().join(name));
        let newest =
            paths.max_by_key(|path| fs::metadata(path).and_then(|found| found.created()).ok());
        newest.unwrap_or_else(|| panic!("no entry in {}", self.snapshots().display()))
    }

    fn etag(&self, fields: &[&str]) -> String {
        site::etag(&self.server, &self.upstream.name, fields)
    }
}

/// What a file is known by. The number of a file that was removed is soon another file's.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Id {
    inode: u64,
    made: Option<SystemTime>,
}

impl Id {
    fn of(found: &Metadata) -> Id {
        Id {
            inode: found.ino(),
            made: found.created().or_else(|_| found.modified()).ok(),
        }
    }
}

/// Whether it is a link to a file of the mirror; the reverse index beside it is the entry's own.
fn is_of_mirror(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with("pack-") && !name.ends_with(".rev")
}

/// All files below a directory; what disappears meanwhile is not there.
fn files(directory: &Path) -> Vec<(PathBuf, Metadata)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        match entry.metadata() {
            Ok(kind) if kind.is_dir() => found.extend(files(&entry.path())),
            Ok(kind) => found.push((entry.path(), kind)),
            Err(_) => {}
        }
    }
    found
}

/// The files of frames of an entry: those in `frames/`, or its spool where there is no such thing.
fn frames(entry: &Path) -> Vec<Metadata> {
    let of = |name| files(&entry.join(name)).into_iter().map(|(_, found)| found);
    let many: Vec<Metadata> = of("frames").collect();
    match many.is_empty() {
        true => fs::metadata(entry.join("spool")).into_iter().collect(),
        false => many,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_and_shares() {
        let cost = |ms: u64| Cost {
            cpu_s: ms as f64 / 1e3,
            written_bytes: ms * 10,
            published: Duration::from_millis(ms),
            ..Cost::default()
        };
        let refreshes = Refreshes {
            repository: "r".to_owned(),
            first: cost(1_000),
            frames_bytes: 10_000,
            series: vec![Series {
                name: Case::Files(10).to_string(),
                costs: (1..=20).rev().map(cost).collect(),
            }],
        };
        let ten = refreshes
            .find(Case::Files(10))
            .unwrap_or_else(|| panic!("none"));
        assert_eq!(ten.published_ms(50.0), Some(10.0));
        assert_eq!(ten.published_ms(95.0), Some(19.0));
        assert_eq!(ten.published_ms(100.0), Some(20.0));
        assert!((refreshes.cpu_share(ten).unwrap_or(0.0) - 0.0105).abs() < 1e-9);
        assert!((refreshes.written_share(ten).unwrap_or(0.0) - 0.0105).abs() < 1e-9);
        assert!(refreshes.find(Case::Rename).is_none());
        let none = Series {
            name: String::new(),
            costs: Vec::new(),
        };
        assert_eq!(none.published_ms(50.0), None);
        assert!(refreshes.table().contains("files 10"));
    }

    /// Links count once, what was there does not count, a reverse index is the entry's own.
    #[test]
    fn files_are_counted_once() {
        let root = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let path = |name: &str| root.path().join(name);
        let made = fs::create_dir(path("frames")).and_then(|()| {
            fs::write(path("frames/a"), "a")?;
            fs::hard_link(path("frames/a"), path("frames/b"))
        });
        made.unwrap_or_else(|e| panic!("{e}"));
        let found = files(root.path());
        assert_eq!(found.len(), 2);
        assert_eq!(Id::of(&found[0].1), Id::of(&found[1].1));
        assert_eq!(frames(root.path()).len(), 2);
        assert!(is_of_mirror(Path::new("x/pack-1.idx")) && is_of_mirror(Path::new("pack-1.pack")));
        assert!(!is_of_mirror(Path::new("pack-1.rev")) && !is_of_mirror(Path::new("frames/a")));
    }
}
