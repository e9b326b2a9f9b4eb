//! A cache on a file system that fails, beside a model of what must be in it.
//!
//! The world does what the server does: builds that stage an entry, link packs and the frames of
//! entries that are there, push pieces, spool them and publish; streams that read; removal, eviction, restarts. Whatever is chosen,
//! and whatever the file system does, these hold:
//! 1. What is found after a start is a whole entry with exactly the right bytes.
//! 2. An entry whose publishing succeeded is found after a power cut; one whose removal
//!    succeeded is not.
//! 3. After a start nothing is in the state directory that is not an entry.
//! 4. An operation that fails leaves all as before, and the next power cut leaves either that
//!    or what it wanted.
//! 5. A stream gives the right bytes, then ends complete or failed.
//! 6. What is removed or opened for an entry that another one of its id has replaced, is never that
//!    other one.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Waker};

use tarpon::archive::fanout::Fanout;
use tarpon::archive::growth::Status;
use tarpon::archive::handle::ReaderHandle;
use tarpon::archive::spool::Spooler;
use tarpon::extent::{Layout, Next, Piece, Segment, content_checksum};
use tarpon::io::fs::{Fs, WriteAt};
use tarpon::manifest::id::EntryId;
use tarpon::manifest::meta::{Fields, Meta};
use tarpon::manifest::record::Linked;
use tarpon::manifest::want::Want;
use tarpon::store::dir::{Reason, Rejected, StateDir};
use tarpon::store::evict::{self, Bounds, Candidate, Holding};
use tarpon::store::files::StoreError;
use tarpon::store::staging::Staging;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use crate::sim::{OTHER_DEVICE, SimFile, SimFs};

/// Different entries.
const IDS: usize = 4;
const BUILDS_MAX: usize = 3;
/// Files of frames that an entry takes over; fewer than there are, so that some go.
const PARTS_MAX: usize = 3;
const STREAMS_MAX: usize = 6;
const PIECE_BYTES_MAX: u64 = 200;
/// So that bytes leave memory while a stream still wants them.
const WINDOW_BYTES: u64 = 300;
/// Two directories that `open` makes, one in the other.
const ROOT: &str = "/srv/state";

/// Gives a number below the bound (0 for a bound of 0); where all decisions come from.
pub type Choices<'c> = dyn FnMut(u64) -> u64 + 'c;

/// Which version of an entry is there; a version is the time its build began.
type Version = Option<u64>;

/// The content of one version.
struct Content {
    number: usize,
    wire: Rc<RefCell<Vec<u8>>>,
    spool: Vec<u8>,
    linked: Vec<Part>,
}

/// A linked file: where it is in the entry, and what is in it.
#[derive(Debug, Clone)]
struct Part {
    path: String,
    bytes: Vec<u8>,
    /// Of frames, not a pack.
    stored: bool,
}

/// The open files of an archive, and what its stream must be.
#[derive(Clone)]
struct Readable {
    fanout: Arc<Fanout>,
    wire: Rc<RefCell<Vec<u8>>>,
    spool: SimFile,
    linked: Vec<SimFile>,
}

struct Build {
    number: usize,
    version: u64,
    staging: Staging<SimFs>,
    spool: Vec<u8>,
    linked: Vec<Part>,
    unsent: Vec<u32>,
    readable: Readable,
    /// Gone when the last piece was pushed.
    pieces: Option<UnboundedSender<(u64, Piece)>>,
    spooling: Pin<Box<dyn Future<Output = io::Result<()>>>>,
    spooled: bool,
}

struct Stream {
    handle: ReaderHandle,
    readable: Readable,
    at: u64,
}

/// How often what happened; a world in which little happens shows little.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counts {
    pub published: u64,
    /// Those of them that took the place of an older version.
    pub replaced: u64,
    /// Builds that took frames over.
    pub shared: u64,
    /// By themselves or by eviction.
    pub removed: u64,
    pub starts: u64,
    pub cuts: u64,
}

impl Counts {
    pub fn add(&mut self, other: Counts) {
        self.published += other.published;
        self.replaced += other.replaced;
        self.shared += other.shared;
        self.removed += other.removed;
        self.starts += other.starts;
        self.cuts += other.cuts;
    }
}

