//! `ensure-refs`: has the server look at its upstream for what was asked for by name.

use std::collections::BTreeMap;

use gix::bstr::ByteSlice;

use super::again::again;
use super::error::RestoreError;
use super::gaps::Gaps;
use super::http::Conn;
use super::link::Link;
use super::moment::{Found, Moment};
use super::preamble::Failed;
use super::request::Request;
use super::wanted::{Checkout, Named, Wanted};
use crate::limits::SMALL_ANSWER_BYTES_MAX;
use crate::refs::Head;

/// The server's answer.
#[derive(serde::Deserialize)]
struct Ensured {
    refs: BTreeMap<String, String>,
    missing_commits: Vec<String>,
}

/// Has the server make sure of all that is wanted. What its refs are then is for a
/// [`moment`](super::moment) to say.
pub(super) fn ensure(link: Link<'_>, base: &str, wanted: &Wanted) -> Result<(), RestoreError> {
    let commits: Vec<&String> = wanted.all_commits().collect();
    let mut asked = ask(link, base, &names(wanted.all_refs(), 0), &commits)?;
    if !asked.missing_commits.is_empty() {
        let missing = asked.missing_commits.join(", ");
        return Err(RestoreError::Missing(format!(
            "there is no commit {missing}"
        )));
    }
    // Only what is no branch is looked for as a tag: each look for what is not there goes upstream.
    let is_absent = |named: &&Named| {
        asked
            .refs
            .remove(&named.names[0])
            .is_none_or(|id| id.is_empty())
    };
    let others = names(wanted.all_refs().filter(is_absent), 1);
    match others.is_empty() {
        true => Ok(()),
        false => ask(link, base, &others, &[]).map(|_| ()),
    }
}

/// Whether the server has a commit, or its upstream gives it; what cannot be told is not.
pub(super) fn has(link: Link<'_>, base: &str, commit: gix::ObjectId) -> bool {
    let asked = ask(link, base, &BTreeMap::new(), &[&commit.to_string()]);
    asked.is_ok_and(|asked| asked.missing_commits.is_empty())
}

/// The names number `at` of those that have so many, each with its id or nothing.
fn names<'a>(named: impl Iterator<Item = &'a Named>, at: usize) -> BTreeMap<&'a str, &'a str> {
    let name = |named: &'a Named| {
        let id = named.id.as_deref().unwrap_or_default();
        Some((named.names.get(at)?.as_str(), id))
    };
    named.filter_map(name).collect()
}

fn ask(
    link: Link<'_>,
    base: &str,
    refs: &BTreeMap<&str, &str>,
    commits: &[&String],
) -> Result<Ensured, RestoreError> {
    let lost = |e: std::io::Error| RestoreError::Server(format!("ensure-refs: {e}"));
    let body = serde_json::json!({ "refs": refs, "commits": commits }).to_string();
    let target = format!("{base}/ensure-refs");
    again(link, lost, |link| ask_once(link, &target, &body))
}

fn ask_once(link: Link<'_>, target: &str, body: &str) -> Result<Ensured, Failed> {
    let conn = Conn::open(link)?;
    let mut conn = conn.heed(link.progress.signs());
    let fields = [("Content-Type", "application/json")];
    let request = Request::post(target, &fields, body.as_bytes());
    let answer = conn.ask(&request, link.wait)?;
    if (300..400).contains(&answer.status) {
        return Err(conn.refused(&answer).into());
    }
    let (text, ended) = read(&mut conn, link)?;
    if let Err(e) = ended {
        return Err(told(link, &text).map_or(Failed::Io(e), Failed::Told));
    }
    Err(Failed::Told(match answer.status {
        200 => match serde_json::from_str(&text) {
            Ok(ensured) => return Ok(ensured),
            Err(e) => RestoreError::Server(format!("ensure-refs: {e}: {text}")),
        },
        400 => RestoreError::Usage(text),
        status => link.refusal(status, &text),
    }))
}

/// Reads an answer to its end, or as far as it comes. Line ends before it are signs of life.
fn read(
    conn: &mut Conn<'_>,
    link: Link<'_>,
) -> Result<(String, std::io::Result<()>), RestoreError> {
    let mut gaps = Gaps::new(link.wait_alive);
    let mut text = Vec::new();
    let mut piece = [0; 4096];
    let mut read_bytes = 0;
    let ended = loop {
        let got = match conn.read(&mut piece) {
            Ok(0) => break Ok(()),
            Ok(got) => got,
            Err(e) => break Err(e),
        };
        read_bytes += got as u64;
        text.extend_from_slice(&piece[..got]);
        if text.trim_ascii().is_empty() {
            text.clear();
            gaps.nothing(read_bytes)?;
            link.progress.lives();
        }
        if text.len() >= SMALL_ANSWER_BYTES_MAX {
            break Ok(());
        }
    };
    Ok((String::from_utf8_lossy(&text).trim().to_owned(), ended))
}

