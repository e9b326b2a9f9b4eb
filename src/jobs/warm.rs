//! A server that starts with an empty disk first takes from the store what was used lately, so that those who are sent to it
//! once it says that it is ready wait for nothing.
//!
//! What is used is only heard of: a name that is none, or of a host that is not served, is nobody's; and where an upstream's
//! permission decides nothing is taken. Whoever asks meanwhile is answered as ever.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::{JoinSet, spawn_blocking};

use super::asker::Asker;
use super::shared::{ShareError, Shared, causes, place_of};
use super::state::Jobs;
use super::taking::TakenFor;
use super::warmth::Warming;
use crate::http::wire::route::RepoRef;
use crate::limits::{STORE_FIRST_WAIT_MS, WARMED_AT_ONCE};
use crate::manifest::want::Want;
use crate::repos::repo::{First, Found, Repo};
use crate::store::remote::used;
use crate::telemetry::metrics::{Cause, Level, Meter};

/// A repository that is still to be taken.
struct Waiting {
    repo: Arc<Repo>,
    meter: Meter,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.meter.down(Level::StoreWarming);
    }
}

/// What those who take something share.
struct Plan {
    waiting: RefCell<VecDeque<Waiting>>,
    room_bytes: Cell<u64>,
    taken: Cell<u64>,
    taken_bytes: Cell<u64>,
    /// When nothing more is begun.
    ends: Instant,
}

impl Plan {
    /// Takes room for so many bytes, if there is as much.
    fn take(&self, bytes: u64) -> Option<Room<'_>> {
        let left = self.room_bytes.get().checked_sub(bytes)?;
        self.room_bytes.set(left);
        Some(Room { plan: self, bytes })
    }
}

/// Room for a repository, which is given back unless that is there in the end.
struct Room<'p> {
    plan: &'p Plan,
    bytes: u64,
}

impl Room<'_> {
    fn keep(mut self) {
        self.bytes = 0;
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        let left = &self.plan.room_bytes;
        left.set(left.get().saturating_add(self.bytes));
    }
}

impl Jobs {
    /// See the module's text. It takes no longer than it may; what has begun by then goes on.
    pub(super) async fn warm_up(self: Rc<Self>) {
        let (Some(shared), Some(settings)) = (&self.shared, &self.config.store) else {
            return;
        };
        if self.warmth.is_there() {
            return;
        }
        let (_warming, began) = (Warming::new(&self.warmth), Instant::now());
        let Some(plan) = self.plan_warming(shared, began + settings.warm_for).await else {
            return;
        };
        let repositories = plan.waiting.borrow().len();
        tracing::info!(repositories, "taking from the store what was used lately");
        let plan = Rc::new(plan);
        let mut takers = JoinSet::new();
        for _ in 0..WARMED_AT_ONCE {
            takers.spawn_local(self.clone().take_waiting(plan.clone()));
        }
        let all = async { while takers.join_next().await.is_some() {} };
        let is_over = tokio::time::timeout_at(plan.ends.into(), all)
            .await
            .is_err();
        // Somebody may follow what is taken.
        takers.detach_all();
        let (taken, bytes) = (plan.taken.get(), plan.taken_bytes.get());
        let ms = began.elapsed().as_millis() as u64;
        tracing::info!(repositories, taken, bytes, ms, is_over, "warm");
    }

    /// What is to be taken, the last used first; nothing if the store does not say.
    async fn plan_warming(&self, shared: &Shared, ends: Instant) -> Option<Plan> {
        let limit = Duration::from_millis(STORE_FIRST_WAIT_MS);
        let why = match tokio::time::timeout(limit, used::read(&shared.objects)).await {
            Ok(Ok(used)) => {
                let room_bytes = self.warm_bytes().await;
                let repos = used
                    .iter()
                    .filter_map(|one| self.repo_named(&one.repository));
                let waiting = repos.map(|repo| {
                    self.meter.up(Level::StoreWarming);
                    let meter = self.meter.clone();
                    Waiting { repo, meter }
                });
                return Some(Plan {
                    waiting: RefCell::new(waiting.collect()),
                    room_bytes: Cell::new(room_bytes),
                    taken: Cell::default(),
                    taken_bytes: Cell::default(),
                    ends,
                });
            }
            Ok(Err(why)) => causes(&why),
            Err(_) => {
                shared.objects.trip();
                format!("no answer within {STORE_FIRST_WAIT_MS} ms")
            }
        };
        tracing::warn!(
            "begun with an empty disk, for the store does not say what was used lately: {why}"
        );
        None
    }

