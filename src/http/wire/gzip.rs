//! `Content-Encoding: gzip` of request bodies (RFC 1952), as git sends large requests.

use zlib_rs::{Inflate, InflateFlush, Status};

use super::Reject;

const MALFORMED: Reject = Reject::new(400, "the request body is not gzip, or not all of it");

/// Window size that zlib takes for a gzip header in front of the largest window.
const GZIP_WINDOW: u8 = 16 + 15;
/// Header, trailer and an empty block: the shortest member.
const MEMBER_BYTES: usize = 10 + 8 + 2;
/// Bytes that are decompressed in one step.
const STEP_BYTES: usize = 64 * 1024;

/// How much a gzip member, in pieces, says that it holds, in its last bytes: to be believed no further
/// than to make room for it.
pub(crate) fn content_bytes(input: &[Vec<u8>]) -> Result<u64, Reject> {
    let is_gzip = input.iter().flatten().take(2).eq(&[0x1f, 0x8b]);
    let is_long = input.iter().map(Vec::len).sum::<usize>() >= MEMBER_BYTES;
    if !is_gzip || !is_long {
        return Err(MALFORMED);
    }
    let last = input.iter().flatten().rev().take(4);
    Ok(last.fold(0, |size, byte| size << 8 | u64::from(*byte)))
}

/// Gives the content of a whole gzip member to `take` in pieces, its checksum verified at the end; no
/// more than the `bytes` that it says it holds. Takes CPU time in proportion to them: not for a core.
pub(crate) fn decode<E: From<Reject>>(
    input: &[Vec<u8>],
    bytes: u64,
    mut take: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let mut inflate = Inflate::new(true, GZIP_WINDOW);
    let mut step = vec![0; STEP_BYTES];
    let all_bytes: usize = input.iter().map(Vec::len).sum();
    for piece in input {
        let mut rest = &piece[..];
        loop {
            let (read, made) = (inflate.total_in(), inflate.total_out());
            let status = inflate
                .decompress(rest, &mut step, InflateFlush::NoFlush)
                .map_err(|_| MALFORMED)?;
            rest = &rest[(inflate.total_in() - read) as usize..];
            let count = (inflate.total_out() - made) as usize;
            if inflate.total_out() > bytes {
                return Err(MALFORMED.into());
            }
            take(&step[..count])?;
            if status == Status::StreamEnd {
                // Whatever follows was no part of what the client's checksum covers.
                let is_all = inflate.total_in() as usize == all_bytes;
                let is_whole = is_all && inflate.total_out() == bytes;
                return if is_whole {
                    Ok(())
                } else {
                    Err(MALFORMED.into())
                };
            }
            if count == 0 && inflate.total_in() == read {
                break;
            }
        }
        if !rest.is_empty() {
            break;
        }
    }
    Err(MALFORMED.into())
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use super::*;

    /// The real gzip's output.
    fn gzip(content: &[u8]) -> Vec<u8> {
        let mut child = Command::new("gzip")
            .arg("-c")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let content = content.to_vec();
        let writer = std::thread::spawn(move || stdin.write_all(&content));
        let out = child.wait_with_output().unwrap();
        writer.join().unwrap().unwrap();
        assert!(out.status.success());
        out.stdout
    }

    fn decode(input: &[u8]) -> Result<Vec<u8>, Reject> {
        let decode_pieces = |pieces: &[Vec<u8>]| {
            let mut out = Vec::new();
            let bytes = content_bytes(pieces)?;
            super::decode::<Reject>(pieces, bytes, |piece| {
                out.extend_from_slice(piece);
                Ok(())
            })?;
            Ok(out)
        };
        let whole = decode_pieces(&[input.to_vec()]);
        for size in [1, 3, 5000] {
            let pieces: Vec<Vec<u8>> = input.chunks(size).map(<[u8]>::to_vec).collect();
            assert_eq!(decode_pieces(&pieces), whole, "in pieces of {size}");
        }
        whole
    }

    #[test]
    fn what_gzip_makes_is_read_back() {
        let wants: Vec<u8> = (0..20_000u32)
            .flat_map(|n| format!("0032want {:040x}\n", n.wrapping_mul(2_654_435_761)).into_bytes())
            .collect();
        for content in [&b""[..], b"0000", &wants] {
            let packed = gzip(content);
            assert_eq!(decode(&packed).as_deref(), Ok(content));
        }
    }

    /// One that says that it is smaller than it is ends where it says.
    #[test]
    fn a_bomb_that_lies_is_stopped() {
        let mut bomb = gzip(&vec![0; 8 << 20]);
        assert!(bomb.len() < 20_000);
        assert_eq!(content_bytes(&[bomb.clone()]), Ok(8 << 20));
        let size = bomb.len() - 4;
        bomb[size..].copy_from_slice(&1_000_000u32.to_le_bytes());
        let mut made = 0;
        let ended = super::decode::<Reject>(&[bomb], 1_000_000, |piece| {
            made += piece.len();
            Ok(())
        });
        assert_eq!(ended, Err(MALFORMED));
        assert!(made <= 1_000_000);
    }

    #[test]
    fn anything_else_is_refused() {
        let packed = gzip(b"0014command=ls-refs\n0000");
        for len in 0..packed.len() {
            assert_eq!(decode(&packed[..len]), Err(MALFORMED), "{len} bytes");
        }
        let mut more = packed.clone();
        more.push(0);
        assert_eq!(decode(&more), Err(MALFORMED));
        let mut damaged = packed.clone();
        let checksum = damaged.len() - 6;
        damaged[checksum] ^= 1;
        assert_eq!(decode(&damaged), Err(MALFORMED));
        assert_eq!(decode(b"0014command=ls-refs\n0000"), Err(MALFORMED));
    }
}