/// What must be in the cache.
struct Model {
    /// What a scan finds now.
    live: [Version; IDS],
    /// What a start after a power cut may find.
    durable: [BTreeSet<Version>; IDS],
}

impl Model {
    /// The directory of the entries was synced: what is seen is what is on disk.
    fn synced(&mut self) {
        for (live, durable) in self.live.iter().zip(&mut self.durable) {
            *durable = BTreeSet::from([*live]);
        }
    }
}

/// See the module's text.
pub struct World<'c> {
    choices: &'c mut Choices<'c>,
    fs: SimFs,
    exchanges: bool,
    fault_one_in: u64,
    state: Option<StateDir<SimFs>>,
    model: Model,
    contents: BTreeMap<u64, Content>,
    packs: Vec<(PathBuf, Vec<u8>)>,
    builds: Vec<Build>,
    /// A process that is killed deletes nothing, so these go when the world does.
    killed: Vec<Staging<SimFs>>,
    streams: Vec<Stream>,
    made: u64,
    counts: Counts,
    /// After a power cut, until the next look: what is there is one of `model.durable`.
    unknown: bool,
    trace: bool,
}

fn id(number: usize) -> EntryId {
    EntryId::from_bytes([number as u8; 16])
}

/// The file of its own that a version has.
fn own(version: u64) -> String {
    format!("frames/{version}")
}

fn entry_dir(number: usize) -> PathBuf {
    Path::new(ROOT).join("snapshots").join(id(number).as_str())
}

