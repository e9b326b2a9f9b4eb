//! Streams that stop or break, of an archive that is there and of one that is still being made.

use crate::lab::{
    Ends, archive, clone, expect, expect_files, expect_nothing, interrupt, new_lab, restore,
    served, switch,
};
use crate::support::repos;
use crate::support::rng::Rng;

/// So long without a byte is a stall.
const STALL: [&str; 3] = ["--by-archive", "--stall-timeout", "0.3"];

#[test]
fn a_stall_that_passes_is_overcome() {
    let (lab, server, _) = served();
    let expected = clone(&lab, "app", "clone");
    // In the first answer's head, in its body, and in one of the connections after it.
    for (name, stalled, after) in [("body", 0, 1 << 20), ("later", 2, 100_000), ("head", 3, 20)] {
        let address = interrupt(server.address(), move |number| match number == stalled {
            true => Ends::Stall(after),
            false => Ends::Whole,
        });
        let target = lab.scratch(name);
        let more = [&STALL[..], &["--json"]].concat();
        let out = restore(address, "test/app", &target, &more);
        expect(&out, 0);
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(!text.contains("\"resumes\":0,"), "{name}: {text}");
        expect_files(&expected, &target, name);
    }
}

#[test]
fn a_server_that_stalls_for_good_is_given_up() {
    let (lab, server, _) = served();
    // Every connection: with half an answer, which is progress, and from some time on with none.
    for (name, some) in [("body", 4), ("silent", 0)] {
        let address = interrupt(server.address(), move |number| match number {
            0 => Ends::Stall(1 << 20),
            number if number <= some => Ends::Stall(1000),
            _ => Ends::Stall(0),
        });
        let target = lab.scratch(name);
        let errors = expect(&restore(address, "test/app", &target, &STALL), 3);
        assert!(
            errors.contains("no byte came for 0.3 s"),
            "{name}: {errors}"
        );
        expect_nothing(&target);
    }
}

/// The connections to a server that is still building break at seeded points: the files are right
/// whatever it has by then.
#[test]
fn a_live_stream_that_breaks_gives_the_same_files() {
    let lab = new_lab();
    lab.place_mirror("app");
    let expected = clone(&lab, "app", "clone");
    for seed in 0..5 {
        lab.forget_snapshots();
        let server = lab.start();
        let address = interrupt(server.address(), move |number| {
            let mut rng = Rng::new(seed * 100 + number as u64);
            match number == 0 || rng.below(2) == 0 {
                true => Ends::Cut(1000 + rng.below(6 << 20)),
                false => Ends::Whole,
            }
        });
        let target = lab.scratch(&format!("live{seed}"));
        let out = restore(address, "test/app", &target, &["--by-archive", "--json"]);
        expect(&out, 0);
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(!text.contains("\"resumes\":0,"), "seed {seed}: {text}");
        expect_files(&expected, &target, &format!("seed {seed}"));
        server.stop();
    }
}

/// The archive is another in the middle of the download: bytes of the two never mix.
#[test]
fn a_snapshot_that_changes_under_a_restore_is_read_anew() {
    let (old, new) = (new_lab(), new_lab());
    repos::add_commit(&new.upstream("app"), "main", "src/d0/f0.c", b"changed\n");
    let servers = [old.start(), new.start()];
    archive(&old, &servers[0]);
    archive(&new, &servers[1]);
    let expected = clone(&new, "app", "clone");
    let addresses = servers.each_ref().map(|server| server.address());
    for (name, cut) in [("early", 5000), ("late", 3 << 20)] {
        let address = switch(move |number| match number {
            0 => (addresses[0], Ends::Cut(cut)),
            _ => (addresses[1], Ends::Whole),
        });
        let target = new.scratch(name);
        expect(&restore(address, "test/app", &target, &["--by-archive"]), 0);
        expect_files(&expected, &target, name);
    }
}

/// The build itself fails in the middle, at seeded points.
#[test]
fn a_build_that_fails_under_a_restore_gives_whole_files_or_an_error() {
    let lab = new_lab();
    lab.place_mirror("app");
    let expected = clone(&lab, "app", "clone");
    let mut rng = Rng::new(0xFA11);
    for _ in 0..4 {
        lab.forget_snapshots();
        let after = rng.below(12 << 20);
        let fault = format!("build-fail-after-bytes={after}");
        let server = lab.settings().with_fault(&fault).start();
        let target = lab.scratch(&format!("failed{after}"));
        let out = restore(server.address(), "test/app", &target, &["--by-archive"]);
        assert_eq!(server.builds("failed"), 1, "{fault}");
        if out.status.code() == Some(0) {
            expect_files(&expected, &target, &fault);
        } else {
            expect(&out, 3);
            expect_nothing(&target);
        }
    }
}

/// What has come is taken at once, however small its chunks are, and nobody looks for more meanwhile.
#[test]
fn chunks_that_came_together_are_not_waited_for() {
    const CHUNK_BYTES: usize = 10;
    let (lab, _server, whole) = served();
    let (first, rest) = whole.split_at(whole.len() - 60_000);
    let chunk = |piece: &[u8]| {
        let size = format!("{:x}\r\n", piece.len());
        [size.as_bytes(), piece, b"\r\n"].concat()
    };
    let head = b"HTTP/1.1 200 OK\r\nETag: \"x\"\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut answer = [&head[..], &chunk(first)].concat();
    rest.chunks(CHUNK_BYTES)
        .for_each(|piece| answer.extend(chunk(piece)));
    answer.extend_from_slice(b"0\r\n\r\n");
    let address = crate::support::relay::listen(move |socket| {
        let mut asked = [0; 4096];
        let mut socket = socket;
        if std::io::Read::read(&mut socket, &mut asked).is_ok_and(|got| got > 0) {
            drop(std::io::Write::write_all(&mut socket, &answer));
        }
        // The connection stays, as a server's does.
        drop(std::io::Read::read(&mut socket, &mut asked));
    });
    let began = std::time::Instant::now();
    let more = ["--by-archive", "--connections", "1", "--quiet"];
    let target = lab.scratch("target");
    expect(&restore(address, "test/app", &target, &more), 0);
    // Half a second for each chunk of the last thousands of bytes.
    let took = began.elapsed();
    assert!(took < std::time::Duration::from_secs(10), "{took:?}");
}
