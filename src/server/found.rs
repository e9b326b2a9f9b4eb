//! What is in the state directory at the start: mirrors and entries, each of which is the one of its repository's
//! key, however its name was spelled when it was made.
//!
//! A mirror under another spelling is moved to where the key says, in one step. How it was spelled is noted in it
//! before, so that whatever moment a process dies at, the next start finds the same mirror and the same spelling.
//! An entry's metadata have the spelling; where it lies has nothing to do with it.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use super::error::ServerError;
use crate::archive::place::Archive;
use crate::config::{Config, RepoKey, Upstreams};
use crate::mirror::Tips;
use crate::mirror::noted::{note_origin, noted_spelling};
use crate::mirror::recover::recover;
use crate::mirror::upstream::last_fetch_unix_ms;
use crate::repos::catalog::Catalog;
use crate::repos::repo::{First, Repo};
use crate::store::dir::FoundEntry;

/// A mirror, as it lies on the disk.
struct Lying {
    /// Where: another one may take its place.
    dir: RefCell<PathBuf>,
    /// Its repository's path, as it was spelled first.
    spelled: String,
    /// When it was last compared; where nobody knows, when something was last made in it.
    compared_unix_ms: u64,
}

impl Lying {
    fn lies_in(dir: PathBuf, path: &str) -> Lying {
        let spelled = noted_spelling(&dir, path).unwrap_or_else(|| path.to_owned());
        let compared_unix_ms = last_fetch_unix_ms(&dir).unwrap_or_else(|| changed_unix_ms(&dir));
        Lying {
            dir: RefCell::new(dir),
            spelled,
            compared_unix_ms,
        }
    }
}

fn changed_unix_ms(dir: &Path) -> u64 {
    let changed = fs::metadata(dir).and_then(|found| found.modified());
    let since = changed
        .ok()
        .and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    since.map_or(0, |since| since.as_millis() as u64)
}

/// Repositories of whose annexes it is not known what they have.
pub(super) type Damaged = HashSet<Arc<str>>;

/// Makes the mirrors known. They are not used before they were checked, and none keeps the server from starting.
pub(super) fn find_mirrors(
    catalog: &Catalog,
    config: &Config,
) -> Result<(Vec<Arc<Repo>>, Damaged), ServerError> {
    let (mut hosts, mut all) = (Vec::new(), Vec::new());
    for (host, path) in catalog.state.mirrors()? {
        let dir = catalog.state.mirror_path(&host, &path);
        let is_of_upstream = |host| config.upstreams.url_for(host, &path).is_some();
        match config.upstreams.spelled(&host) {
            Some(host) if is_of_upstream(host) => {
                hosts.push(host);
                all.push(Lying::lies_in(dir, &path));
            }
            _ => tracing::warn!("mirror {host}/{path} belongs to no upstream and is not used"),
        }
    }
    let mut by_key = BTreeMap::<RepoKey<'_>, Vec<&Lying>>::new();
    for (host, lying) in hosts.iter().zip(&all) {
        if let Some(key) = config.upstreams.key(host, &lying.spelled) {
            by_key.entry(key).or_default().push(lying);
        }
    }
    let (mut found, mut damaged) = (Vec::new(), Damaged::new());
    for (key, lying) in by_key {
        let Some(first) = settle(catalog, &config.upstreams, &all, (&key, lying)) else {
            continue;
        };
        if let Err(error) = recover(&first.mirror) {
            let path = first.mirror.display();
            tracing::error!(%path, %error, "what a killed process has left in a mirror stays");
        }
        let annex = Tips::find(&first.mirror);
        let repo = catalog.registry.get_or_add(&key, || first);
        // Before anything of it is served.
        let believed_ms = config.unreachable_expiry.as_millis();
        repo.annex
            .load(annex.tips, u64::try_from(believed_ms).unwrap_or(u64::MAX));
        if annex.is_damaged {
            damaged.insert(repo.name.clone());
        }
        found.push(repo);
    }
    Ok((found, damaged))
}

