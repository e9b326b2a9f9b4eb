//! Where a client gets a part from the store by itself.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::shared::{ShareError, causes, place_of};
use super::state::Jobs;
use crate::limits::REDIRECT_WAIT_MS;
use crate::repos::repo::Repo;

impl Jobs {
    /// The URL at which a part of a repository's snapshots can be read, if it is in the store, and clients are sent there.
    pub(crate) async fn straight(
        self: Rc<Self>,
        repo: Arc<Repo>,
        part: String,
        bytes: u64,
    ) -> Option<String> {
        let shared = self.shared.as_ref()?;
        let straight = shared.straight.as_ref()?;
        if shared.objects.rests() {
            return None;
        }
        let place = place_of(&repo);
        let found = async {
            let base = shared.base(&repo.name, &place);
            match straight.key(&repo.name, (&part, bytes), base).await? {
                Some(key) => Ok(Some(straight.url(&place.part(&key)).await?)),
                None => Ok::<_, ShareError>(None),
            }
        };
        let limit = Duration::from_millis(REDIRECT_WAIT_MS);
        match tokio::time::timeout(limit, found).await {
            Ok(Ok(url)) => url,
            Ok(Err(why)) => {
                let (repository, why) = (&*repo.name, causes(&why));
                tracing::debug!(repository, "no client is sent to the store: {why}");
                None
            }
            Err(_) => None,
        }
    }
}
