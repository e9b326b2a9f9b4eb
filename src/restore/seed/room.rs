//! How much a seed has and may have, and what leaves: the least recently used parts, of whatever repository. Nobody is
//! waited for: who needs room looks at what is there, and whoever uses what leaves has it open.

use std::collections::{BinaryHeap, HashSet};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::fs::{FlockOperation, Stat};

use super::ground::Ground;
use super::name;
use crate::config::Share;
use crate::io::fs::Space;
use crate::limits::{
    DISK_BLOCK_BYTES, SEED_FREE_FLOOR_DEFAULT_PERCENT, SEED_IDLE_MS, SEED_LIMIT_DEFAULT_PERCENT,
    SEED_LOOK_MS, SEED_VICTIMS_MAX,
};

/// A part that can leave. The one that goes first is the least.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Victim {
    /// When it was used last.
    used: (i64, i64),
    repository: Arc<str>,
    name: String,
    bytes: u64,
}

/// What was found in a seed when somebody last looked.
///
/// Invariant: `victims` are the least recently used parts, the first to go last.
#[derive(Debug)]
pub(super) struct Room {
    looked: Instant,
    used_bytes: u64,
    /// What of it comes yet: as much is free that is not.
    coming_bytes: u64,
    victims: Vec<Victim>,
}

/// What whoever restores wants a seed to be bounded by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    limit: Share,
    /// What stays free of the file system.
    free_floor: Share,
}

impl Asked {
    pub(super) fn new(limit_bytes: Option<u64>, free_floor: Option<Share>) -> Asked {
        let default = Share::Percent(SEED_LIMIT_DEFAULT_PERCENT);
        Asked {
            limit: limit_bytes.map_or(default, Share::Bytes),
            free_floor: free_floor.unwrap_or(Share::Percent(SEED_FREE_FLOOR_DEFAULT_PERCENT)),
        }
    }
}

/// What bounds a seed.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    limit_bytes: u64,
    /// What may be written before too little of the file system is free.
    spare_bytes: u64,
}

impl Bounds {
    fn find(ground: &Ground, asked: Asked) -> io::Result<Bounds> {
        let space = Space::from(&rustix::fs::fstatvfs(ground)?);
        let floor_bytes = asked.free_floor.of(space.total_bytes);
        Ok(Bounds {
            limit_bytes: asked.limit.of(space.total_bytes),
            spare_bytes: space.free_bytes.saturating_sub(floor_bytes),
        })
    }

    /// How much a seed may have that has so much, of which some comes yet. What others fill makes it no smaller: it would
    /// lose all of it, again and again, and they would fill that as well.
    fn allowed(self, used_bytes: u64, coming_bytes: u64) -> u64 {
        let spare_bytes = self.spare_bytes.saturating_sub(coming_bytes);
        self.limit_bytes.min(used_bytes.saturating_add(spare_bytes))
    }
}

/// What a file takes, once all of it is there.
fn bytes_of(found: &Stat) -> u64 {
    let size = u64::try_from(found.st_size).unwrap_or_default();
    size.max(written_bytes(found)).max(DISK_BLOCK_BYTES)
}

/// What it takes now.
fn written_bytes(found: &Stat) -> u64 {
    let blocks = u64::try_from(found.st_blocks).unwrap_or_default();
    // A block is 512 bytes there, whatever the file system's are.
    blocks.saturating_mul(512)
}

impl Room {
    /// Looks at what there is. What somebody has begun who is gone is removed.
    pub(super) fn look(ground: &Ground) -> io::Result<Room> {
        let (mut used_bytes, mut coming_bytes) = (0_u64, 0_u64);
        // The greatest goes when there are too many.
        let mut victims = BinaryHeap::new();
        for repository in ground.names()?.filter(|name| name::is_of_repository(name)) {
            let Ok(home) = ground.below(&repository) else {
                continue;
            };
            let (repository, mut is_empty) = (Arc::<str>::from(repository), true);
            for name in home.names()? {
                is_empty = false;
                let Ok(found) = home.stat(&name) else {
                    continue;
                };
                if name::is_new(&name) && is_left(&home, &name) {
                    let _ = home.remove(&name);
                    continue;
                }
                let bytes = bytes_of(&found);
                used_bytes = used_bytes.saturating_add(bytes);
                if name::is_new(&name) {
                    let left = bytes.saturating_sub(written_bytes(&found));
                    coming_bytes = coming_bytes.saturating_add(left);
                }
                if name::is_of_part(&name) {
                    victims.push(Victim {
                        used: (found.st_atime, found.st_atime_nsec.cast_signed()),
                        repository: repository.clone(),
                        bytes,
                        name,
                    });
                }
                if victims.len() > SEED_VICTIMS_MAX {
                    victims.pop();
                }
            }
            if is_empty && is_idle(&home) {
                let _ = ground.remove_below(&repository);
            }
        }
        let mut victims = victims.into_sorted_vec();
        victims.reverse();
        Ok(Room {
            looked: Instant::now(),
            used_bytes,
            coming_bytes,
            victims,
        })
    }

