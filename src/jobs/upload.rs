//! `git upload-pack` in a mirror: its output goes to the client as git makes it. The head of the
//! response waits for the first of it, so that a failure before is a status.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::asker::Asker;
use super::clone::LOOP;
use super::hidden::{NOT_OUR_REF, not_our_ref};
use super::look::failed;
use super::refused_by_git;
use super::state::Jobs;
use crate::git::Output;
use crate::http::net::body::Body;
use crate::http::net::made::{Made, Maker, Taking, made};
use crate::jobs::upload_request::UploadRequest;
use crate::jobs::upload_turns::UploadTurn;
use crate::limits::{
    ENSURE_BY_ID_MAX, ENSURE_ITEMS_MAX, INFO_REFS_WAIT_MS, UPLOAD_LOOK_MS, UPLOAD_PACK_WAIT_MS,
    UPLOAD_SLOW_BYTES,
};
use crate::manifest::want::AnyId;
use crate::mirror::{Upload, annex};
use crate::repos::error::StartError;
use crate::repos::repo::Repo;

/// Where the answer goes: from the first byte on, to whoever reads the pipe.
type Reply<T> = oneshot::Sender<Result<T, StartError>>;

/// What comes before the refs, except in version 2 of the protocol (gitprotocol-http(5)).
const ADVERTISEMENT: &[u8] = b"001e# service=git-upload-pack\n0000";

/// A core's request.
pub(crate) struct GitRequest {
    pub repo: Arc<Repo>,
    pub call: Call,
    pub protocol: Option<String>,
    pub client: IpAddr,
    pub asker: Asker,
    pub asked: Instant,
    pub reply: Reply<Made>,
}

/// What the client calls.
pub(crate) enum Call {
    /// `info/refs`.
    InfoRefs,
    /// `git-upload-pack` with this request.
    UploadPack {
        /// As it was sent.
        body: Body,
        /// Whether it is compressed.
        gzip: bool,
    },
}

/// The way of git's output to the client.
struct Relay {
    way: Way,
    before: &'static [u8],
    /// Whether an object that the mirror lacks is worth a look at the upstream.
    may_retry: bool,
    /// Whether git refused because the mirror lacks an object, and the client did not hear of it.
    lacks_object: bool,
}

/// Who the answer is for.
enum Way {
    /// A core that waits for its beginning.
    Reply(Reply<Made>),
    /// A core that sends it.
    Sent(Maker),
    /// Nobody: the client has left.
    None,
}

impl Relay {
    fn new(reply: Reply<Made>, before: &'static [u8]) -> Relay {
        Relay {
            way: Way::Reply(reply),
            before,
            may_retry: true,
            lacks_object: false,
        }
    }

    /// Hands over to the core what git writes.
    fn begin(&mut self, output: Output, taking: Arc<Taking>) -> Result<(), String> {
        let Output { first, rest } = output;
        if self.may_retry && is_not_our_ref(&first) {
            self.lacks_object = true;
            return Err("the mirror lacks what is wanted".into());
        }
        self.answer(&first, Some(rest), taking)
    }

    fn answer(
        &mut self,
        first: &[u8],
        rest: Option<OwnedFd>,
        taking: Arc<Taking>,
    ) -> Result<(), String> {
        let Way::Reply(reply) = std::mem::replace(&mut self.way, Way::None) else {
            return Err("the client has left".into());
        };
        let first = [self.before, first].concat();
        let (maker, made) = made(first, rest, taking);
        let sent = reply.send(Ok(made));
        sent.map_err(|_| "the client has left".to_owned())?;
        self.way = Way::Sent(maker);
        Ok(())
    }

    /// Waits until the client has taken all that git writes.
    async fn taken(&mut self) -> Result<(), String> {
        match &mut self.way {
            Way::Sent(maker) => maker
                .taken()
                .await
                .map_err(|_| "the client has left".into()),
            _ => Ok(()),
        }
    }

    /// Ready when the client has left before the answer was begun.
    async fn unheard(&mut self) {
        match &mut self.way {
            Way::Reply(reply) => reply.closed().await,
            _ => std::future::pending().await,
        }
    }

    fn end(mut self) {
        if let Way::Reply(_) = self.way {
            // A git that says nothing has still answered.
            let taking = Taking::new(UPLOAD_SLOW_BYTES);
            // Fails when the client has left.
            let _ = self.answer(&[], None, taking);
        }
        if let Way::Sent(maker) = self.way {
            maker.end();
        }
    }

    fn fail(self, error: StartError) {
        match self.way {
            // Fails when the client has left.
            Way::Reply(reply) => drop(reply.send(Err(error))),
            Way::Sent(maker) => maker.fail(&error.message),
            Way::None => {}
        }
    }

    /// As [`fail`](Relay::fail), but what the client has not yet taken is dropped.
    fn cut(self, error: StartError) {
        match self.way {
            Way::Sent(maker) => maker.cut(),
            _ => self.fail(error),
        }
    }
}

/// Why a turn that was lost ended.
fn lost_turn() -> StartError {
    StartError {
        status: 503,
        message: "the download was too slow while others waited; try again later".into(),
    }
}