    /// How much may be taken: no more than stays when something has to leave.
    async fn warm_bytes(&self) -> u64 {
        let catalog = self.catalog.clone();
        let space = spawn_blocking(move || catalog.state.space());
        let total_bytes = match space.await {
            Ok(Ok(space)) => space.total_bytes,
            _ => 0,
        };
        let settings = self.config.store.as_ref();
        let wanted = settings.map_or(0, |settings| settings.warm_limit.of(total_bytes));
        wanted.min(self.catalog.usage.marks().low_bytes)
    }

    /// The repository of a name that somebody has written, if it is one of those that may be taken.
    fn repo_named(&self, name: &str) -> Option<Arc<Repo>> {
        let (host, path) = name.split_once('/')?;
        let named = RepoRef::new(host, path).ok()?;
        let key = self.config.upstreams.key(named.host, named.path)?;
        let url = self.config.upstreams.url_for(key.host(), named.path)?;
        let is_asked = self.permissions.of_repository(&key.name()).is_some();
        let first = || First {
            spelled: format!("{}/{}", key.host(), named.path),
            mirror: self.catalog.state.mirror_path(key.host(), key.path()),
            url,
        };
        (!is_asked).then(|| self.catalog.registry.get_or_add(&key, first))
    }

    /// Takes one after the other, for as long as there is time and the store answers.
    async fn take_waiting(self: Rc<Self>, plan: Rc<Plan>) {
        let Some(shared) = &self.shared else { return };
        while Instant::now() < plan.ends && !shared.objects.rests() {
            let next = plan.waiting.borrow_mut().pop_front();
            let Some(next) = next else { return };
            if let Err(why) = self.take_used(shared, &next.repo, &plan).await {
                let (repository, why) = (&*next.repo.name, causes(&why));
                tracing::warn!(repository, "not taken from the store: {why}");
            }
        }
        plan.waiting.borrow_mut().clear();
    }

    /// Takes the snapshot of a plain request, if it is there and there is room. What another one has to be asked for is not
    /// cloned: that is for who asks for it.
    async fn take_used(
        self: &Rc<Self>,
        shared: &Shared,
        repo: &Arc<Repo>,
        plan: &Plan,
    ) -> Result<(), ShareError> {
        let base = shared.base(&repo.name, &place_of(repo)).await?;
        if base.is_below() {
            return Ok(());
        }
        let head = base.head;
        let current = head.current(&shared.about(&Want::default()));
        let Some(snapshot) = current.filter(|it| head.is_valid(it)) else {
            return Ok(());
        };
        let parts = snapshot.parts.iter().filter_map(|key| head.stored(key));
        let bytes = parts.map(|part| part.bytes).fold(0, u64::saturating_add);
        let Some(room) = plan.take(bytes) else {
            tracing::debug!(
                repository = &*repo.name,
                bytes,
                "not taken: more than may be"
            );
            return Ok(());
        };
        let Found::Vacant(permit) = repo.find(None) else {
            // Somebody has asked for it.
            return Ok(());
        };
        match self.unless_shared(permit, TakenFor::Warmth).await {
            // Whoever has asked for it meanwhile waits for it.
            Some(permit) if !permit.end_unless_wanted() => {
                self.clone()
                    .build_here(permit, Asker::of(Cause::Asked), None)
                    .await;
            }
            Some(_) => {}
            None if repo.has_snapshot() => {
                room.keep();
                plan.taken.set(plan.taken.get() + 1);
                plan.taken_bytes.set(plan.taken_bytes.get() + bytes);
            }
            None => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_given_back_where_nothing_came_of_it() {
        let plan = Plan {
            waiting: RefCell::default(),
            room_bytes: Cell::new(10),
            taken: Cell::default(),
            taken_bytes: Cell::default(),
            ends: Instant::now(),
        };
        let room = plan.take(7).expect("there is as much");
        assert!(plan.take(7).is_none());
        drop(room);
        plan.take(7).expect("it was given back").keep();
        assert_eq!(plan.room_bytes.get(), 3);
    }
}
