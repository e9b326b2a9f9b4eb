//! Clone and fetch. Objects come first and without any lock; the refs follow in one step.

use std::collections::{BTreeSet, HashSet};
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use gix::ObjectId;
use tokio::sync::RwLock;

use crate::git::stdin_file;
use crate::io::clock::unix_ms;
use crate::io::fs;
use crate::mirror::blocking::blocking;
use crate::mirror::error::{MirrorError, without_password};
use crate::mirror::files;
use crate::mirror::git::{Call, Git, Target};
use crate::mirror::journal;
use crate::mirror::listing::{Found, Headless, Listing, Wanted};
use crate::mirror::noted::{note_origin, note_upstream};
use crate::mirror::packed::{self, CommitError};
use crate::mirror::removals::Removals;
use crate::refs::{self, Follow, Head, Listed, MirrorRefs, Ref};

/// What a look at upstream brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshened {
    /// The mirror has exactly the refs of upstream already.
    Unchanged,
    /// The refs of the mirror are now those that upstream had a moment ago.
    Moved {
        /// HEAD names another branch or leads to another commit.
        head_moved: bool,
        /// Followed refs made, changed and deleted.
        refs_changed: usize,
    },
}

/// Who has compared a mirror with its upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// This server.
    Own,
    /// Another one, which has shared it.
    Others,
}

impl Git {
    /// Clones `url` (bare, heads, tags and followed refs) into a directory of its own in
    /// `staging_dir` and moves it to `dest` when it is whole and synced. Both must be on one
    /// file system. Nothing is left in `staging_dir` afterwards, also when the future is
    /// dropped: then a thread removes it, for which [`Removals::wait`] waits.
    ///
    /// # Errors
    /// Every [`MirrorError`]; [`MirrorError::Io`] when `dest` is there already.
    pub async fn clone_mirror(
        &self,
        url: &str,
        dest: &Path,
        staging_dir: &Path,
    ) -> Result<(), MirrorError> {
        let staging = Staging::new(staging_dir, self.removals.clone())?;
        let result = self
            .clone_into(url, &staging.path.join("repo.git"), dest)
            .await;
        staging.remove().await?;
        result
    }

    async fn clone_into(&self, url: &str, repo: &Path, dest: &Path) -> Result<(), MirrorError> {
        let began = SystemTime::now();
        // Before git may take more time, memory and disk for it.
        let Found { url: at, .. } = self.list(repo, url, Wanted::Cloned).await?;
        // --no-local: a plain path as URL would share its pack files or borrow its objects.
        let options = ["--bare", "--quiet", "--no-local", "--template=", "--"];
        let mut args: Vec<OsString> = vec!["clone".into()];
        args.extend(options.iter().map(OsString::from));
        args.extend([at.clone().into(), repo.into()]);
        let staging = repo.parent().unwrap_or(repo);
        self.output(Call {
            op: "git clone",
            target: Target::Upstream(&at),
            git_dir: None,
            args,
            stdin: None,
            limit: self.limits.clone,
            memory_bytes: self.memory_bytes,
            growth: Some(self.growth(repo.to_owned(), staging)?),
        })
        .await?;
        self.set_up_clone(repo, url).await?;
        let path = repo.to_owned();
        let cloned = blocking(repo, move || Ok(refs::read(&path, &Follow::default())?)).await?;
        if is_empty(&cloned) {
            let headless = self.headless(staging, &at, true).await?;
            check_speaks_git(&at, &headless)?;
            // git 2.39 takes SHA-1 for everything that is empty.
            self.set_format(repo, headless.format).await?;
        }
        if self.follow.has_more() {
            self.freshen(repo, url, &RwLock::new(())).await?;
        }
        let path = repo.to_owned();
        blocking(repo, move || journal::begin(&path)).await?;
        self.put_in_place((repo, url), dest, (began, Word::Own))
            .await
    }

