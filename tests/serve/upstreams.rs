//! Upstreams that are hostile, far too large, other servers, or this one.

use super::support::client::{Conn, Response};
use super::support::lab::{self, Lab};
use super::support::relay::{self, Ends};
use super::support::repos;
use super::support::server::{Server, Settings};
use super::support::{client, git, processes, wait};
use super::{at_once, expect_clone, hit, large_lab, new_lab, small_lab};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Far less than any time limit of git.
const SOON: Duration = Duration::from_secs(60);

/// An address that nobody has just now.
fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap_or_else(|e| panic!("bind: {e}"));
    listener.local_addr().unwrap_or_else(|e| panic!("{e}"))
}

/// Settings of a server at `address` whose host `test` is at `upstream`.
fn settings_at(lab: &Lab, address: SocketAddr, upstream: &str) -> Settings {
    let mut settings = lab.settings();
    settings.listen = address.to_string();
    settings.upstreams = vec![format!("test={upstream}")];
    settings
}

fn git_url(address: SocketAddr) -> String {
    format!("http://{address}/git/test/")
}

/// Has the server's git read one more setting.
fn configure(settings: &mut Settings, key: &str, value: &str) {
    for (name, value) in [
        ("GIT_CONFIG_COUNT", "1"),
        ("GIT_CONFIG_KEY_0", key),
        ("GIT_CONFIG_VALUE_0", value),
    ] {
        settings.environment.push((name.into(), value.into()));
    }
}

/// The answer to a request for a snapshot, which must come long before any time limit.
fn soon(server: &Server, name: &str) -> Response {
    let began = Instant::now();
    let answer = server.get(&lab::target(name));
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    answer
}

/// Waits until nothing of git is left that has `upstream` in its command line.
fn expect_no_git(context: &str, upstream: &str) {
    processes::expect_ended(context, || {
        let mut found = processes::with(upstream);
        // The server itself has it there.
        found.retain(|line| !line.contains("--listen"));
        found
    });
}

/// Whoever has their git ask the server instead of the upstream may run the server, too.
#[test]
fn a_server_refuses_to_be_its_own_upstream() {
    let (lab, address) = (new_lab(), free_address());
    let mut settings = settings_at(&lab, address, "http://127.0.0.1:1/");
    let key = format!("url.{}.insteadOf", git_url(address));
    configure(&mut settings, &key, "http://127.0.0.1:1/");
    let server = settings.start();
    let answer = soon(&server, "small").expect(508).text();
    assert!(answer.contains("insteadOf"), "{answer}");
    lab.expect_no_orphans();
}

/// The operator has headers for this URL, which counts for more than one for all.
#[test]
fn headers_of_the_operator_stay() {
    let (lab, address) = (new_lab(), free_address());
    let mut settings = settings_at(&lab, address, &git_url(address));
    let key = format!("http.http://{address}/.extraHeader");
    configure(&mut settings, &key, "X-Ours: 1");
    soon(&settings.start(), "small").expect(508);
}

#[test]
fn servers_refuse_to_be_each_others_upstreams() {
    let (labs, addresses) = ([new_lab(), new_lab()], [free_address(), free_address()]);
    let start = |n: usize| settings_at(&labs[n], addresses[n], &git_url(addresses[1 - n])).start();
    let servers = [start(0), start(1)];
    let answer = soon(&servers[0], "one").expect(508).text();
    assert!(answer.contains("leads back"), "{answer}");
    // Each begins before it hears of the other's.
    for round in 0..5 {
        let name = format!("both{round}");
        let statuses = at_once(2, |n| soon(&servers[n], &name).head.status);
        assert!(statuses.iter().all(|status| *status == 508), "{statuses:?}");
    }
    // The same when they have mirrors: nobody waits for news that nobody has.
    let small = small_lab();
    for lab in &labs {
        git::clone_mirror(&small.url("small"), &lab.mirror("small"));
    }
    let absent = r#"{"refs":{"refs/heads/absent":""}}"#;
    let ask = |n: usize| {
        let began = Instant::now();
        let target = lab::endpoint("small", "ensure-refs");
        let status = servers[n].post_json(&target, absent).head.status;
        assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
        status
    };
    let statuses = at_once(2, ask);
    assert!(statuses.iter().all(|status| *status == 508), "{statuses:?}");
}

