//! The project's style as a test. Each rule is checked on the whole tree, and on a small source
//! that breaks it: a rule that sees nothing is no rule.
//!
//! The tree itself was broken on purpose as well, one at a time, and each rule said so:
//!
//! | rule | broken |
//! |---|---|
//! | `imports_go_down` | `io::pipe` names `api`; `restore::http` names `http::wire` |
//! | `no_circles` | `repos::head` names `repos::repo` |
//! | `comments_cite_what_is_there` | a module's text names a file by its old name |
//! | `unsafe_is_confined_and_explained` | unsafe in `http::range`; `io::net` without a reason |
//! | `functions_fit_a_screen` | a function of 77 lines |
//! | `files_are_short` | `io::child` with 300 lines more |
//! | `git_is_run_in_one_place` | `restore::testing` outside of tests |
//! | `panics_have_reasons` | an `unwrap` in `http::range` |
//! | `cores_never_block` | `fs::read` in `Archive::touch`, beside functions that may read files |
//! | | `Core::reader` calls `Archive::open_files` itself, `Core::closed` calls `Turns::wait` |
//! | | `Core::gauges` asks the state directory; `Turns::wait` waits no more but is named |
//! | `no_file_is_dead` | `archive` without its line for `resident` |
//! | `limits_are_in_one_place` | a bound in `http::range`; one in `limits` that nobody uses |
//! | `nothing_is_left_over` | a note of something to do |
//! | `metrics_are_documented` | a metric by another name in docs/metrics.md |
//! | `settings_are_documented` | `--cores` without its text |
//! | `readme_commands_exist` | an option and a script with a slip in their names |
//! | `links_hold` | a heading of docs/tls.md with another word |
//! | `updates_go_in_steps` | a rename of `restore::put` without `steps` |
//! | `variables_are_settings` | a variable that is read but not known |

mod circles;
mod cores;
mod rules;
mod source;

use std::path::Path;
use std::process::Command;

use source::Project;

/// The project itself.
fn project() -> Project {
    Project::read(Path::new(env!("CARGO_MANIFEST_DIR")))
}

/// What `--help` says, of all commands.
fn help() -> String {
    let of = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_tarpon"))
            .args(arguments)
            .output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    };
    let commands = [
        &["--help"][..],
        &["serve", "--help"],
        &["check", "--help"],
        &["restore", "--help"],
        &["token", "new", "--help"],
        &["admin", "store", "prune", "--help"],
    ];
    commands.map(of).concat()
}

/// A project of a few files.
fn tree(files: &[(&str, &str)]) -> Project {
    Project::of(
        files
            .iter()
            .map(|(path, text)| (path.to_string(), text.to_string())),
    )
}

