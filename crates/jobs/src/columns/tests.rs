//! The codec against real envelopes, with keys that live in the test.

mod foreign;
mod partial;
mod reencrypt;

use enfold_core::index::{BlindIndex, IndexSpec};
use enfold_core::stored::{decode, encode};
use enfold_core::{Binding, DataKey, Envelope, KeyId, Opener, OwnedPart, Padding, Sealer};
use proptest::prelude::*;

use super::*;
use crate::model::{TableName, TargetColumn, TargetIndex};
use crate::store::{Cell, Change, RowVersion};

pub(crate) struct TestCells {
    id: String,
    sealer: Sealer,
    opener: Opener,
    /// Of the data key that sealed before the last rotation.
    former: Option<Opener>,
    index: BlindIndex,
    /// Seals for another place than it is told, as a program with a mistake in it would.
    mistaken: bool,
}

impl TestCells {
    pub(crate) fn new(id: &str) -> Self {
        let (key, key_id) = (DataKey::from_bytes(&mut [7; 32]), KeyId::random().unwrap());
        let spec = IndexSpec {
            ring_id: "ring".into(),
            column_ids: vec![id.into()],
            name: "eq".into(),
            normalise: vec![],
            bits: 128,
            unique: false,
            cross_tenant: true,
            generation: 1,
        };
        Self {
            id: id.into(),
            sealer: Sealer::new(&key, key_id).unwrap(),
            opener: Opener::new(&key, key_id),
            former: None,
            index: BlindIndex::new(&DataKey::from_bytes(&mut [8; 32]), key_id, spec).unwrap(),
            mistaken: false,
        }
    }

    /// The same column after its data key was rotated.
    fn rotated(mut self) -> Self {
        let (key, key_id) = (DataKey::from_bytes(&mut [6; 32]), KeyId::random().unwrap());
        self.sealer = Sealer::new(&key, key_id).unwrap();
        self.former = Some(std::mem::replace(&mut self.opener, Opener::new(&key, key_id)));
        self
    }

    fn binding(&self, place: Place<'_>) -> Binding {
        Binding::new("ring", &self.id).tenant(place.tenant).row_key(place.row)
    }
}

#[async_trait]
impl Cells for TestCells {
    async fn seal_many(&self, form: Form, payload: PayloadType, items: &[CellItem<'_>]) -> Vec<Result<Vec<u8>>> {
        let seal = |item: &CellItem<'_>| {
            let id = if self.mistaken { "elsewhere" } else { &self.id };
            let binding = Binding::new("ring", id).tenant(item.place.tenant).row_key(item.place.row);
            Ok(encode(form, self.sealer.seal(&binding, payload, Padding::None, item.bytes).unwrap()))
        };
        items.iter().map(seal).collect()
    }

    /// As that product writes, or one letter short.
    async fn write_back_many(&self, reader: &str, _: Form, items: &[CellItem<'_>]) -> Vec<Result<Vec<u8>>> {
        assert_eq!(reader, "backwards");
        let skipped = usize::from(self.mistaken);
        let write =
            |item: &CellItem<'_>| b"old:".iter().chain(item.bytes.iter().skip(skipped).rev()).copied().collect();
        items.iter().map(|item| Ok(write(item))).collect()
    }

    /// Another product's values are `old:` and the value backwards; `old:!` does not open.
    fn reader_of(&self, _: Form, stored: &[u8], _: Beside<'_>) -> Option<&str> {
        stored.starts_with(b"old:").then_some("backwards")
    }

    async fn open_many(&self, form: Form, items: &[CellItem<'_>]) -> Vec<Result<Zeroizing<Vec<u8>>>> {
        let open = |item: &CellItem<'_>| {
            if let Some(backwards) = item.bytes.strip_prefix(b"old:") {
                let refused = backwards.contains(&b'!');
                let value = || Zeroizing::new(backwards.iter().rev().copied().collect());
                return (!refused).then(value).ok_or_else(|| Error::new(Code::OpenFailed, "cannot open a value"));
            }
            let bytes = decode(form, item.bytes).unwrap();
            let envelope = Envelope::parse(&bytes).unwrap();
            let openers = [Some(&self.opener), self.former.as_ref()];
            let opener = openers.into_iter().flatten().find(|opener| opener.key_id() == envelope.key_id());
            let opener = opener.ok_or_else(|| Error::new(Code::KeyNotFound, "cannot open a value"))?;
            let opened = opener.open(&envelope, &self.binding(item.place));
            opened.map(|o| o.plaintext).map_err(|_| Error::new(Code::OpenFailed, "cannot open a value"))
        };
        items.iter().map(open).collect()
    }

    async fn former_keys(&self, _: &Leaving) -> Result<Arc<HashSet<KeyId>>> {
        Ok(Arc::new(self.former.iter().map(Opener::key_id).collect()))
    }

    async fn index_many(&self, _: &TargetIndex, items: &[IndexItem<'_>]) -> Vec<Result<Vec<Vec<u8>>>> {
        let index = |item: &IndexItem<'_>| {
            let values: Vec<&str> = item.values.iter().map(|v| std::str::from_utf8(v).unwrap()).collect();
            Ok(vec![self.index.compute(None, &values).unwrap()])
        };
        items.iter().map(index).collect()
    }
}

struct Fixture {
    codec: ColumnCodec,
    target: Target,
}

impl Fixture {
    fn new(storage: Storage) -> Self {
        Self::with(storage, Lookalikes::Refuse, TestCells::new("c1"))
    }

