//! A build, from the refs of the mirror to an entry that can be published.

use std::cell::RefCell;
use std::collections::HashMap;
use std::error::Error;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::{RwLockReadGuard, watch};
use xxhash_rust::xxh64::Xxh64;

use super::archive_id::archive_id;
use super::end::End;
use super::workshop::Workshop;
use crate::archive::open_files::{OpenError, OpenFile, OpenFiles, Places};
use crate::archive::place::{Archive, Files};
use crate::archive::spool::{Spooler, not_kept};
use crate::extent::Piece;
use crate::io::clock::unix_ms;
use crate::io::shortage::Detail;
use crate::io::{residency, sched};
use crate::limits::{ENCODER_NICE, SMALL_BUILD_NICE};
use crate::manifest::meta::{Fields, META_NAME, Meta};
use crate::manifest::record::{Linked, Record};
use crate::mirror::Git;
use crate::repos::repo::{RefsEpoch, Repo};
use crate::snapshot::output::{BuildError, Spool};
use crate::snapshot::produce::{self, Input, Opened};
use crate::snapshot::reuse::{Reuse, Sums};
use crate::snapshot::ring::Size;
use crate::snapshot::turns::Turn;
use crate::snapshot::view::{self, PinError, View};
use crate::store::files::StoreError;
use crate::store::staging::{LinkKind, Staging, spool_path};

/// A build's spool file and what is to be written to it.
pub(super) struct SpoolJob {
    /// The entry's files.
    pub files: Arc<Files>,
    /// The pieces.
    pub spooler: Spooler,
    /// The repository, for the log.
    pub repository: Arc<str>,
}

/// Where a build's bytes are kept: the work of others, which it does not wait for.
pub(super) trait Keep {
    /// Has the pieces of a build written.
    fn spool(&self, job: SpoolJob);
    /// Has the cache looked at: there was no room for an entry.
    fn make_room(&self);
}

/// A build that could not begin.
#[derive(Debug, thiserror::Error)]
pub(super) enum BeginError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Pin(#[from] PinError),
    #[error(transparent)]
    Build(#[from] BuildError),
    #[error("cannot pack the mirror's loose objects: {0}")]
    Pack(#[source] Detail),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("the server is shutting down")]
    Stopping,
    #[error("cannot {op}: {source}")]
    Io { op: &'static str, source: io::Error },
}

/// A build that has begun: what its first byte needs, and no write to the file system. A
/// journal that is busy with other builds' entries makes every such write wait, for tenths of a
/// second; the entry is made once the first byte has left (see [`place`]).
pub(super) struct Begun<'r> {
    repo: &'r Repo,
    view: View,
    sources: Vec<Source>,
    head: produce::Head,
    pub(super) archive: Arc<Archive>,
    reuse: Option<Reuse>,
    /// Of the refs before they were read.
    pub(super) epoch: RefsEpoch,
    /// Keeps the files in the mirror until they are linked.
    pinned: RwLockReadGuard<'r, ()>,
    /// For all files of the archive: once its first byte has left it must not fail for want of them.
    places: Places,
}

/// A file of the mirror that belongs into the entry.
struct Source {
    path: PathBuf,
    /// Where in the entry.
    relative: String,
    modified: Option<SystemTime>,
}

/// A build whose files are open.
struct Placed<'r> {
    place: Place<'r>,
    opened: Opened,
    files: Arc<Files>,
    loose: Vec<String>,
}

/// Where the files of a build are.
enum Place<'r> {
    /// In an entry, to be published.
    Entry(Staging),
    /// In the mirror, which stays locked until the build waits for its readers: no entry could be
    /// made, so nothing is kept.
    Mirror {
        why: String,
        pinned: RwLockReadGuard<'r, ()>,
    },
}

impl From<BeginError> for End {
    fn from(e: BeginError) -> End {
        match e {
            BeginError::Build(e) => e.into(),
            // That is not the repository's fault, and passes.
            BeginError::Stopping | BeginError::Open(OpenError::Full { .. }) => {
                End::Abandoned(e.to_string())
            }
            e => End::of_error(&e),
        }
    }
}