impl<'c> World<'c> {
    /// A world in which nothing has happened.
    pub fn new(choices: &'c mut Choices<'c>, trace: bool) -> World<'c> {
        let seed = choices(u64::MAX);
        let fault_one_in = [0, 200, 50, 15][choices(4) as usize];
        let total_bytes = [3_000, 1 << 20][choices(2) as usize];
        let exchanges = choices(4) > 0;
        let fs = SimFs::new(seed, total_bytes, exchanges);
        for dir in ["/mirror".into(), format!("/{OTHER_DEVICE}")] {
            fs.create_dir(Path::new(&dir)).unwrap();
        }
        fs.sync(Path::new("/")).unwrap();
        let mut world = World {
            choices,
            fs,
            exchanges,
            fault_one_in,
            state: None,
            model: Model {
                live: [None; IDS],
                durable: std::array::from_fn(|_| BTreeSet::from([None])),
            },
            contents: BTreeMap::new(),
            packs: Vec::new(),
            builds: Vec::new(),
            killed: Vec::new(),
            streams: Vec::new(),
            made: 0,
            counts: Counts::default(),
            unknown: false,
            trace,
        };
        world.start();
        world
    }

    /// Does `steps` things, then restarts once more and looks at what is left.
    pub fn run(&mut self, steps: u64) -> Counts {
        for _ in 0..steps {
            self.step();
        }
        self.drain();
        let cut = self.choose(2) == 0;
        self.restart(cut);
        self.counts
    }

    fn choose(&mut self, bound: u64) -> u64 {
        (self.choices)(bound)
    }

    fn note(&self, text: &dyn Fn() -> String) {
        if self.trace {
            eprintln!("{}", text());
        }
    }

    fn step(&mut self) {
        // What a number means is in the seeds of fuzz/corpus/cache too: new things go to the end.
        match self.choose(48) {
            0..3 => {
                let number = self.choose(IDS as u64) as usize;
                self.begin(number);
            }
            3..11 => {
                if let Some(which) = self.some_build() {
                    self.push(which);
                }
            }
            11..14 => {
                if let Some(which) = self.some_build() {
                    self.finish(which);
                }
            }
            14 => {
                if let Some(which) = self.some_build() {
                    self.give_up(which, "a build that fails");
                }
            }
            15..19 => {
                self.fs.advance();
            }
            19..22 => self.join(),
            22..25 => self.read(),
            25 => {
                let number = self.choose(IDS as u64) as usize;
                self.remove(number);
            }
            26 => self.evict(),
            27 => self.repack(),
            28 => self.open_twice(),
            29 => {
                let calls = self.choose(60);
                self.note(&|| format!("power cut after {calls} calls"));
                self.fs.cut_power_after(calls);
            }
            30 => {
                let calls = self.choose(30);
                self.fs.fail_after(calls);
            }
            32..46 => self.build_at_once(),
            46 => self.operate(),
            _ => {
                let cut = self.choose(2) == 0;
                self.restart(cut);
            }
        }
        self.poll_builds();
        if self.fs.is_off() {
            self.restart(true);
        }
    }

    /// Calls the file system without faults.
    fn calmly<T>(&mut self, act: impl FnOnce(&mut Self) -> T) -> T {
        let odds = self.fs.calm();
        let done = act(self);
        self.fs.set_odds(odds);
        done
    }

    fn state(&self) -> &StateDir<SimFs> {
        self.state.as_ref().expect("open between two restarts")
    }

    // ---- builds ----

    /// A build with nothing between its steps, half of them of an entry that is there.
    fn build_at_once(&mut self) {
        let live = (0..IDS).filter(|number| self.model.live[*number].is_some());
        let live: Vec<usize> = live.collect();
        let number = match self.choose(2) {
            0 if !live.is_empty() => live[self.choose(live.len() as u64) as usize],
            _ => self.choose(IDS as u64) as usize,
        };
        let before = self.builds.len();
        self.begin(number);
        if self.builds.len() == before {
            return;
        }
        for _ in 0..self.choose(4) {
            self.push(before);
            if self.builds.len() == before {
                return;
            }
        }
        self.finish(before);
        self.poll_builds();
        while self.fs.advance() {
            self.poll_builds();
        }
    }

    fn begin(&mut self, number: usize) {
        if self.builds.len() >= BUILDS_MAX {
            return;
        }
        self.made += 1;
        let version = self.made;
        self.note(&|| format!("begin {number} as version {version}"));
        let files = self.choose(4);
        if let Ok(build) = self.try_begin(number, version, files) {
            self.builds.push(build);
        }
    }

    fn try_begin(&mut self, number: usize, version: u64, files: u64) -> Result<Build, StoreError> {
        let mut staging = self.state().staging()?;
        let mut linked = Vec::new();
        for file in 0..files {
            let Some((path, bytes)) = self.pack() else {
                continue;
            };
            let relative = match self.choose(2) {
                0 => format!("objects/pack/pack-{file}.pack"),
                _ => format!("file-{file}"),
            };
            staging.link(&path, &relative)?;
            linked.push(Part {
                path: relative,
                bytes,
                stored: false,
            });
        }
        if files % 2 == 1 {
            let taken = self.take_over(number, &mut staging)?;
            self.counts.shared += u64::from(!taken.is_empty());
            linked.extend(taken);
        }
        let open = |op, path: PathBuf, file: io::Result<SimFile>| {
            file.map_err(|source| StoreError::Io { op, path, source })
        };
        let path = staging.own(&own(version))?;
        let spool_file = open("create", path.clone(), self.fs.create_new(&path))?;
        let mut files = Vec::new();
        for part in &linked {
            let path = staging.dir().join(&part.path);
            files.push(open("open", path.clone(), self.fs.open(&path))?);
        }
        let fanout = Arc::new(Fanout::with_window(WINDOW_BYTES));
        let (sender, pieces) = unbounded_channel();
        let spooler = Spooler::new(fanout.clone(), pieces);
        Ok(Build {
            number,
            version,
            staging,
            spool: Vec::new(),
            unsent: (0..linked.len() as u32).collect(),
            linked,
            spooling: Box::pin(spooler.run(spool_file.clone(), |_| {}, async || {})),
            readable: Readable {
                fanout,
                wire: Rc::default(),
                spool: spool_file,
                linked: files,
            },
            pieces: Some(sender),
            spooled: false,
        })
    }

    /// Links files of frames of an entry that is there, half of the times the one that is built again:
    /// its own, and some of those that it has from others.
    fn take_over(
        &mut self,
        number: usize,
        staging: &mut Staging<SimFs>,
    ) -> Result<Vec<Part>, StoreError> {
        let from = match self.choose(2) {
            0 => number,
            _ => self.choose(IDS as u64) as usize,
        };
        let Some(version) = self.model.live[from] else {
            return Ok(Vec::new());
        };
        let content = &self.contents[&version];
        let parts = content.linked.iter().filter(|part| part.stored).cloned();
        let own = Part {
            path: own(version),
            bytes: content.spool.clone(),
            stored: true,
        };
        let mut parts: Vec<Part> = parts.chain([own]).collect();
        let mut taken = Vec::new();
        for _ in 0..PARTS_MAX.min(parts.len()) {
            let part = parts.swap_remove(self.choose(parts.len() as u64) as usize);
            staging.link(&entry_dir(from).join(&part.path), &part.path)?;
            taken.push(part);
        }
        Ok(taken)
    }

    /// A pack of the mirror, an old one or a new one; never synced.
    fn pack(&mut self) -> Option<(PathBuf, Vec<u8>)> {
        if !self.packs.is_empty() && self.choose(3) > 0 {
            let which = self.choose(self.packs.len() as u64) as usize;
            return Some(self.packs[which].clone());
        }
        self.made += 1;
        let dir = match self.choose(4) {
            0 => OTHER_DEVICE,
            _ => "mirror",
        };
        let path = PathBuf::from(format!("/{dir}/pack-{}", self.made));
        let len = 1 + self.choose(PIECE_BYTES_MAX);
        let bytes = self.bytes(len);
        let written = self.calmly(|world| {
            let file = world.fs.create_new(&path)?;
            file.write_all_at(&bytes, 0)
        });
        if written.is_err() {
            // The disk is full, or off.
            let _ = self.calmly(|world| world.fs.remove_file(&path));
            return None;
        }
        self.packs.push((path.clone(), bytes.clone()));
        Some((path, bytes))
    }

    /// Bytes that are nowhere else.
    fn bytes(&mut self, len: u64) -> Vec<u8> {
        self.made += 1;
        let of = self.made.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        // Never 0, which is what lost bytes are.
        let byte = |at: u64| (of.rotate_left(at as u32 % 64).wrapping_add(at) % 255) as u8 + 1;
        (0..len).map(byte).collect()
    }

    fn some_build(&mut self) -> Option<usize> {
        let count = self.builds.len() as u64;
        (count > 0).then(|| self.choose(count) as usize)
    }

    fn push(&mut self, which: usize) {
        let len = 1 + self.choose(PIECE_BYTES_MAX);
        let raw = self.choose(4) == 0;
        let bytes = self.bytes(len);
        let build = &mut self.builds[which];
        if build.pieces.is_none() {
            return;
        }
        let pushed = match build.unsent.pop().filter(|_| raw) {
            Some(file) => build.push_linked(file),
            None => build.push(bytes),
        };
        if !pushed {
            self.give_up(which, "nobody wants it");
        }
    }

    fn finish(&mut self, which: usize) {
        let build = &mut self.builds[which];
        if build.pieces.take().is_some() {
            build.readable.fanout.finish();
        }
    }

    fn give_up(&mut self, which: usize, why: &str) {
        self.note(&|| format!("give up {}: {why}", self.builds[which].number));
        self.builds.remove(which).readable.fanout.fail(why);
    }

    /// Lets spool writers go on, and publishes what is finished and spooled.
    fn poll_builds(&mut self) {
        let mut which = 0;
        while which < self.builds.len() {
            let build = &mut self.builds[which];
            build.poll();
            let outcome = match build.pieces {
                Some(_) => None,
                None => build.readable.fanout.spool_outcome(),
            };
            match outcome {
                None => which += 1,
                Some(Ok(())) => {
                    let build = self.builds.remove(which);
                    self.publish(build);
                }
                // Sent, but not kept.
                Some(Err(_)) => drop(self.builds.remove(which)),
            }
        }
    }

    fn publish(&mut self, build: Build) {
        let (number, version) = (build.number, build.version);
        let faults = self.fs.faults();
        let meta = build.meta();
        let mut staging = build.staging;
        let published = staging.publish(id(number), &meta);
        // With what it has replaced, or has not made.
        drop(staging);
        self.note(&|| format!("publish {number} version {version}: {published:?}"));
        let content = Content {
            number,
            wire: build.readable.wire.clone(),
            spool: build.spool,
            linked: build.linked,
        };
        self.contents.insert(version, content);
        match published {
            Ok(dir) => {
                assert_eq!(dir, entry_dir(number));
                self.counts.published += 1;
                self.counts.replaced += u64::from(self.model.live[number].is_some());
                self.model.live[number] = Some(version);
                self.model.synced();
                build.readable.fanout.release_window();
            }
            Err(_) => {
                let mut may_be = BTreeSet::from([Some(version)]);
                if !self.exchanges {
                    may_be.insert(None);
                }
                self.failed(number, may_be, faults);
            }
        }
    }

    // ---- removal ----

    fn remove(&mut self, number: usize) {
        self.remove_replaced(number);
        let Some(version) = self.model.live[number] else {
            return;
        };
        let faults = self.fs.faults();
        let removed = self.state().remove(&entry_dir(number), &own(version));
        self.note(&|| format!("remove {number}: {removed:?}"));
        match removed {
            Ok(()) => {
                self.counts.removed += 1;
                self.model.live[number] = None;
                self.model.synced();
            }
            Err(_) => self.failed(number, BTreeSet::from([None]), faults),
        }
    }

    /// An entry goes that another one of its id has replaced long ago, or that never came to be.
    fn remove_replaced(&mut self, number: usize) {
        let live = self.model.live[number];
        let of_it = self.contents.iter().filter(|(_, c)| c.number == number);
        let gone = of_it.map(|(version, _)| *version);
        let gone: Vec<u64> = gone.filter(|version| Some(*version) != live).collect();
        if gone.is_empty() || self.fs.is_off() {
            return;
        }
        let version = gone[self.choose(gone.len() as u64) as usize];
        let removed = self.state().remove(&entry_dir(number), &own(version));
        assert!(removed.is_err(), "{version} of {number} was there");
        let Some(found) = self.calmly(|world| world.found()) else {
            return;
        };
        assert_eq!(found[number], live, "removed for version {version}");
        // Whoever still knows it finds its bytes, which a newer one may have taken over, or nothing.
        let path = entry_dir(number).join(own(version));
        if let Ok(bytes) = self.calmly(|world| world.fs.read(&path)) {
            let expected = &self.contents[&version].spool;
            assert!(bytes == *expected, "{} is another's", path.display());
        }
    }

    /// An operation on an entry failed that would have made it one of `may_be`. One fault
    /// changes nothing that a scan sees; more of them can also keep it from being undone.
    fn failed(&mut self, number: usize, may_be: BTreeSet<Version>, faults_before: u64) {
        let live = self.model.live[number];
        self.model.durable[number].extend(&may_be);
        if self.fs.is_off() {
            return;
        }
        let single = self.fs.faults() - faults_before <= 1;
        let Some(found) = self.calmly(|world| world.found()) else {
            return;
        };
        let found = found[number];
        assert!(
            found == live || (!single && may_be.contains(&found)),
            "after one fault entry {number} is {found:?} instead of {live:?}"
        );
        self.model.live[number] = found;
    }

    fn evict(&mut self) {
        let limit_bytes = self.choose(2_000);
        let candidates = self.calmly(|world| {
            let live = (0..IDS).filter(|number| world.model.live[*number].is_some());
            let candidate = |number| {
                let bytes = world.state().entry_bytes(&entry_dir(number)).ok()?;
                let candidate = Candidate {
                    key: number,
                    own_bytes: bytes,
                    shared: Vec::new(),
                    cost: bytes,
                    idle_ms: u64::MAX - world.model.live[number].unwrap_or(0),
                    pinned: false,
                };
                Some(Holding {
                    snapshot: Some(candidate),
                    ..Holding::default()
                })
            };
            live.filter_map(candidate).collect::<Vec<_>>()
        });
        let snapshots = candidates.iter().filter_map(|one| one.snapshot.as_ref());
        let bounds = Bounds {
            used_bytes: snapshots.map(|one| one.own_bytes).sum(),
            high_bytes: limit_bytes,
            low_bytes: limit_bytes,
            ..Bounds::default()
        };
        let plan = evict::plan(&candidates, &[], bounds);
        for victim in plan.victims {
            self.remove(victim);
            if self.fs.is_off() {
                return;
            }
        }
    }

    /// The mirror drops a pack; entries keep it.
    fn repack(&mut self) {
        let count = self.packs.len() as u64;
        if count > 0 {
            let which = self.choose(count) as usize;
            let (path, _) = self.packs.swap_remove(which);
            // In vain when the power is about to go.
            let _ = self.calmly(|world| world.fs.remove_file(&path));
        }
    }

    // ---- streams ----

    fn join(&mut self) {
        if self.streams.len() >= STREAMS_MAX {
            return;
        }
        let running = self.builds.len() as u64;
        let which = self.choose(running + IDS as u64);
        let readable = match which < running {
            true => Some(self.builds[which as usize].readable.clone()),
            false => self.open_entry((which - running) as usize),
        };
        let Some(readable) = readable else { return };
        let at = self.choose(readable.fanout.wire_bytes() + 1);
        match readable.fanout.join(at) {
            Some(handle) => self.streams.push(Stream {
                handle,
                readable,
                at,
            }),
            None => assert!(readable.has_failed(), "a sound archive refuses a stream"),
        }
    }

    /// Opens an entry as the server does for a hit; `None` if it is not there or fails.
    fn open_entry(&mut self, number: usize) -> Option<Readable> {
        let version = self.model.live[number]?;
        let dir = entry_dir(number);
        let meta = self.fs.read(&dir.join("meta")).ok()?;
        let fields = Meta::decode(&meta).expect("whole").into_fields();
        let linked = fields.linked.iter();
        let linked: io::Result<Vec<_>> = linked
            .map(|file| self.fs.open(&dir.join(&file.path)))
            .collect();
        Some(Readable {
            fanout: Arc::new(Fanout::complete(fields.layout)),
            wire: self.contents[&version].wire.clone(),
            spool: self.fs.open(&dir.join(&fields.spool)).ok()?,
            linked: linked.ok()?,
        })
    }

    fn read(&mut self) {
        let count = self.streams.len() as u64;
        if count == 0 {
            return;
        }
        let which = self.choose(count) as usize;
        for _ in 0..1 + self.choose(4) {
            let max = 1 + self.choose(2 * PIECE_BYTES_MAX);
            match self.streams[which].read(max) {
                Read::More => {}
                Read::Wait => return,
                Read::Ended => return drop(self.streams.swap_remove(which)),
            }
        }
    }

    /// Ends all builds, and reads every stream to its end.
    fn drain(&mut self) {
        for build in &mut self.builds {
            if build.pieces.take().is_some() {
                build.readable.fanout.finish();
            }
        }
        self.poll_builds();
        while self.fs.advance() {
            self.poll_builds();
        }
        if !self.fs.is_off() {
            assert!(self.builds.is_empty(), "a build waits for nothing");
        }
        for build in self.builds.drain(..) {
            build.readable.fanout.fail("the server stops");
        }
        for mut stream in self.streams.drain(..) {
            loop {
                match stream.read(u64::MAX) {
                    Read::More => {}
                    Read::Ended => break,
                    Read::Wait => panic!("a stream of an ended archive waits"),
                }
            }
        }
    }

    // ---- starts ----

    fn open_twice(&mut self) {
        let second = self.calmly(|world| StateDir::open_on(world.fs.clone(), Path::new(ROOT)));
        let refused = matches!(second, Err(StoreError::Locked { .. }));
        assert!(
            refused || self.fs.is_off() || self.fs.faults() > 0,
            "two open"
        );
    }

    /// The process ends, with a power cut or without, and another one starts.
    fn restart(&mut self, cut: bool) {
        self.note(&|| format!("restart, power cut: {cut}"));
        self.stop();
        if cut || self.fs.is_off() {
            self.cut();
        } else {
            self.fs.kill();
        }
        self.start();
    }

    fn stop(&mut self) {
        for build in self.builds.drain(..) {
            build.readable.fanout.fail("killed");
            self.killed.push(build.staging);
        }
        self.streams.clear();
        self.state = None;
    }

    /// Between two processes the operator removes the entries, or all of it, to the disk; and
    /// perhaps makes directories anew, without a sync: whose last, is the next process's affair.
    fn operate(&mut self) {
        self.stop();
        self.fs.kill();
        self.fs.calm();
        let (fs, root) = (&self.fs, Path::new(ROOT));
        let snapshots = root.join("snapshots");
        let gone = match (self.choices)(2) {
            0 => &snapshots,
            _ => root,
        };
        let made = (self.choices)(3);
        if self.trace {
            eprintln!("operator: {} removed, {made} made", gone.display());
        }
        fs.remove_dir_all(gone).expect("the disk is sound");
        fs.sync_all();
        let anew = [root, &snapshots, &root.join("mirrors"), &root.join("tmp")];
        for dir in &anew[..[0, 2, 4][made as usize]] {
            if fs.stat(dir).is_err() {
                fs.create_dir(dir).expect("the disk is sound");
            }
        }
        self.model.live = [None; IDS];
        self.model.synced();
        self.start();
    }

    fn cut(&mut self) {
        self.counts.cuts += 1;
        self.fs.restart();
        self.unknown = true;
        let packs = std::mem::take(&mut self.packs);
        self.calmly(|world| {
            for (path, _) in packs {
                let _ = world.fs.remove_file(&path);
            }
        });
    }

    /// Opens the state directory, first where that may fail, and looks at what is in it.
    fn start(&mut self) {
        self.counts.starts += 1;
        self.fs.fail_one_in(self.fault_one_in);
        if self.choose(8) == 0 {
            let calls = self.choose(40);
            self.fs.cut_power_after(calls);
        }
        if let Ok(state) = StateDir::open_on(self.fs.clone(), Path::new(ROOT)) {
            // Errors of reading must not cost an entry.
            let _ = state.scan();
        }
        if self.fs.is_off() {
            self.cut();
        }
        self.fs.calm();
        let state = StateDir::open_on(self.fs.clone(), Path::new(ROOT));
        self.state = Some(state.expect("the disk is sound"));
        let found = self.found().expect("the disk is sound");
        for (number, found) in found.into_iter().enumerate() {
            let allowed = match self.unknown {
                true => self.model.durable[number].clone(),
                false => BTreeSet::from([self.model.live[number]]),
            };
            assert!(
                allowed.contains(&found),
                "a start finds {found:?} of entry {number}, not one of {allowed:?}"
            );
            self.model.live[number] = found;
        }
        self.model.synced();
        self.unknown = false;
        self.check_tidy();
        self.fs.fail_one_in(self.fault_one_in);
    }

    /// The versions that a calm scan finds, each of them checked; `None` without power.
    fn found(&mut self) -> Option<[Version; IDS]> {
        if self.fs.is_off() {
            return None;
        }
        let scanned = self.state().scan();
        let (entries, rejected) = scanned.expect("nothing fails");
        // What is being built has no entry's name.
        let broken = |r: &&Rejected| !matches!(r.reason, Reason::Name);
        let broken: Vec<_> = rejected.iter().filter(broken).collect();
        assert!(broken.is_empty(), "broken: {broken:?}");
        let mut found = [None; IDS];
        for entry in entries {
            let version = entry.meta.created_unix_ms;
            let content = &self.contents[&version];
            assert_eq!(entry.dir, entry_dir(content.number));
            assert_eq!(entry.meta.spool, own(version));
            self.check_bytes(&entry.dir, &entry.meta.spool, &content.spool);
            assert_eq!(
                entry.meta.linked,
                content.linked.iter().map(Part::linked).collect::<Vec<_>>()
            );
            for part in &content.linked {
                self.check_bytes(&entry.dir, &part.path, &part.bytes);
            }
            assert_eq!(entry.meta.wire_bytes(), content.wire.borrow().len() as u64);
            found[content.number] = Some(version);
        }
        Some(found)
    }

    fn check_bytes(&self, dir: &Path, path: &str, expected: &[u8]) {
        let bytes = self.fs.read(&dir.join(path)).expect("nothing fails");
        assert!(bytes == expected, "{path} in {} is wrong", dir.display());
    }

    fn check_tidy(&self) {
        let list = |name: &str| self.fs.list(&Path::new(ROOT).join(name)).unwrap();
        let mut names = list("snapshots");
        names.sort();
        let live = (0..IDS).filter(|number| self.model.live[*number].is_some());
        let expected: Vec<String> = live.map(|number| id(number).to_string()).collect();
        assert_eq!(names, expected, "only entries are left");
        assert!(list("tmp").is_empty());
    }
}