#[track_caller]
fn assert_tidy(found: &[String]) {
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

/// The rule names each of these places, in this order, and nothing else.
#[track_caller]
fn assert_found(found: &[String], places: &[&str]) {
    let fits = found.len() == places.len()
        && found
            .iter()
            .zip(places)
            .all(|(found, place)| found.contains(place));
    assert!(fits, "found {found:#?}, expected {places:#?}");
}

#[test]
fn imports_go_down() {
    assert_tidy(&rules::imports_go_down(&project()));
    let bad = tree(&[
        (
            "src/http/a.rs",
            "use crate::{io, store::dir};\nfn f() { super::super::api::g() }",
        ),
        ("src/io/mod.rs", "use super::api::x;"),
        ("src/telemetry/mod.rs", "use crate::config::A;"),
        ("src/config.rs", "fn f() { crate::telemetry::g() }"),
        (
            "src/new.rs",
            "use crate::io::x;\n#[cfg(test)] mod tests { use crate::server; }",
        ),
        ("src/server.rs", "use crate::api::x; use crate::limits;"),
        ("src/git/a.rs", "use crate::{manifest, tree};"),
        ("src/manifest.rs", "use crate::{io, archive};"),
        ("src/restore/a.rs", "use crate::{git, http::wire, mirror};"),
    ]);
    let places = [
        "src/http/a.rs:1: http imports store",
        "src/http/a.rs:2: http imports api",
        "src/io/mod.rs:1: io imports api",
        "src/new.rs:1: no layer for new",
        "src/git/a.rs:1: git imports tree",
        "src/manifest.rs:1: manifest imports archive",
        "src/restore/a.rs:1: restore imports http",
        "src/restore/a.rs:1: restore imports mirror",
        "src/config: imports itself",
        "src/telemetry: imports itself",
    ];
    assert_found(&rules::imports_go_down(&bad), &places);
}

#[test]
fn no_circles() {
    assert_tidy(&circles::no_circles(&project()));
    let bad = tree(&[
        ("src/lib.rs", "pub mod a; mod d; mod e;"),
        (
            "src/a.rs",
            "mod b; pub mod c; pub use b::B; fn f() { b::g(); }",
        ),
        ("src/a/b.rs", "use super::c::{self, C}; pub struct B;"),
        ("src/a/c.rs", "use super::B; #[cfg(test)] use crate::d;"),
        ("src/d.rs", "mod f; use crate::{a::{c::C, B}, e::E};"),
        (
            "src/d/f.rs",
            "fn g() { super::h() } #[cfg(test)] mod tests { use crate::a; }",
        ),
        ("src/e.rs", "pub(in crate::d) fn f() {}"),
        ("perf/main.rs", "mod x; mod y;"),
        ("perf/x.rs", "fn f() { super::y::g::<u8>() }"),
        ("perf/y.rs", "use super::x as z;"),
        ("Cargo.toml", "path = \"perf/main.rs\""),
    ]);
    let places = [
        "perf/x.rs -> perf/y.rs: a circle",
        "src/a/b.rs -> src/a/c.rs: a circle",
    ];
    assert_found(&circles::no_circles(&bad), &places);
}

#[test]
fn comments_cite_what_is_there() {
    assert_tidy(&rules::comments_cite_what_is_there(&project()));
    let gone = ["// See src/", "gone.rs and tests/", "a."].concat();
    let there = "/// As src/a.rs, src/a, tests/b and `src/` say, and docs/c.md.\nfn f() {}";
    let bad = tree(&[
        ("src/a.rs", there),
        ("tests/b/main.rs", &gone),
        ("docs/c.md", ""),
    ]);
    let places = [
        "tests/b/main.rs:1: src/gone.rs",
        "tests/b/main.rs:1: tests/a",
    ];
    assert_found(&rules::comments_cite_what_is_there(&bad), &places);
}

#[test]
fn unsafe_is_confined_and_explained() {
    assert_tidy(&rules::unsafe_is_confined_and_explained(&project()));
    let bad = tree(&[
        ("src/a.rs", "// SAFETY: it is.\nunsafe fn f() {}"),
        ("src/b.rs", "#![allow(unsafe_code)]\nfn f() {}"),
        (
            "src/io/net.rs",
            "// SAFETY: it is.\nunsafe fn f() {}\n\n\n// Not said.\nunsafe fn g() {}",
        ),
        ("src/lib.rs", "#![deny(unsafe_code)]\nfn f() {}"),
        ("src/main.rs", "fn main() {}"),
    ]);
    let places = [
        "src/a.rs:2: unsafe code outside",
        "src/b.rs:1: unsafe allowed outside",
        "src/io/net.rs:6: unsafe without",
        "src/main.rs:1: the crate root does not",
    ];
    assert_found(&rules::unsafe_is_confined_and_explained(&bad), &places);
}

#[test]
fn functions_fit_a_screen() {
    assert_tidy(&rules::functions_fit_a_screen(&project()));
    let lines = |count: usize| format!("{}\n", "    f();\n".repeat(count));
    let long = format!(
        "fn fits() {{\n{}}}\nstruct S;\nimpl S {{\nfn long() {{\n{}}}\n}}",
        lines(67),
        lines(69)
    );
    let bad = tree(&[("tests/a.rs", &long)]);
    assert_found(
        &rules::functions_fit_a_screen(&bad),
        &["tests/a.rs:73: long has 72 lines"],
    );
}

#[test]
fn files_are_short() {
    assert_tidy(&rules::files_are_short(&project()));
    let lines = |count: usize| "fn f() {}\n".repeat(count);
    let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", lines(99));
    let bad = tree(&[
        ("src/fits.rs", &format!("{}{tests}", lines(500))),
        ("src/long.rs", &format!("{}{tests}", lines(501))),
        ("src/fits/tests.rs", &lines(999)),
        ("src/lib.rs", "mod fits; mod long;"),
        ("tests/a.rs", &lines(999)),
    ]);
    let bad_tests = "#[cfg(test)]\nmod tests;\n";
    assert_found(
        &rules::files_are_short(&bad),
        &["src/long.rs: 501", "src/fits/tests.rs: 999"],
    );
    let text = format!("{bad_tests}{}", lines(499));
    let good = tree(&[("src/fits.rs", &text), ("src/fits/tests.rs", &lines(999))]);
    assert_tidy(&rules::files_are_short(&good));
}

#[test]
fn git_is_run_in_one_place() {
    assert_tidy(&rules::git_is_run_in_one_place(&project()));
    let bad = tree(&[
        ("src/git/command.rs", "fn f() { child::command(a); }"),
        ("src/a.rs", "fn f() { io::child::command(a); }"),
        (
            "src/b.rs",
            "fn f() { Command::new(\"git\"); }\n#[cfg(test)] mod tests { fn f() { Command::new(\"git\"); } }",
        ),
        ("tests/c.rs", "fn f() { Command::new(\"git\"); }"),
    ]);
    let places = ["src/a.rs:1: ", "src/b.rs:1: "];
    assert_found(&rules::git_is_run_in_one_place(&bad), &places);
}

#[test]
fn panics_have_reasons() {
    assert_tidy(&rules::panics_have_reasons(&project()));
    let text = "fn f() {\n a.unwrap();\n b.expect(\"b\");\n c.expect(\"c was checked\");\n
        m!(d.unwrap());\n}\n#[cfg(test)] mod tests { fn f() { a.unwrap(); } }";
    let bad = tree(&[("src/a.rs", text)]);
    let places = [
        "src/a.rs:2: unwrap",
        "src/a.rs:6: unwrap",
        "src/a.rs:3: expect",
    ];
    assert_found(&rules::panics_have_reasons(&bad), &places);
}

