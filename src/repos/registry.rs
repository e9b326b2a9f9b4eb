//! Repositories and what there is of each: sharded by name, one short lock a shard.
//!
//! The critical sections are a few field reads and writes, without allocation on a hit; no lock
//! is held across an await. (A message to a home core for each request was the plan; it costs
//! two cross-core wake-ups of 12 µs each where this costs an uncontended lock.)

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gix::bstr::BString;
use sha2::{Digest, Sha256};
use tokio::sync::{RwLock, watch};

use crate::archive::place::Archive;
use crate::limits::{BUILD_RETRY_MAX_MS, BUILD_RETRY_MS, REPOSITORIES_BARE_MAX};
use crate::refs::{Head, MirrorRefs};

/// Why a request for a snapshot could not be answered, as the client hears it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct StartError {
    /// HTTP status.
    pub status: u16,
    /// One line that says what to do.
    pub message: String,
}

/// A build's beginning: the archive that grows, or why there is none.
pub type Started = Result<Arc<Archive>, StartError>;

/// Hears of a build's beginning.
pub type Ticket = watch::Receiver<Option<Started>>;

/// A repository.
#[derive(Debug)]
pub struct Repo {
    /// `host/path`.
    pub name: Arc<str>,
    /// The mirror's directory.
    pub mirror: PathBuf,
    /// Where the mirror is cloned from; also the URL of `origin` in its archives.
    pub url: String,
    /// Read while pinning, written while refs change or packs go.
    pub pins: RwLock<()>,
    /// Held while a build packs loose objects, and while what failed fetches left is removed: that
    /// looks the same as a pack in the making.
    pub packing: tokio::sync::Mutex<()>,
    state: Mutex<RepoState>,
}

#[derive(Debug, Default)]
struct RepoState {
    current: Option<Arc<Archive>>,
    builds: Builds,
    fresh_unix_ms: Option<u64>,
    /// When the last comparison with the upstream that succeeded began.
    compared: Option<Instant>,
    /// When the last comparison with the upstream failed, and how, unless one succeeded since.
    failed: Option<(Instant, StartError)>,
    head: Option<Arc<MirrorHead>>,
    /// How often the mirror's refs have moved, as far as was seen.
    moves: Moves,
    /// The same when the current archive's build looked at them.
    shown: Moves,
    /// Whether they are known to be others than those of the current archive, though no move was
    /// seen.
    is_outdated: bool,
    /// Whether there is a mirror that is kept like its upstream.
    mirrored: bool,
    /// When the last clone failed, and how.
    not_cloned: Option<(Instant, StartError)>,
    /// How the builds since the last one that succeeded failed.
    not_built: Option<NotBuilt>,
    /// When the upstream was last asked whether it leads back to a server that waits.
    way_asked: Option<Instant>,
}

/// The builds that run.
#[derive(Debug, Default)]
enum Builds {
    #[default]
    None,
    /// The one that everybody follows.
    One(Ticket),
    /// The first is live-only, and its clients are slow: who asked then got another one, and who asks
    /// now follows that.
    Two { slow: Ticket, newer: Ticket },
}

impl Builds {
    /// The one that a request can follow; `None` if it may have another one instead.
    fn to_follow(&self) -> Option<&Ticket> {
        match self {
            Builds::None => None,
            Builds::One(ticket) => (!is_slow(ticket)).then_some(ticket),
            Builds::Two { newer, .. } => Some(newer),
        }
    }

    fn add(&mut self, ticket: Ticket) {
        *self = match std::mem::take(self) {
            Builds::None => Builds::One(ticket),
            Builds::One(slow) | Builds::Two { slow, .. } => Builds::Two {
                slow,
                newer: ticket,
            },
        };
    }

    fn remove(&mut self, ticket: &Ticket) {
        *self = match std::mem::take(self) {
            Builds::One(one) if one.same_channel(ticket) => Builds::None,
            Builds::Two { slow, newer } if slow.same_channel(ticket) => Builds::One(newer),
            Builds::Two { slow, newer } if newer.same_channel(ticket) => Builds::One(slow),
            others => others,
        };
    }
}

/// Whether a build goes on at the pace of slow clients only.
fn is_slow(ticket: &Ticket) -> bool {
    let started = ticket.borrow();
    matches!(&*started, Some(Ok(archive)) if archive.fanout.is_slow())
}

