//! The manifest as a file, and in the one zstd frame in which it is kept and sent.

use std::borrow::Cow;

use sha2::{Digest, Sha256};
use zstd_safe::{CCtx, CParameter, DCtx, DParameter, InBuffer, OutBuffer};

use super::{DIGEST_BYTES, Header, Input, MetaError, Wire, seal, take_all, unseal};
use crate::extent::Layout;
use crate::limits::{
    MANIFEST_BYTES_MAX, MANIFEST_HELD_BYTES_MAX, MANIFEST_SENT_BYTES_MAX, MANIFEST_STEP_BYTES,
    MANIFEST_TEXT_BYTES_MAX, MANIFEST_WINDOW_LOG_MAX, PART_HELD_BYTES, SECTION_HELD_BYTES,
};
use crate::manifest::id::EntryId;
use crate::manifest::parts::{Contents, Manifest, Part, Section};
use crate::manifest::want::Want;

const MAGIC: [u8; 8] = *b"tarponm\n";
/// A few KB of numbers and random names: more effort gains nothing.
const LEVEL: i32 = 3;

/// Why bytes are no manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnpackError {
    #[error("at offset {offset} of what was sent: {detail}")]
    Frame { offset: usize, detail: &'static str },
    #[error("at offset {offset} of what was sent: more than {MANIFEST_BYTES_MAX} bytes come of it")]
    TooLong { offset: usize },
    #[error(transparent)]
    Manifest(#[from] MetaError),
}

impl Manifest {
    /// The bytes of the file.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        seal(MAGIC, self)
    }

    /// Reads the file. Any bytes give a manifest that holds every invariant, or an error.
    pub fn decode(bytes: &[u8]) -> Result<Manifest, MetaError> {
        let manifest: Manifest = unseal(MAGIC, bytes)?;
        match manifest.check() {
            Ok(()) => Ok(manifest),
            Err(source) => Err(MetaError::Manifest { offset: 0, source }),
        }
    }

    /// The file in its frame; `None` if it is more than anybody reads, or there is no memory for it.
    #[must_use]
    pub fn pack(&self) -> Option<Vec<u8>> {
        if self.held_bytes() > MANIFEST_HELD_BYTES_MAX {
            return None;
        }
        let file = self.encode();
        if file.len() > MANIFEST_BYTES_MAX {
            return None;
        }
        let mut context = CCtx::try_create()?;
        let mut frame = Vec::with_capacity(zstd_safe::compress_bound(file.len()));
        for parameter in [
            CParameter::CompressionLevel(LEVEL),
            CParameter::ChecksumFlag(true),
            CParameter::WindowLog(MANIFEST_WINDOW_LOG_MAX),
        ] {
            context.set_parameter(parameter).ok()?;
        }
        context.compress2(&mut frame, &file).ok()?;
        Some(frame)
    }

    /// Reads what [`Manifest::pack`] has made. Any bytes give a manifest that holds every invariant, or an error;
    /// whatever they claim, memory is taken for what comes of them only, and for no more than anybody writes.
    pub fn unpack(mut sent: &[u8]) -> Result<Manifest, UnpackError> {
        Manifest::unpack_from(&mut |into| {
            let (now, later) = sent.split_at(into.len().min(sent.len()));
            into[..now.len()].copy_from_slice(now);
            sent = later;
            now.len()
        })
    }

    /// The same of what comes piece by piece: `read` gives so many bytes as it says, and none at the end. It is read as it
    /// comes, and believed once its digest has.
    pub fn unpack_from(read: &mut dyn FnMut(&mut [u8]) -> usize) -> Result<Manifest, UnpackError> {
        let mut stream = Unframed::new(read)?;
        let manifest = stream.manifest();
        match stream.failure.take() {
            Some(failure) => Err(failure),
            None => manifest,
        }
    }
}

/// The content of one frame, as it comes.
struct Unframed<'r> {
    context: DCtx<'static>,
    read: &'r mut dyn FnMut(&mut [u8]) -> usize,
    /// `got` bytes of the frame that came, of which `used` were decompressed; what lies behind them is of before.
    sent: Vec<u8>,
    got: usize,
    used: usize,
    /// Where it is decompressed to.
    step: Vec<u8>,
    /// So much came before that.
    before: usize,
    /// How much has come of the frame's content.
    content_bytes: usize,
    is_over: bool,
    /// Of all but the last bytes, which are the digest once all has come.
    hasher: Sha256,
    last: Vec<u8>,
    failure: Option<UnpackError>,
}

impl<'r> Unframed<'r> {
    fn new(read: &'r mut dyn FnMut(&mut [u8]) -> usize) -> Result<Self, UnpackError> {
        let failed = |detail| UnpackError::Frame { offset: 0, detail };
        let no_memory = failed("there is no memory for a decoder");
        let mut context = DCtx::try_create().ok_or(no_memory)?;
        let window = DParameter::WindowLogMax(MANIFEST_WINDOW_LOG_MAX);
        let set = context.set_parameter(window);
        set.map_err(|code| failed(zstd_safe::get_error_name(code)))?;
        Ok(Unframed {
            context,
            read,
            sent: vec![0; MANIFEST_STEP_BYTES],
            got: 0,
            step: vec![0; MANIFEST_STEP_BYTES],
            used: 0,
            before: 0,
            content_bytes: 0,
            is_over: false,
            hasher: Sha256::new(),
            last: Vec::new(),
            failure: None,
        })
    }

