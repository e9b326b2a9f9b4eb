//! The manifest as a file, and in the one zstd frame in which it is kept and sent.

use zstd_safe::{CCtx, CParameter, DCtx, DParameter, InBuffer, OutBuffer};

use super::{Input, MetaError, Wire, seal, unseal};
use crate::extent::Layout;
use crate::limits::{MANIFEST_BYTES_MAX, MANIFEST_STEP_BYTES, MANIFEST_WINDOW_LOG_MAX};
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

    /// The file in its frame; `None` if it is longer than anybody reads, or there is no memory for it.
    #[must_use]
    pub fn pack(&self) -> Option<Vec<u8>> {
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
    pub fn unpack(sent: &[u8]) -> Result<Manifest, UnpackError> {
        Ok(Manifest::decode(&unframed(sent)?)?)
    }
}

/// The content of one frame, and nothing behind it.
fn unframed(sent: &[u8]) -> Result<Vec<u8>, UnpackError> {
    let failed = |offset, detail| UnpackError::Frame { offset, detail };
    let no_memory = failed(0, "there is no memory for a decoder");
    let mut context = DCtx::try_create().ok_or(no_memory)?;
    let window = DParameter::WindowLogMax(MANIFEST_WINDOW_LOG_MAX);
    let set = context.set_parameter(window);
    set.map_err(|code| failed(0, zstd_safe::get_error_name(code)))?;
    let (mut file, mut step) = (Vec::new(), vec![0; MANIFEST_STEP_BYTES]);
    let mut input = InBuffer::around(sent);
    loop {
        let before = input.pos();
        let mut output = OutBuffer::around(step.as_mut_slice());
        let left = context
            .decompress_stream(&mut output, &mut input)
            .map_err(|code| failed(before, zstd_safe::get_error_name(code)))?;
        let got = output.pos();
        let made = &step[..got];
        if file.len() + made.len() > MANIFEST_BYTES_MAX {
            return Err(UnpackError::TooLong { offset: before });
        }
        let is_stuck = made.is_empty() && input.pos() == before;
        file.extend_from_slice(made);
        match left {
            0 if input.pos() == sent.len() => return Ok(file),
            0 => return Err(failed(input.pos(), "something stands behind the frame")),
            _ if is_stuck => return Err(failed(input.pos(), "the frame ends too early")),
            _ => {}
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
wire_struct!(Part {
    name: String,
    bytes: u64,
    whole: Option<u64>,
});
wire_struct!(Section {
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