impl Part {
    fn linked(&self) -> Linked {
        Linked {
            path: self.path.clone(),
            bytes: self.bytes.len() as u64,
            whole: self.stored.then(|| content_checksum(&self.bytes).into()),
        }
    }
}

impl Build {
    /// Whether anybody wants it.
    fn push(&mut self, bytes: Vec<u8>) -> bool {
        let piece: Piece = Arc::new(bytes.clone());
        let Ok(offset) = self.readable.fanout.push_piece(piece.clone()) else {
            return false;
        };
        self.readable.wire.borrow_mut().extend(&bytes);
        self.spool.extend(&bytes);
        if let (Some(offset), Some(pieces)) = (offset, &self.pieces) {
            // Fails when the writer has; it told the fan-out.
            let _ = pieces.send((offset, piece));
        }
        true
    }

    fn push_linked(&mut self, file: u32) -> bool {
        let Part { bytes, stored, .. } = &self.linked[file as usize];
        if *stored {
            let pushed = self
                .readable
                .fanout
                .push_stored(file, 0, bytes.len() as u64);
            if pushed.is_ok() {
                self.readable.wire.borrow_mut().extend(bytes);
            }
            return pushed.is_ok();
        }
        let sums = [bytes.len() as u32];
        let pushed = self
            .readable
            .fanout
            .push_raw(file, 0, bytes.len() as u64, &sums);
        if pushed.is_ok() {
            self.readable
                .wire
                .borrow_mut()
                .extend(raw_wire(bytes, &sums));
        }
        pushed.is_ok()
    }