fn is_not_our_ref(bytes: &[u8]) -> bool {
    bytes
        .get(4..)
        .is_some_and(|text| text.starts_with(NOT_OUR_REF))
}

impl Jobs {
    /// Answers a core.
    pub(crate) async fn git_protocol(self: Rc<Self>, request: GitRequest) {
        let version_2 = |p: &String| p.split(':').any(|word| word == "version=2");
        let before = match &request.call {
            Call::InfoRefs if !request.protocol.as_ref().is_some_and(version_2) => ADVERTISEMENT,
            _ => &[],
        };
        let GitRequest {
            repo,
            call,
            protocol,
            client,
            asker,
            asked,
            reply,
        } = request;
        let mut relay = Relay::new(reply, before);
        let mut upload = Running {
            repo: &repo,
            repository: repo.mirror.clone(),
            asker: &asker,
            protocol: protocol.as_deref(),
            client,
            asked,
            input: None,
        };
        match self.upload_pack(&mut upload, call, &mut relay).await {
            Some(Ended::Whole) => relay.end(),
            Some(Ended::Lost) => relay.cut(lost_turn()),
            Some(Ended::Failed(error)) => relay.fail(error),
            None => {}
        }
    }

    /// How it ended; `None` if the client has left before anything was said: with it goes all that it has
    /// sent. No turn is held while anything but its own git is waited for.
    async fn upload_pack(
        self: &Rc<Self>,
        upload: &mut Running<'_>,
        call: Call,
        relay: &mut Relay,
    ) -> Option<Ended> {
        let begun = tokio::select! {
            begun = self.begin_upload(upload, call) => begun,
            () = relay.unheard() => return None,
        };
        let turn = match begun {
            Ok(Begun::Turn(turn)) => turn,
            Ok(Begun::NotShown(id)) => {
                let refused = not_our_ref(id);
                // Fails when the client has left.
                let _ = relay.answer(&refused, None, Taking::new(UPLOAD_SLOW_BYTES));
                return Some(Ended::Whole);
            }
            Err(error) => return Some(Ended::Failed(error)),
        };
        let ended = self.run_upload_pack(upload, &turn, relay).await;
        if !relay.lacks_object {
            return Some(Ended::of(ended, &turn));
        }
        drop(turn);
        let looked = tokio::select! {
            looked = self.look_upstream(upload) => looked,
            () = relay.unheard() => return None,
        };
        let turn = match looked {
            Ok(turn) => turn,
            Err(error) => return Some(Ended::Failed(error)),
        };
        relay.may_retry = false;
        let ended = self.run_upload_pack(upload, &turn, relay).await;
        Some(Ended::of(ended, &turn))
    }

