//! One archive with every filter, by its digest: other bytes need another format number
//! (`ARCHIVE_FORMAT`, `JOB_FORMAT`, `CHUNK_FORMAT`, `FRAMES_FORMAT`), or servers would give one tag to
//! different archives, and take over frames that are not what they would make.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use sha2::{Digest, Sha256};

use super::{Built, Repository, build};

/// Of the archive, for the version of the zstd library that makes it.
const GOLDEN: (u32, &str) = (
    10507,
    "7a5e5aa178af798604975d819b353bbe7a8c26fc7f8314e98713db1a58f55ced",
);

const ATTRIBUTES: &str = "\
[attr]dos text eol=crlf
*.crlf text eol=crlf
*.auto text=auto eol=crlf
*.id ident
*.utf16 working-tree-encoding=UTF-16LE-BOM
*.latin working-tree-encoding=latin-1 eol=crlf
*.dos dos
*.all ident eol=crlf working-tree-encoding=UTF-16BE
*.lfs filter=lfs
*.bin binary
";

/// The worktree's files: mode, path, content.
fn files() -> Vec<(&'static str, String, String)> {
    let text = "one\n$Id$\ntwo \u{e9}\r\n";
    let mut files = vec![
        ("100644", ".gitattributes".to_owned(), ATTRIBUTES.to_owned()),
        ("100755", "run".to_owned(), "#!/bin/sh\n".to_owned()),
        ("120000", "link".to_owned(), "run".to_owned()),
        ("100644", "empty".to_owned(), String::new()),
        (
            "100644",
            "n\u{e9}w \u{20ac}".to_owned(),
            "name\n".to_owned(),
        ),
        (
            "100644",
            format!("{}deep", "d/".repeat(60)),
            "deep\n".to_owned(),
        ),
    ];
    for ending in [
        "crlf", "auto", "id", "utf16", "latin", "dos", "all", "lfs", "bin", "txt",
    ] {
        for n in 0..20 {
            let path = format!("large/{ending}/f{n}.{ending}");
            files.push(("100644", path, text.repeat(1 + n)));
        }
    }
    files.push(("100644", "long".to_owned(), "a long line\n".repeat(200_000)));
    files
}

fn import(repository: &Repository) {
    let mut stream = b"commit refs/heads/main\n".to_vec();
    stream.extend_from_slice(b"committer t <t@example.com> 1700000000 +0000\ndata 1\nc\n");
    for (mode, path, data) in files() {
        writeln!(
            stream,
            "M {mode} inline {path}\ndata {}\n{data}",
            data.len()
        )
        .unwrap();
    }
    let submodule = "1234567812345678123456781234567812345678";
    writeln!(stream, "M 160000 {submodule} sub").unwrap();
    writeln!(stream, "tag v1\nfrom refs/heads/main").unwrap();
    stream.extend_from_slice(b"tagger t <t@example.com> 1700000000 +0000\ndata 1\nt\n");
    git(repository, &["fast-import", "--quiet"], &stream);
}

fn git(repository: &Repository, args: &[&str], input: &[u8]) -> Vec<u8> {
    let mut command = Command::new("git");
    command.current_dir(repository.dir.path()).args(args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success(), "git {args:?}");
    writer.join().unwrap().unwrap();
    out.stdout
}

/// Every object in one pack without compression, which differs between versions of git and of zlib.
fn pack(repository: &Repository) {
    let listed = git(
        repository,
        &["cat-file", "--batch-all-objects", "--batch"],
        b"",
    );
    let (mut rest, mut count, mut objects) = (&listed[..], 0u32, Vec::new());
    while !rest.is_empty() {
        let end = rest.iter().position(|b| *b == b'\n').unwrap();
        let head = std::str::from_utf8(&rest[..end]).unwrap();
        let mut words = head.split(' ').skip(1);
        let (kind, bytes) = (words.next().unwrap(), words.next().unwrap());
        let bytes: usize = bytes.parse().unwrap();
        push_object(&mut objects, kind, &rest[end + 1..][..bytes]);
        rest = &rest[end + 1 + bytes + 1..];
        count += 1;
    }
    let mut pack = b"PACK\0\0\0\x02".to_vec();
    pack.extend_from_slice(&count.to_be_bytes());
    pack.extend_from_slice(&objects);
    let sum = sha1::Sha1::digest(&pack);
    pack.extend_from_slice(&sum);
    let packs = repository.dir.path().join(".git/objects/pack");
    for file in fs::read_dir(&packs).unwrap() {
        fs::remove_file(file.unwrap().path()).unwrap();
    }
    let path = packs.join("pack-0000000000000000000000000000000000000001.pack");
    fs::write(&path, pack).unwrap();
    git(repository, &["index-pack", path.to_str().unwrap()], b"");
}

/// gitformat-pack(5), and RFC 1950 and 1951 for data that is stored.
fn push_object(out: &mut Vec<u8>, kind: &str, data: &[u8]) {
    let kind = match kind {
        "commit" => 1,
        "tree" => 2,
        "blob" => 3,
        _ => 4,
    };
    let mut size = data.len();
    let mut byte = kind << 4 | (size & 15) as u8;
    size >>= 4;
    while size > 0 {
        out.push(byte | 0x80);
        byte = (size & 0x7f) as u8;
        size >>= 7;
    }
    out.push(byte);
    out.extend_from_slice(&[0x78, 0x01]);
    let blocks = data.chunks(0xffff).count().max(1);
    for n in 0..blocks {
        let block = data.chunks(0xffff).nth(n).unwrap_or_default();
        out.push(u8::from(n + 1 == blocks));
        out.extend_from_slice(&(block.len() as u16).to_le_bytes());
        out.extend_from_slice(&(!(block.len() as u16)).to_le_bytes());
        out.extend_from_slice(block);
    }
    let (mut a, mut b) = (1u32, 0u32);
    for byte in data {
        a = (a + u32::from(*byte)) % 65521;
        b = (b + a) % 65521;
    }
    out.extend_from_slice(&(b << 16 | a).to_be_bytes());
}

#[test]
fn an_archive_with_every_filter_has_the_bytes_of_its_format() {
    let repository = Repository::new();
    import(&repository);
    pack(&repository);
    repository.git(&["fsck", "--strict"]);
    let built: Built = build(&repository, 2, None);
    let digest = Sha256::digest(&built.archive);
    let digest = Vec::from_iter(digest.iter().map(|byte| format!("{byte:02x}"))).concat();
    assert_eq!((zstd_safe::version_number(), &digest[..]), GOLDEN);
    // It was checked once what it is.
    built.check();
}
