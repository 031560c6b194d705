//! The database side, on real files: what a plan is told, what steps do, what stays behind.

mod inspect;
mod residue;
mod steps;
mod survey;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use enfold::policy::{ColumnPolicy, IndexPolicy, Lookalikes, Mode, Salt, TablePolicy};
use rusqlite::Connection;

use super::{Sqlite, SqliteOptions};
use crate::database::{Counts, Database, IndexKind, TableFacts};
use crate::model::{Storage, TableName, Target, TargetColumn};

struct Fixture {
    _folder: tempfile::TempDir,
    path: PathBuf,
    /// The application's own connection.
    app: Connection,
    db: Sqlite,
}

fn fixture(schema: &str) -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let app = Connection::open(&path).unwrap();
    app.execute_batch(schema).unwrap();
    let db =
        Sqlite::open(&path, &SqliteOptions { lock_timeout: Duration::from_millis(200), ..SqliteOptions::default() });
    Fixture { _folder: folder, path, app, db: db.unwrap() }
}

impl Fixture {
    async fn facts(&self, policy: &TablePolicy) -> TableFacts {
        self.db.inspect(policy, Counts::Taken).await.unwrap()
    }

    fn one<T: rusqlite::types::FromSql>(&self, sql: &str) -> T {
        self.app.query_row(sql, [], |row| row.get(0)).unwrap()
    }
}

fn table() -> TableName {
    TableName { schema: String::new(), table: "t".to_owned() }
}

/// A target over text columns of `t`.
fn target(columns: &[&str]) -> Target {
    let column = |c: &&str| TargetColumn {
        name: (*c).to_owned(),
        id: (*c).to_owned(),
        storage: Storage::Text,
        shadow: None,
        member: None,
        companions: Default::default(),
        writes: None,
    };
    Target {
        table: table(),
        policy_table: "t".to_owned(),
        columns: columns.iter().map(column).collect(),
        indexes: Vec::new(),
        tenant: None,
        row_key: Vec::new(),
        key: Vec::new(),
        leaving: enfold::Leaving::default(),
        prune: None,
    }
}

/// A policy over columns of `t`.
fn policy(columns: &[&str]) -> TablePolicy {
    let column = |c: &&str| {
        let policy = ColumnPolicy {
            id: (*c).to_owned(),
            class: None,
            ring: "main".to_owned(),
            mode: Mode::Kms,
            min_mode: Mode::Legacy,
            bind_row: false,
            padding: None,
            salt: Salt::Shared,
            lookalikes: Lookalikes::Refuse,
            reads: vec![],
            same_as: None,
            shadow: None,
            member: None,
            companions: Default::default(),
            writes: None,
            indexes: BTreeMap::new(),
        };
        ((*c).to_owned(), policy)
    };
    TablePolicy {
        name: "t".to_owned(),
        tenant: None,
        row_key: Vec::new(),
        triggers: BTreeMap::new(),
        columns: columns.iter().map(column).collect(),
        indexes: BTreeMap::new(),
    }
}

fn blind_index(over: &str, unique: bool) -> IndexPolicy {
    IndexPolicy {
        column: format!("{over}_eq"),
        over: vec![over.to_owned()],
        normalise: Vec::new(),
        bits: 256,
        unique,
        cross_tenant: true,
    }
}

/// Something of an envelope's form, in text, that nothing else looks like; `n` makes it one of its own.
fn envelope(n: u64) -> String {
    let mut bytes = vec![0xf9, 0xe9, 0xdf, 1, 0x11];
    bytes.extend([7; 16]);
    bytes.extend([2, 0]);
    let mut state = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    while bytes.len() < 120 {
        state = state.wrapping_mul(0xd134_2543_de82_ef95).wrapping_add(1);
        bytes.push(state.to_be_bytes()[0]);
    }
    enfold_core::text::encode(&bytes)
}
