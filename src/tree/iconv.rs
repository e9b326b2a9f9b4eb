//! Text encodings through the C library's `iconv`, because git uses it too: the names that are
//! known, byte order marks and what cannot be converted are then the same as in a clone.

#![allow(unsafe_code)] // The C library's interface; each use states its contract.

use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use sha2::{Digest, Sha256};

/// Which `iconv` this is: two of another identity may make other bytes of the same text. It is made
/// from the version of the C library and from what it would load: the file of the library itself,
/// which has the conversions that are built in, the configuration that says which module is for
/// which encoding, and the modules. Configuration counts with its content, programs with size and
/// date: a package that is updated without a new version number changes these.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Identity([u8; 32]);

impl Identity {
    /// That of this process; looked up once.
    pub(crate) fn of_system() -> &'static Identity {
        static IDENTITY: OnceLock<Identity> = OnceLock::new();
        IDENTITY.get_or_init(|| {
            let library = mapped_library();
            let own = library.as_deref().and_then(Path::parent);
            let own = own.map(|directory| directory.join("gconv"));
            let named = std::env::var_os("GCONV_PATH").unwrap_or_default();
            let directories = std::env::split_paths(&named).chain(own);
            Identity::of(version(), library.as_deref(), directories)
        })
    }

    fn of(
        version: &[u8],
        library: Option<&Path>,
        directories: impl Iterator<Item = PathBuf>,
    ) -> Identity {
        let mut digest = Sha256::new();
        let mut part = |bytes: &[u8]| {
            digest.update((bytes.len() as u64).to_le_bytes());
            digest.update(bytes);
        };
        part(version);
        if let Some(file) = library {
            describe(file, &mut part);
        }
        for directory in directories {
            part(b"directory");
            let mut files = files_in(&directory);
            files.extend(files_in(&directory.join("gconv-modules.d")));
            files.sort();
            for file in files {
                describe(&file, &mut part);
            }
        }
        Identity(digest.finalize().into())
    }

    /// A digest.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(target_env = "gnu")]
fn version() -> &'static [u8] {
    // SAFETY: it returns a string of the library that is never changed and never goes away.
    unsafe { CStr::from_ptr(libc::gnu_get_libc_version()) }.to_bytes()
}

/// Other libraries have all conversions in the program, which the format of frames stands for.
#[cfg(not(target_env = "gnu"))]
fn version() -> &'static [u8] {
    c"".to_bytes()
}

/// The C library's file, as the kernel has it mapped into this process.
fn mapped_library() -> Option<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let mut paths = maps
        .lines()
        .filter_map(|line| line.find('/').map(|at| &line[at..]));
    let path = paths.find(|path| {
        path.rsplit('/')
            .next()
            .is_some_and(|n| n.starts_with("libc.so"))
    });
    path.map(PathBuf::from)
}

/// None where there is no such directory: then nothing of it is loaded either.
fn files_in(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten();
    entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect()
}

fn describe(file: &Path, part: &mut impl FnMut(&[u8])) {
    part(file.file_name().unwrap_or_default().as_bytes());
    let is_program = file
        .extension()
        .is_some_and(|extension| extension != "conf" && extension != "cache");
    match std::fs::metadata(file) {
        Ok(found) if is_program => {
            part(&found.size().to_le_bytes());
            part(&found.mtime().to_le_bytes());
            part(&found.mtime_nsec().to_le_bytes());
        }
        // Files of a page or two; a directory is none.
        Ok(found) if found.is_file() => part(&std::fs::read(file).unwrap_or_default()),
        _ => part(b""),
    }
}

/// A conversion from UTF-8 to one other encoding.
pub(crate) struct Encoder {
    descriptor: libc::iconv_t,
    mark: &'static [u8],
}

// SAFETY: a conversion descriptor has no tie to the thread that opened it; it may only not be
// used by two at once, which `&mut self` excludes.
unsafe impl Send for Encoder {}

