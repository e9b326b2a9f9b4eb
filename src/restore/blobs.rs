//! The blobs that a worktree is made of, from packs and loose files: small ones are held, others go past piece by
//! piece, and what a large one is put together from lies in files without names ([`super::spill`]).
//!
//! A blob is proven if the sum of each copy that there is of it is its id: git takes it from whichever pack has it.
//! The sum is plain: what is made to have the sum of another is found by git wherever it takes objects.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gix::hash::{Kind, oid};
use gix::objs::{Data, Find};

use super::content::{Fault, Reader, Work};
use super::error::{RestoreError, failed as failed_to};
use super::objects::{failed, refused};
use super::sink::{Nothing, Sink};
use super::spill::{Spill, Spilled};
use super::stop::Stop;
use crate::limits::{
    BASES_BYTES, HELD_BLOB_BYTES, HELD_BLOB_BYTES_MAX, TREE_WORK_BYTES_MIN,
    TREE_WORK_PER_PACK_BYTE, WORKTREE_WORKERS_MAX,
};
use crate::tree::bases::Bases;
use crate::tree::decoder::{Chain, Decoder, Packs, Stream};
use crate::tree::delta::Delta;
use crate::tree::sum::Sum;

/// The blobs of a repository, for all threads.
pub(super) struct Blobs<'b> {
    packs: Arc<Packs>,
    objects: PathBuf,
    hash: Kind,
    spill: Spill<'b>,
    stop: &'b Stop,
    is_proven: bool,
    /// The largest that is held.
    held_bytes: u64,
    /// What a reader keeps for deltas that follow.
    bases_bytes: usize,
    /// Whether there are loose objects.
    has_loose: bool,
}

impl<'b> Blobs<'b> {
    /// Those of `packs`, and loose ones of the repository at `tree`, each of which is to be proven or is believed, for so
    /// many `workers`.
    pub(super) fn of(
        packs: Arc<Packs>,
        tree: &Path,
        hash: Kind,
        spill: Spill<'b>,
        (is_proven, workers): (bool, usize),
        stop: &'b Stop,
    ) -> Result<Blobs<'b>, RestoreError> {
        let git = tree.join(".git");
        let objects = git.join("objects");
        let listing = std::fs::read_dir(&objects).map_err(failed_to("read", &objects))?;
        let is_fan = |entry: &std::fs::DirEntry| entry.file_name().len() == 2;
        Ok(Blobs {
            packs,
            has_loose: listing.flatten().any(|entry| is_fan(&entry)),
            objects,
            hash,
            spill,
            stop,
            is_proven,
            bases_bytes: BASES_BYTES / workers.max(1),
            held_bytes: (HELD_BLOB_BYTES * WORKTREE_WORKERS_MAX as u64 / workers.max(1) as u64)
                .min(HELD_BLOB_BYTES_MAX),
        })
    }

    /// Behind what the blob `id` lies: which pack, and what byte of it. Of one that is to be proven, its last copy counts.
    pub(super) fn place(&self, id: &oid) -> Option<(usize, u64)> {
        let mut places = self.packs.places(id);
        match self.is_proven {
            true => places.last(),
            false => places.next(),
        }
    }

    /// For one thread.
    pub(super) fn reader(&self) -> BlobReader<'_> {
        let work = self.packs.bytes().saturating_mul(TREE_WORK_PER_PACK_BYTE);
        BlobReader {
            blobs: self,
            decoder: Decoder::new(),
            bases: Bases::new(self.bases_bytes),
            reader: Reader::default(),
            work: Work::new(work.saturating_add(TREE_WORK_BYTES_MIN), self.stop),
            held: Vec::new(),
        }
    }

    /// The file of a loose one.
    fn loose(&self, id: &oid) -> Result<Option<BufReader<File>>, RestoreError> {
        if !self.has_loose {
            return Ok(None);
        }
        let hex = id.to_string();
        let path = self.objects.join(&hex[..2]).join(&hex[2..]);
        match File::open(&path) {
            Ok(file) => Ok(Some(BufReader::new(file))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(RestoreError::disk("open", path, e)),
        }
    }
}

/// Reads blobs.
pub(super) struct BlobReader<'b> {
    blobs: &'b Blobs<'b>,
    decoder: Decoder,
    bases: Bases<'b>,
    reader: Reader,
    work: Work<'b>,
    /// The one that was held last.
    pub held: Vec<u8>,
}

