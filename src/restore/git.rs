//! What a restore leaves to the real `git`: bundles, further refs and commits, and the clone when
//! there is no snapshot.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use super::download::{Link, refusal};
use super::error::RestoreError;
use super::http::Conn;
use super::run;
use super::stop::Stop;
use crate::limits::{FIRST_ANSWER_MS, STREAM_READ_BYTES};
use crate::refs::{full_id, is_ref_name};

fn line(bytes: Vec<u8>) -> String {
    String::from_utf8_lossy(&bytes).trim().to_owned()
}

/// The files that the repository at `directory` tracks; none where there is no repository.
pub fn tracked(stop: &Stop, directory: &Path) -> Vec<Vec<u8>> {
    if !directory.join(".git").exists() {
        return Vec::new();
    }
    let listed = run::local(stop, directory, &["ls-files", "-z"]).unwrap_or_default();
    let paths = listed.split(|b| *b == 0).filter(|path| !path.is_empty());
    paths.map(<[u8]>::to_vec).collect()
}

/// Clones from the upstream into the empty directory `tree`.
pub fn clone(link: Link<'_>, url: &str, tree: &Path) -> Result<(), RestoreError> {
    let args = ["clone", "--quiet", "--", url, "."];
    run::upstream(link, url, tree, &args).map(|_| ())
}

/// What became of a bundle that the server named.
pub enum Bundled {
    /// The new commit.
    Applied(String),
    /// The snapshot stays as it is; why.
    Skipped(String),
}

/// Brings the repository at `tree` up to the bundle that the server named. A bundle that cannot be
/// had or is of no use leaves the snapshot as it is, which is whole without it; that the disk
/// failed, or `git` in the middle of the worktree, is an error.
pub fn apply_bundle(
    link: Link<'_>,
    target: &str,
    file: &Path,
    tree: &Path,
) -> Result<Bundled, RestoreError> {
    match download(link, target, file) {
        Ok(()) => {}
        Err(e @ RestoreError::Disk { .. }) => return Err(e),
        Err(e) => return Ok(Bundled::Skipped(e.to_string())),
    }
    let git = |args: &[&str]| run::local(link.stop, tree, args);
    let bundle = file.to_string_lossy();
    // Without a branch HEAD is detached, and its log the only one.
    let branch = git(&["symbolic-ref", "--quiet", "HEAD"]).ok();
    let branch = branch.as_deref().map(<[u8]>::trim_ascii);
    let listed = match git(&["bundle", "list-heads", &bundle]) {
        Ok(listed) => listed,
        Err(e) => return Ok(Bundled::Skipped(e.to_string())),
    };
    let its_branch = branch_of(&listed);
    if its_branch != branch {
        let named = |name: Option<&[u8]>| match name {
            Some(name) => String::from_utf8_lossy(name).into_owned(),
            None => "a detached commit".into(),
        };
        let (new, old) = (named(its_branch), named(branch));
        let why = format!("the upstream's HEAD is now {new}, no longer {old}");
        return Ok(Bundled::Skipped(why));
    }
    // Git looks at every object, and for the commits that the bundle builds upon.
    let fetch = ["fetch", "--quiet", "--no-tags", &bundle, "HEAD"];
    if let Err(e) = run::bundle(link.stop, tree, &fetch) {
        return Ok(Bundled::Skipped(e.to_string()));
    }
    let commit = line(git(&["rev-parse", "--verify", "FETCH_HEAD"])?);
    check_out(&commit, &git)?;
    if let Some(name) = branch.and_then(|b| b.strip_prefix(b"refs/heads/")) {
        let remote = [b"refs/remotes/origin/", name].concat();
        let update = [
            OsStr::new("update-ref"),
            OsStr::from_bytes(&remote),
            OsStr::new(&commit),
        ];
        run::local(link.stop, tree, &update)?;
    }
    for left in ["FETCH_HEAD", "ORIG_HEAD"] {
        let _ = std::fs::remove_file(tree.join(".git").join(left));
    }
    Ok(Bundled::Applied(commit))
}