    fn with(storage: Storage, lookalikes: Lookalikes, cells: TestCells) -> Self {
        let protected = Protected { cells: Arc::new(cells), lookalikes };
        let indexed = storage == Storage::Text;
        let index = TargetIndex {
            name: "eq".into(),
            column: "email_eq".into(),
            over: vec![0],
            unique: false,
            generation: None,
        };
        Self {
            codec: ColumnCodec::new(BTreeMap::from([("users.email".to_owned(), protected)])),
            target: Target {
                table: TableName { schema: String::new(), table: "users".into() },
                policy_table: "users".into(),
                columns: vec![TargetColumn {
                    name: "email".into(),
                    id: "c1".into(),
                    storage,
                    shadow: None,
                    member: None,
                    companions: Default::default(),
                    writes: None,
                }],
                indexes: if indexed { vec![index] } else { vec![] },
                tenant: Some("org".into()),
                row_key: vec![],
                key: vec!["id".into()],
                leaving: Leaving::default(),
                prune: None,
            },
        }
    }

    fn row(&self, tenant: i64, cell: Option<&[u8]>) -> Row {
        Row {
            version: RowVersion::Digest { rowid: 1, digest: [0; 32] },
            label: "id=1".into(),
            origins: Vec::new(),
            cells: vec![cell.map(<[u8]>::to_vec)],
            indexed: vec![None; self.target.indexes.len()],
            beside: Vec::new(),
            tenant: Some(OwnedPart::Int(tenant)),
            row_key: vec![],
        }
    }

    fn judge(&self, goal: Goal, row: &Row) -> Verdict {
        let judged =
            futures_util::FutureExt::now_or_never(self.codec.judge(goal, &self.target, std::slice::from_ref(row)));
        judged.expect("nothing to wait for").unwrap().remove(0)
    }

    fn change(&self, goal: Goal, row: &Row) -> Change {
        match self.judge(goal, row) {
            Verdict::Convert(change) => change,
            Verdict::Satisfied => panic!("nothing was to be done"),
            Verdict::Failed(errors) => panic!("{errors:?}"),
        }
    }

    /// The row as it is after a change.
    fn after(&self, goal: Goal, row: &Row) -> Row {
        let (mut row, change) = (row.clone(), self.change(goal, row));
        for (cell, new) in row.cells.iter_mut().chain(&mut row.indexed).zip(change.cells.iter().chain(&change.indexed))
        {
            if let Cell::Set(new) = new {
                cell.clone_from(new);
            }
        }
        row
    }

    fn code(&self, goal: Goal, row: &Row) -> String {
        match self.judge(goal, row) {
            Verdict::Failed(errors) => errors.into_iter().map(|error| error.code).collect::<Vec<_>>().join(" "),
            _ => panic!("the row was not refused"),
        }
    }
}

fn satisfied(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Satisfied)
}

