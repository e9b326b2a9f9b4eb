//! The packs of another server take the place of a mirror's own, so that both make the same archives.
//!
//! An own pack goes only if each of its objects is in those of the other one, or is reached by nothing here: no ref, no
//! tip that refs have left lately, no tip of the annex. What is reached and would go is packed anew from a list of ids;
//! a pack that is that for the most part stays. What others have is hashed beside the mirror, so that what is said to be in it
//! is ([`arriving`](super::arriving)). Then it comes into its place and the own packs leave theirs under the same locks, in
//! this order: where that is cut off both are there, and nothing is lost.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use gix::ObjectId;
use gix::hash::Kind;

use super::arriving::{Arriving, missing_of};
use super::blocking::blocking;
use super::config;
use super::error::MirrorError;
use super::exclusive::exclusive_both;
use super::expire::{Locks, move_graphs, packs_of, roots, stamp};
use super::git::Git;
use super::packs::{Pack, PackKind, move_packs, open_index, set_age};
use super::set_up::format_of;
use crate::git::stdin_file;
use crate::limits::ADOPTED_LACKING_MAX;

/// All packs of another server. Those that the mirror lacks lie in a directory of it until they are in their place.
#[derive(Debug)]
pub(crate) struct Others {
    /// Their names, without an end.
    stems: BTreeSet<String>,
    /// Of these the mirror has not.
    missing: BTreeSet<String>,
    home: Arriving,
}

/// What became of the packs of a mirror.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Replaced {
    /// The others have taken the place of so many; so many own ones have what these lack.
    Done { gone: usize, own: usize },
    /// A fetch, or who reads packs where they are or keeps them there, was in the way: the own ones stay.
    Busy,
    /// The others lack too much.
    Refused,
}

impl Others {
    /// Those of these names; `None` where somebody keeps an own one. May wait for the disk.
    ///
    /// # Errors
    /// There can be no directory in the mirror, or the names are of another object format than its.
    pub(crate) fn begin(
        mirror: &Path,
        stems: BTreeSet<String>,
    ) -> Result<Option<Others>, MirrorError> {
        let is_kept = |pack: &Pack| pack.kind == PackKind::Kept && !stems.contains(&pack.stem);
        if packs_of(mirror)?.iter().any(is_kept) {
            return Ok(None);
        }
        let missing = missing_of(mirror, stems.iter())?;
        let home = Arriving::begin(mirror);
        let home = home.map_err(|source| MirrorError::io("make a directory in", mirror, source))?;
        Ok(Some(Others {
            missing,
            stems,
            home,
        }))
    }

    /// Where a file is to be put, by its name; `None` if the mirror has the pack.
    pub(crate) fn place_of(&self, name: &str) -> Option<PathBuf> {
        let stem = name.split_once('.').map_or(name, |(stem, _)| stem);
        let is_missing = self.missing.contains(stem);
        is_missing.then(|| self.home.place_of(name))
    }

    /// Why they cannot take the place of the mirror's own packs, as far as indices say: those that came of what is missing, so
    /// what they say of these is not sure. May wait for the disk.
    pub(crate) fn why_not(&self, mirror: &Path) -> Result<Option<Replaced>, MirrorError> {
        let missing = self.missing.iter();
        let coming = missing.map(|stem| (&**stem, self.home.index_of(stem)));
        Ok(Plan::read(mirror, &self.stems, &coming.collect())?.err())
    }
}

/// A pack of the mirror that the other server has not.
struct Own {
    pack: Pack,
    objects: usize,
    /// Of these the others lack.
    lacking: Vec<ObjectId>,
}

/// What is to become of a mirror's packs.
struct Plan {
    hash: Kind,
    own: Vec<Own>,
    /// What is to be packed anew before they go.
    anew: Vec<ObjectId>,
    /// So many stay.
    stay: usize,
}

