//! What another server has shared is lent to those who have begun with it there, where this one does not know it, or has
//! something newer: behind a balancer the parts of one manifest, and the ranges of one archive, are asked for at any server.
//!
//! Nothing comes but what somebody reads, and what he reads first comes first. It is no entry of the cache: it lies in an entry in
//! the making, and goes a minute after its last reader. What may be lent the head says each time, as it was read a moment ago: what
//! has expired is lent to nobody.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::{JoinSet, spawn_blocking, spawn_local};

use super::download::{Bringing, Fetched, Files, Known};
use super::import::read_known;
use super::loans::{Key, Read};
use super::shared::{ShareError, Shared, causes, place_of};
use super::state::Jobs;
use crate::archive::place::Archive;
use crate::limits::{
    DOWNLOAD_PIECE_BYTES, DOWNLOADS_AT_ONCE, LENT_KEPT_MS, LENT_LOOK_MS, LENT_MAX, LENT_TIDY_MS,
    STORE_FIRST_WAIT_MS,
};
use crate::manifest::want::Want;
use crate::repos::repo::Repo;
use crate::store::remote::head::{Head, Snapshot};

impl Jobs {
    /// The archive of a shared snapshot that has a part of this name.
    pub(crate) async fn lend_with(
        self: Rc<Self>,
        repo: Arc<Repo>,
        part: String,
    ) -> Option<Arc<Archive>> {
        let has_it = |snapshot: &Snapshot| snapshot.parts.iter().any(|key| key.name() == part);
        self.lend_found(repo, has_it).await
    }

    /// The archive of a shared snapshot with this id.
    pub(crate) async fn lend(self: Rc<Self>, repo: Arc<Repo>, id: String) -> Option<Arc<Archive>> {
        self.lend_found(repo, |snapshot| snapshot.id == id).await
    }

    /// The ids of the snapshots that can be lent. That of a plain request is taken and kept where nothing of it is here.
    pub(crate) async fn lendable(self: Rc<Self>, repo: Arc<Repo>) -> Vec<String> {
        let Some(shared) = &self.shared else {
            return Vec::new();
        };
        let head = self.head_to_lend(shared, &repo).await;
        let is_bare = !repo.mirror.is_dir() && !repo.has_snapshot();
        let all = head.iter().flat_map(|head| self.lent_of(shared, head));
        let all = all.filter(|it| !is_bare || it.replaced_unix_ms.is_some());
        all.map(|it| it.id.clone()).collect()
    }