impl<'b> BlobReader<'b> {
    /// Holds the blob `id`; `false` if that is not for this way, which is what large ones are.
    pub(super) fn hold(&mut self, id: &oid) -> Result<bool, RestoreError> {
        let mut is_held = false;
        let blobs = self.blobs;
        if blobs.is_proven && blobs.has_loose {
            return Ok(false);
        }
        for found in blobs.packs.copies(id) {
            self.held.clear();
            let (decoder, held) = (&mut self.decoder, &mut self.held);
            let kind = gix::objs::Kind::Blob;
            let max = blobs.held_bytes;
            let bases = Some(&mut self.bases);
            let pushed = found.push(kind, max, decoder, held, &|_, _| (), bases);
            // Few bytes of a pack may be much work.
            let made = usize::try_from(self.decoder.take_made_bytes()).unwrap_or(usize::MAX);
            let taken = self.work.take(made);
            taken.map_err(|fault| failed(id.to_owned(), fault))?;
            match pushed {
                Ok(Some(_)) => is_held = true,
                Ok(None) => return Ok(false),
                // Another copy may be sound, unless all have to be.
                Err(_) if !blobs.is_proven => continue,
                Err(e) => return Err(refused("blob", id.to_owned(), e.to_string())),
            }
            if !blobs.is_proven {
                break;
            }
            let mut proof = Proof::begin(id, self.held.len() as u64);
            proof.sum.update(&self.held);
            proof.finish()?;
        }
        Ok(is_held)
    }

    /// Gives the blob `id` to `sink`.
    pub(super) fn stream(&mut self, id: &oid, sink: &mut dyn Sink) -> Result<(), RestoreError> {
        let mut is_there = false;
        let blobs = self.blobs;
        for found in blobs.packs.copies(id) {
            let chain = found.chain();
            let chain = chain.map_err(|e| refused("blob", id.to_owned(), e.to_string()))?;
            let chain = chain.filter(|chain| chain.kind == gix::objs::Kind::Blob);
            let why = "its entry in a pack leads to no blob";
            let chain = chain.ok_or_else(|| refused("blob", id.to_owned(), why.into()))?;
            let mut nothing = Nothing;
            let sink = if is_there {
                &mut nothing as &mut dyn Sink
            } else {
                &mut *sink
            };
            let streamed = match blobs.is_proven {
                false => self.chain(chain, sink),
                true => {
                    let mut proving = Proving {
                        id,
                        sink,
                        proof: None,
                    };
                    let streamed = self.chain(chain, &mut proving);
                    streamed.and_then(|()| Ok(proving.finish()?))
                }
            };
            streamed.map_err(|fault| failed(id.to_owned(), fault))?;
            is_there = true;
            if !blobs.is_proven {
                break;
            }
        }
        if is_there && !blobs.is_proven {
            return Ok(());
        }
        let mut nothing = Nothing;
        let sink = if is_there {
            &mut nothing as &mut dyn Sink
        } else {
            sink
        };
        match blobs.loose(id)? {
            Some(file) => self.loose(id, file, sink),
            None if is_there => Ok(()),
            None => Err(refused("blob", id.to_owned(), "it is not there".into())),
        }
    }

    /// The same of one that `file` has.
    fn loose(
        &mut self,
        id: &oid,
        file: BufReader<File>,
        sink: &mut dyn Sink,
    ) -> Result<(), RestoreError> {
        let read = match self.blobs.is_proven {
            false => self.reader.loose_blob(file, &self.work, sink),
            true => {
                let mut proving = Proving {
                    id,
                    sink,
                    proof: None,
                };
                let read = self.reader.loose_blob(file, &self.work, &mut proving);
                read.and_then(|()| Ok(proving.finish()?))
            }
        };
        read.map_err(|fault| failed(id.to_owned(), fault))
    }

    /// Looks at the blob `id`, and does nothing with it.
    pub(super) fn look(&mut self, id: &oid) -> Result<(), RestoreError> {
        match self.hold(id)? {
            true => Ok(()),
            false => self.stream(id, &mut Nothing),
        }
    }

    /// The blob `id` as a whole, in memory that is not the process's own.
    pub(super) fn spilled(&mut self, id: &oid) -> Result<Spilled, RestoreError> {
        let mut spilling = self.blobs.spill.begin()?;
        self.stream(id, &mut spilling)?;
        spilling.finish()
    }

    fn chain(&mut self, mut chain: Chain<'_>, sink: &mut dyn Sink) -> Result<(), Fault> {
        let Some(last) = (!chain.deltas.is_empty()).then(|| chain.deltas.remove(0)) else {
            let base = chain.base;
            return self
                .reader
                .stream(base.deflated(), base.size, &self.work, sink);
        };
        let mut base = self.spill_stream(chain.base)?;
        while let Some(stream) = chain.deltas.pop() {
            let mut result = self.blobs.spill.begin()?;
            self.apply(&base, stream, &mut result)?;
            base = result.finish()?;
        }
        self.apply(&base, last, sink)
    }

