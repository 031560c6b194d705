//! An application on SQLite that knows nothing of envelopes and writes as fast as it can.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use enfold_testkit::people::{Application, COLUMNS, Journal, Person, Write};
use rusqlite::{Connection, ToSql};

/// Fills in so many rows, then changes its own rows until it is stopped; what it means the table to hold, and how much
/// it wrote.
pub(crate) fn run(path: &Path, number: u32, seed: u64, rows: usize, stop: &AtomicBool) -> (Journal, u64) {
    let db = Connection::open(path).expect("opens");
    db.busy_timeout(Duration::from_secs(60)).expect("waits");
    db.execute_batch("PRAGMA synchronous = OFF; BEGIN IMMEDIATE").expect("begins");
    let mut application = Application::new(number, seed, rows);
    for _ in 0..rows {
        let write = application.insert();
        execute(&db, &write);
        application.committed(write);
    }
    db.execute_batch("COMMIT").expect("commits");
    while !stop.load(Ordering::Relaxed) {
        let write = application.next();
        execute(&db, &write);
        application.committed(write);
    }
    (application.journal().clone(), application.writes())
}

fn execute(db: &Connection, write: &Write) {
    let logical = write.logical();
    let (row, columns) = match write {
        Write::Insert(row) => (row, vec![0, 1, 2, 3]),
        Write::Update { row, columns } => (row, columns.clone()),
        Write::Delete { .. } => return one(db, "DELETE FROM people WHERE logical = ?1", &[&logical]),
    };
    let texts: Vec<Option<&str>> = (0..3).map(|column| text(row, column)).collect();
    let mut names = vec!["logical", "id", "org", "region", "rev"];
    let mut values: Vec<&dyn ToSql> = vec![&logical, &row.id, &row.org, &row.region, &row.rev];
    for column in columns {
        names.push(COLUMNS[column]);
        values.push(if column < texts.len() { &texts[column] } else { &row.values[column] });
    }
    let places: Vec<String> = (1..=names.len()).map(|n| format!("?{n}")).collect();
    let sql = match write {
        Write::Insert(_) => format!("INSERT INTO people ({}) VALUES ({})", names.join(", "), places.join(", ")),
        _ => {
            let set: Vec<String> = names.iter().zip(&places).map(|(name, place)| format!("{name} = {place}")).collect();
            format!("UPDATE people SET {} WHERE logical = ?1", set.join(", "))
        }
    };
    one(db, &sql, &values);
}

fn one(db: &Connection, sql: &str, values: &[&dyn ToSql]) {
    let changed =
        db.prepare_cached(sql).and_then(|mut s| s.execute(values)).expect("the application's write goes through");
    assert_eq!(changed, 1, "a writer changes its own rows only");
}

fn text(row: &Person, column: usize) -> Option<&str> {
    row.values[column].as_deref().map(|value| std::str::from_utf8(value).expect("a text"))
}
