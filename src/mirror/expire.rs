//! What no ref leads to any more is gone after a while: from packs, from what is loose, from what somebody's
//! git has put aside.
//!
//! A pack that holds nothing due keeps its name, which snapshots share. Of one that does, what is reached
//! is packed anew from a list of ids, beside it; then it goes. What lies only in packs that are younger than the
//! expiry is not due: a pack that was joined of others is as old as the oldest. What is due goes from every
//! pack, however young: others may have joined it with what is new, and that pack may have come here lately.
//!
//! Before anything goes refs and the journal are looked at once more; what they have come to need meanwhile is
//! packed first. Where there are many refs that takes tens of ms, and so no lock: under the locks is only seen
//! that none of their files has changed since. So it is with the annex: what its tips
//! need of what is due is packed into it first. While a fetch is between its objects and its refs nothing goes: it
//! may have taken something for there that is due.

mod due;

use std::collections::{BTreeSet, HashSet};
use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::{Duration, SystemTime};

use gix::ObjectId;
use tempfile::TempDir;
use tokio::sync::RwLock;

use super::annex_tips;
use super::blocking::blocking;
use super::config;
use super::error::MirrorError;
use super::exclusive::exclusive_both;
use super::files::{Stamp, loose_ids};
use super::git::Git;
use super::journal;
use super::looked;
use super::loose::{Aside, all_tips};
use super::packs::{Pack, PackKind, open_index, packs};
use super::set_up::format_of;
use crate::git::stdin_file;
use crate::limits;
use due::{Due, is_older, loose_file};
pub(super) use due::{KeepFiles, move_graphs, packs_of};

/// No file is younger than that: the clock of whoever has dated it is wrong.
const NEVER_YOUNG: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// The locks of a repository, in the order in which they are taken.
#[derive(Clone, Copy, Debug)]
pub struct Locks<'a> {
    /// Read while a fetch is between its first look at the mirror and its refs.
    pub arrivals: &'a RwLock<()>,
    /// See [`crate::mirror`].
    pub packs: &'a RwLock<()>,
    /// See [`crate::mirror`].
    pub refs: &'a RwLock<()>,
}

/// What came of an expiry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expired {
    /// There was nothing due.
    Nothing,
    /// So many objects are gone.
    Objects(u64),
    /// A fetch, or who reads packs where they are, was in the way: everything stays.
    Busy,
    /// The annex lacks something that its tips need, and cannot be given what is to go: everything stays.
    AnnexBroken,
}

impl Git {
    /// Removes what neither refs reach nor tips that were left less than `expiry` before `now`. What
    /// refs reach must be in packs that are not cruft.
    ///
    /// # Errors
    /// [`MirrorError::Git`] when an object that is reached is missing; then everything stays.
    pub async fn expire(
        &self,
        mirror: &Path,
        locks: Locks<'_>,
        expiry: Duration,
        now: SystemTime,
    ) -> Result<Expired, MirrorError> {
        self.expire_all(mirror, locks, (expiry, now), KeepFiles::Count)
            .await
    }

    /// The same, whatever packs have a `.keep` or only those that have none.
    pub(super) async fn expire_all(
        &self,
        mirror: &Path,
        locks: Locks<'_>,
        (expiry, now): (Duration, SystemTime),
        keep_files: KeepFiles,
    ) -> Result<Expired, MirrorError> {
        let since = now.checked_sub(expiry).unwrap_or(SystemTime::UNIX_EPOCH);
        let path = mirror.to_owned();
        if !blocking(mirror, move || is_due(&path, (since, now, expiry))).await? {
            return Ok(Expired::Nothing);
        }
        if exclusive_both(locks.arrivals, locks.packs).await.is_none() {
            // Not all the work for nothing.
            return Ok(Expired::Busy);
        }
        // So that nothing that is reached is loose or cruft.
        self.pack_reachable(mirror, &Aside::default()).await?;
        let path = mirror.to_owned();
        let roots = blocking(mirror, move || roots(&path, since)).await?;
        let reached = self.reached(mirror, &roots).await?;
        // Where nobody may have it any more no date keeps it: who dates files may have another clock, or have had.
        let files_since = match keep_files {
            KeepFiles::Count => since,
            KeepFiles::MeanNothing => now + NEVER_YOUNG,
        };
        let path = mirror.to_owned();
        let find = move || Due::find(&path, reached, files_since, keep_files);
        let due = blocking(mirror, find).await?;
        if due.gone.is_empty() && due.loose.is_empty() {
            note_look(mirror, (since, now)).await?;
            return Ok(Expired::Nothing);
        }
        let (count, due) = (due.count, self.pack_what_stays(mirror, due).await?);
        match self.secure_annex(mirror).await {
            Err(MirrorError::Git { .. }) => return Ok(Expired::AnnexBroken),
            secured => secured?,
        }
        let Some(trash) = self.remove_due(mirror, locks, (due, roots), since).await? else {
            return Ok(Expired::Busy);
        };
        blocking(mirror, move || {
            let path = trash.path().to_owned();
            trash
                .close()
                .map_err(|source| MirrorError::io("remove", &path, source))
        })
        .await?;
        note_look(mirror, (since, now)).await?;
        Ok(Expired::Objects(count))
    }

