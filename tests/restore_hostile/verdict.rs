//! What a restored directory may be: what a clone is, and nothing that git executes, follows,
//! trusts or parses as configuration from anybody but the client.

use crate::look::snapshot;
use crate::made::{hex, sha1};
use crate::support::git;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// A name for all that is in a restored directory, but for the dates in its index: what git does
/// in two of the same name is the same.
pub fn digest(target: &Path) -> String {
    let mut text = String::new();
    let index = target.join(".git/index");
    for (path, what) in snapshot(target, std::slice::from_ref(&index)) {
        let name = path.strip_prefix(target).unwrap_or(&path);
        text += &format!("{} {what}\n", name.display());
    }
    text += &hex(&without_dates(fs::read(index).unwrap_or_default()));
    hex(&sha1(text.as_bytes()))
}

/// An index of version 2 without stat data and sum; any other as it is.
fn without_dates(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(end) = entries_of(&bytes, |_| {}) {
        let mut places = Vec::new();
        entries_of(&bytes, |at| places.push(at));
        for at in places {
            bytes[at..at + 24].fill(0);
            bytes[at + 28..at + 40].fill(0);
        }
        bytes.truncate(bytes.len().saturating_sub(20).max(end));
    }
    bytes
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    let field = bytes.get(at..at + 4)?;
    Some(u32::from_be_bytes(field.try_into().ok()?))
}

/// Where the entries of an index of version 2 end; `each` gets where each begins.
fn entries_of(bytes: &[u8], mut each: impl FnMut(usize)) -> Option<usize> {
    if bytes.get(..4)? != b"DIRC" || number(bytes, 4)? != 2 {
        return None;
    }
    let mut at = 12;
    for _ in 0..number(bytes, 8)? {
        let path = bytes.get(at + 62..)?.iter().position(|b| *b == 0)?;
        each(at);
        at += (62 + path + 8) / 8 * 8;
    }
    (at <= bytes.len()).then_some(at)
}

/// The names of an index's extensions.
fn extensions(bytes: &[u8]) -> Option<Vec<String>> {
    let mut at = entries_of(bytes, |_| {})?;
    let mut names = Vec::new();
    while at + 20 < bytes.len() {
        names.push(String::from_utf8_lossy(bytes.get(at..at + 4)?).into_owned());
        at += 8 + number(bytes, at + 4)? as usize;
    }
    Some(names)
}

/// What is wrong with the restored directory `target`, from an archive of the upstream at `url`.
/// `canary` is a command that no file may name.
pub fn check(target: &Path, url: &str, canary: &str) -> Result<(), String> {
    files(target, canary.as_bytes())?;
    head(target)?;
    configuration(target, url)?;
    refs(target)?;
    index(target)
}

/// Whether git makes such a file in a clone, or the client does.
fn is_of_a_clone(name: &str) -> bool {
    const FILES: [&str; 14] = [
        "HEAD",
        "config",
        "description",
        "index",
        "packed-refs",
        "shallow",
        "tarpon-restored",
        "info",
        "info/exclude",
        "objects",
        "objects/info",
        "objects/pack",
        "refs",
        "refs/heads",
    ];
    let is_hex = |text: &str| {
        text.bytes()
            .all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase())
    };
    let pack = |file: &str| {
        let parts = file.strip_prefix("pack-").and_then(|f| f.split_once('.'));
        parts.is_some_and(|(id, kind)| {
            is_hex(id) && id.len() == 40 && ["pack", "idx", "rev", "mtimes"].contains(&kind)
        })
    };
    if let Some(file) = name.strip_prefix("objects/pack/") {
        return pack(file);
    }
    if let Some(loose) = name.strip_prefix("objects/")
        && is_hex(&loose.replacen('/', "", 1))
    {
        return [2, 41].contains(&loose.len());
    }
    // Git writes a log when it moves a branch by a bundle.
    let of_refs = ["refs/remotes", "refs/tags", "refs/heads/", "logs"];
    let is_ref = |begin: &&str| name.starts_with(*begin);
    FILES.contains(&name) || (of_refs.iter().any(is_ref) && !name.ends_with(".lock"))
}

