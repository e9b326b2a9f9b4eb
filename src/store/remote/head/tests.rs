//! What heads say, and what may follow them.

use std::collections::BTreeMap;

use super::*;
use crate::limits::REMOTE_KEPT_MS;
use crate::manifest::id::EntryId;
use crate::store::remote::change::{Change, NewSnapshot, NotYet, Uploaded};
use crate::store::remote::key::manifest_name;

fn identity() -> Identity {
    serde_json::from_value(serde_json::json!({
        "host": "h", "path": "r", "url": "https://h/r",
    }))
    .unwrap()
}

fn pack(name: &str) -> String {
    format!("pack-{name}.pack")
}

fn upload(number: u128, name: &str, removals: u64) -> (String, Uploaded) {
    let key = PartKey::new(name, RandomId(number)).unwrap();
    let bytes = 7;
    let uploaded = Uploaded {
        key,
        bytes,
        removals,
    };
    (name.to_owned(), uploaded)
}

fn snapshot(id: u8, parts: &[String]) -> NewSnapshot {
    serde_json::from_value::<About>(serde_json::json!({"want": "HEAD", "kind": "1"}))
        .map(|about| NewSnapshot {
            about,
            id: EntryId::from_bytes([id; 16]),
            shows: format!("{id:064x}"),
            manifest: manifest_name(&[id]),
            parts: parts.to_vec(),
            compared_unix_ms: 0,
        })
        .unwrap()
}

/// All that a head names and has condemned is there.
fn all(head: &Head) -> Listing {
    let condemned = head.condemned.iter().map(|one| &one.key);
    let keys = head.keys().chain(condemned);
    keys.map(|key| (key.clone(), 7)).collect()
}

fn with(
    head: &Head,
    change: &Change,
    uploaded: &BTreeMap<String, Uploaded>,
    stamp: (RandomId, u64),
) -> Result<Head, Vec<String>> {
    let with = head.with(change, |_| Some(7), (&all(head), uploaded), stamp);
    with.map_err(|why| match why {
        NotYet::Missing(missing) => missing,
        NotYet::Behind => panic!("it is of this generation"),
    })
}

/// A head on which one snapshot of two packs stands.
fn first() -> Head {
    let parts = [pack("a"), pack("b")];
    let change = Change {
        generation: Generation::default(),
        mirror: None,
        snapshots: vec![snapshot(1, &parts)],
        ..Change::default()
    };
    let names = change.names().map(str::to_owned);
    let uploaded = names.enumerate();
    let uploaded = uploaded.map(|(number, name)| upload(number as u128 + 1, &name, 0));
    let stamp = (RandomId(1), 1_000);
    let head = Head::empty(identity());
    with(&head, &change, &uploaded.collect(), stamp).unwrap()
}

/// The same with another snapshot, of which one pack is new.
fn second(head: &Head, now_unix_ms: u64) -> Head {
    let parts = [pack("a"), pack("c")];
    let change = Change {
        generation: Generation::default(),
        mirror: None,
        snapshots: vec![snapshot(2, &parts)],
        ..Change::default()
    };
    let stamp = (RandomId(2), now_unix_ms);
    let missing = with(head, &change, &BTreeMap::new(), stamp).unwrap_err();
    assert_eq!(missing, [manifest_name(&[2]), pack("c")]);
    let uploaded = missing.iter().enumerate();
    let uploaded = uploaded.map(|(number, name)| upload(number as u128 + 10, name, head.removals));
    with(head, &change, &uploaded.collect(), stamp).unwrap()
}

fn names(keys: impl Iterator<Item = impl std::borrow::Borrow<PartKey>>) -> Vec<String> {
    keys.map(|key| key.borrow().name().to_owned()).collect()
}

