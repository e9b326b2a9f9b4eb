//! The files of a build: those of a new entry, which links what the mirror and an earlier entry have, or
//! the mirror's own where no entry can be made.

use std::error::Error;
use std::fs::{self, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, mpsc};
use std::time::{Duration, SystemTime};

use super::packing::OwnPack;
use super::pinned::{BeginError, Held, Source};
use super::tip::TipJob;
use super::workshop::Workshop;
use crate::archive::open_files::{OpenError, OpenFile, Places};
use crate::archive::place::{Archive, Files, Names};
use crate::archive::spool::{Spooler, not_kept};
use crate::classes::Seat;
use crate::io::clock::unix_ms;
use crate::io::residency;
use crate::io::shortage::is_disk_full;
use crate::limits::{FULL_WAIT_MS, META_BYTES_MAX};
use crate::manifest::meta::{FRAMES_NAME, Fields, META_NAME, Meta};
use crate::manifest::outline::{OUTLINE_NAME, Outline};
use crate::manifest::parts::{MANIFEST_NAME, Section};
use crate::manifest::record::Linked;
use crate::manifest::want::Want;
use crate::mirror::own::replace_by_copy;
use crate::repos::repo::{RefsEpoch, Repo};
use crate::snapshot::checkout::Shows;
use crate::snapshot::gitdir;
use crate::snapshot::produce::{self, Input, Opened};
use crate::snapshot::reuse::Reuse;
use crate::snapshot::view::{self, View};
use crate::store::files::StoreError;
use crate::store::staging::Staging;
use crate::telemetry::metrics::Event;

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
    /// Has a pack made.
    fn pack_tip(&self, job: TipJob, place: Option<Seat>);
    /// Has the pieces of a build written.
    fn spool(&self, job: SpoolJob);
    /// Has room made for a repository, for the disk is full; hears when that was tried.
    fn make_room(&self, repository: &Arc<str>) -> mpsc::Receiver<()>;
}

/// A build that has begun: what its first byte needs, and no write to the file system. A
/// journal that is busy with other builds' entries makes every such write wait, for tenths of a
/// second; the entry is made once the first byte has left (see [`place`]).
pub(super) struct Begun<'r> {
    pub repo: &'r Repo,
    pub view: View,
    pub sources: Vec<Source>,
    pub head: produce::Head,
    pub archive: Arc<Archive>,
    /// What an earlier snapshot has, and which it is.
    pub reuse: Reuse,
    pub base: Option<Arc<Archive>>,
    /// Of the refs before they were read.
    pub epoch: RefsEpoch,
    /// Keeps the files where they are until they are linked.
    pub pinned: Held<'r>,
    /// For all files of the archive: once its first byte has left it must not fail for want of them.
    pub places: Places,
}

/// A build whose files are open.
pub(super) struct Placed<'r> {
    pub place: Place<'r>,
    pub opened: Opened,
    pub files: Arc<Files>,
    pub names: Names,
    /// `None` if no files of frames are linked.
    pub linked: Option<LinkedUnread>,
    /// The pack that is to be made, if it has one of its own.
    pub own: Option<OwnPack>,
}

/// What is known of files of frames that an entry links without reading them.
#[derive(Debug, Clone, Copy)]
pub(super) struct LinkedUnread {
    /// See [`Verified::forgotten`](crate::snapshot::verify::Verified::forgotten).
    pub forgotten: u64,
    /// When they were last read from the disk.
    looked_at: SystemTime,
}

impl LinkedUnread {
    fn of(reuse: &Reuse) -> Option<LinkedUnread> {
        Some(LinkedUnread {
            forgotten: reuse.forgotten,
            looked_at: reuse.looked_at?,
        })
    }

    /// The entry in `dir` is to be looked at when the one is that it is built on: else no look would ever
    /// come to what is linked from one entry to the next.
    pub(super) fn note(&self, dir: &Path) {
        let meta = OpenOptions::new().write(true).open(dir.join(META_NAME));
        let noted = meta.and_then(|meta| meta.set_modified(self.looked_at));
        if let Err(e) = noted {
            tracing::warn!("cannot date {}: {e}", dir.display());
        }
    }
}

