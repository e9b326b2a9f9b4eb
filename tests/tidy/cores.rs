//! What runs on a network core never waits: neither for the disk, nor for a process, nor for
//! another thread.
//!
//! Taken function by function: in the files that cores run code of, every function counts as run
//! on a core unless it is named here with the reason. What a function hands to a thread
//! (`spawn_blocking`, `thread::spawn`, `Builder::spawn`) is not its own. A named function may be
//! called only by others that are named, or on such a thread. A name that is not needed any more is
//! a finding, too.

use crate::source::{Function, Project, Source, Token};

/// Files and directories of whose code some, at least, runs on cores.
const CORE_PATHS: [&str; 13] = [
    "src/http/",
    "src/api/",
    "src/archive/",
    "src/jobs/",
    "src/repos/",
    "src/server/",
    "src/extent/",
    "src/io/net.rs",
    "src/io/pipe.rs",
    "src/io/residency.rs",
    "src/telemetry/log.rs",
    "src/telemetry/metrics.rs",
    "src/telemetry/metrics/",
];

/// Files of which nothing runs on a core.
const OTHER_FILES: [(&str, &str); 7] = [
    ("src/jobs/archive_id.rs", "a thread for each build"),
    ("src/jobs/builder.rs", "a thread for each build"),
    ("src/jobs/entry.rs", "a thread for each build"),
    ("src/jobs/look.rs", "a thread, from `Jobs::look_for`"),
    ("src/jobs/pinned.rs", "a thread for each build"),
    (
        "src/jobs/scrub.rs",
        "a thread of its own, which the main thread starts and ends",
    ),
    ("src/jobs/packing.rs", "a thread for each build"),
];