impl Git {
    /// Has the others take the place of the mirror's own packs. What was left longer ago than `expiry` keeps nothing.
    /// Nobody else joins packs of the mirror meanwhile, or has something of it expire.
    ///
    /// # Errors
    /// [`MirrorError::Git`] when an object that is reached is missing; then the own packs stay.
    pub(crate) async fn replace_packs(
        &self,
        mirror: &Path,
        locks: Locks<'_>,
        others: Others,
        (expiry, now): (Duration, SystemTime),
    ) -> Result<Replaced, MirrorError> {
        let Others {
            stems,
            missing,
            home,
        } = others;
        let coming = self.index(mirror, home, Vec::from_iter(missing)).await?;
        let path = mirror.to_owned();
        let before = blocking(mirror, move || stamp(&path)).await?;
        let path = mirror.to_owned();
        let read = move || {
            let plan = Plan::read(&path, &stems, &coming.indices().collect())?;
            Ok((plan, coming))
        };
        let (plan, coming) = blocking(mirror, read).await?;
        let mut plan = match plan {
            Ok(plan) => plan,
            Err(why) => return Ok(why),
        };
        let is_lacking = plan.own.iter().any(|own| !own.lacking.is_empty());
        let mut made = Vec::new();
        if is_lacking {
            let since = now.checked_sub(expiry).unwrap_or(SystemTime::UNIX_EPOCH);
            (plan, made) = self.keep_reached(mirror, plan, since).await?;
        }
        let gone: Vec<Pack> = plan.own.into_iter().map(|own| own.pack).collect();
        let io = |source| MirrorError::io("remove packs of", mirror, source);
        let trash = tempfile::Builder::new()
            .prefix("tmp_old_packs_")
            .tempdir_in(mirror)
            .map_err(io)?;
        let Some(locked) = exclusive_both(locks.arrivals, locks.packs).await else {
            return Ok(Replaced::Busy);
        };
        let refs = locks.refs.read().await;
        if is_lacking && stamp(mirror)? != before {
            // Something may be reached that was not.
            return Ok(Replaced::Busy);
        }
        // Not on another thread: if this future were dropped, it would go on without the locks.
        // Both sets are there for as long as that takes, or none of the others: what is put off leaves nothing behind.
        let folder = mirror.join("objects/pack");
        let put = coming.put_now(mirror);
        // The new names before the old ones go.
        let put = put.and_then(|()| File::open(&folder)?.sync_all());
        let moved = put.and_then(|()| {
            let graphs = is_lacking.then(|| move_graphs(mirror, trash.path()));
            graphs.unwrap_or(Ok(()))
        });
        let moved = moved.and_then(|()| move_packs(&folder, &gone, trash.path()));
        drop((locked, refs));
        moved.map_err(io)?;
        let path = mirror.to_owned();
        let close = move || {
            let closed = trash.close();
            closed.map_err(|source| MirrorError::io("remove packs of", &path, source))
        };
        blocking(mirror, close).await?;
        Ok(Replaced::Done {
            gone: gone.len(),
            own: plan.stay + made.len(),
        })
    }

    /// Sees to it that nothing goes which is reached; gives what goes, and the packs that were made for that.
    async fn keep_reached(
        &self,
        mirror: &Path,
        plan: Plan,
        since: SystemTime,
    ) -> Result<(Plan, Vec<String>), MirrorError> {
        let path = mirror.to_owned();
        let roots = blocking(mirror, move || roots(&path, since)).await?;
        let reached = self.reached(mirror, &roots).await?;
        let path = mirror.to_owned();
        let kept = move || {
            let kept = plan.keep(reached);
            kept.map_err(|source| MirrorError::io("read what is reached in", &path, source))
        };
        let mut plan = blocking(mirror, kept).await?;
        let mut made = Vec::new();
        if !plan.anew.is_empty() {
            let list: String = plan.anew.iter().map(|id| format!("{id}\n")).collect();
            let list = stdin_file(list.as_bytes());
            let list = list.map_err(|source| MirrorError::io("list what stays of", mirror, source));
            made = self.pack_objects(mirror, list?, &[]).await?;
            let (path, stems) = (mirror.to_owned(), made.clone());
            plan = blocking(mirror, move || plan.replaced_by(&path, &stems)).await?;
        }
        // What annexes need of it they have then.
        self.secure_annex(mirror).await?;
        Ok((plan, made))
    }
}

