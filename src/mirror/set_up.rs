//! What a directory has to be to be a mirror: made so, and looked at before it is used.

use super::files::{entries, loose_ids};
use crate::mirror::blocking::blocking;
use crate::mirror::config::{self, Config};
use crate::mirror::error::MirrorError;
use crate::mirror::git::Git;
use crate::refs::{self, Loose};
use gix::hash::Kind;
use std::path::{Path, PathBuf};

/// What every mirror is set to, so that a git that others run in it does no harm either.
const MIRROR_CONFIG: &[(&str, &str)] = &[
    ("core.logallrefupdates", "false"),
    ("fetch.unpacklimit", "1"),
    ("gc.auto", "0"),
    ("maintenance.auto", "false"),
    ("pack.writereverseindex", "true"),
    ("receive.unpacklimit", "1"),
    ("transfer.unpacklimit", "1"),
];

/// Extensions of the repository format that do not change how refs and packs are read.
const EXTENSIONS_KNOWN: &[&str] = &[
    "noop",
    "noop-v1",
    "objectformat",
    "preciousobjects",
    "refstorage",
    "relativeworktrees",
    "worktreeconfig",
];

impl Git {
    /// Configures a bare repository as a mirror of `url`: fetched objects stay in packs,
    /// nothing runs by itself, refs are packed. Writes only what differs; a remote `origin`
    /// that is there stays. Needs no lock. Runs git only if there are loose refs to pack.
    ///
    /// # Errors
    /// [`MirrorError::Unusable`] when the configuration is not understood, [`MirrorError::Io`]
    /// when it cannot be written.
    pub async fn set_up(&self, mirror: &Path, url: &str) -> Result<(), MirrorError> {
        let (path, origin) = (mirror.to_owned(), url.to_owned());
        blocking(mirror, move || {
            config::complete(&path, MIRROR_CONFIG, &origin)
        })
        .await?;
        let path = mirror.to_owned();
        let loose = blocking(mirror, move || Ok(refs::read_loose(&path)?)).await?;
        if loose
            .values()
            .any(|loose| matches!(loose, Loose::Direct(_)))
        {
            self.output(self.local("git pack-refs", mirror, ["pack-refs", "--all"]))
                .await?;
        }
        Ok(())
    }

    /// The same for what was cloned just now, whatever the URL that it came from in the end.
    pub(super) async fn set_up_clone(&self, repo: &Path, url: &str) -> Result<(), MirrorError> {
        let (path, origin) = (repo.to_owned(), url.to_owned());
        blocking(repo, move || {
            config::complete(&path, &[("remote.origin.url", &origin)], &origin)
        })
        .await?;
        self.set_up(repo, url).await
    }

    /// Gives a mirror the object format of its upstream, unless it has objects already.
    pub(super) async fn set_format(&self, mirror: &Path, format: Kind) -> Result<(), MirrorError> {
        let path = mirror.to_owned();
        blocking(mirror, move || {
            let config = config::read(&path)?;
            if format_of(&config) == format || has_objects(&path)? {
                return Ok(());
            }
            let name = format.to_string();
            let wanted = [
                ("core.repositoryformatversion", "1"),
                ("extensions.objectformat", &name),
            ];
            let origin = config.get("remote.origin.url").map_or("", |url| url);
            config::complete(&path, &wanted, origin)
        })
        .await
    }

    /// Checks that a repository that an operator put there can be served: bare, complete,
    /// in a format that is understood. Does not read its refs, of which there may be many:
    /// whatever it is asked for reads them, and says so if it cannot.
    ///
    /// # Errors
    /// [`MirrorError::Unusable`] with the reason and what to do.
    pub async fn is_usable(&self, mirror: &Path) -> Result<(), MirrorError> {
        let unusable = |reason| MirrorError::Unusable {
            path: mirror.to_owned(),
            reason,
        };
        if !mirror.join("config").is_file() {
            return Err(unusable(
                "it is no bare git repository (it has no config file)".to_owned(),
            ));
        }
        let path = mirror.to_owned();
        blocking(mirror, move || {
            let config = config::read(&path)?;
            let checked = check_config(&config).and_then(|()| check_files(&path));
            checked.map_err(|reason| MirrorError::Unusable { path, reason })
        })
        .await
    }
}

