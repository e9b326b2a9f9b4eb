//! Fetches of what no followed ref leads to, each into a repository of its own beside the others.

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use gix::ObjectId;
use gix::bstr::BString;
use tempfile::TempDir;

use super::annex::{TMP, annex, make, make_repository, move_packs_into, pack_names};
use super::blocking::blocking;
use super::config;
use super::error::{MirrorError, without_password};
use super::git::{Call, Git, Target};
use super::listing::{Found, Wanted};
use super::set_up::format_of;
use crate::git::stdin_file;

/// Where the ref that was fetched stands meanwhile.
const CAME: &str = "refs/tarpon/came";

/// What git says where a ref is not there.
const NO_SUCH_REF: &str = "couldn't find remote ref";

/// What an upstream is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Apart {
    Id(ObjectId),
    /// What the ref of this full name leads to.
    Ref(BString),
}

/// What an upstream has given: a repository that has all of it, and that goes when this is dropped.
#[derive(Debug)]
pub(crate) struct Brought {
    dir: TempDir,
    /// What was asked for: the id, or that which the ref names.
    pub(crate) id: ObjectId,
}

/// What has come into an annex at once.
#[derive(Debug)]
pub(crate) struct Kept {
    /// The names of its packs, without an end: they have what was asked for, what leads to it and nothing else.
    pub(crate) packs: Vec<String>,
    pub(crate) bytes: u64,
}

impl Git {
    /// Fetches something with all that it needs into a repository of its own. `haves` are commits that the
    /// mirror has, which are offered. Where the object is not in the annex, what is there is not fetched again.
    ///
    /// # Errors
    /// Every [`MirrorError`]; [`MirrorError::Vanished`] where the upstream has it not, or gives out
    /// only what its refs name.
    pub(crate) async fn fetch_apart(
        &self,
        (mirror, url): (&Path, &str),
        wanted: &Apart,
        haves: Vec<ObjectId>,
    ) -> Result<Brought, MirrorError> {
        let (path, sought) = (mirror.to_owned(), wanted.clone());
        let dir = blocking(mirror, move || prepare(&path, &sought, &haves)).await?;
        match self.fetch_into(dir.path(), url, wanted).await {
            Err(MirrorError::Redirected { .. }) => {
                let Found { url: at, .. } = self.list(mirror, url, Wanted::Cloned).await?;
                self.fetch_into(dir.path(), &at, wanted).await
            }
            fetched => fetched,
        }?;
        let id = match wanted {
            Apart::Id(id) => *id,
            Apart::Ref(name) => {
                let came = fs::read(dir.path().join(CAME)).unwrap_or_default();
                let id = ObjectId::from_hex(came.trim_ascii());
                id.map_err(|e| MirrorError::Output {
                    op: "git fetch",
                    target: without_password(url),
                    what: format!("no {name}: {e}"),
                })?
            }
        };
        Ok(Brought { dir, id })
    }

    async fn fetch_into(&self, dir: &Path, url: &str, wanted: &Apart) -> Result<(), MirrorError> {
        let line = match wanted {
            Apart::Id(id) => format!("{id}\n").into_bytes(),
            Apart::Ref(name) => [b"+", name.as_slice(), b":", CAME.as_bytes(), b"\n"].concat(),
        };
        let stdin = stdin_file(&line);
        let stdin =
            stdin.map_err(|source| MirrorError::io("name what to fetch into", dir, source))?;
        let words = [
            "fetch",
            "--quiet",
            "--no-write-fetch-head",
            "--no-tags",
            "--no-auto-maintenance",
            "--stdin",
            "--",
            url,
        ];
        let call = Call {
            op: "git fetch",
            target: Target::Upstream(url),
            git_dir: Some(dir),
            args: words.iter().map(OsString::from).collect(),
            stdin: Some(stdin),
            limit: self.limits.fetch,
            memory_bytes: self.memory_bytes,
            growth: Some(self.growth(dir.join("objects"), dir)?),
        };
        self.output(call).await.map(drop).map_err(|e| match e {
            // In words that have nothing of the upstream's in them.
            MirrorError::Git { stderr, .. } if stderr.contains(NO_SUCH_REF) => {
                MirrorError::Vanished {
                    url: without_password(url),
                    line: format!(
                        "{NO_SUCH_REF}: {}",
                        String::from_utf8_lossy(&line).trim_end()
                    ),
                }
            }
            e => e,
        })
    }
}

fn prepare(mirror: &Path, wanted: &Apart, haves: &[ObjectId]) -> Result<TempDir, MirrorError> {
    let format = format_of(&config::read(mirror)?);
    let at = annex(mirror);
    let made = || -> std::io::Result<TempDir> {
        make(mirror, format)?;
        let dir = tempfile::Builder::new()
            .prefix(&format!("{TMP}fetch_"))
            .tempdir_in(&at)?;
        // Of what it has git would not ask the upstream.
        let (of_mirror, of_annex) = ("../../../objects", "../../objects");
        let borrowed = match wanted {
            Apart::Id(id) if has(&at, format, id) => &[of_mirror][..],
            _ => &[of_mirror, of_annex],
        };
        make_repository(dir.path(), format, borrowed, haves)?;
        Ok(dir)
    };
    made().map_err(|source| MirrorError::io("make a repository in", &at, source))
}

/// Whether the annex, or what it borrows, has the object.
fn has(annex: &Path, format: gix::hash::Kind, id: &ObjectId) -> bool {
    let options = gix::odb::store::init::Options::default();
    let odb = gix::odb::at_opts(annex.join("objects"), format, [], options);
    odb.is_ok_and(|odb| gix::odb::Header::try_header(&odb, id).is_ok_and(|found| found.is_some()))
}

impl Brought {
    /// A repository that has all of it.
    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Moves what has come into the annex.
    pub(crate) fn keep(self, mirror: &Path) -> Result<Kept, MirrorError> {
        let at = annex(mirror);
        let moved = || {
            Ok(Kept {
                packs: pack_names(self.dir.path())?,
                bytes: move_packs_into(self.dir.path(), &at)?,
            })
        };
        moved().map_err(|source| MirrorError::io("move packs into", &at, source))
    }
}
