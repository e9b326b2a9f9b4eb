//! Mirrors on the background plane: cloned when they are first needed, compared with their
//! upstream on schedule and when a request needs to know what is new, and looked after.
//!
//! Requests share what runs. Who needs to know what the upstream had *at a time or later* is
//! content with any comparison that began then; one that began before does not count, because it
//! may have looked just before the push that the request is about.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::spawn_local;

use super::archive::unix_ms;
use super::background::Plane;
use super::flights::{Duty, Flight};
use super::registry::{MirrorHead, Repo, StartError};
use crate::limits::{CLONE_FAILURE_KEPT_MS, FRESHEN_WAIT_MS, MIRROR_FRESH_MS, TURN_WAIT_LOGGED_MS};
use crate::metrics::{CloneResult, Event, FetchResult};
use crate::mirror::recover::remove_unfinished;
use crate::mirror::{Freshened, Git, MirrorError, Via, upstream};
use crate::refs::{self, MirrorRefs};

type Ended = Result<(), StartError>;

impl Plane {
    /// What is cached is served without git, so this stops nothing; but it is said at once.
    pub(super) async fn check_git(self: Rc<Self>) {
        match self.git.version().await {
            Ok(version) => tracing::debug!("git {version}"),
            Err(e) => tracing::error!("mirrors can be neither cloned nor fetched: {e}"),
        }
    }

    /// Takes over the mirrors found at start, one after the other, while requests are served
    /// already: one that asks for a mirror whose turn has not come has that one checked at once.
    ///
    /// Until then nothing is known of most of them but their names, and such names are forgotten
    /// when there are many; so whoever found them has held them up to here.
    pub(super) async fn take_over_mirrors(self: Rc<Self>, found: Vec<Arc<Repo>>) {
        let all = self.shared.registry.all();
        drop(found);
        for repo in all {
            if !repo.is_mirrored() && repo.mirror.is_dir() {
                match self.cloning.join(&repo.name) {
                    (_, Some(duty)) => self.clone().adopt(repo.clone(), duty).await,
                    (flight, None) => drop(flight.end().await),
                }
            }
            if !repo.is_mirrored() && repo.current().is_some() {
                // The snapshot must not stay as it is for ever.
                self.plan(&repo, None);
            }
        }
    }

    fn keep(&self, repo: &Repo, fresh_unix_ms: Option<u64>) {
        repo.set_mirrored(true);
        self.plan(repo, fresh_unix_ms);
    }

    fn plan(&self, repo: &Repo, fresh_unix_ms: Option<u64>) {
        self.schedule
            .borrow_mut()
            .add(repo.name.clone(), fresh_unix_ms, unix_ms());
        self.wake.notify_one();
    }

    // ---- clone ----

    /// Waits until there is a mirror that is kept like its upstream. Whether there was none and
    /// the wait was for a clone.
    pub(super) async fn ensure_mirror(
        self: &Rc<Self>,
        repo: &Arc<Repo>,
    ) -> Result<bool, StartError> {
        self.ensure_mirror_for(repo, &Via::default()).await
    }

    /// The same for a request that came by way of other servers.
    pub(super) async fn ensure_mirror_for(
        self: &Rc<Self>,
        repo: &Arc<Repo>,
        via: &Via,
    ) -> Result<bool, StartError> {
        let is_there = repo.mirror.is_dir();
        if is_there && repo.is_mirrored() {
            return Ok(false);
        }
        if !is_there && let Some(why) = repo.not_cloned_lately(CLONE_FAILURE_KEPT_MS) {
            return Err(why);
        }
        let (flight, duty) = self.cloning.join(&repo.name);
        match duty {
            Some(duty) if is_there => drop(spawn_local(self.clone().adopt(repo.clone(), duty))),
            Some(duty) => {
                let git = self.git.by_way_of(via);
                spawn_local(self.clone().clone_mirror(repo.clone(), git, duty));
            }
            None => self.check_way(repo, via, &flight).await?,
        }
        let ended = flight.end().await.unwrap_or_else(|| Err(lost()));
        ended.map(|()| !is_there)
    }

