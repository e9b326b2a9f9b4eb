//! Several listeners at once: addresses and socket files, and who a proxy says that asks.

use super::support::client::Conn;
use super::support::lab::{self, Lab};
use super::support::server::Server;
use super::support::wait;
use super::{hit, new_lab, small_lab};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

/// An answer, whole, by way of a socket file.
fn ask_file(path: &Path, target: &str, field: &str) -> (String, Vec<u8>) {
    let mut conn = UnixStream::connect(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    conn.set_read_timeout(Some(wait::DEADLINE)).unwrap();
    let head = format!("GET {target} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n{field}\r\n");
    conn.write_all(head.as_bytes()).unwrap();
    let mut answer = Vec::new();
    conn.read_to_end(&mut answer).unwrap();
    let end = answer
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .unwrap()
        + 4;
    let body = answer.split_off(end);
    (String::from_utf8(answer).unwrap(), body)
}

fn start_on_files(lab: &Lab, arguments: &[&str]) -> Server {
    let [open, admin] = ["open", "admin"].map(|name| lab.scratch(name).display().to_string());
    let more = [
        format!("--listen=unix:{open}"),
        format!("--admin-listen=unix:{admin}"),
    ];
    let mut settings = lab.settings().with(&["--listen=[::1]:0"]).with(arguments);
    settings.arguments.extend(more);
    settings.start()
}

#[test]
fn all_listeners_serve_the_same_and_socket_files_come_and_go() {
    let lab = small_lab();
    for driver in ["uring", "epoll"] {
        let settings = ["--cores", "2", "--io-driver", driver];
        let server = start_on_files(&lab, &settings);
        let places = server.places(3);
        let expected = hit(&server, "small");
        let second = places[1].strip_prefix("http://[::1]:").unwrap();
        let mut conn = Conn::open(([0u16, 0, 0, 0, 0, 0, 0, 1], second.parse().unwrap()).into());
        conn.request("GET", &lab::target("small"), &[]);
        assert!(conn.response("GET").expect(200).body == expected.body);
        let [open, admin] = ["open", "admin"].map(|name| lab.scratch(name));
        assert_eq!(places[2], format!("unix:{}", open.display()));
        for (path, mode) in [(&open, 0o666), (&admin, 0o600)] {
            assert_eq!(
                fs::metadata(path).unwrap().permissions().mode() & 0o777,
                mode
            );
            // More than once, so that both cores have their share.
            for _ in 0..8 {
                let (head, body) = ask_file(path, &lab::target("small"), "");
                assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
                assert!(body == expected.body);
            }
        }
        server.wait_logged(r#""peer":"unix""#);
        server.stop();
        assert!(!open.exists() && !admin.exists());
    }
}

#[test]
fn a_server_that_was_killed_leaves_its_socket_file_to_the_next() {
    let lab = new_lab();
    let mut server = start_on_files(&lab, &[]);
    server.kill();
    assert!(lab.scratch("open").exists());
    let server = start_on_files(&lab, &[]);
    let (head, _) = ask_file(&lab.scratch("open"), "/_liveness", "");
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let other = new_lab();
    let open = lab.scratch("open").display().to_string();
    let settings = other
        .settings()
        .with(&["--listen", &format!("unix:{open}")]);
    let refused = settings
        .try_start()
        .err()
        .expect("two servers at one socket");
    assert_eq!(refused.status.code(), Some(3));
    assert!(
        refused
            .log
            .contains(&format!("cannot listen on unix:{open}")),
        "{}",
        refused.log
    );
    server.stop();
}

#[test]
fn whom_a_trusted_proxy_names_is_who_asks() {
    let lab = small_lab();
    let server = start_on_files(
        &lab,
        &[
            "--trust-proxy",
            "127.0.0.0/8",
            "--trust-proxy",
            "10.0.0.0/8",
        ],
    );
    let target = lab::target("small");
    let told = |chain: &str| format!("X-Forwarded-For: {chain}");
    // What stands before the last that is not trusted is what that one says.
    server
        .fetch("GET", &target, &[&told("192.0.2.9, 203.0.113.7, 10.1.2.3")])
        .expect(200);
    server.wait_logged(r#""peer":"203.0.113.7""#);
    assert!(!server.log().contains("192.0.2.9"));
    let (head, _) = ask_file(
        &lab.scratch("open"),
        &target,
        "X-Forwarded-For: 192.0.2.44\r\n",
    );
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    server.wait_logged(r#""peer":"unix""#);
    assert!(!server.log().contains("192.0.2.44"), "it is not trusted");
    // The next request of the same connection is asked for by somebody else.
    let mut conn = Conn::open(server.address());
    for (field, peer) in [
        (told("198.51.100.1"), "198.51.100.1\"".to_owned()),
        (told("unknown"), "127.0.0.1:".to_owned()),
        (told("2001:db8::7"), "2001:db8::7\"".to_owned()),
    ] {
        conn.request("GET", &target, &[&field]);
        conn.response("GET").expect(200);
        server.wait_logged(&format!(r#""peer":"{peer}"#));
    }
}
