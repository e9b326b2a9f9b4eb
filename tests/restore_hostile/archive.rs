//! Archives that say anything: a clone's entries, changed as a case likes, as tar and zstd.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use tar::{EntryType, Header};

/// One member of an archive.
#[derive(Clone)]
pub struct Entry {
    pub name: Vec<u8>,
    pub kind: EntryType,
    /// A file's data, or where a link leads.
    pub data: Vec<u8>,
    pub mode: u32,
}

impl Entry {
    pub fn file(name: impl AsRef<[u8]>, data: impl AsRef<[u8]>) -> Entry {
        Entry::of(EntryType::Regular, name, data)
    }

    pub fn link(name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Entry {
        Entry::of(EntryType::Symlink, name, target)
    }

    pub fn directory(name: impl AsRef<[u8]>) -> Entry {
        Entry::of(EntryType::Directory, name, b"")
    }

    pub fn of(kind: EntryType, name: impl AsRef<[u8]>, data: impl AsRef<[u8]>) -> Entry {
        let mode = match kind {
            EntryType::Directory => 0o755,
            _ => 0o644,
        };
        Entry {
            name: name.as_ref().to_vec(),
            kind,
            data: data.as_ref().to_vec(),
            mode,
        }
    }

    pub fn with_mode(mut self, mode: u32) -> Entry {
        self.mode = mode;
        self
    }

    fn write(&self, out: &mut Vec<u8>) {
        if self.name.len() > 100 {
            let long = [&self.name[..], b"\0"].concat();
            block(out, b"././@LongLink", EntryType::GNULongName, &long, 0o644);
        }
        let name = &self.name[..self.name.len().min(100)];
        block(out, name, self.kind, &self.data, self.mode);
    }
}

/// A header as it stands, and data behind it where the kind has some.
pub fn block(out: &mut Vec<u8>, name: &[u8], kind: EntryType, data: &[u8], mode: u32) {
    let is_link = matches!(kind, EntryType::Symlink | EntryType::Link);
    let mut header = Header::new_gnu();
    header.as_old_mut().name[..name.len()].copy_from_slice(name);
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_mtime(1_600_000_000);
    if is_link {
        header.as_old_mut().linkname[..data.len()].copy_from_slice(data);
    }
    let data = if is_link { b"" } else { data };
    header.set_size(data.len() as u64);
    header.set_cksum();
    out.extend_from_slice(header.as_bytes());
    out.extend_from_slice(data);
    out.resize(out.len().next_multiple_of(512), 0);
}

/// PAX records, each with its own length in front.
pub fn pax(records: &[(&str, &str)]) -> Vec<u8> {
    let mut out = String::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let mut len = rest + 1;
        while len != rest + len.to_string().len() {
            len = rest + len.to_string().len();
        }
        out.push_str(&format!("{len} {key}={value}\n"));
    }
    out.into_bytes()
}

/// An archive in the making.
#[derive(Clone)]
pub struct Archive(pub Vec<Entry>);

impl Archive {
    /// What a clone has, but for what `git` itself makes anew: hooks, logs, notes of commands.
    pub fn of_clone(root: &Path) -> Archive {
        let mut entries = Vec::new();
        read_into(root, root, &mut entries);
        const NOTES: [&[u8]; 6] = [
            b".git/hooks",
            b".git/logs",
            b".git/branches",
            b".git/info",
            b".git/description",
            b".git/FETCH_HEAD",
        ];
        entries.retain(|e| !NOTES.iter().any(|note| e.name.starts_with(note)));
        // As servers send it: the repository, then files, the index last.
        entries.sort_by_key(|e| (e.name == b".git/index", !e.name.starts_with(b".git")));
        Archive(entries)
    }

    pub fn get(&self, name: &str) -> &[u8] {
        let found = self.0.iter().find(|e| e.name == name.as_bytes());
        found.map_or_else(|| panic!("no {name}"), |e| &e.data)
    }

    /// Replaces a file of that name, or adds it before the index.
    pub fn set(mut self, name: &str, data: impl AsRef<[u8]>) -> Archive {
        match self.0.iter_mut().find(|e| e.name == name.as_bytes()) {
            Some(entry) => entry.data = data.as_ref().to_vec(),
            None => return self.add(Entry::file(name, data)),
        }
        self
    }

