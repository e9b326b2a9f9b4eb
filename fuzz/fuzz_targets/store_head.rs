//! Heads of the object store: any bytes are a head that holds every invariant and comes back when it is written, or an
//! error of one line; what servers and collectors make of one is a head again, and names nothing that may be gone.
//!
//! An input counts twice: as the object, and as what servers want, upload, find broken and collect one after the other.

#![no_main]

use std::collections::{BTreeMap, BTreeSet};

use libfuzzer_sys::fuzz_target;
use tarpon::manifest::id::EntryId;
use tarpon::store::remote::change::{About, Change, NewSnapshot, NotYet, Uploaded};
use tarpon::store::remote::head::Head;
use tarpon::store::remote::key::{Identity, PartKey, RandomId, manifest_name, refs_name};
use tarpon::store::remote::listing::Listing;
use tarpon_fuzz::Input;

/// An hour, of which an input says how many pass.
const HOUR_MS: u64 = 3_600_000;
/// So long is a history at most: what comes later is no longer another one.
const STEPS_MAX: usize = 64;

fuzz_target!(|data: &[u8]| {
    check_object(data);
    check_history(Input::new(data));
});

fn identity() -> Identity {
    Identity {
        host: "h".into(),
        path: "r".into(),
        url: "https://h/r".into(),
    }
}

fn check_object(bytes: &[u8]) {
    match Head::decode(bytes, &identity()) {
        Err(error) => assert!(!error.to_string().contains('\n'), "{error}"),
        Ok(head) => {
            check_comes_back(&head);
            // It may be anybody's: it is followed by a sound one, or by none that anybody reads.
            let nothing = Listing::default();
            let stamp = (RandomId(7), HOUR_MS);
            if let Some(next) = head.collecting(&nothing, |_| true, stamp)
                && next.encode().is_some()
            {
                check_comes_back(&next);
            }
        }
    }
}

fn check_comes_back(head: &Head) {
    let bytes = head
        .encode()
        .expect("a sound head is not longer than it may be");
    let again = Head::decode(&bytes, &identity()).expect("what was written can be read");
    assert_eq!(again, *head);
}

/// What is stored, and what one server has uploaded and no head has named yet.
struct World<'a> {
    input: Input<'a>,
    head: Head,
    stored: BTreeMap<PartKey, u64>,
    uploaded: BTreeMap<String, Uploaded>,
    drawn: u128,
    now_unix_ms: u64,
}

fn check_history(input: Input) {
    let mut world = World {
        input,
        head: Head::empty(identity()),
        stored: BTreeMap::new(),
        uploaded: BTreeMap::new(),
        drawn: 0,
        now_unix_ms: HOUR_MS,
    };
    for _ in 0..STEPS_MAX {
        if world.input.is_empty() {
            return;
        }
        match world.input.u8() % 4 {
            0 | 1 => world.publish(),
            2 => world.collect(),
            _ => world.find_broken(),
        }
    }
}

impl World<'_> {
    fn draw(&mut self) -> RandomId {
        self.drawn += 1;
        RandomId(self.drawn)
    }

    fn listing(&self) -> Listing {
        let stored = self.stored.iter();
        stored.map(|(key, bytes)| (key.clone(), *bytes)).collect()
    }

    fn change(&mut self) -> Change {
        let (state, packs, want) = (self.input.u8() % 4, self.input.u8(), self.input.u8() % 3);
        let packs = (0..8u8).filter(|of| packs >> of & 1 == 1);
        let packs: Vec<String> = packs.map(|of| format!("pack-{of}.pack")).collect();
        let snapshot = NewSnapshot {
            about: About {
                want: format!("want {want}"),
                kind: "1".into(),
            },
            id: EntryId::from_bytes([self.input.u8() % 4; 16]),
            shows: state.to_string(),
            manifest: manifest_name(&[state, want]),
            parts: packs.clone(),
            compared_unix_ms: self.now_unix_ms,
        };
        Change {
            generation: self.head.at(),
            mirror: (want > 0).then(|| (packs, refs_name(&[state]))),
            snapshots: (state > 0).then_some(snapshot).into_iter().collect(),
            ..Change::default()
        }
    }

    fn publish(&mut self) {
        let (change, write) = (self.change(), self.draw());
        let listing = self.listing();
        let stamp = (write, self.now_unix_ms);
        let mut next = self
            .head
            .with(&change, |_| Some(1), (&listing, &self.uploaded), stamp);
        if let Err(NotYet::Missing(missing)) = next {
            for name in missing {
                let key = PartKey::new(&name, self.draw()).expect("a name of a part");
                self.stored.insert(key.clone(), 1);
                let uploaded = Uploaded {
                    key,
                    bytes: 1,
                    removals: self.head.removals,
                };
                self.uploaded.insert(name, uploaded);
            }
            next = self
                .head
                .with(&change, |_| Some(1), (&listing, &self.uploaded), stamp);
        }
        let next = next.expect("all of it is there");
        // Now and then somebody else is faster, and what was uploaded stays for the next time.
        if self.input.u8().is_multiple_of(4) {
            return;
        }
        self.stands(next);
        let listing = self.listing();
        assert!(self.head.says(&change, &listing), "it says what was wanted");
        self.uploaded.clear();
    }

    fn find_broken(&mut self) {
        let number = usize::from(self.input.u8());
        let parts = &self.head.parts;
        let Some(part) = parts.get(number % parts.len().max(1)) else {
            return;
        };
        let (key, write) = (part.key.clone(), self.draw());
        if let Some(next) = self.head.with_broken([key.clone()], write) {
            // One that is lost is found in the same way.
            if number.is_multiple_of(2) {
                self.stored.remove(&key);
            }
            self.stands(next);
        }
    }

    /// As a sweep does: what was given up goes before the next swap, and what that gives up after it.
    fn collect(&mut self) {
        self.now_unix_ms += HOUR_MS * u64::from(self.input.u8() % 3);
        self.remove();
        let (write, now_unix_ms) = (self.draw(), self.now_unix_ms);
        let is_due = |since_unix_ms: u64| since_unix_ms + HOUR_MS <= now_unix_ms;
        let next = self.head.collecting(
            &self.listing(),
            |one| is_due(one.since_unix_ms),
            (write, now_unix_ms),
        );
        if let Some(next) = next {
            self.stands(next);
            if self.input.u8().is_multiple_of(2) {
                self.remove();
            }
        }
    }

    fn remove(&mut self) {
        for key in &self.head.removed {
            self.stored.remove(key);
        }
    }

    fn stands(&mut self, next: Head) {
        check_comes_back(&next);
        assert!(
            next.sequence > self.head.sequence,
            "it follows the one before"
        );
        let broken: BTreeSet<&PartKey> = next.broken.iter().collect();
        for part in &next.parts {
            let is_there = self.stored.contains_key(&part.key) || broken.contains(&part.key);
            assert!(is_there, "{} is named and not there", part.key);
            assert!(
                !next.removed.contains(&part.key),
                "{} was given up",
                part.key
            );
        }
        self.head = next;
    }
}
