use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use gix::ObjectId;
use gix::hash::Kind;

use super::super::packs;
use super::super::packs::check_entries;
use super::super::quota::Quota;
use super::super::stop::Stop;
use super::super::sums::Sums;
use super::super::testing::Repository;
use super::*;
use crate::limits::{DISK_BLOCK_BYTES, FILTER_PIECE_BYTES, HELD_BLOB_BYTES, WORKTREE_WORKERS_MAX};
use crate::tree::frontier::Frontier;
use crate::tree::packed::Pack;

const ATTRIBUTES: &str = "*.crlf text eol=crlf\n*.auto text=auto eol=crlf\n*.id ident\n\
    *.all text eol=crlf ident working-tree-encoding=UTF-16\n*.u16 text working-tree-encoding=UTF-16LE-BOM\n\
    *.sjis text working-tree-encoding=SHIFT-JIS eol=crlf\n";

/// Lines of at least `bytes` in all, in which every kind of end, of letter and of keyword lies across the border of
/// what is converted at a time somewhere.
fn text(bytes: usize, seed: usize) -> Vec<u8> {
    let kinds = [
        "a line\n",
        "$Id$\r\n",
        "\u{65e5}\u{672c}\n",
        "$Id: old $ x",
        "\r",
        "\n",
    ];
    let mut out = Vec::new();
    let mut number = seed;
    while out.len() < bytes {
        number = number
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        out.extend_from_slice(kinds[(number >> 33) % kinds.len()].as_bytes());
    }
    out
}

/// A commit of large files, stored whole and as deltas, each of the kinds that are converted.
fn large(repository: &Repository) -> ObjectId {
    let root = repository.path();
    let git = |args: &[&str], input: &str| {
        let said = repository.git(args, input.as_bytes());
        String::from_utf8(said).unwrap()
    };
    let held = HELD_BLOB_BYTES as usize;
    let mut files = vec![
        ("all", HELD_CONVERTED_BYTES + 1),
        ("plain", held / 2),
        ("crlf", FILTER_PIECE_BYTES),
    ];
    files.extend(["crlf", "auto", "id", "all", "u16", "sjis", "plain"].map(|of| (of, held + 1)));
    // Versions, of which git stores some as deltas of others.
    for version in 0..2 {
        let mut names = vec![".gitattributes".to_owned(), "empty.all".to_owned()];
        fs::write(root.join(&names[0]), ATTRIBUTES).unwrap();
        fs::write(root.join(&names[1]), b"").unwrap();
        for (seed, (ending, bytes)) in files.iter().enumerate() {
            let mut text = text(*bytes, seed);
            let middle = text.len() / 2;
            text.splice(middle..middle, format!("version {version}\n").into_bytes());
            names.push(format!("{seed}.{ending}"));
            fs::write(root.join(names.last().unwrap()), text).unwrap();
        }
        // Unix line ends only, which is what git converts if it is to find out by itself.
        names.push("lines.auto".into());
        let lines = "line\n".repeat(held / 4 + version);
        fs::write(root.join("lines.auto"), lines).unwrap();
        // What has no form in the encoding, near the end.
        names.push("none.sjis".into());
        let text = [&text(held, 9)[..], "clef \u{1d11e}\n".as_bytes()].concat();
        fs::write(root.join("none.sjis"), text).unwrap();
        // As they are: what is added through the filters would be other text.
        let args = ["hash-object", "-w", "--no-filters", "--stdin-paths"];
        let ids = git(&args, &(names.join("\n") + "\n"));
        let entries = ids.lines().zip(&names);
        let entries: String = entries
            .map(|(id, name)| format!("100644 {id}\t{name}\n"))
            .collect();
        git(&["update-index", "--index-info"], &entries);
        let who = ["-c", "user.name=a", "-c", "user.email=b"];
        git(&[&who[..], &["commit", "-qm", "x"]].concat(), "");
    }
    git(&["repack", "-adfq"], "");
    let deltas = git(
        &[
            "cat-file",
            "--batch-all-objects",
            "--batch-check=%(deltabase)",
        ],
        "",
    );
    assert!(deltas.lines().any(|base| base.bytes().any(|b| b != b'0')));
    let head = git(&["rev-parse", "HEAD"], "");
    ObjectId::from_hex(head.trim().as_bytes()).unwrap()
}

