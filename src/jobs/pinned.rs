//! Pinning a mirror for a build: what is in it now, once what has to be done to it first is done.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gix::ObjectId;
use tempfile::TempDir;
use tokio::sync::{RwLockReadGuard, watch};

use super::tips::ColdSource;
use crate::archive::open_files::OpenError;
use crate::archive::place::Archive;
use crate::io::lasts::Lasts;
use crate::io::shortage::{Detail, is_disk_full};
use crate::limits::PREPARED_MAX;
use crate::manifest::record::Linked;
use crate::manifest::want::Want;
use crate::mirror::{Git, MirrorError};
use crate::refs::MirrorRefs;
use crate::repos::repo::Repo;
use crate::snapshot::checkout::{Checkout, NoRef};
use crate::snapshot::lookup::{Leads, LookupError, Objects};
use crate::snapshot::output::BuildError;
use crate::snapshot::reverse::make_reverse_index;
use crate::snapshot::view::{self, AsItIs, PinError, View};
use crate::store::files::StoreError;

/// A build that could not begin.
#[derive(Debug, thiserror::Error)]
pub(super) enum BeginError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Pin(#[from] PinError),
    #[error(transparent)]
    NoRef(#[from] NoRef),
    #[error(transparent)]
    Lookup(#[from] LookupError),
    #[error(transparent)]
    Build(#[from] BuildError),
    #[error("cannot pack the mirror's loose objects: {source}")]
    Pack {
        source: Detail,
        /// Whether the disk was full.
        is_full: bool,
    },
    #[error("cannot pack what the mirror's annex has: {source}")]
    Annex {
        source: Detail,
        /// Whether the disk was full.
        is_full: bool,
        /// Whether the annex lacks something.
        is_broken: bool,
    },
    #[error(
        "the snapshot has {bytes} bytes, more than all that may be kept ({limit_bytes}, --cache-limit)"
    )]
    TooLarge { bytes: u64, limit_bytes: u64 },
    #[error(
        "more than --cache-limit is in use, by those who download; what is new is kept again once they are done"
    )]
    Stuck,
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("the server is shutting down")]
    Stopping,
    /// What there is shows the same.
    #[error("it is there already")]
    Current(Arc<Archive>),
    #[error("cannot {op}: {source}")]
    Io { op: &'static str, source: io::Error },
    #[error(
        "{} cannot be linked, nor copied within its mirror: {source}; give the mirror to the server's user (chown -R), or let its packs be changed (chattr -i)",
        .path.display()
    )]
    Copy { path: PathBuf, source: io::Error },
}

impl BeginError {
    /// Whether there was no room on the disk.
    pub(super) fn is_disk_full(&self) -> bool {
        match self {
            BeginError::Pack { is_full, .. } | BeginError::Annex { is_full, .. } => *is_full,
            e => is_disk_full(e),
        }
    }

    /// Whether the system does not allow a link to a file.
    pub(super) fn cannot_be_linked(&self) -> bool {
        matches!(self, BeginError::Store(e) if e.cannot_be_linked())
    }

    /// Whether something is not there any more.
    pub(super) fn is_not_found(&self) -> bool {
        match self {
            BeginError::Store(e) => e.is_not_found(),
            BeginError::Open(e) => e.is_not_found(),
            BeginError::Io { source, .. } => source.kind() == io::ErrorKind::NotFound,
            _ => false,
        }
    }
}

/// A file of the mirror that belongs into the entry.
pub(super) struct Source {
    pub path: PathBuf,
    /// Where in the entry.
    pub relative: String,
}

/// Where what was pinned can be read in one place.
pub(super) enum Home {
    Mirror(PathBuf),
    /// A repository with links to the mirror's packs and one of what these lack; it goes with this.
    View(TempDir),
}

impl Home {
    pub(super) fn path(&self) -> &Path {
        match self {
            Home::Mirror(path) => path,
            Home::View(dir) => dir.path(),
        }
    }
}

/// What keeps the files of a build where they are, and where that is.
pub(super) struct Held<'r> {
    pub _guard: RwLockReadGuard<'r, ()>,
    pub home: Home,
}

/// A mirror whose packs stay where they are, what it has, and where that is.
pub(super) struct Pinned<'r> {
    pub held: Held<'r>,
    pub view: View,
    /// What the ref that is followed names.
    pub target: Option<ObjectId>,
    pub sources: Vec<Source>,
}

