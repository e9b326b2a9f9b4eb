//! A bundle as it comes from the server: its file, and whether it is of a kind that a restore takes.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;
use std::time::Duration;

use gix::bstr::ByteSlice;

use super::error::RestoreError;
use super::http::Conn;
use super::link::Link;
use super::quota::Quota;
use super::request::Request;
use crate::limits::{BUNDLE_BUSY_MS, BUNDLE_HEADER_BYTES_MAX, STREAM_READ_BYTES};

fn wrong(why: impl std::fmt::Display) -> RestoreError {
    RestoreError::Server(format!("bundle: {why}"))
}

/// Downloads a bundle.
pub(super) fn download(
    link: Link<'_>,
    quota: &Quota,
    target: &str,
    into: &Path,
) -> Result<(), RestoreError> {
    let mut conn = Conn::open(link).map_err(wrong)?;
    // Git brings the same, with more to do for the server.
    let busy = Duration::from_millis(BUNDLE_BUSY_MS).min(link.wait);
    let answer = conn.ask_patiently(&Request::get(target, &[]), link.wait, busy);
    let answer = answer.map_err(wrong)?;
    if answer.status != 200 {
        return Err(conn.refused(&answer));
    }
    let disk = |e| RestoreError::disk("write", into, e);
    let mut file = File::create_new(into).map_err(disk)?;
    let mut bytes = vec![0; STREAM_READ_BYTES];
    loop {
        match conn.read(&mut bytes).map_err(wrong)? {
            0 => return Ok(()),
            got => {
                quota.take(got as u64)?;
                file.write_all(&bytes[..got]).map_err(disk)?;
            }
        }
    }
}

/// Sees to it that the bundle at `path` is to be whole (gitformat-bundle(5)): git takes one that says
/// that objects are left out for a promise of them, and notes that for all times.
pub(super) fn check(path: &Path) -> Result<(), RestoreError> {
    let failed = |e: io::Error| RestoreError::disk("read", path, e);
    let file = File::open(path).map_err(failed)?;
    let mut lines = BufReader::new(file.take(BUNDLE_HEADER_BYTES_MAX));
    let mut line = Vec::new();
    let mut next = |line: &mut Vec<u8>| {
        line.clear();
        lines.read_until(b'\n', line).map_err(failed)?;
        match line.pop() {
            Some(b'\n') => Ok(()),
            _ => Err(wrong("its header has no end")),
        }
    };
    next(&mut line)?;
    if line != b"# v2 git bundle" && line != b"# v3 git bundle" {
        return Err(wrong("it is of no version that is known"));
    }
    loop {
        next(&mut line)?;
        match &line[..] {
            b"" => return Ok(()),
            [b'@', says @ ..] if !says.starts_with(b"object-format=") => {
                return Err(wrong(format!("it is one with {:?}", says.as_bstr())));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_bundles_are_taken() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bundle");
        let id = "a".repeat(40);
        let check = |text: &str| {
            std::fs::write(&path, text).unwrap();
            check(&path).map_err(|e| e.exit_code())
        };
        let refs = format!("-{id} filter=x\n{id} HEAD\n\nPACK@filter=x\n");
        for good in [
            "# v2 git bundle\n",
            "# v3 git bundle\n@object-format=sha1\n",
        ] {
            check(&format!("{good}{refs}")).unwrap();
        }
        for bad in [
            format!("# v3 git bundle\n@filter=blob:none\n{refs}"),
            // Git reads them wherever they are.
            format!("# v3 git bundle\n@object-format=sha1\n{id} HEAD\n@filter=tree:0\n\n"),
            format!("# v3 git bundle\n@of-next-year\n{refs}"),
            format!("# v4 git bundle\n{refs}"),
            "# v2 git bundle\n".into(),
            format!("# v2 git bundle\n{id} HEAD"),
            String::new(),
        ] {
            assert_eq!(check(&bad), Err(3), "{bad}");
        }
        let file = File::create(&path).unwrap();
        file.set_len(100 << 30).unwrap();
        assert_eq!(super::check(&path).unwrap_err().exit_code(), 3);
    }
}