    /// Whether others may have changed much meanwhile.
    pub(super) fn is_old(&self) -> bool {
        self.looked.elapsed() > Duration::from_millis(SEED_LOOK_MS)
    }

    /// Makes room for so many bytes, which count as used then; whether there is any. Those of `kept`, of the
    /// repository in question, stay.
    pub(super) fn make(
        &mut self,
        ground: &Ground,
        (repository, kept): (&str, &HashSet<String>),
        bytes: u64,
        asked: Asked,
    ) -> io::Result<bool> {
        let bounds = Bounds::find(ground, asked)?;
        let allowed = bounds.allowed(self.used_bytes, self.coming_bytes);
        let Some(left) = allowed.checked_sub(bytes) else {
            return Ok(false);
        };
        let is_kept =
            |victim: &Victim| *victim.repository == *repository && kept.contains(&victim.name);
        if self.used_bytes > left {
            // Nothing leaves for what does not fit all the same.
            let may_go = self.victims.iter().filter(|victim| !is_kept(victim));
            let may_go = may_go.map(|victim| victim.bytes).sum();
            if self.used_bytes.saturating_sub(may_go) > left {
                return Ok(false);
            }
            self.shrink(ground, left, is_kept);
        }
        self.used_bytes = self.used_bytes.saturating_add(bytes);
        self.coming_bytes = self.coming_bytes.saturating_add(bytes);
        Ok(self.used_bytes <= allowed)
    }

    /// Has what is too much leave, whoever has brought it.
    pub(super) fn trim(&mut self, ground: &Ground, asked: Asked) -> io::Result<()> {
        let limit_bytes = Bounds::find(ground, asked)?.limit_bytes;
        self.shrink(ground, limit_bytes, |_| false);
        Ok(())
    }

    /// Removes parts until no more than so many bytes are left.
    fn shrink(&mut self, ground: &Ground, left: u64, is_kept: impl Fn(&Victim) -> bool) {
        let mut kept = Vec::new();
        while self.used_bytes > left {
            let Some(victim) = self.victims.pop() else {
                break;
            };
            if is_kept(&victim) {
                kept.push(victim);
                continue;
            }
            // Somebody else may have removed it.
            let home = ground.below(&victim.repository);
            if home.is_ok_and(|home| home.remove(&victim.name).is_ok()) {
                self.used_bytes = self.used_bytes.saturating_sub(victim.bytes);
            }
        }
        self.victims.extend(kept.into_iter().rev());
    }
}

/// Removes what somebody has begun in the directory of a repository who is gone.
pub(super) fn sweep(home: &Ground) {
    for name in home.names().into_iter().flatten() {
        if name::is_new(&name) && is_left(home, &name) {
            let _ = home.remove(&name);
        }
    }
}

/// Whether whoever has begun a file is gone: he has it locked for as long as he lives. Where there are no locks, it is
/// left after a while.
fn is_left(home: &Ground, name: &str) -> bool {
    let Ok(file) = home.read(name) else {
        return false;
    };
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => true,
        Err(rustix::io::Errno::WOULDBLOCK) => false,
        Err(_) => is_idle(&file),
    }
}

/// Whether nobody has changed it for long.
fn is_idle(file: impl std::os::fd::AsFd) -> bool {
    let Ok(found) = rustix::fs::fstat(file) else {
        return false;
    };
    let changed = Duration::from_secs(u64::try_from(found.st_mtime).unwrap_or_default());
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.is_ok_and(|now| now > changed + Duration::from_millis(SEED_IDLE_MS))
}
