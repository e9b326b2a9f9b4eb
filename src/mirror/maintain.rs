//! Upkeep of a mirror: configuration, packing of loose objects, few packs instead of many.
//!
//! New packs are written without a lock, because they only add to what is there. The write
//! lock is held while files are removed that the new pack stands for: some 10 µs each.
use crate::limits;
use crate::mirror::blocking::blocking;
use crate::mirror::config::{self, Config};
use crate::mirror::error::MirrorError;
use crate::mirror::git::{Git, stdin_file};
use crate::refs::{self, Loose};
use gix::hash::Kind;
use std::ffi::OsString;
use std::fs::{DirEntry, File};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use tokio::sync::RwLock;

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

    /// Puts all loose objects, reachable or not, into one pack, and returns their number.
    /// `lock` is held for writing while the loose files are removed: about 5 ms and 10 µs
    /// for each.
    ///
    /// # Errors
    /// [`MirrorError::Git`] when an object is damaged; then every loose file stays.
    pub async fn pack_loose(&self, mirror: &Path, lock: &RwLock<()>) -> Result<usize, MirrorError> {
        let path = mirror.to_owned();
        let (count, list) = blocking(mirror, move || {
            let objects = path.join("objects");
            let ids =
                loose_ids(&objects).map_err(|source| MirrorError::io("list", &objects, source))?;
            let list = stdin_file(ids.join("\n").as_bytes());
            Ok((
                ids.len(),
                list.map_err(|source| MirrorError::io("list", &objects, source))?,
            ))
        })
        .await?;
        if count == 0 {
            return Ok(0);
        }
        self.pack_objects(mirror, list, &["--incremental", "--non-empty"])
            .await?;
        let exclusive = lock.write().await;
        let pruned = self
            .output(self.local("git prune-packed", mirror, ["prune-packed", "--quiet"]))
            .await;
        drop(exclusive);
        pruned.map(|_| count)
    }

    /// Does nothing to a mirror with at most
    /// [`MIRROR_PACKS_MAX`](limits::MIRROR_PACKS_MAX) packs. Otherwise joins small packs so
    /// that each of the others has at least
    /// [`MIRROR_PACK_FACTOR`](limits::MIRROR_PACK_FACTOR) times the objects of the next
    /// smaller one. Returns how many were removed. Every object stays. `lock` is held for
    /// writing while the old files are moved away: 10 µs for each. Packs with a `.keep` file
    /// are left alone.
    ///
    /// # Errors
    /// [`MirrorError::Git`] when git cannot pack; then every pack stays.
    pub async fn consolidate(
        &self,
        mirror: &Path,
        lock: &RwLock<()>,
    ) -> Result<usize, MirrorError> {
        let path = mirror.to_owned();
        let joined = blocking(mirror, move || {
            let hash = format_of(&config::read(&path)?);
            let folder = path.join("objects/pack");
            let io = |source| MirrorError::io("read the packs of", &folder, source);
            let packs = choose(packs(&folder, hash).map_err(io)?);
            if packs.is_empty() {
                return Ok(None);
            }
            let list =
                tempfile::tempfile_in(&path).and_then(|file| list_objects(file, &packs, hash));
            Ok(Some((list.map_err(io)?, packs)))
        })
        .await?;
        let Some((list, mut old)) = joined else {
            return Ok(0);
        };
        let made = self.pack_objects(mirror, list, &[]).await?;
        let folder = mirror.join("objects/pack");
        // Joining duplicates can give exactly one of the packs that were joined.
        old.retain(|pack| !made.contains(&pack.stem));
        if made.is_empty()
            || made
                .iter()
                .any(|name| !folder.join(format!("{name}.idx")).is_file())
        {
            let what = "no new pack is there".to_owned();
            return Err(MirrorError::Output {
                op: "git pack-objects",
                target: mirror.display().to_string(),
                what,
            });
        }
        let trash = tempfile::Builder::new()
            .prefix("tmp_old_packs_")
            .tempdir_in(mirror);
        let trash =
            trash.map_err(|source| MirrorError::io("make a directory in", mirror, source))?;
        let exclusive = lock.write().await;
        // Not on another thread: if this future were dropped, it would go on without the lock.
        let moved = move_packs(&folder, &old, trash.path());
        drop(exclusive);
        moved.map_err(|source| MirrorError::io("remove old packs of", &folder, source))?;
        let path = trash.path().to_owned();
        let close = move || {
            trash
                .close()
                .map_err(|source| MirrorError::io("remove", &path, source))
        };
        blocking(mirror, close).await?;
        Ok(old.len())
    }

    /// Packs the listed objects and returns the names of the packs made.
    async fn pack_objects(
        &self,
        mirror: &Path,
        list: File,
        options: &[&str],
    ) -> Result<Vec<String>, MirrorError> {
        let mut call = self.local(
            "git pack-objects",
            mirror,
            ["pack-objects", "--quiet", "--delta-base-offset"],
        );
        call.args.extend(options.iter().map(Into::into));
        call.args.push(mirror.join("objects/pack/pack").into());
        call.stdin = Some(list);
        let out = self.output(call).await?;
        Ok(String::from_utf8_lossy(&out)
            .lines()
            .map(|hash| format!("pack-{}", hash.trim()))
            .collect())
    }
}