    /// Has what was made of an upstream in the mirror's place, and last. It was like that then, by whose word it may be.
    pub(super) async fn put_in_place(
        &self,
        (repo, url): (&Path, &str),
        dest: &Path,
        (began, by): (SystemTime, Word),
    ) -> Result<(), MirrorError> {
        let (from, parent) = (
            repo.to_owned(),
            dest.parent().unwrap_or(Path::new(".")).to_owned(),
        );
        let (parent_made, noted) = (parent.clone(), url.to_owned());
        blocking(repo, move || {
            let io = |op, path: &Path, done: io::Result<()>| {
                done.map_err(|source| MirrorError::io(op, path, source))
            };
            // That it can be cloned again others do not say.
            let upstream = match by {
                Word::Own => note_upstream(&from, &noted),
                Word::Others => Ok(()),
            };
            let noted = upstream.and_then(|()| note_origin(&from, &noted));
            io("write to", &from, noted)?;
            io("sync", &from, files::sync_tree(&from))?;
            io(
                "create",
                &parent_made,
                std::fs::create_dir_all(&parent_made),
            )
        })
        .await?;
        note_fetch(repo, began);
        // Not on another thread: if this future were dropped meanwhile, it would still happen.
        let renamed = match std::fs::rename(repo, dest) {
            // The directory above was empty, and was removed with the mirror that had been in it.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                std::fs::create_dir_all(&parent).and_then(|()| std::fs::rename(repo, dest))
            }
            renamed => renamed,
        };
        renamed.map_err(|source| MirrorError::io("move the clone to", dest, source))?;
        sync_dir(parent).await
    }

    /// Brings the refs of `mirror` to those of upstream. `lock` is the repository's lock: it is
    /// taken for writing only to put the new refs in force, which takes some milliseconds.
    /// If upstream is changed by force meanwhile it starts over, once. Calls for one mirror
    /// must not overlap.
    ///
    /// # Errors
    /// Every [`MirrorError`]; the refs of the mirror are then as before.
    pub async fn freshen(
        &self,
        mirror: &Path,
        url: &str,
        lock: &RwLock<()>,
    ) -> Result<Freshened, MirrorError> {
        self.freshen_in_turn(mirror, url, lock, async |_| ()).await
    }

    /// The same; `turn` is told what is missing and waited for before anything is fetched. What is there by then
    /// is not.
    ///
    /// # Errors
    /// Those of [`freshen`](Self::freshen).
    pub(crate) async fn freshen_in_turn(
        &self,
        mirror: &Path,
        url: &str,
        lock: &RwLock<()>,
        turn: impl AsyncFn(&BTreeSet<ObjectId>),
    ) -> Result<Freshened, MirrorError> {
        match self.freshen_once(mirror, url, lock, &turn).await {
            Err(MirrorError::Vanished { .. }) => self.freshen_once(mirror, url, lock, &turn).await,
            done => done,
        }
    }

    async fn freshen_once(
        &self,
        mirror: &Path,
        url: &str,
        lock: &RwLock<()>,
        turn: &impl AsyncFn(&BTreeSet<ObjectId>),
    ) -> Result<Freshened, MirrorError> {
        let began = SystemTime::now();
        let Found {
            mut listing,
            url: at,
        } = self.list(mirror, url, Wanted::All).await?;
        self.beside.tell(std::mem::take(&mut listing.beside));
        let (path, git) = (mirror.to_owned(), self.clone());
        let local = blocking(mirror, move || Ok(git.refs.read(&path, &git.follow)?)).await?;
        let mut format = listing.format();
        let head = match listing.head() {
            Some(head) => head,
            None => {
                let is_empty = listing.refs.is_empty();
                let headless = self.headless(mirror, &at, is_empty).await?;
                if is_empty {
                    check_speaks_git(&at, &headless)?;
                    format = Some(headless.format);
                }
                headless.head
            }
        };
        if let Some(format) = format.filter(|_| is_empty(&local)) {
            self.set_format(mirror, format).await?;
        }
        let plan = Plan::new(&listing, &local, head);
        if plan.refs_changed == 0 && plan.head.is_none() {
            note_fetch(mirror, began);
            return Ok(Freshened::Unchanged);
        }
        if listing.refs.is_empty() {
            tracing::warn!(
                url = without_password(url),
                "upstream has no branches and tags any more"
            );
        }
        if !plan.missing.is_empty() {
            if self.by_permission {
                // It can come, by `turn` as well, and its refs not: nothing is here of which no note says so.
                let (path, missing) = (mirror.to_owned(), plan.missing.clone());
                blocking(mirror, move || journal::add(&path, &missing, unix_ms())).await?;
            }
            turn(&plan.missing).await;
            self.fetch_objects(mirror, &at, &plan.missing).await?;
        }
        if self.by_permission && !self.is_the_same(mirror, &local, &listing.refs).await? {
            return Err(MirrorError::Replaced {
                url: without_password(url),
            });
        }
        let (head_moved, refs_changed) = (plan.head_moved, plan.refs_changed);
        self.move_refs(mirror, url, lock, (&local, listing.refs, plan.head))
            .await?;
        note_fetch(mirror, began);
        Ok(Freshened::Moved {
            head_moved,
            refs_changed,
        })
    }

    /// Puts other refs in force, whose objects are there.
    async fn move_refs(
        &self,
        mirror: &Path,
        url: &str,
        lock: &RwLock<()>,
        (local, refs, head): (&MirrorRefs, Vec<Ref>, Option<Head>),
    ) -> Result<(), MirrorError> {
        let (path, follow) = (mirror.to_owned(), self.follow.clone());
        let refs = Arc::new(refs);
        let wanted = refs.clone();
        let prepared = blocking(mirror, move || {
            Ok(packed::prepare(&path, &follow, &wanted, head)?)
        })
        .await?;
        let left = left_by(local, &refs);
        let path = mirror.to_owned();
        blocking(mirror, move || journal::add(&path, &left, unix_ms())).await?;
        let (stamp, fully_peeled) = prepared.made.clone();
        let exclusive = lock.write().await;
        let committed = prepared.commit();
        drop(exclusive);
        committed.map_err(|error| match error {
            CommitError::Changed => MirrorError::Vanished {
                url: without_password(url),
                line: "another process changed the refs of the mirror".to_owned(),
            },
            CommitError::Io(path, source) => MirrorError::io("update", &path, source),
        })?;
        let listed = Listed { refs, fully_peeled };
        self.refs.keep(mirror, &self.follow, stamp, &listed);
        // They are in force; at worst a power cut takes them back until the next look.
        if let Err(error) = sync_dir(mirror.to_owned()).await {
            tracing::warn!(%error, "the new refs of a mirror may not be on disk yet");
        }
        Ok(())
    }

    /// Fetches objects by id; no ref changes. They come as a pack that nothing refers to yet.
    async fn fetch_objects(
        &self,
        mirror: &Path,
        url: &str,
        ids: &BTreeSet<ObjectId>,
    ) -> Result<(), MirrorError> {
        let text: String = ids.iter().map(|id| format!("{id}\n")).collect();
        let stdin = stdin_file(text.as_bytes());
        let stdin =
            stdin.map_err(|source| MirrorError::io("list objects to fetch for", mirror, source))?;
        let options = [
            "--quiet",
            "--no-write-fetch-head",
            "--no-tags",
            "--no-auto-maintenance",
            "--stdin",
        ];
        let call = Call {
            op: "git fetch",
            target: Target::Upstream(url),
            git_dir: Some(mirror),
            args: ["fetch"]
                .into_iter()
                .chain(options)
                .chain(["--", url])
                .map(OsString::from)
                .collect(),
            stdin: Some(stdin),
            limit: self.limits.fetch,
            memory_bytes: self.memory_bytes,
            growth: Some(self.growth(mirror.join("objects"), mirror)?),
        };
        self.output(call).await.map(drop)
    }
}

