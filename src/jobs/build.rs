//! The job of a build: sees to a mirror, has a thread build, and does with what it built all that follows.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::{Arc, Weak, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::task::{spawn_blocking, spawn_local};

use super::asker::{Asker, ClientPart};
use super::builder::{begin, build};
use super::end::End;
use super::entry::{Keep, SpoolJob, wait_for_room};
use super::pinned::BeginError;
use super::plane::Handle;
use super::room::Need;
use super::semaphores::refused;
use super::state::Jobs;
use super::taking::TakenFor;
use super::tip::TipJob;
use super::tips::ColdSource;
use super::workshop::Workshop;
use crate::archive::place::Archive;
use crate::archive::spool::not_kept;
use crate::classes::{Arrival, Seat};
use crate::io::disk::DiskFile;
use crate::io::sched;
use crate::limits::{HEAP_TRIM_QUIET_MS, ORDER_QUIET_MS, WANTED_LOOK_MS};
use crate::manifest::want::{Shape, Want};
use crate::mirror::Git;
use crate::repos::error::StartError;
use crate::repos::repo::{Permit, RefsEpoch, Repo};
use crate::snapshot::checkout::NoRef;
use crate::snapshot::lie::Lie;
use crate::snapshot::produce;
use crate::snapshot::ring::panic_text;
use crate::telemetry::metrics::{Cause, Event, Level};

impl Jobs {
    /// Has a snapshot built, once there is a mirror, unless another server has shared it. Everybody who asks waits for
    /// it, so it waits for nobody's part: whoever has it begun brings the one that a clone may take.
    pub(crate) async fn build(
        self: Rc<Self>,
        permit: Permit,
        asker: Asker,
        part: Option<ClientPart>,
    ) {
        permit.urgency().raise(asker.cause);
        let by = match asker.cause {
            Cause::Asked => TakenFor::Request,
            _ => TakenFor::Warmth,
        };
        if let Some(permit) = self.unless_shared(permit, by).await {
            self.build_here(permit, asker, part).await;
        }
    }

    pub(super) async fn build_here(
        self: Rc<Self>,
        permit: Permit,
        asker: Asker,
        part: Option<ClientPart>,
    ) {
        let repo = permit.repo().clone();
        // What a timer has begun is for nobody who would wait.
        let is_asked_for = asker.cause == Cause::Asked;
        let cold = tokio::select! {
            biased;
            cold = self.cold_source(&repo, permit.want()) => cold,
            () = unwanted(&permit), if is_asked_for => return,
        };
        let is_cold = cold.is_some();
        // Until the clone follows: who waits may have all by then.
        let _claim = is_cold.then(|| self.cold.claim(&repo.name));
        if is_cold && is_asked_for && permit.end_unless_wanted() {
            return;
        }
        let permit = match is_cold {
            true => Some(permit),
            false => self.with_mirror(permit, &asker, part).await,
        };
        let Some(permit) = permit else { return };
        let _making = self.making(&repo, permit.want());
        let (shop, plane) = (self.shop.clone(), self.plane.clone());
        let (git, stop) = (self.git.clone(), self.stop.clone());
        let (done, built) = oneshot::channel();
        let (give, given) = std::sync::mpsc::sync_channel(1);
        let thread = std::thread::Builder::new().name("builder".into());
        let arriving = asker.clone();
        let spawned = thread.spawn(move || {
            if let Ok(permit) = given.recv()
                && let Some(placed) = placed(&shop, permit, arriving.arrival())
            {
                let mut done = Some(done);
                run(&shop, &plane, placed, (&git, cold), stop, &mut done);
                if let Some(done) = done {
                    // Fails only while the process ends.
                    let _ = done.send(None);
                }
            }
        });
        let builder = match spawned {
            Ok(builder) => builder,
            Err(source) => {
                let op = "start a builder's thread";
                return refuse(&self.shop, permit, BeginError::Io { op, source }.into());
            }
        };
        self.note_builder(builder);
        // Only now: a thread that does not start must not take it along. It waits for this.
        let _ = give.send(permit);
        // One that could not begin has told everybody, too. One that nobody waited for any more wants nothing.
        let Ok(built) = built.await else {
            return;
        };
        if let Some(built) = built {
            self.end_build(&repo, built).await;
        }
        if is_cold {
            self.clone_behind(&repo, &asker);
        }
    }

    /// Its thread is waited for at the end of the server.
    fn note_builder(&self, builder: JoinHandle<()>) {
        let mut builders = self.builders.borrow_mut();
        builders.retain(|b| !b.is_finished());
        builders.push(builder);
    }