fn files(target: &Path, canary: &[u8]) -> Result<(), String> {
    let tracked = git::output(target, &["ls-files", "-z"]);
    let tracked: BTreeSet<_> = tracked
        .stdout
        .split(|b| *b == 0)
        .map(<[u8]>::to_vec)
        .collect();
    for path in snapshot(target, &[]).into_keys() {
        let name = path.strip_prefix(target).unwrap_or(&path).to_string_lossy();
        let name = name.into_owned();
        let Some(inside) = name.strip_prefix(".git/") else {
            let is_directory = path.symlink_metadata().is_ok_and(|meta| meta.is_dir());
            if !is_directory && !tracked.contains(name.as_bytes()) {
                return Err(format!("{name} is in no tree"));
            }
            continue;
        };
        if !is_of_a_clone(inside) {
            return Err(format!(".git has {inside}"));
        }
        let meta = path.symlink_metadata().map_err(|e| e.to_string())?;
        if meta.is_symlink() {
            return Err(format!(".git has a link {inside}"));
        }
        let bytes = if meta.is_file() {
            fs::read(&path).unwrap_or_default()
        } else {
            Vec::new()
        };
        let is_object = inside.starts_with("objects/") || inside == "index";
        if !is_object && bytes.windows(canary.len()).any(|w| w == canary) {
            return Err(format!("{inside} names the command"));
        }
    }
    Ok(())
}

fn head(target: &Path) -> Result<(), String> {
    let text = fs::read(target.join(".git/HEAD")).unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    let is_id =
        |id: &str| [40, 64].contains(&id.len()) && id.bytes().all(|b| b.is_ascii_hexdigit());
    let line = text.strip_suffix('\n').unwrap_or(&text);
    match line.strip_prefix("ref: refs/heads/") {
        Some(name) if !name.contains("..") && !name.contains('\n') => Ok(()),
        None if is_id(line) => Ok(()),
        _ => Err(format!("HEAD is {:?}", &text[..text.len().min(60)])),
    }
}

fn configuration(target: &Path, upstream: &str) -> Result<(), String> {
    let listed = git::run(target, &["config", "-f", ".git/config", "-l", "-z"]);
    let mut seen = BTreeSet::new();
    for line in listed.split(|b| *b == 0).filter(|line| !line.is_empty()) {
        let line = String::from_utf8_lossy(line).into_owned();
        let (key, value) = line.split_once('\n').unwrap_or((&line, ""));
        let is_branch = key.starts_with("branch.") && {
            let name = key.rsplit('.').next().unwrap_or_default();
            ["remote", "merge"].contains(&name)
        };
        let is_sound = match key {
            "core.repositoryformatversion" => ["0", "1"].contains(&value),
            "core.filemode" | "core.logallrefupdates" => value == "true",
            "core.bare" => value == "false",
            "extensions.objectformat" => ["sha1", "sha256"].contains(&value),
            "remote.origin.url" => is_sound_url(upstream, value),
            "remote.origin.fetch" => value == "+refs/heads/*:refs/remotes/origin/*",
            _ if is_branch => value == "origin" || value.starts_with("refs/heads/"),
            _ => false,
        };
        if !is_sound {
            return Err(format!("the configuration has {key} = {value:?}"));
        }
        if !seen.insert(key.to_owned()) {
            return Err(format!("the configuration has {key} twice"));
        }
    }
    let all = ["core.bare", "remote.origin.url", "remote.origin.fetch"];
    match all.iter().find(|key| !seen.contains(**key)) {
        Some(key) => Err(format!("the configuration has no {key}")),
        None => Ok(()),
    }
}

/// The upstream itself, or what an archive may name as one: a URL, or `[USER@]HOST:PATH`, which is ssh,
/// too.
fn is_sound_url(upstream: &str, url: &str) -> bool {
    let scheme = ["http://", "https://", "ssh://", "git://", "file:///"];
    let is_text = !url.chars().any(char::is_control);
    let is_plain = is_text && !url.contains("::") && !url.starts_with('-');
    let is_scp = || {
        let Some((host, path)) = url.split_once(':') else {
            return false;
        };
        let host = host.rsplit('@').next().unwrap_or_default();
        let plain = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
        let is_option = host.starts_with('-') || path.starts_with('-');
        !url.contains("://") && !host.is_empty() && host.chars().all(plain) && !is_option
    };
    let is_known = || scheme.iter().any(|s| url.starts_with(s)) || is_scp();
    url == upstream || (is_plain && is_known())
}

