//! The upkeep of annexes: what leaves them, and what goes with it.

use std::collections::HashSet;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use tokio::task::{spawn_blocking, spawn_local};

use super::look::failed;
use super::state::Jobs;
use super::sweep::remove;
use crate::archive::place::Archive;
use crate::io::clock::unix_ms;
use crate::limits::{ANNEX_PACKS_MAX, ANNEX_PART, ANNEX_UNUSED_MS};
use crate::manifest::want::AnyId;
use crate::mirror::{MirrorError, Tidied, Tip, Tips, annex_packs};
use crate::repos::error::StartError;
use crate::repos::repo::Repo;
use crate::snapshot::lookup::{Leads, Objects};
use crate::snapshot::view::object_hash;

impl Jobs {
    /// For how long an upstream is believed that it gives something out.
    fn believed_ms(&self) -> u64 {
        u64::try_from(self.config.unreachable_expiry.as_millis()).unwrap_or(u64::MAX)
    }

    /// For how long nobody has to want something before it goes.
    fn unused_ms(&self) -> u64 {
        ANNEX_UNUSED_MS.min(self.believed_ms())
    }

    /// Reads what the annex of a mirror has that is new here. Snapshots of commits that neither of them has are
    /// served no more.
    pub(super) async fn take_over_annex(self: &Rc<Self>, repo: &Arc<Repo>) {
        let _writing = repo.annex.writing.lock().await;
        let archives = repo.archives();
        let commits = archives.iter().filter_map(|archive| archive.want.commit());
        let (mirror, commits) = (repo.mirror.clone(), commits.collect::<HashSet<_>>());
        let read = spawn_blocking(move || {
            let tips = Tips::find(&mirror).tips;
            (lost(&mirror, commits, &tips), tips)
        });
        let (lost, tips) = match read.await {
            Ok(read) => read,
            Err(panic) => return tracing::error!("a look at an annex panicked: {panic}"),
        };
        repo.annex.load(tips, self.believed_ms());
        self.leave(repo, &lost).await;
        // What came and was not noted, because the server ended, goes.
        self.untidy.borrow_mut().insert(repo.name.clone());
        self.keep_annex_soon(repo);
    }

    /// Changes the tips of an annex, on the disk first.
    pub(super) async fn change_tips(
        &self,
        repo: &Arc<Repo>,
        change: impl FnOnce(&mut Tips),
    ) -> Result<(), StartError> {
        let _writing = repo.annex.writing.lock().await;
        let mut tips = repo.annex.tips();
        change(&mut tips);
        let (mirror, written) = (repo.mirror.clone(), tips.clone());
        let done = spawn_blocking(move || written.write(&mirror)).await;
        done.map_err(|panic| failed(repo, &panic))?
            .map_err(|e| failed(repo, &format!("cannot write the tips of its annex: {e}")))?;
        repo.annex.set_tips(tips);
        Ok(())
    }

    /// These are served no more, and go.
    pub(super) async fn forget_annexed(self: &Rc<Self>, repo: &Arc<Repo>, ids: &[AnyId]) {
        let go = |tips: &mut Tips| {
            let tips = tips.0.iter_mut().filter(|(id, _)| ids.contains(id));
            tips.for_each(|(_, tip)| *tip = Tip::Gone);
        };
        let mut tips = repo.annex.tips();
        let before = tips.clone();
        go(&mut tips);
        if tips == before {
            return;
        }
        // Whatever becomes of the disk.
        repo.annex.set_tips(tips);
        if let Err(e) = self.change_tips(repo, go).await {
            tracing::error!("{}", e.message);
        }
        let count = ids.len();
        tracing::info!(
            repository = &*repo.name,
            count,
            "what was fetched by id leaves"
        );
        self.leave(repo, &ids.iter().copied().collect()).await;
    }

    /// Snapshots of these commits are served no more, and go as soon as nobody reads them.
    pub(super) async fn leave(&self, repo: &Arc<Repo>, commits: &HashSet<AnyId>) {
        if commits.is_empty() {
            return;
        }
        for archive in repo.take_commits(commits) {
            self.refuse(archive).await;
        }
    }

    /// An archive is nobody's any more who asks from here on, and goes as soon as nobody reads it.
    pub(super) async fn refuse(&self, archive: Arc<Archive>) {
        archive.close_if_idle();
        self.catalog.retired.add_refused(archive.clone());
        if self.catalog.retired.take_idle(&archive) {
            let catalog = self.catalog.clone();
            // It cannot fail but by a panic, which was printed.
            let _ = spawn_blocking(move || remove(&catalog, &archive)).await;
        }
    }

    /// Sees to an annex, unless that is done already.
    pub(super) fn keep_annex_soon(self: &Rc<Self>, repo: &Arc<Repo>) {
        let (jobs, repo) = (self.clone(), repo.clone());
        spawn_local(async move { jobs.keep_annex(&repo).await });
    }

