//! Mirrors: taken over at the start, cloned when they are first needed.
//!
//! Requests share what runs.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::{spawn_blocking, spawn_local};

use super::asker::{Asker, ClientPart};
use super::flights::{Duty, Flight, Waiting};
use super::permission::{Gits, unsaid};
use super::pinned::make_missing_reverse_indices;
use super::planted::Made;
use super::room::Need;
use super::semaphores::{Semaphores, refused};
use super::state::Jobs;
use crate::access::verdicts::About;
use crate::classes::Seat;
use crate::http::net::client::Client;
use crate::io::clock::unix_ms;
use crate::limits::{
    CLONE_FAILURE_KEPT_MS, CLONE_TOO_LARGE_KEPT_MS, REFUSED_TRIES_MAX, TURN_WAIT_LOGGED_MS,
    UPSTREAM_ANSWER_KEPT_MS, WANTED_LOOK_MS,
};
use crate::mirror::schedule::{Key, Shown};
use crate::mirror::{Git, MirrorError, noted, upstream};
use crate::repos::error::StartError;
use crate::repos::repo::Repo;
use crate::telemetry::metrics::{Cause, CloneResult, Event};

pub(super) type Ended = Result<(), StartError>;

/// What a clone takes of its client's, if it takes any.
type Part = Result<Option<ClientPart>, StartError>;

impl Jobs {
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
    pub(crate) async fn take_over_mirrors(self: Rc<Self>, found: Vec<Arc<Repo>>) {
        let all = self.catalog.registry.all();
        drop(found);
        for repo in all {
            if !repo.is_mirrored() && repo.mirror.is_dir() {
                match self.cloning.join(&repo.name) {
                    (_, Some(duty)) => self.clone().adopt(repo.clone(), duty).await,
                    (flight, None) => drop(flight.end().await),
                }
            }
            if !repo.is_mirrored() && repo.has_snapshot() {
                // The snapshot must not stay as it is for ever.
                self.plan(&repo, None);
            }
        }
        self.taken_over.send_replace(true);
    }

    pub(super) fn keep(&self, repo: &Repo, fresh_unix_ms: Option<u64>) {
        repo.set_kept();
        self.note_due(repo);
        self.plan(repo, fresh_unix_ms);
    }

    pub(super) fn plan(&self, repo: &Repo, fresh_unix_ms: Option<u64>) {
        if !self.compares_by_itself(repo) {
            return;
        }
        let mut schedule = self.schedule.borrow_mut();
        schedule.add(repo.name.clone(), fresh_unix_ms, unix_ms());
        drop(schedule);
        if repo.asked.is_in_use() {
            self.hasten_in_use(repo);
        }
        self.wake.notify_one();
    }

    /// Waits until there is a mirror that is kept like its upstream. Whether there was none and
    /// the wait was for a clone.
    pub(super) async fn ensure_mirror(
        self: &Rc<Self>,
        repo: &Arc<Repo>,
        asker: &Asker,
    ) -> Result<bool, StartError> {
        let part = self.part_to_clone(repo, asker.client).await;
        self.ensure_mirror_with(part, repo, asker).await
    }

    /// What a request for a repository without a mirror waits for before it begins anything that others
    /// would follow: its client's part of the clones, unless a clone is not, or no more, needed of it.
    pub(crate) async fn clone_part(self: Rc<Self>, repo: Arc<Repo>, asker: Asker) -> Part {
        Ok(self.part_to_clone(&repo, asker.client).await)
    }

    pub(super) async fn part_to_clone(&self, repo: &Repo, client: Client) -> Option<ClientPart> {
        self.left(repo).await;
        let asks = !repo.mirror.is_dir() && repo.not_cloned_lately().is_none();
        if !asks {
            return None;
        }
        tokio::select! {
            biased;
            // Others see to it, now or meanwhile.
            () = self.cloning.begun(&repo.name) => None,
            part = self.semaphores.clones_of_client.acquire(client) => Some(part),
        }
    }