/// File, function, and a reason.
type Named = (&'static str, &'static str, &'static str);

/// Functions that seem to wait but do not, and may be called anywhere.
const SEEMING: [Named; 7] = [
    (
        "src/io/net.rs",
        "send_file",
        "the socket never blocks, and residency found the file in memory",
    ),
    (
        "src/telemetry/log.rs",
        "RequestLogThread::finish_within",
        "takes the thread's owner, which only the main thread has",
    ),
    ("src/io/residency.rs", "nowhere", "/dev/null is on no disk"),
    (
        "src/jobs/plane.rs",
        "run",
        "a queue of tokio's, awaited by `select!`",
    ),
    (
        "src/archive/spool.rs",
        "write_all_at",
        "awaited a line later",
    ),
    (
        "src/jobs/upload_request.rs",
        "UploadRequest::forget_if_read",
        "the file is in memory",
    ),
    (
        "src/server/cores.rs",
        "run_core",
        "a core's executor itself",
    ),
];

/// Functions that wait, or call such ones, and where they run instead of on a core.
const WAITING: [Named; 73] = [
    (
        "src/jobs/adopting.rs",
        "Begun::open_or_make",
        "a thread, from `open_all`",
    ),
    (
        "src/jobs/adopting.rs",
        "KeptPacks::make_in",
        "a thread, from `Jobs::kept_of`",
    ),
    (
        "src/jobs/adoption.rs",
        "link_kept",
        "a thread, from `Jobs::download_packs`",
    ),
    (
        "src/jobs/same_files.rs",
        "sync",
        "a thread, from `take_files_now`",
    ),
    (
        "src/server/reload.rs",
        "InForce::anew",
        "the main thread, at a reload",
    ),
    (
        "src/server/reload.rs",
        "InForce::read_anew",
        "the main thread, between signals",
    ),
    (
        "src/archive/open_files.rs",
        "OpenFiles::open_all",
        "for prefetch threads",
    ),
    (
        "src/archive/open_files.rs",
        "Places::open_one",
        "for prefetch threads and builders",
    ),
    ("src/jobs/build.rs", "run", "a builder's thread"),
    (
        "src/jobs/download.rs",
        "Files::make",
        "a thread, from `Jobs::begin_import_now`",
    ),
    (
        "src/jobs/offer.rs",
        "Handle::wait_offered",
        "the main thread, at the end",
    ),
    (
        "src/jobs/state.rs",
        "Jobs::join_all",
        "the background thread, at its end",
    ),
    ("src/io/residency.rs", "read_in", "for prefetch threads"),
    (
        "src/telemetry/log.rs",
        "RequestLogThread::drop",
        "the main thread, at the end",
    ),
    (
        "src/telemetry/log.rs",
        "RequestLogThread::end_thread",
        "the main thread, at the end",
    ),
    ("src/telemetry/log.rs", "drain", "the log's thread"),
    (
        "src/archive/place.rs",
        "Archive::open_files",
        "for prefetch threads",
    ),
    (
        "src/archive/place.rs",
        "Archive::open_manifest_file",
        "for prefetch threads",
    ),
    (
        "src/jobs/sweep.rs",
        "remove",
        "a thread, from `sweep` and `Plane::remove_entry`",
    ),
    ("src/jobs/sweep.rs", "evict_all", "a thread, from `sweep`"),
    (
        "src/jobs/sweep.rs",
        "remove_retired",
        "a thread, from `sweep`",
    ),
    (
        "src/jobs/state.rs",
        "run",
        "the background thread's executor",
    ),
    (
        "src/jobs/sweep.rs",
        "sweep",
        "a thread, from `Plane::sweep`",
    ),
    (
        "src/jobs/heal.rs",
        "swap",
        "a thread, from `Plane::clone_beside`",
    ),
    (
        "src/jobs/taken.rs",
        "take_away",
        "a thread, from `Jobs::drop_all`",
    ),
    (
        "src/server/permissions.rs",
        "configured",
        "the main thread, before there are cores",
    ),
    (
        "src/server/permissions.rs",
        "by_permission",
        "the main thread, before there are cores",
    ),
    (
        "src/server/permissions.rs",
        "find_permissions",
        "the main thread, before there are cores",
    ),
    (
        "src/archive/prefetch.rs",
        "Prefetch::drop",
        "the main thread, at the end",
    ),
    ("src/archive/prefetch.rs", "read", "a prefetch thread"),
    ("src/archive/prefetch.rs", "run", "a prefetch thread"),
    (
        "src/server/threads.rs",
        "Background::drop",
        "the main thread, at the end",
    ),
    (
        "src/server/found.rs",
        "find_entries",
        "the main thread, at the start",
    ),
    (
        "src/server/found.rs",
        "find_mirrors",
        "the main thread, at the start",
    ),
    (
        "src/server/start.rs",
        "prepare",
        "the main thread, at the start",
    ),
    ("src/server/mod.rs", "run", "the main thread"),
    (
        "src/server/threads.rs",
        "end_of",
        "the main thread, at the end",
    ),
    (
        "src/server/taken.rs",
        "wait_for",
        "the main thread, at the start",
    ),
    (
        "src/server/threads.rs",
        "Background::start_thread",
        "the main thread, at the start",
    ),
    (
        "src/server/threads.rs",
        "Background::end_thread",
        "the main thread, at the end",
    ),
    (
        "src/server/cores.rs",
        "start_cores",
        "the main thread, at the start",
    ),
    (
        "src/archive/fanout.rs",
        "Fanout::wait_for_room",
        "for builders",
    ),
    (
        "src/archive/fanout.rs",
        "Fanout::push_piece",
        "for builders",
    ),
    ("src/archive/fanout.rs", "Fanout::wait_room", "for builders"),
    (
        "src/archive/fanout.rs",
        "Fanout::wait_drained",
        "for builders",
    ),
    (
        "src/archive/fanout.rs",
        "Fanout::wait_change",
        "for builders",
    ),
    (
        "src/archive/fanout.rs",
        "Fanout::wait_spooled",
        "for builders",
    ),
    (
        "src/archive/fanout.rs",
        "Fanout::wait_taken",
        "for builders",
    ),
    (
        "src/http/net/tls/files.rs",
        "read",
        "the main thread, at the start and at a reload",
    ),
    (
        "src/http/net/tls/files.rs",
        "all",
        "the main thread, at the start and at a reload",
    ),
    (
        "src/http/net/tls/files.rs",
        "certificates",
        "the main thread, at the start and at a reload",
    ),
    (
        "src/http/net/tls/files.rs",
        "revocations",
        "the main thread, at the start and at a reload",
    ),
    (
        "src/http/net/tls/files.rs",
        "key",
        "the main thread, at the start and at a reload",
    ),
    (
        "src/http/net/tls/clients.rs",
        "Clients::from_files",
        "the main thread, at the start and at a reload",
    ),
    (
        "src/http/net/tls/keys.rs",
        "Keys::from_files",
        "the main thread, at the start and at a reload",
    ),
    (
        "src/http/net/tls/keys.rs",
        "Keys::anew_from_files",
        "the main thread, at the start and at a reload",
    ),
    (
        "src/http/net/tls/keys.rs",
        "read_terms",
        "the main thread, at the start and at a reload",
    ),
    (
        "src/http/net/tls/keys.rs",
        "Shown::from_files",
        "the main thread, at the start and at a reload",
    ),
    (
        "src/server/socket_files.rs",
        "listen_at",
        "the main thread, at the start",
    ),
    (
        "src/server/socket_files.rs",
        "take_turn",
        "the main thread, at the start and at the end",
    ),
    (
        "src/server/socket_files.rs",
        "is_left_over",
        "the main thread, at the start",
    ),
    (
        "src/server/socket_files.rs",
        "SocketFile::drop",
        "the main thread, at the end",
    ),
    (
        "src/server/check.rs",
        "check_settings",
        "the main thread, of a check",
    ),
    (
        "src/server/check.rs",
        "check_state",
        "the main thread, of a check",
    ),
    (
        "src/server/check.rs",
        "check_places",
        "the main thread, of a check",
    ),
    (
        "src/server/found.rs",
        "Lying::lies_in",
        "the main thread, at the start",
    ),
    (
        "src/server/check.rs",
        "check_place",
        "the main thread, of a check",
    ),
    (
        "src/server/found.rs",
        "changed_unix_ms",
        "the main thread, at the start",
    ),
    (
        "src/server/found.rs",
        "settle",
        "the main thread, at the start",
    ),
    (
        "src/server/found.rs",
        "move_to",
        "the main thread, at the start",
    ),
    (
        "src/server/found.rs",
        "take_entry",
        "the main thread, at the start",
    ),
    (
        "src/jobs/askers.rs",
        "Shared::work_until_idle",
        "a thread that asks upstreams",
    ),
    (
        "src/server/exposed.rs",
        "exposed_files",
        "the main thread, at the start, and the thread that reads files anew",
    ),
];

/// What of the state directory is a matter of names and asks the disk for nothing.
/// `state` is also a mutex, which is held for a few steps only.
const STATE_NAMES: [&str; 4] = ["mirror_path", "root", "tmp_dir", "lock"];
/// Methods of files. Those that are awaited are of another kind.
const OF_FILES: [&str; 7] = [
    "sync_all",
    "sync_data",
    "set_len",
    "read_at",
    "write_at",
    "read_exact_at",
    "write_all_at",
];
/// Methods that wait for another thread, unless they are awaited.
const OF_THREADS: [&str; 9] = [
    "wait",
    "wait_while",
    "wait_timeout",
    "recv",
    "recv_timeout",
    "blocking_read",
    "blocking_write",
    "blocking_recv",
    "blocking_lock",
];

pub fn cores_never_block(project: &Project) -> Vec<String> {
    let mut found = Vec::new();
    let mut needed: Vec<&Named> = Vec::new();
    let is_core = |source: &&Source| {
        let starts = |path: &str| source.path.starts_with(path);
        CORE_PATHS.iter().any(|path| starts(path))
            && !OTHER_FILES.iter().any(|(path, _)| starts(path))
    };
    for source in project.program().filter(is_core) {
        for (line, what) in imported(source) {
            found.push(source.report(line, &what));
        }
        for function in &source.functions {
            let name = function.name();
            let mut waits = waits_in(function);
            waits.extend(calls_in(source, function));
            let is_named = |named: &&Named| (named.0, named.1) == (&source.path, &name);
            if let Some(named) = SEEMING.iter().chain(&WAITING).find(is_named) {
                needed.extend((!waits.is_empty()).then_some(named));
                continue;
            }
            for (line, what) in waits {
                found.push(source.report(line, &format!("{name}: {what}")));
            }
        }
    }
    let all = SEEMING.iter().chain(&WAITING);
    let idle = all.filter(|named| project.source(named.0).is_some() && !needed.contains(named));
    found.extend(idle.map(|(path, name, _)| format!("{path}: {name} waits for nothing")));
    found
}

/// Functions imported by their bare names, which no look at a call would recognize.
fn imported(source: &Source) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for index in source.find(&["use"]) {
        let tokens = source.tokens[index..].iter();
        let import: Vec<&Token> = tokens.take_while(|token| token.text != ";").collect();
        let of = |module: &str| import.iter().any(|token| token.text == module);
        for token in &import[1..] {
            let is_function = token.text.starts_with(|c: char| c.is_ascii_lowercase())
                && ![
                    "fs", "thread", "std", "self", "crate", "super", "io", "rustix", "as",
                ]
                .contains(&&*token.text);
            let is_bare = is_function && (of("fs") || of("thread")) && !of("crate");
            let is_gix = token.text == "gix" && !of("bstr");
            if is_bare || is_gix {
                let what = format!("`{}` imported where cores run", token.text);
                found.push((token.line, what));
            }
        }
    }
    found
}

