//! Other servers are told what was asked for lately, so that one that begins with an empty disk begins with that.

use std::rc::Rc;
use std::time::Duration;

use super::shared::causes;
use super::state::Jobs;
use crate::io::clock::unix_ms;
use crate::limits::{USED_FIRST_MS, USED_STEP_MS, USED_TOLD_MS};
use crate::store::remote::publish::SystemRandom;
use crate::store::remote::used::{Use, tell};

impl Jobs {
    /// Tells it each hour, each server at a time of its own.
    pub(super) async fn keep_used(self: Rc<Self>) {
        let shared = self.shared.as_ref();
        let Some(shared) = shared.filter(|shared| !shared.is_readonly) else {
            return;
        };
        let of = |ms| self.faults.store_used_ms.unwrap_or(ms);
        let mut wait_ms = of(USED_FIRST_MS);
        loop {
            // Between a half and one and a half of it.
            let wait_ms_now = wait_ms / 2 + SystemRandom::below(wait_ms);
            tokio::time::sleep(Duration::from_millis(wait_ms_now)).await;
            wait_ms = of(USED_TOLD_MS);
            let (used, now_hour) = (self.used_here(), unix_ms() / USED_STEP_MS);
            if used.is_empty() || shared.objects.rests() {
                continue;
            }
            let told = tell(&shared.objects, (&used, now_hour), &mut SystemRandom).await;
            match told {
                Ok(true) => {}
                // The next time has it as well.
                Ok(false) => {
                    tracing::debug!("others are not told what is used: they write all the time")
                }
                Err(why) => tracing::debug!("others are not told what is used: {}", causes(&why)),
            }
        }
    }

    /// What somebody has asked this process for, there is something of, and others may know of.
    fn used_here(&self) -> Vec<Use> {
        let all = self.catalog.registry.all().into_iter();
        let used = all.filter(|repo| {
            let is_here = repo.is_mirrored() || repo.has_snapshot();
            is_here && repo.asked.within(u64::MAX) && self.is_shared(repo)
        });
        // As it was spelled: so it is found in the store.
        let used = used.map(|repo| Use {
            repository: repo.spelled.clone(),
            hour: repo.asked.unix_ms() / USED_STEP_MS,
        });
        used.collect()
    }
}
