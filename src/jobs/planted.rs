//! What a mirror begins with where a snapshot was taken from the store: its packs, which lie here already.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::archive_id::shown;
use super::shared::{ShareError, Shared, causes, place_of};
use super::state::Jobs;
use crate::archive::place::Archive;
use crate::limits::{REMOTE_META_BYTES_MAX, STORE_FIRST_WAIT_MS};
use crate::manifest::parts::part_name;
use crate::manifest::want::Want;
use crate::mirror::{Git, MirrorError, Seed, packed};
use crate::repos::repo::Repo;
use crate::store::remote::key::refs_name;

impl Jobs {
    /// Makes a mirror of what is here and what the upstream has beside it, or a clone.
    pub(super) async fn make_mirror(
        &self,
        (repo, seed): (&Repo, &Option<Seed>),
        git: &Git,
    ) -> Result<(), MirrorError> {
        let staging = self.catalog.state.tmp_dir();
        if let Some(seed) = seed {
            let grown = git.clone_seeded(&repo.url, &repo.mirror, &staging, seed);
            match grown.await {
                Err(why) if !is_of_upstream(&why) => {
                    let repository = &*repo.name;
                    tracing::warn!(
                        repository,
                        "cloned anew, what was shared is of no use: {why}"
                    );
                }
                done => return done,
            }
        }
        git.clone_mirror(&repo.url, &repo.mirror, &staging).await
    }

    /// What a mirror of a repository can begin with, if its snapshot was taken from the store.
    pub(super) async fn seed(self: &Rc<Self>, repo: &Arc<Repo>) -> Option<Seed> {
        let shared = self.shared.as_ref()?;
        // What was forced away would be among the packs, and who may read is the upstream's to say.
        if self.permissions.of_repository(&repo.name).is_some() {
            return None;
        }
        let archive = repo.archive_of(&Want::default())?;
        let mut seed = of_commit(&archive)?;
        let refs = refs_of(shared, repo, &archive);
        match tokio::time::timeout(Duration::from_millis(STORE_FIRST_WAIT_MS), refs).await {
            Ok(Ok(Some(refs))) => seed.refs = refs,
            // Then all but what HEAD leads to is fetched.
            Ok(Ok(None)) | Err(_) => {}
            Ok(Err(why)) => {
                let (repository, why) = (&*repo.name, causes(&why));
                tracing::warn!(repository, "no refs from the store: {why}");
            }
        }
        Some(seed)
    }

    /// The refs that a snapshot shows, if the mirror has the same now; in the form in which they are shared.
    pub(super) async fn shown_refs(&self, repo: &Arc<Repo>, archive: &Archive) -> Option<Vec<u8>> {
        let refs = self.read_refs(repo).await.ok()?;
        let (digest, level) = (refs.digest(), self.shop.level);
        let now = shown(&archive.want, (&refs, &digest), None, &repo.url, level);
        let text = (now == archive.shown).then(|| packed::text(&refs))?;
        (text.len() <= REMOTE_META_BYTES_MAX).then_some(text)
    }
}

/// Whether a clone would fail the same way.
fn is_of_upstream(why: &MirrorError) -> bool {
    matches!(
        why,
        MirrorError::NotFound { .. }
            | MirrorError::Denied { .. }
            | MirrorError::Unreachable { .. }
            | MirrorError::Untrusted { .. }
            | MirrorError::Limited { .. }
            | MirrorError::Redirected { .. }
            | MirrorError::Loop { .. }
            | MirrorError::Protocol { .. }
            | MirrorError::Owner { .. }
            | MirrorError::TimedOut { .. }
            | MirrorError::TooLarge { .. }
            | MirrorError::DiskFull { .. }
    )
}

/// The packs of a snapshot, and its commit for all refs: more than that is not known of it here.
fn of_commit(archive: &Archive) -> Option<Seed> {
    let commit = archive.commit.as_ref()?;
    let names = archive.names()?;
    let packs = names.files().filter(|file| file.whole.is_none());
    let packs = packs.map(|file| file.path.clone()).collect();
    Some(Seed::of_commit(archive.dir(), packs, commit))
}

/// The refs that were shared together with a snapshot, if it is the current one still.
async fn refs_of(
    shared: &Shared,
    repo: &Repo,
    archive: &Archive,
) -> Result<Option<Vec<u8>>, ShareError> {
    let place = place_of(repo);
    let head = shared.base(&repo.name, &place).await?.head;
    let current = head.current(&shared.about(&archive.want));
    let is_current = current.is_some_and(|current| current.id == archive.id.as_str());
    let packs: BTreeSet<&str> = head.packs.iter().map(|key| key.name()).collect();
    let names = archive.names().into_iter().flat_map(|names| names.files());
    let own = names.filter(|file| file.whole.is_none());
    let own: BTreeSet<&str> = own.map(|file| part_name(&file.path)).collect();
    match &head.refs {
        Some(key) if is_current && packs == own => {
            Ok(Some(shared.small(&place, key, refs_name).await?))
        }
        _ => Ok(None),
    }
}
