//! Repositories and what there is of each: sharded by name, one short lock a shard.
//!
//! The critical sections are a few field reads and writes, without allocation on a hit; no lock
//! is held across an await. (A message to a home core for each request was the plan; it costs
//! two cross-core wake-ups of 12 µs each where this costs an uncontended lock.)

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::repo::{First, Repo};
use crate::config::RepoKey;
use crate::limits::REPOSITORIES_BARE_MAX;

/// The repositories of a shard by host and path.
///
/// Invariant: of those that are bare and that nobody holds, there are at most as many as of all
/// others, or [`REPOSITORIES_BARE_MAX`]: whoever asks for many names that do not exist costs no
/// memory that grows with them.
#[derive(Debug, Default)]
struct Shard {
    hosts: HashMap<Box<str>, HashMap<Box<str>, Arc<Repo>>>,
    len: usize,
    /// Length at which bare ones are looked for.
    look_at_len: usize,
}

impl Shard {
    fn get(&self, host: &str, path: &str) -> Option<&Arc<Repo>> {
        self.hosts.get(host)?.get(path)
    }

    fn add(&mut self, host: &str, path: &str, repo: Arc<Repo>) {
        if self.len >= self.look_at_len.max(REPOSITORIES_BARE_MAX) {
            self.drop_bare();
            self.look_at_len = 2 * self.len;
        }
        let paths = self.hosts.entry(host.into()).or_default();
        paths.insert(path.into(), repo);
        self.len += 1;
    }

    /// Drops what is only a name. One that somebody holds stays: there must never be two of one
    /// repository. Under the shard's lock nobody can come to hold it.
    fn drop_bare(&mut self) {
        let is_kept = |repo: &Arc<Repo>| Arc::strong_count(repo) > 1 || !repo.is_bare();
        self.hosts.retain(|_, paths| {
            paths.retain(|_, repo| is_kept(repo));
            !paths.is_empty()
        });
        self.len = self.hosts.values().map(HashMap::len).sum();
    }
}

/// Who holds a repository that nobody uses: the registry, and who asks.
const HELD_ALONE: usize = 2;

/// All repositories that were asked for or found.
#[derive(Debug)]
pub(crate) struct Registry {
    shards: Vec<Mutex<Shard>>,
    hasher: RandomState,
}

impl Registry {
    /// An empty registry with a shard for each core.
    pub(crate) fn new(cores: usize) -> Registry {
        let shards = (0..cores.max(1)).map(|_| Mutex::default());
        Registry {
            shards: shards.collect(),
            hasher: RandomState::new(),
        }
    }

    fn shard(&self, host: &str, path: &str) -> MutexGuard<'_, Shard> {
        let hash = self.hasher.hash_one((host, path)) as usize;
        let shard = &self.shards[hash % self.shards.len()];
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, host: &str, path: &str) -> Option<Arc<Repo>> {
        self.shard(host, path).get(host, path).cloned()
    }

    /// The repository, if it is known.
    pub(crate) fn get(&self, key: &RepoKey<'_>) -> Option<Arc<Repo>> {
        self.find(key.host(), key.path())
    }

    /// The same by the name of one that was known before ([`Repo::name`]).
    pub(crate) fn named(&self, name: &str) -> Option<Arc<Repo>> {
        let (host, path) = name.split_once('/')?;
        self.find(host, path)
    }

    /// The repository; made known if it is not, as `first` says.
    pub(crate) fn get_or_add(&self, key: &RepoKey<'_>, first: impl FnOnce() -> First) -> Arc<Repo> {
        let (host, path) = (key.host(), key.path());
        let mut shard = self.shard(host, path);
        if let Some(repo) = shard.get(host, path) {
            return repo.clone();
        }
        let repo = Arc::new(Repo::new(key.name(), first()));
        shard.add(host, path, repo.clone());
        repo
    }

    /// Whether nobody but the caller holds this repository. One that is known by now holds it no more;
    /// whoever comes to hold it later finds it here.
    pub(crate) fn is_alone(&self, repo: &Arc<Repo>) -> bool {
        let Some((host, path)) = repo.name.split_once('/') else {
            return false;
        };
        let _shard = self.shard(host, path);
        Arc::strong_count(repo) <= HELD_ALONE
    }

    /// Forgets a repository that is nothing but a name and that nobody else holds.
    pub(crate) fn forget(&self, repo: Arc<Repo>) {
        let Some((host, path)) = repo.name.split_once('/') else {
            return;
        };
        let mut shard = self.shard(host, path);
        if Arc::strong_count(&repo) > HELD_ALONE || !repo.is_bare() {
            return;
        }
        if let Some(paths) = shard.hosts.get_mut(host) {
            let is_last = paths.remove(path).is_some() && paths.is_empty();
            shard.len -= 1;
            if is_last {
                shard.hosts.remove(host);
            }
        }
    }

    /// All repositories.
    pub(crate) fn all(&self) -> Vec<Arc<Repo>> {
        let shard = |shard: &Mutex<Shard>| {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard
                .hosts
                .values()
                .flat_map(HashMap::values)
                .cloned()
                .collect::<Vec<_>>()
        };
        self.shards.iter().flat_map(shard).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repos::repo::Found;
    use crate::repos::testing::archive;

    /// A mirror goes only when nobody is about to use it.
    #[test]
    fn what_somebody_holds_is_not_alone() {
        let registry = Registry::new(2);
        let key = RepoKey::of_test("host", "path");
        let repo = registry.get_or_add(&key, First::default);
        assert!(registry.is_alone(&repo));
        let held = registry.get(&key).unwrap();
        assert!(!registry.is_alone(&repo));
        registry.forget(held);
        assert!(registry.get(&key).is_some(), "another one holds it");
        repo.set_kept();
        assert!(repo.leave_mirror());
        registry.forget(repo);
        assert!(registry.named("host/path").is_none());
        assert!(registry.all().is_empty());
    }

    /// Names that nobody has anything of go, whatever their number; what is in use or has a
    /// mirror, an archive or a build stays, and stays the same.
    #[test]
    fn names_alone_are_not_kept() {
        let registry = Registry::new(2);
        let add = |path: &str| {
            let key = RepoKey::of_test("host", path);
            registry.get_or_add(&key, First::default)
        };
        let (mirrored, current, building) = (add("mirrored"), add("current"), add("building"));
        mirrored.set_kept();
        current.publish(archive(1), current.epoch());
        let Found::Vacant(permit) = building.find(None) else {
            panic!("something is there");
        };
        let held = add("held");
        let ours = [&mirrored, &current, &building, &held].map(Arc::as_ptr);
        drop((mirrored, current, building));
        for number in 0..100_000 {
            add(&format!("absent{number}"));
        }
        let left = registry.all().len();
        assert!(left <= 2 * (REPOSITORIES_BARE_MAX + 4), "{left} are left");
        for (path, ptr) in ["mirrored", "current", "building", "held"]
            .into_iter()
            .zip(ours)
        {
            let found = registry.named(&format!("host/{path}"));
            assert_eq!(found.map(|repo| Arc::as_ptr(&repo)), Some(ptr), "{path}");
        }
        drop(permit);
    }
}
