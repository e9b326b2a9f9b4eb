//! A build, from the refs of the mirror to an entry that can be published.

use std::cell::RefCell;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use gix::ObjectId;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::watch;
use xxhash_rust::xxh64::Xxh64;

use super::archive_id::{archive_id, salt, shown};
use super::end::End;
use super::entry::{
    Begun, Keep, LinkedUnread, Place, Placed, SpoolJob, place, prepare, wait_for_room,
};
use super::packing::history;
use super::pinned::{BeginError, Held, Pinned, pin_cold, pin_prepared};
use super::tips::ColdSource;
use super::workshop::Workshop;
use crate::archive::open_files::{OpenError, OpenFiles};
use crate::archive::place::{Archive, Files, Names};
use crate::archive::spool::Spooler;
use crate::classes::Seat;
use crate::extent::Piece;
use crate::io::clock::unix_ms;
use crate::io::sched;
use crate::io::shortage::is_disk_full;
use crate::limits::{ENCODER_NICE, SCATTERED_STRETCHES, SMALL_BUILD_NICE};
use crate::manifest::id::EntryId;
use crate::manifest::outline::Outline;
use crate::manifest::parts::Section;
use crate::manifest::want::{Shape, Want};
use crate::mirror::Git;
use crate::repos::repo::{BuiltOn, RefsEpoch, Repo};
use crate::snapshot::lie::Lie;
use crate::snapshot::output::{BuildError, Spool};
use crate::snapshot::produce::{self, Produced};
use crate::snapshot::reuse::{Base, Reuse};
use crate::snapshot::ring::Size;
use crate::snapshot::turns::Turn;
use crate::snapshot::view::View;
use crate::store::staging::Staging;
use crate::telemetry::metrics::Event;

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

/// What can be taken over from an earlier entry; nothing where there are no places for its files.
fn take(shop: &Workshop, base: Base, stop: &watch::Receiver<bool>) -> Option<Reuse> {
    let mut places = shop.open_files.reserve_spare(base.parts())?;
    let open = |path: &Path| places.open_one(path).ok();
    Some(base.take(&shop.verified, || *stop.borrow(), open))
}

/// What a build takes over, and from which archive.
fn taken_over(
    shop: &Workshop,
    repo: &Repo,
    (want, on): (&Arc<Want>, BuiltOn),
    stop: &watch::Receiver<bool>,
) -> (Option<Arc<Archive>>, Reuse) {
    // A build that failed may have failed for what it was built on.
    let base = match repo.is_failing_at(want) {
        true => None,
        false => repo.base_of(want, on.near().or(want.commit())),
    };
    // Before the mirror is locked: it may have to be read.
    let reuse = base.as_ref().and_then(|(archive, is_expired)| {
        let base = Base::open(&archive.dir())?;
        let base = match is_expired {
            _ if on == BuiltOn::InOrder => base.in_order(),
            true => base.without_dead(),
            false => base.without_dead_before(shop.dead_before()),
        };
        take(shop, base, stop)
    });
    let base = base.map(|(archive, _)| archive);
    (base, reuse.unwrap_or_default())
}

/// What the archive shows, and its id. Ends the build of one commit where what there is shows the same.
fn identify(
    shop: &Workshop,
    repo: &Repo,
    (want, target, epoch): (&Arc<Want>, Option<ObjectId>, RefsEpoch),
    view: &View,
    home: &Path,
) -> Result<([u8; 32], EntryId), BeginError> {
    let digest = view.refs.digest();
    let refs = (&view.refs, &digest);
    let shown = shown(want, refs, target, &repo.url, shop.level);
    let salt = match want.shape() {
        Shape::Full => None,
        Shape::Tip => {
            if let Some(archive) = repo.renew(want, &shown, epoch) {
                return Err(BeginError::Current(archive));
            }
            let drawn = salt();
            Some(drawn.map_err(|source| BeginError::Io {
                op: "draw a random number",
                source,
            })?)
        }
    };
    let id = archive_id(&shown, view, home, salt);
    let id = id.map_err(|source| BeginError::Io {
        op: "read what the mirror's packs end with",
        source,
    })?;
    Ok((shown, id))
}