/// Builds that failed, one after the other.
#[derive(Debug)]
struct NotBuilt {
    count: u32,
    /// When the last of them failed, and how.
    at: Instant,
    why: String,
}

impl NotBuilt {
    /// How long there is no further build yet: after one failure the next request builds anew.
    fn left(&self) -> Duration {
        let doubled = match self.count {
            0 | 1 => 0,
            more => BUILD_RETRY_MS << (more - 2).min(16),
        };
        let all = Duration::from_millis(doubled.min(BUILD_RETRY_MAX_MS));
        all.saturating_sub(self.at.elapsed())
    }
}

/// How often the refs of a mirror have moved. A count, no time: clocks are set back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moves(u64);

/// What the HEAD of a mirror is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MirrorHead {
    /// Full name of the branch that it names; `None` if it is detached.
    pub branch: Option<BString>,
    /// The commit as lower-case hex; `None` when HEAD points nowhere.
    pub commit: Option<String>,
}

impl MirrorHead {
    /// The HEAD among a mirror's refs.
    pub fn of(refs: &MirrorRefs) -> MirrorHead {
        let branch = match &refs.head {
            Head::Symbolic(name) => Some(name.clone()),
            Head::Detached(_) => None,
        };
        MirrorHead {
            branch,
            commit: refs.head_id().map(|id| id.to_string()),
        }
    }
}

/// What a request finds.
#[derive(Debug)]
pub enum Found {
    /// An archive that is whole.
    Hit(Arc<Archive>),
    /// A build that others started, and that is not held up by slow clients.
    Following(Ticket),
    /// Nothing; whoever holds the permit is to build.
    Vacant(Permit),
    /// Nothing, and builds have failed again and again: this is why.
    Failing(StartError),
}

/// The right, and the duty, to build a repository's snapshot: there is one at a time, or two if the
/// first is not kept and held up by its clients. Dropping it ends the build for everybody.
#[derive(Debug)]
pub struct Permit {
    repo: Arc<Repo>,
    sender: watch::Sender<Option<Started>>,
}

impl Permit {
    /// The repository.
    pub fn repo(&self) -> &Arc<Repo> {
        &self.repo
    }

    /// A ticket for a further listener.
    pub fn ticket(&self) -> Ticket {
        self.sender.subscribe()
    }

    /// Tells everybody what there is to read.
    pub fn started(&self, started: Started) {
        self.sender.send_replace(Some(started));
    }
}

impl Permit {
    /// Ends the build before it began. Whoever asks after having heard of it finds no build.
    pub fn refuse(self, why: StartError) {
        self.end();
        self.started(Err(why));
    }

    fn end(&self) {
        let own = self.sender.subscribe();
        self.repo.lock().builds.remove(&own);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.end();
        self.sender.send_if_modified(|started| {
            let unheard = started.is_none();
            if unheard {
                *started = Some(Err(StartError {
                    status: 500,
                    message: "the build ended before it began; try again".into(),
                }));
            }
            unheard
        });
    }
}

impl Repo {
    /// The state is changed in single assignments, so a panic cannot leave it half done.
    fn lock(&self) -> MutexGuard<'_, RepoState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What there is; makes the caller the builder if there is nothing.
    pub fn find(self: &Arc<Self>) -> Found {
        let mut state = self.lock();
        if let Some(current) = &state.current {
            return Found::Hit(current.clone());
        }
        if let Some(build) = state.builds.to_follow() {
            return Found::Following(build.clone());
        }
        if let Some(failed) = &state.not_built
            && let left = failed.left()
            && !left.is_zero()
        {
            return Found::Failing(self.failing(failed, left));
        }
        Found::Vacant(self.permit(&mut state))
    }

    /// Whether whoever asks now would follow the build of `ticket`.
    pub fn follows(&self, ticket: &Ticket) -> bool {
        let state = self.lock();
        let build = state.builds.to_follow();
        state.current.is_none() && build.is_some_and(|build| build.same_channel(ticket))
    }