/// Makes the worktree of `commit` in `into`.
fn make(
    repository: &Repository,
    commit: ObjectId,
    into: &Path,
    is_proven: bool,
) -> Result<(), RestoreError> {
    let task = if is_proven {
        Task::MakeProven
    } else {
        Task::Make
    };
    make_from(repository, commit, into, task, || From::There)
}

fn make_from(
    repository: &Repository,
    commit: ObjectId,
    into: &Path,
    task: Task,
    from: impl FnOnce() -> From,
) -> Result<(), RestoreError> {
    make_within(repository, commit, into, (task, u64::MAX), from)
}

/// The same, of which no more than `limit_bytes` may be written.
fn make_within(
    repository: &Repository,
    commit: ObjectId,
    into: &Path,
    (task, limit_bytes): (Task, u64),
    from: impl FnOnce() -> From,
) -> Result<(), RestoreError> {
    let root = File::open(into).unwrap();
    let quota = Quota::new(Some(limit_bytes), into).unwrap();
    let (stop, progress) = (Stop::default(), Progress::default());
    let site = Site {
        root: root.as_fd(),
        umask: rustix::fs::Mode::empty(),
        quota: &quota,
        stop: &stop,
    };
    let mut making = Making {
        site,
        dates: Dates::now(),
        progress: &progress,
        way: None,
        task,
        workers: WORKTREE_WORKERS_MAX,
        begun: None,
        made: None,
    };
    making.run(repository.path(), commit, from())
}

#[test]
fn what_is_too_large_to_be_held_is_what_git_checks_out() {
    for (hash, is_proven) in [("sha1", true), ("sha256", false)] {
        let repository = Repository::of(hash);
        let commit = large(&repository);
        let expected = tempfile::tempdir().unwrap();
        let prefix = format!("--prefix={}/", expected.path().display());
        repository.git(&["checkout-index", "-a", "-q", &prefix], b"");
        let made = tempfile::tempdir().unwrap();
        make(&repository, commit, made.path(), is_proven).unwrap();
        let names = |of: &Path| {
            let names = fs::read_dir(of).unwrap().map(|e| e.unwrap().file_name());
            let mut names: Vec<_> = names.collect();
            names.sort();
            names
        };
        assert_eq!(names(expected.path()), names(made.path()));
        for name in names(made.path()) {
            let files = [expected.path(), made.path()].map(|of| of.join(&name));
            let contents = files.clone().map(|file| fs::read(file).unwrap());
            assert!(contents[0] == contents[1], "{hash} {name:?}");
            let dates = fs::metadata(&files[1]).unwrap();
            assert!(dates.mtime() > 0 && dates.mtime_nsec() == 0);
        }
        let left = fs::read_dir(repository.path().join(".git"))
            .unwrap()
            .flatten();
        let left = left.filter(|e| e.file_name().to_string_lossy().starts_with(".tmp"));
        assert_eq!(left.count(), 0, "files without names have none");
    }
}

