//! One bad cell keeps neither the row's other cells nor the indexes over them from being done.

use enfold_core::stored::{Stored, detect};

use super::*;
use crate::model::RowError;

/// Two columns; an index over both, and one over the second alone.
struct Pair {
    codec: ColumnCodec,
    target: Target,
}

impl Pair {
    fn new() -> Self {
        let both = IndexSpec {
            ring_id: "ring".into(),
            column_ids: vec!["c1".into(), "c2".into()],
            name: "both".into(),
            normalise: vec![],
            bits: 128,
            unique: false,
            cross_tenant: true,
            generation: 1,
        };
        let mut email = TestCells::new("c1");
        let key_id = KeyId::random().unwrap();
        email.index = BlindIndex::new(&DataKey::from_bytes(&mut [9; 32]), key_id, both).unwrap();
        let protected = |cells| Protected { cells: Arc::new(cells), lookalikes: Lookalikes::Refuse };
        let columns = [("users.email", protected(email)), ("users.note", protected(TestCells::new("c2")))];
        let column = |name: &str, id: &str| TargetColumn {
            name: name.into(),
            id: id.into(),
            storage: Storage::Text,
            shadow: None,
            member: None,
            companions: Default::default(),
            writes: None,
        };
        let index = |name: &str, over| TargetIndex {
            name: name.into(),
            column: name.into(),
            over,
            unique: false,
            generation: None,
        };
        Self {
            codec: ColumnCodec::new(columns.map(|(name, column)| (name.to_owned(), column)).into()),
            target: Target {
                table: TableName { schema: String::new(), table: "users".into() },
                policy_table: "users".into(),
                columns: vec![column("email", "c1"), column("note", "c2")],
                indexes: vec![index("both", vec![0, 1]), index("eq", vec![1])],
                tenant: None,
                row_key: vec![],
                key: vec!["id".into()],
                leaving: Leaving::default(),
                prune: None,
            },
        }
    }

    fn judge(&self, goal: Goal, row: &Row) -> Verdict {
        let judging = self.codec.judge(goal, &self.target, std::slice::from_ref(row));
        futures_util::FutureExt::now_or_never(judging).expect("nothing to wait for").unwrap().remove(0)
    }

    fn change(&self, goal: Goal, row: &Row) -> Change {
        let Verdict::Convert(change) = self.judge(goal, row) else { panic!("nothing was converted") };
        change
    }
}

/// A row whose blind indexes are of some value that it held before.
fn row(email: &str, note: &str) -> Row {
    Row {
        version: RowVersion::Digest { rowid: 1, digest: [0; 32] },
        label: "id=1".into(),
        origins: Vec::new(),
        cells: vec![Some(email.as_bytes().to_vec()), Some(note.as_bytes().to_vec())],
        indexed: vec![Some(vec![1]), Some(vec![2])],
        beside: Vec::new(),
        tenant: None,
        row_key: vec![],
    }
}

/// Column and code of each error.
fn said(errors: &[RowError]) -> Vec<(&str, &str)> {
    errors.iter().map(|error| (error.column.as_str(), error.code.as_str())).collect()
}

/// The row as it is after a change.
fn after(row: &Row, change: &Change) -> Row {
    let mut row = row.clone();
    for (cell, new) in row.cells.iter_mut().zip(&change.cells).chain(row.indexed.iter_mut().zip(&change.indexed)) {
        if let Cell::Set(new) = new {
            cell.clone_from(new);
        }
    }
    row
}

#[test]
fn a_lookalike_in_one_column_leaves_the_other_sealed_and_the_index_over_both_alone() {
    let pair = Pair::new();
    let before = row("enf1:typed by somebody", "a note");
    let change = pair.change(Goal::Protect, &before);
    assert_eq!(said(&change.errors), [("email", "envelope-malformed")]);
    assert!(change.cells[0] == Cell::Keep && change.indexed[0] == Cell::Keep, "what is over the bad cell was touched");
    let sealed = after(&before, &change);
    assert!(matches!(detect(Form::Text, sealed.cells[1].as_deref().unwrap()), Stored::Envelope(_)));
    assert_ne!(sealed.indexed[1], before.indexed[1], "the index over the good cell alone is set");
    // Read again, nothing more is to be done, and the error is found again.
    let Verdict::Failed(errors) = pair.judge(Goal::Protect, &sealed) else { panic!("it was converted again") };
    assert_eq!(said(&errors), [("email", "envelope-malformed")]);
    // And back: the note comes out as it was.
    let opened = after(&sealed, &pair.change(Goal::Unprotect, &sealed));
    assert!(opened.cells == before.cells);
}

#[test]
fn an_envelope_of_another_key_in_one_column_leaves_the_other_sealed() {
    let (pair, other) = (Pair::new(), Pair::new());
    let foreign = after(&row("x", "y"), &other.change(Goal::Protect, &row("x", "y")));
    let mut mixed = row("ada@example.org", "");
    mixed.cells[1].clone_from(&foreign.cells[1]);
    let change = pair.change(Goal::Protect, &mixed);
    assert_eq!(said(&change.errors), [("note", "key-not-found")]);
    assert!(matches!(change.cells[0], Cell::Set(Some(_))) && change.cells[1] == Cell::Keep);
    assert!(change.indexed == [Cell::Keep, Cell::Keep], "both indexes are over the bad cell");
}

#[test]
fn every_bad_cell_of_a_row_has_its_own_error() {
    let pair = Pair::new();
    let both = row("enf1:one", "enf1:two");
    let Verdict::Failed(errors) = pair.judge(Goal::Protect, &both) else { panic!("something was converted") };
    assert_eq!(said(&errors), [("email", "envelope-malformed"), ("note", "envelope-malformed")]);
    let Verdict::Failed(errors) = pair.judge(Goal::Verify, &row("plain", "plain too")) else { panic!("not seen") };
    assert_eq!(said(&errors), [("email", "plaintext-found"), ("note", "plaintext-found")]);
}
