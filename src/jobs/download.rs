//! The files of a snapshot, on their way from the store to an entry in the making, and to those who read it meanwhile.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::{JoinSet, spawn_blocking};

use super::guarded::Guarded;
use super::room::Need;
use super::shared::{ShareError, Shared};
use super::state::Jobs;
use crate::archive::fanout::Fanout;
use crate::archive::growth::Abandoned;
use crate::archive::lending::Lending;
use crate::archive::open_files::OpenFiles;
use crate::archive::place::{Archive, Files as OpenedFiles, Names};
use crate::io::unkept::Unkept;
use crate::limits::{DOWNLOADS_AT_ONCE, PIECE_RETRY_MS, REMOTE_TRIES_MAX, STORE_STALL_MS};
use crate::manifest::meta::Meta;
use crate::manifest::parts::part_name;
use crate::repos::repo::Repo;
use crate::store::remote::entry::Incoming;
use crate::store::remote::head::{Head, Snapshot};
use crate::store::remote::key::{PartKey, Place};
use crate::store::remote::objects::{ObjectError, Objects};
use crate::store::remote::plan::{Plan, Ready, Stretch};
use crate::store::remote::publish::SystemRandom;
use crate::store::remote::sums::{Pieces, Sums, pieces_of};
use crate::store::staging::Staging;

mod whole;

/// What a head says of a snapshot, and its metadata.
pub(super) struct Known {
    pub(super) head: Head,
    pub(super) snapshot: Snapshot,
    pub(super) meta: Meta,
    pub(super) meta_bytes: Vec<u8>,
    pub(super) sums: Sums,
}

/// Where each file of a snapshot is, and in which order they come.
pub(super) struct Files {
    plan: Plan,
    meta: Meta,
    /// Where the linked files and the spool file are, in this order.
    parts: Vec<Arc<Part>>,
}

/// A part, and its object.
struct Part {
    key: PartKey,
    object: String,
}

/// The same once they are made here, still empty.
pub(super) struct Made {
    plan: Plan,
    parts: Vec<Arc<Part>>,
    files: Vec<Arc<Incoming>>,
    archive: Arc<Archive>,
    staging: Unkept<Staging>,
}

impl Files {
    /// Looks them up in the head that names the snapshot.
    pub(super) fn new(place: &Place, known: &Known) -> Result<Files, ShareError> {
        let meta = &known.meta;
        let linked = meta.linked.iter();
        let linked = linked.map(|linked| (&linked.path, linked.bytes));
        let files = linked.chain([(&meta.spool, meta.spool_bytes())]);
        let (snapshot, head) = (&known.snapshot, &known.head);
        let keys = snapshot.parts.iter().map(|key| (key.name(), key));
        let keys: HashMap<&str, &PartKey> = keys.collect();
        let stored = head.parts.iter().map(|part| (&part.key, part.bytes));
        let stored: HashMap<&PartKey, u64> = stored.collect();
        let parts = files.map(|(path, bytes)| {
            let name = part_name(path);
            let key = keys
                .get(name)
                .filter(|key| stored.get(**key) == Some(&bytes));
            let key = key.ok_or_else(|| ShareError::Broken {
                part: snapshot.manifest.clone(),
                how: format!("its head names no {name} of {bytes} bytes"),
            })?;
            Ok::<_, ShareError>(Arc::new(Part {
                object: place.part(key),
                key: (*key).clone(),
            }))
        });
        Ok(Files {
            parts: parts.collect::<Result<_, _>>()?,
            plan: Plan::new(meta, &known.sums).map_err(|why| ShareError::Broken {
                part: snapshot.manifest.clone(),
                how: why.to_string(),
            })?,
            meta: meta.clone(),
        })
    }