#[test]
fn cores_never_block() {
    assert_tidy(&cores::cores_never_block(&project()));
    let text = "use std::fs::{self, read};
        fn f() { fs::read(p); }
        impl S { fn g(&self) { std::thread::sleep(t); File::open(p); q.recv(); q.recv().await; } }
        fn h() { thread::spawn(move || { fs::read(p); (); }); monoio::spawn(async { c.wait(d) }); }
        fn i(a: &Archive) { prefetch::read(a); a.open_files(); read(a); }
        #[cfg(test)] fn j() { fs::read(p); }";
    let prefetch = "fn run() { q.recv(); read(); }\nfn read() { other(); }
        fn k() { spawn_blocking(|| read()); read(); }
        impl Drop for Prefetch { fn drop(&mut self) { t.join(); } }";
    let bad = tree(&[
        ("src/http/a.rs", text),
        ("src/store/a.rs", text),
        ("src/jobs/builder.rs", text),
        ("src/archive/prefetch.rs", prefetch),
    ]);
    let places = [
        "src/http/a.rs:1: `read` imported",
        "src/http/a.rs:2: f: `fs::read(`",
        "src/http/a.rs:3: S::g: `thread::sleep(`",
        "src/http/a.rs:3: S::g: `File::open(`",
        "src/http/a.rs:3: S::g: `.recv()`",
        "src/http/a.rs:4: h: `.wait(d`",
        "src/http/a.rs:5: i: calls read",
        "src/http/a.rs:5: i: calls Archive::open_files",
        "src/archive/prefetch.rs:3: k: calls read",
        "src/archive/prefetch.rs: read waits for nothing",
    ];
    assert_found(&cores::cores_never_block(&bad), &places);
}

#[test]
fn updates_go_in_steps() {
    assert_tidy(&rules::updates_go_in_steps(&project()));
    let text = "fn f() { steps::rename(a, b); fs::read(a); fs::rename(a, b); File::create(a); unlinkat(a); }
        #[cfg(test)] mod tests { fn f() { fs::write(a, b); } }";
    let bad = tree(&[("src/restore/renew/a.rs", text), ("src/restore/a.rs", text)]);
    let places = [
        "a.rs:1: fs::rename(",
        "a.rs:1: File::create(",
        "a.rs:1: unlinkat(",
    ];
    assert_found(&rules::updates_go_in_steps(&bad), &places);
}

/// Variables of the environment that the program reads are settings that it knows: no warning says
/// that they are none.
#[test]
fn variables_are_settings() {
    assert_tidy(&rules::variables_are_settings(&project()));
    let text = "fn f() { env(\"TARPON_LISTEN\"); env(\"TARPON_GONE\"); say(\"TARPON_X=1\"); }";
    let bad = tree(&[("src/a.rs", text)]);
    let places = ["src/a.rs:1: TARPON_GONE is"];
    assert_found(&rules::variables_are_settings(&bad), &places);
}

