//! The same service by every way of doing I/O.

use super::support::server::Settings;
use super::support::{git, lab};
use super::{expect_clone, hit, large_lab, small_lab};
use std::path::Path;

/// A miss, a hit, an aborted download and a clone by git; gives the log.
fn exercise(settings: impl Fn(Settings) -> Settings) -> String {
    let lab = large_lab();
    let server = settings(lab.settings()).start();
    let (conn, _, _) = super::begin(&server, "large", 1000);
    let miss = server.get(&lab::target("large")).expect(200).body;
    drop(conn);
    assert!(hit(&server, "large").body == miss, "the hit differs");
    assert_eq!(server.builds("complete"), 1);
    expect_clone(&lab, "large", &miss);
    let clone = lab.scratch("clone.git");
    let url = format!("http://{}/git/test/large", server.address());
    git::clone_mirror(&url, &clone);
    git::run(&clone, &["fsck", "--full", "--strict"]);
    let head = |repo: &Path| git::text(repo, &["rev-parse", "HEAD"]);
    assert_eq!(head(&clone), head(&lab.upstream("large")));
    let log = server.log();
    server.stop();
    lab.expect_no_orphans();
    log
}

#[test]
fn epoll() {
    exercise(|settings| settings.with_driver("epoll"));
}

#[test]
fn chosen_by_the_server() {
    exercise(|settings| settings.with_driver("auto"));
}

/// Where seccomp refuses io_uring, as in most containers, the server says so once and works.
#[test]
fn io_uring_refused_by_seccomp() {
    let log = exercise(|settings| settings.with_driver("seccomp"));
    let mentions = log.lines().filter(|line| line.contains("io_uring")).count();
    assert_eq!(mentions, 1, "said {mentions} times:\n{log}");
}

/// Asked for io_uring where there is none, the server does not quietly do something else: it
/// ends, or goes on, but says so.
#[test]
fn io_uring_demanded_but_refused() {
    let lab = small_lab();
    let demanded = lab
        .settings()
        .with_driver("seccomp")
        .with(&["--io-driver", "uring"]);
    let log = match demanded.try_start() {
        Err(exited) => {
            assert!(!exited.status.success(), "{}", exited.status);
            exited.log
        }
        Ok(server) => {
            expect_clone(&lab, "small", &hit(&server, "small").body);
            server.log()
        }
    };
    assert!(log.contains("io_uring"), "{log}");
}