struct SpoolSender {
    sender: UnboundedSender<(u64, Piece)>,
    /// Of all pieces so far, which come in order.
    checksum: RefCell<Xxh64>,
}

impl Spool for SpoolSender {
    fn write(&self, offset: u64, piece: Piece) {
        self.checksum.borrow_mut().update(&piece);
        // Fails only when the background plane has ended; it told the fan-out so.
        let _ = self.sender.send((offset, piece));
    }
}

/// Reads all that the first byte needs.
pub(super) fn begin<'r>(
    shop: &Workshop,
    repo: &'r Repo,
    git: &Git,
    stop: watch::Receiver<bool>,
) -> Result<Begun<'r>, BeginError> {
    // Before the refs are read: what moves later is not in it.
    let (epoch, created_unix_ms) = (repo.epoch(), unix_ms());
    let started = Instant::now();
    let (pinned, view, sources) = match pin(repo) {
        Err(PinError::TooManyLoose { .. }) => {
            pack_loose(repo, git, stop)?;
            pin(repo)?
        }
        other => other?,
    };
    let pinned_us = started.elapsed().as_micros() as u64;
    let base = repo.current();
    let reuse = base.as_ref().and_then(|base| reuse(base));
    let base = base.filter(|_| reuse.is_some()).map(|b| b.id);
    let dates = sources.iter().map(|source| source.modified);
    let id = archive_id(&view, dates, &repo.url, shop.level, base);
    let linked = view.packs.clone();
    let commit = view.commit.map(|c| c.to_string());
    let head = produce::Head::read(&view, &repo.url, &repo.mirror.join("objects"))?;
    let refs_digest = repo.digest(&view.refs);
    let places = shop.open_files.reserve(linked.len() + 1)?;
    let archive = Archive::growing(
        id,
        repo.name.clone(),
        commit,
        refs_digest,
        created_unix_ms,
        linked,
    );
    let begun_us = started.elapsed().as_micros() as u64;
    tracing::info!(repository = &*repo.name, %id, pinned_us, begun_us, "building");
    Ok(Begun {
        repo,
        view,
        sources,
        head,
        archive: Arc::new(archive),
        reuse,
        epoch,
        pinned,
        places,
    })
}

type Pinned<'r> = (RwLockReadGuard<'r, ()>, View, Vec<Source>);

/// Looks at what the mirror has now, under the read lock that keeps it there. Writes nothing.
fn pin(repo: &Repo) -> Result<Pinned<'_>, PinError> {
    let pinned = repo.pins.blocking_read();
    let mut sources = Vec::new();
    let view = view::pin(&repo.mirror, &mut |source, relative| {
        let found = fs::metadata(source)?;
        sources.push(Source {
            path: source.to_owned(),
            relative: relative.to_owned(),
            modified: found.modified().ok(),
        });
        Ok(found.len())
    })?;
    Ok((pinned, view, sources))
}

/// Opens the files of a build: those of a new entry, or the mirror's own where none can be made,
/// on a disk that is full or read-only.
fn place<'r>(
    shop: &Workshop,
    mut begun: Begun<'r>,
    keep: &impl Keep,
) -> Result<Placed<'r>, BeginError> {
    let (directory, place, files) = match make_entry(shop, &mut begun) {
        Ok((staging, files)) => {
            let directory = staging.dir().to_owned();
            // Its links are made: the mirror may change again.
            drop(begun.pinned);
            (directory, Place::Entry(staging), files)
        }
        Err(e) => {
            let mirror = begun.repo.mirror.clone();
            let nowhere = residency::nowhere().map_err(|source| BeginError::Io {
                op: "open the null device",
                source,
            })?;
            let linked = open_linked(&mut begun.places, &mirror, &begun.archive)?;
            let files = Files::new(OpenFile::uncounted(nowhere), linked);
            not_kept(&shop.meter, &begun.repo.name, &e);
            keep.make_room();
            let place = Place::Mirror {
                why: e.to_string(),
                pinned: begun.pinned,
            };
            (mirror, place, files)
        }
    };
    let loose = begun.view.loose.iter().map(|l| l.path.clone());
    let loose = loose.collect();
    let input = Input {
        view: begun.view,
        directory,
        level: shop.level,
        reuse: begun.reuse,
        faults: shop.faults.clone(),
        budget: shop.budget.clone(),
        verified: shop.verified.clone(),
    };
    Ok(Placed {
        place,
        opened: produce::open(input, begun.head)?,
        files: Arc::new(files),
        loose,
    })
}