fn format_of(config: &Config) -> Kind {
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

/// Removes what a killed process left in a mirror: lock files, half-written and replaced
/// packs. Only for the start of the server, before anything works in the mirror. Synchronous.
///
/// # Errors
/// The first thing that could not be removed; the others are gone.
pub fn recover(mirror: &Path) -> io::Result<()> {
    let locks = [
        "config.lock",
        "HEAD.lock",
        "packed-refs.lock",
        "packed-refs.new",
    ];
    let mut found: Vec<PathBuf> = locks.iter().map(|name| mirror.join(name)).collect();
    found.extend(with_prefix(mirror, "tmp_")?);
    found.extend(with_prefix(&mirror.join("objects/pack"), "tmp_")?);
    found.extend(with_prefix(&mirror.join("objects/pack"), ".tmp-")?);
    found.extend(ref_locks(mirror)?);
    remove_all(&found)
}

/// Removes what a fetch that failed has left in a mirror: on a disk that is full git leaves the
/// half of a pack. Only while nothing else works in the mirror. Synchronous.
///
/// # Errors
/// The first thing that could not be removed; the others are gone.
pub fn remove_unfinished(mirror: &Path) -> io::Result<()> {
    remove_all(&with_prefix(&mirror.join("objects/pack"), "tmp_")?)
}

/// Lock files of loose refs. No ref has a name that ends like theirs.
fn ref_locks(mirror: &Path) -> io::Result<Vec<PathBuf>> {
    let (mut found, mut pending) = (Vec::new(), vec![mirror.join("refs")]);
    while let Some(folder) = pending.pop() {
        let inside = match entries(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            inside => inside?,
        };
        for entry in inside {
            let path = entry.path();
            if entry.file_type()?.is_dir() {
                pending.push(path);
            } else if path.extension().is_some_and(|end| end == "lock") {
                found.push(path);
            }
        }
    }
    Ok(found)
}

fn with_prefix(folder: &Path, prefix: &str) -> io::Result<Vec<PathBuf>> {
    let found = match entries(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        found => found?,
    };
    let matches = |entry: &DirEntry| entry.file_name().to_string_lossy().starts_with(prefix);
    Ok(found
        .into_iter()
        .filter(matches)
        .map(|entry| entry.path())
        .collect())
}

fn remove_all(paths: &[PathBuf]) -> io::Result<()> {
    let remove = |path: &PathBuf| match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Ok(found) if found.is_dir() => crate::io::fs::remove_tree(path),
        _ => std::fs::remove_file(path),
    };
    paths.iter().map(remove).fold(Ok(()), Result::and)
}

/// Syncs every file and directory below and including `root`.
pub(super) fn sync_tree(root: &Path) -> io::Result<()> {
    let mut pending = vec![root.to_owned()];
    while let Some(folder) = pending.pop() {
        for entry in entries(&folder)? {
            if entry.file_type()?.is_dir() {
                pending.push(entry.path());
            } else {
                File::open(entry.path())?.sync_all()?;
            }
        }
        File::open(&folder)?.sync_all()?;
    }
    Ok(())
}

