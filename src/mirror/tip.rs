//! One commit without its history: as a pack, and fetched from an upstream of which there is no mirror.

use gix::ObjectId;
use gix::bstr::BString;
use gix::hash::Kind;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::future::poll_fn;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::Poll;

use super::blocking::blocking;
use super::error::MirrorError;
use super::git::{Call, Git, Target};
use super::listing::{Found, Wanted};
use crate::io::lasts::Lasts;
use crate::limits::TIP_RUN_OBJECTS;
use crate::refs::MirrorRefs;

/// What leads to a commit.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TipOf {
    /// The upstream's HEAD.
    Head,
    /// The ref of this full name.
    Ref(BString),
    /// Nothing: the commit is named.
    Commit(ObjectId),
    /// The same of what a ref was listed with. The ref may have moved since; its tags come along.
    Listed(ObjectId),
}

/// What an upstream has.
#[derive(Clone, Debug)]
pub struct Seen {
    /// HEAD, heads, tags, and what else is followed.
    pub refs: MirrorRefs,
    /// The kind of its ids.
    pub hash: Kind,
    /// Where it is, wherever it was asked for.
    pub url: String,
}

/// Lists of ids, one a line, for as many packs.
struct Lists {
    directory: PathBuf,
    lists: Vec<BufWriter<File>>,
    /// Ends of lines so far.
    lines: usize,
    /// What ended the writing.
    failed: Option<io::Error>,
}

impl Lists {
    fn new(directory: &Path, most: usize) -> Result<Lists, MirrorError> {
        let create = |_| tempfile::tempfile_in(directory).map(BufWriter::new);
        let lists = (0..most.max(1)).map(create).collect::<Result<Vec<_>, _>>();
        Ok(Lists {
            directory: directory.to_owned(),
            lists: lists.map_err(|source| failed(directory, source))?,
            lines: 0,
            failed: None,
        })
    }

    /// Gives each list runs of lines in turn: what is beside each other in a tree may be deltas of each other.
    fn write(&mut self, bytes: &[u8]) -> Result<(), String> {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let list = (self.lines / TIP_RUN_OBJECTS) % self.lists.len();
            if let Err(e) = self.lists[list].write_all(part) {
                let why = e.to_string();
                self.failed = Some(e);
                return Err(why);
            }
            self.lines += usize::from(part.ends_with(b"\n"));
        }
        Ok(())
    }

    /// Those that something is in, to be read.
    fn finish(self) -> Result<Vec<File>, MirrorError> {
        let used = self.lines.div_ceil(TIP_RUN_OBJECTS);
        let finish = |list: BufWriter<File>| -> io::Result<File> {
            let mut file = list.into_inner().map_err(|e| e.into_error())?;
            file.seek(SeekFrom::Start(0))?;
            Ok(file)
        };
        let lists = self.lists.into_iter().take(used).map(finish);
        let lists = lists.collect::<io::Result<Vec<_>>>();
        lists.map_err(|source| failed(&self.directory, source))
    }
}

fn failed(directory: &Path, source: io::Error) -> MirrorError {
    MirrorError::io("list what a commit has in", directory, source)
}

/// Removes packs and their companions as far as that works.
fn remove_packs(directory: &Path, stems: &[String]) {
    for stem in stems {
        for end in ["idx", "rev", "pack"] {
            let _ = std::fs::remove_file(directory.join(format!("{stem}.{end}")));
        }
    }
}