    fn failing(&self, failed: &NotBuilt, left: Duration) -> StartError {
        let (name, count, why) = (&self.name, failed.count, &failed.why);
        let left_s = left.as_secs() + 1;
        StartError {
            status: 500,
            message: format!(
                "cannot build a snapshot of {name}: {why}; {count} tries failed, the next one can \
                 begin in {left_s} s"
            ),
        }
    }

    /// The right to build a newer snapshot while the current one is served; `None` if the
    /// current one is as new as the mirror, if there is none, if a build runs already, or if
    /// builds fail again and again.
    pub fn rebuild(self: &Arc<Self>) -> Option<Permit> {
        let mut state = self.lock();
        state.current.as_ref()?;
        let is_stale = state.is_outdated || state.shown < state.moves;
        let is_failing = state
            .not_built
            .as_ref()
            .is_some_and(|f| !f.left().is_zero());
        let is_idle = matches!(state.builds, Builds::None);
        (is_stale && !is_failing && is_idle).then(|| self.permit(&mut state))
    }

    /// The mirror's refs have moved, just now or during the build that runs.
    pub fn set_moved(&self) {
        let mut state = self.lock();
        state.moves.0 += 1;
        // What is there now may be built.
        state.not_built = None;
    }

    /// The moves so far. A build asks before it looks at the refs.
    pub fn moves(&self) -> Moves {
        self.lock().moves
    }

    /// A digest of what an archive shows besides objects: the mirror's refs, and where it is from.
    pub fn digest(&self, refs: &MirrorRefs) -> [u8; 32] {
        let both = Sha256::new().chain_update(refs.digest());
        both.chain_update(&self.url).finalize().into()
    }

    /// The mirror has refs of this digest now. If the current snapshot shows others, they moved:
    /// perhaps unseen, as when the server ended before the build that should have followed a
    /// fetch, or when somebody put another mirror there. A build that runs may have begun after
    /// they moved, and no other must follow it.
    pub fn compare_refs(&self, digest: &[u8; 32]) {
        let mut state = self.lock();
        let current = state.current.as_ref();
        if current.is_some_and(|current| current.refs_digest != *digest) {
            state.is_outdated = true;
        }
    }

    fn permit(self: &Arc<Self>, state: &mut RepoState) -> Permit {
        let (sender, receiver) = watch::channel(None);
        state.builds.add(receiver);
        Permit {
            repo: self.clone(),
            sender,
        }
    }

    /// The current archive.
    pub fn current(&self) -> Option<Arc<Archive>> {
        self.lock().current.clone()
    }

    /// Makes `archive` the current one, whose build began after `shown` moves; returns the one
    /// before.
    pub fn publish(&self, archive: Arc<Archive>, shown: Moves) -> Option<Arc<Archive>> {
        let mut state = self.lock();
        state.shown = shown;
        state.is_outdated = false;
        state.not_built = None;
        state.current.replace(archive)
    }

    /// Takes the current archive away if it is `archive` and nobody reads it.
    pub fn take_idle(&self, archive: &Arc<Archive>) -> bool {
        let mut state = self.lock();
        let same = state
            .current
            .as_ref()
            .is_some_and(|c| Arc::ptr_eq(c, archive));
        if same && archive.fanout.readers() == 0 {
            state.current = None;
            return true;
        }
        false
    }

    /// Forgets `archive` if it is the current one, for it turned out not to be readable.
    /// Whether it was.
    pub fn forget(&self, archive: &Arc<Archive>) -> bool {
        let mut state = self.lock();
        let current = state.current.take_if(|c| Arc::ptr_eq(c, archive));
        current.is_some()
    }

    /// The same for one that was found damaged. If it was, and nobody builds, the right to build
    /// another one: as long as it is held nothing is published.
    pub fn condemn(self: &Arc<Self>, archive: &Arc<Archive>) -> Option<Permit> {
        let mut state = self.lock();
        let current = state.current.take_if(|c| Arc::ptr_eq(c, archive));
        let is_free = current.is_some() && matches!(state.builds, Builds::None);
        is_free.then(|| self.permit(&mut state))
    }

    /// The mirror was found to be like its upstream, or made so, by a comparison that began at
    /// these two readings of the clock.
    pub fn set_fresh(&self, unix_ms: u64, began: Instant) {
        let mut state = self.lock();
        state.fresh_unix_ms = Some(unix_ms);
        state.compared = Some(began);
        state.failed = None;
    }

