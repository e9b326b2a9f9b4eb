//! Archives taken apart and put together again with something else in them.

use std::io::Read;
use tar::{EntryType, Header};

/// One entry of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    pub path: String,
    pub kind: EntryType,
    pub mode: u32,
    /// Of a link, where it leads.
    pub data: Vec<u8>,
}

impl Item {
    /// A file that nobody may execute.
    pub fn file(path: &str, data: &[u8]) -> Item {
        Item {
            path: path.to_owned(),
            kind: EntryType::Regular,
            mode: 0o644,
            data: data.to_owned(),
        }
    }
}

/// The entries of an archive of less than 64 MiB, whose names are text.
pub fn open(archive: &[u8]) -> Vec<Item> {
    let mut tar = Vec::with_capacity(64 << 20);
    let decoded = zstd_safe::decompress(&mut tar, archive);
    decoded.unwrap_or_else(|code| panic!("{}", zstd_safe::get_error_name(code)));
    let mut archive = tar::Archive::new(&tar[..]);
    let entries = archive.entries().unwrap_or_else(|e| panic!("{e}"));
    let item = |entry: std::io::Result<tar::Entry<'_, &[u8]>>| {
        let mut entry = entry.unwrap_or_else(|e| panic!("{e}"));
        let kind = entry.header().entry_type();
        let mut data = Vec::new();
        let read = entry.read_to_end(&mut data);
        read.unwrap_or_else(|e| panic!("{e}"));
        if let Some(target) = entry.link_name_bytes() {
            data = target.into_owned();
        }
        Item {
            path: String::from_utf8_lossy(&entry.path_bytes()).into_owned(),
            kind,
            mode: entry.header().mode().unwrap_or_else(|e| panic!("{e}")),
            data,
        }
    };
    entries.map(item).collect()
}

/// An archive of `items`, in one frame.
pub fn pack(items: &[Item]) -> Vec<u8> {
    let mut tar = Vec::new();
    for item in items {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..item.path.len()].copy_from_slice(item.path.as_bytes());
        header.set_entry_type(item.kind);
        header.set_mode(item.mode);
        header.set_mtime(1_600_000_000);
        let is_file = item.kind == EntryType::Regular;
        if item.kind == EntryType::Symlink {
            header.as_old_mut().linkname[..item.data.len()].copy_from_slice(&item.data);
        }
        header.set_size(if is_file { item.data.len() as u64 } else { 0 });
        header.set_cksum();
        tar.extend_from_slice(header.as_bytes());
        if is_file {
            tar.extend_from_slice(&item.data);
            tar.resize(tar.len().next_multiple_of(512), 0);
        }
    }
    tar.resize(tar.len() + 1024, 0);
    let mut context = zstd_safe::CCtx::create();
    let checksum = zstd_safe::CParameter::ChecksumFlag(true);
    assert!(context.set_parameter(checksum).is_ok());
    let mut out = Vec::with_capacity(zstd_safe::compress_bound(tar.len()));
    assert!(context.compress2(&mut out, &tar).is_ok());
    out
}

/// The item at `path`.
pub fn at<'i>(items: &'i mut [Item], path: &str) -> &'i mut Item {
    let found = items.iter_mut().find(|item| item.path == path);
    found.unwrap_or_else(|| panic!("the archive has no {path}"))
}

/// The only item whose path ends with `ending`.
pub fn ending<'i>(items: &'i mut [Item], ending: &str) -> &'i mut Item {
    let found = items.iter_mut().find(|item| item.path.ends_with(ending));
    found.unwrap_or_else(|| panic!("the archive has no {ending}"))
}

/// Replaces the file at `path`, or adds it before all others.
pub fn put(items: &mut Vec<Item>, path: &str, data: &[u8]) {
    items.retain(|item| item.path != path);
    items.insert(0, Item::file(path, data));
}
