//! Git's own bundle, with `HEAD` and the branch that it names, made once for everybody who asks and
//! kept for a while.

use std::error::Error;
use std::fs::File;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gix::bstr::ByteSlice;
use tokio::task::spawn_local;

use super::asker::Asker;
use super::clone::lost;
use super::room::Need;
use super::state::Jobs;
use crate::io::shortage::is_disk_full;
use crate::jobs::bundle_cache::{BundleFile, BundleKey, Tip};
use crate::jobs::flights::Duty;
use crate::limits::{FRESHEN_WAIT_MS, UPSTREAM_ANSWER_KEPT_MS};
use crate::manifest::want::{AnyId, Named};
use crate::mirror::annex;
use crate::mirror::bundle::Tips;
use crate::repos::error::StartError;
use crate::repos::head::MirrorHead;
use crate::repos::repo::Repo;

/// What there is for a client that has the base.
pub(crate) enum Found {
    Bundle(Arc<BundleFile>),
    /// HEAD is the base, and the upstream was asked about that.
    UpToDate,
}

type Made = Result<Arc<BundleFile>, StartError>;
type AnyError = Box<dyn Error + Send + Sync>;

fn not_available(repo: &Repo, why: &str) -> StartError {
    StartError {
        status: 404,
        message: format!("{}: no bundle: {why}", repo.name),
    }
}

impl Jobs {
    /// What there is for somebody who has `base`, as lower-case hex.
    pub(crate) async fn find_bundle(
        self: &Rc<Self>,
        repo: &Arc<Repo>,
        base: &str,
        named: Named,
        asker: &Asker,
    ) -> Result<Found, StartError> {
        if !named.is_head() {
            return self.find_bundle_at(repo, base, named, asker).await;
        }
        self.ensure_young(repo, asker).await?;
        let head = self.head(repo).await?;
        if head.commit.as_deref() != Some(base) && self.has_commit(repo, base, asker).await? {
            return self.bundle_to_head(repo, base, head).await;
        }
        // A client that hears "nothing new" looks no further, so that needs a look at the upstream
        // that begins now. An unknown base must not make the server ask every time: it only sends
        // the client to the upstream itself.
        let now = Instant::now();
        let believed = Duration::from_millis(UPSTREAM_ANSWER_KEPT_MS);
        let since = match head.commit.as_deref() == Some(base) {
            true => now,
            false => now.checked_sub(believed).unwrap_or(now),
        };
        let limit = Duration::from_millis(FRESHEN_WAIT_MS);
        let fresh = self.fresh_in_time(repo, since, asker, limit).await;
        let head = self.head(repo).await?;
        let known = self.has_commit(repo, base, asker).await?;
        let up_to_date = head.commit.as_deref() == Some(base);
        match fresh {
            Err(e) if up_to_date || !known => Err(not_available(
                repo,
                &format!("the mirror may be behind its upstream ({})", e.message),
            )),
            _ if !known => Err(not_available(repo, "the base commit is unknown")),
            _ if up_to_date => Ok(Found::UpToDate),
            _ => self.bundle_to_head(repo, base, head).await,
        }
    }

    /// The same to what is named, which is looked for as for a snapshot of it.
    async fn find_bundle_at(
        self: &Rc<Self>,
        repo: &Arc<Repo>,
        base: &str,
        named: Named,
        asker: &Asker,
    ) -> Result<Found, StartError> {
        // What there is for this client alone stays for as long as it waits.
        let sought = self
            .clone()
            .seek_named(repo.clone(), named, None, asker.clone());
        let wanted = sought.await?;
        let commit = match (wanted.want.commit(), wanted.want.followed()) {
            (Some(commit), _) => Some(commit),
            (None, Some(name)) => {
                let refs = self.read_refs(repo).await?;
                refs.get(name)
                    .map(|found| found.peeled.unwrap_or(found.target))
            }
            (None, None) => None,
        };
        let commit = commit.ok_or_else(|| not_available(repo, "its ref has gone"))?;
        if !self.has_commit(repo, base, asker).await? {
            return Err(not_available(repo, "the base commit is unknown"));
        }
        if AnyId::from_hex(base.as_bytes()).is_ok_and(|base| base == commit) {
            return Ok(Found::UpToDate);
        }
        let bundle = self.bundle_to(repo, base, Tip::Commit(commit)).await;
        bundle.map(Found::Bundle)
    }

    async fn bundle_to_head(
        self: &Rc<Self>,
        repo: &Arc<Repo>,
        base: &str,
        head: Arc<MirrorHead>,
    ) -> Result<Found, StartError> {
        if head.commit.is_none() {
            return Err(not_available(repo, "HEAD points nowhere"));
        }
        let bundle = self.bundle_to(repo, base, Tip::Head(head)).await;
        bundle.map(Found::Bundle)
    }

