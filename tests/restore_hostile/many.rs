//! As many refs as a restore takes: in the archive, where what they name has to be there, and in the
//! list of the server's, each of another id. Little memory is had for them.

use crate::archive::zst;
use crate::endless::follow_for;
use crate::ground::{Ground, binary, fixture};
use crate::made::hex;
use crate::support::rng::Rng;
use crate::support::wait::DEADLINE;
use crate::trial::{not_found, ok, serve_beside};
use std::process::Stdio;
use std::sync::Arc;

/// Well within the 300 MB that a restore may have.
const MEMORY_BYTES: u64 = 200 << 20;

/// Lines of ids and names, of so many bytes as `line` makes of them: all of the id `of`, or each of
/// another one.
fn refs(of: Option<&str>, bytes: usize, line: impl Fn(&str) -> String) -> String {
    let mut rng = Rng::new(1);
    let mut out = String::new();
    for number in 0_u32.. {
        let id = match of {
            Some(id) => id.to_owned(),
            None => hex(&rng.bytes(20)),
        };
        let line = line(&format!("{id} refs/tags/t{number:07}"));
        if out.len() + line.len() > bytes {
            break;
        }
        out.push_str(&line);
    }
    out
}

/// The list of a server whose branch has moved.
fn list() -> Vec<u8> {
    let list = refs(None, 63 << 20, |text| {
        format!("{:04x}{text}\n", text.len() + 5)
    });
    let new = "1".repeat(40);
    let list = format!(
        "{:04x}{new} HEAD symref-target:refs/heads/main\n{:04x}{new} refs/heads/main\n{list}0000",
        new.len() + 5 + 35,
        new.len() + 5 + 16,
    );
    list.into_bytes()
}

#[test]
fn a_million_refs_take_little_memory() {
    let head = fixture().ask(&["rev-parse", "HEAD"]);
    let line = |text: &str| format!("{text}\n");
    let list = Arc::new(list());
    let origin = format!("{head} refs/remotes/origin/main\n");
    let runs = [
        ("both", refs(Some(&head), 93 << 20, line), 0),
        ("listed", refs(Some(&head), 1 << 20, line), 0),
        ("of nothing", refs(None, 93 << 20, line), 5),
    ];
    for (name, packed, exit_code) in runs {
        let archive = fixture().good.clone();
        let archive = archive.without(".git/refs/remotes").set(
            ".git/packed-refs",
            format!("# pack-refs with: sorted \n{origin}{packed}"),
        );
        let body = zst(&archive.tar());
        let list = list.clone();
        let fields = "X-Cachew-Bundle-Url: /git/test/app/snapshot.bundle?base=1\r\n";
        let address = serve_beside(fields.into(), body, move |asked| {
            match asked.starts_with("POST ") {
                true => ok("", &list),
                false => not_found(),
            }
        });
        let ground = Ground::new();
        let mut command = ground.command(&binary());
        command.args(["restore", "test/app"]).arg(ground.target());
        command.args(["--server", &format!("http://{address}")]);
        let child = command.stderr(Stdio::piped()).spawn();
        let mut child = child.unwrap_or_else(|e| panic!("{e}"));
        let (code, memory_bytes, _) = follow_for(&mut child, &ground, 4 * DEADLINE);
        let errors = child.stderr.take().map(std::io::read_to_string);
        println!("{name}: {} MiB, {errors:?}", memory_bytes >> 20);
        // The objects of the list cannot be had.
        assert_eq!(code, Some(exit_code), "{name}: {errors:?}");
        assert!(memory_bytes <= MEMORY_BYTES, "{name}: {memory_bytes}");
    }
}

/// What is more is refused with words that help.
#[test]
fn more_refs_are_refused() {
    let packed = refs(None, 97 << 20, |text| format!("{text}\n"));
    let archive = fixture().good.clone().set(".git/packed-refs", packed);
    let address = crate::trial::serve(String::new(), zst(&archive.tar()));
    let ground = Ground::new();
    let out = ground.restore(address, &[]);
    let errors = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(5), "{errors}");
    assert!(
        errors.contains("million refs") && errors.contains("--fallback clone"),
        "{errors}"
    );
}