    /// Does with a build what follows from its end.
    async fn end_build(self: &Rc<Self>, repo: &Arc<Repo>, built: Built) {
        let Built {
            permit,
            archive,
            base,
            epoch,
            end,
        } = built;
        end.note(&self.meter, repo, &archive);
        self.tidy_heap_later();
        let lie = match end {
            End::Complete { lie } => lie,
            End::BadBase(_) => {
                drop(permit);
                return self.replace_base(repo, base).await;
            }
            _ => return drop(permit),
        };
        let want = archive.want.clone();
        let published = Arc::downgrade(&archive);
        self.publish(repo, archive, epoch).await;
        // The next build can begin when nobody holds the permit any more.
        drop(permit);
        // The mirror may have moved while it was built.
        self.rebuild(repo, Cause::Timer);
        // What is for ever the same shares its frames with others for as long as these are there; what has a
        // pack of its own would have another one.
        let is_built_again = want.follows() && want.shape() == Shape::Full;
        match lie {
            // What is shared another server keeps in order, and its files come here.
            _ if want.is_default() && self.is_kept_by_others(repo) => {}
            Lie::Wasteful if is_built_again => self.compact(repo, &want),
            // Others share their frames with this one.
            Lie::Scattered if want.is_default() => self.put_in_order_later(&repo.name, published),
            _ => {}
        }
    }

    /// Has the frames of a snapshot written anew in the order of its archive, if it is still current once it was
    /// that for a while, and no other has to leave for it: where pushes follow each other that would be vain.
    fn put_in_order_later(self: &Rc<Self>, name: &Arc<str>, published: Weak<Archive>) {
        let (jobs, name) = (self.clone(), name.clone());
        let quiet_ms = jobs.faults.order_quiet_ms.unwrap_or(ORDER_QUIET_MS);
        // Nothing of the repository is held meanwhile: it may leave.
        spawn_local(async move {
            tokio::time::sleep(Duration::from_millis(quiet_ms)).await;
            let (Some(repo), Some(archive)) = (jobs.named(&name), published.upgrade()) else {
                return;
            };
            let current = repo.archive_of(&archive.want);
            let is_current = current.is_some_and(|current| Arc::ptr_eq(&current, &archive));
            if !is_current || !jobs.has_spare(archive.fanout.wire_bytes()).await {
                return;
            }
            if let Some(permit) = repo.build_again(&archive.want) {
                tracing::info!(repository = &*repo.name, "putting frames in order");
                let asker = Asker::of(Cause::Timer);
                jobs.build(permit.in_order(), asker, None).await;
            }
        });
    }

    /// A build has ended: after some of them the heap is tidied up, once nothing is built for a moment.
    fn tidy_heap_later(&self) {
        let Some(built) = self.shop.note_built() else {
            return;
        };
        let shop = self.shop.clone();
        spawn_local(async move {
            tokio::time::sleep(Duration::from_millis(HEAP_TRIM_QUIET_MS)).await;
            // It cannot fail but by a panic.
            let _ = spawn_blocking(move || shop.tidy_heap(built)).await;
        });
    }

    /// Has the current snapshot built once more, unless something else is built: it takes all frames over,
    /// into files that hold little else. Its bytes and its id are the same.
    fn compact(self: &Rc<Self>, repo: &Arc<Repo>, want: &Arc<Want>) {
        if let Some(permit) = repo.build_again(want) {
            tracing::info!(repository = &*repo.name, "joining files of frames");
            self.build_for(permit, Cause::Timer);
        }
    }

    /// From here on requests are answered from the archive, whose entry is in its place.
    pub(super) async fn publish(
        self: &Rc<Self>,
        repo: &Arc<Repo>,
        archive: Arc<Archive>,
        epoch: RefsEpoch,
    ) {
        archive.fanout.release_window();
        if repo.is_dropped(epoch) {
            return self.refuse(archive).await;
        }
        self.catalog.retired.replaced_by(&archive);
        let old = repo.publish(archive.clone(), epoch);
        self.end_expired(repo.take_expired());
        if let Some(commit) = archive.want.commit()
            && repo.annex.is_gone(&commit)
        {
            // Its upstream was asked meanwhile.
            self.leave(repo, &[commit].into()).await;
        }
        // Hardly anybody comes back for it, and it may hold many files open.
        match old.filter(|(old, _)| old.id != archive.id) {
            Some((old, true)) => self.end_expired(vec![old]),
            Some((old, false)) => self.retire(vec![old]),
            None => {}
        }
        let (catalog, dir) = (self.catalog.clone(), archive.dir());
        let bytes = spawn_blocking(move || catalog.state.entry_bytes(&dir));
        let bytes = bytes.await.ok().and_then(Result::ok).unwrap_or(0);
        tracing::info!(
            repository = &*repo.name,
            want = %archive.want,
            id = archive.id.as_str(),
            commit = archive.commit.as_deref(),
            wire_bytes = archive.fanout.wire_bytes(),
            own_bytes = bytes,
            "published"
        );
        self.catalog.usage.add_snapshot(&archive.want);
        self.offer(repo, &archive);
        self.sweep_wanted.notify_one();
    }