/// An `.idx` can have an id at another object's place.
#[test]
fn a_blob_under_the_name_of_another_is_refused_if_it_is_to_be_proven() {
    let repository = Repository::new();
    let [real, other] = ["real", "other"].map(|text| repository.object("blob", text.as_bytes()));
    let commit = repository.commit(repository.tree(&[("100644 file", real)]));
    let args = ["pack-objects", "-q", ".git/objects/pack/pack"];
    repository.git(&args, format!("{real}\n{other}\n").as_bytes());
    repository.git(&["prune-packed", "-q"], b"");
    let made = |is_proven| {
        let into = tempfile::tempdir().unwrap();
        let made = make(&repository, commit, into.path(), is_proven);
        made.map(|()| fs::read(into.path().join("file")).unwrap())
    };
    assert_eq!(made(true).unwrap(), b"real");
    let listing = fs::read_dir(repository.path().join(".git/objects/pack")).unwrap();
    let mut paths = listing.map(|entry| entry.unwrap().path());
    let index = paths
        .find(|path| path.extension().is_some_and(|e| e == "idx"))
        .unwrap();
    let mut bytes = fs::read(&index).unwrap();
    // Of two objects: behind the ids and their checksums stand the two offsets.
    let at = 8 + 256 * 4 + 2 * 20 + 2 * 4;
    let (first, second) = (bytes[at..at + 4].to_vec(), bytes[at + 4..at + 8].to_vec());
    bytes[at..at + 8].copy_from_slice(&[second, first].concat());
    fs::remove_file(&index).unwrap();
    fs::write(&index, bytes).unwrap();
    assert_eq!(made(false).unwrap(), b"other");
    let error = made(true).unwrap_err();
    assert_eq!(error.exit_code(), 5, "{error}");
    assert!(error.to_string().contains("another object"), "{error}");
}

/// A repository of one commit in one pack, with deltas in it.
fn small(hash: &str) -> (Repository, ObjectId) {
    let repository = Repository::of(hash);
    let root = repository.path();
    let lines = |n: usize| {
        (0..200)
            .map(|line| format!("{line} of {}\n", line * n))
            .collect::<String>()
    };
    fs::create_dir(root.join("d")).unwrap();
    fs::write(root.join(".gitattributes"), "*.crlf text eol=crlf\n").unwrap();
    for n in 0..6 {
        let text = lines(7) + &lines(n);
        fs::write(root.join(format!("d/{n}.crlf")), &text).unwrap();
        fs::write(root.join(format!("{n}")), text + "last\n").unwrap();
    }
    std::os::unix::fs::symlink("d/1.crlf", root.join("link")).unwrap();
    repository.git(&["add", "--all"], b"");
    let who = ["-c", "user.name=a", "-c", "user.email=b"];
    repository.git(&[&who[..], &["commit", "-qm", "x"]].concat(), b"");
    repository.git(&["repack", "-adfq"], b"");
    let head = repository.git(&["rev-parse", "HEAD"], b"");
    (repository, ObjectId::from_hex(head.trim_ascii()).unwrap())
}

/// What is in the files below `root`, by their names.
fn contents(root: &Path) -> Vec<(std::ffi::OsString, Vec<u8>)> {
    let directories = [root.to_owned(), root.join("d")];
    let entries = directories
        .iter()
        .flat_map(|directory| fs::read_dir(directory).into_iter().flatten());
    let files = entries
        .map(Result::unwrap)
        .filter(|e| e.file_name() != ".git" && e.file_name() != "d");
    let content = |path: &Path| match fs::read_link(path) {
        Ok(target) => target.into_os_string().into_encoded_bytes(),
        Err(_) => fs::read(path).unwrap(),
    };
    let mut all: Vec<_> = files.map(|e| (e.file_name(), content(&e.path()))).collect();
    all.sort();
    all
}

