//! Brings a restored snapshot to the mirror's refs of one moment, and checks out what is wanted.
//!
//! The refs come first, all of one answer ([`moment`]); then the objects that they need: those of
//! HEAD by a bundle that the server has made once for everybody, the rest by their ids. No ref that
//! moves meanwhile shows. In the end the refs are written anew, so what was deleted is gone, too.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, Seek, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use super::arrivals::Arrivals;
use super::bundle;
use super::difference;
use super::ensure::{self, At};
use super::error::RestoreError;
use super::gitdir::{self, Restored};
use super::link::Link;
use super::moment::{self, Moment};
use super::objects::Objects;
use super::refs::Refs;
use super::run::{self, Room};
use super::stop::Stop;
use super::summary::{EMPTY, leads_nowhere};
use super::wanted::Wanted;
use super::write::stopped;
use crate::limits::{FETCH_IDS_MAX, MOMENT_TRIES_MAX, OLD_LOOSE_REFS_BYTES_MAX};
use crate::refs::{self, Head, Loose, is_ref_name};

/// The ref that keeps the objects of a bundle until the new refs are written.
const BUNDLE_REF: &str = "refs/tarpon/bundle";

/// What is to be done in which repository.
pub(super) struct Update<'a> {
    pub link: Link<'a>,
    /// The repository on the server.
    pub base: &'a str,
    pub wanted: &'a Wanted,
    /// What is checked out already and stays so, whatever its ref is by now.
    pub kept: Option<At>,
    /// The bundle that the server has named, and a place for it.
    pub bundle: Option<(&'a str, PathBuf)>,
    /// Where the restored snapshot is, and what may be written there.
    pub room: Room<'a>,
    pub restored: &'a Restored,
    pub is_quiet: bool,
}

/// A moment whose objects are all there.
pub(super) struct Fetched {
    pub moment: Moment,
    /// What is checked out of it.
    pub at: At,
    pub bundle_applied: bool,
}