#[test]
fn a_server_behind_a_server_behind_a_server() {
    let lab = small_lab();
    let (middle_lab, outer_lab) = (new_lab(), new_lab());
    let inner = lab.start();
    let any: SocketAddr = ([127, 0, 0, 1], 0).into();
    let middle = settings_at(&middle_lab, any, &git_url(inner.address())).start();
    let outer = settings_at(&outer_lab, any, &git_url(middle.address())).start();
    let answers = at_once(2, |n| soon([&outer, &middle][n], "small").expect(200));
    for (answer, name) in answers.iter().zip(["outer", "middle"]) {
        let unpacked = lab.unpack(&answer.body, name);
        let head = git::text(&unpacked, &["rev-parse", "HEAD"]);
        assert_eq!(
            head,
            git::text(&lab.upstream("small"), &["rev-parse", "HEAD"])
        );
    }
    // What is new comes through all of them.
    let commit = repos::add_commit(&lab.upstream("small"), "main", "new.txt", b"new\n");
    let wanted = format!(r#"{{"refs":{{"refs/heads/main":"{commit}"}}}}"#);
    for server in [&inner, &middle, &outer] {
        let answer = server.post_json(&lab::endpoint("small", "ensure-refs"), &wanted);
        let text = answer.expect(200).text();
        assert!(text.contains(&commit), "{text}");
    }
}

#[test]
fn what_says_by_way_of_whom_it_came_is_checked() {
    let lab = small_lab();
    let server = lab.start();
    let target = lab::endpoint("small", "info/refs?service=git-upload-pack");
    let ask = |value: &str| {
        let field = format!("Tarpon-Via: {value}");
        server.fetch("GET", &target, &[&field]).head.status
    };
    let id = "0123456789abcdef".repeat(2);
    assert_eq!(ask(&id), 200);
    for wrong in ["x", "", "-c", &id[1..], &format!("{id},")] {
        assert_eq!(ask(wrong), 400, "{wrong:?}");
    }
    let many: Vec<String> = (0..9).map(|n| format!("{n:032x}")).collect();
    assert_eq!(ask(&many.join(", ")), 508);
}

/// Anybody can name servers that there are not: the upstream is not asked for each of them whether it
/// leads back to one.
#[test]
fn whoever_names_servers_has_the_upstream_asked_once() {
    let lab = new_lab();
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = asked.clone();
    let upstream = relay::listen(move |_| {
        counter.fetch_add(1, Ordering::Relaxed);
        relay::be_silent();
    });
    let mut settings = lab.settings();
    settings.upstreams.push(format!("hang=http://{upstream}/"));
    let server = settings.start();
    let target = "/git/hang/repo/info/refs?service=git-upload-pack";
    let ask = |field: &str| {
        let mut conn = Conn::open(server.address());
        conn.request("GET", target, &[field]);
        conn
    };
    let first = ask("X: y");
    let asked = || asked.load(Ordering::Relaxed);
    wait::until_true("it is cloned", || asked() == 1);
    let began = Instant::now();
    let crowd: Vec<Conn> = (1..=40)
        .map(|number| ask(&format!("Tarpon-Via: {number:032x}")))
        .collect();
    wait::until_true("one of them has it asked", || asked() == 2);
    while began.elapsed() < Duration::from_secs(3) {
        assert!(asked() <= 2, "{} of {}", asked(), crowd.len());
        std::thread::sleep(wait::POLL);
    }
    drop((first, crowd));
}

/// A clone that brings more than it may ends, with all of git, when that is seen.
#[test]
fn a_clone_has_a_size_limit() {
    let far = large_lab();
    let far_server = far.start();
    far_server.get(&lab::target("large")).expect(200);
    // It would go on for as long as the server waits for more.
    let address = relay::interrupt(far_server.address(), |_| Ends::Stall(8 << 20));
    let lab = new_lab();
    let upstream = git_url(address);
    let settings = settings_at(&lab, ([127, 0, 0, 1], 0).into(), &upstream);
    let server = settings.with(&["--clone-size-limit", "4M"]).start();
    let answer = soon(&server, "large").expect(507).text();
    assert!(answer.contains("--clone-size-limit"), "{answer}");
    expect_no_git("the clone", &upstream);
    lab.expect_no_orphans();
}

/// The same of a fetch; the mirror stays as it was.
#[test]
fn a_fetch_has_a_size_limit() {
    let lab = large_lab();
    git::run(&lab.upstream("large"), &["branch", "other", "main"]);
    let far_server = lab.start();
    let address = relay::interrupt(far_server.address(), |_| Ends::Stall(8 << 20));
    let outer = new_lab();
    git::run(
        &outer.scratch(""),
        &[
            "init",
            "--quiet",
            "--bare",
            &outer.mirror("large").to_string_lossy(),
        ],
    );
    let upstream = git_url(address);
    let settings = settings_at(&outer, ([127, 0, 0, 1], 0).into(), &upstream);
    let server = settings.with(&["--clone-size-limit", "4M"]).start();
    let absent = r#"{"refs":{"refs/heads/main":""}}"#;
    let asked = server.post_json(&lab::endpoint("large", "ensure-refs"), absent);
    let answer = asked.text();
    // On a busy machine it has begun before.
    let is_refused = asked.head.status == 507 || answer.contains("507: ");
    assert!(is_refused, "{:?}: {answer}", asked.head);
    assert!(answer.contains("--clone-size-limit"), "{answer}");
    expect_no_git("the fetch", &upstream);
    assert_eq!(git::received_bytes(&outer.mirror("large")), 0);
}

/// git runs as a child of a starter, which sets the limit.
#[test]
fn the_memory_of_git_is_limited() {
    let (lab, listener) = (new_lab(), TcpListener::bind("127.0.0.1:0").unwrap());
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || endless_refs(stream));
        }
    });
    let upstream = format!("http://{address}/");
    let server = settings_at(&lab, ([127, 0, 0, 1], 0).into(), &upstream).start();
    let answer = soon(&server, "endless").expect(502).text();
    assert!(answer.contains("512 MiB of memory"), "{answer}");
    expect_no_git("the listing", &upstream);
    lab.expect_no_orphans();
}

