//! The tar archive itself: names, kinds, headers, and two entries that disagree.

use crate::archive::{Archive, Entry, block, ended, frame, pax, skippable, zst};
use crate::ground::{Fixture, Ground, fixture};
use crate::made::IndexEntry;
use crate::trial::{Case, Rule, check_text, nothing_left, serve, try_all, used};
use std::os::unix::fs::PermissionsExt;
use tar::EntryType;

fn entry(name: &str, rule: Rule, make: fn(&Ground) -> Vec<Entry>) -> Case {
    Case::new(name, rule, move |fixture, ground| {
        make(ground)
            .into_iter()
            .fold(fixture.good.clone(), Archive::add)
    })
}

#[test]
fn no_entry_leaves_the_target() {
    use Rule::Refused;
    let cases = [
        entry("absolute", Refused, |g| {
            vec![Entry::file(g.text("outside/new"), "x")]
        }),
        entry("absolute, there", Refused, |g| {
            vec![Entry::file(g.text("outside/victim"), "x")]
        }),
        entry("a link, then below it", Refused, |g| {
            vec![
                Entry::link("s", g.text("outside")),
                Entry::file("s/victim", "x"),
            ]
        }),
        entry("below, then a link", Refused, |g| {
            vec![Entry::file("s/x", "x"), Entry::link("s", g.text("outside"))]
        }),
        entry(
            "a link, then a directory of its name, then below it",
            Refused,
            |g| {
                vec![
                    Entry::link("s", g.text("outside")),
                    Entry::directory("s/"),
                    Entry::file("s/victim", "x"),
                ]
            },
        ),
        entry("a link, then a file of its name", Refused, |g| {
            vec![
                Entry::link("s", g.text("outside/victim")),
                Entry::file("s", "x"),
            ]
        }),
        entry(
            "a file, then a link of its name, then a file again",
            Refused,
            |g| {
                vec![
                    Entry::file("s", "x"),
                    Entry::link("s", g.text("outside/victim")),
                    Entry::file("s", "x"),
                ]
            },
        ),
        entry("two links", Refused, |g| {
            vec![
                Entry::link("s", "."),
                Entry::link("s/t", g.text("outside")),
                Entry::file("s/t/victim", "x"),
            ]
        }),
        entry("a link up", Refused, |_| {
            vec![
                Entry::link("up", "../.."),
                Entry::file("up/outside/victim", "x"),
            ]
        }),
        entry("one file twice", Refused, |_| {
            vec![Entry::file("a.txt", "x")]
        }),
    ];
    try_all(&cases);
}

#[test]
fn no_name_and_no_kind_leads_out() {
    use Rule::Refused;
    let mut cases = vec![
        entry("a hard link out", Refused, |g| {
            vec![Entry::of(EntryType::Link, "h", g.text("outside/victim"))]
        }),
        entry("a hard link in", Refused, |_| {
            vec![Entry::of(EntryType::Link, "h", ".git/config")]
        }),
    ];
    const NAMES: [&str; 12] = [
        "../beside",
        "../new",
        "dir/../../beside",
        "..",
        "dir/..",
        "./../beside",
        "a/./../../beside",
        "dir//x",
        "/",
        "",
        "../target/x",
        ".git/../../beside",
    ];
    cases.extend(NAMES.map(|name| {
        Case::new(format!("{name:?}"), Refused, move |fixture, _| {
            fixture.good.clone().add(Entry::file(name, "x"))
        })
    }));
    let kinds = [
        EntryType::Char,
        EntryType::Block,
        EntryType::Fifo,
        EntryType::Continuous,
        EntryType::GNUSparse,
        EntryType::new(b'V'),
        EntryType::new(b'M'),
        EntryType::new(b'D'),
        EntryType::new(b'N'),
        EntryType::new(b'X'),
        EntryType::new(0x1b),
    ];
    cases.extend(kinds.map(|kind| {
        Case::new(format!("of type {kind:?}"), Refused, move |fixture, _| {
            fixture.good.clone().add(Entry::of(kind, "odd", ""))
        })
    }));
    try_all(&cases);
}

