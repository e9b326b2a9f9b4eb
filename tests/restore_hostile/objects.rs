//! Packs, their indexes, loose objects, and the index of the worktree.

use crate::archive::{Archive, Entry};
use crate::ground::{Fixture, fixture};
use crate::made::{Index, IndexEntry, hex, loose, loose_path, resum, sha1};
use crate::trial::{Case, Rule, try_all};

fn pack(fixture: &Fixture) -> String {
    fixture.good.find(".git/objects/pack/", ".pack")
}

fn idx(fixture: &Fixture) -> String {
    fixture.good.find(".git/objects/pack/", ".idx")
}

type Change = fn(&mut Vec<u8>);

/// Fan-out of the names' first bytes; then the names.
const FANOUT: usize = 8;
const NAMES: usize = FANOUT + 1024;

fn count(idx: &[u8]) -> usize {
    let last = &idx[NAMES - 4..NAMES];
    u32::from_be_bytes([last[0], last[1], last[2], last[3]]) as usize
}

/// Where the offsets of the objects are.
fn offsets(idx: &[u8]) -> usize {
    NAMES + count(idx) * 24
}

const PACK_CHANGES: [(&str, Change); 13] = [
    ("another magic", |b| b[0] = b'X'),
    ("version 4", |b| b[7] = 4),
    ("one object more", |b| b[11] += 1),
    ("no objects", |b| b[8..12].fill(0)),
    ("4 billion objects", |b| b[8..12].fill(0xff)),
    ("another trailer", |b| *b.last_mut().unwrap_or(&mut 0) ^= 1),
    ("cut", |b| b.truncate(b.len() / 2)),
    ("12 bytes", |b| b.truncate(12)),
    ("empty", Vec::clear),
    ("something behind it", |b| b.extend_from_slice(b"more")),
    ("a count that fits its sum", |b| {
        b[11] += 1;
        resum(b);
    }),
    ("an object that does not inflate", |b| {
        let at = b.len() / 2;
        b[at] ^= 0x55;
        resum(b);
    }),
    ("all objects rubbish", |b| {
        let end = b.len() - 20;
        b[12..end].fill(0xff);
        resum(b);
    }),
];

const PACK_NAMES: [&str; 7] = [
    "pack-0000000000000000000000000000000000000000",
    "pack-x",
    "evil",
    "pack--x",
    "../../../outside/pack",
    "pack-\u{1b}[31m",
    "PACK-0000000000000000000000000000000000000000",
];

#[test]
fn a_pack_is_sound_or_refused() {
    let mut cases: Vec<Case> = PACK_CHANGES
        .into_iter()
        .map(|(name, change)| {
            Case::new(
                format!("pack: {name}"),
                Rule::Harmless,
                move |fixture, _| fixture.good.clone().change(&pack(fixture), change),
            )
        })
        .collect();
    cases.push(Case::new("pack: none", Rule::Refused, |fixture, _| {
        fixture
            .good
            .clone()
            .without(&pack(fixture))
            .without(&idx(fixture))
    }));
    cases.push(Case::new("pack: no idx", Rule::Refused, |fixture, _| {
        fixture.good.clone().without(&idx(fixture))
    }));
    for to in PACK_NAMES {
        cases.push(Case::new(
            format!("pack: named {to:?}"),
            Rule::Harmless,
            move |fixture, _| {
                let (pack, idx) = (pack(fixture), idx(fixture));
                let place = ".git/objects/pack";
                let archive = fixture
                    .good
                    .clone()
                    .rename(&pack, &format!("{place}/{to}.pack"));
                archive.rename(&idx, &format!("{place}/{to}.idx"))
            },
        ));
    }
    cases.push(Case::new(
        "pack: rubbish besides",
        Rule::Harmless,
        |fixture, _| {
            let stem = format!(".git/objects/pack/pack-{}", "1".repeat(40));
            let archive = fixture.good.clone().set(&format!("{stem}.pack"), "x");
            archive.set(&format!("{stem}.idx"), "x")
        },
    ));
    cases.push(Case::new(
        "pack: a temporary one",
        Rule::Harmless,
        |fixture, _| {
            fixture
                .good
                .clone()
                .set(".git/objects/pack/tmp_pack_x", "x")
        },
    ));
    try_all(&cases);
}