fn endless_refs(mut stream: std::net::TcpStream) {
    let head = "HTTP/1.1 200 OK\r\nConnection: close\r\n\
                Content-Type: application/x-git-upload-pack-advertisement\r\n\r\n\
                001e# service=git-upload-pack\n0000";
    let line = format!("{} refs/heads/endless\n", "1".repeat(40));
    let lines = format!("{:04x}{line}", line.len() + 4).repeat(1000);
    let mut sent = stream.write_all(head.as_bytes());
    while sent.is_ok() {
        sent = stream.write_all(lines.as_bytes());
    }
}

/// A real small file system, as in the tests of a full cache. Skipped where a user may not mount.
#[test]
fn a_clone_on_a_full_disk_says_so() {
    let lab = large_lab();
    let may_mount = Command::new("unshare")
        .args(["-rm", "mount", "-t", "tmpfs", "tarpon"])
        .arg(lab.scratch(""))
        .stderr(Stdio::null())
        .status();
    if !may_mount.is_ok_and(|status| status.success()) {
        eprintln!("skipped: no mount namespace for this user");
        return;
    }
    let script = "mount -t tmpfs -o size=8m tarpon \"$0\" && exec \"$@\"";
    let mut settings = lab.settings().with(&["--clone-size-limit", "1G"]);
    let state = settings.state.to_string_lossy().into_owned();
    let launcher = ["unshare", "-rm", "sh", "-c", script, &state];
    settings.launcher = launcher.map(str::to_owned).to_vec();
    let server = settings.start();
    let answer = server.get(&lab::target("large")).expect(507).text();
    assert!(answer.contains("the disk is full"), "{answer}");
    assert!(answer.contains("No space left on device"), "{answer}");
}

/// git may not speak what no upstream is spoken to with, whatever its configuration makes of it.
#[test]
fn only_what_upstreams_speak_is_spoken() {
    let lab = small_lab();
    let mut settings = settings_at(&lab, ([127, 0, 0, 1], 0).into(), "http://127.0.0.1:1/");
    settings.arguments.push("--no-default-upstreams".into());
    let key = format!("url.file://{}/.insteadOf", lab.upstreams().display());
    configure(&mut settings, &key, "http://127.0.0.1:1/");
    let server = settings.start();
    let answer = server.get(&lab::target("small")).expect(502).text();
    assert!(answer.contains("GIT_ALLOW_PROTOCOL"), "{answer}");
    server.stop();
    // The operator may want just that.
    let allowed = ("GIT_ALLOW_PROTOCOL".to_owned(), "http:file".to_owned());
    settings.environment.push(allowed);
    hit(&settings.start(), "small");
}

