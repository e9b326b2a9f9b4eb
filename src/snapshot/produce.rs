//! The producer: one thread per running build that puts the archive together in order and
//! leaves the heavy work to the encoders.
//!
//! Order: the small `.git` files (they leave at once), packs as raw runs, the worktree, and
//! `.git/index` last, when all sizes are known. A pack that is made for the snapshot comes behind these, and
//! behind it the tags of what it has.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

use gix::ObjectId;
use gix::objs::FindExt;
use gix::odb::Header;
use gix::odb::pack::index;
use sha2::{Digest, Sha256};

use super::budget::Budget;
use super::commit;
use super::gitdir;
use super::index::CHUNK_FORMAT;
use super::job::EncoderState;
use super::line::{Line, Numbered, push_section};
use super::output::{BuildError, Output, Spool};
use super::reuse::Reuse;
use super::ring::{Ring, Size};
use super::source::{REPOSITORY_SETTINGS, Source};
use super::survey::{Survey, survey};
use super::trees::LargestTree;
use super::turns::{Closed, Turn};
use super::verify::Verified;
use super::view::View;
use super::work::Work;
use crate::archive::fanout::Fanout;
use crate::faults::Faults;
use crate::io::shortage::Detail;
use crate::limits::{
    CHUNK_BYTES_MIN, CHUNK_ENTRIES, COMMIT_BYTES_MAX, ENCODER_NICE, FRAME_TAR_BYTES,
    JOB_ENTRIES_MAX, JOB_ENTRIES_MIN, LARGE_DIRECTORY_DEPTH_MAX, LARGE_DIRECTORY_ENTRIES,
    SMALL_BUILD_LINKED_BYTES, SMALL_BUILD_NICE, SMALL_BUILD_STEPS, TREE_BYTES_MAX,
};
use crate::manifest::outline::Outline;
use crate::manifest::parts::{Contents, Section};
use crate::manifest::record::Linked;
use crate::refs::Ref;
use crate::tree::batch::describe_format;
use crate::tree::dates::GIT_DATE_S;
use crate::tree::decoder::Packs;
use crate::tree::iconv::Identity;
use crate::tree::map::MappedFile;
use crate::tree::tar;

/// Version of how the worktree and the index are cut into frames.
const FRAMES_FORMAT: u8 = 4;

/// What a build is made from.
pub struct Input {
    /// The pinned view.
    pub view: View,
    /// The directory of its links, a bare repository, or the mirror itself as long as it is locked.
    pub directory: PathBuf,
    /// zstd level.
    pub level: i32,
    /// What an earlier snapshot has; nothing as a rule.
    pub reuse: Reuse,
    /// The files of frames that the entry will have, by their paths: its own, then those that it links.
    pub parts: Vec<String>,
    /// Faults to inject; none outside tests.
    pub faults: Faults,
    /// Memory for decoding big objects, shared by all builds.
    pub budget: Arc<Budget>,
    /// What need not be checked again.
    pub verified: Verified,
}

/// Where an archive has its history from.
pub enum History<'a> {
    /// The view's, which are the first files that it links.
    Views,
    /// What is made of them meanwhile; the function waits for it.
    Made(Box<dyn FnOnce() -> Result<MadePacks, BuildError> + 'a>),
}

/// Packs that an archive has instead of the view's.
pub struct MadePacks {
    /// Where they are.
    pub directory: PathBuf,
    /// With their companions, in the order they are archived.
    pub files: Vec<Linked>,
    /// The number of the first one in the archive's layout.
    pub first_number: u32,
    /// Whether they have what the archive shows, and nothing else.
    pub is_exact: bool,
}

/// The beginning of the archive, which needs nothing of the entry: what is known before the
/// first byte leaves, and the small `.git` files, which leave first.
pub struct Head {
    tree: Option<ObjectId>,
    /// What leaves first, and what follows it.
    tars: [Vec<u8>; 2],
    /// How many bytes of the first have left.
    sent: usize,
}