    /// Makes and opens them in an entry in the making. May wait for the disk.
    pub(super) fn make(
        self,
        repository: Arc<str>,
        mut staging: Staging,
        open: &OpenFiles,
    ) -> Result<Made, ShareError> {
        let Files { plan, meta, parts } = self;
        let fields = meta.into_fields();
        let linked = fields
            .linked
            .iter()
            .map(|linked| (&linked.path, linked.bytes));
        let (mut files, mut paths) = (Vec::new(), Vec::<PathBuf>::new());
        for (path, bytes) in linked.chain([(&fields.spool, fields.layout.spool_bytes())]) {
            let path = staging.own(path)?;
            files.push(Arc::new(Incoming::make(path.clone(), bytes)?));
            paths.push(path);
        }
        let mut places = open.reserve(paths.len())?;
        let opened = paths.iter().map(|path| places.open_one(path));
        let mut opened = opened.collect::<Result<Vec<_>, _>>()?;
        let spool = opened.pop().ok_or(ShareError::Short)?;
        let archive = Arc::new(Archive::growing(
            fields.id,
            repository,
            Arc::new(fields.want),
            fields.commit,
            fields.shown,
            fields.created_unix_ms,
        ));
        let names = Names {
            spool: fields.spool,
            linked: fields.linked,
            made: OnceLock::new(),
        };
        let files_of_it = Arc::new(OpenedFiles::new(spool, opened));
        archive.placed(staging.dir().to_owned(), names, files_of_it, open);
        Ok(Made {
            plan,
            parts,
            files,
            archive,
            staging: Unkept::new(staging),
        })
    }
}

/// Files that are made here, still empty, of which comes what is asked for.
pub(super) struct Bringing {
    pub(super) lending: Arc<Lending>,
    archive: Arc<Archive>,
    parts: Vec<Arc<Part>>,
    files: Vec<Arc<Incoming>>,
    pieces: Vec<Arc<Pieces>>,
    _staging: Unkept<Staging>,
}

impl Files {
    /// Has them brought as they are read. May wait for the disk.
    pub(super) fn lend(
        self,
        repository: Arc<str>,
        known: &Known,
        mut staging: Staging,
    ) -> Result<Bringing, ShareError> {
        let Files { meta, parts, .. } = self;
        let pieces = pieces_of(&meta, &known.sums)?.into_iter().map(Arc::new);
        let pieces = Vec::from_iter(pieces);
        let paths = meta.linked.iter().map(|linked| &linked.path);
        let paths = paths.chain([&meta.spool]).zip(&pieces);
        let files = paths.map(|(path, pieces)| {
            let place = staging.own(path)?;
            Ok(Arc::new(Incoming::make(place, pieces.bytes)?))
        });
        let files = files.collect::<Result<Vec<_>, ShareError>>()?;
        let lengths = pieces.iter().map(|of| (of.bytes, of.piece_bytes()));
        let lending = Arc::new(Lending::new(lengths));
        let archive = Archive::found(repository, staging.dir().to_owned(), meta);
        archive.set_seen_elsewhere(known.snapshot.compared_unix_ms.max(1));
        Ok(Bringing {
            archive: Arc::new(archive.lent(lending.clone())),
            lending,
            parts,
            files,
            pieces,
            _staging: Unkept::new(staging),
        })
    }
}

impl Bringing {
    /// What is read of it.
    pub(super) fn archive(&self) -> Arc<Archive> {
        self.archive.clone()
    }

    /// Begins to fetch bytes of a file.
    pub(super) fn fetch(
        &self,
        running: &mut JoinSet<Fetched>,
        by: (Guarded, Arc<Semaphore>),
        (file, range): (usize, Range<u64>),
    ) {
        let stretch = Stretch::new(file, range, self.pieces[file].clone());
        let of = (self.parts[file].clone(), stretch, self.files[file].clone());
        fetch_in_turn(running, by, of);
    }

    /// Nothing more of it comes.
    pub(super) fn fail(&self, why: &str) {
        self.lending.fail(why);
    }
}

fn fetch_in_turn(
    running: &mut JoinSet<Fetched>,
    (objects, turns): (Guarded, Arc<Semaphore>),
    (part, stretch, file): (Arc<Part>, Stretch, Arc<Incoming>),
) {
    running.spawn_local(async move {
        // The semaphore is never closed, so this only waits.
        let _turn = turns.acquire_owned().await;
        let fetched = fetch(&objects, &part, &stretch, file).await;
        (stretch, fetched)
    });
}