#[test]
fn what_another_version_has_written_is_kept() {
    let head = first();
    let mut json = serde_json::to_value(&head).unwrap();
    json["annexes"] = serde_json::json!({"tips": [1, 2]});
    json["snapshots"][0]["mark"] = serde_json::json!("x");
    json["parts"][0]["sums"] = serde_json::json!([3]);
    let bytes = serde_json::to_vec(&json).unwrap();
    let read = Head::decode(&bytes, &identity()).unwrap();
    let next = serde_json::to_value(second(&read, 2_000)).unwrap();
    assert_eq!(next["annexes"], json["annexes"]);
    assert_eq!(next["snapshots"][0]["mark"], "x");
    let parts = next["parts"].as_array().unwrap();
    assert!(
        parts
            .iter()
            .any(|part| part["sums"] == serde_json::json!([3]))
    );
    assert_eq!((next["sequence"].as_u64(), read.sequence), (Some(2), 1));
}

#[test]
fn what_is_replaced_goes_in_two_steps() {
    let head = second(&first(), 2_000);
    assert_eq!(head.snapshots.len(), 2, "the one before can be resumed");
    assert!(head.condemned.is_empty());
    assert!(head.is_of(RandomId(1)) && head.is_of(RandomId(2)) && !head.is_of(RandomId(3)));
    // An hour later the next change lets it go.
    let later = 2_000 + REMOTE_KEPT_MS;
    let change = Change {
        generation: Generation::default(),
        mirror: None,
        snapshots: vec![snapshot(2, &[pack("a"), pack("c")])],
        ..Change::default()
    };
    let stamp = (RandomId(3), later);
    let head = with(&head, &change, &BTreeMap::new(), stamp).unwrap();
    let condemned = names(head.condemned.iter().map(|one| one.key.clone()));
    assert!(
        condemned.contains(&pack("b")) && !condemned.contains(&pack("a")),
        "{condemned:?}"
    );
    // Who needs it takes it back; who does not has it removed.
    let again = Change {
        generation: Generation::default(),
        mirror: None,
        snapshots: vec![snapshot(1, &[pack("a"), pack("b")])],
        ..Change::default()
    };
    let uploaded = BTreeMap::from([upload(99, &manifest_name(&[1]), 0)]);
    let back = with(&head, &again, &uploaded, (RandomId(4), later)).unwrap();
    assert!(names(back.parts.iter().map(|part| part.key.clone())).contains(&pack("b")));
    let gone = head
        .collecting(&Listing::default(), |_| true, (RandomId(5), later))
        .unwrap();
    assert_eq!((gone.condemned.len(), gone.removals), (0, 1));
    assert!(names(gone.removed.iter()).contains(&pack("b")));
    let refused = with(&gone, &again, &uploaded, (RandomId(6), later));
    assert!(
        refused.unwrap_err().contains(&pack("b")),
        "what was given up is named"
    );
}

/// What was uploaded before two removals may be gone, and nobody has the list of the first any more.
#[test]
fn uploads_do_not_outlast_removals() {
    let mut head = first();
    let change = Change {
        generation: Generation::default(),
        mirror: None,
        snapshots: vec![snapshot(3, &[pack("d")])],
        ..Change::default()
    };
    let uploaded = [manifest_name(&[3]), pack("d")].map(|name| upload(50, &name, 0));
    let uploaded = BTreeMap::from(uploaded);
    let is_named = |head: &Head| with(head, &change, &uploaded, (RandomId(9), 0)).is_ok();
    assert!(is_named(&head));
    head.removals = 1;
    assert!(is_named(&head));
    head.removed = vec![uploaded[&pack("d")].key.clone()];
    assert!(!is_named(&head));
    (head.removed, head.removals) = (Vec::new(), 2);
    assert!(!is_named(&head));
}

