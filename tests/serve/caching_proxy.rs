//! nginx in front, which keeps whatever it may for ten minutes.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use super::access::matrix_lab;
use super::permission::{Host, snapshot};
use super::support::client::fetch;
use super::support::lab::{self, Lab};
use super::support::{git, wait};
use super::{hit, small_lab};

const PLACES: [&str; 3] = ["nginx", "/usr/sbin/nginx", "/usr/local/sbin/nginx"];

/// It ends with its owner.
struct Nginx {
    child: Child,
    address: SocketAddr,
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts one before a server; `None` where there is no nginx, which nothing else needs.
fn in_front_of(server: SocketAddr, lab: &Lab) -> Option<Nginx> {
    let has_it = |place: &&&str| Command::new(place).arg("-v").output().is_ok();
    let program = PLACES.iter().find(has_it)?;
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let place = lab.scratch("nginx");
    lab::create_dir(&place);
    let at = place.display();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|of| format!("{of}_temp_path {at}/{of}; "))
        .concat();
    let text = format!(
        "daemon off; master_process off; pid {at}/pid; error_log {at}/errors; events {{}}
         http {{ access_log off; {temporary} proxy_cache_path {at}/cache keys_zone=all:1m;
           server {{ listen {address}; location / {{
             proxy_pass http://{server}; proxy_http_version 1.1;
             proxy_cache all; proxy_cache_key $request_uri; proxy_cache_valid any 10m;
             add_header X-Cache $upstream_cache_status always; }} }} }}"
    );
    let conf = place.join("conf");
    std::fs::write(&conf, text).unwrap();
    let child = Command::new(program)
        .arg("-c")
        .arg(&conf)
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let nginx = Nginx { child, address };
    wait::until_true("nginx listens", || TcpStream::connect(address).is_ok());
    Some(nginx)
}

/// What one may have nobody else is given by a cache on the way, and a refusal is nobody's but his who got it.
#[test]
fn a_cache_on_the_way_gives_nobody_what_is_anothers() {
    let (lab, tokens, server) = matrix_lab();
    let Some(nginx) = in_front_of(server.address(), &lab) else {
        return;
    };
    let (read, foreign) = (tokens.read.bearer(), tokens.foreign.bearer());
    expect_nothing_kept(&nginx, (&lab, "small"), (&read, &foreign));
}

/// The same where who may read is the upstream's permission.
#[test]
fn a_cache_on_the_way_gives_nobody_what_an_upstream_lets_others_read() {
    let host = Host::new();
    let server = host.settings().start();
    let Some(nginx) = in_front_of(server.address(), &host.lab) else {
        return;
    };
    let (alice, bob) = (host.alice.field(), host.bob.field());
    snapshot(&server, "private", Some(&host.alice)).expect(200);
    expect_nothing_kept(&nginx, (&host.lab, "private"), (&alice, &bob));
}

/// Panics where somebody gets by a cache what another one has got, his own refusal included.
fn expect_nothing_kept(nginx: &Nginx, (lab, name): (&Lab, &str), (read, foreign): (&str, &str)) {
    let id = git::text(&lab.upstream(name), &["rev-parse", "main"]);
    for target in [
        lab::target(name),
        lab::endpoint(name, &format!("snapshot.tar.zst?commit={id}")),
        lab::endpoint(name, "status"),
        lab::endpoint(name, "info/refs?service=git-upload-pack"),
    ] {
        let who: [(&[&str], u16); 7] = [
            (&[], 401),
            (&[read], 200),
            (&[], 401),
            (&[foreign], 404),
            (&[read], 200),
            (&[], 401),
            (&[foreign], 404),
        ];
        for (fields, status) in who {
            let answer = fetch(nginx.address, "GET", &target, fields);
            assert_eq!(answer.head.status, status, "{target} {fields:?}");
            let cache = answer.head.get("x-cache");
            assert_eq!(cache, Some("MISS"), "{target} {fields:?}");
        }
    }
}

/// What is open and always the same is kept: so the test above sees a cache.
#[test]
fn a_cache_on_the_way_keeps_an_open_commit() {
    let lab = small_lab();
    let server = lab.start();
    hit(&server, "small");
    let Some(nginx) = in_front_of(server.address(), &lab) else {
        return;
    };
    let id = git::text(&lab.upstream("small"), &["rev-parse", "main"]);
    let target = lab::endpoint("small", &format!("snapshot.tar.zst?commit={id}"));
    wait::until_true("nginx has it", || {
        let answer = fetch(nginx.address, "GET", &target, &[]).expect(200);
        answer.head.get("x-cache") == Some("HIT")
    });
    let none = lab::endpoint("none", "status?x");
    for _ in 0..2 {
        let answer = fetch(nginx.address, "POST", &none, &[]);
        assert_eq!(answer.head.status, 405);
        let head = fetch(nginx.address, "GET", "/git/elsewhere.example/a/status", &[]).head;
        assert_eq!((head.status, head.get("x-cache")), (403, Some("MISS")));
    }
}