#[test]
fn no_file_is_dead() {
    assert_tidy(&rules::no_file_is_dead(&project()));
    let bad = tree(&[
        ("src/lib.rs", "mod a;\n#[path = \"../tests/x/y.rs\"] mod y;"),
        ("src/a.rs", "mod b; mod c { mod d; }"),
        ("src/a/b.rs", ""),
        ("src/b.rs", ""),
        ("tests/x/y.rs", ""),
        ("tests/x/z.rs", ""),
        ("benches/named.rs", ""),
        ("Cargo.toml", "path = \"benches/named.rs\""),
    ]);
    let places = ["src/b.rs:1: no module", "tests/x/z.rs:1: no module"];
    assert_found(&rules::no_file_is_dead(&bad), &places);
}

#[test]
fn limits_are_in_one_place() {
    assert_tidy(&rules::limits_are_in_one_place(&project()));
    let bad = tree(&[
        (
            "src/limits/a.rs",
            "pub const USED_MAX: u8 = 1;\npub const IDLE_MAX: u8 = 2;",
        ),
        (
            "src/a.rs",
            "use crate::limits::USED_MAX;\nconst OTHER_MAX: u8 = 1;\nconst MAXIMS: u8 = 1;",
        ),
    ]);
    let places = [
        "src/limits/a.rs:2: IDLE_MAX is used nowhere",
        "src/a.rs:2: OTHER_MAX belongs",
    ];
    assert_found(&rules::limits_are_in_one_place(&bad), &places);
}

#[test]
fn nothing_is_left_over() {
    assert_tidy(&rules::nothing_is_left_over(&project()));
    let comment = ["// TO", "DO: more\n// /ho", "me/me/x"].concat();
    let call = ["fn f() { db", "g!(1); }"].concat();
    let bad = tree(&[
        ("src/a.rs", &comment),
        ("tests/b.rs", &call),
        ("README.md", &comment),
    ]);
    let places = [
        "src/a.rs:1",
        "src/a.rs:2",
        "tests/b.rs:1",
        "README.md:1",
        "README.md:2",
    ];
    assert_found(&rules::nothing_is_left_over(&bad), &places);
}

#[test]
fn metrics_are_documented() {
    assert_tidy(&rules::metrics_are_documented(&project()));
    let metrics =
        "const A: F = F {\n name: \"x_total\" };\nconst B: F = F {\n name: \"y_total\" };";
    let bad = tree(&[
        ("src/telemetry/metrics/family.rs", metrics),
        ("docs/metrics.md", "`x_total` and y_total_ms"),
    ]);
    let places = ["src/telemetry/metrics/family.rs:4: y_total is not"];
    assert_found(&rules::metrics_are_documented(&bad), &places);
}

#[test]
fn settings_are_documented() {
    assert_tidy(&rules::settings_are_documented(&project(), &help()));
    let text = "struct ServeArgs {\n/// Said.\n#[arg(long)] a_b: X,\n#[arg(long)] c: X,\n
        /// Hidden.\n#[arg(long)] d: X,\n dir: X }";
    let bad = tree(&[("src/config/cli.rs", text)]);
    let places = [":4: --c is not", ":6: --d is not"];
    assert_found(
        &rules::settings_are_documented(&bad, "--a-b <X> --c --ddd"),
        &places,
    );
}

#[test]
fn links_hold() {
    assert_tidy(&rules::links_hold(&project()));
    let page = "# Here, *there*\n[a](#here-there) [b](b.md#x) [c](https://h/#y) [d](#gone)\n```\n# gone\n```\n";
    let bad = tree(&[
        ("README.md", "[a](docs/a.md#here-there), [b](docs/c.md)"),
        ("docs/a.md", page),
        ("docs/b.md", "## y\n"),
    ]);
    let places = [
        "README.md: docs/c.md leads nowhere",
        "docs/a.md: b.md#x leads nowhere",
        "docs/a.md: #gone leads nowhere",
    ];
    assert_found(&rules::links_hold(&bad), &places);
}

#[test]
fn readme_commands_exist() {
    assert_tidy(&rules::readme_commands_exist(&project(), &help()));
    let readme =
        "Run `tarpon serve --good --bad`, or `curl --any`, then perf/gone or `fuzz/run 5`.";
    let bad = tree(&[("README.md", readme), ("fuzz/run", "")]);
    let places = ["README.md: perf/gone does not exist"];
    assert_found(&rules::readme_commands_exist(&bad, "--good"), &places);
    let bad = tree(&[("README.md", "`--good`, `--bad`")]);
    assert_found(
        &rules::readme_commands_exist(&bad, "--good"),
        &["README.md: --bad is not"],
    );
    let bad = tree(&[("docs/a.md", "`--bad`, see [b](docs/b.md)")]);
    let places = ["docs/a.md: --bad is not", "docs/a.md: docs/b.md does not"];
    assert_found(&rules::readme_commands_exist(&bad, "--good"), &places);
}