#[test]
fn what_is_no_head_is_refused() {
    let head = first();
    let sound = serde_json::to_value(&head).unwrap();
    let decode =
        |json: &serde_json::Value| Head::decode(&serde_json::to_vec(json).unwrap(), &identity());
    assert_eq!(decode(&sound).unwrap(), head);
    type Break = fn(&mut serde_json::Value);
    let breaks: [Break; 10] = [
        |json| json["generation"] = (STORE_HEAD_COUNT_MAX + 1).into(),
        |json| json["sequence"] = u64::MAX.into(),
        |json| json["parts"][0]["key"] = "../../x.0".into(),
        |json| json["snapshots"][0]["parts"][0] = json["snapshots"][0]["parts"][1].clone(),
        |json| json["repository"]["path"] = "other".into(),
        |json| json["removed"] = serde_json::json!([json["parts"][0]["key"]]),
        |json| json["snapshots"] = serde_json::json!([json["snapshots"][0], json["snapshots"][0]]),
        |json| json["snapshots"][0]["want"] = "x".repeat(STORE_HEAD_TEXT_BYTES_MAX + 1).into(),
        |json| json["write"] = "1".into(),
        |json| {
            json["broken"] = serde_json::json!([pack("x") + ".00000000000000000000000000000007"])
        },
    ];
    for (number, breaks) in breaks.iter().enumerate() {
        let mut json = sound.clone();
        breaks(&mut json);
        assert!(decode(&json).is_err(), "{number}: {json}");
    }
    let mut bytes = serde_json::to_vec(&sound).unwrap();
    bytes.resize(STORE_HEAD_BYTES_MAX + 1, b' ');
    assert!(matches!(
        Head::decode(&bytes, &identity()),
        Err(BadHead::TooLong)
    ));
}

/// Whatever is not there, or was found to be something else, is uploaded again, and all that had it has the new one.
#[test]
fn what_is_lost_or_broken_is_named_by_another_key() {
    let head = second(&first(), 2_000);
    let parts = [pack("a"), pack("c")];
    let change = Change {
        generation: Generation::default(),
        mirror: None,
        snapshots: vec![snapshot(2, &parts)],
        ..Change::default()
    };
    assert!(
        head.says(&change, &all(&head))
            && head.shows(
                &change.snapshots[0].about,
                &format!("{:064x}", 2),
                &all(&head)
            )
    );
    let key = |head: &Head, name: &str| {
        let mut keys = head.keys();
        keys.find(|key| key.name() == name).cloned().unwrap()
    };
    let old = key(&head, &pack("a"));
    let marked = head.with_broken([old.clone()], RandomId(8)).unwrap();
    assert_eq!(
        marked.with_broken([old.clone()], RandomId(9)),
        None,
        "it knows"
    );
    let lost: Listing = head
        .keys()
        .filter(|key| **key != old)
        .map(|key| (key.clone(), 7))
        .collect();
    for (head, listing) in [(&marked, all(&marked)), (&head, lost)] {
        assert!(!head.says(&change, &listing));
        assert!(!head.shows(&change.snapshots[0].about, &format!("{:064x}", 2), &listing));
        let stamp = (RandomId(10), 3_000);
        let missing = head.with(&change, |_| Some(7), (&listing, &BTreeMap::new()), stamp);
        assert_eq!(missing, Err(NotYet::Missing(vec![pack("a")])));
        let uploaded = BTreeMap::from([upload(77, &pack("a"), 0)]);
        let next = head.with(&change, |_| Some(7), (&listing, &uploaded), stamp);
        let next = next.unwrap();
        assert!(next.encode().is_some() && next.broken.is_empty());
        assert_eq!(key(&next, &pack("a")), uploaded[&pack("a")].key);
        assert_eq!(next.snapshots.len(), 2, "the one before has it, too");
        assert!(next.condemned.iter().any(|one| one.key == old));
    }
}

/// What was there before an expiry is named by nobody again, but for what who has expired it names.
#[test]
fn what_has_expired_is_named_no_more() {
    let head = second(&first(), 2_000);
    let raised_once = Generation {
        number: 1,
        raise: RandomId(90),
    };
    let change = Change {
        generation: raised_once,
        ..Change::default()
    };
    let raised = with(&head, &change, &BTreeMap::new(), (RandomId(11), 3_000)).unwrap();
    assert_eq!((raised.generation, raised.keys().count()), (1, 0));
    assert_eq!(raised.condemned.len(), head.keys().count());
    let mut late = Change {
        generation: Generation::default(),
        mirror: None,
        snapshots: vec![snapshot(2, &[pack("a"), pack("c")])],
        ..Change::default()
    };
    let named = |change: &Change| {
        let there = (&all(&raised), &BTreeMap::new());
        raised.with(change, |_| Some(7), there, (RandomId(12), 4_000))
    };
    assert_eq!(named(&late), Err(NotYet::Behind));
    late.generation = Generation {
        number: 1,
        raise: RandomId(91),
    };
    assert_eq!(named(&late), Err(NotYet::Behind), "another's first");
    late.generation = raised_once;
    let next = named(&late).unwrap();
    assert!(next.is_valid(next.current(&late.snapshots[0].about).unwrap()));
    let mut of_before = next.clone();
    of_before.snapshots[0].generation = 0;
    assert!(!of_before.is_valid(&of_before.snapshots[0]));
}