    /// As [`ensure_mirror`](Self::ensure_mirror) with the part of the clones that it may take, so that it
    /// waits for what all have to wait for, and nothing else.
    pub(super) async fn ensure_mirror_with(
        self: &Rc<Self>,
        part: Option<ClientPart>,
        repo: &Arc<Repo>,
        asker: &Asker,
    ) -> Result<bool, StartError> {
        let (mut part, mut tries) = (part, REFUSED_TRIES_MAX);
        loop {
            let (is_own, ended) = self.mirror_once(&mut part, repo, asker).await?;
            match ended {
                // Somebody else has shown what the upstream does not take for a clone.
                Err(why) if !is_own && why == unsaid() && self.may_ask_again(asker, &mut tries) => {
                }
                ended => return ended,
            }
        }
    }

    /// The same, once: whether it was done for this one, and what came of it.
    async fn mirror_once(
        self: &Rc<Self>,
        part: &mut Option<ClientPart>,
        repo: &Arc<Repo>,
        asker: &Asker,
    ) -> Result<(bool, Result<bool, StartError>), StartError> {
        self.left(repo).await;
        let is_there = repo.mirror.is_dir();
        if is_there && repo.is_mirrored() {
            return Ok((true, Ok(false)));
        }
        if !is_there && let Some(why) = repo.not_cloned_lately() {
            return Err(why);
        }
        let (flight, duty) = self.cloning.join(&repo.name);
        flight.raise(asker.cause);
        let is_own = duty.is_some();
        match duty {
            Some(duty) if is_there => drop(spawn_local(self.clone().adopt(repo.clone(), duty))),
            Some(duty) => {
                let (host, clones) = (repo.name.host(), &self.semaphores.clones);
                let seat = clones.enter(host, duty.urgency(), asker.arrival());
                let seat = seat.map_err(|why| refused(repo, &why))?;
                let gits = self.git_for(repo, asker)?.telling(&repo.arrived);
                let unwanted = unwanted(repo.clone(), duty.waiting());
                let work = (duty, seat, part.take());
                let by = self.asked_by(repo, asker);
                let cloning = self.clone().clone_mirror(repo.clone(), (gits, by), work);
                spawn_local(while_wanted(repo.clone(), cloning, unwanted));
            }
            None => self.check_way(repo, asker, &flight).await?,
        }
        let ended = flight.end().await.unwrap_or_else(|| Err(lost()));
        Ok((is_own, ended.map(|()| !is_there)))
    }

    /// Waits until the mirror has left, if it is about to.
    pub(super) async fn left(&self, repo: &Repo) {
        if let Some(leaving) = self.leaving.running(&repo.name) {
            leaving.end().await;
        }
    }

    /// Takes over a mirror that was there at the start or that somebody put there later: checks
    /// it, puts it on the fetch schedule and sets what the server needs. Requests wait for the
    /// check alone, which takes no git process.
    async fn adopt(self: Rc<Self>, repo: Arc<Repo>, duty: Duty<Arc<str>, Ended>) {
        if let Err(e) = self.git.is_usable(&repo.mirror).await {
            tracing::error!(repository = &*repo.name, "{e}");
            // Whoever asks for it is told why, until somebody has put it right.
            repo.set_not_kept();
            return duty.done(Err(StartError {
                status: 500,
                message: format!("{}: {e}", repo.name),
            }));
        }
        if is_noted(&repo).await {
            repo.notes.set_clonable();
        }
        let (_, setting_up) = self.setting_up.join(&repo.name);
        let fetched = upstream::last_fetch_unix_ms(&repo.mirror);
        if let Some(unix_ms) = fetched {
            repo.set_fetched_before(unix_ms);
        }
        self.take_over_annex(&repo).await;
        self.keep(&repo, fetched);
        duty.done(Ok(()));
        if let Err(e) = self.git.set_up(&repo.mirror, &repo.url).await {
            // It can be served as it is; a comparison tries again, and fails if it must.
            tracing::error!(repository = &*repo.name, "{e}");
        }
        let packs_of = repo.clone();
        let made = spawn_blocking(move || make_missing_reverse_indices(&packs_of)).await;
        if let Ok(Err(e)) = made {
            tracing::debug!(repository = &*repo.name, "no reverse indices yet: {e}");
        }
        drop(setting_up);
        self.tell_what_is_owed(&repo).await;
        if let Some(head) = self.read_head(&repo).await {
            repo.set_first_head(head);
            self.rebuild(&repo, Cause::Timer);
        }
    }

