//! A snapshot's parts, fetched into a directory: over several connections, resumed and tried again one by one, and
//! each under its name only after it was found to be what the manifest says.
//!
//! What a server says of parts is believed as little as an archive: a manifest is sound or it is refused
//! ([`Manifest::unpack`]), it is of the snapshot that the answer names, and what all of it
//! takes is counted before the first byte is asked for.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::AcqRel};
use std::sync::{Mutex, MutexGuard};

use xxhash_rust::xxh64::Xxh64;

use super::error::{RestoreError, failed};
use super::http::Conn;
use super::link::{Link, pause};
use super::pieces::{Piece, Taken, push_pieces};
use super::progress::Progress;
use super::quota::Quota;
use super::request::Request;
use super::segments::SegmentError;
use super::stop::Stop;
use super::wanted::Wanted;
use super::way::Way;
use crate::config::RestoreArgs;
use crate::limits::{
    CORRUPT_TRIES_MAX, DOWNLOAD_TRIES_MAX, MANIFEST_SENT_BYTES_MAX, PACE_BYTES, RESTARTS_MAX,
    STREAM_READ_BYTES,
};
use crate::manifest::parts::{MANIFEST_TYPE, Manifest, Part};

/// Where the parts of a snapshot are asked for, and which that is.
pub(super) struct Source<'a> {
    pub link: Link<'a>,
    /// The path of its repository.
    pub base: &'a str,
    /// What of it, as a query.
    pub query: &'a str,
    /// Whether a commit was asked for by its id.
    pub names_commit: bool,
}

/// Fetches the parts of what is asked for into a directory; gives what they are. `None` where the server sends the
/// archive instead.
pub fn fetch_parts(args: &RestoreArgs, dir: &Path) -> Result<Option<Manifest>, RestoreError> {
    let (stop, progress) = (Stop::default(), Progress::default());
    let way = Way::of(args, &stop)?;
    let link = way.link(args, &stop, &progress);
    let wanted = Wanted::parse(args)?;
    let query = wanted.query();
    let source = Source {
        link,
        base: link.place,
        query: &query,
        names_commit: wanted.checkout.is_commit(),
    };
    let quota = Quota::new(args.size_limit, dir)?;
    let mut tries = 0;
    loop {
        let Some(manifest) = source.manifest()? else {
            return Ok(None);
        };
        match source.fetch(&manifest, dir, &quota) {
            Ok(()) => return Ok(Some(manifest)),
            // What is there of it stays.
            Err(RestoreError::Changed) if tries < RESTARTS_MAX => tries += 1,
            Err(error) => return Err(error),
        }
    }
}

/// A server says something of a manifest that cannot be.
fn lies(what: impl Into<String>) -> RestoreError {
    let (offset, what) = (0, what.into());
    RestoreError::Corrupt { offset, what }
}

impl Source<'_> {
    /// The snapshot's manifest; `None` where the server has none, which older ones never have, or sends the
    /// archive at once.
    pub(super) fn manifest(&self) -> Result<Option<Manifest>, RestoreError> {
        let link = self.link;
        let server = |e: io::Error| RestoreError::Server(format!("{}: {e}", link.server.authority));
        let target = format!("{}/manifest{}", self.base, self.query);
        let accept = format!("{MANIFEST_TYPE}, application/zstd;q=0.5");
        let fields = [("Accept", accept.as_str())];
        let mut conn = Conn::open(link).map_err(server)?;
        let request = Request::get(&target, &fields);
        let answer = conn.ask(&request, link.wait).map_err(server)?;
        match answer.status {
            200 if answer.get("content-type") == Some(MANIFEST_TYPE) => {}
            200 | 404 => return Ok(None),
            _ => return Err(conn.refused(&answer)),
        }
        let mut sent = Vec::new();
        let mut piece = [0; 4096];
        loop {
            match conn.read(&mut piece).map_err(server)? {
                0 => break,
                got => sent.extend_from_slice(&piece[..got]),
            }
            if sent.len() > MANIFEST_SENT_BYTES_MAX {
                return Err(lies("the manifest is longer than any is"));
            }
        }
        let manifest = Manifest::unpack(&sent);
        let manifest = manifest.map_err(|e| lies(format!("the manifest: {e}")))?;
        self.expect(&manifest, answer.get("etag"))
            .map(|()| Some(manifest))
    }

    /// It is that of what was asked for.
    fn expect(&self, manifest: &Manifest, etag: Option<&str>) -> Result<(), RestoreError> {
        if etag != Some(&*format!("\"{}\"", manifest.id)) {
            return Err(lies("the manifest is that of another snapshot"));
        }
        // Which one it is its objects say, once they are there: a tag's id may have been asked for.
        match self.names_commit && manifest.want.commit().is_none() {
            true => Err(lies("the manifest is of no commit")),
            false => Ok(()),
        }
    }

    /// Fetches into `dir` all parts that are not there. Who may write there is believed.
    pub(super) fn fetch(
        &self,
        manifest: &Manifest,
        dir: &Path,
        quota: &Quota,
    ) -> Result<(), RestoreError> {
        let missing = |part: &&Part| !is_there(&dir.join(&part.name), part.bytes);
        for part in manifest.parts.iter().filter(missing) {
            quota.take_entry(part.bytes)?;
        }
        let fetching = Fetching::new(self, manifest, dir)?;
        let connections = self.link.connections.min(fetching.lock().pieces.len());
        std::thread::scope(|scope| {
            for _ in 0..connections {
                scope.spawn(|| fetching.run());
            }
        });
        let mut state = fetching.lock();
        match state.error.take() {
            Some(error) => Err(error),
            None if state.left > 0 => Err(RestoreError::Server("the download was stopped".into())),
            None => Ok(()),
        }
    }
}

