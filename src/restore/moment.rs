//! The refs of the server's mirror at one moment: one `ls-refs` of git's protocol
//! (gitprotocol-v2(5)).
//!
//! It asks for all refs at once, whatever is needed of them: for several prefixes git reads its
//! list of refs several times, and they may have moved in between.

use std::hash::{DefaultHasher, Hash, Hasher};

use gix::ObjectId;
use gix::bstr::{BStr, BString, ByteSlice};

use super::again::again;
use super::error::RestoreError;
use super::http::Conn;
use super::link::Link;
use super::preamble::Failed;
use super::request::Request;
use crate::limits::{MOMENT_BYTES_MAX, MOMENT_TRIES_MAX, UNSORTED_REFS_MAX};
use crate::refs::{Follow, Head, in_the_way, is_ref_name};

const LENGTH_BYTES: usize = 4;

/// What is wrong with a list.
pub(super) fn wrong(what: impl std::fmt::Display) -> RestoreError {
    RestoreError::Server(format!("the list of refs: {what}"))
}

/// The refs of a mirror at one moment. There may be a million of them: the names are kept as they
/// came, one behind the other.
///
/// Invariant: `refs` is sorted by name, each name once.
#[derive(Debug)]
pub struct Moment {
    pub head: Head,
    /// How long ago the mirror was known to be what the upstream has, if the server says so.
    pub age_s: Option<u64>,
    names: Vec<u8>,
    refs: Vec<Place>,
}

/// A ref of a list.
#[derive(Debug, Clone, Copy)]
struct Place {
    /// Where its name is.
    begin: u32,
    len: u16,
    target: ObjectId,
}

impl Place {
    fn name<'n>(&self, names: &'n [u8]) -> &'n BStr {
        let begin = self.begin as usize;
        names[begin..begin + usize::from(self.len)].as_bstr()
    }
}

/// One ref with what it points to.
#[derive(Debug, Clone, Copy)]
pub struct Found<'m> {
    pub name: &'m BStr,
    pub target: ObjectId,
}

impl Moment {
    /// All of them, in the order of their names.
    pub fn refs(&self) -> impl ExactSizeIterator<Item = Found<'_>> {
        let found = |place: &Place| Found {
            name: place.name(&self.names),
            target: place.target,
        };
        self.refs.iter().map(found)
    }

    /// The ref of this full name.
    pub fn get(&self, name: &BStr) -> Option<Found<'_>> {
        let order = |place: &Place| place.name(&self.names).cmp(name);
        let place = &self.refs[self.refs.binary_search_by(order).ok()?];
        Some(Found {
            name: place.name(&self.names),
            target: place.target,
        })
    }

    /// The commit that HEAD leads to, if there is one.
    pub fn head_id(&self) -> Option<ObjectId> {
        match &self.head {
            Head::Symbolic(name) => Some(self.get(name.as_bstr())?.target),
            Head::Detached(id) => Some(*id),
        }
    }

    /// HEAD as a clone has it: that of a commit is the branch that is at it, if there is one.
    fn clone_head(&self, id: ObjectId) -> Head {
        const MASTER: &[u8] = b"refs/heads/master";
        let is_tip = |found: &Found<'_>| found.target == id;
        let master = self.get(MASTER.as_bstr()).filter(is_tip);
        let mut branches = self
            .refs()
            .filter(|found| found.name.starts_with(b"refs/heads/"));
        match master.or_else(|| branches.find(is_tip)) {
            Some(found) => Head::Symbolic(found.name.into()),
            None => Head::Detached(id),
        }
    }

    /// What tells two of them apart.
    pub fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.head.hash(&mut hasher);
        for found in self.refs() {
            (found.name, found.target).hash(&mut hasher);
        }
        hasher.finish()
    }
}

/// Heads, tags, and the refs of the full names `more`, as the mirror has them now.
pub(super) fn ask(
    link: Link<'_>,
    base: &str,
    kind: gix::hash::Kind,
    more: &[&str],
) -> Result<Moment, RestoreError> {
    for _ in 0..MOMENT_TRIES_MAX {
        let refs = again(link, wrong, |link| ask_once(link, base, kind, more))?;
        // Git reads HEAD before the rest: they may have moved in between.
        let is_one = match &refs.head {
            Head::Symbolic(_) => true,
            Head::Detached(id) => *id != ObjectId::null(kind),
        };
        if is_one {
            return Ok(refs);
        }
    }
    Err(wrong("HEAD and its branch differ each time"))
}

