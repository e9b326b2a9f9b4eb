//! Few packs instead of many.
//!
//! New packs are written without a lock, because they only add to what is there. The lock of the packs
//! is held for writing while the old ones are moved away: some 10 µs each. They go only when every one of
//! their objects was found in the index of a pack that stays.

use super::blocking::blocking;
use super::config;
use super::error::MirrorError;
use super::exclusive::exclusive;
use super::git::{Call, Git};
use super::packs::{Choose, Pack, PackKind, first_missing, move_packs, packs};
use super::packs::{out_of_proportion, set_age, small_ones};
use super::set_up::format_of;
use crate::git::stdin_file;
use crate::io::lasts::Lasts;
use crate::limits;
use gix::hash::Kind;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::RwLock;

/// What came of joining packs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Joined {
    /// There was nothing to join.
    Nothing,
    /// So many have become one.
    Packs(usize),
    /// Somebody reads them where they are; they stay.
    Busy,
}

/// Packs that are to become one.
struct Plan {
    hash: Kind,
    gone: Vec<Pack>,
    /// What has not to be in the new one.
    stay: Vec<Pack>,
}

impl Git {
    /// Joins small packs, once there are more than
    /// [`MIRROR_SMALL_PACKS_MAX`](limits::MIRROR_SMALL_PACKS_MAX); those of more than
    /// [`MIRROR_PACK_LARGE_PERCENT`](limits::MIRROR_PACK_LARGE_PERCENT) of the mirror are left alone.
    /// Every object stays. `lock` is that of the packs. Those with a `.keep` file or an `.mtimes` file
    /// are left alone, too.
    ///
    /// # Errors
    /// [`MirrorError::Git`] when git cannot pack; then every pack stays.
    pub async fn join_small(
        &self,
        mirror: &Path,
        lock: &RwLock<()>,
    ) -> Result<Joined, MirrorError> {
        self.join(mirror, lock, small_ones).await
    }

    /// The same for a quiet time: each pack that is left alone has at least
    /// [`MIRROR_PACK_FACTOR`](limits::MIRROR_PACK_FACTOR) times the bytes of all that are smaller.
    ///
    /// # Errors
    /// As [`Git::join_small`].
    pub async fn join_to_geometry(
        &self,
        mirror: &Path,
        lock: &RwLock<()>,
    ) -> Result<Joined, MirrorError> {
        self.join(mirror, lock, out_of_proportion).await
    }

    async fn join(
        &self,
        mirror: &Path,
        lock: &RwLock<()>,
        choose: Choose,
    ) -> Result<Joined, MirrorError> {
        let path = mirror.to_owned();
        let Some(plan) = blocking(mirror, move || Plan::read(&path, choose)).await? else {
            return Ok(Joined::Nothing);
        };
        if exclusive(lock).await.is_none() {
            // Whoever reads now does so for long: not all the work for nothing.
            return Ok(Joined::Busy);
        }
        let made = self.pack_again(mirror, &plan).await?;
        let path = mirror.to_owned();
        let gone = blocking(mirror, move || plan.replaced_by(&path, &made)).await?;
        self.remove_packs(mirror, lock, gone).await
    }

    /// Makes one pack of all that are to be joined, and gives its name; none where others have all
    /// objects.
    async fn pack_again(&self, mirror: &Path, plan: &Plan) -> Result<Vec<String>, MirrorError> {
        let mut list: String = plan.gone.iter().map(|p| p.name() + "\n").collect();
        list.extend(plan.stay.iter().map(|p| format!("^{}\n", p.name())));
        let list = stdin_file(list.as_bytes());
        let list = list.map_err(|source| MirrorError::io("list packs of", mirror, source))?;
        self.pack_objects(mirror, list, &["--stdin-packs"]).await
    }

    /// Makes packs of what is listed and returns their names.
    pub(super) async fn pack_objects(
        &self,
        mirror: &Path,
        list: File,
        options: &[&str],
    ) -> Result<Vec<String>, MirrorError> {
        let made = mirror.join("objects/pack/pack");
        self.pack_objects_to(mirror, &made, list, (options, Lasts::ByWriter))
            .await
    }

    /// The same into another repository.
    pub(super) async fn pack_objects_into(
        &self,
        mirror: &Path,
        into: &Path,
        list: File,
        options: &[&str],
    ) -> Result<Vec<String>, MirrorError> {
        let made = into.join("objects/pack/pack");
        self.pack_objects_to(mirror, &made, list, (options, Lasts::ByWriter))
            .await
    }

