//! The small files of `.git`, as `git clone` leaves them: HEAD, config, and those of refs, which have
//! frames of their own. HEAD and what belongs to it make the archive's first frame, a few KiB that leave
//! at once.

use gix::bstr::{BStr, BString, ByteSlice, ByteVec};

use super::checkout::Shows;
use super::view::{self, PinError, View};
use crate::refs::{Head, Ref};
use crate::tree::dates::GIT_DATE_S;
use crate::tree::tar::{self, Kind};

const REMOTE: &[u8] = b"refs/remotes/origin/";

/// What the archive begins with, as tar bytes: directories, HEAD, the configuration, and where the history
/// ends, if that is one commit: git says so of one without parents, too.
pub(crate) fn head_tar(view: &View, origin_url: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let directories = [
        "info",
        "objects",
        "objects/info",
        "objects/pack",
        "refs",
        "refs/heads",
        "refs/remotes",
        "refs/remotes/origin",
        "refs/tags",
    ];
    tar::push_header(&mut out, b".git", Kind::Directory, GIT_DATE_S);
    for directory in directories {
        let path = format!(".git/{directory}");
        tar::push_header(&mut out, path.as_bytes(), Kind::Directory, GIT_DATE_S);
    }
    let mut file = |name: &[u8], data: &[u8]| push_file(&mut out, name, data);
    file(b"HEAD", &head_file(&view.checkout.head));
    file(b"config", &config(view, origin_url));
    if let Some(tip) = view.checkout.tip() {
        file(b"shallow", format!("{tip}\n").as_bytes());
    }
    file(
        b"description",
        b"Unnamed repository; edit this file 'description' to name the repository.\n",
    );
    file(
        b"info/exclude",
        b"# Patterns of files that git ignores here, one a line, as in .gitignore.\n",
    );
    out
}

/// The files of refs, which follow, as tar bytes.
pub(crate) fn refs_tar(view: &View) -> Vec<u8> {
    let mut out = Vec::new();
    let mut file = |name: &[u8], data: &[u8]| push_file(&mut out, name, data);
    for (name, commit) in &view.checkout.branches {
        file(name, format!("{commit}\n").as_bytes());
    }
    if let Some(branch) = &view.checkout.origin_head {
        let target = [b"ref: refs/remotes/origin/", branch.as_slice(), b"\n"].concat();
        file(b"refs/remotes/origin/HEAD", &target);
    }
    match &view.checkout.shows {
        Shows::All if view.refs.refs.is_empty() => {}
        Shows::All => file(b"packed-refs", &packed_refs(view)),
        Shows::Tip { branch, .. } => {
            for (short, commit) in branch.iter().zip(view.checkout.commit) {
                let name = [REMOTE, short].concat();
                file(&name, format!("{commit}\n").as_bytes());
            }
        }
    }
    out
}

/// The tags of a history that is one commit, as tar bytes: those of objects that are there, as far as tags
/// are shown at all.
pub(crate) fn tags_tar(view: &View, is_there: impl Fn(&Ref) -> bool) -> Vec<u8> {
    let mut out = Vec::new();
    if let Shows::Tip { tags: true, .. } = view.checkout.shows {
        let mut packed = packed_head();
        let none_bytes = packed.len();
        for tag in tags(view).filter(|tag| is_there(tag)) {
            push_packed(&mut packed, &tag.target, (b"", &tag.name), tag.peeled);
        }
        if packed.len() > none_bytes {
            push_file(&mut out, b"packed-refs", &packed);
        }
    }
    out
}

/// The annotated tags, as far as tags are shown, in the format of `packed-refs`: whoever packs a commit takes
/// along those of what it packs.
fn annotated_tags(view: &View) -> Vec<u8> {
    let mut packed = packed_head();
    let shows = matches!(view.checkout.shows, Shows::Tip { tags: true, .. });
    for tag in tags(view)
        .filter(|_| shows)
        .filter(|tag| tag.peeled.is_some())
    {
        push_packed(&mut packed, &tag.target, (b"", &tag.name), tag.peeled);
    }
    packed
}