/// Where the files of a build are.
pub(super) enum Place<'r> {
    /// In an entry, to be published.
    Entry(Staging),
    /// In the mirror, whose packs stay until the build waits for its readers: no entry could be
    /// made, so nothing is kept.
    Mirror { why: String, pinned: Held<'r> },
}

/// Opens the files of a build: those of a new entry, or the mirror's own where none can be made,
/// on a disk that is full or read-only.
pub(super) fn place<'r>(
    shop: &Workshop,
    mut begun: Begun<'r>,
    keep: &impl Keep,
) -> Result<Placed<'r>, BeginError> {
    let mut reuse = std::mem::take(&mut begun.reuse);
    let mut names = Names {
        spool: frames_name(),
        linked: Vec::new(),
        made: OnceLock::new(),
    };
    let made = try_entry(shop, &mut begun, &names, &mut reuse, keep);
    let has_own = has_own_pack(&begun.view);
    let (directory, place, files) = match made {
        Ok((staging, files)) => {
            let directory = home(&staging, &begun.view);
            // Its links are made: the mirror may change again.
            drop(begun.pinned);
            (directory, Place::Entry(staging), files)
        }
        Err(e) => {
            let files = open_mirror(&mut begun, &reuse)?;
            say_not_kept(shop, begun.repo, &e);
            let directory = begun.pinned.home.path().to_owned();
            let place = Place::Mirror {
                why: e.to_string(),
                pinned: begun.pinned,
            };
            (directory, place, files)
        }
    };
    let own = own_pack(&place, &begun.view, begun.places).filter(|_| has_own);
    if own.is_none() {
        names.linked.clone_from(&begun.view.packs);
    }
    reuse.follow(names.linked.len());
    let frames = reuse.linked.iter().map(|frames| frames.file.clone());
    names.linked.extend(frames);
    let linked = LinkedUnread::of(&reuse);
    let frames = reuse.linked.iter().map(|frames| frames.file.path.clone());
    let parts = std::iter::once(names.spool.clone()).chain(frames).collect();
    let input = Input {
        view: begun.view,
        directory,
        level: shop.level,
        reuse,
        parts,
        faults: shop.faults.clone(),
        budget: shop.budget.clone(),
        verified: shop.verified.clone(),
    };
    Ok(Placed {
        place,
        opened: produce::open(input, begun.head)?,
        files: Arc::new(files),
        names,
        linked,
        own,
    })
}

/// Where an entry in the making has the files of the view.
fn home(staging: &Staging, view: &View) -> PathBuf {
    match has_own_pack(view) {
        true => staging.borrowed(),
        false => staging.dir().to_owned(),
    }
}

/// The pack that an entry has of its own.
fn own_pack(place: &Place<'_>, view: &View, places: Places) -> Option<OwnPack> {
    let Place::Entry(staging) = place else {
        return None;
    };
    Some(OwnPack {
        entry: staging.dir().to_owned(),
        borrowed: staging.borrowed(),
        hash: view.hash,
        packs: view.packs.clone(),
        places,
        tip: view.checkout.tip(),
    })
}

/// Whether a snapshot has a pack that is made for it, instead of the mirror's.
fn has_own_pack(view: &View) -> bool {
    view.checkout.shows != Shows::All
}

/// Makes the entry; again once room was made on a full disk, and from nothing where what it was to be built
/// on cannot be linked.
fn try_entry(
    shop: &Workshop,
    begun: &mut Begun<'_>,
    names: &Names,
    reuse: &mut Reuse,
    keep: &impl Keep,
) -> Result<(Staging, Files), BeginError> {
    let mut made = make_entry(shop, begun, names, reuse);
    if made.as_ref().is_err_and(BeginError::is_disk_full) {
        wait_for_room(keep, &begun.repo.name);
        made = make_entry(shop, begun, names, reuse);
    }
    match made {
        Err(e) if (e.is_not_found() || e.cannot_be_linked()) && !reuse.linked.is_empty() => {
            // It can have been evicted meanwhile, or have as many names as there can be.
            let repository = &*begun.repo.name;
            tracing::warn!(
                repository,
                "built from nothing, an entry could not be linked: {e}"
            );
            *reuse = Reuse::default();
            make_entry(shop, begun, names, reuse)
        }
        made => made,
    }
}

