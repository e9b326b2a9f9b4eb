//! The server's children: they end with it, and are otherwise as if it had started them itself.

use super::support::client::Conn;
use super::support::lab::{self, Lab};
use super::support::relay::{self, Ends};
use super::support::repos::{self, FILE, Importer, Layout};
use super::support::server::{Server, Settings};
use super::support::{git, processes, wait};
use super::{large_lab, new_lab};
use rustix::process::{Pid, Signal};
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

/// `kill -9` in the middle of a clone from an upstream that has stopped sending: neither git nor
/// any helper of it stays behind. Which helpers there are depends on the protocol's version.
#[test]
fn no_git_outlives_a_killed_server() {
    let far = large_lab();
    let far_server = far.start();
    far_server.get(&lab::target("large")).expect(200);
    let part = 1 << 20;
    for version in ["0", "2"] {
        let address = relay::interrupt(far_server.address(), move |_| Ends::Stall(part));
        kill_while_it_clones(&format!("http://{address}/git/test/"), version, part);
    }
}

/// SIGTERM at the same moment: nothing of the clone is left either, once the server has ended.
#[test]
fn a_server_that_stops_leaves_no_half_of_a_clone() {
    let far = large_lab();
    let far_server = far.start();
    far_server.get(&lab::target("large")).expect(200);
    let part = 1 << 20;
    let address = relay::interrupt(far_server.address(), move |_| Ends::Stall(part));
    let upstream = format!("http://{address}/git/test/");
    let (lab, mut server, _client) = start_a_clone(&upstream, "2", part);
    let tmp = lab.state().join("tmp");
    let mut clones = fs::read_dir(&tmp).unwrap();
    let clone = clones.next().unwrap().unwrap().path();
    // As long to remove as many objects are.
    for number in 0..2000 {
        fs::write(clone.join(number.to_string()), "").unwrap();
    }
    server.terminate();
    let status = server.wait_exit(wait::DEADLINE);
    assert!(status.success(), "{status}");
    assert_eq!(lab.orphans(), Vec::<String>::new());
    processes::expect_ended("a stop", || processes::with(&upstream));
}

fn kill_while_it_clones(upstream: &str, version: &str, part: u64) {
    let (lab, mut server, _client) = start_a_clone(upstream, version, part);
    let state = lab.state().display().to_string();
    let look = || [processes::with(&state), processes::with(upstream)].concat();
    let before = look();
    let helpers = ["index-pack", "remote-http"];
    let runs = |helper: &&str| before.iter().any(|line| line.contains(helper));
    assert!(helpers.iter().all(runs), "{before:#?}");
    server.kill();
    processes::expect_ended(&format!("version {version}"), look);
}

/// A server that clones for a client from an `upstream` which stops after `part` bytes, once it
/// has.
fn start_a_clone(upstream: &str, version: &str, part: u64) -> (Lab, Server, Conn) {
    let lab = new_lab();
    let mut settings = lab.settings().with(&["--shutdown-grace", "0s"]);
    settings.upstreams = vec![format!("test={upstream}")];
    for (name, value) in [
        ("GIT_CONFIG_COUNT", "1"),
        ("GIT_CONFIG_KEY_0", "protocol.version"),
        ("GIT_CONFIG_VALUE_0", version),
    ] {
        settings.environment.push((name.into(), value.into()));
    }
    let server = settings.start();
    let mut conn = Conn::open(server.address());
    conn.request("GET", &lab::target("large"), &[]);
    // Most of what ever comes is there: nothing more will end a helper whose reader is gone.
    wait::until_true("the upstream has stopped sending", || {
        git::received_bytes(&lab.state()) >= part * 3 / 4
    });
    (lab, server, conn)
}

