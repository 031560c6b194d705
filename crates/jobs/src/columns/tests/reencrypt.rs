//! Re-encryption: what is under a former data key, and nothing else, comes under the one of now.

use enfold_core::stored::{Stored, detect};

use super::*;

/// A row as it was sealed, and the column as it is after its data key was rotated.
fn rotated(storage: Storage, value: &[u8]) -> (Fixture, Row) {
    let cells = TestCells::new("c1");
    let payload = storage.payload();
    let place = Place { tenant: Some(Part::Int(1)), row: &[] };
    let sealed = cells.sealer.seal(&cells.binding(place), payload, Padding::None, value).unwrap();
    let fixture = Fixture::with(storage, Lookalikes::Refuse, cells.rotated());
    let row = fixture.row(1, Some(&encode(storage.form(), sealed)));
    (fixture, row)
}

fn header(storage: Storage, row: &Row) -> (KeyId, PayloadType) {
    let Stored::Envelope(bytes) = detect(storage.form(), row.cells[0].as_deref().unwrap()) else { panic!("plain") };
    let envelope = Envelope::parse(&bytes).unwrap();
    (envelope.key_id(), envelope.payload())
}

#[test]
fn a_value_under_a_former_key_comes_under_the_one_of_now_and_stays_the_same() {
    for storage in [Storage::Text, Storage::Bytes, Storage::Json] {
        let (fixture, row) = rotated(storage, b"5");
        let former = fixture.codec.former_keys(&fixture.target);
        let former = futures_util::FutureExt::now_or_never(former).unwrap().unwrap();
        assert_eq!(former, [header(storage, &row).0]);
        let mut after = fixture.after(Goal::Reencrypt, &row);
        assert!(!former.contains(&header(storage, &after).0));
        assert!(satisfied(&fixture.judge(Goal::Reencrypt, &after)), "never twice");
        after.indexed.fill(None);
        assert_eq!(fixture.after(Goal::Unprotect, &after).cells[0].as_deref(), Some(&b"5"[..]));
    }
}

#[test]
fn what_the_sealer_said_of_a_value_is_kept() {
    let cells = TestCells::new("c1");
    let place = Place { tenant: Some(Part::Int(1)), row: &[] };
    let sealed = cells.sealer.seal(&cells.binding(place), PayloadType::Bytes, Padding::None, &[0xff, 0]).unwrap();
    let fixture = Fixture::with(Storage::Text, Lookalikes::Refuse, cells.rotated());
    let row = fixture.row(1, Some(&encode(Form::Text, sealed)));
    assert_eq!(header(Storage::Text, &fixture.after(Goal::Reencrypt, &row)).1, PayloadType::Bytes);
}

#[test]
fn plaintext_null_and_lookalikes_are_none_of_its_business() {
    let (fixture, _) = rotated(Storage::Text, b"x");
    for cell in [None, Some(&b"plain"[..]), Some(b"enf1:typed")] {
        assert!(satisfied(&fixture.judge(Goal::Reencrypt, &fixture.row(1, cell))));
    }
}

#[test]
fn a_value_that_does_not_open_in_its_place_stays_as_it_is_and_is_told() {
    let (fixture, mut row) = rotated(Storage::Text, b"x");
    row.tenant = Some(OwnedPart::Int(2));
    assert_eq!(fixture.code(Goal::Reencrypt, &row), "open-failed");
}

#[test]
fn a_blind_index_is_left_alone() {
    let (fixture, mut row) = rotated(Storage::Text, b"x");
    row.indexed = vec![Some(vec![1, 2, 3])];
    assert!(fixture.change(Goal::Reencrypt, &row).indexed == [Cell::Keep]);
}

#[test]
fn what_cannot_be_opened_again_is_not_written() {
    let (fixture, row) = {
        let cells = TestCells::new("c1");
        let place = Place { tenant: Some(Part::Int(1)), row: &[] };
        let sealed = cells.sealer.seal(&cells.binding(place), PayloadType::Text, Padding::None, b"x").unwrap();
        let cells = TestCells { mistaken: true, ..cells.rotated() };
        let fixture = Fixture::with(Storage::Text, Lookalikes::Refuse, cells);
        let row = fixture.row(1, Some(&encode(Form::Text, sealed)));
        (fixture, row)
    };
    assert_eq!(fixture.code(Goal::Reencrypt, &row), "open-failed");
}