    /// The snapshots of a head that this server could have made, and may serve.
    fn lent_of<'h>(
        &self,
        shared: &Shared,
        head: &'h Head,
    ) -> impl Iterator<Item = &'h Snapshot> + use<'h> {
        let about = shared.about(&Want::default());
        let all = head.snapshots.iter();
        all.filter(move |it| it.about == about && head.is_valid(it))
    }

    async fn lend_found(
        self: Rc<Self>,
        repo: Arc<Repo>,
        is_it: impl Fn(&Snapshot) -> bool,
    ) -> Option<Arc<Archive>> {
        let shared = self.shared.as_ref()?;
        let head = self.head_to_lend(shared, &repo).await?;
        let found = self.lent_of(shared, &head).find(|it| is_it(it))?.clone();
        let key = (repo.name.clone(), found.id.clone());
        if let Some(archive) = self.lent.running.borrow().get(&key) {
            archive.note_borrowed();
            return Some(archive.clone());
        }
        let (flight, duty) = self.lent.making.join(&key);
        if let Some(duty) = duty {
            // Whoever has asked may leave.
            let (jobs, head) = (self.clone(), head.clone());
            spawn_local(async move {
                let begun = jobs.clone().begin_to_lend(repo, (&head, found), key).await;
                duty.done(begun);
            });
        }
        flight.end().await.flatten()
    }

    /// The head of a repository as it was a moment ago, if this server may serve what it names.
    async fn head_to_lend(&self, shared: &Shared, repo: &Arc<Repo>) -> Option<Rc<Head>> {
        if !self.is_shared(repo) {
            return None;
        }
        let slot = self.lent.slot(&repo.name);
        let mut read = slot.lock().await;
        let young = Duration::from_millis(self.faults.store_look_ms.unwrap_or(LENT_LOOK_MS));
        if let Some(read) = read.as_ref().filter(|read| read.at.elapsed() < young) {
            return read.head.clone();
        }
        let (place, limit) = (place_of(repo), Duration::from_millis(STORE_FIRST_WAIT_MS));
        let look = async {
            let base = shared.base(&repo.name, &place).await?;
            let is_due = shared.memories.due(&place).await?.is_some();
            let may_be = base.is_there() && !base.is_below() && !is_due;
            Ok::<_, ShareError>(may_be.then(|| Rc::new(base.head)))
        };
        let head = match shared.objects.rests() {
            true => None,
            false => tokio::time::timeout(limit, look).await.ok(),
        };
        let head = head.and_then(Result::ok).flatten();
        // A store that does not answer is not asked again for a while, either.
        let (at, seen) = (Instant::now(), head.clone());
        *read = Some(Read { at, head: seen });
        head
    }

    async fn begin_to_lend(
        self: Rc<Self>,
        repo: Arc<Repo>,
        (head, snapshot): (&Head, Snapshot),
        key: Key,
    ) -> Option<Arc<Archive>> {
        let shared = self.shared.as_ref()?;
        if self.lent.running.borrow().len() >= LENT_MAX {
            return None;
        }
        let limit = Duration::from_millis(STORE_FIRST_WAIT_MS);
        let made = self.make_lent(shared, &repo, (head, snapshot.clone()));
        let made = tokio::time::timeout(limit, made).await;
        let wait_ms = STORE_FIRST_WAIT_MS;
        match made.unwrap_or(Err(ShareError::Slow { wait_ms })) {
            Ok(bringing) => {
                let archive = bringing.archive();
                let mut running = self.lent.running.borrow_mut();
                // Others may have begun meanwhile.
                if running.len() >= LENT_MAX {
                    return None;
                }
                running.insert(key.clone(), archive.clone());
                drop(running);
                spawn_local(self.clone().keep_lending(repo, (snapshot, key), bringing));
                Some(archive)
            }
            Err(why) => {
                let (repository, id) = (&*repo.name, &snapshot.id);
                tracing::warn!(repository, id, "not lent: {}", causes(&why));
                self.clone().tell_broken(repo.clone(), None, why).await;
                None
            }
        }
    }

    async fn make_lent(
        &self,
        shared: &Shared,
        repo: &Arc<Repo>,
        (head, snapshot): (&Head, Snapshot),
    ) -> Result<Bringing, ShareError> {
        let place = place_of(repo);
        let known: Known = read_known(shared, &place, (head.clone(), snapshot)).await?;
        self.check(repo, &Want::default(), &known)?;
        let (catalog, name) = (self.catalog.clone(), repo.name.clone());
        let made = spawn_blocking(move || {
            let staging = catalog.state.staging()?;
            Files::new(&place, &known)?.lend(name, &known, staging)
        });
        made.await?
    }

    /// Brings what is asked for, until nobody has for a while.
    async fn keep_lending(
        self: Rc<Self>,
        repo: Arc<Repo>,
        (snapshot, key): (Snapshot, Key),
        bringing: Bringing,
    ) {
        let Some(shared) = &self.shared else { return };
        let (repository, id) = (&*repo.name, &*snapshot.id);
        tracing::info!(repository, id, "lent from the store");
        let ended = self.bring_what_is_asked(shared, &bringing).await;
        self.lent.running.borrow_mut().remove(&key);
        bringing.fail("it is lent no more");
        if let Err(why) = ended {
            tracing::warn!(repository, id, "lent no more: {}", causes(&why));
            self.clone()
                .tell_broken(repo.clone(), Some(snapshot), why)
                .await;
        }
    }

    async fn bring_what_is_asked(
        &self,
        shared: &Shared,
        bringing: &Bringing,
    ) -> Result<(), ShareError> {
        let mut running: JoinSet<Fetched> = JoinSet::new();
        let kept = Duration::from_millis(LENT_KEPT_MS);
        loop {
            let (stretch, fetched) = tokio::select! {
                asked = bringing.lending.next(DOWNLOAD_PIECE_BYTES), if running.len() < DOWNLOADS_AT_ONCE => {
                    let by = (shared.objects.clone(), shared.downloads.clone());
                    bringing.fetch(&mut running, by, asked);
                    continue;
                }
                Some(fetched) = running.join_next() => fetched?,
                () = tokio::time::sleep(Duration::from_millis(LENT_TIDY_MS)) => {
                    let alone = bringing.lending.alone();
                    match alone.is_some_and(|since| since.elapsed() >= kept) {
                        true => return Ok(()),
                        false => continue,
                    }
                }
            };
            fetched?;
            let bytes = stretch.range.end - stretch.range.start;
            if self.catalog.usage.add(bytes) {
                self.sweep_wanted.notify_one();
            }
            bringing.lending.came(stretch.file, &stretch.range);
        }
    }
}