fn refs(target: &Path) -> Result<(), String> {
    let format = "--format=%(refname) %(symref)";
    let listed = git::output(target, &["for-each-ref", format]);
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    if !listed.status.success() || !listed.stderr.is_empty() {
        return Err(format!("refs: {}", String::from_utf8_lossy(&listed.stderr)));
    }
    for line in text.lines() {
        let mut fields = line.split(' ');
        let (name, to) = (
            fields.next().unwrap_or_default(),
            fields.next().unwrap_or_default(),
        );
        let places = ["refs/remotes/origin/", "refs/tags/", "refs/heads/"];
        let to_sound = match name {
            "refs/remotes/origin/HEAD" => to.starts_with("refs/remotes/origin/"),
            _ => to.is_empty(),
        };
        if !to_sound || !places.iter().any(|place| name.starts_with(place)) {
            return Err(format!("the ref {line}"));
        }
    }
    let branches = text
        .lines()
        .filter(|line| line.starts_with("refs/heads/"))
        .count();
    if branches > 1 {
        return Err(format!("{branches} branches"));
    }
    Ok(())
}

/// Version 2, no flags, no extension but `TREE`, and the paths, modes and ids of HEAD's tree.
fn index(target: &Path) -> Result<(), String> {
    let ask = |args: &[&str]| {
        let out = git::output(target, args);
        match out.status.success() {
            true => Ok(out.stdout),
            false => Err(format!(
                "git {args:?}: {}",
                String::from_utf8_lossy(&out.stderr)
            )),
        }
    };
    let debug = String::from_utf8_lossy(&ask(&["ls-files", "--debug"])?).into_owned();
    let flags = debug.lines().filter_map(|line| line.split_once("flags: "));
    if let Some((_, flags)) = flags.into_iter().find(|(_, flags)| *flags != "0") {
        return Err(format!("an entry of the index has the flags {flags}"));
    }
    let bytes = fs::read(target.join(".git/index")).unwrap_or_default();
    if bytes.is_empty() && ask(&["rev-parse", "--verify", "--quiet", "HEAD"]).is_err() {
        // A branch that is not there has no files, and needs no index.
        let files = fs::read_dir(target).map_err(|e| e.to_string())?.count();
        return match files {
            1 => Ok(()),
            _ => Err("there are files without a commit".into()),
        };
    }
    let Some(extensions) = extensions(&bytes) else {
        return Err("the index is not of version 2".into());
    };
    if let Some(name) = extensions.iter().find(|name| *name != "TREE") {
        return Err(format!("the index has the extension {name}"));
    }
    let tree = ask(&["rev-parse", "HEAD^{tree}"])?;
    let written = ask(&["write-tree"])?;
    if tree != written {
        return Err("the index is of another tree than HEAD".into());
    }
    // Without the extension that caches them.
    let listed = ask(&["ls-files", "-s", "-z"])?;
    let format = "--format=%(objectmode) %(objectname) 0\t%(path)";
    let entries = ask(&["ls-tree", "-r", "-z", format, "HEAD"])?;
    match listed == entries {
        true => Ok(()),
        false => Err("the entries of the index are not those of HEAD's tree".into()),
    }
}

/// What the client's own tests of origins take and refuse.
#[test]
fn an_origin_may_be_of_scps_form() {
    let is_sound = |url| is_sound_url("file:///srv/app", url);
    for good in ["git@h:p", "h:a/b.git", "file:/", "ssh://h/p"] {
        assert!(is_sound(good), "{good}");
    }
    for bad in [
        "-oX:p", "u@-oX:p", "h:-oX", "a/b:c", ":p", "ext::x", "x://h/p",
    ] {
        assert!(!is_sound(bad), "{bad}");
    }
}