    /// Has leave what nobody wants, what the mirror has by now, and what is too much; then nothing else is left.
    pub(super) async fn keep_annex(self: &Rc<Self>, repo: &Arc<Repo>) {
        let (_, Some(duty)) = self.keeping_annex.join(&repo.name) else {
            return;
        };
        self.thin_out(repo).await;
        let is_untidy = self.untidy.borrow_mut().remove(&repo.name);
        let gone = |tips: &Tips| -> Vec<AnyId> {
            let gone = tips.0.iter().filter(|(_, tip)| **tip == Tip::Gone);
            gone.map(|(id, _)| *id).collect()
        };
        let gone = gone(&repo.annex.tips());
        let mirror = repo.mirror.clone();
        let packs = spawn_blocking(move || annex_packs(&mirror))
            .await
            .unwrap_or(0);
        if is_untidy || !gone.is_empty() || packs > ANNEX_PACKS_MAX {
            let _turn = self.joining.acquire().await;
            self.tidy_annex(repo, gone).await;
        }
        duty.done(());
    }

    async fn thin_out(self: &Rc<Self>, repo: &Arc<Repo>) {
        for archive in repo.archives() {
            if let Some(commit) = archive.want.commit() {
                repo.annex
                    .note_used_at(&commit, archive.last_used_unix_ms());
            }
        }
        let tips = repo.annex.tips();
        let reached = self.reached(repo, &tips).await;
        if !reached.is_empty() {
            // Their snapshots are the mirror's from here on.
            let dropped = self.change_tips(repo, |tips| {
                tips.0.retain(|id, _| !reached.contains(id));
            });
            if let Err(e) = dropped.await {
                tracing::error!("{}", e.message);
            }
            self.untidy.borrow_mut().insert(repo.name.clone());
        }
        let (now, unused_ms) = (unix_ms(), self.unused_ms());
        let mut leaving = tips.too_many(self.catalog.usage.marks().high_bytes / ANNEX_PART);
        let unused = tips.kept();
        let unused = unused.filter(|(_, tip)| tip.used_unix_ms.saturating_add(unused_ms) <= now);
        leaving.extend(unused.map(|(id, _)| id));
        leaving.retain(|id| !reached.contains(id));
        self.forget_annexed(repo, &leaving).await;
    }

    /// Those that the mirror's refs lead to.
    async fn reached(&self, repo: &Repo, tips: &Tips) -> HashSet<AnyId> {
        let ids: Vec<AnyId> = tips.kept().map(|(id, _)| id).collect();
        if ids.is_empty() {
            return HashSet::new();
        }
        let names: Vec<String> = ids.iter().map(ToString::to_string).collect();
        let kinds = self.git.kinds(&repo.mirror, &names).await;
        let there = ids.into_iter().zip(kinds.unwrap_or_default());
        let mut reached = HashSet::new();
        for (id, _) in there.filter(|(_, kind)| kind.is_some()) {
            if self.git.is_reached(&repo.mirror, id).await.unwrap_or(false) {
                reached.insert(id);
            }
        }
        reached
    }

    async fn tidy_annex(self: &Rc<Self>, repo: &Arc<Repo>, gone: Vec<AnyId>) {
        let tidied = self
            .git
            .tidy_annex(&repo.mirror, &repo.locks.arrivals)
            .await;
        match tidied {
            Ok(Tidied::Done) if gone.is_empty() => {}
            Ok(Tidied::Done) => {
                let changed = self.change_tips(repo, |tips| {
                    tips.0
                        .retain(|id, tip| *tip != Tip::Gone || !gone.contains(id));
                });
                if let Err(e) = changed.await {
                    tracing::error!("{}", e.message);
                }
            }
            Ok(Tidied::Busy) => {
                self.untidy.borrow_mut().insert(repo.name.clone());
                self.note_due(repo);
                return;
            }
            Err(e @ MirrorError::Git { .. }) => {
                tracing::error!(repository = &*repo.name, "its annex is given up: {e}");
                return self.give_up_annex(repo).await;
            }
            Err(e) => tracing::warn!(repository = &*repo.name, "its annex is not tidied up: {e}"),
        }
        self.mirror_changed(repo);
    }

    /// Nothing of it can be served: whoever asks has the upstream asked again.
    pub(super) async fn give_up_annex(self: &Rc<Self>, repo: &Arc<Repo>) {
        let all: Vec<AnyId> = repo.annex.tips().kept().map(|(id, _)| id).collect();
        self.forget_annexed(repo, &all).await;
        self.untidy.borrow_mut().insert(repo.name.clone());
        self.note_due(repo);
    }

    /// When something of it will have been unused for so long that it goes.
    pub(super) fn annex_due_unix_ms(&self, repo: &Repo) -> Option<u64> {
        let tips = repo.annex.tips();
        let used = tips.kept().map(|(_, tip)| tip.used_unix_ms);
        Some(used.min()?.saturating_add(self.unused_ms()))
    }
}

/// The commits that are neither in the mirror nor in its annex.
fn lost(mirror: &Path, mut commits: HashSet<AnyId>, tips: &Tips) -> HashSet<AnyId> {
    commits.retain(|id| !matches!(tips.0.get(id), Some(Tip::Kept(_))));
    if commits.is_empty() {
        return commits;
    }
    let objects = object_hash(mirror).map(|hash| Objects::open(mirror, hash));
    let Ok(Ok(objects)) = objects else {
        // Who asks for it is told why.
        return HashSet::new();
    };
    let is_there = |id: &AnyId| matches!(objects.lead(*id), Ok(Leads::Commit(_)) | Err(_));
    commits.retain(|id| matches!(tips.0.get(id), Some(Tip::Gone)) || !is_there(id));
    commits
}
