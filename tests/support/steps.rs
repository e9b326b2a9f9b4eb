//! Steps that several tests of a running server take.

use super::client::{Head, Response};
use super::lab::{self, Lab};
use super::repos;
use super::server::Server;
use super::wait;

/// Waits until `HEAD` finds the snapshot in the cache; gives that head.
pub fn wait_published(server: &Server, name: &str) -> Head {
    wait_kept(server, &lab::target(name))
}

/// Waits until `HEAD` finds what is at this target in the cache. A `GET` does not tell: what was built has a length
/// before its entry is in its place.
fn wait_kept(server: &Server, target: &str) -> Head {
    wait::until("the snapshot is published", || {
        let answer = server.fetch("HEAD", target, &[]);
        (answer.head.status == 200).then_some(answer.head)
    })
}

/// Asks the server for refs and commits, and gives its answer.
pub fn ensure(server: &Server, name: &str, json: &str) -> serde_json::Value {
    let answer = server.post_json(&lab::endpoint(name, "ensure-refs"), json);
    let answer = answer.expect(200);
    assert_eq!(answer.head.get("content-type"), Some("application/json"));
    serde_json::from_slice(&answer.body).unwrap_or_else(|e| panic!("{}: {e}", answer.text()))
}

/// Adds a commit to the upstream's `main` and has the mirror fetch it; gives its id.
pub fn push_and_fetch(
    lab: &Lab,
    server: &Server,
    name: &str,
    path: &str,
    content: &[u8],
) -> String {
    let id = repos::add_commit(&lab.upstream(name), "main", path, content);
    let json = format!(r#"{{"refs":{{"refs/heads/main":"{id}"}}}}"#);
    let answer = ensure(server, name, &json);
    assert_eq!(answer["refs"]["refs/heads/main"], *id, "{answer}");
    id
}

/// Requests a snapshot until the server holds it, and gives the answer from the cache.
pub fn hit(server: &Server, name: &str) -> Response {
    kept(server, &lab::target(name))
}

/// Requests what is at this target until the server holds it, and gives the answer from the cache.
pub fn kept(server: &Server, target: &str) -> Response {
    server.get(target).expect(200);
    wait_kept(server, target);
    let response = server.get(target).expect(200);
    assert!(
        response.head.content_length().is_some(),
        "{:?}",
        response.head
    );
    response
}
