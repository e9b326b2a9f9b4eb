//! A running `git` of a restore, to its end: what it says, takes and leaves.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use super::arrivals::Arrivals;
use super::error::RestoreError;
use super::quota::Quota;
use super::stop::Stop;
use crate::git::DISK_FULL_MESSAGES;
use crate::git::watched::{self, Counted, Ended, Said};
use crate::io::child;
use crate::io::growth::{self, Meter};
use crate::limits::{
    RESTORE_GIT_LIMIT_MS, RESTORE_GIT_MEMORY_BYTES, RESTORE_GIT_OUTPUT_BYTES_MAX,
    RESTORE_LOOK_MEMORY_BYTES,
};

/// Where a step writes, and how much it may: what comes from a network decides about that.
#[derive(Clone, Copy)]
pub(super) struct Room<'a> {
    /// The repository.
    pub tree: &'a Path,
    pub quota: &'a Quota,
    /// All steps that share it have to end by then.
    pub until: Instant,
}

impl<'a> Room<'a> {
    /// One for all that is still to be fetched and checked out.
    pub(super) fn new(tree: &'a Path, quota: &'a Quota) -> Room<'a> {
        let until = Instant::now() + Duration::from_millis(RESTORE_GIT_LIMIT_MS);
        Room { tree, quota, until }
    }

    fn git_dir(&self) -> PathBuf {
        self.tree.join(".git")
    }
}

/// What a step takes of the machine.
#[derive(Clone, Copy)]
pub(super) enum Takes<'a> {
    /// It looks at a few things.
    Little,
    /// It walks through history, and has to end by then.
    Walk(Instant),
    /// It writes into the repository.
    Objects(Room<'a>),
    /// It writes into the worktree, too.
    Files(Room<'a>),
}

impl<'a> Takes<'a> {
    /// Most memory of each of its processes.
    pub(super) fn memory_bytes(self) -> u64 {
        match self {
            Takes::Little => RESTORE_LOOK_MEMORY_BYTES,
            Takes::Walk(_) | Takes::Objects(_) | Takes::Files(_) => RESTORE_GIT_MEMORY_BYTES,
        }
    }

    /// The room that is written to.
    fn room(self) -> Option<Room<'a>> {
        match self {
            Takes::Little | Takes::Walk(_) => None,
            Takes::Objects(room) | Takes::Files(room) => Some(room),
        }
    }

    /// When it has to have ended.
    fn until(self) -> Instant {
        match self {
            Takes::Little => Instant::now() + Duration::from_millis(RESTORE_GIT_LIMIT_MS),
            Takes::Walk(until) => until,
            Takes::Objects(room) | Takes::Files(room) => room.until,
        }
    }

    /// The room that is written to, and what grows then.
    fn growth(self) -> Option<(Room<'a>, Meter)> {
        match self {
            Takes::Little | Takes::Walk(_) => None,
            Takes::Objects(room) => Some((room, Meter::new(room.git_dir()))),
            Takes::Files(room) => Some((room, Meter::new(room.tree.to_owned()))),
        }
    }
}

/// A step by its name in an error.
#[derive(Clone, Copy)]
struct Step<'s>(&'s str);

impl Step<'_> {
    fn failed(self, detail: String) -> RestoreError {
        let step = self.0.to_owned();
        RestoreError::Git { step, detail }
    }

    fn io(self, e: std::io::Error) -> RestoreError {
        self.failed(e.to_string())
    }

    fn not_started(self, e: std::io::Error) -> RestoreError {
        let advice = "install git, or name its directory in PATH";
        self.failed(format!("it cannot be started: {e}: {advice}"))
    }

    /// How it ended, if nobody has ended it.
    fn status(self, ended: Ended<Over>) -> Result<ExitStatus, RestoreError> {
        match ended {
            Ended::Itself(status) => Ok(status),
            Ended::Over(Over::Quota(error)) => Err(error),
            Ended::Over(Over::Output) => {
                Err(self.failed("it was ended, as there is no end to what it says".into()))
            }
            Ended::Over(Over::Time) => {
                Err(self.failed("it was ended, as it takes too long".into()))
            }
        }
    }

    /// Why one has failed that has said this of it.
    fn reason(self, status: ExitStatus, text: &str, room: Option<Room<'_>>) -> RestoreError {
        if let Some(why) = child::not_started(status.code(), text) {
            return self.not_started(why);
        }
        match (full_disk(text), room) {
            (Some(line), Some(room)) => {
                let why = std::io::Error::new(std::io::ErrorKind::StorageFull, line);
                RestoreError::disk("write with git to", room.tree, why)
            }
            _ => self.failed(format!("{status}: {}", reasons(text))),
        }
    }
}