    /// Changes a file's data.
    pub fn change(self, name: &str, change: impl FnOnce(&mut Vec<u8>)) -> Archive {
        let mut data = self.get(name).to_vec();
        change(&mut data);
        self.set(name, data)
    }

    /// Adds text to a file.
    pub fn append(self, name: &str, text: &str) -> Archive {
        self.change(name, |data| data.extend_from_slice(text.as_bytes()))
    }

    /// Puts an entry before the index.
    pub fn add(mut self, entry: Entry) -> Archive {
        let before = self.0.len() - 1;
        self.0.insert(before, entry);
        self
    }

    /// The same at the very end.
    pub fn add_last(mut self, entry: Entry) -> Archive {
        self.0.push(entry);
        self
    }

    /// Without the entry of that name, and what is below it.
    pub fn without(mut self, name: &str) -> Archive {
        let below = format!("{name}/");
        self.0
            .retain(|e| e.name != name.as_bytes() && !e.name.starts_with(below.as_bytes()));
        self
    }

    /// The one file whose name begins and ends so.
    pub fn find(&self, begin: &str, end: &str) -> String {
        let fits =
            |e: &&Entry| e.name.starts_with(begin.as_bytes()) && e.name.ends_with(end.as_bytes());
        let found = self.0.iter().find(fits);
        let found = found.unwrap_or_else(|| panic!("no {begin}*{end}"));
        String::from_utf8_lossy(&found.name).into_owned()
    }

    /// Gives an entry another name.
    pub fn rename(mut self, name: &str, to: &str) -> Archive {
        let found = self.0.iter_mut().find(|e| e.name == name.as_bytes());
        found.unwrap_or_else(|| panic!("no {name}")).name = to.as_bytes().to_vec();
        self
    }

    /// The tar archive without its end.
    pub fn body(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.0.iter().for_each(|entry| entry.write(&mut out));
        out
    }

    /// The tar archive.
    pub fn tar(&self) -> Vec<u8> {
        ended(self.body())
    }
}

/// The same with the two blocks of zeros that end an archive.
pub fn ended(mut tar: Vec<u8>) -> Vec<u8> {
    tar.resize(tar.len() + 1024, 0);
    tar
}

fn read_into(root: &Path, directory: &Path, entries: &mut Vec<Entry>) {
    let listing = std::fs::read_dir(directory).unwrap_or_else(|e| panic!("{e}"));
    let mut paths: Vec<_> = listing.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        let name = path.strip_prefix(root).unwrap_or(&path);
        let name = name.as_os_str().as_bytes();
        let found = path.symlink_metadata().unwrap_or_else(|e| panic!("{e}"));
        if found.is_dir() {
            entries.push(Entry::directory([name, b"/"].concat()));
            read_into(root, &path, entries);
        } else if found.is_symlink() {
            let target = std::fs::read_link(&path).unwrap_or_else(|e| panic!("{e}"));
            entries.push(Entry::link(name, target.as_os_str().as_bytes()));
        } else {
            let data = std::fs::read(&path).unwrap_or_else(|e| panic!("{e}"));
            let mode = 0o644 | (found.permissions().mode() & 0o111);
            entries.push(Entry::file(name, data).with_mode(mode));
        }
    }
}

/// One frame with content size and checksum for every MiB.
pub fn zst(tar: &[u8]) -> Vec<u8> {
    tar.chunks(1 << 20).flat_map(frame).collect()
}

/// One frame.
pub fn frame(content: &[u8]) -> Vec<u8> {
    let mut context = zstd_safe::CCtx::create();
    let checksum = zstd_safe::CParameter::ChecksumFlag(true);
    assert!(context.set_parameter(checksum).is_ok());
    let mut out = Vec::with_capacity(zstd_safe::compress_bound(content.len()));
    assert!(context.compress2(&mut out, content).is_ok());
    out
}

/// A frame that a decoder skips.
pub fn skippable(content: &[u8]) -> Vec<u8> {
    let len = (content.len() as u32).to_le_bytes();
    [&0x184D_2A50u32.to_le_bytes()[..], &len, content].concat()
}