impl Head {
    /// Reads the HEAD commit of `view` from the directory `objects`, which holds what the view
    /// saw: the mirror's own while it is locked, or that of its links.
    pub fn read(view: &View, origin_url: &str, objects: &Path) -> Result<Head, BuildError> {
        let mut tree = None;
        if let Some(id) = view.checkout.commit {
            let error = |detail| BuildError::Commit { commit: id, detail };
            let options = gix::odb::store::init::Options::default();
            let objects = gix::odb::at_opts(objects, view.hash, [], options);
            let objects = objects.map_err(|e| error(Detail::of(&e)))?;
            let header = objects.try_header(&id).map_err(|e| error(Detail::of(&e)))?;
            let bytes = header.ok_or_else(|| error("it is missing".into()))?.size();
            if bytes > COMMIT_BYTES_MAX {
                let detail = format!("it has {bytes} bytes; at most {COMMIT_BYTES_MAX} are read");
                return Err(error(detail.into()));
            }
            let mut buffer = Vec::new();
            let found = objects.find(&id, &mut buffer);
            let found = found.map_err(|e| error(Detail::of(&e)))?;
            let is_commit = found.kind == gix::objs::Kind::Commit;
            let root = is_commit.then(|| commit::tree(found.data, view.hash));
            let root = root.flatten();
            tree = Some(root.ok_or_else(|| error("it is no commit".into()))?);
        }
        Ok(Head {
            tree,
            tars: [gitdir::head_tar(view, origin_url), gitdir::refs_tar(view)],
            sent: 0,
        })
    }

    /// Has the first frame leave, which fits into the fan-out's window: there may be no spool
    /// file to write it to yet.
    pub fn send_first(
        &mut self,
        fanout: &Fanout,
        spool: &dyn Spool,
        level: i32,
        faults: &Faults,
    ) -> Result<(), BuildError> {
        let mut output = Output::new(fanout, spool, level, faults.clone())?;
        let first = self.tars[0].len().min(FRAME_TAR_BYTES);
        output.frames(&self.tars[0][..first])?;
        self.sent = first;
        Ok(())
    }

    /// What follows the first frame; gives what stands where in all of it.
    fn send_rest(self, output: &mut Output<'_>) -> Result<Vec<Section>, BuildError> {
        let mut sections = Vec::new();
        push_section(&mut sections, Contents::GitDir, 0);
        output.frames(&self.tars[0][self.sent..])?;
        push_section(&mut sections, Contents::Refs, output.fanout.wire_bytes());
        output.frames(&self.tars[1])?;
        Ok(sections)
    }
}

/// The view, opened.
pub struct Opened {
    view: View,
    directory: PathBuf,
    parts: Vec<String>,
    faults: Faults,
    verified: Verified,
    source: Source,
    head: Head,
}

/// What a build leaves behind.
pub struct Produced {
    /// What the next one can use.
    pub outline: Outline,
    /// What stands where in the archive.
    pub sections: Vec<Section>,
    /// Jobs whose frames were made, not taken over.
    pub jobs_encoded: u64,
    /// The turn, if there is still something to wait for that takes memory.
    pub turn: Option<Turn>,
}

/// Opens the view's repository, whose beginning was read.
pub fn open(input: Input, head: Head) -> Result<Opened, BuildError> {
    let mut settings = REPOSITORY_SETTINGS.map(str::to_owned).to_vec();
    settings.push(format!("gitoxide.objects.allocLimit={TREE_BYTES_MAX}"));
    let options = gix::open::Options::isolated().config_overrides(settings);
    let repository = gix::ThreadSafeRepository::open_opts(&input.directory, options);
    let repository = repository.map_err(|e| BuildError::Io {
        op: "open",
        path: input.directory.clone(),
        source: std::io::Error::other(Detail::of(&e)),
    })?;
    let view = &input.view;
    let source = Source {
        idle: Mutex::default(),
        packs: Arc::new(Packs::open(&input.directory, &view.packs, view.hash)?),
        repository,
        bounded: Mutex::default(),
        budget: input.budget.clone(),
        attributes: OnceLock::new(),
        largest_tree: LargestTree::default(),
        reuse: input.reuse.made_with(&made_with(input.level)),
        level: input.level,
    };
    Ok(Opened {
        view: input.view,
        directory: input.directory,
        parts: input.parts,
        faults: input.faults,
        verified: input.verified,
        source,
        head,
    })
}