/// Ends an archive that whoever makes it has left.
struct FailOnDrop(Arc<Fanout>);

impl Drop for FailOnDrop {
    fn drop(&mut self) {
        self.0.fail("it is downloaded no further");
    }
}

/// A stretch that was asked for, and what became of it.
pub(super) type Fetched = (Stretch, Result<(), ShareError>);

/// A snapshot on its way.
pub(super) struct Download {
    made: Made,
    objects: Guarded,
    turns: Arc<Semaphore>,
    running: JoinSet<Fetched>,
    /// Once more, for there was no room.
    again: VecDeque<Stretch>,
    /// How many found no room.
    refused: usize,
    /// Whether a mirror waits for its packs.
    is_for_mirror: bool,
    /// So many bytes have come.
    came_bytes: u64,
    ends: FailOnDrop,
}

impl Download {
    /// One of which nothing is asked for yet.
    pub(super) fn new(made: Made, shared: &Shared) -> Download {
        Download {
            ends: FailOnDrop(made.archive.fanout.clone()),
            made,
            objects: shared.objects.clone(),
            turns: shared.downloads.clone(),
            running: JoinSet::new(),
            again: VecDeque::new(),
            refused: 0,
            is_for_mirror: false,
            came_bytes: 0,
        }
    }

    /// A mirror waits for its packs: they come first, unless somebody reads it.
    pub(super) fn set_for_mirror(&mut self) {
        self.is_for_mirror = true;
    }

    /// Whether its packs are all there.
    pub(super) fn has_packs(&self) -> bool {
        self.made.plan.has_packs()
    }

    /// What is served of it.
    pub(super) fn archive(&self) -> Arc<Archive> {
        self.made.archive.clone()
    }

    /// Whether something can be.
    pub(super) fn has_begun(&self) -> bool {
        self.made.archive.fanout.wire_bytes() > 0
    }

    /// Whether half of it is there, whatever of it.
    pub(super) fn is_half(&self) -> bool {
        self.came_bytes >= self.made.plan.bytes().div_ceil(2)
    }

    /// What it begins with has come before anything was asked for, if it is that.
    pub(super) async fn take_first(
        &mut self,
        jobs: &Jobs,
        bytes: Vec<u8>,
    ) -> Result<(), ShareError> {
        let Some(stretch) = self.made.plan.next_stretch() else {
            return Ok(());
        };
        let is_spool = stretch.file + 1 == self.made.files.len();
        let is_it = is_spool && stretch.range == (0..bytes.len() as u64);
        if !is_it || stretch.check(&bytes).is_err() {
            self.again.push_back(stretch);
            return Ok(());
        }
        let file = self.made.files[stretch.file].clone();
        if spawn_blocking(move || file.put(&bytes, 0)).await?.is_err() {
            // It is asked for with the others, and room is made.
            self.again.push_back(stretch);
            return Ok(());
        }
        if jobs.catalog.usage.add(stretch.range.end) {
            jobs.sweep_wanted.notify_one();
        }
        self.made.plan.note(&stretch);
        Ok(self.advance()?)
    }

    /// Goes on until all is there, or `is_enough`.
    pub(super) async fn run_until(
        &mut self,
        jobs: &Rc<Jobs>,
        repo: &Arc<Repo>,
        is_enough: impl Fn(&Download) -> bool,
    ) -> Result<(), ShareError> {
        while !is_enough(self) {
            self.ask();
            let wait_ms = jobs.faults.store_stall_ms.unwrap_or(STORE_STALL_MS);
            let limit = Duration::from_millis(wait_ms);
            let next = tokio::time::timeout(limit, self.running.join_next()).await;
            let Some(fetched) = next.map_err(|_| ShareError::Slow { wait_ms })? else {
                break;
            };
            let (stretch, fetched) = fetched?;
            match fetched {
                Ok(()) => {}
                // All that were asked for together may have met the same full disk.
                Err(why) if why.is_disk_full() && self.refused < DOWNLOADS_AT_ONCE => {
                    self.refused += 1;
                    if self.refused == 1 {
                        jobs.make_room(&repo.name, Need::Keep).await;
                    }
                    self.again.push_back(stretch);
                    continue;
                }
                Err(why) => return Err(why),
            }
            let bytes = stretch.range.end - stretch.range.start;
            self.came_bytes += bytes;
            if jobs.catalog.usage.add(bytes) {
                jobs.sweep_wanted.notify_one();
            }
            self.made.plan.note(&stretch);
            self.advance()?;
        }
        Ok(())
    }