/// Runs `command` and gives its standard output; `step` is its name in an error.
pub(super) fn output(
    stop: &Stop,
    mut command: Command,
    step: &str,
    takes: Takes<'_>,
) -> Result<Vec<u8>, RestoreError> {
    let step = Step(step);
    let io = |e| step.io(e);
    let mut said = Said::of(&mut command).map_err(io)?;
    let mut watch = Watch::new(&said, takes)?;
    let arrivals = takes.room().map(|room| Arrivals::watch(room.tree));
    let mut arrivals = arrivals.transpose()?;
    let child = command.spawn().map_err(|e| step.not_started(e))?;
    let ended = watched::finish(child, || stop.is_set(), || watch.is_over()).map_err(io)?;
    let is_good = matches!(&ended, Ended::Itself(status) if status.success());
    if let (Some(room), false) = (takes.room(), is_good) {
        // It may have let a pack in and then seen that it is not what was asked for.
        drop(arrivals.take());
        remove_half_made(&room.git_dir());
    }
    watch.conclude()?;
    if let Some(arrivals) = arrivals {
        arrivals.keep();
    }
    let status = step.status(ended)?;
    match status.success() {
        true => said.output().map_err(io),
        false => Err(step.reason(status, &said.errors().map_err(io)?, takes.room())),
    }
}

/// Runs `command`, which writes into no repository, and gives how many lines it says: they are counted as they come, however
/// many there are. It has to end by `until`.
pub(super) fn lines_of(
    stop: &Stop,
    mut command: Command,
    step: &str,
    until: Instant,
) -> Result<u64, RestoreError> {
    let step = Step(step);
    let io = |e| step.io(e);
    let mut said = Counted::of(&mut command).map_err(io)?;
    let child = command.spawn().map_err(|e| step.not_started(e))?;
    let over = || {
        said.take()?;
        Ok((Instant::now() >= until).then_some(Over::Time))
    };
    let ended = watched::finish(child, || stop.is_set(), over).map_err(io)?;
    let status = step.status(ended)?;
    match status.success() {
        true => Ok(said.lines()),
        false => Err(step.reason(status, &said.errors(), None)),
    }
}

/// The line of a `git` that had no room on the disk. What comes from a server is about its own.
fn full_disk(text: &str) -> Option<&str> {
    let is_own = |line: &&str| !line.starts_with("remote:");
    let is_full = |line: &&str| {
        let line = line.to_lowercase();
        DISK_FULL_MESSAGES.iter().any(|full| line.contains(full))
    };
    lines(text).filter(is_own).rfind(is_full)
}

/// What a `git` that failed says but for what is no reason, if there is more.
fn reasons(text: &str) -> String {
    let is_reason = |line: &&str| !line.starts_with("warning:") && !line.starts_with("hint:");
    let found: Vec<&str> = lines(text).filter(is_reason).collect();
    match found.is_empty() {
        true => text.trim().to_owned(),
        false => found.join("\n"),
    }
}

fn lines(text: &str) -> impl DoubleEndedIterator<Item = &str> {
    let lines = text.split(['\n', '\r']).map(str::trim);
    lines.filter(|line| !line.is_empty())
}

/// Why a `git` has to end.
enum Over {
    /// It says too much.
    Output,
    Time,
    /// It has written too much, or what it writes cannot be measured.
    Quota(RestoreError),
}

/// Looks at what a `git` does.
struct Watch<'a> {
    said: &'a Said,
    growth: Option<(Room<'a>, Meter)>,
    until: Instant,
    /// When the disk is looked at next.
    next: Instant,
}

impl<'a> Watch<'a> {
    /// Before it starts.
    fn new(said: &'a Said, takes: Takes<'a>) -> Result<Watch<'a>, RestoreError> {
        let mut watch = Watch {
            said,
            growth: takes.growth(),
            until: takes.until(),
            next: takes.until(),
        };
        watch.grown_bytes()?;
        Ok(watch)
    }

    /// Looks at the disk; notes when to do so again.
    fn grown_bytes(&mut self) -> Result<u64, RestoreError> {
        let Some((_, meter)) = &mut self.growth else {
            return Ok(0);
        };
        let began = Instant::now();
        let grown = meter.look();
        self.next = Instant::now() + growth::pause(began.elapsed());
        grown.map_err(|e| RestoreError::disk("measure", meter.dir(), e))
    }

    fn is_over(&mut self) -> std::io::Result<Option<Over>> {
        if self.said.len_bytes()? > RESTORE_GIT_OUTPUT_BYTES_MAX {
            return Ok(Some(Over::Output));
        }
        let now = Instant::now();
        if now >= self.until {
            return Ok(Some(Over::Time));
        }
        let Some((Room { quota, .. }, _)) = self.growth else {
            return Ok(None);
        };
        if now < self.next {
            return Ok(None);
        }
        let room = self.grown_bytes().and_then(|grown| quota.look(grown));
        Ok(room.err().map(Over::Quota))
    }

    /// Counts what was written.
    fn conclude(&mut self) -> Result<(), RestoreError> {
        let grown_bytes = self.grown_bytes()?;
        match &self.growth {
            Some((room, _)) => room.quota.take(grown_bytes),
            None => Ok(()),
        }
    }
}