const IDX_CHANGES: [(&str, Change); 15] = [
    ("empty", Vec::clear),
    ("another magic", |b| b[0] = 0),
    ("version 3", |b| {
        b[7] = 3;
        resum(b);
    }),
    ("a fan-out that falls", |b| {
        b[FANOUT..FANOUT + 4].fill(0xff);
        resum(b);
    }),
    ("a count of 4 billion", |b| {
        b[NAMES - 4..NAMES].fill(0xff);
        resum(b);
    }),
    ("a fan-out of zeros", |b| {
        b[FANOUT..NAMES].fill(0);
        resum(b);
    }),
    ("names out of order", |b| {
        let (first, second) = b[NAMES..NAMES + 40].split_at_mut(20);
        first.swap_with_slice(second);
        resum(b);
    }),
    ("a name twice", |b| {
        b.copy_within(NAMES..NAMES + 20, NAMES + 20);
        resum(b);
    }),
    ("an offset outside", |b| {
        let at = offsets(b);
        b[at..at + 4].copy_from_slice(&0x7fff_ffffu32.to_be_bytes());
        resum(b);
    }),
    ("a large offset that is not there", |b| {
        let at = offsets(b);
        b[at..at + 4].copy_from_slice(&0xffff_ffffu32.to_be_bytes());
        resum(b);
    }),
    ("an offset in the header", |b| {
        let at = offsets(b);
        b[at..at + 4].fill(0);
        resum(b);
    }),
    ("offsets exchanged", |b| {
        let at = offsets(b);
        let (first, second) = b[at..at + 8].split_at_mut(4);
        first.swap_with_slice(second);
        resum(b);
    }),
    ("another pack's", |b| {
        let at = b.len() - 40;
        b[at..at + 20].fill(7);
        resum(b);
    }),
    ("another sum", |b| *b.last_mut().unwrap_or(&mut 0) ^= 1),
    ("something behind it", |b| {
        b.extend_from_slice(&[0; 20]);
        resum(b);
    }),
];

#[test]
fn an_idx_is_sound_or_refused() {
    let mut cases: Vec<Case> = IDX_CHANGES
        .into_iter()
        .map(|(name, change)| {
            Case::new(format!("idx: {name}"), Rule::Refused, move |fixture, _| {
                fixture.good.clone().change(&idx(fixture), change)
            })
        })
        .collect();
    for (name, kind) in [
        ("rev", "RIDX"),
        ("mtimes", "MTME"),
        ("bitmap", "BITM"),
        ("rev", ""),
    ] {
        cases.push(Case::new(
            format!("idx: a {name} of {kind:?}"),
            Rule::Harmless,
            move |fixture, _| {
                let name = pack(fixture).replace(".pack", &format!(".{name}"));
                fixture.good.clone().set(&name, kind)
            },
        ));
    }
    // Exchanged offsets are found only by who inflates the objects.
    let (found, rule) = ("idx: offsets exchanged", Rule::Harmless);
    cases
        .iter_mut()
        .filter(|c| c.name == found)
        .for_each(|c| c.rule = rule);
    try_all(&cases);
}

const LOOSE_NAMES: [&str; 10] = [
    "00/x",
    "00/11111111111111111111111111111111111111/x",
    "zz/11111111111111111111111111111111111111",
    "AA/11111111111111111111111111111111111111",
    "0/011111111111111111111111111111111111111",
    "aa",
    "x",
    "aa/1111111111111111111111111111111111111111",
    "tmp_obj_x",
    "aa/tmp_obj_x",
];