    /// Refuses a request that came by way of servers which its own upstream leads back to. What it
    /// would wait for was begun for somebody else and does not name them: they may all wait for
    /// each other.
    ///
    /// Anybody can name servers, so the upstream is asked once within [`UPSTREAM_ANSWER_KEPT_MS`], by one request
    /// after the other. What has ended meanwhile holds up nobody.
    pub(super) async fn check_way<T: Clone>(
        &self,
        repo: &Repo,
        asker: &Asker,
        waits_for: &Flight<T>,
    ) -> Ended {
        if asker.via.is_empty() {
            return Ok(());
        }
        let asked = async {
            while let Err(left) = repo.may_ask_way(Duration::from_millis(UPSTREAM_ANSWER_KEPT_MS)) {
                tokio::time::sleep(left).await;
            }
            let _part = self.semaphores.ways_of_client.acquire(asker.client).await;
            let _permit = self.semaphores.ways.acquire().await;
            let tmp = self.catalog.state.tmp_dir();
            match self.git_for(repo, asker) {
                Ok(gits) => gits.each(async |git| git.ask(&repo.url, &tmp).await).await,
                Err(_) => Ok(()),
            }
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

    async fn clone_mirror(
        self: Rc<Self>,
        repo: Arc<Repo>,
        (gits, by): (Gits, Option<About>),
        (duty, mut seat, _part): (Duty<Arc<str>, Ended>, Seat, Option<ClientPart>),
    ) {
        let wait = Duration::from_millis(TURN_WAIT_LOGGED_MS);
        if tokio::time::timeout(wait, seat.placed()).await.is_err() {
            tracing::warn!(
                repository = &*repo.name,
                "waiting for other first clones to end"
            );
            // The class is not closed while this runs.
            let _ = seat.placed().await;
        }
        if self.is_stuck().await {
            return duty.done(Err(stuck(&repo)));
        }
        tracing::info!(repository = &*repo.name, "cloning from {}", repo.url);
        repo.arrived.note(0);
        let (unix_began_ms, began) = (unix_ms(), Instant::now());
        let planted = self.planted(&repo).await;
        let clone = async |git: &Git| self.make_mirror((&repo, &planted), git).await;
        let mut cloned = gits.each(&clone).await;
        if let Err(e) = &cloned
            && self.is_for_room(e).await
        {
            self.make_room(&repo.name, Need::Must).await;
            cloned = gits.each(&clone).await;
        }
        Semaphores::note_try(&self.semaphores.clones, &repo, &cloned);
        let result = result_of(&cloned);
        self.meter.add(Event::Clone(result), 1);
        if let Err(e) = &cloned
            && self.is_refused_to(by, e)
        {
            tracing::warn!(repository = &*repo.name, "no mirror: {e}");
            return duty.done(Err(unsaid()));
        }
        let made = match cloned {
            Ok(made) => made,
            Err(e) => return self.not_cloned(&repo, &e, duty).await,
        };
        tracing::info!(
            repository = &*repo.name,
            bytes = packs_bytes(&repo).await,
            shared = planted.is_some(),
            ms = began.elapsed().as_millis() as u64,
            "cloned"
        );
        if let Made::Shared { compared_unix_ms } = made {
            self.keep_planted(&repo, compared_unix_ms).await;
            return duty.done(Ok(()));
        }
        self.say_back(&repo.name);
        self.cold.forget(&repo.name);
        repo.notes.set_clonable();
        self.take_over_annex(&repo).await;
        self.keep(&repo, Some(unix_ms()));
        self.note_compared(&repo, Shown::Moved);
        self.mirror_changed(&repo);
        if let Some(head) = self.read_head(&repo).await {
            repo.set_head(head);
        }
        // Not before: there may be a snapshot of a mirror that is gone.
        repo.looked.note(unix_began_ms);
        repo.set_fresh(unix_began_ms, began);
        self.rebuild(&repo, duty.urgency().cause());
        duty.done(Ok(()));
    }

    /// Says and remembers why there is no mirror.
    async fn not_cloned(&self, repo: &Arc<Repo>, error: &MirrorError, duty: Duty<Arc<str>, Ended>) {
        tracing::warn!(repository = &*repo.name, "no mirror: {error}");
        let mut why = clone_error(repo, error);
        if error.is_disk_full()
            && let Some(fill) = self.fill().await
        {
            why.message = format!("{} ({fill})", why.message);
        }
        repo.set_not_cloned(why.clone(), kept_for(error));
        self.note_compared(repo, Shown::Failed);
        duty.done(Err(why));
        self.heed(repo, error).await;
    }
}

fn result_of(cloned: &Result<Made, MirrorError>) -> CloneResult {
    match cloned {
        Ok(_) => CloneResult::Complete,
        Err(MirrorError::NotFound { .. }) => CloneResult::NotFound,
        Err(MirrorError::TimedOut { .. }) => CloneResult::TimedOut,
        Err(_) => CloneResult::Failed,
    }
}

/// How long a clone that failed like this is not tried again.
pub(super) fn kept_for(error: &MirrorError) -> Duration {
    Duration::from_millis(match error {
        // Half of it was on the disk, for which something else had to leave.
        MirrorError::TooLarge { .. } => CLONE_TOO_LARGE_KEPT_MS,
        _ => CLONE_FAILURE_KEPT_MS,
    })
}

/// Clones, and gives that up when all who waited for it have left: what it had takes no place any more.
async fn while_wanted(
    repo: Arc<Repo>,
    cloning: impl Future<Output = ()>,
    unwanted: impl Future<Output = ()>,
) {
    tokio::select! {
        biased;
        () = cloning => {}
        () = unwanted => {
            tracing::info!(
                repository = &*repo.name,
                "the clone is given up: all who waited for it have left"
            );
        }
    }
    repo.arrived.end();
    repo.notes.set_clone_over();
}

/// Ready when nobody waits for a clone, nobody else wants it, and it is not as good as done.
async fn unwanted(repo: Arc<Repo>, waiting: Waiting<Ended>) {
    loop {
        waiting.are_gone().await;
        if !repo.notes.is_clone_wanted() && !repo.mirror.is_dir() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(WANTED_LOOK_MS)).await;
    }
}

/// Bytes of the mirror's packs, for the log.
async fn packs_bytes(repo: &Repo) -> u64 {
    let packs = repo.mirror.join("objects/pack");
    let sum = spawn_blocking(move || {
        let files = std::fs::read_dir(packs).into_iter().flatten().flatten();
        let bytes = files.filter_map(|file| Some(file.metadata().ok()?.len()));
        bytes.sum()
    });
    sum.await.unwrap_or_default()
}

/// Whether the mirror has a note that a clone of its upstream works.
async fn is_noted(repo: &Repo) -> bool {
    let (mirror, url) = (repo.mirror.clone(), repo.url.clone());
    let looked = spawn_blocking(move || noted::is_upstream_noted(&mirror, &url));
    looked.await.unwrap_or(false)
}

/// The status of a request that leads back to the server that it came from.
pub(crate) const LOOP: u16 = 508;

/// What a request is told that came by way of this server.
pub(crate) const IS_ITS_OWN_UPSTREAM: &str =
    "this server is its own upstream; look for url.….insteadOf in the configuration of its git";

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
pub(super) fn freshen_error(repo: &Repo, error: &MirrorError) -> StartError {
    let status = match error {
        _ if error.is_disk_full() => 507,
        MirrorError::TooLarge { .. } => 507,
        MirrorError::Loop { .. } => LOOP,
        MirrorError::Replaced { .. } | MirrorError::Limited { .. } => 503,
        MirrorError::Io { .. } | MirrorError::Start { .. } => 500,
        _ => 502,
    };
    StartError {
        status,
        message: format!("{}: {error}", repo.name),
    }
}

/// There is no room for a mirror, and will be.
pub(super) fn stuck(repo: &Repo) -> StartError {
    StartError {
        status: 507,
        message: format!(
            "{}: not fetched, for more than --cache-limit is in use by those who download; try again later",
            repo.name
        ),
    }
}

/// The work ended without saying how.
pub(super) fn lost() -> StartError {
    StartError {
        status: 500,
        message: "the server failed to answer; try again".into(),
    }
}
