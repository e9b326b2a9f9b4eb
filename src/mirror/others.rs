//! The packs of another server take the place of a mirror's own, so that both make the same archives.
//!
//! An own pack goes only if each of its objects is in those of the other one, or is reached by nothing here: no ref, no
//! tip that refs have left lately, no tip of the annex. What is reached and would go is packed anew from a list of ids;
//! a pack that is that for the most part stays. What others have is looked at beside the mirror. Then it comes into its
//! place and the own packs leave theirs under the same locks, in this order: where that is cut off both are there, and
//! nothing is lost.

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File, Permissions};
use std::io::{self, BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use gix::ObjectId;
use gix::hash::Kind;
use tempfile::TempDir;

use super::arriving::ENDS;
use super::blocking::blocking;
use super::config;
use super::error::MirrorError;
use super::exclusive::exclusive_both;
use super::expire::{Locks, move_graphs, roots, stamp};
use super::git::Git;
use super::journal;
use super::packs::{Pack, PackKind, move_packs, open_index, packs, set_age};
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
    home: Home,
}

/// Where they lie; what is left of it is removed beside the plane.
#[derive(Debug)]
struct Home(Option<TempDir>);

impl Home {
    fn path(&self) -> &Path {
        self.0.as_ref().map_or(Path::new(""), TempDir::path)
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // Outside of the plane nobody waits for it.
        if let Some(home) = self.0.take()
            && let Ok(plane) = tokio::runtime::Handle::try_current()
        {
            plane.spawn_blocking(move || drop(home));
        }
    }
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
    /// There can be no directory in the mirror.
    pub(crate) fn begin(mirror: &Path, stems: BTreeSet<String>) -> io::Result<Option<Others>> {
        let folder = mirror.join("objects/pack");
        let is_kept = |pack: &Pack| pack.kind == PackKind::Kept && !stems.contains(&pack.stem);
        if packs(&folder)?.iter().any(is_kept) {
            return Ok(None);
        }
        let is_missing = |stem: &&String| {
            let has = |end: &str| folder.join(format!("{stem}.{end}")).exists();
            !has("pack") || !has("idx")
        };
        // The next start removes what has such a name.
        let home = tempfile::Builder::new()
            .prefix("tmp_others_")
            .tempdir_in(mirror)?;
        Ok(Some(Others {
            missing: stems.iter().filter(is_missing).cloned().collect(),
            stems,
            home: Home(Some(home)),
        }))
    }

    /// Where a file is to be put, by its name; `None` if the mirror has the pack.
    pub(crate) fn place_of(&self, name: &str) -> Option<PathBuf> {
        let stem = name.split_once('.').map_or(name, |(stem, _)| stem);
        let is_missing = self.missing.contains(stem);
        is_missing.then(|| self.home.path().join(name))
    }

    fn file(&self, stem: &str, end: &str) -> PathBuf {
        self.home.path().join(format!("{stem}.{end}"))
    }

    /// Has those that the mirror lacks last and as old as [`journal::oldest_left`] says: all that takes time before they have
    /// their place.
    fn prepare(&self, mirror: &Path) -> Result<(), MirrorError> {
        let oldest = journal::oldest_left(mirror)?;
        let prepare = |(stem, end): (&String, &str)| {
            let file = match File::open(self.file(stem, end)) {
                // It is made again where it is missing.
                Err(e) if end == "rev" && e.kind() == io::ErrorKind::NotFound => return Ok(()),
                file => file?,
            };
            oldest.map_or(Ok(()), |oldest| file.set_modified(oldest))?;
            file.set_permissions(Permissions::from_mode(0o444))?;
            file.sync_all()
        };
        let done = self.files().try_for_each(prepare);
        done.map_err(|source| MirrorError::io("look at packs for", mirror, source))
    }

    /// Has them in their place.
    fn put(&self, mirror: &Path) -> io::Result<()> {
        let folder = mirror.join("objects/pack");
        let put = |(stem, end): (&String, &str)| {
            let to = folder.join(format!("{stem}.{end}"));
            match fs::rename(self.file(stem, end), to) {
                Err(e) if end == "rev" && e.kind() == io::ErrorKind::NotFound => Ok(()),
                put => put,
            }
        };
        self.files().try_for_each(put)?;
        // The new names before the old ones go.
        File::open(&folder)?.sync_all()
    }

    /// The files of those that the mirror lacks, in the order in which they may appear.
    fn files(&self) -> impl Iterator<Item = (&String, &'static str)> {
        let missing = self.missing.iter();
        missing.flat_map(|stem| ENDS.map(|end| (stem, end)))
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
        let path = mirror.to_owned();
        let before = blocking(mirror, move || stamp(&path)).await?;
        let path = mirror.to_owned();
        let read = blocking(mirror, move || Ok((Plan::read(&path, &others)?, others)));
        let (plan, others) = read.await?;
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
        let path = mirror.to_owned();
        let others = blocking(mirror, move || others.prepare(&path).map(|()| others)).await?;
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
        let moved = others.put(mirror).and_then(|()| {
            let graphs = is_lacking.then(|| move_graphs(mirror, trash.path()));
            graphs.unwrap_or(Ok(()))
        });
        let moved =
            moved.and_then(|()| move_packs(&mirror.join("objects/pack"), &gone, trash.path()));
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
    /// What the mirror has of its own, or why that cannot go.
    fn read(mirror: &Path, others: &Others) -> Result<Result<Plan, Replaced>, MirrorError> {
        let hash = format_of(&config::read(mirror)?);
        let folder = mirror.join("objects/pack");
        let io = |source| MirrorError::io("compare the packs of", &folder, source);
        let all = packs(&folder).map_err(io)?;
        let (there, mut own): (Vec<_>, Vec<_>) = all
            .into_iter()
            .partition(|pack| others.stems.contains(&pack.stem));
        // It is in no archive.
        own.retain(|pack| pack.kind != PackKind::Cruft);
        let is_kept = own.iter().any(|pack| pack.kind == PackKind::Kept);
        // What the mirror had of them may have been joined with its own meanwhile.
        let is_known = |stem: &String| {
            others.missing.contains(stem) || there.iter().any(|pack| pack.stem == *stem)
        };
        if is_kept || !others.stems.iter().all(is_known) {
            return Ok(Err(Replaced::Busy));
        }
        let coming = others.missing.iter().map(|stem| others.file(stem, "idx"));
        let indices = there.iter().map(|pack| pack.index.clone()).chain(coming);
        let indices: io::Result<Vec<_>> = indices.map(|path| open_index(&path, hash)).collect();
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