/// Waits for all of them, which go on at the same time.
async fn together<T>(tasks: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut tasks: Vec<_> = tasks.map(|task| (Box::pin(task), None)).collect();
    poll_fn(|context| {
        let mut is_done = true;
        for (task, result) in &mut tasks {
            if result.is_none() {
                match task.as_mut().poll(context) {
                    Poll::Ready(value) => *result = Some(value),
                    Poll::Pending => is_done = false,
                }
            }
        }
        match is_done {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    })
    .await;
    tasks.into_iter().filter_map(|(_, result)| result).collect()
}

impl Git {
    /// Packs what `tip` has, without what was before it, and the annotated tags of all that, which `from`
    /// names in its `packed-refs`: in up to `packs_max` packs that are made at the same time, for most of the work is
    /// one thread's in git. Deltas are taken over where both sides are there and looked for nowhere:
    /// that would take most of the time. What is not taken over is compressed with less effort than is usual, which
    /// takes two thirds of the time for 4 % more bytes. The packs appear in `into`, which is on the same file system,
    /// with their companions; gives their names without what they end with. It is the caller who syncs them.
    ///
    /// # Errors
    /// [`MirrorError::Git`] when an object is missing or damaged. No pack is there then.
    pub(crate) async fn pack_tip(
        &self,
        from: &Path,
        into: &Path,
        tip: ObjectId,
        packs_max: usize,
    ) -> Result<Vec<String>, MirrorError> {
        let place = into.to_owned();
        let lists = blocking(into, move || {
            let made = std::fs::create_dir_all(&place);
            made.map_err(|source| MirrorError::io("create", &place, source))?;
            Lists::new(&place, packs_max)
        });
        let mut lists = lists.await?;
        let tip = tip.to_string();
        let walk = [
            "rev-list",
            "--objects",
            "--no-object-names",
            "--no-walk",
            &tip,
        ];
        let call = self.upkeep("git rev-list", from, &walk);
        let listed = self.run(call, &mut |bytes| lists.write(bytes)).await;
        if let Some(source) = lists.failed.take() {
            return Err(failed(into, source));
        }
        listed?;
        let lists = blocking(into, move || lists.finish()).await?;
        let made = into.join("pack");
        let options = ["--include-tag", "--window=0", "--compression=4"];
        let packing = lists
            .into_iter()
            .map(|list| self.pack_objects_to(from, &made, list, (&options, Lasts::ByCaller)));
        let mut stems = Vec::new();
        let mut failed = None;
        for packed in together(packing).await {
            match packed {
                Ok(more) => stems.extend(more),
                Err(e) => failed = Some(e),
            }
        }
        let Some(error) = failed else {
            return Ok(stems);
        };
        let place = into.to_owned();
        // What is left goes with the directory.
        let _ = blocking(into, move || {
            remove_packs(&place, &stems);
            Ok(())
        })
        .await;
        Err(error)
    }

    /// What `url` has; nothing where its HEAD leads nowhere. `tmp` is a directory.
    ///
    /// # Errors
    /// As for every listing.
    pub(crate) async fn look_at_refs(
        &self,
        tmp: &Path,
        url: &str,
    ) -> Result<Option<Seen>, MirrorError> {
        let nothing = tmp.join("no-repository");
        let Found { listing, url } = self.list(&nothing, url, Wanted::All).await?;
        let (Some(head), Some(hash)) = (listing.head(), listing.format()) else {
            return Ok(None);
        };
        let refs = MirrorRefs {
            head,
            refs: Arc::new(listing.refs),
            fully_peeled: true,
        };
        Ok(Some(Seen { refs, hash, url }))
    }

    /// Makes a repository below `tmp` that commits can be fetched into without their history.
    ///
    /// # Errors
    /// [`MirrorError::Io`] when there is no room for it.
    pub(crate) async fn make_tips(&self, tmp: &Path, hash: Kind) -> Result<PathBuf, MirrorError> {
        let dir = tempfile::Builder::new().prefix("tips-").tempdir_in(tmp);
        let dir = dir.map_err(|source| MirrorError::io("make a directory in", tmp, source))?;
        let format = format!("--object-format={hash}");
        let options = ["init", "--bare", "--quiet", "--template=", &format];
        let mut args: Vec<OsString> = options.iter().map(OsString::from).collect();
        args.push(dir.path().into());
        let call = Call {
            git_dir: None,
            args,
            ..self.local("git init", dir.path(), [""; 0])
        };
        self.output(call).await?;
        Ok(dir.keep())
    }

    /// What the last ref that was fetched led to.
    ///
    /// # Errors
    /// [`MirrorError::Output`] when none was.
    pub(crate) async fn last_tip(&self, tips: &Path) -> Result<ObjectId, MirrorError> {
        let path = tips.join("refs/tips/last");
        let text = blocking(tips, move || {
            std::fs::read(&path).map_err(|source| MirrorError::io("read", &path, source))
        });
        let text = text.await?;
        ObjectId::from_hex(text.trim_ascii()).map_err(|e| MirrorError::Output {
            op: "git fetch",
            target: tips.display().to_string(),
            what: e.to_string(),
        })
    }

    /// Fetches a commit from `url` without what was before it. Tags of what it has come along if a ref leads to
    /// it, as in a clone. Calls for one repository must not overlap.
    ///
    /// # Errors
    /// Every [`MirrorError`].
    pub(crate) async fn fetch_tip(
        &self,
        tips: &Path,
        url: &str,
        tip: &TipOf,
    ) -> Result<(), MirrorError> {
        let into = b":refs/tips/last";
        let (tags, refspec) = match tip {
            TipOf::Head => (None, [b"+HEAD".as_slice(), into].concat()),
            TipOf::Ref(name) => (None, [b"+", name.as_slice(), into].concat()),
            TipOf::Listed(id) => (None, [b"+", id.to_string().as_bytes(), into].concat()),
            TipOf::Commit(id) => (Some("--no-tags"), id.to_string().into_bytes()),
        };
        let options = [
            "--quiet",
            "--depth=1",
            "--no-write-fetch-head",
            "--no-auto-maintenance",
        ];
        let args = ["fetch"].into_iter().chain(options).chain(tags);
        let args = args.chain(["--", url]).map(OsString::from);
        let call = Call {
            op: "git fetch",
            target: Target::Upstream(url),
            git_dir: Some(tips),
            args: args
                .chain([OsStr::from_bytes(&refspec).to_owned()])
                .collect(),
            stdin: None,
            limit: self.limits.clone,
            memory_bytes: self.memory_bytes,
            growth: Some(self.growth(tips.join("objects"), tips)?),
        };
        self.output(call).await.map(drop)
    }
}
