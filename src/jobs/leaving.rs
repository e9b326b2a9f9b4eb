//! What may leave the disk when there is too much: snapshots and mirrors, with what it would cost to have
//! them again and who uses them now.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use crate::archive::place::{Archive, Names};
use crate::io::clock::unix_ms;
use crate::limits::MAKING_COST_BYTES;
use crate::manifest::want::Shape;
use crate::repos::catalog::Catalog;
use crate::repos::repo::Repo;
use crate::store::evict::{self, Candidate, Holding};
use crate::store::ledger::{Ledger, Places};

/// A repository, as a sweep sees it.
pub(super) struct Listed {
    pub(super) repo: Arc<Repo>,
    /// Whether nobody works with its mirror.
    pub(super) is_idle: bool,
    /// What single commits of it were fetched into.
    pub(super) tips: Option<ListedTips>,
}

/// A repository of single commits, as a sweep sees it.
pub(super) struct ListedTips {
    pub(super) path: PathBuf,
    /// Whether nobody fetches into it or builds from it.
    pub(super) is_idle: bool,
    pub(super) used_unix_ms: u64,
}

/// Something that may leave.
pub(super) enum Leaver {
    Superseded(Arc<Archive>),
    Tips(Arc<Repo>),
    Snapshot(Arc<Repo>, Arc<Archive>),
    Mirror(Arc<Repo>),
}

/// All that may leave, by repositories.
pub(super) struct Leaving {
    pub(super) holdings: Vec<Holding>,
    pub(super) leavers: HashMap<usize, Leaver>,
    pub(super) shared: Vec<evict::Shared>,
    /// Bytes of what stays, whoever goes.
    pub(super) fixed_bytes: u64,
    /// Each of that with its bytes, the largest first.
    pub(super) fixed: Vec<(PathBuf, u64)>,
    /// Bytes of the largest thing that is being made and may not be kept.
    pub(super) passing_bytes: u64,
}

impl Leaving {
    /// All that these repositories have, and what was replaced.
    pub(super) fn of(catalog: &Catalog, ledger: &Ledger, repos: &[Listed]) -> Leaving {
        let mut retired: HashMap<Arc<str>, Vec<Arc<Archive>>> = HashMap::new();
        for archive in catalog.retired.all() {
            retired
                .entry(archive.repository.clone())
                .or_default()
                .push(archive);
        }
        let mut listing = Listing {
            now: unix_ms(),
            places: Places::new(ledger),
            leavers: HashMap::new(),
            paths: HashSet::new(),
        };
        let mut holdings = Vec::with_capacity(repos.len());
        for listed in repos {
            let replaced = retired.remove(&listed.repo.name).unwrap_or_default();
            holdings.push(listing.holding(listed, replaced));
        }
        // Of repositories of which nothing else is known any more.
        for replaced in retired.into_values() {
            holdings.push(Holding {
                superseded: listing.superseded(replaced),
                ..Holding::default()
            });
        }
        let paths = listing.paths.iter().map(PathBuf::as_path).collect();
        let (fixed_bytes, fixed) = ledger.fixed(&paths);
        Leaving {
            passing_bytes: ledger.largest_passing_bytes(&paths),
            fixed_bytes,
            fixed,
            holdings,
            shared: listing.places.shared().to_vec(),
            leavers: listing.leavers,
        }
    }
}

struct Listing<'l> {
    now: u64,
    places: Places<'l>,
    leavers: HashMap<usize, Leaver>,
    paths: HashSet<PathBuf>,
}

impl Listing<'_> {
    fn holding(&mut self, listed: &Listed, replaced: Vec<Arc<Archive>>) -> Holding {
        let repo = &listed.repo;
        let current = repo.current();
        let used = current
            .as_ref()
            .map_or(0, |archive| archive.last_used_unix_ms());
        let used = used.max(repo.asked.unix_ms());
        let mut others = repo.archives();
        others.retain(|archive| !archive.want.is_default());
        let others = others
            .into_iter()
            .filter_map(|archive| self.other(repo, archive));
        let others = others.collect();
        let snapshot = current.and_then(|archive| {
            let pinned = archive.fanout.readers() > 0 || repo.is_building();
            let (dir, cost) = (archive.dir(), snapshot_cost(&archive));
            let used = archive.last_used_unix_ms();
            self.candidate(
                dir,
                Leaver::Snapshot(repo.clone(), archive),
                pinned,
                cost,
                used,
            )
        });
        let may_go = repo.notes.is_clonable() && repo.is_mirrored();
        let mirror = may_go.then(|| {
            let (dir, pinned) = (repo.mirror.clone(), !listed.is_idle || repo.is_building());
            self.candidate(dir, Leaver::Mirror(repo.clone()), pinned, 0, used)
        });
        let mirror = mirror.flatten().map(|mirror| Candidate {
            cost: mirror_cost(&mirror, self.places.shared()),
            ..mirror
        });
        let tips = listed.tips.as_ref().and_then(|tips| {
            let leaver = Leaver::Tips(repo.clone());
            self.candidate(
                tips.path.clone(),
                leaver,
                !tips.is_idle,
                0,
                tips.used_unix_ms,
            )
        });
        Holding {
            superseded: self.superseded(replaced),
            tips,
            others,
            snapshot,
            mirror,
        }
    }

    /// Something else than what a plain request is answered from.
    fn other(&mut self, repo: &Arc<Repo>, archive: Arc<Archive>) -> Option<Candidate> {
        let pinned = archive.fanout.readers() > 0 || repo.is_building_for(&archive.want);
        let (dir, cost) = (archive.dir(), snapshot_cost(&archive));
        let used = archive.last_used_unix_ms();
        let leaver = Leaver::Snapshot(repo.clone(), archive);
        self.candidate(dir, leaver, pinned, cost, used)
    }

    fn superseded(&mut self, replaced: Vec<Arc<Archive>>) -> Vec<Candidate> {
        let candidate = |archive: Arc<Archive>| {
            let (dir, pinned) = (archive.dir(), archive.fanout.readers() > 0);
            let used = archive.last_used_unix_ms();
            self.candidate(dir, Leaver::Superseded(archive), pinned, 0, used)
        };
        replaced.into_iter().filter_map(candidate).collect()
    }

    fn candidate(
        &mut self,
        path: PathBuf,
        leaver: Leaver,
        pinned: bool,
        cost: u64,
        used_unix_ms: u64,
    ) -> Option<Candidate> {
        let (own_bytes, shared) = self.places.of(&path)?;
        let key = self.leavers.len();
        self.leavers.insert(key, leaver);
        self.paths.insert(path);
        Some(Candidate {
            key,
            own_bytes,
            shared,
            cost,
            idle_ms: self.now.saturating_sub(used_unix_ms),
            pinned,
        })
    }
}

/// What it costs to build a snapshot from nothing: what is in no pack is encoded.
fn snapshot_cost(archive: &Archive) -> u64 {
    let linked = archive.names().into_iter().flat_map(Names::files);
    // One of its own is made, too.
    let is_full = archive.want.shape() == Shape::Full;
    let packs = linked.filter(|file| is_full && file.whole.is_none());
    let packs_bytes: u64 = packs.map(|file| file.bytes).sum();
    MAKING_COST_BYTES + archive.fanout.wire_bytes().saturating_sub(packs_bytes)
}

/// What it costs to clone a mirror.
fn mirror_cost(mirror: &Candidate, shared: &[evict::Shared]) -> u64 {
    let files = mirror.shared.iter().map(|file| shared[*file].bytes);
    let bytes = mirror.own_bytes + files.sum::<u64>();
    MAKING_COST_BYTES + bytes
}