    fn poll(&mut self) {
        if !self.spooled {
            let mut context = Context::from_waker(Waker::noop());
            self.spooled = self.spooling.as_mut().poll(&mut context).is_ready();
        }
    }

    fn meta(&self) -> Vec<u8> {
        let linked = self.linked.iter().map(Part::linked);
        let meta = Meta::new(Fields {
            id: id(self.number),
            repository: "host/repo".into(),
            want: Want::default(),
            commit: None,
            shown: [0; 32],
            created_unix_ms: self.version,
            linked: linked.collect(),
            spool: own(self.version),
            layout: self.readable.fanout.layout(),
            spool_checksum: 0,
        });
        meta.expect("a sound build").encode()
    }
}

/// A raw run of a whole file on the wire.
fn raw_wire(bytes: &[u8], sums: &[u32]) -> Vec<u8> {
    let mut layout = Layout::default();
    layout.push_raw(0, 0, bytes.len() as u64, sums);
    let mut wire = Vec::new();
    while let Some(segment) = layout.segment_at(wire.len() as u64) {
        match segment {
            Segment::Inline(inline) => wire.extend(inline.as_slice()),
            Segment::File { offset, len, .. } => {
                wire.extend(&bytes[offset as usize..][..len as usize])
            }
            Segment::Spool { .. } => unreachable!("nothing was spooled"),
        }
    }
    wire
}

