//! Where a case is tried: upstreams that all share, and for each case a directory with a user's
//! home, commands that say so when they run, and files that nobody may touch.

use crate::archive::Archive;
use crate::look::{difference, snapshot};
use crate::made::Index;
use crate::support::relay::listen;
use crate::support::{git, repos};
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use tempfile::TempDir;

/// The program: the one just built, or another.
pub fn binary() -> String {
    let built = || env!("CARGO_BIN_EXE_tarpon").to_owned();
    std::env::var("TARPON_TEST_BINARY").unwrap_or_else(|_| built())
}

/// What all cases share and none may change.
pub struct Fixture {
    root: TempDir,
    pub good: Archive,
    /// The clone's index, by `git ls-files`.
    pub index: Index,
    /// A server that wants a password and sets a cookie.
    pub locked: SocketAddr,
    upstreams: BTreeMap<PathBuf, String>,
}

/// Made once for a run.
pub fn fixture() -> &'static Fixture {
    static FIXTURE: OnceLock<Fixture> = OnceLock::new();
    FIXTURE.get_or_init(Fixture::new)
}

impl Fixture {
    fn new() -> Fixture {
        let root = TempDir::with_prefix("tarpon-").unwrap_or_else(|e| panic!("tempdir: {e}"));
        let path = root.path();
        let module = path.join("upstream/module");
        repos::init_bare(&module, "main", "sha1");
        let mut import = repos::Importer::start(&module, repos::Layout::Packed);
        import.commit("refs/heads/main", "module");
        import.file(repos::FILE, b"in-module.txt", b"module\n");
        import.finish();
        let pinned = git::text(&module, &["rev-parse", "main"]);
        make_upstream(&path.join("upstream/app"), &module, &pinned);
        let clone = path.join("clone");
        git::clone(&format!("file://{}/upstream/app", path.display()), &clone);
        let index = Index::of_list(&git::run(&clone, &["ls-files", "-s", "-z"]));
        let locked = listen(|socket| drop(answer_locked(socket)));
        Fixture {
            good: Archive::of_clone(&clone),
            index,
            locked,
            upstreams: snapshot(&path.join("upstream"), &[]),
            root,
        }
    }

    /// The upstream of all archives.
    pub fn url(&self) -> String {
        format!("file://{}/upstream/app", self.root.path().display())
    }

    pub fn path(&self) -> PathBuf {
        self.root.path().join("upstream/app")
    }

    /// A git command in the clone that the archives are made of.
    pub fn ask(&self, args: &[&str]) -> String {
        git::text(&self.root.path().join("clone"), args)
    }

    /// Panics unless the upstreams are as they were.
    pub fn check(&self) -> Result<(), String> {
        let now = snapshot(&self.root.path().join("upstream"), &[]);
        difference(&self.upstreams, &now).map_or(Ok(()), |what| Err(format!("upstream: {what}")))
    }
}

/// Two branches that meet in one file, a tag, a link, a submodule, and attributes that name
/// drivers which nobody has set up.
fn make_upstream(path: &Path, module: &Path, pinned: &str) {
    repos::init_bare(path, "main", "sha1");
    let mut import = repos::Importer::start(path, repos::Layout::Packed);
    import.commit("refs/heads/main", "first");
    let attributes = b"*.txt filter=evil diff=evil merge=evil\n";
    import.file(repos::FILE, b".gitattributes", attributes);
    let modules = format!(
        "[submodule \"sub\"]\n\tpath = sub\n\turl = file://{}\n",
        module.display()
    );
    import.file(repos::FILE, b".gitmodules", modules.as_bytes());
    import.file(repos::FILE, b"a.txt", b"first\n");
    import.file(repos::FILE, b"dir/b.txt", b"b\n");
    import.file(repos::FILE, b"dir/c.c", b"int c;\n");
    import.file(repos::EXECUTABLE, b"run.sh", b"#!/bin/sh\n");
    import.file(repos::SYMLINK, b"link", b"a.txt");
    import.gitlink(b"sub", pinned);
    import.commit_on("refs/heads/side", "refs/heads/main", "side");
    import.file(repos::FILE, b"a.txt", b"side\n");
    import.commit("refs/heads/main", "second");
    import.file(repos::FILE, b"a.txt", b"second\n");
    import.finish();
    git::run(path, &["tag", "-a", "-m", "a tag", "v1", "main"]);
}

/// 401, with a cookie, to whatever is asked.
fn answer_locked(mut socket: &std::net::TcpStream) -> std::io::Result<()> {
    let mut lines = BufReader::new(socket).lines();
    while lines
        .next()
        .is_some_and(|line| line.is_ok_and(|l| !l.is_empty()))
    {}
    socket.write_all(
        b"HTTP/1.1 401 Locked\r\nWWW-Authenticate: Basic realm=\"x\"\r\n\
          Set-Cookie: evil=1; Max-Age=10000; Path=/\r\n\
          Content-Length: 0\r\nConnection: close\r\n\r\n",
    )
}

/// The place of one case.
pub struct Ground {
    root: TempDir,
    before: BTreeMap<PathBuf, String>,
}

/// Programs that nobody has asked for, by names that git or a hostile archive may come up with.
const PROGRAMS: [&str; 11] = [
    "evil",
    "git-evil",
    "git-remote-evil",
    "git-merge-evil",
    "git-credential-evil",
    "gpg",
    "gpgsm",
    "vi",
    "sendmail",
    "ssh",
    "ssh-askpass",
];
/// All that git looks for in a directory of hooks.
pub const HOOKS: [&str; 28] = [
    "applypatch-msg",
    "pre-applypatch",
    "post-applypatch",
    "pre-commit",
    "pre-merge-commit",
    "prepare-commit-msg",
    "commit-msg",
    "post-commit",
    "pre-rebase",
    "post-checkout",
    "post-merge",
    "pre-push",
    "pre-receive",
    "update",
    "proc-receive",
    "post-receive",
    "post-update",
    "reference-transaction",
    "push-to-checkout",
    "pre-auto-gc",
    "post-rewrite",
    "sendemail-validate",
    "fsmonitor-watchman",
    "p4-changelist",
    "p4-prepare-changelist",
    "p4-post-changelist",
    "p4-pre-submit",
    "post-index-change",
];

