//! The right to build, and what those hear who wait for what comes of it.

use std::sync::Arc;

use tokio::sync::watch;

use super::Repo;
use crate::manifest::want::{CommitId, Want};
use crate::repos::builds::{Started, Ticket};
use crate::repos::error::StartError;

/// The right, and the duty, to build the snapshot of a want: there is one at a time, or two if the
/// first is not kept and held up by its clients. Dropping it ends the build for everybody.
#[derive(Debug)]
pub(crate) struct Permit {
    repo: Arc<Repo>,
    want: Arc<Want>,
    /// The commit of the archive that it is best built on, if that is known.
    near: Option<CommitId>,
    sender: watch::Sender<Option<Started>>,
}

impl Permit {
    /// A new one, and a ticket for the first listener.
    pub(super) fn new(repo: Arc<Repo>, want: Arc<Want>) -> (Permit, Ticket) {
        let (sender, ticket) = watch::channel(None);
        let permit = Permit {
            repo,
            want,
            near: None,
            sender,
        };
        (permit, ticket)
    }

    /// The repository.
    pub(crate) fn repo(&self) -> &Arc<Repo> {
        &self.repo
    }

    /// Names the commit of an archive that it is best built on.
    pub(crate) fn near(self, near: Option<CommitId>) -> Permit {
        let mut permit = self;
        permit.near = near;
        permit
    }

    /// That commit.
    pub(crate) fn nearest(&self) -> Option<CommitId> {
        self.near
    }

    /// What is to be built.
    pub(crate) fn want(&self) -> &Arc<Want> {
        &self.want
    }

    /// A ticket for a further listener.
    pub(crate) fn ticket(&self) -> Ticket {
        self.sender.subscribe()
    }

    /// Tells everybody what there is to read.
    pub(crate) fn started(&self, started: Started) {
        self.sender.send_replace(Some(started));
    }
}

impl Permit {
    /// Ends the build before it began. Whoever asks after having heard of it finds no build.
    pub(crate) fn refuse(self, why: StartError) {
        self.end();
        self.started(Err(why));
    }

    fn end(&self) {
        let own = self.sender.subscribe();
        let mut state = self.repo.lock();
        state
            .wants
            .change(&self.want, |served| served.builds.remove(&own));
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
