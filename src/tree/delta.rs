//! Deltas: what one object is made of another with.
//!
//! Format: git's `Documentation/gitformat-pack.txt`, "Deltified representation".

use crate::limits::DELTA_UNCHECKED_BYTES;

/// A delta (gitformat-pack(5), "Deltified representation").
pub(crate) struct Delta<'d> {
    base_bytes: u64,
    pub(crate) result_bytes: u64,
    instructions: &'d [u8],
}

impl Delta<'_> {
    pub(crate) fn parse(delta: &[u8]) -> Option<Delta<'_>> {
        let (base_bytes, rest) = take_size(delta)?;
        let (result_bytes, instructions) = take_size(rest)?;
        Some(Delta {
            base_bytes,
            result_bytes,
            instructions,
        })
    }

    /// How many bytes the instructions make.
    pub(super) fn made_bytes(&self) -> Option<u64> {
        let (mut made, mut rest) = (0u64, self.instructions);
        while let Some((&instruction, tail)) = rest.split_first() {
            let len;
            (len, rest) = match instruction {
                0 => return None,
                1..0x80 => (instruction.into(), tail.get(instruction.into()..)?),
                _ => {
                    let (_, tail) = take_bytes(instruction, 0..4, tail)?;
                    let (len, tail) = take_bytes(instruction, 4..7, tail)?;
                    (if len == 0 { 0x10000 } else { len }, tail)
                }
            };
            made = made.checked_add(len as u64)?;
        }
        Some(made)
    }

    /// Whether it is of something that has so many bytes.
    fn is_of(&self, base: &[u8]) -> bool {
        self.base_bytes == base.len() as u64
    }

    /// Appends the result to `out`; `None` if the delta does not fit `base` or makes anything but
    /// as many bytes as it says.
    pub(crate) fn apply(&self, base: &[u8], out: &mut Vec<u8>) -> Option<()> {
        let mut left = usize::try_from(self.result_bytes).ok()?;
        let is_odd = left > DELTA_UNCHECKED_BYTES && self.made_bytes() != Some(self.result_bytes);
        if !self.is_of(base) || is_odd {
            return None;
        }
        // No more than is needed: what is kept is counted by what was allocated.
        out.try_reserve_exact(left).ok()?;
        let mut rest = self.instructions;
        while !rest.is_empty() {
            let data;
            (data, rest) = next_piece(base, rest)?;
            left = left.checked_sub(data.len())?;
            out.extend_from_slice(data);
        }
        (left == 0).then_some(())
    }

    /// The pieces that the result is made of; `None` in the place of one that does not fit `base`, and at the end if
    /// they are not as many bytes as it says.
    pub(crate) fn pieces<'b>(&self, base: &'b [u8]) -> impl Iterator<Item = Option<&'b [u8]>>
    where
        Self: 'b,
    {
        let fits = self.is_of(base);
        let (mut left, mut rest) = (self.result_bytes, self.instructions);
        let mut has_failed = false;
        std::iter::from_fn(move || {
            if has_failed || fits && left == 0 && rest.is_empty() {
                return None;
            }
            let next = match fits {
                true => next_piece(base, rest),
                false => None,
            };
            let piece = next.and_then(|(piece, tail)| {
                rest = tail;
                left = left.checked_sub(piece.len() as u64)?;
                Some(piece)
            });
            has_failed = piece.is_none();
            Some(piece)
        })
    }
}

/// What the first of `instructions` makes of `base`, and what follows it.
#[inline(always)]
fn next_piece<'b>(base: &'b [u8], instructions: &'b [u8]) -> Option<(&'b [u8], &'b [u8])> {
    let (&instruction, tail) = instructions.split_first()?;
    match instruction {
        0 => None,
        1..0x80 => tail.split_at_checked(instruction.into()),
        _ => {
            let (offset, tail) = take_bytes(instruction, 0..4, tail)?;
            let (len, tail) = take_bytes(instruction, 4..7, tail)?;
            let len = if len == 0 { 0x10000 } else { len };
            Some((base.get(offset..offset.checked_add(len)?)?, tail))
        }
    }
}

/// Reads a size: seven bits a byte, the lowest first, as long as the highest bit is set.
fn take_size(mut bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (mut size, mut shift) = (0u64, 0);
    loop {
        let (&byte, rest) = bytes.split_first()?;
        let bits = u64::from(byte & 0x7f);
        if shift >= u64::BITS || bits << shift >> shift != bits {
            return None;
        }
        size |= bits << shift;
        shift += 7;
        bytes = rest;
        if byte < 0x80 {
            return Some((size, rest));
        }
    }
}

/// Reads the number whose bytes are there if the `bits` of `instruction` are set, lowest first.
fn take_bytes(
    instruction: u8,
    bits: std::ops::Range<u32>,
    mut bytes: &[u8],
) -> Option<(usize, &[u8])> {
    let mut number = 0;
    for (place, bit) in bits.enumerate() {
        if instruction & 1 << bit != 0 {
            let (&byte, rest) = bytes.split_first()?;
            number |= usize::from(byte) << (8 * place);
            bytes = rest;
        }
    }
    Some((number, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_taken_only_for_what_the_instructions_make() {
        for result_bytes in [1 << 40, 1 << 62, u64::MAX] {
            let delta = Delta {
                base_bytes: 4,
                result_bytes,
                instructions: &[0x90, 4, 1, b'a'],
            };
            assert_eq!(delta.made_bytes(), Some(5));
            assert_eq!(delta.apply(b"base", &mut Vec::new()), None);
            let pieces: Vec<_> = delta.pieces(b"base").collect();
            assert_eq!(pieces, [Some(&b"base"[..]), Some(b"a"), None]);
        }
    }

    #[test]
    fn deltas_that_do_not_fit_are_refused() {
        let apply = |bytes: &[u8], base: &[u8]| {
            let mut out = b"x".to_vec();
            let delta = Delta::parse(bytes)?;
            let applied = delta.apply(base, &mut out);
            let pieces: Option<Vec<&[u8]>> = delta.pieces(base).collect();
            assert_eq!(pieces.is_some(), applied.is_some());
            assert!(pieces.is_none_or(|pieces| pieces.concat() == out[1..]));
            applied.map(|()| out)
        };
        let base = b"0123456789";
        assert_eq!(apply(&[10, 3, 0x91, 4, 2, 1, b'a'], base).unwrap(), b"x45a");
        // A length of zero means 64 KiB.
        let long = vec![7; 0x10000];
        let whole = apply(&[0x80, 0x80, 4, 0x80, 0x80, 4, 0x80], &long).unwrap();
        assert_eq!(whole[1..], long);
        for (what, delta) in [
            ("empty", &[][..]),
            ("no result size", &[10]),
            ("base of another size", &[9, 1, 1, b'a']),
            ("reserved instruction", &[10, 1, 0]),
            ("insert cut short", &[10, 3, 3, b'a', b'b']),
            ("copy without its offset", &[10, 1, 0x91]),
            ("copy from behind the base", &[10, 3, 0x91, 8, 3]),
            ("result too long", &[10, 1, 2, b'a', b'b']),
            ("result too short", &[10, 3, 2, b'a', b'b']),
            ("size of more than 64 bits", &[0xff; 12]),
        ] {
            assert_eq!(apply(delta, base), None, "{what}");
        }
    }
}
