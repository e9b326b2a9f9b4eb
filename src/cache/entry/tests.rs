use super::*;

#[test]
fn ids_have_one_spelling() {
    let id = EntryId::from_bytes([
        0, 1, 0x2f, 0xff, 0xa0, 0x0a, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15,
    ]);
    assert_eq!(id.as_str(), "00012fffa00a060708090a0b0c0d0e0f");
    assert_eq!(id.to_string().parse(), Ok(id));
    for text in ["", "0", &"a".repeat(31), &"a".repeat(33), &"A".repeat(32)] {
        assert_eq!(EntryId::parse(text), Err(BadEntryId), "{text:?}");
    }
    assert_eq!(EntryId::parse(&"g".repeat(32)), Err(BadEntryId));
    assert_eq!(EntryId::parse(&"é".repeat(16)), Err(BadEntryId));
}