/// Makes the entry: links what was pinned into a new directory and opens it there.
fn make_entry(shop: &Workshop, begun: &mut Begun<'_>) -> Result<(Staging, Files), BeginError> {
    let mut staging = shop.catalog.state.staging()?;
    let mut copied = 0;
    for source in &begun.sources {
        let linked = staging.link(&source.path, &source.relative)?;
        copied += usize::from(matches!(linked, LinkKind::Copied));
    }
    if copied > 0 {
        tracing::warn!(
            repository = &*begun.repo.name,
            files = copied,
            "packs were copied, not linked: keep mirrors/ and snapshots/ on one file system"
        );
    }
    view::make_repository(&begun.view, staging.dir())?;
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true);
    let spool = options.open(spool_path(staging.dir()));
    let no_spool = |source| BeginError::Io {
        op: "create the spool file",
        source,
    };
    let spool = spool.map_err(no_spool)?;
    let linked = open_linked(&mut begun.places, staging.dir(), &begun.archive)?;
    let spool = begun.places.enter(spool);
    let files = Files::new(spool.map_err(no_spool)?, linked);
    Ok((staging, files))
}

/// Opens the packs that `archive` consists of, below `dir`.
fn open_linked(
    places: &mut Places,
    dir: &Path,
    archive: &Archive,
) -> Result<Vec<Arc<OpenFile>>, OpenError> {
    let open = |file: &Linked| places.open_one(&dir.join(&file.path));
    archive.linked().iter().map(open).collect()
}

/// Ends with an error as soon as `stop` is true: git may take minutes, and nobody waits for them.
fn pack_loose(repo: &Repo, git: &Git, mut stop: watch::Receiver<bool>) -> Result<(), BeginError> {
    let _packing = repo.packing.blocking_lock();
    let failed = |e: &(dyn Error + 'static)| BeginError::Pack(Detail::of(e));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(|e| failed(&e))?;
    let packed = runtime.block_on(async {
        tokio::select! {
            packed = git.pack_loose(&repo.mirror, &repo.pins) => packed.map_err(|e| failed(&e)),
            // Without a sender the server has stopped, too.
            _ = stop.wait_for(|stop| *stop) => Err(BeginError::Stopping),
        }
    });
    let objects = packed?;
    tracing::info!(repository = &*repo.name, objects, "packed loose objects");
    Ok(())
}

/// The frames of the entry that is served now. Without them a build only takes longer.
fn reuse(base: &Archive) -> Option<Reuse> {
    let dir = base.dir();
    let meta = fs::read(dir.join(META_NAME)).ok()?;
    let fields = Meta::decode(&meta).ok()?.into_fields();
    let spool = File::open(spool_path(&dir)).ok()?;
    let records = fields.jobs.into_iter().map(|record| (record.key, record));
    let records: HashMap<_, _> = records.collect();
    let sums = Sums::of(&dir, &fields.linked, &fields.layout);
    Some(Reuse {
        spool,
        records,
        sums,
    })
}

/// Has the archive's bytes written to its entry, if it has one; otherwise gives what keeps the mirror as
/// it is.
fn settle<'r>(
    keep: &impl Keep,
    open: &OpenFiles,
    archive: &Arc<Archive>,
    place: Place<'r>,
    files: Arc<Files>,
    spooler: Spooler,
) -> (Option<Staging>, Option<RwLockReadGuard<'r, ()>>) {
    match place {
        Place::Entry(staging) => {
            archive.placed(staging.dir().to_owned(), files.clone(), open);
            keep.spool(SpoolJob {
                files,
                spooler,
                repository: archive.repository.clone(),
            });
            (Some(staging), None)
        }
        Place::Mirror { why, pinned } => {
            archive.fanout.spool_failed(&why);
            drop(spooler);
            // No directory: the mirror is not to be taken for the archive's own.
            archive.placed(PathBuf::new(), files, open);
            (None, Some(pinned))
        }
    }
}