    async fn spool(self: Rc<Self>, job: SpoolJob) {
        let meter = &self.meter;
        let mut spooler = job.spooler;
        spooler.full_at(self.faults.spool_bytes_max);
        // A file that cannot be opened again drops the spooler, which tells its build.
        let spooled = match job.files.spool.file().try_clone() {
            Ok(file) => {
                let each = |bytes| {
                    meter.add(Event::SpooledBytes, bytes);
                    if self.catalog.usage.add(bytes) {
                        self.sweep_wanted.notify_one();
                    }
                };
                let room = async || self.make_room(&job.repository, Need::Keep).await;
                let file = DiskFile::new(file, self.uring);
                spooler.run(file, each, room).await
            }
            Err(e) => Err(e),
        };
        match spooled {
            Ok(()) => {}
            // The build says so, with its length.
            Err(e) if e.kind() == io::ErrorKind::FileTooLarge && e.raw_os_error().is_none() => {}
            Err(e) => not_kept(meter, &job.repository, &e),
        }
    }
}

impl Keep for Handle<Jobs> {
    fn pack_tip(&self, job: TipJob, place: Option<Seat>) {
        self.spawn(|jobs| jobs.pack_tip(job, place));
    }

    fn spool(&self, job: SpoolJob) {
        self.spawn(|jobs| jobs.spool(job));
    }

    fn make_room(&self, repository: &Arc<str>) -> mpsc::Receiver<()> {
        let (made, is_made) = mpsc::channel();
        let repository = repository.clone();
        self.spawn(move |jobs| async move {
            jobs.make_room(&repository, Need::Keep).await;
            // Fails when nobody waits any more.
            let _ = made.send(());
        });
        is_made
    }
}

/// Ready once a build that waits for a mirror is wanted by nobody, and has ended for that.
pub(super) async fn unwanted(permit: &Permit) {
    loop {
        tokio::time::sleep(Duration::from_millis(WANTED_LOOK_MS)).await;
        if permit.end_unless_wanted() {
            return;
        }
    }
}

/// What a builder's thread gives back.
struct Built {
    /// `None` while the build goes on for its last readers.
    permit: Option<Permit>,
    archive: Arc<Archive>,
    /// What it took over from.
    base: Option<Arc<Archive>>,
    /// Of the refs before they were read.
    epoch: RefsEpoch,
    end: End,
}

/// A build that has all the places it needs: its own, and where its pack is made.
type Ready = (Permit, Seat, Option<Seat>);

/// Waits for its places, without anything of it: what it is made of is looked at afterwards. `None` if it ends here.
fn placed(shop: &Workshop, permit: Permit, arrival: Arrival) -> Option<Ready> {
    let repo = permit.repo();
    let size = produce::size_of(&repo.mirror);
    let seat = shop
        .turns
        .enter(&repo.name, size, permit.urgency(), arrival);
    let mut seat = match seat {
        Ok(seat) => seat,
        Err(why) => {
            let why = refused(repo, &why);
            permit.refuse(why);
            return None;
        }
    };
    // What a timer has begun is for nobody who would wait.
    let is_asked_for = || permit.urgency().cause() == Cause::Asked;
    let is_wanted = || !is_asked_for() || !permit.end_unless_wanted();
    let mut waited = shop.turns.wait_placed(&mut seat, is_wanted);
    let mut packing = None;
    if matches!(waited, Ok(true)) && permit.want().shape() == Shape::Tip {
        // It has a place already, so it is not refused.
        let entered = shop
            .packing
            .enter(&repo.name, permit.urgency(), Arrival::Promised);
        if let Ok(mut place) = entered {
            let look = Duration::from_millis(WANTED_LOOK_MS);
            waited = place.wait_placed(look, is_wanted);
            packing = Some(place);
        }
    }
    match waited {
        Ok(true) => Some((permit, seat, packing)),
        Ok(false) => None,
        Err(_) => {
            refuse(shop, permit, BeginError::Stopping.into());
            None
        }
    }
}