#[test]
fn what_is_a_name_on_another_system_is_harmless() {
    let harmless = |name: &'static str| {
        Case::new(format!("{name:?}"), Rule::Harmless, move |fixture, _| {
            fixture.good.clone().add(Entry::file(name, "x"))
        })
    };
    const NAMES: [&str; 14] = [
        "A.TXT",
        "Dir/b.txt",
        "a.txt ",
        "a.txt.",
        "CON",
        "aux.c",
        "a\\b",
        "..\\..\\beside",
        "C:x",
        "a.txt::$DATA",
        "\u{1b}]0;x\u{7}",
        "\u{1b}[2J\u{1b}[31mx",
        "\r\nx",
        "\u{202e}txt.a",
    ];
    let mut cases: Vec<Case> = NAMES.map(harmless).into();
    for (name, to) in [
        (".gitmodules", "@O/victim"),
        (".gitattributes", "@O/victim"),
        (".gitignore", "/etc/passwd"),
        (".mailmap", "@O/victim"),
    ] {
        cases.push(Case::new(
            format!("a link {name}"),
            Rule::Harmless,
            move |fixture, ground| {
                let to = to.replace("@O", &ground.text("outside"));
                fixture
                    .good
                    .clone()
                    .without(name)
                    .add(Entry::link(name, to))
            },
        ));
    }
    try_all(&cases);
}

#[test]
fn an_entry_is_of_the_kind_that_the_commit_has() {
    let mut cases = Vec::new();
    cases.push(Case::new(
        "a link where the index has a file",
        Rule::Harmless,
        |fixture, ground| {
            let to = ground.text("outside/a.txt");
            fixture
                .good
                .clone()
                .without("a.txt")
                .add(Entry::link("a.txt", to))
        },
    ));
    cases.push(Case::new(
        "a link where the index has a directory",
        Rule::Harmless,
        |fixture, ground| {
            fixture
                .good
                .clone()
                .without("dir")
                .add(Entry::link("dir", ground.text("outside")))
        },
    ));
    cases.push(Case::new(
        "a link where the index has a submodule",
        Rule::Harmless,
        |fixture, ground| {
            fixture
                .good
                .clone()
                .without("sub")
                .add(Entry::link("sub", ground.text("outside/tree")))
        },
    ));
    cases.push(Case::new(
        "a case pair in the index",
        Rule::Harmless,
        |fixture, _| {
            let blob = fixture.ask(&["rev-parse", "HEAD:a.txt"]);
            let index = fixture
                .index
                .clone()
                .with(IndexEntry::new("A.TXT", 0o100_644, &blob));
            let archive = fixture.good.clone().add(Entry::file("A.TXT", "x"));
            archive.set(".git/index", index.bytes())
        },
    ));
    cases.push(Case::new(
        "other names of one place",
        Rule::Harmless,
        |fixture, _| fixture.good.clone().add(Entry::file("./dir/b.txt", "x")),
    ));
    cases.push(Case::new(
        "a leading dot everywhere",
        Rule::Taken,
        |fixture, _| {
            let mut archive = fixture.good.clone();
            for entry in &mut archive.0 {
                entry.name = [b"./", &entry.name[..]].concat();
            }
            archive
        },
    ));
    try_all(&cases);
}

/// Whatever a header says, files are a user's own: no setuid, nothing that others may write.
#[test]
fn modes_are_those_of_a_clone() {
    for mode in [0o7777, 0o4755, 0o2755, 0o1777, 0o000, 0o777] {
        let ground = Ground::new();
        let mut archive = fixture().good.clone();
        for entry in &mut archive.0 {
            if entry.kind == EntryType::Directory || entry.name == b"run.sh" {
                entry.mode = mode | 0o100;
            }
        }
        let out = ground.restore(serve(String::new(), zst(&archive.tar())), &[]);
        assert_eq!(out.status.code(), Some(0), "{mode:o}: {out:?}");
        for (name, expected) in [
            ("run.sh", 0o755),
            ("dir", 0o755),
            (".git", 0o755),
            ("a.txt", 0o644),
        ] {
            let found = std::fs::symlink_metadata(ground.target().join(name));
            let found = found.map(|meta| meta.permissions().mode() & 0o7777).ok();
            assert_eq!(found, Some(expected), "{mode:o}: {name}");
        }
        used(fixture(), &ground).unwrap_or_else(|e| panic!("{mode:o}: {e}"));
    }
}

/// A tar archive as bytes, for what no list of entries can say.
struct Raw {
    name: &'static str,
    rule: Rule,
    make: fn(&Fixture, &Ground) -> Vec<u8>,
}

const fn raw(name: &'static str, rule: Rule, make: fn(&Fixture, &Ground) -> Vec<u8>) -> Raw {
    Raw { name, rule, make }
}