/// Whether it is a directory, and no link to what is somebody else's.
fn is_own_directory(path: &PathBuf) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|found| found.is_dir())
}

/// Removes what a `git` that failed has left of objects that are not whole, and its locks: where it
/// was killed it could not, and it does not remove packs that are cut off.
fn remove_half_made(git_dir: &Path) {
    let entries = |dir: &Path| std::fs::read_dir(dir).into_iter().flatten().flatten();
    let objects = git_dir.join("objects");
    let below = entries(&objects).map(|entry| entry.path());
    let below: Vec<PathBuf> = below.filter(is_own_directory).collect();
    let made = [objects].into_iter().chain(below);
    let made = made.flat_map(|dir| entries(&dir));
    let made = made.filter(|entry| entry.file_name().as_bytes().starts_with(b"tmp_"));
    let locks = entries(git_dir).filter(|entry| entry.file_name().as_bytes().ends_with(b".lock"));
    for entry in made.chain(locks) {
        // What stays is in nobody's way.
        let _ = match entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            true => std::fs::remove_dir_all(entry.path()),
            false => std::fs::remove_file(entry.path()),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::CommandExt;
    use std::process::Stdio;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]).process_group(0);
        command.stdin(Stdio::null());
        command
    }

    fn limited(tree: &Path, script: &str, limit_bytes: u64) -> Result<Vec<u8>, RestoreError> {
        let quota = Quota::new(Some(limit_bytes), tree).unwrap();
        let room = Room::new(tree, &quota);
        let mut command = shell(script);
        command.current_dir(tree);
        output(&Stop::default(), command, "fetch", Takes::Objects(room))
    }

    /// Who writes without end is ended, with all of its helpers, and nothing half made stays.
    #[test]
    fn who_writes_more_than_there_is_room_for_is_ended() {
        let tree = tempfile::tempdir().unwrap();
        let git_dir = tree.path().join(".git");
        let pack = git_dir.join("objects/pack");
        std::fs::create_dir_all(&pack).unwrap();
        std::fs::write(pack.join("before.pack"), vec![1; 1 << 20]).unwrap();
        // The helper does not hear that it is to end, and its leader has gone by then.
        let script = "
            (trap '' TERM; while :; do head -c 65536 /dev/zero; sleep 0.001; done \
                > .git/objects/pack/tmp_pack_x) &
            echo $! > helper; : > .git/shallow.lock; : > .git/objects/pack/pack-x.keep
            trap 'exit 0' TERM; while :; do sleep 0.01; done";
        let error = limited(tree.path(), script, 4 << 20).unwrap_err();
        assert!(matches!(error, RestoreError::SizeLimit { .. }), "{error}");
        let helper = std::fs::read_to_string(tree.path().join("helper")).unwrap();
        let helper = format!("/proc/{}/stat", helper.trim());
        let lives = || {
            let stat = std::fs::read_to_string(&helper).unwrap_or_default();
            stat.rsplit(") ")
                .next()
                .is_some_and(|s| !s.is_empty() && !s.starts_with(['Z', 'X']))
        };
        let limit = Instant::now() + Duration::from_secs(20);
        while lives() {
            assert!(Instant::now() < limit, "the helper lives");
            std::thread::sleep(Duration::from_millis(5));
        }
        let mut left: Vec<_> = std::fs::read_dir(&pack)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        left.sort();
        assert_eq!(left, ["before.pack"]);
        assert!(!git_dir.join("shallow.lock").exists());
    }

    /// However fast it is, and whatever it says about how it went.
    #[test]
    fn who_has_written_too_much_has_failed() {
        let tree = tempfile::tempdir().unwrap();
        std::fs::create_dir(tree.path().join(".git")).unwrap();
        for end in ["exit 0", "exit 1"] {
            let script = format!("head -c 100000 /dev/zero > .git/x; {end}");
            let error = limited(tree.path(), &script, 50_000).unwrap_err();
            assert_eq!(error.exit_code(), 4, "{error}");
            std::fs::remove_file(tree.path().join(".git/x")).unwrap();
        }
        assert!(limited(tree.path(), "head -c 9000 /dev/zero > .git/x", 50_000).is_ok());
    }

    /// What one step has taken the next one has not.
    #[test]
    fn room_is_that_of_all_steps_and_ends() {
        let tree = tempfile::tempdir().unwrap();
        std::fs::create_dir(tree.path().join(".git")).unwrap();
        let quota = Quota::new(Some(100_000), tree.path()).unwrap();
        let room = Room::new(tree.path(), &quota);
        let step = |number: usize| {
            let script = format!("head -c 60000 /dev/zero > .git/{number}");
            let mut command = shell(&script);
            command.current_dir(tree.path());
            output(&Stop::default(), command, "fetch", Takes::Files(room))
        };
        step(1).unwrap();
        assert_eq!(step(2).unwrap_err().exit_code(), 4);
        let quota = Quota::new(None, tree.path()).unwrap();
        let mut room = Room::new(tree.path(), &quota);
        room.until = Instant::now() + Duration::from_millis(50);
        let endless = shell("while :; do sleep 0.01; done");
        let error = output(&Stop::default(), endless, "fetch", Takes::Objects(room));
        let error = error.unwrap_err();
        assert_eq!(error.exit_code(), 6);
        assert!(error.to_string().contains("too long"), "{error}");
    }

    /// That its disk is full may be anywhere in what it says; that a server's is, is not about ours.
    #[test]
    fn a_full_disk_is_the_disks_failure() {
        let tree = tempfile::tempdir().unwrap();
        std::fs::create_dir(tree.path().join(".git")).unwrap();
        let says = |text: &str| {
            let script = format!("printf '{text}' >&2; exit 128");
            limited(tree.path(), &script, 1 << 20).unwrap_err()
        };
        let warning = "warning: templates not found\\nwarning: twice\\n";
        for text in [
            "error: file write error: No space left on device\\nfatal: unable to write\\n",
            "Receiving: 3%%\\rfatal: write error: Disk quota exceeded\\n",
        ] {
            let error = says(&format!("{warning}{text}"));
            assert_eq!(error.exit_code(), 4, "{error}");
            let said = error.to_string();
            assert!(said.contains("write error"), "{said}");
            assert!(!said.contains("warning"), "{said}");
            assert!(!error.is_servers());
        }
        let error = says("remote: No space left on device\\nfatal: early EOF\\n");
        assert_eq!(error.exit_code(), 6, "{error}");
        // The reason, and not what was said before it; but something.
        let error = says(&format!("{warning}fatal: no\\nhint: think\\n"));
        assert!(error.to_string().ends_with("128: fatal: no"), "{error}");
        let error = says(warning);
        assert!(error.to_string().contains("twice"), "{error}");
    }

    /// What it says is no reason for anything but its end is.
    #[test]
    fn lines_are_counted_however_many_there_are() {
        let count = |script: &str| {
            let until = Instant::now() + Duration::from_secs(600);
            lines_of(&Stop::default(), shell(script), "clean", until)
        };
        assert_eq!(
            count("[ -p /dev/stdout ] && [ -p /dev/stderr ]").unwrap(),
            0
        );
        // Also what is written last, and all of what a pipe holds.
        assert_eq!(count("echo a; echo b >&2; echo c; printf d").unwrap(), 2);
        assert_eq!(count("yes | head -n 32768").unwrap(), 32_768);
        let bytes = RESTORE_GIT_OUTPUT_BYTES_MAX + 4;
        let lines = count(&format!(
            "yes xxxxxxx | head -c {bytes}; yes | head -c {bytes} >&2"
        ));
        assert_eq!(lines.unwrap(), bytes / 8);
        let error = count("yes no | head -c 1000000 >&2; echo the reason >&2; exit 3").unwrap_err();
        let said = error.to_string();
        assert!(
            said.ends_with("the reason") && said.len() < 20_000,
            "{}",
            said.len()
        );
        let until = Instant::now() + Duration::from_millis(50);
        let error = lines_of(&Stop::default(), shell("yes"), "clean", until).unwrap_err();
        assert!(error.to_string().contains("too long"), "{error}");
    }

    /// A server has `git` say what it likes.
    #[test]
    fn who_says_without_end_is_ended() {
        let stop = Stop::default();
        for script in ["yes", "yes >&2"] {
            let error = output(&stop, shell(script), "fetch", Takes::Little).unwrap_err();
            assert!(error.to_string().contains("no end"), "{error}");
        }
        let script = "head -c 1000000 /dev/zero | tr '\\0' x >&2; echo >&2 the reason; exit 1";
        let error = output(&stop, shell(script), "fetch", Takes::Little)
            .unwrap_err()
            .to_string();
        assert!(
            error.ends_with("the reason") && error.len() < 10_000,
            "{}",
            error.len()
        );
        assert_eq!(
            output(&stop, shell("echo said"), "fetch", Takes::Little).unwrap(),
            b"said\n"
        );
    }
}