    /// Whether a comparison with the upstream that began at `since` or later has succeeded.
    pub fn is_fresh_since(&self, since: Instant) -> bool {
        self.lock().compared.is_some_and(|began| began >= since)
    }

    /// A comparison with the upstream failed just now.
    pub fn set_failed(&self, why: StartError) {
        self.lock().failed = Some((Instant::now(), why));
    }

    /// How the last comparison failed, if that was at `since` or later and none succeeded since.
    pub fn failed_since(&self, since: Instant) -> Option<StartError> {
        let state = self.lock();
        let (at, why) = state.failed.as_ref()?;
        (*at >= since).then(|| why.clone())
    }

    /// Takes the right to ask the upstream whether it leads back to a server that waits: once in so
    /// long, however many wait. Fails with what is left of that time.
    pub fn may_ask_way(&self, interval: Duration) -> Result<(), Duration> {
        let mut state = self.lock();
        let asked = state.way_asked.map(|at| at.elapsed());
        match asked.and_then(|ago| interval.checked_sub(ago)) {
            Some(left) if !left.is_zero() => Err(left),
            _ => {
                state.way_asked = Some(Instant::now());
                Ok(())
            }
        }
    }

    /// The mirror could not be cloned just now.
    pub fn set_not_cloned(&self, why: StartError) {
        self.lock().not_cloned = Some((Instant::now(), why));
    }

    /// How the last clone failed, if that was less than `age_ms` ago. Names that are only
    /// remembered for this are bounded like all bare ones (see [`REPOSITORIES_BARE_MAX`]).
    pub fn not_cloned_lately(&self, age_ms: u64) -> Option<StartError> {
        let state = self.lock();
        let (at, why) = state.not_cloned.as_ref()?;
        (at.elapsed() < Duration::from_millis(age_ms)).then(|| why.clone())
    }

    /// A build has failed just now.
    pub fn set_not_built(&self, why: &str) {
        let mut state = self.lock();
        let before = state.not_built.as_ref().map_or(0, |failed| failed.count);
        state.not_built = Some(NotBuilt {
            count: before.saturating_add(1),
            at: Instant::now(),
            why: why.to_owned(),
        });
    }

    /// Whether the last build failed and nothing has moved since.
    pub fn is_failing(&self) -> bool {
        self.lock().not_built.is_some()
    }

    /// A build has succeeded whose archive is not kept; [`Repo::publish`] notes the others.
    pub fn set_built(&self) {
        self.lock().not_built = None;
    }

    /// The mirror's HEAD, once it is known.
    pub fn head(&self) -> Option<Arc<MirrorHead>> {
        self.lock().head.clone()
    }

    /// Notes the mirror's HEAD.
    pub fn set_head(&self, head: Arc<MirrorHead>) {
        self.lock().head = Some(head);
    }

    /// Notes the mirror's HEAD unless it is known, for it may have moved since it was read.
    pub fn set_first_head(&self, head: Arc<MirrorHead>) {
        self.lock().head.get_or_insert(head);
    }

    /// Whether there is a mirror that is kept like its upstream: such a repository stays known.
    pub fn set_mirrored(&self, mirrored: bool) {
        let mut state = self.lock();
        state.mirrored = mirrored;
        if !mirrored {
            // Another mirror, when there is one, may have another.
            state.head = None;
        }
    }

    /// See [`Repo::set_mirrored`].
    pub fn is_mirrored(&self) -> bool {
        self.lock().mirrored
    }

    /// Whether there is nothing of it but its name.
    fn is_bare(&self) -> bool {
        let state = self.lock();
        let is_idle = matches!(state.builds, Builds::None);
        !state.mirrored && state.current.is_none() && is_idle
    }

    /// When the mirror was last like its upstream, as far as is known.
    pub fn fresh_unix_ms(&self) -> Option<u64> {
        self.lock().fresh_unix_ms
    }
}

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

/// All repositories that were asked for or found.
#[derive(Debug)]
pub struct Registry {
    shards: Vec<Mutex<Shard>>,
    hasher: RandomState,
}