/// Makes the checksums of a pack and its index right again.
fn sum_again(pack: &mut [u8], index: &mut [u8], hash: Kind, of_entries: bool) {
    let id_bytes = hash.len_in_bytes();
    let sum = |bytes: &mut [u8]| {
        let end = bytes.len() - id_bytes;
        let mut sum = crate::tree::sum::Sum::new(hash);
        sum.update(&bytes[..end]);
        bytes[end..].copy_from_slice(&sum.finish());
    };
    sum(pack);
    let count = u32::from_be_bytes(*index[8 + 255 * 4..].first_chunk().unwrap()) as usize;
    let sums_at = 8 + 256 * 4 + count * id_bytes;
    let offset = |index: &[u8], n: usize| {
        u32::from_be_bytes(*index[sums_at + 4 * (count + n)..].first_chunk().unwrap()) as usize
    };
    if of_entries {
        let mut offsets: Vec<usize> = (0..count).map(|n| offset(index, n)).collect();
        offsets.sort_unstable();
        offsets.push(pack.len() - id_bytes);
        for n in 0..count {
            let begin = offset(index, n);
            let end = offsets
                .iter()
                .find(|end| **end > begin)
                .copied()
                .unwrap_or(begin);
            let crc32 = crc32fast::hash(pack.get(begin..end).unwrap_or_default());
            index[sums_at + 4 * n..][..4].copy_from_slice(&crc32.to_be_bytes());
        }
    }
    let at = index.len() - 2 * id_bytes;
    index[at..at + id_bytes].copy_from_slice(&pack[pack.len() - id_bytes..]);
    sum(index);
}

/// Half of them with all checksums made right again: each is refused, or what is made is the same.
#[test]
fn a_changed_bit_is_refused_or_changes_nothing() {
    const FLIPS: usize = 500;
    for (hash, kind) in [("sha1", Kind::Sha1), ("sha256", Kind::Sha256)] {
        let (repository, commit) = small(hash);
        let into = tempfile::tempdir().unwrap();
        make(&repository, commit, into.path(), true).unwrap();
        let expected = contents(into.path());
        assert_eq!(expected.len(), 14);
        let directory = repository.path().join(".git/objects/pack");
        let file = |ending: &str| {
            let mut paths = fs::read_dir(&directory).unwrap().map(|e| e.unwrap().path());
            paths
                .find(|path| path.extension().is_some_and(|e| e == ending))
                .unwrap()
        };
        let (pack, index) = (file("pack"), file("idx"));
        let sound = (fs::read(&pack).unwrap(), fs::read(&index).unwrap());
        let mut refused = [0; 2];
        for flip in 0..FLIPS {
            let (mut pack_bytes, mut index_bytes) = sound.clone();
            let bits = 8 * (pack_bytes.len() + index_bytes.len());
            let bit = (flip + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) % bits;
            match pack_bytes.get_mut(bit / 8) {
                Some(byte) => *byte ^= 1 << (bit % 8),
                None => index_bytes[bit / 8 - pack_bytes.len()] ^= 1 << (bit % 8),
            }
            let is_summed = flip % 2 == 1;
            if is_summed {
                sum_again(&mut pack_bytes, &mut index_bytes, kind, flip % 4 == 1);
            }
            for (path, bytes) in [(&pack, &pack_bytes), (&index, &index_bytes)] {
                // A new file: the old one may be mapped.
                fs::remove_file(path).unwrap();
                fs::write(path, bytes).unwrap();
            }
            let into = tempfile::tempdir().unwrap();
            match checked(&repository, kind)
                .and_then(|()| make(&repository, commit, into.path(), true))
            {
                Ok(()) => {
                    assert!(is_summed, "{hash} bit {bit}");
                    assert!(contents(into.path()) == expected, "{hash} bit {bit}");
                }
                Err(error) => {
                    assert_eq!(error.exit_code(), 5, "{hash} bit {bit}: {error}");
                    refused[usize::from(is_summed)] += 1;
                }
            }
        }
        assert_eq!(refused[0], FLIPS / 2, "{hash}");
        assert!(refused[1] > FLIPS / 4, "{hash}: {refused:?}");
    }
}

/// Looks at the packs as a restore does before it makes anything of them.
fn checked(repository: &Repository, hash: Kind) -> Result<(), RestoreError> {
    let tree = repository.path();
    let listing = fs::read_dir(tree.join(".git/objects/pack")).unwrap();
    let sizes = listing.map(|entry| {
        let entry = entry.unwrap();
        let path = Path::new(".git/objects/pack").join(entry.file_name());
        let bytes = entry.metadata().unwrap().len();
        (path.into_os_string().into_encoded_bytes(), bytes)
    });
    let sizes: Vec<_> = sizes.collect();
    let sizes = sizes
        .iter()
        .map(|(path, bytes)| (&path[..], *bytes))
        .collect();
    let stop = Stop::default();
    packs::check(tree, &sizes, &Sums::new(), hash, &stop)?;
    check_entries(tree, hash, &stop).map(drop)
}

