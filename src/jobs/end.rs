//! How builds end, and what follows from it for those who ask next.

use std::error::Error;
use std::sync::Arc;

use crate::archive::place::Archive;
use crate::io::shortage::is_shortage;
use crate::manifest::want::Want;
use crate::repos::repo::Repo;
use crate::snapshot::lie::Lie;
use crate::snapshot::output::BuildError;
use crate::telemetry::metrics::{BuildResult, Event, Meter};

/// How a build ended.
#[derive(Debug)]
pub(super) enum End {
    /// Its archive is in the cache.
    Complete {
        /// In what way in its entry's files.
        lie: Lie,
    },
    /// All of it was made, and sent to those who were there; it is not kept.
    LiveOnly,
    /// It was given up, for nobody wanted it any more, or the process had no descriptors, memory or
    /// threads left for it. What clients do, the end of the server, and what others take of the machine
    /// are no failure of a build.
    Abandoned(String),
    /// The mirror, the disk or the program is at fault: the next build may fail the same way.
    Failed(String),
    /// The frames of the snapshot that it was built on are not what they were.
    BadBase(String),
}

impl From<BuildError> for End {
    fn from(e: BuildError) -> End {
        match e {
            BuildError::Abandoned(_) | BuildError::Closed(_) => End::Abandoned(e.to_string()),
            BuildError::Frames(_) => End::BadBase(e.to_string()),
            e => End::of_error(&e),
        }
    }
}

impl End {
    /// How a build ends that meets an error.
    pub(super) fn of_error(error: &(dyn Error + 'static)) -> End {
        match is_shortage(error) {
            true => End::Abandoned(error.to_string()),
            false => End::Failed(error.to_string()),
        }
    }

    /// Notes it where those look who ask next, before they can ask, and tells the readers.
    pub(super) fn note(&self, meter: &Meter, repo: &Repo, archive: &Archive) {
        let (repository, fanout) = (&*repo.name, &archive.fanout);
        self.count(meter, repo, &archive.want);
        match self {
            End::Complete { .. } => {}
            End::LiveOnly => repo.set_built(&archive.want),
            End::Abandoned(why) => {
                fanout.fail(why);
                tracing::warn!(repository, "build given up: {why}");
            }
            End::Failed(why) | End::BadBase(why) => {
                fanout.fail(why);
                tracing::error!(repository, "build failed: {why}");
            }
        }
    }

    /// Counts it. Only a failure counts against the repository.
    pub(super) fn count(&self, meter: &Meter, repo: &Repo, want: &Arc<Want>) {
        let result = match self {
            End::Complete { .. } => BuildResult::Complete,
            End::LiveOnly => BuildResult::LiveOnly,
            End::Abandoned(_) => BuildResult::Abandoned,
            End::Failed(why) | End::BadBase(why) => {
                repo.set_not_built(want, why);
                BuildResult::Failed
            }
        };
        meter.add(Event::Build(result), 1);
    }
}
