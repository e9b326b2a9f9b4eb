//! What the log says of the disk: what leaves and why, what stays whatever leaves, what cannot be helped.

use std::path::{Path, PathBuf};
use std::time::Instant;

use super::leaving::{Leaver, Leaving, Listed};
use super::room::{Fill, News, mib};
use super::state::Jobs;
use crate::limits::STAYS_NAMED_MAX;
use crate::store::evict::{Candidate, Plan, Why};
use crate::store::usage::Marks;
use crate::telemetry::metrics::{Event, Evicted, Meter};

/// What a sweep found that somebody should know.
#[derive(Default)]
pub(super) struct Found {
    /// Bytes in use above the limit.
    pub over_bytes: u64,
    /// Bytes that the floor lacks and that nothing brings.
    pub floor_missed_bytes: u64,
    /// Bytes that stay whatever leaves.
    pub fixed_bytes: u64,
    /// The largest of that, each with the reason.
    pub fixed: Vec<String>,
    /// The largest that is in use.
    pub used: Vec<String>,
}

impl Found {
    /// What a plan could not help.
    pub(super) fn of(plan: &Plan, leaving: &Leaving, repos: &[Listed], root: &Path) -> Found {
        let largest = leaving.fixed.iter().take(STAYS_NAMED_MAX);
        Found {
            over_bytes: plan.over_bytes,
            floor_missed_bytes: plan.floor_missed_bytes,
            fixed_bytes: leaving.fixed_bytes,
            fixed: Vec::from_iter(largest.map(|one| why_it_stays(one, repos, root))),
            used: largest_used(leaving),
        }
    }
}

/// Something that never leaves, as the log has it.
fn why_it_stays((path, bytes): &(PathBuf, u64), repos: &[Listed], root: &Path) -> String {
    let bytes = mib(*bytes);
    let repo = repos.iter().find(|listed| listed.repo.mirror == *path);
    let place = path.strip_prefix(root).unwrap_or(path).display();
    match repo.map(|listed| &listed.repo) {
        Some(repo) if !repo.is_mirrored() => {
            format!(
                "{} {bytes} MiB (not usable, or not looked at yet)",
                repo.name
            )
        }
        Some(repo) => format!(
            "{} {bytes} MiB (never compared with its upstream)",
            repo.name
        ),
        None if path.extension().is_some_and(|end| end == "git") => {
            format!("{place} {bytes} MiB (of no upstream)")
        }
        None => format!("{place} {bytes} MiB (not a mirror or snapshot)"),
    }
}

fn largest_used(leaving: &Leaving) -> Vec<String> {
    let bytes = |one: &Candidate| {
        let shared = one.shared.iter().map(|file| leaving.shared[*file].bytes);
        one.own_bytes + shared.sum::<u64>()
    };
    let all = leaving.holdings.iter().flat_map(|holding| holding.all());
    let pinned = all.filter(|one| one.pinned);
    let mut used = Vec::from_iter(pinned.map(|one| (bytes(one), one.key)));
    used.sort_unstable_by(|a, b| b.cmp(a));
    let named = used.into_iter().filter_map(|(bytes, key)| {
        let (name, what) = match leaving.leavers.get(&key)? {
            Leaver::Superseded(archive) => (&archive.repository, "replaced snapshot"),
            Leaver::Tips(repo) => (&repo.name, "single commits before a clone"),
            Leaver::Snapshot(repo, _) => (&repo.name, "snapshot"),
            Leaver::Mirror(repo) => (&repo.name, "mirror"),
        };
        Some(format!("{name} {} MiB ({what})", mib(bytes)))
    });
    named.take(STAYS_NAMED_MAX).collect()
}

