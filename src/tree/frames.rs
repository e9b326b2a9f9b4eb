//! Compressed zstd frames (RFC 8878): each independent of the others, with content size and
//! checksum, so that any decoder checks every byte and frames can be decoded in parallel.

use zstd_safe::{CCtx, CParameter};

use crate::limits::ENCODER_KEPT_BYTES;

/// A frame could not be made.
#[derive(Debug, thiserror::Error)]
#[error("zstd could not {step}: {detail}")]
pub struct FrameError {
    step: &'static str,
    detail: &'static str,
}

fn failed(step: &'static str) -> impl Fn(usize) -> FrameError {
    move |code| FrameError {
        step,
        detail: zstd_safe::get_error_name(code),
    }
}

/// A reusable encoder of frames at one level.
pub struct Compressor {
    context: CCtx<'static>,
    level: i32,
    /// Where zstd writes; kept, so that its memory is not zeroed for each frame.
    frame: Vec<u8>,
}

impl Compressor {
    /// An encoder; `None` if memory for it could not be had.
    pub fn new() -> Option<Compressor> {
        let context = CCtx::try_create()?;
        Some(Compressor {
            context,
            level: 0,
            frame: Vec::new(),
        })
    }

    /// Appends to `out` one frame that holds `data`, compressed at `level`.
    pub fn push_frame(
        &mut self,
        level: i32,
        data: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), FrameError> {
        if self.level != level {
            let set = |context: &mut CCtx<'_>, parameter| context.set_parameter(parameter);
            set(&mut self.context, CParameter::CompressionLevel(level))
                .map_err(failed("set the level"))?;
            set(&mut self.context, CParameter::ChecksumFlag(true))
                .map_err(failed("turn on checksums"))?;
            self.level = level;
        }
        self.frame.clear();
        self.frame.reserve(zstd_safe::compress_bound(data.len()));
        self.context
            .compress2(&mut self.frame, data)
            .map_err(failed("compress a frame"))?;
        out.extend_from_slice(&self.frame);
        if self.frame.capacity() > ENCODER_KEPT_BYTES {
            self.frame = Vec::new();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Something like source text: repetitive, but not the same everywhere.
    fn text(bytes: usize) -> Vec<u8> {
        let mut state = 1u64;
        let mut out = Vec::new();
        while out.len() < bytes {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            out.extend_from_slice(format!("word{} ", (state >> 33) % 5000).as_bytes());
        }
        out
    }

    #[test]
    fn a_large_frame_leaves_little_memory() {
        let mut compressor = Compressor::new().unwrap();
        for (bytes, is_kept) in [(ENCODER_KEPT_BYTES / 2, true), (ENCODER_KEPT_BYTES, false)] {
            let data = vec![0; bytes];
            compressor.push_frame(1, &data, &mut Vec::new()).unwrap();
            let kept = compressor.frame.capacity();
            assert_eq!(kept > 0, is_kept, "{kept} bytes");
        }
    }

    #[test]
    fn a_frame_does_not_depend_on_the_frames_before_it() {
        let data = text(1 << 18);
        // One level at least of each strategy up to 19 that a frame of this size can get.
        for level in [1, 3, 5, 6, 9, 12, 16, 19] {
            let mut used = Compressor::new().unwrap();
            let mut first = Vec::new();
            used.push_frame(level, &data, &mut first).unwrap();
            for other in [&data[7..100_000], &data[1..], &data[..10]] {
                used.push_frame(level, other, &mut Vec::new()).unwrap();
            }
            let mut again = Vec::new();
            used.push_frame(level, &data, &mut again).unwrap();
            assert!(
                first == again,
                "level {level}: {} and {} bytes",
                first.len(),
                again.len()
            );
        }
    }
}