#[test]
fn a_loose_object_is_what_its_name_says_or_harmless() {
    let place = |name: &'static str| {
        Case::new(
            format!("loose {name:?}"),
            Rule::Harmless,
            move |fixture, _| {
                fixture
                    .good
                    .clone()
                    .set(&format!(".git/objects/{name}"), "x")
            },
        )
    };
    let mut cases: Vec<Case> = LOOSE_NAMES.map(place).into();
    cases.push(Case::new("loose rubbish", Rule::Harmless, |fixture, _| {
        fixture.good.clone().set(&loose_path(&"1".repeat(40)), "x")
    }));
    // Git takes the loose object before the packed one.
    cases.push(Case::new(
        "another tree in the place of HEAD's",
        Rule::Harmless,
        |fixture, _| {
            let tree = fixture.ask(&["rev-parse", "HEAD^{tree}"]);
            let (_, file) = loose("tree", b"");
            fixture.good.clone().set(&loose_path(&tree), file)
        },
    ));
    cases.push(Case::new(
        "another commit in the place of HEAD's",
        Rule::Harmless,
        |fixture, _| {
            let head = fixture.ask(&["rev-parse", "HEAD"]);
            let tree = fixture.ask(&["rev-parse", "HEAD~1^{tree}"]);
            let text = format!("tree {tree}\nauthor a <a> 1 +0000\ncommitter a <a> 1 +0000\n\nx\n");
            let (_, file) = loose("commit", text.as_bytes());
            fixture.good.clone().set(&loose_path(&head), file)
        },
    ));
    for (name, entry) in [
        ("..", &b".."[..]),
        (".git", b".git"),
        ("a/b", b"a/b"),
        ("", b""),
    ] {
        cases.push(Case::new(
            format!("a tree with {name:?}"),
            Rule::Harmless,
            move |fixture, _| hostile_tree(fixture, entry),
        ));
    }
    cases.push(Case::new(
        "a commit without an object",
        Rule::Refused,
        |fixture, _| {
            let (name, file) = loose("commit", b"tree x\n");
            let archive = fixture.good.clone().set(&loose_path(&name), file);
            archive.set(".git/HEAD", format!("{name}\n"))
        },
    ));
    try_all(&cases);
}

/// HEAD is a commit whose tree has an entry of that name, and the index, too.
fn hostile_tree(fixture: &Fixture, entry: &[u8]) -> Archive {
    let (blob, blob_file) = loose("blob", b"evil\n");
    let tree = [b"100644 ", entry, b"\0", &crate::made::id(&blob)].concat();
    let (tree, tree_file) = loose("tree", &tree);
    let text = format!("tree {tree}\nauthor a <a> 1 +0000\ncommitter a <a> 1 +0000\n\nx\n");
    let (commit, commit_file) = loose("commit", text.as_bytes());
    let index = Index {
        entries: vec![IndexEntry::new(
            &String::from_utf8_lossy(entry),
            0o100_644,
            &blob,
        )],
        ..fixture.index.clone()
    };
    let mut archive = fixture.good.clone();
    archive
        .0
        .retain(|e| e.name.starts_with(b".git/") || e.name == b".git");
    archive
        .set(&loose_path(&blob), blob_file)
        .set(&loose_path(&tree), tree_file)
        .set(&loose_path(&commit), commit_file)
        .set(".git/HEAD", format!("{commit}\n"))
        .set(".git/index", index.bytes())
}

fn with_index(name: &str, change: fn(Index) -> Index) -> Case {
    Case::new(
        format!("index: {name}"),
        Rule::Harmless,
        move |fixture, _| {
            let index = change(fixture.index.clone());
            fixture.good.clone().set(".git/index", index.bytes())
        },
    )
}

/// The blob of `a.txt`, which every archive has.
fn blob() -> String {
    fixture().ask(&["rev-parse", "HEAD:a.txt"])
}

fn added(index: Index, path: &str, mode: u32) -> Index {
    index.with(IndexEntry::new(path, mode, &blob()))
}

