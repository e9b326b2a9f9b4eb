//! `Content-Encoding: gzip` of request bodies (RFC 1952), as git sends large requests.

use zlib_rs::{Inflate, InflateFlush, Status};

use super::Reject;

const MALFORMED: Reject = Reject::new(400, "the request body is not gzip, or not all of it");
const TOO_LARGE: Reject = Reject::new(413, "the request body is too large once decompressed");

/// Window size that zlib takes for a gzip header in front of the largest window.
const GZIP_WINDOW: u8 = 16 + 15;
/// Bytes that are decompressed in one step.
const STEP_BYTES: usize = 64 * 1024;

/// The content of a whole gzip member, its checksum verified; at most `max_bytes` are made of it.
/// Takes CPU time in proportion to the content: not for a core.
pub fn decode(input: &[u8], max_bytes: usize) -> Result<Vec<u8>, Reject> {
    let mut inflate = Inflate::new(true, GZIP_WINDOW);
    let mut out = Vec::new();
    let mut step = vec![0; STEP_BYTES];
    loop {
        let (read, made) = (inflate.total_in(), inflate.total_out());
        let rest = input.get(read as usize..).unwrap_or_default();
        let status = inflate
            .decompress(rest, &mut step, InflateFlush::NoFlush)
            .map_err(|_| MALFORMED)?;
        let count = (inflate.total_out() - made) as usize;
        if out.len() + count > max_bytes {
            return Err(TOO_LARGE);
        }
        out.extend_from_slice(step.get(..count).unwrap_or_default());
        if status == Status::StreamEnd {
            // Whatever follows was no part of what the client's checksum covers.
            let whole = inflate.total_in() as usize == input.len();
            return if whole { Ok(out) } else { Err(MALFORMED) };
        }
        if count == 0 && inflate.total_in() == read {
            return Err(MALFORMED);
        }
    }
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

    #[test]
    fn what_gzip_makes_is_read_back_up_to_the_limit() {
        let wants: Vec<u8> = (0..20_000u32)
            .flat_map(|n| format!("0032want {:040x}\n", n.wrapping_mul(2_654_435_761)).into_bytes())
            .collect();
        for content in [&b""[..], b"0000", &wants] {
            let packed = gzip(content);
            assert_eq!(decode(&packed, content.len()).as_deref(), Ok(content));
            if !content.is_empty() {
                assert_eq!(decode(&packed, content.len() - 1), Err(TOO_LARGE));
            }
        }
        let bomb = gzip(&vec![0; 8 << 20]);
        assert!(bomb.len() < 20_000);
        assert_eq!(decode(&bomb, 1 << 20), Err(TOO_LARGE));
    }

    #[test]
    fn anything_else_is_refused() {
        let packed = gzip(b"0014command=ls-refs\n0000");
        for len in 0..packed.len() {
            assert_eq!(decode(&packed[..len], 1000), Err(MALFORMED), "{len} bytes");
        }
        let mut more = packed.clone();
        more.push(0);
        assert_eq!(decode(&more, 1000), Err(MALFORMED));
        let mut damaged = packed.clone();
        let checksum = damaged.len() - 6;
        damaged[checksum] ^= 1;
        assert_eq!(decode(&damaged, 1000), Err(MALFORMED));
        assert_eq!(decode(b"0014command=ls-refs\n0000", 1000), Err(MALFORMED));
    }
}
