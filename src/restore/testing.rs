//! What the tests of this module share: real repositories, whose objects may be anything.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use gix::ObjectId;

/// A repository that goes with the test.
pub struct Repository(tempfile::TempDir);

impl Repository {
    pub fn new() -> Repository {
        Repository::of("sha1")
    }

    /// With this object format.
    pub fn of(format: &str) -> Repository {
        let repository = Repository(tempfile::tempdir().unwrap());
        let format = format!("--object-format={format}");
        repository.git(&["init", "-q", &format], b"");
        repository
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Runs git with nobody's configuration, and gives what it says.
    pub fn git(&self, args: &[&str], input: &[u8]) -> Vec<u8> {
        let mut command = Command::new("git");
        command
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .arg("-C")
            .arg(self.path())
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        let out = child.wait_with_output().unwrap();
        assert!(out.status.success(), "{args:?}");
        out.stdout
    }

    /// Makes a loose object.
    pub fn object(&self, kind: &str, data: &[u8]) -> ObjectId {
        let args = ["hash-object", "-t", kind, "-w", "--literally", "--stdin"];
        ObjectId::from_hex(self.git(&args, data).trim_ascii()).unwrap()
    }

    /// A tree of these entries, in this order: mode and name, and an object.
    pub fn tree<T: AsRef<[u8]>>(&self, entries: &[(T, ObjectId)]) -> ObjectId {
        let entry = |(what, id): &(T, ObjectId)| [what.as_ref(), b"\0", id.as_bytes()].concat();
        let data: Vec<Vec<u8>> = entries.iter().map(entry).collect();
        self.object("tree", &data.concat())
    }

    pub fn commit(&self, tree: ObjectId) -> ObjectId {
        let who = "A <a@b> 1 +0000";
        let text = format!("tree {tree}\nauthor {who}\ncommitter {who}\n\nx\n");
        self.object("commit", text.as_bytes())
    }

    /// Where a loose object is.
    pub fn loose(&self, id: ObjectId) -> PathBuf {
        let hex = id.to_string();
        let objects = self.path().join(".git/objects");
        objects.join(&hex[..2]).join(&hex[2..])
    }
}