fn entries(folder: &Path) -> io::Result<Vec<DirEntry>> {
    std::fs::read_dir(folder)?.collect()
}

/// The ids of all loose objects.
fn loose_ids(objects: &Path) -> io::Result<Vec<String>> {
    let mut ids = Vec::new();
    for first in 0..=u8::MAX {
        let first = format!("{first:02x}");
        let found = match entries(&objects.join(&first)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            found => found?,
        };
        for entry in found {
            let id = format!("{first}{}", entry.file_name().to_string_lossy());
            if gix::ObjectId::from_hex(id.as_bytes()).is_ok() {
                ids.push(id);
            }
        }
    }
    Ok(ids)
}

/// A pack by the name of its files without the extension.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pack {
    stem: String,
    index: PathBuf,
    objects: u64,
}

/// The packs that may be joined with others, by number of objects.
fn packs(folder: &Path, hash: Kind) -> io::Result<Vec<Pack>> {
    let mut packs = Vec::new();
    for entry in entries(folder)? {
        let index = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(stem) = name
            .strip_suffix(".idx")
            .filter(|stem| stem.starts_with("pack-"))
        else {
            continue;
        };
        // `.mtimes` belongs to a pack of objects that git means to expire.
        if ["keep", "mtimes"]
            .iter()
            .any(|with| index.with_extension(with).exists())
            || !index.with_extension("pack").is_file()
        {
            continue;
        }
        let objects = open_index(&index, hash)?.num_objects().into();
        packs.push(Pack {
            stem: stem.to_owned(),
            index,
            objects,
        });
    }
    packs.sort_by(|a, b| (a.objects, &a.stem).cmp(&(b.objects, &b.stem)));
    Ok(packs)
}

fn open_index(path: &Path, hash: Kind) -> io::Result<gix::odb::pack::index::File> {
    gix::odb::pack::index::File::at(path, hash).map_err(|error| io::Error::other(error.to_string()))
}

/// From packs sorted by size: those to join so that the rest forms a geometric progression,
/// by the rule of `git repack --geometric`. None when there are not too many.
fn choose(mut packs: Vec<Pack>) -> Vec<Pack> {
    if packs.len() <= limits::MIRROR_PACKS_MAX {
        return Vec::new();
    }
    let factor = limits::MIRROR_PACK_FACTOR;
    let breaks = |pair: &[Pack]| pair[1].objects < pair[0].objects.saturating_mul(factor);
    let Some(last_break) = packs.windows(2).rposition(breaks) else {
        return Vec::new();
    };
    let mut split = last_break + 2;
    let mut total: u64 = packs.iter().take(split).map(|pack| pack.objects).sum();
    while let Some(next) = packs
        .get(split)
        .filter(|next| next.objects < total.saturating_mul(factor))
    {
        total += next.objects;
        split += 1;
    }
    packs.truncate(split);
    packs
}

/// Writes the ids of all objects of the packs, in the order in which they lie there, so that
/// the new pack keeps neighbours together.
fn list_objects(file: File, packs: &[Pack], hash: Kind) -> io::Result<File> {
    let mut out = BufWriter::new(file);
    for pack in packs.iter().rev() {
        let index = open_index(&pack.index, hash)?;
        let mut order: Vec<(u64, u32)> = (0..index.num_objects())
            .map(|at| (index.pack_offset_at_index(at), at))
            .collect();
        order.sort_unstable();
        for (_, at) in order {
            writeln!(out, "{}", index.oid_at_index(at))?;
        }
    }
    let mut file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.seek(SeekFrom::Start(0))?;
    Ok(file)
}

/// Takes packs, their indices first, and the index over all packs, which names them, out of
/// the repository. Moving is quick; unlinking gigabytes is not.
fn move_packs(folder: &Path, packs: &[Pack], trash: &Path) -> io::Result<()> {
    let mut names: Vec<OsString> = entries(folder)?.iter().map(DirEntry::file_name).collect();
    names.retain(|name| name.to_string_lossy().starts_with("multi-pack-index"));
    for pack in packs {
        names.extend(
            ["idx", "rev", "bitmap", "pack"].map(|end| format!("{}.{end}", pack.stem).into()),
        );
    }
    for name in names {
        match std::fs::rename(folder.join(&name), trash.join(&name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