/// Builds the snapshot that `permit` is for, which has a place, on a thread of its own. `git` packs loose objects, if
/// there are too many, unless `stop` turns true.
///
/// The thread is nice from its first turn on, so it takes no lock that a core takes: what is left to
/// do is done by who hears of `done`.
fn run(
    shop: &Arc<Workshop>,
    plane: &Handle<Jobs>,
    (permit, seat, packing): Ready,
    (git, cold): (&Git, Option<ColdSource>),
    stop: watch::Receiver<bool>,
    done: &mut Option<oneshot::Sender<Option<Built>>>,
) {
    sched::be_prompt();
    let (repo, want) = (permit.repo().clone(), permit.want().clone());
    let on = permit.built_on();
    let begin = || begin(shop, &repo, (&want, on), (git, cold.as_ref()), stop.clone());
    let mut begun = catch_unwind(AssertUnwindSafe(begin));
    if matches!(&begun, Ok(Err(e)) if e.is_disk_full()) {
        wait_for_room(plane, &repo.name);
        begun = catch_unwind(AssertUnwindSafe(begin));
    }
    let begun = match begun {
        Ok(Ok(begun)) => begun,
        Ok(Err(BeginError::Current(archive))) => return permit.started(Ok(archive)),
        Ok(Err(BeginError::NoRef(e))) => return permit.refuse(no_ref(&repo, &e)),
        Ok(Err(e)) => {
            give_up_annexed(plane, &repo, (&want, &e));
            return refuse(shop, permit, e.into());
        }
        Err(panic) => return refuse(shop, permit, End::Failed(panicked(&*panic))),
    };
    let (archive, epoch) = (begun.archive.clone(), begun.epoch);
    let base = begun.base.clone();
    let meter = &shop.meter;
    meter.up(Level::BuildsRunning);
    shop.add_running(&archive.fanout);
    permit.started(Ok(archive.clone()));
    let size = produce::size(&begun.view);
    let turn = shop.turns.begin(seat, &repo.name, size, &archive.fanout);
    let mut held = None;
    let built = catch_unwind(AssertUnwindSafe(|| {
        build(shop, begun, plane, (turn, &mut held), packing)
    }));
    meter.down(Level::BuildsRunning);
    let end = match built {
        Ok(Ok(end)) | Ok(Err(end)) => end,
        Err(panic) => End::Failed(panicked(&*panic)),
    };
    // The last bytes of what is not kept are nowhere else: they stay for those who are there, in the
    // build's place and as one of its repository's, so that this is as bounded as the builds are.
    let (permit, last) = match end {
        End::LiveOnly => (None, Some((permit, archive.fanout.clone()))),
        _ => (Some(permit), None),
    };
    if let Some(done) = done.take() {
        // Fails only while the process ends.
        let _ = done.send(Some(Built {
            permit,
            archive,
            base,
            epoch,
            end,
        }));
    }
    if let Some((permit, fanout)) = last {
        fanout.wait_taken();
        // Giving it up takes the repository's lock.
        plane.spawn(|_| async move { drop(permit) });
    }
}

/// Where something of the annex is missing whoever asks again has its upstream asked.
fn give_up_annexed(plane: &Handle<Jobs>, repo: &Arc<Repo>, (want, why): (&Want, &BeginError)) {
    let is_broken = matches!(
        why,
        BeginError::Annex {
            is_broken: true,
            ..
        }
    );
    if let Some(commit) = want.commit().filter(|_| is_broken) {
        let repo = repo.clone();
        plane.spawn(move |jobs| async move { jobs.forget_annexed(&repo, &[commit]).await });
    }
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> String {
    format!("a panic: {}", panic_text(panic))
}

/// What is wanted has gone since somebody has looked for it.
fn no_ref(repo: &Repo, gone: &NoRef) -> StartError {
    StartError {
        status: 404,
        message: format!("{}: {gone}", repo.name),
    }
}

fn refuse(shop: &Workshop, permit: Permit, end: End) {
    let repository = permit.repo().name.clone();
    let repository = &*repository;
    let (End::Abandoned(why) | End::Failed(why) | End::BadBase(why)) = &end else {
        return;
    };
    tracing::error!(repository, "build could not begin: {why}");
    end.count(&shop.meter, permit.repo(), permit.want());
    permit.refuse(StartError {
        status: match end {
            End::Abandoned(_) => 503,
            _ => 500,
        },
        message: format!("cannot build a snapshot of {repository}: {why}"),
    });
}