/// The full name of the branch in the list of a bundle's tips, which are HEAD and that. Names are
/// bytes: git takes any.
fn branch_of(listed: &[u8]) -> Option<&[u8]> {
    let mut tips = listed.split(|b| *b == b'\n').filter_map(|tip| {
        let space = tip.iter().position(|b| *b == b' ')?;
        Some(&tip[space + 1..])
    });
    tips.find(|name| *name != b"HEAD")
}

/// Moves the branch and its files to `commit`.
fn check_out(
    commit: &str,
    git: &impl Fn(&[&str]) -> Result<Vec<u8>, RestoreError>,
) -> Result<(), RestoreError> {
    let changed = ["diff-tree", "-r", "-z", "--name-only", "HEAD", commit];
    let changed = git(&changed)?;
    // A fast-forward as a rule; after a force-push what a clone would have now.
    git(&["reset", "--quiet", "--hard", commit])?;
    let is_attributes = |path: &[u8]| path.rsplit(|b| *b == b'/').next() == Some(b".gitattributes");
    if changed.split(|b| *b == 0).any(is_attributes) {
        // They also decide about files that are the same in both, which git leaves as they are
        // unless it knows nothing of them.
        git(&["read-tree", "--empty"])?;
        git(&["reset", "--quiet", "--hard", commit])?;
    }
    Ok(())
}

/// Downloads a bundle.
fn download(link: Link<'_>, target: &str, into: &Path) -> Result<(), RestoreError> {
    let server = |e: std::io::Error| RestoreError::Server(format!("bundle: {e}"));
    let mut conn = Conn::open(link.server, link.stop, link.stall).map_err(server)?;
    let limit = Duration::from_millis(FIRST_ANSWER_MS);
    let answer = conn.ask("GET", target, &[], b"", limit).map_err(server)?;
    if answer.status != 200 {
        let text = conn.read_text().unwrap_or_default();
        return Err(RestoreError::Server(format!("{}: {text}", answer.status)));
    }
    let disk = |e| RestoreError::disk("write", into, e);
    let mut file = File::create_new(into).map_err(disk)?;
    let mut bytes = vec![0; STREAM_READ_BYTES];
    loop {
        match conn.read(&mut bytes).map_err(server)? {
            0 => return Ok(()),
            got => file.write_all(&bytes[..got]).map_err(disk)?,
        }
    }
}

/// What is to be there besides the snapshot.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Full names, each with the commit it must name, or empty for any.
    pub refs: Vec<(String, String)>,
    pub commits: Vec<String>,
}

impl Wanted {
    /// Reads `--ref NAME[=SHA]` and `--commit SHA`.
    pub fn parse(refs: &[String], commits: &[String]) -> Result<Wanted, RestoreError> {
        let whole = |id| full_id(id).map_err(RestoreError::Usage);
        let refs = refs.iter().map(|given| {
            let (name, id) = match given.split_once('=') {
                Some((name, id)) => (name, whole(id)?),
                None => (given.as_str(), String::new()),
            };
            let full = match name.starts_with("refs/") {
                true => name.to_owned(),
                false => format!("refs/heads/{name}"),
            };
            match is_ref_name(full.as_bytes()) {
                true => Ok((full, id)),
                false => Err(RestoreError::Usage(format!("{name:?} is no name of a ref"))),
            }
        });
        Ok(Wanted {
            refs: refs.collect::<Result<_, _>>()?,
            commits: commits
                .iter()
                .map(|id| whole(id))
                .collect::<Result<_, _>>()?,
        })
    }

    /// Whether nothing is wanted.
    pub fn is_empty(&self) -> bool {
        self.refs.is_empty() && self.commits.is_empty()
    }
}

/// Where a clone has the upstream's ref `name`.
fn local_name(name: &str) -> String {
    match name.strip_prefix("refs/heads/") {
        Some(branch) => format!("refs/remotes/origin/{branch}"),
        None => name.to_owned(),
    }
}

/// The server's answer to `ensure-refs`.
#[derive(serde::Deserialize)]
struct Ensured {
    refs: std::collections::BTreeMap<String, String>,
    missing_commits: Vec<String>,
}

