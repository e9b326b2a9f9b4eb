//! The producer: one thread per running build that puts the archive together in order and
//! leaves the heavy work to the encoders.
//!
//! Order: the small `.git` files (they leave at once), packs as raw runs, loose objects, the
//! worktree, and `.git/index` last, when all sizes are known.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

use gix::ObjectId;
use gix::objs::FindExt;
use gix::odb::Header;

use super::budget::Budget;
use super::commit;
use super::job::EncoderState;
use super::line::Line;
use super::output::{BuildError, Output, Spool};
use super::reuse::Reuse;
use super::ring::{Ring, Size};
use super::source::{REPOSITORY_SETTINGS, Source};
use super::survey::survey;
use super::turns::{Closed, Turn};
use super::verify::Verified;
use super::view::View;
use super::work::Work;
use crate::archive::fanout::Fanout;
use crate::faults::Faults;
use crate::io::shortage::Detail;
use crate::limits::{
    COMMIT_BYTES_MAX, ENCODER_NICE, FRAME_TAR_BYTES, SMALL_BUILD_LINKED_BYTES, SMALL_BUILD_NICE,
    SMALL_BUILD_STEPS, TREE_BYTES_MAX,
};
use crate::manifest::record::Record;
use crate::tree::decoder::Packs;
use crate::tree::tar;

/// What a build is made from.
pub struct Input {
    /// The pinned view.
    pub view: View,
    /// The directory of its links, a bare repository, or the mirror itself as long as it is locked.
    pub directory: PathBuf,
    /// zstd level.
    pub level: i32,
    /// An earlier snapshot whose frames may be used.
    pub reuse: Option<Reuse>,
    /// Faults to inject; none outside tests.
    pub faults: Faults,
    /// Memory for decoding big objects, shared by all builds.
    pub budget: Arc<Budget>,
    /// What need not be checked again.
    pub verified: Verified,
}

/// The beginning of the archive, which needs nothing of the entry: what is known before the
/// first byte leaves, and the small `.git` files, which leave first.
pub struct Head {
    tree: Option<ObjectId>,
    mtime_s: i64,
    tar: Vec<u8>,
    /// How many bytes of `tar` have left.
    sent: usize,
}

impl Head {
    /// Reads the HEAD commit of `view` from the directory `objects`, which holds what the view
    /// saw: the mirror's own while it is locked, or that of its links.
    pub fn read(view: &View, origin_url: &str, objects: &Path) -> Result<Head, BuildError> {
        let (mut mtime_s, mut tree) = (0, None);
        if let Some(id) = view.commit {
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
            let parsed = is_commit.then(|| commit::parse(found.data, view.hash));
            let (root, date_s) = parsed
                .flatten()
                .ok_or_else(|| error("it is no commit".into()))?;
            // The index has 32 bits for it.
            mtime_s = date_s.clamp(0, i64::from(u32::MAX) - 1);
            tree = Some(root);
        }
        Ok(Head {
            tree,
            mtime_s,
            tar: super::gitdir::tar_bytes(view, origin_url, mtime_s),
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
        let first = self.tar.len().min(FRAME_TAR_BYTES);
        output.frames(&self.tar[..first])?;
        self.sent = first;
        Ok(())
    }
}

/// The view, opened.
pub struct Opened {
    input: Input,
    source: Source,
    head: Head,
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
        mtime_s: head.mtime_s,
        level: input.level,
    };
    Ok(Opened {
        input,
        source,
        head,
    })
}

/// Produces the whole archive, but for what has left of its beginning, into `fanout`. Returns the
/// records of its jobs, and the turn if there is still something to wait for that takes memory. The
/// caller ends the fan-out: complete on success, failed on an error.
///
/// `enter` waits for a turn; it is called once the first bytes are out. `let_go` is called before the
/// first wait for a reader: from then on the files of the view may go, for those that are needed are
/// open.
pub fn produce<'a>(
    opened: Opened,
    fanout: &'a Fanout,
    spool: &'a dyn Spool,
    ring: &'a Ring<EncoderState>,
    enter: impl FnOnce(Size) -> Result<Turn, Closed>,
    let_go: impl FnOnce() + 'a,
) -> Result<(Vec<Record>, Option<Turn>), BuildError> {
    let Opened {
        input,
        source,
        head: Head {
            tree, tar, sent, ..
        },
    } = opened;
    let mut output = Output::new(fanout, spool, input.level, input.faults.clone())?;
    output.frames(&tar[sent..])?;
    drop(tar);
    let (view, directory) = (&input.view, &input.directory);
    let size = size(view);
    output.turn = Some(enter(size)?);
    output.let_go = Some(Box::new(let_go));
    let (nice, steps_max) = match size {
        Size::Small => (SMALL_BUILD_NICE, SMALL_BUILD_STEPS),
        Size::Large => (ENCODER_NICE, u64::MAX),
    };
    let verifying = input
        .verified
        .start(directory, &view.packs, view.hash, nice)?;
    let lane = ring.lane(size);
    let source = Arc::new(source);
    let surveyed = tree.map(|tree| {
        let source = source.clone();
        lane.submit(move |_| survey(&source, &tree, steps_max))
    });
    let work = Work::new(output, lane, verifying.gate(), source);
    let mut line = Line::new(work, input.reuse);
    for linked in &input.view.packs {
        line.linked(&input.directory, linked, &input.view.packs)?;
    }
    for linked in &input.view.loose {
        line.loose(&input.directory, linked)?;
    }
    if let (Some(tree), Some(surveyed)) = (tree, surveyed) {
        let (plan, attributes) = match surveyed.wait()?? {
            Some(surveyed) => surveyed,
            None => line.survey(&tree)?,
        };
        line.work.source.attributes.get_or_init(|| attributes);
        line.worktree(&tree)?;
        line.index(&tree, plan)?;
    }
    line.drain(0)?;
    // An archive with a damaged pack must not get its end.
    while !verifying.has_ended() {
        if line.work.is_turn_over() {
            line.work.pass_turn()?;
        }
    }
    verifying.wait()?;
    let mut end = Vec::new();
    tar::push_end(&mut end);
    line.work.output.frames(&end)?;
    Ok((line.records, line.work.output.turn))
}

/// By what is known before anything is read; what turns out to be larger grows.
fn size(view: &View) -> Size {
    let linked = view.packs.iter().chain(&view.loose);
    match linked.map(|l| l.bytes).sum::<u64>() <= SMALL_BUILD_LINKED_BYTES {
        true => Size::Small,
        false => Size::Large,
    }
}