/// Stands in for `git`: one that packs objects never ends, all else is done by the real one.
const SLOW_PACKER: &str = "#!/bin/sh
case \" $* \" in *' pack-objects '*) exec sleep 100 ;; esac
PATH=${PATH#*:} exec git \"$@\"
";

/// SIGTERM while a mirror's loose objects are packed, which a build begins with: it does not wait
/// for that.
#[test]
fn a_server_that_stops_packs_no_loose_objects() {
    let lab = new_lab();
    let settings = settings_with_loose(&lab, SLOW_PACKER);
    let mut server = settings.with(&["--shutdown-grace", "0s"]).start();
    let mut conn = Conn::open(server.address());
    conn.request("GET", &lab::target("loose"), &[]);
    let state = lab.state().display().to_string();
    let look = || processes::with(&state);
    wait::until_true("objects are packed", || {
        look().iter().any(|line| line.contains("pack-objects"))
    });
    server.terminate();
    let status = server.wait_exit(Duration::from_secs(30));
    assert!(status.success(), "{status}");
    processes::expect_ended("a stop", look);
    lab.expect_no_orphans();
}

/// Puts a mirror `loose` into the state directory that must be packed before it is built from.
/// Gives the settings of a server to which the script `git` is `git`.
pub(super) fn settings_with_loose(lab: &Lab, git: &str) -> Settings {
    let path = lab.upstream("loose");
    repos::init_bare(&path, "main", "sha1");
    let mut import = Importer::start(&path, Layout::Loose);
    import.commit("refs/heads/main", "many");
    for number in 0..400 {
        let content = format!("{number}\n");
        import.file(FILE, format!("{number}.txt").as_bytes(), content.as_bytes());
    }
    import.finish();
    lab::copy_tree(&path, &lab.mirror("loose"));
    settings_with_git(lab, git)
}

/// The settings of a server to which the script `git` is `git`.
pub(super) fn settings_with_git(lab: &Lab, git: &str) -> Settings {
    let bin = lab.scratch("bin");
    lab::create_dir(&bin);
    fs::write(bin.join("git"), git).unwrap();
    fs::set_permissions(bin.join("git"), fs::Permissions::from_mode(0o755)).unwrap();
    let mut settings = lab.settings();
    let path = std::env::var("PATH").unwrap();
    let path = format!("{}:{path}", bin.display());
    settings.environment.push(("PATH".into(), path));
    settings
}

/// A starter of `program`, after the words of `launcher`, in a group of its own.
fn starter(launcher: &[&str], program: &[&str]) -> Command {
    let parent = std::process::id().to_string();
    let own = [
        env!("CARGO_BIN_EXE_tarpon"),
        "start-child",
        &parent,
        "10",
        "536870912",
    ];
    let words = [launcher, &own, program].concat();
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).process_group(0);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    command
}

fn start(script: &str) -> (Child, BufReader<ChildStdout>) {
    let mut child = starter(&[], &["sh", "-c", script])
        .spawn()
        .unwrap_or_else(|e| panic!("{e}"));
    let stdout = child.stdout.take().map(BufReader::new);
    (child, stdout.unwrap_or_else(|| panic!("no stdout")))
}

fn signal_group(child: &Child, signal: Signal) {
    let sent = rustix::process::kill_process_group(Pid::from_child(child), signal);
    sent.unwrap_or_else(|e| panic!("{e}"));
}

#[test]
fn a_starter_ends_as_its_program_does() {
    for (script, code, signal) in [
        ("exit 0", Some(0), None),
        ("exit 3", Some(3), None),
        ("kill -s TERM $$", None, Some(15)),
        ("kill -s KILL $$", None, Some(9)),
        ("kill -s USR1 $$", None, Some(10)),
    ] {
        let (mut child, _) = start(script);
        let status = child.wait().unwrap_or_else(|e| panic!("{e}"));
        assert_eq!((status.code(), status.signal()), (code, signal), "{script}");
    }
    let mut absent = starter(&[], &["/nonexistent/git"]);
    let out = absent.output().unwrap_or_else(|e| panic!("{e}"));
    let errors = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(127), "{errors}");
    let wanted = "tarpon: cannot start /nonexistent/git: ";
    assert!(errors.starts_with(wanted), "{errors}");
}