/// Has the mirror of a repository lie where its key says: of several the one that was compared last. The others
/// are left where they are, and not used.
fn settle(
    catalog: &Catalog,
    upstreams: &Upstreams,
    all: &[Lying],
    (key, mut lying): (&RepoKey<'_>, Vec<&Lying>),
) -> Option<First> {
    let place = catalog.state.mirror_path(key.host(), key.path());
    lying.sort_by_key(|one| (one.compared_unix_ms, *one.dir.borrow() == place));
    let newest = lying.pop()?;
    let url = upstreams.url_for(key.host(), &newest.spelled)?;
    if *newest.dir.borrow() == place {
        // It may have been moved by a process that died then.
        let before = catalog.state.mirror_path(key.host(), &newest.spelled);
        catalog.state.remove_empty_above(&before);
    } else {
        move_to(catalog, (newest, all), (&place, &url));
    }
    for older in lying {
        tracing::warn!(
            repository = &*key.name(),
            dir = %older.dir.borrow().display(),
            "another mirror of it, older than the one that is used, is left as it is: remove it"
        );
    }
    Some(First {
        spelled: format!("{}/{}", key.host(), newest.spelled),
        mirror: newest.dir.borrow().clone(),
        url,
    })
}

/// Moves a mirror to its place; one that lies there, of any repository, lies where that was then. If it cannot be, it
/// is used where it is.
fn move_to(catalog: &Catalog, (one, all): (&Lying, &[Lying]), (place, url): (&Path, &str)) {
    let from = one.dir.borrow().clone();
    let (shown, to) = (from.display(), place.display());
    if let Err(e) = note_origin(&from, url) {
        return tracing::warn!("the mirror {shown} stays: cannot note how it is spelled: {e}");
    }
    if let Err(e) = catalog.state.move_mirror(&from, place) {
        return tracing::warn!("the mirror {shown} stays where it is: {e}");
    }
    tracing::info!("the mirror {shown} is {to} now");
    if let Some(other) = all.iter().find(|other| *other.dir.borrow() == place) {
        other.dir.replace(from);
    }
    one.dir.replace(place.to_owned());
}

/// The newest entry of each repository is served; older ones go, and so do those of commits that may be of a damaged
/// annex: nothing says when the upstream last gave them.
pub(super) fn find_entries(
    catalog: &Catalog,
    config: &Config,
    damaged: &Damaged,
) -> Result<(), ServerError> {
    let (mut found, rejected) = catalog.state.scan()?;
    let (old, rejected): (Vec<_>, Vec<_>) = rejected
        .into_iter()
        .partition(|rejected| rejected.is_of_other_format());
    if !old.is_empty() {
        let entries = old.len();
        tracing::info!(
            entries,
            "snapshots of another format are dropped and will be built anew"
        );
    }
    for rejected in rejected {
        tracing::warn!(removed = rejected.removed, "entry not used: {rejected:?}");
    }
    // Those of a mirror go before those of another one that is not used, whichever is newer.
    found.sort_by_cached_key(|entry| {
        let spelled = &entry.meta.repository;
        let key = key_of(&config.upstreams, spelled).map(|(key, _)| key);
        let mirrored = key.and_then(|key| catalog.registry.get(&key));
        let is_of_other = mirrored.is_some_and(|repo| repo.spelled != *spelled);
        (is_of_other, Reverse(entry.meta.created_unix_ms))
    });
    for entry in found {
        take_entry(catalog, config, (entry, damaged));
    }
    Ok(())
}

/// Has an entry served, or removes it.
fn take_entry(catalog: &Catalog, config: &Config, (entry, damaged): (FoundEntry, &Damaged)) {
    let spelled = entry.meta.repository.clone();
    let Some((key, url)) = key_of(&config.upstreams, &spelled) else {
        // Nobody could ask for it, and what is not known is never evicted.
        let repository = &*spelled;
        tracing::warn!(repository, "entry removed: it belongs to no upstream");
        if let Err(e) = catalog.state.remove(&entry.dir, &entry.meta.spool) {
            tracing::error!(repository, "an entry of no upstream stays: {e}");
        }
        return;
    };
    let repo = catalog.registry.get_or_add(&key, || First {
        spelled: spelled.clone(),
        mirror: catalog.state.mirror_path(key.host(), key.path()),
        url,
    });
    let repository = &*repo.name;
    let is_superseded = repo.archive_of(&entry.meta.want).is_some();
    let is_kept = |id| repo.annex.is_kept(&id);
    let is_doubtful = damaged.contains(&repo.name) && !entry.meta.want.commit().is_none_or(is_kept);
    if is_doubtful || is_superseded && spelled == repo.spelled {
        // It is not served; the next start tries again.
        if let Err(e) = catalog.state.remove(&entry.dir, &entry.meta.spool) {
            tracing::error!(repository, "a superseded entry stays: {e}");
        }
        return;
    }
    let dir = entry.dir.display().to_string();
    let want = entry.meta.want.clone();
    let archive = Archive::found(repo.name.clone(), entry.dir, entry.meta);
    if is_superseded {
        tracing::warn!(
            repository,
            dir,
            "an older snapshot of it, as {spelled}, is left until nobody goes on with a download of it"
        );
        archive.touch();
        return catalog.retired.add(Arc::new(archive));
    }
    // The first sweep counts again.
    catalog.usage.add_snapshot(&want);
    repo.publish(Arc::new(archive), repo.epoch());
}

/// The key of a repository that is spelled so, and its URL in that spelling.
fn key_of<'a>(upstreams: &'a Upstreams, spelled: &'a str) -> Option<(RepoKey<'a>, String)> {
    let (host, path) = spelled.split_once('/')?;
    let key = upstreams.key(host, path)?;
    let url = upstreams.url_for(key.host(), path)?;
    Some((key, url))
}