    /// Takes over a mirror that was there at the start or that somebody put there later: checks
    /// it, puts it on the fetch schedule and sets what the server needs. Requests wait for the
    /// check alone, which takes no git process.
    async fn adopt(self: Rc<Self>, repo: Arc<Repo>, duty: Duty<Arc<str>, Ended>) {
        if let Err(e) = self.git.is_usable(&repo.mirror).await {
            tracing::error!(repository = &*repo.name, "{e}");
            // Whoever asks for it is told why, until somebody has put it right.
            repo.set_mirrored(false);
            return duty.done(Err(StartError {
                status: 500,
                message: format!("{}: {e}", repo.name),
            }));
        }
        let (_, setting_up) = self.setting_up.join(&repo.name);
        self.keep(&repo, upstream::last_fetch_unix_ms(&repo.mirror));
        duty.done(Ok(()));
        if let Err(e) = self.git.set_up(&repo.mirror, &repo.url).await {
            // It can be served as it is; a comparison tries again, and fails if it must.
            tracing::error!(repository = &*repo.name, "{e}");
        }
        drop(setting_up);
        if let Some(head) = self.read_head(&repo).await {
            repo.set_first_head(head);
            self.rebuild(&repo);
        }
    }

    /// Refuses a request that came by way of servers which its own upstream leads back to. What it
    /// would wait for was begun for somebody else and does not name them: they may all wait for
    /// each other.
    ///
    /// Anybody can name servers, so the upstream is asked once within [`MIRROR_FRESH_MS`], by one request
    /// after the other. What has ended meanwhile holds up nobody.
    async fn check_way(&self, repo: &Repo, via: &Via, waits_for: &Flight<Ended>) -> Ended {
        if via.is_empty() {
            return Ok(());
        }
        let asked = async {
            while let Err(left) = repo.may_ask_way(Duration::from_millis(MIRROR_FRESH_MS)) {
                tokio::time::sleep(left).await;
            }
            let _turn = self.turns.ways.acquire().await;
            let tmp = self.shared.state.tmp_dir();
            self.git.by_way_of(via).ask(&repo.url, &tmp).await
        };
        let asked = tokio::select! {
            asked = asked => asked,
            _ = waits_for.clone().end() => return Ok(()),
        };
        match asked {
            Err(e @ MirrorError::Loop { .. }) => Err(freshen_error(repo, &e)),
            // Whatever else there is to say is said by what runs.
            _ => Ok(()),
        }
    }

    async fn clone_mirror(self: Rc<Self>, repo: Arc<Repo>, git: Git, duty: Duty<Arc<str>, Ended>) {
        let turn = self.turns.clones.acquire(&repo.name);
        tokio::pin!(turn);
        let wait = Duration::from_millis(TURN_WAIT_LOGGED_MS);
        let _turn = match tokio::time::timeout(wait, &mut turn).await {
            Ok(turn) => turn,
            Err(_) => {
                tracing::warn!(
                    repository = &*repo.name,
                    "waiting for other first clones to end"
                );
                turn.await
            }
        };
        tracing::info!(repository = &*repo.name, "cloning from {}", repo.url);
        let (unix_began_ms, began) = (unix_ms(), Instant::now());
        let staging = self.shared.state.tmp_dir();
        let cloned = git.clone_mirror(&repo.url, &repo.mirror, &staging).await;
        let result = match &cloned {
            Ok(()) => CloneResult::Complete,
            Err(MirrorError::NotFound { .. }) => CloneResult::NotFound,
            Err(MirrorError::TimedOut { .. }) => CloneResult::TimedOut,
            Err(_) => CloneResult::Failed,
        };
        self.shared.meter().add(Event::Clone(result), 1);
        if let Err(e) = cloned {
            tracing::warn!(repository = &*repo.name, "no mirror: {e}");
            let why = clone_error(&repo, &e);
            repo.set_not_cloned(why.clone());
            return duty.done(Err(why));
        }
        if let Some(head) = self.read_head(&repo).await {
            repo.set_head(head);
            // There may be a snapshot of a mirror that is gone.
            self.rebuild(&repo);
        }
        repo.set_fresh(unix_began_ms, began);
        self.keep(&repo, Some(unix_ms()));
        duty.done(Ok(()));
    }