    /// Asks for so many stretches at once.
    fn ask(&mut self) {
        let are_packs_first = self.is_for_mirror && self.made.archive.fanout.readers() == 0;
        // What somebody gets first has the store for itself.
        let at_once = if self.has_begun() {
            DOWNLOADS_AT_ONCE
        } else {
            1
        };
        while self.running.len() < at_once {
            let plan = &mut self.made.plan;
            let next = self.again.pop_front().or_else(|| match are_packs_first {
                true => plan.next_stretch_of_packs(),
                false => plan.next_stretch(),
            });
            let Some(stretch) = next else {
                return;
            };
            let file = self.made.files[stretch.file].clone();
            let part = self.made.parts[stretch.file].clone();
            let by = (self.objects.clone(), self.turns.clone());
            fetch_in_turn(&mut self.running, by, (part, stretch, file));
        }
    }

    /// Those who read get what has come.
    fn advance(&mut self) -> Result<(), Abandoned> {
        let fanout = &self.made.archive.fanout;
        while let Some(ready) = self.made.plan.advance() {
            match ready {
                Ready::Spool { len } => fanout.push_spooled(len)?,
                Ready::Stored { file, offset, len } => fanout.push_stored(file, offset, len)?,
                Ready::Raw {
                    file,
                    offset,
                    len,
                    checksum,
                } => fanout.push_raw(file, offset, len, &[checksum])?,
            }
        }
        fanout.tell();
        Ok(())
    }

    /// All of it is there; gives the entry in the making.
    pub(super) fn finish(self) -> Result<(Arc<Archive>, Unkept<Staging>), ShareError> {
        if !self.made.plan.is_whole() {
            return Err(ShareError::Short);
        }
        self.ends.0.finish();
        Ok((self.archive(), self.made.staging))
    }
}

/// Downloads a stretch, compares it with its checksums and writes it to its place.
async fn fetch(
    objects: &Guarded,
    part: &Arc<Part>,
    stretch: &Stretch,
    file: Arc<Incoming>,
) -> Result<(), ShareError> {
    let mut tries = 1;
    loop {
        let fetched = fetch_once(objects, part, stretch, file.clone()).await;
        match fetched {
            Err(why) if tries < REMOTE_TRIES_MAX && !why.is_disk_full() => {
                let wait_ms = PIECE_RETRY_MS << tries;
                let jitter_ms = SystemRandom::below(wait_ms);
                tokio::time::sleep(Duration::from_millis(wait_ms + jitter_ms)).await;
                tries += 1;
            }
            fetched => return fetched,
        }
    }
}

async fn fetch_once(
    objects: &Guarded,
    part: &Arc<Part>,
    stretch: &Stretch,
    file: Arc<Incoming>,
) -> Result<(), ShareError> {
    let broken = |part: &Part, how| ShareError::Broken {
        part: part.key.clone(),
        how,
    };
    let got = objects.get_range(&part.object, stretch.range.clone());
    let bytes = match got.await {
        Err(ObjectError::Absent { .. }) => {
            return Err(broken(part, "it is not there, or not all of it".into()));
        }
        got => got?,
    };
    let (part, stretch) = (part.clone(), stretch.clone());
    let put = spawn_blocking(move || {
        if let Err(at) = stretch.check(&bytes) {
            return Err(broken(&part, format!("it is damaged at {at}")));
        }
        Ok(file.put(&bytes, stretch.range.start)?)
    });
    put.await?
}
