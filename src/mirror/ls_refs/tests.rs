use super::*;
use crate::mirror::testing::{Scratch, Server, http_backend, run};
use std::sync::{Arc, Mutex};

/// What the helper says in any pieces, and what it is asked then.
fn answered(output: &[u8], step: usize) -> (Result<Option<Listing>, String>, Vec<u8>) {
    let git = Git::default();
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut answer = Answer::new(&git, writer);
    let pushed = output.chunks(step).try_for_each(|piece| answer.push(piece));
    let finished = pushed.and_then(|()| answer.finish());
    let mut asked = Vec::new();
    std::io::Read::read_to_end(&mut reader, &mut asked).unwrap();
    (finished, asked)
}

const CAPABILITIES: &str = "\n000eversion 2\n0013ls-refs=unborn\n0020fetch=shallow wait-for-done\n0017object-format=sha1\n0000";

#[test]
fn a_listing_is_read_in_any_pieces() {
    let (a, b) = ("1".repeat(40), "2".repeat(40));
    let refs = [
        packet(format!("{a} HEAD symref-target:refs/heads/main").as_bytes()),
        packet(format!("{a} refs/heads/main").as_bytes()),
        packet(format!("{b} refs/pull/1/head").as_bytes()),
        packet(format!("{b} refs/tags/v peeled:{a}").as_bytes()),
        packet(format!("{a} refs/heads/..bad").as_bytes()),
    ];
    let output = [CAPABILITIES.as_bytes(), &refs.concat(), b"00000002"].concat();
    for step in [1, 2, 3, 7, 1000] {
        let (listing, asked) = answered(&output, step);
        let listing = listing.unwrap().unwrap();
        assert_eq!(listing.head_target.unwrap(), "refs/heads/main");
        assert_eq!(listing.head_id.unwrap().to_string(), a);
        let names: Vec<_> = listing.refs.iter().map(|r| r.name.to_string()).collect();
        assert_eq!(names, ["refs/heads/main", "refs/tags/v"]);
        assert_eq!(listing.refs[1].peeled.unwrap().to_string(), a);
        let asked = String::from_utf8(asked).unwrap();
        for line in [
            "object-format=sha1",
            "ref-prefix HEAD",
            "ref-prefix refs/heads/",
        ] {
            assert!(asked.contains(&format!("{line}\n")), "{asked}");
        }
    }
}

#[test]
fn what_is_no_listing_is_refused() {
    let with = |text: &str| answered(format!("{CAPABILITIES}{text}").as_bytes(), 100).0;
    assert_eq!(answered(b"fallback\n", 3), (Ok(None), Vec::new()));
    let unborn = packet(b"unborn HEAD symref-target:refs/heads/x");
    let empty = with(&format!("{}0000", String::from_utf8(unborn).unwrap()));
    assert_eq!(empty, Ok(Some(Listing::default())));
    // What is cut off is asked for in another way.
    for text in ["", "0002", "0028"] {
        assert_eq!(with(text), Ok(None), "{text:?}");
    }
    for text in ["0003", "00zz", "fff1", "0009main\n", "000b1 a b c"] {
        assert!(with(text).is_err(), "{text:?}");
    }
    assert!(answered(&[b'x'; 100], 100).0.is_err());
}

/// Of many refs that are not followed none comes.
#[test]
fn only_what_is_followed_is_asked_for() {
    let s = Scratch::with_commit();
    let head = s.upstream(&["rev-parse", "HEAD"]);
    s.upstream(&["update-ref", "refs/pull/1/head", &head]);
    let asked = Arc::new(Mutex::new(Vec::new()));
    let (root, seen) = (s.root().to_owned(), asked.clone());
    let server = Server::new(move |request| {
        let answer = http_backend(&root, request);
        seen.lock().unwrap().push((
            request.target.clone(),
            String::from_utf8_lossy(&answer).into_owned(),
        ));
        answer
    });
    let url = format!("http://127.0.0.1:{}/up.git", server.port);
    let nothing = s.root().join("nothing");
    let listing = run(Git::default().list_followed(&nothing, &url))
        .unwrap()
        .unwrap();
    assert_eq!(listing.head_id.unwrap().to_string(), head);
    let asked = asked.lock().unwrap();
    assert_eq!(asked.len(), 2, "{asked:?}");
    assert!(asked[1].0.ends_with("/git-upload-pack") && !asked[1].1.contains("refs/pull"));
}
