//! Values that another product encrypted: opened by the column's reader, and sealed in place.

use enfold_core::stored::{Stored, detect};

use super::*;

const STORED: &[u8] = b"old:nna";

#[test]
fn a_foreign_value_is_opened_and_what_it_holds_is_sealed_and_indexed() {
    let fixture = Fixture::new(Storage::Text);
    let (foreign, plain) = (fixture.row(1, Some(STORED)), fixture.row(1, Some(b"ann")));
    let after = fixture.after(Goal::Protect, &foreign);
    let cell = after.cells[0].as_deref().unwrap();
    assert!(matches!(detect(Form::Text, cell), Stored::Envelope(_)));
    assert_eq!(after.indexed, fixture.after(Goal::Protect, &plain).indexed, "the index is that of the plaintext");
    let opened = fixture.after(Goal::Unprotect, &after);
    assert_eq!(opened.cells[0].as_deref(), Some(&b"ann"[..]));
}

#[test]
fn a_blind_index_is_filled_while_the_value_stays_as_it_was_encrypted() {
    let fixture = Fixture::new(Storage::Text);
    let change = fixture.change(Goal::Index, &fixture.row(1, Some(STORED)));
    assert!(change.cells == [Cell::Keep]);
    let plain = fixture.change(Goal::Index, &fixture.row(1, Some(b"ann")));
    assert!(change.indexed == plain.indexed);
}

#[test]
fn what_a_reader_recognises_and_does_not_open_stays_and_is_an_error() {
    let fixture = Fixture::new(Storage::Text);
    for goal in [Goal::Protect, Goal::Index, Goal::Unprotect] {
        match fixture.judge(goal, &fixture.row(1, Some(b"old:!"))) {
            Verdict::Failed(errors) => assert_eq!(errors[0].code, Code::OpenFailed.word()),
            _ => panic!("{goal:?} converted it"),
        }
    }
}

#[test]
fn a_verification_says_whose_format_a_value_is_in() {
    let fixture = Fixture::new(Storage::Bytes);
    let Verdict::Failed(errors) = fixture.judge(Goal::Verify, &fixture.row(1, Some(STORED))) else { panic!() };
    assert_eq!(errors[0].code, Code::PlaintextFound.word());
    assert!(errors[0].reason.contains("reader `backwards`"), "{}", errors[0].reason);
}

#[test]
fn the_way_back_leaves_plaintext_of_what_was_foreign_too() {
    let fixture = Fixture::new(Storage::Text);
    let after = fixture.after(Goal::Unprotect, &fixture.row(1, Some(STORED)));
    assert_eq!(after.cells[0].as_deref(), Some(&b"ann"[..]));
}

#[test]
fn a_value_that_looks_foreign_itself_is_not_stored_in_the_clear() {
    let fixture = Fixture::new(Storage::Text);
    let sealed = fixture.after(Goal::Protect, &fixture.row(1, Some(b"old::dlo")));
    assert!(
        matches!(fixture.judge(Goal::Unprotect, &sealed), Verdict::Failed(errors) if errors[0].code == "value-invalid")
    );
}

/// A column that goes back to the other product's format.
fn going_back(lookalikes: Lookalikes, cells: TestCells) -> Fixture {
    let mut fixture = Fixture::with(Storage::Text, lookalikes, cells);
    fixture.target.columns[0].writes = Some("backwards".into());
    fixture
}

/// An envelope with this in it, as an application seals it.
fn sealed(cells: &TestCells, value: &[u8]) -> Vec<u8> {
    let item = [CellItem { place: Place { tenant: Some(Part::Int(1)), row: &[] }, bytes: value, beside: &[] }];
    let sealing = cells.seal_many(Form::Text, PayloadType::Text, &item);
    futures_util::FutureExt::now_or_never(sealing).unwrap().remove(0).unwrap()
}

/// Whatever it looks like: it is a value, and written like any other.
#[test]
fn on_the_way_back_to_a_format_what_is_in_an_envelope_is_written_in_it() {
    let cells = TestCells::new("c1");
    let nested = sealed(&cells, b"x");
    let values: [&[u8]; 6] = [b"ann", b"", b"old::dlo", b"enf1:", b"enf1:AAAA", &nested];
    let rows: Vec<(Vec<u8>, &[u8])> = values.map(|value| (sealed(&cells, value), value)).to_vec();
    let fixture = going_back(Lookalikes::Plaintext, cells);
    for (envelope, value) in rows {
        let after = fixture.after(Goal::Unprotect, &fixture.row(1, Some(&envelope)));
        let backwards: Vec<u8> = b"old:".iter().chain(value.iter().rev()).copied().collect();
        assert_eq!(after.cells[0].as_deref(), Some(&backwards[..]));
        assert!(satisfied(&fixture.judge(Goal::Unprotect, &after)), "never written twice");
    }
}

#[test]
fn on_the_way_back_to_a_format_what_is_in_no_envelope_stays_as_it_is() {
    let fixture = going_back(Lookalikes::Plaintext, TestCells::new("c1"));
    // The last does not open: its application may have another key for it.
    for stored in [&b"ann"[..], b"", b"old:nna", b"enf1:AAAA", b"old:!"] {
        assert!(satisfied(&fixture.judge(Goal::Unprotect, &fixture.row(1, Some(stored)))), "{stored:?}");
    }
    assert!(satisfied(&fixture.judge(Goal::Unprotect, &fixture.row(1, None))));
}

#[test]
fn what_is_written_wrongly_takes_no_value_s_place() {
    let cells = TestCells::new("c1");
    let envelope = sealed(&cells, b"ann");
    let fixture = going_back(Lookalikes::Refuse, TestCells { mistaken: true, ..cells });
    assert_eq!(fixture.code(Goal::Unprotect, &fixture.row(1, Some(&envelope))), "internal");
}

#[test]
fn on_the_way_back_to_a_format_an_envelope_that_does_not_open_stays_and_is_an_error() {
    let cells = TestCells::new("c1");
    let envelope = sealed(&cells, b"ann");
    let fixture = going_back(Lookalikes::Plaintext, cells);
    assert_eq!(fixture.code(Goal::Unprotect, &fixture.row(2, Some(&envelope))), "open-failed");
    let unknown = sealed(&TestCells::new("c1"), b"ann");
    assert_eq!(fixture.code(Goal::Unprotect, &fixture.row(1, Some(&unknown))), "key-not-found");
}

/// What stands beside a value belongs to a value that stays, and goes with the envelope that somebody left it beside.
#[test]
fn on_the_way_back_to_a_format_what_stands_beside_goes_with_an_envelope_alone() {
    let cells = TestCells::new("c1");
    let envelope = sealed(&cells, b"ann");
    let mut fixture = going_back(Lookalikes::Refuse, cells);
    fixture.target.columns[0].companions = [(enfold::Companion::Iv, "email_iv".to_owned())].into();
    let with_iv = |stored: &[u8]| {
        let mut row = fixture.row(1, Some(stored));
        row.beside = vec![Some(b"iv".to_vec())];
        row
    };
    assert!(satisfied(&fixture.judge(Goal::Unprotect, &with_iv(b"old:nna"))));
    let change = fixture.change(Goal::Unprotect, &with_iv(&envelope));
    assert!(change.cells == [Cell::Set(Some(b"old:nna".to_vec()))] && change.beside == [Cell::Set(None)]);
}