    /// The ids of all that is reached, one a line.
    pub(super) async fn reached(&self, mirror: &Path, roots: &Roots) -> Result<File, MirrorError> {
        let failed = |source| MirrorError::io("list what is reached in", mirror, source);
        let mut out = BufWriter::new(tempfile::tempfile_in(mirror).map_err(failed)?);
        let lines = |tips: &BTreeSet<ObjectId>| -> String {
            tips.iter().map(|tip| format!("{tip}\n")).collect()
        };
        let refs = lines(&roots.refs);
        let walk = ["rev-list", "--objects", "--no-object-names", "--stdin"];
        let of_refs = [&walk[..], &["--use-bitmap-index"]].concat();
        // git 2.39 takes no `--not` there.
        let mut left = lines(&roots.left);
        left.extend(roots.refs.iter().map(|tip| format!("^{tip}\n")));
        let of_left = [&walk[..], &["--missing=allow-any"]].concat();
        for (args, list, is_empty) in [
            (of_refs, &refs, roots.refs.is_empty()),
            (of_left, &left, roots.left.is_empty()),
        ] {
            if is_empty {
                continue;
            }
            let mut call = self.upkeep("git rev-list", mirror, &args);
            call.stdin = Some(stdin_file(list.as_bytes()).map_err(failed)?);
            let mut write = |bytes: &[u8]| out.write_all(bytes).map_err(|e| e.to_string());
            self.run(call, &mut write).await?;
        }
        let mut file = out.into_inner().map_err(|e| failed(e.into_error()))?;
        file.seek(SeekFrom::Start(0)).map_err(failed)?;
        Ok(file)
    }

    /// Packs what stays of the packs that go, and makes sure that all of it is there.
    async fn pack_what_stays(&self, mirror: &Path, due: Due) -> Result<Due, MirrorError> {
        if due.stays_count == 0 {
            return Ok(due);
        }
        let failed = |source| MirrorError::io("list what stays of", mirror, source);
        let list = due.stays.try_clone().map_err(failed)?;
        let made = self.pack_objects(mirror, list, &[]).await?;
        let path = mirror.to_owned();
        blocking(mirror, move || due.replaced_by(&path, &made)).await
    }

    /// Takes away what is due, once nothing has come to need it meanwhile; gives where it is then. `None` if
    /// it cannot.
    async fn remove_due(
        &self,
        mirror: &Path,
        locks: Locks<'_>,
        (mut due, roots): (Due, Roots),
        since: SystemTime,
    ) -> Result<Option<TempDir>, MirrorError> {
        let mut known: BTreeSet<ObjectId> = roots.refs.union(&roots.left).copied().collect();
        for _ in 0..limits::EXPIRY_LOOKS_MAX {
            let path = mirror.to_owned();
            let before = blocking(mirror, move || stamp(&path)).await?;
            // What has come to the annex meanwhile may need what is to go.
            self.secure_annex(mirror).await?;
            let new = self.new_roots(mirror, &known, since).await?;
            if !new.is_empty() {
                let made = self.pack_what_is_needed(mirror, &due, &known, &new).await?;
                // It can be exactly one of those that were to go.
                due.gone.retain(|pack| !made.contains(&pack.stem));
                known.extend(new);
            }
            let Some(_locked) = exclusive_both(locks.arrivals, locks.packs).await else {
                return Ok(None);
            };
            let _refs = locks.refs.read().await;
            // Requests wait for these locks: that nothing has moved since is seen without reading it again.
            // Not on another thread: if this future were dropped, it would go on without the locks.
            if stamp(mirror)? == before {
                return due.remove(mirror).map(Some);
            }
        }
        Ok(None)
    }

    /// What has become a root that was none.
    async fn new_roots(
        &self,
        mirror: &Path,
        known: &BTreeSet<ObjectId>,
        since: SystemTime,
    ) -> Result<BTreeSet<ObjectId>, MirrorError> {
        let path = mirror.to_owned();
        let now = blocking(mirror, move || roots(&path, since)).await?;
        let all = now.refs.union(&now.left);
        Ok(all.filter(|tip| !known.contains(*tip)).copied().collect())
    }