fn ask_once(
    link: Link<'_>,
    base: &str,
    kind: gix::hash::Kind,
    more: &[&str],
) -> Result<Moment, Failed> {
    let mut conn = Conn::open(link)?;
    let target = format!("{base}/git-upload-pack");
    let fields = [
        ("Content-Type", "application/x-git-upload-pack-request"),
        ("Git-Protocol", "version=2"),
    ];
    let request = request(kind);
    let request = Request::post(&target, &fields, &request);
    let answer = conn.ask(&request, link.wait)?;
    link.progress.answered_too();
    if answer.status != 200 {
        return Err(conn.refused(&answer).into());
    }
    let mut listing = Listing::new(kind, more);
    let mut lines = Lines::default();
    let mut read_bytes = 0;
    let mut piece = [0; 16 << 10];
    loop {
        let got = conn.read(&mut piece)?;
        read_bytes += got;
        if got == 0 || read_bytes > MOMENT_BYTES_MAX {
            let what = match got {
                0 => "it ends early".to_owned(),
                _ => format!(
                    "it is over {} MiB, about a million refs: more than a restore takes",
                    MOMENT_BYTES_MAX >> 20
                ),
            };
            return Err(wrong(what).into());
        }
        if lines.push(&piece[..got], &mut |line| listing.line(line))? {
            let mut moment = listing.finish()?;
            moment.age_s = answer.get("age").and_then(|age| age.parse().ok());
            return Ok(moment);
        }
    }
}

fn request(kind: gix::hash::Kind) -> Vec<u8> {
    let line = |text: &str| format!("{:04x}{text}", text.len() + LENGTH_BYTES);
    let format = match kind {
        // What an old server does not know need not be said.
        gix::hash::Kind::Sha1 => String::new(),
        _ => line(&format!("object-format={kind}")),
    };
    let arguments = ["symrefs", "unborn", "ref-prefix HEAD", "ref-prefix refs/"];
    let arguments: String = arguments.iter().map(|a| line(&format!("{a}\n"))).collect();
    let command = line("command=ls-refs\n");
    format!("{command}{format}0001{arguments}0000").into_bytes()
}

/// Cuts an answer into lines.
#[derive(Default)]
struct Lines {
    partial: Vec<u8>,
}

impl Lines {
    /// Hands on what is whole; whether the end of the answer was among it.
    fn push(
        &mut self,
        bytes: &[u8],
        each: &mut impl FnMut(&[u8]) -> Result<(), RestoreError>,
    ) -> Result<bool, RestoreError> {
        self.partial.extend_from_slice(bytes);
        let mut at = 0;
        let ended = loop {
            let rest = &self.partial[at..];
            let Some(length) = rest.get(..LENGTH_BYTES) else {
                break false;
            };
            let is_hex = length.iter().all(u8::is_ascii_hexdigit);
            let length = length.to_str().ok().filter(|_| is_hex);
            let length = length.and_then(|hex| usize::from_str_radix(hex, 16).ok());
            match length {
                Some(0) => break true,
                Some(length) if length >= LENGTH_BYTES => match rest.get(LENGTH_BYTES..length) {
                    Some(line) => each(line.strip_suffix(b"\n").unwrap_or(line))?,
                    None => break false,
                },
                _ => return Err(wrong("a line has no length")),
            }
            at += length.unwrap_or_default();
        };
        self.partial.drain(..at);
        Ok(ended)
    }
}

/// What the lines say.
struct Listing<'a> {
    kind: gix::hash::Kind,
    more: &'a [&'a str],
    shown: Follow,
    /// The branch that HEAD names, and what HEAD leads to.
    head: (Option<BString>, Option<ObjectId>),
    names: Vec<u8>,
    refs: Vec<Place>,
}

impl<'a> Listing<'a> {
    fn new(kind: gix::hash::Kind, more: &'a [&'a str]) -> Listing<'a> {
        Listing {
            kind,
            more,
            shown: Follow::default(),
            head: (None, None),
            names: Vec::new(),
            refs: Vec::new(),
        }
    }

    /// `ID NAME [symref-target:NAME]`; `unborn` in the place of an id that is not there. What a tag
    /// leads to is for its object to say.
    fn line(&mut self, line: &[u8]) -> Result<(), RestoreError> {
        let bad = || wrong(format!("not understood: {:?}", line.as_bstr()));
        if let Some(why) = line.strip_prefix(b"ERR ") {
            return Err(wrong(why.as_bstr()));
        }
        let mut words = line.split(|b| *b == b' ');
        let id = words.next().ok_or_else(bad)?;
        let name = words.next().ok_or_else(bad)?;
        let id = match id {
            b"unborn" => None,
            hex => Some(self.id(hex).ok_or_else(bad)?),
        };
        let target = words.find_map(|word| word.strip_prefix(b"symref-target:"));
        let target = target.map(BString::from);
        if name == b"HEAD" {
            // What is no branch is checked out as a commit, as a clone does.
            let branch = target
                .filter(|name| name.starts_with(b"refs/heads/") && is_ref_name(name.as_bytes()));
            self.head = (branch, id);
            return Ok(());
        }
        if !is_ref_name(name) {
            return Err(bad());
        }
        let is_wanted = self.more.iter().any(|more| more.as_bytes() == name);
        match id {
            Some(target) if is_wanted || self.shown.matches(name) => {
                let place = (u32::try_from(self.names.len()), u16::try_from(name.len()));
                let (Ok(begin), Ok(len)) = place else {
                    return Err(bad());
                };
                self.names.extend_from_slice(name);
                self.refs.push(Place { begin, len, target });
            }
            _ => {}
        }
        Ok(())
    }

    fn id(&self, hex: &[u8]) -> Option<ObjectId> {
        let id = ObjectId::from_hex(hex).ok()?;
        (id.kind() == self.kind && !id.is_null()).then_some(id)
    }

    /// All of it, sorted. A HEAD that is not of the moment of its branch is the null id.
    fn finish(self) -> Result<Moment, RestoreError> {
        let (names, mut refs) = (self.names, self.refs);
        if !refs.is_sorted_by_key(|place| place.name(&names)) {
            // Git sorts them. A million takes a second, during which nothing would be heard.
            if refs.len() > UNSORTED_REFS_MAX {
                return Err(wrong("its many refs are not sorted"));
            }
            refs.sort_unstable_by(|a, b| a.name(&names).cmp(b.name(&names)));
        }
        let head = Head::Detached(ObjectId::null(self.kind));
        let mut moment = Moment {
            head,
            age_s: None,
            names,
            refs,
        };
        if let Some(name) = in_the_way(moment.refs().map(|found| &**found.name)) {
            let name = name.as_bstr();
            let what = format!("{name:?} is there twice, or another ref is its directory");
            return Err(wrong(what));
        }
        match self.head {
            (Some(branch), id) if moment.get(branch.as_bstr()).map(|r| r.target) == id => {
                moment.head = Head::Symbolic(branch);
            }
            (Some(_), _) | (None, None) => {}
            (None, Some(id)) => moment.head = moment.clone_head(id),
        }
        Ok(moment)
    }
}