/// Why an answer that had begun broke off, where the server says so.
fn told(link: Link<'_>, text: &str) -> Option<RestoreError> {
    let (status, message) = text.split_once(": ")?;
    Some(link.refusal(status.parse().ok()?, message))
}

/// What `wanted` has checked out, by the refs of one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum At {
    /// The full name of a branch, which need not be there.
    Branch(Vec<u8>),
    /// The full name of a branch, and what leads to the commit that it is to be at here.
    Reset(Vec<u8>, gix::ObjectId),
    /// Anything that leads to a commit.
    Detached(gix::ObjectId),
}

/// Finds all that is wanted in `moment`; an error names what is not as it was asked for. What only an
/// object can tell is for [`check_pins`].
pub(super) fn find(wanted: &Wanted, moment: &Moment) -> Result<At, RestoreError> {
    let mut missing = Vec::new();
    let mut look = |named: &Named| match find_ref(named, moment) {
        Ok(found) => Some(found),
        Err(why) => {
            missing.push(why);
            None
        }
    };
    let head = match &moment.head {
        Head::Symbolic(branch) => At::Branch(branch.to_vec()),
        Head::Detached(id) => At::Detached(*id),
    };
    let at = match &wanted.checkout {
        Checkout::Head => head,
        Checkout::Ref(named) => match look(named) {
            Some(found) if found.name.starts_with(b"refs/heads/") => {
                At::Branch(found.name.to_vec())
            }
            Some(found) => At::Detached(found.target),
            None => head,
        },
        Checkout::Commit(id) => At::Detached(id_of(id)?),
        Checkout::At(named, id) => {
            let is_there = |name: &&String| moment.get(name.as_bytes().as_bstr()).is_some();
            let name = named.names.iter().find(is_there);
            named.at(name.unwrap_or(&named.names[0]), id_of(id)?)
        }
    };
    for named in &wanted.refs {
        look(named);
    }
    match missing.is_empty() {
        true => Ok(at),
        false => Err(RestoreError::Missing(missing.join(", "))),
    }
}

/// Compares the id that each ref was asked for with what the ref is in `moment`, or with the commit
/// that this leads to: `commit_of` finds that by the objects.
pub(super) fn check_pins(
    wanted: &Wanted,
    moment: &Moment,
    mut commit_of: impl FnMut(gix::ObjectId) -> Result<gix::ObjectId, RestoreError>,
) -> Result<(), RestoreError> {
    for named in wanted.all_refs() {
        let found = find_ref(named, moment).map_err(RestoreError::Missing)?;
        let Some(id) = &named.id else {
            continue;
        };
        if !is_id(found.target, id) && !is_id(commit_of(found.target)?, id) {
            return Err(RestoreError::Missing(is_not(&found, id)));
        }
    }
    Ok(())
}

/// Finds a ref. What it leads to is what the server says: enough to refuse it, and for no more
/// ([`check_pins`]).
fn find_ref<'m>(named: &Named, moment: &'m Moment) -> Result<Found<'m>, String> {
    let found = named
        .names
        .iter()
        .find_map(|name| moment.get(name.as_bytes().as_bstr()));
    let found = found.ok_or_else(|| absent(named))?;
    // Branches are of commits; anything else may lead to one.
    match &named.id {
        Some(id) if found.name.starts_with(b"refs/heads/") && !is_id(found.target, id) => {
            Err(is_not(&found, id))
        }
        _ => Ok(found),
    }
}

/// Says that a ref is not there, and why it may be so though the upstream has it.
fn absent(named: &Named) -> String {
    let is_followed = |name: &String| {
        ["refs/heads/", "refs/tags/"]
            .iter()
            .any(|kind| name.starts_with(kind))
    };
    let hint = match named.names.iter().any(is_followed) {
        true if named.names.len() > 1 => {
            " (neither as a branch nor as a tag; git ls-remote shows those of the upstream)"
        }
        true => "",
        false => {
            " (a server has branches, tags and what its --follow names; a commit's id can be asked for anyway)"
        }
    };
    format!("there is no {}{hint}", named.given)
}

fn id_of(hex: &str) -> Result<gix::ObjectId, RestoreError> {
    let id = gix::ObjectId::from_hex(hex.as_bytes());
    id.map_err(|e| RestoreError::Usage(e.to_string()))
}

impl Named {
    /// What is checked out where it is asked for at `id`, and stands for `name`.
    pub(super) fn at(&self, name: &str, id: gix::ObjectId) -> At {
        match name.starts_with("refs/heads/") {
            true => At::Reset(name.into(), id),
            false => At::Detached(id),
        }
    }
}

fn is_id(id: gix::ObjectId, hex: &str) -> bool {
    gix::ObjectId::from_hex(hex.as_bytes()).is_ok_and(|hex| hex == id)
}

fn is_not(found: &Found<'_>, id: &str) -> String {
    format!("{} is {}, not {id}", found.name, found.target)
}