/// The entries of a good archive, then what `add` appends, then the end.
fn with(fixture: &Fixture, add: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut tar = Vec::new();
    add(&mut tar);
    ended([tar, fixture.good.body()].concat())
}

fn extended(out: &mut Vec<u8>, records: &[(&str, &str)], name: &str) {
    block(out, b"pax", EntryType::XHeader, &pax(records), 0o644);
    block(out, name.as_bytes(), EntryType::Regular, b"x", 0o644);
}

const HEADERS: [Raw; 20] = [
    raw("PAX: a path outside", Rule::Refused, |f, g| {
        with(f, |out| {
            extended(out, &[("path", &g.text("outside/victim"))], "ok")
        })
    }),
    raw("PAX: a path up", Rule::Refused, |f, _| {
        with(f, |out| extended(out, &[("path", "../beside")], "ok"))
    }),
    raw("PAX: hooks", Rule::Harmless, |f, _| {
        with(f, |out| {
            extended(out, &[("path", ".git/hooks/post-checkout")], "ok")
        })
    }),
    raw("PAX: a path twice", Rule::Refused, |f, _| {
        with(f, |out| {
            extended(out, &[("path", "ok"), ("path", "../beside")], "ok")
        })
    }),
    raw("PAX: a link's target outside", Rule::Refused, |f, g| {
        with(f, |out| {
            let records = pax(&[("linkpath", &g.text("outside")), ("path", "s")]);
            block(out, b"pax", EntryType::XHeader, &records, 0o644);
            block(out, b"s", EntryType::Symlink, b"ok", 0o644);
            block(out, b"s/victim", EntryType::Regular, b"x", 0o644);
        })
    }),
    raw("PAX: a size that hides an entry", Rule::Refused, |f, _| {
        with(f, |out| {
            extended(out, &[("size", "1024")], "ok");
            block(out, b"../beside", EntryType::Regular, b"x", 0o644);
        })
    }),
    raw("PAX: 8 EiB", Rule::Refused, |f, _| {
        with(f, |out| {
            extended(out, &[("size", "9223372036854775807")], "ok")
        })
    }),
    raw("PAX: a negative size", Rule::Refused, |f, _| {
        with(f, |out| extended(out, &[("size", "-1")], "ok"))
    }),
    raw("PAX: sparse", Rule::Refused, |f, _| {
        with(f, |out| {
            extended(
                out,
                &[("GNU.sparse.major", "1"), ("GNU.sparse.name", "../beside")],
                "ok",
            )
        })
    }),
    raw(
        "PAX: a record that lies about its length",
        Rule::Refused,
        |f, _| {
            with(f, |out| {
                block(out, b"pax", EntryType::XHeader, b"999999 path=x\n", 0o644);
                block(out, b"ok", EntryType::Regular, b"x", 0o644);
            })
        },
    ),
    raw("PAX: a name with NUL", Rule::Refused, |f, _| {
        with(f, |out| extended(out, &[("path", "a\0b")], "ok"))
    }),
    raw("PAX: global", Rule::Refused, |f, _| {
        with(f, |out| {
            block(
                out,
                b"pax",
                EntryType::XGlobalHeader,
                &pax(&[("path", "../beside")]),
                0o644,
            );
            block(out, b"ok", EntryType::Regular, b"x", 0o644);
        })
    }),
    raw("PAX against a long name", Rule::Refused, |f, _| {
        with(f, |out| {
            block(
                out,
                b"././@LongLink",
                EntryType::GNULongName,
                b"ok\0",
                0o644,
            );
            extended(out, &[("path", "../beside")], "ok");
        })
    }),
    raw("a long name against PAX", Rule::Refused, |f, _| {
        with(f, |out| {
            block(
                out,
                b"pax",
                EntryType::XHeader,
                &pax(&[("path", "ok")]),
                0o644,
            );
            block(
                out,
                b"././@LongLink",
                EntryType::GNULongName,
                b"../beside\0",
                0o644,
            );
            block(out, b"ok", EntryType::Regular, b"x", 0o644);
        })
    }),
    raw("two long names", Rule::Refused, |f, _| {
        with(f, |out| {
            block(
                out,
                b"././@LongLink",
                EntryType::GNULongName,
                b"ok\0",
                0o644,
            );
            block(
                out,
                b"././@LongLink",
                EntryType::GNULongName,
                b"../beside\0",
                0o644,
            );
            block(out, b"ok", EntryType::Regular, b"x", 0o644);
        })
    }),
    raw("a long name with NUL inside", Rule::Refused, |f, _| {
        with(f, |out| {
            block(
                out,
                b"././@LongLink",
                EntryType::GNULongName,
                b"ok\0../beside\0",
                0o644,
            );
            block(out, b"ok", EntryType::Regular, b"x", 0o644);
        })
    }),
    raw("an empty long name", Rule::Refused, |f, _| {
        with(f, |out| {
            block(out, b"././@LongLink", EntryType::GNULongName, b"", 0o644);
            block(out, b"ok", EntryType::Regular, b"x", 0o644);
        })
    }),
    raw("a long name for nobody", Rule::Refused, |f, _| {
        let mut tar = f.good.body();
        block(
            &mut tar,
            b"././@LongLink",
            EntryType::GNULongName,
            b"ok\0",
            0o644,
        );
        ended(tar)
    }),
    raw("an entry behind the end", Rule::Refused, |f, _| {
        let mut tar = f.good.tar();
        block(&mut tar, b"../beside", EntryType::Regular, b"x", 0o644);
        tar
    }),
    raw("a wrong checksum", Rule::Refused, |f, _| {
        let mut tar = f.good.tar();
        tar[148] ^= 1;
        tar
    }),
];