/// Pins what was fetched of a repository without a mirror.
pub(super) fn pin_cold<'r>(
    repo: &'r Repo,
    want: &Want,
    cold: &ColdSource,
) -> Result<Pinned<'r>, BeginError> {
    let guard = repo.locks.packs.blocking_read();
    let mut sources = Vec::new();
    let packs = view::packs_of(cold.path(), &mut |source, relative| {
        add(&mut sources, source, relative)
    })?;
    let found = want.followed().and_then(|name| cold.seen.refs.get(name));
    let commit = found.map(|found| found.peeled.unwrap_or(found.target));
    let view = View {
        hash: cold.seen.hash,
        checkout: Checkout::of(want, &cold.seen.refs, commit)?,
        refs: cold.seen.refs.clone(),
        packs,
    };
    let held = Held {
        _guard: guard,
        home: Home::Mirror(cold.path().to_owned()),
    };
    Ok(Pinned {
        held,
        target: found.map(|found| found.target),
        view,
        sources,
    })
}

/// Notes a file that belongs into the entry; gives its length.
fn add(sources: &mut Vec<Source>, source: &Path, relative: &str) -> io::Result<u64> {
    let found = fs::metadata(source)?;
    sources.push(Source {
        path: source.to_owned(),
        relative: relative.to_owned(),
    });
    Ok(found.len())
}

/// Pins the mirror, once what has to be done to it first is done, and beside it what only its annex has.
pub(super) fn pin_prepared<'r>(
    repo: &'r Repo,
    want: &Want,
    git: &Git,
    stop: watch::Receiver<bool>,
) -> Result<Pinned<'r>, BeginError> {
    let annexed = want.commit().filter(|commit| repo.annex.is_kept(commit));
    let Some(commit) = annexed else {
        return pin_mirror(repo, want, git, stop);
    };
    // Nothing leaves either from here until all is pinned.
    let _arriving = repo.locks.arrivals.blocking_read();
    let made = run_git(stop.clone(), git.pack_for(&repo.mirror, commit))?;
    let made = made.map_err(|e| BeginError::Annex {
        source: Detail::of(&e),
        is_full: e.is_disk_full(),
        is_broken: matches!(e, MirrorError::Git { .. }),
    })?;
    let mut pinned = pin_mirror(repo, want, git, stop)?;
    let failed = |source| BeginError::Io {
        op: "put the packs of mirror and annex together",
        source,
    };
    put_together(&made, &mut pinned).map_err(failed)?;
    view::make_repository(&pinned.view, made.path())?;
    pinned.held.home = Home::View(made);
    Ok(pinned)
}

/// Links the mirror's packs into a directory with the one that they lack, which is the archive's, too.
fn put_together(made: &TempDir, pinned: &mut Pinned<'_>) -> io::Result<()> {
    let own = made.path().join("objects/pack");
    let found: Vec<PathBuf> = fs::read_dir(&own)?
        .map(|entry| Ok(entry?.path()))
        .collect::<io::Result<_>>()?;
    // Who reads objects passes over indices that are links.
    let borrowed = made.path().join("objects/info");
    fs::create_dir_all(&borrowed)?;
    fs::write(borrowed.join("alternates"), "../../../objects\n")?;
    for source in &pinned.sources {
        symlink(
            std::path::absolute(&source.path)?,
            made.path().join(&source.relative),
        )?;
    }
    for path in found {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let relative = format!("objects/pack/{name}");
        // The mirror can have the same by now.
        if pinned
            .sources
            .iter()
            .all(|source| source.relative != relative)
        {
            let linked = Linked {
                path: relative.clone(),
                bytes: fs::metadata(&path)?.len(),
                whole: None,
            };
            pinned.view.packs.push(linked);
            pinned.sources.push(Source { path, relative });
        }
    }
    pinned.view.packs.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(())
}

fn pin_mirror<'r>(
    repo: &'r Repo,
    want: &Want,
    git: &Git,
    stop: watch::Receiver<bool>,
) -> Result<Pinned<'r>, BeginError> {
    let mut as_it_is = AsItIs::No;
    // More often only if somebody goes on writing to it.
    for _ in 0..PREPARED_MAX {
        match pin(repo, want, git, as_it_is) {
            Err(BeginError::Pin(PinError::Loose { .. })) => pack_loose(repo, git, stop.clone())?,
            Err(BeginError::Pin(PinError::NoReverse { packs })) => {
                if let Err(e) = make_reverse_indices(repo, &packs) {
                    let mirror = repo.mirror.display();
                    tracing::warn!("cannot make reverse indices in {mirror}, it goes without: {e}");
                    as_it_is = AsItIs::Yes;
                }
            }
            other => return other,
        }
    }
    pin(repo, want, git, AsItIs::Yes)
}