/// Has the server make sure of what is wanted, then fetches from it what `tree` has not.
pub fn ensure(
    link: Link<'_>,
    base: &str,
    wanted: &Wanted,
    tree: &Path,
) -> Result<(), RestoreError> {
    let ensured = ask_ensure(link, base, wanted)?;
    let mut missing = ensured.missing_commits;
    let mut fetch: Vec<String> = Vec::new();
    for (name, id) in &wanted.refs {
        match ensured.refs.get(name).map(String::as_str) {
            Some(found) if !found.is_empty() && (id.is_empty() || id == found) => {
                fetch.push(format!("+{name}:{}", local_name(name)));
            }
            Some(found) if !found.is_empty() => {
                missing.push(format!("{name} is {found}, not {id}"))
            }
            _ => missing.push(name.clone()),
        }
    }
    if !missing.is_empty() {
        return Err(RestoreError::Missing(missing.join(", ")));
    }
    let absent = |commit: &&String| !has_commit(link.stop, tree, commit);
    fetch.extend(wanted.commits.iter().filter(absent).cloned());
    if fetch.is_empty() {
        return Ok(());
    }
    let url = format!("http://{}{base}", link.server.authority);
    let mut args = vec!["fetch".to_owned(), "--quiet".into(), "--no-tags".into()];
    args.push("--no-write-fetch-head".into());
    args.push(url);
    args.extend(fetch);
    run::server(link, tree, &args).map(|_| ())
}

fn has_commit(stop: &Stop, tree: &Path, commit: &str) -> bool {
    let object = format!("{commit}^{{commit}}");
    run::local(stop, tree, &["cat-file", "-e", &object]).is_ok()
}

/// The same for a clone at `tree`, which has nobody to ask but its upstream.
pub fn ensure_from_upstream(
    link: Link<'_>,
    url: &str,
    wanted: &Wanted,
    tree: &Path,
) -> Result<(), RestoreError> {
    let stop = link.stop;
    let fetch = |what: &str| {
        let args = ["fetch", "--quiet", "--no-tags", "--no-write-fetch-head"];
        let args = [&args[..], &["origin", what]].concat();
        run::upstream(link, url, tree, &args)
    };
    let mut missing = Vec::new();
    for (name, id) in &wanted.refs {
        let local = local_name(name);
        let look =
            || run::local(stop, tree, &["rev-parse", "--quiet", "--verify", &local]).map(line);
        let found = look().or_else(|_| fetch(&format!("+{name}:{local}")).and_then(|_| look()));
        match found {
            Ok(found) if id.is_empty() || *id == found => {}
            Ok(found) => missing.push(format!("{name} is {found}, not {id}")),
            Err(e) => missing.push(format!("{name} ({e})")),
        }
    }
    for commit in &wanted.commits {
        if has_commit(stop, tree, commit) {
            continue;
        }
        if let Err(e) = fetch(commit) {
            missing.push(format!("{commit} ({e})"));
        }
    }
    match missing.is_empty() {
        true => Ok(()),
        false => Err(RestoreError::Missing(missing.join(", "))),
    }
}

fn ask_ensure(link: Link<'_>, base: &str, wanted: &Wanted) -> Result<Ensured, RestoreError> {
    let server = |e: std::io::Error| RestoreError::Server(format!("ensure-refs: {e}"));
    let refs: serde_json::Map<_, _> = wanted
        .refs
        .iter()
        .map(|(name, id)| (name.clone(), id.clone().into()))
        .collect();
    let body = serde_json::json!({ "refs": refs, "commits": wanted.commits }).to_string();
    let mut conn = Conn::open(link.server, link.stop, link.stall).map_err(server)?;
    let target = format!("{base}/ensure-refs");
    let fields = [("Content-Type", "application/json")];
    let limit = Duration::from_millis(FIRST_ANSWER_MS);
    let answer = conn
        .ask("POST", &target, &fields, body.as_bytes(), limit)
        .map_err(server)?;
    let text = conn.read_text().map_err(server)?;
    match answer.status {
        200 => serde_json::from_str(&text)
            .map_err(|e| RestoreError::Server(format!("ensure-refs: {e}: {text}"))),
        400 => Err(RestoreError::Usage(text)),
        status => Err(refusal(status, &text)),
    }
}
