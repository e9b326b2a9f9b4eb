//! Git's configuration keys: `keys.txt` has every key that any git known here lists, those marked
//! with `!` can execute, read, write or trust something that is not the repository's.

use std::collections::BTreeSet;
use std::process::Command;

const KEYS: &str = include_str!("keys.txt");

/// A key for a case: its section, perhaps a subsection, its name.
pub struct Key {
    /// As in git's list.
    pub listed: &'static str,
    pub section: String,
    pub subsection: Option<String>,
    pub name: String,
}

/// The keys that must never come from an archive.
pub fn dangerous(url: &str) -> Vec<Key> {
    let marked = KEYS.lines().filter_map(|line| line.strip_prefix("! "));
    marked.map(|listed| key(listed, url)).collect()
}

fn key(listed: &'static str, url: &str) -> Key {
    let (section, rest) = listed.split_once('.').unwrap_or((listed, "lg"));
    let (subsection, name) = match rest.rsplit_once('.') {
        Some((subsection, name)) => (Some(subsection), name),
        None => (None, rest),
    };
    let subsection = subsection.map(|placeholder| match (section, placeholder) {
        ("remote", _) => "origin".to_owned(),
        ("branch", _) => "main".to_owned(),
        ("submodule", _) => "sub".to_owned(),
        ("protocol", _) => "ext".to_owned(),
        ("includeIf", _) => "gitdir:/".to_owned(),
        ("url", _) => "ssh://evil.invalid/".to_owned(),
        ("credential" | "http", _) => url.to_owned(),
        (_, placeholder) if placeholder.starts_with('<') => "evil".to_owned(),
        (_, fixed) => fixed.to_owned(),
    });
    let name = match (section, name) {
        ("alias", _) => "lg",
        ("pager", _) => "log",
        ("credential", "*") => "helper",
        ("http", "*") => "proxy",
        ("bundle", "*") => "uri",
        ("sendemail", "*") => "smtpserver",
        (_, name) => name,
    };
    Key {
        listed,
        section: section.to_owned(),
        subsection,
        name: name.to_owned(),
    }
}

/// A git that has a key which nobody has classified makes this fail: write it into `keys.txt`,
/// with a `!` if it can execute, read, write or trust something that is not the repository's.
#[test]
fn every_key_of_this_git_is_classified() {
    let out = Command::new("git").args(["help", "--config"]).output();
    let out = out.unwrap_or_else(|e| panic!("git: {e}"));
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let known: BTreeSet<&str> = KEYS.lines().map(|line| &line[2..]).collect();
    let listed = text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('\''));
    let listed: Vec<&str> = listed.collect();
    assert!(listed.len() > 500, "git lists {} keys", listed.len());
    let new: Vec<_> = listed.iter().filter(|key| !known.contains(*key)).collect();
    assert!(new.is_empty(), "not classified in keys.txt: {new:#?}");
}