/// Files are made while the pack comes, in pieces of any order; what does not come is waited for by nobody.
#[test]
fn files_are_made_of_a_pack_that_still_comes() {
    let (repository, commit) = small("sha1");
    let path = pack_of(&repository);
    let bytes = fs::read(&path).unwrap();
    let piece_bytes = bytes.len() / 10 + 1;
    for is_whole in [true, false] {
        let coming = tempfile::tempfile().unwrap();
        coming.set_len(bytes.len() as u64).unwrap();
        let frontier = Arc::<Frontier>::default();
        let into = tempfile::tempdir().unwrap();
        let made = std::thread::scope(|scope| {
            let made = scope.spawn(|| {
                let pack = Pack::open_coming(&path, &coming, Kind::Sha1, frontier.clone());
                let pack = pack.map_err(|e| RestoreError::Server(e.to_string()))?;
                make_from(&repository, commit, into.path(), Task::Make, || {
                    From::Coming(Packs::of(vec![pack]))
                })
            });
            // The second of each two first; of what does not come whole the last one never.
            let order = [1, 0, 3, 2, 5, 4, 7, 6, 9, 8];
            for number in order.into_iter().filter(|number| is_whole || *number < 8) {
                let begin = number * piece_bytes;
                let piece = &bytes[begin..bytes.len().min(begin + piece_bytes)];
                std::os::unix::fs::FileExt::write_all_at(&coming, piece, begin as u64).unwrap();
                frontier.came(begin as u64..(begin + piece.len()) as u64);
            }
            frontier.end();
            made.join().unwrap()
        });
        assert_eq!(made.is_ok(), is_whole);
        let files = contents(into.path());
        assert_eq!(files.len() == 14, is_whole, "{}", files.len());
        let link = files.iter().find(|(name, _)| name == "link");
        assert!(link.is_none_or(|(_, target)| target == b"d/1.crlf"));
    }
}

/// Without tags git puts trees between the blobs of those before them: files are made before the last tree has come.
#[test]
fn files_are_made_before_all_trees_have_come() {
    const DIRECTORIES: usize = 40;
    let repository = Repository::of("sha1");
    let root = repository.path();
    fs::write(root.join(".gitattributes"), "*.crlf text eol=crlf\n").unwrap();
    for n in 0..DIRECTORIES {
        let directory = root.join(format!("d{n:02}"));
        fs::create_dir(&directory).unwrap();
        for file in 0..4 {
            // Nothing that deltas or zlib make small.
            let mut lines = String::new();
            let mut number = (n * 4 + file + 1) as u64;
            for _ in 0..200 {
                number = number
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                lines += &format!("{number:x}\n");
            }
            fs::write(directory.join(format!("{file}.crlf")), lines).unwrap();
        }
    }
    repository.git(&["add", "--all"], b"");
    let who = ["-c", "user.name=a", "-c", "user.email=b"];
    repository.git(&[&who[..], &["commit", "-qm", "x"]].concat(), b"");
    // What the index lists would come before all trees.
    repository.git(&["read-tree", "--empty"], b"");
    repository.git(&["repack", "-adfq"], b"");
    let head = repository.git(&["rev-parse", "HEAD"], b"");
    let commit = ObjectId::from_hex(head.trim_ascii()).unwrap();
    let path = pack_of(&repository);
    let bytes = fs::read(&path).unwrap();
    let half = bytes.len() / 2;
    let coming = tempfile::tempfile().unwrap();
    std::os::unix::fs::FileExt::write_all_at(&coming, &bytes, 0).unwrap();
    let frontier = Arc::<Frontier>::default();
    let into = tempfile::tempdir().unwrap();
    let directories = || fs::read_dir(into.path()).unwrap().count();
    std::thread::scope(|scope| {
        let made = scope.spawn(|| {
            let pack = Pack::open_coming(&path, &coming, Kind::Sha1, frontier.clone()).unwrap();
            // What is made counts once, and not again as what is found.
            let entries = (DIRECTORIES * 5 + 1) as u64;
            let within = (Task::Make, entries * DISK_BLOCK_BYTES);
            make_within(&repository, commit, into.path(), within, || {
                From::Coming(Packs::of(vec![pack]))
            })
        });
        // Whatever fails here, nobody waits for more.
        let _ends = Over(&frontier);
        frontier.came(0..half as u64);
        let began = Instant::now();
        while directories() < DIRECTORIES / 3 {
            assert!(
                began.elapsed() < Duration::from_secs(60),
                "it waits for all"
            );
            assert!(!made.is_finished());
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(directories() < DIRECTORIES);
        frontier.came(half as u64..bytes.len() as u64);
        made.join().unwrap().unwrap();
    });
    fs::remove_dir_all(root.join(".git")).unwrap();
    expect_crlf(root, into.path());
}

/// Ends what comes.
struct Over<'f>(&'f Frontier);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// Panics unless what is in `made` is what is in `blobs`, with other line ends.
fn expect_crlf(blobs: &Path, made: &Path) {
    for entry in fs::read_dir(blobs).unwrap().map(Result::unwrap) {
        let other = made.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            expect_crlf(&entry.path(), &other);
        } else if entry.file_name() != ".gitattributes" {
            let text = fs::read_to_string(entry.path()).unwrap();
            assert!(fs::read_to_string(other).unwrap() == text.replace('\n', "\r\n"));
        }
    }
}

