//! What heads say, and what may follow them.

use super::*;
use crate::manifest::id::EntryId;
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
            manifest: manifest_name(&[id]),
            parts: parts.to_vec(),
            compared_unix_ms: 0,
        })
        .unwrap()
}

/// A head on which one snapshot of two packs stands.
fn first() -> Head {
    let parts = [pack("a"), pack("b")];
    let change = Change {
        mirror: None,
        snapshots: vec![snapshot(1, &parts)],
    };
    let names = change.names().map(str::to_owned);
    let uploaded = names.enumerate();
    let uploaded = uploaded.map(|(number, name)| upload(number as u128 + 1, &name, 0));
    let stamp = (RandomId(1), 1_000);
    let head = Head::empty(identity());
    head.with(&change, |_| Some(7), &uploaded.collect(), stamp)
        .unwrap()
}

/// The same with another snapshot, of which one pack is new.
fn second(head: &Head, now_unix_ms: u64) -> Head {
    let parts = [pack("a"), pack("c")];
    let change = Change {
        mirror: None,
        snapshots: vec![snapshot(2, &parts)],
    };
    let missing = head.with(
        &change,
        |_| Some(7),
        &BTreeMap::new(),
        (RandomId(2), now_unix_ms),
    );
    let missing = missing.unwrap_err();
    assert_eq!(missing, [manifest_name(&[2]), pack("c")]);
    let uploaded = missing.iter().enumerate();
    let uploaded = uploaded.map(|(number, name)| upload(number as u128 + 10, name, head.removals));
    head.with(
        &change,
        |_| Some(7),
        &uploaded.collect(),
        (RandomId(2), now_unix_ms),
    )
    .unwrap()
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
        mirror: None,
        snapshots: vec![snapshot(2, &[pack("a"), pack("c")])],
    };
    let stamp = (RandomId(3), later);
    let head = head
        .with(&change, |_| Some(7), &BTreeMap::new(), stamp)
        .unwrap();
    let condemned = names(head.condemned.iter().map(|one| one.key.clone()));
    assert!(
        condemned.contains(&pack("b")) && !condemned.contains(&pack("a")),
        "{condemned:?}"
    );
    // Who needs it takes it back; who does not has it removed.
    let again = Change {
        mirror: None,
        snapshots: vec![snapshot(1, &[pack("a"), pack("b")])],
    };
    let uploaded = BTreeMap::from([upload(99, &manifest_name(&[1]), 0)]);
    let back = head
        .with(&again, |_| Some(7), &uploaded, (RandomId(4), later))
        .unwrap();
    assert!(names(back.parts.iter().map(|part| part.key.clone())).contains(&pack("b")));
    let listed = BTreeSet::new();
    let gone = head
        .collecting(&listed, |_| true, (RandomId(5), later))
        .unwrap();
    assert_eq!((gone.condemned.len(), gone.removals), (0, 1));
    assert!(names(gone.removed.iter()).contains(&pack("b")));
    let refused = gone.with(&again, |_| Some(7), &uploaded, (RandomId(6), later));
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
        mirror: None,
        snapshots: vec![snapshot(3, &[pack("d")])],
    };
    let uploaded = [manifest_name(&[3]), pack("d")].map(|name| upload(50, &name, 0));
    let uploaded = BTreeMap::from(uploaded);
    let with = |head: &Head| {
        head.with(&change, |_| Some(7), &uploaded, (RandomId(9), 0))
            .is_ok()
    };
    assert!(with(&head));
    head.removals = 1;
    assert!(with(&head));
    head.removed = vec![uploaded[&pack("d")].key.clone()];
    assert!(!with(&head));
    (head.removed, head.removals) = (Vec::new(), 2);
    assert!(!with(&head));
}

#[test]
fn what_is_no_head_is_refused() {
    let head = first();
    let sound = serde_json::to_value(&head).unwrap();
    let decode =
        |json: &serde_json::Value| Head::decode(&serde_json::to_vec(json).unwrap(), &identity());
    assert_eq!(decode(&sound).unwrap(), head);
    type Break = fn(&mut serde_json::Value);
    let breaks: [Break; 7] = [
        |json| json["parts"][0]["key"] = "../../x.0".into(),
        |json| json["snapshots"][0]["parts"][0] = json["snapshots"][0]["parts"][1].clone(),
        |json| json["repository"]["path"] = "other".into(),
        |json| json["removed"] = serde_json::json!([json["parts"][0]["key"]]),
        |json| json["snapshots"] = serde_json::json!([json["snapshots"][0], json["snapshots"][0]]),
        |json| json["snapshots"][0]["want"] = "x".repeat(STORE_HEAD_TEXT_BYTES_MAX + 1).into(),
        |json| json["write"] = "1".into(),
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