/// Produces, spools and publishes. Leaves in `held` the turn that the archive's memory counts for.
pub(super) fn build(
    shop: &Workshop,
    mut begun: Begun<'_>,
    keep: &impl Keep,
    held: &mut Option<Turn>,
) -> Result<End, End> {
    let archive = begun.archive.clone();
    let (sender, pieces) = unbounded_channel();
    let spool = SpoolSender {
        sender,
        checksum: RefCell::new(Xxh64::new(0)),
    };
    let spooler = Spooler::new(archive.fanout.clone(), pieces);
    let (level, faults) = (shop.level, &shop.faults);
    let first = begun
        .head
        .send_first(&archive.fanout, &spool, level, faults);
    first?;
    let Placed {
        place,
        opened,
        files,
        loose,
    } = place(shop, begun, keep)?;
    let (staging, pinned) = settle(keep, &shop.open_files, &archive, place, files, spooler);
    let enter = |size| {
        // The first bytes are out; what follows must not delay anybody else's.
        sched::be_nice(match size {
            Size::Small => SMALL_BUILD_NICE,
            Size::Large => ENCODER_NICE,
        });
        shop.turns.enter(&archive.repository, size, &archive.fanout)
    };
    let fanout = &archive.fanout;
    let let_go = move || drop(pinned);
    let produced = produce::produce(opened, fanout, &spool, &shop.ring, enter, let_go);
    let (records, mut turn) = produced?;
    let spool_checksum = spool.checksum.borrow().digest();
    drop(spool);
    archive.fanout.finish();
    if let Some(turn) = &mut turn {
        turn.end();
    }
    *held = turn;
    if let Err(why) = archive.fanout.wait_spooled() {
        tracing::warn!(
            repository = &*archive.repository,
            "snapshot was sent but not kept: {why}"
        );
        return Ok(End::LiveOnly);
    }
    let Some(mut staging) = staging else {
        return Ok(End::LiveOnly);
    };
    match publish(&mut staging, &archive, records, &loose, spool_checksum) {
        Ok(meta) => match staging.publish(archive.id, &meta) {
            Ok(dir) => {
                archive.moved_to(dir);
                return Ok(End::Complete);
            }
            Err(e) => tracing::error!(repository = &*archive.repository, "cannot publish: {e}"),
        },
        Err(why) => tracing::error!(repository = &*archive.repository, "cannot publish: {why}"),
    }
    Ok(End::LiveOnly)
}

/// Prepares the entry for publishing; returns its metadata.
fn publish(
    staging: &mut Staging,
    archive: &Archive,
    records: Vec<Record>,
    loose: &[String],
    spool_checksum: u64,
) -> Result<Vec<u8>, String> {
    for relative in loose {
        staging.unlink(relative).map_err(|e| e.to_string())?;
    }
    // An entry holds what its layout names and nothing else: a file too few would be a download cut off.
    assert_eq!(staging.links(), archive.linked().len(), "files of an entry");
    let meta = Meta::new(Fields {
        id: archive.id,
        repository: archive.repository.to_string(),
        commit: archive.commit.clone(),
        refs_digest: archive.refs_digest,
        created_unix_ms: archive.created_unix_ms,
        linked: archive.linked().to_vec(),
        layout: archive.fanout.layout(),
        spool_checksum,
        jobs: records,
    });
    Ok(meta.map_err(|e| e.to_string())?.encode())
}
