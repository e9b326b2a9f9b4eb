//! What a mirror begins with where a snapshot is in the store: its packs, which are taken from there unless they are here
//! already. Where the upstream does not answer that is all it has, until it does.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::task::{spawn_blocking, spawn_local};

use super::archive_id::shown;
use super::asker::Asker;
use super::shared::{ShareError, Shared, causes, place_of};
use super::state::Jobs;
use super::taking::TakenFor;
use crate::archive::place::Archive;
use crate::io::unkept::Unkept;
use crate::limits::{REMOTE_META_BYTES_MAX, STORE_FIRST_WAIT_MS};
use crate::manifest::parts::part_name;
use crate::manifest::want::Want;
use crate::mirror::schedule::Shown;
use crate::mirror::{AreShared, Git, MirrorError, Seed, packed};
use crate::repos::repo::{Found, Repo};
use crate::store::remote::key::refs_name;
use crate::store::staging::Staging;
use crate::telemetry::metrics::Cause;

/// A mirror that was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Made {
    /// It is like its upstream.
    Compared,
    /// It is as others have seen that then.
    Shared { compared_unix_ms: u64 },
}

/// What a mirror of a repository begins with.
pub(super) struct Planted {
    seed: Seed,
    from: From,
    /// Where its packs lie, for as long as this does.
    _home: Unkept<Staging>,
}

/// Where that comes from.
enum From {
    /// A snapshot, of which the refs may be known.
    Snapshot {
        archive: Arc<Archive>,
        has_refs: bool,
    },
    /// What servers of another version have shared.
    Others,
}

impl Jobs {
    /// Makes a mirror of what is here and what the upstream has beside it, or a clone. Where the upstream does not answer it is
    /// made of what is here alone.
    pub(super) async fn make_mirror(
        &self,
        (repo, planted): (&Repo, &Option<Planted>),
        git: &Git,
    ) -> Result<Made, MirrorError> {
        let staging = self.catalog.state.tmp_dir();
        if let Some(planted) = planted {
            let grown = git.clone_seeded(&repo.url, &repo.mirror, &staging, &planted.seed);
            let repository = &*repo.name;
            match grown.await {
                Ok(()) => return Ok(Made::Compared),
                Err(why) if is_away(&why) => {
                    let Some(made) = self.plant_alone(repo, planted, git).await? else {
                        return Err(why);
                    };
                    tracing::warn!(repository, "served as it was shared: {why}");
                    return Ok(made);
                }
                Err(why) if is_of_upstream(&why) => return Err(why),
                Err(why) => {
                    tracing::warn!(
                        repository,
                        "cloned anew, what was shared is of no use: {why}"
                    );
                }
            }
        }
        let cloned = git.clone_mirror(&repo.url, &repo.mirror, &staging).await;
        cloned.map(|()| Made::Compared)
    }

    /// A mirror that is nothing but what was shared; nothing where not all of that is known.
    async fn plant_alone(
        &self,
        repo: &Repo,
        planted: &Planted,
        git: &Git,
    ) -> Result<Option<Made>, MirrorError> {
        let From::Snapshot {
            archive,
            has_refs: true,
        } = &planted.from
        else {
            return Ok(None);
        };
        let Some(compared_unix_ms) = archive.seen_elsewhere_unix_ms() else {
            return Ok(None);
        };
        let (url, level) = (repo.url.clone(), self.shop.level);
        let (want, shows) = (archive.want.clone(), archive.shown);
        // Which branch HEAD names is not shared, but what a snapshot shows depends on it.
        let are_shared: AreShared = Arc::new(move |refs| {
            let digest = refs.digest();
            shown(&want, (refs, &digest), None, &url, level) == shows
        });
        let staging = self.catalog.state.tmp_dir();
        let places = (&*repo.url, &*repo.mirror, &*staging);
        let compared = SystemTime::UNIX_EPOCH + Duration::from_millis(compared_unix_ms);
        let planted = git.plant_mirror(places, (&planted.seed, are_shared), compared);
        let is_made = planted.await?;
        Ok(is_made.then_some(Made::Shared { compared_unix_ms }))
    }