impl Readable {
    fn has_failed(&self) -> bool {
        matches!(self.fanout.status(), Status::Failed(_))
            || matches!(self.fanout.spool_outcome(), Some(Err(_)))
    }
}

/// What a look at a stream gave.
enum Read {
    More,
    Wait,
    Ended,
}

impl Stream {
    fn read(&mut self, max: u64) -> Read {
        let next = self.handle.next(self.at, max, Waker::noop());
        let bytes = match next {
            Next::Wait => return Read::Wait,
            Next::Failed(why) => {
                assert!(self.readable.has_failed(), "fails without a reason: {why}");
                return Read::Ended;
            }
            Next::End => {
                assert_eq!(self.at, self.readable.wire.borrow().len() as u64);
                assert!(matches!(self.readable.fanout.status(), Status::Complete));
                return Read::Ended;
            }
            Next::Memory { piece, start, end } => piece[start..end].to_vec(),
            Next::Inline(inline) => inline.as_slice().to_vec(),
            Next::File { file, offset, len } => {
                let file = match file {
                    None => &self.readable.spool,
                    Some(file) => &self.readable.linked[file as usize],
                };
                // Cannot be read: the response is cut off.
                let Ok(bytes) = file.bytes() else {
                    return Read::Ended;
                };
                let range = bytes.get(offset as usize..(offset + len) as usize);
                range
                    .expect("the file holds what the stream is told")
                    .to_vec()
            }
        };
        let wire = self.readable.wire.borrow();
        let expected = &wire[self.at as usize..][..bytes.len()];
        assert!(expected == bytes, "wrong bytes at {} of a stream", self.at);
        drop(wire);
        self.at += bytes.len() as u64;
        Read::More
    }
}