/// Waits until room was made, or not.
pub(super) fn wait_for_room(keep: &impl Keep, repository: &Arc<str>) {
    let made = keep.make_room(repository);
    // The plane ends with the server, and says nothing then.
    let _ = made.recv_timeout(Duration::from_millis(FULL_WAIT_MS));
}

/// Says why a snapshot is not kept; what will not change by itself, once.
fn say_not_kept(shop: &Workshop, repo: &Repo, why: &BeginError) {
    match why {
        // It was said when it was found.
        BeginError::TooLarge { .. } => {}
        why if is_for_links(why) && repo.notes.say_links() => {}
        why => not_kept(&shop.meter, &repo.name, why),
    }
}

/// Whether a snapshot is not kept because packs can neither be linked nor, where that would help, be copied.
fn is_for_links(why: &BeginError) -> bool {
    why.cannot_be_linked()
        || matches!(why, BeginError::Copy { source, .. } if !is_disk_full(source))
}

/// Opens the mirror's own files, where no entry can be made.
fn open_mirror(begun: &mut Begun<'_>, reuse: &Reuse) -> Result<Files, BeginError> {
    let nowhere = residency::nowhere().map_err(|source| BeginError::Io {
        op: "open the null device",
        source,
    })?;
    let (home, packs) = (begun.pinned.home.path(), &begun.view.packs);
    let linked = open_linked(&mut begun.places, home, packs, reuse)?;
    Ok(Files::new(OpenFile::uncounted(nowhere), linked))
}

/// A new name for a file of frames, which nothing else has or will have: it is random.
fn frames_name() -> String {
    let half = || RandomState::new().hash_one(unix_ms());
    format!("{FRAMES_NAME}/{:016x}{:016x}", half(), half())
}

/// Makes the entry: links what was pinned and what is taken over into a new directory and opens it there.
fn make_entry(
    shop: &Workshop,
    begun: &mut Begun<'_>,
    names: &Names,
    reuse: &Reuse,
) -> Result<(Staging, Files), BeginError> {
    let has_own = has_own_pack(&begun.view);
    let kept = begun.view.packs.iter().filter(|_| !has_own);
    let packs_bytes = kept.map(|pack| pack.bytes).sum();
    check_size(shop, begun, packs_bytes)?;
    // What follows an earlier one adds little, and lets that one go.
    if shop.catalog.usage.is_stuck() && reuse.linked.is_empty() {
        return Err(BeginError::Stuck);
    }
    let mut staging = shop.catalog.state.staging()?;
    for source in &begun.sources {
        link_pack(shop, begun.repo, &mut staging, (source, has_own))?;
    }
    for frames in &reuse.linked {
        staging.link(&frames.source, &frames.file.path)?;
    }
    match has_own {
        true => gitdir::make_tagged_repository(&begun.view, &staging.borrowed())?,
        false => view::make_repository(&begun.view, staging.dir())?,
    }
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true);
    let spool = options.open(staging.own(&names.spool)?);
    let no_spool = |source| BeginError::Io {
        op: "create the spool file",
        source,
    };
    let spool = spool.map_err(no_spool)?;
    let dir = staging.dir().to_owned();
    let packs = match has_own {
        true => &[][..],
        false => &begun.view.packs,
    };
    let linked = open_linked(&mut begun.places, &dir, packs, reuse)?;
    let spool = begun.places.enter(spool);
    let files = Files::new(spool.map_err(no_spool)?, linked);
    Ok((staging, files))
}

/// What is larger than all that there may be is not kept, nor is what was when it was built last: everything
/// else would leave for it in vain.
fn check_size(shop: &Workshop, begun: &Begun<'_>, packs_bytes: u64) -> Result<(), BeginError> {
    let before = begun.repo.notes.too_large_bytes();
    let before = before.filter(|_| begun.archive.want.is_default());
    let bytes = before.unwrap_or_default().max(packs_bytes);
    let limit_bytes = shop.catalog.usage.marks().high_bytes;
    match bytes > limit_bytes {
        true => Err(BeginError::TooLarge { bytes, limit_bytes }),
        false => Ok(()),
    }
}