/// SIGTERM to the group is the program's to obey: it tidies up, and the starter waits for it.
#[test]
fn a_starter_lets_its_program_tidy_up() {
    let script = "trap 'sleep 0.2; echo tidied; exit 7' TERM; echo ready; \
                  for i in $(seq 400); do sleep 0.05; done";
    let (mut child, mut stdout) = start(script);
    let mut text = String::new();
    let read = stdout.read_line(&mut text);
    read.unwrap_or_else(|e| panic!("{e}"));
    signal_group(&child, Signal::TERM);
    let status = child.wait().unwrap_or_else(|e| panic!("{e}"));
    let rest = stdout.read_to_string(&mut text);
    rest.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((status.code(), &*text), (Some(7), "ready\ntidied\n"));
}

/// The pipes are the program's: when it closes one, that is seen before it ends.
#[test]
fn a_starter_holds_no_pipe() {
    let (mut child, mut stdout) = start("exec >&-; sleep 20; exit 9");
    let mut text = String::new();
    let read = stdout.read_to_string(&mut text);
    read.unwrap_or_else(|e| panic!("{e}"));
    signal_group(&child, Signal::KILL);
    let status = child.wait().unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(status.code(), None, "the end of its output came at its own");
}

/// Nothing that was open in whoever called it stays so, in the starter or in its program: not even
/// what is not marked to be closed.
#[test]
fn a_starter_inherits_nothing() {
    let (mut ours, theirs) = std::io::pipe().unwrap_or_else(|e| panic!("{e}"));
    let inheritable = ["sh", "-c", "exec 7>&0 </dev/null; exec \"$@\"", "sh"];
    let mut command = starter(
        &inheritable,
        &["sh", "-c", "ls /proc/self/fd; echo .; sleep 20"],
    );
    let mut child = command
        .stdin(theirs)
        .spawn()
        .unwrap_or_else(|e| panic!("{e}"));
    drop(command);
    let mut text = String::new();
    let mut stdout = child.stdout.take().map(BufReader::new).unwrap();
    while !text.ends_with(".\n") {
        let read = stdout.read_line(&mut text);
        assert!(read.is_ok_and(|count| count > 0), "{text}");
    }
    // Comes at once, or when the program has ended.
    let read = ours.read(&mut [0]);
    let runs = matches!(child.try_wait(), Ok(None));
    signal_group(&child, Signal::KILL);
    child.wait().unwrap_or_else(|e| panic!("{e}"));
    // `ls` has the directory open itself.
    assert_eq!(text, "0\n1\n2\n3\n.\n");
    assert!(
        runs && read.is_ok_and(|count| count == 0),
        "held by the starter"
    );
}

/// While a clone hangs, a client that was answered and closed sees the end of its connection: no
/// child of the server holds its socket.
#[test]
fn a_client_hears_the_end_while_a_clone_hangs() {
    let upstream = relay::listen(|_| relay::be_silent());
    let lab = new_lab();
    let mut settings = lab.settings();
    settings.upstreams = vec![format!("test=http://{upstream}/")];
    // What a service manager leaves open, for one, is inherited by the server.
    let launcher = ["sh", "-c", "exec 9</; exec \"$@\"", "sh"];
    settings.launcher = launcher.map(str::to_owned).to_vec();
    let server = settings.start();
    let count = 8;
    std::thread::scope(|scope| {
        let mut clones = Vec::new();
        let mut answered = Vec::new();
        for number in 0..count {
            let mut clone = Conn::open(server.address());
            clone.request("GET", &lab::target(&format!("r{number}")), &[]);
            clones.push(clone);
            // Accepted while a child is started.
            let client = || {
                let mut client = Conn::open(server.address());
                client.request("GET", "/_liveness", &[]);
                client.response("GET").expect(200);
                client.finish_sending();
                client
            };
            answered.extend([(); 4].map(|()| scope.spawn(client)));
        }
        let children = || processes::with(&upstream.to_string());
        wait::until_true("clones hang", || {
            let is_git = |line: &&String| line.contains("remote-http");
            children().iter().filter(is_git).count() >= count
        });
        for client in answered {
            let mut client = client.join().unwrap();
            assert!(client.closes_within(wait::DEADLINE), "no end");
        }
        // One that starts its program just now has that one's pipes for a moment more.
        wait::until_true("no starter holds anything", || {
            let inherited = processes::open_files(&upstream.to_string());
            let mut starters = inherited
                .iter()
                .filter(|(_, line)| line.contains("start-child"));
            starters.all(|(files, _)| files.iter().all(|file| file == "/dev/null"))
        });
    });
}