impl Encoder {
    /// An encoder for the name as it stands in a `working-tree-encoding` attribute, or `None` if
    /// the C library does not know it. Names are read as git reads them (`utf8.c`,
    /// `reencode_string_len`): `UTF-16LE-BOM` and `UTF-16BE-BOM` write a byte order mark.
    pub(crate) fn open(name: &[u8]) -> Option<Encoder> {
        let upper = name.to_ascii_uppercase();
        let (target, mark): (&[u8], &'static [u8]) = match &upper[..] {
            b"UTF-16LE-BOM" | b"UTF16LE-BOM" => (b"UTF-16LE", b"\xff\xfe"),
            b"UTF-16BE-BOM" | b"UTF16BE-BOM" => (b"UTF-16BE", b"\xfe\xff"),
            b"LATIN-1" => (b"ISO-8859-1", b""),
            _ => (name, b""),
        };
        let target = CString::new(target).ok()?;
        // SAFETY: both arguments are NUL-terminated strings that live during the call.
        let descriptor = unsafe { libc::iconv_open(target.as_ptr(), c"UTF-8".as_ptr()) };
        // The C library says "unknown" with the descriptor -1.
        (descriptor as isize != -1).then_some(Encoder { descriptor, mark })
    }

    /// Converts all of `text`; `None` if any of it has no form in the encoding.
    pub(crate) fn encode(&mut self, text: &[u8]) -> Option<Vec<u8>> {
        let mut out = Vec::with_capacity(text.len() * 2 + 16);
        self.begin(&mut out);
        let taken = self.push(text, &mut out)?;
        (taken == text.len()).then_some(out)
    }

    /// Begins with a text; appends what stands before it.
    pub(crate) fn begin(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.mark);
        // SAFETY: resets the descriptor, which is open, to its initial state.
        unsafe {
            libc::iconv(
                self.descriptor,
                std::ptr::null_mut(),
                std::ptr::null_mut(),
                std::ptr::null_mut(),
                std::ptr::null_mut(),
            );
        }
    }

    /// Converts what comes next of a text; how much of it was taken: all but a letter that is cut off at its end.
    /// `None` if any of it has no form in the encoding.
    pub(crate) fn push(&mut self, text: &[u8], out: &mut Vec<u8>) -> Option<usize> {
        let mut input = text.as_ptr().cast::<libc::c_char>().cast_mut();
        let mut input_left = text.len();
        loop {
            let spare = out.spare_capacity_mut();
            let mut output = spare.as_mut_ptr().cast::<libc::c_char>();
            let room = spare.len();
            let mut room_left = room;
            // SAFETY: `input` and `input_left` describe the unread part of `text`, which iconv
            // only reads; `output` and `room_left` describe the spare capacity of `out`.
            let result = unsafe {
                libc::iconv(
                    self.descriptor,
                    &raw mut input,
                    &raw mut input_left,
                    &raw mut output,
                    &raw mut room_left,
                )
            };
            let errno = std::io::Error::last_os_error().raw_os_error();
            // SAFETY: iconv initialised `room - room_left` bytes of the spare capacity.
            unsafe { out.set_len(out.len() + room - room_left) };
            match (result, errno) {
                (usize::MAX, Some(libc::E2BIG)) => out.reserve(input_left * 4 + 16),
                (usize::MAX, Some(libc::EINVAL)) => return Some(text.len() - input_left),
                (usize::MAX, _) => return None,
                _ => return Some(text.len()),
            }
        }
    }
}

impl Drop for Encoder {
    fn drop(&mut self) {
        // SAFETY: the descriptor is open and not used afterwards.
        unsafe { libc::iconv_close(self.descriptor) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn converts_with_marks_and_refuses_what_does_not_fit() {
        let encode = |name: &[u8], text: &str| {
            let mut encoder = Encoder::open(name).unwrap();
            // Twice, so that a descriptor's state does not leak from one file to the next.
            let first = encoder.encode(text.as_bytes());
            assert_eq!(first, encoder.encode(text.as_bytes()));
            first
        };
        assert_eq!(encode(b"UTF-16LE-BOM", "hé").unwrap(), b"\xff\xfeh\0\xe9\0");
        assert_eq!(encode(b"utf-16be", "h").unwrap(), b"\0h");
        assert_eq!(encode(b"ISO-8859-1", "é").unwrap(), b"\xe9");
        assert_eq!(encode(b"ISO-8859-1", "€"), None);
        let long = "語".repeat(100_000);
        assert_eq!(encode(b"UTF-16LE", &long).unwrap().len(), 200_000);
        assert!(Encoder::open(b"no-such-encoding").is_none());
    }
}