    /// Whether there is a commit, and this one may know of it.
    async fn has_commit(
        self: &Rc<Self>,
        repo: &Arc<Repo>,
        id: &str,
        asker: &Asker,
    ) -> Result<bool, StartError> {
        let hex = AnyId::from_hex(id.as_bytes()).ok();
        if !self.are_shown(repo, hex, asker).await? {
            return Ok(false);
        }
        let _permit = self.semaphores.lookups.acquire().await;
        let kinds = self.git.kinds(&repo.mirror, &[id.to_owned()]).await;
        let kinds = kinds.map_err(|e| StartError {
            status: 500,
            message: format!("{}: {e}", repo.name),
        })?;
        Ok(matches!(kinds.as_slice(), [Some(kind)] if kind == "commit"))
    }

    /// The bundle from `base` to `tip`: one that is kept, is being made, or is made now.
    async fn bundle_to(self: &Rc<Self>, repo: &Arc<Repo>, base: &str, tip: Tip) -> Made {
        let key = BundleKey {
            repository: repo.name.clone(),
            base: base.to_owned(),
            tip,
        };
        if let Some(kept) = self.bundles.borrow_mut().get(&key, Instant::now()) {
            return Ok(kept);
        }
        // Nothing is known of the disk before the first sweep.
        let disk_bytes = Some(self.catalog.usage.marks().high_bytes).filter(|bytes| *bytes > 0);
        let disk_bytes = disk_bytes.unwrap_or(u64::MAX);
        let has_room =
            self.bundling.running(&key).is_some() || self.bundles.borrow_mut().has_room(disk_bytes);
        if !has_room {
            return Err(StartError {
                status: 503,
                message: format!("{}: too many bundles are being sent; try again", repo.name),
            });
        }
        let (flight, duty) = self.bundling.join(&key);
        if let Some(duty) = duty {
            spawn_local(self.clone().make_bundle(repo.clone(), key, duty));
        }
        flight.end().await.unwrap_or_else(|| Err(lost()))
    }

    async fn make_bundle(
        self: Rc<Self>,
        repo: Arc<Repo>,
        key: BundleKey,
        duty: Duty<BundleKey, Made>,
    ) {
        let work = async {
            let _permit = self.semaphores.bundles.acquire().await;
            self.write_bundle(&repo, &key).await
        };
        let made = tokio::select! {
            made = work => made,
            // All who asked for it have left.
            () = duty.unwanted() => return,
        };
        if let Ok(bundle) = &made {
            tracing::info!(
                repository = &*repo.name,
                base = key.base,
                tip = key.tip.to_string(),
                bytes = bundle.bytes,
                "made a bundle"
            );
            let mut bundles = self.bundles.borrow_mut();
            bundles.insert(key, bundle.clone(), Instant::now());
        }
        duty.done(made);
    }

    async fn write_bundle(self: &Rc<Self>, repo: &Repo, key: &BundleKey) -> Made {
        let failed = |e: &dyn std::fmt::Display| StartError {
            status: 500,
            message: format!("{}: cannot make a bundle: {e}", repo.name),
        };
        let mut made = self.try_bundle(repo, key).await;
        if made.as_ref().is_err_and(|e| is_disk_full(&**e)) {
            self.make_room(&repo.name, Need::Must).await;
            made = self.try_bundle(repo, key).await;
        }
        let file = match made {
            Ok(Some(file)) => file,
            Ok(None) => {
                return Err(not_available(
                    repo,
                    "HEAD has nothing that the base has not",
                ));
            }
            Err(e) => {
                let error = failed(&e);
                tracing::error!(repository = &*repo.name, "{}", error.message);
                return Err(error);
            }
        };
        let bundle = BundleFile::new(file).map_err(|e| failed(&e))?;
        Ok(Arc::new(bundle))
    }

    /// A file with the bundle; `None` where it would hold nothing.
    async fn try_bundle(&self, repo: &Repo, key: &BundleKey) -> Result<Option<File>, AnyError> {
        let dir = self.catalog.state.tmp_dir();
        let file = tokio::task::spawn_blocking(move || {
            let file = tempfile::tempfile_in(dir)?;
            Ok::<_, io::Error>((file.try_clone()?, file))
        });
        let (into, file) = file.await??;
        let made = match &key.tip {
            Tip::Head(head) => {
                let tips = Tips {
                    branch: head.branch.as_ref().map(|name| name.as_bytes()),
                    base: &key.base,
                };
                self.git.bundle(&repo.mirror, tips, into).await
            }
            Tip::Commit(commit) => {
                let name = commit.to_string();
                let kinds = self.git.kinds(&repo.mirror, &[name]).await?;
                let repository = match kinds.as_slice() {
                    [Some(_)] => repo.mirror.clone(),
                    _ => annex(&repo.mirror),
                };
                self.git
                    .bundle_at(&repository, (&key.base, *commit), into)
                    .await
            }
        };
        match made {
            Ok(()) => Ok(Some(file)),
            Err(e) if e.is_empty_bundle() => Ok(None),
            // Git's words are no error of the system any more.
            Err(e) if e.is_disk_full() => Err(io::Error::from_raw_os_error(libc::ENOSPC).into()),
            Err(e) => Err(e.into()),
        }
    }
}