/// What is blocked in the server is not so in its children, and they are nicer.
#[test]
fn a_program_starts_with_no_signal_blocked_and_nice() {
    let blocking = ["env", "--block-signal=TERM,INT,USR1,CHLD"];
    let mut command = starter(&blocking, &["cat", "/proc/self/status", "/proc/self/stat"]);
    let out = command.output().unwrap_or_else(|e| panic!("{e}"));
    let text = String::from_utf8_lossy(&out.stdout);
    for field in ["SigBlk:", "SigCgt:"] {
        let set = text.lines().find_map(|line| line.strip_prefix(field));
        assert_eq!(
            set.map(str::trim),
            Some("0000000000000000"),
            "{field} {text}"
        );
    }
    let stat = text.lines().last().and_then(|stat| stat.rsplit(')').next());
    let nice = stat.and_then(|fields| fields.split_whitespace().nth(16)?.parse().ok());
    assert!(nice.is_some_and(|nice: i32| nice >= 10), "{text}");
}

/// What a program may take of memory, its own children may, too; never more.
#[test]
fn a_program_and_its_children_have_a_limit_of_memory() {
    let script = "ulimit -d; sh -c 'ulimit -d'; \
                  head -c 1G /dev/zero | tail -c 1G | head -c 1 | od -An -tx1";
    let out = starter(&[], &["sh", "-c", script])
        .stderr(Stdio::piped())
        .output()
        .unwrap_or_else(|e| panic!("{e}"));
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(text.starts_with("524288\n524288\n"), "{text}");
    assert!(!text.contains("00"), "a gigabyte was held: {text}");
    let errors = String::from_utf8_lossy(&out.stderr);
    assert!(errors.contains("memory"), "{errors}");
}

/// A program that asks on the terminal gets no answer: in a group of its own it would be stopped
/// for asking, and never end.
#[test]
fn a_program_has_no_terminal() {
    let look = "tty=no; { true </dev/tty; } 2>/dev/null && tty=yes; echo tty=$tty";
    let own = starter(&[], &["sh", "-c", look]);
    let words = [own.get_program()].into_iter().chain(own.get_args());
    let words: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
    let parent = std::process::id().to_string();
    // What starts it is a shell that `script` gives a terminal.
    let quoted = |word: &str| match word == parent {
        true => "$$".to_owned(),
        false => format!("'{word}'"),
    };
    let words: Vec<_> = words.iter().map(|word| quoted(word)).collect();
    let line = format!("{look}; {}; true", words.join(" "));
    let mut script = Command::new("script");
    // Or the shell says what it thinks of the locale.
    git::isolate(&mut script)
        .args(["-qec", &line, "/dev/null"])
        .stdin(Stdio::null());
    let Ok(out) = script.output() else {
        println!("not tested: there is no script(1)");
        return;
    };
    let text = String::from_utf8_lossy(&out.stdout).replace('\r', "");
    assert_eq!(text, "tty=yes\ntty=no\n");
}