/// The same for what compresses the archive.
const STREAMS: [Raw; 9] = [
    raw("no tar", Rule::Refused, |_, _| zst(b"hello")),
    raw("nothing", Rule::Refused, |_, _| Vec::new()),
    raw("no zstd", Rule::Refused, |f, _| f.good.tar()),
    raw("only skippable frames", Rule::Refused, |_, _| {
        skippable(b"x").repeat(10)
    }),
    raw("a skippable frame of 2 GiB", Rule::Refused, |f, _| {
        [
            &0x184D_2A50u32.to_le_bytes()[..],
            &(2u32 << 30).to_le_bytes(),
            &zst(&f.good.tar()),
        ]
        .concat()
    }),
    raw("cut", Rule::Refused, |f, _| {
        let mut bytes = zst(&f.good.tar());
        bytes.truncate(bytes.len() - 1);
        bytes
    }),
    raw("something behind it", Rule::Refused, |f, _| {
        [zst(&f.good.tar()), frame(b"more")].concat()
    }),
    raw("a second archive behind it", Rule::Refused, |f, _| {
        let other = Archive(vec![Entry::file("../beside", "x")]);
        [zst(&f.good.tar()), frame(&other.tar())].concat()
    }),
    raw("skippable frames between", Rule::Taken, |f, _| {
        let tar = f.good.tar();
        let pieces = tar.chunks(tar.len() / 3 + 1);
        pieces
            .flat_map(|piece| [skippable(b"note"), frame(piece)].concat())
            .collect()
    }),
];

fn attempt(case: &Raw, body: &[u8], ground: &Ground) -> Result<(), String> {
    let out = ground.restore(serve(String::new(), body.to_vec()), &[]);
    ground.harm()?;
    let errors = String::from_utf8_lossy(&out.stderr).into_owned();
    check_text(&errors)?;
    match (out.status.code(), case.rule) {
        (Some(0), Rule::Taken | Rule::Harmless) => used(fixture(), ground),
        (Some(5), Rule::Refused | Rule::Harmless) => nothing_left(ground),
        // What is said to be larger than the disk.
        (Some(4), Rule::Refused) if case.name.contains("EiB") => nothing_left(ground),
        (code, rule) => Err(format!("exit {code:?}, not {rule:?}: {}", errors.trim())),
    }
}

#[track_caller]
fn expect(failed: Vec<String>) {
    assert!(failed.is_empty(), "{}\n", failed.join("\n"));
}

#[test]
fn headers_that_disagree_are_refused() {
    let cases = HEADERS.iter().filter_map(|case| {
        let ground = Ground::new();
        let body = zst(&(case.make)(fixture(), &ground));
        attempt(case, &body, &ground)
            .err()
            .map(|why| format!("{}: {why}", case.name))
    });
    expect(cases.collect());
}

#[test]
fn frames_that_lie_are_refused() {
    let cases = STREAMS.iter().filter_map(|case| {
        let ground = Ground::new();
        let body = (case.make)(fixture(), &ground);
        attempt(case, &body, &ground)
            .err()
            .map(|why| format!("{}: {why}", case.name))
    });
    expect(cases.collect());
}