/// A digest of what decides frames besides what they are made of.
pub(crate) fn made_with(level: i32) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update([FRAMES_FORMAT, CHUNK_FORMAT]);
    describe_format(level, |part| hash.update(part));
    // How the worktree and the index are cut, which no key shows.
    for bound in [
        LARGE_DIRECTORY_ENTRIES,
        LARGE_DIRECTORY_DEPTH_MAX as u64,
        JOB_ENTRIES_MIN as u64,
        JOB_ENTRIES_MAX as u64,
        CHUNK_ENTRIES,
        CHUNK_BYTES_MIN as u64,
    ] {
        hash.update(bound.to_le_bytes());
    }
    hash.update(GIT_DATE_S.to_le_bytes());
    hash.update(Identity::of_system().as_bytes());
    hash.finalize().into()
}

/// Produces the whole archive, but for what has left of its beginning, into `fanout`. The
/// caller ends the fan-out: complete on success, failed on an error.
///
/// `take` waits for its turn; it is called once the first bytes are out. `let_go` is called before the
/// first wait for a reader: from then on the files of the view may go, for those that are needed are
/// open.
pub fn produce<'a>(
    opened: Opened,
    fanout: &'a Fanout,
    spool: &'a dyn Spool,
    ring: &'a Ring<EncoderState>,
    history: History<'a>,
    take: impl FnOnce() -> Result<Turn, Closed>,
    let_go: impl FnOnce() + 'a,
) -> Result<Produced, BuildError> {
    let Opened {
        view,
        directory,
        parts,
        faults,
        verified,
        source,
        head,
    } = opened;
    let tree = head.tree;
    let source = Arc::new(source);
    let mut output = Output::new(fanout, spool, source.level, faults)?;
    let sections = head.send_rest(&mut output)?;
    fanout.tell();
    let turn = take()?;
    let size = turn.size();
    output.turn = Some(turn);
    let kept = source.clone();
    output.let_go = Some(Box::new(move || {
        kept.largest_tree.keep_none();
        let_go();
    }));
    let (nice, steps_max) = match size {
        Size::Small => (SMALL_BUILD_NICE, SMALL_BUILD_STEPS),
        Size::Large => (ENCODER_NICE, u64::MAX),
    };
    let verifying = verified.start(&directory, &view.packs, view.hash, nice)?;
    let lane = ring.lane(size);
    let surveyed = tree.map(|tree| {
        let source = source.clone();
        lane.submit(move |_| survey(&source, &tree, steps_max))
    });
    let outline = Outline {
        made_with: made_with(source.level),
        parts,
        ..Outline::default()
    };
    let checking = (verifying.gate(), verifying.progress());
    let work = Work::new(output, lane, checking, source);
    let mut line = Line::new(work, outline, sections);
    if matches!(history, History::Views) {
        line.section(Contents::Packs)?;
        linked(&mut line, &directory, &view.packs, 0)?;
    }
    if let (Some(tree), Some(surveyed)) = (tree, surveyed) {
        let surveyed = line.work.wait(surveyed)??;
        line.section(Contents::Worktree)?;
        checkout(&mut line, &tree, surveyed)?;
    }
    line.drain(0)?;
    line.work.wait_all_checked()?;
    let end = end_of(&mut line, history, &view, (&verified, nice))?;
    finish(&mut line, end)?;
    Ok(Produced {
        outline: line.outline,
        sections: line.sections,
        jobs_encoded: line.encoded,
        turn: line.work.output.turn,
    })
}

/// What comes behind the worktree, tar's end aside: the pack that was made meanwhile, and the tags of the one
/// commit.
fn end_of(
    line: &mut Line<'_>,
    history: History<'_>,
    view: &View,
    (verified, nice): (&Verified, i32),
) -> Result<Vec<u8>, BuildError> {
    let wait = match history {
        History::Views => return Ok(tags_at_tip(view)),
        History::Made(wait) => wait,
    };
    let made = line.work.output.rest(wait)??;
    let verifying = verified.start(&made.directory, &made.files, view.hash, nice)?;
    line.work.check((verifying.gate(), verifying.progress()));
    line.section(Contents::Packs)?;
    linked(line, &made.directory, &made.files, made.first_number)?;
    line.drain(0)?;
    line.work.wait_all_checked()?;
    tags_of(view, &made)
}

