//! The right to build, and what those hear who wait for what comes of it.

use std::fmt;
use std::sync::Arc;

use tokio::sync::watch;

use super::Repo;
use crate::classes::Urgency;
use crate::manifest::want::{CommitId, Want};
use crate::repos::builds::{Started, Ticket};
use crate::repos::error::StartError;

/// What a build takes over from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BuiltOn {
    /// What is best as far as is known without a look at the history.
    Best,
    /// The archive of this commit.
    Near(CommitId),
    /// Its own archive, all of whose frames are written anew.
    InOrder,
}

impl BuiltOn {
    /// The commit that is near.
    pub(crate) fn near(self) -> Option<CommitId> {
        match self {
            BuiltOn::Near(id) => Some(id),
            BuiltOn::Best | BuiltOn::InOrder => None,
        }
    }
}

/// The right, and the duty, to build the snapshot of a want: there is one at a time, or two if the
/// first is not kept and held up by its clients. Dropping it ends the build for everybody.
#[derive(Debug)]
pub(crate) struct Permit {
    repo: Arc<Repo>,
    want: Arc<Want>,
    on: BuiltOn,
    urgency: Urgency,
    sender: watch::Sender<Option<Started>>,
    held: Held,
}

/// What is held for as long as a build goes on, whatever that is.
struct Held(#[expect(dead_code, reason = "it is only to be dropped")] Option<Box<dyn Send + Sync>>);

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Held")
    }
}

impl Repo {
    /// Ends what is built for those alone who take it now, from files that stay where they are for it.
    pub(crate) fn end_live_only(&self, why: &str) {
        let state = self.lock();
        let started = state.wants.all().flat_map(|one| one.builds.started());
        let started = Vec::from_iter(started);
        drop(state);
        started
            .iter()
            .for_each(|archive| archive.fanout.give_way(why));
    }
}

impl Permit {
    /// A new one, and a ticket for the first listener.
    pub(super) fn new(repo: Arc<Repo>, want: Arc<Want>) -> (Permit, Ticket) {
        let (sender, urgency) = (watch::Sender::new(None), Urgency::default());
        let ticket = Ticket::new(&sender, &urgency);
        let permit = Permit {
            repo,
            want,
            on: BuiltOn::Best,
            urgency,
            sender,
            held: Held(None),
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
        permit.on = near.map_or(BuiltOn::Best, BuiltOn::Near);
        permit
    }

    /// Holds what whoever has it built holds for as long as that takes.
    pub(crate) fn holding(self, part: impl Send + Sync + 'static) -> Permit {
        let mut permit = self;
        permit.held = Held(Some(Box::new(part)));
        permit
    }

    /// Has its own archive built once more, its frames in order.
    pub(crate) fn in_order(self) -> Permit {
        let mut permit = self;
        permit.on = BuiltOn::InOrder;
        permit
    }

    /// What it is built on.
    pub(crate) fn built_on(&self) -> BuiltOn {
        self.on
    }

    /// What is to be built.
    pub(crate) fn want(&self) -> &Arc<Want> {
        &self.want
    }

    /// A ticket for a further listener.
    pub(crate) fn ticket(&self) -> Ticket {
        Ticket::new(&self.sender, &self.urgency)
    }

    /// How soon all who wait for it want it.
    pub(crate) fn urgency(&self) -> &Urgency {
        &self.urgency
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

    /// Ends the build before it began, unless somebody waits for it or will come again.
    pub(crate) fn end_unless_wanted(&self) -> bool {
        let own = self.ticket();
        let mut state = self.repo.lock();
        // Under the lock nobody joins. The repository has one to hand out.
        let others = self.sender.receiver_count() > 2;
        if others || self.repo.notes.is_clone_wanted() {
            return false;
        }
        state
            .wants
            .change(&self.want, |served| served.builds.remove(&own));
        true
    }

    fn end(&self) {
        let own = self.ticket();
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