/// Makes the reverse indices that a mirror's packs lack, ahead of the first build, which would wait for the disk
/// before its first byte. What fails here is said by the build that meets it.
pub(super) fn make_missing_reverse_indices(repo: &Repo) -> io::Result<()> {
    let mut packs = Vec::new();
    for file in fs::read_dir(repo.mirror.join("objects/pack"))? {
        let path = file?.path();
        let is_pack = path.extension().is_some_and(|end| end == "pack");
        let is_lacking = |end| !path.with_extension(end).exists();
        if is_pack && !is_lacking("idx") && is_lacking("rev") && is_lacking("mtimes") {
            packs.push(path);
        }
    }
    match packs.is_empty() {
        true => Ok(()),
        false => make_reverse_indices(repo, &packs),
    }
}

/// Makes the reverse indices of packs, as long as these stay and nobody takes a file in the making for one
/// that was left behind.
fn make_reverse_indices(repo: &Repo, packs: &[PathBuf]) -> io::Result<()> {
    let _packing = repo.locks.packing.blocking_lock();
    let _pinned = repo.locks.packs.blocking_read();
    let hash = view::object_hash(&repo.mirror).map_err(io::Error::other)?;
    for pack in packs {
        match make_reverse_index(pack, hash, Lasts::ByWriter) {
            // It was joined with others before.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            made => made?,
        }
    }
    Ok(())
}

/// Looks at what the mirror has now, under the locks that keep it there. Writes nothing.
fn pin<'r>(
    repo: &'r Repo,
    want: &Want,
    git: &Git,
    as_it_is: AsItIs,
) -> Result<Pinned<'r>, BeginError> {
    let guard = repo.locks.packs.blocking_read();
    let _refs = repo.locks.refs.blocking_read();
    let aside = repo.aside.get();
    let needs_none =
        |refs: &MirrorRefs, loose: &[ObjectId], cruft: &[String]| aside.covers(refs, loose, cruft);
    let mut sources = Vec::new();
    let mut view = view::pin(
        &repo.mirror,
        &git.refs,
        as_it_is,
        &needs_none,
        &mut |source, relative| add(&mut sources, source, relative),
    )?;
    let followed = follow(repo, want, git, &view)?;
    let (target, commit) = followed.unzip();
    view.checkout = Checkout::of(want, &view.refs, commit)?;
    Ok(Pinned {
        held: Held {
            _guard: guard,
            home: Home::Mirror(repo.mirror.clone()),
        },
        view,
        target,
        sources,
    })
}

/// What the ref that is followed names, and the commit that this leads to.
fn follow(
    repo: &Repo,
    want: &Want,
    git: &Git,
    view: &View,
) -> Result<Option<(ObjectId, ObjectId)>, BeginError> {
    let Some(name) = want.followed() else {
        return Ok(None);
    };
    // Those that a snapshot shows.
    if let Some(found) = view.refs.get(name) {
        return Ok(Some((found.target, found.peeled.unwrap_or(found.target))));
    }
    let others = git.refs.read(&repo.mirror, &git.follow);
    let others = others.map_err(PinError::from)?;
    let Some(target) = others.get(name).map(|found| found.target) else {
        return Ok(None);
    };
    let objects = Objects::open(&repo.mirror, view.hash)?;
    Ok(match objects.lead(target)? {
        Leads::Commit(commit) => Some((target, commit)),
        Leads::Other(_) | Leads::Nowhere => None,
    })
}

/// Has git do something. Ends with an error as soon as `stop` is true: git may take minutes, and nobody waits for
/// them.
fn run_git<T>(
    mut stop: watch::Receiver<bool>,
    work: impl Future<Output = T>,
) -> Result<T, BeginError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(|source| BeginError::Io {
        op: "start git",
        source,
    })?;
    runtime.block_on(async {
        tokio::select! {
            done = work => Ok(done),
            // Without a sender the server has stopped, too.
            _ = stop.wait_for(|stop| *stop) => Err(BeginError::Stopping),
        }
    })
}

fn pack_loose(repo: &Repo, git: &Git, stop: watch::Receiver<bool>) -> Result<(), BeginError> {
    let _packing = repo.locks.packing.blocking_lock();
    let before = repo.aside.get();
    let packed = run_git(stop, git.pack_reachable(&repo.mirror, &before))?;
    let aside = packed.map_err(|e| BeginError::Pack {
        source: Detail::of(&e),
        is_full: e.is_disk_full(),
    })?;
    let unreachable = aside.len();
    tracing::info!(
        repository = &*repo.name,
        unreachable,
        "packed loose objects"
    );
    repo.aside.set(aside);
    Ok(())
}