    /// Adds what comes next of the content: nothing once it is over, or has failed.
    fn more(&mut self, into: &mut Vec<u8>) {
        if self.failure.is_none()
            && let Err(failure) = self.next(into)
        {
            self.failure = Some(failure);
        }
    }

    fn next(&mut self, into: &mut Vec<u8>) -> Result<(), UnpackError> {
        let mut got = 0;
        while got == 0 && !self.is_over {
            if self.used == self.got {
                self.receive()?;
            }
            let offset = self.before + self.used;
            let frame = |detail| UnpackError::Frame { offset, detail };
            let mut input = InBuffer::around(&self.sent[self.used..self.got]);
            let mut output = OutBuffer::around(&mut self.step[..]);
            let done = self.context.decompress_stream(&mut output, &mut input);
            let left = done.map_err(|code| frame(zstd_safe::get_error_name(code)))?;
            (got, self.is_over) = (output.pos(), left == 0);
            if got == 0 && input.pos() == 0 && !self.is_over {
                return Err(frame("the frame ends too early"));
            }
            self.used += input.pos();
        }
        into.extend_from_slice(&self.step[..got]);
        self.content_bytes += got;
        if self.content_bytes > MANIFEST_BYTES_MAX {
            let offset = self.before + self.used;
            return Err(UnpackError::TooLong { offset });
        }
        self.last.extend_from_slice(&self.step[..got]);
        let hashed = self.last.len().saturating_sub(DIGEST_BYTES);
        self.hasher.update(&self.last[..hashed]);
        self.last.drain(..hashed);
        Ok(())
    }

    /// Has the next piece of the frame come, if there is one.
    fn receive(&mut self) -> Result<(), UnpackError> {
        self.before += self.used;
        self.used = 0;
        self.got = (self.read)(&mut self.sent).min(MANIFEST_STEP_BYTES);
        let offset = self.before;
        match offset + self.got > MANIFEST_SENT_BYTES_MAX {
            true => Err(UnpackError::TooLong { offset }),
            false => Ok(()),
        }
    }

    /// Reads the manifest that the content is, and nothing behind it.
    fn manifest(&mut self) -> Result<Manifest, UnpackError> {
        let mut more = |into: &mut Vec<u8>| self.more(into);
        let mut input = Input {
            window: Cow::Owned(Vec::new()),
            taken: 0,
            at: 0,
            left: Header::BYTES_MIN,
            more: Some(&mut more),
            room_bytes: MANIFEST_HELD_BYTES_MAX,
            text_bytes_max: MANIFEST_TEXT_BYTES_MAX,
        };
        let header = Header::take(&mut input)?;
        if header.magic != MAGIC {
            return Err(MetaError::Magic.into());
        }
        header.check_version()?;
        // More never comes.
        input.left = usize::try_from(header.payload_bytes).unwrap_or(usize::MAX);
        let length_at = header.offset_of("payload_bytes");
        if input.left > MANIFEST_BYTES_MAX {
            return Err(UnpackError::TooLong { offset: length_at });
        }
        let manifest: Manifest = take_all(&mut input)?;
        drop(input);
        self.end()?;
        let sealed = self.content_bytes.saturating_sub(DIGEST_BYTES);
        let present = sealed.saturating_sub(Header::BYTES_MIN);
        if header.payload_bytes != present as u64 {
            let (offset, stated) = (length_at, header.payload_bytes);
            return Err(MetaError::PayloadLength {
                offset,
                stated,
                present,
            }
            .into());
        }
        if self.hasher.finalize_reset()[..] != self.last {
            return Err(MetaError::Digest { offset: sealed }.into());
        }
        match manifest.check() {
            Ok(()) => Ok(manifest),
            Err(source) => Err(MetaError::Manifest { offset: 0, source }.into()),
        }
    }

    /// Has all of the content come, behind which nothing is sent.
    fn end(&mut self) -> Result<(), UnpackError> {
        let mut rest = Vec::new();
        while !self.is_over {
            rest.clear();
            self.next(&mut rest)?;
        }
        if self.used == self.got {
            self.receive()?;
        }
        match self.got == self.used {
            true => Ok(()),
            false => Err(UnpackError::Frame {
                offset: self.before + self.used,
                detail: "something stands behind the frame",
            }),
        }
    }
}

wire_struct!(Manifest {
    id: EntryId,
    want: Want,
    commit: Option<String>,
    parts: Vec<Part>,
    sections: Vec<Section>,
    layout: Layout,
});
wire_struct!(Part (PART_HELD_BYTES) {
    name: String,
    bytes: u64,
    whole: Option<u64>,
});
wire_struct!(Section (SECTION_HELD_BYTES) {
    contents: Contents,
    from: u64,
});

impl Wire for Contents {
    const BYTES_MIN: usize = u8::BYTES_MIN;
    fn put(&self, out: &mut Vec<u8>) {
        let number: u8 = match self {
            Contents::GitDir => 0,
            Contents::Refs => 1,
            Contents::Packs => 2,
            Contents::Worktree => 3,
            Contents::Index => 4,
            Contents::End => 5,
        };
        number.put(out);
    }
    fn take(input: &mut Input<'_>) -> Result<Self, MetaError> {
        let offset = input.at;
        Ok(match u8::take(input)? {
            0 => Contents::GitDir,
            1 => Contents::Refs,
            2 => Contents::Packs,
            3 => Contents::Worktree,
            4 => Contents::Index,
            5 => Contents::End,
            _ => {
                return Err(MetaError::Value {
                    offset,
                    expected: "contents that are known",
                });
            }
        })
    }
}

#[cfg(test)]
mod tests;