/// Links a file of the mirror, or borrows it. One that cannot be linked where it lies is first copied, once, within the
/// mirror, where that is on the same file system: from then on it can.
fn link_pack(
    shop: &Workshop,
    repo: &Repo,
    staging: &mut Staging,
    (source, is_borrowed): (&Source, bool),
) -> Result<(), BeginError> {
    let link = |staging: &mut Staging| match is_borrowed {
        true => staging.borrow(&source.path, &source.relative),
        false => staging.link(&source.path, &source.relative),
    };
    let Err(refused) = link(staging) else {
        return Ok(());
    };
    let is_near = source.path.parent().is_some_and(|dir| {
        let device = |path: &Path| fs::metadata(path).map(|found| found.dev()).ok();
        device(dir) == device(staging.dir())
    });
    // Files in the making can be removed while nobody holds this.
    let packing = repo.locks.packing.try_lock();
    let is_vain = !is_near || repo.notes.copies_in_vain();
    if !refused.cannot_be_linked() || is_vain || packing.is_err() {
        return Err(refused.into());
    }
    let copied = replace_by_copy(&source.path);
    let copied = copied.map_err(|failed| BeginError::Copy {
        path: source.path.clone(),
        source: failed,
    });
    if copied.as_ref().is_err_and(|e| !e.is_disk_full()) {
        repo.notes.set_copies_in_vain();
    }
    copied?;
    if !repo.notes.say_links() {
        let repository = &*repo.name;
        tracing::warn!(
            repository,
            "a pack cannot be linked and was copied, once, within its mirror: {refused}"
        );
    }
    shop.meter.add(Event::PackCopied, 1);
    Ok(link(staging)?)
}

/// The files that the archive links: the packs, which are below `dir`, and files of frames.
fn open_linked(
    places: &mut Places,
    dir: &Path,
    packs: &[Linked],
    reuse: &Reuse,
) -> Result<Vec<Arc<OpenFile>>, OpenError> {
    let open = |file: &Linked| places.open_one(&dir.join(&file.path));
    let mut linked = packs.iter().map(open).collect::<Result<Vec<_>, _>>()?;
    linked.extend(reuse.linked.iter().map(|frames| frames.open.clone()));
    Ok(linked)
}

/// Prepares the entry of a repository that was spelled so for publishing; returns its metadata.
pub(super) fn prepare(
    staging: &mut Staging,
    (archive, spelled): (&Archive, &str),
    (outline, sections): (&Outline, &[Section]),
    spool_checksum: u64,
) -> Result<Vec<u8>, Box<dyn Error + Send + Sync>> {
    let names = archive.names().ok_or("it has no place")?;
    // An entry holds what its layout names and nothing else: a file too few would be a download cut off.
    assert_eq!(staging.links(), names.linked.len(), "files of an entry");
    for made in names.made.get().into_iter().flatten() {
        staging.add_own(&made.path);
    }
    let outline = outline.encode();
    // The next build would not read it.
    if outline.len() as u64 <= META_BYTES_MAX {
        staging.write_aside(OUTLINE_NAME, &outline)?;
    }
    let meta = Meta::new(Fields {
        id: archive.id,
        repository: spelled.to_owned(),
        want: Want::clone(&archive.want),
        commit: archive.commit.clone(),
        shown: archive.shown,
        created_unix_ms: archive.created_unix_ms,
        linked: names.files().cloned().collect(),
        spool: names.spool.clone(),
        layout: archive.fanout.layout(),
        spool_checksum,
    })?;
    write_manifest(staging, &meta, sections)?;
    Ok(meta.encode())
}

/// Adds what clients are told that put the archive together themselves. Where there is none they get it whole.
fn write_manifest(
    staging: &mut Staging,
    meta: &Meta,
    sections: &[Section],
) -> Result<(), StoreError> {
    let packed = match meta.manifest(sections) {
        Ok(manifest) => manifest.pack(),
        Err(why) => {
            let repository = &*meta.repository;
            tracing::warn!(repository, "the snapshot has no manifest: {why}");
            None
        }
    };
    match packed {
        Some(packed) => staging.write_aside(MANIFEST_NAME, &packed),
        None => Ok(()),
    }
}