    /// All that comes before git runs: a mirror, a turn, and what git is to read.
    async fn begin_upload(
        self: &Rc<Self>,
        upload: &mut Running<'_>,
        call: Call,
    ) -> Result<Begun<'_>, StartError> {
        let asker = (upload.asker, upload.asked);
        self.prepare_mirror(upload.repo, &call, asker).await?;
        let turn = self.take_turn(upload.client).await?;
        // Not before: what waits for a turn takes no more memory than was sent.
        upload.input = self.read_request(call).await?;
        if self.permissions.of_repository(&upload.repo.name).is_none() {
            return Ok(Begun::Turn(turn));
        }
        drop(turn);
        let (repo, asker) = (upload.repo, upload.asker);
        if let Some(id) = self.hide((repo, asker), upload.input.as_mut()).await? {
            return Ok(Begun::NotShown(id));
        }
        self.take_turn(upload.client).await.map(Begun::Turn)
    }

    /// What is wanted may be younger than the mirror's refs, or something that no followed ref leads to. Gives a
    /// turn to try again.
    async fn look_upstream(
        self: &Rc<Self>,
        upload: &mut Running<'_>,
    ) -> Result<UploadTurn<'_>, StartError> {
        let (repo, asker, asked) = (upload.repo, upload.asker, upload.asked);
        let missing = self.missing(upload).await;
        if self.is_annexed(repo, &missing).await {
            upload.repository = annex(&repo.mirror);
            return self.take_turn(upload.client).await;
        }
        // What is there then is all that there is.
        tokio::join!(
            async { drop(self.fresh_since(repo, asked, asker).await) },
            async { drop(self.seek_all(repo, &missing, asker).await) },
        );
        // The annex gives out all that is in it: not where something is wanted of it that may not be.
        let missing = self.missing(upload).await;
        if !missing.is_empty() && missing.iter().all(|id| repo.annex.is_fresh(id)) {
            upload.repository = annex(&repo.mirror);
        }
        self.take_turn(upload.client).await
    }

    /// Whether the annex has all of these, and nothing that may not be given out.
    async fn is_annexed(&self, repo: &Repo, ids: &[AnyId]) -> bool {
        if ids.is_empty() || !repo.annex.is_all_fresh() || repo.annex.tips().kept().next().is_none()
        {
            return false;
        }
        let names: Vec<String> = ids.iter().map(ToString::to_string).collect();
        let kinds = self.git.kinds(&annex(&repo.mirror), &names).await;
        kinds.is_ok_and(|kinds| kinds.iter().all(Option::is_some))
    }

    /// Of the objects that are wanted by their ids those that the mirror lacks, unless these are too many.
    async fn missing(&self, upload: &Running<'_>) -> Vec<AnyId> {
        let Some(input) = &upload.input else {
            return Vec::new();
        };
        let wants = input.wants(ENSURE_ITEMS_MAX + 1).unwrap_or_default();
        if wants.len() > ENSURE_ITEMS_MAX {
            return Vec::new();
        }
        let names: Vec<String> = wants.iter().map(ToString::to_string).collect();
        let kinds = self.git.kinds(&upload.repo.mirror, &names).await;
        let there = wants.into_iter().zip(kinds.unwrap_or_default());
        let missing = there.filter(|(_, kind)| kind.is_none()).map(|(id, _)| id);
        let missing = Vec::from_iter(missing.collect::<BTreeSet<_>>());
        match missing.len() <= ENSURE_BY_ID_MAX {
            true => missing,
            false => Vec::new(),
        }
    }

    async fn take_turn(&self, client: IpAddr) -> Result<UploadTurn<'_>, StartError> {
        let wait = Duration::from_millis(UPLOAD_PACK_WAIT_MS);
        let turn = tokio::time::timeout(wait, self.semaphores.uploads.acquire(client));
        turn.await.map_err(|_| StartError {
            status: 503,
            message: "too many downloads at once; try again later".into(),
        })
    }

    async fn read_request(&self, call: Call) -> Result<Option<UploadRequest>, StartError> {
        match call {
            Call::InfoRefs => Ok(None),
            Call::UploadPack { body, gzip } => {
                UploadRequest::new(body, gzip, &self.bodies).await.map(Some)
            }
        }
    }

    /// Sees to a mirror.
    async fn prepare_mirror(
        self: &Rc<Self>,
        repo: &Arc<Repo>,
        call: &Call,
        (asker, asked): (&Asker, Instant),
    ) -> Result<(), StartError> {
        self.ensure_young(repo, asker).await?;
        if matches!(call, Call::InfoRefs) {
            let limit = Duration::from_millis(INFO_REFS_WAIT_MS);
            match self.fresh_in_time(repo, asked, asker, limit).await {
                // The servers that it came by way of would never hear of anything new.
                Err(e) if e.status == LOOP && !asker.via.is_empty() => return Err(e),
                // It was another repository's.
                Err(_) if !repo.is_mirrored() => drop(self.ensure_mirror(repo, asker).await?),
                // What is there is better than nothing; why it is old was logged.
                _ => {}
            }
        }
        Ok(())
    }

    async fn run_upload_pack(
        &self,
        running: &mut Running<'_>,
        turn: &UploadTurn<'_>,
        relay: &mut Relay,
    ) -> Result<(), StartError> {
        let Running {
            repo,
            repository,
            protocol,
            input,
            ..
        } = running;
        let request = input.as_mut().map(UploadRequest::open);
        let upload = Upload {
            mirror: repository,
            protocol: *protocol,
            request: request.transpose().map_err(|e| failed(repo, &e))?,
        };
        let take = async |output| pass(relay, input.as_mut(), turn, output).await;
        let ended = self.git.upload_pack(upload, take, turn.lost()).await;
        ended.map_err(|e| refused_by_git::answer(repo, &e))
    }
}

/// A `git upload-pack` and what it needs.
struct Running<'r> {
    repo: &'r Arc<Repo>,
    /// What it is served from: the mirror, or its annex.
    repository: PathBuf,
    asker: &'r Asker,
    protocol: Option<&'r str>,
    client: IpAddr,
    asked: Instant,
    /// What git is to read, once there is a turn.
    input: Option<UploadRequest>,
}

/// What came before git runs.
enum Begun<'t> {
    Turn(UploadTurn<'t>),
    /// This is wanted, and is not given out to this one.
    NotShown(AnyId),
}

/// How an answer ended.
enum Ended {
    Whole,
    /// It was too slow, and others needed its turn.
    Lost,
    Failed(StartError),
}

impl Ended {
    fn of(ended: Result<(), StartError>, turn: &UploadTurn<'_>) -> Ended {
        match ended {
            Ok(()) => Ended::Whole,
            Err(_) if turn.is_lost() => Ended::Lost,
            Err(error) => Ended::Failed(error),
        }
    }
}

/// Hands on what git makes.
async fn pass(
    relay: &mut Relay,
    input: Option<&mut UploadRequest>,
    turn: &UploadTurn<'_>,
    output: Output,
) -> Result<(), String> {
    let taking = turn.taking().ok_or("it has no turn")?;
    relay.begin(output, taking)?;
    let mut taken = pin!(relay.taken());
    // From here on it is not run again.
    if let Some(input) = input {
        let look = Duration::from_millis(UPLOAD_LOOK_MS);
        while !input.forget_if_read() {
            if let Ok(taken) = tokio::time::timeout(look, taken.as_mut()).await {
                return taken;
            }
        }
    }
    taken.await
}
