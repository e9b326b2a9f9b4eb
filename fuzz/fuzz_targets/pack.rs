//! Packs and their indices: what is read of them is what was written, and what gix reads; a changed
//! byte is found by the check of packs, and what is read of it all the same is what gix reads.
//!
//! An input is a recipe for a pack, and a place in it or in its index where a byte is changed.

#![no_main]

use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use gix::hash::Kind;
use gix::objs::Find;
use libfuzzer_sys::fuzz_target;
use tarpon::io::uncached::Pace;
use tarpon::manifest::record::Linked;
use tarpon::snapshot::verify::is_sound_on_disk;
use tarpon::tree::decoder::{Decoder, Packs};
use tarpon_fuzz::Input;
use tarpon_fuzz::packs::{Object, Pack};

const LIMIT_BYTES: u64 = 1 << 24;

/// Where the files are: in memory where there is such a place.
static PLACE: LazyLock<PathBuf> = LazyLock::new(|| {
    let above = match fs::metadata("/dev/shm") {
        Ok(_) => PathBuf::from("/dev/shm"),
        Err(_) => std::env::temp_dir(),
    };
    above.join(format!("tarpon-fuzz-{}", std::process::id()))
});

fuzz_target!(|data: &[u8]| {
    let mut input = Input::new(data);
    let pack = Pack::of(&mut input);
    let packs = PLACE.join("objects/pack");
    fs::create_dir_all(&packs).expect("a place for a pack");
    let stem = packs.join(format!("pack-{}", "1".repeat(40)));
    let (data_path, index_path) = (stem.with_extension("pack"), stem.with_extension("idx"));
    fs::write(&index_path, &pack.index).expect("an index is written");
    fs::write(&data_path, &pack.data).expect("a pack is written");
    let pace = Pace::new(None, Arc::default());
    let is_sound = |path| is_sound_on_disk(path, Kind::Sha1, &pace).expect("it can be read");
    assert!(is_sound(&data_path) && is_sound(&index_path));
    for object in &pack.objects {
        let read = read(object);
        assert_eq!(read, by_gix(object), "{}", object.id);
        assert_eq!(read, object.data, "{}", object.id);
    }
    let (in_index, at, bit) = (input.u8() % 4 == 0, input.u16(), input.u8() % 8);
    let (path, mut bytes) = match in_index {
        true => (&index_path, pack.index),
        false => (&data_path, pack.data),
    };
    let at = usize::from(at) % bytes.len();
    bytes[at] ^= 1 << bit;
    // Another file: what is mapped must not change.
    fs::remove_file(path).expect("it was written");
    fs::write(path, &bytes).expect("it is written again");
    assert!(!is_sound(path), "byte {at} of {}", path.display());
    for object in &pack.objects {
        if let (Some(read), Some(by_gix)) = (read(object), by_gix(object)) {
            assert!(read == by_gix, "{} after a change at {at}", object.id);
        }
    }
    fs::remove_dir_all(&*PLACE).expect("the place is ours");
});

/// What the program reads; `None` if it leaves it to others or finds it damaged.
fn read(object: &Object) -> Option<Vec<u8>> {
    let stem = format!("objects/pack/pack-{}", "1".repeat(40));
    let linked = ["idx", "pack"].map(|extension| Linked {
        path: format!("{stem}.{extension}"),
        bytes: 0,
        whole: None,
    });
    let packs = Packs::open(&PLACE, &linked, Kind::Sha1).ok()?;
    let mut out = Vec::new();
    let mut decoder = Decoder::new();
    let begin = |_: &mut Vec<u8>, _| ();
    let pushed = packs.push_object(
        &object.id,
        object.kind,
        LIMIT_BYTES,
        &mut decoder,
        &mut out,
        begin,
    );
    let size = pushed.ok()??;
    assert_eq!(size, out.len() as u64);
    Some(out)
}

fn by_gix(object: &Object) -> Option<Vec<u8>> {
    // Without a limit it takes as much memory as an entry says that it needs.
    let options = gix::odb::store::init::Options {
        alloc_limit_bytes: Some(4 * LIMIT_BYTES as usize),
        ..Default::default()
    };
    let objects = gix::odb::at_opts(PLACE.join("objects"), Kind::Sha1, None, options).ok()?;
    let mut buffer = Vec::new();
    let found = objects.try_find(&object.id, &mut buffer).ok()??;
    (found.kind == object.kind).then(|| found.data.to_vec())
}