#[cfg(test)]
impl Moment {
    /// That of an answer of these lines, where `more` is asked for.
    pub fn of_lines(lines: &[String], more: &[&str]) -> Moment {
        let mut listing = Listing::new(gix::hash::Kind::Sha1, more);
        for line in lines {
            listing.line(line.as_bytes()).unwrap();
        }
        listing.finish().unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHA1: gix::hash::Kind = gix::hash::Kind::Sha1;

    fn id(digit: char) -> String {
        digit.to_string().repeat(40)
    }

    fn listing(text: &[String]) -> Result<Moment, RestoreError> {
        let wire: String = text
            .iter()
            .map(|l| format!("{:04x}{l}\n", l.len() + 5))
            .collect();
        let wire = wire + "0000";
        let mut listing = Listing::new(SHA1, &["refs/pull/1/head"]);
        let mut lines = Lines::default();
        let mut ended = false;
        // Whatever pieces it comes in.
        for piece in wire.as_bytes().chunks(7) {
            assert!(!ended);
            ended = lines.push(piece, &mut |line| listing.line(line))?;
        }
        assert!(ended);
        listing.finish()
    }

    #[test]
    fn the_refs_that_are_shown_and_those_asked_for() {
        let (a, b) = (id('a'), id('b'));
        let refs = listing(&[
            format!("{a} HEAD symref-target:refs/heads/main"),
            format!("{a} refs/heads/main"),
            format!("{b} refs/pull/1/head"),
            format!("{b} refs/pull/2/head"),
            format!("{b} refs/tags/v1 peeled:{a}"),
        ])
        .unwrap();
        assert_eq!(refs.head, Head::Symbolic("refs/heads/main".into()));
        let names: Vec<_> = refs.refs().map(|found| found.name.to_string()).collect();
        assert_eq!(
            names,
            ["refs/heads/main", "refs/pull/1/head", "refs/tags/v1"]
        );
        let tag = refs.get(b"refs/tags/v1".as_bstr()).unwrap();
        assert_eq!(tag.target.to_string(), b);
        let unborn = listing(&["unborn HEAD symref-target:refs/heads/x".into()]).unwrap();
        assert_eq!(unborn.head, Head::Symbolic("refs/heads/x".into()));
        let detached = listing(&[format!("{b} HEAD")]).unwrap();
        assert_eq!(detached.head_id().unwrap().to_string(), b);
    }

    #[test]
    fn what_git_would_not_say_is_refused() {
        let (a, b) = (id('a'), id('b'));
        for text in [
            vec![format!("{a} refs/heads/../x")],
            vec![format!("{a} refs/heads/x.lock")],
            vec![format!("{a} config")],
            vec![format!("{a} refs/heads/a"), format!("{b} refs/heads/a")],
            vec![
                format!("{a} refs/heads/a"),
                format!("{b} refs/heads/a-b"),
                format!("{b} refs/heads/a/b/c"),
            ],
            vec![format!("{} refs/heads/a", &a[1..])],
            vec![format!("{a}{} refs/heads/a", &a[..24])],
            vec![format!("{} refs/heads/a", id('0'))],
            vec!["ERR no".into()],
        ] {
            assert_eq!(listing(&text).unwrap_err().exit_code(), 3, "{text:?}");
        }
        // Two moments in one answer.
        let torn = [
            format!("{a} HEAD symref-target:refs/heads/main"),
            format!("{b} refs/heads/main"),
        ];
        assert_eq!(
            listing(&torn).unwrap().head,
            Head::Detached(ObjectId::null(SHA1))
        );
        let each = &mut |_: &[u8]| Ok(());
        assert!(Lines::default().push(b"0003", each).is_err());
        assert!(Lines::default().push(b"+004", each).is_err());
    }
}
