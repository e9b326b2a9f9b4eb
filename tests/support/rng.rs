//! Seeded pseudo-random bytes: the same seed gives the same repository on every machine.

use std::io::Read;

/// SplitMix64: small, fast, and good enough that its bytes do not compress.
#[derive(Debug, Clone)]
pub struct Rng {
    state: u64,
}

impl Rng {
    /// A generator that repeats exactly for the same `seed`.
    pub fn new(seed: u64) -> Self {
        Rng { state: seed }
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `bound` (0 when `bound` is 0). The tiny modulo bias does not matter here.
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 {
            0
        } else {
            self.next_u64() % bound
        }
    }

    /// Overwrites `out` with bytes that no compressor shrinks.
    pub fn fill(&mut self, out: &mut [u8]) {
        for chunk in out.chunks_mut(8) {
            let bytes = self.next_u64().to_le_bytes();
            chunk.copy_from_slice(&bytes[..chunk.len()]);
        }
    }

    /// `len` bytes that no compressor shrinks.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        self.fill(&mut out);
        out
    }

    /// About `len` bytes that look like source text: lines of words from a small vocabulary,
    /// so they compress roughly as code does.
    pub fn text(&mut self, len: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(len + 16);
        let mut column = 0;
        while out.len() < len {
            let word = self.below(4096) * self.below(3).max(1);
            out.extend_from_slice(format!("w{word:x}").as_bytes());
            column += 1;
            let separator = if column % 11 == 0 { b'\n' } else { b' ' };
            out.push(separator);
        }
        out.truncate(len.max(1) - 1);
        out.push(b'\n');
        out
    }
}

/// Endless random bytes as a reader; bound it with [`Read::take`].
impl Read for Rng {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        self.fill(out);
        Ok(out.len())
    }
}