impl Update<'_> {
    /// Brings the snapshot to what is wanted, and to what the server says is newer if that can be
    /// had; it `is_wanted` if it is of what was asked for. Whether a bundle was of use; `None` when the snapshot stays as it is.
    pub(super) fn bring(
        &self,
        is_wanted: bool,
        asked: &Wanted,
    ) -> Result<Option<bool>, RestoreError> {
        if is_wanted && asked.has_no_more() && self.bundle.is_none() {
            return Ok(None);
        }
        match self.fetch() {
            Ok(fetched) => {
                self.apply(&fetched)?;
                Ok(Some(fetched.bundle_applied))
            }
            Err(e) if !asked.is_empty() || e.is_disks() || self.link.stop.is_set() => Err(e),
            Err(e) => {
                self.forget();
                if !self.is_quiet {
                    let text = format!("without the newest commits: {e}");
                    self.link.progress.say(&text);
                }
                Ok(None)
            }
        }
    }

    /// Brings the objects, all that is needed of them. If it fails the snapshot is as it was.
    pub(super) fn fetch(&self) -> Result<Fetched, RestoreError> {
        let arrivals = Arrivals::watch(self.room.tree)?;
        let fetched = self.fetch_moment()?;
        arrivals.keep();
        Ok(fetched)
    }

    fn fetch_moment(&self) -> Result<Fetched, RestoreError> {
        if !self.wanted.is_empty() {
            ensure::ensure(self.link, self.base, self.wanted)?;
        }
        let named = self.wanted.all_refs().flat_map(|named| &named.names);
        let named: Vec<&str> = named.map(String::as_str).collect();
        // What is not there, or cannot be here, needs no objects.
        let ask = || {
            let moment = moment::ask(self.link, self.base, self.restored.kind, &named)?;
            let found = ensure::find(self.wanted, &moment)?;
            let at = self.kept.clone().unwrap_or(found);
            Refs::of_moment(&moment, &at, None, self.link.stop)?;
            Ok((moment, at))
        };
        let (mut moment, mut at) = ask()?;
        let bundle_applied = self.take_bundle(tip(&moment, &at))?;
        let mut tries = 1;
        while let Err(error) = self.fetch_objects(&moment) {
            if error.is_disks() {
                return Err(error);
            }
            // The mirror may have dropped what no ref leads to any more. There is room for one list.
            let before = moment.digest();
            drop(moment);
            (moment, at) = ask()?;
            if moment.digest() == before || tries == MOMENT_TRIES_MAX {
                return Err(error);
            }
            tries += 1;
        }
        self.check_pins(&moment)?;
        Ok(Fetched {
            moment,
            at,
            bundle_applied,
        })
    }

    /// Compares the ids that refs and commits were asked for with the objects themselves: what a
    /// server says of them is only believed when it refuses.
    fn check_pins(&self, moment: &Moment) -> Result<(), RestoreError> {
        let objects = Objects::open(self.room.tree, self.restored.kind, self.link.stop)?;
        ensure::check_pins(self.wanted, moment, |id| objects.commit_of(id))?;
        for id in self.wanted.all_commits() {
            let id = gix::ObjectId::from_hex(id.as_bytes());
            objects.commit_of(id.map_err(|e| RestoreError::Usage(e.to_string()))?)?;
        }
        Ok(())
    }

    /// Takes the objects of the bundle, if there is one and what it is to lead to is not there; whether it was of use.
    /// What it lacks is fetched, so its failures are only said.
    pub(super) fn take_bundle(&self, tip: Option<gix::ObjectId>) -> Result<bool, RestoreError> {
        let Some((target, file)) = &self.bundle else {
            return Ok(false);
        };
        let kind = |id: gix::ObjectId| {
            let objects = Objects::open(self.room.tree, id.kind(), self.link.stop)?;
            objects.kind(id)
        };
        let is_there = |id| kind(id).is_ok_and(|kind| kind == Some(gix::objs::Kind::Commit));
        if tip.is_none_or(is_there) {
            return Ok(false);
        }
        let refspec = format!("+HEAD:{BUNDLE_REF}");
        let fetch = ["fetch", "--quiet", "--no-tags", "--no-write-fetch-head"].map(OsStr::new);
        let fetch = [&fetch[..], &[file.as_os_str(), OsStr::new(&refspec)]].concat();
        // Git looks at every object, and for the commits that the bundle builds upon.
        let taken = bundle::download(self.link, self.room.quota, target, file)
            .and_then(|()| bundle::check(file))
            .and_then(|()| run::bundle(self.link.stop, self.room, &fetch));
        match taken {
            Ok(_) => Ok(true),
            Err(e) if e.is_disks() => Err(e),
            Err(e) => {
                if !self.is_quiet {
                    let text = format!("the bundle is of no use ({e}); fetching what is in it");
                    self.link.progress.say(&text);
                }
                Ok(false)
            }
        }
    }

    /// Fetches by their ids the objects that `moment` and the wanted commits need, and sees to it that
    /// they are whole.
    fn fetch_objects(&self, moment: &Moment) -> Result<(), RestoreError> {
        let head = match moment.head {
            Head::Detached(id) => Some(id),
            Head::Symbolic(_) => None,
        };
        let mut ids: Vec<_> = moment.refs().map(|r| r.target).chain(head).collect();
        ids.sort_unstable();
        ids.dedup();
        self.leave_out_known(&mut ids)?;
        let (bundled, mut there) = (self.bundled()?, Vec::new());
        ids.retain(|id| Some(*id) != bundled);
        for id in self.wanted.all_commits() {
            match has_commit(self.link.stop, self.room.tree, id) {
                true => there.push(object_id(id)?),
                false => ids.push(object_id(id)?),
            }
        }
        let url = format!("{}{}", self.link.server.origin(), self.base);
        for some in ids.chunks(FETCH_IDS_MAX) {
            let options = ["fetch", "--quiet", "--no-tags", "--no-write-fetch-head"];
            let args = options.into_iter().chain([url.as_str()]);
            let args = args.map(str::to_owned);
            let args: Vec<String> = args.chain(some.iter().map(ToString::to_string)).collect();
            run::server(self.link, self.room, &args)?;
        }
        there.extend(ids);
        self.check_whole(&there)
    }

    /// Sees to it that nothing lacks of what `tips` lead to, up to what the archive's refs do. Git
    /// does not look at all that it fetches: a server may say that a history begins where it is cut
    /// off, and git then leaves out the refs that lead there, and is content.
    fn check_whole(&self, tips: &[gix::ObjectId]) -> Result<(), RestoreError> {
        if tips.is_empty() {
            return Ok(());
        }
        let listed = || {
            let mut list = BufWriter::new(tempfile::tempfile()?);
            tips.iter().try_for_each(|tip| writeln!(list, "{tip}"))?;
            let mut list = list.into_inner()?;
            list.rewind()?;
            Ok(list)
        };
        let list = listed().map_err(|e: io::Error| RestoreError::disk("write", "a list", e))?;
        let args = ["rev-list", "--objects", "--quiet", "--stdin", "--not"];
        // Git has looked at all of what came with a bundle before it gave that its ref.
        let args = [&args[..], &["--all"]].concat();
        let Room { tree, until, .. } = self.room;
        match run::walk(self.link.stop, tree, until, Stdio::from(list), &args) {
            Err(RestoreError::Git { step, detail }) => Err(RestoreError::Git {
                step,
                detail: format!("what was fetched is not known to be whole: {detail}"),
            }),
            result => result.map(|_| ()),
        }
    }

    /// What the bundle leads to, if one was taken.
    fn bundled(&self) -> Result<Option<gix::ObjectId>, RestoreError> {
        let id = read_line(&self.room.tree.join(".git"), BUNDLE_REF.as_bytes())?;
        let id = id.map(|id| object_id(&String::from_utf8_lossy(&id)));
        id.transpose()
    }

    /// Takes out of the sorted `ids` what the archive's refs lead to.
    fn leave_out_known(&self, ids: &mut Vec<gix::ObjectId>) -> Result<(), RestoreError> {
        let mut is_known = vec![false; ids.len()];
        let mut note = |hex: &[u8]| {
            let id = gix::ObjectId::from_hex(hex);
            if let Ok(at) = id.map_err(|_| 0).and_then(|id| ids.binary_search(&id)) {
                is_known[at] = true;
            }
        };
        // There may be a million of them: they are looked at one by one.
        let packed = self.room.tree.join(".git/packed-refs");
        let lines = match File::open(&packed) {
            Ok(file) => Some(BufReader::new(file).split(b'\n')),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(RestoreError::disk("open", packed, e)),
        };
        for line in lines.into_iter().flatten() {
            let line = line.map_err(|e| RestoreError::disk("read", &packed, e))?;
            if self.link.stop.is_set() {
                return Err(stopped());
            }
            note(line.split(|b| *b == b' ').next().unwrap_or_default());
        }
        let git_dir = self.room.tree.join(".git");
        let loose = refs::read_loose_within(&git_dir, OLD_LOOSE_REFS_BYTES_MAX);
        let loose = loose.map_err(|e| RestoreError::entry(b".git/refs/heads", e.to_string()))?;
        for (name, one) in &loose {
            if let Loose::Direct(id) = one
                && name.starts_with(b"refs/heads/")
            {
                note(id.to_string().as_bytes());
            }
        }
        let mut known = is_known.into_iter();
        ids.retain(|_| !known.next().unwrap_or(false));
        Ok(())
    }

    /// Leaves no trace of a fetch that failed, but for objects.
    pub(super) fn forget(&self) {
        // As a rule there is none.
        let _ = fs::remove_dir_all(self.room.tree.join(".git/refs/tarpon"));
    }

    /// Checks out what is wanted and writes the refs.
    pub(super) fn apply(&self, fetched: &Fetched) -> Result<(), RestoreError> {
        let moment = &fetched.moment;
        let id = tip(moment, &fetched.at);
        let objects = Objects::open(self.room.tree, self.restored.kind, self.link.stop)?;
        let commit = id.map(|id| objects.commit_of(id)).transpose()?;
        self.check_out(&objects, commit)?;
        let stop = self.link.stop;
        let refs = Refs::of_moment(moment, &fetched.at, commit, stop)?;
        gitdir::replace_refs(self.room.tree, self.restored, &refs, stop)
    }

    /// Makes the files and the index those of `commit`, or removes them. Git compares neither trees
    /// nor the commit with their ids, so that was done before.
    fn check_out(
        &self,
        objects: &Objects<'_>,
        commit: Option<gix::ObjectId>,
    ) -> Result<(), RestoreError> {
        let Room { tree, quota, .. } = self.room;
        let old = checked_out(tree)?;
        let old = old.as_deref().map(object_id).transpose()?;
        if old == commit {
            return Ok(());
        }
        if let Some(commit) = commit {
            objects.check_trees(commit)?;
        }
        let difference = difference::between(tree, [old, commit], quota, self.link.stop)?;
        let git = |args: &[&str]| run::check_out(self.link.stop, self.room, args);
        let new = commit.unwrap_or(gix::ObjectId::empty_tree(self.restored.kind));
        let new = new.to_string();
        let read_tree = ["read-tree", "--reset", "-u", &new];
        git(&read_tree)?;
        if difference.has_attributes {
            // They also decide about files that are the same in both, which git leaves as they are
            // unless it knows nothing of them.
            git(&["read-tree", "--empty"])?;
            git(&read_tree)?;
        }
        Ok(())
    }
}