    // ---- compare with the upstream ----

    /// Starts the comparisons that are due.
    pub(super) async fn keep_fresh(self: Rc<Self>) {
        loop {
            let due = self.schedule.borrow_mut().start(unix_ms());
            if let Some(name) = due {
                spawn_local(self.clone().fetch(name));
                continue;
            }
            let wake_at_ms = self.schedule.borrow().wake_at_ms();
            let Some(wake_at_ms) = wake_at_ms else {
                self.wake.notified().await;
                continue;
            };
            let wait = Duration::from_millis(wake_at_ms.saturating_sub(unix_ms()).max(1));
            tokio::select! {
                () = self.wake.notified() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    async fn fetch(self: Rc<Self>, name: Arc<str>) {
        let parts = name.split_once('/');
        let repo = parts.and_then(|(host, path)| self.shared.registry.get(host, path));
        let succeeded = match repo {
            Some(repo) if repo.mirror.is_dir() || repo.current().is_some() => {
                self.refresh(&repo).await
            }
            // Somebody took the mirror away, and nobody has asked for a snapshot since.
            gone => {
                if let Some(repo) = gone {
                    repo.set_mirrored(false);
                }
                self.schedule.borrow_mut().remove(&name);
                false
            }
        };
        self.schedule
            .borrow_mut()
            .finished(&name, succeeded, unix_ms());
        self.wake.notify_one();
    }

    /// Makes the mirror like its upstream; whether it is. One that is missing is cloned, for its
    /// snapshot would stay as it is for ever.
    async fn refresh(self: &Rc<Self>, repo: &Arc<Repo>) -> bool {
        match self.ensure_mirror(repo).await {
            Ok(cloned) => cloned || self.compare(repo).await,
            // It was logged.
            Err(_) => false,
        }
    }

    /// Waits for the comparison that runs, or for one that begins now; whether it succeeds.
    async fn compare(self: &Rc<Self>, repo: &Arc<Repo>) -> bool {
        let compared = match self.freshening(repo, &Via::default()).await {
            Ok(flight) => flight.end().await,
            Err(_) => None,
        };
        matches!(compared, Some(Ok(())))
    }

    /// The comparison that runs; begins one if none does. Fails when the request must not wait
    /// for it.
    async fn freshening(
        self: &Rc<Self>,
        repo: &Arc<Repo>,
        via: &Via,
    ) -> Result<Flight<Ended>, StartError> {
        let (flight, duty) = self.freshening.join(&repo.name);
        match duty {
            Some(duty) => {
                let git = self.git.by_way_of(via);
                // A task of its own: whoever asked for it may leave.
                spawn_local(self.clone().freshen(repo.clone(), git, flight.began, duty));
            }
            None => self.check_way(repo, via, &flight).await?,
        }
        Ok(flight)
    }

    /// Joins the comparison that runs, if one does, and waits for its end. Whether one ran.
    pub(super) async fn join_freshening(&self, repo: &Repo) -> bool {
        match self.freshening.running(&repo.name) {
            Some(flight) => flight.end().await.is_some(),
            None => false,
        }
    }

    /// Makes sure that the mirror has what its upstream had at `since` or later.
    pub(super) async fn fresh_since(self: &Rc<Self>, repo: &Arc<Repo>, since: Instant) -> Ended {
        self.fresh_since_for(repo, since, &Via::default()).await
    }

    /// The same for a request that came by way of other servers.
    pub(super) async fn fresh_since_for(
        self: &Rc<Self>,
        repo: &Arc<Repo>,
        since: Instant,
        via: &Via,
    ) -> Ended {
        loop {
            if repo.is_fresh_since(since) {
                return Ok(());
            }
            let flight = self.freshening(repo, via).await?;
            let began = flight.began;
            let ended = flight.end().await.unwrap_or_else(|| Err(lost()));
            if began >= since {
                return ended;
            }
        }
    }

    /// Makes sure that the mirror was compared with its upstream lately: within
    /// [`MIRROR_FRESH_MS`]. An error means that what it has may be old: the upstream cannot be
    /// reached, now or as lately, or does not answer within [`FRESHEN_WAIT_MS`].
    pub(super) async fn fresh_lately(self: &Rc<Self>, repo: &Arc<Repo>) -> Ended {
        self.fresh_lately_for(repo, &Via::default()).await
    }

    /// The same for a request that came by way of other servers.
    pub(super) async fn fresh_lately_for(self: &Rc<Self>, repo: &Arc<Repo>, via: &Via) -> Ended {
        self.fresh_in_time(repo, lately(), via).await
    }

    /// The same by a comparison that begins now or later.
    pub(super) async fn fresh_now(self: &Rc<Self>, repo: &Arc<Repo>) -> Ended {
        self.fresh_in_time(repo, Instant::now(), &Via::default())
            .await
    }

    async fn fresh_in_time(self: &Rc<Self>, repo: &Arc<Repo>, since: Instant, via: &Via) -> Ended {
        if let Some(why) = repo.failed_since(lately()) {
            return Err(why);
        }
        let limit = Duration::from_millis(FRESHEN_WAIT_MS);
        let fresh = self.fresh_since_for(repo, since, via);
        let fresh = tokio::time::timeout(limit, fresh).await;
        fresh.unwrap_or_else(|_| {
            let seconds = limit.as_secs();
            Err(StartError {
                status: 504,
                message: format!("{}: no news from upstream within {seconds} s", repo.name),
            })
        })
    }

    async fn freshen(
        self: Rc<Self>,
        repo: Arc<Repo>,
        git: Git,
        began: Instant,
        duty: Duty<Arc<str>, Ended>,
    ) {
        let _turn = self.turns.freshens.acquire(&repo.name).await;
        if let Some(setting_up) = self.setting_up.running(&repo.name) {
            // It changes the configuration and packs refs, as the comparison does.
            setting_up.end().await;
        }
        let unix_began_ms = unix_ms();
        let freshened = git.freshen(&repo.mirror, &repo.url, &repo.pins).await;
        let result = match &freshened {
            Ok(Freshened::Unchanged) => FetchResult::Unchanged,
            Ok(Freshened::Moved { .. }) => FetchResult::Changed,
            Err(_) => FetchResult::Failed,
        };
        self.shared.meter().add(Event::Fetch(result), 1);
        let moved = match freshened {
            Ok(freshened) => freshened != Freshened::Unchanged,
            Err(e) => {
                tracing::warn!(repository = &*repo.name, "cannot fetch: {e}");
                let why = freshen_error(&repo, &e);
                repo.set_failed(why.clone());
                self.tidy(&repo).await;
                return duty.done(Err(why));
            }
        };
        if moved {
            // Noted before anybody hears of it.
            repo.set_moved();
        }
        // Also when nothing moved: somebody may have put another mirror there.
        if let Some(head) = self.read_head(&repo).await {
            repo.set_head(head);
        }
        repo.set_fresh(unix_began_ms, began);
        duty.done(Ok(()));
        // Also when nothing moved: the last try may have failed.
        self.rebuild(&repo);
        if moved {
            self.maintain(&repo).await;
        }
    }

    /// Builds the new snapshot of a repository whose old one is in use, while that is served.
    pub(super) fn rebuild(self: &Rc<Self>, repo: &Arc<Repo>) {
        if let Some(permit) = repo.rebuild() {
            spawn_local(self.clone().build(permit));
        }
    }

    /// Removes what a comparison that failed has left, unless something else writes packs. It
    /// still holds the duty, so that no other begins.
    async fn tidy(&self, repo: &Arc<Repo>) {
        let (_, Some(duty)) = self.maintaining.join(&repo.name) else {
            return;
        };
        let cleaned = repo.clone();
        let removed = tokio::task::spawn_blocking(move || {
            // Where a build packs, it goes after the next one that fails, or at the next start.
            let packing = cleaned.packing.try_lock();
            packing.map_or(Ok(()), |_packing| remove_unfinished(&cleaned.mirror))
        });
        let removed = removed.await;
        duty.done(());
        if let Ok(Err(e)) = removed {
            tracing::warn!(repository = &*repo.name, "cannot remove half a pack: {e}");
        }
    }

    async fn maintain(&self, repo: &Repo) {
        let (_, Some(duty)) = self.maintaining.join(&repo.name) else {
            return;
        };
        match self.git.consolidate(&repo.mirror, &repo.pins).await {
            Ok(0) => {}
            Ok(packs) => tracing::info!(repository = &*repo.name, packs, "consolidated packs"),
            Err(e) => tracing::warn!(repository = &*repo.name, "cannot consolidate packs: {e}"),
        }
        duty.done(());
    }

    // ---- what the mirror has ----

    /// The refs of the mirror at one moment.
    pub(super) async fn read_refs(&self, repo: &Arc<Repo>) -> Result<MirrorRefs, StartError> {
        let (repo, follow) = (repo.clone(), self.git.follow.clone());
        let name = repo.name.clone();
        let failed = |e: &dyn std::fmt::Display| StartError {
            status: 500,
            message: format!("{name}: {e}"),
        };
        let read = tokio::task::spawn_blocking(move || {
            let _pinned = repo.pins.blocking_read();
            refs::read(&repo.mirror, &follow)
        });
        let read = read.await.map_err(|panic| failed(&panic))?;
        read.map_err(|e| failed(&e))
    }

    /// Reads the mirror's HEAD, and notes whether its refs are still those of the snapshot.
    async fn read_head(&self, repo: &Arc<Repo>) -> Option<Arc<MirrorHead>> {
        match self.read_refs(repo).await {
            Ok(refs) => {
                repo.compare_refs(&repo.digest(&refs));
                Some(Arc::new(MirrorHead::of(&refs)))
            }
            Err(e) => {
                tracing::error!(repository = &*repo.name, "cannot read HEAD: {e}");
                None
            }
        }
    }

    /// Notes the HEAD of a mirror that has taken another one's place.
    pub(super) async fn look_at_head(&self, repo: &Arc<Repo>) {
        if let Some(head) = self.read_head(repo).await {
            repo.set_head(head);
        }
    }

    /// The mirror's HEAD.
    pub(super) async fn head(&self, repo: &Arc<Repo>) -> Result<Arc<MirrorHead>, StartError> {
        if let Some(head) = repo.head() {
            return Ok(head);
        }
        let refs = self.read_refs(repo).await?;
        Ok(Arc::new(MirrorHead::of(&refs)))
    }
}

/// The status of a request that leads back to the server that it came from.
pub(super) const LOOP: u16 = 508;

/// The beginning of what counts as lately.
fn lately() -> Instant {
    let now = Instant::now();
    let since = now.checked_sub(Duration::from_millis(MIRROR_FRESH_MS));
    since.unwrap_or(now)
}

/// What the client hears when there is no mirror and none can be had.
pub(super) fn clone_error(repo: &Repo, error: &MirrorError) -> StartError {
    let status = match error {
        MirrorError::NotFound { .. } | MirrorError::Denied { .. } => 404,
        _ => freshen_error(repo, error).status,
    };
    StartError {
        status,
        message: format!("{}: {error}", repo.name),
    }
}

/// What the client hears when there is a mirror, but the upstream cannot be asked for news.
fn freshen_error(repo: &Repo, error: &MirrorError) -> StartError {
    let status = match error {
        _ if error.is_disk_full() => 507,
        MirrorError::TooLarge { .. } => 507,
        MirrorError::Loop { .. } => LOOP,
        MirrorError::Io { .. } | MirrorError::Start { .. } => 500,
        _ => 502,
    };
    StartError {
        status,
        message: format!("{}: {error}", repo.name),
    }
}

/// The work ended without saying how.
pub(super) fn lost() -> StartError {
    StartError {
        status: 500,
        message: "the server failed to answer; try again".into(),
    }
}