impl Plan {
    /// What the mirror has of its own, or why that cannot go; `coming` are the indices of what it lacks.
    fn read(
        mirror: &Path,
        stems: &BTreeSet<String>,
        coming: &BTreeMap<&str, PathBuf>,
    ) -> Result<Result<Plan, Replaced>, MirrorError> {
        let hash = format_of(&config::read(mirror)?);
        let io = |source| MirrorError::io("compare the packs of", mirror, source);
        let all = packs_of(mirror)?;
        let (there, mut own): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|pack| stems.contains(&pack.stem));
        // It is in no archive.
        own.retain(|pack| pack.kind != PackKind::Cruft);
        let is_kept = own.iter().any(|pack| pack.kind == PackKind::Kept);
        // What the mirror had of them may have been joined with its own meanwhile.
        let is_known = |stem: &String| {
            coming.contains_key(&**stem) || there.iter().any(|pack| pack.stem == *stem)
        };
        if is_kept || !stems.iter().all(is_known) {
            return Ok(Err(Replaced::Busy));
        }
        let there = there.iter().map(|pack| &pack.index);
        let indices = there.chain(coming.values());
        let indices: io::Result<Vec<_>> = indices.map(|path| open_index(path, hash)).collect();
        let indices = indices.map_err(io)?;
        let (mut found, mut count) = (Vec::new(), 0);
        for pack in own {
            let index = open_index(&pack.index, hash).map_err(io)?;
            let mut lacking = Vec::new();
            for at in 0..index.num_objects() {
                let id = index.oid_at_index(at);
                if !indices.iter().any(|other| other.lookup(id).is_some()) {
                    lacking.push(id.to_owned());
                }
                if count + lacking.len() > ADOPTED_LACKING_MAX {
                    return Ok(Err(Replaced::Refused));
                }
            }
            count += lacking.len();
            found.push(Own {
                pack,
                objects: index.num_objects() as usize,
                lacking,
            });
        }
        Ok(Ok(Plan {
            hash,
            own: found,
            anew: Vec::new(),
            stay: 0,
        }))
    }

    /// What is reached stays: packs that are that for the most part, and of others what has to be packed anew.
    fn keep(mut self, reached: File) -> io::Result<Plan> {
        let lacking = self.own.iter().flat_map(|own| &own.lacking);
        let mut is_reached: HashMap<ObjectId, bool> = lacking.map(|id| (*id, false)).collect();
        for line in BufReader::new(reached).lines() {
            let line = line?;
            let id = ObjectId::from_hex(line.as_bytes());
            let id = id.map_err(|e| io::Error::other(format!("{line:?}: {e}")))?;
            is_reached
                .entry(id)
                .and_modify(|is_reached| *is_reached = true);
        }
        for own in &mut self.own {
            own.lacking.retain(|id| is_reached[id]);
        }
        let before = self.own.len();
        let mut stays = BTreeSet::new();
        self.own.retain(|own| {
            let is_kept = !own.lacking.is_empty() && 2 * own.lacking.len() >= own.objects;
            stays.extend(own.lacking.iter().filter(|_| is_kept).copied());
            !is_kept
        });
        self.stay = before - self.own.len();
        let anew = self.own.iter().flat_map(|own| &own.lacking);
        let anew: BTreeSet<ObjectId> = anew.filter(|id| !stays.contains(*id)).copied().collect();
        self.anew = Vec::from_iter(anew);
        Ok(self)
    }

    /// Makes sure that the packs `made` have all that is to stay of those that go.
    fn replaced_by(mut self, mirror: &Path, made: &[String]) -> Result<Plan, MirrorError> {
        let folder = mirror.join("objects/pack");
        let io = |source| MirrorError::io("compare the packs of", &folder, source);
        let index = |stem: &String| open_index(&folder.join(format!("{stem}.idx")), self.hash);
        let indices: io::Result<Vec<_>> = made.iter().map(index).collect();
        let indices = indices.map_err(io)?;
        let is_there = |id: &ObjectId| indices.iter().any(|made| made.lookup(id).is_some());
        if let Some(id) = self.anew.iter().find(|id| !is_there(id)) {
            return Err(MirrorError::Output {
                op: "git pack-objects",
                target: mirror.display().to_string(),
                what: format!("{id} is not in the new pack"),
            });
        }
        // It can be exactly one of those that were to go.
        self.own.retain(|own| !made.contains(&own.pack.stem));
        let gone = Vec::from_iter(self.own.iter().map(|own| own.pack.clone()));
        set_age(&folder, made, &gone).map_err(io)?;
        Ok(self)
    }
}

#[cfg(test)]
mod tests;
