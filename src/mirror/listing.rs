//! What an upstream has: its refs, HEAD and object format. Every clone and comparison begins with
//! a listing, which is bounded in bytes, refs, memory and time, and finds the URL that answers.
use crate::access::redirect::{self, Redirects};
use crate::git::Growth;
use crate::git::Tail;
use crate::io::fs::Space;
use crate::limits;
use crate::mirror::beside::Beside;
use crate::mirror::blocking::blocking;
use crate::mirror::error::{MirrorError, without_password};
use crate::mirror::git::{Call, Git, Target};
use crate::refs::{self, Follow, Head, Ref};
use gix::ObjectId;
use gix::bstr::{BString, ByteSlice};
use gix::hash::Kind;
use std::ffi::OsString;
use std::path::Path;

/// A listing, and the URL that it came from: that of the upstream, or where it redirects to.
pub(super) struct Found {
    pub listing: Listing,
    pub url: String,
}

/// Which refs are listed.
#[derive(Clone, Copy)]
pub(super) enum Wanted {
    /// HEAD and all that is followed. Where upstream cannot be asked for these alone, all are listed and
    /// the others are dropped as they come.
    All,
    /// What a clone brings: branches and tags.
    Cloned,
}

/// What there is to know of an upstream whose HEAD leads nowhere.
pub(super) struct Headless {
    /// HEAD as a clone has it.
    pub head: Head,
    /// The object format of a repository without refs.
    pub format: Kind,
    /// Whether what answers speaks git's own protocol. To git's older way over HTTP any answer
    /// will do, a proxy's login page or nothing at all, and is an empty repository.
    pub speaks_git: bool,
}

impl Git {
    /// Whether upstream answers; `tmp` is a directory.
    ///
    /// # Errors
    /// Why it does not.
    pub async fn ask(&self, url: &str, tmp: &Path) -> Result<(), MirrorError> {
        let nothing = tmp.join("no-repository");
        self.list(&nothing, url, Wanted::Cloned).await.map(drop)
    }

    /// Lists what upstream has. `git_dir` is a repository whose configuration counts, or nothing.
    pub(super) async fn list(
        &self,
        git_dir: &Path,
        url: &str,
        wanted: Wanted,
    ) -> Result<Found, MirrorError> {
        let mut at = url.to_owned();
        let redirects = self.redirects.of_url(url);
        for _ in 0..limits::REDIRECTS_MAX {
            match self.list_at(git_dir, &at, wanted).await {
                Err(MirrorError::Redirected { .. }) => {
                    at = self.redirected(git_dir, &at, redirects).await?;
                }
                listed => return listed.map(|listing| Found { listing, url: at }),
            }
        }
        let listed = self.list_at(git_dir, &at, wanted).await;
        let listing = listed.map_err(|error| match error {
            MirrorError::Redirected { .. } => MirrorError::Redirected {
                url: without_password(url),
                line: format!("more than {} times", limits::REDIRECTS_MAX),
            },
            error => error,
        })?;
        Ok(Found { listing, url: at })
    }

    async fn list_at(
        &self,
        git_dir: &Path,
        url: &str,
        wanted: Wanted,
    ) -> Result<Listing, MirrorError> {
        if matches!(wanted, Wanted::All)
            && let Some(listing) = self.list_followed(git_dir, url).await?
        {
            return Ok(listing);
        }
        let options: &[&str] = match wanted {
            Wanted::All => &["--symref"],
            Wanted::Cloned => &["--heads", "--tags"],
        };
        let words = ["ls-remote", "--quiet"].into_iter();
        let words = words.chain(options.iter().copied()).chain(["--", url]);
        let mut lines = Lines::new(&self.follow, &self.beside);
        let mut call = self.listing(url, git_dir, words);
        if matches!(wanted, Wanted::Cloned) {
            call.limit = call.limit.min(self.limits.clone);
        }
        self.run(call, &mut |bytes| lines.push(bytes)).await?;
        let output = |what| MirrorError::Output {
            op: "git ls-remote",
            target: without_password(url),
            what,
        };
        lines.finish().map_err(output)
    }

    /// Where `url`, which answers with a redirect, leads to.
    async fn redirected(
        &self,
        git_dir: &Path,
        url: &str,
        redirects: Redirects,
    ) -> Result<String, MirrorError> {
        let call = self.listing(url, git_dir, ["ls-remote", "--quiet", "--", url]);
        let trace = [("GIT_TRACE_CURL", "2"), ("GIT_TRACE_CURL_NO_DATA", "1")];
        let mut said = Tail::new(limits::REDIRECT_TRACE_BYTES_MAX);
        let mut ignore = |_: &[u8]| Ok(());
        // That it fails is known; why it does otherwise than before is no matter.
        let _ = self.run_with(call, &trace, &mut ignore, &mut said).await;
        let trace = said.bytes().to_str_lossy();
        let target = match redirect::location(&trace) {
            Some(location) => redirect::target(url, location),
            None => Err("to nowhere".to_owned()),
        };
        let is_same = |to: &str| redirect::is_same_repository(url, to, redirects.ignores_case);
        let shown = without_password(url);
        match target {
            Ok(to) if redirects.elsewhere || is_same(&to) => Ok(to),
            Err(line) if redirects.elsewhere => Err(MirrorError::Redirected { url: shown, line }),
            elsewhere => {
                let to = elsewhere.unwrap_or_else(|why| why);
                tracing::warn!(
                    "{shown} redirects ({to}), which is another repository: it is as if it were not there"
                );
                Err(MirrorError::NotFound {
                    url: shown,
                    line: "it is another repository's now".to_owned(),
                })
            }
        }
    }