/// Who has such a snapshot has nothing to drop, and may be the one that mends it.
#[test]
fn what_is_broken_in_the_store_is_of_now_all_the_same() {
    let mut head = first();
    let (about, id) = (
        head.snapshots[0].about.clone(),
        head.snapshots[0].id.clone(),
    );
    head.broken = vec![head.snapshots[0].parts[0].clone()];
    assert!(!head.is_valid(&head.snapshots[0]) && head.is_of_now(&about, &id));
    head.generation += 1;
    assert!(!head.is_of_now(&about, &id));
    assert!(!first().is_of_now(&about, "another"));
}

/// Why a head names nothing stands in it, whoever raises it meanwhile, and does once somebody shares again.
#[test]
fn what_nobody_used_has_not_expired() {
    let now_unix_ms = 9;
    let full = first();
    let (about, id) = (
        full.snapshots[0].about.clone(),
        full.snapshots[0].id.clone(),
    );
    let at = |number, raise| Generation {
        number,
        raise: RandomId(raise),
    };
    let tells = |generation| Change {
        generation,
        ..Change::default()
    };
    let raised = with(&full, &tells(at(1, 1)), &BTreeMap::new(), (RandomId(5), 0)).unwrap();
    assert!(raised.is_empty() && !raised.is_emptied() && raised.is_no_newer(None));
    // In which generation it was made decides, where that is known, and not that it is named no more.
    for (made, may) in [
        (None, true),
        (Some(at(1, 1)), false),
        (Some(at(0, 0)), true),
    ] {
        assert_eq!(
            raised.may_have_expired((&about, &id), made),
            may,
            "{made:?}"
        );
    }
    // One that was raised by somebody else, up to a higher number.
    assert!(raised.may_have_expired((&about, &id), Some(at(5, 5))));

    let emptied = full.emptied((RandomId(6), now_unix_ms));
    assert!(emptied.is_emptied() && !emptied.is_no_newer(None));
    assert!(!emptied.may_have_expired((&about, &id), None));
    let read = Head::decode(&emptied.encode().unwrap(), &identity()).unwrap();
    assert!(read.is_emptied());
    let both = with(
        &emptied,
        &tells(at(1, 1)),
        &BTreeMap::new(),
        (RandomId(7), 0),
    )
    .unwrap();
    assert!(both.is_emptied() && both.generation == 1);
    // Who shares again need not know of that.
    let again = Head {
        shares: emptied.shares + 1,
        ..emptied
    };
    assert!(!again.is_emptied());
}

/// Who finds a head that does not follow what is here may have what has expired by it, whichever number is larger; a head that
/// was raised above both follows both.
#[test]
fn a_generation_is_followed_and_not_counted() {
    let at = |number, raise| Generation {
        number,
        raise: RandomId(raise),
    };
    let told = |head: &Head, generation, after, write| {
        let change = Change {
            generation,
            after,
            ..Change::default()
        };
        with(head, &change, &BTreeMap::new(), (RandomId(write), 0)).unwrap()
    };
    let began = told(&first(), at(1, 1), Generation::default(), 5);
    assert!(!began.is_past(at(1, 1)) && began.is_past(Generation::default()));
    let before = at(5, 5);
    assert!(began.is_past(before) && !began.is_later(before));
    let both = told(&began, at(6, 6), before, 6);
    for own in [at(1, 1), before] {
        assert!(both.is_past(own) && both.follows(own), "{own:?}");
    }
    assert!(!both.is_past(at(6, 6)) && !both.follows(at(4, 4)));
    let read = Head::decode(&both.encode().unwrap(), &identity()).unwrap();
    assert_eq!(read, both);
}
