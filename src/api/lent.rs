//! What a server does not know, and another one has shared: somebody who has begun with it there goes on with it here.

use std::sync::Arc;

use super::core::{Asked, Core};
use super::headers::names_tag;
use crate::archive::place::Archive;
use crate::http::wire::Method;
use crate::manifest::want::Want;

/// What no archive has.
const NO_TAG: &str = "\"none\"";

impl Core {
    /// Whether what is asked for may be one of those that are shared, and may be had unasked.
    fn may_be_lent(&self, asked: &Asked<'_, '_>) -> bool {
        let is_read = asked.head.method != Method::Head;
        let has_store = self.config.store.is_some();
        has_store && is_read && asked.shown.is_none() && asked.named.may_mean(&Want::default())
    }

    /// A part that no snapshot has which is here.
    pub(super) async fn lent_part(
        &self,
        asked: &Asked<'_, '_>,
        name: &str,
    ) -> Option<(Arc<Archive>, (Option<u32>, u64))> {
        if !self.may_be_lent(asked) {
            return None;
        }
        let (repo, part) = (asked.repo.clone(), name.to_owned());
        let lent = self.ask(move |jobs| async move { Ok(jobs.lend_with(repo, part).await) });
        let archive = lent.await.ok().flatten()?;
        let part = archive.part(name)?;
        Some((archive, part))
    }

    /// The archive that a request names by its tag, if that is none of those that are here.
    pub(super) async fn lent_archive(&self, asked: &Asked<'_, '_>) -> Option<Arc<Archive>> {
        let is_named = !asked.head.if_match.is_absent() || asked.head.if_range.is_some();
        // Who takes any has not begun with one.
        let is_any = names_tag(asked.head, NO_TAG);
        if !is_named || is_any || !self.may_be_lent(asked) {
            return None;
        }
        let current = asked.repo.current();
        if current.is_some_and(|current| names_tag(asked.head, &current.etag)) {
            return None;
        }
        let repo = asked.repo.clone();
        let ids = self.ask(move |jobs| async move { Ok(jobs.lendable(repo).await) });
        let mut ids = ids.await.ok()?.into_iter();
        let id = ids.find(|id| names_tag(asked.head, &format!("\"{id}\"")))?;
        let repo = asked.repo.clone();
        let lent = self.ask(move |jobs| async move { Ok(jobs.lend(repo, id).await) });
        lent.await.ok().flatten()
    }
}