    /// What a mirror of a repository can begin with: a snapshot that was taken from the store, or is there to be.
    pub(super) async fn planted(self: &Rc<Self>, repo: &Arc<Repo>) -> Option<Planted> {
        let shared = self.shared.as_ref()?;
        // What was forced away would be among the packs, and who may read is the upstream's to say.
        if self.permissions.of_repository(&repo.name).is_some() {
            return None;
        }
        let Some(archive) = self.taken_for_mirror(repo).await else {
            return self.planted_otherwise(shared, repo).await;
        };
        let (catalog, of) = (self.catalog.clone(), archive.clone());
        let linked = spawn_blocking(move || of_commit(&of, catalog.state.staging()?)).await;
        let (mut seed, _home) = match linked.map_err(ShareError::from).flatten() {
            Ok(linked) => linked?,
            Err(why) => {
                let (repository, why) = (&*repo.name, causes(&why));
                tracing::warn!(repository, "no packs of what was shared: {why}");
                return None;
            }
        };
        let mut has_refs = false;
        let refs = refs_of(shared, repo, &archive);
        match tokio::time::timeout(Duration::from_millis(STORE_FIRST_WAIT_MS), refs).await {
            Ok(Ok(Some(refs))) => (seed.refs, has_refs) = (refs, true),
            // Then all but what HEAD leads to is fetched.
            Ok(Ok(None)) | Err(_) => {}
            Ok(Err(why)) => {
                let (repository, why) = (&*repo.name, causes(&why));
                tracing::warn!(repository, "no refs from the store: {why}");
            }
        }
        let from = From::Snapshot { archive, has_refs };
        Some(Planted { seed, from, _home })
    }

    /// The same where there is no snapshot that this server can take.
    async fn planted_otherwise(&self, shared: &Shared, repo: &Arc<Repo>) -> Option<Planted> {
        if shared.objects.rests() {
            return None;
        }
        let planted = self.planted_of_others(shared, repo);
        match planted.await {
            Ok(found) => found.map(|(seed, _home)| {
                let from = From::Others;
                Planted { seed, from, _home }
            }),
            Err(why) => {
                let (repository, why) = (&*repo.name, causes(&why));
                tracing::warn!(repository, "no packs from the store: {why}");
                None
            }
        }
    }

    /// A snapshot of a plain request whose packs are here, once they are, if it was taken from the store, or is there to be. That
    /// ends by itself: a store that stalls is left alone. A build that runs has looked there, and may wait for this mirror.
    async fn taken_for_mirror(self: &Rc<Self>, repo: &Arc<Repo>) -> Option<Arc<Archive>> {
        if let Some(archive) = repo.archive_of(&Want::default()) {
            return Some(archive);
        }
        if !self.takings.is_any(&repo.name)
            && let Found::Vacant(permit) = repo.find(None)
        {
            // Whoever follows it goes on when nobody waits for the mirror any more.
            let (jobs, taken) = (self.clone(), self.unless_shared(permit, TakenFor::Mirror));
            spawn_local(async move {
                match taken.await {
                    // Whoever has asked for it meanwhile waits for it.
                    Some(permit) if !permit.end_unless_wanted() => {
                        let asker = Asker::of(Cause::Asked);
                        jobs.build_here(permit, asker, None).await;
                    }
                    _ => {}
                }
            });
        }
        let packs = self.takings.packs(&repo.name).await;
        packs.or_else(|| repo.archive_of(&Want::default()))
    }

    /// What a mirror was made of is served, as old as it is, until the upstream answers: it is compared as any other.
    pub(super) async fn keep_planted(self: &Rc<Self>, repo: &Arc<Repo>, compared_unix_ms: u64) {
        repo.set_fetched_before(compared_unix_ms);
        self.keep(repo, Some(compared_unix_ms));
        self.note_compared(repo, Shown::Failed);
        self.mirror_changed(repo);
        if let Some(head) = self.read_head(repo).await {
            repo.set_first_head(head);
        }
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

/// Whether nothing was heard from an upstream.
fn is_away(why: &MirrorError) -> bool {
    matches!(
        why,
        MirrorError::Unreachable { .. }
            | MirrorError::Limited { .. }
            | MirrorError::TimedOut { .. }
    )
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

/// The packs of a snapshot, and its commit for all refs: more than that is not known of it here. They are linked: what is taken
/// from the store gets its place meanwhile. Nothing if it has no commit. Waits for the disk.
fn of_commit(
    archive: &Archive,
    mut home: Staging,
) -> Result<Option<(Seed, Unkept<Staging>)>, ShareError> {
    let commit = archive.commit.as_ref().and_then(|id| id.parse().ok());
    let (Some(commit), Some(names)) = (commit, archive.names()) else {
        return Ok(None);
    };
    let packs = names.files().filter(|file| file.whole.is_none());
    let packs = Vec::from_iter(packs.map(|file| file.path.clone()));
    for pack in &packs {
        let link = |home: &mut Staging| home.link(&archive.dir().join(pack), pack);
        match link(&mut home) {
            // It was moved just now, once.
            Err(e) if e.is_not_found() => link(&mut home)?,
            linked => linked?,
        }
    }
    let seed = Seed::of_commit(home.dir().to_owned(), packs, commit);
    Ok(Some((seed, Unkept::new(home))))
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