    /// Packs what `new` reaches of the packs that are to go and of what is loose; gives the names of the new
    /// packs.
    async fn pack_what_is_needed(
        &self,
        mirror: &Path,
        due: &Due,
        known: &BTreeSet<ObjectId>,
        new: &BTreeSet<ObjectId>,
    ) -> Result<Vec<String>, MirrorError> {
        let folder = mirror.join("objects/pack");
        let failed = |source| MirrorError::io("list the packs of", &folder, source);
        let mut list: String = new.iter().map(|tip| format!("{tip}\n")).collect();
        list.push_str("--not\n");
        list.extend(known.iter().map(|tip| format!("{tip}\n")));
        let list = stdin_file(list.as_bytes()).map_err(failed)?;
        let gone = |pack: &Pack| due.gone.iter().any(|gone| gone.stem == pack.stem);
        let stay = packs(&folder).map_err(failed)?.into_iter();
        let stay = stay.filter(|pack| !gone(pack) && pack.kind != PackKind::Cruft);
        let stay = stay.map(|pack| format!("--keep-pack={}", pack.name()));
        let options: Vec<String> = std::iter::once("--revs".to_owned()).chain(stay).collect();
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        self.pack_objects(mirror, list, &options).await
    }
}

/// What keeps objects.
pub(super) struct Roots {
    refs: BTreeSet<ObjectId>,
    /// Left lately.
    left: BTreeSet<ObjectId>,
}

/// Those of now, where what was left before `since` keeps nothing.
pub(super) fn roots(mirror: &Path, since: SystemTime) -> Result<Roots, MirrorError> {
    let refs = all_tips(mirror)?;
    let left = journal::read(mirror)?.unwrap_or_default();
    let mut left = left.since(unix_ms(since));
    left.retain(|tip| !refs.contains(tip));
    if !left.is_empty() {
        // Somebody may have removed it.
        let hash = format_of(&config::read(mirror)?);
        let folder = mirror.join("objects/pack");
        let io = |source| MirrorError::io("read the packs of", &folder, source);
        let all = packs(&folder).map_err(io)?;
        let indices: Result<Vec<_>, _> = all.iter().map(|p| open_index(&p.index, hash)).collect();
        let indices = indices.map_err(io)?;
        let loose: HashSet<ObjectId> = loose_ids(&mirror.join("objects"))
            .map_err(io)?
            .into_iter()
            .collect();
        left.retain(|tip| {
            loose.contains(tip) || indices.iter().any(|index| index.lookup(tip).is_some())
        });
    }
    Ok(Roots { refs, left })
}

fn unix_ms(at: SystemTime) -> u64 {
    let since_1970 = at.duration_since(SystemTime::UNIX_EPOCH);
    since_1970.map_or(0, |since| since.as_millis() as u64)
}

/// Of all that [`roots`] are made of, and of the tips of the annex.
pub(super) fn stamp(mirror: &Path) -> Result<Stamp, MirrorError> {
    let files = ["HEAD", "packed-refs", "refs", journal::NAME];
    let files = files.map(|name| mirror.join(name));
    let stamp = Stamp::of(files.into_iter().chain([annex_tips::path(mirror)]));
    stamp.map_err(|source| MirrorError::io("look at the refs of", mirror, source))
}

/// All of it was looked through: tips that were left before are forgotten, for what they reached is gone,
/// reached, or young, and then it is looked at again.
async fn note_look(
    mirror: &Path,
    (since, now): (SystemTime, SystemTime),
) -> Result<(), MirrorError> {
    let path = mirror.to_owned();
    blocking(mirror, move || {
        journal::forget_before(&path, unix_ms(since), unix_ms(now))?;
        looked::note(&path).map_err(|source| MirrorError::io("note a look at", &path, source))
    })
    .await
}

/// Whether something can be due: a tip was left long ago, something was put aside long ago, or it is time to
/// look.
fn is_due(
    mirror: &Path,
    (since, now, expiry): (SystemTime, SystemTime, Duration),
) -> Result<bool, MirrorError> {
    let all = packs_of(mirror)?;
    let oldest = journal::read(mirror)?.and_then(|journal| journal.oldest());
    let is_left = oldest.is_some_and(|at| at < unix_ms(since));
    let is_old_cruft = |pack: &Pack| pack.kind == PackKind::Cruft && pack.modified < since;
    let is_time = looked::next(mirror, &all, expiry, now).is_some_and(|at| at <= now);
    if is_left || is_time || all.iter().any(is_old_cruft) {
        return Ok(true);
    }
    let objects = mirror.join("objects");
    let loose = loose_ids(&objects).map_err(|source| MirrorError::io("list", &objects, source))?;
    Ok(loose
        .iter()
        .any(|id| is_older(&loose_file(mirror, id), since)))
}

/// When the next tip is due that refs have left, or it is time to look.
pub(crate) fn next_expiry_unix_ms(mirror: &Path, expiry: Duration, now: SystemTime) -> Option<u64> {
    let oldest = journal::read(mirror).ok().flatten();
    let oldest = oldest.and_then(|journal| journal.oldest());
    let left = oldest.map(|at| at.saturating_add(expiry.as_millis() as u64));
    let packs = packs_of(mirror).unwrap_or_default();
    let look = looked::next(mirror, &packs, expiry, now).map(unix_ms);
    left.into_iter().chain(look).min()
}

#[cfg(test)]
mod tests;