/// What leads to the commit that is checked out.
pub(super) fn tip(moment: &Moment, at: &At) -> Option<gix::ObjectId> {
    match at {
        At::Branch(name) => moment.get(name.as_slice().into()).map(|found| found.target),
        At::Reset(_, id) | At::Detached(id) => Some(*id),
    }
}

/// What git gives as an id.
pub(super) fn object_id(text: &str) -> Result<gix::ObjectId, RestoreError> {
    let id = gix::ObjectId::from_hex(text.as_bytes());
    id.map_err(|e| RestoreError::Git {
        step: "rev-parse".into(),
        detail: format!("{text:?} is no id: {e}"),
    })
}

/// Whether the repository at `tree` has a commit.
pub(super) fn has_commit(stop: &Stop, tree: &Path, id: &str) -> bool {
    let object = format!("{id}^{{commit}}");
    run::local(stop, tree, &["cat-file", "-e", &object]).is_ok()
}

/// Why nothing is checked out in the repository at `tree`.
pub(super) fn why_empty(stop: &Stop, tree: &Path) -> Result<String, RestoreError> {
    let any = run::local(stop, tree, &["for-each-ref", "--count=1"])?;
    if any.trim_ascii().is_empty() {
        return Ok(EMPTY.into());
    }
    let head = run::local(stop, tree, &["symbolic-ref", "--quiet", "HEAD"])?;
    let head = String::from_utf8_lossy(&head);
    Ok(leads_nowhere(head.trim()))
}

