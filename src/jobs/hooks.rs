//! What follows from webhooks.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::spawn_local;

use super::asker::Asker;
use super::news::Heard;
use super::state::Jobs;
use crate::io::clock::unix_ms;
use crate::limits::{HOOK_BRANCHES_MAX, HOOK_INTERVAL_MS, PREBUILD_ASKED_MS};
use crate::repos::repo::{Found, Repo};
use crate::telemetry::metrics::Cause;

impl Jobs {
    /// Does what follows from a webhook. Of a repository that has no mirror nothing follows.
    pub(crate) async fn hear(self: Rc<Self>, heard: Heard) {
        let mut is_known = false;
        for host in &heard.hosts {
            for repo in self.known(host, &heard.path) {
                if repo.is_mirrored() || repo.current().is_some() {
                    is_known = true;
                    self.hook(repo, heard.pushed.clone());
                }
            }
        }
        if !is_known {
            let (hosts, path) = (heard.hosts.join(", "), &*heard.path);
            tracing::info!(
                hosts,
                path,
                "nothing follows from a webhook: nothing of that name is mirrored"
            );
        }
    }

    /// The repositories of this name, in any case.
    fn known(&self, host: &str, path: &str) -> Vec<Arc<Repo>> {
        let path = path.strip_suffix(".git").unwrap_or(path);
        let is_it = |repo: &Arc<Repo>| {
            let own = repo.name.split_once('/');
            own.is_some_and(|(own_host, own)| own_host == host && own.eq_ignore_ascii_case(path))
        };
        let all = self.catalog.registry.all();
        all.into_iter().filter(is_it).collect()
    }

    fn hook(self: &Rc<Self>, repo: Arc<Repo>, pushed: Option<String>) {
        self.schedule.borrow_mut().hooked(&repo.name, unix_ms());
        self.absent.borrow_mut().forget(&repo.name);
        let mut hooked = self.hooked.borrow_mut();
        // What begins then comes later than all who find it waiting.
        let is_first = !hooked.contains_key(&repo.name);
        let waiting = hooked.entry(repo.name.clone()).or_default();
        if waiting.len() < HOOK_BRANCHES_MAX {
            waiting.extend(pushed.filter(|name| !waiting.contains(name)));
        }
        drop(hooked);
        if is_first {
            spawn_local(self.clone().freshen_hooked(repo));
        }
    }

    /// Has the upstream looked at, but not more than once in so long, and makes what is asked for next.
    async fn freshen_hooked(self: Rc<Self>, repo: Arc<Repo>) {
        let interval = Duration::from_millis(HOOK_INTERVAL_MS);
        let left = interval.saturating_sub(repo.looked.ago());
        tokio::time::sleep(left).await;
        let pushed = self.hooked.borrow_mut().remove(&repo.name);
        let pushed = pushed.unwrap_or_default();
        let asker = Asker::of(Cause::Webhook);
        // Why it fails was logged; the timer tries again.
        let fresh = self.fresh_since(&repo, Instant::now(), &asker).await;
        if fresh.is_ok() && !pushed.is_empty() {
            self.prebuild(&repo, &pushed);
        }
    }

    /// Builds the snapshots of the branches that were pushed, and that of the default branch also if it has left,
    /// where somebody asked for them lately. Those that are in use were replaced already.
    fn prebuild(self: &Rc<Self>, repo: &Arc<Repo>, pushed: &[String]) {
        for permit in repo.rebuild_others(pushed) {
            self.build_for(permit, Cause::Webhook);
        }
        if repo.is_mirrored()
            && repo.current().is_none()
            && repo.asked.within(PREBUILD_ASKED_MS)
            && let Found::Vacant(permit) = repo.find(None)
        {
            self.build_for(permit, Cause::Webhook);
        }
    }
}
