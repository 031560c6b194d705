//! What the writers last committed, and the comparison with what the table holds in the end.

use std::collections::BTreeMap;

use enfold_core::stored::{Stored, detect};
use enfold_core::{Binding, Envelope, Form};
use enfold_jobs::model::{Storage, Target};
use tokio_postgres::Client;

use crate::codec::OneKey;

/// A row as its writer means it: exact bytes of the plaintext of each column, in the target's order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Meant {
    pub(crate) id: i64,
    pub(crate) region: i32,
    pub(crate) rev: i64,
    pub(crate) values: [Option<Vec<u8>>; 4],
}

/// By logical number; a deleted row is not in it.
#[derive(Default)]
pub(crate) struct Journal(pub(crate) BTreeMap<i64, Meant>);

impl Journal {
    pub(crate) fn join(&mut self, other: Journal) {
        self.0.extend(other.0);
    }

    /// Compares every row; the number of rows.
    pub(crate) async fn check(mut self, client: &Client, codec: &OneKey, target: &Target) -> usize {
        let sql = "SELECT logical, id, region, rev, convert_to(email::text, 'UTF8'), convert_to(note, 'UTF8'), \
                          convert_to(body::text, 'UTF8'), secret FROM people";
        let rows = client.query(sql, &[]).await.expect("reads the table");
        for row in &rows {
            let logical: i64 = row.get(0);
            let meant =
                self.0.remove(&logical).unwrap_or_else(|| panic!("row {logical} was deleted or is there twice"));
            let stored: [Option<Vec<u8>>; 4] = [row.get(4), row.get(5), row.get(6), row.get(7)];
            let mut values = [const { None }; 4];
            for (at, stored) in stored.into_iter().enumerate() {
                let column = &target.columns[at];
                values[at] = stored.map(|stored| open(codec, &column.id, form(column.storage), &stored, logical));
            }
            let found = Meant { id: row.get(1), region: row.get(2), rev: row.get(3), values };
            assert_eq!(found, meant, "row {logical} is not what its last writer wrote");
        }
        assert!(self.0.is_empty(), "{} rows were lost", self.0.len());
        rows.len()
    }
}

fn form(storage: Storage) -> Form {
    match storage {
        Storage::Text => Form::Text,
        Storage::Bytes => Form::Bytes,
        Storage::Json => Form::Json,
    }
}

fn open(codec: &OneKey, column: &str, form: Form, stored: &[u8], logical: i64) -> Vec<u8> {
    let Stored::Envelope(bytes) = detect(form, stored) else { panic!("`{column}` of row {logical} is plain") };
    let envelope = Envelope::parse(&bytes).expect("well formed");
    let opened = codec.opener.open(&envelope, &Binding::new("ring", column)).expect("opens");
    assert!(matches!(detect(form, &opened.plaintext), Stored::Plain), "`{column}` of row {logical} was sealed twice");
    opened.plaintext.to_vec()
}