/// The file of the only pack.
fn pack_of(repository: &Repository) -> std::path::PathBuf {
    let directory = repository.path().join(".git/objects/pack");
    let mut paths = fs::read_dir(&directory).unwrap().map(|e| e.unwrap().path());
    paths
        .find(|path| path.extension().is_some_and(|e| e == "pack"))
        .unwrap()
}

/// Each file is converted as the attributes above it say, and no others, however many files of those there are.
#[test]
fn attributes_count_where_they_are() {
    for directories in [3, crate::limits::EARLY_ATTRIBUTE_FILES_MAX + 10] {
        let repository = Repository::of("sha1");
        let root = repository.path();
        for n in 0..directories {
            let directory = root.join(format!("d{n}/below"));
            fs::create_dir_all(&directory).unwrap();
            if n % 2 == 0 {
                let rule = "*.txt text eol=crlf\n";
                fs::write(root.join(format!("d{n}/.gitattributes")), rule).unwrap();
            } else {
                fs::write(root.join(format!("d{n}/.gitattributes")), "*.no text\n").unwrap();
            }
            fs::write(directory.join("a.txt"), format!("{n}\n")).unwrap();
            fs::write(root.join(format!("d{n}/a.txt")), format!("of {n}\n")).unwrap();
        }
        fs::write(root.join("a.txt"), "top\n").unwrap();
        repository.git(&["add", "--all"], b"");
        let who = ["-c", "user.name=a", "-c", "user.email=b"];
        repository.git(&[&who[..], &["commit", "-qm", "x"]].concat(), b"");
        repository.git(&["repack", "-adq"], b"");
        let head = repository.git(&["rev-parse", "HEAD"], b"");
        let commit = ObjectId::from_hex(head.trim_ascii()).unwrap();
        let into = tempfile::tempdir().unwrap();
        make(&repository, commit, into.path(), false).unwrap();
        let read = |path: String| fs::read_to_string(into.path().join(path)).unwrap();
        assert_eq!(read("a.txt".into()), "top\n");
        for n in 0..directories {
            let end = if n % 2 == 0 { "\r\n" } else { "\n" };
            assert_eq!(read(format!("d{n}/a.txt")), format!("of {n}{end}"));
            assert_eq!(read(format!("d{n}/below/a.txt")), format!("{n}{end}"));
        }
    }
}