impl Registry {
    /// An empty registry with a shard for each core.
    pub fn new(cores: usize) -> Registry {
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

    /// The repository, if it is known.
    pub fn get(&self, host: &str, path: &str) -> Option<Arc<Repo>> {
        self.shard(host, path).get(host, path).cloned()
    }

    /// The repository; made known if it is not.
    pub fn get_or_add(
        &self,
        host: &str,
        path: &str,
        mirror: impl FnOnce() -> PathBuf,
        url: impl FnOnce() -> String,
    ) -> Arc<Repo> {
        let mut shard = self.shard(host, path);
        if let Some(repo) = shard.get(host, path) {
            return repo.clone();
        }
        let repo = Arc::new(Repo {
            name: Arc::from(format!("{host}/{path}")),
            mirror: mirror(),
            url: url(),
            pins: RwLock::new(()),
            packing: tokio::sync::Mutex::default(),
            state: Mutex::default(),
        });
        shard.add(host, path, repo.clone());
        repo
    }

    /// All repositories.
    pub fn all(&self) -> Vec<Arc<Repo>> {
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
    use crate::archive::fanout::ReaderHandle;
    use crate::manifest::id::EntryId;

    fn repo() -> Arc<Repo> {
        let registry = Registry::new(1);
        registry.get_or_add("host", "path", PathBuf::new, String::new)
    }

    fn archive(created_unix_ms: u64) -> Arc<Archive> {
        let id = EntryId::from_bytes(u128::from(created_unix_ms).to_le_bytes());
        let name = Arc::from("host/path");
        Arc::new(Archive::growing(
            id,
            name,
            None,
            [0; 32],
            created_unix_ms,
            Vec::new(),
        ))
    }

    /// Names that nobody has anything of go, whatever their number; what is in use or has a
    /// mirror, an archive or a build stays, and stays the same.
    #[test]
    fn names_alone_are_not_kept() {
        let registry = Registry::new(2);
        let add = |path: &str| registry.get_or_add("host", path, PathBuf::new, String::new);
        let (mirrored, current, building) = (add("mirrored"), add("current"), add("building"));
        mirrored.set_mirrored(true);
        current.publish(archive(1), current.moves());
        let Found::Vacant(permit) = building.find() else {
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
            let found = registry.get("host", path);
            assert_eq!(found.map(|repo| Arc::as_ptr(&repo)), Some(ptr), "{path}");
        }
        drop(permit);
    }

    #[test]
    fn what_moves_during_a_build_is_built_after_it() {
        let repo = repo();
        repo.set_moved();
        assert!(repo.rebuild().is_none(), "nobody asked for it");
        repo.publish(archive(10), repo.moves());
        assert!(repo.rebuild().is_none(), "built after it moved");
        repo.set_moved();
        let permit = repo.rebuild().unwrap();
        let shown = repo.moves();
        repo.set_moved();
        assert!(repo.rebuild().is_none(), "a build runs");
        // Its date is of no account: the clock was set back.
        repo.publish(archive(3), shown);
        drop(permit);
        drop(repo.rebuild().unwrap());
        // A build that failed is tried again.
        assert!(repo.rebuild().is_some());
    }

    #[test]
    fn refs_that_moved_unseen_are_built_once() {
        let repo = repo();
        repo.compare_refs(&[1; 32]);
        repo.publish(archive(10), repo.moves());
        assert!(repo.rebuild().is_none(), "there was nothing to compare");
        repo.compare_refs(&[0; 32]);
        assert!(repo.rebuild().is_none(), "they are the same");
        repo.compare_refs(&[1; 32]);
        let permit = repo.rebuild().unwrap();
        // The build has seen these already.
        repo.compare_refs(&[1; 32]);
        repo.publish(archive(11), repo.moves());
        drop(permit);
        assert!(repo.rebuild().is_none(), "built twice");
        repo.set_moved();
        let permit = repo.rebuild().unwrap();
        repo.publish(archive(12), repo.moves());
        drop(permit);
        assert!(repo.rebuild().is_none(), "built twice");
    }

    /// One failure keeps nobody from trying again; from the second on all hear why, until the
    /// wait is over, something moved or a build succeeded.
    #[test]
    fn builds_that_fail_again_and_again_wait() {
        let repo = repo();
        repo.set_not_built("torn");
        assert!(matches!(repo.find(), Found::Vacant(_)));
        repo.set_not_built("rotten");
        let Found::Failing(why) = repo.find() else {
            panic!("it is tried at once");
        };
        assert_eq!(why.status, 500);
        assert!(why.message.contains("host/path: rotten; 2 tries"), "{why}");
        repo.set_moved();
        assert!(matches!(repo.find(), Found::Vacant(_)), "another content");
        for _ in 0..2 {
            repo.set_not_built("rotten");
        }
        repo.set_built();
        assert!(matches!(repo.find(), Found::Vacant(_)));
        let failed = |count, ago_ms| NotBuilt {
            count,
            at: Instant::now() - Duration::from_millis(ago_ms),
            why: String::new(),
        };
        assert!(failed(2, BUILD_RETRY_MS).left().is_zero());
        assert!(!failed(3, BUILD_RETRY_MS).left().is_zero());
        assert!(!failed(u32::MAX, BUILD_RETRY_MAX_MS / 2).left().is_zero());
        assert!(failed(u32::MAX, BUILD_RETRY_MAX_MS).left().is_zero());
    }

    /// A live-only archive whose producer waits for a reader that takes nothing, on a thread of its own
    /// that ends with the archive.
    fn held_up() -> (Arc<Archive>, ReaderHandle) {
        let slow = archive(1);
        let reader = slow.fanout.join(0).unwrap();
        slow.fanout.spool_failed("full");
        let fanout = slow.fanout.clone();
        std::thread::spawn(move || while fanout.push_piece(Arc::new(vec![0; 1 << 20])).is_ok() {});
        let began = Instant::now();
        while !slow.fanout.is_slow() {
            assert!(began.elapsed() < Duration::from_secs(30), "it is not slow");
            std::thread::sleep(Duration::from_millis(10));
        }
        (slow, reader)
    }

    /// Whoever asks while slow readers hold up a build gets another one; there are two at most.
    #[test]
    fn a_build_that_readers_hold_up_is_not_the_only_one() {
        let repo = repo();
        let vacant = || match repo.find() {
            Found::Vacant(permit) => permit,
            other => panic!("{other:?}"),
        };
        let is_followed = |permit: &Permit| match repo.find() {
            Found::Following(ticket) => ticket.same_channel(&permit.ticket()),
            other => panic!("{other:?}"),
        };
        let (first, (slow, reader)) = (vacant(), held_up());
        assert!(is_followed(&first), "it has not begun");
        first.started(Ok(slow.clone()));
        assert!(!repo.follows(&first.ticket()));
        let second = vacant();
        assert!(is_followed(&second));
        second.started(Ok(slow.clone()));
        assert!(is_followed(&second), "a third one");
        assert!(repo.rebuild().is_none());
        drop(first);
        let third = vacant();
        assert!(is_followed(&third));
        drop((second, third));
        drop(vacant());
        slow.fanout.fail("over");
        drop(reader);
    }

    #[test]
    fn a_permit_ends_its_own_build_and_no_other() {
        let repo = repo();
        let Found::Vacant(first) = repo.find() else {
            panic!("something is there");
        };
        let Found::Following(ticket) = repo.find() else {
            panic!("nothing runs");
        };
        assert!(matches!(repo.find(), Found::Following(_)));
        let refused = StartError {
            status: 404,
            message: "not there".into(),
        };
        first.refuse(refused.clone());
        assert_eq!(
            ticket.borrow().as_ref().unwrap().as_ref().unwrap_err(),
            &refused
        );
        let Found::Vacant(dropped) = repo.find() else {
            panic!("the refused build did not end");
        };
        let ticket = dropped.ticket();
        drop(dropped);
        let heard = ticket.borrow().clone();
        assert_eq!(heard.unwrap().unwrap_err().status, 500);
        let Found::Vacant(second) = repo.find() else {
            panic!("the build did not end");
        };
        let current = archive(1);
        repo.publish(current.clone(), repo.moves());
        drop(second);
        assert!(matches!(repo.find(), Found::Hit(_)));
        assert!(!repo.forget(&archive(1)), "another one of the same id");
        let reader = current.fanout.join(0).unwrap();
        assert!(!repo.take_idle(&current), "it is read");
        drop(reader);
        assert!(repo.take_idle(&current));
        assert!(!repo.forget(&current));
    }
}