    /// Looks at an upstream whose HEAD leads nowhere: only a clone is told which branch that is.
    /// This one brings no objects, as there is no branch to bring. It is made in `dir`.
    pub(super) async fn headless(
        &self,
        dir: &Path,
        url: &str,
        is_empty: bool,
    ) -> Result<Headless, MirrorError> {
        let made = tempfile::Builder::new().prefix("tmp_head_").tempdir_in(dir);
        let made = made.map_err(|source| MirrorError::io("make a directory in", dir, source))?;
        let repo = made.path().join("repo.git");
        let options = "clone --bare --quiet --no-local --single-branch --no-tags --template= --";
        let mut args: Vec<OsString> = options.split(' ').map(OsString::from).collect();
        args.extend([url.into(), repo.clone().into()]);
        let call = Call {
            op: "git clone",
            target: Target::Upstream(url),
            git_dir: None,
            args,
            stdin: None,
            limit: self.limits.list,
            memory_bytes: limits::LISTING_MEMORY_BYTES,
            growth: Some(self.growth(repo.clone(), dir)?),
        };
        let mut trace = Tail::new(limits::GIT_STDERR_TAIL_BYTES);
        let packets: &[_] = if is_empty {
            &[("GIT_TRACE_PACKET", "2")]
        } else {
            &[]
        };
        self.run_with(call, packets, &mut |_| Ok(()), &mut trace)
            .await?;
        let head = blocking(&repo.clone(), move || {
            let read = refs::read(&repo, &Follow::default());
            // Away from here, as it may take long.
            drop(made);
            Ok(read?.head)
        })
        .await?;
        Ok(Headless {
            head,
            format: announced_format(trace.bytes()),
            speaks_git: trace.bytes().contains_str("packet:"),
        })
    }

    /// What a clone or fetch may bring into `dir`, which is on the file system of `on`.
    pub(super) fn growth(&self, dir: std::path::PathBuf, on: &Path) -> Result<Growth, MirrorError> {
        let found = rustix::fs::statvfs(on)
            .map_err(|source| MirrorError::io("read the size of", on, source.into()))?;
        let total_bytes = Space::from(&found).total_bytes;
        // What is not below the file system's size limits nothing: it is for the file system to
        // say that it is full, and what helps then is another remedy.
        let limit_bytes = match self.size_limit.of(total_bytes) {
            all if all >= total_bytes => u64::MAX,
            limit_bytes => limit_bytes,
        };
        Ok(Growth {
            dir,
            limit_bytes,
            arrived: self.arrived.clone(),
        })
    }
}

/// The object format that upstream announces in a trace of git's packets; SHA-1 where it names
/// none, as it was before there was another.
fn announced_format(trace: &[u8]) -> Kind {
    match trace.contains_str("object-format=sha256") {
        true => Kind::Sha256,
        false => Kind::Sha1,
    }
}

/// What `git ls-remote --symref` says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// The ref that HEAD names.
    pub head_target: Option<BString>,
    /// What HEAD leads to. `None` when that does not exist: then upstream does not say which
    /// ref it is either.
    pub head_id: Option<ObjectId>,
    /// The commit of the tag that `head_id` is.
    pub head_peeled: Option<ObjectId>,
    /// Sorted by name, each once.
    pub refs: Vec<Ref>,
    /// What of the refs that are asked for beside these is there.
    pub(super) beside: Vec<(BString, ObjectId)>,
}

impl Listing {
    /// The object format of upstream, if it has objects.
    pub(super) fn format(&self) -> Option<Kind> {
        let first = self.refs.first().map(|first| first.target);
        self.head_id.or(first).map(|id| id.kind())
    }

    fn find(&self, name: &[u8]) -> Option<&Ref> {
        let at = self
            .refs
            .binary_search_by(|r| r.name.as_bstr().cmp(name.as_bstr()));
        self.refs.get(at.ok()?)
    }

