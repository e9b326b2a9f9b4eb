//! A bit of an archive that is another one: with `--verify` it is refused, or what is restored is the same, `.git` included.

use crate::gitdir::resum;
use crate::lab::{BINARY, expect, expect_nothing, restore, serve_current};
use crate::remade::{self, Item};
use crate::support::lab::Lab;
use crate::support::{compare, git};
use crate::verify::archive;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};
use tar::EntryType;

const FLIPS: usize = 1000;
const ID_BYTES: usize = 20;
/// What is believed: where the repository is from, and where refs lead.
const BELIEVED: [&str; 4] = [".git/HEAD", ".git/config", ".git/packed-refs", ".git/refs/"];

/// Places that are spread over all.
fn spread(number: usize, of: usize) -> usize {
    (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) % of
}

fn flip(bytes: &mut [u8], number: usize) {
    let bit = spread(number, 8 * bytes.len());
    bytes[bit / 8] ^= 1 << (bit % 8);
}

/// Flips a bit of one of the files, and makes the sums right again: those of the file, or of all that belong to a pack.
fn flip_item(items: &mut [Item], number: usize) {
    let is_flipped = |item: &&mut Item| {
        let is_believed = BELIEVED.iter().any(|path| item.path.starts_with(path));
        item.kind == EntryType::Regular && !item.data.is_empty() && !is_believed
    };
    let mut all: Vec<_> = items.iter_mut().filter(is_flipped).collect();
    // Packs and their indexes, half of the time.
    let packs = all
        .iter()
        .filter(|item| item.path.contains("/pack/"))
        .count();
    if number % 4 == 1 {
        all.sort_by_key(|item| !item.path.contains("/pack/"));
        all.truncate(packs);
    }
    let chosen = spread(number / 2, all.len());
    flip(&mut all[chosen].data, number);
    let is_of_pack = all[chosen].path.contains("/pack/");
    if !is_of_pack {
        return;
    }
    let path = all[chosen].path.clone();
    drop(all);
    let of_all = number % 8 < 4;
    let mut sum = Vec::new();
    for ending in [".pack", ".idx", ".rev"] {
        let Some(item) = items.iter_mut().find(|item| item.path.ends_with(ending)) else {
            continue;
        };
        if !of_all && item.path != path {
            continue;
        }
        if of_all && ending != ".pack" {
            let at = item.data.len() - 2 * ID_BYTES;
            item.data[at..at + ID_BYTES].copy_from_slice(&sum);
        }
        resum(&mut item.data, ID_BYTES);
        if ending == ".pack" {
            sum = item.data[item.data.len() - ID_BYTES..].to_vec();
        }
    }
}

/// Panics unless a restore is that of the sound archive: all files, the repository's included, and what its index lists;
/// that has numbers of files as well. What an index of a pack says of older history is believed with that: of a pack all
/// that HEAD leads to has to be the same.
fn expect_same(sound: &Path, target: &Path, number: usize) {
    let differences = compare::differences(sound, target, &[]);
    let is_other = |one: &&String| !one.contains(".git/index");
    let (packs, other): (Vec<_>, Vec<_>) = differences
        .iter()
        .filter(is_other)
        .partition(|one| one.contains(".git/objects/pack/"));
    assert!(other.is_empty(), "{number}: {other:?}");
    let read = |tree: &Path, args: &[&str]| git::output(tree, args).stdout;
    let mut questions = vec![&["ls-files", "-s"][..]];
    if !packs.is_empty() {
        // It is read through the index that is there.
        questions.push(&["archive", "--format=tar", "HEAD"]);
        questions.push(&["cat-file", "-p", "HEAD"]);
    }
    for question in questions {
        let expected = read(sound, question);
        assert!(!expected.is_empty());
        assert!(read(target, question) == expected, "{number}: {packs:?}");
    }
}

#[test]
fn a_flipped_bit_is_refused_or_changes_nothing() {
    let lab = Lab::new(BINARY);
    let items = archive(&lab);
    let whole = remade::pack(&items);
    let current = Arc::new(Mutex::new(whole.clone()));
    let address = serve_current(current.clone());
    let verified = |target: &Path| restore(address, "test/app", target, &["--verify"]);
    let sound = lab.scratch("sound");
    expect(&verified(&sound), 0);
    let target = lab.scratch("flipped");
    let mut refused = [0; 2];
    for number in 0..FLIPS {
        let is_summed = number % 2 == 1;
        let flipped = match is_summed {
            false => {
                let mut whole = whole.clone();
                flip(&mut whole, number);
                whole
            }
            true => {
                let mut items = items.clone();
                flip_item(&mut items, number);
                remade::pack(&items)
            }
        };
        *current.lock().unwrap() = flipped;
        let out = verified(&target);
        match out.status.code() {
            Some(0) => {
                expect_same(&sound, &target, number);
                fs::remove_dir_all(&target).unwrap();
            }
            _ => {
                expect(&out, 5);
                expect_nothing(&target);
                refused[usize::from(is_summed)] += 1;
            }
        }
    }
    println!("{refused:?} of {} each were refused", FLIPS / 2);
    assert!(
        refused[0] > FLIPS / 4 && refused[1] > FLIPS / 16,
        "{refused:?}"
    );
}