/// git itself would go wherever a redirect leads.
#[test]
fn a_redirect_to_another_host_is_not_followed() {
    let lab = small_lab();
    let inner = lab.start();
    let to = inner.address();
    let redirect = relay::listen(move |mut socket| {
        let target = "/git/test/small/info/refs?service=git-upload-pack";
        let head = "HTTP/1.1 302 Found\r\nContent-Length: 0\r\nConnection: close\r\n";
        let answer = format!("{head}Location: http://{to}{target}\r\n\r\n");
        drop(std::io::Read::read(&mut socket, &mut [0; 4096]));
        drop(socket.write_all(answer.as_bytes()));
    });
    let outer = new_lab();
    let server = settings_at(
        &outer,
        ([127, 0, 0, 1], 0).into(),
        &format!("http://{redirect}/"),
    );
    let answer = soon(&server.start(), "small").expect(502).text();
    assert!(answer.contains("redirects to"), "{answer}");
    let clones = inner.metrics().count("tarpon_clones_total", &[]);
    assert_eq!(clones, 0, "it was asked");
    // It is there.
    let body = client::get(to, &lab::target("small")).expect(200).body;
    expect_clone(&lab, "small", &body);
}

/// What one client's requests make an upstream be asked at a time is bounded: others need not wait for it,
/// also where they want the same.
#[test]
fn an_address_has_a_quarter_of_the_clones() {
    let lab = small_lab();
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let seen = asked.clone();
    let upstream = relay::listen(move |mut socket| {
        let mut head = [0; 1000];
        let read = socket.read(&mut head).unwrap_or(0);
        let head = String::from_utf8_lossy(&head[..read]);
        let path = head.split(' ').nth(1).unwrap_or_default();
        let name = path.split('/').nth(1).unwrap_or_default();
        seen.lock().unwrap().push(name.to_owned());
        relay::be_silent();
    });
    let mut settings = lab.settings();
    settings.upstreams.push(format!("hang=http://{upstream}/"));
    let server = settings.start();
    let ask = |client: u8, name: &str| {
        let mut conn = Conn::open_from([127, 0, 0, client].into(), server.address());
        conn.request("GET", &format!("/git/hang/{name}/snapshot.tar.zst"), &[]);
        conn
    };
    let names: Vec<String> = (0..12).map(|number| format!("x{number}")).collect();
    let crowd: Vec<Conn> = names.iter().map(|name| ask(2, name)).collect();
    wait::until_true("it is asked for", || asked.lock().unwrap().len() >= 4);
    let count = |name: &str| {
        let asked = asked.lock().unwrap();
        asked
            .iter()
            .filter(|asked| asked.trim_end_matches(".git") == name)
            .count()
    };
    let other = ask(3, "other");
    wait::until_true("another is not kept waiting", || count("other") > 0);
    let waits = names.iter().find(|name| count(name) == 0).unwrap();
    let same = ask(3, waits);
    wait::until_true("nor is it for the same", || count(waits) > 0);
    let of_crowd = names
        .iter()
        .filter(|name| *name != waits && count(name) > 0);
    assert_eq!(of_crowd.count(), 4, "{:?}", asked.lock().unwrap());
    drop((crowd, other, same));
}

/// Who waits for its client's part of the clones keeps nobody else waiting for the same repository, and
/// waits no longer once there is a mirror.
#[test]
fn what_an_address_waits_for_others_get_at_once() {
    let lab = small_lab();
    let upstream = relay::listen(|_| relay::be_silent());
    let mut settings = lab.settings().with(&["--cores", "1"]);
    settings.upstreams.push(format!("hang=http://{upstream}/"));
    let server = settings.start();
    let ask = |client: u8, target: &str| {
        let mut conn = Conn::open_from([127, 0, 0, client].into(), server.address());
        conn.request("GET", target, &[]);
        conn
    };
    let silent = |number: usize| format!("/git/hang/x{number}/snapshot.tar.zst");
    let crowd: Vec<Conn> = (0..40).map(|number| ask(2, &silent(number))).collect();
    let mut first = ask(2, &lab::target("small"));
    let left = ask(2, &lab::target("small"));
    // The one core has read all of them before this.
    ask(2, "/_liveness").response("GET").expect(200);
    drop(left);
    for client in [4, 5] {
        let mut other = ask(client, &lab::target("small"));
        let body = other.response("GET").expect(200).body;
        expect_clone(&lab, "small", &body);
    }
    first.response("GET").expect(200);
    drop(crowd);
}