/// The last bytes of the archive: what is left of it, and the end of the tar.
fn finish(line: &mut Line<'_>, mut end: Vec<u8>) -> Result<(), BuildError> {
    line.section(Contents::End)?;
    line.drain(0)?;
    tar::push_end(&mut end);
    line.work.output.frames(&end)
}

/// Packs and their companions, whose numbers in the layout begin with `first`.
fn linked(
    line: &mut Line<'_>,
    directory: &Path,
    files: &[Linked],
    first: u32,
) -> Result<(), BuildError> {
    for (checked, linked) in (0..).zip(files) {
        let file = first + checked;
        line.linked(directory, linked, Numbered { file, checked })?;
    }
    Ok(())
}

/// The tags of the one commit that is all of the history; nothing where there is more of it.
fn tags_at_tip(view: &View) -> Vec<u8> {
    let tip = view.checkout.tip();
    let is_there = |tag: &Ref| Some(tag.peeled.unwrap_or(tag.target)) == tip;
    gitdir::tags_tar(view, is_there)
}

/// The tags of what the packs have.
fn tags_of(view: &View, made: &MadePacks) -> Result<Vec<u8>, BuildError> {
    if !made.is_exact {
        return Ok(tags_at_tip(view));
    }
    let is_index = |file: &&Linked| file.path.ends_with(".idx");
    let paths = made
        .files
        .iter()
        .filter(is_index)
        .map(|file| made.directory.join(&file.path));
    let open = |path: PathBuf| {
        let mapped = MappedFile::open(&path);
        let index = mapped.and_then(|mapped| {
            let index = index::File::from_data(mapped, path.clone(), view.hash);
            index.map_err(|e| std::io::Error::other(Detail::of(&e)))
        });
        index.map_err(|source| BuildError::Io {
            op: "read",
            path,
            source,
        })
    };
    let indices = paths.map(open).collect::<Result<Vec<_>, _>>()?;
    let has = |id: &gix::oid| indices.iter().any(|index| index.lookup(id).is_some());
    Ok(gitdir::tags_tar(view, |tag| has(&tag.target)))
}

/// The worktree and its index, once its tree was surveyed; `None` if that was more than a small build
/// does.
fn checkout(
    line: &mut Line<'_>,
    tree: &ObjectId,
    surveyed: Option<Survey>,
) -> Result<(), BuildError> {
    let mut survey = match surveyed {
        Some(surveyed) => surveyed,
        None => line.survey(tree)?,
    };
    let source = line.work.source.clone();
    let attributes = std::mem::take(&mut survey.attributes);
    source.attributes.get_or_init(|| attributes);
    line.outline.directories.clone_from(&survey.large);
    line.worktree(&survey)?;
    line.section(Contents::Index)?;
    line.drain(0)?;
    line.index(tree, &survey)?;
    source.largest_tree.forget();
    Ok(())
}

/// By what is known before anything is read; what turns out to be larger grows.
pub(crate) fn size(view: &View) -> Size {
    of_bytes(view.packs.iter().map(|linked| linked.bytes).sum())
}

/// The same of a mirror that is not pinned, so that it can still change.
pub(crate) fn size_of(mirror: &Path) -> Size {
    let files = std::fs::read_dir(mirror.join("objects/pack"));
    let bytes = files.into_iter().flatten().flatten().filter_map(|file| {
        let name = file.file_name();
        let is_linked = LINKED_ENDS
            .iter()
            .any(|end| name.as_encoded_bytes().ends_with(end));
        is_linked
            .then(|| file.metadata().ok().map(|file| file.len()))
            .flatten()
    });
    of_bytes(bytes.sum())
}

/// What the names of a pack's files end with that an archive has.
const LINKED_ENDS: [&[u8]; 3] = [b".pack", b".idx", b".rev"];

fn of_bytes(bytes: u64) -> Size {
    match bytes <= SMALL_BUILD_LINKED_BYTES {
        true => Size::Small,
        false => Size::Large,
    }
}