/// Makes the worktree of `commit` in `into`, which has been begun; gives how many entries were made.
fn go_on(
    repository: &Repository,
    commit: ObjectId,
    (into, dates): (&Path, Dates),
    begun: Unpacked,
) -> Result<u64, RestoreError> {
    let root = File::open(into).unwrap();
    let quota = Quota::new(Some(u64::MAX), into).unwrap();
    let (stop, progress) = (Stop::default(), Progress::default());
    let mut making = Making {
        site: Site {
            root: root.as_fd(),
            umask: rustix::fs::Mode::empty(),
            quota: &quota,
            stop: &stop,
        },
        dates,
        progress: &progress,
        way: None,
        task: Task::Make,
        workers: WORKTREE_WORKERS_MAX,
        begun: Some(begun),
        made: None,
    };
    making.run(repository.path(), commit, From::There)?;
    // Counted is what is there, whoever has made it.
    let entries = |of: &Path| fs::read_dir(of).unwrap().count() as u64;
    assert_eq!(quota.taken().0, entries(into) + entries(&into.join("d")));
    Ok(progress.summary(&"", "").entries.unwrap())
}

/// A commit of `a`, `d/b`, `d/link` and `e`.
fn few(repository: &Repository) -> ObjectId {
    let root = repository.path();
    fs::create_dir(root.join("d")).unwrap();
    for name in ["a", "d/b", "e"] {
        fs::write(root.join(name), name).unwrap();
    }
    std::os::unix::fs::symlink("b", root.join("d/link")).unwrap();
    repository.git(&["add", "-A"], b"");
    let who = ["-c", "user.name=a", "-c", "user.email=b"];
    repository.git(&[&who[..], &["commit", "-qm", "x"]].concat(), b"");
    repository.git(&["repack", "-adfq"], b"");
    let head = repository.git(&["rev-parse", "HEAD"], b"");
    ObjectId::from_hex(String::from_utf8(head).unwrap().trim().as_bytes()).unwrap()
}

/// Has `d/b` whole, as somebody else has it, `d/link`, and of `e` a beginning.
fn begin(into: &Path, dates: Dates) {
    fs::create_dir(into.join("d")).unwrap();
    let whole = File::create(into.join("d/b")).unwrap();
    rustix::fs::futimens(&whole, &dates.of_files()).unwrap();
    std::os::unix::fs::symlink("elsewhere", into.join("d/link")).unwrap();
    fs::write(into.join("e"), "").unwrap();
}

#[test]
fn what_is_whole_of_a_worktree_is_kept_and_the_rest_is_made() {
    let repository = Repository::new();
    let (commit, dates) = (few(&repository), Dates::now());
    let made = |name: &str, (files, directories): (u64, u64)| {
        let into = tempfile::tempdir().unwrap();
        begin(into.path(), dates);
        if !name.is_empty() {
            fs::create_dir_all(into.path().join(name)).unwrap();
        }
        let there = Unpacked { files, directories };
        let made = go_on(&repository, commit, (into.path(), dates), there)?;
        let read = |name: &str| fs::read_to_string(into.path().join(name)).unwrap();
        let link = fs::read_link(into.path().join("d/link")).unwrap();
        assert_eq!([read("a"), read("e")], ["a", "e"]);
        Ok::<_, RestoreError>((made, read("d/b"), link.to_str().unwrap().to_owned()))
    };
    let kept = made("", (3, 1)).unwrap();
    assert_eq!(kept, (4, String::new(), "elsewhere".to_owned()));
    // What the commit has not was counted by who has made it.
    for (files, directories) in [(4, 1), (3, 2)] {
        let error = made("", (files, directories)).unwrap_err();
        assert!(error.to_string().contains("its commit has not"), "{error}");
    }
    // A directory where the commit has a file.
    let error = made("a", (3, 2)).unwrap_err();
    assert!(error.to_string().contains("already an entry"), "{error}");
}