impl Ground {
    pub fn new() -> Ground {
        let root = TempDir::with_prefix("tarpon-").unwrap_or_else(|e| panic!("tempdir: {e}"));
        let mut ground = Ground {
            root,
            before: BTreeMap::new(),
        };
        let path = |name: &str| ground.path(name);
        for name in ["user", "bin", "outside/tree", "hooks", "work"] {
            fs::create_dir_all(path(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        }
        let write = |name: &str, text: &str| {
            fs::write(path(name), text).unwrap_or_else(|e| panic!("{name}: {e}"));
        };
        let ran = path("ran");
        let script = format!("#!/bin/sh\necho \"$0 $*\" >>'{}'\n", ran.display());
        write("canary", &script);
        let executable = fs::Permissions::from_mode(0o755);
        fs::set_permissions(path("canary"), executable).unwrap_or_else(|e| panic!("{e}"));
        let programs = PROGRAMS.iter().map(|name| format!("bin/{name}"));
        let hooks = HOOKS.iter().map(|name| format!("hooks/{name}"));
        for name in programs.chain(hooks) {
            std::os::unix::fs::symlink(path("canary"), path(&name))
                .unwrap_or_else(|e| panic!("{name}: {e}"));
        }
        // The user's own configuration allows more than it should.
        let user = "[user]\n\tname = U\n\temail = u@example.com\n[protocol \"file\"]\n\tallow = always\n\
                    [advice]\n\tdetachedHead = false\n[gc]\n\tauto = 0\n";
        write("user/.gitconfig", user);
        let included = format!("[core]\n\tfsmonitor = {}\n", path("canary").display());
        write("evil.inc", &included);
        write("outside/victim", "whole\n");
        write("outside/a.txt", "whole\n");
        write("work/beside", "whole\n");
        ground.before = ground.look();
        ground
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// The same as text.
    pub fn text(&self, name: &str) -> String {
        self.path(name).to_string_lossy().into_owned()
    }

    pub fn target(&self) -> PathBuf {
        self.path("work/target")
    }

    fn look(&self) -> BTreeMap<PathBuf, String> {
        snapshot(self.root.path(), &[self.target(), self.path("ran")])
    }

    /// What ran that must not, or what is not as it was.
    pub fn harm(&self) -> Result<(), String> {
        if let Ok(ran) = fs::read_to_string(self.path("ran")) {
            return Err(format!("ran: {}", ran.lines().next().unwrap_or_default()));
        }
        let changed = difference(&self.before, &self.look());
        changed.map_or(Ok(()), |what| Err(format!("outside of the target: {what}")))
    }

    /// A command as this user runs it.
    pub fn command(&self, program: &str) -> Command {
        let mut command = git::with_umask(program);
        git::isolate(&mut command).env_remove("GIT_CONFIG_GLOBAL");
        let path = std::env::var("PATH").unwrap_or_default();
        command
            .env("HOME", self.path("user"))
            .env("XDG_CONFIG_HOME", self.path("user/none"))
            .env("PATH", format!("{}:{path}", self.text("bin")))
            .env("EDITOR", "true")
            .env_remove("VISUAL")
            .env_remove("SSH_ASKPASS")
            .stdin(Stdio::null());
        command
    }

    /// `tarpon restore` into the target.
    pub fn restore(&self, server: SocketAddr, more: &[&str]) -> Output {
        let mut command = self.command(&binary());
        command.args(["restore", "test/app"]).arg(self.target());
        command.args(["--server", &format!("http://{server}")]);
        let out = command.args(more).current_dir(self.path("work")).output();
        out.unwrap_or_else(|e| panic!("tarpon does not start: {e}"))
    }

    /// What `tar` makes of an archive.
    pub fn unpack(&self, tar: &[u8]) {
        fs::create_dir(self.target()).unwrap_or_else(|e| panic!("{e}"));
        let mut command = self.command("tar");
        command.arg("-x").current_dir(self.target());
        crate::made::piped(&mut command, tar);
    }

    /// Does in the target what a user does.
    pub fn use_it(&self) {
        let mut command = self.command("sh");
        command.args(["-c", USER]).current_dir(self.target());
        let out = command.output().unwrap_or_else(|e| panic!("{e}"));
        assert!(out.status.success(), "{out:?}");
    }
}

/// What a user does with a working copy; whatever fails.
const USER: &str = r#"
g() { timeout 20 git "$@" >/dev/null 2>&1; }
g status
g log -p -3
g diff HEAD~1
g lg
g fetch
g checkout -q -b work
g checkout -q -f HEAD~1
g checkout -q -f work
g restore .
echo more >>a.txt
printf 'y\nq\n' | timeout 20 git -c color.ui=always add -p >/dev/null 2>&1
g diff
g commit -q -a -m more
g commit -q --amend
g archive --format=evil HEAD
# It waits for seconds where there is none.
[ -z "$(git config diff.tool)" ] || g difftool -y HEAD~1
g merge -q -m merged origin/side
g merge --abort
g rebase -q -i HEAD~1
g rebase --abort
g gc -q --prune=now
g submodule update --init
g status
true
"#;
