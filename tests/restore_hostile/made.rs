//! Git's own files, made by hand so that they can be wrong: indexes, packs' sums, loose objects.

use sha1::{Digest, Sha1};
use std::io::Write;
use std::process::{Command, Stdio};

/// The SHA-1 of `bytes`.
pub fn sha1(bytes: &[u8]) -> Vec<u8> {
    Sha1::digest(bytes).to_vec()
}

/// The same in hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The bytes of an id in hexadecimal digits.
pub fn id(digits: &str) -> Vec<u8> {
    let pairs = digits.as_bytes().chunks(2);
    let byte = |pair: &[u8]| u8::from_str_radix(&String::from_utf8_lossy(pair), 16);
    pairs.map(|pair| byte(pair).unwrap_or(0)).collect()
}

/// Makes the last 20 bytes the sum of those before them.
pub fn resum(bytes: &mut [u8]) {
    let (content, sum) = bytes.split_at_mut(bytes.len() - 20);
    sum.copy_from_slice(&sha1(content));
}

/// A loose object of `kind`: its name in hexadecimal digits, and its file.
pub fn loose(kind: &str, content: &[u8]) -> (String, Vec<u8>) {
    let plain = [format!("{kind} {}\0", content.len()).as_bytes(), content].concat();
    (hex(&sha1(&plain)), deflated(&plain))
}

/// Where a loose object of that name is.
pub fn loose_path(name: &str) -> String {
    format!(".git/objects/{}/{}", &name[..2], &name[2..])
}

/// zlib's format around stored blocks.
pub fn deflated(plain: &[u8]) -> Vec<u8> {
    let mut out = vec![0x78, 0x01];
    let blocks = plain.chunks(65_535).count().max(1);
    let mut pieces: Vec<&[u8]> = plain.chunks(65_535).collect();
    pieces.resize(blocks, b"");
    for (number, piece) in pieces.iter().enumerate() {
        let len = piece.len() as u16;
        out.push(u8::from(number + 1 == blocks));
        out.extend_from_slice(&len.to_le_bytes());
        out.extend_from_slice(&(!len).to_le_bytes());
        out.extend_from_slice(piece);
    }
    let sums = plain.iter().fold((1u32, 0u32), |(a, b), byte| {
        let a = (a + u32::from(*byte)) % 65_521;
        (a, (b + a) % 65_521)
    });
    out.extend_from_slice(&(sums.1 << 16 | sums.0).to_be_bytes());
    out
}

/// One entry of an index.
#[derive(Clone)]
pub struct IndexEntry {
    pub path: Vec<u8>,
    pub mode: u32,
    pub id: Vec<u8>,
    /// Assume-valid, extended and stage: the upper four bits.
    pub flags: u16,
    /// Skip-worktree and intent-to-add, of versions 3 and 4.
    pub extended: u16,
}

impl IndexEntry {
    pub fn new(path: &str, mode: u32, name: &str) -> IndexEntry {
        IndexEntry {
            path: path.as_bytes().to_vec(),
            mode,
            id: id(name),
            flags: 0,
            extended: 0,
        }
    }
}

/// An index in the making.
#[derive(Clone)]
pub struct Index {
    pub version: u32,
    pub entries: Vec<IndexEntry>,
    pub extensions: Vec<(&'static [u8; 4], Vec<u8>)>,
    /// What the header says, if it lies.
    pub count: Option<u32>,
}

impl Index {
    /// Of what `git ls-files -s -z` lists.
    pub fn of_list(listed: &[u8]) -> Index {
        let lines = listed.split(|b| *b == 0).filter(|line| !line.is_empty());
        let entry = |line: &[u8]| {
            let text = String::from_utf8_lossy(line).into_owned();
            let (meta, path) = text.split_once('\t').unwrap_or_default();
            let mode = u32::from_str_radix(&meta[..6], 8).unwrap_or(0);
            IndexEntry::new(path, mode, &meta[7..47])
        };
        Index {
            version: 2,
            entries: lines.map(entry).collect(),
            extensions: Vec::new(),
            count: None,
        }
    }

    /// Changes one entry.
    pub fn entry(mut self, path: &str, change: impl FnOnce(&mut IndexEntry)) -> Index {
        let found = self.entries.iter_mut().find(|e| e.path == path.as_bytes());
        change(found.unwrap_or_else(|| panic!("no {path}")));
        self
    }

    /// Adds an entry where it belongs.
    pub fn with(mut self, entry: IndexEntry) -> Index {
        self.entries.push(entry);
        self.entries.sort_by(|a, b| a.path.cmp(&b.path));
        self
    }

    pub fn extension(mut self, name: &'static [u8; 4], data: &[u8]) -> Index {
        self.extensions.push((name, data.to_vec()));
        self
    }

    pub fn version(mut self, version: u32) -> Index {
        self.version = version;
        self
    }

    pub fn bytes(&self) -> Vec<u8> {
        let count = self.count.unwrap_or(self.entries.len() as u32);
        let mut out = [
            &b"DIRC"[..],
            &self.version.to_be_bytes(),
            &count.to_be_bytes(),
        ]
        .concat();
        let mut last: &[u8] = b"";
        for entry in &self.entries {
            let begin = out.len();
            out.extend_from_slice(&[0; 24]);
            out.extend_from_slice(&entry.mode.to_be_bytes());
            out.extend_from_slice(&[0; 12]);
            out.extend_from_slice(&entry.id);
            let extended = u16::from(entry.extended != 0) << 14;
            let flags = entry.flags | extended | (entry.path.len().min(0xfff) as u16);
            out.extend_from_slice(&flags.to_be_bytes());
            if entry.extended != 0 {
                out.extend_from_slice(&entry.extended.to_be_bytes());
            }
            if self.version == 4 {
                let same = last.iter().zip(&entry.path).take_while(|(a, b)| a == b);
                let same = same.count();
                out.push((last.len() - same) as u8);
                out.extend_from_slice(&entry.path[same..]);
                out.push(0);
                last = &entry.path;
            } else {
                out.extend_from_slice(&entry.path);
                let len = out.len() - begin;
                out.resize(begin + (len + 8) / 8 * 8, 0);
            }
        }
        for (name, data) in &self.extensions {
            out.extend_from_slice(*name);
            out.extend_from_slice(&(data.len() as u32).to_be_bytes());
            out.extend_from_slice(data);
        }
        let sum = sha1(&out);
        out.extend_from_slice(&sum);
        out
    }
}

/// Runs `program` with `input`; gives its standard output.
pub fn piped(program: &mut Command, input: &[u8]) -> Vec<u8> {
    let mut child = program
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{e}"));
    if let Some(mut stdin) = child.stdin.take() {
        // Who does not read all of it says so by its exit code.
        drop(stdin.write_all(input));
    }
    let out = child.wait_with_output().unwrap_or_else(|e| panic!("{e}"));
    assert!(out.status.success(), "{program:?}: {}", out.status);
    out.stdout
}