    /// HEAD as a clone made now has it: on the branch that upstream's names; if it names none,
    /// on one with its commit, `master` before others; else on the commit alone. `None` where
    /// HEAD leads nowhere.
    pub(super) fn head(&self) -> Option<Head> {
        let id = self.head_id?;
        let detached = Head::Detached(self.head_peeled.unwrap_or(id));
        let is_branch = |name: &[u8]| name.starts_with(BRANCHES);
        if let Some(target) = &self.head_target {
            let named = self.find(target).filter(|named| is_branch(&named.name));
            return Some(named.map_or(detached, |named| Head::Symbolic(named.name.clone())));
        }
        let same = |branch: &&Ref| branch.target == id && is_branch(&branch.name);
        let master = self.find(MASTER).filter(same);
        let branch = master.or_else(|| self.refs.iter().find(same));
        Some(branch.map_or(detached, |branch| Head::Symbolic(branch.name.clone())))
    }
}

/// What the pieces of such an output say, or what is wrong with it; for the fuzz target.
#[doc(hidden)]
pub fn listed<'p>(
    pieces: impl IntoIterator<Item = &'p [u8]>,
    follow: &Follow,
) -> Result<Listing, String> {
    let beside = Beside::default();
    let mut lines = Lines::new(follow, &beside);
    for piece in pieces {
        lines.push(piece)?;
    }
    lines.finish()
}

const BRANCHES: &[u8] = b"refs/heads/";
/// What git takes for HEAD's branch where nothing says more.
const MASTER: &[u8] = b"refs/heads/master";

/// Parses the listing as it comes.
pub(super) struct Lines<'a> {
    follow: &'a Follow,
    beside: &'a Beside,
    partial: Vec<u8>,
    listed_bytes: u64,
    listing: Listing,
}

impl<'a> Lines<'a> {
    pub(super) fn new(follow: &'a Follow, beside: &'a Beside) -> Self {
        Self {
            follow,
            beside,
            partial: Vec::new(),
            listed_bytes: 0,
            listing: Listing::default(),
        }
    }

    fn push(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.listed_bytes += bytes.len() as u64;
        if self.listed_bytes > limits::UPSTREAM_LISTING_BYTES_MAX {
            return Err(format!(
                "more than {} bytes of refs",
                limits::UPSTREAM_LISTING_BYTES_MAX
            ));
        }
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            if self.partial.len() + piece.len() > limits::UPSTREAM_LINE_BYTES_MAX {
                return Err(format!(
                    "a line is over {} bytes",
                    limits::UPSTREAM_LINE_BYTES_MAX
                ));
            }
            self.partial.extend_from_slice(piece);
            if piece.ends_with(b"\n") {
                let line = std::mem::take(&mut self.partial);
                self.line(line.trim_end_with(|c| c == '\n'))?;
                self.partial = line;
                self.partial.clear();
            }
        }
        Ok(())
    }

    fn line(&mut self, line: &[u8]) -> Result<(), String> {
        let wrong = || format!("not understood: {:?}", line.as_bstr());
        let (value, name) = line.split_once_str("\t").ok_or_else(wrong)?;
        if let Some(target) = value.strip_prefix(b"ref: ") {
            if name == b"HEAD" {
                self.listing.head_target = Some(target.into());
            }
            return Ok(());
        }
        let id = ObjectId::from_hex(value).map_err(|_| wrong())?;
        if name == b"HEAD^{}" {
            self.listing.head_peeled = Some(id);
            return Ok(());
        }
        let Some(tag) = name.strip_suffix(b"^{}") else {
            return self.found(name, id, None, None);
        };
        if let Some(last) = self.listing.refs.last_mut().filter(|last| last.name == tag) {
            last.peeled = Some(id);
        }
        Ok(())
    }

    /// Takes a ref; which ref it names, and what a tag leads to, are not known of each.
    pub(super) fn found(
        &mut self,
        name: &[u8],
        id: ObjectId,
        target: Option<&[u8]>,
        peeled: Option<ObjectId>,
    ) -> Result<(), String> {
        if name == b"HEAD" {
            self.listing.head_id = Some(id);
            self.listing.head_peeled = peeled;
            if let Some(target) = target {
                self.listing.head_target = Some(target.into());
            }
            return Ok(());
        }
        let refs = &mut self.listing.refs;
        if self.follow.matches(name) && refs::is_ref_name(name) {
            if refs.len() >= limits::UPSTREAM_REFS_MAX {
                return Err(format!("more than {} refs", limits::UPSTREAM_REFS_MAX));
            }
            refs.push(Ref {
                name: name.into(),
                target: id,
                peeled,
            });
        } else if self.beside.has(name) {
            let beside = &mut self.listing.beside;
            if beside.iter().all(|(listed, _)| listed != name) {
                beside.push((name.into(), id));
            }
        }
        Ok(())
    }

    pub(super) fn finish(self) -> Result<Listing, String> {
        if !self.partial.is_empty() {
            return Err("the last line is cut off".to_owned());
        }
        let mut listing = self.listing;
        listing.refs.sort_by(|a, b| a.name.cmp(&b.name));
        if let Some(pair) = listing
            .refs
            .windows(2)
            .find(|pair| pair[0].name == pair[1].name)
        {
            return Err(format!("{:?} is listed twice", pair[0].name));
        }
        Ok(listing)
    }
}

#[cfg(test)]
mod tests;