#[test]
fn a_value_is_sealed_once_and_comes_back_byte_for_byte() {
    let samples: &[(Storage, &[u8])] = &[
        (Storage::Text, "".as_bytes()),
        (Storage::Text, "Zoë O'Hara; 北京 \u{1F511}".as_bytes()),
        (Storage::Bytes, b""),
        (Storage::Bytes, &[0, 255, 0, 13]),
        (Storage::Json, br#"{ "b":1,  "a": [1.0, "x\u00e9"], "b": null }"#),
        (Storage::Json, br#""only a string""#),
        (Storage::Json, b"null"),
    ];
    for (storage, value) in samples {
        let fixture = Fixture::new(*storage);
        let plain = fixture.row(1, Some(value));
        let mut sealed = fixture.after(Goal::Protect, &plain);
        assert_ne!(sealed.cells, plain.cells);
        assert!(satisfied(&fixture.judge(Goal::Protect, &sealed)), "never sealed twice");
        assert!(satisfied(&fixture.judge(Goal::Verify, &sealed)));
        sealed.indexed.fill(None);
        assert_eq!(fixture.after(Goal::Unprotect, &sealed).cells, plain.cells);
    }
}

#[test]
fn a_value_of_eight_megabytes_is_sealed_and_comes_back() {
    let value: Vec<u8> = (0..8 << 20).map(|n: u32| b'a' + u8::try_from(n % 26).unwrap()).collect();
    let fixture = Fixture::new(Storage::Bytes);
    let sealed = fixture.after(Goal::Protect, &fixture.row(1, Some(&value)));
    assert_eq!(fixture.after(Goal::Unprotect, &sealed).cells[0].as_deref(), Some(&value[..]));
}

#[test]
fn null_stays_null_and_its_index_is_emptied() {
    let fixture = Fixture::new(Storage::Text);
    let mut row = fixture.row(1, None);
    assert!(satisfied(&fixture.judge(Goal::Protect, &row)));
    assert!(satisfied(&fixture.judge(Goal::Verify, &row)));
    row.indexed = vec![Some(vec![1, 2, 3])];
    assert!(fixture.change(Goal::Protect, &row).indexed == [Cell::Set(None)]);
}

#[test]
fn text_that_begins_like_an_envelope_is_refused_or_sealed_as_the_policy_says() {
    for typed in ["enf1:", "enf1:hello", "enf1:AAAA"] {
        let refusing = Fixture::new(Storage::Text);
        let row = refusing.row(1, Some(typed.as_bytes()));
        assert_eq!(refusing.code(Goal::Protect, &row), "envelope-malformed");
        let sealing = Fixture::with(Storage::Text, Lookalikes::Plaintext, TestCells::new("c1"));
        let sealed = sealing.after(Goal::Protect, &row);
        assert!(satisfied(&sealing.judge(Goal::Protect, &sealed)));
        assert_eq!(sealing.after(Goal::Unprotect, &sealed).cells, row.cells);
    }
}

#[test]
fn an_envelope_under_an_unknown_key_is_a_row_error_whatever_the_policy_says_of_lookalikes() {
    let foreign = Fixture::new(Storage::Text);
    let pasted = foreign.after(Goal::Protect, &foreign.row(1, Some(b"x"))).cells[0].clone().unwrap();
    for lookalikes in [Lookalikes::Refuse, Lookalikes::Plaintext] {
        let fixture = Fixture::with(Storage::Text, lookalikes, TestCells::new("c1"));
        for goal in [Goal::Protect, Goal::Unprotect, Goal::Verify] {
            assert_eq!(fixture.code(goal, &fixture.row(1, Some(&pasted))), "key-not-found");
        }
    }
}

#[test]
fn a_value_that_is_itself_an_envelope_is_not_taken_out_of_its_own() {
    // A writer sealed what somebody had pasted.
    let cells = TestCells::new("c1");
    let place = Place { tenant: Some(Part::Int(1)), row: &[] };
    let seal = |bytes: &[u8]| {
        let item = [CellItem { place, bytes, beside: &[] }];
        let sealing = cells.seal_many(Form::Text, PayloadType::Text, &item);
        futures_util::FutureExt::now_or_never(sealing).unwrap().remove(0).unwrap()
    };
    let nested = seal(&seal(b"x"));
    let fixture = Fixture::with(Storage::Text, Lookalikes::Plaintext, cells);
    let row = fixture.row(1, Some(&nested));
    assert!(!matches!(fixture.judge(Goal::Protect, &row), Verdict::Failed(_)));
    // Stored as plaintext it would be an envelope to everybody: that is for a person to decide.
    assert_eq!(fixture.code(Goal::Unprotect, &row), "value-invalid");
}

#[test]
fn an_envelope_of_another_tenant_is_a_row_error_whatever_the_policy_says_of_lookalikes() {
    for lookalikes in [Lookalikes::Refuse, Lookalikes::Plaintext] {
        let fixture = Fixture::with(Storage::Text, lookalikes, TestCells::new("c1"));
        let mut moved = fixture.after(Goal::Protect, &fixture.row(1, Some(b"secret")));
        moved.tenant = Some(OwnedPart::Int(2));
        for goal in [Goal::Protect, Goal::Unprotect, Goal::Verify, Goal::Index] {
            assert_eq!(fixture.code(goal, &moved), "open-failed");
        }
    }
}

#[test]
fn a_newer_envelope_is_never_taken_for_text() {
    let fixture = Fixture::with(Storage::Bytes, Lookalikes::Plaintext, TestCells::new("c1"));
    let mut bytes = fixture.after(Goal::Protect, &fixture.row(1, Some(b"x"))).cells[0].clone().unwrap();
    bytes[3] = 9;
    assert_eq!(fixture.code(Goal::Protect, &fixture.row(1, Some(&bytes))), "envelope-newer");
}

#[test]
fn what_was_sealed_wrongly_is_not_written() {
    let mistaken = TestCells { mistaken: true, ..TestCells::new("c1") };
    let fixture = Fixture::with(Storage::Text, Lookalikes::Refuse, mistaken);
    assert_eq!(fixture.code(Goal::Protect, &fixture.row(1, Some(b"x"))), "open-failed");
}

#[test]
fn verify_reports_plaintext_and_an_index_that_is_not_the_values() {
    let fixture = Fixture::new(Storage::Text);
    let plain = fixture.row(1, Some(b"secret"));
    assert_eq!(fixture.code(Goal::Verify, &plain), "plaintext-found");
    let mut sealed = fixture.after(Goal::Protect, &plain);
    sealed.indexed = vec![Some(vec![0, 1, 9, 9])];
    assert_eq!(fixture.code(Goal::Verify, &sealed), "value-invalid");
    // Protect sets it right and leaves the envelope as it is.
    let change = fixture.change(Goal::Protect, &sealed);
    assert!(change.cells == [Cell::Keep]);
}

#[test]
fn index_fills_beside_plaintext_and_touches_no_value() {
    let fixture = Fixture::new(Storage::Text);
    let change = fixture.change(Goal::Index, &fixture.row(1, Some(b"secret")));
    assert!(change.cells == [Cell::Keep]);
    let sealed = fixture.after(Goal::Protect, &fixture.row(1, Some(b"secret")));
    assert!(change.indexed == [Cell::Set(sealed.indexed[0].clone())], "the same before and after sealing");
}

#[test]
fn a_row_error_names_row_column_and_reason_and_no_value() {
    let fixture = Fixture::new(Storage::Text);
    let Verdict::Failed(errors) = fixture.judge(Goal::Protect, &fixture.row(1, Some(b"enf1:hunter2"))) else {
        panic!("refused");
    };
    let [error] = &errors[..] else { panic!("{errors:?}") };
    assert_eq!((error.row.as_str(), error.column.as_str()), ("id=1", "email"));
    assert!(!format!("{error:?}").contains("hunter2"));
}

proptest! {
    #[test]
    fn whatever_a_column_holds_is_protected_once_and_comes_back(
        value in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let fixture = Fixture::with(Storage::Bytes, Lookalikes::Plaintext, TestCells::new("c1"));
        let row = fixture.row(3, Some(&value));
        let sealed = fixture.after(Goal::Protect, &row);
        prop_assert!(satisfied(&fixture.judge(Goal::Protect, &sealed)));
        prop_assert!(fixture.after(Goal::Unprotect, &sealed).cells == row.cells);
    }
}