    fn spill_stream(&mut self, stream: Stream<'_>) -> Result<Spilled, Fault> {
        let mut spilling = self.blobs.spill.begin()?;
        let wire = stream.deflated();
        self.reader
            .stream(wire, stream.size, &self.work, &mut spilling)?;
        Ok(spilling.finish()?)
    }

    /// Gives `sink` what the delta that `stream` holds makes of `base`.
    fn apply(&mut self, base: &[u8], stream: Stream<'_>, sink: &mut dyn Sink) -> Result<(), Fault> {
        let delta = self.spill_stream(stream)?;
        let delta = Delta::parse(&delta).ok_or(Fault::Content("a delta has no size"))?;
        sink.begin(delta.result_bytes)?;
        for piece in delta.pieces(base) {
            let piece = piece.ok_or(Fault::Content("a delta does not fit what it is one of"))?;
            self.work.take(piece.len())?;
            sink.piece(piece)?;
        }
        Ok(())
    }
}

/// Whether what goes past is what an id says.
struct Proof<'i> {
    id: &'i oid,
    sum: Sum,
}

impl<'i> Proof<'i> {
    fn begin(id: &'i oid, bytes: u64) -> Proof<'i> {
        let mut sum = Sum::new(id.kind());
        sum.update(&gix::objs::encode::loose_header(
            gix::objs::Kind::Blob,
            bytes,
        ));
        Proof { id, sum }
    }

    fn finish(self) -> Result<(), RestoreError> {
        match self.sum.finish() == self.id.as_bytes() {
            true => Ok(()),
            false => Err(refused(
                "blob",
                self.id.to_owned(),
                "it is another object".into(),
            )),
        }
    }
}

/// A sink whose content is looked at on its way.
struct Proving<'p> {
    id: &'p oid,
    sink: &'p mut dyn Sink,
    proof: Option<Proof<'p>>,
}

impl Proving<'_> {
    fn finish(self) -> Result<(), RestoreError> {
        self.proof.map_or(Ok(()), Proof::finish)
    }
}

impl Sink for Proving<'_> {
    fn begin(&mut self, bytes: u64) -> Result<(), RestoreError> {
        self.proof = Some(Proof::begin(self.id, bytes));
        self.sink.begin(bytes)
    }

    fn piece(&mut self, piece: &[u8]) -> Result<(), RestoreError> {
        if let Some(proof) = &mut self.proof {
            proof.sum.update(piece);
        }
        self.sink.piece(piece)
    }
}

/// Blobs that say which conversions files go through.
pub(super) struct Attributes<'b> {
    reader: RefCell<BlobReader<'b>>,
    max_bytes: usize,
}

impl<'b> Attributes<'b> {
    /// None of them larger than `max_bytes`.
    pub(super) fn of(blobs: &'b Blobs<'b>, max_bytes: usize) -> Attributes<'b> {
        let reader = RefCell::new(blobs.reader());
        Attributes { reader, max_bytes }
    }
}

impl Find for Attributes<'_> {
    fn try_find<'a>(
        &self,
        id: &oid,
        buffer: &'a mut Vec<u8>,
    ) -> gix::error::Result<Option<Data<'a>>> {
        let mut reader = self.reader.borrow_mut();
        buffer.clear();
        let max_bytes = self.max_bytes;
        let mut held = Held { buffer, max_bytes };
        let read = reader.stream(id, &mut held);
        read.map_err(|e| gix::error::Error::from(gix::error::Exn::new(e)))?;
        let object_hash = reader.blobs.hash;
        Ok(Some(Data {
            kind: gix::objs::Kind::Blob,
            object_hash,
            data: buffer,
        }))
    }
}

/// What is held.
struct Held<'v> {
    buffer: &'v mut Vec<u8>,
    max_bytes: usize,
}

impl Sink for Held<'_> {
    fn begin(&mut self, bytes: u64) -> Result<(), RestoreError> {
        match bytes <= self.max_bytes as u64 {
            true => Ok(()),
            false => Err(RestoreError::entry(b".gitattributes", "it is too large")),
        }
    }

    fn piece(&mut self, piece: &[u8]) -> Result<(), RestoreError> {
        self.buffer.extend_from_slice(piece);
        Ok(())
    }
}