#[test]
fn of_an_index_only_paths_modes_and_ids_count() {
    let cases = [
        with_index("made here", |index| index),
        with_index(".git/config", |i| added(i, ".git/config", 0o100_644)),
        with_index(".GIT/config", |i| added(i, ".GIT/config", 0o100_644)),
        with_index("sub/.git/config", |i| {
            added(i, "sub/.git/config", 0o100_644)
        }),
        with_index("absolute", |i| added(i, "/tmp/x", 0o100_644)),
        with_index("up", |i| added(i, "../beside", 0o100_644)),
        with_index("up in the middle", |i| {
            added(i, "dir/../../beside", 0o100_644)
        }),
        with_index("here", |i| added(i, "./x", 0o100_644)),
        with_index("empty name", |i| added(i, "", 0o100_644)),
        with_index("a slash at its end", |i| added(i, "x/", 0o100_644)),
        with_index("two slashes", |i| added(i, "dir//x", 0o100_644)),
        with_index("below a file", |i| added(i, "a.txt/x", 0o100_644)),
        with_index("below a link", |i| added(i, "link/x", 0o100_644)),
        with_index("not in a tree", |i| added(i, "new.txt", 0o100_644)),
        with_index("one twice", |i| added(i, "a.txt", 0o100_644)),
        with_index("a mode of rubbish", |i| {
            i.entry("a.txt", |e| e.mode = 0xffff_ffff)
        }),
        with_index("mode 0", |i| i.entry("a.txt", |e| e.mode = 0)),
        with_index("setuid", |i| i.entry("a.txt", |e| e.mode = 0o104_755)),
        with_index("a directory", |i| i.entry("a.txt", |e| e.mode = 0o40_000)),
        with_index("a link", |i| i.entry("a.txt", |e| e.mode = 0o120_000)),
        with_index("a submodule", |i| i.entry("a.txt", |e| e.mode = 0o160_000)),
        with_index("a submodule as file", |i| {
            i.entry("sub", |e| e.mode = 0o100_644)
        }),
        with_index("executable", |i| i.entry("a.txt", |e| e.mode = 0o100_755)),
        with_index("another id", |i| i.entry("a.txt", |e| e.id = vec![7; 20])),
        with_index("no id", |i| i.entry("a.txt", |e| e.id = vec![0; 20])),
        with_index("assume valid", |i| i.entry("a.txt", |e| e.flags = 0x8000)),
        with_index("stage 1", |i| i.entry("a.txt", |e| e.flags = 0x1000)),
        with_index("stage 3", |i| i.entry("a.txt", |e| e.flags = 0x3000)),
    ];
    try_all(&cases);
}

#[test]
fn an_index_of_another_form_is_harmless() {
    let cases = [
        with_index("skip worktree", |i| {
            i.version(3).entry("a.txt", |e| e.extended = 0x4000)
        }),
        with_index("intent to add", |i| {
            i.version(3).entry("a.txt", |e| e.extended = 0x2000)
        }),
        with_index("unknown flags", |i| {
            i.version(3).entry("a.txt", |e| e.extended = 0x1fff)
        }),
        with_index("extended in version 2", |i| {
            i.entry("a.txt", |e| e.extended = 0x4000)
        }),
        with_index("version 3", |i| i.version(3)),
        with_index("version 4", |i| i.version(4)),
        with_index("version 1", |i| i.version(1)),
        with_index("version 99", |i| i.version(99)),
        with_index("no entries", |i| Index {
            entries: Vec::new(),
            ..i
        }),
        with_index("one is missing", |mut i| {
            i.entries.pop();
            i
        }),
        with_index("out of order", |mut i| {
            i.entries.reverse();
            i
        }),
        with_index("one more than there are", |i| Index {
            count: Some(i.entries.len() as u32 + 1),
            ..i
        }),
        with_index("4 billion", |i| Index {
            count: Some(u32::MAX),
            ..i
        }),
        with_index("one less than there are", |i| Index {
            count: Some(1),
            ..i
        }),
    ];
    try_all(&cases);
}