pub(super) fn format_of(config: &Config) -> Kind {
    match config.get("extensions.objectformat").map(String::as_str) {
        Some("sha256") => Kind::Sha256,
        _ => Kind::Sha1,
    }
}

/// Whether there are packs or loose objects in a mirror.
fn has_objects(mirror: &Path) -> Result<bool, MirrorError> {
    let objects = mirror.join("objects");
    let failed = |source| MirrorError::io("list", &objects, source);
    let packs = objects.join("pack");
    let has_packs = packs.exists() && !entries(&packs).map_err(failed)?.is_empty();
    Ok(has_packs || !loose_ids(&objects).map_err(failed)?.is_empty())
}

fn check_config(config: &Config) -> Result<(), String> {
    let is_true =
        |value: &String| ["true", "yes", "on", "1"].contains(&value.to_lowercase().as_str());
    if !config.get("core.bare").is_some_and(is_true) {
        return Err("it is not bare: make it with git clone --mirror".to_owned());
    }
    if !config
        .get("core.repositoryformatversion")
        .is_none_or(|v| ["0", "1"].contains(&v.as_str()))
    {
        return Err("its repository format version is unknown: clone it again".to_owned());
    }
    let promisor = |(key, value): (&String, &String)| {
        key.starts_with("remote.")
            && (key.ends_with(".partialclonefilter")
                || key.ends_with(".promisor") && is_true(value))
    };
    if config.contains_key("extensions.partialclone") || config.iter().any(promisor) {
        return Err(
            "it is a partial clone and lacks objects: clone it again without --filter".to_owned(),
        );
    }
    if config
        .get("extensions.refstorage")
        .is_some_and(|v| v != "files")
    {
        return Err(
            "its refs are not kept in files: run git refs migrate --ref-format=files".to_owned(),
        );
    }
    if let Some(hash) = config
        .get("extensions.objectformat")
        .filter(|v| !["sha1", "sha256"].contains(&v.as_str()))
    {
        return Err(format!(
            "its object format {hash} is unknown: sha1 and sha256 are served"
        ));
    }
    let unknown = |key: &&String| {
        key.strip_prefix("extensions.")
            .is_some_and(|e| !EXTENSIONS_KNOWN.contains(&e))
    };
    match config.keys().find(unknown) {
        Some(key) => Err(format!("it uses {key}, which is unknown: clone it again")),
        None => Ok(()),
    }
}

fn check_files(mirror: &Path) -> Result<(), String> {
    for name in ["objects", "refs"] {
        if !mirror.join(name).is_dir() {
            return Err(format!(
                "it is no bare git repository (it has no {name} directory)"
            ));
        }
    }
    if mirror.join("commondir").exists() {
        return Err(
            "it is a worktree of another repository: clone it with git clone --mirror".to_owned(),
        );
    }
    if mirror.join("shallow").exists() {
        return Err("it is a shallow clone: run git fetch --unshallow in it".to_owned());
    }
    let filled = |path: PathBuf| std::fs::metadata(path).is_ok_and(|m| m.len() > 0);
    if filled(mirror.join("objects/info/alternates")) {
        let advice = "run git repack -a -d in it and remove objects/info/alternates";
        return Err(format!(
            "it borrows objects from another repository: {advice}"
        ));
    }
    let pack = mirror.join("objects/pack");
    let entries = if pack.exists() {
        entries(&pack)
    } else {
        Ok(Vec::new())
    };
    let entries = entries.map_err(|error| format!("objects/pack cannot be read: {error}"))?;
    if entries
        .iter()
        .any(|entry| entry.path().extension().is_some_and(|e| e == "promisor"))
    {
        return Err(
            "it is a partial clone and lacks objects: clone it again without --filter".to_owned(),
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests;