/// Where a function waits, or may.
fn waits_in(function: &Function) -> Vec<(usize, String)> {
    let tokens = &function.tokens;
    let at = |index: usize| tokens.get(index).map_or("", |token| &*token.text);
    let mut found = Vec::new();
    for index in 0..tokens.len() {
        let next = [at(index), at(index + 1), at(index + 2), at(index + 3)];
        if let Some(why) = wait_at(next, &tokens[index..]) {
            let what = format!("`{}` on a core: {why}", next.concat());
            found.push((tokens[index].line, what));
        }
    }
    found
}

fn wait_at(next: [&str; 4], rest: &[Token]) -> Option<&'static str> {
    let is_lower = |text: &str| text.starts_with(|c: char| c.is_ascii_lowercase());
    match next {
        ["fs", "::", function, _] if is_lower(function) => Some("a file system call"),
        ["File", "::", how, "("] if is_lower(how) && how != "from" => {
            Some("opening a file waits for the disk")
        }
        ["OpenOptions", ..] | ["open_regular", "(", ..] => {
            Some("opening a file waits for the disk")
        }
        [".", method, "(", _] if OF_FILES.contains(&method) && !is_awaited(rest) => {
            Some("waits for the disk")
        }
        ["tempfile" | "tempfile_in" | "tempdir", "::" | "(", ..] => Some("waits for the disk"),
        ["state", ".", method, "("] if !STATE_NAMES.contains(&method) => {
            Some("the state directory is on a disk")
        }
        ["gix", "::", module, _] if module != "bstr" => Some("a repository is on a disk"),
        ["MappedFile", ..] | ["memmap2", "::", ..] => Some("a mapped page waits for the disk"),
        ["Command", "::", "new", _] => Some("starting a process takes milliseconds"),
        ["block_on", "(", ..] => Some("a core runs one executor"),
        ["thread", "::", "sleep" | "park" | "park_timeout", _] => Some("the whole core sleeps"),
        [".", "join", "(", ")"] => Some("waits for another thread"),
        [".", method, "(", _] if OF_THREADS.contains(&method) && !is_awaited(rest) => {
            Some("waits for another thread")
        }
        _ => None,
    }
}