/// Reads all that the first byte needs.
pub(super) fn begin<'r>(
    shop: &Workshop,
    repo: &'r Repo,
    (want, on): (&Arc<Want>, BuiltOn),
    (git, cold): (&Git, Option<&ColdSource>),
    stop: watch::Receiver<bool>,
) -> Result<Begun<'r>, BeginError> {
    // Before the refs are read: what moves later is not in it.
    let (epoch, created_unix_ms) = (repo.epoch(), unix_ms());
    let started = Instant::now();
    let (base, reuse) = taken_over(shop, repo, (want, on), &stop);
    let Pinned {
        held: pinned,
        view,
        target,
        sources,
    } = match cold {
        None => pin_prepared(repo, want, git, stop)?,
        Some(cold) => pin_cold(repo, want, cold)?,
    };
    let pinned_us = started.elapsed().as_micros() as u64;
    let (shown, id) = identify(shop, repo, (want, target, epoch), &view, pinned.home.path())?;
    let commit = view.checkout.commit.map(|c| c.to_string());
    let head = produce::Head::read(&view, &repo.url, &pinned.home.path().join("objects"))?;
    let places = shop.open_files.reserve(view.packs.len() + 1)?;
    let (name, wanted) = (repo.name.clone(), want.clone());
    let archive = Archive::growing(id, name, wanted, commit, shown, created_unix_ms);
    let begun_us = started.elapsed().as_micros() as u64;
    let shows = archive.commit.as_deref();
    tracing::info!(
        repository = &*repo.name,
        %want,
        %id,
        commit = shows,
        pinned_us,
        begun_us,
        "building"
    );
    Ok(Begun {
        repo,
        view,
        sources,
        head,
        archive: Arc::new(archive),
        reuse,
        base,
        epoch,
        pinned,
        places,
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
    names: Names,
    spooler: Spooler,
) -> (Option<Staging>, Option<Held<'r>>) {
    match place {
        Place::Entry(staging) => {
            archive.placed(staging.dir().to_owned(), names, files.clone(), open);
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
            archive.placed(PathBuf::new(), names, files, open);
            (None, Some(pinned))
        }
    }
}

/// Produces in its turn, spools and publishes. Leaves in `held` the turn that the archive's memory counts for.
pub(super) fn build(
    shop: &Workshop,
    mut begun: Begun<'_>,
    keep: &impl Keep,
    (mut turn, held): (Turn, &mut Option<Turn>),
    packing: Option<Seat>,
) -> Result<End, End> {
    let (archive, repo) = (begun.archive.clone(), begun.repo);
    let (sender, pieces) = unbounded_channel();
    let spool = SpoolSender {
        sender,
        checksum: RefCell::new(Xxh64::new(0)),
    };
    let mut spooler = Spooler::new(archive.fanout.clone(), pieces);
    spooler.limit(shop.catalog.usage.marks().high_bytes);
    let (level, faults) = (shop.level, &shop.faults);
    let head = &mut begun.head;
    head.send_first(&archive.fanout, &spool, level, faults)?;
    let Placed {
        place,
        opened,
        files,
        names,
        linked,
        own,
    } = place(shop, begun, keep)?;
    let open_files = &shop.open_files;
    let (staging, pinned) = settle(keep, open_files, &archive, place, files, names, spooler);
    let history = history(&archive, own, |job| keep.pack_tip(job, packing));
    let take = move || {
        // The first bytes are out; what follows must not delay anybody else's.
        sched::be_nice(match turn.size() {
            Size::Small => SMALL_BUILD_NICE,
            Size::Large => ENCODER_NICE,
        });
        turn.take().map(|()| turn)
    };
    let fanout = &archive.fanout;
    let let_go = move || drop(pinned);
    let produced = produce::produce(opened, fanout, &spool, &shop.ring, history, take, let_go);
    let Produced {
        outline,
        sections,
        jobs_encoded,
        mut turn,
    } = produced.inspect_err(|e| look_again(shop, e))?;
    count_jobs(shop, &outline, jobs_encoded);
    let spool_checksum = spool.checksum.borrow().digest();
    drop(spool);
    archive.fanout.finish();
    if let Some(turn) = &mut turn {
        turn.end();
    }
    *held = turn;
    let fits = fits(shop, repo, &archive);
    let Some(mut staging) = staging.filter(|_| fits && is_spooled(&archive)) else {
        return Ok(End::LiveOnly);
    };
    let publish = || {
        publish(
            shop,
            &mut staging,
            (&archive, &repo.spelled),
            (&outline, &sections),
            spool_checksum,
            linked,
        )
    };
    Ok(published(keep, &archive, publish))
}

fn count_jobs(shop: &Workshop, outline: &Outline, encoded: u64) {
    let reused = outline.jobs.len() as u64 - encoded;
    shop.meter.add(Event::JobsEncoded, encoded);
    shop.meter.add(Event::JobsReused, reused);
}

/// Has the entry appear; once more if there was no room, once some was made.
fn published(
    keep: &impl Keep,
    archive: &Archive,
    mut publish: impl FnMut() -> Result<End, Box<dyn Error + Send + Sync>>,
) -> End {
    let mut published = publish();
    if published.as_ref().is_err_and(|e| is_disk_full(&**e)) {
        wait_for_room(keep, &archive.repository);
        published = publish();
    }
    published.unwrap_or_else(|why| {
        tracing::error!(repository = &*archive.repository, "cannot publish: {why}");
        End::LiveOnly
    })
}

/// Whether a snapshot can be kept at all. What is larger than all that there may be is not, which is said
/// once; the next build of it begins without an entry.
fn fits(shop: &Workshop, repo: &Repo, archive: &Archive) -> bool {
    let (bytes, marks) = (archive.fanout.wire_bytes(), shop.catalog.usage.marks());
    let fits = bytes <= marks.high_bytes;
    if !fits && repo.notes.too_large_bytes().is_none() {
        tracing::warn!(
            repository = &*repo.name,
            bytes,
            limit_bytes = marks.high_bytes,
            "the snapshot is larger than all that may be kept (--cache-limit): it is served and not kept"
        );
    }
    if archive.want.is_default() {
        repo.notes.set_too_large((!fits).then_some(bytes));
    }
    fits
}

/// The next build looks again at frames that have changed since they were looked at.
fn look_again(shop: &Workshop, error: &BuildError) {
    if matches!(error, BuildError::Frames(_)) {
        shop.verified.clear();
    }
}

/// Waits until all of the archive is in its spool file; whether it is.
fn is_spooled(archive: &Archive) -> bool {
    let spooled = archive.fanout.wait_spooled();
    if let Err(why) = &spooled {
        tracing::warn!(
            repository = &*archive.repository,
            "snapshot was sent but not kept: {why}"
        );
    }
    spooled.is_ok()
}

/// Has the entry appear in the cache.
fn publish(
    shop: &Workshop,
    staging: &mut Staging,
    (archive, spelled): (&Archive, &str),
    (outline, sections): (&Outline, &[Section]),
    spool_checksum: u64,
    linked: Option<LinkedUnread>,
) -> Result<End, Box<dyn Error + Send + Sync>> {
    if linked.is_some_and(|linked| linked.forgotten != shop.verified.forgotten()) {
        return Err("frames that it links may have rotted meanwhile".into());
    }
    let meta = prepare(
        staging,
        (archive, spelled),
        (outline, sections),
        spool_checksum,
    )?;
    let dir = staging.publish(archive.id, &meta)?;
    if let Some(linked) = linked {
        linked.note(&dir);
    }
    archive.moved_to(dir);
    if let Some(files) = archive.files() {
        // It was written by this process just now.
        shop.verified.note(files.spool.file(), spool_checksum);
    }
    let spool_bytes = archive.fanout.layout_spool_bytes();
    let linked = archive.names().map_or(&[][..], |names| &names.linked);
    let stretches = archive.fanout.layout().extents().len();
    let stretches_max = shop.faults.stretches_max.unwrap_or(SCATTERED_STRETCHES);
    Ok(End::Complete {
        lie: Lie::of(outline, spool_bytes, linked, (stretches, stretches_max)),
    })
}