    /// The same with what the paths of what is made begin with.
    pub(super) async fn pack_objects_to(
        &self,
        mirror: &Path,
        made: &Path,
        list: File,
        (options, lasts): (&[&str], Lasts),
    ) -> Result<Vec<String>, MirrorError> {
        let mut call = self.upkeep("git pack-objects", mirror, &["pack-objects", "--quiet"]);
        if lasts == Lasts::ByCaller {
            let settings = ["-c", "core.fsync=none"].map(Into::into);
            call.args.splice(0..0, settings);
        }
        call.args.extend(
            ["--non-empty", "--delta-base-offset", "--threads=1"]
                .iter()
                .chain(options)
                .map(Into::into),
        );
        call.args.push(made.into());
        call.stdin = Some(list);
        let out = self.output(call).await?;
        let names = String::from_utf8_lossy(&out);
        Ok(names
            .lines()
            .map(|hash| format!("pack-{}", hash.trim()))
            .collect())
    }

    /// A command of a mirror's upkeep: bounded in memory as far as git can be told.
    pub(super) fn upkeep<'a>(&self, op: &'static str, mirror: &'a Path, args: &[&str]) -> Call<'a> {
        let settings = [
            "-c".to_owned(),
            format!("pack.windowMemory={}", limits::MIRROR_WINDOW_BYTES),
            "-c".to_owned(),
            format!("pack.deltaCacheSize={}", limits::MIRROR_WINDOW_BYTES),
        ];
        let args = args.iter().map(|arg| (*arg).to_owned());
        self.local(op, mirror, settings.into_iter().chain(args))
    }

    /// Moves packs away, whose objects are all in others, and removes them.
    pub(super) async fn remove_packs(
        &self,
        mirror: &Path,
        lock: &RwLock<()>,
        gone: Vec<Pack>,
    ) -> Result<Joined, MirrorError> {
        let folder = mirror.join("objects/pack");
        let trash = tempfile::Builder::new()
            .prefix("tmp_old_packs_")
            .tempdir_in(mirror);
        let trash =
            trash.map_err(|source| MirrorError::io("make a directory in", mirror, source))?;
        let Some(exclusive) = exclusive(lock).await else {
            return Ok(Joined::Busy);
        };
        // Not on another thread: if this future were dropped, it would go on without the lock.
        let moved = move_packs(&folder, &gone, trash.path());
        drop(exclusive);
        moved.map_err(|source| MirrorError::io("remove old packs of", &folder, source))?;
        let path = trash.path().to_owned();
        let close = move || {
            trash
                .close()
                .map_err(|source| MirrorError::io("remove", &path, source))
        };
        blocking(mirror, close).await?;
        Ok(Joined::Packs(gone.len()))
    }

    /// The same with another limit of time for everything that talks to nobody.
    #[must_use]
    pub fn with_time(&self, limit: Duration) -> Git {
        let mut git = self.clone();
        git.limits.local = limit;
        git
    }
}

impl Plan {
    fn read(mirror: &Path, choose: Choose) -> Result<Option<Plan>, MirrorError> {
        let hash = format_of(&config::read(mirror)?);
        let folder = mirror.join("objects/pack");
        let all = packs(&folder)
            .map_err(|source| MirrorError::io("list the packs of", &folder, source))?;
        let (plain, others): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|p| p.kind == PackKind::Plain);
        let gone = choose(plain.clone());
        if gone.is_empty() {
            return Ok(None);
        }
        // What is put aside may go any time.
        let others = others.into_iter().filter(|p| p.kind == PackKind::Kept);
        let left_alone = plain.into_iter().filter(|p| !gone.contains(p));
        let stay = left_alone.chain(others).collect();
        Ok(Some(Plan { hash, gone, stay }))
    }

    /// The packs that can go, now that there are those `made`.
    fn replaced_by(mut self, mirror: &Path, made: &[String]) -> Result<Vec<Pack>, MirrorError> {
        let folder = mirror.join("objects/pack");
        let io = |source| MirrorError::io("compare the packs of", &folder, source);
        set_age(&folder, made, &self.gone).map_err(io)?;
        // Joining duplicates can give exactly one of the packs that were joined.
        self.gone.retain(|pack| !made.contains(&pack.stem));
        let made = made.iter().map(|stem| folder.join(format!("{stem}.idx")));
        let stay = self.stay.iter().map(|pack| pack.index.clone());
        let stay: Vec<PathBuf> = made.chain(stay).collect();
        if let Some(id) = first_missing(&self.gone, &stay, self.hash).map_err(io)? {
            return Err(MirrorError::Output {
                op: "git pack-objects",
                target: mirror.display().to_string(),
                what: format!("{id} is in no pack that stays"),
            });
        }
        // The new names before the old ones go.
        File::open(&folder).and_then(|d| d.sync_all()).map_err(io)?;
        Ok(self.gone)
    }
}

#[cfg(test)]
mod tests;
