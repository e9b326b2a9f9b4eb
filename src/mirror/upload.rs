//! Serves the git protocol from a mirror: `git upload-pack`, one process for each request.
//!
//! The repository's lock is not held meanwhile. A download may take hours, and a reader that
//! holds the lock so long would keep a fetch from putting its refs in force and, because the lock
//! is fair, everybody behind that fetch. There is no need either: refs move by renames, and packs
//! go only after all of their objects are in another one, which git finds by reading the list of
//! packs again; those that it has open stay readable.
use crate::git::{Output, stdin_file};
use crate::limits;
use crate::mirror::error::MirrorError;
use crate::mirror::git::{Call, Git, Target};
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Duration;

/// What every client may do, whatever the mirror's own configuration says: leave objects out
/// (partial clones) and ask for any commit by its id.
const SETTINGS: &[&str] = &[
    "uploadpack.allowFilter=true",
    "uploadpack.allowAnySHA1InWant=true",
    // The mirror may belong to an operator, who put it there.
    "safe.directory=*",
];

/// One request of git's smart HTTP protocol.
#[derive(Debug)]
pub struct Upload<'a> {
    /// The mirror.
    pub mirror: &'a Path,
    /// `Git-Protocol`, which chooses the version.
    pub protocol: Option<&'a str>,
    /// The request; `None` asks for what there is (`info/refs`).
    pub request: Option<File>,
}

/// A request as a file, for [`Upload::request`]. It has no name and lies in memory.
///
/// # Errors
/// The system's, when there is no memory or no descriptor left.
pub(crate) fn request_file(request: &[u8]) -> io::Result<File> {
    stdin_file(request)
}

impl Git {
    /// Runs `git upload-pack` and hands its output to `take`; git waits while nobody reads the pipe. Ends
    /// the process group when `take` refuses or `gone` is ready.
    ///
    /// # Errors
    /// [`MirrorError::Git`] when git fails: what `take` got is then not all.
    pub(crate) async fn upload_pack(
        &self,
        upload: Upload<'_>,
        take: impl AsyncFnOnce(Output) -> Result<(), String>,
        gone: impl Future<Output = ()>,
    ) -> Result<(), MirrorError> {
        let mut args: Vec<OsString> = Vec::new();
        for setting in SETTINGS {
            args.extend(["-c".into(), setting.into()]);
        }
        args.extend(["upload-pack", "--strict", "--stateless-rpc"].map(OsString::from));
        if upload.request.is_none() {
            args.push("--advertise-refs".into());
        }
        args.push(upload.mirror.into());
        let call = Call {
            op: "git upload-pack",
            target: Target::Mirror(upload.mirror),
            git_dir: None,
            args,
            stdin: upload.request,
            limit: Duration::from_millis(limits::GIT_UPLOAD_LIMIT_MS),
            memory_bytes: self.memory_bytes,
            growth: None,
        };
        let about = call.about();
        let mut command = self.command(call);
        if let Some(protocol) = upload.protocol {
            command.env("GIT_PROTOCOL", protocol);
        }
        self.feed(about, command, take, gone).await
    }
}