/// Refuses an upstream without refs that is no git host.
fn check_speaks_git(url: &str, headless: &Headless) -> Result<(), MirrorError> {
    match headless.speaks_git {
        true => Ok(()),
        false => Err(MirrorError::Unreachable {
            url: without_password(url),
            line: "it answers, but not as a git host does".to_owned(),
        }),
    }
}

/// What followed refs lead to and those of upstream do not.
fn left_by(local: &MirrorRefs, upstream: &[Ref]) -> BTreeSet<ObjectId> {
    let now: HashSet<ObjectId> = upstream.iter().map(|r| r.target).collect();
    let before = local.refs.iter().map(|r| r.target).chain(local.head_id());
    before.filter(|tip| !now.contains(tip)).collect()
}

/// Whether there is nothing that a mirror leads to.
fn is_empty(refs: &MirrorRefs) -> bool {
    refs.refs.is_empty() && refs.head_id().is_none()
}

/// Where git notes what it fetched. tarpon notes nothing in it but when that was, as its date.
const FETCH_NOTE: &str = "FETCH_HEAD";

/// When the mirror was last compared with its upstream, by tarpon or by somebody's `git fetch`,
/// as far as that is known: in milliseconds since 1970.
pub(crate) fn last_fetch_unix_ms(mirror: &Path) -> Option<u64> {
    let noted = std::fs::metadata(mirror.join(FETCH_NOTE)).ok()?.modified();
    let since_1970 = noted.ok()?.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    u64::try_from(since_1970.as_millis()).ok()
}

