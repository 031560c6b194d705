//! The demo's database: a shop with customers, their addresses, accounts, payments, orders and tickets, and tables that
//! hold nothing about anybody. Made from a seed: the same seed gives the same rows.
//!
//! Nobody in it exists. E-mail addresses are under the reserved domains (RFC 2606), telephone numbers in the ranges
//! that Ofcom, NANPA, Arcep and the Bundesnetzagentur keep for fiction, IP addresses in the documentation ranges (RFC
//! 5737, RFC 3849), card numbers under test prefixes, and IBANs at a bank that is called TEST.

mod people;
mod tables;
mod words;

use std::path::Path;

use enfold::{Code, Error, Result};
use rusqlite::{Connection, ErrorCode};

use self::people::Random;

/// Makes the shop at `path`, which must not exist yet, with `customers` customers. One in a hundred more was there and
/// has left: their rows are deleted, and their bytes stay in the file, as they do in a real one.
///
/// # Errors
/// `FileFailed` when the file is there already, `DiskFull`, `DatabaseFailed`.
pub(crate) fn build(path: &Path, seed: u64, customers: u32) -> Result<()> {
    if path.exists() {
        return Err(Error::new(Code::FileFailed, format!("cannot make the demo shop at `{}`", path.display()))
            .cause("there is a file already")
            .hint(format!("remove it first: rm '{}'", path.display())));
    }
    fill(path, seed, customers).map_err(|error| {
        let code = match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Code::DiskFull,
            _ => Code::DatabaseFailed,
        };
        let result = error.sqlite_error().map_or(0, |e| e.extended_code);
        Error::new(code, format!("cannot make the demo shop at `{}`", path.display()))
            .cause(format!("SQLite result {result}"))
            .hint("make sure that its folder exists, can be written, and has room")
    })
}

fn fill(path: &Path, seed: u64, customers: u32) -> rusqlite::Result<()> {
    let mut db = Connection::open(path)?;
    // As most applications have it: readers do not wait for writers, and what is deleted is not overwritten.
    db.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF; PRAGMA secure_delete = OFF;")?;
    db.execute_batch(tables::SCHEMA)?;
    let mut random = Random::new(seed);
    let transaction = db.transaction()?;
    tables::fill_catalogue(&transaction)?;
    let left = customers / 100;
    for id in 1..=customers + left {
        tables::add_customer(&transaction, &mut random, id)?;
    }
    transaction.commit()?;
    for table in ["tickets", "orders", "payments", "accounts", "addresses"] {
        db.execute(&format!("DELETE FROM {table} WHERE customer_id > ?1"), [customers])?;
    }
    db.execute("DELETE FROM customers WHERE id > ?1", [customers])?;
    db.execute_batch("PRAGMA optimize; ANALYZE;")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn shop(seed: u64, customers: u32) -> (tempfile::TempDir, Connection) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.db");
        build(&path, seed, customers).unwrap();
        (folder, Connection::open(path).unwrap())
    }

    fn texts(db: &Connection, sql: &str) -> Vec<String> {
        db.prepare(sql).unwrap().query_map([], |row| row.get(0)).unwrap().collect::<rusqlite::Result<_>>().unwrap()
    }

    fn number(db: &Connection, sql: &str) -> i64 {
        db.query_row(sql, [], |row| row.get(0)).unwrap()
    }

    /// Every row of every table, as text.
    fn contents(db: &Connection) -> Vec<String> {
        let tables =
            texts(db, "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%' ORDER BY 1");
        let mut all = Vec::new();
        for table in tables {
            let columns = texts(db, &format!("SELECT name FROM pragma_table_info('{table}')"));
            let list = columns.iter().map(|c| format!("quote({c})")).collect::<Vec<_>>().join("||','||");
            all.extend(texts(db, &format!("SELECT {list} FROM {table} ORDER BY rowid")));
        }
        all
    }

    #[test]
    fn the_same_seed_gives_the_same_shop() {
        let (_a, one) = shop(7, 50);
        let (_b, two) = shop(7, 50);
        let (_c, other) = shop(8, 50);
        assert_eq!(contents(&one), contents(&two));
        assert_ne!(contents(&one), contents(&other));
    }

    #[test]
    fn every_address_is_under_a_reserved_domain_and_unique() {
        let (_folder, db) = shop(1, 400);
        let emails = texts(&db, "SELECT email FROM customers");
        assert_eq!(emails.iter().collect::<BTreeSet<_>>().len(), 400);
        for row in contents(&db) {
            for (at, _) in row.match_indices('@') {
                let domain = &row[at + 1..];
                assert!(["example.com", "example.org", "example.net"].iter().any(|d| domain.starts_with(d)), "{row}");
            }
        }
    }

    #[test]
    fn telephones_are_in_the_ranges_kept_for_fiction() {
        let (_folder, db) = shop(1, 400);
        let phones = texts(&db, "SELECT phone FROM customers WHERE phone IS NOT NULL");
        assert!(phones.len() > 300);
        for phone in phones {
            let digits: String = phone.chars().filter(char::is_ascii_digit).collect();
            let reserved = ["44207946", "447700900", "336399800", "493023125"].iter().any(|p| digits.starts_with(p))
                || (digits.starts_with('1') && &digits[4..9] == "55501");
            assert!(reserved, "{phone}");
        }
    }

    #[test]
    fn cards_and_accounts_pass_their_checksums() {
        let (_folder, db) = shop(1, 300);
        for card in texts(&db, "SELECT card_number FROM payments WHERE card_number IS NOT NULL") {
            let sum: u32 = card
                .chars()
                .rev()
                .enumerate()
                .map(|(i, c)| {
                    let digit = c.to_digit(10).unwrap() << (i % 2);
                    digit / 10 + digit % 10
                })
                .sum();
            assert_eq!(sum % 10, 0, "{card}");
        }
        for iban in texts(&db, "SELECT iban FROM payments WHERE iban IS NOT NULL") {
            let (head, body) = iban.split_at(4);
            let rest = format!("{body}{head}").chars().fold(0, |rest, c| {
                let digit = c.to_digit(36).unwrap();
                (rest * if digit > 9 { 100 } else { 10 } + digit) % 97
            });
            assert_eq!(rest, 1, "{iban}");
        }
    }

    #[test]
    fn orders_carry_documents_with_people_inside() {
        let (_folder, db) = shop(1, 200);
        assert_eq!(number(&db, "SELECT count(*) FROM orders WHERE NOT json_valid(details)"), 0);
        assert!(
            number(
                &db,
                "SELECT count(*) FROM orders WHERE json_extract(details, '$.delivery.contact.email') LIKE '%@%'"
            ) > 100
        );
    }

    #[test]
    fn those_who_left_are_gone_from_the_tables_and_not_from_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.db");
        build(&path, 3, 1000).unwrap();
        let db = Connection::open(&path).unwrap();
        assert_eq!(number(&db, "SELECT count(*) FROM customers"), 1000);
        assert_eq!(number(&db, "SELECT count(*) FROM orders WHERE customer_id > 1000"), 0);
        assert_eq!(texts(&db, "PRAGMA integrity_check"), ["ok"]);
        drop(db);
        let bytes = std::fs::read(&path).unwrap();
        let raw = String::from_utf8_lossy(&bytes);
        assert!((1001..=1010).any(|id| raw.contains(&format!("{id}@example."))));
    }

    #[test]
    fn a_file_that_is_there_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.db");
        std::fs::write(&path, "mine").unwrap();
        assert_eq!(build(&path, 1, 10).unwrap_err().code(), Code::FileFailed);
        assert_eq!(std::fs::read(&path).unwrap(), b"mine");
    }
}