/// Makes `directory`, which holds the view's links, a repository of its own with annotated tags, for whoever is to
/// take along those of what it takes.
pub(crate) fn make_tagged_repository(
    pinned: &View,
    directory: &std::path::Path,
) -> Result<(), PinError> {
    view::make_repository(pinned, directory)?;
    let path = directory.join("packed-refs");
    std::fs::write(&path, annotated_tags(pinned)).map_err(view::io_error("write", &path))
}

fn tags(view: &View) -> impl Iterator<Item = &Ref> {
    let all = view.refs.refs.iter();
    all.filter(|one| one.name.starts_with(b"refs/tags/"))
}

fn push_file(out: &mut Vec<u8>, name: &[u8], data: &[u8]) {
    let path = [b".git/", name].concat();
    tar::push_file(out, &path, data, false, GIT_DATE_S);
}

fn head_file(head: &Head) -> Vec<u8> {
    match head {
        Head::Symbolic(name) => [b"ref: ", name.as_slice(), b"\n"].concat(),
        Head::Detached(id) => format!("{id}\n").into_bytes(),
    }
}

/// The configuration of a clone, and the two keys that let `git status` trust what a `tar`
/// extraction can reproduce of the index's stat data.
fn config(view: &View, origin_url: &str) -> BString {
    let sha256 = view.hash == gix::hash::Kind::Sha256;
    let mut out = BString::from(format!(
        "[core]\n\trepositoryformatversion = {}\n\tfilemode = true\n\tbare = false\n\
         \tlogallrefupdates = true\n\tcheckStat = minimal\n\ttrustctime = false\n",
        u8::from(sha256)
    ));
    if sha256 {
        out.push_str("[extensions]\n\tobjectformat = sha256\n");
    }
    out.push_str("[remote \"origin\"]\n\turl = ");
    out.push_str(quoted(origin_url.as_bytes().as_bstr()));
    out.push_str("\n");
    if let Some(fetches) = &view.checkout.fetches {
        out.push_str("\tfetch = ");
        out.push_str(value(fetches.as_bstr()));
        out.push_str("\n");
    }
    if let Some(branch) = &view.checkout.tracking {
        out.push_str("[branch ");
        out.push_str(quoted(branch.as_bstr()));
        out.push_str("]\n\tremote = origin\n\tmerge = ");
        let merge = [b"refs/heads/", branch.as_slice()].concat();
        out.push_str(quoted(merge.as_bstr()));
        out.push_str("\n");
    }
    out
}

/// A value, in quotes where it could be taken for something else without.
fn value(value: &BStr) -> BString {
    match value.find_byteset(b"#;\"\\") {
        Some(_) => quoted(value),
        None => value.into(),
    }
}

/// A value or subsection in double quotes (git-config, "Syntax").
fn quoted(value: &BStr) -> BString {
    let mut out = BString::from("\"");
    for byte in value.iter() {
        if matches!(byte, b'"' | b'\\') {
            out.push(b'\\');
        }
        out.push(*byte);
    }
    out.push(b'"');
    out
}

/// The refs of a clone: branches under `refs/remotes/origin/`, tags as they are, in the format
/// of git's `packed-refs` (`refs/packed-backend.c`), sorted.
fn packed_refs(view: &View) -> Vec<u8> {
    // Pinning has seen to that, whatever the mirror's own file has.
    debug_assert!(view.refs.fully_peeled);
    let mut out = packed_head();
    for r in view.refs.refs.iter() {
        if let Some(branch) = r.name.strip_prefix(b"refs/heads/") {
            push_packed(&mut out, &r.target, (REMOTE, branch), None);
        }
    }
    for r in tags(view) {
        push_packed(&mut out, &r.target, (b"", &r.name), r.peeled);
    }
    out
}

fn packed_head() -> Vec<u8> {
    b"# pack-refs with: peeled fully-peeled sorted \n".to_vec()
}

fn push_packed(
    out: &mut Vec<u8>,
    id: &gix::oid,
    (prefix, name): (&[u8], &[u8]),
    to: Option<gix::ObjectId>,
) {
    // Writing to a Vec cannot fail.
    let _ = id.write_hex_to(&mut *out);
    out.push(b' ');
    out.extend_from_slice(prefix);
    out.extend_from_slice(name);
    out.push(b'\n');
    if let Some(to) = to {
        out.push(b'^');
        let _ = to.write_hex_to(&mut *out);
        out.push(b'\n');
    }
}