/// Whether it was fetched and found right before: until then it has another name.
fn is_there(path: &Path, bytes: u64) -> bool {
    let found = fs::symlink_metadata(path);
    found.is_ok_and(|found| found.is_file() && found.len() == bytes)
}

/// A part that is being fetched.
struct Open {
    file: File,
    /// Until it is whole and right.
    path: PathBuf,
    /// Pieces that are not there yet.
    left: AtomicUsize,
}

/// What the connections share.
struct State {
    /// What nobody fetches yet; the last one is next.
    pieces: Vec<Piece>,
    /// Pieces that are not there yet.
    left: usize,
    error: Option<RestoreError>,
}

struct Fetching<'f, 'a> {
    source: &'f Source<'a>,
    manifest: &'f Manifest,
    dir: &'f Path,
    /// By their place in the manifest; `None` for those that are there.
    open: Vec<Option<Open>>,
    state: Mutex<State>,
}

impl<'f, 'a> Fetching<'f, 'a> {
    fn new(
        source: &'f Source<'a>,
        manifest: &'f Manifest,
        dir: &'f Path,
    ) -> Result<Self, RestoreError> {
        let mut pieces = Vec::new();
        let mut open = Vec::new();
        for (number, part) in manifest.parts.iter().enumerate() {
            if is_there(&dir.join(&part.name), part.bytes) {
                open.push(None);
                continue;
            }
            let before = pieces.len();
            push_pieces(manifest, number, &mut pieces);
            let path = dir.join(format!(".{}", part.name));
            open.push(Some(Open {
                file: create(&path)?,
                path,
                left: AtomicUsize::new(pieces.len() - before),
            }));
        }
        // Packs' companions and the first packs come first.
        pieces.reverse();
        let state = State {
            left: pieces.len(),
            pieces,
            error: None,
        };
        let fetching = Fetching {
            source,
            manifest,
            dir,
            open,
            state: Mutex::new(state),
        };
        for (number, part) in manifest.parts.iter().enumerate() {
            // There is nothing to be asked for.
            if part.bytes == 0 && fetching.open[number].is_some() {
                fetching.end(number)?;
            }
        }
        Ok(fetching)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// What one connection does, until all is there or something fails.
    fn run(&self) {
        let mut conn = None;
        let mut buffer = vec![0; STREAM_READ_BYTES];
        while let Some(piece) = self.claim() {
            let fetched = self.piece(&mut conn, &piece, &mut buffer);
            if let Err(error) = fetched.and_then(|()| self.done(&piece)) {
                self.lock().error.get_or_insert(error);
                return;
            }
        }
    }

    fn claim(&self) -> Option<Piece> {
        let mut state = self.lock();
        let is_over = state.error.is_some() || self.source.link.stop.is_set();
        state.pieces.pop().filter(|_| !is_over)
    }

    /// A piece is there; with the last one of it the part is.
    fn done(&self, piece: &Piece) -> Result<(), RestoreError> {
        let Some(open) = &self.open[piece.part] else {
            return Ok(());
        };
        if open.left.fetch_sub(1, AcqRel) == 1 {
            self.end(piece.part)?;
        }
        self.lock().left -= 1;
        Ok(())
    }

    /// Gives a part its name, if it is what the manifest says.
    fn end(&self, number: usize) -> Result<(), RestoreError> {
        let (part, Some(open)) = (&self.manifest.parts[number], &self.open[number]) else {
            return Ok(());
        };
        if let Some(whole) = part.whole {
            let found = sum(&open.file).map_err(failed("read", &open.path))?;
            if found != whole {
                return Err(corrupt(part, 0));
            }
        }
        let sealed = open.file.set_permissions(PermissionsExt::from_mode(0o444));
        sealed.map_err(failed("seal", &open.path))?;
        fs::rename(&open.path, self.dir.join(&part.name)).map_err(failed("name", &open.path))
    }

    /// Fetches a piece, with as many tries as bring more than a little, and few that bring what is not right.
    fn piece(
        &self,
        conn: &mut Option<Conn<'a>>,
        piece: &Piece,
        buffer: &mut [u8],
    ) -> Result<(), RestoreError> {
        let (mut taken, mut tries, mut corrupted) = (Taken::new(piece), 0, 0);
        loop {
            let before = taken.at;
            let why = match self.try_piece(conn, piece, &mut taken, buffer) {
                Ok(true) => return Ok(()),
                Ok(false) => "the answer ended early".to_owned(),
                Err(Failed::Corrupt(error)) => {
                    corrupted += 1;
                    if corrupted >= CORRUPT_TRIES_MAX {
                        return Err(error);
                    }
                    error.to_string()
                }
                Err(Failed::Segment(SegmentError::Final(error))) => return Err(error),
                Err(Failed::Segment(SegmentError::Again(why))) => why,
            };
            *conn = None;
            let is_much = taken.at.saturating_sub(before) >= PACE_BYTES as u64;
            tries = if is_much { 1 } else { tries + 1 };
            let link = self.source.link;
            if tries >= DOWNLOAD_TRIES_MAX || link.stop.is_set() {
                let (name, at) = (&self.manifest.parts[piece.part].name, taken.at);
                let what = format!("{name} broke at byte {at}, {tries} tries: {why}");
                return Err(RestoreError::Server(what));
            }
            link.progress.resumed();
            pause(link.stop, tries);
        }
    }

    /// One request for what is left of a piece; whether it is whole now.
    fn try_piece(
        &self,
        slot: &mut Option<Conn<'a>>,
        piece: &Piece,
        taken: &mut Taken,
        buffer: &mut [u8],
    ) -> Result<bool, Failed> {
        let (part, Some(open)) = (&self.manifest.parts[piece.part], &self.open[piece.part]) else {
            return Ok(true);
        };
        let link = self.source.link;
        let conn = match slot.take().filter(Conn::is_reusable) {
            Some(conn) => conn,
            None => Conn::open(link)?,
        };
        let conn = slot.insert(conn);
        let Source { base, query, .. } = self.source;
        let target = format!("{base}/parts/{}{query}", part.name);
        let range = format!("bytes={}-{}", taken.at, piece.range.end - 1);
        let fields = [("Range", range.as_str())];
        let answer = conn.ask(&Request::get(&target, &fields), link.stall)?;
        match answer.status {
            206 if answer.content_range() == Some((Some(taken.at), Some(part.bytes))) => {}
            // Another length, or gone: there is another manifest.
            200 | 206 | 404 | 410 | 416 => {
                return Err(SegmentError::Final(RestoreError::Changed).into());
            }
            status if status >= 500 => {
                let text = conn.read_text().unwrap_or_default();
                return Err(SegmentError::Again(format!("{status}: {text}")).into());
            }
            _ => return Err(SegmentError::Final(conn.refused(&answer)).into()),
        }
        while taken.at < piece.range.end {
            let left = usize::try_from(piece.range.end - taken.at).unwrap_or(usize::MAX);
            let want = left.min(buffer.len());
            let got = conn.read(&mut buffer[..want])?;
            if got == 0 {
                return Ok(false);
            }
            link.progress.received(got);
            let written = open.file.write_all_at(&buffer[..got], taken.at);
            written.map_err(|e| SegmentError::Final(RestoreError::disk("write", &open.path, e)))?;
            let sums = &self.manifest.layout.checksums()[piece.sums.clone()];
            if let Err(at) = taken.add(&buffer[..got], piece, sums) {
                return Err(Failed::Corrupt(corrupt(part, at)));
            }
        }
        Ok(true)
    }
}

/// A part is not what the manifest says from `offset` on, or before.
fn corrupt(part: &Part, offset: u64) -> RestoreError {
    let what = format!("{} is not what the manifest says", part.name);
    RestoreError::Corrupt { offset, what }
}

/// Why a request brought no piece.
enum Failed {
    Segment(SegmentError),
    /// What came of it is not right.
    Corrupt(RestoreError),
}

impl From<SegmentError> for Failed {
    fn from(error: SegmentError) -> Failed {
        Failed::Segment(error)
    }
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Failed {
        Failed::Segment(error.into())
    }
}

/// A new file in the place of what an earlier run has left there.
fn create(path: &Path) -> Result<File, RestoreError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed("remove", path)(e)),
        _ => {}
    }
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true).mode(0o600);
    options.open(path).map_err(failed("create", path))
}

/// XXH64 of a whole file.
fn sum(file: &File) -> io::Result<u64> {
    let (mut sum, mut at) = (Xxh64::new(0), 0);
    let mut buffer = vec![0; STREAM_READ_BYTES];
    loop {
        match file.read_at(&mut buffer, at)? {
            0 => return Ok(sum.digest()),
            got => {
                sum.update(&buffer[..got]);
                at += got as u64;
            }
        }
    }
}