/// Notes the time of a comparison for the next start, which then need not begin with one.
pub(super) fn note_fetch(mirror: &Path, began: SystemTime) {
    let path = mirror.join(FETCH_NOTE);
    let file = File::options().create(true).append(true).open(&path);
    // Without it the mirror is only fetched at another time after the next start.
    if let Err(error) = file.and_then(|file| file.set_modified(began)) {
        tracing::debug!(path = %path.display(), %error, "cannot note a fetch");
    }
}

async fn sync_dir(dir: PathBuf) -> Result<(), MirrorError> {
    let path = dir.clone();
    let sync = move || {
        File::open(&dir)
            .and_then(|d| d.sync_all())
            .map_err(|e| MirrorError::io("sync", &dir, e))
    };
    blocking(&path, sync).await
}

/// What has to be done to make the mirror equal to a listing.
#[derive(Debug)]
struct Plan {
    /// Objects that no ref of the mirror leads to directly.
    missing: BTreeSet<ObjectId>,
    refs_changed: usize,
    /// The new HEAD, when it has to be written.
    head: Option<Head>,
    head_moved: bool,
}

impl Plan {
    /// `head` is that of a clone made now.
    fn new(upstream: &Listing, local: &MirrorRefs, head: Head) -> Self {
        let mut missing = BTreeSet::new();
        let (mut kept, mut updated) = (0, 0);
        // Both are sorted by name.
        let mut have = local.refs.iter().peekable();
        for wanted in &upstream.refs {
            while have.next_if(|have| have.name < wanted.name).is_some() {}
            let same = have.next_if(|have| have.name == wanted.name);
            match same {
                Some(have) if have.target == wanted.target => kept += 1,
                other => {
                    updated += usize::from(other.is_some());
                    missing.insert(wanted.target);
                }
            }
        }
        let created = upstream.refs.len() - kept - updated;
        let deleted = local.refs.len() - kept - updated;
        let head_id = match &head {
            Head::Detached(id) => {
                // That of a tag comes with it.
                if !upstream.refs.iter().any(|r| r.peeled == Some(*id)) {
                    missing.insert(*id);
                }
                Some(*id)
            }
            Head::Symbolic(name) => {
                let at = upstream.refs.binary_search_by(|r| r.name.cmp(name));
                at.ok()
                    .and_then(|at| upstream.refs.get(at))
                    .map(|r| r.target)
            }
        };
        if !missing.is_empty() {
            for have in local.refs.iter() {
                missing.remove(&have.target);
            }
        }
        if let Head::Detached(have) = &local.head {
            missing.remove(have);
        }
        Self {
            missing,
            refs_changed: created + updated + deleted,
            head_moved: head != local.head || head_id != local.head_id(),
            head: (head != local.head).then_some(head),
        }
    }
}

/// A directory of its own for one clone. Removed by [`Self::remove`], or when dropped by a
/// thread.
pub(super) struct Staging {
    pub(super) path: PathBuf,
    removals: Removals,
    removed: bool,
}

impl Staging {
    pub(super) fn new(staging_dir: &Path, removals: Removals) -> Result<Self, MirrorError> {
        let made = tempfile::Builder::new()
            .prefix("clone-")
            .tempdir_in(staging_dir);
        let path = made
            .map_err(|source| MirrorError::io("make a directory in", staging_dir, source))?
            .keep();
        Ok(Self {
            path,
            removals,
            removed: false,
        })
    }

    pub(super) async fn remove(mut self) -> Result<(), MirrorError> {
        let path = self.path.clone();
        blocking(&self.path, move || {
            fs::remove_tree(&path).map_err(|source| MirrorError::io("remove", &path, source))
        })
        .await?;
        self.removed = true;
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.removed {
            self.removals.start(std::mem::take(&mut self.path));
        }
    }
}

#[cfg(test)]
mod tests;