#[test]
fn what_an_index_caches_is_not_trusted() {
    let mut cases = vec![
        with_index("link", |i| i.extension(b"link", &[7; 20])),
        with_index("link of nothing", |i| i.extension(b"link", &[0; 20])),
        with_index("UNTR", |i| i.extension(b"UNTR", b"\x01/\0rubbish")),
        with_index("FSMN", |i| {
            i.extension(b"FSMN", &[0, 0, 0, 2, b'x', 0, 0, 0, 0, 0])
        }),
        with_index("sdir", |i| i.extension(b"sdir", b"")),
        with_index("REUC", |i| {
            i.extension(b"REUC", b"a.txt\x00100644\x00100644\x00100644\x00")
        }),
        with_index("EOIE", |i| i.extension(b"EOIE", &[0xff; 24])),
        with_index("IEOT", |i| i.extension(b"IEOT", &[0xff; 12])),
        with_index("a TREE of rubbish", |i| i.extension(b"TREE", b"rubbish")),
        with_index("an unknown one that may be left out", |i| {
            i.extension(b"EVIL", b"x")
        }),
        with_index("an unknown one that must be known", |i| {
            i.extension(b"evil", b"x")
        }),
    ];
    // Another tree than HEAD's: the user's next commit would be of it, and `git status` empty.
    cases.push(Case::new(
        "index: another TREE",
        Rule::Harmless,
        |fixture, _| {
            let old = crate::made::id(&fixture.ask(&["rev-parse", "HEAD~1^{tree}"]));
            let dir = crate::made::id(&fixture.ask(&["rev-parse", "HEAD:dir"]));
            let count = fixture.index.entries.len();
            let tree = [
                format!("\0{count} 1\n").as_bytes(),
                &old,
                b"dir\x002 0\n",
                &dir,
            ]
            .concat();
            let index = fixture.index.clone().extension(b"TREE", &tree);
            fixture.good.clone().set(".git/index", index.bytes())
        },
    ));
    cases.push(Case::new("index: split", Rule::Harmless, |fixture, _| {
        let shared = fixture.index.bytes();
        let sum = sha1(&shared[..shared.len() - 20]);
        let empty = Index {
            entries: Vec::new(),
            ..fixture.index.clone()
        };
        let archive = fixture
            .good
            .clone()
            .set(&format!(".git/sharedindex.{}", hex(&sum)), shared);
        archive.set(".git/index", empty.extension(b"link", &sum).bytes())
    }));
    try_all(&cases);
}

#[test]
fn a_broken_index_and_files_beside_it_are_harmless() {
    let mut cases = Vec::new();
    type Bytes = fn(&mut Vec<u8>);
    let bytes: [(&str, Bytes); 5] = [
        ("another sum", |b| *b.last_mut().unwrap_or(&mut 0) ^= 1),
        ("no sum", |b| {
            let at = b.len() - 20;
            b[at..].fill(0);
        }),
        ("cut", |b| b.truncate(b.len() / 2)),
        ("12 bytes", |b| b.truncate(12)),
        ("empty", Vec::clear),
    ];
    cases.extend(bytes.map(|(name, change)| {
        Case::new(
            format!("index: {name}"),
            Rule::Harmless,
            move |fixture, _| fixture.good.clone().change(".git/index", change),
        )
    }));
    cases.push(Case::new("index: none", Rule::Harmless, |fixture, _| {
        fixture.good.clone().without(".git/index")
    }));
    // An entry that waits for the user to ask for it.
    cases.push(Case::new(
        "index: .git/config with a hostile blob",
        Rule::Harmless,
        |fixture, ground| {
            let text = format!("[core]\n\tfsmonitor = {}\n", ground.text("canary"));
            let (name, file) = loose("blob", text.as_bytes());
            let entry = IndexEntry::new(".git/config", 0o100_644, &name);
            let archive = fixture.good.clone().set(&loose_path(&name), file);
            archive.set(".git/index", fixture.index.clone().with(entry).bytes())
        },
    ));
    cases.push(Case::new(
        "index: a changed file that is said to be valid",
        Rule::Harmless,
        |fixture, _| {
            let index = fixture.index.clone().entry("a.txt", |e| e.flags = 0x8000);
            let archive = fixture.good.clone().set("a.txt", "evil!!\n");
            archive.set(".git/index", index.bytes())
        },
    ));
    cases.push(Case::new(
        "a file that is in no tree",
        Rule::Harmless,
        |fixture, _| fixture.good.clone().add(Entry::file("stray.txt", "x")),
    ));
    cases.push(Case::new(
        "a file that is missing",
        Rule::Harmless,
        |fixture, _| fixture.good.clone().without("a.txt"),
    ));
    try_all(&cases);
}
