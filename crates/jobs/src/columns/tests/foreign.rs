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
