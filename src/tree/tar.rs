//! Tar entries in the GNU format: long names and link targets as `L` and `K` entries of raw
//! bytes (so non-UTF-8 names work), sizes over 8 GiB in base 256. The header itself is the `tar`
//! crate's.
//!
//! Source of the format: GNU tar manual, "Basic Tar Format" and "GNU extensions".

use tar::{EntryType, Header};

/// Tar's unit: headers and data are padded to it.
pub const BLOCK_BYTES: usize = 512;
/// Names longer than this need an `L` or `K` entry before them.
const NAME_BYTES: usize = 100;

/// The kinds of entry an archive holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind<'a> {
    /// A file of `size` bytes, which the caller appends, followed by [`pad`].
    File { size: u64, executable: bool },
    /// A symbolic link to `target`.
    Symlink { target: &'a [u8] },
    /// A directory.
    Directory,
}

/// Appends the header of one entry to `out`: owner 0:0, mode 0644 or 0755, `mtime_s` in seconds
/// since 1970 (GNU's base 256 for what does not fit in octal, negative times included).
pub fn push_header(out: &mut Vec<u8>, path: &[u8], kind: Kind<'_>, mtime_s: i64) {
    let mut header = Header::new_gnu();
    let (entry_type, mode, size) = match kind {
        Kind::File { size, executable } => {
            let mode = if executable { 0o755 } else { 0o644 };
            (EntryType::Regular, mode, size)
        }
        Kind::Symlink { target } => {
            if target.len() > NAME_BYTES {
                push_long(out, EntryType::GNULongLink, target);
            }
            let kept = &target[..target.len().min(NAME_BYTES)];
            header.as_old_mut().linkname[..kept.len()].copy_from_slice(kept);
            (EntryType::Symlink, 0o777, 0)
        }
        Kind::Directory => (EntryType::Directory, 0o755, 0),
    };
    let name_bytes = path.len() + usize::from(kind == Kind::Directory);
    if name_bytes > NAME_BYTES {
        push_long_name(out, path, kind == Kind::Directory);
    }
    let kept = &path[..path.len().min(NAME_BYTES)];
    let name = &mut header.as_old_mut().name;
    name[..kept.len()].copy_from_slice(kept);
    if kind == Kind::Directory && path.len() < NAME_BYTES {
        name[path.len()] = b'/';
    }
    header.set_entry_type(entry_type);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(size);
    set_mtime(&mut header, mtime_s);
    header.set_cksum();
    out.extend_from_slice(header.as_bytes());
}

/// Bytes that pad `size` data bytes to whole blocks.
pub fn padding(size: u64) -> u64 {
    size.wrapping_neg() % BLOCK_BYTES as u64
}

/// Pads `out` after `size` data bytes to whole blocks.
pub fn pad(out: &mut Vec<u8>, size: u64) {
    out.resize(out.len() + padding(size) as usize, 0);
}

/// Appends a whole file: header, data, padding.
pub fn push_file(out: &mut Vec<u8>, path: &[u8], data: &[u8], executable: bool, mtime_s: i64) {
    let size = data.len() as u64;
    push_header(out, path, Kind::File { size, executable }, mtime_s);
    out.extend_from_slice(data);
    pad(out, size);
}

/// Appends the end of the archive: two blocks of zeros.
pub fn push_end(out: &mut Vec<u8>) {
    out.resize(out.len() + 2 * BLOCK_BYTES, 0);
}

fn push_long_name(out: &mut Vec<u8>, path: &[u8], directory: bool) {
    if directory {
        push_long(out, EntryType::GNULongName, &[path, b"/"].concat());
    } else {
        push_long(out, EntryType::GNULongName, path);
    }
}

fn push_long(out: &mut Vec<u8>, entry_type: EntryType, value: &[u8]) {
    let mut header = Header::new_gnu();
    let name = b"././@LongLink";
    header.as_old_mut().name[..name.len()].copy_from_slice(name);
    header.set_entry_type(entry_type);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    // The terminating NUL counts.
    let size = value.len() as u64 + 1;
    header.set_size(size);
    header.set_mtime(0);
    header.set_cksum();
    out.extend_from_slice(header.as_bytes());
    out.extend_from_slice(value);
    out.push(0);
    pad(out, size);
}

/// Eleven octal digits hold 0 to 2^33 - 1; anything else is two's complement in base 256 with
/// the top bit of the first byte as its mark.
fn set_mtime(header: &mut Header, mtime_s: i64) {
    if (0..1 << 33).contains(&mtime_s) {
        header.set_mtime(mtime_s as u64);
        return;
    }
    let field = &mut header.as_old_mut().mtime;
    field.fill(if mtime_s < 0 { 0xff } else { 0 });
    let at = field.len() - 8;
    field[at..].copy_from_slice(&mtime_s.to_be_bytes());
    field[0] |= 0x80;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn the_tar_crate_reads_back_what_is_written() {
        let paths: Vec<Vec<u8>> = vec![
            b"a".to_vec(),
            vec![b'x'; 99],
            vec![b'x'; 100],
            vec![b'y'; 101],
            [vec![b'd'; 120], b"/".to_vec(), vec![0xff; 200]].concat(),
        ];
        let mut out = Vec::new();
        for path in &paths {
            push_file(&mut out, path, b"hello", true, 1_600_000_000);
            push_header(&mut out, path, Kind::Symlink { target: path }, 5);
            push_header(&mut out, path, Kind::Directory, 5);
        }
        push_end(&mut out);
        assert_eq!(out.len() % BLOCK_BYTES, 0);
        let mut archive = tar::Archive::new(&out[..]);
        let mut entries = archive.entries().unwrap();
        for path in &paths {
            let mut file = entries.next().unwrap().unwrap();
            assert_eq!(&*file.path_bytes(), &path[..]);
            assert_eq!(file.header().mode().unwrap(), 0o755);
            assert_eq!(file.header().mtime().unwrap(), 1_600_000_000);
            let mut data = Vec::new();
            file.read_to_end(&mut data).unwrap();
            assert_eq!(data, b"hello");
            let link = entries.next().unwrap().unwrap();
            assert_eq!(link.link_name_bytes().unwrap(), &path[..]);
            let directory = entries.next().unwrap().unwrap();
            assert_eq!(&*directory.path_bytes(), [&path[..], b"/"].concat());
            assert!(directory.header().entry_type().is_dir());
        }
        assert!(entries.next().is_none());
    }

    #[test]
    fn sizes_over_8_gib_and_odd_times_survive() {
        for (size, mtime) in [(9u64 << 30, 7), (3, -1), (3, 1 << 40)] {
            let mut out = Vec::new();
            let kind = Kind::File {
                size,
                executable: false,
            };
            push_header(&mut out, b"big", kind, mtime);
            let header = Header::from_byte_slice(&out);
            assert_eq!(header.entry_size().unwrap(), size);
            if mtime >= 0 {
                assert_eq!(header.mtime().unwrap() as i64, mtime);
            }
        }
    }
}