/// Whether the call at `.` is followed by `.await`.
fn is_awaited(rest: &[Token]) -> bool {
    let mut depth = 0;
    let end = rest.iter().position(|token| {
        match &*token.text {
            "(" => depth += 1,
            ")" => depth -= 1,
            _ => return false,
        }
        depth == 0
    });
    let after = end.map_or(&[][..], |end| &rest[end + 1..]);
    matches!(after, [dot, word, ..] if (&*dot.text, &*word.text) == (".", "await"))
}

/// Calls of functions that wait.
fn calls_in(source: &Source, function: &Function) -> Vec<(usize, String)> {
    let tokens = &function.tokens;
    let mut found = Vec::new();
    for index in 0..tokens.len().saturating_sub(1) {
        if tokens[index + 1].text != "(" {
            continue;
        }
        let before = |back: usize| index.checked_sub(back).map_or("", |i| &*tokens[i].text);
        let is_called = |(path, name, _): &&Named| {
            let stem = path
                .rsplit('/')
                .next()
                .and_then(|file| file.strip_suffix(".rs"));
            match name.split_once("::") {
                Some((of, method)) if tokens[index].text == method => {
                    before(1) == "." || before(1) == "::" && before(2) == of
                }
                None if tokens[index].text == *name => match before(1) {
                    "::" => Some(before(2)) == stem,
                    "." | "fn" => false,
                    _ => source.path == *path,
                },
                _ => false,
            }
        };
        if let Some((_, name, why)) = WAITING.iter().find(is_called) {
            found.push((tokens[index].line, format!("calls {name} ({why})")));
        }
    }
    found
}