/// What a file of the repository at `git_dir` says.
fn read_line(git_dir: &Path, name: &[u8]) -> Result<Option<Vec<u8>>, RestoreError> {
    let path = git_dir.join(OsStr::from_bytes(name));
    match fs::read(&path) {
        Ok(text) => Ok(Some(text.trim_ascii_end().to_vec())),
        // A branch that is not born yet.
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(RestoreError::disk("read", path, e)),
    }
}

/// The short name of the branch that is checked out in the repository at `tree`.
pub(super) fn branch(tree: &Path) -> Result<Option<String>, RestoreError> {
    branch_of(&tree.join(".git"))
}

/// The same of the repository at `git_dir`.
pub(super) fn branch_of(git_dir: &Path) -> Result<Option<String>, RestoreError> {
    let head = read_line(git_dir, b"HEAD")?.unwrap_or_default();
    let name = head.strip_prefix(b"ref: refs/heads/");
    Ok(name.map(|name| String::from_utf8_lossy(name).into_owned()))
}

/// The commit that is checked out in the repository at `tree`.
pub(super) fn checked_out(tree: &Path) -> Result<Option<String>, RestoreError> {
    // Both are files of their own: in a restore, and in a clone.
    let git_dir = &tree.join(".git");
    let head = read_line(git_dir, b"HEAD")?.unwrap_or_default();
    let id = match head.strip_prefix(b"ref: ") {
        None => Some(head),
        Some(name) if is_ref_name(name) => read_line(git_dir, name)?,
        Some(_) => None,
    };
    let text = id.map(|id| String::from_utf8_lossy(&id).into_owned());
    text.map(|text| object_id(&text).map(|_| text)).transpose()
}