impl Jobs {
    /// Says once what cannot be helped, and when it has passed for a while.
    pub(super) fn say(&self, found: &Found, marks: Marks) {
        let now = Instant::now();
        let mut said = self.room.said.borrow_mut();
        match said.stays.hear(found.fixed_bytes > marks.low_bytes, now) {
            Some(News::Begins) => tracing::warn!(
                fixed_bytes = found.fixed_bytes,
                limit_bytes = marks.high_bytes,
                stays = found.fixed.join(", "),
                "what never leaves takes all of --cache-limit, and hardly anything is kept beside it: raise \
                 --cache-limit, or take the largest of it out of the state directory"
            ),
            Some(News::Ends) => {
                tracing::info!("what never leaves takes less than --cache-limit again")
            }
            None => {}
        }
        match said.is_over.hear(found.over_bytes > 0, now) {
            Some(News::Begins) => tracing::warn!(
                over_bytes = found.over_bytes,
                limit_bytes = marks.high_bytes,
                in_use = found.used.join(", "),
                "more than --cache-limit is in use, and what is being read, built, fetched or cloned does \
                 not leave: raise --cache-limit if that is said often"
            ),
            Some(News::Ends) => tracing::info!("no more than --cache-limit is in use again"),
            None => {}
        }
        match said.is_below_floor.hear(found.floor_missed_bytes > 0, now) {
            Some(News::Begins) => tracing::warn!(
                missing_bytes = found.floor_missed_bytes,
                floor_bytes = marks.floor_bytes,
                state = %self.catalog.state.root().display(),
                "less than --cache-free-floor is free, and evicting what nobody wants would not reach it, so \
                 nothing leaves for its sake: find what else fills the file system of the state directory, or \
                 lower --cache-free-floor"
            ),
            Some(News::Ends) => tracing::info!("--cache-free-floor is free again"),
            None => {}
        }
    }

    /// Something was done in vain because the disk is full, and room is made for another try.
    pub(super) fn say_full(&self, repository: &str, is_due: bool, fill: Option<Fill>) {
        let what = match is_due {
            true => "what is worth the least leaves",
            false => "nothing leaves, for that was done less than a minute ago",
        };
        tracing::warn!(
            repository,
            state = %self.catalog.state.root().display(),
            free_bytes = fill.map(|fill| fill.free_bytes),
            in_use_bytes = fill.map(|fill| fill.in_use_bytes),
            limit_bytes = fill.map(|fill| fill.limit_bytes),
            "the disk is full: {what}, then it is tried once more; if that is said often, lower --cache-limit or \
             find what else fills the file system of the state directory"
        );
    }

    /// A mirror is cloned: if it has left lately, there is too little room for what is wanted.
    pub(super) fn say_back(&self, repository: &str) {
        let now = Instant::now();
        let Some(ago) = self.room.left.borrow_mut().take(repository, now) else {
            return;
        };
        let news = self.room.said.borrow_mut().is_too_small.hear(true, now);
        if news == Some(News::Begins) {
            tracing::warn!(
                repository,
                left_ms_ago = ago.as_millis() as u64,
                limit_bytes = self.catalog.usage.marks().high_bytes,
                "a mirror that was evicted minutes ago is cloned again: there is too little room for what is asked \
                 for; raise --cache-limit, or find what else fills the disk (\"evicted\" has the reason)"
            );
        }
    }
}

/// Something has left.
pub(super) struct Gone<'a> {
    pub what: Evicted,
    pub why: Why,
    pub repository: &'a str,
    pub bytes: u64,
    /// What is left.
    pub in_use_bytes: u64,
    pub marks: Marks,
}

impl Gone<'_> {
    /// Counts and says it.
    pub(super) fn note(&self, meter: &Meter) {
        meter.add(Event::Eviction(self.what), 1);
        meter.add(Event::EvictedBytes, self.bytes);
        tracing::info!(
            repository = self.repository,
            what = self.what.name(),
            reason = self.why.name(),
            bytes = self.bytes,
            in_use_bytes = self.in_use_bytes,
            limit_bytes = self.marks.high_bytes,
            "evicted"
        );
        if self.what == Evicted::Mirror && self.bytes > self.marks.high_bytes {
            tracing::warn!(
                repository = self.repository,
                "the mirror alone takes {} MiB, more than --cache-limit: it is cloned for each request; raise \
                 --cache-limit to at least {} MiB",
                mib(self.bytes),
                // Beside it the frames of its snapshot.
                mib(self.bytes.saturating_mul(2))
            );
        }
    }
}
